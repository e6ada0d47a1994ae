//! `POST /oauth2/introspect` (RFC 7662), for Spring Security's `opaquetoken` and every other resource server.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse as _, Response};
use serde_json::{Map, Value, json};

use super::form::Form;
use super::refusal::Refusal;
use super::without_query;
use crate::api::known::{self, token_type};
use crate::api::{Peer, asker};
use crate::decide::{Decider, INTROSPECT_SCOPE};
use crate::domain::decision::Class;
use crate::domain::identity::{Actor, Identity};
use crate::domain::time::Micros;

pub(super) async fn introspect(State(decider): State<Arc<Decider>>, request: Request<Body>) -> Response {
    answer(&decider, request).await.unwrap_or_else(Refusal::answer)
}

async fn answer(decider: &Decider, request: Request<Body>) -> Result<Response, Refusal> {
    without_query(&request)?;
    let certificate = request.extensions().get::<Peer>().and_then(Peer::certificate);
    // Before the body: what strangers send is not read.
    let sight = asker::sight(decider, request.headers(), certificate).await;
    let sight = sight.map_err(|why| Refusal::unpermitted(why, INTROSPECT_SCOPE, request.headers()))?;
    let form = Form::read(request).await?;
    let token = form.required("token", "the form must have the field `token`", "the form has several tokens")?;
    let body = match decider.introspect(token, &sight).get().await {
        Ok(identity) => active(&identity),
        // What could not be found out is not "inactive": the asker would throw a good token away.
        Err(reason) if reason.class() == Class::DependencyUnavailable => return Err(Refusal::Away(reason)),
        Err(_) => json!({ "active": false }),
    };
    Ok(([(CACHE_CONTROL, "no-store")], Json(body)).into_response())
}

/// What is known of an active token (RFC 7662 §2.2). Members without a value are left out. Chosen claims stand below
/// `claims`: operators name them, and none may pass for one of the others.
fn active(identity: &Identity) -> Value {
    let mut members = Map::from_iter([
        ("active".to_owned(), true.into()),
        ("token_type".to_owned(), token_type(identity).into()),
        ("iss".to_owned(), (*identity.issuer).into()),
    ]);
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            members.insert(name.to_owned(), value);
        }
    };
    let text = |text: &Option<Box<str>>| text.as_deref().map(Value::from);
    put("scope", Some(known::scope(identity)).filter(|scope| !scope.is_empty()).map(Value::from));
    put("client_id", text(&identity.client));
    put("username", text(&identity.username));
    put("exp", identity.expires_at.map(seconds));
    put("iat", identity.issued_at.map(seconds));
    put("nbf", identity.not_before.map(seconds));
    put("sub", text(&identity.subject));
    put("aud", list(&identity.audiences));
    put("jti", text(&identity.token_id));
    put("sid", text(&identity.session));
    put("cnf", confirmation(identity));
    put("act", act(&identity.actors));
    put("roles", list(&identity.roles));
    put("tenant", text(&identity.tenant));
    let claims: Map<String, Value> =
        identity.claims.iter().map(|(name, value)| (name.to_string(), Value::from(&**value))).collect();
    put("claims", (!claims.is_empty()).then_some(Value::Object(claims)));
    Value::Object(members)
}

fn list(texts: &[Box<str>]) -> Option<Value> {
    (!texts.is_empty()).then(|| texts.iter().map(|text| Value::from(&**text)).collect())
}

/// A `NumericDate` (RFC 7519 §2).
fn seconds(moment: Micros) -> Value {
    moment.as_secs().into()
}

/// The keys that the token is bound to (RFC 8705 §3.2, RFC 9449 §6.2).
fn confirmation(identity: &Identity) -> Option<Value> {
    let known::Keys { certificate, key } = known::keys(identity);
    let members = [("x5t#S256", certificate), ("jkt", key)];
    let members: Map<String, Value> =
        members.into_iter().filter_map(|(name, hash)| Some((name.to_owned(), hash?.into()))).collect();
    (!members.is_empty()).then_some(Value::Object(members))
}

/// Who acts, with whoever acted before nested in it (RFC 8693 §4.1).
fn act(actors: &[Actor]) -> Option<Value> {
    actors.iter().rev().fold(None, |before, Actor { issuer, subject, client }| {
        let members = [("iss", issuer), ("sub", subject), ("client_id", client)];
        let mut members: Map<String, Value> = members
            .into_iter()
            .filter_map(|(name, text)| Some((name.to_owned(), Value::from(text.as_deref()?))))
            .collect();
        if let Some(before) = before {
            members.insert("act".to_owned(), before);
        }
        Some(Value::Object(members))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::identity::Binding;

    #[test]
    fn everything_that_is_known_has_its_member() {
        let texts = |texts: &[&str]| -> Box<[Box<str>]> { texts.iter().map(|&text| text.into()).collect() };
        let actor = |subject: &str| Actor { issuer: None, subject: Some(subject.into()), client: None };
        let identity = Identity {
            subject: Some("ann".into()),
            client: Some("desk".into()),
            username: Some("Ann".into()),
            scopes: texts(&["read", "x y", "write"]),
            roles: texts(&["ADMIN"]),
            audiences: texts(&["orders"]),
            token_id: Some("1".into()),
            session: Some("s".into()),
            tenant: Some("acme".into()),
            actors: [actor("now"), actor("before")].into(),
            claims: [("active".into(), "no".into()), ("email".into(), "a@b".into())].into(),
            binding: Some(Box::new(Binding { certificate: Some([0; 32]), key: Some([255; 32]) })),
            expires_at: Some(Micros(3_999_999)),
            issued_at: Some(Micros(1_000_000)),
            not_before: Some(Micros(2_000_000)),
            ..Identity::vouched_by("i")
        };
        let expected = json!({
            "active": true, "token_type": "DPoP", "iss": "i", "scope": "read write", "client_id": "desk",
            "username": "Ann", "exp": 3, "iat": 1, "nbf": 2, "sub": "ann", "aud": ["orders"], "jti": "1", "sid": "s",
            "cnf": {
                "x5t#S256": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
                "jkt": "__________________________________________8",
            },
            "act": { "sub": "now", "act": { "sub": "before" } },
            "roles": ["ADMIN"], "tenant": "acme", "claims": { "active": "no", "email": "a@b" },
        });
        assert_eq!(active(&identity), expected);
        let bare = json!({ "active": true, "token_type": "Bearer", "iss": "i" });
        assert_eq!(active(&Identity::vouched_by("i")), bare);
    }
}
