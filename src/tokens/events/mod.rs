//! What issuers tell on their own account: logout tokens (`OpenID` Connect Back-Channel Logout §2.4 to §2.6) and security
//! event tokens (RFC 8417, with the events of CAEP and RISC).
//!
//! Both are read as access tokens are, by the same keys and algorithms, and are none: [`judge`] demands what only they
//! have. Whether one was told before stands in the log of used proofs: it is looked at here, and written once
//! what was told has been done.

pub(super) mod poll;
mod subject;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};

use self::subject::Subject;
use super::Tokens;
use super::claims::{kind_of, list};
use super::dates::Dates;
use super::issuers::Trusted;
use super::json::{Flaw, Object, Value};
use super::jwt::{Compact, Decoded, Unverified, Verified};
use crate::decide::ports::{Aim, Answer, Away, AwayCause, EventReader, Heard, ProofUse, Told, Unheard};
use crate::domain::decision::Reason;
use crate::domain::event::{EventFlaw, EventKind};
use crate::domain::issuer::Issuer;
use crate::domain::question::Mode;
use crate::domain::revocation::{MARGIN, Target, Which};
use crate::domain::time::{Micros, Moment};

/// How old a logout token may be that does not say when it expires, and any that says more. Two minutes are
/// recommended (Back-Channel Logout §2.4).
const LOGOUT_AGE_MAX: Micros = Micros::from_secs(600);

/// Events of one token. They tell of one thing that happened (RFC 8417 §2.2), so more than one is rare.
const EVENTS_MAX: usize = 16;

/// What a verified token tells.
#[derive(Debug)]
pub(super) struct Judged {
    aims: Vec<Aim>,
    missed: usize,
    /// Its own id.
    id: Box<str>,
    /// For how long it could be told again.
    keep: Micros,
}

impl EventReader for Tokens {
    fn read<'a>(&'a self, told: Told<'a>, now: Moment) -> Answer<'a, Result<Heard, Unheard>> {
        Answer::later(async move {
            let (Told::Logout(text) | Told::Event(text)) = told;
            let decoded = Compact::split(text).and_then(Compact::decode).map_err(|_| EventFlaw::Form)?;
            let trusted = self.teller(&decoded)?;
            let verified = verify(&decoded, &trusted, now.steady).await?;
            let Judged { aims, missed, id, keep } = judge(&verified, &told, &trusted.settings, now.wall)?;
            let receipt = receipt(&told, &trusted.name, &id, keep);
            // With nothing to do it makes no difference.
            let first = aims.is_empty()
                || self.proofs.first_use(receipt, Mode::Peek, now).get().await.map_err(Unheard::Away)?;
            Ok(Heard { issuer: Arc::clone(&trusted.name), aims, missed, again: !first, receipt })
        })
    }

    fn note(&self, receipt: ProofUse, now: Moment) -> Answer<'_, Result<(), Away>> {
        // Somebody else may have told the same at the same time.
        self.proofs.first_use(receipt, Mode::Consume, now).then(|first| Answer::Now(first.map(|_| ())))
    }
}

impl Tokens {
    /// The issuer that a token claims to come from, if it may tell anything.
    fn teller(&self, decoded: &Decoded<'_>) -> Result<Arc<Trusted>, EventFlaw> {
        let claimed = decoded.read().map_err(|_| EventFlaw::Form)?;
        let name = claimed.issuer().map_err(|_| EventFlaw::Form)?;
        let issuers = self.issuers.load();
        let trusted = issuers.get(name).filter(|trusted| trusted.settings.events.is_some());
        trusted.cloned().ok_or(EventFlaw::Issuer)
    }
}

/// Checks the signature.
async fn verify<'d>(decoded: &'d Decoded<'_>, trusted: &Trusted, now: Micros) -> Result<Verified<'d>, Unheard> {
    trusted.keys.verify(decoded, &trusted.settings.algorithms, now).await.map_err(|why| match why {
        Unverified::NoKey(_) if trusted.keys.current().is_none() => {
            Unheard::Away(Away { because: AwayCause::Unreachable })
        }
        Unverified::NoKey(_) | Unverified::Refused(_) => EventFlaw::Key.into(),
    })
}

/// What a token of `issuer` tells at `now`, by the wall clock.
pub(super) fn judge(token: &Verified<'_>, told: &Told<'_>, issuer: &Issuer, now: Micros) -> Result<Judged, EventFlaw> {
    let claims = &token.claims;
    let typ = token.typ.as_deref().map(kind_of);
    let is_such = match (told, typ.as_deref()) {
        // Explicit typing is recommended, and not demanded (Back-Channel Logout §2.4).
        (Told::Logout(_), None | Some("jwt" | "logout+jwt")) | (Told::Event(_), Some("secevent+jwt")) => true,
        (Told::Logout(_) | Told::Event(_), _) => false,
    };
    if !is_such {
        return Err(EventFlaw::Type);
    }
    let audiences = list(claims.get("aud")).map_err(|_| EventFlaw::Form)?;
    let dates = Dates::read(claims).map_err(|_| EventFlaw::Form)?;
    let id = claims.string("jti")?.filter(|id| !id.is_empty()).ok_or(EventFlaw::Form)?;
    let own = issuer.events.as_ref().map_or(&[][..], |events| &events.audiences);
    if !audiences.iter().any(|audience| own.iter().any(|own| **own == **audience)) {
        return Err(EventFlaw::Audience);
    }
    let issued_at = dates.issued_at.ok_or(EventFlaw::Form)?;
    let age_max = match told {
        Told::Logout(_) => LOGOUT_AGE_MAX,
        // Whatever it takes back has ended by then, and until then a late one is better than none.
        Told::Event(_) => issuer.lifetimes().after_issuing(),
    };
    let until = dates.expires_at.unwrap_or(Micros(u64::MAX)).min(issued_at + age_max) + issuer.leeway;
    let from = dates.not_before.unwrap_or_default().max(issued_at);
    if now >= until || now + issuer.leeway < from {
        return Err(EventFlaw::Time);
    }
    let Some(Value::Object(events)) = claims.get("events") else { return Err(EventFlaw::Form) };
    let (aims, missed) = match told {
        Told::Logout(_) => (vec![logout(claims, events, &issuer.issuer)?], 0),
        Told::Event(_) => security_events(claims, events, &issuer.issuer)?,
    };
    Ok(Judged { aims, missed, id: id.into(), keep: until.since(now) + MARGIN })
}

/// What a logout token takes back: the session that it names, else all that its subject has.
fn logout(claims: &Object<'_>, events: &Object<'_>, issuer: &str) -> Result<Aim, EventFlaw> {
    let kind = EventKind::Logout;
    // An ID token has one, and must not pass for this (Back-Channel Logout §2.4).
    if claims.has("nonce") || !matches!(events.get(kind.uri()), Some(Value::Object(_))) {
        return Err(EventFlaw::Event);
    }
    let text = |name| match claims.string(name)? {
        Some("") => Err(EventFlaw::Form),
        text => Ok(text),
    };
    match (text("sid")?, text("sub")?) {
        (Some(session), _) => Ok(Aim { kind, target: Target::session(issuer, session), which: Which::All }),
        (None, Some(subject)) => Ok(Aim { kind, target: Target::subject(issuer, subject), which: Which::IssuedByNow }),
        (None, None) => Err(EventFlaw::Subject),
    }
}

/// What security events take back, and how many take back what no token names. Those of other kinds are no flaw: a
/// stream has them for other recipients' sake, or to see whether anybody is there.
fn security_events(claims: &Object<'_>, events: &Object<'_>, issuer: &str) -> Result<(Vec<Aim>, usize), EventFlaw> {
    if !(1..=EVENTS_MAX).contains(&events.len()) {
        return Err(EventFlaw::Event);
    }
    let (mut aims, mut missed) = (Vec::new(), 0);
    for (uri, event) in events.members() {
        let Value::Object(event) = event else { return Err(EventFlaw::Form) };
        // Logouts have tokens of their own, which are held to more.
        let Some(kind) = EventKind::from_uri(uri).filter(|kind| *kind != EventKind::Logout) else { continue };
        // Where the final profiles have it, and where their drafts had it.
        let Some(subject) = claims.get("sub_id").or_else(|| event.get("subject")) else {
            return Err(EventFlaw::Subject);
        };
        let targets = Subject::read(subject, issuer)?.targets(kind, issuer);
        missed += usize::from(targets.is_empty());
        let which = which(event)?;
        aims.extend(targets.into_iter().map(|target| {
            let which = if target.borrowed().kind.has_moment() { which } else { Which::All };
            Aim { kind, target, which }
        }));
    }
    Ok((aims, missed))
}

/// What was issued up to the moment of the event (CAEP §2), else by now.
fn which(event: &Object<'_>) -> Result<Which, EventFlaw> {
    let moment = event.get("event_timestamp").map(super::dates::numeric_date).transpose();
    Ok(moment.map_err(|_| EventFlaw::Form)?.map_or(Which::IssuedByNow, Which::IssuedBy))
}

/// Under which name a token is remembered. Each is a key of its own: the bound that keeps one client from filling the log is
/// not for what issuers sign.
fn receipt(told: &Told<'_>, issuer: &str, id: &str, keep: Micros) -> ProofUse {
    let mut hash = Context::new(&SHA256);
    // No token passes for both. An issuer may count each kind by itself, and what has the number of another is not that one.
    hash.update(match told {
        Told::Logout(_) => b"tollgate logout 1",
        Told::Event(_) => b"tollgate events 1",
    });
    hash.update(&(issuer.len() as u64).to_be_bytes());
    hash.update(issuer.as_bytes());
    hash.update(id.as_bytes());
    let mut name = [0; 32];
    name.copy_from_slice(hash.finish().as_ref());
    ProofUse { key: name, name, keep }
}

impl From<Flaw> for EventFlaw {
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::Malformed | Flaw::TooLarge => Self::Form,
        }
    }
}

impl From<Reason> for EventFlaw {
    fn from(_: Reason) -> Self {
        Self::Form
    }
}
