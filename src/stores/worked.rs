//! The worked cases of envoyproxy/ratelimit for the fixed window, for the suite: what its documentation shows, as far as it
//! has a meaning without descriptor files. Where Tollgate differs on purpose, the test's name says so.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use super::algorithms::fixed;
use super::suite::{all, at, granted, key, request, short};
use crate::decide::ports::{Charge, Hit, QuotaStore};
use crate::domain::exact_log::at_once;
use crate::domain::limit::{Algorithm, Limit, UNITS_MAX};
use crate::domain::question::Mode::Consume;
use crate::domain::time::Micros;
use crate::domain::window::{Grant, Outcome};

const SECOND: Micros = Micros::from_secs(1);
const MINUTE: Micros = Micros::from_secs(60);
const HOUR: Micros = Micros::from_secs(3_600);
const DAY: Micros = Micros::from_secs(86_400);

/// 2024-02-29 12:34:56.25 UTC.
const NOW: Micros = Micros(1_709_210_096_250_000);

async fn ask(store: &dyn QuotaStore, limit: &Arc<Limit>, value: &str, units: u64, now: Micros) -> Grant {
    all(store, Consume, &[request(limit, value, at_once(units))], now).await[0]
}

/// The outcome and what is left of each, where each costs one.
async fn call(store: &dyn QuotaStore, limits: &[(&Arc<Limit>, &str)], now: Micros) -> Vec<(Outcome, u64)> {
    let requests: Vec<_> = limits.iter().map(|(limit, value)| request(limit, value, at_once(1))).collect();
    all(store, Consume, &requests, now).await.iter().map(|grant| (grant.outcome, grant.remaining)).collect()
}

pub(super) async fn seconds_minutes_hours_and_days_end_when_the_clocks_do(store: &dyn QuotaStore) {
    for (unit, left) in [
        (SECOND, Micros(750_000)),
        (MINUTE, Micros(3_750_000)),
        (HOUR, Micros(25 * MINUTE.0 + 3_750_000)),
        (DAY, Micros(11 * HOUR.0 + 25 * MINUTE.0 + 3_750_000)),
    ] {
        let (limit, name) = (fixed(5, unit), format!("per {unit}"));
        for remaining in (0..5).rev() {
            let expected = Grant { outcome: granted(1), remaining, reset_after: left };
            assert_eq!(ask(store, &limit, &name, 1, NOW).await, expected, "{name}");
        }
        // Whoever is refused is told when the unit of the clock ends, in microseconds and not in whole seconds.
        let expected = Grant { outcome: short(left), remaining: 0, reset_after: left };
        assert_eq!(ask(store, &limit, &name, 1, NOW).await, expected, "{name}");
        assert_eq!(ask(store, &limit, &name, 1, NOW + left - Micros(1)).await.outcome, short(Micros(1)), "{name}");
        let again = Grant { outcome: granted(1), remaining: 4, reset_after: unit };
        assert_eq!(ask(store, &limit, &name, 1, NOW + left).await, again, "{name}");
    }
}

pub(super) async fn two_databases_have_500_a_second_each(store: &dyn QuotaStore) {
    let limit = fixed(500, SECOND);
    assert_eq!(ask(store, &limit, "users", 500, NOW).await.outcome, granted(500));
    assert!(matches!(ask(store, &limit, "users", 1, NOW).await.outcome, Outcome::Short { .. }));
    assert_eq!(ask(store, &limit, "default", 1, NOW).await.remaining, 499);
}

pub(super) async fn a_call_counts_for_a_number_and_for_marketing_to_it(store: &dyn QuotaStore) {
    let (marketing, number) = (fixed(5, DAY), fixed(100, DAY));
    let message = [(&marketing, "marketing 2061111111"), (&number, "2061111111")];
    for sent in 1..=5 {
        assert_eq!(call(store, &message, NOW).await, [(granted(1), 5 - sent), (granted(1), 100 - sent)]);
    }
    let refused = call(store, &message, NOW).await;
    assert!(matches!(refused[0], (Outcome::Short { .. }, 0)), "{refused:?}");
    // Other messages to it go on, and marketing to others does.
    assert_eq!(call(store, &message[1..], NOW).await, [(granted(1), 94)]);
    let other = [(&marketing, "marketing 2062222222"), (&number, "2062222222")];
    assert_eq!(call(store, &other, NOW).await, [(granted(1), 4), (granted(1), 99)]);
}

/// There, the other descriptors are charged for a call that one refuses, unless a setting says otherwise.
pub(super) async fn unlike_there_a_call_that_one_limit_refuses_costs_the_others_nothing(store: &dyn QuotaStore) {
    let (five, two) = (fixed(5, MINUTE), fixed(2, MINUTE));
    let both = [(&five, "five"), (&two, "two")];
    call(store, &both, NOW).await;
    assert_eq!(call(store, &both, NOW).await, [(granted(1), 3), (granted(1), 0)]);
    for _ in 0..2 {
        let refused = call(store, &both, NOW).await;
        assert!(matches!(refused[..], [(Outcome::Granted { .. }, 3), (Outcome::Short { .. }, 0)]), "{refused:?}");
    }
    assert_eq!(call(store, &both[..1], NOW).await, [(granted(1), 2)]);
}

pub(super) async fn a_call_may_cost_several_hits(store: &dyn QuotaStore) {
    let limit = fixed(5, MINUTE);
    assert_eq!(ask(store, &limit, "alice", 3, NOW).await.remaining, 2);
    let requests = [request(&limit, "bob", at_once(2)), request(&fixed(2, MINUTE), "carol", at_once(1))];
    let left: Vec<u64> = all(store, Consume, &requests, NOW).await.iter().map(|grant| grant.remaining).collect();
    assert_eq!(left, [3, 1], "each descriptor may cost another number");
}

/// There, the hits of a refused call count, so that nothing goes on until the unit of the clock ends; and no hits are one.
pub(super) async fn unlike_there_hits_that_are_refused_do_not_count_and_no_hits_are_a_look(store: &dyn QuotaStore) {
    let limit = fixed(5, MINUTE);
    ask(store, &limit, "alice", 3, NOW).await;
    assert!(matches!(
        ask(store, &limit, "alice", 3, NOW).await,
        Grant { outcome: Outcome::Short { .. }, remaining: 2, .. }
    ));
    assert_eq!(ask(store, &limit, "alice", 6, NOW).await.outcome, Outcome::Never);
    assert_eq!(ask(store, &limit, "alice", 0, NOW).await.remaining, 2);
    assert_eq!(ask(store, &limit, "alice", 2, NOW).await.outcome, granted(2));
}

pub(super) async fn values_share_a_threshold_or_have_one_each(store: &dyn QuotaStore) {
    let limit = fixed(10, HOUR);
    // Which of a pattern's values select one counter is for whoever makes the key.
    for _ in ["files/a.pdf", "files/b.csv"] {
        assert_eq!(ask(store, &limit, "files/*", 5, NOW).await.outcome, granted(5));
    }
    assert!(matches!(ask(store, &limit, "files/*", 1, NOW).await.outcome, Outcome::Short { .. }));
    assert_eq!(ask(store, &limit, "a.pdf", 10, NOW).await.remaining, 0);
    assert_eq!(ask(store, &limit, "b.csv", 1, NOW).await.remaining, 9);
}

pub(super) async fn around_the_edge_of_a_minute_twice_as_much_goes_on_as_there(store: &dyn QuotaStore) {
    let limit = fixed(20, MINUTE);
    let edge = NOW + Micros(3_750_000);
    let Outcome::Granted { units: before } = ask(store, &limit, "alice", 20, edge - Micros(1)).await.outcome else {
        panic!("nothing was asked before")
    };
    let Outcome::Granted { units: after } = ask(store, &limit, "alice", 20, edge).await.outcome else {
        panic!("a minute begins")
    };
    assert_eq!(before + after, 40);
}

/// What `mode: compatible` counts by.
pub(super) async fn hits_count_whether_they_fit_or_not_as_there(store: &dyn QuotaStore) {
    let (two, many) = (fixed(2, MINUTE), fixed(UNITS_MAX, DAY));
    let hit = async |hits: &[(&Arc<Limit>, &str, u64)]| -> Vec<(Outcome, u64)> {
        let one = |(limit, value, hits): &(&Arc<Limit>, &str, u64)| {
            let Algorithm::FixedWindow(grid) = limit.algorithm else { unreachable!("both are") };
            Hit { limit: Arc::clone(limit), grid, key: key(value), hits: *hits }
        };
        let grants = store.hit(hits.iter().map(one).collect(), at(NOW)).get().await;
        grants.into_iter().map(Result::unwrap).map(|grant| (grant.outcome, grant.remaining)).collect()
    };
    let over = Outcome::Short { retry_after: Micros(3_750_000) };
    // Each by itself, and one counter twice.
    assert_eq!(
        hit(&[(&two, "alice", 2), (&many, "all", 1), (&two, "alice", 0), (&two, "alice", 1)]).await,
        [(granted(2), 0), (granted(1), UNITS_MAX - 1), (granted(0), 0), (over, 0)]
    );
    assert_eq!(hit(&[(&two, "alice", 0), (&two, "bob", 3)]).await, [(over, 0), (over, 0)]);
    assert!(matches!(hit(&[(&many, "all", u64::MAX)]).await[..], [(Outcome::Short { .. }, 0)]));
    // What is given back comes off what was counted beyond the limit first.
    let back = [Charge { limit: Arc::clone(&two), key: key("bob"), units: 2 }];
    assert_eq!(store.refund(back.into_iter().collect(), at(NOW)).get().await.unwrap()[..], [2]);
    assert_eq!(hit(&[(&two, "bob", 0), (&two, "carol", 0)]).await, [(granted(0), 1), (granted(0), 2)]);
    assert_eq!(hit(&[]).await, []);
}
