//! Redis as people run it: a master that Sentinels watch, and a cluster whose slots move and whose masters die.
//!
//! Real servers each time.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::redis::{Reach, RedisStore, Settings};
use super::redis_faults::{Guarded, certificates, clock, gates, rights};
use super::redis_server::{RedisCluster, RedisServer, Sentinels};
use super::suite::{key, limit, request};
use crate::decide::ports::{Away, AwayCause, Clock as _, QuotaStore, Settlement};
use crate::domain::exact_log::at_once;
use crate::domain::question::Mode;
use crate::domain::time::Micros;
use crate::domain::window::{Grant, LeaseId, Outcome, Terms};

const HOUR: Micros = Micros::from_secs(3_600);

fn watched(urls: Vec<String>, service: &str) -> Settings {
    let reach = Reach::Sentinels { urls, service: service.to_owned(), username: None, password: None };
    Settings { reach, ..Settings::default() }
}

fn servers(urls: Vec<String>) -> Settings {
    Settings { reach: Reach::Servers(urls), ..Settings::default() }
}

#[tokio::test]
async fn a_master_that_dies_is_replaced_by_the_one_that_the_sentinels_elect() {
    let Some(mut all) = Sentinels::start() else { return };
    let guarded = Guarded::new(&watched(all.urls(), Sentinels::service()));
    guarded.serves().await;
    assert_eq!(guarded.store.health()[0].0, Sentinels::service());
    all.servers[0].kill();
    guarded.is_away(AwayCause::Unreachable).await;
    guarded.serves().await;
    let counter = "tollgate:{per-client 5:alice}";
    assert_eq!(all.servers[1].command(&["EXISTS", counter]), "1");
    // The old one comes back empty, and the Sentinels have it follow the new one.
    all.servers[0].restart();
    guarded.ask_until("left where it is", |_| all.servers[0].has_role("slave")).await;
    for _ in 0..5 {
        assert!(guarded.ask().await.is_ok());
    }
}

#[tokio::test]
async fn a_master_that_is_demoted_is_left() {
    let Some(all) = Sentinels::start() else { return };
    let guarded = Guarded::new(&watched(all.urls(), Sentinels::service()));
    guarded.serves().await;
    assert_eq!(all.sentinels[0].command(&["SENTINEL", "FAILOVER", Sentinels::service()]), "OK");
    guarded.ask_until("at the new master", |answer| answer.is_ok() && all.servers[1].has_role("master")).await;
    guarded.ask_until("sure", |_| all.servers[0].has_role("slave")).await;
    guarded.serves().await;
}

#[tokio::test]
async fn one_sentinel_that_answers_suffices() {
    let Some(mut all) = Sentinels::start() else { return };
    all.sentinels[0].kill();
    all.sentinels[1].pause();
    Guarded::new(&watched(all.urls(), Sentinels::service())).serves().await;
    all.sentinels[1].resume();
}

#[tokio::test]
async fn sentinels_that_do_not_know_the_master_are_told_from_those_that_are_none() {
    let Some(all) = Sentinels::start() else { return };
    Guarded::new(&watched(all.urls(), "nobody")).is_away(AwayCause::Mistaken).await;
    let servers = all.servers.iter().map(RedisServer::url).collect();
    Guarded::new(&watched(servers, Sentinels::service())).is_away(AwayCause::Mistaken).await;
}

/// All that a user needs, at the Sentinels and at the servers.
#[tokio::test]
async fn least_rights_suffice_behind_sentinels() {
    let Some(all) = Sentinels::start() else { return };
    let user = |server: &RedisServer, rights: &[&str]| {
        let command = [&["ACL", "SETUSER", "tollgate", "on", ">pw"][..], rights].concat();
        assert_eq!(server.command(&command), "OK");
    };
    let settings = Settings {
        reach: Reach::Sentinels {
            urls: all.urls(),
            service: Sentinels::service().to_owned(),
            username: Some("tollgate".to_owned()),
            password: Some("pw".to_owned()),
        },
        username: Some("tollgate".to_owned()),
        password: Some("pw".to_owned()),
        ..Settings::default()
    };
    let guarded = Guarded::new(&settings);
    guarded.is_away(AwayCause::Denied).await;
    for sentinel in &all.sentinels {
        user(sentinel, &["+sentinel|get-master-addr-by-name"]);
    }
    for server in &all.servers {
        user(server, &[rights("each server"), vec!["-ping", "+role"]].concat());
    }
    guarded.serves().await;
    guarded.uses_all().await;
}

#[tokio::test]
async fn one_url_of_a_cluster_suffices() {
    let Some(cluster) = RedisCluster::masters_with(&[]) else { return };
    for place in 0..3 {
        let guarded = Guarded::new(&servers(vec![cluster.nodes[place].url()]));
        guarded.serves().await;
        for name in ["alice", "bob", "carol", "dave", "erin"] {
            assert!(guarded.ask_for(name, at_once(1)).await.is_ok(), "{name}");
        }
        assert_eq!(guarded.beat().await, Ok(()));
        assert_eq!(guarded.store.health().len(), 3);
    }
}

#[tokio::test]
async fn several_servers_that_are_no_cluster_are_told() {
    let (Some(one), Some(other)) = (RedisServer::start(), RedisServer::start()) else { return };
    let guarded = Guarded::new(&servers(vec![one.url(), other.url()]));
    guarded.ask_until("told", |answer| *answer == Err(Away { because: AwayCause::Mistaken })).await;
    assert_eq!(guarded.health(), Err(Away { because: AwayCause::Mistaken }));
}

/// The Sentinels and the master that they name, whichever it is.
#[tokio::test]
async fn sentinels_and_their_master_are_reached_by_tls() {
    let folder = certificates();
    let Some(mut all) = with_tls(&folder, Sentinels::with_tls) else { return };
    let trusting = |ca: &str| {
        Guarded::new(&Settings { ca: Some(folder.path().join(ca)), ..watched(all.tls_urls(), Sentinels::service()) })
    };
    let guarded = trusting("ca.pem");
    guarded.serves().await;
    trusting("other.pem").is_away(AwayCause::Unreachable).await;
    all.servers[0].kill();
    guarded.is_away(AwayCause::Unreachable).await;
    guarded.serves().await;
    assert_eq!(all.servers[1].command(&["EXISTS", "tollgate:{per-client 5:alice}"]), "1");
}

/// Starts servers with the options that name the certificates in `folder`.
fn with_tls<T>(folder: &tempfile::TempDir, start: impl FnOnce(&[&str]) -> T) -> T {
    let [certificate, key, ca] =
        ["server.pem", "server.key", "ca.pem"].map(|name| folder.path().join(name).to_str().unwrap().to_owned());
    let files = ["--tls-cert-file", &certificate, "--tls-key-file", &key, "--tls-ca-cert-file", &ca];
    start(&[&files[..], &["--tls-auth-clients", "no"]].concat())
}

/// Each node is verified by the address that the cluster tells.
#[tokio::test]
async fn a_cluster_is_reached_by_tls() {
    let folder = certificates();
    let Some(cluster) = with_tls(&folder, RedisCluster::with_tls) else { return };
    let trusting = |urls, ca: &str| Guarded::new(&Settings { ca: Some(folder.path().join(ca)), ..servers(urls) });
    for urls in [cluster.tls_urls(), vec![cluster.tls_urls().swap_remove(1)]] {
        let guarded = trusting(urls, "ca.pem");
        guarded.serves().await;
        for place in 0..3 {
            assert!(guarded.ask_for(&name_on(&cluster, place), at_once(1)).await.is_ok());
        }
    }
    let distrusting = trusting(cluster.tls_urls(), "other.pem");
    distrusting.ask_until("away", |answer| *answer == Err(Away { because: AwayCause::Unreachable })).await;
}

/// All that a user needs, and only its keys.
#[tokio::test]
async fn least_rights_suffice_in_a_cluster() {
    let Some(cluster) = RedisCluster::masters_with(&[]) else { return };
    let allow = |rights: &[&str]| {
        for node in &cluster.nodes {
            let command = [&["ACL", "SETUSER", "tollgate", "on", ">pw"][..], rights].concat();
            assert_eq!(node.command(&command), "OK");
        }
    };
    allow(&rights("each server"));
    let user = Some("tollgate".to_owned());
    let settings = Settings { username: user, password: Some("pw".to_owned()), ..servers(cluster.urls()) };
    let guarded = Guarded::new(&settings);
    guarded.ask_until("away", |answer| *answer == Err(Away { because: AwayCause::Denied })).await;
    allow(&["+cluster|slots"]);
    guarded.serves().await;
    guarded.uses_all().await;
    // While a slot moves, too.
    let counter = "tollgate:{per-client 5:alice}";
    let (slot, from) = (cluster.slot(counter), cluster.place_at_first(counter));
    allow(&["+asking"]);
    let to = (from + 1) % 3;
    cluster.begin_move(&slot, from, to);
    guarded.serves().await;
    cluster.end_move(&slot, from, to);
    guarded.serves().await;
}

/// Names of counters on each of the masters.
fn name_on(cluster: &RedisCluster, master: usize) -> String {
    (0..10_000)
        .map(|number| format!("n{number}"))
        .find(|name| cluster.place_at_first(&format!("tollgate:{{per-client {}:{name}}}", name.len())) == master)
        .unwrap()
}

#[tokio::test]
async fn a_master_that_dies_takes_only_its_own_counters_with_it_until_its_replica_takes_over() {
    let Some(mut cluster) = RedisCluster::start() else { return };
    let names = [0, 1, 2].map(|master| name_on(&cluster, master));
    // Those that live answer in time, however busy the machine is.
    let guarded = Guarded::within(Micros::from_secs(2), &servers(cluster.urls()));
    let ask = async |place: usize| guarded.ask_for(&names[place], at_once(1)).await;
    guarded.serves().await;
    for place in 0..3 {
        assert!(ask(place).await.is_ok());
    }
    cluster.nodes[1].kill();
    let mut away = 0;
    let end = guarded.clock.now().steady + Micros::from_secs(20);
    loop {
        // Whatever becomes of the dead one's counters, the others' are served.
        let answers = [ask(0).await, ask(1).await, ask(2).await];
        assert!(answers[0].is_ok() && answers[2].is_ok(), "{answers:?}");
        if answers[1].is_err() {
            away += 1;
        } else if away > 0 {
            break;
        }
        assert!(guarded.clock.now().steady < end, "no replica took over: {answers:?}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert!(away > 10, "{away}");
    let Ok(Grant { remaining, .. }) = ask(1).await else { unreachable!("it has just been served") };
    assert!(remaining <= 1_000_000 - 2, "what was charged is not forgotten: {remaining}");
    guarded.ask_until("well", |_| guarded.health() == Ok(())).await;
}

/// What is left of an hour's units.
async fn left(store: &RedisStore, name: &str) -> u64 {
    let requests = [request(&limit(1_000_000, HOUR), name, at_once(1))].into_iter().collect();
    store.acquire(requests, Mode::Peek, clock().now()).get().await[0].unwrap().remaining
}

#[tokio::test]
async fn limits_on_different_nodes_pay_all_or_none() {
    let Some(mut cluster) = RedisCluster::masters_with(&[]) else { return };
    let names = [0, 1, 2].map(|master| name_on(&cluster, master));
    let guarded = Guarded::new(&servers(cluster.urls()));
    guarded.serves().await;
    let store = &guarded.store;
    let (ample, scarce) = (limit(1_000_000, HOUR), limit(1, HOUR));
    let lease =
        |serial| Terms { at_least: 3, at_most: 3, hold: Micros::from_secs(10), lease: LeaseId { replica: 7, serial } };
    let ask = async |serial| {
        let requests = [
            request(&ample, &names[0], lease(serial)),
            request(&ample, &names[1], lease(serial)),
            request(&scarce, &names[2], at_once(1)),
        ];
        store.acquire(requests.into_iter().collect(), Mode::Consume, clock().now()).get().await
    };
    let paid = ask(1).await;
    assert!(paid.iter().all(|answer| matches!(answer.unwrap().outcome, Outcome::Granted { .. })), "{paid:?}");
    store.rest().await;
    assert_eq!([left(store, &names[0]).await, left(store, &names[1]).await], [999_997; 2]);
    for serial in 2..12 {
        let refused = ask(serial).await;
        assert!(matches!(refused[2].unwrap().outcome, Outcome::Short { .. }), "{refused:?}");
        assert_eq!(refused[0].unwrap().remaining, 999_997, "as if it had not been asked");
        store.rest().await;
        assert_eq!([left(store, &names[0]).await, left(store, &names[1]).await], [999_997; 2]);
    }
    // A node that is away refuses for those whose limit says deny, and what the others charged is taken back.
    cluster.nodes[2].kill();
    let refused = ask(12).await;
    assert!(refused[0].is_ok() && refused[1].is_ok() && refused[2].is_err(), "{refused:?}");
    store.rest().await;
    assert_eq!([left(store, &names[0]).await, left(store, &names[1]).await], [999_997; 2]);
}

/// Neither waits for the move to end: who is there already is served there, who is new where the slot goes to.
#[tokio::test]
async fn counters_of_a_slot_that_is_on_its_way_are_served() {
    let Some(cluster) = RedisCluster::masters_with(&[]) else { return };
    let guarded = Guarded::within(Micros::from_secs(2), &servers(cluster.urls()));
    guarded.serves().await;
    let counter = |name: &str| format!("tollgate:{{per-client {}:{name}}}", name.len());
    let lease = |serial| Terms {
        at_least: 2,
        at_most: 8,
        hold: Micros::from_millis(500),
        lease: LeaseId { replica: 5, serial },
    };
    let remaining = async |name: &str, terms| guarded.ask_for(name, terms).await.unwrap().remaining;
    let settle = async |name: &str, terms: Terms, used| {
        let settlement =
            Settlement { limit: limit(1_000_000, Micros::from_secs(60)), key: key(name), lease: terms.lease, used };
        assert_eq!(guarded.store.settle([settlement].into_iter().collect(), clock().now()).get().await, Ok(()));
    };
    for (name, is_there) in [("there", true), ("new", false)] {
        let (slot, from) = (cluster.slot(&counter(name)), cluster.place_at_first(&counter(name)));
        let to = (from + 1) % 3;
        let keys = |place: usize| cluster.nodes[place].command(&["CLUSTER", "COUNTKEYSINSLOT", &slot]);
        if is_there {
            assert_eq!(remaining(name, at_once(1)).await, 999_999);
        }
        cluster.begin_move(&slot, from, to);
        let before = if is_there { 999_999 } else { 1_000_000 };
        assert_eq!(remaining(name, at_once(1)).await, before - 1);
        assert_eq!(remaining(name, lease(1)).await, before - 9);
        settle(name, lease(1), 2).await;
        assert_eq!((keys(from), keys(to)), if is_there { ("1".into(), "0".into()) } else { ("0".into(), "1".into()) });
        cluster.end_move(&slot, from, to);
        assert_eq!(remaining(name, lease(2)).await, before - 11);
        assert_eq!(keys(from), "0");
    }
}

/// Counters are asked without a pause while their slots go to and fro. Nothing is lost, nothing is admitted twice, and
/// no call fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_that_move_under_load_lose_and_gain_nothing() {
    const COUNTERS: usize = 6;
    let Some(cluster) = RedisCluster::masters_with(&[]) else { return };
    // Nothing depends on how busy the machine is.
    let store = RedisStore::connect(&servers(cluster.urls()), gates(&clock(), Micros::from_secs(10))).unwrap();
    let store = Arc::new(store);
    let moving = Arc::new(AtomicBool::new(true));
    let askers: Vec<_> = (0..COUNTERS)
        .map(|counter| {
            let (store, moving) = (Arc::clone(&store), Arc::clone(&moving));
            tokio::spawn(async move { ask_while(&store, &format!("c{counter}"), counter % 2 == 1, &moving).await })
        })
        .collect();
    let mover = tokio::task::spawn_blocking(move || {
        for round in 0..6 {
            for counter in 0..COUNTERS {
                let key = format!("tollgate:{{per-client 2:c{counter}}}");
                let (slot, home) = (cluster.slot(&key), cluster.place_at_first(&key));
                let (from, to) = ((home + round) % 3, (home + round + 1) % 3);
                cluster.begin_move(&slot, from, to);
                // Long enough for many calls to meet a slot that is neither here nor there.
                std::thread::sleep(std::time::Duration::from_millis(20));
                cluster.end_move(&slot, from, to);
            }
        }
        cluster
    });
    let cluster = mover.await.unwrap();
    moving.store(false, Ordering::Relaxed);
    for (counter, asker) in askers.into_iter().enumerate() {
        let (calls, admitted) = asker.await.unwrap();
        assert!(calls > 100, "{calls}");
        let charged = 1_000_000 - left(&store, &format!("c{counter}")).await;
        if counter % 2 == 0 {
            assert_eq!(charged, admitted, "counter {counter} in {calls} calls");
        } else {
            // Leases that could not be settled stay charged whole.
            assert!(charged >= admitted && charged <= calls * 4, "{charged} for {admitted} in {calls} calls");
        }
    }
    drop(cluster);
}

/// How often a counter was asked, and what it admitted.
async fn ask_while(store: &RedisStore, name: &str, by_leases: bool, moving: &AtomicBool) -> (u64, u64) {
    let limit = limit(1_000_000, HOUR);
    let (mut calls, mut admitted) = (0, 0);
    while moving.load(Ordering::Relaxed) {
        calls += 1;
        let terms = if by_leases {
            let lease = LeaseId { replica: 1, serial: calls };
            Terms { at_least: 1, at_most: 4, hold: Micros::from_secs(1), lease }
        } else {
            at_once(1)
        };
        let requests = [request(&limit, name, terms)].into_iter().collect();
        let grant = store.acquire(requests, Mode::Consume, clock().now()).get().await[0];
        let Outcome::Granted { units } = grant.unwrap().outcome else { unreachable!("there is room for all") };
        admitted += 1;
        if by_leases {
            assert!((1..=4).contains(&units), "{units}");
            let (limit, key) = (Arc::clone(&limit), key(name));
            let settlement = Settlement { limit, key, lease: terms.lease, used: 1 };
            let settled = store.settle([settlement].into_iter().collect(), clock().now()).get().await;
            assert_eq!(settled, Ok(()));
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    (calls, admitted)
}
