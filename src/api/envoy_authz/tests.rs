//! What an Envoy can say of a request, and what is read of it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use prost::Message as _;

use super::question::{Fields, in_words_of_routes, question};
use crate::decide::{Undecidable, Violation};
use crate::domain::gateway::Gateways;
use crate::domain::question::{Credential, ExtraCharge, Header};
use crate::proto::envoy::config::core::v3::{HeaderMap, HeaderValue};
use crate::proto::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use crate::proto::envoy::service::auth::v3::{AttributeContext, CheckRequest};

fn http(method: &str) -> HttpRequest {
    HttpRequest { method: method.to_owned(), path: "/a?b".to_owned(), ..HttpRequest::default() }
}

fn asked(http: HttpRequest, context_extensions: &[(&str, &str)]) -> CheckRequest {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let attributes = AttributeContext {
        request: Some(Request { http: Some(http) }),
        context_extensions: context_extensions.iter().map(owned).collect(),
        ..AttributeContext::default()
    };
    CheckRequest { attributes: Some(attributes) }
}

fn map(headers: &[(&str, &str)]) -> BTreeMap<String, String> {
    headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn raw(headers: &[(&str, &[u8])]) -> HeaderMap {
    let value = |(key, raw): &(&str, &[u8])| HeaderValue {
        key: (*key).to_owned(),
        value: String::new(),
        raw_value: raw.to_vec(),
    };
    HeaderMap { headers: headers.iter().map(value).collect() }
}

/// The fields that are wrong.
fn wrong(wire: &CheckRequest) -> Vec<String> {
    match question(wire, &Fields::of(wire), &Gateways::default()) {
        Ok(_) => Vec::new(),
        Err(Undecidable { violations }) => violations.into_iter().map(|violation| violation.field).collect(),
    }
}

#[test]
fn several_headers_of_a_name_are_one_and_credentials_are_none() {
    let headers = [
        (":path", &b"/a?b"[..]),
        ("x-tenant", b"a"),
        ("X-Tenant", b"b"),
        ("x-raw", b"caf\xe9"),
        ("x-half", b"fine"),
        ("x-half", b"\x01"),
        ("authorization", b"Bearer a"),
        ("authorization", b"Bearer a"),
        ("dpop", b"p"),
    ];
    let wire =
        asked(HttpRequest { header_map: Some(raw(&headers)), headers: map(&[("x-other", "1")]), ..http("GET") }, &[]);
    let fields = Fields::of(&wire);
    let question = question(&wire, &fields, &Gateways::default()).unwrap();
    assert_eq!(question.headers.get("x-tenant"), Header::Text("a,b"));
    assert_eq!(question.headers.get("x-raw"), Header::Unreadable);
    assert_eq!(question.headers.get("x-half"), Header::Unreadable);
    for absent in ["authorization", "dpop", ":path", "x-other"] {
        assert_eq!(question.headers.get(absent), Header::Absent, "{absent}");
    }
    assert_eq!(question.credential, Credential::Unreadable);
    assert_eq!(question.proofs.dpop, ["p"]);
    assert!(!format!("{question:?}").contains("Bearer a"));
}

#[test]
fn what_is_said_twice_must_be_the_same() {
    let with = |headers: &[(&str, &[u8])]| {
        wrong(&asked(HttpRequest { host: "a".to_owned(), header_map: Some(raw(headers)), ..http("GET") }, &[]))
    };
    assert_eq!(with(&[(":path", b"/a?b"), (":authority", b"a"), (":method", b"GET"), ("host", b"a")]), [""; 0]);
    // Envoy has put `!` for a byte that is no UTF-8.
    assert_eq!(with(&[(":path", b"/a?\xff")]), ["request.path"]);
    assert_eq!(with(&[(":authority", b"b")]), ["request.host"]);
    assert_eq!(with(&[("host", b"b")]), ["request.host"]);
    assert_eq!(with(&[("host", b"a"), ("host", b"a")]), ["request.host"]);
    assert_eq!(with(&[("a b", b"")]), ["request.headers[\"a b\"]"]);
}

#[test]
fn the_body_is_as_large_as_the_largest_that_is_said() {
    let size = |method: &str, headers: &[(&str, &str)], size: i64, body: &[u8]| {
        let http = HttpRequest { headers: map(headers), size, raw_body: body.to_vec(), ..http(method) };
        let wire = asked(http, &[]);
        question(&wire, &Fields::of(&wire), &Gateways::default()).map(|question| question.body)
    };
    let partial = |value| [("x-envoy-auth-partial-body", value)];
    assert_eq!(size("GET", &[], 0, b""), Ok(Some(0)));
    assert_eq!(size("POST", &[], 0, b""), Ok(None));
    assert_eq!(size("POST", &[], -1, b""), Ok(None));
    assert_eq!(size("POST", &[("content-length", "7")], 0, b""), Ok(Some(7)));
    assert_eq!(size("POST", &[("content-length", "7")], 9, b"12345678"), Ok(Some(9)));
    assert_eq!(size("POST", &[("content-length", "2")], 0, b"12345678"), Ok(Some(8)));
    assert_eq!(size("GET", &partial("false"), 5, b"hello"), Ok(Some(5)));
    for unknown in [&partial("true")[..], &partial("false,true"), &[]] {
        assert_eq!(size("GET", unknown, 5, b"hello"), Ok(None), "{unknown:?}");
    }
    // Envoy hands on no body, so nobody says how large it is.
    assert_eq!(size("POST", &partial("false"), 0, b""), Ok(None));
    assert_eq!(size("POST", &partial("false"), 5, b""), Ok(None));
    for odd in ["", "+1", "1, 1", "-1", "1e3", "18446744073709551616"] {
        assert!(size("POST", &[("content-length", odd)], 0, b"").is_err(), "{odd}");
    }
}

#[test]
fn a_route_says_what_it_demands_and_what_is_accessed() {
    let said = [
        ("tollgate.scopes", "a b"),
        ("tollgate.limits", "per-client=2, spikes,slots = 1"),
        ("tollgate.units", "3"),
        ("owner", "ann"),
    ];
    let wire = asked(http("GET"), &said);
    assert_eq!(wrong(&wire), ["context_extensions[\"tollgate.limits\"]"]);
    let wire = asked(http("GET"), &[said[0], ("tollgate.limits", "per-client=2, spikes"), said[2], said[3]]);
    let fields = Fields::of(&wire);
    let question = question(&wire, &fields, &Gateways::default()).unwrap();
    assert_eq!(question.scopes, ["a", "b"]);
    let extra = |limit, units| ExtraCharge { limit, units };
    assert_eq!(question.extra, [extra("per-client", 2), extra("spikes", 1)]);
    assert_eq!((question.units, &question.resource[..]), (3, &[("owner", "ann")][..]));
}

#[test]
fn whatever_a_route_says_wrongly_is_named() {
    for (name, values) in [
        ("tollgate.scopes", &["", " ", "a  b", " a", "a\"b", "a\tb", "ä"][..]),
        ("tollgate.limits", &["", ",", "a,", "a,a", "a=", "a=0", "a=+1", "a=x", "A", "a=1000000000001", "=1"]),
        ("tollgate.units", &["", "0", "-1", "+1", "1.5", " 1", "1000000000001", "99999999999999999999"]),
        ("tollgate.", &["x"]),
        ("tollgate.scope", &["a"]),
        ("", &["x"]),
    ] {
        for value in values {
            let field = format!("context_extensions[\"{name}\"]");
            assert_eq!(wrong(&asked(http("GET"), &[(name, value)])), [field], "{name}: {value:?}");
        }
    }
    let many: Vec<String> = (0..65).map(|at| format!("a{at}")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "")).collect();
    assert_eq!(wrong(&asked(http("GET"), &many)), ["context_extensions"]);
    let limits: Vec<String> = (0..17).map(|at| format!("a{at}")).collect();
    assert_eq!(wrong(&asked(http("GET"), &[("tollgate.limits", &limits.join(","))])).len(), 1);
}

#[test]
fn what_is_wrong_with_a_routes_words_is_said_in_them() {
    let violation = |field: &str| Violation { field: field.to_owned(), description: String::new() };
    let violations = ["limits[3].limit", "resource[\"owner\"]", "request.path"].map(violation).to_vec();
    let Undecidable { violations } = in_words_of_routes(Undecidable { violations });
    let fields: Vec<&str> = violations.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["context_extensions[\"tollgate.limits\"]", "context_extensions[\"owner\"]", "request.path"]);
}

#[test]
fn a_header_for_the_certificate_is_believed_only_where_the_configuration_says_so() {
    let header = map(&[("x-forwarded-client-cert", "nonsense")]);
    let wire = asked(HttpRequest { headers: header, ..http("GET") }, &[]);
    let fields = Fields::of(&wire);
    assert_eq!(question(&wire, &fields, &Gateways::default()).unwrap().proofs.certificate, None);
    let trusted = Gateways { forwarded_certificates: true, ..Gateways::default() };
    let Err(Undecidable { violations }) = question(&wire, &fields, &trusted) else { panic!("it was read") };
    assert_eq!(violations[0].field, "request.headers[\"x-forwarded-client-cert\"]");
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        if let Ok(wire) = CheckRequest::decode(&*bytes) {
            let _ = question(&wire, &Fields::of(&wire), &Gateways::default());
        }
    }
}
