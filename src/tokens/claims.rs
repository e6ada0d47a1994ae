//! What a verified token says, held against what its issuer's tokens must say.
//!
//! A claim of a wrong type is a refusal, never "not there": else a malformed `exp` would make a token immortal.

use std::sync::Arc;

use super::json::{Number, Object, Value};
use super::jwt::Verified;
use crate::domain::decision::Reason;
use crate::domain::identity::{Identity, IdentityKind};
use crate::domain::issuer::{ClaimPath, Issuer};
use crate::domain::time::Micros;

/// The last second of the year 9999: dates beyond are mistakes (milliseconds, mostly).
const DATE_MAX: u64 = 253_402_300_799;

/// `typ`s of tokens that are something else than access tokens, whatever an issuer is said to accept: RFC 9449 §4.2,
/// OIDC Back-Channel Logout §2.4, RFC 8417 §2.3, RFC 9701 §5, Token Status List, RFC 9101 §10.8.
const NEVER_ACCESS_TOKENS: [&str; 6] =
    ["dpop+jwt", "logout+jwt", "secevent+jwt", "token-introspection+jwt", "statuslist+jwt", "oauth-authz-req+jwt"];

/// What is held against a token.
pub(super) struct Accepted {
    /// Whose it is.
    pub identity: Identity,
    /// The first moment of the wall clock at which it is accepted.
    pub from: Micros,
    /// The first one at which it no longer is.
    pub until: Micros,
}

/// Judges a token at `now`, by the wall clock. `name` is the issuer's, shared by all of its identities.
pub(super) fn judge(token: &Verified<'_>, issuer: &Issuer, name: &Arc<str>, now: Micros) -> Result<Accepted, Reason> {
    let claims = &token.claims;
    check_kind(token, issuer)?;
    let dates = Dates::read(claims)?;
    let audiences = list(claims.get("aud"))?;
    let identity = Identity {
        kind: IdentityKind::Jwt,
        issuer: Arc::clone(name),
        subject: text(claims, "sub")?,
        client: first_text(claims, ["client_id", "azp"])?,
        username: first_text(claims, ["preferred_username", "username"])?,
        scopes: scopes(claims, &issuer.scope_claims)?,
        roles: roles(claims, &issuer.role_claims)?,
        audiences,
        token_id: text(claims, "jti")?,
        session: text(claims, "sid")?,
        expires_at: dates.expires_at,
        not_before: dates.not_before,
        issued_at: dates.issued_at,
    };
    check_binding(claims)?;
    let (from, until) = dates.judge(issuer, now)?;
    let is_ours = |audience: &Box<str>| issuer.audiences.iter().any(|own| **own == **audience);
    if !identity.audiences.iter().any(is_ours) {
        return Err(Reason::WrongAudience);
    }
    if !issuer.required_claims.iter().all(|required| is_there(claims, required)) {
        return Err(Reason::MissingClaim);
    }
    Ok(Accepted { identity, from, until })
}

/// The dates of a token (RFC 7519 §4.1.4 to §4.1.6).
struct Dates {
    expires_at: Option<Micros>,
    not_before: Option<Micros>,
    issued_at: Option<Micros>,
}

impl Dates {
    fn read(claims: &Object<'_>) -> Result<Self, Reason> {
        let date = |name| claims.get(name).map(numeric_date).transpose();
        Ok(Self {
            expires_at: date("exp")?,
            not_before: date("nbf")?,
            // Cut-offs ("everything issued before") count in whole seconds.
            issued_at: date("iat")?.map(|at| Micros::from_secs(at.as_secs())),
        })
    }

    /// From when until when the token is accepted, where that is now. `iat` must be there: without it there is no
    /// telling how long the token has lived, and a revocation could be forgotten before the token ends. (RFC 9068 §2.2
    /// demands it too. `nbf` cannot stand in for it: a token can lie idle until then, and so outlive its revocation.)
    fn judge(&self, issuer: &Issuer, now: Micros) -> Result<(Micros, Micros), Reason> {
        let (Some(expires_at), Some(issued_at)) = (self.expires_at, self.issued_at) else {
            return Err(Reason::MissingClaim);
        };
        let until = expires_at + issuer.leeway;
        if now >= until {
            return Err(Reason::Expired);
        }
        let from = self.not_before.unwrap_or(issued_at).max(issued_at).since(issuer.leeway);
        if now < from {
            return Err(Reason::NotYetValid);
        }
        if self.not_before.is_some_and(|not_before| expires_at < not_before) {
            return Err(Reason::MalformedToken);
        }
        if expires_at.since(issued_at) > issuer.max_token_lifetime {
            return Err(Reason::LifetimeTooLong);
        }
        Ok((from, until))
    }
}

/// NumericDate (RFC 7519 §2): seconds since the epoch, fractions allowed. Before the epoch counts as the epoch: long ago.
fn numeric_date(value: &Value<'_>) -> Result<Micros, Reason> {
    let Value::Number(number) = value else { return Err(Reason::MalformedToken) };
    match *number {
        Number::Unsigned(secs) if secs <= DATE_MAX => Ok(Micros::from_secs(secs)),
        Number::Negative(_) => Ok(Micros::ZERO),
        #[expect(clippy::cast_precision_loss, reason = "DATE_MAX is far below 2^53")]
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and DATE_MAX seconds")]
        Number::Float(secs) if secs <= DATE_MAX as f64 => Ok(Micros((secs.max(0.0) * 1e6) as u64)),
        Number::Unsigned(_) | Number::Float(_) => Err(Reason::MalformedToken),
    }
}

/// Whether it is an access token at all: by `typ`, and by the marks of tokens that are something else.
fn check_kind(token: &Verified<'_>, issuer: &Issuer) -> Result<(), Reason> {
    let typ = token.typ.as_deref().map(|typ| {
        let typ = typ.to_ascii_lowercase();
        // RFC 7515 §4.1.9: the prefix may be left out where no other `/` follows.
        typ.strip_prefix("application/").filter(|rest| !rest.contains('/')).map(ToOwned::to_owned).unwrap_or(typ)
    });
    let accepted = match &typ {
        None => issuer.untyped,
        Some(typ) => issuer.types.contains(typ) && !NEVER_ACCESS_TOKENS.contains(&typ.as_str()),
    };
    // RFC 9068 §2.1: this type says it all; no other kind of token has it.
    let is_declared = typ.as_deref() == Some("at+jwt");
    if accepted && (is_declared || !is_other_kind(&token.claims)) { Ok(()) } else { Err(Reason::WrongType) }
}

/// The marks of logout tokens and security events (RFC 8417), of ID tokens (OpenID Connect Core §2, §3.1.3.6), and
/// what Keycloak (`typ`) and Cognito (`token_use`) call their tokens.
fn is_other_kind(claims: &Object<'_>) -> bool {
    let says = |name, kinds: &[&str]| matches!(claims.get(name), Some(Value::String(kind)) if kinds.contains(&&**kind));
    if claims.has("events") || says("typ", &["ID", "Refresh", "Offline", "Logout"]) {
        return true;
    }
    if says("token_use", &["id", "id_token", "refresh", "refresh_token"]) {
        return true;
    }
    // Keycloak before 25 copies `nonce` into access tokens, which it marks as such.
    !says("typ", &["Bearer", "DPoP"]) && ["nonce", "at_hash", "c_hash"].into_iter().any(|name| claims.has(name))
}

/// A token that is bound to a key (RFC 7800, RFC 8705, RFC 9449) is good only with a proof of possession, which is not
/// checked yet. To take it without would turn it into a plain bearer token.
fn check_binding(claims: &Object<'_>) -> Result<(), Reason> {
    match claims.get("cnf") {
        None => Ok(()),
        Some(Value::Object(_)) => Err(Reason::UnsupportedExtension),
        Some(_) => Err(Reason::MalformedToken),
    }
}

/// Scopes of the first claim that is there. One string holds several, with single spaces between (RFC 6749 §3.3); in an
/// array each string is one.
fn scopes(claims: &Object<'_>, places: &[ClaimPath]) -> Result<Box<[Box<str>]>, Reason> {
    for place in places {
        let mut scopes = Vec::new();
        let mut found = false;
        visit(claims, &place.0, &mut |value| {
            found = true;
            match value {
                Value::String(text) => {
                    scopes.extend(text.split(' ').filter(|scope| !scope.is_empty()).map(Into::into));
                    Ok(())
                }
                value => strings(value, &mut scopes),
            }
        })?;
        if found {
            return Ok(scopes.into());
        }
    }
    Ok(Box::default())
}

/// Roles of every claim that is there. A string is one role.
fn roles(claims: &Object<'_>, places: &[ClaimPath]) -> Result<Box<[Box<str>]>, Reason> {
    let mut roles = Vec::new();
    for place in places {
        visit(claims, &place.0, &mut |value| match value {
            Value::String(role) => {
                roles.push((**role).into());
                Ok(())
            }
            value => strings(value, &mut roles),
        })?;
    }
    Ok(roles.into())
}

/// Shows every value at a place. What is on the way there and no object leads nowhere.
fn visit<'c, 'a>(
    object: &'c Object<'a>,
    names: &[String],
    show: &mut impl FnMut(&'c Value<'a>) -> Result<(), Reason>,
) -> Result<(), Reason> {
    let Some((name, inner)) = names.split_first() else { return Ok(()) };
    let mut step = |value: &'c Value<'a>| match value {
        value if inner.is_empty() => show(value),
        Value::Object(object) => visit(object, inner, show),
        _ => Ok(()),
    };
    if name == "*" {
        return object.values().try_for_each(step);
    }
    object.get(name).map_or(Ok(()), &mut step)
}

/// `aud` (RFC 7519 §4.1.3): one string, or several.
fn list(value: Option<&Value<'_>>) -> Result<Box<[Box<str>]>, Reason> {
    match value {
        None => Ok(Box::default()),
        Some(Value::String(one)) => Ok(Box::new([(**one).into()])),
        Some(value) => {
            let mut list = Vec::new();
            strings(value, &mut list)?;
            Ok(list.into())
        }
    }
}

/// Adds the strings of an array; anything else is malformed.
fn strings(value: &Value<'_>, list: &mut Vec<Box<str>>) -> Result<(), Reason> {
    let Value::Array(items) = value else { return Err(Reason::MalformedToken) };
    list.reserve_exact(items.len());
    for item in items {
        let Value::String(text) = item else { return Err(Reason::MalformedToken) };
        list.push((**text).into());
    }
    Ok(())
}

fn text(claims: &Object<'_>, name: &str) -> Result<Option<Box<str>>, Reason> {
    Ok(claims.string(name)?.map(Into::into))
}

fn first_text(claims: &Object<'_>, names: [&str; 2]) -> Result<Option<Box<str>>, Reason> {
    let [first, second] = names.map(|name| text(claims, name));
    Ok(first?.or(second?))
}

/// A claim that says nothing is as good as none.
fn is_there(claims: &Object<'_>, name: &str) -> bool {
    !matches!(claims.get(name), None | Some(Value::Null))
        && !matches!(claims.get(name), Some(Value::String(text)) if text.is_empty())
}
