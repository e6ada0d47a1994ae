//! How an issuer is asked about tokens that only it can read (RFC 7662).

use super::secret::Secret;
use super::time::Micros;

/// How an issuer is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Introspection {
    /// Where; none: the issuer's metadata says it (`introspection_endpoint`, RFC 8414 §2).
    pub url: Option<String>,
    /// Our own name at the issuer. A signed answer must be meant for it.
    pub client_id: String,
    /// How we prove that name.
    pub auth: ClientAuth,
    /// How long a good answer serves at most; no longer than the token.
    pub cache: Micros,
    /// How long one call may take.
    pub deadline: Micros,
    /// Whether answers must be signed (RFC 9701).
    pub signed: bool,
    /// What the issuer's opaque tokens begin with; none: any.
    pub prefix: Option<String>,
    /// Whether the issuer is asked about its JWTs, too, rather than keys in hand.
    pub all: bool,
}

/// How a client authenticates at its authorization server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// `client_secret_basic` (RFC 6749 §2.3.1).
    Basic(Secret),
    /// `client_secret_post` (RFC 6749 §2.3.1).
    Post(Secret),
    /// The certificate of the connection (RFC 8705 §2).
    Mtls,
}
