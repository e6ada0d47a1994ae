//! How the token of an attack is made: from a good one, changed as the data says.

use std::collections::HashMap;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::support::signer::Signer;

/// When these attacks take place, in seconds since the epoch.
pub(super) const NOW: u64 = 1_800_000_000;

/// The keys of the list, by name.
pub(super) struct Signers(pub HashMap<&'static str, Signer>);

/// A token, or the proof that goes with one. What is not said is as in a good one.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Recipe {
    /// Whose key signs it; by default `k`, and a proof `holder`.
    pub signer: Option<String>,
    /// Members of the header that are different. `{jwk_of: name}` is a public key.
    pub header: Map<String, Value>,
    /// Members of the header that are not there.
    pub header_without: Vec<String>,
    /// The text of the header; `{members}` are its members.
    pub header_text: Option<String>,
    /// The bytes of the header.
    pub header_hex: Option<String>,
    /// Claims that are different. `{now: n}` is a date n seconds from now, `{thumbprint_of: name}` the thumbprint of a key.
    pub claims: Map<String, Value>,
    /// Claims that are not there.
    pub claims_without: Vec<String>,
    /// The text of the payload; `{members}` are the claims, `{now}` is now.
    pub claims_text: Option<String>,
    /// The bytes of the payload.
    pub claims_hex: Option<String>,
    /// What is done to the signature.
    pub signature: Option<Signature>,
    /// Members of the header that are changed after it was signed.
    pub forged_header: Map<String, Value>,
    /// Claims that are changed after it was signed.
    pub forged_claims: Map<String, Value>,
    /// The text that is shown, of `{header}`, `{payload}` and `{signature}`.
    pub token: String,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            signer: None,
            header: Map::new(),
            header_without: Vec::new(),
            header_text: None,
            header_hex: None,
            claims: Map::new(),
            claims_without: Vec::new(),
            claims_text: None,
            claims_hex: None,
            signature: None,
            forged_header: Map::new(),
            forged_claims: Map::new(),
            token: "{header}.{payload}.{signature}".to_owned(),
        }
    }
}

/// What is done to a signature.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Signature {
    /// One bit is the other one.
    Flip(usize),
    /// Cut off, or filled up with zeros.
    Length(usize),
    /// ECDSA: as ASN.1 instead of two numbers.
    Der,
    /// ECDSA: with n − s for s, which verifies, too.
    Twin,
    /// ECDSA: other numbers for r and s.
    Scalars([Scalar; 2]),
    /// Ed25519: with s + L for s, the same number to a careless reader (RFC 8032 §5.1.7).
    Malleable,
    /// HMAC with SHA-256, by what is public of the key.
    Secret(Secret),
}

/// A number in an ECDSA signature of P-256.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Scalar {
    Kept,
    Zero,
    One,
    Order,
    /// 2^256 − 1.
    Largest,
}

/// Texts of a public key that somebody may take for a shared secret.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Secret {
    Jwk,
    Modulus,
    Der,
    Pem,
    Empty,
}

/// n of P-256 (SEC 2 §2.4.2).
const ORDER_P256: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad, 0xa7,
    0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

/// L of Ed25519 (RFC 8032 §5.1), the lowest byte first.
const ORDER_ED25519: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

impl Recipe {
    /// Makes the token, for the issuer `iss`.
    pub(super) fn token(&self, iss: &str, signers: &Signers) -> String {
        let signer = signers.get(self.signer.as_deref().unwrap_or("k"));
        self.make(signer, signer.header(), good_claims(iss), signers)
    }

    /// Makes a `DPoP` proof (RFC 9449 §4.2) for a call of `url` with `token`.
    pub(super) fn proof(&self, token: &str, url: &str, id: &str, signers: &Signers) -> String {
        let signer = signers.get(self.signer.as_deref().unwrap_or("holder"));
        let header = json!({"typ": "dpop+jwt", "alg": signer.header()["alg"], "jwk": bare(signer.jwk())});
        let ath = b64(digest(&SHA256, token.as_bytes()).as_ref());
        let claims = json!({"jti": id, "htm": "GET", "htu": url, "iat": NOW, "ath": ath});
        self.make(signer, header, claims, signers)
    }

    /// Makes the text, from what a good one would have.
    fn make(&self, signer: &Signer, header: Value, claims: Value, signers: &Signers) -> String {
        let header = changed(header, &signers.resolved_in(&self.header), &self.header_without);
        let claims = changed(claims, &signers.resolved_in(&self.claims), &self.claims_without);
        let header_bytes = bytes(self.header_hex.as_deref(), self.header_text.as_deref(), &header);
        let claims_bytes = bytes(self.claims_hex.as_deref(), self.claims_text.as_deref(), &claims);
        let input = format!("{}.{}", b64(&header_bytes), b64(&claims_bytes));
        let made = signer.sign(header["alg"].as_str().unwrap_or_default(), &input);
        let signature = match &self.signature {
            Some(change) => change.apply(made, signer, &input),
            None => made,
        };
        let shown = |signed: Vec<u8>, whole: Value, forged: &Map<String, Value>| {
            let changed = |whole| changed(whole, &signers.resolved_in(forged), &[]).to_string();
            if forged.is_empty() { b64(&signed) } else { b64(changed(whole).as_bytes()) }
        };
        self.token
            .replace("{header}", &shown(header_bytes, header, &self.forged_header))
            .replace("{payload}", &shown(claims_bytes, claims, &self.forged_claims))
            .replace("{signature}", &b64(&signature))
    }
}

impl Signature {
    fn apply(&self, mut signature: Vec<u8>, signer: &Signer, input: &str) -> Vec<u8> {
        match self {
            Self::Flip(bit) => {
                signature[bit / 8] ^= 1 << (bit % 8);
                signature
            }
            Self::Length(length) => {
                signature.resize(*length, 0);
                signature
            }
            Self::Der => {
                let (r, s) = signature.split_at(32);
                // With a leading zero each, which is right half of the time and lets nobody look at less than all.
                [&[0x30, 70, 2, 33, 0], r, &[2, 33, 0], s].concat()
            }
            Self::Twin => {
                let negated = minus(ORDER_P256, &signature[32..]);
                signature[32..].copy_from_slice(&negated);
                signature
            }
            Self::Scalars([r, s]) => [r.bytes(&signature[..32]), s.bytes(&signature[32..])].concat(),
            Self::Malleable => {
                let mut carry = 0;
                for (digit, order) in signature[32..].iter_mut().zip(ORDER_ED25519) {
                    let sum = u16::from(*digit) + u16::from(order) + carry;
                    [*digit, _] = sum.to_le_bytes();
                    carry = sum >> 8;
                }
                signature
            }
            Self::Secret(secret) => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, &secret.bytes(signer));
                hmac::sign(&key, input.as_bytes()).as_ref().to_vec()
            }
        }
    }
}

impl Scalar {
    fn bytes(self, kept: &[u8]) -> Vec<u8> {
        match self {
            Self::Kept => kept.to_vec(),
            Self::Zero => vec![0; 32],
            Self::One => [&[0; 31][..], &[1]].concat(),
            Self::Order => ORDER_P256.to_vec(),
            Self::Largest => vec![0xff; 32],
        }
    }
}

impl Secret {
    fn bytes(self, signer: &Signer) -> Vec<u8> {
        match self {
            Self::Jwk => signer.jwk().to_string().into_bytes(),
            Self::Modulus => signer.jwk()["n"].as_str().expect("the key is an RSA key").to_owned().into_bytes(),
            Self::Der => signer.der(),
            Self::Pem => {
                let text = STANDARD.encode(signer.der());
                format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n").into_bytes()
            }
            Self::Empty => Vec::new(),
        }
    }
}

impl Signers {
    /// The key of that name.
    pub(super) fn get(&self, name: &str) -> &Signer {
        self.0.get(name).unwrap_or_else(|| panic!("no key {name}"))
    }

    /// The same members, with dates and keys in the place of their names.
    pub(super) fn resolved_in(&self, members: &Map<String, Value>) -> Map<String, Value> {
        members.iter().map(|(name, value)| (name.clone(), self.resolved(value))).collect()
    }

    fn resolved(&self, value: &Value) -> Value {
        let Value::Object(members) = value else { return value.clone() };
        let only = members.iter().next().filter(|_| members.len() == 1);
        match only.map(|(name, value)| (name.as_str(), value)) {
            Some(("now", seconds)) => {
                json!(seconds.as_i64().and_then(|seconds| NOW.checked_add_signed(seconds)).expect("it is a date"))
            }
            Some(("jwk_of", name)) => bare(self.get(name.as_str().expect("a key has a name")).jwk()),
            Some(("thumbprint_of", name)) => {
                // RFC 7638 §3: the members that make the key, in order, which is that of the map.
                let jwk = bare(self.get(name.as_str().expect("a key has a name")).jwk());
                json!(b64(digest(&SHA256, jwk.to_string().as_bytes()).as_ref()))
            }
            _ => Value::Object(self.resolved_in(members)),
        }
    }
}

/// The key without its name.
fn bare(mut jwk: Value) -> Value {
    jwk.as_object_mut().expect("a key is an object").remove("kid");
    jwk
}

/// Claims of a token that is good for five minutes.
pub(super) fn good_claims(iss: &str) -> Value {
    json!({
        "iss": iss, "aud": "orders", "sub": "ann", "client_id": "shop", "jti": "t-1",
        "iat": NOW - 10, "exp": NOW + 300, "scope": "orders:read orders:write",
    })
}

pub(super) fn changed(mut whole: Value, with: &Map<String, Value>, without: &[String]) -> Value {
    let members = whole.as_object_mut().expect("headers and claims are objects");
    members.extend(with.clone());
    for name in without {
        members.remove(name).unwrap_or_else(|| panic!("{name} is not there anyway"));
    }
    whole
}

fn bytes(hex: Option<&str>, text: Option<&str>, whole: &Value) -> Vec<u8> {
    if let Some(hex) = hex {
        return unhex(hex);
    }
    let json = whole.to_string();
    let members = &json[1..json.len() - 1];
    match text {
        Some(text) => text.replace("{members}", members).replace("{now}", &NOW.to_string()).into_bytes(),
        None => json.into_bytes(),
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = (0..text.len()).step_by(2);
    digits.map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("the data has hex digits")).collect()
}

fn b64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The difference of two numbers, the highest byte first.
fn minus(mut from: [u8; 32], what: &[u8]) -> [u8; 32] {
    let mut borrow = 0;
    for (digit, less) in from.iter_mut().zip(what).rev() {
        let difference = i16::from(*digit) - i16::from(*less) - borrow;
        borrow = i16::from(difference < 0);
        *digit = u8::try_from(difference.rem_euclid(256)).expect("it is a byte");
    }
    from
}
