//! One `DPoP` proof (RFC 9449 §4.2) held against the call that it came with (§4.3, §7).
//!
//! Where Spring differs: methods are compared with case here, as RFC 9110 §9.1 has it, and URLs after normalization
//! ([`super::url`]).

use aws_lc_rs::digest::{self, Context, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::nonce::{Nonces, Standing};
use super::url;
use crate::decide::ports::ProofUse;
use crate::domain::decision::Reason;
use crate::domain::identity::Thumbprint;
use crate::domain::issuer::Algorithm;
use crate::domain::question::Question;
use crate::domain::time::Micros;
use crate::tokens::dates::numeric_date;
use crate::tokens::json::{self, Bounds, Object, Value};
use crate::tokens::jwk::{self, Key};
use crate::tokens::jwt::{Compact, check_critical};

/// Bytes of a proof: one with the largest RSA key and signature fits.
const PROOF_BYTES_MAX: usize = 8 * 1024;

/// Bytes of a proof's id.
const ID_BYTES_MAX: usize = 256;

const BOUNDS: Bounds = Bounds { depth: 8, members: 64, name_bytes: 256 };

/// How far a client's clock may be off, in either direction.
pub(super) const WINDOW: Micros = Micros::from_secs(30);

/// For how much longer than the proof is good here it is remembered: another replica's clock may be behind.
pub(super) const CLOCKS_APART: Micros = Micros::from_secs(30);

/// Members of a JWK that only the holder of the private key has (RFC 7518 §6.2.2, §6.3.2, §6.4).
const PRIVATE_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// A proof that is good for this call, unless it was used before.
#[derive(Debug)]
pub(super) struct Checked {
    /// Under which name it is remembered.
    pub used: ProofUse,
    /// When it was made, by the client's clock.
    pub issued_at: Micros,
    /// Whether the next proof should hold another nonce.
    pub nonce_ends: bool,
}

/// What is wrong with a proof. Callers learn the reason only; operators find these in the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// There is none, or more than one.
    NotOne,
    /// It is no JWT of bounded size with the members that it must have, each of its type.
    Form,
    /// Its `typ` is another.
    Type,
    /// Its `alg` is unknown or symmetric.
    Algorithm,
    /// Its `jwk` is no sound public key for that algorithm, or holds more than the public key.
    Key,
    /// Its key is not the one that the token is bound to.
    OtherKey,
    /// `htm` is another method.
    Method,
    /// `htu` is another URL.
    Url,
    /// The question names no host, so there is no URL to compare with.
    NoHost,
    /// `ath` is not the hash of this token.
    Token,
    /// `iat` is too far from now, or the proof says itself that it has ended or not begun.
    Stale,
    /// A nonce is demanded, and its own is none that is good.
    Nonce,
    /// Its signature does not verify.
    Signature,
    /// It was used before.
    Replayed,
    /// Nobody could say whether it was used before.
    LogAway,
}

impl Flaw {
    /// Each of them, in the order of their discriminants.
    pub(super) const ALL: [Self; 15] = [
        Self::NotOne,
        Self::Form,
        Self::Type,
        Self::Algorithm,
        Self::Key,
        Self::OtherKey,
        Self::Method,
        Self::Url,
        Self::NoHost,
        Self::Token,
        Self::Stale,
        Self::Nonce,
        Self::Signature,
        Self::Replayed,
        Self::LogAway,
    ];

    /// Its name in metrics.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::NotOne => "not_one",
            Self::Form => "form",
            Self::Type => "type",
            Self::Algorithm => "algorithm",
            Self::Key => "key",
            Self::OtherKey => "other_key",
            Self::Method => "method",
            Self::Url => "url",
            Self::NoHost => "no_host",
            Self::Token => "token",
            Self::Stale => "stale",
            Self::Nonce => "nonce",
            Self::Signature => "signature",
            Self::Replayed => "replayed",
            Self::LogAway => "log_away",
        }
    }

    /// Why the call is refused.
    pub(super) const fn reason(self) -> Reason {
        match self {
            Self::OtherKey => Reason::BindingMismatch,
            Self::Nonce => Reason::UseDpopNonce,
            Self::LogAway => Reason::StoreAway,
            Self::NotOne
            | Self::Form
            | Self::Type
            | Self::Algorithm
            | Self::Key
            | Self::Method
            | Self::Url
            | Self::NoHost
            | Self::Token
            | Self::Stale
            | Self::Signature
            | Self::Replayed => Reason::InvalidDpopProof,
        }
    }
}

/// Holds the question's proof against the question at `now`, by the wall clock; `bound` is the key that `token` is bound
/// to. All but whether it was used before.
pub(super) fn check(
    bound: &Thumbprint,
    token: &str,
    question: &Question<'_>,
    nonces: Option<&Nonces>,
    now: Micros,
) -> Result<Checked, Flaw> {
    let [proof] = question.proofs.dpop[..] else { return Err(Flaw::NotOne) };
    if proof.len() > PROOF_BYTES_MAX {
        return Err(Flaw::Form);
    }
    let decoded = Compact::split(proof).and_then(Compact::decode).map_err(|_| Flaw::Form)?;
    let header = json::object(decoded.header_bytes(), BOUNDS).map_err(|_| Flaw::Form)?;
    let claims = json::object(decoded.payload_bytes(), BOUNDS).map_err(|_| Flaw::Form)?;

    let algorithm = algorithm(&header)?;
    if text(&claims, "htm")? != question.method.as_str() {
        return Err(Flaw::Method);
    }
    url::check(text(&claims, "htu")?, question)?;
    if text(&claims, "ath")? != URL_SAFE_NO_PAD.encode(digest::digest(&SHA256, token.as_bytes())) {
        return Err(Flaw::Token);
    }
    let id = text(&claims, "jti")?;
    if !(1..=ID_BYTES_MAX).contains(&id.len()) {
        return Err(Flaw::Form);
    }
    let (issued_at, good_for) = dates(&claims, now)?;
    let nonce_ends = nonce_ends(&claims, nonces, now)?;

    let key = key(&header, algorithm)?;
    if **key.thumbprint() != *bound {
        return Err(Flaw::OtherKey);
    }
    let check = key.check(algorithm).ok_or(Flaw::Key)?;
    check.verify_sig(decoded.signing_input(), decoded.signature()).map_err(|_| Flaw::Signature)?;
    let used = ProofUse { key: *bound, name: name_of(bound, id), keep: good_for + CLOCKS_APART };
    Ok(Checked { used, issued_at, nonce_ends })
}

fn text<'o>(object: &'o Object<'_>, name: &str) -> Result<&'o str, Flaw> {
    object.string(name).ok().flatten().ok_or(Flaw::Form)
}

/// Nothing in a proof may be critical, and only its very type is one (RFC 9449 §4.2).
fn algorithm(header: &Object<'_>) -> Result<Algorithm, Flaw> {
    check_critical(header).map_err(|_| Flaw::Form)?;
    // Without case and `application/` (RFC 7515 §4.1.9).
    let typ = text(header, "typ")?;
    if !["dpop+jwt", "application/dpop+jwt"].iter().any(|own| typ.eq_ignore_ascii_case(own)) {
        return Err(Flaw::Type);
    }
    Algorithm::asymmetric(text(header, "alg")?).ok_or(Flaw::Algorithm)
}

/// The one place where a key comes from whoever is to be verified: good for nothing but having the thumbprint that the
/// token's issuer vouched for.
fn key(header: &Object<'_>, algorithm: Algorithm) -> Result<Key, Flaw> {
    let Some(Value::Object(jwk)) = header.get("jwk") else { return Err(Flaw::Key) };
    if PRIVATE_MEMBERS.iter().any(|member| jwk.has(member)) {
        return Err(Flaw::Key);
    }
    jwk::read_for(jwk, algorithm).map_err(|_| Flaw::Key)
}

/// When the proof was made, and for how long it is good from now on. `exp` and `nbf` need not be there; where they are, they count (RFC 7519 §4.1).
fn dates(claims: &Object<'_>, now: Micros) -> Result<(Micros, Micros), Flaw> {
    let date = |name| claims.get(name).map(|value| numeric_date(value).map_err(|_| Flaw::Form)).transpose();
    let (issued_at, expires_at, not_before) = (date("iat")?.ok_or(Flaw::Form)?, date("exp")?, date("nbf")?);
    let fresh = issued_at.since(now) <= WINDOW && now.since(issued_at) <= WINDOW;
    let begun = not_before.is_none_or(|at| at.since(now) <= WINDOW);
    let ended = expires_at.is_some_and(|at| now >= at + WINDOW);
    if fresh && begun && !ended { Ok((issued_at, (issued_at + WINDOW).since(now))) } else { Err(Flaw::Stale) }
}

/// Whether the next proof should hold another nonce. One that nobody demanded does no harm.
fn nonce_ends(claims: &Object<'_>, nonces: Option<&Nonces>, now: Micros) -> Result<bool, Flaw> {
    let nonce = claims.string("nonce").map_err(|_| Flaw::Form)?;
    let Some(nonces) = nonces else { return Ok(false) };
    match nonce.map_or(Standing::Bad, |nonce| nonces.judge(nonce, now)) {
        Standing::Good => Ok(false),
        Standing::Ending => Ok(true),
        Standing::Bad => Err(Flaw::Nonce),
    }
}

/// Both, so that nobody can use up the ids of another's proofs. The key has a fixed length.
fn name_of(key: &Thumbprint, id: &str) -> [u8; 32] {
    let mut hash = Context::new(&SHA256);
    hash.update(key);
    hash.update(id.as_bytes());
    let mut name = [0; 32];
    name.copy_from_slice(hash.finish().as_ref());
    name
}
