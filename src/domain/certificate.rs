//! Certificates whose keys callers hold: what is read of them, and whom they identify.
//!
//! Nothing is verified in here: whoever ended the TLS connection has done that, and hands on what it saw (`handed_on`).

mod handed_on;

use std::borrow::Cow;

use aws_lc_rs::digest::{SHA256, digest};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use super::decision::Reason;
use super::identity::{Identity, IdentityKind, Thumbprint};
use super::name::{NamePattern, SpiffeId, claims_spiffe, is_uri};
use super::time::Micros;

/// The longest certificate, in whatever form it is handed on, in bytes.
pub const CERTIFICATE_BYTES_MAX: usize = 64 * 1024;

/// The most names that are read of a certificate: rules compare each of them.
const NAMES_MAX: usize = 256;

/// Who vouches for a caller whose certificate has DNS names only: whoever issued it is known to those who verified it.
pub const DNS_ISSUER: &str = "x509";

/// What is known of a certificate that the caller holds the key of. Whoever ended the TLS connection has verified it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate<'a> {
    /// SHA-256 of its DER form.
    pub thumbprint: Thumbprint,
    /// Names that it vouches for (its subject alternative names): URIs, SPIFFE IDs among them, and DNS names, the
    /// latter in lower case.
    pub names: Vec<Cow<'a, str>>,
    /// When it is good. None: not known, since only its names were handed on.
    pub validity: Option<Validity>,
}

/// When a certificate is good (RFC 5280 §4.1.2.5), both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Since the Unix epoch.
    pub not_before: Micros,
    /// Since the Unix epoch.
    pub not_after: Micros,
}

impl Validity {
    /// When the certificate of that DER form is good, whatever its names.
    ///
    /// # Errors
    /// It is no certificate.
    pub fn of(der: &[u8]) -> Result<Self, Unreadable> {
        X509Certificate::from_der(der).map(|(_, read)| Self::read(&read)).map_err(|_| FORM)
    }

    fn read(certificate: &X509Certificate<'_>) -> Self {
        // Before the epoch is long ago.
        let moment = |seconds: i64| Micros::from_secs(u64::try_from(seconds).unwrap_or_default());
        let read = certificate.validity();
        Self { not_before: moment(read.not_before.timestamp()), not_after: moment(read.not_after.timestamp()) }
    }
}

const FORM: Unreadable = Unreadable("must be one X.509 certificate, and nothing behind it");

/// Why something is no certificate: what it must be, without any of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(&'static str);

impl Unreadable {
    /// There is nothing.
    pub const ABSENT: Self = Self("must be there in one of its forms; leave it out where the caller showed none");
}

impl Certificate<'static> {
    /// Reads the DER form (RFC 5280 §4.1). Common names are no names: clients have not gone by them for long (RFC 9525 §2).
    ///
    /// # Errors
    /// It is too large, no certificate, followed by something else, or has names that are not in printable ASCII.
    pub fn from_der(der: &[u8]) -> Result<Self, Unreadable> {
        bounded(der.len())?;
        let (rest, read) = X509Certificate::from_der(der).map_err(|_| FORM)?;
        let alternative = read.subject_alternative_name().map_err(|_| FORM)?;
        if !rest.is_empty() {
            return Err(FORM);
        }
        let mut names = Vec::new();
        for name in alternative.iter().flat_map(|alternative| &alternative.value.general_names) {
            names.extend(name_of(name)?);
        }
        if names.len() > NAMES_MAX {
            return Err(Unreadable("must be a certificate of at most 256 names"));
        }
        Ok(Self { thumbprint: thumbprint(der), names, validity: Some(Validity::read(&read)) })
    }
}

impl Certificate<'_> {
    /// Why it is not good at `now` (since the Unix epoch), as far as that is known.
    pub fn standing(&self, now: Micros) -> Result<(), Reason> {
        match self.validity {
            Some(Validity { not_before, .. }) if now < not_before => Err(Reason::NotYetValid),
            // The second that it names is the last one.
            Some(Validity { not_after, .. }) if now.as_secs() > not_after.as_secs() => Err(Reason::Expired),
            Some(_) | None => Ok(()),
        }
    }

    /// Whether it vouches for a name that one of `patterns` means. One that names nobody for sure has no name at all.
    pub fn has_name(&self, patterns: &[NamePattern]) -> bool {
        !self.is_ambiguous() && self.names.iter().any(|name| patterns.iter().any(|pattern| pattern.covers(name)))
    }

    /// Whether it has a SPIFFE ID and another URI besides, which no X.509-SVID may have (§2).
    fn is_ambiguous(&self) -> bool {
        let uris = self.names.iter().filter(|name| is_uri(name)).count();
        uris > 1 && self.names.iter().any(|name| claims_spiffe(name))
    }

    /// Whom it identifies at `now` where names such as `accepted` may be identified by a certificate alone.
    ///
    /// The subject is its SPIFFE ID, vouched for by the trust domain; else the first name that is accepted, vouched for
    /// by [`DNS_ISSUER`].
    ///
    /// # Errors
    /// `NoCredential` where no names are accepted, so that a certificate is none; `NotYetValid`, `Expired`;
    /// `UnknownIssuer` where none of its names is accepted, or it has a SPIFFE ID and another URI besides, which
    /// no X.509-SVID may have (§2).
    pub fn identify(&self, accepted: &[NamePattern], now: Micros) -> Result<Identity, Reason> {
        if accepted.is_empty() {
            return Err(Reason::NoCredential);
        }
        self.standing(now)?;
        let is_accepted = |name: &&Cow<'_, str>| accepted.iter().any(|pattern| pattern.covers(name));
        let (subject, issuer) = if let Some(id) = self.names.iter().find(|name| claims_spiffe(name)) {
            let only = Some(id).filter(|_| !self.is_ambiguous()).filter(is_accepted).ok_or(Reason::UnknownIssuer)?;
            (only, SpiffeId::parse(only).ok_or(Reason::UnknownIssuer)?.issuer())
        } else {
            let first = self.names.iter().find(is_accepted).ok_or(Reason::UnknownIssuer)?;
            (first, DNS_ISSUER.to_owned())
        };
        Ok(Identity {
            kind: IdentityKind::Certificate,
            subject: Some(subject.as_ref().into()),
            names: self.names.iter().map(|name| name.as_ref().into()).collect(),
            expires_at: self.validity.map(|validity| validity.not_after),
            not_before: self.validity.map(|validity| validity.not_before),
            issued_at: self.validity.map(|validity| validity.not_before),
            ..Identity::vouched_by(issuer)
        })
    }
}

/// The name, if it is one of those that count: other kinds (addresses of mail and machines, directory names) do not.
fn name_of(name: &GeneralName<'_>) -> Result<Option<Cow<'static, str>>, Unreadable> {
    match name {
        GeneralName::URI(uri) => Some(uri_name(uri)).transpose(),
        GeneralName::DNSName(name) => Some(dns_name(name)).transpose(),
        GeneralName::Invalid(..) => Err(Unreadable("must be a certificate whose names are well formed")),
        _ => Ok(None),
    }
}

/// A URI as a certificate has it. Control characters and the like would end up in logs and comparisons elsewhere.
fn uri_name(uri: &str) -> Result<Cow<'static, str>, Unreadable> {
    if is_uri(uri) && uri.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(Cow::Owned(uri.to_owned()));
    }
    Err(Unreadable("must be a certificate whose URIs have a scheme and are printable ASCII without spaces"))
}

/// A DNS name as a certificate has it; case is nothing in it.
fn dns_name(name: &str) -> Result<Cow<'static, str>, Unreadable> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'*');
    if !name.is_empty() && name.bytes().all(allowed) {
        return Ok(Cow::Owned(name.to_ascii_lowercase()));
    }
    Err(Unreadable("must be a certificate whose DNS names have letters, digits, `-`, `_`, `.` and `*` only"))
}

fn thumbprint(der: &[u8]) -> Thumbprint {
    let mut thumbprint = Thumbprint::default();
    thumbprint.copy_from_slice(digest(&SHA256, der).as_ref());
    thumbprint
}

fn bounded(bytes: usize) -> Result<(), Unreadable> {
    if bytes <= CERTIFICATE_BYTES_MAX {
        return Ok(());
    }
    Err(Unreadable("must be at most 64 KiB"))
}

#[cfg(test)]
mod tests;
