//! The floor: the same services on the same transport with the same messages, that decide nothing.
//!
//! Every question gets a copy of one answer that a real server gave. What is left is what HTTP/2, gRPC and the messages
//! themselves cost; the rest of a decision's cost is Tollgate's own.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::pin::Pin;

use clap::ValueEnum;
use futures_util::{Stream, StreamExt as _};
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
use tollgate::server::{MESSAGE_BYTES_MAX, transport};
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

/// Serves until the process is ended.
pub(crate) fn run(service: Service, answer: &Path) -> Result<(), String> {
    let answer = fs::read(answer).map_err(|error| format!("{}: {error}", answer.display()))?;
    // As the server has it.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the runtime: {error}"))?;
    runtime.block_on(serve(service, &answer)).map_err(|error| format!("the floor cannot serve: {error}"))
}

async fn serve(service: Service, answer: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
    let router = match service {
        Service::Decision => {
            let service = DecisionServiceServer::new(Floor::new(pb::DecideResponse::decode(answer)?));
            transport().add_service(service.max_decoding_message_size(MESSAGE_BYTES_MAX))
        }
        Service::Authorization => {
            let service = AuthorizationServer::new(Same(CheckResponse::decode(answer)?));
            transport().add_service(service.max_decoding_message_size(MESSAGE_BYTES_MAX))
        }
        Service::RateLimit => {
            let service = RateLimitServiceServer::new(Same(RateLimitResponse::decode(answer)?));
            transport().add_service(service.max_decoding_message_size(MESSAGE_BYTES_MAX))
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    writeln!(io::stdout(), "{LISTENS}{}", listener.local_addr()?)?;
    router.serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true))).await?;
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
