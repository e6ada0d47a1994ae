//! `tollgate introspect`: what a server knows of a token.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value, json};
use tollgate::proto as pb;
use tollgate::proto::token_service_client::TokenServiceClient;
use tonic::Request;
use tonic::metadata::MetadataValue;

use super::server::{Server, token};
use super::{Done, block_on, print};

/// The longest text that is read from standard input: more is no token.
const INPUT_BYTES_MAX: u64 = 64 * 1024;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The token or API key to look at; `-` reads it from standard input, which shows it to nobody.
    token: String,
    #[command(flatten)]
    server: Server,
    /// The token or API key of who asks, with the scope tollgate:introspect. Not needed where --cert may ask.
    #[arg(long, env = "TOLLGATE_OPERATOR_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    operator_token: Option<String>,
    /// A file that holds it.
    #[arg(long, conflicts_with = "operator_token", value_name = "FILE")]
    operator_token_file: Option<PathBuf>,
}

pub(super) fn run(arguments: Arguments) -> Done {
    let answer = block_on(&mut tokio::runtime::Builder::new_current_thread(), ask(arguments))?;
    print::line(json(&answer).to_string());
    Ok(if answer.active { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn ask(arguments: Arguments) -> Result<pb::IntrospectResponse, String> {
    let Arguments { token: asked, server, operator_token, operator_token_file } = arguments;
    let asked = if asked == "-" { input()? } else { asked };
    let mut request = Request::new(pb::IntrospectRequest { token: asked, token_type_hint: String::new() });
    if let Some(operator) = token(operator_token, operator_token_file.as_deref())? {
        let value = MetadataValue::try_from(format!("Bearer {operator}"));
        let value = value.map_err(|_| "the operator's token has characters that no token has".to_owned())?;
        request.metadata_mut().insert("authorization", value);
    }
    let answer = TokenServiceClient::new(server.connect().await?).introspect(request).await;
    answer
        .map(tonic::Response::into_inner)
        .map_err(|status| format!("no answer: {}: {}", status.code(), status.message()))
}

fn input() -> Result<String, String> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(INPUT_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|error| format!("standard input: {error}"))?;
    Ok(text.trim().to_owned())
}

/// As `/oauth2/introspect` answers: what is not there is left out.
fn json(answer: &pb::IntrospectResponse) -> Value {
    let pb::IntrospectResponse {
        active,
        scope,
        client_id,
        username,
        token_type,
        exp,
        iat,
        nbf,
        sub,
        aud,
        iss,
        jti,
        sid,
        cnf,
        actors,
        roles,
        tenant,
        claims,
    } = answer;
    let actor = |before: Option<Value>, pb::Actor { issuer, subject, client_id }: &pb::Actor| {
        let members = json!({ "iss": issuer, "sub": subject, "client_id": client_id, "act": before });
        Some(without_nothing(members))
    };
    let seconds = |moment: &Option<prost_types::Timestamp>| moment.as_ref().map(|moment| moment.seconds);
    without_nothing(json!({
        "active": active,
        "scope": scope,
        "client_id": client_id,
        "username": username,
        "token_type": token_type,
        "exp": seconds(exp),
        "iat": seconds(iat),
        "nbf": seconds(nbf),
        "sub": sub,
        "aud": aud,
        "iss": iss,
        "jti": jti,
        "sid": sid,
        "cnf": cnf.as_ref().map(|keys| without_nothing(json!({ "x5t#S256": keys.x5t_s256, "jkt": keys.jkt }))),
        "act": actors.iter().rev().fold(None, actor),
        "roles": roles,
        "tenant": tenant,
        "claims": claims,
    }))
}

/// The object without the members that hold nothing.
fn without_nothing(object: Value) -> Value {
    let holds = |value: &Value| match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(members) => !members.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    };
    match object {
        Value::Object(members) => members.into_iter().filter(|(_, value)| holds(value)).collect::<Map<_, _>>().into(),
        other => other,
    }
}
