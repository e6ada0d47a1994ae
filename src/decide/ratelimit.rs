//! Limits by descriptors: what an Envoy's `ratelimit` filter asks.
//!
//! A strict domain pays all limits of a request at once, all or none, as a decision does. Limits that refuse nothing
//! (`shadow_mode`, `quota_mode`) are paid one by one once the others are, so that they neither spoil that nor count what was
//! refused. A compatible domain counts the hits of each fixed window by itself, whether they fit or not; limits that count
//! otherwise are paid one by one.

use std::sync::Arc;

use futures_util::future::join_all;
use smallvec::SmallVec;

use super::ports::{Answer, Charge, Charges, Hit, Hits};
use super::{Decider, Plan};
use crate::domain::decision::{QuotaState, QuotaStates, QuotaVerdict, Reason};
use crate::domain::limit::{Algorithm, CounterKey, Limit, WhenAway};
use crate::domain::question::Mode;
use crate::domain::ratelimit::{DescriptorLimit, Domain, Entry, Found, RateLimitMode, Shown};
use crate::domain::time::{Micros, Moment};
use crate::telemetry::{Call, Facade, HitOutcome};

/// What is asked of a domain's limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimitQuestion<'a> {
    /// The domain's name; where there is no such domain, nothing is limited.
    pub domain: &'a str,
    /// What it is asked by: few enough that comparing all with each other costs little.
    pub descriptors: SmallVec<[Descriptor<'a>; 4]>,
}

/// What a limit is looked for by, and what is asked of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor<'a> {
    /// Its entries, in their order.
    pub entries: SmallVec<[Entry<'a>; 4]>,
    /// The limit that the request brings along for it.
    pub limit: Option<Shown>,
    /// What is asked of its limits.
    pub hits: Asked,
}

/// What is asked of the limits of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// To count so many hits; none: to say whether there is room.
    Count(u64),
    /// To take back so many hits that were counted. That is never refused.
    TakeBack(u64),
}

/// What became of a request.
#[derive(Clone, Debug)]
pub struct RateLimited {
    /// `Allowed`, `QuotaExceeded` or `StoreAway`.
    pub reason: Reason,
    /// One for each descriptor, in their order.
    pub statuses: Vec<DescriptorStatus>,
    /// Whether clients are to be told in headers.
    pub headers: bool,
}

/// What became of one descriptor.
#[derive(Clone, Debug)]
pub struct DescriptorStatus {
    /// Whether there is no room.
    pub over: bool,
    /// The same of a limit in `quota_mode`, which refuses nothing.
    pub over_quota: bool,
    /// What limits it; none: nothing does.
    pub limit: Option<Arc<DescriptorLimit>>,
    /// Hits that are left; [`u64::MAX`] where it is unlimited by name, 0 where nothing limits it or nothing is known.
    pub remaining: u64,
    /// Time until the window ends, some hits return or, of what was refused, until it fits; none where nothing is known.
    pub reset_after: Option<Micros>,
}

/// A request on its way.
struct Request<'a> {
    domain: &'a str,
    plan: Arc<Plan>,
    call: Call<'a>,
    /// What limits each descriptor; none: nothing does, or another limit replaces it.
    found: SmallVec<[Option<Found>; 4]>,
    parts: Parts,
}

/// What is asked of one limit, of those of all descriptors in their order.
struct Part {
    descriptor: usize,
    limit: Arc<Limit>,
    key: CounterKey,
    asked: Asked,
    /// Whether it may refuse.
    refuses: bool,
}

type Parts = SmallVec<[Part; 4]>;

impl Decider {
    /// Has this request room? A request that cannot be read is none of these: see [`Decider::turned_away`].
    pub fn limit_rate<'a>(&'a self, question: &RateLimitQuestion<'a>) -> Answer<'a, RateLimited> {
        let now = self.clock.now();
        let plan = self.plan.load_full();
        let call = self.telemetry.call(Facade::RateLimit, now.steady);
        let limits = &plan.policy.rate_limits;
        let domain = question.domain;
        let Some(own) = limits.domains.get(domain) else {
            plan.meter.of_rate_limits().asked_of_no_domain();
            let (found, parts) = (question.descriptors.iter().map(|_| None).collect(), Parts::new());
            return Answer::Now(self.told(Request { domain, plan, call, found, parts }, &QuotaStates::new()));
        };
        let (mode, mut found) = (own.mode, found(own, question));
        let parts = parts(question, &mut found, limits.shadow);
        let request = Request { domain, plan, call, found, parts };
        if request.parts.is_empty() {
            return Answer::Now(self.told(request, &QuotaStates::new()));
        }
        let paid = match mode {
            RateLimitMode::Strict => charges(&request.parts).map(|charges| self.quotas.pay(charges, now)),
            RateLimitMode::Compatible => None,
        };
        if let Some(payment) = paid {
            return payment.then(move |payment| Answer::Now(self.told(request, &payment.states)));
        }
        let counted = match mode {
            RateLimitMode::Strict => None,
            RateLimitMode::Compatible => hits(&request.parts).map(|hits| self.quotas.hit(hits, now)),
        };
        if let Some(states) = counted {
            return states.then(move |states| Answer::Now(self.told(request, &states)));
        }
        Answer::later(async move {
            let states = self.apart(mode, &request.parts, now).await;
            self.told(request, &states)
        })
    }

    /// What is asked of a request whose parts are not all alike; one state for each of them.
    async fn apart(&self, mode: RateLimitMode, parts: &Parts, now: Moment) -> QuotaStates {
        let mut states: Apart = parts.iter().map(|_| None).collect();
        self.return_hits(parts, &mut states, now).await;
        match mode {
            RateLimitMode::Strict => self.pay_strictly(parts, &mut states, now).await,
            RateLimitMode::Compatible => self.count_each(parts, &mut states, now).await,
        }
        let unasked = |part: &Part| state_of(part, QuotaVerdict::Away);
        states.into_iter().zip(parts).map(|(state, part)| state.unwrap_or_else(|| unasked(part))).collect()
    }

    /// First what comes back: it is refused by nobody. What is left then is seen with the rest.
    async fn return_hits(&self, parts: &Parts, states: &mut Apart, now: Moment) {
        let (places, charges) = picked(parts, |part| match part.asked {
            Asked::TakeBack(hits) if hits > 0 => Some(hits),
            Asked::TakeBack(_) | Asked::Count(_) => None,
        });
        if !charges.is_empty() && self.quotas.refund(charges, now).get().await.is_err() {
            for place in places {
                states[place] = Some(state_of(&parts[place], QuotaVerdict::Away));
            }
        }
    }

    /// Looks first, since what is over there refuses the rest; then pays, all or none, what may refuse; then the others.
    async fn pay_strictly(&self, parts: &Parts, states: &mut Apart, now: Moment) {
        let open = |states: &Apart, place: usize| states[place].is_none();
        // Room for one hit is room.
        let looks: Vec<usize> =
            (0..parts.len()).filter(|&place| open(states, place) && parts[place].counts().is_none()).collect();
        let looked = self.each(&looks, parts, Mode::Peek, now).await;
        fill(states, &looks, looked);
        let refused = |states: &Apart| {
            let refused = |(part, state): (&Part, &Option<QuotaState>)| {
                part.refuses && state.as_ref().is_some_and(|state| part.refusal(state).is_some())
            };
            parts.iter().zip(states).any(refused)
        };
        let (places, charges) = picked(parts, |part| part.counts().filter(|_| part.refuses));
        if !charges.is_empty() {
            let payment = if refused(states) { self.quotas.peek(charges, now) } else { self.quotas.pay(charges, now) };
            fill(states, &places, payment.get().await.states);
        }
        let (places, _) = picked(parts, |part| part.counts().filter(|_| !part.refuses));
        let mode = if refused(states) { Mode::Peek } else { Mode::Consume };
        let paid = self.each(&places, parts, mode, now).await;
        fill(states, &places, paid);
    }

    /// Counts the hits of fixed windows, those without any among them, and pays each of the others by itself.
    async fn count_each(&self, parts: &Parts, states: &mut Apart, now: Moment) {
        let (mut places, mut hits, mut looks, mut pays) = (Vec::new(), Hits::new(), Vec::new(), Vec::new());
        for (place, part) in parts.iter().enumerate().filter(|(place, _)| states[*place].is_none()) {
            match (part.hit(), part.counts()) {
                (Some(hit), _) => {
                    places.push(place);
                    hits.push(hit);
                }
                (None, Some(_)) => pays.push(place),
                (None, None) => looks.push(place),
            }
        }
        if !hits.is_empty() {
            let counted = self.quotas.hit(hits, now).get().await;
            fill(states, &places, counted);
        }
        for (places, mode) in [(looks, Mode::Peek), (pays, Mode::Consume)] {
            let paid = self.each(&places, parts, mode, now).await;
            fill(states, &places, paid);
        }
    }

    /// Pays each of these by itself, all at the same time, or looks.
    async fn each(&self, places: &[usize], parts: &Parts, mode: Mode, now: Moment) -> QuotaStates {
        let one = |&place: &usize| {
            let part = &parts[place];
            let charges: Charges = [part.charge(part.counts().unwrap_or(1))].into_iter().collect();
            match mode {
                Mode::Consume => self.quotas.pay(charges, now),
                Mode::Peek => self.quotas.peek(charges, now),
            }
        };
        let paid = join_all(places.iter().map(|place| one(place).get())).await;
        paid.into_iter().flat_map(|payment| payment.states).collect()
    }

    /// Concludes a request of whose parts this is known.
    fn told(&self, request: Request<'_>, states: &QuotaStates) -> RateLimited {
        let Request { domain, plan, call, found, parts } = request;
        let refusals = parts.iter().zip(states).filter(|(part, _)| part.refuses);
        let reasons: SmallVec<[Reason; 4]> = refusals.filter_map(|(part, state)| part.refusal(state)).collect();
        let reason = match (reasons.contains(&Reason::QuotaExceeded), reasons.first()) {
            (true, _) => Reason::QuotaExceeded,
            (false, Some(reason)) => *reason,
            (false, None) => Reason::Allowed,
        };
        let statuses = found.iter().enumerate().map(|(place, found)| {
            let Some(found) = found else { return DescriptorStatus::unlimited(None, 0) };
            if found.limit.limits.is_empty() {
                return DescriptorStatus::unlimited(None, u64::MAX);
            }
            let own = parts.iter().zip(states).filter(|(part, _)| part.descriptor == place);
            let DescriptorLimit { shadow, quota_mode, .. } = *found.limit;
            let known = DescriptorStatus::of(&found.limit, own);
            let over = known.over && !shadow;
            DescriptorStatus { over: over && !quota_mode, over_quota: over && quota_mode, ..known }
        });
        let statuses = statuses.collect();
        let own = plan.policy.rate_limits.domains.get(domain);
        let spares = !reason.allows() && own.is_some_and(|own| own.mode == RateLimitMode::Strict);
        let meter = plan.meter.of_rate_limits();
        for (part, state) in parts.iter().zip(states) {
            let Some(found) = found.get(part.descriptor).and_then(Option::as_ref) else { continue };
            let (outcome, hits) = match (part.asked, part.refusal(state)) {
                (Asked::Count(0), _) => continue,
                (Asked::TakeBack(hits), None) => (HitOutcome::TakenBack, hits),
                (Asked::Count(hits) | Asked::TakeBack(hits), Some(Reason::StoreAway)) => (HitOutcome::Away, hits),
                (Asked::Count(hits) | Asked::TakeBack(hits), Some(_)) if part.refuses => (HitOutcome::Over, hits),
                (Asked::Count(hits) | Asked::TakeBack(hits), Some(_)) => (HitOutcome::Shadow, hits),
                (Asked::Count(hits), None) if spares => (HitOutcome::Spared, hits),
                (Asked::Count(hits), None) => (HitOutcome::Within, hits),
            };
            meter.count(&self.telemetry, domain, found, outcome, hits);
        }
        plan.meter.conclude_rate_limit(call, reason, self.clock.steady());
        RateLimited { reason, statuses, headers: plan.policy.rate_limits.headers }
    }
}

/// What is known of parts that are asked apart.
type Apart = SmallVec<[Option<QuotaState>; 4]>;

impl RateLimited {
    /// The descriptors, by their places, that are over a quota; none where no limit that was found is in `quota_mode`.
    pub fn over_quota(&self) -> Option<Vec<usize>> {
        let has_quota = |status: &DescriptorStatus| status.limit.as_ref().is_some_and(|limit| limit.quota_mode);
        let over = || self.statuses.iter().enumerate().filter(|(_, status)| status.over_quota);
        self.statuses.iter().any(has_quota).then(|| over().map(|(place, _)| place).collect())
    }

    /// The descriptor that headers tell of, as envoyproxy/ratelimit chooses it: the last that is over, else the first with the
    /// fewest hits left.
    pub fn closest(&self) -> Option<&DescriptorStatus> {
        let shown = || self.statuses.iter().filter(|status| status.shown().is_some());
        shown().rfind(|status| status.over).or_else(|| shown().min_by_key(|status| status.remaining))
    }
}

impl DescriptorStatus {
    /// What is told as its limit.
    pub fn shown(&self) -> Option<Shown> {
        self.limit.as_ref().and_then(|limit| limit.shown)
    }

    const fn unlimited(limit: Option<Arc<DescriptorLimit>>, remaining: u64) -> Self {
        Self { over: false, over_quota: false, limit, remaining, reset_after: None }
    }

    /// Of several limits the one with the least left counts, and of what was refused the longest wait.
    fn of<'s>(limit: &Arc<DescriptorLimit>, own: impl Iterator<Item = (&'s Part, &'s QuotaState)>) -> Self {
        let mut status = Self { remaining: u64::MAX, ..Self::unlimited(Some(Arc::clone(limit)), 0) };
        for (part, state) in own {
            let (over, known) = (part.refusal(state).is_some(), state.verdict != QuotaVerdict::Away);
            let wait = match state.verdict {
                QuotaVerdict::Granted => Some(state.reset_after),
                QuotaVerdict::Short { retry_after } => Some(retry_after),
                QuotaVerdict::Never | QuotaVerdict::Away => None,
            };
            if over && status.over {
                status.reset_after = status.reset_after.max(wait);
            } else if over || (!status.over && (state.remaining < status.remaining || !known)) {
                status.reset_after = wait;
            }
            status.over |= over;
            status.remaining = status.remaining.min(state.remaining);
        }
        status
    }
}

impl Part {
    /// How many hits are to be counted, if any.
    const fn counts(&self) -> Option<u64> {
        match self.asked {
            Asked::Count(hits) if hits > 0 => Some(hits),
            Asked::Count(_) | Asked::TakeBack(_) => None,
        }
    }

    fn charge(&self, units: u64) -> Charge {
        Charge { limit: Arc::clone(&self.limit), key: self.key.clone(), units }
    }

    /// Its hits, where it is a fixed window; none where there are none to count.
    fn hit(&self) -> Option<Hit> {
        let Algorithm::FixedWindow(grid) = self.limit.algorithm else { return None };
        let (limit, key) = (Arc::clone(&self.limit), self.key.clone());
        Some(Hit { limit, grid, key, hits: self.counts().unwrap_or(0) })
    }

    /// Why there is no room, if there is none. What is taken back needs none.
    fn refusal(&self, state: &QuotaState) -> Option<Reason> {
        match (state.verdict, self.asked) {
            (QuotaVerdict::Granted, _) | (QuotaVerdict::Short { .. } | QuotaVerdict::Never, Asked::TakeBack(_)) => None,
            (QuotaVerdict::Short { .. } | QuotaVerdict::Never, Asked::Count(_)) => Some(Reason::QuotaExceeded),
            (QuotaVerdict::Away, _) => (state.limit.when_away != WhenAway::Allow).then_some(Reason::StoreAway),
        }
    }
}

/// What limits each descriptor. A limit whose name one of the others replaces does not count, as if there were none.
fn found(domain: &Domain, question: &RateLimitQuestion<'_>) -> SmallVec<[Option<Found>; 4]> {
    let find = |descriptor: &Descriptor<'_>| match descriptor.limit {
        Some(shown) => Some(domain.overridden(&descriptor.entries, shown)),
        None => domain.find(&descriptor.entries),
    };
    let mut found: SmallVec<[Option<Found>; 4]> = question.descriptors.iter().map(find).collect();
    if found.iter().flatten().any(|found| !found.limit.replaces.is_empty()) {
        let replaced: Vec<Box<str>> =
            found.iter().flatten().flat_map(|found| found.limit.replaces.iter().cloned()).collect();
        // What is unlimited goes on being so, whoever replaces it.
        let is_replaced = |found: &Found| {
            !found.limit.limits.is_empty() && found.limit.name.as_ref().is_some_and(|name| replaced.contains(name))
        };
        for place in &mut found {
            if place.as_ref().is_some_and(is_replaced) {
                *place = None;
            }
        }
    }
    found
}

/// What is asked of each limit; where nothing is to be refused, none refuses.
fn parts(question: &RateLimitQuestion<'_>, found: &mut [Option<Found>], shadow: bool) -> Parts {
    let mut parts = Parts::new();
    for (place, (found, descriptor)) in found.iter_mut().zip(&question.descriptors).enumerate() {
        let Some(Found { limit, counters, .. }) = found else { continue };
        let refuses = !(shadow || limit.shadow || limit.quota_mode);
        parts.extend(counters.drain(..).map(|(limit, key)| Part {
            descriptor: place,
            limit,
            key,
            asked: descriptor.hits,
            refuses,
        }));
    }
    parts
}

/// What is paid at once: if there are only hits to be counted, by limits that may refuse.
fn charges(parts: &Parts) -> Option<Charges> {
    parts.iter().map(|part| part.counts().filter(|_| part.refuses).map(|hits| part.charge(hits))).collect()
}

/// What is counted at once: if nothing is taken back, and all are fixed windows.
fn hits(parts: &Parts) -> Option<Hits> {
    parts.iter().map(|part| part.hit().filter(|_| matches!(part.asked, Asked::Count(_)))).collect()
}

/// The charges of those parts that cost something by `units`, and their places.
fn picked(parts: &Parts, units: impl Fn(&Part) -> Option<u64>) -> (Vec<usize>, Charges) {
    let picked = parts.iter().enumerate().filter_map(|(place, part)| Some((place, part.charge(units(part)?))));
    picked.unzip()
}

/// Takes note of what is known of these parts.
fn fill(states: &mut Apart, places: &[usize], known: QuotaStates) {
    for (&place, state) in places.iter().zip(known) {
        states[place] = Some(state);
    }
}

/// A part of which nothing else is known.
fn state_of(part: &Part, verdict: QuotaVerdict) -> QuotaState {
    QuotaState { limit: Arc::clone(&part.limit), verdict, remaining: 0, reset_after: Micros::ZERO }
}
