//! The section `api_keys`, and the file of keys that it may name.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::limits::Limits;
use super::problem::nearest;
use super::reader::{Fields, Item, Reader};
use super::values::{self, word};
use super::yaml::{self, TEXT_BYTES_MAX};
use super::{ApiKeys, KeptKeys};
use crate::domain::api_key::{ApiKey, KeyHash, KeyId, LIMITS_MAX, Unsuited, find_key, hash_from_hex, hex, unsuited};
use crate::domain::date as dates;
use crate::domain::policy::Policy;
use crate::domain::time::Micros;

/// The longest name of an owner, a tenant or a role, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// The longest life that can be asked for by its length.
const LIFE_MAX: Micros = Micros::from_secs(3_660 * 24 * 60 * 60);

/// `in_redis`: whether the store is Redis.
pub(super) fn api_keys(reader: &mut Reader<'_>, item: &Item<'_>, limits: &Limits, in_redis: bool) -> Option<ApiKeys> {
    let mut fields = reader.fields(item, "apiKeys")?;
    let listed = fields.optional(reader, "file", |reader, item| key_file(reader, item, limits));
    let shared = fields.or(reader, "redis", false, |reader, item| {
        let shared = reader.flag(item)?;
        if shared && !in_redis {
            reader.error(item, "needs `store.redis`, where the keys are kept; add it, or name a `file`");
        }
        Some(shared)
    });
    let operators = fields.or(reader, "operators", false, |reader, item| reader.flag(item));
    fields.finish(reader);
    let kept = match (listed?, shared?) {
        (Some(keys), false) => KeptKeys::Listed(keys),
        (None, true) => KeptKeys::Redis,
        (Some(_), true) => {
            reader.error(item, "has both `file` and `redis`; keep one, so that it is clear where a key is revoked");
            return None;
        }
        (None, false) => {
            reader.error(item, "must have `file`, or `redis: true`");
            return None;
        }
    };
    Some(ApiKeys { kept, operators: operators? })
}

fn key_file(reader: &mut Reader<'_>, item: &Item<'_>, limits: &Limits) -> Option<Vec<ApiKey>> {
    let (path, bytes) = reader.file(item, TEXT_BYTES_MAX as u64)?;
    reader.within(&path, |reader| match yaml::text(bytes).and_then(|text| tree(&text)) {
        Ok(node) => keys(reader, &Item::root(&node), limits),
        Err(flaw) => {
            reader.flaw(flaw);
            None
        }
    })
}

/// Looks for keys before anything else reads the text: what is wrong is shown, and nothing may show a key.
fn tree(text: &str) -> Result<yaml::Node, yaml::Flaw> {
    match find_key(text) {
        None if text.trim().is_empty() => Err(yaml::Flaw {
            at: Some(yaml::end_of("")),
            message: "is empty; where that is meant, write `[]`".to_owned(),
        }),
        None => yaml::read(text),
        Some(at) => Err(yaml::Flaw {
            at: Some(yaml::end_of(&text[..at])),
            message:
                "has an API key itself, or a part of one, and whoever reads the file could use it; here belongs the \
                      line that `tollgate api-key new` prints below the key. Make a new key, and remove this one"
                    .to_owned(),
        }),
    }
}

pub(super) fn keys(reader: &mut Reader<'_>, item: &Item<'_>, limits: &Limits) -> Option<Vec<ApiKey>> {
    let items = reader.items(item)?;
    let mut places = HashMap::new();
    let mut keys = Vec::new();
    for item in &items {
        let Some(key) = key(reader, item, limits) else { continue };
        if let Some(first) = places.insert(key.id, item.line()) {
            reader.error(item, format!("has the id of the key in line {first}; a key has one line, so remove one"));
        }
        keys.push(key);
    }
    (keys.len() == items.len()).then_some(keys)
}

fn key(reader: &mut Reader<'_>, item: &Item<'_>, limits: &Limits) -> Option<ApiKey> {
    let mut fields = reader.fields(item, "apiKey")?;
    let id = fields.required(reader, "id", |reader, item| reader.parse(item, self::id));
    let hash = fields.required(reader, "sha256", |reader, item| reader.parse_secret(item, |text| self::hash(&text)));
    let owner = fields.required(reader, "owner", |reader, item| reader.parse(item, self::owner));
    let tenant = fields.optional(reader, "tenant", |reader, item| reader.parse(item, self::tenant));
    let scopes = texts(reader, &mut fields, "scopes", scope);
    let roles = texts(reader, &mut fields, "roles", role);
    let limits = fields.or(reader, "limits", Vec::new(), |reader, item| {
        reader.few(item, LIMITS_MAX, |reader, item| named_limit(reader, item, limits))
    });
    let created = fields.optional(reader, "created", moment);
    let not_before = fields.optional(reader, "not_before", moment);
    let expires = fields.optional(reader, "expires", |reader, item| {
        let expires = moment(reader, item)?;
        if not_before.flatten().is_some_and(|first| first >= expires) {
            reader.error(item, "is not after `not_before`, so the key is never good; change one of them");
        }
        Some(expires)
    });
    let revoked = fields.or(reader, "revoked", false, |reader, item| reader.flag(item));
    fields.finish(reader);
    Some(ApiKey {
        id: id?,
        hash: hash?,
        owner: owner?.into(),
        tenant: tenant?.map(Into::into),
        scopes: scopes?,
        roles: roles?,
        limits: limits?.into_iter().map(Into::into).collect(),
        created: created?,
        not_before: not_before?,
        expires: expires?,
        revoked: revoked?,
    })
}

fn texts(
    reader: &mut Reader<'_>,
    fields: &mut Fields<'_>,
    key: &'static str,
    read: fn(&str) -> Result<String, String>,
) -> Option<Box<[Box<str>]>> {
    let texts =
        fields.or(reader, key, Vec::new(), |reader, item| reader.list(item, |reader, item| reader.parse(item, read)));
    Some(texts?.into_iter().map(Into::into).collect())
}

fn moment(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Micros> {
    reader.parse(item, date)
}

fn named_limit(reader: &mut Reader<'_>, item: &Item<'_>, known: &Limits) -> Option<String> {
    let (name, limit) = reader.parse(item, |name| {
        let unknown = || match nearest(name, known.keys().map(String::as_str)) {
            Some(near) => format!("must be the name of a limit; did you mean `{near}`?"),
            None => "must be the name of a limit; add it under `limits` of the configuration".to_owned(),
        };
        known.get(name).map(|limit| (name.to_owned(), limit.clone())).ok_or_else(unknown)
    })?;
    if let Some(why) = limit.as_deref().and_then(unsuited) {
        reader.error(item, said(why));
    }
    Some(name)
}

fn said(why: Unsuited<'_>) -> String {
    match why {
        Unsuited::Attribute(attribute) => format!(
            "counts by {attribute}, which not every call with the key has; count by identity.client (the key), \
             identity.subject (its owner), request.method or rule"
        ),
        Unsuited::Occasion(occasion) => format!(
            "is consumed before anybody knows the key (`charge: {}`); name a limit with `charge: after_auth`",
            occasion.name()
        ),
    }
}

/// Whether keys may name the limit `name` under `policy`; whoever does all the same is refused.
///
/// # Errors
/// Why not.
pub fn suits(name: &str, policy: &Policy) -> Result<(), String> {
    let limit = policy.limit(name).ok_or_else(|| format!("`{name}` is no limit of the configuration"))?;
    unsuited(limit).map_or(Ok(()), |why| Err(format!("`{name}` {}", said(why))))
}

/// Reads a key's id.
///
/// # Errors
/// What it must be. The text may be a key by mistake, and is not to be shown.
pub fn id(text: &str) -> Result<KeyId, String> {
    KeyId::parse(text).ok_or_else(|| "must be the id of a key: 12 letters and digits".to_owned())
}

/// Whom a key speaks for.
///
/// # Errors
/// What it must be.
pub fn owner(text: &str) -> Result<String, String> {
    word("whom the key speaks for", NAME_BYTES_MAX)(text)
}

/// The organisation of a key's owner.
///
/// # Errors
/// What it must be.
pub fn tenant(text: &str) -> Result<String, String> {
    word("the organisation that the owner belongs to", NAME_BYTES_MAX)(text)
}

/// A role of a key.
///
/// # Errors
/// What it must be.
pub fn role(text: &str) -> Result<String, String> {
    word("a role", NAME_BYTES_MAX)(text)
}

/// A scope of a key (RFC 6749 §3.3).
///
/// # Errors
/// What it must be.
pub fn scope(text: &str) -> Result<String, String> {
    values::scope(text)
}

/// The name of a limit of a key, whether there is one or not.
///
/// # Errors
/// What it must be.
pub fn limit(text: &str) -> Result<String, String> {
    values::limit_name(text)
}

/// A moment at which a key begins or ends, since the Unix epoch.
///
/// # Errors
/// What it must be.
pub fn date(text: &str) -> Result<Micros, String> {
    dates::parse(text).ok_or_else(|| {
        "must be a date in UTC, such as 2027-01-31 (its first moment) or 2027-01-31T12:00:00Z".to_owned()
    })
}

/// How long a key goes on, up to ten years.
///
/// # Errors
/// What it must be.
pub fn duration(text: &str) -> Result<Micros, String> {
    values::duration(Micros::ZERO..=LIFE_MAX)(text)
}

/// The SHA-256 of a key. Says nothing of the text: somebody may have put the key there.
fn hash(text: &str) -> Result<KeyHash, String> {
    hash_from_hex(text).ok_or_else(|| {
        "must be the SHA-256 of the key, in 64 hexadecimal digits; `tollgate api-key new` prints it".into()
    })
}

/// The line of a key, as it stands in the file.
pub fn line(key: &ApiKey) -> String {
    let ApiKey { id, hash, owner, tenant, scopes, roles, limits, created, not_before, expires, revoked } = key;
    let mut line = format!("- {{ id: \"{id}\", sha256: \"{}\", owner: {}", hex(hash), quoted(owner));
    if let Some(tenant) = tenant {
        let _ = write!(line, ", tenant: {}", quoted(tenant));
    }
    for (name, texts) in [("scopes", scopes), ("roles", roles), ("limits", limits)] {
        if !texts.is_empty() {
            let texts: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
            let _ = write!(line, ", {name}: [{}]", texts.join(", "));
        }
    }
    for (name, moment) in [("created", created), ("not_before", not_before), ("expires", expires)] {
        if let Some(moment) = moment {
            let _ = write!(line, ", {name}: \"{}\"", dates::written(*moment));
        }
    }
    if *revoked {
        line.push_str(", revoked: true");
    }
    line.push_str(" }");
    line
}

/// As a string of YAML, which JSON's is, too; nothing in it refers to the environment.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text.replace("${", "$${")).to_string()
}
