//! Has the commands of one turn of the event loop leave in one write.
//!
//! Whoever sends a command wakes the task that writes it, and that would run at once: one write, one packet and one reading for
//! each of the commands that others are about to send. So when it is woken, everything else that is ready goes first. The
//! socket does not wait then (`TCP_NODELAY`): what has to wait for others has done so already.
//!
//! The client library gathers nothing and does not let its own connections be driven by others, so those without TLS are made
//! here. Over TLS commands leave as the library has it.

use std::future::{Future, poll_fn, ready};
use std::io;
use std::mem;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client, ConnectionAddr, RedisConnectionInfo, RedisError};
use futures_util::future::select_ok;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::way::{CONNECT_TIMEOUT, configuration, connect};

/// A connection, and what keeps it going.
#[derive(Clone)]
pub(super) struct Driven {
    pub(super) connection: MultiplexedConnection,
    /// None where the library sees to it.
    _driver: Option<Arc<Driver>>,
}

/// Ends with the last who uses the connection, whatever is still unanswered: a peer that vanished answers nothing any more.
struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Driven {
    /// Connects. It takes at most [`CONNECT_TIMEOUT`], the greeting included.
    pub(super) async fn to(client: &Client) -> Result<Self, RedisError> {
        let info = client.get_connection_info();
        let ConnectionAddr::Tcp(host, port) = info.addr() else {
            return Ok(Self { connection: connect(client).await?, _driver: None });
        };
        let connecting = async { Self::over(info.redis_settings(), reach(host, *port).await?).await };
        timeout(CONNECT_TIMEOUT, connecting)
            .await
            .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
    }

    async fn over<S>(settings: &RedisConnectionInfo, stream: S) -> Result<Self, RedisError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let config: AsyncConnectionConfig = configuration();
        let (connection, driver) = MultiplexedConnection::new_with_config(settings, stream, config).await?;
        let driver = Driver(tokio::spawn(in_turns(driver)).abort_handle());
        Ok(Self { connection, _driver: Some(Arc::new(driver)) })
    }
}

/// The first of the host's addresses that answers.
async fn reach(host: &str, port: u16) -> io::Result<TcpStream> {
    let attempts: Vec<_> =
        lookup_host((host, port)).await?.map(|address| Box::pin(TcpStream::connect(address))).collect();
    if attempts.is_empty() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let (stream, _) = select_ok(attempts).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Ready once everything that is ready now has had its turn.
pub(super) fn after_others() -> impl Future<Output = ()> {
    in_turns(ready(()))
}

/// Each time that `task` is woken, it goes to the end of the queue first.
async fn in_turns(task: impl Future<Output = ()>) {
    let (mut task, mut waited) = (pin!(task), false);
    poll_fn(|context| {
        if mem::replace(&mut waited, true) {
            waited = false;
            return task.as_mut().poll(context);
        }
        // A task that wakes itself is not preferred to others, as one that another wakes is.
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::pin::Pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Context;

    use ::redis::{cmd, pipe};
    use futures_util::future::join_all;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadBuf, duplex};
    use tokio::runtime::{Builder, Runtime};

    use super::*;

    /// Counts writes.
    struct Counted(DuplexStream, Arc<AtomicUsize>);

    impl AsyncRead for Counted {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Counted {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.1.fetch_add(1, Ordering::Relaxed);
            Pin::new(&mut self.0).poll_write(cx, buf)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    const COMMANDS: usize = 50;

    /// What a peer answers to each `PING`.
    async fn answer(mut peer: DuplexStream) {
        let (question, mut rest) = (pipe().cmd("PING").get_packed_pipeline(), Vec::new());
        while peer.read_buf(&mut rest).await.is_ok_and(|read| read > 0) {
            while rest.starts_with(&question) {
                rest.drain(..question.len());
                peer.write_all(b"+PONG\r\n").await.unwrap();
            }
        }
    }

    /// How many writes it takes to send what so many tasks send that are ready at the same time.
    fn writes(runtime: &Runtime) -> usize {
        let counted = Arc::new(AtomicUsize::new(0));
        let (stream, peer) = duplex(1 << 16);
        let stream = Counted(stream, Arc::clone(&counted));
        let asked = async move {
            tokio::spawn(answer(peer));
            let settings = RedisConnectionInfo::default().set_skip_set_lib_name();
            let driven = Driven::over(&settings, stream).await.unwrap();
            let ask =
                |mut driven: Driven| async move { cmd("PING").query_async::<String>(&mut driven.connection).await };
            let asked = join_all((0..COMMANDS).map(|_| tokio::spawn(ask(driven.clone())))).await;
            assert!(asked.into_iter().all(|answer| answer.unwrap().unwrap() == "PONG"));
        };
        // On a thread of the runtime's own, where tasks that are woken would go first.
        runtime.block_on(async { tokio::spawn(asked).await.unwrap() });
        counted.load(Ordering::Relaxed)
    }

    #[test]
    fn commands_of_one_turn_leave_in_one_write() {
        assert_eq!(writes(&Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()), 1);
        assert_eq!(writes(&Builder::new_current_thread().enable_all().build().unwrap()), 1);
    }

    #[tokio::test]
    async fn a_connection_that_nobody_uses_sends_no_more_to_a_peer_that_does_not_read() {
        let (stream, mut peer) = duplex(16);
        let settings = RedisConnectionInfo::default().set_skip_set_lib_name();
        let driven = Driven::over(&settings, stream).await.unwrap();
        let mut connection = driven.connection.clone();
        let asked = tokio::spawn(async move {
            cmd("ECHO").arg([b'a'; 1_000].as_slice()).query_async::<Vec<u8>>(&mut connection).await
        });
        assert_eq!(peer.read_u8().await.unwrap(), b'*');
        asked.abort();
        drop(driven);
        let mut rest = Vec::new();
        timeout(CONNECT_TIMEOUT * 10, peer.read_to_end(&mut rest)).await.unwrap().unwrap();
        assert!(rest.len() < 100, "{} bytes", rest.len());
    }
}
