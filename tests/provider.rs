//! The OpenID provider of the tests does what the tests rely on.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::oidc::{Client, Oidc, OldKeys, Signature};

const ORDERS: &str = "https://orders.example";

/// A token's header and claims, unverified.
fn read(token: &str) -> (Value, Value) {
    let mut parts = token.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).unwrap());
    let mut json = || serde_json::from_slice(&parts.next().unwrap()).unwrap();
    (json(), json())
}

/// The ids of the keys that are published.
async fn key_ids(provider: &Oidc) -> Vec<String> {
    let set: Value = serde_json::from_str(&provider.page("/jwks").await.unwrap()).unwrap();
    set["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn tokens_of_each_algorithm_are_access_tokens_for_their_audience() {
    let Some(provider) = Oidc::start().await else { return };
    let published = key_ids(&provider).await;
    for signature in Signature::ALL {
        let token = provider.token(Client::Admin, ORDERS, signature, "orders:read orders:write").await;
        let (header, claims) = read(&token);
        assert_eq!(header["typ"], "at+jwt");
        assert_eq!(header["alg"], signature.name());
        assert!(published.contains(&header["kid"].as_str().unwrap().to_owned()), "{header} {published:?}");
        assert_eq!(claims["iss"], provider.issuer());
        assert_eq!(claims["aud"], ORDERS);
        assert_eq!(claims["sub"], Client::Admin.id());
        assert_eq!(claims["client_id"], Client::Admin.id());
        assert_eq!(claims["scope"], "orders:read orders:write");
        assert_eq!(claims["roles"], json!(["USER", "ADMIN"]));
        assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 600);
    }
}

#[tokio::test]
async fn clients_differ_in_subject_scopes_and_roles() {
    let Some(provider) = Oidc::start().await else { return };
    for (client, scopes, roles) in [
        (Client::Reader, "orders:read", json!(["USER"])),
        (Client::Writer, "orders:write", json!(["USER"])),
        (Client::Nobody, "", json!([])),
    ] {
        let (_, claims) = read(&provider.token(client, ORDERS, Signature::Es256, scopes).await);
        assert_eq!(claims["sub"], client.id());
        assert_eq!(claims["scope"].as_str().unwrap_or_default(), scopes);
        assert_eq!(claims["roles"], roles);
    }
}

#[tokio::test]
async fn rotation_signs_with_new_keys_and_keeps_or_drops_the_old_ones() {
    let Some(provider) = Oidc::start().await else { return };
    let first = key_ids(&provider).await;
    provider.rotate(OldKeys::Kept).await;
    let second = key_ids(&provider).await;
    assert_eq!((first.len(), second.len()), (3, 6));
    assert!(first.iter().all(|key| second.contains(key)));
    let (header, _) = read(&provider.token(Client::Reader, ORDERS, Signature::EdDsa, "").await);
    assert!(!first.contains(&header["kid"].as_str().unwrap().to_owned()), "the new key signs");
    provider.rotate(OldKeys::Dropped).await;
    let third = key_ids(&provider).await;
    assert_eq!(third.len(), 3);
    assert!(third.iter().all(|key| !second.contains(key)));
}

#[tokio::test]
async fn tokens_live_as_long_as_the_test_says() {
    let Some(provider) = Oidc::start().await else { return };
    provider.live_for(2).await;
    let (_, claims) = read(&provider.token(Client::Reader, ORDERS, Signature::Es256, "").await);
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 2);
}

#[tokio::test]
async fn a_stopped_provider_comes_back_at_the_same_place_with_the_same_keys() {
    let Some(mut provider) = Oidc::start().await else { return };
    let (issuer, keys) = (provider.issuer().to_owned(), key_ids(&provider).await);
    provider.stop();
    assert_eq!(provider.page("/jwks").await, None);
    provider.restart().await;
    assert_eq!((provider.issuer(), key_ids(&provider).await), (issuer.as_str(), keys));
}

#[tokio::test]
async fn a_frozen_provider_answers_nothing_until_it_is_thawed() {
    let Some(provider) = Oidc::start().await else { return };
    provider.freeze();
    assert!(timeout(Duration::from_millis(100), provider.page("/jwks")).await.is_err());
    provider.thaw();
    assert!(provider.page("/.well-known/openid-configuration").await.unwrap().contains("jwks_uri"));
}
