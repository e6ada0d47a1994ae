//! One call of an introspection endpoint: what is sent, and how the answer is read (RFC 7662 §2, RFC 9701).

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue};
use url::Url;
use url::form_urlencoded::{Serializer, byte_serialize};

use super::rest::Setback;
use crate::domain::decision::Reason;
use crate::domain::introspection::{ClientAuth, Introspection};
use crate::domain::issuer::Issuer;
use crate::domain::time::Micros;
use crate::tokens::claims::{self, Accepted};
use crate::tokens::fetch::{FetchError, Post, Request};
use crate::tokens::json::{self, Bounds, Number, Object, Value};
use crate::tokens::jwk::Key;
use crate::tokens::jwks::KeySet;
use crate::tokens::jwt::{Compact, Unverified};

/// Bytes of an answer.
const BODY_BYTES_MAX: usize = 64 * 1024;

const BOUNDS: Bounds = Bounds { depth: 32, members: 512, name_bytes: 1024 };

/// What an answer may leave out (RFC 7662 §2.2); some servers write null instead. Not so what ties a token to a key or tells
/// who acts: null there is as wrong as anything that cannot be read.
const OPTIONAL: [&str; 11] =
    ["scope", "client_id", "username", "token_type", "exp", "iat", "nbf", "sub", "aud", "iss", "jti"];

/// `typ` and media type of a signed answer (RFC 9701 §5).
const SIGNED: &str = "token-introspection+jwt";

/// What an issuer says of a token.
pub(super) enum Opinion {
    /// It is active, and all else about it is as it must be. The key is the one that signed the answer.
    Good(Box<Accepted>, Option<Arc<Key>>),
    /// It is not to be accepted.
    Bad(Reason),
}

/// Why nothing is known of a token.
#[derive(Debug)]
pub(super) struct Failure {
    /// For the log and `/readyz`.
    pub sentence: String,
    /// What it says about the issuer; none: nothing, it may be this token alone.
    pub setback: Option<Setback>,
    /// Whether the issuer does not accept who we say we are.
    pub is_denied: bool,
}

/// Why an answer was not understood.
pub(super) enum Unread {
    /// It is not what was asked for.
    Failed(Failure),
    /// A key that is not in hand may have signed it.
    NoKey,
}

impl Failure {
    /// The issuer does not do what its protocol says.
    pub(super) fn broken(what: &str) -> Self {
        let sentence = format!("the introspection endpoint {what}");
        Self { sentence, setback: Some(Setback::Chance), is_denied: false }
    }
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        let retry_after = error.retry_after;
        let (setback, is_denied) = match error.status {
            Some(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => (Some(Setback::Plain(None)), true),
            Some(StatusCode::TOO_MANY_REQUESTS) => (Some(Setback::Plain(retry_after)), false),
            // Other refusals may be about the one token: whoever made it up must not turn away the others.
            Some(status) if status.is_client_error() => (None, false),
            Some(_) if retry_after.is_some() => (Some(Setback::Plain(retry_after)), false),
            Some(_) | None => (Some(Setback::Chance), false),
        };
        Self { sentence: error.sentence, setback, is_denied }
    }
}

/// The question about `token`.
pub(super) fn request<'u>(url: &'u Url, token: &str, settings: &Introspection) -> Request<'u> {
    let mut form = Serializer::new(String::new());
    form.append_pair("token", token).append_pair("token_type_hint", "access_token");
    let media_type = if settings.signed { "application/token-introspection+jwt" } else { "application/json" };
    let mut headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(media_type))]);
    match &settings.auth {
        ClientAuth::Basic(secret) => {
            let coded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
            let pair = format!("{}:{}", coded(&settings.client_id), coded(secret.reveal()));
            if let Ok(mut value) = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(pair))) {
                value.set_sensitive(true);
                headers.insert(AUTHORIZATION, value);
            }
        }
        ClientAuth::Post(secret) => {
            form.append_pair("client_id", &settings.client_id).append_pair("client_secret", secret.reveal());
        }
        ClientAuth::Mtls => {
            form.append_pair("client_id", &settings.client_id);
        }
    }
    let deadline = Duration::from(settings.deadline);
    let post = Post { media_type: "application/x-www-form-urlencoded", body: form.finish() };
    Request { url, post: Some(post), headers, deadline, bytes_max: BODY_BYTES_MAX }
}

/// Reads a plain answer.
pub(super) fn read(body: &[u8], issuer: &Issuer, name: &Arc<str>, now: Micros) -> Result<Opinion, Failure> {
    let answer = json::object(body, BOUNDS).map_err(|_| unreadable(body))?;
    opinion(answer, None, issuer, name, now)
}

/// Reads a signed answer (RFC 9701 §5): a JWT of the issuer, for us, of just now.
pub(super) fn read_signed(
    body: &[u8],
    (issuer, settings): (&Issuer, &Introspection),
    keys: &KeySet,
    name: &Arc<str>,
    now: Micros,
) -> Result<Opinion, Unread> {
    let broken = |what: &str| Unread::Failed(Failure::broken(what));
    // As for plain answers: it may be so because of this one token.
    let unread = |what: &str| Unread::Failed(Failure { setback: None, ..Failure::broken(what) });
    let text = std::str::from_utf8(body).map_err(|_| broken("answered with no text"))?;
    let decoded = Compact::split(text).and_then(Compact::decode).map_err(|why| match why {
        Reason::TokenTooLarge => unread("gave a signed answer that is too large"),
        _ => broken("gave no signed answer"),
    })?;
    let claimed = decoded.read().map_err(|_| unread("gave a signed answer that is not strict"))?;
    if !claimed.issuer().is_ok_and(|given| given == issuer.issuer) {
        return Err(broken("gave an answer of another issuer"));
    }
    let verified = claimed.verify(&issuer.algorithms, keys).map_err(|why| match why {
        Unverified::NoKey(_) => Unread::NoKey,
        Unverified::Refused(reason) => broken(&format!("gave an answer whose signature is refused: {}", reason.name())),
    })?;
    let typ = verified.typ.as_deref().unwrap_or_default().to_ascii_lowercase();
    if typ.strip_prefix("application/").unwrap_or(&typ) != SIGNED {
        return Err(broken("gave an answer of another type"));
    }
    let claims = &verified.claims;
    if !is_for(claims, &settings.client_id) {
        return Err(broken("gave an answer for another client"));
    }
    if !is_of_now(claims, issuer.leeway, settings.deadline, now) {
        return Err(broken("gave an answer of another time"));
    }
    let Some(Value::Object(answer)) = claims.get("token_introspection") else {
        return Err(broken("gave an answer without `token_introspection`"));
    };
    opinion(answer.clone(), Some(Arc::clone(&verified.key)), issuer, name, now).map_err(Unread::Failed)
}

/// What is JSON, if no strict one, may be so because of what whoever has this one token wrote into their profile.
fn unreadable(body: &[u8]) -> Failure {
    if serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(body).is_ok() {
        return Failure { setback: None, ..Failure::broken("answered with JSON that is not strict or too large") };
    }
    Failure::broken("answered with no JSON object")
}

fn is_for(claims: &Object<'_>, client: &str) -> bool {
    let is_client = |value: &Value<'_>| matches!(value, Value::String(text) if text == client);
    match claims.get("aud") {
        Some(Value::Array(several)) => several.iter().any(is_client),
        Some(one) => is_client(one),
        None => false,
    }
}

/// An old answer could be shown again.
fn is_of_now(claims: &Object<'_>, leeway: Micros, deadline: Micros, now: Micros) -> bool {
    let Some(Value::Number(Number::Unsigned(secs))) = claims.get("iat") else { return false };
    let at = Micros::from_secs(*secs);
    // `iat` has whole seconds.
    at <= now + leeway && now <= at + leeway + deadline + Micros::from_secs(1)
}

fn opinion(
    mut answer: Object<'_>,
    key: Option<Arc<Key>>,
    issuer: &Issuer,
    name: &Arc<str>,
    now: Micros,
) -> Result<Opinion, Failure> {
    match answer.get("active") {
        Some(Value::Bool(true)) => {}
        Some(Value::Bool(false)) => return Ok(Opinion::Bad(Reason::InactiveToken)),
        Some(_) | None => return Err(Failure::broken("did not say whether the token is active, true or false")),
    }
    answer.drop_nulls(&OPTIONAL);
    match claims::judge_answer(&answer, issuer, name, now) {
        Ok(accepted) => Ok(Opinion::Good(Box::new(accepted), key)),
        // Not the caller's fault, and not that of other tokens.
        Err(Reason::MalformedToken | Reason::TokenTooLarge) => {
            Err(Failure { setback: None, ..Failure::broken("gave a member of a wrong type for a token") })
        }
        Err(reason) => Ok(Opinion::Bad(reason)),
    }
}
