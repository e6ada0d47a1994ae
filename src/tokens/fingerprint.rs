//! What a token is found by among those that are remembered: 128 bits that depend on each of its bytes, under keys that the
//! process draws when it starts and that never leave it. Nothing outside goes by it: what replicas share about a token, such
//! as what it is taken back by, is plain SHA-256.
//!
//! The bytes are hashed by GHASH at a secret point, and what comes out is encrypted with AES-128 under another key (a
//! universal hash below a pseudorandom permutation):
//!
//! - GHASH is a polynomial over GF(2^128) whose coefficients are the blocks of a token and its length. Two that differ agree at
//!   a random point with a probability of at most 1025 / 2^128 < 2^-117: 1025 is the degree for the longest token that is read.
//!   A permutation adds no collisions.
//! - So a token is taken for one of a million (2^20) remembered ones with at most 2^-97, and any of ten years of a million tokens
//!   a second (2^49) with at most 2^-48. Choosing each token by the answers to those before helps nobody: as long as there was
//!   no collision, each answer was known beforehand. Nor is much won by one: only tokens that an issuer signed are remembered,
//!   so one that is taken for another has that one's caller, and whoever knows a token can show it as it is.
//! - Where an entry stands in a table shows, a little, in how long it takes to find it. Unencrypted, that would be linear
//!   equations of powers of the point, and some dozens of them would give it away. Encrypted, it says no more than a random
//!   number does.
//!
//! Whoever reads the process's memory reads the keys and can go back from a fingerprint to 128 bits of what was hashed. Of a
//! JWT's signature at least twice as many are not known. A short token (below [`LONG`]) may have no more than that which are
//! secret, so of those it is the first half of SHA-256, which nobody turns round and which takes no longer on so few bytes. A
//! secret salt before the token is why half is enough: nobody can look for two tokens with equal halves.
//!
//! On a processor without instructions for AES, GHASH and AES-128 in software take no longer than SHA-256 does, so there is no
//! other way for those.

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::cipher::{AES_128, EncryptingKey, UnboundCipherKey};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;

use crate::decide::ports::TokenHash;

/// Bytes from which on a token is long. JWTs are, and opaque tokens that are hold more than 128 random bits.
const LONG: usize = 256;

const BYTES: usize = size_of::<TokenHash>();

/// What a verdict is found by: every byte of the token, and everything beside it that the verdict depends on. Compared
/// whole; holds nothing that a token could be told from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint {
    /// Which configuration of the issuers: it says which audiences, keys and bindings are demanded.
    generation: u64,
    token: TokenHash,
}

/// Takes fingerprints. Each has keys of its own, so those of two have nothing to do with each other.
pub(super) struct Fingerprints {
    hash: LessSafeKey,
    cipher: EncryptingKey,
    salt: [u8; BYTES],
}

impl Fingerprint {
    /// Of the token with this hash, under the issuers' configuration of that generation.
    pub(super) const fn new(token: TokenHash, generation: u64) -> Self {
        Self { generation, token }
    }

    /// The same but for one of its token's bits.
    #[cfg(test)]
    pub(super) fn with_bit_flipped(mut self, bit: usize) -> Self {
        self.token[bit / 8] ^= 1 << (bit % 8);
        self
    }

    /// A part of it, as uniformly distributed as the whole.
    pub(super) fn part(&self) -> u64 {
        let [part @ .., _, _, _, _, _, _, _, _] = self.token;
        u64::from_le_bytes(part)
    }
}

impl Fingerprints {
    /// With keys that are drawn now. An error: there is no randomness to be had.
    pub(super) fn draw() -> Result<Self, Unspecified> {
        let mut keys = [0; 3 * BYTES];
        rand::fill(&mut keys)?;
        let (hash, rest) = keys.split_at(BYTES);
        let (cipher, salt) = rest.split_at(BYTES);
        Ok(Self {
            hash: LessSafeKey::new(UnboundKey::new(&AES_128_GCM, hash)?),
            cipher: EncryptingKey::ecb(UnboundCipherKey::new(&AES_128, cipher)?)?,
            salt: salt.try_into().map_err(|_| Unspecified)?,
        })
    }

    /// Of a token, under the issuers' configuration of that generation.
    pub(super) fn of(&self, token: &str, generation: u64) -> Fingerprint {
        Fingerprint::new(self.hash(token), generation)
    }

    /// The token's part of it.
    pub(super) fn hash(&self, token: &str) -> TokenHash {
        let token = token.as_bytes();
        if token.len() < LONG {
            self.of_short(token)
        } else {
            // Only bytes without number are refused. Whatever else may be: it is no reason to mistake tokens.
            self.of_long(token).unwrap_or_else(|Unspecified| first_half(digest(&SHA256, token).as_ref()))
        }
    }

    fn of_short(&self, token: &[u8]) -> TokenHash {
        let mut salted = [0; BYTES + LONG];
        salted[..BYTES].copy_from_slice(&self.salt);
        let salted = &mut salted[..BYTES + token.len()];
        salted[BYTES..].copy_from_slice(token);
        first_half(digest(&SHA256, salted).as_ref())
    }

    fn of_long(&self, token: &[u8]) -> Result<TokenHash, Unspecified> {
        // GCM's tag of a message that is empty, with the token beside it, is GHASH but for a constant, which the nonce
        // chooses. A nonce may be used again here: nobody sees a tag, and equal tokens shall have equal ones.
        let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
        let tag = self.hash.seal_in_place_separate_tag(nonce, Aad::from(token), &mut [])?;
        let mut block = first_half(tag.as_ref());
        self.cipher.encrypt(&mut block)?;
        Ok(block)
    }
}

fn first_half(hash: &[u8]) -> TokenHash {
    let mut half = [0; BYTES];
    half.copy_from_slice(&hash[..BYTES]);
    half
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::collections::{BTreeSet, HashSet};

    use super::*;

    fn text(bytes: usize) -> String {
        (0..bytes).map(|at| char::from(b'a' + u8::try_from(at % 26).unwrap())).collect()
    }

    #[test]
    fn every_byte_of_a_token_and_how_many_there_are_and_the_configuration_count() {
        let fingerprints = Fingerprints::draw().unwrap();
        for bytes in [2, 15, 16, 17, 50, LONG - 1, LONG, LONG + 1, 470, 1024, 16 * 1024] {
            let token = text(bytes);
            let mut seen = HashSet::from([fingerprints.of(&token, 1).token]);
            let places: BTreeSet<usize> = (0..bytes).step_by(1 + bytes / 512).chain([bytes - 1]).collect();
            let changed = places.iter().map(|&at| format!("{}~{}", &token[..at], &token[at + 1..]));
            let longer = [format!("{token}\0"), format!("\0{token}")];
            let shorter = [token[1..].to_owned(), token[..bytes - 1].to_owned()];
            for other in changed.chain(longer).chain(shorter) {
                assert!(seen.insert(fingerprints.of(&other, 1).token), "{bytes}: {other:?}");
            }
            assert_eq!(fingerprints.of(&token, 1), fingerprints.of(&token, 1));
            assert_ne!(fingerprints.of(&token, 1), fingerprints.of(&token, 2));
            assert_ne!(
                fingerprints.of(&token, 1),
                Fingerprints::draw().unwrap().of(&token, 1),
                "each draws its own keys"
            );
        }
    }

    /// Of four texts that cancel each other out, GHASH's values do, too.
    #[test]
    fn a_fingerprint_is_no_linear_function_of_the_token() {
        let fingerprints = Fingerprints::draw().unwrap();
        let parts = [("a", "a"), ("a", "b"), ("b", "a"), ("b", "b")];
        let marks = parts.map(|(one, other)| {
            let token = format!("{}{}", one.repeat(LONG), other.repeat(LONG));
            u128::from_le_bytes(fingerprints.of(&token, 1).token)
        });
        assert_ne!(marks.into_iter().fold(0, |all, mark| all ^ mark), 0);
    }

    #[test]
    fn short_tokens_are_hashed_so_that_nobody_turns_it_round() {
        let fingerprints = Fingerprints::draw().unwrap();
        let (short, long) = (text(LONG - 1), text(LONG));
        let salted = [&fingerprints.salt, short.as_bytes()].concat();
        assert_eq!(fingerprints.of(&short, 1).token, digest(&SHA256, &salted).as_ref()[..BYTES]);
        assert_eq!(fingerprints.of(&long, 1).token, fingerprints.of_long(long.as_bytes()).unwrap());
    }
}
