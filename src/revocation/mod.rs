//! What has been taken back: in memory, and kept up with the log that replicas share.
//!
//! The path asks after every verdict, remembered or new: that order is what makes revocation safe. No order of events lets
//! a revoked token back in, since no verdict says "not revoked".

mod follow;
#[cfg(test)]
mod interleaved;
mod set;
#[cfg(test)]
mod simulation;
mod sync;
mod table;
#[cfg(test)]
mod tests;

use crate::decide::ports::{
    Answer, Away, AwayCause, Cursor, Listed, ListedRevocation, News, Place, RevocationLog, Snapshot,
};
use crate::domain::revocation::{Cutoff, Entry, Mark, MarkId, Revocation, Wish};
use crate::domain::time::Moment;

pub use self::follow::{Follower, Health, Revocations};

/// A log that is empty and stays so.
#[derive(Clone, Copy, Debug, Default)]
pub struct NothingRevoked;

const FULL: Away = Away { because: AwayCause::Full };
const START: Place = Place { log: 1, number: 0 };

impl RevocationLog for NothingRevoked {
    fn add(&self, _: Vec<Wish>, _: Moment) -> Answer<'_, Result<Vec<Revocation>, Away>> {
        Answer::Now(Err(FULL))
    }

    fn undo(&self, _: MarkId, _: Moment) -> Answer<'_, Result<Option<ListedRevocation>, Away>> {
        Answer::Now(Ok(None))
    }

    fn find(&self, marks: Vec<Mark>, _: Moment) -> Answer<'_, Result<Vec<Option<Cutoff>>, Away>> {
        Answer::Now(Ok(marks.iter().map(|_| None).collect()))
    }

    fn list(&self, _: Cursor, _: Moment) -> Answer<'_, Result<Listed, Away>> {
        Answer::Now(Ok(Listed::default()))
    }

    fn news(&self, place: Place, _: Moment) -> Answer<'_, Result<News, Away>> {
        Answer::Now(Ok(News::Changes { changes: Vec::new(), place, more: false, unreadable: 0 }))
    }

    fn snapshot(&self, _: Cursor, _: Moment) -> Answer<'_, Result<Snapshot, Away>> {
        Answer::Now(Ok(Snapshot { place: START, entries: Vec::new(), next: None, unreadable: 0 }))
    }

    fn restore(&self, _: Vec<Entry>, _: Moment) -> Answer<'_, Result<(), Away>> {
        Answer::Now(Err(FULL))
    }
}
