//! What the benches and the load test ask as an Envoy's filter `ext_authz` does.

use tollgate::proto::envoy::config::core::v3::address::Address as Place;
use tollgate::proto::envoy::config::core::v3::socket_address::PortSpecifier;
use tollgate::proto::envoy::config::core::v3::{Address, HeaderMap, HeaderValue, SocketAddress};
use tollgate::proto::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use tollgate::proto::envoy::service::auth::v3::{AttributeContext, CheckRequest};

/// What an Envoy that hands on headers byte by byte says of a browser's request.
pub(crate) fn question(token: &str) -> CheckRequest {
    let (method, path, host, scheme) = ("GET", "/orders/1", "shop.example.com", "https");
    let id = "7d1c9f0a-4c1b-4f57-8f3f-9c8e1f6f9a20";
    let header = |(key, value): (&str, &str)| HeaderValue {
        key: key.to_owned(),
        raw_value: value.as_bytes().to_vec(),
        ..HeaderValue::default()
    };
    let authorization = format!("Bearer {token}");
    let headers = [
        (":authority", host),
        (":path", path),
        (":method", method),
        (":scheme", scheme),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0"),
        ("accept", "application/json, text/plain, */*"),
        ("accept-language", "en-GB,en;q=0.7,de;q=0.3"),
        ("accept-encoding", "gzip, deflate, br, zstd"),
        ("authorization", &authorization),
        ("cookie", "theme=dark; consent=1; cart=6f1d2b3c4d5e6f708192a3b4c5d6e7f8"),
        ("referer", "https://shop.example.com/account"),
        ("sec-fetch-dest", "empty"),
        ("sec-fetch-mode", "cors"),
        ("sec-fetch-site", "same-origin"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("x-forwarded-for", "192.0.2.7"),
        ("x-forwarded-proto", scheme),
        ("x-request-id", id),
    ];
    let http = HttpRequest {
        id: "1234567890123456789".to_owned(),
        method: method.to_owned(),
        header_map: Some(HeaderMap { headers: headers.map(header).into() }),
        path: path.to_owned(),
        host: host.to_owned(),
        scheme: scheme.to_owned(),
        protocol: "HTTP/2".to_owned(),
        ..HttpRequest::default()
    };
    let peer = |address: &str, port| {
        let port_specifier = Some(PortSpecifier::PortValue(port));
        let socket = SocketAddress { address: address.to_owned(), port_specifier };
        Peer { address: Some(Address { address: Some(Place::SocketAddress(socket)) }), ..Peer::default() }
    };
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(peer("192.0.2.7", 51_762)),
            destination: Some(peer("10.0.3.17", 8_443)),
            request: Some(Request { http: Some(http) }),
            ..AttributeContext::default()
        }),
    }
}
