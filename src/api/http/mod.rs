//! HTTP: one file a protocol. Every answer is JSON, and says what is wrong where something is.

mod events;
mod form;
mod introspection;
mod logout;
mod refusal;
mod revocation;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, Uri};
use axum::response::Response;
use axum::routing::post;

use self::refusal::Refusal;
use crate::decide::Decider;
use crate::decide::ports::EventSink;

/// Answers what is asked over HTTP. What identity providers tell goes to `events`.
pub fn router(decider: Arc<Decider>, events: Arc<dyn EventSink>) -> Router {
    let told = Router::new()
        .route("/backchannel-logout", post(logout::logout))
        .route("/events", post(events::events))
        .with_state(events);
    Router::new()
        .route("/oauth2/introspect", post(introspection::introspect))
        .route("/oauth2/revoke", post(revocation::revoke))
        .merge(told)
        .method_not_allowed_fallback(|method: Method| async move { Refusal::Method(method).answer() })
        .fallback(|_: Uri| async { Refusal::NoSuchPage.answer() })
        .with_state(decider)
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
