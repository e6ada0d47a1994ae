//! The configuration: one YAML file, read strictly, all problems at once.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::domain::issuer::Issuer;
use crate::domain::policy::Policy;
use crate::domain::time::Micros;

/// Everything that a server is told, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where it listens.
    pub listen: Listen,
    /// Where quotas are kept.
    pub store: Store,
    /// Whose tokens are accepted; each issuer once.
    pub issuers: Vec<Issuer>,
    /// Rules and limits; its version is left at 0.
    pub policy: Policy,
    /// How much is accepted at a time.
    pub bounds: Bounds,
}

/// Where the server listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// gRPC; 127.0.0.1:50051 by default.
    pub grpc: SocketAddr,
    /// Metrics and probes; 127.0.0.1:9464 by default.
    pub admin: SocketAddr,
}

/// Where quotas are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    /// In this process: the embedded default.
    Memory,
    /// In Redis.
    Redis(Redis),
}

/// How Redis is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redis {
    /// `redis://` or `rediss://` (TLS), with host, port, database; user and password may be in it.
    pub url: Secret,
    /// Overrides the URL's user.
    pub username: Option<String>,
    /// Overrides the URL's password.
    pub password: Option<Secret>,
    /// A certificate authority (PEM) for `rediss://`, beside the system's.
    pub ca: Option<PathBuf>,
    /// How long one call may take; 12 ms by default, below Envoy's 20 ms for an external check.
    pub deadline: Micros,
}

/// How much is accepted at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// gRPC calls in flight; more are turned away at once. 10,000 by default.
    pub calls_in_flight: usize,
    /// How long calls in flight may go on after a stop was asked for; 10 s by default.
    pub drain: Micros,
}

/// A value that never reaches a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `value`.
    pub const fn new(value: String) -> Self {
        Self(value)
    }

    /// The value itself, for whoever has to show it to someone else.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}
