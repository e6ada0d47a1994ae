//! The path, with ports that answer what they are told and remember what they were asked.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod early;
mod guards;
mod hearing;
pub(super) mod logged;
mod ratelimit;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_util::FutureExt as _;

use super::*;
use crate::domain::client::Sight;
use crate::domain::decision::{HeldCounter, QuotaState, QuotaVerdict};
use crate::domain::expression::Expression;
use crate::domain::identity::{Binding, Thumbprint};
use crate::domain::limit::{Algorithm, Attribute, CounterKey, Kind, Occasion, WhenAway};
use crate::domain::path::{Leniency, Method, Target};
use crate::domain::policy::{Caller, Match, PathPattern, Rules};
use crate::domain::question::{Certificate, ExtraCharge, Headers, Proofs};
use crate::domain::slots::Slots;
use crate::domain::status::StatusRef;
use crate::domain::window::LeaseId;

/// The name of everything that is held.
const LEASE: LeaseId = LeaseId { replica: 5, serial: 8 };

/// Every port at once.
#[derive(Default)]
pub(super) struct World {
    pub(super) verdicts: Mutex<BTreeMap<String, Verdict>>,
    pub(super) revoked: AtomicBool,
    /// The steady clock.
    pub(super) steady: AtomicU64,
    /// The limit that refuses.
    short: Mutex<Option<String>>,
    /// Whether tokens have to be asked for.
    cold: AtomicBool,
    /// What happens just before the next token is looked at.
    meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    asked: Mutex<Vec<String>>,
    _heard: logged::Listening,
}

impl World {
    fn note(&self, what: impl Into<String>) {
        self.asked.lock().unwrap().push(what.into());
    }
}

impl Clock for World {
    fn now(&self) -> Moment {
        Moment { wall: Micros(1), steady: Micros(self.steady.load(Ordering::Relaxed)) }
    }
}

impl TokenInspector for World {
    fn inspect<'a>(&'a self, shown: Shown<'a>, _now: Moment) -> Answer<'a, Inspected> {
        let token = match shown {
            Shown::Token(token) | Shown::ApiKey(token) => token,
            Shown::Certificate(certificate) => &certificate.names[0],
        };
        self.note(format!("token {token}"));
        let meanwhile = self.meanwhile.lock().unwrap().take();
        if let Some(meanwhile) = meanwhile {
            meanwhile();
        }
        let verdict = self.verdicts.lock().unwrap().get(token).cloned().unwrap_or(Err(Reason::BadSignature));
        let cold = self.cold.load(Ordering::Relaxed);
        let inspected = Inspected { verdict, remembered: !cold };
        if cold { Answer::later(async move { inspected }) } else { Answer::Now(inspected) }
    }

    fn knows(&self, shown: Shown<'_>, _now: Moment) -> bool {
        let (Shown::Token(token) | Shown::ApiKey(token)) = shown else { return false };
        let is_good = self.verdicts.lock().unwrap().get(token).is_some_and(Result::is_ok);
        is_good && !self.cold.load(Ordering::Relaxed)
    }

    fn prove<'a>(&'a self, identity: &Arc<Identity>, question: &'a Question<'a>, _now: Moment) -> Answer<'a, Proved> {
        if identity.binding().is_none() {
            return Answer::Now(Ok(()).into());
        }
        self.note("proof");
        let outcome = if question.proofs.dpop == ["proof"] { Ok(()) } else { Err(Reason::BindingRequired) };
        Answer::Now(Proved { outcome, next_nonce: Some("next".into()) })
    }

    fn signing_keys(&self, issuer: &str, kid: &str) -> Result<Vec<Thumbprint>, Reason> {
        match (issuer, kid) {
            ("https://i", "a") => Ok(vec![[1; 32]]),
            ("https://i", "twins") => Ok(vec![[1; 32], [2; 32]]),
            ("https://i", _) => Err(Reason::UnknownKey),
            ("https://away", _) => Err(Reason::KeysAway),
            _ => Err(Reason::UnknownIssuer),
        }
    }

    fn status<'a>(&'a self, identity: &Arc<Identity>, _now: Moment) -> Answer<'a, Standing> {
        let index = identity.status.as_ref().unwrap().index;
        self.note(format!("status {index}"));
        Answer::Now([Standing::Good, Standing::Revoked, Standing::Unknown][usize::try_from(index).unwrap()])
    }
}

impl RevocationView for World {
    fn standing<'a>(&'a self, _identity: &Arc<Identity>, _now: Moment) -> Answer<'a, Standing> {
        self.note("revocations");
        Answer::Now(if self.revoked.load(Ordering::Relaxed) { Standing::Revoked } else { Standing::Good })
    }
}

impl Quotas for World {
    fn pay(&self, charges: Charges, _now: Moment) -> Answer<'_, Payment> {
        let short = self.short.lock().unwrap().clone();
        let mut states = QuotaStates::new();
        let slots = charges.iter().any(|charge| charge.limit.hold().is_some());
        for Charge { limit, key, units } in charges {
            self.note(format!("pay {units} of {key:?}"));
            let verdict = if short.as_deref() == Some(&limit.name) {
                QuotaVerdict::Short { retry_after: Micros(7) }
            } else {
                QuotaVerdict::Granted
            };
            states.push(QuotaState { limit, verdict, remaining: 0, reset_after: Micros::ZERO });
        }
        let pays = states.iter().all(|state| state.verdict.is_granted());
        let reason = if pays { Reason::Allowed } else { Reason::QuotaExceeded };
        let held = (slots && pays).then_some(LEASE);
        Answer::Now(Payment { reason, states, asked: false, away: false, held })
    }

    fn peek(&self, charges: Charges, now: Moment) -> Answer<'_, Payment> {
        self.note("peek");
        self.pay(charges, now)
    }

    fn reserve(&self, charges: Charges, hold: Micros, now: Moment) -> Answer<'_, Payment> {
        self.note(format!("for {hold}"));
        self.pay(charges, now).then(|payment| Answer::Now(Payment { held: Some(LEASE), ..payment }))
    }

    fn hit(&self, hits: ports::Hits, _: Moment) -> Answer<'_, QuotaStates> {
        let short = self.short.lock().unwrap().clone();
        let state = |ports::Hit { limit, grid: _, key, hits }: ports::Hit| {
            self.note(format!("hit {key:?} with {hits}"));
            let over = short.as_deref() == Some(&limit.name);
            let verdict = if over { QuotaVerdict::Short { retry_after: Micros(7) } } else { QuotaVerdict::Granted };
            QuotaState { limit, verdict, remaining: 0, reset_after: Micros(7) }
        };
        Answer::Now(hits.into_iter().map(state).collect())
    }

    fn settle(&self, settlements: ports::Settlements, _: Moment) -> Answer<'_, Result<(), ports::Away>> {
        for ports::Settlement { limit, key, lease, used } in settlements {
            assert_eq!((lease, key.limit()), (LEASE, limit.name.as_str()));
            self.note(format!("settle {used} of {key:?}"));
        }
        Answer::Now(Ok(()))
    }

    fn refund(&self, charges: Charges, _: Moment) -> Answer<'_, Result<ports::Refunds, ports::Away>> {
        Answer::Now(Ok(charges.iter().map(|charge| charge.units).collect()))
    }

    fn reset(&self, _limit: Arc<Limit>, key: CounterKey) -> Answer<'_, Result<(), ports::Away>> {
        self.note(format!("reset {key:?}"));
        Answer::Now(Ok(()))
    }
}

fn identity(scopes: &[&str]) -> Arc<Identity> {
    Arc::new(Identity {
        subject: Some("ann".into()),
        may_operate: true,
        scopes: scopes.iter().map(|&scope| scope.into()).collect(),
        ..Identity::vouched_by("https://i")
    })
}

fn limit(name: &str, by: &[&str]) -> Arc<Limit> {
    Arc::new(Limit {
        name: name.to_owned(),
        algorithm: Algorithm::SlidingWindow { units: 10, window: Micros::from_secs(1) },
        by: by.iter().map(|name| Attribute::from_name(name).unwrap()).collect(),
        when_away: WhenAway::Deny,
        charge: Occasion::AfterAuth,
    })
}

/// So many slots of one counter.
fn slots(name: &str, hold: Micros) -> Arc<Limit> {
    let algorithm = Algorithm::Concurrency(Slots { units: 3, hold });
    Arc::new(Limit { algorithm, ..Limit::clone(&limit(name, &[])) })
}

/// `/open` is for anyone, `/orders/{id}` for the scope `read` at a price, `/clients` counts by client, `/busy` takes slots,
/// `/own/{name}` is for whom it names.
fn policy() -> Policy {
    let per_subject = limit("per-subject", &["identity.subject"]);
    let per_order = limit("per-order", &["path.id"]);
    let per_client = limit("per-client", &["identity.client"]);
    let per_address = limit("per-address", &["source.address"]);
    let (long, short) = (slots("long", Micros::from_secs(30)), slots("short", Micros::from_secs(9)));
    let per_rule = limit("per-rule", &["rule"]);
    let rule = |path: &str, demand, limits: &[&Arc<Limit>]| Rule {
        name: path.to_owned(),
        matches: Match { path: Some(PathPattern::parse(path).unwrap()), ..Match::default() },
        leniency: Leniency::default(),
        guard: None,
        early: None,
        demand,
        limits: limits.iter().copied().cloned().collect(),
    };
    let caller = |scopes: &[&str]| {
        let scopes = scopes.iter().map(|s| (*s).to_owned()).collect();
        Demand::Caller(Caller { scopes, ..Caller::default() })
    };
    let when = Expression::compile("path.name == identity.subject", &["name"]).unwrap();
    let own = Demand::Caller(Caller { when: Some(Box::new(when)), ..Caller::default() });
    Policy {
        version: 3,
        rules: Rules::from(vec![
            rule("/open", Demand::Anyone, &[]),
            rule("/orders/{id}", caller(&["read"]), &[&per_subject, &per_order]),
            rule("/clients", caller(&[]), &[&per_client]),
            rule("/anybody", caller(&[]), &[]),
            rule("/busy", Demand::Anyone, &[&long, &per_rule, &short]),
            rule("/own/{name}", own, &[&per_rule]),
        ]),
        limits: vec![long, per_address, per_client, per_order, per_rule, per_subject, short],
        ..Policy::default()
    }
}

struct Bench {
    world: Arc<World>,
    decider: Arc<Decider>,
    telemetry: Arc<Telemetry>,
}

impl Bench {
    fn new() -> Self {
        let world = Arc::new(World::default());
        world.verdicts.lock().unwrap().extend([
            ("reader".to_owned(), Ok(identity(&["read"]))),
            ("nobody".to_owned(), Ok(identity(&[]))),
            (
                "partner".to_owned(),
                Ok(Arc::new(Identity { may_operate: false, ..Identity::clone(&identity(&["read"])) })),
            ),
            ("expired".to_owned(), Err(Reason::Expired)),
            ("unknown".to_owned(), Err(Reason::KeysAway)),
        ]);
        let telemetry = Arc::new(Telemetry::default());
        let decider = Decider::new(
            Arc::clone(&world) as _,
            Arc::clone(&world) as _,
            Arc::clone(&world) as _,
            Arc::new(ports::NoLog),
            Arc::clone(&world) as _,
            Arc::clone(&telemetry),
        );
        decider.adopt(policy());
        Self { world, decider: Arc::new(decider), telemetry }
    }

    /// The reason, and everything that was asked on the way to it.
    fn decide(&self, question: &Question<'_>) -> (Reason, Vec<String>) {
        let decision = self.decider.decide(question, Facade::Unary).get().now_or_never().unwrap().unwrap();
        (decision.reason, std::mem::take(&mut self.world.asked.lock().unwrap()))
    }
}

fn question<'a>(path: &'a str, token: Option<&'a str>) -> Question<'a> {
    let method = Method::parse("GET").unwrap();
    Question {
        credential: token.map_or(Credential::None, Credential::Bearer),
        ..Question::of(method, Target::parse(path, method, None).unwrap())
    }
}

const PAID: [&str; 2] = ["pay 1 of \"per-subject 9:https://i 3:ann\"", "pay 1 of \"per-order 1:7\""];

#[test]
fn the_steps_come_in_order_and_stop_at_the_first_refusal() {
    let bench = Bench::new();
    let paid: Vec<&str> = ["token reader", "revocations"].into_iter().chain(PAID).collect();
    for (path, token, reason, asked) in [
        ("/elsewhere", Some("reader"), Reason::NoRule, vec![]),
        ("/orders/7", None, Reason::NoCredential, vec![]),
        ("/orders/7", Some("expired"), Reason::Expired, vec!["token expired"]),
        ("/orders/7", Some("unknown"), Reason::KeysAway, vec!["token unknown"]),
        ("/orders/7", Some("nobody"), Reason::InsufficientScope, vec!["token nobody", "revocations"]),
        ("/orders/7", Some("reader"), Reason::Allowed, paid),
    ] {
        let (got, steps) = bench.decide(&question(path, token));
        assert_eq!((got, steps), (reason, asked.into_iter().map(str::to_owned).collect()), "{path} {token:?}");
    }
}

#[test]
fn the_revocations_are_asked_after_a_remembered_verdict_too() {
    let bench = Bench::new();
    assert_eq!(bench.decide(&question("/orders/7", Some("reader"))).0, Reason::Allowed);
    bench.world.revoked.store(true, Ordering::Relaxed);
    let (reason, asked) = bench.decide(&question("/orders/7", Some("reader")));
    assert_eq!((reason, asked), (Reason::Revoked, vec!["token reader".to_owned(), "revocations".to_owned()]));
}

#[test]
fn the_status_list_that_a_token_names_is_asked_after_revocations_each_time() {
    let bench = Bench::new();
    for (index, reason) in [(0, Reason::Allowed), (1, Reason::Revoked), (2, Reason::RevocationsAway)] {
        let status = Some(Box::new(StatusRef { list: "l".into(), index }));
        let listed = Arc::new(Identity { status, ..Identity::clone(&identity(&["read"])) });
        bench.world.verdicts.lock().unwrap().insert("listed".to_owned(), Ok(listed));
        for _ in 0..2 {
            let (got, asked) = bench.decide(&question("/orders/7", Some("listed")));
            assert_eq!(
                (got, &asked[..3]),
                (reason, &["token listed", "revocations", &format!("status {index}")].map(str::to_owned)[..])
            );
        }
        let seen = bench.decider.introspect("listed", &Sight::Every).get().now_or_never().unwrap();
        assert_eq!(seen.err(), (reason != Reason::Allowed).then_some(reason));
        bench.world.asked.lock().unwrap().clear();
    }
    bench.world.revoked.store(true, Ordering::Relaxed);
    let (reason, asked) = bench.decide(&question("/orders/7", Some("listed")));
    assert_eq!((reason, asked.len()), (Reason::Revoked, 2), "what is taken back here need not be looked up elsewhere");
}

#[test]
fn anyone_may_with_a_bad_credential_and_is_nobody_then() {
    let bench = Bench::new();
    for token in [None, Some("expired"), Some("unknown")] {
        let decided = bench.decider.decide(&question("/open", token), Facade::Unary).get().now_or_never().unwrap();
        let decision = decided.unwrap();
        assert_eq!((decision.reason, decision.identity), (Reason::Allowed, None), "{token:?}");
    }
    bench.world.revoked.store(true, Ordering::Relaxed);
    assert_eq!(bench.decide(&question("/open", Some("reader"))).0, Reason::Allowed);
}

#[test]
fn a_verdict_of_the_next_configuration_never_meets_rules_of_the_last() {
    for cold in [false, true] {
        let bench = Bench::new();
        bench.world.cold.store(cold, Ordering::Relaxed);
        let (world, decider) = (Arc::clone(&bench.world), Arc::clone(&bench.decider));
        // One issuer more, whose tokens may not do what others' may.
        *bench.world.meanwhile.lock().unwrap() = Some(Box::new(move || {
            let rules = policy().rules.iter().filter(|rule| rule.name != "/orders/{id}").cloned().collect();
            decider.adopt_with(Policy { version: 4, rules, ..policy() }, || {
                world.verdicts.lock().unwrap().insert("new".to_owned(), Ok(identity(&["read"])));
            });
        }));
        let question = question("/orders/7", Some("new"));
        let decision = bench.decider.decide(&question, Facade::Unary).get().now_or_never().unwrap().unwrap();
        assert_eq!((decision.reason, decision.policy.version), (Reason::NoRule, 4));
        assert_eq!(*bench.world.asked.lock().unwrap(), ["token new"]);
        let text = bench.telemetry.render();
        let counted: Vec<&str> = text.lines().filter(|line| line.starts_with("tollgate_decisions_total")).collect();
        assert!(matches!(counted[..], [one] if one.contains("no_rule") && one.ends_with(" 1")), "{counted:?}");
    }
}

#[test]
fn a_configuration_that_cannot_be_replaced_stays_in_force() {
    let bench = Bench::new();
    let replacing = || bench.decider.adopt_with(Policy::default(), || panic!("on purpose"));
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(replacing)).is_err());
    assert_eq!(bench.decide(&question("/orders/7", Some("reader"))).0, Reason::Allowed);
    bench.decider.adopt(Policy::default());
    assert_eq!(bench.decide(&question("/orders/7", Some("reader"))).0, Reason::NoRule);
}

#[test]
fn a_counter_is_never_shared_by_callers_without_the_claim_it_counts_by() {
    let bench = Bench::new();
    let (reason, asked) = bench.decide(&question("/clients", Some("reader")));
    assert_eq!((reason, asked.len()), (Reason::MissingClaim, 2), "nothing is paid");
}

#[test]
fn a_question_without_what_a_limit_counts_by_is_malformed() {
    let bench = Bench::new();
    let extra = vec![ExtraCharge { limit: "per-address", units: 1 }, ExtraCharge { limit: "no\nlimit", units: 1 }];
    let asked = Question { extra, ..question("/open", None) };
    let Answer::Now(Err(undecidable)) = bench.decider.decide(&asked, Facade::Unary) else { unreachable!() };
    assert_eq!(
        undecidable.violations,
        [Violation {
            field: "limits[1].limit".to_owned(),
            description: "`no\\nlimit` is no limit of the configuration".to_owned()
        }]
    );
    let extra = vec![ExtraCharge { limit: "per-address", units: 1 }];
    let asked = Question { extra, ..question("/open", None) };
    let Answer::Now(Err(undecidable)) = bench.decider.decide(&asked, Facade::Unary) else { unreachable!() };
    assert_eq!(undecidable.violations[0].field, "request.source_address");
}

#[test]
fn a_limit_that_is_named_once_more_is_charged_once_with_both_costs() {
    let bench = Bench::new();
    let extra = vec![ExtraCharge { limit: "per-subject", units: 4 }];
    let (reason, asked) = bench.decide(&Question { extra, units: 2, ..question("/orders/7", Some("reader")) });
    assert_eq!(reason, Reason::Allowed);
    assert_eq!(asked[2..], ["pay 6 of \"per-subject 9:https://i 3:ann\"", "pay 2 of \"per-order 1:7\""]);
}

#[test]
fn a_peek_peeks() {
    let bench = Bench::new();
    let (_, asked) = bench.decide(&Question { mode: Mode::Peek, ..question("/orders/7", Some("reader")) });
    assert_eq!(asked[2], "peek");
}

#[test]
fn a_call_of_which_the_rules_expression_is_not_true_is_denied_and_costs_nothing() {
    let bench = Bench::new();
    let (reason, asked) = bench.decide(&question("/own/bob", Some("reader")));
    assert_eq!(reason, Reason::ConditionNotMet);
    assert!(!asked.iter().any(|step| step.starts_with("pay")), "{asked:?}");
    let (reason, asked) = bench.decide(&question("/own/ann", Some("reader")));
    assert_eq!(reason, Reason::Allowed);
    assert!(asked.iter().any(|step| step.starts_with("pay")), "{asked:?}");
    assert_eq!(bench.decide(&question("/own/ann", None)).0, Reason::NoCredential);
}

#[test]
fn the_longest_wait_counts() {
    let bench = Bench::new();
    *bench.world.short.lock().unwrap() = Some("per-order".to_owned());
    let asked = question("/orders/7", Some("reader"));
    let decision = bench.decider.decide(&asked, Facade::Unary).get().now_or_never().unwrap().unwrap();
    assert_eq!((decision.reason, decision.retry_after()), (Reason::QuotaExceeded, Some(Micros(7))));
}

#[test]
fn a_warm_decision_is_there_at_once_and_a_cold_one_comes_later() {
    let bench = Bench::new();
    let asked = question("/orders/7", Some("reader"));
    assert!(matches!(bench.decider.decide(&asked, Facade::Unary), Answer::Now(Ok(_))));
    bench.world.cold.store(true, Ordering::Relaxed);
    let asked = Question { explain: true, ..asked };
    let answer = bench.decider.decide(&asked, Facade::Unary);
    assert!(matches!(answer, Answer::Later(_)));
    let decision = answer.get().now_or_never().unwrap().unwrap();
    let seen = Explanation { token: Some(Provenance::Asked), quotas: Some(Provenance::Memory) };
    assert_eq!((decision.reason, decision.explanation.as_deref()), (Reason::Allowed, Some(&seen)));
}

#[test]
fn operators_need_the_scope() {
    let bench = Bench::new();
    let ask = |credential| bench.decider.permit_operator(credential, None, "read").get().now_or_never().unwrap().err();
    assert_eq!(ask(Credential::Bearer("reader")), None);
    assert_eq!(ask(Credential::ApiKey("reader")), None);
    assert_eq!(ask(Credential::Bearer("nobody")), Some(Reason::InsufficientScope));
    assert_eq!(ask(Credential::Bearer("partner")), Some(Reason::InsufficientScope), "its issuer may not grant it");
    assert_eq!(ask(Credential::Bearer("expired")), Some(Reason::Expired));
    assert_eq!(ask(Credential::None), Some(Reason::NoCredential));
    assert_eq!(ask(Credential::Unreadable), Some(Reason::MalformedToken));
    bench.world.revoked.store(true, Ordering::Relaxed);
    assert_eq!(ask(Credential::Bearer("reader")), Some(Reason::Revoked));
}

#[test]
fn counters_are_named_by_exactly_their_attributes() {
    let bench = Bench::new();
    let key = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let fields = |keys: &[BTreeMap<String, String>]| {
        let charges: Vec<_> = keys.iter().map(|key| CounterCharge { limit: "per-subject", key, units: 1 }).collect();
        match bench.decider.consume(&charges, Mode::Consume).get().now_or_never().unwrap() {
            Ok(_) => Vec::new(),
            Err(Undecidable { violations }) => violations.into_iter().map(|violation| violation.field).collect(),
        }
    };
    let ann = key(&[("identity.issuer", "https://i"), ("identity.subject", "ann")]);
    assert_eq!(fields(std::slice::from_ref(&ann)), Vec::<String>::new());
    assert_eq!(bench.world.asked.lock().unwrap().as_slice(), [PAID[0]], "the counter that decisions pay from");
    for wrong in [key(&[]), key(&[("identity.subject", "ann")]), key(&[("identity.issuer", "x"), ("rule", "y")])] {
        assert_eq!(fields(&[wrong]), ["charges[0].counter.key"]);
    }
    assert_eq!(fields(&[ann.clone(), ann]), ["charges[1].counter"]);
}

#[test]
fn a_decision_names_the_slots_that_it_took_and_nothing_else() {
    let bench = Bench::new();
    let decide = |question: &Question<'_>| {
        bench.decider.decide(question, Facade::Unary).get().now_or_never().unwrap().unwrap().held
    };
    let held = |name| HeldCounter { key: CounterKey::new(name), kind: Kind::Concurrency };
    let counters = vec![held("long"), held("short")];
    let held = Held { lease: LEASE, counters, expires_after: Micros::from_secs(9) };
    assert_eq!(decide(&question("/busy", None)).as_deref(), Some(&held));
    assert_eq!(decide(&question("/orders/7", Some("reader"))), None);
    *bench.world.short.lock().unwrap() = Some("per-rule".to_owned());
    assert_eq!(decide(&question("/busy", None)), None, "a refused call holds nothing");
}

#[test]
fn a_reservation_names_all_its_counters_and_ends_with_its_first_slot() {
    let bench = Bench::new();
    let none = BTreeMap::new();
    let charge = |limit| CounterCharge { limit, key: &none, units: 2 };
    let reserve = |limits: &[&'static str], hold| {
        let charges: Vec<_> = limits.iter().map(|limit| charge(*limit)).collect();
        let held = bench.decider.reserve(&charges, hold).get().now_or_never().unwrap().unwrap().held;
        held.map(|held| (held.counters.len(), held.expires_after))
    };
    assert_eq!(reserve(&["long", "short"], Micros::from_secs(60)), Some((2, Micros::from_secs(9))));
    let key = BTreeMap::from([("rule".to_owned(), "x".to_owned())]);
    let charges = [CounterCharge { limit: "per-rule", key: &key, units: 2 }, charge("long")];
    let paid = bench.decider.reserve(&charges, Micros::from_secs(20)).get().now_or_never().unwrap().unwrap();
    assert_eq!(paid.held.unwrap().expires_after, Micros::from_secs(20));
    assert!(bench.world.asked.lock().unwrap().contains(&"for 20s".to_owned()));
    let wrong = [charge("long"), charge("nothing"), charge("long")];
    let Undecidable { violations } =
        bench.decider.reserve(&wrong, Micros(1)).get().now_or_never().unwrap().unwrap_err();
    let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["charges[1].counter.limit", "charges[2].counter"]);
}

#[test]
fn what_is_settled_is_what_limits_of_today_own() {
    let bench = Bench::new();
    let key = |limit: &str, values: &[&str]| {
        let mut key = CounterKey::new(limit);
        for value in values {
            key.push(value);
        }
        let kind = if limit.starts_with("per-") { Kind::SlidingWindow } else { Kind::Concurrency };
        HeldCounter { key, kind }
    };
    let settle = |used: &[(HeldCounter, u64)]| {
        let gone = bench.decider.settle(LEASE, used.to_vec()).get().now_or_never().unwrap().unwrap();
        (gone, std::mem::take(&mut *bench.world.asked.lock().unwrap()))
    };
    let (gone, asked) = settle(&[(key("long", &[]), 3), (key("idle", &[]), 1), (key("per-order", &["7"]), 0)]);
    assert_eq!(gone, ["idle"]);
    assert_eq!(asked, ["settle 3 of \"long\"", "settle 0 of \"per-order 1:7\""]);
    // It counts by another number of attributes now: that is another counter.
    let (gone, asked) = settle(&[(key("per-order", &[]), 1), (key("per-subject", &["ann"]), 1)]);
    assert_eq!((gone, asked.len()), (vec!["per-order".to_owned(), "per-subject".to_owned()], 0));
    // So is one of another algorithm.
    let other = HeldCounter { kind: Kind::FixedWindow, ..key("long", &[]) };
    let (gone, asked) = settle(&[(other, 3), (key("short", &[]), 1)]);
    assert_eq!((gone, asked), (vec!["long".to_owned()], vec!["settle 1 of \"short\"".to_owned()]));
}

/// The proof is asked for after the verdict and before revocations, each time: one is for one call.
#[test]
fn a_bound_token_needs_its_proof_on_every_call() {
    let bench = Bench::new();
    let key = Some([7; 32]);
    let bound = Identity {
        binding: Some(Box::new(Binding { key, ..Binding::default() })),
        ..Identity::vouched_by("https://i")
    };
    bench.world.verdicts.lock().unwrap().insert("bound".to_owned(), Ok(Arc::new(bound)));
    for _ in 0..2 {
        let proofs = Proofs { dpop: vec!["proof"], ..Proofs::default() };
        let (reason, asked) = bench.decide(&Question { proofs, ..question("/anybody", Some("bound")) });
        assert_eq!((reason, asked.join(", ").as_str()), (Reason::Allowed, "token bound, proof, revocations"));
    }
    let (reason, asked) = bench.decide(&question("/anybody", Some("bound")));
    assert_eq!((reason, asked.join(", ").as_str()), (Reason::BindingRequired, "token bound, proof"));
}

/// Beside the rule's, and once where the rule names the same.
#[test]
fn a_callers_own_limits_are_charged_with_those_of_the_rule() {
    let bench = Bench::new();
    let own = |limits: &[&str]| {
        let limits = limits.iter().map(|&name| name.into()).collect();
        let caller = Identity { limits, ..Identity::clone(&identity(&["read"])) };
        bench.world.verdicts.lock().unwrap().insert("own".to_owned(), Ok(Arc::new(caller)));
        bench.decide(&Question { units: 2, ..question("/orders/7", Some("own")) })
    };
    let (reason, asked) = own(&["per-subject", "per-rule"]);
    assert_eq!(reason, Reason::Allowed);
    let paid = [PAID[0], PAID[1], "pay 1 of \"per-rule 12:/orders/{id}\""].map(|text| text.replace("1 of", "2 of"));
    assert_eq!(asked[2..], paid);
    let (reason, asked) = own(&["per-rule", "per-rule"]);
    assert_eq!((reason, &asked[2..]), (Reason::Allowed, &paid[..]), "twice in a list is once");
    let (reason, asked) = own(&["gone"]);
    assert_eq!((reason, asked.len()), (Reason::UnknownApiKey, 2), "nothing is paid");
}

#[test]
fn a_certificate_says_who_calls_where_nothing_else_is_shown() {
    let bench = Bench::new();
    let caller = Ok(Arc::new(Identity::vouched_by("mesh")));
    bench.world.verdicts.lock().unwrap().insert("spiffe://mesh/a".to_owned(), caller);
    let certificate =
        Certificate { thumbprint: [7; 32], names: vec!["spiffe://mesh/a".into()], ..Certificate::default() };
    let proofs = Proofs { certificate: Some(certificate), ..Proofs::default() };
    let asks =
        |credential| bench.decide(&Question { credential, proofs: proofs.clone(), ..question("/anybody", None) }).0;
    assert_eq!(asks(Credential::None), Reason::Allowed);
    assert_eq!(asks(Credential::Bearer("forged")), Reason::BadSignature, "what was shown first counts");
    assert_eq!(asks(Credential::Unreadable), Reason::MalformedToken);
}
