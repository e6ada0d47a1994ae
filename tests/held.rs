//! What is held until it is settled, through the API: slots of concurrency limits and reservations, in memory and in a
//! real Redis that two replicas share.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use tokio::time::Instant;
use tollgate::domain::limit::UNITS_MAX;
use tollgate::proto as pb;
use tonic::{Code, Status};

use crate::support::calls::{charge, fields, left, length};
use crate::support::poll;
use crate::support::redis::{RedisCluster, RedisServer};
use crate::support::server::{SOON, Tollgate, configuration, in_redis, question};

/// `busy` for slots, `tokens` for what is reserved; the others stand beside them.
fn policy(store: &str) -> String {
    format!(
        r"
{store}
limits:
  busy: {{ algorithm: concurrency, units: 3, hold: 10m, by: [source.address] }}
  brief: {{ algorithm: concurrency, units: 1, hold: 400ms, by: [source.address] }}
  tokens: {{ units: 100, window: 10h, by: [source.address] }}
  spikes: {{ algorithm: token_bucket, rate: 1/d, burst: 50, by: [source.address] }}
  yearly: {{ algorithm: fixed_window, units: 100, window: 365d, by: [source.address] }}
rules:
  - match: {{ path: /busy }}
    permit: anyone
    limits: [tokens, busy]
  - match: {{ path: /brief }}
    permit: anyone
    limits: [brief]
  - match: {{ path: /plain }}
    permit: anyone
    limits: [tokens]
"
    )
}

async fn ask(tollgate: &Tollgate, path: &str) -> pb::DecideResponse {
    tollgate.decide(question("GET", path, None)).await
}

const ADDRESS: [(&str, &str); 1] = [("source.address", "192.0.2.7")];

async fn peek(tollgate: &Tollgate, limits: &[&str]) -> Vec<u64> {
    let charges = limits.iter().map(|limit| charge(limit, &ADDRESS, Some(0))).collect();
    let answer = tollgate.quotas().await.peek(pb::PeekRequest { charges }).await.expect("well formed").into_inner();
    assert!(answer.allowed, "no units always fit: {answer:?}");
    left(&answer.quotas)
}

async fn reserve(tollgate: &Tollgate, charges: &[(&str, u64)], hold: Option<Duration>) -> pb::ReserveResponse {
    let charges = charges.iter().map(|(limit, units)| charge(limit, &ADDRESS, Some(*units))).collect();
    let hold = hold.map(|hold| prost_types::Duration::try_from(hold).expect("it is short"));
    let answer = tollgate.quotas().await.reserve(pb::ReserveRequest { charges, hold }).await;
    answer.expect("well formed").into_inner()
}

async fn settle(tollgate: &Tollgate, reservation: &str, used: &[u64]) -> Result<Vec<String>, Status> {
    let asked = pb::SettleRequest { reservation: reservation.to_owned(), used: used.to_vec() };
    tollgate.quotas().await.settle(asked).await.map(|answer| answer.into_inner().gone)
}

/// Settles what can be settled.
async fn settled(tollgate: &Tollgate, reservation: &str, used: &[u64]) {
    assert_eq!(settle(tollgate, reservation, used).await.expect("it is well formed"), [""; 0]);
}

async fn only_so_many_are_served_at_a_time(one: &Tollgate, other: &Tollgate) {
    let mut served = Vec::new();
    for (replica, free) in [(one, 2), (other, 1), (one, 0)] {
        let answer = ask(replica, "/busy").await;
        assert_eq!((answer.allowed, answer.quotas[1].remaining), (true, free));
        assert_eq!(length(answer.expires_after.as_ref()), Duration::from_mins(10));
        served.push(answer.reservation);
    }
    for replica in [one, other] {
        let refused = ask(replica, "/busy").await;
        assert_eq!((refused.detail.as_str(), refused.reservation.as_str()), ("quota_exceeded", ""));
        let slots = &refused.quotas[1];
        assert_eq!((slots.outcome(), slots.units, slots.remaining), (pb::QuotaOutcome::Short, 3, 0));
        assert_eq!(slots.window, None, "it has none");
        // Later than the hold by less than 100 ms.
        assert!(length(slots.retry_after.as_ref()) < Duration::from_mins(10) + Duration::from_millis(100), "{slots:?}");
        assert_eq!(refused.expires_after, None);
    }
    assert_eq!(peek(one, &["tokens"]).await, [97], "the refused calls cost nothing");

    // Whoever is done makes room for one, and for no more, however often it says so and wherever.
    for replica in [other, one, other] {
        settled(replica, &served[0], &[]).await;
    }
    assert!(ask(one, "/busy").await.allowed);
    assert_eq!(one.verdict("GET", "/busy", None).await, "deny quota_exceeded");
    assert_eq!(other.verdict("GET", "/busy", None).await, "deny quota_exceeded");
    // What was used plays no part for slots.
    settled(one, &served[1], &[7]).await;
    let peeked = pb::DecideRequest { mode: pb::QuotaMode::Peek.into(), ..question("GET", "/busy", None) };
    let peeked = other.decide(peeked).await;
    assert_eq!((peeked.allowed, peeked.reservation.as_str()), (true, ""), "who only looks takes no slot");
    assert!(ask(other, "/busy").await.allowed);
    assert_eq!(peek(one, &["busy", "tokens"]).await, [0, 95]);
}

#[tokio::test]
async fn only_so_many_are_served_at_a_time_in_memory() {
    let tollgate = Tollgate::start(&policy("")).await;
    only_so_many_are_served_at_a_time(&tollgate, &tollgate).await;
}

#[tokio::test]
async fn only_so_many_are_served_at_a_time_in_redis_over_all_replicas() {
    let Some(redis) = RedisServer::start() else { return };
    let yaml = policy(&in_redis(&redis));
    let (one, other) = (Tollgate::start(&yaml).await, Tollgate::start(&yaml).await);
    only_so_many_are_served_at_a_time(&one, &other).await;
}

#[tokio::test]
async fn slots_that_a_redis_gave_too_late_are_free_again() {
    let Some(redis) = RedisServer::start() else { return };
    let tollgate = Tollgate::start(&policy(&in_redis(&redis).replace("5s", "500ms"))).await;
    assert_eq!(peek(&tollgate, &["busy"]).await, [3]);
    redis.pause();
    let late = join_all((0..2).map(|_| ask(&tollgate, "/busy"))).await;
    assert!(late.iter().all(|answer| !answer.allowed && answer.reservation.is_empty()), "{late:?}");
    redis.resume();
    let slots_are_free = async || {
        tollgate.clock.advance(Duration::from_millis(5));
        let charges = vec![charge("busy", &ADDRESS, Some(0))];
        let answer = tollgate.quotas().await.peek(pb::PeekRequest { charges }).await.expect("well formed");
        (left(&answer.into_inner().quotas) == [3]).then_some(())
    };
    poll(SOON, "free slots", slots_are_free).await;
}

/// Callers come and go at both replicas, more of them than there are slots.
#[tokio::test]
async fn no_more_are_ever_served_at_a_time_than_there_are_slots() {
    const CALLERS: usize = 8;
    const CALLS: usize = 10;
    let Some(redis) = RedisServer::start() else { return };
    let yaml = policy(&in_redis(&redis)).replace("units: 100,", "units: 100000,");
    let replicas = [Tollgate::start(&yaml).await, Tollgate::start(&yaml).await];
    let (serving, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let callers = replicas.iter().cycle().take(CALLERS);
    join_all(callers.map(|replica| come_and_go(replica, CALLS, &serving, &most))).await;
    let most = most.into_inner();
    assert!((2..=3).contains(&most), "{most} at a time");
    assert_eq!(peek(&replicas[0], &["busy"]).await, [3], "all are free again");
}

async fn come_and_go(tollgate: &Tollgate, calls: usize, serving: &AtomicUsize, most: &AtomicUsize) {
    let (mut decisions, mut quotas) = (tollgate.decisions().await, tollgate.quotas().await);
    for _ in 0..calls {
        let answer = poll(SOON, "a slot", async || {
            let answer = decisions.decide(question("GET", "/busy", None)).await.expect("an answer").into_inner();
            answer.allowed.then_some(answer)
        })
        .await;
        most.fetch_max(serving.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        // What it is served takes a while.
        decisions.decide(question("GET", "/plain", None)).await.expect("an answer");
        serving.fetch_sub(1, Ordering::SeqCst);
        let settled = pb::SettleRequest { reservation: answer.reservation, used: Vec::new() };
        quotas.settle(settled).await.expect("it is well formed");
    }
}

#[tokio::test]
async fn a_caller_that_never_comes_back_gives_its_slot_up_after_the_hold() {
    let tollgate = Tollgate::start(&policy("")).await;
    let lost = ask(&tollgate, "/brief").await.reservation;
    tollgate.clock.advance(Duration::from_micros(399_999));
    let refused = ask(&tollgate, "/brief").await;
    assert!(!refused.allowed, "its time is not up");
    // Later by less than an eighth.
    let wait = length(refused.retry_after.as_ref());
    assert!((Duration::from_micros(1)..=Duration::from_millis(50)).contains(&wait), "{wait:?}");
    tollgate.clock.advance(wait);
    assert!(ask(&tollgate, "/brief").await.allowed);
    // Too late: the slot is another's by now.
    settled(&tollgate, &lost, &[]).await;
    assert!(!ask(&tollgate, "/brief").await.allowed);
}

#[tokio::test]
async fn a_caller_that_never_comes_back_gives_its_slot_up_in_redis_too() {
    let Some(redis) = RedisServer::start() else { return };
    let yaml = policy(&in_redis(&redis));
    let (one, other) = (Tollgate::start(&yaml).await, Tollgate::start(&yaml).await);
    let (mut first, mut second) = (one.decisions().await, other.decisions().await);
    let asked = Instant::now();
    let lost = first.decide(question("GET", "/brief", None)).await.expect("an answer").into_inner();
    assert!(lost.allowed);
    poll(SOON, "the slot at the other replica", async || {
        let answer = second.decide(question("GET", "/brief", None)).await.expect("an answer").into_inner();
        answer.allowed.then_some(())
    })
    .await;
    assert!(asked.elapsed() >= Duration::from_millis(400), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn slots_are_told_in_batches_and_by_consume() {
    let tollgate = Tollgate::start(&policy("")).await;
    let questions = vec![question("GET", "/busy", None); 4];
    let mut decisions = tollgate.decisions().await;
    let answer = decisions.decide_batch(pb::DecideBatchRequest { questions }).await.expect("well formed").into_inner();
    let mut reservations: Vec<String> = answer
        .outcomes
        .into_iter()
        .map(|outcome| match outcome.kind.expect("there is an outcome") {
            pb::decide_outcome::Kind::Decision(answer) => answer.reservation,
            pb::decide_outcome::Kind::Error(error) => panic!("{error:?}"),
        })
        .collect();
    assert_eq!(reservations.pop().as_deref(), Some(""), "the fourth got none");
    for reservation in &reservations {
        settled(&tollgate, reservation, &[]).await;
    }
    let charges = vec![charge("busy", &ADDRESS, Some(2)), charge("tokens", &ADDRESS, None)];
    let mut quotas = tollgate.quotas().await;
    let answer = quotas.consume(pb::ConsumeRequest { charges }).await.expect("well formed").into_inner();
    assert_eq!((left(&answer.quotas), length(answer.expires_after.as_ref())), (vec![1, 96], Duration::from_mins(10)));
    settled(&tollgate, &answer.reservation, &[]).await;
    assert_eq!(peek(&tollgate, &["busy", "tokens"]).await, [3, 96], "only the slots were held");
    let plain = ask(&tollgate, "/plain").await;
    assert_eq!((plain.reservation.as_str(), plain.expires_after), ("", None));
}

async fn estimates_are_settled(one: &Tollgate, other: &Tollgate) {
    const ALL: [&str; 4] = ["tokens", "spikes", "yearly", "busy"];
    let estimate = [("tokens", 60), ("spikes", 30), ("yearly", 60), ("busy", 1)];
    let reserved = reserve(one, &estimate, None).await;
    assert_eq!((reserved.allowed, left(&reserved.quotas)), (true, vec![40, 20, 40, 2]));
    assert_eq!(length(reserved.expires_after.as_ref()), Duration::from_mins(1), "a slot is held for longer");
    let refused = reserve(other, &estimate, None).await;
    assert_eq!((refused.allowed, left(&refused.quotas)), (false, vec![40, 20, 40, 2]));
    assert_eq!((refused.reservation.as_str(), refused.expires_after), ("", None));
    assert!(refused.retry_after.is_some());

    // Less was used: the rest comes back, wherever that is said, and once.
    for replica in [other, one] {
        settled(replica, &reserved.reservation, &[10, 5, 0, 9]).await;
    }
    assert_eq!(peek(one, &ALL).await, [90, 45, 100, 3]);

    // More was used: it has happened, and later calls wait for it.
    let reserved = reserve(one, &[("tokens", 1), ("yearly", 1)], Some(Duration::from_hours(1))).await;
    assert_eq!(length(reserved.expires_after.as_ref()), Duration::from_hours(1));
    settled(other, &reserved.reservation, &[250]).await;
    assert_eq!(peek(one, &["tokens", "yearly"]).await, [0, 0]);
    assert_eq!(other.verdict("GET", "/plain", None).await, "deny quota_exceeded");

    // Nothing was used.
    let reserved = reserve(one, &[("spikes", 45)], None).await;
    assert_eq!(peek(other, &["spikes"]).await, [0]);
    settled(other, &reserved.reservation, &[]).await;
    assert_eq!(peek(one, &["spikes"]).await, [45]);
}

#[tokio::test]
async fn estimates_are_settled_in_memory() {
    let tollgate = Tollgate::start(&policy("")).await;
    estimates_are_settled(&tollgate, &tollgate).await;
}

#[tokio::test]
async fn estimates_are_settled_in_redis_by_any_replica() {
    let Some(redis) = RedisServer::start() else { return };
    let yaml = policy(&in_redis(&redis));
    let (one, other) = (Tollgate::start(&yaml).await, Tollgate::start(&yaml).await);
    estimates_are_settled(&one, &other).await;
}

/// The limits of one call are on different nodes: what a refused one took of some is taken back a moment later.
#[tokio::test]
async fn what_is_held_on_several_nodes_of_a_cluster_is_settled_by_any_replica() {
    let Some(cluster) = RedisCluster::masters_with(&[]) else { return };
    let urls = cluster.urls().join("', '");
    let yaml = policy(&format!("store: {{ redis: {{ urls: ['{urls}'], deadline: 5s }} }}"));
    let (one, other) = (Tollgate::start(&yaml).await, Tollgate::start(&yaml).await);
    let estimate = [("tokens", 60), ("spikes", 30), ("yearly", 60), ("busy", 1)];
    let reserved = reserve(&one, &estimate, None).await;
    assert_eq!((reserved.allowed, left(&reserved.quotas)), (true, vec![40, 20, 40, 2]));
    let refused = reserve(&other, &estimate, None).await;
    assert_eq!((refused.allowed, refused.reservation.as_str()), (false, ""));
    for replica in [&other, &one] {
        settled(replica, &reserved.reservation, &[10, 5, 0, 9]).await;
    }
    let all_is = async |wanted: [u64; 4]| {
        poll(SOON, "what was taken back", async || {
            (peek(&one, &["tokens", "spikes", "yearly", "busy"]).await == wanted).then_some(())
        })
        .await;
    };
    all_is([90, 45, 100, 3]).await;

    let mut served = Vec::new();
    for replica in [&one, &other, &one] {
        served.push(ask(replica, "/busy").await.reservation);
    }
    for replica in [&one, &other] {
        assert_eq!(replica.verdict("GET", "/busy", None).await, "deny quota_exceeded");
    }
    for reservation in &served {
        settled(&other, reservation, &[]).await;
    }
    all_is([87, 45, 100, 3]).await;
}

async fn the_truth_may_be_as_large_as_can_be(tollgate: &Tollgate) {
    const LIMITS: [&str; 3] = ["tokens", "spikes", "yearly"];
    let mut reservations = Vec::new();
    for limit in LIMITS.iter().cycle().take(9) {
        reservations.push(reserve(tollgate, &[(limit, 1)], None).await.reservation);
    }
    for reservation in reservations {
        settled(tollgate, &reservation, &[UNITS_MAX]).await;
    }
    assert_eq!(peek(tollgate, &LIMITS).await, [0, 0, 0]);
    for limit in LIMITS {
        let refused = reserve(tollgate, &[(limit, 1)], None).await;
        assert_eq!((refused.allowed, refused.quotas[0].outcome()), (false, pb::QuotaOutcome::Short));
        assert!(length(refused.retry_after.as_ref()) > Duration::from_hours(1), "{refused:?}");
    }
}

#[tokio::test]
async fn the_truth_may_be_as_large_as_can_be_in_memory() {
    the_truth_may_be_as_large_as_can_be(&Tollgate::start(&policy("")).await).await;
}

#[tokio::test]
async fn the_truth_may_be_as_large_as_can_be_in_redis() {
    let Some(redis) = RedisServer::start() else { return };
    the_truth_may_be_as_large_as_can_be(&Tollgate::start(&policy(&in_redis(&redis))).await).await;
}

#[tokio::test]
async fn a_reservation_that_is_never_settled_counts_as_used_whole() {
    let tollgate = Tollgate::start(&policy("")).await;
    let reserved = reserve(&tollgate, &[("tokens", 60)], Some(Duration::from_mins(5))).await;
    tollgate.clock.advance(Duration::from_mins(5) + Duration::from_micros(1));
    settled(&tollgate, &reserved.reservation, &[]).await;
    assert_eq!(peek(&tollgate, &["tokens"]).await, [40], "it came too late");
    // A window and one part of it later nothing is left of it.
    tollgate.clock.advance(Duration::from_hours(10) + Duration::from_hours(10) / 32);
    assert_eq!(peek(&tollgate, &["tokens"]).await, [100]);
}

#[tokio::test]
async fn a_reservation_that_is_not_well_formed_is_refused_and_named() {
    let tollgate = Tollgate::start(&policy("")).await;
    let good = ask(&tollgate, "/busy").await.reservation;
    let mut changed = good.clone().into_bytes();
    changed[8] = if changed[8] == b'A' { b'B' } else { b'A' };
    let changed = String::from_utf8(changed).expect("it is ASCII");
    let foreign = URL_SAFE_NO_PAD.encode([8, 1, 34, 1, b'x']);
    let long = good.repeat(1_000);
    for bad in ["", "x", "ä", &good[1..], &good[..good.len() - 1], &changed, &foreign, &long, &"A".repeat(3 << 20)] {
        let status = settle(&tollgate, bad, &[]).await.expect_err("that is no reservation");
        assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec!["reservation".to_owned()]));
        assert!(status.message().len() < 200, "{}", status.message());
    }
    for (used, field) in [(vec![1, 2], "used"), (vec![u64::MAX], "used[0]"), (vec![0; 100_000], "used")] {
        let status = settle(&tollgate, &good, &used).await.expect_err("that cannot be");
        assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec![field.to_owned()]));
    }
    settled(&tollgate, &good, &[]).await;
}

#[tokio::test]
async fn an_estimate_that_is_not_well_formed_is_refused_and_named() {
    let tollgate = Tollgate::start(&policy("")).await;
    let mut quotas = tollgate.quotas().await;
    let good = charge("tokens", &ADDRESS, Some(5));
    let hold = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
    for (charges, hold, wrong) in [
        (vec![], None, vec!["charges"]),
        (vec![good.clone()], hold(0, 0), vec!["hold"]),
        (vec![good.clone()], hold(-1, 0), vec!["hold"]),
        (vec![good.clone()], hold(3_601, 0), vec!["hold"]),
        (vec![good.clone()], hold(i64::MAX, i32::MAX), vec!["hold"]),
        (vec![charge("tokens", &ADDRESS, Some(0))], hold(i64::MIN, i32::MIN), vec!["charges[0].units", "hold"]),
        (vec![charge("tokens", &ADDRESS, Some(u64::MAX))], None, vec!["charges[0].units"]),
        (vec![charge("nothing", &ADDRESS, None)], None, vec!["charges[0].counter.limit"]),
        (vec![good.clone(), good.clone()], None, vec!["charges[1].counter"]),
    ] {
        let status = quotas.reserve(pb::ReserveRequest { charges, hold }).await.expect_err("it is not well formed");
        let wrong: Vec<String> = wrong.into_iter().map(str::to_owned).collect();
        assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, wrong));
    }
    let never = reserve(&tollgate, &[("tokens", 101), ("yearly", 1)], None).await;
    let outcomes: Vec<_> = never.quotas.iter().map(pb::QuotaStatus::outcome).collect();
    assert_eq!(outcomes, [pb::QuotaOutcome::Never, pb::QuotaOutcome::Granted]);
    assert_eq!((never.allowed, never.retry_after, never.reservation.as_str()), (false, None, ""));
    assert_eq!(peek(&tollgate, &["tokens", "yearly"]).await, [100, 100]);
}

/// A text as [`pb::SettleRequest`] takes it, made by somebody who knows how.
fn forged(replica: u64, serial: u64, counter: &[u8]) -> String {
    let mut bytes = vec![8, 1, 17];
    bytes.extend(replica.to_le_bytes());
    bytes.push(25);
    bytes.extend(serial.to_le_bytes());
    bytes.extend([34, u8::try_from(counter.len()).expect("it is short")]);
    bytes.extend(counter);
    let kind = match counter {
        [b'b', b'u', ..] => b'c',
        [b's', ..] => b'b',
        _ => b'w',
    };
    bytes.extend([42, 1, kind]);
    let sum = digest(&SHA256, &bytes);
    bytes.extend(&sum.as_ref()[..8]);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The name that a reservation holds.
fn name_in(reservation: &str) -> (u64, u64) {
    let bytes = URL_SAFE_NO_PAD.decode(reservation).expect("it is base64url");
    let number = |from: usize| u64::from_le_bytes(bytes[from..from + 8].try_into().expect("there are eight"));
    (number(3), number(12))
}

async fn forging_leads_to_nothing(tollgate: &Tollgate) {
    let (busy, tokens) = (b"busy 9:192.0.2.7", b"tokens 9:192.0.2.7");
    // What another holds.
    let victims = [ask(tollgate, "/busy").await.reservation, ask(tollgate, "/busy").await.reservation];
    let reserved = reserve(tollgate, &[("tokens", 50)], None).await.reservation;
    // The forger's own.
    let own = reserve(tollgate, &[("spikes", 10)], None).await.reservation;
    let names: Vec<_> = victims.iter().chain([&reserved, &own]).map(|text| name_in(text)).collect();
    let near = |one: u64, other: u64| one.wrapping_sub(other).min(other.wrapping_sub(one)) < 1 << 32;
    for pair in names.windows(2) {
        assert!(!near(pair[0].1, pair[1].1), "one name tells of another: {names:x?}");
    }

    let (replica, serial) = names[3];
    assert_eq!(forged(replica, serial, b"spikes 9:192.0.2.7"), own, "the forger knows how");
    let around = [serial, serial.wrapping_add(1), serial.wrapping_sub(1), 0, u64::MAX];
    for (serial, counter) in around.iter().flat_map(|&serial| [(serial, &busy[..]), (serial, tokens)]) {
        for used in [0, 1_000_000_000_000] {
            settled(tollgate, &forged(replica, serial, counter), &[used]).await;
        }
    }
    assert_eq!(peek(tollgate, &["busy", "tokens", "spikes"]).await, [1, 48, 40], "as it was");

    // Counters that no limit has are no counters; those that none has any more are told.
    for nothing in
        [&b" probe"[..], b"", b"busy 10:192.0.2.7", b"busy 9:192.0.2.7}x", b"BUSY 9:192.0.2.7", b"busy 1:\xff"]
    {
        let status = settle(tollgate, &forged(replica, serial, nothing), &[]).await.expect_err("it is no counter");
        assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec!["reservation".to_owned()]));
    }
    for gone in [&b"idle 9:192.0.2.7"[..], b"busy", b"busy 9:192.0.2.7 1:x"] {
        let name = if gone.starts_with(b"idle") { "idle" } else { "busy" };
        assert_eq!(settle(tollgate, &forged(replica, serial, gone), &[]).await.expect("it is well formed"), [name]);
    }
    settled(tollgate, &own, &[]).await;
    assert_eq!(peek(tollgate, &["spikes"]).await, [50]);
}

#[tokio::test]
async fn forging_a_reservation_leads_to_nothing_in_memory() {
    forging_leads_to_nothing(&Tollgate::start(&policy("")).await).await;
}

#[tokio::test]
async fn forging_a_reservation_leads_to_nothing_in_redis() {
    let Some(redis) = RedisServer::start() else { return };
    forging_leads_to_nothing(&Tollgate::start(&policy(&in_redis(&redis))).await).await;
}

#[tokio::test]
async fn a_limit_that_is_gone_is_told_and_the_others_are_settled() {
    let tollgate = Tollgate::start(&policy("")).await;
    let charges = [("tokens", 60), ("spikes", 30), ("yearly", 60), ("busy", 2)];
    let reserved = reserve(&tollgate, &charges, None).await.reservation;
    let without = policy("").replace("  spikes:", "  renamed:");
    let without = without.replace("window: 365d, by: [source.address]", "window: 365d, by: []");
    let without = without.replace("algorithm: concurrency, units: 3, hold", "units: 3, window");
    tollgate.server.reload(configuration(&without)).expect("it can be taken over");
    assert_eq!(settle(&tollgate, &reserved, &[]).await.expect("it is well formed"), ["spikes", "yearly", "busy"]);
    assert_eq!(peek(&tollgate, &["tokens"]).await, [100]);
}

#[tokio::test]
async fn while_redis_is_away_nothing_is_settled_and_what_is_reserved_is_as_each_limit_says() {
    let Some(mut redis) = RedisServer::start() else { return };
    let yaml =
        policy(&in_redis(&redis)).replace("units: 100, window: 10h", "units: 100, window: 10h, when_away: allow");
    let tollgate = Tollgate::start(&yaml).await;
    let reserved = reserve(&tollgate, &[("tokens", 60)], None).await;
    redis.kill();
    let status = settle(&tollgate, &reserved.reservation, &[]).await.expect_err("nobody can be told");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(tonic_types::StatusExt::get_details_retry_info(&status).is_some(), "{status:?}");
    let lenient = reserve(&tollgate, &[("tokens", 60)], None).await;
    assert_eq!((lenient.allowed, lenient.quotas[0].outcome()), (true, pb::QuotaOutcome::Away));
    assert_eq!(lenient.reservation, "", "there is nothing to be settled");
    let strict = reserve(&tollgate, &[("tokens", 60), ("yearly", 1)], None).await;
    assert_eq!((strict.allowed, strict.reservation.as_str()), (false, ""));
}

#[tokio::test]
async fn what_is_held_of_a_share_is_free_once_it_is_settled_though_redis_cannot_be_told() {
    let Some(mut redis) = RedisServer::start() else { return };
    let local = policy(&in_redis(&redis)).replace("hold: 400ms", "hold: 10m, when_away: local");
    let tollgate = Tollgate::start(&local).await;
    redis.kill();
    let held = ask(&tollgate, "/brief").await;
    assert_eq!((held.allowed, held.reservation.is_empty()), (true, false));
    assert!(!ask(&tollgate, "/brief").await.allowed, "there is one slot");
    let status = settle(&tollgate, &held.reservation, &[]).await.expect_err("Redis cannot be told");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(ask(&tollgate, "/brief").await.allowed);
}
