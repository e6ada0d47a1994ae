//! Tokens of every kind: remembered, and new beside what they cost at least. `cargo bench tokens`.

use std::cell::Cell;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use divan::{Bencher, black_box};
use serde_json::json;
use tollgate::decide::ports::{Answer, Inspected, Shown, TokenInspector as _};
use tollgate::domain::api_key::{ApiKey, DrawnKey};
use tollgate::domain::decision::Reason;
use tollgate::domain::identity::Identity;
use tollgate::domain::question::{Credential, Proofs, Question};
use tollgate::domain::time::Moment;
use tollgate::telemetry::Facade;
use tollgate::tokens::{Kept, KeyRing, VERDICTS_MAX_DEFAULT};

use crate::asked;
use crate::house::{self, House, SAMPLE_SIZE, at_hand};
use crate::signer::{ALGORITHMS, Signer};

/// Different tokens, in turns: with room for one verdict, each of them is cold.
const COLD: usize = 256;

/// Tokens that are remembered at a time, where memory is measured.
const MANY: usize = 1_000_000;

/// Bytes that a remembered token may take up beside its claims.
const BESIDE_CLAIMS_MAX: usize = 700;

/// What proofs are signed with here.
const PROOFS: [&str; 3] = ["ES256", "EdDSA", "RS256"];

/// Of a small token, in bytes; others have more claims.
const SMALL: usize = 0;

/// A JWT that is not remembered, with the keys in hand.
#[divan::bench(args = ALGORITHMS)]
fn cold(bencher: Bencher<'_, '_>, algorithm: &'static str) {
    let house = House::new(Signer::new(algorithm), 1);
    let tokens = tokens(&house);
    let now = house.clock.now();
    let mut next = (0..COLD).cycle();
    for token in &tokens {
        assert!(inspect(&house, token).verdict.is_ok());
    }
    bencher.bench_local(|| inspect_at(&house, &tokens[next.next().unwrap()], now));
}

/// What a cold token costs at least: the check of the very same signatures, which are decoded beforehand.
#[divan::bench(args = ALGORITHMS)]
fn cold_signature_alone(bencher: Bencher<'_, '_>, algorithm: &'static str) {
    let house = House::new(Signer::new(algorithm), 1);
    let key = house.public();
    let parts: Vec<(String, Vec<u8>)> = tokens(&house)
        .iter()
        .map(|token| {
            let (text, signature) = token.rsplit_once('.').unwrap();
            (text.to_owned(), URL_SAFE_NO_PAD.decode(signature).unwrap())
        })
        .collect();
    let mut next = (0..COLD).cycle();
    bencher.bench_local(|| {
        let (text, signature) = &parts[next.next().unwrap()];
        key.verify_sig(black_box(text.as_bytes()), black_box(signature)).unwrap();
    });
}

/// A JWT that is remembered, by its size in bytes; 0: a small one.
#[divan::bench(args = [SMALL, 1024, 4096])]
fn remembered(bencher: Bencher<'_, '_>, bytes: usize) {
    let house = House::new(Signer::new("ES256"), VERDICTS_MAX_DEFAULT);
    let token = house.token_of("alice", bytes);
    assert!(bytes == SMALL || token.len().abs_diff(bytes) < 8, "{} bytes", token.len());
    assert!(!inspect(&house, &token).remembered);
    recall(bencher, &house, &token);
}

/// What a million remembered tokens take up, each with the usual claims: prints what each adds to the process's memory. The
/// budget is held here. `cargo bench remembered_at_rest -- --ignored`
#[divan::bench(sample_count = 1, ignore)]
fn remembered_at_rest(bencher: Bencher<'_, '_>) {
    let house = House::new(Signer::new("EdDSA"), MANY);
    let (mut number, mut claims) = (0, 0);
    let before = resident();
    bencher.bench_local(|| {
        for _ in 0..MANY / SAMPLE_SIZE as usize {
            let token = house.token(&format!("4f9c2f6e-8a5b-4c1d-9e3f-{number:012}"));
            claims += bytes_of_claims(&inspect(&house, &token).verdict.unwrap());
            number += 1;
        }
    });
    let beside = (resident() - before - claims) / number;
    eprintln!("{number} remembered tokens: {beside} bytes each beside their claims, which are of {}", claims / number);
    // The tables have room for all, so of fewer each takes up more.
    assert!(number < MANY || beside <= BESIDE_CLAIMS_MAX);
}

/// An opaque token that is remembered.
#[divan::bench]
fn remembered_opaque(bencher: Bencher<'_, '_>) {
    let (house, token) = (with_asked_issuer(), opaque("alice"));
    assert!(house.wait(house.tokens.inspect(Shown::Token(&token), house.clock.now())).verdict.is_ok());
    recall(bencher, &house, &token);
}

/// An opaque token that is not: its issuer, on a connection over loopback that is open, is asked, and its answer judged.
#[divan::bench]
fn cold_opaque(bencher: Bencher<'_, '_>) {
    let house = with_asked_issuer();
    let now = house.clock.now();
    let mut number = 0;
    let next = || {
        number += 1;
        opaque(&number.to_string())
    };
    bencher.with_inputs(next).bench_local_values(|token| {
        let inspected = house.wait(house.tokens.inspect(Shown::Token(&token), now));
        assert!(inspected.verdict.is_ok() && !inspected.remembered);
    });
}

/// An API key of a file.
#[divan::bench]
fn api_key(bencher: Bencher<'_, '_>) {
    let house = House::new(Signer::new("ES256"), 1);
    let drawn = DrawnKey::draw(rand::fill).unwrap();
    let scopes = Box::new(["orders:read".into()]);
    let key = ApiKey { scopes, ..ApiKey::plain(drawn.id(), drawn.hash(), "alice") };
    house.tokens.adopt_api_keys(KeyRing { kept: Kept::Listed(vec![key]), ..KeyRing::default() });
    let now = house.clock.now();
    assert!(at_hand(house.tokens.inspect(Shown::ApiKey(drawn.reveal()), now)).verdict.is_ok());
    bencher.bench(|| house.tokens.inspect(Shown::ApiKey(black_box(drawn.reveal())), now));
}

/// The `DPoP` proof of one call, signed with that algorithm. Each is new, as all must be.
#[divan::bench(args = PROOFS)]
fn dpop_proof(bencher: Bencher<'_, '_>, algorithm: &'static str) {
    let house = House::new(Signer::new("ES256"), VERDICTS_MAX_DEFAULT);
    let bound = Bound::to(&house, Signer::new(algorithm));
    let identity = inspect(&house, &bound.token).verdict.unwrap();
    bencher.with_inputs(|| bound.call(&house)).bench_local_refs(|question| {
        at_hand(house.tokens.prove(&identity, question, house.clock.now())).outcome.unwrap();
    });
}

/// The whole decision on such a call: a remembered token, its proof, two limits, the memory stores.
#[divan::bench(args = PROOFS)]
fn dpop_decision(bencher: Bencher<'_, '_>, algorithm: &'static str) {
    let house = House::new(Signer::new("ES256"), VERDICTS_MAX_DEFAULT);
    let bound = Bound::to(&house, Signer::new(algorithm));
    assert!(inspect(&house, &bound.token).verdict.is_ok());
    bencher.with_inputs(|| bound.call(&house)).bench_local_refs(|question| {
        let decision = at_hand(house.decider.decide(question, Facade::Unary)).unwrap();
        assert_eq!(decision.reason, Reason::Allowed);
    });
}

/// A token that is bound to a client's key.
struct Bound {
    token: String,
    hash: String,
    client: Signer,
    number: Cell<u64>,
}

impl Bound {
    fn to(house: &House, client: Signer) -> Self {
        let mut claims = house.claims("alice");
        claims["cnf"] = json!({ "jkt": client.thumbprint() });
        let token = house.sign(&claims);
        let hash = URL_SAFE_NO_PAD.encode(digest(&SHA256, token.as_bytes()));
        Self { token, hash, client, number: Cell::new(0) }
    }

    /// The next call, with a proof of its own, which stays in memory: questions borrow.
    fn call(&self, house: &House) -> Question<'_> {
        self.number.set(self.number.get() + 1);
        let claims = json!({
            "jti": format!("4f9c2f6e-8a5b-4c1d-{:012}", self.number.get()), "htm": "GET",
            "htu": "https://shop.example.com/orders/1", "iat": house.clock.now().wall.as_secs(), "ath": self.hash,
        });
        let proof = self.client.token(json!({ "typ": "dpop+jwt", "jwk": self.client.bare_jwk() }), &claims);
        Question {
            credential: Credential::Dpop(&self.token),
            proofs: Proofs { dpop: vec![proof.leak()], ..Proofs::default() },
            ..house::question(&self.token)
        }
    }
}

/// What the process holds in memory, in bytes.
pub(crate) fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1024
}

/// Of the claims that each token has by itself.
fn bytes_of_claims(identity: &Identity) -> usize {
    let single = [&identity.subject, &identity.client, &identity.token_id].into_iter().flatten();
    let several = identity.scopes.iter().chain(&*identity.audiences);
    single.chain(several).map(|text| text.len()).sum()
}

fn recall(bencher: Bencher<'_, '_>, house: &House, token: &str) {
    let now = house.clock.now();
    assert!(inspect(house, token).remembered);
    bencher.bench(|| house.tokens.inspect(Shown::Token(black_box(token)), now));
}

fn tokens(house: &House) -> Vec<String> {
    (0..COLD).map(|number| house.token(&format!("subject-{number}"))).collect()
}

fn with_asked_issuer() -> House {
    let house = House::new(Signer::new("ES256"), VERDICTS_MAX_DEFAULT);
    let mut answer = house.claims("alice");
    answer["active"] = true.into();
    answer["iss"] = "https://asked.example".into();
    house.ask(&asked::serve(&answer.to_string()));
    house
}

/// As long as one with 256 random bits.
fn opaque(of: &str) -> String {
    format!("opaque_{}", URL_SAFE_NO_PAD.encode(digest(&SHA256, of.as_bytes())))
}

pub(crate) fn inspect(house: &House, token: &str) -> Inspected {
    inspect_at(house, token, house.clock.now())
}

fn inspect_at(house: &House, token: &str, now: Moment) -> Inspected {
    match house.tokens.inspect(Shown::Token(token), now) {
        Answer::Now(inspected) => inspected,
        // Signatures that come close together are checked in turns.
        later @ Answer::Later(_) => house.wait(later),
    }
}
