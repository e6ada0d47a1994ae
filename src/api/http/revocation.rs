//! `POST /oauth2/revoke` (RFC 7009): for clients that end their own tokens, and for operators.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse as _, Response};

use super::form::Form;
use super::refusal::Refusal;
use super::without_query;
use crate::api::{Peer, asker};
use crate::decide::{Asked, Decider, NotRevoked, REVOKE_SCOPE, Way};
use crate::domain::decision::Reason;

pub(super) async fn revoke(State(decider): State<Arc<Decider>>, request: Request<Body>) -> Response {
    answer(&decider, request).await.unwrap_or_else(Refusal::answer)
}

async fn answer(decider: &Decider, request: Request<Body>) -> Result<Response, Refusal> {
    without_query(&request)?;
    let certificate = request.extensions().get::<Peer>().and_then(Peer::certificate);
    // Before the body: what strangers send is not read.
    let revoker = asker::revoker(decider, request.headers(), certificate, Way::OAuth).await;
    let revoker = revoker.map_err(|why| Refusal::unpermitted(why, REVOKE_SCOPE, request.headers()))?;
    let form = Form::read(request).await?;
    let token = form.required("token", "the form must have the field `token`", "the form has several tokens")?;
    // Of a token that is good nowhere, or another's, the answer says the same as of one that was revoked (RFC 7009 §2.2):
    // whoever finds a token is not to learn here that it is good.
    match decider.revoke(&revoker, vec![Asked::Shown(token)], "").get().await {
        Ok(_) => Ok((StatusCode::OK, [(CACHE_CONTROL, "no-store")]).into_response()),
        Err(NotRevoked::Unknown(reason)) => Err(Refusal::Away(reason)),
        Err(NotRevoked::TooMany { retry_after }) => Err(Refusal::TooMany(retry_after)),
        // A token alone names nothing that might not be there, and every revoker may show one.
        Err(NotRevoked::Away(_) | NotRevoked::Undecidable(_) | NotRevoked::OnlyItsOwn) => {
            Err(Refusal::Away(Reason::RevocationsAway))
        }
    }
}
