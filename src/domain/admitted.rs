//! How much one replica admitted of one counter within the last window: what a store that lost its data is told again.
//!
//! Three numbers: the units of this half of a window and of the two before. Together they cover the last window and at
//! most half of one more, so what is told is never too little, and at most what one and a half windows admitted.

use super::limit::SUB_WINDOWS;
use super::time::Micros;

/// The stretches of time that are told apart. All but the current one are as long as a window.
const STRETCHES: usize = 3;

/// Units admitted, by the time since they were.
///
/// `now` is always the replica's steady clock, and `window` the length of the limit's window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// When the current stretch began.
    since: Micros,
    /// The current stretch first.
    units: [u64; STRETCHES],
}

impl Admitted {
    /// Nothing was admitted before `now`.
    pub const fn nothing(now: Micros) -> Self {
        Self { since: now, units: [0; STRETCHES] }
    }

    /// So many units were admitted.
    pub fn add(&mut self, units: u64, window: Micros, now: Micros) {
        *self = self.at(window, now);
        self.units[0] = self.units[0].saturating_add(units);
    }

    /// So many of the units were not admitted after all: another limit refused. From the oldest first, so that what is
    /// left is never remembered for a shorter time than it should be.
    pub fn take_back(&mut self, units: u64) {
        let mut rest = units;
        for units in self.units.iter_mut().rev() {
            let taken = rest.min(*units);
            *units -= taken;
            rest -= taken;
        }
    }

    /// The units admitted within the last window: all of them, and perhaps some that were admitted just before.
    pub fn within(&self, window: Micros, now: Micros) -> u64 {
        self.at(window, now).units.iter().fold(0, |sum, units| sum.saturating_add(*units))
    }

    /// Goes over to a window of another length: all counts as admitted now, which is never too early.
    pub fn follow(&mut self, old: Micros, now: Micros) {
        *self = Self { since: now, units: [self.within(old, now), 0, 0] };
    }

    /// The same, with what was too long ago forgotten.
    fn at(&self, window: Micros, now: Micros) -> Self {
        let stretch = stretch(window);
        let passed = now.since(self.since).0 / stretch.0;
        let [first, second, _] = self.units;
        let units = match passed {
            0 => return *self,
            1 => [0, first, second],
            2 => [0, 0, first],
            _ => return Self::nothing(now),
        };
        Self { since: self.since + Micros(passed * stretch.0), units }
    }
}

/// Half of a window, and half of a sub-window: a store counts units for up to so much longer, and a replica's clock may
/// go faster than the store's.
const fn stretch(window: Micros) -> Micros {
    let parts = SUB_WINDOWS as u64;
    Micros((window.0 / 2).saturating_add(window.0.div_ceil(2 * parts)).saturating_add(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Micros = Micros::from_secs(32);

    #[test]
    fn what_was_admitted_counts_for_a_window_and_at_most_half_of_one_more() {
        let mut admitted = Admitted::nothing(Micros::ZERO);
        admitted.add(5, WINDOW, Micros::from_secs(3));
        assert_eq!(admitted.within(WINDOW, Micros::from_secs(3) + WINDOW), 5);
        assert_eq!(admitted.within(WINDOW, Micros::from_secs(3) + WINDOW + WINDOW), 0);
    }

    #[test]
    fn what_another_limit_refused_was_not_admitted() {
        let mut admitted = Admitted::nothing(Micros::ZERO);
        admitted.add(5, WINDOW, Micros::ZERO);
        admitted.add(2, WINDOW, Micros::from_secs(20));
        admitted.take_back(3);
        assert_eq!(admitted.within(WINDOW, Micros::from_secs(20)), 4);
        admitted.take_back(9);
        assert_eq!(admitted.within(WINDOW, Micros::from_secs(20)), 0);
    }

    #[test]
    fn a_window_of_another_length_forgets_nothing_that_counts() {
        let mut admitted = Admitted::nothing(Micros::ZERO);
        let (now, shorter) = (Micros::from_secs(15), Micros::from_secs(1));
        admitted.add(5, WINDOW, now);
        admitted.follow(WINDOW, now);
        assert_eq!(admitted.within(shorter, now + shorter), 5);
        assert_eq!(admitted.within(shorter, now + shorter + shorter), 0);
    }

    proptest! {
        /// Never too little, never more than one and a half windows (and a sub-window) admitted.
        #[test]
        fn what_is_remembered_covers_the_last_window(
            steps in prop::collection::vec((0..12_000_000_u64, 0..9_u64, any::<bool>()), 1..60),
            backs in any::<bool>(),
        ) {
            let mut admitted = Admitted::nothing(Micros::ZERO);
            let (mut now, mut log) = (Micros::ZERO, Vec::<(Micros, u64)>::new());
            for (wait, units, back) in steps {
                now = now + Micros(wait);
                admitted.add(units, WINDOW, now);
                if back && backs {
                    admitted.take_back(units);
                } else {
                    log.push((now, units));
                }
                let since = |age: u64| -> u64 {
                    log.iter().filter(|(at, _)| now.since(*at).0 <= age).map(|(_, units)| units).sum()
                };
                let remembered = admitted.within(WINDOW, now);
                prop_assert!(remembered >= since(WINDOW.0), "{remembered}");
                prop_assert!(backs || remembered <= since(WINDOW.0 * 50 / 32), "{remembered}");
            }
        }
    }
}
