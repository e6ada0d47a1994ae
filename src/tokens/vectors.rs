//! Other people's test vectors: Wycheproof's and those of `JSONTestSuite`. They lie beside the project, in `../shared/vectors` or
//! where `TOLLGATE_VECTORS` says; where they do not, these tests say so and pass.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests, which say when they are skipped")]

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::json::{self, Bounds};
use super::jwk::Skip;
use super::jwks::{self, KeySet};
use super::jwt::Compact;
use super::mint::set;
use crate::domain::issuer::Algorithm;

/// The vectors' folder, or a message that the test is skipped.
fn folder(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("TOLLGATE_VECTORS")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors"), PathBuf::from);
    let folder = root.join(name);
    if !folder.is_dir() {
        eprintln!("skipped: no test vectors in {}", folder.display());
        return None;
    }
    Some(folder)
}

fn wycheproof(name: &str) -> Option<Value> {
    let text = fs::read(folder("wycheproof")?.join(name)).unwrap();
    Some(serde_json::from_slice(&text).unwrap())
}

/// Each group of a file with each of its tests.
fn cases(file: &Value) -> impl Iterator<Item = (&Value, &Value)> {
    file["testGroups"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|group| group["tests"].as_array().unwrap().iter().map(move |test| (group, test)))
}

fn keys_of(group: &Value) -> KeySet {
    let key = if group["public"].is_null() { &group["private"] } else { &group["public"] };
    let text = if key["keys"].is_array() { key.to_string() } else { set([key.clone()]) };
    jwks::read(text.as_bytes()).unwrap().keys
}

fn verifies(token: &str, keys: &KeySet) -> bool {
    let decoded = Compact::split(token).and_then(Compact::decode);
    decoded.is_ok_and(|decoded| decoded.is_signed_by(&Algorithm::ASYMMETRIC, keys))
}

/// Valid cases that are refused on purpose.
const STRICTER: [(&str, &[u64]); 5] = [
    ("HS256: no shared secrets", &[1, 348, 352, 357, 358, 359, 373, 376, 377]),
    ("a `?` within base64url (and HS256)", &[372]),
    ("`ES521` is no algorithm", &[347, 351]),
    ("a token whose payload is empty is no JWT", &[259, 264, 268, 272, 320, 325]),
    ("the token says PS384 and its key says PS256", &[346, 350]),
];

#[test]
fn wycheproofs_web_signatures_verify_as_they_should() {
    let Some(file) = wycheproof("json_web_signature_test.json") else { return };
    let mut accepted = 0;
    for (group, test) in cases(&file) {
        let id = test["tcId"].as_u64().unwrap();
        let is_exception = STRICTER.iter().any(|(_, ids)| ids.contains(&id));
        let Some(token) = test["jws"].as_str() else {
            assert_eq!(test["result"], "invalid", "{id}: the JSON serialization is no token");
            continue;
        };
        let verifies = verifies(token, &keys_of(group));
        accepted += u32::from(verifies);
        assert_eq!(verifies, test["result"] == "valid" && !is_exception, "{id}: {}", test["comment"]);
    }
    assert!(accepted >= 25, "{accepted}");
}

#[test]
fn wycheproofs_web_keys_are_used_or_left_out_as_they_should_be() {
    let Some(file) = wycheproof("json_web_key_test.json") else { return };
    for (group, test) in cases(&file) {
        let id = test["tcId"].as_u64().unwrap();
        let verifies = verifies(test["jws"].as_str().unwrap(), &keys_of(group));
        // Shared secrets are never used; a set that mixes them with others serves with the others.
        let is_secret = group["private"]["keys"].as_array().unwrap().iter().any(|key| key["kty"] == "oct");
        assert_eq!(verifies, test["result"] == "valid" && !is_secret, "{id}: {}", test["comment"]);
    }
}

#[test]
fn wycheproofs_encrypted_tokens_are_never_accepted() {
    let Some(file) = wycheproof("json_web_encryption_test.json") else { return };
    for (group, test) in cases(&file) {
        if let Some(token) = test["jwe"].as_str() {
            assert!(Compact::split(token).is_err(), "{}: {}", test["tcId"], group["comment"]);
        }
    }
}

#[test]
fn wycheproofs_plain_signatures_verify_as_they_should() {
    let Some(folder) = folder("wycheproof") else { return };
    let mut checked = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let algorithm = match name.as_str() {
            "ed25519_test.json" => Algorithm::EdDSA,
            "ecdsa_secp256r1_sha256_p1363_test.json" => Algorithm::ES256,
            "ecdsa_secp384r1_sha384_p1363_test.json" => Algorithm::ES384,
            "rsa_pss_2048_sha256_mgf1_32_test.json" | "rsa_pss_3072_sha256_mgf1_32_test.json" => Algorithm::PS256,
            "rsa_pss_2048_sha384_mgf1_48_test.json" => Algorithm::PS384,
            "rsa_pss_4096_sha512_mgf1_64_test.json" => Algorithm::PS512,
            name if name.starts_with("rsa_signature_") && name.ends_with("sha256_test.json") => Algorithm::RS256,
            name if name.starts_with("rsa_signature_") && name.ends_with("sha384_test.json") => Algorithm::RS384,
            name if name.starts_with("rsa_signature_") && name.ends_with("sha512_test.json") => Algorithm::RS512,
            _ => continue,
        };
        let file = wycheproof(&name).unwrap();
        for group in file["testGroups"].as_array().unwrap() {
            let jwk = ["publicKeyJwk", "keyJwk"].into_iter().map(|member| &group[member]).find(|jwk| jwk.is_object());
            let Some(jwk) = jwk else { continue };
            let mut jwk = jwk.clone();
            jwk["kid"] = json!("none");
            let reading = jwks::read(set([jwk]).as_bytes()).unwrap();
            let candidates = reading.keys.candidates(Some("none"), algorithm);
            for test in group["tests"].as_array().unwrap() {
                let (message, signature) = (bytes(&test["msg"]), bytes(&test["sig"]));
                let verifies =
                    candidates.as_ref().is_ok_and(|found| found[0].1.verify_sig(&message, &signature).is_ok());
                let is_weak = reading.skipped.contains_key(&Skip::Weak);
                match test["result"].as_str().unwrap() {
                    "valid" => assert!(verifies || is_weak, "{name} {}: {}", test["tcId"], test["comment"]),
                    "invalid" => assert!(!verifies, "{name} {}: {}", test["tcId"], test["comment"]),
                    _ => {}
                }
                checked += 1;
            }
        }
    }
    assert!(checked > 2500, "{checked}");
}

#[test]
fn json_is_read_as_jsontestsuite_says() {
    let Some(folder) = folder("JSONTestSuite/test_parsing") else { return };
    // Valid JSON that no token may hold: members that stand there twice, and NUL.
    let stricter = [
        "y_object_duplicated_key.json",
        "y_object_duplicated_key_and_value.json",
        "y_object_escaped_null_in_key.json",
        "y_string_null_escape.json",
    ];
    let mut refused = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        // Any value, as the member of an object.
        let text = [b"{\"x\":", &fs::read(entry.path()).unwrap()[..], b"}"].concat();
        let is_read = json::object(&text, Bounds { depth: 32, members: 512, name_bytes: 1024 }).is_ok();
        refused += u32::from(!is_read);
        match name.as_bytes().first() {
            Some(b'y') => assert_eq!(is_read, !stricter.contains(&name.as_str()), "{name}"),
            Some(b'n') => assert!(!is_read, "{name}"),
            _ => {}
        }
        // Whatever is open to the reader is refused where texts could be read in two ways.
        if name.contains("surrogate") && name.starts_with('i') || name.contains("utf-8") && name.starts_with('i') {
            assert!(!is_read, "{name}");
        }
    }
    assert!(refused > 180, "{refused}");
}

fn bytes(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap();
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}
