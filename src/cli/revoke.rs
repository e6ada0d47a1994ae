//! `tollgate revoke …`, `tollgate revocations list` and `tollgate unrevoke`: a small client.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tollgate::config::api_keys;
use tollgate::domain::revocation::TargetKind;
use tollgate::domain::time::Micros;
use tollgate::proto as pb;
use tollgate::proto::revoke_target::Kind;
use tollgate::proto::token_service_client::TokenServiceClient;
use tonic::Code;

use super::introspect::without_nothing;
use super::server::{Operator, Server, complaint, shown};
use super::{Done, block_on, print};

/// The most pages of a listing that are asked for: a server that never comes to an end is not followed for ever.
const PAGES_MAX: usize = 1_000_000;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    target: Target,
}

/// What is taken back.
#[derive(Debug, Subcommand)]
enum Target {
    /// A token or API key itself.
    Token {
        /// The token; `-` reads it from standard input, which shows it to nobody.
        token: String,
        #[command(flatten)]
        how: How,
    },
    /// A token, by its id (`jti`).
    Jti {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        how: How,
    },
    /// All tokens of a session (`sid`), later ones too.
    Session {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        how: How,
    },
    /// All tokens about a subject (`sub`) that were issued until now.
    Subject {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        before: Before,
        #[command(flatten)]
        how: How,
    },
    /// All tokens of a client (`client_id`, or `azp`) that were issued until now.
    Client {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        before: Before,
        #[command(flatten)]
        how: How,
    },
    /// All tokens of an issuer that were issued until now.
    Issuer {
        /// The issuer, as in the configuration.
        issuer: String,
        #[command(flatten)]
        before: Before,
        #[command(flatten)]
        how: How,
    },
    /// An API key, by its id.
    ApiKey {
        /// The key's id: 12 letters and digits.
        id: String,
        #[command(flatten)]
        how: How,
    },
    /// All tokens that were signed with a key of an issuer, later ones too.
    SigningKey {
        /// The issuer, as in the configuration.
        issuer: String,
        #[command(flatten)]
        key: Key,
        #[command(flatten)]
        how: How,
    },
}

/// A name under an issuer.
#[derive(Debug, Args)]
struct Name {
    /// The issuer, as in the configuration.
    issuer: String,
    /// The name.
    name: String,
}

/// Up to when.
#[derive(Debug, Args)]
struct Before {
    /// Tokens that were issued up to this moment, instead of until now: a date in UTC such as 2027-01-31T12:00:00Z.
    #[arg(long, value_name = "DATE", value_parser = api_keys::date)]
    before: Option<Micros>,
}

/// Which of an issuer's keys.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Key {
    /// The key that the issuer calls so now.
    #[arg(long)]
    kid: Option<String>,
    /// The key's thumbprint: SHA-256 in base64url (RFC 7638).
    #[arg(long)]
    thumbprint: Option<String>,
}

/// How it is asked for.
#[derive(Debug, Args)]
struct How {
    /// Why: for the listing and the audit log.
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    server: Server,
    #[command(flatten)]
    operator: Operator,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What can be looked at.
#[derive(Debug, Subcommand)]
pub(super) enum Listing {
    /// List what is taken back, in no order; as JSON one entry a line.
    List {
        /// Entries of this kind only.
        #[arg(long, value_parser = kinds())]
        kind: Option<TargetKind>,
        /// Entries of this issuer only.
        #[arg(long)]
        issuer: Option<String>,
        #[command(flatten)]
        server: Server,
        #[command(flatten)]
        operator: Operator,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct Undoing {
    /// The entry's id: 32 hexadecimal digits.
    id: String,
    #[command(flatten)]
    how: How,
}

pub(super) fn run(arguments: Arguments) -> Done {
    let (kind, before, how) = asked(arguments.target)?;
    let How { reason, server, operator, json } = how;
    let issued_before = before.map(|Before { before }| before).unwrap_or_default();
    let message = pb::RevokeRequest {
        targets: vec![pb::RevokeTarget { kind: Some(kind) }],
        issued_before: issued_before.map(timestamp),
        reason: reason.unwrap_or_default(),
    };
    let request = operator.request(message)?;
    let answer = block_on(&mut tokio::runtime::Builder::new_current_thread(), async {
        let answer = TokenServiceClient::new(server.connect().await?).revoke(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| complaint("nothing was revoked", &status))
    })?;
    let [result] = answer.results.as_slice() else { return Err("the server answered something else".to_owned()) };
    let outcome = result.outcome();
    print::line(match (&result.revocation, json) {
        (Some(revocation), true) => as_json(revocation).to_string(),
        (None, true) => json!({ "outcome": outcome.as_str_name() }).to_string(),
        (Some(revocation), false) => format!("revoked: {}", as_text(revocation)),
        (None, false) => match outcome {
            pb::RevokeOutcome::NothingLeft => "nothing is left that this could hit: all of it has ended".to_owned(),
            pb::RevokeOutcome::NotGood => "the token is good nowhere, or not one that you may revoke".to_owned(),
            pb::RevokeOutcome::Unspecified | pb::RevokeOutcome::Revoked => outcome.as_str_name().to_owned(),
        },
    });
    Ok(if outcome == pb::RevokeOutcome::Revoked { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn asked(target: Target) -> Result<(Kind, Option<Before>, How), String> {
    let named = |Name { issuer, name }| pb::IssuedName { issuer, name };
    Ok(match target {
        Target::Token { token, how } => (Kind::Token(shown(token)?), None, how),
        Target::Jti { name, how } => (Kind::Jti(named(name)), None, how),
        Target::Session { name, how } => (Kind::Session(named(name)), None, how),
        Target::Subject { name, before, how } => (Kind::Subject(named(name)), Some(before), how),
        Target::Client { name, before, how } => (Kind::Client(named(name)), Some(before), how),
        Target::Issuer { issuer, before, how } => (Kind::Issuer(issuer), Some(before), how),
        Target::ApiKey { id, how } => (Kind::ApiKey(id), None, how),
        Target::SigningKey { issuer, key: Key { kid, thumbprint }, how } => {
            let thumbprint = thumbprint.map(pb::signing_key::Key::Thumbprint);
            let key = kid.map(pb::signing_key::Key::Kid).or(thumbprint);
            (Kind::SigningKey(pb::SigningKey { issuer, key }), None, how)
        }
    })
}

pub(super) fn list(Listing::List { kind, issuer, server, operator, json }: Listing) -> Done {
    let kind = kind.map_or(pb::RevocationKind::Unspecified, wire_kind).into();
    let (mut page_token, issuer) = (String::new(), issuer.unwrap_or_default());
    block_on(&mut tokio::runtime::Builder::new_current_thread(), async {
        let mut client = TokenServiceClient::new(server.connect().await?);
        for _ in 0..PAGES_MAX {
            let message = pb::ListRevocationsRequest { kind, issuer: issuer.clone(), page_token };
            let page = client.list_revocations(operator.request(message)?).await;
            let page = page.map_err(|status| complaint("nothing was listed", &status))?.into_inner();
            for revocation in &page.revocations {
                print::line(if json { as_json(revocation).to_string() } else { as_text(revocation) });
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(ExitCode::SUCCESS);
            }
        }
        Err(format!("there are more than {PAGES_MAX} pages"))
    })
}

pub(super) fn undo(Undoing { id, how }: Undoing) -> Done {
    let How { reason, server, operator, json } = how;
    let reason = reason.unwrap_or_default();
    let request = operator.request(pb::UnrevokeRequest { id: id.clone(), reason })?;
    let gone = block_on(&mut tokio::runtime::Builder::new_current_thread(), async {
        match TokenServiceClient::new(server.connect().await?).unrevoke(request).await {
            Ok(answer) => Ok(answer.into_inner().revocation),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(complaint("nothing was undone", &status)),
        }
    })?;
    let Some(gone) = gone else {
        print::error(format_args!("{id}: there is no such entry"));
        return Ok(ExitCode::FAILURE);
    };
    print::line(if json { as_json(&gone).to_string() } else { format!("undone: {}", as_text(&gone)) });
    Ok(ExitCode::SUCCESS)
}

/// Reads a kind of entries.
fn kinds() -> impl TypedValueParser<Value = TargetKind> {
    let named = |name: String| TargetKind::ALL.into_iter().find(|kind| kind_name(*kind) == name).ok_or("no such kind");
    PossibleValuesParser::new(TargetKind::ALL.map(kind_name)).try_map(named)
}

/// The name on the command line: words are parted there as everywhere else on it.
const fn kind_name(kind: TargetKind) -> &'static str {
    match kind {
        TargetKind::UnnamedToken => "unnamed-token",
        TargetKind::ApiKey => "api-key",
        TargetKind::SigningKey => "signing-key",
        TargetKind::Token | TargetKind::Session | TargetKind::Subject | TargetKind::Client | TargetKind::Issuer => {
            kind.name()
        }
    }
}

const fn wire_kind(kind: TargetKind) -> pb::RevocationKind {
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

/// One line. Names and reasons come from outside, and are printed so that none feigns another line or moves the cursor.
fn as_text(revocation: &pb::Revocation) -> String {
    let pb::Revocation { id, kind: _, issuer, name, issued_before, until, reason, by, revoked_at } = revocation;
    // A newer server may have other kinds.
    let kind = TargetKind::ALL.into_iter().find(|kind| wire_kind(*kind) == revocation.kind());
    let mut text = format!("{id}  {}", kind.map_or("unknown", kind_name));
    for part in [issuer, name] {
        if !part.is_empty() {
            let _ = write!(text, "  {}", visible(part));
        }
    }
    for (what, moment) in [("issued until", issued_before), ("kept until", until), ("revoked at", revoked_at)] {
        if let Some(moment) = moment {
            let _ = write!(text, "  {what} {moment}");
        }
    }
    if until.is_none() {
        text.push_str("  kept until it is undone");
    }
    for (what, part) in [("by", by), ("because", reason)] {
        if !part.is_empty() {
            let _ = write!(text, "  {what} {}", visible(part));
        }
    }
    text
}

fn visible(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { char::REPLACEMENT_CHARACTER } else { char }).collect()
}

fn as_json(revocation: &pb::Revocation) -> Value {
    let pb::Revocation { id, kind: _, issuer, name, issued_before, until, reason, by, revoked_at } = revocation;
    let moment = |stamp: &Option<prost_types::Timestamp>| stamp.as_ref().map(ToString::to_string);
    without_nothing(json!({
        "id": id,
        "kind": revocation.kind().as_str_name(),
        "issuer": issuer,
        "name": name,
        "issuedBefore": moment(issued_before),
        "until": moment(until),
        "reason": reason,
        "by": by,
        "revokedAt": moment(revoked_at),
    }))
}

fn timestamp(moment: Micros) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: i64::try_from(moment.as_secs()).unwrap_or(i64::MAX), nanos: 0 }
}
