//! `DecisionService`: one question, many, or a stream of them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use tokio::task::coop;
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
            // A thousand new tokens are a tenth of a second of signature checks: others get their turn in between.
            coop::consume_budget().await;
            let decided = shared.decide(wire, Facade::Batch).await;
            answer::outcome(&decided, &shared.replica)
        });
        Ok(Response::new(pb::DecideBatchResponse { outcomes: join_all(outcomes).await }))
    }

    type DecideStreamStream = Answers<Streaming<pb::DecideStreamRequest>>;

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
pub struct Answers<Q> {
    shared: Arc<Shared>,
    /// None once no more are read.
    questions: Option<Q>,
    pending: FuturesUnordered<Pending>,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    /// How the stream ends once nothing is pending; none: well.
    end: Option<Status>,
}

impl<Q> Answers<Q> {
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

impl<Q> Stream for Answers<Q>
where
    Q: Stream<Item = Result<pb::DecideStreamRequest, Status>> + Unpin,
{
    type Item = Result<pb::DecideStreamResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // An asker who is always ahead must neither keep the thread from others nor the replica from stopping.
        let turn = ready!(coop::poll_proceed(cx));
        let this = &mut *self;
        if this.questions.is_some() && this.stopping.poll_unpin(cx).is_ready() {
            this.close(Some(status::stopping()));
        }
        let answer = this.poll_answer(cx);
        if answer.is_ready() {
            turn.made_progress();
        }
        answer
    }
}

impl<Q> Answers<Q>
where
    Q: Stream<Item = Result<pb::DecideStreamRequest, Status>> + Unpin,
{
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<pb::DecideStreamResponse, Status>>> {
        if let Poll::Ready(Some(answer)) = self.pending.poll_next_unpin(cx) {
            return Poll::Ready(Some(Ok(answer)));
        }
        while self.pending.len() < STREAM_PENDING_MAX
            && let Some(questions) = &mut self.questions
        {
            match questions.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(wire))) => {
                    if let Some(answer) = self.ask(wire) {
                        return Poll::Ready(Some(Ok(answer)));
                    }
                }
                Poll::Ready(Some(Err(status))) => self.close(Some(status)),
                Poll::Ready(None) => self.close(None),
                Poll::Pending => break,
            }
        }
        match self.pending.poll_next_unpin(cx) {
            Poll::Ready(Some(answer)) => Poll::Ready(Some(Ok(answer))),
            Poll::Ready(None) if self.questions.is_none() => Poll::Ready(self.end.take().map(Err)),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::expect_used, reason = "a test fails by panicking")]

    use futures_util::stream;

    use super::*;
    use crate::decide::ports::{
        Answer, Away, Charges, Clock, Hits, Inspected, NoLog, Payment, Proved, Quotas, Refunds, RevocationView,
        Settlements, Shown, Standing, TokenInspector,
    };
    use crate::domain::decision::{QuotaStates, Reason};
    use crate::domain::identity::{Identity, Thumbprint};
    use crate::domain::limit::{CounterKey, Limit};
    use crate::domain::question::Question;
    use crate::domain::time::{Micros, Moment};
    use crate::telemetry::Telemetry;

    /// Every port, answering at once.
    struct World;

    impl Clock for World {
        fn now(&self) -> Moment {
            Moment { wall: Micros(1), steady: Micros(1) }
        }
    }

    impl TokenInspector for World {
        fn inspect<'a>(&'a self, _: Shown<'a>, _: Moment) -> Answer<'a, Inspected> {
            Answer::Now(Inspected { verdict: Err(Reason::BadSignature), remembered: false })
        }

        fn prove<'a>(&'a self, _: &Arc<Identity>, _: &'a Question<'a>, _: Moment) -> Answer<'a, Proved> {
            Answer::Now(Ok(()).into())
        }

        fn signing_keys(&self, _: &str, _: &str) -> Result<Vec<Thumbprint>, Reason> {
            Err(Reason::UnknownIssuer)
        }
    }

    impl RevocationView for World {
        fn standing<'a>(&'a self, _: &Arc<Identity>, _: Moment) -> Answer<'a, Standing> {
            Answer::Now(Standing::Good)
        }
    }

    impl Quotas for World {
        fn pay(&self, _: Charges, _: Moment) -> Answer<'_, Payment> {
            Answer::Now(Payment {
                reason: Reason::Allowed,
                states: QuotaStates::new(),
                asked: false,
                away: false,
                held: None,
            })
        }

        fn peek(&self, charges: Charges, now: Moment) -> Answer<'_, Payment> {
            self.pay(charges, now)
        }

        fn reserve(&self, charges: Charges, _: Micros, now: Moment) -> Answer<'_, Payment> {
            self.pay(charges, now)
        }

        fn hit(&self, _: Hits, _: Moment) -> Answer<'_, QuotaStates> {
            Answer::Now(QuotaStates::new())
        }

        fn settle(&self, _: Settlements, _: Moment) -> Answer<'_, Result<(), Away>> {
            Answer::Now(Ok(()))
        }

        fn refund(&self, charges: Charges, _: Moment) -> Answer<'_, Result<Refunds, Away>> {
            Answer::Now(Ok(charges.iter().map(|charge| charge.units).collect()))
        }

        fn reset(&self, _: Arc<Limit>, _: CounterKey) -> Answer<'_, Result<(), Away>> {
            Answer::Now(Ok(()))
        }
    }

    fn decisions(stopping: CancellationToken) -> Decisions {
        let (world, telemetry) = (Arc::new(World), Arc::new(Telemetry::new().expect("the names are good")));
        let decider = Decider::new(
            Arc::clone(&world) as _,
            Arc::clone(&world) as _,
            Arc::clone(&world) as _,
            Arc::new(NoLog),
            world,
            telemetry,
        );
        Decisions::new(Arc::new(decider), "test", stopping)
    }

    /// The questions of an asker who is always ahead, though not for ever, so that a failure ends.
    fn eager(stopping: CancellationToken) -> Answers<impl Stream<Item = Result<pb::DecideStreamRequest, Status>>> {
        let questions = (0..100_000).map(|id| Ok(pb::DecideStreamRequest { id, question: None }));
        Answers {
            shared: decisions(stopping.clone()).0,
            questions: Some(stream::iter(questions)),
            pending: FuturesUnordered::new(),
            stopping: Box::pin(stopping.cancelled_owned()),
            end: None,
        }
    }

    #[tokio::test]
    async fn a_stream_that_always_has_a_question_ends_when_the_replica_stops() {
        let stopping = CancellationToken::new();
        let mut answers = eager(stopping.clone());
        assert_eq!(answers.next().await.map(|answer| answer.map(|answer| answer.id).ok()), Some(Some(0)));
        stopping.cancel();
        let end = answers.next().await.map(|answer| answer.map_err(|status| status.code()));
        assert_eq!(end, Some(Err(tonic::Code::Unavailable)));
        assert!(answers.next().await.is_none());
    }

    #[tokio::test]
    async fn a_stream_that_always_has_a_question_lets_others_have_their_turn() {
        let answers = eager(CancellationToken::new());
        let counting = tokio::spawn(answers.count());
        // There is one thread only: it comes back here although there are more answers.
        tokio::task::yield_now().await;
        assert!(!counting.is_finished());
        counting.abort();
    }

    #[tokio::test]
    async fn a_large_batch_lets_others_have_their_turn() {
        let questions = vec![pb::DecideRequest::default(); BATCH_MAX];
        let decisions = decisions(CancellationToken::new());
        let deciding = tokio::spawn(async move {
            let answer = decisions.decide_batch(Request::new(pb::DecideBatchRequest { questions })).await;
            answer.map(|answer| answer.into_inner().outcomes.len()).ok()
        });
        tokio::task::yield_now().await;
        assert!(!deciding.is_finished());
        assert_eq!(deciding.await.ok().flatten(), Some(BATCH_MAX));
    }
}
