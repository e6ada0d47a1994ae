//! Envoy's rate limit service over real sockets: in memory, in a real Redis and on a cluster, beside envoyproxy/ratelimit
//! itself, and with anything that a client may send.

mod beside;
mod bytes;
mod envoy;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;
use tollgate::config::Config;
use tollgate::decide::ports::Clock as _;
use tollgate::proto::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use tollgate::proto::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::{Entry, RateLimitOverride};
use tollgate::proto::envoy::service::ratelimit::v3::rate_limit_response::{Code as Room, DescriptorStatus};
use tollgate::proto::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use tollgate::proto::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use tollgate::server::dev::DevIssuer;
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::calls::{as_operator, fields};
use crate::support::poll;
use crate::support::redis::{RedisCluster, RedisServer};
use crate::support::server::{SOON, TestClock, Tollgate, configuration, in_redis};

const STRICT: &str = "
domain: strict
descriptors:
- { key: user, rate_limit: { unit: year, requests_per_unit: 100 } }
- { key: all, rate_limit: { unit: year, requests_per_unit: 10000 } }
- { key: small, rate_limit: { unit: year, requests_per_unit: 5 } }
- { key: watched, shadow_mode: true, rate_limit: { unit: year, requests_per_unit: 5 } }
- { key: local, rate_limit: { unit: year, requests_per_unit: 5 } }
";

const COMPATIBLE: &str = "
domain: compatible
descriptors:
- { key: user, rate_limit: { name: per-user, unit: year, requests_per_unit: 10 } }
- { key: all, rate_limit: { unit: year, requests_per_unit: 1000 } }
- { key: watched, shadow_mode: true, rate_limit: { unit: year, requests_per_unit: 2 } }
- { key: free, rate_limit: { unlimited: true } }
";

/// A Tollgate, and the files that it reads.
struct Bench {
    one: Tollgate,
    folder: TempDir,
    more: String,
}

impl Bench {
    /// With these sections of the configuration besides.
    async fn start(more: &str) -> Self {
        Self::start_with(more, TestClock::new()).await
    }

    async fn start_with(more: &str, clock: Arc<TestClock>) -> Self {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("strict.yaml"), STRICT).unwrap();
        fs::write(folder.path().join("compatible.yaml"), COMPATIBLE).unwrap();
        let one = Tollgate::start_as(configured(&folder, more, DOMAINS), clock).await;
        Self { one, folder, more: more.to_owned() }
    }

    async fn client(&self) -> RateLimitServiceClient<Channel> {
        RateLimitServiceClient::new(self.one.channel().await)
    }

    async fn ask(&self, request: RateLimitRequest) -> RateLimitResponse {
        let answer = self.client().await.should_rate_limit(request).await;
        answer.unwrap_or_else(|status| panic!("{status:?}")).into_inner()
    }
}

/// What is configured by the files of a folder, with this said of them.
fn configured(folder: &TempDir, more: &str, of_files: &str) -> Config {
    let files = folder.path().display();
    configuration(&format!("{more}\nenvoy_ratelimit: {{ files: ['{files}/*.yaml'], {of_files} }}\n"))
}

/// How the two domains are paid.
const DOMAINS: &str = "domains: { compatible: { mode: compatible } }";

fn descriptor(entries: &[(&str, &str)]) -> RateLimitDescriptor {
    let entry = |&(key, value): &(&str, &str)| Entry { key: key.into(), value: value.into() };
    RateLimitDescriptor { entries: entries.iter().map(entry).collect(), ..RateLimitDescriptor::default() }
}

fn hits(entries: &[(&str, &str)], hits: u64) -> RateLimitDescriptor {
    RateLimitDescriptor { hits_addend: Some(hits), ..descriptor(entries) }
}

fn request(domain: &str, descriptors: impl IntoIterator<Item = RateLimitDescriptor>) -> RateLimitRequest {
    RateLimitRequest { domain: domain.to_owned(), descriptors: descriptors.into_iter().collect(), hits_addend: 0 }
}

/// `OK`, or `OVER_LIMIT`, and the same of each descriptor with what is left.
fn told(answer: &RateLimitResponse) -> String {
    let name = |code| Room::try_from(code).unwrap().as_str_name();
    let status = |status: &DescriptorStatus| format!("{} {}", name(status.code), status.limit_remaining);
    let statuses: Vec<String> = answer.statuses.iter().map(status).collect();
    format!("{}: {}", name(answer.overall_code), statuses.join(", "))
}

fn passes(answer: &RateLimitResponse) -> bool {
    answer.overall_code == i32::from(Room::Ok)
}

/// Of 1,000 calls by several callers at a time 100 pass, and those that do not cost the other limit nothing.
async fn exactly_100_of_1000_pass(store: &str) {
    let bench = Bench::start_with(store, TestClock::running()).await;
    let both = || request("strict", [descriptor(&[("user", "ann")]), descriptor(&[("all", "")])]);
    let callers = (0..8).map(|_| async {
        let mut client = bench.client().await;
        let mut passed = 0;
        for _ in 0..125 {
            passed += usize::from(passes(&client.should_rate_limit(both()).await.unwrap().into_inner()));
        }
        passed
    });
    let passed: Vec<usize> = futures_util::future::join_all(callers).await;
    assert_eq!(passed.iter().sum::<usize>(), 100, "{passed:?}");
    assert_eq!(told(&bench.ask(both()).await).split(',').next(), Some("OVER_LIMIT: OVER_LIMIT 0"));
    // On a cluster what the other limit charged in vain is given back a moment later.
    poll(SOON, "9,900 are left of the other limit", async || {
        let answer = bench.ask(request("strict", [hits(&[("all", "")], 0)])).await;
        (told(&answer) == "OK: OK 9900").then_some(())
    })
    .await;
    let series = r#"tollgate_ratelimit_hits_total{domain="strict",limit="user",outcome="within"}"#;
    assert_eq!(bench.one.metric(series).await.to_string(), "100");
    let (took, hits) =
        (r#"tollgate_decision_duration_seconds_count{facade="ratelimit"}"#, bench.one.metric(series).await);
    assert!(bench.one.metric(took).await > hits, "every answer is timed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_100_of_1000_pass_in_memory() {
    exactly_100_of_1000_pass("").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_100_of_1000_pass_in_redis() {
    let Some(redis) = RedisServer::start() else { return };
    exactly_100_of_1000_pass(&in_redis(&redis)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_100_of_1000_pass_on_a_cluster() {
    let Some(cluster) = RedisCluster::masters_with(&[]) else { return };
    exactly_100_of_1000_pass(&spread(&cluster)).await;
}

fn spread(cluster: &RedisCluster) -> String {
    format!("store: {{ redis: {{ urls: {:?}, deadline: 5s }} }}", cluster.urls())
}

/// What a compatible domain answers, and what a strict one answers to the same.
async fn hits_that_are_refused_count_only_where_they_do_at_envoyproxy(store: &str) {
    let bench = Bench::start_with(store, TestClock::running()).await;
    let ask = async |domain, descriptors: &[RateLimitDescriptor]| {
        told(&bench.ask(request(domain, descriptors.iter().cloned())).await)
    };
    let (user, all) = (|units| hits(&[("user", "ann")], units), || descriptor(&[("all", "")]));
    assert_eq!(ask("compatible", &[user(7), all()]).await, "OK: OK 3, OK 999");
    assert_eq!(ask("compatible", &[user(3), all()]).await, "OK: OK 0, OK 998");
    assert_eq!(ask("compatible", &[user(0)]).await, "OK: OK 0");
    assert_eq!(ask("compatible", &[user(1), all()]).await, "OVER_LIMIT: OVER_LIMIT 0, OK 997");
    assert_eq!(ask("compatible", &[user(0)]).await, "OVER_LIMIT: OVER_LIMIT 0");
    assert_eq!(ask("compatible", &[user(u64::MAX)]).await, "OVER_LIMIT: OVER_LIMIT 0");
    let watched = || hits(&[("watched", "")], 2);
    assert_eq!(ask("compatible", &[watched()]).await, "OK: OK 0");
    assert_eq!(ask("compatible", &[watched(), descriptor(&[("free", "")])]).await, "OK: OK 0, OK 4294967295");
    assert_eq!(ask("compatible", &[descriptor(&[("nothing", "")]), descriptor(&[])]).await, "OK: OK 0, OK 0");

    let small = |units| hits(&[("small", "ann")], units);
    assert_eq!(ask("strict", &[small(3), all()]).await, "OK: OK 2, OK 9999");
    assert_eq!(ask("strict", &[small(3), all()]).await, "OVER_LIMIT: OVER_LIMIT 2, OK 9999");
    assert_eq!(ask("strict", &[small(u64::MAX)]).await, "OVER_LIMIT: OVER_LIMIT 0");
    assert_eq!(ask("strict", &[small(0)]).await, "OK: OK 2");
    assert_eq!(ask("strict", &[small(2)]).await, "OK: OK 0");
    assert_eq!(
        ask("strict", &[small(0), all()]).await,
        "OVER_LIMIT: OVER_LIMIT 0, OK 9999",
        "no room, and nothing paid"
    );
    let watched = || hits(&[("watched", "")], 3);
    assert_eq!(ask("strict", &[watched(), all()]).await, "OK: OK 2, OK 9998");
    assert_eq!(ask("strict", &[watched(), all()]).await, "OK: OK 2, OK 9997");
    assert_eq!(ask("nowhere", &[small(1)]).await, "OK: OK 0");
}

#[tokio::test]
async fn hits_that_are_refused_count_only_where_they_do_at_envoyproxy_in_memory() {
    hits_that_are_refused_count_only_where_they_do_at_envoyproxy("").await;
}

#[tokio::test]
async fn hits_that_are_refused_count_only_where_they_do_at_envoyproxy_in_redis() {
    let Some(redis) = RedisServer::start() else { return };
    hits_that_are_refused_count_only_where_they_do_at_envoyproxy(&in_redis(&redis)).await;
}

#[tokio::test]
async fn hits_that_are_refused_count_only_where_they_do_at_envoyproxy_on_a_cluster() {
    let Some(cluster) = RedisCluster::masters_with(&[]) else { return };
    hits_that_are_refused_count_only_where_they_do_at_envoyproxy(&spread(&cluster)).await;
}

#[tokio::test]
async fn a_status_tells_the_limit_and_when_its_window_ends_in_whole_seconds() {
    // Half a second after the year began, as envoyproxy/ratelimit counts years.
    const YEAR: u64 = 365 * 24 * 60 * 60;
    let clock = TestClock::at(56 * YEAR);
    clock.advance(std::time::Duration::from_millis(500));
    let bench = Bench::start_with("", clock).await;
    let answer = bench.ask(request("compatible", [descriptor(&[("user", "ann")])])).await;
    let status = &answer.statuses[0];
    let limit = status.current_limit.as_ref().unwrap();
    assert_eq!((limit.requests_per_unit, limit.unit, limit.name.as_str()), (10, 6, "per-user"));
    let reset = status.duration_until_reset.unwrap();
    assert_eq!((u64::try_from(reset.seconds).unwrap(), reset.nanos), (YEAR, 0));
    assert!(answer.response_headers_to_add.is_empty(), "as there, unless they are asked for");
}

#[tokio::test]
async fn a_request_that_makes_no_sense_is_told_why_and_one_that_is_odd_is_answered() {
    let bench = Bench::start("").await;
    let brought = |unit| RateLimitDescriptor {
        limit: Some(RateLimitOverride { requests_per_unit: 3, unit }),
        ..descriptor(&[("user", "ann")])
    };
    let some = || descriptor(&[("user", "ann")]);
    for (asked, wrong) in [
        (request("", [some()]), vec!["domain"]),
        (request("strict", []), vec!["descriptors"]),
        (request("", []), vec!["domain", "descriptors"]),
        (request("strict", std::iter::repeat_with(some).take(129)), vec!["descriptors"]),
        (request("", std::iter::repeat_with(some).take(129)), vec!["domain", "descriptors"]),
        (
            request("strict", [some(), brought(0), brought(8), brought(-1)]),
            vec!["descriptors[1].limit.unit", "descriptors[2].limit.unit", "descriptors[3].limit.unit"],
        ),
    ] {
        let status = bench.client().await.should_rate_limit(asked).await.expect_err("it makes no sense");
        assert_eq!(
            (status.code(), fields(&status)),
            (Code::InvalidArgument, wrong.into_iter().map(str::to_owned).collect())
        );
    }
    let malformed = r#"tollgate_questions_malformed_total{facade="ratelimit"}"#;
    assert_eq!(bench.one.metric(malformed).await.to_string(), "6");

    let many: Vec<(String, String)> = (0..10_000).map(|entry| (format!("key-{entry}"), entry.to_string())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let large = "x".repeat(1 << 20);
    for (asked, answer) in [
        (request("strict", [descriptor(&[]), descriptor(&many)]), "OK: OK 0, OK 0"),
        (request("strict", [descriptor(&[("user", &large)])]), "OK: OK 99"),
        (request("strict", [descriptor(&[("", "")]), descriptor(&[("user", "\u{0}\r\n")])]), "OK: OK 0, OK 99"),
        (request("strict", (0..128).map(|_| some())), "OVER_LIMIT: "),
        (request("compatible", [brought(7), brought(1)]), "OK: OK 2, OK 2"),
        (request("strict", [RateLimitDescriptor { entries: vec![], ..brought(2) }]), "OK: OK 2"),
    ] {
        assert!(told(&bench.ask(asked).await).starts_with(answer), "{answer}");
    }
}

#[tokio::test]
async fn a_number_of_the_request_is_for_descriptors_that_have_none() {
    let bench = Bench::start("").await;
    let asked = RateLimitRequest {
        hits_addend: 4,
        ..request("strict", [descriptor(&[("user", "ann")]), hits(&[("small", "ann")], 1)])
    };
    assert_eq!(told(&bench.ask(asked).await), "OK: OK 96, OK 4");
}

#[tokio::test]
async fn whoever_takes_hits_back_needs_the_scope_that_refunds_need() {
    let issuer = DevIssuer::new().expect("the system has randomness");
    let issuers = format!(
        "issuers: [{{ issuer: 'https://dev.tollgate.invalid', audiences: [demo], operators: true, jwks: {{ keys: [{}] }} }}]",
        issuer.public_key()
    );
    let bench = Bench::start(&issuers).await;
    let token = |scope| issuer.token("envoy", scope, bench.one.clock.now().wall).expect("the system has randomness");
    for (domain, left) in [("strict", "OK: OK 99"), ("compatible", "OK: OK 9")] {
        bench.ask(request(domain, [hits(&[("user", "ann")], 5)])).await;
        let back = RateLimitDescriptor { is_negative_hits: true, ..hits(&[("user", "ann")], 4) };
        let asked = || request(domain, [back.clone()]);
        let mut client = bench.client().await;
        let refused = client.should_rate_limit(asked()).await.expect_err("anyone could lift limits");
        assert_eq!(refused.code(), Code::Unauthenticated);
        let refused = client.should_rate_limit(as_operator(asked(), &token("other"))).await;
        assert_eq!(refused.expect_err("it lacks the scope").code(), Code::PermissionDenied);
        // Who may not learns no more than that.
        let unit = RateLimitOverride { requests_per_unit: 1, unit: 99 };
        let malformed = RateLimitDescriptor { limit: Some(unit), ..back.clone() };
        let refused = client.should_rate_limit(request(domain, [malformed.clone()])).await;
        assert_eq!(refused.expect_err("nobody may who shows nothing").code(), Code::Unauthenticated);
        let malformed = as_operator(request(domain, [malformed]), &token("tollgate:quota"));
        assert_eq!(fields(&client.should_rate_limit(malformed).await.unwrap_err()), ["descriptors[0].limit.unit"]);
        let answer = client.should_rate_limit(as_operator(asked(), &token("tollgate:quota"))).await;
        assert_eq!(told(&answer.expect("an operator may").into_inner()), left);
    }
}

#[tokio::test]
async fn while_redis_is_gone_each_limit_says_what_becomes_of_its_requests_and_it_comes_back() {
    let Some(mut redis) = RedisServer::start() else { return };
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("strict.yaml"), STRICT).unwrap();
    fs::write(folder.path().join("compatible.yaml"), COMPATIBLE).unwrap();
    let read = |strict, compatible| {
        let domains = format!(
            "domains: {{ strict: {{ when_away: {strict} }}, compatible: {{ mode: compatible, when_away: {compatible} }} }}"
        );
        configured(&folder, &in_redis(&redis), &domains)
    };
    let (first, second, third) = (read("deny", "allow"), read("allow", "deny"), read("local", "local"));
    let one = Tollgate::start_as(first, TestClock::running()).await;
    let ask = async |domain| {
        let mut client = RateLimitServiceClient::new(one.channel().await);
        let small = if domain == "strict" { "small" } else { "user" };
        let asked = request(domain, [hits(&[(small, "x")], 5)]);
        passes(&client.should_rate_limit(asked).await.expect("an answer").into_inner())
    };
    assert!(ask("strict").await && ask("compatible").await);
    redis.kill();
    assert_eq!((ask("strict").await, ask("compatible").await), (false, true));
    one.server.reload(second).unwrap();
    assert_eq!((ask("strict").await, ask("compatible").await), (true, false));
    one.server.reload(third).unwrap();
    // A share of its own, and no more.
    assert_eq!((ask("strict").await, ask("strict").await), (true, false));
    assert_eq!((ask("compatible").await, ask("compatible").await, ask("compatible").await), (true, true, false));
    assert!(one.metric("tollgate_local_units_total").await >= 15.0);
    redis.restart();
    poll(SOON, "the store is asked again", async || {
        let (_, page) = one.page("/readyz").await;
        (!ask("strict").await && page.contains(r#""status":"ok""#)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_changes_the_limits_while_they_are_asked_and_what_was_counted_counts_on() {
    let bench = Bench::start("").await;
    let done = AtomicBool::new(false);
    let asking = async {
        let mut client = bench.client().await;
        let mut answers = 0_u64;
        while !done.load(Ordering::Relaxed) {
            let asked = request("strict", [descriptor(&[("all", "")])]);
            let answer = client.should_rate_limit(asked).await.expect("each is answered, by the old files or the new");
            assert!(passes(&answer.into_inner()));
            answers += 1;
        }
        answers
    };
    let changing = async {
        bench.ask(request("strict", [hits(&[("small", "ann")], 5)])).await;
        for units in [50, 5, 50, 7] {
            let changed = STRICT.replace("requests_per_unit: 5 ", &format!("requests_per_unit: {units} "));
            fs::write(bench.folder.path().join("strict.yaml"), changed).unwrap();
            bench.one.server.reload(configured(&bench.folder, &bench.more, DOMAINS)).unwrap();
            let answer = bench.ask(request("strict", [hits(&[("small", "ann")], 1)])).await;
            assert_eq!(passes(&answer), units == 50, "{units}: {answer:?}");
        }
        done.store(true, Ordering::Relaxed);
    };
    let (answers, ()) = tokio::join!(asking, changing);
    let left = told(&bench.ask(request("strict", [hits(&[("all", "")], 0)])).await);
    assert_eq!(left, format!("OK: OK {}", 10_000 - answers));
}

#[tokio::test]
async fn health_checks_know_the_service() {
    let bench = Bench::start("").await;
    let mut health = HealthClient::new(bench.one.channel().await);
    let service = "envoy.service.ratelimit.v3.RateLimitService".to_owned();
    let answer = health.check(HealthCheckRequest { service }).await.expect("it has a status").into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
}
