//! The strict sliding window.
//!
//! A window of length `W` is cut into `B` sub-windows of width `w = ⌈W / B⌉`. A counter keeps the units charged in each. A
//! charge of `c` units at time `t` is admitted when the units in sub-window `⌊t/w⌋ − B` and all later ones, future
//! ones too, plus `c` are at most the limit: the oldest is counted whole. So no half-open interval of length `W` ever
//! holds more than the limit: at the last admission in it, every earlier one was counted. The price is that a unit is
//! held for up to `w` longer than an exact log would hold it.

use super::limit::{Limit, SUB_WINDOWS};
use super::time::Micros;

/// How a limit's window is cut: what the arithmetic needs of a [`Limit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// At most this many units in any interval of the window's length. At least 1.
    pub units: u64,
    /// The width of a sub-window. At least 1 µs.
    pub width: Micros,
    /// How many sub-windows a window has. At least 1.
    pub parts: u64,
}

impl Frame {
    /// The frame of `limit`.
    pub fn of(limit: &Limit) -> Self {
        let parts = u64::from(SUB_WINDOWS);
        Self { units: limit.units, width: Micros(limit.window.0.div_ceil(parts).max(1)), parts }
    }
}

/// Names one lease, so that a settle that is repeated or comes late does no harm. Unique over all replicas: the
/// replica's random number and a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseId {
    /// Random, drawn when the replica starts.
    pub replica: u64,
    /// Counts the replica's leases.
    pub serial: u64,
}

/// What is asked of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Grant this many units or none; 0 only looks.
    pub at_least: u64,
    /// Grant up to this many. At least `at_least`.
    pub at_most: u64,
    /// How long the units may be spent after the grant. Zero: they are spent at once, and no lease is kept.
    pub hold: Micros,
    /// The lease's name; meaningless where `hold` is zero.
    pub lease: LeaseId,
}

/// What a counter answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Whether, and how much.
    pub outcome: Outcome,
    /// Units left after this.
    pub remaining: u64,
    /// Time until some of what is used returns; zero while nothing is used.
    pub reset_after: Micros,
}

/// Whether units were granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// So many, at least what was asked for.
    Granted {
        /// Units granted.
        units: u64,
    },
    /// Not enough is left now.
    Short {
        /// The least time after which `at_least` fits, if nobody else takes it. A microsecond earlier it does not.
        retry_after: Micros,
    },
    /// `at_least` is more than the limit ever holds.
    Never,
}
