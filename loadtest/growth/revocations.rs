//! Revocations: sessions of other tokens, in Redis, from where a server loads them when it starts.

use futures_util::StreamExt as _;
use futures_util::stream;
use prost::Message as _;
use tollgate::decide::ports::{Clock as _, RevocationLog as _};
use tollgate::domain::revocation::{Cutoff, Entry, Mark, Target as Revoked};
use tollgate::server::dev::{DevIssuer, ISSUER};
use tollgate::stores::redis::RedisStore;

use super::load::{Load, Target, measure};
use super::{Field, Growing, Point, say_at};
use crate::orders;
use crate::question::{config, issuer};
use crate::quotas;
use crate::redis::{Done, Redis};

/// As many as a log holds at most.
const SIZES: [u64; 5] = [1_000, 10_000, 100_000, 1_000_000, 5_000_000];

/// Entries in one call of the log.
const AT_A_TIME: u64 = 500;

/// Such calls in flight.
const FILLING: usize = 4;

/// Calls in flight.
const CALLS: usize = 2;

/// Measures every size.
pub(super) async fn take(field: &Field<'_>) -> Result<Vec<Point>, String> {
    let (empty, redis) = (field.redis()?, field.redis()?);
    let dev = DevIssuer::new().map_err(|_| "the system has no randomness".to_owned())?;
    let token =
        dev.token("alice", "orders:read", field.clock.now().wall).map_err(|error| format!("no token: {error}"))?;
    let question = orders::question(token).encode_to_vec();
    let ask = |_| question.clone();
    let load = Load { calls: CALLS, draw: &|count| count, question: &ask, all_allowed: true };
    let start = async |name: String, redis: &Redis| {
        let asked = field.clock.steady();
        let server = field.server(&name, config(&issuer(&dev)?, Some(redis.port))).await?;
        let ready = field.clock.steady() - asked;
        Ok::<_, String>((Target::new(vec![server], Some(redis.connect().await?)).await?, ready.into()))
    };
    let (few, _) = start("no revocations".to_owned(), &empty).await?;
    let store = quotas::connect(&redis, field.clock)?;
    let mut connection = redis.connect().await?;
    let (mut known, mut points) = (0, Vec::new());
    for &size in field.sizes(&SIZES, 3) {
        say_at(Growing::Revocations, size);
        revoke(&store, known..size, field).await?;
        known = size;
        let (many, ready) = start(format!("{size} revocations"), &redis).await?;
        let costs = measure(Some((&few, &load)), (&many, &load), field.pace, field.clock).await?;
        let memory = Done::so_far(&mut connection).await?.memory;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let redis_memory = Some(memory as f64);
        points.push(Point { redis_memory, ready: Some(ready), ..Point::new(size, costs, many.resident()?) });
    }
    Ok(points)
}

/// Writes entries into the log as a replica does that tells one what it has lost: many with one call, through the same port
/// and script.
pub(super) async fn revoke(store: &RedisStore, numbers: std::ops::Range<u64>, field: &Field<'_>) -> Result<(), String> {
    let entry = |number: u64| {
        let session = Revoked::session(ISSUER, &format!("4f9c2f6e-8a5b-4c1d-9e3f-{number:012}"));
        Entry { mark: Mark::of(session.borrowed()), cutoff: Cutoff::ALWAYS }
    };
    let starts = numbers.clone().step_by(usize::try_from(AT_A_TIME).unwrap_or(1));
    let calls = starts.map(|from| {
        let entries: Vec<Entry> = (from..numbers.end.min(from + AT_A_TIME)).map(entry).collect();
        async { store.restore(entries, field.clock.now()).get().await }
    });
    let mut answers = stream::iter(calls).buffer_unordered(FILLING);
    while let Some(answer) = answers.next().await {
        answer.map_err(|away| format!("the log of revocations {away}"))?;
    }
    Ok(())
}
