//! API keys: what they look like, and what is kept of each. A key itself is never kept, only its hash.
//!
//! `tg_<id>_<secret><checksum>`, of letters and digits: a prefix by which scanners find what leaked, an id that is no
//! secret, 256 bits that are, and a checksum, so that no look-up is spent on a mistyped key.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};

use super::identity::{Identity, IdentityKind};
use super::limit::{Attribute, Limit, Occasion};
use super::time::Micros;

/// What every key begins with. A bearer token that begins so is a key, and is shown to no issuer.
pub const PREFIX: &str = "tg_";

/// Who vouches for the holders of keys: the `issuer` of their identities, which no other issuer may have as its name.
pub const ISSUER: &str = "tollgate:api-keys";

/// The most limits that a key may name.
pub const LIMITS_MAX: usize = 8;

/// SHA-256 of a key, as it is shown. No slow hash, as passwords need: nobody guesses 256 random bits, however fast.
pub type KeyHash = [u8; 32];

const ID_CHARS: usize = 12;

/// 62^43 is a little more than 2^256.
const SECRET_CHARS: usize = 43;

/// 62^6 is more than 2^32.
const CHECKSUM_CHARS: usize = 6;

const SECRET_AT: usize = PREFIX.len() + ID_CHARS + 1;
const CHECKSUM_AT: usize = SECRET_AT + SECRET_CHARS;

/// The length of a key, in bytes.
const KEY_BYTES: usize = CHECKSUM_AT + CHECKSUM_CHARS;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Which key: 12 letters and digits, drawn at random. No secret: it stands in logs, and keys are revoked by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; ID_CHARS]);

impl KeyId {
    /// Reads an id.
    pub fn parse(text: &str) -> Option<Self> {
        let id = <[u8; ID_CHARS]>::try_from(text.as_bytes()).ok()?;
        id.iter().all(u8::is_ascii_alphanumeric).then_some(Self(id))
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        // It was made of ASCII.
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What somebody shows as a key, and has the form of one. Whether it is good is not known.
#[derive(Clone, Copy)]
pub struct ShownKey<'a> {
    /// Which key it claims to be.
    pub id: KeyId,
    text: &'a str,
}

impl<'a> ShownKey<'a> {
    /// Reads a key: nothing where it is mistyped, cut or lengthened.
    pub fn read(text: &'a str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.len() != KEY_BYTES || !text.starts_with(PREFIX) || bytes[SECRET_AT - 1] != b'_' {
            return None;
        }
        let sound = bytes[SECRET_AT..].iter().all(u8::is_ascii_alphanumeric)
            && bytes[CHECKSUM_AT..] == checksum(&bytes[..CHECKSUM_AT]);
        let id = KeyId::parse(&text[PREFIX.len()..SECRET_AT - 1])?;
        sound.then_some(Self { id, text })
    }

    /// What is compared with the hash that is kept.
    pub fn hash(&self) -> KeyHash {
        let mut hash = KeyHash::default();
        hash.copy_from_slice(digest(&SHA256, self.text.as_bytes()).as_ref());
        hash
    }
}

/// A new key. It does not print itself.
pub struct DrawnKey {
    id: KeyId,
    text: String,
}

impl DrawnKey {
    /// Draws a key; `random` fills what it is given with bytes that nobody can foresee.
    pub fn draw<E>(mut random: impl FnMut(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        let mut id = [0; ID_CHARS];
        draw_chars(&mut id, &mut random)?;
        let mut secret = [0; SECRET_CHARS];
        draw_chars(&mut secret, &mut random)?;
        let mut text = String::with_capacity(KEY_BYTES);
        text.push_str(PREFIX);
        text.extend(id.map(char::from));
        text.push('_');
        text.extend(secret.map(char::from));
        text.extend(checksum(text.as_bytes()).map(char::from));
        Ok(Self { id: KeyId(id), text })
    }

    /// Which key it is.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// What is kept of it.
    pub fn hash(&self) -> KeyHash {
        ShownKey { id: self.id, text: &self.text }.hash()
    }

    /// The key itself, for whoever is to hold it.
    pub fn reveal(&self) -> &str {
        &self.text
    }
}

/// Each letter and digit as likely as any other.
fn draw_chars<E>(chars: &mut [u8], random: &mut impl FnMut(&mut [u8]) -> Result<(), E>) -> Result<(), E> {
    // Larger ones would make the first letters likelier.
    const FAIR: u8 = 248;
    let mut drawn = 0;
    while drawn < chars.len() {
        let mut bytes = [0; 64];
        random(&mut bytes)?;
        let fair = bytes.into_iter().filter(|&byte| byte < FAIR);
        for (char, byte) in chars[drawn..].iter_mut().zip(fair) {
            *char = ALPHABET[usize::from(byte % 62)];
            drawn += 1;
        }
    }
    Ok(())
}

/// CRC-32 in base 62. Whatever is changed within 32 bits in a row is noticed for sure, else all but once in 2^32.
fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_CHARS] {
    let mut rest =
        !bytes.iter().fold(u32::MAX, |crc, &byte| CRC_TABLE[usize::from(crc.to_le_bytes()[0] ^ byte)] ^ (crc >> 8));
    let mut digits = [b'0'; CHECKSUM_CHARS];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[(rest % 62) as usize];
        rest /= 62;
    }
    digits
}

/// Of the polynomial of Ethernet and zip (ISO 3309), reflected.
const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[byte as usize] = crc;
        byte += 1;
    }
    table
};

/// Where in `text` something begins that looks like a key, or a part of one: for files where none may be.
pub fn find_key(text: &str) -> Option<usize> {
    text.match_indices(PREFIX).map(|(at, _)| at).find(|&at| {
        let (id, rest) = text.as_bytes()[at + PREFIX.len()..].split_at_checked(ID_CHARS).unwrap_or_default();
        let [b'_', first, ..] = rest else { return false };
        !id.is_empty() && id.iter().all(u8::is_ascii_alphanumeric) && first.is_ascii_alphanumeric()
    })
}

/// The hash of a key in hexadecimal digits.
pub fn hex(hash: &KeyHash) -> String {
    let digits = hash.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

/// Reads the hash of a key in hexadecimal digits.
pub fn hash_from_hex(text: &str) -> Option<KeyHash> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let digits: Vec<u8> = text.as_bytes().iter().map(digit).collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    let bytes: Vec<u8> = pairs.iter().map(|[high, low]| high * 16 + low).collect();
    KeyHash::try_from(bytes).ok().filter(|_| rest.is_empty())
}

/// What is kept of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// Which.
    pub id: KeyId,
    /// What it is known by.
    pub hash: KeyHash,
    /// Whom it speaks for.
    pub owner: Box<str>,
    /// The organisation that the owner belongs to.
    pub tenant: Option<Box<str>>,
    /// Granted scopes.
    pub scopes: Box<[Box<str>]>,
    /// Roles.
    pub roles: Box<[Box<str>]>,
    /// Limits that its calls consume besides those of the rule; at most [`LIMITS_MAX`].
    pub limits: Box<[Box<str>]>,
    /// When it was made, since the Unix epoch.
    pub created: Option<Micros>,
    /// The first moment at which it is good.
    pub not_before: Option<Micros>,
    /// The first moment at which it no longer is.
    pub expires: Option<Micros>,
    /// Whether it was taken back.
    pub revoked: bool,
}

impl ApiKey {
    /// A key that speaks for `owner`, may nothing else, and never ends.
    pub fn plain(id: KeyId, hash: KeyHash, owner: impl Into<Box<str>>) -> Self {
        Self {
            id,
            hash,
            owner: owner.into(),
            tenant: None,
            scopes: Box::default(),
            roles: Box::default(),
            limits: Box::default(),
            created: None,
            not_before: None,
            expires: None,
            revoked: false,
        }
    }

    /// Whether it is good at `now`, by the wall clock. There is no leeway: whoever made it set the clock, too.
    pub fn holds(&self, now: Micros) -> bool {
        !self.revoked && self.not_before.is_none_or(|first| now >= first) && self.expires.is_none_or(|end| now < end)
    }

    /// Who calls with it. `issuer` is [`ISSUER`]; `may_operate` as in [`Identity`].
    pub fn identity(&self, issuer: &Arc<str>, may_operate: bool) -> Identity {
        Identity {
            kind: IdentityKind::ApiKey,
            subject: Some(self.owner.clone()),
            client: Some(self.id.as_str().into()),
            token_id: Some(self.id.as_str().into()),
            tenant: self.tenant.clone(),
            scopes: self.scopes.clone(),
            roles: self.roles.clone(),
            limits: self.limits.clone(),
            issued_at: self.created,
            not_before: self.not_before,
            expires_at: self.expires,
            may_operate,
            ..Identity::vouched_by(Arc::clone(issuer))
        }
    }
}

/// Why keys may not name a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsuited<'l> {
    /// It counts by this, which not every call of a key has.
    Attribute(&'l Attribute),
    /// It is consumed before anybody knows which key is shown.
    Occasion(Occasion),
}

/// Why keys may not name `limit`; none: they may.
pub fn unsuited(limit: &Limit) -> Option<Unsuited<'_>> {
    if limit.charge.is_early() {
        return Some(Unsuited::Occasion(limit.charge));
    }
    let attribute = limit.by.iter().find(|attribute| match attribute {
        Attribute::Issuer | Attribute::Subject | Attribute::Client | Attribute::Method | Attribute::Rule => false,
        Attribute::Session
        | Attribute::SourceAddress
        | Attribute::Host
        | Attribute::Path
        | Attribute::PathParameter(_)
        | Attribute::Resource(_) => true,
    });
    attribute.map(Unsuited::Attribute)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use proptest::prelude::*;

    use super::*;

    /// A key from bytes that are not random at all.
    fn key(seed: u8) -> String {
        let mut next = seed;
        let drawn = DrawnKey::draw(|bytes: &mut [u8]| {
            bytes.fill_with(|| {
                next = next.wrapping_mul(181).wrapping_add(59);
                next
            });
            Ok::<_, ()>(())
        });
        drawn.unwrap().reveal().to_owned()
    }

    #[test]
    fn a_key_is_made_of_prefix_id_secret_and_checksum() {
        let text = key(1);
        assert_eq!(text.len(), 65);
        let shown = ShownKey::read(&text).unwrap();
        assert_eq!(shown.id.as_str(), &text[3..15]);
        assert_eq!(&text[15..16], "_");
        assert_eq!(KeyId::parse(shown.id.as_str()), Some(shown.id));
        // Known from elsewhere: the checksum is that of every zip file.
        assert_eq!(checksum(b"123456789"), *b"3jZRME");
    }

    #[test]
    fn what_is_no_key_is_read_by_nobody() {
        let good = key(2);
        for text in ["", "tg_", &good[..64], &format!("{good}a"), &format!(" {good}"), &good.to_uppercase()] {
            assert!(ShownKey::read(text).is_none(), "{text}");
        }
        for text in ["", "short", "0123456789ab0", "0123456789a-", "0123456789aé"] {
            assert!(KeyId::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn without_randomness_there_is_no_key() {
        assert!(DrawnKey::draw(|_: &mut [u8]| Err("dry")).is_err());
    }

    #[test]
    fn every_letter_and_digit_is_as_likely_as_any_other() {
        let mut text = [0; 248 * 4];
        let mut next = 0_u8;
        let mut count = |bytes: &mut [u8]| {
            bytes.fill_with(|| {
                next = next.wrapping_add(1);
                next
            });
            Ok::<_, ()>(())
        };
        // Each fair byte once comes in 256 bytes; 64 are drawn at a time, and what is left over is not used.
        draw_chars(&mut text, &mut count).unwrap();
        for letter in ALPHABET {
            let found = text.iter().fold(0, |found, char| found + u32::from(char == letter));
            assert!((14..=18).contains(&found), "{}: {found}", char::from(*letter));
        }
    }

    #[test]
    fn a_key_that_stands_in_a_text_is_found_even_where_it_is_cut_or_mistyped() {
        let good = key(3);
        for text in [good.as_str(), &good[..17], &format!("# {good}x"), &format!("tg_ tg_a: tg_{}", &good[3..])] {
            assert!(find_key(text).is_some(), "{text}");
        }
        for text in ["", "tg_", "id: 0123456789ab", "tg_0123456789ab", "tg_0123456789ab_", "tg_012345678_ab_cd", "tg_é"]
        {
            assert!(find_key(text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_key_holds_from_its_first_moment_up_to_its_end() {
        let plain = ApiKey::plain(KeyId::parse("0123456789ab").unwrap(), [0; 32], "ann");
        assert!(plain.holds(Micros::ZERO) && plain.holds(Micros(u64::MAX)));
        assert!(!ApiKey { revoked: true, ..plain.clone() }.holds(Micros(5)));
        let bounded = ApiKey { not_before: Some(Micros(5)), expires: Some(Micros(7)), ..plain };
        let holds: Vec<bool> = (4..=7).map(|now| bounded.holds(Micros(now))).collect();
        assert_eq!(holds, [false, true, true, false]);
    }

    proptest! {
        #[test]
        fn any_change_of_one_character_is_caught_without_a_look_up(seed: u8, at in 0..KEY_BYTES, other in "[ -~]") {
            let good = key(seed);
            prop_assert!(ShownKey::read(&good).is_some());
            let mut changed = good.clone();
            changed.replace_range(at..=at, &other);
            prop_assert_eq!(ShownKey::read(&changed).is_some(), changed == good);
        }

        #[test]
        fn any_two_neighbours_that_are_swapped_are_caught(seed: u8, at in 0..KEY_BYTES - 1) {
            let good = key(seed);
            let mut swapped = good.clone().into_bytes();
            swapped.swap(at, at + 1);
            let swapped = String::from_utf8(swapped).unwrap();
            prop_assert_eq!(ShownKey::read(&swapped).is_some(), swapped == good);
        }

        #[test]
        fn any_text_has_an_answer(text in ".{0,80}", tail in "tg_[0-9A-Za-z_]{0,70}") {
            for text in [&text, &tail, &format!("{text}{tail}")] {
                prop_assert!(ShownKey::read(text).is_none());
                let _ = find_key(text);
            }
        }
    }
}
