//! Decisions on tokens that only a real OpenID provider can read.

use std::fs;
use std::time::Duration;

use tempfile::TempDir;
use tollgate::config;
use tollgate::proto as pb;
use tollgate::proto::client_certificate::Kind;

use crate::support::authority::{Authority, Holder};
use crate::support::oidc::{Client, Oidc, Signature};
use crate::support::server::{TestClock, Tollgate, question};

const AUDIENCE: &str = "https://orders.example";

/// The endpoint is found from the issuer, as its keys would be.
fn policy(oidc: &Oidc, auth: &str, secret: &str) -> String {
    format!(
        r#"
issuers:
  - issuer: {}
    audiences: [{AUDIENCE}]
    introspection: {{ client_id: tollgate-{auth}, client_secret: "{secret}", auth: {auth} }}
rules:
  - match: {{ path: /admin/** }}
    require: {{ roles: [ADMIN] }}
  - match: {{ path: /orders/** }}
    require: {{ scopes: ['orders:read'] }}
"#,
        oidc.issuer()
    )
}

#[tokio::test]
async fn opaque_tokens_are_accepted_as_their_issuer_says() {
    let Some(oidc) = Oidc::start().await else { return };
    for auth in ["basic", "post"] {
        let tollgate = Tollgate::start(&policy(&oidc, auth, &format!("secret of tollgate-{auth}"))).await;
        let reader = oidc.opaque_token(Client::Reader, AUDIENCE, "orders:read").await;
        let answer = tollgate.decide(question("GET", "/orders/1", Some(&reader))).await;
        assert!(answer.allowed, "{auth}: {}", answer.detail);
        let identity = answer.identity.expect("the caller is known");
        assert_eq!((identity.issuer.as_str(), identity.client_id.as_str()), (oidc.issuer(), Client::Reader.id()));
        assert_eq!((identity.scopes, identity.audiences), (vec!["orders:read".to_owned()], vec![AUDIENCE.to_owned()]));
        let elsewhere = oidc.opaque_token(Client::Reader, "https://billing.example", "orders:read").await;
        assert_eq!(tollgate.verdict("GET", "/orders/1", Some(&elsewhere)).await, "deny wrong_audience");
        assert_eq!(tollgate.verdict("GET", "/orders/1", Some("made-up")).await, "deny inactive_token");
        assert_eq!(tollgate.verdict("GET", "/admin/1", Some(&reader)).await, "deny insufficient_role");
        // The issuer is asked about its JWTs, too, and this one cannot say: it answers with status 400. That is not held
        // against others.
        let jwt = oidc.token(Client::Reader, AUDIENCE, Signature::Es256, "orders:read").await;
        for _ in 0..4 {
            assert_eq!(tollgate.verdict("GET", "/orders/1", Some(&jwt)).await, "deny issuer_away");
        }
        let other = oidc.opaque_token(Client::Reader, AUDIENCE, "orders:read").await;
        assert_eq!(tollgate.verdict("GET", "/orders/1", Some(&other)).await, "allow");
    }
}

#[tokio::test]
async fn a_token_that_its_issuer_takes_back_ends_when_the_answer_no_longer_serves() {
    let Some(oidc) = Oidc::start().await else { return };
    let tollgate = Tollgate::start(&policy(&oidc, "post", "secret of tollgate-post")).await;
    let token = oidc.opaque_token(Client::Reader, AUDIENCE, "orders:read").await;
    assert_eq!(tollgate.verdict("GET", "/orders/1", Some(&token)).await, "allow");
    oidc.take_back(Client::Reader, &token).await;
    assert_eq!(tollgate.verdict("GET", "/orders/1", Some(&token)).await, "allow", "as the page says");
    tollgate.clock.advance(Duration::from_secs(30));
    assert_eq!(tollgate.verdict("GET", "/orders/1", Some(&token)).await, "deny inactive_token");
}

#[tokio::test]
async fn a_provider_that_is_away_or_refuses_us_denies_what_is_not_remembered() {
    let Some(mut oidc) = Oidc::start().await else { return };
    let stranger = Tollgate::start(&policy(&oidc, "basic", "wrong")).await;
    let token = oidc.opaque_token(Client::Reader, AUDIENCE, "orders:read").await;
    assert_eq!(stranger.verdict("GET", "/orders/1", Some(&token)).await, "deny issuer_away");
    let tollgate = Tollgate::start(&policy(&oidc, "basic", "secret of tollgate-basic")).await;
    assert_eq!(tollgate.verdict("GET", "/orders/1", Some(&token)).await, "allow");
    oidc.stop();
    assert_eq!(tollgate.verdict("GET", "/orders/1", Some(&token)).await, "allow", "remembered");
    assert_eq!(tollgate.verdict("GET", "/orders/1", Some("another")).await, "deny issuer_away");
}

/// A provider by https that binds its tokens to certificates, and those who take part.
struct Secured {
    authority: Authority,
    /// Whose tokens they are.
    holder: Holder,
    oidc: Oidc,
    folder: TempDir,
}

impl Secured {
    async fn start() -> Option<Self> {
        let authority = Authority::new("ours");
        let holder = authority.day(&["client.example"]);
        let oidc = Oidc::start_secured(&authority, &holder).await?;
        Some(Self { authority, holder, oidc, folder: tempfile::tempdir().unwrap() })
    }

    /// One that shows the provider `own`, and whose issuer has these settings besides.
    async fn tollgate(&self, own: &Holder, settings: &str) -> Tollgate {
        let issuer = self.oidc.issuer();
        for (name, text) in [("ca.pem", &self.authority.pem()), ("own.pem", &own.certificate), ("own.key", &own.key)] {
            fs::write(self.folder.path().join(name), text).unwrap();
        }
        let yaml = format!(
            "listen: {{ grpc: 127.0.0.1:0, http: 127.0.0.1:0, admin: 127.0.0.1:0 }}\n\
             issuers:\n  - issuer: {issuer}\n    audiences: [{AUDIENCE}]\n    \
             connection: {{ ca: ca.pem, certificate: own.pem, key: {{ file: own.key }} }}\n    {settings}\n\
             rules: [{{ match: {{ path: /** }} }}]\n"
        );
        let name = self.folder.path().join("t.yaml");
        let (config, _) = config::parse(&yaml, name.to_str().unwrap(), &|_| None).unwrap_or_else(|why| panic!("{why}"));
        Tollgate::start_as(config, TestClock::new()).await
    }
}

/// What becomes of a token that comes with that certificate.
async fn with(tollgate: &Tollgate, token: &str, shown: Option<&Holder>) -> String {
    let mut question = question("GET", "/orders/1", Some(token));
    question.credential.as_mut().unwrap().client_certificate =
        shown.map(|holder| pb::ClientCertificate { kind: Some(Kind::Der(holder.der.clone())) });
    tollgate.decide(question).await.detail
}

const BY_MTLS: &str = "introspection: { client_id: tollgate-mtls, auth: mtls }";

#[tokio::test]
async fn tokens_that_a_provider_binds_to_a_certificate_are_good_with_that_certificate_alone() {
    let Some(scene) = Secured::start().await else { return };
    let own = scene.authority.day(&["tollgate.example"]);
    let jwt = scene.oidc.token(Client::Reader, AUDIENCE, Signature::Es256, "orders:read").await;
    let opaque = scene.oidc.opaque_token(Client::Reader, AUDIENCE, "orders:read").await;
    // Another key with the same name.
    let thief = scene.authority.day(&["client.example"]);
    for (token, settings) in [(&jwt, "binding: certificate"), (&opaque, BY_MTLS)] {
        let tollgate = scene.tollgate(&own, settings).await;
        for _new_and_remembered in 0..2 {
            assert_eq!(with(&tollgate, token, Some(&scene.holder)).await, "allowed", "{settings}");
            assert_eq!(with(&tollgate, token, Some(&thief)).await, "binding_mismatch", "{settings}");
            assert_eq!(with(&tollgate, token, None).await, "binding_required", "{settings}");
        }
    }
}

#[tokio::test]
async fn a_provider_that_knows_us_by_our_certificate_is_asked_with_it() {
    let Some(scene) = Secured::start().await else { return };
    let token = scene.oidc.opaque_token(Client::Reader, AUDIENCE, "orders:read").await;
    let ask = async |own: &Holder, token: &str| {
        let tollgate = scene.tollgate(own, BY_MTLS).await;
        let detail = with(&tollgate, token, Some(&scene.holder)).await;
        (detail, tollgate.metric(r#"tollgate_introspections_total{outcome="denied"}"#).await > 0.0)
    };
    let own = scene.authority.day(&["tollgate.example"]);
    assert_eq!(ask(&own, &token).await, ("allowed".to_owned(), false));
    assert_eq!(ask(&own, "made-up").await, ("inactive_token".to_owned(), false));
    let away = ("issuer_away".to_owned(), true);
    assert_eq!(ask(&scene.authority.day(&["other.example"]), &token).await, away, "another's name");
    assert_eq!(
        ask(&Authority::new("theirs").day(&["tollgate.example"]), &token).await,
        away,
        "signed by nobody it knows"
    );
}
