//! Decisions to the bytes of their messages: byte for byte what prost writes of the messages that [`answer`] makes, without
//! making them. Most of a message's fields are strings, each an allocation, and they would be copied only to be copied again.
//!
//! Rare parts are made as messages all the same. A test holds every field to [`answer`].

use std::collections::BTreeMap;

use super::{answer, reservation};
use crate::api::codec::Encoded;
use crate::api::codes::Codes;
use crate::api::wire::Fields;
use crate::decide::Decided;
use crate::domain::decision::{Decision, QuotaState};
use crate::domain::identity::{Actor, Identity};
use crate::proto as pb;

/// Room for most answers.
const ANSWER_BYTES: usize = 512;

/// `DecideResponse`.
pub(super) fn response(decision: &Decision, replica: &str) -> Encoded<pb::DecideResponse> {
    let mut message = Encoded::with_room(ANSWER_BYTES);
    Fields::of(&mut message).response(decision, replica);
    message
}

/// `DecideStreamResponse`.
pub(super) fn streamed(id: u64, decided: &Decided, replica: &str) -> Encoded<pb::DecideStreamResponse> {
    let mut message = Encoded::with_room(ANSWER_BYTES);
    let mut fields = Fields::of(&mut message);
    fields.number(1, id);
    fields.message(2, |outcome| outcome.outcome(decided, replica));
    message
}

/// One after the other, the outcomes of a `DecideBatchResponse`.
#[derive(Debug)]
pub(super) struct Outcomes(Encoded<pb::DecideBatchResponse>);

impl Outcomes {
    /// Room for so many.
    pub(super) fn with_capacity(outcomes: usize) -> Self {
        Self(Encoded::with_room(outcomes * ANSWER_BYTES))
    }

    /// Adds the next one.
    pub(super) fn push(&mut self, decided: &Decided, replica: &str) {
        Fields::of(&mut self.0).message(1, |outcome| outcome.outcome(decided, replica));
    }

    /// All of them.
    pub(super) fn into_response(self) -> Encoded<pb::DecideBatchResponse> {
        self.0
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
    use prost::Message as _;

    use super::*;
    use crate::decide::{Undecidable, Violation};
    use crate::domain::decision::{Explanation, Held, HeldCounter, Provenance, QuotaVerdict, Reason};
    use crate::domain::identity::IdentityKind;
    use crate::domain::identity_headers::{Facet, IdentityHeader};
    use crate::domain::limit::{Algorithm, CounterKey, Kind, Limit, Occasion, WhenAway};
    use crate::domain::policy::{Demand, Match, Policy, Rule};
    use crate::domain::slots::Slots;
    use crate::domain::time::Micros;
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
