//! The status lists that tokens name (Token Status List, draft-ietf-oauth-status-list): fetched where the issuer's tokens lead,
//! held while they are fresh, renewed in the background, and believed only with the issuer's own signature.
//!
//! A list that cannot be had leaves its tokens unknown, not good. The last good one serves for [`STALE_FOR`]
//! beyond its time, and never beyond its `exp`.

mod list;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use quick_cache::sync::Cache;
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue};
use tokio::sync::{Semaphore, watch};
use url::{Origin, Url};

pub(super) use self::list::read;
use self::list::{LIST_BYTES_MAX, published};
use super::fetch::{self, Fetcher, Request};
use super::jwt::{Compact, Unverified};
use super::keys::Keys;
use crate::decide::ports::{Answer, Clock, Standing};
use crate::domain::issuer::{Algorithm, Issuer};
use crate::domain::status::{StatusList, StatusLists, StatusRef};
use crate::domain::time::{Micros, Moment};
use crate::telemetry::{Telemetry, names};

/// Lists of one issuer that are in hand; the least used make room for others.
const LISTS_MAX: usize = 64;

/// Bytes of an answer: a list of the largest kind that cannot be compressed, encoded twice.
const BODY_BYTES_MAX: usize = LIST_BYTES_MAX * 2;

/// How long a list is fresh that does not say so, and longer than which none is.
const FRESH: (Micros, Micros) = (Micros::from_secs(60), Micros::from_secs(600));

/// The least time between two fetches of one list, well or not.
const REST: Micros = Micros::from_secs(1);

/// Lists of one issuer that are fetched at a time: each takes up some megabytes, and its tokens may name as many as they like.
const FETCHES_MAX: usize = 16;

/// How long the last good list serves while a newer one cannot be had.
const STALE_FOR: Micros = Micros::from_secs(300);

/// How long a token waits for its list.
const WAIT: Duration = Duration::from_secs(2);

/// For one fetch.
const DEADLINE: Duration = Duration::from_secs(5);

/// The status lists of one issuer.
pub(super) struct Lists {
    settings: StatusLists,
    name: Arc<str>,
    leeway: Micros,
    algorithms: Vec<Algorithm>,
    /// Where lists may be.
    homes: Vec<Origin>,
    keys: Arc<Keys>,
    fetcher: Fetcher,
    clock: Arc<dyn Clock>,
    entries: Cache<String, Arc<Entry>>,
    turns: Semaphore,
}

/// One list.
struct Entry {
    url: Url,
    uri: Box<str>,
    held: ArcSwapOption<Held>,
    /// Never held across anything that waits.
    fetching: Mutex<Fetching>,
}

struct Held {
    list: StatusList,
    /// Steady.
    fresh_until: Micros,
    /// Steady.
    good_until: Micros,
}

#[derive(Default)]
struct Fetching {
    /// Closed when it has ended.
    under_way: Option<watch::Receiver<()>>,
    /// Steady.
    not_before: Micros,
    is_failing: bool,
}

impl Lists {
    /// The lists of that issuer; none is in hand yet.
    pub(super) fn of(
        issuer: &Issuer,
        name: &Arc<str>,
        keys: &Arc<Keys>,
        fetcher: &Fetcher,
        clock: &Arc<dyn Clock>,
    ) -> Arc<Self> {
        let settings = issuer.status_lists.clone();
        let homes = settings.origins.iter().chain([&issuer.issuer]).filter_map(|text| Url::parse(text).ok());
        // What has no server of its own is the same as nothing else.
        let homes = homes.map(|url| url.origin()).filter(Origin::is_tuple).collect();
        Arc::new(Self {
            settings,
            name: Arc::clone(name),
            leeway: issuer.leeway,
            algorithms: issuer.algorithms.clone(),
            homes,
            keys: Arc::clone(keys),
            fetcher: fetcher.clone(),
            clock: Arc::clone(clock),
            entries: Cache::new(LISTS_MAX),
            turns: Semaphore::new(FETCHES_MAX),
        })
    }

    /// What the list says at that place.
    pub(super) fn standing<'a>(
        self: Arc<Self>,
        status: &StatusRef,
        now: Moment,
        telemetry: &'a Arc<Telemetry>,
    ) -> Answer<'a, Standing> {
        if !self.settings.check {
            return Answer::Now(Standing::Good);
        }
        let Some(entry) = self.entry(&status.list) else {
            count(telemetry, "forbidden");
            tracing::debug!(issuer = %self.name, "a token names a status list where none may be (status_lists.origins)");
            return Answer::Now(Standing::Unknown);
        };
        let index = status.index;
        if let Some(standing) = entry.standing(index, now.steady) {
            if !entry.is_fresh(now.steady) {
                // In the background: whoever asks is answered from what is in hand.
                let _ = self.refresh(&entry, now.steady, telemetry);
            }
            return Answer::Now(standing);
        }
        Answer::later(async move {
            if let Some(mut fetched) = self.refresh(&entry, now.steady, telemetry) {
                // Closed, one way or the other, or too late.
                let _ = tokio::time::timeout(WAIT, fetched.changed()).await;
            }
            entry.standing(index, self.clock.steady()).unwrap_or(Standing::Unknown)
        })
    }

    /// The list at `uri`; none where no list of the issuer may be. Nobody is sent anywhere by a token alone.
    fn entry(&self, uri: &str) -> Option<Arc<Entry>> {
        if let Some(entry) = self.entries.get(uri) {
            return Some(entry);
        }
        let url = fetch::address(uri, self.fetcher.connection()).ok()?;
        if !self.homes.contains(&url.origin()) {
            return None;
        }
        let entry = Entry { url, uri: uri.into(), held: ArcSwapOption::empty(), fetching: Mutex::default() };
        // Of two who make one, both go on with the first.
        self.entries.get_or_insert_with(uri, || Ok::<_, std::convert::Infallible>(Arc::new(entry))).ok()
    }

    /// Joins the fetch that is under way, or begins one; none where the list has had its turn a moment ago.
    fn refresh(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        now: Micros,
        telemetry: &Arc<Telemetry>,
    ) -> Option<watch::Receiver<()>> {
        let mut fetching = entry.fetching();
        if let Some(under_way) = fetching.under_way.as_ref().filter(|under_way| under_way.has_changed().is_ok()) {
            return Some(under_way.clone());
        }
        if now < fetching.not_before {
            return None;
        }
        fetching.not_before = now + REST;
        let (ended, under_way) = watch::channel(());
        fetching.under_way = Some(under_way.clone());
        drop(fetching);
        // By itself, so that no caller who goes away takes the list from the others.
        let (lists, entry, telemetry) = (Arc::clone(self), Arc::clone(entry), Arc::clone(telemetry));
        tokio::spawn(async move {
            let outcome = lists.fetch(&entry).await;
            count(&telemetry, if outcome.is_ok() { "done" } else { "failed" });
            lists.note(&entry, outcome);
            drop(ended);
        });
        Some(under_way)
    }

    fn note(&self, entry: &Entry, outcome: Result<Held, String>) {
        let was_failing = std::mem::replace(&mut entry.fetching().is_failing, outcome.is_err());
        match outcome {
            Ok(held) => {
                entry.held.store(Some(Arc::new(held)));
                if was_failing {
                    tracing::info!(issuer = %self.name, list = %entry.uri, "a status list can be had again");
                }
            }
            Err(error) if !was_failing => {
                tracing::warn!(issuer = %self.name, list = %entry.uri, %error, "a status list cannot be had");
            }
            Err(_) => {}
        }
    }

    /// An error is a sentence.
    async fn fetch(&self, entry: &Entry) -> Result<Held, String> {
        // Longer than this no token waits.
        let turn = tokio::time::timeout(WAIT, self.turns.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err("too many lists of its issuer are being fetched".to_owned()) };
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/statuslist+jwt"))]);
        let request = Request { url: &entry.url, post: None, headers, deadline: DEADLINE, bytes_max: BODY_BYTES_MAX };
        let fetched = self.fetcher.send(request).await.map_err(|error| error.sentence)?;
        let text = std::str::from_utf8(&fetched.body).map_err(|_| "the list is no text")?;
        let decoded = Compact::split_any(text.trim_end()).and_then(Compact::decode);
        let decoded = decoded.map_err(|_| "the list is no signed JWT")?;
        let verified = self.keys.verify(&decoded, &self.algorithms, self.clock.steady()).await.map_err(|why| {
            let (Unverified::Refused(reason) | Unverified::NoKey(reason)) = why;
            format!("the list is not signed by the issuer: {}", reason.name())
        })?;
        let Moment { wall, steady } = self.clock.now();
        let list = published(&verified, &entry.uri, self.leeway, wall).map_err(|what| format!("the list {what}"))?;
        let life = list.expires_at.map_or(Micros(u64::MAX), |at| (at + self.leeway).since(wall));
        // What the list says itself comes before what its server says.
        let fresh_for = list.ttl.or(fetched.max_age).unwrap_or(FRESH.0).clamp(REST, FRESH.1).min(life);
        let good_for = (fresh_for + STALE_FOR).min(life);
        Ok(Held { list: list.list, fresh_until: steady + fresh_for, good_until: steady + good_for })
    }
}

impl Entry {
    fn fetching(&self) -> MutexGuard<'_, Fetching> {
        // A panic while it was held left nothing half-done.
        self.fetching.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_fresh(&self, now: Micros) -> bool {
        self.held.load().as_ref().is_some_and(|held| now < held.fresh_until)
    }

    /// What the list in hand says; none: there is none that may be used. A token that is not in it must be
    /// refused (§8.3), as one that is suspended or of a status that is not known here.
    fn standing(&self, index: u64, now: Micros) -> Option<Standing> {
        let held = self.held.load();
        let held = held.as_ref().filter(|held| now < held.good_until)?;
        Some(if held.list.get(index) == Some(0) { Standing::Good } else { Standing::Revoked })
    }
}

fn count(telemetry: &Telemetry, outcome: &'static str) {
    telemetry.counter(names::STATUS_LISTS, &[("outcome", outcome)]).increment(1);
}

/// Whether a token with that tag is the list at `uri`.
#[cfg(test)]
pub(super) fn is_good(token: &str, uri: &str, secret: &str, now: Micros) -> bool {
    let keys = super::jwks::KeySet::secret(secret.as_bytes());
    let decoded = Compact::split_any(token).and_then(Compact::decode);
    decoded.is_ok_and(|decoded| {
        let claimed = decoded.read().ok();
        let verified = claimed.and_then(|claimed| claimed.verify(&[Algorithm::HS256], &keys).ok());
        verified.is_some_and(|verified| published(&verified, uri, Micros::ZERO, now).is_ok())
    })
}
