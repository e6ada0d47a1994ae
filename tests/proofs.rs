//! Tokens that a real provider binds to a client's key, and `DPoP` proofs of that key, through the whole service.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tollgate::proto as pb;

use crate::support::oidc::{Client, Oidc, Signature};
use crate::support::redis::RedisServer;
use crate::support::server::{Tollgate, in_redis, question};

const AUDIENCE: &str = "https://orders.example";
const URL: &str = "https://api.example/orders/1";

/// A client's key.
struct Key(EcdsaKeyPair);

impl Key {
    fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    /// A proof for a call of `url`, with the token that goes with it.
    fn proof(&self, method: &str, url: &str, id: &str, more: &Value) -> String {
        let (x, y) = self.0.public_key().as_ref()[1..].split_at(32);
        let jwk = json!({"kty": "EC", "crv": "P-256", "x": b64(x), "y": b64(y)});
        let header = json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk});
        #[expect(clippy::disallowed_methods, reason = "the provider goes by the machine's clock")]
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mut claims = json!({"jti": id, "htm": method, "htu": url, "iat": now});
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let input = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
        let signature = self.0.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        format!("{input}.{}", b64(signature))
    }

    /// A token of the provider's that is bound to this key.
    async fn token(&self, oidc: &Oidc) -> String {
        self.token_of(oidc, Some(Signature::Es256)).await
    }

    async fn token_of(&self, oidc: &Oidc, signature: Option<Signature>) -> String {
        let proof = self.proof("POST", &format!("{}/token", oidc.issuer()), "token", &json!({}));
        oidc.bound_token(Client::Reader, AUDIENCE, signature, &proof).await
    }

    /// The proof of the first call of [`URL`] with `token`, or of another.
    fn call(&self, token: &str, id: &str) -> String {
        self.proof("GET", URL, id, &json!({"ath": b64(digest(&SHA256, token.as_bytes()))}))
    }
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn asked(scheme: &str, token: &str, proofs: &[&str]) -> pb::DecideRequest {
    let kind = Some(pb::credential::Kind::Authorization(format!("{scheme} {token}")));
    let dpop_proofs = proofs.iter().map(|&proof| proof.to_owned()).collect();
    let mut question = question("GET", "/orders/1", None);
    "api.example".clone_into(&mut question.request.as_mut().unwrap().host);
    pb::DecideRequest {
        credential: Some(pb::Credential { kind, dpop_proofs, ..pb::Credential::default() }),
        ..question
    }
}

async fn verdict(tollgate: &Tollgate, question: pb::DecideRequest) -> String {
    let answer = tollgate.decide(question).await;
    if answer.allowed { "allow".to_owned() } else { answer.detail }
}

fn policy(oidc: &Oidc, more: &str) -> String {
    let issuer = oidc.issuer();
    format!(
        "issuers: [{{ issuer: {issuer}, audiences: [{AUDIENCE}] }}]\nrules: [{{ match: {{ path: /** }} }}]\n{more}\n"
    )
}

#[tokio::test]
async fn a_bound_token_is_good_with_a_proof_for_each_call() {
    let Some(oidc) = Oidc::start().await else { return };
    let tollgate = Tollgate::start(&policy(&oidc, "")).await;
    let (key, thief) = (Key::new(), Key::new());
    let token = key.token(&oidc).await;
    let good = key.call(&token, "1");
    assert_eq!(verdict(&tollgate, asked("DPoP", &token, &[&good])).await, "allow");
    assert_eq!(verdict(&tollgate, asked("DPoP", &token, &[&good])).await, "invalid_dpop_proof", "replayed");
    let (next, stolen) = (key.call(&token, "2"), thief.call(&token, "2"));
    assert_eq!(verdict(&tollgate, asked("Bearer", &token, &[&next])).await, "binding_required");
    assert_eq!(verdict(&tollgate, asked("DPoP", &token, &[])).await, "invalid_dpop_proof");
    assert_eq!(verdict(&tollgate, asked("DPoP", &token, &[&next, &next])).await, "invalid_dpop_proof");
    assert_eq!(verdict(&tollgate, asked("DPoP", &token, &[&stolen])).await, "binding_mismatch");
    let elsewhere = key.proof("GET", "https://api.example/orders/2", "2", &json!({}));
    assert_eq!(verdict(&tollgate, asked("DPoP", &token, &[&elsewhere])).await, "invalid_dpop_proof");
    assert_eq!(verdict(&tollgate, asked("DPoP", &token, &[&next])).await, "allow");
    assert!(tollgate.metric(r#"tollgate_dpop_proofs_refused_total{cause="replayed"}"#).await > 0.0);
    let plain = oidc.token(Client::Reader, AUDIENCE, Signature::Es256, "").await;
    assert_eq!(verdict(&tollgate, asked("DPoP", &plain, &[&key.call(&plain, "3")])).await, "binding_required");
    assert_eq!(verdict(&tollgate, asked("Bearer", &plain, &[])).await, "allow");
}

#[tokio::test]
async fn a_token_that_its_issuer_says_is_bound_needs_a_proof_whether_it_is_asked_about_or_remembered() {
    let Some(oidc) = Oidc::start().await else { return };
    let issuer = oidc.issuer();
    let tollgate = Tollgate::start(&format!(
        "issuers:\n  - issuer: {issuer}\n    audiences: [{AUDIENCE}]\n    introspection: {{ client_id: tollgate-basic, \
         client_secret: secret of tollgate-basic }}\nrules: [{{ match: {{ path: /** }} }}]\n"
    ))
    .await;
    let (key, thief) = (Key::new(), Key::new());
    let token = key.token_of(&oidc, None).await;
    for turn in ["new", "remembered"] {
        assert_eq!(verdict(&tollgate, asked("Bearer", &token, &[])).await, "binding_required", "{turn}");
        assert_eq!(verdict(&tollgate, asked("DPoP", &token, &[])).await, "invalid_dpop_proof", "{turn}");
        assert_eq!(verdict(&tollgate, asked("DPoP", &token, &[&thief.call(&token, turn)])).await, "binding_mismatch");
        assert_eq!(verdict(&tollgate, asked("DPoP", &token, &[&key.call(&token, turn)])).await, "allow", "{turn}");
    }
}

#[tokio::test]
async fn of_replicas_that_are_shown_one_proof_at_once_one_accepts_it() {
    let (Some(oidc), Some(mut redis)) = (Oidc::start().await, RedisServer::start()) else { return };
    let yaml = policy(&oidc, &in_redis(&redis));
    let (one, other) = (Tollgate::start(&yaml).await, Tollgate::start(&yaml).await);
    let key = Key::new();
    let token = key.token(&oidc).await;
    for turn in 0..10 {
        let proof = key.call(&token, &format!("at once {turn}"));
        let question = asked("DPoP", &token, &[&proof]);
        let replicas = [&one, &other, &one, &other].into_iter();
        let verdicts = join_all(replicas.map(|replica| verdict(replica, question.clone()))).await;
        assert_eq!(verdicts.iter().filter(|verdict| *verdict == "allow").count(), 1, "{verdicts:?}");
        assert!(verdicts.iter().all(|verdict| verdict == "allow" || verdict == "invalid_dpop_proof"), "{verdicts:?}");
    }
    // One that has just started knows what the others were shown.
    let proof = key.call(&token, "before");
    assert_eq!(verdict(&one, asked("DPoP", &token, &[&proof])).await, "allow");
    assert!(one.server.stop().await && other.server.stop().await);
    let third = Tollgate::start(&yaml).await;
    assert_eq!(verdict(&third, asked("DPoP", &token, &[&proof])).await, "invalid_dpop_proof");
    redis.kill();
    let proof = key.call(&token, "away");
    assert_eq!(verdict(&third, asked("DPoP", &token, &[&proof])).await, "store_away");
}

#[tokio::test]
async fn where_nonces_are_demanded_the_answer_names_one_that_any_replica_accepts() {
    let Some(oidc) = Oidc::start().await else { return };
    let yaml = policy(&oidc, "dpop: { nonce_secret: 0123456789abcdef0123456789ABCDEF }");
    let (one, other) = (Tollgate::start(&yaml).await, Tollgate::start(&yaml).await);
    let key = Key::new();
    let token = key.token(&oidc).await;
    let answer = one.decide(asked("DPoP", &token, &[&key.call(&token, "1")])).await;
    assert_eq!((answer.allowed, answer.detail.as_str()), (false, "use_dpop_nonce"));
    let more = json!({"ath": b64(digest(&SHA256, token.as_bytes())), "nonce": answer.dpop_nonce});
    let proof = key.proof("GET", URL, "1", &more);
    let answer = other.decide(asked("DPoP", &token, &[&proof])).await;
    assert!(answer.allowed, "{}", answer.detail);
}
