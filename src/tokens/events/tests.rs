//! Logout tokens and security events, honest and otherwise.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![expect(clippy::needless_pass_by_value, reason = "literals stand where they are used")]

use serde_json::{Value, json};

use crate::decide::ports::{Aim, Answer, Away, AwayCause, Clock as _, EventReader as _, Heard, Told, Unheard};
use crate::domain::event::{EventFlaw, EventKind, Events};
use crate::domain::issuer::{Issuer, KeySource};
use crate::domain::revocation::{Target, Which};
use crate::domain::time::Micros;
use crate::tokens::mint::{Bench, ISSUER, NOW, Signer, issuer_of};

const LOGOUT: &str = "http://schemas.openid.net/event/backchannel-logout";
const CAEP: &str = "https://schemas.openid.net/secevent/caep/event-type";
const RISC: &str = "https://schemas.openid.net/secevent/risc/event-type";

struct Fixture {
    bench: Bench,
    signer: Signer,
}

fn telling(signers: &[&Signer]) -> Issuer {
    let events = Events { audiences: vec!["shop".to_owned(), "https://rec.example".to_owned()], poll: None };
    Issuer { events: Some(events), ..issuer_of(signers.iter().copied()) }
}

fn fixture() -> Fixture {
    let (signer, other) = (Signer::ec("k"), Signer::ec("other"));
    let elsewhere = Issuer { issuer: "https://other.example".to_owned(), ..telling(&[&other]) };
    Fixture { bench: Bench::new(vec![telling(&[&signer]), elsewhere]), signer }
}

fn logout_claims() -> Value {
    json!({
        "iss": ISSUER, "aud": "shop", "iat": NOW, "exp": NOW + 120, "jti": "l-1", "sub": "ann", "sid": "s-1",
        "events": { LOGOUT: {} },
    })
}

fn event_claims(kind: &str, subject: Value, event: Value) -> Value {
    json!({
        "iss": ISSUER, "aud": ["https://rec.example"], "iat": NOW - 5, "jti": "e-1", "sub_id": subject,
        "events": { kind: event },
    })
}

fn usual_event() -> Value {
    event_claims(
        &format!("{CAEP}/session-revoked"),
        json!({"format": "iss_sub", "iss": ISSUER, "sub": "ann"}),
        json!({}),
    )
}

/// The same with one member changed; null takes it away.
fn with(mut claims: Value, name: &str, value: Value) -> Value {
    match value {
        Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
        value => claims[name] = value,
    }
    claims
}

impl Fixture {
    fn typed(&self, typ: Option<&str>, claims: &Value) -> String {
        typed(&self.signer, typ, claims)
    }

    async fn read(&self, told: Told<'_>) -> Result<Heard, Unheard> {
        self.bench.tokens.read(told, self.bench.clock.now()).get().await
    }

    async fn logout(&self, claims: &Value) -> Result<Heard, Unheard> {
        self.read(Told::Logout(&self.typed(Some("logout+jwt"), claims))).await
    }

    async fn event(&self, claims: &Value) -> Result<Heard, Unheard> {
        self.read(Told::Event(&self.typed(Some("secevent+jwt"), claims))).await
    }

    async fn targets(&self, claims: &Value) -> Vec<(Target, Which)> {
        let heard = self.event(claims).await.unwrap();
        assert_eq!(heard.missed, usize::from(heard.aims.is_empty()), "{claims}");
        heard.aims.into_iter().map(|aim| (aim.target, aim.which)).collect()
    }
}

fn typed(signer: &Signer, typ: Option<&str>, claims: &Value) -> String {
    let header = match typ {
        None => json!({"alg": "ES256", "kid": signer.kid}),
        Some(typ) => json!({"alg": "ES256", "kid": signer.kid, "typ": typ}),
    };
    signer.compact(&header.to_string(), &claims.to_string())
}

fn refused(outcome: Result<Heard, Unheard>) -> EventFlaw {
    match outcome {
        Err(Unheard::Refused(flaw)) => flaw,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_logout_takes_its_session_back_or_else_all_that_its_subject_has() {
    let fixture = fixture();
    let aim = async |claims: &Value| fixture.logout(claims).await.unwrap().aims;
    let session = Aim { kind: EventKind::Logout, target: Target::session(ISSUER, "s-1"), which: Which::All };
    let subject = Aim { target: Target::subject(ISSUER, "ann"), which: Which::IssuedByNow, ..session.clone() };
    assert_eq!(aim(&logout_claims()).await, std::slice::from_ref(&session));
    assert_eq!(aim(&with(logout_claims(), "sub", Value::Null)).await, [session]);
    assert_eq!(aim(&with(logout_claims(), "sid", Value::Null)).await, [subject]);
    for typ in [None, Some("JWT"), Some("logout+jwt"), Some("application/Logout+JWT")] {
        assert!(fixture.read(Told::Logout(&fixture.typed(typ, &logout_claims()))).await.is_ok(), "{typ:?}");
    }
    let shared = with(logout_claims(), "aud", json!(["else", "shop"]));
    assert!(fixture.logout(&shared).await.is_ok(), "one of several audiences");
}

#[tokio::test]
async fn a_logout_token_with_any_claim_wrong_is_refused() {
    use EventFlaw::*;
    let fixture = fixture();
    let late = NOW - 660;
    for (name, values, flaw) in [
        ("iss", vec![json!("https://stranger.example")], Issuer),
        ("iss", vec![json!(null), json!(5), json!([ISSUER])], Form),
        ("iss", vec![json!("https://other.example")], Key),
        ("aud", vec![json!(null), json!(""), json!([]), json!("orders"), json!("SHOP")], Audience),
        ("aud", vec![json!(5), json!({"a": "shop"}), json!(["shop", 5])], Form),
        ("iat", vec![json!(null), json!("1800000000"), json!(true)], Form),
        ("iat", vec![json!(NOW + 61)], Time),
        ("exp", vec![json!(NOW - 60), json!(0)], Time),
        ("exp", vec![json!("1800000120"), json!(1_800_000_000_000_u64)], Form),
        ("nbf", vec![json!(NOW + 61)], Time),
        ("jti", vec![json!(null), json!(""), json!(5)], Form),
        ("events", vec![json!(null), json!([LOGOUT]), json!("x")], Form),
        ("events", vec![json!({}), json!({"other": {}}), json!({LOGOUT: true}), json!({LOGOUT: []})], Event),
        ("nonce", vec![json!("n"), json!("")], Event),
        ("sid", vec![json!(5), json!("")], Form),
        ("sub", vec![json!(5), json!("")], Form),
    ] {
        for value in values {
            let claims = with(logout_claims(), name, value);
            assert_eq!(refused(fixture.logout(&claims).await), flaw, "{claims}");
        }
    }
    let of_nobody = with(with(logout_claims(), "sub", Value::Null), "sid", Value::Null);
    assert_eq!(refused(fixture.logout(&of_nobody).await), Subject);
    for typ in ["at+jwt", "secevent+jwt", "dpop+jwt", "logout", ""] {
        let token = fixture.typed(Some(typ), &logout_claims());
        assert_eq!(refused(fixture.read(Told::Logout(&token)).await), Type, "{typ}");
    }
    // Ten minutes, and the leeway: also where it says that it lives longer.
    for (iat, exp) in [(late, Value::Null), (late, json!(NOW + 9999))] {
        let old = |iat: u64| with(with(logout_claims(), "iat", json!(iat)), "exp", exp.clone());
        assert_eq!(refused(fixture.logout(&old(iat)).await), Time);
        assert!(fixture.logout(&old(iat + 1)).await.is_ok());
    }
}

#[tokio::test]
async fn nobody_but_the_issuer_is_believed() {
    let fixture = fixture();
    let read = async |token: &str| refused(fixture.read(Told::Logout(token)).await);
    let claims = logout_claims().to_string();
    let forged = Signer::ec("k").compact(&json!({"alg": "ES256", "kid": "k"}).to_string(), &claims);
    assert_eq!(read(&forged).await, EventFlaw::Key);
    let other = Signer::ec("other").compact(&json!({"alg": "ES256", "kid": "other"}).to_string(), &claims);
    assert_eq!(read(&other).await, EventFlaw::Key, "a key of another issuer");
    let good = fixture.typed(None, &logout_claims());
    let unsigned = {
        use base64::Engine as _;
        let b64 = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.{}", b64(r#"{"alg":"none"}"#), b64(&claims), b64("x"))
    };
    for malformed in ["", "a", "a.b.c", &unsigned, &format!("{good}.x"), &good[..good.len() - 2]] {
        assert!(matches!(read(malformed).await, EventFlaw::Form | EventFlaw::Key), "{malformed}");
    }
    let critical = json!({"alg": "ES256", "kid": "k", "crit": ["x"], "x": 1}).to_string();
    assert_eq!(read(&fixture.signer.compact(&critical, &claims)).await, EventFlaw::Form);
}

#[tokio::test]
async fn an_issuer_that_is_not_configured_to_tell_is_not_heard() {
    let signer = Signer::ec("k");
    let bench = Bench::new(vec![issuer_of([&signer])]);
    let token = typed(&signer, Some("logout+jwt"), &logout_claims());
    let outcome = bench.tokens.read(Told::Logout(&token), bench.clock.now()).get().await;
    assert_eq!(refused(outcome), EventFlaw::Issuer);
}

#[tokio::test]
async fn access_tokens_and_what_is_told_never_pass_for_each_other() {
    let fixture = fixture();
    for claims in [crate::tokens::mint::claims(), with(crate::tokens::mint::claims(), "aud", json!("shop"))] {
        for typ in [None, Some("JWT"), Some("at+jwt"), Some("logout+jwt"), Some("secevent+jwt")] {
            let token = fixture.typed(typ, &claims);
            for told in [Told::Logout(&token), Told::Event(&token)] {
                refused(fixture.read(told).await);
            }
        }
    }
    for (typ, claims) in [("logout+jwt", logout_claims()), ("secevent+jwt", usual_event()), ("JWT", logout_claims())] {
        let claims = with(with(claims, "aud", json!(["orders", "shop"])), "exp", json!(NOW + 60));
        let reason = fixture.bench.reason(&fixture.typed(Some(typ), &claims));
        assert_eq!(reason, crate::domain::decision::Reason::WrongType, "{typ}");
    }
    let token = fixture.typed(Some("secevent+jwt"), &with(usual_event(), "aud", json!("shop")));
    assert_eq!(refused(fixture.read(Told::Logout(&token)).await), EventFlaw::Type);
    let token = fixture.typed(Some("logout+jwt"), &logout_claims());
    assert_eq!(refused(fixture.read(Told::Event(&token)).await), EventFlaw::Type);
}

#[tokio::test]
async fn what_was_told_and_done_is_known_again_and_what_was_not_done_is_told_anew() {
    let fixture = fixture();
    let first = fixture.logout(&logout_claims()).await.unwrap();
    assert!(!first.again);
    assert!(!fixture.logout(&logout_claims()).await.unwrap().again, "nobody said that it was done");
    let now = fixture.bench.clock.now();
    fixture.bench.tokens.note(first.receipt, now).get().await.unwrap();
    assert!(fixture.logout(&logout_claims()).await.unwrap().again);
    fixture.bench.tokens.note(first.receipt, now).get().await.unwrap();
    // For as long as it could be told again: 120 s and the leeway, and the margin.
    assert_eq!(first.receipt.keep, Micros::from_secs(120 + 60 + 60));
    let mut other = logout_claims();
    other["jti"] = json!("l-2");
    assert!(!fixture.logout(&other).await.unwrap().again);
    // The ids of issuers are their own.
    let receipt = |issuer, id| super::receipt(&Told::Logout(""), issuer, id, Micros::ZERO).name;
    assert_ne!(receipt("a", "bc"), receipt("ab", "c"));
    // So are those of each kind: an issuer that numbers its events from one on does not lose those that have a logout's number.
    let event = with(usual_event(), "jti", json!("l-1"));
    assert!(!fixture.event(&event).await.unwrap().again);
    fixture.bench.log.set_away(true);
    let away = Away { because: AwayCause::Unreachable };
    assert_eq!(fixture.logout(&logout_claims()).await, Err(Unheard::Away(away)));
    assert!(matches!(fixture.bench.tokens.note(first.receipt, now), Answer::Now(Err(_))));
}

#[tokio::test]
async fn an_issuer_whose_keys_are_away_is_to_tell_it_again() {
    let signer = Signer::ec("k");
    let unreachable = KeySource::Url("http://127.0.0.1:9/keys".to_owned());
    let bench = Bench::new(vec![Issuer { keys: unreachable, ..telling(&[&signer]) }]);
    bench.tokens.first_fetch().await;
    let token = typed(&signer, Some("logout+jwt"), &logout_claims());
    let outcome = bench.tokens.read(Told::Logout(&token), bench.clock.now()).get().await;
    assert!(matches!(outcome, Err(Unheard::Away(_))), "{outcome:?}");
}

#[tokio::test]
async fn events_take_back_what_their_subject_names() {
    let fixture = fixture();
    let (ann, session) = (Target::subject(ISSUER, "ann"), Target::session(ISSUER, "s-1"));
    let by_now = |target: &Target| (target.clone(), Which::IssuedByNow);
    let user = json!({"format": "iss_sub", "iss": ISSUER, "sub": "ann"});
    let opaque = |id: &str| json!({"format": "opaque", "id": id});
    let revoked = format!("{CAEP}/session-revoked");
    for (subject, expected) in [
        (user.clone(), vec![by_now(&ann)]),
        (opaque("s-1"), vec![(session.clone(), Which::All), by_now(&Target::subject(ISSUER, "s-1"))]),
        (json!({"format": "complex", "user": user, "session": opaque("s-1")}), vec![(session.clone(), Which::All)]),
        (json!({"session": opaque("s-1")}), vec![(session.clone(), Which::All)]),
        (json!({"format": "complex", "user": user, "device": opaque("d")}), vec![by_now(&ann)]),
        (json!({"format": "complex", "user": opaque("ann")}), vec![by_now(&ann)]),
        (json!({"format": "jwt_id", "iss": ISSUER, "jti": "t-9"}), vec![(Target::token(ISSUER, "t-9"), Which::All)]),
        (json!({"format": "aliases", "identifiers": [{"format": "email", "email": "a@b"}, user]}), vec![by_now(&ann)]),
        // Nothing that tokens name, or another issuer's.
        (json!({"format": "email", "email": "ann@example.com"}), vec![]),
        (json!({"format": "complex", "tenant": opaque("t")}), vec![]),
        (json!({"format": "iss_sub", "iss": "https://other.example", "sub": "ann"}), vec![]),
        (json!({"format": "jwt_id", "iss": "https://other.example", "jti": "t-9"}), vec![]),
    ] {
        assert_eq!(fixture.targets(&event_claims(&revoked, subject.clone(), json!({}))).await, expected, "{subject}");
    }
    let at = Which::IssuedBy(Micros::from_secs(NOW - 100));
    for kind in [
        format!("{CAEP}/credential-change"),
        format!("{RISC}/account-disabled"),
        format!("{RISC}/account-purged"),
        format!("{RISC}/credential-compromise"),
    ] {
        let of = |subject: &Value, event: Value| event_claims(&kind, subject.clone(), event);
        assert_eq!(fixture.targets(&of(&user, json!({}))).await, [by_now(&ann)]);
        assert_eq!(fixture.targets(&of(&opaque("ann"), json!({}))).await, [by_now(&ann)]);
        let told = of(&user, json!({"event_timestamp": NOW - 100}));
        assert_eq!(fixture.targets(&told).await, [(ann.clone(), at)]);
        let both = json!({"format": "complex", "user": user, "session": opaque("s-1")});
        assert_eq!(fixture.targets(&of(&both, json!({}))).await, [by_now(&ann)], "all of the user's");
    }
    // Where drafts had the subject.
    let mut draft = event_claims(&revoked, Value::Null, json!({"subject": user}));
    draft.as_object_mut().unwrap().remove("sub_id");
    assert_eq!(fixture.targets(&draft).await, [by_now(&ann)]);
}

#[tokio::test]
async fn other_events_are_taken_and_take_nothing_back() {
    let fixture = fixture();
    for uri in [
        "https://schemas.openid.net/secevent/ssf/event-type/verification",
        &format!("{CAEP}/token-claims-change"),
        &format!("{RISC}/account-enabled"),
        LOGOUT,
        "urn:x",
    ] {
        let heard = fixture.event(&event_claims(uri, json!({"format": "opaque", "id": "x"}), json!({}))).await.unwrap();
        assert!(heard.aims.is_empty() && heard.missed == 0 && !heard.again, "{uri}");
    }
}

#[tokio::test]
async fn an_event_with_any_claim_wrong_is_refused() {
    use EventFlaw::*;
    let fixture = fixture();
    let revoked = format!("{CAEP}/session-revoked");
    let many: serde_json::Map<String, Value> = (0..17).map(|index| (format!("urn:{index}"), json!({}))).collect();
    for (name, values, flaw) in [
        ("iss", vec![json!("https://stranger.example")], Issuer),
        ("aud", vec![json!(null), json!("orders")], Audience),
        ("iat", vec![json!(null), json!("x")], Form),
        ("iat", vec![json!(NOW + 61), json!(NOW - 3 * 86_400)], Time),
        ("exp", vec![json!(NOW - 60)], Time),
        ("jti", vec![json!(null), json!(5), json!("")], Form),
        ("events", vec![json!(null), json!("x"), json!({&revoked: 5}), json!({"urn:x": []})], Form),
        ("events", vec![json!({}), Value::Object(many)], Event),
        ("sub_id", vec![json!(null)], Subject),
        ("sub_id", vec![json!("ann"), json!({"format": 5}), json!({"format": "opaque"})], Form),
        ("sub_id", vec![json!({"format": "opaque", "id": ""}), json!({"format": "iss_sub", "sub": "ann"})], Form),
        ("sub_id", vec![json!({"format": "iss_sub", "iss": ISSUER}), json!({"user": 5}), json!({"user": {}})], Form),
        ("sub_id", vec![json!({"format": "aliases"}), json!({"format": "aliases", "identifiers": [5]})], Form),
        ("events", vec![json!({&revoked: {"event_timestamp": "now"}})], Form),
        ("events", vec![json!({&revoked: {"event_timestamp": 1_800_000_000_000_u64}})], Form),
    ] {
        for value in values {
            let claims = with(usual_event(), name, value);
            assert_eq!(refused(fixture.event(&claims).await), flaw, "{claims}");
        }
    }
    for typ in [None, Some("JWT"), Some("at+jwt"), Some("logout+jwt")] {
        assert_eq!(refused(fixture.read(Told::Event(&fixture.typed(typ, &usual_event()))).await), Type, "{typ:?}");
    }
}

#[tokio::test]
async fn a_late_event_counts_as_long_as_it_can_hit_anything() {
    let fixture = fixture();
    // A day, what the clocks may be apart, and the margin.
    let longest = 86_400 + 3 * 60 + 60;
    let told = |ago: u64| with(usual_event(), "iat", json!(NOW - ago));
    assert!(fixture.event(&told(longest - 1)).await.is_ok());
    assert_eq!(refused(fixture.event(&told(longest)).await), EventFlaw::Time);
}
