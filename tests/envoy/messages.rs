//! Messages that no Envoy sends: whatever they are, there is an answer, and none lets a request go on by mistake.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tollgate::proto::envoy::config::core::v3::address::Address as Place;
use tollgate::proto::envoy::config::core::v3::{Address, HeaderMap, HeaderValue, SocketAddress};
use tollgate::proto::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use tollgate::proto::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use tollgate::proto::envoy::service::auth::v3::check_response::HttpResponse;
use tollgate::proto::envoy::service::auth::v3::{AttributeContext, CheckRequest, CheckResponse};

use crate::support::server::Tollgate;

const RULES: &str = "
rules: [{ name: open, match: { path: /open/** }, permit: anyone }]
limits: { some: { units: 1000000, window: 1h, by: [source.address] } }
gateways: { trusted_hops: 1, forwarded_certificates: true }
";

/// Texts that mean something somewhere, and any others.
fn text() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "",
        "GET",
        "/open/a",
        "/open/%2e",
        "api.example",
        "a,b",
        "https",
        "ftp",
        "127.0.0.1",
        "Bearer x",
        "some=2",
        "tollgate.limits",
        "tollgate.units",
        "tollgate.scopes",
        "tollgate.",
        "authorization",
        "dpop",
        ":path",
        "host",
        "content-length",
        "18446744073709551616",
        "x-forwarded-for",
        "x-forwarded-client-cert",
        "content-type",
        "application/grpc",
        "x-envoy-auth-partial-body",
        "false",
        "X-Upper",
        "-----BEGIN CERTIFICATE-----",
        "%zz",
    ]);
    prop_oneof![3 => known.prop_map(str::to_owned), 1 => ".{0,12}"]
}

fn value() -> impl Strategy<Value = HeaderValue> {
    let bytes = prop_oneof![text().prop_map(String::into_bytes), prop::collection::vec(any::<u8>(), 0..8)];
    (text(), text(), bytes).prop_map(|(key, value, raw_value)| HeaderValue { key, value, raw_value })
}

fn http() -> impl Strategy<Value = HttpRequest> {
    let map = prop::option::of(prop::collection::vec(value(), 0..6).prop_map(|headers| HeaderMap { headers }));
    let headers = prop::collection::btree_map(text(), text(), 0..6);
    let bytes = prop::collection::vec(any::<u8>(), 0..8);
    let path = prop_oneof![Just("/open/a".to_owned()), text()];
    let method = prop_oneof![Just("GET".to_owned()), text()];
    (method, path, text(), text(), map, headers, any::<i64>(), text(), bytes).prop_map(
        |(method, path, host, scheme, header_map, headers, size, body, raw_body)| HttpRequest {
            method,
            path,
            host,
            scheme,
            header_map,
            headers,
            size,
            body,
            raw_body,
            ..HttpRequest::default()
        },
    )
}

/// Some have nothing odd but a header.
fn question() -> impl Strategy<Value = CheckRequest> {
    let plain = value().prop_map(|HeaderValue { value, .. }| {
        let (method, path) = ("GET".to_owned(), "/open/a".to_owned());
        let http =
            HttpRequest { method, path, headers: [("x-any".to_owned(), value)].into(), ..HttpRequest::default() };
        asked(Some(http))
    });
    prop_oneof![1 => plain, 4 => odd()]
}

fn asked(http: Option<HttpRequest>) -> CheckRequest {
    let request = Some(Request { http });
    CheckRequest { attributes: Some(AttributeContext { request, ..AttributeContext::default() }) }
}

fn odd() -> impl Strategy<Value = CheckRequest> {
    let extensions = prop::collection::btree_map(text(), text(), 0..4);
    let peer = (text(), text()).prop_map(|(address, certificate)| {
        let socket = SocketAddress { address, port_specifier: None };
        let address = Some(Address { address: Some(Place::SocketAddress(socket)) });
        Peer { address, certificate, ..Peer::default() }
    });
    (prop::option::of(http()), extensions, prop::option::of(peer)).prop_map(|(http, context_extensions, source)| {
        let request = Some(Request { http });
        CheckRequest {
            attributes: Some(AttributeContext { request, context_extensions, source, ..AttributeContext::default() }),
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn any_message_has_an_answer() {
    let tollgate = Tollgate::start(RULES).await;
    let client = AuthorizationClient::new(tollgate.channel().await);
    let runtime = tokio::runtime::Handle::current();
    let mut runner = TestRunner::new(Config { cases: 2_000, failure_persistence: None, ..Config::default() });
    tokio::task::block_in_place(|| {
        let ran = runner.run(&question(), |question| {
            let path = question
                .attributes
                .as_ref()
                .and_then(|attributes| attributes.request.as_ref()?.http.as_ref())
                .map(|http| http.path.clone());
            let answer = runtime
                .block_on(client.clone().check(question))
                .map_err(|status| TestCaseError::fail(format!("{status:?}")))?;
            let CheckResponse { status, http_response, dynamic_metadata: _ } = answer.into_inner();
            let code = status.map(|status| status.code);
            match http_response {
                Some(HttpResponse::OkResponse(_)) => {
                    prop_assert_eq!(code, Some(0));
                    prop_assert!(path.is_some_and(|path| path.contains("/open")), "only that is open");
                }
                Some(HttpResponse::DeniedResponse(denied)) => {
                    prop_assert_ne!(code, Some(0));
                    prop_assert!(denied.status.is_some_and(|status| (400..=599).contains(&status.code)));
                }
                None => prop_assert!(false, "no answer"),
            }
            Ok(())
        });
        ran.unwrap();
    });
    // There were some of each kind, or the messages are not what they are meant to be.
    let allowed = "tollgate_decisions_total{facade=\"ext_authz\",outcome=\"allow\",reason=\"allowed\",rule=\"open\"}";
    for series in ["tollgate_questions_malformed_total{facade=\"ext_authz\"}", allowed] {
        assert!(tollgate.metric(series).await > 0.0, "{series}");
    }
}

#[tokio::test]
async fn a_message_with_nothing_in_it_says_what_is_needed() {
    let tollgate = Tollgate::start(RULES).await;
    let mut client = AuthorizationClient::new(tollgate.channel().await);
    let many = (0..600).map(|at| HeaderValue { key: format!("x-{at}"), ..HeaderValue::default() }).collect();
    let http = HttpRequest {
        method: "GET".to_owned(),
        path: "/open".to_owned(),
        header_map: Some(HeaderMap { headers: many }),
        ..HttpRequest::default()
    };
    for (question, says) in [
        (CheckRequest::default(), "request is needed"),
        (asked(None), "request is needed"),
        (asked(Some(http)), "request.headers has 600 entries"),
    ] {
        let CheckResponse { status, http_response, .. } = client.check(question).await.unwrap().into_inner();
        let status = status.unwrap();
        assert_eq!(status.code, i32::from(tonic::Code::InvalidArgument));
        assert!(status.message.contains(says), "{}", status.message);
        let Some(HttpResponse::DeniedResponse(denied)) = http_response else { panic!("{http_response:?}") };
        assert_eq!(denied.status.unwrap().code, 400);
    }
    let malformed = tollgate.metric("tollgate_questions_malformed_total{facade=\"ext_authz\"}").await;
    assert!((malformed - 3.0).abs() < 0.5, "{malformed}");
}
