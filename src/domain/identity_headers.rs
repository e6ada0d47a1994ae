//! Headers that tell the service behind a gateway who calls.
//!
//! Whoever reads them believes them. So those of the same names that came with the request are removed, whatever the
//! decision, and no value can end its header and begin another one.

use std::fmt::Write as _;

use super::identity::{Actor, Identity};

/// The most headers that a configuration may map.
pub const HEADERS_MAX: usize = 32;

/// The longest name of a header, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// The longest value, in bytes: most servers read no longer header. A longer one is left out, since a part of it would
/// be another name.
pub const VALUE_BYTES_MAX: usize = 4 * 1024;

/// By which a gateway tells the service behind it what the call holds until it is settled.
pub const RESERVATION: &str = "x-tollgate-reservation";

/// Headers that mean something to those between the caller and the service, or by which callers show who they are.
const TAKEN: [&str; 25] = [
    "authorization",
    "connection",
    "cookie",
    "date",
    "dpop",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "origin",
    "referer",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-real-ip",
    RESERVATION,
];

/// What such headers begin with.
const TAKEN_STARTS: [&str; 7] = ["accept", "access-control-", "content-", "grpc-", "proxy-", "sec-", "x-envoy-"];

/// What a header says of the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Facet {
    /// Who vouches.
    Issuer,
    /// Whom the token is about.
    Subject,
    /// The client that it was issued to.
    Client,
    /// A name for people.
    Username,
    /// Granted scopes, separated by spaces.
    Scopes,
    /// Roles, separated by commas.
    Roles,
    /// Audiences, separated by commas.
    Audiences,
    /// The organisation.
    Tenant,
    /// The session.
    Session,
    /// The token's id.
    TokenId,
    /// Names that a certificate vouches for, separated by commas.
    Names,
    /// Who acts for the subject now: its subject, else its client.
    Actor,
    /// A claim that the configuration chose, by the name that it gave it.
    Claim(Box<str>),
}

/// A header and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityHeader {
    /// Its name, in lower case.
    pub name: Box<str>,
    /// What it says.
    pub facet: Facet,
}

/// Whether headers of that name may be mapped; else what the name must be.
///
/// No `_`: servers after CGI take it for `-`, so two names could be one header there.
pub fn check_name(name: &str) -> Result<(), String> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !(1..=NAME_BYTES_MAX).contains(&name.len()) || !name.bytes().all(allowed) {
        return Err(format!("a header's name must be 1 to {NAME_BYTES_MAX} lower-case letters, digits and `-`"));
    }
    if TAKEN.contains(&name) || TAKEN_STARTS.iter().any(|start| name.starts_with(start)) {
        return Err(format!("`{name}` means something else already; choose another, such as x-tollgate-subject"));
    }
    Ok(())
}

/// Whether servers after CGI (RFC 3875 §4.1.18) read the header `name` as the header `other` although it is another one: they
/// know no `-`, and some of them nothing but letters and digits. Both names are in lower case.
pub fn is_taken_for(name: &str, other: &str) -> bool {
    let same = |(own, other): (u8, u8)| own == other || (other == b'-' && !own.is_ascii_alphanumeric());
    name != other && name.len() == other.len() && name.bytes().zip(other.bytes()).all(same)
}

impl Facet {
    /// The facets that have a fixed name.
    pub const NAMED: [(&'static str, Self); 12] = [
        ("issuer", Self::Issuer),
        ("subject", Self::Subject),
        ("client", Self::Client),
        ("username", Self::Username),
        ("scopes", Self::Scopes),
        ("roles", Self::Roles),
        ("audiences", Self::Audiences),
        ("tenant", Self::Tenant),
        ("session", Self::Session),
        ("token_id", Self::TokenId),
        ("names", Self::Names),
        ("actor", Self::Actor),
    ];

    /// Reads a name, or `claims.` and the name of a chosen claim.
    pub fn from_name(name: &str) -> Option<Self> {
        match name.strip_prefix("claims.") {
            Some("") => None,
            Some(claim) => Some(Self::Claim(claim.into())),
            None => Self::NAMED.iter().find(|(known, _)| *known == name).map(|(_, facet)| facet.clone()),
        }
    }

    /// The header's value; none where there is nothing to say, or too much.
    ///
    /// Visible ASCII stays as it is, but for `%` and, in lists, `,`. Everything else is percent-encoded, in UTF-8: so no
    /// value has a control character or a space of its own, and each can be read back.
    pub fn value(&self, identity: &Identity) -> Option<String> {
        let one = |text: &Option<Box<str>>| text.as_deref().and_then(|text| joined([text], None));
        match self {
            Self::Issuer => joined([&*identity.issuer], None),
            Self::Subject => one(&identity.subject),
            Self::Client => one(&identity.client),
            Self::Username => one(&identity.username),
            Self::Scopes => list(&identity.scopes, ' '),
            Self::Roles => list(&identity.roles, ','),
            Self::Audiences => list(&identity.audiences, ','),
            Self::Tenant => one(&identity.tenant),
            Self::Session => one(&identity.session),
            Self::TokenId => one(&identity.token_id),
            Self::Names => list(&identity.names, ','),
            Self::Actor => {
                let Actor { issuer: _, subject, client } = identity.actors.first()?;
                one(if subject.is_some() { subject } else { client })
            }
            Self::Claim(name) => {
                let (_, value) = identity.claims.iter().find(|(known, _)| known == name)?;
                joined([&**value], None)
            }
        }
    }
}

fn list(texts: &[Box<str>], separator: char) -> Option<String> {
    joined(texts.iter().map(|text| &**text), Some(separator))
}

/// The texts, encoded one by one.
fn joined<'a>(texts: impl IntoIterator<Item = &'a str, IntoIter: Clone>, separator: Option<char>) -> Option<String> {
    let texts = texts.into_iter();
    // Mostly nothing is encoded, and nothing is allocated twice.
    let mut value = String::with_capacity(texts.clone().map(|text| text.len() + 1).sum());
    for text in texts.filter(|text| !text.is_empty()) {
        if let Some(separator) = separator.filter(|_| !value.is_empty()) {
            value.push(separator);
        }
        for byte in text.bytes() {
            let stays = byte.is_ascii_graphic() && byte != b'%' && separator != Some(char::from(byte));
            if stays {
                value.push(char::from(byte));
            } else {
                let _ = write!(value, "%{byte:02X}");
            }
        }
        if value.len() > VALUE_BYTES_MAX {
            return None;
        }
    }
    (!value.is_empty()).then_some(value)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use proptest::prelude::*;

    use super::*;

    fn texts(texts: &[&str]) -> Box<[Box<str>]> {
        texts.iter().map(|&text| text.into()).collect()
    }

    fn ann() -> Identity {
        let actor = |subject: Option<&str>, client: &str| Actor {
            issuer: None,
            subject: subject.map(Into::into),
            client: Some(client.into()),
        };
        Identity {
            subject: Some("ann".into()),
            username: Some("Ann Müller".into()),
            scopes: texts(&["orders:read", "a b", "100%"]),
            roles: texts(&["ADMIN", "a,b", "c d"]),
            actors: [actor(None, "desk"), actor(Some("first"), "x")].into(),
            claims: [("email".into(), "ann@example.com\r\nx-roles: ADMIN".into())].into(),
            ..Identity::vouched_by("https://auth.example")
        }
    }

    fn value(name: &str) -> Option<String> {
        Facet::from_name(name).unwrap().value(&ann())
    }

    #[test]
    fn values_are_visible_and_can_be_read_back() {
        for (name, expected) in [
            ("issuer", Some("https://auth.example")),
            ("subject", Some("ann")),
            ("username", Some("Ann%20M%C3%BCller")),
            ("scopes", Some("orders:read a%20b 100%25")),
            ("roles", Some("ADMIN,a%2Cb,c%20d")),
            ("actor", Some("desk")),
            ("claims.email", Some("ann@example.com%0D%0Ax-roles:%20ADMIN")),
            ("claims.phone", None),
            ("tenant", None),
            ("audiences", None),
        ] {
            assert_eq!(value(name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn a_value_that_is_too_long_is_left_out_and_not_cut() {
        let named = |bytes: usize| Identity { subject: Some("a".repeat(bytes).into()), ..ann() };
        assert_eq!(Facet::Subject.value(&named(VALUE_BYTES_MAX)).map(|value| value.len()), Some(VALUE_BYTES_MAX));
        assert_eq!(Facet::Subject.value(&named(VALUE_BYTES_MAX + 1)), None);
    }

    #[test]
    fn names_that_mean_something_else_are_refused() {
        for name in ["x-tenant", "x-tollgate-subject", "tenant", "x-forwarded-user", "x-1"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in [
            "",
            "X-Tenant",
            "x_tenant",
            "x tenant",
            "x-tenant\r\n",
            ":path",
            "x-ü",
            "host",
            "authorization",
            "content-length",
            "transfer-encoding",
            "proxy-connection",
            "x-forwarded-for",
            "x-envoy-original-path",
            "dpop",
            &"a".repeat(65),
        ] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_header_may_be_taken_for_another_where_signs_are_all_the_same() {
        for name in ["x_tollgate_subject", "x-tollgate_subject", "x.tollgate-subject", "x~tollgate!subject"] {
            assert!(is_taken_for(name, "x-tollgate-subject"), "{name}");
        }
        for name in ["x-tollgate-subject", "x_tollgate_subjects", "xatollgate-subject", "x_tollgate_issuer", ""] {
            assert!(!is_taken_for(name, "x-tollgate-subject"), "{name}");
        }
    }

    #[test]
    fn what_is_said_is_named() {
        for name in ["", "claims.", "claims", "Subject", "identity.subject", "binding"] {
            assert_eq!(Facet::from_name(name), None, "{name}");
        }
        for (name, facet) in Facet::NAMED {
            assert_eq!(Facet::from_name(name), Some(facet));
        }
    }

    /// What stands between the separators, decoded.
    fn read_back(value: &str, separator: char) -> Vec<String> {
        let decode = |text: &str| {
            let mut bytes = Vec::new();
            let mut rest = text.as_bytes();
            while let [first, tail @ ..] = rest {
                if let (b'%', [high, low, tail @ ..]) = (first, tail) {
                    let digits = String::from_utf8(vec![*high, *low]).unwrap();
                    bytes.push(u8::from_str_radix(&digits, 16).unwrap());
                    rest = tail;
                } else {
                    bytes.push(*first);
                    rest = tail;
                }
            }
            String::from_utf8(bytes).unwrap()
        };
        value.split(separator).map(decode).collect()
    }

    proptest! {
        #[test]
        fn whatever_is_in_a_token_no_header_begins_or_ends_within_a_value(
            any in prop::collection::vec(prop::collection::vec(any::<char>(), 1..20), 1..8),
        ) {
            let list: Vec<String> = any.into_iter().map(|chars| chars.into_iter().collect()).collect();
            let boxed: Box<[Box<str>]> = list.iter().map(|text| text.as_str().into()).collect();
            let identity = Identity { scopes: boxed.clone(), roles: boxed, subject: Some(list[0].as_str().into()), ..ann() };
            for (facet, separator) in [(Facet::Scopes, ' '), (Facet::Roles, ',')] {
                let value = facet.value(&identity).unwrap();
                prop_assert!(value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '), "{:?}", value);
                prop_assert!(value.trim() == value);
                prop_assert_eq!(&read_back(&value, separator), &list);
            }
            let value = Facet::Subject.value(&identity).unwrap();
            prop_assert!(value.bytes().all(|byte| byte.is_ascii_graphic()), "{:?}", value);
        }
    }
}
