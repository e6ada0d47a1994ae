//! HTTP: one file a protocol. Every answer is JSON, and says what is wrong where something is.

mod events;
mod form;
mod introspection;
mod logout;
mod refusal;

use std::sync::Arc;

use axum::Router;
use axum::http::{Method, Uri};
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
        .merge(told)
        .method_not_allowed_fallback(|method: Method| async move { Refusal::Method(method).answer() })
        .fallback(|_: Uri| async { Refusal::NoSuchPage.answer() })
        .with_state(decider)
}

/// Too many calls are in flight.
pub fn overloaded() -> Response {
    Refusal::Overloaded.answer()
}
