//! JSON Web Tokens in JWS compact form (RFC 7515 §3.1, RFC 7519), step by step: each type says how far it is trusted.
//!
//! [`Compact`]: three parts of bounded size, nothing more. [`Decoded`]: their bytes. [`Claimed`]: well formed, and
//! claims to be somebody's; good only for choosing whose keys to look at. [`Verified`]: signed with a key of that
//! issuer. What it says is judged in [`super::claims`].
//!
//! Nothing is repaired on the way and nothing is read twice: one token has one spelling and one meaning. No key ever
//! comes from an access token (`jwk`, `jku`, `x5u` and `x5c` are not looked at; proofs are read in [`super::proof`]), and no algorithm that the issuer's
//! configuration and the key do not both allow.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use base64::engine::general_purpose::NO_PAD;
use base64::{Engine as _, decoded_len_estimate};

use super::claims;
use super::dates::numeric_date;
use super::json::{self, Bounds, Flaw, Object, Value};
use super::jwk::{KID_BYTES_MAX, Key};
use super::jwks::{Candidates, KeySet, NoKey};
use crate::domain::decision::Reason;
use crate::domain::issuer::{Algorithm, Issuer};
use crate::domain::time::Micros;

/// Bytes of a token; gateways accept no header much longer.
pub(super) const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Bytes of a token's first part.
const HEADER_BYTES_MAX: usize = 4 * 1024;

const BOUNDS: Bounds = Bounds { depth: 32, members: 512, name_bytes: 1024 };

/// As strict as the engine that everything else is decoded with, and several times as fast on what is as long as a token's
/// parts are.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
static BASE64URL: LazyLock<base64::engine::simd::Simd> = LazyLock::new(|| base64::engine::simd::Simd::url_safe(NO_PAD));

/// Elsewhere there is no faster one.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
static BASE64URL: LazyLock<base64::engine::GeneralPurpose> =
    LazyLock::new(|| base64::engine::GeneralPurpose::new(&base64::alphabet::URL_SAFE, NO_PAD));

/// Three parts with dots between. They may be anything.
#[derive(Clone, Copy)]
pub(super) struct Compact<'t> {
    header: &'t str,
    payload: &'t str,
    signature: &'t str,
    signing_input: &'t str,
}

/// What the three parts encode.
pub(super) struct Decoded<'t> {
    signing_input: &'t str,
    bytes: Vec<u8>,
    header: Range<usize>,
    payload: Range<usize>,
    signature: Range<usize>,
}

/// What the first part says. Good only for choosing a key and a way to check, within what is allowed.
pub(super) struct Header<'d> {
    algorithm: Algorithm,
    kid: Option<Cow<'d, str>>,
    typ: Option<Cow<'d, str>>,
    /// Whether there is nothing else in it.
    is_bare: bool,
}

/// A well-formed token that anybody may have written.
pub(super) struct Claimed<'d> {
    header: Header<'d>,
    claims: Object<'d>,
    signature: &'d [u8],
    signing_input: &'d [u8],
}

/// A token whose issuer signed it.
pub(super) struct Verified<'d> {
    /// `typ` of the header.
    pub typ: Option<Cow<'d, str>>,
    /// Whether the header has nothing but `alg`, `kid` and `typ`.
    pub has_bare_header: bool,
    /// The payload.
    pub claims: Object<'d>,
    /// What it was verified with.
    pub key: Arc<Key>,
}

/// Why a token was not verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unverified {
    /// It is refused, and newer keys would change nothing about that.
    Refused(Reason),
    /// No key in hand has signed it, as far as can be told; newer ones may have. With the reason where there are none.
    NoKey(Reason),
}

impl<'t> Compact<'t> {
    /// Takes a token apart. Its size is looked at first, so that nothing large is looked at in detail.
    pub(super) fn split(token: &'t str) -> Result<Self, Reason> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Reason::TokenTooLarge);
        }
        Self::split_any(token)
    }

    /// The same for one whose size was bounded when it was fetched.
    pub(super) fn split_any(token: &'t str) -> Result<Self, Reason> {
        let (signing_input, signature) = token.rsplit_once('.').ok_or(Reason::MalformedToken)?;
        let (header, payload) = signing_input.split_once('.').ok_or(Reason::MalformedToken)?;
        if header.len() > HEADER_BYTES_MAX {
            return Err(Reason::TokenTooLarge);
        }
        if payload.contains('.') {
            return Err(if is_encrypted(token) { Reason::EncryptedToken } else { Reason::MalformedToken });
        }
        if header.is_empty() || payload.is_empty() || signature.is_empty() {
            return Err(Reason::MalformedToken);
        }
        Ok(Self { header, payload, signature, signing_input })
    }

    /// Decodes the parts: base64url without padding and without stray bits (RFC 7515 §2, RFC 4648 §3.5).
    pub(super) fn decode(self) -> Result<Decoded<'t>, Reason> {
        let most = decoded_len_estimate(self.header.len() + self.payload.len() + self.signature.len());
        // Each part may be estimated a little larger than it is.
        let mut bytes = Vec::with_capacity(most + 6);
        let mut part = |text: &str| {
            let start = bytes.len();
            BASE64URL.decode_vec(text, &mut bytes).map_err(|_| Reason::MalformedToken)?;
            Ok::<_, Reason>(start..bytes.len())
        };
        let (header, payload, signature) = (part(self.header)?, part(self.payload)?, part(self.signature)?);
        Ok(Decoded { signing_input: self.signing_input, bytes, header, payload, signature })
    }
}

/// JWE compact form (RFC 7516 §3.1) has five parts; the second may be empty.
fn is_encrypted(token: &str) -> bool {
    token.bytes().filter(|byte| *byte == b'.').count() == 4
        && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        && !token.starts_with('.')
}

impl Decoded<'_> {
    /// Reads header and payload.
    pub(super) fn read(&self) -> Result<Claimed<'_>, Reason> {
        Ok(Claimed {
            header: self.header()?,
            claims: json::object(&self.bytes[self.payload.clone()], BOUNDS)?,
            signature: &self.bytes[self.signature.clone()],
            signing_input: self.signing_input.as_bytes(),
        })
    }

    /// The bytes of the first part.
    pub(super) fn header_bytes(&self) -> &[u8] {
        &self.bytes[self.header.clone()]
    }

    /// The bytes of the second part.
    pub(super) fn payload_bytes(&self) -> &[u8] {
        &self.bytes[self.payload.clone()]
    }

    /// The signature.
    pub(super) fn signature(&self) -> &[u8] {
        &self.bytes[self.signature.clone()]
    }

    /// What was signed.
    pub(super) const fn signing_input(&self) -> &[u8] {
        self.signing_input.as_bytes()
    }

    fn header(&self) -> Result<Header<'_>, Reason> {
        let mut header = json::object(&self.bytes[self.header.clone()], BOUNDS)?;
        check_critical(&header)?;
        let algorithm = match header.get("alg") {
            Some(Value::String(name)) if !name.is_empty() => Algorithm::from_name(name).ok_or(Reason::BadAlgorithm)?,
            _ => return Err(Reason::MalformedToken),
        };
        let kid = header.take_string("kid")?;
        if kid.as_ref().is_some_and(|kid| kid.len() > KID_BYTES_MAX) {
            return Err(Reason::MalformedToken);
        }
        let typ = header.take_string("typ")?;
        // All that is left is `alg`.
        let is_bare = header.len() == 1;
        Ok(Header { algorithm, kid, typ, is_bare })
    }
}

#[cfg(test)]
impl Decoded<'_> {
    /// Whether a signature is good, whatever was signed.
    pub(super) fn is_signed_by(&self, allowed: &[Algorithm], keys: &KeySet) -> bool {
        let signature = &self.bytes[self.signature.clone()];
        self.header().is_ok_and(|header| {
            let candidates = header.candidates(allowed, keys);
            candidates.is_ok_and(|keys| header.signer(self.signing_input.as_bytes(), signature, &keys).is_ok())
        })
    }
}

/// RFC 7515 §4.1.11: what a token declares critical must be understood, and Tollgate understands no extension. RFC 7797
/// (`b64`) may only be used by declaring it.
pub(super) fn check_critical(header: &Object<'_>) -> Result<(), Reason> {
    let Some(critical) = header.get("crit") else {
        return match header.get("b64") {
            None | Some(Value::Bool(true)) => Ok(()),
            Some(_) => Err(Reason::MalformedToken),
        };
    };
    let Value::Array(names) = critical else { return Err(Reason::MalformedToken) };
    let well_formed = names.iter().enumerate().all(|(index, name)| match name {
        Value::String(text) => header.has(text) && !names[..index].contains(name),
        _ => false,
    });
    Err(if well_formed && !names.is_empty() { Reason::UnsupportedExtension } else { Reason::MalformedToken })
}

impl<'d> Claimed<'d> {
    /// `iss`: whose it claims to be. Good for choosing an issuer, not for believing it.
    pub(super) fn issuer(&self) -> Result<&str, Reason> {
        self.claims.string("iss")?.ok_or(Reason::UnknownIssuer)
    }

    /// Whether it is an access token of that issuer, as far as it says itself.
    pub(super) fn check_kind(&self, issuer: &Issuer) -> Result<(), Reason> {
        claims::check_kind(self.header.typ.as_deref(), &self.claims, issuer)
    }

    /// Whether its dates are those of a token that has ended, as far as it says itself.
    pub(super) fn has_expired(&self, issuer: &Issuer, now: Micros) -> bool {
        let date = |name| self.claims.get(name).and_then(|date| numeric_date(date).ok());
        date("exp").is_some_and(|expires_at| now >= expires_at + issuer.leeway) && date("iat").is_some()
    }

    /// The issuer's keys that may have signed it; `allowed` are the algorithms that the issuer may use.
    pub(super) fn candidates<'k>(&self, allowed: &[Algorithm], keys: &'k KeySet) -> Result<Candidates<'k>, Unverified> {
        self.header.candidates(allowed, keys)
    }

    /// Checks the signature with the keys that may have made it.
    pub(super) fn verify_with(self, candidates: &Candidates<'_>) -> Result<Verified<'d>, Unverified> {
        let key = self.header.signer(self.signing_input, self.signature, candidates)?;
        Ok(Verified { typ: self.header.typ, has_bare_header: self.header.is_bare, claims: self.claims, key })
    }

    /// Both at once.
    pub(super) fn verify(self, allowed: &[Algorithm], keys: &KeySet) -> Result<Verified<'d>, Unverified> {
        let candidates = self.candidates(allowed, keys)?;
        self.verify_with(&candidates)
    }
}

impl Header<'_> {
    fn candidates<'k>(&self, allowed: &[Algorithm], keys: &'k KeySet) -> Result<Candidates<'k>, Unverified> {
        if !allowed.contains(&self.algorithm) {
            return Err(Unverified::Refused(Reason::BadAlgorithm));
        }
        keys.candidates(self.kid.as_deref(), self.algorithm).map_err(|none| match none {
            NoKey::Unknown => Unverified::NoKey(Reason::UnknownKey),
            NoKey::Unfit => Unverified::Refused(Reason::BadAlgorithm),
        })
    }

    /// The key that made the signature.
    fn signer(
        &self,
        signing_input: &[u8],
        signature: &[u8],
        candidates: &Candidates<'_>,
    ) -> Result<Arc<Key>, Unverified> {
        let signer = candidates.iter().find(|(_, check)| check.verify_sig(signing_input, signature).is_ok());
        // Where several keys might have signed it, nobody can say that this one's signature is bad.
        let none = if candidates.len() > 1 { Reason::UnknownKey } else { Reason::BadSignature };
        // A key that is known by its name never leads to a refresh, else floods of garbage would cost the issuer. Where
        // tokens name none, a bad signature is all that a new key shows of itself.
        let why = if self.kid.is_some() { Unverified::Refused(none) } else { Unverified::NoKey(none) };
        signer.map(|(key, _)| Arc::clone(key)).ok_or(why)
    }
}

impl From<Flaw> for Reason {
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::Malformed => Self::MalformedToken,
            Flaw::TooLarge => Self::TokenTooLarge,
        }
    }
}
