//! Everything that decides, put together as the server does, from a configuration.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
    ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::FutureExt as _;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tollgate::config::{self, Config};
use tollgate::decide::Decider;
use tollgate::decide::ports::{Answer, Clock as _, Quotas};
use tollgate::domain::policy::Policy;
use tollgate::domain::question::{Credential, Mode, Proofs, Question};
use tollgate::domain::time::Moment;
use tollgate::quotas::{LeaseDesk, QuotaDesk};
use tollgate::revocation::NothingRevoked;
use tollgate::server::SystemClock;
use tollgate::stores::memory::{COUNTERS_MAX, MemoryStore};
use tollgate::stores::proofs::{MemoryProofs, PROOFS_MAX};
use tollgate::telemetry::Telemetry;
use tollgate::tokens::Tokens;

use crate::orders::POLICY;

const ISSUER: &str = "https://issuer.example";

/// A signature algorithm, with a key of its own.
pub(crate) enum Signer {
    Es256(EcdsaKeyPair),
    Rs256(RsaKeyPair),
    EdDsa(Ed25519KeyPair),
}

impl Signer {
    pub(crate) fn es256() -> Self {
        Self::Es256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub(crate) fn rs256() -> Self {
        Self::Rs256(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    pub(crate) fn eddsa() -> Self {
        Self::EdDsa(Ed25519KeyPair::generate().unwrap())
    }

    /// The key as the verifying side holds it.
    fn public(&self) -> ParsedPublicKey {
        match self {
            Self::Es256(key) => ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.public_key()).unwrap(),
            Self::Rs256(key) => {
                let (n, e) = (key.public_key().modulus(), key.public_key().exponent());
                let (n, e) = (n.big_endian_without_leading_zero(), e.big_endian_without_leading_zero());
                RsaPublicKeyComponents { n, e }.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256).unwrap()
            }
            Self::EdDsa(key) => ParsedPublicKey::new(&ED25519, key.public_key()).unwrap(),
        }
    }

    fn jwk(&self) -> Value {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::Es256(key) => {
                let (x, y) = key.public_key().as_ref()[1..].split_at(32);
                json!({ "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "k", "x": encode(x), "y": encode(y) })
            }
            Self::Rs256(key) => {
                let (n, e) = (key.public_key().modulus(), key.public_key().exponent());
                let (n, e) = (n.big_endian_without_leading_zero(), e.big_endian_without_leading_zero());
                json!({ "kty": "RSA", "alg": "RS256", "kid": "k", "n": encode(n), "e": encode(e) })
            }
            Self::EdDsa(key) => {
                let x = encode(key.public_key().as_ref());
                json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": "k", "x": x })
            }
        }
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Es256(_) => "ES256",
            Self::Rs256(_) => "RS256",
            Self::EdDsa(_) => "EdDSA",
        }
    }

    fn sign(&self, signed: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Es256(key) => key.sign(&random, signed).unwrap().as_ref().to_vec(),
            Self::Rs256(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, signed, &mut signature).unwrap();
                signature
            }
            Self::EdDsa(key) => key.sign(signed).as_ref().to_vec(),
        }
    }
}

/// All parts, with two limits that never refuse.
pub(crate) struct House {
    pub(crate) clock: Arc<SystemClock>,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) decider: Arc<Decider>,
    signer: Signer,
    _runtime: Runtime,
}

impl House {
    /// With an issuer that signs like `signer` and room for so many verdicts; quotas are paid at the memory store.
    pub(crate) fn new(signer: Signer, verdicts_max: usize) -> Self {
        Self::with_desk(signer, verdicts_max, |store, _, _| Arc::new(QuotaDesk::new(store)))
    }

    /// The same, but quotas are paid from leases of the memory store.
    pub(crate) fn with_leases(signer: Signer, verdicts_max: usize) -> Self {
        Self::with_desk(signer, verdicts_max, |store, clock, telemetry| {
            Arc::new(LeaseDesk::new(Arc::clone(&store) as _, store, clock, telemetry))
        })
    }

    fn with_desk(
        signer: Signer,
        verdicts_max: usize,
        desk: impl FnOnce(Arc<MemoryStore>, Arc<SystemClock>, &Telemetry) -> Arc<dyn Quotas>,
    ) -> Self {
        // Tokens start tasks that keep keys fresh; those of this issuer stay as they are.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let within = runtime.enter();
        let clock = Arc::new(SystemClock::start());
        let telemetry = Arc::new(Telemetry::new().unwrap());
        let Config { issuers, policy, .. } = config(&signer);
        let proofs = Arc::new(MemoryProofs::new(PROOFS_MAX, &telemetry));
        let tokens =
            Tokens::new(Arc::clone(&clock) as _, Arc::clone(&telemetry), verdicts_max, Arc::clone(&proofs) as _);
        tokens.adopt(issuers).unwrap();
        let store = Arc::new(MemoryStore::new(COUNTERS_MAX, &telemetry));
        let decider = Arc::new(Decider::new(
            Arc::clone(&clock) as _,
            Arc::clone(&tokens) as _,
            Arc::new(NothingRevoked),
            desk(store, Arc::clone(&clock), &telemetry),
            telemetry,
        ));
        decider.adopt(Policy { version: 1, ..policy });
        drop(within);
        Self { clock, tokens, decider, signer, _runtime: runtime }
    }

    /// A token for that subject.
    pub(crate) fn token(&self, subject: &str) -> String {
        let now = self.clock.now().wall.as_secs();
        let header = json!({ "alg": self.signer.name(), "typ": "at+jwt", "kid": "k" });
        // As long as a usual one: a hash stands for the issuer's random id.
        let id = URL_SAFE_NO_PAD.encode(digest(&SHA256, subject.as_bytes()));
        let claims = json!({
            "iss": ISSUER, "aud": "orders", "sub": subject, "client_id": "shop", "scope": "orders:read orders:write",
            "jti": id, "iat": now, "exp": now + 3600,
        });
        let signed = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
        let signature = self.signer.sign(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// The key as the verifying side holds it.
    pub(crate) fn public(&self) -> ParsedPublicKey {
        self.signer.public()
    }
}

/// Both clocks at once, for parts that keep no time.
pub(crate) fn moment() -> Moment {
    SystemClock::start().now()
}

/// An answer for which nobody outside has to be waited for.
pub(crate) fn at_hand<T>(answer: Answer<'_, T>) -> T {
    answer.get().now_or_never().unwrap()
}

/// A question by `token`, under the rule that has the limits.
pub(crate) fn question(token: &str) -> Question<'_> {
    use tollgate::domain::path::{Host, Method, Target};
    let method = Method::parse("GET").unwrap();
    let host = Host::parse("shop.example.com").unwrap();
    Question {
        credential: Credential::Bearer(token),
        proofs: Proofs::default(),
        method,
        target: Target::parse("/orders/1", method, Some(&host)).unwrap(),
        host: Some(host),
        source: Some("192.0.2.7".parse().unwrap()),
        resource: Vec::new(),
        extra: Vec::new(),
        units: 1,
        mode: Mode::Consume,
        explain: false,
    }
}

fn config(signer: &Signer) -> Config {
    let issuer = format!("issuer: {ISSUER}, audiences: [orders], jwks: {{ keys: [{}] }}", signer.jwk());
    let text = format!("issuers:\n  - {{ {issuer} }}\n{POLICY}");
    config::parse(&text, "bench.yaml", &|_| None).unwrap().0
}
