//! What secures the connections of a port, replaced under them when its files change.

use std::fmt;
use std::io;
use std::ptr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{Error, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::{self, Clients};
use crate::decide::ports::Clock;
use crate::domain::time::Micros;
use crate::telemetry::{Telemetry, names};

/// What gRPC is spoken over (RFC 7301).
pub(super) const GRPC: &[&[u8]] = &[b"h2"];

/// What HTTP is spoken over.
pub(super) const HTTP: &[&[u8]] = &[b"h2", b"http/1.1"];

/// What connections of one port are secured with: TLS 1.3 or 1.2, with forward secrecy and authenticated encryption
/// only.
pub(super) struct Tls {
    protocols: &'static [&'static [u8]],
    clock: Arc<dyn Clock>,
    telemetry: Arc<Telemetry>,
    /// None: connections are plain.
    current: ArcSwapOption<Secured>,
}

/// How connections are secured that begin now.
pub(super) struct Secured {
    pub(super) config: Arc<ServerConfig>,
    /// Whose certificates are accepted.
    clients: Arc<dyn ClientCertVerifier>,
}

/// What is put into force by [`Tls::commit`].
pub(super) struct Prepared {
    secured: Option<Arc<Secured>>,
    not_after: Option<Micros>,
}

/// Why a handshake came to nothing: a label of [`names::TLS_FAILURES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It took too long.
    Timeout,
    /// Others came meanwhile, too many of them.
    Crowded,
    /// The client showed no certificate, or one that is not accepted.
    Certificate,
    /// The client does not accept us: mostly it does not know our authority.
    Refused,
    /// Not TLS, or nothing that both sides can speak.
    Protocol,
    /// The client went away.
    Closed,
}

impl Tls {
    /// Plain connections, until something is committed. `protocols` are offered (ALPN).
    pub(super) fn new(
        protocols: &'static [&'static [u8]],
        clock: &Arc<dyn Clock>,
        telemetry: &Arc<Telemetry>,
    ) -> Arc<Self> {
        let (clock, telemetry) = (Arc::clone(clock), Arc::clone(telemetry));
        Arc::new(Self { protocols, clock, telemetry, current: ArcSwapOption::empty() })
    }

    /// The first half of a change: makes of `tls` what connections need. Changes nothing.
    ///
    /// # Errors
    /// A sentence that names the key; reading the configuration has found the common ones before.
    pub(super) fn prepare(&self, tls: Option<&config::Tls>) -> Result<Prepared, String> {
        let Some(tls) = tls else { return Ok(Prepared { secured: None, not_after: None }) };
        let secured = self.secured(tls).map_err(|error| format!("listen.tls: {error}"))?;
        Ok(Prepared { secured: Some(Arc::new(secured)), not_after: Some(tls.validity.not_after) })
    }

    /// The second half: new connections are secured so from now on. Those that are there stay as they are.
    pub(super) fn commit(&self, Prepared { secured, not_after }: Prepared) {
        self.current.store(secured);
        #[expect(clippy::cast_precision_loss, reason = "seconds are far below 2^53")]
        let seconds = not_after.map_or(f64::NAN, |moment| moment.as_secs() as f64);
        self.telemetry.gauge(names::TLS_NOT_AFTER, &[]).set(seconds);
    }

    /// What new connections are secured with; none: they are plain.
    pub(super) fn current(&self) -> Option<Arc<Secured>> {
        self.current.load_full()
    }

    /// Whether a client's certificates, which were verified as `then` says, would be now. Its connection stays when an
    /// authority is given up, but it is nobody on it from then on.
    pub(super) fn still_trusts(&self, then: &Weak<Secured>, chain: &[CertificateDer<'static>]) -> bool {
        let current = self.current.load();
        let Some(now) = &*current else { return false };
        if ptr::eq(then.as_ptr(), Arc::as_ptr(now)) {
            return true;
        }
        let Some((own, between)) = chain.split_first() else { return false };
        let Some(moment) = ClockTime(Arc::clone(&self.clock)).current_time() else { return false };
        now.clients.offer_client_auth() && now.clients.verify_client_cert(own, between, moment).is_ok()
    }

    /// Counts a handshake that came to nothing.
    pub(super) fn failed(&self, failure: Failure) {
        self.telemetry.counter(names::TLS_FAILURES, &[("cause", failure.name())]).increment(1);
    }

    fn secured(&self, tls: &config::Tls) -> Result<Secured, Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = |authorities: &[_]| {
            let mut roots = RootCertStore::empty();
            authorities.iter().try_for_each(|authority: &CertificateDer<'static>| roots.add(authority.clone()))?;
            Ok::<_, Error>(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)))
        };
        let unusable = |error: rustls::server::VerifierBuilderError| Error::General(format!("client_ca: {error}"));
        let clients = match &tls.clients {
            Clients::Anyone => WebPkiClientVerifier::no_client_auth(),
            Clients::Optional(authorities) => {
                verifier(authorities)?.allow_unauthenticated().build().map_err(unusable)?
            }
            Clients::Required(authorities) => verifier(authorities)?.build().map_err(unusable)?,
        };
        let time = Arc::new(ClockTime(Arc::clone(&self.clock)));
        let mut config = ServerConfig::builder_with_details(provider, time)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(Arc::clone(&clients))
            .with_single_cert(tls.chain.clone(), tls.key.clone_key())?;
        config.alpn_protocols = self.protocols.iter().map(|&protocol| protocol.to_vec()).collect();
        if tls.clients != Clients::Anyone {
            // A session that is resumed is not asked for its certificate again, which may have expired since.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(Secured { config: Arc::new(config), clients })
    }
}

impl Failure {
    const fn name(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Crowded => "crowded",
            Self::Certificate => "certificate",
            Self::Refused => "refused",
            Self::Protocol => "protocol",
            Self::Closed => "closed",
        }
    }

    fn of(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(Error::NoCertificatesPresented | Error::InvalidCertificate(_)) => Self::Certificate,
            Some(Error::AlertReceived(_)) => Self::Refused,
            Some(_) => Self::Protocol,
            None => Self::Closed,
        }
    }
}

/// Ends the client's handshake within `deadline`.
pub(super) async fn handshake(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    deadline: Duration,
) -> Result<TlsStream<TcpStream>, Failure> {
    let peer = stream.peer_addr().ok();
    let failure = match tokio::time::timeout(deadline, TlsAcceptor::from(config).accept(stream)).await {
        Ok(Ok(stream)) => return Ok(stream),
        Ok(Err(error)) => {
            tracing::debug!(%error, ?peer, "a TLS handshake failed");
            Failure::of(&error)
        }
        Err(_) => {
            tracing::debug!(?peer, "a TLS handshake took too long");
            Failure::Timeout
        }
    };
    Err(failure)
}

/// What can be used but hardly does what was meant, at `now`: a certificate that no client will accept.
pub(super) fn doubt(tls: &config::Tls, now: Micros) -> Option<String> {
    let problem = if now > tls.validity.not_after {
        "has expired"
    } else if now < tls.validity.not_before {
        "is not valid yet"
    } else {
        return None;
    };
    Some(format!("listen.tls.cert: the certificate in {} {problem}, so clients will refuse it", tls.file.display()))
}

/// The server's clock, for the validity of certificates.
struct ClockTime(Arc<dyn Clock>);

impl fmt::Debug for ClockTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClockTime")
    }
}

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from(self.0.now().wall)))
    }
}
