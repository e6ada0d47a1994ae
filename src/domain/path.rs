//! The addressed method, host and path: read strictly, never repaired.
//!
//! Tollgate only advises: the gateway forwards the original bytes. Whoever reads an ambiguous path one way and lets it
//! through to a server that reads it another way has opened a door. So a path that two servers could read differently
//! is refused, whatever the rules, unless the configuration says how the servers behind read it (`doubt`).
//!
//! What is left after those refusals has one reading. It is matched percent-decoded, because the server behind will
//! decode it: a rule for `/a+b` must meet `/a%2Bb` too.

mod doubt;

use std::borrow::Cow;
use std::fmt;
use std::net::Ipv6Addr;

pub(super) use self::doubt::data;
pub use self::doubt::{Doubt, Leniency};

/// The longest path that is read, in bytes, the query not counted.
pub const PATH_BYTES_MAX: usize = 8 * 1024;

/// The most segments a path may have.
pub const SEGMENTS_MAX: usize = 256;

/// The longest host name (RFC 1035 §3.1, in text).
const HOST_BYTES_MAX: usize = 253;

/// The longest method.
const METHOD_BYTES_MAX: usize = 32;

/// A well-formed request method (RFC 9110 §9.1) in upper case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method<'a>(&'a str);

/// A host name in canonical form: lower-case, without trailing dot and port; an IPv6 address as RFC 5952 writes it.
///
/// The port is no part of the name because the client chooses it: `api.example.com:8443` must not slip past a rule for
/// `api.example.com`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host<'a> {
    name: Cow<'a, str>,
    port: Option<u16>,
}

/// What is addressed (RFC 9112 §3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// A path, the query cut off.
    Path(Path<'a>),
    /// `*`, as in `OPTIONS *`: the server itself.
    Asterisk,
    /// No path, as in `CONNECT`.
    Authority,
}

/// An absolute path, percent-decoded, without a trailing slash. It has one reading, or else a [`Doubt`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path<'a> {
    /// Where there is a doubt: as a rule reads it that lets it pass.
    read: Cow<'a, str>,
    written: &'a str,
    doubt: Option<Doubt>,
}

/// `/`, which has no segments.
pub(super) static ROOT: Path<'static> = Path { read: Cow::Borrowed("/"), written: "/", doubt: None };

/// Why a method, host or path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what each one means")]
pub enum Unclear {
    #[error("must be a method in upper case, such as GET, of at most {METHOD_BYTES_MAX} bytes")]
    Method,
    #[error(
        "must be one host name or address, with or without port; user names, lists and other characters are refused"
    )]
    Host,
    #[error("must start with '/'; '*' goes with OPTIONS only, and no path with CONNECT only")]
    Form,
    #[error("is in absolute form and names another host than the request's")]
    OtherHost,
    #[error("is longer than {PATH_BYTES_MAX} bytes or has more than {SEGMENTS_MAX} segments")]
    TooLong,
    #[error("has an empty segment ('//'), which servers read differently")]
    EmptySegment,
    #[error("has a dot segment ('.' or '..', as such or encoded), which servers resolve differently")]
    DotSegment,
    #[error("has path parameters (';', as such or encoded), which servers strip or keep")]
    Parameters,
    #[error("has a backslash (as such or encoded), which some servers read as '/'")]
    Backslash,
    #[error("has an encoded slash ('%2F'), which some servers decode")]
    EncodedSlash,
    #[error("has an encoded percent sign ('%25'), which becomes something else when decoded twice")]
    EncodedPercent,
    #[error("has a percent sign that is not followed by two hexadecimal digits")]
    BadEncoding,
    #[error("has a fragment ('#'), which does not belong in a request")]
    Fragment,
    #[error("has a space or a control character")]
    Control,
    #[error("is not UTF-8 when percent-decoded")]
    NotUtf8,
}

impl<'a> Method<'a> {
    /// Reads a method. Lower-case ones are refused: methods are case-sensitive, and not every server knows that.
    pub fn parse(text: &'a str) -> Result<Self, Unclear> {
        let well_formed = text.len() <= METHOD_BYTES_MAX
            && text.starts_with(|c: char| c.is_ascii_uppercase())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_'));
        if well_formed { Ok(Self(text)) } else { Err(Unclear::Method) }
    }

    /// The method's name.
    pub const fn as_str(&self) -> &'a str {
        self.0
    }
}

impl<'a> Host<'a> {
    /// Reads a `Host` header or `:authority`.
    pub fn parse(text: &'a str) -> Result<Self, Unclear> {
        let (name, port) = match text.bytes().rposition(|byte| byte == b':') {
            // The last colon of `[::1]` is inside the brackets.
            Some(colon) if !text[colon..].contains(']') => (&text[..colon], Some(&text[colon + 1..])),
            _ => (text, None),
        };
        let port = match port {
            None | Some("") => None,
            // `parse` alone would take a sign.
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(digits.parse().map_err(|_| Unclear::Host)?)
            }
            Some(_) => return Err(Unclear::Host),
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        if let Some(rest) = name.strip_prefix('[') {
            let address = rest.strip_suffix(']').and_then(|address| address.parse::<Ipv6Addr>().ok());
            // One address has many spellings.
            let canonical = format!("[{}]", address.ok_or(Unclear::Host)?);
            let name = if canonical == name { Cow::Borrowed(name) } else { Cow::Owned(canonical) };
            return Ok(Self { name, port });
        }
        let mut has_upper_case = false;
        // A label begins after it.
        let mut previous = b'.';
        for byte in name.bytes() {
            match byte {
                b'.' if previous == b'.' => return Err(Unclear::Host),
                b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' => {}
                b'A'..=b'Z' => has_upper_case = true,
                _ => return Err(Unclear::Host),
            }
            previous = byte;
        }
        if previous == b'.' || name.len() > HOST_BYTES_MAX {
            return Err(Unclear::Host);
        }
        let name = if has_upper_case { Cow::Owned(name.to_ascii_lowercase()) } else { Cow::Borrowed(name) };
        Ok(Self { name, port })
    }

    /// The canonical name.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// The port, where one was named.
    pub const fn port(&self) -> Option<u16> {
        self.port
    }
}

impl<'a> Target<'a> {
    /// Reads the request target of a call with this method and host. A path in it may have a [`Doubt`]: whether it is to
    /// be refused is the policy's to say.
    pub fn parse(text: &'a str, method: Method<'_>, host: Option<&Host<'_>>) -> Result<Self, Unclear> {
        match (text, method.as_str()) {
            ("*", "OPTIONS") => return Ok(Self::Asterisk),
            ("", "CONNECT") => return Ok(Self::Authority),
            _ if text.starts_with('/') => return Path::read(text).map(Self::Path),
            _ => {}
        }
        let rest = ["http://", "https://"].iter().find_map(|scheme| text.strip_prefix(scheme)).ok_or(Unclear::Form)?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        if Some(Host::parse(&rest[..end])?.as_str()) != host.map(Host::as_str) {
            return Err(Unclear::OtherHost);
        }
        match &rest[end..] {
            "" => Ok(Self::Path(ROOT.clone())),
            path => Path::read(path).map(Self::Path),
        }
    }

    /// The path, where there is one.
    pub const fn path(&self) -> Option<&Path<'a>> {
        match self {
            Self::Path(path) => Some(path),
            Self::Asterisk | Self::Authority => None,
        }
    }
}

impl<'a> Path<'a> {
    /// Reads an absolute path that has one reading; a query is cut off first, so that nothing in it counts as path.
    pub fn parse(text: &'a str) -> Result<Self, Unclear> {
        let text = without_query(text);
        if !text.starts_with('/') {
            return Err(Unclear::Form);
        }
        if text.len() > PATH_BYTES_MAX {
            return Err(Unclear::TooLong);
        }
        let mut encoded = false;
        let mut segments = 0;
        let mut previous = 0;
        for byte in text.bytes() {
            match byte {
                b'/' if previous == b'/' => return Err(Unclear::EmptySegment),
                b'/' => segments += 1,
                b'%' => encoded = true,
                b';' => return Err(Unclear::Parameters),
                b'\\' => return Err(Unclear::Backslash),
                b'#' => return Err(Unclear::Fragment),
                0..=b' ' | 0x7f => return Err(Unclear::Control),
                _ => {}
            }
            previous = byte;
        }
        if segments > SEGMENTS_MAX {
            return Err(Unclear::TooLong);
        }
        let decoded = if encoded { Cow::Owned(decode(text)?) } else { Cow::Borrowed(text) };
        // Those of ASCII were refused above, where they are written as they are.
        let may_have_controls = encoded || !text.is_ascii();
        if may_have_controls && decoded.chars().any(is_control) {
            return Err(Unclear::Control);
        }
        if decoded.split('/').any(|segment| matches!(segment, "." | "..")) {
            return Err(Unclear::DotSegment);
        }
        if decoded.len() == 1 || !decoded.ends_with('/') {
            return Ok(Self { read: decoded, written: text, doubt: None });
        }
        let read = match decoded {
            Cow::Borrowed(path) => Cow::Borrowed(&path[..path.len() - 1]),
            Cow::Owned(mut path) => {
                path.pop();
                Cow::Owned(path)
            }
        };
        Ok(Self { read, written: text, doubt: None })
    }

    /// The path, decoded, without a trailing slash. Where there is a [`doubt`](Self::doubt), without parameters, and what is
    /// data of a segment although it has a meaning stays encoded: `/` as `%2F`, `%` as `%25`.
    pub fn as_str(&self) -> &str {
        &self.read
    }

    /// The path as it came, without the query.
    pub const fn as_written(&self) -> &'a str {
        self.written
    }

    /// The segments between the slashes, decoded as [`as_str`](Self::as_str) has them; none for `/`. None of them is empty,
    /// but where there is a doubt.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        // `/` would yield one empty segment.
        let root = self.read.len() == 1;
        self.read[1..].split('/').filter(move |_| !root)
    }

    /// What servers read differently in it.
    pub const fn doubt(&self) -> Option<Doubt> {
        self.doubt
    }
}

/// `text` up to its query.
fn without_query(text: &str) -> &str {
    text.find('?').map_or(text, |question_mark| &text[..question_mark])
}

/// Percent-decodes once. What decoding would turn into a character with a meaning of its own is refused.
fn decode(text: &str) -> Result<String, Unclear> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        match octet(&mut bytes)? {
            b'/' => return Err(Unclear::EncodedSlash),
            b'\\' => return Err(Unclear::Backslash),
            b'%' => return Err(Unclear::EncodedPercent),
            b';' => return Err(Unclear::Parameters),
            octet => decoded.push(octet),
        }
    }
    String::from_utf8(decoded).map_err(|_| Unclear::NotUtf8)
}

/// The octet that the two digits behind a percent sign stand for, unless it is a control character.
fn octet(digits: &mut impl Iterator<Item = u8>) -> Result<u8, Unclear> {
    let mut digit = || digits.next().and_then(|byte| char::from(byte).to_digit(16)).ok_or(Unclear::BadEncoding);
    match u8::try_from(digit()? * 16 + digit()?).map_err(|_| Unclear::BadEncoding)? {
        0..0x20 | 0x7f => Err(Unclear::Control),
        octet => Ok(octet),
    }
}

/// Whether some servers end a line at `c`, or a text.
fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

impl fmt::Display for Method<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_path_with_two_readings_is_refused() {
        use Unclear::*;
        for (path, why) in [
            ("/api/public/../admin/x", DotSegment),
            ("/api/public/%2e%2e/admin/x", DotSegment),
            ("/api/public/.%2E/admin", DotSegment),
            ("/api/./admin/x", DotSegment),
            ("/./api/admin", DotSegment),
            ("/api/admin/.", DotSegment),
            ("/api/admin/..", DotSegment),
            ("/api/public/..%2fadmin/x", EncodedSlash),
            ("/api/public/%2F..%2F", EncodedSlash),
            ("/api/public/%252e%252e/admin", EncodedPercent),
            ("/api/public/..;/admin", Parameters),
            ("/api/public/..;foo=bar/admin", Parameters),
            ("/api/admin;x=y/users", Parameters),
            ("/api/admin%3bjsessionid=1", Parameters),
            ("//api/admin/x", EmptySegment),
            ("/api//admin/x", EmptySegment),
            ("/api/admin//", EmptySegment),
            ("/api\\admin\\x", Backslash),
            ("/api/public\\..\\admin", Backslash),
            ("/api/%5cadmin", Backslash),
            ("/api/admin%00.png", Control),
            ("/api/admin%0a", Control),
            ("/api/admin%0d", Control),
            ("/api/admin\0", Control),
            ("/api/admin ", Control),
            ("/api/admin\u{85}", Control),
            ("/api/%e2%80%a8", Control),
            ("/api/admin#x", Fragment),
            ("/api/admin/%zz", BadEncoding),
            ("/api/admin/%", BadEncoding),
            ("/api/admin/%2", BadEncoding),
            ("/api/admin/%+2", BadEncoding),
            ("/api/%u002e", BadEncoding),
            ("/api/adm%C0%AFin", NotUtf8),
            ("/%C0%AE%C0%AE/", NotUtf8),
            ("/api/%ff", NotUtf8),
            ("api/admin", Form),
            ("", Form),
            ("?x", Form),
            (" /api/admin", Form),
        ] {
            assert_eq!(Path::parse(path), Err(why), "{path:?}");
        }
        assert_eq!(Path::parse(&format!("/{}", "a".repeat(9 * 1024))), Err(TooLong));
        assert_eq!(Path::parse(&"/a".repeat(300)), Err(TooLong));
        assert_eq!(Path::parse(&"/".repeat(1_000_000)), Err(TooLong));
    }

    #[test]
    fn a_path_with_one_reading_is_decoded_once() {
        for (path, read) in [
            ("/", "/"),
            ("/api/admin", "/api/admin"),
            ("/api/admin/", "/api/admin"),
            ("/api/admin/?x=/../", "/api/admin"),
            ("/api/public?/../admin", "/api/public"),
            ("/api/%61dmin/x", "/api/admin/x"),
            ("/api/admin%23x", "/api/admin#x"),
            ("/api/admin%20", "/api/admin "),
            ("/api/adm%C4%B1n", "/api/admın"),
            ("/api/adm\u{131}n", "/api/admın"),
            ("/a%2Bb", "/a+b"),
            ("/api/%EF%BC%8F", "/api/／"),
            ("/file%2ejson", "/file.json"),
            ("/...", "/..."),
            ("/api/orders/{id}", "/api/orders/{id}"),
        ] {
            assert_eq!(Path::parse(path).unwrap().as_str(), read, "{path:?}");
            assert_eq!(Path::parse(path).unwrap().as_written(), path.split('?').next().unwrap());
        }
        assert_eq!(Path::parse("/").unwrap().segments().count(), 0);
        assert_eq!(Path::parse("/a/b/").unwrap().segments().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn targets_other_than_paths_go_with_their_methods_only() {
        let method = |name| Method::parse(name).unwrap();
        assert_eq!(Target::parse("*", method("OPTIONS"), None), Ok(Target::Asterisk));
        assert_eq!(Target::parse("*", method("GET"), None), Err(Unclear::Form));
        assert_eq!(Target::parse("", method("CONNECT"), None), Ok(Target::Authority));
        assert_eq!(Target::parse("", method("GET"), None), Err(Unclear::Form));
        let host = Host::parse("api.example.com").unwrap();
        let parse = |text| Target::parse(text, method("GET"), Some(&host));
        assert_eq!(parse("http://api.example.com/x?y"), Ok(Target::Path(Path::parse("/x").unwrap())));
        assert_eq!(parse("https://API.example.com:443"), Ok(Target::Path(Path::parse("/").unwrap())));
        assert_eq!(parse("http://evil/api/public"), Err(Unclear::OtherHost));
        assert_eq!(parse("http://api.example.com@evil/"), Err(Unclear::Host));
        assert_eq!(Target::parse("http://api.example.com/x", method("GET"), None), Err(Unclear::OtherHost));
        assert_eq!(parse("ftp://api.example.com/"), Err(Unclear::Form));
    }

    #[test]
    fn hosts_have_one_spelling() {
        for host in
            ["api.example.com", "API.example.com", "api.example.com.", "api.example.com:443", "api.example.com:8443"]
        {
            assert_eq!(Host::parse(host).unwrap().as_str(), "api.example.com", "{host}");
        }
        for host in ["[::1]:8080", "[::0001]", "[0:0:0:0:0:0:0:1]", "[0::1]."] {
            assert_eq!(Host::parse(host).unwrap().as_str(), "[::1]", "{host}");
        }
        assert_eq!(Host::parse("[2001:DB8::A]").unwrap().as_str(), "[2001:db8::a]");
        assert_eq!(Host::parse("127.0.0.1").unwrap().as_str(), "127.0.0.1");
        for (host, port) in [("a", None), ("a:", None), ("a:443", Some(443)), ("[::1]:8080", Some(8080))] {
            assert_eq!(Host::parse(host).unwrap().port(), port, "{host}");
        }
        for host in [
            "",
            ".",
            "..",
            ".a",
            "a..",
            "a,b",
            "user@host",
            "a b",
            "a..b",
            "host:port",
            "[::1",
            "[x]",
            "é.example",
            "a/b",
            "::1",
            "a:+80",
            "a:65536",
        ] {
            assert_eq!(Host::parse(host), Err(Unclear::Host), "{host}");
        }
    }

    #[test]
    fn methods_are_upper_case() {
        for method in ["GET", "DELETE", "M-SEARCH", "FOO"] {
            assert!(Method::parse(method).is_ok(), "{method}");
        }
        for method in ["", "get", "Get", "DELETE\t", "DELETE ", "GÉT", "-", &"A".repeat(33)] {
            assert_eq!(Method::parse(method), Err(Unclear::Method), "{method}");
        }
    }

    proptest! {
        /// Whatever is accepted holds nothing that any server could take for structure.
        #[test]
        fn what_is_accepted_has_one_reading(text in "/([a-zA-Z.%0-9;/\\\\ ~*{}?#é-]|%2[eEfF5]|%5[cC]){0,40}") {
            if let Ok(path) = Path::parse(&text) {
                prop_assert!(path.as_str().starts_with('/'));
                prop_assert!(path.segments().all(|segment| !matches!(segment, "" | "." | "..")));
                prop_assert!(!path.as_str().contains(['\\', ';', '%']));
                prop_assert!(path.as_str() == "/" || !path.as_str().ends_with('/'));
            }
        }

        #[test]
        fn nothing_panics(text in any::<String>()) {
            let _ = Path::parse(&text);
            let _ = Host::parse(&text);
            let _ = Method::parse(&text);
        }
    }
}
