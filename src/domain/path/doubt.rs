//! Paths that servers read differently, and whose readings the configuration may settle.
//!
//! Some servers cut `;v=1` off a segment, some decode `%2F` to a slash that separates; others keep both as data. Whoever
//! configures Tollgate may know what the servers behind do, and say so: by rule ([`Leniency`]), or for all that the gateway
//! leaves. Then such a path is matched so, and may pass.
//!
//! That must not open a door past a stricter rule. So a rule that has opted in never takes a path from a rule before it
//! that a server could find which reads the path otherwise: the first rule that *any* reading leads to decides
//! ([`Policy::find`](crate::domain::policy::Policy::find)). If it has not opted in to all that is doubtful, or if only
//! another reading than its own leads there, the path is refused as if nobody had opted in. What is left to the operator is
//! the order of rules, as everywhere.
//!
//! No opt-in is for what leads out of a path in some reading: dot segments, also between encoded slashes, in front of
//! parameters, or encoded several times, and control characters. Nor is there one for an encoded `;`, which some servers cut
//! at after decoding and most never.

use std::borrow::Cow;

use super::{PATH_BYTES_MAX, Path, SEGMENTS_MAX, Unclear, without_query};

/// A slash that is data of a segment.
const SLASH: &str = "%2F";

/// What dot segments are made of, by the digits that encode it.
const ENCODED: [(&str, char); 4] = [("2e", '.'), ("2f", '/'), ("5c", '\\'), ("3b", ';')];

/// What servers read differently in a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doubt {
    why: Unclear,
    /// It has parameters.
    parameters: bool,
    /// It has encoded slashes.
    slashes: bool,
    /// It has empty segments, backslashes or encoded percent signs.
    other: bool,
}

/// What a rule says of the servers behind it: how they read paths that others read differently. By default nothing, and
/// such paths are refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leniency {
    /// `encoded_slash: allow`: they keep `%2F` as data of one segment.
    pub encoded_slash: bool,
    /// `path_parameters: strip`: they cut each segment at its first `;`.
    pub path_parameters: bool,
}

impl Doubt {
    /// Why the path is refused where nobody says how to read it.
    pub const fn why(&self) -> Unclear {
        self.why
    }

    /// Whether a rule that is so lenient says all that there is to say; where the gateway is trusted, only parameters are
    /// left to it.
    pub const fn is_settled_by(&self, leniency: Leniency, trusts_gateway: bool) -> bool {
        (trusts_gateway || !self.other)
            && (trusts_gateway || leniency.encoded_slash || !self.slashes)
            && (leniency.path_parameters || !self.parameters)
    }
}

impl Unclear {
    /// What the configuration could say of a path that is refused for this, if it could say anything.
    pub const fn opt_in(self) -> Option<&'static str> {
        match self {
            Self::Parameters => Some("its rule may say `path_parameters: strip`"),
            Self::EncodedSlash => Some("its rule may say `encoded_slash: allow`"),
            Self::EmptySegment | Self::Backslash | Self::EncodedPercent => {
                Some("where the gateway has read it already: `path: { normalization: trust_gateway }`")
            }
            Self::Method
            | Self::Host
            | Self::Form
            | Self::OtherHost
            | Self::TooLong
            | Self::DotSegment
            | Self::BadEncoding
            | Self::Fragment
            | Self::Control
            | Self::NotUtf8 => None,
        }
    }
}

impl<'a> Path<'a> {
    /// Reads an absolute path as [`parse`](Self::parse) does; one that is refused there for what the configuration may
    /// settle is read with a [`Doubt`].
    pub fn read(text: &'a str) -> Result<Self, Unclear> {
        match Self::parse(text) {
            Err(why) if why.opt_in().is_some() => Self::doubtful(without_query(text), why),
            read => read,
        }
    }

    /// Its segments in every way in which a server may read them, its own first: with encoded slashes as data, and unless
    /// the gateway is trusted as separators, which may leave empty segments or not.
    ///
    /// There is no reading with parameters: a pattern has none, so it covers no path with them that it does not cover
    /// without.
    pub fn readings(&self, trusts_gateway: bool) -> Vec<Vec<&str>> {
        let mut readings = vec![self.segments().collect()];
        if !trusts_gateway && self.doubt.is_some_and(|doubt| doubt.slashes) {
            let separate = || self.segments().flat_map(|segment| segment.split(SLASH));
            readings.push(separate().collect());
            readings.push(separate().filter(|segment| !segment.is_empty()).collect());
        }
        readings
    }

    fn doubtful(text: &'a str, why: Unclear) -> Result<Self, Unclear> {
        if text.len() > PATH_BYTES_MAX || text.bytes().filter(|byte| *byte == b'/').count() > SEGMENTS_MAX {
            return Err(Unclear::TooLong);
        }
        let mut read = String::with_capacity(text.len());
        let mut doubt = Doubt { why, parameters: false, slashes: false, other: false };
        let mut segments = text[1..].split('/').peekable();
        while let Some(segment) = segments.next() {
            if segment.is_empty() && segments.peek().is_none() {
                // The trailing slash.
                break;
            }
            let segment = decode(segment)?;
            let name = match segment.split_once(';') {
                // Without its parameters it would be an empty segment, or its slashes would be others.
                Some(("", _)) => return Err(Unclear::Parameters),
                Some((_, parameters)) if parameters.contains(SLASH) => return Err(Unclear::EncodedSlash),
                Some((name, _)) => {
                    doubt.parameters = true;
                    name
                }
                None => &segment,
            };
            doubt.slashes |= name.contains(SLASH);
            doubt.other |= name.is_empty() || segment.contains('\\') || segment.contains("%25");
            if has_dot_segment(&segment) {
                return Err(Unclear::DotSegment);
            }
            read.push('/');
            read.push_str(name);
        }
        // One empty segment alone would look like the root, which has none.
        if read.len() <= 1 {
            return Err(why);
        }
        Ok(Self { read: Cow::Owned(read), written: text, doubt: Some(doubt) })
    }
}

/// What a segment, as [`Path::segments`] has it, holds.
pub(in crate::domain) fn data(segment: &str) -> Cow<'_, str> {
    // Only where there is a doubt.
    if segment.contains('%') {
        return Cow::Owned(segment.replace(SLASH, "/").replace("%25", "%"));
    }
    Cow::Borrowed(segment)
}

/// Percent-decodes a segment once, but for what stays data only while it is encoded.
fn decode(segment: &str) -> Result<String, Unclear> {
    let mut decoded = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'#' => return Err(Unclear::Fragment),
            0..=b' ' | 0x7f => return Err(Unclear::Control),
            b'%' => match super::octet(&mut bytes)? {
                b'/' => decoded.extend_from_slice(SLASH.as_bytes()),
                b'%' => decoded.extend_from_slice(b"%25"),
                b';' => return Err(Unclear::Parameters),
                octet => decoded.push(octet),
            },
            byte => decoded.push(byte),
        }
    }
    let decoded = String::from_utf8(decoded).map_err(|_| Unclear::NotUtf8)?;
    if decoded.chars().any(super::is_control) { Err(Unclear::Control) } else { Ok(decoded) }
}

/// Whether a server that decodes a segment once more, or again and again, may find a dot segment in it.
fn has_dot_segment(segment: &str) -> bool {
    let mut decoded = String::with_capacity(segment.len());
    let mut rest = segment;
    while let Some(at) = rest.find('%') {
        decoded.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        while let Some(next) = rest.strip_prefix("25") {
            rest = next;
        }
        let sign = ENCODED.iter().find(|(digits, _)| rest.get(..2).is_some_and(|own| own.eq_ignore_ascii_case(digits)));
        let (sign, length) = sign.map_or(('%', 0), |(_, sign)| (*sign, 2));
        decoded.push(sign);
        rest = &rest[length..];
    }
    decoded.push_str(rest);
    decoded.split(['/', '\\', ';']).any(|part| matches!(part, "." | ".."))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use proptest::prelude::*;

    use super::*;

    const NOTHING: Leniency = Leniency { encoded_slash: false, path_parameters: false };
    const SLASHES: Leniency = Leniency { encoded_slash: true, path_parameters: false };
    const PARAMETERS: Leniency = Leniency { encoded_slash: false, path_parameters: true };
    const BOTH: Leniency = Leniency { encoded_slash: true, path_parameters: true };

    #[test]
    fn what_leads_out_of_a_path_in_some_reading_is_never_in_doubt() {
        use Unclear::*;
        for (path, why) in [
            ("/a/..;/b", DotSegment),
            ("/a/.;x=y/b", DotSegment),
            ("/a/;../b", Parameters),
            ("/a/x;../b", DotSegment),
            ("/a/;/b", Parameters),
            ("/;x", Parameters),
            ("/a;%2Fb", EncodedSlash),
            ("/a/..%2Fb", DotSegment),
            ("/a/x%2F..", DotSegment),
            ("/a/x%2F.%2fb", DotSegment),
            ("/a/x%2F%2e%2E;y", DotSegment),
            ("/a/..\\b", DotSegment),
            ("/a/b%5C..", DotSegment),
            ("/a/%252e%252e/b", DotSegment),
            ("/a/.%25252E/b", DotSegment),
            ("/a/..%252Fb", DotSegment),
            ("/a/b%25255c..", DotSegment),
            ("/a/..%253bx", DotSegment),
            ("/a//../b", DotSegment),
            ("/a%3Bx/b;y", Parameters),
            ("/a;x%3By", Parameters),
            ("/a;x/%00", Control),
            ("/a;x/%C2%85", Control),
            ("/a%2F\n", Control),
            ("/a%2Fb#c", Fragment),
            ("/a;%zz", BadEncoding),
            ("/a%2F%ff", NotUtf8),
            ("//", EmptySegment),
        ] {
            assert_eq!(Path::read(path), Err(why), "{path:?}");
        }
        assert_eq!(Path::read(&format!("/;{}", "a".repeat(9 * 1024))), Err(TooLong));
        assert_eq!(Path::read(&format!("/a;x{}", "/a".repeat(300))), Err(TooLong));
        assert_eq!(Path::read(&"/".repeat(1_000_000)), Err(TooLong));
    }

    #[test]
    fn a_doubt_has_all_readings_and_is_settled_by_those_who_say_which() {
        let check = |text: &str, settled: [bool; 4], trusted: [bool; 2], own: &str, others: &[&[&str]]| {
            let path = Path::read(text).unwrap();
            let doubt = path.doubt().unwrap();
            assert_eq!(Err(doubt.why()), Path::parse(text), "{text}");
            let of = |leniency| doubt.is_settled_by(leniency, false);
            assert_eq!([NOTHING, SLASHES, PARAMETERS, BOTH].map(of), settled, "{text}");
            assert_eq!([NOTHING, PARAMETERS].map(|leniency| doubt.is_settled_by(leniency, true)), trusted, "{text}");
            assert_eq!((path.as_str(), path.as_written()), (own, without_query(text)));
            let readings = path.readings(false);
            assert_eq!(readings[0], path.segments().collect::<Vec<_>>(), "{text}");
            assert_eq!(&readings[1..], others, "{text}");
            assert_eq!(path.readings(true), readings[..1], "{text}");
        };
        let slashes: [&[&str]; 2] = [&["a", "b", ""], &["a", "b"]];
        check("/a%2fb%2F?x", [false, true, false, true], [true, true], "/a%2Fb%2F", &slashes);
        check("/a;x=y/b/", [false, false, true, true], [false, true], "/a/b", &[]);
        let both: [&[&str]; 2] = [&["a", "b"], &["a", "b"]];
        check("/a%2Fb;c", [false, false, false, true], [false, true], "/a%2Fb", &both);
        check("//a//", [false; 4], [true, true], "//a/", &[]);
        check("/a\\b%5Cc", [false; 4], [true, true], "/a\\b\\c", &[]);
        check("/100%25", [false; 4], [true, true], "/100%25", &[]);
        check("/%2525;x", [false; 4], [false, true], "/%2525", &[]);
        assert_eq!([data("a%2Fb"), data("100%25"), data("%252F"), data("a;b")], ["a/b", "100%", "%2F", "a;b"]);
    }

    proptest! {
        /// Whoever opts in to nothing sees nothing new: what the strict reading takes is the same, what it refuses is refused,
        /// or is in a doubt that only an opt-in settles.
        #[test]
        fn without_an_opt_in_the_strict_reading_stands(text in "/([a-zA-Z.%0-9;/\\\\ ~*?#é-]|%2[eEfF5]|%5[cC]|%3[bB]){0,40}") {
            match (Path::parse(&text), Path::read(&text)) {
                (Ok(strict), read) => prop_assert_eq!(read, Ok(strict)),
                (Err(why), Ok(read)) => {
                    let doubt = read.doubt().unwrap();
                    prop_assert_eq!(doubt.why(), why);
                    prop_assert!(!doubt.is_settled_by(NOTHING, false));
                }
                (Err(_), Err(_)) => {}
            }
        }

        /// However it is read, nothing in it leads up.
        #[test]
        fn no_reading_has_a_dot_segment(text in "/([ab.;/\\\\]|%2[eEfF]|%252e|%5C){0,30}") {
            if Path::read(&text).is_ok() {
                let text = text.to_ascii_lowercase();
                let decoded = text.replace("%252e", ".").replace("%2e", ".").replace("%2f", "/").replace("%5c", "\\");
                prop_assert!(!decoded.split(['/', '\\', ';']).any(|name| matches!(name, "." | "..")), "{text}");
            }
        }

        #[test]
        fn nothing_panics(text in any::<String>()) {
            let _ = Path::read(&text);
            let _ = Path::read(&format!("/{text}"));
        }
    }
}
