//! Reading a path, finding the rule, naming the counter.

use divan::{Bencher, black_box};
use tollgate::domain::identity::Identity;
use tollgate::domain::limit::{Algorithm, Attribute, Limit, WhenAway};
use tollgate::domain::path::{Host, Leniency, Method, Target};
use tollgate::domain::policy::{Demand, Match, PathPattern, Paths, Policy, Rule};
use tollgate::domain::time::Micros;

use crate::house;

#[divan::bench(args = ["/orders/1", "/api/v1/customers/4711/orders/2026-0815/items/3?expand=price&lang=de"])]
fn path_parse(bencher: Bencher<'_, '_>, path: &str) {
    let method = Method::parse("GET").unwrap();
    let host = Host::parse("shop.example.com").unwrap();
    bencher.bench(|| Target::parse(black_box(path), black_box(method), Some(&host)));
}

/// The last rule matches, so all of them are looked at.
#[divan::bench(args = [10, 10_000])]
fn rule_match_last_of(bencher: Bencher<'_, '_>, rules: usize) {
    let mut rules: Vec<Rule> = (1..rules).map(|number| rule(&format!("/service-{number}/items/{{id}}"))).collect();
    rules.push(rule("/orders/{id}"));
    let policy = Policy { version: 1, rules, ..Policy::default() };
    let question = house::question("");
    bencher.bench(|| policy.find(black_box(&question)));
}

#[divan::bench]
fn counter_key(bencher: Bencher<'_, '_>) {
    let limit = Limit {
        name: "per-subject".to_owned(),
        algorithm: Algorithm::SlidingWindow { units: 1_000, window: Micros::from_secs(60) },
        by: vec![Attribute::Subject],
        when_away: WhenAway::default(),
    };
    let rule = rule("/orders/{id}");
    let question = house::question("");
    let identity = identity();
    let paths = Paths::default();
    bencher.bench(|| rule.counter(black_box(&limit), black_box(&question), Some(&identity), &paths));
}

fn rule(path: &str) -> Rule {
    let matches = Match { path: Some(PathPattern::parse(path).unwrap()), ..Match::default() };
    let (leniency, demand) = (Leniency::default(), Demand::authenticated());
    Rule { name: path.to_owned(), matches, leniency, guard: None, demand, limits: Vec::new() }
}

fn identity() -> Identity {
    Identity {
        subject: Some("4f9c2f6e-8a5b-4c1d-9e3f-7b2a6d8c0e14".into()),
        ..Identity::vouched_by("https://issuer.example")
    }
}
