//! The first run: an issuer of its own with a fresh key, and a sample policy.

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::Server;
use crate::config::{self, Config, Listen, Problems};
use crate::domain::time::Micros;

/// The sample configuration. JSON is YAML, so the issuer's key is put in as it is.
const SAMPLE: &str = include_str!("dev.yaml");

/// Where the key belongs in it.
const KEY_PLACE: &str = "KEY_OF_THIS_RUN";

/// The issuer's name, as the sample has it. No one can look it up: its key is handed over directly.
pub const ISSUER: &str = "https://dev.tollgate.invalid";

/// Whom its tokens are meant for, as the sample has it.
pub const AUDIENCE: &str = "demo";

/// The key's name.
pub(super) const KEY_ID: &str = "dev";

/// How long its tokens live.
const LIFETIME: Micros = Micros::from_secs(12 * 60 * 60);

/// An issuer that lives as long as the process.
pub struct DevIssuer {
    signing: EncodingKey,
    public: Vec<u8>,
}

impl DevIssuer {
    /// Draws a key.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn new() -> Result<Self, Unspecified> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref())?;
        Ok(Self { signing: EncodingKey::from_ec_der(document.as_ref()), public: pair.public_key().as_ref().to_vec() })
    }

    /// Its public key, as a JWK (RFC 7518 §6.2.1).
    pub fn public_key(&self) -> Value {
        // An uncompressed point (SEC 1 §2.3.3): 4, x, y.
        let (x, y) = self.public[1..].split_at(32);
        json!({
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": KEY_ID,
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        })
    }

    /// A token for `subject`, issued at `now` (since the Unix epoch).
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn token(&self, subject: &str, scope: &str, now: Micros) -> Result<String, jsonwebtoken::errors::Error> {
        let mut id = [0; 12];
        aws_lc_rs::rand::fill(&mut id).map_err(|_| ErrorKind::Signing("no randomness".to_owned()))?;
        let claims = json!({
            "iss": ISSUER, "aud": AUDIENCE, "sub": subject, "client_id": "demo-client", "scope": scope,
            "jti": URL_SAFE_NO_PAD.encode(id), "iat": now.as_secs(), "exp": (now + LIFETIME).as_secs(),
        });
        self.sign(Some("at+jwt"), KEY_ID, &claims)
    }

    /// A token with these claims, and `typ` and `kid` in its header.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn sign(&self, typ: Option<&str>, kid: &str, claims: &Value) -> Result<String, jsonwebtoken::errors::Error> {
        let mut header = Header::new(Algorithm::ES256);
        header.typ = typ.map(str::to_owned);
        header.kid = Some(kid.to_owned());
        jsonwebtoken::encode(&header, claims, &self.signing)
    }
}

/// What a first run is configured with: the sample policy, and `issuer`.
///
/// # Errors
/// The sample is wrong; a test sees to it that it is not.
pub fn config(issuer: &DevIssuer) -> Result<Config, Problems> {
    let sample = SAMPLE.replace(KEY_PLACE, &issuer.public_key().to_string());
    // Nothing in it is taken from the environment, and it leads to no warnings.
    config::parse(&sample, "dev.yaml", &|_| None).map(|(config, _)| config)
}

/// What a newcomer sees: where the server listens, and commands to paste.
pub fn welcome(server: &Server, token: &str) -> String {
    let Server { grpc, http, admin, .. } = server;
    format!(
        r#"
Tollgate {version} is ready, with a sample policy and an issuer of its own.

  gRPC     {grpc}    (tollgate.v1, ext_authz, health, reflection)
  HTTP     http://{http}    (/v1/decide, /forward-auth, /oauth2)
  metrics  http://{admin}/metrics    probes  http://{admin}/readyz

A token for alice, good for 12 hours, with the scope orders:read:

export TOLLGATE_TOKEN={token}

Ask whether her call may go on. Five times in 30 seconds it may, the sixth time a quota refuses:

cargo run --release -q -- decide{url} GET /orders/1

The same with grpcurl:

grpcurl -plaintext -d '{{"credential": {{"bearerToken": "'$TOLLGATE_TOKEN'"}}, "request": {{"method": "GET", "path": "/orders/1"}}}}' {grpc} tollgate.v1.DecisionService/Decide

Other questions to try:  decide GET /public/x   decide GET /admin/x   decide GET /orders/../admin   (--explain says why)
"#,
        version = env!("CARGO_PKG_VERSION"),
        url = if *grpc == Listen::default().grpc { String::new() } else { format!(" --url http://{grpc}") },
    )
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn the_sample_policy_is_a_good_one() {
        let issuer = DevIssuer::new().unwrap();
        let sample = SAMPLE.replace(KEY_PLACE, &issuer.public_key().to_string());
        let (config, warnings) = config::parse(&sample, "dev.yaml", &|_| None).unwrap();
        assert_eq!(warnings, []);
        assert_eq!((config.issuers[0].issuer.as_str(), config.issuers[0].audiences[0].as_str()), (ISSUER, AUDIENCE));
        assert_eq!(config.policy.rules.len(), 3);
        assert_eq!(config.policy.limits.len(), 2);
        assert_eq!(config.bounds.remembered_tokens, crate::tokens::VERDICTS_MAX_DEFAULT);
        assert!(config.listen.grpc.ip().is_loopback() && config.listen.admin.ip().is_loopback());
    }
}
