//! Introspection over HTTP, byte by byte: who may ask, what is told of which token, and what strangers cannot do.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tollgate::decide::ports::Clock as _;
use tollgate::proto as pb;
use tollgate::server::dev::DevIssuer;
use tonic::Code;
use tonic::metadata::MetadataValue;

use crate::support::poll;
use crate::support::server::{SOON, Tollgate, question};
use crate::support::wire::{Answer, Wire};

const FORM: &str = "application/x-www-form-urlencoded";

/// What is said of every token of which nothing is said.
const INACTIVE: &str = r#"{"active":false}"#;

/// A server with an issuer whose tokens are for `demo`, and clients that learn of all tokens, of some, and of none.
struct Bench {
    tollgate: Tollgate,
    issuer: DevIssuer,
}

impl Bench {
    async fn start() -> Self {
        Self::start_with("").await
    }

    async fn start_with(more: &str) -> Self {
        let issuer = DevIssuer::new().expect("the system has randomness");
        let yaml = format!(
            "issuers:
  - {{ issuer: 'https://dev.tollgate.invalid', audiences: [demo], operators: true, jwks: {{ keys: [{}] }} }}
  - {{ issuer: 'http://127.0.0.1:9', audiences: [demo] }}
clients:
  - {{ id: gateway, secret: the secret of the gateway }}
  - {{ id: demo app, secret: 'p%+:&=* of the demo', audiences: [other, demo] }}
  - {{ id: billing, secret: the secret of billing, audiences: [billing, dem, demo-admin] }}
rules: [{{ match: {{ path: /me }} }}, {{ match: {{ path: /open }}, permit: anyone }},
  {{ match: {{ path: /admin }}, require: {{ roles: [ADMIN] }} }}]
{more}",
            issuer.public_key()
        );
        Self { tollgate: Tollgate::start(&yaml).await, issuer }
    }

    fn token(&self, scope: &str) -> String {
        self.issuer.token("ann", scope, self.tollgate.clock.now().wall).expect("the system has randomness")
    }

    async fn connect(&self) -> Wire {
        Wire::connect(self.tollgate.server.http).await
    }

    /// The answer to a request of its own connection.
    async fn ask(&self, request: &str) -> Answer {
        let mut wire = self.connect().await;
        wire.send(request).await;
        wire.answer().await
    }

    /// The status and body that whoever shows `authorization` gets for `token`.
    async fn introspect(&self, authorization: &str, token: &str) -> (u16, String) {
        let answer = self.ask(&post(authorization, &form(token))).await;
        (answer.status, answer.body)
    }
}

/// The word for what is wrong.
fn word(answer: &Answer) -> String {
    let body: Value = serde_json::from_str(&answer.body).expect("it is JSON");
    assert!(body["error_description"].is_string(), "{}", answer.body);
    body["error"].as_str().expect("it has a word for it").to_owned()
}

fn basic(id: &str, secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")))
}

fn gateway() -> String {
    basic("gateway", "the secret of the gateway")
}

fn form(token: &str) -> String {
    url::form_urlencoded::Serializer::new(String::new()).append_pair("token", token).finish()
}

fn post(authorization: &str, body: &str) -> String {
    format!(
        "POST /oauth2/introspect HTTP/1.1\r\nHost: a\r\nAuthorization: {authorization}\r\nContent-Type: {FORM}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn spring_securitys_resource_server_is_understood_to_the_byte() {
    let bench = Bench::start().await;
    let token = bench.token("orders:read orders:write");
    let body = form(&token);
    // Spring 5 and 6 send name and secret as they are; since 6.5 it encodes them as forms do, `*` included or not.
    let plain = basic("demo app", "p%+:&=* of the demo");
    let encoded = basic("demo+app", "p%25%2B%3A%26%3D*+of+the+demo");
    // By HttpURLConnection, and by the client of Java 11, which offers HTTP/2 with each request.
    let old = "Accept: application/json\r\nContent-Type: application/x-www-form-urlencoded;charset=UTF-8\r\n\
               User-Agent: Java/17.0.12\r\nHost: localhost:8080\r\nConnection: keep-alive\r\n";
    let new = "Connection: Upgrade, HTTP2-Settings\r\nHost: localhost:8080\r\n\
               HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nUpgrade: h2c\r\n\
               User-Agent: Java-http-client/21.0.4\r\nAccept: application/json\r\n\
               Content-Type: application/x-www-form-urlencoded;charset=UTF-8\r\n";
    for authorization in [&plain, &encoded] {
        for headers in [old, new] {
            let request = format!(
                "POST /oauth2/introspect HTTP/1.1\r\n{headers}Authorization: {authorization}\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            let answer = bench.ask(&request).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(answer.header("content-type"), "application/json");
            assert_eq!(answer.header("cache-control"), "no-store");
            let mut told: Value = serde_json::from_str(&answer.body).expect("it is JSON");
            let now = bench.tollgate.clock.now().wall.as_secs();
            let members = told.as_object_mut().expect("it is an object");
            let id = members.remove("jti").expect("it has one");
            assert!(id.is_string());
            let expected = json!({
                "active": true, "scope": "orders:read orders:write", "client_id": "demo-client", "token_type": "Bearer",
                "sub": "ann", "aud": ["demo"], "iss": "https://dev.tollgate.invalid", "iat": now, "exp": now + 43_200,
            });
            assert_eq!(told, expected);
        }
    }
    assert!(bench.tollgate.metric(r#"tollgate_introspection_answers_total{outcome="active"}"#).await > 3.5);
}

#[tokio::test]
async fn of_every_token_that_is_not_good_or_not_the_askers_the_answer_is_the_same() {
    let bench = Bench::start().await;
    let token = bench.token("a");
    let demo = basic("demo app", "p%+:&=* of the demo");
    let billing = basic("billing", "the secret of billing");
    assert_eq!(bench.introspect(&demo, &token).await.0, 200);
    let mut changed = token.clone();
    changed.pop();
    let foreign = token.replacen("eyJ", "eyK", 1);
    let long = "a".repeat(20_000);
    let bad = ["x", "a.b.c", "tg_aaaaaaaaaaaa_bbb", "\u{fc}\r\n", " ", &changed, &foreign, &long];
    for (asker, token) in bad.iter().map(|token| (&demo, *token)).chain([(&billing, &*token)]) {
        let answer = bench.ask(&post(asker, &form(token))).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, INACTIVE), "{token}");
        assert_eq!(answer.header("cache-control"), "no-store");
    }
    bench.tollgate.clock.advance(Duration::from_hours(13));
    assert_eq!(bench.introspect(&gateway(), &token).await, (200, INACTIVE.to_owned()), "it has expired");
}

#[tokio::test]
async fn who_asks_must_show_it_and_may_only_with_the_scope() {
    let bench = Bench::start().await;
    let token = bench.token("a");
    let operator = bench.token("x tollgate:introspect");
    let (status, body) = bench.introspect(&format!("Bearer {operator}"), &token).await;
    assert_eq!(status, 200, "{body}");
    assert!(body.contains(r#""sub":"ann""#), "{body}");

    let bearer = r#"bearer realm="tollgate""#;
    let invalid = format!(r#"{bearer}, error="invalid_token""#);
    let by_basic = r#"basic realm="tollgate", charset="utf-8""#;
    let lacking = format!(r#"{bearer}, error="insufficient_scope", scope="tollgate:introspect""#);
    for (authorization, status, error, challenge) in [
        (format!("Bearer {token}"), 403, "insufficient_scope", lacking),
        (format!("Bearer {operator}x"), 401, "invalid_token", format!("{invalid} | {by_basic}")),
        ("Bearer tg_aaaaaaaaaaaa_bbb".to_owned(), 401, "invalid_token", format!("{invalid} | {by_basic}")),
        (basic("gateway", "the secret of the gatewa"), 401, "invalid_client", by_basic.to_owned()),
        (basic("gateway", "the secret of billing"), 401, "invalid_client", by_basic.to_owned()),
        (basic("nobody", "the secret of the gateway"), 401, "invalid_client", by_basic.to_owned()),
        (basic("", ""), 401, "invalid_client", by_basic.to_owned()),
        (basic(&operator, ""), 401, "invalid_client", by_basic.to_owned()),
        (format!("Bearer {operator}\r\nAuthorization: {}", gateway()), 400, "invalid_request", String::new()),
        (format!("Bearer {operator} x"), 400, "invalid_request", String::new()),
        ("Basic !".to_owned(), 400, "invalid_request", String::new()),
        ("Digest x".to_owned(), 400, "invalid_request", String::new()),
    ] {
        let answer = bench.ask(&post(&authorization, &form(&token))).await;
        assert_eq!((answer.status, word(&answer).as_str()), (status, error), "{authorization}");
        assert_eq!(answer.header("www-authenticate"), challenge, "{authorization}");
        assert!(!answer.body.contains("ann"), "{}", answer.body);
    }
    let without = post("x", &form(&token)).replace("Authorization: x\r\n", "");
    let answer = bench.ask(&without).await;
    assert_eq!((answer.status, word(&answer).as_str()), (401, "invalid_client"));
    assert_eq!(answer.header("www-authenticate"), format!("{bearer} | {by_basic}"), "without an error: none was made");
}

#[tokio::test]
async fn what_cannot_be_found_out_is_not_called_inactive() {
    let bench = Bench::start().await;
    let header = r#"{"alg":"ES256","kid":"a","typ":"at+jwt"}"#;
    let claims = r#"{"iss":"http://127.0.0.1:9","sub":"a","aud":"demo","exp":9999999999}"#;
    let encode = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    let token = format!("{}.{}.{}", encode(header), encode(claims), encode(&"s".repeat(64)));
    let answer = bench.ask(&post(&gateway(), &form(&token))).await;
    assert_eq!((answer.status, word(&answer).as_str()), (503, "temporarily_unavailable"), "{answer:?}");
    assert_eq!(answer.header("retry-after"), "1");
    // The asker's own token, too: nobody can say that it is bad.
    let answer = bench.ask(&post(&format!("Bearer {token}"), &form(&token))).await;
    assert_eq!((answer.status, answer.header("www-authenticate").as_str()), (503, ""), "{answer:?}");
}

#[tokio::test]
async fn requests_that_are_not_what_they_must_be_are_told_so() {
    let bench = Bench::start().await;
    let token = bench.token("a");
    let good = post(&gateway(), &form(&token));
    let with = |from: &str, to: &str| good.replacen(from, to, 1);
    let body = |body: &str| post(&gateway(), body);
    for (request, status, error) in [
        (with("POST /oauth2/introspect ", "POST /oauth2/introspect/ "), 404, "not_found"),
        (with("POST /oauth2/introspect ", "POST /oauth2/Introspect "), 404, "not_found"),
        (with("POST /oauth2/introspect ", "GET / "), 404, "not_found"),
        (with("POST ", "GET "), 405, "method_not_allowed"),
        (with("POST ", "PUT "), 405, "method_not_allowed"),
        (with("/introspect ", &format!("/introspect?token={token} ")), 400, "invalid_request"),
        (with("/introspect ", "/introspect? "), 400, "invalid_request"),
        (with(FORM, "application/json"), 415, "invalid_request"),
        (with(FORM, "application/x-www-form-urlencodedx"), 415, "invalid_request"),
        (with(&format!("Content-Type: {FORM}\r\n"), ""), 415, "invalid_request"),
        (body(""), 400, "invalid_request"),
        (body("token="), 400, "invalid_request"),
        (body("Token=x"), 400, "invalid_request"),
        (body("token=x&token=x"), 400, "invalid_request"),
        (body("token=&token=x"), 400, "invalid_request"),
        (body(&format!("token=x&y={}", "y".repeat(64 * 1024))), 413, "invalid_request"),
    ] {
        let answer = bench.ask(&request).await;
        let first = request.lines().next().expect("there is one");
        assert_eq!((answer.status, word(&answer).as_str()), (status, error), "{first}");
        assert_eq!(answer.header("allow"), if status == 405 { "post" } else { "" }, "{first}");
    }
    let hinted = bench.ask(&body(&format!("token_type_hint=refresh_token&{}&a=b&a=b", form(&token)))).await;
    assert_eq!(hinted.status, 200, "a hint changes nothing, and unknown fields are left alone");
}

#[tokio::test]
async fn a_connection_serves_one_request_after_another() {
    let bench = Bench::start().await;
    let (token, mut wire) = (bench.token("a"), bench.connect().await);
    for _ in 0..3 {
        wire.send(&post(&gateway(), &form(&token))).await;
        assert_eq!(wire.answer().await.status, 200);
        wire.send(&post("Basic YTpi", &form(&token))).await;
        assert_eq!(wire.answer().await.status, 401);
    }
}

#[tokio::test]
async fn http_2_is_spoken_without_tls() {
    let bench = Bench::start().await;
    let token = bench.token("a");
    let http = reqwest::Client::builder().no_proxy().http2_prior_knowledge().timeout(SOON).build().expect("it is made");
    let url = format!("http://{}/oauth2/introspect", bench.tollgate.server.http);
    let ask = |body: String| http.post(&url).header("authorization", gateway()).header("content-type", FORM).body(body);
    let asked = (0..50).map(|_| ask(form(&token)).send());
    for answer in futures_util::future::join_all(asked).await {
        let answer = answer.expect("it answers");
        assert_eq!((answer.status().as_u16(), answer.version()), (200, reqwest::Version::HTTP_2));
    }
    let large = ask("x".repeat(65 * 1024)).send().await.expect("it answers");
    assert_eq!(large.status().as_u16(), 413);
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_it_is_read() {
    let bench = Bench::start().await;
    // Announced, and in pieces without an end.
    let announced = post(&gateway(), "").replace("Content-Length: 0", "Content-Length: 10000000000");
    assert_eq!(bench.ask(&announced).await.status, 413);
    let mut wire = bench.connect().await;
    wire.send(&post(&gateway(), "").replace("Content-Length: 0", "Transfer-Encoding: chunked")).await;
    let piece = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
    for _ in 0..17 {
        wire.send(&piece).await;
    }
    assert_eq!(wire.answer().await.status, 413);
    // Strangers are not even read.
    assert_eq!(bench.ask(&post("Basic YTpi", "").replace("Content-Length: 0", "Content-Length: 99")).await.status, 401);
    let header = format!("X: {}\r\n", "x".repeat(40 * 1024));
    let mut wire = bench.connect().await;
    wire.send(&post(&gateway(), "").replacen("Host: a\r\n", &header, 1)).await;
    let head = timeout(SOON, wire.0.read_u8()).await.expect("it does not wait for more");
    assert!(matches!(head, Ok(b'H') | Err(_)), "an answer that says so, or none");
    let many = "X: x\r\n".repeat(101);
    assert_eq!(bench.ask(&post(&gateway(), "").replacen("Host: a\r\n", &many, 1)).await.status, 431);
}

#[tokio::test]
async fn requests_share_the_cap_on_calls_in_flight_and_a_stop_lets_them_finish() {
    let bench = Bench::start_with("bounds: { calls_in_flight: 1, drain: 60s }").await;
    let (token, mut slow) = (bench.token("a"), bench.connect().await);
    let request = post(&gateway(), &form(&token));
    let (first, rest) = request.split_at(request.len() - 1);
    slow.send(first).await;
    let in_flight = async || bench.tollgate.metric("tollgate_calls_in_flight").await > 0.5;
    poll(SOON, "the call", async || in_flight().await.then_some(())).await;
    let refused = bench.ask(&request).await;
    assert_eq!((refused.status, word(&refused).as_str()), (503, "temporarily_unavailable"));
    assert_eq!(refused.header("retry-after"), "1");
    let status = bench.tollgate.decisions().await.decide(question("GET", "/open", None)).await.expect_err("it is full");
    assert_eq!(status.code(), Code::ResourceExhausted);

    let (mut idle, mut silent) = (bench.connect().await, bench.connect().await);
    idle.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(idle.answer().await.status, 503);
    let address = bench.tollgate.server.http;
    let mut stop = tokio::spawn(bench.tollgate.server.stop());
    poll(SOON, "the end of listening", async || TcpStream::connect(address).await.is_err().then_some(())).await;
    assert!(idle.ended().await && silent.ended().await, "nothing is on its way on them");
    timeout(Duration::from_millis(100), &mut stop).await.expect_err("it waits for the call");
    slow.send(rest).await;
    assert_eq!(slow.answer().await.status, 200);
    assert!(timeout(SOON, stop).await.expect("it ends").expect("it does not panic"), "all calls finished");
}

#[tokio::test]
async fn grpc_tells_the_same_to_the_same_askers() {
    let bench = Bench::start().await;
    let token = bench.token("a b");
    let ask = async |authorization: &str| {
        let asked = pb::IntrospectRequest { token: token.clone(), token_type_hint: String::new() };
        let mut request = tonic::Request::new(asked);
        request.metadata_mut().insert("authorization", MetadataValue::try_from(authorization).expect("it is ASCII"));
        bench.tollgate.tokens().await.introspect(request).await.map(tonic::Response::into_inner)
    };
    let known = ask(&gateway()).await.expect("it may");
    assert_eq!((known.active, known.scope.as_str(), known.cnf), (true, "a b", None));
    let none = ask(&basic("billing", "the secret of billing")).await.expect("it may ask");
    assert_eq!(none, pb::IntrospectResponse::default());
    let stranger = ask(&basic("billing", "the secret of the gateway")).await.expect_err("it is none of them");
    assert_eq!(stranger.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn headers_tell_the_service_behind_who_calls_and_those_of_the_caller_are_removed() {
    let headers = "identity_headers: { x-subject: subject, x-scopes: scopes, x-roles: roles, x-iss: issuer }";
    let bench = Bench::start_with(headers).await;
    let token = bench.token("orders:read orders:write");
    let removed = ["x-subject", "x-scopes", "x-roles", "x-iss"];
    let told =
        [("x-subject", "ann"), ("x-scopes", "orders:read orders:write"), ("x-iss", "https://dev.tollgate.invalid")];
    for (path, token, allowed, told) in [
        ("/me", Some(&*token), true, &told[..]),
        ("/open", Some(&*token), true, &told[..]),
        ("/open", None, true, &[]),
        ("/open", Some("garbage"), true, &[]),
        ("/me", None, false, &[]),
        ("/nowhere", Some(&*token), false, &[]),
        ("/admin", Some(&*token), false, &[]),
    ] {
        let answer = bench.tollgate.decide(question("GET", path, token)).await;
        assert_eq!(answer.allowed, allowed, "{path}");
        assert_eq!(answer.removed_headers, removed, "{path}");
        let headers: Vec<_> = answer.identity_headers.iter().map(|h| (h.name.as_str(), h.value.as_str())).collect();
        assert_eq!(headers, told, "{path}");
    }
}
