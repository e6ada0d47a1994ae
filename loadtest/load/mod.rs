//! This program asks, with few cycles of its own: what it sends is encoded beforehand, and of an answer it reads only
//! whether it allows.

pub(crate) mod connection;
pub(crate) mod message;
pub(crate) mod open;
mod stream;

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::try_join_all;
use tollgate::decide::ports::Clock as _;
use tollgate::domain::time::Micros;
use tollgate::server::SystemClock;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use self::connection::{Connection, Question};
use self::message::{Answer, Batch, Decided};
use crate::figures::{Tally, quantile};
use crate::question::Questions;
use crate::row::Own;

/// How much longer than asked for the last answers may take.
const SLACK: Duration = Duration::from_secs(20);

/// What is said of an answer that is something else.
const NOT_AN_ALLOW: &str = "an answer is not an allow";

/// Asks for a while, on one connection.
pub(crate) async fn ask(
    own: Own,
    server: SocketAddr,
    questions: &Questions,
    clock: SystemClock,
    length: Duration,
) -> Result<Tally, String> {
    match own {
        Own::Unary { calls } => {
            let question = Question::call(&questions.unary());
            let connection = [Connection::<Decided>::open(server).await?];
            ask_calls(&connection, calls, || question.clone(), clock, length).await
        }
        Own::Batch { questions: size, calls } => {
            let question = Question::call(&questions.batch(size));
            let connection = [Connection::<Batch>::open(server).await?];
            ask_calls(&connection, calls, || question.clone(), clock, length).await
        }
        Own::Stream { pending } => {
            let channel = connect(server).await?;
            let until = clock.steady() + length.into();
            tally(stream::ask(channel, questions.streamed(), pending, clock, until), clock, length).await
        }
    }
}

/// A closed loop: one question after the other, so many at a time on each of these connections, what `question` makes.
pub(crate) async fn ask_calls<A: Answer>(
    connections: &[Connection<A>],
    calls: usize,
    question: impl Fn() -> Question,
    clock: SystemClock,
    length: Duration,
) -> Result<Tally, String> {
    let until = clock.steady() + length.into();
    let askers = connections.iter().flat_map(|connection| (0..calls).map(move |_| connection));
    let askers = askers.map(|connection| ask_in_turn(connection, &question, clock, until));
    let asking = async {
        let mut all = Seen::default();
        for seen in try_join_all(askers).await? {
            all.decisions += seen.decisions;
            all.micros.extend(seen.micros);
        }
        Ok(all)
    };
    tally(asking, clock, length).await
}

async fn ask_in_turn<A: Answer>(
    connection: &Connection<A>,
    question: impl Fn() -> Question,
    clock: SystemClock,
    until: Micros,
) -> Result<Seen, String> {
    let mut seen = Seen::default();
    let mut asked = clock.steady();
    while asked < until {
        let decisions = connection.ask(question()).await?;
        let now = clock.steady();
        seen.add(decisions, asked, now);
        asked = now;
    }
    Ok(seen)
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
    Ok(Tally { decisions: seen.decisions, took: took.into(), p50, p99, p999: time(0.999) })
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
    /// Adds so many decisions, all of which allow, that came at `now` with one answer.
    pub(crate) fn add(&mut self, decisions: u64, asked: Micros, now: Micros) {
        self.decisions += decisions;
        self.micros.push(u32::try_from(now.since(asked).0).unwrap_or(u32::MAX));
    }
}

/// What is said of a call that got no answer.
pub(crate) fn refused(status: &Status) -> String {
    format!("a call ended in {}: {}", status.code(), status.message())
}
