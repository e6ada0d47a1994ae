//! What is noted of each revocation, and of each that was refused: structured events of the target `tollgate::audit`, which
//! `docs/revocation.md` describes, and a metric. No token is ever in them.

use super::ports::ListedRevocation;
use super::{Decider, Wanted};
use crate::domain::date;
use crate::domain::revocation::{Cutoff, MarkId, Revocation, TargetRef};
use crate::domain::time::Micros;
use crate::telemetry::names;

/// The target of the events, by which a log filter picks them.
const TARGET: &str = "tollgate::audit";

/// The longest text of an event, in characters: names come from outside.
const TEXT_CHARS_MAX: usize = 512;

/// What strangers can cause to be logged costs so many units of the pace of all of its kind: 10 of them are logged in a second,
/// and 100 at once. All are counted.
const STRANGER_UNITS: u64 = 100;

/// What strangers can cause to be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noise {
    /// Somebody may not take anything back.
    Refusal,
    /// What somebody told in the name of an identity provider, or once more.
    Told,
}

impl Noise {
    /// Whose pace it goes by; no caller is called so.
    const fn caller(self) -> &'static str {
        match self {
            Self::Refusal => "",
            Self::Told => "\0told",
        }
    }
}

/// By which way something is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `TokenService`, and so the command line.
    Grpc,
    /// `POST /oauth2/revoke` (RFC 7009).
    OAuth,
    /// `POST /backchannel-logout` (OIDC Back-Channel Logout).
    BackChannelLogout,
    /// A Security Event Token, pushed or polled (RFC 8417).
    SecurityEvent,
}

impl Way {
    const fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::OAuth => "oauth2_revoke",
            Self::BackChannelLogout => "backchannel_logout",
            Self::SecurityEvent => "security_event",
        }
    }
}

/// What became of a wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// An entry was written.
    Revoked,
    /// Nothing was left that an entry could hit.
    NothingLeft,
    /// The token that was shown is good nowhere, or not the caller's.
    NotGood,
    /// An entry was removed.
    Unrevoked,
    /// There was no entry to remove.
    NoSuchEntry,
    /// The caller may not.
    Refused,
    /// It named something that is not there.
    Malformed,
    /// The caller asked for too much.
    TooMany,
    /// Something could not be asked: whether anything was written is not known.
    Away,
}

impl Outcome {
    const fn name(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::NothingLeft => "nothing_left",
            Self::NotGood => "not_good",
            Self::Unrevoked => "unrevoked",
            Self::NoSuchEntry => "no_such_entry",
            Self::Refused => "refused",
            Self::Malformed => "malformed",
            Self::TooMany => "too_many",
            Self::Away => "away",
        }
    }
}

/// Who wants what, as far as events tell.
#[derive(Clone, Copy)]
pub(super) struct Wisher<'a> {
    pub(super) way: Way,
    pub(super) by: &'a str,
    pub(super) reason: &'a str,
}

impl Decider {
    /// An entry was written.
    pub(super) fn note_revoked(&self, wisher: Wisher<'_>, written: &Revocation) {
        let Revocation { target, cutoff, reason: _, by: _, at } = written;
        let target = target.borrowed();
        note_entry(Outcome::Revoked, wisher, Some(target), Some((MarkId::of(target), *cutoff)), Some(*at));
        self.count_revocations(Outcome::Revoked, wisher.way, 1);
    }

    /// No entry was written, for a reason that is no failure.
    pub(super) fn note_unwritten(&self, outcome: Outcome, wisher: Wisher<'_>, target: Option<TargetRef<'_>>) {
        note_entry(outcome, wisher, target, target.map(MarkId::of).map(|id| (id, Cutoff::ALWAYS)), None);
        self.count_revocations(outcome, wisher.way, 1);
    }

    /// An entry was removed, or was not there.
    pub(super) fn note_unrevoked(&self, wisher: Wisher<'_>, id: MarkId, gone: Option<&ListedRevocation>) {
        let target = gone.and_then(|gone| gone.written.as_ref()).map(|written| written.target.borrowed());
        let outcome = if gone.is_some() { Outcome::Unrevoked } else { Outcome::NoSuchEntry };
        let cutoff = gone.map_or(Cutoff::ALWAYS, |gone| gone.entry.cutoff);
        note_entry(outcome, wisher, target, Some((id, cutoff)), None);
        self.count_revocations(outcome, wisher.way, 1);
    }

    /// Nobody knows whether these were written: the log is away, or whoever asked was gone before it answered.
    pub(super) fn note_unknown(&self, way: Way, wanted: &[Wanted], cause: &str) {
        if let Some(Wanted { by, reason, .. }) = wanted.first() {
            self.note_failure(Outcome::Away, Wisher { way, by, reason }, wanted.len(), cause);
        }
        for Wanted { target, by, reason, .. } in wanted {
            let target = target.borrowed();
            let entry = Some((MarkId::of(target), Cutoff::ALWAYS));
            note_entry(Outcome::Away, Wisher { way, by, reason }, Some(target), entry, None);
        }
    }

    /// Nothing came of so many wishes.
    pub(super) fn note_failure(&self, outcome: Outcome, wisher: Wisher<'_>, entries: usize, cause: &str) {
        let Wisher { way, by, reason } = wisher;
        tracing::warn!(
            target: TARGET,
            outcome = outcome.name(),
            way = way.name(),
            by = shortened(by),
            reason = shortened(reason),
            entries,
            cause,
            "revocation"
        );
        self.count_revocations(outcome, way, entries as u64);
    }

    /// Somebody may not take anything back, or not this. `by` is empty where nobody knows who it is.
    pub(super) fn note_refusal(&self, way: Way, by: &str, cause: &str) {
        let outcome = Outcome::Refused;
        if self.may_log(Noise::Refusal) {
            let way = way.name();
            tracing::warn!(target: TARGET, outcome = outcome.name(), way, by = shortened(by), cause, "revocation");
        }
        self.count_revocations(outcome, way, 1);
    }

    /// Whether there is room for one more event in the log: strangers could fill a disk.
    pub(super) fn may_log(&self, noise: Noise) -> bool {
        self.pace.take(noise.caller(), STRANGER_UNITS, self.clock.steady()).is_ok()
    }

    fn count_revocations(&self, outcome: Outcome, way: Way, entries: u64) {
        let labels = [("way", way.name()), ("outcome", outcome.name())];
        self.telemetry.counter(names::REVOCATION_REQUESTS, &labels).increment(entries);
    }
}

/// What became of one entry, whatever else comes of the call.
fn note_entry(
    outcome: Outcome,
    wisher: Wisher<'_>,
    target: Option<TargetRef<'_>>,
    entry: Option<(MarkId, Cutoff)>,
    at: Option<Micros>,
) {
    let Wisher { way, by, reason } = wisher;
    let name = target.map(|target| shortened(&target.name_text()));
    let date = |moment: Option<Micros>| moment.map(date::written);
    tracing::info!(
        target: TARGET,
        outcome = outcome.name(),
        kind = target.map(|target| target.kind.name()),
        issuer = target.map(|target| shortened(target.issuer)),
        name,
        id = entry.map(|(id, _)| id.hex()),
        issued_before = date(entry.and_then(|(_, cutoff)| cutoff.before)),
        until = date(entry.and_then(|(_, cutoff)| cutoff.until)),
        at = date(at),
        way = way.name(),
        by = shortened(by),
        reason = shortened(reason),
        "revocation"
    );
}

/// The text, bounded and without control characters.
fn shortened(text: &str) -> String {
    let printable = |char: char| if char.is_control() { char::REPLACEMENT_CHARACTER } else { char };
    text.chars().take(TEXT_CHARS_MAX).map(printable).collect()
}
