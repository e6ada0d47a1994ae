//! `tollgate.v1`: the native gRPC API.

mod answer;
mod asked;
mod decision;
mod encode;
pub(super) mod question;
mod quota;
pub(super) mod reservation;
mod revocation;
pub mod status;
mod token;

pub(super) use answer::response;
pub use decision::Decisions;
pub(super) use question::question;
pub(super) use quota::QUOTA_SCOPE;
pub use quota::QuotaApi;
pub use token::TokenApi;

use tonic::Extensions;

use crate::api::Peer;
use crate::decide::Undecidable;
use crate::domain::certificate::Certificate;

impl From<Undecidable> for tonic::Status {
    fn from(Undecidable { violations }: Undecidable) -> Self {
        status::malformed(&violations)
    }
}

/// The certificate that the other end of a call's connection showed.
pub(super) fn shown_by(extensions: &Extensions) -> Option<&Certificate<'static>> {
    extensions.get::<Peer>().and_then(Peer::certificate)
}
