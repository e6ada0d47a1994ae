//! The descriptors of a domain, and which of them the entries of a request fall on.
//!
//! Entry by entry and level by level: first the descriptor with this key and value, then the first wildcard in the order
//! of the files, then the one with the key alone. What was chosen is not taken back where it leads to nothing. A request
//! falls on the descriptor that its last entry meets, no matter what there is above or below it.
//!
//! Key and value are compared as one text, `key_value`, as envoyproxy/ratelimit does: `a` with `b_c` is `a_b` with `c`.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use super::{DescriptorLimit, Entry, METRIC_BYTES_MAX};

/// What stands at the end of a wildcard.
const WILDCARD: char = '*';

/// A descriptor of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Its key and value as one text: see [`composite`].
    pub name: Box<str>,
    /// What it limits; none: nothing, and what is below it may.
    pub limit: Option<Arc<DescriptorLimit>>,
    /// `value_to_metric`: metrics tell the values of the request apart that fall on it.
    pub value_to_metric: bool,
    /// `share_threshold`: all values that a wildcard matches have one counter.
    pub share_threshold: bool,
    /// The descriptors of the next entry.
    pub below: Level,
}

/// Descriptors side by side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// In the order of the files.
    descriptors: Vec<Descriptor>,
    /// Where each stands, by its name.
    named: HashMap<Box<[u8]>, usize, RandomState>,
    /// Where each wildcard stands, by what comes before its `*`.
    wildcards: HashMap<Box<[u8]>, usize, RandomState>,
    /// How long those beginnings are, each length once: a look-up for each length, however many wildcards there are.
    lengths: Vec<usize>,
}

/// Key and value as one text; without a value the key alone.
pub fn composite(key: &str, value: &str) -> String {
    if value.is_empty() { key.to_owned() } else { format!("{key}_{value}") }
}

/// Whether a descriptor of this name is a wildcard: it matches what begins with what is before its `*`.
pub fn is_wildcard(name: &str) -> bool {
    name.ends_with(WILDCARD)
}

/// What the entries of a request fell on, one step for each of them. Never empty.
pub(super) struct Way<'a> {
    steps: SmallVec<[Step<'a>; 4]>,
}

/// What one entry fell on.
pub(super) struct Step<'a> {
    pub(super) entry: Entry<'a>,
    descriptor: &'a Descriptor,
    by: By,
}

/// What made an entry fall on a descriptor.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// Its key and value.
    Value,
    /// How they begin.
    Wildcard,
    /// Its key alone.
    Key,
}

impl Level {
    /// Adds a descriptor behind the others. Whether it could be: each name stands for one.
    #[must_use]
    pub fn add(&mut self, descriptor: Descriptor) -> bool {
        let index = self.descriptors.len();
        let name: Box<[u8]> = descriptor.name.as_bytes().into();
        if self.named.contains_key(&name) {
            return false;
        }
        if let Some(beginning) = descriptor.name.strip_suffix(WILDCARD) {
            self.wildcards.insert(beginning.as_bytes().into(), index);
            if !self.lengths.contains(&beginning.len()) {
                self.lengths.push(beginning.len());
            }
        }
        self.named.insert(name, index);
        self.descriptors.push(descriptor);
        true
    }

    /// What these entries fall on; none where one of them falls on nothing, or there are none.
    pub(super) fn way<'a>(&'a self, entries: &[Entry<'a>]) -> Option<Way<'a>> {
        let mut level = self;
        let mut steps = SmallVec::new();
        for &entry in entries {
            let (descriptor, by) = level.choose(entry)?;
            steps.push(Step { entry, descriptor, by });
            level = &descriptor.below;
        }
        (!steps.is_empty()).then_some(Way { steps })
    }

    fn choose(&self, entry: Entry<'_>) -> Option<(&Descriptor, By)> {
        if self.descriptors.is_empty() {
            return None;
        }
        let Entry { key, value } = entry;
        let mut name = SmallVec::<[u8; 128]>::from_slice(key.as_bytes());
        name.push(b'_');
        name.extend_from_slice(value.as_bytes());
        let beginning = |&length: &usize| self.wildcards.get(name.get(..length)?).copied();
        let (index, by) = if let Some(&index) = self.named.get(name.as_slice()) {
            (index, By::Value)
        } else if let Some(index) = self.lengths.iter().filter_map(beginning).min() {
            (index, By::Wildcard)
        } else {
            (*self.named.get(key.as_bytes())?, By::Key)
        };
        self.descriptors.get(index).map(|descriptor| (descriptor, by))
    }
}

impl<'a> Way<'a> {
    pub(super) fn steps(&self) -> impl Iterator<Item = &Step<'a>> {
        self.steps.iter()
    }

    /// What limits the request: the descriptor of the last entry says it.
    pub(super) fn limit(&self) -> Option<&'a Arc<DescriptorLimit>> {
        self.steps.last()?.descriptor.limit.as_ref()
    }

    /// What it is called in metrics, where that tells values apart.
    pub(super) fn metric(&self) -> Option<Box<str>> {
        if self.limit().is_some_and(|limit| limit.detailed_metric) {
            return Some(metric(self.steps().map(|step| (step.entry.key, step.counted_value()))));
        }
        self.steps().any(Step::tells_values_apart).then(|| {
            metric(self.steps().map(|step| {
                let value = if step.tells_values_apart() { step.entry.value } else { step.written_value() };
                (step.entry.key, value)
            }))
        })
    }
}

impl<'a> Step<'a> {
    /// The value that counters are named by: the request's, or the wildcard that shares one among all.
    pub(super) fn counted_value(&self) -> &'a str {
        if self.shares() { self.written_value() } else { self.entry.value }
    }

    fn shares(&self) -> bool {
        self.by == By::Wildcard && self.descriptor.share_threshold
    }

    fn tells_values_apart(&self) -> bool {
        self.by != By::Value && self.descriptor.value_to_metric && !self.shares()
    }

    /// The value as the files have it; empty where they have none.
    fn written_value(&self) -> &'a str {
        let behind_key = || self.descriptor.name.strip_prefix(self.entry.key)?.strip_prefix('_');
        match self.by {
            By::Value => self.entry.value,
            By::Wildcard => behind_key().unwrap_or(&self.descriptor.name),
            By::Key => "",
        }
    }
}

/// A name in metrics: `key1_value1.key2`.
pub(super) fn metric<'a>(entries: impl Iterator<Item = (&'a str, &'a str)>) -> Box<str> {
    let mut name = String::new();
    for (key, value) in entries {
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(key);
        if !value.is_empty() {
            name.push('_');
            name.push_str(value);
        }
        if name.len() > METRIC_BYTES_MAX {
            break;
        }
    }
    metric_name(name)
}

/// A name in metrics; what is longer than [`METRIC_BYTES_MAX`] is cut off.
pub fn metric_name(mut name: String) -> Box<str> {
    name.truncate(name.floor_char_boundary(METRIC_BYTES_MAX));
    name.into()
}
