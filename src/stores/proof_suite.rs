//! One suite of behaviours for every log of used proofs. Redis is a real one, started for each test.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::proofs::MemoryProofs;
use super::redis::{Reach, RedisStore, Settings};
use super::redis_server::{RedisCluster, RedisServer};
use super::suite::{START, at, reached_with};
use crate::decide::ports::{Away, AwayCause, ProofLog, ProofUse};
use crate::domain::question::Mode::{self, Consume, Peek};
use crate::domain::time::Micros;
use crate::telemetry::Telemetry;

/// Nothing ends in a real Redis while a test with a clock of its own runs.
const LONG: Micros = Micros::from_secs(60);

/// How many proofs of one key the logs remember here.
const OF_A_KEY_MAX: usize = 40;

fn use_of(key: u8, name: u8, keep: Micros) -> ProofUse {
    ProofUse { key: [key; 32], name: [name; 32], keep }
}

async fn first(log: &impl ProofLog, proof: ProofUse, mode: Mode) -> Result<bool, Away> {
    first_at(START, log, proof, mode).await
}

async fn first_at(now: Micros, log: &impl ProofLog, proof: ProofUse, mode: Mode) -> Result<bool, Away> {
    log.first_use(proof, mode, at(now)).get().await
}

/// `other` is the same log, as another replica sees it.
async fn a_log_keeps_its_promises(log: &impl ProofLog, other: &impl ProofLog) {
    assert_eq!(first(log, use_of(1, 1, LONG), Consume).await, Ok(true));
    assert_eq!(first(log, use_of(1, 1, LONG), Consume).await, Ok(false));
    assert_eq!(first(other, use_of(1, 1, LONG), Consume).await, Ok(false));
    assert_eq!(first(log, use_of(1, 2, LONG), Consume).await, Ok(true), "another proof of the same key");

    for _ in 0..2 {
        assert_eq!(first(log, use_of(1, 3, LONG), Peek).await, Ok(true), "a look changes nothing");
    }
    assert_eq!(first(other, use_of(1, 3, LONG), Consume).await, Ok(true));
    assert_eq!(first(log, use_of(1, 3, LONG), Peek).await, Ok(false));

    for name in 10..40 {
        let proof = use_of(2, name, LONG);
        let turns = (0..8).map(|turn| async move {
            if turn % 2 == 0 { first(log, proof, Consume).await } else { first(other, proof, Consume).await }
        });
        let firsts = join_all(turns).await;
        assert_eq!(firsts.iter().filter(|answer| **answer == Ok(true)).count(), 1, "{firsts:?}");
        assert!(firsts.iter().all(Result::is_ok), "{firsts:?}");
    }

    let (early, late) = (use_of(3, 1, Micros(LONG.0 / 2)), use_of(3, 2, LONG));
    for proof in [late, early] {
        assert_eq!(first(log, proof, Consume).await, Ok(true));
        let end = START + proof.keep;
        assert_eq!(first_at(end - Micros(1), other, proof, Consume).await, Ok(false), "remembered to the end");
    }
    for mode in [Peek, Consume] {
        assert_eq!(first_at(START + early.keep, log, early, mode).await, Ok(true), "forgotten then");
    }
    assert_eq!(
        first_at(START + early.keep, log, late, Consume).await,
        Ok(false),
        "one that ends first takes none along"
    );

    // However many its holder signs.
    let name = |number: usize| u8::try_from(number).unwrap();
    for number in 0..OF_A_KEY_MAX {
        assert_eq!(first(log, use_of(4, name(number), LONG), Consume).await, Ok(true));
    }
    let beyond = use_of(4, name(OF_A_KEY_MAX), LONG);
    let full = Err(Away { because: AwayCause::Full });
    assert_eq!((first(log, beyond, Consume).await, first(other, beyond, Consume).await), (full, full));
    assert_eq!(first(other, use_of(4, 0, LONG), Consume).await, Ok(false), "nothing is forgotten to make room");
    assert_eq!(first(log, use_of(5, 0, LONG), Consume).await, Ok(true), "others have room of their own");
    assert_eq!(first_at(START + LONG, log, beyond, Consume).await, Ok(true), "and so has it, later");
}

fn in_redis(urls: Vec<String>) -> RedisStore {
    reached_with(Settings { reach: Reach::Servers(urls), proofs_of_a_key_max: OF_A_KEY_MAX, ..Settings::default() })
}

#[tokio::test]
async fn a_log_in_memory() {
    let log = MemoryProofs::new(16 * OF_A_KEY_MAX, &Telemetry::default());
    a_log_keeps_its_promises(&log, &log).await;
}

#[tokio::test]
async fn a_log_in_redis() {
    let Some(server) = RedisServer::start() else { return };
    let (log, other) = (in_redis(vec![server.url()]), in_redis(vec![server.url()]));
    a_log_keeps_its_promises(&log, &other).await;
    // What a key used ends with the last of it, also where nobody asks again.
    let life = |key: &str| server.command(&["PTTL", &format!("tollgate:proofs:{}", key.repeat(32))]);
    let brief = Micros::from_millis(30);
    for proof in [use_of(6, 1, LONG), use_of(6, 2, brief), use_of(7, 1, brief)] {
        assert_eq!(first(&log, proof, Consume).await, Ok(true));
    }
    assert!(life("06").parse::<u64>().unwrap() > 30_000);
    let end = Instant::now() + Duration::from_secs(10);
    while life("07") != "-2" {
        assert!(Instant::now() < end, "it is never forgotten");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_log_in_a_cluster() {
    let Some(cluster) = RedisCluster::masters_with(&[]) else { return };
    let (log, other) = (in_redis(cluster.urls()), in_redis(cluster.urls()));
    a_log_keeps_its_promises(&log, &other).await;
}
