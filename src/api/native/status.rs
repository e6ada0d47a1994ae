//! gRPC statuses for calls that could not be decided. The texts name the field and the remedy, never a value.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use crate::decide::Violation;
use crate::domain::decision::{Class, Reason};

/// What overloaded and stopping replicas ask clients to wait.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// Bytes of violations that an answer names. A status travels in headers, as a sentence and once more in base64, and
/// Java's clients end a connection, with all the calls on it, over more than 8 KiB of them.
const VIOLATION_BYTES_MAX: usize = 2 * 1024;

/// The message is not well formed (`google.rpc.BadRequest`).
pub fn malformed(violations: &[Violation]) -> Status {
    let (sentence, named) = told(violations);
    let named: Vec<_> = named.iter().map(|named| FieldViolation::new(&named.field, &named.description)).collect();
    Status::with_error_details(Code::InvalidArgument, sentence, ErrorDetails::with_bad_request(named))
}

/// A sentence about what is wrong, and those violations that it names: the first ones.
pub(in crate::api) fn told(violations: &[Violation]) -> (String, &[Violation]) {
    let mut sentence = String::new();
    let mut named = 0;
    for Violation { field, description } in violations {
        if named > 0 && sentence.len() + field.len() + description.len() > VIOLATION_BYTES_MAX {
            break;
        }
        let separator = if named > 0 { "; " } else { "" };
        let space = if field.is_empty() { "" } else { " " };
        sentence = format!("{sentence}{separator}{field}{space}{description}");
        named += 1;
    }
    if named < violations.len() {
        sentence = format!("{sentence}; and {} more", violations.len() - named);
    }
    (sentence, &violations[..named])
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
            "the authorization metadata must hold a bearer token with the scope {scope}, or the connection a certificate \
             that `operators` names ({})",
            reason.name()
        )),
        Class::PermissionDenied => Status::permission_denied(format!(
            "the caller lacks the scope {scope}, or its token's issuer may not grant it (issuers[].operators)"
        )),
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
