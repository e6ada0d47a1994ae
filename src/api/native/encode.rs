//! Decisions to the bytes of their messages: byte for byte what prost writes of the messages that [`answer`] makes, without
//! making them. Most of a message's fields are strings, each an allocation, and they would be copied only to be copied again.
//!
//! Rare parts are made as messages all the same. A test holds every field to [`answer`].

use std::collections::BTreeMap;

use prost::Message;
use prost::encoding::{WireType, encode_varint, encoded_len_varint};

use super::{answer, reservation};
use crate::api::codec::Encoded;
use crate::api::codes::Codes;
use crate::decide::Decided;
use crate::domain::decision::{Decision, QuotaState};
use crate::domain::identity::{Actor, Identity};
use crate::domain::time::Micros;
use crate::proto as pb;

/// Room for most answers.
const ANSWER_BYTES: usize = 512;

/// `DecideResponse`.
pub(super) fn response(decision: &Decision, replica: &str) -> Encoded<pb::DecideResponse> {
    let mut bytes = Vec::with_capacity(ANSWER_BYTES);
    Fields(&mut bytes).response(decision, replica);
    Encoded::new(bytes)
}

/// `DecideStreamResponse`.
pub(super) fn streamed(id: u64, decided: &Decided, replica: &str) -> Encoded<pb::DecideStreamResponse> {
    let mut bytes = Vec::with_capacity(ANSWER_BYTES);
    let mut fields = Fields(&mut bytes);
    fields.number(1, id);
    fields.message(2, |outcome| outcome.outcome(decided, replica));
    Encoded::new(bytes)
}

/// One after the other, the outcomes of a `DecideBatchResponse`.
#[derive(Debug)]
pub(super) struct Outcomes(Vec<u8>);

impl Outcomes {
    /// Room for so many.
    pub(super) fn with_capacity(outcomes: usize) -> Self {
        Self(Vec::with_capacity(outcomes * ANSWER_BYTES))
    }

    /// Adds the next one.
    pub(super) fn push(&mut self, decided: &Decided, replica: &str) {
        Fields(&mut self.0).message(1, |outcome| outcome.outcome(decided, replica));
    }

    /// All of them.
    pub(super) fn into_response(self) -> Encoded<pb::DecideBatchResponse> {
        Encoded::new(self.0)
    }
}

/// The fields of a message, to be written in the order of their tags. What has its default value is left out, as proto3
/// wants it, but for repeated fields and messages.
struct Fields<'b>(&'b mut Vec<u8>);

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

    fn number(&mut self, tag: u32, value: u64) {
        if value != 0 {
            self.key(tag, WireType::Varint);
            self.varint(value);
        }
    }

    /// Enumerations of ours have no negative values.
    fn choice(&mut self, tag: u32, value: impl Into<i32>) {
        self.number(tag, value.into().unsigned_abs().into());
    }

    fn text(&mut self, tag: u32, text: &str) {
        if !text.is_empty() {
            self.entry(tag, text);
        }
    }

    /// One of several: it is there even where it is empty.
    fn entry(&mut self, tag: u32, text: &str) {
        self.key(tag, WireType::LengthDelimited);
        self.varint(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }

    fn optional(&mut self, tag: u32, text: Option<&str>) {
        self.text(tag, text.unwrap_or_default());
    }

    fn entries(&mut self, tag: u32, texts: &[Box<str>]) {
        for text in texts {
            self.entry(tag, text);
        }
    }

    /// A message with these fields. Its length comes before them, and is known afterwards.
    fn message(&mut self, tag: u32, fields: impl FnOnce(&mut Fields<'_>)) {
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
    fn made(&mut self, tag: u32, message: &impl Message) {
        prost::encoding::message::encode(tag, message, self.0);
    }

    /// A moment or a length of time: both messages have the same fields.
    fn time(&mut self, tag: u32, time: Micros) {
        self.message(tag, |fields| {
            fields.number(1, time.as_secs());
            fields.number(2, time.0 % 1_000_000 * 1_000);
        });
    }

    fn time_if(&mut self, tag: u32, time: Option<Micros>) {
        if let Some(time) = time {
            self.time(tag, time);
        }
    }
}

impl Fields<'_> {
    fn outcome(&mut self, decided: &Decided, replica: &str) {
        match decided {
            Ok(decision) => self.message(1, |fields| fields.response(decision, replica)),
            Err(undecidable) => self.made(2, &answer::question_error(undecidable)),
        }
    }

    fn response(&mut self, decision: &Decision, replica: &str) {
        let allowed = decision.reason.allows();
        self.number(1, allowed.into());
        self.choice(2, Codes::of(decision.reason).native);
        self.text(3, decision.reason.name());
        self.optional(4, decision.rule_name());
        if let Some(identity) = &decision.identity {
            self.message(5, |fields| fields.identity(identity));
        }
        for state in &decision.quotas {
            self.message(6, |fields| fields.quota(state));
        }
        self.time_if(7, decision.retry_after());
        for scope in &decision.required_scopes {
            self.entry(8, scope);
        }
        if let Some(explanation) = answer::explanation(decision, replica) {
            self.made(9, &explanation);
        }
        if let Some(held) = &decision.held {
            self.text(10, &reservation::written(held));
            self.time(11, held.expires_after);
        }
        self.optional(12, decision.dpop_nonce.as_deref());
        for (name, value) in decision.identity_headers() {
            self.message(13, |fields| {
                fields.text(1, name);
                fields.text(2, &value);
            });
        }
        for header in &decision.policy.identity_headers {
            self.entry(14, &header.name);
        }
    }

    fn identity(&mut self, identity: &Identity) {
        self.text(1, &identity.issuer);
        self.optional(2, identity.subject.as_deref());
        self.optional(3, identity.client.as_deref());
        self.optional(4, identity.username.as_deref());
        self.entries(5, &identity.scopes);
        self.entries(6, &identity.roles);
        self.entries(7, &identity.audiences);
        self.optional(8, identity.token_id.as_deref());
        self.optional(9, identity.session.as_deref());
        self.time_if(10, identity.expires_at);
        self.time_if(11, identity.issued_at);
        self.choice(12, answer::kind(identity.kind));
        self.optional(13, identity.tenant.as_deref());
        for Actor { issuer, subject, client } in &identity.actors {
            self.message(14, |fields| {
                fields.optional(1, issuer.as_deref());
                fields.optional(2, subject.as_deref());
                fields.optional(3, client.as_deref());
            });
        }
        // By name, each once.
        let claims: BTreeMap<&str, &str> = identity.claims.iter().map(|(name, value)| (&**name, &**value)).collect();
        for (name, value) in claims {
            self.message(15, |fields| {
                fields.text(1, name);
                fields.text(2, value);
            });
        }
        self.entries(16, &identity.names);
    }

    fn quota(&mut self, state: &QuotaState) {
        let (outcome, retry_after) = answer::outcome_of(state.verdict);
        self.text(1, &state.limit.name);
        self.choice(2, outcome);
        self.number(3, state.limit.units());
        if state.limit.hold().is_none() {
            self.time(4, state.limit.window());
        }
        self.number(5, state.remaining);
        self.time(6, state.reset_after);
        self.time_if(7, retry_after);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::collection::vec;
    use proptest::option::of;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::decide::{Undecidable, Violation};
    use crate::domain::decision::{Explanation, Held, HeldCounter, Provenance, QuotaVerdict, Reason};
    use crate::domain::identity::IdentityKind;
    use crate::domain::identity_headers::{Facet, IdentityHeader};
    use crate::domain::limit::{Algorithm, CounterKey, Kind, Limit, Occasion, WhenAway};
    use crate::domain::policy::{Demand, Match, Policy, Rule};
    use crate::domain::slots::Slots;
    use crate::domain::window::LeaseId;

    const REPLICA: &str = "replica";

    /// Empty, short, and so long that its length takes two bytes.
    fn text() -> impl Strategy<Value = Box<str>> {
        "|.{1,9}|.{120,140}".prop_map(Box::from)
    }

    fn some() -> impl Strategy<Value = Option<Box<str>>> {
        of(text())
    }

    fn texts() -> impl Strategy<Value = Box<[Box<str>]>> {
        vec(text(), 0..4).prop_map(Box::from)
    }

    fn micros() -> impl Strategy<Value = Micros> {
        prop_oneof![Just(0_u64), Just(1_000_000_u64), 0..1_000_000_u64, any::<u64>()].prop_map(Micros)
    }

    fn identity() -> impl Strategy<Value = Identity> {
        use IdentityKind::{ApiKey, Certificate, Jwt, Opaque};
        let names = (text(), some(), some(), some(), some(), some(), some());
        let lists =
            (texts(), texts(), texts(), texts(), vec((some(), some(), some()), 0..3), vec((text(), text()), 0..4));
        let rest = (select(vec![Jwt, Opaque, ApiKey, Certificate]), of(micros()), of(micros()));
        (names, lists, rest).prop_map(|(names, lists, (kind, expires_at, issued_at))| {
            let (issuer, subject, client, username, token_id, session, tenant) = names;
            let (scopes, roles, audiences, names, actors, claims) = lists;
            let actor = |(issuer, subject, client)| Actor { issuer, subject, client };
            Identity {
                kind,
                subject,
                client,
                username,
                scopes,
                roles,
                audiences,
                token_id,
                session,
                tenant,
                actors: actors.into_iter().map(actor).collect(),
                claims: claims.into(),
                names,
                expires_at,
                issued_at,
                ..Identity::vouched_by(&*issuer)
            }
        })
    }

    fn quota() -> impl Strategy<Value = QuotaState> {
        let algorithm = (any::<u64>(), micros()).prop_flat_map(|(units, time)| {
            prop_oneof![
                Just(Algorithm::SlidingWindow { units, window: time }),
                Just(Algorithm::Concurrency(Slots { units, hold: time })),
            ]
        });
        let verdict = prop_oneof![
            Just(QuotaVerdict::Granted),
            micros().prop_map(|retry_after| QuotaVerdict::Short { retry_after }),
            Just(QuotaVerdict::Never),
            Just(QuotaVerdict::Away),
        ];
        (text(), algorithm, verdict, any::<u64>(), micros()).prop_map(
            |(name, algorithm, verdict, remaining, reset_after)| {
                let limit = Limit {
                    name: name.into(),
                    algorithm,
                    by: Vec::new(),
                    when_away: WhenAway::Deny,
                    charge: Occasion::AfterAuth,
                };
                QuotaState { limit: Arc::new(limit), verdict, remaining, reset_after }
            },
        )
    }

    fn policy(rule: &str, headers: Vec<Box<str>>) -> Policy {
        let rule = Rule {
            name: rule.to_owned(),
            matches: Match::default(),
            leniency: crate::domain::path::Leniency::default(),
            guard: None,
            early: None,
            demand: Demand::Anyone,
            limits: Vec::new(),
        };
        let facets = [Facet::Issuer, Facet::Scopes, Facet::Username];
        let header = |(name, facet)| IdentityHeader { name, facet };
        let identity_headers = headers.into_iter().zip(facets).map(header).collect();
        Policy { version: 7, rules: vec![rule].into(), identity_headers, ..Policy::default() }
    }

    fn held() -> impl Strategy<Value = Held> {
        (any::<u64>(), micros()).prop_map(|(serial, expires_after)| Held {
            lease: LeaseId { replica: 1, serial },
            counters: vec![HeldCounter { key: CounterKey::new("l"), kind: Kind::Concurrency }],
            expires_after,
        })
    }

    fn decision() -> impl Strategy<Value = Decision> {
        let provenance = || of(select(vec![Provenance::Memory, Provenance::Asked, Provenance::Away]));
        let explanation = (provenance(), provenance()).prop_map(|(token, quotas)| Explanation { token, quotas });
        let policy = (text(), vec(text(), 0..4)).prop_map(|(rule, headers)| policy(&rule, headers));
        let fixed = (select(Reason::ALL.to_vec()), policy, any::<bool>(), texts(), some());
        (fixed, of(identity()), vec(quota(), 0..4), of(held()), of(explanation)).prop_map(
            |((reason, policy, ruled, scopes, dpop_nonce), identity, quotas, held, explanation)| Decision {
                reason,
                policy: Arc::new(policy),
                rule: ruled.then_some(0),
                identity: identity.map(Arc::new),
                quotas: quotas.into(),
                required_scopes: scopes.iter().map(ToString::to_string).collect(),
                held: held.map(Box::new),
                dpop_nonce,
                explanation: explanation.map(Box::new),
            },
        )
    }

    fn undecidable() -> impl Strategy<Value = Undecidable> {
        let violation = (text(), text());
        vec(violation, 0..4).prop_map(|violations| {
            let violation = |(field, description): (Box<str>, Box<str>)| Violation {
                field: field.into(),
                description: description.into(),
            };
            Undecidable { violations: violations.into_iter().map(violation).collect() }
        })
    }

    fn outcome(decided: &Decided) -> pb::DecideOutcome {
        use pb::decide_outcome::Kind;
        let kind = match decided {
            Ok(decision) => Kind::Decision(answer::response(decision, REPLICA)),
            Err(undecidable) => Kind::Error(answer::question_error(undecidable)),
        };
        pb::DecideOutcome { kind: Some(kind) }
    }

    proptest! {
        /// Else somebody at the other end would read something else than JSON says, or nothing.
        #[test]
        fn bytes_are_those_of_the_message(
            decided in vec(prop_oneof![4 => decision().prop_map(Decided::Ok), 1 => undecidable().prop_map(Decided::Err)], 0..4),
            id in any::<u64>(),
        ) {
            let mut outcomes = Outcomes::with_capacity(decided.len());
            for decided in &decided {
                outcomes.push(decided, REPLICA);
                if let Ok(decision) = decided {
                    let (bytes, message) = (response(decision, REPLICA), answer::response(decision, REPLICA));
                    prop_assert_eq!(bytes.bytes(), message.encode_to_vec());
                }
                let bytes = streamed(id, decided, REPLICA);
                let message = pb::DecideStreamResponse { id, outcome: Some(outcome(decided)) };
                prop_assert_eq!(bytes.bytes(), message.encode_to_vec());
            }
            let message = pb::DecideBatchResponse { outcomes: decided.iter().map(outcome).collect() };
            let bytes = outcomes.into_response();
            prop_assert_eq!(bytes.bytes(), message.encode_to_vec());
        }
    }
}
