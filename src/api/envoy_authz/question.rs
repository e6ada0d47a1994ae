//! What an Envoy says of a request, to a question.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::api::native::question::{ATTRIBUTE_BYTES_MAX, ATTRIBUTES_MAX, Violations, address_of, is_plain_http, shown};
use crate::api::route::{limits, scopes, units};
use crate::decide::{Undecidable, Violation};
use crate::domain::certificate::Certificate;
use crate::domain::gateway::Gateways;
use crate::domain::guard::announced_body;
use crate::domain::path::{Host, Method, Target};
use crate::domain::question::{
    Credential, ExtraCharge, HEADER_BYTES_MAX, Header, Headers, Mode, Pairs, Proofs, Question, is_header_name,
    is_header_text,
};
use crate::proto::envoy::config::core::v3::address::Address as Place;
use crate::proto::envoy::config::core::v3::{Address, HeaderValue};
use crate::proto::envoy::service::auth::v3::CheckRequest;
use crate::proto::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer};

/// The most headers of a request: an Envoy reads 100 unless it is told otherwise.
const HEADERS_MAX: usize = 512;

/// What a route says to Tollgate begins with this; what else it says are attributes of the thing that is accessed.
const OURS: &str = "tollgate.";

/// Headers that are credentials: rules and logs see nothing of them.
const CREDENTIALS: [&str; 2] = ["authorization", "dpop"];

/// By which Envoy says whether the body that it hands on is a part only. It lets no client's own one through to here.
const PARTIAL_BODY: &str = "x-envoy-auth-partial-body";

/// The headers of a request, each name once and in lower case; a value is none where it is no text.
pub(super) struct Fields<'a> {
    named: Vec<(Cow<'a, str>, Option<Cow<'a, str>>)>,
    violations: Violations,
}

impl<'a> Fields<'a> {
    /// Reads them, from whichever of its two forms Envoy was told to use.
    pub(super) fn of(wire: &'a CheckRequest) -> Self {
        let mut fields = Self { named: Vec::new(), violations: Violations::default() };
        let Some(http) = http_of(wire) else { return fields };
        let HttpRequest { headers, header_map, .. } = http;
        let raw = header_map.as_ref().map_or(&[][..], |map| &map.headers);
        let number = if header_map.is_some() { raw.len() } else { headers.len() };
        if number > HEADERS_MAX {
            fields.violations.push("request.headers", format!("has {number} entries; at most {HEADERS_MAX} are read"));
            return fields;
        }
        fields.named.reserve(number);
        if header_map.is_some() {
            for HeaderValue { key, value, raw_value } in raw {
                fields.take(http, key, if raw_value.is_empty() { value.as_bytes() } else { raw_value });
            }
        } else {
            for (name, value) in headers {
                fields.take(http, name, value.as_bytes());
            }
        }
        fields
    }

    fn take(&mut self, http: &HttpRequest, name: &'a str, value: &'a [u8]) {
        if let Some(pseudo) = name.strip_prefix(':') {
            self.compare(http, pseudo, value);
            return;
        }
        let name = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(name.to_ascii_lowercase())
        } else {
            Cow::Borrowed(name)
        };
        if !is_header_name(&name) || value.len() > HEADER_BYTES_MAX {
            self.violations.push(
                format!("request.headers[\"{}\"]", shown(&name)),
                format!("must have a header's name, and name and value at most {HEADER_BYTES_MAX} bytes"),
            );
            return;
        }
        let text = str::from_utf8(value).ok().filter(|value| is_header_text(value.as_bytes())).map(Cow::Borrowed);
        match self.named.iter_mut().find(|(own, _)| *own == name) {
            None => self.named.push((name, text)),
            // RFC 9110 §5.3, as Envoy writes it in its other form. One that nobody can read leaves the whole unreadable.
            Some((_, joined)) => {
                *joined = joined.take().zip(text).map(|(before, text)| Cow::Owned(format!("{before},{text}")));
            }
        }
    }

    /// The request's own parts come twice. Where they differ, Envoy has put something else for bytes that are no UTF-8.
    fn compare(&mut self, http: &HttpRequest, pseudo: &str, value: &[u8]) {
        let (field, said) = match pseudo {
            "path" => ("request.path", &http.path),
            "authority" => ("request.host", &http.host),
            "method" => ("request.method", &http.method),
            _ => return,
        };
        if said.as_bytes() != value {
            self.violations.push(field, "is said twice, and not the same");
        }
    }

    fn get(&self, name: &str) -> Header<'_> {
        match self.named.iter().find(|(own, _)| own == name) {
            None => Header::Absent,
            Some((_, Some(text))) => Header::Text(text),
            Some((_, None)) => Header::Unreadable,
        }
    }

    /// Whether the client speaks gRPC, by what Envoy goes by.
    pub(super) fn is_grpc(&self) -> bool {
        let Header::Text(content_type) = self.get("content-type") else { return false };
        content_type.strip_prefix("application/grpc").is_some_and(|rest| rest.is_empty() || rest.starts_with('+'))
    }

    /// Those that rules look at.
    fn headers(&self) -> Headers<'_> {
        let open = self.named.iter().filter(|(name, _)| !CREDENTIALS.contains(&&**name));
        let mut headers = Vec::with_capacity(self.named.len());
        headers.extend(open.map(|(name, text)| (&**name, text.as_deref())));
        Headers::new(headers)
    }

    fn credential(&self) -> Credential<'_> {
        match self.get("authorization") {
            Header::Absent => Credential::None,
            // Several of them are no credential, since they are joined by a comma.
            Header::Text(value) => Credential::from_authorization(value),
            Header::Unreadable => Credential::Unreadable,
        }
    }

    /// Several proofs that are joined are none, and neither is one that is no text.
    fn proofs(&self) -> Vec<&str> {
        match self.get("dpop") {
            Header::Absent => Vec::new(),
            Header::Text(proof) => vec![proof],
            Header::Unreadable => vec![""],
        }
    }
}

fn http_of(wire: &CheckRequest) -> Option<&HttpRequest> {
    wire.attributes.as_ref()?.request.as_ref()?.http.as_ref()
}

/// Reads a question. Nothing that an Envoy or a route says is left out silently: what cannot be read is named.
pub(super) fn question<'a>(
    wire: &'a CheckRequest,
    fields: &'a Fields<'a>,
    gateways: &Gateways,
) -> Result<Question<'a>, Undecidable> {
    let mut violations = fields.violations.clone();
    let (Some(attributes), Some(http)) = (wire.attributes.as_ref(), http_of(wire)) else {
        violations.push("request", "is needed: ext_authz is for HTTP requests here");
        return Err(violations.into_undecidable());
    };
    let source = attributes.source.as_ref();
    let certificate = certificate(source, fields, gateways, &mut violations);
    let source = violations.keep("request.source_address", address(source, fields, gateways));
    let plain_http = violations.keep("request.scheme", is_plain_http(&http.scheme));
    let method = violations.keep("request.method", Method::parse(&http.method));
    let host = violations.keep("request.host", host(http, fields));
    let demands = Demands::read(&attributes.context_extensions, &mut violations);
    let (Some(method), Some(host)) = (method, host) else { return Err(violations.into_undecidable()) };
    let target = violations.keep("request.path", Target::parse(&http.path, method, host.as_ref()));
    let headers = fields.headers();
    let body = violations.keep("request.headers[\"content-length\"]", body(http, method, &headers));
    let (Some(target), Some(source), Some(plain_http), Some(body)) = (target, source, plain_http, body) else {
        return Err(violations.into_undecidable());
    };
    let Demands { scopes, limits, units, resource } = demands;
    violations.or(Some(Question {
        credential: fields.credential(),
        proofs: Proofs { certificate, dpop: fields.proofs(), plain_http },
        method,
        host,
        target,
        source,
        headers,
        body,
        resource,
        scopes,
        extra: limits,
        units,
        mode: Mode::Consume,
        explain: false,
    }))
}

/// What Envoy says itself goes before a header, which is believed only where the configuration says so.
fn certificate(
    source: Option<&Peer>,
    fields: &Fields<'_>,
    gateways: &Gateways,
    violations: &mut Violations,
) -> Option<Certificate<'static>> {
    let shown = source.map_or("", |peer| &peer.certificate);
    if !shown.is_empty() {
        return violations.keep("source.certificate", Certificate::from_pem(shown));
    }
    if !gateways.forwarded_certificates {
        return None;
    }
    let field = "request.headers[\"x-forwarded-client-cert\"]";
    match fields.get("x-forwarded-client-cert") {
        Header::Absent => None,
        Header::Text(value) => violations.keep(field, Certificate::from_forwarded(value)),
        Header::Unreadable => {
            violations.push(field, "is no text");
            None
        }
    }
}

/// Where the request comes from. A peer that has no IP address, such as a socket of this machine's, is none.
fn address(source: Option<&Peer>, fields: &Fields<'_>, gateways: &Gateways) -> Result<Option<IpAddr>, &'static str> {
    let place = source.and_then(|peer| peer.address.as_ref()).and_then(|Address { address }| address.as_ref());
    let peer = match place {
        Some(Place::SocketAddress(socket)) if !socket.address.is_empty() => Some(address_of(&socket.address)?),
        Some(Place::SocketAddress(_)) | None => None,
    };
    gateways.source(peer, fields.get("x-forwarded-for"))
}

/// A `Host` beside `:authority` must be the same, or services read another one.
fn host<'a>(http: &'a HttpRequest, fields: &Fields<'_>) -> Result<Option<Host<'a>>, String> {
    match fields.get("host") {
        Header::Text(other) if other != http.host => return Err("is said twice, and not the same".to_owned()),
        Header::Unreadable => return Err("is no text".to_owned()),
        Header::Absent | Header::Text(_) => {}
    }
    match http.host.as_str() {
        "" => Ok(None),
        host => Host::parse(host).map(Some).map_err(|why| why.to_string()),
    }
}

/// The size of the body: the largest that is known. None: nobody can say, since Envoy hands on a part only, or nothing
/// announces it.
fn body(http: &HttpRequest, method: Method<'_>, headers: &Headers<'_>) -> Result<Option<u64>, &'static str> {
    let handed_on = http.body.len().max(http.raw_body.len()) as u64;
    // Envoy counts what has come by now; nothing, where it does not wait for the body.
    let seen = handed_on.max(u64::try_from(http.size).unwrap_or_default());
    match headers.get("content-length") {
        Header::Text(_) => {
            let announced = announced_body(method, headers).ok_or("must be one whole number")?;
            Ok(Some(announced.max(seen)))
        }
        Header::Unreadable => Err("must be one whole number"),
        Header::Absent if seen == 0 => Ok(announced_body(method, headers)),
        Header::Absent => Ok((handed_on > 0 && headers.get(PARTIAL_BODY) == Header::Text("false")).then_some(seen)),
    }
}

/// What a route says of itself: it can demand more than the rule, never less.
struct Demands<'a> {
    scopes: Vec<&'a str>,
    limits: Vec<ExtraCharge<'a>>,
    units: u64,
    resource: Pairs<'a>,
}

impl<'a> Demands<'a> {
    fn read(said: &'a BTreeMap<String, String>, violations: &mut Violations) -> Self {
        let mut demands = Self { scopes: Vec::new(), limits: Vec::new(), units: 1, resource: Vec::new() };
        for (name, value) in said {
            match ours(name) {
                Some("scopes") => demands.scopes = violations.keep(&extension(name), scopes(value)).unwrap_or_default(),
                Some("limits") => demands.limits = violations.keep(&extension(name), limits(value)).unwrap_or_default(),
                Some("units") => demands.units = violations.keep(&extension(name), units(value)).unwrap_or(1),
                Some(_) => violations.push(
                    extension(name),
                    "is not known; known are tollgate.scopes, tollgate.limits and tollgate.units",
                ),
                None if name.is_empty() || name.len().max(value.len()) > ATTRIBUTE_BYTES_MAX => violations.push(
                    extension(name),
                    format!("must have a name, and name and value at most {ATTRIBUTE_BYTES_MAX} bytes"),
                ),
                None => demands.resource.push((name, value)),
            }
        }
        if demands.resource.len() > ATTRIBUTES_MAX {
            let number = demands.resource.len();
            violations.push(
                "context_extensions",
                format!("has {number} entries that are attributes; at most {ATTRIBUTES_MAX} are read"),
            );
        }
        demands
    }
}

/// What is behind the beginning of the names that are for Tollgate. That is known in any case of its letters: a name that is
/// written otherwise than the known ones is to be found out, not to be taken for an attribute.
fn ours(name: &str) -> Option<&str> {
    let (beginning, rest) = name.split_at_checked(OURS.len())?;
    beginning.eq_ignore_ascii_case(OURS).then_some(if beginning == OURS { rest } else { name })
}

fn extension(name: &str) -> String {
    format!("context_extensions[\"{}\"]", shown(name))
}

/// What `decide` finds wrong in a native message's words, in those of whoever configured the route.
pub(super) fn in_words_of_routes(Undecidable { violations }: Undecidable) -> Undecidable {
    let renamed = |Violation { field, description }| {
        let field = if field.starts_with("limits[") {
            extension("tollgate.limits")
        } else if let Some(attribute) = field.strip_prefix("resource[") {
            format!("context_extensions[{attribute}")
        } else {
            field
        };
        Violation { field, description }
    };
    Undecidable { violations: violations.into_iter().map(renamed).collect() }
}
