//! The desk says once a second that it is there, and tells a store that lost its data what it admitted.

use std::time::Duration;

use tokio::time::timeout;
use tracing::{info, warn};

use super::super::standing::Heard;
use super::LeaseDesk;
use crate::decide::ports::{Away, Charge, Charges, Pulse};
use crate::domain::time::Micros;

/// How often a replica says that it is there.
const BEAT_INTERVAL: Duration = Duration::from_secs(1);

/// The same, while nothing may be charged: before the first beat, while the store is told, and while the others' word is
/// waited for.
const WAIT_INTERVAL: Duration = Duration::from_millis(50);

/// How often in a row a store may be found to have lost its data before it is given a pause.
const LOSSES_IN_A_ROW_MAX: usize = 3;

/// A replica that has much to tell says that it is there as often as any.
const TELLING_MAX: Micros = Micros::from_secs(1);

/// Charges in one call of the store: well within its deadline.
const TOLD_PER_CALL: usize = 128;

impl LeaseDesk {
    /// Beats for ever: once a second, and at once when a call finds that the store lost its data.
    pub async fn pulse(&self) {
        loop {
            // The store logs and counts what becomes of it.
            let _ = self.beat().await;
            let pause = if self.standing.is_telling() { WAIT_INTERVAL } else { BEAT_INTERVAL };
            let _ = timeout(pause, self.lost.notified()).await;
        }
    }

    /// Says that this replica is there, and hears who else is. Tells the store what it does not know: after it lost its
    /// data all that was admitted within the last window, else what was admitted while it was away.
    ///
    /// # Errors
    /// Why the store could not be asked, or told.
    pub async fn beat(&self) -> Result<(), Away> {
        let _one_at_a_time = self.beating.lock().await;
        let mut losses = 0;
        while losses < LOSSES_IN_A_ROW_MAX {
            let (telling, pulse) = (self.standing.is_telling(), self.own_pulse());
            let beat = self.store.beat(pulse, self.clock.now()).get().await.inspect_err(|_| self.standing.miss())?;
            let now = self.clock.steady();
            let untold = match self.standing.hear(&beat, now) {
                Heard::Waiting => return Ok(()),
                Heard::Intact => {
                    self.metrics.replicas(self.standing.replicas());
                    if telling && self.standing.losses() > 0 {
                        info!("the quota store knows again what was admitted");
                    }
                    None
                }
                Heard::Lost(epoch) => {
                    losses += 1;
                    warn!("the quota store has lost its data; it is told what was admitted within the last window");
                    self.table.lose(now, |ended| {
                        self.metrics.spent(ended.used);
                        self.metrics.stranded(ended.left);
                    });
                    Some(epoch)
                }
                Heard::Untold(epoch) => Some(epoch),
            };
            match (self.tell().await?, untold) {
                (Told::All, Some(epoch)) => self.standing.told(epoch),
                (Told::All, None) => return Ok(()),
                // First it says again that it is there.
                (Told::Part, _) => {}
            }
        }
        Ok(())
    }

    fn own_pulse(&self) -> Pulse {
        Pulse { replica: self.names.replica, epoch: self.standing.epoch() }
    }

    /// Charges to the store what was admitted and is not charged there. What it may not have heard is told again: then
    /// less is admitted than could be, never more.
    pub(super) async fn tell(&self) -> Result<Told, Away> {
        let began = self.clock.steady();
        for owed in self.table.owed() {
            let mut untold = Untold { desk: self, charges: owed };
            while !untold.charges.is_empty() {
                if self.clock.steady().since(began) >= TELLING_MAX {
                    return Ok(Told::Part);
                }
                let part = untold.charges.len().saturating_sub(TOLD_PER_CALL);
                let charges: Charges = untold.charges[part..].iter().cloned().collect();
                let units = charges.iter().map(|Charge { units, .. }| units).sum();
                self.store.assert(charges, self.clock.now()).get().await?;
                untold.charges.truncate(part);
                self.metrics.told(units);
            }
        }
        Ok(Told::All)
    }
}

/// How much of what is owed was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    All,
    /// It takes long.
    Part,
}

/// What the store has still to be told, whatever ends the telling.
struct Untold<'a> {
    desk: &'a LeaseDesk,
    charges: Vec<Charge>,
}

impl Drop for Untold<'_> {
    fn drop(&mut self) {
        self.desk.table.still_owe(&self.charges);
    }
}
