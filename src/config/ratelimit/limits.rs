//! The numbers of a descriptor's limits.

use super::Terms;
use crate::config::limits::{flow, span};
use crate::config::reader::{Fields, Item, Reader};
use crate::domain::fixed::Grid;
use crate::domain::limit::{Algorithm, Limit, WINDOW_MAX, WINDOW_MIN, WhenAway};
use crate::domain::ratelimit::{self, Unit};
use crate::domain::time::Micros;

/// How a limit counts, as it is named; without a name as the mode of the domain does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    SlidingWindow,
    FixedWindow,
    TokenBucket,
}

pub(super) fn when_away(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<WhenAway> {
    reader.one_of(item, &[("deny", WhenAway::Deny), ("allow", WhenAway::Allow), ("local", WhenAway::Local)])
}

/// The keys of a limit that say how much it admits.
pub(super) fn limit(reader: &mut Reader<'_>, item: &Item<'_>, fields: &mut Fields<'_>, terms: Terms) -> Option<Limit> {
    let kind = fields.optional(reader, "algorithm", kind);
    let when_away = fields.or(reader, "when_away", terms.when_away, when_away);
    let algorithm = match kind? {
        Some(Kind::TokenBucket) => bucket(reader, fields),
        Some(Kind::SlidingWindow) => {
            window(reader, item, fields).map(|(units, window)| Algorithm::SlidingWindow { units, window })
        }
        Some(Kind::FixedWindow) => {
            window(reader, item, fields).map(|(units, length)| Algorithm::FixedWindow(Grid { units, length }))
        }
        None => window(reader, item, fields).map(|(units, length)| terms.mode.algorithm(units, length)),
    };
    Some(ratelimit::limit(algorithm?, when_away?))
}

/// Refuses every key that says how much a limit admits.
pub(super) fn refuse_all(reader: &mut Reader<'_>, fields: &mut Fields<'_>, with: &str) {
    refuse(reader, fields, ["unit", "window", "algorithm", "rate", "burst", "when_away"], with);
}

fn kind(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Kind> {
    reader.parse(item, |text| match text {
        "sliding_window" => Ok(Kind::SlidingWindow),
        "fixed_window" => Ok(Kind::FixedWindow),
        "token_bucket" => Ok(Kind::TokenBucket),
        "concurrency" => Err("must be another algorithm, since nobody says when a request that was limited by its \
                              descriptors has ended; `limits` of a rule can have it"
            .to_owned()),
        _ => Err("must be sliding_window or fixed_window or token_bucket".to_owned()),
    })
}

fn bucket(reader: &mut Reader<'_>, fields: &mut Fields<'_>) -> Option<Algorithm> {
    refuse(
        reader,
        fields,
        ["requests_per_unit", "unit", "window"],
        "`algorithm: token_bucket`, which has `rate` and `burst`",
    );
    flow(reader, fields).map(Algorithm::TokenBucket)
}

/// So many requests in each stretch of time.
fn window(reader: &mut Reader<'_>, item: &Item<'_>, fields: &mut Fields<'_>) -> Option<(u64, Micros)> {
    refuse(reader, fields, ["rate", "burst"], "a window; add `algorithm: token_bucket`, or remove it");
    let given = fields.item(reader, "requests_per_unit").filter(|item| !item.is_nothing());
    let units = if let Some(item) = given {
        reader.whole(&item, 0..=u64::from(u32::MAX))
    } else {
        let none = "has no `requests_per_unit` and refuses every request, as with envoyproxy/ratelimit; if that is meant, \
                    write `requests_per_unit: 0`";
        reader.warning(item, none);
        Some(0)
    };
    let unit = fields.item(reader, "unit").filter(|item| !item.is_nothing());
    let length = match (unit, fields.has("window")) {
        (Some(item), true) => {
            reader.error(&item, "is there beside `window`; keep one of them");
            None
        }
        (Some(item), false) => unit_of(reader, &item).map(Unit::length),
        (None, true) => span(reader, fields, "window", WINDOW_MIN..=WINDOW_MAX),
        (None, false) => {
            reader.error(item, format!("must have `unit` ({}), or `window`, such as 90s", units_named()));
            None
        }
    };
    Some((units?, length?))
}

/// A unit of time, in small letters or large.
fn unit_of(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Unit> {
    reader.parse_verbatim(item, |text| {
        let named = Unit::ALL.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        named.map(|(_, unit)| unit).ok_or_else(|| format!("must be {}", units_named()))
    })
}

fn units_named() -> String {
    Unit::ALL.map(|(name, _)| name).join(" or ")
}

/// Refuses keys that mean something only elsewhere.
fn refuse<const N: usize>(reader: &mut Reader<'_>, fields: &mut Fields<'_>, keys: [&'static str; N], with: &str) {
    for key in keys {
        if let Some(item) = fields.item(reader, key).filter(|item| !item.is_nothing()) {
            reader.error(&item, format!("does not go with {with}"));
        }
    }
}
