//! Pays what decisions cost, between the one path and a store.
//!
//! Two desks: [`QuotaDesk`] spends every charge at once, at a store that answers at once; [`LeaseDesk`] spends from
//! leases, which it takes from a store that has to be waited for. What a limit wants when the store is away is done here.

mod leased;
mod standing;
mod table;

use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use smallvec::SmallVec;

use crate::decide::ports::{
    Answer, Away, Charge, Charges, Grants, Hits, Payment, QuotaStore, Quotas, Refunds, Request, Requests, Settlements,
};
use crate::domain::decision::{QuotaState, QuotaStates, QuotaVerdict, Reason};
use crate::domain::limit::{Algorithm, CounterKey, HOLD_MAX, Limit, WhenAway};
use crate::domain::question::Mode;
use crate::domain::time::{Micros, Moment};
use crate::domain::window::{GROUP_MAX, GROUP_SPAN, Grant, LeaseId, Outcome, Terms};

pub use self::leased::LeaseDesk;

/// Where charges are paid at once.
pub struct QuotaDesk {
    store: Arc<dyn QuotaStore>,
    names: Names,
}

impl QuotaDesk {
    /// A desk that keeps its counters in `store`, which has deadlines of its own.
    pub fn new(store: Arc<dyn QuotaStore>) -> Self {
        Self { store, names: Names::new() }
    }
}

impl Quotas for QuotaDesk {
    fn pay(&self, charges: Charges, now: Moment) -> Answer<'_, Payment> {
        ask(&*self.store, Bill::new(charges, Purpose::Pay, &self.names, now), now)
    }

    fn peek(&self, charges: Charges, now: Moment) -> Answer<'_, Payment> {
        ask(&*self.store, Bill::new(charges, Purpose::Peek, &self.names, now), now)
    }

    fn reserve(&self, charges: Charges, hold: Micros, now: Moment) -> Answer<'_, Payment> {
        ask(&*self.store, Bill::new(charges, Purpose::reserve(hold), &self.names, now), now)
    }

    fn hit(&self, hits: Hits, now: Moment) -> Answer<'_, QuotaStates> {
        let limits: SmallVec<[Arc<Limit>; 4]> = hits.iter().map(|hit| Arc::clone(&hit.limit)).collect();
        self.store.hit(hits, now).then(move |grants| Answer::Now(counted(limits, &grants)))
    }

    fn settle(&self, settlements: Settlements, now: Moment) -> Answer<'_, Result<(), Away>> {
        self.store.settle(settlements, now)
    }

    fn refund(&self, charges: Charges, now: Moment) -> Answer<'_, Result<Refunds, Away>> {
        self.store.refund(charges, now)
    }

    fn reset(&self, limit: Arc<Limit>, key: CounterKey) -> Answer<'_, Result<(), Away>> {
        self.store.reset(limit, key)
    }
}

/// Asks the store for all of a bill, exactly.
fn ask(store: &dyn QuotaStore, (bill, requests): (Bill, Requests), now: Moment) -> Answer<'_, Payment> {
    if requests.is_empty() {
        return Answer::Now(bill.settled_by(&Grants::new(), false));
    }
    // One that can never be paid spoils the payment; the others are then only looked at.
    let mode = if bill.is_payable() { bill.purpose.mode() } else { Mode::Peek };
    match store.acquire(requests, mode, now) {
        Answer::Now(answer) => Answer::Now(bill.settled_by(&answer, false)),
        Answer::Later(future) => Answer::later(async move { bill.settled_by(&future.await, true) }),
    }
}

/// Names leases: unique over all replicas, and not to be guessed. Whoever takes a reservation learns its name, and whoever
/// knows a name can settle: so no name may tell of another.
struct Names {
    /// Random, drawn once.
    replica: u64,
    /// A keyed hash: the system drew the key, and the replica keeps it to itself.
    serials: RandomState,
    count: AtomicU64,
    /// Of the reservations that come next.
    group: Mutex<Group>,
}

/// Reservations that a store may keep together.
#[derive(Default)]
struct Group {
    name: u64,
    hold: Micros,
    /// No more are taken from then on.
    end: Micros,
    /// How many more are taken.
    left: u32,
}

impl Names {
    fn new() -> Self {
        let serials = RandomState::new();
        let replica = serials.hash_one("replica");
        Self { replica, serials, count: AtomicU64::new(0), group: Mutex::default() }
    }

    fn next(&self) -> LeaseId {
        LeaseId { replica: self.replica, serial: self.random() }
    }

    /// The name of a reservation.
    fn grouped(&self, hold: Micros, now: Moment) -> LeaseId {
        let mut group = self.group.lock().unwrap_or_else(PoisonError::into_inner);
        if group.left == 0 || group.hold != hold || now.steady >= group.end {
            *group = Group { name: self.random(), hold, end: now.steady + GROUP_SPAN, left: GROUP_MAX };
        }
        group.left -= 1;
        LeaseId { replica: group.name, serial: self.random() }
    }

    fn random(&self) -> u64 {
        self.serials.hash_one(self.count.fetch_add(1, Ordering::Relaxed))
    }
}

/// What a bill is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Pay,
    Peek,
    /// To be settled within so much time.
    Reserve(Micros),
}

impl Purpose {
    /// Without any time there would be nothing to settle.
    fn reserve(hold: Micros) -> Self {
        Self::Reserve(hold.clamp(Micros(1), HOLD_MAX))
    }

    const fn mode(self) -> Mode {
        match self {
            Self::Pay | Self::Reserve(_) => Mode::Consume,
            Self::Peek => Mode::Peek,
        }
    }

    /// How long units stay to be settled; for slots their limit knows how long.
    const fn hold(self) -> Micros {
        match self {
            Self::Pay | Self::Peek => Micros::ZERO,
            Self::Reserve(hold) => hold,
        }
    }

    /// Whether something is left to be settled of what is paid to a limit.
    const fn holds(self, limit: &Limit) -> bool {
        match self {
            Self::Pay => matches!(limit.algorithm, Algorithm::Concurrency(_)),
            Self::Peek => false,
            Self::Reserve(_) => true,
        }
    }
}

/// The charges of one decision, and where each is answered.
struct Bill {
    charges: SmallVec<[(Arc<Limit>, Place); 4]>,
    /// How many grants the store owes.
    requests: usize,
    purpose: Purpose,
    /// What is held is held under this name.
    lease: Option<LeaseId>,
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
    fn new(mut charges: Charges, purpose: Purpose, names: &Names, now: Moment) -> (Self, Requests) {
        let lease = charges.iter().any(|charge| purpose.holds(&charge.limit)).then(|| match purpose {
            Purpose::Pay | Purpose::Peek => names.next(),
            Purpose::Reserve(hold) => names.grouped(hold, now),
        });
        let totals: SmallVec<[u64; 4]> = charges.iter().map(|charge| total(&charges, &charge.key)).collect();
        let mut requests = Requests::new();
        let mut places = SmallVec::new();
        // Not by value, which would move all of it: room for four is half a kilobyte.
        for (Charge { limit, key, units: _ }, units) in charges.drain(..).zip(totals) {
            if units > limit.units() {
                places.push((limit, Place::Never));
                continue;
            }
            let index = requests.iter().position(|request| request.key == key).unwrap_or(requests.len());
            places.push((Arc::clone(&limit), Place::Grant(index)));
            match requests.get_mut(index) {
                // A limit that a request brings along may fall on the counter of another one: both must have room.
                Some(request) if limit.units() < request.limit.units() => request.limit = limit,
                Some(_) => {}
                None => {
                    let terms = Terms { hold: purpose.hold(), lease: lease.unwrap_or(NOBODY), ..at_once(units) };
                    requests.push(Request { limit, key, terms });
                }
            }
        }
        (Self { charges: places, requests: requests.len(), purpose, lease }, requests)
    }

    fn is_payable(&self) -> bool {
        self.charges.iter().all(|(_, place)| *place != Place::Never)
    }

    fn settled_by(self, grants: &Grants, asked: bool) -> Payment {
        // A store that answers something else than it was asked is no reason to let anyone go on.
        let understood = grants.len() == self.requests;
        self.decided_by(|index| grants.get(index).copied().filter(|_| understood).and_then(Result::ok), asked)
    }

    /// One grant for each request, in order; nothing where the store could not be asked: each limit then does what it
    /// wants. What can never be paid is refused all the same.
    fn concluded(self, grants: &[Option<Grant>], asked: bool) -> Payment {
        self.decided_by(|index| grants.get(index).copied().flatten(), asked)
    }

    fn decided_by(self, grant: impl Fn(usize) -> Option<Grant>, asked: bool) -> Payment {
        let states = self.charges.into_iter().map(|(limit, place)| match place {
            Place::Grant(index) => match grant(index) {
                Some(grant) => granted(limit, grant),
                None => unknown(limit, QuotaVerdict::Away),
            },
            Place::Never => unknown(limit, QuotaVerdict::Never),
        });
        let states: QuotaStates = states.collect();
        let refuses = |state: &QuotaState| !state.verdict.is_granted() && state.verdict != QuotaVerdict::Away;
        // A limit that would admit a share has none to admit, or nowhere to count it.
        let denies =
            |state: &QuotaState| state.verdict == QuotaVerdict::Away && state.limit.when_away != WhenAway::Allow;
        let reason = match (states.iter().any(refuses), states.iter().any(denies)) {
            (true, _) => Reason::QuotaExceeded,
            (false, true) => Reason::StoreAway,
            (false, false) => Reason::Allowed,
        };
        let holds = |state: &QuotaState| state.verdict.is_granted() && self.purpose.holds(&state.limit);
        let held = self.lease.filter(|_| reason.allows() && states.iter().any(holds));
        let away = states.iter().any(|state| state.verdict == QuotaVerdict::Away);
        Payment { reason, states, asked, away, held }
    }
}

/// What became of hits; nothing is known where the store could not be asked, or answered something else.
fn counted(limits: SmallVec<[Arc<Limit>; 4]>, grants: &Grants) -> QuotaStates {
    let understood = grants.len() == limits.len();
    let state = |(index, limit)| match grants.get(index).filter(|_| understood) {
        Some(Ok(grant)) => granted(limit, *grant),
        Some(Err(Away { .. })) | None => unknown(limit, QuotaVerdict::Away),
    };
    limits.into_iter().enumerate().map(state).collect()
}

/// What all charges to one counter come to.
fn total(charges: &Charges, key: &CounterKey) -> u64 {
    charges.iter().filter(|charge| charge.key == *key).fold(0, |sum, charge| sum.saturating_add(charge.units))
}

/// The name of no lease.
const NOBODY: LeaseId = LeaseId { replica: 0, serial: 0 };

const fn at_once(units: u64) -> Terms {
    Terms { at_least: units, at_most: units, hold: Micros::ZERO, lease: NOBODY }
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

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;
    use std::sync::Mutex;

    use proptest::prelude::*;

    use super::*;
    use crate::decide::ports::{AwayCause, Beat, Epoch, Hit, Pulse, all_away};
    use crate::domain::counter::Counter;
    use crate::domain::fixed::Grid;
    use crate::domain::limit::{Algorithm, Occasion};

    const NOW: Moment = Moment { wall: Micros::ZERO, steady: Micros::from_secs(1_000) };

    /// Else what a store keeps of a group could be gone before the last of it has ended, or would grow without a bound.
    #[test]
    fn reservations_of_a_group_are_few_and_taken_at_about_the_same_time_for_as_long() {
        let (names, hold) = (Names::new(), Micros::from_secs(60));
        let later = |micros| Moment { steady: NOW.steady + Micros(micros), ..NOW };
        let first = names.grouped(hold, NOW);
        let others: Vec<LeaseId> = (1..GROUP_MAX).map(|_| names.grouped(hold, later(GROUP_SPAN.0 - 1))).collect();
        assert!(others.iter().all(|name| name.replica == first.replica && name.serial != first.serial));
        let full = names.grouped(hold, later(1));
        assert_ne!(full.replica, first.replica);
        let longer = names.grouped(hold + Micros(1), later(1));
        assert_ne!(longer.replica, full.replica);
        assert_eq!(names.grouped(hold + Micros(1), later(GROUP_SPAN.0)).replica, longer.replica);
        assert_ne!(names.grouped(hold + Micros(1), later(GROUP_SPAN.0 + 1)).replica, longer.replica);
    }

    /// The pure core for a store, which goes away when told.
    #[derive(Default)]
    struct Core {
        counters: Mutex<Vec<(CounterKey, Counter)>>,
        away: bool,
        waits: bool,
    }

    impl Core {
        fn grants(&self, requests: &Requests, mode: Mode, now: Moment) -> Grants {
            if self.away {
                return all_away(requests.len(), Away { because: AwayCause::Unreachable });
            }
            let mut counters = self.counters.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let mut each = |charge: bool| -> SmallVec<[Grant; 4]> {
                let one = |Request { limit, key, terms }: &Request| {
                    let algorithm = limit.algorithm;
                    let place = counters.iter().position(|(known, _)| known == key).unwrap_or_else(|| {
                        counters.push((key.clone(), Counter::new(algorithm, Micros::ZERO)));
                        counters.len() - 1
                    });
                    let counter = &mut counters[place].1;
                    if charge { counter.acquire(algorithm, *terms, now) } else { counter.look(algorithm, *terms, now) }
                };
                requests.iter().map(one).collect()
            };
            let looked = each(false);
            let all = looked.iter().all(|grant| matches!(grant.outcome, Outcome::Granted { .. }));
            let grants = if all && mode == Mode::Consume { each(true) } else { looked };
            grants.into_iter().map(Ok).collect()
        }
    }

    impl QuotaStore for Core {
        fn acquire(&self, requests: Requests, mode: Mode, now: Moment) -> Answer<'_, Grants> {
            let answer = self.grants(&requests, mode, now);
            if self.waits { Answer::later(async { answer }) } else { Answer::Now(answer) }
        }

        fn hit(&self, hits: Hits, now: Moment) -> Answer<'_, Grants> {
            if self.away {
                return Answer::Now(all_away(hits.len(), Away { because: AwayCause::Unreachable }));
            }
            let one = |Hit { limit: _, grid, key, hits }: Hit| {
                let mut counters = self.counters.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let place = counters.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
                    counters.push((key, Counter::new(Algorithm::FixedWindow(grid), Micros::ZERO)));
                    counters.len() - 1
                });
                Ok(counters[place].1.hit(grid, hits, now))
            };
            Answer::Now(hits.into_iter().map(one).collect())
        }

        fn settle(&self, _: Settlements, _: Moment) -> Answer<'_, Result<(), Away>> {
            Answer::Now(Ok(()))
        }

        fn refund(&self, _: Charges, _: Moment) -> Answer<'_, Result<Refunds, Away>> {
            Answer::Now(Ok(Refunds::new()))
        }

        fn reset(&self, _: Arc<Limit>, _: CounterKey) -> Answer<'_, Result<(), Away>> {
            Answer::Now(Ok(()))
        }

        fn assert(&self, _: Charges, _: Moment) -> Answer<'_, Result<(), Away>> {
            Answer::Now(Ok(()))
        }

        fn beat(&self, _: Pulse, _: Moment) -> Answer<'_, Result<Beat, Away>> {
            Answer::Now(Ok(Beat { epoch: Epoch(NonZeroU64::MIN), there: Vec::new() }))
        }
    }

    fn limit(name: &str, units: u64, when_away: WhenAway) -> Arc<Limit> {
        let algorithm = Algorithm::SlidingWindow { units, window: Micros::from_secs(32) };
        Arc::new(Limit { name: name.to_owned(), algorithm, by: Vec::new(), when_away, charge: Occasion::AfterAuth })
    }

    fn charge(limit: &Arc<Limit>, units: u64) -> Charge {
        Charge { limit: Arc::clone(limit), key: CounterKey::new(&limit.name), units }
    }

    fn desk(core: Core) -> QuotaDesk {
        QuotaDesk::new(Arc::new(core))
    }

    fn now(answer: Answer<'_, Payment>) -> Payment {
        match answer {
            Answer::Now(payment) => payment,
            Answer::Later(_) => unreachable!("the store answers at once"),
        }
    }

    fn pay(desk: &QuotaDesk, charges: impl IntoIterator<Item = Charge>) -> Payment {
        now(desk.pay(charges.into_iter().collect(), NOW))
    }

    fn told(payment: &Payment) -> Vec<(QuotaVerdict, u64)> {
        payment.states.iter().map(|state| (state.verdict, state.remaining)).collect()
    }

    #[test]
    fn all_charges_are_paid_or_none() {
        let desk = desk(Core::default());
        let (small, large) = (limit("small", 3, WhenAway::Deny), limit("large", 10, WhenAway::Deny));
        let paid = pay(&desk, [charge(&large, 2), charge(&small, 2)]);
        assert_eq!((paid.reason, paid.asked), (Reason::Allowed, false));
        assert_eq!(told(&paid), [(QuotaVerdict::Granted, 8), (QuotaVerdict::Granted, 1)]);
        let refused = pay(&desk, [charge(&large, 2), charge(&small, 2)]);
        assert_eq!(refused.reason, Reason::QuotaExceeded);
        assert_eq!(
            told(&refused),
            [(QuotaVerdict::Granted, 8), (QuotaVerdict::Short { retry_after: Micros::from_secs(33) }, 1)]
        );
        assert_eq!(refused.states[0].limit.name, "large");
    }

    #[test]
    fn a_peek_tells_the_same_and_pays_nothing() {
        let desk = desk(Core::default());
        let small = limit("small", 3, WhenAway::Deny);
        for _ in 0..2 {
            let peeked = now(desk.peek([charge(&small, 3)].into_iter().collect(), NOW));
            assert_eq!((peeked.reason, told(&peeked)), (Reason::Allowed, vec![(QuotaVerdict::Granted, 3)]));
        }
    }

    #[test]
    fn what_costs_more_than_the_limit_is_never_paid_and_neither_is_what_stands_beside_it() {
        let desk = desk(Core::default());
        let (small, large) = (limit("small", 3, WhenAway::Deny), limit("large", 10, WhenAway::Deny));
        let refused = pay(&desk, [charge(&large, 2), charge(&small, 4)]);
        assert_eq!(refused.reason, Reason::QuotaExceeded);
        assert_eq!(told(&refused), [(QuotaVerdict::Granted, 10), (QuotaVerdict::Never, 0)]);
        assert_eq!(told(&pay(&desk, [charge(&large, 1)])), [(QuotaVerdict::Granted, 9)]);
        // Nobody needs to be asked for that alone, so it is known even when nobody can be.
        let away = self::desk(Core { away: true, ..Core::default() });
        assert_eq!(told(&pay(&away, [charge(&small, u64::MAX)])), [(QuotaVerdict::Never, 0)]);
    }

    #[test]
    fn charges_to_the_same_counter_are_paid_together() {
        let desk = desk(Core::default());
        let small = limit("small", 5, WhenAway::Deny);
        let paid = pay(&desk, [charge(&small, 2), charge(&small, 2)]);
        assert_eq!(told(&paid), [(QuotaVerdict::Granted, 1), (QuotaVerdict::Granted, 1)]);
        assert_eq!(told(&pay(&desk, [charge(&small, 3), charge(&small, 3)])), [(QuotaVerdict::Never, 0); 2]);
        assert_eq!(told(&pay(&desk, [charge(&small, u64::MAX), charge(&small, 1)])), [(QuotaVerdict::Never, 0); 2]);
        assert_eq!(told(&pay(&desk, [charge(&small, 1)])), [(QuotaVerdict::Granted, 0)]);
    }

    /// Requests bring along limits of their own, which may be for the counter of another one.
    #[test]
    fn of_several_limits_of_one_counter_the_least_has_to_have_room() {
        let (large, small) = (limit("a", 10, WhenAway::Deny), limit("a", 3, WhenAway::Deny));
        for order in [[&large, &small], [&small, &large]] {
            let desk = desk(Core::default());
            let both = |units: u64| pay(&desk, order.map(|limit| charge(limit, units)));
            assert_eq!((both(1).reason, both(1).reason), (Reason::Allowed, Reason::QuotaExceeded));
            assert_eq!(both(2).reason, Reason::QuotaExceeded, "four are more than the small one ever holds");
            assert_eq!(told(&pay(&desk, [charge(&large, 1)])), [(QuotaVerdict::Granted, 7)], "two were paid");
        }
    }

    #[test]
    fn a_store_that_is_away_leads_to_what_the_limits_say() {
        let desk = desk(Core { away: true, ..Core::default() });
        let (allows, denies) = (limit("allows", 3, WhenAway::Allow), limit("denies", 3, WhenAway::Deny));
        let away = (QuotaVerdict::Away, 0);
        let paid = pay(&desk, [charge(&allows, 1)]);
        assert_eq!((paid.reason, told(&paid)), (Reason::Allowed, vec![away]));
        let refused = pay(&desk, [charge(&allows, 1), charge(&denies, 1)]);
        assert_eq!((refused.reason, told(&refused)), (Reason::StoreAway, vec![away; 2]));
        // A cost that never fits is refused whoever is away.
        let never = pay(&desk, [charge(&allows, 1), charge(&allows_less(), 4)]);
        assert_eq!((never.reason, told(&never)), (Reason::QuotaExceeded, vec![away, (QuotaVerdict::Never, 0)]));
    }

    fn allows_less() -> Arc<Limit> {
        limit("allows-less", 3, WhenAway::Allow)
    }

    #[test]
    fn hits_are_counted_each_by_itself_whether_they_fit_or_not() {
        let grid = Grid { units: 3, length: Micros::from_secs(60) };
        let small = |name: &str, when_away| {
            let limit = Limit {
                name: name.to_owned(),
                algorithm: Algorithm::FixedWindow(grid),
                by: Vec::new(),
                when_away,
                charge: Occasion::AfterAuth,
            };
            Arc::new(limit)
        };
        let (one, other) = (small("one", WhenAway::Deny), small("other", WhenAway::Allow));
        let hits = |hits: &[(&Arc<Limit>, u64)]| -> Hits {
            let hit = |&(limit, hits): &(&Arc<Limit>, u64)| Hit {
                limit: Arc::clone(limit),
                grid,
                key: CounterKey::new(&limit.name),
                hits,
            };
            hits.iter().map(hit).collect()
        };
        let told = |desk: &QuotaDesk, all: Hits| match desk.hit(all, NOW) {
            Answer::Now(states) => states.iter().map(|state| (state.verdict.is_granted(), state.remaining)).collect(),
            Answer::Later(_) => Vec::new(),
        };
        let desk = desk(Core::default());
        assert_eq!(told(&desk, hits(&[(&one, 2), (&other, 4)])), [(true, 1), (false, 0)]);
        assert_eq!(told(&desk, hits(&[(&one, 2), (&other, 0)])), [(false, 0), (false, 0)]);
        let away = self::desk(Core { away: true, ..Core::default() });
        let Answer::Now(states) = away.hit(hits(&[(&one, 1), (&other, 1)]), NOW) else { unreachable!("it is there") };
        assert!(states.iter().all(|state| state.verdict == QuotaVerdict::Away));
    }

    #[test]
    fn nothing_to_pay_is_paid() {
        let paid = pay(&desk(Core { away: true, ..Core::default() }), []);
        assert_eq!((paid.reason, paid.states.len(), paid.asked), (Reason::Allowed, 0, false));
    }

    #[tokio::test]
    async fn a_store_that_has_to_be_waited_for_counts_as_asked() {
        let desk = desk(Core { waits: true, ..Core::default() });
        let answer = desk.pay([charge(&limit("small", 3, WhenAway::Deny), 1)].into_iter().collect(), NOW);
        assert!(matches!(answer, Answer::Later(_)));
        let paid = answer.get().await;
        assert_eq!((paid.reason, paid.asked), (Reason::Allowed, true));
    }

    proptest! {
        /// Whatever is charged, however often a counter is named: no counter gives more than its limit.
        #[test]
        fn no_bill_takes_more_than_there_is(
            bills in prop::collection::vec(prop::collection::vec((0..3_usize, 1..6_u64), 0..6), 1..20),
        ) {
            let desk = desk(Core::default());
            let limits = ["a", "b", "c"].map(|name| limit(name, 8, WhenAway::Deny));
            let mut spent = [0; 3];
            for bill in bills {
                let payment = pay(&desk, bill.iter().map(|&(which, units)| charge(&limits[which], units)));
                prop_assert_eq!(payment.states.len(), bill.len());
                if payment.reason == Reason::Allowed {
                    for (which, units) in bill {
                        spent[which] += units;
                    }
                }
                prop_assert!(spent.iter().all(|&units| units <= 8), "{:?}", spent);
            }
        }
    }
}
