//! Charging counters: the window alone, and the memory store.

use std::sync::Arc;

use divan::{Bencher, black_box};
use tollgate::decide::ports::{Answer, QuotaStore as _, Request, Requests};
use tollgate::domain::limit::{Algorithm, CounterKey, Limit, Occasion, UNITS_MAX, WhenAway};
use tollgate::domain::question::Mode;
use tollgate::domain::time::{Micros, Moment};
use tollgate::domain::window::{Counter, Frame, LeaseId, Terms};
use tollgate::stores::memory::{COUNTERS_MAX, MemoryStore};
use tollgate::telemetry::Telemetry;

use crate::house;

const WINDOW: Micros = Micros::from_secs(60);

/// Charges come so close that every sub-window of the minute holds some.
const STEP: Micros = Micros::from_millis(10);

const ONE: Terms = Terms { at_least: 1, at_most: 1, hold: Micros::ZERO, lease: LeaseId { replica: 0, serial: 0 } };

#[divan::bench]
fn window_charge(bencher: Bencher<'_, '_>) {
    let frame = Frame::new(UNITS_MAX, WINDOW);
    let mut now = house::moment().steady;
    let mut counter = Counter::new(frame, now);
    for _ in 0..10_000 {
        now = now + STEP;
        counter.acquire(frame, ONE, now);
    }
    bencher.bench_local(|| {
        now = now + STEP;
        counter.acquire(black_box(frame), black_box(ONE), now)
    });
}

#[divan::bench(args = [1, 2, 8])]
fn memory_acquire(bencher: Bencher<'_, '_>, limits: usize) {
    let telemetry = Telemetry::default();
    let store = MemoryStore::new(COUNTERS_MAX, &telemetry);
    let mut now = house::moment();
    let requests: Requests = (0..limits).map(request).collect();
    let mut acquire = |requests| {
        now = Moment { steady: now.steady + STEP, ..now };
        match store.acquire(requests, Mode::Consume, now) {
            Answer::Now(grants) => grants,
            Answer::Later(_) => unreachable!("the memory store answers at once"),
        }
    };
    for _ in 0..10_000 {
        acquire(requests.clone());
    }
    bencher.with_inputs(|| requests.clone()).bench_local_values(acquire);
}

fn limit(number: usize) -> Limit {
    Limit {
        name: format!("limit-{number}"),
        algorithm: Algorithm::SlidingWindow { units: UNITS_MAX, window: WINDOW },
        by: Vec::new(),
        when_away: WhenAway::default(),
        charge: Occasion::AfterAuth,
    }
}

fn request(number: usize) -> Request {
    let limit = Arc::new(limit(number));
    let mut key = CounterKey::new(&limit.name);
    key.push_under(("https://issuer.example", "4f9c2f6e-8a5b-4c1d-9e3f-7b2a6d8c0e14"));
    Request { limit, key, terms: ONE }
}
