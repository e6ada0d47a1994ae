//! Key pairs that sign tokens: for the tests of the whole service, and for those of `src/tokens`, which take in this file.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each side uses its part")]

use std::sync::LazyLock;

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
    RsaEncoding, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// A key pair with a name.
pub(crate) struct Signer {
    pub(crate) kid: String,
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
    pub(crate) fn ec(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self { kid: kid.to_owned(), pair: Pair::Ec("P-256", Box::new(pair)) }
    }

    /// P-384.
    pub(crate) fn ec384(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        Self { kid: kid.to_owned(), pair: Pair::Ec("P-384", Box::new(pair)) }
    }

    /// Ed25519.
    pub(crate) fn ed(kid: &str) -> Self {
        Self { kid: kid.to_owned(), pair: Pair::Ed(Ed25519KeyPair::generate().unwrap()) }
    }

    /// RSA with 2048 bits; one of two.
    pub(crate) fn rsa(kid: &str, which: usize) -> Self {
        Self { kid: kid.to_owned(), pair: Pair::Rsa(&RSA[which]) }
    }

    /// The public key, without `alg` and `use`.
    pub(crate) fn jwk(&self) -> Value {
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
    pub(crate) fn jwk_with(&self, name: &str, value: impl Into<Value>) -> Value {
        let mut jwk = self.jwk();
        jwk[name] = value.into();
        jwk
    }

    /// The public key as X.509 has it (`SubjectPublicKeyInfo`); RSA keys only.
    pub(crate) fn der(&self) -> Vec<u8> {
        let Pair::Rsa(pair) = &self.pair else { return Vec::new() };
        let der: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        der.as_ref().to_vec()
    }

    /// Signs as `alg` says; RSA keys sign for any RSA algorithm.
    pub(crate) fn sign(&self, alg: &str, message: &str) -> Vec<u8> {
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
    pub(crate) fn compact(&self, header: &str, payload: &str) -> String {
        let alg =
            serde_json::from_str::<Value>(header).ok().and_then(|header| Some(header["alg"].as_str()?.to_owned()));
        let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = self.sign(alg.as_deref().unwrap_or_default(), &input);
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// A token with a header that fits and these claims.
    pub(crate) fn token(&self, claims: &Value) -> String {
        self.compact(&self.header().to_string(), &claims.to_string())
    }

    /// A header that fits.
    pub(crate) fn header(&self) -> Value {
        let alg = match &self.pair {
            Pair::Ec("P-256", _) => "ES256",
            Pair::Ec(..) => "ES384",
            Pair::Ed(_) => "EdDSA",
            Pair::Rsa(_) => "RS256",
        };
        json!({"alg": alg, "typ": "at+jwt", "kid": self.kid})
    }
}
