//! Counters: of the memory store, until there is no room for more; and in Redis.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream;
use prost::Message as _;
use tollgate::decide::ports::{Clock as _, QuotaStore as _, Request, Requests};
use tollgate::domain::limit::{Algorithm, CounterKey, Limit, Occasion, WhenAway};
use tollgate::domain::question::Mode;
use tollgate::domain::time::Micros;
use tollgate::domain::window::{LeaseId, Outcome, Terms};
use tollgate::proto as pb;
use tollgate::stores::memory::COUNTERS_MAX;
use tollgate::stores::redis::RedisStore;

use super::load::{BATCH, Load, Target, any_of, measure};
use super::{Field, Growing, Point, say_at};
use crate::quotas;
use crate::redis::{Done, Redis};

/// The last is a fifth more than the store has room for.
const SIZES: [u64; 6] = [1_000, 10_000, 100_000, 300_000, 1_000_000, 1_200_000];

/// From as many on that no counter is asked for again so soon that it would be paid from a lease.
const SIZES_IN_REDIS: [u64; 4] = [100_000, 300_000, 3_000_000, 10_000_000];

/// Calls in flight.
const CALLS: usize = 2;

/// Those in flight where each of their questions waits for Redis: half as many questions as may wait for a node at a time
/// (`Bounds::waiting_max`), since more are refused.
const CALLS_TO_REDIS: usize = 32;

/// Calls in flight of who makes counters in Redis directly.
const FILLING: usize = 8;

const NAME: &str = "per-key";
const UNITS: u64 = 1_000_000_000_000;
const WINDOW: Micros = Micros::from_secs(3_600);

/// Measures every size of the memory store.
pub(super) async fn in_memory(field: &Field<'_>) -> Result<Vec<Point>, String> {
    let start = async |name| Target::new(vec![field.server(name, configuration(None)).await?], None).await;
    let (few, many) = (start("few counters").await?, start("counters").await?);
    let sizes = field.sizes(&SIZES, 3);
    let fewest = sizes.first().copied().unwrap_or(0);
    let (mut known, mut points) = (0, Vec::new());
    for &size in sizes {
        say_at(Growing::Counters, size);
        let all_allowed = size <= COUNTERS_MAX as u64;
        let load = |draw| Load { calls: CALLS, draw, question: &question, all_allowed };
        let (any, any_of_few) = (any_of(size), any_of(fewest));
        let waits = many.fill(known..size, &load(&any), field.clock).await?;
        let costs = measure(Some((&few, &load(&any_of_few))), (&many, &load(&any)), field.pace, field.clock).await?;
        points.push(Point::new(size, costs, many.resident()?).grown(waits));
        known = size;
    }
    Ok(points)
}

/// Measures every size in Redis.
pub(super) async fn in_redis(field: &Field<'_>) -> Result<Vec<Point>, String> {
    let redis = field.redis()?;
    let mut connection = redis.connect().await?;
    let store = Arc::new(quotas::connect(&redis, field.clock)?);
    let server = field.server("counters in Redis", configuration(Some(&redis))).await?;
    let target = Target::new(vec![server], Some(connection.clone())).await?;
    let (mut known, mut points) = (0, Vec::new());
    for &size in field.sizes(&SIZES_IN_REDIS, 2) {
        say_at(Growing::RedisCounters, size);
        make(&store, known..size, field).await?;
        known = size;
        let any = any_of(size);
        let load = Load { calls: CALLS_TO_REDIS, draw: &any, question: &question, all_allowed: true };
        let before = keys(&mut connection).await?;
        let costs = measure(None, (&target, &load), field.pace, field.clock).await?;
        let after = keys(&mut connection).await?;
        if after != before {
            return Err(format!("{before} keys became {after}: the server did not find the counters that were made"));
        }
        let redis_memory = Done::so_far(&mut connection).await?.memory;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let redis_memory = Some(redis_memory as f64);
        points.push(Point { redis_memory, ..Point::new(size, costs, target.resident()?) });
    }
    Ok(points)
}

/// Makes counters as the server would, but many with one call: through the same port and script.
async fn make(store: &Arc<RedisStore>, numbers: std::ops::Range<u64>, field: &Field<'_>) -> Result<(), String> {
    let limit = Arc::new(Limit {
        name: NAME.to_owned(),
        algorithm: Algorithm::SlidingWindow { units: UNITS, window: WINDOW },
        by: Vec::new(),
        when_away: WhenAway::Deny,
        charge: Occasion::AfterAuth,
    });
    let starts = numbers.clone().step_by(usize::try_from(BATCH).unwrap_or(1));
    let calls = starts.map(|from| {
        let asked: Requests = (from..numbers.end.min(from + BATCH)).map(|number| request(&limit, number)).collect();
        async { store.acquire(asked, Mode::Consume, field.clock.now()).get().await }
    });
    let mut answers = stream::iter(calls).buffer_unordered(FILLING);
    while let Some(grants) = answers.next().await {
        let is_granted = |grant: &Result<_, _>| {
            matches!(grant, Ok(tollgate::domain::window::Grant { outcome: Outcome::Granted { .. }, .. }))
        };
        if !grants.iter().all(is_granted) {
            return Err("the store does not make counters".to_owned());
        }
    }
    Ok(())
}

/// One unit of a counter.
fn request(limit: &Arc<Limit>, number: u64) -> Request {
    let mut key = CounterKey::new(&limit.name);
    key.push(&number.to_string());
    let lease = LeaseId { replica: 0, serial: 0 };
    Request { limit: Arc::clone(limit), key, terms: Terms { at_least: 1, at_most: 1, hold: Micros::ZERO, lease } }
}

async fn keys(connection: &mut redis::aio::MultiplexedConnection) -> Result<u64, String> {
    redis::cmd("DBSIZE").query_async(connection).await.map_err(|error| format!("DBSIZE: {error}"))
}

/// The question that falls on a counter.
pub(super) fn question(number: u64) -> Vec<u8> {
    let request = pb::RequestAttributes {
        method: "GET".to_owned(),
        path: "/orders/1".to_owned(),
        ..pb::RequestAttributes::default()
    };
    let resource = BTreeMap::from([("key".to_owned(), number.to_string())]).into_iter().collect();
    pb::DecideRequest { request: Some(request), resource, ..pb::DecideRequest::default() }.encode_to_vec()
}

/// One limit, with a counter for each key.
pub(super) fn configuration(redis: Option<&Redis>) -> String {
    // A busy machine is not what is measured: the deadline is too long to be met by it.
    let store = redis.map_or_else(String::new, |redis| {
        format!("store: {{ redis: {{ urls: [\"{}\"], deadline: 2s }} }}\n", redis.url())
    });
    format!(
        r#"listen: {{ grpc: "127.0.0.1:0", http: "127.0.0.1:0", admin: "127.0.0.1:0" }}
{store}limits:
  {NAME}: {{ units: {UNITS}, window: {}s, by: [resource.key] }}
rules:
  - {{ match: {{ path: /orders/** }}, permit: anyone, limits: [{NAME}] }}
"#,
        WINDOW.as_secs()
    )
}
