//! A connection that costs the asker little: HTTP/2 alone, with nothing between it and the calls.

use std::marker::PhantomData;
use std::net::SocketAddr;

use futures_util::future::try_join;
use h2::client::SendRequest;
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version};
use prost::bytes::{BufMut as _, Bytes, BytesMut};
use tokio::net::TcpStream;

use super::NOT_AN_ALLOW;
use super::message::Answer;

/// Before each message of gRPC: a byte that says that it is not compressed, and four for its length.
const PREFIX_BYTES: usize = 5;

/// How much of answers may stand unread. h2 gives a connection up when small ones add up to too much of it: with 200 calls in
/// flight and a window of 64 KiB it did.
const WINDOW_BYTES: u32 = 16 << 20;

/// What one decision is asked with: messages, each with its prefix.
#[derive(Clone, Debug)]
pub(crate) enum Question {
    /// One call.
    Call(Bytes),
    /// Two calls at once, where each has room for one limit only.
    Calls(Bytes, Bytes),
}

impl Question {
    /// Asked in one call with this encoded message.
    pub(crate) fn call(message: &[u8]) -> Self {
        Self::Call(framed(message))
    }

    /// Asked in two calls at once.
    pub(crate) fn calls(first: &[u8], second: &[u8]) -> Self {
        Self::Calls(framed(first), framed(second))
    }
}

/// To one method of one server, for any number of calls at a time.
pub(crate) struct Connection<A> {
    calls: SendRequest<Bytes>,
    method: Uri,
    answer: PhantomData<fn() -> A>,
}

impl<A: Answer> Connection<A> {
    /// Connects. It is driven as long as it is there.
    pub(crate) async fn open(server: SocketAddr) -> Result<Self, String> {
        let cannot = |problem: &dyn std::fmt::Display| format!("cannot connect to {server}: {problem}");
        let stream = TcpStream::connect(server).await.map_err(|error| cannot(&error))?;
        stream.set_nodelay(true).map_err(|error| cannot(&error))?;
        let mut client = h2::client::Builder::new();
        let connecting = client.initial_connection_window_size(WINDOW_BYTES).handshake(stream);
        let (calls, connection) = connecting.await.map_err(|error| cannot(&error))?;
        // How it ends is seen by the calls on it.
        tokio::spawn(async move { drop(connection.await) });
        let method = Uri::try_from(format!("http://{server}{}", A::PATH));
        let method = method.map_err(|error| format!("{}: {error}", A::PATH))?;
        Ok(Self { calls, method, answer: PhantomData })
    }

    /// Asks once: how many decisions were given. An error unless all of them allow.
    pub(crate) async fn ask(&self, question: Question) -> Result<u64, String> {
        let allows = match question {
            Question::Call(message) => self.call(message).await?.allows(),
            Question::Calls(first, second) => {
                let calls = try_join(self.call(first), self.call(second));
                let (first, second) = calls.await?;
                // Both are about the same decision.
                first.allows().and(second.allows())
            }
        };
        allows.ok_or_else(|| NOT_AN_ALLOW.to_owned())
    }

    async fn call(&self, message: Bytes) -> Result<A, String> {
        let broke = |error: h2::Error| format!("the connection broke: {error}");
        let mut calls = self.calls.clone().ready().await.map_err(broke)?;
        let (answer, mut question) = calls.send_request(request(&self.method), false).map_err(broke)?;
        question.send_data(message, true).map_err(broke)?;
        let (head, mut body) = answer.await.map_err(broke)?.into_parts();
        if head.status != StatusCode::OK {
            return Err(format!("a call was answered with {}", head.status));
        }
        let mut message = Bytes::new();
        while let Some(part) = body.data().await {
            let part = part.map_err(broke)?;
            body.flow_control().release_capacity(part.len()).map_err(broke)?;
            message = if message.is_empty() { part } else { [message, part].concat().into() };
        }
        // An answer without a message has its status among the headers.
        let status = body.trailers().await.map_err(broke)?.unwrap_or(head.headers);
        ended_well(&status)?;
        let bytes = message.get(PREFIX_BYTES..).ok_or("an answer has no message")?;
        A::decode(bytes).map_err(|error| format!("an answer is not understood: {error}"))
    }
}

fn framed(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    bytes.put_u8(0);
    // Longer ones are not asked.
    bytes.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    bytes.put(message);
    bytes.freeze()
}

fn request(method: &Uri) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = method.clone();
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("tollgate-loadtest"));
    request
}

/// An error unless the status of gRPC is there and says so.
fn ended_well(status: &HeaderMap) -> Result<(), String> {
    let code = status.get("grpc-status").map(HeaderValue::as_bytes);
    if code == Some(b"0") {
        return Ok(());
    }
    let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or(b"none")).into_owned();
    let said = status.get("grpc-message").map(HeaderValue::as_bytes);
    Err(format!("a call ended in the status {}: {}", text(code), text(said)))
}
