//! Where this replica stands with its store: who else is there, and whether the store knows what was admitted.
//!
//! When the store has lost its data, every replica tells it again what it admitted within the last window, and none charges
//! anything before all that were there have told, or a few seconds have passed: units that a slower replica admitted would
//! be given away again.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::decide::ports::{Beat, Epoch};
use crate::domain::time::Micros;

/// How long the others are waited for: a connection that is made anew, after pauses, a rest of the store and a beat take no
/// longer.
const WAIT_MAX: Micros = Micros::from_secs(10);

/// So many beats in a row, a second each, hear of fewer replicas before it is believed: a store that stood still for a while has
/// forgotten them all, and each comes back in its own time.
const FEWER_BEATS: u32 = 5;

/// What follows from a beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The store has its data.
    Intact,
    /// It lost its data: what was admitted is to be told to it, and then it may be asked whether all have told.
    Lost(Epoch),
    /// It lost its data earlier, and has not been told all yet.
    Untold(Epoch),
    /// It was told, but others have not told yet.
    Waiting,
}

#[derive(Debug)]
pub(super) struct Standing {
    inner: Mutex<Inner>,
    /// Whether the store is being told: nothing is charged meanwhile.
    telling: AtomicBool,
    /// Counts the losses: what was granted before one is worth nothing after it.
    losses: AtomicU64,
    /// The replicas that were there when the store was last asked.
    replicas: AtomicU32,
}

#[derive(Debug, Default)]
struct Inner {
    /// The data that knows what was admitted.
    epoch: Option<Epoch>,
    /// The data that is being told.
    untold: Option<Epoch>,
    /// Since when others are waited for, and how many; whoever began after the loss is none of them.
    waiting: Option<(Micros, u32)>,
    /// How many beats in a row heard of fewer replicas, and of how many at most.
    fewer: (u32, u32),
}

impl Standing {
    /// Of a replica that has not reached its store yet: as far as it knows it is the only one.
    pub(super) fn new() -> Self {
        Self {
            inner: Mutex::default(),
            telling: AtomicBool::new(false),
            losses: AtomicU64::new(0),
            replicas: AtomicU32::new(1),
        }
    }

    /// The data that knows what this replica admitted.
    pub(super) fn epoch(&self) -> Option<Epoch> {
        self.inner().epoch
    }

    /// Whether nothing may be charged at the moment.
    pub(super) fn is_telling(&self) -> bool {
        self.telling.load(Ordering::Acquire)
    }

    /// How often the store lost its data.
    pub(super) fn losses(&self) -> u64 {
        self.losses.load(Ordering::Acquire)
    }

    /// Replicas that were last seen, this one included.
    pub(super) fn replicas(&self) -> u32 {
        self.replicas.load(Ordering::Relaxed)
    }

    pub(super) fn hear(&self, beat: Beat, now: Micros) -> Heard {
        let mut inner = self.inner();
        if inner.epoch.is_some_and(|known| known != beat.epoch) {
            if inner.untold.replace(beat.epoch) == Some(beat.epoch) {
                return Heard::Untold(beat.epoch);
            }
            let expected = inner.waiting.map_or(0, |(_, expected)| expected).max(self.replicas());
            inner.waiting = Some((now, expected));
            self.telling.store(true, Ordering::Release);
            self.losses.fetch_add(1, Ordering::AcqRel);
            return Heard::Lost(beat.epoch);
        }
        let began = inner.epoch.replace(beat.epoch).is_none();
        inner.untold = None;
        let others = began.then_some((now, 0));
        if let Some((since, expected)) = inner.waiting.or(others) {
            let expected = expected.max(beat.replicas.saturating_sub(beat.fresh));
            if beat.told.saturating_sub(beat.fresh) < expected && now.since(since) < WAIT_MAX {
                inner.waiting = Some((since, expected));
                self.telling.store(true, Ordering::Release);
                return Heard::Waiting;
            }
            inner.waiting = None;
        }
        self.count(&mut inner, beat.replicas.max(1));
        self.telling.store(false, Ordering::Release);
        Heard::Intact
    }

    /// The store could not be asked.
    pub(super) fn miss(&self) {
        self.inner().fewer = (0, 0);
    }

    /// More replicas are believed at once.
    fn count(&self, inner: &mut Inner, there: u32) {
        let (beats, most) = inner.fewer;
        inner.fewer = (beats + 1, most.max(there));
        if there >= self.replicas() || inner.fewer.0 >= FEWER_BEATS {
            self.replicas.store(inner.fewer.1.max(there), Ordering::Relaxed);
            inner.fewer = (0, 0);
        }
    }

    /// The store of this epoch was told all that was admitted.
    pub(super) fn told(&self, epoch: Epoch) {
        let mut inner = self.inner();
        (inner.epoch, inner.untold) = (Some(epoch), None);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;

    const START: Micros = Micros::from_secs(100);

    fn epoch(number: u64) -> Epoch {
        Epoch(NonZeroU64::new(number).unwrap_or(NonZeroU64::MIN))
    }

    fn beat(number: u64, replicas: u32, told: u32) -> Beat {
        Beat { epoch: epoch(number), replicas, told, fresh: 0 }
    }

    /// One of two replicas, whose store has just been found empty.
    fn bereft() -> Standing {
        let standing = Standing::new();
        assert_eq!((standing.hear(beat(1, 2, 2), START), standing.replicas()), (Heard::Intact, 2));
        assert_eq!(standing.hear(beat(2, 1, 0), START), Heard::Lost(epoch(2)));
        assert!(standing.is_telling());
        standing.told(epoch(2));
        standing
    }

    #[test]
    fn nothing_is_charged_before_all_that_were_there_have_told() {
        let standing = bereft();
        assert_eq!(standing.hear(beat(2, 1, 1), START), Heard::Waiting);
        assert_eq!(standing.hear(beat(2, 2, 1), START), Heard::Waiting);
        assert_eq!((standing.is_telling(), standing.replicas()), (true, 2));
        assert_eq!(standing.hear(beat(2, 2, 2), START), Heard::Intact);
        assert!(!standing.is_telling());
    }

    #[test]
    fn whoever_does_not_come_back_is_waited_for_a_few_seconds_only() {
        let standing = bereft();
        assert_eq!(standing.hear(beat(2, 1, 1), START + WAIT_MAX - Micros(1)), Heard::Waiting);
        for beats in 1..=FEWER_BEATS {
            assert_eq!(standing.hear(beat(2, 1, 1), START + WAIT_MAX), Heard::Intact);
            assert_eq!(standing.replicas(), if beats < FEWER_BEATS { 2 } else { 1 });
        }
    }

    #[test]
    fn fewer_replicas_are_believed_only_while_the_store_is_there() {
        let standing = Standing::new();
        standing.hear(beat(1, 3, 3), START);
        for _ in 0..9 {
            standing.hear(beat(1, 1, 1), START);
            standing.hear(beat(1, 2, 2), START);
            assert_eq!(standing.replicas(), 3);
            standing.miss();
        }
        for there in [1, 2, 1, 1, 1] {
            standing.hear(beat(1, there, there), START);
        }
        assert_eq!(standing.replicas(), 2, "the most that were heard of");
        standing.hear(beat(1, 5, 5), START);
        assert_eq!(standing.replicas(), 5);
    }

    #[test]
    fn data_that_was_lost_and_came_back_and_is_lost_again_is_told_all_again() {
        let standing = Standing::new();
        standing.hear(beat(1, 1, 1), START);
        assert_eq!(standing.hear(beat(2, 1, 0), START), Heard::Lost(epoch(2)));
        assert_eq!(standing.hear(beat(1, 1, 1), START), Heard::Intact);
        assert_eq!(standing.hear(beat(2, 1, 0), START), Heard::Lost(epoch(2)));
    }

    #[test]
    fn whoever_comes_in_between_and_has_something_to_tell_is_waited_for_too() {
        let standing = bereft();
        assert_eq!(standing.hear(beat(2, 3, 2), START), Heard::Waiting);
        assert_eq!(standing.hear(beat(2, 3, 3), START), Heard::Intact);
    }

    #[test]
    fn a_second_loss_is_told_anew_and_waits_for_as_many() {
        let standing = bereft();
        assert_eq!(standing.hear(beat(3, 1, 0), START + Micros(9)), Heard::Lost(epoch(3)));
        assert_eq!(standing.losses(), 2);
        standing.told(epoch(3));
        assert_eq!(standing.hear(beat(3, 1, 1), START + WAIT_MAX), Heard::Waiting);
        assert_eq!(standing.hear(beat(3, 2, 2), START + WAIT_MAX), Heard::Intact);
    }

    #[test]
    fn a_store_that_could_not_be_told_all_is_told_the_rest() {
        let standing = Standing::new();
        standing.hear(beat(1, 1, 1), START);
        assert_eq!(standing.hear(beat(2, 1, 0), START), Heard::Lost(epoch(2)));
        assert_eq!(standing.hear(beat(2, 1, 0), START), Heard::Untold(epoch(2)));
        assert_eq!(standing.hear(beat(3, 1, 0), START), Heard::Lost(epoch(3)));
        assert_eq!((standing.epoch(), standing.losses()), (Some(epoch(1)), 2));
        standing.told(epoch(3));
        assert_eq!(standing.hear(beat(3, 1, 1), START), Heard::Intact);
    }

    #[test]
    fn the_first_data_that_is_seen_is_no_loss() {
        let standing = Standing::new();
        assert_eq!((standing.epoch(), standing.replicas()), (None, 1));
        assert_eq!(standing.hear(beat(7, 1, 1), START), Heard::Intact);
        assert_eq!((standing.epoch(), standing.losses()), (Some(epoch(7)), 0));
    }
}
