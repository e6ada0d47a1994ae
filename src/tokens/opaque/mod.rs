//! Tokens that only their issuer can read, who is asked about them (RFC 7662).
//!
//! One call for each token, whatever the number of questions that wait for it. Calls at a time, questions that wait, and
//! what is remembered are bounded for each issuer by itself, so one that stalls slows no other. An issuer that fails is
//! left alone for a moment ([`rest`]). Good answers are remembered beside the verdicts on JWTs; refusals apart and
//! briefly, where made-up tokens push out nothing but each other.

mod call;
mod rest;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use metrics::{Counter, Gauge};
use quick_cache::sync::Cache;
use reqwest::StatusCode;
use tokio::sync::{Mutex as Turn, Semaphore, watch};
use url::Url;

use self::call::{Failure, Opinion, Unread};
use self::rest::{Rest, Setback};
use super::claims::Accepted;
use super::discovery::Discovery;
use super::fetch::{self, Fetcher};
use super::fingerprint::Fingerprint;
use super::hash_of_unnamed;
use super::jwks::KeySet;
use super::keys::Keys;
use super::remembered::{Good, Remembered};
use crate::decide::ports::{Answer, Clock, Verdict};
use crate::domain::decision::Reason;
use crate::domain::identity::Identity;
use crate::domain::introspection::{ClientAuth, Introspection};
use crate::domain::issuer::Issuer;
use crate::domain::time::{Micros, Moment};
use crate::telemetry::{Telemetry, names};

/// Questions that wait for one issuer at a time; more are refused at once.
const WAITING_MAX: usize = 1_000;

/// Calls of one issuer at a time; more wait, for half of their deadline.
const CALLS_MAX: usize = 64;

/// Refusals that are remembered, of each issuer.
const REFUSALS_MAX: usize = 10_000;

/// How long a refusal is remembered: a token that was issued a moment ago must not be locked out.
const REFUSED_FOR: Micros = Micros::from_secs(5);

/// Refreshes of the issuer's keys that the reading of one signed answer waits for.
const REFRESHES_MAX: usize = 2;

/// Asks one issuer about its tokens.
pub(super) struct Introspector {
    settings: Issuer,
    introspection: Introspection,
    name: Arc<str>,
    keys: Arc<Keys>,
    fetcher: Fetcher,
    clock: Arc<dyn Clock>,
    place: Place,
    /// Never held across anything that waits.
    ledger: Mutex<Ledger>,
    refusals: Cache<Fingerprint, Refused>,
    wire: Semaphore,
    /// None until it is in force.
    meters: OnceLock<Meters>,
}

enum Place {
    Known(Url),
    /// Found by one at a time.
    Discovered(Box<Turn<Discovery>>),
}

#[derive(Default)]
struct Ledger {
    under_way: HashMap<Fingerprint, watch::Receiver<Option<Verdict>>>,
    waiting: usize,
    rest: Rest,
    problem: Option<String>,
    /// Whether the problem is that it does not accept who we are.
    is_denied: bool,
}

#[derive(Clone, Copy)]
struct Refused {
    reason: Reason,
    /// Steady.
    forget_at: Micros,
}

struct Meters {
    active: Counter,
    refused: Counter,
    failed: Counter,
    denied: Counter,
    spared: Counter,
    up: Gauge,
}

/// A question that waits.
struct Waiting<'i>(&'i Introspector);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.ledger().waiting -= 1;
    }
}

/// A call that is under way. However it ends, nobody joins it any more, and another may find out how the issuer is.
struct UnderWay(Arc<Introspector>, Fingerprint);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut ledger = self.0.ledger();
        ledger.under_way.remove(&self.1);
        ledger.rest.learn_nothing();
    }
}

/// Whether a token may be an opaque one: it has the form of a bearer token (RFC 6750 §2.1), and does not begin as a JWT
/// does, with the JSON object that is its header.
pub(super) fn may_be(token: &str) -> bool {
    use base64::Engine as _;
    let body = token.trim_end_matches('=');
    let is_form =
        !body.is_empty() && body.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte));
    let begins_as_jwt = || {
        let (header, _) = token.split_once('.')?;
        let header = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(header).ok()?;
        serde_json::from_slice::<serde_json::Value>(&header).ok().filter(serde_json::Value::is_object)
    };
    is_form && begins_as_jwt().is_none()
}

impl Introspector {
    /// For an issuer that is to be asked; none where its settings say nothing of it. An error is a sentence.
    pub(super) fn prepare(
        settings: &Issuer,
        name: &Arc<str>,
        keys: &Arc<Keys>,
        fetcher: &Fetcher,
        clock: &Arc<dyn Clock>,
    ) -> Result<Option<Arc<Self>>, String> {
        let Some(introspection) = settings.introspection.clone() else { return Ok(None) };
        let connection = &settings.connection;
        let place = if let Some(url) = &introspection.url {
            Place::Known(fetch::address(url, connection)?)
        } else {
            let by_mtls = introspection.auth == ClientAuth::Mtls;
            let discovery = Discovery::of_endpoint("introspection_endpoint", by_mtls, &settings.issuer, connection)?;
            Place::Discovered(Box::new(Turn::new(discovery)))
        };
        Ok(Some(Arc::new(Self {
            settings: settings.clone(),
            introspection,
            name: Arc::clone(name),
            keys: Arc::clone(keys),
            fetcher: fetcher.clone(),
            clock: Arc::clone(clock),
            place,
            ledger: Mutex::default(),
            refusals: Cache::new(REFUSALS_MAX),
            wire: Semaphore::new(CALLS_MAX),
            meters: OnceLock::new(),
        })))
    }

    /// It is in force: from now on it is counted.
    pub(super) fn start(&self, telemetry: &Telemetry) {
        self.meters.get_or_init(|| {
            let counter = |outcome| telemetry.counter(names::INTROSPECTIONS, &[("outcome", outcome)]);
            let up = telemetry.issuer_gauge(names::INTROSPECTION_UP, &self.name);
            up.set(1.0);
            Meters {
                active: counter("active"),
                refused: counter("refused"),
                failed: counter("failed"),
                denied: counter("denied"),
                spared: counter("spared"),
                up,
            }
        });
    }

    /// The issuer is no longer asked. Series stay as long as the process.
    pub(super) fn end(&self) {
        self.meter(|meters| meters.up.set(f64::NAN));
    }

    /// Whether it is asked about the issuer's JWTs, too.
    pub(super) const fn is_for_all(&self) -> bool {
        self.introspection.all
    }

    /// Whether an opaque token may be its issuer's.
    pub(super) fn is_for(&self, token: &str) -> bool {
        self.introspection.prefix.as_deref().is_none_or(|prefix| token.starts_with(prefix))
    }

    /// Why the issuer cannot be asked; none where it can.
    pub(super) fn problem(&self) -> Option<String> {
        self.ledger().problem.clone()
    }

    /// Whose a token is, as its issuer says.
    pub(super) fn ask<'a>(
        self: Arc<Self>,
        token: &'a str,
        fingerprint: Fingerprint,
        remembered: &'a Arc<Remembered>,
        now: Moment,
    ) -> Answer<'a, Verdict> {
        if let Some(refused) = self.refusals.get(&fingerprint).filter(|refused| now.steady < refused.forget_at) {
            return Answer::Now(Err(refused.reason));
        }
        Answer::later(async move {
            let Some(waiting) = self.wait() else { return Err(self.spare()) };
            let mut verdict = match self.join(token, fingerprint, remembered, now) {
                Ok(verdict) => verdict,
                Err(known) => return known,
            };
            // Whoever makes the verdict always says one, unless the runtime ends.
            let said = verdict.wait_for(Option::is_some).await.map(|verdict| verdict.clone());
            drop(waiting);
            said.ok().flatten().unwrap_or(Err(Reason::IssuerAway))
        })
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // A panic while it was held left nothing half-done.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn meter(&self, count: impl FnOnce(&Meters)) {
        if let Some(meters) = self.meters.get() {
            count(meters);
        }
    }

    /// The reason of a question that is not even asked.
    fn spare(&self) -> Reason {
        self.meter(|meters| meters.spared.increment(1));
        Reason::IssuerAway
    }

    fn wait(&self) -> Option<Waiting<'_>> {
        let mut ledger = self.ledger();
        (ledger.waiting < WAITING_MAX).then(|| {
            ledger.waiting += 1;
            Waiting(self)
        })
    }

    /// Joins the call about that token that is under way, or begins one. An error: there is nothing to wait for.
    fn join(
        self: &Arc<Self>,
        token: &str,
        fingerprint: Fingerprint,
        remembered: &Arc<Remembered>,
        now: Moment,
    ) -> Result<watch::Receiver<Option<Verdict>>, Verdict> {
        let mut ledger = self.ledger();
        if let Some(under_way) = ledger.under_way.get(&fingerprint) {
            return Ok(under_way.clone());
        }
        // One may have ended since it was looked for.
        if let Some(identity) = remembered.recall_after_all(&fingerprint, now) {
            return Err(Ok(identity));
        }
        if ledger.under_way.len() >= WAITING_MAX || !ledger.rest.may_ask(now.steady) {
            drop(ledger);
            return Err(Err(self.spare()));
        }
        let (sender, receiver) = watch::channel(None);
        ledger.under_way.insert(fingerprint, receiver.clone());
        drop(ledger);
        // By itself, so that no caller who goes away takes the answer from the others.
        let (call, token, remembered) =
            (UnderWay(Arc::clone(self), fingerprint), token.to_owned(), Arc::clone(remembered));
        tokio::spawn(async move {
            let verdict = call.0.find_out(&token, fingerprint, &remembered).await;
            drop(call);
            // Nobody waits any more: then nobody needs it.
            let _ = sender.send(Some(verdict));
        });
        Ok(receiver)
    }

    /// Asks the issuer, and remembers what it says.
    async fn find_out(&self, token: &str, fingerprint: Fingerprint, remembered: &Remembered) -> Verdict {
        let deadline = Duration::from(self.introspection.deadline);
        let call = async {
            // What is sent has half of the time at least: else a flood of made-up tokens would look like a slow issuer.
            let turn = tokio::time::timeout(deadline / 2, self.wire.acquire()).await;
            if let Ok(Ok(_turn)) = turn { Some(self.call(token).await) } else { None }
        };
        let outcome = match tokio::time::timeout(deadline, call).await {
            Ok(Some(outcome)) => outcome,
            // Its turn did not come, which says nothing of the issuer.
            Ok(None) => return Err(self.spare()),
            Err(_) => Err(Failure::broken("did not answer in time")),
        };
        let now = self.clock.now();
        match outcome {
            Ok(Opinion::Good(accepted, key)) => {
                self.note_success();
                self.meter(|meters| meters.active.increment(1));
                let Accepted { identity, from, until } = *accepted;
                let token_hash = hash_of_unnamed(&identity, token);
                let identity = Arc::new(Identity { token_hash, ..identity });
                let keep = self.introspection.cache;
                remembered.remember(fingerprint, Good { identity: Arc::clone(&identity), key, keep, from, until }, now);
                Ok(identity)
            }
            Ok(Opinion::Bad(reason)) => {
                self.note_success();
                self.meter(|meters| meters.refused.increment(1));
                let forget_at = now.steady + REFUSED_FOR.min(self.introspection.cache);
                self.refusals.insert(fingerprint, Refused { reason, forget_at });
                Err(reason)
            }
            Err(failure) => {
                self.note_failure(failure, now.steady);
                Err(Reason::IssuerAway)
            }
        }
    }

    async fn call(&self, token: &str) -> Result<Opinion, Failure> {
        let url = self.url().await?;
        let asked = self.fetcher.send(call::request(&url, token, &self.introspection)).await;
        let answer = match asked {
            Ok(answer) => answer,
            Err(error) => {
                // It may be elsewhere by now; but whoever refuses one token, made up perhaps, is there.
                let is_there = error.is_absent() && error.status != Some(StatusCode::NOT_FOUND);
                if let Place::Discovered(discovery) = &self.place
                    && !is_there
                {
                    discovery.lock().await.forget();
                }
                return Err(error.into());
            }
        };
        if self.introspection.signed {
            return self.read_signed(&answer.body).await;
        }
        call::read(&answer.body, &self.settings, &self.name, self.clock.now().wall)
    }

    async fn url(&self) -> Result<Url, Failure> {
        match &self.place {
            Place::Known(url) => Ok(url.clone()),
            Place::Discovered(discovery) => {
                let mut discovery = discovery.lock().await;
                discovery.place(&self.fetcher, self.clock.steady()).await.map_err(|error| {
                    // A refusal of the metadata is no refusal of a token.
                    Failure { setback: Some(Setback::Chance), is_denied: false, ..Failure::from(error) }
                })
            }
        }
    }

    /// Reads a signed answer, if need be with keys that have to be fetched first.
    async fn read_signed(&self, body: &[u8]) -> Result<Opinion, Failure> {
        let none = KeySet::default();
        for _ in 0..=REFRESHES_MAX {
            let now = self.clock.now();
            let read = {
                let keys = self.keys.current();
                let keys = keys.as_deref().unwrap_or(&none);
                call::read_signed(body, (&self.settings, &self.introspection), keys, &self.name, now.wall)
            };
            match read {
                Ok(opinion) => return Ok(opinion),
                Err(Unread::Failed(failure)) => return Err(failure),
                Err(Unread::NoKey) if self.keys.refreshed(now.steady).await => {}
                Err(Unread::NoKey) => break,
            }
        }
        Err(Failure::broken("signed its answer with a key that is not the issuer's"))
    }

    fn note_success(&self) {
        let mut ledger = self.ledger();
        ledger.rest.succeed();
        ledger.is_denied = false;
        let was_failing = ledger.problem.take().is_some();
        drop(ledger);
        self.meter(|meters| meters.up.set(1.0));
        if was_failing {
            tracing::info!(issuer = %self.name, "an issuer can be asked about its tokens again");
        }
    }

    /// Logged when it begins to fail, not each time; and when it no longer accepts who we are, which somebody must mend.
    fn note_failure(&self, failure: Failure, now: Micros) {
        let Failure { sentence, setback, is_denied } = failure;
        self.meter(|meters| if is_denied { &meters.denied } else { &meters.failed }.increment(1));
        let mut ledger = self.ledger();
        let Some(setback) = setback else {
            drop(ledger);
            tracing::debug!(issuer = %self.name, error = %sentence, "an issuer could not say what a token is");
            return;
        };
        ledger.rest.fail(setback, now);
        let begins = ledger.problem.is_none();
        let is_news = is_denied && !ledger.is_denied;
        ledger.is_denied |= is_denied;
        ledger.problem = Some(sentence.clone());
        drop(ledger);
        self.meter(|meters| meters.up.set(0.0));
        if is_news {
            tracing::error!(issuer = %self.name, error = %sentence, "an issuer refuses our credentials; its tokens are denied");
        } else if begins {
            tracing::warn!(issuer = %self.name, error = %sentence, "an issuer cannot be asked about its tokens");
        }
    }
}

/// Whether an answer about a token makes it a good one.
#[cfg(test)]
pub(super) fn is_good(body: &[u8], issuer: &Issuer, name: &Arc<str>, now: Micros) -> bool {
    matches!(call::read(body, issuer, name, now), Ok(Opinion::Good(..)))
}
