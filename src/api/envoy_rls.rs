//! `envoy.service.ratelimit.v3`: what an Envoy's filter `ratelimit` asks, answered as envoyproxy/ratelimit answers it.

use std::borrow::Cow;
use std::sync::Arc;

use prost_types::value::Kind;
use prost_types::{Duration, ListValue, Struct, Value};
use smallvec::SmallVec;
use tonic::{Request, Response, Status, async_trait};

use super::asker;
use super::native::{QUOTA_SCOPE, shown_by, status};
use crate::decide::{
    Decider, Descriptor, DescriptorStatus, HitsAsked, RateLimitQuestion, RateLimited, Undecidable, Violation,
};
use crate::domain::ratelimit::{Entry, Shown, Unit};
use crate::domain::time::Micros;
use crate::proto::envoy::config::core::v3::HeaderValue;
use crate::proto::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use crate::proto::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor as described;
use crate::proto::envoy::service::ratelimit::v3::rate_limit_response as answered;
use crate::proto::envoy::service::ratelimit::v3::rate_limit_service_server::RateLimitService;
use crate::proto::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use crate::telemetry::Facade;

/// The most descriptors of a request: a gateway's routes make a few.
const DESCRIPTORS_MAX: usize = 128;

/// Answers `RateLimitService`.
pub struct RateLimitApi {
    decider: Arc<Decider>,
}

impl RateLimitApi {
    /// Has `decider` say what has room.
    pub const fn new(decider: Arc<Decider>) -> Self {
        Self { decider }
    }

    /// What is taken back lifts limits, as `QuotaService/Refund` does.
    async fn permit(&self, request: &Request<RateLimitRequest>) -> Result<(), Status> {
        let credential = asker::credential(request.metadata().as_ref());
        let certificate = shown_by(request.extensions());
        let caller = self.decider.permit_operator(credential, certificate, QUOTA_SCOPE).get().await;
        caller.map(|_| ()).map_err(|reason| status::refused(reason, QUOTA_SCOPE))
    }
}

#[async_trait]
impl RateLimitService for RateLimitApi {
    async fn should_rate_limit(
        &self,
        mut request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        make_readable(request.get_mut());
        if request.get_ref().descriptors.iter().any(takes_back) {
            self.permit(&request).await?;
        }
        let question = question(request.get_ref()).inspect_err(|_| self.decider.turned_away(Facade::RateLimit))?;
        let limited = self.decider.limit_rate(&question).get().await;
        Ok(Response::new(response(&question, &limited)))
    }
}

/// Puts U+FFFD in the place of bytes that are no UTF-8. A client may write such bytes into a header by which an Envoy asks, and most
/// Envoys let a request go on when they are answered with an error. So they count, all those that look the same together.
fn make_readable(message: &mut RateLimitRequest) {
    let entries = message.descriptors.iter_mut().flat_map(|descriptor| &mut descriptor.entries);
    for text in entries.flat_map(|described::Entry { key, value }| [key, value]) {
        if let Cow::Owned(readable) = String::from_utf8_lossy(text) {
            *text = readable.into_bytes();
        }
    }
}

const fn takes_back(descriptor: &RateLimitDescriptor) -> bool {
    descriptor.is_negative_hits
}

/// The question that a message asks; or everything that is wrong with it.
fn question(message: &RateLimitRequest) -> Result<RateLimitQuestion<'_>, Undecidable> {
    let RateLimitRequest { domain, descriptors, hits_addend } = message;
    let mut violations = Vec::new();
    if domain.is_empty() {
        violations.push(violation("domain", "is needed: it says whose limits are asked"));
    }
    if descriptors.is_empty() || descriptors.len() > DESCRIPTORS_MAX {
        violations.push(violation("descriptors", format!("must be 1 to {DESCRIPTORS_MAX}")));
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

fn descriptor(message: &RateLimitDescriptor, of_request: u32) -> Result<Descriptor<'_>, (&'static str, &'static str)> {
    let RateLimitDescriptor { entries, limit, hits_addend, is_negative_hits } = message;
    // The request's own number cannot say 0: that is what stands where nothing is said.
    let hits = hits_addend.unwrap_or_else(|| of_request.max(1).into());
    let limit = limit.map(brought).transpose()?;
    let entries: Result<_, _> = entries.iter().map(entry).collect();
    let entries = entries?;
    let hits = if *is_negative_hits { HitsAsked::TakeBack(hits) } else { HitsAsked::Count(hits) };
    Ok(Descriptor { entries, limit, hits })
}

fn entry(described::Entry { key, value }: &described::Entry) -> Result<Entry<'_>, (&'static str, &'static str)> {
    let text = |bytes| str::from_utf8(bytes).map_err(|_| ("entries", "must be UTF-8"));
    Ok(Entry { key: text(key)?, value: text(value)? })
}

/// The limit that a request brings along. Its unit is one of `envoy.type.v3.RateLimitUnit`; envoyproxy/ratelimit knows a
/// week there, too, by the number that it has in answers.
fn brought(limit: described::RateLimitOverride) -> Result<Shown, (&'static str, &'static str)> {
    let described::RateLimitOverride { requests_per_unit, unit } = limit;
    let named = Unit::ALL.into_iter().find(|(_, known)| number_of(*known) as i32 == unit);
    let (_, unit) = named.ok_or(("limit.unit", "must be a unit from SECOND to YEAR, or WEEK"))?;
    Ok(Shown { requests_per_unit, unit })
}

const fn number_of(unit: Unit) -> answered::rate_limit::Unit {
    match unit {
        Unit::Second => answered::rate_limit::Unit::Second,
        Unit::Minute => answered::rate_limit::Unit::Minute,
        Unit::Hour => answered::rate_limit::Unit::Hour,
        Unit::Day => answered::rate_limit::Unit::Day,
        Unit::Week => answered::rate_limit::Unit::Week,
        Unit::Month => answered::rate_limit::Unit::Month,
        Unit::Year => answered::rate_limit::Unit::Year,
    }
}

fn violation(field: impl Into<String>, description: impl Into<String>) -> Violation {
    Violation { field: field.into(), description: description.into() }
}

fn response(question: &RateLimitQuestion<'_>, limited: &RateLimited) -> RateLimitResponse {
    RateLimitResponse {
        overall_code: code(!limited.reason.allows()).into(),
        statuses: limited.statuses.iter().map(descriptor_status).collect(),
        response_headers_to_add: if limited.headers { headers(limited) } else { Vec::new() },
        request_headers_to_add: Vec::new(),
        raw_body: Vec::new(),
        dynamic_metadata: limited.over_quota().map(|over| metadata(question.domain, &over)),
    }
}

const fn code(over: bool) -> answered::Code {
    if over { answered::Code::OverLimit } else { answered::Code::Ok }
}

fn descriptor_status(status: &DescriptorStatus) -> answered::DescriptorStatus {
    let name = status.limit.as_ref().and_then(|limit| limit.name.as_deref()).unwrap_or_default();
    answered::DescriptorStatus {
        code: code(status.over).into(),
        current_limit: status.shown().map(|Shown { requests_per_unit, unit }| answered::RateLimit {
            requests_per_unit,
            unit: number_of(unit).into(),
            name: name.to_owned(),
        }),
        limit_remaining: u32::try_from(status.remaining).unwrap_or(u32::MAX),
        // As there, nothing is told of when a quota begins anew that is used up.
        duration_until_reset: status
            .reset_after
            .filter(|_| !status.over_quota)
            .map(|after| Duration { seconds: seconds(after), nanos: 0 }),
    }
}

/// Whole seconds, rounded up: whoever waits so long waits long enough.
fn seconds(after: Micros) -> i64 {
    i64::try_from(after.as_secs_ceil()).unwrap_or(i64::MAX)
}

/// Those that envoyproxy/ratelimit adds where it is told to, by the names that they have there.
fn headers(limited: &RateLimited) -> Vec<HeaderValue> {
    let Some((status, shown)) = limited.closest().and_then(|status| Some((status, status.shown()?))) else {
        return Vec::new();
    };
    let header =
        |key: &str, value: i64| HeaderValue { key: key.to_owned(), value: value.to_string(), raw_value: Vec::new() };
    let left = if status.over { 0 } else { status.remaining.min(u32::MAX.into()) };
    let mut headers = vec![
        header("RateLimit-Limit", shown.requests_per_unit.into()),
        header("RateLimit-Remaining", i64::try_from(left).unwrap_or(i64::MAX)),
    ];
    headers.extend(status.reset_after.map(|after| header("RateLimit-Reset", seconds(after))));
    headers
}

/// What filters and access logs learn of limits in `quota_mode`, by the names that it has at envoyproxy/ratelimit; without what
/// the request said itself.
fn metadata(domain: &str, over: &[usize]) -> Struct {
    #[expect(clippy::cast_precision_loss, reason = "a few")]
    let place = |&place: &usize| value(Kind::NumberValue(place as f64));
    let mut fields = vec![
        ("domain".to_owned(), value(Kind::StringValue(domain.to_owned()))),
        ("quotaModeEnabled".to_owned(), value(Kind::BoolValue(true))),
    ];
    if !over.is_empty() {
        let places = ListValue { values: over.iter().map(place).collect() };
        fields.push(("quotaModeViolations".to_owned(), value(Kind::ListValue(places))));
    }
    Struct { fields: fields.into_iter().collect() }
}

const fn value(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}
