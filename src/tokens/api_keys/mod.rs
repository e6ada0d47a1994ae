//! Whose an API key is: looked up by its id, compared by its hash, without a word on why one is refused.
//!
//! Keys are listed in the configuration, or kept in a store that replicas share ([`shared`]).

mod shared;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use foldhash::fast::RandomState;
use metrics::Gauge;

use self::shared::{Recalled, Shared};
use crate::decide::ports::{Answer, ApiKeyRecords, Away, Clock, Inspected, Verdict};
use crate::domain::api_key::{ApiKey, ISSUER, KeyHash, KeyId, ShownKey};
use crate::domain::decision::Reason;
use crate::domain::identity::Identity;
use crate::domain::time::{Micros, Moment};
use crate::telemetry::{Telemetry, names};

/// Which keys are accepted.
#[derive(Default)]
pub struct KeyRing {
    /// Where they are.
    pub kept: Kept,
    /// Whether administrative scopes in them count.
    pub operators: bool,
    /// Names of the limits that keys may name. One that names another is refused.
    pub limits: Vec<String>,
}

/// Where keys are.
#[derive(Default)]
pub enum Kept {
    /// Nowhere: every key is refused.
    #[default]
    Nowhere,
    /// Here; each id once.
    Listed(Vec<ApiKey>),
    /// Where replicas share them.
    Shared(Arc<dyn ApiKeyRecords>),
}

/// The keys in force.
pub(super) struct ApiKeys {
    clock: Arc<dyn Clock>,
    telemetry: Arc<Telemetry>,
    issuer: Arc<str>,
    source: ArcSwap<Source>,
}

enum Source {
    Listed(HashMap<KeyId, Entry, RandomState>),
    Shared(Arc<Shared>),
}

/// A key, ready to be compared.
struct Entry {
    hash: KeyHash,
    identity: Arc<Identity>,
    /// By the wall clock.
    from: Micros,
    until: Micros,
}

impl ApiKeys {
    /// Refuses every key until some are adopted.
    pub(super) fn new(clock: Arc<dyn Clock>, telemetry: Arc<Telemetry>) -> Self {
        let source = ArcSwap::from_pointee(Source::Listed(HashMap::default()));
        Self { clock, telemetry, issuer: ISSUER.into(), source }
    }

    /// Accepts these keys from now on, and no others.
    pub(super) fn adopt(&self, ring: KeyRing) {
        let KeyRing { kept, operators, limits } = ring;
        let ready = |key: &ApiKey| (key.id, Entry::new(key, &self.issuer, operators));
        let source = match kept {
            Kept::Nowhere => Source::Listed(HashMap::default()),
            Kept::Listed(keys) => Source::Listed(keys.iter().map(ready).collect()),
            Kept::Shared(records) => {
                // What is known of them stays known where it is still right: the store may be away just now.
                let before = match &**self.source.load() {
                    Source::Shared(shared) => Some(Arc::clone(shared)),
                    Source::Listed(_) => None,
                };
                if before.as_ref().is_some_and(|before| before.is_of(operators, &limits)) {
                    return;
                }
                let shared = Shared::new(records, &self.clock, &self.telemetry, &self.issuer, operators, limits);
                if let Some(before) = before {
                    shared.take_over(&before);
                }
                Source::Shared(Arc::new(shared))
            }
        };
        if let Source::Listed(keys) = &source {
            self.in_hand().set(u32::try_from(keys.len()).map_or(f64::MAX, f64::from));
        }
        self.source.store(Arc::new(source));
    }

    /// Whose the key is. The one reason for all that is wrong with one is [`Reason::UnknownApiKey`].
    pub(super) fn inspect<'a>(&self, text: &'a str, now: Moment) -> Answer<'a, Inspected> {
        let remembered = |verdict| Answer::Now(Inspected { verdict, remembered: true });
        let Some(shown) = ShownKey::read(text) else { return remembered(Err(Reason::UnknownApiKey)) };
        match &**self.source.load() {
            Source::Listed(keys) => remembered(judge(keys.get(&shown.id), &shown, now)),
            Source::Shared(shared) => match shared.recall(shown.id, now) {
                Recalled::Known(known) => remembered(shared.judge(known.as_deref(), &shown, now)),
                Recalled::Unsure => {
                    let shared = Arc::clone(shared);
                    Answer::later(async move {
                        let verdict = match shared.ask(shown.id, now).await {
                            Ok(known) => shared.judge(known.as_deref(), &shown, now),
                            Err(Away { .. }) => Err(Reason::StoreAway),
                        };
                        Inspected { verdict, remembered: false }
                    })
                }
            },
        }
    }

    /// Whether a key is good as far as is known here, without reading anything.
    pub(super) fn knows(&self, text: &str, now: Moment) -> bool {
        let Some(shown) = ShownKey::read(text) else { return false };
        match &**self.source.load() {
            Source::Listed(keys) => judge(keys.get(&shown.id), &shown, now).is_ok(),
            Source::Shared(shared) => shared.knows(&shown, now),
        }
    }

    fn in_hand(&self) -> Gauge {
        self.telemetry.gauge(names::API_KEYS, &[])
    }
}

impl Entry {
    fn new(key: &ApiKey, issuer: &Arc<str>, operators: bool) -> Self {
        let identity = Arc::new(key.identity(issuer, operators));
        let from = key.not_before.unwrap_or(Micros::ZERO);
        // Nothing is before the epoch.
        let until = if key.revoked { Micros::ZERO } else { key.expires.unwrap_or(Micros(u64::MAX)) };
        Self { hash: key.hash, identity, from, until }
    }
}

/// Whether a key is the one that is kept, and good now. It takes as long whether there is such a key or not, and
/// whatever the difference.
fn judge(entry: Option<&Entry>, shown: &ShownKey<'_>, now: Moment) -> Verdict {
    /// No key has it, as far as anybody knows.
    const NOBODYS: KeyHash = [0; 32];
    let same = verify_slices_are_equal(entry.map_or(&NOBODYS, |entry| &entry.hash), &shown.hash()).is_ok();
    match entry {
        Some(entry) if same && now.wall >= entry.from && now.wall < entry.until => Ok(Arc::clone(&entry.identity)),
        _ => Err(Reason::UnknownApiKey),
    }
}
