//! What Redis keeps of reservations and slots: how long, and under which rights. A real server, by its own time.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use super::algorithms::{bucket, fixed, slots};
use super::redis::{RedisStore, Settings};
use super::redis_faults::{clock, connect, settings};
use super::redis_server::RedisServer;
use super::suite::{at, granted, key, limit, redis, request};
use crate::decide::ports::{Away, AwayCause, Charge, Clock as _, QuotaStore, Settlement};
use crate::domain::exact_log::at_once;
use crate::domain::limit::Limit;
use crate::domain::question::Mode;
use crate::domain::time::{Micros, Moment};
use crate::domain::window::{Grant, LeaseId, Terms};

const LEASE: LeaseId = LeaseId { replica: 1, serial: 2 };
/// The asker's time, which does not count.
const NOW: Moment = Moment { wall: Micros::ZERO, steady: Micros::ZERO };

async fn ask(store: &RedisStore, limit: &Arc<Limit>, units: u64, hold: Micros) -> Result<Grant, Away> {
    let terms = Terms { hold, lease: LEASE, ..at_once(units) };
    store.acquire([request(limit, "alice", terms)].into_iter().collect(), Mode::Consume, NOW).get().await[0]
}

async fn settle(store: &RedisStore, limit: &Arc<Limit>, used: u64) -> Result<(), Away> {
    let settlement = Settlement { limit: Arc::clone(limit), key: key("alice"), lease: LEASE, used };
    store.settle([settlement].into_iter().collect(), NOW).get().await
}

/// Waits until Redis has let go of a key, and answers whether it did.
async fn vanishes(server: &RedisServer, key: &str) -> bool {
    let clock = clock();
    while clock.now().steady < Micros::from_secs(10) {
        if server.command(&["EXISTS", key]) == "0" {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

/// A bucket that is full again and a window that is over vanish under an open reservation, and what it comes to is charged
/// all the same.
#[tokio::test]
async fn a_reservation_outlives_the_counter_that_it_was_charged_to() {
    let Some(server) = RedisServer::start() else { return };
    let store = connect(&settings(&server));
    let hold = Micros::from_secs(60);
    let second = Micros::from_secs(1);
    for (limit, ending) in [(bucket(10, second, 10), ":bucket"), (fixed(10, Micros::from_millis(100)), ":fixed")] {
        assert_eq!(ask(&store, &limit, 5, hold).await.unwrap().outcome, granted(5));
        let state = format!("tollgate:{{per-client 5:alice}}{ending}");
        assert!(vanishes(&server, &state).await);
        settle(&store, &limit, 1_005).await.unwrap();
        assert_eq!(
            server.command(&["EXISTS", "tollgate:{ reservations}:reserved:0000000000000001"]),
            "0",
            "it is settled"
        );
    }
    // A hundred seconds of the bucket's rate are owed.
    assert!(ask(&store, &bucket(10, second, 10), 0, hold).await.unwrap().reset_after > Micros::from_secs(80));
}

#[tokio::test]
async fn slots_that_nobody_releases_vanish_by_themselves() {
    let Some(server) = RedisServer::start() else { return };
    let store = connect(&settings(&server));
    let (long, short) = (slots(5, Micros::from_secs(60)), slots(5, Micros::from_millis(100)));
    let life = || server.command(&["PTTL", "tollgate:{per-client 5:alice}:held"]).parse::<i64>().unwrap();
    ask(&store, &short, 2, Micros::ZERO).await.unwrap();
    // Twice as long as it is held, a second, and what it comes back later: an eighth, or 100 ms. So most that are taken later
    // need not set it.
    assert!((1..=1_212).contains(&life()), "{}", life());
    // Even for one whose hold was longer than it is now.
    ask(&store, &long, 1, Micros::ZERO).await.unwrap();
    ask(&store, &short, 1, Micros::ZERO).await.unwrap();
    assert!((110_000..=121_100).contains(&life()), "{}", life());
    store.reset(Arc::clone(&long), key("alice")).get().await.unwrap();
    assert!((110_000..=121_100).contains(&life()), "{}", life());
    assert_eq!(ask(&store, &long, 5, Micros::ZERO).await.unwrap().remaining, 0);
    assert_eq!(server.command(&["DEL", "tollgate:{per-client 5:alice}:held"]), "1");
    ask(&store, &short, 5, Micros::ZERO).await.unwrap();
    assert!(vanishes(&server, "tollgate:{per-client 5:alice}:held").await);
}

/// What is written in place keeps its life, so a charge that counts for longer must not be.
#[tokio::test]
async fn a_key_lives_as_long_as_the_latest_charge_counts() {
    let Some(server) = RedisServer::start() else { return };
    let store = redis(&server);
    let start = Micros::from_secs(32_000);
    let charge = async |limit: &Arc<Limit>, units: u64, now: Micros, hold: Micros| {
        let terms = Terms { hold, lease: LEASE, ..at_once(units) };
        let requests = [request(limit, "alice", terms)].into_iter().collect();
        let grants = store.acquire(requests, Mode::Consume, at(now)).get().await;
        assert_eq!(grants[0].as_ref().unwrap().outcome, granted(units));
    };
    let second = Micros::from_secs(1);
    let half_a_minute = Micros::from_secs(32);
    // With the moment of a later charge and how long that counts.
    for (limit, ending, later, counts_ms) in [
        (limit(10, half_a_minute), "", second, 32_000),
        (bucket(1, Micros::from_secs(10), 4), ":bucket", Micros::from_secs(50), 40_000),
        (fixed(10, half_a_minute), ":fixed", half_a_minute, 31_000),
    ] {
        let key = format!("tollgate:{{per-client 5:alice}}{ending}");
        let life = || server.command(&["PTTL", &key]).parse::<i64>().unwrap();
        charge(&limit, 1, start, Micros::ZERO).await;
        let shorten = || server.command(&["PEXPIRE", &key, "9000"]);
        shorten();
        charge(&limit, 1, start, Micros::ZERO).await;
        assert!((1..=9_000).contains(&life()), "{ending}: it is in place");
        charge(&limit, 4, start + later, Micros::ZERO).await;
        assert!(life() >= counts_ms, "{ending}: {}", life());
    }
    // Redis's clock stepped back: the key stays until it has caught up and all is over.
    charge(&limit(10, half_a_minute), 1, start - Micros::from_secs(20), Micros::from_secs(5)).await;
    let life = server.command(&["PTTL", "tollgate:{per-client 5:alice}"]).parse::<i64>().unwrap();
    assert!(life >= 20_000 + 5_000 + 32_000, "{life}");
}

/// All that a user needs for all that a store is asked, and nothing that it does not need.
#[tokio::test]
async fn every_right_that_is_listed_is_needed_and_no_other() {
    const RIGHTS: [&str; 8] = ["evalsha", "get", "getrange", "set", "setrange", "append", "del", "time"];
    let Some(server) = RedisServer::start() else { return };
    assert_eq!(server.command(&["ACL", "SETUSER", "tollgate", "on", ">pw", "~tollgate:*", "+ping", "+eval"]), "OK");
    let change = |sign: &str, right: &str| {
        assert_eq!(server.command(&["ACL", "SETUSER", "tollgate", &format!("{sign}{right}")]), "OK");
    };
    for right in RIGHTS {
        change("+", right);
    }
    let with = Settings { username: Some("tollgate".to_owned()), password: Some("pw".to_owned()), ..settings(&server) };
    let limits =
        [limit(9, Micros::from_secs(60)), bucket(1, Micros::from_secs(60), 9), fixed(9, Micros::from_secs(60))];
    let all_is_asked = async || -> Result<(), Away> {
        // What was left where a right was missing.
        server.command(&["DEL", "tollgate:{ reservations}:reserved:0000000000000001"]);
        let store = connect(&with);
        for limit in limits.iter().chain([&slots(9, Micros::from_secs(60))]) {
            ask(&store, limit, 1, Micros::from_secs(60)).await?;
            // Over the first, in place.
            ask(&store, limit, 1, Micros::from_secs(60)).await?;
            ask(&store, limit, 9, Micros::from_secs(60)).await?;
            // One of two that are written down together, then the other.
            settle(&store, limit, 0).await?;
            settle(&store, limit, 0).await?;
            let one = Charge { limit: Arc::clone(limit), key: key("alice"), units: 1 };
            store.refund([one].into_iter().collect(), NOW).get().await?;
            store.reset(Arc::clone(limit), key("alice")).get().await?;
        }
        Ok(())
    };
    assert_eq!(all_is_asked().await, Ok(()));
    for right in RIGHTS {
        change("-", right);
        assert_eq!(all_is_asked().await, Err(Away { because: AwayCause::Denied }), "{right}");
        change("+", right);
    }
}
