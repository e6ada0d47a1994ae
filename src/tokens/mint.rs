//! Keys and tokens for tests, really signed.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
    RsaEncoding, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::Tokens;
use crate::decide::ports::{Answer, Away, AwayCause, Clock, ProofLog, ProofUse, Shown, TokenInspector as _, Verdict};
use crate::domain::connection::Connection;
use crate::domain::decision::Reason;
use crate::domain::issuer::{Algorithm, BindingDemand, ClaimPath, Issuer, KeySource};
use crate::domain::question::Mode;
use crate::domain::time::{Micros, Moment};
use crate::telemetry::Telemetry;

/// Who signs in these tests.
pub(super) const ISSUER: &str = "https://issuer.example/realms/a";

/// When these tests take place, in seconds since the epoch.
pub(super) const NOW: u64 = 1_800_000_000;

/// A key pair with a name.
pub(super) struct Signer {
    pub kid: String,
    pair: Pair,
}

enum Pair {
    Ec(&'static str, Box<EcdsaKeyPair>),
    Ed(Ed25519KeyPair),
    Rsa(&'static RsaKeyPair),
}

/// Making an RSA key takes long, so the tests share two.
static RSA: LazyLock<[RsaKeyPair; 2]> =
    LazyLock::new(|| [(); 2].map(|()| RsaKeyPair::generate(KeySize::Rsa2048).unwrap()));

impl Signer {
    /// P-256.
    pub(super) fn ec(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self { kid: kid.to_owned(), pair: Pair::Ec("P-256", Box::new(pair)) }
    }

    /// P-384.
    pub(super) fn ec384(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        Self { kid: kid.to_owned(), pair: Pair::Ec("P-384", Box::new(pair)) }
    }

    /// Ed25519.
    pub(super) fn ed(kid: &str) -> Self {
        Self { kid: kid.to_owned(), pair: Pair::Ed(Ed25519KeyPair::generate().unwrap()) }
    }

    /// RSA with 2048 bits; one of two.
    pub(super) fn rsa(kid: &str, which: usize) -> Self {
        Self { kid: kid.to_owned(), pair: Pair::Rsa(&RSA[which]) }
    }

    /// The public key, without `alg` and `use`.
    pub(super) fn jwk(&self) -> Value {
        let b64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match &self.pair {
            Pair::Ec(curve, pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at((pair.public_key().as_ref().len() - 1) / 2);
                json!({"kty": "EC", "crv": curve, "kid": self.kid, "x": b64(x), "y": b64(y)})
            }
            Pair::Ed(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": self.kid, "x": b64(pair.public_key().as_ref())})
            }
            Pair::Rsa(pair) => {
                let n = b64(pair.public_key().modulus().big_endian_without_leading_zero());
                let e = b64(pair.public_key().exponent().big_endian_without_leading_zero());
                json!({"kty": "RSA", "kid": self.kid, "n": n, "e": e})
            }
        }
    }

    /// The public key with another member.
    pub(super) fn jwk_with(&self, name: &str, value: impl Into<Value>) -> Value {
        let mut jwk = self.jwk();
        jwk[name] = value.into();
        jwk
    }

    /// Signs as `alg` says; RSA keys sign for any RSA algorithm.
    pub(super) fn sign(&self, alg: &str, message: &str) -> Vec<u8> {
        let rng = SystemRandom::new();
        match &self.pair {
            Pair::Ec(_, pair) => pair.sign(&rng, message.as_bytes()).unwrap().as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(message.as_bytes()).as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let encoding: &dyn RsaEncoding = match alg {
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    "PS384" => &signature::RSA_PSS_SHA384,
                    "PS512" => &signature::RSA_PSS_SHA512,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut signed = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &rng, message.as_bytes(), &mut signed).unwrap();
                signed
            }
        }
    }

    /// A token with these very texts for header and payload.
    pub(super) fn compact(&self, header: &str, payload: &str) -> String {
        let alg =
            serde_json::from_str::<Value>(header).ok().and_then(|header| Some(header["alg"].as_str()?.to_owned()));
        let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = self.sign(alg.as_deref().unwrap_or_default(), &input);
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// A token with a header that fits and these claims.
    pub(super) fn token(&self, claims: &Value) -> String {
        self.compact(&self.header().to_string(), &claims.to_string())
    }

    /// A header that fits.
    pub(super) fn header(&self) -> Value {
        let alg = match &self.pair {
            Pair::Ec("P-256", _) => "ES256",
            Pair::Ec(..) => "ES384",
            Pair::Ed(_) => "EdDSA",
            Pair::Rsa(_) => "RS256",
        };
        json!({"alg": alg, "typ": "at+jwt", "kid": self.kid})
    }
}

/// Claims of a token that is accepted for five minutes.
pub(super) fn claims() -> Value {
    json!({
        "iss": ISSUER, "aud": "orders", "sub": "ann", "client_id": "shop", "jti": "t-1",
        "iat": NOW - 10, "exp": NOW + 300, "scope": "orders:read orders:write",
    })
}

/// The same with one claim changed; null takes it away.
pub(super) fn claims_with(name: &str, value: impl Into<Value>) -> Value {
    let mut claims = claims();
    match value.into() {
        Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
        value => claims[name] = value,
    }
    claims
}

/// The text of a key set.
pub(super) fn set(keys: impl IntoIterator<Item = Value>) -> String {
    json!({"keys": keys.into_iter().collect::<Vec<_>>()}).to_string()
}

/// An issuer with the usual settings.
pub(super) fn issuer(keys: KeySource) -> Issuer {
    let path = |names: &[&str]| ClaimPath(names.iter().map(|&name| name.to_owned()).collect());
    Issuer {
        issuer: ISSUER.to_owned(),
        audiences: vec!["orders".to_owned()],
        operators: false,
        algorithms: Algorithm::ASYMMETRIC.to_vec(),
        types: vec!["at+jwt".to_owned(), "jwt".to_owned()],
        untyped: true,
        leeway: Micros::from_secs(60),
        max_token_lifetime: Micros::from_secs(86_400),
        binding: BindingDemand::Nothing,
        max_age: None,
        svid: false,
        required_claims: Vec::new(),
        scope_claims: vec![path(&["scope"]), path(&["scp"])],
        role_claims: vec![path(&["roles"]), path(&["realm_access", "roles"]), path(&["resource_access", "*", "roles"])],
        tenant: None,
        claims: Vec::new(),
        keys,
        stale_for: Micros::from_secs(86_400),
        introspection: None,
        connection: Connection::default(),
        refresh_cooldown: Micros::from_secs(30),
    }
}

/// An issuer with these keys.
pub(super) fn issuer_of<'s>(signers: impl IntoIterator<Item = &'s Signer>) -> Issuer {
    issuer(KeySource::Inline(set(signers.into_iter().map(Signer::jwk))))
}

/// A clock that a test moves.
#[derive(Default)]
pub(super) struct TestClock {
    wall: AtomicU64,
    steady: AtomicU64,
}

impl TestClock {
    pub(super) fn new() -> Arc<Self> {
        let clock = Self::default();
        clock.wall.store(Micros::from_secs(NOW).0, Ordering::SeqCst);
        clock.steady.store(Micros::from_secs(1_000).0, Ordering::SeqCst);
        Arc::new(clock)
    }

    /// Both clocks go on.
    pub(super) fn pass(&self, time: Micros) {
        self.wall.fetch_add(time.0, Ordering::SeqCst);
        self.steady.fetch_add(time.0, Ordering::SeqCst);
    }

    /// Somebody sets the wall clock.
    pub(super) fn set_wall(&self, secs: u64) {
        self.wall.store(Micros::from_secs(secs).0, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Moment {
        Moment { wall: Micros(self.wall.load(Ordering::SeqCst)), steady: Micros(self.steady.load(Ordering::SeqCst)) }
    }
}

/// A log of used proofs that a test can look into, and take away.
#[derive(Default)]
pub(super) struct TestLog {
    used: Mutex<Vec<ProofUse>>,
    away: AtomicBool,
}

impl TestLog {
    pub(super) fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    /// The proof that was remembered last.
    pub(super) fn latest(&self) -> ProofUse {
        *self.used.lock().unwrap().last().unwrap()
    }
}

impl ProofLog for TestLog {
    fn first_use(&self, proof: ProofUse, mode: Mode, _: Moment) -> Answer<'_, Result<bool, Away>> {
        if self.away.load(Ordering::SeqCst) {
            return Answer::Now(Err(Away { because: AwayCause::Unreachable }));
        }
        let mut used = self.used.lock().unwrap();
        let first = !used.iter().any(|known| known.name == proof.name);
        if first && mode == Mode::Consume {
            used.push(proof);
        }
        Answer::Now(Ok(first))
    }
}

/// Tokens' validation with a clock of its own.
pub(super) struct Bench {
    pub tokens: Arc<Tokens>,
    pub log: Arc<TestLog>,
    pub clock: Arc<TestClock>,
    pub telemetry: Arc<Telemetry>,
}

impl Bench {
    pub(super) fn new(issuers: Vec<Issuer>) -> Self {
        let (clock, telemetry) = (TestClock::new(), Arc::new(Telemetry::new().unwrap()));
        let log = Arc::<TestLog>::default();
        let tokens = Tokens::new(Arc::clone(&clock) as _, Arc::clone(&telemetry), 1000, Arc::clone(&log) as _);
        tokens.adopt(issuers).unwrap();
        Self { tokens, log, clock, telemetry }
    }

    /// The verdict, which must be there without waiting, and whether it was remembered.
    pub(super) fn at_once(&self, token: &str) -> (Verdict, bool) {
        match self.tokens.inspect(Shown::Token(token), self.clock.now()) {
            Answer::Now(inspected) => (inspected.verdict, inspected.remembered),
            Answer::Later(_) => panic!("would wait"),
        }
    }

    /// The reason of a verdict that must be there without waiting; [`Reason::Allowed`] for a good one.
    pub(super) fn reason(&self, token: &str) -> Reason {
        self.at_once(token).0.map_or_else(|reason| reason, |_| Reason::Allowed)
    }

    /// The reason of a verdict, waiting where that is needed.
    pub(super) async fn reason_later(&self, token: &str) -> Reason {
        let inspected = self.tokens.inspect(Shown::Token(token), self.clock.now()).get().await;
        inspected.verdict.map_or_else(|reason| reason, |_| Reason::Allowed)
    }
}
