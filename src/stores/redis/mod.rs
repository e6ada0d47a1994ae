//! Counters in Redis, shared by all replicas.
//!
//! One script call for each acquisition, whatever the number of counters, or for several that come at the same time; all
//! keys are declared. Time is the server's own, in microseconds, and never steps back for a counter. Commands of Redis 6.2
//! suffice. A counter's keys share a hash tag, clean themselves up, and can be read: `tollgate:{per-client 5:alice}`.
//! Reservations are written down together where one server has all, else beside their counters.

mod access;
mod answer;
mod api_keys;
mod gate;
mod leases;
mod link;
mod node;
mod nodes;
mod proofs;
mod pulse;
mod revocations;
mod script;
mod slots;
mod steps;
mod survey;
mod together;
mod turns;
mod way;

use std::sync::Arc;

use ::redis::{ErrorKind, RedisError, ServerErrorKind};
use aws_lc_rs::digest::{SHA256, digest};
use futures_util::future::join_all;
use smallvec::SmallVec;
use tokio::sync::Semaphore;

pub use self::access::{ConnectProblem, Reach, Settings, TimeSource};
use self::answer::{grants, refunds};
pub use self::gate::{Bounds, Gates};
use self::leases::{Leases, Told};
#[cfg(test)]
pub(super) use self::link::evicts;
pub use self::nodes::NodeHealth;
use self::nodes::{Nodes, Outcome as Sent};
use self::pulse::{PLACES, Trust};
use self::script::{Call, Code};
use self::steps::Steps;
use self::together::Together;
use crate::decide::ports::{
    Answer, Away, AwayCause, Beat, Charge, Charges, Grants, Hit, Hits, Pulse, QuotaStore, Refunds, Request, Requests,
    Settlement, Settlements,
};
use crate::domain::limit::{Algorithm, CounterKey, Limit, TOTAL_MAX, UNITS_MAX, WINDOW_MAX, WhenAway};
use crate::domain::question::Mode;
use crate::domain::time::{Micros, Moment};
use crate::domain::window::{Frame, Grant, LeaseId, Outcome};
use crate::stores::revocations::Bounds as RevocationBounds;

/// How many questions may be taking back at a time what some of their counters charged and others refused. What one
/// beyond was charged stays charged.
const TAKING_BACK_MAX: usize = 1_024;

/// Keeps counters in Redis: on one server, whose name may be found out from Sentinels, or on a cluster's nodes. Each
/// call is answered within the deadline of its [`Gates`], and no node's troubles are another's.
pub struct RedisStore(Arc<Inner>);

struct Inner {
    nodes: Arc<Nodes>,
    trust: Arc<Trust>,
    steps: Steps<PLACES>,
    time: TimeSource,
    acquire: Arc<Together>,
    hit: Arc<Together>,
    settle: Code,
    refund: Code,
    reset: Code,
    assert: Code,
    beat: Code,
    first_use: Code,
    proofs_of_a_key_max: usize,
    api_key: Code,
    revocation: Code,
    revocation_bounds: RevocationBounds,
    /// Those that were taken through this store.
    leases: Leases,
    taking_back: Arc<Semaphore>,
}

/// What several counters answered.
type Answers<T> = SmallVec<[Result<T, Away>; 4]>;

impl RedisStore {
    /// Begins to connect, in the background, and goes on by itself whenever a connection is lost. That Redis is not
    /// there yet is no error; that the settings cannot work is one.
    ///
    /// To be called within a Tokio runtime. `rediss://` uses rustls's process-wide provider.
    pub fn connect(settings: &Settings, gates: Gates) -> Result<Self, ConnectProblem> {
        let (trust, steps) = (Arc::new(Trust::new()), Steps::new(&gates));
        let waiting_max = gates.waiting_max();
        let nodes = Arc::new(Nodes::open(settings, gates, &trust)?);
        let together = |text| Arc::new(Together::new(Arc::clone(&nodes), Code::new(text), waiting_max));
        Ok(Self(Arc::new(Inner {
            acquire: together(concat!(
                include_str!("now.lua"),
                include_str!("acquire.lua"),
                include_str!("together.lua")
            )),
            hit: together(concat!(include_str!("now.lua"), include_str!("hit.lua"), include_str!("together.lua"))),
            nodes: Arc::clone(&nodes),
            trust,
            steps,
            time: settings.time,
            settle: Code::new(concat!(include_str!("now.lua"), include_str!("levels.lua"), include_str!("settle.lua"))),
            refund: Code::new(concat!(include_str!("now.lua"), include_str!("levels.lua"), include_str!("refund.lua"))),
            reset: Code::new(include_str!("reset.lua")),
            assert: Code::telling(concat!(
                include_str!("now.lua"),
                include_str!("levels.lua"),
                include_str!("assert.lua")
            )),
            beat: Code::telling(concat!(include_str!("now.lua"), include_str!("beat.lua"))),
            first_use: Code::new(concat!(include_str!("now.lua"), include_str!("first_use.lua"))),
            proofs_of_a_key_max: settings.proofs_of_a_key_max,
            // What was charged is nothing to API keys.
            api_key: Code::telling(include_str!("api_key.lua")),
            // Neither is it to what was taken back.
            revocation: Code::telling(concat!(include_str!("now.lua"), include_str!("revocations.lua"))),
            revocation_bounds: RevocationBounds::default(),
            leases: Leases::none(),
            taking_back: Arc::new(Semaphore::new(TAKING_BACK_MAX)),
        })))
    }

    /// Each node by its name, and whether it answers, as far as the last calls tell; else why not.
    pub fn health(&self) -> Vec<NodeHealth> {
        self.0.nodes.health()
    }

    /// With other bounds for revocations; to be asked before anything else.
    #[cfg(test)]
    pub(super) fn with_revocation_bounds(mut self, bounds: RevocationBounds) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.revocation_bounds = bounds;
        }
        self
    }

    /// Completes when nothing is being taken back.
    #[cfg(test)]
    pub(super) async fn rest(&self) {
        let all = u32::try_from(TAKING_BACK_MAX).unwrap_or(u32::MAX);
        let _ = self.0.taking_back.acquire_many(all).await;
    }
}

impl QuotaStore for RedisStore {
    fn acquire(&self, requests: Requests, mode: Mode, now: Moment) -> Answer<'_, Grants> {
        if requests.is_empty() {
            return Answer::Now(Grants::new());
        }
        Answer::later(async move { self.0.acquire_later(&requests, mode, now).await })
    }

    fn hit(&self, hits: Hits, now: Moment) -> Answer<'_, Grants> {
        if hits.is_empty() {
            return Answer::Now(Grants::new());
        }
        Answer::later(async move { self.0.hit_later(&hits, now).await })
    }

    fn settle(&self, settlements: Settlements, now: Moment) -> Answer<'_, Result<(), Away>> {
        if settlements.is_empty() {
            return Answer::Now(Ok(()));
        }
        Answer::later(async move { self.0.settle_later(&settlements, now).await })
    }

    fn refund(&self, charges: Charges, now: Moment) -> Answer<'_, Result<Refunds, Away>> {
        if charges.is_empty() {
            return Answer::Now(Ok(Refunds::new()));
        }
        Answer::later(async move { self.0.refund_later(&charges, now).await.into_iter().collect() })
    }

    fn reset(&self, limit: Arc<Limit>, key: CounterKey) -> Answer<'_, Result<(), Away>> {
        Answer::later(async move { self.0.reset_later(&limit, &key).await })
    }

    fn assert(&self, charges: Charges, now: Moment) -> Answer<'_, Result<(), Away>> {
        Answer::later(async move { self.0.assert_later(charges, now).await })
    }

    fn beat(&self, pulse: Pulse, now: Moment) -> Answer<'_, Result<Beat, Away>> {
        Answer::later(async move { self.0.beat_later(pulse, now).await })
    }
}

impl Inner {
    async fn acquire_later(self: &Arc<Self>, requests: &Requests, mode: Mode, now: Moment) -> Grants {
        let call = |requests: &[Request], spread| self.acquisition(requests, spread, mode, now);
        let read = |answer: &[u8], count| grants(answer, count, mode);
        let (answers, alone) = self.ask_together(&self.acquire, requests, call, read).await;
        let heard = |(request, answer): (&Request, Result<(Grant, Option<Told>), Away>)| {
            let (grant, told) = answer?;
            if let Some(told) = told {
                self.leases.keep(request.terms.lease, &request.key, told);
            }
            Ok(grant)
        };
        let mut grants: Grants = requests.iter().zip(answers).map(heard).collect();
        if alone && mode == Mode::Consume && is_refused(requests, &grants) {
            self.take_back(requests, &mut grants, now);
        }
        grants
    }

    fn acquisition(&self, requests: &[Request], spread: bool, mode: Mode, now: Moment) -> Call {
        let mut call = Call::default();
        call.keys.extend(requests.iter().map(|request| state_key(&request.key, request.limit.algorithm)));
        let reserved = requests.iter().find(|request| holds(request) == Holds::Reservation);
        // Without it units are charged as long, and cannot be given back.
        call.keys
            .extend(reserved.map(|Request { key, terms, .. }| reservations_key(terms.lease, spread.then_some(key))));
        call.spare = call.keys.len() - requests.len();
        let states = call.keys.get(..requests.len()).unwrap_or_default();
        let twice =
            states.iter().enumerate().any(|(index, state)| states.iter().skip(index + 1).any(|other| other == state));
        let mode = match mode {
            Mode::Consume if twice => b't',
            Mode::Consume => b'c',
            Mode::Peek => b'p',
        };
        let mut asked = vec![count_of(&call.keys), mode];
        for (request, state) in requests.iter().zip(&call.keys) {
            asked.extend(packed(request));
            if holds(request) == Holds::Reservation {
                asked.extend(mark(request.terms.lease, state));
            }
        }
        call.args = vec![self.time_argument(now), asked];
        call
    }

    async fn hit_later(&self, hits: &[Hit], now: Moment) -> Grants {
        let call = |hits: &[Hit], _| {
            let mut call = Call::default();
            call.keys.extend(hits.iter().map(|hit| state_key(&hit.key, Algorithm::FixedWindow(hit.grid))));
            let mut packed = vec![count_of(&call.keys)];
            for Hit { grid, hits, .. } in hits {
                push(&mut packed, &[grid.length.0, grid.units, (*hits).min(TOTAL_MAX)]);
            }
            call.args = vec![self.time_argument(now), packed];
            call
        };
        // What it tells is as of afterwards already.
        let read = |answer: &[u8], count| grants(answer, count, Mode::Peek);
        let (answers, _) = self.ask_together(&self.hit, hits, call, read).await;
        answers.into_iter().map(|answer| answer.map(|(grant, _)| grant)).collect()
    }

    async fn settle_later(&self, settlements: &[Settlement], now: Moment) -> Result<(), Away> {
        let told = |Settlement { limit, key, lease, .. }: &Settlement| match limit.algorithm {
            Algorithm::SlidingWindow { .. } => self.leases.take(*lease, key),
            Algorithm::TokenBucket(_) | Algorithm::FixedWindow(_) | Algorithm::Concurrency(_) => None,
        };
        let owed: SmallVec<[(&Settlement, Option<Told>); 4]> =
            settlements.iter().map(|settlement| (settlement, told(settlement))).collect();
        let call = |owed: &[(&Settlement, Option<Told>)], spread: bool| {
            let mut call = Call::default();
            call.args.push(self.time_argument(now));
            for (settlement, told) in owed {
                let Settlement { limit, key, lease, .. } = settlement;
                let state = state_key(key, limit.algorithm);
                let mut packed = packed_settlement(settlement, *told);
                let holder = match limit.algorithm {
                    // It stands in the state. A key that is never there would keep a slot that moves from being served.
                    Algorithm::Concurrency(_) => state.clone(),
                    _ if told.is_some() => state.clone(),
                    Algorithm::SlidingWindow { .. } | Algorithm::TokenBucket(_) | Algorithm::FixedWindow(_) => {
                        packed.extend(mark(*lease, &state));
                        reservations_key(*lease, spread.then_some(key))
                    }
                };
                call.keys.extend([state, holder]);
                call.args.push(packed);
            }
            call
        };
        let (answers, _) = self.ask(&self.settle, &owed, call, |_, count| Some(nothing(count))).await;
        for ((settlement, told), answer) in owed.iter().zip(&answers) {
            // Another attempt may follow. Where it may have been settled, none must.
            let unasked = answer.is_err_and(|Away { because }| !because.may_have_been_asked());
            if let Some(told) = told.filter(|_| unasked) {
                self.leases.keep(settlement.lease, &settlement.key, told);
            }
        }
        answers.into_iter().collect()
    }

    async fn refund_later(&self, charges: &[Charge], now: Moment) -> Answers<u64> {
        let call = |charges: &[Charge], _| {
            let mut call = Call::default();
            call.keys.extend(charges.iter().map(|charge| state_key(&charge.key, charge.limit.algorithm)));
            call.args.push(self.time_argument(now));
            call.args.extend(charges.iter().map(|charge| packed_units(charge.limit.algorithm, charge.units)));
            call
        };
        let read = |answer: &[u8], count| Some(refunds(answer, count)?.into_iter().map(Ok).collect());
        self.ask(&self.refund, charges, call, read).await.0
    }

    async fn reset_later(&self, limit: &Limit, key: &CounterKey) -> Result<(), Away> {
        let call = |_: &[()], _| Call {
            keys: vec![state_key(key, limit.algorithm)],
            args: vec![kind(limit.algorithm).into()],
            ..Call::default()
        };
        let (answers, _) = self.ask(&self.reset, &[()], call, |_, count| Some(nothing(count))).await;
        answers.into_iter().collect()
    }

    /// Runs a script for all `items`: in one call where one server has all the counters, else each in a call of its own,
    /// all at the same time; `call` is told which. One answer for each, in order; and whether they were asked each alone.
    async fn ask<I, T>(
        &self,
        code: &Code,
        items: &[I],
        call: impl Fn(&[I], bool) -> Call,
        read: impl Fn(&[u8], usize) -> Option<Answers<T>>,
    ) -> (Answers<T>, bool) {
        self.ask_by(async |call| self.nodes.run(code, &call).await, code, items, call, read).await
    }

    /// The same where the one call may be joined with others'.
    async fn ask_together<I, T>(
        &self,
        together: &Arc<Together>,
        items: &[I],
        call: impl Fn(&[I], bool) -> Call,
        read: impl Fn(&[u8], usize) -> Option<Answers<T>>,
    ) -> (Answers<T>, bool) {
        self.ask_by(async |call| together.ask(call).await, together.code(), items, call, read).await
    }

    /// The same where `run` makes the one call.
    async fn ask_by<I, T>(
        &self,
        run: impl AsyncFnOnce(Call) -> Result<Sent, Away>,
        code: &Code,
        items: &[I],
        call: impl Fn(&[I], bool) -> Call,
        read: impl Fn(&[u8], usize) -> Option<Answers<T>>,
    ) -> (Answers<T>, bool) {
        let heard = |answer: Result<Sent, Away>, count| match answer {
            Ok(Sent::Done(bytes)) => read(&bytes, count).unwrap_or_else(|| each_away(count, AwayCause::Garbled)),
            // It is alone, and there is nothing to spread.
            Ok(Sent::Spread) => each_away(count, AwayCause::Unreachable),
            Err(Away { because }) => each_away(count, because),
        };
        if self.nodes.are_one() {
            let answer = run(call(items, false)).await;
            if !matches!(answer, Ok(Sent::Spread)) {
                return (heard(answer, items.len()), false);
            }
        }
        let calls: SmallVec<[Call; 4]> = items.chunks(1).map(|item| call(item, true)).collect();
        let answers = join_all(calls.iter().map(|call| self.nodes.run(code, call))).await;
        (answers.into_iter().flat_map(|answer| heard(answer, 1)).collect(), true)
    }

    /// Gives back, in the background, what was charged for a question that is refused, and says what is left then.
    fn take_back(self: &Arc<Self>, requests: &[Request], grants: &mut Grants, now: Moment) {
        let (mut held, mut charges) = (Settlements::new(), Charges::new());
        for (request, grant) in requests.iter().zip(grants) {
            let given = match grant {
                Ok(Grant { outcome: Outcome::Granted { units }, remaining, .. }) => {
                    *remaining = remaining.saturating_add(*units);
                    *units
                }
                Ok(Grant { outcome: Outcome::Short { .. } | Outcome::Never, .. }) => continue,
                // Perhaps it was, and the answer was lost.
                Err(_) => 0,
            };
            let Request { limit, key, terms } = request.clone();
            if holds(request) != Holds::Nothing {
                held.push(Settlement { limit, key, lease: terms.lease, used: 0 });
            } else if given > 0 {
                charges.push(Charge { limit, key, units: given });
            }
        }
        let Ok(permit) = Arc::clone(&self.taking_back).try_acquire_owned() else { return };
        let store = Arc::clone(self);
        tokio::spawn(async move {
            // What is not taken back stays charged: less is admitted, never more. The gates count it.
            let _ = tokio::join!(store.settle_later(&held, now), store.refund_later(&charges, now));
            drop(permit);
        });
    }

    fn time_argument(&self, now: Moment) -> Vec<u8> {
        match self.time {
            TimeSource::Server => Vec::new(),
            TimeSource::Asker => now.steady.0.to_string().into_bytes(),
        }
    }
}

/// Whether a counter refuses, or cannot be asked and its limit says to deny then.
fn is_refused(requests: &[Request], grants: &Grants) -> bool {
    requests.iter().zip(grants).any(|(request, grant)| match grant {
        Ok(grant) => !matches!(grant.outcome, Outcome::Granted { .. }),
        Err(_) => request.limit.when_away == WhenAway::Deny,
    })
}

/// Under what the units of a request stand until they are settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    /// They are spent at once.
    Nothing,
    /// As much as this replica needs soon: it knows what it was told.
    Lease,
    /// Exactly so much. Whoever is given the name may settle it, at any replica, so Redis keeps what it stands for.
    Reservation,
    /// Slots, by the name alone.
    Slots,
}

fn holds(Request { limit, key: _, terms }: &Request) -> Holds {
    match limit.algorithm {
        Algorithm::Concurrency(_) => Holds::Slots,
        _ if terms.hold == Micros::ZERO => Holds::Nothing,
        // The script sees no more than this of what is asked for at most.
        Algorithm::SlidingWindow { units, .. } if terms.at_most.min(units) > terms.at_least => Holds::Lease,
        Algorithm::SlidingWindow { .. } | Algorithm::TokenBucket(_) | Algorithm::FixedWindow(_) => Holds::Reservation,
    }
}

/// How many keys a question has, as the script reads it. One that has more is asked alone, and says nothing by it.
fn count_of(keys: &[Vec<u8>]) -> u8 {
    u8::try_from(keys.len()).unwrap_or(u8::MAX)
}

fn each_away<T>(count: usize, because: AwayCause) -> Answers<T> {
    (0..count).map(|_| Err(Away { because })).collect()
}

/// The answers of a script that has nothing to say.
fn nothing(count: usize) -> Answers<()> {
    (0..count).map(|_| Ok(())).collect()
}

/// What all keys of a counter begin with. The first `}` ends the hash tag, wherever it is, so they are always on one
/// node.
fn tag(key: &CounterKey) -> Vec<u8> {
    [b"tollgate:{", key.as_bytes(), b"}"].concat()
}

/// A counter's state. Each algorithm has a name of its own, so that none meets what another has left. No two of these
/// endings, nor those of leases, end alike, so no counter has another's name.
fn state_key(key: &CounterKey, algorithm: Algorithm) -> Vec<u8> {
    let ending: &[u8] = match algorithm {
        Algorithm::SlidingWindow { .. } => b"",
        Algorithm::TokenBucket(_) => b":bucket",
        Algorithm::FixedWindow(_) => b":fixed",
        // Once it was ":slots", of another type.
        Algorithm::Concurrency(_) => b":held",
    };
    [tag(key), ending.into()].concat()
}

/// The letter by which the scripts know an algorithm.
const fn kind(algorithm: Algorithm) -> &'static [u8] {
    match algorithm {
        Algorithm::SlidingWindow { .. } => b"w",
        Algorithm::TokenBucket(_) => b"b",
        Algorithm::FixedWindow(_) => b"f",
        Algorithm::Concurrency(_) => b"c",
    }
}

/// Where a reservation is written down, with others of the same group: where counters are spread, beside its own. No limit
/// has a name that begins with a space.
fn reservations_key(lease: LeaseId, beside: Option<&CounterKey>) -> Vec<u8> {
    let tag = beside.map_or_else(|| b"tollgate:{ reservations}".to_vec(), tag);
    [&tag, format!(":reserved:{:016x}", lease.replica).as_bytes()].concat()
}

/// How a reservation of one counter is known among those that are written down together. Whoever knows the name of a
/// reservation can settle no other counter by it.
fn mark(lease: LeaseId, state: &[u8]) -> [u8; MARK_BYTES] {
    let name = [&lease.replica.to_le_bytes(), &lease.serial.to_le_bytes(), state].concat();
    let mut mark = [0; MARK_BYTES];
    mark.iter_mut().zip(digest(&SHA256, &name).as_ref()).for_each(|(byte, sum)| *byte = *sum);
    // A number as scripts hold them, and of those that keep their bits wherever they are copied.
    mark[MARK_BYTES - 1] &= !EXPONENT_HIGHEST;
    mark
}

/// So many of a hash that nobody finds another counter with the same.
const MARK_BYTES: usize = 8;

/// In the last byte of a double (IEEE 754, least significant byte first). Infinite, or no number at all, is only what has it.
const EXPONENT_HIGHEST: u8 = 0x40;

/// What is asked of one counter, as the script reads it. Nothing in it reaches 2^53, where doubles stop being exact.
fn packed(request: &Request) -> Vec<u8> {
    let (algorithm, terms) = (request.limit.algorithm, request.terms);
    // More than the limit is never granted, however much more it is.
    let at_least = terms.at_least.min(request.limit.units() + 1);
    let hold = terms.hold.min(WINDOW_MAX).0;
    let mut packed = packed_shape(algorithm);
    match algorithm {
        Algorithm::SlidingWindow { units, window: _ } => {
            push(&mut packed, &[units, at_least, hold]);
            if holds(request) == Holds::Reservation {
                // The mark comes last.
                packed.splice(..1, *b"r");
            } else {
                push(&mut packed, &[terms.at_most.min(units)]);
            }
        }
        Algorithm::TokenBucket(_) => push(&mut packed, &[at_least, hold]),
        Algorithm::FixedWindow(grid) => push(&mut packed, &[grid.units, at_least, hold]),
        Algorithm::Concurrency(slots) => {
            let apart = slots.apart();
            push(&mut packed, &[slots.units, slots.hold.0 + apart.0 - 1, apart.0, at_least]);
            push_name(&mut packed, terms.lease);
        }
    }
    packed
}

/// What of a limit says how its counter is kept.
fn packed_shape(algorithm: Algorithm) -> Vec<u8> {
    let mut packed = kind(algorithm).to_vec();
    match algorithm {
        Algorithm::SlidingWindow { units, window } => {
            let Frame { units: _, width, parts } = Frame::new(units, window);
            push(&mut packed, &[width.0, parts]);
        }
        Algorithm::TokenBucket(flow) => push(&mut packed, &[flow.gain(), flow.unit(), flow.burst()]),
        Algorithm::FixedWindow(grid) => push(&mut packed, &[grid.length.0]),
        Algorithm::Concurrency(_) => {}
    }
    packed
}

/// Units to take back.
fn packed_units(algorithm: Algorithm, units: u64) -> Vec<u8> {
    let mut packed = packed_shape(algorithm);
    push(&mut packed, &[units.min(UNITS_MAX)]);
    packed
}

/// Units that were used, and what was told of a lease; for slots which lease.
fn packed_settlement(Settlement { limit, key: _, lease, used }: &Settlement, told: Option<Told>) -> Vec<u8> {
    if matches!(limit.algorithm, Algorithm::Concurrency(_)) {
        let mut packed = packed_shape(limit.algorithm);
        push_name(&mut packed, *lease);
        return packed;
    }
    let mut packed = packed_units(limit.algorithm, *used);
    if let Some(Told { units, expires, epoch }) = told {
        push(&mut packed, &[units, expires, epoch]);
    }
    packed
}

/// Doubles are what scripts count in, and are read quicker than integers.
#[expect(clippy::cast_precision_loss, reason = "below 2^53")]
fn push(packed: &mut Vec<u8>, numbers: &[u64]) {
    packed.extend(numbers.iter().flat_map(|number| (*number as f64).to_le_bytes()));
}

fn push_name(packed: &mut Vec<u8>, lease: LeaseId) {
    packed.extend([lease.replica, lease.serial].into_iter().flat_map(u64::to_le_bytes));
}

/// What an error means to whoever asked. The error itself is not passed on: it may quote what was sent.
fn cause_of(error: &RedisError) -> AwayCause {
    match error.kind() {
        ErrorKind::AuthenticationFailed | ErrorKind::Server(ServerErrorKind::NoPerm) => AwayCause::Denied,
        ErrorKind::Server(ServerErrorKind::ReadOnly) => AwayCause::ReadOnly,
        ErrorKind::Io if error.is_timeout() => AwayCause::Deadline,
        ErrorKind::Io
        | ErrorKind::Server(
            ServerErrorKind::BusyLoading
            | ServerErrorKind::MasterDown
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::TryAgain,
        ) => AwayCause::Unreachable,
        ErrorKind::Server(_) | ErrorKind::Extension => cause_by_code(error),
        _ => AwayCause::Garbled,
    }
}

/// Errors that the client library has no name for. Up to Redis 6.2 the code of an error within a script stands in the
/// text, behind a dash.
fn cause_by_code(error: &RedisError) -> AwayCause {
    const CODES: [(&str, AwayCause); 9] = [
        ("NOAUTH", AwayCause::Denied),
        ("WRONGPASS", AwayCause::Denied),
        ("NOPERM", AwayCause::Denied),
        ("READONLY", AwayCause::ReadOnly),
        ("MISCONF", AwayCause::ReadOnly),
        ("NOREPLICAS", AwayCause::ReadOnly),
        ("OOM", AwayCause::Full),
        ("BUSY", AwayCause::Unreachable),
        ("UNKILLABLE", AwayCause::Unreachable),
    ];
    let code = error.code().unwrap_or_default();
    let text = error.detail().unwrap_or_default();
    if text.contains("max number of clients") {
        return AwayCause::Unreachable;
    }
    // Of a refused SELECT the client library keeps no code, and of a command that a script may not run Redis 7 tells none.
    if text.contains("has no permissions") || text.contains("The user executing the script") {
        return AwayCause::Denied;
    }
    CODES
        .into_iter()
        .find(|(name, _)| code == *name || text.contains(&format!("-{name} ")))
        .map_or(AwayCause::Garbled, |(_, cause)| cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::bucket::Flow;
    use crate::domain::fixed::Grid;
    use crate::domain::slots::Slots;

    const SECOND: Micros = Micros::from_secs(1);
    const WINDOW: Algorithm = Algorithm::SlidingWindow { units: 1, window: SECOND };
    const FIXED: Algorithm = Algorithm::FixedWindow(Grid { units: 1, length: SECOND });
    const SLOTS: Algorithm = Algorithm::Concurrency(Slots { units: 1, hold: SECOND });

    fn bucket() -> Algorithm {
        Flow::new(1, SECOND, 1).map_or_else(|| unreachable!("one a second is exact"), Algorithm::TokenBucket)
    }

    #[test]
    fn a_counters_keys_share_a_hash_tag_whatever_its_values_hold() {
        let lease = LeaseId { replica: u64::MAX, serial: 255 };
        for value in ["alice", "a}b", "}", "{", "}{", "{}", "\u{0}\r\n", "x}:reserved:0000000000000001"] {
            let mut key = CounterKey::new("per-client");
            key.push(value);
            for (algorithm, ending) in [(WINDOW, "}"), (bucket(), "}:bucket"), (FIXED, "}:fixed"), (SLOTS, "}:held")] {
                let lease = reservations_key(lease, Some(&key));
                let state = state_key(&key, algorithm);
                assert_eq!(hash_tag(&state), hash_tag(&lease), "{value:?}");
                assert!(hash_tag(&state).is_some_and(|tag| tag.starts_with(b"per-client")), "{value:?}");
                assert!(state.ends_with(ending.as_bytes()) && !lease.ends_with(ending.as_bytes()), "{value:?}");
            }
        }
        let mut key = CounterKey::new("per-client");
        key.push("alice");
        assert_eq!(state_key(&key, WINDOW), b"tollgate:{per-client 5:alice}");
        assert_eq!(state_key(&key, bucket()), b"tollgate:{per-client 5:alice}:bucket");
        assert_eq!(state_key(&key, FIXED), b"tollgate:{per-client 5:alice}:fixed");
        assert_eq!(state_key(&key, SLOTS), b"tollgate:{per-client 5:alice}:held");
        assert_eq!(reservations_key(lease, Some(&key)), b"tollgate:{per-client 5:alice}:reserved:ffffffffffffffff");
        assert_eq!(reservations_key(lease, None), b"tollgate:{ reservations}:reserved:ffffffffffffffff");
    }

    #[test]
    fn a_mark_stands_for_one_reservation_of_one_counter() {
        let lease = LeaseId { replica: 1, serial: 2 };
        let marks = [
            mark(lease, b"a"),
            mark(lease, b"b"),
            mark(LeaseId { serial: 3, ..lease }, b"a"),
            mark(LeaseId { replica: 3, ..lease }, b"a"),
        ];
        let twice = |(index, one): (usize, &[u8; MARK_BYTES])| marks[..index].contains(one);
        assert!(!marks.iter().enumerate().any(twice));
        assert_eq!(mark(lease, b"a"), marks[0]);
        // Some of these would not be, by their hash alone.
        let number = |serial| f64::from_le_bytes(mark(LeaseId { serial, ..lease }, b"a"));
        assert!((0..20_000).all(|serial| number(serial).is_finite()));
    }

    /// The part of a key that selects the slot, as the Redis Cluster specification has it.
    fn hash_tag(key: &[u8]) -> Option<&[u8]> {
        let rest = &key[key.iter().position(|&byte| byte == b'{')? + 1..];
        rest.get(..rest.iter().position(|&byte| byte == b'}')?).filter(|tag| !tag.is_empty())
    }

    #[test]
    fn settings_do_not_show_their_secrets() {
        let settings = Settings {
            reach: Reach::Servers(vec!["redis://u:hunter2@host".to_owned()]),
            password: Some("hunter2".to_owned()),
            ..Settings::default()
        };
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}
