//! Every store held to the pure core, and to each other, by random traces of all that a store can be asked.
//!
//! Redis is a real one, started for each test; time is passed in. Many traces are played side by side, each on counters of
//! its own, so that Redis is never waited for by one alone.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::mem::{Discriminant, discriminant};
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::future::join_all;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use tokio::runtime::{Builder, Runtime};

use super::algorithms::{bucket, fixed, slots};
use super::redis_server::RedisServer;
use super::suite::{START, WIDTH, WINDOW, at, key, limit, memory, redis, request};
use crate::decide::ports::{
    Answer, Away, Beat, Charge, Charges, Epoch, Grants, Hit, Hits, Peer, Pulse, QuotaStore, Refunds, Request, Requests,
    Settlement, Settlements, Word,
};
use crate::domain::counter::Counter;
use crate::domain::exact_log::at_once;
use crate::domain::limit::{Algorithm, CounterKey, Limit};
use crate::domain::question::Mode::{self, Consume, Peek};
use crate::domain::time::{Micros, Moment};
use crate::domain::window::{GROUP_MAX, Grant, LeaseId, Outcome, Terms};

/// The pure core behind the store port, and nothing else: what each store must answer.
#[derive(Default)]
pub(super) struct Core(Mutex<HashMap<(Discriminant<Algorithm>, CounterKey), Counter>>);

impl QuotaStore for Core {
    fn acquire(&self, requests: Requests, mode: Mode, now: Moment) -> Answer<'_, Grants> {
        let mut counters = self.0.lock().unwrap();
        let mut grant_each = |charge: bool| -> Vec<Grant> {
            let grant = |Request { limit, key, terms }: &Request| {
                let fresh = Counter::new(limit.algorithm, Micros::ZERO);
                let counter = counters.entry((discriminant(&limit.algorithm), key.clone())).or_insert(fresh);
                let answer = if charge {
                    Counter::acquire
                } else {
                    |counter: &mut Counter, algorithm, terms, now| counter.look(algorithm, terms, now)
                };
                answer(counter, limit.algorithm, *terms, now)
            };
            requests.iter().map(grant).collect()
        };
        let looked = grant_each(false);
        let all = looked.iter().all(|grant| matches!(grant.outcome, Outcome::Granted { .. }));
        let grants = if all && mode == Consume { grant_each(true) } else { looked };
        Answer::Now(grants.into_iter().map(Ok).collect())
    }

    fn hit(&self, hits: Hits, now: Moment) -> Answer<'_, Grants> {
        let mut counters = self.0.lock().unwrap();
        let one = |Hit { limit: _, grid, key, hits }: Hit| {
            let algorithm = Algorithm::FixedWindow(grid);
            let fresh = Counter::new(algorithm, Micros::ZERO);
            Ok(counters.entry((discriminant(&algorithm), key)).or_insert(fresh).hit(grid, hits, now))
        };
        Answer::Now(hits.into_iter().map(one).collect())
    }

    fn settle(&self, settlements: Settlements, now: Moment) -> Answer<'_, Result<(), Away>> {
        for Settlement { limit, key, lease, used } in settlements {
            if let Some(counter) = self.0.lock().unwrap().get_mut(&(discriminant(&limit.algorithm), key)) {
                counter.settle(lease, used, now);
            }
        }
        Answer::Now(Ok(()))
    }

    fn refund(&self, charges: Charges, now: Moment) -> Answer<'_, Result<Refunds, Away>> {
        let one = |Charge { limit, key, units }: Charge| {
            let mut counters = self.0.lock().unwrap();
            let counter = counters.get_mut(&(discriminant(&limit.algorithm), key));
            counter.map_or(0, |counter| counter.refund(units, now))
        };
        Answer::Now(Ok(charges.into_iter().map(one).collect()))
    }

    fn reset(&self, limit: Arc<Limit>, key: CounterKey) -> Answer<'_, Result<(), Away>> {
        if let Some(counter) = self.0.lock().unwrap().get_mut(&(discriminant(&limit.algorithm), key)) {
            counter.forget();
        }
        Answer::Now(Ok(()))
    }

    fn assert(&self, charges: Charges, now: Moment) -> Answer<'_, Result<(), Away>> {
        let mut counters = self.0.lock().unwrap();
        for Charge { limit, key, units } in charges {
            let fresh = Counter::new(limit.algorithm, Micros::ZERO);
            let counter = counters.entry((discriminant(&limit.algorithm), key)).or_insert(fresh);
            let left = counter.look(limit.algorithm, at_once(0), now).remaining;
            counter.acquire(limit.algorithm, at_once(units.min(left)), now);
        }
        Answer::Now(Ok(()))
    }

    fn beat(&self, pulse: Pulse, _: Moment) -> Answer<'_, Result<Beat, Away>> {
        let there = vec![Peer { replica: pulse.replica, word: Word::Told }];
        Answer::Now(Ok(Beat { epoch: Epoch(NonZeroU64::MIN), there }))
    }
}

/// One thing that two stores are both asked, or time between two.
#[derive(Clone, Debug)]
enum Step {
    Wait { permille: u64, micros: u64 },
    Back { permille: u64 },
    Ask { asks: Vec<(usize, u64, u64, u64)>, peek: bool, version: usize },
    Hit { hits: Vec<(usize, u64)>, version: usize },
    Settle { pick: usize, used: u64, version: usize },
    Refund { counters: Vec<(usize, u64)>, version: usize },
    Reset { counter: usize, version: usize },
}

const COUNTERS: usize = 4;

/// Leases and reservations are asked for in turns: a hold with more, or without. Most are settled soon, some late, twice or
/// beyond their units.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let version = || prop_oneof![8 => Just(0), 1 => 0..11_usize];
    let ask = (0..COUNTERS, 0..6_u64, prop_oneof![Just(0), 0..9_u64], prop_oneof![Just(0), 1..60_u64, 1..1_500_u64]);
    let asks = prop::collection::vec(ask, 1..4).prop_map(|mut asks| {
        asks.sort_by_key(|(counter, ..)| *counter);
        asks.dedup_by_key(|(counter, ..)| *counter);
        asks
    });
    let refunds = prop::collection::vec((0..COUNTERS, 0..9_u64), 1..3).prop_map(|mut refunds| {
        refunds.sort_by_key(|(counter, _)| *counter);
        refunds.dedup_by_key(|(counter, _)| *counter);
        refunds
    });
    // One counter may be hit twice in a call.
    let hits = prop::collection::vec((0..COUNTERS, prop_oneof![8 => 0..6_u64, 1 => Just(u64::MAX)]), 1..4);
    let used = prop_oneof![8 => 0..9_u64, 1 => 9..40_u64, 1 => Just(u64::MAX)];
    let step = prop_oneof![
        3 => (0..60_u64, 0..3_u64).prop_map(|(permille, micros)| Step::Wait { permille, micros }),
        1 => (0..1_200_u64, 0..3_u64).prop_map(|(permille, micros)| Step::Wait { permille, micros }),
        1 => (0..300_u64).prop_map(|permille| Step::Back { permille }),
        10 => (asks, prop::bool::weighted(0.3), version())
            .prop_map(|(asks, peek, version)| Step::Ask { asks, peek, version }),
        4 => (hits, version()).prop_map(|(hits, version)| Step::Hit { hits, version }),
        4 => (0..6_usize, used, version()).prop_map(|(pick, used, version)| Step::Settle { pick, used, version }),
        2 => (refunds, version()).prop_map(|(counters, version)| Step::Refund { counters, version }),
        1 => (0..COUNTERS, version()).prop_map(|(counter, version)| Step::Reset { counter, version }),
    ];
    prop::collection::vec(step, 1..160)
}

/// How many traces are played side by side.
const ABREAST: usize = 16;

/// Plays so many rounds of traces at both stores, which must answer alike; answers how often each was asked.
fn compare(
    runtime: &Runtime,
    rounds: usize,
    stores: impl Fn() -> [Arc<dyn QuotaStore>; 2],
    versions: &[Arc<Limit>],
    is_played: fn(&Step) -> bool,
) -> usize {
    let asked = AtomicUsize::new(0);
    let play = async |steps: Vec<Step>| {
        let [one, other] = stores();
        Trace::new([&*one, &*other], versions).play(steps.iter().filter(|step| is_played(step)), &asked).await
    };
    let mut runner = TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() });
    for _ in 0..rounds {
        let mut trees: Vec<_> = (0..ABREAST).map(|_| steps().new_tree(&mut runner).unwrap()).collect();
        let played = runtime.block_on(join_all(trees.iter().map(|tree| play(tree.current()))));
        if let Some(failed) = played.iter().position(Result::is_err) {
            let steps = simplest(&mut trees[failed], |steps| runtime.block_on(play(steps)).is_err());
            panic!("{:?}\nafter {steps:?}, at first {:?}", runtime.block_on(play(steps.clone())), played[failed]);
        }
    }
    asked.load(Ordering::Relaxed)
}

/// The simplest of the values in a tree that still fails.
fn simplest<T>(tree: &mut impl ValueTree<Value = T>, fails: impl Fn(T) -> bool) -> T {
    let mut simplest = tree.current();
    while tree.simplify() {
        while !fails(tree.current()) {
            if !tree.complicate() {
                return simplest;
            }
        }
        simplest = tree.current();
    }
    simplest
}

/// One trace, on counters that no other has.
struct Trace<'a> {
    stores: [&'a dyn QuotaStore; 2],
    versions: &'a [Arc<Limit>],
    number: usize,
}

impl<'a> Trace<'a> {
    fn new(stores: [&'a dyn QuotaStore; 2], versions: &'a [Arc<Limit>]) -> Self {
        static TRACES: AtomicUsize = AtomicUsize::new(0);
        Self { stores, versions, number: TRACES.fetch_add(1, Ordering::Relaxed) }
    }

    fn name(&self, counter: usize) -> String {
        format!("{}-{counter}", self.number)
    }

    /// Each counter begins with another of the limits, and now and then a call asks by the next ones.
    fn limit(&self, counter: usize, version: usize) -> &Arc<Limit> {
        &self.versions[(counter + version) % self.versions.len()]
    }

    async fn play(self, steps: impl Iterator<Item = &Step>, asked: &AtomicUsize) -> Result<(), TestCaseError> {
        let (mut now, mut leases) = (START, Vec::new());
        for (serial, step) in (0..).zip(steps) {
            match step {
                Step::Wait { permille, micros } => {
                    now = now + Micros(WINDOW.0 * permille / 1_000 + micros);
                    continue;
                }
                Step::Back { permille } => {
                    now = now - Micros(WINDOW.0 * permille / 1_000);
                    continue;
                }
                Step::Ask { asks, peek, version } => {
                    // Of one group are those that are held for as long.
                    let hold = asks.iter().map(|(.., hold)| *hold).max().unwrap_or(0);
                    let group = ((self.number as u64) << 40) | ((serial / u64::from(GROUP_MAX)) << 20) | hold;
                    let lease = LeaseId { replica: group, serial };
                    leases.extend(asks.iter().map(|(counter, ..)| (*counter, *version, lease)));
                    self.ask(asks, if *peek { Peek } else { Consume }, *version, lease, now).await?;
                }
                Step::Hit { hits, version } => self.hit(hits, *version, now).await?,
                Step::Settle { pick, used, version } => {
                    let Some(&(counter, taken_by, lease)) = leases.iter().rev().nth(*pick) else { continue };
                    self.settle(counter, taken_by + version, lease, *used, now).await?;
                }
                Step::Refund { counters, version } => self.refund(counters, *version, now).await?,
                Step::Reset { counter, version } => {
                    for store in self.stores {
                        let limit = Arc::clone(self.limit(*counter, *version));
                        let answer = store.reset(limit, key(&self.name(*counter))).get().await;
                        prop_assert_eq!(answer, Ok(()), "{:?}", step);
                    }
                }
            }
            asked.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn ask(
        &self,
        asks: &[(usize, u64, u64, u64)],
        mode: Mode,
        version: usize,
        lease: LeaseId,
        now: Micros,
    ) -> Result<(), TestCaseError> {
        let one = |&(counter, at_least, more, hold): &(usize, u64, u64, u64)| {
            let hold = Micros(WINDOW.0 * hold / 1_000);
            let terms = Terms { at_least, at_most: at_least + more, hold, lease };
            request(self.limit(counter, version), &self.name(counter), terms)
        };
        let requests: Vec<Request> = asks.iter().map(one).collect();
        let [one, other] = self.stores;
        let ask =
            async |store: &dyn QuotaStore| store.acquire(requests.iter().cloned().collect(), mode, at(now)).get().await;
        let (one, other) = (ask(one).await, ask(other).await);
        prop_assert_eq!(one, other, "{:?}", requests);
        Ok(())
    }

    /// Of fixed windows only.
    async fn hit(&self, hits: &[(usize, u64)], version: usize, now: Micros) -> Result<(), TestCaseError> {
        let one = |&(counter, hits): &(usize, u64)| {
            let limit = Arc::clone(self.limit(counter, version));
            let Algorithm::FixedWindow(grid) = limit.algorithm else { return None };
            Some(Hit { limit, grid, key: key(&self.name(counter)), hits })
        };
        let hits: Hits = hits.iter().filter_map(one).collect();
        let [one, other] = self.stores;
        let (one, other) = (one.hit(hits.clone(), at(now)).get().await, other.hit(hits.clone(), at(now)).get().await);
        prop_assert_eq!(one, other, "{:?}", hits);
        Ok(())
    }

    async fn settle(
        &self,
        counter: usize,
        version: usize,
        lease: LeaseId,
        used: u64,
        now: Micros,
    ) -> Result<(), TestCaseError> {
        let limit = Arc::clone(self.limit(counter, version));
        let settlement = Settlement { limit, key: key(&self.name(counter)), lease, used };
        for store in self.stores {
            let answer = store.settle([settlement.clone()].into_iter().collect(), at(now)).get().await;
            prop_assert_eq!(answer, Ok(()), "{:?}", settlement);
        }
        Ok(())
    }

    async fn refund(&self, counters: &[(usize, u64)], version: usize, now: Micros) -> Result<(), TestCaseError> {
        let one = |&(counter, units): &(usize, u64)| Charge {
            limit: Arc::clone(self.limit(counter, version)),
            key: key(&self.name(counter)),
            units,
        };
        let charges: Charges = counters.iter().map(one).collect();
        let [one, other] = self.stores;
        let one = one.refund(charges.clone(), at(now)).get().await;
        let other = other.refund(charges.clone(), at(now)).get().await;
        prop_assert_eq!(one, other, "{:?}", charges);
        Ok(())
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn core() -> Arc<dyn QuotaStore> {
    Arc::new(Core::default())
}

fn in_memory() -> Arc<dyn QuotaStore> {
    Arc::new(memory())
}

fn everything(_: &Step) -> bool {
    true
}

/// Memory lets go of idle counters. One that another definition of its limit would still have counted is then gone,
/// and so is the time of a counter to which time steps back; neither is asked of it.
fn time_goes_on(step: &Step) -> bool {
    !matches!(step, Step::Back { .. })
}

/// Rates, lengths and holds stay the same: see above.
fn of_all_algorithms() -> Vec<Arc<Limit>> {
    vec![
        limit(12, WINDOW),
        bucket(7, Micros::from_secs(1_000), 9),
        fixed(7, Micros(WINDOW.0 / 4)),
        slots(9, WIDTH),
        bucket(7, Micros::from_secs(1_000), 12),
        limit(7, WINDOW),
        slots(5, WIDTH),
        fixed(12, Micros(WINDOW.0 / 4)),
    ]
}

/// At least so many calls are compared with the core at Redis.
const COMPARED_MIN: usize = 100_000;

#[test]
#[expect(clippy::print_stdout, reason = "how much was compared")]
fn redis_answers_like_the_pure_core_whatever_changes_and_also_when_time_steps_back() {
    let Some(server) = RedisServer::start() else { return };
    let runtime = runtime();
    let redis: Arc<dyn QuotaStore> = Arc::new(runtime.block_on(async { redis(&server) }));
    let mut versions = of_all_algorithms();
    versions.extend([
        bucket(3, Micros::from_secs(86_400), 5),
        fixed(9, Micros(WINDOW.0 / 3 + 1)),
        limit(12, Micros(WINDOW.0 / 3)),
        bucket(1, WIDTH, 4),
        limit(20, Micros(2 * WINDOW.0 + 11)),
        slots(9, Micros(7 * WIDTH.0 + 3)),
    ]);
    let mut compared = 0;
    while compared < COMPARED_MIN {
        compared += compare(&runtime, 4, || [core(), Arc::clone(&redis)], &versions, everything);
    }
    println!("{compared} calls were answered alike by the scripts in Redis and by the pure core");
}

#[test]
fn memory_and_redis_answer_the_same() {
    let Some(server) = RedisServer::start() else { return };
    let runtime = runtime();
    let redis: Arc<dyn QuotaStore> = Arc::new(runtime.block_on(async { redis(&server) }));
    compare(&runtime, 8, || [in_memory(), Arc::clone(&redis)], &of_all_algorithms(), time_goes_on);
}

#[test]
fn memory_answers_like_the_pure_core() {
    compare(&runtime(), 16, || [core(), in_memory()], &of_all_algorithms(), time_goes_on);
}
