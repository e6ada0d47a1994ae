//! The sections `listen`, `store` and `bounds`.

use std::path::PathBuf;

use url::Url;

use super::reader::{Item, Reader};
use super::values::{address, duration, word};
use super::{Bounds, Listen, Redis, Secret, Store};
use crate::domain::time::Micros;

/// The most calls in flight that can be asked for.
const CALLS_IN_FLIGHT_MAX: u64 = 1_000_000;

/// Certificate authorities: a system's whole bundle fits.
const CA_BYTES_MAX: u64 = 1 << 20;

pub(super) fn listen(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Listen> {
    let default = Listen::default();
    let mut fields = reader.fields(item, "listen")?;
    let grpc = fields.or(reader, "grpc", default.grpc, |reader, item| reader.parse(item, address));
    let admin = fields.or(reader, "admin", default.admin, |reader, item| reader.parse(item, address));
    fields.finish(reader);
    let listen = Listen { grpc: grpc?, admin: admin? };
    // Port 0 is any free one.
    if listen.grpc == listen.admin && listen.grpc.port() != 0 {
        reader.error(item, format!("`grpc` and `admin` are both {}; choose another port for one", listen.grpc));
    }
    Some(listen)
}

pub(super) fn store(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Store> {
    let mut fields = reader.fields(item, "store")?;
    let redis = fields.required(reader, "redis", redis);
    fields.finish(reader);
    redis.map(Store::Redis)
}

fn redis(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Redis> {
    let mut fields = reader.fields(item, "redis")?;
    let url = fields.required(reader, "urls", one_url);
    let username = fields.optional(reader, "username", |reader, item| reader.parse(item, word("a user's name", 256)));
    let password = fields.optional(reader, "password", |reader, item| reader.parse_secret(item, password));
    let ca = fields.optional(reader, "ca", |reader, item| {
        let path = certificates(reader, item);
        if matches!(url, Some((_, false))) {
            reader.error(item, "is of use with a rediss:// URL only; change the URL or remove this");
        }
        path
    });
    let deadlines = Micros::from_millis(1)..=Micros::from_secs(10);
    let deadline =
        fields.or(reader, "deadline", Redis::DEADLINE, |reader, item| reader.parse(item, duration(deadlines)));
    fields.finish(reader);
    Some(Redis { url: url?.0, username: username?, password: password?, ca: ca?, deadline: deadline? })
}

/// The URL, and whether it asks for TLS.
fn one_url(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<(Secret, bool)> {
    let items = reader.items(item)?;
    match items.as_slice() {
        [item] => reader.parse_secret(item, redis_url),
        [] => {
            reader.error(item, "is empty; name one server, such as redis://127.0.0.1:6379");
            None
        }
        [_, second, ..] => {
            reader.error(second, "clusters are not supported: name one server only");
            None
        }
    }
}

/// Says nothing of the text: it may hold a password.
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
    Ok((Secret::new(text), encrypted))
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

pub(super) fn bounds(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Bounds> {
    let default = Bounds::default();
    let mut fields = reader.fields(item, "bounds")?;
    let calls_in_flight = fields.or(reader, "calls_in_flight", default.calls_in_flight, |reader, item| {
        reader.whole(item, 1..=CALLS_IN_FLIGHT_MAX).and_then(|calls| usize::try_from(calls).ok())
    });
    let drains = Micros::ZERO..=Micros::from_secs(600);
    let drain = fields.or(reader, "drain", default.drain, |reader, item| reader.parse(item, duration(drains)));
    fields.finish(reader);
    Some(Bounds { calls_in_flight: calls_in_flight?, drain: drain? })
}
