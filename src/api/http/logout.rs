//! `POST /backchannel-logout` (`OpenID` Connect Back-Channel Logout §2.5 to §2.8): a provider tells that somebody logged out.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse as _, Response};

use super::form::Form;
use super::refusal::Refusal;
use crate::decide::ports::{EventSink, Told, Unheard};

pub(super) async fn logout(State(sink): State<Arc<dyn EventSink>>, request: Request<Body>) -> Response {
    match heard(&*sink, request).await {
        Ok(()) => [(CACHE_CONTROL, "no-store")].into_response(),
        // The codes of security events are not OAuth's.
        Err(refusal @ Refusal::Unheard(Unheard::Refused(_))) => refusal.answer_as("invalid_request"),
        Err(refusal) => refusal.answer(),
    }
}

async fn heard(sink: &dyn EventSink, request: Request<Body>) -> Result<(), Refusal> {
    let form = Form::read(request).await?;
    let (missing, repeated) = ("the form must have the field `logout_token`", "the form has several logout tokens");
    let token = form.required("logout_token", missing, repeated)?;
    sink.hear(Told::Logout(token)).get().await.map_err(Refusal::Unheard)
}
