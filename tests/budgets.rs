//! Budgets that are counts and not times: how often Redis is asked.

use tonic::transport::Channel;

use tollgate::proto::decision_service_client::DecisionServiceClient;

use crate::redis::calls;
use crate::support::redis::RedisServer;
use crate::support::server::{SOON, Tollgate, question};

/// Script calls that are not the decisions' own: each server probes its store once a second, and settles.
const BESIDES: u64 = 20;

const COLD: u64 = 300;

async fn ask(client: &mut DecisionServiceClient<Channel>, path: &str, address: &str) -> bool {
    let mut asked = question("GET", path, None);
    asked.request.as_mut().expect("a request").source_address.replace_range(.., address);
    client.decide(asked).await.expect("an answer").into_inner().allowed
}

#[tokio::test]
async fn cold_counters_cost_one_trip_for_each_decision_whatever_the_number_of_limits() {
    let Some(redis) = RedisServer::start() else { return };
    let yaml = format!(
        r"
store: {{ redis: {{ urls: ['{}'], deadline: 500ms }} }}
limits:
  a: {{ units: 9, window: 10m, by: [source.address] }}
  b: {{ units: 9, window: 1h, by: [source.address] }}
  c: {{ algorithm: token_bucket, rate: 1/s, burst: 9, by: [source.address] }}
  d: {{ algorithm: fixed_window, units: 9, window: 1d, by: [source.address] }}
rules:
  - {{ match: {{ path: /one }}, permit: anyone, limits: [a] }}
  - {{ match: {{ path: /two }}, permit: anyone, limits: [a, b] }}
  - {{ match: {{ path: /four }}, permit: anyone, limits: [a, b, c, d] }}
",
        redis.url()
    );
    let tollgate = Tollgate::start(&yaml).await;
    let mut client = tollgate.decisions().await;
    for (number, path) in ["/one", "/two", "/four"].into_iter().enumerate() {
        let (before, began) = (calls(&redis, "evalsha"), tokio::time::Instant::now());
        for caller in 0..COLD {
            let address = format!("10.{number}.{}.{}", caller / 200, caller % 200);
            assert!(ask(&mut client, path, &address).await, "{path} {address}");
        }
        let asked = calls(&redis, "evalsha") - before;
        // The server asks every 400 ms what was revoked, give or take a fifth.
        let besides = BESIDES + 4 * (began.elapsed().as_secs() + 1);
        assert!((COLD..=COLD + besides).contains(&asked), "{path}: {asked} script calls for {COLD} decisions");
    }
}

/// A refusal is believed for a second at most, or a sub-window; meanwhile nobody asks, however many call.
async fn is_asked_once_a_second_by_each_replica_however_hard_it_is_hammered(limit: &str) {
    let Some(redis) = RedisServer::start() else { return };
    let yaml = format!(
        "store: {{ redis: {{ urls: ['{}'], deadline: 500ms }} }}\nlimits:\n  near: {{ {limit} }}\n\
         rules: [{{ match: {{ path: /near }}, permit: anyone, limits: [near] }}]",
        redis.url()
    );
    let replicas = [Tollgate::start(&yaml).await, Tollgate::start(&yaml).await];
    let mut admitted = 0;
    let (before, began) = (calls(&redis, "evalsha"), tokio::time::Instant::now());
    for _ in 0..SECONDS {
        for tollgate in &replicas {
            tollgate.clock.advance(std::time::Duration::from_secs(1));
            admitted += hammered(tollgate).await;
        }
    }
    assert_eq!(admitted, 20, "{limit}");
    let asked = calls(&redis, "evalsha") - before;
    // Each unit is taken by a trip, and half of them are settled by another, at worst. Of a limit without leases all who call
    // at the moment when it is used up find that out. Each replica asks every 400 ms what was revoked, give or take a fifth.
    let bound = 2 * SECONDS + 2 * 20 + 2 * CALLERS + 2 * 4 * (began.elapsed().as_secs() + 1) + BESIDES;
    let decisions = 2 * SECONDS * CALLERS * CALLS;
    assert!(asked <= bound, "{limit}: {asked} script calls, more than {bound}, for {decisions} decisions");
}

#[tokio::test]
async fn a_window_that_is_used_up_is_asked_for_once_a_second_by_each_replica_however_hard_it_is_hammered() {
    is_asked_once_a_second_by_each_replica_however_hard_it_is_hammered("units: 20, window: 10m").await;
}

#[tokio::test]
async fn so_is_a_bucket_that_is_empty_and_a_window_of_the_clock() {
    for limit in ["algorithm: token_bucket, rate: 1/d, burst: 20", "algorithm: fixed_window, units: 20, window: 7d"] {
        is_asked_once_a_second_by_each_replica_however_hard_it_is_hammered(limit).await;
    }
}

const SECONDS: u64 = 10;
const CALLERS: u64 = 8;
const CALLS: u64 = 25;

/// Calls from several connections at once; how many were admitted.
async fn hammered(tollgate: &Tollgate) -> u64 {
    let mut callers = Vec::new();
    for _ in 0..CALLERS {
        let mut client = tollgate.decisions().await;
        callers.push(tokio::spawn(async move {
            let mut admitted = 0;
            for _ in 0..CALLS {
                admitted += u64::from(ask(&mut client, "/near", "192.0.2.7").await);
            }
            admitted
        }));
    }
    let mut admitted = 0;
    for caller in callers {
        admitted += tokio::time::timeout(SOON, caller).await.expect("it ends").expect("it does not panic");
    }
    admitted
}
