//! Limits that are consumed before anybody knows who calls: by every call, or by those whose credential is not accepted.
//!
//! They bound what guessing costs and brings. So they come before the credential is looked at: where one is used up, no
//! signature is checked and no issuer is asked. Only rules that name such limits come here.

use std::mem;

use super::ports::{Answer, Charges, Payment};
use super::{Decided, Decider, Journey, Unchargeable, seen, shown};
use crate::domain::decision::{Decision, Provenance, QuotaStates, Reason};
use crate::domain::question::Mode;

/// What became of early limits, until the decision tells it.
#[derive(Default)]
pub(super) struct Prepaid {
    states: QuotaStates,
    seen: Option<Provenance>,
}

impl Prepaid {
    /// Puts it before what the decision has to say of later limits.
    pub(super) fn precede(self, decision: &mut Decision) {
        let later = mem::replace(&mut decision.quotas, self.states);
        decision.quotas.extend(later);
        if let Some(explanation) = &mut decision.explanation {
            explanation.quotas = explanation.quotas.max(self.seen);
        }
    }
}

impl Decider {
    /// Pays what every call costs before its credential is looked at.
    pub(super) fn prepay<'a>(&'a self, mut journey: Journey<'a>) -> Answer<'a, Decided> {
        let (mut before, mut on_failure) = (Charges::new(), Charges::new());
        // Both, so that a question which lacks something is told so whatever its credential is.
        let charged = journey.charge_before(&mut before).and_then(|()| journey.charge_failure(&mut on_failure));
        if let Err(why) = charged {
            return self.uncharged(journey, None, why);
        }
        // A call that is begun again, because the configuration is another since a moment ago, has paid.
        if before.is_empty() || journey.prepaid.is_some() {
            return self.admit_stranger(journey, on_failure);
        }
        self.pay_or_peek(before, &journey).then(move |payment| {
            let reason = payment.reason;
            journey.note(payment);
            if reason.allows() {
                self.admit_stranger(journey, on_failure)
            } else {
                Answer::Now(Ok(self.conclude(journey, reason, None, QuotaStates::new())))
            }
        })
    }

    /// Goes on to the credential, unless too many were not accepted. One that is remembered as good is no guess, and costs
    /// nothing to accept: whoever guesses locks nobody out who shares the address with him and is known.
    fn admit_stranger<'a>(&'a self, mut journey: Journey<'a>, on_failure: Charges) -> Answer<'a, Decided> {
        let may_fail = || match shown(journey.question) {
            Ok(shown) => !self.tokens.knows(shown, journey.now),
            Err(reason) => reason.is_failed_authentication(),
        };
        if on_failure.is_empty() || !may_fail() {
            return self.authenticate(journey, None);
        }
        self.quotas.peek(on_failure, journey.now).then(move |payment| {
            let reason = payment.reason;
            if reason.allows() {
                return self.authenticate(journey, None);
            }
            journey.note(payment);
            Answer::Now(Ok(self.conclude(journey, reason, None, QuotaStates::new())))
        })
    }

    /// Goes on without an identity, `reason` being why there is none; a credential that is not accepted is paid for.
    pub(super) fn fail<'a>(&'a self, mut journey: Journey<'a>, reason: Reason) -> Answer<'a, Decided> {
        let mut on_failure = Charges::new();
        if let Err(why) = journey.charge_failure(&mut on_failure) {
            return self.uncharged(journey, None, why);
        }
        if on_failure.is_empty() || !reason.is_failed_authentication() {
            return self.admit(journey, None, Some(reason));
        }
        // The credential was judged, so its reason stands even where others have used the limit up meanwhile.
        self.pay_or_peek(on_failure, &journey).then(move |payment| {
            journey.note(payment);
            self.admit(journey, None, Some(reason))
        })
    }

    fn pay_or_peek<'a>(&'a self, charges: Charges, journey: &Journey<'a>) -> Answer<'a, Payment> {
        match journey.question.mode {
            Mode::Consume => self.quotas.pay(charges, journey.now),
            Mode::Peek => self.quotas.peek(charges, journey.now),
        }
    }
}

impl Journey<'_> {
    /// Adds what every call costs before its credential is looked at.
    fn charge_before(&self, charges: &mut Charges) -> Result<(), Unchargeable> {
        let mut limits = self.rule().early.iter().flat_map(|early| &early.before_auth);
        limits.try_for_each(|limit| self.charge_one(charges, limit, self.question.units, None))
    }

    /// Adds what a credential costs that is not accepted: a guess is a guess, whatever the call would cost.
    fn charge_failure(&self, charges: &mut Charges) -> Result<(), Unchargeable> {
        let mut limits = self.rule().early.iter().flat_map(|early| &early.on_failure);
        limits.try_for_each(|limit| self.charge_one(charges, limit, 1, None))
    }

    fn note(&mut self, payment: Payment) {
        let prepaid = self.prepaid.get_or_insert_default();
        prepaid.seen = prepaid.seen.max(Some(seen(&payment)));
        prepaid.states.extend(payment.states);
    }
}
