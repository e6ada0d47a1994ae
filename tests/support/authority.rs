//! Certificate authorities of the tests' own.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType,
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::server::Tollgate;

/// Signs certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub(crate) struct Holder {
    pub(crate) certificate: String,
    pub(crate) der: Vec<u8>,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its own certificate.
    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate with these names, good from now on for `life`.
    pub(crate) fn sign(&self, names: &[&str], life: Duration) -> Holder {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names
            .iter()
            .map(|name| match name.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) if name.contains(':') => SanType::URI((*name).try_into().unwrap()),
                Err(_) => SanType::DnsName((*name).try_into().unwrap()),
            })
            .collect();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let now = time_now();
        params.not_before = now - Duration::from_hours(1);
        params.not_after = now + life;
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Holder { certificate: certificate.pem(), der: certificate.der().to_vec(), key: key.serialize_pem() }
    }

    pub(crate) fn day(&self, names: &[&str]) -> Holder {
        self.sign(names, Duration::from_hours(24))
    }
}

fn time_now() -> time::OffsetDateTime {
    time::OffsetDateTime::now_utc()
}

impl Tollgate {
    /// A connection by TLS, trusting `authority`, from whoever holds `holder`.
    pub(crate) async fn secure(
        &self,
        authority: &Authority,
        holder: Option<&Holder>,
    ) -> Result<Channel, tonic::transport::Error> {
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority.pem()));
        if let Some(holder) = holder {
            tls = tls.identity(Identity::from_pem(&holder.certificate, &holder.key));
        }
        let url = format!("https://localhost:{}", self.server.grpc.port());
        Endpoint::from_shared(url).unwrap().tls_config(tls).unwrap().connect().await
    }
}
