//! The section `envoy_ratelimit`, and the files that it names.

mod descriptors;
mod glob;
mod limits;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::problem::nearest;
use super::reader::{Item, Reader, read_file};
use super::yaml::{self, Flaw, TEXT_BYTES_MAX};
use crate::domain::limit::WhenAway;
use crate::domain::ratelimit::{RateLimitMode, RateLimits};
use descriptors::Files;

/// The most files.
const FILES_MAX: usize = 1_000;

const MODES: [(&str, RateLimitMode); 2] =
    [("strict", RateLimitMode::Strict), ("compatible", RateLimitMode::Compatible)];

/// How a domain is paid as far as its files do not say it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) mode: RateLimitMode,
    pub(super) when_away: WhenAway,
}

pub(super) fn ratelimit(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<RateLimits> {
    let mut fields = reader.fields(item, "envoyRatelimit")?;
    let paths = fields.required(reader, "files", files);
    let mode = fields.or(reader, "mode", RateLimitMode::default(), |reader, item| reader.one_of(item, &MODES));
    let when_away = fields.or(reader, "when_away", WhenAway::default(), limits::when_away);
    let usual = Terms { mode: mode.unwrap_or_default(), when_away: when_away.unwrap_or_default() };
    let special = fields.or(reader, "domains", BTreeMap::new(), |reader, item| domains(reader, item, usual));
    let shadow = fields.or(reader, "shadow", false, |reader, item| reader.flag(item));
    let headers = fields.or(reader, "response_headers", false, |reader, item| reader.flag(item));
    let merges = fields.or(reader, "merge_domains", false, |reader, item| reader.flag(item));
    fields.finish(reader);
    let (paths, special, merges) = (paths?, special?, merges?);
    let terms = |name: &str| special.get(name).map_or(usual, |(_, terms)| *terms);
    let mut files = Files::new(&terms, merges);
    for path in &paths {
        file(reader, path, &mut files);
    }
    let domains = files.end();
    // Of files that could not be read nobody knows which domains they have.
    let unknown = special.iter().filter(|(name, _)| !reader.failed() && !domains.contains_key(**name));
    for (name, (item, _)) in unknown.collect::<Vec<_>>() {
        let remedy = match nearest(name, domains.keys().map(AsRef::as_ref)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "name one that they have, or remove it".to_owned(),
        };
        reader.error(item, format!("is no domain of the `files`; {remedy}"));
    }
    mode.and(when_away)?;
    Some(RateLimits { domains, shadow: shadow?, headers: headers? })
}

/// The domains of which something is said, with the place of that.
fn domains<'n>(reader: &mut Reader<'_>, item: &Item<'n>, usual: Terms) -> Option<BTreeMap<&'n str, (Item<'n>, Terms)>> {
    let mut domains = BTreeMap::new();
    for (key, name, item) in reader.named(item)? {
        let Some(mut fields) = reader.fields(&item, "ratelimitDomain") else { continue };
        let mode = fields.or(reader, "mode", usual.mode, |reader, item| reader.one_of(item, &MODES));
        let when_away = fields.or(reader, "when_away", usual.when_away, limits::when_away);
        fields.finish(reader);
        if let (Some(mode), Some(when_away)) = (mode, when_away) {
            domains.insert(name, (key, Terms { mode, when_away }));
        }
    }
    Some(domains)
}

/// The files that are named, each once, in the order of their names. The configuration depends on the folders of patterns
/// as well: another file may come.
fn files(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    let patterns = reader.items(item)?;
    for item in &patterns {
        let Some(pattern) = reader.path(item) else { continue };
        match glob::files(&pattern) {
            Ok(named) if named.is_empty() => reader.error(item, "names no file; add one, or correct the pattern"),
            Ok(named) => files.extend(named),
            Err(why) => reader.error(item, why),
        }
        if let Some(folder) = glob::folder(&pattern) {
            reader.depends_on(folder.to_owned());
        }
    }
    if patterns.is_empty() {
        reader.error(item, "is empty; name at least one file");
    }
    if files.len() > FILES_MAX {
        reader.error(item, format!("names {} files, more than {FILES_MAX}; put more into each", files.len()));
        return None;
    }
    Some(files)
}

/// Reads one file, if it can be.
fn file(reader: &mut Reader<'_>, path: &Path, files: &mut Files<'_>) {
    reader.depends_on(path.to_owned());
    let bytes = read_file(path, TEXT_BYTES_MAX as u64).map_err(|message| Flaw { at: None, message });
    reader.within(path, |reader| match bytes.and_then(yaml::text).and_then(|text| yaml::read(&text)) {
        Ok(root) => files.read(reader, path, &Item::root(&root)),
        Err(flaw) => reader.flaw(flaw),
    });
}
