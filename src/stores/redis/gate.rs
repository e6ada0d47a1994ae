//! Bounds what waiting for a node can cost: a deadline for each call, a bound on the calls that wait, and a rest for a
//! node that keeps failing. Each node has a gate of its own, so one that is dead holds up nobody who asks another.
//!
//! After a few failures in a row the node is not asked for about a second; then one call at a time tries it, until
//! one succeeds.

use std::future::Future;
use std::hash::{BuildHasher as _, RandomState};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::{Counter, Gauge};
use tokio::time::Sleep;
use tracing::{info, warn};

use crate::decide::ports::{Away, AwayCause, Clock};
use crate::domain::time::Micros;
use crate::telemetry::{Telemetry, names};

/// How much is borne with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How long a call may take, on however many nodes.
    pub deadline: Micros,
    /// Calls that may wait for a node at a time, and questions of one kind for a server that has all counters, which share
    /// calls; more are answered [`AwayCause::Crowded`] at once.
    pub waiting_max: usize,
    /// Failures in a row after which a node is left alone. At least 1.
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

/// What the gates of a store have in common.
#[derive(Clone)]
pub struct Gates {
    bounds: Bounds,
    clock: Arc<dyn Clock>,
    telemetry: Arc<Telemetry>,
    metrics: Arc<StoreMetrics>,
}

impl Gates {
    /// Gates with these bounds. `clock` times the rests.
    pub fn new(bounds: Bounds, clock: Arc<dyn Clock>, telemetry: Arc<Telemetry>) -> Self {
        let metrics = Arc::new(StoreMetrics::new(&telemetry));
        Self { bounds, clock, telemetry, metrics }
    }

    /// How long a call may take.
    pub(super) const fn deadline(&self) -> Micros {
        self.bounds.deadline
    }

    /// How many calls may wait.
    pub(super) const fn waiting_max(&self) -> usize {
        self.bounds.waiting_max
    }

    /// What times the rests, and where all is counted.
    pub(super) fn clock_and_telemetry(&self) -> (Arc<dyn Clock>, &Telemetry) {
        (Arc::clone(&self.clock), &self.telemetry)
    }

    /// Counts a call that found no node to ask.
    pub(super) fn count_lost(&self, away: Away) {
        self.metrics.count::<()>(&Err(away));
    }

    /// The gate before a node, by the name under which operators know it.
    pub(super) fn before(&self, node: &str) -> Gate {
        let up = self.telemetry.node_gauge(names::STORE_UP, node);
        up.set(1.0);
        Gate { node: node.to_owned(), gates: self.clone(), breaker: Mutex::default(), waiting: AtomicUsize::new(0), up }
    }
}

/// What all calls to one node pass.
pub(super) struct Gate {
    node: String,
    gates: Gates,
    breaker: Mutex<Breaker>,
    waiting: AtomicUsize,
    up: Gauge,
}

impl Gate {
    /// The node's name.
    pub(super) fn node(&self) -> &str {
        &self.node
    }

    /// Whether the node answers, as far as the last calls tell; else why not. A single failure among successes is
    /// counted but does not make it away.
    pub(super) fn health(&self) -> Result<(), Away> {
        match self.breaker().state {
            State::Trusted => Ok(()),
            State::Resting { because, .. } | State::Tried { because } => Err(Away { because }),
        }
    }

    /// Lets `call` ask the node until `end`, and learns from what becomes of it. Nothing is asked where the node rests or
    /// too many wait.
    pub(super) async fn pass<T>(
        &self,
        call: impl Future<Output = Result<T, Away>>,
        end: Pin<&mut Sleep>,
    ) -> Result<T, Away> {
        let answer = match self.admit() {
            Ok(admitted) => admitted.run(call, end).await,
            Err(away) => Err(away),
        };
        self.gates.metrics.count(&answer);
        answer
    }

    /// The node is none of ours any more.
    pub(super) fn retire(&self) {
        self.up.set(f64::NAN);
    }

    fn admit(&self) -> Result<Call<'_>, Away> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.gates.bounds.waiting_max {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(Away { because: AwayCause::Crowded });
        }
        // From here on the call's drop ends the waiting.
        let mut call = Call { gate: self, trial: None };
        call.trial = self.breaker().admit(self.gates.clock.steady())?;
        Ok(call)
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn succeeded(&self) {
        if self.breaker().succeeded() {
            self.up.set(1.0);
            info!(node = self.node, "the quota store answers again");
        }
    }

    fn failed(&self, because: AwayCause) {
        let until = self.gates.clock.steady() + jittered(self.gates.bounds.rest);
        if self.breaker().failed(because, self.gates.bounds.failures_max, until) {
            self.up.set(0.0);
            warn!(node = self.node, cause = %because, "the quota store is away");
        }
    }
}

/// A call that waits. Whoever drops it half-way says nothing about the node.
struct Call<'a> {
    gate: &'a Gate,
    /// Held where this is the call that tries a node at rest.
    trial: Option<Trial>,
}

impl Call<'_> {
    async fn run<T>(mut self, future: impl Future<Output = Result<T, Away>>, end: Pin<&mut Sleep>) -> Result<T, Away> {
        let answer = tokio::select! {
            biased;
            answer = future => answer,
            () = end => Err(Away { because: AwayCause::Deadline }),
        };
        self.trial = None;
        match &answer {
            // It can be reached: what is missing is told to it by the next calls.
            Ok(_) | Err(Away { because: AwayCause::Lost }) => self.gate.succeeded(),
            Err(away) => self.gate.failed(away.because),
        }
        answer
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.gate.waiting.fetch_sub(1, Ordering::Relaxed);
        if self.trial.take().is_some() {
            self.gate.breaker().trial_abandoned();
        }
    }
}

/// The right to try a node at rest; there is one at a time.
struct Trial;

/// Whether the node is asked at all.
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
            // One that was on its way when the node was given up.
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
}

impl StoreMetrics {
    fn new(telemetry: &Telemetry) -> Self {
        Self {
            calls: telemetry.counter(names::STORE_CALLS, &[]),
            failures: CAUSES.map(|cause| telemetry.counter(names::STORE_FAILURES, &[("cause", label(cause))])),
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
const CAUSES: [AwayCause; 10] = [
    AwayCause::Unreachable,
    AwayCause::Deadline,
    AwayCause::Resting,
    AwayCause::Crowded,
    AwayCause::Denied,
    AwayCause::ReadOnly,
    AwayCause::Lost,
    AwayCause::Full,
    AwayCause::Mistaken,
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
        AwayCause::Lost => "lost_data",
        AwayCause::Full => "full",
        AwayCause::Mistaken => "mistaken",
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

    use std::pin::pin;
    use std::sync::atomic::AtomicU64;
    use std::task::Poll;

    use tokio::sync::Semaphore;
    use tokio::time::sleep;

    use super::*;
    use crate::domain::time::Moment;

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

    /// A gate before a node that answers as told, to as many calls as it is let.
    struct Bench {
        answer: Mutex<Result<(), Away>>,
        lets: Semaphore,
        asked: AtomicUsize,
        clock: Arc<HandClock>,
        telemetry: Arc<Telemetry>,
        gates: Gates,
        gate: Gate,
    }

    impl Bench {
        fn new() -> Self {
            let (clock, telemetry) = (Arc::<HandClock>::default(), Arc::new(Telemetry::default()));
            let bounds =
                Bounds { deadline: Micros::from_millis(20), waiting_max: 3, failures_max: 3, ..Bounds::default() };
            let gates = Gates::new(bounds, Arc::clone(&clock) as _, Arc::clone(&telemetry));
            let gate = gates.before("a:1");
            let (answer, lets) = (Mutex::new(Ok(())), Semaphore::new(Semaphore::MAX_PERMITS));
            Self { answer, lets, asked: AtomicUsize::new(0), clock, telemetry, gates, gate }
        }

        fn tell(&self, answer: Result<(), Away>) {
            *self.answer.lock().unwrap() = answer;
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::Relaxed)
        }

        async fn ask(&self) -> Result<(), Away> {
            let answer = async {
                self.asked.fetch_add(1, Ordering::Relaxed);
                self.lets.acquire().await.unwrap().forget();
                *self.answer.lock().unwrap()
            };
            let mut end = pin!(sleep(self.gates.deadline().into()));
            self.gate.pass(answer, end.as_mut()).await
        }

        async fn wear_out(&self) {
            self.tell(Err(UNREACHABLE));
            for _ in 0..3 {
                assert_eq!(self.gate.health(), Ok(()));
                assert_eq!(self.ask().await, Err(UNREACHABLE));
            }
        }

        fn shows(&self, line: &str) {
            let text = self.telemetry.render();
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    /// What one look at a future shows.
    async fn once<T>(mut future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
    }

    #[tokio::test]
    async fn a_node_that_fails_again_and_again_rests_and_is_then_tried_by_one_call_at_a_time() {
        let bench = Bench::new();
        bench.wear_out().await;
        assert_eq!(bench.gate.health(), Err(UNREACHABLE));
        bench.shows(r#"tollgate_store_up{node="a:1"} 0"#);
        assert_eq!((bench.ask().await, bench.asked()), (Err(RESTING), 3));
        bench.clock.pass(Micros::from_millis(740));
        assert_eq!((bench.ask().await, bench.asked()), (Err(RESTING), 3));
        bench.clock.pass(Micros::from_millis(520));
        // The trial fails, so it rests again.
        assert_eq!((bench.ask().await, bench.asked()), (Err(UNREACHABLE), 4));
        assert_eq!((bench.ask().await, bench.asked()), (Err(RESTING), 4));
        bench.clock.pass(Micros::from_millis(1_260));
        bench.tell(Ok(()));
        bench.lets.forget_permits(Semaphore::MAX_PERMITS);
        let mut trial = pin!(bench.ask());
        assert!(once(trial.as_mut()).await.is_pending());
        assert_eq!(bench.ask().await, Err(RESTING));
        bench.lets.add_permits(9);
        assert_eq!(trial.await, Ok(()));
        assert_eq!((bench.ask().await, bench.gate.health()), (Ok(()), Ok(())));
        bench.shows(r#"tollgate_store_up{node="a:1"} 1"#);
        bench.shows(r#"tollgate_store_failures_total{cause="unreachable"} 4"#);
        bench.shows(r#"tollgate_store_failures_total{cause="resting"} 4"#);
    }

    #[tokio::test]
    async fn a_node_that_rests_holds_up_no_other() {
        let bench = Bench::new();
        bench.wear_out().await;
        let other = bench.gates.before("b:2");
        let mut end = pin!(sleep(bench.gates.deadline().into()));
        assert_eq!(other.pass(async { Ok(7) }, end.as_mut()).await, Ok(7));
        assert_eq!((bench.gate.health(), other.health()), (Err(UNREACHABLE), Ok(())));
        bench.shows(r#"tollgate_store_up{node="a:1"} 0"#);
        bench.shows(r#"tollgate_store_up{node="b:2"} 1"#);
        bench.gate.retire();
        bench.shows(r#"tollgate_store_up{node="a:1"} NaN"#);
    }

    #[tokio::test]
    async fn failures_with_successes_between_them_make_nothing_rest() {
        let bench = Bench::new();
        for _ in 0..5 {
            bench.tell(Err(UNREACHABLE));
            assert_eq!((bench.ask().await, bench.ask().await), (Err(UNREACHABLE), Err(UNREACHABLE)));
            bench.tell(Ok(()));
            assert_eq!(bench.ask().await, Ok(()));
        }
    }

    #[tokio::test]
    async fn a_trial_that_its_caller_gave_up_leaves_room_for_the_next() {
        let bench = Bench::new();
        bench.wear_out().await;
        bench.clock.pass(Micros::from_millis(1_260));
        bench.tell(Ok(()));
        bench.lets.forget_permits(Semaphore::MAX_PERMITS);
        {
            let mut trial = pin!(bench.ask());
            assert!(once(trial.as_mut()).await.is_pending());
        }
        bench.lets.add_permits(1);
        assert_eq!(bench.ask().await, Ok(()));
    }

    #[tokio::test]
    async fn no_call_waits_longer_than_the_deadline() {
        let bench = Bench::new();
        bench.lets.forget_permits(Semaphore::MAX_PERMITS);
        assert_eq!(bench.ask().await, Err(Away { because: AwayCause::Deadline }));
        assert_eq!(bench.gate.waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn more_calls_than_may_wait_are_turned_away_at_once() {
        let bench = Bench::new();
        bench.lets.forget_permits(Semaphore::MAX_PERMITS);
        {
            let (mut one, mut other, mut third) = (pin!(bench.ask()), pin!(bench.ask()), pin!(bench.ask()));
            for waiting in [one.as_mut(), other.as_mut(), third.as_mut()] {
                assert!(once(waiting).await.is_pending());
            }
            let refused = once(pin!(bench.ask())).await;
            assert_eq!(refused, Poll::Ready(Err(Away { because: AwayCause::Crowded })));
            bench.shows(r#"tollgate_store_failures_total{cause="crowded"} 1"#);
        }
        bench.lets.add_permits(1);
        assert_eq!((bench.ask().await, bench.gate.health()), (Ok(()), Ok(())));
    }
}
