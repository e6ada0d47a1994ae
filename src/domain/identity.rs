//! Who calls, once a credential has been validated.

use std::sync::Arc;

use super::decision::Reason;
use super::revocation::Tags;
use super::status::StatusRef;
use super::time::Micros;

/// What kind of credential proved the identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityKind {
    /// A signed JSON Web Token (RFC 7519).
    Jwt,
    /// A token that only its issuer can read, who was asked (RFC 7662).
    Opaque,
    /// A key of our own.
    ApiKey,
    /// A certificate, with the private key that belongs to it (RFC 5280).
    Certificate,
}

/// SHA-256 of a key or certificate.
pub type Thumbprint = [u8; 32];

/// Which keys the caller must hold besides the credential (RFC 7800). All that are there must be proved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Binding {
    /// `x5t#S256`: of the client's certificate in DER (RFC 8705 §3.1).
    pub certificate: Option<Thumbprint>,
    /// `jkt`: of the client's public key as a JWK (RFC 7638, RFC 9449 §6.1).
    pub key: Option<Thumbprint>,
}

/// Who acts for the subject (RFC 8693 §4.1). For rules and logs; what is permitted is the subject's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// `iss`, where it is another than the token's.
    pub issuer: Option<Box<str>>,
    /// `sub`.
    pub subject: Option<Box<str>>,
    /// `client_id`.
    pub client: Option<Box<str>>,
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
    /// `jti`; of an API key its id.
    pub token_id: Option<Box<str>>,
    /// What a token without an id is taken back by: [`unnamed`](super::revocation::unnamed).
    pub token_hash: Option<Box<[u8; 32]>>,
    /// The key that signed the token, by its thumbprint (RFC 7638); none: no key did, the issuer was asked.
    pub signed_by: Option<Arc<Thumbprint>>,
    /// `sid`.
    pub session: Option<Box<str>>,
    /// The organisation that the caller belongs to, where the configuration says which claim names it.
    pub tenant: Option<Box<str>>,
    /// `act`: who acts, the latest first.
    pub actors: Box<[Actor]>,
    /// The claims that the configuration chose, by the names that it gave them, in its order; none that is not there.
    pub claims: Box<[(Box<str>, Box<str>)]>,
    /// Names that a certificate vouches for: SPIFFE IDs (`spiffe://…`) and other URIs, DNS names.
    pub names: Box<[Box<str>]>,
    /// Where its status stands, where the token names a list.
    pub status: Option<Box<StatusRef>>,
    /// Which keys the caller must hold besides; read it by [`binding`](Self::binding). Boxed, since few tokens are bound and
    /// very many identities are remembered.
    pub binding: Option<Box<Binding>>,
    /// Names of limits that the caller's calls consume besides those of the rule. One that the configuration does not have
    /// denies them.
    pub limits: Box<[Box<str>]>,
    /// `exp`, as the token says it, without leeway.
    pub expires_at: Option<Micros>,
    /// `nbf`.
    pub not_before: Option<Micros>,
    /// `iat`.
    pub issued_at: Option<Micros>,
    /// `auth_time`: when the subject last logged in (OIDC Core §2, RFC 9470 §4).
    pub logged_in_at: Option<Micros>,
    /// What it is looked for by among what was taken back; read it by [`Tags::of`].
    pub tags: Tags,
}

impl Binding {
    /// Whether no key is asked for.
    pub const fn is_none(&self) -> bool {
        self.certificate.is_none() && self.key.is_none()
    }

    /// Whether the caller holds the certificate's key, where that is asked for (RFC 8705 §3). `shown` is the thumbprint of
    /// the certificate whose key it holds.
    pub fn check_certificate(&self, shown: Option<&Thumbprint>) -> Result<(), Reason> {
        match (&self.certificate, shown) {
            (None, _) => Ok(()),
            (Some(_), None) => Err(Reason::BindingRequired),
            (Some(bound), Some(shown)) if bound == shown => Ok(()),
            (Some(_), Some(_)) => Err(Reason::BindingMismatch),
        }
    }
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
            token_hash: None,
            signed_by: None,
            session: None,
            tenant: None,
            actors: Box::default(),
            claims: Box::default(),
            names: Box::default(),
            status: None,
            binding: None,
            limits: Box::default(),
            expires_at: None,
            not_before: None,
            issued_at: None,
            logged_in_at: None,
            tags: Tags::default(),
        }
    }

    /// Which keys the caller must hold besides the credential.
    pub fn binding(&self) -> Binding {
        self.binding.as_deref().copied().unwrap_or_default()
    }

    /// Whether this very scope was granted: no prefixes, no case folding.
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes.iter().any(|granted| &**granted == scope)
    }

    /// Whether the credential is meant for this very audience.
    pub fn is_meant_for(&self, audience: &str) -> bool {
        self.audiences.iter().any(|own| &**own == audience)
    }

    /// Whether this very role is held.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|held| &**held == role)
    }
}
