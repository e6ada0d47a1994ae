//! When a token was made, and from when until when it is accepted.

use super::json::{Number, Object, Value};
use crate::domain::decision::Reason;
use crate::domain::identity::IdentityKind;
use crate::domain::issuer::Issuer;
use crate::domain::time::Micros;

/// The last second of the year 9999: dates beyond are mistakes (milliseconds, mostly).
const DATE_MAX: u64 = 253_402_300_799;

/// The dates of a token (RFC 7519 §4.1.4 to §4.1.6; `auth_time`: OIDC Core §2).
pub(super) struct Dates {
    pub expires_at: Option<Micros>,
    pub not_before: Option<Micros>,
    pub issued_at: Option<Micros>,
    pub logged_in_at: Option<Micros>,
}

impl Dates {
    pub(super) fn read(claims: &Object<'_>) -> Result<Self, Reason> {
        let date = |name| claims.get(name).map(numeric_date).transpose();
        Ok(Self {
            expires_at: date("exp")?,
            not_before: date("nbf")?,
            // Cut-offs ("everything issued before") count in whole seconds.
            issued_at: date("iat")?.map(|at| Micros::from_secs(at.as_secs())),
            logged_in_at: date("auth_time")?,
        })
    }

    /// From when until when the token is accepted, where that is now. A JWT's `iat` must be there: without it there is no
    /// telling how long the token has lived, and a revocation could be forgotten before the token ends. (RFC 9068 §2.2
    /// demands it too. `nbf` cannot stand in for it: a token can lie idle until then, and so outlive its revocation.)
    pub(super) fn judge(&self, kind: IdentityKind, issuer: &Issuer, now: Micros) -> Result<(Micros, Micros), Reason> {
        let Self { expires_at, not_before, issued_at, logged_in_at: _ } = *self;
        if kind == IdentityKind::Jwt && (expires_at.is_none() || issued_at.is_none()) {
            return Err(Reason::MissingClaim);
        }
        let until = expires_at.map_or(Micros(u64::MAX), |at| at + issuer.leeway);
        if now >= until {
            return Err(Reason::Expired);
        }
        let old_at = match (issuer.max_age, issued_at) {
            (None, _) => until,
            (Some(age), Some(issued_at)) => issued_at + age + issuer.leeway,
            (Some(_), None) => return Err(Reason::MissingClaim),
        };
        if now >= old_at {
            return Err(Reason::TokenTooOld);
        }
        let from = not_before.max(issued_at).unwrap_or_default().since(issuer.leeway);
        if now < from {
            return Err(Reason::NotYetValid);
        }
        if expires_at.zip(not_before).is_some_and(|(expires_at, not_before)| expires_at < not_before) {
            return Err(Reason::MalformedToken);
        }
        if expires_at.zip(issued_at).is_some_and(|(to, from)| to.since(from) > issuer.max_token_lifetime) {
            return Err(Reason::LifetimeTooLong);
        }
        Ok((from, until.min(old_at)))
    }
}

/// A numeric date (RFC 7519 §2): seconds since the epoch, fractions allowed. Before the epoch counts as the epoch: long ago.
pub(super) fn numeric_date(value: &Value<'_>) -> Result<Micros, Reason> {
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
