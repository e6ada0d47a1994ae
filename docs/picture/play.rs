//! Four ways to count, each asked by the same adversary. Three of them are those of the program itself.

use tollgate::domain::bucket::{Flow, Level};
use tollgate::domain::fixed::{Count, Grid};
use tollgate::domain::time::{Micros, Moment};
use tollgate::domain::window::{Counter, Frame, LeaseId, Outcome, Terms};

/// The limit: so many units …
pub(crate) const UNITS: u64 = 100;

/// … in so much time.
pub(crate) const WINDOW: Micros = Micros::from_secs(60);

/// How often the adversary asks within a window, once it has begun. Between 1 and 32 times, so that its asking is not
/// finer than a sub-window.
pub(crate) const ASKS_PER_WINDOW: u64 = 20;

/// The edge before which it begins, in windows since the origin.
pub(crate) const FIRST_EDGE: u64 = 1;

/// Where the picture ends.
pub(crate) const LAST_EDGE: u64 = 4;

const ONE: Terms = Terms { at_least: 1, at_most: 1, hold: Micros::ZERO, lease: LeaseId { replica: 0, serial: 0 } };

/// A way to count.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    /// So many in each window of the clock.
    Fixed(Grid, Count),
    /// The window before, weighted by the part of it that is still within reach, and this one.
    TwoBuckets(TwoBuckets),
    /// A burst and a rate.
    Gcra(Flow, Level),
    /// The strict sliding window.
    Sliding(Frame, Counter),
}

/// Two counts instead of a log: it takes for granted that the window before was filled evenly.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TwoBuckets {
    index: u64,
    current: u64,
    before: u64,
}

/// What one way admitted, and when.
#[derive(Clone, Debug, Default)]
pub(crate) struct Admitted(pub Vec<(Micros, u64)>);

impl Way {
    /// All four, as long as nothing was asked of them.
    pub(crate) fn all() -> [Self; 4] {
        let grid = Grid { units: UNITS, length: WINDOW };
        let frame = Frame::new(UNITS, WINDOW);
        let flow = Flow::new(UNITS, WINDOW, UNITS).unwrap_or_else(|| unreachable!("a rate of 100 a minute is exact"));
        [
            Self::Fixed(grid, Count::new(grid)),
            Self::TwoBuckets(TwoBuckets::default()),
            Self::Gcra(flow, Level::new(flow, Micros::ZERO)),
            Self::Sliding(frame, Counter::new(frame, Micros::ZERO)),
        ]
    }

    /// What the adversary gets: it is silent until just before an edge of the clock's windows, and from then on asks
    /// again and again, each time until it is refused.
    pub(crate) fn asked_by_the_adversary(mut self) -> Admitted {
        let mut admitted = Admitted::default();
        for ask in FIRST_EDGE * ASKS_PER_WINDOW..=LAST_EDGE * ASKS_PER_WINDOW {
            let now = Micros(ask * WINDOW.0 / ASKS_PER_WINDOW) - Micros(1);
            // No way gives more than the limit at one moment.
            let units = (0..=UNITS).take_while(|_| self.admits_one(now)).count() as u64;
            if units > 0 {
                admitted.0.push((now, units));
            }
        }
        admitted
    }

    fn admits_one(&mut self, now: Micros) -> bool {
        let granted = match self {
            Self::Fixed(grid, count) => count.acquire(*grid, ONE, Moment { wall: now, steady: now }),
            Self::TwoBuckets(buckets) => return buckets.admits_one(now),
            Self::Gcra(flow, level) => level.acquire(*flow, ONE, now),
            Self::Sliding(frame, counter) => counter.acquire(*frame, ONE, now),
        };
        matches!(granted.outcome, Outcome::Granted { .. })
    }
}

impl TwoBuckets {
    fn admits_one(&mut self, now: Micros) -> bool {
        let index = now.0 / WINDOW.0;
        if index > self.index {
            let before = if index == self.index + 1 { self.current } else { 0 };
            *self = Self { index, current: 0, before };
        }
        let within_reach = WINDOW.0 - now.0 % WINDOW.0;
        let fits = self.before * within_reach + (self.current + 1) * WINDOW.0 <= UNITS * WINDOW.0;
        self.current += u64::from(fits);
        fits
    }
}

impl Admitted {
    /// What was admitted in the window that ends with each moment, as steps: the moment, and the units from then on.
    pub(crate) fn in_the_window_before(&self) -> Vec<(Micros, u64)> {
        let leaves = self.0.iter().map(|&(at, units)| (at + WINDOW, 0, units));
        let mut changes: Vec<(Micros, u64, u64)> = self.0.iter().map(|&(at, units)| (at, units, 0)).collect();
        changes.extend(leaves);
        changes.sort_unstable();
        let mut within = 0;
        let mut steps: Vec<(Micros, u64)> = Vec::new();
        for (at, comes, leaves) in changes {
            within = within + comes - leaves;
            match steps.last_mut() {
                Some((last, units)) if *last == at => *units = within,
                _ => steps.push((at, within)),
            }
        }
        steps
    }

    /// The most units in any half-open interval of the window's length.
    pub(crate) fn most(&self) -> u64 {
        self.in_the_window_before().into_iter().map(|(_, units)| units).max().unwrap_or(0)
    }
}
