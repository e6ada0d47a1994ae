//! Limits of each algorithm through the API, with counters in memory and in a real Redis.

use std::time::Duration;

use tollgate::proto as pb;

use crate::support::calls::{left, length};
use crate::support::redis::RedisServer;
use crate::support::server::{Tollgate, in_redis, question};

/// Long enough that no unit comes back, and hardly ever a window ends, while a test runs with Redis's own clock.
fn policy(store: &str) -> String {
    format!(
        r"
{store}
limits:
  spikes: {{ algorithm: token_bucket, rate: 2/h, burst: 3, by: [source.address] }}
  yearly: {{ algorithm: fixed_window, units: 4, window: 365d, by: [source.address] }}
  strict: {{ units: 5, window: 10h, by: [source.address] }}
rules:
  - match: {{ path: /spikes }}
    permit: anyone
    limits: [spikes]
  - match: {{ path: /yearly }}
    permit: anyone
    limits: [yearly]
  - match: {{ path: /all }}
    permit: anyone
    limits: [strict, spikes, yearly]
"
    )
}

async fn ask(tollgate: &Tollgate, path: &str) -> pb::DecideResponse {
    tollgate.decide(question("GET", path, None)).await
}

async fn keeps_its_promises(tollgate: &Tollgate) {
    let day = Duration::from_hours(24);
    let first = ask(tollgate, "/all").await;
    assert_eq!(left(&first.quotas), [4, 2, 3]);
    let [_, spikes, yearly] = first.quotas.as_slice() else { panic!("{first:?}") };
    assert_eq!((spikes.units, length(spikes.window.as_ref())), (3, Duration::from_mins(90)));
    assert_eq!(length(spikes.reset_after.as_ref()), Duration::from_mins(30));
    assert_eq!((yearly.units, length(yearly.window.as_ref())), (4, 365 * day));
    assert!(length(yearly.reset_after.as_ref()) <= 365 * day);

    for left_after in [1, 0] {
        assert_eq!(left(&ask(tollgate, "/spikes").await.quotas), [left_after]);
    }
    let refused = ask(tollgate, "/spikes").await;
    assert_eq!(refused.quotas[0].outcome(), pb::QuotaOutcome::Short);
    let wait = length(refused.quotas[0].retry_after.as_ref());
    assert!(wait <= Duration::from_mins(30) && wait > Duration::from_secs(1_700), "{wait:?}");

    // The bucket refuses, so the others are not charged.
    let refused = ask(tollgate, "/all").await;
    assert_eq!((refused.allowed, left(&refused.quotas)), (false, vec![4, 0, 3]));
    for left_after in [2, 1, 0] {
        assert_eq!(left(&ask(tollgate, "/yearly").await.quotas), [left_after]);
    }
    assert_eq!(tollgate.verdict("GET", "/yearly", None).await, "deny quota_exceeded");
}

#[tokio::test]
async fn each_algorithm_keeps_its_promise_in_memory() {
    let tollgate = Tollgate::start(&policy("")).await;
    keeps_its_promises(&tollgate).await;
    // Half an hour later there is a unit in the bucket, and not before.
    tollgate.clock.advance(Duration::from_micros(1_799_999_999));
    assert_eq!(tollgate.verdict("GET", "/spikes", None).await, "deny quota_exceeded");
    tollgate.clock.advance(Duration::from_micros(1));
    assert_eq!(tollgate.verdict("GET", "/spikes", None).await, "allow");
    // And when the year is over, all is back in the window.
    let refused = ask(&tollgate, "/yearly").await;
    tollgate.clock.advance(length(refused.quotas[0].retry_after.as_ref()));
    assert_eq!(left(&ask(&tollgate, "/yearly").await.quotas), [3]);
}

#[tokio::test]
async fn each_algorithm_keeps_its_promise_in_redis_over_all_replicas() {
    let Some(redis) = RedisServer::start() else { return };
    let yaml = policy(&in_redis(&redis));
    let (one, other) = (Tollgate::start(&yaml).await, Tollgate::start(&yaml).await);
    keeps_its_promises(&one).await;
    for path in ["/spikes", "/yearly"] {
        assert_eq!(other.verdict("GET", path, None).await, "deny quota_exceeded");
    }
}
