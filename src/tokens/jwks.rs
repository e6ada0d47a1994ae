//! Key sets: the text of a JWK Set (RFC 7517 §5) in, usable keys out.
//!
//! One bad key does not spoil the others: it is left out and counted with its reason.

use std::collections::BTreeMap;
use std::sync::Arc;

use smallvec::SmallVec;

use super::json::{self, Bounds, Flaw, Value};
use super::jwk::{self, Check, Key, Skip};
use crate::domain::issuer::Algorithm;

/// Usable keys of one set; those beyond are left out.
pub(super) const KEYS_MAX: usize = 100;

/// Keys that are tried for a token that names none.
const CANDIDATES_MAX: usize = 4;

const BOUNDS: Bounds = Bounds { depth: 32, members: 16_384, name_bytes: 1024 };

/// The usable keys of one issuer.
#[derive(Default)]
pub(super) struct KeySet {
    /// Sorted by `kid`, those without one first.
    keys: Vec<Arc<Key>>,
    /// A secret stands alone, and has no name that a token could get wrong.
    is_secret: bool,
}

/// What became of the text of a key set.
#[derive(Default)]
pub(super) struct Reading {
    /// The keys that can be used.
    pub keys: KeySet,
    /// How many members of `keys` there were.
    pub listed: usize,
    /// How many were left out, by reason.
    pub skipped: BTreeMap<Skip, usize>,
    /// How many of the usable ones were published with their private part.
    pub private: usize,
}

/// Why there is no key to check a token with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoKey {
    /// None has that `kid`, or none without one fits.
    Unknown,
    /// The key of that `kid` is for other algorithms.
    Unfit,
}

/// The keys that may have signed a token, and how to check with each.
pub(super) type Candidates<'k> = SmallVec<[(&'k Arc<Key>, &'k Check); CANDIDATES_MAX]>;

/// Reads a key set. An error is a sentence about the text as a whole.
pub(super) fn read(text: &[u8]) -> Result<Reading, &'static str> {
    let set = json::object(text, BOUNDS).map_err(|flaw| match flaw {
        Flaw::Malformed => "is no JSON object, or not a strict one",
        Flaw::TooLarge => "has too many members",
    })?;
    let Some(Value::Array(list)) = set.get("keys") else { return Err("has no list `keys`") };
    let mut reading = Reading { listed: list.len(), ..Reading::default() };
    let mut keys: Vec<Key> = Vec::new();
    for member in list {
        // Not even looked at: half a megabyte of keys is a good part of a second's work.
        if keys.len() >= KEYS_MAX {
            reading.skip(Skip::TooMany);
            continue;
        }
        match jwk::read(member) {
            Ok(key) => {
                reading.private += usize::from(matches!(member, Value::Object(jwk) if jwk.has("d")));
                keys.push(key);
            }
            Err(skip) => reading.skip(skip),
        }
    }
    reading.keys = without_ambiguities(keys, &mut reading.skipped);
    Ok(reading)
}

impl Reading {
    fn skip(&mut self, why: Skip) {
        *self.skipped.entry(why).or_default() += 1;
    }
}

impl KeySet {
    /// A secret, alone.
    pub(super) fn secret(secret: &[u8]) -> Self {
        Self { keys: vec![Arc::new(Key::shared(secret))], is_secret: true }
    }

    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The keys that a token with this `kid` and algorithm may have been signed with.
    pub(super) fn candidates(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<Candidates<'_>, NoKey> {
        let Some(kid) = kid.filter(|_| !self.is_secret) else {
            let fit = self.keys.iter().filter_map(|key| Some((key, key.check(algorithm)?)));
            let fit: Candidates<'_> = fit.take(CANDIDATES_MAX).collect();
            return if fit.is_empty() { Err(NoKey::Unknown) } else { Ok(fit) };
        };
        let named = self.named(kid);
        if named.is_empty() {
            return Err(NoKey::Unknown);
        }
        // Keys of one `kid` never share an algorithm.
        let fit: Candidates<'_> = named.iter().filter_map(|key| Some((key, key.check(algorithm)?))).take(1).collect();
        if fit.is_empty() { Err(NoKey::Unfit) } else { Ok(fit) }
    }

    /// The keys of that `kid`, in no order.
    pub(super) fn named(&self, kid: &str) -> &[Arc<Key>] {
        let start = self.keys.partition_point(|key| key.kid.as_deref() < Some(kid));
        let rest = &self.keys[start..];
        &rest[..rest.partition_point(|key| key.kid.as_deref() == Some(kid))]
    }

    /// This set as the successor of `old`: keys that stay are the very same, so that verdicts that they made stay too.
    #[must_use]
    pub(super) fn succeeding(mut self, old: Option<&Self>) -> Self {
        for key in &mut self.keys {
            if let Some(same) = old.and_then(|old| old.keys.iter().find(|old| old.is_same(key))) {
                *key = Arc::clone(same);
            }
        }
        self
    }

    /// Whether it holds the very same keys as `other`.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.len() == other.len() && self.keys.iter().zip(&other.keys).all(|(key, other)| Arc::ptr_eq(key, other))
    }

    /// Ends every key that `new` does not hold, and every verdict that they made, for good.
    pub(super) fn end_unless_in(&self, new: Option<&Self>) {
        for key in &self.keys {
            if !new.is_some_and(|new| new.keys.iter().any(|new| Arc::ptr_eq(key, new))) {
                key.end();
            }
        }
    }
}

/// Two keys of one `kid` are fine while the algorithm tells them apart (RFC 7517 §4.5); else neither can be trusted to
/// be the one that is meant.
fn without_ambiguities(mut keys: Vec<Key>, skipped: &mut BTreeMap<Skip, usize>) -> KeySet {
    keys.sort_by(|a, b| a.kid.cmp(&b.kid));
    keys.dedup_by(|later, earlier| later.is_same(earlier));
    let ambiguous: Vec<bool> = keys
        .iter()
        .enumerate()
        .map(|(index, key)| {
            let others = keys.iter().enumerate().filter(|(other, _)| *other != index);
            key.kid.is_some() && others.clone().any(|(_, other)| other.kid == key.kid && other.shares_algorithm(key))
        })
        .collect();
    let count = ambiguous.iter().filter(|is| **is).count();
    if count > 0 {
        *skipped.entry(Skip::Ambiguous).or_default() += count;
    }
    let sound = keys.into_iter().zip(ambiguous).filter(|(_, ambiguous)| !ambiguous);
    KeySet { keys: sound.map(|(key, _)| Arc::new(key)).collect(), is_secret: false }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::tokens::mint::{Signer, set};

    fn read_keys(keys: impl IntoIterator<Item = Json>) -> Reading {
        read(set(keys).as_bytes()).unwrap()
    }

    /// Why a set of one key is left out; none if it is used.
    fn skip(key: Json) -> Option<Skip> {
        let reading = read_keys([key]);
        assert_eq!(reading.keys.len(), usize::from(reading.skipped.is_empty()));
        reading.skipped.into_keys().next()
    }

    fn b64(bytes: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    #[test]
    fn keys_of_every_kind_are_read_with_and_without_alg() {
        for (signer, alg) in [
            (Signer::ec("a"), "ES256"),
            (Signer::ec384("b"), "ES384"),
            (Signer::ed("c"), "EdDSA"),
            (Signer::rsa("d", 0), "PS384"),
        ] {
            assert_eq!(skip(signer.jwk()), None);
            assert_eq!(skip(signer.jwk_with("alg", alg)), None);
            assert_eq!(skip(signer.jwk_with("use", "sig")), None);
            assert_eq!(skip(signer.jwk_with("key_ops", json!(["verify", "sign"]))), None);
            assert_eq!(skip(signer.jwk_with("x5c", json!(["MII"]))), None);
        }
        assert_eq!(skip(Signer::ed("c").jwk_with("alg", "Ed25519")), None);
    }

    #[test]
    fn a_text_that_is_no_key_set_is_refused_whole() {
        for text in [
            "",
            "[]",
            "{}",
            "<html></html>",
            "{\"keys\":{}}",
            "{\"keys\":1}",
            "{\"keys\":[]}x",
            "{\"keys\":[],\"keys\":[]}",
        ] {
            assert!(read(text.as_bytes()).is_err(), "{text}");
        }
        let empty = read(b"{\"keys\":[],\"more\":1}").unwrap();
        assert_eq!((empty.keys.len(), empty.listed), (0, 0));
    }

    #[test]
    fn a_key_for_another_use_is_left_out() {
        let signer = Signer::ec("k");
        for (name, value, why) in [
            ("use", json!("enc"), Skip::WrongUse),
            ("use", json!(1), Skip::Malformed),
            ("key_ops", json!(["sign"]), Skip::WrongUse),
            ("key_ops", json!([]), Skip::WrongUse),
            ("key_ops", json!("verify"), Skip::Malformed),
            ("alg", json!("RS256"), Skip::WrongUse),
            ("alg", json!("ES384"), Skip::WrongUse),
            ("alg", json!("EdDSA"), Skip::WrongUse),
            ("alg", json!("ES521"), Skip::Unsupported),
            ("alg", json!("ECDH-ES"), Skip::Unsupported),
            ("alg", json!("none"), Skip::Unsupported),
            ("alg", json!("HS256"), Skip::Unsupported),
            ("alg", json!(null), Skip::Malformed),
            ("kid", json!(1), Skip::Malformed),
            ("kid", json!("k".repeat(257)), Skip::Malformed),
            ("kty", json!("oct"), Skip::Symmetric),
            ("kty", json!("OKP"), Skip::Unsupported),
            ("kty", json!("RSA"), Skip::Malformed),
            ("kty", json!("ec"), Skip::Unsupported),
            ("crv", json!("P-384"), Skip::Invalid),
            ("crv", json!("P-521"), Skip::Unsupported),
            ("crv", json!("secp256k1"), Skip::Unsupported),
            ("crv", json!("Ed25519"), Skip::Unsupported),
        ] {
            assert_eq!(skip(signer.jwk_with(name, value.clone())), Some(why), "{name} {value}");
        }
        assert_eq!(skip(Signer::rsa("r", 0).jwk_with("alg", "RSA-OAEP")), Some(Skip::Unsupported));
        assert_eq!(skip(Signer::rsa("r", 0).jwk_with("alg", "ES256")), Some(Skip::WrongUse));
        assert_eq!(skip(Signer::ed("e").jwk_with("crv", "Ed448")), Some(Skip::Unsupported));
        assert_eq!(skip(Signer::ed("e").jwk_with("crv", "P-256")), Some(Skip::Unsupported));
        assert_eq!(skip(json!({"kty": "oct", "k": "AAAA", "alg": "HS256"})), Some(Skip::Symmetric));
        for key in [json!(1), json!([]), json!({}), json!(null)] {
            assert_eq!(skip(key), Some(Skip::Malformed));
        }
    }

    #[test]
    fn points_that_are_not_on_their_curve_are_left_out() {
        let signer = Signer::ec("k");
        let x = URL_SAFE_NO_PAD.decode(signer.jwk()["x"].as_str().unwrap()).unwrap();
        let mut moved = x.clone();
        moved[31] ^= 1;
        for (name, value) in [
            ("x", b64(&[0; 32])),
            ("x", b64(&[0xff; 32])),
            ("y", b64(&x)),
            ("x", b64(&x[1..])),
            ("x", b64(&[&[0], &x[..]].concat())),
            ("y", String::new()),
        ] {
            assert_eq!(skip(signer.jwk_with(name, value.clone())), Some(Skip::Invalid), "{name} {value}");
        }
        assert_eq!(skip(signer.jwk_with("x", format!("{}=", b64(&x)))), Some(Skip::Malformed));
        assert_eq!(skip(Signer::ed("e").jwk_with("x", b64(&[1; 31]))), Some(Skip::Invalid));
        let mut neutral = [0; 32];
        neutral[0] = 1;
        assert_eq!(skip(Signer::ed("e").jwk_with("x", b64(&neutral))), Some(Skip::Weak));
    }

    #[test]
    fn rsa_keys_have_a_sound_size_and_exponent() {
        let signer = Signer::rsa("r", 0);
        let modulus = URL_SAFE_NO_PAD.decode(signer.jwk()["n"].as_str().unwrap()).unwrap();
        for (exponent, why) in [
            (&[1][..], Some(Skip::Weak)),
            (&[0, 0, 1], Some(Skip::Weak)),
            (&[2], Some(Skip::Invalid)),
            (&[1, 0, 0], Some(Skip::Invalid)),
            (&[], Some(Skip::Invalid)),
            (&[0], Some(Skip::Invalid)),
            (&[3], None),
            (&[0, 1, 0, 1], None),
            (&[1, 0, 0, 0, 1], Some(Skip::Weak)),
        ] {
            assert_eq!(skip(signer.jwk_with("e", b64(exponent))), why, "{exponent:?}");
        }
        let mut even = modulus.clone();
        *even.last_mut().unwrap() &= 0xfe;
        let large = vec![0xff; 1025];
        for (modulus, why) in [
            (&modulus[..], None),
            (&[&[0], &modulus[..]].concat(), None),
            (&modulus[1..], Some(Skip::Weak)),
            (&[&[0], &modulus[1..]].concat(), Some(Skip::Weak)),
            (&even, Some(Skip::Invalid)),
            (&large, Some(Skip::Weak)),
            (&[], Some(Skip::Invalid)),
        ] {
            assert_eq!(skip(signer.jwk_with("n", b64(modulus))), why, "{} bytes", modulus.len());
        }
    }

    #[test]
    fn a_bad_key_does_not_spoil_the_others() {
        let reading =
            read_keys([Signer::ec("a").jwk(), json!({"kty": "oct", "k": "AA"}), json!(7), Signer::ed("b").jwk()]);
        assert_eq!(reading.keys.len(), 2);
        assert_eq!(reading.listed, 4);
        assert_eq!(reading.skipped, BTreeMap::from([(Skip::Malformed, 1), (Skip::Symmetric, 1)]));
    }

    #[test]
    fn a_published_private_key_is_used_for_what_is_public_of_it_and_noticed() {
        let reading = read_keys([Signer::ec("a").jwk_with("d", "c2VjcmV0")]);
        assert_eq!((reading.keys.len(), reading.private), (1, 1));
    }

    #[test]
    fn keys_that_cannot_be_told_apart_are_all_left_out() {
        let (a, b) = (Signer::ec("k"), Signer::ec("k"));
        let reading = read_keys([a.jwk(), b.jwk(), Signer::ec("other").jwk()]);
        assert_eq!(reading.skipped, BTreeMap::from([(Skip::Ambiguous, 2)]));
        assert_eq!(reading.keys.candidates(Some("k"), Algorithm::ES256).err(), Some(NoKey::Unknown));
        assert!(reading.keys.candidates(Some("other"), Algorithm::ES256).is_ok());
        // One key, listed twice, is one key.
        assert_eq!(read_keys([a.jwk(), a.jwk()]).keys.len(), 1);
        // The algorithm tells these apart.
        let apart = read_keys([
            a.jwk(),
            Signer::ed("k").jwk(),
            Signer::rsa("k", 0).jwk_with("alg", "RS256"),
            Signer::rsa("k", 1).jwk_with("alg", "PS256"),
        ]);
        assert_eq!(apart.keys.len(), 4);
        assert_eq!(apart.keys.candidates(Some("k"), Algorithm::EdDSA).unwrap().len(), 1);
        assert_eq!(apart.keys.candidates(Some("k"), Algorithm::ES384).err(), Some(NoKey::Unfit));
        let overlapping = read_keys([Signer::rsa("k", 0).jwk(), Signer::rsa("k", 1).jwk_with("alg", "PS256")]);
        assert_eq!(overlapping.keys.len(), 0);
    }

    #[test]
    fn a_set_holds_a_hundred_keys_at_most() {
        let reading = read_keys((0..103).map(|index| Signer::ed(&format!("k{index}")).jwk()));
        assert_eq!(reading.keys.len(), KEYS_MAX);
        assert_eq!(reading.skipped, BTreeMap::from([(Skip::TooMany, 3)]));
    }

    #[test]
    fn keys_that_stay_are_the_same_and_keys_that_go_end_for_good() {
        let (a, b, c) = (Signer::ec("a"), Signer::ec("b"), Signer::ec("c"));
        let first = read_keys([a.jwk(), b.jwk()]).keys;
        let second = read_keys([b.jwk(), c.jwk()]).keys.succeeding(Some(&first));
        first.end_unless_in(Some(&second));
        let key = |set: &KeySet, kid: &str| Arc::clone(set.candidates(Some(kid), Algorithm::ES256).unwrap()[0].0);
        assert!(!key(&first, "a").is_in_force());
        assert!(key(&first, "b").is_in_force());
        assert!(Arc::ptr_eq(&key(&first, "b"), &key(&second, "b")));
        let third = read_keys([a.jwk()]).keys.succeeding(Some(&second));
        assert!(key(&third, "a").is_in_force());
        assert!(!key(&first, "a").is_in_force(), "a key that comes back is another");
        // The same name for another key, or for another use, is another key.
        let renamed = read_keys([Signer::ec("b").jwk()]).keys.succeeding(Some(&second));
        assert!(!Arc::ptr_eq(&key(&renamed, "b"), &key(&second, "b")));
    }
}
