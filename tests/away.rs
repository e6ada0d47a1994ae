//! Two servers, and a real Redis that goes away, loses its data, or shuts one of them out: how much is admitted in a window.
//!
//! The window is longer than any test, so whatever is admitted in one was admitted in one window. The servers' clocks stand
//! still but where they are moved: no lease ends by itself.

use std::time::Duration;

use tonic::transport::Channel;

use crate::program::served;
use crate::support::poll;
use crate::support::redis::RedisServer;
use crate::support::server::{SOON, Tollgate, question};
use tollgate::proto as pb;
use tollgate::proto::decision_service_client::DecisionServiceClient;

const UNITS: u64 = 60;

/// With a deadline that a busy machine does not miss: whoever misses it counts as cut off, and admits a share.
fn policy(redis: &RedisServer, more: &str) -> String {
    format!(
        r"
store: {{ redis: {{ urls: ['{url}'], deadline: 500ms{more} }} }}
limits:
  strict: {{ units: {UNITS}, window: 10m, by: [source.address] }}
  local: {{ units: {UNITS}, window: 10m, by: [source.address], when_away: local }}
rules:
  - match: {{ path: /strict }}
    permit: anyone
    limits: [strict]
  - match: {{ path: /local }}
    permit: anyone
    limits: [local]
",
        url = redis.url()
    )
}

struct Replica {
    tollgate: Tollgate,
    decisions: DecisionServiceClient<Channel>,
}

impl Replica {
    async fn start(yaml: &str) -> Self {
        let tollgate = Tollgate::start(yaml).await;
        let decisions = tollgate.decisions().await;
        Self { tollgate, decisions }
    }

    async fn ask(&mut self, path: &str) -> pb::DecideResponse {
        let mut question = question("GET", path, None);
        question.explain = true;
        self.decisions.decide(question).await.expect("an answer").into_inner()
    }

    /// How many of so many calls are admitted.
    async fn admitted(&mut self, path: &str, calls: u64) -> u64 {
        let mut admitted = 0;
        for _ in 0..calls {
            admitted += u64::from(self.ask(path).await.allowed);
        }
        admitted
    }

    /// Asks until the detail is `detail`; answers how many calls were admitted on the way.
    async fn until(&mut self, detail: &str, path: &str) -> u64 {
        let mut admitted = 0;
        poll(SOON, detail, async || {
            // No faster than the machine's: the others are waited for by this clock.
            self.tollgate.clock.advance(Duration::from_millis(5));
            let answer = self.ask(path).await;
            admitted += u64::from(answer.allowed);
            (answer.detail == detail).then_some(())
        })
        .await;
        admitted
    }

    /// Lets time pass, of which the replica hears with its next beat: that alone calls Redis, where nobody is served.
    async fn pass(&self, time: Duration) {
        let beats = async || self.tollgate.metric("tollgate_store_calls_total").await;
        let before = beats().await;
        self.tollgate.clock.advance(time);
        poll(SOON, "a beat, and another", async || (beats().await > before + 1.5).then_some(())).await;
    }

    async fn sees(&self, replicas: f64) {
        poll(SOON, "the others", async || {
            let seen = self.tollgate.metric("tollgate_replicas").await;
            ((seen - replicas).abs() < 0.5).then_some(())
        })
        .await;
    }
}

async fn two(yaml: [&str; 2]) -> [Replica; 2] {
    let replicas = [Replica::start(yaml[0]).await, Replica::start(yaml[1]).await];
    for replica in &replicas {
        replica.sees(2.0).await;
    }
    replicas
}

/// Asks all until each was refused by the quota; answers how many calls were admitted on the way. Time goes on for all of
/// them: one whose clock stood still would rest, as after failures, while the others wait for it and give it up.
async fn until_full(replicas: &mut [Replica], path: &str) -> u64 {
    let (mut admitted, mut full) = (0, vec![false; replicas.len()]);
    poll(SOON, "all are full", async || {
        for (replica, full) in replicas.iter_mut().zip(&mut full) {
            // No faster than the machine's.
            replica.tollgate.clock.advance(Duration::from_millis(5));
            let answer = replica.ask(path).await;
            admitted += u64::from(answer.allowed);
            *full |= answer.detail == "quota_exceeded";
        }
        full.iter().all(|full| *full).then_some(())
    })
    .await;
    admitted
}

#[tokio::test]
async fn a_redis_that_comes_back_empty_gives_nothing_away_twice() {
    let Some(mut redis) = RedisServer::start() else { return };
    let yaml = policy(&redis, "");
    let mut both = two([&yaml, &yaml]).await;
    let mut admitted = both[0].admitted("/strict", 25).await + both[1].admitted("/strict", 15).await;
    assert_eq!(admitted, 40);
    redis.restart();
    admitted += until_full(&mut both, "/strict").await;
    for replica in &mut both {
        admitted += replica.admitted("/strict", 30).await;
        assert!(replica.tollgate.metric("tollgate_told_units_total").await > 0.0);
    }
    assert!(admitted <= UNITS, "{admitted} of {UNITS} admitted");
}

/// Found by a test whose second server's clock stood still: while that rested, the first gave it up.
#[tokio::test]
async fn a_server_that_comes_back_later_than_the_other_is_waited_for() {
    let Some(mut redis) = RedisServer::start() else { return };
    let yaml = policy(&redis, "");
    let mut both = two([&yaml, &yaml]).await;
    let mut admitted = both[0].admitted("/strict", 25).await + both[1].admitted("/strict", 15).await;
    redis.kill();
    // It finds Redis away, and leaves it alone for a while by its clock.
    both[1].tollgate.clock.advance(Duration::from_secs(2));
    admitted += both[1].until("store_away", "/strict").await;
    for _ in 0..5 {
        assert!(!both[1].ask("/strict").await.allowed);
    }
    redis.restart();
    let [one, _] = &mut both;
    poll(SOON, "the loss", async || {
        one.tollgate.clock.advance(Duration::from_millis(5));
        admitted += u64::from(one.ask("/strict").await.allowed);
        (one.tollgate.metric("tollgate_told_units_total").await > 0.0).then_some(())
    })
    .await;
    // A few seconds later it is still away, and nothing is given away.
    for _ in 0..20 {
        one.tollgate.clock.advance(Duration::from_millis(250));
        assert_eq!(one.ask("/strict").await.detail, "store_away");
    }
    admitted += until_full(&mut both, "/strict").await;
    for replica in &mut both {
        admitted += replica.admitted("/strict", 30).await;
    }
    assert!(admitted <= UNITS, "{admitted} of {UNITS} admitted");
}

/// Nobody tells what it had admitted, so that much is admitted once more: the documented bound.
#[tokio::test]
async fn a_server_that_dies_with_its_redis_is_waited_for_ten_seconds_and_no_longer() {
    const LOST: u64 = 15;
    let Some(mut redis) = RedisServer::start() else { return };
    let yaml = policy(&redis, "");
    let (other, _folder, url) = served(&yaml).await;
    let mut one = Replica::start(&yaml).await;
    one.sees(2.0).await;
    let channel = Channel::from_shared(url).expect("it is a URL").connect().await.expect("it serves");
    let mut decisions = DecisionServiceClient::new(channel);
    for _ in 0..LOST {
        let answer = decisions.decide(question("GET", "/strict", None)).await.expect("an answer").into_inner();
        assert!(answer.allowed);
    }
    let mut admitted = LOST + one.admitted("/strict", 25).await;
    assert_eq!(admitted, 40);
    drop(other);
    redis.restart();
    poll(SOON, "the loss", async || {
        one.tollgate.clock.advance(Duration::from_millis(5));
        admitted += u64::from(one.ask("/strict").await.allowed);
        (one.tollgate.metric("tollgate_told_units_total").await > 0.0).then_some(())
    })
    .await;
    for _ in 0..10 {
        one.pass(Duration::from_millis(950)).await;
        assert_eq!(one.ask("/strict").await.detail, "store_away");
    }
    for _ in 0..4 {
        one.pass(Duration::from_millis(950)).await;
    }
    admitted += one.admitted("/strict", 2 * UNITS).await;
    assert_eq!(admitted, UNITS + LOST);
}

#[tokio::test]
async fn data_that_is_deleted_under_a_running_redis_is_missed_within_a_second() {
    let Some(redis) = RedisServer::start() else { return };
    let mut one = Replica::start(&policy(&redis, "")).await;
    let mut admitted = one.admitted("/strict", 40).await;
    assert_eq!(redis.command(&["FLUSHALL"]), "OK");
    poll(SOON, "the loss", async || (one.tollgate.metric("tollgate_told_units_total").await > 0.0).then_some(())).await;
    admitted += one.until("quota_exceeded", "/strict").await;
    assert!(admitted <= UNITS, "{admitted} of {UNITS} admitted");
}

/// Whoever is cut off admits its share once more: units × (1 + cut off ÷ replicas).
async fn both_cut_off(redis: &mut RedisServer, cut: fn(&mut RedisServer), mend: fn(&mut RedisServer)) {
    let yaml = policy(redis, "");
    let [mut one, mut other] = two([&yaml, &yaml]).await;
    let mut admitted = one.until("quota_exceeded", "/local").await + other.until("quota_exceeded", "/local").await;
    admitted += one.admitted("/local", UNITS).await;
    assert!(admitted <= UNITS, "{admitted}");
    cut(redis);
    for replica in [&mut one, &mut other] {
        // Past what is remembered of refusals, which are believed without asking.
        replica.tollgate.clock.advance(Duration::from_secs(2));
        let share = replica.admitted("/local", UNITS).await;
        assert!((UNITS / 2..=UNITS / 2 + 20).contains(&share), "a share, after what was in hand: {share}");
        admitted += share;
        let refused = replica.ask("/local").await;
        assert_eq!((refused.detail.as_str(), refused.quotas[0].remaining), ("quota_exceeded", 0));
        assert_eq!(refused.explanation.expect("it was asked for").quotas(), pb::Provenance::Away);
        assert!(replica.tollgate.metric("tollgate_local_units_total").await > 0.0);
    }
    assert!(admitted <= 2 * UNITS, "{admitted}");
    mend(redis);
    for replica in [&mut one, &mut other] {
        poll(SOON, "the store's return", async || {
            replica.tollgate.clock.advance(Duration::from_millis(5));
            let answer = replica.ask("/local").await;
            admitted += u64::from(answer.allowed);
            (replica.tollgate.metric("tollgate_told_units_total").await > 0.0).then_some(())
        })
        .await;
        admitted += replica.admitted("/local", UNITS).await;
    }
    assert!(admitted <= 2 * UNITS, "{admitted}");
}

#[tokio::test]
async fn two_servers_before_a_redis_that_stands_still_admit_their_shares_and_no_more() {
    let Some(mut redis) = RedisServer::start() else { return };
    both_cut_off(&mut redis, |redis| redis.pause(), |redis| redis.resume()).await;
}

#[tokio::test]
async fn two_servers_whose_redis_is_killed_admit_their_shares_and_no_more_also_when_it_comes_back_empty() {
    let Some(mut redis) = RedisServer::start() else { return };
    both_cut_off(&mut redis, RedisServer::kill, RedisServer::restart).await;
}

#[tokio::test]
async fn one_of_two_servers_that_is_shut_out_admits_its_share_and_the_other_all_the_rest() {
    let Some(redis) = RedisServer::start() else { return };
    let user = ["ACL", "SETUSER", "other", "on", ">pw", "~*", "+@all"];
    assert_eq!(redis.command(&user), "OK");
    let yaml = [policy(&redis, ""), policy(&redis, ", username: other, password: pw")];
    let [mut one, mut other] = two([&yaml[0], &yaml[1]]).await;
    assert_eq!(redis.command(&["ACL", "SETUSER", "other", "off"]), "OK");
    assert_eq!(redis.command(&["CLIENT", "KILL", "USER", "other"]), "1");
    let share = other.admitted("/local", UNITS).await;
    assert!(share <= UNITS / 2, "{share}");
    let mut admitted = share + one.admitted("/local", UNITS).await;
    assert!((UNITS..=UNITS + UNITS / 2).contains(&admitted), "{admitted}");
    assert_eq!(redis.command(&["ACL", "SETUSER", "other", "on"]), "OK");
    poll(SOON, "its return", async || {
        other.tollgate.clock.advance(Duration::from_millis(5));
        admitted += u64::from(other.ask("/local").await.allowed);
        (other.tollgate.metric("tollgate_told_units_total").await > 0.0).then_some(())
    })
    .await;
    admitted += other.admitted("/local", UNITS).await + one.admitted("/local", UNITS).await;
    assert!(admitted <= UNITS + UNITS / 2, "{admitted}");
}
