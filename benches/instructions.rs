//! What the parts of a decision, and whole ones, take in instructions and allocations: figures that do not depend on what
//! else the machine does.
//!
//! `scripts/instructions` runs this under callgrind, which counts what [`counted`] does. Run by itself, as `cargo test` does, it
//! counts allocations, and fails where they are more than the budget or than `instructions.txt` has.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a bench says what it finds, and fails by panicking"
)]

mod asked;
mod checked;
mod decision;
mod descriptors;
mod facades;
#[expect(dead_code, reason = "only its services are used")]
#[path = "../loadtest/floor.rs"]
mod floor;
mod house;
mod leases;
mod orders;
mod revoked;
mod rules;
mod signer;
mod tokens;

use std::convert::Infallible;
use std::fmt::Debug;
use std::fs;
use std::hint::black_box;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use futures_util::FutureExt as _;
use http::Request;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use mimalloc::MiMalloc;
use prost::Message;
use serde_json::json;
use stats_alloc::StatsAlloc;
use tokio_util::sync::CancellationToken;
use tollgate::api::envoy_authz::ExtAuthz;
use tollgate::api::envoy_rls::RateLimitApi;
use tollgate::api::native::Decisions;
use tollgate::api::{Peer, http as pages, unary};
use tollgate::decide::ports::{Answer, EventSink, RevocationView as _, Shown, TokenInspector as _, Told, Unheard};
use tollgate::domain::decision::Reason;
use tollgate::domain::policy::{Met, Policy};
use tollgate::proto as pb;
use tollgate::proto::decision_service_server::DecisionServiceServer;
use tollgate::proto::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use tollgate::proto::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use tollgate::proto::envoy::service::auth::v3::CheckResponse;
use tollgate::proto::envoy::service::auth::v3::authorization_server::AuthorizationServer;
use tollgate::proto::envoy::service::auth::v3::check_response::HttpResponse;
use tollgate::proto::envoy::service::ratelimit::v3::rate_limit_service_server::RateLimitServiceServer;
use tollgate::proto::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse, rate_limit_response};
use tollgate::telemetry::Facade;
use tollgate::tokens::VERDICTS_MAX_DEFAULT;
use tonic::Status;
use tower::{Service, service_fn};

use self::facades::{answer, answer_whole, call, framed, messages};
use self::floor::{Floor, Same};
use self::house::{House, NOW, Standing, at_hand};
use self::signer::Signer;

/// The server's, and how often it is asked.
#[global_allocator]
static ALLOCATOR: StatsAlloc<MiMalloc> = StatsAlloc::new(MiMalloc);

/// What was found when it was last renewed: name, instructions, allocations.
const BASELINE: &str = "benches/instructions.txt";

/// How often each case is done, and beforehand, uncounted, since tables and leases have their size after that. In so many decisions
/// the histogram takes room for samples once, wherever it stands.
const CALLS: usize = 64;

/// Questions of a batch, and of a stream.
const MANY: usize = 64;

/// Allocations of a decision beyond those of a service that answers with a copy.
const OWN_ALLOCATIONS_MAX: usize = 4;

fn main() {
    let asked: Vec<String> = std::env::args().collect();
    // `cargo bench` is for times.
    if asked.iter().any(|argument| argument == "--bench") {
        return;
    }
    let mut counts = Counts::default();
    messages_alone(&mut counts);
    parts(&mut counts);
    leased(&mut counts);
    decisions(&mut counts);
    native(&mut counts);
    envoys(&mut counts);
    over_http(&mut counts);
    counts.keep_budgets();
    // The script compares by itself, and may be about to renew.
    if asked.iter().all(|argument| argument != "--count") {
        counts.keep_baseline();
    }
}

/// What was counted.
#[derive(Default)]
struct Counts(Vec<Count>);

struct Count {
    name: &'static str,
    /// Of all calls together.
    allocations: usize,
}

/// What callgrind counts, by this function's name.
#[inline(never)]
fn counted<I, O>(inputs: Vec<I>, call: &mut impl FnMut(I) -> O) {
    for input in inputs {
        black_box(call(black_box(input)));
    }
}

impl Counts {
    /// Counts what `call` does with inputs that are made beforehand. Says so at once, in the order in which callgrind does.
    fn take<I, O>(&mut self, name: &'static str, mut input: impl FnMut() -> I, mut call: impl FnMut(I) -> O) {
        for _ in 0..CALLS {
            call(input());
        }
        let inputs = (0..CALLS).map(|_| input()).collect();
        let before = allocations();
        counted(inputs, &mut call);
        let count = Count { name, allocations: allocations() - before };
        println!("{name} {CALLS} {}", count.allocations);
        self.0.push(count);
    }

    fn allocations(&self, name: &str) -> usize {
        self.0.iter().find(|count| count.name == name).unwrap().allocations
    }

    /// Fails where a decision allocates too often.
    fn keep_budgets(&self) {
        for (own, floor, decisions) in [
            ("native_unary", "native_unary_floor", 1),
            ("native_batch_of_64", "native_batch_of_64_floor", MANY),
            ("native_stream_of_64", "native_stream_of_64_floor", MANY),
            ("ext_authz", "ext_authz_floor", 1),
            ("rate_limit", "rate_limit_floor", 1),
        ] {
            let (own_count, floor_count) = (self.allocations(own), self.allocations(floor));
            let most = floor_count + OWN_ALLOCATIONS_MAX * decisions * CALLS;
            assert!(own_count <= most, "{own} allocates {own_count} times, {floor} {floor_count}: {most} are allowed");
        }
    }

    /// Fails where there are more allocations than there were.
    fn keep_baseline(&self) {
        let baseline = fs::read_to_string(BASELINE).unwrap();
        for line in baseline.lines().filter(|line| !line.starts_with('#')) {
            let (name, counted) = line.split_once(' ').unwrap();
            let (_, most) = counted.split_once(' ').unwrap();
            let (found, most) = (self.allocations(name), most.parse().unwrap());
            assert!(found <= most, "{name} allocates {found} times in {CALLS} calls, instead of {most}");
        }
    }
}

/// Whatever takes or enlarges memory.
fn allocations() -> usize {
    let stats = ALLOCATOR.stats();
    stats.allocations + stats.reallocations
}

fn nothing() {}

/// A house whose clock stands still and whose keys are always the same, so that each call does what the one before did. Quotas are
/// paid at the memory store.
fn still() -> House {
    House::with_desk(Arc::new(Standing), Signer::new("EdDSA"), VERDICTS_MAX_DEFAULT, 0, house::at_the_store)
}

/// The same, but quotas are paid from leases, which never end.
fn still_with_leases() -> House {
    House::with_desk(Arc::new(Standing), Signer::new("EdDSA"), VERDICTS_MAX_DEFAULT, 0, house::from_leases)
}

/// What prost does for any service with these messages.
fn messages_alone(counts: &mut Counts) {
    let house = still();
    let question = orders::question(house.token("alice"));
    let asked = question.encode_to_vec();
    counts.take("decode_question", nothing, |()| pb::DecideRequest::decode(asked.as_slice()).unwrap());
    let decided: pb::DecideResponse = one(answer(&mut service(&house), call(DECIDE, &framed([&question]))));
    let mut room = Vec::with_capacity(decided.encoded_len());
    counts.take("encode_answer", nothing, |()| {
        room.clear();
        decided.encode(&mut room).unwrap();
    });
}

fn parts(counts: &mut Counts) {
    for (name, rules) in [("rule_last_of_10", 10), ("rule_last_of_10000", 10_000)] {
        let policy = rules::last_of(rules);
        let question = house::question("");
        assert!(matches!(policy.find(&question), Ok(Met::Rule(_))));
        counts.take(name, nothing, |()| policy.find(&question));
    }
    rules::with_demand(rules::OWNER_OR_ADMIN, |demand, identity, call| {
        counts.take("demand_with_expression", nothing, |()| demand.admits(Some(identity), call));
    });
    let house = still();
    let token = house.token("alice");
    tokens::inspect(&house, &token);
    assert!(tokens::inspect(&house, &token).remembered);
    counts.take("token_remembered", nothing, |()| house.tokens.inspect(Shown::Token(&token), NOW));
    for (name, entries) in [("revoked_beside_none", 0), ("revoked_beside_1000000", 1_000_000)] {
        let (revocations, identity) = revoked::beside(entries);
        counts.take(name, nothing, |()| at_hand(revocations.standing(&identity, NOW)));
    }
}

fn leased(counts: &mut Counts) {
    for (name, limits) in [("leased_1_limit", 1), ("leased_2_limits", 2), ("leased_8_limits", 8)] {
        let (desk, charges) = leases::leased_to(limits);
        counts.take(name, || charges.clone(), |charges| leases::pay(&desk, charges));
    }
    let (desk, charges) = leases::used_up();
    counts.take("refused_from_memory", || charges.clone(), |charges| leases::pay(&desk, charges));
}

/// From the question to the decision: a remembered token, two limits.
fn decisions(counts: &mut Counts) {
    for (name, house) in [("decision", still()), ("decision_leased", still_with_leases())] {
        let token = house.token("alice");
        let question = house::question(&token);
        let decide = || at_hand(house.decider.decide(&question, Facade::Unary)).unwrap();
        assert_eq!(decide().reason, Reason::Allowed);
        counts.take(name, nothing, |()| decide());
    }
}

const DECIDE: &str = "/tollgate.v1.DecisionService/Decide";
const BATCH: &str = "/tollgate.v1.DecisionService/DecideBatch";
const STREAM: &str = "/tollgate.v1.DecisionService/DecideStream";

fn service(house: &House) -> impl Asked<Body = unary::Body> + use<> {
    let decisions = Decisions::new(Arc::clone(&house.decider), "bench", CancellationToken::new());
    service_fn(move |request| decisions.call(request))
}

/// A service that is asked here.
trait Asked: Service<Request<Body>, Response = http::Response<<Self as Asked>::Body>, Error = Infallible> {
    type Body: http_body::Body<Data = Bytes, Error = Status> + Send + Unpin + 'static;
}

impl<S, B> Asked for S
where
    S: Service<Request<Body>, Response = http::Response<B>, Error = Infallible>,
    B: http_body::Body<Data = Bytes, Error = Status> + Send + Unpin + 'static,
{
    type Body = B;
}

/// The only message of an answer.
fn one<M, B>(answer: http::Response<B>) -> M
where
    M: Message + Default + Debug,
    B: http_body::Body<Data = Bytes, Error = Status> + Send + 'static,
{
    let [message] = <[M; 1]>::try_from(messages(answer)).unwrap();
    message
}

/// `DecisionService`, and one that answers with a copy.
fn native(counts: &mut Counts) {
    let house = still();
    let question = orders::question(house.token("alice"));
    let unary = framed([&question]);
    let decided: pb::DecideResponse = one(answer(&mut service(&house), call(DECIDE, &unary)));
    assert!(decided.allowed && decided.quotas.len() == 2, "{decided:?}");
    let floor = DecisionServiceServer::new(Floor::new(decided));
    let names = ["native_unary", "native_batch_of_64", "native_stream_of_64"];
    native_of(counts, service(&house), &question, names);
    native_of(
        counts,
        floor,
        &question,
        ["native_unary_floor", "native_batch_of_64_floor", "native_stream_of_64_floor"],
    );
}

fn native_of(
    counts: &mut Counts,
    mut service: impl Asked,
    question: &pb::DecideRequest,
    [unary_name, batch_name, stream_name]: [&'static str; 3],
) {
    let unary = framed([question]);
    counts.take(unary_name, || call(DECIDE, &unary), |request| answer_whole(&mut service, request));
    let batch = framed([&pb::DecideBatchRequest { questions: vec![question.clone(); MANY] }]);
    let outcomes: pb::DecideBatchResponse = one(answer(&mut service, call(BATCH, &batch)));
    assert!(outcomes.outcomes.len() == MANY && outcomes.outcomes.iter().all(allows));
    counts.take(batch_name, || call(BATCH, &batch), |request| answer_whole(&mut service, request));
    let questions: Vec<pb::DecideStreamRequest> =
        (0..MANY as u64).map(|id| pb::DecideStreamRequest { id, question: Some(question.clone()) }).collect();
    let stream = framed(&questions);
    let outcomes: Vec<pb::DecideStreamResponse> = messages(answer(&mut service, call(STREAM, &stream)));
    assert!(outcomes.len() == MANY && outcomes.iter().all(|answer| answer.outcome.as_ref().is_some_and(allows)));
    counts.take(stream_name, || call(STREAM, &stream), |request| answer_whole(&mut service, request));
}

fn allows(outcome: &pb::DecideOutcome) -> bool {
    matches!(&outcome.kind, Some(pb::decide_outcome::Kind::Decision(decision)) if decision.allowed)
}

/// What an Envoy's filters ask, and services that answer with a copy.
fn envoys(counts: &mut Counts) {
    const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
    let house = still();
    let question = framed([&checked::question(&house.token("alice"))]);
    let authorization = ExtAuthz::new(Arc::clone(&house.decider));
    let mut service = service_fn(|request| authorization.call(request));
    let told: CheckResponse = one(answer(&mut service, call(CHECK, &question)));
    assert!(matches!(told.http_response, Some(HttpResponse::OkResponse(_))), "{told:?}");
    counts.take("ext_authz", || call(CHECK, &question), |request| answer_whole(&mut service, request));
    let mut floor = AuthorizationServer::new(Same(told));
    counts.take("ext_authz_floor", || call(CHECK, &question), |request| answer_whole(&mut floor, request));
    rate_limits(counts);
}

fn rate_limits(counts: &mut Counts) {
    const SHOULD_RATE_LIMIT: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
    let house = still_with_leases();
    let folder = descriptors::folder(10, 1, "");
    house.decider.adopt(Policy { version: 2, ..descriptors::load(&folder).policy });
    let entry = |(key, value): (&str, &str)| Entry { key: key.into(), value: value.into() };
    let descriptor = |tenant| RateLimitDescriptor {
        entries: [("tenant", tenant), ("path", "/orders")].map(entry).into(),
        ..RateLimitDescriptor::default()
    };
    let descriptors = ["value-3", "value-7"].map(descriptor).into();
    let question = RateLimitRequest { domain: "domain-0".to_owned(), descriptors, hits_addend: 1 };
    let question = framed([&question]);
    let (limits, peer) = (RateLimitApi::new(Arc::clone(&house.decider)), Peer::default());
    let mut service = service_fn(|request| limits.call(&peer, request));
    let limited: RateLimitResponse = one(answer(&mut service, call(SHOULD_RATE_LIMIT, &question)));
    assert_eq!(limited.overall_code(), rate_limit_response::Code::Ok, "{limited:?}");
    assert!(limited.statuses.len() == 2 && limited.statuses.iter().all(|status| status.current_limit.is_some()));
    counts.take("rate_limit", || call(SHOULD_RATE_LIMIT, &question), |request| answer_whole(&mut service, request));
    let mut floor = RateLimitServiceServer::new(Same(limited));
    counts.take("rate_limit_floor", || call(SHOULD_RATE_LIMIT, &question), |request| answer_whole(&mut floor, request));
}

/// No identity provider tells anything.
struct Deaf;

impl EventSink for Deaf {
    fn hear<'a>(&'a self, _: Told<'a>) -> Answer<'a, Result<(), Unheard>> {
        unreachable!("nobody tells anything")
    }
}

/// `/v1/decide` and `/forward-auth`.
fn over_http(counts: &mut Counts) {
    // A body has so long to come.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _within = runtime.enter();
    let house = still();
    let token = house.token("alice");
    let mut pages = pages::router(Arc::clone(&house.decider), Arc::new(Deaf), "bench").unwrap();
    let question = json!({
        "credential": { "bearerToken": token },
        "request": { "method": "GET", "path": "/orders/1", "host": "shop.example.com", "sourceAddress": "192.0.2.7" },
    })
    .to_string();
    let in_json = || Request::post("/v1/decide").header(CONTENT_TYPE, "application/json");
    let ask = || in_json().body(Body::from(question.clone())).unwrap();
    let body = axum::body::to_bytes(answer(&mut pages, ask()).into_body(), usize::MAX).now_or_never().unwrap().unwrap();
    let told: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert!(told["allowed"] == true && told["quotas"].as_array().is_some_and(|quotas| quotas.len() == 2), "{told}");
    counts.take("http_decide", ask, |request| answer_whole(&mut pages, request));
    let ask = || {
        let told = Request::get("/forward-auth")
            .header("x-forwarded-method", "GET")
            .header("x-forwarded-uri", "/orders/1")
            .header("x-forwarded-host", "shop.example.com")
            .header("x-forwarded-proto", "https")
            .header("x-forwarded-for", "192.0.2.7")
            .header(AUTHORIZATION, format!("Bearer {token}"));
        let mut request = told.body(Body::empty()).unwrap();
        request.extensions_mut().insert(Peer::at(Some([127, 0, 0, 1].into())));
        request
    };
    let told = answer(&mut pages, ask());
    assert!(told.status() == 200 && told.headers().contains_key("ratelimit"), "{told:?}");
    counts.take("forward_auth", ask, |request| answer_whole(&mut pages, request));
}
