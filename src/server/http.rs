//! The HTTP port: HTTP/1.1 and HTTP/2, with TLS or without (h2c), each connection and request within bounds.

use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::from_fn_with_state;
use futures_util::{FutureExt as _, Stream};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::connections::{self, Calls, HEADER_BYTES_MAX, Line};
use super::layers::{Admission, admit};
use crate::api::Peer;

/// How long the head of a request may take to come, and how long a connection of HTTP/1.1 is kept without one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection without a request for so long is closed. Twice as long at most: it is looked at now and then. This is for
/// HTTP/2, where whoever answers to pings would keep it for ever.
const IDLE_TIMEOUT: Duration = Duration::from_mins(5);

/// Fewer bytes than any request has that says its host, and as many as it takes to tell HTTP/2 from HTTP/1.1.
const FIRST_BYTES: usize = 24;

/// Headers of one request of HTTP/1.1.
const HEADERS_MAX: usize = 100;

/// Serves `router` on `connections` until `stopping`, and then until the requests on their way are answered.
pub(super) async fn serve<S, C>(connections: S, router: Router, admission: Admission, stopping: CancellationToken)
where
    S: Stream<Item = (Peer, C)>,
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let router = router.layer(from_fn_with_state(admission, admit));
    let speak = move |connection, Line { peer, calls, asked }: Line| {
        let service = router.clone().map_request(move |mut request: Request<_>| {
            asked.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(peer.clone());
            request
        });
        let connection = TokioIo::new(Prompt::new(connection));
        transport(calls).serve_connection(connection, TowerToHyperService::new(service)).into_owned()
    };
    connections::serve(connections, speak, Some(IDLE_TIMEOUT), stopping).await;
}

fn transport(calls: Calls) -> Builder<Calls> {
    let mut builder = Builder::new(calls);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEADER_BYTES_MAX as usize);
    connections::bound(&mut builder);
    builder
}

/// A connection whose first bytes must come in time: before them nobody knows which protocol it speaks, and so none of
/// the protocols' own bounds holds.
struct Prompt<C> {
    connection: C,
    missing: usize,
    /// None once they have come.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<C> Prompt<C> {
    fn new(connection: C) -> Self {
        Self { connection, missing: FIRST_BYTES, deadline: Some(Box::pin(sleep(HEAD_TIMEOUT))) }
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Prompt<C> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(deadline) = &mut this.deadline
            && deadline.poll_unpin(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.connection).poll_read(cx, buffer))?;
        this.missing = this.missing.saturating_sub(buffer.filled().len() - before);
        if this.missing == 0 {
            this.deadline = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Prompt<C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use axum::body::Bytes;
    use axum::routing::post;
    use futures_util::{StreamExt as _, stream};
    use metrics::Counter;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::time::Instant;

    use super::super::connections::KEEPALIVE_INTERVAL;
    use super::*;

    const REQUEST: &str = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nok";

    /// The other end of a connection that is served.
    fn connect() -> DuplexStream {
        let (ours, theirs) = duplex(1 << 16);
        let router = Router::new().route("/", post(async |body: Bytes| body));
        let connections = stream::iter([(Peer::default(), theirs)]).chain(stream::pending());
        tokio::spawn(serve(connections, router, Admission::new(1, Counter::noop()), CancellationToken::new()));
        ours
    }

    async fn asks(connection: &mut DuplexStream) {
        connection.write_all(REQUEST.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"ok") || answer.len() < 20 {
            answer.push(connection.read_u8().await.unwrap());
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"));
    }

    /// How long it takes until the other side closes, while a byte comes every three seconds; the clock is ours.
    async fn closed_after(connection: DuplexStream, bytes: &[u8]) -> Duration {
        let (mut from, mut to) = tokio::io::split(connection);
        let began = Instant::now();
        let bytes = bytes.to_owned();
        let dripping = tokio::spawn(async move {
            for byte in bytes {
                sleep(Duration::from_secs(3)).await;
                if to.write_all(&[byte]).await.is_err() {
                    break;
                }
            }
            to
        });
        let mut rest = Vec::new();
        let _ = from.read_to_end(&mut rest).await;
        let took = began.elapsed();
        dripping.abort();
        took
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_says_nothing_or_says_it_slowly_is_closed() {
        let exactly = |took: Duration| (HEAD_TIMEOUT..HEAD_TIMEOUT + Duration::from_secs(1)).contains(&took);
        for said in ["", "PRI * HTTP/2.0", "P", "POST / HTTP/1.1", REQUEST] {
            let took = closed_after(connect(), said.as_bytes()).await;
            assert!(exactly(took), "{said}: {took:?}");
        }
    }

    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const ACK: u8 = 1;

    /// The head of a frame of the connection (RFC 9113 §4.1).
    const fn frame(length: u8, kind: u8, flags: u8) -> [u8; 9] {
        [0, 0, length, kind, flags, 0, 0, 0, 0]
    }

    /// How long a connection of HTTP/2 without a request is kept, whose other end answers to pings, or does not.
    async fn kept_without_a_request(answers: bool) -> Duration {
        let mut connection = connect();
        let began = Instant::now();
        connection.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        connection.write_all(&frame(0, SETTINGS, 0)).await.unwrap();
        let mut head = [0; 9];
        while connection.read_exact(&mut head).await.is_ok() {
            let [_, high, low, kind, flags, ..] = head;
            let mut payload = vec![0; usize::from(high) << 8 | usize::from(low)];
            connection.read_exact(&mut payload).await.unwrap();
            if kind == PING && flags & ACK == 0 && answers {
                // Whoever has just closed does not read it.
                let _ = connection.write_all(&[&frame(8, PING, ACK)[..], &payload].concat()).await;
            }
        }
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_of_http_2_is_not_kept_for_ever_by_pings_alone() {
        let kept = kept_without_a_request(true).await;
        assert!((IDLE_TIMEOUT..=IDLE_TIMEOUT + Duration::from_secs(1)).contains(&kept), "{kept:?}");
        assert!(kept_without_a_request(false).await < 2 * KEEPALIVE_INTERVAL);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_kept_for_the_next_request_but_not_for_ever() {
        let mut connection = connect();
        for _ in 0..3 {
            asks(&mut connection).await;
            sleep(HEAD_TIMEOUT / 30 * 29).await;
        }
        asks(&mut connection).await;
        assert!(closed_after(connection, b"").await <= HEAD_TIMEOUT + Duration::from_secs(1));
    }
}
