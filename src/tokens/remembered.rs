//! Verdicts that are remembered: whose a token is, so that its signature need not be checked each time.
//!
//! Only good verdicts are. A bad one would have to be looked up under a hash that the caller chooses, so whoever sends
//! garbage could push out what is in use, to save a check that costs less than the call that asks for it. And a
//! remembered verdict never says "not revoked": that is asked every time, elsewhere.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use aws_lc_rs::digest;
use metrics::{Counter, Gauge};
use quick_cache::sync::Cache;
use quick_cache::{Lifecycle, UnitWeighter};

use super::jwks::Key;
use crate::domain::identity::Identity;
use crate::domain::time::{Micros, Moment};
use crate::telemetry::{Telemetry, names};

/// How long a verdict is remembered at most, by the steady clock: a bound on what a mistake in anything else can do.
const REMEMBERED_FOR: Micros = Micros::from_secs(300);

/// What a verdict is found by: every byte of the token, and everything beside it that the verdict depends on. Compared
/// whole, so two tokens never share a verdict; holds nothing that a token could be told from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint {
    /// Which configuration of the issuers.
    generation: u64,
    /// SHA-256 of the token, signature included.
    token: [u8; 32],
}

/// A good verdict.
pub(super) struct Good {
    /// Whose the token is.
    pub identity: Arc<Identity>,
    /// The key that made it; when that ends, so does the verdict.
    pub key: Arc<Key>,
    /// The first moment of the wall clock at which it holds.
    pub from: Micros,
    /// The first one at which it no longer does.
    pub until: Micros,
}

/// Good verdicts, bounded in number. What is used again and again outlives any flood of what is used once.
pub(super) struct Remembered {
    verdicts: Cache<Fingerprint, Arc<Entry>, UnitWeighter, Uniform, Evictions>,
    hits: Counter,
    misses: Counter,
    ended: Counter,
    count: Gauge,
}

struct Entry {
    good: Good,
    /// Steady.
    forget_at: Micros,
}

impl Fingerprint {
    /// Of a token, under the issuers' configuration of that generation.
    pub(super) fn of(token: &str, generation: u64) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        Self { generation, token: bytes }
    }

    /// Of the same token, under another configuration.
    pub(super) const fn under(self, generation: u64) -> Self {
        Self { generation, ..self }
    }
}

impl Remembered {
    /// Room for so many verdicts; at least one.
    pub(super) fn new(verdicts_max: usize, telemetry: &Telemetry) -> Self {
        let lookups = |outcome| telemetry.counter(names::VERDICT_LOOKUPS, &[("outcome", outcome)]);
        let verdicts_max = verdicts_max.max(1);
        let evictions = Evictions(telemetry.counter(names::VERDICT_EVICTIONS, &[]));
        Self {
            verdicts: Cache::with(verdicts_max, verdicts_max as u64, UnitWeighter, Uniform, evictions),
            hits: lookups("hit"),
            misses: lookups("miss"),
            ended: lookups("ended"),
            count: telemetry.gauge(names::VERDICTS, &[]),
        }
    }

    /// Whose the token is, if that is known and still holds at `now`.
    pub(super) fn recall(&self, token: &Fingerprint, now: Moment) -> Option<Arc<Identity>> {
        let Some(entry) = self.verdicts.get(token) else {
            self.misses.increment(1);
            return None;
        };
        if entry.holds(now) {
            self.hits.increment(1);
            return Some(Arc::clone(&entry.good.identity));
        }
        self.ended.increment(1);
        // Once ended, ended: clocks that step back bring nothing back.
        self.verdicts.remove_if(token, |found| Arc::ptr_eq(found, &entry));
        self.show();
        None
    }

    /// Remembers a verdict that was made at `now`. One whose key ended while it was being made is dropped here or, if
    /// the key ends a moment later, at its first use: the key itself says so, and no lock need be held.
    pub(super) fn remember(&self, token: Fingerprint, good: Good, now: Moment) {
        let entry = Entry { good, forget_at: now.steady + REMEMBERED_FOR };
        if entry.holds(now) {
            self.verdicts.insert(token, Arc::new(entry));
            self.show();
        }
    }

    fn show(&self) {
        self.count.set(u32::try_from(self.verdicts.len()).map_or(f64::MAX, f64::from));
    }
}

impl Entry {
    fn holds(&self, now: Moment) -> bool {
        now.steady < self.forget_at
            && now.wall >= self.good.from
            && now.wall < self.good.until
            && self.good.key.is_in_force()
    }
}

impl Hash for Fingerprint {
    /// A part of a hash is a hash. That somebody could make many tokens with equal parts does not matter: only those
    /// that an issuer signed are ever kept.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut part = [0; 8];
        part.copy_from_slice(&self.token[..8]);
        state.write_u64(u64::from_le_bytes(part));
    }
}

/// Hashes what is uniformly distributed already: by leaving it as it is.
#[derive(Clone, Copy, Default)]
struct Uniform;

impl BuildHasher for Uniform {
    type Hasher = Same;

    fn build_hasher(&self) -> Same {
        Same(0)
    }
}

struct Same(u64);

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = self.0.rotate_left(8) ^ value;
    }
}

/// Counts what is forgotten to make room, and drops it after the cache's lock was given back.
#[derive(Clone)]
struct Evictions(Counter);

impl Lifecycle<Fingerprint, Arc<Entry>> for Evictions {
    type RequestState = Vec<Arc<Entry>>;

    fn on_evict(&self, evicted: &mut Vec<Arc<Entry>>, _: Fingerprint, entry: Arc<Entry>) {
        self.0.increment(1);
        evicted.push(entry);
    }
}
