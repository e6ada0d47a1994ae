//! Pays from leases in hand, and asks the store for more: for a store that several replicas share.
//!
//! A question whose every charge is covered by a lease, or one of whose charges is known to be refused, is answered at
//! once. Else one call asks the store for all that is not covered, all or none; calls for a counter that is being asked
//! wait and are combined into the next request. No call waits while it has a request begun, so none waits in a circle; and
//! none waits for others longer than for the store.

mod asking;
mod hits;
mod pulse;
mod share;
mod taken;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::sync::Notify;
use tokio::time::{interval, sleep};

use self::asking::{Asking, Begun, Unheard, held_for};
use self::share::Known;
use self::taken::{Part, Taken};
use super::standing::Standing;
use super::table::{Entry, HOLDINGS_MAX, Table, Woken};
use super::{Bill, Names, Purpose};
use crate::decide::ports::{
    Answer, Away, AwayCause, Charges, Clock, Grants, Hits, Payment, QuotaStore, Quotas, Refunds, Request, Requests,
    Settlement, Settlements, all_away,
};
use crate::domain::decision::QuotaStates;
use crate::domain::lease::{Ended, Holding, Spend, end_of_lease};
use crate::domain::limit::{CounterKey, Limit, WhenAway};
use crate::domain::question::Mode;
use crate::domain::time::{Micros, Moment};
use crate::domain::window::{Grant, LeaseId, Outcome, Terms};
use crate::telemetry::{LeaseMetrics, Telemetry};

/// How often a call waits for others' requests before it makes one of its own, whoever else is asking: one that is always
/// overtaken is paid all the same.
const WAITS_MAX: usize = 16;

/// How often leases are looked after: well within the time by which a lease ends earlier for it.
const UPKEEP_INTERVAL: Duration = Duration::from_millis(20);

/// Settlements that wait for the next upkeep at most; more are left to expire.
const DUE_MAX: usize = 65_536;

/// Settlements in one call of the store.
const SETTLED_PER_CALL: usize = 256;

/// Where charges are paid from leases.
pub struct LeaseDesk {
    store: Arc<dyn QuotaStore>,
    /// Counts what this replica admits by itself while the store is away.
    local: Arc<dyn QuotaStore>,
    /// How long a call waits for others' requests.
    deadline: Micros,
    clock: Arc<dyn Clock>,
    table: Table,
    names: Names,
    due: Mutex<Vec<Due>>,
    /// Told when a request sets out for the store while something is owed to it.
    setting_out: Notify,
    turn: AtomicUsize,
    standing: Standing,
    /// Held by the beat that is under way.
    beating: tokio::sync::Mutex<()>,
    /// Told when a call finds that the store has lost its data.
    lost: Notify,
    metrics: LeaseMetrics,
}

/// A lease that is to be settled.
struct Due {
    settlement: Settlement,
    /// Units that go back by that, as far as is known.
    left: u64,
    /// Until when the store is told again, where it could not be.
    until: Micros,
}

impl LeaseDesk {
    /// A desk that takes leases from `store`, which answers each call within `deadline`, and counts in `local` what it admits
    /// by itself while that is away. A call waits as long for others' requests, and then its own takes as long, at most.
    /// `clock` is read when units are asked for and when the answer has come: the moment of the decision is too early for
    /// both.
    pub fn new(
        store: Arc<dyn QuotaStore>,
        local: Arc<dyn QuotaStore>,
        deadline: Micros,
        clock: Arc<dyn Clock>,
        telemetry: &Telemetry,
    ) -> Self {
        Self::with_room_for(HOLDINGS_MAX, store, local, deadline, clock, telemetry)
    }

    fn with_room_for(
        holdings_max: usize,
        store: Arc<dyn QuotaStore>,
        local: Arc<dyn QuotaStore>,
        deadline: Micros,
        clock: Arc<dyn Clock>,
        telemetry: &Telemetry,
    ) -> Self {
        Self {
            store,
            local,
            deadline,
            clock,
            table: Table::new(holdings_max),
            names: Names::new(),
            due: Mutex::default(),
            setting_out: Notify::new(),
            turn: AtomicUsize::new(0),
            standing: Standing::new(),
            beating: tokio::sync::Mutex::default(),
            lost: Notify::new(),
            metrics: LeaseMetrics::new(telemetry),
        }
    }

    /// Looks after the leases, for ever: settles those that end and those that are idle. What is owed goes along with the next
    /// request, if one sets out sooner: together they cost the store little more than one.
    pub async fn upkeep(&self) {
        let mut ticks = interval(UPKEEP_INTERVAL);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.tend().await,
                () = self.setting_out.notified() => self.settle_due().await,
            }
        }
    }

    /// Gives back all that is in hand. To be called when nothing is paid any more; bounded by the store's deadlines.
    pub async fn close(&self) {
        self.table.end_leases(Micros(u64::MAX), Holding::end, |limit, key, ended| self.owe(limit, key, ended));
        self.settle_due().await;
        // Nobody is left to tell it later, nor to notice a loss; the store logs and counts what becomes of it.
        let _ = self.beat().await;
        let _ = self.tell().await;
    }

    async fn tend(&self) {
        let now = self.clock.steady();
        self.table.end_leases(now, |holding| holding.tend(now), |limit, key, ended| self.owe(limit, key, ended));
        self.table.sweep(self.turn.fetch_add(1, Ordering::Relaxed), now);
        self.settle_due().await;
    }

    /// Remembers a lease that is to be settled.
    fn owe(&self, limit: &Arc<Limit>, key: &CounterKey, ended: Ended) {
        self.metrics.spent(ended.used);
        let Ended { lease, used, left } = ended;
        let settlement = Settlement { limit: Arc::clone(limit), key: key.clone(), lease, used };
        self.put_down(Due { settlement, left, until: Micros::ZERO });
    }

    /// Nobody will ever spend or settle what is held under the request's name, if anything is: it is given back.
    fn abandon(&self, request: &Request, left: u64) {
        let Request { limit, key, terms } = request;
        let held = held_for(request);
        if held > Micros::ZERO {
            let settlement = Settlement { limit: Arc::clone(limit), key: key.clone(), lease: terms.lease, used: 0 };
            self.put_down(Due { settlement, left, until: self.clock.steady() + held });
        }
    }

    fn due(&self) -> MutexGuard<'_, Vec<Due>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put_down(&self, owed: Due) {
        let mut due = self.due();
        if due.len() < DUE_MAX {
            due.push(owed);
        } else {
            self.metrics.stranded(owed.left);
        }
    }

    /// Settles what is owed. What the store does not hear of expires by itself.
    async fn settle_due(&self) {
        let due = std::mem::take(&mut *self.due());
        for part in due.chunks(SETTLED_PER_CALL) {
            let (settlements, now): (Settlements, _) =
                (part.iter().map(|due| due.settlement.clone()).collect(), self.clock.now());
            // The store logs and counts what becomes of it.
            let settled = self.store.settle(settlements, now).get().await.is_ok();
            for Due { settlement, left, until } in part {
                if settled {
                    self.metrics.returned(*left);
                } else if now.steady < *until {
                    self.put_down(Due { settlement: settlement.clone(), left: *left, until: *until });
                } else {
                    self.metrics.stranded(*left);
                }
            }
        }
    }

    /// Pays from the leases in hand what they cover.
    fn take<'a>(&'a self, requests: &'a Requests, now: Micros) -> Taken<'a> {
        let mut taken = Taken { desk: self, requests, parts: SmallVec::new(), kept: false };
        for request in requests {
            let Request { limit, key, terms } = request;
            let part = self.table.with(key, |entry| {
                if let Some((old, ended)) = entry.follow(limit, now) {
                    self.owe(&old, key, ended);
                }
                entry.pay(terms.at_least, now)
            });
            taken.parts.push(part.unwrap_or_else(|| Part::unknown(request)));
        }
        taken
    }

    async fn pay_later(&self, bill: Bill, requests: Requests) -> Payment {
        let mut overdue = None;
        for _ in 0..WAITS_MAX {
            let now = self.clock.steady();
            let mut taken = self.take(&requests, now);
            if let Some(grants) = taken.answer() {
                return bill.settled_by(&grants, false);
            }
            match self.begin(&requests, &taken, now) {
                Ok(asking) => return self.ask(bill, &requests, taken, asking).await,
                Err(answered) => {
                    // What was taken serves others meanwhile.
                    drop(taken);
                    let overdue = overdue.get_or_insert_with(|| Box::pin(sleep(self.deadline.into())));
                    let woken = tokio::select! {
                        biased;
                        woken = answered => woken,
                        // To ask now would be one request for each of a crowd, and of a store that is slow.
                        () = overdue => {
                            self.metrics.overdue.increment(1);
                            Ok(Woken::Away)
                        }
                    };
                    // An asker that went away without a word has told nobody, which is no answer of the store's.
                    if matches!(woken, Ok(Woken::Away)) {
                        return self.without_store(bill, &requests).await;
                    }
                }
            }
        }
        let taken = self.take(&requests, self.clock.steady());
        let asking = Asking { desk: self, requests: &requests, parts: SmallVec::new(), woken: Woken::TryAgain };
        self.ask(bill, &requests, taken, asking).await
    }

    async fn reserve_later(&self, bill: Bill, requests: Requests) -> Payment {
        let parts = requests.iter().map(Part::unknown).collect();
        let taken = Taken { desk: self, requests: &requests, parts, kept: false };
        let asking = Asking { desk: self, requests: &requests, parts: SmallVec::new(), woken: Woken::TryAgain };
        self.ask(bill, &requests, taken, asking).await
    }

    /// Begins a request for every counter whose lease does not pay; waits instead where one of them is being asked.
    fn begin<'a>(&'a self, requests: &'a Requests, taken: &Taken<'_>, now: Micros) -> Begun<'a> {
        let mut asking = Asking { desk: self, requests, parts: SmallVec::new(), woken: Woken::TryAgain };
        for (index, (request, part)) in requests.iter().zip(&taken.parts).enumerate() {
            if matches!(part.spend, Spend::Paid(_)) {
                continue;
            }
            let lease = self.names.next();
            let begun = self.table.with_live(request, now, |entry| {
                let terms = entry.holding().map(|holding| holding.ask(request.terms.at_least, lease, now));
                terms.map(|terms| terms.ok_or_else(|| entry.wait()))
            });
            match begun.flatten() {
                Some(Ok(terms)) => asking.parts.push((index, terms)),
                Some(Err(answered)) => return Err(answered),
                // Slots, or no place: it is paid at the store, exactly.
                None => {}
            }
        }
        Ok(asking)
    }

    /// Asks the store for what was not taken.
    async fn ask(&self, bill: Bill, requests: &Requests, taken: Taken<'_>, mut asking: Asking<'_>) -> Payment {
        let uncovered = requests.iter().zip(&taken.parts).filter(|(_, part)| !matches!(part.spend, Spend::Paid(_)));
        let asked: Requests =
            uncovered.map(|(request, _)| Request { terms: asking.terms(request), ..request.clone() }).collect();
        self.metrics.paid_at_store.increment(1);
        let (losses, sent) = (self.standing.losses(), self.clock.now());
        let mut unheard = Unheard { desk: self, requests: asked.clone() };
        let grants = self.charge(asked.clone(), Mode::Consume, sent).await;
        unheard.hear(&grants);
        let received = self.clock.steady();
        let charged = grants.iter().zip(&asked).all(|(grant, request)| lets_go_on(grant, &request.limit));
        let learned = fits(&asked, &grants)
            && asked.iter().zip(&grants).all(|(request, grant)| {
                let times = Times { losses, sent: sent.steady, received };
                self.learn(request, *grant, charged, times)
            });
        if !learned {
            asking.woken = Woken::Away;
            drop((asking, taken));
            return self.without_store(bill, requests).await;
        }
        asking.parts.clear();
        let answers = grants.into_iter().zip(&asked).map(|(grant, request)| own(grant.ok()?, request.terms).into());
        let known = taken.merged(answers);
        let held = bill.lease;
        let payment = self.conclude(bill, taken, known).await;
        if charged && !payment.reason.allows() {
            self.give_back(&asked, held);
        }
        payment
    }

    /// Asks the store, unless it has to be told first what was admitted.
    async fn charge(&self, requests: Requests, mode: Mode, now: Moment) -> Grants {
        let lost = Away { because: AwayCause::Lost };
        if self.standing.is_telling() {
            return all_away(requests.len(), lost);
        }
        if !self.due().is_empty() {
            self.setting_out.notify_one();
        }
        let grants = self.store.acquire(requests, mode, now).get().await;
        if grants.contains(&Err(lost)) {
            self.lost.notify_one();
        }
        grants
    }

    /// Takes note of what the store said of one counter, and tells those who wait. False where it is worth nothing any
    /// more, because the store lost its data meanwhile.
    fn learn(&self, request: &Request, answer: Result<Grant, Away>, charged: bool, times: Times) -> bool {
        // Seen under the counter's lock: who gathers what is to be told comes after this, or else this after the loss.
        let stands = || self.standing.losses() == times.losses;
        let learn = |entry: &mut Entry| {
            let answer = answer.ok().filter(|_| stands());
            self.note(entry, request, answer, charged, times);
            entry.wake(if answer.is_some() { Woken::TryAgain } else { Woken::Away });
            stands()
        };
        let paid = charged && matches!(answer, Ok(Grant { outcome: Outcome::Granted { units: 1.. }, .. }));
        let learned = if paid {
            self.table.with_known(request, times.received, learn)
        } else {
            self.table.with(&request.key, learn)
        };
        learned.unwrap_or_else(stands)
    }

    fn note(&self, entry: &mut Entry, request: &Request, answer: Option<Grant>, charged: bool, times: Times) {
        let Request { limit, key, terms } = request;
        let Times { losses: _, sent, received } = times;
        let pays = charged && answer.is_some_and(|grant| matches!(grant.outcome, Outcome::Granted { .. }));
        if pays {
            entry.admit(terms.at_least, received);
        }
        let is_its_own = entry.limit().algorithm == limit.algorithm;
        let Some(holding) = entry.holding() else { return };
        let ended = match answer {
            // Another limit came to the counter meanwhile: what this one was told is nothing to that.
            Some(Grant { outcome: Outcome::Granted { units }, .. }) if pays && !is_its_own => {
                holding.failed(terms.lease);
                if terms.hold > Micros::ZERO {
                    self.metrics.leased(units);
                    let (lease, used) = (terms.lease, terms.at_least);
                    self.owe(limit, key, Ended { lease, used, left: units.saturating_sub(used) });
                }
                None
            }
            Some(_) if !is_its_own => {
                holding.failed(terms.lease);
                None
            }
            Some(grant @ Grant { outcome: Outcome::Granted { units }, .. }) if pays => {
                if terms.hold > Micros::ZERO {
                    self.metrics.leased(units);
                }
                holding.granted(*terms, units, grant, end_of_lease(sent, terms.hold), received)
            }
            Some(grant @ Grant { outcome: Outcome::Short { retry_after }, .. }) => {
                holding.refused(terms.lease, terms.at_least, retry_after, grant, received);
                None
            }
            Some(_) | None => {
                holding.failed(terms.lease);
                None
            }
        };
        if let Some(ended) = ended {
            self.owe(&Arc::clone(entry.limit()), key, ended);
        }
    }

    /// What the store charged is not used, because a share that this replica had to pay was used up: what was leased serves
    /// others, and what was held is settled. The rest stays charged.
    fn give_back(&self, charged: &Requests, held: Option<LeaseId>) {
        for request in charged {
            let Request { limit: _, key, terms } = request;
            if held == Some(terms.lease) {
                self.abandon(request, terms.at_least);
            }
            if terms.hold > Micros::ZERO {
                self.table.with(key, |entry| entry.give_back(terms.lease, terms.at_least));
            }
        }
    }

    fn look(&self, request: &Request, now: Micros) -> Option<Grant> {
        let looked = self.table.with(&request.key, |entry| entry.look(request, now));
        looked.as_ref().and_then(Part::known)
    }

    async fn peek_later(&self, bill: Bill, requests: Requests, now: Moment) -> Payment {
        let mut known: Known = requests.iter().map(|request| self.look(request, now.steady)).collect();
        let unknown = requests.iter().zip(&known).filter(|(_, known)| known.is_none());
        let unknown: Requests = unknown.map(|(request, _)| request.clone()).collect();
        let grants = self.charge(unknown.clone(), Mode::Peek, now).await;
        let understood = grants.len() == unknown.len();
        let mut answers = grants.into_iter();
        for (known, request) in known.iter_mut().zip(&requests).filter(|(known, _)| known.is_none()) {
            *known = answers.next().and_then(Result::ok).filter(|_| understood);
            if let Some(grant @ Grant { outcome: Outcome::Short { retry_after }, .. }) = *known {
                self.learn_refusal(request, retry_after, grant);
            }
        }
        self.look_at_shares(&requests, &mut known, now).await;
        bill.concluded(&known, true)
    }

    /// Whoever only looks again and again at what is used up asks as seldom as those who want to pay.
    fn learn_refusal(&self, request: &Request, retry_after: Micros, grant: Grant) {
        let now = self.clock.steady();
        self.table.with_live(request, now, |entry| {
            if entry.limit().algorithm == request.limit.algorithm
                && let Some(holding) = entry.holding()
            {
                holding.heard_refusal(request.terms.at_least, retry_after, grant, now);
            }
        });
    }

    fn look_at_all(&self, bill: Bill, requests: Requests, now: Moment) -> Answer<'_, Payment> {
        let known: SmallVec<[Option<Grant>; 4]> =
            requests.iter().map(|request| self.look(request, now.steady)).collect();
        if known.iter().all(Option::is_some) {
            return Answer::Now(bill.concluded(&known, false));
        }
        Answer::later(self.peek_later(bill, requests, now))
    }

    /// Units came back to the store: what it refused just now may fit.
    fn hope<'a>(&self, keys: impl IntoIterator<Item = &'a CounterKey>) {
        for key in keys {
            self.table.with(key, |entry| entry.holding().map(Holding::hope));
        }
    }

    fn forget(&self, key: &CounterKey) {
        self.table.with(key, |entry| {
            entry.forget(self.clock.steady());
            entry.wake(Woken::TryAgain);
        });
    }
}

impl Quotas for LeaseDesk {
    fn pay(&self, charges: Charges, now: Moment) -> Answer<'_, Payment> {
        let (bill, requests) = Bill::new(charges, Purpose::Pay, &self.names, now);
        if requests.is_empty() {
            return Answer::Now(bill.settled_by(&Grants::new(), false));
        }
        // One that can never be paid spoils the payment; the others are then only looked at.
        if !bill.is_payable() {
            return self.look_at_all(bill, requests, now);
        }
        if let Some(grants) = self.take(&requests, now.steady).answer() {
            return Answer::Now(bill.settled_by(&grants, false));
        }
        Answer::later(self.pay_later(bill, requests))
    }

    fn peek(&self, charges: Charges, now: Moment) -> Answer<'_, Payment> {
        let (bill, requests) = Bill::new(charges, Purpose::Peek, &self.names, now);
        self.look_at_all(bill, requests, now)
    }

    /// Past the leases in hand: what is held must be charged to the moment at which it is settled at the latest.
    fn reserve(&self, charges: Charges, hold: Micros, now: Moment) -> Answer<'_, Payment> {
        let (bill, requests) = Bill::new(charges, Purpose::reserve(hold), &self.names, now);
        if requests.is_empty() {
            return Answer::Now(bill.settled_by(&Grants::new(), false));
        }
        if !bill.is_payable() {
            return self.look_at_all(bill, requests, now);
        }
        Answer::later(self.reserve_later(bill, requests))
    }

    fn hit(&self, hits: Hits, _: Moment) -> Answer<'_, QuotaStates> {
        if hits.is_empty() {
            return Answer::Now(QuotaStates::new());
        }
        Answer::later(self.hit_later(hits))
    }

    fn settle(&self, settlements: Settlements, now: Moment) -> Answer<'_, Result<(), Away>> {
        let keys: SmallVec<[CounterKey; 4]> = settlements.iter().map(|settlement| settlement.key.clone()).collect();
        // What was held while the store was away is held in here; what is unknown is left as it is.
        let settled = self.local.settle(settlements.clone(), now);
        settled.then(move |_| self.store.settle(settlements, now)).then(move |answer| {
            self.hope(&keys);
            Answer::Now(answer)
        })
    }

    /// At the store, from the oldest that count: it is not known which lease paid, and one that is in hand now would be
    /// given back units that another spent before it.
    fn refund(&self, charges: Charges, now: Moment) -> Answer<'_, Result<Refunds, Away>> {
        let keys: SmallVec<[CounterKey; 4]> = charges.iter().map(|charge| charge.key.clone()).collect();
        self.store.refund(charges, now).then(move |answer| {
            self.hope(&keys);
            Answer::Now(answer)
        })
    }

    fn reset(&self, limit: Arc<Limit>, key: CounterKey) -> Answer<'_, Result<(), Away>> {
        Answer::later(async move {
            self.forget(&key);
            let answer = self.store.reset(limit, key.clone()).get().await;
            // What was granted while the reset was on its way may have been forgotten with the rest.
            self.forget(&key);
            answer
        })
    }
}

/// When a request was sent and answered, and how often the store had lost its data by the former.
#[derive(Clone, Copy)]
struct Times {
    losses: u64,
    sent: Micros,
    received: Micros,
}

/// Whether the store answered what it was asked, and could be asked at all.
fn fits(asked: &Requests, grants: &Grants) -> bool {
    let sound = |(request, grant): (&Request, &Result<Grant, Away>)| match grant {
        Ok(Grant { outcome: Outcome::Granted { units }, .. }) => *units >= request.terms.at_least,
        Ok(_) | Err(_) => true,
    };
    asked.len() == grants.len() && asked.iter().zip(grants).all(sound) && grants.iter().any(Result::is_ok)
}

/// Whether a counter's answer lets the others be charged.
fn lets_go_on(answer: &Result<Grant, Away>, limit: &Limit) -> bool {
    match answer {
        Ok(grant) => matches!(grant.outcome, Outcome::Granted { .. }),
        Err(Away { .. }) => limit.when_away != WhenAway::Deny,
    }
}

/// What a grant means to the question that asked: units beyond its own are in hand, and left.
fn own(grant: Grant, terms: Terms) -> Grant {
    match grant.outcome {
        Outcome::Granted { units } if terms.hold > Micros::ZERO => {
            Grant { remaining: grant.remaining.saturating_add(units.saturating_sub(terms.at_least)), ..grant }
        }
        Outcome::Granted { .. } | Outcome::Short { .. } | Outcome::Never => grant,
    }
}
