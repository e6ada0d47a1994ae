//! One table from reasons to the codes of every protocol.

use http::StatusCode;
use tonic::Code;

use crate::domain::decision::{Class, Reason};
use crate::proto::DecisionReason;

/// What a reason is called outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Codes {
    /// In the native API.
    pub native: DecisionReason,
    /// Over HTTP, and through `ext_authz`.
    pub http: StatusCode,
    /// For clients of gRPC, through a gateway.
    pub grpc: Code,
}

impl Codes {
    /// The codes of `reason`: those of its class, but for the few that HTTP has a status of their own for.
    pub const fn of(reason: Reason) -> Self {
        let (native, http, grpc) = match reason.class() {
            Class::Allow => (DecisionReason::Allowed, StatusCode::OK, Code::Ok),
            Class::Unauthenticated => {
                (DecisionReason::Unauthenticated, StatusCode::UNAUTHORIZED, Code::Unauthenticated)
            }
            Class::PermissionDenied => {
                (DecisionReason::PermissionDenied, StatusCode::FORBIDDEN, Code::PermissionDenied)
            }
            Class::QuotaExceeded => {
                (DecisionReason::QuotaExceeded, StatusCode::TOO_MANY_REQUESTS, Code::ResourceExhausted)
            }
            Class::DependencyUnavailable => {
                (DecisionReason::DependencyUnavailable, StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable)
            }
        };
        let http = match reason {
            Reason::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Reason::LengthRequired => StatusCode::LENGTH_REQUIRED,
            _ => http,
        };
        Self { native, http, grpc }
    }
}

/// What a reason means, for people.
pub const fn sentence(reason: Reason) -> &'static str {
    match reason {
        Reason::Allowed => "The rule's demands are met and its quotas paid.",
        Reason::NoCredential => "The rule demands a caller who is authenticated, and no credential was shown.",
        Reason::MalformedToken => "The credential has not the form of a token.",
        Reason::TokenTooLarge => "The token is larger than any that is accepted.",
        Reason::EncryptedToken => "The token is encrypted, and there is no key for it.",
        Reason::UnsupportedExtension => "The token demands an extension that is not understood.",
        Reason::BadAlgorithm => "The token's signature algorithm is unknown, not allowed, or does not fit the key.",
        Reason::UnknownIssuer => "No configured issuer has the token's issuer.",
        Reason::UnknownKey => "The issuer has no key such as the token names.",
        Reason::BadSignature => "The token's signature does not verify.",
        Reason::Expired => "The token has expired.",
        Reason::NotYetValid => "The token is not valid yet, or issued in the future.",
        Reason::LifetimeTooLong => "The token lives longer than its issuer's tokens may.",
        Reason::WrongAudience => "The token is meant for another audience.",
        Reason::WrongType => "The token is no access token.",
        Reason::MissingClaim => "The token lacks a claim that is demanded.",
        Reason::Revoked => "The token was revoked.",
        Reason::InactiveToken => "The token's issuer says that it is not active.",
        Reason::UnknownApiKey => "The API key is not known, or has ended.",
        Reason::TokenTooOld => "The token, or the login behind it, is older than accepted.",
        Reason::BindingRequired => "The token must come with a proof that the caller holds a key.",
        Reason::BindingMismatch => "The token is bound to another key than the caller's.",
        Reason::InvalidDpopProof => "The DPoP proof is not one for this call.",
        Reason::UseDpopNonce => "The DPoP proof needs a nonce, which the answer names.",
        Reason::NoRule => "No rule matches the request.",
        Reason::InsufficientScope => "A scope that the rule demands was not granted.",
        Reason::InsufficientRole => "None of the roles that the rule demands is held.",
        Reason::WrongCaller => "The caller is none of those that the rule names.",
        Reason::ConditionNotMet => "The rule's expression is not true of the call.",
        Reason::WrongAddress => "The rule does not let in the address that the call comes from.",
        Reason::WrongOrigin => "The rule does not let in calls by pages of that origin.",
        Reason::BodyTooLarge => "The body is larger than the rule lets it be.",
        Reason::LengthRequired => "The rule bounds the body, and the call does not say how large it is.",
        Reason::QuotaExceeded => "A quota is used up.",
        Reason::StoreAway => {
            "The store cannot be asked, and a limit refuses the call then, or its DPoP proof may have been used."
        }
        Reason::KeysAway => "The issuer's keys could not be had.",
        Reason::IssuerAway => "The token's issuer could not be asked.",
        Reason::RevocationsAway => "What has been revoked is not known well enough.",
        Reason::Busy => "Too many tokens wait for their signatures to be checked.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_the_codes_that_are_documented() {
        let rows: Vec<String> = Reason::ALL
            .into_iter()
            .map(|reason| {
                let Codes { native, http, grpc: _ } = Codes::of(reason);
                format!("{} {} {}", reason.name(), native.as_str_name(), http.as_u16())
            })
            .collect();
        let documented = include_str!("../../docs/reasons.md");
        for row in rows {
            let mut words = row.split(' ');
            let (Some(name), Some(native), Some(http)) = (words.next(), words.next(), words.next()) else {
                unreachable!()
            };
            let native = native.trim_start_matches("DECISION_REASON_");
            let cells = format!("| `{name}` | `{native}` | {http} |");
            assert!(documented.contains(&cells), "docs/reasons.md lacks a row that starts with: {cells}");
        }
    }
}
