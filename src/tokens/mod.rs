//! Whose a token is: JSON Web Tokens, verified with the keys of the issuers that are configured, and opaque tokens, about
//! which their issuer is asked ([`opaque`]).
//!
//! A remembered verdict ([`remembered`]), else the token is read ([`jwt`]), its signature checked with the keys in hand
//! ([`keys`], [`jwks`], [`jwk`]) and its claims judged ([`claims`]), all without waiting but where many are checked already
//! ([`turns`]). Only a token whose key is not in hand waits for somebody else, for at most a second, and only where a
//! refresh of its issuer's keys is under way or may be asked for.
//! Whether the caller holds the key that a token is bound to is asked each time ([`proof`]).
//!
//! Signatures are checked with aws-lc-rs itself, with keys that were parsed when they were fetched. jsonwebtoken would
//! parse the key anew for each token (an eighth of an RS256 check), and reads headers and claims leniently.

mod actors;
mod api_keys;
#[cfg(test)]
mod attacks;
mod binding;
mod claims;
#[cfg(test)]
mod cluster;
mod dates;
mod discovery;
mod events;
mod fetch;
mod fingerprint;
#[cfg(test)]
mod fuzz;
mod issuers;
mod json;
mod jwk;
mod jwks;
mod jwt;
mod keys;
#[cfg(test)]
mod mint;
mod opaque;
mod places;
mod proof;
mod remembered;
mod schedule;
#[cfg(test)]
#[path = "../../tests/support/signer.rs"]
mod signer;
mod status;
mod turns;
#[cfg(test)]
mod upkeep;
#[cfg(test)]
mod vectors;
mod weak;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::pending;
use std::num::NonZero;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::available_parallelism;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use tokio::sync::watch;

use self::api_keys::ApiKeys;
pub use self::api_keys::{Kept, KeyRing};
use self::claims::Accepted;
use self::fingerprint::{Fingerprint, Fingerprints};
pub use self::issuers::Prepared;
use self::issuers::{Issuers, Trusted};
use self::jwks::KeySet;
use self::jwt::{Compact, TOKEN_BYTES_MAX, Unverified};
pub use self::keys::IssuerHealth;
use self::opaque::Introspector;
use self::proof::Prover;
use self::remembered::{Good, REMEMBERED_FOR, Remembered};
use self::turns::{NotNow, Turns};
use crate::decide::ports::{
    Answer, Clock, EventSink, Inspected, ProofLog, Proved, Shown, Standing, TokenHashes, TokenInspector, Verdict,
};
use crate::domain::api_key;
use crate::domain::decision::Reason;
use crate::domain::identity::{Identity, Thumbprint};
use crate::domain::issuer::Issuer;
use crate::domain::name::NamePattern;
use crate::domain::question::Question;
use crate::domain::revocation::unnamed;
use crate::domain::time::Moment;
use crate::telemetry::Telemetry;

/// How many verdicts are remembered unless configured otherwise.
pub const VERDICTS_MAX_DEFAULT: usize = 100_000;

/// How long a token waits for a key that is not in hand. Callers that came with the first token of a new key are
/// served; with longer waits, made-up keys would pile up questions.
const KEY_WAIT: Duration = Duration::from_secs(1);

/// How many refreshes a token waits for: the one that was under way when it came, and one that it asked for.
const REFRESHES_MAX: usize = 2;

/// Validates tokens. Dropping it stops the renewal of keys.
pub struct Tokens {
    clock: Arc<dyn Clock>,
    telemetry: Arc<Telemetry>,
    issuers: ArcSwap<Issuers>,
    fingerprints: Fingerprints,
    turns: Turns,
    remembered: Arc<Remembered>,
    /// Names of certificates that are credentials by themselves; empty: none are.
    certificates: ArcSwap<Vec<NamePattern>>,
    prover: Prover,
    /// What was used once and must not be used again: proofs, and what issuers told.
    proofs: Arc<dyn ProofLog>,
    api_keys: ApiKeys,
    /// Held while the issuers are replaced, by one at a time.
    replacing: Mutex<()>,
    /// Told whenever they were.
    replaced: watch::Sender<()>,
}

/// How far a token got with the keys in hand.
enum Outcome {
    Settled(Verdict),
    /// With the reason where no newer key comes.
    NoKey(Arc<Trusted>, Reason),
    Ask(Arc<Introspector>, Fingerprint),
}

impl Tokens {
    /// Accepts no tokens until issuers are [adopted](Self::adopt). Remembers up to `verdicts_max` verdicts; see
    /// [`VERDICTS_MAX_DEFAULT`]. Used `DPoP` proofs are remembered in `proofs`. An error is a sentence: there is no randomness.
    pub fn new(
        clock: Arc<dyn Clock>,
        telemetry: Arc<Telemetry>,
        verdicts_max: usize,
        proofs: Arc<dyn ProofLog>,
    ) -> Result<Arc<Self>, String> {
        let fingerprints = Fingerprints::draw().map_err(|_| "there is no randomness to draw keys from")?;
        Ok(Arc::new(Self {
            fingerprints,
            turns: Turns::among(available_parallelism().map_or(1, NonZero::get)),
            prover: Prover::new(Arc::clone(&proofs), &telemetry),
            proofs,
            remembered: Arc::new(Remembered::new(verdicts_max, &telemetry)),
            api_keys: ApiKeys::new(Arc::clone(&clock), Arc::clone(&telemetry)),
            clock,
            telemetry,
            issuers: ArcSwap::default(),
            certificates: ArcSwap::default(),
            replacing: Mutex::new(()),
            replaced: watch::Sender::new(()),
        }))
    }

    /// Accepts the tokens of these issuers from now on, or, if one of them cannot be used, of those so far; then each
    /// error is a sentence that names an issuer. Must be called within a Tokio runtime.
    pub fn adopt(&self, issuers: Vec<Issuer>) -> Result<(), Vec<String>> {
        self.prepare(issuers).map(|prepared| self.commit(prepared))
    }

    /// Demands of each `DPoP` proof a nonce from now on (RFC 9449 §9): replicas with the same secret accept each other's.
    /// None: proofs need no nonce.
    pub fn demand_nonces(&self, secret: Option<&str>) {
        self.prover.demand_nonces(secret);
    }

    /// The first half of [`adopt`](Self::adopt): checks the issuers and reads their key files, which may block for a
    /// moment. Changes nothing. Whatever is prepared is to be committed or dropped before the next is prepared.
    pub fn prepare(&self, issuers: Vec<Issuer>) -> Result<Prepared, Vec<String>> {
        self.issuers.load().prepare(issuers, &self.clock)
    }

    /// The second half of [`adopt`](Self::adopt): puts prepared issuers into force and starts fetching the keys of new
    /// ones. Must be called within a Tokio runtime.
    pub fn commit(&self, prepared: Prepared) {
        let _one_at_a_time = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.issuers.load_full();
        let next = Arc::new(Issuers::succeeding(prepared, &old));
        self.issuers.store(Arc::clone(&next));
        for gone in old.asked_no_more(&next) {
            gone.end();
        }
        for gone in old.gone(&next) {
            gone.keys.end();
        }
        for trusted in next.iter() {
            trusted.keys.start(&trusted.settings, &trusted.fetcher, &self.telemetry);
            if let Some(introspector) = &trusted.introspector {
                introspector.start(&self.telemetry);
            }
        }
        self.replaced.send_replace(());
    }

    /// Fetches what issuers have to tell, where they are to be asked for it (RFC 8936), and has `sink` do it. Never
    /// ends.
    pub async fn poll_events(&self, sink: &dyn EventSink) {
        let mut replaced = self.replaced.subscribe();
        loop {
            replaced.mark_unchanged();
            let issuers = self.issuers.load_full();
            let polls = issuers.iter().map(|trusted| events::poll::follow(trusted, sink, &self.clock, &self.telemetry));
            // Those that are over, because nobody is to be asked, are no reason to begin anew.
            let polling = async {
                join_all(polls).await;
                pending::<()>().await;
            };
            tokio::select! {
                () = polling => {}
                _ = replaced.changed() => {}
            }
        }
    }

    /// Takes certificates with such names as credentials from now on.
    pub fn accept_certificates(&self, names: Vec<NamePattern>) {
        self.certificates.store(Arc::new(names));
    }

    /// Accepts these API keys from now on, and no others.
    pub fn adopt_api_keys(&self, ring: KeyRing) {
        self.api_keys.adopt(ring);
    }

    /// How each issuer's keys are, sorted by issuer.
    pub fn health(&self) -> Vec<IssuerHealth> {
        let now = self.clock.steady();
        let mut health: Vec<_> = self.issuers.load().iter().map(|trusted| trusted.health(now)).collect();
        health.sort_by(|a, b| a.issuer.cmp(&b.issuer));
        health
    }

    /// Waits until the first attempt to get keys has ended for each issuer that is configured now, well or not.
    pub fn first_fetch(&self) -> impl Future<Output = ()> + Send + use<> {
        let attempts: Vec<_> = self.issuers.load().iter().map(|trusted| trusted.keys.first_attempt()).collect();
        async move {
            for attempt in attempts {
                attempt.await;
            }
        }
    }

    /// Verifies a token with the keys in hand, and remembers the verdict if it is good. The fingerprint is of that token
    /// under those very issuers. `turn` is asked for the turn to check a signature; where that fails, so does this.
    fn verify<T, E>(
        &self,
        issuers: &Issuers,
        token: &str,
        fingerprint: Fingerprint,
        turn: impl FnOnce() -> Result<T, E>,
        now: Moment,
    ) -> Result<Outcome, E> {
        Ok(match verify(issuers, token, turn, now) {
            Ok(good) => {
                let identity = Arc::clone(&good.identity);
                self.remembered.remember(fingerprint, good, now);
                Outcome::Settled(Ok(identity))
            }
            Err(Refusal::Final(reason)) => Outcome::Settled(Err(reason)),
            Err(Refusal::NoKey(trusted, reason)) => Outcome::NoKey(trusted, reason),
            Err(Refusal::Ask(introspector)) => Outcome::Ask(introspector, fingerprint),
            Err(Refusal::NoTurn(error)) => return Err(error),
        })
    }

    /// Verifies a token once more, after waiting, when it is its turn: under the issuers that are configured by now.
    async fn verify_again(&self, token: &str, now: Moment) -> Outcome {
        let Some(turn) = self.turns.wait().await else { return Outcome::Settled(Err(Reason::Busy)) };
        let outcome = self.verify_unless_remembered(token, now);
        turn.end().await;
        outcome
    }

    /// Others may have come with the same token, and had their turn.
    fn verify_unless_remembered(&self, token: &str, now: Moment) -> Outcome {
        let issuers = self.issuers.load();
        let fingerprint = self.fingerprints.of(token, issuers.generation());
        if let Some(identity) = self.remembered.recall_after_all(&fingerprint, now) {
            return Outcome::Settled(Ok(identity));
        }
        let Ok(outcome) = self.verify(&issuers, token, fingerprint, || Ok::<_, Infallible>(()), now);
        outcome
    }

    /// Goes on with what became of a token.
    fn settle<'a>(&'a self, outcome: Outcome, token: &'a str, now: Moment) -> Answer<'a, Verdict> {
        match outcome {
            Outcome::Settled(verdict) => Answer::Now(verdict),
            Outcome::NoKey(trusted, _) if trusted.keys.may_come(now.steady) => {
                Answer::later(self.verify_later(token, trusted, now))
            }
            Outcome::NoKey(trusted, reason) => Answer::Now(Err(keyless(&trusted, reason))),
            Outcome::Ask(introspector, fingerprint) => introspector.ask(token, fingerprint, &self.remembered, now),
        }
    }

    /// Waits for refreshes of the issuer's keys, as long as that is allowed and may help.
    async fn verify_later(&self, token: &str, trusted: Arc<Trusted>, now: Moment) -> Verdict {
        let waiting = async {
            let (mut trusted, mut reason) = (trusted, Reason::UnknownKey);
            for _ in 0..REFRESHES_MAX {
                let refreshed = trusted.keys.refreshed(now.steady).await;
                // Even where there was nothing to wait for: a refresh may have ended a moment ago.
                match self.verify_again(token, now).await {
                    Outcome::Settled(verdict) => return verdict,
                    Outcome::NoKey(still, why) => (trusted, reason) = (still, why),
                    Outcome::Ask(introspector, fingerprint) => {
                        return introspector.ask(token, fingerprint, &self.remembered, now).get().await;
                    }
                }
                if !refreshed {
                    break;
                }
            }
            Err(keyless(&trusted, reason))
        };
        match tokio::time::timeout(KEY_WAIT, waiting).await {
            Ok(verdict) => verdict,
            // Time is up: whatever has come in the meantime counts.
            Err(_) => match self.verify_again(token, now).await {
                Outcome::Settled(verdict) => verdict,
                Outcome::NoKey(trusted, reason) => Err(keyless(&trusted, reason)),
                // Since a moment ago its issuer is to be asked, and there is no time for that.
                Outcome::Ask(..) => Err(Reason::IssuerAway),
            },
        }
    }
}

impl Tokens {
    /// The verdict on what is shown, where `fingerprint` takes that of a token under issuers of a generation.
    fn inspect_by<'a>(
        &'a self,
        fingerprint: impl FnOnce(&'a str, u64) -> Fingerprint,
        shown: Shown<'a>,
        now: Moment,
    ) -> Answer<'a, Inspected> {
        let made = |verdict| Inspected { verdict, remembered: false };
        let token = match shown {
            // People paste keys where tokens go. Whatever begins like one is shown to nobody else.
            Shown::Token(key) if key.starts_with(api_key::PREFIX) => return self.api_keys.inspect(key, now),
            Shown::Token(token) => token,
            Shown::ApiKey(key) => return self.api_keys.inspect(key, now),
            Shown::Certificate(certificate) => {
                return Answer::Now(made(certificate.identify(&self.certificates.load(), now.wall).map(Arc::new)));
            }
        };
        // Before anything looks at all of it.
        if token.len() > TOKEN_BYTES_MAX {
            return Answer::Now(made(Err(Reason::TokenTooLarge)));
        }
        let issuers = self.issuers.load();
        let fingerprint = fingerprint(token, issuers.generation());
        if let Some(identity) = self.remembered.recall(&fingerprint, now) {
            return Answer::Now(Inspected { verdict: Ok(identity), remembered: true });
        }
        let verdict = match self.verify(&issuers, token, fingerprint, || self.turns.take(now.steady), now) {
            Ok(outcome) => self.settle(outcome, token, now),
            Err(NotNow) => Answer::later(async move {
                let outcome = self.verify_again(token, now).await;
                self.settle(outcome, token, now).get().await
            }),
        };
        verdict.then(move |verdict| Answer::Now(made(verdict)))
    }
}

impl TokenInspector for Tokens {
    fn inspect<'a>(&'a self, shown: Shown<'a>, now: Moment) -> Answer<'a, Inspected> {
        self.inspect_by(|token, generation| self.fingerprints.of(token, generation), shown, now)
    }

    fn inspect_among<'a>(
        &'a self,
        shown: Shown<'a>,
        hashes: &mut TokenHashes<'a>,
        now: Moment,
    ) -> Answer<'a, Inspected> {
        let fingerprint = |token, generation| {
            let hash = hashes.of(token, |token| self.fingerprints.hash(token));
            Fingerprint::new(hash, generation)
        };
        self.inspect_by(fingerprint, shown, now)
    }

    fn knows(&self, shown: Shown<'_>, now: Moment) -> bool {
        match shown {
            Shown::Token(key) if key.starts_with(api_key::PREFIX) => self.api_keys.knows(key, now),
            Shown::Token(token) if token.len() > TOKEN_BYTES_MAX => false,
            Shown::Token(token) => {
                let fingerprint = self.fingerprints.of(token, self.issuers.load().generation());
                self.remembered.recall_after_all(&fingerprint, now).is_some()
            }
            Shown::ApiKey(key) => self.api_keys.knows(key, now),
            // Whoever asks has checked it, so nothing is left to guess.
            Shown::Certificate(certificate) => certificate.identify(&self.certificates.load(), now.wall).is_ok(),
        }
    }

    fn prove<'a>(&'a self, identity: &Arc<Identity>, question: &'a Question<'a>, now: Moment) -> Answer<'a, Proved> {
        self.prover.prove(identity, question, now)
    }

    fn status<'a>(&'a self, identity: &Arc<Identity>, now: Moment) -> Answer<'a, Standing> {
        let Some(status) = &identity.status else { return Answer::Now(Standing::Good) };
        // The configuration is another since a moment ago, and nobody vouches for the token any more.
        let Some(trusted) = self.issuers.load().get(&identity.issuer).cloned() else {
            return Answer::Now(Standing::Unknown);
        };
        Arc::clone(&trusted.lists).standing(status, now, &self.telemetry)
    }

    fn signing_keys(&self, issuer: &str, kid: &str) -> Result<Vec<Thumbprint>, Reason> {
        let issuers = self.issuers.load();
        let trusted = issuers.get(issuer).ok_or(Reason::UnknownIssuer)?;
        let keys = trusted.keys.current();
        let named = keys.as_ref().ok_or(Reason::KeysAway)?.named(kid);
        let thumbprints: BTreeSet<Thumbprint> = named.iter().map(|key| **key.thumbprint()).collect();
        if thumbprints.is_empty() { Err(Reason::UnknownKey) } else { Ok(thumbprints.into_iter().collect()) }
    }
}

/// Why a token was not accepted.
enum Refusal<E> {
    Final(Reason),
    NoKey(Arc<Trusted>, Reason),
    /// Its issuer has to be asked.
    Ask(Arc<Introspector>),
    /// There was no turn for its signature.
    NoTurn(E),
}

impl<E> From<Reason> for Refusal<E> {
    fn from(reason: Reason) -> Self {
        Self::Final(reason)
    }
}

fn verify<T, E>(
    issuers: &Issuers,
    token: &str,
    turn: impl FnOnce() -> Result<T, E>,
    now: Moment,
) -> Result<Good, Refusal<E>> {
    let unread = |why| issuers.unread(token).map_or(Refusal::Final(why), Refusal::Ask);
    let decoded = Compact::split(token).and_then(Compact::decode).map_err(unread)?;
    let claimed = decoded.read().map_err(unread)?;
    let trusted = issuers.get(claimed.issuer()?).ok_or(Reason::UnknownIssuer)?;
    if let Some(introspector) = trusted.introspector.as_ref().filter(|introspector| introspector.is_for_all()) {
        // Some say of every token of theirs that it is active, and not of which kind it is.
        claimed.check_kind(&trusted.settings)?;
        return Err(Refusal::Ask(Arc::clone(introspector)));
    }
    let keys = trusted.keys.current();
    let none = KeySet::default();
    let keys = keys.as_deref().unwrap_or(&none);
    let unverified = |why| match why {
        Unverified::Refused(reason) => Refusal::Final(reason),
        Unverified::NoKey(reason) => Refusal::NoKey(Arc::clone(trusted), reason),
    };
    let candidates = claimed.candidates(&trusted.settings.algorithms, keys).map_err(unverified)?;
    // Clients go on with old tokens, and that costs no check. It tells nothing that the token does not say itself; what it was
    // made for does: which audiences are accepted, say.
    if claimed.has_expired(&trusted.settings, now.wall) {
        return Err(Refusal::Final(Reason::Expired));
    }
    let turn = turn().map_err(Refusal::NoTurn)?;
    let verified = claimed.verify_with(&candidates).map_err(unverified)?;
    drop(turn);
    let Accepted { mut identity, from, until } = claims::judge(&verified, &trusted.settings, &trusted.name, now.wall)?;
    identity.signed_by = Some(Arc::clone(verified.key.thumbprint()));
    identity.token_hash = hash_of_unnamed(&identity, token);
    Ok(Good { identity: Arc::new(identity), key: Some(verified.key), keep: REMEMBERED_FOR, from, until })
}

/// What a token without an id is taken back by.
fn hash_of_unnamed(identity: &Identity, token: &str) -> Option<Box<[u8; 32]>> {
    identity.token_id.is_none().then(|| Box::new(unnamed(&identity.issuer, token)))
}

/// The reason where no key fits: the token's fault if the issuer's keys are known, else nobody can tell.
fn keyless(trusted: &Trusted, reason: Reason) -> Reason {
    if trusted.keys.current().is_some() { reason } else { Reason::KeysAway }
}
