//! What is asked: may this call go on?

use std::fmt;
use std::net::IpAddr;

pub use super::certificate::Certificate;
use super::decision::Reason;
use super::identity::Identity;
use super::path::{Host, Method, Target};

/// The longest scope, in bytes.
pub const SCOPE_BYTES_MAX: usize = 256;

/// The longest name of a header and the longest value, in bytes.
pub const HEADER_BYTES_MAX: usize = 16 * 1024;

/// One question, borrowed from the message that asked it. Its parts were checked when it was made: a [`Method`] is always
/// well formed, and a [`Target`] that servers read differently says so.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// What the caller showed.
    pub credential: Credential<'a>,
    /// What shows that the caller holds a key.
    pub proofs: Proofs<'a>,
    /// The method of the call that asks for passage.
    pub method: Method<'a>,
    /// The host that it is addressed to, where known.
    pub host: Option<Host<'a>>,
    /// The path that it is addressed to.
    pub target: Target<'a>,
    /// Where it comes from, as the asking gateway saw it.
    pub source: Option<IpAddr>,
    /// Its headers, as far as they were handed on.
    pub headers: Headers<'a>,
    /// The size of its body in bytes; none: not known.
    pub body: Option<u64>,
    /// Attributes of the thing that is accessed, by name (`owner`, `tenant`, …); names are unique.
    pub resource: Pairs<'a>,
    /// Scopes that the caller must have besides those of the rule, as whoever asks says: even where the rule permits anyone.
    pub scopes: Vec<&'a str>,
    /// Limits to consume besides those of the rule.
    pub extra: Vec<ExtraCharge<'a>>,
    /// What the call costs in each limit of the rule. 1 to [`UNITS_MAX`](super::limit::UNITS_MAX).
    pub units: u64,
    /// Whether quotas are consumed or only looked at.
    pub mode: Mode,
    /// Whether the answer should say how it came about.
    pub explain: bool,
}

impl Question<'_> {
    /// Whether `identity` (none: an anonymous caller) has the scopes that whoever asks demands.
    pub fn admits(&self, identity: Option<&Identity>) -> Result<(), Reason> {
        match identity {
            _ if self.scopes.is_empty() => Ok(()),
            None => Err(Reason::NoCredential),
            Some(identity) if self.scopes.iter().all(|scope| identity.has_scope(scope)) => Ok(()),
            Some(_) => Err(Reason::InsufficientScope),
        }
    }
}

/// Whether `text` can be a scope (RFC 6749 §3.3), of at most [`SCOPE_BYTES_MAX`] bytes. Tokens carry them separated by spaces.
pub fn is_scope(text: &str) -> bool {
    let allowed = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
    (1..=SCOPE_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed)
}

/// Whether `text` can be the name of a header, in lower case (RFC 9110 §5.1), of at most [`HEADER_BYTES_MAX`] bytes.
pub fn is_header_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte);
    (1..=HEADER_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed)
}

/// Whether the value of a header is text that everybody reads alike: visible ASCII, spaces and tabs. What else may be in one
/// (`obs-text`, RFC 9110 §5.5) is Latin-1 to some and UTF-8 to others.
pub fn is_header_text(value: &[u8]) -> bool {
    !has_byte(value, |byte| !matches!(byte, b'\t' | b' '..=b'~'))
}

/// Whether one of these bytes is such. Looks at all of them, whatever is found: then the compiler has many looked at at a time,
/// and a header with a token is long.
fn has_byte(bytes: &[u8], is_such: impl Fn(u8) -> bool) -> bool {
    bytes.iter().fold(false, |has, &byte| has | is_such(byte))
}

impl<'a> Question<'a> {
    /// A call of which nothing else is known: nobody shows anything, and one unit of each limit is consumed.
    pub fn of(method: Method<'a>, target: Target<'a>) -> Self {
        Self {
            credential: Credential::None,
            proofs: Proofs::default(),
            method,
            host: None,
            target,
            source: None,
            headers: Headers::default(),
            body: None,
            scopes: Vec::new(),
            resource: Pairs::new(),
            extra: Vec::new(),
            units: 1,
            mode: Mode::Consume,
            explain: false,
        }
    }
}

/// The headers of a call, by their names in lower case, each once: several of a name are one value, joined by commas (RFC 9110
/// §5.3). One whose value is no text is there without one: nobody can say what others would read in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers<'a>(Vec<(&'a str, Option<&'a str>)>);

/// What a call says in a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header<'a> {
    /// Nothing: it has no such header.
    Absent,
    /// This; several values are joined by commas.
    Text(&'a str),
    /// Bytes that are no text.
    Unreadable,
}

impl<'a> Headers<'a> {
    /// Those with these names, which are in lower case and each there once.
    pub fn new(named: Vec<(&'a str, Option<&'a str>)>) -> Self {
        Self(named)
    }

    /// The one with this name, which is in lower case.
    pub fn get(&self, name: &str) -> Header<'a> {
        match self.0.iter().find(|(own, _)| *own == name) {
            None => Header::Absent,
            Some((_, Some(text))) => Header::Text(text),
            Some((_, None)) => Header::Unreadable,
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, Option<&'a str>)> {
        self.0.iter().copied()
    }
}

/// A list of names and values. Few enough that a scan beats a map.
pub type Pairs<'a> = Vec<(&'a str, &'a str)>;

/// A limit that the asker wants consumed although no rule names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtraCharge<'a> {
    /// The limit's name in the configuration.
    pub limit: &'a str,
    /// Units to consume; at least 1.
    pub units: u64,
}

/// Whether a question consumes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// An allowed call consumes its quotas.
    #[default]
    Consume,
    /// Nothing is consumed; the answer is the one that consuming would get now.
    Peek,
}

/// What shows that the caller holds the private key of a certificate, or the one that its token is bound to.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proofs<'a> {
    /// The certificate whose key the caller holds, as whoever asks vouches for: it ended the caller's TLS connection, or
    /// was told by someone whom it trusts.
    pub certificate: Option<Certificate<'a>>,
    /// The values of the `DPoP` header (RFC 9449 §4.1). There must be exactly one where a proof is needed.
    pub dpop: Vec<&'a str>,
    /// Whether the call was made by plain HTTP; else by HTTPS. A proof names the URL.
    pub plain_http: bool,
}

/// What a caller shows to say who it is. It may be anything: nothing in it is to be believed before it was verified.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Credential<'a> {
    /// Nothing.
    #[default]
    None,
    /// A bearer token (RFC 6750), without the scheme.
    Bearer(&'a str),
    /// A token with the scheme `DPoP` (RFC 9449 §7.1), without the scheme: good only with a proof.
    Dpop(&'a str),
    /// An API key of our own.
    ApiKey(&'a str),
    /// An `Authorization` value that is no single well-formed credential.
    Unreadable,
}

impl<'a> Credential<'a> {
    /// Reads the value of an `Authorization` header.
    ///
    /// The scheme is compared without case (RFC 9110 §11.1); exactly one space follows it. Whatever else is found,
    /// two values joined by a comma included, is [`Credential::Unreadable`], never "the first one".
    pub fn from_authorization(value: &'a str) -> Self {
        let Some((scheme, token)) = value.split_once(' ') else {
            return Self::Unreadable;
        };
        // b64token (RFC 6750 §2.1) has none of these; two tokens in one value always have one of them.
        if has_byte(token.as_bytes(), |byte| matches!(byte, b' ' | b'\t' | b',' | b';' | b'"')) {
            return Self::Unreadable;
        }
        match scheme {
            _ if token.is_empty() => Self::Unreadable,
            scheme if scheme.eq_ignore_ascii_case("bearer") => Self::Bearer(token),
            scheme if scheme.eq_ignore_ascii_case("dpop") => Self::Dpop(token),
            _ => Self::Unreadable,
        }
    }
}

/// Nor does a proof, which is good until it is used.
impl fmt::Debug for Proofs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { certificate, dpop, plain_http } = self;
        let lengths: Vec<usize> = dpop.iter().map(|proof| proof.len()).collect();
        f.debug_struct("Proofs")
            .field("certificate", certificate)
            .field("dpop_bytes", &lengths)
            .field("plain_http", plain_http)
            .finish()
    }
}

/// A token never reaches a log through here.
impl fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Bearer(token) => write!(f, "Bearer({} bytes)", token.len()),
            Self::Dpop(token) => write!(f, "Dpop({} bytes)", token.len()),
            Self::ApiKey(key) => write!(f, "ApiKey({} bytes)", key.len()),
            Self::Unreadable => f.write_str("Unreadable"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_credential_is_one_scheme_one_space_one_token() {
        assert_eq!(Credential::from_authorization("dPoP a.b.c"), Credential::Dpop("a.b.c"));
        for value in ["Bearer a.b.c", "bearer a.b.c", "BEARER a.b.c"] {
            assert_eq!(Credential::from_authorization(value), Credential::Bearer("a.b.c"), "{value}");
        }
        for value in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer  x",
            "Bearer\tx",
            "Bearer x y",
            "Bearer x,Bearer y",
            "xBearer t",
            "Basic dXNlcjpwYXNz",
            "Bearer x,",
            "Béarer x",
        ] {
            assert_eq!(Credential::from_authorization(value), Credential::Unreadable, "{value}");
        }
    }

    #[test]
    fn debug_output_hides_the_token() {
        assert_eq!(format!("{:?}", Credential::Bearer("secret")), "Bearer(6 bytes)");
        let proofs = Proofs { dpop: vec!["secret"], ..Proofs::default() };
        assert!(!format!("{proofs:?}").contains("secret"), "{proofs:?}");
    }
}
