//! `POST /v1/decide`: a question of the native API, and its answer, in JSON.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::http::{Request, StatusCode};
use axum::response::Response;

use super::form::body;
use super::{Deciding, refusal, undecided, without_query, written};
use crate::api::http_answer::{PROBLEM, Refusal};
use crate::api::native;
use crate::decide::Undecidable;
use crate::proto as pb;
use crate::telemetry::Facade;

/// What questions and answers are written in.
const JSON: &str = "application/json";

/// Answers with 200 whatever the decision, as `Decide` does with OK: other statuses are for what could not be decided.
pub(super) async fn decide(State(deciding): State<Arc<Deciding>>, request: Request<Body>) -> Response {
    let Deciding { decider, replica, question_form, answer_form } = &*deciding;
    let text = match text(request).await {
        Ok(text) => text,
        Err(refusal) => {
            decider.turned_away(Facade::Http);
            let (status, _, description) = refusal.words();
            return undecided(status, &description);
        }
    };
    let wire: Result<pb::DecideRequest, _> = question_form.read(&text);
    let read = match &wire {
        Ok(wire) => native::question(wire),
        Err(violation) => Err(Undecidable { violations: vec![violation.clone()] }),
    };
    let question = match read {
        Ok(question) => question,
        Err(undecidable) => {
            decider.turned_away(Facade::Http);
            return refused(Refusal::malformed(&undecidable));
        }
    };
    let decision = match decider.decide(&question, Facade::Http).get().await {
        Ok(decision) => decision,
        Err(undecidable) => return refused(Refusal::malformed(&undecidable)),
    };
    match answer_form.write(&native::response(&decision, replica)) {
        Ok(answer) => written(StatusCode::OK, [(CACHE_CONTROL.as_str(), "no-store")], Some(JSON), answer),
        Err(error) => {
            tracing::error!(%error, "an answer could not be written");
            undecided(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be written")
        }
    }
}

async fn text(request: Request<Body>) -> Result<Vec<u8>, refusal::Refusal> {
    without_query(&request)?;
    body(request, JSON).await
}

fn refused(Refusal { status, fields, body, .. }: Refusal) -> Response {
    written(status, fields, Some(PROBLEM), body)
}
