//! The gRPC port: which service a call is for, whether it is admitted, and until when an answer is of use.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::{FutureExt as _, Stream, TryFutureExt as _};
use http::{HeaderName, HeaderValue, Request, Response};
use http_body::Body as HttpBody;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep};
use tokio_util::sync::CancellationToken;
use tonic::codegen::Service as _;
use tonic::service::Routes;
use tonic::{Code, Status};

use super::connections::{self, Line};
use super::layers::{Admission, Held, Place};
use crate::api::Peer;
use crate::api::envoy_authz::ExtAuthz;
use crate::api::envoy_rls::RateLimitApi;
use crate::api::native::{Decisions, QuotaApi, TokenApi, status};
use crate::api::unary::{Answer, Body, STATUS, Timely, too_large};
use crate::proto::decision_service_server;
use crate::proto::envoy::service::auth::v3::authorization_server;
use crate::proto::envoy::service::ratelimit::v3::rate_limit_service_server;
use crate::proto::quota_service_server::{self, QuotaServiceServer};
use crate::proto::token_service_server::{self, TokenServiceServer};

/// Health checks are answered under overload too: a replica that is busy is not one that is broken. They do not count as
/// calls in flight either: whoever watches the health would hold a place, and hold up a stop.
const HEALTH: &str = "grpc.health.v1.Health";

/// What the asker has to say about how long it waits.
static TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Serves gRPC on `connections` until `stopping`, and then until the calls on their way are answered by `answer`.
pub(super) async fn serve<C, B, F>(
    connections: impl Stream<Item = (Peer, C)>,
    answer: impl Fn(&Peer, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    stopping: CancellationToken,
) where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
{
    let speak = move |connection, Line { peer, calls, .. }: Line| {
        let mut builder = Builder::new(calls).http2_only();
        connections::bound(&mut builder);
        // Nobody who speaks gRPC looks at the date.
        builder.http2().auto_date_header(false);
        let answer = answer.clone();
        let service = service_fn(move |request| answer(&peer, request));
        builder.serve_connection(TokioIo::new(connection), service).into_owned()
    };
    connections::serve(connections, speak, None, stopping).await;
}

/// Every service of the port.
pub(super) struct Services {
    pub decisions: Decisions,
    pub quotas: QuotaServiceServer<QuotaApi>,
    pub tokens: TokenServiceServer<TokenApi>,
    pub authorization: ExtAuthz,
    pub rate_limits: RateLimitApi,
    /// Those that are called seldom, and the answer to calls of services that are not there.
    pub rest: Routes,
}

impl Services {
    /// The answer to a call of `peer`, if it is admitted.
    pub(super) fn call(&self, admission: &Admission, peer: &Peer, request: Request<Incoming>) -> Call {
        let service = Service::of(request.uri().path());
        let place = if service == Service::Health {
            None
        } else if let Some(place) = admission.admit() {
            Some(place)
        } else {
            return Call::TurnedAway;
        };
        let wait = Wait::of(request.headers().get(&TIMEOUT));
        Call::Admitted { answer: self.answer(service, peer, request), wait, place }
    }

    fn answer(&self, service: Service, peer: &Peer, request: Request<Incoming>) -> Answer {
        let by_peer = |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            request.map(Timely::new)
        };
        match service {
            Service::Decisions => self.decisions.call(request),
            Service::Authorization => self.authorization.call(request),
            Service::RateLimits => self.rate_limits.call(peer, request),
            Service::Quotas => by_tonic(self.quotas.clone().call(by_peer(request))),
            Service::Tokens => by_tonic(self.tokens.clone().call(by_peer(request))),
            Service::Health | Service::Other => by_tonic(self.rest.clone().call(request)),
        }
    }
}

/// Which service a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    Decisions,
    Quotas,
    Tokens,
    Authorization,
    RateLimits,
    Health,
    Other,
}

impl Service {
    /// That of `/tollgate.v1.DecisionService/Decide` is [`Self::Decisions`].
    fn of(path: &str) -> Self {
        // From its end, since methods have the shorter names.
        let Some(end) = path.bytes().rposition(|byte| byte == b'/') else { return Self::Other };
        match path[..end].strip_prefix('/').unwrap_or_default() {
            decision_service_server::SERVICE_NAME => Self::Decisions,
            quota_service_server::SERVICE_NAME => Self::Quotas,
            token_service_server::SERVICE_NAME => Self::Tokens,
            authorization_server::SERVICE_NAME => Self::Authorization,
            rate_limit_service_server::SERVICE_NAME => Self::RateLimits,
            HEALTH => Self::Health,
            _ => Self::Other,
        }
    }
}

/// What tonic's server makes of a call.
fn by_tonic<F>(answer: F) -> Answer
where
    F: Future<Output = Result<Response<tonic::body::Body>, Infallible>> + Send + 'static,
{
    Box::pin(
        answer.map_ok(|answer| if is_too_large(&answer) { too_large().into_http() } else { answer.map(Body::from) }),
    )
}

/// A call on its way, or one that was turned away.
pub(super) enum Call {
    TurnedAway,
    Admitted { answer: Answer, wait: Wait, place: Option<Place> },
}

impl Future for Call {
    type Output = Result<Response<Held<Body>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (response, place) = match self.get_mut() {
            Self::TurnedAway => (status::overloaded().into_http(), None),
            Self::Admitted { answer, wait, place } => {
                let response = match answer.poll_unpin(cx) {
                    Poll::Ready(Ok(response)) => response,
                    Poll::Pending => {
                        ready!(wait.poll(cx));
                        Status::deadline_exceeded("the asker's timeout has passed").into_http()
                    }
                };
                (response, place.take())
            }
        };
        Poll::Ready(Ok(response.map(|body| Held::new(body, place))))
    }
}

/// How long the asker waits. Nothing is set up for it before the call has to wait itself.
pub(super) enum Wait {
    ForEver,
    For(Duration),
    Until(Pin<Box<Sleep>>),
}

impl Wait {
    /// What `grpc-timeout` says: up to eight digits and a unit. Anything else is as good as nothing.
    fn of(timeout: Option<&HeaderValue>) -> Self {
        timeout.and_then(|timeout| duration(timeout.as_bytes())).map_or(Self::ForEver, Self::For)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Self::For(time) = *self {
            *self = Self::Until(Box::pin(sleep(time)));
        }
        match self {
            Self::Until(end) => end.poll_unpin(cx),
            Self::ForEver | Self::For(_) => Poll::Pending,
        }
    }
}

fn duration(timeout: &[u8]) -> Option<Duration> {
    let (unit, digits) = timeout.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0, |number: u64, digit| number * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_hours(number),
        b'M' => Duration::from_mins(number),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// tonic answers a message beyond its bound with `OUT_OF_RANGE`, which none of our own methods uses.
fn is_too_large(response: &Response<tonic::body::Body>) -> bool {
    const OUT_OF_RANGE: &[u8] = b"11";
    debug_assert_eq!(Code::OutOfRange as i32, 11);
    // A status stands in the head only where there is no body.
    response.body().is_end_stream()
        && response.headers().get(&STATUS).is_some_and(|status| status.as_bytes() == OUT_OF_RANGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_read_as_grpc_writes_it() {
        let cases = [
            ("1H", Some(Duration::from_hours(1))),
            ("2M", Some(Duration::from_mins(2))),
            ("3S", Some(Duration::from_secs(3))),
            ("20m", Some(Duration::from_millis(20))),
            ("5u", Some(Duration::from_micros(5))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("0m", Some(Duration::ZERO)),
            ("100000000n", None),
            ("", None),
            ("m", None),
            ("-1m", None),
            ("1 m", None),
            ("1", None),
            ("1s", None),
        ];
        for (text, expected) in cases {
            assert_eq!(duration(text.as_bytes()), expected, "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_no_longer_is_told_so() {
        let timeout = HeaderValue::from_static("20m");
        let wait = Wait::of(Some(&timeout));
        let began = tokio::time::Instant::now();
        let call = Call::Admitted { answer: Box::pin(std::future::pending()), wait, place: None };
        let response = call.await.unwrap();
        assert_eq!(response.headers()[&STATUS], "4");
        assert_eq!(began.elapsed(), Duration::from_millis(20));
    }

    #[test]
    fn a_path_names_its_service() {
        for (path, service) in [
            ("/tollgate.v1.DecisionService/Decide", Service::Decisions),
            ("/tollgate.v1.QuotaService/Consume", Service::Quotas),
            ("/tollgate.v1.TokenService/Revoke", Service::Tokens),
            ("/envoy.service.auth.v3.Authorization/Check", Service::Authorization),
            ("/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit", Service::RateLimits),
            ("/grpc.health.v1.Health/Watch", Service::Health),
            ("/tollgate.v1.DecisionService/", Service::Decisions),
            ("/grpc.health.v1.Health/Watch/more", Service::Other),
            ("tollgate.v1.DecisionService/Decide", Service::Other),
            ("//Decide", Service::Other),
            ("/é/Decide", Service::Other),
            ("é/Decide", Service::Other),
            ("/", Service::Other),
            ("", Service::Other),
        ] {
            assert_eq!(Service::of(path), service, "{path}");
        }
    }
}
