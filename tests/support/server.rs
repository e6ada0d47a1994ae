//! A Tollgate in this process, on free ports, with a clock that the test moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tollgate::config;
use tollgate::decide::ports::Clock;
use tollgate::domain::time::{Micros, Moment};
use tollgate::proto as pb;
use tollgate::proto::decision_service_client::DecisionServiceClient;
use tollgate::proto::quota_service_client::QuotaServiceClient;
use tollgate::proto::token_service_client::TokenServiceClient;
use tollgate::server::{Server, SystemClock};
use tonic::transport::{Channel, Endpoint};

use super::poll;
use super::redis::RedisServer;

/// How long anything may take that should happen at once, on a machine that is busy with other tests.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Starts at the machine's time and stands still until it is moved.
pub(crate) struct TestClock {
    start: Moment,
    /// None: it stands still.
    running: Option<SystemClock>,
    moved: AtomicU64,
}

impl TestClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { start: SystemClock::start().now(), running: None, moved: AtomicU64::new(0) })
    }

    /// One that goes on as the machine's does, for a store that has a clock of its own.
    pub(crate) fn running() -> Arc<Self> {
        let clock = SystemClock::start();
        Arc::new(Self { start: clock.now(), running: Some(clock), moved: AtomicU64::new(0) })
    }

    /// One that stands still at that second since the epoch.
    pub(crate) fn at(secs: u64) -> Arc<Self> {
        let start = Moment { wall: Micros::from_secs(secs), ..SystemClock::start().now() };
        Arc::new(Self { start, running: None, moved: AtomicU64::new(0) })
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.moved.fetch_add(Micros::from(by).0, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Moment {
        let moved = Micros(self.moved.load(Ordering::Relaxed));
        let Moment { wall, steady } = self.running.as_ref().map_or(self.start, SystemClock::now);
        Moment { wall: wall + moved, steady: steady + moved }
    }
}

/// A Tollgate that serves until it is dropped.
pub(crate) struct Tollgate {
    pub(crate) server: Server,
    pub(crate) clock: Arc<TestClock>,
    http: reqwest::Client,
}

impl Tollgate {
    /// Starts one that is configured by `yaml`, on free ports, and waits until it is ready.
    pub(crate) async fn start(yaml: &str) -> Self {
        Self::start_with(yaml, TestClock::new()).await
    }

    /// The same, with a clock of the test's.
    pub(crate) async fn start_with(yaml: &str, clock: Arc<TestClock>) -> Self {
        Self::start_as(configuration(yaml), clock).await
    }

    /// One that is configured so, ports and all.
    pub(crate) async fn start_as(config: config::Config, clock: Arc<TestClock>) -> Self {
        let server = Server::start(config, Arc::clone(&clock) as _, "test").await;
        let server = server.unwrap_or_else(|problem| panic!("{problem}"));
        tokio::time::timeout(SOON, server.ready()).await.expect("it gets ready");
        let http = reqwest::Client::builder().no_proxy().timeout(SOON).build().expect("nothing can be amiss");
        Self { server, clock, http }
    }

    /// A connection of its own.
    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.server.grpc)).expect("it is a URL");
        endpoint.connect().await.expect("the server listens")
    }

    pub(crate) async fn decisions(&self) -> DecisionServiceClient<Channel> {
        DecisionServiceClient::new(self.channel().await)
    }

    pub(crate) async fn quotas(&self) -> QuotaServiceClient<Channel> {
        QuotaServiceClient::new(self.channel().await)
    }

    pub(crate) async fn tokens(&self) -> TokenServiceClient<Channel> {
        TokenServiceClient::new(self.channel().await)
    }

    /// The answer to a well-formed question.
    pub(crate) async fn decide(&self, question: pb::DecideRequest) -> pb::DecideResponse {
        self.decisions().await.decide(question).await.unwrap_or_else(|status| panic!("{status:?}")).into_inner()
    }

    /// `allow`, or `deny` and the detail: what most tests are about.
    pub(crate) async fn verdict(&self, method: &str, path: &str, token: Option<&str>) -> String {
        let answer = self.decide(question(method, path, token)).await;
        if answer.allowed { "allow".to_owned() } else { format!("deny {}", answer.detail) }
    }

    /// The status and text of a page of the admin port.
    pub(crate) async fn page(&self, path: &str) -> (u16, String) {
        let answer = self.http.get(format!("http://{}{path}", self.server.admin)).send().await.expect("it answers");
        (answer.status().as_u16(), answer.text().await.expect("it answers in text"))
    }

    /// The value of a series, named as in the exposition; 0 where there is none.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        let (_, text) = self.page("/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().expect("it is a number"))
    }

    /// Asks until the verdict is `wanted`.
    pub(crate) async fn comes_to(&self, wanted: &str, method: &str, path: &str, token: Option<&str>) {
        let what = format!("{method} {path}: {wanted}");
        poll(SOON, &what, async || (self.verdict(method, path, token).await == wanted).then_some(())).await;
    }
}

/// Reads `yaml`, with free ports put before it.
pub(crate) fn configuration(yaml: &str) -> config::Config {
    let yaml = format!("listen: {{ grpc: 127.0.0.1:0, http: 127.0.0.1:0, admin: 127.0.0.1:0 }}\n{yaml}");
    let (config, _) = config::parse(&yaml, "test.yaml", &|_| None).unwrap_or_else(|problems| panic!("{problems}"));
    config
}

/// The section of a configuration that keeps counters in `redis`, with a deadline that a busy machine meets.
pub(crate) fn in_redis(redis: &RedisServer) -> String {
    format!("store: {{ redis: {{ urls: ['{}'], deadline: 5s }} }}", redis.url())
}

/// A question about a call, from the caller who holds `token`.
pub(crate) fn question(method: &str, path: &str, token: Option<&str>) -> pb::DecideRequest {
    let kind = token.map(|token| pb::credential::Kind::BearerToken(token.to_owned()));
    pb::DecideRequest {
        credential: Some(pb::Credential { kind, ..pb::Credential::default() }),
        request: Some(pb::RequestAttributes {
            method: method.to_owned(),
            path: path.to_owned(),
            host: String::new(),
            source_address: "192.0.2.7".to_owned(),
            ..pb::RequestAttributes::default()
        }),
        ..pb::DecideRequest::default()
    }
}
