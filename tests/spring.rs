//! Spring as docs/gateways/spring.md has it: the applications of deploy/examples/spring, as Maven made them, with a real
//! Tollgate that has the policy beside them.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use reqwest::{Method, Response};
use serde_json::{Value, json};
use tollgate::decide::ports::Clock as _;

use crate::support::server::Tollgate;
use crate::support::signer::Signer;
use crate::support::{Process, poll, root};

const POLICY: &str = include_str!("../deploy/examples/spring/tollgate.yaml");
const ISSUER: &str = "https://auth.example.com/realms/shop";
const SECRET: &str = "a secret of these tests";

/// A JVM on a busy machine takes its time.
const STARTED: Duration = Duration::from_mins(2);

/// A revocation is in force everywhere within it.
const A_SECOND: Duration = Duration::from_secs(1);

/// Where scripts/test puts what Maven made; none where there is no Maven.
fn jar(name: &str) -> Option<PathBuf> {
    let jar = root().join(format!("target/tools/spring/{name}.jar"));
    let skipped = std::env::var_os("TOLLGATE_TEST_SKIP_SPRING").is_some();
    assert!(jar.is_file() || skipped, "{} is not there: run scripts/test --install", jar.display());
    (!skipped).then_some(jar)
}

/// An application that runs until this is dropped.
struct Application {
    address: SocketAddr,
    process: Process,
}

impl Application {
    async fn start(name: &str, environment: &[(&str, String)]) -> Option<Self> {
        let jar = jar(name)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let mut command = Command::new("java");
        command.args(["-Xmx128m", "-XX:TieredStopAtLevel=1", "-jar"]).arg(jar).env("PORT", address.port().to_string());
        command.envs(environment.iter().map(|(name, value)| (name, value.as_str())));
        let process = Process::start(command, "scripts/test --install installs it");
        let mut application = Self { address, process };
        poll(STARTED, "the application", async || {
            while let Some(line) = application.process.said() {
                assert!(!line.contains("APPLICATION FAILED TO START"), "{line}");
            }
            tokio::net::TcpStream::connect(address).await.ok()
        })
        .await;
        Some(application)
    }
}

struct Bench {
    tollgate: Tollgate,
    signer: Signer,
    application: Application,
    http: reqwest::Client,
}

impl Bench {
    async fn start(name: &str, more: &[(&str, String)]) -> Option<Self> {
        let signer = Signer::ec("k");
        // The same policy, with keys in hand and free ports.
        let keys = format!("- issuer: {ISSUER}\n    jwks: {{ keys: [{}] }}", signer.jwk());
        let policy = POLICY.replace(&format!("- issuer: {ISSUER}"), &keys).replace("${ORDERS_SECRET}", SECRET);
        let (listen, policy) = policy.split_once("issuers:").unwrap();
        assert!(listen.contains("listen:"));
        let operators =
            "clients:\n  - { id: operator, secret: operator-secret-of-tests, scopes: [\"tollgate:revoke\"] }";
        let policy = format!("issuers:{}", policy.replace("clients:", operators));
        let tollgate = Tollgate::start(&policy).await;
        let url = format!("http://{}", tollgate.server.http);
        let own = [("TOLLGATE_URL", url), ("ORDERS_SECRET", SECRET.to_owned()), ("TOLLGATE_TIMEOUT", "10s".to_owned())];
        let application = Application::start(name, &[&own, more].concat()).await?;
        Some(Self { tollgate, signer, application, http: reqwest::Client::new() })
    }

    /// A token with these claims.
    fn token(&self, mut claims: Value) -> String {
        let now = self.tollgate.clock.now().wall.as_secs();
        let usual = json!({ "iss": ISSUER, "aud": "orders", "iat": now, "exp": now + 600 });
        claims.as_object_mut().unwrap().extend(usual.as_object().unwrap().clone());
        self.signer.token(&claims)
    }

    async fn call(&self, method: Method, path: &str, token: Option<&str>) -> Response {
        let call = self.http.request(method, format!("http://{}{path}", self.application.address));
        let call = token.into_iter().fold(call, reqwest::RequestBuilder::bearer_auth);
        call.send().await.unwrap_or_else(|error| panic!("{error} {}", self.application.process.complaints()))
    }

    async fn status(&self, method: Method, path: &str, token: Option<&str>) -> u16 {
        self.call(method, path, token).await.status().as_u16()
    }
}

fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_server_goes_by_what_introspection_answers() {
    let Some(bench) = Bench::start("service", &[]).await else { return };
    let alice = bench.token(json!({ "sub": "alice", "scope": "openid orders:read", "jti": "a" }));
    let bob = bench.token(json!({ "sub": "bob", "scope": "admin", "jti": "b" }));
    let admin = bench.token(json!({ "sub": "root", "realm_access": { "roles": ["ADMIN"] }, "jti": "c" }));
    let analyst = bench.token(json!({ "sub": "ann", "scope": "admin:read", "jti": "d" }));
    let elsewhere = bench
        .signer
        .token(&json!({ "iss": ISSUER, "aud": "billing", "sub": "alice", "exp": 4_000_000_000_u64, "iat": 1 }));

    for (method, path, token, status) in [
        (Method::GET, "/api/public/catalogue", None, 200),
        (Method::GET, "/api/admin/users", None, 401),
        (Method::GET, "/api/admin/users", Some(&alice), 403),
        (Method::GET, "/api/admin/users", Some(&admin), 200),
        (Method::GET, "/api/reports/sales", Some(&bob), 403),
        (Method::GET, "/api/reports/sales", Some(&analyst), 200),
        (Method::GET, "/api/orders/1", Some(&bob), 200),
        (Method::GET, "/api/orders/1", Some(&elsewhere), 401),
        (Method::GET, "/api/orders/1", Some(&"no-token".to_owned()), 401),
        (Method::DELETE, "/api/orders/1", Some(&bob), 403),
        (Method::DELETE, "/api/orders/1", Some(&alice), 204),
        (Method::DELETE, "/api/orders/2", Some(&admin), 204),
    ] {
        assert_eq!(bench.status(method.clone(), path, token.map(String::as_str)).await, status, "{method} {path}");
    }
    let answer = bench.call(Method::GET, "/api/orders/1", Some(&alice)).await;
    assert_eq!(answer.text().await.unwrap(), "order 1 for alice");

    // Taken back, as any client of the authorization server may see it done.
    let url = format!("http://{}/oauth2/revoke", bench.tollgate.server.http);
    let revoked = bench.http.post(url).basic_auth("operator", Some("operator-secret-of-tests"));
    let revoked = revoked.header("content-type", "application/x-www-form-urlencoded").body(format!("token={alice}"));
    assert_eq!(revoked.send().await.unwrap().status(), 200);
    poll(A_SECOND, "the token to be refused", async || {
        (bench.status(Method::GET, "/api/orders/1", Some(&alice)).await == 401).then_some(())
    })
    .await;
    assert_eq!(bench.status(Method::GET, "/api/orders/1", Some(&bob)).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_lets_pass_what_tollgate_allows_and_tells_the_service_who_calls() {
    let mut service = crate::support::gateway::Service::start().await;
    let upstream = ("UPSTREAM", format!("http://{}", service.address));
    let Some(bench) = Bench::start("gateway", &[upstream]).await else { return };
    let alice = bench.token(json!({ "sub": "alice", "scope": "openid orders:read" }));
    let admin = bench.token(json!({ "sub": "root", "realm_access": { "roles": ["ADMIN"] } }));

    // Who calls is told by nobody but Tollgate.
    let call = bench.http.get(format!("http://{}/api/orders/1?x=%2F", bench.application.address));
    let answer = call.bearer_auth(&alice).header("x-user", "root").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let told = service.asked().pop().unwrap();
    let of = |name: &str| told["headers"][name].as_str().unwrap_or_default();
    assert_eq!(
        (of("x-user"), of("x-scopes"), told["uri"].as_str()),
        ("alice", "openid orders:read", Some("/api/orders/1?x=%2F"))
    );
    let call = bench.http.get(format!("http://{}/api/public/x", bench.application.address));
    assert_eq!(call.header("x-user", "root").send().await.unwrap().status(), 200);
    assert_eq!(service.asked().pop().unwrap()["headers"].get("x-user"), None);

    for (path, token, status) in [
        ("/api/admin/users", None, 401),
        ("/api/admin/users", Some(&alice), 403),
        ("/api/admin/users", Some(&admin), 200),
        ("/api/public/..%2Fadmin/users", None, 400),
        ("/api//admin/users", None, 400),
    ] {
        assert_eq!(bench.status(Method::GET, path, token.map(String::as_str)).await, status, "{path}");
    }
    let refused = bench.call(Method::GET, "/api/admin/users", None).await;
    assert!(header(&refused, "www-authenticate").starts_with("Bearer"), "{refused:?}");
    assert_eq!(header(&refused, "content-type"), "application/problem+json");

    // replenishRate 10, burstCapacity 20: one was used.
    for _ in 0..19 {
        assert_eq!(bench.status(Method::GET, "/api/orders/1", Some(&alice)).await, 200);
    }
    let refused = bench.call(Method::GET, "/api/orders/1", Some(&alice)).await;
    assert_eq!((refused.status().as_u16(), header(&refused, "retry-after")), (429, "1"));
    assert!(header(&refused, "ratelimit").contains("per-user"), "{refused:?}");
    bench.tollgate.clock.advance(Duration::from_secs(1));
    assert_eq!(bench.status(Method::GET, "/api/orders/1", Some(&alice)).await, 200);

    // Without Tollgate nobody passes.
    service.asked();
    let Bench { tollgate, application, http, .. } = bench;
    tollgate.server.stop().await;
    let answer = http.get(format!("http://{}/api/public/x", application.address)).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), header(&answer, "retry-after")), (503, "1"));
    assert_eq!(service.asked(), Vec::<Value>::new());
}
