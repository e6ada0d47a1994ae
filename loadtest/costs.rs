//! What decisions cost the server, Redis and whoever asks, slice by slice.

use rustix::time::{ClockId, clock_gettime};
use tollgate::domain::time::Micros;

use crate::figures::{Slices, Tally};
use crate::redis::Done;

/// What the processes have used so far.
#[derive(Clone, Debug)]
pub(crate) struct Usage {
    /// The server's CPU time.
    server: Micros,
    /// The account of its Redis, where it uses one.
    redis: Option<Done>,
    /// This program's CPU time.
    load: Micros,
}

/// What a decision cost in one slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// As the asker saw it.
    pub tally: Tally,
    /// Server CPU, µs per decision.
    pub server: f64,
    /// Redis commands that were sent, per decision. None: there is no Redis.
    pub commands: Option<f64>,
    /// Redis CPU, µs per decision. None: there is no Redis.
    pub redis: Option<f64>,
    /// CPU of whoever asks, µs per decision.
    pub load: f64,
}

impl Usage {
    /// Of a server that has used so much, of its Redis if it has one, and of this program.
    pub(crate) fn new(server: Micros, redis: Option<Done>) -> Self {
        let own = clock_gettime(ClockId::ProcessCPUTime);
        // Neither is ever negative.
        let [seconds, nanos] = [own.tv_sec, own.tv_nsec].map(|part| u64::try_from(part).unwrap_or(0));
        Self { server, redis, load: Micros::from_secs(seconds) + Micros(nanos / 1_000) }
    }

    /// What each decision of `tally` cost since `before`. Commands are those for which `sends` holds.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    pub(crate) fn since(&self, before: &Self, tally: Tally, sends: impl Fn(&str) -> bool) -> Cost {
        // No tally is of nothing.
        let each = |count: u64| count as f64 / tally.decisions as f64;
        let redis = self.redis.as_ref().zip(before.redis.as_ref());
        Cost {
            tally,
            server: each((self.server - before.server).0),
            commands: redis.map(|(after, before)| each(after.calls_since(before, sends))),
            redis: redis.map(|(after, before)| each((after.cpu - before.cpu).0)),
            load: each((self.load - before.load).0),
        }
    }
}

impl Cost {
    /// Decisions a second.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    pub(crate) fn rate(&self) -> f64 {
        self.tally.decisions as f64 / self.tally.took.as_secs_f64()
    }
}

/// All slices of one contender in one row.
pub(crate) type Costs = Slices<Cost>;
