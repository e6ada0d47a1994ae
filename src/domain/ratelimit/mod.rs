//! Limits by descriptors: what an Envoy's `ratelimit` filter asks by, in the language of envoyproxy/ratelimit's files.
//!
//! Which descriptor of a domain a request's entries fall on is decided in [`tree`], as envoyproxy/ratelimit decides it. A
//! counter is named by the domain, the entries and the limit's window: a limit whose window changes counts anew, one whose
//! units change goes on counting.

mod tree;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use smallvec::SmallVec;

use super::fixed::Grid;
use super::limit::{Algorithm, CounterKey, Limit, Occasion, WhenAway};
use super::time::Micros;

pub use tree::{Descriptor, Level, composite, is_wildcard, metric_name};

/// What the names of limits by descriptors begin with, and those of no others.
pub const NAME_PREFIX: &str = "ratelimit.";

/// The longest name in metrics, in bytes.
pub const METRIC_BYTES_MAX: usize = 256;

/// What a limit that a request brings along is called in metrics where there are too many names.
const OVERRIDDEN: &str = "overridden";

/// So many entries stand in the name of a counter as they are; what follows them stands there as one hash.
const ENTRIES_PLAIN_MAX: usize = 16;

/// The limits of every domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// By name.
    pub domains: BTreeMap<Box<str>, Domain>,
    /// Whether no domain refuses anything: what would be refused is only counted.
    pub shadow: bool,
    /// Whether clients are told in headers what is left.
    pub headers: bool,
}

/// The limits of one domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Domain {
    /// Its name.
    pub name: Box<str>,
    /// How its limits are paid.
    pub mode: RateLimitMode,
    /// What the limits that requests bring along do while the store is away. Those of the files say it themselves.
    pub when_away: WhenAway,
    /// What it limits.
    pub descriptors: Level,
}

/// How the limits of a domain are paid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RateLimitMode {
    /// Sliding windows; all of a request's limits or none; what is refused costs nothing.
    #[default]
    Strict,
    /// As envoyproxy/ratelimit does: windows of the clock; each limit by itself; what does not fit takes what is left.
    Compatible,
}

/// An entry of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its key.
    pub key: &'a str,
    /// Its value; it may be empty.
    pub value: &'a str,
}

/// What a descriptor of a file limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescriptorLimit {
    /// `name`: what others may say that they replace.
    pub name: Option<Box<str>>,
    /// `replaces`: limits with these names do not count where this one does.
    pub replaces: Box<[Box<str>]>,
    /// The limits, each with counters of its own; none: it is unlimited. A limit of 0 units refuses everything that costs
    /// something.
    pub limits: Box<[Arc<Limit>]>,
    /// What is told of it as `current_limit`: the first of its limits that [has a unit](Shown::of).
    pub shown: Option<Shown>,
    /// `shadow_mode`: what would be refused is only counted.
    pub shadow: bool,
    /// `quota_mode`.
    pub quota_mode: bool,
    /// `detailed_metric`: metrics tell the values of the request apart.
    pub detailed_metric: bool,
    /// What it is called in metrics: its place in the domain, such as `key1_value1.subkey1`, of at most
    /// [`METRIC_BYTES_MAX`] bytes. There are as many as there are descriptors in the files.
    pub metric: Box<str>,
}

/// A limit as it is told: so many requests in a unit of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// How many; 0 refuses everything.
    pub requests_per_unit: u32,
    /// In what time.
    pub unit: Unit,
}

/// A unit of time, as envoyproxy/ratelimit has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Unit {
    Second,
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Year,
}

/// What a descriptor comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What limits it.
    pub limit: Arc<DescriptorLimit>,
    /// Each of its limits, with the counter that the descriptor falls on.
    pub counters: SmallVec<[(Arc<Limit>, CounterKey); 1]>,
    /// What it is called in metrics where that tells values of the request apart (`detailed_metric`, `value_to_metric`, a
    /// limit that the request brings along), of at most [`METRIC_BYTES_MAX`] bytes. There are as many as callers like: the
    /// metrics have to bound them, and use [`DescriptorLimit::metric`] beyond that, and where there is none.
    pub metric: Option<Box<str>>,
}

impl RateLimitMode {
    /// How it counts so many units in each stretch of time.
    pub const fn algorithm(self, units: u64, length: Micros) -> Algorithm {
        match self {
            Self::Strict => Algorithm::SlidingWindow { units, window: length },
            Self::Compatible => Algorithm::FixedWindow(Grid { units, length }),
        }
    }
}

impl Unit {
    /// Every unit, by its name in the files.
    pub const ALL: [(&str, Self); 7] = [
        ("second", Self::Second),
        ("minute", Self::Minute),
        ("hour", Self::Hour),
        ("day", Self::Day),
        ("week", Self::Week),
        ("month", Self::Month),
        ("year", Self::Year),
    ];

    /// How long it is: a month has 30 days, a year 365, as for envoyproxy/ratelimit. Windows of the clock begin at the
    /// multiples of it since the Unix epoch, so a week begins on a Thursday, at midnight UTC.
    pub const fn length(self) -> Micros {
        const DAY: u64 = 24 * 60 * 60;
        Micros::from_secs(match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 60 * 60,
            Self::Day => DAY,
            Self::Week => 7 * DAY,
            Self::Month => 30 * DAY,
            Self::Year => 365 * DAY,
        })
    }
}

impl Shown {
    /// A limit as it is told; none where it has no unit: its window is another, or it has none.
    pub fn of(limit: &Limit) -> Option<Self> {
        let (units, window) = match limit.algorithm {
            Algorithm::SlidingWindow { units, window } => (units, window),
            Algorithm::FixedWindow(grid) => (grid.units, grid.length),
            Algorithm::TokenBucket(_) | Algorithm::Concurrency(_) => return None,
        };
        let (_, unit) = Unit::ALL.into_iter().find(|(_, unit)| unit.length() == window)?;
        Some(Self { requests_per_unit: u32::try_from(units).ok()?, unit })
    }
}

/// A limit by descriptors. Its name, of which those of its counters are made, says how it counts and in what time.
pub fn limit(algorithm: Algorithm, when_away: WhenAway) -> Limit {
    let within = |length: Micros| match length.0 % 1_000_000 {
        0 => format!("{}s", length.0 / 1_000_000),
        _ => format!("{}ms", length.0 / 1_000),
    };
    let name = match algorithm {
        Algorithm::SlidingWindow { units: _, window } => format!("{NAME_PREFIX}sliding.{}", within(window)),
        Algorithm::FixedWindow(grid) => format!("{NAME_PREFIX}fixed.{}", within(grid.length)),
        Algorithm::TokenBucket(_) => format!("{NAME_PREFIX}bucket"),
        Algorithm::Concurrency(_) => format!("{NAME_PREFIX}slots"),
    };
    Limit { name, algorithm, by: Vec::new(), when_away, charge: Occasion::AfterAuth }
}

impl Domain {
    /// What limits a descriptor with these entries; none: nothing does.
    pub fn find(&self, entries: &[Entry<'_>]) -> Option<Found> {
        let way = self.descriptors.way(entries)?;
        let limit = way.limit()?;
        let values = || way.steps().map(|step| (step.entry.key, step.counted_value()));
        let counters = limit.limits.iter().map(|limit| (Arc::clone(limit), counter(limit, &self.name, values())));
        Some(Found { limit: Arc::clone(limit), counters: counters.collect(), metric: way.metric() })
    }

    /// The limit that a request brings along for a descriptor, instead of what [`find`](Self::find) would find.
    pub fn overridden(&self, entries: &[Entry<'_>], shown: Shown) -> Found {
        let Shown { requests_per_unit, unit } = shown;
        let algorithm = self.mode.algorithm(u64::from(requests_per_unit), unit.length());
        let limit = Arc::new(limit(algorithm, self.when_away));
        let values = entries.iter().map(|entry| (entry.key, entry.value));
        let key = counter(&limit, &self.name, values.clone());
        let limits = Box::new([Arc::clone(&limit)]);
        let described = DescriptorLimit {
            name: None,
            replaces: Box::default(),
            limits,
            shown: Some(shown),
            shadow: false,
            quota_mode: false,
            detailed_metric: false,
            metric: OVERRIDDEN.into(),
        };
        let metric = Some(tree::metric(values));
        Found { limit: Arc::new(described), counters: SmallVec::from([(limit, key)]), metric }
    }
}

/// The counter of these entries.
fn counter<'a>(limit: &Limit, domain: &str, mut entries: impl Iterator<Item = (&'a str, &'a str)>) -> CounterKey {
    let mut counter = CounterKey::new(&limit.name);
    counter.push(domain);
    for (key, value) in entries.by_ref().take(ENTRIES_PLAIN_MAX) {
        counter.push(key);
        counter.push(value);
    }
    // A key holds a hash of what is long, but of each value by itself: a request brings as many as it likes.
    let mut rest = String::new();
    for (key, value) in entries {
        // Writing to a `String` cannot fail.
        let _ = write!(rest, "{}:{key}{}:{value}", key.len(), value.len());
    }
    if !rest.is_empty() {
        counter.push(&rest);
    }
    counter
}

#[cfg(test)]
mod tests;
