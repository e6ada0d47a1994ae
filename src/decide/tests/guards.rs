//! What rules demand of the call itself, what whoever asks demands besides, and preflights.

use super::*;
use crate::domain::guard::{Guard, Origin, Sources};
use crate::domain::network::{Network, Networks};

const PAGE: &str = "https://app.example";

/// `/open` and `/orders/{id}` are for calls from 10.0.0.0/8, by pages of [`PAGE`], with at most 10 bytes of body.
fn guarded() -> Bench {
    let bench = Bench::new();
    let guard = Guard {
        sources: Sources { allow: vec![Network::parse("10.0.0.0/8").unwrap()].into(), deny: Networks::default() },
        body_max: Some(10),
        origins: vec![Origin::parse(PAGE).unwrap()],
        refuses_bad_credentials: false,
        refuses_method_override: true,
    };
    let mut policy = policy();
    let mut rules = policy.rules.to_vec();
    for rule in &mut rules[..2] {
        rule.guard = Some(Box::new(guard.clone()));
    }
    policy.rules = rules.into();
    bench.decider.adopt(policy);
    bench
}

/// A question that gets past that guard.
fn welcome<'a>(path: &'a str, token: Option<&'a str>) -> Question<'a> {
    Question { source: Some("10.1.2.3".parse().unwrap()), body: Some(10), ..question(path, token) }
}

fn headers(named: &[(&'static str, &'static str)]) -> Headers<'static> {
    Headers::new(named.iter().map(|&(name, value)| (name, Some(value))).collect())
}

/// The fields of a question that no decision is made of.
fn undecided(bench: &Bench, question: &Question<'_>) -> Vec<String> {
    let undecidable = bench.decider.decide(question, Facade::Unary).get().now_or_never().unwrap().unwrap_err();
    assert!(bench.world.asked.lock().unwrap().is_empty(), "nothing was asked");
    undecidable.violations.into_iter().map(|violation| violation.field).collect()
}

#[test]
fn a_guard_refuses_before_any_credential_is_looked_at() {
    let bench = guarded();
    let from =
        |source: &str| Question { source: Some(source.parse().unwrap()), ..welcome("/orders/7", Some("reader")) };
    let refused = |question: &Question<'_>| {
        let (reason, asked) = bench.decide(question);
        assert!(asked.is_empty(), "{asked:?}");
        reason
    };
    assert_eq!(bench.decide(&from("10.9.9.9")).0, Reason::Allowed);
    assert_eq!(refused(&from("192.0.2.1")), Reason::WrongAddress);
    let welcome = || welcome("/orders/7", Some("reader"));
    assert_eq!(refused(&Question { body: Some(11), ..welcome() }), Reason::BodyTooLarge);
    assert_eq!(refused(&Question { body: None, ..welcome() }), Reason::LengthRequired);
    let other_page = headers(&[("origin", "https://evil.example")]);
    assert_eq!(refused(&Question { headers: other_page, ..welcome() }), Reason::WrongOrigin);
    assert_eq!(undecided(&bench, &Question { source: None, ..welcome() }), ["request.source_address"]);
    let unreadable = Headers::new(vec![("origin", None)]);
    assert_eq!(undecided(&bench, &Question { headers: unreadable, ..welcome() }), ["request.headers[\"origin\"]"]);
    let overridden = headers(&[("x-http-method", "DELETE")]);
    let fields = undecided(&bench, &Question { headers: overridden, ..welcome() });
    assert_eq!(fields, ["request.headers[\"x-http-method\"]"]);
}

#[test]
fn a_rule_may_refuse_bad_credentials_where_anyone_may_pass() {
    let bench = Bench::new();
    let told = |token| bench.decide(&question("/open", token)).0;
    let tokens = [None, Some("reader"), Some("expired"), Some("unknown"), Some("forged")];
    assert_eq!(tokens.map(told), [Reason::Allowed; 5]);
    let mut policy = policy();
    let mut rules = policy.rules.to_vec();
    rules[0].guard = Some(Box::new(Guard { refuses_bad_credentials: true, ..Guard::default() }));
    policy.rules = rules.into();
    bench.decider.adopt(policy);
    let refused = [Reason::Expired, Reason::KeysAway, Reason::BadSignature];
    assert_eq!(tokens.map(told)[..2], [Reason::Allowed; 2]);
    assert_eq!(tokens.map(told)[2..], refused);
    bench.world.revoked.store(true, Ordering::Relaxed);
    assert_eq!(told(Some("reader")), Reason::Revoked);
}

#[test]
fn scopes_that_the_asker_demands_need_a_caller_whatever_the_rule_permits() {
    let bench = Bench::new();
    let decide = |path: &'static str, token: Option<&'static str>, scopes: &[&'static str]| {
        let question = Question { scopes: scopes.to_vec(), ..question(path, token) };
        let decision = bench.decider.decide(&question, Facade::Unary).get().now_or_never().unwrap().unwrap();
        (decision.reason, decision.required_scopes.join(" "))
    };
    let refused = |reason| (reason, String::new());
    assert_eq!(decide("/open", None, &["read"]), refused(Reason::NoCredential));
    assert_eq!(decide("/open", Some("expired"), &["read"]), refused(Reason::Expired));
    assert_eq!(decide("/open", Some("reader"), &["read"]), refused(Reason::Allowed));
    let lacking = |scopes: &str| (Reason::InsufficientScope, scopes.to_owned());
    assert_eq!(decide("/open", Some("nobody"), &["read"]), lacking("read"));
    assert_eq!(decide("/open", Some("reader"), &["read", "write"]), lacking("read write"));
    assert_eq!(decide("/anybody", Some("reader"), &["write"]), lacking("write"));
    // Those of the rule first, each once.
    assert_eq!(decide("/orders/7", Some("reader"), &["write", "read"]), lacking("read write"));
    assert_eq!(decide("/orders/7", Some("nobody"), &[]), lacking("read"));
}

#[test]
fn a_preflight_goes_on_without_a_credential_and_costs_nothing() {
    let bench = guarded();
    let preflight = |path: &'static str, origin: &'static str| {
        let headers = headers(&[("origin", origin), ("access-control-request-method", "DELETE")]);
        Question { method: Method::parse("OPTIONS").unwrap(), headers, ..welcome(path, None) }
    };
    assert_eq!(bench.decide(&preflight("/orders/7", PAGE)), (Reason::Allowed, vec![]));
    let scopes = vec!["read"];
    assert_eq!(bench.decide(&Question { scopes, ..preflight("/open", PAGE) }), (Reason::Allowed, vec![]));
    assert_eq!(bench.decide(&preflight("/orders/7", "https://evil.example")).0, Reason::WrongOrigin);
    assert_eq!(bench.decide(&preflight("/anybody", PAGE)).0, Reason::NoCredential, "the rule names no origins");
    // What else the rule demands of calls, it demands of their preflights.
    let from_elsewhere = Question { source: Some("192.0.2.1".parse().unwrap()), ..preflight("/orders/7", PAGE) };
    assert_eq!(bench.decide(&from_elsewhere).0, Reason::WrongAddress);
}

#[test]
fn a_path_with_two_readings_is_undecided_and_told_what_would_settle_it() {
    let bench = Bench::new();
    for (path, remedy) in [
        ("/orders/7;x", "path_parameters: strip"),
        ("/orders/7%2Fx", "encoded_slash: allow"),
        ("/orders//7", "trust_gateway"),
        ("/nowhere;x", "path_parameters: strip"),
    ] {
        let question = question(path, Some("reader"));
        let undecidable = bench.decider.decide(&question, Facade::Unary).get().now_or_never().unwrap().unwrap_err();
        let Violation { field, description } = &undecidable.violations[0];
        assert!(field == "request.path" && description.contains(remedy), "{path}: {description}");
    }
    assert!(bench.world.asked.lock().unwrap().is_empty());
}
