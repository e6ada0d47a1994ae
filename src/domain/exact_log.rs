//! For tests: random traces of questions to counters, and an exact log to hold the answers against.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::time::Micros;
use super::window::{Frame, Grant, LeaseId, Outcome, Terms};

/// Something that keeps counters, asked one thing at a time.
pub(crate) trait Keeper {
    fn acquire(&mut self, counter: usize, terms: Terms, now: Micros) -> Grant;
    fn settle(&mut self, counter: usize, lease: LeaseId, used: u64, now: Micros);
    fn refund(&mut self, counter: usize, units: u64, now: Micros) -> u64;
}

/// One step of a trace. Lengths of time are in per mille of the window.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Wait {
        permille: u64,
        micros: u64,
    },
    Back {
        permille: u64,
    },
    Ask {
        counter: usize,
        at_least: u64,
        more: u64,
        hold_permille: u64,
    },
    /// Settles one of the leases taken so far, whether it is open or not.
    Settle {
        pick: usize,
        used_permille: u64,
    },
    /// Cancels one of the spendings so far, if it was within the window.
    Refund {
        pick: usize,
        units: u64,
    },
}

pub(crate) const COUNTERS: usize = 3;

/// Traces in which counters run full, leases overlap, and some are settled: in time, twice or late.
pub(crate) fn traces(units: u64, steps: usize) -> impl Strategy<Value = Vec<Step>> {
    let hold = prop_oneof![2 => Just(0_u64), 3 => 1..60_u64];
    let step = prop_oneof![
        3 => (0..40_u64, 0..3_u64).prop_map(|(permille, micros)| Step::Wait { permille, micros }),
        1 => (0..1_300_u64, 0..3_u64).prop_map(|(permille, micros)| Step::Wait { permille, micros }),
        1 => (0..1_500_u64).prop_map(|permille| Step::Back { permille }),
        6 => (0..COUNTERS, 0..=units / 3 + 1, 0..units, hold).prop_map(|(counter, at_least, more, hold_permille)| {
            Step::Ask { counter, at_least, more, hold_permille }
        }),
        1 => (0..COUNTERS, units..units + 3).prop_map(|(counter, at_least)| {
            Step::Ask { counter, at_least, more: 0, hold_permille: 0 }
        }),
        3 => (0..8_usize, 0..=1_100_u64).prop_map(|(pick, used_permille)| Step::Settle { pick, used_permille }),
        2 => (0..8_usize, 1..=units).prop_map(|(pick, units)| Step::Refund { pick, units }),
    ];
    prop::collection::vec(step, 1..steps)
}

/// When and how much of one counter was spent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Vec<(Micros, u64)>);

impl Log {
    pub(crate) fn spend(&mut self, at: Micros, units: u64) {
        self.0.push((at, units));
    }

    /// What was spent from that moment on.
    pub(crate) fn since(&self, moment: Micros) -> Self {
        Self(self.0.iter().copied().filter(|(at, _)| *at >= moment).collect())
    }

    /// The most units that any half-open interval of that length holds.
    pub(crate) fn most_in_any(&self, length: Micros) -> u64 {
        let mut spends = self.0.clone();
        spends.sort_unstable();
        let (mut most, mut sum, mut first) = (0, 0, 0);
        for &(at, units) in &spends {
            sum += units;
            while spends[first].0 + length <= at {
                sum -= spends[first].1;
                first += 1;
            }
            most = most.max(sum);
        }
        most
    }
}

/// A limit that remembers each moment: the best that a sliding window can admit.
pub(crate) struct ExactLog {
    units: u64,
    window: Micros,
    spent: VecDeque<(Micros, u64)>,
}

impl ExactLog {
    pub(crate) const fn new(units: u64, window: Micros) -> Self {
        Self { units, window, spent: VecDeque::new() }
    }

    /// Whether `units` fit at `now`; if so they are spent.
    pub(crate) fn admits(&mut self, units: u64, now: Micros) -> bool {
        while self.spent.pop_front_if(|(then, _)| *then + self.window <= now).is_some() {}
        let fits = self.spent.iter().map(|(_, units)| units).sum::<u64>() + units <= self.units;
        if fits {
            self.spent.push_back((now, units));
        }
        fits
    }
}

/// A lease as its holder sees it.
struct Held {
    counter: usize,
    id: LeaseId,
    from: Micros,
    expires: Micros,
    /// When they are spent, and how many: those that were cancelled are not among them.
    spent: Micros,
    units: u64,
    cancelled: u64,
    open: bool,
}

/// Plays a trace from `start`. Units of a lease are spent at its very beginning or its very end, in turns: the worst
/// that its holder may do.
pub(crate) fn play(trace: &[Step], window: Micros, start: Micros, keeper: &mut impl Keeper) -> [Log; COUNTERS] {
    let mut now = start;
    let mut logs: [Log; COUNTERS] = Default::default();
    // A counter's time never steps back.
    let mut latest = [Micros::ZERO; COUNTERS];
    let mut leases: Vec<Held> = Vec::new();
    for (serial, step) in (0..).zip(trace) {
        match *step {
            Step::Wait { permille, micros } => now = now + part(window, permille) + Micros(micros),
            Step::Back { permille } => now = now.since(part(window, permille)).max(start),
            Step::Ask { counter, at_least, more, hold_permille } => {
                let hold = part(window, hold_permille);
                let lease = LeaseId { replica: 7, serial };
                let grant = keeper.acquire(counter, Terms { at_least, at_most: at_least + more, hold, lease }, now);
                let Outcome::Granted { units } = grant.outcome else { continue };
                if units == 0 {
                    continue;
                }
                latest[counter] = latest[counter].max(now);
                let from = latest[counter];
                let expires = from + hold;
                let spent = if leases.len().is_multiple_of(2) { from } else { expires };
                leases.push(Held { counter, id: lease, from, expires, spent, units, cancelled: 0, open: true });
            }
            Step::Settle { pick, used_permille } => {
                let Some(index) = leases.len().checked_sub(pick + 1) else { continue };
                let lease = &mut leases[index];
                let at = latest[lease.counter].max(now);
                // What was cancelled was used before. More than was granted is not claimed here: it would be admitted
                // without being asked for.
                let granted = lease.units + lease.cancelled;
                let used = (granted * used_permille / 1_000).clamp(lease.cancelled, granted);
                keeper.settle(lease.counter, lease.id, used, now);
                let kept = lease.expires > lease.from;
                if lease.open && kept && at <= lease.expires {
                    latest[lease.counter] = at;
                    lease.open = false;
                    lease.spent = lease.spent.min(at);
                    lease.units = used - lease.cancelled;
                }
            }
            Step::Refund { pick, units } => {
                let Some(index) = leases.len().checked_sub(pick + 1) else { continue };
                let lease = &mut leases[index];
                let at = latest[lease.counter].max(now);
                if lease.spent <= at && at < lease.spent + window {
                    let taken = keeper.refund(lease.counter, units.min(lease.units), now);
                    lease.units -= taken;
                    lease.cancelled += taken;
                    if taken > 0 {
                        latest[lease.counter] = at;
                    }
                }
            }
        }
    }
    for lease in &leases {
        logs[lease.counter].spend(lease.spent, lease.units);
    }
    logs
}

/// Terms that spend so many units at once.
pub(crate) const fn at_once(units: u64) -> Terms {
    Terms { at_least: units, at_most: units, hold: Micros::ZERO, lease: LeaseId { replica: 0, serial: 0 } }
}

/// The length of the window that a frame was made for, where it divides evenly.
pub(crate) const fn window(frame: Frame) -> Micros {
    Micros(frame.width.0 * frame.parts)
}

fn part(window: Micros, permille: u64) -> Micros {
    Micros(window.0 * permille / 1_000)
}
