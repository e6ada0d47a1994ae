//! `tollgate introspect`: what a server knows of a token.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value, json};
use tollgate::proto as pb;
use tollgate::proto::token_service_client::TokenServiceClient;

use super::server::{Operator, Server, complaint, shown};
use super::{Done, block_on, print};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The token or API key to look at; `-` reads it from standard input, which shows it to nobody.
    token: String,
    #[command(flatten)]
    server: Server,
    #[command(flatten)]
    operator: Operator,
}

pub(super) fn run(arguments: Arguments) -> Done {
    let answer = block_on(&mut tokio::runtime::Builder::new_current_thread(), ask(arguments))?;
    print::line(json(&answer).to_string());
    Ok(if answer.active { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn ask(arguments: Arguments) -> Result<pb::IntrospectResponse, String> {
    let Arguments { token, server, operator } = arguments;
    let request = operator.request(pb::IntrospectRequest { token: shown(token)?, token_type_hint: String::new() })?;
    let answer = TokenServiceClient::new(server.connect().await?).introspect(request).await;
    answer.map(tonic::Response::into_inner).map_err(|status| complaint("no answer", &status))
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
pub(super) fn without_nothing(object: Value) -> Value {
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
