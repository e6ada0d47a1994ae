//! Issuers that are asked over real sockets, honest and lying ones.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests, which wait for sockets in real time")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{Fetcher, Introspector, Keys, Remembered, may_be};
use crate::decide::ports::{Clock, Shown, TokenInspector as _};
use crate::domain::decision::Reason::{self, *};
use crate::domain::identity::IdentityKind;
use crate::domain::introspection::{ClientAuth, Introspection};
use crate::domain::issuer::{Issuer, KeySource};
use crate::domain::secret::Secret;
use crate::domain::time::{Micros, Moment};
use crate::telemetry::Telemetry;
use crate::tokens::fingerprint::Fingerprints;
use crate::tokens::mint::{Bench, ISSUER, NOW, Signer, claims, claims_with, issuer, issuer_of, set};

/// What the endpoint answers.
#[derive(Clone, Debug)]
enum Says {
    Text(String),
    Status(u16, &'static str),
    Endless,
    Silence,
}

#[derive(Default)]
struct World {
    says: Mutex<Option<Says>>,
    /// What it says of itself, where it says anything.
    metadata: Mutex<Option<String>>,
    /// Each request, whole.
    asked: Mutex<Vec<String>>,
    /// Held back for so many milliseconds.
    delay: AtomicUsize,
}

/// An introspection endpoint on loopback; it ends with the test.
struct Endpoint {
    base: String,
    world: Arc<World>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(mut caller: TcpStream, world: &World) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") && request.len() < 8192 {
        request.push(caller.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&request).to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next()).unwrap_or("0");
    let mut body = vec![0; length.parse().unwrap()];
    caller.read_exact(&mut body).await?;
    request.extend_from_slice(&body);
    world.asked.lock().unwrap().push(String::from_utf8_lossy(&request).into_owned());
    tokio::time::sleep(Duration::from_millis(world.delay.load(Ordering::SeqCst) as u64)).await;
    let says = if request.starts_with(b"GET ") {
        world.metadata.lock().unwrap().clone().map(Says::Text)
    } else {
        world.says.lock().unwrap().clone()
    };
    let head = |status: u16, more: &str| format!("HTTP/1.1 {status} Some\r\nConnection: close\r\n{more}\r\n");
    match says.unwrap_or(Says::Silence) {
        Says::Text(text) => {
            caller.write_all((head(200, &format!("Content-Length: {}\r\n", text.len())) + &text).as_bytes()).await
        }
        Says::Status(status, more) => {
            caller.write_all(head(status, &format!("Content-Length: 0\r\n{more}")).as_bytes()).await
        }
        Says::Endless => {
            caller.write_all(head(200, "").as_bytes()).await?;
            loop {
                caller.write_all(&[b' '; 16_384]).await?;
            }
        }
        Says::Silence => std::future::pending().await,
    }
}

impl Endpoint {
    async fn with(says: Says) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let world = Arc::new(World { says: Mutex::new(Some(says)), ..World::default() });
        let known = Arc::clone(&world);
        let task = tokio::spawn(async move {
            let mut callers = JoinSet::new();
            loop {
                let (caller, _) = listener.accept().await.unwrap();
                let world = Arc::clone(&known);
                callers.spawn(async move { answer(caller, &world).await });
            }
        });
        Self { base, world, task }
    }

    fn says(&self, says: Says) {
        *self.world.says.lock().unwrap() = Some(says);
    }

    fn asked(&self) -> usize {
        self.world.asked.lock().unwrap().len()
    }

    fn last(&self) -> String {
        self.world.asked.lock().unwrap().last().cloned().unwrap()
    }

    fn introspection(&self) -> Introspection {
        Introspection {
            url: Some(format!("{}/introspect", self.base)),
            client_id: "toll gate".to_owned(),
            auth: ClientAuth::Basic(Secret::new("s:ä".to_owned())),
            cache: Micros::from_secs(30),
            deadline: Micros::from_secs(2),
            signed: false,
            prefix: None,
            all: true,
        }
    }

    fn issuer(&self) -> Issuer {
        Issuer { introspection: Some(self.introspection()), ..issuer(KeySource::Unneeded) }
    }
}

fn active() -> Value {
    let mut answer = claims();
    answer["active"] = json!(true);
    answer
}

fn active_with(name: &str, value: impl Into<Value>) -> Says {
    let mut answer = active();
    answer[name] = value.into();
    Says::Text(answer.to_string())
}

fn good() -> Says {
    Says::Text(active().to_string())
}

fn inactive() -> Says {
    Says::Text(json!({"active": false}).to_string())
}

async fn reason(bench: &Bench, token: &str) -> Reason {
    let answer = bench.tokens.inspect(Shown::Token(token), bench.clock.now());
    answer.get().await.verdict.err().unwrap_or(Allowed)
}

fn problem(bench: &Bench) -> Option<String> {
    bench.tokens.health()[0].introspection.clone().unwrap()
}

#[tokio::test]
async fn an_opaque_token_is_whose_its_issuer_says_and_the_answer_serves_for_the_configured_time() {
    let endpoint = Endpoint::with(good()).await;
    let bench = Bench::new(vec![endpoint.issuer()]);
    let first = bench.tokens.inspect(Shown::Token("opaque-1"), bench.clock.now()).get().await;
    let identity = first.verdict.unwrap();
    assert!(!first.remembered);
    assert_eq!((identity.kind, &*identity.issuer), (IdentityKind::Opaque, ISSUER));
    assert_eq!((identity.subject.as_deref(), identity.client.as_deref()), (Some("ann"), Some("shop")));
    let request = endpoint.last();
    assert!(request.ends_with("token=opaque-1&token_type_hint=access_token"), "{request}");
    // RFC 6749 §2.3.1: id and secret are form-coded first.
    assert!(request.contains("authorization: Basic dG9sbCtnYXRlOnMlM0ElQzMlQTQ="), "{request}");
    assert!(bench.at_once("opaque-1").1);
    bench.clock.pass(Micros::from_secs(29));
    assert!(bench.at_once("opaque-1").1);
    bench.clock.pass(Micros::from_secs(1));
    endpoint.says(inactive());
    assert_eq!(reason(&bench, "opaque-1").await, InactiveToken);
    assert_eq!(endpoint.asked(), 2);
}

#[tokio::test]
async fn a_refusal_serves_for_five_seconds() {
    let endpoint = Endpoint::with(inactive()).await;
    let bench = Bench::new(vec![endpoint.issuer()]);
    assert_eq!(reason(&bench, "t").await, InactiveToken);
    endpoint.says(good());
    bench.clock.pass(Micros(4_999_999));
    assert_eq!(bench.reason("t"), InactiveToken);
    assert_eq!(endpoint.asked(), 1);
    bench.clock.pass(Micros(1));
    assert_eq!(reason(&bench, "t").await, Allowed);
}

#[tokio::test]
async fn a_thousand_concurrent_questions_about_one_token_make_one_call() {
    let endpoint = Endpoint::with(good()).await;
    endpoint.world.delay.store(100, Ordering::SeqCst);
    let bench = Bench::new(vec![endpoint.issuer()]);
    let now = bench.clock.now();
    let all = |token: &'static str| {
        let mut waiting = JoinSet::new();
        for _ in 0..1000 {
            let tokens = Arc::clone(&bench.tokens);
            waiting.spawn(async move { tokens.inspect(Shown::Token(token), now).get().await.verdict.err() });
        }
        waiting.join_all()
    };
    assert!(all("a").await.iter().all(Option::is_none));
    assert_eq!(endpoint.asked(), 1);
    endpoint.says(Says::Status(500, ""));
    assert!(all("b").await.iter().all(|refused| *refused == Some(IssuerAway)), "they share the failure");
    assert_eq!(endpoint.asked(), 2);
    endpoint.says(good());
    assert_eq!(reason(&bench, "b").await, Allowed, "the next call tries again");
}

#[tokio::test]
async fn answers_that_do_not_say_true_or_false_are_those_of_a_broken_issuer() {
    let endpoint = Endpoint::with(good()).await;
    let bench = Bench::new(vec![endpoint.issuer()]);
    let text = |text: &str| Says::Text(text.to_owned());
    for (index, says) in [
        text("{}"),
        text(r#"{"active":"true"}"#),
        text(r#"{"active":1}"#),
        text(r#"{"active":null}"#),
        text(r#"{"active":true,"active":false}"#),
        text("<html>maintenance</html>"),
        text(""),
        Says::Status(500, ""),
        Says::Status(204, ""),
        Says::Status(302, "Location: http://127.0.0.1:1/\r\n"),
        Says::Endless,
        active_with("exp", "1800000300"),
        active_with("sub", 7),
        active_with("cnf", Value::Null),
        active_with("act", Value::Null),
    ]
    .into_iter()
    .enumerate()
    {
        endpoint.says(says.clone());
        let token = format!("t-{index}");
        assert_eq!(reason(&bench, &token).await, IssuerAway, "{says:?}");
        // So that failures in a row lead to no rest.
        endpoint.says(good());
        assert_eq!(reason(&bench, &token).await, Allowed, "{says:?}");
        assert_eq!(problem(&bench), None);
    }
}

#[tokio::test]
async fn what_somebody_wrote_into_their_own_token_turns_nobody_else_away() {
    let endpoint = Endpoint::with(good()).await;
    let bench = Bench::new(vec![endpoint.issuer()]);
    let members: serde_json::Map<String, Value> = (0..600).map(|index| (format!("m{index}"), json!(0))).collect();
    for says in [active_with("nickname", "\0"), active_with("settings", members), active_with("sub", 7)] {
        endpoint.says(says);
        for index in 0..4 {
            assert_eq!(reason(&bench, &format!("mine-{index}")).await, IssuerAway);
        }
        endpoint.says(good());
        assert_eq!(reason(&bench, "good").await, Allowed);
        bench.clock.pass(Micros::from_secs(31));
    }
}

#[tokio::test]
async fn an_active_token_is_judged_as_a_jwt_is() {
    let endpoint = Endpoint::with(good()).await;
    let bench = Bench::new(vec![endpoint.issuer()]);
    for (index, (says, expected)) in [
        (active_with("exp", NOW - 61), Expired),
        (active_with("nbf", NOW + 61), NotYetValid),
        (active_with("iat", NOW + 61), NotYetValid),
        (active_with("exp", NOW + 100_000), LifetimeTooLong),
        (active_with("aud", "invoices"), WrongAudience),
        (active_with("iss", "https://other.example"), UnknownIssuer),
        (active_with("token_type", "refresh_token"), WrongType),
        (active_with("token_use", "refresh_token"), WrongType),
        (active_with("typ", "Refresh"), WrongType),
        (active_with("token_type", "bearer"), Allowed),
        (Says::Text(json!({"active": true, "aud": "orders"}).to_string()), Allowed),
        (active_with("aud", Value::Null), WrongAudience),
        (active_with("client_id", Value::Null), Allowed),
        (active_with("exp", Value::Null), Allowed),
        (active_with("iss", Value::Null), Allowed),
        (active_with("scope", Value::Null), Allowed),
        (Says::Text(json!({"active": true}).to_string()), WrongAudience),
    ]
    .into_iter()
    .enumerate()
    {
        endpoint.says(says.clone());
        assert_eq!(reason(&bench, &format!("t-{index}")).await, expected, "{says:?}");
    }
}

#[tokio::test]
async fn an_issuer_that_fails_is_left_alone_for_a_moment_and_comes_back() {
    let endpoint = Endpoint::with(Says::Status(500, "")).await;
    let bench = Bench::new(vec![endpoint.issuer()]);
    for index in 0..3 {
        assert_eq!(reason(&bench, &format!("t-{index}")).await, IssuerAway);
    }
    assert!(problem(&bench).unwrap().contains("status 500"));
    assert!(bench.telemetry.render().contains(&format!("tollgate_introspection_up{{issuer=\"{ISSUER}\"}} 0")));
    assert_eq!(reason(&bench, "t-3").await, IssuerAway);
    assert_eq!(endpoint.asked(), 3, "it rests");
    let until = "Date: Fri, 15 Jan 2027 08:00:00 GMT\r\nRetry-After: Fri, 15 Jan 2027 08:00:20 GMT\r\n";
    endpoint.says(Says::Status(503, until));
    bench.clock.pass(Micros::from_secs(1));
    assert_eq!(reason(&bench, "t-4").await, IssuerAway);
    endpoint.says(good());
    bench.clock.pass(Micros::from_secs(19));
    assert_eq!(reason(&bench, "t-4").await, IssuerAway);
    assert_eq!(endpoint.asked(), 4, "as long as it asked for");
    bench.clock.pass(Micros::from_secs(1));
    assert_eq!(reason(&bench, "t-4").await, Allowed);
    assert_eq!(problem(&bench), None);
}

#[tokio::test]
async fn refused_credentials_are_our_fault_and_a_refused_request_is_that_tokens() {
    let endpoint = Endpoint::with(Says::Status(401, "")).await;
    let bench = Bench::new(vec![endpoint.issuer()]);
    assert_eq!(reason(&bench, "t").await, IssuerAway);
    assert_eq!(reason(&bench, "u").await, IssuerAway);
    assert_eq!(endpoint.asked(), 1, "it rests at once");
    let text = bench.telemetry.render();
    assert!(text.contains(r#"tollgate_introspections_total{outcome="denied"} 1"#), "{text}");
    assert!(problem(&bench).unwrap().contains("status 401"));
    let picky = Endpoint::with(Says::Status(400, "")).await;
    let bench = Bench::new(vec![picky.issuer()]);
    for index in 0..10 {
        assert_eq!(reason(&bench, &format!("t-{index}")).await, IssuerAway);
    }
    assert_eq!((picky.asked(), problem(&bench)), (10, None), "whoever makes up tokens turns nobody else away");
}

#[tokio::test]
async fn a_stalled_issuer_bounds_those_who_wait_and_slows_no_other() {
    let stalled = Endpoint::with(Says::Silence).await;
    let quick = Endpoint::with(good()).await;
    let of = |endpoint: &Endpoint, name: &str, prefix: &str| {
        let introspection = Introspection {
            prefix: Some(prefix.to_owned()),
            deadline: Micros::from_millis(700),
            ..endpoint.introspection()
        };
        Issuer { issuer: name.to_owned(), introspection: Some(introspection), ..endpoint.issuer() }
    };
    let bench = Bench::new(vec![of(&stalled, "https://slow.example", "s_"), of(&quick, ISSUER, "q_")]);
    let (now, start) = (bench.clock.now(), Instant::now());
    let mut waiting = JoinSet::new();
    for index in 0..1500 {
        let tokens = Arc::clone(&bench.tokens);
        waiting.spawn(async move {
            let verdict = tokens.inspect(Shown::Token(&format!("s_{index}")), now).get().await.verdict;
            (verdict.unwrap_err(), start.elapsed())
        });
    }
    while stalled.asked() < 64 {
        assert!(start.elapsed() < Duration::from_secs(8));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let asked = Instant::now();
    assert_eq!(reason(&bench, "q_1").await, Allowed);
    assert!(asked.elapsed() < Duration::from_millis(500), "{:?}", asked.elapsed());
    let answers = waiting.join_all().await;
    assert!(answers.iter().all(|(refused, _)| *refused == IssuerAway));
    assert!(stalled.asked() < 250, "{} calls of 1000, 64 at a time", stalled.asked());
    let text = bench.telemetry.render();
    let spared = text.lines().find_map(|line| line.strip_prefix(r#"tollgate_introspections_total{outcome="spared"} "#));
    assert!(spared.unwrap().parse::<usize>().unwrap() >= 1250, "who was not sent says nothing of the issuer: {text}");
    assert_eq!(reason(&bench, "x_1").await, MalformedToken, "nobody's prefix");
}

#[tokio::test]
async fn a_flood_that_an_issuer_cannot_keep_up_with_is_no_failure_of_the_issuer() {
    let endpoint = Endpoint::with(inactive()).await;
    endpoint.world.delay.store(500, Ordering::SeqCst);
    let introspection = Introspection { deadline: Micros::from_secs(4), ..endpoint.introspection() };
    let bench = Bench::new(vec![Issuer { introspection: Some(introspection), ..endpoint.issuer() }]);
    let now = bench.clock.now();
    let mut flood = JoinSet::new();
    for index in 0..900 {
        let tokens = Arc::clone(&bench.tokens);
        flood.spawn(async move { tokens.inspect(Shown::Token(&format!("made-up-{index}")), now).get().await });
    }
    let answers = flood.join_all().await;
    let count = |reason| answers.iter().filter(|answer| answer.verdict == Err(reason)).count();
    assert!(count(InactiveToken) >= 64, "it answers");
    assert!(count(IssuerAway) >= 500, "more than it can answer");
    endpoint.world.delay.store(0, Ordering::SeqCst);
    endpoint.says(good());
    assert_eq!(reason(&bench, "good").await, Allowed, "{:?}", problem(&bench));
}

/// A clock that breaks once.
#[derive(Debug, Default)]
struct Broken(std::sync::atomic::AtomicBool);

impl Clock for Broken {
    fn now(&self) -> Moment {
        assert!(self.0.swap(true, Ordering::SeqCst), "broken on purpose");
        Moment { wall: Micros::from_secs(NOW), steady: Micros::from_secs(1_000) }
    }
}

#[tokio::test]
async fn a_call_that_breaks_leaves_nobody_waiting_and_the_next_question_is_asked_again() {
    let endpoint = Endpoint::with(good()).await;
    let settings = endpoint.issuer();
    let clock: Arc<dyn Clock> = Arc::new(Broken::default());
    let name: Arc<str> = ISSUER.into();
    let keys = Arc::new(Keys::prepare(&settings, &name, &clock).unwrap());
    let fetcher = Fetcher::of(&settings).unwrap();
    let introspector = Introspector::prepare(&settings, &name, &keys, &fetcher, &clock).unwrap().unwrap();
    let remembered = Arc::new(Remembered::new(10, &Telemetry::default()));
    let now = Moment { wall: Micros::from_secs(NOW), steady: Micros::from_secs(1_000) };
    let fingerprint = Fingerprints::draw().unwrap().of("t", 1);
    let ask = || Arc::clone(&introspector).ask("t", fingerprint, &remembered, now).get();
    let (one, other) = tokio::join!(ask(), ask());
    assert_eq!((one.err(), other.err()), (Some(IssuerAway), Some(IssuerAway)));
    assert_eq!(ask().await.err(), None);
}

#[tokio::test]
async fn an_endpoint_that_refuses_one_token_is_not_looked_for_again() {
    let endpoint = Endpoint::with(Says::Status(400, "")).await;
    let introspection = Introspection { url: None, ..endpoint.introspection() };
    let metadata = json!({"issuer": endpoint.base, "introspection_endpoint": format!("{}/introspect", endpoint.base)});
    *endpoint.world.metadata.lock().unwrap() = Some(metadata.to_string());
    let settings = Issuer { issuer: endpoint.base.clone(), introspection: Some(introspection), ..endpoint.issuer() };
    let bench = Bench::new(vec![settings]);
    for index in 0..4 {
        assert_eq!(reason(&bench, &format!("t-{index}")).await, IssuerAway);
    }
    assert_eq!(endpoint.asked(), 5, "the metadata once");
    endpoint.says(Says::Status(404, ""));
    for index in 0..2 {
        assert_eq!(reason(&bench, &format!("u-{index}")).await, IssuerAway);
    }
    assert_eq!(endpoint.asked(), 8, "it has gone: once more");
}

#[tokio::test]
async fn no_token_is_tried_both_ways() {
    let endpoint = Endpoint::with(good()).await;
    let signer = Signer::ec("k");
    let local = Issuer { introspection: Some(endpoint.introspection()), ..issuer_of([&signer]) };
    let asked_of_opaque_only = Introspection { all: false, ..endpoint.introspection() };
    let bench = Bench::new(vec![Issuer { introspection: Some(asked_of_opaque_only), ..local }]);
    assert_eq!(bench.reason(&signer.token(&claims())), Allowed);
    assert_eq!(bench.reason(&Signer::ec("k").token(&claims())), BadSignature);
    // Begins as a JWT, and is none.
    assert_eq!(bench.reason("eyJhbGciOiJub25lIn0.eA."), MalformedToken);
    for garbage in ["", "é", "a b", "a\0", "a,b", "=", "\"a\""] {
        assert_eq!(bench.reason(garbage), MalformedToken, "{garbage:?}");
    }
    assert_eq!(endpoint.asked(), 0);
    assert_eq!(reason(&bench, "not.json.atall").await, Allowed, "two dots make no JWT");
    assert_eq!(endpoint.asked(), 1);
    let bench = Bench::new(vec![endpoint.issuer()]);
    let unsigned = Signer::ec("nobody's").token(&claims());
    assert_eq!(reason(&bench, &unsigned).await, Allowed, "its issuer is asked about all");
    assert_eq!(endpoint.asked(), 2);
    assert!(may_be("a.b") && may_be("abc==") && !may_be("e30.x") && !may_be("e30.a.b.c.d"));
}

#[tokio::test]
async fn an_issuer_that_calls_all_of_its_tokens_active_makes_no_access_tokens_of_them() {
    let endpoint = Endpoint::with(good()).await;
    let bench = Bench::new(vec![endpoint.issuer()]);
    let signer = Signer::ec("k");
    let token = |typ: &str, name: &str, value: Value| {
        let mut header = signer.header();
        header["typ"] = json!(typ);
        signer.compact(&header.to_string(), &claims_with(name, value).to_string())
    };
    for (typ, name, value) in [
        ("JWT", "nonce", json!("n")),
        ("JWT", "at_hash", json!("h")),
        ("JWT", "typ", json!("Refresh")),
        ("JWT", "events", json!({})),
        ("logout+jwt", "sub", json!("ann")),
        ("token-introspection+jwt", "sub", json!("ann")),
        ("dpop+jwt", "sub", json!("ann")),
    ] {
        assert_eq!(reason(&bench, &token(typ, name, value)).await, WrongType, "{typ} {name}");
    }
    assert_eq!(endpoint.asked(), 0);
    assert_eq!(reason(&bench, &token("at+jwt", "sub", json!("ann"))).await, Allowed);
    let strict = Issuer { types: vec!["at+jwt".to_owned()], untyped: false, ..endpoint.issuer() };
    bench.tokens.adopt(vec![strict]).unwrap();
    assert_eq!(reason(&bench, &token("JWT", "sub", json!("ann"))).await, WrongType, "as the configuration demands");
}

#[tokio::test]
async fn a_verdict_ends_with_the_configuration_that_it_was_made_under() {
    let endpoint = Endpoint::with(good()).await;
    let bench = Bench::new(vec![endpoint.issuer()]);
    assert_eq!(reason(&bench, "t").await, Allowed);
    bench.tokens.adopt(vec![endpoint.issuer()]).unwrap();
    assert!(bench.at_once("t").1, "nothing has changed");
    bench.tokens.adopt(vec![Issuer { audiences: vec!["invoices".to_owned()], ..endpoint.issuer() }]).unwrap();
    assert_eq!(reason(&bench, "t").await, WrongAudience);
    bench.tokens.adopt(Vec::new()).unwrap();
    assert_eq!(bench.reason("t"), MalformedToken);
    assert!(bench.telemetry.render().contains(&format!("tollgate_introspection_up{{issuer=\"{ISSUER}\"}} NaN")));
}

#[tokio::test]
async fn a_signed_answer_is_the_issuers_for_us_of_just_now() {
    let signer = Signer::ec("k");
    let endpoint = Endpoint::with(good()).await;
    let introspection = Introspection { signed: true, ..endpoint.introspection() };
    let bench = Bench::new(vec![Issuer {
        introspection: Some(introspection),
        keys: KeySource::Inline(set([signer.jwk()])),
        ..endpoint.issuer()
    }]);
    let answer_by = |by: &Signer, typ: &str, change: &dyn Fn(&mut Value)| {
        let mut claims = json!({"iss": ISSUER, "aud": "toll gate", "iat": NOW, "token_introspection": active()});
        change(&mut claims);
        let mut header = by.header();
        header["typ"] = json!(typ);
        Says::Text(by.compact(&header.to_string(), &claims.to_string()))
    };
    let typ = "token-introspection+jwt";
    for (index, (says, expected)) in [
        (answer_by(&signer, typ, &|_| {}), Allowed),
        (answer_by(&signer, typ, &|claims| claims["aud"] = json!(["x", "toll gate"])), Allowed),
        (answer_by(&signer, typ, &|claims| claims["token_introspection"] = json!({"active": false})), InactiveToken),
        (good(), IssuerAway),
        (answer_by(&signer, "JWT", &|_| {}), IssuerAway),
        (answer_by(&Signer::ec("k"), typ, &|_| {}), IssuerAway),
        (answer_by(&Signer::ec("unknown"), typ, &|_| {}), IssuerAway),
        (answer_by(&signer, typ, &|claims| claims["aud"] = json!("another")), IssuerAway),
        (answer_by(&signer, typ, &|claims| claims["iss"] = json!("https://other.example")), IssuerAway),
        (answer_by(&signer, typ, &|claims| claims["iat"] = json!(NOW - 64)), IssuerAway),
        (answer_by(&signer, typ, &|claims| claims["iat"] = json!(NOW + 61)), IssuerAway),
        (answer_by(&signer, typ, &|claims| claims["token_introspection"] = json!(true)), IssuerAway),
    ]
    .into_iter()
    .enumerate()
    {
        endpoint.says(says.clone());
        assert_eq!(reason(&bench, &format!("t-{index}")).await, expected, "{says:?}");
        endpoint.says(answer_by(&signer, typ, &|_| {}));
        assert_eq!(reason(&bench, &format!("again-{index}")).await, Allowed);
    }
    assert!(endpoint.last().contains("accept: application/token-introspection+jwt"));
    for (name, value) in [("note", json!("\0")), ("note", json!("n".repeat(16_384)))] {
        endpoint.says(answer_by(&signer, typ, &|claims| claims["token_introspection"][name] = value.clone()));
        for index in 0..4 {
            assert_eq!(reason(&bench, &format!("mine-{index}")).await, IssuerAway);
        }
        assert_eq!(problem(&bench), None, "what is in one token turns nobody else away");
    }
}
