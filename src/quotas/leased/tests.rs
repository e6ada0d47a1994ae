//! The desk with leases, on the pure core behind a door that the test opens.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bereft;
mod flood;
mod hits;
mod loss;
mod refused;
mod reload;
mod share;
mod unheard;
mod waiting;

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, AtomicU64};

use futures_util::future::{FutureExt as _, join_all};
use tokio::sync::Semaphore;

use super::super::{NOBODY, at_once};
use super::*;
use crate::decide::ports::{Beat, Charge, Epoch, Hit, Hits, Peer, Pulse, Word};
use crate::domain::counter::Counter;
use crate::domain::decision::{QuotaVerdict, Reason};
use crate::domain::fixed::Grid;
use crate::domain::limit::{Algorithm, Occasion, WhenAway};
use crate::domain::slots::Slots;
use crate::domain::window::LeaseId;

/// How long calls wait for each other, on a machine that is busy with other tests.
const DEADLINE: Micros = Micros::from_secs(20);

/// For how long the store takes a replica for being there.
const SEEN_FOR: Micros = Micros::from_secs(5);

#[derive(Default)]
struct Hands(AtomicU64);

impl Clock for Hands {
    fn now(&self) -> Moment {
        let now = Micros(self.0.load(Ordering::Relaxed));
        Moment { wall: now, steady: now }
    }
}

struct Core {
    counters: Mutex<HashMap<CounterKey, Counter>>,
    door: Semaphore,
    away: AtomicBool,
    /// What is charged is charged, and the answer comes too late.
    late: AtomicBool,
    /// Calls that were charged wait here before they are answered.
    exit: Semaphore,
    /// A limit whose counters are on a node that is away.
    lost: Mutex<Option<Arc<Limit>>>,
    calls: AtomicUsize,
    /// How long each call takes.
    slowness: Mutex<Duration>,
    /// Goes up when all is lost.
    epoch: AtomicU64,
    /// The latest of each replica, and the epoch that it named.
    pulses: Mutex<Vec<(Pulse, Micros)>>,
}

impl Core {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            counters: Mutex::default(),
            door: Semaphore::new(1_000),
            away: AtomicBool::new(false),
            late: AtomicBool::new(false),
            exit: Semaphore::new(1_000),
            lost: Mutex::default(),
            calls: AtomicUsize::new(0),
            slowness: Mutex::default(),
            epoch: AtomicU64::new(1),
            pulses: Mutex::default(),
        })
    }

    /// Loses all its data, as a restart does.
    fn lose(&self) {
        self.counters.lock().unwrap().clear();
        self.pulses.lock().unwrap().clear();
        self.epoch.fetch_add(1, Ordering::Relaxed);
    }

    fn epoch(&self) -> Epoch {
        Epoch(NonZeroU64::new(self.epoch.load(Ordering::Relaxed)).unwrap())
    }

    fn with<T>(&self, limit: &Limit, key: &CounterKey, act: impl FnOnce(&mut Counter) -> T) -> T {
        let mut counters = self.counters.lock().unwrap();
        act(counters.entry(key.clone()).or_insert_with(|| Counter::new(limit.algorithm, Micros::ZERO)))
    }

    async fn enter(&self) -> Result<(), Away> {
        drop(self.door.acquire().await);
        self.calls.fetch_add(1, Ordering::Relaxed);
        let slowness = *self.slowness.lock().unwrap();
        if !slowness.is_zero() {
            sleep(slowness).await;
        }
        if self.away.load(Ordering::Relaxed) { Err(Away { because: AwayCause::Unreachable }) } else { Ok(()) }
    }
}

impl QuotaStore for Core {
    fn acquire(&self, requests: Requests, mode: Mode, now: Moment) -> Answer<'_, Grants> {
        Answer::later(async move {
            if let Err(away) = self.enter().await {
                return all_away(requests.len(), away);
            }
            let each = |charge: bool| -> Vec<Grant> {
                let one = |Request { limit, key, terms }: &Request| {
                    self.with(limit, key, |counter| {
                        if charge {
                            counter.acquire(limit.algorithm, *terms, now)
                        } else {
                            counter.look(limit.algorithm, *terms, now)
                        }
                    })
                };
                requests.iter().map(one).collect()
            };
            let looked = each(false);
            let lost = self.lost.lock().unwrap().clone();
            let is_lost = |request: &Request| lost.as_ref().is_some_and(|lost| lost.name == request.limit.name);
            let all = looked.iter().zip(&requests).all(|(grant, request)| {
                if is_lost(request) {
                    request.limit.when_away != WhenAway::Deny
                } else {
                    matches!(grant.outcome, Outcome::Granted { .. })
                }
            });
            let grants = if all && mode == Mode::Consume { each(true) } else { looked };
            drop(self.exit.acquire().await);
            if self.late.load(Ordering::Relaxed) {
                return all_away(requests.len(), Away { because: AwayCause::Deadline });
            }
            let answers = grants.into_iter().zip(&requests).map(|(grant, request)| {
                if is_lost(request) { Err(Away { because: AwayCause::Unreachable }) } else { Ok(grant) }
            });
            answers.collect()
        })
    }

    fn hit(&self, hits: Hits, now: Moment) -> Answer<'_, Grants> {
        Answer::later(async move {
            if let Err(away) = self.enter().await {
                return all_away(hits.len(), away);
            }
            let one = |Hit { limit, grid, key, hits }: &Hit| {
                self.with(limit, key, |counter| Ok(counter.hit(*grid, *hits, now)))
            };
            hits.iter().map(one).collect()
        })
    }

    fn settle(&self, settlements: Settlements, now: Moment) -> Answer<'_, Result<(), Away>> {
        Answer::later(async move {
            self.enter().await?;
            for Settlement { limit, key, lease, used } in settlements {
                self.with(&limit, &key, |counter| counter.settle(lease, used, now));
            }
            Ok(())
        })
    }

    fn refund(&self, charges: Charges, now: Moment) -> Answer<'_, Result<Refunds, Away>> {
        Answer::later(async move {
            self.enter().await?;
            let one =
                |Charge { limit, key, units }: Charge| self.with(&limit, &key, |counter| counter.refund(units, now));
            Ok(charges.into_iter().map(one).collect())
        })
    }

    fn reset(&self, limit: Arc<Limit>, key: CounterKey) -> Answer<'_, Result<(), Away>> {
        Answer::later(async move {
            self.enter().await?;
            self.with(&limit, &key, Counter::forget);
            Ok(())
        })
    }

    fn assert(&self, charges: Charges, now: Moment) -> Answer<'_, Result<(), Away>> {
        Answer::later(async move {
            self.enter().await?;
            for Charge { limit, key, units } in charges {
                self.with(&limit, &key, |counter| {
                    let left = counter.look(limit.algorithm, at_once(0), now).remaining;
                    counter.acquire(limit.algorithm, at_once(units.min(left)), now);
                });
            }
            Ok(())
        })
    }

    /// As the script of Redis does.
    fn beat(&self, pulse: Pulse, now: Moment) -> Answer<'_, Result<Beat, Away>> {
        Answer::later(async move {
            self.enter().await?;
            let epoch = self.epoch();
            let mut pulses = self.pulses.lock().unwrap();
            pulses.retain(|(known, at)| known.replica != pulse.replica && now.steady.since(*at) < SEEN_FOR);
            pulses.push((Pulse { epoch: Some(pulse.epoch.unwrap_or(epoch)), ..pulse }, now.steady));
            let peer = |&(Pulse { replica, epoch: named }, _): &(Pulse, Micros)| {
                let word = if named == Some(epoch) { Word::Told } else { Word::Owes };
                Peer { replica, word }
            };
            Ok(Beat { epoch, there: pulses.iter().map(peer).collect() })
        })
    }
}

struct World {
    core: Arc<Core>,
    clock: Arc<Hands>,
    desk: LeaseDesk,
}

/// With room enough, wherever two counters fall.
fn world() -> World {
    world_for(6_400)
}

fn world_for(holdings_max: usize) -> World {
    World::at(Core::new(), Arc::new(Hands(AtomicU64::new(1_000_000_000))), holdings_max)
}

fn charges(charges: &[(&Arc<Limit>, u64)]) -> Charges {
    let one = |&(limit, units): &(&Arc<Limit>, u64)| Charge {
        limit: Arc::clone(limit),
        key: CounterKey::new(&limit.name),
        units,
    };
    charges.iter().map(one).collect()
}

impl World {
    /// A replica that has just reached its store, which it may share with others.
    fn at(core: Arc<Core>, clock: Arc<Hands>, holdings_max: usize) -> Self {
        let world = Self::before(core, clock, holdings_max);
        world.desk.beat().now_or_never().unwrap().unwrap();
        world.core.calls.fetch_sub(1, Ordering::Relaxed);
        world
    }

    /// One that has not reached it yet.
    fn before(core: Arc<Core>, clock: Arc<Hands>, holdings_max: usize) -> Self {
        let (store, local, hands) = (Arc::clone(&core) as _, Core::new(), Arc::clone(&clock) as _);
        let desk = LeaseDesk::with_room_for(holdings_max, store, local, DEADLINE, hands, &Telemetry::default());
        Self { core, clock, desk }
    }

    /// Another replica at the same store.
    fn other(&self) -> Self {
        Self::at(Arc::clone(&self.core), Arc::clone(&self.clock), 6_400)
    }

    fn pass(&self, time: Micros) {
        self.clock.0.fetch_add(time.0, Ordering::Relaxed);
    }

    async fn pay(&self, of: &[(&Arc<Limit>, u64)]) -> Payment {
        self.desk.pay(charges(of), self.clock.now()).get().await
    }

    async fn reserve(&self, of: &[(&Arc<Limit>, u64)]) -> Payment {
        self.desk.reserve(charges(of), Micros::from_secs(60), self.clock.now()).get().await
    }

    async fn settle(&self, limit: &Arc<Limit>, lease: LeaseId, used: u64) -> Result<(), Away> {
        let limit = Arc::clone(limit);
        let settlement = Settlement { key: CounterKey::new(&limit.name), limit, lease, used };
        self.desk.settle([settlement].into_iter().collect(), self.clock.now()).get().await
    }

    async fn refund(&self, limit: &Arc<Limit>, units: u64) -> Result<Refunds, Away> {
        self.desk.refund(charges(&[(limit, units)]), self.clock.now()).get().await
    }

    /// Pays until a lease is in hand.
    async fn heat(&self, limit: &Arc<Limit>) {
        for _ in 0..6 {
            assert_eq!(self.pay(&[(limit, 1)]).await.reason, Reason::Allowed);
        }
        assert!(self.in_hand(limit) > 0);
    }

    fn in_hand(&self, limit: &Limit) -> u64 {
        let now = self.clock.steady();
        self.desk
            .table
            .with(&CounterKey::new(&limit.name), |entry| entry.holding().map_or(0, |held| held.in_hand(now)))
            .unwrap_or(0)
    }

    fn left(&self, limit: &Limit) -> u64 {
        let terms = at_once(0);
        let look = |counter: &mut Counter| counter.look(limit.algorithm, terms, self.clock.now()).remaining;
        self.core.with(limit, &CounterKey::new(&limit.name), look)
    }

    fn calls(&self) -> usize {
        self.core.calls.load(Ordering::Relaxed)
    }
}

fn limit(name: &str, units: u64, when_away: WhenAway) -> Arc<Limit> {
    let algorithm = Algorithm::SlidingWindow { units, window: Micros::from_secs(32) };
    Arc::new(Limit { name: name.to_owned(), algorithm, by: Vec::new(), when_away, charge: Occasion::AfterAuth })
}

#[tokio::test]
async fn a_cold_counter_is_charged_exactly_and_a_hot_one_is_paid_from_memory() {
    let world = world();
    let limit = limit("a", 1_000, WhenAway::Deny);
    assert!(world.pay(&[(&limit, 3)]).await.asked);
    assert_eq!((world.left(&limit), world.in_hand(&limit)), (997, 0));
    world.heat(&limit).await;
    let (calls, total) = (world.calls(), world.left(&limit) + world.in_hand(&limit));
    let paid = world.pay(&[(&limit, 1)]).await;
    assert_eq!((paid.reason, paid.asked, world.calls()), (Reason::Allowed, false, calls));
    assert_eq!(paid.states[0].remaining, total - 1, "what is in hand is left, too");
}

#[tokio::test]
async fn a_counter_whose_node_is_away_holds_up_the_others_only_if_its_limit_says_deny() {
    for (when_away, reason, charged) in [(WhenAway::Allow, Reason::Allowed, 1), (WhenAway::Deny, Reason::StoreAway, 0)]
    {
        let world = world();
        let (near, hot) = (limit("near", 1_000, WhenAway::Deny), limit("hot", 1_000, WhenAway::Deny));
        let far = limit("far", 1_000, when_away);
        *world.core.lost.lock().unwrap() = Some(Arc::clone(&far));
        world.heat(&hot).await;
        let in_hand = world.in_hand(&hot);
        let paid = world.pay(&[(&hot, 1), (&far, 1), (&near, 1)]).await;
        assert_eq!(paid.reason, reason);
        let verdicts: Vec<QuotaVerdict> = paid.states.iter().map(|state| state.verdict).collect();
        assert_eq!(verdicts, [QuotaVerdict::Granted, QuotaVerdict::Away, QuotaVerdict::Granted]);
        assert_eq!((world.left(&near), world.in_hand(&hot)), (1_000 - charged, in_hand - charged), "{when_away:?}");
        // Nobody waits for a request that is over.
        assert_eq!(world.pay(&[(&far, 1)]).await.states[0].verdict, QuotaVerdict::Away);
    }
}

#[tokio::test]
async fn what_was_not_spent_goes_back_when_the_desk_closes() {
    let world = world();
    let limit = limit("a", 1_000, WhenAway::Deny);
    world.heat(&limit).await;
    world.desk.close().await;
    assert_eq!((world.left(&limit), world.in_hand(&limit)), (994, 0));
}

#[tokio::test]
async fn an_idle_lease_is_settled_and_an_idle_holding_let_go() {
    let world = world();
    let limit = limit("a", 1_000, WhenAway::Deny);
    world.heat(&limit).await;
    world.clock.0.fetch_add(600_000, Ordering::Relaxed);
    world.desk.tend().await;
    assert_eq!(world.left(&limit), 994);
    world.clock.0.fetch_add(3_000_000, Ordering::Relaxed);
    for _ in 0..64 {
        world.desk.tend().await;
    }
    assert_eq!(world.desk.table.size(), (1, 0), "what was admitted is remembered");
}

#[tokio::test]
async fn a_lease_is_not_spent_past_its_end() {
    let world = world();
    let limit = limit("a", 1_000, WhenAway::Deny);
    world.heat(&limit).await;
    world.clock.0.fetch_add(998_000, Ordering::Relaxed);
    assert_eq!(world.in_hand(&limit), 0);
    assert!(world.pay(&[(&limit, 1)]).await.asked);
}

#[tokio::test]
async fn what_one_limit_refuses_is_given_back_to_the_others_lease() {
    let world = world();
    let (hot, small) = (limit("hot", 1_000, WhenAway::Deny), limit("small", 1, WhenAway::Deny));
    world.heat(&hot).await;
    let before = world.in_hand(&hot);
    assert_eq!(world.pay(&[(&hot, 1), (&small, 1)]).await.reason, Reason::Allowed);
    let refused = world.pay(&[(&hot, 1), (&small, 1)]).await;
    assert_eq!((refused.reason, refused.asked), (Reason::QuotaExceeded, true));
    let remembered = world.pay(&[(&hot, 1), (&small, 1)]).await;
    assert_eq!((remembered.reason, remembered.asked), (Reason::QuotaExceeded, false));
    assert!(matches!(remembered.states[1].verdict, QuotaVerdict::Short { .. }));
    assert_eq!(world.in_hand(&hot), before - 1);
}

#[tokio::test]
async fn leases_in_hand_are_spent_while_the_store_is_away() {
    let world = world();
    let (hot, other) = (limit("hot", 1_000, WhenAway::Deny), limit("other", 9, WhenAway::Deny));
    world.heat(&hot).await;
    world.core.away.store(true, Ordering::Relaxed);
    let before = world.in_hand(&hot);
    assert_eq!(world.pay(&[(&hot, 1)]).await.reason, Reason::Allowed);
    let refused = world.pay(&[(&hot, 1), (&other, 1)]).await;
    assert_eq!((refused.reason, world.in_hand(&hot)), (Reason::StoreAway, before - 1));
    let lenient = limit("lenient", 9, WhenAway::Allow);
    assert_eq!(world.pay(&[(&hot, 1), (&lenient, 1)]).await.reason, Reason::Allowed);
    assert_eq!(world.in_hand(&hot), before - 2);
}

#[tokio::test]
async fn calls_for_a_counter_that_is_being_asked_share_the_next_request() {
    let world = world();
    let limit = limit("a", 1_000, WhenAway::Deny);
    let charges = [(&limit, 1)];
    let closed = world.core.door.acquire_many(1_000).await.unwrap();
    let mut calls = Box::pin(join_all((0..100).map(|_| world.pay(&charges))));
    assert!(calls.as_mut().now_or_never().is_none());
    drop(closed);
    let payments = calls.await;
    assert!(payments.iter().all(|payment| payment.reason == Reason::Allowed));
    assert!(world.calls() == 2, "{} calls", world.calls());
    world.desk.close().await;
    assert_eq!(world.left(&limit), 900);
}

#[tokio::test]
async fn a_crowd_before_a_small_limit_is_admitted_exactly() {
    let world = world();
    let limit = limit("a", 10, WhenAway::Deny);
    let charges = [(&limit, 1)];
    let payments = join_all((0..100).map(|_| world.pay(&charges))).await;
    assert_eq!(payments.iter().filter(|payment| payment.reason == Reason::Allowed).count(), 10);
    assert!(world.calls() < 12, "{} calls", world.calls());
}

#[tokio::test]
async fn whoever_waits_for_an_asker_that_goes_away_asks_itself() {
    let world = world();
    let limit = limit("a", 10, WhenAway::Deny);
    let closed = world.core.door.acquire_many(1_000).await.unwrap();
    let charges = [(&limit, 1)];
    let mut asker = Box::pin(world.pay(&charges));
    assert!(asker.as_mut().now_or_never().is_none());
    let mut waiter = Box::pin(world.pay(&charges));
    assert!(waiter.as_mut().now_or_never().is_none());
    drop(asker);
    drop(closed);
    assert_eq!(waiter.await.reason, Reason::Allowed);
}

#[tokio::test]
async fn a_reset_forgets_what_is_in_hand_and_what_was_refused() {
    let world = world();
    let limit = limit("a", 40, WhenAway::Deny);
    world.heat(&limit).await;
    assert_eq!(world.pay(&[(&limit, 40)]).await.reason, Reason::QuotaExceeded);
    world.desk.reset(Arc::clone(&limit), CounterKey::new("a")).get().await.unwrap();
    assert_eq!(world.in_hand(&limit), 0);
    assert_eq!(world.pay(&[(&limit, 40)]).await.reason, Reason::Allowed);
    assert_eq!(world.pay(&[(&limit, 1)]).await.reason, Reason::QuotaExceeded);
}

#[tokio::test]
async fn a_limit_changed_under_a_lease_never_admits_more_than_the_larger() {
    let world = world();
    let old = limit("a", 40, WhenAway::Deny);
    world.heat(&old).await;
    let new = limit("a", 20, WhenAway::Deny);
    let mut admitted = 6;
    for _ in 0..60 {
        admitted += u64::from(world.pay(&[(&new, 1)]).await.reason.allows());
        world.desk.tend().await;
    }
    assert!(admitted <= 20, "the lease was given up, {admitted}");
}

/// Requests may bring along limits of their own for one counter, so that two of them are asked at the same time.
#[tokio::test]
async fn a_lease_that_another_limit_asked_for_is_not_spent_but_settled() {
    let world = world();
    let (large, small) = (limit("a", 1_000, WhenAway::Deny), limit("a", 10, WhenAway::Deny));
    world.heat(&large).await;
    let in_hand = world.in_hand(&large);
    world.pay(&[(&large, in_hand)]).await;
    let paid = 6 + in_hand + 1;
    let (of_large, of_small) = ([(&large, 1)], [(&small, 1)]);
    let closed = world.core.door.acquire_many(1_000).await.unwrap();
    let mut first = Box::pin(world.pay(&of_large));
    assert!(first.as_mut().now_or_never().is_none());
    let mut second = Box::pin(world.pay(&of_small));
    assert!(second.as_mut().now_or_never().is_none());
    drop(closed);
    assert_eq!(first.await.reason, Reason::Allowed);
    assert!(paid >= 10, "{paid}: the small limit is used up");
    assert_eq!((second.await.reason, world.in_hand(&small)), (Reason::QuotaExceeded, 0));
    world.desk.tend().await;
    assert_eq!(world.left(&large), 1_000 - paid, "what was leased went back");
}

#[tokio::test]
async fn counters_without_a_place_are_paid_at_the_store() {
    let world = world_for(64);
    for name in 0..500 {
        let limit = limit(&name.to_string(), 2, WhenAway::Deny);
        let mut told = Vec::new();
        for _ in 0..3 {
            told.push(world.pay(&[(&limit, 1)]).await.reason.allows());
        }
        assert_eq!(told, [true, true, false]);
    }
}

#[tokio::test]
async fn what_is_no_sliding_window_is_paid_at_the_store_each_time_though_it_was_leased_until_a_reload() {
    let world = world();
    let sliding = limit("a", 1_000, WhenAway::Deny);
    world.heat(&sliding).await;
    let algorithm = Algorithm::FixedWindow(Grid { units: 1_000, length: Micros::from_secs(32) });
    let fixed = Arc::new(Limit { algorithm, ..(*sliding).clone() });
    for _ in 0..20 {
        assert!(world.pay(&[(&fixed, 1)]).await.asked);
        assert_eq!(world.in_hand(&fixed), 0);
    }
}

#[tokio::test]
async fn a_reservation_goes_past_the_lease_in_hand_and_is_settled_by_the_truth() {
    let world = world();
    let limit = limit("a", 1_000, WhenAway::Deny);
    world.heat(&limit).await;
    let (before, in_hand) = (world.left(&limit), world.in_hand(&limit));
    let reserved = world.reserve(&[(&limit, 2)]).await;
    assert_eq!((reserved.reason, reserved.asked), (Reason::Allowed, true));
    assert_eq!((world.left(&limit), world.in_hand(&limit)), (before - 2, in_hand));
    let lease = reserved.held.unwrap();
    world.settle(&limit, lease, 7).await.unwrap();
    world.settle(&limit, lease, 0).await.unwrap();
    assert_eq!(world.left(&limit), before - 7);
    assert_ne!(world.reserve(&[(&limit, 1)]).await.held, Some(lease), "each has a name of its own");
}

#[tokio::test]
async fn nothing_is_held_where_a_reservation_is_refused_or_not_known() {
    let world = world();
    let (small, open) = (limit("small", 3, WhenAway::Deny), limit("open", 3, WhenAway::Allow));
    for units in [4, u64::MAX] {
        let refused = world.reserve(&[(&small, units), (&open, 1)]).await;
        assert_eq!((refused.reason, refused.held), (Reason::QuotaExceeded, None));
    }
    world.core.away.store(true, Ordering::Relaxed);
    assert_eq!(world.reserve(&[(&small, 1)]).await.reason, Reason::StoreAway);
    let uncounted = world.reserve(&[(&open, 1)]).await;
    assert_eq!((uncounted.reason, uncounted.held), (Reason::Allowed, None));
    assert!(world.refund(&small, 1).await.is_err() && world.settle(&small, NOBODY, 0).await.is_err());
    assert_eq!((world.left(&small), world.left(&open)), (3, 3));
}

#[tokio::test]
async fn a_payment_names_the_slots_that_it_holds_and_only_those() {
    let world = world();
    let sliding = limit("a", 1_000, WhenAway::Deny);
    let algorithm = Algorithm::Concurrency(Slots { units: 2, hold: Micros::from_secs(60) });
    let slots = Arc::new(Limit { name: "slots".to_owned(), algorithm, ..(*sliding).clone() });
    world.heat(&sliding).await;
    assert_eq!(world.pay(&[(&sliding, 1)]).await.held, None);
    let (in_hand, first) = (world.in_hand(&sliding), world.pay(&[(&sliding, 1), (&slots, 1)]).await);
    assert_eq!(
        (first.reason, world.in_hand(&sliding)),
        (Reason::Allowed, in_hand - 1),
        "the rest is paid from the lease"
    );
    let second = world.pay(&[(&slots, 1)]).await;
    assert_ne!(first.held, second.held);
    let refused = world.pay(&[(&sliding, 1), (&slots, 1)]).await;
    assert_eq!((refused.reason, refused.held, world.left(&slots)), (Reason::QuotaExceeded, None, 0));
    assert_eq!(world.desk.peek(charges(&[(&slots, 1)]), world.clock.now()).get().await.held, None);
    world.settle(&slots, first.held.unwrap(), 1).await.unwrap();
    assert_eq!(world.left(&slots), 1);
}

#[tokio::test]
async fn a_refund_is_given_back_at_the_store_and_a_refusal_before_it_is_forgotten() {
    let world = world();
    let limit = limit("a", 10, WhenAway::Deny);
    assert_eq!(world.pay(&[(&limit, 10)]).await.reason, Reason::Allowed);
    let refused = world.pay(&[(&limit, 1)]).await;
    assert_eq!(refused.reason, Reason::QuotaExceeded);
    assert!(!world.pay(&[(&limit, 1)]).await.asked, "it is remembered");
    assert_eq!(world.refund(&limit, 4).await.unwrap()[0], 4);
    assert_eq!(world.pay(&[(&limit, 4)]).await.reason, Reason::Allowed);
    let reserved = world.pay(&[(&limit, 1)]).await;
    assert_eq!(reserved.reason, Reason::QuotaExceeded);
    assert_eq!(world.refund(&limit, 99).await.unwrap()[0], 10);
}
