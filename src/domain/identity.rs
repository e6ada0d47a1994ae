//! Who calls, once a credential has been validated.

use std::sync::Arc;

use super::time::Micros;

/// What kind of credential proved the identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityKind {
    /// A signed JSON Web Token (RFC 7519).
    Jwt,
}

/// The caller, as an issuer vouches for it. Made only from a credential that was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// What proved it.
    pub kind: IdentityKind,
    /// `iss`: who vouches. A subject or client means something only together with it.
    pub issuer: Arc<str>,
    /// `sub`.
    pub subject: Option<Box<str>>,
    /// `client_id`, or `azp` where that is absent.
    pub client: Option<Box<str>>,
    /// `preferred_username` or `username`, for people who read logs and introspection answers.
    pub username: Option<Box<str>>,
    /// Whether the issuer may say who runs Tollgate; administrative scopes count only then.
    pub may_operate: bool,
    /// Granted scopes, in the token's order.
    pub scopes: Box<[Box<str>]>,
    /// Roles, in the token's order; Keycloak's client roles included.
    pub roles: Box<[Box<str>]>,
    /// `aud`, always as a list.
    pub audiences: Box<[Box<str>]>,
    /// `jti`.
    pub token_id: Option<Box<str>>,
    /// `sid`.
    pub session: Option<Box<str>>,
    /// `exp`, as the token says it, without leeway.
    pub expires_at: Option<Micros>,
    /// `nbf`.
    pub not_before: Option<Micros>,
    /// `iat`.
    pub issued_at: Option<Micros>,
}

impl Identity {
    /// A caller of whom nothing is known but who vouches.
    pub fn vouched_by(issuer: impl Into<Arc<str>>) -> Self {
        Self {
            kind: IdentityKind::Jwt,
            issuer: issuer.into(),
            subject: None,
            client: None,
            username: None,
            may_operate: false,
            scopes: Box::default(),
            roles: Box::default(),
            audiences: Box::default(),
            token_id: None,
            session: None,
            expires_at: None,
            not_before: None,
            issued_at: None,
        }
    }

    /// Whether this very scope was granted: no prefixes, no case folding.
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes.iter().any(|granted| &**granted == scope)
    }

    /// Whether this very role is held.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|held| &**held == role)
    }
}
