//! Reservations as callers carry them: a text that holds all that settling needs, so that any replica can do it, one that
//! has just started, too.
//!
//! It is not signed. What a forged one can do is to settle something whose name its maker knows; names cannot be guessed,
//! and nobody is told one but whoever holds what it names. Any other name, of any counter, changes nothing.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message;

use super::question::CHARGES_MAX;
use crate::domain::decision::{Held, HeldCounter};
use crate::domain::limit::{CounterKey, Kind};
use crate::domain::policy::LIMITS_MAX;
use crate::domain::window::LeaseId;

/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;

/// The most counters of one reservation: those of a rule and a question's own.
const COUNTERS_MAX: usize = LIMITS_MAX + CHARGES_MAX;

/// The longest text that is read: as many counters, each of them counted by as many attributes as can be, with long
/// values, all of them under an issuer.
const TEXT_BYTES_MAX: usize = 96 * 1024;

/// The first bytes of a hash, behind the message: a text that was cut or changed is to be told, not to be settled in part.
const SUM_BYTES: usize = 8;

/// What the text holds.
#[derive(Clone, PartialEq, Eq, Message)]
struct Content {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(fixed64, tag = "2")]
    replica: u64,
    #[prost(fixed64, tag = "3")]
    serial: u64,
    /// Each begins with its limit's name.
    #[prost(bytes = "vec", repeated, tag = "4")]
    counters: Vec<Vec<u8>>,
    /// The letter of each one's algorithm.
    #[prost(bytes = "vec", tag = "5")]
    kinds: Vec<u8>,
}

/// What is to be settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reservation {
    /// Its name.
    pub(super) lease: LeaseId,
    /// Its counters, at least one, each once.
    pub(super) counters: Vec<HeldCounter>,
}

/// The text that stands for what is held.
pub(in crate::api) fn written(Held { lease, counters, expires_after: _ }: &Held) -> String {
    let (counters, kinds) = counters.iter().map(|held| (held.key.as_bytes().to_vec(), letter(held.kind))).collect();
    let content = Content { version: VERSION, replica: lease.replica, serial: lease.serial, counters, kinds };
    sealed(content.encode_to_vec())
}

/// Reads what [`written`] gave.
///
/// # Errors
/// What is wrong with the text.
pub(super) fn read(text: &str) -> Result<Reservation, &'static str> {
    if text.is_empty() {
        return Err("is needed");
    }
    let content = opened(text).and_then(|bytes| Content::decode(bytes.as_slice()).ok());
    let Content { version, replica, serial, counters, kinds } = content.ok_or(NONE)?;
    if version != VERSION {
        return Err("is of another version than this replica knows; it expires by itself");
    }
    if !(1..=COUNTERS_MAX).contains(&counters.len()) || kinds.len() != counters.len() {
        return Err(NONE);
    }
    let held = |(bytes, by): (&Vec<u8>, &u8)| {
        let kind = Kind::ALL.into_iter().find(|kind| letter(*kind) == *by)?;
        Some(HeldCounter { key: CounterKey::from_bytes(bytes)?, kind })
    };
    let counters: Vec<HeldCounter> = counters.iter().zip(&kinds).map(held).collect::<Option<_>>().ok_or(NONE)?;
    let twice =
        counters.iter().enumerate().any(|(index, held)| counters[..index].iter().any(|other| other.key == held.key));
    if twice {
        return Err(NONE);
    }
    Ok(Reservation { lease: LeaseId { replica, serial }, counters })
}

/// What is said of a text that was never handed out.
const NONE: &str = "is no reservation: it must be passed on as it came";

/// How an algorithm is written.
const fn letter(kind: Kind) -> u8 {
    match kind {
        Kind::SlidingWindow => b'w',
        Kind::TokenBucket => b'b',
        Kind::FixedWindow => b'f',
        Kind::Concurrency => b'c',
    }
}

fn sealed(mut bytes: Vec<u8>) -> String {
    let sum = digest(&SHA256, &bytes);
    bytes.extend_from_slice(&sum.as_ref()[..SUM_BYTES]);
    URL_SAFE_NO_PAD.encode(bytes)
}

fn opened(text: &str) -> Option<Vec<u8>> {
    let mut bytes = URL_SAFE_NO_PAD.decode(Some(text).filter(|text| text.len() <= TEXT_BYTES_MAX)?).ok()?;
    let sum = bytes.split_off(bytes.len().checked_sub(SUM_BYTES)?);
    digest(&SHA256, &bytes).as_ref().starts_with(&sum).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::limit::ATTRIBUTES_MAX;
    use crate::domain::time::Micros;

    fn key(limit: &str, value: &str) -> CounterKey {
        let mut key = CounterKey::new(limit);
        key.push(value);
        key
    }

    /// Under one algorithm after the other.
    fn each(counters: &[CounterKey]) -> Vec<HeldCounter> {
        let kinds = Kind::ALL.into_iter().cycle();
        counters.iter().cloned().zip(kinds).map(|(key, kind)| HeldCounter { key, kind }).collect()
    }

    fn held(counters: &[CounterKey]) -> Held {
        let lease = LeaseId { replica: u64::MAX, serial: 7 };
        Held { lease, counters: each(counters), expires_after: Micros::from_secs(1) }
    }

    #[test]
    fn what_is_held_is_read_back() {
        let held = held(&[key("a", "ß {x} "), key("b", &"y".repeat(100)), CounterKey::new("c")]);
        let Held { lease, counters, expires_after: _ } = held.clone();
        assert_eq!(read(&written(&held)), Ok(Reservation { lease, counters }));
    }

    #[test]
    fn the_largest_that_can_be_meant_is_read_back() {
        let counter = |index| {
            let mut key = CounterKey::new(&format!("{index:064}"));
            for _ in 0..ATTRIBUTES_MAX {
                key.push_under((&"i".repeat(64), &"v".repeat(64)));
            }
            key
        };
        let counters: Vec<_> = (0..COUNTERS_MAX).map(counter).collect();
        let held = held(&counters);
        assert_eq!(read(&written(&held)).map(|read| read.counters), Ok(each(&counters)));
    }

    #[test]
    fn a_text_that_was_cut_anywhere_is_none() {
        // Of various lengths, so that some are cut just behind a counter.
        for value in ["", "x", "xy", "xyz"] {
            let text = written(&held(&[key("a", value), key("b", value), key("c", value)]));
            for length in 1..text.len() {
                assert_eq!(read(&text[..length]), Err(NONE), "{value} {length}");
            }
        }
        assert_eq!(read(""), Err("is needed"));
    }

    #[test]
    fn a_text_that_somebody_else_made_is_none() {
        let content = |counters: &[&[u8]]| Content {
            version: 1,
            counters: counters.iter().map(|&key| key.into()).collect(),
            kinds: vec![b'w'; counters.len()],
            ..Content::default()
        };
        assert!(read(&sealed(content(&[b"a 1:x"]).encode_to_vec())).is_ok());
        let many: Vec<String> = (0..=COUNTERS_MAX).map(|index| index.to_string()).collect();
        let many: Vec<&[u8]> = many.iter().map(String::as_bytes).collect();
        let bad: [&[&[u8]]; 6] = [&[], &[b""], &[b" probe"], &[b"a 2:x"], &[b"a 1:x", b"a 1:x"], &many];
        for counters in bad {
            assert_eq!(read(&sealed(content(counters).encode_to_vec())), Err(NONE), "{counters:?}");
        }
        assert_eq!(read(&sealed(Vec::new())), read(&sealed(Content::default().encode_to_vec())));
        for kinds in [&b""[..], b"ww", b"x"] {
            let unknown = Content { kinds: kinds.into(), ..content(&[b"a 1:x"]) };
            assert_eq!(read(&sealed(unknown.encode_to_vec())), Err(NONE), "{kinds:?}");
        }
        let later = Content { version: 2, ..content(&[b"a 1:x"]) };
        assert!(read(&sealed(later.encode_to_vec())).is_err_and(|why| why.contains("version")));
        assert_eq!(read(&"A".repeat(TEXT_BYTES_MAX + 4)), Err(NONE));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[A-Za-z0-9_-]{0,80}|.{0,80}") {
            prop_assert!(read(&text).is_err());
        }

        #[test]
        fn any_bytes_with_the_right_sum_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = read(&sealed(bytes));
        }

        #[test]
        fn a_text_with_another_letter_is_none(place in 0_usize..200, letter in "[A-Za-z0-9_-]") {
            let text = written(&held(&[key("a", "x"), key("b", "y")]));
            let place = place % text.len();
            let changed = format!("{}{letter}{}", &text[..place], &text[place + 1..]);
            prop_assert_eq!(read(&changed).is_ok(), changed == text);
        }
    }
}
