//! What a limit is, and which counter a question falls on.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::net::IpAddr;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use smallvec::SmallVec;

use super::bucket::Flow;
use super::fixed::Grid;
use super::path::{Host, Method, Path, Unclear};
use super::slots::Slots;
use super::time::Micros;

/// Into how many sub-windows a window is cut. More are more exact and cost more memory: under steady excess demand a
/// limit admits at least `1 − 2/B` of what an exact log would.
pub const SUB_WINDOWS: u32 = 32;

/// The longest window: about a year. Longer ones are budgets, not rates.
pub const WINDOW_MAX: Micros = Micros::from_secs(366 * 24 * 60 * 60);

/// The shortest window. Below it the network's jitter is larger than a sub-window.
pub const WINDOW_MIN: Micros = Micros::from_millis(100);

/// The most units a limit may hold: sums of them stay exact in the doubles that Redis scripts count in.
pub const UNITS_MAX: u64 = 1_000_000_000_000;

/// The most units that one counter counts, those beyond its limit included: settled reservations may add some.
pub const TOTAL_MAX: u64 = 1_000 * UNITS_MAX;

/// The longest that something is held: a reservation, or a slot of a concurrency limit.
pub const HOLD_MAX: Micros = Micros::from_secs(60 * 60);

/// So many units in so much time, for each distinct key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Its name in the configuration; `[a-z0-9_.-]`, at most 64 bytes.
    pub name: String,
    /// How units are counted, and how many there are.
    pub algorithm: Algorithm,
    /// Which attributes of the question select the counter; none: one counter for all.
    pub by: Vec<Attribute>,
    /// What happens while the store cannot be asked.
    pub when_away: WhenAway,
}

/// How units are counted. What is charged under one algorithm counts under no other: the same key under another is
/// another counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// At most so many units in any interval as long as the window: see [`super::window`].
    SlidingWindow {
        /// 1 to [`UNITS_MAX`].
        units: u64,
        /// The window's length. [`WINDOW_MIN`] to [`WINDOW_MAX`].
        window: Micros,
    },
    /// At most a burst, and no more than a rate over time: see [`super::bucket`].
    TokenBucket(Flow),
    /// At most so many units in each window of the clock: see [`super::fixed`].
    FixedWindow(Grid),
    /// At most so many units held at a time: see [`super::slots`].
    Concurrency(Slots),
}

impl Limit {
    /// The most units that it ever holds: what the window admits, the burst, or what may be held at a time.
    pub const fn units(&self) -> u64 {
        match self.algorithm {
            Algorithm::SlidingWindow { units, window: _ } => units,
            Algorithm::TokenBucket(flow) => flow.burst(),
            Algorithm::FixedWindow(grid) => grid.units,
            Algorithm::Concurrency(slots) => slots.units,
        }
    }

    /// The window's length; for a token bucket the time in which an empty one fills, for concurrency the time that units
    /// are held at most.
    pub const fn window(&self) -> Micros {
        match self.algorithm {
            Algorithm::SlidingWindow { units: _, window } => window,
            Algorithm::TokenBucket(flow) => flow.fills_in(),
            Algorithm::FixedWindow(grid) => grid.length,
            Algorithm::Concurrency(slots) => slots.hold,
        }
    }

    /// The counter that these attributes select: exactly those in `by`, and `identity.issuer` beside any other
    /// attribute of the identity. It is the counter that a decision with the same attributes consumes.
    ///
    /// # Errors
    /// A sentence that says what is missing, too much or not well formed.
    pub fn counter(&self, attributes: &BTreeMap<String, String>) -> Result<CounterKey, String> {
        let mut wanted: Vec<String> = self.by.iter().map(Attribute::to_string).collect();
        if self.by.iter().any(Attribute::needs_identity) && !self.by.contains(&Attribute::Issuer) {
            wanted.push(Attribute::Issuer.to_string());
        }
        let given = |name: &str| attributes.get(name).map(String::as_str).filter(|value| !value.is_empty());
        if attributes.len() != wanted.len() || wanted.iter().any(|name| given(name).is_none()) {
            return Err(match wanted.as_slice() {
                [] => "must be empty: the limit has one counter for all".to_owned(),
                _ => format!("must name exactly {}, none of them empty", wanted.join(" and ")),
            });
        }
        let mut key = CounterKey::new(&self.name);
        for attribute in &self.by {
            let name = attribute.to_string();
            let value = given(&name).unwrap_or_default();
            let unclear = |why: Unclear| format!("`{name}` {why}");
            match attribute {
                Attribute::Subject | Attribute::Client | Attribute::Session => {
                    key.push_under((given(&Attribute::Issuer.to_string()).unwrap_or_default(), value));
                }
                Attribute::SourceAddress => {
                    let address: IpAddr = value.parse().map_err(|_| format!("`{name}` must be an IP address"))?;
                    key.push_display(address.to_canonical());
                }
                Attribute::Method => key.push(Method::parse(value).map_err(unclear)?.as_str()),
                Attribute::Host => key.push(Host::parse(value).map_err(unclear)?.as_str()),
                Attribute::Path => key.push(Path::parse(value).map_err(unclear)?.as_str()),
                Attribute::Issuer | Attribute::PathParameter(_) | Attribute::Resource(_) | Attribute::Rule => {
                    key.push(value);
                }
            }
        }
        Ok(key)
    }
}

/// What a limit does while its store cannot be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenAway {
    /// Refuse: the limit holds whatever happens.
    #[default]
    Deny,
    /// Let go on: everything is admitted meanwhile.
    Allow,
}

/// An attribute of a question that can select a counter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Attribute {
    /// `identity.issuer`
    Issuer,
    /// `identity.subject`, together with its issuer: two issuers may both know an `alice`.
    Subject,
    /// `identity.client`, together with its issuer.
    Client,
    /// `identity.session`, together with its issuer.
    Session,
    /// `source.address`
    SourceAddress,
    /// `request.method`
    Method,
    /// `request.host`
    Host,
    /// `request.path`, decoded as for matching
    Path,
    /// `path.<name>`: a segment that the rule's pattern names
    PathParameter(Box<str>),
    /// `resource.<name>`
    Resource(Box<str>),
    /// `rule`: the name of the rule that matched
    Rule,
}

impl Attribute {
    /// Reads an attribute's name as it stands in the configuration.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "identity.issuer" => Self::Issuer,
            "identity.subject" => Self::Subject,
            "identity.client" => Self::Client,
            "identity.session" => Self::Session,
            "source.address" => Self::SourceAddress,
            "request.method" => Self::Method,
            "request.host" => Self::Host,
            "request.path" => Self::Path,
            "rule" => Self::Rule,
            _ => {
                let (space, rest) = name.split_once('.')?;
                if rest.is_empty() {
                    return None;
                }
                match space {
                    "path" => Self::PathParameter(rest.into()),
                    "resource" => Self::Resource(rest.into()),
                    _ => return None,
                }
            }
        })
    }

    /// Whether it is known only once the caller is.
    pub const fn needs_identity(&self) -> bool {
        matches!(self, Self::Issuer | Self::Subject | Self::Client | Self::Session)
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Issuer => "identity.issuer",
            Self::Subject => "identity.subject",
            Self::Client => "identity.client",
            Self::Session => "identity.session",
            Self::SourceAddress => "source.address",
            Self::Method => "request.method",
            Self::Host => "request.host",
            Self::Path => "request.path",
            Self::Rule => "rule",
            Self::PathParameter(name) => return write!(f, "path.{name}"),
            Self::Resource(name) => return write!(f, "resource.{name}"),
        })
    }
}

/// Values up to this length stand in a key as they are; longer ones as a hash.
const PLAIN_VALUE_MAX: usize = 64;

/// Names one counter: the limit and the values that select it.
///
/// Readable, because operators look at Redis, and unambiguous whatever the values hold, because each is preceded by
/// its length: `per-client 5:alice`. A long value is replaced by `h` and its SHA-256 in base64url.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CounterKey(SmallVec<[u8; 96]>);

impl CounterKey {
    /// The key of the limit's only counter, to which [`CounterKey::push`] adds what selects one of many.
    pub fn new(limit: &str) -> Self {
        Self(SmallVec::from_slice(limit.as_bytes()))
    }

    /// Adds the next selecting value.
    pub fn push(&mut self, value: &str) {
        if value.len() <= PLAIN_VALUE_MAX {
            // Writing to a `Bytes` cannot fail.
            let _ = write!(Bytes(&mut self.0), " {}:", value.len());
            self.0.extend_from_slice(value.as_bytes());
            return;
        }
        self.0.extend_from_slice(b" h");
        let mut text = [0; 43];
        let hash = digest::digest(&digest::SHA256, value.as_bytes());
        if let Ok(written) = URL_SAFE_NO_PAD.encode_slice(hash.as_ref(), &mut text) {
            self.0.extend_from_slice(&text[..written]);
        }
    }

    /// Adds a value that means something only together with the issuer that vouches for it.
    pub fn push_under(&mut self, (issuer, value): (&str, &str)) {
        self.push(issuer);
        self.push(value);
    }

    /// Adds a value that is written out first.
    pub fn push_display(&mut self, value: impl fmt::Display) {
        let mut text = SmallVec::<[u8; 48]>::new();
        let _ = write!(Bytes(&mut text), "{value}");
        match std::str::from_utf8(&text) {
            Ok(text) => self.push(text),
            // `Display` writes `str`s only.
            Err(_) => unreachable!(),
        }
    }

    /// The key as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for CounterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

/// Lets `write!` append to a byte vector.
struct Bytes<'a, const N: usize>(&'a mut SmallVec<[u8; N]>);

impl<const N: usize> fmt::Write for Bytes<'_, N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(values: &[&str]) -> CounterKey {
        let mut key = CounterKey::new("limit");
        for value in values {
            key.push(value);
        }
        key
    }

    #[test]
    fn keys_are_readable() {
        assert_eq!(key(&["https://a", "alice"]).as_bytes(), b"limit 9:https://a 5:alice");
        let long = "x".repeat(1 << 20);
        assert_eq!(key(&[&long]).as_bytes().len(), "limit h".len() + 43);
        let mut address = CounterKey::new("limit");
        address.push_display(std::net::Ipv4Addr::LOCALHOST);
        assert_eq!(address.as_bytes(), b"limit 9:127.0.0.1");
    }

    #[test]
    fn attributes_are_read_as_they_are_written() {
        for name in ["identity.subject", "source.address", "path.id", "resource.owner", "rule", "request.path"] {
            assert_eq!(Attribute::from_name(name).map(|a| a.to_string()).as_deref(), Some(name));
        }
        for name in ["", "identity", "identity.", "path.", "subject", "header.x"] {
            assert_eq!(Attribute::from_name(name), None, "{name}");
        }
    }

    proptest! {
        /// No choice of values makes two different lists share a counter.
        #[test]
        fn different_values_have_different_keys(
            a in prop::collection::vec("[a-z0-9: h]{0,70}", 0..4),
            b in prop::collection::vec("[a-z0-9: h]{0,70}", 0..4),
        ) {
            let a: Vec<&str> = a.iter().map(String::as_str).collect();
            let b: Vec<&str> = b.iter().map(String::as_str).collect();
            prop_assert_eq!(a == b, key(&a) == key(&b));
        }
    }
}
