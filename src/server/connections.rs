//! Serves the connections to a port: each by a task of its own, which answers what comes on it.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::future::poll_fn;
use futures_util::stream::FuturesUnordered;
use futures_util::task::AtomicWaker;
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use hyper::rt::Executor;
use hyper_util::rt::TokioTimer;
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulConnection;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::task::coop::unconstrained;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::api::Peer;

/// The largest header list of a call.
pub(super) const HEADER_BYTES_MAX: u32 = 32 * 1024;

/// The most calls at a time on one connection; more wait at the asker's end.
pub(super) const STREAMS_MAX: u32 = 1_024;

/// A connection that is silent for this long is asked whether it is still there.
pub(super) const KEEPALIVE_INTERVAL: Duration = Duration::from_mins(1);

/// Calls that are answered one after the other before what they came to is written and other connections have their turn. More
/// take fewer writes; fewer keep nobody waiting, though each may bring a token whose signature is to be checked.
const CALLS_AT_ONCE: usize = 64;

/// What whoever speaks on a connection is given.
pub(super) struct Line {
    /// The other end.
    pub peer: Peer,
    /// Where calls go that come on it.
    pub calls: Calls,
    /// Set by whoever hears a request, where idle connections are closed.
    pub asked: Arc<AtomicBool>,
}

/// Has `speak` speak on each of `connections` until `stopping`, and then until the calls on their way are answered. One
/// without a request for `idle_max` is closed; twice as long at most: it is looked at now and then.
pub(super) async fn serve<C, S>(
    connections: impl Stream<Item = (Peer, C)>,
    speak: impl Fn(C, Line) -> S,
    idle_max: Option<Duration>,
    stopping: CancellationToken,
) where
    S: GracefulConnection + Send + 'static,
    S::Error: std::fmt::Display + Send,
{
    // Dropped, with all connections, when this is given up.
    let mut tasks = JoinSet::new();
    let mut connections = Box::pin(connections.take_until(stopping.clone().cancelled_owned()));
    while let Some((peer, connection)) = connections.next().await {
        while tasks.join_next().now_or_never().flatten().is_some() {}
        let (calls, asked) = (Calls::default(), Arc::<AtomicBool>::default());
        let line = Line { peer, calls: calls.clone(), asked: Arc::clone(&asked) };
        let speaking = speak(connection, line);
        let stopping = stopping.clone();
        tasks.spawn(async move {
            let mut attending = Attending::new(calls);
            let mut speaking = pin!(speaking);
            let ended = loop {
                tokio::select! {
                    biased;
                    ended = poll_fn(|cx| attending.poll(speaking.as_mut(), cx)) => break Some(ended),
                    () = stopping.cancelled() => break None,
                    () = after(idle_max) => if !asked.swap(false, Ordering::Relaxed) {
                        break None;
                    }
                }
            };
            let ended = if let Some(ended) = ended {
                ended
            } else {
                speaking.as_mut().graceful_shutdown();
                poll_fn(|cx| attending.poll(speaking.as_mut(), cx)).await
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection ended");
            }
        });
    }
    // No more are accepted.
    drop(connections);
    while tasks.join_next().await.is_some() {}
}

/// The bounds of HTTP/2, the same for every port.
pub(super) fn bound<E>(builder: &mut Builder<E>) {
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .keep_alive_interval(KEEPALIVE_INTERVAL);
}

async fn after(time: Option<Duration>) {
    match time {
        Some(time) => sleep(time).await,
        None => std::future::pending().await,
    }
}

/// Reads, answers and writes on a connection until it ends.
///
/// All that has come is read first, then answered, then what was answered is written, so that many answers go out with one
/// write. With a task for each call the first answer would wake that of the connection, and would be written by itself.
struct Attending {
    calls: Unheard,
    /// Those that have to wait for something.
    waiting: FuturesUnordered<Call>,
    bell: Arc<Bell>,
    /// Rings it.
    waker: Waker,
}

impl Attending {
    fn new(calls: Calls) -> Self {
        let bell = Arc::<Bell>::default();
        let waker = Waker::from(Arc::clone(&bell));
        Self { calls: Unheard(calls), waiting: FuturesUnordered::new(), bell, waker }
    }

    fn poll<S: GracefulConnection>(&mut self, mut speaking: Pin<&mut S>, cx: &mut Context<'_>) -> Poll<S::Output> {
        let Self { calls, waiting, bell, waker } = self;
        bell.owner.register(cx.waker());
        let ringing = &mut Context::from_waker(waker);
        // Whatever has rung until here is about what is looked at now.
        bell.stays_awake();
        if let Poll::Ready(ended) = speaking.as_mut().poll(ringing) {
            return Poll::Ready(ended);
        }
        let heard = answer(&calls.0, waiting, ringing);
        go_on(waiting, ringing);
        if !heard && bell.falls_asleep() {
            return Poll::Pending;
        }
        // What was answered is written, and more may have come.
        bell.stays_awake();
        if let Poll::Ready(ended) = speaking.poll(ringing) {
            return Poll::Ready(ended);
        }
        // One of these may have been woken since, which is forgotten.
        go_on(waiting, ringing);
        if !(calls.0.is_empty() && bell.falls_asleep()) {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

/// Answers some of the calls that have come. Whether there were any.
fn answer(calls: &Calls, waiting: &FuturesUnordered<Call>, ringing: &mut Context<'_>) -> bool {
    for number in 0..CALLS_AT_ONCE {
        let Some(mut call) = calls.next() else { return number > 0 };
        if call.poll_unpin(ringing).is_pending() {
            waiting.push(call);
        }
    }
    true
}

/// Has those go on that were woken.
fn go_on(waiting: &mut FuturesUnordered<Call>, ringing: &mut Context<'_>) {
    while let Poll::Ready(Some(_)) = waiting.poll_next_unpin(ringing) {}
}

/// Wakes whoever attends to a connection, but not while it is awake: it looks itself whether anything has rung.
#[derive(Default)]
struct Bell {
    state: AtomicU8,
    owner: AtomicWaker,
}

const ASLEEP: u8 = 0;
const AWAKE: u8 = 1;
const RUNG: u8 = 2;

impl Bell {
    fn stays_awake(&self) {
        self.state.store(AWAKE, Ordering::SeqCst);
    }

    /// Whether nothing has rung meanwhile.
    fn falls_asleep(&self) -> bool {
        self.state.compare_exchange(AWAKE, ASLEEP, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(RUNG, Ordering::SeqCst) == ASLEEP {
            self.owner.wake();
        }
    }
}

/// The calls that have come on a connection and were not looked at yet.
#[derive(Clone, Default)]
pub(super) struct Calls(Arc<Mutex<VecDeque<Call>>>);

type Call = Pin<Box<dyn Future<Output = Result<(), Box<dyn Any + Send>>> + Send>>;

impl Calls {
    fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    fn next(&self) -> Option<Call> {
        self.0.lock().pop_front()
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Calls {
    fn execute(&self, call: F) {
        // Tokio bounds how much a task does in one go, and wakes what had to stop there in reverse order: of many calls on one
        // task those that came last each time would wait while others go on and on. A call bounds itself: it waits for others, or ends.
        let call = unconstrained(call);
        // A panic, which the hook has told of, ends this call and no other.
        self.0.lock().push_back(Box::pin(AssertUnwindSafe(call).catch_unwind()));
    }
}

/// Gives up the calls that nobody has looked at when their connection ends. Each holds on to all of them.
struct Unheard(Calls);

impl Drop for Unheard {
    fn drop(&mut self) {
        let Calls(calls) = &self.0;
        let unheard = std::mem::take(&mut *calls.lock());
        drop(unheard);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

    use std::convert::Infallible;
    use std::io;
    use std::sync::atomic::AtomicUsize;

    use futures_util::future::join_all;
    use futures_util::stream;
    use http::uri::PathAndQuery;
    use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
    use tokio::sync::{Semaphore, mpsc, oneshot};
    use tokio::task::coop::consume_budget;
    use tokio::time::timeout;
    use tonic::client::Grpc;
    use tonic::transport::{Channel, Endpoint};
    use tonic::{Code, Request, Status};
    use tonic_prost::ProstCodec;

    use super::*;
    use crate::server::grpc;

    /// Counts what is written.
    struct Counted(DuplexStream, Arc<AtomicUsize>);

    impl AsyncRead for Counted {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buffer)
        }
    }

    impl AsyncWrite for Counted {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.1.fetch_add(1, Ordering::Relaxed);
            Pin::new(&mut self.0).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    /// A connection that is served, how often its server has written, and what lets calls go on that wait.
    async fn connect() -> (Channel, Arc<AtomicUsize>, Arc<Semaphore>) {
        let (ours, theirs) = duplex(1 << 20);
        let (writes, gate) = (Arc::<AtomicUsize>::default(), Arc::new(Semaphore::new(0)));
        let connection = (Peer::default(), Counted(theirs, Arc::clone(&writes)));
        let connections = stream::iter([connection]).chain(stream::pending());
        let open = Arc::clone(&gate);
        let elsewhere = elsewhere();
        let answer = move |_: &Peer, request: http::Request<_>| {
            let (path, gate) = (request.uri().path().to_owned(), Arc::clone(&open));
            let elsewhere = elsewhere.clone();
            async move {
                match &*path {
                    "/a/panics" => panic!("this call"),
                    "/a/waits" => gate.acquire().await.unwrap().forget(),
                    "/a/yields" => yields(10).await,
                    "/a/asks" => asks(&elsewhere).await,
                    _ => {}
                }
                Ok::<_, Infallible>(Status::not_found("answered").into_http::<tonic::body::Body>())
            }
        };
        tokio::spawn(grpc::serve(connections, answer, CancellationToken::new()));
        let mut ours = Some(hyper_util::rt::TokioIo::new(ours));
        let connector = tower::service_fn(move |_| {
            std::future::ready(ours.take().ok_or(io::Error::from(io::ErrorKind::NotConnected)))
        });
        let channel = Endpoint::from_static("http://a").connect_with_connector(connector).await.unwrap();
        (channel, writes, gate)
    }

    /// Has to be polled so often, and asks for it at once each time.
    async fn yields(mut times: u32) {
        poll_fn(|cx| {
            if times == 0 {
                return Poll::Ready(());
            }
            times -= 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    /// How many questions were answered.
    type Elsewhere = mpsc::UnboundedSender<oneshot::Sender<u64>>;

    /// Answers questions in their order, as a store does: the how many-th each was.
    fn elsewhere() -> Elsewhere {
        let (asked, mut questions) = mpsc::unbounded_channel::<oneshot::Sender<u64>>();
        tokio::spawn(async move {
            let mut answered = 0;
            while let Some(question) = questions.recv().await {
                answered += 1;
                question.send(answered).unwrap();
            }
        });
        asked
    }

    /// Asks one question after the other, as a batch does; panics where others were let ask too often in between.
    async fn asks(elsewhere: &Elsewhere) {
        let mut latest = None;
        for _ in 0..200 {
            for _ in 0..4 {
                consume_budget().await;
            }
            let (question, answer) = oneshot::channel();
            elsewhere.send(question).unwrap();
            let number = answer.await.unwrap();
            let between = latest.map_or(0, |latest| number - latest);
            assert!(between < 20 * CALLS_AT_ONCE as u64, "{between} answers to others in between");
            latest = Some(number);
        }
    }

    async fn call(channel: &Channel, path: &'static str) -> Code {
        let mut client = Grpc::new(channel.clone());
        client.ready().await.unwrap();
        let codec = ProstCodec::<(), ()>::default();
        let answer = client.unary(Request::new(()), PathAndQuery::from_static(path), codec);
        timeout(Duration::from_secs(20), answer).await.expect("it is answered").unwrap_err().code()
    }

    #[tokio::test]
    async fn a_panic_in_one_call_ends_no_other() {
        let (channel, _, gate) = connect().await;
        let waiting = tokio::spawn({
            let channel = channel.clone();
            async move { call(&channel, "/a/waits").await }
        });
        assert_eq!(call(&channel, "/a/answers").await, Code::NotFound, "while another one waits");
        assert_ne!(call(&channel, "/a/panics").await, Code::NotFound);
        gate.add_permits(1);
        assert_eq!(waiting.await.unwrap(), Code::NotFound);
        assert_eq!(call(&channel, "/a/answers").await, Code::NotFound, "on the same connection");
    }

    #[tokio::test]
    async fn answers_to_calls_that_come_together_go_out_together() {
        let (channel, writes, _) = connect().await;
        assert_eq!(call(&channel, "/a/answers").await, Code::NotFound);
        let before = writes.load(Ordering::Relaxed);
        let answers = join_all((0..CALLS_AT_ONCE).map(|_| call(&channel, "/a/answers"))).await;
        assert!(answers.iter().all(|code| *code == Code::NotFound));
        let writes = writes.load(Ordering::Relaxed) - before;
        assert!(writes <= CALLS_AT_ONCE / 8, "{writes} writes");
    }

    #[tokio::test]
    async fn more_calls_than_are_answered_at_once_are_all_answered() {
        let (channel, _, gate) = connect().await;
        gate.add_permits(1_000);
        let paths = ["/a/answers", "/a/waits"].into_iter().cycle().take(8 * CALLS_AT_ONCE);
        let answers = join_all(paths.map(|path| call(&channel, path))).await;
        assert!(answers.iter().all(|code| *code == Code::NotFound));
    }

    #[tokio::test]
    async fn a_call_that_is_woken_while_it_is_polled_goes_on() {
        let (channel, ..) = connect().await;
        assert_eq!(call(&channel, "/a/yields").await, Code::NotFound);
    }

    #[tokio::test]
    async fn of_calls_that_wait_for_one_another_again_and_again_none_is_forgotten() {
        let (channel, ..) = connect().await;
        let answers = join_all((0..CALLS_AT_ONCE).map(|_| call(&channel, "/a/asks"))).await;
        assert!(answers.iter().all(|code| *code == Code::NotFound), "{answers:?}");
    }

    #[test]
    fn calls_that_nobody_looked_at_end_with_their_connection() {
        let (calls, held) = (Calls::default(), Arc::new(()));
        // Each has the means to run others.
        let (executor, holds) = (calls.clone(), Arc::clone(&held));
        let unheard = Unheard(calls.clone());
        calls.execute(async move { drop((executor, holds)) });
        drop((calls, unheard));
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
