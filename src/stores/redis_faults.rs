//! What Redis does to the store when it is stopped, full, locked, read-only or gone, behind the gate that bounds it.
//!
//! A real server each time. Whatever happens, an answer comes within the deadline and tells the cause, and the store
//! recovers by itself.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::algorithms::{bucket, fixed, slots};
use super::redis::{Bounds, ConnectProblem, Gates, Reach, RedisStore, Settings, evicts};
use super::redis_server::{RedisServer, free_port};
use super::suite::{key, limit, request};
use crate::decide::ports::{Away, AwayCause, Charge, Clock, Pulse, QuotaStore, Requests, Settlement};
use crate::domain::exact_log::at_once;
use crate::domain::question::Mode;
use crate::domain::time::{Micros, Moment};
use crate::domain::window::{Grant, LeaseId, Outcome, Terms};
use crate::telemetry::Telemetry;

/// Longer than the real one, because these tests share two cores with others.
const DEADLINE: Micros = Micros::from_millis(100);

/// How long recovery may take: a rest of the gate, a pause of the link, and a connection.
pub(super) const RECOVERY: Duration = Duration::from_secs(15);

/// The real clock: nothing here depends on how it runs.
pub(super) struct RealClock(Instant);

impl Clock for RealClock {
    fn now(&self) -> Moment {
        Moment { wall: Micros::ZERO, steady: self.0.elapsed().into() }
    }
}

#[expect(clippy::disallowed_methods, reason = "tests with a real server run on real time")]
pub(super) fn clock() -> Arc<RealClock> {
    Arc::new(RealClock(Instant::now()))
}

pub(super) struct Guarded {
    pub(super) store: RedisStore,
    pub(super) clock: Arc<RealClock>,
    deadline: Micros,
}

pub(super) fn gates(clock: &Arc<RealClock>, deadline: Micros) -> Gates {
    let bounds = Bounds { deadline, rest: Micros::from_millis(100), ..Bounds::default() };
    Gates::new(bounds, Arc::clone(clock) as Arc<dyn Clock>, Arc::new(Telemetry::default()))
}

pub(super) fn connect(settings: &Settings) -> RedisStore {
    // Nothing fails where this is used, so nobody minds how long a busy machine takes.
    RedisStore::connect(settings, gates(&clock(), Micros::from_secs(10))).unwrap()
}

impl Guarded {
    pub(super) fn new(settings: &Settings) -> Self {
        Self::within(DEADLINE, settings)
    }

    pub(super) fn within(deadline: Micros, settings: &Settings) -> Self {
        let clock = clock();
        Self { store: RedisStore::connect(settings, gates(&clock, deadline)).unwrap(), clock, deadline }
    }

    pub(super) fn health(&self) -> Result<(), Away> {
        self.store.health().into_iter().try_for_each(|(_, health)| health)
    }

    pub(super) async fn ask_for(&self, name: &str, terms: Terms) -> Result<Grant, Away> {
        let before = self.clock.now().steady;
        let requests = [request(&limit(1_000_000, Micros::from_secs(60)), name, terms)];
        let answer = self.store.acquire(requests.into_iter().collect(), Mode::Consume, self.clock.now()).get().await;
        let took = self.clock.now().steady - before;
        // With room for a busy machine: without a deadline, what hangs is waited for much longer.
        assert!(took < self.deadline + Micros::from_secs(3), "{took}");
        answer[0]
    }

    pub(super) async fn beat(&self) -> Result<(), Away> {
        self.store.beat(Pulse { replica: 1, epoch: None }, self.clock.now()).get().await.map(|_| ())
    }

    pub(super) async fn ask(&self) -> Result<Grant, Away> {
        self.ask_for("alice", at_once(1)).await
    }

    /// Asks counters of every kind for all that can be asked.
    pub(super) async fn uses_all(&self) {
        let minute = Micros::from_secs(60);
        let limits = [limit(100, minute), bucket(100, minute, 100), fixed(100, minute), slots(100, minute)];
        let lease = LeaseId { replica: 3, serial: 1 };
        let terms = Terms { at_least: 2, at_most: 2, hold: Micros::from_secs(20), lease };
        let requests: Requests = limits.iter().map(|limit| request(limit, "everything", terms)).collect();
        for mode in [Mode::Consume, Mode::Peek] {
            let grants = self.store.acquire(requests.clone(), mode, self.clock.now()).get().await;
            assert!(grants.iter().all(|grant| matches!(grant.unwrap().outcome, Outcome::Granted { .. })), "{grants:?}");
        }
        let settlements =
            limits.iter().map(|limit| Settlement { limit: Arc::clone(limit), key: key("everything"), lease, used: 1 });
        assert_eq!(self.store.settle(settlements.collect(), self.clock.now()).get().await, Ok(()));
        let charge = |limit| Charge { limit: Arc::clone(limit), key: key("everything"), units: 1 };
        let refunds = self.store.refund(limits.iter().map(charge).collect(), self.clock.now()).get().await;
        assert_eq!(refunds.as_deref(), Ok(&[1, 1, 1, 0][..]));
        assert_eq!(self.store.assert(limits.iter().map(charge).collect(), self.clock.now()).get().await, Ok(()));
        for limit in limits {
            assert_eq!(self.store.reset(limit, key("everything")).get().await, Ok(()));
        }
        assert_eq!(self.beat().await, Ok(()));
    }

    /// Asks until the answer is as wanted.
    pub(super) async fn ask_until(&self, what: &str, wanted: impl Fn(&Result<Grant, Away>) -> bool) {
        let end = self.clock.now().steady + RECOVERY.into();
        let mut last = None;
        while self.clock.now().steady < end {
            let answer = self.ask().await;
            if wanted(&answer) {
                return;
            }
            last = Some(answer);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not {what} in {RECOVERY:?}: {last:?}");
    }

    pub(super) async fn serves(&self) {
        self.ask_until("served", Result::is_ok).await;
        assert_eq!(self.health(), Ok(()));
    }

    pub(super) async fn is_away(&self, because: AwayCause) {
        self.ask_until("away", |answer| *answer == Err(Away { because })).await;
        // Then it is left alone.
        self.ask_until("left alone", |answer| *answer == Err(Away { because: AwayCause::Resting })).await;
        assert_eq!(self.health(), Err(Away { because }));
    }
}

fn at(url: impl Into<String>) -> Settings {
    Settings { reach: Reach::Servers(vec![url.into()]), ..Settings::default() }
}

pub(super) fn settings(server: &RedisServer) -> Settings {
    at(server.url())
}

#[tokio::test]
async fn the_servers_own_time_lets_units_return() {
    let Some(server) = RedisServer::start() else { return };
    let store = connect(&settings(&server));
    let limit = limit(1, Micros::from_millis(100));
    let end = clock();
    let mut times = 0;
    while times < 3 {
        assert!(end.now().steady < RECOVERY.into());
        // The asker's time stands still, so it is not the one that counts.
        let now = Moment { wall: Micros::ZERO, steady: Micros::ZERO };
        let requests = [request(&limit, "alice", at_once(1))].into_iter().collect();
        match store.acquire(requests, Mode::Consume, now).get().await[0].unwrap().outcome {
            Outcome::Granted { .. } => times += 1,
            Outcome::Short { retry_after } => tokio::time::sleep(retry_after.into()).await,
            Outcome::Never => panic!("one fits into one"),
        }
    }
}

#[tokio::test]
async fn keys_vanish_by_themselves() {
    let Some(server) = RedisServer::start() else { return };
    let store = connect(&settings(&server));
    let lease = LeaseId { replica: 1, serial: 2 };
    let terms = Terms { at_least: 1, at_most: 1, hold: Micros::from_millis(500), lease };
    let requests = [request(&limit(10, Micros::from_secs(64)), "alice", terms)].into_iter().collect();
    store.acquire(requests, Mode::Consume, clock().now()).get().await[0].unwrap();
    let life = |key: &str| server.command(&["PTTL", key]).parse::<i64>().unwrap();
    // Until the sub-window of the expiry is let go of: W, a width, the hold, and some slack.
    let state = life("tollgate:{per-client 5:alice}");
    assert!((60_000..=64_000 + 2_000 + 500 + 1_000).contains(&state), "{state}");
    let reserved = life("tollgate:{ reservations}:reserved:0000000000000001");
    // As long as others of its group may be taken besides.
    assert!((500..=2_500).contains(&reserved), "{reserved}");
    assert_eq!(server.command(&["DBSIZE"]), "2");
    store.beat(Pulse { replica: 1, epoch: None }, clock().now()).get().await.unwrap();
    assert_eq!(server.command(&["DBSIZE"]), "4");
    // The epoch stays as long as the data does.
    let epoch = (0..1_000).map(|number| format!("tollgate:{{ beat {}:{number}}}:epoch", number.to_string().len()));
    let epoch = epoch.into_iter().find(|key| server.command(&["EXISTS", key]) == "1").unwrap();
    assert_eq!(life(&epoch), -1);
    assert!((1..=5_000).contains(&life(&epoch.replace(":epoch", ":replicas"))));
}

#[tokio::test]
async fn a_script_that_was_flushed_is_sent_again() {
    let Some(server) = RedisServer::start() else { return };
    let guarded = Guarded::new(&settings(&server));
    guarded.serves().await;
    for mode in ["SYNC", "ASYNC"] {
        assert_eq!(server.command(&["SCRIPT", "FLUSH", mode]), "OK");
        assert!(guarded.ask().await.is_ok());
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_yet_is_found_when_it_comes() {
    let Some(mut server) = RedisServer::start() else { return };
    server.kill();
    let guarded = Guarded::new(&settings(&server));
    guarded.is_away(AwayCause::Unreachable).await;
    server.restart();
    guarded.serves().await;
}

#[tokio::test]
async fn a_server_that_is_killed_and_comes_back_is_found_again() {
    let Some(mut server) = RedisServer::start() else { return };
    let guarded = Guarded::new(&settings(&server));
    for _ in 0..2 {
        guarded.serves().await;
        server.kill();
        guarded.is_away(AwayCause::Unreachable).await;
        server.restart();
    }
    guarded.serves().await;
}

/// Sooner than the next ping would notice.
#[tokio::test]
async fn a_connection_that_a_call_finds_broken_is_renewed_at_once() {
    let Some(server) = RedisServer::start() else { return };
    let guarded = Guarded::new(&settings(&server));
    guarded.serves().await;
    let begin = guarded.clock.now().steady;
    assert_eq!(server.command(&["CLIENT", "KILL", "TYPE", "normal"]), "1");
    assert_eq!(guarded.ask().await, Err(Away { because: AwayCause::Unreachable }));
    guarded.serves().await;
    let took = guarded.clock.now().steady - begin;
    assert!(took < Micros::from_millis(700), "{took}");
}

/// As when a router forgets a connection: it is never closed, and nothing comes through it any more.
#[tokio::test]
async fn a_connection_that_falls_silent_is_given_up() {
    let Some(server) = RedisServer::start() else { return };
    let proxy = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("redis://{}/", proxy.local_addr().unwrap());
    let (silence, silenced) = watch::channel(false);
    let port = server.port();
    let carrier = tokio::spawn(async move {
        loop {
            let (mut near, _) = proxy.accept().await.unwrap();
            let mut far = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
            // Those that are made after the silence began are heard.
            let mut falls_silent = (!*silenced.borrow()).then(|| silenced.clone());
            tokio::spawn(async move {
                let silent = async {
                    match &mut falls_silent {
                        Some(silenced) => silenced.wait_for(|silenced| *silenced).await.map(|_| ()),
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    _ = silent => std::future::pending().await,
                }
            });
        }
    });
    let guarded = Guarded::new(&at(url));
    guarded.serves().await;
    silence.send_replace(true);
    guarded.is_away(AwayCause::Deadline).await;
    guarded.serves().await;
    carrier.abort();
}

#[tokio::test]
async fn a_server_that_hangs_costs_no_more_than_the_deadline() {
    let Some(server) = RedisServer::start() else { return };
    let guarded = Guarded::new(&settings(&server));
    guarded.serves().await;
    server.pause();
    guarded.is_away(AwayCause::Deadline).await;
    server.resume();
    guarded.serves().await;
}

#[tokio::test]
async fn a_wrong_password_is_told_and_a_changed_one_is_noticed() {
    let Some(server) = RedisServer::start_with(&["--requirepass", "open sesame"]) else { return };
    let with = |password: Option<&str>| Settings { password: password.map(str::to_owned), ..settings(&server) };
    Guarded::new(&with(None)).is_away(AwayCause::Denied).await;
    Guarded::new(&with(Some("open sesame"))).serves().await;
    let wrong = Guarded::new(&with(Some("hunter2")));
    wrong.is_away(AwayCause::Denied).await;
    assert!(!format!("{:?} {}", wrong.ask().await, wrong.ask().await.unwrap_err()).contains("hunter2"));
    assert_eq!(server.command(&["ACL", "SETUSER", "default", ">hunter2"]), "OK");
    wrong.serves().await;
}

/// The rights that the documentation says are needed there.
pub(super) fn rights(place: &str) -> Vec<&'static str> {
    let page = include_str!("../../docs/quotas.md");
    let row = page.lines().find_map(|line| line.strip_prefix(&format!("| {place} | "))).unwrap();
    row.split('`').nth(1).unwrap().split(' ').collect()
}

/// What a replica needs besides where API keys are shared.
pub(super) fn rights_of_api_keys() -> Vec<&'static str> {
    rights("for [API keys](api-keys.md) that replicas share")
}

/// What the commands that change them need besides.
pub(super) fn rights_to_change_api_keys() -> Vec<&'static str> {
    rights("for the commands that change them")
}

/// What revocations need besides.
pub(super) fn rights_of_revocations() -> Vec<&'static str> {
    rights("for [revocations](revocation.md)")
}

#[test]
fn the_documented_rights_are_those_that_are_used_and_no_others() {
    let scripts = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/stores/redis")).unwrap();
    let paths = scripts.map(|entry| entry.unwrap().path());
    let text: String = paths
        .filter(|path| path.extension().is_some_and(|ending| ending == "lua"))
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    let commands = text.split("call('").skip(1).map(|rest| rest.split('\'').next().unwrap().to_lowercase());
    let used: BTreeSet<String> = ["ping", "eval", "evalsha"].map(str::to_owned).into_iter().chain(commands).collect();
    // Where these are needed is tried with real servers.
    assert_eq!(rights("servers behind Sentinels"), ["+role"]);
    assert_eq!(rights("nodes of a cluster"), [r"+cluster\|slots", "+asking"]);
    assert_eq!(rights("to be warned of a policy that evicts"), [r"+info\|memory"]);
    assert_eq!(rights("Sentinels"), [r"+sentinel\|get-master-addr-by-name"]);
    let of_proofs = rights("for calls with a [DPoP proof](proofs.md)");
    let of_keys = [rights_of_api_keys(), rights_to_change_api_keys()].concat();
    let documented = [rights("each server"), of_proofs, of_keys, rights_of_revocations()].concat();
    assert_eq!(documented[0], "~tollgate:*");
    assert_eq!(documented[1..].iter().map(|right| right[1..].to_owned()).collect::<BTreeSet<_>>(), used);
}

#[tokio::test]
async fn a_user_that_may_not_run_scripts_is_told() {
    let Some(server) = RedisServer::start() else { return };
    assert_eq!(server.command(&["ACL", "SETUSER", "tollgate", "on", ">pw", "~tollgate:*", "+ping"]), "OK");
    let url = server.url().replace("redis://", "redis://tollgate:pw@");
    let guarded = Guarded::new(&at(url));
    guarded.is_away(AwayCause::Denied).await;
    // All that the documentation names, and only its keys.
    let grant = [vec!["ACL", "SETUSER", "tollgate"], rights("each server")].concat();
    assert_eq!(server.command(&grant), "OK");
    guarded.serves().await;
    guarded.uses_all().await;
    let url = format!("{}1", server.url().replace("redis://", "redis://tollgate:pw@"));
    let elsewhere = Guarded::new(&at(url));
    elsewhere.is_away(AwayCause::Denied).await;
    assert_eq!(server.command(&["ACL", "SETUSER", "tollgate", "+select"]), "OK");
    elsewhere.serves().await;
}

#[tokio::test]
async fn a_read_only_replica_takes_no_charges_until_it_is_promoted() {
    let Some(server) = RedisServer::start() else { return };
    let guarded = Guarded::new(&settings(&server));
    guarded.serves().await;
    assert_eq!(server.command(&["REPLICAOF", "127.0.0.1", &free_port().to_string()]), "OK");
    guarded.is_away(AwayCause::ReadOnly).await;
    assert_eq!(server.command(&["REPLICAOF", "NO", "ONE"]), "OK");
    guarded.serves().await;
}

/// As when the name leads to another server after a failover, and the old one stays up.
#[tokio::test]
async fn a_server_that_was_demoted_is_left_for_the_one_that_its_name_leads_to_now() {
    let (Some(old), Some(new)) = (RedisServer::start(), RedisServer::start()) else { return };
    let proxy = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("redis://{}/", proxy.local_addr().unwrap());
    let (lead, leads_to) = watch::channel(old.port());
    let carrier = tokio::spawn(async move {
        loop {
            let (mut near, _) = proxy.accept().await.unwrap();
            let port = *leads_to.borrow();
            let mut far = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
        }
    });
    let guarded = Guarded::new(&at(url));
    guarded.serves().await;
    assert_eq!(old.command(&["REPLICAOF", "127.0.0.1", &free_port().to_string()]), "OK");
    guarded.is_away(AwayCause::ReadOnly).await;
    lead.send_replace(new.port());
    guarded.serves().await;
    assert_eq!(new.command(&["EXISTS", "tollgate:{per-client 5:alice}"]), "1");
    carrier.abort();
}

#[tokio::test]
async fn a_policy_that_drops_counters_is_found_out_with_the_least_rights() {
    let Some(server) = RedisServer::start() else { return };
    let user = ["ACL", "SETUSER", "tollgate", "on", ">pw", "~tollgate:*", "+ping"];
    assert_eq!(server.command(&user), "OK");
    let client = ::redis::Client::open(server.url().replace("redis://", "redis://tollgate:pw@")).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let set = |policy: &str, memory: &str| {
        assert_eq!(server.command(&["CONFIG", "SET", "maxmemory-policy", policy]), "OK");
        assert_eq!(server.command(&["CONFIG", "SET", "maxmemory", memory]), "OK");
    };
    set("allkeys-lru", "100mb");
    assert_eq!(evicts(&mut connection).await, None, "who may not ask is not told");
    let right = rights("to be warned of a policy that evicts").concat().replace('\\', "");
    assert_eq!(server.command(&["ACL", "SETUSER", "tollgate", &right]), "OK");
    for policy in ["allkeys-lru", "allkeys-random", "volatile-ttl", "volatile-lfu"] {
        set(policy, "100mb");
        assert_eq!(evicts(&mut connection).await.as_deref(), Some(policy));
        set(policy, "0");
        assert_eq!(evicts(&mut connection).await, None, "it is never full");
    }
    set("noeviction", "100mb");
    assert_eq!(evicts(&mut connection).await, None);
}

/// Else a beat's good news would let calls through that fail.
#[tokio::test]
async fn a_beat_finds_out_whether_charges_are_taken() {
    let Some(server) = RedisServer::start_with(&["--maxmemory-policy", "noeviction"]) else { return };
    let guarded = Guarded::new(&settings(&server));
    let beat = async || guarded.beat().await;
    guarded.serves().await;
    for _ in 0..5 {
        assert_eq!(beat().await, Ok(()));
    }
    assert_eq!(server.command(&["CONFIG", "SET", "maxmemory", "1"]), "OK");
    assert_eq!(beat().await, Err(Away { because: AwayCause::Full }));
    assert_eq!(server.command(&["CONFIG", "SET", "maxmemory", "0"]), "OK");
    assert_eq!(beat().await, Ok(()));
    assert_eq!(server.command(&["REPLICAOF", "127.0.0.1", &free_port().to_string()]), "OK");
    assert_eq!(beat().await, Err(Away { because: AwayCause::ReadOnly }));
}

#[tokio::test]
async fn a_server_without_memory_is_full_until_it_has_some() {
    let Some(server) = RedisServer::start_with(&["--maxmemory-policy", "noeviction"]) else { return };
    let guarded = Guarded::new(&settings(&server));
    guarded.serves().await;
    assert_eq!(server.command(&["CONFIG", "SET", "maxmemory", "1"]), "OK");
    guarded.is_away(AwayCause::Full).await;
    assert_eq!(server.command(&["CONFIG", "SET", "maxmemory", "0"]), "OK");
    guarded.serves().await;
}

#[tokio::test]
async fn what_someone_else_keeps_under_a_counters_name_is_not_understood() {
    let Some(server) = RedisServer::start() else { return };
    let store = connect(&settings(&server));
    let ask = async || {
        let requests = [request(&limit(1, Micros::from_secs(60)), "alice", at_once(1))].into_iter().collect();
        store.acquire(requests, Mode::Consume, clock().now()).get().await[0].map(|grant| grant.outcome)
    };
    for command in
        [&["SET", "tollgate:{per-client 5:alice}", "short"][..], &["LPUSH", "tollgate:{per-client 5:alice}", "x"]]
    {
        server.command(&["DEL", "tollgate:{per-client 5:alice}"]);
        server.command(command);
        assert_eq!(ask().await, Err(Away { because: AwayCause::Garbled }), "{command:?}");
    }
    server.command(&["DEL", "tollgate:{per-client 5:alice}"]);
    assert_eq!(ask().await, Ok(Outcome::Granted { units: 1 }));
    store.reset(limit(1, Micros::from_secs(60)), key("alice")).get().await.unwrap();
    assert_eq!(ask().await, Ok(Outcome::Granted { units: 1 }));
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_at_once() {
    let connect = |url: &str, ca: Option<PathBuf>| {
        RedisStore::connect(&Settings { ca, ..at(url) }, gates(&clock(), DEADLINE)).map(|_| ()).unwrap_err()
    };
    for url in [
        "",
        "redis",
        "http://h:1",
        "redis://",
        "redis://:hunter2@h:99999",
        "redis://:hunter2@h:0",
        "rediss://h:0",
        "redis://h/x",
        "rediss://h#insecure",
    ] {
        let problem = connect(url, None);
        assert!(matches!(problem, ConnectProblem::Url), "{url}");
        assert!(!problem.to_string().contains("hunter2"));
    }
    let folder = tempfile::tempdir().unwrap();
    let file = |text: &str| {
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, text).unwrap();
        Some(path)
    };
    let missing = Some(folder.path().join("missing.pem"));
    assert!(matches!(connect("rediss://h", missing), ConnectProblem::Unreadable { .. }));
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for text in ["", "not PEM", broken] {
        assert!(matches!(connect("rediss://h", file(text)), ConnectProblem::NoAuthority { .. }), "{text}");
    }
    assert!(matches!(connect("redis://h", file("")), ConnectProblem::NotTls));
}

/// A server's certificate with its key, the authority that signed it, and another one.
pub(super) fn certificates() -> tempfile::TempDir {
    // Another test may have been first.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
    let authority = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new([]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        // Else it has the server's name, and seems to have been signed by itself.
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        write(name, params.self_signed(&key).unwrap().pem());
        rcgen::Issuer::new(params, key)
    };
    let issuer = authority("ca.pem");
    authority("other.pem");
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    write("server.pem", params.signed_by(&key, &issuer).unwrap().pem());
    write("server.key", key.serialize_pem());
    folder
}

#[tokio::test]
async fn tls_trusts_the_given_authority_and_no_other() {
    let folder = certificates();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let port = free_port();
    let Some(_server) = RedisServer::start_with(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &path("server.pem"),
        "--tls-key-file",
        &path("server.key"),
        "--tls-ca-cert-file",
        &path("ca.pem"),
        "--tls-auth-clients",
        "no",
    ]) else {
        return;
    };
    let trusting = |ca: &str| {
        let url = format!("rediss://localhost:{port}");
        Guarded::new(&Settings { ca: Some(path(ca).into()), ..at(url) })
    };
    trusting("ca.pem").serves().await;
    trusting("other.pem").is_away(AwayCause::Unreachable).await;
}

/// The budget: at most three times a fixed-window script, in CPU time. It is a measurement, so it is run by hand on a
/// quiet machine: `cargo test --lib cpu_budget -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "a measurement"]
#[expect(clippy::print_stdout, reason = "the measurement's result")]
async fn cpu_budget_per_acquisition() {
    const CALLS: u32 = 10_000;
    const FIXED_WINDOW: &str =
        "local n = redis.call('INCRBY', KEYS[1], ARGV[1]) redis.call('PEXPIRE', KEYS[1], ARGV[2]) return n";
    let Some(server) = RedisServer::start() else { return };
    let store = connect(&settings(&server));
    let client = ::redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let script = ::redis::Script::new(FIXED_WINDOW);
    let (ample, scarce) = (limit(1_000_000_000, Micros::from_secs(60)), limit(1, Micros::from_secs(60)));
    let mut least = [[f64::MAX; 2]; 4];
    for _ in 0..5 {
        for (place, least) in least.iter_mut().enumerate() {
            let (script_before, server_before) = cpu_micros(&server);
            for call in 0..CALLS {
                let name = |set: &str| format!("{set}-{}", call % 10);
                let requests = match place {
                    0 => {
                        let key = format!("tollgate:{{per-client 6:{}}}", name("wxyz"));
                        let _: u64 = script.key(key).arg(1).arg(60_000).invoke_async(&mut connection).await.unwrap();
                        continue;
                    }
                    1 => vec![request(&ample, &name("once"), at_once(1))],
                    2 => vec![request(&scarce, &name("full"), at_once(1))],
                    _ => vec![request(&ample, &name("this"), at_once(1)), request(&ample, &name("that"), at_once(1))],
                };
                let grants = store.acquire(requests.into_iter().collect(), Mode::Consume, clock().now()).get().await;
                assert!(grants.iter().all(Result::is_ok), "{grants:?}");
            }
            let (script_after, server_after) = cpu_micros(&server);
            least[0] = least[0].min((script_after - script_before) / f64::from(CALLS));
            least[1] = least[1].min((server_after - server_before) / f64::from(CALLS));
        }
    }
    for (what, [script, server]) in ["fixed window", "granted", "refused", "two counters"].iter().zip(least) {
        println!("{what}: {script:.2} µs in the script, {server:.2} µs of the server");
    }
    let [fixed, granted, refused, two] = least.map(|[script, _]| script);
    assert!(granted <= 3.0 * fixed && refused <= 3.0 * fixed && two <= 6.0 * fixed);
}

/// Time that scripts took, and the server's whole CPU time.
pub(super) fn cpu_micros(server: &RedisServer) -> (f64, f64) {
    let number = |section: &str, before: &str| {
        let info = server.command(&["INFO", section]);
        let value = info.split(before).nth(1).map_or("0", |rest| rest.split([',', '\r']).next().unwrap());
        value.parse::<f64>().unwrap()
    };
    let seconds = number("cpu", "used_cpu_user:") + number("cpu", "used_cpu_sys:");
    let line = server.command(&["INFO", "commandstats"]);
    let calls = line.split("cmdstat_evalsha:").nth(1).unwrap_or_default();
    let script = calls.split("usec=").nth(1).map_or("0", |rest| rest.split(',').next().unwrap());
    (script.parse().unwrap(), seconds * 1e6)
}
