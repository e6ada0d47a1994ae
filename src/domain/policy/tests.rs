//! Which rule a question meets.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;

use super::*;
use crate::domain::guard::Origin;
use crate::domain::limit::{Algorithm, Occasion, WhenAway};
use crate::domain::path::Target;
use crate::domain::pattern::tests::pattern;
use crate::domain::question::Headers;
use crate::domain::time::Micros;

pub(super) fn rule(name: &str, methods: &[&str], path: Option<&str>) -> Rule {
    Rule {
        name: name.to_owned(),
        matches: Match {
            methods: methods.iter().map(|&method| method.to_owned()).collect(),
            path: path.map(|path| PathPattern::parse(path).unwrap()),
            ..Match::default()
        },
        leniency: Leniency::default(),
        guard: None,
        early: None,
        demand: Demand::Anyone,
        limits: Vec::new(),
    }
}

/// The policy that the cases below are about: public, admin, deleting orders, orders.
fn policy() -> Policy {
    let rules = vec![
        rule("R1", &[], Some("/api/public/**")),
        rule("R2", &[], Some("/api/admin/**")),
        rule("R3", &["DELETE"], Some("/api/orders/{id}")),
        rule("R4", &[], Some("/api/orders/**")),
        rule("R5", &["CONNECT"], None),
    ];
    Policy { version: 1, rules: rules.into(), ..Policy::default() }
}

/// Whether the rule is for a request, as far as method, host and path say.
fn covers(matches: &Match, method: Method<'_>, host: Option<&Host<'_>>, target: &Target<'_>) -> bool {
    matches.covers_by(method, host, |pattern| target.path().is_some_and(|path| pattern.covers(path)))
}

/// A question about a call with these headers.
pub(super) fn question<'a>(
    method: &'a str,
    host: Option<&'a str>,
    path: &'a str,
    headers: &[(&'a str, Option<&'a str>)],
) -> Result<Question<'a>, Unclear> {
    let method = Method::parse(method)?;
    let host = host.map(Host::parse).transpose()?;
    let target = Target::parse(path, method, host.as_ref())?;
    Ok(Question { host, headers: Headers::new(headers.to_vec()), ..Question::of(method, target) })
}

/// The name of the rule that a question meets; `preflight` before it where it goes on as one.
fn met(policy: &Policy, question: &Question<'_>) -> String {
    let found = policy.find(question);
    let indexed = Policy { rules: policy.rules.indexed(), ..policy.clone() };
    assert_eq!(indexed.find(question), found, "by the index: {question:?}");
    match found {
        Ok(Met::Nothing) => "none".to_owned(),
        Ok(Met::Rule(rule)) => policy.rules[rule].name.clone(),
        Ok(Met::Preflight(rule)) => format!("preflight {}", policy.rules[rule].name),
        Err(Unmatchable::Path(why)) => format!("{why:?}"),
        Err(Unmatchable::Header { name, rule }) => format!("{name} of {rule}"),
    }
}

fn matched(method: &str, path: &str) -> Result<String, Unclear> {
    Ok(met(&policy(), &question(method, None, path, &[])?))
}

#[test]
fn the_first_rule_that_matches_decides() {
    for (method, path, rule) in [
        ("GET", "/api/public/x", "R1"),
        ("GET", "/api/public", "R1"),
        ("GET", "/api/public?/../admin", "R1"),
        ("GET", "/api/admin?x=/api/public/", "R2"),
        ("GET", "/api/%61dmin/x", "R2"),
        ("GET", "/api/admin", "R2"),
        ("GET", "/api/admin/", "R2"),
        ("HEAD", "/api/admin/x", "R2"),
        ("GET", "/API/admin/x", "none"),
        ("GET", "/api/Admin/x", "none"),
        ("GET", "/api/adminx", "none"),
        ("GET", "/api/admin.json", "none"),
        ("GET", "/api/admin~", "none"),
        ("GET", "/api/admin%23x", "none"),
        ("GET", "/api/admin%20", "none"),
        ("GET", "/api/publicx/secret", "none"),
        ("GET", "/api/adm%C4%B1n", "none"),
        ("GET", "/api%EF%BC%8Fadmin", "none"),
        ("DELETE", "/api/orders/1", "R3"),
        ("DELETE", "/api/orders/1/", "R3"),
        ("DELETE", "/api/orders/", "R4"),
        ("DELETE", "/api/orders/1/lines", "R4"),
        ("POST", "/api/orders/1", "R4"),
        ("FOO", "/api/orders/1", "R4"),
        ("GET", "/api/orders/*", "R4"),
        ("GET", "/api/orders/{id}", "R4"),
        ("OPTIONS", "*", "none"),
        ("CONNECT", "", "R5"),
        ("GET", "/", "none"),
    ] {
        assert_eq!(matched(method, path).as_deref(), Ok(rule), "{method} {path}");
    }
}

#[test]
fn get_covers_head_and_nothing_else_does() {
    let pattern = rule("r", &["GET"], None);
    let target = Target::Asterisk;
    for (method, covered) in [("GET", true), ("HEAD", true), ("POST", false), ("OPTIONS", false)] {
        assert_eq!(covers(&pattern.matches, Method::parse(method).unwrap(), None, &target), covered, "{method}");
    }
}

fn values() -> impl Strategy<Value = Vec<(String, ValuePattern)>> {
    let one_of = prop::sample::subsequence(vec!["1".to_owned(), "2".to_owned()], 1..=2).prop_map(ValuePattern::OneOf);
    let pattern = prop_oneof![Just(ValuePattern::Present), one_of];
    prop::option::of(pattern).prop_map(|pattern| pattern.into_iter().map(|pattern| ("x".to_owned(), pattern)).collect())
}

pub(super) fn matching() -> impl Strategy<Value = Match> {
    let methods = prop::sample::subsequence(vec!["GET".to_owned(), "HEAD".to_owned(), "PUT".to_owned()], 0..3);
    let host = prop::option::of(prop::sample::select(vec!["b.c", "a.b.c", "*.c", "*.b.c"]));
    let attributes = (values(), values()).prop_map(|(headers, resource)| {
        let attributes = Attributes { headers, resource };
        (attributes != Attributes::default()).then(|| Box::new(attributes))
    });
    (methods, host, prop::option::of(pattern()), attributes).prop_map(|(methods, host, path, attributes)| {
        let host = host.map(|host| HostPattern::parse(host).unwrap());
        Match { methods, host, path, attributes }
    })
}

/// Every request that the patterns above tell apart.
fn requests() -> Vec<(&'static str, &'static str, &'static str)> {
    let paths = ["/", "/a", "/b", "/c", "/a/a", "/a/b", "/c/a", "/a/a/a", "/b/a/c", "/c/c/c", "/a/b/c/a", "*"];
    let hosts = ["c", "b.c", "a.b.c", "x.b.c", "x.c"];
    let methods = ["GET", "HEAD", "PUT", "OPTIONS"];
    let pairs = methods.iter().flat_map(|&method| hosts.iter().map(move |&host| (method, host)));
    pairs.flat_map(|(method, host)| paths.iter().map(move |&path| (method, host, path))).collect()
}

proptest! {
    #[test]
    fn what_includes_another_covers_all_that_the_other_covers(one in matching(), other in matching()) {
        prop_assert!(one.includes(&one));
        let values = [None, Some("1"), Some("2"), Some("3")];
        let covered = |pattern: &Match, (method, host, path): (&str, &str, &str)| {
            let Ok(mut question) = question(method, Some(host), path, &[]) else { return [false; 16] };
            let plain = covers(pattern, question.method, question.host.as_ref(), &question.target);
            std::array::from_fn(|index| {
                question.headers = Headers::new(values[index % 4].map(|value| ("x", Some(value))).into_iter().collect());
                question.resource = values[index / 4].map(|value| ("x", value)).into_iter().collect();
                plain && pattern.attributes.as_ref().is_none_or(|attributes| attributes.cover(&question).unwrap())
            })
        };
        let covers_all = |request| {
            let (one, other) = (covered(&one, request), covered(&other, request));
            one.into_iter().zip(other).all(|(one, other)| one || !other)
        };
        let all = requests().into_iter().all(covers_all);
        prop_assert!(all || !one.includes(&other), "{one:?} {other:?}");
    }
}

/// A rule that reads paths so.
fn lenient(name: &str, methods: &[&str], path: Option<&str>, encoded_slash: bool, path_parameters: bool) -> Rule {
    Rule { leniency: Leniency { encoded_slash, path_parameters }, ..rule(name, methods, path) }
}

fn of(rules: Vec<Rule>) -> Policy {
    Policy { version: 1, rules: rules.into(), ..Policy::default() }
}

#[test]
fn the_first_rule_that_any_reading_leads_to_decides_and_must_have_opted_in() {
    let policy = of(vec![
        rule("public", &[], Some("/api/public/**")),
        lenient("admin", &[], Some("/api/admin/**"), false, true),
        lenient("file", &[], Some("/files/{name}"), true, false),
        rule("strict", &[], Some("/strict/**")),
        lenient("rest", &[], None, true, true),
    ]);
    for (path, expected) in [
        ("/api/admin;x=y/users", "admin"),
        ("/api;a/admin/users", "admin"),
        ("/api/admin/x;y%20z", "admin"),
        // It has not opted in to this.
        ("/api/admin/a%2Fb", "EncodedSlash"),
        ("/api/admin;x/a%2Fb", "Parameters"),
        // A server that strips or decodes would be at a rule that has not opted in at all.
        ("/api/public;x/y", "Parameters"),
        ("/api;x/public", "Parameters"),
        ("/api%2Fpublic", "EncodedSlash"),
        ("/api/%2Fpublic", "EncodedSlash"),
        ("/api%2F%2Fpublic;x/y", "Parameters"),
        ("/strict/a;b", "Parameters"),
        // A server that decodes would be at this rule, which says that none does.
        ("/api%2Fadmin/x", "EncodedSlash"),
        ("/files%2Fa", "EncodedSlash"),
        ("/files/a%2Fb", "file"),
        ("/files/%2F", "file"),
        ("/files/a%2Fb;c", "Parameters"),
        ("/elsewhere/a%2Fb;c/d", "rest"),
        ("/files/a/b%2Fc", "rest"),
        // Nobody can opt in to these rule by rule.
        ("/elsewhere//a", "EmptySegment"),
        ("/elsewhere/a\\b", "Backslash"),
        ("/elsewhere/100%25", "EncodedPercent"),
        ("/elsewhere//a;b", "EmptySegment"),
    ] {
        assert_eq!(met(&policy, &question("GET", None, path, &[]).unwrap()), expected, "{path}");
    }
    let none = of(vec![rule("public", &[], Some("/api/public/**"))]);
    for path in ["/elsewhere/a%2Fb", "/elsewhere;x"] {
        assert!(matches!(none.find(&question("GET", None, path, &[]).unwrap()), Err(Unmatchable::Path(_))), "{path}");
    }
}

#[test]
fn what_a_trusted_gateway_left_is_data() {
    let rules = vec![
        rule("admin", &[], Some("/api/admin/**")),
        rule("one", &[], Some("/one/{id}")),
        lenient("stripped", &[], Some("/stripped/{id}"), false, true),
        rule("rest", &[], Some("/api/**")),
    ];
    let paths = Paths { trusts_gateway: true, ..Paths::default() };
    let policy = Policy { paths, ..of(rules) };
    for (path, expected) in [
        ("/api//admin/x", "rest"),
        ("/api%2Fadmin/x", "none"),
        ("/api/x%2Fadmin", "rest"),
        ("/api\\admin", "none"),
        ("/api/%2561dmin", "rest"),
        ("/one/a%2Fb", "one"),
        ("/one//", "none"),
        ("/one/a;x", "Parameters"),
        ("/stripped/a%2Fb;x", "stripped"),
    ] {
        assert_eq!(met(&policy, &question("GET", None, path, &[]).unwrap()), expected, "{path}");
    }
}

#[test]
fn the_case_of_letters_does_not_matter_on_hosts_that_say_so() {
    let hosts = ["legacy.example", "*.legacy.example"].map(|host| HostPattern::parse(host).unwrap());
    let paths = Paths { case_insensitive_hosts: hosts.to_vec(), ..Paths::default() };
    let policy = Policy { paths, ..policy() };
    for (host, path, expected) in [
        (Some("legacy.example"), "/API/Admin/x", "R2"),
        (Some("a.LEGACY.example:81"), "/api/ADMIN", "R2"),
        (Some("legacy.example"), "/api/adm%C4%B0n", "none"),
        (Some("other.example"), "/API/Admin/x", "none"),
        (None, "/API/Admin/x", "none"),
    ] {
        assert_eq!(met(&policy, &question("GET", host, path, &[]).unwrap()), expected, "{host:?} {path}");
    }
}

#[test]
fn one_path_has_one_counter_however_it_is_spelled() {
    let limit = |by: &str| Limit {
        name: "l".to_owned(),
        algorithm: Algorithm::SlidingWindow { units: 1, window: Micros::from_secs(1) },
        by: vec![Attribute::from_name(by).unwrap()],
        when_away: WhenAway::Deny,
        charge: Occasion::AfterAuth,
    };
    let rule = lenient("r", &[], Some("/files/{name}"), true, true);
    let paths =
        Paths { case_insensitive_hosts: vec![HostPattern::parse("legacy.example").unwrap()], ..Paths::default() };
    let key = |by: &str, host: &str, path: &str| {
        rule.counter(&limit(by), &question("GET", Some(host), path, &[]).unwrap(), None, &paths).unwrap()
    };
    let expected = |value: &str| {
        let mut key = CounterKey::new("l");
        key.push(value);
        key
    };
    for path in ["/files/a", "/files/a;v=1", "/files;x/a;v=2/"] {
        assert_eq!(key("path.name", "a.example", path), expected("a"), "{path}");
        assert_eq!(key("request.path", "a.example", path), expected("/files/a"), "{path}");
    }
    assert_eq!(key("path.name", "a.example", "/files/a%2fb"), expected("a/b"));
    assert_eq!(key("request.path", "a.example", "/files/a%2fb"), expected("/files/a%2Fb"));
    for path in ["/files/Ab", "/FILES/aB"] {
        assert_eq!(key("path.name", "legacy.example", path), expected("ab"), "{path}");
        assert_eq!(key("request.path", "legacy.example", path), expected("/files/ab"), "{path}");
    }
    assert_eq!(key("path.name", "a.example", "/files/Ab"), expected("Ab"));
}

#[test]
fn a_rule_is_for_calls_with_its_headers_and_attributes() {
    let named = |name: &str, pattern: ValuePattern| (name.to_owned(), pattern);
    let one_of = |values: &[&str]| ValuePattern::OneOf(values.iter().map(|&value| value.to_owned()).collect());
    let with = |rule: Rule, headers, resource| {
        let attributes = Some(Box::new(Attributes { headers, resource }));
        Rule { matches: Match { attributes, ..rule.matches }, ..rule }
    };
    let policy = of(vec![
        with(rule("acme", &["GET"], Some("/a")), vec![named("x-tenant", one_of(&["acme", "acme-test"]))], Vec::new()),
        with(rule("any", &[], Some("/a")), vec![named("x-tenant", ValuePattern::Present)], Vec::new()),
        with(rule("internal", &[], None), Vec::new(), vec![named("route", one_of(&["internal"]))]),
        with(
            rule("both", &[], None),
            vec![named("x-tenant", ValuePattern::Present), named("x-other", one_of(&["1"]))],
            vec![named("route", ValuePattern::Present)],
        ),
        rule("rest", &[], Some("/a")),
    ]);
    let check = |method: &str, path: &str, headers: &[(&str, Option<&str>)], route: Option<&str>, expected: &str| {
        let mut question = question(method, None, path, headers).unwrap();
        question.resource = route.map(|route| ("route", route)).into_iter().collect();
        assert_eq!(met(&policy, &question), expected, "{method} {path} {headers:?} {route:?}");
    };
    check("GET", "/a", &[("x-tenant", Some("acme"))], None, "acme");
    check("GET", "/a", &[("x-tenant", Some("acme-test"))], None, "acme");
    // Several values are one, never the first alone.
    check("GET", "/a", &[("x-tenant", Some("acme,other"))], None, "any");
    check("GET", "/a", &[("x-tenant", Some("Acme"))], None, "any");
    check("GET", "/a", &[("x-tenant", Some(""))], None, "any");
    check("GET", "/a", &[], None, "rest");
    check("GET", "/a", &[("x-other", Some("acme"))], None, "rest");
    check("GET", "/b", &[], Some("internal"), "internal");
    check("GET", "/b", &[], Some("external"), "none");
    check("GET", "/b", &[("x-tenant", Some("a")), ("x-other", Some("1"))], Some("external"), "both");
    check("GET", "/b", &[("x-tenant", Some("a")), ("x-other", Some("2"))], Some("external"), "none");
    // What nobody can read is not "no match", unless the rule is not for the call anyway.
    check("GET", "/a", &[("x-tenant", None)], None, "x-tenant of acme");
    check("PUT", "/a", &[("x-tenant", None)], None, "x-tenant of any");
    check("GET", "/b", &[("x-tenant", None)], None, "none");
    check("GET", "/b", &[("x-tenant", None)], Some("internal"), "internal");
    check("GET", "/b", &[("x-tenant", None), ("x-other", Some("1"))], Some("external"), "x-tenant of both");
    check("GET", "/b", &[("x-tenant", None), ("x-other", Some("2"))], Some("external"), "none");
    check("GET", "/a", &[("x-unused", None)], None, "rest");
}

#[test]
fn a_preflight_goes_on_by_the_rule_of_the_call_that_it_asks_for() {
    let page = "https://app.example";
    let paged = |rule: Rule| {
        let guard = Guard { origins: vec![Origin::parse(page).unwrap()], ..Guard::default() };
        Rule { guard: Some(Box::new(guard)), ..rule }
    };
    let policy = of(vec![
        rule("own before", &["OPTIONS"], Some("/before/**")),
        paged(rule("paged before", &["POST"], Some("/before/**"))),
        paged(rule("orders", &["POST"], Some("/orders/**"))),
        rule("own after", &["OPTIONS"], Some("/orders/**")),
        paged(rule("all", &[], Some("/all/**"))),
        rule("closed", &["POST"], Some("/closed/**")),
        paged(rule("closed later", &[], Some("/closed/**"))),
        paged(lenient("files", &["GET"], Some("/files/{name}"), true, false)),
    ]);
    let told = |method: &str, path: &str, headers: &[(&str, Option<&str>)]| {
        met(&policy, &question(method, None, path, headers).unwrap())
    };
    let asks = |path: &str, origin: &str, method: &str| {
        told("OPTIONS", path, &[("origin", Some(origin)), ("access-control-request-method", Some(method))])
    };
    assert_eq!(asks("/orders/1", page, "POST"), "preflight orders");
    assert_eq!(asks("/all/1", page, "DELETE"), "preflight all");
    assert_eq!(asks("/files/a%2Fb", page, "GET"), "preflight files");
    // An origin that is not named, or a method that the rule is not for: a call like any other.
    assert_eq!(asks("/orders/1", "https://evil.example", "POST"), "own after");
    assert_eq!(asks("/orders/1", page, "DELETE"), "own after");
    assert_eq!(asks("/orders/1", page, "post"), "own after");
    assert_eq!(asks("/all/1", "https://evil.example", "DELETE"), "all");
    assert_eq!(asks("/files/a%2Fb", "https://evil.example", "GET"), "EncodedSlash");
    // A rule of one's own that comes before.
    assert_eq!(asks("/before/1", page, "POST"), "own before");
    // The call itself would meet a rule without origins; a later one does not let its preflight through.
    assert_eq!(asks("/closed/1", page, "POST"), "closed later");
    assert_eq!(asks("/nowhere", page, "POST"), "none");
    // No preflights.
    assert_eq!(told("OPTIONS", "/all/1", &[("origin", Some(page))]), "all");
    assert_eq!(told("OPTIONS", "/all/1", &[("access-control-request-method", Some("GET"))]), "all");
    assert_eq!(told("OPTIONS", "/all/1", &[("origin", None), ("access-control-request-method", Some("GET"))]), "all");
    assert_eq!(
        told("POST", "/orders/1", &[("origin", Some(page)), ("access-control-request-method", Some("GET"))]),
        "orders"
    );
    // No browser writes this one in a preflight, and some servers would do what it says.
    for name in ["x-http-method-override", "x-method-override", "x-http-method"] {
        let origin = [("origin", Some(page)), ("access-control-request-method", Some("POST"))];
        for value in [Some("DELETE"), Some(""), None] {
            assert_eq!(told("OPTIONS", "/orders/1", &[origin[0], origin[1], (name, value)]), "own after");
        }
    }
}

/// A path in the ways in which servers read it, made of its text and not of what was read of it: with and without what is
/// behind `;`, and with `%2F` as a separator or as data. Data that no pattern has stands for what is kept.
fn readings(text: &str) -> Vec<String> {
    let stripped = |text: &str| {
        let names = text.split('/').map(|segment| segment.split(';').next().unwrap_or_default());
        names.collect::<Vec<_>>().join("/")
    };
    let mut readings = Vec::new();
    for text in [text.replace(';', "_"), stripped(text)] {
        let separate = text.replace("%2F", "/").replace("%2f", "/");
        let merged: Vec<&str> = separate.split('/').filter(|segment| !segment.is_empty()).collect();
        readings.push(text.replace("%2F", "_").replace("%2f", "_"));
        readings.push(format!("/{}", merged.join("/")));
        readings.push(separate);
    }
    readings
}

/// Segments that patterns meet, some with what servers read differently.
fn doubtful() -> impl Strategy<Value = String> {
    "(/(a|b|a;b|b;|a%2Fb|%2fa|a%2F)){1,4}/?"
}

proptest! {
    /// The promise of `path::doubt`.
    #[test]
    fn no_reading_leads_to_a_rule_before_the_one_that_takes_the_path(
        patterns in prop::collection::vec((pattern(), any::<bool>(), any::<bool>()), 1..5),
        text in doubtful(),
    ) {
        let rules = patterns.iter().map(|(pattern, slash, parameters)| lenient("r", &[], Some(pattern.as_str()), *slash, *parameters));
        let policy = of(rules.collect());
        let Ok(question) = question("GET", None, &text, &[]) else { return Ok(()) };
        let first = |text: &str| {
            let path = Path::parse(text).ok()?;
            policy.rules.iter().position(|rule| rule.matches.path.as_ref().unwrap().covers(&path))
        };
        match policy.find(&question) {
            Ok(Met::Rule(rule)) => {
                for reading in readings(&text) {
                    prop_assert!(first(&reading).is_none_or(|other| other >= rule), "{text} as {reading}: {policy:?}");
                }
                let Leniency { encoded_slash, path_parameters } = policy.rules[rule].leniency;
                prop_assert!(encoded_slash || !text.to_ascii_lowercase().contains("%2f"), "{text}: {policy:?}");
                prop_assert!(path_parameters || !text.contains(';'), "{text}: {policy:?}");
            }
            // Only what has one reading surely meets nothing.
            Ok(Met::Nothing) => prop_assert!(Path::parse(&text).is_ok()),
            Ok(Met::Preflight(_)) => prop_assert!(false),
            Err(_) => prop_assert!(Path::parse(&text).is_err()),
        }
    }

    /// Whoever opts in to nothing gets the answers of the strict reading.
    #[test]
    fn without_opt_ins_only_the_strict_reading_meets_a_rule(
        patterns in prop::collection::vec(pattern(), 1..5),
        text in "/(a|b|/|;|%2F|%2f|%25|\\\\|%5C|\\.|%2e|#| |%61|\\?){0,8}",
    ) {
        let policy = of(patterns.iter().map(|pattern| rule(pattern.as_str(), &[], Some(pattern.as_str()))).collect());
        let strict = Path::parse(&text).ok().map(|path| {
            let rule = policy.rules.iter().position(|rule| rule.matches.path.as_ref().unwrap().covers(&path));
            rule.map_or(Met::Nothing, Met::Rule)
        });
        let read = question("GET", None, &text, &[]).ok().and_then(|question| policy.find(&question).ok());
        prop_assert_eq!(read, strict);
    }
}
