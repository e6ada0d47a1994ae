//! What decisions cost, slice by slice.

use tollgate::domain::time::Micros;

use super::Contender;
use crate::figures::Slices;
use crate::redis::Done;

/// What the processes have used so far.
#[derive(Clone, Debug)]
pub(crate) struct Usage {
    /// The server's CPU time, where there is one.
    pub server: Option<Micros>,
    /// Redis's account.
    pub redis: Done,
}

/// What a decision cost in one slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// Decisions a second.
    pub rate: f64,
    /// Server CPU, µs per decision.
    pub server: Option<f64>,
    /// Redis commands that were sent, per decision.
    pub commands: f64,
    /// Redis CPU, µs per decision.
    pub redis: f64,
}

impl Usage {
    /// What each of so many decisions cost since `before`.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    pub(crate) fn since(
        &self,
        before: &Self,
        contender: Contender,
        decisions: u64,
        took: Micros,
    ) -> Result<Cost, String> {
        if decisions == 0 {
            return Err("no decision came".to_owned());
        }
        let each = |count: u64| count as f64 / decisions as f64;
        Ok(Cost {
            rate: decisions as f64 * 1e6 / took.0 as f64,
            server: self.server.zip(before.server).map(|(after, before)| each((after - before).0)),
            commands: each(self.redis.calls_since(&before.redis, |command| contender.sends(command))),
            redis: each((self.redis.cpu - before.redis.cpu).0),
        })
    }
}

/// All slices of one contender in one row.
pub(crate) type Costs = Slices<Cost>;
