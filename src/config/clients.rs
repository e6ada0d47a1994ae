//! The section `clients`.

use std::collections::HashMap;

use super::reader::{Item, Reader};
use super::values::word;
use crate::domain::api_key::hash_from_hex;
use crate::domain::client::{Client, MayRevoke, SecretHash, Sight, secret_hash};

/// The longest name of a client, in bytes.
const ID_BYTES_MAX: usize = 256;

/// The shortest secret, in bytes. It is kept by a quick hash, and guessed at as quickly as requests can be sent.
const SECRET_BYTES_MIN: usize = 16;

/// The longest, in bytes.
const SECRET_BYTES_MAX: usize = 1_024;

pub(super) fn clients(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Vec<Client>> {
    let items = reader.items(item)?;
    let mut places = HashMap::new();
    let mut clients = Vec::new();
    for item in &items {
        let Some(client) = client(reader, item) else { continue };
        if let Some(first) = places.insert(client.id.clone(), item.line()) {
            reader.error(item, format!("has the id of the client in line {first}; remove one, or name it otherwise"));
        }
        clients.push(client);
    }
    (clients.len() == items.len()).then_some(clients)
}

fn client(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Client> {
    let mut fields = reader.fields(item, "client")?;
    let id = fields.required(reader, "id", |reader, item| reader.parse(item, id));
    let secret = fields.optional(reader, "secret", |reader, item| reader.parse_secret(item, |text| secret(&text)));
    let hash = fields.optional(reader, "sha256", |reader, item| reader.parse_secret(item, |text| hash(&text)));
    let audiences = fields.optional(reader, "audiences", |reader, item| {
        reader.some(item, |reader, item| reader.parse(item, word("an audience", 1_024)))
    });
    let scopes = fields.or(reader, "scopes", Vec::new(), |reader, item| {
        reader.some(item, |reader, item| reader.one_of(item, &[("tollgate:revoke", MayRevoke::Every)]))
    });
    fields.finish(reader);
    let hash = match (secret?, hash?) {
        (Some(hash), None) | (None, Some(hash)) => hash,
        (None, None) => {
            reader.error(item, "must have `secret`, or `sha256`");
            return None;
        }
        (Some(_), Some(_)) => {
            reader.error(item, "has both `secret` and `sha256`; keep one");
            return None;
        }
    };
    let sight = match audiences? {
        None => Sight::Every,
        Some(audiences) => Sight::MeantFor(audiences.into_iter().map(Box::from).collect()),
    };
    let may_revoke = scopes?.first().copied().unwrap_or_default();
    Some(Client { id: id?.into(), hash, sight, may_revoke })
}

/// HTTP Basic ends the name at the first colon.
fn id(text: &str) -> Result<String, String> {
    let read = word("the client's name, as it shows it by HTTP Basic", ID_BYTES_MAX)(text)?;
    if read.is_ascii() && !read.contains(':') { Ok(read) } else { Err("must be ASCII without `:`".to_owned()) }
}

fn secret(text: &str) -> Result<SecretHash, String> {
    let printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if (SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&text.len()) && printable {
        return Ok(secret_hash(text));
    }
    Err(format!(
        "must be {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} printable ASCII characters; draw it at random, as \
         `openssl rand -hex 32` does"
    ))
}

/// Says nothing of the text: somebody may have put the secret there.
fn hash(text: &str) -> Result<SecretHash, String> {
    hash_from_hex(text).ok_or_else(|| {
        "must be the SHA-256 of the secret, in 64 hexadecimal digits; `printf %s \"$SECRET\" | sha256sum` tells it"
            .into()
    })
}
