//! A real Envoy whose filter `ext_authz` asks Tollgate, with the configuration that docs/gateways/envoy.md shows.

mod grpc;
mod guards;
mod hard;
mod messages;
mod paths;

use std::sync::Arc;

use axum::Router;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::envoy::{Envoy, Service};
use crate::support::root;
use crate::support::server::{TestClock, Tollgate};
use crate::support::signer::Signer;
use tollgate::decide::ports::Clock as _;

/// An Envoy between a client and a service, and the Tollgate that it asks.
struct Bench {
    envoy: Envoy,
    tollgate: Tollgate,
    service: Service,
    signer: Signer,
}

/// What a test has otherwise than the page shows it.
struct Setup<'a> {
    /// Lines of Tollgate's configuration: what stands left is replaced by what stands right.
    tollgate: &'a [(&'a str, &'a str)],
    /// The same for Envoy's.
    envoy: &'a [(&'a str, &'a str)],
    clock: Arc<TestClock>,
    /// What the service does besides.
    service: Router,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self { tollgate: &[], envoy: &[], clock: TestClock::new(), service: Router::new() }
    }
}

/// A machine that is busy with other tests misses the 20 ms of the page.
const PATIENT: (&str, &str) = ("timeout: 0.02s", "timeout: 20s");

/// Has Envoy wait for bodies.
const WITH_BODY: (&str, &str) = ("# with_request_body", "with_request_body");

impl Bench {
    async fn start(setup: Setup<'_>) -> Option<Self> {
        let signer = Signer::ec("k");
        let yaml = policy(&signer, setup.tollgate);
        Self::start_by(&yaml, signer, setup).await
    }

    /// With a Tollgate that is configured by `yaml` instead.
    async fn start_by(
        yaml: &str,
        signer: Signer,
        Setup { tollgate: _, envoy, clock, service }: Setup<'_>,
    ) -> Option<Self> {
        let tollgate = Tollgate::start_with(yaml, clock).await;
        let service = Service::start(service).await;
        let port = |standing: u16, real: u16| (format!("port_value: {standing}"), format!("port_value: {real}"));
        let ports = [port(50051, tollgate.server.grpc.port()), port(8081, service.address.port())];
        let mut changes: Vec<(&str, String)> = ports.iter().map(|(old, new)| (old.as_str(), new.clone())).collect();
        changes.extend(envoy.iter().map(|(old, new)| (*old, (*new).to_owned())));
        let envoy = Envoy::start("ext_authz.yaml", &changes).await?;
        Some(Self { envoy, tollgate, service, signer })
    }

    /// The header by which `subject` shows a token with these scopes.
    fn bearer(&self, subject: &str, scopes: &str) -> String {
        format!("Authorization: Bearer {}", token(&self.signer, &self.tollgate.clock, subject, scopes))
    }
}

fn policy(signer: &Signer, changes: &[(&str, &str)]) -> String {
    let mut yaml = std::fs::read_to_string(root().join("tests/envoy/tollgate.yaml")).unwrap();
    let jwks = format!("audiences: [orders], jwks: {{ keys: [{}] }}", signer.jwk());
    for (old, new) in [("audiences: [orders]", jwks.as_str())].iter().chain(changes) {
        assert!(yaml.contains(old), "the file has no `{old}`");
        yaml = yaml.replacen(old, new, 1);
    }
    yaml
}

fn token(signer: &Signer, clock: &TestClock, subject: &str, scopes: &str) -> String {
    signer.token(&claims(clock, subject, scopes))
}

fn claims(clock: &TestClock, subject: &str, scopes: &str) -> Value {
    let now = clock.now().wall.as_secs();
    json!({
        "iss": "https://auth.example", "aud": "orders", "sub": subject, "client_id": "shop", "scope": scopes,
        "iat": now, "exp": now + 600,
    })
}

#[tokio::test]
async fn the_service_behind_learns_who_calls_and_nothing_forged() {
    let Some(mut bench) = Bench::start(Setup { envoy: &[PATIENT], ..Setup::default() }).await else { return };
    let bearer = bench.bearer("ann", "orders:read");
    let forged = [
        "X-Tollgate-Subject: root",
        "X-Tollgate-Subject: admin",
        "x-tollgate-SCOPES: all",
        "x-tollgate-reservation: x",
    ];
    let answer = bench.envoy.get("/api/orders/7?x=1", &[&[bearer.as_str()], &forged[..]].concat()).await;
    assert_eq!(answer.verdict(), "200");
    let [seen] = &bench.service.seen()[..] else { panic!("one request") };
    assert_eq!(seen.target, "/api/orders/7?x=1");
    assert_eq!(seen.all("x-tollgate-subject"), ["ann"]);
    assert_eq!(seen.all("x-tollgate-scopes"), ["orders:read"]);
    assert_eq!(seen.all("x-tollgate-reservation"), [""; 0]);
    // An anonymous caller, and one whose token is not accepted, has no name.
    for shown in ["Authorization: Bearer nonsense", "x-a: b"] {
        let answer = bench.envoy.get("/api/public/a", &[&[shown], &forged[..]].concat()).await;
        assert_eq!(answer.verdict(), "200");
        let [seen] = &bench.service.seen()[..] else { panic!("one request") };
        let told = [seen.all("x-tollgate-subject"), seen.all("x-tollgate-scopes"), seen.all("x-tollgate-reservation")];
        assert_eq!(told.concat(), [""; 0], "{shown}");
    }
    // What filters and logs behind may know.
    assert_eq!(
        bench.envoy.decision().await,
        json!({
            "reason": "allowed", "rule": "orders", "issuer": "https://auth.example", "subject": "ann", "client": "shop",
            "scopes": ["orders:read"], "remaining": { "per-client": 99 },
        })
    );
    assert_eq!(bench.envoy.decision().await, json!({ "reason": "allowed", "rule": "public" }));
}

#[tokio::test]
async fn the_client_learns_where_it_stands_beside_what_the_service_says() {
    let Some(bench) = Bench::start(Setup { envoy: &[PATIENT], ..Setup::default() }).await else { return };
    let answer = bench.envoy.get("/api/orders/7", &[&bench.bearer("ann", "orders:read")]).await;
    assert_eq!(answer.all("ratelimit-policy"), [r#""per-client";q=100;w=60"#]);
    assert_eq!(answer.all("ratelimit"), [r#""own";r=1"#, r#""per-client";r=99;t=62"#]);
    assert_eq!(answer.body, "served 0 bytes");
}

#[tokio::test]
async fn whoever_may_not_is_told_why_and_nothing_reaches_the_service() {
    let Some(mut bench) = Bench::start(Setup { envoy: &[PATIENT], ..Setup::default() }).await else { return };
    let envoy = &bench.envoy;
    let nobody = envoy.get("/api/orders/7", &[]).await;
    assert_eq!(nobody.verdict(), "401 no_credential");
    assert_eq!(nobody.header("www-authenticate"), Some(r#"Bearer realm="tollgate""#));
    assert_eq!(nobody.header("content-type"), Some("application/problem+json"));
    assert_eq!(nobody.header("cache-control"), Some("no-store"));
    assert_eq!(
        nobody.json(),
        json!({
            "type": "about:blank", "title": "Unauthorized", "status": 401, "reason": "no_credential",
            "detail": "The rule demands a caller who is authenticated, and no credential was shown.",
        })
    );
    let bad = envoy.get("/api/orders/7", &["Authorization: Bearer a.b.c"]).await;
    assert_eq!(bad.verdict(), "401 malformed_token");
    assert!(bad.header("www-authenticate").is_some_and(|value| value.contains(r#"error="invalid_token""#)), "{bad:?}");
    let poor = envoy.get("/api/orders/7", &[&bench.bearer("ann", "other")]).await;
    assert_eq!(poor.verdict(), "403 insufficient_scope");
    assert!(poor.header("www-authenticate").is_some_and(|value| value.ends_with(r#"scope="orders:read""#)), "{poor:?}");
    assert_eq!(
        envoy.get("/api/admin/x", &[&bench.bearer("ann", "orders:read")]).await.verdict(),
        "403 insufficient_role"
    );
    assert_eq!(envoy.get("/elsewhere", &[]).await.verdict(), "403 no_rule");
    assert!(bench.service.seen().is_empty());
    assert_eq!(bench.envoy.decision().await, json!({ "reason": "no_credential", "rule": "orders" }));
    // Nobody is asked about this one.
    assert_eq!(bench.envoy.get("/healthz", &[]).await.status, 200);
}

#[tokio::test]
async fn of_a_thousand_requests_at_a_limit_of_a_hundred_a_hundred_pass() {
    let Some(bench) = Bench::start(Setup { envoy: &[PATIENT], ..Setup::default() }).await else { return };
    let bearer = bench.bearer("ann", "orders:read");
    let headers = [bearer.as_str()];
    let mut passed = 0;
    for _ in 0..20 {
        let answers = join_all((0..50).map(|_| bench.envoy.get("/api/orders/7", &headers))).await;
        for answer in answers {
            if answer.status == 200 {
                passed += 1;
                continue;
            }
            assert_eq!(answer.verdict(), "429 quota_exceeded");
            assert_eq!(answer.header("ratelimit"), Some(r#""per-client";r=0;t=62"#), "{answer:?}");
            assert_eq!(answer.header("retry-after"), Some("62"));
            assert_eq!(answer.json()["violated-policies"], json!(["per-client"]));
        }
    }
    assert_eq!((passed, bench.service.seen().len()), (100, 100));
    for (outcome, reason, times) in [("allow", "allowed", 100.0), ("deny", "quota_exceeded", 900.0)] {
        let counted = bench.tollgate.metric(&decisions(outcome, reason, "orders")).await;
        assert!((counted - times).abs() < 0.5, "{reason}: {counted}");
    }
}

fn decisions(outcome: &str, reason: &str, rule: &str) -> String {
    format!(
        "tollgate_decisions_total{{facade=\"ext_authz\",outcome=\"{outcome}\",reason=\"{reason}\",rule=\"{rule}\"}}"
    )
}

#[tokio::test]
async fn a_route_demands_more_than_the_rule() {
    let Some(bench) = Bench::start(Setup { envoy: &[PATIENT], ..Setup::default() }).await else { return };
    // The rule demands a caller only, and no quota.
    let poor = bench.envoy.get("/api/exports/a", &[&bench.bearer("ann", "orders:read")]).await;
    assert_eq!(poor.verdict(), "403 insufficient_scope");
    assert!(poor.header("www-authenticate").is_some_and(|value| value.ends_with(r#"scope="exports:run""#)), "{poor:?}");
    let bearer = bench.bearer("ann", "exports:run");
    for left in [5, 0] {
        let answer = bench.envoy.get("/api/exports/a", &[&bearer]).await;
        assert_eq!(answer.all("ratelimit")[1], format!(r#""exports";r={left};t=3713"#));
    }
    assert_eq!(bench.envoy.get("/api/exports/a", &[&bearer]).await.verdict(), "429 quota_exceeded");
}

#[tokio::test]
async fn what_a_route_says_wrongly_is_answered_and_named() {
    for (said, key, wrong) in [
        ("tollgate.limits: exports=5", "tollgate.limits: exports=0", "tollgate.limits"),
        ("tollgate.limits: exports=5", "tollgate.limits: nosuch", "tollgate.limits"),
        ("tollgate.limits: exports=5", "tollgate.limit: exports", "tollgate.limit"),
        ("route: exports", "tollgate.units: \"-1\"", "tollgate.units"),
    ] {
        let Some(bench) = Bench::start(Setup { envoy: &[PATIENT, (said, key)], ..Setup::default() }).await else {
            return;
        };
        let answer = bench.envoy.get("/api/exports/a", &[&bench.bearer("ann", "exports:run")]).await;
        assert_eq!(answer.status, 400, "{key}: {answer:?}");
        assert_eq!(answer.json()["violations"][0]["field"], format!("context_extensions[\"{wrong}\"]"));
        assert!(bench.service.seen().is_empty());
    }
}

#[tokio::test]
async fn the_page_shows_the_files_that_are_tested() {
    let page = std::fs::read_to_string(root().join("docs/gateways/envoy.md")).unwrap();
    for file in ["ext_authz.yaml", "tollgate.yaml"] {
        let text = std::fs::read_to_string(root().join("tests/envoy").join(file)).unwrap();
        assert!(page.contains(&format!("```yaml\n{text}```")), "docs/gateways/envoy.md does not have {file}");
    }
}
