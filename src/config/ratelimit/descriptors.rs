//! Files in the language of envoyproxy/ratelimit, with a few words more.
//!
//! What it refuses is refused here. It overlooks a key of the language in a place where that means nothing; here that is a
//! warning. `docs/ratelimit.md` has the differences.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Terms, limits};
use crate::config::reader::{Fields, Item, Reader};
use crate::domain::limit::Limit;
use crate::domain::ratelimit::{
    Descriptor, DescriptorLimit, Domain, Level, Shown, composite, is_wildcard, metric_name,
};

/// The most descriptors of all files.
const DESCRIPTORS_MAX: usize = 100_000;

/// The most limits of one descriptor: all of them are paid at once.
const LIMITS_MAX: usize = 8;

/// Every key of envoyproxy/ratelimit's language.
const LANGUAGE: [&str; 15] = [
    "domain",
    "key",
    "value",
    "descriptors",
    "rate_limit",
    "unit",
    "requests_per_unit",
    "unlimited",
    "shadow_mode",
    "quota_mode",
    "name",
    "replaces",
    "detailed_metric",
    "value_to_metric",
    "share_threshold",
];

/// What has been read of all files.
pub(super) struct Files<'t> {
    terms: &'t dyn Fn(&str) -> Terms,
    merges: bool,
    domains: BTreeMap<Box<str>, Domain>,
    /// Where each domain is first.
    first: HashMap<Box<str>, PathBuf>,
    descriptors: usize,
}

impl<'t> Files<'t> {
    /// `terms` says how a domain is paid, `merges` whether several files may have descriptors of one domain.
    pub(super) fn new(terms: &'t dyn Fn(&str) -> Terms, merges: bool) -> Self {
        Self { terms, merges, domains: BTreeMap::new(), first: HashMap::new(), descriptors: 0 }
    }

    /// Every domain.
    pub(super) fn end(self) -> BTreeMap<Box<str>, Domain> {
        self.domains
    }

    /// Reads the file at `path`.
    pub(super) fn read(&mut self, reader: &mut Reader<'_>, path: &Path, root: &Item<'_>) {
        let Some(mut fields) = reader.fields(root, "ratelimitFile") else { return };
        let name = fields.required(reader, "domain", |reader, item| {
            let name = reader.parse_verbatim(item, not_empty("the name of a domain"))?;
            match self.first.get(name.as_str()) {
                Some(first) if !self.merges => {
                    let first = first.display();
                    reader.error(
                        item,
                        format!("is the domain of {first}, too; put them together, or say `merge_domains: true`"),
                    );
                    None
                }
                _ => Some(name),
            }
        });
        let terms = name.as_deref().map_or_else(Terms::default, self.terms);
        let domain = name.as_deref().and_then(|name| self.domains.remove(name));
        let mut level = domain.map(|domain| domain.descriptors).unwrap_or_default();
        if let Some(item) = given(reader, &mut fields, "descriptors") {
            self.level(reader, &item, &mut level, "", terms);
        }
        finish(reader, fields);
        if let Some(name) = name {
            let name: Box<str> = name.into();
            self.first.entry(name.clone()).or_insert_with(|| path.to_owned());
            let Terms { mode, when_away } = terms;
            self.domains.insert(name.clone(), Domain { name, mode, when_away, descriptors: level });
        }
    }

    /// Reads descriptors that stand side by side into `level`. `above` is what metrics call the descriptor above them.
    fn level(&mut self, reader: &mut Reader<'_>, item: &Item<'_>, level: &mut Level, above: &str, terms: Terms) {
        let Some(items) = reader.items(item) else { return };
        let mut lines = HashMap::new();
        for item in items {
            self.descriptors += 1;
            if self.descriptors == DESCRIPTORS_MAX + 1 {
                reader.error(&item, format!("is more than the {DESCRIPTORS_MAX} descriptors that all files may have"));
            }
            let Some(descriptor) = self.descriptor(reader, &item, above, terms) else { continue };
            let name = descriptor.name.clone();
            if !level.add(descriptor) {
                let place = match lines.get(&name) {
                    Some(line) => format!("in line {line}"),
                    None => "in another file".to_owned(),
                };
                reader
                    .error(&item, format!("is there already, {place}: key and value make `{name}`; keep one of them"));
            }
            lines.entry(name).or_insert_with(|| item.line());
        }
    }

    fn descriptor(
        &mut self,
        reader: &mut Reader<'_>,
        item: &Item<'_>,
        above: &str,
        terms: Terms,
    ) -> Option<Descriptor> {
        let mut fields = reader.fields(item, "ratelimitDescriptor")?;
        let key = fields.required(reader, "key", |reader, item| reader.parse_verbatim(item, not_empty("a key")));
        let value = match given(reader, &mut fields, "value") {
            Some(item) => reader.parse_verbatim(&item, |text| Ok(text.to_owned())),
            None => Some(String::new()),
        };
        let name = key.zip(value).map(|(key, value)| composite(&key, &value));
        let place = match (above, name.as_deref().unwrap_or_default()) {
            ("", name) => name.to_owned(),
            (above, name) => format!("{above}.{name}"),
        };
        let [shadow, quota_mode, detailed_metric, value_to_metric] =
            ["shadow_mode", "quota_mode", "detailed_metric", "value_to_metric"]
                .map(|key| flag(reader, &mut fields, key));
        let share_threshold = given(reader, &mut fields, "share_threshold").map_or(Some(false), |item| {
            let shares = reader.old_flag(&item)?;
            if shares && name.as_deref().is_some_and(|name| !is_wildcard(name)) {
                reader.error(&item, "needs a value that ends in `*`, whose matches it lets share a counter");
            }
            Some(shares)
        });
        let limit = limit(reader, &mut fields, terms);
        let mut below = Level::default();
        if let Some(item) = given(reader, &mut fields, "descriptors") {
            self.level(reader, &item, &mut below, &place, terms);
        }
        finish(reader, fields);
        let (shadow, quota_mode, detailed_metric) = (shadow?, quota_mode?, detailed_metric?);
        let limit = limit?.map(|read| {
            Arc::new(DescriptorLimit {
                name: read.name,
                replaces: read.replaces,
                shown: read.limits.iter().find_map(Shown::of),
                limits: read.limits.into_iter().map(Arc::new).collect(),
                shadow,
                quota_mode,
                detailed_metric,
                metric: metric_name(place),
            })
        });
        let (value_to_metric, share_threshold) = (value_to_metric?, share_threshold?);
        Some(Descriptor { name: name?.into(), limit, value_to_metric, share_threshold, below })
    }
}

/// What `rate_limit` and `rate_limits` say.
#[derive(Default)]
struct Read {
    name: Option<Box<str>>,
    replaces: Box<[Box<str>]>,
    /// None: it is unlimited.
    limits: Vec<Limit>,
}

/// The limits of a descriptor; `Some(None)` where it has none.
#[expect(clippy::option_option, reason = "the outer one says whether it could be read, the inner whether it is there")]
fn limit(reader: &mut Reader<'_>, fields: &mut Fields<'_>, terms: Terms) -> Option<Option<Read>> {
    let first = given(reader, fields, "rate_limit");
    let more = given(reader, fields, "rate_limits");
    if first.is_none() && more.is_none() {
        return Some(None);
    }
    let mut read = match first {
        Some(item) => rate_limit(reader, &item, terms),
        None => Some(Read::default()),
    };
    if let Some(item) = more {
        if read.as_ref().is_some_and(|read| read.limits.is_empty()) && fields.has("rate_limit") {
            reader.error(&item, "does not go with `unlimited`");
        }
        further(reader, &item, terms, &mut read);
    }
    read.map(Some)
}

fn rate_limit(reader: &mut Reader<'_>, item: &Item<'_>, terms: Terms) -> Option<Read> {
    let mut fields = reader.fields(item, "ratelimitLimit")?;
    let name = match given(reader, &mut fields, "name") {
        Some(item) => reader.parse_verbatim(&item, |text| Ok(text.to_owned())),
        None => Some(String::new()),
    };
    let replaces = match given(reader, &mut fields, "replaces") {
        Some(item) => replaced(reader, &item, name.as_deref().unwrap_or_default()),
        None => Some(Box::default()),
    };
    let limits = if flag(reader, &mut fields, "unlimited")? {
        unlimited(reader, &mut fields);
        Some(Vec::new())
    } else {
        limits::limit(reader, item, &mut fields, terms).map(|limit| vec![limit])
    };
    finish(reader, fields);
    let name = name?;
    Some(Read { name: (!name.is_empty()).then(|| name.into()), replaces: replaces?, limits: limits? })
}

/// Nothing that says how much goes with `unlimited`; envoyproxy/ratelimit overlooks a number.
fn unlimited(reader: &mut Reader<'_>, fields: &mut Fields<'_>) {
    limits::refuse_all(reader, fields, "`unlimited: true`; remove one of them");
    if let Some(item) = given(reader, fields, "requests_per_unit") {
        reader.warning(&item, "has no effect beside `unlimited: true`; remove one of them");
    }
}

/// The names of limits that do not count where this one does.
fn replaced(reader: &mut Reader<'_>, item: &Item<'_>, own: &str) -> Option<Box<[Box<str>]>> {
    let mut names = Vec::new();
    let items = reader.items(item)?;
    for item in &items {
        let Some(mut fields) = reader.fields(item, "ratelimitReplaced") else { continue };
        let name = fields.required(reader, "name", |reader, item| {
            let name = reader.parse_verbatim(item, not_empty("the name of a limit"))?;
            if name == own {
                reader.error(item, "is the limit's own name; name another one");
            }
            Some(name)
        });
        finish(reader, fields);
        names.extend(name.map(Into::into));
    }
    (names.len() == items.len()).then(|| names.into())
}

/// Limits beside the one of `rate_limit`. Each counts by itself, so no two may have one counter.
fn further(reader: &mut Reader<'_>, item: &Item<'_>, terms: Terms, read: &mut Option<Read>) {
    let Some(items) = reader.items(item) else { return *read = None };
    if items.is_empty() || items.len() >= LIMITS_MAX {
        reader.error(item, format!("must have 1 to {} limits", LIMITS_MAX - 1));
        return *read = None;
    }
    for item in &items {
        let limit = reader.fields(item, "ratelimitFurther").and_then(|mut fields| {
            let limit = limits::limit(reader, item, &mut fields, terms);
            finish(reader, fields);
            limit
        });
        let (Some(so_far), Some(limit)) = (read.as_mut(), limit) else {
            *read = None;
            continue;
        };
        if so_far.limits.iter().any(|other| other.name == limit.name) {
            reader.error(item, "counts as another limit of this descriptor does; keep the lower one");
        }
        so_far.limits.push(limit);
    }
}

/// The value of `key`. One without a value is as good as none, as with envoyproxy/ratelimit.
fn given<'n>(reader: &mut Reader<'_>, fields: &mut Fields<'n>, key: &'static str) -> Option<Item<'n>> {
    fields.item(reader, key).filter(|item| !item.is_nothing())
}

fn flag(reader: &mut Reader<'_>, fields: &mut Fields<'_>, key: &'static str) -> Option<bool> {
    given(reader, fields, key).map_or(Some(false), |item| reader.old_flag(&item))
}

fn not_empty(what: &'static str) -> impl FnOnce(&str) -> Result<String, String> {
    move |text| if text.is_empty() { Err(format!("must be {what}, not empty")) } else { Ok(text.to_owned()) }
}

/// Reports the keys that nobody asked for: those of the language are only in the wrong place.
fn finish(reader: &mut Reader<'_>, mut fields: Fields<'_>) {
    fields.overlook(
        reader,
        &LANGUAGE,
        "has no effect here, as with envoyproxy/ratelimit; put it where it belongs, or remove it",
    );
    fields.finish(reader);
}
