//! Concurrency: so many units may be held at a time, each until it is released or its time is up.
//!
//! Nothing is used up here: what counts is what is held at the same time, such as calls that are being served. Whoever
//! acquires units holds them under the name of a lease, and settles it when done. The units of one that never does,
//! because it crashed, come back when its time is up.

use super::leases::{LEASES_MAX, Leases};
use super::time::Micros;
use super::window::{Grant, LeaseId, Outcome, Terms};

/// The most units that a limit of this kind may have: a store keeps each holder.
pub const SLOTS_MAX: u64 = LEASES_MAX as u64;

/// Units that are taken within a while come back at the same moment, as many such moments as this in a hold: so a store
/// that is asked often looks at many of them at once.
const MOMENTS_PER_HOLD: u64 = 8;

/// These are so close together at least: nobody waits longer than that beyond a hold.
const MOMENTS_APART_MAX: Micros = Micros::from_millis(100);

/// How many may be held, and for how long: what the arithmetic needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    /// At most so many units at a time. 1 to [`SLOTS_MAX`].
    pub units: u64,
    /// How long units are held that nobody releases; see [`Slots::back_at`]. It is the limit's, not the caller's: so an
    /// operator can tell when the slots of a caller that crashed are free. 1 µs to [`HOLD_MAX`](super::limit::HOLD_MAX).
    pub hold: Micros,
}

impl Slots {
    /// When units come back that are taken at `at` and never released: when their hold has passed, or later by less than an
    /// eighth of it (rounded up to whole microseconds) and less than 100 ms.
    pub fn back_at(self, at: Micros) -> Micros {
        Micros((at + self.hold).0.checked_next_multiple_of(self.apart().0).unwrap_or(u64::MAX))
    }

    /// The time between two moments at which units come back: 1 µs to 100 ms. They are its multiples.
    pub fn apart(self) -> Micros {
        Micros(self.hold.0.div_ceil(MOMENTS_PER_HOLD).clamp(1, MOMENTS_APART_MAX.0))
    }
}

/// Who holds units of one counter.
///
/// Units are held for the time from their acquisition up to, not including, the moment at which [they come
/// back](Slots::back_at). Time never steps back: an earlier `now` counts as the latest one at which it was changed.
///
/// A name is used once: leases have a name of their own each. When the limit's definition changes, holders keep what they
/// hold, for as long as they were told. With fewer units nobody acquires any until enough of them came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holders {
    /// The latest moment at which it was changed.
    latest: Micros,
    leases: Leases,
}

impl Holders {
    /// Nobody holds anything; time begins at `since`.
    pub fn new(since: Micros) -> Self {
        Self { latest: since, leases: Leases::none() }
    }

    /// What [`Holders::acquire`] would grant, with what is free and comes back now: nothing is taken. Times are counted
    /// from the `now` that was given.
    pub fn look(&self, slots: Slots, terms: Terms, now: Micros) -> Grant {
        let at = now.max(self.latest);
        let held = || self.leases.iter().filter(|held| held.expires > at);
        let used = held().fold(0_u64, |sum, held| sum.saturating_add(held.units));
        let remaining = slots.units.saturating_sub(used);
        let outcome = match terms.at_least {
            never if never > slots.units => Outcome::Never,
            least if least <= remaining => Outcome::Granted { units: least },
            least => {
                let mut back = 0_u64;
                let too_many = used.saturating_add(least) - slots.units;
                let enough = held().find(|held| {
                    back = back.saturating_add(held.units);
                    back >= too_many
                });
                Outcome::Short { retry_after: enough.map_or(Micros::ZERO, |last| last.expires.since(now)) }
            }
        };
        let reset_after = held().next().map_or(Micros::ZERO, |first| first.expires.since(now));
        Grant { outcome, remaining, reset_after }
    }

    /// Takes exactly `at_least` units, to be held under the name of the lease, or changes nothing.
    pub fn acquire(&mut self, slots: Slots, terms: Terms, now: Micros) -> Grant {
        let grant = self.look(slots, terms, now);
        let units = match grant.outcome {
            Outcome::Granted { units } if units > 0 => units,
            Outcome::Granted { .. } | Outcome::Short { .. } | Outcome::Never => return grant,
        };
        self.latest = now.max(self.latest);
        let expires = slots.back_at(self.latest);
        // From its expiry on a lease counts no more, and is dropped.
        self.leases.open(terms.lease, units, expires, self.latest + Micros(1));
        let first = self.leases.iter().next().map_or(expires, |first| first.expires);
        Grant { outcome: grant.outcome, remaining: grant.remaining - units, reset_after: first.since(now) }
    }

    /// Releases what is held under that name, whatever of it was used. What is unknown, released already or came back by
    /// itself is left as it is.
    pub fn settle(&mut self, lease: LeaseId, now: Micros) {
        let at = now.max(self.latest);
        if self.leases.end(lease, at).is_some() {
            self.latest = at;
        }
    }

    /// Forgets everything but the time: who held something is not known any more.
    pub fn forget(&mut self) {
        self.leases = Leases::none();
    }

    /// The moment from which nobody holds anything, unless more is acquired. It may come earlier when units are
    /// released.
    pub fn idle_from(&self) -> Micros {
        self.leases.ended_from()
    }

    /// The latest moment at which it was changed: its time does not step back behind it.
    pub const fn latest(&self) -> Micros {
        self.latest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SLOTS: Slots = Slots { units: 10, hold: Micros(1_000) };
    const START: Micros = Micros(1_000_000);

    const fn named(units: u64, serial: u64) -> Terms {
        let lease = LeaseId { replica: 1, serial };
        Terms { at_least: units, at_most: units, hold: Micros::ZERO, lease }
    }

    fn take(holders: &mut Holders, slots: Slots, terms: Terms, now: Micros) -> Grant {
        let before = holders.clone();
        let seen = holders.look(slots, terms, now);
        let grant = holders.acquire(slots, terms, now);
        assert_eq!(seen.outcome, grant.outcome, "a look says what an acquisition gets");
        if !matches!(grant.outcome, Outcome::Granted { units: 1.. }) {
            assert_eq!((&before, seen), (&*holders, grant), "a refusal changes nothing");
        }
        let looked = |after: Micros| holders.look(slots, terms, now + after);
        if let Outcome::Short { retry_after } = grant.outcome {
            assert!(matches!(looked(retry_after).outcome, Outcome::Granted { .. }));
            assert!(matches!(looked(retry_after - Micros(1)).outcome, Outcome::Short { .. }));
        }
        if grant.reset_after > Micros::ZERO && grant.remaining > 0 {
            assert!(looked(grant.reset_after).remaining > grant.remaining);
            assert_eq!(looked(grant.reset_after - Micros(1)).remaining, grant.remaining);
        }
        grant
    }

    #[test]
    fn slots_are_held_until_they_are_released_or_their_time_is_up() {
        let mut holders = Holders::new(Micros::ZERO);
        assert_eq!(take(&mut holders, SLOTS, named(6, 1), START).remaining, 4);
        // The multiples of 125 µs, a hold's eighth, from 1,000 and 1,100 µs on.
        let short = |after| Outcome::Short { retry_after: Micros(after) };
        assert_eq!(take(&mut holders, SLOTS, named(4, 2), START + Micros(100)).reset_after, Micros(900));
        assert_eq!(take(&mut holders, SLOTS, named(1, 3), START + Micros(100)).outcome, short(900));
        assert_eq!(take(&mut holders, SLOTS, named(7, 3), START + Micros(100)).outcome, short(1_025));
        assert_eq!(take(&mut holders, SLOTS, named(11, 3), START + Micros(100)).outcome, Outcome::Never);
        holders.settle(named(0, 2).lease, START + Micros(200));
        holders.settle(named(0, 2).lease, START + Micros(200));
        assert_eq!(holders.look(SLOTS, named(0, 9), START + Micros(200)).remaining, 4);
        // A caller that crashed.
        assert_eq!(holders.look(SLOTS, named(0, 9), START + Micros(999)).remaining, 4);
        assert_eq!(holders.look(SLOTS, named(0, 9), START + Micros(1_000)).remaining, 10);
        holders.settle(named(0, 1).lease, START + Micros(1_001));
        assert_eq!(holders.latest(), START + Micros(200), "nothing was there to release");
    }

    #[test]
    fn holders_keep_what_they_hold_when_the_limit_changes() {
        let mut holders = Holders::new(Micros::ZERO);
        take(&mut holders, SLOTS, named(4, 1), START);
        take(&mut holders, SLOTS, named(4, 2), START + Micros(10));
        let fewer = Slots { units: 3, hold: Micros(50) };
        let grant = take(&mut holders, fewer, named(1, 3), START + Micros(20));
        assert_eq!((grant.remaining, grant.outcome), (0, Outcome::Short { retry_after: Micros(1_105) }));
        let later = START + Micros(1_125);
        assert_eq!(take(&mut holders, fewer, named(1, 3), later).reset_after, Micros(50));
        // With more time again, those with less come back first.
        assert_eq!(take(&mut holders, SLOTS, named(1, 4), later).reset_after, Micros(50));
    }

    #[test]
    fn a_reset_frees_everything_and_time_that_steps_back_nothing() {
        let mut holders = Holders::new(Micros::ZERO);
        take(&mut holders, SLOTS, named(10, 1), START);
        for now in [Micros::ZERO, START] {
            assert_eq!(
                holders.look(SLOTS, named(1, 2), now).outcome,
                Outcome::Short { retry_after: SLOTS.back_at(START) - now }
            );
        }
        holders.forget();
        assert_eq!(take(&mut holders, SLOTS, named(10, 2), START).remaining, 0);
        assert_eq!(holders.look(SLOTS, named(1, 3), holders.idle_from()).remaining, 10);
        let end = take(&mut holders, SLOTS, named(10, 3), Micros(u64::MAX));
        assert!(matches!(end.outcome, Outcome::Granted { .. }));
    }

    proptest! {
        /// Nobody loses what he holds too early, nobody waits for long, and few moments are to be looked at.
        #[test]
        fn units_come_back_together_after_their_hold_and_hardly_later(
            hold in 1..=3_600_000_000_u64,
            waits in prop::collection::vec(0..1_000_u64, 1..1_000),
            at in 0..4_000_000_000_000_000_u64,
        ) {
            let slots = Slots { units: 1, hold: Micros(hold) };
            let (mut now, mut moments) = (Micros(at), std::collections::BTreeSet::new());
            for wait in waits {
                // All within one hold.
                now = now + Micros(wait * hold / 1_000_000);
                let late = slots.back_at(now) - (now + slots.hold);
                prop_assert!(late.0 <= (hold - 1) / 8 && late < Micros::from_millis(100), "{late:?}");
                moments.insert(slots.back_at(now));
            }
            prop_assert!(hold > 800_000 || moments.len() <= 9, "{} moments", moments.len());
        }

        /// The promise, and that nothing is withheld: held to a list of who holds what.
        #[test]
        fn never_more_is_held_at_a_time_than_there_is(
            steps in prop::collection::vec((0..300_u64, 0..12_u64, any::<prop::sample::Index>(), any::<bool>()), 1..200),
        ) {
            let mut holders = Holders::new(Micros::ZERO);
            let mut list: Vec<(LeaseId, u64, Micros)> = Vec::new();
            let mut now = START;
            for (serial, (wait, units, pick, releases)) in (0..).zip(steps) {
                now = now + Micros(wait);
                list.retain(|(_, _, expires)| *expires > now);
                if releases && !list.is_empty() {
                    let (lease, ..) = list.swap_remove(pick.index(list.len()));
                    holders.settle(lease, now);
                    continue;
                }
                let held: u64 = list.iter().map(|(_, units, _)| units).sum();
                prop_assert!(held <= SLOTS.units);
                let terms = named(units, serial);
                let grant = take(&mut holders, SLOTS, terms, now);
                let fits = held + units <= SLOTS.units;
                prop_assert_eq!(matches!(grant.outcome, Outcome::Granted { .. }), fits);
                if fits && units > 0 {
                    list.push((terms.lease, units, SLOTS.back_at(now)));
                }
                let first = list.iter().map(|(_, _, expires)| *expires).min();
                prop_assert_eq!(grant.reset_after, first.map_or(Micros::ZERO, |first| first - now));
            }
        }
    }
}
