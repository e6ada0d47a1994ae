//! Who holds the other end of a connection.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::domain::certificate::Certificate;

/// What is known of a connection's other end: the asker, not the caller that it asks about. Calls and requests for whom it
/// matters carry it among their extensions, but for those of `RateLimitService`, to which it is told.
#[derive(Clone, Default)]
pub struct Peer {
    address: Option<IpAddr>,
    shown: Option<Arc<Shown>>,
}

/// The certificate that was verified in the TLS handshake.
struct Shown {
    certificate: Certificate<'static>,
    still_trusted: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Peer {
    /// Of a connection from that address, where it is known.
    pub fn at(address: Option<IpAddr>) -> Self {
        Self { address, shown: None }
    }

    /// Where the connection comes from; none: not known.
    pub const fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// The same, whose other end showed `certificate`. `still_trusted` says whether that would be verified now:
    /// connections outlive the trust in who issued it.
    #[must_use]
    pub fn showing(
        self,
        certificate: Certificate<'static>,
        still_trusted: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        Self { shown: Some(Arc::new(Shown { certificate, still_trusted: Box::new(still_trusted) })), ..self }
    }

    /// The certificate that it showed, as long as it is trusted.
    pub fn certificate(&self) -> Option<&Certificate<'static>> {
        self.shown.as_deref().filter(|shown| (shown.still_trusted)()).map(|shown| &shown.certificate)
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let certificate = self.shown.as_deref().map(|shown| &shown.certificate);
        f.debug_struct("Peer").field("address", &self.address).field("certificate", &certificate).finish()
    }
}
