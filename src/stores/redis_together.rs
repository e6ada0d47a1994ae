//! Questions that come to a real Redis at the same time: asked in few script calls, answered as if each had come alone.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use tokio::time::{sleep, timeout};

use super::algorithms::{bucket, fixed, slots};
use super::comparison::Core;
use super::redis::{Bounds, Gates, Reach, RedisStore, Settings};
use super::redis_faults::{RECOVERY, clock, connect, settings};
use super::redis_server::{RedisCluster, RedisServer};
use super::redis_slots::calls;
use super::suite::{START, WIDTH, WINDOW, at, key, limit, redis, request};
use crate::decide::ports::{Away, AwayCause, Clock, Grants, Hit, Hits, QuotaStore, Requests};
use crate::domain::exact_log::at_once;
use crate::domain::limit::{Algorithm, Limit};
use crate::domain::question::Mode::{self, Consume, Peek};
use crate::domain::time::Micros;
use crate::domain::window::{LeaseId, Outcome, Terms};
use crate::telemetry::Telemetry;

/// So many are asked at a time, in one task, so that they come in their order.
const MOST: usize = 30;

const COUNTERS: usize = 6;

/// One question: of some counters, units, more that would be taken, and a hold in permille of the window; and whether it only
/// looks.
type Question = (Vec<(usize, u64, u64, u64)>, bool);

fn questions() -> impl Strategy<Value = Vec<Question>> {
    let ask = (0..COUNTERS, 0..4_u64, prop_oneof![Just(0), 0..5_u64], prop_oneof![Just(0), 1..60_u64]);
    let asks = prop::collection::vec(ask, 1..5).prop_map(|mut asks| {
        asks.sort_by_key(|(counter, ..)| *counter);
        asks.dedup_by_key(|(counter, ..)| *counter);
        asks
    });
    let question = (asks, prop::bool::weighted(0.2));
    prop::collection::vec(question, 1..=MOST)
}

fn requests(limits: &[Arc<Limit>], (asks, _): &Question, serial: u64) -> Requests {
    let one = |&(counter, at_least, more, hold): &(usize, u64, u64, u64)| {
        let lease = LeaseId { replica: (serial / 16) << 20 | hold, serial };
        let terms = Terms { at_least, at_most: at_least + more, hold: Micros(WINDOW.0 * hold / 1_000), lease };
        request(&limits[counter], &counter.to_string(), terms)
    };
    asks.iter().map(one).collect()
}

#[tokio::test]
async fn questions_at_once_are_answered_as_the_core_answers_them_one_by_one() {
    const ROUNDS: u64 = 400;
    let Some(server) = RedisServer::start() else { return };
    let (store, core) = (redis(&server), Core::default());
    let limits = [
        limit(40, WINDOW),
        bucket(70, Micros::from_secs(1_000), 30),
        fixed(20, Micros(WINDOW.0 / 4)),
        slots(30, WIDTH),
        limit(9, Micros(WINDOW.0 / 3)),
        limit(1_000, WINDOW),
    ];
    let mut runner = TestRunner::new(ProptestConfig::default());
    let (mut asked, mut now) = (0, START);
    ask(&store, Consume, [request(&limits[5], "first", at_once(1))].into_iter().collect(), now).await;
    let before = calls(&server, "evalsha");
    for _ in 0..ROUNDS {
        let questions = questions().new_tree(&mut runner).unwrap().current();
        now = now + Micros(WIDTH.0 / 3);
        let serials = asked..asked + questions.len() as u64;
        asked = serials.end;
        let questions = questions
            .iter()
            .zip(serials)
            .map(|(question, serial)| (if question.1 { Peek } else { Consume }, requests(&limits, question, serial)));
        let questions: Vec<(Mode, Requests)> = questions.collect();
        let told = join_all(questions.iter().map(|(mode, asks)| ask(&store, *mode, asks.clone(), now))).await;
        for ((mode, asks), told) in questions.iter().zip(told) {
            assert_eq!(told, ask(&core, *mode, asks.clone(), now).await, "{asks:?} of {questions:?}");
        }
    }
    let run = calls(&server, "evalsha") - before;
    assert!(run * 3 < asked, "{run} calls for {asked} questions");
}

#[tokio::test]
async fn hits_at_once_are_counted_as_the_core_counts_them_one_by_one() {
    let Some(server) = RedisServer::start() else { return };
    let (store, core) = (redis(&server), Core::default());
    let limit = fixed(40, WINDOW);
    let Algorithm::FixedWindow(grid) = limit.algorithm else { return };
    let hits = |question: u64| -> Hits {
        let one = |number: u64| {
            let key = key(&(question * number % 7).to_string());
            Hit { limit: Arc::clone(&limit), grid, key, hits: question % 4 }
        };
        (1..=question % 5 + 1).map(one).collect()
    };
    store.hit(hits(1), at(START)).get().await;
    core.hit(hits(1), at(START)).get().await;
    let before = calls(&server, "evalsha");
    for told in
        join_all((0..30).map(async |question| (question, store.hit(hits(question), at(START)).get().await))).await
    {
        let (question, told) = told;
        assert_eq!(told, core.hit(hits(question), at(START)).get().await, "{question}");
    }
    assert!(calls(&server, "evalsha") - before < 10);
}

async fn ask(store: &dyn QuotaStore, mode: Mode, requests: Requests, now: Micros) -> Grants {
    store.acquire(requests, mode, at(now)).get().await
}

/// Asks for a unit of the counter of each number, all at the same time; answers what became of each.
async fn ask_each(
    store: &RedisStore,
    limit: &Arc<Limit>,
    numbers: impl Iterator<Item = usize>,
) -> Vec<Result<Outcome, Away>> {
    let one = |number: usize| {
        let requests = [request(limit, &number.to_string(), at_once(1))].into_iter().collect();
        async { Ok(ask(store, Consume, requests, START).await.remove(0)?.outcome) }
    };
    join_all(numbers.map(one)).await
}

const GRANTED: Result<Outcome, Away> = Ok(Outcome::Granted { units: 1 });

#[tokio::test]
async fn what_one_question_finds_is_no_trouble_of_those_that_are_asked_with_it() {
    let Some(server) = RedisServer::start() else { return };
    let (store, limit) = (connect(&settings(&server)), limit(2, WINDOW));
    for (number, command) in [(3, "RPUSH"), (7, "SET")] {
        let name = format!("tollgate:{{per-client {}:{number}}}", number.to_string().len());
        server.command(&[command, &name, "what another wrote"]);
    }
    assert_eq!(ask_each(&store, &limit, 20..21).await, [GRANTED]);
    let before = calls(&server, "evalsha");
    for round in 0..3 {
        let told = ask_each(&store, &limit, 0..20).await;
        for (number, told) in told.into_iter().enumerate() {
            match number {
                3 | 7 => assert_eq!(told, Err(Away { because: AwayCause::Garbled }), "{number}"),
                _ if round < 2 => assert_eq!(told, GRANTED, "{number} is charged once a round"),
                _ => assert!(matches!(told, Ok(Outcome::Short { .. })), "{number}: {told:?}"),
            }
        }
    }
    assert_eq!(calls(&server, "evalsha") - before, 6, "the first goes by itself, and the others together");
}

#[tokio::test]
async fn a_counter_that_is_named_twice_is_charged_twice_among_others_too() {
    let Some(server) = RedisServer::start() else { return };
    let (store, limit) = (connect(&settings(&server)), limit(3, WINDOW));
    let twice = |number: usize| {
        let one = request(&limit, &number.to_string(), at_once(1));
        ask(&store, Consume, [one.clone(), one].into_iter().collect(), START)
    };
    for granted in [true, false] {
        for grants in join_all((0..20).map(twice)).await {
            let told: Vec<_> = grants.into_iter().map(|grant| grant.unwrap().outcome).collect();
            assert_eq!(told[0], Outcome::Granted { units: 1 });
            assert_eq!(told[1] == told[0], granted, "{told:?}");
        }
    }
}

/// What makes a server refuse all that is charged, and what makes it well again.
const TROUBLES: [(AwayCause, &[&str], &[&str]); 2] = [
    (AwayCause::Full, &["CONFIG", "SET", "maxmemory", "1"], &["CONFIG", "SET", "maxmemory", "0"]),
    (AwayCause::ReadOnly, &["REPLICAOF", "127.0.0.1", "1"], &["REPLICAOF", "NO", "ONE"]),
];

#[tokio::test]
async fn a_server_that_refuses_all_is_known_to_be_away_though_each_question_is_told_by_itself() {
    for (because, trouble, remedy) in TROUBLES {
        let Some(server) = RedisServer::start() else { return };
        let (store, limit) = (connect(&settings(&server)), limit(1_000, WINDOW));
        assert_eq!(ask_each(&store, &limit, 0..10).await, [GRANTED; 10]);
        server.command(trouble);
        assert_eq!(ask_each(&store, &limit, 0..10).await, [Err(Away { because }); 10]);
        // The third failure in a row makes it known.
        ask_each(&store, &limit, 0..10).await;
        assert_eq!(store.health()[0].1, Err(Away { because }));
        server.command(remedy);
        let recovers = async {
            while ask_each(&store, &limit, 0..10).await != [GRANTED; 10] {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(RECOVERY, recovers).await.unwrap();
        assert_eq!(store.health()[0].1, Ok(()));
    }
}

#[tokio::test]
async fn whoever_leaves_takes_no_other_with_him() {
    let Some(server) = RedisServer::start() else { return };
    let (store, limit) = (connect(&settings(&server)), limit(2, WINDOW));
    assert_eq!(ask_each(&store, &limit, 0..1).await, [GRANTED]);
    let mut asked: Vec<_> = (1..10).map(|number| Box::pin(ask_each(&store, &limit, number..=number))).collect();
    for one in &mut asked {
        assert_eq!(one.now_or_never(), None);
    }
    // One that went by itself, one that saw to the others, and one of those.
    asked.drain(..2);
    drop(asked.remove(3));
    for told in join_all(asked).await {
        assert_eq!(told, [GRANTED]);
    }
}

#[tokio::test]
async fn as_many_wait_as_may_whether_alone_or_together() {
    let Some(server) = RedisServer::start() else { return };
    let bounds = Bounds { deadline: Micros::from_secs(10), waiting_max: 8, ..Bounds::default() };
    let gates = Gates::new(bounds, clock() as Arc<dyn Clock>, Arc::new(Telemetry::default()));
    let (store, limit) = (RedisStore::connect(&settings(&server), gates).unwrap(), limit(2, WINDOW));
    for _ in 0..2 {
        let told = ask_each(&store, &limit, 0..12).await;
        assert_eq!(told[..8], [GRANTED; 8]);
        assert_eq!(told[8..], [Err(Away { because: AwayCause::Crowded }); 4]);
    }
}

#[tokio::test]
async fn what_turns_out_to_be_a_cluster_is_asked_for_each_counter_where_it_is() {
    const MANY: usize = 300;
    let Some(cluster) = RedisCluster::masters_with(&[]) else { return };
    let limit = limit(1_000, WINDOW);
    for place in 0..cluster.nodes.len() {
        let name = |number: usize| format!("tollgate:{{per-client {}:{number}}}", number.to_string().len());
        let first = (0..MANY).find(|number| cluster.place_at_first(&name(*number)) == place).unwrap();
        // One address: it is taken for a server of its own until it says otherwise.
        let reach = Reach::Servers(vec![cluster.nodes[0].url()]);
        let store = connect(&Settings { reach, ..Settings::default() });
        // The first, who goes by himself, and many calls of many.
        let numbers = (first..=first).chain(0..MANY);
        assert_eq!(ask_each(&store, &limit, numbers).await, [GRANTED; MANY + 1], "{place}");
    }
}
