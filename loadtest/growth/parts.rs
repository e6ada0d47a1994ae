//! What each command costs Redis that a replica sends: what a fleet is reckoned from.

use std::sync::Arc;

use futures_util::{StreamExt as _, TryFutureExt as _, stream};
use redis::aio::MultiplexedConnection;
use tollgate::decide::ports::{
    Clock as _, Cursor, Pulse, QuotaStore as _, Request, Requests, RevocationLog as _, Settlement, Settlements,
};
use tollgate::domain::limit::{Algorithm, CounterKey, Limit, Occasion, WhenAway};
use tollgate::domain::question::Mode;
use tollgate::domain::time::Micros;
use tollgate::domain::window::{LeaseId, Terms};
use tollgate::stores::redis::RedisStore;

use super::Field;
use crate::quotas;
use crate::redis::Done;
use crate::say;
use crate::traffic::mixed;

/// The name of the row.
pub(super) const NAME: &str = "commands";

/// Calls in flight: Redis answers several at a time, as it does under load.
const IN_FLIGHT: usize = 50;

/// Counters that are asked for, and with `--quick`.
const COUNTERS: u64 = 200_000;
const COUNTERS_QUICK: u64 = 50_000;

/// Calls of what depends on nothing.
const CALLS: u64 = 20_000;

/// Entries of the log of revocations, and how often its first page is read.
const ENTRIES: u64 = 10_000;
const PAGES: u64 = 500;

/// Leases that are taken before they are settled: well within the time that they last.
const LEASES_AT_A_TIME: u64 = 500;

/// How often leases are taken and settled so.
const LEASE_ROUNDS: u64 = 20;

/// Replicas that say that they are there.
pub(super) const FLEETS: [u64; 4] = [1, 10, 100, 1_000];

/// How often each of them says so.
const BEATS: u64 = 3;

/// `INCRBY` and `EXPIRE` of two keys.
const WINDOWS_SCRIPT: &str = "for _, key in ipairs(KEYS) do \
     redis.call('INCRBY', key, 1) redis.call('EXPIRE', key, 60) \
 end return 0";

const WINDOW: Micros = Micros::from_secs(60);
const HOLD: Micros = Micros::from_secs(1);

/// What one call costs Redis.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    /// CPU, in µs.
    pub cpu: f64,
    /// Bytes to Redis.
    pub received: f64,
    /// Bytes from Redis.
    pub sent: f64,
}

/// What is known of each call.
pub(crate) struct Parts {
    /// Asks for one unit of a counter that is not there yet, in a call of its own, as on a cluster.
    pub acquire_new: Part,
    /// The same of one that is.
    pub acquire: Part,
    /// Asks for one unit of a counter that is not there yet, of a server, together with others.
    pub acquire_new_together: Part,
    /// The same of two counters.
    pub acquire_two_new: Part,
    /// Counts two new keys in fixed windows, as envoyproxy/ratelimit does: by four commands, …
    pub windows: Part,
    /// … and by a script that sends the same four: what it costs that all are counted or none.
    pub scripted_windows: Part,
    /// A script that does nothing.
    pub empty_script: Part,
    /// Ends one lease.
    pub settle: Part,
    /// Asks what was revoked; nothing was.
    pub poll: Part,
    /// Reads a page of the log of revocations: 1,000 entries.
    pub page: Part,
    /// Says that a replica is there, one of so many.
    pub beats: Vec<(u64, Part)>,
    /// `PING`.
    pub ping: Part,
    /// Bytes of a counter that was charged once.
    pub counter: f64,
}

struct Bench<'a> {
    store: RedisStore,
    connection: MultiplexedConnection,
    limit: Arc<Limit>,
    field: &'a Field<'a>,
}

/// Measures each.
pub(super) async fn take(field: &Field<'_>) -> Result<Parts, String> {
    say("commands …");
    let redis = field.redis()?;
    let limit = Limit {
        name: "per-key".to_owned(),
        algorithm: Algorithm::SlidingWindow { units: 1_000_000_000_000, window: WINDOW },
        by: Vec::new(),
        when_away: WhenAway::Deny,
        charge: Occasion::AfterAuth,
    };
    let limit = Arc::new(limit);
    let counters = if field.quick { COUNTERS_QUICK } else { COUNTERS };
    let [acquire_new, acquire] = {
        let cluster = field.cluster().await?;
        let store = quotas::connect(&cluster, field.clock)?;
        let bench = Bench { store, connection: cluster.connect().await?, limit: Arc::clone(&limit), field };
        [bench.acquire(counters).await?, bench.acquire(counters).await?]
    };
    let store = quotas::connect(&redis, field.clock)?;
    let bench = Bench { store, connection: redis.connect().await?, limit, field };
    let before = bench.done().await?.memory;
    let acquire_new_together = bench.acquire(counters).await?;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let counter = (bench.done().await?.memory - before) as f64 / counters as f64;
    let acquire_two_new = bench.acquire_two(counters).await?;
    let windows = bench.windows().await?;
    let scripted_windows = bench.script("scripted", WINDOWS_SCRIPT).await?;
    let empty_script = bench.script("empty", "return 0").await?;
    let settle = bench.settle().await?;
    let poll = bench.poll().await?;
    let page = bench.page().await?;
    let ping = bench.ping().await?;
    let mut beats = Vec::new();
    for fleet in FLEETS {
        beats.push((fleet, bench.beats(fleet).await?));
    }
    Ok(Parts {
        acquire_new,
        acquire,
        acquire_new_together,
        acquire_two_new,
        windows,
        scripted_windows,
        empty_script,
        settle,
        poll,
        page,
        beats,
        ping,
        counter,
    })
}

impl Bench<'_> {
    async fn done(&self) -> Result<Done, String> {
        Done::so_far(&mut self.connection.clone()).await
    }

    async fn acquire(&self, counters: u64) -> Result<Part, String> {
        let before = self.done().await?;
        let calls = (0..counters).map(|number| self.ask([self.request(number, Micros::ZERO)]));
        all(calls, IN_FLIGHT).await?;
        Ok(Part::since(&before, &self.done().await?, counters))
    }

    /// Two counters with each call, all of them behind those that are there already.
    async fn acquire_two(&self, known: u64) -> Result<Part, String> {
        self.repeat(|number| {
            let first = known + 2 * number;
            self.ask([first, first + 1].map(|number| self.request(number, Micros::ZERO)))
        })
        .await
    }

    async fn windows(&self) -> Result<Part, String> {
        self.repeat(|number| {
            let mut four = redis::pipe();
            for key in two_keys("plain", number) {
                four.cmd("INCRBY").arg(&key).arg(1).cmd("EXPIRE").arg(&key).arg(60);
            }
            let mut connection = self.connection.clone();
            async move { four.query_async::<[u64; 4]>(&mut connection).await.map(|_| ()) }
        })
        .await
    }

    /// A script that is given two keys.
    async fn script(&self, name: &str, text: &str) -> Result<Part, String> {
        let script = redis::Script::new(text);
        self.repeat(|number| {
            let mut run = script.prepare_invoke();
            for key in two_keys(name, number) {
                run.key(key);
            }
            let mut connection = self.connection.clone();
            async move { run.invoke_async::<u64>(&mut connection).await.map(|_| ()) }
        })
        .await
    }

    async fn settle(&self) -> Result<Part, String> {
        let mut sum = Part { cpu: 0.0, received: 0.0, sent: 0.0 };
        for _ in 0..LEASE_ROUNDS {
            all((0..LEASES_AT_A_TIME).map(|number| self.ask([self.request(number, HOLD)])), IN_FLIGHT).await?;
            let before = self.done().await?;
            let calls = (0..LEASES_AT_A_TIME).map(|number| {
                let Request { limit, key, terms } = self.request(number, HOLD);
                let settlements: Settlements =
                    [Settlement { limit, key, lease: terms.lease, used: 1 }].into_iter().collect();
                async {
                    self.store.settle(settlements, self.field.clock.now()).get().await.map_err(|away| away.to_string())
                }
            });
            all(calls, IN_FLIGHT).await?;
            let round = Part::since(&before, &self.done().await?, LEASES_AT_A_TIME * LEASE_ROUNDS);
            sum =
                Part { cpu: sum.cpu + round.cpu, received: sum.received + round.received, sent: sum.sent + round.sent };
        }
        Ok(sum)
    }

    async fn poll(&self) -> Result<Part, String> {
        let now = self.field.clock.now();
        let place = self.store.snapshot(Cursor::default(), now).get().await.map_err(|away| away.to_string())?.place;
        self.repeat(|_| async move { self.store.news(place, self.field.clock.now()).get().await.map(|_| ()) }).await
    }

    /// The first page of a log that has more, again and again.
    async fn page(&self) -> Result<Part, String> {
        super::revocations::revoke(&self.store, 0..ENTRIES, self.field).await?;
        let before = self.done().await?;
        let calls = (0..PAGES).map(|_| async {
            let snapshot = self.store.snapshot(Cursor::default(), self.field.clock.now()).get().await;
            match snapshot.map_err(|away| away.to_string())?.next {
                Some(_) => Ok(()),
                None => Err(format!("a page holds all {ENTRIES} entries")),
            }
        });
        all(calls, 1).await?;
        Ok(Part::since(&before, &self.done().await?, PAGES))
    }

    async fn ping(&self) -> Result<Part, String> {
        self.repeat(|_| {
            let mut connection = self.connection.clone();
            async move { redis::cmd("PING").query_async::<String>(&mut connection).await.map(|_| ()) }
        })
        .await
    }

    /// Many calls of one kind, each with its number.
    async fn repeat<F, E>(&self, call: impl Fn(u64) -> F) -> Result<Part, String>
    where
        F: Future<Output = Result<(), E>>,
        E: ToString,
    {
        let before = self.done().await?;
        all((0..CALLS).map(|number| call(number).map_err(|error| error.to_string())), IN_FLIGHT).await?;
        Ok(Part::since(&before, &self.done().await?, CALLS))
    }

    /// Each of so many replicas says some times that it is there. The first time is not counted: they are not all there.
    async fn beats(&self, fleet: u64) -> Result<Part, String> {
        let beat = |number| {
            // Of a random name, as replicas draw them. The smaller fleets are there still: they are among these.
            let pulse = Pulse { replica: mixed(number), epoch: None };
            async move { self.store.beat(pulse, self.field.clock.now()).get().await }
        };
        let mut before = self.done().await?;
        for round in 0..=BEATS {
            if round == 1 {
                before = self.done().await?;
            }
            let mut calls = stream::iter((0..fleet).map(beat)).buffer_unordered(IN_FLIGHT);
            while let Some(there) = calls.next().await {
                let there = there.map_err(|away| away.to_string())?.there.len() as u64;
                if round > 0 && there < fleet {
                    return Err(format!("{fleet} replicas are there, and Redis knows of {there}"));
                }
            }
        }
        Ok(Part::since(&before, &self.done().await?, fleet * BEATS))
    }

    fn request(&self, number: u64, hold: Micros) -> Request {
        let mut key = CounterKey::new(&self.limit.name);
        key.push(&number.to_string());
        let more = u64::from(hold > Micros::ZERO);
        let lease = LeaseId { replica: 1, serial: number };
        Request { limit: Arc::clone(&self.limit), key, terms: Terms { at_least: 1, at_most: 1 + more, hold, lease } }
    }

    async fn ask(&self, requests: impl IntoIterator<Item = Request>) -> Result<(), String> {
        let asked: Requests = requests.into_iter().collect();
        let grants = self.store.acquire(asked, Mode::Consume, self.field.clock.now()).get().await;
        if grants.iter().all(Result::is_ok) { Ok(()) } else { Err(format!("the store does not grant: {grants:?}")) }
    }
}

impl Part {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    fn since(before: &Done, after: &Done, calls: u64) -> Self {
        let each = |count: u64| count as f64 / calls as f64;
        Self {
            cpu: each((after.cpu - before.cpu).0),
            received: each(after.received - before.received),
            sent: each(after.sent - before.sent),
        }
    }
}

fn two_keys(of: &str, number: u64) -> [String; 2] {
    ["a", "b"].map(|one| format!("windows:{{{of}:{number}}}:{one}"))
}

async fn all<F: Future<Output = Result<(), String>>>(
    calls: impl Iterator<Item = F>,
    at_a_time: usize,
) -> Result<(), String> {
    let mut answers = stream::iter(calls).buffer_unordered(at_a_time);
    while let Some(answer) = answers.next().await {
        answer?;
    }
    Ok(())
}
