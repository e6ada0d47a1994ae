//! The schema and the reference page, held to what the reader knows.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use jsonschema::Validator;
use serde_json::{Map, Value as Json};

use super::problems::cases;
use super::*;

fn schema() -> Json {
    serde_json::from_str(SCHEMA).unwrap()
}

fn validator() -> Validator {
    jsonschema::draft202012::new(&schema()).unwrap()
}

/// What an editor sees; none where there is no YAML.
fn json(yaml: &str) -> Option<Json> {
    yaml::read(yaml).ok().map(|root| value(&root.value))
}

fn value(value: &yaml::Value) -> Json {
    let of = self::value;
    match value {
        yaml::Value::List(nodes) => nodes.iter().map(|node| of(&node.value)).collect(),
        yaml::Value::Mapping(entries) => {
            Json::Object(entries.iter().map(|entry| (entry.key.clone(), of(&entry.value.value))).collect())
        }
        yaml::Value::Scalar(scalar) => match scalar.kind() {
            yaml::PlainKind::Nothing => Json::Null,
            yaml::PlainKind::Text => Json::String(scalar.text.clone()),
            // What is no JSON, such as `yes`, is a string to most editors.
            yaml::PlainKind::Boolean | yaml::PlainKind::Number => {
                serde_json::from_str(&scalar.text).unwrap_or_else(|_| Json::String(scalar.text.clone()))
            }
        },
    }
}

/// The sections of the schema: the root, and every definition that is a mapping with keys of its own.
fn sections(schema: &Json) -> BTreeMap<String, &Map<String, Json>> {
    let definitions = schema["$defs"].as_object().unwrap();
    let sections = definitions.iter().filter(|(_, section)| section["properties"].is_object());
    let sections = sections.map(|(name, section)| (name.clone(), section.as_object().unwrap()));
    sections.chain([("configuration".to_owned(), schema.as_object().unwrap())]).collect()
}

/// Every section's keys, as the reader asks for them, and whether they are required.
fn known() -> BTreeMap<&'static str, BTreeMap<&'static str, bool>> {
    let mut reader = Reader::new(Path::new("t.yaml"), &environment);
    let sentinel = "store: { redis: { sentinel: { urls: [redis://a] } } }";
    let revocation = "revocation: { file: r }";
    let certificates = "{ listen: { tls: { cert: c, key: k } }, certificates: {}, operators: {} }";
    for yaml in [EVERYTHING, "store: { redis: { urls: [{ file: none }] } }", sentinel, certificates, revocation] {
        let root = yaml::read(yaml).unwrap();
        config(&mut reader, &Item::root(&root));
    }
    let mut limits = tempfile::NamedTempFile::new().unwrap();
    limits.write_all(LIMITS.as_bytes()).unwrap();
    let limits = format!("envoy_ratelimit: {{ files: ['{}'], domains: {{ d: {{}} }} }}", limits.path().display());
    let root = yaml::read(&limits).unwrap();
    config(&mut reader, &Item::root(&root));
    let keys = yaml::read("[{ id: x }]").unwrap();
    api_keys::keys(&mut reader, &Item::root(&keys), &limits::Limits::new());
    reader.known
}

/// A file of limits by descriptors in which every key is asked for.
const LIMITS: &str = "{ domain: d, descriptors: [{ key: k, rate_limit: { replaces: [{}], algorithm: token_bucket }, \
                      rate_limits: [{ algorithm: token_bucket }] }] }";

#[test]
fn the_schema_has_the_keys_that_the_reader_knows_and_no_others() {
    let schema = schema();
    let known = known();
    let sections = sections(&schema);
    assert_eq!(sections.keys().map(String::as_str).collect::<Vec<_>>(), known.keys().copied().collect::<Vec<_>>());
    for (name, section) in sections {
        let required = section.get("required").and_then(Json::as_array).cloned().unwrap_or_default();
        let keys = section["properties"].as_object().unwrap().keys();
        let keys: BTreeMap<&str, bool> =
            keys.map(|key| (key.as_str(), required.iter().any(|name| name == key))).collect();
        assert_eq!(keys, known[name.as_str()], "{name}");
        assert_eq!(section["additionalProperties"], false, "{name}");
        assert!(required.len() <= keys.len(), "{name}");
    }
}

#[test]
fn every_key_of_the_schema_is_described_and_its_examples_and_defaults_are_good() {
    let schema = schema();
    for (name, section) in sections(&schema) {
        for (key, property) in section["properties"].as_object().unwrap() {
            assert!(property["description"].as_str().is_some_and(|text| text.ends_with('.')), "{name}.{key}");
            let mut part = property.clone();
            part["$defs"] = schema["$defs"].clone();
            let validator = jsonschema::draft202012::new(&part).unwrap();
            let examples = property.get("examples").and_then(Json::as_array).cloned().unwrap_or_default();
            for value in examples.iter().chain(property.get("default")) {
                assert!(validator.is_valid(value), "{name}.{key}: {value}");
            }
        }
    }
}

#[test]
fn the_schemas_defaults_are_the_readers() {
    let text = "issuers: [{ issuer: https://a.example, audiences: [a] }]\nrules: [{ match: { path: /** } }]\n";
    let without = good(text);
    let schema = schema();
    let default = |section: &str, key: &str| {
        let default = &schema["$defs"][section]["properties"][key]["default"];
        assert!(!default.is_null(), "{section}.{key}");
        default.to_string()
    };
    // JSON is YAML: the schema's defaults, written out, make the same configuration.
    let all = |section: &str, keys: &[&str]| {
        keys.iter().map(|key| format!("{key}: {}", default(section, key))).collect::<Vec<_>>().join(", ")
    };
    let issuer = all(
        "issuer",
        &[
            "algorithms",
            "types",
            "leeway",
            "clock_ahead",
            "max_token_lifetime",
            "required_claims",
            "scope_claims",
            "stale_for",
            "refresh_cooldown",
        ],
    );
    let with = format!(
        "listen: {{ {} }}
bounds: {{ {} }}
gateways: {{ {} }}
revocation: {{ {} }}
issuers: [{{ issuer: https://a.example, audiences: [a], untyped: true, {issuer} }}]
rules: [{{ match: {{ path: /** }} }}]
",
        all("listen", &["grpc", "http", "admin"]),
        all("bounds", &["calls_in_flight", "drain", "remembered_tokens"]),
        all("gateways", &["trusted_hops", "forwarded_certificates", "forward_auth_peers"]),
        all("revocation", &["max_lag", "when_behind"]),
    );
    assert_eq!(good(&with), without);
    let redis = format!("{text}store: {{ redis: {{ urls: [redis://a], {} }} }}", all("redis", &["deadline"]));
    let Store::Redis(redis) = good(&redis).store else { panic!() };
    assert_eq!(redis.deadline, Redis::DEADLINE);
    let limit = good(&format!(
        "{text}limits: {{ a: {{ units: 1, window: 1s, {} }} }}",
        all("limit", &["by", "when_away", "charge"])
    ));
    assert_eq!(
        *limit.policy.limits[0],
        *good(&format!("{text}limits: {{ a: {{ units: 1, window: 1s }} }}")).policy.limits[0]
    );
}

#[test]
fn what_the_reader_accepts_the_schema_accepts() {
    let example = include_str!("../../../deploy/tollgate.example.yaml");
    let sentinel = "store: { redis: { sentinel: { urls: [redis://a], service: m, username: u, password: p } } }";
    for yaml in [EVERYTHING, example, "{}", sentinel] {
        let errors: Vec<String> = validator()
            .iter_errors(&json(yaml).unwrap())
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert_eq!(errors, [""; 0], "{yaml}");
    }
    for case in cases().iter().filter(|case| read(case.yaml).is_ok()) {
        assert!(validator().is_valid(&json(case.yaml).unwrap()), "{}\n{}", case.name, case.yaml);
    }
}

#[test]
fn the_schema_sees_the_problems_that_it_can_see() {
    for case in cases() {
        let seen = json(case.yaml).is_some_and(|json| !validator().is_valid(&json));
        assert_eq!(seen, case.by_schema, "{}\n{}", case.name, case.yaml);
    }
}

#[test]
fn the_reference_describes_every_key() {
    let page = include_str!("../../../docs/configuration.md");
    let (_, tables) = page.split_once(TABLES).unwrap();
    let expected = reference();
    assert!(tables == expected, "docs/configuration.md should have, below its last remark:\n{expected}");
}

/// The remark below which the page is made of the schema.
const TABLES: &str = "<!-- From here on the page is made of the schema; a test holds it to that. -->\n";

/// The sections in the order in which they are met in a configuration.
fn reference() -> String {
    let schema = schema();
    let mut page = String::new();
    for (section, title) in [
        ("configuration", "The whole"),
        ("listen", "`listen`"),
        ("tls", "`listen.tls`"),
        ("store", "`store`"),
        ("redis", "`store.redis`"),
        ("sentinel", "`store.redis.sentinel`"),
        ("secretFile", "Secrets in files"),
        ("issuer", "An entry of `issuers`"),
        ("jwks", "`jwks` of an issuer"),
        ("introspection", "`introspection` of an issuer"),
        ("events", "`events` of an issuer"),
        ("statusLists", "`status_lists` of an issuer"),
        ("connection", "`connection` of an issuer"),
        ("apiKeys", "`api_keys`"),
        ("apiKey", "An entry of the file of `api_keys`"),
        ("certificates", "`certificates`"),
        ("operators", "`operators`"),
        ("client", "An entry of `clients`"),
        ("limit", "An entry of `limits`"),
        ("envoyRatelimit", "`envoy_ratelimit`"),
        ("ratelimitDomain", "An entry of `domains` of `envoy_ratelimit`"),
        ("ratelimitFile", "A file of `envoy_ratelimit`"),
        ("ratelimitDescriptor", "An entry of `descriptors`"),
        ("ratelimitLimit", "`rate_limit` of a descriptor"),
        ("ratelimitFurther", "An entry of `rate_limits`"),
        ("ratelimitReplaced", "An entry of `replaces`"),
        ("rule", "An entry of `rules`"),
        ("match", "`match` of a rule"),
        ("require", "`require` of a rule"),
        ("sources", "`sources` of a rule"),
        ("pathReading", "`path`"),
        ("revocation", "`revocation`"),
        ("dpop", "`dpop`"),
        ("gateways", "`gateways`"),
        ("bounds", "`bounds`"),
    ] {
        let section = sections(&schema)[section].clone();
        let description = section["description"].as_str().unwrap();
        let _ = write!(
            page,
            "\n## {title}\n\n{description}\n\n| key | type | default | meaning |\n| --- | --- | --- | --- |\n"
        );
        let required = section.get("required").and_then(Json::as_array).cloned().unwrap_or_default();
        for (key, property) in section["properties"].as_object().unwrap() {
            let default = match property.get("default") {
                _ if required.iter().any(|name| name == key) => "**required**".to_owned(),
                Some(default) => format!("`{}`", plain(default)),
                None => String::new(),
            };
            let meaning = property["description"].as_str().unwrap().replace('|', "\\|");
            let _ = writeln!(page, "| `{key}` | {} | {default} | {meaning} |", kind(&schema, property));
        }
    }
    page.push_str("\n## Types\n\n| type | what it is |\n| --- | --- |\n");
    for definition in schema["$defs"].as_object().unwrap().values() {
        if let Some(title) = definition["title"].as_str() {
            let description = definition["description"].as_str().unwrap().replace('|', "\\|");
            let _ = writeln!(page, "| {title} | {description} |");
        }
    }
    page
}

/// A default as one would write it.
fn plain(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        Json::Array(values) => format!("[{}]", values.iter().map(plain).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// What a property holds, in a word or two.
fn kind(schema: &Json, property: &Json) -> String {
    if let Some(name) = property["$ref"].as_str() {
        let definition = schema.pointer(name.strip_prefix('#').unwrap()).unwrap();
        return definition["title"].as_str().unwrap_or("section").to_owned();
    }
    if let Some(choices) = property["anyOf"].as_array() {
        // That a reference may stand instead goes without saying.
        let kinds: Vec<String> = choices.iter().map(|choice| kind(schema, choice)).collect();
        let kinds: Vec<String> = kinds.into_iter().filter(|kind| kind != "reference").collect();
        return kinds.join(" or ");
    }
    if let Some(names) = property["enum"].as_array() {
        return names.iter().map(|name| format!("`{}`", plain(name))).collect::<Vec<_>>().join(" or ");
    }
    match property["type"].as_str() {
        Some("array") => format!("list of {}", kind(schema, &property["items"])),
        Some("object") if property.get("additionalProperties").is_some() => "mapping by name".to_owned(),
        Some("object") => "mapping".to_owned(),
        Some("integer") => "whole number".to_owned(),
        Some("boolean") => "true or false".to_owned(),
        Some(other) => other.to_owned(),
        None => "anything".to_owned(),
    }
}
