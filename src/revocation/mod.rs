//! What has been taken back.
//!
//! Tollgate has no way yet to take a token back, so nothing is. The path asks all the same, after every verdict,
//! remembered or new: that order is what makes revocation safe, and it does not depend on how the set is kept.

use std::sync::Arc;

use crate::decide::ports::{
    Answer, Away, AwayCause, Cursor, Listed, ListedRevocation, News, Place, RevocationLog, RevocationView, Snapshot,
    Standing,
};
use crate::domain::identity::Identity;
use crate::domain::revocation::{Cutoff, Entry, Mark, MarkId, Revocation, Wish};
use crate::domain::time::Moment;

const NOWHERE: Away = Away { because: AwayCause::Full };

/// The view of a replica that knows of no revocations.
#[derive(Clone, Copy, Debug, Default)]
pub struct NothingRevoked;

impl RevocationView for NothingRevoked {
    fn standing<'a>(&'a self, _identity: &Arc<Identity>, _now: Moment) -> Answer<'a, Standing> {
        Answer::Now(Standing::Good)
    }
}

impl RevocationLog for NothingRevoked {
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
