//! What the leases in hand pay of one question.

use smallvec::SmallVec;

use super::super::table::Entry;
use super::LeaseDesk;
use crate::decide::ports::{Grants, Request, Requests};
use crate::domain::lease::{Level, Spend};
use crate::domain::time::Micros;
use crate::domain::window::{Grant, LeaseId, Outcome};

/// What the leases in hand paid of one question. Unless it is kept, it is given back.
pub(super) struct Taken<'a> {
    pub(super) desk: &'a LeaseDesk,
    pub(super) requests: &'a Requests,
    /// One for each request, in order.
    pub(super) parts: SmallVec<[Part; 4]>,
    pub(super) kept: bool,
}

pub(super) struct Part {
    pub(super) units: u64,
    pub(super) spend: Spend,
    pub(super) level: Level,
}

impl Taken<'_> {
    /// The answer where nobody has to be asked: all is paid, or something is known to be refused.
    pub(super) fn answer(&mut self) -> Option<Grants> {
        if self.parts.iter().any(|part| matches!(part.spend, Spend::Short { .. })) {
            self.desk.metrics.refused_from_memory.increment(1);
        } else if self.parts.iter().all(|part| matches!(part.spend, Spend::Paid(_))) {
            self.desk.metrics.paid_from_leases.increment(1);
            self.kept = true;
        } else {
            return None;
        }
        Some(self.parts.iter().map(|part| Ok(part.grant())).collect())
    }

    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        for (Request { key, .. }, Part { units, spend, .. }) in self.requests.iter().zip(&self.parts) {
            if let Spend::Paid(lease) = spend {
                self.desk.table.with(key, |entry| entry.give_back(*lease, *units));
            }
        }
    }
}

impl Part {
    /// Of a counter of which nothing is known: nobody is known to have used any of it.
    pub(super) fn unknown(request: &Request) -> Self {
        let level = Level { remaining: request.limit.units(), reset_after: Micros::ZERO };
        Self { units: request.terms.at_least, spend: Spend::Ask, level }
    }

    /// As the store would put it.
    pub(super) fn grant(&self) -> Grant {
        let Level { remaining, reset_after } = self.level;
        let outcome = match self.spend {
            Spend::Short { retry_after } => Outcome::Short { retry_after },
            Spend::Paid(_) | Spend::Ask => Outcome::Granted { units: self.units },
        };
        Grant { outcome, remaining, reset_after }
    }

    pub(super) fn known(&self) -> Option<Grant> {
        match self.spend {
            Spend::Paid(_) | Spend::Short { .. } => Some(self.grant()),
            Spend::Ask => None,
        }
    }
}

impl Entry {
    /// Pays `units` from the lease in hand, if it can.
    pub(super) fn pay(&mut self, units: u64, now: Micros) -> Part {
        let spend = self.holding().map_or(Spend::Ask, |holding| holding.spend(units, now));
        if matches!(spend, Spend::Paid(_)) {
            self.admit(units, now);
        }
        Part { units, spend, level: self.level(now) }
    }

    /// What [`Entry::pay`] would do.
    pub(super) fn look(&mut self, request: &Request, now: Micros) -> Part {
        if self.limit().algorithm != request.limit.algorithm {
            return Part::unknown(request);
        }
        let units = request.terms.at_least;
        let spend = self.holding().map_or(Spend::Ask, |holding| holding.look(units, now));
        Part { units, spend, level: self.level(now) }
    }

    /// What is left. Where the store has not said lately: all but what this replica admitted itself.
    fn level(&mut self, now: Micros) -> Level {
        if let Some(level) = self.holding().and_then(|holding| holding.level(now)) {
            return level;
        }
        let remaining = self.limit().units().saturating_sub(self.admitted(now));
        Level { remaining, reset_after: Micros::ZERO }
    }

    pub(super) fn give_back(&mut self, lease: LeaseId, units: u64) {
        self.take_back(units);
        if let Some(holding) = self.holding() {
            holding.give_back(lease, units);
        }
    }
}
