//! What a gateway's client is told of a decision over HTTP, whichever façade the gateway asks: status, fields and body.

use std::borrow::Cow;
use std::fmt::Write as _;

use http::StatusCode;
use serde_json::{Value, json};
use tonic::Code;

use super::codes::{Codes, sentence};
use super::native::status::told;
use crate::decide::{Undecidable, Violation};
use crate::domain::decision::{Class, Decision, QuotaState, QuotaStates, QuotaVerdict, Reason};
use crate::domain::issuer::{Algorithm, BindingDemand};
use crate::domain::policy::{Caller, Demand};
use crate::domain::question::{Credential, Question};

/// What problem details are written in (RFC 9457 §3).
pub(super) const PROBLEM: &str = "application/problem+json";

/// The problem type of a quota that is used up (draft-ietf-httpapi-ratelimit-headers). Other problems are no more than
/// their status says: `about:blank` (RFC 9457 §4.2.1).
const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";

/// When something could not be found out, clients are asked to wait for so long, in seconds.
const RETRY_SECONDS: &str = "1";

/// A list of two limits has room in so many bytes, so that it is not moved while it grows.
const LIST_BYTES: usize = 128;

/// A field of an answer: its name in lower case, and its value, which is visible ASCII and spaces.
pub(super) type Field = (&'static str, String);

/// What the client is answered in the service's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Over HTTP.
    pub status: StatusCode,
    /// For clients of gRPC.
    pub code: Code,
    /// Fields of the answer, without `content-type`. `www-authenticate` may be there twice.
    pub fields: Vec<Field>,
    /// What is wrong, in a sentence.
    pub detail: Cow<'static, str>,
    /// The same as problem details (RFC 9457), of the type [`PROBLEM`].
    pub body: String,
}

impl Refusal {
    /// Why the call of `question` may not go on, by a decision that refuses it.
    pub(super) fn of(decision: &Decision, question: &Question<'_>) -> Self {
        let reason = decision.reason;
        let Codes { native: _, http: status, grpc: code } = Codes::of(reason);
        let mut fields: Vec<Field> = told_anyway(decision).collect();
        for challenge in challenges(decision, question) {
            fields.push(("www-authenticate", challenge));
        }
        let is_away = reason.class() == Class::DependencyUnavailable;
        let wait = if is_away {
            Some(RETRY_SECONDS.to_owned())
        } else {
            decision.retry_after().map(|wait| wait.as_secs_ceil().max(1).to_string())
        };
        fields.extend(wait.map(|wait| ("retry-after", wait)));
        fields.push(no_store());
        // Which part of the house is away is nothing to the client.
        let detail =
            if is_away { "It could not be found out whether the call may go on; try again." } else { sentence(reason) };
        let mut problem = problem(status, detail);
        if !is_away {
            problem["reason"] = reason.name().into();
        }
        if reason == Reason::QuotaExceeded {
            problem["type"] = QUOTA_EXCEEDED.into();
            problem["title"] = "Request cannot be satisfied as assigned quota has been exceeded".into();
            let short = decision.quotas.iter().filter(|state| !state.verdict.is_granted());
            problem["violated-policies"] = short.map(|state| state.limit.name.as_str()).collect();
        }
        Self { status, code, fields, detail: detail.into(), body: problem.to_string() }
    }

    /// What is wrong with a question that could not be decided.
    pub(super) fn malformed(Undecidable { violations }: &Undecidable) -> Self {
        let (sentence, named) = told(violations);
        let status = StatusCode::BAD_REQUEST;
        let mut problem = problem(status, &sentence);
        problem["violations"] = named
            .iter()
            .map(|Violation { field, description }| json!({ "field": field, "description": description }))
            .collect();
        let body = problem.to_string();
        Self { status, code: Code::InvalidArgument, fields: vec![no_store()], detail: sentence.into(), body }
    }
}

/// What a client is told whether its call may go on or not: where it stands with its quotas, and the nonce of its next
/// proof (RFC 9449 §8).
pub(super) fn told_anyway(decision: &Decision) -> impl Iterator<Item = Field> {
    let fields = [
        policies(&decision.quotas).map(|policies| ("ratelimit-policy", policies)),
        limits(&decision.quotas).map(|limits| ("ratelimit", limits)),
        decision.dpop_nonce.as_deref().map(|nonce| ("dpop-nonce", nonce.to_owned())),
    ];
    fields.into_iter().flatten()
}

fn no_store() -> Field {
    ("cache-control", "no-store".to_owned())
}

/// Problem details that say no more than the status and a sentence.
pub(super) fn problem(status: StatusCode, detail: &str) -> Value {
    json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or_default(),
        "status": status.as_u16(),
        "detail": detail,
    })
}

/// The value of `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers): what each limit admits in its window, in whole
/// seconds. They are rounded up: whoever goes by that is never refused for it. None where there is no limit.
fn policies(quotas: &QuotaStates) -> Option<String> {
    listed(quotas.iter(), |text, QuotaState { limit, .. }| {
        let _ = write!(text, "\"{}\";q={}", limit.name, limit.units());
        // Names are such that nothing in them has to be escaped (`Limit::is_name`).
        match limit.hold() {
            Some(_) => text.push_str(";qu=\"concurrent-requests\""),
            None => drop(write!(text, ";w={}", limit.window().as_secs_ceil())),
        }
    })
}

/// The value of `RateLimit`: what is left of each limit, and in how many seconds it is more; where the call was refused,
/// in how many it fits. None where nothing is known.
fn limits(quotas: &QuotaStates) -> Option<String> {
    let known = quotas.iter().filter(|state| state.verdict != QuotaVerdict::Away);
    listed(known, |text, QuotaState { limit, verdict, remaining, reset_after }| {
        let _ = write!(text, "\"{}\";r={remaining}", limit.name);
        let more_in = match verdict {
            QuotaVerdict::Short { retry_after } => *retry_after,
            QuotaVerdict::Granted | QuotaVerdict::Never | QuotaVerdict::Away => *reset_after,
        };
        if more_in.0 > 0 {
            let _ = write!(text, ";t={}", more_in.as_secs_ceil());
        }
    })
}

/// A list of structured fields (RFC 9651 §3.1); none where it would be empty.
fn listed<'a>(
    states: impl Iterator<Item = &'a QuotaState>,
    write: impl Fn(&mut String, &'a QuotaState),
) -> Option<String> {
    let mut text = String::new();
    for state in states {
        if text.is_empty() {
            text.reserve(LIST_BYTES);
        } else {
            text.push_str(", ");
        }
        write(&mut text, state);
    }
    (!text.is_empty()).then_some(text)
}

/// How the client is to show who it is (RFC 6750 §3, RFC 9449 §7.1, RFC 9470 §3); nothing where that would not help.
fn challenges(decision: &Decision, question: &Question<'_>) -> Vec<String> {
    let reason = decision.reason;
    let demand = demanded(decision);
    let by_dpop = matches!(question.credential, Credential::Dpop(_));
    let shown = if by_dpop { dpop } else { bearer };
    match (reason, reason.class()) {
        // Nothing was shown, so no error is named.
        (Reason::NoCredential, _) => match demand.map(|caller| caller.binding) {
            Some(BindingDemand::Dpop) => vec![dpop("")],
            Some(BindingDemand::Nothing | BindingDemand::AnyKey | BindingDemand::Certificate) | None => {
                vec![bearer("")]
            }
        },
        (Reason::UseDpopNonce | Reason::InvalidDpopProof, _) => vec![dpop(&error(reason.name(), reason))],
        // A key may be what is wanted, or a certificate.
        (Reason::BindingRequired, _) if !by_dpop => {
            let error = error("invalid_token", reason);
            vec![bearer(&error), dpop(&error)]
        }
        (Reason::TokenTooOld, _) => match demand.and_then(|caller| caller.max_login_age) {
            // It is the rule that finds it too old where the caller is known.
            Some(age) if decision.identity.is_some() => {
                let error = error("insufficient_user_authentication", reason);
                vec![shown(&format!("{error}, max_age=\"{}\"", age.as_secs()))]
            }
            Some(_) | None => vec![shown(&error("invalid_token", reason))],
        },
        (Reason::InsufficientScope, _) => {
            let error = error("insufficient_scope", reason);
            vec![shown(&format!("{error}, scope=\"{}\"", decision.required_scopes.join(" ")))]
        }
        (_, Class::Unauthenticated) => vec![shown(&error("invalid_token", reason))],
        (_, Class::Allow | Class::PermissionDenied | Class::QuotaExceeded | Class::DependencyUnavailable) => Vec::new(),
    }
}

fn bearer(parameters: &str) -> String {
    format!("Bearer realm=\"tollgate\"{parameters}")
}

fn dpop(parameters: &str) -> String {
    let algorithms = Algorithm::ASYMMETRIC.map(Algorithm::name).join(" ");
    format!("DPoP realm=\"tollgate\"{parameters}, algs=\"{algorithms}\"")
}

fn error(code: &str, reason: Reason) -> String {
    format!(", error=\"{code}\", error_description=\"{}\"", sentence(reason))
}

/// What the rule that decided demands of its caller.
fn demanded(decision: &Decision) -> Option<&Caller> {
    match decision.rule.and_then(|index| decision.policy.rules.get(index)).map(|rule| &rule.demand) {
        Some(Demand::Caller(caller)) => Some(caller),
        Some(Demand::Anyone) | None => None,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::sync::Arc;

    use super::*;
    use crate::domain::identity::Identity;
    use crate::domain::limit::{Algorithm as Counting, Limit, Occasion, WhenAway};
    use crate::domain::path::{Leniency, Method, Target};
    use crate::domain::policy::{Match, Policy, Rule};
    use crate::domain::slots::Slots;
    use crate::domain::time::Micros;

    fn limit(name: &str, algorithm: Counting) -> Arc<Limit> {
        Arc::new(Limit {
            name: name.to_owned(),
            algorithm,
            by: Vec::new(),
            when_away: WhenAway::Deny,
            charge: Occasion::AfterAuth,
        })
    }

    fn state(limit: &Arc<Limit>, remaining: u64, verdict: QuotaVerdict) -> QuotaState {
        QuotaState { limit: Arc::clone(limit), verdict, remaining, reset_after: Micros::from_millis(4_100) }
    }

    fn question(credential: Credential<'static>) -> Question<'static> {
        let method = Method::parse("GET").unwrap();
        Question { credential, ..Question::of(method, Target::parse("/orders", method, None).unwrap()) }
    }

    fn decision(reason: Reason, caller: Caller, quotas: Vec<QuotaState>) -> Decision {
        let rule = Rule {
            name: "orders".to_owned(),
            matches: Match::default(),
            leniency: Leniency::default(),
            guard: None,
            early: None,
            demand: Demand::Caller(caller),
            limits: Vec::new(),
        };
        Decision {
            reason,
            policy: Arc::new(Policy { rules: vec![rule].into(), ..Policy::default() }),
            rule: Some(0),
            identity: None,
            quotas: quotas.into(),
            required_scopes: vec!["orders:read".to_owned(), "route:a".to_owned()],
            held: None,
            dpop_nonce: None,
            explanation: None,
        }
    }

    fn refused(reason: Reason) -> Refusal {
        Refusal::of(&decision(reason, Caller::default(), Vec::new()), &question(Credential::Bearer("x")))
    }

    fn values<'a>(refusal: &'a Refusal, name: &str) -> Vec<&'a str> {
        refusal.fields.iter().filter(|(own, _)| *own == name).map(|(_, value)| value.as_str()).collect()
    }

    fn window(units: u64, millis: u64) -> Counting {
        Counting::SlidingWindow { units, window: Micros::from_millis(millis) }
    }

    #[test]
    fn limits_are_told_as_structured_fields() {
        let slots = Slots { units: 3, hold: Micros::from_secs(9) };
        let granted = decision(
            Reason::Allowed,
            Caller::default(),
            vec![
                state(&limit("per-client", window(100, 60_000)), 99, QuotaVerdict::Granted),
                state(&limit("a.b", window(5, 1_500)), 4, QuotaVerdict::Granted),
                state(&limit("slots", Counting::Concurrency(slots)), 2, QuotaVerdict::Granted),
                state(&limit("gone", window(7, 1_000)), 0, QuotaVerdict::Away),
            ],
        );
        assert_eq!(
            told_anyway(&granted).collect::<Vec<_>>(),
            [
                (
                    "ratelimit-policy",
                    r#""per-client";q=100;w=60, "a.b";q=5;w=2, "slots";q=3;qu="concurrent-requests", "gone";q=7;w=1"#
                        .to_owned()
                ),
                ("ratelimit", r#""per-client";r=99;t=5, "a.b";r=4;t=5, "slots";r=2;t=5"#.to_owned()),
            ]
        );
        assert_eq!(told_anyway(&decision(Reason::Allowed, Caller::default(), Vec::new())).count(), 0);
    }

    #[test]
    fn a_quota_that_is_used_up_says_which_and_how_long_to_wait() {
        let short = QuotaVerdict::Short { retry_after: Micros::from_millis(7_001) };
        let quotas = vec![
            state(&limit("daily", window(10, 1_000)), 3, QuotaVerdict::Granted),
            state(&limit("spikes", window(5, 1_000)), 0, short),
        ];
        let decision = decision(Reason::QuotaExceeded, Caller::default(), quotas);
        let refusal = Refusal::of(&decision, &question(Credential::Bearer("x")));
        assert_eq!((refusal.status.as_u16(), refusal.code), (429, Code::ResourceExhausted));
        assert_eq!(values(&refusal, "retry-after"), ["8"]);
        assert_eq!(values(&refusal, "ratelimit"), [r#""daily";r=3;t=5, "spikes";r=0;t=8"#]);
        let body: Value = serde_json::from_str(&refusal.body).unwrap();
        assert_eq!(body["violated-policies"], json!(["spikes"]));
        assert_eq!((&body["type"], &body["status"]), (&json!(QUOTA_EXCEEDED), &json!(429)));
    }

    #[test]
    fn a_cost_that_never_fits_is_not_worth_waiting_for() {
        let quotas = vec![state(&limit("spikes", window(5, 1_000)), 5, QuotaVerdict::Never)];
        let decision = decision(Reason::QuotaExceeded, Caller::default(), quotas);
        let refusal = Refusal::of(&decision, &question(Credential::None));
        assert!(values(&refusal, "retry-after").is_empty());
    }

    #[test]
    fn what_is_away_is_nothing_to_the_client() {
        for reason in [Reason::StoreAway, Reason::KeysAway, Reason::IssuerAway, Reason::RevocationsAway, Reason::Busy] {
            let refusal = refused(reason);
            assert_eq!((refusal.status.as_u16(), refusal.code), (503, Code::Unavailable));
            assert_eq!(values(&refusal, "retry-after"), ["1"]);
            assert!(!refusal.body.contains(reason.name()) && !refusal.body.contains("store"), "{}", refusal.body);
        }
    }

    #[test]
    fn challenges_say_what_another_credential_would_have_to_be() {
        let challenge = |reason, caller: Caller, credential| {
            let refusal = Refusal::of(&decision(reason, caller, Vec::new()), &question(credential));
            values(&refusal, "www-authenticate").join(" | ")
        };
        let any = Caller::default;
        let bearer = Credential::Bearer("x");
        assert_eq!(challenge(Reason::NoCredential, any(), Credential::None), r#"Bearer realm="tollgate""#);
        assert_eq!(
            challenge(Reason::Expired, any(), bearer),
            r#"Bearer realm="tollgate", error="invalid_token", error_description="The token has expired.""#
        );
        assert_eq!(
            challenge(Reason::InsufficientScope, any(), bearer),
            "Bearer realm=\"tollgate\", error=\"insufficient_scope\", error_description=\"A scope that the rule demands \
             was not granted.\", scope=\"orders:read route:a\""
        );
        assert_eq!(challenge(Reason::InsufficientRole, any(), bearer), "");
        assert_eq!(challenge(Reason::QuotaExceeded, any(), bearer), "");
        let algorithms = r#"algs="RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 EdDSA""#;
        for (reason, error) in [
            (Reason::UseDpopNonce, "use_dpop_nonce"),
            (Reason::InvalidDpopProof, "invalid_dpop_proof"),
            (Reason::Expired, "invalid_token"),
        ] {
            let challenge = challenge(reason, any(), Credential::Dpop("x"));
            assert!(challenge.starts_with(&format!("DPoP realm=\"tollgate\", error=\"{error}\"")), "{challenge}");
            assert!(challenge.ends_with(algorithms), "{challenge}");
        }
        let both = challenge(Reason::BindingRequired, any(), bearer);
        assert!(both.starts_with("Bearer ") && both.contains(" | DPoP "), "{both}");
        let bound = Caller { binding: BindingDemand::Dpop, ..any() };
        assert_eq!(
            challenge(Reason::NoCredential, bound, Credential::None),
            format!("DPoP realm=\"tollgate\", {algorithms}")
        );
    }

    #[test]
    fn a_rule_that_wants_a_recent_login_says_how_recent() {
        let caller = Caller { max_login_age: Some(Micros::from_secs(300)), ..Caller::default() };
        let stale = decision(Reason::TokenTooOld, caller, Vec::new());
        let known = Decision { identity: Some(Arc::new(Identity::vouched_by("i"))), ..stale.clone() };
        let of = |decision: &Decision| Refusal::of(decision, &question(Credential::Bearer("x")));
        let step_up = of(&known);
        let [challenge] = values(&step_up, "www-authenticate")[..] else { panic!("{step_up:?}") };
        assert!(challenge.contains(r#"error="insufficient_user_authentication""#), "{challenge}");
        assert!(challenge.ends_with(r#"max_age="300""#), "{challenge}");
        // The issuer's own bound: another login would not do.
        assert!(values(&of(&stale), "www-authenticate")[0].contains("invalid_token"));
    }

    #[test]
    fn every_refusal_has_fields_that_can_be_sent_and_says_what_it_is() {
        for reason in Reason::ALL.into_iter().filter(|reason| !reason.allows()) {
            let nonce = Some("nonce".into());
            let decision = Decision { dpop_nonce: nonce, ..decision(reason, Caller::default(), Vec::new()) };
            let refusal = Refusal::of(&decision, &question(Credential::Bearer("x")));
            for (name, value) in &refusal.fields {
                assert!(http::HeaderName::from_lowercase(name.as_bytes()).is_ok(), "{name}");
                // RFC 6750 §3 has neither of them within quotes.
                let inner = value.matches(['\\', '"']).count() % 2;
                assert!(value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) && inner == 0, "{value}");
            }
            assert_eq!(values(&refusal, "dpop-nonce"), ["nonce"]);
            let body: Value = serde_json::from_str(&refusal.body).unwrap();
            assert_eq!(body["status"], refusal.status.as_u16());
            assert!(body["title"].as_str().is_some_and(|title| !title.is_empty()), "{body}");
            let unauthenticated = reason.class() == Class::Unauthenticated;
            assert_eq!(refusal.status.as_u16() == 401, unauthenticated);
            let challenged = !values(&refusal, "www-authenticate").is_empty();
            assert_eq!(unauthenticated || reason == Reason::InsufficientScope, challenged);
        }
    }

    #[test]
    fn a_question_that_is_not_well_formed_is_told_field_by_field() {
        let violation = |field: &str| Violation { field: field.to_owned(), description: "is \"odd\"".to_owned() };
        let refusal = Refusal::malformed(&Undecidable { violations: vec![violation("a"), violation("b")] });
        assert_eq!((refusal.status.as_u16(), refusal.code), (400, Code::InvalidArgument));
        assert_eq!(refusal.detail, "a is \"odd\"; b is \"odd\"");
        let body: Value = serde_json::from_str(&refusal.body).unwrap();
        assert_eq!(body["violations"][1], json!({ "field": "b", "description": "is \"odd\"" }));
    }
}
