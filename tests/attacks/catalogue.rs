//! The list of attacks, as the files beside this one have it.

use std::fs;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::recipe::Recipe;
use crate::support::liar::Says;
use crate::support::root;

/// Where the list is, in the order in which docs/threats.md tells of it.
const FILES: [&str; 8] = [
    "form.yaml",
    "algorithms.yaml",
    "headers.yaml",
    "signatures.yaml",
    "claims.yaml",
    "transport.yaml",
    "keys.yaml",
    "proofs.yaml",
];

/// Attacks of one kind.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Section {
    /// The file's name.
    #[serde(skip)]
    pub file: String,
    pub title: String,
    pub attacks: Vec<Attack>,
}

/// One attack.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Attack {
    pub id: u16,
    /// What is tried.
    #[serde(rename = "attack")]
    pub aim: String,
    /// What Tollgate does.
    pub answer: String,
    /// Questions over gRPC, each with the answer that it must get; see [`Try`].
    #[serde(default)]
    tries: Vec<Value>,
    /// Configurations that are refused.
    #[serde(default)]
    pub refused: Vec<RefusedConfiguration>,
    /// Tests that show it otherwise: a file and a function in it.
    #[serde(default)]
    pub shown: Vec<String>,
    /// What is not tested yet, and where it belongs.
    #[serde(default)]
    pub not_yet: Option<String>,
}

/// A configuration that leads to a problem.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RefusedConfiguration {
    pub yaml: String,
    /// Part of what is said about it.
    pub says: String,
}

/// One question and its answer.
#[derive(Debug, Deserialize)]
pub(super) struct Try {
    /// `allow`, a reason, or `not well-formed` where no decision is made.
    pub expect: String,
    /// Whom the token claims to come from.
    #[serde(default)]
    pub issuer: IssuerOf,
    #[serde(default)]
    pub method: Option<String>,
    #[serde(default)]
    pub path: Option<String>,
    /// How it is shown.
    #[serde(default)]
    pub shown_as: ShownAs,
    /// `DPoP` proofs that come with it.
    #[serde(default)]
    pub proofs: Vec<Recipe>,
    /// The answer to the same question, asked once more.
    #[serde(default)]
    pub again: Option<String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// Whom a token claims to come from.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum IssuerOf {
    /// One that all tries share.
    Shared(String),
    /// One for this try alone.
    Own(OwnIssuer),
}

impl Default for IssuerOf {
    fn default() -> Self {
        Self::Shared("usual".to_owned())
    }
}

/// An issuer for one try alone.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct OwnIssuer {
    /// Keys of its set; by default, `k`.
    pub keys: Option<Vec<PublishedKey>>,
    /// What is at the URL of its keys instead of a set.
    pub serves: Option<Says>,
    /// Its keys are found by discovery, and this is its metadata; `{base}` is the server, `{issuer}` the issuer.
    pub metadata: Option<Map<String, Value>>,
    /// It is asked about its tokens, and answers that; in the place of keys.
    pub introspection: Option<Answers>,
    /// Further settings of it, as in the configuration.
    pub settings: Map<String, Value>,
}

/// What an issuer answers who is asked about a token.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answers {
    /// Anything.
    Serves(Says),
    /// That the token is active, with the claims of a good one and these.
    Active(Map<String, Value>),
}

/// A key as an issuer publishes it.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum PublishedKey {
    /// The key of a signer.
    Whole(String),
    /// The key of a signer, with other members.
    Changed {
        of: String,
        #[serde(default)]
        with: Map<String, Value>,
        #[serde(default)]
        without: Vec<String>,
    },
    /// Any JSON.
    Literal { jwk: Value },
}

/// How a token is shown.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ShownAs {
    /// As a bearer token.
    #[default]
    Bearer,
    /// As an API key.
    ApiKey,
    /// In the value of an `Authorization` header; `{token}` is the token.
    Authorization(String),
}

/// Reads the whole list.
pub(super) fn read() -> Vec<Section> {
    let read = |file: &&str| {
        let path = root().join("tests/attacks").join(file);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
        let section: Section = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
        Section { file: (*file).to_owned(), ..section }
    };
    FILES.iter().map(read).collect()
}

impl Attack {
    /// The tries. One with `each` stands for one with each of those values; `fill` stands for a long text.
    pub(super) fn tries(&self) -> Vec<(Try, Recipe)> {
        let tries = self.tries.iter().flat_map(expanded);
        tries.map(|value| read_try(value).unwrap_or_else(|why| panic!("attack {}: {why}", self.id))).collect()
    }
}

fn read_try(value: Value) -> Result<(Try, Recipe), serde_json::Error> {
    let mut asked: Try = serde_json::from_value(value)?;
    let rest = std::mem::take(&mut asked.rest);
    Ok((asked, serde_json::from_value(Value::Object(rest))?))
}

fn expanded(value: &Value) -> Vec<Value> {
    let mut value = value.clone();
    let members = value.as_object_mut().expect("a try is a mapping");
    if let Some(fill) = members.remove("fill") {
        let times = fill["times"].as_u64().and_then(|times| usize::try_from(times).ok()).expect("how often to repeat");
        let text = fill["text"].as_str().expect("a text to repeat").repeat(times);
        value = with(&value, "{fill}", &Value::String(text));
    }
    let Some(each) = value.as_object_mut().and_then(|members| members.remove("each")) else { return vec![value] };
    let each = each.as_array().expect("a list of values");
    each.iter().map(|one| with(&value, "{each}", one)).collect()
}

/// The same with `what` for `name`: whole values keep their type, parts of texts become text.
fn with(value: &Value, name: &str, what: &Value) -> Value {
    match value {
        Value::String(text) if text == name => what.clone(),
        Value::String(text) => {
            Value::String(text.replace(name, &what.as_str().map_or_else(|| what.to_string(), str::to_owned)))
        }
        Value::Array(list) => list.iter().map(|value| with(value, name, what)).collect(),
        Value::Object(members) => members
            .iter()
            .map(|(key, value)| (key.replace(name, what.as_str().unwrap_or(name)), with(value, name, what)))
            .collect(),
        other => other.clone(),
    }
}
