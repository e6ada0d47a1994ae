//! Protocol Buffers on the wire: messages that are read where they stand, and written without being made.
//!
//! prost copies each string of a message, and the message with them several times; a warm decision costs less than that. It is
//! left all that is unusual, and tests hold what is read and written here to it.

use std::str::from_utf8;

use prost::Message;
use prost::encoding::{WireType, encode_varint, encoded_len_varint};

use super::codec::Encoded;
use crate::domain::time::Micros;

/// A string field's value.
pub(super) fn text(bytes: &[u8]) -> Option<&str> {
    from_utf8(bytes).ok()
}

/// A field's value on the wire; the other kinds are in no message of ours.
pub(super) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Reads all fields, each with its tag. None as soon as one is not read.
pub(super) fn each<'a>(mut message: &'a [u8], mut read: impl FnMut((u64, Value<'a>)) -> Option<()>) -> Option<()> {
    while !message.is_empty() {
        let key = varint(&mut message)?;
        let value = match key & 7 {
            0 => Value::Number(varint(&mut message)?),
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                let (bytes, rest) = message.split_at_checked(length)?;
                message = rest;
                Value::Bytes(bytes)
            }
            _ => return None,
        };
        read((key >> 3, value))?;
    }
    Some(())
}

/// How often a message or string with this tag is there; none: not every field can be read.
pub(super) fn repeated(message: &[u8], tag: u64) -> Option<usize> {
    let mut times = 0;
    each(message, |field| {
        times += usize::from(matches!(field, (of, Value::Bytes(_)) if of == tag));
        Some(())
    })?;
    Some(times)
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = message.split_first()?;
        *message = rest;
        // The tenth byte has room for one bit.
        if shift == 63 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// The fields of a message, to be written in the order of their tags. What has its default value is left out, as proto3
/// wants it, but for repeated fields and messages.
pub(super) struct Fields<'b>(&'b mut Vec<u8>);

impl<'b> Fields<'b> {
    /// Further ones of `message`.
    pub(super) const fn of<M>(message: &'b mut Encoded<M>) -> Self {
        Self(message.buffer())
    }
}

impl Fields<'_> {
    fn key(&mut self, tag: u32, wire_type: WireType) {
        self.varint(u64::from(tag << 3 | wire_type as u32));
    }

    /// By hand: an answer has some fifty, most of one byte, and prost asks for room for each byte in a roundabout way.
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }

    /// An integer, or a truth value as 0 and 1.
    pub(super) fn number(&mut self, tag: u32, value: u64) {
        if value != 0 {
            self.key(tag, WireType::Varint);
            self.varint(value);
        }
    }

    /// Enumerations of ours have no negative values.
    pub(super) fn choice(&mut self, tag: u32, value: impl Into<i32>) {
        self.number(tag, value.into().unsigned_abs().into());
    }

    /// A string.
    pub(super) fn text(&mut self, tag: u32, text: &str) {
        if !text.is_empty() {
            self.entry(tag, text);
        }
    }

    /// One of several: it is there even where it is empty.
    pub(super) fn entry(&mut self, tag: u32, text: &str) {
        self.key(tag, WireType::LengthDelimited);
        self.varint(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }

    /// A string that may be absent.
    pub(super) fn optional(&mut self, tag: u32, text: Option<&str>) {
        self.text(tag, text.unwrap_or_default());
    }

    /// A repeated string.
    pub(super) fn entries(&mut self, tag: u32, texts: &[Box<str>]) {
        for text in texts {
            self.entry(tag, text);
        }
    }

    /// A message with these fields. Its length comes before them, and is known afterwards.
    pub(super) fn message(&mut self, tag: u32, fields: impl FnOnce(&mut Fields<'_>)) {
        self.key(tag, WireType::LengthDelimited);
        let place = self.0.len();
        self.0.push(0);
        fields(self);
        let length = self.0.len() - place - 1;
        if let Ok(short @ 0..0x80) = u8::try_from(length) {
            self.0[place] = short;
            return;
        }
        let room = encoded_len_varint(length as u64);
        let end = self.0.len();
        self.0.resize(end + room - 1, 0);
        self.0.copy_within(place + 1..end, place + room);
        encode_varint(length as u64, &mut &mut self.0[place..place + room]);
    }

    /// A message that was made.
    pub(super) fn made(&mut self, tag: u32, message: &impl Message) {
        prost::encoding::message::encode(tag, message, self.0);
    }

    /// A moment or a length of time: both messages have the same fields.
    pub(super) fn time(&mut self, tag: u32, time: Micros) {
        self.message(tag, |fields| {
            fields.number(1, time.as_secs());
            fields.number(2, time.0 % 1_000_000 * 1_000);
        });
    }

    /// The same, where there is one.
    pub(super) fn time_if(&mut self, tag: u32, time: Option<Micros>) {
        if let Some(time) = time {
            self.time(tag, time);
        }
    }
}

/// What becomes of a message on its way, for the tests that hold what is read here to prost.
#[cfg(test)]
pub(super) fn damage() -> impl proptest::strategy::Strategy<Value = Damage> {
    use proptest::option::of;
    use proptest::prelude::*;

    (of((any::<prop::sample::Index>(), any::<u8>())), of(any::<prop::sample::Index>()))
        .prop_map(|(odd, cut)| Damage { odd, cut })
}

/// A byte is another one, and then some are missing at the end.
#[cfg(test)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Damage {
    odd: Option<(proptest::sample::Index, u8)>,
    cut: Option<proptest::sample::Index>,
}

#[cfg(test)]
impl Damage {
    /// What is left of a message after each.
    pub(super) fn done_to(self, mut bytes: Vec<u8>) -> Vec<Vec<u8>> {
        let mut damaged = Vec::new();
        if bytes.is_empty() {
            return damaged;
        }
        if let Some((place, byte)) = self.odd {
            let place = place.index(bytes.len());
            bytes[place] = byte;
            damaged.push(bytes.clone());
        }
        if let Some(length) = self.cut {
            bytes.truncate(length.index(bytes.len()));
            damaged.push(bytes);
        }
        damaged
    }
}
