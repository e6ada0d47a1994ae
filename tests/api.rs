//! The native API over a real socket: batches, streams, quotas, introspection, and what it says to bad input.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _};
use futures_util::{StreamExt as _, stream};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tollgate::decide::ports::Clock as _;
use tollgate::proto as pb;
use tollgate::server::dev::DevIssuer;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use crate::support::calls::{as_operator, charge, fields};
use crate::support::poll;
use crate::support::server::{SOON, Tollgate, question};

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
            r"
{more}
issuers:
  - issuer: https://dev.tollgate.invalid
    audiences: [demo]
    operators: true
    jwks: {{ keys: [{}] }}
limits:
  per-subject: {{ units: 5, window: 10s, by: [identity.subject] }}
  per-order: {{ units: 2, window: 10s, by: [path.id] }}
  per-address: {{ units: 3, window: 10s, by: [source.address] }}
  all: {{ units: 100, window: 10s }}
rules:
  - name: public
    match: {{ path: /public/** }}
    permit: anyone
  - name: orders
    match: {{ path: '/orders/{{id}}' }}
    limits: [per-subject, per-order]
",
            issuer.public_key()
        );
        Self { tollgate: Tollgate::start(&yaml).await, issuer }
    }

    fn token(&self, scope: &str) -> String {
        self.issuer.token("ann", scope, self.tollgate.clock.now().wall).expect("the system has randomness")
    }
}

#[tokio::test]
async fn a_batch_is_answered_in_order_and_a_bad_question_in_its_place() {
    let bench = Bench::start().await;
    let token = bench.token("");
    let mut questions = vec![
        question("GET", "/public/x", None),
        question("GET", "/orders/../x", None),
        question("GET", "/orders/1", None),
        question("GET", "/orders/1", Some(&token)),
    ];
    questions.extend((0..996).map(|_| question("GET", "/nowhere", None)));
    let mut decisions = bench.tollgate.decisions().await;
    let answers = decisions.decide_batch(pb::DecideBatchRequest { questions }).await.expect("it is well formed");
    let told: Vec<String> = answers
        .into_inner()
        .outcomes
        .into_iter()
        .map(|outcome| match outcome.kind.expect("there is an outcome") {
            pb::decide_outcome::Kind::Decision(answer) => answer.detail,
            pb::decide_outcome::Kind::Error(error) => format!("{} {}", error.code, error.violations[0].field),
        })
        .collect();
    assert_eq!(told.len(), 1000);
    assert_eq!(told[..4], ["allowed", "3 request.path", "no_credential", "allowed"]);
    assert!(told[4..].iter().all(|detail| detail == "no_rule"));

    for length in [0, 1001] {
        let questions = vec![question("GET", "/public/x", None); length];
        let status =
            decisions.decide_batch(pb::DecideBatchRequest { questions }).await.expect_err("it is out of range");
        assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec!["questions".to_owned()]));
    }
}

#[tokio::test]
async fn a_stream_answers_by_id_and_outlives_a_bad_question() {
    let bench = Bench::start().await;
    let paths = ["/public/x", "/a//b", "/nowhere"];
    let mut questions: Vec<_> = (0..3000)
        .zip(paths.into_iter().cycle())
        .map(|(id, path)| pb::DecideStreamRequest { id, question: Some(question("GET", path, None)) })
        .collect();
    questions.push(pb::DecideStreamRequest { id: 3000, question: None });
    let answers = bench.tollgate.decisions().await.decide_stream(stream::iter(questions)).await.expect("it begins");
    let mut told: Vec<_> = answers
        .into_inner()
        .map(|answer| {
            let answer = answer.expect("the stream goes on");
            let told = match answer.outcome.and_then(|outcome| outcome.kind).expect("there is an outcome") {
                pb::decide_outcome::Kind::Decision(answer) => answer.detail,
                pb::decide_outcome::Kind::Error(error) => error.violations[0].field.clone(),
            };
            (answer.id, told)
        })
        .collect()
        .await;
    told.sort();
    assert_eq!(told.len(), 3001);
    for (index, (id, told)) in told.iter().enumerate() {
        let wanted = if *id == 3000 { "request" } else { ["allowed", "request.path", "no_rule"][index % 3] };
        assert_eq!((*id, told.as_str()), (index as u64, wanted));
    }
}

#[tokio::test]
async fn a_stream_ends_with_an_invitation_to_connect_again_when_the_replica_stops() {
    let bench = Bench::start().await;
    let (sender, questions) = mpsc::channel(1);
    let mut decisions = bench.tollgate.decisions().await;
    let answers = decisions.decide_stream(ReceiverStream::new(questions)).await.expect("it begins");
    let mut answers = answers.into_inner();
    sender.send(pb::DecideStreamRequest { id: 7, question: None }).await.expect("it is read");
    assert_eq!(answers.next().await.expect("there is one").expect("it is an answer").id, 7);
    let drained = tokio::time::timeout(SOON, bench.tollgate.server.stop()).await.expect("it is bounded");
    let end = answers.next().await.expect("it says why").expect_err("it ends");
    assert_eq!((end.code(), drained), (Code::Unavailable, true), "{end:?}");
}

#[tokio::test]
async fn several_quotas_are_consumed_all_or_none() {
    let bench = Bench::start().await;
    let token = bench.token("");
    let remaining = |answer: &pb::DecideResponse| -> Vec<u64> { answer.quotas.iter().map(|q| q.remaining).collect() };
    let ask = |path: &'static str| question("GET", path, Some(&token));
    assert_eq!(remaining(&bench.tollgate.decide(ask("/orders/1")).await), [4, 1]);
    assert_eq!(remaining(&bench.tollgate.decide(ask("/orders/1")).await), [3, 0]);
    let refused = bench.tollgate.decide(ask("/orders/1")).await;
    assert_eq!((refused.detail.as_str(), remaining(&refused)), ("quota_exceeded", vec![3, 0]));
    let outcomes: Vec<_> = refused.quotas.iter().map(pb::QuotaStatus::outcome).collect();
    assert_eq!(outcomes, [pb::QuotaOutcome::Granted, pb::QuotaOutcome::Short]);
    let other = bench.tollgate.decide(ask("/orders/2")).await;
    assert_eq!(remaining(&other), [2, 1], "the refusal cost nothing");

    let peek = pb::DecideRequest { mode: pb::QuotaMode::Peek.into(), ..ask("/orders/2") };
    for _ in 0..3 {
        assert_eq!(remaining(&bench.tollgate.decide(peek.clone()).await), [2, 1], "a peek costs nothing");
    }
    let never = pb::DecideRequest { units: Some(6), ..ask("/orders/3") };
    let never = bench.tollgate.decide(never).await;
    assert_eq!((never.detail.as_str(), never.retry_after), ("quota_exceeded", None), "waiting would not help");
    assert_eq!(remaining(&bench.tollgate.decide(peek).await), [2, 1], "nothing was taken for it");
}

#[tokio::test]
async fn a_question_may_name_more_limits() {
    let bench = Bench::start().await;
    let limits = vec![pb::LimitCharge { limit: "per-address".to_owned(), units: Some(2) }];
    let ask = pb::DecideRequest { limits, ..question("GET", "/public/x", None) };
    assert!(bench.tollgate.decide(ask.clone()).await.allowed);
    let refused = bench.tollgate.decide(ask.clone()).await;
    assert_eq!((refused.detail.as_str(), refused.quotas[0].remaining), ("quota_exceeded", 1));

    let limits = vec![pb::LimitCharge { limit: "no-such".to_owned(), units: None }];
    let status = bench.tollgate.decisions().await.decide(pb::DecideRequest { limits, ..ask }).await;
    assert_eq!(fields(&status.expect_err("there is no such limit")), ["limits[0].limit"]);
}

#[tokio::test]
async fn an_explanation_says_how_the_answer_came_about() {
    let bench = Bench::start().await;
    let ask = pb::DecideRequest { explain: true, ..question("GET", "/orders/1", Some(&bench.token(""))) };
    let cold = bench.tollgate.decide(ask.clone()).await.explanation.expect("it was asked for");
    assert_eq!((cold.token(), cold.quotas()), (pb::Provenance::Asked, pb::Provenance::Memory));
    let warm = bench.tollgate.decide(ask).await.explanation.expect("it was asked for");
    assert_eq!((warm.token(), warm.rule.as_str(), warm.policy_version), (pb::Provenance::Memory, "orders", 1));
    assert_eq!(warm.replica, "test");
    assert_eq!(bench.tollgate.decide(question("GET", "/public/x", None)).await.explanation, None);
}

#[tokio::test]
async fn introspection_is_for_operators_and_says_nothing_of_bad_tokens() {
    let bench = Bench::start().await;
    let (mut tokens, token) = (bench.tollgate.tokens().await, bench.token("a b"));
    let operator = bench.token("tollgate:introspect");
    let asked = |token: &str| pb::IntrospectRequest { token: token.to_owned(), token_type_hint: String::new() };

    let answer = tokens.introspect(asked(&token)).await.expect_err("the caller shows nothing");
    assert_eq!(answer.code(), Code::Unauthenticated);
    let answer = tokens.introspect(as_operator(asked(&token), "garbage")).await.expect_err("that is no token");
    assert_eq!(answer.code(), Code::Unauthenticated);
    let answer = tokens.introspect(as_operator(asked(&token), &token)).await.expect_err("it lacks the scope");
    assert_eq!(answer.code(), Code::PermissionDenied);
    let mut twice = as_operator(asked(&token), &operator);
    twice.metadata_mut().append("authorization", MetadataValue::from_static("Bearer x"));
    assert_eq!(tokens.introspect(twice).await.expect_err("which one?").code(), Code::Unauthenticated);

    let good = tokens.introspect(as_operator(asked(&token), &operator)).await.expect("it may").into_inner();
    assert_eq!((good.active, good.scope.as_str(), good.sub.as_str()), (true, "a b", "ann"));
    assert_eq!((good.token_type.as_str(), good.aud), ("Bearer", vec!["demo".to_owned()]));
    let mut changed = token.clone();
    changed.pop();
    let expired = {
        bench.tollgate.clock.advance(Duration::from_hours(13));
        token
    };
    let operator = bench.token("tollgate:introspect");
    for bad in ["x", changed.as_str(), expired.as_str()] {
        let answer = tokens.introspect(as_operator(asked(bad), &operator)).await.expect("it may").into_inner();
        assert_eq!(answer, pb::IntrospectResponse::default(), "only that it is not active");
    }
    let empty = tokens.introspect(as_operator(asked(""), &operator)).await.expect_err("there is none");
    assert_eq!(fields(&empty), ["token"]);
}

#[tokio::test]
async fn an_issuer_that_may_not_grant_it_makes_no_operators() {
    let issuer = DevIssuer::new().expect("the system has randomness");
    let yaml = format!(
        "issuers: [{{ issuer: 'https://dev.tollgate.invalid', audiences: [demo], jwks: {{ keys: [{}] }} }}]",
        issuer.public_key()
    );
    let bench = Bench { tollgate: Tollgate::start(&yaml).await, issuer };
    let operator = bench.token("tollgate:introspect tollgate:quota");
    let asked = pb::IntrospectRequest { token: operator.clone(), token_type_hint: String::new() };
    let status = bench.tollgate.tokens().await.introspect(as_operator(asked, &operator)).await;
    assert_eq!(status.expect_err("its issuer has no say").code(), Code::PermissionDenied);
    let reset = as_operator(pb::ResetRequest::default(), &operator);
    let status = bench.tollgate.quotas().await.reset(reset).await.expect_err("its issuer has no say");
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("operators"), "{}", status.message());
}

#[tokio::test]
async fn quotas_can_be_consumed_looked_at_and_reset_on_their_own() {
    let bench = Bench::start().await;
    let mut quotas = bench.tollgate.quotas().await;
    let address = [("source.address", "192.0.2.9")];
    let both = vec![charge("per-address", &address, Some(2)), charge("all", &[], None)];
    let answer = quotas.consume(pb::ConsumeRequest { charges: both.clone() }).await.expect("well formed").into_inner();
    let left: Vec<_> = answer.quotas.iter().map(|quota| quota.remaining).collect();
    assert_eq!((answer.allowed, left), (true, vec![1, 99]));
    let answer = quotas.peek(pb::PeekRequest { charges: both.clone() }).await.expect("well formed").into_inner();
    assert!(!answer.allowed && answer.retry_after.is_some());
    let answer = quotas.consume(pb::ConsumeRequest { charges: both.clone() }).await.expect("well formed").into_inner();
    let left: Vec<_> = answer.quotas.iter().map(|quota| quota.remaining).collect();
    assert_eq!((answer.allowed, left), (false, vec![1, 99]), "all or none");

    let reset = pb::ResetRequest { counter: both[0].counter.clone() };
    let refused = quotas.reset(reset.clone()).await.expect_err("anyone could lift limits");
    assert_eq!(refused.code(), Code::Unauthenticated);
    let refused =
        quotas.reset(as_operator(reset.clone(), &bench.token("other"))).await.expect_err("it lacks the scope");
    assert_eq!(refused.code(), Code::PermissionDenied);
    let operator = bench.token("tollgate:quota");
    quotas.reset(as_operator(reset, &operator)).await.expect("an operator may");
    let empty = quotas.reset(as_operator(pb::ResetRequest::default(), &operator)).await.expect_err("which?");
    assert_eq!(fields(&empty), ["counter"]);
    let answer = quotas.consume(pb::ConsumeRequest { charges: both }).await.expect("well formed").into_inner();
    assert!(answer.allowed);
}

#[tokio::test]
async fn charges_that_are_not_well_formed_are_named() {
    let bench = Bench::start().await;
    let mut quotas = bench.tollgate.quotas().await;
    let hostile = "a b\u{0}\n:{}*\"";
    for (charges, wrong) in [
        (vec![], vec!["charges"]),
        (vec![charge("all", &[], None); 17], vec!["charges"]),
        (vec![charge("all", &[], Some(0))], vec!["charges[0].units"]),
        (vec![charge("all", &[], Some(u64::MAX))], vec!["charges[0].units"]),
        (
            vec![charge("", &[], None), charge(hostile, &[], None)],
            vec!["charges[0].counter.limit", "charges[1].counter.limit"],
        ),
        (vec![charge("all", &[("x", "y")], None)], vec!["charges[0].counter.key"]),
        (vec![charge("per-address", &[], None)], vec!["charges[0].counter.key"]),
        (vec![charge("per-address", &[("source.address", "")], None)], vec!["charges[0].counter.key"]),
        (vec![charge("per-address", &[("source.address", hostile)], None)], vec!["charges[0].counter.key"]),
        (vec![charge("all", &[], None), charge("all", &[], None)], vec!["charges[1].counter"]),
    ] {
        let status = quotas.consume(pb::ConsumeRequest { charges }).await.expect_err("it is not well formed");
        assert_eq!(
            (status.code(), fields(&status)),
            (Code::InvalidArgument, wrong.iter().map(|&f| f.to_owned()).collect())
        );
    }
    let subject = [("identity.issuer", hostile), ("identity.subject", hostile)];
    let charges = vec![charge("per-subject", &subject, None)];
    let answer = quotas.consume(pb::ConsumeRequest { charges }).await.expect("any text is a name").into_inner();
    assert!(answer.allowed);
}

#[tokio::test]
async fn bytes_that_are_no_message_are_the_askers_fault() {
    let bench = Bench::start().await;
    let channel = bench.tollgate.channel().await;
    let good = question("GET", "/public/x", None).encode_to_vec();
    raw(channel.clone(), good.clone()).await.expect("the raw client works");
    let mut not_utf8 = good;
    let place = not_utf8.windows(7).position(|bytes| bytes == b"/public").expect("it holds the path");
    not_utf8[place + 1] = 0xff;
    let huge = pb::DecideRequest {
        resource: [("x".to_owned(), "y".repeat(5 << 20))].into(),
        ..question("GET", "/public/x", None)
    };
    let nested = vec![0x12; 1000];
    for (bytes, field) in [
        (not_utf8, "request.path"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(), ""),
        (nested, "request"),
        (huge.encode_to_vec(), "message"),
        (Vec::new(), "request"),
    ] {
        let length = bytes.len();
        let status = raw(channel.clone(), bytes).await.expect_err("that is no question");
        assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec![field.to_owned()]), "{length} bytes");
    }
    assert_eq!(bench.tollgate.verdict("GET", "/public/x", None).await, "allow", "nothing was harmed");
}

#[tokio::test]
async fn a_key_that_is_no_text_is_named() {
    let bench = Bench::start().await;
    let charges = vec![charge("per-address", &[("source.address", "?")], None)];
    let mut bytes = pb::ConsumeRequest { charges }.encode_to_vec();
    let place = bytes.iter().rposition(|&byte| byte == b'?').expect("it holds the key");
    bytes[place] = 0xff;
    for method in ["Consume", "Peek", "Reserve", "Refund"] {
        let method = format!("/tollgate.v1.QuotaService/{method}");
        let status = raw_to(&method, bench.tollgate.channel().await, bytes.clone()).await.expect_err("it is no text");
        assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec!["charges.counter.key".to_owned()]));
    }
}

/// A status travels in headers, and clients bound those: Java's gRPC to 8 KiB, hyper to 16.
#[tokio::test]
async fn however_much_is_wrong_the_answer_is_one_that_clients_can_read() {
    const HEADERS_MAX: usize = 8 * 1024;
    let bench = Bench::start().await;
    let resource = (0..900).map(|index| (format!("\u{1}{index}{}", "\u{7f}".repeat(4096)), String::new())).collect();
    let limits = (0..16).map(|index| pb::LimitCharge { limit: format!("{index}{}", "ß".repeat(64)), units: None });
    let ask = question("GET", "/public/x", None);
    for asked in [pb::DecideRequest { resource, ..ask.clone() }, pb::DecideRequest { limits: limits.collect(), ..ask }]
    {
        let status = bench.tollgate.decisions().await.decide(asked.clone()).await.expect_err("much is wrong");
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(!fields(&status).is_empty() && status.message().contains(" more"), "{status:?}");
        let bytes = status.message().len() + status.details().len() * 4 / 3;
        assert!(bytes < HEADERS_MAX - 512, "{bytes} bytes");
        let batch = pb::DecideBatchRequest { questions: vec![asked] };
        let answer =
            bench.tollgate.decisions().await.decide_batch(batch).await.expect("it is well formed").into_inner();
        let Some(pb::decide_outcome::Kind::Error(error)) = answer.outcomes[0].kind.clone() else {
            panic!("{answer:?}")
        };
        assert_eq!((error.message.as_str(), error.violations.len()), (status.message(), fields(&status).len()));
    }
}

#[tokio::test]
async fn too_many_calls_are_turned_away_at_once_and_health_checks_are_not() {
    let bench = Bench::start_with("bounds: { calls_in_flight: 2 }").await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let (sender, questions) = mpsc::channel(1);
        let mut decisions = bench.tollgate.decisions().await;
        let answers = decisions.decide_stream(ReceiverStream::new(questions)).await.expect("there is room");
        held.push((sender, answers));
    }
    let mut decisions = bench.tollgate.decisions().await;
    let status = decisions.decide(question("GET", "/public/x", None)).await.expect_err("there is no room");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()), "{status:?}");
    let mut health = HealthClient::new(bench.tollgate.channel().await);
    health.check(HealthCheckRequest::default()).await.expect("a busy replica is not a broken one");
    assert!(bench.tollgate.metric("tollgate_overload_total").await >= 1.0);

    drop(held);
    poll(SOON, "room", async || decisions.decide(question("GET", "/public/x", None)).await.ok()).await;
}

#[tokio::test]
async fn every_service_has_a_status_and_is_described() {
    let bench = Bench::start().await;
    let mut health = HealthClient::new(bench.tollgate.channel().await);
    for service in [
        "",
        "tollgate.v1.DecisionService",
        "tollgate.v1.QuotaService",
        "tollgate.v1.TokenService",
        "envoy.service.auth.v3.Authorization",
    ] {
        let asked = HealthCheckRequest { service: service.to_owned() };
        let answer = health.check(asked).await.expect("it has one").into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    let unknown = HealthCheckRequest { service: "nobody".to_owned() };
    assert_eq!(health.check(unknown).await.expect_err("there is none").code(), Code::NotFound);
}

/// Sends `bytes` as the message of a `Decide`.
async fn raw(channel: Channel, bytes: Vec<u8>) -> Result<Vec<u8>, Status> {
    raw_to("/tollgate.v1.DecisionService/Decide", channel, bytes).await
}

/// Sends `bytes` as the message of that method.
async fn raw_to(method: &str, channel: Channel, bytes: Vec<u8>) -> Result<Vec<u8>, Status> {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.expect("the server is there");
    let path = method.parse().expect("it is a path");
    client.unary(Request::new(bytes), path, Raw).await.map(tonic::Response::into_inner)
}

/// Messages as they are.
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining()).to_vec()))
    }
}
