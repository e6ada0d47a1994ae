//! Files of limits by descriptors: what they mean, and what is wrong with them.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::domain::ratelimit::{Domain, Entry, Found, RateLimitMode, Shown, Unit};

/// A folder with a configuration and these files in `limits/`.
fn folder(section: &str, files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("limits")).unwrap();
    fs::write(folder.path().join("t.yaml"), format!("envoy_ratelimit: {section}\n")).unwrap();
    for (name, text) in files {
        fs::write(folder.path().join("limits").join(name), text).unwrap();
    }
    folder
}

fn load_in(folder: &TempDir) -> Result<(Config, Vec<Problem>), Problems> {
    load(&folder.path().join("t.yaml"), &environment)
}

/// What loading says, the folder left out.
fn said_in(folder: &TempDir) -> String {
    let listed = match load_in(folder) {
        Ok((_, warnings)) => warnings,
        Err(problems) => problems.listed,
    };
    let lines: Vec<String> = listed.iter().map(Problem::to_string).collect();
    lines.join("\n").replace(&format!("{}/", folder.path().display()), "")
}

/// What is said of one file, without its name.
fn said_of(file: &str) -> String {
    let said = said_in(&folder(ALL, &[("a.yaml", file)]));
    said.lines().map(|line| line.replace("limits/a.yaml:", "") + "\n").collect::<String>().trim_end().to_owned()
}

const ALL: &str = "{ files: [limits/*.yaml] }";

/// The domain of one file, without a warning.
#[track_caller]
fn domain(section: &str, file: &str) -> Domain {
    let folder = folder(section, &[("a.yaml", file)]);
    let (config, warnings) = load_in(&folder).unwrap_or_else(|problems| panic!("{file}\n{problems}"));
    assert!(warnings.is_empty(), "{file}\n{warnings:?}");
    config.policy.rate_limits.domains.into_values().next().unwrap()
}

fn find(domain: &Domain, pairs: &[(&str, &str)]) -> Option<Found> {
    let entries: Vec<Entry<'_>> = pairs.iter().map(|&(key, value)| Entry { key, value }).collect();
    domain.find(&entries)
}

/// What a request is limited to.
fn shown(domain: &Domain, pairs: &[(&str, &str)]) -> Option<(u32, Unit)> {
    find(domain, pairs)?.limit.shown.map(|Shown { requests_per_unit, unit }| (requests_per_unit, unit))
}

fn counter(domain: &Domain, pairs: &[(&str, &str)]) -> String {
    String::from_utf8(find(domain, pairs).unwrap().counters[0].1.as_bytes().to_vec()).unwrap()
}

/// The metric of a request, with what values of it are told apart.
fn metric(domain: &Domain, pairs: &[(&str, &str)]) -> String {
    let found = find(domain, pairs).unwrap();
    found.metric.unwrap_or_else(|| found.limit.metric.clone()).into()
}

// The worked examples of envoyproxy/ratelimit's documentation, in the order that they have there.

#[test]
fn values_of_one_key_have_limits_of_their_own() {
    let tables = domain(
        ALL,
        "
domain: tables
descriptors:
  - { key: table, value: people, rate_limit: { unit: second, requests_per_unit: 500 } }
  - { key: table, value: standard, rate_limit: { unit: second, requests_per_unit: 400 } }
",
    );
    assert_eq!(shown(&tables, &[("table", "people")]), Some((500, Unit::Second)));
    assert_eq!(shown(&tables, &[("table", "standard")]), Some((400, Unit::Second)));
    assert_eq!(shown(&tables, &[("table", "others")]), None);
}

#[test]
fn a_key_without_a_value_limits_each_value_by_itself_and_nested_ones_both() {
    let messages = domain(
        ALL,
        "
domain: messages
descriptors:
  - key: kind
    value: advertising
    descriptors:
      - key: phone
        rate_limit: { unit: day, requests_per_unit: 5 }
  - key: phone
    rate_limit: { unit: day, requests_per_unit: 100 }
",
    );
    let nested = [("kind", "advertising"), ("phone", "2061111111")];
    assert_eq!(shown(&messages, &nested), Some((5, Unit::Day)));
    assert_ne!(counter(&messages, &nested), counter(&messages, &[nested[0], ("phone", "2062222222")]));
    assert_eq!(shown(&messages, &[nested[1]]), Some((100, Unit::Day)));
    assert_ne!(counter(&messages, &[nested[1]]), counter(&messages, &[("phone", "2062222222")]));
    assert_eq!(shown(&messages, &[nested[0]]), None);
}

#[test]
fn a_value_goes_before_the_key_alone_and_zero_refuses_everything() {
    let addresses = domain(
        ALL,
        "
domain: addresses
descriptors:
  - { key: address, rate_limit: { unit: second, requests_per_unit: 10 } }
  - { key: address, value: 50.0.0.5, rate_limit: { unit: second, requests_per_unit: 0 } }
",
    );
    assert_eq!(shown(&addresses, &[("address", "50.0.0.1")]), Some((10, Unit::Second)));
    assert_eq!(shown(&addresses, &[("address", "50.0.0.5")]), Some((0, Unit::Second)));
    assert_eq!(find(&addresses, &[("address", "50.0.0.5")]).unwrap().counters[0].0.units(), 0);
}

#[test]
fn a_request_meets_descriptors_of_its_own_depth_only() {
    let flat = domain(
        ALL,
        "{ domain: depth, descriptors: [{ key: a, value: b, rate_limit: { requests_per_unit: 300, unit: second } }] }",
    );
    let request = [("a", "b"), ("below", "c")];
    assert_eq!(shown(&flat, &request), None);
    let deep = domain(
        ALL,
        "
domain: depth
descriptors:
  - key: a
    value: b
    descriptors:
      - { key: below, rate_limit: { requests_per_unit: 300, unit: second } }
",
    );
    assert_eq!(shown(&deep, &request), Some((300, Unit::Second)));
}

#[test]
fn what_is_unlimited_is_found_and_has_no_counter() {
    let inside = domain(
        ALL,
        "
domain: inside
descriptors:
  - { key: directory, rate_limit: { unlimited: true } }
  - { key: cloud, rate_limit: { unit: minute, requests_per_unit: 100 } }
",
    );
    let found = find(&inside, &[("directory", "x")]).unwrap();
    assert!(found.counters.is_empty() && found.limit.limits.is_empty());
    assert_eq!(shown(&inside, &[("cloud", "x")]), Some((100, Unit::Minute)));
    assert_eq!(find(&inside, &[("neither", "x")]), None);
}

#[test]
fn a_shadow_is_that_of_one_descriptor() {
    let trial = domain(
        ALL,
        "
domain: trial
descriptors:
  - key: service
    descriptors:
      - { key: user, value: ann, rate_limit: { requests_per_unit: 10, unit: second }, shadow_mode: true }
      - { key: user, value: bob, rate_limit: { requests_per_unit: 20, unit: second }, quota_mode: yes }
",
    );
    let of = |user| find(&trial, &[("service", "mail"), ("user", user)]).unwrap().limit;
    assert_eq!((of("ann").shadow, of("ann").quota_mode, of("ann").shown.unwrap().requests_per_unit), (true, false, 10));
    assert_eq!((of("bob").shadow, of("bob").quota_mode, of("bob").shown.unwrap().requests_per_unit), (false, true, 20));
}

#[test]
fn a_limit_says_which_others_it_replaces() {
    let both = domain(
        ALL,
        "
domain: replacing
descriptors:
  - key: one
    value: a
    descriptors:
      - key: user
        value: ann
        rate_limit: { name: special, requests_per_unit: 5, unit: second }
  - key: two
    value: b
    descriptors:
      - key: user
        value: ann
        rate_limit: { replaces: [{ name: special }, { name: other }], requests_per_unit: 10, unit: second }
",
    );
    let named = find(&both, &[("one", "a"), ("user", "ann")]).unwrap().limit;
    let replacing = find(&both, &[("two", "b"), ("user", "ann")]).unwrap().limit;
    assert_eq!((named.name.as_deref(), named.replaces.len()), (Some("special"), 0));
    assert_eq!((replacing.name.as_deref(), &*replacing.replaces), (None, &["special".into(), "other".into()][..]));
}

#[test]
fn detailed_metrics_name_values_that_the_file_does_not() {
    let keys = domain(
        ALL,
        "
domain: detailed
descriptors:
  - { key: key1, detailed_metric: true, rate_limit: { unit: minute, requests_per_unit: 10 } }
  - { key: key1, value: value1, rate_limit: { unit: minute, requests_per_unit: 20 } }
",
    );
    assert_eq!(metric(&keys, &[("key1", "unspecified")]), "key1_unspecified");
    assert_eq!(metric(&keys, &[("key1", "value1")]), "key1_value1");
    assert_eq!(find(&keys, &[("key1", "value1")]).unwrap().metric, None);
}

#[test]
fn a_wildcard_limits_each_value_that_begins_so() {
    let paths = domain(
        ALL,
        "{ domain: wild, descriptors: [{ key: key1, value: value*, rate_limit: { unit: minute, requests_per_unit: 20 } }] }",
    );
    assert_eq!(shown(&paths, &[("key1", "value1")]), Some((20, Unit::Minute)));
    assert_eq!(shown(&paths, &[("key1", "vague")]), None);
    assert_ne!(counter(&paths, &[("key1", "value1")]), counter(&paths, &[("key1", "value2")]));
    assert_eq!(metric(&paths, &[("key1", "value1")]), "key1_value*");
}

#[test]
fn metrics_name_the_values_that_they_are_to() {
    let calls = domain(
        ALL,
        "
domain: values
descriptors:
  - key: route
    value_to_metric: true
    descriptors:
      - key: method
        value_to_metric: true
        descriptors:
          - { key: subject, rate_limit: { unit: minute, requests_per_unit: 60 } }
  - key: user
    value_to_metric: true
    descriptors:
      - key: action
        value: read*
        value_to_metric: true
        descriptors:
          - { key: thing, rate_limit: { unit: minute, requests_per_unit: 100 } }
",
    );
    let request = [("route", "api"), ("method", "GET"), ("subject", "123")];
    assert_eq!(metric(&calls, &request), "route_api.method_GET.subject");
    assert_eq!(&*find(&calls, &request).unwrap().limit.metric, "route.method.subject");
    let wild = [("user", "ann"), ("action", "readfile"), ("thing", "documents")];
    assert_eq!(metric(&calls, &wild), "user_ann.action_readfile.thing");
}

#[test]
fn values_of_a_wildcard_can_share_one_counter() {
    let files = domain(
        ALL,
        "
domain: sharing
descriptors:
  - { key: files, value: files/*, share_threshold: true, rate_limit: { unit: hour, requests_per_unit: 10 } }
  - { key: own, value: own/*, share_threshold: false, rate_limit: { unit: hour, requests_per_unit: 10 } }
  - key: route
    value: api/*
    share_threshold: true
    value_to_metric: true
    descriptors:
      - { key: method, rate_limit: { unit: minute, requests_per_unit: 60 } }
",
    );
    assert_eq!(counter(&files, &[("files", "files/a.pdf")]), counter(&files, &[("files", "files/b.csv")]));
    assert_ne!(counter(&files, &[("own", "own/a.pdf")]), counter(&files, &[("own", "own/b.csv")]));
    let get = [("route", "api/users"), ("method", "GET")];
    assert_eq!(counter(&files, &get), counter(&files, &[("route", "api/orders"), get[1]]));
    assert_ne!(counter(&files, &get), counter(&files, &[get[0], ("method", "PUT")]));
    assert_eq!(metric(&files, &get), "route_api/*.method");
}

// What envoyproxy/ratelimit refuses is refused, and told better.

#[test]
fn every_problem_of_a_file_is_told_with_place_and_key() {
    for (file, expected) in [
        (
            "domain: a
descriptors:
  - { key: k, rate_limit: { unit: foo, requests_per_unit: -5 } }
  - { key: '', rate_limit: { unit: day, requests_per_unit: 4294967296 } }
  - { value: v }
",
            "3:35: descriptors[0].rate_limit.unit: must be second or minute or hour or day or week or month or year; found \"foo\"
3:59: descriptors[0].rate_limit.requests_per_unit: must be a whole number from 0 to 4294967295, in digits only; found \"-5\"
4:12: descriptors[1].key: must be a key, not empty; found \"\"
4:60: descriptors[1].rate_limit.requests_per_unit: must be a whole number from 0 to 4294967295; found \"4294967296\"
5:5: descriptors[2]: must have `key`",
        ),
        (
            "domain: ''
descriptors:
  - key: k
    ratelimit: { unit: day }
  - key: l
    value: w
    rate_limit: { unit: day, requestsperunit: 5, requests_per_unit: 5 }
  - key: l_w
",
            "1:9: domain: must be the name of a domain, not empty; found \"\"
4:5: descriptors[0].ratelimit: is not a known key; did you mean `rate_limit`?",
        ),
        ("descriptors:\n", "1:1: must have `domain`"),
        ("domain: a\ndescriptors: [a]\n", "2:15: descriptors[0]: must be a mapping (`key: value`); found \"a\""),
        ("domain: a\ndescriptors: [{ key: 1.5 }]\n", "must be a string; YAML takes this for a number with a fraction"),
        ("domain: a\nname: 1.5\n", "2:7: name: must be a string; YAML takes this for a number with a fraction"),
        ("domain: a\nname: [b]\n", "2:7: name: must be a string; found a list"),
        ("0.25: a\n", "1:1: \"0.25\": is not a known key"),
        ("'''\n", "is not YAML"),
        ("", "is empty"),
        ("domain: a\n---\ndomain: b\n", "a second document starts here"),
        ("domain: &d a\ndescriptors: [{ key: *d }]\n", "anchors (`&name`) are refused"),
        (
            "{ domain: a, descriptors: [{ key: k, rate_limit: { unlimited: true, unit: day, rate: 1/s } }] }",
            "does not go with `unlimited: true`",
        ),
        (
            "{ domain: a, descriptors: [{ key: k, rate_limit: { name: n, replaces: [{ name: n }], unit: day, \
             requests_per_unit: 1 } }] }",
            "replaces[0].name: is the limit's own name",
        ),
        (
            "{ domain: a, descriptors: [{ key: k, rate_limit: { replaces: [{ name: }], unit: day, requests_per_unit: 1 } }] }",
            "replaces[0].name: must be the name of a limit, not empty",
        ),
        ("{ domain: a, descriptors: [{ key: k, value: v, share_threshold: true }] }", "needs a value that ends in `*`"),
        (
            "{ domain: a, descriptors: [{ key: k, rate_limit: { algorithm: concurrency } }] }",
            "nobody says when a request that was limited by its descriptors has ended",
        ),
        (
            "{ domain: a, descriptors: [{ key: k, rate_limit: { unit: day, window: 90s, requests_per_unit: 1 } }] }",
            "is there beside `window`",
        ),
        (
            "{ domain: a, descriptors: [{ key: k, rate_limit: { unit: minute, requests_per_unit: 1 }, \
             rate_limits: [{ window: 60s, requests_per_unit: 2 }] }] }",
            "rate_limits[0]: counts as another limit of this descriptor does",
        ),
        (
            "{ domain: a, descriptors: [{ key: k, rate_limit: { algorithm: token_bucket, rate: 1/s, burst: 5, unit: day } }] }",
            "unit: does not go with `algorithm: token_bucket`",
        ),
    ] {
        let said = said_of(file);
        assert!(said.contains(expected), "{file}\n{said}");
        assert!(load_in(&folder(ALL, &[("a.yaml", file)])).is_err(), "{file}");
    }
}

#[test]
fn what_envoyproxy_overlooks_is_a_warning() {
    for (file, expected) in [
        (
            "{ domain: a, descriptors: [{ key: k, rate_limit: { unit: day, requests_per_unit: 1, shadow_mode: true } }] }",
            "1:85: warning: descriptors[0].rate_limit.shadow_mode: has no effect here",
        ),
        (
            "{ domain: a, descriptors: [{ key: k, rate_limit: { unit: day } }] }",
            "1:50: warning: descriptors[0].rate_limit: has no `requests_per_unit` and refuses every request",
        ),
        (
            "{ domain: a, descriptors: [{ key: k, rate_limit: { unlimited: true, requests_per_unit: 1 } }] }",
            "has no effect beside `unlimited: true`",
        ),
    ] {
        let (_, warnings) = load_in(&folder(ALL, &[("a.yaml", file)])).unwrap();
        assert_eq!(warnings.len(), 1, "{file}");
        let said = said_of(file);
        assert!(said.contains(expected), "{file}\n{said}");
    }
}

#[test]
fn a_descriptor_that_is_there_already_is_refused_even_if_it_is_split_otherwise() {
    let said =
        said_of("domain: a\ndescriptors:\n  - { key: l, value: w }\n  - { key: l_w }\n  - { key: l, value: w }\n");
    assert_eq!(
        said,
        "4:5: descriptors[1]: is there already, in line 3: key and value make `l_w`; keep one of them
5:5: descriptors[2]: is there already, in line 3: key and value make `l_w`; keep one of them"
    );
}

#[test]
fn what_other_readers_take_for_text_and_flags_is_read_so() {
    let texts = domain(
        ALL,
        "
domain: 7
descriptors:
  - { key: 404, value: true, shadow_mode: On, rate_limit: { unit: MINUTE, requests_per_unit: 1, name: , replaces: } }
  - { key: literal, value: '${AUDIENCE}', rate_limit: { unit: Second, requests_per_unit: 4294967295 } }
  - { key: nothing, value: , rate_limit: , descriptors: }
",
    );
    assert_eq!(&*texts.name, "7");
    assert_eq!(shown(&texts, &[("404", "true")]), Some((1, Unit::Minute)));
    assert!(find(&texts, &[("404", "true")]).unwrap().limit.shadow);
    assert_eq!(shown(&texts, &[("literal", "${AUDIENCE}")]), Some((u32::MAX, Unit::Second)));
    assert_eq!(find(&texts, &[("nothing", "x")]), None);
}

#[test]
fn a_limit_can_have_any_window_another_algorithm_and_others_beside_it() {
    let file = "
domain: more
descriptors:
  - key: user
    rate_limit: { name: n, requests_per_unit: 5, window: 90s, when_away: local }
    rate_limits:
      - { algorithm: token_bucket, rate: 10/s, burst: 20 }
      - { algorithm: fixed_window, requests_per_unit: 100, unit: hour }
      - { requests_per_unit: 50, unit: minute }
  - { key: only, rate_limits: [{ requests_per_unit: 1, unit: second }] }
";
    let section = "{ files: [limits/a.yaml], when_away: allow }";
    let found = find(&domain(section, file), &[("user", "ann")]).unwrap();
    let limits: Vec<_> = found.counters.iter().map(|(limit, _)| (limit.algorithm, limit.when_away)).collect();
    let seconds = Micros::from_secs;
    assert_eq!(
        limits,
        [
            (Algorithm::SlidingWindow { units: 5, window: seconds(90) }, WhenAway::Local),
            (Algorithm::TokenBucket(Flow::new(10, seconds(1), 20).unwrap()), WhenAway::Allow),
            (Algorithm::FixedWindow(Grid { units: 100, length: seconds(3_600) }), WhenAway::Allow),
            (Algorithm::SlidingWindow { units: 50, window: seconds(60) }, WhenAway::Allow),
        ]
    );
    assert_eq!(found.limit.name.as_deref(), Some("n"));
    assert_eq!(found.limit.shown, Some(Shown { requests_per_unit: 100, unit: Unit::Hour }));
    let mut keys: Vec<_> = found.counters.iter().map(|(_, key)| key.clone()).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 4, "each has a counter of its own");
    assert_eq!(shown(&domain(section, file), &[("only", "x")]), Some((1, Unit::Second)));
}

#[test]
fn a_domain_is_paid_as_the_section_says() {
    let files = [
        ("a.yaml", "{ domain: a, descriptors: [{ key: k, rate_limit: { unit: week, requests_per_unit: 3 } }] }"),
        ("b.yaml", "{ domain: b, descriptors: [{ key: k, rate_limit: { unit: month, requests_per_unit: 3 } }] }"),
    ];
    let section = "{ files: [limits/*.yaml], when_away: local, shadow: true, domains: { b: { mode: compatible, when_away: deny } }, \
                   response_headers: true }";
    let (config, _) = load_in(&folder(section, &files)).unwrap();
    let limits = config.policy.rate_limits;
    let [a, b] = ["a", "b"].map(|name| &limits.domains[name]);
    assert!(limits.shadow && limits.headers);
    assert_eq!((a.mode, a.when_away), (RateLimitMode::Strict, WhenAway::Local));
    assert_eq!((b.mode, b.when_away), (RateLimitMode::Compatible, WhenAway::Deny));
    let of = |domain: &Domain| {
        let limit = find(domain, &[("k", "v")]).unwrap().counters[0].0.clone();
        (limit.algorithm, limit.when_away)
    };
    let days = |days: u64| Micros::from_secs(days * 86_400);
    assert_eq!(of(a), (Algorithm::SlidingWindow { units: 3, window: days(7) }, WhenAway::Local));
    assert_eq!(of(b), (Algorithm::FixedWindow(Grid { units: 3, length: days(30) }), WhenAway::Deny));
    let typo = section.replace("{ b:", "{ B:");
    assert!(
        said_in(&folder(&typo, &files)).contains("t.yaml:1:87: envoy_ratelimit.domains.B: is no domain of the `files`")
    );
}

#[test]
fn a_domain_of_two_files_is_refused_unless_they_are_to_be_merged() {
    let one = "{ domain: a, descriptors: [{ key: k, rate_limit: { unit: day, requests_per_unit: 1 } }] }";
    let two = "{ domain: a, descriptors: [{ key: l, rate_limit: { unit: day, requests_per_unit: 2 } }] }";
    let said = said_in(&folder(ALL, &[("1.yaml", one), ("2.yaml", two)]));
    assert!(said.starts_with("limits/2.yaml:1:11: domain: is the domain of limits/1.yaml, too"), "{said}");
    let merging = "{ files: [limits/*.yaml], merge_domains: true }";
    let (config, _) = load_in(&folder(merging, &[("1.yaml", one), ("2.yaml", two)])).unwrap();
    let merged = &config.policy.rate_limits.domains["a"];
    assert_eq!(["k", "l"].map(|key| shown(merged, &[(key, "v")]).unwrap().0), [1, 2]);
    let said = said_in(&folder(merging, &[("1.yaml", one), ("2.yaml", one)]));
    assert!(said.contains("limits/2.yaml:1:28: descriptors[0]: is there already, in another file"), "{said}");
}

#[test]
fn patterns_name_files_and_the_configuration_depends_on_their_folder() {
    let text = |name: &str| format!("domain: {name}");
    let [a, b, c] = ["a", "b", "c"].map(text);
    let files = [("b.yaml", &*b), ("a.yaml", &*a), (".hidden.yaml", "no: file"), ("c.yml", &*c), ("x.txt", "no: file")];
    let folder = folder("{ files: [limits/*.yaml, './limits/*.yml'] }", &files);
    fs::create_dir(folder.path().join("limits/folder.yaml")).unwrap();
    let (config, warnings) = load_in(&folder).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    let domains: Vec<&str> = config.policy.rate_limits.domains.keys().map(AsRef::as_ref).collect();
    assert_eq!(domains, ["a", "b", "c"]);
    let within = folder.path().join("limits");
    let expected: [PathBuf; 4] = [within.clone(), within.join("a.yaml"), within.join("b.yaml"), within.join("c.yml")];
    assert_eq!(config.files, expected);
}

#[test]
fn a_file_that_is_not_there_is_told_by_its_name() {
    let folder = folder(
        "{ files: [limits/*.yaml, limits/gone.yaml, none/*.yaml, 'limits/*.none'] }",
        &[("a.yaml", "domain: a")],
    );
    std::os::unix::fs::symlink("nowhere", folder.path().join("limits/link.yaml")).unwrap();
    let said = said_in(&folder);
    for expected in [
        "envoy_ratelimit.files[2]: the folder none cannot be read (No such file or directory",
        "envoy_ratelimit.files[3]: names no file",
        "limits/gone.yaml: cannot be read (No such file or directory",
        "limits/link.yaml: cannot be read (No such file or directory",
    ] {
        assert!(said.contains(expected), "{expected}\n{said}");
    }
}

#[test]
fn names_of_limits_by_descriptors_are_taken() {
    let said = said("limits: { ratelimit.fixed.60s: { units: 1, window: 1m } }\nrules: []");
    assert!(said.contains("begins with `ratelimit.`"), "{said}");
}
