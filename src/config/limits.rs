//! The section `limits`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::problem::nearest;
use super::reader::{Item, Reader};
use super::values::{duration, limit_name};
use crate::domain::limit::{Attribute, Limit, UNITS_MAX, WINDOW_MAX, WINDOW_MIN, WhenAway};

/// What a rule can name. A limit that could not be read is there without a value: it is reported once.
pub(super) type Limits = BTreeMap<String, Option<Arc<Limit>>>;

/// Attributes that have a fixed name.
const ATTRIBUTES: [&str; 9] = [
    "identity.subject",
    "identity.client",
    "identity.session",
    "identity.issuer",
    "source.address",
    "request.method",
    "request.host",
    "request.path",
    "rule",
];

pub(super) fn limits(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Limits> {
    let mut limits = Limits::new();
    for (key, name, item) in reader.named(item)? {
        let well_named = limit_name(name).map_err(|must| reader.error(&key, must)).is_ok();
        let limit = limit(reader, name, &item).filter(|_| well_named);
        limits.insert(name.to_owned(), limit.map(Arc::new));
    }
    Some(limits)
}

fn limit(reader: &mut Reader<'_>, name: &str, item: &Item<'_>) -> Option<Limit> {
    let mut fields = reader.fields(item, "limit")?;
    let units = fields.required(reader, "units", |reader, item| reader.whole(item, 1..=UNITS_MAX));
    let window =
        fields.required(reader, "window", |reader, item| reader.parse(item, duration(WINDOW_MIN..=WINDOW_MAX)));
    let by = fields
        .or(reader, "by", Vec::new(), |reader, item| reader.list(item, |reader, item| reader.parse(item, attribute)));
    let when_away = fields.or(reader, "when_away", WhenAway::default(), |reader, item| {
        reader.one_of(item, &[("deny", WhenAway::Deny), ("allow", WhenAway::Allow)])
    });
    fields.finish(reader);
    Some(Limit { name: name.to_owned(), units: units?, window: window?, by: by?, when_away: when_away? })
}

fn attribute(text: &str) -> Result<Attribute, String> {
    let named = Attribute::from_name(text).filter(|attribute| match attribute {
        Attribute::PathParameter(name) => name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'),
        Attribute::Resource(name) => name.len() <= 64 && !name.chars().any(|c| c.is_control() || c.is_whitespace()),
        _ => true,
    });
    named.ok_or_else(|| match nearest(text, ATTRIBUTES) {
        Some(near) => format!("must be an attribute of a question; did you mean `{near}`?"),
        None => format!("must be {}, path.<name> or resource.<name>", ATTRIBUTES.join(", ")),
    })
}
