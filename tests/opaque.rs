//! Decisions on tokens that only a real OpenID provider can read.

use std::time::Duration;

use crate::support::oidc::{Client, Oidc, Signature};
use crate::support::server::{Tollgate, question};

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
