//! Who holds the other end of a connection.

use std::sync::Arc;

use crate::domain::certificate::Certificate;

/// What is known of a connection's other end: the asker, not the caller that it asks about. Each call carries it among its
/// extensions.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// The certificate that was verified in the TLS handshake.
    certificate: Option<Arc<Certificate<'static>>>,
}

impl Peer {
    /// Of a connection whose other end showed `certificate`.
    pub fn with(certificate: Option<Certificate<'static>>) -> Self {
        Self { certificate: certificate.map(Arc::new) }
    }

    /// The certificate that it showed.
    pub fn certificate(&self) -> Option<&Certificate<'static>> {
        self.certificate.as_deref()
    }
}
