//! What is answered: the decision, its reason, and what became of each quota.

use std::sync::Arc;

use smallvec::SmallVec;

use super::identity::Identity;
use super::identity_headers::IdentityHeader;
use super::limit::{CounterKey, Kind, Limit};
use super::policy::Policy;
use super::time::Micros;
use super::window::LeaseId;

/// Why a call may or may not go on. Closed: every façade places each of them by hand (see `api::codes`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// It may go on.
    Allowed,

    /// The rule demands a credential and none was shown.
    NoCredential,
    /// The credential has not the form of one.
    MalformedToken,
    /// The credential is larger than any that is accepted.
    TokenTooLarge,
    /// An encrypted token, for which there is no key.
    EncryptedToken,
    /// The token demands an extension that is not understood (`crit`, RFC 7515 §4.1.11).
    UnsupportedExtension,
    /// The signature algorithm is unknown, not allowed, or does not fit the key.
    BadAlgorithm,
    /// No configured issuer has the token's `iss`.
    UnknownIssuer,
    /// The issuer has no such key.
    UnknownKey,
    /// The signature does not verify.
    BadSignature,
    /// `exp` has passed.
    Expired,
    /// `nbf` or `iat` lies ahead.
    NotYetValid,
    /// The token was made to live longer than its issuer's tokens may.
    LifetimeTooLong,
    /// The token is meant for someone else.
    WrongAudience,
    /// Not an access token: an ID token, a logout token, …
    WrongType,
    /// A claim that is demanded is not there.
    MissingClaim,
    /// The token was revoked.
    Revoked,
    /// The issuer was asked, and says that the token is not active (RFC 7662).
    InactiveToken,
    /// The API key is not one that is good: its id, its secret or its checksum is wrong, or it has ended. One reason for
    /// all, so that nobody learns which.
    UnknownApiKey,
    /// The token, or the authentication behind it, is older than accepted (RFC 9470).
    TokenTooOld,
    /// A proof of possession is demanded, and the token is bound to no key, or none was shown (RFC 8705, RFC 9449).
    BindingRequired,
    /// The token is bound to another key or certificate than the caller's.
    BindingMismatch,
    /// The `DPoP` proof is malformed, stale, replayed, or made for something else (RFC 9449 §4.3).
    InvalidDpopProof,
    /// The `DPoP` proof lacks a nonce that is still good (RFC 9449 §9).
    UseDpopNonce,

    /// No rule matches the request.
    NoRule,
    /// A scope that the rule demands was not granted.
    InsufficientScope,
    /// None of the roles that the rule demands is held.
    InsufficientRole,
    /// None of the names that the rule demands is the caller's.
    WrongCaller,
    /// The rule's expression is not true of the call, or has no value for it.
    ConditionNotMet,
    /// The call comes from an address that the rule does not let in.
    WrongAddress,
    /// The call was made by a page of an origin that the rule does not let in (RFC 6454).
    WrongOrigin,
    /// The body is larger than the rule lets it be.
    BodyTooLarge,
    /// The rule bounds the body, and nobody can say how large it is.
    LengthRequired,

    /// A quota is used up.
    QuotaExceeded,

    /// The quota store is away and a limit says deny.
    StoreAway,
    /// The issuer's keys could not be had yet.
    KeysAway,
    /// The issuer could not be asked about an opaque token.
    IssuerAway,
    /// What has been revoked is not known well enough, and the policy says deny.
    RevocationsAway,
    /// So many tokens wait for their signatures to be checked that this one was not even begun with.
    Busy,
}

/// The kinds of reasons that callers tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// It may go on.
    Allow,
    /// Who calls is not established.
    Unauthenticated,
    /// Who calls is known, and may not.
    PermissionDenied,
    /// A quota is used up.
    QuotaExceeded,
    /// It could not be found out, and the operator chose to deny then.
    DependencyUnavailable,
}

impl Reason {
    /// Every reason, in the order of the documentation.
    pub const ALL: [Self; 39] = [
        Self::Allowed,
        Self::NoCredential,
        Self::MalformedToken,
        Self::TokenTooLarge,
        Self::EncryptedToken,
        Self::UnsupportedExtension,
        Self::BadAlgorithm,
        Self::UnknownIssuer,
        Self::UnknownKey,
        Self::BadSignature,
        Self::Expired,
        Self::NotYetValid,
        Self::LifetimeTooLong,
        Self::WrongAudience,
        Self::WrongType,
        Self::MissingClaim,
        Self::Revoked,
        Self::InactiveToken,
        Self::UnknownApiKey,
        Self::TokenTooOld,
        Self::BindingRequired,
        Self::BindingMismatch,
        Self::InvalidDpopProof,
        Self::UseDpopNonce,
        Self::NoRule,
        Self::InsufficientScope,
        Self::InsufficientRole,
        Self::WrongCaller,
        Self::ConditionNotMet,
        Self::WrongAddress,
        Self::WrongOrigin,
        Self::BodyTooLarge,
        Self::LengthRequired,
        Self::QuotaExceeded,
        Self::StoreAway,
        Self::KeysAway,
        Self::IssuerAway,
        Self::RevocationsAway,
        Self::Busy,
    ];

    /// What kind of reason it is.
    pub const fn class(self) -> Class {
        match self {
            Self::Allowed => Class::Allow,
            Self::NoCredential
            | Self::MalformedToken
            | Self::TokenTooLarge
            | Self::EncryptedToken
            | Self::UnsupportedExtension
            | Self::BadAlgorithm
            | Self::UnknownIssuer
            | Self::UnknownKey
            | Self::BadSignature
            | Self::Expired
            | Self::NotYetValid
            | Self::LifetimeTooLong
            | Self::WrongAudience
            | Self::WrongType
            | Self::MissingClaim
            | Self::Revoked
            | Self::InactiveToken
            | Self::UnknownApiKey
            | Self::TokenTooOld
            | Self::BindingRequired
            | Self::BindingMismatch
            | Self::InvalidDpopProof
            | Self::UseDpopNonce => Class::Unauthenticated,
            Self::NoRule
            | Self::InsufficientScope
            | Self::InsufficientRole
            | Self::WrongCaller
            | Self::ConditionNotMet
            | Self::WrongAddress
            | Self::WrongOrigin
            | Self::BodyTooLarge
            | Self::LengthRequired => Class::PermissionDenied,
            Self::QuotaExceeded => Class::QuotaExceeded,
            Self::StoreAway | Self::KeysAway | Self::IssuerAway | Self::RevocationsAway | Self::Busy => {
                Class::DependencyUnavailable
            }
        }
    }

    /// Whether a credential was shown and is not accepted: what a limit with `charge: on_failure` counts. Honest callers begin
    /// without a credential, or with a proof that lacks the nonce which the answer tells them; that counts for nothing.
    pub const fn is_failed_authentication(self) -> bool {
        matches!(self.class(), Class::Unauthenticated) && !matches!(self, Self::NoCredential | Self::UseDpopNonce)
    }

    /// Whether the call may go on.
    pub const fn allows(self) -> bool {
        matches!(self, Self::Allowed)
    }

    /// The stable name: in answers as `detail`, in metrics and in logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::NoCredential => "no_credential",
            Self::MalformedToken => "malformed_token",
            Self::TokenTooLarge => "token_too_large",
            Self::EncryptedToken => "encrypted_token",
            Self::UnsupportedExtension => "unsupported_extension",
            Self::BadAlgorithm => "bad_algorithm",
            Self::UnknownIssuer => "unknown_issuer",
            Self::UnknownKey => "unknown_key",
            Self::BadSignature => "bad_signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::LifetimeTooLong => "lifetime_too_long",
            Self::WrongAudience => "wrong_audience",
            Self::WrongType => "wrong_type",
            Self::MissingClaim => "missing_claim",
            Self::Revoked => "revoked",
            Self::InactiveToken => "inactive_token",
            Self::UnknownApiKey => "unknown_api_key",
            Self::TokenTooOld => "token_too_old",
            Self::BindingRequired => "binding_required",
            Self::BindingMismatch => "binding_mismatch",
            Self::InvalidDpopProof => "invalid_dpop_proof",
            Self::UseDpopNonce => "use_dpop_nonce",
            Self::NoRule => "no_rule",
            Self::InsufficientScope => "insufficient_scope",
            Self::InsufficientRole => "insufficient_role",
            Self::WrongCaller => "wrong_caller",
            Self::ConditionNotMet => "condition_not_met",
            Self::WrongAddress => "wrong_address",
            Self::WrongOrigin => "wrong_origin",
            Self::BodyTooLarge => "body_too_large",
            Self::LengthRequired => "length_required",
            Self::QuotaExceeded => "quota_exceeded",
            Self::StoreAway => "store_away",
            Self::KeysAway => "keys_away",
            Self::IssuerAway => "issuer_away",
            Self::RevocationsAway => "revocations_away",
            Self::Busy => "busy",
        }
    }
}

/// The answer to a question.
#[derive(Clone, Debug)]
pub struct Decision {
    /// Allow, or why not.
    pub reason: Reason,
    /// The policy that it was made under; names are looked up in here.
    pub policy: Arc<Policy>,
    /// The rule that decided, as an index into the policy's rules.
    pub rule: Option<usize>,
    /// Who calls, where that was established.
    pub identity: Option<Arc<Identity>>,
    /// The quotas that were asked: those that come before the credential and those that failures consume, then the others of the
    /// rule, in its order, then the extra ones.
    pub quotas: QuotaStates,
    /// The scopes that the rule and whoever asked demand, where one of them was missing.
    pub required_scopes: Vec<String>,
    /// What the call holds until it is settled: slots of concurrency limits.
    pub held: Option<Box<Held>>,
    /// The nonce that the caller's next `DPoP` proof is to hold (RFC 9449 §8), where that has to be said.
    pub dpop_nonce: Option<Box<str>>,
    /// How the answer came about, where the question asked for it.
    pub explanation: Option<Box<Explanation>>,
}

/// The states of several quotas; rules rarely name more than four.
pub type QuotaStates = SmallVec<[QuotaState; 4]>;

/// What became of one quota.
#[derive(Clone, Debug)]
pub struct QuotaState {
    /// Which limit.
    pub limit: Arc<Limit>,
    /// Whether the quota lets the call go on.
    pub verdict: QuotaVerdict,
    /// Units that are left.
    pub remaining: u64,
    /// Time until some of what is used returns; zero while nothing is used.
    pub reset_after: Micros,
}

/// A counter of which something is held. The same key under another algorithm is another counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldCounter {
    /// Its key.
    pub key: CounterKey,
    /// The algorithm by which it counted then.
    pub kind: Kind,
}

/// What is held until it is settled, or expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its name, one for all counters.
    pub lease: LeaseId,
    /// Of which counters, in the order of the charges.
    pub counters: Vec<HeldCounter>,
    /// How long it is held when it is not settled, counted from the asking.
    pub expires_after: Micros,
}

/// Whether one quota lets a call go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaVerdict {
    /// The units were there.
    Granted,
    /// Not enough is left now; the units fit again after this time, if nobody else takes them.
    Short {
        /// Time until the cost fits.
        retry_after: Micros,
    },
    /// The cost is more than the limit ever holds.
    Never,
    /// The store could not be asked.
    Away,
}

impl QuotaVerdict {
    /// Whether the units were granted.
    pub const fn is_granted(self) -> bool {
        matches!(self, Self::Granted)
    }
}

/// How an answer came about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// Where the token's verdict came from.
    pub token: Option<Provenance>,
    /// Where the quotas' states came from.
    pub quotas: Option<Provenance>,
}

/// Where a part of an answer came from. In the order in which one says more of a whole than another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Provenance {
    /// From this process's memory.
    Memory,
    /// It had to be asked or computed.
    Asked,
    /// It should have been asked, and whoever knows was away: what was in hand, or what the configuration says then.
    Away,
}

impl Decision {
    /// The name of the rule that decided.
    pub fn rule_name(&self) -> Option<&str> {
        self.rule.map(|index| self.policy.rules[index].name.as_str())
    }

    /// The headers that tell the service behind who calls, by name, where the call may go on to it.
    pub fn identity_headers(&self) -> impl Iterator<Item = (&str, String)> {
        let identity = self.identity.as_deref().filter(|_| self.reason.allows());
        let headers = identity.map(|identity| (identity, &self.policy.identity_headers));
        headers.into_iter().flat_map(|(identity, headers)| {
            headers.iter().filter_map(|IdentityHeader { name, facet }| Some((&**name, facet.value(identity)?)))
        })
    }

    /// The time after which asking again can succeed, where waiting helps at all.
    pub fn retry_after(&self) -> Option<Micros> {
        longest_wait(&self.quotas)
    }
}

/// The longest wait among the quotas that are short; none where waiting does not help.
pub fn longest_wait(quotas: &QuotaStates) -> Option<Micros> {
    if quotas.iter().any(|quota| quota.verdict == QuotaVerdict::Never) {
        return None;
    }
    quotas
        .iter()
        .filter_map(|quota| match quota.verdict {
            QuotaVerdict::Short { retry_after } => Some(retry_after),
            QuotaVerdict::Granted | QuotaVerdict::Never | QuotaVerdict::Away => None,
        })
        .max()
}
