//! The connection to Redis: kept by a task of its own that connects, watches and connects again.
//!
//! Callers never connect. While the first attempt after a loss is under way they wait for it, within their deadline;
//! once it has failed they are told so at once, until a later attempt succeeds. A server that may drop counters to make room
//! is warned of.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::cmd;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::cause_of;
use super::pulse::Trust;
use super::turns::Driven;
use super::way::{CONNECT_TIMEOUT, Way};
use crate::decide::ports::{Away, AwayCause};

/// The shortest and the longest pause after an attempt that failed; it doubles in between.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// How often the connection is tried when idle: a peer that vanished without a word is noticed by that alone.
const PING_EVERY: Duration = Duration::from_secs(1);

/// A connection, and which of those so far.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) driven: Driven,
    generation: u64,
}

#[derive(Clone)]
enum State {
    /// The first attempt, at the start or after a loss, is under way.
    Connecting,
    Up(Line),
    Down(AwayCause),
}

/// A connection that a caller found of no use, and why.
#[derive(Clone, Copy)]
struct Useless {
    generation: u64,
    because: AwayCause,
}

pub(super) struct Link {
    state: watch::Receiver<State>,
    /// The latest connection that a caller found of no use.
    useless: watch::Sender<Useless>,
    keeper: AbortHandle,
}

impl Link {
    /// Begins to connect to `node`, and goes on until it is dropped. To be called within a Tokio runtime.
    pub(super) fn open(node: String, way: Way, trust: Arc<Trust>) -> Self {
        let (publish, state) = watch::channel(State::Connecting);
        let (useless, reports) = watch::channel(Useless { generation: 0, because: AwayCause::Unreachable });
        let keeper = tokio::spawn(keep(node, way, trust, publish, reports)).abort_handle();
        Self { state, useless, keeper }
    }

    /// The connection, as soon as it is known whether there is one.
    pub(super) async fn line(&self) -> Result<Line, Away> {
        let mut state = self.state.clone();
        let known = state.wait_for(|state| !matches!(state, State::Connecting)).await;
        let because = match known.as_deref() {
            Ok(State::Up(line)) => return Ok(line.clone()),
            Ok(State::Down(cause)) => *cause,
            // The keeper ends only with the link.
            Ok(State::Connecting) | Err(_) => AwayCause::Unreachable,
        };
        Err(Away { because })
    }

    /// Has the connection made anew: it broke, or leads to a server that cannot serve.
    pub(super) fn report_useless(&self, line: &Line, because: AwayCause) {
        self.useless.send_if_modified(|latest| {
            let news = line.generation > latest.generation;
            if news {
                *latest = Useless { generation: line.generation, because };
            }
            news
        });
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

async fn keep(
    node: String,
    mut way: Way,
    trust: Arc<Trust>,
    publish: watch::Sender<State>,
    mut reports: watch::Receiver<Useless>,
) {
    let (mut pause, mut warned_of) = (PAUSE_MIN, None);
    for generation in 1.. {
        match connect(&mut way, &trust).await {
            Ok(driven) => {
                let mut line = Line { driven, generation };
                publish.send_replace(State::Up(line.clone()));
                // Nobody waits for it, and it is said once.
                let policy = evicts(&mut line.driven.connection).await;
                if let Some(policy) = policy.as_ref().filter(|_| policy != warned_of) {
                    warn!(
                        node,
                        policy,
                        "Redis may drop counters in use to make room, and the limits with them; set its \
                         maxmemory-policy to noeviction"
                    );
                }
                warned_of = policy;
                match until_useless(&way, line, &mut reports).await {
                    (Lived::Long, _) => {
                        pause = PAUSE_MIN;
                        publish.send_replace(State::Connecting);
                        continue;
                    }
                    (Lived::NotLong, because) => {
                        publish.send_replace(State::Down(because));
                    }
                }
            }
            Err(because) => {
                // Only the cause: the text may quote what was sent, and the gate logs what matters once.
                debug!(cause = %because, "no connection to Redis");
                publish.send_replace(State::Down(because));
            }
        }
        sleep(jittered(pause)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// A connection, over which it was looked which data it leads to.
async fn connect(way: &mut Way, trust: &Trust) -> Result<Driven, AwayCause> {
    let mut driven = way.connect().await?;
    trust.look(&mut driven.connection).await.map_err(|error| cause_of(&error))?;
    Ok(driven)
}

/// The policy by which the server drops keys when its memory is full, if it does. Whoever may not know is not told.
pub(in crate::stores) async fn evicts(connection: &mut MultiplexedConnection) -> Option<String> {
    let told: String = cmd("INFO").arg("memory").query_async(connection).await.ok()?;
    let value = |key: &str| told.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim);
    let policy = value("maxmemory_policy").filter(|policy| *policy != "noeviction")?;
    // Without a bound it is never full.
    (value("maxmemory") != Some("0")).then(|| policy.to_owned())
}

/// Whether a connection proved itself. One that breaks as soon as it is made is no better than none.
#[derive(PartialEq, Eq)]
enum Lived {
    Long,
    NotLong,
}

/// Why the connection is of no use any more, too.
async fn until_useless(way: &Way, mut line: Line, reports: &mut watch::Receiver<Useless>) -> (Lived, AwayCause) {
    let mut lived = Lived::NotLong;
    loop {
        tokio::select! {
            report = reports.wait_for(|latest| latest.generation >= line.generation) => {
                // An error means that the link is gone, and this task with it.
                return (lived, report.map_or(AwayCause::Unreachable, |report| report.because));
            }
            () = sleep(PING_EVERY) => {}
        }
        match timeout(CONNECT_TIMEOUT, way.check(&mut line.driven.connection)).await {
            Ok(Ok(())) => lived = Lived::Long,
            Ok(Err(because)) => return (lived, because),
            Err(_) => return (lived, AwayCause::Unreachable),
        }
    }
}

/// Between three quarters of `pause` and five, so that replicas do not come back all at once.
pub(super) fn jittered(pause: Duration) -> Duration {
    let random = u32::from(RandomState::new().hash_one(()).to_le_bytes()[0]);
    pause * 3 / 4 + pause * random / 512
}
