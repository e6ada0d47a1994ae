//! Taking things back: what every way in comes to.

use std::sync::Arc;

use super::audit::{Outcome, Way, Wisher};
use super::introspection::{Asker, Unpermitted};
use super::ports::{Answer, Away, Cursor, Inspected, Listed, ListedRevocation, Shown};
use super::{Decider, Undecidable, Violation};
use crate::domain::api_key;
use crate::domain::client::{self, MayRevoke};
use crate::domain::decision::{Class, Reason};
use crate::domain::identity::{Identity, IdentityKind};
use crate::domain::policy::Policy;
use crate::domain::question::{Certificate, Credential};
use crate::domain::revocation::{
    Keep, LAST_MOMENT, Lifetimes, MarkId, Revocation, Target, TargetKind, TargetRef, Which, Wish, target_of,
};
use crate::domain::time::Micros;

#[cfg(test)]
mod tests;

/// The scope that taking back needs.
pub const REVOKE_SCOPE: &str = "tollgate:revoke";

/// The longest name of a caller that is noted, in characters: it is kept with each entry.
const BY_CHARS_MAX: usize = 256;

/// What somebody wants taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What.
    pub target: Target,
    /// Which of it.
    pub which: Which,
    /// When the token itself ends, where that is known. Of API keys it makes no difference.
    pub expires_at: Option<Micros>,
    /// Why, for people; at most [`REASON_BYTES_MAX`](crate::domain::revocation::REASON_BYTES_MAX).
    pub reason: Box<str>,
    /// Who wants it, for people. So much at a time is taken back for each.
    pub by: Box<str>,
}

/// Why nothing was taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotTakenBack {
    /// The configuration has no such issuer: none of its tokens is accepted anyway.
    UnknownIssuer(Box<str>),
    /// Whoever wants it asked for too much lately.
    TooMany {
        /// After how long it may be asked for again.
        retry_after: Micros,
    },
    /// It could not be written down, or nobody knows whether it was. To ask again does no harm.
    Away(Away),
}

/// Who takes things back, once it is known that it may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoker {
    way: Way,
    /// For people.
    by: Box<str>,
    /// The client whose tokens alone it may take back; none: it may take back everything.
    only_of: Option<Box<str>>,
}

/// What a caller asks to have taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked<'a> {
    /// A token or API key, as it is shown; it may be anything.
    Shown(&'a str),
    /// Something by its name.
    Named(Target, Which),
    /// What was signed with the key that an issuer calls so now. Later keys of that name are not meant.
    KeyId {
        /// The issuer.
        issuer: &'a str,
        /// `kid`.
        kid: &'a str,
    },
}

/// What became of one thing that was to be taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TakenBack {
    /// This was written.
    Written(Revocation),
    /// Whatever it could have hit has ended.
    NothingLeft,
    /// The token that was shown is good nowhere, or not one that the caller may take back. Nothing was written: else
    /// anybody could fill the log.
    NotGood,
}

/// Why nothing was revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotRevoked {
    /// Something was named that is not there.
    Undecidable(Undecidable),
    /// The caller may take back tokens of its own, which it shows, and nothing else.
    OnlyItsOwn,
    /// Whose a token is could not be found out; or its issuer was taken out of the configuration just now.
    Unknown(Reason),
    /// The caller asked for too much lately.
    TooMany {
        /// After how long it may be asked for again.
        retry_after: Micros,
    },
    /// It could not be written down, or nobody knows whether it was. To ask again does no harm.
    Away(Away),
}

/// Which entries are listed; none: any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filter<'a> {
    /// Those of a kind.
    pub kind: Option<TargetKind>,
    /// Those of an issuer. What is known of an entry that a replica restored does not tell its issuer.
    pub issuer: Option<&'a str>,
}

impl Decider {
    /// Who `asker` is, if it may take something back: an operator with the scope [`REVOKE_SCOPE`], or a client of the
    /// configuration.
    pub fn permit_revoker<'a>(&'a self, asker: Asker<'a>, way: Way) -> Answer<'a, Result<Revoker, Unpermitted>> {
        match asker {
            Asker::Operator(credential, certificate) => {
                self.permit_operator(credential, certificate, REVOKE_SCOPE).then(move |verdict| match verdict {
                    Ok(identity) => Answer::Now(Ok(Revoker { way, by: described(&identity), only_of: None })),
                    Err(reason) => self.refuse_operator(credential, certificate, way, reason),
                })
            }
            Asker::Client(spellings) => {
                let policy = self.policy();
                let Some(client) = client::authenticated(&policy.clients, spellings) else {
                    self.note_refusal(way, "", "unknown_client");
                    return Answer::Now(Err(Unpermitted::Client));
                };
                let only_of = match client.may_revoke {
                    MayRevoke::Every => None,
                    MayRevoke::Own => Some(client.id.clone()),
                };
                Answer::Now(Ok(Revoker { way, by: format!("client {}", client.id).into(), only_of }))
            }
        }
    }

    /// Notes who was refused, which the verdict does not tell.
    fn refuse_operator<'a>(
        &'a self,
        credential: Credential<'a>,
        certificate: Option<&'a Certificate<'a>>,
        way: Way,
        reason: Reason,
    ) -> Answer<'a, Result<Revoker, Unpermitted>> {
        let refused = move |by: &str| {
            self.note_refusal(way, by, reason.name());
            Answer::Now(Err(Unpermitted::Operator(reason)))
        };
        let shown = match (reason.class(), credential, certificate) {
            (Class::PermissionDenied, Credential::Bearer(token), _) => Shown::Token(token),
            (Class::PermissionDenied, Credential::ApiKey(key), _) => Shown::ApiKey(key),
            (Class::PermissionDenied, _, Some(certificate)) => {
                return refused(&format!("certificate {}", certificate.names.first().map_or("", |name| name)));
            }
            _ => return refused(""),
        };
        let inspected = self.tokens.inspect(shown, self.clock.now());
        inspected
            .then(move |Inspected { verdict, .. }| refused(verdict.map_or("".into(), |who| described(&who)).as_ref()))
    }

    /// Takes back what is asked, all or none: what became of each, in order. Once answered, no decision that begins on
    /// this replica lets what was written pass.
    pub fn revoke<'a>(
        &'a self,
        revoker: &'a Revoker,
        asked: Vec<Asked<'a>>,
        reason: &'a str,
    ) -> Answer<'a, Result<Vec<TakenBack>, NotRevoked>> {
        let Revoker { way, by, only_of } = revoker;
        let wisher = Wisher { way: *way, by, reason };
        if only_of.is_some() && !asked.iter().all(|asked| matches!(asked, Asked::Shown(_))) {
            self.note_refusal(*way, by, Reason::InsufficientScope.name());
            return Answer::Now(Err(NotRevoked::OnlyItsOwn));
        }
        if let Err(retry_after) = self.paced(wisher, asked.len()) {
            return Answer::Now(Err(NotRevoked::TooMany { retry_after }));
        }
        Answer::later(async move {
            let entries = asked.len();
            let mut wanted = Vec::with_capacity(entries);
            let mut violations = Vec::new();
            for (index, asked) in asked.into_iter().enumerate() {
                match self.wanted(revoker, asked).await {
                    Ok(found) => wanted.push(found.map(|(target, which, expires_at)| Wanted {
                        target,
                        which,
                        expires_at,
                        reason: reason.into(),
                        by: by.clone(),
                    })),
                    Err(Unwanted::Unknown(reason)) => {
                        self.note_failure(Outcome::Away, wisher, entries, reason.name());
                        return Err(NotRevoked::Unknown(reason));
                    }
                    Err(Unwanted::NotThere(field, description)) => {
                        violations.push(Violation { field: format!("targets[{index}].{field}"), description });
                    }
                }
            }
            if !violations.is_empty() {
                self.note_failure(Outcome::Malformed, wisher, entries, "not_there");
                return Err(NotRevoked::Undecidable(Undecidable { violations }));
            }
            for _ in wanted.iter().filter(|wanted| wanted.is_none()) {
                self.note_unwritten(Outcome::NotGood, wisher, None);
            }
            let sent: Vec<Wanted> = wanted.iter().flatten().cloned().collect();
            let mut written = self.write(sent, *way).get().await?.into_iter();
            let outcomes = wanted.into_iter().map(|wanted| match wanted {
                None => TakenBack::NotGood,
                Some(_) => written.next().flatten().map_or(TakenBack::NothingLeft, TakenBack::Written),
            });
            Ok(outcomes.collect())
        })
    }

    /// What `asked` stands for; none: a token that is not good here.
    async fn wanted(
        &self,
        revoker: &Revoker,
        asked: Asked<'_>,
    ) -> Result<Option<(Target, Which, Option<Micros>)>, Unwanted> {
        let policy = self.policy();
        match asked {
            // Whether it was revoked before is not asked: it does no harm to say it twice.
            Asked::Shown(token) => match self.tokens.inspect(Shown::Token(token), self.clock.now()).get().await.verdict
            {
                Ok(identity) => {
                    // One that only its issuer can read need not say when it ends: it may outlive whatever is demanded of others.
                    let expires_at = identity.expires_at.or(Some(LAST_MOMENT));
                    Ok(own_target(revoker, &identity).map(|target| (target, Which::All, expires_at)))
                }
                Err(reason) if reason.class() == Class::DependencyUnavailable => Err(Unwanted::Unknown(reason)),
                Err(_) => Ok(None),
            },
            Asked::Named(target, which) => {
                let TargetRef { kind, issuer, .. } = target.borrowed();
                if lifetimes(&policy, issuer, kind).is_some() {
                    return Ok(Some((target, which, None)));
                }
                let field = match kind {
                    TargetKind::Issuer => "issuer",
                    TargetKind::Token => "jti.issuer",
                    TargetKind::Session => "session.issuer",
                    TargetKind::Subject => "subject.issuer",
                    TargetKind::Client => "client.issuer",
                    TargetKind::SigningKey => "signing_key.issuer",
                    TargetKind::UnnamedToken | TargetKind::ApiKey => "token",
                };
                Err(unknown_issuer(field))
            }
            Asked::KeyId { issuer, kid } => match self.tokens.signing_keys(issuer, kid) {
                Ok(keys) if keys.len() == 1 => {
                    Ok(keys.first().map(|key| (Target::signing_key(issuer, key), Which::All, None)))
                }
                Ok(_) => Err(Unwanted::NotThere(
                    "signing_key.kid",
                    "names several keys of this issuer; name one of them by its thumbprint".to_owned(),
                )),
                Err(Reason::UnknownIssuer) => Err(unknown_issuer("signing_key.issuer")),
                Err(reason) if reason.class() == Class::DependencyUnavailable => Err(Unwanted::Unknown(reason)),
                Err(_) => Err(Unwanted::NotThere(
                    "signing_key.kid",
                    "names none of the keys that this issuer has now; name it by its thumbprint".to_owned(),
                )),
            },
        }
    }

    /// Takes things back, all or none: once answered, no decision that begins on this replica lets them pass. What was
    /// written is answered in the order of what was wanted; what is over already is not.
    pub fn take_back(&self, wanted: Vec<Wanted>, way: Way) -> Answer<'_, Result<Vec<Revocation>, NotTakenBack>> {
        if let Some(Wanted { by, reason, .. }) = wanted.first()
            && let Err(retry_after) = self.paced(Wisher { way, by, reason }, wanted.len())
        {
            return Answer::Now(Err(NotTakenBack::TooMany { retry_after }));
        }
        self.write(wanted, way)
            .then(|written| Answer::Now(written.map(|written| written.into_iter().flatten().collect())))
    }

    fn paced(&self, wisher: Wisher<'_>, entries: usize) -> Result<(), Micros> {
        let paced = self.pace.take(wisher.by, entries as u64, self.clock.steady());
        paced.inspect_err(|_| self.note_failure(Outcome::TooMany, wisher, entries, "rate"))
    }

    /// What was written of each, in order; none: it is over already.
    fn write(&self, wanted: Vec<Wanted>, way: Way) -> Answer<'_, Result<Vec<Option<Revocation>>, NotTakenBack>> {
        let policy = self.policy();
        let wish = |wanted: &Wanted| {
            let Wanted { target, which, expires_at, reason, by } = wanted;
            let TargetRef { kind, issuer, .. } = target.borrowed();
            let Some(lives) = lifetimes(&policy, issuer, kind) else {
                return Err(NotTakenBack::UnknownIssuer(issuer.into()));
            };
            let (keep, ahead) = match (kind, lives) {
                // Keys of our own may live for ever; when one ends, the configuration can say otherwise later.
                (_, Lives::Ours) => (Keep::Always, Micros::ZERO),
                (_, Lives::So(lifetimes)) => (keep(&lifetimes, kind, *expires_at), lifetimes.clock_ahead),
            };
            let (reason, by) = (reason.clone(), by.clone());
            Ok(Wish { target: target.clone(), which: *which, ahead, keep, reason, by })
        };
        let wishes = match wanted.iter().map(wish).collect::<Result<Vec<_>, _>>() {
            Ok(wishes) => wishes,
            Err(unknown) => return Answer::Now(Err(unknown)),
        };
        if wishes.is_empty() {
            return Answer::Now(Ok(Vec::new()));
        }
        let wanted: Arc<[Wanted]> = wanted.into();
        let asked = Arc::clone(&wanted);
        let gone = Otherwise(Some(move || self.note_unknown(way, &asked, ABANDONED)));
        self.log.add(wishes, self.clock.now()).then(move |added| {
            gone.never();
            Answer::Now(self.noted(&wanted, way, added))
        })
    }

    /// Notes what became of each wish, and says it.
    fn noted(
        &self,
        wanted: &[Wanted],
        way: Way,
        added: Result<Vec<Revocation>, Away>,
    ) -> Result<Vec<Option<Revocation>>, NotTakenBack> {
        let written = match added {
            Ok(written) => written,
            Err(away) => {
                self.note_unknown(way, wanted, &away.to_string());
                return Err(NotTakenBack::Away(away));
            }
        };
        let mut written = written.into_iter().peekable();
        let outcome = |wanted: &Wanted| {
            let Wanted { target, by, reason, .. } = wanted;
            let wisher = Wisher { way, by, reason };
            // In order, without those that are over already.
            let own = written.next_if(|written| written.target == *target);
            match &own {
                Some(own) => self.note_revoked(wisher, own),
                None => self.note_unwritten(Outcome::NothingLeft, wisher, Some(target.borrowed())),
            }
            own
        };
        Ok(wanted.iter().map(outcome).collect())
    }

    /// Some entries, from a cursor on, for a revoker that may take back everything. A page may be empty although there
    /// are more.
    pub fn revocations<'a>(
        &'a self,
        revoker: &Revoker,
        from: Cursor,
        filter: Filter<'a>,
    ) -> Answer<'a, Result<Listed, NotRevoked>> {
        if revoker.only_of.is_some() {
            self.note_refusal(revoker.way, &revoker.by, Reason::InsufficientScope.name());
            return Answer::Now(Err(NotRevoked::OnlyItsOwn));
        }
        self.log.list(from, self.clock.now()).then(move |listed| {
            let listed = listed.map_err(NotRevoked::Away);
            Answer::Now(listed.map(|Listed { entries, next }| {
                let entries = entries.into_iter().filter(|entry| filter.lets_pass(entry)).collect();
                Listed { entries, next }
            }))
        })
    }

    /// Removes an entry, for a revoker that may take back everything: what it hit, and no other entry hits, is good again.
    /// None: there is no such entry.
    pub fn unrevoke<'a>(
        &'a self,
        revoker: &'a Revoker,
        id: MarkId,
        reason: &'a str,
    ) -> Answer<'a, Result<Option<ListedRevocation>, NotRevoked>> {
        let Revoker { way, by, only_of } = revoker;
        let wisher = Wisher { way: *way, by, reason };
        if only_of.is_some() {
            self.note_refusal(*way, by, Reason::InsufficientScope.name());
            return Answer::Now(Err(NotRevoked::OnlyItsOwn));
        }
        if let Err(retry_after) = self.paced(wisher, 1) {
            return Answer::Now(Err(NotRevoked::TooMany { retry_after }));
        }
        let gone = Otherwise(Some(move || self.note_failure(Outcome::Away, wisher, 1, ABANDONED)));
        self.log.undo(id, self.clock.now()).then(move |undone| {
            gone.never();
            match &undone {
                Ok(gone) => self.note_unrevoked(wisher, id, gone.as_ref()),
                Err(away) => self.note_failure(Outcome::Away, wisher, 1, &away.to_string()),
            }
            Answer::Now(undone.map_err(NotRevoked::Away))
        })
    }
}

impl From<NotTakenBack> for NotRevoked {
    fn from(not: NotTakenBack) -> Self {
        match not {
            // The configuration was read again a moment ago.
            NotTakenBack::UnknownIssuer(_) => Self::Unknown(Reason::UnknownIssuer),
            NotTakenBack::TooMany { retry_after } => Self::TooMany { retry_after },
            NotTakenBack::Away(away) => Self::Away(away),
        }
    }
}

impl Filter<'_> {
    fn lets_pass(&self, listed: &ListedRevocation) -> bool {
        let is_of = |issuer| listed.written.as_ref().is_some_and(|written| written.target.borrowed().issuer == issuer);
        self.kind.is_none_or(|kind| listed.entry.mark.kind == kind) && self.issuer.is_none_or(is_of)
    }
}

/// Says that nobody was there any more to hear what became of a call.
const ABANDONED: &str = "abandoned";

/// Does something unless it is told in time that there is no need: whoever asked may go away while the log writes, and what is
/// written then is written all the same.
struct Otherwise<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Otherwise<F> {
    fn never(mut self) {
        self.0 = None;
    }
}

impl<F: FnOnce()> Drop for Otherwise<F> {
    fn drop(&mut self) {
        if let Some(act) = self.0.take() {
            act();
        }
    }
}

/// Why something is not wanted after all.
enum Unwanted {
    /// It could not be found out.
    Unknown(Reason),
    /// A field names something that is not there: which, and what is wrong with it.
    NotThere(&'static str, String),
}

fn unknown_issuer(field: &'static str) -> Unwanted {
    Unwanted::NotThere(
        field,
        "is no issuer of the configuration, byte by byte; none of its tokens is accepted".to_owned(),
    )
}

/// How long what a target hits may live.
enum Lives {
    /// As long as the holder of a key of ours likes.
    Ours,
    /// As tokens of that issuer.
    So(Lifetimes),
}

/// How long what it hits may live; none: nothing that it could hit is accepted.
fn lifetimes(policy: &Policy, issuer: &str, kind: TargetKind) -> Option<Lives> {
    if kind == TargetKind::ApiKey || issuer == api_key::ISSUER {
        return Some(Lives::Ours);
    }
    policy.lifetimes.get(issuer).copied().map(Lives::So)
}

/// What takes back the token of `identity`, and nothing else; none where `revoker` may not.
fn own_target(revoker: &Revoker, identity: &Identity) -> Option<Target> {
    let is_own = |client: &str| identity.kind != IdentityKind::ApiKey && identity.client.as_deref() == Some(client);
    if !revoker.only_of.as_deref().is_none_or(is_own) {
        return None;
    }
    let kinds = [TargetKind::Token, TargetKind::UnnamedToken, TargetKind::ApiKey];
    let TargetRef { kind, issuer, name } = kinds.into_iter().find_map(|kind| target_of(identity, kind))?;
    Some(Target::new(kind, issuer, name))
}

/// Who it is, for people. An issuer's name comes last: it is the configuration's, and no subject can feign another.
fn described(identity: &Arc<Identity>) -> Box<str> {
    let name = |name: &Option<Box<str>>| name.as_deref().unwrap_or_default().to_owned();
    let subject: String = identity
        .subject
        .iter()
        .chain(&identity.client)
        .take(1)
        .flat_map(|name| name.chars())
        .take(BY_CHARS_MAX)
        .collect();
    let described = match identity.kind {
        IdentityKind::Jwt | IdentityKind::Opaque => format!("{subject} of {}", identity.issuer),
        IdentityKind::ApiKey => format!("API key {} of {subject}", name(&identity.token_id)),
        IdentityKind::Certificate => {
            format!("certificate {}", identity.names.first().map_or(subject.as_str(), |name| name))
        }
    };
    described.into()
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
