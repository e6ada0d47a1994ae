//! Decisions on tokens of a real OpenID provider.

use std::time::Duration;

use serde_json::json;

use crate::support::liar::{Liar, Says};
use crate::support::oidc::{Client, Oidc, OldKeys, Signature};
use crate::support::poll;
use crate::support::server::{SOON, TestClock, Tollgate, question};
use crate::support::signer::Signer;

const AUDIENCE: &str = "https://orders.example";

/// Trusts the provider by discovery alone, as with Spring's `issuer-uri`.
fn policy(oidc: &Oidc) -> String {
    format!(
        r#"
issuers:
  - issuer: {}
    audiences: [{AUDIENCE}]
limits:
  per-subject: {{ units: 3, window: 10s, by: [identity.subject] }}
rules:
  - match: {{ path: /public/** }}
    permit: anyone
  - match: {{ path: /admin/** }}
    require: {{ roles: [ADMIN] }}
  - match: {{ method: POST, path: /orders/** }}
    require: {{ scopes: ['orders:write'] }}
  - match: {{ method: DELETE, path: '/orders/{{id}}' }}
    require: {{ when: '"ADMIN" in identity.roles || resource.owner == identity.subject' }}
  - match: {{ path: /orders/** }}
    require: {{ scopes: ['orders:read'] }}
    limits: [per-subject]
  - match: {{ path: /me }}
"#,
        oidc.issuer()
    )
}

#[tokio::test]
async fn tokens_of_every_algorithm_are_accepted_and_carry_who_calls() {
    let Some(oidc) = Oidc::start().await else { return };
    let tollgate = Tollgate::start(&policy(&oidc)).await;
    for signature in Signature::ALL {
        let token = oidc.token(Client::Admin, AUDIENCE, signature, "orders:read orders:write").await;
        let answer = tollgate.decide(question("GET", "/me", Some(&token))).await;
        let identity = answer.identity.expect("the caller is known");
        assert!(answer.allowed, "{signature:?}: {}", answer.detail);
        assert_eq!((identity.issuer.as_str(), identity.subject.as_str()), (oidc.issuer(), Client::Admin.id()));
        assert_eq!(identity.scopes, ["orders:read", "orders:write"]);
        assert_eq!(identity.roles, ["USER", "ADMIN"]);
        assert_eq!(identity.audiences, [AUDIENCE]);
        assert_eq!(identity.client_id, Client::Admin.id());
    }
}

#[tokio::test]
async fn rules_look_at_scopes_and_roles() {
    let Some(oidc) = Oidc::start().await else { return };
    let tollgate = Tollgate::start(&policy(&oidc)).await;
    let reader = oidc.token(Client::Reader, AUDIENCE, Signature::Es256, "orders:read").await;
    let admin = oidc.token(Client::Admin, AUDIENCE, Signature::Rs256, "orders:read orders:write").await;
    for (method, path, token, verdict) in [
        ("GET", "/public/x", None, "allow"),
        ("GET", "/public/x", Some("garbage"), "allow"),
        ("GET", "/me", None, "deny no_credential"),
        ("GET", "/me", Some("garbage"), "deny malformed_token"),
        ("GET", "/admin/x", Some(&*reader), "deny insufficient_role"),
        ("GET", "/admin/x", Some(&*admin), "allow"),
        ("POST", "/orders/1", Some(&*reader), "deny insufficient_scope"),
        ("POST", "/orders/1", Some(&*admin), "allow"),
        ("GET", "/nowhere", Some(&*admin), "deny no_rule"),
    ] {
        assert_eq!(tollgate.verdict(method, path, token).await, verdict, "{method} {path}");
    }
    let answer = tollgate.decide(question("POST", "/orders/1", Some(&reader))).await;
    assert_eq!(answer.required_scopes, ["orders:write"]);
}

#[tokio::test]
async fn whoever_owns_an_order_may_delete_it_and_so_may_an_admin() {
    let Some(oidc) = Oidc::start().await else { return };
    let tollgate = Tollgate::start(&policy(&oidc)).await;
    let reader = oidc.token(Client::Reader, AUDIENCE, Signature::Es256, "orders:read").await;
    let admin = oidc.token(Client::Admin, AUDIENCE, Signature::Es256, "orders:read").await;
    for (token, owner, detail) in [
        (&reader, Some(Client::Reader.id()), "allowed"),
        (&reader, Some("somebody"), "condition_not_met"),
        (&reader, None, "condition_not_met"),
        (&admin, Some("somebody"), "allowed"),
        (&admin, None, "allowed"),
    ] {
        let mut asked = question("DELETE", "/orders/1", Some(token));
        asked.resource.extend(owner.map(|owner| ("owner".to_owned(), owner.to_owned())));
        let answer = tollgate.decide(asked).await;
        assert_eq!((answer.allowed, answer.detail.as_str()), (detail == "allowed", detail), "{owner:?}");
    }
    assert_eq!(tollgate.verdict("DELETE", "/orders/1", None).await, "deny no_credential");
}

#[tokio::test]
async fn a_token_for_another_audience_is_refused() {
    let Some(oidc) = Oidc::start().await else { return };
    let tollgate = Tollgate::start(&policy(&oidc)).await;
    let token = oidc.token(Client::Reader, "https://billing.example", Signature::Es256, "orders:read").await;
    assert_eq!(tollgate.verdict("GET", "/me", Some(&token)).await, "deny wrong_audience");
}

#[tokio::test]
async fn a_token_expires_when_the_clock_says_so_remembered_or_not() {
    let Some(oidc) = Oidc::start().await else { return };
    oidc.live_for(100).await;
    let tollgate = Tollgate::start(&policy(&oidc)).await;
    let token = oidc.token(Client::Reader, AUDIENCE, Signature::EdDsa, "orders:read").await;
    let unseen = oidc.token(Client::Reader, AUDIENCE, Signature::EdDsa, "orders:read").await;
    assert_eq!(tollgate.verdict("GET", "/me", Some(&token)).await, "allow");
    // 100 s of life and 60 s of leeway; a few seconds may have passed since the token was made.
    tollgate.clock.advance(Duration::from_secs(150));
    assert_eq!(tollgate.verdict("GET", "/me", Some(&token)).await, "allow");
    tollgate.clock.advance(Duration::from_secs(11));
    assert_eq!(tollgate.verdict("GET", "/me", Some(&token)).await, "deny expired");
    assert_eq!(tollgate.verdict("GET", "/me", Some(&unseen)).await, "deny expired");
}

#[tokio::test]
async fn new_keys_are_fetched_when_the_first_token_comes_that_needs_them() {
    let Some(oidc) = Oidc::start().await else { return };
    let tollgate = Tollgate::start(&policy(&oidc)).await;
    let old = oidc.token(Client::Reader, AUDIENCE, Signature::Es256, "orders:read").await;
    assert_eq!(tollgate.verdict("GET", "/me", Some(&old)).await, "allow");

    oidc.rotate(OldKeys::Kept).await;
    let new = oidc.token(Client::Reader, AUDIENCE, Signature::Es256, "orders:read").await;
    assert_eq!(tollgate.verdict("GET", "/me", Some(&new)).await, "allow", "no good token is refused in a rotation");
    assert_eq!(tollgate.verdict("GET", "/me", Some(&old)).await, "allow");

    // Within the cool-down, unknown keys are not asked for again.
    oidc.rotate(OldKeys::Dropped).await;
    let newest = oidc.token(Client::Reader, AUDIENCE, Signature::Es256, "orders:read").await;
    assert_eq!(tollgate.verdict("GET", "/me", Some(&newest)).await, "deny unknown_key");
    tollgate.clock.advance(Duration::from_secs(31));
    assert_eq!(tollgate.verdict("GET", "/me", Some(&newest)).await, "allow");
    assert_eq!(
        tollgate.verdict("GET", "/me", Some(&new)).await,
        "deny unknown_key",
        "its key is gone, remembered or not"
    );
}

#[tokio::test]
async fn a_provider_that_is_away_takes_nothing_with_it() {
    let Some(mut oidc) = Oidc::start().await else { return };
    let tollgate = Tollgate::start(&policy(&oidc)).await;
    let seen = oidc.token(Client::Reader, AUDIENCE, Signature::Es256, "orders:read").await;
    let unseen = oidc.token(Client::Reader, AUDIENCE, Signature::Rs256, "orders:read").await;
    assert_eq!(tollgate.verdict("GET", "/me", Some(&seen)).await, "allow");
    oidc.stop();
    assert_eq!(tollgate.verdict("GET", "/me", Some(&seen)).await, "allow");
    assert_eq!(tollgate.verdict("GET", "/me", Some(&unseen)).await, "allow");
}

#[tokio::test]
async fn a_provider_that_is_away_at_the_start_is_waited_for() {
    let Some(mut oidc) = Oidc::start().await else { return };
    let token = oidc.token(Client::Reader, AUDIENCE, Signature::Es256, "orders:read").await;
    let policy = policy(&oidc);
    oidc.stop();
    let tollgate = Tollgate::start(&policy).await;
    assert_eq!(tollgate.verdict("GET", "/me", Some(&token)).await, "deny keys_away");
    assert_eq!(tollgate.verdict("GET", "/public/x", None).await, "allow");
    let (status, text) = tollgate.page("/readyz").await;
    assert_eq!(status, 200, "the outage of an issuer is not ours: {text}");
    assert!(text.contains("degraded") && text.contains(oidc.issuer()), "{text}");

    oidc.restart().await;
    poll(SOON, "the keys", async || {
        tollgate.clock.advance(Duration::from_secs(1));
        (tollgate.verdict("GET", "/me", Some(&token)).await == "allow").then_some(())
    })
    .await;
    // The clock went on faster than anybody asks for revocations.
    poll(SOON, "that all is well", async || {
        let (_, text) = tollgate.page("/readyz").await;
        text.contains(r#""status":"ok""#).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_quota_is_used_up_and_regained() {
    let Some(oidc) = Oidc::start().await else { return };
    let tollgate = Tollgate::start_with(&policy(&oidc), TestClock::new()).await;
    let token = oidc.token(Client::Reader, AUDIENCE, Signature::Es256, "orders:read").await;
    let other = oidc.token(Client::Writer, AUDIENCE, Signature::Es256, "orders:read").await;
    for left in [2, 1, 0] {
        let answer = tollgate.decide(question("GET", "/orders/1", Some(&token))).await;
        assert_eq!((answer.allowed, answer.quotas[0].remaining), (true, left));
    }
    let refused = tollgate.decide(question("GET", "/orders/1", Some(&token))).await;
    assert_eq!(refused.detail, "quota_exceeded");
    assert_eq!(tollgate.verdict("GET", "/orders/1", Some(&other)).await, "allow", "another subject's quota is its own");

    let wait = Duration::try_from(refused.retry_after.expect("waiting helps")).expect("it is a length of time");
    assert!(wait > Duration::from_secs(10) && wait < Duration::from_millis(10_400), "{wait:?}");
    tollgate.clock.advance(wait.checked_sub(Duration::from_micros(1)).expect("it is longer"));
    assert_eq!(tollgate.verdict("GET", "/orders/1", Some(&token)).await, "deny quota_exceeded");
    tollgate.clock.advance(Duration::from_micros(1));
    assert_eq!(tollgate.verdict("GET", "/orders/1", Some(&token)).await, "allow", "whoever waits as told is served");
}

#[tokio::test]
async fn a_token_is_good_only_while_its_status_list_says_so() {
    let (liar, signer, now) = (Liar::start().await, Signer::ec("k"), 1_800_000_000);
    let (iss, uri) = (liar.url("/realm"), liar.url("/lists/1"));
    let issuers = json!([{"issuer": iss, "audiences": ["orders"], "jwks": {"keys": [signer.jwk()]}}]);
    let yaml = format!("issuers: {issuers}\nrules: [{{ match: {{ path: /me }} }}]");
    let tollgate = Tollgate::start_with(&yaml, TestClock::at(now)).await;
    let token = |index: u32| {
        signer.token(&json!({
            "iss": iss, "aud": "orders", "sub": "ann", "iat": now, "exp": now + 3_600, "jti": index.to_string(),
            "status": {"status_list": {"idx": index, "uri": uri}},
        }))
    };
    let verdict = async |index: u32| tollgate.verdict("GET", "/me", Some(&token(index))).await;
    assert_eq!(verdict(1).await, "deny revocations_away", "nobody knows");
    // The example of one bit in §4.1 of the draft: 1, 0, 0, 1, ...
    let list = json!({"sub": uri, "iat": now, "ttl": 60, "status_list": {"bits": 1, "lst": "eNrbuRgAAhcBXQ"}});
    let header = json!({"alg": "ES256", "kid": "k", "typ": "statuslist+jwt"}).to_string();
    liar.says("/lists/1", Says::Text(signer.compact(&header, &list.to_string())));
    tollgate.clock.advance(Duration::from_secs(1));
    assert_eq!([verdict(0).await, verdict(1).await, verdict(2).await], ["deny revoked", "allow", "allow"]);
    assert_eq!([verdict(3).await, verdict(16).await], ["deny revoked", "deny revoked"], "the last is beyond its end");
    assert_eq!(liar.visits("/lists/1"), 1, "once it was there");
}
