//! What a replica admits by itself while the store is away: a share of each limit that says so, counted in a store of its
//! own, and told to the shared one when it is back.

use std::sync::Arc;

use smallvec::SmallVec;

use super::super::Bill;
use super::LeaseDesk;
use super::taken::{Part, Taken};
use crate::decide::ports::{Payment, Request, Requests};
use crate::domain::lease::Spend;
use crate::domain::limit::WhenAway;
use crate::domain::question::Mode;
use crate::domain::time::Moment;
use crate::domain::window::{Grant, Outcome};

/// What is known of each request; nothing of those whose store is away.
pub(super) type Known = SmallVec<[Option<Grant>; 4]>;

impl LeaseDesk {
    /// What is in hand pays as far as it reaches; the rest is as each limit says.
    pub(super) async fn without_store(&self, bill: Bill, requests: &Requests) -> Payment {
        let taken = self.take(requests, self.clock.steady());
        let known = taken.parts.iter().map(Part::known).collect();
        self.conclude(bill, taken, known).await
    }

    /// Concludes a question of which `known` is known: leases and the store have paid that part of it, or refused.
    pub(super) async fn conclude(&self, bill: Bill, taken: Taken<'_>, mut known: Known) -> Payment {
        let (requests, now) = (taken.requests, self.clock.now());
        let away = known.contains(&None);
        let shared = self.shares(requests, &known);
        let lets_go_on = |(index, known): (usize, &Option<Grant>)| {
            if let Some(grant) = known {
                return matches!(grant.outcome, Outcome::Granted { .. });
            }
            let allowed = requests.get(index).is_some_and(|request| request.limit.when_away == WhenAway::Allow);
            allowed || shared.iter().any(|(shared, _)| *shared == index)
        };
        let pays = !shared.is_empty() && known.iter().enumerate().all(lets_go_on);
        let mode = if pays { Mode::Consume } else { Mode::Peek };
        self.ask_local(&shared, mode, &mut known, now).await;
        let payment = Payment { away, ..bill.concluded(&known, true) };
        if payment.reason.allows() {
            self.admit_shares(requests, &shared, now);
            taken.keep();
        }
        payment
    }

    /// The part of each limit whose store is away that this replica may admit, where the limit says so.
    fn shares(&self, requests: &Requests, known: &Known) -> SmallVec<[(usize, Request); 4]> {
        let share = |(index, request): (usize, &Request)| {
            let unknown = known.get(index).is_some_and(Option::is_none);
            if !unknown || request.limit.when_away != WhenAway::Local {
                return None;
            }
            let limit = Arc::new(request.limit.share(self.standing.replicas())?);
            Some((index, Request { limit, ..request.clone() }))
        };
        requests.iter().enumerate().filter_map(share).collect()
    }

    /// What this replica would admit by itself, where the store is away.
    pub(super) async fn look_at_shares(&self, requests: &Requests, known: &mut Known, now: Moment) {
        let shared = self.shares(requests, known);
        self.ask_local(&shared, Mode::Peek, known, now).await;
    }

    async fn ask_local(&self, shared: &[(usize, Request)], mode: Mode, known: &mut Known, now: Moment) {
        if shared.is_empty() {
            return;
        }
        let requests: Requests = shared.iter().map(|(_, request)| request.clone()).collect();
        for (answer, (index, _)) in self.local.acquire(requests, mode, now).get().await.into_iter().zip(shared) {
            if let Some(known) = known.get_mut(*index) {
                // More than the share ever holds, but not than the limit does: the store may grant it when it is back.
                *known = answer.ok().filter(|grant| grant.outcome != Outcome::Never);
            }
        }
    }

    /// Takes note of what is to be told: by the limit as the store knows it, not by the share.
    fn admit_shares(&self, requests: &Requests, shared: &[(usize, Request)], now: Moment) {
        for request in shared.iter().filter_map(|(index, _)| requests.get(*index)) {
            let units = request.terms.at_least;
            self.metrics.admitted_locally(units);
            self.table.with_known(request, now.steady, |entry| entry.admit_untold(units, now.steady));
        }
    }
}

impl Taken<'_> {
    /// What the leases paid or refused, and, in order, what the store said of the rest.
    pub(super) fn merged(&self, answers: impl IntoIterator<Item = Option<Grant>>) -> Known {
        let mut answers = answers.into_iter();
        let paid = |part: &Part| matches!(part.spend, Spend::Paid(_));
        self.parts.iter().map(|part| if paid(part) { Some(part.grant()) } else { answers.next().flatten() }).collect()
    }
}
