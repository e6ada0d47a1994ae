//! Wire messages to questions. Everything that is wrong with a message is found in one reading.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::IpAddr;

use super::asked::{Asked, Call};
use super::reservation::{self, Reservation};
use crate::decide::{CounterCharge, Undecidable, Violation};
use crate::domain::certificate::{Certificate, Unreadable};
use crate::domain::decision::HeldCounter;
use crate::domain::guard::announced_body;
use crate::domain::limit::{HOLD_MAX, HOLD_MIN, UNITS_MAX};
use crate::domain::path::{Host, Method, Target};
use crate::domain::question::{
    ExtraCharge, HEADER_BYTES_MAX, Headers, Mode, Pairs, Proofs, Question, is_header_name, is_header_text, is_scope,
};
use crate::domain::time::Micros;
use crate::domain::window::LeaseId;
use crate::proto as pb;

/// The most limits that one question may name, and the most charges of one `Consume`.
pub(in crate::api) const CHARGES_MAX: usize = 16;

/// The most attributes of the thing that is accessed.
pub(in crate::api) const ATTRIBUTES_MAX: usize = 64;

/// The longest attribute value, in bytes.
pub(in crate::api) const ATTRIBUTE_BYTES_MAX: usize = 4 * 1024;

/// The most scopes that one question may demand.
pub(in crate::api) const SCOPES_MAX: usize = 64;

/// The most headers of the call.
const HEADERS_MAX: usize = 128;

/// How long a reservation lasts when nothing is said: long enough for most answers of a language model.
const HOLD_DEFAULT: Micros = Micros::from_secs(60);

/// What is wrong with a message, found one by one.
#[derive(Clone, Debug, Default)]
pub(in crate::api) struct Violations(Vec<Violation>);

impl Violations {
    /// Notes that `field` is wrong.
    pub(in crate::api) fn push(&mut self, field: impl Into<String>, description: impl Display) {
        self.0.push(Violation { field: field.into(), description: description.to_string() });
    }

    /// The value, or a note that `field` is wrong.
    pub(in crate::api) fn keep<T, E: Display>(&mut self, field: &str, read: Result<T, E>) -> Option<T> {
        read.map_err(|why| self.push(field, why)).ok()
    }

    /// Everything that is wrong.
    pub(in crate::api) fn into_undecidable(self) -> Undecidable {
        Undecidable { violations: self.0 }
    }

    /// `value`, if nothing is wrong.
    pub(in crate::api) fn or<T>(self, value: Option<T>) -> Result<T, Undecidable> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(self.into_undecidable()),
        }
    }
}

/// Reads a question.
pub(in crate::api) fn question<'a>(asked: impl Into<Asked<'a>>) -> Result<Question<'a>, Undecidable> {
    let Asked { credential, proofs, request, resource, limits, units, mode, explain, scopes } = asked.into();
    let mut violations = Violations::default();
    let mode = violations.keep("mode", mode_of(mode));
    let consumes = mode != Some(Mode::Peek);
    let units = violations.keep("units", units_of(units, consumes));
    let extra = extra_charges(&limits, consumes, &mut violations);
    if resource.len() > ATTRIBUTES_MAX {
        violations.push("resource", format!("has {} entries; at most {ATTRIBUTES_MAX} are read", resource.len()));
    }
    for (name, value) in &resource {
        if name.is_empty() || value.len() > ATTRIBUTE_BYTES_MAX || name.len() > ATTRIBUTE_BYTES_MAX {
            violations.push(
                format!("resource[\"{}\"]", shown(name)),
                format!("must have a name, and name and value at most {ATTRIBUTE_BYTES_MAX} bytes"),
            );
        }
    }
    check_scopes(&scopes, &mut violations);
    let proofs = proofs_of(proofs, &mut violations);
    if request.is_none() {
        violations.push("request", "is needed: the call that asks for passage");
    }
    let request = request.and_then(|request| request_of(request, &mut violations));
    let (Some(request), Some(units), Some(mode)) = (request, units, mode) else {
        return Err(violations.into_undecidable());
    };
    let Request { method, host, target, source, plain_http, headers, body } = request;
    violations.or(Some(Question {
        credential,
        proofs: Proofs { plain_http, ..proofs },
        method,
        host,
        target,
        source,
        headers,
        body,
        scopes,
        resource,
        extra,
        units,
        mode,
        explain,
    }))
}

/// What is read of the call that asks for passage.
struct Request<'a> {
    method: Method<'a>,
    host: Option<Host<'a>>,
    target: Target<'a>,
    source: Option<IpAddr>,
    plain_http: bool,
    headers: Headers<'a>,
    body: Option<u64>,
}

fn request_of<'a>(call: Call<'a>, violations: &mut Violations) -> Option<Request<'a>> {
    let Call { method, path, host, source_address, scheme, headers, body_bytes } = call;
    let plain_http = violations.keep("request.scheme", is_plain_http(scheme));
    let method = violations.keep("request.method", Method::parse(method));
    let host = match host {
        "" => Some(None),
        host => violations.keep("request.host", Host::parse(host)).map(Some),
    };
    let source = match source_address {
        "" => Some(None),
        address => violations.keep("request.source_address", address_of(address)).map(Some),
    };
    let headers = headers_of(headers, violations);
    // How the path is read depends on the method and the host.
    let (method, host) = (method?, host?);
    let target = violations.keep("request.path", Target::parse(path, method, host.as_ref()))?;
    let body = body_bytes.or_else(|| announced_body(method, &headers));
    Some(Request { method, host, target, source: source?, plain_http: plain_http?, headers, body })
}

fn headers_of<'a>(wire: Pairs<'a>, violations: &mut Violations) -> Headers<'a> {
    if wire.len() > HEADERS_MAX {
        violations.push("request.headers", format!("has {} entries; at most {HEADERS_MAX} are read", wire.len()));
    }
    for (name, value) in &wire {
        if !is_header_name(name) || value.len() > HEADER_BYTES_MAX {
            violations.push(
                format!("request.headers[\"{}\"]", shown(name)),
                format!("must have a header's name in lower case, and name and value at most {HEADER_BYTES_MAX} bytes"),
            );
        }
    }
    let text = |value: &'a str| Some(value).filter(|value| is_header_text(value.as_bytes()));
    Headers::new(wire.into_iter().map(|(name, value)| (name, text(value))).collect())
}

fn check_scopes(wire: &[&str], violations: &mut Violations) {
    if wire.len() > SCOPES_MAX {
        violations.push("scopes", format!("has {} entries; at most {SCOPES_MAX} are read", wire.len()));
    }
    for (index, _) in wire.iter().enumerate().filter(|(_, scope)| !is_scope(scope)).take(SCOPES_MAX) {
        violations.push(
            format!("scopes[{index}]"),
            "must be one scope: 1 to 256 printable ASCII characters without space, `\"` and `\\`",
        );
    }
}

/// The name of an entry, as a message can show it.
pub(in crate::api) fn shown(name: &str) -> String {
    name.chars().take(64).flat_map(char::escape_default).collect()
}

/// An IPv4 address that came mapped into IPv6 is the same client.
pub(in crate::api) fn address_of(text: &str) -> Result<IpAddr, &'static str> {
    text.parse::<IpAddr>()
        .map(|address| address.to_canonical())
        .map_err(|_| "must be an IP address such as 192.0.2.7 or 2001:db8::7, without port")
}

fn proofs_of<'a>(wire: Option<&'a pb::Credential>, violations: &mut Violations) -> Proofs<'a> {
    let dpop = wire.iter().flat_map(|credential| &credential.dpop_proofs).map(String::as_str).collect();
    let shown = wire.and_then(|credential| credential.client_certificate.as_ref());
    let certificate = shown.and_then(|shown| violations.keep("credential.client_certificate", certificate_of(shown)));
    Proofs { certificate, dpop, plain_http: false }
}

/// The caller's certificate, in whichever form; one without any is a slip.
fn certificate_of(wire: &pb::ClientCertificate) -> Result<Certificate<'static>, Unreadable> {
    use pb::client_certificate::Kind;
    match &wire.kind {
        None => Err(Unreadable::ABSENT),
        Some(Kind::Der(der)) => Certificate::from_der(der),
        Some(Kind::Pem(text)) => Certificate::from_pem(text),
        Some(Kind::ClientCert(value)) => Certificate::from_client_cert(value),
        Some(Kind::Forwarded(value)) => Certificate::from_forwarded(value),
    }
}

pub(in crate::api) fn is_plain_http(scheme: &str) -> Result<bool, &'static str> {
    match scheme {
        "" | "https" => Ok(false),
        "http" => Ok(true),
        _ => Err("must be https or http"),
    }
}

fn extra_charges<'a>(
    wire: &[(&'a str, Option<u64>)],
    consumes: bool,
    violations: &mut Violations,
) -> Vec<ExtraCharge<'a>> {
    if wire.len() > CHARGES_MAX {
        violations.push("limits", format!("has {} entries; at most {CHARGES_MAX} are read", wire.len()));
        return Vec::new();
    }
    let mut charges: Vec<ExtraCharge<'a>> = Vec::with_capacity(wire.len());
    for (index, &(limit, units)) in wire.iter().enumerate() {
        if charges.iter().any(|charge| charge.limit == limit) {
            violations.push(format!("limits[{index}].limit"), "is named twice; add its units up");
        }
        match units_of(units, consumes) {
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

/// Unset is 1; 0 is not, because whoever computes a cost of 0 and is charged 1 would never find out. Who only looks may
/// ask for 0.
pub(in crate::api) fn units_of(wire: Option<u64>, consumes: bool) -> Result<u64, String> {
    match wire {
        None => Ok(1),
        Some(units @ 1..=UNITS_MAX) => Ok(units),
        Some(0) if !consumes => Ok(0),
        Some(0) => Err(format!("must be from 1 to {UNITS_MAX}; 0 is for peeking only, and unset stands for 1")),
        Some(_) => Err(format!("must be from 1 to {UNITS_MAX}; leave it unset for 1")),
    }
}

/// Reads the charges of `Consume`, `Refund` and, where nothing is consumed, `Peek`.
pub(super) fn counter_charges(wire: &[pb::QuotaCharge], mode: Mode) -> Result<Vec<CounterCharge<'_>>, Undecidable> {
    let mut violations = Violations::default();
    let charges = charges_of(wire, mode == Mode::Consume, &mut violations);
    violations.or(Some(charges))
}

/// Reads what is to be reserved, and for how long at most.
pub(super) fn estimate(wire: &pb::ReserveRequest) -> Result<(Vec<CounterCharge<'_>>, Micros), Undecidable> {
    let pb::ReserveRequest { charges, hold } = wire;
    let mut violations = Violations::default();
    let charges = charges_of(charges, true, &mut violations);
    let hold = violations.keep("hold", hold_of(hold.as_ref()));
    violations.or(hold.map(|hold| (charges, hold)))
}

/// Reads what is to be settled: under which name, and how much was used of each counter.
pub(super) fn settlement(wire: &pb::SettleRequest) -> Result<(LeaseId, Vec<(HeldCounter, u64)>), Undecidable> {
    let pb::SettleRequest { reservation, used } = wire;
    let mut violations = Violations::default();
    for (index, _) in used.iter().enumerate().filter(|(_, units)| **units > UNITS_MAX).take(CHARGES_MAX) {
        violations.push(format!("used[{index}]"), format!("must be from 0 to {UNITS_MAX}"));
    }
    let read = violations.keep("reservation", reservation::read(reservation));
    let settled = read.and_then(|Reservation { lease, counters }| {
        let (numbers, charges) = (used.len(), counters.len());
        if numbers > 1 && numbers != charges {
            violations.push("used", format!("must have one entry, or one for each of {charges}; it has {numbers}"));
            return None;
        }
        let all = used.first().copied().unwrap_or(0);
        let each = |(index, counter)| (counter, used.get(index).copied().unwrap_or(all));
        Some((lease, counters.into_iter().enumerate().map(each).collect()))
    });
    violations.or(settled)
}

fn hold_of(wire: Option<&prost_types::Duration>) -> Result<Micros, String> {
    let Some(wire) = wire else { return Ok(HOLD_DEFAULT) };
    // Not by `TryFrom`, which overflows on the least number of seconds.
    let hold = match (u64::try_from(wire.seconds), u64::try_from(wire.nanos)) {
        (Ok(seconds), Ok(nanos)) => Some(Micros::from_secs(seconds) + Micros(nanos / 1_000)),
        _ => None,
    };
    hold.filter(|hold| (HOLD_MIN..=HOLD_MAX).contains(hold))
        .ok_or_else(|| format!("must be from {HOLD_MIN} to {HOLD_MAX}; leave it unset for {HOLD_DEFAULT}"))
}

fn charges_of<'a>(wire: &'a [pb::QuotaCharge], consumes: bool, violations: &mut Violations) -> Vec<CounterCharge<'a>> {
    if wire.is_empty() || wire.len() > CHARGES_MAX {
        violations.push("charges", format!("must have from 1 to {CHARGES_MAX} entries; it has {}", wire.len()));
        return Vec::new();
    }
    let mut charges = Vec::with_capacity(wire.len());
    let mut seen = BTreeSet::new();
    for (index, pb::QuotaCharge { counter, units }) in wire.iter().enumerate() {
        let prefix = format!("charges[{index}]");
        let units = violations.keep(&format!("{prefix}.units"), units_of(*units, consumes));
        let Some(counter) = counter else {
            violations.push(format!("{prefix}.counter"), "is needed");
            continue;
        };
        if !seen.insert((&counter.limit, &counter.key)) {
            violations.push(format!("{prefix}.counter"), "is named twice; add its units up");
        }
        charges.extend(units.map(|units| CounterCharge { limit: &counter.limit, key: &counter.key, units }));
    }
    charges
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::domain::decision::Held;
    use crate::domain::limit::{CounterKey, Kind};
    use crate::domain::question::Header;

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
                scheme: "ftp".to_owned(),
                ..pb::RequestAttributes::default()
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
                "request.scheme",
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
        let read = |charges: &[pb::QuotaCharge]| {
            let Undecidable { violations } = counter_charges(charges, Mode::Consume).unwrap_err();
            violations.into_iter().map(|violation| violation.field).collect::<Vec<_>>()
        };
        let charge = |units| pb::QuotaCharge { counter: Some(pb::Counter::default()), units };
        assert_eq!(read(&[]), ["charges"]);
        assert_eq!(read(&vec![charge(None); 17]), ["charges"]);
        assert_eq!(
            read(&[charge(None), charge(Some(0)), pb::QuotaCharge::default()]),
            ["charges[1].units", "charges[1].counter", "charges[2].counter"]
        );
    }

    #[test]
    fn headers_are_bounded_and_what_is_no_text_is_known_to_be_none() {
        let with = |headers: &[(&str, &str)]| {
            let headers = headers.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
            let request = Some(pb::RequestAttributes { headers, ..good().request.unwrap() });
            pb::DecideRequest { request, ..good() }
        };
        let long = "x".repeat(HEADER_BYTES_MAX + 1);
        let wire = with(&[
            ("x-tenant", "a, b"),
            ("x-tab", "a\tb"),
            ("x-empty", ""),
            ("x-obs-text", "\u{e9}"),
            ("x-control", "a\r\nb"),
            ("x-nul", "\0"),
            ("x-del", "\u{7f}"),
        ]);
        let headers = question(&wire).unwrap().headers;
        for (name, value) in [("x-tenant", "a, b"), ("x-tab", "a\tb"), ("x-empty", "")] {
            assert_eq!(headers.get(name), Header::Text(value));
        }
        for name in ["x-obs-text", "x-control", "x-nul", "x-del"] {
            assert_eq!(headers.get(name), Header::Unreadable, "{name}");
        }
        assert_eq!(headers.get("x-other"), Header::Absent);
        for name in ["", "X-Tenant", "x tenant", "x:tenant", ":authority", "\u{e9}", &long] {
            let shown = shown(name);
            assert_eq!(fields(&with(&[(name, "a")])), [format!("request.headers[\"{shown}\"]")], "{shown}");
        }
        assert_eq!(fields(&with(&[("x-long", &long)])), ["request.headers[\"x-long\"]"]);
        assert_eq!(fields(&with(&[("x-long", &long[1..])])), [""; 0]);
        let many: Vec<String> = (0..=HEADERS_MAX).map(|number| format!("x-{number}")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "")).collect();
        assert_eq!(fields(&with(&many)), ["request.headers"]);
        assert_eq!(fields(&with(&many[1..])), [""; 0]);
    }

    #[test]
    fn a_body_has_the_size_that_is_given_else_what_the_headers_announce() {
        let body = |method: &str, headers: &[(&str, &str)], body_bytes| {
            let headers = headers.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
            let method = method.to_owned();
            let request = Some(pb::RequestAttributes { method, headers, body_bytes, ..good().request.unwrap() });
            question(&pb::DecideRequest { request, ..good() }).unwrap().body
        };
        assert_eq!(body("POST", &[("content-length", "5")], Some(7)), Some(7));
        assert_eq!(body("POST", &[("transfer-encoding", "chunked")], Some(0)), Some(0));
        assert_eq!(body("POST", &[("content-length", "5")], None), Some(5));
        assert_eq!(body("POST", &[], None), None);
        assert_eq!(body("GET", &[], None), Some(0));
        assert_eq!(body("GET", &[("transfer-encoding", "chunked")], None), None);
    }

    #[test]
    fn scopes_are_words_and_few() {
        let with = |scopes: Vec<String>| pb::DecideRequest { scopes, ..good() };
        let scopes = |number: usize| (0..number).map(|number| format!("s:{number}")).collect::<Vec<_>>();
        assert_eq!(question(&with(scopes(SCOPES_MAX))).unwrap().scopes.len(), SCOPES_MAX);
        assert_eq!(fields(&with(scopes(SCOPES_MAX + 1))), ["scopes"]);
        let odd = ["a", "", "a b", "\"", "a\\", "\u{e9}"].map(str::to_owned).to_vec();
        assert_eq!(fields(&with(odd)), ["scopes[1]", "scopes[2]", "scopes[3]", "scopes[4]", "scopes[5]"]);
        let endless = vec![" ".to_owned(); 100_000];
        assert_eq!(fields(&with(endless)).len(), SCOPES_MAX + 1);
    }

    #[test]
    fn no_units_are_for_those_who_only_look() {
        assert_eq!(units_of(Some(0), false), Ok(0));
        assert!(units_of(Some(0), true).unwrap_err().contains("peeking only"));
        for consumes in [true, false] {
            assert_eq!(units_of(None, consumes), Ok(1));
            assert_eq!(units_of(Some(UNITS_MAX), consumes), Ok(UNITS_MAX));
            assert!(units_of(Some(UNITS_MAX + 1), consumes).is_err());
        }
        let peek = pb::DecideRequest { units: Some(0), mode: pb::QuotaMode::Peek.into(), ..good() };
        assert_eq!(question(&peek).unwrap().units, 0);
    }

    #[test]
    fn a_reservation_lasts_for_a_moment_to_an_hour() {
        let hold = |seconds, nanos| hold_of(Some(&prost_types::Duration { seconds, nanos }));
        assert_eq!(hold_of(None), Ok(HOLD_DEFAULT));
        assert_eq!(hold(0, 100_000_000), Ok(HOLD_MIN));
        assert_eq!(hold(1, 500_000_000), Ok(Micros::from_millis(1_500)));
        assert_eq!(hold(3_600, 0), Ok(HOLD_MAX));
        for (seconds, nanos) in [(0, 0), (0, 99_999_999), (-1, 0), (0, -1), (3_600, 1_000), (i64::MAX, i32::MAX)] {
            assert!(hold(seconds, nanos).is_err(), "{seconds} {nanos}");
        }
        assert!(hold(i64::MIN, i32::MIN).unwrap_err().contains("100ms to 3600s"));
    }

    #[test]
    fn what_was_used_is_said_for_each_counter_for_all_or_not_at_all() {
        let held = |name| HeldCounter { key: CounterKey::new(name), kind: Kind::SlidingWindow };
        let counters = vec![held("a"), held("b"), held("c")];
        let lease = LeaseId { replica: 1, serial: 2 };
        let held = Held { lease, counters, expires_after: HOLD_MIN };
        let wire = |used: &[u64]| pb::SettleRequest { reservation: reservation::written(&held), used: used.to_vec() };
        let used = |numbers: &[u64]| {
            let read = settlement(&wire(numbers)).map_err(|undecidable| undecidable.violations[0].field.clone());
            read.map(|(_, used)| used.into_iter().map(|(_, units)| units).collect::<Vec<_>>())
        };
        assert_eq!(used(&[]), Ok(vec![0, 0, 0]));
        assert_eq!(used(&[5]), Ok(vec![5, 5, 5]));
        assert_eq!(used(&[5, 0, UNITS_MAX]), Ok(vec![5, 0, UNITS_MAX]));
        assert_eq!(used(&[5, 0]), Err("used".to_owned()));
        assert_eq!(used(&[5, 0, 1, 2]), Err("used".to_owned()));
        assert_eq!(used(&[5, 0, UNITS_MAX + 1]), Err("used[2]".to_owned()));
        let nothing = settlement(&pb::SettleRequest { reservation: String::new(), used: vec![u64::MAX; 100] });
        assert_eq!(nothing.unwrap_err().violations.len(), CHARGES_MAX + 1);
    }

    proptest! {
        /// Whatever arrives, it is read or refused.
        #[test]
        fn any_bytes_have_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(wire) = pb::DecideRequest::decode(bytes.as_slice()) {
                let _ = question(&wire);
            }
            if let Ok(wire) = pb::ReserveRequest::decode(bytes.as_slice()) {
                let _ = estimate(&wire);
            }
            if let Ok(wire) = pb::SettleRequest::decode(bytes.as_slice()) {
                let _ = settlement(&wire);
            }
        }

        #[test]
        fn any_strings_have_an_answer(
            method in ".{0,40}",
            path in ".{0,80}",
            host in ".{0,40}",
            source in ".{0,40}",
            headers in prop::collection::btree_map(".{0,20}|content-length|transfer-encoding", ".{0,20}", 0..4),
            scopes in prop::collection::vec(".{0,20}", 0..4),
        ) {
            let request = Some(pb::RequestAttributes {
                method,
                path,
                host,
                source_address: source,
                headers,
                ..pb::RequestAttributes::default()
            });
            let _ = question(&pb::DecideRequest { request, scopes, ..good() });
        }
    }
}
