//! The one path: every façade's question comes in here, and every decision leaves here.
//!
//! Match the rule, guard it, authenticate, authorize, pay the quotas, conclude. The steps stop at the first refusal, and quotas
//! come last, so that a refused call costs its caller nothing; but for limits that say otherwise ([`early`]). Each step answers at once or later ([`Answer`]); when
//! the verdict is remembered and the store answers from memory, the whole path runs without waiting, on the caller's
//! stack.

mod audit;
mod counters;
mod early;
mod fields;
mod hashes;
mod hearing;
mod introspection;
mod pace;
pub mod ports;
mod ratelimit;
mod revoking;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

pub use self::audit::Way;
use self::counters::Holding;
pub use self::counters::{CounterCharge, Paid};
use self::early::Prepaid;
use self::fields::{field_of, lacking, unknown_limit, unmatchable};
pub use self::hearing::Hearing;
pub use self::introspection::{Asker, INTROSPECT_SCOPE, Unpermitted};
use self::pace::Pace;
use self::ports::{
    Answer, Charge, Charges, Clock, Inspected, Payment, Proved, Quotas, RevocationLog, RevocationView, Shown, Standing,
    TokenHashes, TokenInspector, Verdict,
};
pub use self::ratelimit::{Asked as HitsAsked, Descriptor, DescriptorStatus, RateLimitQuestion, RateLimited};
pub use self::revoking::{Asked, Filter, NotRevoked, NotTakenBack, REVOKE_SCOPE, Revoker, TakenBack, Wanted};
use crate::domain::decision::{Decision, Explanation, Held, Provenance, QuotaStates, Reason};
use crate::domain::demand;
use crate::domain::guard::Unmet;
use crate::domain::identity::{Binding, Identity};
use crate::domain::limit::Limit;
use crate::domain::policy::{Demand, Met, Operators, Policy, Rule, Unkeyed};
use crate::domain::question::{Certificate, Credential, Mode, Question};
use crate::domain::time::{Micros, Moment};
use crate::telemetry::{Call, DecisionMeter, Facade, Telemetry};

/// Makes decisions.
pub struct Decider {
    clock: Arc<dyn Clock>,
    tokens: Arc<dyn TokenInspector>,
    revocations: Arc<dyn RevocationView>,
    log: Arc<dyn RevocationLog>,
    quotas: Arc<dyn Quotas>,
    telemetry: Arc<Telemetry>,
    plan: ArcSwap<Plan>,
    /// Held while the configuration is replaced, by one at a time.
    replacing: Mutex<()>,
    pace: Pace,
}

/// What is swapped whole when the configuration is read again.
struct Plan {
    policy: Arc<Policy>,
    meter: DecisionMeter,
    /// Set before any other part of the configuration is replaced: a verdict that was made later may be of the next one.
    is_ending: AtomicBool,
}

/// A plan that is being replaced. Where that comes to nothing, it stays in force.
struct Ending<'p>(&'p Plan);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.is_ending.store(false, Ordering::Release);
    }
}

/// A question that cannot be decided, because it is not well formed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undecidable {
    /// Everything that is wrong with it.
    pub violations: Vec<Violation>,
}

/// A field that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its path in the native API's message.
    pub field: String,
    /// What is wrong with it, and what would be right.
    pub description: String,
}

/// A decision, unless the question is not well formed.
pub type Decided = Result<Decision, Undecidable>;

/// One question on its way, with what has been found out so far.
struct Journey<'a> {
    question: &'a Question<'a>,
    now: Moment,
    plan: Arc<Plan>,
    call: Call<'a>,
    rule: usize,
    extra: Vec<Arc<Limit>>,
    prepaid: Option<Box<Prepaid>>,
    held: Option<Box<Held>>,
    dpop_nonce: Option<Box<str>>,
    explanation: Explanation,
}

impl Decider {
    /// Puts the parts together. The policy is empty, so everything is denied, until one is [adopted](Self::adopt).
    pub fn new(
        clock: Arc<dyn Clock>,
        tokens: Arc<dyn TokenInspector>,
        revocations: Arc<dyn RevocationView>,
        log: Arc<dyn RevocationLog>,
        quotas: Arc<dyn Quotas>,
        telemetry: Arc<Telemetry>,
    ) -> Self {
        let plan = ArcSwap::from_pointee(Plan::new(Policy::default(), &telemetry));
        let (replacing, pace) = (Mutex::default(), Pace::default());
        Self { clock, tokens, revocations, log, quotas, telemetry, plan, replacing, pace }
    }

    /// Decides by this policy from now on. Questions whose caller is known are decided by the one that they began with.
    pub fn adopt(&self, policy: Policy) {
        self.adopt_with(policy, || {});
    }

    /// The same, and `rest` replaces whatever else says who a caller is. No question meets rules of one configuration with a
    /// verdict of the other: it would let pass what neither does, such as an issuer that is new under rules that know it not.
    pub fn adopt_with(&self, policy: Policy, rest: impl FnOnce()) {
        let next = Arc::new(Plan::new(policy, &self.telemetry));
        let _one_at_a_time = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.plan.load();
        old.is_ending.store(true, Ordering::Release);
        let ending = Ending(&old);
        rest();
        self.plan.store(next);
        // It has ended.
        std::mem::forget(ending);
    }

    /// The time by which it decides.
    pub fn now(&self) -> Moment {
        self.clock.now()
    }

    /// The policy in force.
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.plan.load().policy)
    }

    /// May this call go on?
    pub fn decide<'a>(&'a self, question: &'a Question<'a>, facade: Facade) -> Answer<'a, Decided> {
        let now = self.clock.now();
        self.begin(question, None, now, self.telemetry.call(facade, now.steady), None)
    }

    /// The same, of one of several questions that are asked together: what their tokens are found by is in `hashes`.
    pub fn decide_among<'a>(
        &'a self,
        question: &'a Question<'a>,
        hashes: &mut TokenHashes<'a>,
        facade: Facade,
    ) -> Answer<'a, Decided> {
        let now = self.clock.now();
        self.begin(question, Some(hashes), now, self.telemetry.call(facade, now.steady), None)
    }

    fn begin<'a>(
        &'a self,
        question: &'a Question<'a>,
        hashes: Option<&mut TokenHashes<'a>>,
        now: Moment,
        call: Call<'a>,
        prepaid: Option<Box<Prepaid>>,
    ) -> Answer<'a, Decided> {
        let plan = self.plan.load_full();
        let extra = match named_limits(&plan.policy, question) {
            Ok(extra) => extra,
            Err(undecidable) => {
                call.malformed();
                return Answer::Now(Err(undecidable));
            }
        };
        let (rule, is_preflight) = match plan.policy.find(question) {
            Ok(Met::Rule(rule)) => (rule, false),
            Ok(Met::Preflight(rule)) => (rule, true),
            Ok(Met::Nothing) => {
                let decision = Decision {
                    reason: Reason::NoRule,
                    rule: None,
                    identity: None,
                    quotas: QuotaStates::new(),
                    required_scopes: Vec::new(),
                    held: None,
                    dpop_nonce: None,
                    explanation: question.explain.then(Box::default),
                    policy: Arc::clone(&plan.policy),
                };
                plan.meter.conclude(call, &decision, self.clock.steady());
                return Answer::Now(Ok(decision));
            }
            Err(why) => {
                call.malformed();
                return Answer::Now(Err(unmatchable(why)));
            }
        };
        let explanation = Explanation::default();
        let (held, dpop_nonce) = (None, None);
        let journey = Journey { question, now, plan, call, rule, extra, prepaid, held, dpop_nonce, explanation };
        match journey.rule().guard.as_ref().map_or(Ok(()), |guard| guard.check(question)) {
            Ok(()) if is_preflight => {
                Answer::Now(Ok(self.conclude(journey, Reason::Allowed, None, QuotaStates::new())))
            }
            Ok(()) if journey.rule().early.is_some() => self.prepay(journey),
            Ok(()) => self.authenticate(journey, hashes),
            Err(Unmet::Denied(reason)) => Answer::Now(Ok(self.conclude(journey, reason, None, QuotaStates::new()))),
            Err(Unmet::Unclear(lack)) => {
                let undecidable = lacking(lack, &journey.rule().name);
                journey.call.malformed();
                Answer::Now(Err(undecidable))
            }
        }
    }

    /// Counts a question that a façade could not even read.
    pub fn turned_away(&self, facade: Facade) {
        self.telemetry.call(facade, Micros::ZERO).malformed();
    }

    fn authenticate<'a>(
        &'a self,
        mut journey: Journey<'a>,
        hashes: Option<&mut TokenHashes<'a>>,
    ) -> Answer<'a, Decided> {
        let now = journey.now;
        let shown = match shown(journey.question) {
            Ok(shown) => shown,
            Err(reason) => return self.authorize(journey, Err(reason)),
        };
        let inspected = match hashes {
            Some(hashes) => self.tokens.inspect_among(shown, hashes, now),
            None => self.tokens.inspect(shown, now),
        };
        inspected.then(move |Inspected { verdict, remembered }| {
            if journey.plan.is_ending.load(Ordering::Acquire) {
                return self.begin_again(journey);
            }
            journey.explanation.token = Some(provenance(!remembered));
            match verdict {
                Ok(identity) => self.ask_for_proof(journey, identity),
                Err(reason) => self.authorize(journey, Err(reason)),
            }
        })
    }

    /// The verdict may be of the next configuration. Nothing was paid or used up yet, but what comes before all verdicts.
    fn begin_again<'a>(&'a self, journey: Journey<'a>) -> Answer<'a, Decided> {
        // Whoever replaces the configuration has prepared everything and waits for nobody, so this is over at once.
        drop(self.replacing.lock().unwrap_or_else(PoisonError::into_inner));
        self.begin(journey.question, None, journey.now, journey.call, journey.prepaid)
    }

    /// A proof is for one call, so it is asked for even where the verdict is remembered.
    fn ask_for_proof<'a>(&'a self, mut journey: Journey<'a>, identity: Arc<Identity>) -> Answer<'a, Decided> {
        self.tokens.prove(&identity, journey.question, journey.now).then(move |Proved { outcome, next_nonce }| {
            journey.dpop_nonce = next_nonce;
            match outcome {
                Ok(()) => self.ask_revocations(journey, identity),
                Err(reason) => self.authorize(journey, Err(reason)),
            }
        })
    }

    /// Asked for remembered verdicts and new ones alike, after them: a verdict never says "not revoked".
    fn ask_revocations<'a>(&'a self, journey: Journey<'a>, identity: Arc<Identity>) -> Answer<'a, Decided> {
        self.standing(identity, journey.now).then(move |verdict| self.authorize(journey, verdict))
    }

    /// What was taken back here, and then what the token's own list says.
    fn standing(&self, identity: Arc<Identity>, now: Moment) -> Answer<'_, Verdict> {
        self.revocations.standing(&identity, now).then(move |standing| match standing {
            Standing::Good if identity.status.is_some() => {
                self.tokens.status(&identity, now).then(move |standing| Answer::Now(stands(identity, standing)))
            }
            standing => Answer::Now(stands(identity, standing)),
        })
    }

    fn authorize<'a>(&'a self, journey: Journey<'a>, verdict: Verdict) -> Answer<'a, Decided> {
        match verdict {
            Ok(identity) => self.admit(journey, Some(identity), None),
            Err(reason) if journey.rule().early.is_some() => self.fail(journey, reason),
            Err(reason) => self.admit(journey, None, Some(reason)),
        }
    }

    /// Holds what is known of the caller against what is demanded; `refused` is why nobody is known where that has a reason.
    fn admit<'a>(
        &'a self,
        journey: Journey<'a>,
        identity: Option<Arc<Identity>>,
        refused: Option<Reason>,
    ) -> Answer<'a, Decided> {
        let rule = journey.rule();
        let is_strict = || rule.guard.as_ref().is_some_and(|guard| guard.refuses_bad_credentials);
        let refused = match (&rule.demand, refused) {
            (Demand::Anyone, Some(reason)) if reason != Reason::NoCredential && is_strict() => Some(reason),
            // Whoever anyone is: a credential that is not accepted counts as none, and says nothing about anybody.
            (Demand::Anyone, _) if journey.question.scopes.is_empty() => None,
            (_, Some(reason)) => Some(reason),
            (demand, None) => {
                let pattern = rule.matches.path.as_ref();
                let call = demand::Call { question: journey.question, pattern, now: journey.now.wall };
                let admitted = demand.admits(identity.as_deref(), call);
                let asked = |()| journey.question.admits(identity.as_deref());
                admitted.and_then(asked).err()
            }
        };
        match refused {
            Some(reason) => Answer::Now(Ok(self.conclude(journey, reason, identity, QuotaStates::new()))),
            None => self.charge(journey, identity),
        }
    }

    fn charge<'a>(&'a self, mut journey: Journey<'a>, identity: Option<Arc<Identity>>) -> Answer<'a, Decided> {
        let mut charges = Charges::new();
        if let Err(why) = journey.charge_to(&mut charges, identity.as_deref()) {
            return self.uncharged(journey, identity, why);
        }
        if charges.is_empty() {
            return Answer::Now(Ok(self.conclude(journey, Reason::Allowed, identity, QuotaStates::new())));
        }
        let now = journey.now;
        let slots = Holding::of_slots(&charges);
        let payment = match journey.question.mode {
            Mode::Consume => self.quotas.pay(charges, now),
            Mode::Peek => self.quotas.peek(charges, now),
        };
        payment.then(move |payment| {
            journey.explanation.quotas = Some(seen(&payment));
            let Payment { reason, states, held, asked: _, away: _ } = payment;
            journey.held = slots.under(held).map(Box::new);
            Answer::Now(Ok(self.conclude(journey, reason, identity, states)))
        })
    }

    /// Ends a journey whose costs cannot be said.
    fn uncharged<'a>(
        &'a self,
        journey: Journey<'a>,
        identity: Option<Arc<Identity>>,
        why: Unchargeable,
    ) -> Answer<'a, Decided> {
        match why {
            Unchargeable::Denied(reason) => {
                Answer::Now(Ok(self.conclude(journey, reason, identity, QuotaStates::new())))
            }
            Unchargeable::Undecidable(undecidable) => {
                journey.call.malformed();
                Answer::Now(Err(undecidable))
            }
        }
    }

    fn conclude(
        &self,
        journey: Journey<'_>,
        reason: Reason,
        identity: Option<Arc<Identity>>,
        quotas: QuotaStates,
    ) -> Decision {
        let required_scopes = if reason == Reason::InsufficientScope { journey.required_scopes() } else { Vec::new() };
        let Journey { question, plan, call, rule, prepaid, held, dpop_nonce, explanation, .. } = journey;
        let mut decision = Decision {
            reason,
            rule: Some(rule),
            identity,
            quotas,
            required_scopes,
            held,
            dpop_nonce,
            explanation: question.explain.then(|| Box::new(explanation)),
            policy: Arc::clone(&plan.policy),
        };
        if let Some(prepaid) = prepaid {
            prepaid.precede(&mut decision);
        }
        plan.meter.conclude(call, &decision, self.clock.steady());
        decision
    }

    /// Whether the caller of an administrative method has `scope`: by a token, from an issuer that may grant it, or an API
    /// key; without either by the certificate of its connection, where the configuration names it.
    pub fn permit_operator<'a>(
        &'a self,
        credential: Credential<'a>,
        certificate: Option<&'a Certificate<'a>>,
        scope: &'a str,
    ) -> Answer<'a, Verdict> {
        let shown = match (credential, certificate) {
            (Credential::None, Some(certificate)) => return self.permit_certificate(certificate, scope),
            (Credential::None, None) => return Answer::Now(Err(Reason::NoCredential)),
            (Credential::Bearer(token), _) => Shown::Token(token),
            (Credential::ApiKey(key), _) => Shown::ApiKey(key),
            (Credential::Dpop(_) | Credential::Unreadable, _) => {
                return Answer::Now(Err(Reason::MalformedToken));
            }
        };
        self.stands_now(shown).then(move |verdict| {
            Answer::Now(verdict.and_then(|identity| {
                let Binding { certificate: bound, key } = identity.binding();
                let holds = |bound| certificate.is_some_and(|certificate| certificate.thumbprint == bound);
                if key.is_some() || !bound.is_none_or(holds) {
                    return Err(Reason::BindingRequired);
                }
                let may = identity.may_operate && identity.has_scope(scope);
                if may { Ok(identity) } else { Err(Reason::InsufficientScope) }
            }))
        })
    }
}

impl Decider {
    fn permit_certificate<'a>(&'a self, certificate: &Certificate<'_>, scope: &str) -> Answer<'a, Verdict> {
        let now = self.clock.now();
        let policy = self.policy();
        let Operators { names, scopes } = &policy.operators;
        let identity = match certificate.identify(names, now.wall) {
            Ok(identity) if scopes.iter().any(|granted| granted == scope) => Arc::new(identity),
            Ok(_) => return Answer::Now(Err(Reason::InsufficientScope)),
            Err(reason) => return Answer::Now(Err(reason)),
        };
        self.revocations.standing(&identity, now).then(move |standing| Answer::Now(stands(identity, standing)))
    }
}

impl Plan {
    fn new(policy: Policy, telemetry: &Telemetry) -> Self {
        Self { meter: telemetry.meter(&policy), policy: Arc::new(policy), is_ending: AtomicBool::new(false) }
    }
}

/// Why a question that may pass cannot be charged.
enum Unchargeable {
    Denied(Reason),
    Undecidable(Undecidable),
}

impl Journey<'_> {
    fn rule(&self) -> &Rule {
        &self.plan.policy.rules[self.rule]
    }

    /// The scopes that the rule demands, then those that the asker does.
    fn required_scopes(&self) -> Vec<String> {
        let of_rule = match &self.rule().demand {
            Demand::Anyone => &[][..],
            Demand::Caller(caller) => &caller.scopes,
        };
        let mut scopes = of_rule.to_vec();
        for asked in &self.question.scopes {
            if !scopes.iter().any(|scope| scope == asked) {
                scopes.push((*asked).to_owned());
            }
        }
        scopes
    }

    /// Adds what an allowed call consumes: the rule's limits, then the caller's own, then the extra ones. Charges are not
    /// returned because they are large, and would be moved twice.
    fn charge_to(&self, charges: &mut Charges, identity: Option<&Identity>) -> Result<(), Unchargeable> {
        let rule = self.rule();
        let question = self.question;
        let own = identity.map_or_else(Default::default, |identity| &*identity.limits);
        // One that the rule names, too, or that is there twice, is charged once.
        let is_new = |at: usize, name: &str| {
            !own[..at].iter().any(|one| **one == *name) && !rule.limits.iter().any(|limit| limit.name == name)
        };
        let own = own.iter().enumerate().filter(|(at, name)| is_new(*at, name)).map(|(_, name)| name);
        let own = own.map(|name| match self.plan.policy.limit(name) {
            Some(limit) if !limit.charge.is_early() => Ok((limit, question.units)),
            // Its credential was read under another configuration, a moment ago; read again, it will say this itself.
            Some(_) | None => Err(Unchargeable::Denied(Reason::UnknownApiKey)),
        });
        let of_rule = rule.limits.iter().map(|limit| Ok((limit, question.units)));
        let extra = self.extra.iter().zip(&question.extra).map(|(limit, extra)| Ok((limit, extra.units)));
        for named in of_rule.chain(own).chain(extra) {
            let (limit, units) = named?;
            self.charge_one(charges, limit, units, identity)?;
        }
        Ok(())
    }

    /// Adds `units` of the counter of `limit` that the call falls on.
    #[inline]
    fn charge_one(
        &self,
        charges: &mut Charges,
        limit: &Arc<Limit>,
        units: u64,
        identity: Option<&Identity>,
    ) -> Result<(), Unchargeable> {
        let key = self.rule().counter(limit, self.question, identity, &self.plan.policy.paths);
        let key = key.map_err(|unkeyed| match unkeyed {
            // A shared counter for all tokens without the claim would let them lock each other out.
            Unkeyed::Claim(_) => Unchargeable::Denied(match identity {
                Some(_) => Reason::MissingClaim,
                None => Reason::NoCredential,
            }),
            Unkeyed::Attribute(attribute) => Unchargeable::Undecidable(Undecidable {
                violations: vec![Violation {
                    field: field_of(attribute),
                    description: format!("is needed: the limit `{}` counts by {attribute}", limit.name),
                }],
            }),
        })?;
        match charges.iter_mut().find(|charge| charge.key == key) {
            // The question names a limit of the rule once more: one counter, both costs.
            Some(charge) => charge.units = charge.units.saturating_add(units),
            None => charges.push(Charge { limit: Arc::clone(limit), key, units }),
        }
        Ok(())
    }
}

/// The limits that a question names itself.
fn named_limits(policy: &Policy, question: &Question<'_>) -> Result<Vec<Arc<Limit>>, Undecidable> {
    let mut limits = Vec::new();
    let mut violations = Vec::new();
    for (index, extra) in question.extra.iter().enumerate() {
        match policy.limit(extra.limit) {
            Some(limit) if limit.charge.is_early() => violations.push(Violation {
                field: format!("limits[{index}].limit"),
                description: format!(
                    "`{}` is consumed before anybody knows who calls (`charge: {}`); only rules can name it",
                    limit.name,
                    limit.charge.name()
                ),
            }),
            Some(limit) => limits.push(Arc::clone(limit)),
            None => violations.push(unknown_limit(format!("limits[{index}].limit"), extra.limit)),
        }
    }
    if violations.is_empty() { Ok(limits) } else { Err(Undecidable { violations }) }
}

/// What the question shows of its caller. A certificate counts where nothing else was shown.
fn shown<'a>(question: &'a Question<'a>) -> Result<Shown<'a>, Reason> {
    match (question.credential, &question.proofs.certificate) {
        (Credential::Bearer(token) | Credential::Dpop(token), _) => Ok(Shown::Token(token)),
        (Credential::ApiKey(key), _) => Ok(Shown::ApiKey(key)),
        (Credential::Unreadable, _) => Err(Reason::MalformedToken),
        (Credential::None, Some(certificate)) => Ok(Shown::Certificate(certificate)),
        (Credential::None, None) => Err(Reason::NoCredential),
    }
}

/// Where the states of a payment came from.
const fn seen(payment: &Payment) -> Provenance {
    if payment.away { Provenance::Away } else { provenance(payment.asked) }
}

const fn provenance(asked: bool) -> Provenance {
    if asked { Provenance::Asked } else { Provenance::Memory }
}

fn stands(identity: Arc<Identity>, standing: Standing) -> Verdict {
    match standing {
        Standing::Good => Ok(identity),
        Standing::Revoked => Err(Reason::Revoked),
        Standing::Unknown => Err(Reason::RevocationsAway),
    }
}
