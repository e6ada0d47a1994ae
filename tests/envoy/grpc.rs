//! Clients of gRPC behind the gateway: what they are told are codes that they know.

use axum::Router;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::{Bench, PATIENT, Setup};

/// A service of gRPC, which everybody can be: health checks.
async fn health() -> Router {
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("orders", ServingStatus::Serving).await;
    tonic::service::Routes::new(service).into_axum_router()
}

struct Client(HealthClient<Channel>);

impl Client {
    async fn of(bench: &Bench) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{}", bench.envoy.address)).unwrap();
        Self(HealthClient::new(endpoint.connect().await.unwrap()))
    }

    /// What the service says, or how it is refused. `bearer` is a header's line.
    async fn check(&mut self, bearer: Option<&str>) -> Result<i32, Status> {
        let mut request = Request::new(HealthCheckRequest { service: "orders".to_owned() });
        if let Some((_, value)) = bearer.and_then(|line| line.split_once(": ")) {
            request.metadata_mut().insert("authorization", MetadataValue::try_from(value).unwrap());
        }
        self.0.check(request).await.map(|answer| answer.into_inner().status)
    }

    async fn refusal(&mut self, bearer: Option<&str>) -> (Code, String) {
        let status = self.check(bearer).await.unwrap_err();
        (status.code(), status.message().to_owned())
    }
}

#[tokio::test]
async fn clients_of_grpc_are_answered_in_its_codes() {
    let two = [("per-client: { units: 100", "per-client: { units: 2")];
    let setup = Setup { tollgate: &two, envoy: &[PATIENT], service: health().await, ..Setup::default() };
    let Some(bench) = Bench::start(setup).await else { return };
    let mut client = Client::of(&bench).await;
    let good = bench.bearer("ann", "orders:read");
    for _ in 0..2 {
        let served = tonic_health::pb::health_check_response::ServingStatus::Serving as i32;
        assert_eq!(client.check(Some(&good)).await.unwrap(), served);
    }
    let used_up = client.check(Some(&good)).await.unwrap_err();
    assert_eq!((used_up.code(), used_up.message()), (Code::ResourceExhausted, "A quota is used up."));
    assert_eq!(used_up.metadata().get("ratelimit").unwrap(), r#""per-client";r=0;t=62"#);
    assert!(used_up.metadata().get("retry-after").is_some());
    let nobody = client.refusal(None).await;
    assert_eq!(nobody.0, Code::Unauthenticated);
    assert_eq!(nobody.1, "The rule demands a caller who is authenticated, and no credential was shown.");
    let poor = client.refusal(Some(&bench.bearer("ann", "other"))).await;
    assert_eq!(poor, (Code::PermissionDenied, "A scope that the rule demands was not granted.".to_owned()));
}

#[tokio::test]
async fn what_is_away_is_unavailable_to_clients_of_grpc() {
    // Nothing listens there: the keys are never had.
    let away = [("jwks: { keys: [", "jwks: { url: 'http://127.0.0.1:9/keys' } } # [")];
    let setup = Setup { tollgate: &away, envoy: &[PATIENT], service: health().await, ..Setup::default() };
    let Some(bench) = Bench::start(setup).await else { return };
    let (code, message) = Client::of(&bench).await.refusal(Some(&bench.bearer("ann", "orders:read"))).await;
    assert_eq!(code, Code::Unavailable);
    assert_eq!(message, "It could not be found out whether the call may go on; try again.");
}

#[tokio::test]
async fn a_path_that_two_could_read_differently_is_an_invalid_argument_to_clients_of_grpc() {
    let Some(bench) = Bench::start(Setup { envoy: &[PATIENT], ..Setup::default() }).await else { return };
    let head = "POST /grpc.health.v1.Health/./Check HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n";
    let answer = bench.envoy.send(head.as_bytes()).await;
    assert_eq!((answer.status, answer.header("grpc-status")), (200, Some("3")), "{answer:?}");
    assert!(answer.header("grpc-message").is_some_and(|message| message.starts_with("request.path ")), "{answer:?}");
    // What only begins like it is HTTP.
    let answer = bench.envoy.get("/api/orders/./1", &["content-type: application/grpc-web-text"]).await;
    assert_eq!((answer.status, answer.header("grpc-status")), (400, None));
}
