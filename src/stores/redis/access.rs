//! How servers are reached: what the operator said, and the connections that can be made of it.

use std::fmt;
use std::path::{Path, PathBuf};

use ::redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisConnectionInfo, TlsCertificates};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::stores::proofs::PROOFS_OF_A_KEY_MAX;

/// How Redis is reached.
#[derive(Clone)]
pub struct Settings {
    /// Which servers there are.
    pub reach: Reach,
    /// Overrides the URL's user.
    pub username: Option<String>,
    /// Overrides the URL's password.
    pub password: Option<String>,
    /// The certificate authorities (PEM) that `rediss://` trusts; none: the system's.
    pub ca: Option<PathBuf>,
    /// Whose time counts.
    pub time: TimeSource,
    /// How many used proofs of one key are remembered at a time.
    pub proofs_of_a_key_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            reach: Reach::default(),
            username: None,
            password: None,
            ca: None,
            time: TimeSource::default(),
            proofs_of_a_key_max: PROOFS_OF_A_KEY_MAX,
        }
    }
}

/// Which servers there are. All URLs have the same scheme: `redis://`, or `rediss://` (TLS).
#[derive(Clone)]
pub enum Reach {
    /// One server by its URL, with host, port and database, where user and password may be in it; or, if it turns out
    /// to belong to one, its cluster. Several: nodes of one cluster, of which one suffices to find the others.
    Servers(Vec<String>),
    /// Whichever server these say is the master.
    Sentinels {
        /// Where they are. The master is asked for by the same scheme.
        urls: Vec<String>,
        /// The name by which they know the master.
        service: String,
        /// Who asks them, where they want to know.
        username: Option<String>,
        /// How it is proved.
        password: Option<String>,
    },
}

impl Default for Reach {
    fn default() -> Self {
        Self::Servers(Vec::new())
    }
}

/// Hides what may hold a secret.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reach: _, username, password: _, ca, time, proofs_of_a_key_max: _ } = self;
        f.debug_struct("Settings")
            .field("username", username)
            .field("ca", ca)
            .field("time", time)
            .finish_non_exhaustive()
    }
}

/// Whose time counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeSource {
    /// Redis's own, the same for all replicas.
    #[default]
    Server,
    /// The steady clock of whoever asks: for tests, and nothing else.
    Asker,
}

/// Why the settings cannot work. Holds no secret.
#[derive(Debug, thiserror::Error)]
pub enum ConnectProblem {
    /// The URL is none of Redis.
    #[error("the URL of Redis must be redis://host:port/database or rediss://host:port/database")]
    Url,
    /// Several URLs, and one of them is not like the others.
    #[error("the URLs must all begin with redis://, or all with rediss:// (TLS)")]
    Mixed,
    /// The authorities cannot be read.
    #[error("{path}: {error}", path = .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// The authorities are none.
    #[error("{path}: holds no certificate authority in PEM", path = .path.display())]
    NoAuthority {
        /// The file.
        path: PathBuf,
    },
    /// Authorities are for TLS.
    #[error("a certificate authority is given, but the URL is not rediss://")]
    NotTls,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
}

impl Address {
    /// As servers write it. One that does not know its own host leaves it out, and means that of `teller`.
    pub(super) fn told(text: &str, teller: &Self) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = if host.is_empty() || host == "?" { &teller.host } else { host };
        Some(Self { host: host.to_owned(), port: port.parse().ok().filter(|&port| port > 0)? })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// What all connections to servers of one kind have in common.
#[derive(Clone)]
pub(super) struct Access {
    tls: bool,
    redis: RedisConnectionInfo,
    /// In PEM; none: the system's.
    authorities: Option<Vec<u8>>,
}

impl Access {
    /// The access that `urls` ask for, and the servers that they name. User and password override those of the URLs.
    pub(super) fn to(
        urls: &[String],
        username: Option<&str>,
        password: Option<&str>,
        ca: Option<&Path>,
    ) -> Result<(Self, Vec<Address>), ConnectProblem> {
        let infos: Vec<ConnectionInfo> = urls.iter().map(|url| info(url)).collect::<Result<_, _>>()?;
        let places: Vec<(bool, Address)> = infos.iter().map(place).collect::<Result<_, _>>()?;
        let (Some(first), Some(&(tls, _))) = (infos.first(), places.first()) else { return Err(ConnectProblem::Url) };
        if places.iter().any(|(encrypted, _)| *encrypted != tls) {
            return Err(ConnectProblem::Mixed);
        }
        let mut redis = first.redis_settings().clone().set_skip_set_lib_name();
        if let Some(username) = username {
            redis = redis.set_username(username);
        }
        if let Some(password) = password {
            redis = redis.set_password(password);
        }
        let authorities = ca.map(|path| authorities(path, tls)).transpose()?;
        Ok((Self { tls, redis, authorities }, places.into_iter().map(|(_, address)| address).collect()))
    }

    /// What connects to the server at `address`.
    pub(super) fn client(&self, address: &Address) -> Result<Client, ConnectProblem> {
        let Address { host, port } = address.clone();
        let place = if self.tls {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host, port)
        };
        let info = place.into_connection_info().map_err(|_| ConnectProblem::Url)?;
        let info = info.set_redis_settings(self.redis.clone());
        let client = match &self.authorities {
            None => Client::open(info),
            Some(pem) => {
                Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert: Some(pem.clone()) })
            }
        };
        client.map_err(|_| ConnectProblem::Url)
    }
}

fn info(url: &str) -> Result<ConnectionInfo, ConnectProblem> {
    let known = ["redis://", "rediss://"].iter().any(|scheme| url.starts_with(scheme));
    // A fragment could ask for TLS without verification.
    if !known || url.contains('#') {
        return Err(ConnectProblem::Url);
    }
    url.into_connection_info().map_err(|_| ConnectProblem::Url)
}

/// Whether it is reached by TLS, and where.
fn place(info: &ConnectionInfo) -> Result<(bool, Address), ConnectProblem> {
    match info.addr() {
        // Nobody can be reached there.
        ConnectionAddr::Tcp(_, 0) | ConnectionAddr::TcpTls { port: 0, .. } => Err(ConnectProblem::Url),
        ConnectionAddr::Tcp(host, port) => Ok((false, Address { host: host.clone(), port: *port })),
        ConnectionAddr::TcpTls { host, port, .. } => Ok((true, Address { host: host.clone(), port: *port })),
        _ => Err(ConnectProblem::Url),
    }
}

fn authorities(path: &Path, tls: bool) -> Result<Vec<u8>, ConnectProblem> {
    if !tls {
        return Err(ConnectProblem::NotTls);
    }
    let pem = std::fs::read(path).map_err(|error| ConnectProblem::Unreadable { path: path.to_owned(), error })?;
    let mut store = RootCertStore::empty();
    let all_good = CertificateDer::pem_slice_iter(&pem).all(|found| found.is_ok_and(|found| store.add(found).is_ok()));
    if !all_good || store.is_empty() {
        return Err(ConnectProblem::NoAuthority { path: path.to_owned() });
    }
    Ok(pem)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn an_address_is_read_as_servers_write_it() {
        let teller = Address { host: "10.0.0.1".to_owned(), port: 7000 };
        let told = |text: &str| Address::told(text, &teller).map(|address| address.to_string());
        assert_eq!(told("10.0.0.2:7001").as_deref(), Some("10.0.0.2:7001"));
        assert_eq!(told("redis-2.example.com:7001").as_deref(), Some("redis-2.example.com:7001"));
        assert_eq!(told("2001:db8::2:7001").as_deref(), Some("[2001:db8::2]:7001"));
        assert_eq!(told(":7001").as_deref(), Some("10.0.0.1:7001"));
        assert_eq!(told("?:7001").as_deref(), Some("10.0.0.1:7001"));
        for wrong in ["", "host", "host:", "host:0", "host:65536", "host:x"] {
            assert_eq!(told(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn urls_of_different_schemes_are_refused() {
        let urls = ["redis://a:1".to_owned(), "rediss://b:2".to_owned()];
        assert!(matches!(Access::to(&urls, None, None, None), Err(ConnectProblem::Mixed)));
        let (_, addresses) = Access::to(&urls[..1], None, None, None).unwrap();
        assert_eq!(addresses, [Address { host: "a".to_owned(), port: 1 }]);
    }
}
