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

use crate::decide::ports::{
    Answer, Away, AwayCause, Charges, Clock, Grants, QuotaStore, Refunds, Request, Requests, Settlements, all_away,
};
use crate::domain::limit::{Algorithm, CounterKey, Limit, UNITS_MAX, WINDOW_MIN, WhenAway};
use crate::domain::question::Mode;
use crate::domain::time::{Micros, Moment};
use crate::domain::window::{LeaseId, Terms};
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
            failures_max: 3,
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

    /// Charges a counter of its own, to learn whether the store takes charges; what it says counts like any other call.
    /// For a store that nobody asks at the moment: its outage is known before the next question, and its return too.
    ///
    /// A look alone would not do: a read-only replica and a store without memory answer it.
    ///
    /// # Errors
    /// Why it takes none.
    pub async fn probe(&self, now: Moment) -> Result<(), Away> {
        let limit = Arc::new(Limit {
            name: "probe".to_owned(),
            // More than all replicas ever use: a refusal would write nothing.
            algorithm: Algorithm::SlidingWindow { units: UNITS_MAX, window: WINDOW_MIN },
            by: Vec::new(),
            when_away: WhenAway::Deny,
        });
        let lease = LeaseId { replica: 0, serial: 0 };
        let terms = Terms { at_least: 1, at_most: 1, hold: Micros::ZERO, lease };
        // No configured limit has a name with a space, so no key begins like that.
        let request = Request { limit, key: CounterKey::new(" probe"), terms };
        self.acquire(Requests::from_iter([request]), Mode::Consume, now)
            .get()
            .await
            .into_iter()
            .collect::<Result<Vec<_>, _>>()
            .map(|_| ())
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
    fn acquire(&self, requests: Requests, mode: Mode, now: Moment) -> Answer<'_, Grants> {
        let counters = requests.len();
        let answer = self.store.acquire(requests, mode, now).then(|grants| Answer::Now(heard(grants)));
        self.pass(answer).then(move |answer| Answer::Now(answer.unwrap_or_else(|away| all_away(counters, away))))
    }

    fn settle(&self, settlements: Settlements, now: Moment) -> Answer<'_, Result<(), Away>> {
        self.pass(self.store.settle(settlements, now))
    }

    fn refund(&self, charges: Charges, now: Moment) -> Answer<'_, Result<Refunds, Away>> {
        self.pass(self.store.refund(charges, now))
    }

    fn reset(&self, limit: Arc<Limit>, key: CounterKey) -> Answer<'_, Result<(), Away>> {
        self.pass(self.store.reset(limit, key))
    }
}

/// A store of which no counter could be asked is away.
fn heard(grants: Grants) -> Result<Grants, Away> {
    match grants.first() {
        Some(Err(away)) if grants.iter().all(Result::is_err) => Err(*away),
        _ => Ok(grants),
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::sync::atomic::AtomicU64;

    use tokio::sync::Semaphore;

    use super::*;
    use crate::domain::time::Moment;
    use crate::domain::window::{Grant, Outcome};

    const UNREACHABLE: Away = Away { because: AwayCause::Unreachable };
    const RESTING: Away = Away { because: AwayCause::Resting };

    #[derive(Default)]
    struct HandClock(AtomicU64);

    impl HandClock {
        fn pass(&self, time: Micros) {
            self.0.fetch_add(time.0, Ordering::Relaxed);
        }
    }

    impl Clock for HandClock {
        fn now(&self) -> Moment {
            Moment { wall: Micros::ZERO, steady: Micros(self.0.load(Ordering::Relaxed)) }
        }
    }

    /// Answers as told, to as many calls as it is let.
    struct Told {
        answer: Mutex<Result<(), Away>>,
        lets: Semaphore,
        asked: AtomicUsize,
        at_once: bool,
    }

    impl Told {
        fn new(at_once: bool) -> Arc<Self> {
            let lets = Semaphore::new(Semaphore::MAX_PERMITS);
            Arc::new(Self { answer: Mutex::new(Ok(())), lets, asked: AtomicUsize::new(0), at_once })
        }

        fn tell(&self, answer: Result<(), Away>) {
            *self.answer.lock().unwrap() = answer;
        }

        fn hang(&self) {
            self.lets.forget_permits(Semaphore::MAX_PERMITS);
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::Relaxed)
        }

        fn answer(&self) -> Answer<'_, Result<(), Away>> {
            if self.at_once {
                return Answer::Now(*self.answer.lock().unwrap());
            }
            Answer::later(async {
                self.asked.fetch_add(1, Ordering::Relaxed);
                self.lets.acquire().await.unwrap().forget();
                *self.answer.lock().unwrap()
            })
        }
    }

    impl QuotaStore for Told {
        fn acquire(&self, requests: Requests, _: Mode, _: Moment) -> Answer<'_, Grants> {
            let grant = Grant { outcome: Outcome::Granted { units: 0 }, remaining: 0, reset_after: Micros::ZERO };
            let each = move |answer: Result<(), Away>| requests.iter().map(|_| answer.map(|()| grant)).collect();
            self.answer().then(move |answer| Answer::Now(each(answer)))
        }

        fn settle(&self, _: Settlements, _: Moment) -> Answer<'_, Result<(), Away>> {
            self.answer()
        }

        fn refund(&self, charges: Charges, _: Moment) -> Answer<'_, Result<Refunds, Away>> {
            let none = move |answer: Result<(), Away>| answer.map(|()| Refunds::from_elem(0, charges.len()));
            self.answer().then(move |answer| Answer::Now(none(answer)))
        }

        fn reset(&self, _: Arc<Limit>, _: CounterKey) -> Answer<'_, Result<(), Away>> {
            self.answer()
        }
    }

    struct Bench {
        told: Arc<Told>,
        clock: Arc<HandClock>,
        telemetry: Telemetry,
        guard: Guard,
    }

    impl Bench {
        fn new(at_once: bool) -> Self {
            let (told, clock, telemetry) = (Told::new(at_once), Arc::<HandClock>::default(), Telemetry::new().unwrap());
            let bounds =
                Bounds { deadline: Micros::from_millis(20), waiting_max: 3, failures_max: 3, ..Bounds::default() };
            let guard = Guard::new(Arc::<Told>::clone(&told), Arc::<HandClock>::clone(&clock), bounds, &telemetry);
            Self { told, clock, telemetry, guard }
        }

        async fn ask(&self) -> Result<(), Away> {
            self.begin().get().await
        }

        fn begin(&self) -> Answer<'_, Result<(), Away>> {
            self.guard.settle(Settlements::new(), self.clock.now())
        }

        async fn wear_out(&self) {
            self.told.tell(Err(UNREACHABLE));
            for _ in 0..3 {
                assert_eq!(self.guard.health(), Ok(()));
                assert_eq!(self.ask().await, Err(UNREACHABLE));
            }
        }

        fn shows(&self, line: &str) {
            let text = self.telemetry.render();
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[tokio::test]
    async fn a_store_that_fails_again_and_again_rests_and_is_then_tried_by_one_call_at_a_time() {
        let bench = Bench::new(false);
        bench.wear_out().await;
        assert_eq!(bench.guard.health(), Err(UNREACHABLE));
        bench.shows("tollgate_store_up 0");
        assert_eq!((bench.ask().await, bench.told.asked()), (Err(RESTING), 3));
        bench.clock.pass(Micros::from_millis(740));
        assert_eq!((bench.ask().await, bench.told.asked()), (Err(RESTING), 3));
        bench.clock.pass(Micros::from_millis(520));
        // The trial fails, so it rests again.
        assert_eq!((bench.ask().await, bench.told.asked()), (Err(UNREACHABLE), 4));
        assert_eq!((bench.ask().await, bench.told.asked()), (Err(RESTING), 4));
        bench.clock.pass(Micros::from_millis(1_260));
        let trial = bench.begin();
        assert_eq!(bench.ask().await, Err(RESTING));
        bench.told.tell(Ok(()));
        assert!(trial.get().await.is_ok());
        assert_eq!((bench.ask().await, bench.guard.health()), (Ok(()), Ok(())));
        bench.shows("tollgate_store_up 1");
        bench.shows(r#"tollgate_store_failures_total{cause="unreachable"} 4"#);
        bench.shows(r#"tollgate_store_failures_total{cause="resting"} 4"#);
    }

    #[tokio::test]
    async fn failures_with_successes_between_them_make_nothing_rest() {
        let bench = Bench::new(false);
        for _ in 0..5 {
            bench.told.tell(Err(UNREACHABLE));
            assert_eq!((bench.ask().await, bench.ask().await), (Err(UNREACHABLE), Err(UNREACHABLE)));
            bench.told.tell(Ok(()));
            assert_eq!(bench.ask().await, Ok(()));
        }
    }

    #[tokio::test]
    async fn a_trial_that_its_caller_gave_up_leaves_room_for_the_next() {
        let bench = Bench::new(false);
        bench.wear_out().await;
        bench.clock.pass(Micros::from_millis(1_260));
        drop(bench.begin());
        bench.told.tell(Ok(()));
        assert_eq!(bench.ask().await, Ok(()));
    }

    #[tokio::test]
    async fn no_call_waits_longer_than_the_deadline() {
        let bench = Bench::new(false);
        bench.told.hang();
        assert_eq!(bench.ask().await, Err(Away { because: AwayCause::Deadline }));
        assert_eq!(bench.guard.waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn more_calls_than_may_wait_are_turned_away_at_once() {
        let bench = Bench::new(false);
        let waiting = [bench.begin(), bench.begin(), bench.begin()];
        let Answer::Now(refused) = bench.begin() else { unreachable!("it must not wait") };
        assert_eq!(refused, Err(Away { because: AwayCause::Crowded }));
        bench.shows(r#"tollgate_store_failures_total{cause="crowded"} 1"#);
        drop(waiting);
        assert_eq!((bench.ask().await, bench.guard.health()), (Ok(()), Ok(())));
    }

    #[tokio::test]
    async fn what_is_answered_at_once_passes_whatever_it_says() {
        let bench = Bench::new(true);
        bench.told.tell(Err(Away { because: AwayCause::Full }));
        for _ in 0..10 {
            let Answer::Now(answer) = bench.begin() else { unreachable!("it must not wait") };
            assert_eq!(answer, Err(Away { because: AwayCause::Full }));
        }
        assert_eq!(bench.guard.health(), Ok(()));
        bench.shows(r#"tollgate_store_failures_total{cause="full"} 10"#);
        bench.shows("tollgate_store_calls_total 10");
    }
}
