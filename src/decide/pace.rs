//! How much each caller of administrative methods may ask for: a token bucket each, on this replica.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::domain::bucket::{Flow, Level};
use crate::domain::time::Micros;
use crate::domain::window::{LeaseId, Outcome, Terms};

/// Units that each caller may ask for in a second, for as long as it likes.
const RATE: u64 = 1_000;

/// Units that each caller may ask for at once. More than one request ever costs.
pub(super) const BURST: u64 = 10_000;

/// Callers whose asking is remembered: those who asked within the last ten seconds. Others are refused until there is room.
const CALLERS_MAX: usize = 10_000;

/// How long whoever finds no room is to wait.
const ROOM_WAIT: Micros = Micros::from_secs(1);

/// Counts what callers ask for.
#[derive(Default)]
pub(super) struct Pace {
    /// Never held across anything that waits.
    levels: Mutex<HashMap<Box<str>, Level>>,
}

impl Pace {
    /// Takes so many units, or none and says how long to wait. `now` is steady.
    pub(super) fn take(&self, caller: &str, units: u64, now: Micros) -> Result<(), Micros> {
        let Some(flow) = Flow::new(RATE, Micros::from_secs(1), BURST) else { return Ok(()) };
        let mut levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        if !levels.contains_key(caller) {
            if levels.len() >= CALLERS_MAX {
                // A full bucket is the same as none.
                levels.retain(|_, level| level.look(flow, terms(0), now).reset_after > Micros::ZERO);
            }
            if levels.len() >= CALLERS_MAX {
                return Err(ROOM_WAIT);
            }
        }
        let level = levels.entry(caller.into()).or_insert_with(|| Level::new(flow, now));
        match level.acquire(flow, terms(units), now).outcome {
            Outcome::Granted { .. } => Ok(()),
            Outcome::Short { retry_after } => Err(retry_after),
            Outcome::Never => Err(flow.fills_in()),
        }
    }
}

/// So many units, spent at once.
const fn terms(units: u64) -> Terms {
    Terms { at_least: units, at_most: units, hold: Micros::ZERO, lease: LeaseId { replica: 0, serial: 0 } }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Micros = Micros::from_secs(1_000);

    #[test]
    fn a_flood_is_refused_until_the_time_that_is_told_and_hinders_nobody_else() {
        let pace = Pace::default();
        for _ in 0..10 {
            assert_eq!(pace.take("ann", 1_000, NOW), Ok(()));
        }
        assert_eq!(pace.take("ann", 500, NOW), Err(Micros::from_millis(500)));
        assert_eq!(pace.take("bob", 10_000, NOW), Ok(()));
        assert!(pace.take("ann", 500, NOW + Micros(499_999)).is_err());
        assert_eq!(pace.take("ann", 500, NOW + Micros(500_000)), Ok(()));
        assert!(pace.take("ann", BURST + 1, NOW + Micros::from_secs(100)).is_err());
    }

    #[test]
    fn callers_are_forgotten_when_they_have_been_silent_and_no_sooner() {
        let pace = Pace::default();
        for caller in 0..CALLERS_MAX {
            assert_eq!(pace.take(&caller.to_string(), 1, NOW), Ok(()));
        }
        assert_eq!(pace.take("one more", 1, NOW), Err(ROOM_WAIT));
        assert_eq!(pace.take("0", 1, NOW), Ok(()));
        assert_eq!(pace.take("one more", 1, NOW + Micros::from_millis(1)), Ok(()));
        assert_eq!(pace.levels.lock().map(|levels| levels.len()).ok(), Some(2), "caller 0 and the new one");
    }
}
