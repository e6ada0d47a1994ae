//! Strict JSON: what stands in tokens and key sets is read once, into a tree, or refused.
//!
//! I-JSON (RFC 7493) and then some: no member twice in one object, however it is spelt; no NUL, no lone surrogates,
//! nothing after the value; depth, members and the length of names bounded. So no two readers of one text can
//! disagree on what it says.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// How much a text may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Objects and arrays in one another.
    pub depth: usize,
    /// Members of all objects together.
    pub members: usize,
    /// Bytes of one member's name.
    pub name_bytes: usize,
}

/// A JSON value; strings are borrowed where they hold no escapes.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Number(Number),
    String(Cow<'a, str>),
    Array(Vec<Value<'a>>),
    Object(Object<'a>),
}

/// A JSON number, as precisely as it was written where it is whole and fits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    /// Zero or more, without fraction and exponent.
    Unsigned(u64),
    /// Less than zero, without fraction and exponent.
    Negative(i64),
    /// Any other; always finite.
    Float(f64),
}

/// A JSON object; each name once.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Object<'a>(Vec<(Cow<'a, str>, Value<'a>)>);

/// Why a text is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// Not JSON, or not strict JSON.
    Malformed,
    /// More members, or a longer name, than is read.
    TooLarge,
}

/// Up to this many members, comparing each with each is quicker than sorting.
const FEW: usize = 12;

/// Reads one object and nothing after it.
pub(super) fn object(text: &[u8], bounds: Bounds) -> Result<Object<'_>, Flaw> {
    let text = std::str::from_utf8(text).map_err(|_| Flaw::Malformed)?;
    let reading = Reading { bounds, members: Cell::new(0), too_large: Cell::new(false) };
    let mut value = Value::Null;
    let mut json = serde_json::Deserializer::from_str(text);
    let place = Place { reading: &reading, depth: 0, value: &mut value };
    let read = place.deserialize(&mut json).and_then(|()| json.end());
    match (read, value) {
        (Ok(()), Value::Object(object)) => Ok(object),
        (Err(_), _) if reading.too_large.get() => Err(Flaw::TooLarge),
        (Ok(()) | Err(_), _) => Err(Flaw::Malformed),
    }
}

impl<'a> Object<'a> {
    /// The value of that member.
    pub(super) fn get(&self, name: &str) -> Option<&Value<'a>> {
        self.0.iter().find(|(given, _)| is_same(given, name)).map(|(_, value)| value)
    }

    /// Whether there is such a member, whatever its value.
    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// How many members there are.
    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    /// The values of all members, in the text's order.
    pub(super) fn values(&self) -> impl Iterator<Item = &Value<'a>> {
        self.members().map(|(_, value)| value)
    }

    /// All members, in the text's order.
    pub(super) fn members(&self) -> impl Iterator<Item = (&str, &Value<'a>)> {
        self.0.iter().map(|(name, value)| (&**name, value))
    }

    /// The string in that member: none where there is no such member, [`Flaw::Malformed`] where it holds another type.
    pub(super) fn string(&self, name: &str) -> Result<Option<&str>, Flaw> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Flaw::Malformed),
        }
    }

    /// The same, taken out of the object.
    pub(super) fn take_string(&mut self, name: &str) -> Result<Option<Cow<'a, str>>, Flaw> {
        let Some(index) = self.0.iter().position(|(given, _)| is_same(given, name)) else { return Ok(None) };
        match self.0.swap_remove(index).1 {
            Value::String(text) => Ok(Some(text)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                Err(Flaw::Malformed)
            }
        }
    }

    /// Takes away those of these members that are null.
    pub(super) fn drop_nulls(&mut self, names: &[&str]) {
        self.0.retain(|(name, value)| *value != Value::Null || !names.contains(&&**name));
    }

    fn has_duplicates(&self) -> bool {
        if self.0.len() <= FEW {
            let names = || self.0.iter().map(|(name, _)| name);
            return names().enumerate().any(|(index, name)| names().take(index).any(|earlier| is_same(earlier, name)));
        }
        let mut names: Vec<&str> = self.0.iter().map(|(name, _)| &**name).collect();
        names.sort_unstable();
        names.windows(2).any(|pair| pair[0] == pair[1])
    }
}

/// Whether two names are the same. Most that are as long as each other differ in their first byte, and a token's claims are
/// looked for by two dozen names.
fn is_same(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.as_bytes().first() == other.as_bytes().first() && one == other
}

/// What has been read so far.
struct Reading {
    bounds: Bounds,
    members: Cell<usize>,
    too_large: Cell<bool>,
}

/// Where a value at some depth is to be written. In place: values are several words, and handing them up through the results
/// of two libraries takes longer than reading them.
struct Place<'r, 'p, 'a> {
    reading: &'r Reading,
    depth: usize,
    value: &'p mut Value<'a>,
}

impl<'de> DeserializeSeed<'de> for Place<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'r> Place<'r, '_, '_> {
    /// The depth of what is inside.
    fn below<E: serde::de::Error>(&self) -> Result<(&'r Reading, usize), E> {
        if self.depth >= self.reading.bounds.depth {
            return Err(E::custom("nested too deeply"));
        }
        Ok((self.reading, self.depth + 1))
    }
}

impl<'de> Visitor<'de> for Place<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        *self.value = Value::Null;
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        *self.value = Value::Bool(value);
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        *self.value = Value::Number(Number::Unsigned(value));
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        *self.value = Value::Number(u64::try_from(value).map_or(Number::Negative(value), Number::Unsigned));
        Ok(())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        if !value.is_finite() {
            return Err(E::custom("number out of range"));
        }
        *self.value = Value::Number(Number::Float(value));
        Ok(())
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<(), E> {
        *self.value = Value::String(Cow::Borrowed(text));
        Ok(())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        *self.value = Value::String(without_nul(text)?);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let (reading, depth) = self.below()?;
        let mut array = Vec::new();
        loop {
            let mut value = Value::Null;
            if items.next_element_seed(Place { reading, depth, value: &mut value })?.is_none() {
                break;
            }
            array.push(value);
        }
        *self.value = Value::Array(array);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let (reading, depth) = self.below()?;
        let mut object = Object(Vec::new());
        while members.next_key_seed(Name { reading, members: &mut object.0 })?.is_some() {
            let Some((_, value)) = object.0.last_mut() else { break };
            members.next_value_seed(Place { reading, depth, value })?;
        }
        if object.has_duplicates() {
            return Err(A::Error::custom("a member stands there twice"));
        }
        *self.value = Value::Object(object);
        Ok(())
    }
}

/// Where a member is to be added: its name, with no value yet.
struct Name<'r, 'p, 'a> {
    reading: &'r Reading,
    members: &'p mut Vec<(Cow<'a, str>, Value<'a>)>,
}

impl<'a> Name<'_, '_, 'a> {
    fn check<E: serde::de::Error>(&self, name: &str) -> Result<(), E> {
        let members = self.reading.members.get() + 1;
        self.reading.members.set(members);
        if members > self.reading.bounds.members || name.len() > self.reading.bounds.name_bytes {
            self.reading.too_large.set(true);
            return Err(E::custom("too many members, or too long a name"));
        }
        Ok(())
    }

    #[inline]
    fn add(self, name: Cow<'a, str>) {
        // Only where there is a member, whose number is bounded: `[{},{},…]` would take two hundred times its text.
        if self.members.is_empty() {
            self.members.reserve(8);
        }
        self.members.push((name, Value::Null));
    }
}

impl<'de> DeserializeSeed<'de> for Name<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_borrowed_str<E: serde::de::Error>(self, name: &'de str) -> Result<(), E> {
        self.check(name)?;
        self.add(Cow::Borrowed(name));
        Ok(())
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<(), E> {
        self.check(name)?;
        self.add(without_nul(name)?);
        Ok(())
    }
}

/// NUL would cut strings short in whatever is written in C, and break log lines. Only a string with escapes can hold one:
/// bare, it is no JSON (RFC 8259 §7).
fn without_nul<'a, E: serde::de::Error>(text: &str) -> Result<Cow<'a, str>, E> {
    if text.as_bytes().contains(&0) {
        return Err(E::custom("holds a NUL"));
    }
    Ok(Cow::Owned(text.to_owned()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds { depth: 32, members: 512, name_bytes: 1024 };

    fn flaw(text: impl AsRef<[u8]>) -> Option<Flaw> {
        object(text.as_ref(), BOUNDS).err()
    }

    #[test]
    fn an_object_is_read_with_its_types_kept_apart() {
        let object =
            object(r#"{"a":1,"b":-2,"c":1.5,"d":"x\u0041","e":[null,true],"f":{}}"#.as_bytes(), BOUNDS).unwrap();
        assert_eq!(object.get("a"), Some(&Value::Number(Number::Unsigned(1))));
        assert_eq!(object.get("b"), Some(&Value::Number(Number::Negative(-2))));
        assert_eq!(object.get("c"), Some(&Value::Number(Number::Float(1.5))));
        assert_eq!(object.string("d"), Ok(Some("xA")));
        assert_eq!(object.string("a"), Err(Flaw::Malformed));
        assert_eq!(object.string("z"), Ok(None));
        assert_eq!(object.get("e"), Some(&Value::Array(vec![Value::Null, Value::Bool(true)])));
        assert!(object.has("f"));
    }

    #[test]
    fn a_member_that_stands_there_twice_is_refused_at_any_depth_and_in_any_spelling() {
        for text in [
            r#"{"alg":1,"alg":1}"#.to_owned(),
            r#"{"alg":1,"\u0061lg":1}"#.to_owned(),
            r#"{"a":{"b":[{"c":1,"c":2}]}}"#.to_owned(),
            format!("{{{}\"m7\":0}}", (0..40).map(|index| format!("\"m{index}\":0,")).collect::<Vec<_>>().concat()),
        ] {
            assert_eq!(flaw(&text), Some(Flaw::Malformed), "{text}");
        }
        assert_eq!(flaw(r#"{"a":{"a":{"a":1}}}"#), None);
    }

    #[test]
    fn what_is_not_one_strict_object_is_refused() {
        for text in [
            "",
            " ",
            "[]",
            "1",
            "\"a\"",
            "null",
            "{}{}",
            "{} x",
            "{}\0",
            "\u{feff}{}",
            "{'a':1}",
            "{\"a\":1,}",
            "{/**/}",
            "{\"a\":01}",
            "{\"a\":1e400}",
            "{\"a\":NaN}",
            "{\"a\":Infinity}",
            "{\"a\":\"\\ud800\"}",
            "{\"a\":\"\\udc00\\ud800\"}",
            "{\"a\":\"\\u0000\"}",
            "{\"\\u0000\":1}",
            "{\"a\":\"\0\"}",
            "{\"\0\":1}",
            "{\"a\":\"\n\"}",
        ] {
            assert_eq!(flaw(text), Some(Flaw::Malformed), "{text:?}");
        }
        for bytes in
            [&b"{\"a\":\"\xff\"}"[..], b"{\"a\":\"\xc0\xaf\"}", b"{\"a\":\"\xed\xa0\x80\"}", b"\xff\xfe{\x00}\x00"]
        {
            assert_eq!(flaw(bytes), Some(Flaw::Malformed), "{bytes:?}");
        }
    }

    #[test]
    fn depth_members_and_names_are_bounded() {
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(flaw(nested(31)), None);
        assert_eq!(flaw(nested(32)), Some(Flaw::Malformed));
        assert_eq!(flaw("[".repeat(100_000)), Some(Flaw::Malformed));
        let members = |count: usize| {
            let list: Vec<String> = (0..count).map(|index| format!("\"m{index}\":0")).collect();
            format!("{{{}}}", list.join(","))
        };
        assert_eq!(flaw(members(512)), None);
        assert_eq!(flaw(members(513)), Some(Flaw::TooLarge));
        assert_eq!(flaw(format!("{{\"a\":[{},{}]}}", members(300), members(300))), Some(Flaw::TooLarge));
        assert_eq!(flaw(format!("{{\"{}\":0}}", "n".repeat(1024))), None);
        assert_eq!(flaw(format!("{{\"{}\":0}}", "n".repeat(1025))), Some(Flaw::TooLarge));
    }

    #[test]
    fn what_holds_nothing_takes_no_memory_of_its_own() {
        let text = format!("{{\"a\":[{}{{}}]}}", "{},".repeat(1_000));
        let object = object(text.as_bytes(), BOUNDS).unwrap();
        let takes_none = |item: &Value<'_>| matches!(item, Value::Object(Object(members)) if members.capacity() == 0);
        let is_so = matches!(object.get("a"), Some(Value::Array(items)) if items.iter().all(takes_none));
        assert!(is_so);
    }

    proptest! {
        #[test]
        fn any_bytes_lead_to_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = object(&bytes, BOUNDS);
        }

        #[test]
        fn what_is_accepted_reads_the_same_elsewhere(text in r#"\{("[ab]":([0-9]|"[a-z]"|\[\]|\{\})(,"[cd]":-?[0-9]\.?[0-9])?)?\}"#) {
            let elsewhere = serde_json::from_str::<serde_json::Value>(&text);
            if let Ok(object) = object(text.as_bytes(), BOUNDS) {
                prop_assert_eq!(object.values().count(), elsewhere.unwrap().as_object().unwrap().len());
            }
        }
    }
}
