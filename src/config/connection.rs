//! The section `connection` of an issuer.

use super::reader::{Item, Reader};
use super::values::word;
use crate::domain::connection::{ClientCertificate, Connection};
use crate::domain::secret::Secret;

/// Certificate authorities, or a chain: a system's whole bundle fits.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// A file that holds a bearer token.
const TOKEN_BYTES_MAX: u64 = 64 * 1024;

/// Headers that the connection makes itself.
const OWN_HEADERS: [&str; 8] =
    ["accept", "connection", "content-length", "content-type", "host", "te", "transfer-encoding", "upgrade"];

pub(super) fn connection(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Connection> {
    let mut fields = reader.fields(item, "connection")?;
    let ca = fields.optional(reader, "ca", certificates);
    let chain = fields.optional(reader, "certificate", certificates);
    let key = fields.optional(reader, "key", |reader, item| reader.parse_secret(item, private_key));
    if fields.has("certificate") != fields.has("key") {
        reader.error(item, "must have both of `certificate` and `key`, or neither");
    }
    let token = fields.optional(reader, "token", |reader, item| reader.living_file(item, TOKEN_BYTES_MAX));
    let headers = fields.or(reader, "headers", Vec::new(), headers);
    if fields.has("token") && headers.iter().flatten().any(|(name, _)| name == "authorization") {
        reader.error(item, "has both of `token` and the header `authorization`; remove one of the two");
    }
    let plain_http = fields.or(reader, "plain_http", false, |reader, item| reader.flag(item));
    fields.finish(reader);
    let certificate = chain?.zip(key?).map(|(chain, key)| ClientCertificate { chain, key });
    Some(Connection { ca: ca?, certificate, token: token?, headers: headers?, plain_http: plain_http? })
}

fn certificates(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<String> {
    let (_, bytes) = reader.file(item, PEM_BYTES_MAX)?;
    let text = String::from_utf8(bytes).ok().filter(|text| text.contains("-----BEGIN CERTIFICATE-----"));
    if text.is_none() {
        reader.error(item, "the file has no certificate in PEM form (`-----BEGIN CERTIFICATE-----`)");
    }
    text
}

fn private_key(text: String) -> Result<Secret, String> {
    if text.contains("-----BEGIN") && text.contains("PRIVATE KEY-----") {
        return Ok(Secret::new(text));
    }
    Err("must be a private key in PEM form (`-----BEGIN PRIVATE KEY-----`), best as `{ file: path }`".to_owned())
}

fn headers(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Vec<(String, Secret)>> {
    let mut headers: Vec<(String, Secret)> = Vec::new();
    for (key, name, item) in reader.named(item)? {
        let lower = name.to_ascii_lowercase();
        if let Err(must) = header_name(&lower) {
            reader.error(&key, must);
        } else if headers.iter().any(|(other, _)| *other == lower) {
            reader.error(&key, "is there already in another spelling; header names have no case");
        }
        let value = reader.parse_secret(&item, header_value)?;
        headers.push((lower, value));
    }
    Some(headers)
}

/// A field name (RFC 9110 §5.1) in lower case.
fn header_name(name: &str) -> Result<(), String> {
    word("a header's name", 256)(name)?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if !name.bytes().all(allowed) {
        return Err("must be a header's name: letters, digits and `-`".to_owned());
    }
    if OWN_HEADERS.contains(&name) {
        return Err("is a header that the connection makes itself; remove it".to_owned());
    }
    Ok(())
}

/// Visible ASCII, with spaces between (RFC 9110 §5.5).
fn header_value(text: String) -> Result<Secret, String> {
    let visible = text.bytes().all(|byte| matches!(byte, 0x20..=0x7e));
    if visible && !text.is_empty() && text.trim() == text {
        return Ok(Secret::new(text));
    }
    Err("must be a header's value: printable ASCII characters, no spaces around them".to_owned())
}
