//! A real Envoy whose filter `ratelimit` asks Tollgate.

use std::fs;

use axum::Router;
use futures_util::future::join_all;
use tempfile::TempDir;
use tollgate::decide::ports::Clock as _;
use tollgate::server::dev::DevIssuer;

use super::configured;
use crate::support::envoy::{Envoy, Service};
use crate::support::server::{TestClock, Tollgate};

const SHOP: &str = "
domain: shop
descriptors:
- { key: user, rate_limit: { unit: hour, requests_per_unit: 100 } }
- { key: all, rate_limit: { unit: hour, requests_per_unit: 1000 } }
";

/// An Envoy between a client and a service, and the Tollgate that it asks.
struct Bench {
    envoy: Envoy,
    tollgate: Tollgate,
    service: Service,
}

impl Bench {
    /// With a Tollgate that pays so, and an Envoy that shows a credential with this scope.
    async fn start(of_files: &str, scope: &str) -> Option<Self> {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("shop.yaml"), SHOP).unwrap();
        let issuer = DevIssuer::new().unwrap();
        let issuers = format!(
            "issuers: [{{ issuer: 'https://dev.tollgate.invalid', audiences: [demo], operators: true, jwks: {{ keys: [{}] }} \
             }}]",
            issuer.public_key()
        );
        let tollgate = Tollgate::start_as(configured(&folder, &issuers, of_files), TestClock::new()).await;
        let service = Service::start(Router::new()).await;
        let token = issuer.token("envoy", scope, tollgate.clock.now().wall).unwrap();
        let changes = [
            ("port_value: 50051", format!("port_value: {}", tollgate.server.grpc.port())),
            ("port_value: 8081", format!("port_value: {}", service.address.port())),
            // A machine that is busy with other tests misses 20 ms.
            ("timeout: 0.02s", "timeout: 20s".to_owned()),
            ("# initial_metadata", "initial_metadata".to_owned()),
            ("Bearer TOKEN", format!("Bearer {token}")),
        ];
        let envoy = Envoy::start("ratelimit.yaml", &changes).await?;
        Some(Self { envoy, tollgate, service })
    }

    /// The status, and what is left, as Envoy tells it.
    async fn get(&self, target: &str) -> (u16, String) {
        let answer = self.envoy.get(target, &["X-User: ann"]).await;
        (answer.status, answer.header("x-ratelimit-remaining").unwrap_or("-").to_owned())
    }
}

#[tokio::test]
async fn of_a_thousand_requests_at_a_limit_of_a_hundred_a_hundred_pass_through_envoy() {
    for (of_files, other_pays) in [("mode: strict", 100), ("mode: compatible", 1_000)] {
        let Some(bench) = Bench::start(of_files, "none").await else { return };
        let mut passed = 0;
        for _ in 0..20 {
            for answer in join_all((0..50).map(|_| bench.envoy.get("/orders", &["X-User: ann"]))).await {
                match answer.status {
                    200 => passed += 1,
                    429 => {
                        assert_eq!(answer.header("x-ratelimit-remaining"), Some("0"), "{answer:?}");
                        assert!(
                            answer
                                .header("x-ratelimit-limit")
                                .is_some_and(|limit| limit.starts_with("100, 100;w=3600"))
                        );
                        assert_eq!(answer.header("x-envoy-ratelimited"), Some("true"));
                    }
                    status => panic!("{status}: {answer:?}"),
                }
            }
        }
        assert_eq!((passed, bench.service.seen().len()), (100, 100), "{of_files}");
        // What was refused cost the other limit nothing in the one, and one hit each in the other.
        let within = r#"tollgate_ratelimit_hits_total{domain="shop",limit="all",outcome="within"}"#;
        assert_eq!(bench.tollgate.metric(within).await.to_string(), other_pays.to_string(), "{of_files}");
    }
}

#[tokio::test]
async fn what_envoy_gives_back_is_there_again_if_it_may_give_back() {
    for of_files in ["mode: strict", "mode: compatible"] {
        let Some(bench) = Bench::start(of_files, "tollgate:quota").await else { return };
        assert_eq!(bench.get("/reports/1").await, (200, "95".to_owned()), "{of_files}");
        assert_eq!(bench.get("/cancelled/1").await, (200, "100".to_owned()), "{of_files}");
        let Some(bench) = Bench::start(of_files, "other").await else { return };
        assert_eq!(bench.get("/reports/1").await, (200, "95".to_owned()));
        assert_eq!(bench.get("/cancelled/1").await.0, 500, "Envoy is told that it may not, and denies");
        assert_eq!(bench.get("/reports/1").await, (200, "90".to_owned()));
    }
}

#[tokio::test]
async fn bytes_that_are_no_text_are_limited_like_any_others() {
    let Some(bench) = Bench::start("mode: strict", "none").await else { return };
    let ask = async |user: &[u8]| {
        let request = [b"GET /reports/1 HTTP/1.1\r\nHost: a\r\nX-User: ", user, b"\r\n\r\n"].concat();
        bench.envoy.send(&request).await
    };
    for (user, left) in
        [(&b"\xff"[..], "95"), (b"\xfe", "90"), (b"\xff", "85"), (b"ann\xff", "95"), ("ä".as_bytes(), "95")]
    {
        let answer = ask(user).await;
        assert_eq!((answer.status, answer.header("x-ratelimit-remaining")), (200, Some(left)), "{user:?}");
    }
}
