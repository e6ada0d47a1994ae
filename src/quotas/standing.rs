//! Where this replica stands with its store: who else is there, and whether the store knows what was admitted.
//!
//! When the store has lost its data, every replica tells it again what it admitted within the last window, and none charges
//! anything before all have told: units that a slower replica admitted would be given away again. Whoever is heard of and
//! has not told is waited for as long as it is heard of; whoever was there before the loss and is silent, for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::decide::ports::{Beat, Epoch, Word};
use crate::domain::time::Micros;

/// How long those that are silent are waited for: a connection that is made anew, after pauses, a rest of the store and a
/// beat take no longer.
const WAIT_MAX: Micros = Micros::from_secs(10);

/// As much of the time between two beats counts as waiting, at most. While the store does not answer this replica, or this
/// replica stands still, the others may not be able to tell either.
const STEP_MAX: Micros = Micros::from_secs(1);

/// So many beats in a row, a second each, do not hear of a replica before it is believed to be gone: a store that stood still
/// for a while has forgotten them all, and each comes back in its own time.
const BEATS_WITHOUT_MAX: u32 = 5;

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
    /// Whether nothing is charged: the store is being told, or was never heard of.
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
    /// Who is believed to be there, and how many beats in a row have not heard of it.
    there: BTreeMap<u64, u32>,
    /// While others are waited for.
    waiting: Option<Waiting>,
}

/// The waiting for others' word.
#[derive(Debug)]
struct Waiting {
    /// Who was there before the loss, and was not heard to have told.
    missed: BTreeSet<u64>,
    /// For how long nothing was heard of them.
    silent: Micros,
    /// When the store answered last.
    heard: Micros,
}

impl Standing {
    /// Of a replica that has not reached its store yet: as far as it knows it is the only one. Nothing is charged before
    /// the first beat, or nobody would know by which data.
    pub(super) fn new() -> Self {
        Self {
            inner: Mutex::default(),
            telling: AtomicBool::new(true),
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

    pub(super) fn hear(&self, beat: &Beat, now: Micros) -> Heard {
        let mut inner = self.inner();
        if inner.epoch.is_some_and(|known| known != beat.epoch) {
            if inner.untold.replace(beat.epoch) == Some(beat.epoch) {
                return Heard::Untold(beat.epoch);
            }
            inner.waiting = Some(Waiting::new(inner.there.keys().copied().collect(), now));
            self.telling.store(true, Ordering::Release);
            self.losses.fetch_add(1, Ordering::AcqRel);
            return Heard::Lost(beat.epoch);
        }
        if inner.epoch.replace(beat.epoch).is_none() {
            inner.waiting = Some(Waiting::new(BTreeSet::new(), now));
        }
        inner.untold = None;
        inner.there.extend(beat.there.iter().map(|peer| (peer.replica, 0)));
        if inner.waiting.as_mut().is_some_and(|waiting| !waiting.is_over(beat, now)) {
            self.telling.store(true, Ordering::Release);
            return Heard::Waiting;
        }
        inner.waiting = None;
        self.count(&mut inner, beat);
        self.telling.store(false, Ordering::Release);
        Heard::Intact
    }

    /// The store could not be asked.
    pub(super) fn miss(&self) {
        self.inner().there.values_mut().for_each(|beats| *beats = 0);
    }

    /// Lets go of those that have not been heard of for long.
    fn count(&self, inner: &mut Inner, beat: &Beat) {
        let heard: BTreeSet<u64> = beat.there.iter().map(|peer| peer.replica).collect();
        inner.there.retain(|replica, beats| {
            *beats = if heard.contains(replica) { 0 } else { *beats + 1 };
            *beats < BEATS_WITHOUT_MAX
        });
        let replicas = u32::try_from(inner.there.len()).unwrap_or(u32::MAX).max(1);
        self.replicas.store(replicas, Ordering::Relaxed);
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

impl Waiting {
    const fn new(missed: BTreeSet<u64>, now: Micros) -> Self {
        Self { missed, silent: Micros::ZERO, heard: now }
    }

    /// Whether all have told, or whoever has not is silent for long enough.
    fn is_over(&mut self, beat: &Beat, now: Micros) -> bool {
        let said = |word: Word| beat.there.iter().filter(move |peer| peer.word == word);
        for peer in said(Word::Told) {
            self.missed.remove(&peer.replica);
        }
        self.silent = self.silent + now.since(self.heard).min(STEP_MAX);
        self.heard = now;
        if said(Word::Owes).next().is_some() {
            self.silent = Micros::ZERO;
            return false;
        }
        self.missed.is_empty() || self.silent >= WAIT_MAX
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;
    use crate::decide::ports::Peer;

    const START: Micros = Micros::from_secs(100);

    fn epoch(number: u64) -> Epoch {
        Epoch(NonZeroU64::new(number).unwrap_or(NonZeroU64::MIN))
    }

    /// `1 2! 3?`: the first has told, the second owes, of the third too little was heard.
    fn beat(number: u64, there: &str) -> Beat {
        let peer = |text: &str| {
            let word = match text.as_bytes().last() {
                Some(b'!') => Word::Owes,
                Some(b'?') => Word::Unheard,
                _ => Word::Told,
            };
            Peer { replica: text.trim_end_matches(['!', '?']).parse().unwrap_or(0), word }
        };
        Beat { epoch: epoch(number), there: there.split(' ').map(peer).collect() }
    }

    /// The first of two replicas, whose store has just been found empty and told.
    fn bereft() -> Standing {
        let standing = Standing::new();
        assert_eq!((standing.hear(&beat(1, "1 2"), START), standing.replicas()), (Heard::Intact, 2));
        assert_eq!(standing.hear(&beat(2, "1!"), START), Heard::Lost(epoch(2)));
        assert!(standing.is_telling());
        standing.told(epoch(2));
        standing
    }

    #[test]
    fn nothing_is_charged_before_the_first_beat() {
        let standing = Standing::new();
        assert!(standing.is_telling());
        standing.hear(&beat(1, "1"), START);
        assert!(!standing.is_telling());
    }

    #[test]
    fn nothing_is_charged_before_all_that_were_there_have_told() {
        let standing = bereft();
        for there in ["1", "1 2!", "1 2?"] {
            assert_eq!(standing.hear(&beat(2, there), START), Heard::Waiting, "{there}");
            assert_eq!((standing.is_telling(), standing.replicas()), (true, 2));
        }
        assert_eq!(standing.hear(&beat(2, "1 2"), START), Heard::Intact);
        assert!(!standing.is_telling());
    }

    #[test]
    fn whoever_does_not_come_back_is_waited_for_a_few_seconds_only() {
        let standing = bereft();
        let mut now = START;
        for _ in 0..9 {
            now = now + STEP_MAX;
            assert_eq!(standing.hear(&beat(2, "1"), now), Heard::Waiting);
        }
        assert_eq!(standing.hear(&beat(2, "1"), now + STEP_MAX - Micros(1)), Heard::Waiting);
        for beats in 1..=BEATS_WITHOUT_MAX {
            assert_eq!(standing.hear(&beat(2, "1"), now + STEP_MAX), Heard::Intact);
            assert_eq!(standing.replicas(), if beats < BEATS_WITHOUT_MAX { 2 } else { 1 });
        }
    }

    #[test]
    fn time_in_which_the_store_did_not_answer_is_not_waited() {
        let standing = bereft();
        assert_eq!(standing.hear(&beat(2, "1"), START + WAIT_MAX), Heard::Waiting);
        assert_eq!(standing.hear(&beat(2, "1"), START + WAIT_MAX + WAIT_MAX), Heard::Waiting);
    }

    #[test]
    fn whoever_is_heard_of_and_has_not_told_is_waited_for_as_long_as_that() {
        let standing = bereft();
        let mut now = START;
        for _ in 0..100 {
            now = now + STEP_MAX;
            assert_eq!(standing.hear(&beat(2, "1 2!"), now), Heard::Waiting);
        }
        for _ in 0..9 {
            now = now + STEP_MAX;
            assert_eq!(standing.hear(&beat(2, "1"), now), Heard::Waiting);
        }
        assert_eq!(standing.hear(&beat(2, "1"), now + STEP_MAX), Heard::Intact);
    }

    #[test]
    fn nobody_is_taken_for_another() {
        let standing = bereft();
        assert_eq!(standing.hear(&beat(2, "1 3"), START), Heard::Waiting, "the second has not told yet");
        assert_eq!(standing.hear(&beat(2, "1 2 3!"), START), Heard::Waiting, "nor has the third, which nobody knew");
        assert_eq!(standing.hear(&beat(2, "1 3"), START), Heard::Intact, "once told is told");
    }

    #[test]
    fn fewer_replicas_are_believed_only_while_the_store_is_there() {
        let standing = Standing::new();
        standing.hear(&beat(1, "1 2 3"), START);
        for _ in 0..9 {
            standing.hear(&beat(1, "1"), START);
            standing.hear(&beat(1, "1 2"), START);
            assert_eq!(standing.replicas(), 3);
            standing.miss();
        }
        for there in ["1", "1 2", "1", "1", "1"] {
            standing.hear(&beat(1, there), START);
        }
        assert_eq!(standing.replicas(), 2, "all that were heard of lately");
        standing.hear(&beat(1, "1 4 5 6 7"), START);
        assert_eq!(standing.replicas(), 6, "more are believed at once");
    }

    #[test]
    fn data_that_was_lost_and_came_back_and_is_lost_again_is_told_all_again() {
        let standing = Standing::new();
        standing.hear(&beat(1, "1"), START);
        assert_eq!(standing.hear(&beat(2, "1!"), START), Heard::Lost(epoch(2)));
        assert_eq!(standing.hear(&beat(1, "1"), START), Heard::Intact);
        assert_eq!(standing.hear(&beat(2, "1!"), START), Heard::Lost(epoch(2)));
    }

    #[test]
    fn a_second_loss_is_told_anew_and_waits_for_all_again() {
        let standing = bereft();
        assert_eq!(standing.hear(&beat(2, "1 3!"), START), Heard::Waiting);
        assert_eq!(standing.hear(&beat(3, "1!"), START), Heard::Lost(epoch(3)));
        assert_eq!(standing.losses(), 2);
        standing.told(epoch(3));
        assert_eq!(standing.hear(&beat(3, "1 2"), START), Heard::Waiting);
        assert_eq!(standing.hear(&beat(3, "1 2 3"), START), Heard::Intact);
    }

    #[test]
    fn a_store_that_could_not_be_told_all_is_told_the_rest() {
        let standing = Standing::new();
        standing.hear(&beat(1, "1"), START);
        assert_eq!(standing.hear(&beat(2, "1!"), START), Heard::Lost(epoch(2)));
        assert_eq!(standing.hear(&beat(2, "1!"), START), Heard::Untold(epoch(2)));
        assert_eq!(standing.hear(&beat(3, "1!"), START), Heard::Lost(epoch(3)));
        assert_eq!((standing.epoch(), standing.losses()), (Some(epoch(1)), 2));
        standing.told(epoch(3));
        assert_eq!(standing.hear(&beat(3, "1"), START), Heard::Intact);
    }

    #[test]
    fn the_first_data_that_is_seen_is_no_loss() {
        let standing = Standing::new();
        assert_eq!((standing.epoch(), standing.replicas()), (None, 1));
        assert_eq!(standing.hear(&beat(7, "1"), START), Heard::Intact);
        assert_eq!((standing.epoch(), standing.losses()), (Some(epoch(7)), 0));
    }
}
