//! Limits that are consumed before anybody knows who calls: by every call, or by those whose credential is not accepted.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tollgate::decide::ports::Clock as _;
use tollgate::proto as pb;
use tollgate::proto::envoy::config::core::v3::address::Address as Place;
use tollgate::proto::envoy::config::core::v3::{Address, SocketAddress};
use tollgate::proto::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use tollgate::proto::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use tollgate::proto::envoy::service::auth::v3::check_response::HttpResponse;
use tollgate::proto::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use tollgate::server::dev::DevIssuer;

use crate::redis::calls;
use crate::support::calls::{as_operator, left, length};
use crate::support::liar::{Liar, Says};
use crate::support::poll;
use crate::support::redis::RedisServer;
use crate::support::server::{SOON, Tollgate, in_redis, question};
use crate::support::wire::{Answer, Wire};

/// How many credentials of an address may be wrong within the hour.
const GUESSES: u64 = 3;

const ADDRESS: &str = "192.0.2.7";

/// A Tollgate, the issuer that it trusts, and one that it does not know, which signs under the same name.
struct Bench {
    tollgate: Tollgate,
    issuer: DevIssuer,
    thief: DevIssuer,
}

/// The rules, with further keys of the limit of failures, and further sections.
fn policy(issuer: &DevIssuer, guesses: &str, more: &str) -> String {
    format!(
        r"
{more}
issuers:
  - {{ issuer: 'https://dev.tollgate.invalid', audiences: [demo], operators: true, jwks: {{ keys: [{key}] }} }}
limits:
  guesses: {{ units: {GUESSES}, window: 1h, by: [source.address], charge: on_failure{guesses} }}
  knocks: {{ units: 4, window: 1h, by: [source.address], charge: before_auth }}
  per-subject: {{ units: 50, window: 1h, by: [identity.subject] }}
rules:
  - {{ name: guarded, match: {{ path: /guarded }}, limits: [per-subject, guesses] }}
  - {{ name: knocked, match: {{ path: /knocked }}, limits: [knocks, guesses, per-subject] }}
  - {{ name: open, match: {{ path: /open }}, permit: anyone, limits: [guesses] }}
",
        key = issuer.public_key()
    )
}

fn issuer() -> DevIssuer {
    DevIssuer::new().expect("the system has randomness")
}

impl Bench {
    async fn start(guesses: &str, more: &str) -> Self {
        let issuer = issuer();
        let tollgate = Tollgate::start(&policy(&issuer, guesses, more)).await;
        Self { tollgate, issuer, thief: self::issuer() }
    }

    fn token(&self, subject: &str) -> String {
        self.issuer.token(subject, "", self.tollgate.clock.now().wall).expect("the system has randomness")
    }

    fn forged(&self, subject: &str) -> String {
        self.thief.token(subject, "", self.tollgate.clock.now().wall).expect("the system has randomness")
    }

    async fn verdict(&self, path: &str, token: &str) -> String {
        self.tollgate.verdict("GET", path, Some(token)).await
    }

    /// How often anybody looked for a token among those that are remembered.
    async fn lookups(&self) -> f64 {
        let mut sum = 0.0;
        for outcome in ["hit", "miss", "ended"] {
            sum += self.tollgate.metric(&format!("tollgate_verdict_lookups_total{{outcome=\"{outcome}\"}}")).await;
        }
        sum
    }
}

#[tokio::test]
async fn a_guesser_is_refused_unseen_and_who_is_known_behind_the_same_address_goes_on() {
    let bench = Bench::start("", "").await;
    let ann = bench.token("ann");
    assert_eq!(bench.verdict("/guarded", &ann).await, "allow");
    for number in 0..GUESSES {
        let answer = bench.tollgate.decide(question("GET", "/guarded", Some(&bench.forged("eve")))).await;
        assert_eq!((answer.detail.as_str(), left(&answer.quotas)), ("bad_signature", vec![GUESSES - 1 - number]));
    }
    let before = bench.lookups().await;
    for token in [bench.forged("eve"), bench.token("bob"), "a.b.c".to_owned()] {
        let explained = pb::DecideRequest { explain: true, ..question("GET", "/guarded", Some(&token)) };
        let answer = bench.tollgate.decide(explained).await;
        assert_eq!((answer.allowed, answer.detail.as_str()), (false, "quota_exceeded"));
        assert_eq!(answer.quotas.len(), 1);
        assert_eq!((answer.quotas[0].limit.as_str(), answer.quotas[0].remaining), ("guesses", 0));
        let wait = length(answer.retry_after.as_ref());
        assert!(wait > Duration::from_mins(59) && wait < Duration::from_mins(63), "{wait:?}");
        assert_eq!(answer.quotas[0].retry_after, answer.retry_after);
        let explanation = answer.explanation.expect("it was asked for");
        assert_eq!(explanation.token(), pb::Provenance::Unspecified);
        assert!(explanation.text.contains("was not checked"), "{}", explanation.text);
    }
    assert!((bench.lookups().await - before).abs() < 0.5, "nobody looked at the tokens");
    let answer = bench.tollgate.decide(question("GET", "/guarded", Some(&ann))).await;
    assert!(answer.allowed, "{}", answer.detail);
    assert_eq!(answer.quotas.len(), 1, "she has nothing to do with it: {:?}", answer.quotas);
    assert_eq!(bench.tollgate.verdict("GET", "/guarded", None).await, "deny no_credential");
    let mut elsewhere = question("GET", "/guarded", Some(&bench.forged("eve")));
    elsewhere.request.as_mut().expect("it has one").source_address = "192.0.2.8".to_owned();
    assert_eq!(bench.tollgate.decide(elsewhere).await.detail, "bad_signature");
    bench.tollgate.clock.advance(Duration::from_mins(63));
    assert_eq!(bench.verdict("/guarded", &bench.token("bob")).await, "allow");
}

#[tokio::test]
async fn a_look_uses_nothing_up_and_an_operator_gives_an_address_back() {
    let bench = Bench::start("", "").await;
    for _ in 0..2 * GUESSES {
        let mode = pb::QuotaMode::Peek.into();
        let look = pb::DecideRequest { mode, ..question("GET", "/guarded", Some(&bench.forged("eve"))) };
        let answer = bench.tollgate.decide(look).await;
        assert_eq!((answer.detail.as_str(), left(&answer.quotas)), ("bad_signature", vec![GUESSES]));
    }
    for _ in 0..GUESSES {
        assert_eq!(bench.verdict("/open", &bench.forged("eve")).await, "allow", "anyone may");
    }
    assert_eq!(bench.verdict("/open", &bench.forged("eve")).await, "deny quota_exceeded");
    assert_eq!(bench.tollgate.verdict("GET", "/open", None).await, "allow");
    let operator = bench.issuer.token("op", "tollgate:quota", bench.tollgate.clock.now().wall).expect("it is signed");
    let key = [("source.address".to_owned(), ADDRESS.to_owned())].into();
    let reset = pb::ResetRequest { counter: Some(pb::Counter { limit: "guesses".to_owned(), key }) };
    bench.tollgate.quotas().await.reset(as_operator(reset, &operator)).await.expect("an operator may");
    assert_eq!(bench.verdict("/guarded", &bench.token("bob")).await, "allow");
}

#[tokio::test]
async fn every_call_knocks_whatever_becomes_of_it_and_too_many_are_refused_unseen() {
    let bench = Bench::start("", "").await;
    let ann = bench.token("ann");
    let mut told = Vec::new();
    for token in [Some(ann.as_str()), None, Some(&bench.forged("eve")), Some(&ann)] {
        let answer = bench.tollgate.decide(question("GET", "/knocked", token)).await;
        let quotas = answer.quotas.iter().map(|quota| format!(" {}={}", quota.limit, quota.remaining));
        told.push(answer.detail + &quotas.collect::<String>());
    }
    assert_eq!(
        told,
        [
            "allowed knocks=3 per-subject=49",
            "no_credential knocks=2",
            "bad_signature knocks=1 guesses=2",
            "allowed knocks=0 per-subject=48"
        ]
    );
    let before = bench.lookups().await;
    for token in [Some(ann.as_str()), None, Some(&bench.forged("eve"))] {
        assert_eq!(bench.tollgate.verdict("GET", "/knocked", token).await, "deny quota_exceeded");
    }
    assert!((bench.lookups().await - before).abs() < 0.5, "nobody looked at the tokens");
}

#[tokio::test]
async fn an_issuer_is_asked_about_no_more_guesses_than_the_limit_admits() {
    let liar = Liar::start().await;
    liar.says("/introspect", Says::Text(json!({"active": false}).to_string()));
    let key = issuer().public_key();
    let yaml = format!(
        "issuers: [{{ issuer: 'https://a.example', audiences: [orders], jwks: {{ keys: [{key}] }}, introspection: {{ url: '{url}',
  client_id: tollgate, client_secret: secret }} }}]
limits:
  guesses: {{ units: {GUESSES}, window: 1h, by: [source.address], charge: on_failure }}
rules: [{{ match: {{ path: /guarded }}, limits: [guesses] }}]",
        url = liar.url("/introspect")
    );
    let tollgate = Tollgate::start(&yaml).await;
    let mut told = Vec::new();
    for number in 0..2 * GUESSES {
        told.push(tollgate.verdict("GET", "/guarded", Some(&format!("guess-{number}"))).await);
    }
    let (asked, unasked) = told.split_at(usize::try_from(GUESSES).expect("it is small"));
    assert!(asked.iter().all(|verdict| verdict == "deny inactive_token"), "{told:?}");
    assert!(unasked.iter().all(|verdict| verdict == "deny quota_exceeded"), "{told:?}");
    assert_eq!(liar.visits("/introspect") as u64, GUESSES);
}

/// By which ways decisions are asked for.
#[derive(Clone, Copy, Debug)]
enum Facade {
    Unary,
    Batch,
    Stream,
    Json,
    ForwardAuth,
    Envoy,
}

impl Bench {
    /// What becomes of a call from `address`: the reason, or what an HTTP gateway's client is told.
    async fn told(&self, facade: Facade, address: &str, token: &str) -> String {
        let mut wire = question("GET", "/guarded", Some(token));
        address.clone_into(&mut wire.request.as_mut().expect("it has one").source_address);
        let mut decisions = self.tollgate.decisions().await;
        let of_outcome = |outcome: pb::DecideOutcome| match outcome.kind {
            Some(pb::decide_outcome::Kind::Decision(answer)) => answer.detail,
            other => panic!("{other:?}"),
        };
        match facade {
            Facade::Unary => decisions.decide(wire).await.expect("it is well formed").into_inner().detail,
            Facade::Batch => {
                let questions = vec![wire];
                let answer = decisions.decide_batch(pb::DecideBatchRequest { questions }).await;
                of_outcome(answer.expect("it is well formed").into_inner().outcomes.remove(0))
            }
            Facade::Stream => {
                let asked = stream::iter([pb::DecideStreamRequest { id: 1, question: Some(wire) }]);
                let mut answers = decisions.decide_stream(asked).await.expect("it begins").into_inner();
                let answer = answers.next().await.expect("it is answered").expect("it is well formed");
                of_outcome(answer.outcome.expect("there is one"))
            }
            Facade::Json => {
                let body = json!({
                    "credential": { "bearerToken": token },
                    "request": { "method": "GET", "path": "/guarded", "sourceAddress": address },
                })
                .to_string();
                let head = "POST /v1/decide HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length:";
                let answer = self.http(&format!("{head} {}\r\n\r\n{body}", body.len())).await;
                let told: Value = serde_json::from_str(&answer.body).expect("it is JSON");
                told["detail"].as_str().expect("it is text").to_owned()
            }
            Facade::ForwardAuth => {
                let call = "X-Forwarded-Method: GET\r\nX-Forwarded-Uri: /guarded\r\nX-Forwarded-Host: a\r\nX-Forwarded-Proto: https";
                let who = format!("X-Forwarded-For: {address}\r\nAuthorization: Bearer {token}");
                let answer =
                    self.http(&format!("GET /forward-auth HTTP/1.1\r\nHost: a\r\n{call}\r\n{who}\r\n\r\n")).await;
                let is_told_when =
                    !answer.header("retry-after").is_empty() && answer.header("ratelimit").contains("guesses");
                format!("{} {is_told_when}", answer.status)
            }
            Facade::Envoy => {
                let http = HttpRequest {
                    method: "GET".to_owned(),
                    path: "/guarded".to_owned(),
                    host: "a".to_owned(),
                    headers: [("authorization".to_owned(), format!("Bearer {token}"))].into(),
                    ..HttpRequest::default()
                };
                let socket = SocketAddress { address: address.to_owned(), port_specifier: None };
                let source =
                    Peer { address: Some(Address { address: Some(Place::SocketAddress(socket)) }), ..Peer::default() };
                let request = Some(Request { http: Some(http) });
                let attributes = AttributeContext { request, source: Some(source), ..AttributeContext::default() };
                let mut client = AuthorizationClient::new(self.tollgate.channel().await);
                let answer = client.check(CheckRequest { attributes: Some(attributes) }).await.expect("it answers");
                match answer.into_inner().http_response {
                    Some(HttpResponse::DeniedResponse(denied)) => {
                        let told = |name: &str| {
                            let header = |option: &_| {
                                let tollgate::proto::envoy::config::core::v3::HeaderValueOption { header, .. } = option;
                                header.as_ref().is_some_and(|header| header.key == name)
                            };
                            denied.headers.iter().any(header)
                        };
                        format!("{} {}", denied.status.expect("it has one").code, told("retry-after"))
                    }
                    Some(HttpResponse::OkResponse(_)) => "200".to_owned(),
                    None => panic!("it says nothing"),
                }
            }
        }
    }

    async fn http(&self, request: &str) -> Answer {
        let mut wire = Wire::connect(self.tollgate.server.http).await;
        wire.send(request).await;
        wire.answer().await
    }
}

#[tokio::test]
async fn every_facade_slows_guesses_down() {
    let bench = Bench::start("", "").await;
    let known = bench.token("ann");
    assert_eq!(bench.verdict("/guarded", &known).await, "allow");
    for (number, facade, allowed, failed, refused) in [
        (1, Facade::Unary, "allowed", "bad_signature", "quota_exceeded"),
        (2, Facade::Batch, "allowed", "bad_signature", "quota_exceeded"),
        (3, Facade::Stream, "allowed", "bad_signature", "quota_exceeded"),
        (4, Facade::Json, "allowed", "bad_signature", "quota_exceeded"),
        (5, Facade::ForwardAuth, "200 false", "401 false", "429 true"),
        (6, Facade::Envoy, "200", "401 false", "429 true"),
    ] {
        let address = format!("192.0.2.{number}");
        for _ in 0..GUESSES {
            assert_eq!(bench.told(facade, &address, &bench.forged("eve")).await, failed, "{facade:?}");
        }
        for token in [bench.forged("eve"), bench.token(&format!("new {number}"))] {
            assert_eq!(bench.told(facade, &address, &token).await, refused, "{facade:?}");
        }
        assert_eq!(bench.told(facade, &address, &known).await, allowed, "{facade:?}");
    }
}

#[tokio::test]
async fn replicas_share_what_they_know_of_a_guesser_and_ask_seldom_once_he_is_refused() {
    let Some(redis) = RedisServer::start() else { return };
    let (key, thief) = (issuer(), issuer());
    let yaml = policy(&key, "", &in_redis(&redis));
    let (one, other) = (Tollgate::start(&yaml).await, Tollgate::start(&yaml).await);
    let forged = thief.token("eve", "", one.clock.now().wall).expect("it is signed");
    let mut told = Vec::new();
    for replica in [&one, &other, &one, &other, &one] {
        told.push(replica.verdict("GET", "/guarded", Some(&forged)).await);
    }
    let failed = "deny bad_signature";
    assert_eq!(told, [failed, failed, failed, "deny quota_exceeded", "deny quota_exceeded"]);
    // From here on he is refused from memory: the clocks of the replicas stand still.
    let (before, began) = (calls(&redis, "evalsha"), tokio::time::Instant::now());
    let (mut first, mut second) = (one.decisions().await, other.decisions().await);
    for _ in 0..100 {
        for replica in [&mut first, &mut second] {
            let answer = replica.decide(question("GET", "/guarded", Some(&forged))).await.expect("an answer");
            assert_eq!(answer.into_inner().detail, "quota_exceeded");
        }
    }
    // Each replica beats once a second, and asks at most four times what was revoked.
    let besides = 20 + 2 * 5 * (began.elapsed().as_secs() + 1);
    let asked = calls(&redis, "evalsha") - before;
    assert!(asked <= besides, "{asked} script calls for 200 guesses");
    one.clock.advance(Duration::from_mins(2));
    assert_eq!(one.verdict("GET", "/guarded", Some(&forged)).await, "deny quota_exceeded", "Redis says so");
}

#[tokio::test]
async fn while_redis_is_away_guesses_are_refused_shared_or_let_through_as_the_limit_says() {
    for (when_away, expected) in [
        ("deny", ["deny store_away"; 5]),
        (
            "local",
            [
                "deny bad_signature",
                "deny bad_signature",
                "deny bad_signature",
                "deny quota_exceeded",
                "deny quota_exceeded",
            ],
        ),
        ("allow", ["deny bad_signature"; 5]),
    ] {
        let Some(mut redis) = RedisServer::start() else { return };
        let more = format!("{}\nrevocation: {{ when_behind: allow }}", in_redis(&redis));
        let bench = Bench::start(&format!(", when_away: {when_away}"), &more).await;
        redis.kill();
        poll(SOON, "that Redis is missed", async || {
            let node = format!("tollgate_store_up{{node=\"127.0.0.1:{}\"}}", redis.port());
            // Of another address: its failures are not those that are counted here.
            let mut look = question("GET", "/guarded", Some(&bench.forged("eve")));
            look.request.as_mut().expect("it has one").source_address = "192.0.2.99".to_owned();
            bench.tollgate.decide(look).await;
            (bench.tollgate.metric(&node).await < 0.5).then_some(())
        })
        .await;
        let mut told = Vec::new();
        for _ in 0..5 {
            told.push(bench.verdict("/guarded", &bench.forged("eve")).await);
        }
        assert_eq!(told, expected, "{when_away}");
    }
}
