//! A stop: calls in flight finish, what only holds a connection open does not hold the stop up.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio_stream::StreamExt as _;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::server::{SOON, Tollgate};

/// Far more than a stop needs that nobody holds up, far less than what it waits for calls in flight.
const AT_ONCE: Duration = Duration::from_secs(5);

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
