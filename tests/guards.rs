//! What rules match and demand of the call itself, asked over gRPC.

use tollgate::decide::ports::Clock as _;
use tollgate::proto as pb;
use tollgate::proto::decision_service_client::DecisionServiceClient;
use tollgate::server::dev::DevIssuer;
use tonic::Code;
use tonic::transport::Channel;

use crate::support::calls::{fields, left};
use crate::support::server::{Tollgate, question};

const PAGE: &str = "https://app.example.com";

/// A Tollgate with rules of this kind, a connection to it, and a token with the scope `read`.
struct Bench {
    _tollgate: Tollgate,
    decisions: DecisionServiceClient<Channel>,
    token: String,
}

/// Parts of a call beside method and path.
#[derive(Clone, Copy, Default)]
struct Call<'a> {
    token: Option<&'a str>,
    source: &'a str,
    headers: &'a [(&'a str, &'a str)],
    body_bytes: Option<u64>,
    route: Option<&'a str>,
    scopes: &'a [&'a str],
}

impl Bench {
    async fn start() -> Self {
        let issuer = DevIssuer::new().expect("the system has randomness");
        let key = issuer.public_key();
        let tollgate = Tollgate::start(&format!(
            r"
issuers:
  - issuer: https://dev.tollgate.invalid
    audiences: [demo]
    jwks: {{ keys: [{key}] }}
limits:
  all: {{ units: 3, window: 1h }}
rules:
  - {{ name: acme, match: {{ path: /tenant, headers: {{ x-tenant: [acme, acme-test] }} }}, permit: anyone }}
  - {{ name: any tenant, match: {{ path: /tenant, headers: {{ x-tenant: '*' }} }}, permit: anyone }}
  - {{ name: internal, match: {{ path: /tenant, resource: {{ route: internal }} }}, permit: anyone }}
  - name: inner
    match: {{ path: /inner }}
    permit: anyone
    sources: {{ allow: [10.0.0.0/8, 192.0.2.7], deny: [10.9.0.0/16] }}
  - {{ name: upload, match: {{ path: /upload }}, permit: anyone, max_body: 1KiB }}
  - {{ name: page, match: {{ method: [GET, POST], path: /page }}, limits: [all], origins: ['{PAGE}'] }}
  - {{ name: other options, match: {{ method: OPTIONS, path: /page }}, require: {{ roles: [NOBODY] }} }}
  - {{ name: no page, match: {{ path: /no-page }} }}
  - {{ name: careful, match: {{ path: /careful }}, permit: anyone, on_invalid: refuse }}
  - {{ name: open, match: {{ path: /open }}, permit: anyone }}
  - {{ name: read, match: {{ path: /read }}, require: {{ scopes: [read] }} }}
"
        ))
        .await;
        let token = issuer.token("ann", "read", tollgate.clock.now().wall).expect("the system has randomness");
        Self { decisions: tollgate.decisions().await, _tollgate: tollgate, token }
    }

    async fn ask(&self, method: &str, path: &str, call: Call<'_>) -> Result<pb::DecideResponse, Vec<String>> {
        let mut wire = question(method, path, call.token);
        wire.scopes = call.scopes.iter().map(|&scope| scope.to_owned()).collect();
        wire.resource = call.route.map(|route| ("route".to_owned(), route.to_owned())).into_iter().collect();
        let request = wire.request.as_mut().expect("it has one");
        call.source.clone_into(&mut request.source_address);
        request.headers = call.headers.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        request.body_bytes = call.body_bytes;
        match self.decisions.clone().decide(wire).await {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) if status.code() == Code::InvalidArgument => Err(fields(&status)),
            Err(status) => panic!("{status:?}"),
        }
    }

    /// The rule and the reason; or the fields that are wrong.
    async fn told(&self, method: &str, path: &str, call: Call<'_>) -> String {
        match self.ask(method, path, call).await {
            Ok(pb::DecideResponse { rule, detail, .. }) => format!("{rule}: {detail}"),
            Err(fields) => fields.join(", "),
        }
    }
}

#[tokio::test]
async fn rules_look_at_headers_and_attributes() {
    let bench = Bench::start().await;
    let with = |headers, route| bench.told("GET", "/tenant", Call { headers, route, ..Call::default() });
    assert_eq!(with(&[("x-tenant", "acme-test")], None).await, "acme: allowed");
    assert_eq!(with(&[("x-tenant", "acme, other")], None).await, "any tenant: allowed");
    assert_eq!(with(&[], Some("internal")).await, "internal: allowed");
    assert_eq!(with(&[], Some("external")).await, ": no_rule");
    assert_eq!(with(&[("x-tenant", "\u{e9}")], Some("internal")).await, "request.headers[\"x-tenant\"]");
    assert_eq!(with(&[("x-other", "\u{e9}")], Some("internal")).await, "internal: allowed");
    assert_eq!(with(&[("X-Tenant", "acme")], None).await, "request.headers[\"X-Tenant\"]");
}

#[tokio::test]
async fn rules_let_in_addresses_and_bodies() {
    let bench = Bench::start().await;
    let from = |source| bench.told("GET", "/inner", Call { source, ..Call::default() });
    assert_eq!(from("10.1.2.3").await, "inner: allowed");
    assert_eq!(from("::ffff:10.1.2.3").await, "inner: allowed");
    assert_eq!(from("192.0.2.7").await, "inner: allowed");
    assert_eq!(from("10.9.2.3").await, "inner: wrong_address");
    assert_eq!(from("2001:db8::1").await, "inner: wrong_address");
    assert_eq!(from("").await, "request.source_address");

    let post = |headers, body_bytes| bench.told("POST", "/upload", Call { headers, body_bytes, ..Call::default() });
    assert_eq!(post(&[], Some(1024)).await, "upload: allowed");
    assert_eq!(post(&[], Some(1025)).await, "upload: body_too_large");
    assert_eq!(post(&[("content-length", "1025")], None).await, "upload: body_too_large");
    assert_eq!(post(&[("content-length", "1024")], None).await, "upload: allowed");
    assert_eq!(
        post(&[("content-length", "1024"), ("transfer-encoding", "chunked")], None).await,
        "upload: length_required"
    );
    assert_eq!(post(&[], None).await, "upload: length_required");
    assert_eq!(bench.told("GET", "/upload", Call::default()).await, "upload: allowed");
}

#[tokio::test]
async fn pages_of_the_rules_origins_ask_first_and_then_call() {
    let bench = Bench::start().await;
    let asks = async |path: &str, origin: &str, method: &str| {
        let headers = [("origin", origin), ("access-control-request-method", method)];
        let answer = bench.ask("OPTIONS", path, Call { headers: &headers, ..Call::default() }).await;
        let answer = answer.expect("it is well formed");
        (format!("{}: {}", answer.rule, answer.detail), answer.quotas.len())
    };
    for _ in 0..5 {
        assert_eq!(asks("/page", PAGE, "POST").await, ("page: allowed".to_owned(), 0), "it costs nothing");
    }
    for (path, origin, method, told) in [
        ("/page", "https://evil.example", "POST", "other options: no_credential"),
        ("/page", PAGE, "DELETE", "other options: no_credential"),
        ("/no-page", PAGE, "POST", "no page: no_credential"),
        ("/nowhere", PAGE, "POST", ": no_rule"),
    ] {
        assert_eq!(asks(path, origin, method).await, (told.to_owned(), 0), "{path} {origin} {method}");
    }
    let token = Some(bench.token.as_str());
    let post =
        async |headers: &[(&str, &str)]| bench.ask("POST", "/page", Call { token, headers, ..Call::default() }).await;
    let answer = post(&[("origin", PAGE)]).await.expect("it is well formed");
    assert_eq!((answer.detail.as_str(), left(&answer.quotas)), ("allowed", vec![2]));
    let answer = post(&[("origin", "https://evil.example")]).await.expect("it is well formed");
    assert_eq!((answer.detail.as_str(), answer.quotas.len()), ("wrong_origin", 0));
    let answer = post(&[]).await.expect("it is well formed");
    assert_eq!((answer.detail.as_str(), left(&answer.quotas)), ("allowed", vec![1]), "no page made it");
}

#[tokio::test]
async fn whoever_asks_demands_scopes_and_rules_refuse_bad_credentials() {
    let bench = Bench::start().await;
    let token = Some(bench.token.as_str());
    let told = async |path: &str, token: Option<&str>, scopes: &[&str]| {
        let answer = bench.ask("GET", path, Call { token, scopes, ..Call::default() }).await;
        let answer = answer.expect("it is well formed");
        format!("{} {}", answer.detail, answer.required_scopes.join(" "))
    };
    assert_eq!(told("/open", None, &[]).await, "allowed ");
    assert_eq!(told("/open", None, &["read"]).await, "no_credential ");
    assert_eq!(told("/open", Some("bad"), &["read"]).await, "malformed_token ");
    assert_eq!(told("/open", token, &["read"]).await, "allowed ");
    assert_eq!(told("/open", token, &["write"]).await, "insufficient_scope write");
    assert_eq!(told("/read", token, &["write"]).await, "insufficient_scope read write");
    let odd = Call { token, scopes: &["a b"], ..Call::default() };
    assert_eq!(bench.told("GET", "/read", odd).await, "scopes[0]");

    assert_eq!(told("/open", Some("bad"), &[]).await, "allowed ");
    assert_eq!(told("/careful", Some("bad"), &[]).await, "malformed_token ");
    assert_eq!(told("/careful", None, &[]).await, "allowed ");
    assert_eq!(told("/careful", token, &[]).await, "allowed ");
}
