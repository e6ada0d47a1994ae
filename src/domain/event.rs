//! What identity providers tell on their own account: that a session or an account has ended (`OpenID` Connect
//! Back-Channel Logout, RFC 8417 with CAEP and RISC).

/// Whether and how an issuer tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Events {
    /// Logout tokens and security events must be meant for one of these. Never empty.
    pub audiences: Vec<String>,
    /// Where security events are fetched from (RFC 8936); none: they are only pushed.
    pub poll: Option<String>,
}

/// An event that takes something back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A user logged out (Back-Channel Logout §2.4).
    Logout,
    /// A session ended (CAEP §3.1).
    SessionRevoked,
    /// A password or another credential is another, or gone (CAEP §3.3).
    CredentialChange,
    /// An account may not be used any more (RISC §2.4).
    AccountDisabled,
    /// An account is gone for good (RISC §2.3).
    AccountPurged,
    /// Somebody else knows a credential (RISC §2.7).
    CredentialCompromise,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::Logout,
        Self::SessionRevoked,
        Self::CredentialChange,
        Self::AccountDisabled,
        Self::AccountPurged,
        Self::CredentialCompromise,
    ];

    /// The URI that names it in `events` (RFC 8417 §2.2).
    pub const fn uri(self) -> &'static str {
        match self {
            Self::Logout => "http://schemas.openid.net/event/backchannel-logout",
            Self::SessionRevoked => "https://schemas.openid.net/secevent/caep/event-type/session-revoked",
            Self::CredentialChange => "https://schemas.openid.net/secevent/caep/event-type/credential-change",
            Self::AccountDisabled => "https://schemas.openid.net/secevent/risc/event-type/account-disabled",
            Self::AccountPurged => "https://schemas.openid.net/secevent/risc/event-type/account-purged",
            Self::CredentialCompromise => "https://schemas.openid.net/secevent/risc/event-type/credential-compromise",
        }
    }

    /// The kind of that URI; none: an event that takes nothing back.
    pub fn from_uri(uri: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.uri() == uri)
    }

    /// Its name, for people: why something is revoked.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Logout => "logout",
            Self::SessionRevoked => "session-revoked",
            Self::CredentialChange => "credential-change",
            Self::AccountDisabled => "account-disabled",
            Self::AccountPurged => "account-purged",
            Self::CredentialCompromise => "credential-compromise",
        }
    }
}

/// Why what somebody tells is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventFlaw {
    /// It has not the form of a signed JWT, or a claim is missing or of a wrong type.
    #[error("it is no signed JWT with `iss`, `aud`, `iat`, `jti` and `events`, each of its type")]
    Form,
    /// No issuer of that name is configured to tell anything.
    #[error("no issuer with this `iss` is configured to tell events (issuers[].events)")]
    Issuer,
    /// Its signature is not by a key of the issuer and with one of its algorithms.
    #[error("its signature does not verify with the issuer's keys and algorithms")]
    Key,
    /// It is meant for others.
    #[error("its `aud` is none of issuers[].events.audiences")]
    Audience,
    /// `typ` says that it is something else.
    #[error("its `typ` is that of another kind of token")]
    Type,
    /// It has expired, or is issued in the future.
    #[error("its `iat`, `nbf` or `exp` does not fit the time")]
    Time,
    /// A logout token that tells no logout, or has a `nonce`; or more events than are read.
    #[error("its `events` are not those of such a token, or it has a `nonce`")]
    Event,
    /// It does not say whom or what it is about.
    #[error("it names neither a subject nor a session")]
    Subject,
}

impl EventFlaw {
    /// As those who send security events are told it (RFC 8935 §2.4).
    pub const fn code(self) -> &'static str {
        match self {
            Self::Issuer => "invalid_issuer",
            Self::Key => "invalid_key",
            Self::Audience => "invalid_audience",
            Self::Form | Self::Type | Self::Time | Self::Event | Self::Subject => "invalid_request",
        }
    }

    /// Whether the issuer itself has made it so: it is signed, and there is something to mend.
    pub const fn is_of_issuer(self) -> bool {
        match self {
            Self::Form | Self::Issuer | Self::Key => false,
            Self::Audience | Self::Type | Self::Time | Self::Event | Self::Subject => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_a_uri_of_its_own() {
        for kind in EventKind::ALL {
            assert_eq!(EventKind::from_uri(kind.uri()), Some(kind));
        }
        assert_eq!(EventKind::from_uri("https://schemas.openid.net/secevent/ssf/event-type/verification"), None);
    }
}
