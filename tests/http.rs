//! Questions over HTTP: the native API's in JSON, and those of gateways that tell of a call in headers.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::{Value, json};
use tollgate::decide::ports::Clock as _;
use tollgate::server::dev::DevIssuer;

use crate::support::paths::{Case, Reading, Shown, cases, policy};
use crate::support::server::Tollgate;
use crate::support::wire::{Answer, Wire};

const POLICY: &str = "
identity_headers: { x-tollgate-subject: subject, x-roles: roles }
limits:
  per-subject: { units: 2, window: 1m, by: [identity.subject] }
  slots: { algorithm: concurrency, units: 1, hold: 30s }
rules:
  - { name: public, match: { path: /public/** }, permit: anyone }
  - { name: admin, match: { path: /admin/** }, require: { roles: [ADMIN] } }
  - { name: held, match: { path: /held }, limits: [slots] }
  - { name: orders, match: { path: /orders/** }, require: { scopes: [orders] }, limits: [per-subject] }
";

/// A server with an issuer.
struct Bench {
    tollgate: Tollgate,
    issuer: DevIssuer,
}

impl Bench {
    async fn start(policy: &str) -> Self {
        let issuer = DevIssuer::new().expect("the system has randomness");
        let key = issuer.public_key();
        let yaml = format!(
            "issuers: [{{ issuer: 'https://dev.tollgate.invalid', audiences: [demo], jwks: {{ keys: [{key}] }} }}]\n{policy}"
        );
        Self { tollgate: Tollgate::start(&yaml).await, issuer }
    }

    fn token(&self, scope: &str) -> String {
        self.issuer.token("ann", scope, self.tollgate.clock.now().wall).expect("the system has randomness")
    }

    async fn ask(&self, request: impl AsRef<[u8]>) -> Answer {
        let mut wire = Wire::connect(self.tollgate.server.http).await;
        wire.send(request).await;
        wire.answer().await
    }

    async fn decide(&self, question: &Value) -> Answer {
        self.ask(post("application/json", &question.to_string())).await
    }

    /// What a gateway gets that asks about a call to `target`, with these further lines in the head of its request.
    async fn forward(&self, query: &str, target: &str, more: &str) -> Answer {
        self.ask(asking(query, "GET", target, more)).await
    }

    async fn decisions(&self, facade: &str, outcome: &str, reason: &str, rule: &str) -> f64 {
        let labels = format!("facade=\"{facade}\",outcome=\"{outcome}\",reason=\"{reason}\",rule=\"{rule}\"");
        self.tollgate.metric(&format!("tollgate_decisions_total{{{labels}}}")).await
    }

    async fn malformed(&self, facade: &str) -> f64 {
        self.tollgate.metric(&format!("tollgate_questions_malformed_total{{facade=\"{facade}\"}}")).await
    }
}

fn post(media_type: &str, body: &str) -> String {
    format!(
        "POST /v1/decide HTTP/1.1\r\nHost: a\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn asking(query: &str, method: &str, target: &str, more: &str) -> String {
    format!(
        "GET /forward-auth{query} HTTP/1.1\r\nHost: tollgate\r\nX-Forwarded-Method: {method}\r\n\
         X-Forwarded-Uri: {target}\r\nX-Forwarded-Host: api.example.com\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-For: 192.0.2.7\r\n{more}\r\n"
    )
}

fn told(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

/// The problem's status, which is the answer's, and the fields that are wrong.
fn problem(answer: &Answer) -> (u16, Vec<String>) {
    assert_eq!(answer.header("content-type"), "application/problem+json", "{answer:?}");
    assert_eq!(answer.header("cache-control"), "no-store", "{answer:?}");
    let problem = told(answer);
    assert_eq!(problem["status"], answer.status, "{answer:?}");
    assert!(problem["title"].is_string() && problem["detail"].is_string(), "{answer:?}");
    let violations = problem["violations"].as_array().cloned().unwrap_or_default();
    let fields = violations.iter().map(|violation| violation["field"].as_str().expect("it is text").to_owned());
    (answer.status, fields.collect())
}

#[tokio::test]
async fn a_question_in_json_is_answered_with_200_whatever_the_decision() {
    let bench = Bench::start(POLICY).await;
    let question = |path: &str, token: &str| {
        json!({
            "credential": { "bearerToken": token }, "explain": true,
            "request": { "method": "GET", "path": path, "host": "api.example.com", "sourceAddress": "192.0.2.7" },
        })
    };
    let token = bench.token("orders");
    let answer = bench.decide(&question("/orders/1", &token)).await;
    assert_eq!((answer.status, answer.header("content-type").as_str()), (200, "application/json"), "{answer:?}");
    assert_eq!(answer.header("cache-control"), "no-store");
    let allowed = told(&answer);
    assert_eq!((&allowed["allowed"], &allowed["reason"]), (&json!(true), &json!("DECISION_REASON_ALLOWED")));
    assert_eq!((&allowed["rule"], &allowed["identity"]["subject"]), (&json!("orders"), &json!("ann")));
    assert_eq!(allowed["quotas"][0]["remaining"], "1");
    assert_eq!(allowed["identityHeaders"][0], json!({ "name": "x-tollgate-subject", "value": "ann" }));
    assert_eq!(allowed["removedHeaders"], json!(["x-tollgate-subject", "x-roles"]));
    assert_eq!(allowed["explanation"]["replica"], "test");
    for (path, token, reason, detail) in [
        ("/orders/1", "", "UNAUTHENTICATED", "malformed_token"),
        ("/admin/x", &*token, "PERMISSION_DENIED", "insufficient_role"),
        ("/nowhere", &*token, "PERMISSION_DENIED", "no_rule"),
    ] {
        let answer = bench.decide(&question(path, token)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let denied = told(&answer);
        assert_eq!(denied["allowed"], false);
        assert_eq!(denied["reason"], format!("DECISION_REASON_{reason}"));
        assert_eq!(denied["detail"], detail);
    }
    bench.decide(&question("/orders/1", &token)).await;
    let short = told(&bench.decide(&question("/orders/1", &token)).await);
    assert_eq!(short["detail"], "quota_exceeded");
    assert!(short["retryAfter"].as_str().is_some_and(|wait| wait.ends_with('s')), "{short}");
    assert!(bench.decisions("http", "allow", "allowed", "orders").await > 1.5);
}

#[tokio::test]
async fn a_question_that_cannot_be_decided_is_a_problem_that_names_the_fields() {
    let bench = Bench::start(POLICY).await;
    let fields = async |body: &str| problem(&bench.ask(post("application/json", body)).await);
    for (body, field) in [
        ("", ""),
        ("[]", ""),
        ("{}", "request"),
        (r#"{"request": {"method": "GET", "path": "/a/../b"}}"#, "request.path"),
        (r#"{"request": {"method": "GET", "path": "/a/../b", "path": "/b"}}"#, "request"),
        (r#"{"request": {"method": "GET", "path": 5}}"#, "request.path"),
        (r#"{"request": {"method": "GET", "path": "/a", "sauce": ""}}"#, "request"),
        (r#"{"request": {"method": "GET", "path": "/orders/1"}, "units": 1e300}"#, "units"),
        (r#"{"request": {"method": "GET", "path": "/orders/1"}, "limits": [{"limit": "none"}]}"#, "limits[0].limit"),
    ] {
        assert_eq!(fields(body).await, (400, vec![field.to_owned()]), "{body}");
    }
    let deep = format!(r#"{{"resource": {}1{}}}"#, r#"{"a":"#.repeat(10_000), "}".repeat(10_000));
    assert_eq!(fields(&deep).await.0, 400);
    assert!(bench.malformed("http").await > 8.5);
    for (request, status) in [
        (post("text/plain", "{}"), 415),
        (post("application/json", &" ".repeat(70_000)), 413),
        (post("application/json", "{}").replace("/v1/decide", "/v1/decide?token=x"), 400),
    ] {
        assert_eq!(problem(&bench.ask(&request).await).0, status);
    }
    let get = bench.ask("GET /v1/decide HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!((get.status, get.header("allow").as_str()), (405, "post"));
}

#[tokio::test]
async fn a_gateway_is_answered_by_status_and_headers() {
    let bench = Bench::start(POLICY).await;
    let bearer = format!("Authorization: Bearer {}\r\n", bench.token("orders"));
    let allowed = bench.forward("", "/orders/1?x=y", &format!("{bearer}X-Tollgate-Subject: root\r\n")).await;
    assert_eq!((allowed.status, allowed.body.as_str()), (200, ""), "{allowed:?}");
    assert_eq!(allowed.header("x-tollgate-subject"), "ann");
    assert_eq!(allowed.header("ratelimit-policy"), r#""per-subject";q=2;w=60"#);
    assert!(allowed.header("ratelimit").starts_with(r#""per-subject";r=1;t="#), "{allowed:?}");
    assert_eq!(allowed.header("cache-control"), "no-store");
    // There, and empty, so that they take the place of whatever the caller wrote.
    let anonymous = bench.forward("", "/public/x", "X-Tollgate-Subject: root\r\nX-Roles: ADMIN\r\n").await;
    assert_eq!(anonymous.status, 200);
    for name in ["x-tollgate-subject", "x-roles", "x-tollgate-reservation"] {
        assert!(anonymous.head.contains(&format!("\r\n{name}: \r\n")), "{name}: {anonymous:?}");
    }
    let held = bench.forward("", "/held", &bearer).await;
    assert!(held.header("x-tollgate-reservation").len() > 10, "{held:?}");

    let nobody = bench.forward("", "/orders/1", "").await;
    assert_eq!(problem(&nobody), (401, Vec::new()));
    assert_eq!(nobody.header("www-authenticate"), r#"bearer realm="tollgate""#);
    let stranger = bench.forward("", "/orders/1", "Authorization: Bearer x\r\n").await;
    assert_eq!(problem(&stranger).0, 401);
    assert!(stranger.header("www-authenticate").contains(r#"error="invalid_token""#), "{stranger:?}");
    let other = format!("Authorization: Bearer {}\r\n", bench.token("other"));
    let lacking = bench.forward("", "/orders/1", &other).await;
    assert_eq!(problem(&lacking).0, 403);
    assert!(lacking.header("www-authenticate").contains(r#"scope="orders""#), "{lacking:?}");
    assert_eq!(problem(&bench.forward("", "/nowhere", &bearer).await).0, 403);
    assert_eq!(
        problem(&bench.forward("", "/orders/../public/x", &bearer).await),
        (400, vec!["request.path".to_owned()])
    );

    assert_eq!(bench.forward("", "/orders/1", &bearer).await.status, 200);
    let short = bench.forward("", "/orders/1", &bearer).await;
    assert_eq!(problem(&short).0, 429);
    assert!(short.header("retry-after").parse::<u64>().is_ok_and(|wait| (1..=62).contains(&wait)), "{short:?}");
    assert!(short.header("ratelimit").starts_with(r#""per-subject";r=0;t="#), "{short:?}");
    assert!(bench.decisions("forward_auth", "allow", "allowed", "orders").await > 1.5);
    assert!(bench.malformed("forward_auth").await > 0.5);
}

#[tokio::test]
async fn a_gateway_that_knows_403_only_finds_the_status_in_a_header() {
    let bench = Bench::start(POLICY).await;
    let bearer = format!("Authorization: Bearer {}\r\n", bench.token("orders"));
    let said = async |target: &str, more: &str| {
        let answer = bench.forward("?refuse=403", target, more).await;
        (answer.status, answer.header("x-tollgate-status"))
    };
    let is = |status, meant: &str| (status, meant.to_owned());
    assert_eq!(said("/orders/1", &bearer).await, is(200, ""));
    assert_eq!(said("/orders/1", "").await, is(401, ""));
    assert_eq!(said("/nowhere", &bearer).await, is(403, "403"));
    assert_eq!(said("/a/../b", &bearer).await, is(403, "400"));
    assert_eq!(said("/orders/1", &bearer).await, is(200, ""));
    assert_eq!(said("/orders/1", &bearer).await, is(403, "429"));
}

#[tokio::test]
async fn a_route_demands_scopes_limits_and_units_besides_its_rule() {
    let bench = Bench::start(POLICY).await;
    let ask = async |query: &str, token: &str| {
        bench.forward(query, "/public/x", &format!("Authorization: Bearer {token}\r\n")).await.status
    };
    let (orders, both) = (bench.token("orders"), bench.token("orders reports"));
    assert_eq!(ask("", &orders).await, 200);
    assert_eq!(ask("?limits=per-subject%3D2", &orders).await, 200);
    assert_eq!(ask("?limits=per-subject", &both).await, 429);
    assert_eq!(ask("?limit=per-subject", &both).await, 400);
    assert_eq!(ask("?limits=none", &both).await, 400);
}

#[tokio::test]
async fn what_is_told_of_a_call_is_believed_of_listed_gateways_only() {
    let elsewhere = Bench::start(&format!("gateways: {{ forward_auth_peers: [10.0.0.0/8, 192.0.2.7] }}{POLICY}")).await;
    let answer = elsewhere.forward("", "/public/x", "X-Real-IP: 10.0.0.1\r\nForwarded: for=10.0.0.1\r\n").await;
    assert_eq!(problem(&answer), (403, Vec::new()));
    assert!(answer.body.contains("gateways.forward_auth_peers"), "{answer:?}");
    assert!(elsewhere.decisions("forward_auth", "allow", "allowed", "public").await < 0.5);
    assert!(elsewhere.malformed("forward_auth").await > 0.5);

    let here = Bench::start(POLICY).await;
    assert_eq!(here.forward("", "/public/x", "").await.status, 200);
    // Nothing but what the gateway tells is the call: not its own request, nor what others write elsewhere.
    let bare = "GET /public/x HTTP/1.1\r\nHost: api.example.com\r\n\r\n";
    assert_eq!(here.ask(bare).await.status, 404);
    let own = "GET /forward-auth HTTP/1.1\r\nHost: api.example.com\r\nX-Original-URL: /public/x\r\nX-Rewrite-Url: /public/x\r\n\r\n";
    let fields = ["x-forwarded-method", "x-forwarded-uri", "x-forwarded-host"].map(str::to_owned);
    assert_eq!(problem(&here.ask(own).await), (400, fields.into()));
    for (more, field) in [
        ("X-Forwarded-Uri: /public/x\r\n", "x-forwarded-uri"),
        ("X-Original-URI: /public/x\r\n", "x-forwarded-uri"),
        ("X-Original-Method: DELETE\r\n", "x-forwarded-method"),
        ("X-Forwarded-Host: evil.example\r\n", "x-forwarded-host"),
        ("X-Forwarded-For: 10.0.0.1\r\n", "x-forwarded-for"),
        ("Authorization: Bearer a\r\nAuthorization: Bearer a\r\n", "authorization"),
    ] {
        let answer = here.forward("", "/admin/x", more).await;
        assert_eq!(problem(&answer), (400, vec![field.to_owned()]), "{more}");
    }
}

#[tokio::test]
async fn a_gateway_may_ask_by_any_method_and_hand_the_body_on() {
    let bench = Bench::start(POLICY).await;
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PROPFIND"] {
        let asked = asking("", method, "/public/x", "Content-Length: 2\r\n").replacen("GET ", &format!("{method} "), 1);
        assert_eq!(bench.ask(asked + "ok").await.status, 200, "{method}");
    }
}

#[tokio::test]
async fn a_call_with_two_readings_is_refused_at_a_gateway_as_it_is_natively() {
    let bench = Bench::start(&policy(Reading::Strict)).await;
    let token = bench.token("orders");
    let (mut wrong, mut left_out) = (String::new(), 0);
    for case in cases().into_iter().filter(|case| case.reading == Reading::Strict) {
        let Case { row, method, host, target, headers, shown, native, .. } = case;
        let lines = headers.iter().fold(String::new(), |lines, (name, value)| format!("{lines}{name}: {value}\r\n"));
        let shown = match shown {
            Shown::Good => format!("Authorization: Bearer {token}\r\n"),
            Shown::Bad => "Authorization: Bearer no.such.token\r\n".to_owned(),
            Shown::Nothing => String::new(),
        };
        // What no header can hold, nor any way to a gateway; and where its own words would be there twice.
        let told = [method, host, &target].join("");
        let cannot_be_told = target.trim() != target || method.trim() != method || told.contains(['\n', '\0']);
        if cannot_be_told || lines.contains("x-forwarded-uri") {
            left_out += 1;
            continue;
        }
        let asked = asking("", method, &target, &format!("{lines}{shown}")).replace("api.example.com", host);
        let status = bench.ask(asked).await.status;
        let expected = match native {
            // Some are longer than the head of any request may be.
            "400" if status == 431 => 431,
            // Gateways have no such calls; one without a path is none. Beyond ASCII, no header has one reading.
            _ if target.is_empty() || !target.is_ascii() => 400,
            "400" => 400,
            _ if native.ends_with(" allowed") => 200,
            _ if native.ends_with(" no_credential") || native.ends_with(" malformed_token") => 401,
            _ => 403,
        };
        if status != expected {
            let target: String = target.chars().take(80).collect();
            let _ = writeln!(wrong, "{row}: {method} {target:?} at {host} with {headers:?}: {status}, not {expected}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(left_out < 12, "{left_out} are left out");
}

#[tokio::test]
async fn what_rules_demand_of_the_call_itself_a_gateway_tells() {
    let bench = Bench::start(
        "
gateways: { trusted_hops: 2 }
rules:
  - { match: { path: /near/** }, permit: anyone, sources: [10.0.0.0/8] }
  - { match: { path: /small/** }, permit: anyone, max_body: 100B }
  - { match: { path: /pages/** }, permit: anyone, origins: ['https://app.example.com'] }
  - { match: { path: /tenant, headers: { x-tenant: acme } }, permit: anyone }
",
    )
    .await;
    let status = async |method: &str, target: &str, more: &str| {
        let answer = bench.ask(asking("", method, target, more).replace("192.0.2.7", "10.1.2.3, 192.0.2.7")).await;
        answer.status
    };
    assert_eq!(status("GET", "/near/x", "").await, 200);
    let far = asking("", "GET", "/near/x", "").replace("192.0.2.7", "10.1.2.3, 198.51.100.1, 192.0.2.7");
    assert_eq!(problem(&bench.ask(far).await).0, 403);
    let alone = problem(&bench.forward("", "/near/x", "").await);
    assert_eq!(alone, (400, vec!["request.source_address".to_owned()]), "nobody knows where it comes from");
    assert_eq!(status("POST", "/small/x", "X-Original-Content-Length: 100\r\n").await, 200);
    assert_eq!(status("POST", "/small/x", "X-Original-Content-Length: 101\r\n").await, 413);
    assert_eq!(status("POST", "/small/x", "").await, 411);
    assert_eq!(status("GET", "/small/x", "").await, 200);
    assert_eq!(status("GET", "/pages/x", "Origin: https://app.example.com\r\n").await, 200);
    assert_eq!(status("GET", "/pages/x", "Origin: https://evil.example\r\n").await, 403);
    let preflight = "Origin: https://app.example.com\r\nAccess-Control-Request-Method: GET\r\n";
    assert_eq!(status("OPTIONS", "/pages/x", preflight).await, 200);
    assert_eq!(status("GET", "/tenant", "X-Tenant: acme\r\n").await, 200);
    assert_eq!(status("GET", "/tenant", "X-Tenant: acme\r\nX-Tenant: acme\r\n").await, 403);
    assert_eq!(status("GET", "/tenant", "X-Tenant: \u{e9}\r\n").await, 400);
}

#[tokio::test]
async fn whatever_comes_has_an_answer_or_an_end() {
    let bench = Bench::start(POLICY).await;
    let question =
        r#"{"credential": {"apiKey": "x"}, "request": {"method": "GET", "path": "/public/x"}, "units": "1"}"#;
    let good =
        [asking("?scopes=a&limits=slots", "GET", "/public/x", "DPoP: x\r\n"), post("application/json", question)];
    // Always the same numbers (Knuth's), so that what fails once fails again.
    let mut state = 1_u64;
    let mut draw = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap_or_default() % below
    };
    let mut statuses = BTreeSet::new();
    for round in 0..400 {
        let mut bytes = good[round % 2].clone().into_bytes();
        for _ in 0..=draw(4) {
            let at = draw(bytes.len());
            match draw(3) {
                0 => bytes[at] = u8::try_from(draw(256)).unwrap_or_default(),
                1 => bytes.insert(at, b"\0\n\r:\"{}[],\\\xff/%;."[draw(16)]),
                _ => drop(bytes.remove(at)),
            }
        }
        let mut wire = Wire::connect(bench.tollgate.server.http).await;
        wire.send(&bytes).await;
        let said = wire.rest().await;
        if let Some(status) = said.get(9..12) {
            statuses.insert(String::from_utf8_lossy(status).into_owned());
        }
    }
    assert!(statuses.is_superset(&["200", "400"].map(str::to_owned).into()), "{statuses:?}");
    assert!(!statuses.contains("500"), "{statuses:?}");
    assert_eq!(bench.forward("", "/public/x", "").await.status, 200);
}
