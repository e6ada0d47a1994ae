//! One issuer's keys: those in hand, and the task that keeps them fresh.
//!
//! The keys in hand are read without a lock and swapped whole. One task fetches, whatever the number of questions that
//! wait for it: on its schedule, and when a token names a key that nobody knows, at most once per cool-down.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use arc_swap::{ArcSwapOption, Guard};
use aws_lc_rs::rand;
use metrics::Gauge;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use url::Url;

use super::discovery::Discovery;
use super::fetch::{self, BODY_BYTES_MAX, Fetched, Fetcher};
use super::jwks::{self, KeySet, Reading};
use super::jwt::{Decoded, Unverified, Verified};
use super::schedule::{Freshness, Schedule};
use crate::decide::ports::Clock;
use crate::domain::issuer::{Algorithm, Issuer, KeySource};
use crate::domain::time::Micros;
use crate::telemetry::{Telemetry, names};

/// Refreshes of the keys that one token waits for: the one that was under way when it came, and one that it asked for.
const REFRESHES_MAX: usize = 2;

/// Tokens that wait for one issuer's keys at a time; more are refused at once. Else made-up keys could fill the server
/// with calls that wait while an issuer is slow, and honest ones would be turned away.
const WAITING_MAX: usize = 1_000;

/// The keys of one issuer. Dropping it stops their renewal.
pub(super) struct Keys {
    shared: Arc<Shared>,
    /// Taken by the task when it starts.
    origin: Mutex<Option<Origin>>,
    task: OnceLock<Task>,
}

/// How an issuer's keys are, for `/readyz` and people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerHealth {
    /// `iss`.
    pub issuer: Arc<str>,
    /// How many keys are in hand. Without any, the issuer's tokens cannot be verified.
    pub keys: usize,
    /// How long ago they were fetched; none where there are none.
    pub age: Option<Micros>,
    /// Why the last refresh failed; none where it did not.
    pub last_error: Option<String>,
    /// Whether two or more refreshes in a row have failed, so that the keys in hand may be out of date.
    pub is_stale: bool,
    /// Why it cannot be asked about its tokens, if so; none where it need not be.
    pub introspection: Option<Option<String>>,
}

/// What questions and the task share.
struct Shared {
    issuer: Arc<str>,
    source: KeySource,
    /// In µs, as the configuration in force has them: neither is a reason to fetch keys anew.
    stale_for: AtomicU64,
    cooldown: AtomicU64,
    /// None until they are started.
    fetcher: ArcSwapOption<Fetcher>,
    clock: Arc<dyn Clock>,
    current: ArcSwapOption<KeySet>,
    /// Never held across anything that waits.
    ledger: Mutex<Ledger>,
    progress: watch::Sender<Progress>,
    asked: Notify,
    /// When the next refresh may be asked for, in steady µs.
    askable_at: AtomicU64,
    /// None until they are started: what is not in force is not shown.
    gauges: OnceLock<Gauges>,
}

struct Gauges {
    keys: Gauge,
    up: Gauge,
}

#[derive(Default)]
struct Ledger {
    schedule: Schedule,
    error: Option<String>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// Attempts that have ended, one way or the other.
    ended: u64,
    /// Whether one is under way, or has been asked for.
    under_way: bool,
}

/// Where keys come from, ready to be asked.
enum Origin {
    Discovery(Box<Discovery>),
    Url(Url),
    File(PathBuf),
    /// They came with the configuration and stay as they are.
    Inline,
}

struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Keys {
    /// The keys of an issuer. Those of a file or of the configuration are there at once; others come once it is
    /// [started](Self::start). An error is a sentence.
    pub(super) fn prepare(issuer: &Issuer, name: &Arc<str>, clock: &Arc<dyn Clock>) -> Result<Self, String> {
        let origin = match &issuer.keys {
            KeySource::Discovery => Origin::Discovery(Box::new(Discovery::of(&issuer.issuer, &issuer.connection)?)),
            KeySource::Url(url) => Origin::Url(fetch::address(url, &issuer.connection)?),
            KeySource::File(path) => Origin::File(path.clone()),
            KeySource::Inline(_) | KeySource::Secret(_) | KeySource::Unneeded => Origin::Inline,
        };
        let shared = Shared {
            issuer: Arc::clone(name),
            source: issuer.keys.clone(),
            stale_for: AtomicU64::new(issuer.stale_for.0),
            cooldown: AtomicU64::new(issuer.refresh_cooldown.0),
            fetcher: ArcSwapOption::empty(),
            clock: Arc::clone(clock),
            current: ArcSwapOption::empty(),
            ledger: Mutex::default(),
            progress: watch::Sender::default(),
            asked: Notify::new(),
            askable_at: AtomicU64::new(0),
            gauges: OnceLock::new(),
        };
        let at_once = match &issuer.keys {
            KeySource::Discovery | KeySource::Url(_) | KeySource::Secret(_) | KeySource::Unneeded => None,
            KeySource::File(path) => Some(read_file(path)?),
            KeySource::Inline(text) => Some(text.clone().into_bytes()),
        };
        if let KeySource::Secret(secret) = &issuer.keys {
            let keys = Arc::new(KeySet::secret(secret.reveal().as_bytes()));
            shared.ledger().schedule.succeed(clock.steady(), Freshness::File, 0.0);
            shared.replace(Some(&keys));
            shared.progress.send_modify(|progress| progress.ended = 1);
        }
        if let Some(text) = at_once {
            shared.take(&text, Freshness::File)?;
            shared.progress.send_modify(|progress| progress.ended = 1);
        } else if issuer.keys == KeySource::Unneeded {
            shared.progress.send_modify(|progress| progress.ended = 1);
        }
        Ok(Self { shared: Arc::new(shared), origin: Mutex::new(Some(origin)), task: OnceLock::new() })
    }

    /// Goes by what `issuer` says from now on, and starts what keeps them fresh, once. Must be called within a Tokio
    /// runtime.
    pub(super) fn start(&self, issuer: &Issuer, fetcher: &Fetcher, telemetry: &Telemetry) {
        self.shared.stale_for.store(issuer.stale_for.0, Ordering::Relaxed);
        self.shared.cooldown.store(issuer.refresh_cooldown.0, Ordering::Relaxed);
        // Keys that nobody needs are not missed.
        if self.shared.source == KeySource::Unneeded {
            return;
        }
        self.shared.fetcher.store(Some(Arc::new(fetcher.clone())));
        self.shared.gauges.get_or_init(|| {
            let gauge = |name| telemetry.issuer_gauge(name, &self.shared.issuer);
            Gauges { keys: gauge(names::ISSUER_KEYS), up: gauge(names::ISSUER_UP) }
        });
        self.shared.show(!self.shared.ledger().schedule.is_failing());
        let origin = lock(&self.origin).take();
        let Some(origin) = origin.filter(|origin| !matches!(origin, Origin::Inline)) else { return };
        let task = tokio::spawn(Arc::clone(&self.shared).keep_fresh(origin));
        // The origin was there, so nobody else has started.
        let _ = self.task.set(Task(task.abort_handle()));
    }

    /// Whether they are those that `issuer` has, so that they can go on serving it.
    pub(super) fn serve(&self, issuer: &Issuer) -> bool {
        *self.shared.issuer == *issuer.issuer && self.shared.source == issuer.keys
    }

    /// The keys in hand; none where there never were any, or where they ended.
    pub(super) fn current(&self) -> Guard<Option<Arc<KeySet>>> {
        self.shared.current.load()
    }

    /// Whether waiting for a refresh may bring a key that is not in hand.
    pub(super) fn may_come(&self, now: Micros) -> bool {
        self.shared.source_can_change()
            && self.shared.progress.receiver_count() < WAITING_MAX
            && (now.0 >= self.shared.askable_at.load(Ordering::Relaxed) || self.shared.progress.borrow().under_way)
    }

    /// Waits until the refresh that is under way has ended, or asks for one where the cool-down allows it. Whether one
    /// has ended: if not, there is nothing to wait for.
    pub(super) async fn refreshed(&self, now: Micros) -> bool {
        if !self.may_come(now) {
            return false;
        }
        let mut progress = self.shared.progress.subscribe();
        let seen = *progress.borrow_and_update();
        if !seen.under_way && !self.shared.ask(now) {
            return false;
        }
        progress.wait_for(|progress| progress.ended > seen.ended).await.is_ok()
    }

    /// Checks the signature of a token of the issuer, with keys that have to be fetched first if need be.
    pub(super) async fn verify<'d>(
        &self,
        decoded: &'d Decoded<'_>,
        allowed: &[Algorithm],
        now: Micros,
    ) -> Result<Verified<'d>, Unverified> {
        let none = KeySet::default();
        for _ in 0..REFRESHES_MAX {
            let verified = {
                let keys = self.current();
                decoded.read().map_err(Unverified::Refused)?.verify(allowed, keys.as_deref().unwrap_or(&none))
            };
            match verified {
                Err(Unverified::NoKey(_)) if self.refreshed(now).await => {}
                verified => return verified,
            }
        }
        let keys = self.current();
        decoded.read().map_err(Unverified::Refused)?.verify(allowed, keys.as_deref().unwrap_or(&none))
    }

    /// Waits until the first attempt to get keys has ended, well or not.
    pub(super) fn first_attempt(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut progress = self.shared.progress.subscribe();
        async move {
            // An error means that the keys are no longer wanted, so nobody need wait for them.
            let _ = progress.wait_for(|progress| progress.ended > 0).await;
        }
    }

    /// How they are at `now`.
    pub(super) fn health(&self, now: Micros) -> IssuerHealth {
        let keys = self.current().as_ref().map_or(0, |keys| keys.len());
        let ledger = self.shared.ledger();
        IssuerHealth {
            issuer: Arc::clone(&self.shared.issuer),
            keys,
            age: ledger.schedule.refreshed_at().map(|at| now.since(at)),
            last_error: ledger.error.clone(),
            is_stale: ledger.schedule.is_stale(),
            introspection: None,
        }
    }

    /// The issuer is no longer configured: its keys end, and with them every verdict that they made.
    pub(super) fn end(&self) {
        if let Some(task) = self.task.get() {
            task.0.abort();
        }
        self.shared.replace(None);
        // Series stay as long as the process; 0 would be an alert that nobody can end.
        if let Some(Gauges { keys, up }) = self.shared.gauges.get() {
            keys.set(f64::NAN);
            up.set(f64::NAN);
        }
    }
}

impl Shared {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    const fn source_can_change(&self) -> bool {
        !matches!(self.source, KeySource::Inline(_) | KeySource::Secret(_) | KeySource::Unneeded)
    }

    /// Asks the task for a refresh, unless the cool-down forbids it.
    fn ask(&self, now: Micros) -> bool {
        let asked = self.progress.send_if_modified(|progress| {
            let may = !progress.under_way && now.0 >= self.askable_at.load(Ordering::Relaxed);
            if may {
                let cooldown = Micros(self.cooldown.load(Ordering::Relaxed));
                self.askable_at.store((now + cooldown).0, Ordering::Relaxed);
                progress.under_way = true;
            }
            may
        });
        if asked {
            self.asked.notify_one();
        }
        asked
    }

    async fn keep_fresh(self: Arc<Self>, mut origin: Origin) {
        loop {
            self.wait_for_turn().await;
            self.progress.send_modify(|progress| progress.under_way = true);
            // The one in force now: the connection may have changed.
            let Some(fetcher) = self.fetcher.load_full() else { return };
            match origin.fetch(&fetcher, self.clock.steady()).await {
                Ok((text, freshness)) => {
                    if let Err(why) = self.take(&text, freshness) {
                        self.note_failure(why);
                    }
                }
                Err(why) => {
                    self.ledger().schedule.fail(self.clock.steady(), chance());
                    self.note_failure(why);
                }
            }
            self.progress.send_modify(|progress| *progress = Progress { ended: progress.ended + 1, under_way: false });
        }
    }

    /// Waits until a refresh is due or asked for. Ends the keys in hand on the way, when their time is up.
    async fn wait_for_turn(&self) {
        loop {
            let now = self.clock.steady();
            let (due, end) = {
                let ledger = self.ledger();
                let stale_for = Micros(self.stale_for.load(Ordering::Relaxed));
                (ledger.schedule.next_at(), ledger.schedule.keys_end_at(stale_for))
            };
            if end.is_some_and(|end| now >= end) {
                self.ledger().schedule.end();
                self.replace(None);
                self.show(false);
                tracing::error!(issuer = %self.issuer, "the last good keys have become too old; tokens are refused");
                continue;
            }
            if now >= due {
                return;
            }
            let wait = end.map_or(due, |end| due.min(end)).since(now);
            tokio::select! {
                () = self.asked.notified() => return,
                () = tokio::time::sleep(wait.into()) => {}
            }
        }
    }

    /// Takes the text of a key set for the keys from now on; what cannot be used leaves those in hand. The schedule has
    /// been told either way; an error is a sentence.
    fn take(&self, text: &[u8], freshness: Freshness) -> Result<(), String> {
        let now = self.clock.steady();
        let reading = jwks::read(text).map_err(|why| {
            self.ledger().schedule.fail(now, chance());
            format!("the key set {why}")
        })?;
        if reading.keys.len() > 0 {
            self.ledger().schedule.succeed(now, freshness, chance());
        } else if reading.listed > 0 {
            self.ledger().schedule.fail(now, chance());
            return Err(format!("none of the {} keys can be used: {}", reading.listed, skipped(&reading)));
        } else {
            let has_keys = self.current.load().as_ref().is_some_and(|keys| keys.len() > 0);
            if !self.ledger().schedule.is_empty_believed(now, has_keys, chance()) {
                return Err("the key set is empty".to_owned());
            }
        }
        self.adopt(reading);
        Ok(())
    }

    fn adopt(&self, reading: Reading) {
        let old = self.current.load_full();
        let (notes, private) = (skipped(&reading), reading.private);
        let new = Arc::new(reading.keys.succeeding(old.as_deref()));
        if !old.as_ref().is_some_and(|old| old.is_same(&new)) {
            tracing::info!(issuer = %self.issuer, keys = new.len(), skipped = %notes, "an issuer's keys have changed");
            if private > 0 {
                tracing::warn!(issuer = %self.issuer, keys = private, "private keys are published; they are compromised");
            }
        }
        self.replace(Some(&new));
        let error = self.ledger().error.take();
        if error.is_some() {
            tracing::info!(issuer = %self.issuer, "an issuer's keys can be refreshed again");
        }
        self.show(true);
    }

    /// First the new keys, then the end of the old ones: a verdict that is made in between is still ended.
    fn replace(&self, new: Option<&Arc<KeySet>>) {
        if let Some(old) = self.current.swap(new.cloned()) {
            old.end_unless_in(new.map(Arc::as_ref));
        }
    }

    /// Logged when it begins to fail, not each time.
    fn note_failure(&self, why: String) {
        let keys = self.current.load().as_ref().map_or(0, |keys| keys.len());
        if self.ledger().error.is_none() {
            tracing::warn!(issuer = %self.issuer, error = %why, keys, "an issuer's keys cannot be refreshed");
        }
        self.ledger().error = Some(why);
        self.show(false);
    }

    fn show(&self, up: bool) {
        let Some(gauges) = self.gauges.get() else { return };
        let keys = self.current.load().as_ref().map_or(0, |keys| keys.len());
        gauges.keys.set(u32::try_from(keys).map_or(f64::MAX, f64::from));
        gauges.up.set(f64::from(u8::from(up)));
    }
}

impl Origin {
    async fn fetch(&mut self, fetcher: &Fetcher, now: Micros) -> Result<(Vec<u8>, Freshness), String> {
        let Fetched { body, max_age } = match self {
            Self::Discovery(discovery) => discovery.fetch(fetcher, now).await.map_err(|error| error.to_string())?,
            Self::Url(url) => fetcher.fetch(url).await.map_err(|error| error.to_string())?,
            Self::File(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || read_file(&path)).await;
                return Ok((read.map_err(|error| error.to_string())??, Freshness::File));
            }
            Self::Inline => return Err("keys of the configuration are never fetched".to_owned()),
        };
        Ok((body, Freshness::MaxAge(max_age)))
    }
}

/// Reads a key file, up to the size of a fetched one.
fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("{} cannot be read: {error}", path.display());
    let mut text = Vec::new();
    let bound = BODY_BYTES_MAX as u64 + 1;
    std::fs::File::open(path).map_err(failed)?.take(bound).read_to_end(&mut text).map_err(failed)?;
    if text.len() > BODY_BYTES_MAX {
        return Err(format!("{} holds more than {} KiB", path.display(), BODY_BYTES_MAX / 1024));
    }
    Ok(text)
}

/// Which keys were left out and why, in words.
fn skipped(reading: &Reading) -> String {
    let parts: Vec<String> = reading.skipped.iter().map(|(why, count)| format!("{count} {why}")).collect();
    parts.join(", ")
}

/// Between −1 and 1. Where there is no chance there is none, and replicas merely fetch at the same time.
fn chance() -> f64 {
    let mut bytes = [0; 2];
    rand::fill(&mut bytes).map_or(0.0, |()| f64::from(i16::from_ne_bytes(bytes)) / 32_768.0)
}

/// A panic while it was held left nothing half-done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
