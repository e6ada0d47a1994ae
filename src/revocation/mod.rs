//! What has been taken back.
//!
//! Tollgate has no way yet to take a token back, so nothing is. The path asks all the same, after every verdict,
//! remembered or new: that order is what makes revocation safe, and it does not depend on how the set is kept.

use std::sync::Arc;

use crate::decide::ports::{Answer, RevocationView, Standing};
use crate::domain::identity::Identity;
use crate::domain::time::Moment;

/// The view of a replica that knows of no revocations.
#[derive(Clone, Copy, Debug, Default)]
pub struct NothingRevoked;

impl RevocationView for NothingRevoked {
    fn standing<'a>(&'a self, _identity: &Arc<Identity>, _now: Moment) -> Answer<'a, Standing> {
        Answer::Now(Standing::Good)
    }
}
