//! What is demanded of the tokens of one issuer.

use std::path::PathBuf;

use super::connection::Connection;
use super::event::Events;
use super::identity::Binding;
use super::introspection::Introspection;
use super::revocation::Lifetimes;
use super::secret::Secret;
use super::status::StatusLists;
use super::time::Micros;

/// How tokens of one authorization server are recognised and judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// The value of `iss`, compared byte by byte.
    pub issuer: String,
    /// A token must be meant for one of these. Never empty.
    pub audiences: Vec<String>,
    /// Signature algorithms that are accepted (RFC 7518 §3.1, RFC 8037). Never empty; symmetric ones with
    /// [`KeySource::Secret`] and no others with it.
    pub algorithms: Vec<Algorithm>,
    /// Whether its tokens may hold administrative scopes. An issuer that is trusted to say who its users are need not be
    /// trusted to say who runs Tollgate.
    pub operators: bool,
    /// Accepted values of the `typ` header, in lower case and without `application/`.
    pub types: Vec<String>,
    /// Whether a token without a `typ` header is accepted.
    pub untyped: bool,
    /// Allowance for clocks that differ; at most a few minutes.
    pub leeway: Micros,
    /// By how much its clock may be ahead of ours; at most [`CLOCK_AHEAD_MAX`](super::revocation::CLOCK_AHEAD_MAX). What is
    /// taken back counts as taken back so much later.
    pub clock_ahead: Micros,
    /// Bound on `exp − iat`, so that a revocation need not be remembered for longer.
    pub max_token_lifetime: Micros,
    /// Which keys its tokens must be bound to.
    pub binding: BindingDemand,
    /// How long ago a token may have been made (`iat`), leeway aside; none: as long as it lives.
    pub max_age: Option<Micros>,
    /// Whether they are held to SPIFFE's JWT-SVID: nothing in the header but `alg`, `kid` and `typ`, and a SPIFFE ID as
    /// the subject.
    pub svid: bool,
    /// Claims that must be there besides `iss`, `aud`, `exp` and `iat`.
    pub required_claims: Vec<String>,
    /// Where scopes are found; the first that is there counts.
    pub scope_claims: Vec<ClaimPath>,
    /// Where roles are found; all that are there count.
    pub role_claims: Vec<ClaimPath>,
    /// Where the caller's organisation is found.
    pub tenant: Option<ClaimPath>,
    /// Claims that identities carry, beside those that they have anyway; each name once.
    pub claims: Vec<ChosenClaim>,
    /// Where the signing keys come from.
    pub keys: KeySource,
    /// How it is asked about its tokens, where it is.
    pub introspection: Option<Introspection>,
    /// What it may tell of sessions and accounts that have ended; none: nothing.
    pub events: Option<Events>,
    /// Which status lists of its tokens are asked.
    pub status_lists: StatusLists,
    /// How its servers are reached.
    pub connection: Connection,
    /// How long the last good keys serve while the issuer is away.
    pub stale_for: Micros,
    /// The least time between two refreshes that unknown `kid`s lead to.
    pub refresh_cooldown: Micros,
}

/// Which keys an issuer's tokens, or a rule's callers, must be bound to. Whatever a token is bound to is asked for, demanded or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BindingDemand {
    /// None.
    #[default]
    Nothing,
    /// A key, of whatever kind.
    AnyKey,
    /// The client's certificate (RFC 8705).
    Certificate,
    /// The key of `DPoP` proofs (RFC 9449).
    Dpop,
}

impl BindingDemand {
    /// Whether a token that is bound like this is accepted.
    pub const fn is_met_by(self, binding: Binding) -> bool {
        match self {
            Self::Nothing => true,
            Self::AnyKey => !binding.is_none(),
            Self::Certificate => binding.certificate.is_some(),
            Self::Dpop => binding.key.is_some(),
        }
    }

    /// Whether whatever meets this meets `measure` too.
    pub fn demands_as_much(self, measure: Self) -> bool {
        match measure {
            Self::Nothing => true,
            Self::AnyKey => self != Self::Nothing,
            Self::Certificate | Self::Dpop => self == measure,
        }
    }
}

/// A claim's place: member names from the outside in, taken literally. `*` as a whole name stands for every member.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClaimPath(pub Vec<String>);

/// A claim that identities carry, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenClaim {
    /// What it is called from here on.
    pub name: String,
    /// Where it is found; no `*`.
    pub place: ClaimPath,
}

/// Where an issuer's keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// `<issuer>/.well-known/openid-configuration`, or RFC 8414's place.
    Discovery,
    /// A JWK Set (RFC 7517 §5) at a URL.
    Url(String),
    /// A JWK Set in a file, read again when it changes.
    File(PathBuf),
    /// A JWK Set in the configuration, as JSON text.
    Inline(String),
    /// A secret that the issuer and we share: whoever verifies could forge.
    Secret(Secret),
    /// None are needed: the issuer itself is asked about its tokens.
    Unneeded,
}

/// `typ`s of tokens that are something else than access tokens, whatever an issuer is said to accept: RFC 9449 §4.2,
/// OIDC Back-Channel Logout §2.4, RFC 8417 §2.3, RFC 9701 §5, Token Status List, RFC 9101 §10.8.
pub const NEVER_ACCESS_TOKENS: [&str; 6] =
    ["dpop+jwt", "logout+jwt", "secevent+jwt", "token-introspection+jwt", "statuslist+jwt", "oauth-authz-req+jwt"];

/// JWS signature algorithms that Tollgate verifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are those of RFC 7518 §3.1 and RFC 8037 §3.1")]
pub enum Algorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
    HS256,
    HS384,
    HS512,
}

impl Issuer {
    /// How long its tokens live, as far as revocations go by it.
    pub const fn lifetimes(&self) -> Lifetimes {
        Lifetimes { longest: self.max_token_lifetime, leeway: self.leeway, clock_ahead: self.clock_ahead }
    }

    /// Whether its algorithms are for the keys that it has: public keys for some, a secret for others, never both.
    pub fn has_fitting_algorithms(&self) -> bool {
        let is_shared = matches!(self.keys, KeySource::Secret(_));
        self.algorithms.iter().all(|algorithm| algorithm.secret_bytes_min().is_some() == is_shared)
    }
}

impl Algorithm {
    /// Those with public keys, in the order of the documentation.
    pub const ASYMMETRIC: [Self; 9] = [
        Self::RS256,
        Self::RS384,
        Self::RS512,
        Self::PS256,
        Self::PS384,
        Self::PS512,
        Self::ES256,
        Self::ES384,
        Self::EdDSA,
    ];

    /// Those with a shared secret.
    pub const SYMMETRIC: [Self; 3] = [Self::HS256, Self::HS384, Self::HS512];

    /// The least secret that it may be used with, in bytes: as long as its hash (RFC 7518 §3.2); none where keys are
    /// public.
    pub const fn secret_bytes_min(self) -> Option<usize> {
        match self {
            Self::HS256 => Some(32),
            Self::HS384 => Some(48),
            Self::HS512 => Some(64),
            Self::RS256
            | Self::RS384
            | Self::RS512
            | Self::PS256
            | Self::PS384
            | Self::PS512
            | Self::ES256
            | Self::ES384
            | Self::EdDSA => None,
        }
    }

    /// The registered name, as it stands in `alg`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RS256 => "RS256",
            Self::RS384 => "RS384",
            Self::RS512 => "RS512",
            Self::PS256 => "PS256",
            Self::PS384 => "PS384",
            Self::PS512 => "PS512",
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::EdDSA => "EdDSA",
            Self::HS256 => "HS256",
            Self::HS384 => "HS384",
            Self::HS512 => "HS512",
        }
    }

    /// The algorithm of that registered name; names are case-sensitive (RFC 7515 §4.1.1). `Ed25519` (RFC 9864) is
    /// the same as `EdDSA`, whose only curve here it is.
    pub fn from_name(name: &str) -> Option<Self> {
        if name == "Ed25519" {
            return Some(Self::EdDSA);
        }
        Self::ASYMMETRIC.into_iter().chain(Self::SYMMETRIC).find(|algorithm| algorithm.name() == name)
    }

    /// The same among those whose keys are public; a secret that two share proves nothing of either.
    pub fn asymmetric(name: &str) -> Option<Self> {
        Self::from_name(name).filter(|algorithm| algorithm.secret_bytes_min().is_none())
    }
}
