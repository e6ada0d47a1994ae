//! Why a request is not answered as it was meant, and how that is said: OAuth's words (RFC 6749 §5.2, RFC 6750 §3.1).

use axum::Json;
use axum::http::header::{ALLOW, CACHE_CONTROL, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde_json::json;

use crate::api::asker;
use crate::decide::Unpermitted;
use crate::decide::ports::Unheard;
use crate::domain::decision::{Class, Reason};
use crate::domain::time::Micros;

/// What overloaded replicas, and those that could not find something out, ask clients to wait.
pub(super) const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// Both ways to say who asks.
const CHALLENGES: [&str; 2] = [r#"Bearer realm="tollgate""#, r#"Basic realm="tollgate", charset="UTF-8""#];

/// Why a request is refused.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Nothing is served under this path.
    NoSuchPage,
    /// The path is served for another method.
    Method(Method),
    /// The body is not what it must be, or does not say what it must.
    Malformed(&'static str),
    /// The body is of another kind than this.
    ContentType(&'static str),
    /// The body is larger than is read.
    TooLarge,
    /// The body did not come in time.
    TooSlow,
    /// Who asks may not, or did not say who it is. With the scope that it needs.
    Unpermitted(Unpermitted, &'static str),
    /// Something could not be found out.
    Away(Reason),
    /// Who asks has asked for too much; after so long it may again.
    TooMany(Micros),
    /// What an identity provider is said to tell was not done.
    Unheard(Unheard),
    /// Too many calls are in flight.
    Overloaded,
}

impl Refusal {
    /// Who sent these headers may not, for want of `scope` or because it cannot be read who it is.
    pub(super) fn unpermitted(why: Unpermitted, scope: &'static str, headers: &HeaderMap) -> Self {
        match why {
            Unpermitted::Operator(Reason::MalformedToken) if asker::is_unreadable(headers) => {
                Self::Malformed("there must be one authorization header: Basic, or Bearer and one token")
            }
            why => Self::Unpermitted(why, scope),
        }
    }

    /// As it is told.
    pub(super) fn answer(self) -> Response {
        let (_, error, _) = self.words();
        self.answer_as(error)
    }

    /// The same, with another word for the error.
    pub(super) fn answer_as(self, error: &str) -> Response {
        let (status, _, description) = self.words();
        let body = json!({ "error": error, "error_description": description });
        let mut response = (status, [(CACHE_CONTROL, "no-store")], Json(body)).into_response();
        let headers = response.headers_mut();
        match self {
            Self::Method(_) => drop(headers.insert(ALLOW, HeaderValue::from_static("POST"))),
            Self::TooMany(wait) => drop(headers.insert(RETRY_AFTER, wait.as_secs_ceil().into())),
            Self::Unpermitted(unpermitted, scope) => {
                for challenge in challenges(unpermitted, scope) {
                    headers.append(WWW_AUTHENTICATE, challenge);
                }
            }
            Self::NoSuchPage
            | Self::Malformed(_)
            | Self::ContentType(_)
            | Self::TooLarge
            | Self::TooSlow
            | Self::Away(_)
            | Self::Unheard(_)
            | Self::Overloaded => {}
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, RETRY_SECONDS);
        }
        response
    }

    /// Status, error and description.
    pub(super) fn words(&self) -> (StatusCode, &'static str, String) {
        let (status, error, description) = match self {
            Self::NoSuchPage => (StatusCode::NOT_FOUND, "not_found", "nothing is served under this path"),
            Self::Method(method) => {
                let description = format!("{} is not served here; use POST", method.as_str().escape_default());
                return (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", description);
            }
            Self::Malformed(what) => (StatusCode::BAD_REQUEST, "invalid_request", *what),
            Self::ContentType(media_type) => {
                let description = format!("the body must be of the content-type {media_type}");
                return (StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request", description);
            }
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "invalid_request", "the body is larger than 64 KiB"),
            Self::TooSlow => (StatusCode::REQUEST_TIMEOUT, "invalid_request", "the body did not come in time"),
            Self::Unpermitted(unpermitted, scope) => return not_permitted(*unpermitted, scope),
            Self::Away(reason) => return away(*reason),
            Self::TooMany(_) => (
                StatusCode::TOO_MANY_REQUESTS,
                "temporarily_unavailable",
                "this caller asks for more than 1,000 a second; try again later",
            ),
            Self::Unheard(Unheard::Refused(flaw)) => return (StatusCode::BAD_REQUEST, flaw.code(), flaw.to_string()),
            Self::Unheard(Unheard::Away(_)) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "temporarily_unavailable",
                "it could not be verified or written down; tell it again",
            ),
            Self::Overloaded => (
                StatusCode::SERVICE_UNAVAILABLE,
                "temporarily_unavailable",
                "too many calls are in flight; try again shortly, or raise bounds.calls_in_flight",
            ),
        };
        (status, error, description.to_owned())
    }
}

fn away(reason: Reason) -> (StatusCode, &'static str, String) {
    let description = format!("could not be found out: {}", reason.name());
    (StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", description)
}

fn not_permitted(unpermitted: Unpermitted, scope: &str) -> (StatusCode, &'static str, String) {
    let reason = match unpermitted {
        Unpermitted::Client => {
            let description = "no client of the configuration has this name and this secret".to_owned();
            return (StatusCode::UNAUTHORIZED, "invalid_client", description);
        }
        Unpermitted::Operator(reason) => reason,
    };
    match (reason, reason.class()) {
        (_, Class::DependencyUnavailable | Class::QuotaExceeded | Class::Allow) => away(reason),
        (_, Class::PermissionDenied) => (
            StatusCode::FORBIDDEN,
            "insufficient_scope",
            format!("the token lacks the scope {scope}, or its issuer may not grant it (issuers[].operators)"),
        ),
        (Reason::NoCredential, Class::Unauthenticated) => (
            StatusCode::UNAUTHORIZED,
            "invalid_client",
            format!("say who asks: by a bearer token with the scope {scope}, or a client's name and secret"),
        ),
        (_, Class::Unauthenticated) => {
            (StatusCode::UNAUTHORIZED, "invalid_token", format!("the token is not accepted ({})", reason.name()))
        }
    }
}

/// How to say who asks. Without any credential no error is named (RFC 6750 §3.1).
fn challenges(unpermitted: Unpermitted, scope: &str) -> Vec<HeaderValue> {
    let [bearer, basic] = CHALLENGES;
    let told = |bearer: String| [HeaderValue::try_from(bearer).ok(), Some(HeaderValue::from_static(basic))];
    let challenges = match unpermitted {
        Unpermitted::Client => [None, Some(HeaderValue::from_static(basic))],
        Unpermitted::Operator(reason) => match (reason, reason.class()) {
            (Reason::NoCredential, _) => told(bearer.to_owned()),
            (_, Class::Unauthenticated) => told(format!(r#"{bearer}, error="invalid_token""#)),
            (_, Class::PermissionDenied) => {
                let challenge = format!(r#"{bearer}, error="insufficient_scope", scope="{scope}""#);
                [HeaderValue::try_from(challenge).ok(), None]
            }
            (_, Class::Allow | Class::QuotaExceeded | Class::DependencyUnavailable) => [None, None],
        },
    };
    challenges.into_iter().flatten().collect()
}
