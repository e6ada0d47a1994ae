//! `/forward-auth`: gateways that ask by a request of their own, and tell of the call in its headers (nginx's `auth_request`,
//! Traefik's `ForwardAuth`, Caddy's `forward_auth`).
//!
//! Anybody could write such headers. So they count only where the connection is from a gateway that the configuration
//! lists, and each of them once: where a caller wrote one beside the gateway's, neither is the one that counts.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, HOST, HeaderName, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode};
use axum::response::Response;
use url::form_urlencoded;

use super::{Deciding, undecided, written};
use crate::api::http_answer::{PROBLEM, Refusal, told_anyway};
use crate::api::{Peer, native, route};
use crate::decide::{Undecidable, Violation};
use crate::domain::decision::Decision;
use crate::domain::gateway::Gateways;
use crate::domain::identity_headers::RESERVATION;
use crate::domain::policy::Policy;
use crate::domain::question::{ExtraCharge, Header};
use crate::proto as pb;
use crate::telemetry::Facade;

/// A header that tells of the call, and another name by which gateways know it.
struct Told(&'static str, Option<&'static str>);

/// nginx's guides write the aliases; the others are Traefik's and Caddy's own.
const METHOD: Told = Told("x-forwarded-method", Some("x-original-method"));
const URI: Told = Told("x-forwarded-uri", Some("x-original-uri"));
const HOST_NAME: Told = Told("x-forwarded-host", None);
const SCHEME: Told = Told("x-forwarded-proto", None);
const ADDRESSES: Told = Told("x-forwarded-for", None);
const CERTIFICATE: Told = Told("x-forwarded-client-cert", None);

/// Gateways ask without the body, so that `content-length` says nothing of it.
const LENGTH: Told = Told("x-original-content-length", None);

/// That the body comes in chunks and has no length; and the same of the request by which a gateway hands it on.
const ENCODING: Told = Told("x-original-transfer-encoding", Some("transfer-encoding"));

/// The status that is meant, where every refusal has the same.
const STATUS: &str = "x-tollgate-status";

const DPOP: HeaderName = HeaderName::from_static("dpop");

/// Headers that are of the gateway's own request and not of the call, and those that are credentials.
const NOT_OF_THE_CALL: [HeaderName; 11] = [
    AUTHORIZATION,
    CONNECTION,
    CONTENT_LENGTH,
    DPOP,
    HOST,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

pub(super) async fn forward_auth(State(deciding): State<Arc<Deciding>>, request: Request<Body>) -> Response {
    let Deciding { decider, .. } = &*deciding;
    let policy = decider.policy();
    let address = request.extensions().get::<Peer>().and_then(Peer::address);
    if !address.is_some_and(|address| policy.gateways.may_forward(address)) {
        decider.turned_away(Facade::ForwardAuth);
        let detail = "gateways.forward_auth_peers does not name the network that this request comes from, so what it tells \
                      of a call is not believed";
        return undecided(StatusCode::FORBIDDEN, detail);
    }
    let (way, asked) = read(request.headers(), request.uri().query(), &policy.gateways);
    let read = match &asked {
        Ok(wire) => unforged(request.headers(), &policy).and_then(|()| native::question(wire)),
        Err(undecidable) => Err(undecidable.clone()),
    };
    let question = match read {
        Ok(question) => question,
        Err(undecidable) => {
            decider.turned_away(Facade::ForwardAuth);
            return refused(Refusal::malformed(&undecidable), way);
        }
    };
    match decider.decide(&question, Facade::ForwardAuth).get().await {
        Ok(decision) if decision.reason.allows() => allowed(&decision),
        Ok(decision) => refused(Refusal::of(&decision, &question), way),
        Err(undecidable) => refused(Refusal::malformed(&undecidable), way),
    }
}

/// The call may go on. Headers for the service are all there, some of them empty: gateways put them in the place of what
/// the caller wrote under their names.
fn allowed(decision: &Decision) -> Response {
    let mut fields: Vec<(&str, String)> = told_anyway(decision).collect();
    let mut known: BTreeMap<&str, String> = decision.identity_headers().collect();
    let names = decision.policy.identity_headers.iter().map(|header| &*header.name);
    fields.extend(names.map(|name| (name, known.remove(name).unwrap_or_default())));
    fields.push((RESERVATION, decision.held.as_deref().map(native::reservation::written).unwrap_or_default()));
    fields.push((CACHE_CONTROL.as_str(), "no-store".to_owned()));
    written(StatusCode::OK, fields, None, String::new())
}

fn refused(Refusal { mut status, mut fields, body, .. }: Refusal, way: Way) -> Response {
    if way.refuses_with_403 && status != StatusCode::UNAUTHORIZED {
        fields.push((STATUS, status.as_str().to_owned()));
        status = StatusCode::FORBIDDEN;
    }
    written(status, fields, Some(PROBLEM), body)
}

/// How a gateway wants to be answered, as its own configuration says in the query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Way {
    /// `refuse=403`: every refusal but 401 has this status, and [`STATUS`] says which one is meant. nginx knows no others.
    refuses_with_403: bool,
}

/// The question that a gateway asks with these headers and this query, or everything that is wrong with them.
fn read(
    headers: &HeaderMap,
    query: Option<&str>,
    gateways: &Gateways,
) -> (Way, Result<pb::DecideRequest, Undecidable>) {
    let mut reading = Reading { headers, violations: Vec::new() };
    let mut wire = pb::DecideRequest::default();
    let way = reading.query(query.unwrap_or_default(), &mut wire);
    wire.credential = Some(reading.credential(gateways));
    let mut call = of_the_call(headers);
    let encoding = reading.told(&ENCODING);
    let body_bytes = reading.length().filter(|_| encoding.is_none());
    call.extend(encoding.map(|encoding| (TRANSFER_ENCODING.as_str().to_owned(), encoding.to_owned())));
    wire.request = Some(pb::RequestAttributes {
        method: reading.needed(&METHOD),
        path: reading.needed(&URI),
        host: reading.needed(&HOST_NAME),
        source_address: reading.source(gateways),
        scheme: reading.scheme(),
        headers: call,
        body_bytes,
    });
    let violations = reading.violations;
    (way, if violations.is_empty() { Ok(wire) } else { Err(Undecidable { violations }) })
}

/// Headers as they are read, and what is wrong with them.
struct Reading<'a> {
    headers: &'a HeaderMap,
    violations: Vec<Violation>,
}

impl<'a> Reading<'a> {
    fn wrong(&mut self, field: &str, description: impl Into<String>) {
        self.violations.push(Violation { field: field.to_owned(), description: description.into() });
    }

    /// What is told in a header, if anything is. An empty one tells nothing: some gateways write it where there is nothing.
    fn told(&mut self, Told(name, alias): &Told) -> Option<&'a str> {
        let told = self.one(name);
        let other = alias.and_then(|alias| self.one(alias));
        match (told, other, alias) {
            (Some(told), Some(other), Some(alias)) if told != other => {
                self.wrong(
                    name,
                    format!("says something else than {alias}; let the gateway write one, and remove the other"),
                );
                None
            }
            _ => told.or(other),
        }
    }

    /// The value of a header that is there once.
    fn one(&mut self, name: &str) -> Option<&'a str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next()?;
        if values.next().is_some() {
            self.wrong(name, "is there twice; let the gateway replace what callers write");
            return None;
        }
        // Bytes beyond ASCII are no part of a request's head that has one reading.
        let Ok(text) = value.to_str() else {
            self.wrong(name, "has bytes that are no visible ASCII");
            return None;
        };
        Some(text).filter(|text| !text.is_empty())
    }

    fn needed(&mut self, told: &Told) -> String {
        let before = self.violations.len();
        let text = self.told(told);
        if text.is_none() && self.violations.len() == before {
            self.wrong(told.0, "is needed: the gateway tells of the call in it");
        }
        text.unwrap_or_default().to_owned()
    }

    /// Traefik writes `ws` and `wss` where a call asks for a `WebSocket`.
    fn scheme(&mut self) -> String {
        let scheme = match self.told(&SCHEME) {
            Some("ws") => "http",
            Some("wss") => "https",
            Some(scheme) => scheme,
            None => "",
        };
        scheme.to_owned()
    }

    /// The size of the call's body in bytes, as far as it is told.
    fn length(&mut self) -> Option<u64> {
        let Some(text) = self.told(&LENGTH) else { return self.own_length() };
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let bytes = text.parse().ok().filter(|_| digits);
        if bytes.is_none() {
            self.wrong(LENGTH.0, "must be a number of bytes");
        }
        bytes
    }

    /// The size of the body that came with the request, where one came: a gateway may hand it on.
    fn own_length(&self) -> Option<u64> {
        let own = self.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()?;
        (own > 0).then_some(own)
    }

    /// Where the call comes from, as far as it is told: the gateway wrote the last address, and proxies of one's own before it
    /// those before that.
    fn source(&mut self, gateways: &Gateways) -> String {
        let Some(addresses) = self.told(&ADDRESSES) else { return String::new() };
        let told = Gateways { trusted_hops: gateways.trusted_hops.max(1), ..gateways.clone() };
        match told.source(None, Header::Text(addresses)) {
            Ok(source) => source.map(|address| address.to_string()).unwrap_or_default(),
            Err(must) => {
                self.wrong(ADDRESSES.0, must);
                String::new()
            }
        }
    }

    fn credential(&mut self, gateways: &Gateways) -> pb::Credential {
        use pb::client_certificate::Kind;
        let certificate = if gateways.forwarded_certificates { self.told(&CERTIFICATE) } else { None };
        let shown = |value: &str| pb::ClientCertificate { kind: Some(Kind::Forwarded(value.to_owned())) };
        if self.headers.get_all(AUTHORIZATION).iter().nth(1).is_some() {
            self.wrong(AUTHORIZATION.as_str(), "is there twice, and nobody can say which one the service behind reads");
        }
        pb::Credential {
            kind: joined(self.headers, &AUTHORIZATION).map(pb::credential::Kind::Authorization),
            dpop_proofs: self.headers.get_all(&DPOP).iter().map(|value| text(value).into_owned()).collect(),
            client_certificate: certificate.map(shown),
        }
    }

    /// What a route demands besides the rule, and how it wants to be answered.
    fn query(&mut self, query: &str, wire: &mut pb::DecideRequest) -> Way {
        let mut way = Way::default();
        let mut seen = BTreeSet::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let field = format!("query.{}", name.chars().take(64).flat_map(char::escape_default).collect::<String>());
            if !seen.insert(name.clone()) {
                self.wrong(&field, "is there twice");
                continue;
            }
            let read = match (&*name, name.strip_prefix("resource.")) {
                ("scopes", _) => route::scopes(&value).map(|scopes| {
                    wire.scopes = scopes.into_iter().map(str::to_owned).collect();
                }),
                ("limits", _) => route::limits(&value).map(|limits| {
                    wire.limits = limits.into_iter().map(charge).collect();
                }),
                ("units", _) => route::units(&value).map(|units| wire.units = Some(units)),
                ("refuse", _) if value == "403" => {
                    way.refuses_with_403 = true;
                    Ok(())
                }
                ("refuse", _) => Err("must be 403".to_owned()),
                (_, Some(attribute)) => {
                    wire.resource.insert(attribute.to_owned(), value.into_owned());
                    Ok(())
                }
                _ => Err("is not known; known here: scopes, limits, units, resource.NAME, refuse".to_owned()),
            };
            if let Err(must) = read {
                self.wrong(&field, must);
            }
        }
        way
    }
}

fn charge(ExtraCharge { limit, units }: ExtraCharge<'_>) -> pb::LimitCharge {
    pb::LimitCharge { limit: limit.to_owned(), units: Some(units) }
}

/// Gateways replace what callers write under the names of our headers, but not what some services take for the same.
fn unforged(headers: &HeaderMap, policy: &Policy) -> Result<(), Undecidable> {
    let forged = headers.keys().map(HeaderName::as_str).filter(|name| policy.is_taken_for_reserved(name));
    let description = "is taken by some services for a header that tells who calls; let the gateway remove it";
    let violation = |name: &str| Violation { field: name.to_owned(), description: description.to_owned() };
    let violations: Vec<Violation> = forged.map(violation).collect();
    if violations.is_empty() { Ok(()) } else { Err(Undecidable { violations }) }
}

/// The call's own headers: gateways copy them to the request by which they ask.
fn of_the_call(headers: &HeaderMap) -> BTreeMap<String, String> {
    let names = headers.keys().filter(|name| !NOT_OF_THE_CALL.contains(name));
    names.filter_map(|name| Some((name.as_str().to_owned(), joined(headers, name)?))).collect()
}

/// Several values of a header are one, joined by commas (RFC 9110 §5.3).
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let mut values = headers.get_all(name).iter().map(text);
    let first = values.next()?.into_owned();
    Some(values.fold(first, |all, value| all + "," + &value))
}

/// A value as text. Bytes beyond ASCII become characters beyond it, by which it is known for unreadable.
fn text(value: &HeaderValue) -> Cow<'_, str> {
    match value.to_str() {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => value.as_bytes().iter().map(|&byte| char::from(byte)).collect(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use axum::http::HeaderMap;
    use proptest::prelude::*;

    use super::*;

    /// What Traefik and Caddy tell of a call.
    const CALL: [(&str, &str); 5] = [
        ("x-forwarded-method", "PUT"),
        ("x-forwarded-uri", "/orders/1?x=y"),
        ("x-forwarded-host", "api.example.com:8443"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-for", "203.0.113.9, 192.0.2.7"),
    ];

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |&(name, value): &(&str, &str)| {
            (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        // Not collected: the last of two would be the only one.
        pairs.iter().map(pair).fold(HeaderMap::new(), |mut headers, (name, value)| {
            headers.append(name, value);
            headers
        })
    }

    /// A call with some of its headers in place of others, and more behind them.
    fn call(instead: &[(&str, &str)]) -> HeaderMap {
        let kept = CALL.iter().filter(|(name, _)| instead.iter().all(|(other, _)| name != other));
        let pairs: Vec<_> = kept.chain(instead).copied().collect();
        headers(&pairs)
    }

    fn asked(headers: &HeaderMap, query: &str) -> Result<pb::DecideRequest, Vec<String>> {
        let (_, asked) = read(headers, Some(query), &Gateways::default());
        asked.map_err(|undecidable| undecidable.violations.into_iter().map(|violation| violation.field).collect())
    }

    fn request(instead: &[(&str, &str)]) -> Result<pb::RequestAttributes, Vec<String>> {
        asked(&call(instead), "").map(|wire| wire.request.unwrap())
    }

    #[test]
    fn the_call_is_what_the_gateway_tells_of_it_and_not_its_own_request() {
        let own = [("host", "tollgate:8080"), ("content-length", "0"), ("connection", "keep-alive")];
        let told = request(&[&own[..], &[("origin", "https://a"), ("x-a", "1"), ("x-a", "2")]].concat()).unwrap();
        assert_eq!((told.method.as_str(), told.path.as_str()), ("PUT", "/orders/1?x=y"));
        assert_eq!((told.host.as_str(), told.scheme.as_str()), ("api.example.com:8443", "https"));
        assert_eq!((told.source_address.as_str(), told.body_bytes), ("192.0.2.7", None));
        assert_eq!(told.headers["origin"], "https://a");
        assert_eq!(told.headers["x-a"], "1,2");
        for (name, _) in own {
            assert!(!told.headers.contains_key(name), "{name}");
        }
        let nginx = [("x-original-method", "PUT"), ("x-original-uri", "/orders/1?x=y")];
        let bare = [("x-forwarded-method", ""), ("x-forwarded-uri", "")];
        let told = request(&[nginx, bare].concat()).unwrap();
        assert_eq!((told.method.as_str(), told.path.as_str()), ("PUT", "/orders/1?x=y"));
        assert!(request(&nginx).is_ok(), "the same under both names");
        for (proto, scheme) in [("http", "http"), ("ws", "http"), ("wss", "https"), ("", "")] {
            assert_eq!(request(&[("x-forwarded-proto", proto)]).unwrap().scheme, scheme);
        }
    }

    #[test]
    fn what_is_told_twice_or_otherwise_or_not_at_all_is_named() {
        let wrong = |instead: &[(&str, &str)]| request(instead).unwrap_err().join(" ");
        for name in ["x-forwarded-method", "x-forwarded-uri", "x-forwarded-host"] {
            assert_eq!(wrong(&[(name, "")]), name);
            assert_eq!(wrong(&[(name, "A"), (name, "A")]), name);
            assert_eq!(wrong(&[(name, "\u{fc}")]), name);
        }
        assert_eq!(
            asked(&HeaderMap::new(), ""),
            Err(["method", "uri", "host"].map(|part| format!("x-forwarded-{part}")).into())
        );
        assert_eq!(wrong(&[("x-original-uri", "/public")]), "x-forwarded-uri");
        assert_eq!(wrong(&[("x-original-method", "GET")]), "x-forwarded-method");
        assert_eq!(wrong(&[("x-original-uri", "/a"), ("x-original-uri", "/a")]), "x-original-uri");
        assert_eq!(wrong(&[("x-forwarded-for", "192.0.2.7"), ("x-forwarded-for", "192.0.2.7")]), "x-forwarded-for");
        assert_eq!(wrong(&[("x-forwarded-for", "unknown")]), "x-forwarded-for");
        assert_eq!(wrong(&[("x-original-content-length", "+5")]), "x-original-content-length");
        assert_eq!(wrong(&[("authorization", "Bearer a"), ("authorization", "Bearer b")]), "authorization");
        // These are others' ways to say it, and whoever sends them is the caller.
        for name in ["x-original-url", "x-rewrite-url", "x-envoy-original-path", "x-envoy-original-method"] {
            assert_eq!(request(&[(name, "/public")]).unwrap().path, "/orders/1?x=y");
        }
    }

    #[test]
    fn the_address_is_the_last_that_no_proxy_of_ones_own_has() {
        let source = |trusted_hops, addresses| {
            let gateways = Gateways { trusted_hops, ..Gateways::default() };
            let (_, asked) = read(&call(&[("x-forwarded-for", addresses)]), None, &gateways);
            asked.unwrap().request.unwrap().source_address
        };
        let forged = "203.0.113.9, 192.0.2.7, 10.0.0.1";
        assert_eq!(source(0, forged), "10.0.0.1");
        assert_eq!(source(1, forged), "10.0.0.1");
        assert_eq!(source(2, forged), "192.0.2.7");
        assert_eq!(source(2, "10.0.0.1"), "");
        assert_eq!(source(0, ""), "");
    }

    #[test]
    fn the_size_of_the_body_is_the_calls_own() {
        let size = |instead: &[(&str, &str)]| request(instead).unwrap().body_bytes;
        assert_eq!(size(&[("x-original-content-length", "70"), ("content-length", "5")]), Some(70));
        assert_eq!(size(&[("x-original-content-length", ""), ("content-length", "0")]), None);
        assert_eq!(size(&[("x-original-content-length", "0")]), Some(0));
        assert_eq!(size(&[("content-length", "5")]), Some(5));
        // What is sent in chunks has no size beforehand, whatever else is said, though its method mostly goes without a body.
        let delete = ("x-forwarded-method", "DELETE");
        let body = |more: &[(&str, &str)]| {
            let wire = asked(&call(&[&[delete], more].concat()), "").unwrap();
            native::question(&wire).unwrap().body
        };
        assert_eq!(body(&[]), Some(0));
        for chunked in ["x-original-transfer-encoding", "transfer-encoding"] {
            assert_eq!(body(&[(chunked, "chunked")]), None, "{chunked}");
            assert_eq!(body(&[(chunked, "chunked"), ("x-original-content-length", "5")]), None, "{chunked}");
        }
        assert_eq!(body(&[("x-original-transfer-encoding", "")]), Some(0));
    }

    #[test]
    fn credentials_are_no_headers_and_certificates_are_believed_only_where_that_is_said() {
        let shown =
            call(&[("authorization", "DPoP t"), ("dpop", "p"), ("dpop", "q"), ("x-forwarded-client-cert", "Hash=1")]);
        let credential = |forwarded_certificates| {
            let gateways = Gateways { forwarded_certificates, ..Gateways::default() };
            let wire = read(&shown, None, &gateways).1.unwrap();
            let headers = wire.request.unwrap().headers;
            assert!(!headers.contains_key("authorization") && !headers.contains_key("dpop"));
            wire.credential.unwrap()
        };
        let read = credential(false);
        assert_eq!(read.kind, Some(pb::credential::Kind::Authorization("DPoP t".to_owned())));
        assert_eq!(read.dpop_proofs, ["p", "q"]);
        assert_eq!(read.client_certificate, None);
        let kind = pb::client_certificate::Kind::Forwarded("Hash=1".to_owned());
        assert_eq!(credential(true).client_certificate, Some(pb::ClientCertificate { kind: Some(kind) }));
    }

    #[test]
    fn a_route_demands_more_in_the_query() {
        let query = "scopes=a+b%3Ac&limits=per-client%3D2,+spikes&units=3&resource.owner=ann&refuse=403";
        let (way, asked) = read(&call(&[]), Some(query), &Gateways::default());
        assert_eq!(way, Way { refuses_with_403: true });
        let wire = asked.unwrap();
        assert_eq!((&wire.scopes[..], wire.units), (&["a".to_owned(), "b:c".to_owned()][..], Some(3)));
        let charge = |limit: &str, units| pb::LimitCharge { limit: limit.to_owned(), units: Some(units) };
        assert_eq!(wire.limits, [charge("per-client", 2), charge("spikes", 1)]);
        assert_eq!(wire.resource, [("owner".to_owned(), "ann".to_owned())].into());
        for (query, field) in [
            ("scope=a", "query.scope"),
            ("scopes=a&scopes=a", "query.scopes"),
            ("limits=a%3Dx", "query.limits"),
            ("limits=a%3D", "query.limits"),
            ("limits=a,a", "query.limits"),
            ("scopes=", "query.scopes"),
            ("units=-1", "query.units"),
            ("units=99999999999999999999", "query.units"),
            ("refuse=429", "query.refuse"),
            ("x%00", "query.x\\u{0}"),
        ] {
            let (_, asked) = read(&call(&[]), Some(query), &Gateways::default());
            assert_eq!(asked.unwrap_err().violations[0].field, field, "{query}");
        }
    }

    proptest! {
        /// Whatever arrives, it is read or refused.
        #[test]
        fn any_headers_and_query_have_an_answer(
            values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..12),
            query in ".{0,60}",
        ) {
            let names = ["x-forwarded-method", "x-forwarded-uri", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-for",
                "authorization", "dpop", "x-forwarded-client-cert", "x-original-content-length", "x-original-uri", "origin"];
            let mut headers = call(&[]);
            for (name, value) in names.into_iter().cycle().zip(&values) {
                if let Ok(value) = HeaderValue::from_bytes(value) {
                    headers.insert(name, value);
                }
            }
            let gateways = Gateways { forwarded_certificates: true, ..Gateways::default() };
            if let Ok(wire) = read(&headers, Some(&query), &gateways).1 {
                let _ = native::question(&wire);
            }
        }
    }
}
