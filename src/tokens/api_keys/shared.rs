//! Keys that replicas share: what was read of them a moment ago, and the reading.
//!
//! What is read is believed for [`FRESH_FOR`] at most, so a key that is added, changed or revoked counts after that on
//! every replica; a key in use is read again in the background before that, and its callers wait for nobody. While the
//! store is away, keys that are known go on for [`KNOWN_FOR`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use metrics::{Counter, Gauge};
use quick_cache::sync::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::{Entry, judge};
use crate::decide::ports::{ApiKeyRecords, Away, AwayCause, Clock, Verdict};
use crate::domain::api_key::{ApiKey, KeyId, ShownKey};
use crate::domain::time::{Micros, Moment};
use crate::telemetry::{Telemetry, names};

/// How long what was read is believed, also that there is no such key.
pub(super) const FRESH_FOR: Micros = Micros::from_secs(2);

/// A key that is used when what was read of it is older is read again in the background. After a failure, too, so long
/// passes until the next attempt.
const READ_AGAIN_AFTER: Micros = Micros::from_secs(1);

/// How long a key that is known goes on while the store is away.
pub(super) const KNOWN_FOR: Micros = Micros::from_secs(300);

/// How often it is noted at most that a key was used, by each replica.
const NOTED_EVERY: Micros = Micros::from_secs(60);

/// Keys that are known at a time; of more, the ones in use.
const KNOWN_MAX: usize = 100_000;

/// Ids that are known to be nobody's.
const UNKNOWN_MAX: usize = 10_000;

/// Ids that are not known and may be asked for at a time; more are refused as if the store were away. Whoever makes up
/// ids must not crowd out the counters, which are in the same store.
const STRANGERS_MAX: usize = 256;

/// A key, as it was read.
pub(super) struct Known {
    key: ApiKey,
    entry: Entry,
    /// When the latest reading that succeeded began; this and what follows by the steady clock.
    read_at: AtomicU64,
    /// When the latest one that failed ended; 0: never.
    failed_at: AtomicU64,
    /// When it was last noted that it was used; 0: never.
    noted_at: AtomicU64,
}

/// What is known of an id without asking.
pub(super) enum Recalled {
    /// This key; none: it is nobody's.
    Known(Option<Arc<Known>>),
    /// It has to be asked for.
    Unsure,
}

/// What came of a reading.
type Read = Result<Option<Arc<Known>>, Away>;

pub(super) struct Shared {
    records: Arc<dyn ApiKeyRecords>,
    clock: Arc<dyn Clock>,
    issuer: Arc<str>,
    operators: bool,
    limits: Vec<String>,
    known: Cache<KeyId, Arc<Known>>,
    /// Ids that are nobody's, and when the reading began that said so.
    unknown: Cache<KeyId, Micros>,
    /// Readings under way, by id.
    readings: Mutex<HashMap<KeyId, watch::Receiver<Option<Read>>, RandomState>>,
    strangers: Arc<Semaphore>,
    metrics: Readings,
}

struct Readings {
    found: Counter,
    unknown: Counter,
    unusable: Counter,
    away: Counter,
    in_hand: Gauge,
}

impl Shared {
    pub(super) fn new(
        records: Arc<dyn ApiKeyRecords>,
        clock: &Arc<dyn Clock>,
        telemetry: &Telemetry,
        issuer: &Arc<str>,
        operators: bool,
        limits: Vec<String>,
    ) -> Self {
        let readings = |outcome| telemetry.counter(names::API_KEY_READS, &[("outcome", outcome)]);
        let metrics = Readings {
            found: readings("found"),
            unknown: readings("unknown"),
            unusable: readings("unusable"),
            away: readings("away"),
            in_hand: telemetry.gauge(names::API_KEYS, &[]),
        };
        metrics.in_hand.set(0.0);
        Self {
            records,
            clock: Arc::clone(clock),
            issuer: Arc::clone(issuer),
            operators,
            limits,
            known: Cache::new(KNOWN_MAX),
            unknown: Cache::new(UNKNOWN_MAX),
            readings: Mutex::default(),
            strangers: Arc::new(Semaphore::new(STRANGERS_MAX)),
            metrics,
        }
    }

    /// Whether what is known was read under these settings.
    pub(super) fn is_of(&self, operators: bool, limits: &[String]) -> bool {
        self.operators == operators && self.limits == limits
    }

    /// Knows what `before` knows, as old as that is, as far as it is usable under the settings of this one.
    pub(super) fn take_over(&self, before: &Self) {
        for (id, known) in before.known.iter().filter(|(_, known)| self.unusable(&known.key).is_none()) {
            let now = |moment: &AtomicU64| AtomicU64::new(moment.load(Ordering::Relaxed));
            let known = Known {
                key: known.key.clone(),
                entry: Entry::new(&known.key, &self.issuer, self.operators),
                read_at: now(&known.read_at),
                failed_at: now(&known.failed_at),
                noted_at: now(&known.noted_at),
            };
            self.known.insert(id, Arc::new(known));
        }
        self.show();
    }

    /// What is known of an id, as far as that is to be believed at `now`.
    pub(super) fn recall(self: &Arc<Self>, id: KeyId, now: Moment) -> Recalled {
        let now = now.steady;
        if let Some(known) = self.known.get(&id) {
            let failed_lately = known.failed_lately(now);
            if known.age(now) >= READ_AGAIN_AFTER && !failed_lately {
                // Whoever comes while it is under way waits for it only where what is known is too old.
                let _ = self.reading(id, Some(Arc::clone(&known)));
            }
            let believed = if failed_lately { KNOWN_FOR } else { FRESH_FOR };
            return if known.age(now) < believed { Recalled::Known(Some(known)) } else { Recalled::Unsure };
        }
        match self.unknown.get(&id) {
            Some(read_at) if now.since(read_at) < FRESH_FOR => Recalled::Known(None),
            Some(_) | None => Recalled::Unsure,
        }
    }

    /// Whether a key is good as it was read last, be that a while ago: whoever shows it then is no stranger.
    pub(super) fn knows(&self, shown: &ShownKey<'_>, now: Moment) -> bool {
        let known = self.known.get(&shown.id).filter(|known| known.age(now.steady) < KNOWN_FOR);
        known.is_some_and(|known| judge(Some(&known.entry), shown, now).is_ok())
    }

    /// Asks for a key, together with whoever else asks for it.
    pub(super) async fn ask(self: &Arc<Self>, id: KeyId, now: Moment) -> Read {
        let known = self.known.get(&id);
        let mut reading = self.reading(id, known.clone())?;
        let read = match reading.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(read)) => read.clone(),
            // It ended without a word.
            Ok(None) | Err(_) => Err(Away { because: AwayCause::Unreachable }),
        };
        match (read, known) {
            (Err(_), Some(known)) if known.age(now.steady) < KNOWN_FOR => Ok(Some(known)),
            (read, _) => read,
        }
    }

    /// The verdict on a key that is shown; notes now and then that a good one was used.
    pub(super) fn judge(self: &Arc<Self>, known: Option<&Known>, shown: &ShownKey<'_>, now: Moment) -> Verdict {
        let verdict = judge(known.map(|known| &known.entry), shown, now);
        if verdict.is_ok()
            && let Some(known) = known
            && known.is_to_be_noted(now.steady)
        {
            let (records, id) = (Arc::clone(&self.records), shown.id);
            // What is not noted is not known to have been used; the store counts its failures.
            tokio::spawn(async move { records.note_use(id).get().await });
        }
        verdict
    }

    /// The reading of a key that is under way, or a new one, which goes on whoever stops waiting for it.
    fn reading(self: &Arc<Self>, id: KeyId, known: Option<Arc<Known>>) -> Result<watch::Receiver<Option<Read>>, Away> {
        let mut readings = self.readings();
        if let Some(reading) = readings.get(&id) {
            return Ok(reading.clone());
        }
        let permit = match &known {
            Some(_) => None,
            None => Some(self.permit()?),
        };
        let (told, reading) = watch::channel(None);
        readings.insert(id, reading.clone());
        drop(readings);
        let under_way = UnderWay { shared: Arc::clone(self), id, _permit: permit };
        tokio::spawn(async move {
            let read = under_way.shared.read(id, known).await;
            // First, so that whoever comes now sees what was read, or begins anew.
            drop(under_way);
            told.send_replace(Some(read));
        });
        Ok(reading)
    }

    fn permit(&self) -> Result<OwnedSemaphorePermit, Away> {
        Arc::clone(&self.strangers).try_acquire_owned().map_err(|_| {
            self.metrics.away.increment(1);
            Away { because: AwayCause::Crowded }
        })
    }

    async fn read(&self, id: KeyId, known: Option<Arc<Known>>) -> Read {
        let began = self.clock.steady();
        match self.records.find(id).get().await {
            Ok(Some(key)) => match self.unusable(&key) {
                None => Ok(Some(self.learn(key, known, began))),
                Some(limit) => {
                    self.metrics.unusable.increment(1);
                    tracing::warn!(
                        key = %id, limit,
                        "an API key is refused: it names a limit that is not configured, or does not suit keys"
                    );
                    self.forget(id, began);
                    Ok(None)
                }
            },
            Ok(None) => {
                self.metrics.unknown.increment(1);
                self.forget(id, began);
                Ok(None)
            }
            Err(away) => {
                self.metrics.away.increment(1);
                if let Some(known) = known {
                    known.failed_at.store(self.clock.steady().0.max(1), Ordering::Relaxed);
                }
                Err(away)
            }
        }
    }

    /// The first limit that the key names and may not.
    fn unusable<'k>(&self, key: &'k ApiKey) -> Option<&'k str> {
        let named = key.limits.iter().map(|limit| &**limit);
        named.into_iter().find(|name| !self.limits.iter().any(|limit| limit == name))
    }

    fn learn(&self, key: ApiKey, known: Option<Arc<Known>>, began: Micros) -> Arc<Known> {
        self.metrics.found.increment(1);
        if let Some(known) = &known
            && known.key == key
        {
            known.read_at.store(began.0, Ordering::Relaxed);
            known.failed_at.store(0, Ordering::Relaxed);
            return Arc::clone(known);
        }
        let noted_at = known.map_or(0, |known| known.noted_at.load(Ordering::Relaxed));
        let entry = Entry::new(&key, &self.issuer, self.operators);
        let id = key.id;
        let known = Arc::new(Known {
            key,
            entry,
            read_at: AtomicU64::new(began.0),
            failed_at: AtomicU64::new(0),
            noted_at: AtomicU64::new(noted_at),
        });
        self.known.insert(id, Arc::clone(&known));
        self.unknown.remove(&id);
        self.show();
        known
    }

    fn forget(&self, id: KeyId, began: Micros) {
        self.unknown.insert(id, began);
        self.known.remove(&id);
        self.show();
    }

    fn show(&self) {
        self.metrics.in_hand.set(u32::try_from(self.known.len()).map_or(f64::MAX, f64::from));
    }

    fn readings(&self) -> MutexGuard<'_, HashMap<KeyId, watch::Receiver<Option<Read>>, RandomState>> {
        self.readings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn age(&self, now: Micros) -> Micros {
        now.since(Micros(self.read_at.load(Ordering::Relaxed)))
    }

    fn failed_lately(&self, now: Micros) -> bool {
        let failed_at = self.failed_at.load(Ordering::Relaxed);
        failed_at > 0 && now.since(Micros(failed_at)) < READ_AGAIN_AFTER
    }

    /// Whether its use is to be noted; for one caller at a time.
    fn is_to_be_noted(&self, now: Micros) -> bool {
        let noted_at = self.noted_at.load(Ordering::Relaxed);
        let is_due = noted_at == 0 || now.since(Micros(noted_at)) >= NOTED_EVERY;
        is_due && self.noted_at.compare_exchange(noted_at, now.0.max(1), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// A reading that is under way; it ends with this, however it ends.
struct UnderWay {
    shared: Arc<Shared>,
    id: KeyId,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.shared.readings().remove(&self.id);
    }
}
