//! The floor: the same services with the same messages, that decide nothing.
//!
//! Every question gets a copy of one answer that a real server gave. What is left is what HTTP/2, gRPC and the messages
//! themselves cost. On tonic's own server that is what anybody's service costs; on what the server stands on, it shows
//! what that saves.

use std::convert::Infallible;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::pin::Pin;

use clap::ValueEnum;
use futures_util::{Stream, StreamExt as _};
use hyper::body::Incoming;
use prost::Message as _;
use tokio::net::TcpListener;
use tollgate::proto as pb;
use tollgate::proto::decide_outcome::Kind;
use tollgate::proto::decision_service_server::{DecisionService, DecisionServiceServer};
use tollgate::proto::envoy::service::auth::v3::authorization_server::{Authorization, AuthorizationServer};
use tollgate::proto::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use tollgate::proto::envoy::service::ratelimit::v3::rate_limit_service_server::{
    RateLimitService, RateLimitServiceServer,
};
use tollgate::proto::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use tollgate::server::serve_grpc;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service as Call};
use tonic::server::NamedService;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming, async_trait};

/// What it prints before its address.
pub(crate) const LISTENS: &str = "the floor listens on ";

/// Which service decides nothing.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Service {
    /// `tollgate.v1.DecisionService`.
    Decision,
    /// `envoy.service.auth.v3.Authorization`.
    Authorization,
    /// `envoy.service.ratelimit.v3.RateLimitService`.
    RateLimit,
}

impl Service {
    /// As the command line says it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Decision => "decision",
            Self::Authorization => "authorization",
            Self::RateLimit => "rate-limit",
        }
    }
}

/// What it stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    /// tonic's server, as anyone would write it.
    Tonic,
    /// What Tollgate stands on.
    Own,
}

impl Transport {
    /// As the command line says it.
    pub(crate) const fn argument(self) -> &'static str {
        match self {
            Self::Tonic => "tonic",
            Self::Own => "own",
        }
    }
}

/// Serves until the process is ended.
pub(crate) fn run(service: Service, transport: Transport, answer: &Path) -> Result<(), String> {
    let answer = fs::read(answer).map_err(|error| format!("{}: {error}", answer.display()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the runtime: {error}"))?;
    runtime.block_on(serve(service, transport, &answer)).map_err(|error| format!("the floor cannot serve: {error}"))
}

async fn serve(service: Service, transport: Transport, answer: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
    match service {
        Service::Decision => {
            serve_on(transport, DecisionServiceServer::new(Floor::new(pb::DecideResponse::decode(answer)?))).await
        }
        Service::Authorization => {
            serve_on(transport, AuthorizationServer::new(Same(CheckResponse::decode(answer)?))).await
        }
        Service::RateLimit => {
            serve_on(transport, RateLimitServiceServer::new(Same(RateLimitResponse::decode(answer)?))).await
        }
    }
}

/// What makes an answer of a call.
type Answer = BoxFuture<http::Response<Body>, Infallible>;

async fn serve_on<S>(transport: Transport, service: S) -> Result<(), Box<dyn std::error::Error>>
where
    S: Call<http::Request<Body>, Response = http::Response<Body>, Error = Infallible, Future = Answer>
        + Call<http::Request<Incoming>, Response = http::Response<Body>, Error = Infallible, Future = Answer>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    writeln!(io::stdout(), "{LISTENS}{}", listener.local_addr()?)?;
    match transport {
        Transport::Tonic => {
            let connections = TcpIncoming::from(listener).with_nodelay(Some(true));
            Server::builder().add_service(service).serve_with_incoming(connections).await?;
        }
        Transport::Own => {
            serve_grpc(listener, move |request: http::Request<Incoming>| service.clone().call(request)).await;
        }
    }
    Ok(())
}

/// Gives always the same answer.
pub(crate) struct Same<T>(pub T);

#[async_trait]
impl Authorization for Same<CheckResponse> {
    async fn check(&self, _request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        Ok(Response::new(self.0.clone()))
    }
}

#[async_trait]
impl RateLimitService for Same<RateLimitResponse> {
    async fn should_rate_limit(
        &self,
        _request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        Ok(Response::new(self.0.clone()))
    }
}

/// Gives always the same answer, by itself and in batches and streams.
pub(crate) struct Floor {
    answer: pb::DecideResponse,
    outcome: pb::DecideOutcome,
}

impl Floor {
    /// With that answer.
    pub(crate) fn new(answer: pb::DecideResponse) -> Self {
        let outcome = pb::DecideOutcome { kind: Some(Kind::Decision(answer.clone())) };
        Self { answer, outcome }
    }
}

#[async_trait]
impl DecisionService for Floor {
    async fn decide(&self, _request: Request<pb::DecideRequest>) -> Result<Response<pb::DecideResponse>, Status> {
        Ok(Response::new(self.answer.clone()))
    }

    async fn decide_batch(
        &self,
        request: Request<pb::DecideBatchRequest>,
    ) -> Result<Response<pb::DecideBatchResponse>, Status> {
        let outcomes = vec![self.outcome.clone(); request.get_ref().questions.len()];
        Ok(Response::new(pb::DecideBatchResponse { outcomes }))
    }

    type DecideStreamStream = Pin<Box<dyn Stream<Item = Result<pb::DecideStreamResponse, Status>> + Send>>;

    async fn decide_stream(
        &self,
        request: Request<Streaming<pb::DecideStreamRequest>>,
    ) -> Result<Response<Self::DecideStreamStream>, Status> {
        let outcome = self.outcome.clone();
        let answers = request.into_inner().map(move |question| {
            let id = question?.id;
            Ok(pb::DecideStreamResponse { id, outcome: Some(outcome.clone()) })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}
