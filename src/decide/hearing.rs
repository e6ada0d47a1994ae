//! What identity providers tell: read, done, and only then noted as done.

use std::sync::Arc;

use metrics::Counter;

use super::audit::Noise;
use super::ports::{Aim, Answer, Away, AwayCause, EventReader, EventSink, Heard, Told, Unheard};
use super::{Decider, NotTakenBack, Wanted, Way};
use crate::domain::event::EventFlaw;
use crate::telemetry::{Telemetry, names};

/// Takes back what identity providers say has ended.
pub struct Hearing {
    decider: Arc<Decider>,
    reader: Arc<dyn EventReader>,
    logouts: Outcomes,
    events: Outcomes,
}

/// Counts what became of what was told.
struct Outcomes {
    taken_back: Counter,
    missed: Counter,
    ignored: Counter,
    again: Counter,
    refused: Counter,
    away: Counter,
}

impl Outcomes {
    fn of(kind: &str, telemetry: &Telemetry) -> Self {
        let counter = |outcome| telemetry.counter(names::EVENTS, &[("kind", kind), ("outcome", outcome)]);
        Self {
            taken_back: counter("taken_back"),
            missed: counter("missed"),
            ignored: counter("ignored"),
            again: counter("again"),
            refused: counter("refused"),
            away: counter("away"),
        }
    }
}

impl Hearing {
    /// What `reader` believes, `decider` takes back.
    pub fn new(decider: Arc<Decider>, reader: Arc<dyn EventReader>, telemetry: &Telemetry) -> Self {
        let (logouts, events) = (Outcomes::of("logout", telemetry), Outcomes::of("event", telemetry));
        Self { decider, reader, logouts, events }
    }

    async fn hear_later(&self, told: Told<'_>) -> Result<(), Unheard> {
        let (outcomes, way) = match told {
            Told::Logout(_) => (&self.logouts, Way::BackChannelLogout),
            Told::Event(_) => (&self.events, Way::SecurityEvent),
        };
        let done = self.act(told, outcomes, way).await;
        match done {
            Ok(()) => {}
            Err(Unheard::Refused(flaw)) => {
                outcomes.refused.increment(1);
                // Strangers may send anything, and what an issuer has signed as often as they like: no log is filled with it.
                if flaw.is_of_issuer() && self.decider.may_log(Noise::Told) {
                    tracing::warn!(%flaw, "what an identity provider told was refused");
                } else {
                    tracing::debug!(%flaw, "what somebody told was refused");
                }
            }
            Err(Unheard::Away(away)) => {
                outcomes.away.increment(1);
                if self.decider.may_log(Noise::Told) {
                    tracing::warn!(%away, "what somebody told could not be verified or written down");
                }
            }
        }
        done
    }

    async fn act(&self, told: Told<'_>, outcomes: &Outcomes, way: Way) -> Result<(), Unheard> {
        let heard = self.reader.read(told, self.decider.now()).get().await?;
        let Heard { issuer, aims, missed, again, receipt } = heard;
        if missed > 0 {
            outcomes.missed.increment(1);
            if self.decider.may_log(Noise::Told) {
                tracing::warn!(%issuer, missed, "an event is about a subject that no token of its issuer names");
            }
        }
        if again {
            outcomes.again.increment(1);
            return Ok(());
        }
        if aims.is_empty() {
            outcomes.ignored.increment(u64::from(missed == 0));
            return Ok(());
        }
        let wanted = aims.into_iter().map(|Aim { kind, target, which }| Wanted {
            target,
            which,
            expires_at: None,
            reason: kind.name().into(),
            by: Box::from(&*issuer),
        });
        self.decider.take_back(wanted.collect(), way).get().await.map_err(|not| match not {
            // The configuration is another since a moment ago.
            NotTakenBack::UnknownIssuer(_) => EventFlaw::Issuer.into(),
            NotTakenBack::TooMany { .. } => Unheard::Away(Away { because: AwayCause::Crowded }),
            NotTakenBack::Away(away) => Unheard::Away(away),
        })?;
        self.reader.note(receipt, self.decider.now()).get().await.map_err(Unheard::Away)?;
        outcomes.taken_back.increment(1);
        Ok(())
    }
}

impl EventSink for Hearing {
    fn hear<'a>(&'a self, told: Told<'a>) -> Answer<'a, Result<(), Unheard>> {
        Answer::later(self.hear_later(told))
    }
}
