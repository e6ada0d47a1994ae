//! How an issuer's servers are reached, for its keys, its metadata and its opinion on tokens alike.

use std::path::PathBuf;

use super::secret::Secret;

/// How an issuer's servers are reached. By default over https, with the system's certificate authorities and nothing to
/// show. Files that are read once are here as what they held: a file that changes makes another connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// The certificate authorities that are trusted instead of the system's, in PEM form.
    pub ca: Option<String>,
    /// Who we are to the server's TLS (RFC 8446 §4.4.2).
    pub certificate: Option<ClientCertificate>,
    /// A file that holds a bearer token (RFC 6750), read anew for each request: whoever issues it renews it in place.
    pub token: Option<PathBuf>,
    /// Headers that are sent besides, by name in lower case.
    pub headers: Vec<(String, Secret)>,
    /// Whether plain HTTP is allowed to other machines, too.
    pub plain_http: bool,
}

/// A certificate with its private key, both in PEM form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate, then those that lead from it to one that the server trusts.
    pub chain: String,
    /// The private key: PKCS #8, PKCS #1 or SEC 1.
    pub key: Secret,
}
