//! Hits of fixed windows: no lease covers them, so each call asks the store.

use std::sync::Arc;

use super::super::{Bill, Purpose, at_once, granted};
use super::LeaseDesk;
use crate::decide::ports::{Away, AwayCause, Charge, Grants, Hit, Hits, Request, all_away};
use crate::domain::decision::{QuotaState, QuotaStates};
use crate::domain::time::{Micros, Moment};
use crate::domain::window::{Grant, Outcome};

impl LeaseDesk {
    pub(super) async fn hit_later(&self, hits: Hits) -> QuotaStates {
        let (losses, sent) = (self.standing.losses(), self.clock.now());
        self.metrics.paid_at_store.increment(1);
        let grants = self.count(hits.clone(), sent).await;
        let (understood, received) = (grants.len() == hits.len(), self.clock.steady());
        let mut states = QuotaStates::new();
        for (index, hit) in hits.into_iter().enumerate() {
            let grant = grants.get(index).copied().filter(|_| understood).and_then(Result::ok);
            match grant.filter(|grant| self.note_hits(&hit, *grant, losses, received)) {
                Some(grant) => states.push(granted(hit.limit, grant)),
                None => states.extend(self.hit_without_store(hit).await),
            }
        }
        states
    }

    /// Asks the store, unless it has to be told first what was admitted.
    async fn count(&self, hits: Hits, now: Moment) -> Grants {
        let lost = Away { because: AwayCause::Lost };
        if self.standing.is_telling() {
            return all_away(hits.len(), lost);
        }
        let grants = self.store.hit(hits, now).get().await;
        if grants.contains(&Err(lost)) {
            self.lost.notify_one();
        }
        grants
    }

    /// Takes note of hits that fitted, for a store that loses its data: those beyond the limit were refused. False where the
    /// answer is worth nothing any more, because the store lost its data meanwhile.
    fn note_hits(&self, hit: &Hit, grant: Grant, losses: u64, now: Micros) -> bool {
        let stands = || self.standing.losses() == losses;
        if !matches!(grant.outcome, Outcome::Granted { units: 1.. }) {
            return stands();
        }
        let Hit { limit, grid: _, key, hits } = hit;
        let request = Request { limit: Arc::clone(limit), key: key.clone(), terms: at_once(*hits) };
        let noted = self.table.with_known(&request, now, |entry| {
            if let Some((old, ended)) = entry.follow(limit, now) {
                self.owe(&old, key, ended);
            }
            entry.admit(*hits, now);
            // Seen under the counter's lock: who gathers what is to be told comes after this, or else this after the loss.
            stands()
        });
        noted.unwrap_or_else(stands)
    }

    /// As the limit says: what it does not admit then is counted nowhere.
    async fn hit_without_store(&self, Hit { limit, grid: _, key, hits }: Hit) -> Option<QuotaState> {
        let charge = Charge { limit, key, units: hits };
        let (bill, requests) = Bill::new([charge].into_iter().collect(), Purpose::Pay, &self.names, self.clock.now());
        self.without_store(bill, &requests).await.states.pop()
    }
}
