//! The fixed window, with the meaning of envoyproxy/ratelimit: windows begin at the multiples of their length since the
//! Unix epoch, and each admits so many units.
//!
//! So a minute begins when the clock's minute does, and a day at midnight UTC. Around an edge up to twice as much can
//! be admitted in less than a window's length: that is what this algorithm means, and what the sliding window is for.

use std::cmp::Ordering;

use super::leases::Leases;
use super::limit::{TOTAL_MAX, UNITS_MAX};
use super::time::{Micros, Moment};
use super::window::{Grant, LeaseId, Outcome, Terms};

/// What the clock is cut into, and how much each piece admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// At most so many in each window. Up to [`UNITS_MAX`]; 0, which only limits by descriptors have, refuses all that
    /// costs something.
    pub units: u64,
    /// The length of a window. [`WINDOW_MIN`](super::limit::WINDOW_MIN) to [`WINDOW_MAX`](super::limit::WINDOW_MAX).
    pub length: Micros,
}

impl Grid {
    const fn index(self, wall: Micros) -> u64 {
        wall.0 / self.length.0
    }

    /// The time until the window around `wall` ends. At least 1 µs.
    const fn left_at(self, wall: Micros) -> Micros {
        Micros(self.length.0 - wall.0 % self.length.0)
    }
}

/// For how long after its end a window is remembered, so that a clock that is set back a little meets it again.
const REMEMBERED: Micros = Micros::from_secs(1);

/// What has been charged in one window.
///
/// The wall clock says which window it is, and it may be set. Set forward, it begins a new window. Set back within the
/// window, it stays in it, and nothing returns. Set back behind it, the window goes on until as much time as it had left
/// has passed on the steady clock; then the wall clock is believed again. So no window gives a unit twice, and no clock
/// that was wrong for a while keeps a counter closed for longer than a window.
///
/// When the limit's definition changes, what was charged last stays charged, as far as the latest charge falls in
/// the new window too. A charge that the old window had let go is unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// As it was when something was charged last.
    grid: Grid,
    /// The latest moment at which something was charged.
    latest: Moment,
    /// Units charged in the window of `latest`.
    used: u64,
    leases: Leases,
}

/// Where a moment stands to the window of the latest charge.
struct Standing {
    /// Units that count.
    used: u64,
    /// Time until the window ends.
    left: Micros,
    /// What the latest moment becomes if something is charged.
    latest: Moment,
    /// Whether that begins another window.
    anew: bool,
}

impl Count {
    /// A counter to which nothing has been charged.
    pub const fn new(grid: Grid) -> Self {
        Self { grid, latest: Moment { wall: Micros::ZERO, steady: Micros::ZERO }, used: 0, leases: Leases::none() }
    }

    /// What [`Count::acquire`] would grant, with what is left and returns now: nothing is charged.
    pub fn look(&self, grid: Grid, terms: Terms, now: Moment) -> Grant {
        let Standing { used, left, .. } = self.standing(grid, now);
        let remaining = grid.units.saturating_sub(used);
        let outcome = match terms.at_least {
            never if never > grid.units => Outcome::Never,
            least if least <= remaining => Outcome::Granted { units: least },
            _ => Outcome::Short { retry_after: left },
        };
        Grant { outcome, remaining, reset_after: if used == 0 { Micros::ZERO } else { left } }
    }

    /// Grants exactly `at_least` units and charges them, or changes nothing. They are charged to this window, even where
    /// they are held to be spent later.
    pub fn acquire(&mut self, grid: Grid, terms: Terms, now: Moment) -> Grant {
        let Grant { outcome, remaining, reset_after } = self.look(grid, terms, now);
        let units = match outcome {
            Outcome::Granted { units } if units > 0 => units,
            Outcome::Granted { .. } | Outcome::Short { .. } | Outcome::Never => {
                return Grant { outcome, remaining, reset_after };
            }
        };
        let standing = self.standing(grid, now);
        self.change(grid, &standing, standing.used + units);
        if terms.hold > Micros::ZERO {
            let begun = now.steady.max(self.latest.steady);
            self.leases.open(terms.lease, units, begun + terms.hold, begun);
        }
        Grant { outcome, remaining: remaining - units, reset_after: standing.left }
    }

    /// Counts hits, whether they fit or not, as envoyproxy/ratelimit does: a window that has counted more than its units stays
    /// over until it ends, even for no hits at all, which change nothing. Never more than [`TOTAL_MAX`] are counted. What is
    /// told is as of afterwards; what does not fit is [`Outcome::Short`] however much it is.
    pub fn hit(&mut self, grid: Grid, hits: u64, now: Moment) -> Grant {
        let standing = self.standing(grid, now);
        let total = standing.used.saturating_add(hits).min(TOTAL_MAX);
        if hits > 0 {
            self.change(grid, &standing, total);
        }
        let left = standing.left;
        let outcome =
            if total <= grid.units { Outcome::Granted { units: hits } } else { Outcome::Short { retry_after: left } };
        Grant { outcome, remaining: grid.units.saturating_sub(total), reset_after: left }
    }

    /// Ends a lease: units that were not used return to the window that they were charged to, if it still goes on; what
    /// was used beyond the lease's units, at most [`UNITS_MAX`] in all, is charged to the window of `now`, even beyond the
    /// limit. A lease that is unknown, settled already or past its expiry is left as it is: spent whole.
    pub fn settle(&mut self, lease: LeaseId, used: u64, now: Moment) {
        let (used, at) = (used.min(UNITS_MAX), now.steady.max(self.latest.steady));
        let Some(ended) = self.leases.end(lease, at) else { return };
        let standing = self.standing(self.grid, now);
        let (back, beyond) = (ended.unused(used).min(standing.used), ended.beyond(used));
        if back > 0 || beyond > 0 {
            self.change(self.grid, &standing, (standing.used - back + beyond).min(TOTAL_MAX));
        }
    }

    /// Takes back up to `units` that were charged in the window of `now`, and answers how many.
    pub fn refund(&mut self, units: u64, now: Moment) -> u64 {
        let standing = self.standing(self.grid, now);
        let taken = standing.used.min(units);
        if taken > 0 {
            self.change(self.grid, &standing, standing.used - taken);
        }
        taken
    }

    /// Goes on with `used` units charged. Leases of an earlier window have nothing to give back in another.
    fn change(&mut self, grid: Grid, standing: &Standing, used: u64) {
        if standing.anew {
            self.leases.outlive_their_charges();
        }
        (self.grid, self.latest, self.used) = (grid, standing.latest, used);
    }

    /// Forgets everything but the time. Leases that are open have nothing to give back then.
    pub fn forget(&mut self) {
        self.used = 0;
        self.leases.outlive_their_charges();
    }

    /// The moment on the steady clock from which nothing counts any more and no lease is open, unless more is charged:
    /// from then on the counter is as good as a new one.
    pub fn idle_from(&self) -> Micros {
        let forgotten = self.latest.steady + self.grid.left_at(self.latest.wall) + REMEMBERED;
        forgotten.max(self.leases.ended_from())
    }

    /// The latest moment on the steady clock at which it was changed.
    pub const fn latest(&self) -> Micros {
        self.latest.steady
    }

    fn standing(&self, grid: Grid, now: Moment) -> Standing {
        let then = self.latest;
        let afresh = Standing { used: 0, left: grid.left_at(now.wall), latest: now, anew: true };
        match grid.index(now.wall).cmp(&grid.index(then.wall)) {
            Ordering::Greater => afresh,
            Ordering::Equal => {
                let latest = Moment { wall: now.wall.max(then.wall), steady: now.steady.max(then.steady) };
                Standing { used: self.used, latest, anew: false, ..afresh }
            }
            Ordering::Less => {
                let ends = then.steady + grid.left_at(then.wall);
                if now.steady >= ends {
                    return afresh;
                }
                Standing { used: self.used, left: ends.since(now.steady), latest: then, anew: false }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::exact_log::at_once;

    const MINUTE: Micros = Micros::from_secs(60);
    const GRID: Grid = Grid { units: 10, length: MINUTE };
    /// 2024-02-29 12:34:00 UTC.
    const START: Micros = Micros::from_secs(1_709_210_040);

    /// A moment at which the steady clock has run for `steady` and the wall clock is `wall` after the start.
    const fn at(wall: i64, steady: u64) -> Moment {
        Moment { wall: Micros(START.0.strict_add_signed(wall)), steady: Micros(7_000_000 + steady) }
    }

    fn even(micros: u64) -> Moment {
        Moment { wall: START + Micros(micros), steady: Micros(7_000_000 + micros) }
    }

    fn later(now: Moment, by: Micros) -> Moment {
        Moment { wall: now.wall + by, steady: now.steady + by }
    }

    fn take(count: &mut Count, units: u64, now: Moment) -> Outcome {
        let before = count.clone();
        let seen = count.look(GRID, at_once(units), now);
        let grant = count.acquire(GRID, at_once(units), now);
        assert_eq!(seen.outcome, grant.outcome, "a look says what an acquisition gets");
        if !matches!(grant.outcome, Outcome::Granted { units: 1.. }) {
            assert_eq!((before, seen), (count.clone(), grant), "a refusal changes nothing");
        }
        let looked = |after: Micros| count.look(GRID, at_once(units), later(now, after));
        if let Outcome::Short { retry_after } = grant.outcome {
            assert!(matches!(looked(retry_after).outcome, Outcome::Granted { .. }));
            assert!(matches!(looked(retry_after - Micros(1)).outcome, Outcome::Short { .. }));
        }
        match grant.reset_after {
            Micros::ZERO => assert_eq!(grant.remaining, GRID.units),
            after => {
                assert_eq!(looked(after).remaining, GRID.units);
                assert_eq!(looked(after - Micros(1)).remaining, grant.remaining);
            }
        }
        grant.outcome
    }

    const fn granted(units: u64) -> Outcome {
        Outcome::Granted { units }
    }

    const fn short(micros: u64) -> Outcome {
        Outcome::Short { retry_after: Micros(micros) }
    }

    #[test]
    fn windows_begin_with_the_clocks_minutes() {
        let mut count = Count::new(GRID);
        assert_eq!(START.0 % MINUTE.0, 0);
        assert_eq!(take(&mut count, 7, even(59_000_000)), granted(7));
        assert_eq!(take(&mut count, 4, even(59_999_999)), short(1));
        assert_eq!(take(&mut count, 3, even(59_999_999)), granted(3));
        // Twice as much around an edge: that is what it means.
        assert_eq!(take(&mut count, 10, even(60_000_000)), granted(10));
        assert_eq!(take(&mut count, 1, even(60_000_001)), short(59_999_999));
        assert_eq!(take(&mut count, 11, even(60_000_001)), Outcome::Never);
        assert_eq!(take(&mut count, u64::MAX, even(60_000_001)), Outcome::Never);
        assert_eq!(take(&mut count, 0, even(60_000_001)), granted(0));
    }

    #[test]
    fn a_clock_that_is_set_back_within_the_window_returns_nothing() {
        let mut count = Count::new(GRID);
        assert_eq!(take(&mut count, 10, at(50_000_000, 0)), granted(10));
        assert_eq!(take(&mut count, 1, at(20_000_000, 1)), short(40_000_000));
        // The time that was left has passed, but the clock still shows the window.
        assert_eq!(take(&mut count, 1, at(31_000_000, 11_000_001)), short(29_000_000));
        assert_eq!(take(&mut count, 1, at(60_000_000, 40_000_001)), granted(1));
    }

    #[test]
    fn a_clock_that_is_set_back_behind_the_window_is_believed_when_the_window_is_over() {
        let hour: i64 = 3_600_000_000;
        let mut count = Count::new(GRID);
        assert_eq!(take(&mut count, 9, at(50_000_000, 0)), granted(9));
        let back = |steady: u64| at(50_000_000 - hour + i64::try_from(steady).unwrap_or(0), steady);
        assert_eq!(take(&mut count, 2, back(1)), short(9_999_999));
        assert_eq!(take(&mut count, 1, back(2)), granted(1));
        assert_eq!(take(&mut count, 1, back(9_999_999)), short(1));
        assert_eq!(take(&mut count, 10, back(10_000_000)), granted(10));
        assert_eq!(take(&mut count, 1, back(10_000_001)), short(59_999_999));
    }

    #[test]
    fn a_clock_that_is_set_forward_begins_a_window() {
        let mut count = Count::new(GRID);
        assert_eq!(take(&mut count, 10, at(1, 0)), granted(10));
        assert_eq!(take(&mut count, 10, at(3_600_000_001, 1)), granted(10));
        assert_eq!(take(&mut count, 1, at(3_600_000_001, 1)), short(59_999_999));
    }

    #[test]
    fn a_changed_limit_counts_what_was_charged_last() {
        let mut count = Count::new(GRID);
        take(&mut count, 8, even(30_000_000));
        let left =
            |units, length, now| count.look(Grid { units, length: Micros(length) }, at_once(1), even(now)).remaining;
        assert_eq!(left(5, MINUTE.0, 31_000_000), 0);
        assert_eq!(left(20, MINUTE.0, 31_000_000), 12);
        assert_eq!(left(10, 10_000_000, 31_000_000), 2);
        assert_eq!(left(10, 10_000_000, 40_000_000), 10);
        assert_eq!(left(10, 24 * 60 * MINUTE.0, 90_000_000), 2);
    }

    #[test]
    fn a_forgotten_counter_has_everything_left() {
        let mut count = Count::new(GRID);
        take(&mut count, 8, even(30_000_000));
        count.forget();
        assert_eq!(take(&mut count, 10, even(30_000_000)), granted(10));
    }

    #[test]
    fn hits_count_whether_they_fit_or_not() {
        let mut count = Count::new(GRID);
        let mut hit = |hits, now| {
            let Grant { outcome, remaining, reset_after } = count.hit(GRID, hits, even(now));
            (matches!(outcome, Outcome::Granted { .. }), remaining, reset_after.0)
        };
        assert_eq!(hit(0, 0), (true, 10, 60_000_000));
        assert_eq!(hit(7, 1), (true, 3, 59_999_999));
        assert_eq!(hit(3, 2), (true, 0, 59_999_998));
        // All is used, and nothing more: none is not too many.
        assert_eq!(hit(0, 3), (true, 0, 59_999_997));
        assert_eq!(hit(4, 4), (false, 0, 59_999_996));
        assert_eq!(hit(0, 5), (false, 0, 59_999_995));
        assert_eq!(hit(1, MINUTE.0), (true, 9, 60_000_000));
        assert_eq!(hit(u64::MAX, MINUTE.0), (false, 0, 60_000_000));
        assert_eq!(hit(u64::MAX, MINUTE.0), (false, 0, 60_000_000));
        assert_eq!(count.refund(u64::MAX, even(MINUTE.0)), TOTAL_MAX);
    }

    #[test]
    fn the_ends_of_time_do_no_harm() {
        let mut count = Count::new(GRID);
        for (wall, steady) in [(0, u64::MAX), (u64::MAX, 0), (0, 0), (u64::MAX, u64::MAX)] {
            let _ = count.acquire(GRID, at_once(3), Moment { wall: Micros(wall), steady: Micros(steady) });
            let _ = count.idle_from();
        }
    }

    fn reserve(count: &mut Count, units: u64, serial: u64, now: Moment) -> LeaseId {
        let lease = LeaseId { replica: 1, serial };
        let grant = count.acquire(GRID, Terms { hold: MINUTE, lease, ..at_once(units) }, now);
        assert_eq!(grant.outcome, Outcome::Granted { units });
        lease
    }

    fn left(count: &Count, now: Moment) -> u64 {
        count.look(GRID, at_once(0), now).remaining
    }

    #[test]
    fn a_refund_takes_back_what_was_charged_in_this_window() {
        let mut count = Count::new(GRID);
        take(&mut count, 7, even(0));
        assert_eq!((count.refund(5, even(1)), left(&count, even(1))), (5, 8));
        assert_eq!((count.refund(5, even(2)), left(&count, even(2))), (2, 10));
        take(&mut count, 7, even(3));
        assert_eq!(count.refund(5, even(MINUTE.0)), 0);
        assert_eq!((count.refund(5, even(4)), left(&count, even(4))), (5, 8));
    }

    #[test]
    fn a_reservation_returns_to_its_own_window_and_is_charged_beyond_it_to_the_next() {
        let mut count = Count::new(GRID);
        let lease = reserve(&mut count, 8, 1, even(0));
        count.settle(lease, 3, even(10));
        count.settle(lease, 0, even(10));
        assert_eq!(left(&count, even(10)), 7);
        // Into the next window nothing returns, and what was used beyond is charged there, also beyond the limit.
        let (less, more) = (reserve(&mut count, 3, 2, even(20)), reserve(&mut count, 4, 3, even(20)));
        let next = even(MINUTE.0);
        take(&mut count, 1, next);
        count.settle(less, 0, next);
        assert_eq!(left(&count, next), 9);
        count.settle(more, 24, next);
        assert_eq!(left(&count, next), 0);
        assert_eq!(take(&mut count, 1, next), Outcome::Short { retry_after: MINUTE });
        // Late, or after a reset, nothing comes back.
        let late = reserve(&mut count, 5, 4, even(2 * MINUTE.0));
        count.settle(late, 0, even(3 * MINUTE.0 + 1));
        let after = even(2 * MINUTE.0 + 1);
        assert_eq!(left(&count, after), 5);
        count.forget();
        take(&mut count, 9, after);
        count.settle(late, 0, after);
        assert_eq!(left(&count, after), 1);
    }

    #[test]
    fn a_counter_with_an_open_lease_is_not_idle() {
        let mut count = Count::new(GRID);
        let lease = reserve(&mut count, 5, 1, even(0));
        assert!(count.idle_from() > Micros(7_000_000) + MINUTE);
        assert_eq!(count.clone().refund(9, even(0)), 5);
        count.settle(lease, u64::MAX, even(MINUTE.0));
        assert_eq!(left(&count, even(MINUTE.0)), 0);
    }

    proptest! {
        /// The promise: whatever the clock does within a second, no window of the clock holds more than its units.
        #[test]
        fn no_window_of_the_clock_admits_more_than_its_units(
            asks in prop::collection::vec((0..20_000_000_u64, -900_000..900_000_i64, 0..12_u64), 1..150),
        ) {
            let mut count = Count::new(GRID);
            let mut charged = std::collections::BTreeMap::<u64, u64>::new();
            let mut steady = 0;
            for (wait, error, units) in asks {
                steady += wait;
                // The clock's error comes and goes; on the whole it keeps up.
                let now = at(i64::try_from(steady).unwrap_or(0) + error, steady);
                if let Outcome::Granted { units: 1.. } = count.acquire(GRID, at_once(units), now).outcome {
                    // A clock that was set back behind the window is not believed.
                    let window = (count.latest.wall.0 / MINUTE.0).max(now.wall.0 / MINUTE.0);
                    *charged.entry(window).or_default() += units;
                }
            }
            prop_assert!(charged.values().all(|&units| units <= GRID.units), "{:?}", charged);
        }

        /// With clocks that agree: exact waits, nothing withheld, and idle when it says so.
        #[test]
        fn with_an_even_clock_every_answer_is_exact(
            asks in prop::collection::vec((0..40_000_000_u64, 0..12_u64), 1..100),
        ) {
            let mut count = Count::new(GRID);
            let (mut now, mut window, mut used) = (0, 0, 0);
            for (wait, units) in asks {
                now += wait;
                if now / MINUTE.0 != window {
                    (window, used) = (now / MINUTE.0, 0);
                }
                let fits = units <= GRID.units - used;
                let outcome = take(&mut count, units, even(now));
                prop_assert_eq!(matches!(outcome, Outcome::Granted { .. }), fits);
                if fits {
                    used += units;
                }
                let idle = count.idle_from().since(Micros(7_000_000));
                if used > 0 {
                    prop_assert_eq!(count.look(GRID, at_once(0), even(idle.0)).remaining, GRID.units);
                }
            }
        }
    }
}
