//! HTTP/1.1, byte by byte: what no client library would send, and what comes back.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::server::SOON;

/// A connection as bytes.
pub(crate) struct Wire(pub(crate) TcpStream);

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Wire {
    /// To whoever listens there.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.expect("the server listens"))
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.expect("it is taken");
    }

    pub(crate) async fn answer(&mut self) -> Answer {
        timeout(SOON, self.read()).await.expect("it answers in time")
    }

    async fn read(&mut self) -> Answer {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.expect("it answers"));
        }
        let head = String::from_utf8(head).expect("it is ASCII").to_ascii_lowercase();
        let answer = Answer { status: head[9..12].parse().expect("it has a status"), head, body: String::new() };
        let length = answer.header("content-length").parse().expect("it says how long it is");
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.expect("it is whole");
        Answer { body: String::from_utf8(body).expect("it is text"), ..answer }
    }

    /// Says that nothing more is said, and reads until the other side has said all, too.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut said = Vec::new();
        // Whoever has refused what is still on its way may end the connection with it.
        let _ = self.0.shutdown().await;
        let _ = timeout(SOON, self.0.read_to_end(&mut said)).await.expect("it ends in time");
        said
    }

    /// Whether nothing more comes.
    pub(crate) async fn ended(&mut self) -> bool {
        matches!(timeout(SOON, self.0.read(&mut [0])).await, Ok(Ok(0) | Err(_)))
    }
}

impl Answer {
    /// The value of a header, in lower case; all of them where it is there several times.
    pub(crate) fn header(&self, name: &str) -> String {
        let values = self.head.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        values.collect::<Vec<_>>().join(" | ")
    }
}
