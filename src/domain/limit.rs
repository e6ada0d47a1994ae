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

/// The shortest that something is held: the holder's trip there and back has to fit in.
pub const HOLD_MIN: Micros = Micros::from_millis(100);

/// The most attributes that a limit may count by.
pub const ATTRIBUTES_MAX: usize = 16;

/// The longest name of a limit, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// So many units in so much time, for each distinct key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Its name in the configuration: see [`Limit::is_name`].
    pub name: String,
    /// How units are counted, and how many there are.
    pub algorithm: Algorithm,
    /// Which attributes of the question select the counter, at most [`ATTRIBUTES_MAX`]; none: one counter for all.
    pub by: Vec<Attribute>,
    /// What happens while the store cannot be asked.
    pub when_away: WhenAway,
    /// When a call consumes it.
    pub charge: Occasion,
}

/// How units are counted. What is charged under one algorithm counts under no other: the same key under another is
/// another counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// At most so many units in any interval as long as the window: see [`super::window`].
    SlidingWindow {
        /// Up to [`UNITS_MAX`]; 0, which only limits by descriptors have, refuses all that costs something.
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

/// Which algorithm, whatever its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are those of `Algorithm`")]
pub enum Kind {
    SlidingWindow,
    TokenBucket,
    FixedWindow,
    Concurrency,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::SlidingWindow, Self::TokenBucket, Self::FixedWindow, Self::Concurrency];
}

impl Algorithm {
    /// Which one it is.
    pub const fn kind(self) -> Kind {
        match self {
            Self::SlidingWindow { .. } => Kind::SlidingWindow,
            Self::TokenBucket(_) => Kind::TokenBucket,
            Self::FixedWindow(_) => Kind::FixedWindow,
            Self::Concurrency(_) => Kind::Concurrency,
        }
    }
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

    /// What one of so many replicas may admit by itself: the same limit with its part of the units, and of the rate.
    /// None where there is less than a unit for each.
    pub fn share(&self, replicas: u32) -> Option<Self> {
        let part = |units: u64| Some(units / u64::from(replicas.max(1))).filter(|&units| units > 0);
        let algorithm = match self.algorithm {
            Algorithm::SlidingWindow { units, window } => Algorithm::SlidingWindow { units: part(units)?, window },
            Algorithm::TokenBucket(flow) => Algorithm::TokenBucket(flow.share(replicas)?),
            Algorithm::FixedWindow(grid) => Algorithm::FixedWindow(Grid { units: part(grid.units)?, ..grid }),
            Algorithm::Concurrency(slots) => Algorithm::Concurrency(Slots { units: part(slots.units)?, ..slots }),
        };
        Some(Self { algorithm, ..self.clone() })
    }

    /// Whether `name` can be a limit's: 1 to [`NAME_BYTES_MAX`] of `[a-z0-9_.-]`.
    pub fn is_name(name: &str) -> bool {
        let allowed =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'.' | b'-');
        (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(allowed)
    }

    /// Whether `key` can be one of its counters: it has the limit's name, and as many values as the limit counts by.
    pub fn owns(&self, key: &CounterKey) -> bool {
        let values = self.by.iter().map(|attribute| if attribute.stands_under_issuer() { 2 } else { 1 });
        key.limit() == self.name && key.values() == Some(values.sum())
    }

    /// How long what is taken of it is held unless it is given back: only a concurrency limit's slots are.
    pub const fn hold(&self) -> Option<Micros> {
        match self.algorithm {
            Algorithm::Concurrency(slots) => Some(slots.hold),
            Algorithm::SlidingWindow { .. } | Algorithm::TokenBucket(_) | Algorithm::FixedWindow(_) => None,
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
    /// Admit a share, counted by this replica alone: the limit's units over the replicas last seen.
    Local,
}

/// When a call consumes a limit of its rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Occasion {
    /// Last, where everything else lets the call go on: a refused call costs nothing.
    #[default]
    AfterAuth,
    /// First, before the credential is looked at, whatever becomes of the call afterwards.
    BeforeAuth,
    /// Where a credential is shown that is not accepted: one unit, whatever the call costs. While the limit is used up, no
    /// credential is checked but those that are remembered as good.
    OnFailure,
}

impl Occasion {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::AfterAuth, Self::BeforeAuth, Self::OnFailure];

    /// Its name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AfterAuth => "after_auth",
            Self::BeforeAuth => "before_auth",
            Self::OnFailure => "on_failure",
        }
    }

    /// Whether it comes before anybody knows who calls: what counts then is known of every call.
    pub const fn is_early(self) -> bool {
        match self {
            Self::AfterAuth => false,
            Self::BeforeAuth | Self::OnFailure => true,
        }
    }
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
        matches!(self, Self::Issuer) || self.stands_under_issuer()
    }

    /// Whether it means something only together with the issuer that vouches for it.
    pub const fn stands_under_issuer(&self) -> bool {
        matches!(self, Self::Subject | Self::Client | Self::Session)
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
const _: () = assert!(PLAIN_VALUE_MAX < 100, "its length is written in two digits at most");

/// The length of a SHA-256 in base64url, in bytes.
const HASH_LENGTH: usize = 43;

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

    /// The key that gave these bytes: see [`CounterKey::as_bytes`].
    pub fn rebuilt(bytes: &[u8]) -> Self {
        Self(SmallVec::from_slice(bytes))
    }

    /// Adds the next selecting value.
    pub fn push(&mut self, value: &str) {
        if let Ok(length) = u8::try_from(value.len())
            && value.len() <= PLAIN_VALUE_MAX
        {
            // By hand: every decision writes some, and `write!` takes longer than all the rest.
            let digits = [b'0' + length / 10, b'0' + length % 10];
            self.0.push(b' ');
            self.0.extend_from_slice(if length < 10 { &digits[1..] } else { &digits });
            self.0.push(b':');
            self.0.extend_from_slice(value.as_bytes());
            return;
        }
        self.0.extend_from_slice(b" h");
        let mut text = [0; HASH_LENGTH];
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

    /// Reads what [`CounterKey::as_bytes`] gave. None: those are the bytes of no key.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let key = Self(SmallVec::from_slice(bytes));
        let counts = Limit::is_name(key.limit()) && key.values().is_some();
        counts.then_some(key)
    }

    /// The name of the limit that it belongs to.
    pub fn limit(&self) -> &str {
        let name = self.0.split(|&byte| byte == b' ').next().unwrap_or_default();
        std::str::from_utf8(name).unwrap_or_default()
    }

    /// How many values follow the name; none where those are no values.
    fn values(&self) -> Option<usize> {
        let mut rest = &self.0[self.limit().len()..];
        let mut values = 0;
        while !rest.is_empty() {
            rest = behind_value(rest)?;
            values += 1;
        }
        Some(values)
    }
}

/// What follows the value that `bytes` begin with; none where they begin with none.
fn behind_value(bytes: &[u8]) -> Option<&[u8]> {
    let bytes = bytes.strip_prefix(b" ")?;
    if let Some(hashed) = bytes.strip_prefix(b"h") {
        let (hash, rest) = hashed.split_at_checked(HASH_LENGTH)?;
        return hash.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte)).then_some(rest);
    }
    let colon = bytes.iter().position(|&byte| byte == b':')?;
    let digits = std::str::from_utf8(&bytes[..colon]).ok()?;
    let length = digits.parse().ok().filter(|&length: &usize| length <= PLAIN_VALUE_MAX)?;
    let (value, rest) = bytes[colon + 1..].split_at_checked(length)?;
    // One length is written in one way only: two spellings would be two counters.
    (digits == length.to_string() && std::str::from_utf8(value).is_ok()).then_some(rest)
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

    #[test]
    fn a_key_is_read_as_it_was_written_and_nothing_else_is() {
        let written = key(&["", "ß:h 1:", &"y".repeat(65)]);
        assert_eq!(CounterKey::from_bytes(written.as_bytes()), Some(written.clone()));
        assert_eq!((written.limit(), written.values()), ("limit", Some(3)));
        for bytes in [
            &b""[..],
            b" probe",
            b" 5:alice",
            b"Limit",
            b"limit ",
            b"limit 5",
            b"limit 5:alic",
            b"limit 5:alice ",
            b"limit 5:aliceh",
            b"limit 05:alice",
            b"limit +5:alice",
            b"limit 1:\xff",
            b"limit 65:xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            b"limit h",
            b"limit h}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}",
        ] {
            assert_eq!(CounterKey::from_bytes(bytes), None, "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_limit_owns_the_keys_that_it_makes() {
        let by = ["identity.subject", "source.address"].map(Attribute::from_name);
        let limit = Limit {
            name: "limit".to_owned(),
            algorithm: Algorithm::SlidingWindow { units: 1, window: WINDOW_MIN },
            by: by.into_iter().flatten().collect(),
            when_away: WhenAway::Deny,
            charge: Occasion::AfterAuth,
        };
        assert!(limit.owns(&key(&["https://a", "alice", "192.0.2.1"])));
        assert!(!limit.owns(&key(&["https://a", "alice"])));
        assert!(!limit.owns(&key(&["https://a", "alice", "192.0.2.1", "x"])));
        assert!(!Limit { name: "other".to_owned(), ..limit }.owns(&key(&["https://a", "alice", "192.0.2.1"])));
    }

    proptest! {
        /// Whatever the values hold, a key is read back, with as many of them.
        #[test]
        fn any_key_is_read_back(values in prop::collection::vec(".{0,70}", 0..4)) {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            let read = CounterKey::from_bytes(key(&values).as_bytes());
            prop_assert_eq!(read.as_ref().and_then(CounterKey::values), Some(values.len()));
        }

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
