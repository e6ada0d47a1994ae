//! Limits by descriptors: what an Envoy's `ratelimit` filter asks by, in the language of envoyproxy/ratelimit's files.

use std::collections::BTreeMap;
use std::sync::Arc;

use smallvec::SmallVec;

use super::limit::{CounterKey, Limit};

/// The limits of every domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// By name.
    pub domains: BTreeMap<Box<str>, Domain>,
    /// Whether no domain refuses anything: what would be refused is only counted.
    pub shadow: bool,
}

/// The limits of one domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Domain {
    /// Its name.
    pub name: Box<str>,
    /// How its limits are paid.
    pub mode: RateLimitMode,
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
    /// The limits, each with counters of its own; none: it is unlimited.
    pub limits: Box<[Arc<Limit>]>,
    /// What is told of it as `current_limit`.
    pub shown: Option<Shown>,
    /// `shadow_mode`: what would be refused is only counted.
    pub shadow: bool,
    /// `quota_mode`.
    pub quota_mode: bool,
    /// What it is called in metrics: its place in the file, bounded in number and length.
    pub metric: Box<str>,
}

/// A limit as it is told: so many requests in a unit of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// How many.
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
}

impl Domain {
    /// What limits a descriptor with these entries; none: nothing does.
    pub fn find(&self, _entries: &[Entry<'_>]) -> Option<Found> {
        None
    }

    /// The limit that a request brings along for a descriptor, instead of what [`find`](Self::find) would find.
    pub fn overridden(&self, _entries: &[Entry<'_>], _shown: Shown) -> Option<Found> {
        None
    }
}
