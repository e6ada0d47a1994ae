//! HTTP: one file a protocol. Every answer is JSON, and says what is wrong where something is.

mod form;
mod introspection;
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

/// Answers what is asked over HTTP.
pub fn router(decider: Arc<Decider>) -> Router {
    Router::new()
        .route("/oauth2/introspect", post(introspection::introspect))
        .route("/oauth2/revoke", post(revocation::revoke))
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
