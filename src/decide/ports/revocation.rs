//! What is taken back: who knows it, and who keeps it for all.

use std::sync::Arc;

use super::{Answer, Away};
use crate::domain::identity::Identity;
use crate::domain::revocation::{Cutoff, Entry, Mark, MarkId, Revocation, Wish};
use crate::domain::time::Moment;

/// Knows what has been taken back.
pub trait RevocationView: Send + Sync {
    /// Whether `identity`'s token still stands at `now`. Asked on every decision, after the verdict, so that no
    /// order of events lets a revoked token back in.
    fn standing<'a>(&'a self, identity: &Arc<Identity>, now: Moment) -> Answer<'a, Standing>;
}

/// Whether a token still stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It was not taken back.
    Good,
    /// It was taken back.
    Revoked,
    /// That is not known well enough, and the policy says to deny then.
    Unknown,
}

/// Keeps what was taken back, for all replicas that share it, and tells each what is new. Each call is one round trip,
/// within the store's deadline. Moments of the log are by its own clock.
///
/// Changes are numbered in the order of their writing. An answer to [`news`](Self::news) holds whatever was written before it was
/// asked for: who has applied it knows everything up to then.
pub trait RevocationLog: Send + Sync {
    /// Writes entries, all or none, each joined with the one that its target may have already ([`Cutoff::joined`]; who asked
    /// last, and why, is kept); at most [`REVOCATIONS_MAX`]. Answers what was written, in the order of the wishes. One
    /// that would be over already is not written. Where there is no room for more entries the cause is
    /// [`AwayCause::Full`](super::AwayCause::Full).
    ///
    /// [`REVOCATIONS_MAX`]: crate::domain::revocation::REVOCATIONS_MAX
    fn add(&self, wishes: Vec<Wish>, now: Moment) -> Answer<'_, Result<Vec<Revocation>, Away>>;

    /// Removes an entry; what it was. None: there is no such entry, and nothing changed.
    fn undo(&self, id: MarkId, now: Moment) -> Answer<'_, Result<Option<ListedRevocation>, Away>>;

    /// What is kept of these marks, in their order.
    fn find(&self, marks: Vec<Mark>, now: Moment) -> Answer<'_, Result<Vec<Option<Cutoff>>, Away>>;

    /// Some entries, from a cursor on; in no order, and an entry may come twice. One that was there all the time comes for certain.
    fn list(&self, from: Cursor, now: Moment) -> Answer<'_, Result<Listed, Away>>;

    /// What changed after `after`.
    fn news(&self, after: Place, now: Moment) -> Answer<'_, Result<News, Away>>;

    /// Entries as replicas keep them, from a cursor on, as [`list`](Self::list) does. Whoever loads all, and then applies the
    /// news from the place of the *first* answer on, has missed nothing.
    fn snapshot(&self, from: Cursor, now: Moment) -> Answer<'_, Result<Snapshot, Away>>;

    /// Tells a log that lost its data what it had: entries that it does not have are written, others joined. At most
    /// [`REVOCATIONS_MAX`](crate::domain::revocation::REVOCATIONS_MAX).
    fn restore(&self, entries: Vec<Entry>, now: Moment) -> Answer<'_, Result<(), Away>>;
}

/// A place in the log of revocations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Which log: a random number, drawn when it was begun. Another one means that the data is another: a log that finds
    /// out that it has lost a change takes another name, too.
    pub log: u64,
    /// How far: it grows with each change, not always by one; 0: the beginning.
    pub number: u64,
}

/// Where a listing goes on; the default: the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor(pub u64);

/// Some entries, as they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// The entries; of one that was restored only the mark may be known.
    pub entries: Vec<ListedRevocation>,
    /// Where the next ones are; none: that was all.
    pub next: Option<Cursor>,
}

/// One entry of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedRevocation {
    /// What replicas keep of it.
    pub entry: Entry,
    /// What was written; none: it was told to a log that had lost it, by a replica that knew no more.
    pub written: Option<Revocation>,
}

/// Some entries, as replicas keep them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The place that the log had reached when it was asked.
    pub place: Place,
    /// The entries.
    pub entries: Vec<Entry>,
    /// Where the next ones are; none: that was all.
    pub next: Option<Cursor>,
    /// Entries that make no sense here: not ours, or a newer version's. They were passed over.
    pub unreadable: u64,
}

/// What changed in the log of revocations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// These changes, in their order.
    Changes {
        /// The changes.
        changes: Vec<Change>,
        /// The place after the last of them.
        place: Place,
        /// Whether there are more already.
        more: bool,
        /// Changes that make no sense here: not ours, or a newer version's. They were passed over.
        unreadable: u64,
    },
    /// What came after the place is no longer there, or it is another log: everything is to be loaded anew.
    Gone(Place),
}

/// One change of what is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The entry is now this.
    Revoked(Entry),
    /// There is no such entry any more.
    Undone(Mark),
}

/// A log that keeps nothing, for tests of what takes nothing back.
#[cfg(test)]
pub(crate) struct NoLog;

#[cfg(test)]
const NOWHERE: Away = Away { because: super::AwayCause::Full };

#[cfg(test)]
impl RevocationLog for NoLog {
    fn add(&self, _: Vec<Wish>, _: Moment) -> Answer<'_, Result<Vec<Revocation>, Away>> {
        Answer::Now(Err(NOWHERE))
    }

    fn undo(&self, _: MarkId, _: Moment) -> Answer<'_, Result<Option<ListedRevocation>, Away>> {
        Answer::Now(Err(NOWHERE))
    }

    fn find(&self, _: Vec<Mark>, _: Moment) -> Answer<'_, Result<Vec<Option<Cutoff>>, Away>> {
        Answer::Now(Err(NOWHERE))
    }

    fn list(&self, _: Cursor, _: Moment) -> Answer<'_, Result<Listed, Away>> {
        Answer::Now(Err(NOWHERE))
    }

    fn news(&self, _: Place, _: Moment) -> Answer<'_, Result<News, Away>> {
        Answer::Now(Err(NOWHERE))
    }

    fn snapshot(&self, _: Cursor, _: Moment) -> Answer<'_, Result<Snapshot, Away>> {
        Answer::Now(Err(NOWHERE))
    }

    fn restore(&self, _: Vec<Entry>, _: Moment) -> Answer<'_, Result<(), Away>> {
        Answer::Now(Err(NOWHERE))
    }
}
