//! Keeps the set up with the log, and answers from it.
//!
//! A replica asks the log again and again what is new. An answer holds all that was written before it was asked for, so the
//! moment at which that question was *sent*, by this replica's own steady clock, is the moment up to which it knows
//! everything. Its lag is the time since; no clocks of two machines are compared, and a log that is silent shows by
//! itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::rand;
use metrics::{Counter, Gauge};
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::set::{Asked, ENDED_FOR, RevocationSet};
use crate::decide::ports::{
    Answer, Away, Clock, Cursor, Listed, ListedRevocation, News, Place, RevocationLog, RevocationView, Snapshot,
    Standing,
};
use crate::domain::identity::Identity;
use crate::domain::revocation::{
    Cutoff, Entry, Mark, MarkId, REVOCATIONS_MAX, Revocation, TargetKind, Trust, WhenBehind, Wish, target_of,
};
use crate::domain::time::{Micros, Moment};
use crate::telemetry::{Telemetry, names};

/// How often a replica asks what is new: seldom enough that Redis hardly notices, and so often that a revocation is in force
/// within a second even where one answer fails.
const NEWS_INTERVAL: Micros = Micros::from_millis(400);

/// How long it waits after it has told the log some of what was lost: all replicas do so at once, and a server has others
/// to answer meanwhile.
const RESTORE_INTERVAL: Micros = Micros::from_millis(10);

/// How long it waits at least before it asks again a log that is away.
const BACK_OFF_MIN: Micros = Micros::from_millis(200);

/// How long it waits at most.
const BACK_OFF_MAX: Micros = Micros::from_secs(1);

/// By how much the wall clock may step back and what was dropped as ended is over all the same.
const STEP_BACK_MAX: Micros = Micros(ENDED_FOR.0 / 2);

/// What has been taken back, as this replica knows it; and the log, through which it writes.
pub struct Revocations {
    log: Arc<dyn RevocationLog>,
    set: RevocationSet,
    trust: ArcSwap<Trust>,
    /// The steady moment up to which everything is known.
    known_to: AtomicU64,
    /// The steady moment until which that is recent enough.
    fresh_until: AtomicU64,
    /// What went wrong when the log was asked last.
    problem: Mutex<Option<Away>>,
    /// Something was undone.
    undone: Notify,
    settled: CancellationToken,
    metrics: Metrics,
}

/// Stands for a moment that never was.
const NEVER: u64 = 0;

struct Metrics {
    lag: Gauge,
    entries: [Gauge; TargetKind::ALL.len()],
    changes: Counter,
    loads: Counter,
    unreadable: Counter,
    asked: Counter,
    away: Counter,
    denied: Counter,
    allowed: Counter,
}

/// What is known of the revocations' state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// How long ago everything was known; none: not yet.
    pub lag: Option<Micros>,
    /// Whether that is longer than the configuration says.
    pub is_behind: bool,
    /// How many entries there are.
    pub entries: u64,
    /// What went wrong when the log was asked last.
    pub problem: Option<Away>,
}

impl Revocations {
    /// As the log has them, once a [`Follower`] has loaded it.
    pub fn new(log: Arc<dyn RevocationLog>, trust: Trust, telemetry: &Telemetry) -> Self {
        let behind = |outcome| telemetry.counter(names::REVOCATIONS_BEHIND, &[("outcome", outcome)]);
        let metrics = Metrics {
            lag: telemetry.gauge(names::REVOCATION_LAG, &[]),
            entries: TargetKind::ALL.map(|kind| telemetry.gauge(names::REVOCATIONS, &[("kind", kind.name())])),
            changes: telemetry.counter(names::REVOCATION_CHANGES, &[]),
            loads: telemetry.counter(names::REVOCATION_LOADS, &[]),
            unreadable: telemetry.counter(names::REVOCATIONS_UNREADABLE, &[]),
            asked: behind("asked"),
            away: behind("away"),
            denied: behind("denied"),
            allowed: behind("allowed"),
        };
        Self {
            log,
            set: RevocationSet::new(),
            trust: ArcSwap::from_pointee(trust),
            known_to: AtomicU64::new(NEVER),
            fresh_until: AtomicU64::new(NEVER),
            problem: Mutex::default(),
            undone: Notify::new(),
            settled: CancellationToken::new(),
            metrics,
        }
    }

    /// Goes by this from now on.
    pub fn adopt(&self, trust: Trust) {
        self.trust.store(Arc::new(trust));
        self.trust_until(self.known_to.load(Ordering::Acquire));
    }

    /// Completes when the log was loaded, or could not be.
    pub async fn settled(&self) {
        self.settled.cancelled().await;
    }

    /// How things are at the steady moment `now`.
    pub fn health(&self, now: Micros) -> Health {
        let known_to = self.known_to.load(Ordering::Acquire);
        Health {
            lag: (known_to != NEVER).then(|| now.since(Micros(known_to))),
            is_behind: self.is_behind(now),
            entries: self.set.entries().iter().sum(),
            problem: *self.problem.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    fn is_behind(&self, now: Micros) -> bool {
        now.0 >= self.fresh_until.load(Ordering::Acquire)
    }

    fn know_to(&self, moment: Micros) {
        let moment = moment.0.max(NEVER + 1);
        self.known_to.store(moment, Ordering::Release);
        self.trust_until(moment);
    }

    fn trust_until(&self, known_to: u64) {
        let max_lag = self.trust.load().max_lag;
        let until = if known_to == NEVER { NEVER } else { known_to.saturating_add(max_lag.0).saturating_add(1) };
        self.fresh_until.store(until, Ordering::Release);
    }

    /// What was looked at is not recent enough.
    fn stands_behind(&self, identity: Arc<Identity>, now: Moment) -> Answer<'_, Standing> {
        match self.trust.load().when_behind {
            WhenBehind::Allow => {
                self.metrics.allowed.increment(1);
                Answer::Now(Standing::Good)
            }
            WhenBehind::Deny => {
                self.metrics.denied.increment(1);
                Answer::Now(Standing::Unknown)
            }
            WhenBehind::Ask => {
                let targets = TargetKind::ALL.into_iter().filter_map(|kind| target_of(&identity, kind));
                let marks = targets.map(Mark::of).collect();
                self.log.find(marks, now).then(move |found| {
                    let Ok(found) = found else {
                        self.metrics.away.increment(1);
                        return Answer::Now(Standing::Unknown);
                    };
                    self.metrics.asked.increment(1);
                    let is_hit = found.iter().flatten().any(|cutoff| cutoff.hits(identity.issued_at));
                    // It may have been revoked through this replica after the log had looked.
                    let is_revoked = is_hit || self.set.hits(&identity);
                    Answer::Now(if is_revoked { Standing::Revoked } else { Standing::Good })
                })
            }
        }
    }
}

impl RevocationView for Revocations {
    fn standing<'a>(&'a self, identity: &Arc<Identity>, now: Moment) -> Answer<'a, Standing> {
        // This first: what is known up to a moment was written into the set before that was said.
        let is_behind = self.is_behind(now.steady);
        if self.set.hits(identity) {
            return Answer::Now(Standing::Revoked);
        }
        if is_behind {
            return self.stands_behind(Arc::clone(identity), now);
        }
        Answer::Now(Standing::Good)
    }
}

/// What is written through this replica is in force on it before anybody is told that it was written.
impl RevocationLog for Revocations {
    fn add(&self, wishes: Vec<Wish>, now: Moment) -> Answer<'_, Result<Vec<Revocation>, Away>> {
        self.log.add(wishes, now).then(|added| {
            if let Ok(written) = &added {
                self.set.wrote(written);
            }
            Answer::Now(added)
        })
    }

    fn undo(&self, id: MarkId, now: Moment) -> Answer<'_, Result<Option<ListedRevocation>, Away>> {
        self.log.undo(id, now).then(|undone| {
            self.undone.notify_one();
            Answer::Now(undone)
        })
    }

    fn find(&self, marks: Vec<Mark>, now: Moment) -> Answer<'_, Result<Vec<Option<Cutoff>>, Away>> {
        self.log.find(marks, now)
    }

    fn list(&self, from: Cursor, now: Moment) -> Answer<'_, Result<Listed, Away>> {
        self.log.list(from, now)
    }

    fn news(&self, after: Place, now: Moment) -> Answer<'_, Result<News, Away>> {
        self.log.news(after, now)
    }

    fn snapshot(&self, from: Cursor, now: Moment) -> Answer<'_, Result<Snapshot, Away>> {
        self.log.snapshot(from, now)
    }

    fn restore(&self, entries: Vec<Entry>, now: Moment) -> Answer<'_, Result<(), Away>> {
        self.log.restore(entries, now)
    }
}

/// Follows the log. One for each [`Revocations`].
pub struct Follower {
    revocations: Arc<Revocations>,
    clock: Arc<dyn Clock>,
    stage: Stage,
    /// The last place up to which everything was known.
    reached: Option<Place>,
    failures: u32,
    /// Loads since everything was known the last time.
    loads: u32,
    /// How far the wall clock was ahead of the steady one at most since the last load.
    ahead: Micros,
    was_behind: bool,
    has_skipped: bool,
}

/// What is to be asked next.
#[derive(Clone, Copy)]
enum Stage {
    /// The log's first entries.
    Load,
    /// Further entries; news are to be asked for from the place of the first ones on.
    LoadOn { from: Place, next: Cursor },
    /// What changed after a place.
    Follow(Place),
}

impl Follower {
    /// Of what `revocations` knows; by this clock, which must be the one of the decisions.
    pub fn new(revocations: Arc<Revocations>, clock: Arc<dyn Clock>) -> Self {
        let (stage, ahead) = (Stage::Load, Micros::ZERO);
        // Who starts is behind; that is no news.
        let (was_behind, has_skipped) = (true, false);
        Self { revocations, clock, stage, reached: None, failures: 0, loads: 0, ahead, was_behind, has_skipped }
    }

    /// Follows for ever.
    pub async fn run(mut self) {
        loop {
            let pause = self.step().await;
            if pause == Micros::ZERO {
                // A log in memory never lets anybody else have a turn.
                yield_now().await;
            } else {
                let _ = timeout(jittered(pause), self.revocations.undone.notified()).await;
            }
        }
    }

    /// Asks the log once, and goes by what it says. When to do so again.
    pub(super) async fn step(&mut self) -> Micros {
        let now = self.clock.now();
        self.look_at_the_clocks(now);
        let asked = self.revocations.set.asks();
        let outcome = match self.stage {
            Stage::Load => self.load(None, Cursor::default(), now).await,
            Stage::LoadOn { from, next } => self.load(Some(from), next, now).await,
            Stage::Follow(place) => self.follow(place, asked, now).await,
        };
        *self.revocations.problem.lock().unwrap_or_else(PoisonError::into_inner) = outcome.err();
        let pause = outcome.unwrap_or_else(|_| {
            self.failures = self.failures.saturating_add(1);
            // The configuration says what is to be done without it.
            self.revocations.settled.cancel();
            back_off(self.failures)
        });
        if outcome.is_ok() {
            self.failures = 0;
        }
        self.report();
        pause
    }

    async fn load(&mut self, from: Option<Place>, next: Cursor, now: Moment) -> Result<Micros, Away> {
        let Revocations { log, set, metrics, .. } = &*self.revocations;
        let Snapshot { place, entries, next, unreadable } = log.snapshot(next, now).get().await?;
        let from = match from {
            None => {
                metrics.loads.increment(1);
                self.loads = self.loads.saturating_add(1);
                let lost = self.reached.map(|reached| has_lost(reached, place));
                if lost == Some(true) {
                    tracing::warn!("the log of revocations has lost its data; what is known here stays in force");
                }
                // What was written through this replica before its first load may have gone to a log that is lost.
                set.begin(lost.unwrap_or(true));
                place
            }
            Some(from) if has_lost(from, place) => {
                // What was loaded is in force already, and stays so.
                self.reached = Some(from);
                self.stage = Stage::Load;
                return Ok(back_off(self.loads));
            }
            Some(from) => from,
        };
        set.load(&entries);
        self.skip(unreadable);
        self.stage = if let Some(next) = next {
            Stage::LoadOn { from, next }
        } else {
            self.revocations.set.end();
            Stage::Follow(from)
        };
        Ok(Micros::ZERO)
    }

    async fn follow(&mut self, after: Place, asked: Asked, now: Moment) -> Result<Micros, Away> {
        let Revocations { log, set, metrics, .. } = &*self.revocations;
        let (changes, place, more, unreadable) = match log.news(after, now).get().await? {
            News::Changes { changes, place, more, unreadable } if !has_lost(after, place) => {
                (changes, place, more, unreadable)
            }
            News::Changes { .. } | News::Gone(_) => {
                self.stage = Stage::Load;
                // A log that is never there long enough is not loaded without end.
                return Ok(if self.loads == 0 { Micros::ZERO } else { back_off(self.loads) });
            }
        };
        set.apply(&changes);
        metrics.changes.increment(changes.len() as u64);
        self.skip(unreadable);
        self.stage = Stage::Follow(place);
        if more {
            return Ok(Micros::ZERO);
        }
        let Revocations { log, set, .. } = &*self.revocations;
        set.complete(asked);
        self.revocations.know_to(now.steady);
        self.reached = Some(place);
        self.loads = 0;
        self.revocations.settled.cancel();
        set.sweep(now.wall);
        let untold = set.untold(REVOCATIONS_MAX);
        if untold.is_empty() {
            return Ok(NEWS_INTERVAL);
        }
        log.restore(untold.clone(), self.clock.now()).get().await?;
        set.told(&untold);
        Ok(RESTORE_INTERVAL)
    }

    /// A wall clock that was ahead for a while has had entries dropped that are needed again.
    fn look_at_the_clocks(&mut self, now: Moment) {
        let ahead = now.wall.since(now.steady);
        if ahead + STEP_BACK_MAX < self.ahead {
            tracing::warn!("the wall clock was set back; revocations are loaded anew");
            self.revocations.known_to.store(NEVER, Ordering::Release);
            self.revocations.trust_until(NEVER);
            self.stage = Stage::Load;
            self.ahead = ahead;
        }
        self.ahead = self.ahead.max(ahead);
    }

    /// Said once: they stay there, and come again with each load.
    fn skip(&mut self, unreadable: u64) {
        self.revocations.metrics.unreadable.increment(unreadable);
        if unreadable > 0 && !self.has_skipped {
            self.has_skipped = true;
            tracing::warn!(
                unreadable,
                "passed over revocations that make no sense here: not ours, or a newer version's"
            );
        }
    }

    fn report(&mut self) {
        let now = self.clock.steady();
        let health = self.revocations.health(now);
        if health.is_behind {
            // A decision that waits for its verdict goes by the moment that it began at; this one is later.
            self.revocations.fresh_until.store(NEVER, Ordering::Release);
        }
        if health.is_behind != self.was_behind {
            self.was_behind = health.is_behind;
            match health.problem {
                Some(away) if health.is_behind => {
                    tracing::warn!(problem = %away, "revocations are behind: the log of revocations {away}");
                }
                _ if health.is_behind => tracing::warn!("revocations are behind"),
                _ => tracing::info!(entries = health.entries, "revocations are up to date"),
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        if let Some(lag) = health.lag {
            self.revocations.metrics.lag.set(lag.0 as f64 / 1e6);
        }
        let Revocations { set, metrics, .. } = &*self.revocations;
        for (gauge, entries) in metrics.entries.iter().zip(set.entries()) {
            #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^53")]
            gauge.set(entries as f64);
        }
    }
}

/// Whether a log that had come as far as `reached` has lost something of that.
fn has_lost(reached: Place, now: Place) -> bool {
    now.log != reached.log || now.number < reached.number
}

/// Doubles with each failure in a row.
fn back_off(failures: u32) -> Micros {
    let doublings = failures.saturating_sub(1).min(8);
    Micros(BACK_OFF_MIN.0 << doublings).min(BACK_OFF_MAX)
}

/// Give or take a fifth, so that replicas that started together drift apart.
fn jittered(pause: Micros) -> Duration {
    let mut byte = [0; 1];
    let chance = rand::fill(&mut byte).map_or(128, |()| u64::from(byte[0]));
    Duration::from(Micros(pause.0 * 4 / 5 + pause.0 * 2 / 5 * chance / 255))
}
