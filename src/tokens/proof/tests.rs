//! Proofs as clients, careless ones and attackers make them, each really signed.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::dpop::Flaw;
use crate::decide::ports::{Answer, Clock as _, Proved, TokenInspector as _};
use crate::domain::decision::Reason::{self, *};
use crate::domain::identity::{Binding, Identity, Thumbprint};
use crate::domain::path::{Host, Method, Target};
use crate::domain::question::{Certificate, Credential, Mode, Proofs, Question};
use crate::domain::time::Micros;
use crate::tokens::mint::{Bench, NOW, Signer};

const TOKEN: &str = "the.access.token";
const SECRET: &str = "a secret of thirty-two bytes or more";

/// A question without a credential.
pub(super) fn question<'a>(method: &'a str, host: &'a str, path: &'a str) -> Question<'a> {
    let method = Method::parse(method).unwrap();
    let host = (!host.is_empty()).then(|| Host::parse(host).unwrap());
    let target = Target::parse(path, method, host.as_ref()).unwrap();
    Question { host, ..Question::of(method, target) }
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn hash(text: &str) -> Thumbprint {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    digest.as_ref().try_into().unwrap()
}

/// The public key as RFC 7638 §3 writes it.
fn canonical(jwk: &Value) -> String {
    let members: &[&str] = match jwk["kty"].as_str().unwrap() {
        "EC" => &["crv", "kty", "x", "y"],
        "OKP" => &["crv", "kty", "x"],
        _ => &["e", "kty", "n"],
    };
    let members: Vec<String> = members.iter().map(|name| format!("\"{name}\":{}", jwk[*name])).collect();
    format!("{{{}}}", members.join(","))
}

/// A client whose tokens are bound to its key.
struct Client {
    signer: Signer,
    header: Value,
    claims: Value,
}

impl Client {
    fn new(signer: Signer) -> Self {
        let mut jwk = signer.jwk();
        jwk.as_object_mut().unwrap().remove("kid");
        let header = json!({"typ": "dpop+jwt", "alg": signer.header()["alg"], "jwk": jwk});
        let claims = json!({
            "jti": "p-1", "htm": "GET", "htu": "https://api.example/orders/1", "iat": NOW, "ath": b64(hash(TOKEN)),
        });
        Self { signer, header, claims }
    }

    fn key(&self) -> Thumbprint {
        hash(&canonical(&self.header["jwk"]))
    }

    fn identity(&self) -> Identity {
        let binding = Some(Box::new(Binding { certificate: None, key: Some(self.key()) }));
        Identity { binding, ..Identity::vouched_by("https://i") }
    }

    fn proof(&self) -> String {
        self.signer.compact(&self.header.to_string(), &self.claims.to_string())
    }

    /// One with a member of the claims changed; null takes it away.
    fn with(&self, name: &str, value: impl Into<Value>) -> String {
        self.signer.compact(&self.header.to_string(), &changed(&self.claims, name, value.into()).to_string())
    }

    /// The same for the header.
    fn headed(&self, name: &str, value: impl Into<Value>) -> String {
        self.signer.compact(&changed(&self.header, name, value.into()).to_string(), &self.claims.to_string())
    }
}

fn changed(object: &Value, name: &str, value: Value) -> Value {
    let mut object = object.clone();
    match value {
        Value::Null => drop(object.as_object_mut().unwrap().remove(name)),
        value => object[name] = value,
    }
    object
}

fn bench() -> Bench {
    Bench::new(Vec::new())
}

fn proved(bench: &Bench, identity: &Identity, question: &Question<'_>) -> Proved {
    match bench.tokens.prove(&identity.clone().into(), question, bench.clock.now()) {
        Answer::Now(proved) => proved,
        Answer::Later(_) => panic!("would wait"),
    }
}

fn reason(bench: &Bench, identity: &Identity, question: &Question<'_>) -> Reason {
    proved(bench, identity, question).outcome.err().unwrap_or(Allowed)
}

/// The reason for a `GET` of `https://api.example/orders/1` with that proof.
fn judge(bench: &Bench, identity: &Identity, proof: &str) -> Reason {
    reason(bench, identity, &shown(Credential::Dpop(TOKEN), &[proof]))
}

fn shown<'a>(credential: Credential<'a>, dpop: &[&'a str]) -> Question<'a> {
    let proofs = Proofs { dpop: dpop.to_vec(), ..Proofs::default() };
    Question { credential, proofs, ..question("GET", "api.example", "/orders/1") }
}

fn counted(bench: &Bench, flaw: Flaw) -> bool {
    let line = format!("tollgate_dpop_proofs_refused_total{{cause=\"{}\"}} 0", flaw.name());
    !bench.telemetry.render().contains(&line)
}

#[test]
fn whoever_signs_for_this_call_with_the_bound_key_holds_it_whatever_the_algorithm() {
    let bench = bench();
    for signer in [Signer::ec("a"), Signer::ec384("b"), Signer::ed("c"), Signer::rsa("d", 0)] {
        let client = Client::new(signer);
        assert_eq!(judge(&bench, &client.identity(), &client.proof()), Allowed, "{}", client.header);
    }
    let client = Client::new(Signer::ec("a"));
    assert_eq!(judge(&bench, &client.identity(), &client.headed("typ", "application/DPoP+JWT")), Allowed);
    assert_eq!(judge(&bench, &client.identity(), &client.with("jti", "j".repeat(256))), Allowed);
    let jwk = changed(&client.header["jwk"], "alg", json!("ES256"));
    let proof = client.signer.compact(
        &changed(&client.header, "jwk", jwk).to_string(),
        &changed(&client.claims, "jti", json!("p-2")).to_string(),
    );
    assert_eq!(judge(&bench, &client.identity(), &proof), Allowed);
}

#[test]
fn a_proof_with_anything_wrong_is_none() {
    let bench = bench();
    let client = Client::new(Signer::ec("a"));
    let other = Client::new(Signer::ec("b"));
    let rsa = Client::new(Signer::rsa("c", 0));
    let (good, header, claims) = (client.proof(), client.header.to_string(), client.claims.to_string());
    let jwk = &client.header["jwk"];
    let signed_by_another = other.signer.compact(&header, &claims);
    let (start, end) = good.split_at(good.len() - 3);
    let forged = format!("{start}{}{}", if end.starts_with('A') { 'B' } else { 'A' }, &end[1..]);
    let unsigned = format!("{}.{}.", b64(changed(&client.header, "alg", json!("none")).to_string()), b64(&claims));
    let twice = |name: &str| client.signer.compact(&header, &format!("{{\"{name}\":\"x\",{}", &claims[1..]));
    let (mac, long) = (client.headed("alg", "HS256"), client.with("more", "x".repeat(8 * 1024)));
    let cases: Vec<(&str, String, Flaw)> = vec![
        ("empty", String::new(), Flaw::Form),
        ("not a token", "x".to_owned(), Flaw::Form),
        ("two joined", format!("{good},{good}"), Flaw::Form),
        ("two joined, with space", format!("{good}, {good}"), Flaw::Form),
        ("too long", long, Flaw::Form),
        ("no signature", unsigned, Flaw::Form),
        ("header is a list", client.signer.compact("[]", &claims), Flaw::Form),
        ("claims are text", client.signer.compact(&header, "\"x\""), Flaw::Form),
        ("no typ", client.headed("typ", Value::Null), Flaw::Form),
        ("typ JWT", client.headed("typ", "JWT"), Flaw::Type),
        ("typ at+jwt", client.headed("typ", "at+jwt"), Flaw::Type),
        ("crit", client.headed("crit", json!(["exp"])), Flaw::Form),
        ("no alg", client.headed("alg", Value::Null), Flaw::Form),
        ("alg none", client.headed("alg", "none"), Flaw::Algorithm),
        ("alg unknown", client.headed("alg", "ES256K"), Flaw::Algorithm),
        ("alg of another case", client.headed("alg", "es256"), Flaw::Algorithm),
        ("alg that does not fit the key", client.headed("alg", "ES384"), Flaw::Key),
        ("alg of another kind of key", client.headed("alg", "RS256"), Flaw::Key),
        ("no jwk", client.headed("jwk", Value::Null), Flaw::Key),
        ("jwk is text", client.headed("jwk", "x"), Flaw::Key),
        ("jwk with d", client.headed("jwk", changed(jwk, "d", json!("AA"))), Flaw::Key),
        ("jwk with k", client.headed("jwk", changed(jwk, "k", json!("AA"))), Flaw::Key),
        ("jwk symmetric", client.headed("jwk", json!({"kty": "oct", "k": "AA"})), Flaw::Key),
        ("jwk for encryption", client.headed("jwk", changed(jwk, "use", json!("enc"))), Flaw::Key),
        ("jwk for another alg", client.headed("jwk", changed(jwk, "alg", json!("ES384"))), Flaw::Key),
        ("jwk off the curve", client.headed("jwk", changed(jwk, "x", json!(b64([1; 32])))), Flaw::Key),
        ("key of another", other.proof(), Flaw::OtherKey),
        ("key of another kind", rsa.proof(), Flaw::OtherKey),
        ("signed by another", signed_by_another, Flaw::Signature),
        ("signature changed", forged, Flaw::Signature),
        ("no htm", client.with("htm", Value::Null), Flaw::Form),
        ("htm a number", client.with("htm", 1), Flaw::Form),
        ("htm in lower case", client.with("htm", "get"), Flaw::Method),
        ("htm another", client.with("htm", "POST"), Flaw::Method),
        ("no htu", client.with("htu", Value::Null), Flaw::Form),
        ("htu another path", client.with("htu", "https://api.example/orders/2"), Flaw::Url),
        ("htu another scheme", client.with("htu", "http://api.example/orders/1"), Flaw::Url),
        ("htu another host", client.with("htu", "https://other.example/orders/1"), Flaw::Url),
        ("no ath", client.with("ath", Value::Null), Flaw::Form),
        ("ath of another token", client.with("ath", b64(hash("another"))), Flaw::Token),
        ("ath padded", client.with("ath", format!("{}=", b64(hash(TOKEN)))), Flaw::Token),
        ("no jti", client.with("jti", Value::Null), Flaw::Form),
        ("jti empty", client.with("jti", ""), Flaw::Form),
        ("jti a number", client.with("jti", 1), Flaw::Form),
        ("jti too long", client.with("jti", "j".repeat(257)), Flaw::Form),
        ("no iat", client.with("iat", Value::Null), Flaw::Form),
        ("iat text", client.with("iat", NOW.to_string()), Flaw::Form),
        ("iat too early", client.with("iat", NOW - 31), Flaw::Stale),
        ("iat too late", client.with("iat", NOW + 31), Flaw::Stale),
        ("iat in milliseconds", client.with("iat", NOW * 1000), Flaw::Form),
        ("exp past", client.with("exp", NOW - 31), Flaw::Stale),
        ("nbf ahead", client.with("nbf", NOW + 31), Flaw::Stale),
        ("nonce a number", client.with("nonce", 1), Flaw::Form),
        ("jti twice", twice("jti"), Flaw::Form),
        ("htu twice", twice("htu"), Flaw::Form),
        ("HMAC", mac, Flaw::Algorithm),
    ];
    for (what, proof, flaw) in cases {
        let before = counts(&bench);
        assert_eq!(judge(&bench, &client.identity(), &proof), flaw.reason(), "{what}");
        let after = counts(&bench);
        assert_eq!(after[flaw as usize], before[flaw as usize] + 1, "{what}: counted as something else");
    }
    assert_eq!(judge(&bench, &client.identity(), &good), Allowed, "none of them used it up");
}

fn counts(bench: &Bench) -> Vec<u64> {
    let text = bench.telemetry.render();
    let count = |flaw: Flaw| {
        let name = format!("tollgate_dpop_proofs_refused_total{{cause=\"{}\"}} ", flaw.name());
        text.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.parse().unwrap())
    };
    Flaw::ALL.map(count).to_vec()
}

#[test]
fn there_is_exactly_one_proof() {
    let bench = bench();
    let client = Client::new(Signer::ec("a"));
    let (one, two) = (client.proof(), client.with("jti", "p-2"));
    for proofs in [&[][..], &[&*one, &*two], &[&*one, &*one]] {
        let question = shown(Credential::Dpop(TOKEN), proofs);
        assert_eq!(reason(&bench, &client.identity(), &question), InvalidDpopProof);
    }
    assert_eq!(judge(&bench, &client.identity(), &one), Allowed);
}

#[test]
fn scheme_and_binding_go_together() {
    let bench = bench();
    let client = Client::new(Signer::ec("a"));
    let proof = client.proof();
    let unbound = Identity::vouched_by("https://i");
    assert_eq!(reason(&bench, &client.identity(), &shown(Credential::Bearer(TOKEN), &[])), BindingRequired);
    assert_eq!(reason(&bench, &client.identity(), &shown(Credential::Bearer(TOKEN), &[&proof])), BindingRequired);
    assert_eq!(reason(&bench, &unbound, &shown(Credential::Dpop(TOKEN), &[&proof])), BindingRequired);
    assert_eq!(reason(&bench, &unbound, &shown(Credential::Bearer(TOKEN), &[&proof])), Allowed);
    assert_eq!(reason(&bench, &unbound, &shown(Credential::None, &["x"])), Allowed);
}

#[test]
fn a_certificate_bound_token_comes_with_its_certificate() {
    let bench = bench();
    let client = Client::new(Signer::ec("a"));
    let binding = |key| Some(Box::new(Binding { certificate: Some([7; 32]), key }));
    let bound = |key| Identity { binding: binding(key), ..Identity::vouched_by("i") };
    let with = |thumbprint: Option<u8>, credential| {
        let certificate = thumbprint.map(|byte| Certificate { thumbprint: [byte; 32], ..Certificate::default() });
        Question { proofs: Proofs { certificate, ..Proofs::default() }, ..shown(credential, &[]) }
    };
    let bearer = Credential::Bearer(TOKEN);
    assert_eq!(reason(&bench, &bound(None), &with(None, bearer)), BindingRequired);
    assert_eq!(reason(&bench, &bound(None), &with(Some(8), bearer)), BindingMismatch);
    assert_eq!(reason(&bench, &bound(None), &with(Some(7), bearer)), Allowed);
    assert_eq!(reason(&bench, &bound(None), &with(Some(7), Credential::Dpop(TOKEN))), BindingRequired);
    // Where both are named, both are needed.
    let both = bound(Some(client.key()));
    assert_eq!(reason(&bench, &both, &with(Some(7), bearer)), BindingRequired);
    let proof = client.proof();
    let mut question = with(Some(7), Credential::Dpop(TOKEN));
    question.proofs.dpop.push(&proof);
    assert_eq!(reason(&bench, &both, &question), Allowed);
    question.proofs.certificate = None;
    assert_eq!(reason(&bench, &both, &question), BindingRequired);
}

#[test]
fn a_proof_is_good_once_and_only_looking_does_not_use_it_up() {
    let bench = bench();
    let client = Client::new(Signer::ec("a"));
    let proof = client.proof();
    let peek = Question { mode: Mode::Peek, ..shown(Credential::Dpop(TOKEN), &[&proof]) };
    assert_eq!(reason(&bench, &client.identity(), &peek), Allowed);
    assert_eq!(judge(&bench, &client.identity(), &proof), Allowed);
    assert_eq!(judge(&bench, &client.identity(), &proof), InvalidDpopProof);
    assert_eq!(reason(&bench, &client.identity(), &peek), InvalidDpopProof);
    assert!(counted(&bench, Flaw::Replayed));
    // Signed anew, it is still the same proof; under another key it is another.
    assert_eq!(judge(&bench, &client.identity(), &client.with("more", 1)), InvalidDpopProof);
    let other = Client::new(Signer::ec("b"));
    assert_eq!(judge(&bench, &other.identity(), &other.proof()), Allowed);
}

#[test]
fn a_proof_is_remembered_until_no_replica_takes_it_any_more() {
    let bench = bench();
    let client = Client::new(Signer::ec("a"));
    let ahead = client.with("iat", NOW + 30);
    assert_eq!(judge(&bench, &client.identity(), &ahead), Allowed);
    assert_eq!(bench.log.latest().keep, Micros::from_secs(30 + 30 + 30));
    bench.clock.pass(Micros::from_secs(60));
    assert_eq!(judge(&bench, &client.identity(), &ahead), InvalidDpopProof, "used");
    assert_eq!(judge(&bench, &client.identity(), &client.with("iat", NOW + 30)), InvalidDpopProof);
    let late = client.signer.compact(
        &client.header.to_string(),
        &changed(&changed(&client.claims, "iat", json!(NOW + 30)), "jti", json!("p-2")).to_string(),
    );
    assert_eq!(judge(&bench, &client.identity(), &late), Allowed);
    assert_eq!(bench.log.latest().keep, Micros::from_secs(30));
    bench.clock.pass(Micros(1));
    let stale = client.signer.compact(
        &client.header.to_string(),
        &changed(&changed(&client.claims, "iat", json!(NOW + 30)), "jti", json!("p-3")).to_string(),
    );
    assert_eq!(judge(&bench, &client.identity(), &stale), InvalidDpopProof);
}

#[test]
fn a_wall_clock_that_is_set_back_makes_no_used_proof_new() {
    let bench = bench();
    let client = Client::new(Signer::ec("a"));
    let proof = |jti: &str, iat: u64| {
        let claims = changed(&changed(&client.claims, "jti", json!(jti)), "iat", json!(iat));
        client.signer.compact(&client.header.to_string(), &claims.to_string())
    };
    let judge = |proof: &str| judge(&bench, &client.identity(), proof);
    // Nobody came while it was ahead, so nothing is suspicious when it is not any more.
    bench.clock.set_wall(NOW + 3_600);
    assert_eq!(judge(&proof("early", NOW)), InvalidDpopProof);
    bench.clock.set_wall(NOW);
    let (used, ahead) = (proof("1", NOW), proof("2", NOW + 30));
    assert_eq!((judge(&used), judge(&ahead)), (Allowed, Allowed));
    let set_back_after = |secs: u64| {
        bench.clock.pass(Micros::from_secs(secs));
        bench.log.forget();
        bench.clock.set_wall(NOW);
    };
    set_back_after(60);
    assert_eq!(judge(&used), InvalidDpopProof, "a log may have forgotten it");
    // Of this one every log still knows.
    assert_eq!(judge(&proof("3", NOW + 1)), Allowed);
    set_back_after(40);
    assert_eq!(judge(&ahead), InvalidDpopProof);
    assert_eq!(judge(&proof("3", NOW + 1)), InvalidDpopProof);
    // By then no proof can have been accepted that is made now.
    bench.clock.set_wall(NOW + 61);
    assert_eq!(judge(&proof("4", NOW + 61)), Allowed);
}

#[test]
fn nobody_uses_up_what_another_has_signed() {
    let bench = bench();
    let client = Client::new(Signer::ec("a"));
    let thief = Signer::ec("b");
    let forged = thief.compact(&client.header.to_string(), &client.claims.to_string());
    assert_eq!(judge(&bench, &client.identity(), &forged), InvalidDpopProof);
    assert_eq!(judge(&bench, &client.identity(), &client.proof()), Allowed);
}

#[test]
fn a_call_is_refused_while_nobody_can_say_whether_its_proof_was_used() {
    let bench = bench();
    let client = Client::new(Signer::ec("a"));
    bench.log.set_away(true);
    assert_eq!(judge(&bench, &client.identity(), &client.proof()), StoreAway);
    assert!(counted(&bench, Flaw::LogAway));
    bench.log.set_away(false);
    assert_eq!(judge(&bench, &client.identity(), &client.proof()), Allowed);
}

#[test]
fn without_a_host_there_is_no_url_to_compare_with() {
    let bench = bench();
    let client = Client::new(Signer::ec("a"));
    let proof = client.proof();
    let credential = Credential::Dpop(TOKEN);
    let proofs = Proofs { dpop: vec![&proof], ..Proofs::default() };
    let hostless = Question { credential, proofs, ..question("GET", "", "/orders/1") };
    assert_eq!(reason(&bench, &client.identity(), &hostless), InvalidDpopProof);
    assert!(counted(&bench, Flaw::NoHost));
}

#[test]
fn where_nonces_are_demanded_a_proof_needs_one_and_learns_the_next() {
    let bench = bench();
    let client = Client::new(Signer::ec("a"));
    bench.tokens.demand_nonces(Some(SECRET));
    let ask = |jti: &str, nonce: Option<&str>| {
        let iat = bench.clock.now().wall.as_secs();
        let mut claims = changed(&changed(&client.claims, "jti", json!(jti)), "iat", json!(iat));
        if let Some(nonce) = nonce {
            claims["nonce"] = json!(nonce);
        }
        let proof = client.signer.compact(&client.header.to_string(), &claims.to_string());
        proved(&bench, &client.identity(), &shown(Credential::Dpop(TOKEN), &[&proof]))
    };
    let Proved { outcome, next_nonce } = ask("1", None);
    assert_eq!(outcome, Err(UseDpopNonce));
    let nonce = next_nonce.unwrap();
    assert_eq!(ask("1", Some("stale")), Proved { outcome: Err(UseDpopNonce), next_nonce: Some(nonce.clone()) });
    assert_eq!(ask("1", Some(&nonce)), Proved { outcome: Ok(()), next_nonce: None });
    // The next minute another is given out, and the old one does once more.
    bench.clock.pass(Micros::from_secs(60));
    let Proved { outcome, next_nonce } = ask("2", Some(&nonce));
    assert_eq!(outcome, Ok(()));
    let newer = next_nonce.unwrap();
    assert_ne!(newer, nonce);
    bench.clock.pass(Micros::from_secs(60));
    assert_eq!(ask("3", Some(&nonce)).outcome, Err(UseDpopNonce));
    assert_eq!(ask("3", Some(&newer)).outcome, Ok(()));
    bench.tokens.demand_nonces(None);
    assert_eq!(ask("4", Some("whatever")), Proved { outcome: Ok(()), next_nonce: None });
}
