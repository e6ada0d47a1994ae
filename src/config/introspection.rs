//! The section `introspection` of an issuer.

use super::reader::{Item, Reader};
use super::values::{duration, fetchable, word};
use crate::domain::api_key;
use crate::domain::introspection::{ClientAuth, Introspection};
use crate::domain::issuer::Issuer;
use crate::domain::secret::Secret;
use crate::domain::time::Micros;

/// Defaults of how an issuer is asked.
pub(super) mod defaults {
    use super::Micros;

    /// So that a token which its issuer takes back is not good for long.
    pub(crate) const CACHE: Micros = Micros::from_secs(30);
    /// On the path of a request; connecting to another continent fits.
    pub(crate) const DEADLINE: Micros = Micros::from_secs(2);
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Auth {
    Basic,
    Post,
    Mtls,
}

pub(super) fn introspection(
    reader: &mut Reader<'_>,
    item: &Item<'_>,
    plain_http: bool,
    shows_certificate: bool,
) -> Option<Introspection> {
    let mut fields = reader.fields(item, "introspection")?;
    let url = fields.optional(reader, "url", |reader, item| {
        reader.parse(item, |text| fetchable(text, plain_http).map(|_| text.to_owned()))
    });
    let client_id = fields.required(reader, "client_id", |reader, item| reader.parse(item, client_id));
    let methods = [("basic", Auth::Basic), ("post", Auth::Post), ("mtls", Auth::Mtls)];
    let auth = fields.or(reader, "auth", Auth::Basic, |reader, item| reader.one_of(item, &methods));
    let auth = match auth {
        Some(Auth::Mtls) => {
            if !shows_certificate {
                reader
                    .error(item, "has `auth: mtls`, which needs `certificate` and `key` in the issuer's `connection`");
            }
            if let Some(secret) = fields.item(reader, "client_secret") {
                reader.error(&secret, "is of no use with `auth: mtls`; remove it");
            }
            Some(ClientAuth::Mtls)
        }
        Some(Auth::Basic) => client_secret(reader, &mut fields).map(ClientAuth::Basic),
        Some(Auth::Post) => client_secret(reader, &mut fields).map(ClientAuth::Post),
        None => {
            fields.item(reader, "client_secret");
            None
        }
    };
    let caches = Micros::ZERO..=Micros::from_secs(300);
    let cache = fields.or(reader, "cache", defaults::CACHE, |reader, item| reader.parse(item, duration(caches)));
    let deadlines = Micros::from_millis(10)..=Micros::from_secs(10);
    let deadline =
        fields.or(reader, "deadline", defaults::DEADLINE, |reader, item| reader.parse(item, duration(deadlines)));
    let signed = fields.or(reader, "jwt", false, |reader, item| reader.flag(item));
    let prefix = fields.optional(reader, "prefix", |reader, item| reader.parse(item, prefix));
    fields.finish(reader);
    Some(Introspection {
        url: url?,
        client_id: client_id?,
        auth: auth?,
        cache: cache?,
        deadline: deadline?,
        signed: signed?,
        prefix: prefix?,
        all: true,
    })
}

fn client_secret(reader: &mut Reader<'_>, fields: &mut super::reader::Fields<'_>) -> Option<Secret> {
    fields.needed(reader, "client_secret", |reader, item| {
        reader.parse_secret(item, |text| {
            let fits = !text.is_empty() && !text.chars().any(char::is_control);
            fits.then(|| Secret::new(text))
                .ok_or("must be a client's secret: not empty, no control characters".to_owned())
        })
    })
}

/// Printable ASCII (RFC 6749 §A.1).
fn client_id(text: &str) -> Result<String, String> {
    let id = word("a client's id", 256)(text)?;
    if id.is_ascii() { Ok(id) } else { Err("must be a client's id: printable ASCII characters".to_owned()) }
}

/// What a bearer token may begin with (RFC 6750 §2.1).
fn prefix(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
    if text.starts_with(api_key::PREFIX) {
        return Err(format!(
            "must not begin with `{}`: such tokens are API keys, and shown to no issuer",
            api_key::PREFIX
        ));
    }
    if (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
        return Ok(text.to_owned());
    }
    Err("must be what the issuer's opaque tokens begin with: 1 to 64 letters, digits and `-._~+/`".to_owned())
}

/// An opaque token must lead to one issuer.
pub(super) fn check_prefixes(reader: &mut Reader<'_>, item: &Item<'_>, issuers: &[Issuer]) {
    let asked: Vec<&Issuer> = issuers.iter().filter(|issuer| issuer.introspection.is_some()).collect();
    let prefix = |issuer: &Issuer| issuer.introspection.as_ref().and_then(|asked| asked.prefix.clone());
    for (index, one) in asked.iter().enumerate() {
        for other in &asked[index + 1..] {
            let (first, second) = (prefix(one).unwrap_or_default(), prefix(other).unwrap_or_default());
            if first.starts_with(&second) || second.starts_with(&first) {
                let message = format!(
                    "has two issuers, `{}` and `{}`, who may both be asked about one opaque token; give each \
                     `introspection` a `prefix` that only its own tokens begin with",
                    one.issuer, other.issuer
                );
                reader.error(item, message);
            }
        }
    }
}
