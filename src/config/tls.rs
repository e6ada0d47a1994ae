//! The section `listen.tls`: what the ports show of themselves, and whom they ask for certificates.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, RootCertStore};

use super::reader::{Item, Reader};
use crate::domain::certificate::Validity;

/// Certificates and keys: a system's whole bundle of authorities fits.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// How connections are secured. Its key fits its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Where the certificate was read, for messages.
    pub file: PathBuf,
    /// The server's certificate, then those that lead to its authority. Never empty.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key, which does not print itself.
    pub key: Arc<PrivateKeyDer<'static>>,
    /// When the certificate is good.
    pub validity: Validity,
    /// Whom connections are accepted from.
    pub clients: Clients,
}

/// Whom connections are accepted from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Clients {
    /// Anyone, who is not asked.
    Anyone,
    /// Whoever shows a certificate of these authorities, or none.
    Optional(Vec<CertificateDer<'static>>),
    /// Whoever shows a certificate of these authorities.
    Required(Vec<CertificateDer<'static>>),
}

pub(super) fn tls(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Tls> {
    let mut fields = reader.fields(item, "tls")?;
    let cert = fields.required(reader, "cert", |reader, item| {
        let (file, chain) = certificates(reader, item)?;
        let validity = Validity::of(&chain[0]).map_err(|why| reader.error(item, format!("the file {why}"))).ok()?;
        Some((file, chain, validity))
    });
    let key = fields.required(reader, "key", |reader, item| {
        let key = key(reader, item)?;
        if let Some((file, chain, _)) = &cert {
            unfit(chain, &key)
                .map_err(|why| reader.error(item, why.replace("FILE", &file.display().to_string())))
                .ok()?;
        }
        Some(key)
    });
    let authorities = fields.optional(reader, "client_ca", authorities);
    let required = fields.optional(reader, "client", |reader, item| {
        if matches!(authorities, Some(None)) {
            reader.error(item, "is of use with `client_ca` only; add it, or remove this");
        }
        reader.one_of(item, &[("optional", false), ("required", true)])
    });
    fields.finish(reader);
    let clients = match (authorities?, required?.unwrap_or(true)) {
        (None, _) => Clients::Anyone,
        (Some(authorities), true) => Clients::Required(authorities),
        (Some(authorities), false) => Clients::Optional(authorities),
    };
    let (file, chain, validity) = cert?;
    Some(Tls { file, chain, key: Arc::new(key?), validity, clients })
}

/// The certificates of a file, at least one.
fn certificates(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<(PathBuf, Vec<CertificateDer<'static>>)> {
    let (path, bytes) = reader.file(item, PEM_BYTES_MAX)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match read {
        Ok(chain) if !chain.is_empty() => return Some((path, chain)),
        Ok(_) => reader.error(item, "the file has no certificate in PEM form (`-----BEGIN CERTIFICATE-----`)"),
        Err(error) => reader.error(item, format!("the file is not well-formed PEM: {error}")),
    }
    None
}

/// The one private key of a file. Says nothing of what is in it.
fn key(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<PrivateKeyDer<'static>> {
    let (_, bytes) = reader.file(item, PEM_BYTES_MAX)?;
    let has = |mark: &str| bytes.windows(mark.len()).any(|window| window == mark.as_bytes());
    if has("ENCRYPTED PRIVATE KEY-----") || has("4,ENCRYPTED") {
        reader.error(
            item,
            "the key in the file is encrypted; store it without a passphrase (`openssl pkey -in … -out …`), readable by \
             Tollgate only",
        );
        return None;
    }
    let read: Result<Vec<_>, _> = PrivateKeyDer::pem_slice_iter(&bytes).collect();
    let why = match read.map(<[PrivateKeyDer<'static>; 1]>::try_from) {
        Ok(Ok([key])) => return Some(key),
        Ok(Err(none)) if none.is_empty() => "the file has no private key in PEM form (`-----BEGIN PRIVATE KEY-----`)",
        Ok(Err(_)) => "the file has more than one private key; leave the certificate's only",
        Err(_) => "the file is not well-formed PEM",
    };
    reader.error(item, why);
    None
}

/// Why a key cannot serve with a chain. `FILE` stands for the chain's file.
fn unfit(chain: &[CertificateDer<'static>], key: &PrivateKeyDer<'static>) -> Result<(), String> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    match CertifiedKey::from_der(chain.to_vec(), key.clone_key(), &provider) {
        Ok(_) => Ok(()),
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) if fits_another(chain, key, &provider) => {
            Err("the key is not that of the first certificate in FILE; put its certificate first there".to_owned())
        }
        Err(Error::InconsistentKeys(_)) => {
            Err("the key is not that of the certificate in FILE; name the two that belong together".to_owned())
        }
        Err(Error::InvalidCertificate(why)) => Err(format!("the certificate in FILE cannot be used: {why:?}")),
        Err(_) => Err("the key in the file cannot be used: it must be RSA of 2048 bits or more, ECDSA or Ed25519, in \
                       PKCS#8, PKCS#1 or SEC1 form"
            .to_owned()),
    }
}

fn fits_another(chain: &[CertificateDer<'static>], key: &PrivateKeyDer<'static>, provider: &CryptoProvider) -> bool {
    let fits = |one: &CertificateDer<'static>| CertifiedKey::from_der(vec![one.clone()], key.clone_key(), provider);
    chain.iter().skip(1).any(|one| fits(one).is_ok())
}

fn authorities(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Vec<CertificateDer<'static>>> {
    let (_, authorities) = certificates(reader, item)?;
    for (index, authority) in authorities.iter().enumerate() {
        if let Err(why) = RootCertStore::empty().add(authority.clone()) {
            reader.error(item, format!("the file has a certificate (number {index}) that cannot be used: {why}"));
            return None;
        }
    }
    Some(authorities)
}
