//! API keys as their owners show them: made by the program, kept in a file or in Redis, asked about over real sockets.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tollgate::proto as pb;
use tonic::Code;

use crate::program::{logged, run, served};
use crate::support::poll;
use crate::support::redis::RedisServer;
use crate::support::server::{SOON, TestClock, Tollgate, configuration, question};

const RULES: &str = "
limits:
  per-key: { units: 3, window: 10s, by: [identity.client] }
  per-owner: { units: 100, window: 10s, by: [identity.subject] }
rules:
  - match: { path: /orders/** }
    require: { scopes: ['orders:read'] }
    limits: [per-owner]
  - match: { path: /me }
";

/// A key that the program made: what its owner gets, and what is kept.
struct Made {
    key: String,
    id: String,
    line: String,
}

/// `tollgate api-key …` with `--json`.
fn make(arguments: &[&str]) -> Made {
    let (code, said, complaint) = run(&[&["api-key"], arguments, &["--json"]].concat());
    assert_eq!(code, 0, "{complaint}");
    let made: Value = serde_json::from_str(&said).expect("it is JSON");
    let text = |name: &str| made[name].as_str().expect("it is a text").to_owned();
    Made { key: text("key"), id: text("id"), line: text("line") }
}

/// A folder with a file of keys, and the configuration that names it.
fn listed(keys: &[&str]) -> (TempDir, PathBuf, String) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("keys.yaml");
    fs::write(&file, keys.join("\n")).expect("the folder can be written to");
    let yaml = format!("api_keys: {{ file: '{}', operators: true }}{RULES}", file.display());
    (folder, file, yaml)
}

/// A question from whoever shows a key as such.
fn with_key(path: &str, key: &str) -> pb::DecideRequest {
    let kind = Some(pb::credential::Kind::ApiKey(key.to_owned()));
    pb::DecideRequest {
        credential: Some(pb::Credential { kind, ..pb::Credential::default() }),
        ..question("GET", path, None)
    }
}

#[tokio::test]
async fn a_key_that_was_made_is_accepted_in_every_place_and_says_who_calls() {
    let made = make(&["new", "--owner", "billing", "--scope", "orders:read", "--role", "USER", "--tenant", "acme"]);
    let (_folder, _, yaml) = listed(&[&made.line]);
    let tollgate = Tollgate::start(&yaml).await;
    let header = format!("Bearer {}", made.key);
    let authorization =
        pb::Credential { kind: Some(pb::credential::Kind::Authorization(header)), ..pb::Credential::default() };
    for question in [
        with_key("/orders/1", &made.key),
        question("GET", "/orders/1", Some(&made.key)),
        pb::DecideRequest { credential: Some(authorization), ..question("GET", "/orders/1", None) },
    ] {
        let answer = tollgate.decide(question).await;
        assert!(answer.allowed, "{}", answer.detail);
        let identity = answer.identity.expect("the caller is known");
        assert_eq!(identity.kind(), pb::IdentityKind::ApiKey);
        assert_eq!((identity.issuer.as_str(), identity.subject.as_str()), ("tollgate:api-keys", "billing"));
        assert_eq!((identity.client_id.as_str(), identity.token_id.as_str()), (made.id.as_str(), made.id.as_str()));
        assert_eq!((identity.tenant.as_str(), identity.roles), ("acme", vec!["USER".to_owned()]));
        assert!(identity.expires_at.is_some() && identity.issued_at.is_some());
    }
    let explained = pb::DecideRequest { explain: true, ..with_key("/me", &made.key) };
    let explanation = tollgate.decide(explained).await.explanation.expect("it was asked for");
    assert_eq!(explanation.token(), pb::Provenance::Memory);
}

#[tokio::test]
async fn whatever_is_wrong_with_a_key_the_answer_is_the_same() {
    let good = make(&["new", "--owner", "a", "--not-before", "2020-01-01", "--expires", "never"]);
    let late = make(&["new", "--owner", "a", "--not-before", "2090-01-01", "--expires", "2091-01-01"]);
    let short = make(&["new", "--owner", "a", "--expires", "1h"]);
    let unknown = make(&["new", "--owner", "a"]);
    let revoked = make(&["new", "--owner", "a"]);
    let revoked_line = revoked.line.replace(" }", ", revoked: true }");
    let (_folder, _, yaml) = listed(&[&good.line, &late.line, &short.line, &revoked_line]);
    let clock = TestClock::new();
    let tollgate = Tollgate::start_with(&yaml, clock.clone()).await;
    assert_eq!(tollgate.verdict("GET", "/me", Some(&good.key)).await, "allow");
    assert_eq!(tollgate.verdict("GET", "/me", Some(&short.key)).await, "allow");
    clock.advance(Duration::from_secs(3_601));
    let mistyped = good.key.replacen(&good.key[20..21], if &good.key[20..21] == "a" { "b" } else { "a" }, 1);
    let mixed = format!("tg_{}_{}", good.id, &short.key[16..]);
    let longer = format!("{}a", good.key);
    let wrong = [&mistyped, &mixed, &longer, &late.key, &short.key, &unknown.key, &revoked.key, "tg_", ""];
    for key in wrong {
        let answer = tollgate.decide(with_key("/me", key)).await;
        let unauthenticated = answer.reason() == pb::DecisionReason::Unauthenticated;
        assert_eq!((unauthenticated, answer.detail.as_str()), (true, "unknown_api_key"), "{key}");
        assert_eq!(answer.identity, None);
    }
    let bound = pb::Credential {
        kind: Some(pb::credential::Kind::Authorization(format!("DPoP {}", good.key))),
        ..pb::Credential::default()
    };
    let answer = tollgate.decide(pb::DecideRequest { credential: Some(bound), ..question("GET", "/me", None) }).await;
    assert!(!answer.allowed, "a key is bound to nothing");
    assert_eq!(tollgate.verdict("GET", &format!("/me?api_key={}", good.key), None).await, "deny no_credential");
}

#[tokio::test]
async fn a_keys_own_limits_are_consumed_besides_the_rules() {
    let made = make(&["new", "--owner", "a", "--scope", "orders:read", "--limit", "per-key"]);
    let other = make(&["new", "--owner", "a", "--scope", "orders:read"]);
    let (_folder, _, yaml) = listed(&[&made.line, &other.line]);
    let tollgate = Tollgate::start(&yaml).await;
    for left in [2, 1, 0] {
        let quotas = tollgate.decide(with_key("/orders/1", &made.key)).await.quotas;
        let names: Vec<_> = quotas.iter().map(|quota| quota.limit.as_str()).collect();
        assert_eq!((names, quotas[1].remaining), (vec!["per-owner", "per-key"], left));
    }
    let refused = tollgate.decide(with_key("/orders/1", &made.key)).await;
    assert_eq!(refused.detail, "quota_exceeded");
    // Its owner's other key has none of its own, and shares what the owner has.
    let quotas = tollgate.decide(with_key("/orders/1", &other.key)).await.quotas;
    assert_eq!((quotas.len(), quotas[0].remaining), (1, 96));
}

#[tokio::test]
async fn operators_may_use_keys_where_the_configuration_says_so() {
    let may = make(&["new", "--owner", "ops", "--scope", "tollgate:introspect"]);
    let plain = make(&["new", "--owner", "a"]);
    let (_folder, _, yaml) = listed(&[&may.line, &plain.line]);
    let introspect = async |yaml: &str, key: &str, token: &str| {
        let tollgate = Tollgate::start(yaml).await;
        let mut request = tonic::Request::new(pb::IntrospectRequest { token: token.to_owned(), ..Default::default() });
        let value = format!("Bearer {key}").parse().expect("it is ASCII");
        request.metadata_mut().insert("authorization", value);
        tollgate.tokens().await.introspect(request).await.map(tonic::Response::into_inner)
    };
    let answer = introspect(&yaml, &may.key, &plain.key).await.expect("it may");
    assert!(answer.active);
    let inactive = introspect(&yaml, &may.key, &format!("{}x", plain.key)).await.expect("it may");
    assert!(!inactive.active);
    assert_eq!(introspect(&yaml, &plain.key, &may.key).await.unwrap_err().code(), Code::PermissionDenied);
    let yaml = yaml.replace("operators: true", "operators: false");
    assert_eq!(introspect(&yaml, &may.key, &plain.key).await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn what_is_known_of_a_key_is_told_by_the_program_and_over_http() {
    let may = make(&["new", "--owner", "ops", "--scope", "tollgate:introspect"]);
    let made = make(&["new", "--owner", "billing", "--scope", "orders:read", "--role", "USER", "--tenant", "acme"]);
    let (_keys, _, yaml) = listed(&[&may.line, &made.line]);
    let (process, folder, url) = served(&yaml).await;
    let file = folder.path().join("operator");
    fs::write(&file, format!("{}\n", may.key)).expect("the folder can be written to");
    let file = file.to_str().expect("the path is UTF-8");
    let ask = |token: &str| run(&["introspect", token, "--url", &url, "--operator-token-file", file]);

    let (code, said, complaint) = ask(&made.key);
    assert_eq!(code, 0, "{complaint}");
    let told: Value = serde_json::from_str(&said).expect("it is JSON");
    assert_eq!(
        (&told["active"], &told["sub"], &told["scope"]),
        (&true.into(), &"billing".into(), &"orders:read".into())
    );
    assert_eq!(
        (&told["roles"][0], &told["tenant"], &told["jti"]),
        (&"USER".into(), &"acme".into(), &made.id.as_str().into())
    );
    assert_eq!(ask("x"), (1, "{\"active\":false}\n".to_owned(), String::new()));
    let (code, _, complaint) = run(&["introspect", &made.key, "--url", &url, "--operator-token", &made.key]);
    assert_eq!(code, 2);
    assert!(complaint.contains("tollgate:introspect") && !complaint.contains(&made.key), "{complaint}");

    let request = reqwest::Client::new().post(format!("http://{}/oauth2/introspect", logged(&process, "http").await));
    let request = request.header("content-type", "application/x-www-form-urlencoded").bearer_auth(&may.key);
    let answer = request.body(format!("token={}", made.key)).send().await.expect("it answers");
    let over_http: Value = serde_json::from_str(&answer.text().await.expect("it is text")).expect("it is JSON");
    assert_eq!(over_http, told, "both say the same");
    assert!(!process.complaints().contains(&made.key[16..]), "the key is not logged");
}

#[tokio::test]
async fn a_changed_file_of_keys_is_read_again_and_one_with_a_key_in_it_is_not_used() {
    let made = make(&["new", "--owner", "a"]);
    let (folder, file, yaml) = listed(&[]);
    fs::write(&file, format!("{}\n", made.line)).expect("the folder can be written to");
    let (process, _folder, url) = served(&yaml).await;
    let decides = async |code: i32| {
        poll(SOON, &format!("exit code {code}"), async || {
            (run(&["decide", "--url", &url, "--token", &made.key, "GET", "/me"]).0 == code).then_some(())
        })
        .await;
    };
    decides(0).await;
    fs::write(&file, format!("{}\n", made.line.replace(" }", ", revoked: true }"))).expect("it can be written to");
    decides(1).await;
    fs::write(&file, format!("# {}\n{}\n", made.key, made.line)).expect("it can be written to");
    poll(SOON, "the refusal", async || {
        process.complaints().contains("keys.yaml:1:3: has an API key itself").then_some(())
    })
    .await;
    assert!(!process.complaints().contains(&made.key[16..]), "the key is not logged");
    decides(1).await;
    fs::write(&file, format!("{}\n", made.line)).expect("it can be written to");
    decides(0).await;
    drop(folder);
}

/// A configuration whose keys are in `redis`, as a file for the program's commands.
fn in_redis(redis: &RedisServer) -> (TempDir, String, String) {
    let yaml = format!(
        "store: {{ redis: {{ urls: ['{}'], deadline: 5s }} }}\napi_keys: {{ redis: true }}\nrevocation: {{ when_behind: allow }}{RULES}",
        redis.url()
    );
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("tollgate.yaml");
    fs::write(&file, &yaml).expect("the folder can be written to");
    let file = file.to_str().expect("the path is UTF-8").to_owned();
    (folder, file, yaml)
}

async fn replica(yaml: &str) -> Tollgate {
    Tollgate::start_with(yaml, TestClock::running()).await
}

#[tokio::test]
async fn a_key_in_redis_counts_on_every_replica_until_it_is_revoked() {
    let Some(redis) = RedisServer::start() else { return };
    let (_folder, file, yaml) = in_redis(&redis);
    let replicas = [Tollgate::start(&yaml).await, Tollgate::start(&yaml).await];
    let made = make(&["add", "--config", &file, "--owner", "billing", "--scope", "orders:read", "--limit", "per-key"]);
    for replica in &replicas {
        assert_eq!(replica.verdict("GET", "/orders/1", Some(&made.key)).await, "allow");
        assert_eq!(
            replica.verdict("GET", "/me", Some(&make(&["new", "--owner", "x"]).key)).await,
            "deny unknown_api_key"
        );
    }
    poll(SOON, "the use to be noted", async || {
        let (_, listed, _) = run(&["api-key", "list", "--config", &file]);
        assert!(listed.starts_with(&format!("{}  billing  expires 20", made.id)), "{listed}");
        (!listed.contains("used never")).then_some(())
    })
    .await;
    let (code, said, _) = run(&["api-key", "revoke", "--config", &file, &made.id]);
    assert_eq!((code, said), (0, format!("{}: revoked\n", made.id)));
    for replica in &replicas {
        replica.clock.advance(Duration::from_secs(2));
        assert_eq!(replica.verdict("GET", "/me", Some(&made.key)).await, "deny unknown_api_key");
    }
    let (_, listed, _) = run(&["api-key", "list", "--config", &file]);
    assert!(listed.ends_with("  revoked\n"), "{listed}");
}

#[tokio::test]
async fn a_key_is_rotated_with_an_overlap_in_which_both_are_good() {
    let Some(redis) = RedisServer::start() else { return };
    let (_folder, file, yaml) = in_redis(&redis);
    let tollgate = replica(&yaml).await;
    let old = make(&["add", "--config", &file, "--owner", "billing", "--role", "USER", "--tenant", "acme"]);
    assert_eq!(tollgate.verdict("GET", "/me", Some(&old.key)).await, "allow");
    let new = make(&["rotate", "--config", &file, &old.id, "--overlap", "1h", "--expires", "30d"]);
    assert_ne!(new.id, old.id);
    for key in [&old.key, &new.key] {
        let answer = tollgate.decide(with_key("/me", key)).await;
        let identity = answer.identity.expect("it is good");
        let same = (identity.subject.as_str(), identity.tenant.as_str(), identity.roles[0].as_str());
        assert_eq!(same, ("billing", "acme", "USER"));
    }
    tollgate.clock.advance(Duration::from_secs(3_601));
    tollgate.comes_to("deny unknown_api_key", "GET", "/me", Some(&old.key)).await;
    assert_eq!(tollgate.verdict("GET", "/me", Some(&new.key)).await, "allow");
}

#[tokio::test]
async fn while_redis_is_away_known_keys_go_on_and_unknown_ones_cannot_be_told() {
    let Some(mut redis) = RedisServer::start() else { return };
    let (_folder, file, yaml) = in_redis(&redis);
    let tollgate = replica(&yaml).await;
    let known = make(&["add", "--config", &file, "--owner", "a"]);
    let other = make(&["add", "--config", &file, "--owner", "a"]);
    assert_eq!(tollgate.verdict("GET", "/me", Some(&known.key)).await, "allow");
    redis.kill();
    tollgate.clock.advance(Duration::from_mins(1));
    for _ in 0..3 {
        assert_eq!(tollgate.verdict("GET", "/me", Some(&known.key)).await, "allow");
        let answer = tollgate.decide(with_key("/me", &other.key)).await;
        assert_eq!((answer.reason(), &*answer.detail), (pb::DecisionReason::DependencyUnavailable, "store_away"));
    }
    tollgate.clock.advance(Duration::from_mins(5));
    assert_eq!(tollgate.verdict("GET", "/me", Some(&known.key)).await, "deny store_away");
    // Its data is gone, and the keys with it.
    redis.restart();
    poll(SOON, "the store to be asked again", async || {
        tollgate.clock.advance(Duration::from_millis(500));
        (tollgate.verdict("GET", "/me", Some(&known.key)).await == "deny unknown_api_key").then_some(())
    })
    .await;
}

#[test]
fn the_commands_say_what_they_cannot_do() {
    let (_folder, _, yaml) = listed(&["[]"]);
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("tollgate.yaml");
    fs::write(&file, yaml).expect("the folder can be written to");
    let file = file.to_str().expect("the path is UTF-8");
    for (arguments, sentence) in [
        (&["new"][..], "--owner"),
        (&["new", "--owner", " a"], "must be whom the key speaks for"),
        (&["new", "--owner", "a", "--scope", "a b"], "must be one scope"),
        (&["new", "--owner", "a", "--expires", "soon"], "must be a date such as 2027-01-31, a duration such as 90d"),
        (&["new", "--owner", "a", "--expires", "2020-01-01"], "--expires: the key would have ended already"),
        (
            &["new", "--owner", "a", "--not-before", "2090-01-01", "--expires", "2089-01-01"],
            "--expires: the key would end before it begins",
        ),
        (
            &["new", "--owner", "a", "--not-before", "2020-01-01", "--expires", "2021-01-01"],
            "--expires: the key would have ended already",
        ),
        (&["revoke", "nonsense", "--config", file], "must be the id of a key: 12 letters and digits"),
        (&["list", "--config", "/no/such/file"], "/no/such/file"),
        (&["list", "--config", file], "does not keep API keys in Redis; say `api_keys: { redis: true }`"),
        (&["add", "--owner", "a", "--config", file], "does not keep API keys in Redis"),
    ] {
        let (code, _, said) = run(&[&["api-key"], arguments].concat());
        assert!(code == 2 && said.contains(sentence), "{arguments:?}: {said}");
    }
}

#[test]
fn no_key_is_made_that_no_replica_would_accept() {
    let Some(redis) = RedisServer::start() else { return };
    let (_folder, file, yaml) = in_redis(&redis);
    let made = make(&["add", "--config", &file, "--owner", "a"]);
    for (arguments, sentence) in [
        (&["rotate", &made.id, "--expires", "2020-01-01"][..], "--expires: the key would have ended already"),
        (&["rotate", &made.id, "--expires", "0s"], "--expires: the key would have ended already"),
        (&["add", "--owner", "b", "--limit", "per-kay"], "--limit: `per-kay` is no limit of the configuration"),
    ] {
        let (code, said, complaint) = run(&[&["api-key"], arguments, &["--config", &file]].concat());
        assert!(code == 2 && said.is_empty() && complaint.contains(sentence), "{arguments:?}: {said}{complaint}");
    }
    fs::write(&file, yaml.replace("by: [identity.client]", "by: [source.address]")).expect("it can be written to");
    let (code, said, complaint) = run(&["api-key", "add", "--owner", "b", "--limit", "per-key", "--config", &file]);
    let sentence = "--limit: `per-key` counts by source.address, which not every call with the key has";
    assert!(code == 2 && said.is_empty() && complaint.contains(sentence), "{said}{complaint}");
    let (_, listed, _) = run(&["api-key", "list", "--config", &file]);
    assert_eq!(listed.lines().count(), 1, "{listed}");
    assert!(listed.starts_with(&made.id), "{listed}");
}

#[test]
fn a_key_that_cannot_be_printed_is_a_failure() {
    let Some(redis) = RedisServer::start() else { return };
    let (_folder, file, _) = in_redis(&redis);
    for arguments in [&["new", "--owner", "a"][..], &["add", "--owner", "a", "--config", &file]] {
        // What is written there fails, as on a full disk.
        let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("the system has it");
        let ended = std::process::Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .arg("api-key")
            .args(arguments)
            .env_remove("TOLLGATE_CONFIG")
            .stdout(full)
            .output()
            .expect("the program was built");
        let complaint = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(2), "{arguments:?}: {complaint}");
        assert!(complaint.contains("could not be printed"), "{complaint}");
    }
    // Nobody holds it, so it is good for nobody.
    let (_, listed, _) = run(&["api-key", "list", "--config", &file]);
    assert!(listed.ends_with("  revoked\n"), "{listed}");
}

#[test]
fn commands_for_a_key_that_is_not_there_exit_with_1() {
    let Some(mut redis) = RedisServer::start() else { return };
    let (_folder, file, _) = in_redis(&redis);
    for task in ["revoke", "rotate"] {
        let (code, _, said) = run(&["api-key", task, "aaaaaaaaaaaa", "--config", &file]);
        assert!(code == 1 && said.contains("aaaaaaaaaaaa: there is no such key"), "{code} {said}");
    }
    let made = make(&["add", "--config", &file, "--owner", "a"]);
    assert_eq!(run(&["api-key", "revoke", &made.id, "--config", &file]).0, 0);
    let (code, _, said) = run(&["api-key", "rotate", &made.id, "--config", &file]);
    assert!(code == 2 && said.contains("is not to come back"), "{code} {said}");
    redis.kill();
    let (code, _, said) = run(&["api-key", "list", "--config", &file]);
    assert!(code == 2 && said.contains("store.redis: Redis cannot be reached"), "{code} {said}");
}

#[test]
fn a_key_is_printed_with_the_line_to_keep_and_the_line_is_good() {
    let (code, said, _) = run(&["api-key", "new", "--owner", "billing"]);
    assert_eq!(code, 0);
    let key = said.lines().find(|line| line.starts_with("tg_")).expect("the key is there");
    let line = said.lines().last().expect("the line is there");
    assert!(line.starts_with("- { id: ") && !line.contains(key), "{said}");
    let (_folder, _, yaml) = listed(&[line]);
    assert!(matches!(configuration(&yaml).api_keys.kept, tollgate::config::KeptKeys::Listed(keys) if keys.len() == 1));
}
