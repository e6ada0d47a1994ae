//! What one question asks the store, and what becomes of it however the question ends.

use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::super::table::Woken;
use super::LeaseDesk;
use crate::decide::ports::{Away, Grants, Request, Requests};
use crate::domain::time::Micros;
use crate::domain::window::Terms;

/// What a question has begun to ask; or else it waits for whoever asks already.
pub(super) type Begun<'a> = Result<Asking<'a>, oneshot::Receiver<Woken>>;

/// The requests that one question has begun. Those that are not concluded have failed, whatever ended the question.
pub(super) struct Asking<'a> {
    pub(super) desk: &'a LeaseDesk,
    pub(super) requests: &'a Requests,
    /// Which of the requests, and the terms.
    pub(super) parts: SmallVec<[(usize, Terms); 4]>,
    pub(super) woken: Woken,
}

impl Asking<'_> {
    pub(super) fn terms(&self, request: &Request) -> Terms {
        let begun = self
            .parts
            .iter()
            .find(|(index, _)| self.requests.get(*index).is_some_and(|begun| begun.key == request.key));
        begun.map_or(request.terms, |(_, terms)| *terms)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        for (index, terms) in &self.parts {
            let Some(request) = self.requests.get(*index) else { continue };
            self.desk.table.with(&request.key, |entry| {
                if let Some(holding) = entry.holding() {
                    holding.failed(terms.lease);
                }
                entry.wake(self.woken);
            });
        }
    }
}

/// Requests of which it is not known what became, because the asker went away or the answer did not come in time: they may
/// have been granted all the same.
pub(super) struct Unheard<'a> {
    pub(super) desk: &'a LeaseDesk,
    pub(super) requests: Requests,
}

impl Unheard<'_> {
    /// Of these something is known: that they were answered, or not even asked.
    pub(super) fn hear(&mut self, grants: &Grants) {
        let mut grants = grants.iter();
        self.requests.retain(|_| match grants.next() {
            Some(Ok(_)) => false,
            Some(Err(Away { because })) => because.may_have_been_asked(),
            None => true,
        });
    }
}

impl Drop for Unheard<'_> {
    fn drop(&mut self) {
        for request in &self.requests {
            self.desk.abandon(request, 0);
        }
    }
}

/// For how long something is held under the request's name; zero where nothing is.
pub(super) fn held_for(request: &Request) -> Micros {
    request.limit.hold().unwrap_or(request.terms.hold)
}
