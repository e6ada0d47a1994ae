//! Decisions on tokens that a real Keycloak made. It is too heavy to run each time, so `tests/keycloak/record` ran it, and
//! its tokens and public keys are in `tests/keycloak/recorded.json`. The clock stands where it stood then.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::support::root;
use crate::support::server::{TestClock, Tollgate, question};

/// What Keycloak gives with its defaults is understood with ours: no claim is named here.
const RULES: &str = r"
rules:
  - match: { path: /admin/** }
    require: { roles: [ADMIN] }
  - match: { method: POST, path: /orders/** }
    require: { roles: [orders-writer] }
  - match: { path: /orders/** }
    require: { roles: [USER, ADMIN] }
  - match: { path: /profile }
    require: { scopes: [profile] }
";

async fn tollgate(recorded: &Value, audiences: &str) -> Tollgate {
    let (issuer, keys) = (&recorded["issuer"], &recorded["keys"]["keys"]);
    // JSON is YAML.
    let yaml = format!("issuers: [{{ issuer: {issuer}, audiences: {audiences}, jwks: {{ keys: {keys} }} }}]\n{RULES}");
    let taken = recorded["taken"].as_u64().expect("it says when it was recorded");
    Tollgate::start_with(&yaml, TestClock::at(taken)).await
}

fn recorded() -> Value {
    let text = fs::read_to_string(root().join("tests/keycloak/recorded.json")).expect("it is there");
    serde_json::from_str(&text).expect("it is JSON")
}

#[tokio::test]
async fn realm_and_client_roles_of_a_real_keycloak_decide() {
    let recorded = recorded();
    let tollgate = tollgate(&recorded, "[orders]").await;
    for (token, method, path, verdict) in [
        ("office", "GET", "/admin/x", "allow"),
        ("office", "GET", "/orders/1", "allow"),
        ("office", "POST", "/orders/1", "deny insufficient_role"),
        ("office", "GET", "/profile", "allow"),
        ("shop", "GET", "/admin/x", "deny insufficient_role"),
        ("shop", "GET", "/orders/1", "allow"),
        ("shop", "POST", "/orders/1", "allow"),
        ("ann", "GET", "/admin/x", "allow"),
        ("ann", "POST", "/orders/1", "deny insufficient_role"),
        // For another audience, though it holds roles of these names.
        ("stranger", "GET", "/admin/x", "deny wrong_audience"),
        ("stranger", "POST", "/orders/1", "deny wrong_audience"),
        ("id_token", "GET", "/orders/1", "deny wrong_type"),
        // Keycloak signs these with a secret of its own.
        ("refresh_token", "GET", "/orders/1", "deny bad_algorithm"),
    ] {
        let shown = recorded["tokens"][token].as_str();
        assert!(shown.is_some(), "{token} was recorded");
        assert_eq!(tollgate.verdict(method, path, shown).await, verdict, "{token} {method} {path}");
    }
}

#[tokio::test]
async fn roles_in_a_client_count_where_that_client_is_an_audience_of_ours() {
    let recorded = recorded();
    let tollgate = tollgate(&recorded, "[orders, billing]").await;
    let verdict = async |token: &str, path| tollgate.verdict("POST", path, recorded["tokens"][token].as_str()).await;
    assert_eq!(verdict("stranger", "/orders/1").await, "allow", "both are ours, so both clients' roles count");
    let tollgate = self::tollgate(&recorded, "[billing]").await;
    let shop = tollgate.verdict("POST", "/orders/1", recorded["tokens"]["shop"].as_str()).await;
    assert_eq!(shop, "deny wrong_audience");
}

#[tokio::test]
async fn who_calls_is_read_from_keycloaks_claims() {
    let recorded = recorded();
    let tollgate = tollgate(&recorded, "[orders]").await;
    let answer = tollgate.decide(question("GET", "/orders/1", recorded["tokens"]["ann"].as_str())).await;
    let identity = answer.identity.expect("the caller is known");
    assert_eq!(identity.issuer, recorded["issuer"]);
    assert_eq!((identity.client_id.as_str(), identity.audiences.as_slice()), ("office", &["orders".to_owned()][..]));
    assert_eq!(identity.roles, ["ADMIN", "USER"]);
    assert_eq!(identity.scopes, ["openid", "profile", "email"]);
    assert!(!identity.session_id.is_empty(), "Keycloak names the session of a person");
}

#[tokio::test]
async fn a_token_of_keycloaks_ends_after_its_five_minutes() {
    let recorded = recorded();
    let tollgate = tollgate(&recorded, "[orders]").await;
    let office = recorded["tokens"]["office"].as_str();
    assert_eq!(tollgate.verdict("GET", "/orders/1", office).await, "allow");
    tollgate.clock.advance(Duration::from_secs(350));
    assert_eq!(tollgate.verdict("GET", "/orders/1", office).await, "allow", "within the leeway");
    tollgate.clock.advance(Duration::from_secs(20));
    assert_eq!(tollgate.verdict("GET", "/orders/1", office).await, "deny expired");
}

#[test]
fn nothing_secret_was_recorded() {
    let recorded = recorded();
    for key in recorded["keys"]["keys"].as_array().expect("it is a list") {
        for member in ["d", "p", "q", "dp", "dq", "qi", "k"] {
            assert!(key[member].is_null(), "a private key was recorded");
        }
    }
    assert_eq!(recorded.as_object().expect("it is one").len(), 5, "version, issuer, taken, keys, tokens");
}
