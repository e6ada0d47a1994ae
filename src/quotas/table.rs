//! What this replica knows of counters: sharded, bounded, each shard behind one lock that is held for some arithmetic and
//! never over an await. One lock at a time: a question that cannot be paid whole gives back what it took.
//!
//! A counter that is in use has a holding, for leases, refusals and requests. When it falls idle the holding is let go, and
//! what stays for the rest of its window is how much was admitted: for a store that loses its data.

use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use tokio::sync::oneshot;

use crate::decide::ports::{Charge, Request};
use crate::domain::admitted::Admitted;
use crate::domain::lease::{Ended, Holding, leased_frame};
use crate::domain::limit::{Algorithm, CounterKey, Limit};
use crate::domain::time::Micros;

/// How many counters are in use at most: some 30 MB when full. One that finds no place is paid at the store each time, and
/// what was admitted of it is not remembered.
pub(super) const HOLDINGS_MAX: usize = 65_536;

/// So many counters more, at most, are only remembered: some 50 MB when full. Of others it is forgotten what was admitted.
const REMEMBERED_PER_HOLDING: usize = 4;

const SHARDS: usize = 64;

/// A full shard is swept for idle counters when an eighth as many as it knows found no place: so in a flood of new counters
/// each pays for a look at this many others at most.
const LOOKS_PER_TURNED_AWAY: usize = 8;

/// And at most this often: what was not idle just now is not yet.
const SWEEP_INTERVAL: Micros = Micros::from_millis(10);

/// What became of a request that a call waited for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Woken {
    /// It was answered: there may be units in hand, a refusal to remember, or the next request to make.
    TryAgain,
    /// The store could not be asked.
    Away,
}

/// What is known of one counter.
pub(super) struct Entry {
    limit: Arc<Limit>,
    admitted: Admitted,
    /// Units that were admitted and are not charged to the store's present data.
    owed: u64,
    /// There while the counter is in use.
    live: Option<Box<Live>>,
}

/// A holding, and the calls that wait for its request.
struct Live {
    holding: Holding,
    waiters: Vec<oneshot::Sender<Woken>>,
    /// Whether the shard's list of leases has it.
    listed: bool,
}

impl Entry {
    fn new(limit: &Arc<Limit>, now: Micros) -> Self {
        Self { limit: Arc::clone(limit), admitted: Admitted::nothing(now), owed: 0, live: None }
    }

    /// The limit, as it was when the counter was last asked.
    pub(super) const fn limit(&self) -> &Arc<Limit> {
        &self.limit
    }

    /// What leases are in hand, where the counter is in use.
    pub(super) fn holding(&mut self) -> Option<&mut Holding> {
        self.live.as_mut().map(|live| &mut live.holding)
    }

    /// Waits for the request that is under way.
    pub(super) fn wait(&mut self) -> oneshot::Receiver<Woken> {
        let (sender, receiver) = oneshot::channel();
        if let Some(live) = &mut self.live {
            live.waiters.push(sender);
        }
        receiver
    }

    /// Tells those who wait, unless a request is under way.
    pub(super) fn wake(&mut self, woken: Woken) {
        let Some(live) = self.live.as_mut().filter(|live| !live.holding.is_asking()) else { return };
        for waiter in live.waiters.drain(..) {
            // One that has gone away needs nothing.
            let _ = waiter.send(woken);
        }
    }

    /// Goes over to the limit's present definition. The lease that ends by that, if there is one.
    pub(super) fn follow(&mut self, limit: &Arc<Limit>, now: Micros) -> Option<(Arc<Limit>, Ended)> {
        if self.limit.algorithm == limit.algorithm {
            return None;
        }
        self.admitted.follow(self.limit.window(), now);
        let old = std::mem::replace(&mut self.limit, Arc::clone(limit));
        let ended = self.holding()?.follow(leased_frame(limit));
        ended.map(|ended| (old, ended))
    }

    /// The counter was reset.
    pub(super) fn forget(&mut self, now: Micros) {
        (self.admitted, self.owed) = (Admitted::nothing(now), 0);
        if let Some(holding) = self.holding() {
            holding.forget();
        }
    }

    /// Units were admitted that the store knows of.
    pub(super) fn admit(&mut self, units: u64, now: Micros) {
        if !self.can_be_told() {
            return;
        }
        self.admitted.add(units, self.limit.window(), now);
    }

    /// Units were admitted that the store does not know of.
    pub(super) fn admit_untold(&mut self, units: u64, now: Micros) {
        self.admit(units, now);
        if self.can_be_told() {
            self.owed = self.owed.saturating_add(units);
        }
    }

    /// Slots are held by name and given back by name: their number alone is no use to a store.
    fn can_be_told(&self) -> bool {
        !matches!(self.limit.algorithm, Algorithm::Concurrency(_))
    }

    /// Units were not admitted after all.
    pub(super) fn take_back(&mut self, units: u64) {
        self.admitted.take_back(units);
    }

    /// Units admitted within the last window, and perhaps some before.
    pub(super) fn admitted(&self, now: Micros) -> u64 {
        self.admitted.within(self.limit.window(), now)
    }

    /// The store lost its data: all that counts is owed to the new, and what is in hand has nothing behind it.
    fn lose(&mut self, now: Micros) -> Option<Ended> {
        self.owed = self.admitted(now);
        let ended = self.live.as_mut().and_then(|live| {
            let ended = live.holding.end();
            live.holding.forget();
            ended
        });
        self.wake(Woken::Away);
        ended
    }
}

/// Every counter that is known.
pub(super) struct Table {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    room: Room,
}

/// How many counters a shard may know.
#[derive(Clone, Copy)]
struct Room {
    live: usize,
    remembered: usize,
}

#[derive(Default)]
struct Shard {
    entries: HashMap<Box<[u8]>, Entry, RandomState>,
    /// How many of the entries are live.
    live: usize,
    /// Those with a lease in hand, and some that had one.
    leased: Vec<Leased>,
    /// Whether some may owe something to the store. Not which: those come and go, and an outage may be long.
    owes: bool,
    swept: Micros,
    /// How often a counter found no place since.
    turned_away: usize,
}

/// A counter with a lease in hand. Leases are many and looked after often: this says when it is worth the while.
struct Leased {
    due: Micros,
    key: Box<[u8]>,
}

impl Table {
    /// For at most `holdings_max` counters in use, rounded up to the number of shards.
    pub(super) fn new(holdings_max: usize) -> Self {
        let live = holdings_max.div_ceil(SHARDS);
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::default(),
            room: Room { live, remembered: live * REMEMBERED_PER_HOLDING },
        }
    }

    /// Does something with a counter that is known.
    pub(super) fn with<T>(&self, key: &CounterKey, act: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        self.shard(key).with(key, act)
    }

    /// The same, with one that becomes known unless there is no place.
    pub(super) fn with_known<T>(&self, request: &Request, now: Micros, act: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let mut shard = self.shard(&request.key);
        shard.make_known(request, now, self.room);
        shard.with(&request.key, act)
    }

    /// The same, with one that comes into use unless nothing is remembered of it or there is no place.
    pub(super) fn with_live<T>(&self, request: &Request, now: Micros, act: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let holding = Holding::of(&request.limit, now)?;
        let mut shard = self.shard(&request.key);
        shard.make_known(request, now, self.room);
        if !shard.make_live(&request.key, holding, now, self.room) {
            return None;
        }
        shard.with(&request.key, act)
    }

    /// Ends the leases that `ends` says end, of those that are due at `now`.
    pub(super) fn end_leases(
        &self,
        now: Micros,
        mut ends: impl FnMut(&mut Holding) -> Option<Ended>,
        mut ended: impl FnMut(&Arc<Limit>, &CounterKey, Ended),
    ) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            let Shard { entries, leased, .. } = &mut *shard;
            leased.retain_mut(|Leased { due, key }| {
                if *due > now {
                    return true;
                }
                let Some(Entry { limit, live: Some(live), .. }) = entries.get_mut(key) else { return false };
                if let Some(lease) = ends(&mut live.holding) {
                    ended(limit, &CounterKey::rebuilt(key), lease);
                }
                let next = live.holding.due();
                *due = next.unwrap_or(*due);
                live.listed = next.is_some();
                live.listed
            });
        }
    }

    /// The store lost its data. Leases that end by that are answered for by `ended`.
    pub(super) fn lose(&self, now: Micros, mut ended: impl FnMut(Ended)) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            shard.owes = true;
            shard.entries.values_mut().filter_map(|entry| entry.lose(now)).for_each(&mut ended);
        }
    }

    /// What is owed to the store, shard by shard. It counts as told: [`Table::still_owe`] takes that back.
    pub(super) fn owed(&self) -> impl Iterator<Item = Vec<Charge>> {
        self.shards.iter().map(|shard| lock(shard).owed())
    }

    /// The store may not have heard of these.
    pub(super) fn still_owe(&self, charges: &[Charge]) {
        for Charge { limit: _, key, units } in charges {
            self.with(key, |entry| entry.owed = entry.owed.saturating_add(*units));
        }
    }

    /// Lets go of what is idle in one shard, in turns.
    pub(super) fn sweep(&self, turn: usize, now: Micros) {
        lock(&self.shards[turn % SHARDS]).sweep(now, self.room);
    }

    /// How many counters are known, and how many of them are in use.
    #[cfg(test)]
    pub(super) fn size(&self) -> (usize, usize) {
        let each = self.shards.iter().map(|shard| lock(shard));
        each.fold((0, 0), |(known, live), shard| (known + shard.entries.len(), live + shard.live))
    }

    fn shard(&self, key: &CounterKey) -> MutexGuard<'_, Shard> {
        // The map inside looks at the lowest and highest bits of another hash of its own.
        let hash = self.hasher.hash_one(key);
        lock(&self.shards[(hash >> 32) as usize % SHARDS])
    }
}

impl Shard {
    fn with<T>(&mut self, key: &CounterKey, act: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let entry = self.entries.get_mut(key.as_bytes())?;
        let done = act(entry);
        self.owes |= entry.owed > 0;
        if let Some(live) = entry.live.as_mut().filter(|live| !live.listed)
            && let Some(due) = live.holding.due()
        {
            live.listed = true;
            self.leased.push(Leased { due, key: key.as_bytes().into() });
        }
        Some(done)
    }

    fn make_known(&mut self, request: &Request, now: Micros, room: Room) {
        if self.entries.contains_key(request.key.as_bytes()) {
            return;
        }
        if self.entries.len() >= room.live + room.remembered {
            self.sweep_now_and_then(now, room);
        }
        if self.entries.len() < room.live + room.remembered {
            self.entries.insert(request.key.as_bytes().into(), Entry::new(&request.limit, now));
        }
    }

    /// Whether it is in use from now on.
    fn make_live(&mut self, key: &CounterKey, holding: Holding, now: Micros, room: Room) -> bool {
        if self.live >= room.live && self.entries.get(key.as_bytes()).is_some_and(|entry| entry.live.is_none()) {
            self.sweep_now_and_then(now, room);
        }
        let Some(entry) = self.entries.get_mut(key.as_bytes()) else { return false };
        if entry.live.is_none() && self.live < room.live {
            entry.live = Some(Box::new(Live { holding, waiters: Vec::new(), listed: false }));
            self.live += 1;
        }
        entry.live.is_some()
    }

    /// To be called when a counter finds no place.
    fn sweep_now_and_then(&mut self, now: Micros, room: Room) {
        self.turned_away += 1;
        let is_worth_it = self.turned_away * LOOKS_PER_TURNED_AWAY >= self.entries.len();
        if is_worth_it && now.since(self.swept) >= SWEEP_INTERVAL {
            self.sweep(now, room);
        }
    }

    /// Lets go of idle holdings, and of counters of which nothing counts any more. Where too many are remembered, one that
    /// falls idle is not.
    fn sweep(&mut self, now: Micros, room: Room) {
        (self.swept, self.turned_away) = (now, 0);
        let mut remembered = self.entries.len() - self.live;
        let live = &mut self.live;
        self.entries.retain(|_, entry| {
            if entry.live.as_ref().is_some_and(|held| held.holding.is_idle(now)) {
                entry.live = None;
                *live -= 1;
                remembered += 1;
            }
            let forgotten = entry.live.is_none() && (remembered > room.remembered || entry.admitted(now) == 0);
            remembered -= usize::from(forgotten);
            !forgotten
        });
    }

    fn owed(&mut self) -> Vec<Charge> {
        if !std::mem::take(&mut self.owes) {
            return Vec::new();
        }
        let owing = self.entries.iter_mut().filter(|(_, entry)| entry.owed > 0);
        owing
            .map(|(key, entry)| {
                let units = std::mem::take(&mut entry.owed);
                Charge { limit: Arc::clone(&entry.limit), key: CounterKey::rebuilt(key), units }
            })
            .collect()
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::limit::{Occasion, WhenAway};
    use crate::quotas::at_once;

    #[test]
    fn a_counter_that_is_only_remembered_takes_at_most_200_bytes() {
        let key = b"per-client 13:user-00000001";
        let place = size_of::<(Box<[u8]>, Entry)>() + 1;
        // A map that has just grown is seven sixteenths full.
        let most = place * 16 / 7 + key.len();
        assert!(most <= 200, "{most} bytes");
    }

    #[test]
    fn a_full_shard_is_looked_through_only_when_an_eighth_as_many_counters_found_no_place() {
        let algorithm = Algorithm::SlidingWindow { units: 9, window: Micros::from_secs(3_600) };
        let limit = Limit {
            name: "a".to_owned(),
            algorithm,
            by: Vec::new(),
            when_away: WhenAway::Deny,
            charge: Occasion::AfterAuth,
        };
        let (limit, room) = (Arc::new(limit), Room { live: 80, remembered: 0 });
        let mut shard = Shard::default();
        let mut finds_place = |name: usize, now: Micros| {
            let mut key = CounterKey::new("a");
            key.push(&name.to_string());
            let request = Request { limit: Arc::clone(&limit), key, terms: at_once(1) };
            shard.make_known(&request, now, room);
            let holding = Holding::of(&limit, now)?;
            shard.make_live(&request.key, holding, now, room).then_some(())
        };
        assert!((0..80).all(|name| finds_place(name, Micros::ZERO).is_some()));
        // All are idle by now.
        let later = Micros::from_secs(60);
        let found: Vec<bool> = (80..90).map(|name| finds_place(name, later).is_some()).collect();
        assert_eq!(found, [[false; 9].as_slice(), &[true]].concat());
    }
}
