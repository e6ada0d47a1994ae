//! Keys that the benches' tokens are signed with.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED, ECDSA_P384_SHA384_FIXED_SIGNING,
    ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_SHA256, RsaEncoding, RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// Those that tokens are usually signed with.
pub(crate) const ALGORITHMS: [&str; 5] = ["ES256", "ES384", "EdDSA", "PS256", "RS256"];

/// `EdDSA`'s key.
const SEED: [u8; 32] = [7; 32];

/// A signature algorithm, with a key of its own.
pub(crate) struct Signer {
    algorithm: &'static str,
    pair: Pair,
}

enum Pair {
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    /// 2048 bits.
    Rsa(RsaKeyPair),
}

impl Signer {
    /// One of [`ALGORITHMS`], with a fresh key; `EdDSA` has always the same, and so the same tokens for the same claims.
    pub(crate) fn new(algorithm: &'static str) -> Self {
        let pair = match algorithm {
            "ES256" => Pair::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()),
            "ES384" => Pair::Ec(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap()),
            "EdDSA" => Pair::Ed(Ed25519KeyPair::from_seed_unchecked(&SEED).unwrap()),
            _ => Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()),
        };
        Self { algorithm, pair }
    }

    /// The key as the verifying side holds it.
    pub(crate) fn public(&self) -> ParsedPublicKey {
        match (&self.pair, self.algorithm) {
            (Pair::Ec(pair), "ES256") => ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, pair.public_key()).unwrap(),
            (Pair::Ec(pair), _) => ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, pair.public_key()).unwrap(),
            (Pair::Ed(pair), _) => ParsedPublicKey::new(&ED25519, pair.public_key()).unwrap(),
            (Pair::Rsa(pair), algorithm) => {
                let is_pss = algorithm == "PS256";
                let parameters = if is_pss { &RSA_PSS_2048_8192_SHA256 } else { &RSA_PKCS1_2048_8192_SHA256 };
                let [n, e] = numbers(pair);
                RsaPublicKeyComponents { n, e }.to_parsed_public_key(parameters).unwrap()
            }
        }
    }

    /// The public key, with nothing that need not be there.
    pub(crate) fn bare_jwk(&self) -> Value {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match &self.pair {
            Pair::Ec(pair) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let curve = if self.algorithm == "ES256" { "P-256" } else { "P-384" };
                json!({ "kty": "EC", "crv": curve, "x": encode(x), "y": encode(y) })
            }
            Pair::Ed(pair) => json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key().as_ref()) }),
            Pair::Rsa(pair) => {
                let [n, e] = numbers(pair);
                json!({ "kty": "RSA", "n": encode(n), "e": encode(e) })
            }
        }
    }

    /// The same, named `k` and for its algorithm.
    pub(crate) fn jwk(&self) -> Value {
        let mut jwk = self.bare_jwk();
        jwk["alg"] = self.algorithm.into();
        jwk["kid"] = "k".into();
        jwk
    }

    /// The key's thumbprint (RFC 7638 §3): `serde_json` sorts members as it demands.
    pub(crate) fn thumbprint(&self) -> String {
        URL_SAFE_NO_PAD.encode(digest(&SHA256, self.bare_jwk().to_string().as_bytes()))
    }

    /// A token with `alg` and these other members in its header.
    pub(crate) fn token(&self, mut header: Value, claims: &Value) -> String {
        header["alg"] = self.algorithm.into();
        let signed = [&header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
        let signature = self.sign(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn sign(&self, signed: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Ec(pair) => pair.sign(&random, signed).unwrap().as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(signed).as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                let is_pss = self.algorithm == "PS256";
                let encoding: &dyn RsaEncoding = if is_pss { &RSA_PSS_SHA256 } else { &RSA_PKCS1_SHA256 };
                pair.sign(encoding, &random, signed, &mut signature).unwrap();
                signature
            }
        }
    }
}

fn numbers(pair: &RsaKeyPair) -> [&[u8]; 2] {
    let public = pair.public_key();
    [public.modulus().big_endian_without_leading_zero(), public.exponent().big_endian_without_leading_zero()]
}
