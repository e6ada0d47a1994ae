//! The file of API keys: what it holds, and every way in which it can be wrong.

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::domain::api_key::{DrawnKey, KeyId};

const LIMITS: &str = "
limits:
  per-key: { units: 5, window: 1s, by: [identity.client] }
  per-address: { units: 5, window: 1s, by: [source.address] }
  early: { units: 5, window: 1s, by: [rule], charge: before_auth }
rules: [{ match: { path: /** } }]
";

/// A configuration whose keys are in a file with that text.
fn folder(keys: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("t.yaml"), format!("api_keys: {{ file: keys.yaml }}{LIMITS}")).unwrap();
    fs::write(folder.path().join("keys.yaml"), keys).unwrap();
    folder
}

fn loaded(keys: &str) -> Result<Vec<ApiKey>, String> {
    let folder = folder(keys);
    match load(&folder.path().join("t.yaml"), &environment) {
        Ok((Config { api_keys: ApiKeys { kept: KeptKeys::Listed(keys), .. }, files, .. }, warnings)) => {
            assert_eq!((files, warnings), (vec![folder.path().join("keys.yaml")], vec![]));
            Ok(keys)
        }
        Ok((config, _)) => panic!("{config:?}"),
        Err(problems) => Err(problems.to_string().replace(&format!("{}/", folder.path().display()), "")),
    }
}

const HASH: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// A key as it is shown to its holder.
fn shown() -> String {
    let mut next = 0_u8;
    let random = |bytes: &mut [u8]| {
        bytes.fill_with(|| {
            next = next.wrapping_mul(5).wrapping_add(77);
            next
        });
        Ok::<_, ()>(())
    };
    DrawnKey::draw(random).unwrap().reveal().to_owned()
}

#[test]
fn a_line_that_was_printed_is_read_back_whatever_is_in_it() {
    let full = ApiKey {
        id: KeyId::parse("0123456789ab").unwrap(),
        hash: [0x5a; 32],
        owner: "billing \"${AUDIENCE}\" $${x} # : é".into(),
        tenant: Some("acme, [inc]".into()),
        scopes: ["orders:read".into(), "a".into()].into(),
        roles: ["yes".into(), "1e3".into()].into(),
        limits: ["per-key".into()].into(),
        created: Some(Micros::from_secs(1_795_554_956)),
        not_before: Some(Micros::from_secs(1_795_554_957)),
        expires: Some(Micros::from_secs(1_895_554_957)),
        revoked: true,
    };
    let plain = ApiKey::plain(KeyId::parse("000000000000").unwrap(), [0x11; 32], "true");
    let text = format!("{}\n{}\n", api_keys::line(&full), api_keys::line(&plain));
    assert_eq!(loaded(&text), Ok(vec![full, plain]), "{text}");
    assert_eq!(loaded("[]"), Ok(vec![]));
}

#[test]
fn every_problem_of_the_file_is_told_with_the_files_own_name_and_place() {
    let text = format!(
        "- {{ id: short, sha256: {HASH}, owner: a }}
- {{ id: aaaaaaaaaaaa, sha256: hunter2, owner: '', scope: [a] }}
- {{ id: aaaaaaaaaaaa, sha256: {HASH}, owner: a }}
- {{ id: bbbbbbbbbbbb, sha256: {HASH}, owner: a, scopes: ['a b'], roles: ['x '], limits: [per-kye, per-address, early] }}
- {{ id: aaaaaaaaaaaa, sha256: {HASH}, owner: a }}
- {{ id: cccccccccccc, sha256: {HASH}, owner: a, created: 2026, not_before: 2026-02-30, expires: 2027-01-01T00:00 }}
- {{ id: dddddddddddd, sha256: {HASH}, owner: a, not_before: 2027-01-01, expires: 2027-01-01, revoked: 'true' }}
- nothing
"
    );
    let expected = r#"keys.yaml:1:9: [0].id: must be the id of a key: 12 letters and digits; found "short"
keys.yaml:2:31: [1].sha256: must be the SHA-256 of the key, in 64 hexadecimal digits; `tollgate api-key new` prints it
keys.yaml:2:47: [1].owner: must be whom the key speaks for: 1 to 256 bytes, no control characters, no spaces around it; found ""
keys.yaml:2:51: [1].scope: is not a known key; did you mean `scopes`?
keys.yaml:4:116: [3].scopes[0]: must be one scope: 1 to 256 printable ASCII characters without space, `"` and `\`; found "a b"
keys.yaml:4:132: [3].roles[0]: must be a role: 1 to 256 bytes, no control characters, no spaces around it; found "x "
keys.yaml:4:148: [3].limits[0]: must be the name of a limit; did you mean `per-key`?; found "per-kye"
keys.yaml:4:157: [3].limits[1]: counts by source.address, which not every call with the key has; count by identity.client (the key), identity.subject (its owner), request.method or rule
keys.yaml:4:170: [3].limits[2]: is consumed before anybody knows the key (`charge: before_auth`); name a limit with `charge: after_auth`
keys.yaml:5:3: [4]: has the id of the key in line 3; a key has one line, so remove one
keys.yaml:6:116: [5].created: must be a date in UTC, such as 2027-01-31 (its first moment) or 2027-01-31T12:00:00Z; found "2026"
keys.yaml:6:134: [5].not_before: must be a date in UTC, such as 2027-01-31 (its first moment) or 2027-01-31T12:00:00Z; found "2026-02-30"
keys.yaml:6:155: [5].expires: must be a date in UTC, such as 2027-01-31 (its first moment) or 2027-01-31T12:00:00Z; found "2027-01-01T00:00"
keys.yaml:7:140: [6].expires: is not after `not_before`, so the key is never good; change one of them
keys.yaml:7:161: [6].revoked: must be true or false; found "true"
keys.yaml:8:3: [7]: must be a mapping (`key: value`); found "nothing""#;
    assert_eq!(loaded(&text).unwrap_err(), expected);
}

/// Wherever it stands, and even where the file is no YAML.
#[test]
fn a_key_itself_in_the_file_is_refused_and_never_shown() {
    let key = shown();
    for text in [
        format!("- {{ id: {key}, sha256: {HASH}, owner: a }}"),
        format!("- {{ id: aaaaaaaaaaaa, sha256: {key}, owner: a }}"),
        format!("# {key}\n[]"),
        format!("{{{key}: ["),
        format!("- {{ id: {}, sha256: {HASH}, owner: a }}", &key[..40]),
    ] {
        let said = loaded(&text).unwrap_err();
        let (place, remedy) = (said.starts_with("keys.yaml:1:"), said.contains("Make a new key, and remove this one"));
        assert!(place && remedy && said.lines().count() == 1, "{said}");
        assert!(!said.contains(&key[16..30]), "{said}");
    }
}

#[test]
fn what_is_no_list_of_keys_is_a_problem_of_the_file() {
    for (text, expected) in [
        ("", "keys.yaml:1:1: is empty; where that is meant, write `[]`"),
        ("{}", "keys.yaml:1:1: must be a list (`[a, b]`); found a mapping"),
        ("- [", "keys.yaml:1:3: is not YAML"),
    ] {
        let said = loaded(text).unwrap_err();
        assert!(said.starts_with(expected), "{said}");
    }
    let folder = folder("[]");
    let both =
        format!("api_keys: {{ file: keys.yaml, redis: true }}\nstore: {{ redis: {{ urls: ['redis://a'] }} }}{LIMITS}");
    fs::write(folder.path().join("t.yaml"), both).unwrap();
    let said = load(&folder.path().join("t.yaml"), &environment).unwrap_err().to_string();
    assert!(
        said.ends_with("api_keys: has both `file` and `redis`; keep one, so that it is clear where a key is revoked")
    );
    fs::remove_file(folder.path().join("keys.yaml")).unwrap();
    fs::write(folder.path().join("t.yaml"), format!("bounds: 1\napi_keys: {{ file: keys.yaml }}{LIMITS}")).unwrap();
    let said = load(&folder.path().join("t.yaml"), &environment).unwrap_err().to_string();
    assert!(said.contains("t.yaml:2:19: api_keys.file: cannot be read"), "{said}");
}
