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

use tonic::metadata::MetadataMap;

use crate::decide::Undecidable;
use crate::domain::question::Credential;

impl From<Undecidable> for tonic::Status {
    fn from(Undecidable { violations }: Undecidable) -> Self {
        status::malformed(&violations)
    }
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
