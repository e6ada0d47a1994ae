//! Decisions with quotas in a real Redis, and without one when it goes away.

use std::time::Duration;

use tollgate::proto as pb;

use crate::program::served;
use crate::support::poll;
use crate::support::redis::{RedisCluster, RedisServer, Sentinels};
use crate::support::server::{SOON, Tollgate, configuration, question};

fn policy(url: &str, more: &str) -> String {
    format!(
        r"
store: {{ redis: {{ urls: ['{url}']{more} }} }}
limits:
  strict: {{ units: 3, window: 10m, by: [source.address] }}
  lenient: {{ units: 3, window: 10m, by: [source.address], when_away: allow }}
rules:
  - match: {{ path: /strict }}
    permit: anyone
    limits: [strict, lenient]
  - match: {{ path: /lenient }}
    permit: anyone
    limits: [lenient]
  - match: {{ path: /free }}
    permit: anyone
"
    )
}

/// With a deadline that a busy machine meets.
async fn start(redis: &RedisServer) -> Tollgate {
    Tollgate::start(&policy(&redis.url(), ", deadline: 500ms")).await
}

#[tokio::test]
async fn replicas_share_their_counters() {
    let Some(redis) = RedisServer::start() else { return };
    let (one, other) = (start(&redis).await, start(&redis).await);
    let mut left = Vec::new();
    for replica in [&one, &other, &one] {
        left.push(replica.decide(question("GET", "/strict", None)).await.quotas[0].remaining);
    }
    assert_eq!(left, [2, 1, 0]);
    for replica in [&one, &other] {
        assert_eq!(replica.verdict("GET", "/strict", None).await, "deny quota_exceeded");
    }
}

#[tokio::test]
async fn each_limit_does_what_it_says_while_redis_is_away() {
    let Some(mut redis) = RedisServer::start() else { return };
    let tollgate = start(&redis).await;
    assert_eq!(tollgate.verdict("GET", "/strict", None).await, "allow");
    redis.kill();
    for _ in 0..10 {
        assert_eq!(tollgate.verdict("GET", "/strict", None).await, "deny store_away");
        assert_eq!(tollgate.verdict("GET", "/lenient", None).await, "allow");
        assert_eq!(tollgate.verdict("GET", "/free", None).await, "allow");
    }
    let away = tollgate.decide(question("GET", "/lenient", None)).await;
    assert_eq!(away.quotas[0].outcome(), pb::QuotaOutcome::Away);
    let (status, text) = tollgate.page("/readyz").await;
    assert!(status == 200 && text.contains("degraded"), "{status} {text}");
    let up = format!(r#"tollgate_store_up{{node="127.0.0.1:{}"}}"#, redis.port());
    assert!(tollgate.page("/metrics").await.1.contains(&format!("{up} 0\n")));

    redis.restart();
    tollgate.clock.advance(Duration::from_secs(2));
    poll(SOON, "recovery by itself", async || {
        tollgate.clock.advance(Duration::from_millis(100));
        (tollgate.verdict("GET", "/strict", None).await != "deny store_away").then_some(())
    })
    .await;
    // What was revoked meanwhile is asked for as soon as it can be.
    poll(SOON, "readiness without a but", async || {
        tollgate.clock.advance(Duration::from_millis(100));
        tollgate.page("/readyz").await.1.contains(r#""status":"ok""#).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_stands_still_costs_no_more_than_the_deadline() {
    let Some(redis) = RedisServer::start() else { return };
    let tollgate = Tollgate::start(&policy(&redis.url(), "")).await;
    redis.pause();
    let mut decisions = tollgate.decisions().await;
    let asked = tokio::time::Instant::now();
    let answer = decisions.decide(question("GET", "/strict", None)).await.expect("an answer").into_inner();
    // The deadline is 12 ms; the rest is for a busy machine.
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    assert_eq!(answer.detail, "store_away");
    assert_eq!(tollgate.verdict("GET", "/lenient", None).await, "allow");
    redis.resume();
    poll(SOON, "recovery by itself", async || {
        tollgate.clock.advance(Duration::from_millis(100));
        (tollgate.verdict("GET", "/strict", None).await == "allow").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_is_away_at_the_start_is_waited_for() {
    let Some(mut redis) = RedisServer::start() else { return };
    redis.kill();
    let tollgate = Tollgate::start(&policy(&redis.url(), "")).await;
    assert_eq!(tollgate.verdict("GET", "/strict", None).await, "deny store_away");
    assert_eq!(tollgate.verdict("GET", "/free", None).await, "allow");
    redis.restart();
    poll(SOON, "the connection", async || {
        tollgate.clock.advance(Duration::from_millis(100));
        (tollgate.verdict("GET", "/strict", None).await == "allow").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_wrong_password_is_said_without_saying_it() {
    let Some(redis) = RedisServer::start_with(&["--requirepass", "right"]) else { return };
    let tollgate = Tollgate::start(&policy(&redis.url(), ", password: wr0ng-secret")).await;
    assert_eq!(tollgate.verdict("GET", "/strict", None).await, "deny store_away");
    let text = poll(SOON, "the reason", async || {
        let _ = tollgate.verdict("GET", "/strict", None).await;
        tollgate.clock.advance(Duration::from_millis(100));
        let (_, text) = tollgate.page("/readyz").await;
        text.contains("credentials").then_some(text)
    })
    .await;
    assert!(!text.contains("wr0ng-secret"), "{text}");
    let good = Tollgate::start(&policy(&redis.url(), ", password: right")).await;
    poll(SOON, "the right one to do", async || {
        good.clock.advance(Duration::from_millis(100));
        (good.verdict("GET", "/strict", None).await == "allow").then_some(())
    })
    .await;
}

#[tokio::test]
async fn scripts_that_redis_forgot_are_sent_again() {
    let Some(redis) = RedisServer::start() else { return };
    let tollgate = start(&redis).await;
    assert_eq!(redis.command(&["SCRIPT", "FLUSH"]), "OK");
    assert_eq!(tollgate.verdict("GET", "/strict", None).await, "allow");
}

#[tokio::test]
async fn the_store_cannot_be_changed_by_a_reload() {
    let Some(redis) = RedisServer::start() else { return };
    let tollgate = start(&redis).await;
    let refused = tollgate.server.reload(configuration("rules: []")).expect_err("it needs a restart");
    assert!(refused.iter().any(|problem| problem.starts_with("store:")), "{refused:?}");
    assert_eq!(tollgate.verdict("GET", "/strict", None).await, "allow", "everything stays as it was");
}

#[tokio::test]
async fn an_outage_shows_before_anyone_asks() {
    let Some(mut redis) = RedisServer::start() else { return };
    let tollgate = start(&redis).await;
    let (_, text) = tollgate.page("/readyz").await;
    assert!(text.contains(r#""status":"ok""#), "{text}");
    redis.kill();
    poll(SOON, "the outage", async || tollgate.page("/readyz").await.1.contains("degraded").then_some(())).await;
    redis.restart();
    poll(SOON, "the recovery", async || {
        tollgate.clock.advance(Duration::from_millis(100));
        tollgate.page("/readyz").await.1.contains(r#""status":"ok""#).then_some(())
    })
    .await;
}

/// Their counters are told apart by the caller's address, so that they fall on all masters.
fn spread(urls: &[String]) -> String {
    let urls: Vec<String> = urls.iter().map(|url| format!("'{url}'")).collect();
    format!("store: {{ redis: {{ urls: [{}], deadline: 200ms }} }}\n{BY_ADDRESS}", urls.join(", "))
}

const BY_ADDRESS: &str = r"
limits:
  first: { units: 5, window: 10m, by: [source.address] }
  second: { units: 3, window: 10m, by: [source.address] }
rules:
  - match: { path: /both }
    permit: anyone
    limits: [first, second]
  - match: { path: /first }
    permit: anyone
    limits: [first]
";

async fn from_address(tollgate: &Tollgate, path: &str, address: &str) -> pb::DecideResponse {
    let mut asked = question("GET", path, None);
    address.clone_into(&mut asked.request.as_mut().expect("a request").source_address);
    tollgate.decide(asked).await
}

#[tokio::test]
async fn replicas_share_a_cluster_and_pay_limits_on_different_nodes_all_or_none() {
    let Some(cluster) = RedisCluster::masters_with(&[]) else { return };
    let (one, other) =
        (Tollgate::start(&spread(&cluster.urls())).await, Tollgate::start(&spread(&cluster.urls())).await);
    for address in (1..=20).map(|host| format!("192.0.2.{host}")) {
        for (tollgate, left) in [(&one, 2), (&other, 1), (&one, 0)] {
            let answer = from_address(tollgate, "/both", &address).await;
            assert!(answer.allowed, "{answer:?}");
            assert_eq!(answer.quotas[1].remaining, left);
        }
        for tollgate in [&one, &other] {
            assert_eq!(from_address(tollgate, "/both", &address).await.detail, "quota_exceeded");
        }
        // What the first one charged for calls that the second refused is there again.
        let mut admitted = 0;
        poll(SOON, "the units taken back", async || {
            let answer = from_address(&other, "/first", &address).await;
            admitted += u64::from(answer.allowed);
            (admitted == 2).then_some(())
        })
        .await;
        assert!(!from_address(&one, "/first", &address).await.allowed, "never more than the limit");
    }
}

#[tokio::test]
async fn a_dead_master_is_named_and_takes_only_its_own_counters_with_it() {
    let Some(mut cluster) = RedisCluster::masters_with(&[]) else { return };
    let tollgate = Tollgate::start(&spread(&cluster.urls())).await;
    let addresses: Vec<String> = (1..=30).map(|host| format!("192.0.2.{host}")).collect();
    for address in &addresses {
        assert!(from_address(&tollgate, "/first", address).await.allowed);
    }
    let dead = format!("127.0.0.1:{}", cluster.nodes[1].port());
    cluster.nodes[1].kill();
    let (mut served, mut away) = (0, 0);
    for address in &addresses {
        match from_address(&tollgate, "/first", address).await.detail.as_str() {
            "store_away" => away += 1,
            _ => served += 1,
        }
    }
    assert!(served > 5 && away > 1, "{served} were served, {away} were not");
    let (_, text) = poll(SOON, "the node that is away", async || {
        let page = tollgate.page("/readyz").await;
        page.1.contains("degraded").then_some(page)
    })
    .await;
    let state: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let nodes = state["store"]["nodes"].as_array().expect("a list");
    for node in nodes {
        assert_eq!(node["problem"].is_null(), node["node"] != dead.as_str(), "{text}");
    }
    let (_, metrics) = tollgate.page("/metrics").await;
    assert!(metrics.contains(&format!("tollgate_store_up{{node=\"{dead}\"}} 0\n")), "{metrics}");
    assert_eq!(
        metrics.lines().filter(|line| line.starts_with("tollgate_store_up{") && line.ends_with(" 1")).count(),
        2
    );
}

#[tokio::test]
async fn a_master_that_fails_over_is_followed_by_the_sentinels_word() {
    let Some(mut all) = Sentinels::start() else { return };
    let urls: Vec<String> = all.urls().iter().map(|url| format!("'{url}'")).collect();
    let (urls, service) = (urls.join(", "), Sentinels::service());
    let yaml = policy("redis://unused", "");
    let (_, rest) = yaml.trim_start().split_once('\n').expect("the store's line");
    let store =
        format!("store: {{ redis: {{ sentinel: {{ urls: [{urls}], service: {service} }}, deadline: 500ms }} }}");
    let tollgate = Tollgate::start(&format!("{store}\n{rest}")).await;
    assert_eq!(tollgate.verdict("GET", "/strict", None).await, "allow");
    all.servers[0].kill();
    poll(SOON, "the outage", async || {
        (tollgate.verdict("GET", "/strict", None).await == "deny store_away").then_some(())
    })
    .await;
    assert_eq!(tollgate.verdict("GET", "/lenient", None).await, "allow", "as its limit says");
    poll(SOON, "the new master", async || {
        tollgate.clock.advance(Duration::from_millis(100));
        (tollgate.verdict("GET", "/strict", None).await == "allow").then_some(())
    })
    .await;
    let left = tollgate.decide(question("GET", "/strict", None)).await.quotas[0].remaining;
    assert_eq!(left, 0, "the replica knew what was charged before");
}

const HOT: &str = r"
limits:
  hot: { units: 4000, window: 10m, by: [source.address] }
rules:
  - match: { path: /hot }
    permit: anyone
    limits: [hot]
";

/// How often a command was run so far.
pub(crate) fn calls(redis: &RedisServer, command: &str) -> u64 {
    let stats = redis.command(&["INFO", "commandstats"]);
    let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.map_or(0, |line| line.split(',').next().and_then(|calls| calls.parse().ok()).expect("a number"))
}

#[tokio::test]
async fn two_replicas_with_a_hot_key_hardly_ask_redis_and_never_admit_more_than_the_limit() {
    let Some(redis) = RedisServer::start() else { return };
    let yaml = format!("store: {{ redis: {{ urls: ['{}'], deadline: 500ms }} }}\n{HOT}", redis.url());
    let (one, other) = (Tollgate::start(&yaml).await, Tollgate::start(&yaml).await);
    let (mut first, mut second) = (one.decisions().await, other.decisions().await);
    // The clocks stand still, so no lease ends. Each replica beats once a second, and asks at most four times what was
    // revoked, however long this takes.
    let (before, began) = (calls(&redis, "evalsha"), tokio::time::Instant::now());
    let mut admitted = 0_u64;
    for _ in 0..1_250 {
        for replica in [&mut first, &mut second] {
            let answer = replica.decide(question("GET", "/hot", None)).await.expect("an answer").into_inner();
            admitted += u64::from(answer.allowed);
        }
    }
    assert_eq!(admitted, 2_500, "there is room for all");
    let asked = calls(&redis, "evalsha") - before;
    let others = 2 * (1 + 4) * (began.elapsed().as_secs() + 1);
    assert!(asked < 25 + others, "{asked} script calls for 2500 decisions, settlements and {others} others included");
    let leased = one.metric(r#"tollgate_payments_total{by="leases"}"#).await;
    assert!(leased > 1_200.0, "{leased}");
    for _ in 0..1_000 {
        for replica in [&mut first, &mut second] {
            let answer = replica.decide(question("GET", "/hot", None)).await.expect("an answer").into_inner();
            admitted += u64::from(answer.allowed);
        }
    }
    assert!((3_000..=4_000).contains(&admitted), "{admitted}");
    // A stop gives back what is in hand.
    assert!(one.server.stop().await);
}

#[tokio::test]
async fn a_redis_that_may_drop_counters_is_warned_of_once_though_connections_are_made_anew() {
    let Some(redis) = RedisServer::start_with(&["--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru"]) else {
        return;
    };
    let (process, _folder, _) = served(&format!("store: {{ redis: {{ urls: ['{}'] }} }}", redis.url())).await;
    let warnings = |policy: &str| {
        let warns = |line: &&str| line.contains("noeviction") && line.contains(policy);
        process.complaints().lines().filter(warns).count()
    };
    poll(SOON, "the warning", async || (warnings("volatile-lru") == 1).then_some(())).await;
    for policy in ["volatile-lru", "allkeys-lru"] {
        assert_eq!(redis.command(&["CONFIG", "SET", "maxmemory-policy", policy]), "OK");
        assert_eq!(redis.command(&["CLIENT", "KILL", "TYPE", "normal"]), "1");
        // What was asked over it last: by then the policy was.
        let asked = |list: String| ["cmd=info", "cmd=ping", "cmd=evalsha"].iter().any(|last| list.contains(last));
        poll(SOON, "another connection", async || asked(redis.command(&["CLIENT", "LIST"])).then_some(())).await;
    }
    poll(SOON, "the other policy", async || (warnings("allkeys-lru") == 1).then_some(())).await;
    assert_eq!(warnings("volatile-lru"), 1);
}

/// The master has credentials of its own: whose were refused is nothing to guess at.
#[tokio::test]
async fn a_sentinel_that_refuses_who_asks_is_told_by_its_key() {
    let Some(all) = Sentinels::start() else { return };
    let sentinel = &all.sentinels[0];
    assert_eq!(sentinel.command(&["ACL", "SETUSER", "default", "resetpass", ">another"]), "OK");
    for password in ["", ", password: pa55word"] {
        let reach = format!("urls: ['{}'], service: {}{password}", sentinel.url(), Sentinels::service());
        let (process, _folder, _) = served(&format!("store: {{ redis: {{ sentinel: {{ {reach} }} }} }}")).await;
        let key = "store.redis.sentinel.password: 127.0.0.1:";
        let log = poll(SOON, "the key", async || Some(process.complaints()).filter(|log| log.contains(key))).await;
        assert!(!log.contains("pa55word"), "{log}");
    }
}
