//! The open leases of one counter: who may still spend what was charged, and until when.

use std::collections::VecDeque;

use super::time::Micros;
use super::window::LeaseId;

/// The most leases of one counter that are kept. One more, and the one that ends first is forgotten: it counts as spent
/// whole, as if nobody had settled it.
pub const LEASES_MAX: usize = 10_000;

/// Leases by name, the one that ends first at the front.
///
/// A lease outlives its charge where what was charged is let go or forgotten before the lease ends: a new window of the
/// clock, a bucket that is full again, a reset, a window of another length. Such a lease has nothing to give back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Leases {
    open: VecDeque<Lease>,
    /// Goes up whenever the charges of all leases so far are gone.
    epoch: u64,
}

/// One lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) id: LeaseId,
    /// The last moment at which its units can be spent.
    pub(super) expires: Micros,
    /// At least 1.
    pub(super) units: u64,
    epoch: u64,
}

/// A lease that is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// When it would have expired.
    pub(super) expires: Micros,
    /// Units that were charged for it.
    pub(super) units: u64,
    /// Whether its charge is still there.
    pub(super) charged: bool,
}

impl Ended {
    /// Units that come back, as far as they are still charged: those that were not used.
    pub(super) const fn unused(self, used: u64) -> u64 {
        if self.charged { self.units.saturating_sub(used) } else { 0 }
    }

    /// Units that were used beyond those of the lease.
    pub(super) const fn beyond(self, used: u64) -> u64 {
        used.saturating_sub(self.units)
    }
}

impl Leases {
    /// Keeps a lease, and drops those that have expired. One of the same name is replaced, which leaves it spent whole.
    pub(super) fn open(&mut self, id: LeaseId, units: u64, expires: Micros, now: Micros) {
        while self.open.pop_front_if(|first| first.expires < now).is_some() {}
        self.open.retain(|other| other.id != id);
        if self.open.len() >= LEASES_MAX {
            self.open.pop_front();
        }
        let place = self.open.partition_point(|other| other.expires <= expires);
        self.open.insert(place, Lease { id, expires, units, epoch: self.epoch });
    }

    /// Takes a lease out, if it is there and has not expired.
    pub(super) fn end(&mut self, id: LeaseId, now: Micros) -> Option<Ended> {
        let place = self.open.iter().position(|lease| lease.id == id && lease.expires >= now)?;
        let Lease { id: _, expires, units, epoch } = self.open.remove(place)?;
        Some(Ended { expires, units, charged: epoch == self.epoch })
    }

    /// What was charged for them is gone.
    pub(super) const fn outlive_their_charges(&mut self) {
        self.epoch += 1;
    }

    /// All of them, the one that ends first at the front.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Lease> {
        self.open.iter()
    }

    /// From when on none is open.
    pub(super) fn ended_from(&self) -> Micros {
        self.open.back().map_or(Micros::ZERO, |last| last.expires + Micros(1))
    }
}
