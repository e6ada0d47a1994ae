//! What this replica holds, counter by counter: sharded, bounded, each shard behind one lock that is held for some
//! arithmetic and never over an await. One lock at a time: a question that cannot be paid whole gives back what it took.

use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use tokio::sync::oneshot;

use crate::decide::ports::Request;
use crate::domain::lease::{Ended, Holding, leased_frame};
use crate::domain::limit::{CounterKey, Limit};
use crate::domain::time::Micros;
use crate::domain::window::Frame;

/// How many counters are held at most: some 30 MB when full. One that finds no place is paid at the store each time.
pub(super) const HOLDINGS_MAX: usize = 65_536;

const SHARDS: usize = 64;

/// A full shard is swept for idle holdings at most this often: a flood of new counters costs little.
const SWEEP_INTERVAL: Micros = Micros::from_millis(10);

/// What became of a request that a call waited for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Woken {
    /// It was answered: there may be units in hand, a refusal to remember, or the next request to make.
    TryAgain,
    /// The store could not be asked.
    Away,
}

/// One counter's holding, and the calls that wait for its request.
pub(super) struct Entry {
    pub(super) holding: Holding,
    pub(super) limit: Arc<Limit>,
    waiters: Vec<oneshot::Sender<Woken>>,
    /// Whether the shard's list of leases has it.
    listed: bool,
}

impl Entry {
    /// Waits for the request that is under way.
    pub(super) fn wait(&mut self) -> oneshot::Receiver<Woken> {
        let (sender, receiver) = oneshot::channel();
        self.waiters.push(sender);
        receiver
    }

    /// Tells those who wait.
    pub(super) fn wake(&mut self, woken: Woken) {
        for waiter in self.waiters.drain(..) {
            // One that has gone away needs nothing.
            let _ = waiter.send(woken);
        }
    }
}

/// Every holding.
pub(super) struct Table {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    entries_max: usize,
}

#[derive(Default)]
struct Shard {
    entries: HashMap<CounterKey, Entry, RandomState>,
    /// Those with a lease in hand, and some that had one.
    leased: Vec<CounterKey>,
    swept: Micros,
}

impl Table {
    /// For at most `holdings_max` counters, rounded up to the number of shards.
    pub(super) fn new(holdings_max: usize) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::default(),
            entries_max: holdings_max.div_ceil(SHARDS),
        }
    }

    /// Does something with a counter that is known.
    pub(super) fn with<T>(&self, key: &CounterKey, act: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let mut shard = self.shard(key);
        let Shard { entries, leased, .. } = &mut *shard;
        let entry = entries.get_mut(key)?;
        let done = act(entry);
        if !entry.listed && entry.holding.has_lease() {
            entry.listed = true;
            leased.push(key.clone());
        }
        Some(done)
    }

    /// The same, for one that becomes known unless it is not leased or there is no place.
    pub(super) fn with_new<T>(&self, request: &Request, now: Micros, act: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let frame = leased_frame(&request.limit)?;
        self.make_known(request, frame, now);
        self.with(&request.key, act)
    }

    fn make_known(&self, request: &Request, frame: Frame, now: Micros) {
        let mut shard = self.shard(&request.key);
        if shard.entries.contains_key(&request.key) {
            return;
        }
        if shard.entries.len() >= self.entries_max && now.since(shard.swept) >= SWEEP_INTERVAL {
            shard.sweep(now);
        }
        if shard.entries.len() < self.entries_max {
            let limit = Arc::clone(&request.limit);
            let holding = Holding::new(frame, now);
            let entry = Entry { holding, limit, waiters: Vec::new(), listed: false };
            shard.entries.insert(request.key.clone(), entry);
        }
    }

    /// Ends the leases that `ends` says end.
    pub(super) fn end_leases(
        &self,
        mut ends: impl FnMut(&mut Holding) -> Option<Ended>,
        mut ended: impl FnMut(&Arc<Limit>, &CounterKey, Ended),
    ) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            let Shard { entries, leased, .. } = &mut *shard;
            leased.retain(|key| {
                let Some(entry) = entries.get_mut(key) else { return false };
                if let Some(lease) = ends(&mut entry.holding) {
                    ended(&entry.limit, key, lease);
                }
                entry.listed = entry.holding.has_lease();
                entry.listed
            });
        }
    }

    /// Lets go of the idle holdings of one shard, in turns.
    pub(super) fn sweep(&self, turn: usize, now: Micros) {
        lock(&self.shards[turn % SHARDS]).sweep(now);
    }

    fn shard(&self, key: &CounterKey) -> MutexGuard<'_, Shard> {
        // The map inside looks at the lowest and highest bits of another hash of its own.
        let hash = self.hasher.hash_one(key);
        lock(&self.shards[(hash >> 32) as usize % SHARDS])
    }
}

impl Shard {
    fn sweep(&mut self, now: Micros) {
        self.swept = now;
        self.entries.retain(|_, entry| !entry.holding.is_idle(now));
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
