//! The section `limits`.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::problem::nearest;
use super::reader::{Fields, Item, Reader};
use super::values::{duration, limit_name, rate};
use crate::domain::bucket::Flow;
use crate::domain::fixed::Grid;
use crate::domain::limit::{
    ATTRIBUTES_MAX, Algorithm, Attribute, HOLD_MAX, HOLD_MIN, Limit, Occasion, UNITS_MAX, WINDOW_MAX, WINDOW_MIN,
    WhenAway,
};
use crate::domain::ratelimit;
use crate::domain::slots::{SLOTS_MAX, Slots};
use crate::domain::time::Micros;

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
        if name.starts_with(ratelimit::NAME_PREFIX) {
            let taken = ratelimit::NAME_PREFIX;
            reader.error(
                &key,
                format!("begins with `{taken}`, as the limits of `envoy_ratelimit` do; name it otherwise"),
            );
        }
        let limit = limit(reader, name, &item).filter(|_| well_named);
        limits.insert(name.to_owned(), limit.map(Arc::new));
    }
    Some(limits)
}

/// How a limit counts, as it is named.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    SlidingWindow,
    TokenBucket,
    FixedWindow,
    Concurrency,
}

const KINDS: [(&str, Kind); 4] = [
    ("sliding_window", Kind::SlidingWindow),
    ("token_bucket", Kind::TokenBucket),
    ("fixed_window", Kind::FixedWindow),
    ("concurrency", Kind::Concurrency),
];

/// The numbers of all algorithms.
const NUMBERS: [&str; 5] = ["units", "window", "rate", "burst", "hold"];

impl Kind {
    /// The two numbers that it has.
    const fn numbers(self) -> [&'static str; 2] {
        match self {
            Self::SlidingWindow | Self::FixedWindow => ["units", "window"],
            Self::TokenBucket => ["rate", "burst"],
            Self::Concurrency => ["units", "hold"],
        }
    }
}

fn limit(reader: &mut Reader<'_>, name: &str, item: &Item<'_>) -> Option<Limit> {
    let mut fields = reader.fields(item, "limit")?;
    let kind = fields.or(reader, "algorithm", Kind::SlidingWindow, |reader, item| reader.one_of(item, &KINDS));
    let algorithm = algorithm(reader, &mut fields, kind);
    let charge = fields.or(reader, "charge", Occasion::default(), |reader, item| charge(reader, item, kind));
    let mut all_read = true;
    let by = fields.or(reader, "by", Vec::new(), |reader, item| {
        reader.few(item, ATTRIBUTES_MAX, |reader, item| {
            let attribute = reader.parse(item, |text| known_by(attribute(text)?, charge));
            all_read &= attribute.is_some();
            attribute
        })
    });
    let when_away = fields.or(reader, "when_away", WhenAway::default(), |reader, item| {
        reader.one_of(item, &[("deny", WhenAway::Deny), ("allow", WhenAway::Allow), ("local", WhenAway::Local)])
    });
    if let (Some(Occasion::OnFailure), Some(by)) = (charge, &by)
        && all_read
        && !by.iter().any(sets_callers_apart)
    {
        reader.warning(
            item,
            "counts failures of different callers together, so that one of them locks the others out; count by \
             source.address as well",
        );
    }
    fields.finish(reader);
    Some(Limit { name: name.to_owned(), algorithm: algorithm?, by: by?, when_away: when_away?, charge: charge? })
}

/// When the limit is consumed. Slots are for calls that go on: nobody would give back those of others.
fn charge(reader: &mut Reader<'_>, item: &Item<'_>, kind: Option<Kind>) -> Option<Occasion> {
    let occasion = reader.one_of(item, &Occasion::ALL.map(|occasion| (occasion.name(), occasion)))?;
    if kind == Some(Kind::Concurrency) && occasion.is_early() {
        reader.error(
            item,
            "does not go with `algorithm: concurrency`, whose units are held by calls that go on; remove `charge`, or \
             choose another algorithm",
        );
        return None;
    }
    Some(occasion)
}

/// The attribute, where it is known by the time at which the limit is consumed.
fn known_by(attribute: Attribute, charge: Option<Occasion>) -> Result<Attribute, String> {
    match charge {
        Some(occasion) if occasion.is_early() && attribute.needs_identity() => Err(format!(
            "must be known before the caller is, for `charge: {}`: count by source.address, say, or remove `charge`",
            occasion.name()
        )),
        Some(_) | None => Ok(attribute),
    }
}

/// Whether two callers mostly differ in it, without knowing who they are.
fn sets_callers_apart(attribute: &Attribute) -> bool {
    match attribute {
        Attribute::SourceAddress | Attribute::PathParameter(_) | Attribute::Resource(_) => true,
        Attribute::Issuer
        | Attribute::Subject
        | Attribute::Client
        | Attribute::Session
        | Attribute::Method
        | Attribute::Host
        | Attribute::Path
        | Attribute::Rule => false,
    }
}

/// The numbers of one algorithm; those of the others are refused. Where the algorithm could not be read, nothing is said
/// of keys that may be right.
fn algorithm(reader: &mut Reader<'_>, fields: &mut Fields<'_>, kind: Option<Kind>) -> Option<Algorithm> {
    for key in NUMBERS {
        let belongs = kind.is_some_and(|kind| kind.numbers().contains(&key));
        if !belongs && let Some(item) = fields.item(reader, key) {
            refuse(reader, &item, kind);
        }
    }
    Some(match kind? {
        Kind::SlidingWindow => {
            let (units, window) =
                (units(reader, fields, UNITS_MAX), span(reader, fields, "window", WINDOW_MIN..=WINDOW_MAX));
            Algorithm::SlidingWindow { units: units?, window: window? }
        }
        Kind::FixedWindow => {
            let (units, length) =
                (units(reader, fields, UNITS_MAX), span(reader, fields, "window", WINDOW_MIN..=WINDOW_MAX));
            Algorithm::FixedWindow(Grid { units: units?, length: length? })
        }
        Kind::TokenBucket => Algorithm::TokenBucket(flow(reader, fields)?),
        Kind::Concurrency => {
            let (units, hold) = (units(reader, fields, SLOTS_MAX), span(reader, fields, "hold", HOLD_MIN..=HOLD_MAX));
            Algorithm::Concurrency(Slots { units: units?, hold: hold? })
        }
    })
}

/// Says that a number is another algorithm's, and which ones this one has.
fn refuse(reader: &mut Reader<'_>, item: &Item<'_>, kind: Option<Kind>) {
    let named = KINDS.iter().find(|(_, named)| Some(*named) == kind);
    if let Some((name, kind)) = named {
        let [one, other] = kind.numbers();
        reader.error(item, format!("does not go with `algorithm: {name}`, which has `{one}` and `{other}`"));
    }
}

fn units(reader: &mut Reader<'_>, fields: &mut Fields<'_>, most: u64) -> Option<u64> {
    fields.needed(reader, "units", |reader, item| reader.whole(item, 1..=most))
}

pub(super) fn span(
    reader: &mut Reader<'_>,
    fields: &mut Fields<'_>,
    key: &'static str,
    range: RangeInclusive<Micros>,
) -> Option<Micros> {
    fields.needed(reader, key, |reader, item| reader.parse(item, duration(range)))
}

pub(super) fn flow(reader: &mut Reader<'_>, fields: &mut Fields<'_>) -> Option<Flow> {
    let rate = fields.needed(reader, "rate", |reader, item| reader.parse(item, rate));
    let burst = fields.needed(reader, "burst", |reader, item| {
        let burst = reader.whole(item, 1..=UNITS_MAX)?;
        let Some((units, per)) = rate else { return Some(None) };
        let flow = Flow::new(units, per, burst);
        if flow.is_none() {
            let most = Flow::burst_max(units, per);
            reader.error(
                item,
                format!("is too much at this rate; make it {most} or less, or the rate higher or rounder"),
            );
        }
        Some(flow)
    });
    burst.flatten()
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
