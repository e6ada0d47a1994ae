//! `tollgate test`: policies tried out by cases.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::program::run;
use crate::support::root;

const POLICY: &str = "
issuers:
  - { issuer: https://a.example, audiences: [orders], algorithms: [RS256], max_token_lifetime: 2h, leeway: 1m }
  - { issuer: https://b.example, audiences: [orders], introspection: { url: 'https://b.example/i', client_id: t, client_secret: s } }
certificates: { names: ['spiffe://td/web', 'spiffe://td/db'] }
api_keys: { file: keys.yaml }
store: { redis: { urls: ['redis://127.0.0.1:1'] } }
limits:
  few: { units: 2, window: 10s, by: [identity.subject] }
rules:
  - { name: api, match: { path: '/api/{id}' }, require: { scopes: [read] }, limits: [few] }
  - { name: web, match: { path: /web }, require: { names: [spiffe://td/web] } }
  - { name: any, match: { path: /any }, permit: anyone }
";

const KEYS: &str = "
- { id: abcdefghijkl, sha256: '0000000000000000000000000000000000000000000000000000000000000000', owner: batch, scopes: [read],
    expires: 2026-01-01T13:00:00Z }
";

/// What `tollgate test` says of these cases: its exit code, and its output.
fn tried(cases: &str) -> (i32, String) {
    let folder = folder(&[("cases.yaml", &format!("config: tollgate.yaml\n{cases}"))]);
    tried_out(folder.path(), &[])
}

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files.iter().chain(&[("tollgate.yaml", POLICY), ("keys.yaml", KEYS)]) {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn tried_out(path: &Path, more: &[&str]) -> (i32, String) {
    let arguments: Vec<&str> = ["test", path.to_str().unwrap()].into_iter().chain(more.iter().copied()).collect();
    let (code, output, problem) = run(&arguments);
    (code, output.replace(&format!("{}/", path.display()), "") + &problem)
}

fn passes(cases: &str) {
    let (code, output) = tried(cases);
    assert_eq!(code, 0, "{output}");
}

#[test]
fn the_examples_are_as_they_say() {
    let (code, output) = tried_out(&root().join("deploy"), &[]);
    assert_eq!(code, 0, "{output}");
    assert!(!output.starts_with("0 passed"), "{output}");
}

#[test]
fn what_differs_is_told_with_its_place_and_what_was_expected() {
    let (code, output) = tried(
        "callers: { ann: { token: { iss: 'https://a.example', sub: ann, scope: read } } }
cases:
  - { name: good, ask: GET /any, expect: allowed }
  - name: spent
    steps:
      - { ask: GET /api/1, caller: ann, times: 2, expect: allowed }
      - { ask: GET /api/1, caller: ann, expect: { outcome: allowed, rule: web, status: 200, quotas: { few: { remaining: 1 }, other: {} } } }
",
    );
    let expected = "FAILED cases.yaml:8: spent
  GET /api/1 by ann
    outcome:
      expected  allowed
      got       quota_exceeded
    rule:
      expected  web
      got       api
    status:
      expected  200
      got       429
    quota few, remaining:
      expected  1
      got       0
    quota other:
      expected  asked
      got       not asked
    decided by api
    A quota is used up.
1 passed, 1 failed
";
    assert_eq!((code, output.as_str()), (1, expected));
    let (code, output) =
        tried("cases: [{ name: often, ask: GET /none, times: 3, expect: { violations: [request.path] } }]");
    assert_eq!(code, 1);
    assert!(output.contains("time 1 of 3") && output.contains("got       no_rule"), "{output}");
    let (code, output) = tried("cases: [{ name: odd, ask: GET /a/../b, expect: allowed }]");
    assert_eq!(code, 1);
    assert!(output.contains("got       malformed") && output.contains("request.path has a dot segment"), "{output}");
}

#[test]
fn tokens_go_the_whole_way_and_can_be_bad_in_every_way() {
    passes(
        "callers:
  ann: { token: { iss: 'https://a.example', sub: ann, scope: read } }
  opaque: { token: { iss: 'https://b.example', sub: bob, scope: read } }
  expired: { token: { iss: 'https://a.example', scope: read }, fault: expired }
  early: { token: { iss: 'https://a.example', scope: read }, fault: not_yet_valid }
  forged: { token: { iss: 'https://a.example', scope: read }, fault: bad_signature }
  keyless: { token: { iss: 'https://a.example', scope: read }, fault: unknown_key }
  elsewhere: { token: { iss: 'https://a.example', aud: billing, scope: read } }
  stranger: { token: { iss: 'https://c.example', scope: read } }
  long: { token: { iss: 'https://a.example', scope: read }, lives: 3h }
  endless: { token: { iss: 'https://a.example', scope: read, exp: null } }
  noise: { authorization: 'Bearer a.b' }
cases:
  - { name: good, ask: GET /api/1, caller: ann, expect: { outcome: allowed, subject: ann } }
  - { name: asked, ask: GET /api/1, caller: opaque, expect: { outcome: allowed, subject: bob } }
  - { name: expired, ask: GET /api/1, caller: expired, expect: expired }
  - { name: early, ask: GET /api/1, caller: early, expect: not_yet_valid }
  - { name: forged, ask: GET /api/1, caller: forged, expect: bad_signature }
  - { name: keyless, ask: GET /api/1, caller: keyless, expect: unknown_key }
  - { name: elsewhere, ask: GET /api/1, caller: elsewhere, expect: wrong_audience }
  - { name: stranger, ask: GET /api/1, caller: stranger, expect: unknown_issuer }
  - { name: long, ask: GET /api/1, caller: long, expect: lifetime_too_long }
  - { name: endless, ask: GET /api/1, caller: endless, expect: missing_claim }
  - { name: noise, ask: GET /api/1, caller: noise, expect: malformed_token }
  - { name: nobody, ask: GET /api/1, expect: { outcome: denied, status: 401 } }
  - { name: key, ask: GET /api/1, caller: { api_key: abcdefghijkl }, expect: { outcome: allowed, subject: batch } }
  - { name: workload, ask: GET /web, caller: { certificate: ['spiffe://td/web'] }, expect: allowed }
  - { name: other workload, ask: GET /web, caller: { certificate: ['spiffe://td/db'] }, expect: denied }
",
    );
}

#[test]
fn time_passes_when_it_is_told_to_and_for_everything() {
    passes(
        "at: 2026-01-01T12:00:00Z
callers:
  ann: { token: { iss: 'https://a.example', sub: ann, scope: read }, lives: 10m }
  batch: { api_key: abcdefghijkl }
cases:
  - name: a token ends at its end, leeway included
    steps:
      - { ask: GET /api/1, caller: ann, expect: allowed }
      - { after: 659s, ask: GET /api/1, caller: ann, expect: allowed }
      - { after: 1s, ask: GET /api/1, caller: ann, expect: expired }
  - name: units come back, and each case has counters of its own
    steps:
      - { ask: GET /api/1, caller: ann, times: 2, expect: allowed }
      - { ask: GET /api/1, caller: ann, peek: true, expect: { outcome: quota_exceeded, quotas: { few: { remaining: 0 } } } }
      - { after: 11s }
      - { ask: GET /api/1, caller: ann, expect: { outcome: allowed, quotas: { few: { remaining: 1 } } } }
  - name: a key ends at its end
    steps:
      - { after: 3599s, ask: GET /api/1, caller: batch, expect: allowed }
      - { after: 1s, ask: GET /api/1, caller: batch, expect: unknown_api_key }
  - { name: a case may have a moment of its own, at: 2026-01-02, ask: GET /api/1, caller: batch, expect: unknown_api_key }
",
    );
}

#[test]
fn what_is_taken_back_is_out_in_its_case_alone() {
    passes(
        "callers:
  ann: { token: { iss: 'https://a.example', sub: ann, scope: read, sid: s1, client_id: shop, jti: t1 } }
  batch: { api_key: abcdefghijkl }
cases:
  - name: by its subject
    steps: [{ revoke: { sub: ann, issuer: 'https://a.example' }, ask: GET /api/1, caller: ann, expect: revoked }]
  - name: by its session
    steps: [{ revoke: { sid: s1, issuer: 'https://a.example' }, ask: GET /api/1, caller: ann, expect: revoked }]
  - name: by its client
    steps: [{ revoke: { client: shop, issuer: 'https://a.example' }, ask: GET /api/1, caller: ann, expect: revoked }]
  - name: by its id
    steps: [{ revoke: { jti: t1, issuer: 'https://a.example' }, ask: GET /api/1, caller: ann, expect: revoked }]
  - name: by its issuer
    steps: [{ revoke: { issuer: 'https://a.example' }, ask: GET /api/1, caller: ann, expect: revoked }]
  - name: a key
    steps: [{ revoke: { api_key: abcdefghijkl }, ask: GET /api/1, caller: batch, expect: revoked }]
  - name: another's subject
    steps: [{ revoke: { sub: ann, issuer: 'https://b.example' }, ask: GET /api/1, caller: ann, expect: allowed }]
",
    );
    let (code, output) = tried("cases: [{ name: x, steps: [{ revoke: { sub: ann } }] }]");
    assert_eq!(code, 1);
    assert!(output.contains("several issuers: name one"), "{output}");
}

#[test]
fn everything_that_is_wrong_with_a_file_is_said_at_once_with_its_place() {
    let (code, output) = tried(
        "at: yesterday
callers: { a: { token: 7 }, b: { token: {}, api_key: abcdefghijkl }, c: { fault: expired } }
cases:
  - { name: x, ask: GET /, caller: d, expect: alowed, tims: 3 }
  - { name: x }
  - { name: x, after: 3s }
  - { name: y, ask: GET /, expect: {}, times: 0 }
  - { name: z, steps: [{ revoke: { sub: a, sid: b } }], ask: GET / }
more: 1
",
    );
    assert_eq!(code, 2, "{output}");
    let places: Vec<&str> = output.lines().filter_map(|line| line.split_once(": ")).map(|(place, _)| place).collect();
    assert!(places.iter().all(|place| place.starts_with("cases.yaml:") || place.starts_with('0')), "{output}");
    for wrong in [
        "2:5: at: must be a moment",
        "callers.a.token: must be a mapping",
        "callers.b: shows several credentials",
        "callers.c.fault: is of use with a `token` only",
        "cases[0].caller: must be one of `callers`",
        "cases[0].expect: must be an outcome; did you mean `allowed`?",
        "cases[0].tims: is not a known key; did you mean `times`?",
        "cases[1]: must have `ask`",
        "cases[2]: has the name of the case in line 6",
        "cases[3].expect: expects nothing",
        "cases[3].times: must be a whole number from 1 to 100000",
        "cases[4].steps[0].revoke: must name one thing",
        "cases[4].ask: is not a known key",
        "more: is not a known key",
    ] {
        assert!(output.contains(wrong), "{wrong} is not in:\n{output}");
    }
    let (code, output) = tried("config: other.yaml\ncases: []");
    assert!(code == 2 && output.contains("is there already"), "{output}");
    let folder = folder(&[("cases.yaml", "config: other.yaml\ncases: [{ name: x, ask: GET /any, expect: allowed }]")]);
    let (code, output) = tried_out(folder.path(), &[]);
    assert!(code == 2 && output.contains("other.yaml: cannot be read"), "{output}");
}

#[test]
fn a_file_may_say_what_variables_hold() {
    let policy = "limits: { few: { units: \"${UNITS}\", window: 1m } }\nrules: [{ match: { path: /a }, permit: anyone, limits: [few] }]";
    let cases = |environment: &str| {
        format!(
            "config: other.yaml\n{environment}
cases: [{{ name: x, ask: GET /a, expect: {{ quotas: {{ few: {{ remaining: 6 }} }} }} }}]"
        )
    };
    let tried = |environment: &str| {
        let folder = folder(&[("cases.yaml", &cases(environment)), ("other.yaml", policy)]);
        tried_out(folder.path(), &[])
    };
    assert_eq!(tried("environment: { UNITS: '7' }").0, 0);
    let (code, output) = tried("");
    assert!(code == 2 && output.contains("the environment variable UNITS is not set"), "{output}");
}

#[test]
fn files_are_found_by_name_and_cases_by_theirs() {
    let cases = "config: tollgate.yaml\ncases: [{ name: one, ask: GET /any, expect: allowed }, { name: two, ask: GET /any, expect: denied }]";
    let folder = folder(&[("a.cases.yaml", cases), ("upper_cases.yaml", "not: one"), ("other.txt", cases)]);
    let (code, output) = tried_out(folder.path(), &["--filter", "one"]);
    assert_eq!((code, output.as_str()), (0, "1 passed, 0 failed, 1 left out by --filter\n"));
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    // As a shell's `*` gives them.
    let (code, output, _) = run(&["test", &path("a.cases.yaml"), &path("other.txt"), &path("tollgate.yaml")]);
    assert!(code == 1 && output.ends_with("1 passed, 1 failed\n"), "{output}");
    // One that is named by itself is meant, whatever its name.
    assert_eq!(run(&["test", &path("other.txt")]).0, 1);
    let (code, _, problem) = run(&["test", &path("a.cases.yaml"), "--filter", "three"]);
    assert!(code == 2 && problem.contains("--filter leaves none"), "{problem}");
    let (code, _, problem) = run(&["test", &path("other.txt"), &path("tollgate.yaml")]);
    assert!(code == 2 && problem.contains("there is no file of cases"), "{problem}");
}
