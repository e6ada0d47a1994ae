//! What is taken back: which tokens an entry hits, and for how long it is needed.
//!
//! An entry names a [`Target`]: one token, a session, a subject, a client, an issuer, an API key, a signing key. Entries
//! combine by OR: a token is revoked as soon as one of them hits it, and none takes precedence over another. What
//! replicas keep of an entry is its [`Mark`] and its [`Cutoff`]; who asked for it, and why, stays where it was written.

use std::sync::{Arc, OnceLock};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::api_key::KeyId;
use super::identity::{Identity, IdentityKind, Thumbprint};
use super::time::Micros;

/// The longest reason, in bytes.
pub const REASON_BYTES_MAX: usize = 512;

/// How many entries one request may hold.
pub const REVOCATIONS_MAX: usize = 1_000;

/// The last moment that an entry speaks of, in the year 2255: doubles, which Redis counts in, are exact up to it.
pub const LAST_MOMENT: Micros = Micros((1 << 53) - 1);

/// Added to the end of every token that an entry is for: clocks of replicas differ.
pub const MARGIN: Micros = Micros::from_secs(60);

/// The most that an issuer's clock may be said to be ahead.
pub const CLOCK_AHEAD_MAX: Micros = Micros::from_secs(60);

/// The kinds of things that can be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TargetKind {
    /// One token, by its id (`jti`).
    Token,
    /// One token that has no id, by a hash of what was signed of it, or of all of an opaque one: [`unnamed`].
    UnnamedToken,
    /// Every token of a session (`sid`), later ones too.
    Session,
    /// Every token about a subject (`sub`) that was issued up to a moment.
    Subject,
    /// Every token of a client (`client_id`, else `azp`) that was issued up to a moment.
    Client,
    /// Every token of an issuer that was issued up to a moment.
    Issuer,
    /// One API key, by its id.
    ApiKey,
    /// Every token that was signed with a key, by the key's thumbprint (RFC 7638).
    SigningKey,
}

impl TargetKind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::Token,
        Self::UnnamedToken,
        Self::Session,
        Self::Subject,
        Self::Client,
        Self::Issuer,
        Self::ApiKey,
        Self::SigningKey,
    ];

    /// Its place in [`ALL`](Self::ALL).
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The name: in logs, metrics, and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::UnnamedToken => "unnamed_token",
            Self::Session => "session",
            Self::Subject => "subject",
            Self::Client => "client",
            Self::Issuer => "issuer",
            Self::ApiKey => "api_key",
            Self::SigningKey => "signing_key",
        }
    }

    /// The letter that stands for it where entries are kept. Never changes its meaning.
    pub const fn letter(self) -> u8 {
        match self {
            Self::Token => b't',
            Self::UnnamedToken => b'u',
            Self::Session => b's',
            Self::Subject => b'p',
            Self::Client => b'c',
            Self::Issuer => b'i',
            Self::ApiKey => b'a',
            Self::SigningKey => b'k',
        }
    }

    /// The kind of that letter.
    pub fn from_letter(letter: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.letter() == letter)
    }

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether an entry of this kind hits only what was issued up to a moment.
    pub const fn has_moment(self) -> bool {
        match self {
            Self::Subject | Self::Client | Self::Issuer => true,
            Self::Token | Self::UnnamedToken | Self::Session | Self::ApiKey | Self::SigningKey => false,
        }
    }
}

/// What is taken back, borrowed. Always under its issuer: a subject, a session or an id means something only together with
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetRef<'a> {
    /// What kind of thing it is.
    pub kind: TargetKind,
    /// The issuer, compared byte by byte; empty for API keys, which are ours.
    pub issuer: &'a str,
    /// Its name under the issuer: text, or the 32 bytes of a hash; empty for an issuer itself.
    pub name: &'a [u8],
}

impl TargetRef<'_> {
    /// The name as people read it: a hash in base64url, as RFC 7638 has thumbprints.
    pub fn name_text(&self) -> String {
        match self.kind {
            TargetKind::UnnamedToken | TargetKind::SigningKey => URL_SAFE_NO_PAD.encode(self.name),
            TargetKind::Token
            | TargetKind::Session
            | TargetKind::Subject
            | TargetKind::Client
            | TargetKind::Issuer
            | TargetKind::ApiKey => String::from_utf8_lossy(self.name).into_owned(),
        }
    }
}

/// What is taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    kind: TargetKind,
    issuer: Box<str>,
    name: Box<[u8]>,
}

impl Target {
    /// The token of that issuer with that `jti`.
    pub fn token(issuer: &str, id: &str) -> Self {
        Self::new(TargetKind::Token, issuer, id.as_bytes())
    }

    /// The token of that issuer with that hash, as [`unnamed`] makes it.
    pub fn unnamed_token(issuer: &str, hash: &[u8; 32]) -> Self {
        Self::new(TargetKind::UnnamedToken, issuer, hash)
    }

    /// The session of that issuer with that `sid`.
    pub fn session(issuer: &str, session: &str) -> Self {
        Self::new(TargetKind::Session, issuer, session.as_bytes())
    }

    /// The subject of that issuer.
    pub fn subject(issuer: &str, subject: &str) -> Self {
        Self::new(TargetKind::Subject, issuer, subject.as_bytes())
    }

    /// The client of that issuer.
    pub fn client(issuer: &str, client: &str) -> Self {
        Self::new(TargetKind::Client, issuer, client.as_bytes())
    }

    /// All of an issuer.
    pub fn issuer(issuer: &str) -> Self {
        Self::new(TargetKind::Issuer, issuer, b"")
    }

    /// An API key.
    pub fn api_key(id: KeyId) -> Self {
        Self::new(TargetKind::ApiKey, "", id.as_str().as_bytes())
    }

    /// The key of that issuer with that thumbprint.
    pub fn signing_key(issuer: &str, thumbprint: &Thumbprint) -> Self {
        Self::new(TargetKind::SigningKey, issuer, thumbprint)
    }

    /// As kept: any kind, issuer and name.
    pub fn new(kind: TargetKind, issuer: &str, name: &[u8]) -> Self {
        Self { kind, issuer: issuer.into(), name: name.into() }
    }

    /// The same, borrowed.
    pub const fn borrowed(&self) -> TargetRef<'_> {
        TargetRef { kind: self.kind, issuer: &self.issuer, name: &self.name }
    }
}

/// Kinds of which a token has at most one each: those of one place name the credential itself, and exclude one another.
pub const FACETS: [&[TargetKind]; 6] = [
    &[TargetKind::Token, TargetKind::UnnamedToken, TargetKind::ApiKey],
    &[TargetKind::Session],
    &[TargetKind::Subject],
    &[TargetKind::Client],
    &[TargetKind::Issuer],
    &[TargetKind::SigningKey],
];

/// The quick hashes of all that an identity's token can be hit by, made when they are first asked for.
///
/// They belong to the fields beside them, so a copy, whose fields may be changed, begins without; and they are made only
/// where the identity is shared, and changes no more.
#[derive(Debug, Default)]
pub struct Tags(OnceLock<[u64; FACETS.len()]>);

impl Tags {
    /// In the place of a facet that the token does not have.
    pub const NONE: u64 = 0;

    /// Those of `identity`, by facet.
    pub fn of(identity: &Arc<Identity>) -> &[u64; FACETS.len()] {
        identity.tags.0.get_or_init(|| FACETS.map(|facet| target_in(identity, facet).map_or(Self::NONE, tag)))
    }
}

impl Clone for Tags {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// They add nothing to what they are made of.
impl PartialEq for Tags {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Tags {}

/// The target of one of these kinds that hits `identity`'s token, if it has one.
pub fn target_in<'a>(identity: &'a Identity, facet: &[TargetKind]) -> Option<TargetRef<'a>> {
    facet.iter().find_map(|kind| target_of(identity, *kind))
}

/// The target of `kind` that hits `identity`'s token, if it has one.
pub fn target_of(identity: &Identity, kind: TargetKind) -> Option<TargetRef<'_>> {
    let is_token = match identity.kind {
        IdentityKind::Jwt | IdentityKind::Opaque => true,
        IdentityKind::ApiKey | IdentityKind::Certificate => false,
    };
    let name: Option<&[u8]> = match kind {
        TargetKind::Token => identity.token_id.as_deref().filter(|_| is_token).map(str::as_bytes),
        TargetKind::UnnamedToken if identity.token_id.is_some() => None,
        TargetKind::UnnamedToken => identity.token_hash.as_deref().map(<[u8; 32]>::as_slice),
        TargetKind::Session => identity.session.as_deref().map(str::as_bytes),
        TargetKind::Subject => identity.subject.as_deref().map(str::as_bytes),
        TargetKind::Client => identity.client.as_deref().filter(|_| is_token).map(str::as_bytes),
        TargetKind::Issuer => Some(&[]),
        TargetKind::SigningKey => identity.signed_by.as_deref().map(Thumbprint::as_slice),
        TargetKind::ApiKey => {
            let id = identity.token_id.as_deref().filter(|_| identity.kind == IdentityKind::ApiKey)?;
            return Some(TargetRef { kind, issuer: "", name: id.as_bytes() });
        }
    };
    Some(TargetRef { kind, issuer: &identity.issuer, name: name? })
}

/// SHA-256 by which a token without an id is taken back: of its issuer and all of it, but for the last of three parts.
/// That is a signature, and one of ECDSA has a valid twin.
pub fn unnamed(issuer: &str, token: &str) -> [u8; 32] {
    let (kind, hashed) = match token.rsplit_once('.') {
        Some((signed, _)) if signed.bytes().filter(|&byte| byte == b'.').count() == 1 => (b"signed", signed),
        _ => (b"opaque", token),
    };
    sha256(&[b"tollgate unnamed token 1", kind, &length(issuer.len()), issuer.as_bytes(), hashed.as_bytes()])
}

/// What a target is known by where entries are kept and compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// What kind of thing it is.
    pub kind: TargetKind,
    /// The first half of a SHA-256 of the whole target: two targets never share it, whoever chooses their names.
    pub id: MarkId,
    /// A quick hash of the same, by which entries are found. Anybody can make two targets that share it.
    pub tag: u64,
}

/// The first half of a SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MarkId(pub [u8; 16]);

impl Mark {
    /// The mark of a target.
    pub fn of(target: TargetRef<'_>) -> Self {
        let TargetRef { kind, .. } = target;
        Self { kind, id: MarkId::of(target), tag: tag(target) }
    }
}

impl MarkId {
    /// Of a target.
    pub fn of(target: TargetRef<'_>) -> Self {
        let TargetRef { kind, issuer, name } = target;
        let parts = [b"tollgate revocation 1", &[kind.letter()][..], &length(issuer.len()), issuer.as_bytes(), name];
        let mut id = [0; 16];
        id.copy_from_slice(&sha256(&parts)[..16]);
        Self(id)
    }

    /// As people name it: 32 hexadecimal digits.
    pub fn hex(&self) -> String {
        self.0
            .iter()
            .flat_map(|byte| [byte >> 4, byte & 15])
            .filter_map(|digit| char::from_digit(digit.into(), 16))
            .collect()
    }

    /// The one that is written so.
    pub fn from_hex(text: &str) -> Option<Self> {
        let text = text.as_bytes();
        if text.len() != 32 || !text.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        let digit = |digit: u8| if digit.is_ascii_digit() { digit - b'0' } else { digit - b'a' + 10 };
        let mut id = [0; 16];
        for (byte, digits) in id.iter_mut().zip(text.chunks_exact(2)) {
            *byte = digit(digits[0]) << 4 | digit(digits[1]);
        }
        Some(Self(id))
    }
}

/// The quick hash of a target: the same on every replica and in every version, since it is kept with the entries. Never
/// [`Tags::NONE`].
pub fn tag(TargetRef { kind, issuer, name }: TargetRef<'_>) -> u64 {
    // Issuer and kind go into the seed, so that nothing need be put together.
    xxh3_64_with_seed(name, xxh3_64(issuer.as_bytes()) ^ u64::from(kind.letter())).max(Tags::NONE + 1)
}

/// Which tokens of its target an entry hits, and how long it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cutoff {
    /// Those that were issued up to this moment of the wall clock; none: all. Whole seconds count, as `iat` has no more:
    /// what was issued within the same second is hit.
    pub before: Option<Micros>,
    /// When nothing is left for it to hit; none: it is needed until it is undone.
    pub until: Option<Micros>,
}

impl Cutoff {
    /// Hits every token of its target, for ever.
    pub const ALWAYS: Self = Self { before: None, until: None };

    /// Whether a token that was issued then is hit. One that does not say when might have been issued at any time.
    pub fn hits(&self, issued_at: Option<Micros>) -> bool {
        match (self.before, issued_at) {
            (None, _) | (_, None) => true,
            (Some(before), Some(issued_at)) => issued_at.as_secs() <= before.as_secs(),
        }
    }

    /// Whether it is needed no more.
    pub fn is_over(&self, now: Micros) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    /// Hits whatever one of both hits, for as long as one of both is needed.
    #[must_use]
    pub fn joined(self, other: Self) -> Self {
        let latest = |one: Option<Micros>, other: Option<Micros>| Some(one?.max(other?));
        Self { before: latest(self.before, other.before), until: latest(self.until, other.until) }
    }
}

/// An entry, as replicas keep it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What is taken back.
    pub mark: Mark,
    /// Which of it, and for how long.
    pub cutoff: Cutoff,
}

/// A wish to take something back, to be written by the log's clock: whoever asks may have another time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// What is to be taken back.
    pub target: Target,
    /// Which of it.
    pub which: Which,
    /// By how much the clock of the tokens' issuer may be ahead: added to the moment that `which` speaks of.
    pub ahead: Micros,
    /// How long the entry is needed.
    pub keep: Keep,
    /// Why, for people; at most [`REASON_BYTES_MAX`]; may be empty.
    pub reason: Box<str>,
    /// Who asked for it, for people.
    pub by: Box<str>,
}

/// Which tokens of a target are to be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// All of them, later ones too.
    All,
    /// Those that were issued up to the moment of writing.
    IssuedByNow,
    /// Those that were issued up to this moment; one that lies ahead counts as now.
    IssuedBy(Micros),
}

/// How long an entry is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Until it is undone.
    Always,
    /// Until this moment.
    Until(Micros),
    /// For so long after the moment that it speaks of, or that it is written at where it hits all.
    For(Micros),
}

impl Wish {
    /// The entry that it leads to when it is written at `now`. Its moments are at most [`LAST_MOMENT`].
    pub fn written_at(self, now: Micros) -> Revocation {
        let Self { target, which, ahead, keep, reason, by } = self;
        let before = match which {
            Which::All => None,
            Which::IssuedByNow => Some(now + ahead),
            Which::IssuedBy(moment) => Some(moment.min(now) + ahead),
        };
        let until = match keep {
            Keep::Always => None,
            Keep::Until(moment) => Some(moment.min(LAST_MOMENT)),
            Keep::For(time) => Some((before.unwrap_or(now) + time).min(LAST_MOMENT)),
        };
        Revocation { target, cutoff: Cutoff { before, until }, reason, by, at: now }
    }
}

/// An entry, as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// What is taken back.
    pub target: Target,
    /// Which of it, and for how long.
    pub cutoff: Cutoff,
    /// Why, for people; may be empty.
    pub reason: Box<str>,
    /// Who asked for it, for people.
    pub by: Box<str>,
    /// When it was written, since the Unix epoch.
    pub at: Micros,
}

impl Revocation {
    /// What replicas keep of it.
    pub fn entry(&self) -> Entry {
        Entry { mark: Mark::of(self.target.borrowed()), cutoff: self.cutoff }
    }
}

/// How much a replica trusts what it knows of revocations when it has heard nothing new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trust {
    /// How old what it knows may be; 2 s by default. Older, it is behind.
    pub max_lag: Micros,
    /// What it does with tokens then that it does not know to be revoked.
    pub when_behind: WhenBehind,
}

impl Default for Trust {
    fn default() -> Self {
        Self { max_lag: Micros::from_secs(2), when_behind: WhenBehind::default() }
    }
}

/// What a replica does with tokens, while it is behind, that it does not know to be revoked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenBehind {
    /// Asks the log about each, and denies where that cannot be asked either.
    #[default]
    Ask,
    /// Denies.
    Deny,
    /// Accepts.
    Allow,
}

/// How long the tokens of an issuer live, as far as entries go by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// The most that `exp − iat` may be. Longer ones are always refused, however little of their time is left: else one
    /// could be kept until the entry for it has ended.
    pub longest: Micros,
    /// By how much `exp` may have passed.
    pub leeway: Micros,
    /// By how much the issuer's clock may be ahead: a token that was made before something was taken back may say that it
    /// was issued so much later. At most [`CLOCK_AHEAD_MAX`].
    pub clock_ahead: Micros,
}

impl Lifetimes {
    /// How long after a moment the last token ends that was issued by then.
    pub fn after_issuing(&self) -> Micros {
        // `iat` may lie ahead by the leeway as well.
        self.leeway + self.longest + self.leeway + MARGIN
    }

    /// When a token has ended that says so itself.
    pub fn end_of(&self, expires_at: Micros) -> Micros {
        expires_at + self.leeway + MARGIN
    }
}

/// What is hashed between parts of any length.
fn length(bytes: usize) -> [u8; 8] {
    (bytes as u64).to_be_bytes()
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

#[cfg(test)]
mod tests;
