//! One stream: a new question as soon as an answer comes.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_util::Stream;
use http::uri::PathAndQuery;
use prost::bytes::Bytes;
use tollgate::decide::ports::Clock as _;
use tollgate::domain::time::Micros;
use tollgate::server::SystemClock;
use tonic::Request;
use tonic::client::Grpc;
use tonic::transport::Channel;

use super::message::{Answer as _, Lean, Prepared, Streamed};
use super::{NOT_AN_ALLOW, Seen, refused};

/// Asks until `until`, with so many questions pending, then waits for the last answers.
pub(super) async fn ask(
    channel: Channel,
    message: Vec<u8>,
    pending: usize,
    clock: SystemClock,
    until: Micros,
) -> Result<Seen, String> {
    let places = Arc::new(Places::new(pending));
    let questions = Questions { places: Arc::clone(&places), message: Bytes::from(message), clock };
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|error| format!("the connection broke: {error}"))?;
    let path = PathAndQuery::from_static(Streamed::PATH);
    let answers = client.streaming(Request::new(questions), path, Lean::<Streamed>::default()).await;
    let mut answers = answers.map_err(|status| refused(&status))?.into_inner();
    let mut seen = Seen::default();
    while let Some(answer) = answers.message().await.map_err(|status| refused(&status))? {
        let now = clock.steady();
        let asked = places.answered(answer.id, now < until).ok_or("an answer came that nobody asked for")?;
        seen.add(answer.allows().ok_or(NOT_AN_ALLOW)?, asked, now);
    }
    if places.lock().pending > 0 {
        return Err("the stream ended before all answers had come".to_owned());
    }
    Ok(seen)
}

/// The questions that may be pending, each with a place. A question's id is its place's number.
struct Places(Mutex<Inner>);

struct Inner {
    /// When the question at each place was asked; none where none is pending.
    asked: Vec<Option<Micros>>,
    /// Places for the next questions.
    free: Vec<u64>,
    pending: usize,
    /// No more questions are asked.
    closing: bool,
    waker: Option<Waker>,
}

impl Places {
    fn new(count: usize) -> Self {
        Self(Mutex::new(Inner {
            asked: vec![None; count],
            free: (0..count as u64).collect(),
            pending: 0,
            closing: false,
            waker: None,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while it was held ends the program.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frees a place, for another question if `more`. When its question was asked; none if there was none.
    fn answered(&self, id: u64, more: bool) -> Option<Micros> {
        let mut inner = self.lock();
        let asked = usize::try_from(id).ok().and_then(|id| inner.asked.get_mut(id)?.take())?;
        inner.pending -= 1;
        inner.free.push(id);
        inner.closing = !more;
        if let Some(waker) = inner.waker.take() {
            waker.wake();
        }
        Some(asked)
    }
}

/// What is sent. It ends after the last answer that leads to no more questions.
struct Questions {
    places: Arc<Places>,
    message: Bytes,
    clock: SystemClock,
}

impl Stream for Questions {
    type Item = Prepared;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Prepared>> {
        let mut inner = self.places.lock();
        if inner.closing {
            if inner.pending == 0 {
                return Poll::Ready(None);
            }
        } else if let Some(id) = inner.free.pop() {
            let now = self.clock.steady();
            inner.pending += 1;
            if let Some(asked) = usize::try_from(id).ok().and_then(|id| inner.asked.get_mut(id)) {
                *asked = Some(now);
            }
            return Poll::Ready(Some(Prepared { id: Some(id), rest: self.message.clone() }));
        }
        inner.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
