//! What rules match and demand of the call itself, and the section `path`.

use super::issuers::TEXT_BYTES_MAX;
use super::reader::{Fields, Item, Reader};
use super::values::{size, word};
use crate::domain::guard::{Guard, Origin, Sources};
use crate::domain::network::{Network, Networks};
use crate::domain::path::Leniency;
use crate::domain::policy::{Attributes, Demand, HostPattern, Paths, ValuePattern};
use crate::domain::question::{is_header_name, is_header_text};

/// The most headers, and the most attributes, that a rule may look at.
const NAMES_MAX: usize = 16;

/// The largest bound of a body: 1 TiB.
const BODY_BYTES_MAX: u64 = 1 << 40;

/// `headers` and `resource` of `match`.
#[expect(clippy::option_option, reason = "the outer one says whether it could be read, the inner whether it is there")]
pub(super) fn attributes(reader: &mut Reader<'_>, fields: &mut Fields<'_>) -> Option<Option<Box<Attributes>>> {
    let headers =
        fields.or(reader, "headers", Vec::new(), |reader, item| values(reader, item, header_name, header_value));
    let attribute = word("an attribute", TEXT_BYTES_MAX);
    let resource =
        fields.or(reader, "resource", Vec::new(), |reader, item| values(reader, item, &attribute, &attribute));
    let attributes = Attributes { headers: headers?, resource: resource? };
    Some((attributes != Attributes::default()).then(|| Box::new(attributes)))
}

/// What a rule demands of the call itself; `demand` is what it demands of the caller.
#[expect(clippy::option_option, reason = "the outer one says whether it could be read, the inner whether it is there")]
pub(super) fn guard(
    reader: &mut Reader<'_>,
    fields: &mut Fields<'_>,
    demand: Option<&Demand>,
) -> Option<Option<Box<Guard>>> {
    let sources = fields.or(reader, "sources", Sources::default(), sources);
    let body_max = fields.optional(reader, "max_body", |reader, item| reader.parse(item, size(0..=BODY_BYTES_MAX)));
    let origins = fields.or(reader, "origins", Vec::new(), |reader, item| {
        reader.some(item, |reader, item| reader.parse(item, Origin::parse))
    });
    let refuses_bad_credentials = fields.or(reader, "on_invalid", false, |reader, item| {
        if matches!(demand, Some(Demand::Caller(_))) {
            reader.error(item, "goes with `permit: anyone`; whoever needs a caller refuses bad credentials anyway");
            return None;
        }
        reader.one_of(item, &[("ignore", false), ("refuse", true)])
    });
    let refuses_method_override = fields.or(reader, "refuse_method_override", false, |reader, item| reader.flag(item));
    let guard = Guard {
        sources: sources?,
        body_max: body_max?,
        origins: origins?,
        refuses_bad_credentials: refuses_bad_credentials?,
        refuses_method_override: refuses_method_override?,
    };
    Some((guard != Guard::default()).then(|| Box::new(guard)))
}

/// How a rule's servers read paths that others read differently.
pub(super) fn leniency(reader: &mut Reader<'_>, fields: &mut Fields<'_>) -> Option<Leniency> {
    let encoded_slash = fields
        .or(reader, "encoded_slash", false, |reader, item| reader.one_of(item, &[("refuse", false), ("allow", true)]));
    let path_parameters = fields.or(reader, "path_parameters", false, |reader, item| {
        reader.one_of(item, &[("refuse", false), ("strip", true)])
    });
    Some(Leniency { encoded_slash: encoded_slash?, path_parameters: path_parameters? })
}

/// The section `path`.
pub(super) fn paths(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Paths> {
    let mut fields = reader.fields(item, "pathReading")?;
    let trusts_gateway = fields.or(reader, "normalization", false, |reader, item| {
        reader.one_of(item, &[("reject", false), ("trust_gateway", true)])
    });
    let case_insensitive_hosts = fields.or(reader, "case_insensitive_hosts", Vec::new(), |reader, item| {
        reader.some(item, |reader, item| reader.parse(item, HostPattern::parse))
    });
    fields.finish(reader);
    Some(Paths { trusts_gateway: trusts_gateway?, case_insensitive_hosts: case_insensitive_hosts? })
}

/// A list of networks that are let in, or lists of those that are and those that are not.
fn sources(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Sources> {
    if item.is_list() {
        return Some(Sources { allow: networks(reader, item)?, deny: Networks::default() });
    }
    let mut fields = reader.fields(item, "sources")?;
    let allow = fields.or(reader, "allow", Networks::default(), networks);
    let deny = fields.or(reader, "deny", Networks::default(), networks);
    fields.finish(reader);
    let sources = Sources { allow: allow?, deny: deny? };
    if sources == Sources::default() {
        reader.error(item, "must have `allow` or `deny`, or be a list of networks that are let in");
        return None;
    }
    Some(sources)
}

fn networks(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Networks> {
    reader.some(item, |reader, item| reader.parse(item, Network::parse)).map(Networks::from)
}

/// What values must be, by name: one, one of several, or anything.
fn values(
    reader: &mut Reader<'_>,
    item: &Item<'_>,
    name: impl Fn(&str) -> Result<String, String>,
    value: impl Fn(&str) -> Result<String, String>,
) -> Option<Vec<(String, ValuePattern)>> {
    let named = reader.named(item)?;
    if !(1..=NAMES_MAX).contains(&named.len()) {
        reader.error(item, format!("must have from 1 to {NAMES_MAX} entries"));
        return None;
    }
    let one = |text: &str| match text {
        "*" => Err("must be a value; `*` for any stands alone, in no list".to_owned()),
        text => value(text),
    };
    let mut patterns = Vec::new();
    for (key, text, item) in &named {
        let name = name(text).map_err(|must| reader.error(key, must)).ok();
        let pattern = if item.is_list() {
            reader.some(item, |reader, item| reader.parse(item, one)).map(ValuePattern::OneOf)
        } else {
            reader.parse(item, |text| match text {
                "*" => Ok(ValuePattern::Present),
                text => value(text).map(|value| ValuePattern::OneOf(vec![value])),
            })
        };
        patterns.extend(name.zip(pattern));
    }
    (patterns.len() == named.len()).then_some(patterns)
}

fn header_name(text: &str) -> Result<String, String> {
    if is_header_name(text) { Ok(text.to_owned()) } else { Err("must be a header's name in lower case".to_owned()) }
}

fn header_value(text: &str) -> Result<String, String> {
    let fits = (1..=TEXT_BYTES_MAX).contains(&text.len()) && is_header_text(text.as_bytes()) && text.trim() == text;
    if fits {
        return Ok(text.to_owned());
    }
    Err(format!("must be a header's value: 1 to {TEXT_BYTES_MAX} bytes of visible ASCII, no spaces around it"))
}
