//! What a message asks: read where it stands, or from the message that prost makes of it.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::number_of;
use crate::api::wire::{Value, each, text};
use crate::decide::{Descriptor, HitsAsked, RateLimitQuestion, Undecidable, Violation};
use crate::domain::ratelimit::{Entry, Shown, Unit};
use crate::proto::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use crate::proto::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor as described;
use crate::proto::envoy::service::ratelimit::v3::RateLimitRequest;

/// The most descriptors of a request: a gateway's routes make a few.
const DESCRIPTORS_MAX: usize = 128;

/// The question that a well-formed message of the usual form asks; none that takes something back is one.
pub(super) fn usual(message: &[u8]) -> Option<RateLimitQuestion<'_>> {
    let (mut domain, mut of_request) = ("", 0);
    let mut descriptors = SmallVec::<[&[u8]; 4]>::new();
    each(message, |field| {
        match field {
            (1, Value::Bytes(name)) => domain = text(name)?,
            (2, Value::Bytes(descriptor)) if descriptors.len() < DESCRIPTORS_MAX => descriptors.push(descriptor),
            (3, Value::Number(hits)) => of_request = u32::try_from(hits).ok()?,
            _ => return None,
        }
        Some(())
    })?;
    if domain.is_empty() || descriptors.is_empty() {
        return None;
    }
    let hits = of_each(of_request);
    let mut read = SmallVec::new();
    for descriptor in descriptors {
        read.push(usual_descriptor(descriptor, hits)?);
    }
    Some(RateLimitQuestion { domain, descriptors: read })
}

fn usual_descriptor(message: &[u8], hits: u64) -> Option<Descriptor<'_>> {
    let (mut entries, mut limit, mut own_hits) = (SmallVec::new(), None, None);
    each(message, |field| {
        match field {
            (1, Value::Bytes(entry)) => entries.push(usual_entry(entry)?),
            (2, Value::Bytes(shown)) if limit.is_none() => limit = Some(usual_limit(shown)?),
            (3, Value::Bytes(number)) if own_hits.is_none() => own_hits = Some(usual_number(number)?),
            (4, Value::Number(0)) => {}
            _ => return None,
        }
        Some(())
    })?;
    Some(Descriptor { entries, limit, hits: HitsAsked::Count(own_hits.unwrap_or(hits)) })
}

fn usual_entry(message: &[u8]) -> Option<Entry<'_>> {
    let mut entry = Entry { key: "", value: "" };
    each(message, |field| {
        match field {
            (1, Value::Bytes(key)) => entry.key = text(key)?,
            (2, Value::Bytes(value)) => entry.value = text(value)?,
            _ => return None,
        }
        Some(())
    })?;
    Some(entry)
}

fn usual_limit(message: &[u8]) -> Option<Shown> {
    let mut limit = described::RateLimitOverride::default();
    each(message, |field| {
        match field {
            (1, Value::Number(requests)) => limit.requests_per_unit = u32::try_from(requests).ok()?,
            (2, Value::Number(unit)) => limit.unit = i32::try_from(unit).ok()?,
            _ => return None,
        }
        Some(())
    })?;
    brought(limit)
}

/// A `google.protobuf.UInt64Value`.
fn usual_number(message: &[u8]) -> Option<u64> {
    let mut number = 0;
    each(message, |field| {
        let (1, Value::Number(value)) = field else { return None };
        number = value;
        Some(())
    })?;
    Some(number)
}

/// Puts U+FFFD in the place of bytes that are no UTF-8. A client may write such bytes into a header by which an Envoy asks, and most
/// Envoys let a request go on when they are answered with an error. So they count, all those that look the same together.
pub(super) fn make_readable(mut message: RateLimitRequest) -> RateLimitRequest {
    let entries = message.descriptors.iter_mut().flat_map(|descriptor| &mut descriptor.entries);
    for text in entries.flat_map(|described::Entry { key, value }| [key, value]) {
        if let Cow::Owned(readable) = String::from_utf8_lossy(text) {
            *text = readable.into_bytes();
        }
    }
    message
}

/// The question that a message asks; or everything that is wrong with it.
pub(super) fn question(message: &RateLimitRequest) -> Result<RateLimitQuestion<'_>, Undecidable> {
    let RateLimitRequest { domain, descriptors, hits_addend } = message;
    let mut violations = outside(!domain.is_empty(), descriptors.len());
    if descriptors.len() > DESCRIPTORS_MAX {
        return Err(Undecidable { violations });
    }
    let mut read = SmallVec::new();
    for (index, one) in descriptors.iter().enumerate() {
        match descriptor(one, *hits_addend) {
            Ok(descriptor) => read.push(descriptor),
            Err((field, description)) => {
                violations.push(violation(format!("descriptors[{index}].{field}"), description));
            }
        }
    }
    if violations.is_empty() {
        Ok(RateLimitQuestion { domain, descriptors: read })
    } else {
        Err(Undecidable { violations })
    }
}

/// Refuses a message with more descriptors than are read: prost would make room for each of them first.
pub(super) fn bounded(message: &[u8]) -> Result<(), Undecidable> {
    let (mut has_domain, mut descriptors) = (false, 0);
    let read = each(message, |field| {
        match field {
            (1, Value::Bytes(name)) => has_domain = !name.is_empty(),
            (2, Value::Bytes(_)) => descriptors += 1,
            _ => {}
        }
        Some(())
    });
    // What cannot be read is refused by prost.
    if read.is_none() || descriptors <= DESCRIPTORS_MAX {
        return Ok(());
    }
    Err(Undecidable { violations: outside(has_domain, descriptors) })
}

/// What is wrong with a request around its descriptors, of which it has so many.
fn outside(has_domain: bool, descriptors: usize) -> Vec<Violation> {
    let mut violations = Vec::new();
    if !has_domain {
        violations.push(violation("domain", "is needed: it says whose limits are asked"));
    }
    if !(1..=DESCRIPTORS_MAX).contains(&descriptors) {
        violations.push(violation("descriptors", format!("must be 1 to {DESCRIPTORS_MAX}")));
    }
    violations
}

fn descriptor(message: &RateLimitDescriptor, of_request: u32) -> Result<Descriptor<'_>, (&'static str, &'static str)> {
    let RateLimitDescriptor { entries, limit, hits_addend, is_negative_hits } = message;
    let hits = hits_addend.unwrap_or_else(|| of_each(of_request));
    let limit = limit
        .map(|limit| brought(limit).ok_or(("limit.unit", "must be a unit from SECOND to YEAR, or WEEK")))
        .transpose()?;
    let entries: Result<_, _> = entries.iter().map(entry).collect();
    let entries = entries?;
    let hits = if *is_negative_hits { HitsAsked::TakeBack(hits) } else { HitsAsked::Count(hits) };
    Ok(Descriptor { entries, limit, hits })
}

/// The hits of a descriptor that says none itself. The request's own number cannot say 0: that is what stands where nothing is
/// said.
fn of_each(of_request: u32) -> u64 {
    of_request.max(1).into()
}

fn entry(described::Entry { key, value }: &described::Entry) -> Result<Entry<'_>, (&'static str, &'static str)> {
    let text = |bytes| str::from_utf8(bytes).map_err(|_| ("entries", "must be UTF-8"));
    Ok(Entry { key: text(key)?, value: text(value)? })
}

/// The limit that a request brings along. Its unit is one of `envoy.type.v3.RateLimitUnit`; envoyproxy/ratelimit knows a
/// week there, too, by the number that it has in answers.
fn brought(limit: described::RateLimitOverride) -> Option<Shown> {
    let described::RateLimitOverride { requests_per_unit, unit } = limit;
    let (_, unit) = Unit::ALL.into_iter().find(|(_, known)| number_of(*known) as i32 == unit)?;
    Some(Shown { requests_per_unit, unit })
}

fn violation(field: impl Into<String>, description: impl Into<String>) -> Violation {
    Violation { field: field.into(), description: description.into() }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option::of;
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::api::wire::damage;

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![99 => "|.{1,9}|.{120,140}".prop_map(String::into_bytes), 1 => vec(any::<u8>(), 1..4)]
    }

    fn entry() -> impl Strategy<Value = described::Entry> {
        (bytes(), bytes()).prop_map(|(key, value)| described::Entry { key, value })
    }

    fn limit() -> impl Strategy<Value = described::RateLimitOverride> {
        let unit = prop_oneof![19 => 1..8_i32, 1 => any::<i32>()];
        (0..9_u32, unit).prop_map(|(requests_per_unit, unit)| described::RateLimitOverride { requests_per_unit, unit })
    }

    fn described() -> impl Strategy<Value = RateLimitDescriptor> {
        let hits = of(prop_oneof![0..2_u64, any::<u64>()]);
        (vec(entry(), 0..7), of(limit()), hits, prop::bool::weighted(0.03)).prop_map(
            |(entries, limit, hits_addend, is_negative_hits)| RateLimitDescriptor {
                entries,
                limit,
                hits_addend,
                is_negative_hits,
            },
        )
    }

    fn message() -> impl Strategy<Value = RateLimitRequest> {
        let descriptors = prop_oneof![30 => vec(described(), 0..7), 1 => vec(described(), 127..130)];
        let domain = prop_oneof![9 => ".{1,9}", 1 => Just(String::new())];
        (domain, descriptors, prop_oneof![0..2_u32, any::<u32>()])
            .prop_map(|(domain, descriptors, hits_addend)| RateLimitRequest { domain, descriptors, hits_addend })
    }

    /// A message with this descriptor.
    fn with(descriptor: &[u8]) -> Vec<u8> {
        let length = u8::try_from(descriptor.len()).unwrap_or_default();
        [&b"\x0a\x01d\x12"[..], &[length], descriptor].concat()
    }

    fn by_prost(bytes: &[u8]) -> Option<RateLimitRequest> {
        RateLimitRequest::decode(bytes).ok()
    }

    /// If these bytes are read at all, then as prost reads them. Whether they are.
    fn check(bytes: &[u8]) -> Result<bool, TestCaseError> {
        let message = by_prost(bytes);
        let Some(read) = usual(bytes) else { return Ok(false) };
        prop_assert_eq!(Some(Ok(read)), message.as_ref().map(question));
        Ok(true)
    }

    proptest! {
        /// Whatever was made of it, is cut off, or was added.
        #[test]
        fn messages_are_read_as_prost_reads_them(
            messages in vec(message(), 1..3),
            damage in damage(),
        ) {
            let bytes: Vec<u8> = messages.iter().flat_map(RateLimitRequest::encode_to_vec).collect();
            let is_read = check(&bytes)?;
            if let [message] = &*messages {
                let takes_back = message.descriptors.iter().any(|descriptor| descriptor.is_negative_hits);
                let usual = question(message).is_ok() && !takes_back;
                prop_assert_eq!(is_read, usual, "what is well formed is read where it stands");
            }
            for bytes in damage.done_to(bytes) {
                check(&bytes)?;
            }
        }

        /// prost merges messages of a field that is not repeated, and of numbers the last counts.
        #[test]
        fn parts_of_a_descriptor_are_read_as_prost_reads_them(parts in vec(described(), 1..4)) {
            let parts: Vec<u8> = parts.iter().flat_map(RateLimitDescriptor::encode_to_vec).take(127).collect();
            check(&with(&parts))?;
        }

        #[test]
        fn any_bytes_are_read_as_prost_reads_them(bytes in vec(any::<u8>(), 0..40)) {
            check(&bytes)?;
            check(&with(&bytes))?;
            let described = RateLimitDescriptor::decode(&*bytes).unwrap_or_default();
            check(&with(&described.encode_to_vec()))?;
        }
    }

    #[test]
    fn parts_of_what_is_not_repeated_are_left_to_prost() {
        let entry = b"\x0a\x06\x0a\x01k\x12\x01v";
        let read = |more: &[u8]| usual(&with(&[entry, more].concat())).is_some();
        assert!(read(b"") && read(b"\x12\x04\x08\x05\x10\x02") && read(b"\x1a\x02\x08\x05") && read(b"\x20\x00"));
        // Five in a part, and the unit in another.
        assert!(!read(b"\x12\x04\x08\x05\x10\x02\x12\x02\x10\x03"));
        // Five hits, and then a number that says nothing.
        assert!(!read(b"\x1a\x02\x08\x05\x1a\x00"));
        assert!(!read(b"\x20\x01"), "it takes back");
    }

    #[test]
    fn bytes_that_are_no_text_are_made_readable() {
        let entry = |value: &[u8]| described::Entry { key: b"k\xff".to_vec(), value: value.to_vec() };
        let entries = vec![entry(b"\xfe\xc3(v"), entry("é".as_bytes())];
        let descriptors = vec![RateLimitDescriptor { entries, ..Default::default() }];
        let message = make_readable(RateLimitRequest { domain: "d".to_owned(), descriptors, hits_addend: 0 });
        let read = question(&message).ok().map(|question| question.descriptors[0].entries.to_vec());
        let expected = ["\u{fffd}\u{fffd}(v", "é"].map(|value| Entry { key: "k\u{fffd}", value });
        assert_eq!(read, Some(expected.to_vec()));
    }
}
