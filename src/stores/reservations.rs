//! Behaviours of what is given back or held, for the suite: refunds, reservations, slots.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use super::algorithms::{bucket, fixed, slots};
use super::suite::{WIDTH, WINDOW, all, at, granted, key, limit, request, short};
use crate::decide::ports::{Charge, QuotaStore, Request, Settlement};
use crate::domain::exact_log::at_once;
use crate::domain::limit::{HOLD_MAX, Limit, UNITS_MAX};
use crate::domain::question::Mode::{Consume, Peek};
use crate::domain::slots::SLOTS_MAX;
use crate::domain::time::Micros;
use crate::domain::window::{Grant, LeaseId, Outcome, Terms};

const HOUR: Micros = Micros::from_secs(3_600);
/// An hour begins here, and nothing expires in a real Redis before a test is over.
const START: Micros = Micros::from_secs(3_600 * 300);

/// One of each algorithm that counts what is used up, with 10 units.
fn limits() -> [Arc<Limit>; 3] {
    [limit(10, WINDOW), bucket(1, HOUR, 10), fixed(10, HOUR)]
}

const fn name(serial: u64) -> LeaseId {
    LeaseId { replica: u64::MAX - 1, serial }
}

const fn held(units: u64, serial: u64) -> Terms {
    Terms { hold: HOLD_MAX, lease: name(serial), ..at_once(units) }
}

async fn ask(store: &dyn QuotaStore, limit: &Arc<Limit>, terms: Terms, now: Micros) -> Grant {
    all(store, Consume, &[request(limit, "alice", terms)], now).await[0]
}

async fn left(store: &dyn QuotaStore, limit: &Arc<Limit>, now: Micros) -> u64 {
    all(store, Peek, &[request(limit, "alice", at_once(0))], now).await[0].remaining
}

async fn refund(store: &dyn QuotaStore, charges: &[(&Arc<Limit>, &str, u64)], now: Micros) -> Vec<u64> {
    let one =
        |&(limit, name, units): &(&Arc<Limit>, &str, u64)| Charge { limit: Arc::clone(limit), key: key(name), units };
    store.refund(charges.iter().map(one).collect(), at(now)).get().await.unwrap().to_vec()
}

async fn settle(store: &dyn QuotaStore, limit: &Arc<Limit>, serial: u64, used: u64, now: Micros) {
    let settlement = Settlement { limit: Arc::clone(limit), key: key("alice"), lease: name(serial), used };
    store.settle([settlement].into_iter().collect(), at(now)).get().await.unwrap();
}

pub(super) async fn a_refund_takes_back_no_more_than_is_charged(store: &dyn QuotaStore) {
    for limit in &limits() {
        assert_eq!(refund(store, &[(limit, "alice", 3)], START).await, [0], "of a counter that nobody knows");
        ask(store, limit, at_once(8), START).await;
        assert_eq!(refund(store, &[(limit, "alice", 3)], START).await, [3]);
        assert_eq!(left(store, limit, START).await, 5);
        assert_eq!(refund(store, &[(limit, "alice", 0)], START).await, [0]);
        assert_eq!(refund(store, &[(limit, "alice", u64::MAX)], START).await, [5]);
        assert_eq!(refund(store, &[(limit, "alice", 1)], START).await, [0]);
        assert_eq!(ask(store, limit, at_once(10), START).await.outcome, granted(10));
        assert!(matches!(ask(store, limit, at_once(1), START).await.outcome, Outcome::Short { .. }));
    }
}

pub(super) async fn a_refund_takes_from_the_oldest_sub_window_first(store: &dyn QuotaStore) {
    let ten = limit(10, WINDOW);
    for (turn, units) in (0..).zip([2, 3, 4]) {
        ask(store, &ten, at_once(units), START + Micros(turn * WIDTH.0)).await;
    }
    let now = START + Micros(2 * WIDTH.0);
    assert_eq!(refund(store, &[(&ten, "alice", 3)], now).await, [3]);
    let full = Micros(33 * WIDTH.0);
    assert_eq!(ask(store, &ten, at_once(5), now).await.outcome, short(full - WIDTH));
    assert_eq!(
        ask(store, &ten, at_once(0), now).await,
        Grant { outcome: granted(0), remaining: 4, reset_after: full - WIDTH }
    );
    // What counts no more is not given back once again.
    assert_eq!(refund(store, &[(&ten, "alice", 10)], START + full + WIDTH).await, [4]);
}

pub(super) async fn each_counter_is_refunded_by_itself(store: &dyn QuotaStore) {
    let [window, bucket, fixed] = &limits();
    let slots = slots(10, HOUR);
    let taken = [request(window, "a", at_once(2)), request(bucket, "b", at_once(3)), request(&slots, "d", held(4, 1))];
    all(store, Consume, &taken, START).await;
    let charges = [(window, "a", 9), (bucket, "b", 1), (fixed, "c", 9), (&slots, "d", 9)];
    assert_eq!(refund(store, &charges, START).await, [2, 1, 0, 0]);
    assert!(refund(store, &[], START).await.is_empty());
}

pub(super) async fn a_reservation_is_settled_by_the_truth(store: &dyn QuotaStore) {
    for limit in &limits() {
        assert_eq!(ask(store, limit, held(8, 1), START).await.remaining, 2);
        settle(store, limit, 1, 5, START).await;
        assert_eq!(left(store, limit, START).await, 5);
        // Once only.
        settle(store, limit, 1, 0, START).await;
        settle(store, limit, 2, 0, START).await;
        assert_eq!(left(store, limit, START).await, 5);
        ask(store, limit, held(3, 3), START).await;
        settle(store, limit, 3, 3, START).await;
        assert_eq!(left(store, limit, START).await, 2);
        // More than was reserved, and than is left.
        ask(store, limit, held(1, 4), START).await;
        settle(store, limit, 4, 30, START).await;
        let refused = ask(store, limit, at_once(1), START).await;
        assert!(matches!(refused.outcome, Outcome::Short { .. }) && refused.remaining == 0, "{refused:?}");
        // Whose truth is taken back as far as it is refunded.
        assert_eq!(refund(store, &[(limit, "alice", u64::MAX)], START).await, [38]);
        assert_eq!(left(store, limit, START).await, 10);
    }
}

pub(super) async fn a_reservation_that_nobody_settles_counts_as_spent(store: &dyn QuotaStore) {
    for limit in &limits() {
        let terms = Terms { hold: Micros::from_secs(60), ..held(6, 1) };
        ask(store, limit, terms, START).await;
        let late = START + Micros::from_secs(60) + Micros(1);
        settle(store, limit, 1, 0, late).await;
        settle(store, limit, 1, UNITS_MAX, late).await;
        assert_eq!(left(store, limit, late).await, 4);
        // At the very last moment it still can be.
        let terms = Terms { hold: Micros::from_secs(60), ..held(4, 2) };
        ask(store, limit, terms, late).await;
        settle(store, limit, 2, 1, late + Micros::from_secs(60)).await;
        assert_eq!(left(store, limit, late + Micros::from_secs(60)).await, 3);
    }
}

pub(super) async fn nothing_comes_back_of_a_reservation_whose_charge_is_gone(store: &dyn QuotaStore) {
    for limit in &limits() {
        ask(store, limit, held(6, 1), START).await;
        store.reset(Arc::clone(limit), key("alice")).get().await.unwrap();
        ask(store, limit, at_once(7), START).await;
        settle(store, limit, 1, 0, START).await;
        assert_eq!(left(store, limit, START).await, 3);
        // But what was used beyond it is charged.
        ask(store, limit, held(1, 2), START).await;
        store.reset(Arc::clone(limit), key("alice")).get().await.unwrap();
        settle(store, limit, 2, 5, START).await;
        assert_eq!(left(store, limit, START).await, 6);
    }
}

pub(super) async fn several_limits_are_reserved_all_or_none_under_one_name(store: &dyn QuotaStore) {
    let limits = limits();
    let slots = slots(2, HOUR);
    let names = ["window", "bucket", "fixed"];
    let each = |units, serial| -> Vec<Request> {
        let of = limits.iter().zip(names).map(|(limit, name)| request(limit, name, held(units, serial)));
        of.chain([request(&slots, "slots", held(1, serial))]).collect()
    };
    let left = async |store: &dyn QuotaStore| -> Vec<u64> {
        all(store, Peek, &each(0, 9), START).await.iter().map(|grant| grant.remaining).collect()
    };
    all(store, Consume, &each(6, 1), START).await;
    assert_eq!(left(store).await, [4, 4, 4, 1]);
    let refused = all(store, Consume, &each(5, 2), START).await;
    assert!(matches!(refused[0].outcome, Outcome::Short { .. }) && refused[3].outcome == granted(1), "{refused:?}");
    assert_eq!(left(store).await, [4, 4, 4, 1]);
    let one = |(limit, name): (&Arc<Limit>, &str)| Settlement {
        limit: Arc::clone(limit),
        key: key(name),
        lease: self::name(1),
        used: 2,
    };
    let all_of_them = limits.iter().zip(names).chain([(&slots, "slots")]).map(one);
    store.settle(all_of_them.collect(), at(START)).get().await.unwrap();
    assert_eq!(left(store).await, [8, 8, 8, 2]);
}

pub(super) async fn slots_are_held_until_they_are_released_or_their_time_is_up(store: &dyn QuotaStore) {
    let (hold, three) = (Micros::from_secs(60), slots(3, Micros::from_secs(60)));
    let grant = |outcome, remaining, reset_after| Grant { outcome, remaining, reset_after };
    assert_eq!(ask(store, &three, held(2, 1), START).await, grant(granted(2), 1, hold));
    let now = START + Micros::from_secs(10);
    assert_eq!(ask(store, &three, held(1, 2), now).await, grant(granted(1), 0, hold - Micros::from_secs(10)));
    assert_eq!(ask(store, &three, held(1, 3), now).await.outcome, short(hold - Micros::from_secs(10)));
    assert_eq!(ask(store, &three, held(3, 3), now).await.outcome, short(hold));
    assert_eq!(ask(store, &three, held(4, 3), now).await.outcome, Outcome::Never);
    // Released, whatever was used, and once.
    settle(store, &three, 1, 999, now).await;
    settle(store, &three, 1, 0, now).await;
    settle(store, &three, 4, 0, now).await;
    assert_eq!(ask(store, &three, held(0, 4), now).await, grant(granted(0), 2, hold));
    // A caller that crashed.
    assert_eq!(left(store, &three, now + hold - Micros(1)).await, 2);
    assert_eq!(left(store, &three, now + hold).await, 3);
    settle(store, &three, 2, 0, now + hold + Micros(1)).await;
    assert_eq!(ask(store, &three, held(3, 5), now + hold).await.remaining, 0);
    assert_eq!(ask(store, &three, held(1, 6), START).await.outcome, short(now + hold + hold - START));
}

pub(super) async fn holders_keep_their_slots_when_the_limit_changes_but_not_when_it_is_reset(store: &dyn QuotaStore) {
    let (five, two) = (slots(5, HOUR), slots(2, Micros::from_secs(60)));
    ask(store, &five, held(4, 1), START).await;
    assert_eq!(ask(store, &two, held(1, 2), START).await.outcome, short(HOUR));
    settle(store, &two, 1, 0, START).await;
    assert_eq!(ask(store, &two, held(1, 2), START).await.reset_after, Micros::from_secs(60));
    store.reset(Arc::clone(&two), key("alice")).get().await.unwrap();
    assert_eq!(ask(store, &five, held(5, 3), START).await.remaining, 0);
    settle(store, &five, 2, 0, START).await;
    assert_eq!(left(store, &five, START).await, 0);
}

pub(super) async fn as_many_slots_as_there_may_be_are_held_and_released(store: &dyn QuotaStore) {
    let most = slots(SLOTS_MAX, HOLD_MAX);
    assert_eq!(ask(store, &most, held(SLOTS_MAX - 1, 1), START).await.remaining, 1);
    assert_eq!(ask(store, &most, held(2, 2), START).await.outcome, short(HOLD_MAX));
    settle(store, &most, 1, 0, START).await;
    assert_eq!(left(store, &most, START).await, SLOTS_MAX);
}
