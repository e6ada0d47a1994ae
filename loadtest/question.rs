//! The question that is asked all the time, and the configuration under which it is allowed for ever.

use prost::Message as _;
use tollgate::decide::ports::Clock as _;
use tollgate::domain::issuer::KeySource;
use tollgate::proto as pb;
use tollgate::server::SystemClock;
use tollgate::server::dev::{self, DevIssuer};

use crate::orders::{POLICY, question};

/// One remembered token, two limits that never refuse.
pub(crate) struct Questions {
    /// The question.
    pub question: pb::DecideRequest,
    issuer: String,
}

impl Questions {
    /// Draws a key and makes a token with it.
    pub(crate) fn new(clock: SystemClock) -> Result<Self, String> {
        let dev = DevIssuer::new().map_err(|_| "the system has no randomness".to_owned())?;
        let token =
            dev.token("alice", "orders:read", clock.now().wall).map_err(|error| format!("no token: {error}"))?;
        Ok(Self { question: question(token), issuer: issuer(&dev)? })
    }

    /// The configuration of a server: any free ports, and Redis at that port if there is one.
    pub(crate) fn config(&self, redis: Option<u16>) -> String {
        config(&self.issuer, redis)
    }

    /// A call of `Decide`, encoded.
    pub(crate) fn unary(&self) -> Vec<u8> {
        self.question.encode_to_vec()
    }

    /// A call of `DecideBatch`, encoded.
    pub(crate) fn batch(&self, questions: usize) -> Vec<u8> {
        pb::DecideBatchRequest { questions: vec![self.question.clone(); questions] }.encode_to_vec()
    }

    /// A message of `DecideStream`, encoded, but for the id.
    pub(crate) fn streamed(&self) -> Vec<u8> {
        pb::DecideStreamRequest { id: 0, question: Some(self.question.clone()) }.encode_to_vec()
    }
}

/// The issuer of a first run, as it stands in a configuration.
pub(crate) fn issuer(dev: &DevIssuer) -> Result<String, String> {
    let config = dev::config(dev).map_err(|problems| problems.to_string())?;
    let issuer = config.issuers.into_iter().next().ok_or("the first run has no issuer")?;
    let KeySource::Inline(jwks) = issuer.keys else { return Err("the first run's issuer has no keys".to_owned()) };
    Ok(format!("issuer: {}, audiences: {:?}, jwks: {jwks}", issuer.issuer, issuer.audiences))
}

/// A configuration with that issuer: any free ports, and Redis at that port if there is one.
pub(crate) fn config(issuer: &str, redis: Option<u16>) -> String {
    // A busy machine is not what is measured: the deadline is too long to be met by it.
    let store = redis.map_or_else(String::new, |port| {
        format!("store: {{ redis: {{ urls: [\"redis://127.0.0.1:{port}\"], deadline: 2s }} }}\n")
    });
    format!(
        r#"listen: {{ grpc: "127.0.0.1:0", http: "127.0.0.1:0", admin: "127.0.0.1:0" }}
{store}issuers:
  - {{ {issuer} }}
{POLICY}"#
    )
}
