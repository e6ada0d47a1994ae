//! Messages of the native API in their JSON form (<https://protobuf.dev/programming-guides/json/>), read strictly: a member that
//! is not known, or there twice, is refused.

use std::collections::BTreeSet;
use std::fmt;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, SerializeOptions};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_path_to_error::Track;

use crate::decide::Violation;
use crate::proto::DESCRIPTORS;

/// Characters of a name that an answer repeats.
const SHOWN_MAX: usize = 64;

/// The JSON form of one kind of message.
pub(super) struct Form(MessageDescriptor);

impl Form {
    /// Those of the messages with these names.
    ///
    /// # Errors
    /// This program was built without one of them.
    pub(super) fn of<const N: usize>(names: [&str; N]) -> Result<[Self; N], String> {
        let pool =
            DescriptorPool::decode(DESCRIPTORS).map_err(|error| format!("the messages' descriptors: {error}"))?;
        let found: Vec<Self> = names.iter().filter_map(|name| pool.get_message_by_name(name)).map(Self).collect();
        found.try_into().map_err(|_| format!("the messages' descriptors lack one of {names:?}"))
    }

    /// Reads a message of that kind. What is wrong is told with its path and place in `text`, without any value.
    pub(super) fn read<M: Message + Default>(&self, text: &[u8]) -> Result<M, Violation> {
        // First: of two members of one name the reader of messages takes the last.
        read(text, Shape::Message(self.0.clone()))?;
        let message: DynamicMessage = read(text, self.0.clone())?;
        let wrong = |why: prost::DecodeError| Violation { field: String::new(), description: why.to_string() };
        message.transcode_to().map_err(wrong)
    }

    /// Writes a message of that kind. Members that have no value are there with their defaults, but for those whose absence
    /// says something.
    ///
    /// # Errors
    /// It is of another kind.
    pub(super) fn write(&self, message: &impl Message) -> Result<Vec<u8>, String> {
        let mut dynamic = DynamicMessage::new(self.0.clone());
        dynamic.transcode_from(message).map_err(|error| error.to_string())?;
        let mut text = Vec::with_capacity(512);
        let options = SerializeOptions::new().skip_default_fields(false);
        dynamic
            .serialize_with_options(&mut serde_json::Serializer::new(&mut text), &options)
            .map_err(|error| error.to_string())?;
        Ok(text)
    }
}

/// Reads one value and nothing behind it.
fn read<'de, S: DeserializeSeed<'de>>(text: &'de [u8], seed: S) -> Result<S::Value, Violation> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let mut track = Track::new();
    let read = seed.deserialize(serde_path_to_error::Deserializer::new(&mut json, &mut track));
    let read = read.map_err(|error| {
        // A dot alone stands for the whole, and a question mark for a member whose name was not read to its end.
        let path = track.path().to_string();
        violation(path.trim_end_matches(['?', '.']).to_owned(), &error)
    })?;
    json.end().map_err(|error| violation(String::new(), &error))?;
    Ok(read)
}

fn violation(field: String, error: &serde_json::Error) -> Violation {
    let (line, column) = (error.line(), error.column());
    let said = error.to_string();
    let said = said.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&said);
    // What was found there may be a secret in the wrong place.
    let said = match said.rsplit_once(", expected ") {
        Some((_, must)) => format!("must be {must}"),
        None if said.starts_with("unrecognized enum value") => "must be one of the names that there are".to_owned(),
        None => said.to_owned(),
    };
    Violation { field, description: format!("{said} (line {line}, column {column})") }
}

/// What a value may have within it. Passed over a text, it stops at a member that is not known or there twice.
#[derive(Clone)]
enum Shape {
    /// The members of a message, each by either of its names.
    Message(MessageDescriptor),
    /// Members of any names, with values of that shape.
    Map(FieldDescriptor),
    /// Nothing that has a name.
    Plain,
}

impl Shape {
    /// That of a field's value, or of each of its values where it has several.
    fn of(field: &FieldDescriptor) -> Self {
        match field.kind() {
            Kind::Message(entry) if field.is_map() => Self::Map(entry.map_entry_value_field()),
            Kind::Message(message) => Self::Message(message),
            _ => Self::Plain,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Shape {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<(), D::Error> {
        value.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Shape {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let (mut numbers, mut names) = (BTreeSet::new(), BTreeSet::new());
        while let Some(name) = members.next_key::<String>()? {
            let (is_new, shape) = match &self {
                Self::Message(message) => {
                    let known = message.get_field_by_json_name(&name).or_else(|| message.get_field_by_name(&name));
                    let field =
                        known.ok_or_else(|| A::Error::custom(format_args!("has no member {}", shown(&name))))?;
                    (numbers.insert(field.number()), Self::of(&field))
                }
                Self::Map(value) => (names.insert(name.clone()), Self::of(value)),
                Self::Plain => {
                    members.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            if !is_new {
                return Err(A::Error::custom(format_args!("has the member {} twice", shown(&name))));
            }
            members.next_value_seed(shape)?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        while values.next_element_seed(self.clone())?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// A name as an answer repeats it.
fn shown(name: &str) -> String {
    let shown: String = name.chars().take(SHOWN_MAX).flat_map(char::escape_default).collect();
    format!("\"{shown}\"")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::proto as pb;

    fn read(text: &str) -> Result<pb::DecideRequest, String> {
        let [form] = Form::of(["tollgate.v1.DecideRequest"]).unwrap();
        form.read(text.as_bytes()).map_err(|Violation { field, description }| format!("{field}: {description}"))
    }

    #[test]
    fn a_question_is_read_by_either_name_of_its_members() {
        let either = [
            r#"{"request": {"method": "GET", "sourceAddress": "192.0.2.7", "bodyBytes": "5"}, "units": 2, "mode": 2}"#,
            r#"{"request": {"method": "GET", "source_address": "192.0.2.7", "body_bytes": 5.0}, "units": "2", "mode": "QUOTA_MODE_PEEK"}"#,
        ];
        for text in either {
            let read = read(text).unwrap();
            assert_eq!((read.units, read.mode()), (Some(2), pb::QuotaMode::Peek), "{text}");
            let request = read.request.unwrap();
            assert_eq!((request.source_address.as_str(), request.body_bytes), ("192.0.2.7", Some(5)), "{text}");
        }
        let read =
            read(r#"{"credential": null, "resource": {"owner": "ann", "a.b": ""}, "scopes": ["a", "b"]}"#).unwrap();
        assert_eq!(read.credential, None);
        assert_eq!(read.resource, [("owner", "ann"), ("a.b", "")].map(|(a, b)| (a.to_owned(), b.to_owned())).into());
        assert_eq!(read.scopes, ["a", "b"]);
    }

    #[test]
    fn what_is_wrong_is_told_with_path_and_place_and_without_any_value() {
        for (text, said) in [
            ("", ": EOF while parsing a value (line 1, column 0)"),
            ("[]", ": must be a map (line 1, column 0)"),
            ("{", ": EOF while parsing"),
            (r#"{"request": {"#, "request: EOF while parsing"),
            ("{} {}", ": trailing characters (line 1, column 4)"),
            (r#"{"reqest": {}}"#, ": has no member \"reqest\" (line 1, column 9)"),
            (r#"{"request": {"path": 5}}"#, "request.path: must be a string (line 1, column 22)"),
            ("{\n\"request\": {\"pth\": \"/\"}}", "request: has no member \"pth\" (line 2, column 17)"),
            (r#"{"limits": [{"limit": "a"}, {"units": -1}]}"#, "limits[1].units: "),
            (r#"{"units": 1e30}"#, "units: "),
            (r#"{"units": 1e999}"#, "units: number out of range"),
            (r#"{"units": 1.5}"#, "units: "),
            (r#"{"units": NaN}"#, "units: expected value"),
            (r#"{"units": "NaN"}"#, "units: "),
            (r#"{"mode": "PEEK"}"#, "mode: "),
            (r#"{"units": 1, "units": 1}"#, ": has the member \"units\" twice"),
            (r#"{"units": 1, "unit\u0073": 1}"#, ": has the member \"units\" twice"),
            (r#"{"request": {"bodyBytes": 1, "body_bytes": 1}}"#, "request: has the member \"body_bytes\" twice"),
            (r#"{"resource": {"a": "1", "a": "2"}}"#, "resource: has the member \"a\" twice"),
            (r#"{"credential": {"apiKey": "a", "bearerToken": "b"}}"#, "credential: multiple fields"),
            (r#"{"scopes": ["a", {}]}"#, "scopes[1]: must be a string"),
            (r#"{"request": {"method": "\ud800"}}"#, "request.method: "),
        ] {
            let read = read(text).unwrap_err();
            assert!(read.starts_with(said), "{text}\n{read}\n{said}");
        }
        for text in [r#"{"credential": "hunter2"}"#, r#"{"explain": "hunter2"}"#, r#"{"mode": "hunter2"}"#] {
            let said = read(text).unwrap_err();
            assert!(!said.contains("hunter2"), "{said}");
        }
        assert!(read(&format!(r#"{{"{}": 1}}"#, "a".repeat(10_000))).unwrap_err().len() < 200);
    }

    #[test]
    fn deep_nesting_is_refused() {
        for (open, close) in [("[", "]"), (r#"{"request":"#, "}")] {
            let text = format!("{}1{}", open.repeat(20_000), close.repeat(20_000));
            assert!(read(&text).is_err());
            let within = format!(r#"{{"resource": {}1{}}}"#, open.repeat(20_000), close.repeat(20_000));
            assert!(read(&within).is_err());
        }
    }

    #[test]
    fn an_answer_says_what_is_not_so_too() {
        let [form] = Form::of(["tollgate.v1.DecideResponse"]).unwrap();
        let answer = pb::DecideResponse {
            reason: pb::DecisionReason::QuotaExceeded.into(),
            retry_after: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
            quotas: vec![pb::QuotaStatus { limit: "a".to_owned(), remaining: 1 << 60, ..pb::QuotaStatus::default() }],
            ..pb::DecideResponse::default()
        };
        let written: Value = serde_json::from_slice(&form.write(&answer).unwrap()).unwrap();
        assert_eq!(written["allowed"], false);
        assert_eq!(written["reason"], "DECISION_REASON_QUOTA_EXCEEDED");
        assert_eq!(written["retryAfter"], "1.500s");
        assert_eq!(written["quotas"][0]["remaining"], json!((1_u64 << 60).to_string()));
        assert_eq!(written["identityHeaders"], json!([]));
        assert_eq!(written.get("identity"), None);
    }

    #[test]
    fn a_message_that_is_not_there_is_named() {
        assert!(Form::of(["tollgate.v1.Nothing"]).is_err_and(|error| error.contains("Nothing")));
    }

    /// Any JSON of a few levels, with names that messages have and some that they have not.
    fn any_json() -> impl Strategy<Value = Value> {
        let name = prop_oneof![
            Just("request".to_owned()),
            Just("credential".to_owned()),
            Just("resource".to_owned()),
            Just("limits".to_owned()),
            Just("units".to_owned()),
            Just("path".to_owned()),
            Just("clientCertificate".to_owned()),
            ".{0,8}",
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,16}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map(name.clone(), inner, 0..4).prop_map(|members| members.into_iter().collect()),
            ]
        })
    }

    proptest! {
        /// Whatever arrives, it is read or refused.
        #[test]
        fn any_text_has_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200), json in any_json()) {
            let [form] = Form::of(["tollgate.v1.DecideRequest"]).unwrap();
            let _ = form.read::<pb::DecideRequest>(&bytes);
            let _ = form.read::<pb::DecideRequest>(json.to_string().as_bytes());
        }
    }
}
