//! Tokens as attackers and careless issuers make them, where it takes more than one question to see what becomes of them:
//! loops over bits and keys, what is remembered, settings that no configuration has. The list of attacks is `tests/attacks/`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::jwt::TOKEN_BYTES_MAX;
use super::mint::{Bench, NOW, Signer, claims, claims_with, issuer, issuer_of, set};
use super::remembered::REMEMBERED_FOR;
use crate::decide::ports::{Clock as _, Shown, TokenInspector as _};
use crate::domain::decision::Reason;
use crate::domain::decision::Reason::*;
use crate::domain::identity::Binding;
use crate::domain::issuer::{Algorithm, BindingDemand, Issuer, KeySource};
use crate::domain::secret::Secret;

fn b64(text: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// One trusted P-256 key, `k`.
fn bench() -> (Bench, Signer) {
    let signer = Signer::ec("k");
    (Bench::new(vec![issuer_of([&signer])]), signer)
}

fn check(bench: &Bench, cases: impl IntoIterator<Item = (impl AsRef<str>, Reason)>) {
    for (token, reason) in cases {
        let token = token.as_ref();
        let shown: String = token.chars().take(400).collect();
        assert_eq!(bench.reason(token), reason, "{shown}");
    }
}

#[test]
fn a_token_has_one_spelling() {
    let (bench, signer) = bench();
    // 64 bytes of signature leave four unused bits in the last character.
    let good = signer.token(&claims());
    let last = good.chars().last().unwrap();
    assert!("AQgw".contains(last), "{last}");
    let twin = char::from_u32(u32::from(last) + 1).unwrap();
    let respelt = format!("{}{twin}", &good[..good.len() - 1]);
    assert_eq!(bench.reason(&respelt), MalformedToken);
    assert_eq!(bench.reason(&good), Allowed);
}

/// What is known goes past limits of failures: it must be good, and finding out must cost nothing.
#[test]
fn a_token_is_known_while_its_verdict_is_remembered_and_nobody_looks_at_others() {
    let (bench, signer) = bench();
    let (good, forged) = (signer.token(&claims()), Signer::ec("k").token(&claims()));
    let knows = |token: &str| bench.tokens.knows(Shown::Token(token), bench.clock.now());
    assert!(!knows(&good), "nobody has verified it");
    check(&bench, [(&good, Allowed), (&forged, BadSignature)]);
    assert!(knows(&good) && !knows(&forged) && !knows(&good[..good.len() - 1]) && !knows("a.b.c"));
    assert!(!knows(&"x".repeat(TOKEN_BYTES_MAX + 1)));
    let lookups = || {
        let text = bench.telemetry.render();
        let lines = text.lines().filter(|line| line.starts_with("tollgate_verdict_lookups_total"));
        lines.map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let before = lookups();
    assert!(knows(&good) && !knows(&forged));
    assert_eq!(lookups(), before, "nothing is counted");
    bench.clock.pass(REMEMBERED_FOR);
    assert!(!knows(&good));
}

#[test]
fn large_tokens_are_refused_before_they_are_read() {
    let (bench, signer) = bench();
    let fill = |count: usize| signer.token(&claims_with("fill", "x".repeat(count)));
    let room = (TOKEN_BYTES_MAX - fill(0).len()) / 4 * 3;
    assert_eq!(bench.reason(&fill(room - 4)), Allowed);
    assert_eq!(bench.reason(&fill(room + 4)), TokenTooLarge);
    assert_eq!(bench.reason(&".".repeat(1 << 20)), TokenTooLarge);
    let header = json!({"alg": "ES256", "kid": "k", "fill": "x".repeat(3100)}).to_string();
    assert_eq!(bench.reason(&signer.compact(&header, &claims().to_string())), TokenTooLarge);
    let members: serde_json::Map<String, Value> = (0..512).map(|index| (format!("m{index}"), json!(0))).collect();
    assert_eq!(bench.reason(&signer.token(&claims_with("more", members))), TokenTooLarge);
    assert_eq!(bench.reason(&signer.token(&claims_with(&"n".repeat(1025), 1))), TokenTooLarge);
}

/// A token with a code instead of a signature.
fn coded(alg: &str, kid: Option<&str>, secret: &[u8]) -> String {
    let hash = match alg {
        "HS384" => hmac::HMAC_SHA384,
        "HS512" => hmac::HMAC_SHA512,
        _ => hmac::HMAC_SHA256,
    };
    let header = kid.map_or_else(|| json!({"alg": alg}), |kid| json!({"alg": alg, "kid": kid}));
    let input = format!("{}.{}", b64(header.to_string()), b64(claims().to_string()));
    let tag = hmac::sign(&hmac::Key::new(hash, secret), input.as_bytes());
    format!("{input}.{}", b64(tag))
}

#[test]
fn a_shared_secret_is_for_the_algorithms_that_its_issuer_names() {
    let secret = "0123456789abcdef".repeat(4);
    let mut shared = issuer(KeySource::Secret(Secret::new(secret.clone())));
    shared.algorithms = vec![Algorithm::HS256, Algorithm::HS512];
    let bench = Bench::new(vec![shared.clone()]);
    let forged = "0123456789abcdef".repeat(3) + "0123456789abcdeF";
    check(
        &bench,
        [
            (coded("HS256", None, secret.as_bytes()), Allowed),
            (coded("HS256", Some("any"), secret.as_bytes()), Allowed),
            (coded("HS512", None, secret.as_bytes()), Allowed),
            (coded("HS384", None, secret.as_bytes()), BadAlgorithm),
            (coded("HS256", None, forged.as_bytes()), BadSignature),
            (coded("HS256", None, b""), BadSignature),
            (Signer::ec("k").token(&claims()), BadAlgorithm),
        ],
    );
    let good = coded("HS256", None, secret.as_bytes());
    assert_eq!(bench.reason(&good[..good.len() - 3]), BadSignature, "cut short");
    assert!(bench.at_once(&good).1, "remembered");
    shared.keys = KeySource::Secret(Secret::new(forged));
    bench.tokens.adopt(vec![shared.clone()]).unwrap();
    assert_eq!(bench.reason(&good), BadSignature, "another secret ends what the old one vouched for");
    let refused = |change: &dyn Fn(&mut Issuer)| {
        let mut issuer = shared.clone();
        change(&mut issuer);
        bench.tokens.adopt(vec![issuer]).is_err()
    };
    assert!(refused(&|issuer| issuer.algorithms.push(Algorithm::ES256)), "never together with public keys");
    assert!(refused(&|issuer| issuer.keys = issuer_of([&Signer::ec("k")]).keys));
    assert!(refused(&|issuer| issuer.keys = KeySource::Secret(Secret::new("x".repeat(63)))), "shorter than HS512");
    assert!(!format!("{shared:?}").contains("0123456789abcdef"));
}

#[test]
fn an_algorithm_must_fit_the_key_and_the_issuer() {
    let rsa = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"];
    let signer = Signer::rsa("r", 0);
    for of_key in rsa {
        let bench = Bench::new(vec![issuer(KeySource::Inline(set([signer.jwk_with("alg", of_key)])))]);
        for of_token in rsa {
            let header = json!({"alg": of_token, "kid": "r"}).to_string();
            let expected = if of_key == of_token { Allowed } else { BadAlgorithm };
            assert_eq!(bench.reason(&signer.compact(&header, &claims().to_string())), expected, "{of_key} {of_token}");
        }
    }
    let (p256, p384, ed) = (Signer::ec("k"), Signer::ec384("l"), Signer::ed("m"));
    let bench = Bench::new(vec![issuer_of([&p256, &p384, &ed])]);
    for (signer, alg) in [(&p256, "ES384"), (&p384, "ES256"), (&p256, "EdDSA"), (&ed, "ES256"), (&p256, "RS256")] {
        let header = json!({"alg": alg, "kid": signer.kid}).to_string();
        assert_eq!(bench.reason(&signer.compact(&header, &claims().to_string())), BadAlgorithm, "{alg}");
    }
    let mut narrow = issuer_of([&p256, &p384]);
    narrow.algorithms = vec![Algorithm::ES384];
    let bench = Bench::new(vec![narrow]);
    check(&bench, [(p256.token(&claims()), BadAlgorithm), (p384.token(&claims()), Allowed)]);
}

#[test]
fn a_token_without_kid_is_tried_with_a_few_keys_that_fit() {
    let signers: Vec<Signer> = (0..6).map(|index| Signer::ec(&format!("k{index}"))).collect();
    let header = json!({"alg": "ES256"}).to_string();
    let without_kid = |signer: &Signer| signer.compact(&header, &claims().to_string());
    let one = Bench::new(vec![issuer_of([&signers[0], &Signer::ed("other")])]);
    check(&one, [(without_kid(&signers[0]), Allowed), (without_kid(&signers[1]), BadSignature)]);
    let many = Bench::new(vec![issuer_of(&signers)]);
    check(
        &many,
        [
            (without_kid(&signers[0]), Allowed),
            (without_kid(&signers[3]), Allowed),
            (without_kid(&signers[4]), UnknownKey),
            (without_kid(&Signer::ec("k0")), UnknownKey),
        ],
    );
    let ed = Bench::new(vec![issuer_of([&Signer::ed("other")])]);
    check(&ed, [(without_kid(&signers[0]), UnknownKey)]);
}

#[test]
fn a_changed_bit_anywhere_is_noticed() {
    for signer in [Signer::ec("k"), Signer::ed("k"), Signer::rsa("k", 0)] {
        let bench = Bench::new(vec![issuer_of([&signer])]);
        let good = signer.token(&claims());
        let [_, _, signature]: [&str; 3] = good.split('.').collect::<Vec<_>>().try_into().unwrap();
        let bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let input = &good[..good.len() - signature.len() - 1];
        for bit in (0..bytes.len() * 8).step_by(7) {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(bench.reason(&format!("{input}.{}", b64(changed))), BadSignature, "bit {bit}");
        }
        for length in [0, 1, 63, 65, 128, bytes.len() - 1, bytes.len() + 1] {
            let mut changed = bytes.clone();
            changed.resize(length, 0);
            if changed == bytes {
                continue;
            }
            let expected = if length == 0 { MalformedToken } else { BadSignature };
            assert_eq!(bench.reason(&format!("{input}.{}", b64(changed))), expected, "{length} bytes");
        }
        let other = signer.token(&claims_with("sub", "root"));
        let payload = other.split('.').nth(1).unwrap();
        let header = good.split('.').next().unwrap();
        assert_eq!(bench.reason(&format!("{header}.{payload}.{signature}")), BadSignature);
        assert_eq!(bench.reason(&good), Allowed);
    }
}

#[test]
fn ecdsa_signatures_in_another_form_are_refused_and_the_twin_is_accepted() {
    let (bench, signer) = bench();
    let good = signer.token(&claims());
    let (input, signature) = good.rsplit_once('.').unwrap();
    let bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let with = |bytes: &[u8]| format!("{input}.{}", b64(bytes));
    let mut der = vec![0x30, 70, 2, 33, 0];
    der.extend(&bytes[..32]);
    der.extend([2, 33, 0]);
    der.extend(&bytes[32..]);
    assert_eq!(bench.reason(&with(&der)), BadSignature);
    let order = hex("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551");
    for (r, s) in
        [(&[0; 32][..], &bytes[32..]), (&bytes[..32], &[0; 32]), (&order, &bytes[32..]), (&bytes[..32], &order)]
    {
        assert_eq!(bench.reason(&with(&[r, s].concat())), BadSignature);
    }
    let mut one = [0; 32];
    one[31] = 1;
    assert_eq!(bench.reason(&with(&[one, one].concat())), BadSignature);
    // s → n − s verifies too: whoever revokes must not go by the signature.
    let mut twin = order;
    let mut borrow = 0;
    for (digit, s) in twin.iter_mut().zip(&bytes[32..]).rev() {
        let difference = i16::from(*digit) - i16::from(*s) - borrow;
        borrow = i16::from(difference < 0);
        *digit = u8::try_from(difference.rem_euclid(256)).unwrap();
    }
    let twin = bench.at_once(&with(&[&bytes[..32], &twin].concat()));
    let (original, remembered) = bench.at_once(&good);
    assert_eq!(twin.0.unwrap(), original.unwrap());
    assert!(!remembered, "two spellings, two verdicts");
}

#[test]
fn only_access_tokens_are_access_tokens() {
    let (bench, signer) = bench();
    let typed =
        |typ: &str| signer.compact(&json!({"alg": "ES256", "kid": "k", "typ": typ}).to_string(), &claims().to_string());
    for typ in ["at+jwt", "AT+JWT", "application/at+jwt", "Application/AT+jwt", "JWT", "jwt"] {
        assert_eq!(bench.reason(&typed(typ)), Allowed, "{typ}");
    }
    let never =
        ["dpop+jwt", "logout+jwt", "secevent+jwt", "token-introspection+jwt", "statuslist+jwt", "oauth-authz-req+jwt"];
    let mut careless = issuer_of([&signer]);
    careless.types.extend(never.map(str::to_owned));
    let careless = Bench::new(vec![careless]);
    for typ in never.into_iter().chain(["", "JOSE", "application/x/at+jwt", "application/", "at+jwt "]) {
        assert_eq!(bench.reason(&typed(typ)), WrongType, "{typ}");
        assert_eq!(careless.reason(&typed(typ)), WrongType, "{typ}");
    }
    let untyped = signer.compact(&json!({"alg": "ES256", "kid": "k"}).to_string(), &claims().to_string());
    assert_eq!(bench.reason(&untyped), Allowed);
    let mut strict = issuer_of([&signer]);
    strict.types = vec!["at+jwt".to_owned()];
    strict.untyped = false;
    let strict = Bench::new(vec![strict]);
    check(&strict, [(untyped, WrongType), (typed("JWT"), WrongType), (typed("application/at+jwt"), Allowed)]);
    let number = signer.compact(&json!({"alg": "ES256", "kid": "k", "typ": 1}).to_string(), &claims().to_string());
    assert_eq!(bench.reason(&number), MalformedToken);
}

#[test]
fn a_token_that_is_bound_to_a_key_says_so_with_its_verdict_or_is_refused() {
    let (bench, signer) = bench();
    let token = signer.token(&claims_with("cnf", json!({"jkt": b64([1; 32]), "x5t#S256": b64([2; 32])})));
    for remembered in [false, true] {
        let (verdict, was_remembered) = bench.at_once(&token);
        let both = Binding { certificate: Some([2; 32]), key: Some([1; 32]) };
        assert_eq!((verdict.unwrap().binding(), was_remembered), (both, remembered));
    }
    check(
        &bench,
        [
            (signer.token(&claims_with("cnf", json!({"unknown": "x"}))), BindingRequired),
            (signer.token(&claims_with("cnf", json!({}))), BindingRequired),
            (signer.token(&claims_with("cnf", json!({"jkt": "x"}))), MalformedToken),
            (signer.token(&claims_with("cnf", json!({"x5t#S256": "x"}))), MalformedToken),
            (signer.token(&claims_with("cnf", "x")), MalformedToken),
            (
                signer.compact(&signer.header().to_string(), &claims().to_string().replacen('{', "{\"cnf\":null,", 1)),
                MalformedToken,
            ),
        ],
    );
}

#[test]
fn an_issuer_whose_tokens_must_be_bound_has_no_other_tokens() {
    let signer = Signer::ec("k");
    let bound = |names: &[&str]| {
        let members = names.iter().map(|&name| (name.to_owned(), json!(b64([1; 32]))));
        signer.token(&claims_with("cnf", members.collect::<serde_json::Map<_, _>>()))
    };
    let (unbound, certificate, key) = (signer.token(&claims()), bound(&["x5t#S256"]), bound(&["jkt"]));
    let both = bound(&["jkt", "x5t#S256"]);
    for (binding, unbound_is, certificate_is, key_is) in [
        (BindingDemand::Nothing, Allowed, Allowed, Allowed),
        (BindingDemand::AnyKey, BindingRequired, Allowed, Allowed),
        (BindingDemand::Certificate, BindingRequired, Allowed, BindingRequired),
        (BindingDemand::Dpop, BindingRequired, BindingRequired, Allowed),
    ] {
        let bench = Bench::new(vec![Issuer { binding, ..issuer_of([&signer]) }]);
        let cases = [(&unbound, unbound_is), (&certificate, certificate_is), (&key, key_is), (&both, Allowed)];
        check(&bench, cases);
    }
}

#[test]
fn other_libraries_tokens_are_accepted() {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let (x, y) = pair.public_key_raw()[1..].split_at(32);
    let jwk = json!({"kty": "EC", "crv": "P-256", "kid": "j", "use": "sig", "alg": "ES256", "x": b64(x), "y": b64(y)});
    let bench = Bench::new(vec![issuer(KeySource::Inline(set([jwk])))]);
    let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
    header.kid = Some("j".to_owned());
    let key = jsonwebtoken::EncodingKey::from_ec_der(&pair.serialize_der());
    assert_eq!(bench.reason(&jsonwebtoken::encode(&header, &claims(), &key).unwrap()), Allowed);
}

#[test]
fn a_remembered_verdict_follows_the_wall_clock_wherever_it_is_set() {
    let (bench, signer) = bench();
    let token = signer.token(&claims());
    assert!(!bench.at_once(&token).1);
    assert!(bench.at_once(&token).1);
    bench.clock.set_wall(NOW + 360);
    assert_eq!(bench.reason(&token), Expired);
    bench.clock.set_wall(NOW);
    assert!(!bench.at_once(&token).1, "what has ended is verified anew");
    assert!(bench.at_once(&token).1);
    bench.clock.set_wall(NOW - 3600);
    assert_eq!(bench.reason(&token), NotYetValid);
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

proptest! {
    #[test]
    fn any_text_leads_to_a_reason(token in "\\PC{0,80}") {
        let (bench, _) = bench();
        prop_assert!(!bench.reason(&token).allows());
    }

    #[test]
    fn any_parts_lead_to_a_reason(
        header in prop::collection::vec(any::<u8>(), 0..60),
        payload in prop::collection::vec(any::<u8>(), 0..60),
        signature in prop::collection::vec(any::<u8>(), 0..70),
    ) {
        let (bench, signer) = bench();
        let token = |header: &[u8]| format!("{}.{}.{}", b64(header), b64(&payload), b64(&signature));
        prop_assert!(!bench.reason(&token(&header)).allows());
        prop_assert!(!bench.reason(&token(signer.header().to_string().as_bytes())).allows());
    }

    #[test]
    fn a_changed_character_anywhere_is_never_accepted(place in any::<prop::sample::Index>(), with in "[A-Za-z0-9_.-]") {
        let (bench, signer) = bench();
        let good = signer.token(&claims());
        let place = place.index(good.len());
        let mut changed = good.clone();
        changed.replace_range(place..=place, &with);
        prop_assert_eq!(bench.reason(&changed).allows(), changed == good);
    }
}
