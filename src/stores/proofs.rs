//! Proofs of possession that were used, in this process's memory: what a single replica needs, so that none is good twice.
//!
//! Sharded by key. Each shard keeps the moments at which its proofs may be forgotten in a heap, and every call does a
//! little of the forgetting. Nothing is forgotten before its time: a full log refuses. And no key may have more than a part
//! of the room, so one client alone cannot fill it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use metrics::Gauge;

use crate::decide::ports::{Answer, Away, AwayCause, ProofLog, ProofUse};
use crate::domain::question::Mode;
use crate::domain::time::{Micros, Moment};
use crate::telemetry::{Telemetry, names};

/// How many proofs a log remembers: some 90 MB when full. At a minute each that is 16,000 calls with a proof a second.
pub const PROOFS_MAX: usize = 1_000_000;

/// How many of one key, as a part of all.
const PART_OF_A_KEY: usize = 16;

/// How many of one key any log remembers, so that no client fills it: at a minute each some 1,000 calls a second.
pub const PROOFS_OF_A_KEY_MAX: usize = PROOFS_MAX / PART_OF_A_KEY;

/// Far more than there are cores, so that two calls rarely meet.
const SHARDS: usize = 64;

/// How many proofs that are due a call forgets. More than one, so that forgetting outruns remembering.
const FORGOTTEN_PER_CALL: usize = 2;

/// Remembers proofs in memory, by the steady clock. Always answers at once.
pub struct MemoryProofs {
    shards: [Mutex<Shard>; SHARDS],
    proofs: AtomicUsize,
    proofs_max: usize,
    of_a_key_max: usize,
    gauge: Gauge,
}

/// The first bytes of a key's thumbprint. That two keys had the same would take 2^64 tries to bring about, and lead to a
/// bound in common.
type KeyPart = [u8; 8];

/// A key, and the first bytes of what stands for its proof: those of a hash, of which nobody finds two alike.
type Name = (KeyPart, [u8; 16]);

#[derive(Default)]
struct Shard {
    used: HashSet<Name, RandomState>,
    due: BinaryHeap<Reverse<(Micros, Name)>>,
    /// Proofs of each key; none where there is none.
    of_key: HashMap<KeyPart, usize, RandomState>,
}

impl MemoryProofs {
    /// An empty log for at most `proofs_max` proofs, and a sixteenth of that for each key.
    pub fn new(proofs_max: usize, telemetry: &Telemetry) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            proofs: AtomicUsize::new(0),
            proofs_max,
            of_a_key_max: proofs_max.div_ceil(PART_OF_A_KEY),
            gauge: telemetry.gauge(names::MEMORY_PROOFS, &[]),
        }
    }

    fn first_use_now(&self, proof: ProofUse, mode: Mode, now: Micros) -> Result<bool, Away> {
        self.try_first_use(proof, mode, now)
            .or_else(|| {
                self.forget_everywhere(now);
                self.try_first_use(proof, mode, now)
            })
            .unwrap_or(Err(Away { because: AwayCause::Full }))
    }

    /// Nothing where there is no room.
    fn try_first_use(&self, proof: ProofUse, mode: Mode, now: Micros) -> Option<Result<bool, Away>> {
        let name = name_of(&proof);
        let mut shard = lock(&self.shards[shard_of(name.0)]);
        self.give_back(shard.forget(FORGOTTEN_PER_CALL, now));
        if shard.used.contains(&name) {
            return Some(Ok(false));
        }
        if mode == Mode::Peek {
            return Some(Ok(true));
        }
        if shard.count_of(name.0) >= self.of_a_key_max {
            // Perhaps much of it is due.
            self.give_back(shard.forget(usize::MAX, now));
            if shard.count_of(name.0) >= self.of_a_key_max {
                return Some(Err(Away { because: AwayCause::Full }));
            }
        }
        if !self.reserve() {
            return None;
        }
        shard.remember(name, now + proof.keep);
        Some(Ok(true))
    }

    fn forget_everywhere(&self, now: Micros) {
        for shard in &self.shards {
            let forgotten = lock(shard).forget(usize::MAX, now);
            self.give_back(forgotten);
        }
    }

    fn reserve(&self) -> bool {
        let fits = |proofs: usize| (proofs < self.proofs_max).then_some(proofs + 1);
        let reserved = self.proofs.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok();
        if reserved {
            self.gauge.increment(1.0);
        }
        reserved
    }

    fn give_back(&self, places: usize) {
        if places > 0 {
            self.proofs.fetch_sub(places, Ordering::Relaxed);
            #[expect(clippy::cast_precision_loss, reason = "at most a million")]
            self.gauge.decrement(places as f64);
        }
    }
}

impl ProofLog for MemoryProofs {
    fn first_use(&self, proof: ProofUse, mode: Mode, now: Moment) -> Answer<'_, Result<bool, Away>> {
        Answer::Now(self.first_use_now(proof, mode, now.steady))
    }
}

impl Shard {
    fn count_of(&self, key: KeyPart) -> usize {
        self.of_key.get(&key).copied().unwrap_or_default()
    }

    fn remember(&mut self, name: Name, until: Micros) {
        self.used.insert(name);
        self.due.push(Reverse((until, name)));
        *self.of_key.entry(name.0).or_default() += 1;
    }

    /// Forgets at most so many proofs that are due, and says how many.
    fn forget(&mut self, at_most: usize, now: Micros) -> usize {
        let mut forgotten = 0;
        while forgotten < at_most && self.due.peek().is_some_and(|Reverse((due, _))| *due <= now) {
            let Some(Reverse((_, name))) = self.due.pop() else { break };
            self.used.remove(&name);
            forgotten += 1;
            if let Some(count) = self.of_key.get_mut(&name.0) {
                *count -= 1;
                if *count == 0 {
                    self.of_key.remove(&name.0);
                }
            }
        }
        forgotten
    }
}

fn name_of(proof: &ProofUse) -> Name {
    let (mut key, mut name) = ([0; 8], [0; 16]);
    key.copy_from_slice(&proof.key[..8]);
    name.copy_from_slice(&proof.name[..16]);
    (key, name)
}

/// A thumbprint is uniformly distributed already.
fn shard_of(key: KeyPart) -> usize {
    usize::from(key[0]) % SHARDS
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    const KEEP: Micros = Micros::from_secs(60);
    const START: Micros = Micros::from_secs(1_000);
    const FULL: Result<bool, Away> = Err(Away { because: AwayCause::Full });

    fn log(proofs_max: usize) -> (MemoryProofs, Telemetry) {
        let telemetry = Telemetry::default();
        (MemoryProofs::new(proofs_max, &telemetry), telemetry)
    }

    fn use_of(key: u8, proof: u64) -> ProofUse {
        let mut name = [key; 32];
        name[..8].copy_from_slice(&proof.to_le_bytes());
        ProofUse { key: [key; 32], name, keep: KEEP }
    }

    fn first(log: &MemoryProofs, key: u8, proof: u64, now: Micros) -> Result<bool, Away> {
        log.first_use_now(use_of(key, proof), Mode::Consume, now)
    }

    #[test]
    fn a_full_log_refuses_and_forgets_nothing_before_its_time() {
        let (log, telemetry) = log(32);
        for key in 0..16 {
            for proof in 0..2 {
                assert_eq!(first(&log, key, proof, START), Ok(true));
            }
        }
        assert!(telemetry.render().contains("tollgate_memory_proofs 32"), "{}", telemetry.render());
        let last = START + KEEP - Micros(1);
        assert_eq!(first(&log, 99, 0, last), FULL);
        for key in 0..16 {
            assert_eq!(first(&log, key, 1, last), Ok(false));
        }
        for key in 100..132 {
            assert_eq!(first(&log, key, 0, START + KEEP), Ok(true), "all of it is due, in whatever shard");
        }
        assert_eq!(first(&log, 99, 0, START + KEEP), FULL);
    }

    #[test]
    fn one_key_cannot_fill_the_log() {
        let (log, _telemetry) = log(160);
        for proof in 0..10 {
            assert_eq!(first(&log, 1, proof, START), Ok(true));
        }
        assert_eq!(first(&log, 1, 10, START), FULL);
        assert_eq!(first(&log, 1, 9, START), Ok(false));
        // One of the same shard, and one of another.
        assert_eq!((first(&log, 65, 10, START), first(&log, 2, 10, START)), (Ok(true), Ok(true)));
        assert_eq!(first(&log, 1, 10, START + KEEP), Ok(true));
    }

    #[test]
    fn places_are_used_again_without_end() {
        let (log, _telemetry) = log(1_000_000);
        for round in 0..200 {
            let now = START + Micros(2 * KEEP.0 * round);
            for proof in 0..100 {
                assert_eq!(first(&log, 7, round * 100 + proof, now), Ok(true));
            }
        }
        assert!(log.proofs.load(Ordering::Relaxed) <= 200);
        let shard = lock(&log.shards[7]);
        assert_eq!((shard.used.len(), shard.count_of([7; 8])), (shard.due.len(), shard.due.len()));
    }

    #[test]
    fn of_many_threads_with_one_proof_one_is_the_first() {
        let (log, _telemetry) = log(1_000);
        let firsts = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for proof in 0..50 {
                        firsts.fetch_add(usize::from(first(&log, 3, proof, START).unwrap()), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(firsts.load(Ordering::Relaxed), 50);
    }
}
