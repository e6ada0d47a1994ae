//! `POST /events` (RFC 8935): a provider pushes a security event token.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, RETRY_AFTER};
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde_json::json;

use super::form::body;
use super::refusal::{RETRY_SECONDS, Refusal};
use crate::decide::ports::{EventSink, Told};
use crate::domain::event::EventFlaw;

/// RFC 8417 §7.2.
const MEDIA_TYPE: &str = "application/secevent+jwt";

pub(super) async fn events(State(sink): State<Arc<dyn EventSink>>, request: Request<Body>) -> Response {
    let Err(refusal) = heard(&*sink, request).await else {
        return (StatusCode::ACCEPTED, [(CACHE_CONTROL, "no-store")]).into_response();
    };
    // Words of its own (RFC 8935 §2.3).
    let (status, err, description) = refusal.words();
    let body = json!({ "err": err, "description": description });
    let mut response = (status, [(CACHE_CONTROL, "no-store")], Json(body)).into_response();
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(RETRY_AFTER, RETRY_SECONDS);
    }
    response
}

async fn heard(sink: &dyn EventSink, request: Request<Body>) -> Result<(), Refusal> {
    let body = body(request, MEDIA_TYPE).await?;
    let token = std::str::from_utf8(&body).map_err(|_| Refusal::Unheard(EventFlaw::Form.into()))?;
    sink.hear(Told::Event(token)).get().await.map_err(Refusal::Unheard)
}
