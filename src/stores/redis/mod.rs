//! Counters in Redis, shared by all replicas.
//!
//! One script call for each acquisition, whatever the number of counters; all keys are declared. Time is the server's
//! own, in microseconds, and never steps back for a counter. Commands of Redis 6.2 suffice. A counter's keys share a
//! hash tag, clean themselves up, and can be read: `tollgate:{per-client 5:alice}`.

mod link;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use ::redis::aio::MultiplexedConnection;
use ::redis::{Cmd, ErrorKind, RedisError, Script, ServerErrorKind, cmd};

pub use self::link::ConnectProblem;
use self::link::Link;
use crate::decide::ports::{
    Answer, Away, AwayCause, Charges, Grants, QuotaStore, Refunds, Request, Requests, Settlement, Settlements, all_away,
};
use crate::domain::limit::{Algorithm, CounterKey, Limit, UNITS_MAX, WINDOW_MAX};
use crate::domain::question::Mode;
use crate::domain::time::{Micros, Moment};
use crate::domain::window::{Frame, Grant, LeaseId, Outcome};

/// How Redis is reached.
#[derive(Clone, Default)]
pub struct Settings {
    /// `redis://` or `rediss://` (TLS), with host, port and database; user and password may be in it.
    pub url: String,
    /// Overrides the URL's user.
    pub username: Option<String>,
    /// Overrides the URL's password.
    pub password: Option<String>,
    /// The certificate authorities (PEM) that `rediss://` trusts; none: the system's.
    pub ca: Option<PathBuf>,
    /// Whose time counts.
    pub time: TimeSource,
}

/// Hides what may hold a secret.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url: _, username, password: _, ca, time } = self;
        f.debug_struct("Settings")
            .field("username", username)
            .field("ca", ca)
            .field("time", time)
            .finish_non_exhaustive()
    }
}

/// Whose time counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeSource {
    /// Redis's own, the same for all replicas.
    #[default]
    Server,
    /// The steady clock of whoever asks: for tests, and nothing else.
    Asker,
}

/// Keeps counters in Redis. It has no deadline of its own: see [`Guard`](super::guard::Guard).
pub struct RedisStore {
    link: Link,
    time: TimeSource,
    scripts: Scripts,
}

struct Scripts {
    acquire: Code,
    settle: Code,
    refund: Code,
    reset: Code,
}

/// A script and its digest.
struct Code {
    text: &'static str,
    digest: String,
}

impl Code {
    fn new(text: &'static str) -> Self {
        Self { text, digest: Script::new(text).get_hash().to_owned() }
    }
}

impl RedisStore {
    /// Begins to connect, in the background, and goes on by itself whenever the connection is lost. That Redis is not
    /// there yet is no error; that the settings cannot work is one.
    ///
    /// To be called within a Tokio runtime. `rediss://` uses rustls's process-wide provider.
    pub fn connect(settings: &Settings) -> Result<Self, ConnectProblem> {
        Ok(Self {
            link: Link::open(settings)?,
            time: settings.time,
            scripts: Scripts {
                acquire: Code::new(include_str!("acquire.lua")),
                settle: Code::new(concat!(include_str!("levels.lua"), include_str!("settle.lua"))),
                refund: Code::new(concat!(include_str!("levels.lua"), include_str!("refund.lua"))),
                reset: Code::new(include_str!("reset.lua")),
            },
        })
    }

    async fn acquire_later(&self, requests: Requests, mode: Mode, now: Moment) -> Grants {
        let answer = self.try_acquire(&requests, mode, now).await;
        answer.unwrap_or_else(|away| all_away(requests.len(), away))
    }

    async fn try_acquire(&self, requests: &Requests, mode: Mode, now: Moment) -> Result<Grants, Away> {
        let mut call = Call::default();
        call.keys.extend(requests.iter().map(|request| state_key(&request.key, request.limit.algorithm)));
        call.keys.extend(requests.iter().filter_map(|Request { limit, key, terms }| match limit.algorithm {
            Algorithm::SlidingWindow { .. } | Algorithm::TokenBucket(_) | Algorithm::FixedWindow(_) => {
                (terms.hold > Micros::ZERO).then(|| lease_key(key, limit.algorithm, terms.lease))
            }
            // Holders stand in the state.
            Algorithm::Concurrency(_) => None,
        }));
        call.args.push(self.time_argument(now));
        call.args.push(match mode {
            Mode::Consume => b"c".into(),
            Mode::Peek => b"p".into(),
        });
        call.args.extend(requests.iter().map(packed));
        let answer = self.run(&self.scripts.acquire, &call).await?;
        grants(&answer, requests.len()).ok_or(Away { because: AwayCause::Garbled })
    }

    async fn settle_later(&self, settlements: Settlements, now: Moment) -> Result<(), Away> {
        let mut call = Call::default();
        call.args.push(self.time_argument(now));
        for Settlement { limit, key, lease, used } in &settlements {
            call.keys.extend([state_key(key, limit.algorithm), lease_key(key, limit.algorithm, *lease)]);
            call.args.push(packed_settlement(limit.algorithm, *lease, *used));
        }
        self.run(&self.scripts.settle, &call).await.map(|_| ())
    }

    async fn refund_later(&self, charges: Charges, now: Moment) -> Result<Refunds, Away> {
        let mut call = Call::default();
        call.keys.extend(charges.iter().map(|charge| state_key(&charge.key, charge.limit.algorithm)));
        call.args.push(self.time_argument(now));
        call.args.extend(charges.iter().map(|charge| packed_units(charge.limit.algorithm, charge.units)));
        let answer = self.run(&self.scripts.refund, &call).await?;
        refunds(&answer, charges.len()).ok_or(Away { because: AwayCause::Garbled })
    }

    async fn reset_later(&self, limit: Arc<Limit>, key: CounterKey) -> Result<(), Away> {
        let key = state_key(&key, limit.algorithm);
        let call = Call { keys: vec![key], args: vec![kind(limit.algorithm).into()] };
        self.run(&self.scripts.reset, &call).await.map(|_| ())
    }

    /// Runs a script, by its digest where the server knows it.
    async fn run(&self, code: &Code, call: &Call) -> Result<Vec<u8>, Away> {
        let mut line = self.link.line().await?;
        let outcome = match ask(&call.by_digest(code), &mut line.connection).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                ask(&call.by_text(code), &mut line.connection).await
            }
            outcome => outcome,
        };
        outcome.map_err(|error| {
            let because = cause_of(&error);
            // A server that takes no writes may have been demoted in a failover, and the name may lead to another by now.
            if error.is_unrecoverable_error() || because == AwayCause::ReadOnly {
                self.link.report_useless(&line, because);
            }
            Away { because }
        })
    }

    fn time_argument(&self, now: Moment) -> Vec<u8> {
        match self.time {
            TimeSource::Server => Vec::new(),
            TimeSource::Asker => now.steady.0.to_string().into_bytes(),
        }
    }
}

impl QuotaStore for RedisStore {
    fn acquire(&self, requests: Requests, mode: Mode, now: Moment) -> Answer<'_, Grants> {
        if requests.is_empty() {
            return Answer::Now(Grants::new());
        }
        Answer::later(self.acquire_later(requests, mode, now))
    }

    fn settle(&self, settlements: Settlements, now: Moment) -> Answer<'_, Result<(), Away>> {
        if settlements.is_empty() {
            return Answer::Now(Ok(()));
        }
        Answer::later(self.settle_later(settlements, now))
    }

    fn refund(&self, charges: Charges, now: Moment) -> Answer<'_, Result<Refunds, Away>> {
        if charges.is_empty() {
            return Answer::Now(Ok(Refunds::new()));
        }
        Answer::later(self.refund_later(charges, now))
    }

    fn reset(&self, limit: Arc<Limit>, key: CounterKey) -> Answer<'_, Result<(), Away>> {
        Answer::later(self.reset_later(limit, key))
    }
}

/// One script call's keys and arguments.
#[derive(Default)]
struct Call {
    keys: Vec<Vec<u8>>,
    args: Vec<Vec<u8>>,
}

impl Call {
    fn by_digest(&self, code: &Code) -> Cmd {
        let mut command = cmd("EVALSHA");
        command.arg(&code.digest);
        self.finish(command)
    }

    /// The server remembers the script then.
    fn by_text(&self, code: &Code) -> Cmd {
        let mut command = cmd("EVAL");
        command.arg(code.text);
        self.finish(command)
    }

    fn finish(&self, mut command: Cmd) -> Cmd {
        command.arg(self.keys.len());
        for part in self.keys.iter().chain(&self.args) {
            command.arg(part.as_slice());
        }
        command
    }
}

/// The bytes that a script answers with.
async fn ask(command: &Cmd, connection: &mut MultiplexedConnection) -> Result<Vec<u8>, RedisError> {
    command.query_async(connection).await
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
        Algorithm::Concurrency(_) => b":slots",
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

fn lease_key(key: &CounterKey, algorithm: Algorithm, lease: LeaseId) -> Vec<u8> {
    let mut name = state_key(key, algorithm);
    name.extend_from_slice(format!(":lease:{:016x}-{:x}", lease.replica, lease.serial).as_bytes());
    name
}

/// What is asked of one counter, as the script reads it. Nothing in it reaches 2^53, where doubles stop being exact.
fn packed(request: &Request) -> Vec<u8> {
    let (algorithm, terms) = (request.limit.algorithm, request.terms);
    // More than the limit is never granted, however much more it is.
    let at_least = terms.at_least.min(request.limit.units() + 1);
    let hold = terms.hold.min(WINDOW_MAX).0;
    let mut packed = packed_shape(algorithm);
    match algorithm {
        Algorithm::SlidingWindow { units, .. } => {
            push(&mut packed, &[units, at_least, terms.at_most.min(units), hold]);
        }
        Algorithm::TokenBucket(_) => push(&mut packed, &[at_least, hold]),
        Algorithm::FixedWindow(grid) => push(&mut packed, &[grid.units, at_least, hold]),
        Algorithm::Concurrency(slots) => {
            push(&mut packed, &[slots.units, slots.hold.0, at_least, terms.lease.replica, terms.lease.serial]);
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

/// Units that were used of a lease; for slots which lease.
fn packed_settlement(algorithm: Algorithm, lease: LeaseId, used: u64) -> Vec<u8> {
    if !matches!(algorithm, Algorithm::Concurrency(_)) {
        return packed_units(algorithm, used);
    }
    let mut packed = packed_shape(algorithm);
    push(&mut packed, &[lease.replica, lease.serial]);
    packed
}

fn push(packed: &mut Vec<u8>, numbers: &[u64]) {
    packed.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
}

/// One number for each counter; nothing where they make no sense.
fn refunds(answer: &[u8], counters: usize) -> Option<Refunds> {
    let (numbers, rest) = answer.as_chunks::<8>();
    let sound = numbers.len() == counters && rest.is_empty();
    sound.then(|| numbers.iter().map(|&number| u64::from_le_bytes(number)).collect())
}

/// Four numbers for each counter; nothing where they make no sense.
fn grants(answer: &[u8], counters: usize) -> Option<Grants> {
    let (numbers, rest) = answer.as_chunks::<8>();
    let (quads, odd) = numbers.as_chunks::<4>();
    if quads.len() != counters || !odd.is_empty() || !rest.is_empty() {
        return None;
    }
    quads.iter().map(|quad| grant(quad.map(u64::from_le_bytes)).map(Ok)).collect()
}

fn grant([outcome, value, remaining, reset_after]: [u64; 4]) -> Option<Grant> {
    let outcome = match outcome {
        0 => Outcome::Granted { units: value },
        1 => Outcome::Short { retry_after: Micros(value) },
        2 => Outcome::Never,
        _ => return None,
    };
    Some(Grant { outcome, remaining, reset_after: Micros(reset_after) })
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
    // Of a refused SELECT the client library keeps no code.
    if text.contains("has no permissions") {
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
        for value in ["alice", "a}b", "}", "{", "}{", "{}", "\u{0}\r\n", "x}:lease:0000000000000001-1"] {
            let mut key = CounterKey::new("per-client");
            key.push(value);
            for (algorithm, ending) in [(WINDOW, "}"), (bucket(), "}:bucket"), (FIXED, "}:fixed"), (SLOTS, "}:slots")] {
                let lease = lease_key(&key, algorithm, lease);
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
        assert_eq!(state_key(&key, SLOTS), b"tollgate:{per-client 5:alice}:slots");
        assert_eq!(lease_key(&key, WINDOW, lease), b"tollgate:{per-client 5:alice}:lease:ffffffffffffffff-ff");
        assert_eq!(lease_key(&key, FIXED, lease), b"tollgate:{per-client 5:alice}:fixed:lease:ffffffffffffffff-ff");
    }

    /// The part of a key that selects the slot, as the Redis Cluster specification has it.
    fn hash_tag(key: &[u8]) -> Option<&[u8]> {
        let rest = &key[key.iter().position(|&byte| byte == b'{')? + 1..];
        rest.get(..rest.iter().position(|&byte| byte == b'}')?).filter(|tag| !tag.is_empty())
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_not_taken_for_one() {
        let answer = |numbers: &[u64]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
        let short = Grant { outcome: Outcome::Short { retry_after: Micros(7) }, remaining: 0, reset_after: Micros(3) };
        assert_eq!(grants(&answer(&[1, 7, 0, 3]), 1).as_deref(), Some(&[Ok(short)][..]));
        assert_eq!(grants(&answer(&[3, 7, 0, 3]), 1), None);
        assert_eq!(grants(&answer(&[0, 1, 2, 3]), 2), None);
        assert_eq!(grants(&answer(&[0, 1, 2, 3, 0, 1, 2]), 1), None);
        assert_eq!(grants(&answer(&[0, 1, 2, 3])[1..], 1), None);
        assert_eq!(grants(&[&answer(&[0, 1, 2, 3])[..], b"x"].concat(), 1), None);
    }

    #[test]
    fn settings_do_not_show_their_secrets() {
        let settings = Settings {
            url: "redis://u:hunter2@host".to_owned(),
            password: Some("hunter2".to_owned()),
            ..Settings::default()
        };
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}
