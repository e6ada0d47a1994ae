//! What stores are told by whoever admitted something: that it is there, and what it admitted.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::algorithms::{bucket, fixed};
use super::comparison::Core;
use super::redis::RedisStore;
use super::redis_faults::{Guarded, settings};
use super::redis_server::{RedisCluster, RedisServer};
use super::suite::{WINDOW, all, at, key, limit, memory, reached, redis, request, runtime};
use crate::decide::ports::{Away, AwayCause, Beat, Charge, Clock as _, Epoch, Pulse, QuotaStore, Word};
use crate::domain::exact_log::at_once;
use crate::domain::limit::Limit;
use crate::domain::question::Mode::{Consume, Peek};
use crate::domain::time::Micros;
use crate::domain::window::{LeaseId, Outcome, Terms};

const START: Micros = Micros::from_secs(3_600 * 300);

async fn tell(store: &dyn QuotaStore, limit: &Arc<Limit>, name: &str, units: u64, now: Micros) {
    let charge = Charge { limit: Arc::clone(limit), key: key(name), units };
    store.assert([charge].into_iter().collect(), at(now)).get().await.unwrap();
}

async fn left(store: &dyn QuotaStore, limit: &Arc<Limit>, name: &str, now: Micros) -> u64 {
    all(store, Peek, &[request(limit, name, at_once(0))], now).await[0].remaining
}

async fn charges_up_to_the_limit_and_refuses_nothing(store: &dyn QuotaStore) {
    for (name, limit) in [
        ("sliding", limit(10, WINDOW)),
        ("bucket", bucket(1, Micros::from_secs(3_600), 10)),
        ("fixed", fixed(10, Micros::from_secs(3_600))),
    ] {
        all(store, Consume, &[request(&limit, name, at_once(3))], START).await;
        tell(store, &limit, name, 4, START).await;
        assert_eq!(left(store, &limit, name, START).await, 3, "{name}");
        tell(store, &limit, name, u64::MAX, START).await;
        tell(store, &limit, name, 1, START).await;
        assert_eq!(left(store, &limit, name, START).await, 0, "{name}");
        tell(store, &limit, "other", 2, START).await;
        assert_eq!(left(store, &limit, "other", START).await, 8, "{name}");
    }
}

#[tokio::test]
async fn what_was_admitted_is_charged_up_to_the_limit_in_memory() {
    charges_up_to_the_limit_and_refuses_nothing(&memory()).await;
}

#[tokio::test]
async fn what_was_admitted_is_charged_up_to_the_limit_in_redis() {
    let Some(server) = RedisServer::start() else { return };
    charges_up_to_the_limit_and_refuses_nothing(&redis(&server)).await;
}

#[derive(Clone, Debug)]
enum Step {
    Wait { permille: u64 },
    Ask { units: u64, hold: u64 },
    Tell { units: u64 },
}

/// Redis, told and asked, answers like the pure core: also beside leases that reach into later sub-windows.
#[test]
fn redis_takes_what_it_is_told_like_the_pure_core() {
    static CASES: AtomicUsize = AtomicUsize::new(0);
    let Some(server) = RedisServer::start() else { return };
    let runtime = runtime();
    let redis = runtime.block_on(async { redis(&server) });
    let limits = [limit(12, WINDOW), bucket(7, Micros::from_secs(1_000), 9), fixed(7, Micros(WINDOW.0 / 4))];
    let step = prop_oneof![
        2 => prop_oneof![0..60_u64, 0..1_200_u64].prop_map(|permille| Step::Wait { permille }),
        2 => (0..6_u64, prop_oneof![Just(0), 1..90_u64]).prop_map(|(units, hold)| Step::Ask { units, hold }),
        2 => (0..8_u64).prop_map(|units| Step::Tell { units }),
    ];
    let steps = prop::collection::vec(step, 1..60);
    let config = ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() };
    let check = |steps: Vec<Step>| {
        let name = CASES.fetch_add(1, Ordering::Relaxed).to_string();
        let core = Core::default();
        let (stores, mut now): ([&dyn QuotaStore; 2], _) = ([&core, &redis], START);
        for (serial, step) in (0..).zip(steps) {
            if let Step::Wait { permille } = step {
                now = now + Micros(WINDOW.0 * permille / 1_000);
            }
            for limit in &limits {
                let mut answers = Vec::new();
                for store in stores {
                    let terms = match step {
                        Step::Ask { units, hold } => {
                            let lease = LeaseId { replica: 1, serial };
                            Terms { at_least: units, at_most: units, hold: Micros(WINDOW.0 * hold / 1_000), lease }
                        }
                        Step::Wait { .. } | Step::Tell { .. } => at_once(0),
                    };
                    if let Step::Tell { units } = step {
                        runtime.block_on(tell(store, limit, &name, units, now));
                    }
                    answers.push(runtime.block_on(all(store, Consume, &[request(limit, &name, terms)], now)));
                }
                prop_assert_eq!(&answers[0], &answers[1], "{:?} {:?}", step, limit);
            }
        }
        Ok(())
    };
    proptest::test_runner::TestRunner::new(config).run(&steps, check).unwrap();
}

async fn beat(store: &RedisStore, replica: u64, epoch: Option<Epoch>, now: Micros) -> Beat {
    store.beat(Pulse { replica, epoch }, at(now)).get().await.unwrap()
}

/// How many replicas are there, and how many of them have told.
fn heard(beat: &Beat) -> (usize, usize) {
    (beat.there.len(), beat.there.iter().filter(|peer| peer.word == Word::Told).count())
}

#[tokio::test]
async fn replicas_are_counted_while_they_are_heard_of() {
    let Some(server) = RedisServer::start() else { return };
    let store = redis(&server);
    let second = Micros::from_secs(1);
    let first = beat(&store, 1, None, START).await;
    assert_eq!(heard(&first), (1, 1));
    assert_eq!(heard(&beat(&store, 2, None, START + second).await), (2, 2));
    let elsewhere = Some(Epoch(NonZeroU64::MIN));
    assert_eq!(heard(&beat(&store, u64::MAX, elsewhere, START + second).await), (3, 2), "it has still to tell");
    assert_eq!(heard(&beat(&store, u64::MAX, Some(first.epoch), START + second).await), (3, 3));
    assert_eq!(heard(&beat(&store, 1, Some(first.epoch), START + second).await), (3, 3));
    let later = START + Micros::from_secs(6);
    assert_eq!(heard(&beat(&store, 1, Some(first.epoch), later).await), (1, 1));
    // A clock that was set back does not make anyone stay for longer.
    assert_eq!(heard(&beat(&store, 2, None, START).await), (2, 2));
    assert_eq!(heard(&beat(&store, 2, None, START + Micros::from_secs(5)).await), (1, 1));
}

#[tokio::test]
async fn each_replica_is_named_and_whether_it_has_told() {
    let Some(server) = RedisServer::start() else { return };
    let store = redis(&server);
    let epoch = Some(beat(&store, 1, None, START).await.epoch);
    beat(&store, u64::MAX, Some(Epoch(NonZeroU64::MIN)), START).await;
    let words = async |now| {
        let mut there = beat(&store, 1, epoch, now).await.there;
        there.sort_by_key(|peer| peer.replica);
        there.into_iter().map(|peer| (peer.replica, peer.word)).collect::<Vec<_>>()
    };
    assert_eq!(words(START).await, [(1, Word::Told), (u64::MAX, Word::Owes)]);
    beat(&store, u64::MAX, epoch, START).await;
    assert_eq!(words(START).await, [(1, Word::Told), (u64::MAX, Word::Told)]);
    assert_eq!(words(START + Micros::from_secs(5)).await, [(1, Word::Told)]);
}

#[tokio::test]
async fn more_replicas_than_can_be_counted_push_out_the_oldest() {
    let Some(server) = RedisServer::start() else { return };
    let store = redis(&server);
    for replica in 1..=1_005 {
        beat(&store, replica, None, START).await;
    }
    assert_eq!(heard(&beat(&store, 1_005, None, START).await), (1_000, 1_000));
}

#[tokio::test]
async fn data_that_is_gone_has_another_epoch_and_nothing_is_charged_before_the_store_was_told() {
    let Some(server) = RedisServer::start() else { return };
    let store = redis(&server);
    let limit = limit(10, WINDOW);
    let ask = async || {
        let requests = [request(&limit, "alice", at_once(1))].into_iter().collect();
        store.acquire(requests, Consume, at(START)).get().await[0]
    };
    let first = beat(&store, 1, None, START).await.epoch;
    assert!(ask().await.is_ok());
    assert_eq!(server.command(&["FLUSHALL"]), "OK");
    let second = beat(&store, 1, Some(first), START).await;
    assert_ne!(second.epoch, first);
    assert_eq!(heard(&second), (1, 0));
    assert_eq!(ask().await, Err(Away { because: AwayCause::Lost }));
    tell(&store, &limit, "alice", 7, START).await;
    assert_eq!(ask().await, Err(Away { because: AwayCause::Lost }));
    assert_eq!(heard(&beat(&store, 1, Some(second.epoch), START).await), (1, 1));
    let grant = ask().await.unwrap();
    assert_eq!((grant.outcome, grant.remaining), (Outcome::Granted { units: 1 }, 2));
}

#[tokio::test]
async fn a_new_connection_charges_nothing_before_it_has_compared_the_epoch() {
    let Some(mut server) = RedisServer::start() else { return };
    let guarded = Guarded::new(&settings(&server));
    let beat = async |epoch| guarded.store.beat(Pulse { replica: 1, epoch }, guarded.clock.now()).get().await;
    let comes_to = async |wanted: Result<(), Away>| {
        guarded
            .ask_until("the answer", |answer| {
                let answer = answer.map(|_| ());
                assert!(answer == wanted || answer.is_err(), "nothing is charged meanwhile");
                answer == wanted
            })
            .await;
    };
    comes_to(Ok(())).await;
    let epoch = beat(None).await.unwrap().epoch;
    // Over another connection to the same data it goes on.
    assert_eq!(server.command(&["CLIENT", "KILL", "TYPE", "normal"]), "1");
    comes_to(Ok(())).await;
    server.restart();
    comes_to(Err(Away { because: AwayCause::Lost })).await;
    let lost = beat(Some(epoch)).await.unwrap().epoch;
    assert_ne!(lost, epoch);
    assert!(guarded.ask().await.is_err());
    beat(Some(lost)).await.unwrap();
    assert!(guarded.ask().await.is_ok());
}

#[tokio::test]
async fn a_cluster_of_which_one_node_lost_its_data_is_told() {
    let Some(cluster) = RedisCluster::masters_with(&[]) else { return };
    let store = reached(cluster.urls());
    let limit = limit(10, WINDOW);
    let names: Vec<String> = (0..20).map(|name| name.to_string()).collect();
    let ask = async |name: &str| {
        let requests = [request(&limit, name, at_once(1))].into_iter().collect();
        store.acquire(requests, Consume, at(START)).get().await[0].map(|grant| grant.remaining)
    };
    let heard_of = async |epoch| store.beat(Pulse { replica: 1, epoch }, at(START)).get().await;
    assert!(ask("0").await.is_ok(), "the cluster is known from now on");
    let first = heard_of(None).await.unwrap();
    assert_eq!(heard_of(Some(first.epoch)).await.as_ref(), Ok(&first));
    for name in &names[1..] {
        assert_eq!(ask(name).await, Ok(9));
    }
    assert_eq!(cluster.nodes[1].command(&["FLUSHALL"]), "OK");
    let second = heard_of(Some(first.epoch)).await.unwrap();
    assert_ne!(second.epoch, first.epoch);
    assert_eq!(heard(&second), (1, 0));
    let lost = Err(Away { because: AwayCause::Lost });
    assert_eq!(ask("0").await, lost);
    let charges = names.iter().map(|name| Charge { limit: Arc::clone(&limit), key: key(name), units: 1 });
    store.assert(charges.collect(), at(START)).get().await.unwrap();
    assert_eq!(ask("0").await, lost);
    assert_eq!((heard(&heard_of(Some(second.epoch)).await.unwrap()), ask("0").await.is_ok()), ((1, 1), true));
    for name in &names[1..] {
        // What is charged twice, at the nodes that lost nothing, only makes it stricter.
        assert!(matches!(ask(name).await, Ok(7 | 8)));
    }
}
