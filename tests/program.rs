//! The program as it is run: its commands, exit codes, signals and files.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::server::SOON;
use crate::support::{Process, Signal, poll, root, tool};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tollgate");

const REMEDY: &str = "cargo builds it";

pub(crate) fn run(arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = Command::new(PROGRAM)
        .args(arguments)
        .env_remove("TOLLGATE_TOKEN")
        .env_remove("TOLLGATE_CONFIG")
        .env_remove("TOLLGATE_OPERATOR_TOKEN")
        .output()
        .expect("the program was built");
    let text = |bytes| String::from_utf8(bytes).expect("it writes UTF-8");
    (status.code().expect("it ends by itself"), text(stdout), text(stderr))
}

/// `tollgate serve` with more arguments; its log is text.
pub(crate) fn serve(arguments: &[&str]) -> Process {
    let mut command = Command::new(PROGRAM);
    command.args(["serve", "--log-format", "text"]).args(arguments).env_remove("TOLLGATE_CONFIG");
    Process::start(command, REMEDY)
}

/// What the log says after `key=`, once it says it.
pub(crate) async fn logged(process: &Process, key: &str) -> String {
    let start = format!("{key}=");
    poll(SOON, &format!("{key} in the log of {process}"), async || {
        let log = process.complaints();
        let (_, rest) = log.rsplit_once(&start)?;
        rest.split_whitespace().next().map(str::to_owned)
    })
    .await
}

/// A server that `yaml` configures, with the folder of its file and the address of its gRPC port.
pub(crate) async fn served(yaml: &str) -> (Process, TempDir, String) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    write(folder.path(), yaml);
    let file = folder.path().join("tollgate.yaml");
    let process = serve(&["--config", file.to_str().expect("the path is UTF-8")]);
    let grpc = logged(&process, "grpc").await;
    (process, folder, format!("http://{grpc}"))
}

fn write(folder: &Path, rules: &str) {
    let listen = "listen: { grpc: 127.0.0.1:0, http: 127.0.0.1:0, admin: 127.0.0.1:0 }";
    fs::write(folder.join("tollgate.yaml"), format!("{listen}\n{rules}\n")).expect("the folder can be written to");
}

/// Asks until the program's exit code is `code`.
pub(crate) async fn decides(url: &str, path: &str, code: i32) {
    poll(SOON, &format!("exit code {code} for {path}"), async || {
        (run(&["decide", "--url", url, "GET", path]).0 == code).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_first_run_leads_to_a_quota_refusal_by_pasting_what_it_prints() {
    let mut process = serve(&["--dev", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let mut pasted = Vec::new();
    while pasted.len() < 3 {
        let line = process.line(SOON).await;
        if ["export ", "cargo run ", "grpcurl "].iter().any(|start| line.starts_with(start)) {
            pasted.push(line);
        }
    }
    let [export, decide, grpcurl] = pasted.as_slice() else { unreachable!() };
    let decide = decide.replace("cargo run --release -q --", PROGRAM);
    let shell = |command: &str| {
        let output =
            Command::new("sh").args(["-c", &format!("{export}\n{command}")]).output().expect("there is a shell");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    for left in (0..5).rev() {
        let (code, text) = shell(&decide);
        assert!(text.starts_with("allow   rule orders   subject alice"), "{text}");
        assert!(text.contains(&format!("per-subject: {left} of 5 left in 30s")), "{text}");
        assert_eq!(code, Some(0));
    }
    let (code, text) = shell(&decide);
    assert!(text.starts_with("deny   quota_exceeded") && text.contains("try again in 30."), "{text}");
    assert_eq!(code, Some(1));

    if std::env::var_os("TOLLGATE_TEST_SKIP_GRPCURL").is_some_and(|value| value == "1") {
        return;
    }
    let tool = tool("grpcurl");
    assert!(Command::new(&tool).arg("-version").output().is_ok(), "grpcurl is not installed; run ./scripts/test");
    let (code, text) = shell(&grpcurl.replacen("grpcurl", &tool.display().to_string(), 1));
    assert!(text.contains("DECISION_REASON_QUOTA_EXCEEDED"), "{text}");
    assert_eq!(code, Some(0));
}

#[test]
fn the_first_run_refuses_to_listen_beyond_loopback() {
    let (code, _, said) = run(&["serve", "--dev", "--grpc", "0.0.0.0:0"]);
    assert!(said.contains("--grpc: --dev listens on loopback only"), "{said}");
    assert_eq!(code, 2);
}

#[test]
fn commands_that_could_not_be_done_say_why_and_exit_with_2() {
    for (arguments, sentence) in [
        (&["serve"][..], "--config"),
        (&["serve", "--config", "/no/such/file.yaml"], "/no/such/file.yaml"),
        (&["serve", "--dev", "--log", "=nonsense="], "--log"),
        (&["decide", "--url", "http://127.0.0.1:1", "GET", "/"], "cannot reach http://127.0.0.1:1"),
        (&["decide", "--url", "not a url", "GET", "/"], "--url"),
        (&["decide", "--url", "127.0.0.1:1", "GET", "/"], "--url: `127.0.0.1:1` is not a URL"),
        (&["decide", "--resource", "a=1", "--resource", "a=2", "GET", "/"], "--resource: `a` is given twice"),
        (&["decide", "--header", "a=1", "--header", "a=2", "GET", "/"], "--header: `a` is given twice"),
        (&["decide", "--limit", "a=b", "GET", "/"], "NAME=UNITS"),
        (&["decide", "--token-file", "/no/such/token", "GET", "/"], "/no/such/token"),
        (&["frobnicate"], "frobnicate"),
    ] {
        let (code, _, said) = run(arguments);
        assert!(said.contains(sentence), "{arguments:?}: {said}");
        assert_eq!(code, 2, "{arguments:?}");
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = taken.local_addr().expect("it has one").to_string();
    let (code, _, said) =
        run(&["serve", "--dev", "--grpc", &address, "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    assert!(said.contains("listen.grpc") && said.contains(&address), "{said}");
    assert_eq!(code, 2);
}

#[test]
fn configurations_are_checked_with_place_key_and_remedy() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("bad.yaml");
    fs::write(&file, "limits:\n  a: { units: 0, window: 1m }\nrules:\n  - limits: [b]\n    permit: anyone\n")
        .expect("the folder can be written to");
    let name = file.to_str().expect("the path is UTF-8");
    let (code, said, _) = run(&["config", "check", name]);
    assert!(said.contains(&format!("{name}:2:15: limits.a.units: ")), "{said}");
    assert!(said.contains(&format!("{name}:4:14: rules[0].limits[0]: ")), "{said}");
    assert_eq!(code, 1);

    fs::write(
        &file,
        "issuers: [{ issuer: partner, audiences: [a], jwks: { keys: [{ kty: RSA, n: AAAA, e: AQAB }] } }]\n\
         rules: [{ match: { path: /a } }]\n",
    )
    .expect("the folder can be written to");
    let (code, said, _) = run(&["config", "check", name]);
    assert!(said.contains("`partner`") && said.contains("1 not valid"), "what `serve` would say: {said}");
    assert_eq!(code, 1);

    let example = root().join("deploy/tollgate.example.yaml");
    let (code, said, _) = run(&["config", "check", example.to_str().expect("the path is UTF-8")]);
    assert!(said.ends_with(": good\n"), "{said}");
    assert_eq!(code, 0);

    let (code, schema, _) = run(&["config", "schema"]);
    let schema: serde_json::Value = serde_json::from_str(&schema).expect("it is JSON");
    assert_eq!((code, schema["$schema"].as_str()), (0, Some("https://json-schema.org/draft/2020-12/schema")));
}

#[tokio::test]
async fn whoever_takes_a_slot_is_told_and_so_is_whoever_gets_none() {
    let (_process, _folder, url) = served(
        "limits: { busy: { algorithm: concurrency, units: 1, hold: 30s } }\n\
         rules: [{ match: { path: /busy }, permit: anyone, limits: [busy] }]",
    )
    .await;
    let ask = |more: &[&str]| run(&[&["decide", "--url", &url, "--explain"], more, &["GET", "/busy"]].concat());
    let (code, said, _) = ask(&[]);
    assert_eq!(code, 0);
    for part in ["busy: 0 of 1 free", "held for 30s unless it is settled before: C", "Slots are held until"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let (code, said, _) = ask(&[]);
    assert_eq!(code, 1);
    for part in ["busy: 0 of 1 free  short", "try again in", "Too few slots are free."] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let json: serde_json::Value = serde_json::from_str(&ask(&["--json", "--peek"]).1).expect("it is JSON");
    assert_eq!((&json["reservation"], &json["expiresAfter"]), (&"".into(), &serde_json::Value::Null));
}

#[tokio::test]
async fn a_call_is_described_with_all_that_rules_look_at() {
    let (_process, _folder, url) = served(
        "rules: [{ match: { path: /upload, headers: { x-tenant: acme } }, permit: anyone, max_body: 1KiB, sources: [10.0.0.0/8] }]",
    )
    .await;
    let ask = |more: &[&str]| {
        let call = ["decide", "--url", &url, "--header", "x-tenant=acme", "--source", "10.1.2.3"];
        run(&[&call, more, &["POST", "/upload"]].concat())
    };
    for (more, code, part) in [
        (&["--body-bytes", "1024"][..], 0, "allow"),
        (&["--body-bytes", "1025"], 1, "body_too_large"),
        (&[], 1, "length_required"),
        (&["--header", "content-length=5", "--scope", "read"], 1, "no_credential"),
    ] {
        let (status, said, _) = ask(more);
        assert!(status == code && said.contains(part), "{more:?}: {said}");
    }
}

#[tokio::test]
async fn a_configuration_is_read_again_when_it_changes_all_or_nothing() {
    let public = |path: &str| format!("rules: [{{ match: {{ path: {path} }}, permit: anyone }}]");
    let (process, folder, url) = served(&public("/one")).await;
    decides(&url, "/one", 0).await;
    decides(&url, "/two", 1).await;

    write(folder.path(), &public("/two"));
    decides(&url, "/two", 0).await;
    decides(&url, "/one", 1).await;

    write(folder.path(), "rules: [{ permit: nobody }]");
    poll(SOON, "the refusal", async || process.complaints().contains("rules[0].permit").then_some(())).await;
    decides(&url, "/two", 0).await;

    // The same bytes: nothing has changed for those who watch, but whoever asks is obeyed.
    write(folder.path(), &public("/two"));
    poll(SOON, "the mended file", async || process.complaints().contains("policy_version=3").then_some(())).await;
    process.signal(Signal::Hangup);
    poll(SOON, "the reload", async || process.complaints().contains("policy_version=4").then_some(())).await;
    let json = run(&["decide", "--url", &url, "--json", "--explain", "GET", "/two"]).1;
    let json: serde_json::Value = serde_json::from_str(&json).expect("it is JSON");
    assert_eq!((&json["allowed"], &json["explanation"]["policyVersion"]), (&true.into(), &"4".into()));
}

#[tokio::test]
async fn a_stop_is_clean() {
    for signal in [Signal::Terminate, Signal::Interrupt] {
        let (mut process, _folder, url) = served("rules: [{ match: { path: /one }, permit: anyone }]").await;
        decides(&url, "/one", 0).await;
        process.signal(signal);
        let status = process.ended(Duration::from_secs(15)).await;
        assert!(status.success(), "{status} {process}");
    }
}

#[tokio::test]
async fn a_server_without_open_files_to_spare_says_so_and_serves_again() {
    let mut command = Command::new("sh");
    let serve = r#"ulimit -n 40; exec "$0" serve --dev --grpc 127.0.0.1:0 --admin 127.0.0.1:0 --log-format text"#;
    command.args(["-c", serve, PROGRAM]);
    let process = Process::start(command, REMEDY);
    let grpc = logged(&process, "grpc").await;
    let held: Vec<_> = (0..60).map(|_| std::net::TcpStream::connect(&grpc).expect("the system queues it")).collect();
    let warning = "no connections are accepted for the moment";
    poll(SOON, "the warning", async || process.complaints().contains(warning).then_some(())).await;
    drop(held);
    decides(&format!("http://{grpc}"), "/public/x", 0).await;
}

#[tokio::test]
async fn decisions_are_logged_for_those_who_ask() {
    let mut process = serve(&[
        "--dev",
        "--grpc",
        "127.0.0.1:0",
        "--http",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--log",
        "info,tollgate::decisions=debug",
    ]);
    let url = format!("http://{}", logged(&process, "grpc").await);
    while !process.line(SOON).await.starts_with("export ") {}
    assert_eq!(run(&["decide", "--url", &url, "GET", "/admin/x"]).0, 1);
    poll(SOON, "the decision", async || process.complaints().contains("reason=\"no_credential\"").then_some(())).await;
}

#[tokio::test]
async fn secrets_are_in_no_log() {
    let token = "eyJhbGciOiJFUzI1NiJ9.c2VjcmV0.c2VjcmV0c2VjcmV0";
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let yaml = "store: { redis: { urls: ['redis://user:pa55word@127.0.0.1:1'] } }\n\
                limits: { a: { units: 1, window: 1m } }\n\
                rules: [{ match: { path: /one }, permit: anyone, limits: [a] }]";
    write(folder.path(), yaml);
    let file = folder.path().join("tollgate.yaml");
    let process = serve(&["--log", "trace", "--config", file.to_str().expect("the path is UTF-8")]);
    let url = format!("http://{}", logged(&process, "grpc").await);
    for _ in 0..3 {
        assert_eq!(run(&["decide", "--url", &url, "--token", token, "GET", "/one"]).0, 1);
    }
    poll(SOON, "the outage", async || process.complaints().contains("away").then_some(())).await;
    let log = process.complaints();
    assert!(!log.contains("pa55word") && !log.contains(token), "{log}");
}

/// Else each line about the file would be a change of the file, without end, and no signal would be heard.
#[tokio::test]
async fn a_log_beside_the_configuration_does_not_feed_itself() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    write(folder.path(), "rules: [{ match: { path: /one }, permit: anyone }]");
    let mut command = Command::new("sh");
    let serve = r#"exec "$0" serve --config tollgate.yaml --log trace --log-format text 2> log"#;
    command.args(["-c", serve, PROGRAM]).current_dir(folder.path()).env_remove("TOLLGATE_CONFIG");
    let mut process = Process::start(command, REMEDY);
    let log = || fs::read_to_string(folder.path().join("log")).unwrap_or_default();
    poll(SOON, "the server", async || log().contains("listening").then_some(())).await;
    process.signal(Signal::Terminate);
    assert!(process.ended(SOON).await.success(), "{process}");
    assert!(log().len() < 1 << 20, "{} bytes", log().len());
}
