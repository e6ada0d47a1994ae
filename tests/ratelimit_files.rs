//! Files of limits by descriptors, by the program as it is run: checked, and read again while it serves.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;

use crate::program::{logged, run, serve};
use crate::support::poll;
use crate::support::server::SOON;

const SECTION: &str = "envoy_ratelimit: { files: ['limits/*.yaml'] }";

/// A folder with a configuration that names `limits/*.yaml`.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    fs::create_dir(folder.path().join("limits")).expect("the folder can be written to");
    let listen = "listen: { grpc: 127.0.0.1:0, http: 127.0.0.1:0, admin: 127.0.0.1:0 }";
    let rules = "rules: [{ match: { path: /one }, permit: anyone }]";
    write(&folder.path().join("tollgate.yaml"), &format!("{listen}\n{rules}\n{SECTION}\n"));
    folder
}

fn write(file: &Path, text: &str) {
    fs::write(file, text).expect("the folder can be written to");
}

fn limits(domain: &str, unit: &str) -> String {
    format!("domain: {domain}\ndescriptors: [{{ key: k, rate_limit: {{ unit: {unit}, requests_per_unit: 1 }} }}]\n")
}

fn utf8(path: &Path) -> &str {
    path.to_str().expect("the path is UTF-8")
}

#[test]
fn files_of_limits_are_checked_with_the_configuration() {
    let folder = folder();
    let (file, named) = (folder.path().join("tollgate.yaml"), folder.path().join("limits/a.yaml"));
    let check = |unit: &str| {
        write(&named, &limits("a", unit));
        let (code, said, _) = run(&["config", "check", utf8(&file)]);
        (code, said)
    };
    let (code, said) = check("fortnight");
    let place = format!("{}:2:45: descriptors[0].rate_limit.unit: must be second or", named.display());
    assert!(said.starts_with(&place), "{said}");
    assert_eq!(code, 1);
    let (code, said) = check("week");
    assert!(said.ends_with(": good\n"), "{said}");
    assert_eq!(code, 0);
}

#[tokio::test]
async fn files_of_limits_that_come_and_vanish_are_read_again_all_or_nothing() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    write(&at("limits/a.yaml"), &limits("a", "day"));
    let process = serve(&["--config", utf8(&at("tollgate.yaml"))]);
    let url = format!("http://{}", logged(&process, "grpc").await);
    let logs = async |text: &str| {
        poll(SOON, &format!("{text} in the log of {process}"), async || {
            process.complaints().contains(text).then_some(())
        })
        .await;
    };
    let version = || {
        let said = run(&["decide", "--url", &url, "--json", "--explain", "GET", "/one"]).1;
        let said: serde_json::Value = serde_json::from_str(&said).expect("it is JSON");
        said["explanation"]["policyVersion"].as_str().map(str::to_owned)
    };

    // One that comes, wrong at first.
    write(&at("limits/b.yaml"), &limits("a", "day"));
    logs("limits/b.yaml:1:9: domain: is the domain of").await;
    assert_eq!(version().as_deref(), Some("1"));
    write(&at("limits/b.yaml"), &limits("b", "day"));
    logs("policy_version=2").await;

    // One whose name is there and whose text is not, as while a folder is being replaced.
    write(&at("c"), &limits("c", "day"));
    symlink("../c", at("limits/c.yaml")).expect("the folder can be written to");
    logs("policy_version=3").await;
    fs::remove_file(at("c")).expect("it is there");
    logs("limits/c.yaml: cannot be read").await;
    assert_eq!(version().as_deref(), Some("3"));
    write(&at("c"), &limits("c", "week"));
    logs("policy_version=4").await;

    // One that goes for good.
    fs::remove_file(at("limits/b.yaml")).expect("it is there");
    logs("policy_version=5").await;
}
