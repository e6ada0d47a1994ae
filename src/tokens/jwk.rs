//! One key: a JSON Web Key (RFC 7517 §4), or a shared secret, in; a key that is ready to check signatures out.
//!
//! What is accepted was checked whole (type, curve, sizes, use, algorithm), so that verifying has nothing left to ask
//! but which algorithms fit.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::digest::{SHA256, SHA384, SHA512};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
    RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents,
};
use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::json::{Object, Value};
use super::weak;
use crate::domain::identity::Thumbprint;
use crate::domain::issuer::Algorithm;

/// Bytes of a key's or a token's `kid`.
pub(super) const KID_BYTES_MAX: usize = 256;

/// RSA moduli that are accepted, in bits: below, they can be factored; above, one check costs too much.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// A key that signatures are checked with.
pub(super) struct Key {
    pub(super) kid: Option<Box<str>>,
    thumbprint: Arc<Thumbprint>,
    /// What it can check, with the key made ready for each: parsing it again for every token costs an eighth of an
    /// RSA check.
    checks: Box<[(Algorithm, Check)]>,
    in_force: AtomicBool,
}

/// A key, ready to check one algorithm's signatures.
pub(super) enum Check {
    /// Signatures are of the message itself.
    Public(ParsedPublicKey),
    /// Signatures are of the message's hash. It is made here: asked to do both, the library copies its state in between.
    Hashed(&'static digest::Algorithm, ParsedPublicKey),
    Shared(Box<hmac::Key>),
}

impl Check {
    /// Whether `signature` is one of `message`. Codes made with a secret are compared in constant time.
    pub(super) fn verify_sig(&self, message: &[u8], signature: &[u8]) -> Result<(), Unspecified> {
        match self {
            Self::Public(key) => key.verify_sig(message, signature),
            Self::Hashed(hash, key) => key.verify_digest_sig(&digest::digest(hash, message), signature),
            Self::Shared(key) => hmac::verify(key, message, signature),
        }
    }
}

/// Why a key is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Skip {
    /// Not an object, or a member of a wrong type.
    Malformed,
    /// A type, curve or algorithm that Tollgate does not verify with.
    Unsupported,
    /// A shared secret; whoever can read it can sign.
    Symmetric,
    /// `use`, `key_ops` or `alg` say that it is for something else, or do not fit its type.
    WrongUse,
    /// Too small, too large, or known to be weak.
    Weak,
    /// Its numbers do not make a key.
    Invalid,
    /// Another key has the same `kid` and algorithm.
    Ambiguous,
    /// There are more than a set may have.
    TooMany,
}

/// Reads one key (RFC 7517 §4). Private members are never looked at.
pub(super) fn read(jwk: &Value<'_>) -> Result<Key, Skip> {
    let Value::Object(jwk) = jwk else { return Err(Skip::Malformed) };
    read_as(jwk, None)
}

/// Reads one key that is to check signatures of that algorithm, and is made ready for no other.
pub(super) fn read_for(jwk: &Object<'_>, algorithm: Algorithm) -> Result<Key, Skip> {
    read_as(jwk, Some(algorithm))
}

fn read_as(jwk: &Object<'_>, wanted: Option<Algorithm>) -> Result<Key, Skip> {
    let text = |name| jwk.string(name).map_err(|_| Skip::Malformed);
    let kid = text("kid")?;
    if kid.is_some_and(|kid| kid.len() > KID_BYTES_MAX) {
        return Err(Skip::Malformed);
    }
    let kty = text("kty")?.ok_or(Skip::Malformed)?;
    if kty == "oct" {
        return Err(Skip::Symmetric);
    }
    check_use(jwk)?;
    let named = text("alg")?.map(|name| Algorithm::asymmetric(name).ok_or(Skip::Unsupported));
    let algorithm = match (named.transpose()?, wanted) {
        (None, wanted) => wanted,
        (Some(named), Some(wanted)) if named != wanted => return Err(Skip::WrongUse),
        (named, _) => named,
    };
    let (thumbprint, checks) = match kty {
        "RSA" => rsa(jwk, algorithm)?,
        "EC" => elliptic(jwk, algorithm)?,
        "OKP" => edwards(jwk, algorithm)?,
        _ => return Err(Skip::Unsupported),
    };
    Ok(Key { kid: kid.map(Into::into), thumbprint: Arc::new(thumbprint), checks, in_force: AtomicBool::new(true) })
}

impl Key {
    /// A secret, for every algorithm that it is long enough for.
    pub(super) fn shared(secret: &[u8]) -> Self {
        let fit = Algorithm::SYMMETRIC.into_iter().filter_map(|algorithm| {
            let hash = match algorithm.secret_bytes_min()? {
                least if secret.len() < least => return None,
                32 => hmac::HMAC_SHA256,
                48 => hmac::HMAC_SHA384,
                _ => hmac::HMAC_SHA512,
            };
            Some((algorithm, Check::Shared(Box::new(hmac::Key::new(hash, secret)))))
        });
        // RFC 7638 §3.2.
        let canonical = format!(r#"{{"k":"{}","kty":"oct"}}"#, URL_SAFE_NO_PAD.encode(secret));
        let thumbprint = Arc::new(thumbprint(&canonical));
        Self { kid: None, thumbprint, checks: fit.collect(), in_force: AtomicBool::new(true) }
    }

    /// Whether its issuer still publishes it. Once false, false for ever: a key that comes back is another [`Key`].
    pub(super) fn is_in_force(&self) -> bool {
        self.in_force.load(Ordering::Acquire)
    }

    /// It is no longer published.
    pub(super) fn end(&self) {
        self.in_force.store(false, Ordering::Release);
    }

    /// Its thumbprint (RFC 7638), shared by the identities that it vouches for.
    pub(super) const fn thumbprint(&self) -> &Arc<Thumbprint> {
        &self.thumbprint
    }

    /// How to check signatures of that algorithm, where it is for that.
    pub(super) fn check(&self, algorithm: Algorithm) -> Option<&Check> {
        self.checks.iter().find(|(own, _)| *own == algorithm).map(|(_, check)| check)
    }

    /// Whether it is the same key, for the same use and under the same name.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.kid == other.kid
            && self.thumbprint == other.thumbprint
            && self.checks.iter().map(|(own, _)| own).eq(other.checks.iter().map(|(own, _)| own))
    }

    /// Whether there is an algorithm that both are for.
    pub(super) fn shares_algorithm(&self, other: &Self) -> bool {
        self.checks.iter().any(|(own, _)| other.check(*own).is_some())
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "malformed",
            Self::Unsupported => "of an unsupported kind",
            Self::Symmetric => "symmetric",
            Self::WrongUse => "for another use",
            Self::Weak => "weak",
            Self::Invalid => "not valid",
            Self::Ambiguous => "with a `kid` that another has too",
            Self::TooMany => "beyond the first 100",
        })
    }
}

/// `use` and `key_ops`, where they are there, must say "verify signatures" (RFC 7517 §4.2, §4.3).
fn check_use(jwk: &Object<'_>) -> Result<(), Skip> {
    if jwk.string("use").map_err(|_| Skip::Malformed)?.is_some_and(|purpose| purpose != "sig") {
        return Err(Skip::WrongUse);
    }
    match jwk.get("key_ops") {
        None => Ok(()),
        Some(Value::Array(ops)) if ops.iter().any(|op| matches!(op, Value::String(op) if op == "verify")) => Ok(()),
        Some(Value::Array(_)) => Err(Skip::WrongUse),
        Some(_) => Err(Skip::Malformed),
    }
}

type Material = (Thumbprint, Box<[(Algorithm, Check)]>);

/// RFC 7518 §6.3.1. Leading zero octets, which some publishers leave in, are no part of the number.
fn rsa(jwk: &Object<'_>, algorithm: Option<Algorithm>) -> Result<Material, Skip> {
    let (modulus, exponent) = (octets(jwk, "n")?, octets(jwk, "e")?);
    let (modulus, exponent) = (without_zeros(&modulus), without_zeros(&exponent));
    let Some(first) = modulus.first() else { return Err(Skip::Invalid) };
    let bits = modulus.len() * 8 - first.leading_zeros() as usize;
    let is_odd = |number: &[u8]| number.last().is_some_and(|last| last % 2 == 1);
    if !is_odd(modulus) || !is_odd(exponent) {
        return Err(Skip::Invalid);
    }
    // Exponents are less than 2^32: larger ones only make each check slower.
    if !RSA_BITS.contains(&bits) || exponent == [1] || exponent.len() > 4 || weak::is_roca(modulus) {
        return Err(Skip::Weak);
    }
    let algorithms: &[Algorithm] = match &algorithm {
        None => &RSA_ALGORITHMS,
        Some(algorithm) => std::slice::from_ref(algorithm),
    };
    let key = RsaPublicKeyComponents { n: modulus, e: exponent };
    let checks = algorithms.iter().map(|&algorithm| {
        let (hash, parameters) = rsa_parameters(algorithm).ok_or(Skip::WrongUse)?;
        let key = key.to_parsed_public_key(parameters).map_err(|_| Skip::Invalid)?;
        Ok((algorithm, Check::Hashed(hash, key)))
    });
    let canonical = format!(
        r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#,
        URL_SAFE_NO_PAD.encode(exponent),
        URL_SAFE_NO_PAD.encode(modulus)
    );
    Ok((thumbprint(&canonical), checks.collect::<Result<_, Skip>>()?))
}

/// What an RSA key can check that names no algorithm.
const RSA_ALGORITHMS: [Algorithm; 6] =
    [Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512];

fn rsa_parameters(algorithm: Algorithm) -> Option<(&'static digest::Algorithm, &'static RsaParameters)> {
    match algorithm {
        Algorithm::RS256 => Some((&SHA256, &RSA_PKCS1_2048_8192_SHA256)),
        Algorithm::RS384 => Some((&SHA384, &RSA_PKCS1_2048_8192_SHA384)),
        Algorithm::RS512 => Some((&SHA512, &RSA_PKCS1_2048_8192_SHA512)),
        Algorithm::PS256 => Some((&SHA256, &RSA_PSS_2048_8192_SHA256)),
        Algorithm::PS384 => Some((&SHA384, &RSA_PSS_2048_8192_SHA384)),
        Algorithm::PS512 => Some((&SHA512, &RSA_PSS_2048_8192_SHA512)),
        Algorithm::ES256
        | Algorithm::ES384
        | Algorithm::EdDSA
        | Algorithm::HS256
        | Algorithm::HS384
        | Algorithm::HS512 => None,
    }
}

/// RFC 7518 §6.2.1: coordinates have their full length; the curve settles the algorithm (RFC 7518 §3.4).
fn elliptic(jwk: &Object<'_>, algorithm: Option<Algorithm>) -> Result<Material, Skip> {
    let curve = member(jwk, "crv")?;
    let (own, bytes, hash, parameters) = match curve {
        "P-256" => (Algorithm::ES256, 32, &SHA256, &ECDSA_P256_SHA256_FIXED),
        "P-384" => (Algorithm::ES384, 48, &SHA384, &ECDSA_P384_SHA384_FIXED),
        _ => return Err(Skip::Unsupported),
    };
    if algorithm.is_some_and(|algorithm| algorithm != own) {
        return Err(Skip::WrongUse);
    }
    let (x, y) = (octets(jwk, "x")?, octets(jwk, "y")?);
    if x.len() != bytes || y.len() != bytes {
        return Err(Skip::Invalid);
    }
    // The uncompressed form (SEC 1 §2.3.3). Parsing checks that the point is on the curve.
    let point = [&[4], &*x, &*y].concat();
    let key = ParsedPublicKey::new(parameters, point).map_err(|_| Skip::Invalid)?;
    let (x, y) = (member(jwk, "x")?, member(jwk, "y")?);
    let canonical = [r#"{"crv":""#, curve, r#"","kty":"EC","x":""#, x, r#"","y":""#, y, r#""}"#].concat();
    Ok((thumbprint(&canonical), Box::new([(own, Check::Hashed(hash, key))])))
}

/// RFC 8037 §2: Ed25519 only.
fn edwards(jwk: &Object<'_>, algorithm: Option<Algorithm>) -> Result<Material, Skip> {
    let curve = member(jwk, "crv")?;
    if curve != "Ed25519" {
        return Err(Skip::Unsupported);
    }
    if algorithm.is_some_and(|algorithm| algorithm != Algorithm::EdDSA) {
        return Err(Skip::WrongUse);
    }
    let x = <[u8; 32]>::try_from(octets(jwk, "x")?).map_err(|_| Skip::Invalid)?;
    if weak::is_weak_ed25519(x) {
        return Err(Skip::Weak);
    }
    let key = ParsedPublicKey::new(&ED25519, x).map_err(|_| Skip::Invalid)?;
    let canonical = [r#"{"crv":"Ed25519","kty":"OKP","x":""#, member(jwk, "x")?, r#""}"#].concat();
    Ok((thumbprint(&canonical), Box::new([(Algorithm::EdDSA, Check::Public(key))])))
}

/// A member that has to be there, and a string.
fn member<'j>(jwk: &'j Object<'_>, name: &str) -> Result<&'j str, Skip> {
    jwk.string(name).map_err(|_| Skip::Malformed)?.ok_or(Skip::Malformed)
}

/// A member in base64url, strictly: no padding, no stray bits. So its text is the only one for these octets, and need not be
/// written anew where one is to be hashed.
fn octets(jwk: &Object<'_>, name: &str) -> Result<Vec<u8>, Skip> {
    URL_SAFE_NO_PAD.decode(member(jwk, name)?).map_err(|_| Skip::Malformed)
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

/// RFC 7638 §3: of the members that make the key, in order.
fn thumbprint(canonical: &str) -> Thumbprint {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest::digest(&SHA256, canonical.as_bytes()).as_ref());
    bytes
}
