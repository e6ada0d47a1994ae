//! Gateways that ask by a request of their own, as docs/gateways has them set up, before a real Tollgate and a service.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tollgate::decide::ports::Clock as _;
use tollgate::server::dev::DevIssuer;

use crate::support::gateway::{Gateway, Service};
use crate::support::paths::{self, Case, Reading, Shown};
use crate::support::server::{SOON, Tollgate, question};

const NGINX: &str = include_str!("../docs/gateways/nginx.md");
const CADDY: &str = include_str!("../docs/gateways/caddy.md");

const POLICY: &str = "
identity_headers: { x-tollgate-subject: subject }
limits:
  per-subject: { units: 3, window: 1m, by: [identity.subject] }
  per-address: { units: 2, window: 1m, by: [source.address] }
  heavy: { units: 5, window: 1m }
rules:
  - { name: limited, match: { path: /public/limited }, permit: anyone, limits: [per-address] }
  - { name: public, match: { path: /public/** }, permit: anyone }
  - { name: admin, match: { path: /admin/** }, require: { roles: [ADMIN] } }
  - { name: hosted, match: { host: api.example.com, path: /hosted }, permit: anyone }
  - { name: reports, match: { path: /reports/** } }
  - { name: orders, match: { path: /orders/** }, require: { scopes: [orders] }, limits: [per-subject] }
";

/// A gateway between callers and a service.
struct Bench {
    tollgate: Tollgate,
    issuer: DevIssuer,
    service: Service,
    gateway: Gateway,
}

/// Which gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Nginx,
    Caddy,
}

/// What a caller gets.
#[derive(Debug)]
struct Answer {
    status: u16,
    /// By name in lower case.
    headers: BTreeMap<String, String>,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

impl Bench {
    /// None where that gateway cannot be had.
    async fn start(kind: Kind, policy: &str) -> Option<Self> {
        let issuer = DevIssuer::new().expect("the system has randomness");
        let key = issuer.public_key();
        let issuers =
            format!("[{{ issuer: 'https://dev.tollgate.invalid', audiences: [demo], jwks: {{ keys: [{key}] }} }}]");
        let tollgate = Tollgate::start(&format!("issuers: {issuers}\n{policy}")).await;
        let service = Service::start().await;
        let gateway = match kind {
            Kind::Nginx => Gateway::nginx(NGINX, tollgate.server.http, service.address).await,
            Kind::Caddy => Gateway::caddy(CADDY, tollgate.server.http, service.address).await?,
        };
        Some(Self { tollgate, issuer, service, gateway })
    }

    fn token(&self, scope: &str) -> String {
        self.issuer.token("ann", scope, self.tollgate.clock.now().wall).expect("the system has randomness")
    }

    fn bearer(&self, scope: &str) -> String {
        format!("Authorization: Bearer {}\r\n", self.token(scope))
    }

    async fn raw(&self, request: impl AsRef<[u8]>) -> Answer {
        raw(self.gateway.address, request).await
    }

    async fn call(&self, method: &str, target: &str, more: &str) -> Answer {
        self.raw(format!("{method} {target} HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n{more}\r\n"))
            .await
    }

    async fn get(&self, target: &str, more: &str) -> Answer {
        self.call("GET", target, more).await
    }

    /// The header that the service was asked with the last time; none: it was not asked, or not with that.
    fn served(&mut self, header: &str) -> Option<String> {
        let asked: Value = self.service.asked().pop()?;
        Some(asked["headers"][header].as_str().unwrap_or_default().to_owned())
    }
}

/// What comes back to a request of these bytes, on a connection of its own.
async fn raw(gateway: SocketAddr, request: impl AsRef<[u8]>) -> Answer {
    let read = async {
        let mut wire = TcpStream::connect(gateway).await.expect("the gateway listens");
        // Whoever has seen enough of it closes before it is whole.
        let _ = wire.write_all(request.as_ref()).await;
        let mut bytes = Vec::new();
        let _ = wire.read_to_end(&mut bytes).await;
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let text = timeout(SOON, read).await.expect("it answers in time");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_default();
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    let headers = lines.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    Answer { status, headers, body: body.to_owned() }
}

/// What holds for every gateway that asks at `/forward-auth`.
async fn assert_guarded(kind: Kind) {
    let Some(mut bench) = Bench::start(kind, POLICY).await else { return };
    let ann = bench.bearer("orders");

    // Who calls is told to the service, and not by the caller.
    let forged = format!("{ann}X-Tollgate-Subject: root\r\nX-Tollgate-Reservation: x\r\n");
    let allowed = bench.get("/orders/1", &forged).await;
    assert_eq!(allowed.status, 200, "{allowed:?} {}", bench.gateway.complaints());
    assert_eq!(bench.served("x-tollgate-subject").as_deref(), Some("ann"));
    for name in ["x-tollgate-subject", "x-tollgate-reservation"] {
        assert_eq!(
            bench.get("/public/x", "X-Tollgate-Subject: root\r\nX-Tollgate-Reservation: x\r\n").await.status,
            200
        );
        assert_eq!(bench.served(name).as_deref(), Some(""), "{name}");
    }

    // Refusals come through with their status, and the service is not asked.
    let nobody = bench.get("/orders/1", "").await;
    assert_eq!((nobody.status, nobody.header("www-authenticate")), (401, r#"Bearer realm="tollgate""#), "{nobody:?}");
    let stranger = bench.get("/orders/1", "Authorization: Bearer x\r\n").await;
    assert!(stranger.header("www-authenticate").contains("invalid_token"), "{stranger:?}");
    let lacking = bench.get("/orders/1", &bench.bearer("other")).await;
    assert_eq!(lacking.status, 403, "{lacking:?}");
    assert!(lacking.header("www-authenticate").contains(r#"scope="orders""#), "{lacking:?}");
    assert_eq!(bench.get("/nowhere", &ann).await.status, 403);
    assert_eq!(bench.get("/public/..;/admin", &ann).await.status, 400);
    assert_eq!(bench.served("host"), None);
    let statuses = [bench.get("/orders/1", &ann).await, bench.get("/orders/1", &ann).await];
    assert_eq!(statuses.map(|answer| answer.status), [200, 200]);
    assert_eq!(bench.service.asked().len(), 2);
    let short = bench.get("/orders/1", &ann).await;
    assert_eq!(short.status, 429, "{short:?}");
    assert!(short.header("retry-after").parse::<u64>().is_ok_and(|wait| (1..=62).contains(&wait)), "{short:?}");
    assert!(short.header("ratelimit").starts_with(r#""per-subject";r=0"#), "{short:?}");
    let problem: Value = serde_json::from_str(&short.body).expect("it is JSON");
    assert_eq!((short.header("content-type"), &problem["status"]), ("application/problem+json", &429.into()));
    assert_eq!(bench.served("host"), None);

    // What the service answers is its own affair.
    assert_eq!(bench.get("/public/x?answer=403", "").await.status, 403);
    assert_eq!(bench.get("/public/x?answer=404", "").await.status, 404);
    assert_eq!(bench.service.asked().len(), 2);

    // A call is what the gateway saw of it, whatever the caller says: its query is no demand of the route.
    assert_eq!(bench.get("/public/x?scopes=none&refuse=403&limits=none&x=y", "").await.status, 200);
    for more in [
        "X-Forwarded-Uri: /public/x\r\n",
        "X-Original-URI: /public/x\r\n",
        "X-Original-URL: /public/x\r\nX-Rewrite-URL: /public/x\r\n",
        "X-Forwarded-Method: GET\r\nX-Original-Method: GET\r\n",
        "X-Forwarded-Host: other.example\r\nX-Forwarded-Proto: http\r\n",
    ] {
        let answer = bench.get("/admin/x", &format!("{ann}{more}")).await;
        assert_eq!(answer.status, 403, "{more}");
    }
    let hosted = bench.get("/hosted", "X-Forwarded-Host: other.example\r\n").await;
    assert_eq!(hosted.status, 200, "{hosted:?}");
    let elsewhere = bench
        .raw("GET /hosted HTTP/1.1\r\nHost: other.example\r\nX-Forwarded-Host: api.example.com\r\nConnection: close\r\n\r\n")
        .await;
    assert_eq!(elsewhere.status, 403, "{elsewhere:?}");
    let limited = async |address: u8| {
        bench.get("/public/limited", &format!("X-Forwarded-For: 192.0.2.{address}\r\n")).await.status
    };
    assert_eq!([limited(1).await, limited(2).await, limited(3).await], [200, 200, 429]);
    bench.service.asked();
    let twice = bench.get("/admin/x", &format!("{ann}{ann}")).await;
    assert_eq!(twice.status, 400, "{twice:?}");

    // A body goes to the service whole, though the gateway asks without it.
    let body = "x".repeat(100_000);
    let posted = bench.call("POST", "/public/x", &format!("Content-Length: 100000\r\n\r\n{body}")).await;
    assert_eq!(posted.status, 200, "{posted:?}");
    assert_eq!(bench.service.asked()[0]["body"], 100_000);

    // Without Tollgate nothing passes.
    let Bench { tollgate, mut service, gateway, .. } = bench;
    tollgate.server.stop().await;
    let gone =
        raw(gateway.address, "GET /public/x HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n").await;
    assert!((500..=504).contains(&gone.status), "{gone:?}");
    assert!(service.asked().is_empty());
}

#[tokio::test]
async fn nginx_guards_a_service() {
    assert_guarded(Kind::Nginx).await;
}

#[tokio::test]
async fn caddy_guards_a_service() {
    assert_guarded(Kind::Caddy).await;
}

#[tokio::test]
async fn nginx_tells_callers_their_limits_and_demands_more_for_a_route() {
    let bench = Bench::start(Kind::Nginx, POLICY).await.expect("it is there");
    let answer = bench.get("/orders/1", &bench.bearer("orders")).await;
    assert!(answer.header("ratelimit").starts_with(r#""per-subject";r=2;t="#), "{answer:?}");
    assert_eq!(answer.header("ratelimit-policy"), r#""per-subject";q=3;w=60"#);
    let reports = async |scope: &str| bench.get("/reports/1", &bench.bearer(scope)).await.status;
    assert_eq!(reports("other").await, 403);
    assert_eq!(reports("reports").await, 200);
    assert_eq!(reports("reports").await, 429, "it costs all five units");
}

/// No service is asked for what Tollgate does not let pass, however a gateway reads what the caller wrote; and what has one
/// reading, and may pass, passes.
async fn assert_paths(kind: Kind) {
    let Some(mut bench) = Bench::start(kind, &paths::policy(Reading::Strict)).await else { return };
    let (orders, token) = (bench.bearer("orders"), bench.token("orders"));
    let (mut passed, mut held_up, mut wrong) = (0, Vec::new(), Vec::new());
    for case in paths::cases().into_iter().filter(|case| case.reading == Reading::Strict) {
        let Case { row, method, host, target, headers, shown, native, .. } = case;
        let lines = headers.iter().fold(String::new(), |lines, (name, value)| format!("{lines}{name}: {value}\r\n"));
        let (line, token) = match shown {
            Shown::Good => (orders.as_str(), Some(token.as_str())),
            Shown::Bad => ("Authorization: Bearer no.such.token\r\n", Some("no.such.token")),
            Shown::Nothing => ("", None),
        };
        let answer = bench
            .raw(format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{lines}{line}\r\n"))
            .await;
        let target: String = target.chars().take(80).collect();
        let what = format!("{row}: {method} {target:?} at {host}, natively {native}: {}", answer.status);
        let asked = bench.service.asked();
        if asked.is_empty() && native.ends_with(" allowed") {
            held_up.push(what.clone());
        }
        for Served { method, uri, host } in asked.iter().map(Served::read) {
            passed += 1;
            let mut question = question(&method, &uri, token);
            if let Some(request) = &mut question.request {
                request.host.clone_from(&host);
            }
            let decided = bench.tollgate.decisions().await.decide(question).await;
            if !decided.is_ok_and(|answer| answer.into_inner().allowed) {
                wrong.push(format!("{what}; the service was asked for {method} {uri} at {host}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(passed > 10, "{passed} calls passed");
    // Gateways answer some by themselves, or read a host otherwise.
    assert!(held_up.len() < 4, "{}", held_up.join("\n"));
}

/// The call that a service was asked for.
struct Served {
    method: String,
    uri: String,
    host: String,
}

impl Served {
    fn read(asked: &Value) -> Self {
        let text = |value: &Value| value.as_str().expect("it is text").to_owned();
        Self { method: text(&asked["method"]), uri: text(&asked["uri"]), host: text(&asked["headers"]["host"]) }
    }
}

#[tokio::test]
async fn what_is_refused_reaches_no_service_through_nginx() {
    assert_paths(Kind::Nginx).await;
}

#[tokio::test]
async fn what_is_refused_reaches_no_service_through_caddy() {
    assert_paths(Kind::Caddy).await;
}
