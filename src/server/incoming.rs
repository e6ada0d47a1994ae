//! Accepts connections, secures them, and bears with what keeps them from being accepted.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;
use tokio_rustls::server::TlsStream;

use super::tls::{Failure, Secured, Tls, handshake};
use crate::api::Peer;
use crate::domain::certificate::Certificate;

/// How long nothing is accepted after that failed. Without open files to spare it fails at once, again and again.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a handshake may take: several round trips around the world.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// A handshake that has not ended when so many others have begun after it gives way. So those who never end theirs keep
/// nobody out.
const HANDSHAKES_MAX: usize = 1_024;

/// The connections to a port.
pub(super) struct Incoming {
    listener: TcpListener,
    tls: Arc<Tls>,
    /// Whether the log says that nothing is accepted.
    said: bool,
    handshakes: JoinSet<Option<Connection>>,
    /// The last handshakes that began, the oldest at `next`.
    begun: Vec<Option<AbortHandle>>,
    next: usize,
    deadline: Duration,
}

/// A connection, ready to be spoken on.
pub(super) struct Connection {
    wire: Wire,
    /// Whether anything was asked of it.
    is_in_use: bool,
}

enum Wire {
    Plain(TcpStream),
    Secure(Box<TlsStream<TcpStream>>, Peer),
}

impl Incoming {
    /// The connections to `listener`, secured as `tls` says when each of them is accepted.
    pub(super) fn new(listener: TcpListener, tls: Arc<Tls>) -> Self {
        Self {
            listener,
            tls,
            said: false,
            handshakes: JoinSet::new(),
            begun: (0..HANDSHAKES_MAX).map(|_| None).collect(),
            next: 0,
            deadline: HANDSHAKE_DEADLINE,
        }
    }

    /// The next one. Handshakes go on beside each other, and end when this is dropped.
    pub(super) async fn accept(&mut self) -> Connection {
        loop {
            tokio::select! {
                Some(ended) = self.handshakes.join_next() => {
                    if let Ok(Some(connection)) = ended {
                        return connection;
                    }
                }
                stream = stream(&self.listener, &mut self.said) => match self.tls.current() {
                    None => return Connection::new(Wire::Plain(stream)),
                    Some(secured) => self.begin(stream, secured),
                }
            }
        }
    }

    /// All of them, without end, and who is at their other ends.
    pub(super) fn stream(self) -> impl Stream<Item = (Peer, Connection)> {
        unfold(self, |mut incoming| async move {
            let connection = incoming.accept().await;
            Some(((connection.peer(), connection), incoming))
        })
    }

    fn begin(&mut self, stream: TcpStream, secured: Arc<Secured>) {
        let (tls, deadline) = (Arc::clone(&self.tls), self.deadline);
        let begun = self.handshakes.spawn(async move {
            match handshake(stream, Arc::clone(&secured.config), deadline).await {
                Ok(stream) => Some(Connection::secure(stream, tls, &secured)),
                Err(failure) => {
                    tls.failed(failure);
                    None
                }
            }
        });
        let oldest = self.begun[self.next].replace(begun);
        self.next = (self.next + 1) % self.begun.len();
        if let Some(oldest) = oldest.filter(|oldest| !oldest.is_finished()) {
            oldest.abort();
            self.tls.failed(Failure::Crowded);
        }
    }
}

/// The connections to `listener`, without TLS and without end.
pub(super) fn plain(listener: TcpListener) -> impl Stream<Item = (Peer, Connection)> {
    unfold((listener, false), |(listener, mut said)| async move {
        let connection = Connection::new(Wire::Plain(stream(&listener, &mut said).await));
        Some(((connection.peer(), connection), (listener, said)))
    })
}

/// The next connection, as it comes.
async fn stream(listener: &TcpListener, said: &mut bool) -> TcpStream {
    loop {
        match listener.accept().await {
            // One whose options cannot be set is gone already.
            Ok((connection, _)) if connection.set_nodelay(true).is_err() => {}
            Ok((connection, _)) => {
                *said = false;
                return connection;
            }
            Err(error) if is_the_peers(&error) => {}
            Err(error) => {
                if !*said {
                    tracing::warn!(%error, "no connections are accepted for the moment");
                    *said = true;
                }
                sleep(PAUSE).await;
            }
        }
    }
}

/// Whether only the connection that was to be accepted is lost.
fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

impl Connection {
    const fn new(wire: Wire) -> Self {
        Self { wire, is_in_use: false }
    }

    /// Of a client whose certificate, if it showed one, was verified as `secured` says.
    fn secure(stream: TlsStream<TcpStream>, tls: Arc<Tls>, secured: &Arc<Secured>) -> Self {
        let (_, session) = stream.get_ref();
        let chain = session.peer_certificates().unwrap_or_default().to_vec();
        let certificate = chain.first().and_then(|der| {
            let read = Certificate::from_der(der);
            read.inspect_err(|why| tracing::debug!(%why, "a client's certificate is verified but names nobody")).ok()
        });
        let then = Arc::downgrade(secured);
        let (socket, _) = stream.get_ref();
        let peer = peer(socket);
        let peer = match certificate {
            Some(read) => peer.showing(read, move || tls.still_trusts(&then, &chain)),
            None => peer,
        };
        Self::new(Wire::Secure(Box::new(stream), peer))
    }

    /// Whoever is at the other end.
    fn peer(&self) -> Peer {
        match &self.wire {
            Wire::Plain(stream) => peer(stream),
            Wire::Secure(_, peer) => peer.clone(),
        }
    }
}

/// Whoever is at the other end. One whose address cannot be told is gone already.
fn peer(stream: &TcpStream) -> Peer {
    Peer::at(stream.peer_addr().ok().map(|address| address.ip()))
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.is_in_use = true;
        match &mut this.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Wire::Secure(stream, _) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().wire {
            Wire::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Wire::Secure(stream, _) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().wire {
            Wire::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Wire::Secure(stream, _) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().wire {
            Wire::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Wire::Secure(stream, _) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().wire {
            Wire::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Wire::Secure(stream, _) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    /// Not before it is in use: h2 asks then how small a message has to be to go out with others in one write, below 256 bytes
    /// or below 1,024. Asked later, it is about one that goes out by itself, which takes one write instead of two.
    fn is_write_vectored(&self) -> bool {
        self.is_in_use
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::pin::pin;

    use futures_util::StreamExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::config;
    use crate::decide::ports::Clock;
    use crate::server::SystemClock;
    use crate::server::tls::GRPC;
    use crate::telemetry::Telemetry;

    /// A port with a certificate of its own, and what it counts.
    async fn port() -> (Incoming, Arc<Telemetry>) {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.pem"), certificate.pem()).unwrap();
        std::fs::write(folder.path().join("a.key"), key.serialize_pem()).unwrap();
        let place = folder.path().join("t.yaml").display().to_string();
        let yaml = "listen: { tls: { cert: a.pem, key: a.key } }";
        let (config, _) = config::parse(yaml, &place, &|_| None).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
        let telemetry = Arc::new(Telemetry::default());
        let tls = Tls::new(GRPC, &clock, &telemetry);
        tls.commit(tls.prepare(config.tls.as_ref()).unwrap());
        (Incoming::new(TcpListener::bind("127.0.0.1:0").await.unwrap(), tls), telemetry)
    }

    /// Comes to its end when the other side closes; nothing was sent before.
    async fn closed(mut stream: TcpStream) {
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut [0])).await.unwrap();
        assert!(matches!(read, Ok(0) | Err(_)));
    }

    #[tokio::test]
    async fn whether_writes_are_vectored_is_said_once_a_connection_is_in_use() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut connections = pin!(plain(listener));
        let mut asker = TcpStream::connect(address).await.unwrap();
        let (_, mut connection) = connections.next().await.unwrap();
        assert!(!connection.is_write_vectored());
        asker.write_all(b"a").await.unwrap();
        assert_eq!(connection.read_u8().await.unwrap(), b'a');
        assert!(connection.is_write_vectored());
    }

    #[tokio::test]
    async fn the_oldest_handshake_gives_way_to_one_too_many() {
        let (mut incoming, telemetry) = port().await;
        incoming.begun.truncate(2);
        let address = incoming.listener.local_addr().unwrap();
        let accepting = tokio::spawn(async move { drop(incoming.accept().await) });
        let oldest = TcpStream::connect(address).await.unwrap();
        let second = TcpStream::connect(address).await.unwrap();
        let _third = TcpStream::connect(address).await.unwrap();
        closed(oldest).await;
        assert!(telemetry.render().contains("tollgate_tls_handshake_failures_total{cause=\"crowded\"} 1"));
        assert!(second.try_read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock));
        accepting.abort();
        closed(second).await;
    }

    #[tokio::test]
    async fn a_handshake_that_never_ends_is_cut_off() {
        let (mut incoming, telemetry) = port().await;
        incoming.deadline = Duration::from_millis(20);
        let address = incoming.listener.local_addr().unwrap();
        let accepting = tokio::spawn(async move { drop(incoming.accept().await) });
        closed(TcpStream::connect(address).await.unwrap()).await;
        assert!(telemetry.render().contains("tollgate_tls_handshake_failures_total{cause=\"timeout\"} 1"));
        accepting.abort();
    }
}
