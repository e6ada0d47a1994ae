//! The strict sliding window.
//!
//! A window of length `W` is cut into `B` sub-windows of width `w = ⌈W / B⌉`. A counter keeps the units charged in each. A
//! charge of `c` units at time `t` is admitted when the units in sub-window `⌊t/w⌋ − B` and all later ones, future
//! ones too, plus `c` are at most the limit: the oldest is counted whole. So no half-open interval of length `W` ever
//! holds more than the limit: at the last admission in it, every earlier one was counted. The price is that a unit is
//! held for up to `w` longer than an exact log would hold it.

use smallvec::SmallVec;

use super::leases::Leases;
use super::limit::{SUB_WINDOWS, TOTAL_MAX, UNITS_MAX};
use super::time::Micros;

/// How a limit's window is cut: what the arithmetic needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// At most this many units in any interval of the window's length. At least 1.
    pub units: u64,
    /// The width of a sub-window. At least 1 µs.
    pub width: Micros,
    /// How many sub-windows a window has. At least 1.
    pub parts: u64,
}

impl Frame {
    /// The frame of a limit of so many units per window.
    pub fn new(units: u64, window: Micros) -> Self {
        let parts = u64::from(SUB_WINDOWS);
        Self { units, width: Micros(window.0.div_ceil(parts).max(1)), parts }
    }
}

/// Names one lease, so that a settle that is repeated or comes late does no harm. Unique over all replicas, and not to be
/// guessed: whoever knows it can settle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseId {
    /// Random, drawn when the replica starts; of reservations one for each group of them, which a store may keep together:
    /// at most [`GROUP_MAX`], taken within [`GROUP_SPAN`] for the same hold. Of others a store may forget some before
    /// their end, which then count as spent.
    pub replica: u64,
    /// Tells the replica's leases apart; one says nothing of the next.
    pub serial: u64,
}

/// The most reservations of one group: whoever settles one reads all of it.
pub const GROUP_MAX: u32 = 16;

/// How long a group is added to.
pub const GROUP_SPAN: Micros = Micros::from_secs(1);

/// What is asked of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Grant this many units or none; 0 only looks.
    pub at_least: u64,
    /// Grant up to this many. At least `at_least`.
    pub at_most: u64,
    /// How long the units may be spent after the grant. Zero: they are spent at once, and no lease is kept.
    pub hold: Micros,
    /// The lease's name; meaningless where `hold` is zero.
    pub lease: LeaseId,
}

/// What a counter answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Whether, and how much.
    pub outcome: Outcome,
    /// Units left after this.
    pub remaining: u64,
    /// Time until some of what is used returns; zero while nothing is used.
    pub reset_after: Micros,
}

/// Whether units were granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// So many, at least what was asked for.
    Granted {
        /// Units granted.
        units: u64,
    },
    /// Not enough is left now.
    Short {
        /// The least time after which `at_least` fits, if nobody else takes it. A microsecond earlier it does not.
        retry_after: Micros,
    },
    /// `at_least` is more than the limit ever holds.
    Never,
}

/// What has been charged to one counter.
///
/// Sparse: only sub-windows in use are kept, oldest first, at most one more than a window has plus those that open
/// leases reach into. Time never steps back for a counter: an earlier `now` counts as the latest one at which it was
/// changed. Times in a [`Grant`] are counted from the `now` that was given, so that whoever waits by the same clock
/// is served.
///
/// When the limit's definition changes, what is charged stays charged. A change of the window's length moves each
/// charge to the new sub-window in which its old one ends: never too early, so what is known holds under the new limit
/// too. Charges that the old window had let go are unknown, and of leases that are open nothing comes back any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    width: Micros,
    parts: u64,
    /// The latest moment at which it was changed.
    latest: Micros,
    /// The units of all charges, expired ones that were not dropped yet included.
    total: u64,
    /// Oldest first; no index twice, none with zero units.
    charged: SmallVec<[Charged; 1]>,
    leases: Leases,
}

/// The units charged in one sub-window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Charged {
    index: u64,
    units: u64,
}

impl Counter {
    /// A counter to which nothing has been charged and whose time begins at `since`.
    pub fn new(frame: Frame, since: Micros) -> Self {
        let Frame { units: _, width, parts } = frame;
        Self { width, parts, latest: since, total: 0, charged: SmallVec::new(), leases: Leases::none() }
    }

    /// What [`Counter::acquire`] would grant, with what is left and returns now: nothing is charged.
    pub fn look(&self, frame: Frame, terms: Terms, now: Micros) -> Grant {
        if !self.is_cut_like(frame) {
            return self.recut(frame).look(frame, terms, now);
        }
        let (counted, used) = self.counted(now);
        let remaining = frame.units.saturating_sub(used);
        let outcome = match terms.at_least {
            never if never > frame.units => Outcome::Never,
            0 => Outcome::Granted { units: 0 },
            // Half of what is left at most: near its limit a counter is shared unit by unit.
            least if least <= remaining => Outcome::Granted { units: least.max(terms.at_most.min(remaining / 2)) },
            least => {
                let too_many = used.saturating_add(least) - frame.units;
                Outcome::Short { retry_after: self.frees(counted, too_many).since(now) }
            }
        };
        Grant { outcome, remaining, reset_after: self.frees(counted, 1).since(now) }
    }

    /// Grants units and charges them, or changes nothing.
    pub fn acquire(&mut self, frame: Frame, terms: Terms, now: Micros) -> Grant {
        let grant = self.look(frame, terms, now);
        let units = match grant.outcome {
            Outcome::Granted { units } if units > 0 => units,
            Outcome::Granted { .. } | Outcome::Short { .. } | Outcome::Never => return grant,
        };
        if !self.is_cut_like(frame) {
            let mut leases = std::mem::take(&mut self.leases);
            leases.outlive_their_charges();
            *self = Self { leases, ..self.recut(frame) };
        }
        self.charge(units, terms, now);
        let reset_after = self.frees(&self.charged, 1).since(now);
        Grant { outcome: grant.outcome, remaining: grant.remaining - units, reset_after }
    }

    /// Ends a lease: `used` units, at most [`UNITS_MAX`], move to the sub-window of `now`, the
    /// rest is released. More than the lease's units are the truth, and charged, even beyond the limit. A lease that is
    /// unknown, settled already or past its expiry is left as it is: spent whole.
    ///
    /// Where its charge is gone, wholly or in part, because it was refunded, reset, or moved with the window's length,
    /// there is nothing to release: it counts as spent whole, and only what was used beyond it is charged.
    pub fn settle(&mut self, lease: LeaseId, used: u64, now: Micros) {
        let (used, now) = (used.min(UNITS_MAX), now.max(self.latest));
        let Some(ended) = self.leases.end(lease, now) else { return };
        self.latest = now;
        let index = ended.expires.0 / self.width.0;
        let whole = self.charged.iter().any(|charged| charged.index == index && charged.units >= ended.units);
        let moved = if ended.charged && whole {
            self.release(index, ended.units);
            used
        } else {
            ended.beyond(used)
        };
        self.add(now.0 / self.width.0, moved);
    }

    /// Takes back up to `units` that were charged, and answers how many: first from the oldest sub-window that counts,
    /// then from the next.
    ///
    /// From the newest first would break the promise: units that count for long would be given back in place of units
    /// that were about to be let go, and for a while more would be admitted than was cancelled. So whoever refunds
    /// what was admitted within the last window breaks nothing, whenever in it that was. Let `C(k)` be what is charged to
    /// sub-window `k` and later ones, and `A(k)` what was admitted there and not cancelled; `C(k) ≥ A(k)` is all that
    /// the promise needs. Cancelling lowers `A` up to the sub-window `x` of the cancelled units, taking back lowers `C` up
    /// to the oldest one that is charged, `p`. If `p ≤ x`, both go down together. If `x < p`, nothing is charged
    /// in between, so `C(p) = C(x) ≥ A(x)`, which is at least `A(p)` and the cancelled units.
    ///
    /// What is taken from a later sub-window than the present one was charged for leases. Those that are open count as
    /// spent whole then, whichever it was.
    pub fn refund(&mut self, units: u64, now: Micros) -> u64 {
        let now = now.max(self.latest);
        let mut place = self.expired(now);
        let (mut taken, mut last) = (0, 0);
        while let Some(charged) = self.charged.get_mut(place).filter(|_| taken < units) {
            let back = charged.units.min(units - taken);
            charged.units -= back;
            last = charged.index;
            taken += back;
            place += 1;
        }
        // It is not known of which lease: a settlement would take the rest from beneath another.
        if taken > 0 && last > now.0 / self.width.0 {
            self.leases.outlive_their_charges();
        }
        if taken > 0 {
            self.latest = now;
            self.total -= taken;
            self.charged.retain(|charged| charged.units > 0);
        }
        taken
    }

    /// Forgets everything but the time. Leases that are open have nothing to give back then.
    pub fn forget(&mut self) {
        self.total = 0;
        self.charged.clear();
        self.leases.outlive_their_charges();
    }

    /// The moment from which nothing counts any more, unless more is charged: from then on the counter is as good as a
    /// new one. It may come earlier when a lease is settled.
    pub fn idle_from(&self) -> Micros {
        let leases_end = self.leases.ended_from();
        self.charged.last().map_or(Micros::ZERO, |last| self.frees_at(last.index)).max(leases_end)
    }

    /// The latest moment at which it was changed: its time does not step back behind it.
    pub const fn latest(&self) -> Micros {
        self.latest
    }

    fn is_cut_like(&self, frame: Frame) -> bool {
        self.width == frame.width && self.parts == frame.parts
    }

    /// The same charges under another frame, none of them earlier than it was.
    fn recut(&self, frame: Frame) -> Self {
        let mut recut = Self::new(frame, self.latest);
        for &Charged { index, units } in &self.charged {
            let last_moment = index.saturating_add(1).saturating_mul(self.width.0) - 1;
            recut.add(last_moment / frame.width.0, units);
        }
        recut
    }

    /// The charges that count at `now`, and their sum.
    fn counted(&self, now: Micros) -> (&[Charged], u64) {
        let expired = self.expired(now);
        let (expired, counted) = self.charged.split_at(expired);
        (counted, self.total - expired.iter().map(|charged| charged.units).sum::<u64>())
    }

    /// How many of the charges do not count any more at `now`.
    fn expired(&self, now: Micros) -> usize {
        let oldest = (now.max(self.latest).0 / self.width.0).saturating_sub(self.parts);
        self.charged.iter().take_while(|charged| charged.index < oldest).count()
    }

    /// The moment at which `units` of those in `counted` have stopped counting; zero where there are not so many.
    fn frees(&self, counted: &[Charged], units: u64) -> Micros {
        let mut freed = 0_u64;
        for charged in counted {
            freed = freed.saturating_add(charged.units);
            if freed >= units {
                return self.frees_at(charged.index);
            }
        }
        Micros::ZERO
    }

    /// The moment at which the units of a sub-window stop counting.
    fn frees_at(&self, index: u64) -> Micros {
        Micros(index.saturating_add(self.parts).saturating_add(1).saturating_mul(self.width.0))
    }

    fn charge(&mut self, units: u64, terms: Terms, now: Micros) {
        self.latest = now.max(self.latest);
        for expired in self.charged.drain(..self.expired(self.latest)) {
            self.total -= expired.units;
        }
        let expires = self.latest + terms.hold;
        let index = expires.0 / self.width.0;
        self.add(index, units);
        if terms.hold > Micros::ZERO {
            self.leases.open(terms.lease, units, expires, self.latest);
        }
    }

    fn add(&mut self, index: u64, units: u64) {
        let units = units.min(TOTAL_MAX - self.total);
        if units == 0 {
            return;
        }
        self.total += units;
        let place = self.charged.iter().rposition(|charged| charged.index <= index);
        match place.and_then(|place| self.charged.get_mut(place)) {
            Some(charged) if charged.index == index => charged.units = charged.units.saturating_add(units),
            _ => self.charged.insert(place.map_or(0, |place| place + 1), Charged { index, units }),
        }
    }

    fn release(&mut self, index: u64, units: u64) {
        let Some(place) = self.charged.iter().rposition(|charged| charged.index == index) else { return };
        let charged = &mut self.charged[place];
        let released = units.min(charged.units);
        charged.units -= released;
        self.total -= released;
        if charged.units == 0 {
            self.charged.remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::exact_log::{COUNTERS, ExactLog, Keeper, Log, at_once, play, traces, window};
    use super::*;

    const FRAME: Frame = Frame { units: 10, width: Micros(100), parts: 32 };
    const START: Micros = Micros(1_000_000);

    impl Keeper for [Counter; COUNTERS] {
        fn acquire(&mut self, counter: usize, terms: Terms, now: Micros) -> Grant {
            let counter = &mut self[counter];
            let before = counter.clone();
            let seen = counter.look(FRAME, terms, now);
            let grant = counter.acquire(FRAME, terms, now);
            assert_eq!(seen.outcome, grant.outcome, "a look says what an acquisition gets");
            if !matches!(grant.outcome, Outcome::Granted { units: 1.. }) {
                assert_eq!((&before, seen), (&*counter, grant), "a refusal changes nothing");
            }
            waiting_as_told_is_enough(counter, grant, terms, now);
            assert_well_formed(counter);
            grant
        }

        fn settle(&mut self, counter: usize, lease: LeaseId, used: u64, now: Micros) {
            self[counter].settle(lease, used, now);
            assert_well_formed(&self[counter]);
        }

        fn refund(&mut self, counter: usize, units: u64, now: Micros) -> u64 {
            let taken = self[counter].refund(units, now);
            assert_well_formed(&self[counter]);
            taken
        }
    }

    fn waiting_as_told_is_enough(counter: &Counter, grant: Grant, terms: Terms, now: Micros) {
        let looked = |after: Micros| counter.look(FRAME, terms, now + after);
        if let Outcome::Short { retry_after } = grant.outcome {
            assert!(matches!(looked(retry_after).outcome, Outcome::Granted { .. }));
            assert!(matches!(looked(retry_after - Micros(1)).outcome, Outcome::Short { .. }));
        }
        match grant.reset_after {
            Micros::ZERO => assert_eq!(grant.remaining, FRAME.units),
            after => {
                assert!(looked(after).remaining > grant.remaining);
                assert_eq!(looked(after - Micros(1)).remaining, grant.remaining);
            }
        }
        let idle = counter.idle_from();
        assert_eq!(counter.look(FRAME, at_once(0), idle).remaining, FRAME.units);
    }

    fn assert_well_formed(counter: &Counter) {
        assert!(counter.charged.is_sorted_by(|a, b| a.index < b.index), "{counter:?}");
        assert!(counter.charged.iter().all(|charged| charged.units > 0), "{counter:?}");
        assert_eq!(counter.charged.iter().map(|charged| charged.units).sum::<u64>(), counter.total, "{counter:?}");
        assert!(counter.charged.len() <= 40, "{counter:?}");
        let leased = counter.leases.iter();
        assert!(leased.is_sorted_by(|a, b| a.expires <= b.expires), "{counter:?}");
    }

    fn fresh() -> Counter {
        Counter::new(FRAME, Micros::ZERO)
    }

    fn lease(at_least: u64, at_most: u64, hold: u64, serial: u64) -> Terms {
        Terms { at_least, at_most, hold: Micros(hold), lease: LeaseId { replica: 1, serial } }
    }

    fn granted(grant: Grant) -> Option<u64> {
        match grant.outcome {
            Outcome::Granted { units } => Some(units),
            Outcome::Short { .. } | Outcome::Never => None,
        }
    }

    #[test]
    fn a_full_counter_says_when_the_oldest_sub_window_is_let_go() {
        let mut counter = fresh();
        assert_eq!(counter.look(FRAME, at_once(0), START).reset_after, Micros::ZERO);
        assert_eq!(granted(counter.acquire(FRAME, at_once(4), START + Micros(30))), Some(4));
        let grant = counter.acquire(FRAME, at_once(6), START + Micros(250));
        assert_eq!((granted(grant), grant.remaining), (Some(6), 0));
        // Sub-window 0 after the start counts until sub-window 33 begins.
        assert_eq!(grant.reset_after, Micros(3_300 - 250));
        let now = START + Micros(400);
        let retry = |units| counter.look(FRAME, at_once(units), now).outcome;
        assert_eq!(retry(1), Outcome::Short { retry_after: Micros(3_300 - 400) });
        assert_eq!(retry(4), Outcome::Short { retry_after: Micros(3_300 - 400) });
        assert_eq!(retry(5), Outcome::Short { retry_after: Micros(3_500 - 400) });
        assert_eq!(retry(11), Outcome::Never);
        assert_eq!(retry(u64::MAX), Outcome::Never);
        assert_eq!(retry(0), Outcome::Granted { units: 0 });
    }

    #[test]
    fn more_than_needed_is_granted_only_while_plenty_remains() {
        let mut counter = fresh();
        assert_eq!(granted(counter.acquire(FRAME, lease(1, 100, 50, 0), START)), Some(5));
        assert_eq!(granted(counter.acquire(FRAME, lease(1, 2, 50, 1), START)), Some(2));
        assert_eq!(granted(counter.acquire(FRAME, lease(1, 100, 50, 2), START)), Some(1));
        assert_eq!(granted(counter.acquire(FRAME, lease(2, 100, 50, 3), START)), Some(2));
        assert_eq!(granted(counter.acquire(FRAME, lease(1, 1, 50, 4), START)), None);
    }

    #[test]
    fn a_lease_is_charged_to_its_expiry_and_what_was_not_used_comes_back() {
        let mut counter = fresh();
        let terms = lease(8, 8, 150, 1);
        assert_eq!(counter.acquire(FRAME, terms, START).reset_after, Micros(3_400));
        counter.settle(terms.lease, 3, START + Micros(10));
        let after = counter.look(FRAME, at_once(0), START + Micros(10));
        assert_eq!((after.remaining, after.reset_after), (7, Micros(3_300 - 10)));
    }

    #[test]
    fn settling_twice_late_or_unasked_changes_nothing() {
        let mut counter = fresh();
        let terms = lease(8, 8, 150, 1);
        counter.acquire(FRAME, terms, START);
        let open = counter.clone();
        counter.settle(LeaseId { replica: 2, serial: 1 }, 0, START);
        assert_eq!(counter, open);
        let mut late = open;
        late.settle(terms.lease, 0, START + Micros(151));
        assert_eq!((late.total, late.latest), (8, START));
        // Not even when time steps back.
        late.settle(terms.lease, 0, START);
        assert_eq!((late.total, late.latest), (8, START));
        counter.settle(terms.lease, 5, START + Micros(150));
        let settled = counter.clone();
        counter.settle(terms.lease, 0, START + Micros(150));
        assert_eq!(counter, settled);
        assert_eq!(counter.total, 5);
    }

    #[test]
    fn what_was_used_beyond_a_lease_is_charged_and_later_calls_wait_for_it() {
        let mut counter = fresh();
        counter.acquire(FRAME, lease(4, 4, 150, 1), START);
        counter.settle(LeaseId { replica: 1, serial: 1 }, 17, START + Micros(100));
        let grant = counter.acquire(FRAME, at_once(1), START + Micros(100));
        assert_eq!((grant.outcome, grant.remaining), (Outcome::Short { retry_after: Micros(3_300) }, 0));
        assert_eq!(granted(counter.acquire(FRAME, at_once(10), START + Micros(3_400))), Some(10));
    }

    #[test]
    fn a_refund_takes_from_the_oldest_that_counts_and_then_from_the_next() {
        let mut counter = fresh();
        counter.acquire(FRAME, at_once(3), START);
        counter.acquire(FRAME, at_once(3), START + Micros(100));
        counter.acquire(FRAME, at_once(4), START + Micros(200));
        let now = START + Micros(3_300);
        // The first three count no more, and are not given back once again.
        assert_eq!(counter.refund(5, now), 5);
        let grant = counter.look(FRAME, at_once(0), now);
        assert_eq!((grant.remaining, grant.reset_after), (8, Micros(200 - 100 + 100)));
        assert_eq!(counter.refund(u64::MAX, now), 2);
        assert_eq!(counter.refund(1, now), 0);
        assert_eq!(granted(counter.acquire(FRAME, at_once(10), now)), Some(10));
        assert_well_formed(&counter);
    }

    #[test]
    fn a_lease_whose_charge_was_refunded_counts_as_spent_whole_but_for_what_was_used_beyond() {
        for (used, left) in [(0, 2), (5, 2), (6, 1), (9, 0)] {
            let mut counter = fresh();
            counter.acquire(FRAME, lease(5, 5, 150, 1), START);
            assert_eq!(counter.refund(2, START), 2);
            counter.acquire(FRAME, at_once(5), START);
            counter.settle(lease(5, 5, 150, 1).lease, used, START);
            counter.settle(lease(5, 5, 150, 1).lease, 0, START);
            assert_eq!(counter.look(FRAME, at_once(0), START).remaining, left, "{used}");
            assert_well_formed(&counter);
        }
    }

    #[test]
    fn a_counter_with_an_open_lease_is_not_idle_even_if_its_charge_was_refunded() {
        let mut counter = fresh();
        counter.acquire(FRAME, lease(5, 5, 90_000, 1), START);
        counter.refund(5, START);
        assert!(counter.idle_from() > START + Micros(90_000));
    }

    #[test]
    fn sums_stay_bounded_whatever_is_claimed() {
        let mut counter = fresh();
        for serial in 0..2_000 {
            counter.acquire(FRAME, lease(1, 1, 100, serial), START);
            counter.leases.open(lease(1, 1, 100, serial).lease, 1, START + Micros(100), START);
            counter.settle(lease(1, 1, 100, serial).lease, u64::MAX, START);
        }
        assert_eq!(counter.total, TOTAL_MAX);
        assert_well_formed(&counter);
    }

    #[test]
    fn a_lease_that_takes_anothers_name_leaves_that_one_spent_whole() {
        let mut counter = fresh();
        counter.acquire(FRAME, lease(4, 4, 150, 1), START);
        counter.acquire(FRAME, lease(3, 3, 150, 1), START);
        counter.settle(LeaseId { replica: 1, serial: 1 }, 0, START);
        counter.settle(LeaseId { replica: 1, serial: 1 }, 0, START);
        assert_eq!(counter.total, 4);
    }

    #[test]
    fn a_forgotten_counter_has_everything_left_and_no_lease_to_settle() {
        let mut counter = fresh();
        counter.acquire(FRAME, lease(9, 9, 150, 1), START);
        counter.forget();
        counter.acquire(FRAME, at_once(10), START + Micros(150));
        counter.settle(LeaseId { replica: 1, serial: 1 }, 0, START + Micros(150));
        assert_eq!(counter.look(FRAME, at_once(0), START + Micros(150)).remaining, 0);
    }

    #[test]
    fn a_lower_limit_holds_at_once_and_a_higher_one_has_room_at_once() {
        let mut counter = fresh();
        counter.acquire(FRAME, at_once(8), START);
        let lower = Frame { units: 5, ..FRAME };
        let grant = counter.look(lower, at_once(1), START);
        assert_eq!((grant.remaining, grant.outcome), (0, Outcome::Short { retry_after: Micros(3_300) }));
        assert_eq!(counter.look(lower, at_once(6), START).outcome, Outcome::Never);
        assert_eq!(granted(counter.acquire(Frame { units: 20, ..FRAME }, at_once(12), START)), Some(12));
    }

    #[test]
    fn a_window_of_another_length_still_counts_what_was_charged() {
        let mut counter = fresh();
        let terms = lease(6, 6, 40, 1);
        counter.acquire(FRAME, terms, START);
        for width in [1, 7, 99, 101, 10_000, u64::MAX] {
            let other = Frame { width: Micros(width), ..FRAME };
            let before = counter.clone();
            let grant = counter.look(other, at_once(5), START + Micros(99));
            assert_eq!(grant.remaining, 4, "{width}");
            assert!(matches!(grant.outcome, Outcome::Short { .. }), "{width}");
            assert_eq!(counter, before);
            let mut changed = counter.clone();
            assert_eq!(granted(changed.acquire(other, at_once(4), START + Micros(99))), Some(4), "{width}");
            changed.settle(terms.lease, 0, START + Micros(40));
            assert_eq!(changed.total, 10, "the lease counts as spent whole");
        }
    }

    #[test]
    fn the_ends_of_time_and_of_numbers_do_no_harm() {
        let mut counter = fresh();
        for now in [u64::MAX, 0, u64::MAX - 1] {
            let terms = lease(1, u64::MAX, u64::MAX, now);
            let _ = counter.acquire(FRAME, terms, Micros(now));
            counter.settle(terms.lease, u64::MAX, Micros(now));
        }
        // Its time has reached the end, where nothing returns any more.
        let end = Outcome::Short { retry_after: Micros(u64::MAX) };
        assert_eq!(counter.look(FRAME, at_once(10), Micros(0)).outcome, end);
    }

    /// Two leases end in one sub-window. Of the first, which is spent, calls are cancelled; then it is settled, and the
    /// other is spent to its end.
    #[test]
    fn a_refund_takes_nothing_from_beneath_another_lease() {
        let frame = Frame { units: 100, width: Micros(100), parts: 32 };
        let lease = |serial| LeaseId { replica: 1, serial };
        let terms = |serial| Terms { at_least: 25, at_most: 25, hold: Micros(160), lease: lease(serial) };
        let mut counter = Counter::new(frame, Micros::ZERO);
        let start = Micros(100_000);
        for serial in [1, 2] {
            counter.acquire(frame, terms(serial), start);
        }
        assert_eq!(counter.refund(25, start + Micros(1)), 25);
        counter.settle(lease(1), 25, start + Micros(2));
        // The other lease's 25 can be spent until its end; this is less than a window later.
        let (spent, later) = (start + Micros(160), start + Micros(3_300));
        assert!(later < spent + Micros(3_200));
        let left = counter.look(frame, at_once(0), later).remaining;
        assert!(left <= 75, "{left}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// The promise, with its exact waiting times and its harmless steps back in time.
        #[test]
        fn no_interval_as_long_as_the_window_holds_more_than_the_limit(
            trace in traces(FRAME.units, 150),
            start in 0..100_000_u64,
        ) {
            let mut counters = [fresh(), fresh(), fresh()];
            let logs = play(&trace, window(FRAME), Micros(start), &mut counters);
            for log in &logs {
                prop_assert!(log.most_in_any(window(FRAME)) <= FRAME.units);
            }
        }

        /// The same when the window's length changes on the way: the promise of the limit in force, as far as the
        /// shortest window so far lets one know.
        #[test]
        fn a_changed_window_keeps_the_promise_for_what_is_known(
            widths in prop::collection::vec(1..300_u64, 2..5),
            asks in prop::collection::vec((0..400_u64, 1..5_u64), 1..100),
        ) {
            let mut counter = fresh();
            let mut log = Log::default();
            let mut now = START;
            let shortest = widths.iter().copied().min().unwrap_or(1);
            for (turn, (wait, units)) in asks.into_iter().enumerate() {
                now = now + Micros(wait);
                let frame = Frame { width: Micros(widths[turn / 20 % widths.len()]), ..FRAME };
                if granted(counter.acquire(frame, at_once(units), now)).is_some() {
                    log.spend(now, units);
                }
            }
            prop_assert!(log.most_in_any(Micros(shortest * FRAME.parts)) <= FRAME.units);
        }

        /// At least 1 − 2/B of what an exact log admits, under steady excess demand, whether units are spent at once
        /// or leased for W/20 and settled when used.
        #[test]
        fn steady_excess_demand_gets_nearly_what_an_exact_log_admits(
            units in 1..30_u64,
            pause in 5..60_u64,
            start in 0..10_000_u64,
            leased in any::<bool>(),
        ) {
            let frame = Frame { units, ..FRAME };
            let hold = if leased { window(frame).0 / 20 } else { 0 };
            let mut counter = Counter::new(frame, Micros::ZERO);
            let mut exact = ExactLog::new(units, window(frame));
            let (mut got, mut admitted, mut unsettled) = (0, 0, None);
            for now in (start..start + 60 * window(frame).0).step_by(usize::try_from(pause).unwrap_or(1)).map(Micros) {
                if let Some(used) = unsettled.take() {
                    counter.settle(used, 1, now);
                }
                let terms = lease(1, 1, hold, now.0);
                if granted(counter.acquire(frame, terms, now)).is_some() {
                    got += 1;
                    unsettled = Some(terms.lease);
                }
                admitted += u64::from(exact.admits(1, now));
            }
            prop_assert!(got * 32 >= admitted * 30, "{got} of {admitted}");
        }
    }
}
