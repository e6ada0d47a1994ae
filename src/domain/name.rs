//! Names that certificates vouch for, and patterns of them.

use std::fmt;
use std::net::Ipv4Addr;

use super::path::Path;
use super::policy::PathPattern;

/// The scheme of SPIFFE IDs.
const SPIFFE: &str = "spiffe://";

/// The longest name, in bytes: that of a SPIFFE ID (SPIFFE-ID §2.3).
const NAME_BYTES_MAX: usize = 2048;

/// The longest trust domain (SPIFFE-ID §2.3) and DNS name, in bytes.
const DOMAIN_BYTES_MAX: usize = 255;

/// Which names are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamePattern {
    /// `spiffe://example.org/ns/prod/**`: SPIFFE IDs of one trust domain, by the segments of their path.
    Spiffe {
        /// The trust domain.
        domain: String,
        /// The path; `*` stands for one segment, `/**` at the end for the path and all below.
        path: PathPattern,
    },
    /// This DNS name, in lower case.
    Dns(String),
    /// `*.example.com`: DNS names with exactly one label more; held with the leading dot.
    DnsBelow(String),
    /// This very URI.
    Uri(String),
}

/// A SPIFFE ID in its parts (SPIFFE-ID §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpiffeId<'a> {
    /// Who vouches.
    pub domain: &'a str,
    /// Empty, or segments that each begin with a slash.
    pub path: &'a str,
}

impl<'a> SpiffeId<'a> {
    /// Reads one strictly: a lower-case trust domain, no port, no query, and a path without empty segments, dots as
    /// segments, percent-encoding and final slash.
    pub fn parse(name: &'a str) -> Option<Self> {
        let rest = name.strip_prefix(SPIFFE).filter(|_| name.len() <= NAME_BYTES_MAX)?;
        let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let domain_fits = (1..=DOMAIN_BYTES_MAX).contains(&domain.len())
            && domain.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'));
        // The first is what stands before the first slash.
        let path_fits = path.split('/').skip(1).all(is_segment);
        (domain_fits && path_fits).then_some(Self { domain, path })
    }

    /// The trust domain's own ID: who vouches for all others in it.
    pub fn issuer(self) -> String {
        format!("{SPIFFE}{}", self.domain)
    }
}

fn is_segment(segment: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !matches!(segment, "" | "." | "..") && segment.bytes().all(allowed)
}

/// Whether a name is a URI; else it is a DNS name, in which there is no colon.
pub fn is_uri(name: &str) -> bool {
    name.contains(':')
}

/// Whether a name has the scheme of SPIFFE IDs, in whatever case.
pub fn claims_spiffe(name: &str) -> bool {
    name.get(.."spiffe:".len()).is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe:"))
}

impl NamePattern {
    /// Reads `spiffe://example.org/ns/*/sa/web`, `spiffe://example.org/**`, `api.example.com`, `*.example.com`, or
    /// any other URI, which stands for itself only.
    ///
    /// # Errors
    /// What it must be.
    pub fn parse(text: &str) -> Result<Self, String> {
        if claims_spiffe(text) {
            return spiffe(text);
        }
        if let Some((scheme, rest)) = text.split_once(':') {
            let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
            if is_scheme(scheme) && !is_port(rest) && printable && text.len() <= NAME_BYTES_MAX && !text.contains('*') {
                return Ok(Self::Uri(text.to_owned()));
            }
            return Err(
                "must be a URI as certificates have it, without spaces, or a DNS name without a port; `*` stands for a \
                 segment in SPIFFE IDs and for the first label in DNS names only"
                    .to_owned(),
            );
        }
        let (below, name) = text.strip_prefix("*.").map_or((false, text), |name| (true, name));
        if !is_dns_name(name) {
            return Err(
                "must be a SPIFFE ID such as spiffe://example.org/ns/prod/**, a DNS name in lower case such as \
                        api.example.com or *.example.com, or a URI"
                    .to_owned(),
            );
        }
        Ok(if below { Self::DnsBelow(format!(".{name}")) } else { Self::Dns(name.to_owned()) })
    }

    /// Whether `name` is one of those that are meant. A certificate's own wildcard is a name of many, and never meant.
    pub fn covers(&self, name: &str) -> bool {
        match self {
            Self::Spiffe { domain, path } => SpiffeId::parse(name).is_some_and(|id| {
                let of_id = if id.path.is_empty() { "/" } else { id.path };
                id.domain == domain && Path::parse(of_id).is_ok_and(|of_id| path.covers(&of_id))
            }),
            Self::Dns(exact) | Self::Uri(exact) => name == exact,
            Self::DnsBelow(suffix) => name
                .strip_suffix(suffix.as_str())
                .is_some_and(|label| !label.is_empty() && !label.contains(['.', '*', ':', '/'])),
        }
    }
}

fn spiffe(text: &str) -> Result<NamePattern, String> {
    let must = || {
        "must be a pattern of SPIFFE IDs such as spiffe://example.org/ns/prod/sa/web or spiffe://example.org/ns/*/**: a \
         lower-case trust domain, then segments of letters, digits, `.`, `-` and `_`, where `*` stands for one and a \
         final `**` for all below"
            .to_owned()
    };
    let rest = text.strip_prefix(SPIFFE).ok_or_else(must)?;
    let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let closed = path.strip_suffix("/**").unwrap_or(path);
    // An ID that it covers, where it is a pattern of IDs at all.
    let example = format!("{SPIFFE}{domain}{}", closed.replace("/*", "/any"));
    SpiffeId::parse(&example).ok_or_else(must)?;
    let path = PathPattern::parse(if path.is_empty() { "/" } else { path }).map_err(|_| must())?;
    Ok(NamePattern::Spiffe { domain: domain.to_owned(), path })
}

/// RFC 3986 §3.1.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
}

/// What is behind a colon and hardly a URI's: then somebody wrote the address of a server. Also nothing.
fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// In lower case, with at least one label and no final dot; no IPv4 address, which certificates have as another kind of
/// name.
fn is_dns_name(text: &str) -> bool {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
    (1..=DOMAIN_BYTES_MAX).contains(&text.len())
        && text.split('.').all(|label| (1..=63).contains(&label.len()) && label.bytes().all(allowed))
        && text.parse::<Ipv4Addr>().is_err()
}

/// As it is written.
impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spiffe { domain, path } if path.as_str() == "/" => write!(f, "{SPIFFE}{domain}"),
            Self::Spiffe { domain, path } => write!(f, "{SPIFFE}{domain}{}", path.as_str()),
            Self::Dns(name) | Self::Uri(name) => f.write_str(name),
            Self::DnsBelow(suffix) => write!(f, "*{suffix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use proptest::prelude::*;

    use super::*;

    fn covers(pattern: &str, name: &str) -> bool {
        NamePattern::parse(pattern).unwrap().covers(name)
    }

    #[test]
    fn spiffe_ids_are_covered_segment_by_segment() {
        for (pattern, name) in [
            ("spiffe://td/ns/prod/sa/web", "spiffe://td/ns/prod/sa/web"),
            ("spiffe://td/ns/*/sa/web", "spiffe://td/ns/prod/sa/web"),
            ("spiffe://td/ns/prod/**", "spiffe://td/ns/prod/sa/web"),
            ("spiffe://td/ns/prod/**", "spiffe://td/ns/prod"),
            ("spiffe://td/**", "spiffe://td/x"),
            ("spiffe://td/**", "spiffe://td"),
            ("spiffe://td", "spiffe://td"),
            ("spiffe://a.b-c_d/*/x", "spiffe://a.b-c_d/A.1_2-3/x"),
        ] {
            assert!(covers(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("spiffe://td/ns/prod/**", "spiffe://td/ns/production/sa/web"),
            ("spiffe://td/ns/prod/**", "spiffe://td/ns"),
            ("spiffe://td/ns/prod/**", "spiffe://other/ns/prod/x"),
            ("spiffe://td/ns/prod/**", "spiffe://td.evil/ns/prod/x"),
            ("spiffe://td/ns/prod/**", "spiffe://td/ns/prod/../dev"),
            ("spiffe://td/ns/prod/**", "spiffe://td/ns/prod/%2e%2e/dev"),
            ("spiffe://td/ns/prod/**", "spiffe://td/ns//prod/x"),
            ("spiffe://td/ns/prod/**", "spiffe://td/ns/prod/"),
            ("spiffe://td/ns/prod/**", "spiffe://td/ns/prod/x?y"),
            ("spiffe://td/ns/prod/**", "SPIFFE://td/ns/prod/x"),
            ("spiffe://td/ns/prod/**", "spiffe://TD/ns/prod/x"),
            ("spiffe://td/ns/prod/**", "spiffe://td:443/ns/prod/x"),
            ("spiffe://td/ns/*/sa/web", "spiffe://td/ns/a/b/sa/web"),
            ("spiffe://td/ns/*/sa/web", "spiffe://td/ns/prod/sa/WEB"),
            ("spiffe://td", "spiffe://td/x"),
            ("spiffe://td/**", "spiffe:///x"),
            ("spiffe://td/**", "td/x"),
        ] {
            assert!(!covers(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn a_dns_wildcard_stands_for_one_label() {
        for (pattern, name) in [
            ("api.example.com", "api.example.com"),
            ("*.example.com", "api.example.com"),
            ("*.example.com", "_x-1.example.com"),
            ("localhost", "localhost"),
        ] {
            assert!(covers(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("*.example.com", "example.com"),
            ("*.example.com", ".example.com"),
            ("*.example.com", "a.b.example.com"),
            ("*.example.com", "*.example.com"),
            ("*.example.com", "spiffe://x.example.com"),
            ("*.example.com", "apiexample.com"),
            ("api.example.com", "xapi.example.com"),
            ("api.example.com", "*.example.com"),
        ] {
            assert!(!covers(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn another_uri_stands_for_itself() {
        assert!(covers("urn:service:orders", "urn:service:orders"));
        assert!(!covers("urn:service:orders", "urn:service:orders2"));
        assert!(!covers("https://example.com/a", "https://example.com/A"));
    }

    #[test]
    fn patterns_that_could_mean_something_else_are_refused() {
        for text in [
            "",
            "*",
            "*.",
            "*.*.example.com",
            "a.*.com",
            "API.example.com",
            "api.example.com.",
            "a b",
            "a..b",
            "spiffe:td/x",
            "spiffe://",
            "spiffe://*/x",
            "spiffe://td/",
            "spiffe://td//x",
            "spiffe://td/**/x",
            "spiffe://td/a*",
            "spiffe://td/*a",
            "spiffe://td/*/*a/**",
            "spiffe://td/***",
            "spiffe://td/{x}",
            "spiffe://td/%61",
            "spiffe://td/..",
            "spiffe://td/x/",
            "spiffe://Td/x",
            "SPIFFE://td/x",
            "urn:service:*",
            "api.example.com:443",
            "localhost:8080",
            "::1",
            "[::1]",
            "10.0.0.1",
            "1a:b",
            "a b:c",
            "urn:",
            "urn:a b",
        ] {
            assert!(NamePattern::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_pattern_is_written_as_it_was_read(text in "(spiffe://[a-c.]{1,3}(/([a-c]|\\*)){0,3}(/\\*\\*)?)|((\\*\\.)?[a-c]{1,3}(\\.[a-c]{1,3}){0,2})") {
            if let Ok(pattern) = NamePattern::parse(&text) {
                prop_assert_eq!(pattern.to_string(), text);
            }
        }

        #[test]
        fn any_name_has_an_answer(text in ".{0,40}", name in ".{0,40}") {
            if let Ok(pattern) = NamePattern::parse(&text) {
                let _ = pattern.covers(&name);
            }
            let _ = NamePattern::parse("spiffe://td/**").unwrap().covers(&name);
            let _ = NamePattern::parse("*.example.com").unwrap().covers(&name);
        }
    }
}
