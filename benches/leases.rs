//! Paying from leases, refusing from memory, and what a counter that nobody asks for takes up.
//!
//! The clock stands still, so leases are spent up but never end. The store is the one in memory, which grants.

use std::sync::Arc;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use tollgate::decide::ports::{Charge, Charges, Payment, Quotas};
use tollgate::domain::decision::Reason;
use tollgate::domain::limit::{Algorithm, CounterKey, Limit, Occasion, UNITS_MAX, WhenAway};
use tollgate::domain::time::Micros;
use tollgate::quotas::{LeaseDesk, QuotaDesk};
use tollgate::stores::memory::{COUNTERS_MAX, MemoryStore};
use tollgate::telemetry::Telemetry;

use crate::house::{NOW, SAMPLE_SIZE, Standing, at_hand, introduced};

const WINDOW: Micros = Micros::from_secs(60);

/// New counters in each of the iterations of the one sample: 32,000 in all, and a million, which is all that a store
/// holds.
const NEW: [usize; 2] = [32_000 / SAMPLE_SIZE as usize, COUNTERS_MAX / SAMPLE_SIZE as usize];

/// Payments after which leases have grown large.
const WARM_UP: usize = 10_000;

/// From charges to a payment, all covered by leases in hand.
#[divan::bench(args = [1, 2, 4])]
fn leased_pay(bencher: Bencher<'_, '_>, limits: usize) {
    let (desk, charges) = leased_to(limits);
    bencher.with_inputs(|| charges.clone()).bench_local_values(|charges| pay(&desk, black_box(charges)));
}

/// The store has said that nothing is left.
#[divan::bench]
fn refused_from_memory(bencher: Bencher<'_, '_>) {
    let (desk, charges) = used_up();
    bencher.with_inputs(|| charges.clone()).bench_local_values(|charges| pay(&desk, black_box(charges)));
}

/// Counters of the memory store that nobody asks for any more: `max alloc` is for as many as an iteration adds, what the
/// tables needed while they grew included.
#[divan::bench(sample_count = 1, args = NEW)]
fn counters_at_rest(bencher: Bencher<'_, '_>, new: usize) {
    pay_new(bencher, &QuotaDesk::new(store()), new);
}

/// The same, and a holding for each: what is more is theirs.
#[divan::bench(sample_count = 1, args = [NEW[0]])]
fn counters_and_holdings_at_rest(bencher: Bencher<'_, '_>, new: usize) {
    pay_new(bencher, &leased(), new);
}

/// Pays one unit of each of so many counters that nobody has asked for.
fn pay_new(bencher: Bencher<'_, '_>, desk: &impl Quotas, new: usize) {
    let limit = limit(0, UNITS_MAX);
    let mut number = 0;
    bencher.counter(ItemsCount::new(new)).bench_local(|| {
        for _ in 0..new {
            assert_eq!(pay(desk, Charges::from_iter([charge(&limit, number)])).reason, Reason::Allowed);
            number += 1;
        }
    });
}

/// A desk that holds large leases of so many limits, and charges that they cover.
pub(crate) fn leased_to(limits: usize) -> (LeaseDesk, Charges) {
    let desk = leased();
    let limits: Vec<Arc<Limit>> = (0..limits).map(|number| limit(number, UNITS_MAX)).collect();
    let charges: Charges = limits.iter().map(|limit| charge(limit, 0)).collect();
    for _ in 0..WARM_UP {
        assert_eq!(pay(&desk, charges.clone()).reason, Reason::Allowed);
    }
    (desk, charges)
}

/// A desk that knows that nothing is left for these charges.
pub(crate) fn used_up() -> (LeaseDesk, Charges) {
    let desk = leased();
    let charges = Charges::from_iter([charge(&limit(0, 1), 0)]);
    assert_eq!(pay(&desk, charges.clone()).reason, Reason::Allowed);
    assert_eq!(pay(&desk, charges.clone()).reason, Reason::QuotaExceeded);
    assert!(!pay(&desk, charges.clone()).asked);
    (desk, charges)
}

fn leased() -> LeaseDesk {
    let telemetry = Telemetry::default();
    introduced(LeaseDesk::new(store(), store(), Micros::from_secs(1), Arc::new(Standing), &telemetry))
}

fn store() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new(COUNTERS_MAX, &Telemetry::default()))
}

pub(crate) fn pay(desk: &impl Quotas, charges: Charges) -> Payment {
    at_hand(desk.pay(charges, NOW))
}

fn limit(number: usize, units: u64) -> Arc<Limit> {
    Arc::new(Limit {
        name: format!("limit-{number}"),
        algorithm: Algorithm::SlidingWindow { units, window: WINDOW },
        by: Vec::new(),
        when_away: WhenAway::default(),
        charge: Occasion::AfterAuth,
    })
}

/// A unit of the counter of a subject, named as long as a usual one.
fn charge(limit: &Arc<Limit>, number: usize) -> Charge {
    let mut key = CounterKey::new(&limit.name);
    key.push_under(("https://issuer.example", &format!("4f9c2f6e-8a5b-4c1d-9e3f-{number:012}")));
    Charge { limit: Arc::clone(limit), key, units: 1 }
}
