//! When a token was made, and from when until when it is accepted.

use super::json::{Number, Object, Value};
use crate::domain::decision::Reason;
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

    /// From when until when the token is accepted, where that is now. `iat` must be there: without it there is no
    /// telling how long the token has lived, and a revocation could be forgotten before the token ends. (RFC 9068 §2.2
    /// demands it too. `nbf` cannot stand in for it: a token can lie idle until then, and so outlive its revocation.)
    pub(super) fn judge(&self, issuer: &Issuer, now: Micros) -> Result<(Micros, Micros), Reason> {
        let (Some(expires_at), Some(issued_at)) = (self.expires_at, self.issued_at) else {
            return Err(Reason::MissingClaim);
        };
        let until = expires_at + issuer.leeway;
        if now >= until {
            return Err(Reason::Expired);
        }
        let old_at = issuer.max_age.map_or(until, |age| issued_at + age + issuer.leeway);
        if now >= old_at {
            return Err(Reason::TokenTooOld);
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
        Ok((from, until.min(old_at)))
    }
}

/// A numeric date (RFC 7519 §2): seconds since the epoch, fractions allowed. Before the epoch counts as the epoch: long ago.
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
