//! Good texts, changed here and there as a fuzzer does it, for every parser that strangers reach: headers, claims, whole
//! tokens, key sets, proofs, answers of introspection, logout tokens and security events, status lists.
//!
//! Each run makes a few hundred of each; `PROPTEST_CASES=200000 cargo test --lib fuzz` makes more than a million in all. What
//! a parser takes is held against `serde_json`, which reads leniently: nothing may be taken that reads otherwise there.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, LazyLock};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::FutureExt as _;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::json;

use super::json::{self, Bounds, Number, Value};
use super::mint::{Bench, ISSUER, NOW, Signer, claims, issuer, issuer_of, set};
use super::{events, jwks, opaque, status};
use crate::decide::ports::{Answer, Clock as _, EventReader as _, TokenInspector as _, Told};
use crate::domain::event::{EventKind, Events};
use crate::domain::identity::{Binding, Identity};
use crate::domain::issuer::{Algorithm, KeySource};
use crate::domain::path::{Host, Method, Target};
use crate::domain::question::{Credential, Mode, Proofs, Question};
use crate::domain::secret::Secret;
use crate::domain::time::Micros;

const BOUNDS: Bounds = Bounds { depth: 32, members: 512, name_bytes: 1024 };
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Texts that parsers stumble over.
const STUMBLING: [&[u8]; 40] = [
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b".",
    b"..",
    b"=",
    b"~",
    b" ",
    b"\t",
    b"\n",
    b"\0",
    b"\xff",
    b"\xc0\xaf",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b"\\u0000",
    b"\\ud800",
    b"\\u0061",
    b"null",
    b"true",
    b"1e400",
    b"-0",
    b"0.5",
    b"18446744073709551616",
    b"\"exp\":0,",
    b"\"alg\":\"none\",",
    b"\"crit\":[\"x\"],",
    b"\"aud\":[\"orders\"],",
    b"\"active\":true,",
    b"\"b64\":false,",
    b"\"iss\":\"\",",
    b"\"kid\":\"k\",",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    b"{\"a\":{\"a\":",
    b"\"cnf\":{},",
];

/// A change of a text.
#[derive(Clone, Debug)]
enum Change {
    Flip(Index, u8),
    Insert(Index, &'static [u8]),
    Remove(Index, usize),
    Repeat(Index, usize),
    Cut(Index),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let place = any::<Index>;
    let change = prop_oneof![
        3 => (place(), 1u8..).prop_map(|(at, bits)| Change::Flip(at, bits)),
        4 => (place(), select(&STUMBLING[..])).prop_map(|(at, what)| Change::Insert(at, what)),
        2 => (place(), 1..12usize).prop_map(|(at, length)| Change::Remove(at, length)),
        2 => (place(), 1..40usize).prop_map(|(at, length)| Change::Repeat(at, length)),
        1 => place().prop_map(Change::Cut),
    ];
    prop::collection::vec(change, 1..5)
}

fn changed(text: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut text = text.to_vec();
    for change in changes {
        let end = text.len();
        match change {
            Change::Flip(at, bits) if end > 0 => text[at.index(end)] ^= bits,
            Change::Insert(at, what) => {
                let at = at.index(end + 1);
                text.splice(at..at, what.iter().copied());
            }
            Change::Remove(at, length) if end > 0 => {
                let at = at.index(end);
                text.drain(at..(at + length).min(end));
            }
            Change::Repeat(at, length) if end > 0 => {
                let at = at.index(end);
                let again = text[at..(at + length).min(end)].to_vec();
                text.splice(at..at, again);
            }
            Change::Cut(at) if end > 0 => text.truncate(at.index(end)),
            Change::Flip(..) | Change::Remove(..) | Change::Repeat(..) | Change::Cut(_) => {}
        }
    }
    text
}

/// An issuer that shares a secret with us, whose tags cost next to nothing; and one with a key.
static SHARING: LazyLock<Bench> = LazyLock::new(|| {
    let mut sharing = issuer(KeySource::Secret(Secret::new(SECRET.to_owned())));
    sharing.algorithms = vec![Algorithm::HS256];
    sharing.events = Some(Events { audiences: vec!["shop".to_owned()], poll: None });
    Bench::new(vec![sharing])
});
static SIGNING: LazyLock<(Bench, Signer, String)> = LazyLock::new(|| {
    let signer = Signer::ec("k");
    let good = signer.token(&claims());
    (Bench::new(vec![issuer_of([&signer])]), signer, good)
});

/// A token with a good tag, whatever it says.
fn tagged(header: &[u8], payload: &[u8]) -> String {
    let input = format!("{}.{}", b64(header), b64(payload));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), input.as_bytes());
    format!("{input}.{}", b64(tag.as_ref()))
}

fn b64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Whether both readers see the same.
fn same(ours: &Value<'_>, theirs: &serde_json::Value) -> bool {
    match ours {
        Value::Null => theirs.is_null(),
        Value::Bool(own) => theirs.as_bool() == Some(*own),
        Value::Number(Number::Unsigned(own)) => theirs.as_u64() == Some(*own),
        Value::Number(Number::Negative(own)) => theirs.as_i64() == Some(*own),
        Value::Number(Number::Float(own)) => theirs.as_f64() == Some(*own),
        Value::String(own) => theirs.as_str() == Some(own),
        Value::Array(own) => theirs.as_array().is_some_and(|theirs| {
            own.len() == theirs.len() && own.iter().zip(theirs).all(|(own, theirs)| same(own, theirs))
        }),
        Value::Object(own) => theirs.as_object().is_some_and(|theirs| {
            // As many, so none stands there twice.
            own.len() == theirs.len()
                && theirs.iter().all(|(name, theirs)| own.get(name).is_some_and(|own| same(own, theirs)))
        }),
    }
}

fn header() -> String {
    json!({"alg": "HS256", "kid": "k", "typ": "at+jwt"}).to_string()
}

/// Whatever is accepted says so to a lenient reader, too.
fn is_a_good_payload(payload: &[u8]) -> bool {
    let Ok(claims) = serde_json::from_slice::<serde_json::Value>(payload) else { return false };
    let is_for_us = |audience: &serde_json::Value| audience == "orders";
    let (now, leeway, date) = (f64::from(u32::try_from(NOW).unwrap()), 60.0, |name: &str| claims[name].as_f64());
    claims["iss"] == ISSUER
        && (is_for_us(&claims["aud"]) || claims["aud"].as_array().is_some_and(|list| list.iter().any(is_for_us)))
        && date("exp").is_some_and(|exp| now < exp + leeway)
        && date("iat").is_some_and(|iat| now >= iat - leeway)
        && date("nbf").is_none_or(|nbf| now >= nbf - leeway)
        && claims["cnf"].is_null()
}

proptest! {
    #[test]
    fn json_that_is_taken_reads_the_same_elsewhere(changes in changes(), of_claims in any::<bool>()) {
        let text = if of_claims { claims().to_string() } else { header() };
        let text = changed(text.as_bytes(), &changes);
        if let Ok(object) = json::object(&text, BOUNDS) {
            let theirs = serde_json::from_slice(&text).unwrap();
            prop_assert!(same(&Value::Object(object), &theirs), "{}", String::from_utf8_lossy(&text));
        }
    }

    #[test]
    fn a_header_is_accepted_only_with_the_algorithm_and_nothing_critical(changes in changes()) {
        let header = changed(header().as_bytes(), &changes);
        if SHARING.reason(&tagged(&header, claims().to_string().as_bytes())).allows() {
            let header: serde_json::Value = serde_json::from_slice(&header).unwrap();
            prop_assert!(header["alg"] == "HS256" && header.get("crit").is_none() && header["b64"] != false, "{header}");
        }
    }

    #[test]
    fn claims_are_accepted_only_where_they_name_issuer_audience_and_time(changes in changes()) {
        let payload = changed(claims().to_string().as_bytes(), &changes);
        if SHARING.reason(&tagged(header().as_bytes(), &payload)).allows() {
            prop_assert!(is_a_good_payload(&payload), "{}", String::from_utf8_lossy(&payload));
        }
    }

    #[test]
    fn a_token_is_accepted_only_as_it_was_made(changes in changes()) {
        let (bench, _, good) = &*SIGNING;
        let token = changed(good.as_bytes(), &changes);
        if let Ok(token) = std::str::from_utf8(&token) {
            prop_assert_eq!(bench.reason(token).allows(), token == good);
        }
    }

    #[test]
    fn a_key_set_has_an_answer(changes in changes()) {
        let (_, signer, _) = &*SIGNING;
        let text = changed(set([signer.jwk(), Signer::rsa("r", 0).jwk()]).as_bytes(), &changes);
        if let Ok(reading) = jwks::read(&text) {
            prop_assert!(reading.keys.len() <= reading.listed);
        }
    }

    #[test]
    fn an_answer_of_introspection_is_good_only_where_it_says_active(changes in changes()) {
        let mut answer = claims();
        answer["active"] = json!(true);
        let answer = changed(answer.to_string().as_bytes(), &changes);
        let settings = issuer(KeySource::Unneeded);
        if opaque::is_good(&answer, &settings, &Arc::from(ISSUER), Micros::from_secs(NOW)) {
            let theirs: serde_json::Value = serde_json::from_slice(&answer).unwrap();
            prop_assert!(theirs["active"] == true, "{theirs}");
        }
    }

    #[test]
    fn a_logout_is_heard_only_where_it_says_whose_and_a_lenient_reader_sees_it_too(changes in changes()) {
        let good = json!({
            "iss": ISSUER, "aud": "shop", "iat": NOW, "jti": "l", "sub": "ann", "sid": "s", "events": {LOGOUT: {}},
        });
        let payload = changed(good.to_string().as_bytes(), &changes);
        if let Some(heard) = heard(&tagged(br#"{"alg":"HS256","typ":"logout+jwt"}"#, &payload), Told::Logout) {
            let theirs: serde_json::Value = serde_json::from_slice(&payload).unwrap();
            prop_assert!(
                is_told_to_us(&theirs)
                    && theirs["iat"].is_number() && theirs["jti"].is_string() && theirs.get("nonce").is_none()
                    && theirs["events"][LOGOUT].is_object() && heard == 1,
                "{theirs}"
            );
        }
    }

    #[test]
    fn an_event_takes_back_only_what_a_lenient_reader_sees_too(changes in changes()) {
        let disabled = EventKind::AccountDisabled.uri();
        let subject = json!({"format": "complex", "user": {"format": "iss_sub", "iss": ISSUER, "sub": "ann"}});
        let good = json!({
            "iss": ISSUER, "aud": ["shop"], "iat": NOW, "jti": "e", "sub_id": subject,
            "events": {disabled: {"event_timestamp": NOW}},
        });
        let payload = changed(good.to_string().as_bytes(), &changes);
        let header = br#"{"alg":"HS256","typ":"secevent+jwt"}"#;
        if let Some(1..) = heard(&tagged(header, &payload), Told::Event) {
            let theirs: serde_json::Value = serde_json::from_slice(&payload).unwrap();
            prop_assert!(
                is_told_to_us(&theirs) && theirs["events"][disabled].is_object() && theirs["sub_id"].is_object(),
                "{theirs}"
            );
        }
    }

    #[test]
    fn an_answer_with_events_has_an_answer(changes in changes()) {
        let good = json!({"sets": {"a": "x.y.z", "b": "u.v.w"}, "moreAvailable": true}).to_string();
        let text = changed(good.as_bytes(), &changes);
        if events::poll::Polled::read(&text).is_some() {
            let theirs: serde_json::Value = serde_json::from_slice(&text).unwrap();
            prop_assert!(theirs["sets"].is_object(), "{theirs}");
        }
    }

    #[test]
    fn a_status_list_is_believed_only_where_it_says_which(changes in changes()) {
        let good = json!({
            "sub": "https://l.example", "iat": NOW, "exp": NOW + 60, "ttl": 60,
            "status_list": {"bits": 1, "lst": "eNrbuRgAAhcBXQ"},
        });
        let payload = changed(good.to_string().as_bytes(), &changes);
        let token = tagged(br#"{"alg":"HS256","typ":"statuslist+jwt"}"#, &payload);
        if status::is_good(&token, "https://l.example", SECRET, Micros::from_secs(NOW)) {
            let theirs: serde_json::Value = serde_json::from_slice(&payload).unwrap();
            prop_assert!(theirs["sub"] == "https://l.example" && theirs["iat"].is_number(), "{theirs}");
        }
    }

    #[test]
    fn a_proof_is_accepted_only_as_it_was_made(changes in changes()) {
        let (bench, _, token) = &*SIGNING;
        let proof = changed(PROOF.1.as_bytes(), &changes);
        if let Ok(proof) = std::str::from_utf8(&proof) {
            let method = Method::parse("GET").unwrap();
            let host = Host::parse("api.example").unwrap();
            let target = Target::parse("/me", method, Some(&host)).unwrap();
            let question = Question {
                credential: Credential::Dpop(token),
                proofs: Proofs { dpop: vec![proof], ..Proofs::default() },
                host: Some(host),
                mode: Mode::Peek,
                ..Question::of(method, target)
            };
            let Answer::Now(proved) = bench.tokens.prove(&PROOF.0, &question, bench.clock.now()) else {
                return Err(TestCaseError::fail("would wait"));
            };
            prop_assert_eq!(proved.outcome.is_ok(), proof == PROOF.1);
        }
    }
}

const LOGOUT: &str = EventKind::Logout.uri();

/// Whether what is told names its issuer, and us.
fn is_told_to_us(claims: &serde_json::Value) -> bool {
    let is_us = |audience: &serde_json::Value| audience == "shop";
    claims["iss"] == ISSUER
        && (is_us(&claims["aud"]) || claims["aud"].as_array().is_some_and(|list| list.iter().any(is_us)))
}

/// How much is to be taken back by what is told; none where it is not believed.
fn heard<'t>(token: &'t str, told: impl FnOnce(&'t str) -> Told<'t>) -> Option<usize> {
    let read = SHARING.tokens.read(told(token), SHARING.clock.now()).get().now_or_never().unwrap();
    read.ok().map(|heard| heard.aims.len())
}

/// Whose token is bound to a key, and the proof that goes with it for a `GET` of `https://api.example/me`.
static PROOF: LazyLock<(Arc<Identity>, String)> = LazyLock::new(|| {
    let hash = |text: &str| -> [u8; 32] {
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes()).as_ref().try_into().unwrap()
    };
    let holder = Signer::ec("holder");
    let mut jwk = holder.jwk();
    jwk.as_object_mut().unwrap().remove("kid");
    // RFC 7638 §3: the members in order, which is that of the map.
    let binding = Some(Box::new(Binding { certificate: None, key: Some(hash(&jwk.to_string())) }));
    let header = json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk}).to_string();
    let ath = b64(&hash(&SIGNING.2));
    let claims = json!({"jti": "p", "htm": "GET", "htu": "https://api.example/me", "iat": NOW, "ath": ath}).to_string();
    (Arc::new(Identity { binding, ..Identity::vouched_by(ISSUER) }), holder.compact(&header, &claims))
});

#[test]
fn what_is_not_changed_is_accepted() {
    assert!(SHARING.reason(&tagged(header().as_bytes(), claims().to_string().as_bytes())).allows());
    assert!(is_a_good_payload(claims().to_string().as_bytes()));
    assert!(!is_a_good_payload(b"{}"));
    let logout = json!({"iss": ISSUER, "aud": "shop", "iat": NOW, "jti": "l", "sid": "s", "events": {LOGOUT: {}}});
    assert_eq!(heard(&tagged(br#"{"alg":"HS256"}"#, logout.to_string().as_bytes()), Told::Logout), Some(1));
}
