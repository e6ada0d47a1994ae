//! What is asked, borrowed from where it came in: the bytes of a message, or a message that was made of something else.
//!
//! A message of the usual form is read where it stands. prost would copy each of its strings, and the message with them
//! several times. What is unusual (a field that is not known, a proof, a message in two parts, bytes that are no message)
//! is left to prost, so that it is read as everybody reads it; a test holds this reading to that one.

use std::collections::BTreeMap;

use crate::api::wire::{Value, each, text};
use crate::domain::question::{Credential, Pairs};
use crate::proto as pb;

/// `DecideRequest`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::api) struct Asked<'a> {
    /// What the caller showed.
    pub(super) credential: Credential<'a>,
    /// The message that it came in, where more may be in there.
    pub(super) proofs: Option<&'a pb::Credential>,
    pub(super) request: Option<Call<'a>>,
    /// By name, each once.
    pub(super) resource: Pairs<'a>,
    pub(super) limits: Vec<(&'a str, Option<u64>)>,
    pub(super) units: Option<u64>,
    pub(super) mode: i32,
    pub(super) explain: bool,
    pub(super) scopes: Vec<&'a str>,
}

/// `RequestAttributes`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Call<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) host: &'a str,
    pub(super) source_address: &'a str,
    pub(super) scheme: &'a str,
    /// By name, each once.
    pub(super) headers: Pairs<'a>,
    pub(super) body_bytes: Option<u64>,
}

impl<'a> From<&'a pb::DecideRequest> for Asked<'a> {
    fn from(wire: &'a pb::DecideRequest) -> Self {
        let pb::DecideRequest { credential, request, resource, limits, units, mode, explain, scopes } = wire;
        Self {
            credential: credential_of(credential.as_ref()),
            proofs: credential.as_ref(),
            request: request.as_ref().map(Call::from),
            resource: pairs(resource),
            limits: limits.iter().map(|pb::LimitCharge { limit, units }| (limit.as_str(), *units)).collect(),
            units: *units,
            mode: *mode,
            explain: *explain,
            scopes: scopes.iter().map(String::as_str).collect(),
        }
    }
}

impl<'a> From<&'a pb::RequestAttributes> for Call<'a> {
    fn from(wire: &'a pb::RequestAttributes) -> Self {
        let pb::RequestAttributes { method, path, host, source_address, scheme, headers, body_bytes } = wire;
        Self { method, path, host, source_address, scheme, headers: pairs(headers), body_bytes: *body_bytes }
    }
}

fn credential_of(wire: Option<&pb::Credential>) -> Credential<'_> {
    use pb::credential::Kind;
    match wire.and_then(|credential| credential.kind.as_ref()) {
        None => Credential::None,
        Some(Kind::BearerToken(token)) => Credential::Bearer(token),
        Some(Kind::ApiKey(key)) => Credential::ApiKey(key),
        Some(Kind::Authorization(value)) => Credential::from_authorization(value),
    }
}

fn pairs(map: &BTreeMap<String, String>) -> Pairs<'_> {
    map.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

impl<'a> Asked<'a> {
    /// Reads a message of the usual form.
    pub(super) fn usual(message: &'a [u8]) -> Option<Self> {
        let mut asked = Self::default();
        let mut has_credential = false;
        each(message, |field| {
            match field {
                (1, Value::Bytes(credential)) if !has_credential => {
                    has_credential = true;
                    asked.credential = usual_credential(credential)?;
                }
                (2, Value::Bytes(call)) if asked.request.is_none() => asked.request = Some(Call::usual(call)?),
                (3, Value::Bytes(entry)) => asked.resource.push(pair(entry)?),
                (4, Value::Bytes(charge)) => asked.limits.push(usual_charge(charge)?),
                (5, Value::Number(units)) => asked.units = Some(units),
                (6, Value::Number(mode)) => asked.mode = i32::try_from(mode).ok()?,
                (7, Value::Number(explain)) => asked.explain = explain != 0,
                (8, Value::Bytes(scope)) => asked.scopes.push(text(scope)?),
                _ => return None,
            }
            Some(())
        })?;
        unique(&mut asked.resource);
        Some(asked)
    }
}

impl<'a> Call<'a> {
    fn usual(message: &'a [u8]) -> Option<Self> {
        let mut call = Self::default();
        each(message, |field| {
            match field {
                (1, Value::Bytes(method)) => call.method = text(method)?,
                (2, Value::Bytes(path)) => call.path = text(path)?,
                (3, Value::Bytes(host)) => call.host = text(host)?,
                (4, Value::Bytes(address)) => call.source_address = text(address)?,
                (5, Value::Bytes(scheme)) => call.scheme = text(scheme)?,
                (6, Value::Bytes(entry)) => call.headers.push(pair(entry)?),
                (7, Value::Number(bytes)) => call.body_bytes = Some(bytes),
                _ => return None,
            }
            Some(())
        })?;
        unique(&mut call.headers);
        Some(call)
    }
}

/// A credential without proofs.
fn usual_credential(message: &[u8]) -> Option<Credential<'_>> {
    let mut credential = Credential::None;
    each(message, |field| {
        credential = match field {
            (1, Value::Bytes(token)) => Credential::Bearer(text(token)?),
            (2, Value::Bytes(value)) => Credential::from_authorization(text(value)?),
            (3, Value::Bytes(key)) => Credential::ApiKey(text(key)?),
            _ => return None,
        };
        Some(())
    })?;
    Some(credential)
}

fn usual_charge(message: &[u8]) -> Option<(&str, Option<u64>)> {
    let (mut limit, mut units) = ("", None);
    each(message, |field| {
        match field {
            (1, Value::Bytes(name)) => limit = text(name)?,
            (2, Value::Number(number)) => units = Some(number),
            _ => return None,
        }
        Some(())
    })?;
    Some((limit, units))
}

/// The id and the question of a `DecideStreamRequest` of the usual form; the question stands where it stands in there.
pub(super) fn usual_streamed(message: &[u8]) -> Option<(u64, &[u8])> {
    let (mut id, mut question) = (0, None);
    each(message, |field| {
        match field {
            (1, Value::Number(number)) => id = number,
            (2, Value::Bytes(bytes)) if question.is_none() => question = Some(bytes),
            _ => return None,
        }
        Some(())
    })?;
    Some((id, question?))
}

/// The questions of a `DecideBatchRequest`, at most so many, if all are of the usual form.
pub(super) fn usual_batch(message: &[u8], questions_max: usize) -> Option<Vec<Asked<'_>>> {
    let mut questions = Vec::new();
    each(message, |field| match field {
        (1, Value::Bytes(question)) if questions.len() < questions_max => {
            questions.push(Asked::usual(question)?);
            Some(())
        }
        _ => None,
    })?;
    Some(questions)
}

/// An entry of a map.
fn pair(message: &[u8]) -> Option<(&str, &str)> {
    let mut pair = ("", "");
    each(message, |field| {
        match field {
            (1, Value::Bytes(name)) => pair.0 = text(name)?,
            (2, Value::Bytes(value)) => pair.1 = text(value)?,
            _ => return None,
        }
        Some(())
    })?;
    Some(pair)
}

/// Sorts by name; of several with one name the last counts.
fn unique(pairs: &mut Pairs<'_>) {
    if pairs.len() > 1 {
        pairs.reverse();
        pairs.sort_by_key(|(name, _)| *name);
        pairs.dedup_by_key(|(name, _)| *name);
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::option::of;
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::api::wire::damage;

    fn text() -> impl Strategy<Value = String> {
        "|.{1,9}|.{120,140}"
    }

    fn credential() -> impl Strategy<Value = pb::Credential> {
        use pb::credential::Kind;
        let kind = prop_oneof![
            text().prop_map(Kind::BearerToken),
            "(Bearer )?.{0,9}".prop_map(Kind::Authorization),
            text().prop_map(Kind::ApiKey),
        ];
        let proofs = prop_oneof![9 => Just(Vec::<String>::new()), 1 => vec(text(), 1..3)];
        (of(kind), proofs).prop_map(|(kind, dpop_proofs)| pb::Credential {
            kind,
            dpop_proofs,
            client_certificate: None,
        })
    }

    fn call() -> impl Strategy<Value = pb::RequestAttributes> {
        let texts = (text(), text(), text(), text(), text());
        (texts, btree_map(text(), text(), 0..4), of(any::<u64>())).prop_map(|(texts, headers, body_bytes)| {
            let (method, path, host, source_address, scheme) = texts;
            pb::RequestAttributes { method, path, host, source_address, scheme, headers, body_bytes }
        })
    }

    prop_compose! {
        fn question()(
            credential in of(credential()),
            request in of(call()),
            resource in btree_map(text(), text(), 0..4),
            limits in vec((text(), of(any::<u64>())), 0..3),
            units in of(any::<u64>()),
            mode in prop_oneof![9 => 0..4_i32, 1 => any::<i32>()],
            explain in any::<bool>(),
            scopes in vec(text(), 0..3),
        ) -> pb::DecideRequest {
            let limits = limits.into_iter().map(|(limit, units)| pb::LimitCharge { limit, units }).collect();
            pb::DecideRequest { credential, request, resource, limits, units, mode, explain, scopes }
        }
    }

    /// What prost reads, without where proofs would be: there are none in a message of the usual form.
    fn by_prost(message: &pb::DecideRequest) -> Asked<'_> {
        Asked { proofs: None, ..Asked::from(message) }
    }

    fn has_no_proof(message: &pb::DecideRequest) -> bool {
        message.credential.as_ref().is_none_or(|credential| credential.dpop_proofs.is_empty())
    }

    /// If these bytes are read at all, then as prost reads them.
    fn check(bytes: &[u8]) -> Result<(), TestCaseError> {
        if let Some(asked) = Asked::usual(bytes) {
            let message = pb::DecideRequest::decode(bytes);
            prop_assert!(message.is_ok(), "{:?}", message);
            let message = message.unwrap_or_default();
            prop_assert!(has_no_proof(&message));
            prop_assert_eq!(asked, by_prost(&message));
        }
        Ok(())
    }

    #[test]
    fn a_number_of_more_than_64_bits_is_none() {
        let units = |last: u8| [&[0x28][..], &[0xff; 9], &[last]].concat();
        assert_eq!(Asked::usual(&units(1)).and_then(|asked| asked.units), Some(u64::MAX));
        assert_eq!(Asked::usual(&units(2)), None);
        assert!(pb::DecideRequest::decode(&*units(2)).is_err());
    }

    proptest! {
        /// Whatever was made of it, is cut off, or was added: nobody else would find out that it is read otherwise here.
        #[test]
        fn messages_are_read_as_prost_reads_them(
            messages in vec(question(), 1..3),
            damage in damage(),
        ) {
            let bytes: Vec<u8> = messages.iter().flat_map(pb::DecideRequest::encode_to_vec).collect();
            let usual = messages.len() == 1 && messages.iter().all(|message| has_no_proof(message) && message.mode >= 0);
            prop_assert!(!usual || Asked::usual(&bytes).is_some(), "it is read where it stands");
            check(&bytes)?;
            for bytes in damage.done_to(bytes) {
                check(&bytes)?;
            }
        }

        #[test]
        fn any_bytes_are_read_as_prost_reads_them(bytes in vec(any::<u8>(), 0..40)) {
            check(&bytes)?;
            let wrapped = pb::DecideRequest::decode(&*bytes).map(|message| message.encode_to_vec());
            check(&wrapped.unwrap_or_default())?;
        }

        #[test]
        fn streams_and_batches_are_read_as_prost_reads_them(
            id in any::<u64>(),
            questions in vec(question(), 0..4),
            twice in any::<bool>(),
            odd in of((any::<prop::sample::Index>(), any::<u8>())),
        ) {
            let mut batch = pb::DecideBatchRequest { questions: questions.clone() }.encode_to_vec();
            let mut streamed = pb::DecideStreamRequest { id, question: questions.first().cloned() }.encode_to_vec();
            if twice {
                streamed.extend_from_within(..);
            }
            for bytes in [&mut batch, &mut streamed] {
                if let Some((place, byte)) = odd.filter(|_| !bytes.is_empty()) {
                    let place = place.index(bytes.len());
                    bytes[place] = byte;
                }
            }
            if let Some(asked) = usual_batch(&batch, 3) {
                let message = pb::DecideBatchRequest::decode(&*batch);
                prop_assert!(message.is_ok());
                let questions = message.unwrap_or_default().questions;
                prop_assert!(questions.len() <= 3);
                prop_assert_eq!(asked, questions.iter().map(by_prost).collect::<Vec<_>>());
            }
            if let Some((id, question)) = usual_streamed(&streamed) {
                // What is in the question is read, and refused, by itself.
                if let Ok(message) = pb::DecideStreamRequest::decode(&*streamed) {
                    prop_assert_eq!(message.id, id);
                    prop_assert_eq!(message.question, pb::DecideRequest::decode(question).ok());
                } else {
                    prop_assert!(pb::DecideRequest::decode(question).is_err());
                }
            }
        }
    }
}
