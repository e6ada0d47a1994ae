//! Parts of calls and answers that several tests make and look at.

use std::time::Duration;

use tollgate::proto as pb;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

/// Units of the counter that `key` selects.
pub(crate) fn charge(limit: &str, key: &[(&str, &str)], units: Option<u64>) -> pb::QuotaCharge {
    let key = key.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    pb::QuotaCharge { counter: Some(pb::Counter { limit: limit.to_owned(), key }), units }
}

/// The same call, from the caller who holds `token`.
pub(crate) fn as_operator<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value = MetadataValue::try_from(format!("Bearer {token}")).expect("tokens are ASCII");
    request.metadata_mut().insert("authorization", value);
    request
}

/// The fields that are said to be wrong.
pub(crate) fn fields(status: &Status) -> Vec<String> {
    let details = status.get_details_bad_request().unwrap_or_else(|| panic!("it has details: {status:?}"));
    details.field_violations.into_iter().map(|violation| violation.field).collect()
}

/// Units that are left of each.
pub(crate) fn left(quotas: &[pb::QuotaStatus]) -> Vec<u64> {
    quotas.iter().map(|quota| quota.remaining).collect()
}

/// A length of time that must be there.
pub(crate) fn length(duration: Option<&prost_types::Duration>) -> Duration {
    duration.and_then(|duration| Duration::try_from(*duration).ok()).expect("it is there")
}
