//! Calls of gRPC with one message each way: what came becomes the bytes of a message, and those of an answer what is sent.
//!
//! For what gateways ask with each of their requests. tonic's server takes longer for such a call than most decisions do: it copies
//! the message into a buffer and the answer into another, and boxes whatever reads the one and writes the other. All of that is
//! of use where messages stream or are compressed. It goes on to serve what is called seldom, and streams. What is wrong with a call has
//! the status that tonic has for it, but where the asker alone can mend it: there it is `INVALID_ARGUMENT`.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::future::ready as done;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::{Body as _, Frame};
use prost::bytes::{Bytes, BytesMut};
use tokio::time::{Sleep, sleep};
use tonic::codegen::StdError;
use tonic::metadata::{GRPC_CONTENT_TYPE, MetadataValue};
use tonic::{Code, Status};

use super::BODY_TIMEOUT;
use super::codec::{Encoded, MESSAGE_BYTES_MAX, PREFIX_BYTES};
use super::native::status;
use crate::decide::Violation;

const ENCODING: &str = "grpc-encoding";

/// How a call went.
pub static STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The answer to a call, on its way.
pub type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// What is sent as an answer.
#[derive(Debug, Default)]
pub struct Body(Rest);

/// What of it was not sent yet.
#[derive(Debug, Default)]
enum Rest {
    /// A message, after which all is well.
    Message(Bytes),
    /// That all is well.
    Status,
    #[default]
    Nothing,
    /// What tonic makes of it.
    Made(tonic::body::Body),
}

impl From<tonic::body::Body> for Body {
    fn from(body: tonic::body::Body) -> Self {
        Self(Rest::Made(body))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Rest::Made(body) = &mut self.0 {
            return Pin::new(body).poll_frame(cx);
        }
        Poll::Ready(match std::mem::replace(&mut self.0, Rest::Nothing) {
            Rest::Message(message) => {
                self.0 = Rest::Status;
                Some(Ok(Frame::data(message)))
            }
            Rest::Status => {
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert(STATUS.clone(), HeaderValue::from_static("0"));
                Some(Ok(Frame::trailers(trailers)))
            }
            Rest::Nothing | Rest::Made(_) => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Rest::Message(_) | Rest::Status => false,
            Rest::Nothing => true,
            Rest::Made(body) => body.is_end_stream(),
        }
    }
}

/// The name of the method of `service` that is called; empty: another service's.
pub(super) fn method_of<'r, B>(request: &'r Request<B>, service: &str) -> &'r str {
    let path = request.uri().path().strip_prefix('/').and_then(|path| path.strip_prefix(service));
    path.and_then(|path| path.strip_prefix('/')).unwrap_or_default()
}

/// The answer with this message, or of a call that has none.
fn told<M>(told: Result<Encoded<M>, Status>) -> Response<Body> {
    match told.and_then(Encoded::framed) {
        Ok(message) => {
            let mut answer = Response::new(Body(Rest::Message(message)));
            answer.headers_mut().insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
            answer
        }
        Err(status) => status.into_http(),
    }
}

/// The answer to a call of a method that is not there.
pub(super) fn no_such_method() -> Answer {
    Box::pin(done(Ok(Status::unimplemented("there is no such method").into_http())))
}

/// Answers a call by what `decide` makes of its message.
pub(super) fn answer<B, M, F>(request: Request<B>, decide: impl FnOnce(Bytes) -> F + Send + 'static) -> Answer
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<StdError>,
    F: Future<Output = Result<Encoded<M>, Status>> + Send,
{
    answer_with(request, |_| decide)
}

/// Answers a call by what the outcome of `decide`, which has its headers, makes of its message.
pub(super) fn answer_with<B, M, D, F>(request: Request<B>, decide: impl FnOnce(HeaderMap) -> D) -> Answer
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<StdError>,
    D: FnOnce(Bytes) -> F + Send + 'static,
    F: Future<Output = Result<Encoded<M>, Status>> + Send,
{
    let (Parts { headers, .. }, body) = request.into_parts();
    let mut message = Message { come: plain(&headers).map(|()| Come::Nothing), body: Timely::new(body) };
    let decide = decide(headers);
    Box::pin(async move {
        // Where it is: what is moved into a future and awaited there is in it twice.
        match (&mut message).await {
            Ok(message) => Ok(told(decide(message).await)),
            Err(status) => Ok(status.into_http()),
        }
    })
}

/// The message of a call, on its way. All of the body is waited for: a call is not begun before it was asked whole.
///
/// # Errors
/// What the asker is told of a call that has not exactly one message, of at most [`MESSAGE_BYTES_MAX`] bytes, not compressed.
struct Message<B> {
    come: Result<Come, Status>,
    body: Timely<B>,
}

impl<B> Future for Message<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<StdError>,
{
    type Output = Result<Bytes, Status>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { come, body } = self.get_mut();
        let mut so_far = std::mem::replace(come, Ok(Come::Nothing))?;
        loop {
            let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) else {
                *come = Ok(so_far);
                return Poll::Pending;
            };
            // Nothing comes after trailers.
            let Some(data) = frame.transpose()?.and_then(|frame| frame.into_data().ok()) else { break };
            so_far = so_far.and(data);
            check(so_far.bytes())?;
            if body.is_end_stream() {
                break;
            }
        }
        Poll::Ready(so_far.message())
    }
}

/// A body that has to come within [`BODY_TIMEOUT`]: a call holds its place in flight until it was asked whole.
pub struct Timely<B> {
    body: B,
    /// Set up only where something has to be waited for.
    end: Option<Pin<Box<Sleep>>>,
}

impl<B> Timely<B> {
    /// Which has to come from now on.
    pub const fn new(body: B) -> Self {
        Self { body, end: None }
    }
}

impl<B> http_body::Body for Timely<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<StdError>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Self { body, end } = &mut *self;
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(|error| Status::from_error(error.into()))));
        }
        let end = end.get_or_insert_with(|| Box::pin(sleep(BODY_TIMEOUT)));
        ready!(end.as_mut().poll(cx));
        let seconds = BODY_TIMEOUT.as_secs();
        Poll::Ready(Some(Err(Status::deadline_exceeded(format!("the call was not asked whole within {seconds} s")))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// Whether messages are sent as they are.
fn plain(headers: &HeaderMap) -> Result<(), Status> {
    match headers.get(ENCODING) {
        None => Ok(()),
        Some(encoding) if encoding == "identity" => Ok(()),
        Some(_) => {
            let mut status = Status::unimplemented("messages must not be compressed: grpc-encoding must be identity");
            status.metadata_mut().insert("grpc-accept-encoding", MetadataValue::from_static("identity"));
            Err(status)
        }
    }
}

/// What has come of a body: mostly all of it at once.
enum Come {
    Nothing,
    Piece(Bytes),
    Pieces(BytesMut),
}

impl Come {
    fn and(self, data: Bytes) -> Self {
        match self {
            Self::Nothing => Self::Piece(data),
            Self::Piece(piece) => Self::Pieces(BytesMut::from(&*piece)).and(data),
            Self::Pieces(mut pieces) => {
                pieces.extend_from_slice(&data);
                Self::Pieces(pieces)
            }
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Nothing => &[],
            Self::Piece(piece) => piece,
            Self::Pieces(pieces) => pieces,
        }
    }

    /// The message, if it is there as its prefix says.
    fn message(self) -> Result<Bytes, Status> {
        let whole = match self {
            Self::Nothing => return Err(malformed("is missing")),
            Self::Piece(piece) => piece,
            Self::Pieces(pieces) => pieces.freeze(),
        };
        match announced(&whole) {
            Some(length) if whole.len() - PREFIX_BYTES == length => Ok(whole.slice(PREFIX_BYTES..)),
            _ => Err(malformed("ends before the length that its prefix says")),
        }
    }
}

/// The length that the prefix says, where that has come.
fn announced(come: &[u8]) -> Option<usize> {
    let (prefix, _) = come.split_first_chunk::<PREFIX_BYTES>()?;
    let [_, length @ ..] = *prefix;
    usize::try_from(u32::from_be_bytes(length)).ok()
}

/// Whether so much of a body may go on to be a call of ours: more is not kept.
fn check(come: &[u8]) -> Result<(), Status> {
    match come.first() {
        None | Some(0) => {}
        // https://grpc.github.io/grpc/core/md_doc_compression.html has this code for it.
        Some(1) => return Err(Status::internal("the message is compressed, and grpc-encoding does not say so")),
        Some(_) => return Err(malformed("begins with a flag that is neither 0 nor 1")),
    }
    match announced(come) {
        Some(length) if length > MESSAGE_BYTES_MAX => Err(too_large()),
        Some(length) if come.len() - PREFIX_BYTES > length => Err(malformed("is followed by more; a call has one")),
        _ => Ok(()),
    }
}

/// What is told of a call that ends with this status of tonic's: it has one for messages beyond the bound that none of our own methods
/// uses.
pub(super) fn of_tonic(status: Status) -> Status {
    if status.code() == Code::OutOfRange { too_large() } else { status }
}

/// What the asker is told of a message beyond the bound.
pub fn too_large() -> Status {
    malformed(&format!("is larger than {MESSAGE_BYTES_MAX} bytes"))
}

fn malformed(description: &str) -> Status {
    status::malformed(&[Violation { field: "message".to_owned(), description: description.to_owned() }])
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::collections::VecDeque;
    use std::future::poll_fn;

    use futures_util::FutureExt as _;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::proto as pb;

    /// What comes of a body.
    #[derive(Clone, Debug)]
    enum Piece {
        Data(Vec<u8>),
        Trailers,
        Broken,
        /// Nothing for the moment.
        Late,
        /// Nothing any more, and no end.
        Never,
    }

    use Piece::{Broken, Data, Late, Never, Trailers};

    /// A body that comes piece by piece, and does not say beforehand that no more comes.
    struct Pieces(VecDeque<Piece>);

    impl http_body::Body for Pieces {
        type Data = Bytes;
        type Error = StdError;

        fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
            Poll::Ready(match self.0.pop_front() {
                None => None,
                Some(Data(bytes)) => Some(Ok(Frame::data(bytes.into()))),
                Some(Trailers) => Some(Ok(Frame::trailers(HeaderMap::new()))),
                Some(Broken) => Some(Err("the connection broke".into())),
                Some(Never) => {
                    self.0.push_front(Never);
                    return Poll::Pending;
                }
                Some(Late) => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            })
        }
    }

    fn request(pieces: impl IntoIterator<Item = Piece>) -> Request<Pieces> {
        Request::new(Pieces(pieces.into_iter().collect()))
    }

    async fn read(request: Request<Pieces>) -> Result<Bytes, Status> {
        let (Parts { headers, .. }, body) = request.into_parts();
        Message { come: plain(&headers).map(|()| Come::Nothing), body: Timely::new(body) }.await
    }

    /// A message as a call carries it.
    fn framed(message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[0], &length[..], message].concat()
    }

    proptest! {
        #[test]
        fn a_message_is_the_same_in_whatever_pieces_it_comes(
            message in vec(any::<u8>(), 0..300),
            cuts in vec((any::<prop::sample::Index>(), any::<bool>()), 0..6),
            trailers in any::<bool>(),
        ) {
            let whole = framed(&message);
            let mut places: Vec<_> = cuts.iter().map(|(cut, late)| (cut.index(whole.len() + 1), *late)).collect();
            places.sort_unstable();
            let (mut pieces, mut begin) = (Vec::new(), 0);
            for (end, late) in places {
                pieces.push(Data(whole[begin..end].to_vec()));
                pieces.extend(late.then_some(Late));
                begin = end;
            }
            pieces.push(Data(whole[begin..].to_vec()));
            pieces.extend(trailers.then_some(Trailers));
            let read = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(read(request(pieces)));
            prop_assert_eq!(read.map_err(|status| status.to_string()), Ok(Bytes::from(message)));
        }
    }

    #[tokio::test]
    async fn what_is_not_one_message_is_told_so() {
        let announced = |length: usize| [&[0][..], &u32::try_from(length).unwrap().to_be_bytes()].concat();
        let flagged = |flag: u8| [&[flag][..], &framed(b"a")[1..]].concat();
        let cases = [
            (vec![], Code::InvalidArgument, "message is missing"),
            (vec![Trailers], Code::InvalidArgument, "message is missing"),
            (vec![Data(vec![])], Code::InvalidArgument, "message ends before"),
            (vec![Data(vec![0, 0, 0])], Code::InvalidArgument, "message ends before"),
            (vec![Data(announced(2)), Data(vec![1]), Trailers], Code::InvalidArgument, "message ends before"),
            (vec![Data([framed(b"a"), framed(b"a")].concat())], Code::InvalidArgument, "message is followed by more"),
            (vec![Data(framed(b"a")), Data(vec![0]), Broken], Code::InvalidArgument, "message is followed by more"),
            (vec![Data(flagged(1)), Broken], Code::Internal, "grpc-encoding"),
            (vec![Data(flagged(2)), Broken], Code::InvalidArgument, "message begins with a flag"),
            // Before all of it has come.
            (vec![Data(announced(MESSAGE_BYTES_MAX + 1)), Broken], Code::InvalidArgument, "message is larger than"),
            (vec![Data(announced(MESSAGE_BYTES_MAX)), Trailers], Code::InvalidArgument, "message ends before"),
            (vec![Data(announced(1)), Broken], Code::Unknown, "the connection broke"),
        ];
        for (pieces, code, sentence) in cases {
            let status = read(request(pieces.clone())).await.unwrap_err();
            assert_eq!(status.code(), code, "{pieces:?}: {status:?}");
            assert!(status.message().contains(sentence), "{pieces:?}: {status:?}");
        }
        let most = vec![7; MESSAGE_BYTES_MAX];
        assert_eq!(read(request([Data(framed(&most))])).await.unwrap(), most);
    }

    #[tokio::test]
    async fn compressed_messages_are_not_read() {
        let with = |encoding: &'static str| {
            let mut request = request([Data(framed(b"a"))]);
            request.headers_mut().insert("grpc-encoding", HeaderValue::from_static(encoding));
            request
        };
        assert_eq!(read(with("identity")).await.unwrap(), "a");
        let status = read(with("gzip")).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);
        assert_eq!(status.metadata().get("grpc-accept-encoding").unwrap(), "identity");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_not_asked_whole_in_time_is_given_up() {
        let began = tokio::time::Instant::now();
        let status = read(request([Data(framed(b"a")), Never])).await.unwrap_err();
        assert_eq!((status.code(), began.elapsed()), (Code::DeadlineExceeded, BODY_TIMEOUT));
        assert!(status.message().contains("10 s"), "{status:?}");
    }

    /// What is sent in answer to a call of which this is made.
    async fn sent(made: Result<&[u8], Status>) -> (Response<()>, Vec<Bytes>, Option<HeaderMap>) {
        let made = made.map(|bytes| pb::DecideRequest {
            scopes: vec![String::from_utf8_lossy(bytes).into()],
            ..Default::default()
        });
        let decide = |message: Bytes| async move {
            assert_eq!(message, "a");
            made.map(|message| Encoded::of(&message))
        };
        let Ok(response) = answer(request([Data(framed(b"a"))]), decide).await;
        let (head, mut body) = response.into_parts();
        let (mut data, mut trailers) = (Vec::new(), None);
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            match frame.unwrap().into_data() {
                Ok(bytes) => data.push(bytes),
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        assert!(body.is_end_stream());
        (Response::from_parts(head, ()), data, trailers)
    }

    #[tokio::test]
    async fn an_answer_is_a_message_and_then_its_status() {
        let (head, data, trailers) = sent(Ok(b"b")).await;
        assert_eq!(head.status(), 200);
        assert_eq!(head.headers()[CONTENT_TYPE], "application/grpc");
        assert!(!head.headers().contains_key("grpc-status"));
        let message = pb::DecideRequest { scopes: vec!["b".to_owned()], ..Default::default() };
        assert_eq!(data, [framed(&message.encode_to_vec())]);
        assert_eq!(trailers.unwrap()["grpc-status"], "0");
    }

    #[tokio::test]
    async fn a_call_without_an_answer_ends_with_its_status_at_once() {
        let (head, data, trailers) = sent(Err(Status::unavailable("not now"))).await;
        assert_eq!((head.status().as_u16(), &head.headers()[CONTENT_TYPE]), (200, &GRPC_CONTENT_TYPE));
        assert_eq!(
            (&head.headers()["grpc-status"], &head.headers()["grpc-message"]),
            (&"14".parse().unwrap(), &"not%20now".parse().unwrap())
        );
        assert!(data.is_empty() && trailers.is_none());
    }

    #[tokio::test]
    async fn no_call_is_begun_before_it_was_asked_whole() {
        let begin = |_| -> std::future::Ready<Result<Encoded<()>, Status>> { unreachable!("more may come") };
        assert!(answer(request([Data(framed(b"a")), Late]), begin).now_or_never().is_none());
    }

    #[test]
    fn a_path_names_its_method() {
        for (path, method) in [
            ("/a.B/Do", "Do"),
            ("/a.B/", ""),
            ("/a.B", ""),
            ("/a.C/Do", ""),
            ("/a.BC/Do", ""),
            ("/a.B/Do/more", "Do/more"),
        ] {
            let request = Request::builder().uri(path).body(()).unwrap();
            assert_eq!(method_of(&request, "a.B"), method, "{path}");
        }
    }
}
