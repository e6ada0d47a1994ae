//! `tollgate.v1`: the native gRPC API.

mod answer;
mod decision;
mod question;
mod quota;
mod reservation;
pub mod status;
mod token;

pub use decision::Decisions;
pub use quota::QuotaApi;
pub use token::TokenApi;

use tonic::Extensions;
use tonic::metadata::MetadataMap;

use crate::api::Peer;
use crate::decide::Undecidable;
use crate::domain::certificate::Certificate;
use crate::domain::question::Credential;

impl From<Undecidable> for tonic::Status {
    fn from(Undecidable { violations }: Undecidable) -> Self {
        status::malformed(&violations)
    }
}

/// The certificate that the other end of a call's connection showed.
fn shown_by(extensions: &Extensions) -> Option<&Certificate<'static>> {
    extensions.get::<Peer>().and_then(Peer::certificate)
}

/// What the caller of an administrative method shows. Two `authorization` values are none that can be read.
fn operator(metadata: &MetadataMap) -> Credential<'_> {
    let mut values = metadata.get_all("authorization").iter();
    match (values.next(), values.next()) {
        (None, _) => Credential::None,
        (Some(value), None) => value.to_str().map_or(Credential::Unreadable, Credential::from_authorization),
        (Some(_), Some(_)) => Credential::Unreadable,
    }
}
