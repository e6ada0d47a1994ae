//! The issuers whose tokens are accepted, found by `iss`.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::fetch::Fetcher;
use super::keys::{IssuerHealth, Keys};
use super::opaque::{self, Introspector};
use super::status::Lists;
use crate::decide::ports::Clock;
use crate::domain::issuer::{Issuer, KeySource};
use crate::domain::time::Micros;

/// The issuers of one configuration. Replaced whole, never changed.
#[derive(Default)]
pub(super) struct Issuers {
    /// Which configuration this is; another one whenever anything about any issuer is another.
    generation: u64,
    by_name: HashMap<Arc<str>, Arc<Trusted>, RandomState>,
}

/// An issuer whose tokens are accepted.
#[derive(Clone)]
pub(super) struct Trusted {
    /// What is demanded of its tokens.
    pub settings: Issuer,
    /// `iss`, shared by all identities that it vouches for.
    pub name: Arc<str>,
    /// Its keys. They outlive a change of the other settings.
    pub keys: Arc<Keys>,
    /// Reaches its servers.
    pub fetcher: Fetcher,
    /// The status lists that its tokens name.
    pub lists: Arc<Lists>,
    /// Asks it about its tokens, where it is to be asked.
    pub introspector: Option<Arc<Introspector>>,
}

/// Issuers that were checked, and whose files were read, but that are not in force yet.
#[must_use = "issuers are in force once they are committed"]
pub struct Prepared(Issuers);

impl Issuers {
    /// The issuer of that name. Bytes are compared: no folding, no trailing slash forgiven.
    pub(super) fn get(&self, name: &str) -> Option<&Arc<Trusted>> {
        self.by_name.get(name)
    }

    /// Who is to be asked about a token that cannot be read; none where nobody is, or where it is a JWT, if a bad one: no
    /// token is tried both ways.
    pub(super) fn unread(&self, token: &str) -> Option<Arc<Introspector>> {
        let mut introspectors = self.iter().filter_map(|trusted| trusted.introspector.as_ref());
        introspectors.find(|introspector| introspector.is_for(token) && opaque::may_be(token)).cloned()
    }

    /// Which configuration this is.
    pub(super) const fn generation(&self) -> u64 {
        self.generation
    }

    /// All of them, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Trusted>> {
        self.by_name.values()
    }

    /// Checks the issuers that are to follow these. Keys of issuers that stay, stay. Errors are sentences that name
    /// the issuer, one for each that cannot be used.
    pub(super) fn prepare(&self, issuers: Vec<Issuer>, clock: &Arc<dyn Clock>) -> Result<Prepared, Vec<String>> {
        let mut next = Self::default();
        let mut problems = Vec::new();
        for settings in issuers {
            if next.by_name.contains_key(settings.issuer.as_str()) {
                problems.push(format!("issuer `{}`: is configured twice", settings.issuer));
                continue;
            }
            if let Some(problem) = misfit(&settings) {
                problems.push(problem);
                continue;
            }
            match Trusted::prepare(settings, self, clock) {
                Ok(trusted) => drop(next.by_name.insert(Arc::clone(&trusted.name), Arc::new(trusted))),
                Err(problem) => problems.push(problem),
            }
        }
        if problems.is_empty() { Ok(Prepared(next)) } else { Err(problems) }
    }

    /// These issuers as the successors of `old`.
    pub(super) fn succeeding(prepared: Prepared, old: &Self) -> Self {
        let Prepared(mut next) = prepared;
        let is_same = next.by_name.len() == old.by_name.len()
            && next.iter().all(|new| old.get(&new.name).is_some_and(|old| old.settings == new.settings));
        next.generation = if is_same { old.generation } else { old.generation + 1 };
        next
    }

    /// Those who are asked no more under `next`, and whom nobody follows.
    pub(super) fn asked_no_more(&self, next: &Self) -> impl Iterator<Item = &Arc<Introspector>> {
        let followed = |name: &str| next.get(name).is_some_and(|new| new.introspector.is_some());
        self.iter().filter(move |old| !followed(&old.name)).filter_map(|old| old.introspector.as_ref())
    }

    /// Those whose keys `next` no longer uses.
    pub(super) fn gone(&self, next: &Self) -> impl Iterator<Item = &Arc<Trusted>> {
        self.iter().filter(|old| !next.get(&old.name).is_some_and(|new| Arc::ptr_eq(&new.keys, &old.keys)))
    }
}

/// Why the algorithms of an issuer do not fit its keys. The configuration says so with a line; this is for whoever does
/// not come from there.
fn misfit(settings: &Issuer) -> Option<String> {
    let least = settings.algorithms.iter().filter_map(|algorithm| algorithm.secret_bytes_min()).max().unwrap_or(0);
    let why = match &settings.keys {
        _ if !settings.has_fitting_algorithms() => {
            "has public keys and a secret's algorithms, or the reverse".to_owned()
        }
        KeySource::Secret(secret) if secret.reveal().len() < least => {
            format!("has a secret of less than the {least} bytes that its algorithms need")
        }
        KeySource::Discovery
        | KeySource::Url(_)
        | KeySource::File(_)
        | KeySource::Inline(_)
        | KeySource::Secret(_)
        | KeySource::Unneeded => {
            return None;
        }
    };
    Some(format!("issuer `{}`: {why}", settings.issuer))
}

impl Trusted {
    /// Its name and keys stay where `old` has them. An error is a sentence that names the issuer.
    fn prepare(settings: Issuer, old: &Issuers, clock: &Arc<dyn Clock>) -> Result<Self, String> {
        let named = |why| format!("issuer `{}`: {why}", settings.issuer);
        let old = old.get(&settings.issuer);
        if let Some(same) = old.filter(|old| old.settings == settings) {
            return Ok(Self { settings, ..same.as_ref().clone() });
        }
        let fetcher = Fetcher::of(&settings).map_err(named)?;
        let (name, keys) = if let Some(old) = old.filter(|old| old.keys.serve(&settings)) {
            (Arc::clone(&old.name), Arc::clone(&old.keys))
        } else {
            let name: Arc<str> = settings.issuer.as_str().into();
            let keys = Keys::prepare(&settings, &name, clock).map_err(named)?;
            (name, Arc::new(keys))
        };
        let introspector = Introspector::prepare(&settings, &name, &keys, &fetcher, clock).map_err(named)?;
        let lists = Lists::of(&settings, &name, &keys, &fetcher, clock);
        Ok(Self { settings, name, keys, fetcher, lists, introspector })
    }

    /// How its keys are, and whether it can be asked.
    pub(super) fn health(&self, now: Micros) -> IssuerHealth {
        let introspection = self.introspector.as_ref().map(|introspector| introspector.problem());
        IssuerHealth { introspection, ..self.keys.health(now) }
    }
}
