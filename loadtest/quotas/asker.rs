//! One call after the other, for each of those that are compared: the same keys, the same number of limits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use http::uri::PathAndQuery;
use prost::Message as _;
use prost::bytes::Bytes;
use redis::aio::MultiplexedConnection;
use tollgate::decide::ports::{Clock as _, QuotaStore as _, Request, Requests};
use tollgate::domain::limit::{Algorithm, CounterKey, Limit, Occasion, UNITS_MAX, WhenAway};
use tollgate::domain::question::Mode;
use tollgate::domain::slots::{SLOTS_MAX, Slots};
use tollgate::domain::time::Micros;
use tollgate::domain::window::{GROUP_MAX, LeaseId, Outcome, Terms};
use tollgate::proto as pb;
use tollgate::server::SystemClock;
use tollgate::stores::redis::RedisStore;
use tonic::client::Grpc;
use tonic::transport::Channel;

use super::DOMAIN;
use crate::load::message::{Answer, Decided, Lean, Prepared};
use crate::load::refused;
use crate::peers::ratelimit::{Limited, request};

/// The yardstick: what a fixed window costs at least when Redis counts. One call, whatever the number of limits.
const FIXED_WINDOW: &str = "
local admitted = 1
for i = 1, #KEYS do
  local used = redis.call('INCRBY', KEYS[i], 1)
  if used == 1 then redis.call('PEXPIRE', KEYS[i], ARGV[1]) end
  if used > tonumber(ARGV[2]) then admitted = 0 end
end
return admitted";

/// The window of the yardstick and of the servers' limits.
const WINDOW: Micros = Micros::from_secs(60);

/// That of the acquire script when it is driven directly: so short that a counter's sub-windows are all in use within a
/// slice, as in a counter that has been hot for long.
const SHORT_WINDOW: Micros = Micros::from_secs(1);

/// What is granted beyond what is needed, where leases are taken.
const MORE: u64 = 1;

/// How long a lease or a reservation of such a window lasts: a twentieth of it.
const HOLD: Micros = Micros::from_millis(50);

/// How long slots are held that expire: so short, shorter than can be configured, that a counter that is hot has enough.
const SHORT_HOLD: Micros = Micros::from_millis(20);

const ONE: Terms = Terms { at_least: 1, at_most: 1, hold: Micros::ZERO, lease: LeaseId { replica: 0, serial: 0 } };

/// Whoever asks, one question at a time.
#[derive(Clone)]
pub(crate) enum Asker {
    /// The fixed-window script.
    FixedWindow {
        /// To Redis.
        redis: MultiplexedConnection,
        /// Ready to be called.
        script: Arc<redis::Script>,
        /// Limits on a question.
        limits: usize,
    },
    /// The acquire script: each question asks.
    Acquire {
        /// Runs it.
        store: Arc<RedisStore>,
        /// Each question's.
        limits: Arc<[Arc<Limit>]>,
        /// What each of them is asked for, each time under a new name.
        terms: Terms,
        /// The latest name.
        named: Arc<AtomicU64>,
        /// The store wants the time, and uses Redis's.
        clock: SystemClock,
    },
    /// A server, of either kind.
    Server {
        /// To the server.
        client: Grpc<Channel>,
        /// What it speaks.
        speaks: Speaks,
    },
}

/// What the acquire script is asked for; nobody settles or releases anything.
#[derive(Clone, Copy)]
pub(crate) enum Take {
    /// One unit, spent at once.
    Units,
    /// A lease of one or two.
    Lease,
    /// One, reserved.
    Reservation,
    /// One slot of counters that are `turn`'s own, with room enough.
    Slots {
        /// Which one it is.
        turn: u64,
    },
    /// One slot, while those of earlier questions expire.
    ExpiringSlots,
}

/// What a server speaks.
#[derive(Clone)]
pub(crate) enum Speaks {
    /// `tollgate.v1`, with the question but for its key.
    Tollgate(Bytes),
    /// `envoy.service.ratelimit.v3`, with so many descriptors.
    Envoy(usize),
}

impl Asker {
    /// Of the fixed-window script.
    pub(crate) fn fixed_window(redis: MultiplexedConnection, limits: usize) -> Self {
        Self::FixedWindow { redis, script: Arc::new(redis::Script::new(FIXED_WINDOW)), limits }
    }

    /// Of the acquire script.
    pub(crate) fn acquire(store: Arc<RedisStore>, limits: usize, take: Take, clock: SystemClock) -> Self {
        let window = Algorithm::SlidingWindow { units: UNITS_MAX, window: SHORT_WINDOW };
        let slots = |hold| Algorithm::Concurrency(Slots { units: SLOTS_MAX, hold });
        let (prefix, algorithm, terms) = match take {
            Take::Units => ("acquire".to_owned(), window, ONE),
            Take::Lease => ("leased".to_owned(), window, Terms { at_most: 1 + MORE, hold: HOLD, ..ONE }),
            Take::Reservation => ("reserved".to_owned(), window, Terms { hold: HOLD, ..ONE }),
            Take::Slots { turn } => (format!("slots-{turn}"), slots(WINDOW), ONE),
            Take::ExpiringSlots => ("expiring".to_owned(), slots(SHORT_HOLD), ONE),
        };
        let limit = |number| {
            let name = format!("{prefix}-{number}");
            Arc::new(Limit { name, algorithm, by: Vec::new(), when_away: WhenAway::Deny, charge: Occasion::AfterAuth })
        };
        Self::Acquire { store, limits: (0..limits).map(limit).collect(), terms, named: Arc::default(), clock }
    }

    /// Of a Tollgate whose rule for `/n` has n limits.
    pub(crate) fn tollgate(channel: Channel, limits: usize) -> Self {
        let request = pb::RequestAttributes {
            method: "GET".to_owned(),
            path: format!("/{limits}"),
            ..pb::RequestAttributes::default()
        };
        let question = pb::DecideRequest { request: Some(request), ..pb::DecideRequest::default() };
        Self::server(channel, Speaks::Tollgate(question.encode_to_vec().into()))
    }

    /// Of envoyproxy/ratelimit.
    pub(crate) fn envoy(channel: Channel, limits: usize) -> Self {
        Self::server(channel, Speaks::Envoy(limits))
    }

    fn server(channel: Channel, speaks: Speaks) -> Self {
        Self::Server { client: Grpc::new(channel), speaks }
    }

    /// Asks once. An error unless the answer allows.
    pub(crate) async fn ask(&mut self, key: u64) -> Result<(), String> {
        let allowed = match self {
            Self::FixedWindow { redis, script, limits } => {
                let mut call = script.prepare_invoke();
                for limit in 0..*limits {
                    call.key(format!("fixed:{limit}:{key}"));
                }
                call.arg(WINDOW.0 / 1_000).arg(UNITS_MAX);
                call.invoke_async(redis).await.map_err(|error| format!("the script failed: {error}"))?
            }
            Self::Acquire { store, limits, terms, named, clock } => {
                let serial = named.fetch_add(1, Relaxed);
                let lease = LeaseId { replica: serial / u64::from(GROUP_MAX), serial };
                let terms = Terms { lease, ..*terms };
                let asked: Requests = limits.iter().map(|limit| charge(limit, key, terms)).collect();
                let grants = store.acquire(asked, Mode::Consume, clock.now()).get().await;
                let grants_all = grants
                    .iter()
                    .all(|grant| matches!(grant, Ok(grant) if matches!(grant.outcome, Outcome::Granted { .. })));
                if !grants_all {
                    return Err(format!("the store does not grant: {grants:?}"));
                }
                true
            }
            Self::Server { client, speaks: Speaks::Tollgate(question) } => {
                let resource = BTreeMap::from([("key".to_owned(), key.to_string())]);
                // Parts of a message that are written one after the other are one message.
                let part = pb::DecideRequest { resource, ..pb::DecideRequest::default() }.encode_to_vec();
                call::<Decided>(client, [question, part.as_slice()].concat()).await?
            }
            Self::Server { client, speaks: Speaks::Envoy(limits) } => {
                call::<Limited>(client, request(DOMAIN, *limits, key).encode_to_vec()).await?
            }
        };
        if allowed { Ok(()) } else { Err("an answer is not an allow".to_owned()) }
    }
}

fn charge(limit: &Arc<Limit>, key: u64, terms: Terms) -> Request {
    let mut counter = CounterKey::new(&limit.name);
    counter.push(&key.to_string());
    Request { limit: Arc::clone(limit), key: counter, terms }
}

async fn call<A: Answer>(client: &mut Grpc<Channel>, message: Vec<u8>) -> Result<bool, String> {
    client.ready().await.map_err(|error| format!("the connection broke: {error}"))?;
    let asked = tonic::Request::new(Prepared { id: None, rest: message.into() });
    let answer = client.unary(asked, PathAndQuery::from_static(A::PATH), Lean::<A>::default()).await;
    Ok(answer.map_err(|status| refused(&status))?.into_inner().allows().is_some())
}
