//! Certificates whose keys callers hold: what is read of them, and whom they identify.
//!
//! Nothing is verified in here: whoever ended the TLS connection has done that, and hands on what it saw (`handed_on`).

mod handed_on;

use std::borrow::Cow;

use aws_lc_rs::digest::{SHA256, digest};
use x509_parser::asn1_rs::Tag;
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

/// The tag of a URI among the names (RFC 5280 §4.2.1.6).
const URI_TAG: Tag = Tag(6);

/// Who vouches for a caller whose certificate has DNS names only: whoever issued it is known to those who verified it.
pub const DNS_ISSUER: &str = "x509";

/// What is known of a certificate that the caller holds the key of. Whoever ended the TLS connection has verified it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate<'a> {
    /// SHA-256 of its DER form.
    pub thumbprint: Thumbprint,
    /// Names that it vouches for (its subject alternative names): URIs, SPIFFE IDs among them, and DNS names, the
    /// latter in lower case. Those that are not well formed are left out.
    pub names: Vec<Cow<'a, str>>,
    /// Whether a URI was left out. It may have been meant as a SPIFFE ID, so nobody is identified by the others.
    pub has_odd_uri: bool,
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
    /// It is too large, no certificate, followed by something else, or has more names than are read.
    pub fn from_der(der: &[u8]) -> Result<Self, Unreadable> {
        bounded(der.len())?;
        let (rest, read) = X509Certificate::from_der(der).map_err(|_| FORM)?;
        let alternative = read.subject_alternative_name().map_err(|_| FORM)?;
        if !rest.is_empty() {
            return Err(FORM);
        }
        let mut names = Names::default();
        for name in alternative.iter().flat_map(|alternative| &alternative.value.general_names) {
            match name {
                GeneralName::URI(uri) => names.uri(uri),
                GeneralName::DNSName(name) => names.dns(name),
                // Not even in ASCII, as URIs and DNS names must be.
                GeneralName::Invalid(tag, _) if *tag == URI_TAG => names.has_odd_uri = true,
                // Addresses of mail and machines, and names of directories, do not count.
                _ => {}
            }
        }
        let Names { known, has_odd_uri } = names.bounded()?;
        Ok(Self { thumbprint: thumbprint(der), names: known, has_odd_uri, validity: Some(Validity::read(&read)) })
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

    /// Whether it has a SPIFFE ID and another URI besides, which no X.509-SVID may have (§2), or what may be one.
    fn is_ambiguous(&self) -> bool {
        if self.has_odd_uri {
            return true;
        }
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
    /// `UnknownIssuer` where none of its names is accepted, it has a SPIFFE ID and another URI besides, which
    /// no X.509-SVID may have (§2), or a URI that is not well formed.
    pub fn identify(&self, accepted: &[NamePattern], now: Micros) -> Result<Identity, Reason> {
        if accepted.is_empty() {
            return Err(Reason::NoCredential);
        }
        self.standing(now)?;
        if self.has_odd_uri {
            return Err(Reason::UnknownIssuer);
        }
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

/// Names as they are read.
#[derive(Default)]
struct Names {
    known: Vec<Cow<'static, str>>,
    has_odd_uri: bool,
}

impl Names {
    /// A URI as a certificate has it. Control characters and the like would end up in logs and comparisons elsewhere.
    fn uri(&mut self, uri: &str) {
        if is_uri(uri) && uri.bytes().all(|byte| byte.is_ascii_graphic()) {
            self.known.push(Cow::Owned(uri.to_owned()));
        } else {
            self.has_odd_uri = true;
        }
    }

    /// A DNS name as a certificate has it; case is nothing in it.
    fn dns(&mut self, name: &str) {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'*');
        if !name.is_empty() && name.bytes().all(allowed) {
            self.known.push(Cow::Owned(name.to_ascii_lowercase()));
        }
    }

    fn bounded(self) -> Result<Self, Unreadable> {
        if self.known.len() <= NAMES_MAX {
            return Ok(self);
        }
        Err(Unreadable("must be a certificate of at most 256 names"))
    }
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
