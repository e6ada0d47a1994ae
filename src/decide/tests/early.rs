//! Limits that are consumed before anybody knows who calls.

use super::*;
use crate::domain::limit::Occasion;
use crate::domain::policy::EarlyLimits;

const TOKENS: [&str; 3] = ["reader", "expired", "unknown"];

/// The test's policy, in which `/orders/{id}` and `/open` also have `knocks`, which every call consumes, and `guesses`.
fn wary() -> Policy {
    let early = |name, charge| Arc::new(Limit { charge, ..Limit::clone(&limit(name, &["source.address"])) });
    let (knocks, guesses) = (early("knocks", Occasion::BeforeAuth), early("guesses", Occasion::OnFailure));
    let mut policy = policy();
    let mut rules = policy.rules.to_vec();
    for rule in &mut rules[..2] {
        (_, rule.early) = EarlyLimits::apart([knocks.clone(), guesses.clone()]);
    }
    policy.rules = rules.into();
    policy.limits.splice(0..0, [guesses, knocks]);
    policy
}

fn bench() -> Bench {
    let bench = Bench::new();
    bench.decider.adopt(wary());
    bench
}

/// A question from one address.
fn from<'a>(path: &'a str, token: Option<&'a str>) -> Question<'a> {
    Question { source: Some("192.0.2.7".parse().unwrap()), ..question(path, token) }
}

/// The reason, and the steps on the way to it.
fn steps(bench: &Bench, question: &Question<'_>) -> (Reason, String) {
    let (reason, asked) = bench.decide(question);
    let steps: Vec<String> = asked.iter().map(|step| step.replace(" 9:192.0.2.7", "").replace('"', "")).collect();
    (reason, steps.join(", "))
}

fn decision(bench: &Bench, question: &Question<'_>) -> Decision {
    bench.decider.decide(question, Facade::Unary).get().now_or_never().unwrap().unwrap()
}

fn quotas(decision: &Decision) -> Vec<&str> {
    decision.quotas.iter().map(|state| state.limit.name.as_str()).collect()
}

#[test]
fn the_early_limits_come_before_the_credential_and_a_failure_is_paid_for_behind_it() {
    let bench = bench();
    for (token, reason, expected) in [
        (
            Some("reader"),
            Reason::Allowed,
            "pay 1 of knocks, token reader, revocations, pay 1 of per-subject 9:https://i 3:ann, pay 1 of per-order 1:7",
        ),
        (Some("nobody"), Reason::InsufficientScope, "pay 1 of knocks, token nobody, revocations"),
        (None, Reason::NoCredential, "pay 1 of knocks"),
        (Some("expired"), Reason::Expired, "pay 1 of knocks, peek, pay 1 of guesses, token expired, pay 1 of guesses"),
        (Some("unknown"), Reason::KeysAway, "pay 1 of knocks, peek, pay 1 of guesses, token unknown"),
    ] {
        let (got, steps) = steps(&bench, &from("/orders/7", token));
        assert_eq!((got, steps.as_str()), (reason, expected), "{token:?}");
    }
}

#[test]
fn where_a_limit_of_every_call_is_used_up_no_credential_is_looked_at() {
    let bench = bench();
    *bench.world.short.lock().unwrap() = Some("knocks".to_owned());
    for token in TOKENS {
        let (reason, steps) = steps(&bench, &from("/orders/7", Some(token)));
        assert_eq!((reason, steps.as_str()), (Reason::QuotaExceeded, "pay 1 of knocks"), "{token}");
    }
    let decision = decision(&bench, &from("/orders/7", Some("reader")));
    assert_eq!((quotas(&decision), decision.retry_after()), (vec!["knocks"], Some(Micros(7))));
}

#[test]
fn where_too_many_failed_only_what_is_remembered_as_good_goes_on() {
    let bench = bench();
    *bench.world.short.lock().unwrap() = Some("guesses".to_owned());
    let refused = (Reason::QuotaExceeded, "pay 1 of knocks, peek, pay 1 of guesses".to_owned());
    for token in ["expired", "unknown", "made up"] {
        assert_eq!(steps(&bench, &from("/orders/7", Some(token))), refused, "{token}");
    }
    let unreadable = Question { credential: Credential::Unreadable, ..from("/orders/7", None) };
    assert_eq!(steps(&bench, &unreadable), refused);
    assert_eq!(steps(&bench, &from("/orders/7", Some("reader"))).0, Reason::Allowed);
    assert_eq!(steps(&bench, &from("/orders/7", None)).0, Reason::NoCredential, "it is no guess");
    bench.world.cold.store(true, Ordering::Relaxed);
    assert_eq!(steps(&bench, &from("/orders/7", Some("reader"))), refused, "nobody remembers it");
    let decision = decision(&bench, &from("/orders/7", Some("reader")));
    assert_eq!((quotas(&decision), decision.retry_after()), (vec!["knocks", "guesses"], Some(Micros(7))));
}

#[test]
fn a_credential_that_is_good_but_not_for_this_call_is_a_failure_where_it_is_not_the_callers() {
    let bench = bench();
    bench.world.revoked.store(true, Ordering::Relaxed);
    let (reason, asked) = steps(&bench, &from("/orders/7", Some("reader")));
    assert_eq!(
        (reason, asked.as_str()),
        (Reason::Revoked, "pay 1 of knocks, token reader, revocations, pay 1 of guesses")
    );
    let binding = Some(Box::new(Binding { key: Some([7; 32]), ..Binding::default() }));
    let bound = Identity { binding, ..Identity::vouched_by("https://i") };
    bench.world.verdicts.lock().unwrap().insert("bound".to_owned(), Ok(Arc::new(bound)));
    let (reason, asked) = steps(&bench, &from("/orders/7", Some("bound")));
    assert_eq!(
        (reason, asked.as_str()),
        (Reason::BindingRequired, "pay 1 of knocks, token bound, proof, pay 1 of guesses")
    );
}

/// Everything else that is wrong with a credential is.
#[test]
fn what_honest_callers_begin_with_and_what_nobody_could_find_out_is_no_failure() {
    use crate::domain::decision::Class;
    let of_class = |reason: &Reason| reason.class() == Class::Unauthenticated;
    let failures: Vec<Reason> = Reason::ALL.into_iter().filter(|reason| reason.is_failed_authentication()).collect();
    assert!(failures.iter().all(of_class));
    let spared: Vec<Reason> =
        Reason::ALL.into_iter().filter(of_class).filter(|reason| !failures.contains(reason)).collect();
    assert_eq!(spared, [Reason::NoCredential, Reason::UseDpopNonce]);
}

#[test]
fn anyone_goes_on_with_a_bad_credential_and_it_is_paid_for() {
    let bench = bench();
    let (reason, asked) = steps(&bench, &from("/open", Some("expired")));
    let expected = "pay 1 of knocks, peek, pay 1 of guesses, token expired, pay 1 of guesses";
    assert_eq!((reason, asked.as_str()), (Reason::Allowed, expected));
    *bench.world.short.lock().unwrap() = Some("guesses".to_owned());
    assert_eq!(steps(&bench, &from("/open", Some("expired"))).0, Reason::QuotaExceeded);
    assert_eq!(steps(&bench, &from("/open", None)).0, Reason::Allowed);
}

#[test]
fn a_failure_costs_one_unit_whatever_the_call_costs_and_a_look_none() {
    let bench = bench();
    let dear = Question { units: 5, ..from("/orders/7", Some("expired")) };
    let (_, asked) = steps(&bench, &dear);
    assert_eq!(asked, "pay 5 of knocks, peek, pay 1 of guesses, token expired, pay 1 of guesses");
    let (reason, asked) = steps(&bench, &Question { mode: Mode::Peek, ..dear });
    let looks = "peek, pay 5 of knocks, peek, pay 1 of guesses, token expired, peek, pay 1 of guesses";
    assert_eq!((reason, asked.as_str()), (Reason::Expired, looks));
}

#[test]
fn the_answer_tells_of_early_limits_before_the_others_and_the_explanation_of_all() {
    let bench = bench();
    let asked = Question { explain: true, ..from("/orders/7", Some("reader")) };
    let allowed = decision(&bench, &asked);
    assert_eq!(quotas(&allowed), ["knocks", "per-subject", "per-order"]);
    assert_eq!(allowed.explanation.unwrap().quotas, Some(Provenance::Memory));
    let failed = decision(&bench, &Question { credential: Credential::Bearer("expired"), ..asked });
    assert_eq!(quotas(&failed), ["knocks", "guesses"]);
    let seen = Explanation { token: Some(Provenance::Memory), quotas: Some(Provenance::Memory) };
    assert_eq!(failed.explanation.as_deref(), Some(&seen));
}

#[test]
fn a_question_without_what_early_limits_count_by_is_malformed_whatever_it_shows() {
    let bench = bench();
    for token in TOKENS.map(Some).into_iter().chain([None]) {
        let asked = question("/orders/7", token);
        let undecidable = bench.decider.decide(&asked, Facade::Unary).get().now_or_never().unwrap().unwrap_err();
        assert_eq!(undecidable.violations[0].field, "request.source_address", "{token:?}");
    }
    assert!(bench.world.asked.lock().unwrap().is_empty(), "nothing was asked");
}

#[test]
fn only_rules_name_early_limits() {
    let bench = bench();
    let extra = |limit| vec![ExtraCharge { limit, units: 1 }];
    for (limit, charge) in [("knocks", "before_auth"), ("guesses", "on_failure")] {
        let asked = Question { extra: extra(limit), ..from("/open", None) };
        let undecidable = bench.decider.decide(&asked, Facade::Unary).get().now_or_never().unwrap().unwrap_err();
        let [Violation { field, description }] = &undecidable.violations[..] else { panic!("{undecidable:?}") };
        assert_eq!(field, "limits[0].limit");
        assert!(description.contains(charge), "{description}");
    }
    let caller = Identity { limits: ["knocks".into()].into(), ..Identity::clone(&identity(&["read"])) };
    bench.world.verdicts.lock().unwrap().insert("own".to_owned(), Ok(Arc::new(caller)));
    assert_eq!(steps(&bench, &from("/orders/7", Some("own"))).0, Reason::UnknownApiKey);
}

#[test]
fn a_call_that_is_begun_again_under_the_next_configuration_pays_once() {
    let bench = bench();
    let decider = Arc::clone(&bench.decider);
    *bench.world.meanwhile.lock().unwrap() = Some(Box::new(move || decider.adopt(Policy { version: 4, ..wary() })));
    let (reason, asked) = steps(&bench, &from("/orders/7", Some("expired")));
    let expected = "pay 1 of knocks, peek, pay 1 of guesses, token expired, peek, pay 1 of guesses, token expired, \
                    pay 1 of guesses";
    assert_eq!((reason, asked.as_str()), (Reason::Expired, expected));
}
