//! Decisions to wire messages.

use std::collections::BTreeMap;

use prost_types::{Duration, Timestamp};

use super::reservation;
use super::status::told;
use crate::api::codes::{Codes, sentence};
use crate::api::known::{self, token_type};
use crate::decide::{Paid, Undecidable, Violation};
use crate::domain::decision::{Decision, Held, Provenance, QuotaState, QuotaVerdict, Reason, longest_wait};
use crate::domain::identity::{Actor, Identity, IdentityKind};
use crate::domain::limit::Occasion;
use crate::domain::time::Micros;
use crate::proto as pb;

/// The answer that carries `decision`; `replica` is who made it.
pub(in crate::api) fn response(decision: &Decision, replica: &str) -> pb::DecideResponse {
    let codes = Codes::of(decision.reason);
    pb::DecideResponse {
        allowed: decision.reason.allows(),
        reason: codes.native.into(),
        detail: decision.reason.name().to_owned(),
        rule: rule_name(decision),
        identity: decision.identity.as_deref().map(identity),
        quotas: decision.quotas.iter().map(quota).collect(),
        retry_after: decision.retry_after().map(duration),
        // What an honest caller has to ask its issuer for (RFC 6750 §3).
        required_scopes: decision.required_scopes.clone(),
        explanation: explanation(decision, replica),
        reservation: reservation(decision.held.as_deref()),
        expires_after: expires_after(decision.held.as_deref()),
        dpop_nonce: text(decision.dpop_nonce.as_deref()),
        identity_headers: decision.identity_headers().map(header).collect(),
        removed_headers: decision.policy.identity_headers.iter().map(|header| header.name.to_string()).collect(),
    }
}

fn header((name, value): (&str, String)) -> pb::Header {
    pb::Header { name: name.to_owned(), value }
}

/// Why one of several questions could not be decided.
pub(super) fn question_error(Undecidable { violations }: &Undecidable) -> pb::QuestionError {
    let (message, named) = told(violations);
    let named = named.iter().map(|Violation { field, description }| pb::FieldViolation {
        field: field.clone(),
        description: description.clone(),
    });
    pb::QuestionError { code: tonic::Code::InvalidArgument.into(), message, violations: named.collect() }
}

/// What was consumed.
pub(super) fn consumed(Paid { payment, held }: &Paid) -> pb::ConsumeResponse {
    pb::ConsumeResponse {
        allowed: payment.reason.allows(),
        quotas: payment.states.iter().map(quota).collect(),
        retry_after: longest_wait(&payment.states).map(duration),
        reservation: reservation(held.as_ref()),
        expires_after: expires_after(held.as_ref()),
    }
}

/// What was reserved.
pub(super) fn reserved(paid: &Paid) -> pb::ReserveResponse {
    let pb::ConsumeResponse { allowed, quotas, retry_after, reservation, expires_after } = consumed(paid);
    pb::ReserveResponse { allowed, quotas, retry_after, reservation, expires_after }
}

/// What consuming would answer now.
pub(super) fn peeked(paid: &Paid) -> pb::PeekResponse {
    let pb::ConsumeResponse { allowed, quotas, retry_after, reservation: _, expires_after: _ } = consumed(paid);
    pb::PeekResponse { allowed, quotas, retry_after }
}

fn reservation(held: Option<&Held>) -> String {
    held.map(reservation::written).unwrap_or_default()
}

fn expires_after(held: Option<&Held>) -> Option<Duration> {
    held.map(|held| duration(held.expires_after))
}

/// What is known of an active token (RFC 7662 §2.2).
pub(super) fn active(identity: &Identity) -> pb::IntrospectResponse {
    pb::IntrospectResponse {
        active: true,
        scope: known::scope(identity),
        client_id: text(identity.client.as_deref()),
        username: text(identity.username.as_deref()),
        token_type: token_type(identity).to_owned(),
        exp: identity.expires_at.map(timestamp),
        iat: identity.issued_at.map(timestamp),
        nbf: identity.not_before.map(timestamp),
        sub: text(identity.subject.as_deref()),
        aud: texts(&identity.audiences),
        iss: identity.issuer.to_string(),
        jti: text(identity.token_id.as_deref()),
        sid: text(identity.session.as_deref()),
        cnf: confirmation(identity),
        actors: identity.actors.iter().map(actor).collect(),
        roles: texts(&identity.roles),
        tenant: text(identity.tenant.as_deref()),
        claims: claims(identity),
    }
}

fn confirmation(identity: &Identity) -> Option<pb::Confirmation> {
    let known::Keys { certificate, key } = known::keys(identity);
    let is_bound = certificate.is_some() || key.is_some();
    is_bound.then(|| pb::Confirmation { x5t_s256: certificate.unwrap_or_default(), jkt: key.unwrap_or_default() })
}

fn claims(identity: &Identity) -> BTreeMap<String, String> {
    identity.claims.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn rule_name(decision: &Decision) -> String {
    text(decision.rule_name())
}

fn identity(identity: &Identity) -> pb::Identity {
    pb::Identity {
        issuer: identity.issuer.to_string(),
        subject: text(identity.subject.as_deref()),
        client_id: text(identity.client.as_deref()),
        username: text(identity.username.as_deref()),
        scopes: texts(&identity.scopes),
        roles: texts(&identity.roles),
        audiences: texts(&identity.audiences),
        token_id: text(identity.token_id.as_deref()),
        session_id: text(identity.session.as_deref()),
        expires_at: identity.expires_at.map(timestamp),
        issued_at: identity.issued_at.map(timestamp),
        kind: kind(identity.kind).into(),
        tenant: text(identity.tenant.as_deref()),
        actors: identity.actors.iter().map(actor).collect(),
        claims: claims(identity),
        names: texts(&identity.names),
    }
}

pub(super) const fn kind(kind: IdentityKind) -> pb::IdentityKind {
    match kind {
        IdentityKind::Jwt => pb::IdentityKind::Jwt,
        IdentityKind::Opaque => pb::IdentityKind::Opaque,
        IdentityKind::ApiKey => pb::IdentityKind::ApiKey,
        IdentityKind::Certificate => pb::IdentityKind::Certificate,
    }
}

fn actor(Actor { issuer, subject, client }: &Actor) -> pb::Actor {
    pb::Actor { issuer: text(issuer.as_deref()), subject: text(subject.as_deref()), client_id: text(client.as_deref()) }
}

fn quota(state: &QuotaState) -> pb::QuotaStatus {
    let (outcome, retry_after) = outcome_of(state.verdict);
    pb::QuotaStatus {
        limit: state.limit.name.clone(),
        outcome: outcome.into(),
        units: state.limit.units(),
        window: state.limit.hold().is_none().then(|| duration(state.limit.window())),
        remaining: state.remaining,
        reset_after: Some(duration(state.reset_after)),
        retry_after: retry_after.map(duration),
    }
}

/// What became of a quota, and the time until it has room.
pub(super) const fn outcome_of(verdict: QuotaVerdict) -> (pb::QuotaOutcome, Option<Micros>) {
    match verdict {
        QuotaVerdict::Granted => (pb::QuotaOutcome::Granted, None),
        QuotaVerdict::Short { retry_after } => (pb::QuotaOutcome::Short, Some(retry_after)),
        QuotaVerdict::Never => (pb::QuotaOutcome::Never, None),
        QuotaVerdict::Away => (pb::QuotaOutcome::Away, None),
    }
}

/// How the decision came about, where the question asked for it.
pub(super) fn explanation(decision: &Decision, replica: &str) -> Option<pb::Explanation> {
    let seen = decision.explanation.as_deref()?;
    Some(pb::Explanation {
        rule: rule_name(decision),
        policy_version: decision.policy.version,
        token: provenance(seen.token).into(),
        quotas: provenance(seen.quotas).into(),
        replica: replica.to_owned(),
        text: format!("{}{}{}", sentence(decision.reason), of_early_limits(decision), of_slots(decision)),
    })
}

/// What is to be said of a call that was refused before its credential was looked at.
fn of_early_limits(decision: &Decision) -> &'static str {
    let short = |state: &&QuotaState| !state.verdict.is_granted() && state.limit.charge.is_early();
    match decision.quotas.iter().find(short).map(|state| state.limit.charge) {
        Some(Occasion::BeforeAuth) if !decision.reason.allows() => " The credential was not looked at.",
        Some(Occasion::OnFailure) if decision.reason == Reason::QuotaExceeded => {
            " Too many credentials were not accepted, so this one, which is not remembered as good, was not checked."
        }
        Some(Occasion::BeforeAuth | Occasion::OnFailure | Occasion::AfterAuth) | None => "",
    }
}

/// What is to be said of slots, where there are any.
fn of_slots(decision: &Decision) -> String {
    let short = |state: &QuotaState| !state.verdict.is_granted() && state.limit.hold().is_some();
    match &decision.held {
        Some(held) => format!(" Slots are held until they are settled, for at most {}.", held.expires_after),
        None if decision.reason == Reason::QuotaExceeded && decision.quotas.iter().any(short) => {
            " Too few slots are free.".to_owned()
        }
        None => String::new(),
    }
}

const fn provenance(provenance: Option<Provenance>) -> pb::Provenance {
    match provenance {
        None => pb::Provenance::Unspecified,
        Some(Provenance::Memory) => pb::Provenance::Memory,
        Some(Provenance::Asked) => pb::Provenance::Asked,
        Some(Provenance::Away) => pb::Provenance::Away,
    }
}

fn text(text: Option<&str>) -> String {
    text.unwrap_or_default().to_owned()
}

fn texts(texts: &[Box<str>]) -> Vec<String> {
    texts.iter().map(|text| String::from(&**text)).collect()
}

fn parts(micros: Micros) -> (i64, i32) {
    let nanos = i32::try_from(micros.0 % 1_000_000 * 1_000).unwrap_or_default();
    (i64::try_from(micros.as_secs()).unwrap_or(i64::MAX), nanos)
}

fn duration(micros: Micros) -> Duration {
    let (seconds, nanos) = parts(micros);
    Duration { seconds, nanos }
}

/// A moment.
pub(super) fn timestamp(micros: Micros) -> Timestamp {
    let (seconds, nanos) = parts(micros);
    Timestamp { seconds, nanos }
}
