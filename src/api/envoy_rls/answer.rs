//! What became of a request, to the bytes of the message that says it: byte for byte what prost writes, without making the
//! message. A test holds every field to that.

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};

use super::number_of;
use crate::api::codec::Encoded;
use crate::api::wire::Fields;
use crate::decide::{DescriptorStatus, RateLimited};
use crate::domain::ratelimit::Shown;
use crate::proto::envoy::service::ratelimit::v3::RateLimitResponse;
use crate::proto::envoy::service::ratelimit::v3::rate_limit_response::Code;

/// Room for the answer to a few descriptors.
const ANSWER_BYTES: usize = 128;

/// What a request about limits of `domain` is answered.
pub(super) fn response(domain: &str, limited: &RateLimited) -> Encoded<RateLimitResponse> {
    let mut message = Encoded::with_room(ANSWER_BYTES);
    let mut fields = Fields::of(&mut message);
    fields.choice(1, code(!limited.reason.allows()));
    for status in &limited.statuses {
        fields.message(2, |fields| fields.status(status));
    }
    if limited.headers {
        fields.headers(limited);
    }
    if let Some(over) = limited.over_quota() {
        fields.made(6, &metadata(domain, &over));
    }
    message
}

impl Fields<'_> {
    fn status(&mut self, status: &DescriptorStatus) {
        self.choice(1, code(status.over));
        if let Some(Shown { requests_per_unit, unit }) = status.shown() {
            self.message(2, |fields| {
                fields.number(1, requests_per_unit.into());
                fields.choice(2, number_of(unit));
                fields.optional(3, status.limit.as_ref().and_then(|limit| limit.name.as_deref()));
            });
        }
        self.number(3, status.remaining.min(u32::MAX.into()));
        // As there, nothing is told of when a quota begins anew that is used up.
        if let Some(after) = status.reset_after.filter(|_| !status.over_quota) {
            self.message(4, |fields| fields.number(1, after.as_secs_ceil()));
        }
    }

    /// Those that envoyproxy/ratelimit adds where it is told to, by the names that they have there.
    fn headers(&mut self, limited: &RateLimited) {
        let Some((status, shown)) = limited.closest().and_then(|status| Some((status, status.shown()?))) else {
            return;
        };
        let left = if status.over { 0 } else { status.remaining.min(u32::MAX.into()) };
        self.header("RateLimit-Limit", shown.requests_per_unit.into());
        self.header("RateLimit-Remaining", left);
        if let Some(after) = status.reset_after {
            self.header("RateLimit-Reset", after.as_secs_ceil());
        }
    }

    fn header(&mut self, name: &str, value: u64) {
        self.message(3, |fields| {
            fields.text(1, name);
            fields.text(2, &value.to_string());
        });
    }
}

const fn code(over: bool) -> Code {
    if over { Code::OverLimit } else { Code::Ok }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::collection::vec;
    use proptest::option::of;
    use proptest::prelude::*;
    use proptest::sample::select;
    use prost::Message as _;
    use prost_types::Duration;

    use super::*;
    use crate::domain::decision::Reason;
    use crate::domain::limit::WhenAway;
    use crate::domain::ratelimit::{self, DescriptorLimit, RateLimitMode, Unit};
    use crate::domain::time::Micros;
    use crate::proto::envoy::config::core::v3::HeaderValue;
    use crate::proto::envoy::service::ratelimit::v3::rate_limit_response as answered;

    fn limit() -> impl Strategy<Value = DescriptorLimit> {
        let unit = select(Unit::ALL.to_vec()).prop_map(|(_, unit)| unit);
        let shown = of((prop_oneof![Just(0), any::<u32>()], unit));
        (of("|.{1,9}"), shown, any::<bool>()).prop_map(|(name, shown, quota_mode)| DescriptorLimit {
            name: name.map(Box::from),
            replaces: Box::default(),
            limits: Box::new([Arc::new(ratelimit::limit(
                RateLimitMode::Strict.algorithm(1, Unit::Day.length()),
                WhenAway::Deny,
            ))]),
            shown: shown.map(|(requests_per_unit, unit)| Shown { requests_per_unit, unit }),
            shadow: false,
            quota_mode,
            detailed_metric: false,
            metric: Box::default(),
        })
    }

    fn status() -> impl Strategy<Value = DescriptorStatus> {
        let remaining = prop_oneof![Just(0), 0..300_u64, any::<u64>()];
        let reset_after = of(prop_oneof![Just(0), 0..9_000_000_u64, any::<u64>()].prop_map(Micros));
        (any::<bool>(), any::<bool>(), of(limit()), remaining, reset_after).prop_map(
            |(over, over_quota, limit, remaining, reset_after)| DescriptorStatus {
                over,
                over_quota,
                limit: limit.map(Arc::new),
                remaining,
                reset_after,
            },
        )
    }

    fn limited() -> impl Strategy<Value = RateLimited> {
        let reason = select(vec![Reason::Allowed, Reason::QuotaExceeded, Reason::StoreAway]);
        let few_or_many = prop_oneof![9 => vec(status(), 0..4), 1 => vec(status(), 9..20)];
        (reason, few_or_many, any::<bool>()).prop_map(|(reason, statuses, headers)| RateLimited {
            reason,
            statuses,
            headers,
        })
    }

    fn made(domain: &str, limited: &RateLimited) -> RateLimitResponse {
        RateLimitResponse {
            overall_code: code(!limited.reason.allows()).into(),
            statuses: limited.statuses.iter().map(descriptor_status).collect(),
            response_headers_to_add: if limited.headers { headers(limited) } else { Vec::new() },
            request_headers_to_add: Vec::new(),
            raw_body: Vec::new(),
            dynamic_metadata: limited.over_quota().map(|over| metadata(domain, &over)),
        }
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

    fn seconds(after: Micros) -> i64 {
        i64::try_from(after.as_secs_ceil()).unwrap_or(i64::MAX)
    }

    fn headers(limited: &RateLimited) -> Vec<HeaderValue> {
        let Some((status, shown)) = limited.closest().and_then(|status| Some((status, status.shown()?))) else {
            return Vec::new();
        };
        let header = |key: &str, value: i64| HeaderValue {
            key: key.to_owned(),
            value: value.to_string(),
            raw_value: Vec::new(),
        };
        let left = if status.over { 0 } else { status.remaining.min(u32::MAX.into()) };
        let mut headers = vec![
            header("RateLimit-Limit", shown.requests_per_unit.into()),
            header("RateLimit-Remaining", i64::try_from(left).unwrap_or(i64::MAX)),
        ];
        headers.extend(status.reset_after.map(|after| header("RateLimit-Reset", seconds(after))));
        headers
    }

    proptest! {
        /// Else an Envoy would read something else, or nothing.
        #[test]
        fn bytes_are_those_of_the_message(domain in ".{1,9}", limited in limited()) {
            let bytes = response(&domain, &limited);
            prop_assert_eq!(bytes.bytes(), made(&domain, &limited).encode_to_vec());
        }
    }
}
