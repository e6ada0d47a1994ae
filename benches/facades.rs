//! Services asked as a connection asks them, but without one: from the bytes of a call to the bytes of its answer.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;

use axum::body::{Body, Bytes};
use futures_util::FutureExt as _;
use http::header::CONTENT_TYPE;
use http::{Request, Response};
use prost::Message;
use tower::Service;

/// What stands before each message of a call: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// Messages as gRPC frames them.
pub(crate) fn framed<'a, M: Message + 'a>(messages: impl IntoIterator<Item = &'a M>) -> Bytes {
    let mut bytes = Vec::new();
    for message in messages {
        bytes.push(0);
        bytes.extend(u32::try_from(message.encoded_len()).unwrap().to_be_bytes());
        message.encode(&mut bytes).unwrap();
    }
    bytes.into()
}

/// A call of that method with these messages.
pub(crate) fn call(method: &str, framed: &Bytes) -> Request<Body> {
    let request = Request::post(method).header(CONTENT_TYPE, "application/grpc").header("te", "trailers");
    request.body(framed.clone().into()).unwrap()
}

/// The answer, for which nobody outside has to be waited for.
pub(crate) fn answer<S, B>(service: &mut S, request: Request<Body>) -> Response<B>
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible>,
{
    let Ok(answer) = service.call(request).now_or_never().unwrap();
    answer
}

/// The same to its end: so many bytes of a body.
pub(crate) fn answer_whole<S, B>(service: &mut S, request: Request<Body>) -> usize
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible>,
    B: http_body::Body<Data = Bytes, Error: std::fmt::Debug> + Unpin,
{
    let mut body = answer(service, request).into_body();
    let mut bytes = 0;
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).now_or_never().unwrap() {
        bytes += frame.unwrap().data_ref().map_or(0, Bytes::len);
    }
    bytes
}

/// The messages of an answer.
pub(crate) fn messages<M, B>(answer: Response<B>) -> Vec<M>
where
    M: Message + Default,
    B: http_body::Body<Data = Bytes, Error: Into<axum::BoxError>> + Send + 'static,
{
    let body = axum::body::to_bytes(Body::new(answer.into_body()), usize::MAX).now_or_never().unwrap().unwrap();
    let mut rest = &*body;
    let mut messages = Vec::new();
    while let Some((prefix, after)) = rest.split_at_checked(PREFIX_BYTES) {
        let length = u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize;
        let (message, after) = after.split_at(length);
        messages.push(M::decode(message).unwrap());
        rest = after;
    }
    messages
}
