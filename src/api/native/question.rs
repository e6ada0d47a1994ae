//! Wire messages to questions. Everything that is wrong with a message is found in one reading.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::IpAddr;

use crate::decide::{CounterCharge, Undecidable, Violation};
use crate::domain::limit::UNITS_MAX;
use crate::domain::path::{Host, Method, Target};
use crate::domain::question::{Credential, ExtraCharge, Mode, Question};
use crate::proto as pb;

/// The most limits that one question may name, and the most charges of one `Consume`.
pub(super) const CHARGES_MAX: usize = 16;

/// The most attributes of the thing that is accessed.
const ATTRIBUTES_MAX: usize = 64;

/// The longest attribute value, in bytes.
const ATTRIBUTE_BYTES_MAX: usize = 4 * 1024;

/// What is wrong with a message, found one by one.
#[derive(Debug, Default)]
pub(super) struct Violations(Vec<Violation>);

impl Violations {
    /// Notes that `field` is wrong.
    pub(super) fn push(&mut self, field: impl Into<String>, description: impl Display) {
        self.0.push(Violation { field: field.into(), description: description.to_string() });
    }

    /// The value, or a note that `field` is wrong.
    fn keep<T, E: Display>(&mut self, field: &str, read: Result<T, E>) -> Option<T> {
        read.map_err(|why| self.push(field, why)).ok()
    }

    /// Everything that is wrong.
    pub(super) fn into_undecidable(self) -> Undecidable {
        Undecidable { violations: self.0 }
    }

    /// `value`, if nothing is wrong.
    pub(super) fn or<T>(self, value: Option<T>) -> Result<T, Undecidable> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(self.into_undecidable()),
        }
    }
}

/// Reads a question.
pub(super) fn question(wire: &pb::DecideRequest) -> Result<Question<'_>, Undecidable> {
    let pb::DecideRequest { credential, request, resource, limits, units, mode, explain } = wire;
    let mut violations = Violations::default();
    let units = violations.keep("units", units_of(*units));
    let mode = violations.keep("mode", mode_of(*mode));
    let extra = extra_charges(limits, &mut violations);
    if resource.len() > ATTRIBUTES_MAX {
        violations.push("resource", format!("has {} entries; at most {ATTRIBUTES_MAX} are read", resource.len()));
    }
    for (name, value) in resource {
        if name.is_empty() || value.len() > ATTRIBUTE_BYTES_MAX || name.len() > ATTRIBUTE_BYTES_MAX {
            let shown: String = name.chars().take(64).flat_map(char::escape_default).collect();
            violations.push(
                format!("resource[\"{shown}\"]"),
                format!("must have a name, and name and value at most {ATTRIBUTE_BYTES_MAX} bytes"),
            );
        }
    }
    if request.is_none() {
        violations.push("request", "is needed: the call that asks for passage");
    }
    let request = request.as_ref().and_then(|request| request_of(request, &mut violations));
    let (Some((method, host, target, source)), Some(units), Some(mode)) = (request, units, mode) else {
        return Err(violations.into_undecidable());
    };
    violations.or(Some(Question {
        credential: credential_of(credential.as_ref()),
        method,
        host,
        target,
        source,
        resource: resource.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
        extra,
        units,
        mode,
        explain: *explain,
    }))
}

type Request<'a> = (Method<'a>, Option<Host<'a>>, Target<'a>, Option<IpAddr>);

fn request_of<'a>(wire: &'a pb::RequestAttributes, violations: &mut Violations) -> Option<Request<'a>> {
    let pb::RequestAttributes { method, path, host, source_address } = wire;
    let method = violations.keep("request.method", Method::parse(method));
    let host = match host.as_str() {
        "" => Some(None),
        host => violations.keep("request.host", Host::parse(host)).map(Some),
    };
    let source = match source_address.as_str() {
        "" => Some(None),
        address => violations.keep("request.source_address", address_of(address)).map(Some),
    };
    // How the path is read depends on the method and the host.
    let (method, host) = (method?, host?);
    let target = violations.keep("request.path", Target::parse(path, method, host.as_ref()))?;
    Some((method, host, target, source?))
}

/// An IPv4 address that came mapped into IPv6 is the same client.
fn address_of(text: &str) -> Result<IpAddr, &'static str> {
    text.parse::<IpAddr>()
        .map(|address| address.to_canonical())
        .map_err(|_| "must be an IP address such as 192.0.2.7 or 2001:db8::7, without port")
}

fn credential_of(wire: Option<&pb::Credential>) -> Credential<'_> {
    use pb::credential::Kind;
    match wire.and_then(|credential| credential.kind.as_ref()) {
        None => Credential::None,
        Some(Kind::BearerToken(token)) => Credential::Bearer(token),
        Some(Kind::Authorization(value)) => Credential::from_authorization(value),
    }
}

fn extra_charges<'a>(wire: &'a [pb::LimitCharge], violations: &mut Violations) -> Vec<ExtraCharge<'a>> {
    if wire.len() > CHARGES_MAX {
        violations.push("limits", format!("has {} entries; at most {CHARGES_MAX} are read", wire.len()));
        return Vec::new();
    }
    let mut charges: Vec<ExtraCharge<'a>> = Vec::with_capacity(wire.len());
    for (index, pb::LimitCharge { limit, units }) in wire.iter().enumerate() {
        if charges.iter().any(|charge| charge.limit == limit) {
            violations.push(format!("limits[{index}].limit"), "is named twice; add its units up");
        }
        match units_of(*units) {
            Ok(units) => charges.push(ExtraCharge { limit, units }),
            Err(why) => violations.push(format!("limits[{index}].units"), why),
        }
    }
    charges
}

fn mode_of(wire: i32) -> Result<Mode, &'static str> {
    match pb::QuotaMode::try_from(wire) {
        Ok(pb::QuotaMode::Unspecified | pb::QuotaMode::Consume) => Ok(Mode::Consume),
        Ok(pb::QuotaMode::Peek) => Ok(Mode::Peek),
        Err(_) => Err("must be QUOTA_MODE_CONSUME (1) or QUOTA_MODE_PEEK (2)"),
    }
}

/// Unset is 1; 0 is not, because whoever computes a cost of 0 and is charged 1 would never find out.
fn units_of(wire: Option<u64>) -> Result<u64, String> {
    match wire {
        None => Ok(1),
        Some(units @ 1..=UNITS_MAX) => Ok(units),
        Some(_) => Err(format!("must be from 1 to {UNITS_MAX}; leave it unset for 1")),
    }
}

/// Reads the charges of `Consume` and `Peek`.
pub(super) fn counter_charges(wire: &[pb::QuotaCharge]) -> Result<Vec<CounterCharge<'_>>, Undecidable> {
    let mut violations = Violations::default();
    if wire.is_empty() || wire.len() > CHARGES_MAX {
        violations.push("charges", format!("must have from 1 to {CHARGES_MAX} entries; it has {}", wire.len()));
        return Err(violations.into_undecidable());
    }
    let mut charges = Vec::with_capacity(wire.len());
    let mut seen = BTreeSet::new();
    for (index, pb::QuotaCharge { counter, units }) in wire.iter().enumerate() {
        let prefix = format!("charges[{index}]");
        let units = violations.keep(&format!("{prefix}.units"), units_of(*units));
        let Some(counter) = counter else {
            violations.push(format!("{prefix}.counter"), "is needed");
            continue;
        };
        if !seen.insert((&counter.limit, &counter.key)) {
            violations.push(format!("{prefix}.counter"), "is named twice; add its units up");
        }
        charges.extend(units.map(|units| CounterCharge { limit: &counter.limit, key: &counter.key, units }));
    }
    violations.or(Some(charges))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    fn good() -> pb::DecideRequest {
        pb::DecideRequest {
            request: Some(pb::RequestAttributes {
                method: "GET".to_owned(),
                path: "/orders/1".to_owned(),
                ..pb::RequestAttributes::default()
            }),
            ..pb::DecideRequest::default()
        }
    }

    fn fields(wire: &pb::DecideRequest) -> Vec<String> {
        let mut fields = match question(wire) {
            Ok(_) => Vec::new(),
            Err(Undecidable { violations }) => violations.into_iter().map(|violation| violation.field).collect(),
        };
        fields.sort();
        fields
    }

    #[test]
    fn an_empty_question_says_what_is_needed() {
        assert_eq!(fields(&pb::DecideRequest::default()), ["request"]);
        let request = Some(pb::RequestAttributes::default());
        assert_eq!(fields(&pb::DecideRequest { request, ..good() }), ["request.method"]);
    }

    #[test]
    fn everything_that_is_wrong_is_named_at_once() {
        let charge = |limit: &str, units| pb::LimitCharge { limit: limit.to_owned(), units };
        let wire = pb::DecideRequest {
            request: Some(pb::RequestAttributes {
                method: "GET".to_owned(),
                path: "/a/../b".to_owned(),
                host: "a,b".to_owned(),
                source_address: "10.0.0.1:80".to_owned(),
            }),
            resource: [(String::new(), "x".to_owned()), ("big".to_owned(), "x".repeat(5000))].into(),
            limits: vec![charge("a", None), charge("a", Some(1)), charge("b", Some(u64::MAX))],
            units: Some(0),
            mode: 7,
            ..good()
        };
        assert_eq!(
            fields(&wire),
            [
                "limits[1].limit",
                "limits[2].units",
                "mode",
                "request.host",
                "request.source_address",
                "resource[\"\"]",
                "resource[\"big\"]",
                "units"
            ]
        );
        let request = Some(pb::RequestAttributes { path: "/a/../b".to_owned(), ..good().request.unwrap() });
        assert_eq!(fields(&pb::DecideRequest { request, ..good() }), ["request.path"]);
        let limits = vec![charge("a", None); 17];
        assert_eq!(fields(&pb::DecideRequest { limits, ..good() }), ["limits"]);
    }

    #[test]
    fn a_mapped_address_is_the_same_client() {
        assert_eq!(address_of("::ffff:192.0.2.7"), Ok("192.0.2.7".parse().unwrap()));
    }

    #[test]
    fn a_counter_is_charged_once() {
        let charge = |units| pb::QuotaCharge { counter: Some(pb::Counter::default()), units };
        assert_eq!(counter_charges(&[]).unwrap_err().violations[0].field, "charges");
        assert_eq!(counter_charges(&vec![charge(None); 17]).unwrap_err().violations[0].field, "charges");
        let violations = counter_charges(&[charge(None), charge(Some(0)), pb::QuotaCharge::default()]).unwrap_err();
        let fields: Vec<_> = violations.violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["charges[1].units", "charges[1].counter", "charges[2].counter"]);
    }

    proptest! {
        /// Whatever arrives, it is read or refused.
        #[test]
        fn any_bytes_have_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(wire) = pb::DecideRequest::decode(bytes.as_slice()) {
                let _ = question(&wire);
            }
        }

        #[test]
        fn any_strings_have_an_answer(method in ".{0,40}", path in ".{0,80}", host in ".{0,40}", source in ".{0,40}") {
            let request = Some(pb::RequestAttributes { method, path, host, source_address: source });
            let _ = question(&pb::DecideRequest { request, ..good() });
        }
    }
}
