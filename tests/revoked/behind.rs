//! Replicas that are cut off from the log: each does what its configuration says, and nothing is missed afterwards.
//!
//! Their `max_lag` is as short as can be, so on a busy machine each may be behind for a moment at any time.

use std::time::Duration;

use tonic::Code;
use tonic_types::StatusExt as _;

use super::{Issuer, Replica, in_redis};
use crate::support::poll;
use crate::support::proxy::{Carries, Proxy};
use crate::support::redis::RedisServer;
use crate::support::server::SOON;

const MODES: [&str; 3] = ["ask", "deny", "allow"];

fn behind(outcome: &str) -> String {
    format!("tollgate_revocation_answers_behind_total{{outcome=\"{outcome}\"}}")
}

/// One replica for each mode, that reaches the log as `store` says.
async fn of_each_mode(issuer: &Issuer, stores: [String; 3]) -> Vec<Replica> {
    let mut replicas = Vec::new();
    for (mode, store) in MODES.iter().zip(stores) {
        let yaml = issuer.yaml(&store, &format!("max_lag: 1s, when_behind: {mode}"));
        replicas.push(Replica::start(issuer, &yaml).await);
    }
    replicas
}

/// Each is behind, says so, and does as it is told: what it knew stays refused.
async fn all_are_behind(replicas: &[Replica], known: &str, good: &str) {
    for (replica, (mode, outcome, verdict)) in replicas.iter().zip([
        ("ask", "away", "revocations_away"),
        ("deny", "denied", "revocations_away"),
        ("allow", "allowed", "allowed"),
    ]) {
        let told = replica.is_behind(true).await;
        assert_eq!(told["status"], "degraded");
        assert!(told["revocations"]["lag_seconds"].as_f64().is_some_and(|lag| lag > 1.0), "{told}");
        replica.comes_to(verdict, good).await;
        assert_eq!(replica.verdict(known).await, "revoked", "{mode}");
        assert_eq!(replica.verdict(good).await, verdict, "{mode}");
        replica.counts(&behind(outcome), 1.0).await;
        replica.counts("tollgate_revocation_lag_seconds", 1.0).await;
        let told = replica.ready().await.1;
        assert!(told["revocations"]["problem"].as_str().is_some_and(|what| what.starts_with("the log ")), "{told}");
        assert!(replica.process.complaints().contains("revocations are behind: the log of revocations"), "{mode}");
    }
}

/// Each of them is up to date again.
async fn all_are_back(replicas: &[Replica], missed: &str, good: &str) {
    for replica in replicas {
        replica.is_behind(false).await;
        assert_eq!(replica.verdict(missed).await, "revoked");
        replica.comes_to("allowed", good).await;
    }
}

#[tokio::test]
async fn while_redis_stands_still_each_replica_does_as_it_is_configured_and_forgets_nothing() {
    let Some(redis) = RedisServer::start() else { return };
    let issuer = Issuer::new();
    let replicas = of_each_mode(&issuer, [(); 3].map(|()| in_redis(&redis.url()))).await;
    let [known, good, later] = ["known", "good", "later"].map(|session| issuer.of(session));
    replicas[0].revoke(&["known"]).await.expect("an operator may");
    for replica in &replicas {
        replica.comes_to("revoked", &known).await;
        for token in [&good, &later] {
            replica.comes_to("allowed", token).await;
        }
    }
    redis.pause();
    all_are_behind(&replicas, &known, &good).await;
    for replica in &replicas {
        let refused = replica.revoke(&["later"]).await.expect_err("nobody can write it down");
        assert_eq!(refused.code(), Code::Unavailable);
    }
    redis.resume();
    replicas[2].revoke_in_the_end("later").await;
    for replica in &replicas {
        replica.comes_to("revoked", &later).await;
    }
    all_are_back(&replicas, &later, &good).await;
    for replica in &replicas {
        assert!(replica.process.complaints().contains("revocations are up to date"));
        assert_eq!(replica.metric("tollgate_revocation_loads_total").await, "1", "only news were missed");
    }
}

/// Replicas that nothing reaches for a while, and whose connections end then: what another one takes back meanwhile is in
/// force on them as soon as they hear of anything.
#[tokio::test]
async fn what_is_taken_back_while_the_network_is_broken_is_in_force_once_it_is_mended() {
    let Some(redis) = RedisServer::start() else { return };
    let issuer = Issuer::new();
    let proxies =
        [Proxy::start(redis.port()).await, Proxy::start(redis.port()).await, Proxy::start(redis.port()).await];
    let replicas = of_each_mode(&issuer, [0, 1, 2].map(|place| in_redis(&proxies[place].url()))).await;
    let near = Replica::start(&issuer, &issuer.yaml(&in_redis(&redis.url()), "")).await;
    let good = issuer.of("good");
    let mut known = issuer.of("s0");
    near.revoke(&["s0"]).await.expect("an operator may");
    for replica in &replicas {
        replica.comes_to("revoked", &known).await;
    }
    for (number, harm) in [Carries::Nothing, Carries::HangsUp].into_iter().enumerate() {
        let session = format!("s{}", number + 1);
        let missed = issuer.of(&session);
        for (replica, proxy) in replicas.iter().zip(&proxies) {
            replica.comes_to("allowed", &missed).await;
            proxy.set(harm);
        }
        let undone = near.revoke(&["undone meanwhile"]).await.expect("an operator may").remove(0);
        near.revoke(&[&session]).await.expect("an operator may");
        near.undo(undone.id).await;
        all_are_behind(&replicas, &known, &good).await;
        assert_eq!(replicas[2].verdict(&missed).await, "allowed", "as it is configured");
        assert_eq!(near.verdict(&missed).await, "revoked");
        for proxy in &proxies {
            proxy.set(Carries::All);
        }
        all_are_back(&replicas, &missed, &good).await;
        for replica in &replicas {
            replica.comes_to("allowed", &issuer.of("undone meanwhile")).await;
        }
        known = missed;
    }
}

/// Its news are old for a while each time, but the log answers: a token is good or not as of now.
#[tokio::test]
async fn a_replica_whose_news_are_late_asks_the_log_about_each_token() {
    let Some(redis) = RedisServer::start() else { return };
    let issuer = Issuer::new();
    let proxy = Proxy::start(redis.port()).await;
    let slow = format!("store: {{ redis: {{ urls: ['{}'], deadline: 10s }} }}", proxy.url());
    let late = Replica::start(&issuer, &issuer.yaml(&slow, "max_lag: 1s, when_behind: ask")).await;
    let near = Replica::start(&issuer, &issuer.yaml(&in_redis(&redis.url()), "")).await;
    proxy.set(Carries::Late(Duration::from_millis(350)));
    for number in 0..5 {
        let session = format!("s{number}");
        let token = issuer.of(&session);
        assert_eq!(late.verdict(&token).await, "allowed");
        // The next news come when the lag is 1.7 s at least.
        poll(SOON, "behind since a moment", async || {
            let told = late.ready().await.1;
            told["revocations"]["lag_seconds"].as_f64().is_some_and(|lag| 1.0 < lag && lag < 1.2).then_some(())
        })
        .await;
        near.revoke(&[&session]).await.expect("an operator may");
        assert_eq!(late.verdict(&token).await, "revoked");
    }
    late.counts(&behind("asked"), 5.0).await;
}

#[tokio::test]
async fn a_log_without_room_takes_nothing_and_has_a_code_of_its_own() {
    let Some(redis) = RedisServer::start_with(&["--maxmemory-policy", "noeviction"]) else { return };
    let issuer = Issuer::new();
    let replica = Replica::start(&issuer, &issuer.yaml(&in_redis(&redis.url()), "")).await;
    assert_eq!(redis.command(&["CONFIG", "SET", "maxmemory", "1"]), "OK");
    let refused = replica.revoke(&["s"]).await.expect_err("there is no room");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.get_details_retry_info().is_none(), "nobody knows when there will be");
    assert_eq!(replica.verdict(&issuer.of("s")).await, "allowed");
    assert_eq!(redis.command(&["CONFIG", "SET", "maxmemory", "0"]), "OK");
    replica.revoke(&["s"]).await.expect("there is room again");
    assert_eq!(replica.verdict(&issuer.of("s")).await, "revoked");
}
