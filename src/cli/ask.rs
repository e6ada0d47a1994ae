//! `tollgate decide`: a small client.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tollgate::proto as pb;
use tollgate::proto::decision_service_client::DecisionServiceClient;

use super::server::{Server, complaint, token};
use super::{Done, block_on, print};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The method of the call that asks for passage.
    method: String,
    /// Its path, such as `/orders/1`.
    path: String,
    #[command(flatten)]
    server: Server,
    /// The caller's token. It shows in the process list; prefer the variable or --token-file.
    #[arg(long, env = "TOLLGATE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// A file that holds the caller's token.
    #[arg(long, conflicts_with = "token")]
    token_file: Option<PathBuf>,
    /// The host that the call is addressed to.
    #[arg(long, default_value = "")]
    host: String,
    /// The address that it comes from.
    #[arg(long, default_value = "")]
    source: String,
    /// A header of it, in lower case; may be repeated with another name.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    header: Vec<(String, String)>,
    /// The size of its body.
    #[arg(long, value_name = "BYTES")]
    body_bytes: Option<u64>,
    /// A scope that the caller must have besides those of the rule; may be repeated.
    #[arg(long)]
    scope: Vec<String>,
    /// An attribute of the thing that is accessed; may be repeated with another name.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    resource: Vec<(String, String)>,
    /// A limit to consume besides those of the rule; may be repeated.
    #[arg(long, value_name = "NAME[=UNITS]", value_parser = charge)]
    limit: Vec<pb::LimitCharge>,
    /// What the call costs in each limit of the rule.
    #[arg(long)]
    units: Option<u64>,
    /// Consume nothing; say what consuming would get.
    #[arg(long)]
    peek: bool,
    /// Say how the answer came about.
    #[arg(long)]
    explain: bool,
    /// Print the answer as JSON, with the names of protobuf's JSON mapping.
    #[arg(long)]
    json: bool,
}

fn pair(text: &str) -> Result<(String, String), String> {
    text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())).ok_or("must be NAME=VALUE".to_owned())
}

fn charge(text: &str) -> Result<pb::LimitCharge, String> {
    let Some((limit, units)) = text.split_once('=') else {
        return Ok(pb::LimitCharge { limit: text.to_owned(), units: None });
    };
    let units = units.parse().map_err(|_| "must be NAME or NAME=UNITS, with a whole number of units".to_owned())?;
    Ok(pb::LimitCharge { limit: limit.to_owned(), units: Some(units) })
}

pub(super) fn run(arguments: Arguments) -> Done {
    let as_json = arguments.json;
    let answer = block_on(&mut tokio::runtime::Builder::new_current_thread(), ask(arguments))?;
    print::line(if as_json { json(&answer).to_string() } else { text(&answer) });
    Ok(if answer.allowed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn ask(arguments: Arguments) -> Result<pb::DecideResponse, String> {
    let server = arguments.server.clone();
    let question = question(arguments)?;
    let channel = server.connect().await?;
    let answer = DecisionServiceClient::new(channel)
        .decide(question)
        .await
        .map_err(|status| complaint("no decision", &status))?;
    Ok(answer.into_inner())
}

fn question(arguments: Arguments) -> Result<pb::DecideRequest, String> {
    let token = token(arguments.token, arguments.token_file.as_deref())?;
    let kind = token.map(pb::credential::Kind::BearerToken);
    let resource = distinct("--resource", arguments.resource)?;
    let headers = distinct("--header", arguments.header)?;
    Ok(pb::DecideRequest {
        credential: Some(pb::Credential { kind, ..pb::Credential::default() }),
        request: Some(pb::RequestAttributes {
            method: arguments.method,
            path: arguments.path,
            host: arguments.host,
            source_address: arguments.source,
            headers,
            body_bytes: arguments.body_bytes,
            ..pb::RequestAttributes::default()
        }),
        resource,
        limits: arguments.limit,
        units: arguments.units,
        mode: if arguments.peek { pb::QuotaMode::Peek } else { pb::QuotaMode::Consume }.into(),
        explain: arguments.explain,
        scopes: arguments.scope,
    })
}

/// The pairs that `option` gives, each name once.
fn distinct(option: &str, pairs: Vec<(String, String)>) -> Result<BTreeMap<String, String>, String> {
    let mut distinct = BTreeMap::new();
    for (name, value) in pairs {
        if distinct.contains_key(&name) {
            return Err(format!("{option}: `{name}` is given twice"));
        }
        distinct.insert(name, value);
    }
    Ok(distinct)
}

fn text(answer: &pb::DecideResponse) -> String {
    let pb::DecideResponse {
        allowed,
        reason: _,
        detail,
        rule,
        identity,
        quotas,
        retry_after,
        required_scopes,
        explanation,
        reservation,
        expires_after,
        dpop_nonce,
        identity_headers,
        removed_headers: _,
    } = answer;
    let mut text = if *allowed { "allow".to_owned() } else { format!("deny   {detail}") };
    if !rule.is_empty() {
        let _ = write!(text, "   rule {rule}");
    }
    if let Some(identity) = identity {
        let _ = write!(text, "   subject {}", or_dash(&identity.subject));
    }
    for quota in quotas {
        let _ = write!(text, "\n  {}", quota_line(quota));
    }
    if let Some(wait) = retry_after {
        let _ = write!(text, "\n  try again in {}", span(wait));
    }
    if let Some(hold) = expires_after {
        let _ = write!(text, "\n  held for {} unless it is settled before: {reservation}", span(hold));
    }
    if !dpop_nonce.is_empty() {
        let _ = write!(text, "\n  the next DPoP proof is to hold the nonce {dpop_nonce}");
    }
    for pb::Header { name, value } in identity_headers {
        let _ = write!(text, "\n  {name}: {value}");
    }
    if !required_scopes.is_empty() {
        let _ = write!(text, "\n  needs the scopes {}", required_scopes.join(" "));
    }
    if let Some(seen) = explanation {
        let _ = write!(
            text,
            "\n  {} Policy version {}; token from {}, quotas from {}; answered by {}.",
            seen.text,
            seen.policy_version,
            origin(seen.token()),
            origin(seen.quotas()),
            or_dash(&seen.replica),
        );
    }
    text
}

fn quota_line(quota: &pb::QuotaStatus) -> String {
    let outcome = match quota.outcome() {
        pb::QuotaOutcome::Granted | pb::QuotaOutcome::Unspecified => "",
        pb::QuotaOutcome::Short => "  short",
        pb::QuotaOutcome::Never => "  costs more than it ever holds",
        pb::QuotaOutcome::Away => "  the store is away",
    };
    let of_what = match &quota.window {
        Some(window) => format!("left in {}", span(window)),
        // A limit without a window counts what is held at a time.
        None => "free".to_owned(),
    };
    format!("{}: {} of {} {of_what}{outcome}", quota.limit, quota.remaining, quota.units)
}

const fn origin(provenance: pb::Provenance) -> &'static str {
    match provenance {
        pb::Provenance::Unspecified => "nowhere",
        pb::Provenance::Memory => "memory",
        pb::Provenance::Asked => "outside",
        pb::Provenance::Away => "memory, with the store away",
    }
}

const fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

fn span(wire: &prost_types::Duration) -> String {
    // A whole number of milliseconds, rounded up: whoever waits that long has waited long enough.
    let nanos = u32::try_from(wire.nanos).unwrap_or_default();
    let exact = Duration::new(u64::try_from(wire.seconds).unwrap_or_default(), nanos);
    let millis = u64::try_from(exact.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    format!("{:?}", Duration::from_millis(millis))
}

fn json(answer: &pb::DecideResponse) -> Value {
    let pb::DecideResponse {
        allowed,
        reason: _,
        detail,
        rule,
        identity,
        quotas,
        retry_after,
        required_scopes,
        explanation,
        reservation,
        expires_after,
        dpop_nonce,
        identity_headers,
        removed_headers,
    } = answer;
    json!({
        "allowed": allowed,
        "reason": answer.reason().as_str_name(),
        "detail": detail,
        "rule": rule,
        "identity": identity.as_ref().map(identity_json),
        "quotas": quotas.iter().map(quota_json).collect::<Vec<_>>(),
        "retryAfter": retry_after.as_ref().map(seconds),
        "requiredScopes": required_scopes,
        "explanation": explanation.as_ref().map(|seen| json!({
            "rule": seen.rule,
            "policyVersion": seen.policy_version.to_string(),
            "token": seen.token().as_str_name(),
            "quotas": seen.quotas().as_str_name(),
            "replica": seen.replica,
            "text": seen.text,
        })),
        "reservation": reservation,
        "expiresAfter": expires_after.as_ref().map(seconds),
        "dpopNonce": dpop_nonce,
        "identityHeaders": identity_headers
            .iter()
            .map(|pb::Header { name, value }| json!({ "name": name, "value": value }))
            .collect::<Vec<_>>(),
        "removedHeaders": removed_headers,
    })
}

fn identity_json(identity: &pb::Identity) -> Value {
    let moment = |stamp: &Option<prost_types::Timestamp>| stamp.as_ref().map(ToString::to_string);
    json!({
        "issuer": identity.issuer,
        "subject": identity.subject,
        "clientId": identity.client_id,
        "username": identity.username,
        "scopes": identity.scopes,
        "roles": identity.roles,
        "audiences": identity.audiences,
        "tokenId": identity.token_id,
        "sessionId": identity.session_id,
        "expiresAt": moment(&identity.expires_at),
        "issuedAt": moment(&identity.issued_at),
        "kind": identity.kind().as_str_name(),
        "tenant": identity.tenant,
        "actors": identity.actors.iter().map(actor_json).collect::<Vec<_>>(),
        "claims": identity.claims,
        "names": identity.names,
    })
}

fn actor_json(actor: &pb::Actor) -> Value {
    json!({ "issuer": actor.issuer, "subject": actor.subject, "clientId": actor.client_id })
}

fn quota_json(quota: &pb::QuotaStatus) -> Value {
    json!({
        "limit": quota.limit,
        "outcome": quota.outcome().as_str_name(),
        // 64-bit numbers are strings in protobuf's JSON.
        "units": quota.units.to_string(),
        "remaining": quota.remaining.to_string(),
        "window": quota.window.as_ref().map(seconds),
        "resetAfter": quota.reset_after.as_ref().map(seconds),
        "retryAfter": quota.retry_after.as_ref().map(seconds),
    })
}

fn seconds(wire: &prost_types::Duration) -> String {
    wire.to_string()
}
