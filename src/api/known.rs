//! What introspection says of an active token, as every protocol writes it (RFC 7662 §2.2).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::domain::identity::{Binding, Identity, Thumbprint};

/// The keys that a token is bound to: the thumbprints in base64url.
pub(super) struct Keys {
    /// `x5t#S256` (RFC 8705 §3.2).
    pub(super) certificate: Option<String>,
    /// `jkt` (RFC 9449 §6.2).
    pub(super) key: Option<String>,
}

/// Which keys the token is bound to.
pub(super) fn keys(identity: &Identity) -> Keys {
    let encoded = |hash: Thumbprint| URL_SAFE_NO_PAD.encode(hash);
    let Binding { certificate, key } = identity.binding();
    Keys { certificate: certificate.map(encoded), key: key.map(encoded) }
}

/// The scheme that the token is good with: one that is bound to a key by `jkt` is not good as a bearer token (RFC 9449 §7.2).
pub(super) fn token_type(identity: &Identity) -> &'static str {
    if identity.binding().key.is_some() { "DPoP" } else { "Bearer" }
}

/// Separated by spaces. Some issuers give scopes as a list, and one of those may hold a space: it grants nothing here,
/// and must not be read as two scopes elsewhere.
pub(super) fn scope(identity: &Identity) -> String {
    let scopes: Vec<&str> = identity.scopes.iter().map(|scope| &**scope).filter(|scope| !scope.contains(' ')).collect();
    scopes.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_with_a_space_in_it_is_not_told_as_two() {
        let scopes = ["read", "tollgate:quota admin", "write"].map(Box::from).into();
        let identity = Identity { scopes, ..Identity::vouched_by("i") };
        assert!(!identity.has_scope("admin"));
        assert_eq!(scope(&identity), "read write");
    }
}
