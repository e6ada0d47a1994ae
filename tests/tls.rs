//! TLS and certificates, over real sockets.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tollgate::config::{self, Config, Problems};
use tollgate::proto as pb;
use tollgate::proto::client_certificate::Kind;
use tollgate::proto::decision_service_client::DecisionServiceClient;
use tollgate::proto::quota_service_client::QuotaServiceClient;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::program::{logged, run, serve};
use crate::support::authority::{Authority, Holder};
use crate::support::poll;
use crate::support::server::{SOON, TestClock, Tollgate, question};

const RULES: &str = "
rules:
  - { match: { path: /public }, permit: anyone }
  - { match: { path: /prod }, require: { names: ['spiffe://td/ns/prod/**', '*.internal.example'] } }
  - { match: { path: /** }, limits: [each] }
limits: { each: { units: 2, window: 1h, by: [identity.subject] } }
certificates: { names: ['spiffe://td/**', '*.internal.example'] }
";

/// A server whose certificate is of an authority of its own.
struct Bench {
    folder: TempDir,
    authority: Authority,
    tollgate: Tollgate,
}

impl Bench {
    /// `clients` is put into `listen.tls`, `rest` behind it.
    async fn start(authority: Authority, clients: &str, rest: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
        hold(folder.path(), &authority.day(&["localhost"]));
        let config = load(folder.path(), clients, rest).unwrap_or_else(|problems| panic!("{problems}"));
        let tollgate = Tollgate::start_as(config, TestClock::running()).await;
        Self { folder, authority, tollgate }
    }

    async fn connect(&self, holder: Option<&Holder>) -> Result<Channel, String> {
        let channel = self.tollgate.secure(&self.authority, holder).await.map_err(|error| format!("{error:?}"))?;
        // With TLS 1.3 a client learns with the first answer only that its certificate is refused.
        let ask = question("GET", "/public", None);
        let answer = DecisionServiceClient::new(channel.clone()).decide(ask).await;
        answer.map(|_| channel).map_err(|status| format!("{status:?}"))
    }

    async fn failures(&self, cause: &str) -> f64 {
        self.tollgate.metric(&format!("tollgate_tls_handshake_failures_total{{cause=\"{cause}\"}}")).await
    }

    async fn fails_by(&self, cause: &str, times: f64) {
        let what = format!("{times} failures by {cause}");
        poll(SOON, &what, async || (self.failures(cause).await >= times).then_some(())).await;
    }
}

/// Puts the certificate and key that the server is to show.
fn hold(folder: &Path, holder: &Holder) {
    fs::write(folder.join("server.pem"), &holder.certificate).unwrap();
    fs::write(folder.join("server.key"), &holder.key).unwrap();
}

fn load(folder: &Path, clients: &str, rest: &str) -> Result<Config, Problems> {
    let yaml = format!(
        "listen: {{ grpc: 127.0.0.1:0, http: 127.0.0.1:0, admin: 127.0.0.1:0, tls: {{ cert: server.pem, key: server.key{clients} }} }}\n{rest}"
    );
    let name = folder.join("t.yaml");
    config::parse(&yaml, name.to_str().unwrap(), &|_| None).map(|(config, _)| config)
}

const REQUIRED: &str = ", client_ca: ca.pem";
const OPTIONAL: &str = ", client_ca: ca.pem, client: optional";

#[tokio::test]
async fn connections_are_secured_and_plain_ones_come_to_nothing() {
    let bench = Bench::start(Authority::new("a"), "", RULES).await;
    bench.connect(None).await.unwrap();
    let stranger = Authority::new("stranger");
    assert!(bench.tollgate.secure(&stranger, None).await.is_err(), "the client knows another authority");
    let plain = Endpoint::from_shared(format!("http://{}", bench.tollgate.server.grpc)).unwrap().connect().await;
    if let Ok(plain) = plain {
        assert!(DecisionServiceClient::new(plain).decide(question("GET", "/public", None)).await.is_err());
    }
    bench.fails_by("protocol", 1.0).await;
    bench.fails_by("refused", 1.0).await;
    let not_after = bench.tollgate.metric("tollgate_tls_certificate_not_after_seconds").await;
    assert!(not_after > 1e9, "{not_after}");
}

#[tokio::test]
async fn clients_must_show_a_certificate_of_the_authority_where_that_is_demanded() {
    let bench = Bench::start(Authority::new("a"), REQUIRED, RULES).await;
    bench.connect(Some(&bench.authority.day(&["spiffe://td/x"]))).await.unwrap();
    bench.connect(None).await.unwrap_err();
    bench.connect(Some(&Authority::new("a").day(&["spiffe://td/x"]))).await.unwrap_err();
    let short = bench.authority.sign(&["spiffe://td/x"], Duration::from_mins(5));
    bench.connect(Some(&short)).await.unwrap();
    assert!(bench.failures("certificate").await >= 2.0);
    bench.tollgate.clock.advance(Duration::from_mins(6));
    bench.connect(Some(&short)).await.unwrap_err();
    bench.connect(Some(&bench.authority.day(&["spiffe://td/x"]))).await.unwrap();
}

#[tokio::test]
async fn clients_may_show_none_where_it_is_optional_but_not_a_wrong_one() {
    let bench = Bench::start(Authority::new("a"), OPTIONAL, RULES).await;
    bench.connect(None).await.unwrap();
    bench.connect(Some(&bench.authority.day(&["x"]))).await.unwrap();
    bench.connect(Some(&Authority::new("b").day(&["x"]))).await.unwrap_err();
}

#[tokio::test]
async fn a_new_certificate_is_taken_over_and_no_connection_is_dropped() {
    let bench = Bench::start(Authority::new("a"), "", RULES).await;
    let (next, folder) = (Authority::new("next"), bench.folder.path());
    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicU64::new(0));
    let mut asking = Vec::new();
    for _ in 0..4 {
        let mut decisions = DecisionServiceClient::new(bench.connect(None).await.unwrap());
        let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
        asking.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                decisions.decide(question("GET", "/public", None)).await.unwrap();
                answered.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    let more = async || {
        let before = answered.load(Ordering::Relaxed);
        let all = asking.len() as u64;
        poll(SOON, "answers", async || (answered.load(Ordering::Relaxed) > before + 10 * all).then_some(())).await;
    };
    more().await;
    hold(folder, &next.day(&["localhost"]));
    bench.tollgate.server.reload(load(folder, "", RULES).unwrap()).unwrap();
    more().await;
    assert!(bench.tollgate.secure(&bench.authority, None).await.is_err(), "the old one is not shown any more");
    bench.tollgate.secure(&next, None).await.unwrap();

    fs::write(folder.join("server.key"), "nonsense").unwrap();
    let problems = load(folder, "", RULES).unwrap_err().to_string();
    assert!(problems.contains("listen.tls.key: the file has no private key in PEM form"), "{problems}");
    more().await;
    bench.tollgate.secure(&next, None).await.unwrap();

    // Without the section, connections are plain; those that are there go on.
    let plain = format!("listen: {{ grpc: 127.0.0.1:0, http: 127.0.0.1:0, admin: 127.0.0.1:0 }}\n{RULES}");
    bench.tollgate.server.reload(config::parse(&plain, "t.yaml", &|_| None).unwrap().0).unwrap();
    assert_eq!(bench.tollgate.verdict("GET", "/public", None).await, "allow");
    more().await;
    stop.store(true, Ordering::Relaxed);
    for task in asking {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn those_who_never_end_their_handshake_keep_nobody_out_and_are_cut_off() {
    let bench = Bench::start(Authority::new("a"), "", RULES).await;
    let mut silent = TcpStream::connect(bench.tollgate.server.grpc).await.unwrap();
    bench.connect(None).await.unwrap();
    let mut end = [0];
    let ended = tokio::time::timeout(SOON, silent.read(&mut end)).await.expect("it is cut off");
    assert!(matches!(ended, Ok(0) | Err(_)));
    bench.fails_by("timeout", 1.0).await;
}

fn shows(path: &str, kind: Kind) -> pb::DecideRequest {
    let client_certificate = Some(pb::ClientCertificate { kind: Some(kind) });
    let credential = Some(pb::Credential { client_certificate, ..pb::Credential::default() });
    pb::DecideRequest { credential, ..question("GET", path, None) }
}

#[tokio::test]
async fn a_callers_certificate_says_who_it_is_in_each_form() {
    let bench = Bench::start(Authority::new("a"), "", RULES).await;
    let mut decisions = DecisionServiceClient::new(bench.connect(None).await.unwrap());
    let Holder { certificate, der, .. } = bench.authority.day(&["spiffe://td/ns/prod/sa/web", "web.example"]);
    let encoded: String = url::form_urlencoded::byte_serialize(certificate.as_bytes()).collect();
    // Forms write a space as `+`; gateways write `%20`.
    let encoded = encoded.replace('+', "%20");
    for kind in [
        Kind::Der(der.clone()),
        Kind::Pem(certificate.clone()),
        Kind::Pem(encoded.clone()),
        Kind::ClientCert(format!(":{}:", STANDARD.encode(&der))),
        Kind::Forwarded(format!(
            "By=x;Hash={};URI=spiffe://other/x,Cert=\"{encoded}\";Subject=\"CN=\\\"a,b\\\"\"",
            "0".repeat(64)
        )),
    ] {
        let answer = decisions.decide(shows("/prod", kind.clone())).await.unwrap().into_inner();
        let identity = answer.identity.clone().unwrap_or_else(|| panic!("{kind:?}: {answer:?}"));
        assert_eq!((answer.detail.as_str(), identity.kind()), ("allowed", pb::IdentityKind::Certificate));
        assert_eq!(
            (identity.issuer.as_str(), identity.subject.as_str()),
            ("spiffe://td", "spiffe://td/ns/prod/sa/web")
        );
        assert_eq!(identity.names, ["spiffe://td/ns/prod/sa/web", "web.example"]);
    }
    let detail = async |path: &str, names: &[&str]| {
        let der = bench.authority.day(names).der;
        let mut decisions = decisions.clone();
        decisions.decide(shows(path, Kind::Der(der))).await.unwrap().into_inner().detail
    };
    assert_eq!(detail("/prod", &["spiffe://td/ns/dev/x"]).await, "wrong_caller");
    assert_eq!(detail("/prod", &["a.internal.example"]).await, "allowed");
    assert_eq!(detail("/prod", &["a.b.internal.example"]).await, "unknown_issuer");
    assert_eq!(detail("/prod", &["spiffe://td/ns/prod/x", "spiffe://td/ns/prod/y"]).await, "unknown_issuer");
    for expected in ["allowed", "allowed", "quota_exceeded"] {
        assert_eq!(detail("/other", &["spiffe://td/one"]).await, expected, "counted by subject");
    }
    assert_eq!(detail("/other", &["spiffe://td/two"]).await, "allowed");
    let short = bench.authority.sign(&["spiffe://td/short"], Duration::from_mins(5)).der;
    bench.tollgate.clock.advance(Duration::from_mins(6));
    let answer = decisions.decide(shows("/other", Kind::Der(short))).await.unwrap().into_inner();
    assert_eq!(answer.detail, "expired");

    let status = decisions.decide(shows("/prod", Kind::Pem("nonsense".to_owned()))).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().starts_with("credential.client_certificate must be one certificate in PEM"), "{status:?}");
}

#[tokio::test]
async fn a_certificate_is_no_credential_unless_the_configuration_says_so() {
    let bench = Bench::start(Authority::new("a"), "", "rules: [{ match: { path: /** } }]").await;
    let channel = bench.tollgate.secure(&bench.authority, None).await.unwrap();
    let shown = shows("/x", Kind::Der(bench.authority.day(&["spiffe://td/x"]).der));
    let answer = DecisionServiceClient::new(channel).decide(shown).await.unwrap().into_inner();
    assert_eq!(answer.detail, "no_credential");
}

#[tokio::test]
async fn an_operator_may_be_known_by_the_certificate_of_its_connection() {
    let rest = format!("{RULES}operators: {{ names: ['spiffe://td/ns/ops/sa/*'], scopes: ['tollgate:quota'] }}\n");
    let bench = Bench::start(Authority::new("a"), OPTIONAL, &rest).await;
    let ask = async |holder: Option<&Holder>, authorization: Option<&'static str>| {
        let key = [("identity.issuer".to_owned(), "i".to_owned()), ("identity.subject".to_owned(), "s".to_owned())];
        let counter = pb::Counter { limit: "each".to_owned(), key: key.into() };
        let mut request = tonic::Request::new(pb::ResetRequest { counter: Some(counter) });
        if let Some(value) = authorization {
            request.metadata_mut().insert("authorization", value.parse().unwrap());
        }
        let channel = bench.connect(holder).await.unwrap();
        let answer = QuotaServiceClient::new(channel).reset(request).await;
        answer.map_or_else(|status| status.code(), |_| Code::Ok)
    };
    let admin = bench.authority.day(&["spiffe://td/ns/ops/sa/admin"]);
    assert_eq!(ask(Some(&admin), None).await, Code::Ok);
    assert_eq!(ask(Some(&admin), Some("Bearer x")).await, Code::Unauthenticated, "a token that is shown counts");
    assert_eq!(ask(Some(&bench.authority.day(&["spiffe://td/ns/dev/sa/admin"])), None).await, Code::Unauthenticated);
    assert_eq!(ask(None, None).await, Code::Unauthenticated);
    let mut tokens =
        tollgate::proto::token_service_client::TokenServiceClient::new(bench.connect(Some(&admin)).await.unwrap());
    let asked = pb::IntrospectRequest { token: "x".to_owned(), token_type_hint: String::new() };
    assert_eq!(tokens.introspect(asked).await.unwrap_err().code(), Code::PermissionDenied, "it has another scope");
    // The certificate of a connection is asked for its validity on every call.
    let short = bench.authority.sign(&["spiffe://td/ns/ops/sa/admin"], Duration::from_mins(5));
    let mut quotas = QuotaServiceClient::new(bench.connect(Some(&short)).await.unwrap());
    assert_eq!(quotas.reset(pb::ResetRequest::default()).await.unwrap_err().code(), Code::InvalidArgument);
    bench.tollgate.clock.advance(Duration::from_mins(6));
    assert_eq!(quotas.reset(pb::ResetRequest::default()).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn an_operator_whose_authority_is_no_longer_trusted_is_none_on_the_connection_that_it_has() {
    let rest = format!("{RULES}operators: {{ names: ['spiffe://td/ops'], scopes: ['tollgate:quota'] }}\n");
    let bench = Bench::start(Authority::new("a"), OPTIONAL, &rest).await;
    let folder = bench.folder.path();
    let channel = bench.connect(Some(&bench.authority.day(&["spiffe://td/ops"]))).await.unwrap();
    let ask = async || QuotaServiceClient::new(channel.clone()).reset(pb::ResetRequest::default()).await;
    let trust = |authorities: &[&Authority]| {
        let pem: String = authorities.iter().map(|authority| authority.pem()).collect();
        fs::write(folder.join("ca.pem"), pem).unwrap();
        bench.tollgate.server.reload(load(folder, OPTIONAL, &rest).unwrap()).unwrap();
    };
    let other = Authority::new("b");
    assert_eq!(ask().await.unwrap_err().code(), Code::InvalidArgument, "it may, and says nothing to reset");
    trust(&[&other, &bench.authority]);
    assert_eq!(ask().await.unwrap_err().code(), Code::InvalidArgument, "one more is trusted");
    trust(&[&other]);
    assert_eq!(ask().await.unwrap_err().code(), Code::Unauthenticated);
    let answer = DecisionServiceClient::new(channel.clone()).decide(question("GET", "/public", None)).await;
    assert!(answer.unwrap().into_inner().allowed, "the connection goes on");
    let plain = format!("listen: {{ grpc: 127.0.0.1:0, http: 127.0.0.1:0, admin: 127.0.0.1:0 }}\n{RULES}");
    bench.tollgate.server.reload(config::parse(&plain, "t.yaml", &|_| None).unwrap().0).unwrap();
    assert_eq!(ask().await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn changed_files_are_taken_over_by_the_program_and_broken_ones_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second, clients) = (Authority::new("first"), Authority::new("second"), Authority::new("clients"));
    let place = |name: &str| folder.path().join(name).display().to_string();
    let me = clients.day(&["me"]);
    for (name, text) in [
        ("ca.pem", clients.pem()),
        ("1.pem", first.pem()),
        ("2.pem", second.pem()),
        ("me.pem", me.certificate),
        ("me.key", me.key),
    ] {
        fs::write(place(name), text).unwrap();
    }
    hold(folder.path(), &first.sign(&["localhost"], Duration::from_hours(1)));
    let tls = format!("tls: {{ cert: server.pem, key: server.key{REQUIRED} }}");
    let yaml = format!("listen: {{ grpc: 127.0.0.1:0, http: 127.0.0.1:0, admin: 127.0.0.1:0, {tls} }}\n{RULES}");
    fs::write(place("tollgate.yaml"), yaml).unwrap();
    let process = serve(&["--config", &place("tollgate.yaml")]);
    let port = logged(&process, "grpc").await.rsplit_once(':').unwrap().1.to_owned();
    let url = format!("https://localhost:{port}");
    let ask = |ca: &str, show: bool| {
        let (cert, key, ca) = (place("me.pem"), place("me.key"), place(ca));
        let mut arguments = vec!["decide", "--url", &*url, "--ca", &*ca];
        if show {
            arguments.extend(["--cert", &*cert, "--key", &*key]);
        }
        run(&[&arguments[..], &["GET", "/public"]].concat()).0
    };
    assert_eq!((ask("1.pem", true), ask("1.pem", false), ask("2.pem", true)), (0, 2, 2));

    hold(folder.path(), &second.day(&["localhost"]));
    poll(SOON, "the new certificate", async || (ask("2.pem", true) == 0).then_some(())).await;
    assert_eq!(ask("1.pem", true), 2);

    fs::write(place("server.key"), "nonsense").unwrap();
    let says = "listen.tls.key: the file has no private key in PEM form";
    poll(SOON, says, async || process.complaints().contains(says).then_some(())).await;
    assert_eq!(ask("2.pem", true), 0, "the old one stays");

    hold(folder.path(), &first.sign(&["localhost"], Duration::ZERO));
    let (code, said, _) = run(&["config", "check", &place("tollgate.yaml")]);
    assert!(
        code == 0 && said.contains("listen.tls.cert: the certificate in") && said.contains("has expired"),
        "{said}"
    );
    let plain = run(&["decide", "--url", "http://127.0.0.1:1", "--ca", &place("ca.pem"), "GET", "/"]);
    assert!(plain.2.contains("--ca and --cert are of use with https only"), "{plain:?}");
}

#[tokio::test]
async fn the_http_port_is_secured_in_the_same_way_and_certificates_may_ask_about_tokens_there() {
    let rest = format!("{RULES}operators: {{ names: ['spiffe://td/ns/ops/sa/*'], scopes: ['tollgate:introspect'] }}\n");
    let bench = Bench::start(Authority::new("a"), OPTIONAL, &rest).await;
    let port = bench.tollgate.server.http.port();
    let ask = async |holder: Option<&Holder>, only_http_1: bool| {
        let authority = reqwest::Certificate::from_pem(bench.authority.pem().as_bytes()).unwrap();
        let mut client = reqwest::Client::builder().no_proxy().timeout(SOON).tls_certs_only([authority]);
        if let Some(Holder { certificate, key, .. }) = holder {
            client = client.identity(reqwest::Identity::from_pem(format!("{certificate}{key}").as_bytes()).unwrap());
        }
        if only_http_1 {
            client = client.http1_only();
        }
        let request = client.build().unwrap().post(format!("https://localhost:{port}/oauth2/introspect"));
        let form = request.header("content-type", "application/x-www-form-urlencoded").body("token=x");
        let answer = form.send().await.unwrap();
        (answer.status().as_u16(), answer.version(), answer.text().await.unwrap())
    };
    let operator = bench.authority.day(&["spiffe://td/ns/ops/sa/a"]);
    let inactive = r#"{"active":false}"#.to_owned();
    assert_eq!(ask(Some(&operator), false).await, (200, reqwest::Version::HTTP_2, inactive.clone()));
    assert_eq!(ask(Some(&operator), true).await, (200, reqwest::Version::HTTP_11, inactive));
    assert_eq!(ask(Some(&bench.authority.day(&["spiffe://td/ns/prod/sa/a"])), false).await.0, 401);
    assert_eq!(ask(None, false).await.0, 401);
}
