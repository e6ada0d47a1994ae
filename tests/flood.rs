//! A flood of counters, measured: too long for every run. `cargo test --test e2e flood -- --ignored --nocapture`

use std::sync::Arc;
use std::time::Duration;

use tollgate::decide::ports::{Charge, Clock as _, Quotas as _};
use tollgate::domain::decision::Reason;
use tollgate::domain::limit::{Algorithm, CounterKey, Limit, Occasion, WhenAway};
use tollgate::domain::time::Micros;
use tollgate::quotas::LeaseDesk;
use tollgate::server::SystemClock;
use tollgate::stores::memory::{COUNTERS_MAX, MemoryStore};
use tollgate::telemetry::Telemetry;

const COUNTERS: u64 = 10_000_000;

/// How often the hot counter is asked between the others.
const HOT_EACH: u64 = 100;

/// What the process holds in memory, in MB.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it says so");
    line.split_whitespace().next().and_then(|kb| kb.parse::<u64>().ok()).expect("a number") / 1_024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "ten million counters take some minutes"]
async fn ten_million_counters_keep_the_bounds_of_desk_and_store_and_harm_no_hot_one() {
    let (clock, telemetry) = (Arc::new(SystemClock::start()), Telemetry::default());
    let store = Arc::new(MemoryStore::new(COUNTERS_MAX, &telemetry));
    let desk =
        LeaseDesk::new(Arc::clone(&store) as _, store, Micros::from_secs(1), Arc::clone(&clock) as _, &telemetry);
    let desk = Arc::new(desk);
    desk.beat().await.expect("the store is there");
    let upkeep = tokio::spawn({
        let desk = Arc::clone(&desk);
        async move { desk.upkeep().await }
    });
    let algorithm = Algorithm::SlidingWindow { units: 1_000_000_000, window: Micros::from_secs(3_600) };
    let limit = Limit {
        name: "flood".to_owned(),
        algorithm,
        by: Vec::new(),
        when_away: WhenAway::Deny,
        charge: Occasion::AfterAuth,
    };
    let limit = Arc::new(limit);
    let pay = async |name: &str| {
        let mut key = CounterKey::new("flood");
        key.push(name);
        let charge = Charge { limit: Arc::clone(&limit), key, units: 1 };
        desk.pay([charge].into_iter().collect(), clock.now()).get().await
    };
    for _ in 0..1_000 {
        assert_eq!(pay("hot").await.reason, Reason::Allowed);
    }
    let (before, began) = (resident(), tokio::time::Instant::now());
    let (mut admitted, mut hot_asked) = (0_u64, 0_u64);
    for number in 0..COUNTERS {
        admitted += u64::from(pay(&format!("user-{number:08}")).await.reason.allows());
        if number % HOT_EACH == 0 {
            let paid = pay("hot").await;
            assert_eq!(paid.reason, Reason::Allowed);
            hot_asked += u64::from(paid.asked);
        }
        if number % 10_000 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let (grown, took) = (resident().saturating_sub(before), began.elapsed());
    println!(
        "{COUNTERS} counters in {took:?}: {admitted} found a place in the store, {grown} MB more in memory; the hot \
         counter asked the store in {hot_asked} of {} calls",
        COUNTERS / HOT_EACH
    );
    upkeep.abort();
    assert!(admitted <= COUNTERS_MAX as u64);
    assert!(grown < 450, "{grown} MB");
    assert!(took > Duration::from_secs(10), "leases end meanwhile");
    assert!(hot_asked < COUNTERS / HOT_EACH / 100, "{hot_asked}");
}
