//! gRPC statuses for calls that could not be decided. The texts name the field and the remedy, never a value.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use crate::decide::Violation;
use crate::domain::decision::{Class, Reason};

/// What overloaded and stopping replicas ask clients to wait.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// The message is not well formed (`google.rpc.BadRequest`).
pub fn malformed(violations: Vec<Violation>) -> Status {
    let sentence = violations
        .iter()
        .map(|Violation { field, description }| format!("{field} {description}").trim_start().to_owned())
        .collect::<Vec<_>>()
        .join("; ");
    let violations: Vec<_> =
        violations.into_iter().map(|violation| FieldViolation::new(violation.field, violation.description)).collect();
    Status::with_error_details(Code::InvalidArgument, sentence, ErrorDetails::with_bad_request(violations))
}

/// Too many calls are in flight (`google.rpc.RetryInfo`).
pub fn overloaded() -> Status {
    Status::with_error_details(
        Code::ResourceExhausted,
        "too many calls are in flight; try again shortly, or raise bounds.calls_in_flight",
        ErrorDetails::with_retry_info(Some(RETRY_DELAY)),
    )
}

/// The replica is about to stop.
pub fn stopping() -> Status {
    Status::unavailable("this replica is stopping; connect again to reach another one")
}

/// The caller of an administrative method may not. `scope` is the one that it needs.
pub fn refused(reason: Reason, scope: &str) -> Status {
    match reason.class() {
        Class::Unauthenticated => Status::unauthenticated(format!(
            "the authorization metadata must hold a bearer token with the scope {scope} ({})",
            reason.name()
        )),
        Class::PermissionDenied => Status::permission_denied(format!("the token lacks the scope {scope}")),
        Class::Allow | Class::QuotaExceeded | Class::DependencyUnavailable => away(reason.name()),
    }
}

/// A dependency could not be asked.
pub fn away(what: impl std::fmt::Display) -> Status {
    Status::with_error_details(
        Code::Unavailable,
        format!("could not be found out: {what}"),
        ErrorDetails::with_retry_info(Some(RETRY_DELAY)),
    )
}
