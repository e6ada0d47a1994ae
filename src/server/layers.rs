//! What every gRPC call and HTTP request passes before it reaches its façade: the cap on calls in flight.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use axum::extract::State;
use axum::middleware::Next;
use http_body::{Body, Frame, SizeHint};
use metrics::Counter;

use crate::api::http::overloaded;

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
    pub(super) fn admit(&self) -> Option<Place> {
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
pub(super) struct Place(Arc<Gate>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Admits an HTTP request, as gRPC calls are.
pub(super) async fn admit(
    State(admission): State<Admission>,
    request: axum::extract::Request,
    next: Next,
) -> axum::response::Response {
    let Some(place) = admission.admit() else { return overloaded() };
    let response = next.run(request).await;
    response.map(|body| axum::body::Body::new(Held::new(body, Some(place))))
}

/// A response body that keeps its call in flight until it is sent or given up.
pub(super) struct Held<B> {
    body: B,
    _place: Option<Place>,
}

impl<B> Held<B> {
    pub(super) fn new(body: B, place: Option<Place>) -> Self {
        Self { body, _place: place }
    }
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
