//! Concurrency: so many units may be held at a time, each until it is released or its time is up.
//!
//! Nothing is used up here: what counts is what is held at the same time, such as calls that are being served. Whoever
//! acquires units holds them under the name of a lease, and settles it when done. The units of one that never does,
//! because it crashed, come back when its time is up.

use super::leases::{LEASES_MAX, Leases};
use super::time::Micros;
use super::window::{Grant, LeaseId, Outcome, Terms};

/// The most units that a limit of this kind may have: a store keeps each holder.
pub const SLOTS_MAX: u64 = LEASES_MAX as u64;

/// How many may be held, and for how long: what the arithmetic needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    /// At most so many units at a time. 1 to [`SLOTS_MAX`].
    pub units: u64,
    /// The longest that units are held. It is the limit's, not the caller's: so an operator can tell when the slots of a
    /// caller that crashed are free. 1 µs to [`HOLD_MAX`](super::limit::HOLD_MAX).
    pub hold: Micros,
}

/// Who holds units of one counter.
///
/// Units are held for the time from their acquisition up to, not including, the moment at which their hold has passed. Time
/// never steps back: an earlier `now` counts as the latest one at which it was changed.
///
/// Acquiring again under the same name holds the new units instead of the old ones: it renews. When the limit's
/// definition changes, holders keep what they hold, for as long as they were told. With fewer units nobody acquires
/// any until enough of them came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holders {
    /// The latest moment at which it was changed.
    latest: Micros,
    leases: Leases,
}

impl Holders {
    /// Nobody holds anything; time begins at `since`.
    pub fn new(since: Micros) -> Self {
        Self { latest: since, leases: Leases::default() }
    }

    /// What [`Holders::acquire`] would grant, with what is free and comes back now: nothing is taken. Times are counted
    /// from the `now` that was given.
    pub fn look(&self, slots: Slots, terms: Terms, now: Micros) -> Grant {
        let at = now.max(self.latest);
        let held = || self.leases.iter().filter(|held| held.expires > at && held.id != terms.lease);
        let used = held().fold(0_u64, |sum, held| sum.saturating_add(held.units));
        let remaining = slots.units.saturating_sub(used);
        let outcome = match terms.at_least {
            never if never > slots.units => Outcome::Never,
            least if least <= remaining => Outcome::Granted { units: least },
            least => {
                let mut back = 0_u64;
                let too_many = used.saturating_add(least) - slots.units;
                let enough = held().find(|held| {
                    back = back.saturating_add(held.units);
                    back >= too_many
                });
                Outcome::Short { retry_after: enough.map_or(Micros::ZERO, |last| last.expires.since(now)) }
            }
        };
        let reset_after = held().next().map_or(Micros::ZERO, |first| first.expires.since(now));
        Grant { outcome, remaining, reset_after }
    }

    /// Takes exactly `at_least` units, to be held under the name of the lease, or changes nothing.
    pub fn acquire(&mut self, slots: Slots, terms: Terms, now: Micros) -> Grant {
        let grant = self.look(slots, terms, now);
        let units = match grant.outcome {
            Outcome::Granted { units } if units > 0 => units,
            Outcome::Granted { .. } | Outcome::Short { .. } | Outcome::Never => return grant,
        };
        self.latest = now.max(self.latest);
        let expires = self.latest + slots.hold;
        // From its expiry on a lease counts no more, and is dropped.
        self.leases.open(terms.lease, units, expires, self.latest + Micros(1));
        let first = self.leases.iter().next().map_or(expires, |first| first.expires);
        Grant { outcome: grant.outcome, remaining: grant.remaining - units, reset_after: first.since(now) }
    }

    /// Releases what is held under that name, whatever of it was used. What is unknown, released already or came back by
    /// itself is left as it is.
    pub fn settle(&mut self, lease: LeaseId, now: Micros) {
        let at = now.max(self.latest);
        if self.leases.end(lease, at).is_some() {
            self.latest = at;
        }
    }

    /// Forgets everything but the time: who held something is not known any more.
    pub fn forget(&mut self) {
        self.leases = Leases::default();
    }

    /// The moment from which nobody holds anything, unless more is acquired. It may come earlier when units are
    /// released.
    pub fn idle_from(&self) -> Micros {
        self.leases.ended_from()
    }

    /// The latest moment at which it was changed: its time does not step back behind it.
    pub const fn latest(&self) -> Micros {
        self.latest
    }
}
