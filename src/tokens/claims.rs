//! What a verified token says, held against what its issuer's tokens must say.
//!
//! A claim of a wrong type is a refusal, never "not there": else a malformed `exp` would make a token immortal.

use std::sync::Arc;

use super::actors;
use super::binding;
use super::dates::Dates;
use super::json::{Object, Value};
use super::jwt::Verified;
use super::places::{chosen, roles, scopes, strings, text_at};
use super::status;
use crate::domain::decision::Reason;
use crate::domain::identity::{Identity, IdentityKind};
use crate::domain::issuer::{Issuer, NEVER_ACCESS_TOKENS};
use crate::domain::revocation::Tags;
use crate::domain::time::Micros;

/// What is held against a token.
pub(super) struct Accepted {
    /// Whose it is.
    pub identity: Identity,
    /// The first moment of the wall clock at which it is accepted.
    pub from: Micros,
    /// The first one at which it no longer is.
    pub until: Micros,
}

/// Judges a token at `now`, by the wall clock. `name` is the issuer's, shared by all of its identities.
pub(super) fn judge(token: &Verified<'_>, issuer: &Issuer, name: &Arc<str>, now: Micros) -> Result<Accepted, Reason> {
    check_kind(token.typ.as_deref(), &token.claims, issuer)?;
    if issuer.svid && !is_svid(token) {
        return Err(Reason::WrongType);
    }
    judge_claims(&token.claims, IdentityKind::Jwt, issuer, name, now)
}

/// Judges what an issuer answered about an active token (RFC 7662 §2.2), as a JWT's claims are judged. Times may be left
/// out: the issuer itself has been asked just now.
pub(super) fn judge_answer(
    answer: &Object<'_>,
    issuer: &Issuer,
    name: &Arc<str>,
    now: Micros,
) -> Result<Accepted, Reason> {
    if answer.string("iss")?.is_some_and(|given| given != issuer.issuer) {
        return Err(Reason::UnknownIssuer);
    }
    let is_access = |name, kinds: &[&str]| {
        let kind = answer.string(name)?;
        Ok::<_, Reason>(kind.is_none_or(|kind| kinds.iter().any(|access| access.eq_ignore_ascii_case(kind))))
    };
    let is_access = is_access("token_type", &["bearer", "dpop", "access_token"])?
        && is_access("token_use", &["access", "access_token"])?;
    if !is_access || is_other_kind(answer) {
        return Err(Reason::WrongType);
    }
    let accepted = judge_claims(answer, IdentityKind::Opaque, issuer, name, now)?;
    let is_bound = answer.string("token_type")?.is_some_and(|kind| kind.eq_ignore_ascii_case("dpop"));
    // Without the key's thumbprint nobody can tell whose proof would do.
    if is_bound && accepted.identity.binding().key.is_none() { Err(Reason::BindingRequired) } else { Ok(accepted) }
}

fn judge_claims(
    claims: &Object<'_>,
    kind: IdentityKind,
    issuer: &Issuer,
    name: &Arc<str>,
    now: Micros,
) -> Result<Accepted, Reason> {
    let dates = Dates::read(claims)?;
    let audiences = list(claims.get("aud"))?;
    let identity = Identity {
        kind,
        issuer: Arc::clone(name),
        subject: text(claims, "sub")?,
        client: first_text(claims, ["client_id", "azp"])?,
        username: first_text(claims, ["preferred_username", "username"])?,
        may_operate: issuer.operators,
        scopes: scopes(claims, &issuer.scope_claims)?,
        roles: roles(claims, &issuer.role_claims)?,
        audiences,
        token_id: given_name(claims, "jti")?,
        token_hash: None,
        signed_by: None,
        session: given_name(claims, "sid")?,
        tenant: issuer.tenant.as_ref().map(|place| text_at(claims, place)).transpose()?.flatten(),
        actors: actors::read(claims, name)?,
        claims: chosen(claims, &issuer.claims)?,
        names: Box::default(),
        status: match kind {
            IdentityKind::Jwt => status::read(claims)?,
            // Whoever was asked just now knows better than a list.
            IdentityKind::Opaque | IdentityKind::ApiKey | IdentityKind::Certificate => None,
        },
        binding: binding::read(claims)?,
        limits: Box::default(),
        expires_at: dates.expires_at,
        not_before: dates.not_before,
        issued_at: dates.issued_at,
        logged_in_at: dates.logged_in_at,
        tags: Tags::default(),
    };
    if !issuer.binding.is_met_by(identity.binding()) {
        return Err(Reason::BindingRequired);
    }
    let (from, until) = dates.judge(kind, issuer, now)?;
    if !identity.audiences.iter().any(|audience| issuer.audiences.iter().any(|own| **own == **audience)) {
        return Err(Reason::WrongAudience);
    }
    if !issuer.required_claims.iter().all(|required| is_there(claims, required)) {
        return Err(Reason::MissingClaim);
    }
    Ok(Accepted { identity, from, until })
}

/// Whether it is an access token at all: by `typ`, and by the marks of tokens that are something else.
pub(super) fn check_kind(typ: Option<&str>, claims: &Object<'_>, issuer: &Issuer) -> Result<(), Reason> {
    let typ = typ.map(without_application);
    let is = |kind: &str| typ.is_some_and(|typ| typ.eq_ignore_ascii_case(kind));
    let accepted = match typ {
        None => issuer.untyped,
        Some(_) => issuer.types.iter().any(|kind| is(kind)) && !NEVER_ACCESS_TOKENS.into_iter().any(is),
    };
    // RFC 9068 §2.1: no other kind of token has this type, so an ID token's marks are an access token's own business there.
    // An event is one whatever it says of itself.
    let is_declared = is("at+jwt") && !is_event(claims);
    if accepted && (is_declared || !is_other_kind(claims)) { Ok(()) } else { Err(Reason::WrongType) }
}

/// A `typ` as it is compared: without case, and without the prefix.
pub(super) fn kind_of(typ: &str) -> String {
    without_application(typ).to_ascii_lowercase()
}

/// RFC 7515 §4.1.9: the prefix may be left out where no other `/` follows.
fn without_application(typ: &str) -> &str {
    match typ.split_once('/') {
        Some((prefix, rest)) if prefix.eq_ignore_ascii_case("application") && !rest.contains('/') => rest,
        Some(_) | None => typ,
    }
}

/// JWT-SVID §2 and §3.1: nothing else in the header, and the subject a SPIFFE ID.
fn is_svid(token: &Verified<'_>) -> bool {
    let is_id = |subject: &str| subject.strip_prefix("spiffe://").is_some_and(|rest| !rest.is_empty());
    token.has_bare_header && token.claims.string("sub").is_ok_and(|subject| subject.is_some_and(is_id))
}

/// The mark of logout tokens and of all other security events (RFC 8417 §2.2).
fn is_event(claims: &Object<'_>) -> bool {
    claims.has("events")
}

/// The marks of events, of ID tokens (OIDC Core §2, §3.1.3.6), and what Keycloak (`typ`) and Cognito (`token_use`) call
/// their tokens.
fn is_other_kind(claims: &Object<'_>) -> bool {
    let says = |name, kinds: &[&str]| matches!(claims.get(name), Some(Value::String(kind)) if kinds.contains(&&**kind));
    if is_event(claims) || says("typ", &["ID", "Refresh", "Offline", "Logout"]) {
        return true;
    }
    if says("token_use", &["id", "id_token", "refresh", "refresh_token"]) {
        return true;
    }
    // Keycloak before 25 copies `nonce` into access tokens, which it marks as such.
    !says("typ", &["Bearer", "DPoP"]) && ["nonce", "at_hash", "c_hash"].into_iter().any(|name| claims.has(name))
}

/// `aud` (RFC 7519 §4.1.3): one string, or several.
pub(super) fn list(value: Option<&Value<'_>>) -> Result<Box<[Box<str>]>, Reason> {
    match value {
        None => Ok(Box::default()),
        Some(Value::String(one)) => Ok(Box::new([(**one).into()])),
        Some(value) => {
            let mut list = Vec::new();
            strings(value, &mut list)?;
            Ok(list.into())
        }
    }
}

fn text(claims: &Object<'_>, name: &str) -> Result<Option<Box<str>>, Reason> {
    Ok(claims.string(name)?.map(Into::into))
}

/// A name by which tokens are taken back. An empty one would be that of every token that has it.
fn given_name(claims: &Object<'_>, name: &str) -> Result<Option<Box<str>>, Reason> {
    Ok(text(claims, name)?.filter(|name| !name.is_empty()))
}

fn first_text(claims: &Object<'_>, names: [&str; 2]) -> Result<Option<Box<str>>, Reason> {
    let [first, second] = names.map(|name| text(claims, name));
    Ok(first?.or(second?))
}

/// A claim that says nothing is as good as none.
fn is_there(claims: &Object<'_>, name: &str) -> bool {
    !matches!(claims.get(name), None | Some(Value::Null))
        && !matches!(claims.get(name), Some(Value::String(text)) if text.is_empty())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use serde_json::{Value, json};

    use crate::domain::decision::Reason::{self, *};
    use crate::domain::identity::Identity;
    use crate::domain::issuer::{ChosenClaim, ClaimPath, Issuer};
    use crate::domain::time::Micros;
    use crate::tokens::mint::{Bench, ISSUER, NOW, Signer, claims, claims_with, issuer_of};

    struct Fixture {
        bench: Bench,
        signer: Signer,
    }

    fn with(settings: impl FnOnce(&mut Issuer)) -> Fixture {
        let signer = Signer::ec("k");
        let mut issuer = issuer_of([&signer]);
        settings(&mut issuer);
        Fixture { bench: Bench::new(vec![issuer]), signer }
    }

    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    fn seconds(whole: u64) -> f64 {
        whole as f64
    }

    impl Fixture {
        fn reason(&self, claims: &Value) -> Reason {
            self.bench.reason(&self.signer.token(claims))
        }

        fn identity(&self, claims: &Value) -> std::sync::Arc<Identity> {
            self.bench.at_once(&self.signer.token(claims)).0.unwrap()
        }

        /// A claim spelt as JSON text that `serde_json` would not write.
        fn reason_of_text(&self, name: &str, text: &str) -> Reason {
            let claims = claims_with(name, "@").to_string().replace("\"@\"", text);
            self.bench.reason(&self.signer.compact(&self.signer.header().to_string(), &claims))
        }
    }

    #[test]
    fn the_identity_is_what_the_token_says() {
        let mut claims = claims();
        claims["aud"] = json!(["other", "orders"]);
        claims["azp"] = json!("ignored");
        claims["sid"] = json!("s-1");
        claims["preferred_username"] = json!("Ann");
        claims["nbf"] = json!(NOW - 5);
        claims["iat"] = json!(seconds(NOW) - 9.5);
        let identity = with(|_| {}).identity(&claims);
        assert_eq!(&*identity.issuer, crate::tokens::mint::ISSUER);
        assert_eq!(identity.subject.as_deref(), Some("ann"));
        assert_eq!(identity.client.as_deref(), Some("shop"));
        assert_eq!(identity.username.as_deref(), Some("Ann"));
        assert_eq!(identity.token_id.as_deref(), Some("t-1"));
        assert_eq!(identity.session.as_deref(), Some("s-1"));
        assert_eq!(*identity.audiences, ["other", "orders"].map(Box::<str>::from));
        assert_eq!(identity.expires_at, Some(Micros::from_secs(NOW + 300)));
        assert_eq!(identity.not_before, Some(Micros::from_secs(NOW - 5)));
        assert_eq!(identity.issued_at, Some(Micros::from_secs(NOW - 10)), "whole seconds");
        // Else whoever takes back one token, or one session, takes back those of others.
        let unnamed = with(|_| {}).identity(&claims_with("jti", ""));
        assert!(unnamed.token_id.is_none() && unnamed.token_hash.is_some());
        assert_eq!(with(|_| {}).identity(&claims_with("sid", "")).session, None);
        let client = |claims: &Value| with(|_| {}).identity(claims).client.clone();
        assert_eq!(client(&claims_with("client_id", Value::Null)), None);
        let mut claims = claims_with("client_id", Value::Null);
        claims["azp"] = json!("web");
        assert_eq!(client(&claims).as_deref(), Some("web"));
    }

    #[test]
    fn dates_are_numbers_or_the_token_is_malformed() {
        let fixture = with(|_| {});
        for name in ["exp", "nbf", "iat", "auth_time"] {
            for text in [
                "\"1800000000\"",
                "true",
                "null",
                "[1800000000]",
                "{}",
                "1e400",
                "NaN",
                "253402300800",
                "1800000000000",
                "9007199254740993",
                "9223372036854775808",
                "18446744073709551616",
                "1e300",
                "-1e400",
            ] {
                assert_eq!(fixture.reason_of_text(name, text), MalformedToken, "{name} {text}");
            }
        }
        for text in ["1800000100", "1.8000001e9", "1800000100.5", "18000001e2"] {
            assert_eq!(fixture.reason_of_text("exp", text), Allowed, "{text}");
        }
        for text in ["0", "-1", "-1.5", "-9223372036854775808", "1e-300"] {
            assert_eq!(fixture.reason_of_text("exp", text), Expired, "{text}");
        }
    }

    #[test]
    fn a_token_is_good_from_its_first_moment_until_just_before_its_last() {
        for leeway in [0, 60] {
            let fixture = with(|issuer| issuer.leeway = Micros::from_secs(leeway));
            let exp = |at: f64| fixture.reason(&claims_with("exp", at));
            let now = seconds(NOW - leeway);
            assert_eq!(exp(now), Expired);
            assert_eq!(exp(now - 0.001), Expired);
            assert_eq!(exp(now + 0.001), Allowed);
            for name in ["nbf", "iat"] {
                let at = |secs: f64| fixture.reason(&claims_with(name, secs));
                assert_eq!(at(seconds(NOW + leeway)), Allowed, "{name}");
                assert_eq!(at(seconds(NOW + leeway) + 1.0), NotYetValid, "{name}");
            }
            assert_eq!(fixture.reason(&claims_with("nbf", seconds(NOW + leeway) + 0.5)), NotYetValid);
        }
    }

    #[test]
    fn a_token_that_ends_before_it_begins_is_malformed() {
        let mut claims = claims_with("nbf", NOW + 30);
        claims["exp"] = json!(NOW + 20);
        assert_eq!(with(|_| {}).reason(&claims), MalformedToken);
    }

    #[test]
    fn a_tokens_whole_life_is_bounded_not_what_is_left_of_it() {
        let fixture = with(|issuer| issuer.max_token_lifetime = Micros::from_secs(600));
        let lived = |from: u64, to: u64| {
            let mut claims = claims_with("iat", from);
            claims["exp"] = json!(to);
            fixture.reason(&claims)
        };
        assert_eq!(lived(NOW, NOW + 600), Allowed);
        assert_eq!(lived(NOW, NOW + 601), LifetimeTooLong);
        assert_eq!(lived(NOW - 10_000, NOW + 1), LifetimeTooLong, "waiting does not help");
        let mut idle = claims_with("iat", Value::Null);
        idle["nbf"] = json!(NOW - 1);
        assert_eq!(fixture.reason(&idle), MissingClaim, "nbf does not stand in for iat");
    }

    #[test]
    fn one_of_the_audiences_must_be_ours_exactly() {
        let fixture = with(|issuer| issuer.audiences = vec!["orders".to_owned(), "https://api.example".to_owned()]);
        for good in [json!("orders"), json!(["orders"]), json!(["a", "orders", "b"]), json!("https://api.example")] {
            assert_eq!(fixture.reason(&claims_with("aud", good.clone())), Allowed, "{good}");
        }
        for other in [
            json!(""),
            json!([]),
            json!("orders-admin"),
            json!("order"),
            json!("ORDERS"),
            json!("orders/"),
            json!("http://orders"),
            json!(["a", "b"]),
            json!("orders https://api.example"),
            json!("https://api.example/"),
        ] {
            assert_eq!(fixture.reason(&claims_with("aud", other.clone())), WrongAudience, "{other}");
        }
        assert_eq!(fixture.reason(&claims_with("aud", Value::Null)), WrongAudience, "absent");
        for wrong in ["null", "1", "[1]", "[\"orders\",1]", "{\"a\":1}", "[[\"orders\"]]"] {
            assert_eq!(fixture.reason_of_text("aud", wrong), MalformedToken, "{wrong}");
        }
    }

    #[test]
    fn scopes_are_whole_words_of_the_first_claim_that_is_there() {
        let fixture = with(|_| {});
        let scopes = |scope: Value| {
            let identity = fixture.identity(&claims_with("scope", scope));
            identity.scopes.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(scopes(json!("admin:read b")), ["admin:read", "b"]);
        assert_eq!(scopes(json!(" a  b ")), ["a", "b"]);
        assert_eq!(scopes(json!("a\tb\nc d")), ["a\tb\nc", "d"], "only spaces part them");
        assert_eq!(scopes(json!(["a", "b c"])), ["a", "b c"]);
        assert!(scopes(json!("")).is_empty() && scopes(json!([])).is_empty());
        let mut both = claims_with("scp", json!(["x"]));
        assert!(!fixture.identity(&both).has_scope("x"), "scope comes first");
        both.as_object_mut().unwrap().remove("scope");
        assert!(fixture.identity(&both).has_scope("x"));
        for wrong in ["1", "null", "{}", "[1]", "true"] {
            assert_eq!(fixture.reason_of_text("scope", wrong), MalformedToken, "{wrong}");
        }
    }

    #[test]
    fn roles_are_gathered_from_every_claim_that_has_them() {
        let fixture = with(|_| {});
        let mut claims = claims_with("roles", "one role");
        claims["realm_access"] = json!({"roles": ["ADMIN", "user"]});
        claims["resource_access"] = json!({"a": {"roles": ["x"]}, "b.c": {"roles": ["y"]}, "d": {}, "e": 1});
        let identity = fixture.identity(&claims);
        assert_eq!(*identity.roles, ["one role", "ADMIN", "user", "x", "y"].map(Box::<str>::from));
        assert!(identity.has_role("ADMIN") && !identity.has_role("admin") && !identity.has_role("one"));
        for nothing in [json!("x"), json!(1), json!([]), json!({}), json!([{"roles": ["ADMIN"]}])] {
            let claims = claims_with("realm_access", nothing.clone());
            assert!(fixture.identity(&claims).roles.is_empty(), "{nothing}");
        }
        for wrong in [json!({"roles": 1}), json!({"roles": [1]}), json!({"roles": {"ADMIN": true}})] {
            assert_eq!(fixture.reason(&claims_with("realm_access", wrong.clone())), MalformedToken, "{wrong}");
        }
        let literal = with(|issuer| issuer.role_claims = vec![path(&["https://example/roles", "__proto__"])]);
        let claims = claims_with("https://example/roles", json!({"__proto__": ["z"]}));
        assert!(literal.identity(&claims).has_role("z"), "names are taken literally");
    }

    #[test]
    fn a_claim_of_a_wrong_type_is_no_absent_claim() {
        let fixture = with(|_| {});
        for name in ["sub", "client_id", "azp", "jti", "sid", "preferred_username", "username"] {
            for wrong in ["1", "null", "[]", "{}", "true"] {
                assert_eq!(fixture.reason_of_text(name, wrong), MalformedToken, "{name} {wrong}");
            }
        }
    }

    #[test]
    fn a_required_claim_must_say_something() {
        let fixture = with(|issuer| issuer.required_claims = vec!["sub".to_owned(), "tenant".to_owned()]);
        assert_eq!(fixture.reason(&claims()), MissingClaim);
        assert_eq!(fixture.reason(&claims_with("tenant", "t")), Allowed);
        assert_eq!(fixture.reason(&claims_with("tenant", "")), MissingClaim);
        assert_eq!(fixture.reason_of_text("tenant", "null"), MissingClaim);
        for absent in ["exp", "iat"] {
            assert_eq!(with(|_| {}).reason(&claims_with(absent, Value::Null)), MissingClaim, "{absent}");
        }
    }

    fn path(names: &[&str]) -> ClaimPath {
        ClaimPath(names.iter().map(|&name| name.to_owned()).collect())
    }

    fn chosen(name: &str, place: &[&str]) -> ChosenClaim {
        ChosenClaim { name: name.to_owned(), place: path(place) }
    }

    #[test]
    fn the_tenant_and_chosen_claims_are_text_and_nothing_else_will_do() {
        let fixture = with(|issuer| {
            issuer.tenant = Some(path(&["org", "id"]));
            issuer.claims =
                ["plan", "level", "beta", "absent"].map(|name| chosen(&format!("x-{name}"), &[name])).to_vec();
        });
        let mut claims = claims_with("org", json!({"id": 7, "name": "ACME"}));
        claims["plan"] = json!("gold");
        claims["level"] = json!(-3);
        claims["beta"] = json!(true);
        let identity = fixture.identity(&claims);
        assert_eq!(identity.tenant.as_deref(), Some("7"));
        let texts: Vec<_> = identity.claims.iter().map(|(name, text)| (&**name, &**text)).collect();
        assert_eq!(texts, [("x-plan", "gold"), ("x-level", "-3"), ("x-beta", "true")]);
        assert_eq!(fixture.identity(&claims_with("org", "flat")).tenant, None);
        for (name, wrong) in [("plan", json!(["gold"])), ("plan", json!({})), ("org", json!({"id": []}))] {
            assert_eq!(fixture.reason(&claims_with(name, wrong.clone())), MalformedToken, "{name} {wrong}");
        }
        assert_eq!(fixture.reason_of_text("plan", "null"), MalformedToken);
    }

    #[test]
    fn kubernetes_claims_become_the_identitys() {
        let fixture = with(|issuer| {
            issuer.tenant = Some(path(&["kubernetes.io", "namespace"]));
            issuer.claims = vec![
                chosen("service-account", &["kubernetes.io", "serviceaccount", "name"]),
                chosen("pod", &["kubernetes.io", "pod", "name"]),
            ];
        });
        let mut claims = claims_with("sub", "system:serviceaccount:shop:checkout");
        claims["kubernetes.io"] = json!({
            "namespace": "shop",
            "node": {"name": "n-1", "uid": "1"},
            "pod": {"name": "checkout-7d9f", "uid": "2"},
            "serviceaccount": {"name": "checkout", "uid": "3"},
            "warnafter": NOW + 60,
        });
        let identity = fixture.identity(&claims);
        assert_eq!(identity.subject.as_deref(), Some("system:serviceaccount:shop:checkout"));
        assert_eq!(identity.tenant.as_deref(), Some("shop"));
        let texts: Vec<_> = identity.claims.iter().map(|(name, text)| (&**name, &**text)).collect();
        assert_eq!(texts, [("service-account", "checkout"), ("pod", "checkout-7d9f")]);
    }

    #[test]
    fn who_acts_is_read_from_the_current_actor_back_and_never_guessed() {
        let fixture = with(|_| {});
        let act = json!({
            "sub": "gateway",
            "act": {"iss": "https://other.example", "sub": "batch", "act": {"client_id": "cron", "iss": ISSUER}},
        });
        let identity = fixture.identity(&claims_with("act", act));
        let actors: Vec<_> = identity
            .actors
            .iter()
            .map(|actor| (actor.issuer.as_deref(), actor.subject.as_deref(), actor.client.as_deref()))
            .collect();
        let expected = [
            (None, Some("gateway"), None),
            (Some("https://other.example"), Some("batch"), None),
            (None, None, Some("cron")),
        ];
        assert_eq!(actors, expected);
        assert_eq!(identity.subject.as_deref(), Some("ann"), "never the subject");
        let chain = |length: usize| {
            let inner = (1..length).fold(json!({"sub": "first"}), |act, _| json!({"sub": "next", "act": act}));
            fixture.reason(&claims_with("act", inner))
        };
        assert_eq!((chain(8), chain(9)), (Allowed, TokenTooLarge));
        for wrong in [
            json!("gateway"),
            json!(["gateway"]),
            json!({}),
            json!({"sub": ""}),
            json!({"sub": 1}),
            json!({"iss": ISSUER}),
            json!({"sub": "a", "iss": 1}),
            json!({"sub": "a", "client_id": []}),
            json!({"sub": "a", "act": "b"}),
            json!({"sub": "a", "act": {}}),
        ] {
            assert_eq!(fixture.reason(&claims_with("act", wrong.clone())), MalformedToken, "{wrong}");
        }
        assert_eq!(fixture.reason_of_text("act", "null"), MalformedToken);
    }

    #[test]
    fn a_token_may_be_no_older_than_its_issuer_says() {
        let fixture = with(|issuer| {
            issuer.max_age = Some(Micros::from_secs(100));
            issuer.leeway = Micros::from_secs(5);
        });
        let made = |secs: u64| fixture.reason(&claims_with("iat", NOW - secs));
        assert_eq!((made(104), made(105), made(1000)), (Allowed, TokenTooOld, TokenTooOld));
        let token = fixture.signer.token(&claims_with("iat", NOW - 50));
        assert_eq!(fixture.bench.reason(&token), Allowed);
        fixture.bench.clock.pass(Micros::from_secs(54));
        assert!(fixture.bench.at_once(&token).1, "remembered");
        fixture.bench.clock.pass(Micros::from_secs(1));
        assert_eq!(fixture.bench.reason(&token), TokenTooOld, "nor is it remembered for longer");
    }

    #[test]
    fn when_the_subject_logged_in_is_told() {
        let identity = with(|_| {}).identity(&claims_with("auth_time", NOW - 70));
        assert_eq!(identity.logged_in_at, Some(Micros::from_secs(NOW - 70)));
    }

    #[test]
    fn an_svid_has_a_bare_header_and_a_spiffe_id() {
        let fixture = with(|issuer| {
            issuer.svid = true;
            issuer.types = vec!["jwt".to_owned(), "jose".to_owned()];
        });
        let with = |header: Value, subject: &str| {
            let claims = claims_with("sub", subject).to_string();
            fixture.bench.reason(&fixture.signer.compact(&header.to_string(), &claims))
        };
        let id = "spiffe://example.org/ns/shop/sa/checkout";
        for header in [
            json!({"alg": "ES256"}),
            json!({"alg": "ES256", "kid": "k", "typ": "JWT"}),
            json!({"alg": "ES256", "kid": "k", "typ": "JOSE"}),
        ] {
            assert_eq!(with(header.clone(), id), Allowed, "{header}");
        }
        for header in [
            json!({"alg": "ES256", "kid": "k", "typ": "at+jwt"}),
            json!({"alg": "ES256", "kid": "k", "typ": "JWT", "cty": "x"}),
            json!({"alg": "ES256", "jku": "https://a.example"}),
        ] {
            assert_eq!(with(header.clone(), id), WrongType, "{header}");
        }
        for subject in ["ann", "spiffe://", "SPIFFE://example.org/x", "https://example.org"] {
            assert_eq!(with(json!({"alg": "ES256"}), subject), WrongType, "{subject}");
        }
    }
}
