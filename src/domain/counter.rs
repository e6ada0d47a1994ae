//! One counter of any algorithm: what a store keeps.

use super::limit::Algorithm;
use super::time::{Micros, Moment};
use super::window::{self, Frame, Grant, LeaseId, Terms};
use super::{bucket, fixed};

/// What has been charged to one counter, under one algorithm.
///
/// The sliding window and the token bucket go by the steady clock; the fixed window, which is aligned to the wall
/// clock, by both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Of a sliding window.
    SlidingWindow(window::Counter),
    /// Of a token bucket.
    TokenBucket(bucket::Level),
    /// Of a fixed window.
    FixedWindow(fixed::Count),
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
        }
    }

    /// Whether it counts as `algorithm` does, if not with the same numbers.
    pub const fn counts_by(&self, algorithm: Algorithm) -> bool {
        match algorithm {
            Algorithm::SlidingWindow { .. } => matches!(self, Self::SlidingWindow(_)),
            Algorithm::TokenBucket(_) => matches!(self, Self::TokenBucket(_)),
            Algorithm::FixedWindow(_) => matches!(self, Self::FixedWindow(_)),
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
            (Self::SlidingWindow(_) | Self::TokenBucket(_) | Self::FixedWindow(_), other) => {
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
            (Self::SlidingWindow(_) | Self::TokenBucket(_) | Self::FixedWindow(_), other) => {
                *self = Self::new(other, self.latest());
                self.acquire(other, terms, now)
            }
        }
    }

    /// Ends a lease: see [`window::Counter::settle`]. Only a sliding window has any.
    pub fn settle(&mut self, lease: LeaseId, used: u64, now: Moment) {
        match self {
            Self::SlidingWindow(counter) => counter.settle(lease, used, now.steady),
            Self::TokenBucket(_) | Self::FixedWindow(_) => {}
        }
    }

    /// Forgets everything but the time.
    pub fn forget(&mut self) {
        match self {
            Self::SlidingWindow(counter) => counter.forget(),
            Self::TokenBucket(level) => level.forget(),
            Self::FixedWindow(count) => count.forget(),
        }
    }

    /// The moment on the steady clock from which nothing counts any more, unless more is charged: from then on the
    /// counter is as good as a new one. It may come earlier when a lease is settled.
    pub fn idle_from(&self) -> Micros {
        match self {
            Self::SlidingWindow(counter) => counter.idle_from(),
            Self::TokenBucket(level) => level.idle_from(),
            Self::FixedWindow(count) => count.idle_from(),
        }
    }

    /// The latest moment on the steady clock at which it was changed.
    pub const fn latest(&self) -> Micros {
        match self {
            Self::SlidingWindow(counter) => counter.latest(),
            Self::TokenBucket(level) => level.latest(),
            Self::FixedWindow(count) => count.latest(),
        }
    }
}
