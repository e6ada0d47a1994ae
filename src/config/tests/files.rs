//! Files: the configuration's own, and those that it refers to.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;

/// A folder with these files.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

/// What loading `t.yaml` says, the folder left out.
fn said(folder: &TempDir) -> String {
    let path = folder.path().join("t.yaml");
    match load(&path, &environment) {
        Ok((_, warnings)) => format!("{warnings:?}"),
        Err(problems) => problems.to_string().replace(&format!("{}/", folder.path().display()), ""),
    }
}

const RULES: &str = "rules: [{ match: { path: /** }, permit: anyone }]\n";
const KEYS: &[u8] = br#"{"keys":[{"kty":"EC","crv":"P-256","x":"a","y":"b"}]}"#;
const CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n";

#[test]
fn references_to_files_start_at_the_configurations_folder() {
    let yaml = format!(
        "{RULES}
issuers: [{{ issuer: partner, audiences: [a], jwks: {{ file: keys.json }} }}]
store:
  redis:
    urls: [{{ file: ./url }}]
    password: {{ file: '${{FOLDER}}/password' }}
    ca: ca.pem
"
    );
    let folder = folder(&[
        ("t.yaml", yaml.as_bytes()),
        ("keys.json", KEYS),
        ("url", b"rediss://127.0.0.1:6379\r\n"),
        ("password", b" pass word \n"),
        ("ca.pem", CERTIFICATE),
    ]);
    let place = folder.path().display().to_string();
    let (config, warnings) =
        load(&folder.path().join("t.yaml"), &|name| (name == "FOLDER").then(|| place.clone())).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(config.issuers[0].keys, KeySource::File(folder.path().join("keys.json")));
    let Store::Redis(redis) = &config.store else { panic!() };
    assert_eq!(redis.reach, Reach::Servers(vec![Secret::new("rediss://127.0.0.1:6379".to_owned())]));
    assert_eq!(redis.password.as_ref().map(Secret::reveal), Some(" pass word "));
    assert_eq!(redis.ca, Some(folder.path().join("ca.pem")));
    let files: Vec<PathBuf> =
        ["./url", "ca.pem", "keys.json", "password"].iter().map(|name| folder.path().join(name)).collect();
    let mut sorted = files;
    sorted.sort();
    assert_eq!(config.files, sorted);
}

#[test]
fn a_certificate_its_key_and_the_clients_authorities_are_read_and_belong_together() {
    let holder = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap().pem();
        (certificate, key.serialize_pem())
    };
    let ((a, key), (b, other_key)) = (holder("a"), holder("b"));
    let yaml = "listen: { tls: { cert: a.pem, key: a.key, client_ca: ca.pem } }\n".to_owned() + RULES;
    let with = |cert: &str, key: &str, ca: &str| {
        let files = [("t.yaml", &*yaml), ("a.pem", cert), ("a.key", key), ("ca.pem", ca)];
        folder(&files.map(|(name, text)| (name, text.as_bytes())))
    };
    let good = with(&(a.clone() + &b), &key, &b);
    let (config, _) = load(&good.path().join("t.yaml"), &environment).unwrap();
    let tls = config.tls.clone().unwrap();
    assert!(matches!(&tls.clients, Clients::Required(authorities) if authorities.len() == 1));
    assert_eq!((tls.chain.len(), config.files.len()), (2, 3));
    let secret: String = key.lines().nth(1).unwrap().chars().take(20).collect();
    assert!(!format!("{config:?}").contains(&secret));
    assert!(Config::default().needs_restart(&config).is_empty(), "its files may change, and so may it");

    let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    for (cert, key, ca, expected) in [
        (&*a, &*other_key, &*b, "listen.tls.key: the key is not that of the certificate in a.pem; name the two"),
        (&(b.clone() + &a), &key, &b, "listen.tls.key: the key is not that of the first certificate in a.pem; put its"),
        (&a, &encrypted, &b, "listen.tls.key: the key in the file is encrypted; store it without a passphrase"),
        (&a, &a, &b, "listen.tls.key: the file has no private key in PEM form"),
        (&a, &(key.clone() + &other_key), &b, "listen.tls.key: the file has more than one private key"),
        (&a, "", &b, "listen.tls.key: the file has no private key in PEM form"),
        (&key, &key, &b, "listen.tls.cert: the file has no certificate in PEM form"),
        (
            "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n",
            &key,
            &b,
            "listen.tls.cert: the file must be one X.509",
        ),
        (&a, &key, "", "listen.tls.client_ca: the file has no certificate in PEM form"),
        (&a, &key, "-----BEGIN CERTIFICATE-----\nMA==\n", "listen.tls.client_ca: the file is not well-formed PEM"),
    ] {
        let said = said(&with(cert, key, ca));
        assert!(said.contains(expected) && !said.contains(&secret), "{expected}\n{said}");
    }
}

#[test]
fn files_that_are_not_what_they_should_be_are_problems() {
    let issuer = |file: &str| format!("issuers: [{{ issuer: p, audiences: [a], jwks: {{ file: {file} }} }}]\n");
    let redis = |rest: &str| format!("store: {{ redis: {{ urls: ['rediss://h'], {rest} }} }}\n");
    let large = vec![b' '; 600 * 1024];
    for (yaml, file, expected) in [
        (
            issuer("none.json"),
            &b""[..],
            "cannot be read (No such file or directory (os error 2)); relative paths start at the configuration file's folder",
        ),
        (
            issuer("file"),
            b"nonsense",
            "the file is not JSON: expected ident at line 1 column 2; it must hold a JWK Set",
        ),
        (
            issuer("file"),
            b"",
            "the file is not JSON: EOF while parsing a value at line 1 column 0; it must hold a JWK Set",
        ),
        (issuer("file"), b"[]", "the file has no list `keys`; it must hold a JWK Set"),
        (issuer("file"), br#"{"keys":[]}"#, "the file has no key; it must hold a JWK Set"),
        (issuer("file"), br#"{"keys":[1]}"#, "the file has a key (number 0) that is no object; it must hold a JWK Set"),
        (
            issuer("file"),
            br#"{"keys":[{"kty":"oct","k":"hunter2"}]}"#,
            "the file has a key (number 0) that is symmetric: whoever verifies with it could forge; it must hold a JWK Set",
        ),
        (
            issuer("file"),
            br#"{"keys":[{"kty":"EC","d":"hunter2"}]}"#,
            "the file has a key (number 0) that has the private part `d`; only the public part belongs here; it must hold a JWK Set",
        ),
        (
            issuer("file"),
            &large,
            "is larger than 524288 bytes; relative paths start at the configuration file's folder",
        ),
        (
            redis("password: { file: none }"),
            b"",
            "cannot be read (No such file or directory (os error 2)); relative paths start at the configuration file's folder",
        ),
        (
            redis("password: { file: . }"),
            b"",
            "cannot be read (Is a directory (os error 21)); relative paths start at the configuration file's folder",
        ),
        (redis("password: { file: file }"), b"\n", "is empty; remove it where there is no password"),
        (redis("password: { file: file }"), b"hunter2\xff", "the file is not UTF-8 text"),
        (
            redis("password: { file: file }"),
            &large,
            "is larger than 65536 bytes; relative paths start at the configuration file's folder",
        ),
        (redis("password: { path: file }"), b"", "must have `file`"),
        (
            redis("ca: file"),
            b"-----BEGIN PRIVATE KEY-----",
            "the file has no certificate in PEM form (`-----BEGIN CERTIFICATE-----`)",
        ),
    ] {
        let folder = folder(&[("t.yaml", format!("{RULES}{yaml}").as_bytes()), ("file", file)]);
        let said = said(&folder);
        assert!(said.starts_with("t.yaml:2:") && said.contains(&format!(": {expected}")), "{yaml}{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[test]
fn a_file_that_is_no_text_is_a_problem_of_the_file() {
    for (bytes, expected) in [
        (&b"rules: []\nlimits: \xff"[..], "t.yaml:2:9: is not UTF-8; save the file in UTF-8"),
        (b"\xff\xfe{\0}\0", "t.yaml:1:1: is not UTF-8; save the file in UTF-8"),
        (b"rules: []\0\nlimits: 7\n", "t.yaml:1:10: has the control character U+0000; remove it"),
        (b"", "t.yaml:1:1: is empty; where that is meant, write `{}`"),
    ] {
        assert_eq!(said(&folder(&[("t.yaml", bytes)])), expected);
    }
    let folder = folder(&[]);
    assert_eq!(said(&folder), "t.yaml: cannot be read (No such file or directory (os error 2))");
    fs::create_dir(folder.path().join("t.yaml")).unwrap();
    assert_eq!(said(&folder), "t.yaml: cannot be read (Is a directory (os error 21))");
}

#[test]
fn a_file_of_ten_megabytes_is_refused_without_being_read_whole() {
    let folder = folder(&[("t.yaml", &vec![b'#'; 10 << 20])]);
    assert_eq!(said(&folder), "t.yaml: is larger than 4194304 bytes");
}
