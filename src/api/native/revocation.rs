//! What is to be taken back, and what was: wire messages to and from values.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::answer::timestamp;
use super::status;
use crate::decide::ports::{Away, AwayCause, Cursor, ListedRevocation};
use crate::decide::{Asked, Filter, NotRevoked, REVOKE_SCOPE, TakenBack, Violation};
use crate::domain::api_key::KeyId;
use crate::domain::identity::Thumbprint;
use crate::domain::revocation::{
    Entry, MarkId, REASON_BYTES_MAX, REVOCATIONS_MAX, Revocation, Target, TargetKind, Which,
};
use crate::domain::time::Micros;
use crate::proto as pb;

/// The longest name of an issuer or of something under it, in bytes.
const NAME_BYTES_MAX: usize = 1_024;

/// Everything that is wrong with a message.
#[derive(Default)]
struct Violations(Vec<Violation>);

impl Violations {
    fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.0.push(Violation { field: field.into(), description: description.into() });
    }

    fn settled<T>(self, value: T) -> Result<T, Status> {
        if self.0.is_empty() { Ok(value) } else { Err(status::malformed(&self.0)) }
    }

    /// A name that may be one.
    fn name<'a>(&mut self, field: impl Into<String>, name: &'a str) -> &'a str {
        if name.is_empty() {
            self.add(field, "is needed");
        } else if name.len() > NAME_BYTES_MAX {
            self.add(field, format!("has {} bytes; at most {NAME_BYTES_MAX} are accepted", name.len()));
        } else if looks_like_a_credential(name) {
            self.add(field, "looks like a token, not like a name: it belongs into `token`, and names are logged");
        }
        name
    }

    fn reason(&mut self, reason: &str) {
        if reason.len() > REASON_BYTES_MAX {
            self.add("reason", format!("has {} bytes; at most {REASON_BYTES_MAX} are accepted", reason.len()));
        } else if reason.split_whitespace().any(looks_like_a_credential) {
            self.add("reason", "holds what looks like a token; reasons are logged");
        }
    }
}

/// People paste tokens where their names go.
fn looks_like_a_credential(text: &str) -> bool {
    let is_jwt = text.starts_with("eyJ") && text.bytes().filter(|&byte| byte == b'.').count() == 2;
    is_jwt || (text.starts_with("tg_") && text.len() > 32)
}

/// What is asked, and why.
pub(super) fn asked(wire: &pb::RevokeRequest) -> Result<(Vec<Asked<'_>>, &str), Status> {
    let pb::RevokeRequest { targets, issued_before, reason } = wire;
    let mut violations = Violations::default();
    violations.reason(reason);
    if targets.is_empty() || targets.len() > REVOCATIONS_MAX {
        let count = targets.len();
        violations.add("targets", format!("has {count} entries; 1 to {REVOCATIONS_MAX} are accepted"));
        return violations.settled((Vec::new(), reason));
    }
    let which = match issued_before.as_ref().map(micros) {
        None => Which::IssuedByNow,
        Some(Some(moment)) => Which::IssuedBy(moment),
        Some(None) => {
            violations.add("issued_before", "must be a moment since 1970, with nanoseconds of less than a second");
            Which::IssuedByNow
        }
    };
    let mut asked = Vec::with_capacity(targets.len());
    for (index, target) in targets.iter().enumerate() {
        asked.extend(self::target(&mut violations, &format!("targets[{index}]"), target, which));
    }
    let has_moment =
        |asked: &Asked<'_>| matches!(asked, Asked::Named(target, _) if target.borrowed().kind.has_moment());
    if issued_before.is_some() && !asked.iter().all(has_moment) {
        violations.add("issued_before", "is for subjects, clients and issuers only; leave it out, or ask twice");
    }
    violations.settled((asked, reason))
}

fn target<'a>(
    violations: &mut Violations,
    field: &str,
    pb::RevokeTarget { kind }: &'a pb::RevokeTarget,
    which: Which,
) -> Option<Asked<'a>> {
    use pb::revoke_target::Kind;
    let mut under = |name: &str, pb::IssuedName { issuer, name: own }: &'a pb::IssuedName| {
        let issuer = violations.name(format!("{field}.{name}.issuer"), issuer);
        (issuer, violations.name(format!("{field}.{name}.name"), own))
    };
    let named = |target: Target| {
        let which = if target.borrowed().kind.has_moment() { which } else { Which::All };
        Some(Asked::Named(target, which))
    };
    match kind {
        None => {
            violations.add(
                field,
                "must name something: a token, jti, session, subject, client, issuer, api_key or signing_key",
            );
            None
        }
        Some(Kind::Token(token)) => {
            if token.is_empty() {
                violations.add(format!("{field}.token"), "is needed");
            }
            Some(Asked::Shown(token))
        }
        Some(Kind::Jti(name)) => {
            let (issuer, id) = under("jti", name);
            named(Target::token(issuer, id))
        }
        Some(Kind::Session(name)) => {
            let (issuer, session) = under("session", name);
            named(Target::session(issuer, session))
        }
        Some(Kind::Subject(name)) => {
            let (issuer, subject) = under("subject", name);
            named(Target::subject(issuer, subject))
        }
        Some(Kind::Client(name)) => {
            let (issuer, client) = under("client", name);
            named(Target::client(issuer, client))
        }
        Some(Kind::Issuer(issuer)) => named(Target::issuer(violations.name(format!("{field}.issuer"), issuer))),
        Some(Kind::ApiKey(id)) => {
            let id = KeyId::parse(id);
            if id.is_none() {
                violations.add(format!("{field}.api_key"), "must be the id of an API key: 12 letters and digits");
            }
            named(Target::api_key(id?))
        }
        Some(Kind::SigningKey(key)) => signing_key(violations, &format!("{field}.signing_key"), key),
    }
}

fn signing_key<'a>(
    violations: &mut Violations,
    field: &str,
    pb::SigningKey { issuer, key }: &'a pb::SigningKey,
) -> Option<Asked<'a>> {
    use pb::signing_key::Key;
    let issuer = violations.name(format!("{field}.issuer"), issuer);
    match key {
        None => {
            violations.add(field, "must have a kid or a thumbprint");
            None
        }
        Some(Key::Kid(kid)) => Some(Asked::KeyId { issuer, kid: violations.name(format!("{field}.kid"), kid) }),
        Some(Key::Thumbprint(text)) => {
            let thumbprint = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| Thumbprint::try_from(bytes).ok());
            if thumbprint.is_none() {
                let must = "must be a SHA-256 in base64url without padding: 43 characters (RFC 7638)";
                violations.add(format!("{field}.thumbprint"), must);
            }
            Some(Asked::Named(Target::signing_key(issuer, &thumbprint?), Which::All))
        }
    }
}

/// Which entry is to be removed, and why.
pub(super) fn to_undo(wire: &pb::UnrevokeRequest) -> Result<(MarkId, &str), Status> {
    let pb::UnrevokeRequest { id, reason } = wire;
    let mut violations = Violations::default();
    violations.reason(reason);
    let read = MarkId::from_hex(id);
    if read.is_none() {
        violations.add("id", "must be the id of an entry: 32 digits, hexadecimal and in lower case");
    }
    violations.settled((read.unwrap_or(MarkId([0; 16])), reason))
}

/// Where to begin listing, and what.
pub(super) fn to_list(wire: &pb::ListRevocationsRequest) -> Result<(Cursor, Filter<'_>), Status> {
    let pb::ListRevocationsRequest { kind: _, issuer, page_token } = wire;
    let mut violations = Violations::default();
    let cursor = if page_token.is_empty() { Some(0) } else { page_token.parse().ok() };
    if cursor.is_none() {
        violations.add("page_token", "must be `next_page_token` of the answer before");
    }
    let kind = pb::RevocationKind::try_from(wire.kind);
    if kind.is_err() {
        violations.add("kind", "is none that is known here");
    }
    let kind = kind.ok().and_then(from_wire);
    let issuer = Some(issuer.as_str()).filter(|issuer| !issuer.is_empty());
    violations.settled((Cursor(cursor.unwrap_or_default()), Filter { kind, issuer }))
}

/// What became of a target.
pub(super) fn result(outcome: &TakenBack) -> pb::RevokeResult {
    let (outcome, revocation) = match outcome {
        TakenBack::Written(written) => (pb::RevokeOutcome::Revoked, Some(self::written(written))),
        TakenBack::NothingLeft => (pb::RevokeOutcome::NothingLeft, None),
        TakenBack::NotGood => (pb::RevokeOutcome::NotGood, None),
    };
    pb::RevokeResult { outcome: outcome.into(), revocation }
}

/// An entry, as far as it is known.
pub(super) fn listed(ListedRevocation { entry, written }: &ListedRevocation) -> pb::Revocation {
    let Entry { mark, cutoff } = entry;
    let told = written.as_ref().map(self::written).unwrap_or_default();
    pb::Revocation {
        id: mark.id.hex(),
        kind: to_wire(mark.kind).into(),
        // What is in force, whatever the latest of several wishes was.
        issued_before: cutoff.before.map(timestamp),
        until: cutoff.until.map(timestamp),
        ..told
    }
}

fn written(revocation: &Revocation) -> pb::Revocation {
    let Revocation { target, cutoff, reason, by, at } = revocation;
    let target = target.borrowed();
    pb::Revocation {
        id: MarkId::of(target).hex(),
        kind: to_wire(target.kind).into(),
        issuer: target.issuer.to_owned(),
        name: target.name_text(),
        issued_before: cutoff.before.map(timestamp),
        until: cutoff.until.map(timestamp),
        reason: reason.to_string(),
        by: by.to_string(),
        revoked_at: Some(timestamp(*at)),
    }
}

/// Why nothing was revoked, listed or undone.
pub(super) fn refused(not: NotRevoked) -> Status {
    match not {
        NotRevoked::Undecidable(undecidable) => undecidable.into(),
        NotRevoked::OnlyItsOwn => Status::permission_denied(format!(
            "this client may only revoke tokens that it shows and that were issued to it; for more it needs the scope \
             {REVOKE_SCOPE} (clients[].scopes)"
        )),
        NotRevoked::Unknown(reason) => status::away(reason.name()),
        NotRevoked::TooMany { retry_after } => Status::with_error_details(
            Code::ResourceExhausted,
            "this caller revokes more than 1,000 a second; try again later",
            ErrorDetails::with_retry_info(Some(retry_after.into())),
        ),
        // To try again soon would not help: room comes as entries end.
        NotRevoked::Away(away @ Away { because: AwayCause::Full }) => {
            Status::resource_exhausted(format!("the log of revocations {away}; nothing was written"))
        }
        NotRevoked::Away(away) => status::away(format!("the log of revocations {away}; to try again does no harm")),
    }
}

const fn to_wire(kind: TargetKind) -> pb::RevocationKind {
    match kind {
        TargetKind::Token => pb::RevocationKind::Token,
        TargetKind::UnnamedToken => pb::RevocationKind::UnnamedToken,
        TargetKind::Session => pb::RevocationKind::Session,
        TargetKind::Subject => pb::RevocationKind::Subject,
        TargetKind::Client => pb::RevocationKind::Client,
        TargetKind::Issuer => pb::RevocationKind::Issuer,
        TargetKind::ApiKey => pb::RevocationKind::ApiKey,
        TargetKind::SigningKey => pb::RevocationKind::SigningKey,
    }
}

fn from_wire(kind: pb::RevocationKind) -> Option<TargetKind> {
    TargetKind::ALL.into_iter().find(|known| to_wire(*known) == kind)
}

fn micros(wire: &prost_types::Timestamp) -> Option<Micros> {
    let nanos = u64::try_from(wire.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Micros::from_secs(u64::try_from(wire.seconds).ok()?) + Micros(nanos / 1_000))
}
