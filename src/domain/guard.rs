//! What a rule demands of the call itself, whoever makes it: where it comes from, whose page made it, how large it is.

use super::path::Method;
use super::question::{Header, Headers};

/// Methods whose calls have no body unless they say so (RFC 9110 §9.3).
const BODILESS_METHODS: [&str; 6] = ["GET", "HEAD", "OPTIONS", "DELETE", "TRACE", "CONNECT"];

/// The size of a call's body in bytes, as its method and headers announce it; none: nobody can say.
///
/// One that is sent in chunks (`transfer-encoding`) has no size beforehand, whatever else it says (RFC 9112 §6.3). Without
/// that and without a `content-length`, calls with a method that goes without a body have none; of others it is not known:
/// HTTP/2 needs no `content-length`, and whoever asks need not hand on all headers.
pub fn announced_body(method: Method<'_>, headers: &Headers<'_>) -> Option<u64> {
    match (headers.get("transfer-encoding"), headers.get("content-length")) {
        (Header::Absent, Header::Absent) => BODILESS_METHODS.contains(&method.as_str()).then_some(0),
        // `parse` alone would take a sign.
        (Header::Absent, Header::Text(digits)) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().ok()
        }
        _ => None,
    }
}
