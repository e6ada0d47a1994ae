//! This program asks, with few cycles of its own: what it sends is encoded beforehand, and of an answer it reads only
//! whether it allows.

pub(crate) mod message;
mod stream;

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::try_join_all;
use http::uri::PathAndQuery;
use prost::bytes::Bytes;
use tollgate::decide::ports::Clock as _;
use tollgate::domain::time::Micros;
use tollgate::server::SystemClock;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use self::message::{Answer, Batch, Decided, Lean, Prepared};
use crate::figures::{Tally, quantile};
use crate::question::Questions;
use crate::row::Own;

/// How much longer than asked for the last answers may take.
const SLACK: Duration = Duration::from_secs(20);

/// Asks for a while, on one connection.
pub(crate) async fn ask(
    own: Own,
    server: SocketAddr,
    questions: &Questions,
    clock: SystemClock,
    length: Duration,
) -> Result<Tally, String> {
    let channel = connect(server).await?;
    let until = clock.steady() + length.into();
    let asking = async {
        match own {
            Own::Unary { calls } => ask_calls::<Decided>(channel, questions.unary(), calls, clock, until).await,
            Own::Batch { questions: size, calls } => {
                ask_calls::<Batch>(channel, questions.batch(size), calls, clock, until).await
            }
            Own::Stream { pending } => stream::ask(channel, questions.streamed(), pending, clock, until).await,
        }
    };
    tally(asking, clock, length).await
}

/// What comes of asking for so long.
pub(crate) async fn tally(
    asking: impl Future<Output = Result<Seen, String>>,
    clock: SystemClock,
    length: Duration,
) -> Result<Tally, String> {
    let start = clock.steady();
    let seen = tokio::time::timeout(length + SLACK, asking).await;
    let mut seen = seen.map_err(|_| format!("the last answers did not come within {SLACK:?}"))??;
    let took = clock.steady() - start;
    let mut time = |part| quantile(&mut seen.micros, part).map(|micros| Duration::from_micros(micros.into()));
    let (p50, p99) = time(0.5).zip(time(0.99)).ok_or("no answer came")?;
    Ok(Tally { decisions: seen.decisions, took: took.into(), p50, p99 })
}

/// A connection.
pub(crate) async fn connect(server: SocketAddr) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(format!("http://{server}")).map_err(|error| error.to_string())?;
    endpoint.tcp_nodelay(true).connect().await.map_err(|error| format!("cannot connect: {error}"))
}

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    decisions: u64,
    /// How long each call took.
    micros: Vec<u32>,
}

impl Seen {
    /// Adds an answer that came at `now`. An error unless it allows all that was asked.
    pub(crate) fn add(&mut self, answer: &impl Answer, asked: Micros, now: Micros) -> Result<(), String> {
        self.decisions += answer.allows().ok_or("an answer is not an allow")?;
        self.micros.push(u32::try_from(now.since(asked).0).unwrap_or(u32::MAX));
        Ok(())
    }
}

/// One call after the other, so many at a time.
pub(crate) async fn ask_calls<A: Answer>(
    channel: Channel,
    message: Vec<u8>,
    calls: usize,
    clock: SystemClock,
    until: Micros,
) -> Result<Seen, String> {
    let message = Bytes::from(message);
    let askers = (0..calls).map(|_| ask_in_turn::<A>(channel.clone(), message.clone(), clock, until));
    let mut all = Seen::default();
    for seen in try_join_all(askers).await? {
        all.decisions += seen.decisions;
        all.micros.extend(seen.micros);
    }
    Ok(all)
}

async fn ask_in_turn<A: Answer>(
    channel: Channel,
    message: Bytes,
    clock: SystemClock,
    until: Micros,
) -> Result<Seen, String> {
    let path = PathAndQuery::from_static(A::PATH);
    let mut client = Grpc::new(channel);
    let mut seen = Seen::default();
    let mut asked = clock.steady();
    while asked < until {
        client.ready().await.map_err(|error| format!("the connection broke: {error}"))?;
        let request = Request::new(Prepared { id: None, rest: message.clone() });
        let answer = client.unary(request, path.clone(), Lean::<A>::default()).await;
        let now = clock.steady();
        seen.add(&answer.map_err(|status| refused(&status))?.into_inner(), asked, now)?;
        asked = now;
    }
    Ok(seen)
}

/// What is said of a call that got no answer.
pub(crate) fn refused(status: &Status) -> String {
    format!("a call ended in {}: {}", status.code(), status.message())
}
