//! Behaviours of the other algorithms, for the suite: token bucket and fixed window, alone and beside a sliding window.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use super::suite::{WINDOW, all, granted, key, limit, request, short};
use crate::decide::ports::QuotaStore;
use crate::domain::bucket::Flow;
use crate::domain::exact_log::at_once;
use crate::domain::fixed::Grid;
use crate::domain::limit::{Algorithm, Limit, Occasion, UNITS_MAX, WINDOW_MAX, WhenAway};
use crate::domain::question::Mode::{Consume, Peek};
use crate::domain::slots::Slots;
use crate::domain::time::Micros;
use crate::domain::window::{Grant, Outcome};

const HOUR: Micros = Micros::from_secs(3_600);
/// An hour begins here: nothing expires in a real Redis before a test is over.
const START: Micros = Micros::from_secs(3_600 * 300);

pub(super) fn counting(algorithm: Algorithm) -> Arc<Limit> {
    Arc::new(Limit {
        name: "per-client".to_owned(),
        algorithm,
        by: Vec::new(),
        when_away: WhenAway::Deny,
        charge: Occasion::AfterAuth,
    })
}

pub(super) fn bucket(rate: u64, per: Micros, burst: u64) -> Arc<Limit> {
    counting(Algorithm::TokenBucket(Flow::new(rate, per, burst).unwrap()))
}

pub(super) fn fixed(units: u64, length: Micros) -> Arc<Limit> {
    counting(Algorithm::FixedWindow(Grid { units, length }))
}

pub(super) fn slots(units: u64, hold: Micros) -> Arc<Limit> {
    counting(Algorithm::Concurrency(Slots { units, hold }))
}

async fn ask(store: &dyn QuotaStore, limit: &Arc<Limit>, units: u64, now: Micros) -> Grant {
    all(store, Consume, &[request(limit, "alice", at_once(units))], now).await[0]
}

const fn grant(outcome: Outcome, remaining: u64, reset_after: Micros) -> Grant {
    Grant { outcome, remaining, reset_after }
}

pub(super) async fn a_bucket_gives_its_burst_and_then_its_rate(store: &dyn QuotaStore) {
    // Seven an hour: a unit each 514.285714… s.
    let seven = bucket(7, HOUR, 3);
    assert_eq!(ask(store, &seven, 2, START).await, grant(granted(2), 1, Micros(514_285_715)));
    assert_eq!(ask(store, &seven, 1, START).await, grant(granted(1), 0, Micros(514_285_715)));
    assert_eq!(ask(store, &seven, 1, START).await, grant(short(Micros(514_285_715)), 0, Micros(514_285_715)));
    assert_eq!(ask(store, &seven, 2, START).await.outcome, short(Micros(1_028_571_429)));
    assert_eq!(ask(store, &seven, 4, START).await.outcome, Outcome::Never);
    let back = START + Micros(514_285_715);
    assert_eq!(ask(store, &seven, 1, back - Micros(1)).await.outcome, short(Micros(1)));
    assert_eq!(ask(store, &seven, 1, back).await, grant(granted(1), 0, Micros(514_285_714)));
    // An earlier moment gives nothing back.
    assert_eq!(ask(store, &seven, 1, START).await.outcome, short(Micros(514_285_715 + 514_285_714)));
    assert_eq!(ask(store, &seven, 0, START + HOUR).await, grant(granted(0), 3, Micros::ZERO));
}

pub(super) async fn a_fixed_window_gives_its_units_by_the_clock(store: &dyn QuotaStore) {
    let hourly = fixed(3, HOUR);
    let late = START + HOUR - Micros(1_500_000);
    assert_eq!(ask(store, &hourly, 2, late).await, grant(granted(2), 1, Micros(1_500_000)));
    assert_eq!(ask(store, &hourly, 2, late).await, grant(short(Micros(1_500_000)), 1, Micros(1_500_000)));
    assert_eq!(ask(store, &hourly, 4, late).await.outcome, Outcome::Never);
    assert_eq!(ask(store, &hourly, 2, START + HOUR - Micros(1)).await.outcome, short(Micros(1)));
    assert_eq!(ask(store, &hourly, 0, START + HOUR).await, grant(granted(0), 3, Micros::ZERO));
    assert_eq!(ask(store, &hourly, 3, START + HOUR).await, grant(granted(3), 0, HOUR));
}

pub(super) async fn limits_of_different_algorithms_pay_all_or_none(store: &dyn QuotaStore) {
    let limits = [limit(10, WINDOW), bucket(1, HOUR, 4), fixed(6, HOUR)];
    let names = ["sliding", "bucket", "fixed"];
    let each = |units| [0, 1, 2].map(|n| request(&limits[n], names[n], at_once(units)));
    let left = |grants: &[Grant]| grants.iter().map(|grant| grant.remaining).collect::<Vec<_>>();
    assert_eq!(left(&all(store, Consume, &each(3), START).await), [7, 1, 3]);
    let refused = all(store, Consume, &each(2), START).await;
    assert_eq!(left(&refused), [7, 1, 3]);
    assert_eq!(refused.iter().map(|grant| grant.outcome).collect::<Vec<_>>(), [granted(2), short(HOUR), granted(2)]);
    // The refusal may come last, too.
    let [sliding, bucket, fixed] = each(2);
    all(store, Consume, &[fixed.clone(), sliding.clone(), bucket.clone()], START).await;
    all(store, Peek, &[fixed.clone(), sliding.clone()], START).await;
    assert_eq!(left(&all(store, Peek, &each(1), START).await), [7, 1, 3]);
    // Named twice, none gives too much.
    let twice = [fixed.clone(), fixed, sliding.clone(), sliding];
    all(store, Consume, &twice, START).await;
    assert!(all(store, Peek, &each(1), START).await[2].remaining >= 1);
}

pub(super) async fn the_same_key_under_another_algorithm_is_another_counter(store: &dyn QuotaStore) {
    let limits = [limit(4, WINDOW), bucket(1, HOUR, 4), fixed(4, HOUR)];
    for (limit, units) in limits.iter().zip([1, 2, 3]) {
        assert_eq!(ask(store, limit, units, START).await.remaining, 4 - units);
    }
    // And each is reset on its own.
    for (limit, units) in limits.iter().zip([1, 2, 3]) {
        assert_eq!(ask(store, limit, 0, START).await.remaining, 4 - units);
        store.reset(Arc::clone(limit), key("alice")).get().await.unwrap();
        assert_eq!(ask(store, limit, 0, START).await, grant(granted(0), 4, Micros::ZERO));
    }
    for limit in &limits {
        assert_eq!(ask(store, limit, 4, START).await.outcome, granted(4));
        assert!(matches!(ask(store, limit, 1, START).await.outcome, Outcome::Short { .. }));
    }
}

pub(super) async fn changed_buckets_and_fixed_windows_count_what_was_charged_before(store: &dyn QuotaStore) {
    ask(store, &bucket(10, HOUR, 20), 12, START).await;
    for (changed, left) in [
        (bucket(10, HOUR, 30), 18),
        (bucket(10, HOUR, 5), 0),
        (bucket(1, HOUR, 20), 8),
        (bucket(7, HOUR, 5), 0),
        (bucket(1_000_003, Micros::from_secs(86_400), 104_249), 104_237),
    ] {
        assert_eq!(ask(store, &changed, 0, START).await.remaining, left, "{changed:?}");
    }
    ask(store, &fixed(20, HOUR), 12, START + Micros(1)).await;
    for (changed, left) in
        [(fixed(30, HOUR), 18), (fixed(5, HOUR), 0), (fixed(20, Micros(HOUR.0 / 2)), 8), (fixed(20, Micros(1)), 20)]
    {
        assert_eq!(ask(store, &changed, 0, START + Micros(2)).await.remaining, left, "{changed:?}");
    }
}

pub(super) async fn the_largest_buckets_and_fixed_windows_are_exact(store: &dyn QuotaStore) {
    // The year 2242 in microseconds, near the end of what doubles count exactly.
    let now = Micros(8_600_000_000_000_000);
    for (rate, per) in [(1_000_003, 86_400), (UNITS_MAX, 1), (UNITS_MAX - 1, 1), (7, 86_400), (999_999_999_989, 3_600)]
    {
        let per = Micros::from_secs(per);
        let most = Flow::burst_max(rate, per);
        let largest = bucket(rate, per, most);
        for units in [u64::MAX, 1 << 53, most + 1] {
            assert_eq!(ask(store, &largest, units, now).await.outcome, Outcome::Never);
        }
        assert_eq!(ask(store, &largest, most, now).await.remaining, 0);
        let grant = ask(store, &largest, most, now).await;
        let expected = (u128::from(most) * u128::from(per.0)).div_ceil(u128::from(rate));
        assert_eq!(grant.outcome, short(Micros(u64::try_from(expected).unwrap())), "{rate} {per}");
        store.reset(largest, key("alice")).get().await.unwrap();
    }
    let largest = fixed(UNITS_MAX, WINDOW_MAX);
    assert_eq!(ask(store, &largest, UNITS_MAX - 1, now).await.remaining, 1);
    let left = Micros(WINDOW_MAX.0 - now.0 % WINDOW_MAX.0);
    assert_eq!(ask(store, &largest, 2, now).await, grant(short(left), 1, left));
}
