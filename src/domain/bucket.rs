//! The token bucket, in the form of the generic cell rate algorithm (GCRA, ITU-T I.371 annex A).
//!
//! A bucket holds at most `burst` units and gains `rate` of them over time, evenly. A charge takes its units out, or
//! nothing where they are not all there. So in any interval of length `t` at most `burst + rate · t` are admitted.
//!
//! Everything is whole numbers, so nothing drifts, however odd the rate. With the rate in lowest terms, `gain` units in
//! `unit` microseconds, a unit is counted as `unit` parts, and each microsecond gives back `gain` of them. GCRA's
//! theoretical arrival time is the moment at which all parts are back.

use super::leases::Leases;
use super::limit::{UNITS_MAX, WINDOW_MAX};
use super::time::Micros;
use super::window::{Grant, LeaseId, Outcome, Terms};

/// The most parts that a bucket may have: Redis scripts count in doubles, which are exact up to here.
const PARTS_MAX: u64 = (1 << 53) - 1;

/// How a bucket fills: what the arithmetic needs to know. Made by [`Flow::new`] only, which checks that it is exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    burst: u64,
    gain: u64,
    unit: u64,
}

impl Flow {
    /// A bucket of `burst` units that gains `rate` of them each `per`. None where one of them is zero, or the burst is
    /// more than [`Flow::burst_max`].
    pub const fn new(rate: u64, per: Micros, burst: u64) -> Option<Self> {
        if burst == 0 || burst > Self::burst_max(rate, per) {
            return None;
        }
        let divisor = common_divisor(rate, per.0);
        Some(Self { burst, gain: rate / divisor, unit: per.0 / divisor })
    }

    /// The largest burst that a bucket of this rate may have. It fills within [`WINDOW_MAX`], and its parts can be
    /// counted exactly; the latter is felt with large odd rates per day only. Zero where rate or time is zero.
    pub const fn burst_max(rate: u64, per: Micros) -> u64 {
        if rate == 0 || per.0 == 0 || rate > UNITS_MAX || per.0 > WINDOW_MAX.0 {
            return 0;
        }
        let unit = per.0 / common_divisor(rate, per.0);
        // At most 10^12 · 2^45 fit in 128 bits; the quotient may not fit in 64, and need not.
        let filled = WINDOW_MAX.0 as u128 * rate as u128 / per.0 as u128;
        let exact = PARTS_MAX / unit;
        let most = if exact < UNITS_MAX { exact } else { UNITS_MAX };
        #[expect(clippy::cast_possible_truncation, reason = "the smaller one is taken")]
        if filled < most as u128 { filled as u64 } else { most }
    }

    /// A bucket with one part in so many of this one's burst and rate. None where that is less than a unit.
    pub fn share(self, parts: u32) -> Option<Self> {
        let parts = u64::from(parts.max(1));
        Self::new(self.gain, Micros(self.unit.saturating_mul(parts)), self.burst / parts)
    }

    /// The most units that it holds. At least 1.
    pub const fn burst(self) -> u64 {
        self.burst
    }

    /// Parts that come back each microsecond. At least 1.
    pub const fn gain(self) -> u64 {
        self.gain
    }

    /// The parts of one unit. At least 1.
    pub const fn unit(self) -> u64 {
        self.unit
    }

    /// The time in which an empty bucket fills. At least 1 µs, at most [`WINDOW_MAX`].
    pub const fn fills_in(self) -> Micros {
        self.gains(self.parts())
    }

    /// The most parts that are out, more than all units included: they are back within [`WINDOW_MAX`].
    fn owed_max(self) -> u64 {
        self.gain.saturating_mul(WINDOW_MAX.0).min(PARTS_MAX)
    }

    /// The parts of all units.
    const fn parts(self) -> u64 {
        self.burst * self.unit
    }

    /// The least time in which so many parts come back.
    const fn gains(self, parts: u64) -> Micros {
        Micros(parts.div_ceil(self.gain))
    }
}

const fn common_divisor(a: u64, b: u64) -> u64 {
    let (mut a, mut b) = (a, b);
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// What has been taken out of one bucket and is not back yet.
///
/// Time never steps back for it: an earlier `now` counts as the latest one at which it was changed. Times in a
/// [`Grant`] are counted from the `now` that was given, so that whoever waits by the same clock is served.
///
/// A settled reservation may leave more used than the bucket holds: later charges wait until that is back, too. It is
/// never more than comes back within [`WINDOW_MAX`].
///
/// When the limit's definition changes, units that were used stay used, at most the whole bucket. With another rate,
/// part of a unit counts as a whole one, and the time since the latest charge counts at the new rate. So at worst a
/// bucket is as full as a fresh one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    flow: Flow,
    /// The latest moment at which it was changed.
    latest: Micros,
    /// Parts used as of `latest`.
    used: u64,
    leases: Leases,
}

impl Level {
    /// A full bucket whose time begins at `since`.
    pub const fn new(flow: Flow, since: Micros) -> Self {
        Self { flow, latest: since, used: 0, leases: Leases::none() }
    }

    /// What [`Level::acquire`] would grant, with what is left and returns now: nothing is charged.
    pub fn look(&self, flow: Flow, terms: Terms, now: Micros) -> Grant {
        let at = now.max(self.latest);
        let used = self.used(flow, at);
        let remaining = flow.parts().saturating_sub(used) / flow.unit;
        // Parts that must come back before so many units, at most the burst, are there.
        let missing = |units: u64| used - (flow.parts() - units * flow.unit);
        let back = |units: u64| (at + flow.gains(missing(units))).since(now);
        let outcome = match terms.at_least {
            never if never > flow.burst => Outcome::Never,
            least if least <= remaining => Outcome::Granted { units: least },
            least => Outcome::Short { retry_after: back(least) },
        };
        let reset_after = if used == 0 { Micros::ZERO } else { back(remaining + 1) };
        Grant { outcome, remaining, reset_after }
    }

    /// Takes exactly `at_least` units out, or changes nothing. They are out from now on, even where they are held to be
    /// spent later.
    pub fn acquire(&mut self, flow: Flow, terms: Terms, now: Micros) -> Grant {
        let grant = self.look(flow, terms, now);
        let units = match grant.outcome {
            Outcome::Granted { units } if units > 0 => units,
            Outcome::Granted { .. } | Outcome::Short { .. } | Outcome::Never => return grant,
        };
        let latest = now.max(self.latest);
        self.change(flow, self.used(flow, latest), latest);
        self.used += units * flow.unit;
        if terms.hold > Micros::ZERO {
            self.leases.open(terms.lease, units, latest + terms.hold, latest);
        }
        let Grant { remaining, reset_after, .. } = self.look(flow, terms, now);
        Grant { outcome: grant.outcome, remaining, reset_after }
    }

    /// Ends a lease: units that were not used go back, as far as the bucket is not full yet; what was used beyond the
    /// lease's units, at most [`UNITS_MAX`] in all, is taken out, even where it is not there. A lease that is unknown,
    /// settled already or past its expiry is left as it is: spent whole. So is one whose bucket was reset or full since
    /// it was taken: the flow has brought its units back, and they may be spent again already.
    pub fn settle(&mut self, lease: LeaseId, used: u64, now: Micros) {
        let (used, at) = (used.min(UNITS_MAX), now.max(self.latest));
        let Some(ended) = self.leases.end(lease, at) else { return };
        let (flow, level) = (self.flow, self.used(self.flow, at));
        let back = level.min(ended.unused(used).saturating_mul(flow.unit));
        let beyond = ended.beyond(used).saturating_mul(flow.unit);
        if back > 0 || beyond > 0 {
            self.change(flow, level, at);
            self.used = level.saturating_sub(back).saturating_add(beyond).min(flow.owed_max());
        }
    }

    /// Puts up to `units` back that were taken out and are not back yet, and answers how many: one that is back in part
    /// counts whole. A bucket does not know when its units were taken, so it gains them now: in any interval of
    /// length `t` at most `burst + rate · t` are admitted, and what was refunded in it.
    pub fn refund(&mut self, units: u64, now: Micros) -> u64 {
        let at = now.max(self.latest);
        let (flow, level) = (self.flow, self.used(self.flow, at));
        let taken = level.div_ceil(flow.unit).min(units);
        if taken > 0 {
            self.change(flow, level, at);
            self.used = level.saturating_sub(taken.saturating_mul(flow.unit));
        }
        taken
    }

    /// Goes on from `used` parts at `at`. Leases of a bucket that was full meanwhile have nothing to give back.
    fn change(&mut self, flow: Flow, used: u64, at: Micros) {
        if used == 0 {
            self.leases.outlive_their_charges();
        }
        (self.flow, self.latest, self.used) = (flow, at, used);
    }

    /// Forgets everything but the time. Leases that are open have nothing to give back then.
    pub fn forget(&mut self) {
        self.used = 0;
        self.leases.outlive_their_charges();
    }

    /// The moment from which it is full and no lease is open, unless more is charged: from then on it is as good as a
    /// new one.
    pub fn idle_from(&self) -> Micros {
        let full = if self.used == 0 { Micros::ZERO } else { self.latest + self.flow.gains(self.used) };
        full.max(self.leases.ended_from())
    }

    /// The latest moment at which it was changed: its time does not step back behind it.
    pub const fn latest(&self) -> Micros {
        self.latest
    }

    /// Parts used as of `at`, which is not before `latest`.
    fn used(&self, flow: Flow, at: Micros) -> u64 {
        let used = if self.flow == flow {
            self.used
        } else if self.flow.unit == flow.unit {
            self.used.min(flow.parts())
        } else {
            self.used.div_ceil(self.flow.unit).min(flow.burst) * flow.unit
        };
        used.saturating_sub(at.since(self.latest).0.saturating_mul(flow.gain))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use proptest::prelude::*;

    use super::*;
    use crate::domain::exact_log::at_once;

    const START: Micros = Micros::from_secs(1_000_000);
    const SECOND: Micros = Micros::from_secs(1);
    const DAY: Micros = Micros::from_secs(86_400);

    fn flow(rate: u64, per: Micros, burst: u64) -> Flow {
        Flow::new(rate, per, burst).unwrap()
    }

    fn take(level: &mut Level, flow: Flow, units: u64, now: Micros) -> Outcome {
        let before = level.clone();
        let seen = level.look(flow, at_once(units), now);
        let grant = level.acquire(flow, at_once(units), now);
        assert_eq!(seen.outcome, grant.outcome, "a look says what an acquisition gets");
        if !matches!(grant.outcome, Outcome::Granted { units: 1.. }) {
            assert_eq!((before, seen), (level.clone(), grant), "a refusal changes nothing");
        }
        waiting_as_told_is_enough(level, flow, grant, units, now);
        grant.outcome
    }

    fn waiting_as_told_is_enough(level: &Level, flow: Flow, grant: Grant, units: u64, now: Micros) {
        let looked = |after: Micros| level.look(flow, at_once(units), now + after);
        if let Outcome::Short { retry_after } = grant.outcome {
            assert!(matches!(looked(retry_after).outcome, Outcome::Granted { .. }));
            assert!(matches!(looked(retry_after - Micros(1)).outcome, Outcome::Short { .. }));
        }
        match grant.reset_after {
            Micros::ZERO => assert_eq!(grant.remaining, flow.burst()),
            after => {
                assert!(looked(after).remaining > grant.remaining);
                assert_eq!(looked(after - Micros(1)).remaining, grant.remaining);
            }
        }
        assert_eq!(level.look(flow, at_once(0), level.idle_from()).remaining, flow.burst());
    }

    const fn granted(units: u64) -> Outcome {
        Outcome::Granted { units }
    }

    const fn short(micros: u64) -> Outcome {
        Outcome::Short { retry_after: Micros(micros) }
    }

    #[test]
    fn a_full_bucket_gives_its_burst_and_then_its_rate() {
        let flow = flow(10, SECOND, 20);
        let mut level = Level::new(flow, Micros::ZERO);
        assert_eq!(take(&mut level, flow, 20, START), granted(20));
        assert_eq!(take(&mut level, flow, 1, START), short(100_000));
        assert_eq!(take(&mut level, flow, 3, START + Micros(1)), short(299_999));
        assert_eq!(take(&mut level, flow, 1, START + Micros(100_000)), granted(1));
        assert_eq!(take(&mut level, flow, 20, START + Micros(100_000)), short(2_000_000));
        assert_eq!(take(&mut level, flow, 20, START + Micros(2_100_000)), granted(20));
        assert_eq!(take(&mut level, flow, 21, START + DAY), Outcome::Never);
        assert_eq!(take(&mut level, flow, u64::MAX, START), Outcome::Never);
        assert_eq!(take(&mut level, flow, 0, START), granted(0));
        assert_eq!(flow.fills_in(), Micros::from_secs(2));
    }

    /// A third of a second is no whole number of microseconds; a million units later not one is missing or too many.
    #[test]
    fn an_odd_rate_does_not_drift() {
        let flow = flow(3, SECOND, 1);
        let mut level = Level::new(flow, START);
        let (mut now, mut got) = (START, 0);
        while got < 30_000 {
            match level.acquire(flow, at_once(1), now).outcome {
                Outcome::Granted { .. } => got += 1,
                Outcome::Short { retry_after } => now = now + retry_after,
                Outcome::Never => unreachable!(),
            }
        }
        // Each of them is up to a microsecond late by the clock's grain, and none of that adds up.
        let elapsed = now.since(START).0;
        assert!((9_999_666_667..=9_999_666_667 + 30_000).contains(&elapsed), "{elapsed}");
        level.forget();
        let full = Flow { burst: 30_000, ..flow };
        level.acquire(full, at_once(30_000), now);
        assert_eq!(level.idle_from().since(now), Micros::from_secs(10_000));
    }

    #[test]
    fn a_flow_is_exact_or_there_is_none() {
        for (rate, per, burst) in [(0, SECOND, 1), (1, Micros::ZERO, 1), (1, SECOND, 0), (u64::MAX, SECOND, 1)] {
            assert_eq!(Flow::new(rate, per, burst), None);
        }
        // One a day fills 366 units in the longest time; seven a day could not count 104,250 exactly.
        assert_eq!(Flow::burst_max(1, DAY), 366);
        assert_eq!(Flow::burst_max(1_000_003, DAY), 104_249);
        assert_eq!(Flow::burst_max(1_000_000, DAY), 366_000_000);
        assert_eq!(Flow::burst_max(UNITS_MAX, SECOND), UNITS_MAX);
        for (rate, per) in [(1, DAY), (1_000_003, DAY), (7, SECOND), (UNITS_MAX, SECOND), (UNITS_MAX, DAY)] {
            let most = Flow::burst_max(rate, per);
            assert!(Flow::new(rate, per, most).is_some() && Flow::new(rate, per, most + 1).is_none(), "{rate} {per}");
            let flow = flow(rate, per, most);
            assert!(flow.parts() <= PARTS_MAX && flow.fills_in() <= WINDOW_MAX);
            let mut level = Level::new(flow, START);
            assert_eq!(take(&mut level, flow, most, START), granted(most));
            assert!(matches!(take(&mut level, flow, most, START), Outcome::Short { .. }));
        }
    }

    #[test]
    fn a_changed_limit_keeps_what_was_used_and_no_more_than_the_whole_bucket() {
        let old = flow(10, SECOND, 20);
        let mut level = Level::new(old, START);
        level.acquire(old, at_once(10), START);
        let left = |new| level.look(new, at_once(1), START).remaining;
        assert_eq!(left(flow(10, SECOND, 30)), 20);
        assert_eq!(left(flow(10, SECOND, 5)), 0);
        assert_eq!(left(flow(1, SECOND, 20)), 10);
        assert_eq!(left(flow(1, SECOND, 5)), 0);
        // Half a unit is back, which another rate rounds away.
        let now = START + Micros(50_000);
        level.acquire(old, at_once(1), now);
        assert_eq!(level.look(flow(1, SECOND, 20), at_once(1), now).remaining, 9);
        assert_eq!(level.look(flow(1, SECOND, 5), at_once(1), now).outcome, short(1_000_000));
    }

    #[test]
    fn time_that_steps_back_returns_nothing() {
        let flow = flow(1, SECOND, 5);
        let mut level = Level::new(flow, Micros::ZERO);
        take(&mut level, flow, 5, START);
        assert_eq!(take(&mut level, flow, 1, START - DAY), short(DAY.0 + 1_000_000));
        level.forget();
        assert_eq!(take(&mut level, flow, 5, Micros::ZERO), granted(5));
        assert_eq!(take(&mut level, flow, 1, START), short(1_000_000));
    }

    #[test]
    fn the_ends_of_time_do_no_harm() {
        let flow = flow(7, DAY, 5);
        let mut level = Level::new(flow, Micros::ZERO);
        for now in [0, u64::MAX, 0, u64::MAX - 1] {
            let _ = level.acquire(flow, at_once(3), Micros(now));
        }
    }

    fn reserve(level: &mut Level, flow: Flow, units: u64, hold: Micros, serial: u64, now: Micros) -> LeaseId {
        let lease = LeaseId { replica: 1, serial };
        let grant = level.acquire(flow, Terms { hold, lease, ..at_once(units) }, now);
        assert_eq!(grant.outcome, granted(units));
        lease
    }

    #[test]
    fn a_reservation_is_settled_by_the_truth_also_beyond_the_burst() {
        let ten = flow(10, SECOND, 20);
        let mut level = Level::new(ten, Micros::ZERO);
        let lease = reserve(&mut level, ten, 15, SECOND, 1, START);
        level.settle(lease, 12, START);
        assert_eq!(level.look(ten, at_once(0), START).remaining, 8);
        let lease = reserve(&mut level, ten, 5, SECOND, 2, START);
        level.settle(lease, 35, START);
        level.settle(lease, 0, START);
        let after = Micros::from_millis(2_800);
        assert_eq!(take(&mut level, ten, 1, START), Outcome::Short { retry_after: after });
        assert_eq!(take(&mut level, ten, 1, START + after), granted(1));
        // A debt is forgiven by another definition: at most the whole bucket.
        let more = flow(10, SECOND, 21);
        assert_eq!(
            level.look(more, at_once(21), START + after).outcome,
            Outcome::Short { retry_after: Micros(2_000_000) }
        );
    }

    #[test]
    fn a_bucket_that_was_full_since_gives_a_reservation_nothing_back() {
        let ten = flow(10, SECOND, 10);
        let mut level = Level::new(ten, Micros::ZERO);
        let lease = reserve(&mut level, ten, 10, DAY, 1, START);
        let later = START + SECOND;
        assert_eq!(take(&mut level, ten, 10, later), granted(10));
        level.settle(lease, 0, later);
        assert_eq!(level.look(ten, at_once(0), later).remaining, 0);
        // The truth is charged all the same, and a bucket with an open lease is not let go of.
        let lease = reserve(&mut level, ten, 1, DAY, 2, later + SECOND);
        assert!(level.idle_from() > later + DAY);
        level.settle(lease, 11, later + DAY);
        assert_eq!(level.look(ten, at_once(0), later + DAY).remaining, 0);
        let late = reserve(&mut level, ten, 10, SECOND, 3, later + DAY + DAY);
        level.settle(late, 0, later + DAY + DAY + SECOND + Micros(1));
        level.settle(late, 999, later + DAY + DAY + SECOND + SECOND);
        assert_eq!(level.look(ten, at_once(0), later + DAY + DAY + SECOND + SECOND).remaining, 10);
    }

    #[test]
    fn no_claim_closes_a_bucket_for_longer_than_a_year() {
        for (rate, per, burst) in [(1, 1, 7), (1, 86_400, 366), (7, 86_400, 5), (UNITS_MAX, 1, UNITS_MAX)] {
            let flow = flow(rate, Micros::from_secs(per), burst);
            let mut level = Level::new(flow, Micros::ZERO);
            for serial in 0..3 {
                level.forget();
                let lease = reserve(&mut level, flow, burst, SECOND, serial, START);
                level.settle(lease, u64::MAX, START);
                assert!(level.idle_from() <= START + WINDOW_MAX + Micros(1), "{rate} {per}");
                assert!(matches!(level.look(flow, at_once(1), START).outcome, Outcome::Short { .. }));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// The promise, with its exact waiting times, also when time steps back.
        #[test]
        fn no_interval_admits_more_than_the_burst_and_what_the_rate_gives_in_it(
            (rate, per, burst) in (1..50_u64, 1..3_000_u64, 1..30_u64),
            asks in prop::collection::vec((0..2_000_u64, 0..200_u64, 0..32_u64), 1..120),
        ) {
            let flow = flow(rate, Micros(per), burst);
            let mut level = Level::new(flow, Micros::ZERO);
            let mut now = START;
            // Moments on the bucket's own time, which never steps back.
            let mut admitted: Vec<(Micros, u64)> = Vec::new();
            for (forward, back, units) in asks {
                now = (now + Micros(forward)) - Micros(back);
                if let Outcome::Granted { units: 1.. } = take(&mut level, flow, units, now) {
                    admitted.push((level.latest(), units));
                }
            }
            for (first, &(from, _)) in admitted.iter().enumerate() {
                let mut sum = 0;
                for &(to, units) in &admitted[first..] {
                    sum += units;
                    // sum ≤ burst + rate · t, without a division.
                    prop_assert!(sum * per <= burst * per + rate * to.since(from).0);
                }
            }
        }

        /// The same with refunds, and with reservations of which a part comes back: what was given back in an interval
        /// may be admitted in it once more, and nothing else.
        #[test]
        fn no_interval_admits_more_than_its_share_and_what_was_given_back_in_it(
            (rate, per, burst) in (1..50_u64, 1..3_000_u64, 1..30_u64),
            steps in prop::collection::vec((0..2_000_u64, 0..32_u64, 0..5_u8, 0..4_000_u64), 1..150),
        ) {
            let flow = flow(rate, Micros(per), burst);
            let mut level = Level::new(flow, Micros::ZERO);
            let mut now = START;
            let mut changes: Vec<(Micros, u64, u64)> = Vec::new();
            let mut reserved: Vec<(LeaseId, u64)> = Vec::new();
            for (serial, (wait, units, what, hold)) in (0..).zip(steps) {
                now = now + Micros(wait);
                let free = level.look(flow, at_once(0), now).remaining;
                match (what, reserved.pop()) {
                    (0, _) => {
                        let back = level.refund(units, now);
                        prop_assert!(back <= units && level.look(flow, at_once(0), now).remaining <= free + back);
                        changes.push((now, 0, back));
                    }
                    (1, Some((lease, held))) => {
                        let used = units.min(held);
                        level.settle(lease, used, now);
                        level.settle(lease, 0, now);
                        prop_assert!(level.look(flow, at_once(0), now).remaining <= free + held - used);
                        changes.push((now, 0, held - used));
                    }
                    (_, kept) => {
                        reserved.extend(kept);
                        let lease = LeaseId { replica: 1, serial };
                        let hold = if what == 2 { Micros(hold) } else { Micros::ZERO };
                        let terms = Terms { hold, lease, ..at_once(units) };
                        if let Outcome::Granted { units: 1.. } = level.acquire(flow, terms, now).outcome {
                            changes.push((now, units, 0));
                            reserved.push((lease, units));
                        }
                    }
                }
            }
            for (first, &(from, ..)) in changes.iter().enumerate() {
                let (mut sum, mut back) = (0, 0);
                for &(to, units, given) in &changes[first..] {
                    (sum, back) = (sum + units, back + given);
                    prop_assert!(sum * per <= (burst + back) * per + rate * to.since(from).0);
                }
            }
        }

        /// Nothing is withheld either: under constant excess demand all that the rate gives is had.
        #[test]
        fn constant_excess_demand_gets_all_that_there_is(rate in 1..50_u64, per in 1..3_000_u64, burst in 1..30_u64) {
            let flow = flow(rate, Micros(per), burst);
            let mut level = Level::new(flow, START);
            let (mut got, end) = (0, 5_000_u64);
            for now in 0..=end {
                while let Outcome::Granted { .. } = level.acquire(flow, at_once(1), START + Micros(now)).outcome {
                    got += 1;
                }
            }
            // What comes back within a microsecond beside a part of a unit spills where the bucket cannot hold both.
            if per + rate <= burst * per {
                prop_assert_eq!(got, burst + rate * end / per);
            }
        }
    }
}
