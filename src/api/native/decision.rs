//! `DecisionService`: one question, many, or a stream of them.
//!
//! Not by the service that is generated from `proto/`, whose methods answer with messages: see [`encode`].

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::future::{Either, join_all, poll_immediate, ready as done};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use http_body::Body;
use prost::bytes::Bytes;
use tokio::task::coop;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::codegen::StdError;
use tonic::server::Grpc;
use tonic::{Request, Response, Status, Streaming};
use tower::service_fn;

use super::asked::{Asked, usual_batch, usual_streamed};
use super::question::question;
use super::{encode, status};
use crate::api::codec::{BytesCodec, Encoded, MESSAGE_BYTES_MAX, decode};
use crate::api::unary;
use crate::api::wire::repeated;
use crate::decide::ports::{Answer, TokenHashes};
use crate::decide::{Decided, Decider, Undecidable, Violation};
use crate::domain::question::Question;
use crate::proto as pb;
use crate::proto::decision_service_server::SERVICE_NAME;
use crate::telemetry::Facade;

/// The most questions in a batch.
const BATCH_MAX: usize = 1_000;

/// The most questions of one stream that are decided at a time; no more are read meanwhile.
const STREAM_PENDING_MAX: usize = 256;

/// How many answers a stream that never pauses gives before it looks whether the replica is stopping: a look takes two locks.
const ANSWERS_PER_LOOK: usize = 32;

/// Answers `DecisionService`. Cheap to clone.
#[derive(Clone)]
pub struct Decisions(Arc<Shared>);

struct Shared {
    decider: Arc<Decider>,
    replica: Box<str>,
    stopping: CancellationToken,
}

/// A question that was read from a message, or what is wrong with it.
type Read<'a> = Result<Question<'a>, Undecidable>;

impl Decisions {
    /// Has `decider` decide. Explanations name `replica`; streams end when `stopping` is cancelled.
    pub fn new(decider: Arc<Decider>, replica: &str, stopping: CancellationToken) -> Self {
        Self(Arc::new(Shared { decider, replica: replica.into(), stopping }))
    }

    /// Answers a call of the service.
    pub fn call<B>(&self, request: http::Request<B>) -> unary::Answer
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<StdError> + Send + 'static,
    {
        let own = self.clone();
        match unary::method_of(&request, SERVICE_NAME) {
            "Decide" => unary::answer(request, |message| async move { own.decide(&message).await }),
            "DecideBatch" => unary::answer(request, |message| async move { own.decide_batch(&message).await }),
            "DecideStream" => Box::pin(async move {
                let decide = service_fn(|asked: Request<Streaming<Bytes>>| {
                    done(Ok(Response::new(own.decide_stream(asked.into_inner()))))
                });
                let mut grpc = Grpc::new(BytesCodec::default()).max_decoding_message_size(MESSAGE_BYTES_MAX);
                Ok(grpc.streaming(decide, request).await.map(unary::Body::from))
            }),
            _ => unary::no_such_method(),
        }
    }

    /// Answers an encoded `DecideRequest`.
    ///
    /// # Errors
    /// What the asker is told of a question that cannot be decided.
    pub async fn decide(&self, message: &[u8]) -> Result<Encoded<pb::DecideResponse>, Status> {
        let unusual;
        let read = if let Some(asked) = Asked::usual(message) {
            question(asked)
        } else {
            unusual = Box::new(decode::<pb::DecideRequest>(message)?);
            question(&*unusual)
        };
        let decided = match self.0.decide(&read, Facade::Unary) {
            Answer::Now(decided) => decided,
            Answer::Later(deciding) => deciding.await,
        };
        Ok(encode::response(&decided?, &self.0.replica))
    }

    /// Answers an encoded `DecideBatchRequest`.
    ///
    /// # Errors
    /// What the asker is told of one that has no questions, or too many.
    pub async fn decide_batch(&self, message: &[u8]) -> Result<Encoded<pb::DecideBatchResponse>, Status> {
        let unusual;
        let asked = if let Some(asked) = usual_batch(message, BATCH_MAX) {
            asked
        } else {
            // Before prost makes room for each of them.
            if let Some(questions) = repeated(message, 1) {
                bounded(questions)?;
            }
            unusual = decode::<pb::DecideBatchRequest>(message)?;
            unusual.questions.iter().map(Asked::from).collect()
        };
        bounded(asked.len())?;
        let replica = &*self.0.replica;
        let read: Vec<Read<'_>> = asked.into_iter().map(question).collect();
        let mut outcomes = encode::Outcomes::with_capacity(read.len());
        // Those from the first on that has to be waited for: outcomes are written in the order of the questions.
        let mut rest = Vec::new();
        let mut hashes = TokenHashes::default();
        for read in &read {
            // A thousand new tokens are a tenth of a second of signature checks: others get their turn in between.
            coop::consume_budget().await;
            let decided = match self.0.decide_among(read, &mut hashes) {
                Answer::Now(decided) => decided,
                Answer::Later(mut deciding) => {
                    // Begun before the next question is looked at.
                    let Some(decided) = poll_immediate(&mut deciding).await else {
                        rest.push(Either::Right(deciding));
                        continue;
                    };
                    decided
                }
            };
            if rest.is_empty() {
                outcomes.push(&decided, replica);
            } else {
                rest.push(Either::Left(done(decided)));
            }
        }
        for decided in join_all(rest).await {
            outcomes.push(&decided, replica);
        }
        Ok(outcomes.into_response())
    }

    /// Answers encoded messages of `DecideStreamRequest`.
    fn decide_stream<Q>(&self, questions: Q) -> Answers<Q> {
        let stopping = self.0.stopping.clone().cancelled_owned();
        Answers {
            shared: Arc::clone(&self.0),
            questions: Some(questions),
            pending: FuturesUnordered::new(),
            stopping: Box::pin(stopping),
            end: None,
            until_look: 0,
        }
    }
}

/// Whether a batch may have so many questions.
fn bounded(questions: usize) -> Result<(), Status> {
    if (1..=BATCH_MAX).contains(&questions) {
        return Ok(());
    }
    let description = format!("must have from 1 to {BATCH_MAX} entries; it has {questions}");
    Err(status::malformed(&[Violation { field: "questions".to_owned(), description }]))
}

impl Shared {
    fn decide<'a>(&'a self, read: &'a Read<'a>, facade: Facade) -> Answer<'a, Decided> {
        match read {
            Ok(question) => self.decider.decide(question, facade),
            Err(undecidable) => self.turn_away(undecidable, facade),
        }
    }

    /// Of one question of a batch.
    fn decide_among<'a>(&'a self, read: &'a Read<'a>, hashes: &mut TokenHashes<'a>) -> Answer<'a, Decided> {
        match read {
            Ok(question) => self.decider.decide_among(question, hashes, Facade::Batch),
            Err(undecidable) => self.turn_away(undecidable, Facade::Batch),
        }
    }

    fn turn_away(&self, undecidable: &Undecidable, facade: Facade) -> Answer<'_, Decided> {
        self.decider.turned_away(facade);
        Answer::Now(Err(undecidable.clone()))
    }
}

type Streamed = Encoded<pb::DecideStreamResponse>;

type Pending = Pin<Box<dyn Future<Output = Result<Streamed, Status>> + Send>>;

/// The answers to a stream of questions, in the order in which they become known.
struct Answers<Q> {
    shared: Arc<Shared>,
    /// None once no more are read.
    questions: Option<Q>,
    pending: FuturesUnordered<Pending>,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    /// How the stream ends once nothing is pending; none: well.
    end: Option<Status>,
    /// So many more answers are given before it is looked whether the replica is stopping.
    until_look: usize,
}

impl<Q> Answers<Q> {
    /// Whether it reads no more from now on, because the replica is stopping. If not, it will be woken when it does.
    fn look(&mut self, cx: &mut Context<'_>) -> bool {
        self.until_look = ANSWERS_PER_LOOK;
        let stops = self.questions.is_some() && self.stopping.poll_unpin(cx).is_ready();
        if stops {
            self.close(Some(status::stopping()));
        }
        stops
    }

    /// Reads no more questions. What was asked is still answered.
    fn close(&mut self, end: Option<Status>) {
        self.questions = None;
        self.end = end;
    }

    /// The answer, where it takes no waiting; else it is pending.
    fn ask(&mut self, message: Bytes) -> Option<Result<Streamed, Status>> {
        let shared = Arc::clone(&self.shared);
        let mut answer: Pending = Box::pin(async move {
            let unusual;
            let usual = usual_streamed(&message).and_then(|(id, message)| Some((id, Asked::usual(message)?)));
            let (id, asked) = if let Some(usual) = usual {
                usual
            } else {
                unusual = Box::new(decode::<pb::DecideStreamRequest>(&*message)?);
                // An absent question is read as an empty one: that says what is needed.
                (unusual.id, unusual.question.as_ref().map(Asked::from).unwrap_or_default())
            };
            let read = question(asked);
            let decided = match shared.decide(&read, Facade::Stream) {
                Answer::Now(decided) => decided,
                Answer::Later(deciding) => deciding.await,
            };
            Ok(encode::streamed(id, &decided, &shared.replica))
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
    Q: Stream<Item = Result<Bytes, Status>> + Unpin,
{
    type Item = Result<Streamed, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // An asker who is always ahead must neither keep the thread from others nor the replica from stopping.
        let turn = ready!(coop::poll_proceed(cx));
        let this = &mut *self;
        if this.until_look == 0 {
            this.look(cx);
        }
        let mut answer = this.poll_answer(cx);
        if answer.is_pending() && this.look(cx) {
            answer = this.poll_answer(cx);
        }
        if answer.is_ready() {
            this.until_look = this.until_look.saturating_sub(1);
            turn.made_progress();
        }
        answer
    }
}

impl<Q> Answers<Q>
where
    Q: Stream<Item = Result<Bytes, Status>> + Unpin,
{
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Streamed, Status>>> {
        if !self.pending.is_empty()
            && let Poll::Ready(Some(answer)) = self.pending.poll_next_unpin(cx)
        {
            return Poll::Ready(Some(answer));
        }
        while self.pending.len() < STREAM_PENDING_MAX
            && let Some(questions) = &mut self.questions
        {
            match questions.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(message))) => match self.ask(message) {
                    Some(Ok(answer)) => return Poll::Ready(Some(Ok(answer))),
                    // Bytes that are no message are no question: the stream ends as if they had not come.
                    Some(Err(status)) => self.close(Some(status)),
                    None => {}
                },
                Poll::Ready(Some(Err(status))) => self.close(Some(unary::of_tonic(status))),
                Poll::Ready(None) => self.close(None),
                Poll::Pending => break,
            }
        }
        if !self.pending.is_empty() {
            return self.pending.poll_next_unpin(cx);
        }
        if self.questions.is_none() { Poll::Ready(self.end.take().map(Err)) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::stream;
    use prost::Message as _;

    use super::*;
    use crate::decide::ports::{
        Answer, Away, Charges, Clock, Hits, Inspected, NoLog, Payment, Proved, Quotas, Refunds, RevocationView,
        Settlements, Shown, Standing, TokenHash, TokenInspector,
    };
    use crate::domain::decision::{QuotaStates, Reason};
    use crate::domain::identity::{Identity, Thumbprint};
    use crate::domain::limit::{CounterKey, Limit};
    use crate::domain::path::Leniency;
    use crate::domain::policy::{Demand, Match, Policy, Rule};
    use crate::domain::question::Question;
    use crate::domain::time::{Micros, Moment};
    use crate::telemetry::Telemetry;

    /// Every port, answering at once, but for the token that has to be waited for.
    #[derive(Default)]
    struct World {
        /// How many tokens were hashed.
        hashed: AtomicUsize,
    }

    const LATE: &str = "late";

    impl Clock for World {
        fn now(&self) -> Moment {
            Moment { wall: Micros(1), steady: Micros(1) }
        }
    }

    impl TokenInspector for World {
        fn inspect<'a>(&'a self, shown: Shown<'a>, _: Moment) -> Answer<'a, Inspected> {
            if shown != Shown::Token(LATE) {
                return Answer::Now(Inspected { verdict: Err(Reason::BadSignature), remembered: false });
            }
            Answer::later(async {
                tokio::task::yield_now().await;
                Inspected { verdict: Err(Reason::Expired), remembered: false }
            })
        }

        fn inspect_among<'a>(
            &'a self,
            shown: Shown<'a>,
            hashes: &mut TokenHashes<'a>,
            now: Moment,
        ) -> Answer<'a, Inspected> {
            if let Shown::Token(token) = shown {
                hashes.of(token, |_| {
                    self.hashed.fetch_add(1, Ordering::Relaxed);
                    TokenHash::default()
                });
            }
            self.inspect(shown, now)
        }

        fn knows(&self, _: Shown<'_>, _: Moment) -> bool {
            false
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
        decisions_in(Arc::default(), stopping)
    }

    fn decisions_in(world: Arc<World>, stopping: CancellationToken) -> Decisions {
        let telemetry = Arc::new(Telemetry::default());
        let decider = Decider::new(
            Arc::clone(&world) as _,
            Arc::clone(&world) as _,
            Arc::clone(&world) as _,
            Arc::new(NoLog),
            world,
            telemetry,
        );
        let all = Rule {
            name: "all".to_owned(),
            matches: Match::default(),
            leniency: Leniency::default(),
            guard: None,
            early: None,
            demand: Demand::Anyone,
            limits: Vec::new(),
        };
        decider.adopt(Policy { rules: vec![all].into(), ..Policy::default() });
        Decisions::new(Arc::new(decider), "test", stopping)
    }

    /// A question that is denied for what is said of its token.
    fn by(token: &str) -> pb::DecideRequest {
        let kind = Some(pb::credential::Kind::BearerToken(token.to_owned()));
        let call = pb::RequestAttributes { method: "GET".to_owned(), path: "/".to_owned(), ..Default::default() };
        pb::DecideRequest {
            credential: Some(pb::Credential { kind, ..Default::default() }),
            request: Some(call),
            scopes: vec!["a".to_owned()],
            ..Default::default()
        }
    }

    /// Why it was denied.
    fn why(outcome: pb::DecideOutcome) -> String {
        match outcome.kind {
            Some(pb::decide_outcome::Kind::Decision(decision)) => decision.detail,
            other => format!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn outcomes_of_a_batch_are_in_the_order_of_the_questions_whichever_was_waited_for() {
        let tokens = ["a", LATE, "b", LATE, LATE, "c"];
        let batch = pb::DecideBatchRequest { questions: tokens.map(by).to_vec() }.encode_to_vec();
        let answer = decisions(CancellationToken::new()).decide_batch(&batch).await.expect("it is well formed");
        let outcomes = answer.message().expect("it is one").outcomes;
        let expected = tokens.map(|token| if token == LATE { "expired" } else { "bad_signature" });
        assert_eq!(outcomes.into_iter().map(why).collect::<Vec<_>>(), expected);
    }

    #[tokio::test]
    async fn of_a_batch_each_token_is_hashed_once_and_no_hash_is_left_for_the_next() {
        let world = Arc::<World>::default();
        let decisions = decisions_in(Arc::clone(&world), CancellationToken::new());
        let batch = pb::DecideBatchRequest { questions: ["ax", LATE, "ax", "bx", LATE, "ax"].map(by).to_vec() };
        for hashed in [3, 6] {
            assert!(decisions.decide_batch(&batch.encode_to_vec()).await.is_ok());
            assert_eq!(world.hashed.load(Ordering::Relaxed), hashed);
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_waited_for_holds_up_no_other_and_comes() {
        let tokens = [LATE, "a", LATE, "b"];
        let message = |(id, token): (u64, &str)| pb::DecideStreamRequest { id, question: Some(by(token)) };
        let questions = (0..).zip(tokens).map(|asked| Ok(message(asked).encode_to_vec().into()));
        let questions: Vec<Result<Bytes, Status>> = questions.chain([Ok(Bytes::from_static(b"\xff"))]).collect();
        let answers = decisions(CancellationToken::new()).decide_stream(stream::iter(questions));
        let told = answers.map(|answer| match answer {
            Ok(answer) => Ok(answer.message().map(|answer| (answer.id, answer.outcome.map(why))).ok()),
            Err(status) => Err(status.code()),
        });
        let told: Vec<_> = told.collect().await;
        let because = |id: u64, why: &str| Ok(Some((id, Some(why.to_owned()))));
        assert_eq!(told.first(), Some(&because(1, "bad_signature")), "the one before has to be waited for");
        // Bytes that are no message end the stream when all has been answered.
        assert_eq!(told.last(), Some(&Err(tonic::Code::InvalidArgument)));
        let mut answers = told[..told.len() - 1].to_vec();
        answers.sort_by_key(|told| told.clone().ok().flatten().map(|(id, _)| id));
        let expected = [(0, "expired"), (1, "bad_signature"), (2, "expired"), (3, "bad_signature")];
        assert_eq!(answers, expected.map(|(id, why)| because(id, why)));
    }

    #[tokio::test]
    async fn a_message_of_a_stream_that_is_too_large_is_told_so() {
        // What tonic says of it.
        let questions = stream::iter([Err(Status::out_of_range("found 4194305 bytes"))]);
        let answers: Vec<_> = decisions(CancellationToken::new()).decide_stream(questions).collect().await;
        let [Err(status)] = &*answers else { panic!("{} answers", answers.len()) };
        assert_eq!(
            (status.code(), status.message()),
            (tonic::Code::InvalidArgument, "message is larger than 4194304 bytes")
        );
    }

    /// The questions of an asker who is always ahead, though not for ever, so that a failure ends.
    fn eager(stopping: CancellationToken) -> Answers<impl Stream<Item = Result<Bytes, Status>>> {
        let question = |id| pb::DecideStreamRequest { id, question: None }.encode_to_vec();
        let questions = (0..100_000).map(move |id| Ok(question(id).into()));
        decisions(stopping).decide_stream(stream::iter(questions))
    }

    #[tokio::test]
    async fn a_stream_that_always_has_a_question_ends_when_the_replica_stops() {
        let stopping = CancellationToken::new();
        let mut answers = eager(stopping.clone());
        let first = answers.next().await.and_then(Result::ok).and_then(|answer| answer.message().ok());
        assert_eq!(first.map(|answer| answer.id), Some(0));
        stopping.cancel();
        let rest: Vec<_> = answers.map(|answer| answer.map(drop).map_err(|status| status.code())).collect().await;
        assert_eq!(rest.last(), Some(&Err(tonic::Code::Unavailable)));
        assert!(rest.len() <= ANSWERS_PER_LOOK + 1, "{}", rest.len());
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
        let batch = pb::DecideBatchRequest { questions: vec![pb::DecideRequest::default(); BATCH_MAX] }.encode_to_vec();
        let decisions = decisions(CancellationToken::new());
        let deciding = tokio::spawn(async move {
            let answer = decisions.decide_batch(&batch).await;
            answer.ok().and_then(|answer| answer.message().ok()).map(|answer| answer.outcomes.len())
        });
        tokio::task::yield_now().await;
        assert!(!deciding.is_finished());
        assert_eq!(deciding.await.ok().flatten(), Some(BATCH_MAX));
    }
}
