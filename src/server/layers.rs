//! What every gRPC call and HTTP request passes before it reaches its façade: the cap on calls in flight.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use axum::extract::State;
use axum::middleware::Next;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use metrics::Counter;
use pin_project_lite::pin_project;
use tonic::Code;
use tower::{Layer, Service};

use crate::api::http::overloaded;
use crate::api::native::status;
use crate::decide::Violation;

/// Health checks are answered under overload too: a replica that is busy is not one that is broken. They do not count as
/// calls in flight either: whoever watches the health would hold a place, and hold up a stop.
const UNCOUNTED: &str = "/grpc.health.v1.Health/";

/// Turns calls away while too many are in flight. Cheap to clone.
#[derive(Clone)]
pub(super) struct Admission(Arc<Gate>);

struct Gate {
    in_flight: AtomicUsize,
    in_flight_max: usize,
    turned_away: Counter,
}

impl Admission {
    pub(super) fn new(in_flight_max: usize, turned_away: Counter) -> Self {
        Self(Arc::new(Gate { in_flight: AtomicUsize::new(0), in_flight_max, turned_away }))
    }

    /// How many calls are in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.0.in_flight.load(Ordering::Relaxed)
    }

    /// A place in flight; none, which is counted, where all are taken.
    fn admit(&self) -> Option<Place> {
        let place = Place(Arc::clone(&self.0));
        let before = self.0.in_flight.fetch_add(1, Ordering::Relaxed);
        if before >= self.0.in_flight_max {
            self.0.turned_away.increment(1);
            return None;
        }
        Some(place)
    }
}

/// A call in flight, until it is dropped.
struct Place(Arc<Gate>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<S> Layer<S> for Admission {
    type Service = Admitting<S>;

    fn layer(&self, inner: S) -> Admitting<S> {
        Admitting { admission: self.clone(), inner }
    }
}

/// Admits calls to `inner`.
#[derive(Clone)]
pub(super) struct Admitting<S> {
    admission: Admission,
    inner: S,
}

impl<S, Asked> Service<Request<Asked>> for Admitting<S>
where
    S: Service<Request<Asked>, Response = Response<tonic::body::Body>>,
{
    type Response = Response<Held<tonic::body::Body>>;
    type Error = S::Error;
    type Future = Admitted<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Asked>) -> Self::Future {
        if request.uri().path().starts_with(UNCOUNTED) {
            return Admitted { call: Some(self.inner.call(request)), place: None };
        }
        let place = self.admission.admit();
        if place.is_none() {
            return Admitted { call: None, place };
        }
        Admitted { call: Some(self.inner.call(request)), place }
    }
}

pin_project! {
    /// A call on its way, or one that was turned away.
    pub(super) struct Admitted<F> {
        #[pin]
        call: Option<F>,
        place: Option<Place>,
    }
}

impl<F, E> Future for Admitted<F>
where
    F: Future<Output = Result<Response<tonic::body::Body>, E>>,
{
    type Output = Result<Response<Held<tonic::body::Body>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = match this.call.as_pin_mut() {
            Some(call) => ready!(call.poll(cx))?,
            None => status::overloaded().into_http(),
        };
        let response = if is_too_large(response.headers()) { too_large().into_http() } else { response };
        let place = this.place.take();
        Poll::Ready(Ok(response.map(|body| Held { body, _place: place })))
    }
}

/// Admits an HTTP request, as [`Admitting`] does gRPC calls.
pub(super) async fn admit(
    State(admission): State<Admission>,
    request: axum::extract::Request,
    next: Next,
) -> axum::response::Response {
    let Some(place) = admission.admit() else { return overloaded() };
    let response = next.run(request).await;
    response.map(|body| axum::body::Body::new(Held { body, _place: Some(place) }))
}

/// tonic answers a message beyond its bound with `OUT_OF_RANGE`, which none of our own methods uses.
fn is_too_large(headers: &HeaderMap) -> bool {
    const OUT_OF_RANGE: &[u8] = b"11";
    debug_assert_eq!(Code::OutOfRange as i32, 11);
    headers.get("grpc-status").is_some_and(|status| status.as_bytes() == OUT_OF_RANGE)
}

fn too_large() -> tonic::Status {
    let description = format!("is larger than {} bytes", super::MESSAGE_BYTES_MAX);
    status::malformed(&[Violation { field: "message".to_owned(), description }])
}

/// A response body that keeps its call in flight until it is sent or given up.
pub(super) struct Held<B> {
    body: B,
    _place: Option<Place>,
}

impl<B: Body + Unpin> Body for Held<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
