//! A stop: calls in flight finish, what only holds a connection open does not hold the stop up.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;
use tollgate::proto::decision_service_client::DecisionServiceClient;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::program::{decides, logged, served};
use crate::support::redis::RedisServer;
use crate::support::server::{SOON, Tollgate, question};
use crate::support::{Signal, poll};

/// Far more than a stop needs that nobody holds up, far less than what it waits for calls in flight.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Calls of `/asks` wait for Redis, up to ten seconds.
fn asking(redis: &RedisServer, drain: &str) -> String {
    format!(
        "store: {{ redis: {{ urls: ['{}'], deadline: 10s }} }}\n\
         bounds: {{ drain: {drain} }}\n\
         limits: {{ a: {{ units: 9, window: 1m }} }}\n\
         rules: [{{ match: {{ path: /asks }}, permit: anyone, limits: [a] }}]",
        redis.url(),
    )
}

/// Asks what Redis, which stands still, does not answer.
async fn ask(tollgate: &Tollgate) -> JoinHandle<bool> {
    let mut decisions = tollgate.decisions().await;
    let asked = tokio::spawn(async move {
        decisions.decide(question("GET", "/asks", None)).await.is_ok_and(|a| a.get_ref().allowed)
    });
    poll(SOON, "the call", async || (tollgate.metric("tollgate_calls_in_flight").await > 0.5).then_some(())).await;
    asked
}

#[tokio::test]
async fn a_call_in_flight_is_answered_before_the_stop_ends() {
    let Some(redis) = RedisServer::start() else { return };
    let tollgate = Tollgate::start(&asking(&redis, "60s")).await;
    redis.pause();
    let asked = ask(&tollgate).await;
    let mut stop = tokio::spawn(tollgate.server.stop());
    tokio::time::timeout(Duration::from_millis(300), &mut stop).await.expect_err("it waits for the call");
    redis.resume();
    assert!(asked.await.expect("it does not panic"), "it is allowed");
    assert!(tokio::time::timeout(SOON, stop).await.expect("it ends").expect("it does not panic"));
}

#[tokio::test]
async fn a_stop_waits_for_calls_no_longer_than_it_is_told() {
    let Some(redis) = RedisServer::start() else { return };
    let tollgate = Tollgate::start(&asking(&redis, "100ms")).await;
    redis.pause();
    let asked = ask(&tollgate).await;
    let drained = tokio::time::timeout(AT_ONCE, tollgate.server.stop()).await.expect("it is bounded");
    assert!(!drained);
    asked.abort();
}

#[tokio::test]
async fn a_second_signal_does_not_wait_for_calls() {
    let Some(redis) = RedisServer::start() else { return };
    let (mut process, _folder, url) = served(&asking(&redis, "60s")).await;
    decides(&url, "/asks", 0).await;
    redis.pause();
    let endpoint = Endpoint::from_shared(url).expect("it is a URL");
    let mut decisions = DecisionServiceClient::new(endpoint.connect().await.expect("the server listens"));
    let asked = tokio::spawn(async move { decisions.decide(question("GET", "/asks", None)).await.map(|_| ()) });
    let metrics = format!("http://{}/metrics", logged(&process, "admin").await);
    poll(SOON, "the call", async || {
        let page = reqwest::get(&metrics).await.ok()?.text().await.ok()?;
        page.contains("tollgate_calls_in_flight 1").then_some(())
    })
    .await;
    process.signal(Signal::Terminate);
    poll(SOON, "the stop", async || process.complaints().contains("stopping").then_some(())).await;
    process.signal(Signal::Terminate);
    assert_eq!(process.ended(AT_ONCE).await.code(), Some(1));
    asked.await.expect("it does not panic").expect_err("it is cut off");
}

async fn start() -> Tollgate {
    Tollgate::start("bounds: { drain: 60s }\nrules: [{ match: { path: /one }, permit: anyone }]").await
}

async fn stops_at_once(tollgate: Tollgate) {
    let drained = tokio::time::timeout(AT_ONCE, tollgate.server.stop()).await.expect("nothing holds it up");
    assert!(drained);
}

#[tokio::test]
async fn whoever_watches_the_health_is_told_and_let_go() {
    let tollgate = start().await;
    let mut health = HealthClient::new(tollgate.channel().await);
    let asked = HealthCheckRequest { service: "tollgate.v1.DecisionService".to_owned() };
    let mut statuses = health.watch(asked).await.expect("it has one").into_inner();
    let status = statuses.next().await.expect("there is one").expect("it is one");
    assert_eq!(status.status(), ServingStatus::Serving);
    let seen = tokio::spawn(async move {
        let mut seen = Vec::new();
        while let Some(Ok(status)) = statuses.next().await {
            seen.push(status.status());
        }
        seen
    });
    stops_at_once(tollgate).await;
    let seen = tokio::time::timeout(SOON, seen).await.expect("it ends").expect("it does not panic");
    assert_eq!(seen, [ServingStatus::NotServing]);
}

#[tokio::test]
async fn a_connection_that_never_speaks_does_not_hold_up_a_stop() {
    let tollgate = start().await;
    let _silent = TcpStream::connect(tollgate.server.grpc).await.expect("the server listens");
    // It is accepted before the stop: one that comes after it is served.
    assert_eq!(tollgate.verdict("GET", "/one", None).await, "allow");
    stops_at_once(tollgate).await;
}
