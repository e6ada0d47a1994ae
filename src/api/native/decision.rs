//! `DecisionService`: one question, many, or a stream of them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::question::question;
use super::{answer, status};
use crate::decide::{Decided, Decider, Violation};
use crate::proto as pb;
use crate::proto::decision_service_server::DecisionService;
use crate::telemetry::Facade;

/// The most questions in a batch.
const BATCH_MAX: usize = 1_000;

/// The most questions of one stream that are decided at a time; no more are read meanwhile.
const STREAM_PENDING_MAX: usize = 256;

/// Answers `DecisionService`.
pub struct Decisions(Arc<Shared>);

struct Shared {
    decider: Arc<Decider>,
    replica: Box<str>,
    stopping: CancellationToken,
}

impl Decisions {
    /// Has `decider` decide. Explanations name `replica`; streams end when `stopping` is cancelled.
    pub fn new(decider: Arc<Decider>, replica: &str, stopping: CancellationToken) -> Self {
        Self(Arc::new(Shared { decider, replica: replica.into(), stopping }))
    }
}

impl Shared {
    async fn decide(&self, wire: &pb::DecideRequest, facade: Facade) -> Decided {
        match question(wire) {
            Ok(question) => self.decider.decide(&question, facade).get().await,
            Err(undecidable) => {
                self.decider.turned_away(facade);
                Err(undecidable)
            }
        }
    }
}

#[async_trait]
impl DecisionService for Decisions {
    async fn decide(&self, request: Request<pb::DecideRequest>) -> Result<Response<pb::DecideResponse>, Status> {
        let decision = self.0.decide(request.get_ref(), Facade::Unary).await?;
        Ok(Response::new(answer::response(&decision, &self.0.replica)))
    }

    async fn decide_batch(
        &self,
        request: Request<pb::DecideBatchRequest>,
    ) -> Result<Response<pb::DecideBatchResponse>, Status> {
        let questions = &request.get_ref().questions;
        if questions.is_empty() || questions.len() > BATCH_MAX {
            let description = format!("must have from 1 to {BATCH_MAX} entries; it has {}", questions.len());
            return Err(status::malformed(&[Violation { field: "questions".to_owned(), description }]));
        }
        let shared = &*self.0;
        let outcomes = questions.iter().map(|wire| async move {
            let decided = shared.decide(wire, Facade::Batch).await;
            answer::outcome(&decided, &shared.replica)
        });
        Ok(Response::new(pb::DecideBatchResponse { outcomes: join_all(outcomes).await }))
    }

    type DecideStreamStream = Answers;

    async fn decide_stream(
        &self,
        request: Request<Streaming<pb::DecideStreamRequest>>,
    ) -> Result<Response<Self::DecideStreamStream>, Status> {
        let stopping = self.0.stopping.clone().cancelled_owned();
        Ok(Response::new(Answers {
            shared: Arc::clone(&self.0),
            questions: Some(request.into_inner()),
            pending: FuturesUnordered::new(),
            stopping: Box::pin(stopping),
            end: None,
        }))
    }
}

type Pending = Pin<Box<dyn Future<Output = pb::DecideStreamResponse> + Send>>;

/// The answers to a stream of questions, in the order in which they become known.
pub struct Answers {
    shared: Arc<Shared>,
    /// None once no more are read.
    questions: Option<Streaming<pb::DecideStreamRequest>>,
    pending: FuturesUnordered<Pending>,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    /// How the stream ends once nothing is pending; none: well.
    end: Option<Status>,
}

impl Answers {
    /// Reads no more questions. What was asked is still answered.
    fn close(&mut self, end: Option<Status>) {
        self.questions = None;
        self.end = end;
    }

    /// The answer, where it takes no waiting; else it is pending.
    fn ask(&mut self, wire: pb::DecideStreamRequest) -> Option<pb::DecideStreamResponse> {
        let shared = Arc::clone(&self.shared);
        let mut answer: Pending = Box::pin(async move {
            let pb::DecideStreamRequest { id, question } = wire;
            // An absent question is read as an empty one: that says what is needed.
            let decided = shared.decide(&question.unwrap_or_default(), Facade::Stream).await;
            pb::DecideStreamResponse { id, outcome: Some(answer::outcome(&decided, &shared.replica)) }
        });
        let known = (&mut answer).now_or_never();
        if known.is_none() {
            self.pending.push(answer);
        }
        known
    }
}

impl Stream for Answers {
    type Item = Result<pb::DecideStreamResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Poll::Ready(Some(answer)) = this.pending.poll_next_unpin(cx) {
            return Poll::Ready(Some(Ok(answer)));
        }
        while this.pending.len() < STREAM_PENDING_MAX
            && let Some(questions) = &mut this.questions
        {
            match questions.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(wire))) => {
                    if let Some(answer) = this.ask(wire) {
                        return Poll::Ready(Some(Ok(answer)));
                    }
                }
                Poll::Ready(Some(Err(status))) => this.close(Some(status)),
                Poll::Ready(None) => this.close(None),
                Poll::Pending if this.stopping.poll_unpin(cx).is_ready() => this.close(Some(status::stopping())),
                Poll::Pending => break,
            }
        }
        match this.pending.poll_next_unpin(cx) {
            Poll::Ready(Some(answer)) => Poll::Ready(Some(Ok(answer))),
            Poll::Ready(None) if this.questions.is_none() => Poll::Ready(this.end.take().map(Err)),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}
