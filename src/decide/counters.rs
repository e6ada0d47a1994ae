//! Counters by name, without a token or a rule: what `QuotaService` asks for.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ports::{Answer, Away, Charge, Charges, Payment, Refunds, Settlement, Settlements};
use super::{Decider, Undecidable, Violation, unknown_limit};
use crate::domain::decision::{Held, HeldCounter};
use crate::domain::limit::{CounterKey, Limit};
use crate::domain::policy::Policy;
use crate::domain::question::Mode;
use crate::domain::time::Micros;
use crate::domain::window::LeaseId;

/// What is asked of one counter.
#[derive(Clone, Copy, Debug)]
pub struct CounterCharge<'a> {
    /// The limit's name.
    pub limit: &'a str,
    /// The attributes that select the counter.
    pub key: &'a BTreeMap<String, String>,
    /// Units, at most [`UNITS_MAX`](crate::domain::limit::UNITS_MAX); 0, which reads, only where nothing is consumed.
    pub units: u64,
}

/// What became of several charges, and what is held because of them.
#[derive(Clone, Debug)]
pub struct Paid {
    /// What became of each.
    pub payment: Payment,
    /// None where nothing is held: nothing is to be settled.
    pub held: Option<Held>,
}

/// What a payment holds, if it holds anything: that is known once it has a name.
pub(super) struct Holding {
    counters: Vec<HeldCounter>,
    expires_after: Micros,
}

impl Holding {
    /// The slots among `charges`: each is held for its limit's own time. Other units are spent at once.
    pub(super) fn of_slots(charges: &Charges) -> Self {
        let held = |charge: &Charge| charge.limit.hold().map(|hold| (held_counter(charge), hold));
        let slots = charges.iter().filter_map(held);
        let (counters, holds): (_, Vec<_>) = slots.unzip();
        Self { counters, expires_after: holds.into_iter().min().unwrap_or_default() }
    }

    /// All `charges`, held for `hold` where they are no slots.
    fn of_all(charges: &Charges, hold: Micros) -> Self {
        let holds = charges.iter().map(|charge| charge.limit.hold().unwrap_or(hold));
        let expires_after = holds.min().unwrap_or_default();
        Self { counters: charges.iter().map(held_counter).collect(), expires_after }
    }

    /// What is held under `lease`; nothing where the payment has no such name.
    pub(super) fn under(self, lease: Option<LeaseId>) -> Option<Held> {
        let Self { counters, expires_after } = self;
        lease.map(|lease| Held { lease, counters, expires_after })
    }
}

impl Decider {
    /// Pays (or peeks at) several counters, all or none.
    pub fn consume<'a>(&'a self, charges: &[CounterCharge<'_>], mode: Mode) -> Answer<'a, Result<Paid, Undecidable>> {
        let now = self.clock.now();
        let charges = match self.named_charges(charges) {
            Ok(charges) => charges,
            Err(undecidable) => return Answer::Now(Err(undecidable)),
        };
        let slots = Holding::of_slots(&charges);
        let payment = match mode {
            Mode::Consume => self.quotas.pay(charges, now),
            Mode::Peek => self.quotas.peek(charges, now),
        };
        payment.then(move |payment| Answer::Now(Ok(Paid { held: slots.under(payment.held), payment })))
    }

    /// Takes an estimate of several counters, all or none, for at most `hold`.
    pub fn reserve<'a>(&'a self, charges: &[CounterCharge<'_>], hold: Micros) -> Answer<'a, Result<Paid, Undecidable>> {
        let now = self.clock.now();
        let charges = match self.named_charges(charges) {
            Ok(charges) => charges,
            Err(undecidable) => return Answer::Now(Err(undecidable)),
        };
        let all = Holding::of_all(&charges, hold);
        self.quotas
            .reserve(charges, hold, now)
            .then(move |payment| Answer::Now(Ok(Paid { held: all.under(payment.held), payment })))
    }

    /// Ends what is held under `lease`: of each counter so many units were used. Answers with the names of limits that
    /// are no longer there, or count by something else or another algorithm now; the others are settled.
    pub fn settle(&self, lease: LeaseId, used: Vec<(HeldCounter, u64)>) -> Answer<'_, Result<Vec<String>, Away>> {
        let now = self.clock.now();
        let policy = self.policy();
        let (mut settlements, mut gone) = (Settlements::new(), Vec::new());
        for (HeldCounter { key, kind }, used) in used {
            let counts_on = |limit: &&Arc<Limit>| limit.owns(&key) && limit.algorithm.kind() == kind;
            match policy.limit(key.limit()).filter(counts_on) {
                Some(limit) => settlements.push(Settlement { limit: Arc::clone(limit), key, lease, used }),
                None => gone.push(key.limit().to_owned()),
            }
        }
        if settlements.is_empty() {
            return Answer::Now(Ok(gone));
        }
        self.quotas.settle(settlements, now).then(|settled| Answer::Now(settled.map(|()| gone)))
    }

    /// Gives back units that were charged; answers how many of each charge.
    pub fn refund<'a>(
        &'a self,
        charges: &[CounterCharge<'_>],
    ) -> Answer<'a, Result<Result<Refunds, Away>, Undecidable>> {
        let now = self.clock.now();
        match self.named_charges(charges) {
            Ok(charges) => self.quotas.refund(charges, now).then(|refunds| Answer::Now(Ok(refunds))),
            Err(undecidable) => Answer::Now(Err(undecidable)),
        }
    }

    /// Forgets what was charged to a counter.
    pub fn reset<'a>(
        &'a self,
        limit: &str,
        key: &BTreeMap<String, String>,
    ) -> Answer<'a, Result<Result<(), Away>, Undecidable>> {
        match counter(&self.policy(), "counter", limit, key) {
            Ok((limit, key)) => self.quotas.reset(limit, key).then(|outcome| Answer::Now(Ok(outcome))),
            Err(violation) => Answer::Now(Err(Undecidable { violations: vec![violation] })),
        }
    }

    /// The charges, each of its own counter.
    fn named_charges(&self, charges: &[CounterCharge<'_>]) -> Result<Charges, Undecidable> {
        let policy = self.policy();
        let mut named = Charges::new();
        let mut violations = Vec::new();
        for (index, charge) in charges.iter().enumerate() {
            let prefix = format!("charges[{index}].counter");
            match counter(&policy, &prefix, charge.limit, charge.key) {
                Ok((_, key)) if named.iter().any(|named| named.key == key) => violations.push(Violation {
                    field: prefix,
                    description: "is the counter of an earlier charge; add its units up".to_owned(),
                }),
                Ok((limit, key)) => named.push(Charge { limit, key, units: charge.units }),
                Err(violation) => violations.push(violation),
            }
        }
        if violations.is_empty() { Ok(named) } else { Err(Undecidable { violations }) }
    }
}

fn held_counter(charge: &Charge) -> HeldCounter {
    HeldCounter { key: charge.key.clone(), kind: charge.limit.algorithm.kind() }
}

/// The counter of a named limit.
fn counter(
    policy: &Policy,
    prefix: &str,
    name: &str,
    key: &BTreeMap<String, String>,
) -> Result<(Arc<Limit>, CounterKey), Violation> {
    let limit = policy.limit(name).ok_or_else(|| unknown_limit(format!("{prefix}.limit"), name))?;
    let key = limit.counter(key).map_err(|description| Violation { field: format!("{prefix}.key"), description })?;
    Ok((Arc::clone(limit), key))
}
