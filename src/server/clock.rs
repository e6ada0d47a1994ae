//! The real clock.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::decide::ports::Clock;
use crate::domain::time::{Micros, Moment};

/// Goes on while the machine sleeps, as the store's clock does: a lease that ended meanwhile must not be spent at the
/// awakening.
#[cfg(target_os = "linux")]
const STEADY: ClockId = ClockId::Boottime;

/// Elsewhere there is none that does, or it has another name.
#[cfg(not(target_os = "linux"))]
const STEADY: ClockId = ClockId::Monotonic;

/// The machine's clocks.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Micros,
}

impl SystemClock {
    /// Its steady part starts at zero now.
    pub fn start() -> Self {
        Self { start: since_boot() }
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is where time enters")]
    fn now(&self) -> Moment {
        // A clock set before 1970 reads as 1970: every token is then not yet valid, which is a refusal.
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Moment { wall: wall.into(), steady: self.steady() }
    }

    fn steady(&self) -> Micros {
        since_boot().since(self.start)
    }
}

fn since_boot() -> Micros {
    let time = clock_gettime(STEADY);
    // Neither is ever negative.
    let [seconds, nanoseconds] = [time.tv_sec, time.tv_nsec].map(|part| u64::try_from(part).unwrap_or(0));
    Micros::from_secs(seconds) + Micros(nanoseconds / 1_000)
}
