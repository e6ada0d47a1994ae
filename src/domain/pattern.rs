//! Patterns of hosts, paths and values, as rules have them.

use std::borrow::Cow;
use std::fmt;

use super::path::{Host, Path, data};

/// A host, or every name below one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// This very host; canonical.
    Exact(String),
    /// `*.example.com`: any host below `example.com`; held with the leading dot.
    Below(String),
}

/// A path pattern: `/api/orders/{id}`, `/api/public/**`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    /// One for each segment.
    segments: Vec<SegmentPattern>,
    /// Whether it ends in `/**`: the path and all below.
    open: bool,
    /// As written.
    text: String,
}

/// What one segment must be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum SegmentPattern {
    /// This; case-sensitively, unless the host says otherwise.
    Literal(String),
    /// `*`: any one.
    Any,
    /// `{name}`: any one, and limits can be keyed by it.
    Named(String),
}

/// What the value of a header or an attribute must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValuePattern {
    /// Anything: it is there.
    Present,
    /// One of these, byte by byte. Never empty.
    OneOf(Vec<String>),
}

impl ValuePattern {
    /// Whether `value` is one of those that are meant.
    pub fn covers(&self, value: &str) -> bool {
        match self {
            Self::Present => true,
            Self::OneOf(values) => values.iter().any(|one| one == value),
        }
    }

    /// Whether it covers every value that `other` covers.
    pub fn includes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Present, _) => true,
            (Self::OneOf(_), Self::Present) => false,
            (Self::OneOf(_), Self::OneOf(values)) => values.iter().all(|value| self.covers(value)),
        }
    }
}

impl HostPattern {
    /// Reads `api.example.com` or `*.example.com`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (below, name) = text.strip_prefix("*.").map_or((false, text), |name| (true, name));
        let host = Host::parse(name).map_err(|why| why.to_string())?;
        if host.as_str() != name {
            return Err(format!("must be canonical: `{}`, in lower case, without port and final dot", host.as_str()));
        }
        Ok(if below { Self::Below(format!(".{name}")) } else { Self::Exact(name.to_owned()) })
    }

    /// Whether `host` is one of those that are meant.
    pub fn covers(&self, host: &Host<'_>) -> bool {
        match self {
            Self::Exact(name) => host.as_str() == name,
            Self::Below(suffix) => host.as_str().len() > suffix.len() && host.as_str().ends_with(suffix),
        }
    }

    /// Whether it covers every host that `other` covers.
    pub fn includes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(name), Self::Exact(other)) => name == other,
            (Self::Exact(_), Self::Below(_)) => false,
            (Self::Below(suffix), Self::Exact(other)) => other.len() > suffix.len() && other.ends_with(suffix),
            (Self::Below(suffix), Self::Below(other)) => other.ends_with(suffix),
        }
    }
}

/// As it is written.
impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Below(suffix) => write!(f, "*{suffix}"),
        }
    }
}

impl PathPattern {
    /// Reads a pattern. `*` and `{name}` stand for one segment, `**` as the last one for the path before it and all
    /// below. Whatever else would be refused in a request, or has a shorter spelling, is refused here.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (closed, open) = match text.strip_suffix("/**") {
            Some("") => ("/", true),
            Some(closed) => (closed, true),
            None => (text, false),
        };
        let canonical = Path::parse(closed).map_err(|why| why.to_string())?;
        let signs = |text: &str| text.matches(['*', '{', '}']).count();
        if signs(canonical.as_str()) > signs(closed) {
            return Err(
                "has an encoded `*`, `{` or `}`, which cannot be told from a pattern's own; write `*` for the \
                        segment that has it"
                    .to_owned(),
            );
        }
        let spelled = spelled(canonical.as_str());
        if spelled != closed {
            return Err(format!(
                "must be canonical: `{spelled}`, decoded but for spaces, `#` and `?`, without query and trailing \
                 slash (which is ignored in requests)"
            ));
        }
        let mut segments: Vec<SegmentPattern> = Vec::new();
        for segment in canonical.segments() {
            let pattern = match segment {
                "*" => SegmentPattern::Any,
                "**" => return Err("`**` can only be the last segment".to_owned()),
                _ => match segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
                    Some(name) => {
                        let named = SegmentPattern::Named(parameter_name(name)?);
                        if segments.contains(&named) {
                            return Err(format!("names the segment `{{{name}}}` twice"));
                        }
                        named
                    }
                    None if segment.contains(['*', '{', '}']) => {
                        return Err(format!("`{segment}`: `*` and `{{name}}` stand for whole segments only"));
                    }
                    None => SegmentPattern::Literal(segment.to_owned()),
                },
            };
            segments.push(pattern);
        }
        Ok(Self { segments, open, text: text.to_owned() })
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The names of its `{name}` segments.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            SegmentPattern::Named(name) => Some(name.as_str()),
            SegmentPattern::Literal(_) | SegmentPattern::Any => None,
        })
    }

    /// Its segments: each a literal, or none for `*` and `{name}`.
    pub(super) fn literals(&self) -> impl Iterator<Item = Option<&str>> {
        self.segments.iter().map(|segment| match segment {
            SegmentPattern::Literal(literal) => Some(literal.as_str()),
            SegmentPattern::Any | SegmentPattern::Named(_) => None,
        })
    }

    /// Whether it is for all below, too: it ends in `/**`.
    pub(super) const fn is_open(&self) -> bool {
        self.open
    }

    /// Whether `path` is one of those that the pattern is for.
    pub fn covers(&self, path: &Path<'_>) -> bool {
        self.covers_segments(path.segments(), false)
    }

    /// Whether a path of these segments is one of those that the pattern is for. `folds`: letters of ASCII are the same in
    /// either case.
    pub(super) fn covers_segments<'s>(&self, segments: impl Iterator<Item = &'s str>, folds: bool) -> bool {
        let mut patterns = self.segments.iter();
        for segment in segments {
            let covered = match patterns.next() {
                None => return self.open,
                Some(SegmentPattern::Literal(literal)) => {
                    literal == segment || (folds && literal.eq_ignore_ascii_case(segment))
                }
                Some(SegmentPattern::Any | SegmentPattern::Named(_)) => !segment.is_empty(),
            };
            if !covered {
                return false;
            }
        }
        patterns.next().is_none()
    }

    /// Whether it covers every path that `other` covers.
    pub fn includes(&self, other: &Self) -> bool {
        let lengths_fit = if self.open {
            self.segments.len() <= other.segments.len()
        } else {
            !other.open && self.segments.len() == other.segments.len()
        };
        let includes = |(pattern, other): (&SegmentPattern, &SegmentPattern)| match pattern {
            SegmentPattern::Literal(_) => pattern == other,
            SegmentPattern::Any | SegmentPattern::Named(_) => true,
        };
        lengths_fit && self.segments.iter().zip(&other.segments).all(includes)
    }

    /// The pattern of the path above, where the last segment is `*` or `{name}`: `/orders` for `/orders/{id}`.
    pub fn above(&self) -> Option<Self> {
        let (last, segments) = self.segments.split_last()?;
        if self.open || matches!(last, SegmentPattern::Literal(_)) {
            return None;
        }
        let text = match self.text.rsplit_once('/')?.0 {
            "" => "/".to_owned(),
            text => text.to_owned(),
        };
        Some(Self { segments: segments.to_vec(), open: false, text })
    }

    /// What the segment of `path` holds that `{name}` stands for.
    pub(super) fn parameter<'p>(&self, name: &str, path: &'p Path<'_>) -> Option<Cow<'p, str>> {
        let index = self
            .segments
            .iter()
            .position(|segment| matches!(segment, SegmentPattern::Named(named) if named == name))?;
        path.segments().nth(index).map(data)
    }
}

/// A decoded path as a pattern spells it: what cannot stand in a path as it is stays encoded.
fn spelled(path: &str) -> String {
    path.replace(' ', "%20").replace('#', "%23").replace('?', "%3F")
}

/// The name between the braces of `{name}`.
fn parameter_name(name: &str) -> Result<String, String> {
    let well_formed = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if well_formed {
        Ok(name.to_owned())
    } else {
        Err(format!("`{{{name}}}`: a segment's name has letters, digits and `_` only"))
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use proptest::prelude::*;

    use super::*;

    /// Small enough that patterns meet each other.
    pub(crate) fn pattern() -> impl Strategy<Value = PathPattern> {
        ("(/(a|b|\\*|\\{x\\})){0,3}", any::<bool>()).prop_filter_map("not canonical", |(text, open)| {
            let text = if open { format!("{text}/**") } else { text };
            PathPattern::parse(&text).ok()
        })
    }

    proptest! {
        /// With one segment more, literal or not, the pattern above is the same again.
        #[test]
        fn the_pattern_above_lacks_the_last_segment(pattern in pattern()) {
            let text = pattern.as_str();
            let closed = if text == "/" { "" } else { text };
            match PathPattern::parse(&format!("{closed}/{{last}}")) {
                Ok(below) => prop_assert_eq!(below.above(), Some(pattern)),
                Err(_) => prop_assert!(text.ends_with("**")),
            }
        }
    }

    #[test]
    fn patterns_are_canonical_themselves() {
        for pattern in ["/", "/**", "/a", "/a/**", "/a/{id}/b", "/a/*/b", "/a+b", "/pkg.Service/Method"] {
            assert_eq!(PathPattern::parse(pattern).map(|p| p.text), Ok(pattern.to_owned()));
        }
        for pattern in [
            "",
            "a",
            "/a/",
            "//",
            "/a//b",
            "/a/../b",
            "/a/**/b",
            "/a/b*",
            "/a/{id",
            "/a/{}",
            "/a/{i-d}",
            "/{a}/{a}",
            "/%61",
            "/a?b",
            "/a;b",
            "**",
            "/a**",
            "/a b",
            "/%3fb",
            "/%2A",
            "/a/%7Bid%7D",
            "/a/%2a/**",
        ] {
            assert!(PathPattern::parse(pattern).is_err(), "{pattern}");
        }
    }

    /// Else no rule could name such a path, and the remedy would lead from one refusal to the next.
    #[test]
    fn what_a_path_cannot_hold_as_it_is_stays_encoded_in_a_pattern() {
        for (pattern, path) in [("/a%20b", "/a%20b"), ("/a%23b/**", "/a%23b/c"), ("/%3F", "/%3f"), ("/ä", "/%C3%A4")] {
            let read = PathPattern::parse(pattern).unwrap();
            assert_eq!(read.as_str(), pattern);
            assert!(read.covers(&Path::parse(path).unwrap()), "{pattern}");
        }
        assert!(PathPattern::parse("/a%20%61").unwrap_err().contains("`/a%20a`"));
        assert!(PathPattern::parse("/%2A").unwrap_err().contains("encoded `*`"), "not: write `/*`");
    }

    #[test]
    fn hosts_match_exactly_or_below() {
        let covers =
            |pattern: &str, host: &str| HostPattern::parse(pattern).unwrap().covers(&Host::parse(host).unwrap());
        assert!(covers("api.example.com", "API.example.com.:443"));
        assert!(!covers("api.example.com", "xapi.example.com"));
        assert!(covers("*.example.com", "a.b.example.com"));
        assert!(!covers("*.example.com", "example.com"));
        assert!(!covers("*.example.com", "badexample.com"));
        for pattern in ["", "*", "*.", "API.example.com", "a.example.com:80", "a.*.com", "http://a"] {
            assert!(HostPattern::parse(pattern).is_err(), "{pattern}");
        }
    }
}
