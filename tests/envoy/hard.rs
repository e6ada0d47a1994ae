//! What goes wrong, and what is tried: dependencies that are away, headers that are said twice, paths of two readings.

use std::time::Duration;

use tollgate::proto as pb;

use super::{Bench, PATIENT, Setup, claims, token};
use crate::support::authority::Authority;
use crate::support::envoy::{Envoy, Service};
use crate::support::poll;
use crate::support::redis::RedisServer;
use crate::support::server::{SOON, TestClock, Tollgate};

#[tokio::test]
async fn a_redis_that_stands_still_does_not_keep_requests_for_longer_than_envoy_waits() {
    let Some(redis) = RedisServer::start() else { return };
    let store =
        format!("store: {{ redis: {{ urls: ['{}'] }} }}\nrevocation: {{ when_behind: allow }}\nissuers:", redis.url());
    // With the 20 ms of the page.
    let setup = Setup { tollgate: &[("issuers:", &store)], clock: TestClock::running(), ..Setup::default() };
    let Some(bench) = Bench::start(setup).await else { return };
    let bearer = bench.bearer("ann", "orders:read");
    let headers = [bearer.as_str()];
    poll(SOON, "a request that goes on", async || {
        (bench.envoy.get("/api/orders/7", &headers).await.status == 200).then_some(())
    })
    .await;
    let served = bench.service.seen().len();
    assert!(served > 0);
    redis.pause();
    // A new caller: nothing of its quota is in hand.
    let other = bench.bearer("bob", "orders:read");
    let mut told = 0;
    for _ in 0..20 {
        let answer = bench.envoy.get("/api/orders/7", &[&other]).await;
        // A busy machine may miss the 20 ms; then it is Envoy that refuses.
        assert_eq!(answer.status, 503, "{answer:?}");
        told +=
            usize::from(answer.body.contains("could not be found out") && answer.header("retry-after") == Some("1"));
    }
    assert!(told >= 10, "Tollgate itself said so {told} times of 20");
    assert!(bench.service.seen().is_empty());
    redis.resume();
    poll(SOON, "a request that goes on again", async || {
        (bench.envoy.get("/api/orders/7", &[&other]).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_tollgate_no_request_goes_on() {
    let Some(bench) = Bench::start(Setup { envoy: &[PATIENT], ..Setup::default() }).await else { return };
    let Bench { envoy, tollgate, service, signer } = bench;
    let bearer = format!("Authorization: Bearer {}", token(&signer, &tollgate.clock, "ann", "orders:read"));
    assert_eq!(envoy.get("/api/orders/7", &[&bearer]).await.status, 200);
    assert_eq!(service.seen().len(), 1);
    assert!(tollgate.server.stop().await);
    for target in ["/api/orders/7", "/api/public/a"] {
        assert_eq!(envoy.get(target, &[&bearer]).await.status, 503, "{target}");
    }
    assert!(service.seen().is_empty());
    assert_eq!(envoy.get("/healthz", &[]).await.status, 200);
}

#[tokio::test]
async fn what_is_said_twice_is_never_the_first() {
    let Some(bench) = Bench::start(Setup { envoy: &[PATIENT], ..Setup::default() }).await else { return };
    let envoy = &bench.envoy;
    let good = bench.bearer("ann", "orders:read");
    for second in ["Authorization: Bearer x", "authorization: Basic dXNlcjpwYXNz", good.as_str()] {
        let answer = envoy.get("/api/orders/7", &[&good, second]).await;
        assert_eq!(answer.verdict(), "401 malformed_token", "{second}");
    }
    let hosts = envoy.send(b"GET /api/public/a HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n").await;
    assert_eq!((hosts.status, &hosts.json()["violations"][0]["field"]), (400, &"request.host".into()));
    // Envoy itself refuses what it does not read.
    for head in ["x_tollgate_subject: root".to_owned(), format!("x-large: {}", "a".repeat(70_000))] {
        let answer = envoy.get("/api/public/a", &[&head]).await;
        assert!(matches!(answer.status, 400 | 431), "{answer:?}");
        assert!(!answer.body.contains("reason"), "{answer:?}");
    }
    assert!(bench.service.seen().is_empty());
    // Bytes that are no text are handed on, but nobody is taken for somebody by them.
    let raw = envoy
        .send(b"GET /api/public/a HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer \xff\r\nX-Raw: \xe9\r\nX-Raw: b\r\n\r\n")
        .await;
    assert_eq!(raw.verdict(), "200");
    let seen = bench.service.seen();
    assert_eq!(seen[0].all("x-raw"), ["\u{fffd}", "b"]);
    let raw = envoy.send(b"GET /api/orders/a HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer \xff\r\n\r\n").await;
    assert_eq!(raw.verdict(), "401 malformed_token");
}

#[tokio::test]
async fn addresses_are_the_peers_unless_proxies_are_trusted() {
    let rule = "rules:\n  - { match: { path: /at }, permit: anyone, limits: [each] }";
    let limit = "limits:\n  each: { units: 1, window: 1h, by: [source.address] }";
    let counted = [("rules:", rule), ("limits:", limit)];
    for (trusted, verdicts) in
        [("", ["200", "429 quota_exceeded"]), ("gateways: { trusted_hops: 2 }\n", ["200", "200"])]
    {
        let first = format!("{trusted}issuers:");
        let tollgate = [&counted[..], &[("issuers:", first.as_str())]].concat();
        let Some(bench) = Bench::start(Setup { tollgate: &tollgate, envoy: &[PATIENT], ..Setup::default() }).await
        else {
            return;
        };
        let at = async |forwarded: &str| bench.envoy.get("/at", &[&format!("X-Forwarded-For: {forwarded}")]).await;
        // Envoy adds its peer; the client's own entries are before those that are trusted.
        let seen = [
            at("203.0.113.1, 203.0.113.2, 192.0.2.1").await.verdict(),
            at("203.0.113.1, 203.0.113.2, 192.0.2.2").await.verdict(),
        ];
        assert_eq!(seen, verdicts, "{trusted}");
        if !trusted.is_empty() {
            assert_eq!(at("203.0.113.9, 192.0.2.1").await.verdict(), "429 quota_exceeded");
            let odd = at("192.0.2.1, unknown").await;
            assert_eq!((odd.status, &odd.json()["violations"][0]["field"]), (400, &"request.source_address".into()));
        }
    }
}

#[tokio::test]
async fn a_client_is_known_by_the_certificate_that_envoy_verified() {
    let authority = Authority::new("a");
    let folder = tempfile::tempdir().unwrap();
    let server = authority.day(&["localhost"]);
    for (name, text) in [("ca.pem", &authority.pem()), ("server.pem", &server.certificate), ("server.key", &server.key)]
    {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let tollgate = Tollgate::start_with(
        "certificates: { names: ['spiffe://td/**'] }
identity_headers: { x-who: subject }
gateways: { forwarded_certificates: true }
rules: [{ match: { path: /prod }, require: { names: ['spiffe://td/prod/*'] } }, { match: { path: /any } }]",
        TestClock::running(),
    )
    .await;
    let service = Service::start(axum::Router::new()).await;
    let changes = [
        ("# transport_socket", "transport_socket".to_owned()),
        (PATIENT.0, PATIENT.1.to_owned()),
        ("port_value: 50051", format!("port_value: {}", tollgate.server.grpc.port())),
        ("port_value: 8081", format!("port_value: {}", service.address.port())),
    ];
    let Some(envoy) = Envoy::start_in(folder, "ext_authz.yaml", &changes).await else { return };
    let ask = async |name: &str, path: &str| {
        let holder = authority.day(&[name]);
        let identity = reqwest::Identity::from_pem(format!("{}{}", holder.key, holder.certificate).as_bytes()).unwrap();
        let root = reqwest::Certificate::from_pem(authority.pem().as_bytes()).unwrap();
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([root]).identity(identity);
        let client = client.resolve("localhost", envoy.address).timeout(SOON).build().unwrap();
        let url = format!("https://localhost:{}{path}", envoy.address.port());
        // Someone else's, as it might come from outside: Envoy takes it away.
        let forged = "URI=spiffe://td/prod/root;Hash=9ba61d6425303443c0748a02dd8de688468ed33be74eee6556d90c0149c1309e";
        client.get(url).header("x-forwarded-client-cert", forged).send().await.unwrap().status().as_u16()
    };
    assert_eq!(ask("spiffe://td/prod/a", "/prod").await, 200);
    assert_eq!(service.seen()[0].all("x-who"), ["spiffe://td/prod/a"]);
    assert_eq!(ask("spiffe://td/test/a", "/prod").await, 403);
    assert_eq!(ask("spiffe://td/test/a", "/any").await, 200);
    assert_eq!(ask("spiffe://other/a", "/any").await, 401);
}

#[tokio::test]
async fn what_a_call_holds_is_told_to_the_service_and_given_back_by_it() {
    let rule = "rules:\n  - { name: slow, match: { path: /slow }, permit: anyone, limits: [slots] }";
    let limit = "limits:\n  slots: { algorithm: concurrency, units: 1, hold: 30s, by: [rule] }";
    let clock = TestClock::new();
    let setup =
        Setup { tollgate: &[("rules:", rule), ("limits:", limit)], envoy: &[PATIENT], clock, ..Setup::default() };
    let Some(bench) = Bench::start(setup).await else { return };
    let first = bench.envoy.get("/slow", &["x-tollgate-reservation: forged"]).await;
    assert_eq!(first.all("ratelimit-policy"), [r#""slots";q=1;qu="concurrent-requests""#]);
    let [reservation] = &bench.service.seen()[0].all("x-tollgate-reservation")[..] else { panic!("one header") };
    assert_eq!(bench.envoy.get("/slow", &[]).await.verdict(), "429 quota_exceeded");
    let settled = pb::SettleRequest { reservation: reservation.clone(), used: vec![0] };
    bench.tollgate.quotas().await.settle(settled).await.unwrap();
    assert_eq!(bench.envoy.get("/slow", &[]).await.verdict(), "200");
    // Nobody gives this one back: it ends by itself.
    assert_eq!(bench.envoy.get("/slow", &[]).await.verdict(), "429 quota_exceeded");
    bench.tollgate.clock.advance(Duration::from_secs(31));
    assert_eq!(bench.envoy.get("/slow", &[]).await.verdict(), "200");
}

#[tokio::test]
async fn a_token_that_is_bound_to_a_key_is_asked_for_its_proof() {
    let nonces = "dpop: { nonce_secret: 0123456789abcdef0123456789abcdef }\nissuers:";
    let Some(bench) =
        Bench::start(Setup { tollgate: &[("issuers:", nonces)], envoy: &[PATIENT], ..Setup::default() }).await
    else {
        return;
    };
    let thumbprint = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";
    let mut bound = claims(&bench.tollgate.clock, "ann", "orders:read");
    bound["cnf"] = serde_json::json!({ "jkt": thumbprint });
    let token = bench.signer.token(&bound);
    let plain = bench.envoy.get("/api/orders/7", &[&format!("Authorization: Bearer {token}")]).await;
    assert_eq!(plain.verdict(), "401 binding_required");
    let [bearer, dpop] = plain.all("www-authenticate")[..] else { panic!("two challenges: {plain:?}") };
    assert!(bearer.starts_with("Bearer ") && dpop.starts_with("DPoP "), "{plain:?}");
    for proofs in [&[][..], &["DPoP: a.b.c"], &["DPoP: a.b.c", "DPoP: d.e.f"], &["DPoP: \u{e9}"]] {
        let shown = format!("Authorization: DPoP {token}");
        let headers = [&[shown.as_str()], proofs].concat();
        let answer = bench.envoy.get("/api/orders/7", &headers).await;
        assert_eq!(answer.verdict(), "401 invalid_dpop_proof", "{proofs:?}");
        assert!(answer.header("www-authenticate").is_some_and(|value| value.starts_with("DPoP ")), "{answer:?}");
    }
}
