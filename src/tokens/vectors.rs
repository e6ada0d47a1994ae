//! Other people's test vectors: Wycheproof's and those of `JSONTestSuite`. They lie beside the project, in `../shared/vectors` or
//! where `TOLLGATE_VECTORS` says; where they do not, these tests say so and pass.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests, which say when they are skipped")]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::json::{self, Bounds};
use super::jwk::Skip;
use super::jwks::{self, KeySet};
use super::jwt::Compact;
use super::mint::set;
use crate::domain::decision::Reason;
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
    ("HS256: no shared secrets in key sets", &[1, 348, 352, 357, 358, 359, 373, 376, 377]),
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
fn wycheproofs_mixtures_of_keys_and_tokens_end_as_they_should() {
    let Some(file) = wycheproof("json_web_crypto_test.json") else { return };
    for (group, test) in cases(&file) {
        let id = &test["tcId"];
        let Some(token) = test["jws"].as_str() else {
            // Encrypted ones, in both of their forms.
            let text = test["jwe"].as_str().map_or_else(|| test["jwe"].to_string(), str::to_owned);
            assert!(Compact::split(&text).is_err(), "{id}: {}", test["comment"]);
            continue;
        };
        let private = &group["private"];
        let is_secret = [private, &private["keys"][0]].iter().any(|key| key["kty"] == "oct");
        let expected = test["result"] == "valid" && !is_secret;
        assert_eq!(verifies(token, &keys_of(group)), expected, "{id}: {}", test["comment"]);
    }
}

#[test]
fn wycheproofs_tags_verify_with_a_secret_that_an_issuer_shares() {
    let mut accepted = 0;
    for name in ["json_web_signature_test.json", "json_web_crypto_test.json"] {
        let Some(file) = wycheproof(name) else { return };
        for (group, test) in cases(&file) {
            let (Some(token), Some(secret)) = (test["jws"].as_str(), group["private"]["k"].as_str()) else { continue };
            let keys = KeySet::secret(&URL_SAFE_NO_PAD.decode(secret).unwrap());
            let decoded = Compact::split(token).and_then(Compact::decode);
            let verifies = decoded.is_ok_and(|decoded| decoded.is_signed_by(&Algorithm::SYMMETRIC, &keys));
            accepted += u32::from(verifies);
            let id = test["tcId"].as_u64().unwrap();
            let expected = match id {
                // A `?` within base64url.
                372 | 373 => false,
                // Padding that the file itself has lost: these are the very bytes of the valid 357.
                367 | 370 => true,
                _ => test["result"] == "valid",
            };
            assert_eq!(verifies, expected, "{name} {id}: {}", test["comment"]);
        }
    }
    assert!(accepted >= 5, "{accepted}");
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

/// Signatures that no algorithm of ours has, well made or not: the length of a salt is the hash's (RFC 7518 §3.5), and P-521
/// is not among the curves that are verified with.
const FOREIGN: [&str; 3] = [
    "rsa_pss_2048_sha256_mgf1_0_test.json",
    "rsa_pss_4096_sha512_mgf1_32_test.json",
    "ecdsa_secp521r1_sha512_p1363_test.json",
];

#[test]
fn wycheproofs_plain_signatures_verify_as_they_should() {
    let Some(folder) = folder("wycheproof") else { return };
    let mut checked = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let algorithm = match name.as_str() {
            "ed25519_test.json" => Algorithm::EdDSA,
            "ecdsa_secp256r1_sha256_p1363_test.json" => Algorithm::ES256,
            "ecdsa_secp384r1_sha384_p1363_test.json" | "ecdsa_secp521r1_sha512_p1363_test.json" => Algorithm::ES384,
            "rsa_pss_2048_sha256_mgf1_0_test.json"
            | "rsa_pss_2048_sha256_mgf1_32_test.json"
            | "rsa_pss_3072_sha256_mgf1_32_test.json" => Algorithm::PS256,
            "rsa_pss_2048_sha384_mgf1_48_test.json" => Algorithm::PS384,
            "rsa_pss_4096_sha512_mgf1_32_test.json" | "rsa_pss_4096_sha512_mgf1_64_test.json" => Algorithm::PS512,
            name if name.starts_with("rsa_signature_") && name.ends_with("sha256_test.json") => Algorithm::RS256,
            name if name.starts_with("rsa_signature_") && name.ends_with("sha384_test.json") => Algorithm::RS384,
            name if name.starts_with("rsa_signature_") && name.ends_with("sha512_test.json") => Algorithm::RS512,
            _ => continue,
        };
        let is_never_good = FOREIGN.contains(&name.as_str());
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
                    "valid" if is_never_good => assert!(!verifies, "{name} {}: {}", test["tcId"], test["comment"]),
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

#[test]
fn json_that_parsers_read_in_several_ways_is_refused_or_read_in_one() {
    let Some(folder) = folder("JSONTestSuite/test_transform") else { return };
    let mut refused = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let text = [b"{\"x\":", &fs::read(entry.path()).unwrap()[..], b"}"].concat();
        if json::object(&text, Bounds { depth: 32, members: 512, name_bytes: 1024 }).is_err() {
            refused.insert(name);
        }
    }
    // Members that stand there twice, halves of pairs, and NUL. Names are not folded, so NFC and NFD are two; numbers of
    // any length are numbers.
    let expected = [
        "object_same_key_different_values.json",
        "object_same_key_same_value.json",
        "object_same_key_unclear_values.json",
        "string_1_escaped_invalid_codepoint.json",
        "string_1_invalid_codepoint.json",
        "string_2_escaped_invalid_codepoints.json",
        "string_2_invalid_codepoints.json",
        "string_3_escaped_invalid_codepoints.json",
        "string_3_invalid_codepoints.json",
        "string_with_escaped_NULL.json",
    ];
    assert_eq!(refused, expected.map(str::to_owned).into());
}

/// A file of the cookbook (RFC 7520, and RFCs that came after it).
fn cookbook(name: &str) -> Option<Value> {
    Some(serde_json::from_slice(&fs::read(folder("jose-cookbook")?.join(name)).unwrap()).unwrap())
}

#[test]
fn the_cookbooks_signatures_verify_where_their_algorithm_is_ours() {
    for (name, expected) in [
        ("jws/4_1.rsa_v15_signature.json", true),
        ("jws/4_2.rsa-pss_signature.json", true),
        ("curve25519/jws.json", true),
        // P-521 is none of ours, and a shared secret is no key of a set.
        ("jws/4_3.ecdsa_signature.json", false),
        ("jws/4_4.hmac-sha2_integrity_protection.json", false),
        // The payload is elsewhere, or not encoded.
        ("jws/4_5.signature_with_detached_content.json", false),
        ("rfc7797/hmac-sha2_b64_false.json", false),
    ] {
        let Some(example) = cookbook(name) else { return };
        let keys = jwks::read(set([example["input"]["key"].clone()]).as_bytes()).unwrap().keys;
        assert_eq!(verifies(example["output"]["compact"].as_str().unwrap(), &keys), expected, "{name}");
        for form in ["json", "json_flat"] {
            assert!(Compact::split(&example["output"][form].to_string()).is_err(), "{name}: {form} is no token");
        }
    }
}

#[test]
fn the_cookbooks_encrypted_tokens_are_never_accepted() {
    let Some(folder) = folder("jose-cookbook/jwe") else { return };
    let mut seen = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let example: Value = serde_json::from_slice(&fs::read(entry.unwrap().path()).unwrap()).unwrap();
        if let Some(token) = example["output"]["compact"].as_str() {
            assert_eq!(Compact::split(token).err(), Some(Reason::EncryptedToken), "{}", example["title"]);
            seen += 1;
        }
    }
    assert!(seen >= 9, "{seen}");
    let nested = cookbook("6.nesting_signatures_and_encryption.json").unwrap();
    let token = nested["encrypt"]["output"]["compact"].as_str().unwrap();
    assert_eq!(Compact::split(token).err(), Some(Reason::EncryptedToken));
}

#[test]
fn the_cookbooks_keys_are_used_or_left_out_for_their_reason() {
    for (name, expected) in [
        ("jwk/3_1.ec_public_key.json", Some(Skip::Unsupported)),
        ("jwk/3_2.ec_private_key.json", Some(Skip::Unsupported)),
        ("jwk/3_3.rsa_public_key.json", None),
        ("jwk/3_4.rsa_private_key.json", None),
        ("jwk/3_5.symmetric_key_mac_computation.json", Some(Skip::Symmetric)),
        ("jwk/3_6.symmetric_key_encryption.json", Some(Skip::Symmetric)),
    ] {
        let Some(key) = cookbook(name) else { return };
        let reading = jwks::read(set([key]).as_bytes()).unwrap();
        assert_eq!(reading.skipped.keys().next().copied(), expected, "{name}");
        assert_eq!(reading.keys.len(), usize::from(expected.is_none()), "{name}");
    }
}

fn bytes(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap();
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}
