//! What this replica was told of the leases that it took. Redis does not write them down: a lease costs it nothing beside
//! its charge, and whoever settles one says what it was.
//!
//! So only the replica that took a lease can settle it, and what Redis granted in an answer that was lost counts as spent
//! whole. What was told is given out once: a settlement that is repeated finds nothing.

use std::collections::HashMap;
use std::mem;
use std::sync::{Mutex, PoisonError};

use crate::domain::limit::CounterKey;
use crate::domain::window::LeaseId;

/// So many leases are remembered at least, of those that are not settled: more than a replica may have counters in use.
/// At most twice as many are.
const REMEMBERED_MIN: usize = 131_072;

/// What Redis said of one lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// Units granted, at least 1.
    pub(super) units: u64,
    /// By the counter's time, in microseconds.
    pub(super) expires: u64,
    /// The counter's at the grant: it is another one when the charge is gone.
    pub(super) epoch: u64,
}

/// Leases that were granted and not settled yet, by counter and name: a name may stand for one of several counters.
pub(super) struct Leases(Mutex<Generations>);

/// Those that came lately, and those that came before. When the former are many, the latter are forgotten: they have ended
/// long since, for no replica takes so many within a lease time.
#[derive(Default)]
struct Generations {
    young: Generation,
    old: Generation,
}

type Generation = HashMap<(LeaseId, CounterKey), Told>;

impl Leases {
    /// None was taken.
    pub(super) fn none() -> Self {
        Self(Mutex::default())
    }

    /// Keeps what is told of a lease.
    pub(super) fn keep(&self, lease: LeaseId, key: &CounterKey, told: Told) {
        self.with(|generations| {
            if generations.young.len() >= REMEMBERED_MIN {
                generations.old = mem::take(&mut generations.young);
            }
            generations.young.insert((lease, key.clone()), told);
        });
    }

    /// What was told of a lease, once.
    pub(super) fn take(&self, lease: LeaseId, key: &CounterKey) -> Option<Told> {
        let name = (lease, key.clone());
        self.with(|Generations { young, old }| young.remove(&name).or_else(|| old.remove(&name)))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Generations) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_a_lease_is_given_out_once_and_for_its_counter_alone() {
        let (leases, lease) = (Leases::none(), LeaseId { replica: 1, serial: 2 });
        let (alice, bob) = (CounterKey::new("alice"), CounterKey::new("bob"));
        let told = |units| Told { units, expires: 7, epoch: 5 };
        leases.keep(lease, &alice, told(1));
        leases.keep(lease, &bob, told(2));
        assert_eq!(leases.take(LeaseId { serial: 3, ..lease }, &alice), None);
        assert_eq!(leases.take(lease, &bob), Some(told(2)));
        assert_eq!(leases.take(lease, &bob), None);
        assert_eq!(leases.take(lease, &alice), Some(told(1)));
    }

    #[test]
    fn leases_that_nobody_settles_are_forgotten_when_many_came_after_them() {
        let (leases, key) = (Leases::none(), CounterKey::new("alice"));
        let name = |serial| LeaseId { replica: 1, serial };
        let told = Told { units: 1, expires: 7, epoch: 5 };
        let many = 3 * REMEMBERED_MIN as u64;
        (0..many).for_each(|serial| leases.keep(name(serial), &key, told));
        let kept = leases.with(|Generations { young, old }| young.len() + old.len());
        assert!(kept <= 2 * REMEMBERED_MIN, "{kept}");
        assert_eq!(leases.take(name(0), &key), None);
        assert_eq!(leases.take(name(many - REMEMBERED_MIN as u64), &key), Some(told));
    }
}
