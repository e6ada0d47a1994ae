//! Taking things back: what every way in comes to.

use super::Decider;
use super::ports::{Answer, Away};
use crate::domain::api_key;
use crate::domain::revocation::{Keep, Lifetimes, Revocation, Target, TargetKind, Which, Wish};
use crate::domain::time::Micros;

/// The scope that taking back needs.
pub const REVOKE_SCOPE: &str = "tollgate:revoke";

/// What somebody wants taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What.
    pub target: Target,
    /// Which of it.
    pub which: Which,
    /// When the token or API key itself ends, where that is known.
    pub expires_at: Option<Micros>,
    /// Why, for people; at most [`REASON_BYTES_MAX`](crate::domain::revocation::REASON_BYTES_MAX).
    pub reason: Box<str>,
    /// Who wants it, for people.
    pub by: Box<str>,
}

/// Why nothing was taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotTakenBack {
    /// The configuration has no such issuer: none of its tokens is accepted anyway.
    UnknownIssuer(Box<str>),
    /// It could not be written down, or nobody knows whether it was.
    Away(Away),
}

impl Decider {
    /// Takes things back, all or none: once answered, no decision that begins on this replica lets them pass. What was
    /// written is answered in the order of what was wanted; what is over already is not.
    pub fn take_back(&self, wanted: Vec<Wanted>) -> Answer<'_, Result<Vec<Revocation>, NotTakenBack>> {
        let policy = self.policy();
        let wish = |wanted: Wanted| {
            let Wanted { target, which, expires_at, reason, by } = wanted;
            let issuer = target.borrowed().issuer;
            let keep = match (policy.lifetimes.get(issuer), target.borrowed().kind) {
                (_, TargetKind::ApiKey) => expires_at.map_or(Keep::Always, Keep::Until),
                // Keys of our own may live for ever.
                _ if issuer == api_key::ISSUER => Keep::Always,
                (Some(lifetimes), kind) => keep(lifetimes, kind, expires_at),
                (None, _) => return Err(NotTakenBack::UnknownIssuer(issuer.into())),
            };
            Ok(Wish { target, which, keep, reason, by })
        };
        let wishes = match wanted.into_iter().map(wish).collect::<Result<Vec<_>, _>>() {
            Ok(wishes) => wishes,
            Err(unknown) => return Answer::Now(Err(unknown)),
        };
        self.log.add(wishes, self.clock.now()).then(|added| Answer::Now(added.map_err(NotTakenBack::Away)))
    }
}

/// How long an entry is needed.
fn keep(lifetimes: &Lifetimes, kind: TargetKind, expires_at: Option<Micros>) -> Keep {
    match (kind, expires_at) {
        (TargetKind::Token | TargetKind::UnnamedToken, Some(expires_at)) => Keep::Until(lifetimes.end_of(expires_at)),
        (
            TargetKind::Token
            | TargetKind::UnnamedToken
            | TargetKind::Session
            | TargetKind::Subject
            | TargetKind::Client
            | TargetKind::Issuer,
            _,
        ) => Keep::For(lifetimes.after_issuing()),
        // One that is published again must not come back into force.
        (TargetKind::SigningKey | TargetKind::ApiKey, _) => Keep::Always,
    }
}
