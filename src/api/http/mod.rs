//! HTTP: one file a protocol. Every answer is JSON, and says what is wrong where something is.

mod form;
mod introspection;
mod refusal;

use std::sync::Arc;

use axum::Router;
use axum::http::{Method, Uri};
use axum::response::Response;
use axum::routing::post;

use self::refusal::Refusal;
use crate::decide::Decider;

/// Answers what is asked over HTTP.
pub fn router(decider: Arc<Decider>) -> Router {
    Router::new()
        .route("/oauth2/introspect", post(introspection::introspect))
        .method_not_allowed_fallback(|method: Method| async move { Refusal::Method(method).answer() })
        .fallback(|_: Uri| async { Refusal::NoSuchPage.answer() })
        .with_state(decider)
}

/// Too many calls are in flight.
pub fn overloaded() -> Response {
    Refusal::Overloaded.answer()
}
