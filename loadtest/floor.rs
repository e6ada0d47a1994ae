//! The floor: the same service on the same transport with the same messages, that decides nothing.
//!
//! Every question gets a copy of one answer that a real server gave. What is left is what HTTP/2, gRPC and the messages
//! themselves cost; the rest of a decision's cost is Tollgate's own.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::pin::Pin;

use futures_util::{Stream, StreamExt as _};
use prost::Message as _;
use tokio::net::TcpListener;
use tollgate::proto as pb;
use tollgate::proto::decide_outcome::Kind;
use tollgate::proto::decision_service_server::{DecisionService, DecisionServiceServer};
use tollgate::server::{MESSAGE_BYTES_MAX, transport};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming, async_trait};

/// What it prints before its address.
pub(crate) const LISTENS: &str = "the floor listens on ";

/// Serves until the process is ended.
pub(crate) fn run(answer: &Path) -> Result<(), String> {
    let bytes = fs::read(answer).map_err(|error| format!("{}: {error}", answer.display()))?;
    let answer = pb::DecideResponse::decode(bytes.as_slice()).map_err(|error| format!("the answer: {error}"))?;
    // As the server has it.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the runtime: {error}"))?;
    runtime.block_on(serve(answer)).map_err(|error| format!("the floor cannot serve: {error}"))
}

async fn serve(answer: pb::DecideResponse) -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    writeln!(io::stdout(), "{LISTENS}{}", listener.local_addr()?)?;
    let outcome = pb::DecideOutcome { kind: Some(Kind::Decision(answer.clone())) };
    let service = DecisionServiceServer::new(Floor { answer, outcome }).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    transport().add_service(service).serve_with_incoming(incoming).await?;
    Ok(())
}

struct Floor {
    answer: pb::DecideResponse,
    outcome: pb::DecideOutcome,
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
