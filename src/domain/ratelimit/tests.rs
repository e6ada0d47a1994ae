//! What requests fall on, beside a model that looks at every descriptor in turn.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::domain::limit::{UNITS_MAX, WINDOW_MAX, WINDOW_MIN};

fn entries<'a>(pairs: &[(&'a str, &'a str)]) -> Vec<Entry<'a>> {
    pairs.iter().map(|&(key, value)| Entry { key, value }).collect()
}

/// A limit that says by its units which one it is.
fn limits(units: u64) -> Arc<DescriptorLimit> {
    let limit = limit(RateLimitMode::Strict.algorithm(units, Unit::Minute.length()), WhenAway::Deny);
    Arc::new(DescriptorLimit {
        name: None,
        replaces: Box::default(),
        shown: Shown::of(&limit),
        limits: Box::new([Arc::new(limit)]),
        shadow: false,
        quota_mode: false,
        detailed_metric: false,
        metric: "place".into(),
    })
}

fn descriptor(key: &str, value: &str, units: u64) -> Descriptor {
    Descriptor { name: composite(key, value).into(), limit: Some(limits(units)), ..Descriptor::default() }
}

fn level(descriptors: impl IntoIterator<Item = Descriptor>) -> Level {
    let mut level = Level::default();
    for descriptor in descriptors {
        assert!(level.add(descriptor));
    }
    level
}

fn domain(descriptors: impl IntoIterator<Item = Descriptor>) -> Domain {
    Domain { name: "shop".into(), descriptors: level(descriptors), ..Domain::default() }
}

/// The units of the limit that a request falls on.
fn units(domain: &Domain, pairs: &[(&str, &str)]) -> Option<u64> {
    domain.find(&entries(pairs)).map(|found| found.counters[0].0.units())
}

fn key(domain: &Domain, pairs: &[(&str, &str)]) -> CounterKey {
    domain.find(&entries(pairs)).unwrap().counters[0].1.clone()
}

#[test]
fn a_value_goes_before_a_wildcard_and_a_wildcard_before_the_key_alone() {
    let domain = domain([
        descriptor("path", "", 1),
        descriptor("path", "/a*", 2),
        descriptor("path", "/ab*", 3),
        descriptor("path", "/ab", 4),
    ]);
    for (value, expected) in [("/x", 1), ("", 1), ("/a", 2), ("/abc", 2), ("/ab", 4), ("/ab*", 3)] {
        assert_eq!(units(&domain, &[("path", value)]), Some(expected), "{value}");
    }
    assert_eq!(units(&domain, &[("other", "/a")]), None);
    assert_eq!(units(&domain, &[]), None);
}

#[test]
fn a_request_falls_on_the_descriptor_of_its_last_entry_whatever_is_above_and_below() {
    let outer = Descriptor { below: level([descriptor("b", "", 2)]), ..descriptor("a", "", 1) };
    let domain = domain([outer, descriptor("c", "", 3)]);
    assert_eq!(units(&domain, &[("a", "x")]), Some(1));
    assert_eq!(units(&domain, &[("a", "x"), ("b", "y")]), Some(2));
    assert_eq!(units(&domain, &[("a", "x"), ("c", "y")]), None);
    assert_eq!(units(&domain, &[("c", "x"), ("b", "y")]), None, "deeper than the descriptors are");
    assert_eq!(units(&domain, &[("b", "y")]), None);
}

/// The more specific one leads to nothing, and the other one is not tried.
#[test]
fn what_was_chosen_is_not_taken_back() {
    let exact = Descriptor { name: "a_x".into(), ..Descriptor::default() };
    let general = Descriptor { below: level([descriptor("b", "", 2)]), ..descriptor("a", "", 1) };
    let domain = domain([exact, general]);
    assert_eq!(units(&domain, &[("a", "x"), ("b", "y")]), None);
    assert_eq!(units(&domain, &[("a", "z"), ("b", "y")]), Some(2));
    assert_eq!(units(&domain, &[("a", "x")]), None, "what has no limit frees this value of the general one");
}

#[test]
fn key_and_value_are_one_text() {
    let domain = domain([descriptor("a_b", "c", 1), descriptor("begins*", "", 2)]);
    assert_eq!(units(&domain, &[("a", "b_c")]), Some(1));
    assert_eq!(units(&domain, &[("a_b_c", "x")]), Some(1));
    assert_eq!(units(&domain, &[("begins-so", "x")]), Some(2));
    let mut level = level([descriptor("a_b", "c", 1)]);
    assert!(!level.add(descriptor("a", "b_c", 2)));
}

#[test]
fn counters_are_told_apart_by_domain_entries_and_window() {
    let of = |name: &str| Domain {
        name: name.into(),
        descriptors: level([descriptor("a", "", 1), descriptor("a", "x", 9)]),
        ..Domain::default()
    };
    let (shop, other) = (of("shop"), of("other"));
    assert_eq!(key(&shop, &[("a", "y")]).as_bytes(), b"ratelimit.sliding.60s 4:shop 1:a 1:y");
    assert_ne!(key(&shop, &[("a", "y")]), key(&shop, &[("a", "z")]));
    assert_ne!(key(&shop, &[("a", "y")]), key(&other, &[("a", "y")]));
    let counter = |unit, requests_per_unit| {
        shop.overridden(&entries(&[("a", "y")]), Shown { requests_per_unit, unit }).counters[0].1.clone()
    };
    assert_eq!(counter(Unit::Minute, 7), key(&shop, &[("a", "y")]), "the units may change");
    assert_ne!(counter(Unit::Hour, 7), key(&shop, &[("a", "y")]));
    let compatible = Domain { mode: RateLimitMode::Compatible, ..shop };
    let found = compatible.overridden(&entries(&[("a", "y")]), Shown { requests_per_unit: 7, unit: Unit::Minute });
    assert_eq!(found.counters[0].1.as_bytes(), b"ratelimit.fixed.60s 4:shop 1:a 1:y");
}

#[test]
fn a_wildcard_has_a_counter_for_each_value_unless_they_share_one() {
    let shared = Descriptor { share_threshold: true, ..descriptor("file", "docs/*", 1) };
    let below = Descriptor {
        share_threshold: true,
        below: level([descriptor("method", "", 2)]),
        ..descriptor("path", "api/*", 3)
    };
    let domain = domain([descriptor("file", "own/*", 1), shared, below]);
    assert_ne!(key(&domain, &[("file", "own/a")]), key(&domain, &[("file", "own/b")]));
    assert_eq!(key(&domain, &[("file", "docs/a")]), key(&domain, &[("file", "docs/b")]));
    let get = key(&domain, &[("path", "api/a"), ("method", "GET")]);
    assert_eq!(key(&domain, &[("path", "api/b"), ("method", "GET")]), get);
    assert_ne!(key(&domain, &[("path", "api/b"), ("method", "PUT")]), get);
}

#[test]
fn metrics_tell_values_apart_where_they_are_asked_to() {
    let metric = |domain: &Domain, pairs: &[(&str, &str)]| domain.find(&entries(pairs)).unwrap().metric;
    let plain = descriptor("plain", "", 1);
    let method = Descriptor { value_to_metric: true, ..descriptor("method", "", 1) };
    let action = Descriptor { value_to_metric: true, below: level([method]), ..descriptor("action", "read*", 1) };
    let shared = Descriptor { value_to_metric: true, share_threshold: true, ..descriptor("file", "docs/*", 1) };
    let detailed = DescriptorLimit { detailed_metric: true, ..(*limits(1)).clone() };
    let detailed = Descriptor { limit: Some(Arc::new(detailed)), ..descriptor("user", "", 1) };
    let long = Descriptor { value_to_metric: true, ..descriptor("long", "", 1) };
    let domain = domain([plain, action, shared, detailed, long]);
    assert_eq!(metric(&domain, &[("plain", "x")]), None);
    let both = [("action", "readfile"), ("method", "GET")];
    assert_eq!(metric(&domain, &both).as_deref(), Some("action_readfile.method_GET"));
    assert_eq!(metric(&domain, &[("file", "docs/a")]), None, "its values are one");
    assert_eq!(metric(&domain, &[("user", "ann")]).as_deref(), Some("user_ann"));
    let value = "ß".repeat(METRIC_BYTES_MAX);
    let cut = metric(&domain, &[("long", &value)]).unwrap();
    assert_eq!((cut.len(), &cut[..7]), (METRIC_BYTES_MAX - 1, "long_ß"));
    let found = domain.overridden(&entries(&both), Shown { requests_per_unit: 0, unit: Unit::Week });
    assert_eq!(found.metric.as_deref(), Some("action_readfile.method_GET"));
    assert_eq!(&*found.limit.metric, "overridden");
}

#[test]
fn any_number_of_entries_makes_a_short_counter() {
    let many: Vec<String> = (0..10_000).map(|number| number.to_string()).collect();
    let mut pairs: Vec<(&str, &str)> = many.iter().map(|key| (key.as_str(), "v")).collect();
    let shown = Shown { requests_per_unit: 1, unit: Unit::Second };
    let counter = |pairs: &[(&str, &str)]| domain([]).overridden(&entries(pairs), shown).counters[0].1.clone();
    let first = counter(&pairs);
    assert!(first.as_bytes().len() < 512);
    assert!(CounterKey::from_bytes(first.as_bytes()).is_some());
    pairs[9_999] = ("9999", "w");
    assert_ne!(counter(&pairs), first);
    assert_ne!(counter(&pairs[..17]), counter(&pairs[..16]));
}

#[test]
fn units_have_the_lengths_of_envoyproxys() {
    let days = |days: u64| Micros::from_secs(days * 24 * 60 * 60);
    let lengths = Unit::ALL.map(|(_, unit)| unit.length());
    let seconds = [1, 60, 3_600].map(Micros::from_secs);
    assert_eq!(lengths[..3], seconds);
    assert_eq!(lengths[3..], [days(1), days(7), days(30), days(365)]);
    for (name, unit) in Unit::ALL {
        for mode in [RateLimitMode::Strict, RateLimitMode::Compatible] {
            let limit = limit(mode.algorithm(5, unit.length()), WhenAway::Local);
            assert_eq!(Shown::of(&limit), Some(Shown { requests_per_unit: 5, unit }), "{name}");
            assert!((WINDOW_MIN..=WINDOW_MAX).contains(&limit.window()), "{name}");
            assert!(Limit::is_name(&limit.name), "{}", limit.name);
        }
    }
    let of = |units, length| Shown::of(&limit(RateLimitMode::Strict.algorithm(units, length), WhenAway::Deny));
    assert_eq!((of(1, Micros::from_secs(90)), of(UNITS_MAX, Micros::from_secs(60))), (None, None));
}

/// Descriptors as the model has them: key and value as one text, and what is below.
#[derive(Clone, Debug)]
struct Listed {
    name: String,
    below: Vec<Listed>,
}

/// Names that overlap: as keys, values, wildcards and beginnings of each other.
fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[ab_]{1,3}", "[ab_]{0,2}\\*", "[ab]_[ab]{0,2}\\*?"].prop_filter("a key", |name| !name.is_empty())
}

fn listed() -> impl Strategy<Value = Vec<Listed>> {
    let leaf = name().prop_map(|name| Listed { name, below: Vec::new() });
    let nested = leaf.prop_recursive(2, 40, 6, |inner| {
        (name(), prop::collection::vec(inner, 0..6)).prop_map(|(name, below)| Listed { name, below })
    });
    prop::collection::vec(nested, 0..8)
}

/// Gives each a number as its limit, and leaves out those that are there already.
fn built(listed: &[Listed], next: &mut u64) -> (Level, Vec<Modelled>) {
    let mut level = Level::default();
    let mut model = Vec::new();
    let mut seen = BTreeSet::new();
    for Listed { name, below } in listed.iter().filter(|listed| seen.insert(listed.name.clone())) {
        *next += 1;
        let units = *next;
        let (below, modelled) = built(below, next);
        assert!(level.add(Descriptor { below, ..descriptor(name, "", units) }));
        model.push(Modelled { name: name.clone(), units, below: modelled });
    }
    (level, model)
}

#[derive(Clone, Debug)]
struct Modelled {
    name: String,
    units: u64,
    below: Vec<Modelled>,
}

/// What the documentation of envoyproxy/ratelimit says, one look at each descriptor after the other.
fn modelled(level: &[Modelled], entries: &[Entry<'_>]) -> Option<u64> {
    let (entry, rest) = entries.split_first()?;
    let whole = format!("{}_{}", entry.key, entry.value);
    let begins = |one: &&Modelled| one.name.strip_suffix('*').is_some_and(|start| whole.starts_with(start));
    let exact = level.iter().find(|one| one.name == whole);
    let chosen = exact.or_else(|| level.iter().find(begins)).or_else(|| level.iter().find(|one| one.name == entry.key));
    let chosen = chosen?;
    if rest.is_empty() { Some(chosen.units) } else { modelled(&chosen.below, rest) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// However names overlap, what is found by hashes is what looking at one after the other finds.
    #[test]
    fn requests_fall_on_what_the_model_says(
        listed in listed(),
        asked in prop::collection::vec(("[ab_*]{0,3}", "[ab_*]{0,3}"), 0..4),
    ) {
        let (descriptors, model) = built(&listed, &mut 0);
        let domain = Domain { name: "d".into(), descriptors, ..Domain::default() };
        let pairs: Vec<(&str, &str)> = asked.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        prop_assert_eq!(units(&domain, &pairs), modelled(&model, &entries(&pairs)));
    }

    /// Whatever a request holds, its counter is one that is read back.
    #[test]
    fn any_entries_have_a_counter(name in ".*", asked in prop::collection::vec((".*", ".*"), 0..20)) {
        let domain = Domain { name: name.into(), ..Domain::default() };
        let pairs: Vec<(&str, &str)> = asked.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let found = domain.overridden(&entries(&pairs), Shown { requests_per_unit: 1, unit: Unit::Year });
        prop_assert!(CounterKey::from_bytes(found.counters[0].1.as_bytes()).is_some());
        prop_assert!(domain.find(&entries(&pairs)).is_none());
    }
}
