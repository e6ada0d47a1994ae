//! One suite of behaviours for every log of used proofs. Redis is a real one, started for each test.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::proofs::MemoryProofs;
use super::redis_server::{RedisCluster, RedisServer};
use super::suite::{START, at, reached, redis};
use crate::decide::ports::{Away, ProofLog, ProofUse};
use crate::domain::question::Mode::{self, Consume, Peek};
use crate::domain::time::Micros;
use crate::telemetry::Telemetry;

/// Nothing ends while a test runs that does not wait for it.
const LONG: Micros = Micros::from_secs(60);

fn use_of(key: u8, name: u8, keep: Micros) -> ProofUse {
    ProofUse { key: [key; 32], name: [name; 32], keep }
}

async fn first(log: &impl ProofLog, proof: ProofUse, mode: Mode) -> Result<bool, Away> {
    log.first_use(proof, mode, at(START)).get().await
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
}

#[tokio::test]
async fn a_log_in_memory() {
    let log = MemoryProofs::new(1_000, &Telemetry::new().unwrap());
    a_log_keeps_its_promises(&log, &log).await;
    let short = use_of(3, 4, LONG);
    assert_eq!(first(&log, short, Consume).await, Ok(true));
    let again = |now| log.first_use(short, Consume, at(now)).get();
    assert_eq!(again(START + LONG - Micros(1)).await, Ok(false));
    assert_eq!(again(START + LONG).await, Ok(true));
}

#[tokio::test]
async fn a_log_in_redis() {
    let Some(server) = RedisServer::start() else { return };
    let (log, other) = (redis(&server), redis(&server));
    a_log_keeps_its_promises(&log, &other).await;
    let short = use_of(3, 4, Micros::from_millis(30));
    assert_eq!(first(&log, short, Consume).await, Ok(true));
    let end = Instant::now() + Duration::from_secs(10);
    while first(&log, short, Peek).await == Ok(false) {
        assert!(Instant::now() < end, "it is never forgotten");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_log_in_a_cluster() {
    let Some(cluster) = RedisCluster::masters_with(&[]) else { return };
    let (log, other) = (reached(cluster.urls()), reached(cluster.urls()));
    a_log_keeps_its_promises(&log, &other).await;
}
