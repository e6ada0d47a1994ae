//! One suite of behaviours for every store, and every store held to the pure core by random traces.
//!
//! Redis is a real one, started for each test; time is passed in.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use tokio::runtime::{Builder, Runtime};

use super::algorithms::{
    a_bucket_gives_its_burst_and_then_its_rate, a_fixed_window_gives_its_units_by_the_clock,
    changed_buckets_and_fixed_windows_count_what_was_charged_before, limits_of_different_algorithms_pay_all_or_none,
    the_largest_buckets_and_fixed_windows_are_exact, the_same_key_under_another_algorithm_is_another_counter,
};
use super::memory::MemoryStore;
use super::redis::{Bounds, Gates, Reach, RedisStore, Settings, TimeSource};
use super::redis_server::{RedisCluster, RedisServer};
use super::reservations::{
    a_refund_takes_back_no_more_than_is_charged, a_refund_takes_from_the_oldest_sub_window_first,
    a_reservation_is_settled_by_the_truth, a_reservation_that_nobody_settles_counts_as_spent,
    as_many_slots_as_there_may_be_are_held_and_released, each_counter_is_refunded_by_itself,
    holders_keep_their_slots_when_the_limit_changes_but_not_when_it_is_reset,
    nothing_comes_back_of_a_reservation_whose_charge_is_gone, several_limits_are_reserved_all_or_none_under_one_name,
    slots_are_held_until_they_are_released_or_their_time_is_up,
};
use super::worked::{
    a_call_counts_for_a_number_and_for_marketing_to_it, a_call_may_cost_several_hits,
    around_the_edge_of_a_minute_twice_as_much_goes_on_as_there, hits_count_whether_they_fit_or_not_as_there,
    seconds_minutes_hours_and_days_end_when_the_clocks_do, two_databases_have_500_a_second_each,
    unlike_there_a_call_that_one_limit_refuses_costs_the_others_nothing,
    unlike_there_hits_that_are_refused_do_not_count_and_no_hits_are_a_look, values_share_a_threshold_or_have_one_each,
};
use crate::decide::ports::{
    Answer, Away, Beat, Charge, Charges, Clock, Grants, Hits, Pulse, QuotaStore, Refunds, Request, Requests,
    Settlement, Settlements,
};
use crate::domain::exact_log::{Keeper, Log, Step, at_once, play, traces, window};
use crate::domain::limit::{Algorithm, CounterKey, Limit, Occasion, WhenAway};
use crate::domain::question::Mode::{self, Consume, Peek};
use crate::domain::time::{Micros, Moment};
use crate::domain::window::{Frame, Grant, LeaseId, Outcome, Terms};
use crate::telemetry::Telemetry;

/// Its width is 100 s: nothing expires in a real Redis while a test with a clock of its own runs.
pub(super) const WINDOW: Micros = Micros::from_secs(3_200);
pub(super) const WIDTH: Micros = Micros::from_secs(100);
pub(super) const START: Micros = Micros::from_secs(1_000_000);
const UNITS: u64 = 10;

macro_rules! suite {
    ($($behaviour:ident),* $(,)?) => {
        mod in_memory {
            $(#[tokio::test]
            async fn $behaviour() {
                super::$behaviour(&super::memory()).await;
            })*
        }

        /// One after the other, because it takes a while to make a cluster.
        #[tokio::test]
        async fn all_behaviours_in_a_cluster() {
            let Some(cluster) = RedisCluster::masters_with(&[]) else { return };
            let store = Rested(reached(cluster.urls()));
            $(
                println!("{}", stringify!($behaviour));
                cluster.flush();
                $behaviour(&store).await;
            )*
        }

        mod in_redis {
            $(#[tokio::test]
            async fn $behaviour() {
                let Some(server) = super::RedisServer::start() else { return };
                super::$behaviour(&super::redis(&server)).await;
            })*
        }
    };
}

suite![
    units_are_granted_until_the_limit_and_again_when_the_oldest_return,
    whoever_waits_as_told_is_served_and_a_microsecond_earlier_is_not,
    several_counters_pay_all_or_none,
    a_refusal_and_a_peek_change_nothing,
    more_than_the_limit_is_never_granted,
    asking_for_nothing_only_looks,
    a_lease_is_settled_once_and_in_time,
    a_lease_survives_neither_a_reset_nor_another_window,
    more_is_granted_only_while_plenty_remains,
    a_reset_counter_has_everything_left,
    a_changed_limit_holds_for_what_was_charged_before,
    time_that_steps_back_returns_nothing,
    counters_with_similar_names_are_different,
    the_largest_numbers_are_answered,
    a_counter_that_is_named_twice_never_grants_too_much,
    no_counters_at_all_are_granted,
    a_bucket_gives_its_burst_and_then_its_rate,
    a_fixed_window_gives_its_units_by_the_clock,
    limits_of_different_algorithms_pay_all_or_none,
    the_same_key_under_another_algorithm_is_another_counter,
    changed_buckets_and_fixed_windows_count_what_was_charged_before,
    the_largest_buckets_and_fixed_windows_are_exact,
    a_refund_takes_back_no_more_than_is_charged,
    a_refund_takes_from_the_oldest_sub_window_first,
    each_counter_is_refunded_by_itself,
    a_reservation_is_settled_by_the_truth,
    a_reservation_that_nobody_settles_counts_as_spent,
    nothing_comes_back_of_a_reservation_whose_charge_is_gone,
    several_limits_are_reserved_all_or_none_under_one_name,
    slots_are_held_until_they_are_released_or_their_time_is_up,
    holders_keep_their_slots_when_the_limit_changes_but_not_when_it_is_reset,
    as_many_slots_as_there_may_be_are_held_and_released,
    seconds_minutes_hours_and_days_end_when_the_clocks_do,
    two_databases_have_500_a_second_each,
    a_call_counts_for_a_number_and_for_marketing_to_it,
    unlike_there_a_call_that_one_limit_refuses_costs_the_others_nothing,
    a_call_may_cost_several_hits,
    unlike_there_hits_that_are_refused_do_not_count_and_no_hits_are_a_look,
    values_share_a_threshold_or_have_one_each,
    around_the_edge_of_a_minute_twice_as_much_goes_on_as_there,
    hits_count_whether_they_fit_or_not_as_there,
];

pub(super) fn memory() -> MemoryStore {
    MemoryStore::new(1_000, &Telemetry::default())
}

pub(super) fn redis(server: &RedisServer) -> RedisStore {
    reached(vec![server.url()])
}

pub(super) fn reached(urls: Vec<String>) -> RedisStore {
    reached_with(Settings { reach: Reach::Servers(urls), ..Settings::default() })
}

/// The same with other settings; whose time counts aside.
pub(super) fn reached_with(settings: Settings) -> RedisStore {
    let settings = Settings { time: TimeSource::Asker, ..settings };
    // Time enough for a busy machine, so that no rest is ever taken.
    let bounds = Bounds { deadline: Micros::from_secs(10), ..Bounds::default() };
    let telemetry = Arc::new(Telemetry::default());
    RedisStore::connect(&settings, Gates::new(bounds, Arc::new(Still), telemetry)).unwrap()
}

/// A cluster's store that is asked only once all is taken back that was charged in vain.
struct Rested(RedisStore);

impl QuotaStore for Rested {
    fn acquire(&self, requests: Requests, mode: Mode, now: Moment) -> Answer<'_, Grants> {
        Answer::later(async move {
            self.0.rest().await;
            self.0.acquire(requests, mode, now).get().await
        })
    }

    fn hit(&self, hits: Hits, now: Moment) -> Answer<'_, Grants> {
        self.0.hit(hits, now)
    }

    fn settle(&self, settlements: Settlements, now: Moment) -> Answer<'_, Result<(), Away>> {
        self.0.settle(settlements, now)
    }

    fn refund(&self, charges: Charges, now: Moment) -> Answer<'_, Result<Refunds, Away>> {
        self.0.refund(charges, now)
    }

    fn reset(&self, limit: Arc<Limit>, key: CounterKey) -> Answer<'_, Result<(), Away>> {
        self.0.reset(limit, key)
    }

    fn assert(&self, charges: Charges, now: Moment) -> Answer<'_, Result<(), Away>> {
        self.0.assert(charges, now)
    }

    fn beat(&self, pulse: Pulse, now: Moment) -> Answer<'_, Result<Beat, Away>> {
        self.0.beat(pulse, now)
    }
}

/// A clock that nobody needs.
struct Still;

impl Clock for Still {
    fn now(&self) -> Moment {
        at(Micros::ZERO)
    }
}

pub(super) fn limit(units: u64, window: Micros) -> Arc<Limit> {
    let name = "per-client".to_owned();
    let algorithm = Algorithm::SlidingWindow { units, window };
    Arc::new(Limit { name, algorithm, by: Vec::new(), when_away: WhenAway::Deny, charge: Occasion::AfterAuth })
}

pub(super) fn key(value: &str) -> CounterKey {
    let mut key = CounterKey::new("per-client");
    key.push(value);
    key
}

pub(super) fn request(limit: &Arc<Limit>, value: &str, terms: Terms) -> Request {
    Request { limit: Arc::clone(limit), key: key(value), terms }
}

/// Both clocks run evenly.
pub(super) const fn at(now: Micros) -> Moment {
    Moment { wall: now, steady: now }
}

fn lease(units: u64, at_most: u64, serial: u64) -> Terms {
    Terms { at_least: units, at_most, hold: WIDTH, lease: LeaseId { replica: u64::MAX, serial } }
}

pub(super) async fn all(store: &dyn QuotaStore, mode: Mode, requests: &[Request], now: Micros) -> Vec<Grant> {
    let grants = store.acquire(requests.iter().cloned().collect(), mode, at(now)).get().await;
    grants.into_iter().map(Result::unwrap).collect()
}

async fn one(store: &dyn QuotaStore, terms: Terms, now: Micros) -> Grant {
    all(store, Consume, &[request(&limit(UNITS, WINDOW), "alice", terms)], now).await[0]
}

async fn left(store: &dyn QuotaStore, now: Micros) -> u64 {
    all(store, Peek, &[request(&limit(UNITS, WINDOW), "alice", at_once(1))], now).await[0].remaining
}

async fn settle(store: &dyn QuotaStore, lease: LeaseId, used: u64, now: Micros) {
    let settlement = Settlement { limit: limit(UNITS, WINDOW), key: key("alice"), lease, used };
    store.settle([settlement].into_iter().collect(), at(now)).get().await.unwrap();
}

pub(super) const fn granted(units: u64) -> Outcome {
    Outcome::Granted { units }
}

pub(super) const fn short(retry_after: Micros) -> Outcome {
    Outcome::Short { retry_after }
}

async fn units_are_granted_until_the_limit_and_again_when_the_oldest_return(store: &dyn QuotaStore) {
    let full = Micros(33 * WIDTH.0);
    let grant = |outcome, remaining, reset_after| Grant { outcome, remaining, reset_after };
    assert_eq!(one(store, at_once(4), START).await, grant(granted(4), 6, full));
    assert_eq!(one(store, at_once(6), START + WIDTH).await, grant(granted(6), 0, full - WIDTH));
    assert_eq!(one(store, at_once(1), START + WIDTH).await, grant(short(full - WIDTH), 0, full - WIDTH));
    assert_eq!(one(store, at_once(1), START + full).await, grant(granted(1), 3, WIDTH));
}

async fn whoever_waits_as_told_is_served_and_a_microsecond_earlier_is_not(store: &dyn QuotaStore) {
    for turn in 0..5 {
        one(store, at_once(2), START + Micros(turn * WIDTH.0 + 123 * turn)).await;
    }
    let now = START + Micros(5 * WIDTH.0);
    let Outcome::Short { retry_after } = one(store, at_once(5), now).await.outcome else { panic!("it is full") };
    assert!(matches!(one(store, at_once(5), now + retry_after - Micros(1)).await.outcome, Outcome::Short { .. }));
    assert_eq!(one(store, at_once(5), now + retry_after).await.outcome, granted(5));
}

async fn several_counters_pay_all_or_none(store: &dyn QuotaStore) {
    let (small, large) = (limit(3, WINDOW), limit(100, WINDOW));
    let both = |units| [request(&large, "large", at_once(units)), request(&small, "small", at_once(units))];
    let grants = all(store, Consume, &both(2), START).await;
    assert_eq!(
        grants.iter().map(|grant| (grant.outcome, grant.remaining)).collect::<Vec<_>>(),
        [(granted(2), 98), (granted(2), 1)]
    );
    let refused = all(store, Consume, &both(2), START).await;
    assert_eq!(
        refused.iter().map(|grant| (grant.outcome, grant.remaining)).collect::<Vec<_>>(),
        [(granted(2), 98), (short(Micros(33 * WIDTH.0)), 1)]
    );
    // In the other order too, where the refusal comes first.
    let mut reversed = both(2);
    reversed.reverse();
    all(store, Consume, &reversed, START).await;
    let after = all(store, Peek, &both(1), START).await;
    assert_eq!(after.iter().map(|grant| grant.remaining).collect::<Vec<_>>(), [98, 1]);
}

async fn a_refusal_and_a_peek_change_nothing(store: &dyn QuotaStore) {
    let fresh = all(store, Peek, &[request(&limit(UNITS, WINDOW), "alice", at_once(3))], START).await[0];
    assert_eq!(fresh, Grant { outcome: granted(3), remaining: 10, reset_after: Micros::ZERO });
    one(store, at_once(9), START).await;
    // Neither lets time step forward: what is charged afterwards at an earlier time stands there.
    one(store, at_once(2), START + WIDTH).await;
    all(store, Peek, &[request(&limit(UNITS, WINDOW), "alice", at_once(1))], START + WIDTH).await;
    assert_eq!(one(store, at_once(1), START).await.reset_after, Micros(33 * WIDTH.0));
    assert_eq!(left(store, START + Micros(33 * WIDTH.0)).await, 10);
}

async fn more_than_the_limit_is_never_granted(store: &dyn QuotaStore) {
    for units in [UNITS + 1, 1 << 53, (1 << 53) + 1, u64::MAX] {
        let grant = one(store, at_once(units), START).await;
        assert_eq!(grant, Grant { outcome: Outcome::Never, remaining: 10, reset_after: Micros::ZERO });
    }
    assert_eq!(one(store, at_once(UNITS), START).await.outcome, granted(UNITS));
}

async fn asking_for_nothing_only_looks(store: &dyn QuotaStore) {
    let looked = Terms { at_least: 0, ..lease(0, 5, 1) };
    assert_eq!(
        one(store, looked, START).await,
        Grant { outcome: granted(0), remaining: 10, reset_after: Micros::ZERO }
    );
    assert_eq!(left(store, START).await, 10);
    // Beside counters that do pay.
    let limit = limit(UNITS, WINDOW);
    let grants =
        all(store, Consume, &[request(&limit, "bob", looked), request(&limit, "alice", lease(2, 2, 2))], START).await;
    assert_eq!(grants.iter().map(|grant| grant.remaining).collect::<Vec<_>>(), [10, 8]);
    settle(store, lease(2, 2, 2).lease, 0, START).await;
    assert_eq!(left(store, START).await, 10);
}

async fn a_lease_is_settled_once_and_in_time(store: &dyn QuotaStore) {
    let (first, second) = (lease(4, 4, 1), lease(4, 4, 2));
    // Charged to the sub-window of its expiry, the one after this.
    assert_eq!(one(store, first, START).await.reset_after, Micros(34 * WIDTH.0));
    settle(store, second.lease, 0, START).await;
    assert_eq!(left(store, START).await, 6);
    settle(store, first.lease, 1, START).await;
    settle(store, first.lease, 0, START).await;
    assert_eq!(left(store, START).await, 9);
    let grant = one(store, second, START).await;
    assert_eq!((grant.remaining, grant.reset_after), (5, Micros(33 * WIDTH.0)));
    let third = lease(2, 2, 3);
    assert_eq!(one(store, third, START).await.remaining, 3);
    // A microsecond too late, and then never, not even when time steps back.
    settle(store, third.lease, 0, START + WIDTH + Micros(1)).await;
    settle(store, third.lease, 0, START).await;
    assert_eq!(left(store, START).await, 3);
    // At the very last moment.
    settle(store, second.lease, 3, START + WIDTH).await;
    assert_eq!(left(store, START + WIDTH).await, 4);
    settle(store, second.lease, 0, START + WIDTH).await;
    assert_eq!(left(store, START + WIDTH).await, 4);
}

async fn a_lease_survives_neither_a_reset_nor_another_window(store: &dyn QuotaStore) {
    let terms = lease(4, 4, 1);
    one(store, terms, START).await;
    store.reset(limit(UNITS, WINDOW), key("alice")).get().await.unwrap();
    one(store, Terms { at_least: 7, at_most: 7, ..lease(7, 7, 2) }, START).await;
    settle(store, terms.lease, 0, START).await;
    assert_eq!(left(store, START).await, 3);
    let wider = limit(UNITS, Micros(2 * WINDOW.0));
    assert_eq!(all(store, Consume, &[request(&wider, "alice", at_once(1))], START).await[0].outcome, granted(1));
    assert_eq!(one(store, at_once(1), START).await.outcome, granted(1));
    settle(store, lease(7, 7, 2).lease, 0, START).await;
    assert_eq!(left(store, START).await, 1);
}

async fn more_is_granted_only_while_plenty_remains(store: &dyn QuotaStore) {
    for (serial, (at_least, at_most, expected)) in (0..).zip([(1, 100, 5), (1, 2, 2), (1, 100, 1), (2, u64::MAX, 2)]) {
        assert_eq!(one(store, lease(at_least, at_most, serial), START).await.outcome, granted(expected));
    }
    assert_eq!(left(store, START).await, 0);
}

async fn a_reset_counter_has_everything_left(store: &dyn QuotaStore) {
    let limit = limit(UNITS, WINDOW);
    one(store, at_once(UNITS), START).await;
    all(store, Consume, &[request(&limit, "bob", at_once(7))], START).await;
    store.reset(Arc::clone(&limit), key("alice")).get().await.unwrap();
    store.reset(Arc::clone(&limit), key("nobody")).get().await.unwrap();
    assert_eq!(left(store, START).await, 10);
    assert_eq!(all(store, Peek, &[request(&limit, "bob", at_once(1))], START).await[0].remaining, 3);
    assert_eq!(one(store, at_once(UNITS), START).await.outcome, granted(UNITS));
}

async fn a_changed_limit_holds_for_what_was_charged_before(store: &dyn QuotaStore) {
    one(store, at_once(8), START + Micros(1)).await;
    let now = START + WIDTH - Micros(1);
    let ask = async |units, window, cost| {
        all(store, Peek, &[request(&limit(units, window), "alice", at_once(cost))], now).await[0]
    };
    assert_eq!(ask(5, WINDOW, 1).await.remaining, 0);
    assert_eq!(ask(20, WINDOW, 12).await.outcome, granted(12));
    for window in [Micros::from_millis(100), Micros(WINDOW.0 / 2), Micros(WINDOW.0 + 32), Micros(9 * WINDOW.0)] {
        assert_eq!(ask(UNITS, window, 3).await.remaining, 2, "{window}");
        assert!(matches!(ask(UNITS, window, 3).await.outcome, Outcome::Short { .. }), "{window}");
    }
    // From the end of the sub-window in which it was charged, a shorter window lets go of it sooner.
    let shorter = limit(UNITS, Micros(WINDOW.0 / 2));
    let grant = all(store, Consume, &[request(&shorter, "alice", at_once(2))], now).await[0];
    assert_eq!((grant.outcome, grant.reset_after), (granted(2), Micros(16 * WIDTH.0 + 1)));
}

async fn time_that_steps_back_returns_nothing(store: &dyn QuotaStore) {
    one(store, at_once(UNITS), START + WINDOW).await;
    for now in [START, Micros::ZERO, START + WIDTH] {
        let grant = one(store, at_once(1), now).await;
        assert_eq!(grant.outcome, short(START + WINDOW + Micros(33 * WIDTH.0) - now), "{now}");
    }
    // What is charged after such a step stands where time was.
    store.reset(limit(UNITS, WINDOW), key("alice")).get().await.unwrap();
    assert_eq!(one(store, at_once(1), START).await.reset_after, WINDOW + Micros(33 * WIDTH.0));
}

async fn counters_with_similar_names_are_different(store: &dyn QuotaStore) {
    let limit = limit(1, WINDOW);
    let long = "x".repeat(10_000);
    let names = ["", " ", "a", "a}", "{a}", "}", "a\u{0}", "a\r\n", "a 1:b", "ä", "A", &long, &long[1..]];
    let ask = async |name| all(store, Consume, &[request(&limit, name, at_once(1))], START).await[0].outcome;
    for name in names {
        assert_eq!(ask(name).await, granted(1), "{name:?}");
    }
    for name in names {
        assert!(matches!(ask(name).await, Outcome::Short { .. }), "{name:?}");
    }
}

async fn the_largest_numbers_are_answered(store: &dyn QuotaStore) {
    use crate::domain::limit::{UNITS_MAX, WINDOW_MAX};
    let largest = limit(UNITS_MAX, WINDOW_MAX);
    let terms = Terms { at_least: UNITS_MAX - 1, at_most: u64::MAX, hold: WINDOW_MAX, lease: lease(0, 0, 1).lease };
    // The year 2242 in microseconds, near the end of what doubles count exactly.
    let now = Micros(8_600_000_000_000_000);
    let grant = all(store, Consume, &[request(&largest, "alice", terms)], now).await[0];
    assert_eq!((grant.outcome, grant.remaining), (granted(UNITS_MAX - 1), 1));
    let grant = all(store, Consume, &[request(&largest, "alice", at_once(2))], now).await[0];
    assert!(matches!(grant.outcome, Outcome::Short { retry_after } if retry_after == grant.reset_after));
}

async fn a_counter_that_is_named_twice_never_grants_too_much(store: &dyn QuotaStore) {
    let limit = limit(UNITS, WINDOW);
    let twice = [request(&limit, "alice", at_once(6)), request(&limit, "alice", at_once(6))];
    all(store, Consume, &twice, START).await;
    assert!(left(store, START).await >= 4);
    let twice = [request(&limit, "bob", at_once(4)), request(&limit, "bob", at_once(4))];
    all(store, Consume, &twice, START).await;
    assert_eq!(all(store, Peek, &[request(&limit, "bob", at_once(1))], START).await[0].remaining, 2);
}

async fn no_counters_at_all_are_granted(store: &dyn QuotaStore) {
    assert!(all(store, Consume, &[], START).await.is_empty());
    store.settle(std::iter::empty().collect(), at(START)).get().await.unwrap();
}

const FRAME: Frame = Frame { units: UNITS, width: WIDTH, parts: 32 };

/// A store, asked about counters that no other trace uses.
struct InStore<'a> {
    store: &'a dyn QuotaStore,
    runtime: &'a Runtime,
    limit: Arc<Limit>,
    trace: usize,
}

impl<'a> InStore<'a> {
    fn new(store: &'a dyn QuotaStore, runtime: &'a Runtime) -> Self {
        static TRACES: AtomicUsize = AtomicUsize::new(0);
        Self { store, runtime, limit: limit(UNITS, WINDOW), trace: TRACES.fetch_add(1, Ordering::Relaxed) }
    }

    fn name(&self, counter: usize) -> String {
        format!("{}-{counter}", self.trace)
    }
}

impl Keeper for InStore<'_> {
    fn acquire(&mut self, counter: usize, terms: Terms, now: Micros) -> Grant {
        let request = request(&self.limit, &self.name(counter), terms);
        let answer = self.store.acquire([request].into_iter().collect(), Consume, at(now));
        self.runtime.block_on(answer.get())[0].unwrap()
    }

    fn settle(&mut self, counter: usize, lease: LeaseId, used: u64, now: Micros) {
        let settlement = Settlement { limit: Arc::clone(&self.limit), key: key(&self.name(counter)), lease, used };
        let answer = self.store.settle([settlement].into_iter().collect(), at(now));
        self.runtime.block_on(answer.get()).unwrap();
    }

    fn refund(&mut self, counter: usize, units: u64, now: Micros) -> u64 {
        let charge = Charge { limit: Arc::clone(&self.limit), key: key(&self.name(counter)), units };
        let answer = self.store.refund([charge].into_iter().collect(), at(now));
        self.runtime.block_on(answer.get()).unwrap()[0]
    }
}

pub(super) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Runs `check` on random traces.
fn for_traces(cases: u32, steps: usize, check: impl Fn(Vec<Step>) -> Result<(), TestCaseError>) {
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    proptest::test_runner::TestRunner::new(config).run(&traces(UNITS, steps), check).unwrap();
}

fn keeps_the_promise(logs: &[Log]) -> Result<(), TestCaseError> {
    for log in logs {
        prop_assert!(log.most_in_any(window(FRAME)) <= UNITS);
    }
    Ok(())
}

/// Without steps back: a counter that memory let go of as idle remembers how late it was, and the log does not know.
fn forward(mut trace: Vec<Step>) -> Vec<Step> {
    trace.retain(|step| !matches!(step, Step::Back { .. }));
    trace
}

#[test]
fn no_interval_holds_more_than_the_limit_in_memory() {
    let runtime = runtime();
    for_traces(200, 150, |trace| {
        keeps_the_promise(&play(&forward(trace), window(FRAME), START, &mut InStore::new(&memory(), &runtime)))
    });
}

#[test]
fn no_interval_holds_more_than_the_limit_in_redis() {
    let Some(server) = RedisServer::start() else { return };
    let runtime = runtime();
    let store = runtime.block_on(async { redis(&server) });
    for_traces(100, 150, |trace| {
        keeps_the_promise(&play(&trace, window(FRAME), START, &mut InStore::new(&store, &runtime)))
    });
}
