//! Asks for many different things, in batches, and counts what that cost.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use futures_util::future::try_join_all;
use http::uri::PathAndQuery;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use tollgate::decide::ports::Clock as _;
use tollgate::domain::time::Micros;
use tollgate::server::SystemClock;
use tonic::Request;
use tonic::client::Grpc;
use tonic::transport::Channel;

use crate::figures::median;
use crate::load::message::{Answer, Batch, Decided, Lean, Outcome, Prepared};
use crate::load::{connect, refused};
use crate::redis::Done;
use crate::subject::Subject;
use crate::traffic::mixed;

/// Questions in one call: enough that the calls cost little beside them.
pub(super) const BATCH: u64 = 64;

/// From one question of the probe to the next.
const PROBE_INTERVAL: Duration = Duration::from_millis(1);

/// For so long it is asked before what is measured, where leases or caches have to settle.
const WARM_UP: Duration = Duration::from_millis(500);

/// What is asked: an encoded `DecideRequest` for each number.
pub(super) type Question<'a> = &'a dyn Fn(u64) -> Vec<u8>;

/// Servers that are asked alike, and the Redis that they share.
pub(super) struct Target {
    /// At least one.
    pub servers: Vec<Subject>,
    channels: Vec<Channel>,
    redis: Option<MultiplexedConnection>,
}

/// What is asked of a target, and by how many calls at a time on each connection.
pub(super) struct Load<'a> {
    /// Calls in flight.
    pub calls: usize,
    /// Which number comes next, of the count of questions so far.
    pub draw: &'a dyn Fn(u64) -> u64,
    /// The question of a number.
    pub question: Question<'a>,
    /// Whether every answer must allow.
    pub all_allowed: bool,
}

/// What a decision cost in one slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// Decisions a second.
    pub rate: f64,
    /// Server CPU, µs per decision.
    pub server: f64,
    /// Redis CPU, µs per decision.
    pub redis: Option<f64>,
    /// Redis commands that were sent, per decision.
    pub commands: Option<f64>,
    /// The part of decisions that did not allow.
    pub refused: f64,
}

/// How long a lone call took, again and again.
#[derive(Debug, Default)]
pub(super) struct Waits(pub Vec<u32>);

/// A batch's answer, of which some decisions may not allow.
#[derive(Clone, PartialEq, Message)]
struct Counted {
    #[prost(message, repeated, tag = "1")]
    outcomes: Vec<Outcome>,
}

impl Answer for Counted {
    const PATH: &'static str = Batch::PATH;

    fn allows(&self) -> Option<u64> {
        Some(self.outcomes.iter().filter(|outcome| outcome.allows()).count() as u64)
    }
}

impl Target {
    /// Connects to `servers`, and to the Redis that they share, if any.
    pub(super) async fn new(servers: Vec<Subject>, redis: Option<MultiplexedConnection>) -> Result<Self, String> {
        let addresses: Vec<SocketAddr> = servers.iter().map(|server| server.grpc).collect();
        let channels = try_join_all(addresses.into_iter().map(connect)).await?;
        Ok(Self { servers, channels, redis })
    }

    /// Memory of all servers, in bytes (`VmRSS`).
    pub(super) fn resident(&self) -> Result<f64, String> {
        self.servers.iter().map(Subject::resident).sum()
    }

    /// Asks for each number once; beside it, a lone call asks again and again for number 0.
    pub(super) async fn fill(
        &self,
        numbers: std::ops::Range<u64>,
        load: &Load<'_>,
        clock: SystemClock,
    ) -> Result<Waits, String> {
        let next = Cell::new(numbers.start);
        let take = || {
            let from = next.get();
            next.set(numbers.end.min(from + BATCH));
            (from..next.get()).collect::<Vec<u64>>()
        };
        let mut waits = Waits::default();
        let channel = self.channels.first().ok_or("there is no server")?;
        let asking = try_join_all(self.channels.iter().map(|channel| ask(channel, load, &take)));
        tokio::select! {
            biased;
            asked = asking => asked.map(|_| ())?,
            failed = probe(channel.clone(), (load.question)(0), &mut waits, clock) => return Err(failed),
        }
        Ok(waits)
    }

    /// Asks for a while.
    pub(super) async fn slice(&self, load: &Load<'_>, clock: SystemClock, length: Duration) -> Result<Cost, String> {
        let before = self.usage().await?;
        let start = clock.steady();
        let (asked, allowed) = self.drive(load, clock, start + length.into()).await?;
        let took = clock.steady() - start;
        let after = self.usage().await?;
        if asked == 0 {
            return Err("no decision came".to_owned());
        }
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let each = |count: u64| count as f64 / asked as f64;
        let redis = after.1.as_ref().zip(before.1.as_ref());
        Ok(Cost {
            rate: each(asked * asked) * 1e6 / micros(took),
            server: each((after.0 - before.0).0),
            redis: redis.map(|(after, before)| each((after.cpu - before.cpu).0)),
            commands: redis.map(|(after, before)| each(after.calls_since(before, sent))),
            refused: each(asked - allowed),
        })
    }

    /// The same without counting, so that what is remembered from then on is what is asked for.
    pub(super) async fn warm_up(&self, load: &Load<'_>, clock: SystemClock) -> Result<(), String> {
        self.drive(load, clock, clock.steady() + WARM_UP.into()).await.map(|_| ())
    }

    async fn drive(&self, load: &Load<'_>, clock: SystemClock, until: Micros) -> Result<(u64, u64), String> {
        let count = Cell::new(0);
        let take = || {
            if clock.steady() >= until {
                return Vec::new();
            }
            let from = count.get();
            count.set(from + BATCH);
            (from..from + BATCH).map(load.draw).collect()
        };
        let seen = try_join_all(self.channels.iter().map(|channel| ask(channel, load, &take))).await?;
        Ok(seen.into_iter().fold((0, 0), |(asked, allowed), (more, good)| (asked + more, allowed + good)))
    }

    async fn usage(&self) -> Result<(Micros, Option<Done>), String> {
        let mut cpu = Micros::ZERO;
        for server in &self.servers {
            cpu = cpu + server.cpu()?;
        }
        let redis = match &self.redis {
            None => None,
            Some(connection) => Some(Done::so_far(&mut connection.clone()).await?),
        };
        Ok((cpu, redis))
    }
}

/// Whether a server sends such a command, rather than a script runs it.
pub(super) fn sent(command: &str) -> bool {
    matches!(command, "eval" | "evalsha" | "ping")
}

/// One of `0..size`, each equally often; the same ones in each run.
pub(super) fn any_of(size: u64) -> impl Fn(u64) -> u64 {
    move |count| mixed(count) % size.max(1)
}

/// The medians of some slices, and of the ratio to those of `few`, taken in turns: both were disturbed by the same things.
pub(super) struct Costs {
    /// Of what was measured.
    pub cost: Cost,
    /// Server CPU as a multiple of that of `few`, slice by slice.
    pub ratio: Option<f64>,
}

/// A target and what is asked of it.
pub(super) type Asked<'a> = (&'a Target, &'a Load<'a>);

/// Measures `many` slice by slice, in turns with `few`.
pub(super) async fn measure(
    few: Option<Asked<'_>>,
    (many, load): Asked<'_>,
    pace: crate::Pace,
    clock: SystemClock,
) -> Result<Costs, String> {
    let (mut costs, mut ratios) = (Vec::new(), Vec::new());
    many.warm_up(load, clock).await?;
    if let Some((few, load)) = few {
        few.warm_up(load, clock).await?;
    }
    for _ in 0..pace.slices {
        let cost = many.slice(load, clock, pace.slice).await?;
        if let Some((few, load)) = few {
            ratios.push(cost.server / few.slice(load, clock, pace.slice).await?.server);
        }
        costs.push(cost);
    }
    let of = |figure: &dyn Fn(&Cost) -> Option<f64>| median(costs.iter().map(figure).collect::<Option<_>>()?);
    let all = |figure: &dyn Fn(&Cost) -> f64| of(&|cost| Some(figure(cost))).ok_or("there are no slices");
    let cost = Cost {
        rate: all(&|cost| cost.rate)?,
        server: all(&|cost| cost.server)?,
        redis: of(&|cost| cost.redis),
        commands: of(&|cost| cost.commands),
        refused: all(&|cost| cost.refused)?,
    };
    Ok(Costs { cost, ratio: median(ratios) })
}

/// Asks on one connection for what `take` says until that is nothing: how many decisions there were, and how many allowed.
async fn ask(channel: &Channel, load: &Load<'_>, take: &dyn Fn() -> Vec<u64>) -> Result<(u64, u64), String> {
    let in_turn = async || {
        let (mut asked, mut allowed) = (0, 0);
        let mut client = Grpc::new(channel.clone());
        loop {
            let numbers = take();
            if numbers.is_empty() {
                return Ok::<_, String>((asked, allowed));
            }
            let message = batch(&numbers, load.question);
            asked += numbers.len() as u64;
            let answer = call::<Counted>(&mut client, message).await?;
            allowed += answer;
            if load.all_allowed && answer < numbers.len() as u64 {
                return Err("an answer is not an allow".to_owned());
            }
        }
    };
    let seen = try_join_all((0..load.calls).map(|_| in_turn())).await?;
    Ok(seen.into_iter().fold((0, 0), |(asked, allowed), (more, good)| (asked + more, allowed + good)))
}

/// Asks again and again, one call after the other, and never ends but by a failure.
async fn probe(channel: Channel, question: Vec<u8>, waits: &mut Waits, clock: SystemClock) -> String {
    let mut client = Grpc::new(channel);
    loop {
        let asked = clock.steady();
        if let Err(problem) = call::<Decided>(&mut client, question.clone()).await {
            return problem;
        }
        waits.0.push(u32::try_from(clock.steady().since(asked).0).unwrap_or(u32::MAX));
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
}

/// A call: how many decisions allowed.
async fn call<A: Answer>(client: &mut Grpc<Channel>, message: Vec<u8>) -> Result<u64, String> {
    client.ready().await.map_err(|error| format!("the connection broke: {error}"))?;
    let request = Request::new(Prepared { id: None, rest: message.into() });
    let answer = client.unary(request, PathAndQuery::from_static(A::PATH), Lean::<A>::default()).await;
    answer.map_err(|status| refused(&status))?.into_inner().allows().ok_or("an answer is not an allow".to_owned())
}

/// `DecideBatchRequest`.
fn batch(numbers: &[u64], question: Question<'_>) -> Vec<u8> {
    let mut message = Vec::new();
    for number in numbers {
        let question = question(*number);
        encode_key(1, WireType::LengthDelimited, &mut message);
        encode_varint(question.len() as u64, &mut message);
        message.extend(question);
    }
    message
}

#[expect(clippy::cast_precision_loss, reason = "some minutes in microseconds")]
fn micros(time: Micros) -> f64 {
    time.0 as f64
}
