//! HTTP: one file a protocol. Every answer is JSON, and says what is wrong where something is.

mod decide;
mod events;
mod form;
mod forward_auth;
mod introspection;
mod json;
mod logout;
mod refusal;
mod revocation;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{Method, Request, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, post};

use self::json::Form;
use self::refusal::Refusal;
use crate::api::http_answer::{PROBLEM, problem};
use crate::decide::Decider;
use crate::decide::ports::EventSink;

/// What those need who answer questions.
struct Deciding {
    decider: Arc<Decider>,
    /// Who explanations name.
    replica: Box<str>,
    question_form: Form,
    answer_form: Form,
}

/// Answers what is asked over HTTP. What identity providers tell goes to `events`; explanations name `replica`.
///
/// # Errors
/// A sentence: the program was built without the messages' descriptors.
pub fn router(decider: Arc<Decider>, events: Arc<dyn EventSink>, replica: &str) -> Result<Router, String> {
    let [question_form, answer_form] = Form::of(["tollgate.v1.DecideRequest", "tollgate.v1.DecideResponse"])?;
    let deciding = Deciding { decider: Arc::clone(&decider), replica: replica.into(), question_form, answer_form };
    let calls = Router::new()
        .route("/v1/decide", post(decide::decide))
        .route("/forward-auth", any(forward_auth::forward_auth))
        .with_state(Arc::new(deciding));
    let told = Router::new()
        .route("/backchannel-logout", post(logout::logout))
        .route("/events", post(events::events))
        .with_state(events);
    let router = Router::new()
        .route("/oauth2/introspect", post(introspection::introspect))
        .route("/oauth2/revoke", post(revocation::revoke))
        .merge(calls)
        .merge(told)
        .method_not_allowed_fallback(|method: Method| async move { Refusal::Method(method).answer() })
        .fallback(|_: Uri| async { Refusal::NoSuchPage.answer() })
        .with_state(decider);
    Ok(router)
}

/// Queries are logged on every way: a token in one is lost, and is not to become a habit (RFC 7662 §4).
fn without_query(request: &Request<Body>) -> Result<(), Refusal> {
    match request.uri().query() {
        None => Ok(()),
        Some(_) => Err(Refusal::Malformed("there must be no query: the token belongs into the body")),
    }
}

/// Too many calls are in flight.
pub fn overloaded() -> Response {
    Refusal::Overloaded.answer()
}

/// Nothing was decided, as problem details say (RFC 9457).
fn undecided(status: StatusCode, detail: &str) -> Response {
    let body = problem(status, detail).to_string();
    written(status, [(CACHE_CONTROL.as_str(), "no-store")], Some(PROBLEM), body)
}

/// An answer with these fields, and a body of that kind where there is one.
fn written<N: AsRef<str>, V: AsRef<str>>(
    status: StatusCode,
    fields: impl IntoIterator<Item = (N, V)>,
    media_type: Option<&str>,
    body: impl Into<Body>,
) -> Response {
    let mut answer = Response::builder().status(status);
    for (name, value) in fields {
        answer = answer.header(name.as_ref(), value.as_ref());
    }
    if let Some(media_type) = media_type {
        answer = answer.header(CONTENT_TYPE, media_type);
    }
    answer.body(body.into()).unwrap_or_else(|error| {
        tracing::error!(%error, "an answer could not be written");
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    })
}
