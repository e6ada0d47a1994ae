//! A log that loses what it had, or holds what is not ours: nothing that a replica knew to be taken back passes, at any moment.

use super::{CHANGES, ENTRIES, Issuer, Replica, in_redis};
use crate::support::proxy::Proxy;
use crate::support::redis::RedisServer;
use crate::support::server::SOON;
use crate::support::{Signal, poll};

/// Where it passed when in doubt, one that knows nothing would be seen.
const LENIENT: &str = "when_behind: allow";

/// Waits until Redis holds so many entries of ours.
async fn holds(redis: &RedisServer, entries: usize) {
    // One that stands for none is always there.
    let wanted = (entries + 1).to_string();
    poll(SOON, "the entries are in Redis", async || (redis.command(&["ZCARD", ENTRIES]) == wanted).then_some(())).await;
}

async fn two(issuer: &Issuer, yaml: &str) -> [Replica; 2] {
    [Replica::start(issuer, yaml).await, Replica::start(issuer, yaml).await]
}

#[tokio::test]
async fn a_redis_that_comes_back_empty_or_is_flushed_is_told_again_and_nothing_passes_meanwhile() {
    let Some(mut redis) = RedisServer::start() else { return };
    let issuer = Issuer::new();
    let yaml = issuer.yaml(&in_redis(&redis.url()), LENIENT);
    let replicas = two(&issuer, &yaml).await;
    let tokens = ["a", "b", "undone"].map(|session| issuer.of(session));
    replicas[0].revoke(&["a"]).await.expect("an operator may");
    let undone = replicas[1].revoke(&["b", "undone"]).await.expect("an operator may").remove(1);
    replicas[1].undo(undone.id).await;
    for replica in &replicas {
        poll(SOON, "all is known", async || {
            (replica.verdicts(&tokens).await == ["revoked", "revoked", "allowed"]).then_some(())
        })
        .await;
    }
    let watches = replicas.each_ref().map(|replica| [replica.watch(&tokens[0]), replica.watch(&tokens[1])]);
    for (number, lost) in ["restarted", "flushed", "only the entries deleted"].into_iter().enumerate() {
        match lost {
            "restarted" => redis.restart(),
            "flushed" => assert_eq!(redis.command(&["FLUSHALL"]), "OK"),
            _ => assert_eq!(redis.command(&["DEL", ENTRIES]), "1"),
        }
        holds(&redis, 2 + number).await;
        let session = format!("after {number}");
        replicas[0].revoke_in_the_end(&session).await;
        replicas[1].comes_to("revoked", &issuer.of(&session)).await;
        let late = Replica::start(&issuer, &yaml).await;
        assert_eq!(late.verdicts(&tokens).await, ["revoked", "revoked", "allowed"], "{lost}");
        assert_eq!(late.verdict(&issuer.of(&session)).await, "revoked", "{lost}");
    }
    for replica in &replicas {
        replica.is_behind(false).await;
        assert_eq!(replica.verdict(&tokens[2]).await, "allowed");
        assert!(replica.process.complaints().contains("the log of revocations has lost its data"));
    }
    for watch in watches.into_iter().flatten() {
        watch.saw_it_revoked().await;
    }
}

/// As when a master dies before its replica has heard of the last changes, and is told others first.
#[tokio::test]
async fn what_a_failover_lost_is_refused_all_the_same_and_written_down_again() {
    let (Some(mut old), Some(new)) = (RedisServer::start(), RedisServer::start()) else { return };
    let issuer = Issuer::new();
    let proxy = Proxy::start(old.port()).await;
    let yaml = issuer.yaml(&in_redis(&proxy.url()), LENIENT);
    let replicas = two(&issuer, &yaml).await;
    let tokens = ["first", "lost", "instead"].map(|session| issuer.of(session));
    replicas[0].revoke(&["first"]).await.expect("an operator may");
    assert_eq!(new.command(&["REPLICAOF", "127.0.0.1", &old.port().to_string()]), "OK");
    holds(&new, 1).await;
    assert_eq!(new.command(&["REPLICAOF", "NO", "ONE"]), "OK");
    replicas[0].revoke(&["lost"]).await.expect("an operator may");
    for replica in &replicas {
        replica.comes_to("revoked", &tokens[1]).await;
        // Both have been told, beyond what the one that wrote it knows anyhow.
        replica.counts("tollgate_revocation_changes_total", 2.0).await;
    }
    let watches = replicas.each_ref().map(|replica| replica.watch(&tokens[1]));
    // There is a change of the same number when the replicas come to it, and one beyond.
    let direct = Replica::start(&issuer, &issuer.yaml(&in_redis(&new.url()), LENIENT)).await;
    for session in ["instead", "and another"] {
        direct.revoke(&[session]).await.expect("an operator may");
    }
    assert_eq!(direct.verdicts(&tokens).await, ["revoked", "allowed", "revoked"]);
    old.kill();
    proxy.lead_to(new.port());
    for replica in replicas.iter().chain([&direct]) {
        poll(SOON, "all is known", async || (replica.verdicts(&tokens).await == ["revoked"; 3]).then_some(())).await;
    }
    holds(&new, 4).await;
    for watch in watches {
        watch.saw_it_revoked().await;
    }
}

#[tokio::test]
async fn a_replica_under_which_changes_were_trimmed_loads_anew_and_has_missed_nothing() {
    let Some(redis) = RedisServer::start() else { return };
    let issuer = Issuer::new();
    let yaml = issuer.yaml(&in_redis(&redis.url()), LENIENT);
    let [one, other] = two(&issuer, &yaml).await;
    let tokens = ["before", "undone", "missed"].map(|session| issuer.of(session));
    let undone = one.revoke(&["before", "undone"]).await.expect("an operator may").remove(1);
    other.comes_to("revoked", &tokens[1]).await;
    assert_eq!(other.metric("tollgate_revocation_loads_total").await.round(), 1.0);
    let watch = other.watch(&tokens[0]);
    other.process.signal(Signal::Stop);
    one.undo(undone.id).await;
    one.revoke(&["missed"]).await.expect("an operator may");
    one.revoke(&["and another"]).await.expect("an operator may");
    assert_eq!(redis.command(&["XTRIM", CHANGES, "MAXLEN", "1"]), "4");
    other.process.signal(Signal::Continue);
    poll(SOON, "all is known", async || {
        (other.verdicts(&tokens).await == ["revoked", "allowed", "revoked"]).then_some(())
    })
    .await;
    other.counts("tollgate_revocation_loads_total", 2.0).await;
    other.is_behind(false).await;
    assert!(!other.process.complaints().contains("has lost its data"), "it has not");
    watch.saw_it_revoked().await;
}

#[tokio::test]
async fn after_a_restart_of_all_replicas_nothing_is_forgotten() {
    let Some(redis) = RedisServer::start() else { return };
    let issuer = Issuer::new();
    let yaml = issuer.yaml(&in_redis(&redis.url()), LENIENT);
    let replicas = two(&issuer, &yaml).await;
    let tokens = ["a", "undone", "b"].map(|session| issuer.of(session));
    let undone = replicas[0].revoke(&["a", "undone"]).await.expect("an operator may").remove(1);
    replicas[1].undo(undone.id).await;
    replicas[1].revoke(&["b"]).await.expect("an operator may");
    // At once, by SIGKILL.
    drop(replicas);
    for replica in two(&issuer, &yaml).await {
        assert_eq!(replica.verdicts(&tokens).await, ["revoked", "allowed", "revoked"]);
    }
}

/// Where the log has come to.
fn last_change(redis: &RedisServer) -> u64 {
    let told = redis.command(&["XREVRANGE", CHANGES, "+", "-", "COUNT", "1"]);
    let number = told.split('-').next().and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| panic!("there is a change: {told}"))
}

/// Entries and changes that make no sense, and others that a newer version may have written.
#[tokio::test]
async fn what_is_not_ours_in_redis_is_passed_over_and_counted_and_said_once() {
    const SAID: &str = "passed over revocations that make no sense here";
    const SERIES: &str = "tollgate_revocations_unreadable_total";
    let Some(redis) = RedisServer::start() else { return };
    let issuer = Issuer::new();
    let yaml = issuer.yaml(&in_redis(&redis.url()), LENIENT);
    let replicas = two(&issuer, &yaml).await;
    let newer = format!("0123456789abcdef\u{2}s{}", "0".repeat(24));
    replicas[0].revoke(&["a"]).await.expect("an operator may");
    replicas[1].comes_to("revoked", &issuer.of("a")).await;
    let watch = replicas[1].watch(&issuer.of("a"));
    for entry in ["not ours", &newer] {
        assert_eq!(redis.command(&["ZADD", ENTRIES, "0", entry]), "1");
    }
    let number = last_change(&redis);
    for (place, (sign, entry)) in [("+", "not ours"), ("-", &newer), ("?", "")].into_iter().enumerate() {
        let id = format!("{}-7", number + 1 + place as u64);
        assert_eq!(redis.command(&["XADD", CHANGES, &id, sign, entry]), id);
    }
    for replica in &replicas {
        replica.counts(SERIES, 3.0).await;
    }
    // By the clock of Redis, and of a form that ours never have.
    let someone_elses =
        [vec!["XADD", CHANGES, "*", "field", "value"], vec!["XADD", CHANGES, "8000000000000-99999999", "+", ""]];
    for (place, command) in someone_elses.iter().enumerate() {
        assert!(!redis.command(command).starts_with('-'), "{command:?}");
        let session = format!("b{place}");
        replicas[0].revoke_in_the_end(&session).await;
        replicas[1].comes_to("revoked", &issuer.of(&session)).await;
    }
    let late = Replica::start(&issuer, &yaml).await;
    assert_eq!(late.metric(SERIES).await.round(), 2.0, "the entries");
    let tokens = ["a", "b0", "b1", "good"].map(|session| issuer.of(session));
    for replica in replicas.iter().chain([&late]) {
        replica.is_behind(false).await;
        assert_eq!(replica.verdicts(&tokens).await, ["revoked", "revoked", "revoked", "allowed"]);
        assert_eq!(replica.process.complaints().matches(SAID).count(), 1);
    }
    let members = redis.command(&["ZRANGE", ENTRIES, "0", "-1"]);
    assert!(members.contains("not ours") && members.contains(&newer), "they stay: {members:?}");
    watch.saw_it_revoked().await;
}
