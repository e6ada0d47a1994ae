//! A Redis whose clock is set: what is noticed of it, and what is admitted. The server's time is moved by the asker.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::algorithms::{bucket, fixed, slots};
use super::redis::{Bounds, Gates, RedisStore, Settings, TimeSource};
use super::redis_faults::settings;
use super::redis_server::RedisServer;
use super::suite::{limit, redis, request};
use crate::decide::ports::{Clock, Pulse, QuotaStore as _};
use crate::domain::exact_log::at_once;
use crate::domain::question::Mode;
use crate::domain::time::{Micros, Moment};
use crate::domain::window::{LeaseId, Outcome, Terms};
use crate::telemetry::Telemetry;

/// A clock that is moved by hand, and a server's, which can be set besides.
#[derive(Default)]
struct Clocks {
    steady: AtomicU64,
    /// How far the server's is ahead.
    ahead: AtomicU64,
}

impl Clock for Clocks {
    fn now(&self) -> Moment {
        Moment { wall: Micros::ZERO, steady: Micros(self.steady.load(Ordering::Relaxed)) }
    }
}

impl Clocks {
    fn pass(&self, time: Micros) {
        self.steady.fetch_add(time.0, Ordering::Relaxed);
    }

    fn set_ahead(&self, ahead: Micros) {
        self.ahead.store(ahead.0, Ordering::Relaxed);
    }

    fn of_server(&self) -> Moment {
        let Moment { wall, steady } = self.now();
        Moment { wall, steady: steady + Micros(self.ahead.load(Ordering::Relaxed)) }
    }
}

#[tokio::test]
async fn steps_of_the_servers_clock_are_counted_and_admit_no_more_than_is_documented() {
    let Some(server) = RedisServer::start() else { return };
    let (clocks, telemetry) = (Arc::new(Clocks::default()), Arc::new(Telemetry::default()));
    let bounds = Bounds { deadline: Micros::from_secs(10), ..Bounds::default() };
    let gates = Gates::new(bounds, Arc::clone(&clocks) as _, Arc::clone(&telemetry));
    let moved = Settings { time: TimeSource::Asker, ..settings(&server) };
    let store = RedisStore::connect(&moved, gates).unwrap();
    let (window, second) = (Micros::from_secs(64), Micros::from_secs(1));
    let width = Micros(window.0 / 32);
    let (limit, base) = (limit(10, window), Micros::from_secs(10_000));
    let admitted = async || {
        let mut admitted = 0;
        for _ in 0..15 {
            let one = [request(&limit, "alice", at_once(1))].into_iter().collect();
            let grants = store.acquire(one, Mode::Consume, clocks.of_server()).get().await;
            admitted += u64::from(matches!(grants[0].unwrap().outcome, Outcome::Granted { .. }));
        }
        admitted
    };
    let steps = async || {
        for _ in 0..3 {
            store.beat(Pulse { replica: 1, epoch: None }, clocks.of_server()).get().await.unwrap();
            clocks.pass(second);
        }
        let text = telemetry.render();
        let count = |direction: &str| {
            let series = format!("tollgate_store_clock_steps_total{{direction=\"{direction}\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&series)?.parse::<u64>().ok()).unwrap()
        };
        (count("back"), count("forward"))
    };
    clocks.set_ahead(base);
    assert_eq!((steps().await, admitted().await), ((0, 0), 10));
    // Back: not even a window later does anything return, until the clock has caught up.
    let lag = Micros::from_secs(300);
    clocks.set_ahead(base - lag);
    assert_eq!((steps().await, admitted().await), ((1, 0), 0));
    clocks.pass(window + width);
    assert_eq!(admitted().await, 0);
    clocks.pass(lag);
    assert_eq!((steps().await, admitted().await), ((1, 0), 10));
    // Forward by less than the window: all returns so much earlier, and no earlier than that.
    let leap = Micros::from_secs(20);
    clocks.set_ahead(base - lag + leap);
    assert_eq!((steps().await, admitted().await), ((1, 1), 0));
    clocks.pass(window - leap - second - second - second - Micros(1));
    assert_eq!(admitted().await, 0, "the window was at most so much shorter");
    clocks.pass(width + Micros(1));
    assert_eq!(admitted().await, 10);
    // By more: the limit once more, and no more than that.
    clocks.set_ahead(base + window);
    assert_eq!((admitted().await, admitted().await), (10, 0));
    assert_eq!(steps().await, (1, 2));
}

#[tokio::test]
async fn whoever_waits_as_told_is_served_also_by_a_clock_that_went_back() {
    let Some(server) = RedisServer::start() else { return };
    let store = redis(&server);
    let (window, start) = (Micros::from_secs(64), Micros::from_secs(10_000));
    for limit in [limit(10, window), bucket(10, window, 10), fixed(10, window), slots(10, window)] {
        let ask = async |serial, now| {
            let lease = LeaseId { replica: 1, serial };
            let one = [request(&limit, "alice", Terms { lease, ..at_once(1) })].into_iter().collect();
            let now = Moment { wall: now, steady: now };
            store.acquire(one, Mode::Consume, now).get().await[0].unwrap().outcome
        };
        for serial in 0..10 {
            assert_eq!(ask(serial, start).await, Outcome::Granted { units: 1 });
        }
        let back = start - Micros::from_secs(300);
        let Outcome::Short { retry_after } = ask(10, back).await else { unreachable!("it is full") };
        assert!(retry_after > Micros::from_secs(300), "{retry_after}");
        assert!(matches!(ask(11, back + retry_after - Micros(1)).await, Outcome::Short { .. }), "{limit:?}");
        assert_eq!(ask(12, back + retry_after).await, Outcome::Granted { units: 1 }, "{limit:?}");
    }
}
