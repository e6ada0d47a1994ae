//! Decisions to what an Envoy does with them.

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use tonic::Code;

use crate::api::http_answer::{PROBLEM, Refusal, told_anyway};
use crate::api::native::reservation;
use crate::decide::Undecidable;
use crate::domain::decision::{Decision, QuotaVerdict};
use crate::domain::identity_headers::RESERVATION;
use crate::domain::question::Question;
use crate::proto::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use crate::proto::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use crate::proto::envoy::service::auth::v3::check_response::HttpResponse;
use crate::proto::envoy::service::auth::v3::{CheckResponse, DeniedHttpResponse, OkHttpResponse};
use crate::proto::envoy::r#type::v3::HttpStatus;

/// The answer that carries `decision` about the call of `question`; `is_grpc`: its client speaks gRPC.
pub(super) fn response(decision: &Decision, question: &Question<'_>, is_grpc: bool) -> CheckResponse {
    let metadata = metadata(decision);
    if !decision.reason.allows() {
        return refused(Refusal::of(decision, question), is_grpc, metadata);
    }
    let mut headers: Vec<HeaderValueOption> =
        decision.identity_headers().map(|(name, value)| header(name, value, Place::Alone)).collect();
    if let Some(held) = decision.held.as_deref() {
        headers.push(header(RESERVATION, reservation::written(held), Place::Alone));
    }
    // Envoy takes out what is to be taken out last of all, and what it was told to set with it.
    let is_set = |name: &str| headers.iter().any(|set| set.header.as_ref().is_some_and(|header| header.key == name));
    let names = decision.policy.reserved_headers();
    let written = question.headers.iter().map(|(name, _)| name);
    let forged = written.filter(|name| decision.policy.is_taken_for_reserved(name));
    let headers_to_remove = names.filter(|name| !is_set(name)).chain(forged).map(str::to_owned).collect();
    let told = told_anyway(decision).map(|(name, value)| header(name, value, Place::Beside));
    let ok = OkHttpResponse { headers_to_remove, response_headers_to_add: told.collect(), headers };
    CheckResponse {
        status: Some(status(Code::Ok, "")),
        http_response: Some(HttpResponse::OkResponse(ok)),
        dynamic_metadata: Some(metadata),
    }
}

/// The answer about a call of which nobody can say what it means.
pub(super) fn malformed(undecidable: &Undecidable, is_grpc: bool) -> CheckResponse {
    let refusal = Refusal::malformed(undecidable);
    let metadata = record([("malformed", Some(text(&refusal.detail)))]);
    refused(refusal, is_grpc, metadata)
}

/// Envoy makes an answer of gRPC by itself where the client speaks it: the body becomes the message. The code would be one
/// that it finds for the HTTP status, 14 for 429, unless it is there already.
fn refused(refusal: Refusal, is_grpc: bool, metadata: Struct) -> CheckResponse {
    let Refusal { status: http, code, fields, detail, body } = refusal;
    let status = status(code, &detail);
    let mut headers: Vec<_> = fields.into_iter().map(|(name, value)| header(name, value, Place::Beside)).collect();
    let body = if is_grpc {
        headers.push(header("grpc-status", i32::from(code).to_string(), Place::Alone));
        detail.into_owned()
    } else {
        headers.push(header("content-type", PROBLEM.to_owned(), Place::Alone));
        body
    };
    let denied = DeniedHttpResponse { status: Some(HttpStatus { code: http.as_u16().into() }), headers, body };
    CheckResponse {
        status: Some(status),
        http_response: Some(HttpResponse::DeniedResponse(denied)),
        dynamic_metadata: Some(metadata),
    }
}

fn status(code: Code, message: &str) -> tonic_types::Status {
    tonic_types::Status { code: code.into(), message: message.to_owned(), details: Vec::new() }
}

/// What becomes of fields of the same name.
#[derive(Clone, Copy)]
enum Place {
    /// They give way.
    Alone,
    /// They stay.
    Beside,
}

fn header(name: &str, value: String, place: Place) -> HeaderValueOption {
    let action = match place {
        Place::Alone => HeaderAppendAction::OverwriteIfExistsOrAdd,
        Place::Beside => HeaderAppendAction::AppendIfExistsOrAdd,
    };
    let header = HeaderValue { key: name.to_owned(), value, raw_value: Vec::new() };
    HeaderValueOption { header: Some(header), append_action: action.into() }
}

/// What filters and access logs behind may use: no credential, nor anything that stands for one.
fn metadata(decision: &Decision) -> Struct {
    let identity = decision.identity.as_deref();
    let scopes = identity.map(|identity| list(identity.scopes.iter().map(|scope| text(scope))));
    let known = decision.quotas.iter().filter(|state| state.verdict != QuotaVerdict::Away);
    let remaining = filled(known.map(|state| (state.limit.name.clone(), number(state.remaining))));
    record([
        ("reason", Some(text(decision.reason.name()))),
        ("rule", decision.rule_name().map(text)),
        ("issuer", identity.map(|identity| text(&identity.issuer))),
        ("subject", identity.and_then(|identity| identity.subject.as_deref()).map(text)),
        ("client", identity.and_then(|identity| identity.client.as_deref()).map(text)),
        ("scopes", scopes),
        ("remaining", (!remaining.fields.is_empty()).then_some(of(Kind::StructValue(remaining)))),
    ])
}

fn record<const N: usize>(fields: [(&str, Option<Value>); N]) -> Struct {
    filled(fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))))
}

/// One by one: collected, they would be put into a list first, which takes memory of its own.
fn filled(fields: impl Iterator<Item = (String, Value)>) -> Struct {
    let mut record = Struct::default();
    record.fields.extend(fields);
    record
}

fn text(text: &str) -> Value {
    of(Kind::StringValue(text.to_owned()))
}

fn list(values: impl Iterator<Item = Value>) -> Value {
    of(Kind::ListValue(ListValue { values: values.collect() }))
}

/// Doubles are what such a record has; no limit has more units than they count exactly.
#[expect(clippy::cast_precision_loss, reason = "limits have at most 10^12 units, which is less than 2^53")]
fn number(units: u64) -> Value {
    of(Kind::NumberValue(units as f64))
}

fn of(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}
