//! Verdicts that are remembered: whose a token is, so that its signature need not be checked each time.
//!
//! Only good verdicts are. A bad one would have to be looked up under a hash that the caller chooses, so whoever sends
//! garbage could push out what is in use, to save a check that costs less than the call that asks for it. And a
//! remembered verdict never says "not revoked": that is asked every time, elsewhere.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use metrics::{Counter, Gauge};
use quick_cache::sync::Cache;
use quick_cache::{Lifecycle, UnitWeighter};
use smallvec::SmallVec;

use super::fingerprint::Fingerprint;
use super::jwk::Key;
use crate::domain::identity::Identity;
use crate::domain::time::{Micros, Moment};
use crate::telemetry::{Telemetry, names};

/// How long a verdict is remembered at most, by the steady clock: a bound on what a mistake in anything else can do.
pub(super) const REMEMBERED_FOR: Micros = Micros::from_secs(300);

/// A good verdict.
pub(super) struct Good {
    /// Whose the token is.
    pub identity: Arc<Identity>,
    /// The key that made it; when that ends, so does the verdict. None: no key did, the issuer was asked.
    pub key: Option<Arc<Key>>,
    /// How long it is remembered at most, by the steady clock.
    pub keep: Micros,
    /// The first moment of the wall clock at which it holds.
    pub from: Micros,
    /// The first one at which it no longer does.
    pub until: Micros,
}

/// Good verdicts, bounded in number. What is used again and again outlives any flood of what is used once.
pub(super) struct Remembered {
    verdicts: Cache<Fingerprint, Arc<Entry>, UnitWeighter, Uniform, MakeRoom>,
    hits: Counter,
    misses: Counter,
    ended: Counter,
    evictions: Counter,
    count: Gauge,
}

struct Entry {
    good: Good,
    /// Steady.
    forget_at: Micros,
}

impl Remembered {
    /// Room for so many verdicts; at least one.
    pub(super) fn new(verdicts_max: usize, telemetry: &Telemetry) -> Self {
        let lookups = |outcome| telemetry.counter(names::VERDICT_LOOKUPS, &[("outcome", outcome)]);
        let verdicts_max = verdicts_max.max(1);
        Self {
            verdicts: Cache::with(verdicts_max, verdicts_max as u64, UnitWeighter, Uniform, MakeRoom),
            hits: lookups("hit"),
            misses: lookups("miss"),
            ended: lookups("ended"),
            evictions: telemetry.counter(names::VERDICT_EVICTIONS, &[]),
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
        if self.verdicts.remove_if(token, |found| Arc::ptr_eq(found, &entry)).is_some() {
            self.count.decrement(1.0);
        }
        None
    }

    /// Like [`recall`](Self::recall), for who has asked before or asks once more: it is counted once.
    pub(super) fn recall_after_all(&self, token: &Fingerprint, now: Moment) -> Option<Arc<Identity>> {
        let entry = self.verdicts.get(token).filter(|entry| entry.holds(now))?;
        Some(Arc::clone(&entry.good.identity))
    }

    /// Remembers a verdict that was made at `now`. One whose key ended while it was being made is dropped here or, if
    /// the key ends a moment later, at its first use: the key itself says so, and no lock need be held.
    pub(super) fn remember(&self, token: Fingerprint, good: Good, now: Moment) {
        let entry = Entry { forget_at: now.steady + good.keep.min(REMEMBERED_FOR), good };
        if !entry.holds(now) {
            return;
        }
        let mut gone = Gone::new();
        self.verdicts.insert_with_lifecycle(token, Arc::new(entry), &mut gone);
        // Counted one by one: asking the cache how many there are would lock all of it, for each new token. Where one came for
        // one that went, as in a cache that is full, the number stays.
        match gone.len() {
            0 => self.count.increment(1.0),
            more => (1..more).for_each(|_| self.count.decrement(1.0)),
        }
        // Two that verify one token at a time both remember it.
        let others = gone.iter().filter(|(other, _)| *other != token).count();
        if others > 0 {
            self.evictions.increment(others as u64);
        }
    }
}

impl Entry {
    fn holds(&self, now: Moment) -> bool {
        now.steady < self.forget_at
            && now.wall >= self.good.from
            && now.wall < self.good.until
            && self.good.key.as_ref().is_none_or(|key| key.is_in_force())
    }
}

impl Hash for Fingerprint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.part());
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

/// What an insertion takes out: one verdict, mostly.
type Gone = SmallVec<[(Fingerprint, Arc<Entry>); 1]>;

/// Collects what an insertion takes out, so that it is dropped after the cache's lock was given back.
#[derive(Clone)]
struct MakeRoom;

impl Lifecycle<Fingerprint, Arc<Entry>> for MakeRoom {
    type RequestState = Gone;

    fn on_evict(&self, gone: &mut Self::RequestState, token: Fingerprint, entry: Arc<Entry>) {
        gone.push((token, entry));
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    use crate::domain::issuer::Algorithm;
    use crate::tokens::fingerprint::Fingerprints;
    use crate::tokens::jwks::{self, KeySet};
    use crate::tokens::mint::{Signer, set};

    const NOW: Moment = Moment { wall: Micros::from_secs(1_800_000_000), steady: Micros::from_secs(50) };

    struct Fixture {
        remembered: Remembered,
        telemetry: Telemetry,
        keys: KeySet,
        identity: Arc<Identity>,
        fingerprints: Fingerprints,
    }

    fn fixture(verdicts_max: usize) -> Fixture {
        let telemetry = Telemetry::default();
        Fixture {
            remembered: Remembered::new(verdicts_max, &telemetry),
            telemetry,
            keys: jwks::read(set([Signer::ec("k").jwk()]).as_bytes()).unwrap().keys,
            identity: Arc::new(Identity::vouched_by("https://issuer.example")),
            fingerprints: Fingerprints::draw().unwrap(),
        }
    }

    impl Fixture {
        fn good(&self) -> Good {
            Good {
                identity: Arc::clone(&self.identity),
                key: Some(Arc::clone(self.keys.candidates(Some("k"), Algorithm::ES256).unwrap()[0].0)),
                keep: REMEMBERED_FOR,
                from: NOW.wall - Micros::from_secs(10),
                until: NOW.wall + Micros::from_secs(10_000),
            }
        }

        fn remember(&self, token: &str) {
            self.remembered.remember(self.fingerprints.of(token, 1), self.good(), NOW);
        }

        fn recalls(&self, token: &str, now: Moment) -> bool {
            self.remembered.recall(&self.fingerprints.of(token, 1), now).is_some()
        }
    }

    fn later(wall: i64, steady: u64) -> Moment {
        let wall = Micros(NOW.wall.0.checked_add_signed(wall * 1_000_000).unwrap());
        Moment { wall, steady: NOW.steady + Micros::from_secs(steady) }
    }

    #[test]
    fn a_verdict_is_for_one_token_under_one_configuration() {
        let fixture = fixture(100);
        fixture.remember("a.b.c");
        assert!(fixture.recalls("a.b.c", NOW));
        for other in ["a.b.d", "a.b.c ", "", "a.b.cc", "A.b.c"] {
            assert!(!fixture.recalls(other, NOW), "{other:?}");
        }
        assert!(fixture.remembered.recall(&fixture.fingerprints.of("a.b.c", 2), NOW).is_none());
        for bit in 0..128 {
            let other = fixture.fingerprints.of("a.b.c", 1).with_bit_flipped(bit);
            assert!(fixture.remembered.recall_after_all(&other, NOW).is_none(), "bit {bit}");
        }
        let text = fixture.telemetry.render();
        assert!(text.contains(r#"tollgate_verdict_lookups_total{outcome="hit"} 1"#), "{text}");
        assert!(text.contains(r#"tollgate_verdict_lookups_total{outcome="miss"} 6"#), "{text}");
        assert!(text.contains("tollgate_verdicts_remembered 1"), "{text}");
    }

    #[test]
    fn a_verdict_holds_for_five_minutes_however_the_wall_clock_is_set() {
        let fixture = fixture(100);
        fixture.remember("t");
        assert!(fixture.recalls("t", later(299, 299)));
        assert!(fixture.recalls("t", later(0, 299)));
        assert!(!fixture.recalls("t", later(0, 300)));
        assert!(!fixture.recalls("t", NOW), "what has ended does not come back");
    }

    #[test]
    fn the_tokens_own_dates_are_held_against_the_wall_clock_each_time() {
        for (wall, holds) in [(9_999, true), (10_000, false), (-10, true), (-11, false), (-3600, false)] {
            let fixture = fixture(100);
            fixture.remember("t");
            assert_eq!(fixture.recalls("t", later(wall, 1)), holds, "{wall}");
            assert_eq!(fixture.recalls("t", NOW), holds, "what has ended does not come back");
        }
    }

    #[test]
    fn a_verdict_dies_with_the_key_that_made_it() {
        let fixture = fixture(100);
        fixture.remember("t");
        let late = fixture.good();
        fixture.keys.end_unless_in(None);
        assert!(!fixture.recalls("t", NOW));
        // One that was being made meanwhile is not remembered.
        fixture.remembered.remember(fixture.fingerprints.of("t", 1), late, NOW);
        assert_eq!(fixture.remembered.verdicts.len(), 0);
        let text = fixture.telemetry.render();
        assert!(text.contains(r#"tollgate_verdict_lookups_total{outcome="ended"} 1"#), "{text}");
    }

    #[test]
    fn a_verdict_that_is_made_twice_counts_once_and_one_that_has_ended_no_more() {
        let fixture = fixture(100);
        fixture.remember("t");
        fixture.remember("t");
        fixture.remember("u");
        let text = fixture.telemetry.render();
        assert!(text.contains("tollgate_verdicts_remembered 2"), "{text}");
        assert!(text.contains("tollgate_verdict_evictions_total 0"), "{text}");
        assert!(!fixture.recalls("t", later(0, 300)));
        assert!(!fixture.recalls("t", later(0, 300)));
        let text = fixture.telemetry.render();
        assert!(text.contains("tollgate_verdicts_remembered 1"), "{text}");
    }

    #[test]
    fn a_flood_of_tokens_that_are_used_once_pushes_out_nothing_that_is_in_use() {
        const HOT: u64 = 10_000;
        let fixture = fixture(100_000);
        let fingerprint = |index: u64| fixture.fingerprints.of(&index.to_string(), 1);
        // Filled to the brim first, so that the hot ones come in when room is scarce.
        for index in 1_000_000..1_100_000 {
            fixture.remembered.remember(fingerprint(index), fixture.good(), NOW);
        }
        for index in 0..HOT {
            // As in life: verified, remembered, used again, and verified again where it was pushed out in between.
            for _ in 0..3 {
                if fixture.remembered.recall(&fingerprint(index), NOW).is_none() {
                    fixture.remembered.remember(fingerprint(index), fixture.good(), NOW);
                }
            }
        }
        for index in 2_000_000..3_000_000 {
            fixture.remembered.remember(fingerprint(index), fixture.good(), NOW);
        }
        let left = (0..HOT).filter(|&index| fixture.remembered.recall(&fingerprint(index), NOW).is_some()).count();
        assert!(left as u64 >= HOT * 99 / 100, "{left} of {HOT}");
        assert!(fixture.remembered.verdicts.len() <= 100_000 + 64, "{}", fixture.remembered.verdicts.len());
        let text = fixture.telemetry.render();
        let shown = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            value.and_then(|value| value.parse::<usize>().ok()).unwrap()
        };
        assert_eq!(shown("tollgate_verdicts_remembered"), fixture.remembered.verdicts.len());
        assert!(shown("tollgate_verdict_evictions_total") >= 1_000_000);
    }
}
