//! Pays what decisions cost, between the one path and a store.
//!
//! Every charge is a request that is spent at once; the port to the store speaks of leases all the same. What a limit
//! wants when the store is away is done here.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::decide::ports::{Answer, Away, Charge, Charges, Grants, Payment, QuotaStore, Quotas, Request, Requests};
use crate::domain::decision::{QuotaState, QuotaStates, QuotaVerdict, Reason};
use crate::domain::limit::{CounterKey, Limit, WhenAway};
use crate::domain::question::Mode;
use crate::domain::time::{Micros, Moment};
use crate::domain::window::{Grant, LeaseId, Outcome, Terms};

/// Where charges are paid.
pub struct QuotaDesk {
    store: Arc<dyn QuotaStore>,
}

impl QuotaDesk {
    /// A desk that keeps its counters in `store`, which has deadlines of its own.
    pub fn new(store: Arc<dyn QuotaStore>) -> Self {
        Self { store }
    }

    fn ask(&self, charges: Charges, mode: Mode, now: Moment) -> Answer<'_, Payment> {
        let (bill, requests) = Bill::new(charges);
        if requests.is_empty() {
            return Answer::Now(bill.settled_by(Ok(Grants::new()), false));
        }
        // One that can never be paid spoils the payment; the others are then only looked at.
        let mode = if bill.is_payable() { mode } else { Mode::Peek };
        match self.store.acquire(requests, mode, now) {
            Answer::Now(answer) => Answer::Now(bill.settled_by(answer, false)),
            Answer::Later(future) => Answer::later(async move { bill.settled_by(future.await, true) }),
        }
    }
}

impl Quotas for QuotaDesk {
    fn pay(&self, charges: Charges, now: Moment) -> Answer<'_, Payment> {
        self.ask(charges, Mode::Consume, now)
    }

    fn peek(&self, charges: Charges, now: Moment) -> Answer<'_, Payment> {
        self.ask(charges, Mode::Peek, now)
    }

    fn reset(&self, limit: Arc<Limit>, key: CounterKey) -> Answer<'_, Result<(), Away>> {
        self.store.reset(limit, key)
    }
}

/// The charges of one decision, and where each is answered.
struct Bill {
    charges: SmallVec<[(Arc<Limit>, Place); 4]>,
    /// How many grants the store owes.
    requests: usize,
}

/// Where the answer to a charge is found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the store's grant with this index.
    Grant(usize),
    /// It costs more than the limit ever holds; the store is not asked.
    Never,
}

impl Bill {
    /// Splits charges into what is asked of the store and what is remembered to understand its answer. Charges to the
    /// same counter become one request: each alone might fit where both do not.
    fn new(charges: Charges) -> (Self, Requests) {
        let totals: SmallVec<[u64; 4]> = charges.iter().map(|charge| total(&charges, &charge.key)).collect();
        let mut requests = Requests::new();
        let mut places = SmallVec::new();
        for (Charge { limit, key, units: _ }, units) in charges.into_iter().zip(totals) {
            let place = if units > limit.units {
                Place::Never
            } else {
                Place::Grant(requests.iter().position(|request| request.key == key).unwrap_or(requests.len()))
            };
            places.push((Arc::clone(&limit), place));
            if place == Place::Grant(requests.len()) {
                requests.push(Request { limit, key, terms: at_once(units) });
            }
        }
        (Self { charges: places, requests: requests.len() }, requests)
    }

    fn is_payable(&self) -> bool {
        self.charges.iter().all(|(_, place)| *place != Place::Never)
    }

    fn settled_by(self, answer: Result<Grants, Away>, asked: bool) -> Payment {
        match answer {
            Ok(grants) if grants.len() == self.requests => self.answered(&grants, asked),
            // A store that answers something else than it was asked is no reason to let anyone go on.
            Ok(_) | Err(Away { .. }) => self.unanswered(asked),
        }
    }

    fn answered(self, grants: &Grants, asked: bool) -> Payment {
        let states = self.charges.into_iter().map(|(limit, place)| match place {
            Place::Grant(index) => granted(limit, grants[index]),
            Place::Never => unknown(limit, QuotaVerdict::Never),
        });
        let states: QuotaStates = states.collect();
        let all_granted = states.iter().all(|state| state.verdict.is_granted());
        Payment { reason: if all_granted { Reason::Allowed } else { Reason::QuotaExceeded }, states, asked }
    }

    /// What each limit wants when the store is away. What can never be paid is refused all the same.
    fn unanswered(self, asked: bool) -> Payment {
        let denied = self.charges.iter().any(|(limit, _)| limit.when_away == WhenAway::Deny);
        let reason = match (self.is_payable(), denied) {
            (false, _) => Reason::QuotaExceeded,
            (true, true) => Reason::StoreAway,
            (true, false) => Reason::Allowed,
        };
        let states = self.charges.into_iter().map(|(limit, place)| match place {
            Place::Grant(_) => unknown(limit, QuotaVerdict::Away),
            Place::Never => unknown(limit, QuotaVerdict::Never),
        });
        Payment { reason, states: states.collect(), asked }
    }
}

/// What all charges to one counter come to.
fn total(charges: &Charges, key: &CounterKey) -> u64 {
    charges.iter().filter(|charge| charge.key == *key).fold(0, |sum, charge| sum.saturating_add(charge.units))
}

const fn at_once(units: u64) -> Terms {
    Terms { at_least: units, at_most: units, hold: Micros::ZERO, lease: LeaseId { replica: 0, serial: 0 } }
}

fn granted(limit: Arc<Limit>, Grant { outcome, remaining, reset_after }: Grant) -> QuotaState {
    let verdict = match outcome {
        Outcome::Granted { .. } => QuotaVerdict::Granted,
        Outcome::Short { retry_after } => QuotaVerdict::Short { retry_after },
        Outcome::Never => QuotaVerdict::Never,
    };
    QuotaState { limit, verdict, remaining, reset_after }
}

/// Nothing is known of what is left, so nothing is promised.
const fn unknown(limit: Arc<Limit>, verdict: QuotaVerdict) -> QuotaState {
    QuotaState { limit, verdict, remaining: 0, reset_after: Micros::ZERO }
}
