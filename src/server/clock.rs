//! The real clock.

use std::cell::Cell;
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
    fn now(&self) -> Moment {
        let boot = since_boot();
        Moment { wall: APART.with(|apart| apart.wall(boot, since_epoch)), steady: boot.since(self.start) }
    }

    fn steady(&self) -> Micros {
        since_boot().since(self.start)
    }
}

thread_local! {
    /// Each thread's own, so that nobody waits for anybody, nor believes what another was held up over.
    static APART: Apart = const { Apart::unknown() };
}

/// How long it is believed how far apart the clocks are: a wall clock that was set shows so late, and is off by as much at most.
const APART_FOR: Micros = Micros::from_millis(1);

/// How far apart the machine's clocks are. That changes only where somebody sets the wall clock, and to read a clock takes as
/// long as some steps of a decision, each of which needs both.
struct Apart {
    /// What is added to the steady one; wraps around where the wall clock is behind it.
    by: Cell<u64>,
    /// By the steady one.
    until: Cell<Micros>,
}

impl Apart {
    const fn unknown() -> Self {
        Self { by: Cell::new(0), until: Cell::new(Micros::ZERO) }
    }

    /// The wall clock at `boot`, which the steady one has just shown; `read` reads it.
    fn wall(&self, boot: Micros, read: impl FnOnce() -> Micros) -> Micros {
        if boot < self.until.get() {
            return Micros(self.by.get().wrapping_add(boot.0));
        }
        let wall = read();
        self.by.set(wall.0.wrapping_sub(boot.0));
        // From the first of the two readings on: where the thread was held up between them for longer than this, what it found
        // is not believed.
        self.until.set(boot + APART_FOR);
        wall
    }
}

#[expect(clippy::disallowed_methods, reason = "this is where time enters")]
fn since_epoch() -> Micros {
    // A clock set before 1970 reads as 1970: every token is then not yet valid, which is a refusal.
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().into()
}

fn since_boot() -> Micros {
    let time = clock_gettime(STEADY);
    // Neither is ever negative.
    let [seconds, nanoseconds] = [time.tv_sec, time.tv_nsec].map(|part| u64::try_from(part).unwrap_or(0));
    Micros::from_secs(seconds) + Micros(nanoseconds / 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_clock_is_read_again_after_a_millisecond_and_goes_on_meanwhile() {
        let apart = Apart::unknown();
        let (set_to, reads) = (Cell::new(500_000), Cell::new(0));
        let at = |boot: u64| {
            let read = || {
                reads.set(reads.get() + 1);
                Micros(set_to.get() + boot)
            };
            (apart.wall(Micros(boot), read).0, reads.get())
        };
        assert_eq!(at(10_000), (510_000, 1));
        assert_eq!(at(10_999), (510_999, 1));
        set_to.set(900_000);
        assert_eq!(at(10_999), (510_999, 1), "set a moment ago");
        assert_eq!(at(11_000), (911_000, 2));
        set_to.set(0);
        assert_eq!(at(12_000), (12_000, 3));
    }

    /// As where it was set to the beginning of 1970 on a machine that has run for longer.
    #[test]
    fn a_wall_clock_that_is_behind_the_steady_one_goes_on_from_where_it_is() {
        let apart = Apart::unknown();
        assert_eq!(apart.wall(Micros(50_000), || Micros(7)), Micros(7));
        assert_eq!(apart.wall(Micros(50_005), || Micros(0)), Micros(12));
    }

    #[test]
    fn what_was_found_between_two_readings_that_are_far_apart_is_not_believed() {
        let apart = Apart::unknown();
        // Held up for two milliseconds before it read the wall clock.
        assert_eq!(apart.wall(Micros(10_000), || Micros(512_000)), Micros(512_000));
        assert_eq!(apart.wall(Micros(12_000), || Micros(512_000)), Micros(512_000));
        assert_eq!(apart.wall(Micros(12_500), || Micros(0)), Micros(512_500));
    }
}
