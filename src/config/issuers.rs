//! The section `issuers`.

use serde_json::{Map, Value as Json};

use super::claims::{self, claim_paths, role_claims, scope_claims};
use super::connection::connection;
use super::introspection::introspection;
use super::reader::{Fields, Item, Reader};
use super::values::{discoverable, duration, fetchable, word};
use crate::domain::connection::Connection;
use crate::domain::event::Events;
use crate::domain::introspection::Introspection;
use crate::domain::issuer::{Algorithm, BindingDemand, Issuer, KeySource, NEVER_ACCESS_TOKENS};
use crate::domain::revocation::CLOCK_AHEAD_MAX;
use crate::domain::secret::Secret;
use crate::domain::status::StatusLists;
use crate::domain::time::Micros;

/// The longest key set: what may be fetched, too.
const JWKS_BYTES_MAX: u64 = 512 * 1024;

/// The longest name of an issuer, audience or claim.
pub(super) const TEXT_BYTES_MAX: usize = 1024;

/// Members of a JWK that only the holder of the private key has (RFC 7518 §6.2.2, §6.3.2).
const PRIVATE_MEMBERS: [&str; 7] = ["d", "p", "q", "dp", "dq", "qi", "oth"];

/// Defaults of an issuer's settings.
pub(super) mod defaults {
    use super::Micros;

    /// As most peers have it.
    pub(crate) const LEEWAY: Micros = Micros::from_secs(60);
    /// So that a revocation is remembered for a day at most.
    pub(crate) const MAX_TOKEN_LIFETIME: Micros = Micros::from_secs(24 * 60 * 60);
    /// Long enough to mend a provider, short enough that a stolen key does not serve for ever.
    pub(crate) const STALE_FOR: Micros = Micros::from_secs(24 * 60 * 60);
    /// Unknown key ids come from attackers too.
    pub(crate) const REFRESH_COOLDOWN: Micros = Micros::from_secs(30);
}

pub(super) fn issuers(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Vec<Issuer>> {
    let items = reader.items(item)?;
    let mut issuers: Vec<Issuer> = Vec::new();
    for item in &items {
        let Some(issuer) = issuer(reader, item) else { continue };
        if issuers.iter().any(|other| other.issuer == issuer.issuer) {
            reader.error(item, "has the same `issuer` as an earlier one; a token's `iss` must lead to one of them");
            continue;
        }
        issuers.push(issuer);
    }
    super::introspection::check_prefixes(reader, item, &issuers);
    (issuers.len() == items.len()).then_some(issuers)
}

fn issuer(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Issuer> {
    let mut fields = reader.fields(item, "issuer")?;
    let connection = fields.or(reader, "connection", Connection::default(), connection);
    // Nothing is said of what may be right.
    let plain_http = connection.as_ref().is_none_or(|connection| connection.plain_http);
    let shows_certificate = connection.as_ref().is_none_or(|connection| connection.certificate.is_some());
    let is_shared = fields.has("secret");
    if is_shared && fields.has("jwks") {
        reader.error(item, "has both `jwks` and `secret`; keep one: whoever verifies with a secret could forge");
    }
    let has_keys = is_shared || fields.has("jwks");
    let introspection = fields.optional(reader, "introspection", |reader, item| {
        introspection(reader, item, plain_http, shows_certificate).map(|read| Introspection { all: !has_keys, ..read })
    });
    // Whoever is asked about every token needs no keys, but for signed answers.
    let keyless = introspection.iter().flatten().any(|introspection| !introspection.signed);
    let unsaid = if keyless { KeySource::Unneeded } else { KeySource::Discovery };
    let is_found = introspection.iter().flatten().any(|introspection| introspection.url.is_none());
    let keys = fields.or(reader, "jwks", unsaid, |reader, item| jwks(reader, item, plain_http));
    let name = fields.required(reader, "issuer", |reader, item| match keys {
        _ if is_found => reader.parse(item, |text| discoverable(text, plain_http)),
        Some(KeySource::Discovery) if !is_shared => reader.parse(item, |text| discoverable(text, plain_http)),
        _ => reader.parse(item, word("the tokens' `iss`", TEXT_BYTES_MAX)),
    });
    let audiences = fields.required(reader, "audiences", |reader, item| words(reader, item, "an audience"));
    let profile = fields.optional(reader, "profile", |reader, item| reader.one_of(item, &PROFILES)).flatten();
    let algorithms = algorithms(reader, &mut fields, profile, is_shared);
    let secret = fields.optional(reader, "secret", |reader, item| secret(reader, item, algorithms.as_deref()));
    let keys = match secret {
        Some(Some(secret)) => Some(KeySource::Secret(secret)),
        Some(None) => keys,
        None => None,
    };
    let operators = fields.or(reader, "operators", false, |reader, item| reader.flag(item));
    let (types, untyped) = types(reader, &mut fields, profile);
    let leeway = time(reader, &mut fields, "leeway", defaults::LEEWAY, (Micros::ZERO, Micros::from_secs(300)));
    let ahead = (Micros::ZERO, CLOCK_AHEAD_MAX);
    let clock_ahead = time(reader, &mut fields, "clock_ahead", Micros::ZERO, ahead);
    let days = |days: u64| Micros::from_secs(days * 24 * 60 * 60);
    let lifetimes = (Micros::from_secs(1), days(366));
    let max_token_lifetime = time(reader, &mut fields, "max_token_lifetime", defaults::MAX_TOKEN_LIFETIME, lifetimes);
    let binding = fields.or(reader, "binding", BindingDemand::Nothing, binding);
    let required_claims = fields.or(reader, "required_claims", Vec::new(), |reader, item| {
        reader.list(item, |reader, item| reader.parse(item, word("a claim's name", TEXT_BYTES_MAX)))
    });
    let required_claims = required_claims.map(|claims| with_those_of(claims, profile));
    let ages = Micros::from_secs(1)..=days(366);
    let max_age = fields.optional(reader, "max_age", |reader, item| reader.parse(item, duration(ages)));
    let tenant = fields.optional(reader, "tenant_claim", claims::single_claim);
    let chosen = fields.or(reader, "claims", Vec::new(), claims::chosen_claims);
    let scope_claims = fields.or(reader, "scope_claims", scope_claims(), claim_paths);
    let of_audiences = role_claims(audiences.as_deref().unwrap_or_default());
    let role_claims = fields.or(reader, "role_claims", of_audiences, claim_paths);
    let stale_for = time(reader, &mut fields, "stale_for", defaults::STALE_FOR, (Micros::ZERO, days(30)));
    let cooldowns = (Micros::from_secs(1), Micros::from_secs(3600));
    let refresh_cooldown = time(reader, &mut fields, "refresh_cooldown", defaults::REFRESH_COOLDOWN, cooldowns);
    let events = fields.optional(reader, "events", |reader, item| {
        if keys == Some(KeySource::Unneeded) {
            reader.error(item, "are signed, and the issuer has no keys here; add `jwks`, or remove this");
        }
        events(reader, item, plain_http)
    });
    let status_lists = fields
        .or(reader, "status_lists", StatusLists::default(), |reader, item| status_lists(reader, item, plain_http));
    fields.finish(reader);
    Some(Issuer {
        issuer: name?,
        audiences: audiences?,
        algorithms: algorithms?,
        operators: operators?,
        types: types?,
        untyped: untyped?,
        leeway: leeway?,
        clock_ahead: clock_ahead?,
        max_token_lifetime: max_token_lifetime?,
        binding: binding?,
        max_age: max_age?,
        svid: profile == Some(Profile::Svid),
        required_claims: required_claims?,
        scope_claims: scope_claims?,
        role_claims: role_claims?,
        tenant: tenant?,
        claims: chosen?,
        keys: keys?,
        introspection: introspection?,
        events: events?,
        status_lists: status_lists?,
        connection: connection?,
        stale_for: stale_for?,
        refresh_cooldown: refresh_cooldown?,
    })
}

fn time(
    reader: &mut Reader<'_>,
    fields: &mut Fields<'_>,
    key: &'static str,
    default: Micros,
    (shortest, longest): (Micros, Micros),
) -> Option<Micros> {
    fields.or(reader, key, default, |reader, item| reader.parse(item, duration(shortest..=longest)))
}

pub(super) fn binding(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<BindingDemand> {
    reader.one_of(
        item,
        &[
            ("required", BindingDemand::AnyKey),
            ("certificate", BindingDemand::Certificate),
            ("dpop", BindingDemand::Dpop),
        ],
    )
}

/// What the issuer tells of sessions and accounts.
fn events(reader: &mut Reader<'_>, item: &Item<'_>, plain_http: bool) -> Option<Events> {
    let mut fields = reader.fields(item, "events")?;
    let audiences = fields.required(reader, "audiences", |reader, item| words(reader, item, "an audience"));
    let poll = fields.optional(reader, "poll", |reader, item| {
        reader.parse(item, |text| fetchable(text, plain_http).map(|_| text.to_owned()))
    });
    fields.finish(reader);
    Some(Events { audiences: audiences?, poll: poll? })
}

/// Which status lists are asked.
fn status_lists(reader: &mut Reader<'_>, item: &Item<'_>, plain_http: bool) -> Option<StatusLists> {
    let mut fields = reader.fields(item, "statusLists")?;
    let check = fields.or(reader, "check", true, |reader, item| reader.flag(item));
    let origins = fields.or(reader, "origins", Vec::new(), |reader, item| {
        reader.some(item, |reader, item| reader.parse(item, |text| origin(text, plain_http)))
    });
    fields.finish(reader);
    Some(StatusLists { check: check?, origins: origins? })
}

/// A server, without a place on it.
fn origin(text: &str, plain_http: bool) -> Result<String, String> {
    let url = fetchable(text, plain_http)?;
    let origin = url.origin().ascii_serialization();
    let is_bare = text.trim_end_matches('/') == origin;
    if is_bare { Ok(origin) } else { Err(format!("must be a server without a path, such as {origin}")) }
}

fn words(reader: &mut Reader<'_>, item: &Item<'_>, what: &'static str) -> Option<Vec<String>> {
    reader.some(item, |reader, item| reader.parse(item, word(what, TEXT_BYTES_MAX)))
}

/// By default those with public keys that the profile allows. Those with a secret are named, or there are none.
fn algorithms(
    reader: &mut Reader<'_>,
    fields: &mut Fields<'_>,
    profile: Option<Profile>,
    is_shared: bool,
) -> Option<Vec<Algorithm>> {
    let is_allowed = |algorithm: &Algorithm| profile.is_none_or(|profile| profile.allows(*algorithm));
    let read = |reader: &mut Reader<'_>, item: &Item<'_>| {
        reader.some(item, |reader, item| {
            let algorithm = reader.parse(item, algorithm)?;
            match algorithm.secret_bytes_min() {
                Some(_) if !is_shared => reader.error(item, "is for a `secret`, and there are public keys; remove it"),
                None if is_shared => reader.error(item, "is for public keys, and there is a `secret`; remove it"),
                Some(_) | None if !is_allowed(&algorithm) => {
                    reader.error(item, "is no algorithm of the `profile`; remove it");
                }
                Some(_) | None => {}
            }
            Some(algorithm)
        })
    };
    if is_shared {
        return fields.needed(reader, "algorithms", read);
    }
    let usual = Algorithm::ASYMMETRIC.into_iter().filter(is_allowed).collect();
    fields.or(reader, "algorithms", usual, read)
}

/// A secret that is long enough for the algorithms (RFC 7518 §3.2): what is guessed offline is forged online.
fn secret(reader: &mut Reader<'_>, item: &Item<'_>, algorithms: Option<&[Algorithm]>) -> Option<Secret> {
    let least = algorithms.unwrap_or_default().iter().filter_map(|algorithm| algorithm.secret_bytes_min()).max();
    reader.parse_secret(item, |text| match least {
        Some(least) if text.len() < least => {
            Err(format!("must have {least} bytes or more, as its algorithms need; make it of random ones"))
        }
        _ => Ok(Secret::new(text)),
    })
}

/// The claims that are demanded, with those of the profile.
fn with_those_of(mut claims: Vec<String>, profile: Option<Profile>) -> Vec<String> {
    for claim in profile.iter().flat_map(|profile| profile.required_claims()) {
        if !claims.iter().any(|own| own == claim) {
            claims.push((*claim).to_owned());
        }
    }
    claims
}

fn algorithm(text: &str) -> Result<Algorithm, String> {
    Algorithm::from_name(text).ok_or_else(|| {
        let names = Algorithm::ASYMMETRIC.map(Algorithm::name).join(", ");
        format!("must be one of {names}, or, with a `secret`, of HS256, HS384, HS512; `none` is refused")
    })
}

/// A standard that an issuer's tokens are held to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Profile {
    /// RFC 9068: access tokens that say so.
    AccessToken,
    /// SPIFFE's JWT-SVID.
    Svid,
}

const PROFILES: [(&str, Profile); 2] = [("rfc9068", Profile::AccessToken), ("spiffe", Profile::Svid)];

impl Profile {
    /// RFC 9068 §4; JWT-SVID §2.3. Without `application/`.
    fn types(self) -> Vec<String> {
        let types: &[&str] = match self {
            Self::AccessToken => &["at+jwt"],
            Self::Svid => &["jwt", "jose"],
        };
        types.iter().map(|&name| name.to_owned()).collect()
    }

    /// Those that are not demanded anyway: RFC 9068 §2.2; JWT-SVID §3.
    const fn required_claims(self) -> &'static [&'static str] {
        match self {
            Self::AccessToken => &["sub", "client_id", "jti"],
            Self::Svid => &["sub"],
        }
    }

    /// RFC 9068 §2.1 names none; JWT-SVID §2.1 leaves `EdDSA` out.
    fn allows(self, algorithm: Algorithm) -> bool {
        self == Self::AccessToken || (algorithm != Algorithm::EdDSA && algorithm.secret_bytes_min().is_none())
    }
}

/// The accepted types, and whether a token may have none. Whoever lists types wants one of them to be there.
fn types(
    reader: &mut Reader<'_>,
    fields: &mut Fields<'_>,
    profile: Option<Profile>,
) -> (Option<Vec<String>>, Option<bool>) {
    let mut listed = false;
    let usual = profile.map_or_else(|| vec!["at+jwt".to_owned(), "jwt".to_owned()], Profile::types);
    let settled = |reader: &mut Reader<'_>, item: &Item<'_>| {
        if profile.is_some() {
            reader.error(item, "is settled by `profile` already; remove one of them");
        }
    };
    let types = fields.or(reader, "types", usual, |reader, item| {
        listed = true;
        settled(reader, item);
        reader.some(item, |reader, item| reader.parse(item, token_type))
    });
    let usual = if profile.is_some() { profile == Some(Profile::Svid) } else { !listed };
    let untyped = fields.or(reader, "untyped", usual, |reader, item| {
        settled(reader, item);
        reader.flag(item)
    });
    (types, untyped)
}

/// A media type of tokens, compared without case and `application/` (RFC 7515 §4.1.9).
fn token_type(text: &str) -> Result<String, String> {
    let name = text.to_ascii_lowercase();
    let name = name.strip_prefix("application/").unwrap_or(&name);
    if NEVER_ACCESS_TOKENS.contains(&name) {
        return Err("must be a type of access tokens, such as at+jwt or JWT".to_owned());
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte);
    if (1..=127).contains(&name.len()) && name.bytes().all(allowed) {
        return Ok(name.to_owned());
    }
    Err("must be the value of a `typ` header, such as at+jwt or JWT".to_owned())
}

fn jwks(reader: &mut Reader<'_>, item: &Item<'_>, plain_http: bool) -> Option<KeySource> {
    let mut fields = reader.fields(item, "jwks")?;
    let url = fields.optional(reader, "url", |reader, item| {
        reader.parse(item, |text| fetchable(text, plain_http).map(|_| KeySource::Url(text.to_owned())))
    });
    let file = fields.optional(reader, "file", key_file);
    let keys = fields.optional(reader, "keys", inline_keys);
    fields.finish(reader);
    let sources: Vec<KeySource> = [url?, file?, keys?].into_iter().flatten().collect();
    if let Ok([source]) = <[KeySource; 1]>::try_from(sources) {
        return Some(source);
    }
    reader.error(item, "must have exactly one of `url`, `file` and `keys`");
    None
}

fn key_file(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<KeySource> {
    let (path, bytes) = reader.file(item, JWKS_BYTES_MAX)?;
    match serde_json::from_slice::<Json>(&bytes)
        .map_err(|error| format!("is not JSON: {error}"))
        .and_then(|set| key_set(&set))
    {
        Ok(()) => Some(KeySource::File(path)),
        Err(why) => {
            reader.error(item, format!("the file {why}; it must hold a JWK Set, `{{\"keys\": [...]}}`"));
            None
        }
    }
}

/// What a JWK Set must be before it is looked at closely (RFC 7517 §5). Says nothing of values.
fn key_set(set: &Json) -> Result<(), String> {
    let keys = set.get("keys").and_then(Json::as_array).ok_or("has no list `keys`")?;
    if keys.is_empty() {
        return Err("has no key".to_owned());
    }
    keys.iter().enumerate().try_for_each(|(index, key)| {
        let key = key.as_object().ok_or_else(|| format!("has a key (number {index}) that is no object"))?;
        public_key(key).map_err(|why| format!("has a key (number {index}) that {why}"))
    })
}

fn public_key(key: &Map<String, Json>) -> Result<(), String> {
    match key.get("kty").and_then(Json::as_str) {
        None => Err("has no `kty`".to_owned()),
        Some("oct") => Err("is symmetric: whoever verifies with it could forge".to_owned()),
        Some(_) => match PRIVATE_MEMBERS.iter().find(|member| key.contains_key(**member)) {
            Some(member) => Err(format!("has the private part `{member}`; only the public part belongs here")),
            None => Ok(()),
        },
    }
}

fn inline_keys(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<KeySource> {
    let keys = reader.some(item, |reader, item| {
        let Json::Object(key) = reader.json(item)? else {
            reader.error(item, "must be a JWK: a mapping with `kty` and the public key's members");
            return None;
        };
        public_key(&key).map_err(|why| reader.error(item, why)).ok()?;
        Some(Json::Object(key))
    })?;
    let mut set = Map::new();
    set.insert("keys".to_owned(), Json::Array(keys));
    Some(KeySource::Inline(Json::Object(set).to_string()))
}
