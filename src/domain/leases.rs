//! The open leases of one counter: who may still spend what was charged, and until when.

use std::collections::VecDeque;

use super::time::Micros;
use super::window::LeaseId;

/// The most leases of one counter that are kept. One more, and the one that ends first is forgotten: it counts as spent
/// whole, as if nobody had settled it.
pub const LEASES_MAX: usize = 10_000;

/// Leases by name. Boxed, because most counters never have any.
///
/// A lease outlives its charge where what was charged is let go or forgotten before the lease ends: a new window of the
/// clock, a bucket that is full again, a reset, a window of another length. Such a lease has nothing to give back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Leases(Option<Box<Open>>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Open {
    /// The one that ends first at the front.
    leases: VecDeque<Lease>,
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
    /// None is open.
    pub(super) const fn none() -> Self {
        Self(None)
    }

    /// Keeps a lease, and drops those that have expired. One of the same name is replaced, which leaves it spent whole.
    pub(super) fn open(&mut self, id: LeaseId, units: u64, expires: Micros, now: Micros) {
        let Open { leases, epoch } = &mut **self.0.get_or_insert_default();
        while leases.pop_front_if(|first| first.expires < now).is_some() {}
        leases.retain(|other| other.id != id);
        if leases.len() >= LEASES_MAX {
            leases.pop_front();
        }
        let place = leases.partition_point(|other| other.expires <= expires);
        leases.insert(place, Lease { id, expires, units, epoch: *epoch });
    }

    /// Takes a lease out, and answers what it was if it has not expired. Once it was taken out too late, it is gone for good,
    /// even when time steps back.
    pub(super) fn end(&mut self, id: LeaseId, now: Micros) -> Option<Ended> {
        let open = self.0.as_mut()?;
        let place = open.leases.iter().position(|lease| lease.id == id)?;
        let Lease { id: _, expires, units, epoch } = open.leases.remove(place)?;
        (expires >= now).then_some(Ended { expires, units, charged: epoch == open.epoch })
    }

    /// What was charged for them is gone: they have nothing to give back any more.
    pub(super) fn outlive_their_charges(&mut self) {
        if let Some(open) = &mut self.0 {
            open.epoch += 1;
        }
    }

    /// All of them, the one that ends first at the front.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Lease> {
        self.0.iter().flat_map(|open| &open.leases)
    }

    /// From when on none is open.
    pub(super) fn ended_from(&self) -> Micros {
        self.0.as_ref().and_then(|open| open.leases.back()).map_or(Micros::ZERO, |last| last.expires + Micros(1))
    }
}
