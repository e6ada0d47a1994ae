//! Bounds what waiting for a store can cost: a deadline for each call, a bound on the calls that wait, and a rest for a
//! store that keeps failing.
//!
//! After a few failures in a row the store is not asked for about a second; then one call at a time tries it, until
//! one succeeds. Answers that are there at once are passed through as they are.

use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::{Counter, Gauge};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::decide::ports::{Answer, Away, AwayCause, Clock, Grants, QuotaStore, Requests, Settlements};
use crate::domain::limit::{CounterKey, Limit};
use crate::domain::question::Mode;
use crate::domain::time::{Micros, Moment};
use crate::telemetry::{Telemetry, names};

/// How much is borne with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How long a call may take.
    pub deadline: Micros,
    /// Calls that may wait at a time; more are answered [`AwayCause::Crowded`] at once.
    pub waiting_max: usize,
    /// Failures in a row after which the store is left alone. At least 1.
    pub failures_max: u32,
    /// For how long, give or take a quarter.
    pub rest: Micros,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            deadline: Micros::from_millis(12),
            waiting_max: 4_096,
            failures_max: 5,
            rest: Micros::from_millis(1_000),
        }
    }
}

/// A store with bounds around it.
pub struct Guard {
    store: Arc<dyn QuotaStore>,
    clock: Arc<dyn Clock>,
    bounds: Bounds,
    breaker: Mutex<Breaker>,
    waiting: AtomicUsize,
    metrics: StoreMetrics,
}

impl Guard {
    /// Puts `bounds` around `store`.
    pub fn new(store: Arc<dyn QuotaStore>, clock: Arc<dyn Clock>, bounds: Bounds, telemetry: &Telemetry) -> Self {
        let metrics = StoreMetrics::new(telemetry);
        metrics.up.set(1.0);
        Self { store, clock, bounds, breaker: Mutex::default(), waiting: AtomicUsize::new(0), metrics }
    }

    /// Whether the store answers, as far as the last calls tell; else why not. A single failure among successes is
    /// counted but does not make it away.
    pub fn health(&self) -> Result<(), Away> {
        match self.breaker().state {
            State::Trusted => Ok(()),
            State::Resting { because, .. } | State::Tried { because } => Err(Away { because }),
        }
    }

    fn pass<'a, T: Send + 'a>(&'a self, answer: Answer<'a, Result<T, Away>>) -> Answer<'a, Result<T, Away>> {
        match answer {
            Answer::Now(answer) => {
                self.metrics.count(&answer);
                Answer::Now(answer)
            }
            // Nothing has been asked before it is polled.
            Answer::Later(future) => match self.admit() {
                Ok(call) => Answer::later(call.run(future)),
                Err(away) => {
                    let refused = Err(away);
                    self.metrics.count(&refused);
                    Answer::Now(refused)
                }
            },
        }
    }

    fn admit(&self) -> Result<Call<'_>, Away> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.bounds.waiting_max {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(Away { because: AwayCause::Crowded });
        }
        // From here on the call's drop ends the waiting.
        let mut call = Call { guard: self, trial: None };
        call.trial = self.breaker().admit(self.clock.steady())?;
        Ok(call)
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn succeeded(&self) {
        if self.breaker().succeeded() {
            self.metrics.up.set(1.0);
            info!("the quota store answers again");
        }
    }

    fn failed(&self, because: AwayCause) {
        let until = self.clock.steady() + jittered(self.bounds.rest);
        if self.breaker().failed(because, self.bounds.failures_max, until) {
            self.metrics.up.set(0.0);
            warn!(cause = %because, "the quota store is away");
        }
    }
}

impl QuotaStore for Guard {
    fn acquire(&self, requests: Requests, mode: Mode, now: Moment) -> Answer<'_, Result<Grants, Away>> {
        self.pass(self.store.acquire(requests, mode, now))
    }

    fn settle(&self, settlements: Settlements, now: Moment) -> Answer<'_, Result<(), Away>> {
        self.pass(self.store.settle(settlements, now))
    }

    fn reset(&self, limit: Arc<Limit>, key: CounterKey) -> Answer<'_, Result<(), Away>> {
        self.pass(self.store.reset(limit, key))
    }
}

/// Shows the state, not the store.
impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("bounds", &self.bounds).field("health", &self.health()).finish_non_exhaustive()
    }
}

/// A call that waits. Whoever drops it half-way says nothing about the store.
struct Call<'a> {
    guard: &'a Guard,
    /// Held where this is the call that tries a store at rest.
    trial: Option<Trial>,
}

impl Call<'_> {
    async fn run<T>(mut self, future: impl Future<Output = Result<T, Away>>) -> Result<T, Away> {
        let answer = timeout(self.guard.bounds.deadline.into(), future)
            .await
            .unwrap_or(Err(Away { because: AwayCause::Deadline }));
        self.guard.metrics.count(&answer);
        self.trial = None;
        match &answer {
            Ok(_) => self.guard.succeeded(),
            Err(away) => self.guard.failed(away.because),
        }
        answer
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.guard.waiting.fetch_sub(1, Ordering::Relaxed);
        if self.trial.take().is_some() {
            self.guard.breaker().trial_abandoned();
        }
    }
}

/// The right to try a store at rest; there is one at a time.
struct Trial;

/// Whether the store is asked at all.
#[derive(Default)]
struct Breaker {
    state: State,
    /// Failures since the last success.
    failures: u32,
}

#[derive(Clone, Copy, Default)]
enum State {
    /// It is asked.
    #[default]
    Trusted,
    /// It is left alone until then, and may be tried after.
    Resting { because: AwayCause, until: Micros },
    /// One call tries it.
    Tried { because: AwayCause },
}

impl Breaker {
    fn admit(&mut self, now: Micros) -> Result<Option<Trial>, Away> {
        match self.state {
            State::Trusted => Ok(None),
            State::Resting { because, until } if until <= now => {
                self.state = State::Tried { because };
                Ok(Some(Trial))
            }
            State::Resting { .. } | State::Tried { .. } => Err(Away { because: AwayCause::Resting }),
        }
    }

    /// Whether it was away before. Calls that were on their way when it was given up may bring the good news too.
    const fn succeeded(&mut self) -> bool {
        let was_away = !matches!(self.state, State::Trusted);
        (self.state, self.failures) = (State::Trusted, 0);
        was_away
    }

    /// Whether it is away from now on and was not before.
    const fn failed(&mut self, because: AwayCause, failures_max: u32, until: Micros) -> bool {
        self.failures = self.failures.saturating_add(1);
        match self.state {
            State::Trusted if self.failures >= failures_max => {
                self.state = State::Resting { because, until };
                true
            }
            State::Tried { .. } => {
                self.state = State::Resting { because, until };
                false
            }
            // One that was on its way when the store was given up.
            State::Trusted | State::Resting { .. } => false,
        }
    }

    const fn trial_abandoned(&mut self) {
        if let State::Tried { because } = self.state {
            self.state = State::Resting { because, until: Micros::ZERO };
        }
    }
}

struct StoreMetrics {
    calls: Counter,
    failures: [Counter; CAUSES.len()],
    up: Gauge,
}

impl StoreMetrics {
    fn new(telemetry: &Telemetry) -> Self {
        Self {
            calls: telemetry.counter(names::STORE_CALLS, &[]),
            failures: CAUSES.map(|cause| telemetry.counter(names::STORE_FAILURES, &[("cause", label(cause))])),
            up: telemetry.gauge(names::STORE_UP, &[]),
        }
    }

    fn count<T>(&self, answer: &Result<T, Away>) {
        self.calls.increment(1);
        let Err(away) = answer else { return };
        if let Some(place) = CAUSES.iter().position(|&cause| cause == away.because) {
            self.failures[place].increment(1);
        }
    }
}

/// Every cause.
const CAUSES: [AwayCause; 8] = [
    AwayCause::Unreachable,
    AwayCause::Deadline,
    AwayCause::Resting,
    AwayCause::Crowded,
    AwayCause::Denied,
    AwayCause::ReadOnly,
    AwayCause::Full,
    AwayCause::Garbled,
];

const fn label(cause: AwayCause) -> &'static str {
    match cause {
        AwayCause::Unreachable => "unreachable",
        AwayCause::Deadline => "deadline",
        AwayCause::Resting => "resting",
        AwayCause::Crowded => "crowded",
        AwayCause::Denied => "denied",
        AwayCause::ReadOnly => "read_only",
        AwayCause::Full => "full",
        AwayCause::Garbled => "garbled",
    }
}

/// Three to five quarters of `rest`, so that replicas do not try all at once.
fn jittered(rest: Micros) -> Micros {
    let random = u64::from(RandomState::new().hash_one(()).to_le_bytes()[0]);
    Micros((rest.0 / 4).saturating_mul(3).saturating_add(rest.0 / 512 * random))
}
