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

use crate::decide::Undecidable;

impl From<Undecidable> for tonic::Status {
    fn from(Undecidable { violations }: Undecidable) -> Self {
        status::malformed(&violations)
    }
}
