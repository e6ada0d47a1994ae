//! Counters in this process's memory: the embedded default.
//!
//! A fixed number of shards, each behind one lock, each a table of counters. Several counters are asked under the locks
//! of all their shards, taken in the order of the shards: all or none is exact, nobody sees a charge that is taken back,
//! and no two callers wait for each other in a circle. A lock is held for some arithmetic, never over an await. One
//! lock per counter besides would cost memory and save nothing: whoever holds a shard's lock is done at once.
//!
//! The number of counters has a hard bound. A counter is let go when nothing in it counts any more, never before: when
//! all are in use, a new one is refused ([`AwayCause::Full`]). Each shard keeps the moments at which its counters may
//! be idle in a heap, and every call does a little of the cleaning, so there is no background task and no long pause.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::hash::BuildHasher as _;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use metrics::Gauge;
use smallvec::SmallVec;
use tracing::{info, warn};

use crate::decide::ports::{
    Answer, Away, AwayCause, Beat, Charge, Charges, Epoch, Grants, Hit, Hits, Peer, Pulse, QuotaStore, Refunds,
    Request, Requests, Settlements, Word, all_away,
};
use crate::domain::counter::Counter;
use crate::domain::limit::{Algorithm, CounterKey, Limit};
use crate::domain::question::Mode;
use crate::domain::time::{Micros, Moment};
use crate::domain::window::{Grant, LeaseId, Outcome, Terms};
use crate::telemetry::{Telemetry, names};

/// How many counters a store holds unless told otherwise: some 200 MB when full.
pub const COUNTERS_MAX: usize = 1_000_000;

/// Far more than there are cores, so that two calls rarely meet; few enough to visit them all when memory is short.
const SHARDS: usize = 64;

/// How many counters a call looks at to see whether they are idle. More than one, so that cleaning outruns growth.
const LOOKED_AT_PER_CALL: usize = 2;

/// The same, per shard, for a call that finds the store full.
const LOOKED_AT_WHEN_FULL: usize = 64;

/// Keeps counters in memory. It goes by the steady clock, but for fixed windows, which begin by the wall clock, and
/// always answers at once.
pub struct MemoryStore {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    room: Room,
}

/// How many counters there are, and may be.
struct Room {
    counters: AtomicUsize,
    counters_max: usize,
    gauge: Gauge,
    /// Whether the log says that the store is full.
    said_full: AtomicBool,
}

#[derive(Default)]
struct Shard {
    /// Places in `slots`, found by key.
    index: HashTable<u32>,
    slots: Vec<Option<Slot>>,
    /// Vacant places in `slots`.
    vacant: Vec<u32>,
    /// For each counter one moment before which it is not idle, unless a lease is settled.
    idle: BinaryHeap<Reverse<(Micros, u32)>>,
    /// Time never steps back for a counter, not even for one that was let go and comes again.
    floor: Micros,
}

struct Slot {
    key: Box<[u8]>,
    counter: Counter,
}

impl MemoryStore {
    /// An empty store for at most `counters_max` counters.
    pub fn new(counters_max: usize, telemetry: &Telemetry) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::default(),
            room: Room {
                counters: AtomicUsize::new(0),
                counters_max,
                gauge: telemetry.gauge(names::MEMORY_COUNTERS, &[]),
                said_full: AtomicBool::new(false),
            },
        }
    }

    fn acquire_now(&self, requests: &[Request], mode: Mode, now: Moment) -> Grants {
        if let Some(grants) = self.try_acquire(requests, mode, now) {
            return grants;
        }
        self.clean_up(now);
        self.try_acquire(requests, mode, now).unwrap_or_else(|| {
            self.room.say_full();
            all_away(requests.len(), Away { because: AwayCause::Full })
        })
    }

    /// What the counters grant; nothing where there is no room for a new one.
    fn try_acquire(&self, requests: &[Request], mode: Mode, now: Moment) -> Option<Grants> {
        let hashes: SmallVec<[u64; 4]> = requests.iter().map(|request| self.hash(request.key.as_bytes())).collect();
        let mut locked = self.lock_all(&hashes);
        // Before any is looked at: one that is known must still be there when it is charged, or it would take a place
        // that nobody reserved.
        for &hash in &hashes {
            locked.of(hash)?.let_go_of_idle(LOOKED_AT_PER_CALL, now.steady, &self.hasher, &self.room);
        }
        let mut grants = Grants::new();
        let (mut new, mut granted) = (0, true);
        for (request, &hash) in requests.iter().zip(&hashes) {
            let (grant, known) = locked.of(hash)?.look(hash, request, now);
            new += usize::from(!known && charges(grant));
            granted &= matches!(grant.outcome, Outcome::Granted { .. });
            grants.push(Ok(grant));
        }
        if mode == Mode::Peek || !granted {
            return Some(grants);
        }
        let mut reserved = self.room.reserve(new)?;
        for ((grant, request), &hash) in grants.iter_mut().flatten().zip(requests).zip(&hashes) {
            if charges(*grant) {
                *grant = locked.of(hash)?.acquire(hash, request, now, &self.hasher, &mut reserved);
            }
        }
        Some(grants)
    }

    fn hit_one(&self, hit: &Hit, now: Moment) -> Result<Grant, Away> {
        if let Some(grant) = self.try_hit(hit, now) {
            return Ok(grant);
        }
        self.clean_up(now);
        self.try_hit(hit, now).ok_or_else(|| {
            self.room.say_full();
            Away { because: AwayCause::Full }
        })
    }

    /// What the counter says; nothing where there is no room for a new one.
    fn try_hit(&self, Hit { limit: _, grid, key, hits }: &Hit, now: Moment) -> Option<Grant> {
        let (hash, mut shard) = self.lock_of(key);
        shard.let_go_of_idle(LOOKED_AT_PER_CALL, now.steady, &self.hasher, &self.room);
        let algorithm = Algorithm::FixedWindow(*grid);
        if let Some(counter) = shard.find(hash, key.as_bytes(), algorithm) {
            return Some(counter.hit(*grid, *hits, now));
        }
        let mut counter = Counter::new(algorithm, shard.floor);
        let grant = counter.hit(*grid, *hits, now);
        if *hits > 0 {
            self.room.reserve(1)?.take();
            shard.insert(hash, Slot { key: key.as_bytes().into(), counter }, &self.hasher);
        }
        Some(grant)
    }

    /// Lets go of what is idle in every shard.
    fn clean_up(&self, now: Moment) {
        for shard in &self.shards {
            lock(shard).let_go_of_idle(LOOKED_AT_WHEN_FULL, now.steady, &self.hasher, &self.room);
        }
    }

    fn assert_one(&self, Charge { limit, key, units }: Charge, now: Moment) -> Result<(), Away> {
        let lease = LeaseId { replica: 0, serial: 0 };
        let request = |units| {
            let terms = Terms { at_least: units, at_most: units, hold: Micros::ZERO, lease };
            [Request { limit: Arc::clone(&limit), key: key.clone(), terms }]
        };
        let looked = self.acquire_now(&request(0), Mode::Peek, now);
        let left = looked.first().copied().transpose()?.map_or(0, |grant| grant.remaining);
        // A charge in between makes it too much, and nothing is charged: but nobody asks a store that is being told.
        let charged = self.acquire_now(&request(units.min(left)), Mode::Consume, now);
        charged.first().copied().transpose().map(|_| ())
    }

    fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    fn lock_of(&self, key: &CounterKey) -> (u64, MutexGuard<'_, Shard>) {
        let hash = self.hash(key.as_bytes());
        (hash, lock(&self.shards[shard_of(hash)]))
    }

    fn lock_all(&self, hashes: &[u64]) -> Locked<'_> {
        let mut places: SmallVec<[usize; 4]> = hashes.iter().map(|&hash| shard_of(hash)).collect();
        // The order that all callers keep to.
        places.sort_unstable();
        places.dedup();
        Locked(places.into_iter().map(|place| (place, lock(&self.shards[place]))).collect())
    }
}

impl QuotaStore for MemoryStore {
    fn acquire(&self, requests: Requests, mode: Mode, now: Moment) -> Answer<'_, Grants> {
        Answer::Now(self.acquire_now(&requests, mode, now))
    }

    fn hit(&self, hits: Hits, now: Moment) -> Answer<'_, Grants> {
        Answer::Now(hits.iter().map(|hit| self.hit_one(hit, now)).collect())
    }

    fn settle(&self, settlements: Settlements, now: Moment) -> Answer<'_, Result<(), Away>> {
        for settlement in settlements {
            let (hash, mut shard) = self.lock_of(&settlement.key);
            if let Some(counter) = shard.find(hash, settlement.key.as_bytes(), settlement.limit.algorithm) {
                counter.settle(settlement.lease, settlement.used, now);
            }
        }
        Answer::Now(Ok(()))
    }

    fn refund(&self, charges: Charges, now: Moment) -> Answer<'_, Result<Refunds, Away>> {
        let one = |Charge { limit, key, units }: Charge| {
            let (hash, mut shard) = self.lock_of(&key);
            shard.find(hash, key.as_bytes(), limit.algorithm).map_or(0, |counter| counter.refund(units, now))
        };
        Answer::Now(Ok(charges.into_iter().map(one).collect()))
    }

    fn reset(&self, limit: Arc<Limit>, key: CounterKey) -> Answer<'_, Result<(), Away>> {
        let (hash, mut shard) = self.lock_of(&key);
        // It keeps its place until it would have been idle anyway.
        if let Some(counter) = shard.find(hash, key.as_bytes(), limit.algorithm) {
            counter.forget();
        }
        Answer::Now(Ok(()))
    }

    fn assert(&self, charges: Charges, now: Moment) -> Answer<'_, Result<(), Away>> {
        // Slots are held by name: their number alone says nothing.
        let told = charges.into_iter().filter(|charge| !matches!(charge.limit.algorithm, Algorithm::Concurrency(_)));
        Answer::Now(told.into_iter().try_for_each(|charge| self.assert_one(charge, now)))
    }

    /// Nobody else counts here, and what is in memory is lost with whoever admitted it.
    fn beat(&self, pulse: Pulse, _: Moment) -> Answer<'_, Result<Beat, Away>> {
        let there = vec![Peer { replica: pulse.replica, word: Word::Told }];
        Answer::Now(Ok(Beat { epoch: Epoch(NonZeroU64::MIN), there }))
    }
}

/// Whether a grant would change its counter.
const fn charges(grant: Grant) -> bool {
    matches!(grant.outcome, Outcome::Granted { units: 1.. })
}

/// The tables look at the lowest and the highest bits of a hash, so the shard is taken from the middle.
const fn shard_of(hash: u64) -> usize {
    (hash >> 32) as usize % SHARDS
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The shards of one call, locked.
struct Locked<'a>(SmallVec<[(usize, MutexGuard<'a, Shard>); 4]>);

impl Locked<'_> {
    fn of(&mut self, hash: u64) -> Option<&mut Shard> {
        self.0.iter_mut().find(|(place, _)| *place == shard_of(hash)).map(|(_, shard)| &mut **shard)
    }
}

impl Shard {
    fn find(&mut self, hash: u64, key: &[u8], algorithm: Algorithm) -> Option<&mut Counter> {
        let slots = &self.slots;
        let is_it = |slot: &Slot| *slot.key == *key && slot.counter.counts_by(algorithm);
        let place = *self.index.find(hash, |&place| slot(slots, place).is_some_and(is_it))?;
        self.slots.get_mut(place as usize)?.as_mut().map(|slot| &mut slot.counter)
    }

    /// What the counter would grant, and whether there is one.
    fn look(&mut self, hash: u64, request: &Request, now: Moment) -> (Grant, bool) {
        let (algorithm, floor) = (request.limit.algorithm, self.floor);
        match self.find(hash, request.key.as_bytes(), algorithm) {
            Some(counter) => (counter.look(algorithm, request.terms, now), true),
            None => (Counter::new(algorithm, floor).look(algorithm, request.terms, now), false),
        }
    }

    fn acquire(
        &mut self,
        hash: u64,
        request: &Request,
        now: Moment,
        hasher: &RandomState,
        reserved: &mut Reserved<'_>,
    ) -> Grant {
        let algorithm = request.limit.algorithm;
        if let Some(counter) = self.find(hash, request.key.as_bytes(), algorithm) {
            return counter.acquire(algorithm, request.terms, now);
        }
        let mut counter = Counter::new(algorithm, self.floor);
        let grant = counter.acquire(algorithm, request.terms, now);
        reserved.take();
        self.insert(hash, Slot { key: request.key.as_bytes().into(), counter }, hasher);
        grant
    }

    fn insert(&mut self, hash: u64, new: Slot, hasher: &RandomState) {
        let idle_from = new.counter.idle_from();
        let place = self.vacant.pop().unwrap_or_else(|| {
            if self.slots.len() == self.slots.capacity() {
                // Doubling would leave a third of the memory unused on average.
                self.slots.reserve_exact(16.max(self.slots.len() / 8));
            }
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        if let Some(vacant) = self.slots.get_mut(place as usize) {
            *vacant = Some(new);
            let slots = &self.slots;
            self.index
                .insert_unique(hash, place, |&place| slot(slots, place).map_or(0, |slot| hasher.hash_one(&*slot.key)));
            self.idle.push(Reverse((idle_from, place)));
        }
    }

    /// Looks at the counters that are due, at most so many, and lets go of those that are idle.
    fn let_go_of_idle(&mut self, at_most: usize, now: Micros, hasher: &RandomState, room: &Room) {
        for _ in 0..at_most {
            let Some(mut first) = self.idle.peek_mut().filter(|first| first.0.0 <= now) else { return };
            let place = first.0.1;
            let idle_from = slot(&self.slots, place).map_or(Micros::ZERO, |slot| slot.counter.idle_from());
            if idle_from > now {
                first.0.0 = idle_from;
                continue;
            }
            PeekMut::pop(first);
            self.remove(place, now, hasher);
            room.give_back(1);
        }
    }

    fn remove(&mut self, place: u32, now: Micros, hasher: &RandomState) {
        let Some(slot) = self.slots.get_mut(place as usize).and_then(Option::take) else { return };
        self.floor = self.floor.max(now).max(slot.counter.latest());
        if let Ok(entry) = self.index.find_entry(hasher.hash_one(&*slot.key), |&other| other == place) {
            entry.remove();
        }
        self.vacant.push(place);
    }
}

fn slot(slots: &[Option<Slot>], place: u32) -> Option<&Slot> {
    slots.get(place as usize)?.as_ref()
}

impl Room {
    fn reserve(&self, places: usize) -> Option<Reserved<'_>> {
        if places > 0 {
            let fits = |counters: usize| counters.checked_add(places).filter(|&sum| sum <= self.counters_max);
            self.counters.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
            #[expect(clippy::cast_precision_loss, reason = "a few places")]
            self.gauge.increment(places as f64);
            self.say_room();
        }
        Some(Reserved { room: self, places })
    }

    fn give_back(&self, places: usize) {
        if places > 0 {
            self.counters.fetch_sub(places, Ordering::Relaxed);
            #[expect(clippy::cast_precision_loss, reason = "a few places")]
            self.gauge.decrement(places as f64);
        }
    }

    fn say_full(&self) {
        if !self.said_full.swap(true, Ordering::Relaxed) {
            warn!(
                counters_max = self.counters_max,
                "the memory store is full of counters in use: new ones are refused"
            );
        }
    }

    /// Once per filling up, not whenever a single place changes hands.
    fn say_room(&self) {
        let roomy = self.counters.load(Ordering::Relaxed) <= self.counters_max - self.counters_max / 16;
        if self.said_full.load(Ordering::Relaxed) && roomy && self.said_full.swap(false, Ordering::Relaxed) {
            info!("the memory store has room again");
        }
    }
}

/// Places for new counters. Those that are not taken are given back.
struct Reserved<'a> {
    room: &'a Room,
    places: usize,
}

impl Reserved<'_> {
    const fn take(&mut self) {
        self.places = self.places.saturating_sub(1);
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.room.give_back(self.places);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::thread;

    use super::super::suite::{at, key, limit, request};
    use super::*;
    use crate::domain::exact_log::at_once;

    const WINDOW: Micros = Micros::from_secs(32);
    const START: Micros = Micros::from_secs(1_000);
    const FULL: Away = Away { because: AwayCause::Full };

    fn store(counters_max: usize) -> (MemoryStore, Telemetry) {
        let telemetry = Telemetry::default();
        (MemoryStore::new(counters_max, &telemetry), telemetry)
    }

    fn ask(store: &MemoryStore, names: &[&str], units: u64, now: Micros) -> Result<Vec<Grant>, Away> {
        let limit = limit(10, WINDOW);
        let requests: Requests = names.iter().map(|name| request(&limit, name, at_once(units))).collect();
        match store.acquire(requests, Mode::Consume, at(now)) {
            Answer::Now(answer) => answer.into_iter().collect(),
            Answer::Later(_) => unreachable!("memory answers at once"),
        }
    }

    fn remaining(store: &MemoryStore, name: &str, now: Micros) -> u64 {
        ask(store, &[name], 0, now).unwrap()[0].remaining
    }

    fn counters(store: &MemoryStore) -> usize {
        store.room.counters.load(Ordering::Relaxed)
    }

    #[test]
    fn a_full_store_refuses_new_counters_and_serves_those_it_has() {
        let (store, telemetry) = store(100);
        let names: Vec<String> = (0..100).map(|name| name.to_string()).collect();
        for name in &names {
            ask(&store, &[name], 1, START).unwrap();
        }
        for name in 100..300 {
            assert_eq!(ask(&store, &[&name.to_string()], 1, START), Err(FULL));
        }
        for name in &names {
            assert_eq!(ask(&store, &[name], 2, START + Micros(1)).unwrap()[0].remaining, 7);
        }
        assert!(telemetry.render().contains("tollgate_memory_counters 100"), "{}", telemetry.render());
        // A look and a refusal need no place.
        assert_eq!(remaining(&store, "new", START), 10);
        assert_eq!(ask(&store, &["new"], 11, START).unwrap()[0].outcome, Outcome::Never);
    }

    #[test]
    fn a_call_that_needs_more_places_than_there_are_takes_none_and_charges_nothing() {
        let (store, _telemetry) = store(2);
        ask(&store, &["old"], 1, START).unwrap();
        assert_eq!(ask(&store, &["old", "new", "newer"], 1, START), Err(FULL));
        assert_eq!(remaining(&store, "old", START), 9);
        assert_eq!(counters(&store), 1);
        ask(&store, &["old", "new"], 1, START).unwrap();
        assert_eq!(counters(&store), 2);
    }

    #[test]
    fn places_that_a_counter_named_twice_does_not_need_are_given_back() {
        let (store, _telemetry) = store(10);
        ask(&store, &["twin", "twin"], 1, START).unwrap();
        assert_eq!(counters(&store), 1);
    }

    #[test]
    fn a_counter_is_let_go_when_nothing_counts_any_more_and_not_before() {
        let (store, telemetry) = store(50);
        let names: Vec<String> = (0..50).map(|name| name.to_string()).collect();
        for name in &names {
            ask(&store, &[name], 1, START).unwrap();
        }
        // Half of them are used again later.
        for name in &names[..25] {
            ask(&store, &[name], 1, START + WINDOW).unwrap();
        }
        let idle_from = START + WINDOW + Micros(WINDOW.0 / 32);
        assert_eq!(ask(&store, &["new"], 1, idle_from - Micros(1)), Err(FULL));
        for new in 0..25 {
            ask(&store, &[&format!("new-{new}")], 1, idle_from).unwrap();
        }
        assert_eq!(ask(&store, &["one-more"], 1, idle_from), Err(FULL));
        for name in &names[..25] {
            assert_eq!(remaining(&store, name, idle_from), 9);
        }
        assert!(telemetry.render().contains("tollgate_memory_counters 50"));
    }

    #[test]
    fn places_are_used_again_without_end() {
        let (store, _telemetry) = store(1_000_000);
        for round in 0..200 {
            let now = START + Micros(2 * WINDOW.0 * round);
            for name in 0..100 {
                ask(&store, &[&format!("{round}-{name}")], 1, now).unwrap();
            }
        }
        // Cleaning keeps up with growth by itself.
        assert!(counters(&store) <= 300, "{}", counters(&store));
        let slots: usize = store.shards.iter().map(|shard| lock(shard).slots.len()).sum();
        assert!(slots <= 64 * 16, "{slots}");
    }

    /// A call that has looked at a counter must not let go of it before it is charged.
    #[test]
    fn counters_that_fall_idle_are_counted_right_when_one_call_names_several() {
        let (store, _telemetry) = store(1_000);
        // All in one shard, so that each request's cleaning can meet the others' counters.
        let names: Vec<String> = (0..)
            .map(|name: u32| name.to_string())
            .filter(|name| shard_of(store.hash(key(name).as_bytes())) == 0)
            .take(8)
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for round in 0..20 {
            let now = START + Micros(2 * WINDOW.0 * round);
            ask(&store, &names, 1, now).unwrap();
            let held: usize = store.shards.iter().map(|shard| lock(shard).index.len()).sum();
            assert_eq!(counters(&store), held, "round {round}");
        }
    }

    #[test]
    fn a_counter_that_was_let_go_does_not_come_back_at_an_earlier_time() {
        let (store, _telemetry) = store(1);
        ask(&store, &["alice"], 10, START).unwrap();
        let later = START + WINDOW + WINDOW;
        // The only place is needed, so alice is let go.
        ask(&store, &["bob"], 1, later).unwrap();
        assert_eq!(counters(&store), 1);
        let shard = shard_of(store.hash(key("alice").as_bytes()));
        assert!(lock(&store.shards[shard]).floor >= later);
    }

    #[test]
    fn threads_that_ask_in_different_orders_neither_block_nor_see_half_a_charge() {
        let (store, _telemetry) = store(1_000);
        let (ample, names) = (limit(1_000_000, WINDOW), ["a", "b", "c", "d", "e", "f"]);
        let requests = |first: usize, units| -> Requests {
            (0..names.len()).map(|n| request(&ample, names[(first + n) % names.len()], at_once(units))).collect()
        };
        thread::scope(|scope| {
            for thread in 0..6 {
                let (store, requests) = (&store, &requests);
                scope.spawn(move || {
                    for turn in 0..500 {
                        let mode = if turn % 3 == 0 { Mode::Peek } else { Mode::Consume };
                        let grants = store.acquire_now(&requests(thread + turn, 1), mode, at(START));
                        let first = grants[0].unwrap().remaining;
                        assert!(grants.iter().all(|grant| grant.unwrap().remaining == first), "{grants:?}");
                    }
                });
            }
        });
        let left = store.acquire_now(&requests(0, 1), Mode::Peek, at(START))[0].unwrap().remaining;
        assert_eq!(left, 1_000_000 - 6 * 333);
    }

    #[test]
    fn a_counter_takes_little_memory() {
        // With its key's bytes, its share of the index and its due time that is below 200 bytes.
        assert!(size_of::<Option<Slot>>() <= 88, "{}", size_of::<Option<Slot>>());
    }
}
