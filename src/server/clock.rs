//! The real clock.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::decide::ports::Clock;
use crate::domain::time::{Micros, Moment};

/// The machine's clocks.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// Its steady part starts at zero now.
    #[expect(clippy::disallowed_methods, reason = "this is where time enters")]
    pub fn start() -> Self {
        Self { start: Instant::now() }
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
        self.start.elapsed().into()
    }
}
