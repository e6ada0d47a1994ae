//! What this replica knows to be revoked. Readers take no lock; whoever writes takes turns.
//!
//! Two tell it what is revoked: the log's news, in the log's order, and this replica's own writes, at once. An answer with
//! news may have been on its way when an own entry was written, and know of that mark only what was before it: that it was
//! undone, or reached less far. So an own entry is held beside what the news say until news have come that were asked for
//! after it, which hold it, and whatever became of it. Until then it hits what either hits. That errs by refusing, for less
//! than half a second. Undoing errs the other way and is therefore left to the news: an answer to it does not say whether
//! somebody has revoked the same again since.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::table::{Filling, Kept, Marks, SHARDS};
use crate::decide::ports::Change;
use crate::domain::identity::Identity;
use crate::domain::revocation::{Cutoff, Entry, FACETS, Mark, MarkId, Revocation, Tags, TargetKind, target_in};
use crate::domain::time::Micros;

/// How long after its end an entry is dropped.
pub(super) const ENDED_FOR: Micros = Micros::from_secs(600);

/// What is revoked.
pub(super) struct RevocationSet {
    marks: Marks,
    writing: Mutex<Writing>,
}

/// What the one who writes knows besides.
struct Writing {
    filling: Filling,
    own: HashMap<MarkId, Own>,
    /// How many times news were asked for.
    asked: u64,
    loading: Option<Loading>,
    /// Where to go on with telling the log what it has lost; none: it knows all.
    untold: Option<usize>,
    /// Which part is looked through next for what has ended.
    sweeping: usize,
}

/// A log is being loaded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loading {
    /// What it does not have is dropped in the end: that was undone.
    Anew,
    /// What it does not have stays: it has lost it.
    Lost,
}

/// An entry that this replica wrote, which news that were asked for before it do not know of.
struct Own {
    mark: Mark,
    cutoff: Cutoff,
    /// How many times news had been asked for.
    written: u64,
    /// What the log has of it, as far as it has said; or will have, once it was told what it has lost.
    heard: Option<Cutoff>,
}

/// One of the times that news were asked for.
#[derive(Clone, Copy)]
pub(super) struct Asked(u64);

impl RevocationSet {
    pub(super) fn new() -> Self {
        let writing = Writing {
            filling: Filling::new(),
            own: HashMap::new(),
            asked: 0,
            loading: None,
            untold: None,
            sweeping: 0,
        };
        Self { marks: Marks::new(), writing: Mutex::new(writing) }
    }

    /// Whether an entry hits `identity`'s token.
    pub(super) fn hits(&self, identity: &Arc<Identity>) -> bool {
        let in_use = self.marks.in_use();
        if in_use == 0 {
            return false;
        }
        let look = self.marks.look();
        FACETS.into_iter().zip(Tags::of(identity)).any(|(facet, &tag)| {
            let is_in_use = facet.iter().any(|kind| in_use >> kind.index() & 1 == 1);
            is_in_use && tag != Tags::NONE && {
                let found = look.find(tag, || target_in(identity, facet).map(MarkId::of));
                found.cutoff().is_some_and(|cutoff| cutoff.hits(identity.issued_at))
            }
        })
    }

    /// How many entries there are of each kind, by its index.
    pub(super) fn entries(&self) -> [u64; TargetKind::ALL.len()] {
        self.writing.lock().filling.entries()
    }

    /// This replica has written these: they are in force from now on.
    pub(super) fn wrote(&self, written: &[Revocation]) {
        let mut writing = self.writing.lock();
        for revocation in written {
            let Entry { mark, cutoff } = revocation.entry();
            let known = self.marks.find(&mark).cutoff();
            let (asked, has_lost) = (writing.asked, writing.has_lost());
            let own = writing.own.entry(mark.id);
            // This answer may come later than the news of it, and of what became of it.
            let own = own.or_insert(Own { mark, cutoff, written: asked, heard: known });
            *own = Own { cutoff: own.cutoff.joined(cutoff), written: asked, ..*own };
            let cutoff = known.map_or(cutoff, |known| known.joined(cutoff));
            // Where the log has just lost its data, nobody knows whether it was written before that.
            if has_lost {
                own.heard = Some(cutoff);
            }
            self.marks.put(&mut writing.filling, &mark, Kept::new(mark.kind, cutoff, !has_lost));
        }
    }

    /// The log is asked now.
    pub(super) fn asks(&self) -> Asked {
        let mut writing = self.writing.lock();
        writing.asked += 1;
        Asked(writing.asked)
    }

    /// These have changed.
    pub(super) fn apply(&self, changes: &[Change]) {
        let mut writing = self.writing.lock();
        for change in changes {
            match change {
                Change::Revoked(Entry { mark, cutoff }) => self.hear(&mut writing, mark, Some(*cutoff)),
                Change::Undone(mark) => self.hear(&mut writing, mark, None),
            }
        }
    }

    /// All changes were applied that there were when the log was asked: own entries that were written before that are
    /// among them.
    pub(super) fn complete(&self, Asked(asked): Asked) {
        let mut writing = self.writing.lock();
        let known: Vec<Own> = writing.own.extract_if(|_, own| own.written < asked).map(|(_, own)| own).collect();
        for Own { mark, heard, .. } in known {
            let known = self.marks.find(&mark);
            let heard = heard.map_or(Kept::GONE, |cutoff| Kept::new(mark.kind, cutoff, known.is_confirmed()));
            self.marks.put(&mut writing.filling, &mark, heard);
        }
    }

    /// The log is about to be loaded whole; `lost`: it does not have all that it had. What is in force stays meanwhile.
    pub(super) fn begin(&self, lost: bool) {
        let mut writing = self.writing.lock();
        // What it was not told yet it does not have.
        let lost = lost || writing.has_lost();
        writing.untold = None;
        writing.loading = Some(if lost { Loading::Lost } else { Loading::Anew });
        for own in writing.own.values_mut() {
            // What the log has of it is a part of what is loaded now; or is lost, and it will be told.
            own.heard = self.marks.find(&own.mark).cutoff().filter(|_| lost);
        }
        MutexGuard::unlock_fair(writing);
        self.revise_all(|_, _, kept| kept.confirmed(false));
    }

    /// The log has these.
    pub(super) fn load(&self, entries: &[Entry]) {
        let mut writing = self.writing.lock();
        for Entry { mark, cutoff } in entries {
            self.hear(&mut writing, mark, Some(*cutoff));
        }
    }

    /// That was all that the log has.
    pub(super) fn end(&self) {
        let loading = self.writing.lock().loading;
        match loading {
            Some(Loading::Anew) => self.revise_all(|own, mark, kept| {
                // An own one may have been written after the log was asked.
                if kept.is_confirmed() || own.contains_key(&mark.id) { kept } else { Kept::GONE }
            }),
            Some(Loading::Lost) => self.writing.lock().untold = Some(0),
            None => {}
        }
        self.writing.lock().loading = None;
    }

    /// Some entries, at most so many, that the log has lost; none: it has all.
    pub(super) fn untold(&self, most: usize) -> Vec<Entry> {
        let mut writing = self.writing.lock();
        let mut untold = Vec::new();
        while let Some(shard) = writing.untold {
            self.marks.revise(&mut writing.filling, shard, |mark, kept| {
                if let Some(cutoff) = kept.cutoff().filter(|_| !kept.is_confirmed() && untold.len() < most) {
                    untold.push(Entry { mark, cutoff });
                }
                kept
            });
            if !untold.is_empty() {
                break;
            }
            writing.untold = Some(shard + 1).filter(|next| *next < SHARDS);
            MutexGuard::bump(&mut writing);
        }
        untold
    }

    /// The log has been told of these.
    pub(super) fn told(&self, entries: &[Entry]) {
        let mut writing = self.writing.lock();
        for Entry { mark, cutoff } in entries {
            let kept = self.marks.find(mark);
            if kept.cutoff() == Some(*cutoff) {
                self.marks.put(&mut writing.filling, mark, kept.confirmed(true));
            }
        }
    }

    /// Drops, in one part of the set after the other, what ended long ago. `now` is of the wall clock.
    pub(super) fn sweep(&self, now: Micros) {
        let mut writing = self.writing.lock();
        let shard = writing.sweeping;
        writing.sweeping = (shard + 1) % SHARDS;
        let over = now - ENDED_FOR;
        self.marks.revise(&mut writing.filling, shard, |_, kept| {
            let has_ended = kept.cutoff().is_some_and(|cutoff| cutoff.is_over(over));
            if has_ended { Kept::GONE } else { kept }
        });
    }

    /// The log says this of a mark.
    fn hear(&self, writing: &mut Writing, mark: &Mark, said: Option<Cutoff>) {
        let (known, has_lost) = (self.marks.find(mark), writing.has_lost());
        let mut cutoff = said;
        if has_lost
            && !known.is_confirmed()
            && let (Some(said), Some(known)) = (said, known.cutoff())
        {
            cutoff = Some(said.joined(known));
        }
        if let Some(own) = writing.own.get_mut(&mark.id) {
            own.heard = cutoff;
            cutoff = Some(cutoff.map_or(own.cutoff, |cutoff| cutoff.joined(own.cutoff)));
        }
        let kept = |cutoff| Kept::new(mark.kind, cutoff, true);
        let (said, cutoff) = (said.map_or(Kept::GONE, kept), cutoff.map_or(Kept::GONE, kept));
        // Beyond what the log says there is something that it is still to be told.
        self.marks.put(&mut writing.filling, mark, cutoff.confirmed(!has_lost || said == cutoff));
    }

    /// Keeps for each entry what `revise` says, which sees the own ones. Own writes have their turn between two parts: they
    /// wait for one, not for millions of entries.
    fn revise_all(&self, mut revise: impl FnMut(&HashMap<MarkId, Own>, Mark, Kept) -> Kept) {
        let mut writing = self.writing.lock();
        for shard in 0..SHARDS {
            let Writing { filling, own, .. } = &mut *writing;
            self.marks.revise(filling, shard, |mark, kept| revise(own, mark, kept));
            MutexGuard::bump(&mut writing);
        }
    }
}

impl Writing {
    /// Whether there may be entries that the log has lost and was not told yet.
    fn has_lost(&self) -> bool {
        self.loading == Some(Loading::Lost) || self.untold.is_some()
    }
}
