//! One counter of any algorithm: what a store keeps.

use super::limit::Algorithm;
use super::time::{Micros, Moment};
use super::window::{self, Frame, Grant, LeaseId, Terms};
use super::{bucket, fixed, slots};

/// What has been charged to one counter, under one algorithm.
///
/// All go by the steady clock; the fixed window, which is aligned to the wall clock, by both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Of a sliding window.
    SlidingWindow(window::Counter),
    /// Of a token bucket.
    TokenBucket(bucket::Level),
    /// Of a fixed window.
    FixedWindow(fixed::Count),
    /// Of what is held at a time.
    Concurrency(slots::Holders),
}

impl Counter {
    /// A counter to which nothing has been charged and whose time begins at `since` on the steady clock.
    pub fn new(algorithm: Algorithm, since: Micros) -> Self {
        match algorithm {
            Algorithm::SlidingWindow { units, window } => {
                Self::SlidingWindow(window::Counter::new(Frame::new(units, window), since))
            }
            Algorithm::TokenBucket(flow) => Self::TokenBucket(bucket::Level::new(flow, since)),
            Algorithm::FixedWindow(grid) => Self::FixedWindow(fixed::Count::new(grid)),
            Algorithm::Concurrency(_) => Self::Concurrency(slots::Holders::new(since)),
        }
    }

    /// Whether it counts as `algorithm` does, if not with the same numbers.
    pub const fn counts_by(&self, algorithm: Algorithm) -> bool {
        match algorithm {
            Algorithm::SlidingWindow { .. } => matches!(self, Self::SlidingWindow(_)),
            Algorithm::TokenBucket(_) => matches!(self, Self::TokenBucket(_)),
            Algorithm::FixedWindow(_) => matches!(self, Self::FixedWindow(_)),
            Algorithm::Concurrency(_) => matches!(self, Self::Concurrency(_)),
        }
    }

    /// What [`Counter::acquire`] would grant, with what is left and returns now: nothing is charged.
    pub fn look(&self, algorithm: Algorithm, terms: Terms, now: Moment) -> Grant {
        match (self, algorithm) {
            (Self::SlidingWindow(counter), Algorithm::SlidingWindow { units, window }) => {
                counter.look(Frame::new(units, window), terms, now.steady)
            }
            (Self::TokenBucket(level), Algorithm::TokenBucket(flow)) => level.look(flow, terms, now.steady),
            (Self::FixedWindow(count), Algorithm::FixedWindow(grid)) => count.look(grid, terms, now),
            (Self::Concurrency(holders), Algorithm::Concurrency(slots)) => holders.look(slots, terms, now.steady),
            (Self::SlidingWindow(_) | Self::TokenBucket(_) | Self::FixedWindow(_) | Self::Concurrency(_), other) => {
                Self::new(other, self.latest()).look(other, terms, now)
            }
        }
    }

    /// Grants units and charges them, or changes nothing. A counter that counts by another algorithm begins anew.
    pub fn acquire(&mut self, algorithm: Algorithm, terms: Terms, now: Moment) -> Grant {
        match (&mut *self, algorithm) {
            (Self::SlidingWindow(counter), Algorithm::SlidingWindow { units, window }) => {
                counter.acquire(Frame::new(units, window), terms, now.steady)
            }
            (Self::TokenBucket(level), Algorithm::TokenBucket(flow)) => level.acquire(flow, terms, now.steady),
            (Self::FixedWindow(count), Algorithm::FixedWindow(grid)) => count.acquire(grid, terms, now),
            (Self::Concurrency(holders), Algorithm::Concurrency(slots)) => holders.acquire(slots, terms, now.steady),
            (Self::SlidingWindow(_) | Self::TokenBucket(_) | Self::FixedWindow(_) | Self::Concurrency(_), other) => {
                *self = Self::new(other, self.latest());
                self.acquire(other, terms, now)
            }
        }
    }

    /// Counts hits of a fixed window, whether they fit or not: see [`fixed::Count::hit`]. A counter that counts by another
    /// algorithm begins anew.
    pub fn hit(&mut self, grid: fixed::Grid, hits: u64, now: Moment) -> Grant {
        match self {
            Self::FixedWindow(count) => count.hit(grid, hits, now),
            Self::SlidingWindow(_) | Self::TokenBucket(_) | Self::Concurrency(_) => {
                let mut count = fixed::Count::new(grid);
                let grant = count.hit(grid, hits, now);
                *self = Self::FixedWindow(count);
                grant
            }
        }
    }

    /// Ends a lease: what was used is charged, the rest comes back. Whatever of it was used, slots are released. A lease
    /// that is unknown, settled already or past its expiry is left as it is: spent whole.
    pub fn settle(&mut self, lease: LeaseId, used: u64, now: Moment) {
        match self {
            Self::SlidingWindow(counter) => counter.settle(lease, used, now.steady),
            Self::TokenBucket(level) => level.settle(lease, used, now.steady),
            Self::FixedWindow(count) => count.settle(lease, used, now),
            Self::Concurrency(holders) => holders.settle(lease, now.steady),
        }
    }

    /// Takes back up to `units` that are charged, and answers how many. Slots are not refunded but released.
    pub fn refund(&mut self, units: u64, now: Moment) -> u64 {
        match self {
            Self::SlidingWindow(counter) => counter.refund(units, now.steady),
            Self::TokenBucket(level) => level.refund(units, now.steady),
            Self::FixedWindow(count) => count.refund(units, now),
            Self::Concurrency(_) => 0,
        }
    }

    /// Forgets everything but the time.
    pub fn forget(&mut self) {
        match self {
            Self::SlidingWindow(counter) => counter.forget(),
            Self::TokenBucket(level) => level.forget(),
            Self::FixedWindow(count) => count.forget(),
            Self::Concurrency(holders) => holders.forget(),
        }
    }

    /// The moment on the steady clock from which nothing counts any more, unless more is charged: from then on the
    /// counter is as good as a new one. It may come earlier when a lease is settled.
    pub fn idle_from(&self) -> Micros {
        match self {
            Self::SlidingWindow(counter) => counter.idle_from(),
            Self::TokenBucket(level) => level.idle_from(),
            Self::FixedWindow(count) => count.idle_from(),
            Self::Concurrency(holders) => holders.idle_from(),
        }
    }

    /// The latest moment on the steady clock at which it was changed.
    pub const fn latest(&self) -> Micros {
        match self {
            Self::SlidingWindow(counter) => counter.latest(),
            Self::TokenBucket(level) => level.latest(),
            Self::FixedWindow(count) => count.latest(),
            Self::Concurrency(holders) => holders.latest(),
        }
    }
}
