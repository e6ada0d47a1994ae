//! The forms in which gateways hand a caller's certificate on.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Certificate, Names, Unreadable, bounded};
use crate::domain::identity::Thumbprint;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

const NOT_PEM: Unreadable =
    Unreadable("must be one certificate in PEM (`-----BEGIN CERTIFICATE-----`), as it is or URL-encoded");
const NOT_FORWARDED: Unreadable = Unreadable(
    "must be elements of `Key=Value` pairs, separated by `;` and `,`, as Envoy writes them in x-forwarded-client-cert",
);
const REPEATED: Unreadable = Unreadable("must have Hash, Cert and Chain at most once in its last element");
const CONTRADICTS: Unreadable = Unreadable("must have the Hash, URI and DNS of its certificate in its last element");

impl Certificate<'static> {
    /// Reads PEM (RFC 7468 §5), as it is or URL-encoded (as nginx's `$ssl_client_escaped_cert` is).
    ///
    /// # Errors
    /// It is too large, has anything but one certificate in it, or that cannot be read.
    pub fn from_pem(text: &str) -> Result<Self, Unreadable> {
        bounded(text.len())?;
        let text = percent_decoded(text)?;
        let (der, rest) = first_pem(&text)?;
        if rest.is_empty() { Self::from_der(&der) } else { Err(NOT_PEM) }
    }

    /// Reads the value of a `Client-Cert` header: the DER form as a byte sequence between colons (RFC 9440 §2.1).
    ///
    /// # Errors
    /// It is too large, not of that form, or the certificate in it cannot be read.
    pub fn from_client_cert(value: &str) -> Result<Self, Unreadable> {
        bounded(value.len())?;
        let encoded = value.strip_prefix(':').and_then(|rest| rest.strip_suffix(':'));
        let der = encoded.and_then(|encoded| STANDARD.decode(encoded).ok());
        Self::from_der(&der.ok_or(Unreadable("must be one certificate in base64 between colons, as RFC 9440 has it"))?)
    }

    /// Reads the value of an `x-forwarded-client-cert` header, as Envoy writes it. Each gateway on the way has appended
    /// an element about its own peer: the last one is of the nearest, and the only one that counts.
    ///
    /// Where it has the certificate itself (`Cert`, or the first of `Chain`), what it says besides must be so. Where it
    /// has only the `Hash`, the gateway's word is taken for the names.
    ///
    /// # Errors
    /// It is too large, not of that form, says neither, or contradicts itself.
    pub fn from_forwarded(value: &str) -> Result<Self, Unreadable> {
        bounded(value.len())?;
        let mut told = Told::default();
        let mut rest = value;
        loop {
            let (pair, behind) = next_pair(rest)?;
            told.hear(&pair)?;
            match behind {
                None => return told.certificate(),
                Some((',', behind)) => (told, rest) = (Told::default(), behind),
                Some((_, behind)) => rest = behind,
            }
        }
    }
}

/// What an element says of its certificate.
#[derive(Default)]
struct Told {
    hash: Option<Thumbprint>,
    certificate: Option<Certificate<'static>>,
    chain: Option<Certificate<'static>>,
    names: Names,
}

impl Told {
    /// Takes one pair. Envoy writes `URI` and `DNS` once for each name, and empty where there is none.
    fn hear(&mut self, Pair { key, value }: &Pair<'_>) -> Result<(), Unreadable> {
        match key.to_ascii_lowercase().as_str() {
            "hash" => once(&mut self.hash, thumbprint_of(value)?),
            "cert" => once(&mut self.certificate, Certificate::from_pem(value)?),
            "chain" => once(&mut self.chain, leaf(value)?),
            "uri" if !value.is_empty() => {
                self.names.uri(value);
                Ok(())
            }
            "dns" => {
                self.names.dns(value);
                Ok(())
            }
            // Who was asked, what it is called for people, and what Envoy may come to say.
            _ => Ok(()),
        }
    }

    fn certificate(self) -> Result<Certificate<'static>, Unreadable> {
        let Self { hash, certificate, chain, names } = self;
        let Names { known, has_odd_uri } = names.bounded()?;
        let whole = match (certificate, chain) {
            (Some(certificate), Some(chain)) if certificate != chain => return Err(CONTRADICTS),
            (certificate, chain) => certificate.or(chain),
        };
        let Some(certificate) = whole else {
            let thumbprint = hash.ok_or(Unreadable("must have Hash or Cert in its last element"))?;
            return Ok(Certificate { thumbprint, names: known, has_odd_uri, validity: None });
        };
        let fits = hash.is_none_or(|hash| hash == certificate.thumbprint) && has_odd_uri <= certificate.has_odd_uri;
        if fits && known.iter().all(|name| certificate.names.contains(name)) {
            return Ok(certificate);
        }
        Err(CONTRADICTS)
    }
}

fn once<T>(place: &mut Option<T>, value: T) -> Result<(), Unreadable> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(REPEATED),
    }
}

/// A key and its value.
struct Pair<'a> {
    key: &'a str,
    value: Cow<'a, str>,
}

/// What is behind a pair, and the sign before it; none: nothing.
type Behind<'a> = Option<(char, &'a str)>;

/// The first pair of `text`, and what is behind it.
fn next_pair(text: &str) -> Result<(Pair<'_>, Behind<'_>), Unreadable> {
    let (key, rest) = text.split_once('=').ok_or(NOT_FORWARDED)?;
    let key = key.trim_start_matches(' ');
    if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return Err(NOT_FORWARDED);
    }
    let (value, rest) = if let Some(quoted) = rest.strip_prefix('"') {
        unquoted(quoted)?
    } else {
        let (value, rest) = rest.split_at(rest.find([';', ',']).unwrap_or(rest.len()));
        if value.contains('"') {
            return Err(NOT_FORWARDED);
        }
        (Cow::Borrowed(value), rest)
    };
    let mut behind = rest.chars();
    match behind.next() {
        None => Ok((Pair { key, value }, None)),
        Some(sign @ (';' | ',')) => Ok((Pair { key, value }, Some((sign, behind.as_str())))),
        Some(_) => Err(NOT_FORWARDED),
    }
}

/// The value up to the closing quote, and what is behind that. `\"` stands for a quote.
fn unquoted(text: &str) -> Result<(Cow<'static, str>, &str), Unreadable> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Ok((Cow::Owned(text[..at].replace("\\\"", "\"")), &text[at + 1..])),
            _ => {}
        }
    }
    Err(NOT_FORWARDED)
}

/// SHA-256 in hexadecimal digits.
fn thumbprint_of(text: &str) -> Result<Thumbprint, Unreadable> {
    let mut thumbprint = Thumbprint::default();
    let digits = text.as_bytes();
    if digits.len() == 2 * thumbprint.len() {
        for (byte, pair) in thumbprint.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = hex(pair[0], pair[1]).ok_or(NOT_HASH)?;
        }
        return Ok(thumbprint);
    }
    Err(NOT_HASH)
}

const NOT_HASH: Unreadable = Unreadable("must have 64 hexadecimal digits as Hash");

fn hex(high: u8, low: u8) -> Option<u8> {
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

/// The first certificate of a chain in URL-encoded PEM.
fn leaf(text: &str) -> Result<Certificate<'static>, Unreadable> {
    let text = percent_decoded(text)?;
    let (der, mut rest) = first_pem(&text)?;
    while !rest.is_empty() {
        (_, rest) = first_pem(rest)?;
    }
    Certificate::from_der(&der)
}

/// The DER form of the first certificate, and what is behind it; white space around it aside.
fn first_pem(text: &str) -> Result<(Vec<u8>, &str), Unreadable> {
    let (encoded, rest) =
        text.trim_ascii_start().strip_prefix(BEGIN).and_then(|text| text.split_once(END)).ok_or(NOT_PEM)?;
    let encoded: Vec<u8> = encoded.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let der = STANDARD.decode(encoded).map_err(|_| NOT_PEM)?;
    Ok((der, rest.trim_ascii_start()))
}

/// Decodes `%41` and the like; PEM itself has no percent sign, and a plus sign is one.
fn percent_decoded(text: &str) -> Result<Cow<'_, str>, Unreadable> {
    if !text.contains('%') {
        return Ok(Cow::Borrowed(text));
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let pair = bytes.next().zip(bytes.next());
            decoded.push(pair.and_then(|(high, low)| hex(high, low)).ok_or(NOT_PEM)?);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).map(Cow::Owned).map_err(|_| NOT_PEM)
}
