//! The sections `listen`, `store`, `revocation`, `dpop` and `bounds`.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use url::Url;

use super::reader::{Fields, Item, Reader};
use super::tls::{Tls, tls};
use super::values::{address, duration, word};
use super::{Bounds, Dpop, Listen, Reach, Redis, Revocation, Secret, Sentinel, Store};
use crate::domain::revocation::{Trust, WhenBehind};
use crate::domain::time::Micros;

/// The most calls in flight that can be asked for.
const CALLS_IN_FLIGHT_MAX: u64 = 1_000_000;

/// Tokens that can be remembered: fewer save hardly any memory, and more take up some 10 GB.
const REMEMBERED_TOKENS: RangeInclusive<u64> = 1_000..=10_000_000;

/// Servers that can be named: of a cluster and of Sentinels, one that answers suffices.
const URLS_MAX: usize = 16;

/// Certificate authorities: a system's whole bundle fits.
const CA_BYTES_MAX: u64 = 1 << 20;

/// The shortest secret that nonces are made with.
const NONCE_SECRET_BYTES_MIN: usize = 32;

pub(super) fn listen(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<(Listen, Option<Tls>)> {
    let default = Listen::default();
    let mut fields = reader.fields(item, "listen")?;
    let grpc = fields.or(reader, "grpc", default.grpc, |reader, item| reader.parse(item, address));
    let http = fields.or(reader, "http", default.http, |reader, item| reader.parse(item, address));
    let admin = fields.or(reader, "admin", default.admin, |reader, item| reader.parse(item, address));
    let tls = fields.optional(reader, "tls", tls);
    fields.finish(reader);
    let listen = Listen { grpc: grpc?, http: http?, admin: admin? };
    let Listen { grpc, http, admin } = listen;
    for (one, other, address, same) in
        [("grpc", "http", grpc, http), ("grpc", "admin", grpc, admin), ("http", "admin", http, admin)]
    {
        // Port 0 is any free one.
        if address == same && address.port() != 0 {
            reader.error(item, format!("`{one}` and `{other}` are both {address}; choose another port for one"));
        }
    }
    Some((listen, tls?))
}

pub(super) fn store(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Store> {
    let mut fields = reader.fields(item, "store")?;
    let redis = fields.required(reader, "redis", redis);
    fields.finish(reader);
    redis.map(Store::Redis)
}

fn redis(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Redis> {
    let mut fields = reader.fields(item, "redis")?;
    let sentinel = fields.optional(reader, "sentinel", sentinel);
    let reach = match (fields.has("sentinel"), fields.item(reader, "urls")) {
        (true, named) => {
            if let Some(urls) = named {
                reader.error(&urls, "names servers, and `sentinel` says who is asked for them; remove one of the two");
            }
            sentinel.flatten().map(|(sentinel, tls)| (Reach::Sentinel(sentinel), tls))
        }
        (false, Some(item)) => {
            let read = servers(reader, &item);
            if !fields.has("password") && matches!(&read, Some((urls, _)) if urls.iter().any(lacks_password)) {
                reader
                    .error(&item, "names a user without a password, who is of no use; add it there, or as `password`");
            }
            read.map(|(urls, tls)| (Reach::Servers(urls), tls))
        }
        (false, None) => {
            reader.error(item, "must have `urls`, or `sentinel`");
            None
        }
    };
    let proved = match &reach {
        Some((Reach::Servers(urls), _)) => urls.iter().any(holds_password),
        Some((Reach::Sentinel(_), _)) => false,
        // Nothing is said of what may be right.
        None => true,
    };
    let user = user(reader, &mut fields, proved);
    let ca = fields.optional(reader, "ca", |reader, item| {
        let path = certificates(reader, item);
        if matches!(reach, Some((_, false))) {
            reader.error(item, "is of use with a rediss:// URL only; change the URL or remove this");
        }
        path
    });
    let deadlines = Micros::from_millis(1)..=Micros::from_secs(10);
    let deadline =
        fields.or(reader, "deadline", Redis::DEADLINE, |reader, item| reader.parse(item, duration(deadlines)));
    fields.finish(reader);
    let (username, password) = user?;
    Some(Redis { reach: reach?.0, username, password, ca: ca?, deadline: deadline? })
}

/// A user and its password, each if it is there. Redis is told a name with a password only: without one, whoever asks
/// would be the default user. `proved`: the URL has one.
fn user(reader: &mut Reader<'_>, fields: &mut Fields<'_>, proved: bool) -> Option<(Option<String>, Option<Secret>)> {
    let has_password = fields.has("password");
    let username = fields.optional(reader, "username", |reader, item| {
        if !proved && !has_password {
            reader.error(item, "is of use with a password only; add `password`, or remove this for the default user");
        }
        reader.parse(item, word("a user's name", 256))
    });
    let password = fields.optional(reader, "password", |reader, item| reader.parse_secret(item, password));
    Some((username?, password?))
}

fn holds_password(url: &Secret) -> bool {
    Url::parse(url.reveal()).is_ok_and(|url| url.password().is_some())
}

/// Whether it names a user, and nothing that proves it.
fn lacks_password(url: &Secret) -> bool {
    Url::parse(url.reveal()).is_ok_and(|url| !url.username().is_empty() && url.password().is_none())
}

/// The Sentinels, and whether they and the master are reached by TLS.
fn sentinel(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<(Sentinel, bool)> {
    let mut fields = reader.fields(item, "sentinel")?;
    let urls = fields.required(reader, "urls", |reader, item| urls(reader, item, &one_of_several));
    let service = fields.required(reader, "service", |reader, item| {
        reader.parse(item, word("the name by which the Sentinels know the master", 256))
    });
    let user = user(reader, &mut fields, false);
    fields.finish(reader);
    let (urls, tls) = urls?;
    let (username, password) = user?;
    Some((Sentinel { urls, service: service?, username, password }, tls))
}

/// One server, or several nodes of a cluster; and whether they are reached by TLS.
fn servers(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<(Vec<Secret>, bool)> {
    if reader.items(item)?.len() == 1 {
        return urls(reader, item, &redis_url);
    }
    urls(reader, item, &one_of_several)
}

/// The URLs, at least one, and whether they ask for TLS, which all do or none.
fn urls(
    reader: &mut Reader<'_>,
    item: &Item<'_>,
    read: &dyn Fn(String) -> Result<(Secret, bool), String>,
) -> Option<(Vec<Secret>, bool)> {
    let items = reader.items(item)?;
    if items.is_empty() {
        reader.error(item, "is empty; name at least one server, such as redis://127.0.0.1:6379");
        return None;
    }
    if let Some(first_too_many) = items.get(URLS_MAX) {
        reader.error(first_too_many, format!("is one too many; {URLS_MAX} suffice, since each knows the others"));
        return None;
    }
    let mut read_all = Some((Vec::new(), None));
    for item in &items {
        let Some((url, tls)) = reader.parse_secret(item, read) else {
            read_all = None;
            continue;
        };
        let Some((urls, of_all)) = &mut read_all else { continue };
        if *of_all.get_or_insert(tls) != tls {
            reader.error(
                item,
                "is with TLS and others are not, or the reverse; begin all with redis://, or all with rediss://",
            );
        }
        urls.push(url);
    }
    read_all.map(|(urls, tls)| (urls, tls.unwrap_or(false)))
}

/// The URL, and whether it asks for TLS. Says nothing of the text: it may hold a password.
fn redis_url(text: String) -> Result<(Secret, bool), String> {
    let must = "must be a URL such as redis://127.0.0.1:6379 or rediss://redis.example.com:6380/0 (TLS), \
                with nothing behind the database's number";
    let url = Url::parse(&text).map_err(|_| must.to_owned())?;
    let encrypted = match url.scheme() {
        "redis" => false,
        "rediss" => true,
        _ => return Err(must.to_owned()),
    };
    let database = url.path().trim_start_matches('/');
    let numbered = database.is_empty() || database.parse::<u16>().is_ok();
    let clean = text.chars().all(|c| c.is_ascii_graphic());
    if !numbered || !clean || !url.has_host() || url.query().is_some() || url.fragment().is_some() {
        return Err(must.to_owned());
    }
    if url.port() == Some(0) {
        return Err("must have a port from 1 to 65535; no server can be reached at port 0".to_owned());
    }
    Ok((Secret::new(text), encrypted))
}

/// A URL that says only where a server is: what holds for all of them is said once.
fn one_of_several(text: String) -> Result<(Secret, bool), String> {
    let (secret, encrypted) = redis_url(text)?;
    let url = Url::parse(secret.reveal()).map_err(|error| error.to_string())?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must be without user and password; say them once, as `username` and `password`".to_owned());
    }
    if !matches!(url.path(), "" | "/" | "/0") {
        return Err("must be without a database's number; clusters have database 0 only, and it is used behind \
                    Sentinels, too"
            .to_owned());
    }
    Ok((secret, encrypted))
}

fn password(text: String) -> Result<Secret, String> {
    if text.is_empty() {
        return Err("is empty; remove it where there is no password".to_owned());
    }
    Ok(Secret::new(text))
}

fn certificates(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<PathBuf> {
    let (path, bytes) = reader.file(item, CA_BYTES_MAX)?;
    let begin = b"-----BEGIN CERTIFICATE-----";
    if !bytes.windows(begin.len()).any(|window| window == begin) {
        reader.error(item, "the file has no certificate in PEM form (`-----BEGIN CERTIFICATE-----`)");
        return None;
    }
    Some(path)
}

/// `in_redis`: whether the store is Redis.
pub(super) fn revocation(reader: &mut Reader<'_>, item: &Item<'_>, in_redis: bool) -> Option<Revocation> {
    let default = Trust::default();
    let mut fields = reader.fields(item, "revocation")?;
    // A replica asks what is new every 400 ms, so that one answer may fail and it is not behind.
    let lags = Micros::from_secs(1)..=Micros::from_secs(3_600);
    let max_lag = fields.or(reader, "max_lag", default.max_lag, |reader, item| reader.parse(item, duration(lags)));
    let when_behind = fields.or(reader, "when_behind", default.when_behind, |reader, item| {
        reader.one_of(item, &[("ask", WhenBehind::Ask), ("deny", WhenBehind::Deny), ("allow", WhenBehind::Allow)])
    });
    let file = fields.optional(reader, "file", |reader, item| {
        if in_redis {
            reader.error(item, "is for the memory store: with `store.redis` they are kept there; remove it");
        }
        reader.path(item)
    });
    fields.finish(reader);
    Some(Revocation { trust: Trust { max_lag: max_lag?, when_behind: when_behind? }, file: file? })
}

pub(super) fn dpop(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Dpop> {
    let mut fields = reader.fields(item, "dpop")?;
    let nonce_secret = fields.optional(reader, "nonce_secret", |reader, item| reader.parse_secret(item, nonce_secret));
    fields.finish(reader);
    Some(Dpop { nonce_secret: nonce_secret? })
}

/// As long as the hash that it keys (RFC 2104 §3). Says nothing of the text.
fn nonce_secret(text: String) -> Result<Secret, String> {
    if text.len() < NONCE_SECRET_BYTES_MIN {
        return Err(format!(
            "must have at least {NONCE_SECRET_BYTES_MIN} bytes, drawn at random, such as `openssl rand -base64 32` prints"
        ));
    }
    Ok(Secret::new(text))
}

pub(super) fn bounds(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Bounds> {
    let default = Bounds::default();
    let mut fields = reader.fields(item, "bounds")?;
    let calls_in_flight = fields.or(reader, "calls_in_flight", default.calls_in_flight, |reader, item| {
        reader.whole(item, 1..=CALLS_IN_FLIGHT_MAX).and_then(|calls| usize::try_from(calls).ok())
    });
    let drains = Micros::ZERO..=Micros::from_secs(600);
    let drain = fields.or(reader, "drain", default.drain, |reader, item| reader.parse(item, duration(drains)));
    let remembered_tokens = fields.or(reader, "remembered_tokens", default.remembered_tokens, |reader, item| {
        reader.whole(item, REMEMBERED_TOKENS).and_then(|tokens| usize::try_from(tokens).ok())
    });
    fields.finish(reader);
    Some(Bounds { calls_in_flight: calls_in_flight?, drain: drain?, remembered_tokens: remembered_tokens? })
}
