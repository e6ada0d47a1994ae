//! Reading a path, finding the rule, what it demands, naming the counter.

use divan::{Bencher, black_box};
use tollgate::domain::demand::Call;
use tollgate::domain::expression::{Expression, STEPS_MAX, VALUE_BYTES_MAX};
use tollgate::domain::identity::Identity;
use tollgate::domain::limit::{Algorithm, Attribute, Limit, Occasion, WhenAway};
use tollgate::domain::network::{Network, Networks};
use tollgate::domain::path::{Host, Leniency, Method, Target};
use tollgate::domain::policy::{Caller, Demand, HostPattern, Match, Met, PathPattern, Paths, Policy, Rule, Rules};
use tollgate::domain::question::{Headers, Question};
use tollgate::domain::time::Micros;

use crate::house;

#[divan::bench(args = ["/orders/1", "/api/v1/customers/4711/orders/2026-0815/items/3?expand=price&lang=de"])]
fn path_parse(bencher: Bencher<'_, '_>, path: &str) {
    let method = Method::parse("GET").unwrap();
    let host = Host::parse("shop.example.com").unwrap();
    bencher.bench(|| Target::parse(black_box(path), black_box(method), Some(&host)));
}

/// The last rule matches. Of few rules all are looked at, of many the index names one.
#[divan::bench(args = [1, 4, 5, 10, 100, 1_000, 10_000])]
fn rule_match_last_of(bencher: Bencher<'_, '_>, rules: usize) {
    let policy = last_of(rules);
    let question = house::question("");
    bencher.bench(|| policy.find(black_box(&question)));
}

/// The same where a rule's first segment is anything: each tenant has each service.
#[divan::bench(args = [10, 10_000])]
fn rule_match_last_below_wildcards(bencher: Bencher<'_, '_>, rules: usize) {
    let policy = policy((1..rules).map(|number| rule(&format!("/{{tenant}}/service-{number}/**"))));
    let question = house::question("");
    bencher.bench(|| policy.find(black_box(&question)));
}

/// The same where each rule is for another host.
#[divan::bench(args = [10, 10_000])]
fn rule_match_last_of_hosts(bencher: Bencher<'_, '_>, rules: usize) {
    let policy = policy((1..rules).map(|number| {
        let rule = rule("/**");
        let host = Some(HostPattern::parse(&format!("*.h{number}.example.com")).unwrap());
        Rule { matches: Match { host, ..rule.matches }, ..rule }
    }));
    let question = house::question("");
    bencher.bench(|| policy.find(black_box(&question)));
}

/// Rules that lead an index astray: each segment is a certain one or any, in all combinations, and the call's path goes with
/// each of them up to its last segment.
#[divan::bench(args = [4, 8, 12])]
fn rule_match_led_astray(bencher: Bencher<'_, '_>, segments: u32) {
    let policy = policy((0..1_u32 << segments).map(|bits| {
        let pattern: String = (0..segments).map(|at| if bits >> at & 1 == 0 { "/*" } else { "/a" }).collect();
        rule(&format!("{pattern}/b"))
    }));
    let path = format!("{}/c", "/a".repeat(segments as usize));
    let method = Method::parse("GET").unwrap();
    let question = Question::of(method, Target::parse(&path, method, None).unwrap());
    assert_eq!(policy.find(&question), Ok(Met::Nothing));
    bencher.bench(|| policy.find(black_box(&question)));
}

/// Makes the index of rules, and says by `max alloc` what it takes up beside them.
#[divan::bench(args = [10, 10_000], sample_size = 1)]
fn rules_indexed(bencher: Bencher<'_, '_>, rules: usize) {
    let rules: Vec<Rule> = (0..rules).map(|number| rule(&format!("/service-{number}/items/{{id}}"))).collect();
    bencher.with_inputs(|| rules.clone()).bench_values(Rules::from);
}

/// A policy with these rules, and one that is for the question of [`house`] behind them.
fn policy(rules: impl Iterator<Item = Rule>) -> Policy {
    Policy { version: 1, rules: rules.chain([rule("/orders/{id}")]).collect(), ..Policy::default() }
}

/// Whether an address is in one of so many networks.
#[divan::bench(args = [1, 10, 10_000])]
fn address_among_networks(bencher: Bencher<'_, '_>, networks: u32) {
    let network = |number: u32| Network::parse(&format!("10.{}.{}.0/24", number >> 8, number & 0xff)).unwrap();
    let networks: Networks = (0..networks).map(network).collect();
    let last = networks.last().unwrap().to_string().replace(".0/24", ".7").parse().unwrap();
    bencher.bench(|| networks.cover(black_box(last)));
}

/// So many rules, of which the last one is met.
pub(crate) fn last_of(rules: usize) -> Policy {
    policy((1..rules).map(|number| rule(&format!("/service-{number}/items/{{id}}"))))
}

#[divan::bench]
fn counter_key(bencher: Bencher<'_, '_>) {
    let limit = Limit {
        name: "per-subject".to_owned(),
        algorithm: Algorithm::SlidingWindow { units: 1_000, window: Micros::from_secs(60) },
        by: vec![Attribute::Subject],
        when_away: WhenAway::default(),
        charge: Occasion::AfterAuth,
    };
    let rule = rule("/orders/{id}");
    let question = house::question("");
    let identity = identity();
    let paths = Paths::default();
    bencher.bench(|| rule.counter(black_box(&limit), black_box(&question), Some(&identity), &paths));
}

/// What a rule demands of a caller who is remembered: without an expression, and with one.
#[divan::bench(args = EXPRESSIONS)]
fn demand(bencher: Bencher<'_, '_>, expression: &str) {
    with_demand(expression, |demand, identity, call| {
        bencher.bench(|| demand.admits(Some(black_box(identity)), black_box(call)));
    });
}

/// Has `take` what demands that, and a caller whose call meets it.
pub(crate) fn with_demand(expression: &str, take: impl FnOnce(&Demand, &Identity, Call<'_>)) {
    let when = (!expression.is_empty()).then(|| Box::new(Expression::compile(expression, &["id"]).unwrap()));
    let demand = Demand::Caller(Caller { scopes: vec!["orders:read".to_owned()], when, ..Caller::default() });
    let resource = vec![("owner", "4f9c2f6e-8a5b-4c1d-9e3f-7b2a6d8c0e14")];
    let question = Question { resource, ..house::question("") };
    let scopes = Box::new(["orders:read".into(), "orders:write".into()]);
    let roles = Box::new(["USER".into(), "EDITOR".into(), "OWNER".into()]);
    let identity = Identity { scopes, roles, ..identity() };
    let pattern = PathPattern::parse("/orders/{id}").unwrap();
    let call = Call { question: &question, pattern: Some(&pattern), now: Micros::from_secs(1_800_000_000) };
    assert_eq!(demand.admits(Some(&identity), call), Ok(()));
    take(&demand, &identity, call);
}

/// A condition as one writes it.
pub(crate) const OWNER_OR_ADMIN: &str = r#""ADMIN" in identity.roles || resource.owner == identity.subject"#;

const EXPRESSIONS: [&str; 6] = [
    "",
    "true",
    "resource.owner == identity.subject",
    OWNER_OR_ADMIN,
    r#"identity.scopes.exists(s, s.startsWith("orders:"))"#,
    r#"request.path.matches("^/orders/[0-9]+$")"#,
];

/// The most steps that an expression may take, nearly, of the kind that costs the most for each: at every byte of the
/// longest text that is looked at, all of a large pattern is still possible.
#[divan::bench(sample_size = 1)]
fn demand_at_its_worst(bencher: Bencher<'_, '_>) {
    let expression = Expression::compile(r#"request.headers["x"].matches("[a-d][a-h]{210}[^a-h]")"#, &[]).unwrap();
    let mut seed = 1_u32;
    let text: String = (0..VALUE_BYTES_MAX)
        .map(|_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            char::from(b"abcdefgh"[seed as usize >> 29])
        })
        .collect();
    let question = Question { headers: Headers::new(vec![("x", Some(text.as_str()))]), ..house::question("") };
    let identity = identity();
    let call = Call { question: &question, pattern: None, now: Micros::from_secs(1_800_000_000) };
    assert!(!expression.holds(&identity, call) && expression.steps_max() > STEPS_MAX * 9 / 10);
    bencher.bench(|| expression.holds(black_box(&identity), black_box(call)));
}

fn rule(path: &str) -> Rule {
    let matches = Match { path: Some(PathPattern::parse(path).unwrap()), ..Match::default() };
    let (leniency, demand) = (Leniency::default(), Demand::authenticated());
    Rule { name: path.to_owned(), matches, leniency, guard: None, early: None, demand, limits: Vec::new() }
}

fn identity() -> Identity {
    Identity {
        subject: Some("4f9c2f6e-8a5b-4c1d-9e3f-7b2a6d8c0e14".into()),
        ..Identity::vouched_by("https://issuer.example")
    }
}
