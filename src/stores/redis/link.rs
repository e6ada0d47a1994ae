//! The connection to Redis: kept by a task of its own that connects, watches and connects again.
//!
//! Callers never connect. While the first attempt after a loss is under way they wait for it, within their deadline;
//! once it has failed they are told so at once, until a later attempt succeeds.

use std::hash::{BuildHasher as _, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisError,
    TlsCertificates, cmd,
};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::pulse::epoch_of;
use super::{Settings, cause_of};
use crate::decide::ports::{Away, AwayCause, Epoch};

/// How long one attempt to connect may take, the greeting included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The shortest and the longest pause after an attempt that failed; it doubles in between.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// How often the connection is tried when idle: a peer that vanished without a word is noticed by that alone.
const PING_EVERY: Duration = Duration::from_secs(1);

/// How long an answer is waited for at most, where the caller has no shorter deadline.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Commands that may queue for the socket before callers wait.
const QUEUE: usize = 1_024;

/// Why the settings cannot work. Holds no secret.
#[derive(Debug, thiserror::Error)]
pub enum ConnectProblem {
    /// The URL is none of Redis.
    #[error("the URL of Redis must be redis://host:port/database or rediss://host:port/database")]
    Url,
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

/// A connection, and which of those so far.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) connection: MultiplexedConnection,
    /// Of the data behind it, as far as is known.
    pub(super) epoch: Arc<AtomicU64>,
    generation: u64,
}

#[derive(Clone)]
enum State {
    /// The first attempt, at the start or after a loss, is under way.
    Connecting,
    Up(Line),
    Down(AwayCause),
}

/// A connection that a caller found of no use, and why.
#[derive(Clone, Copy)]
struct Useless {
    generation: u64,
    because: AwayCause,
}

pub(super) struct Link {
    state: watch::Receiver<State>,
    /// The latest connection that a caller found of no use.
    useless: watch::Sender<Useless>,
    keeper: AbortHandle,
}

impl Link {
    pub(super) fn open(settings: &Settings) -> Result<Self, ConnectProblem> {
        let client = client(settings)?;
        let (publish, state) = watch::channel(State::Connecting);
        let (useless, reports) = watch::channel(Useless { generation: 0, because: AwayCause::Unreachable });
        let keeper = tokio::spawn(keep(client, publish, reports)).abort_handle();
        Ok(Self { state, useless, keeper })
    }

    /// The connection, as soon as it is known whether there is one.
    pub(super) async fn line(&self) -> Result<Line, Away> {
        let mut state = self.state.clone();
        let known = state.wait_for(|state| !matches!(state, State::Connecting)).await;
        let because = match known.as_deref() {
            Ok(State::Up(line)) => return Ok(line.clone()),
            Ok(State::Down(cause)) => *cause,
            // The keeper ends only with the link.
            Ok(State::Connecting) | Err(_) => AwayCause::Unreachable,
        };
        Err(Away { because })
    }

    /// Has the connection made anew: it broke, or leads to a server that cannot serve.
    pub(super) fn report_useless(&self, line: &Line, because: AwayCause) {
        self.useless.send_if_modified(|latest| {
            let news = line.generation > latest.generation;
            if news {
                *latest = Useless { generation: line.generation, because };
            }
            news
        });
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

async fn keep(client: Client, publish: watch::Sender<State>, mut reports: watch::Receiver<Useless>) {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(RESPONSE_TIMEOUT))
        .set_pipeline_buffer_size(QUEUE);
    let mut pause = PAUSE_MIN;
    for generation in 1.. {
        match connect(&client, &config).await {
            Ok((connection, epoch)) => {
                let line = Line { connection, epoch: Arc::new(AtomicU64::new(epoch.0.get())), generation };
                publish.send_replace(State::Up(line.clone()));
                match until_useless(line, &mut reports).await {
                    (Lived::Long, _) => {
                        pause = PAUSE_MIN;
                        publish.send_replace(State::Connecting);
                        continue;
                    }
                    (Lived::NotLong, because) => {
                        publish.send_replace(State::Down(because));
                    }
                }
            }
            Err(error) => {
                // Only the cause: the text may quote the address, and the guard logs what matters once.
                debug!(cause = %cause_of(&error), "no connection to Redis");
                publish.send_replace(State::Down(cause_of(&error)));
            }
        }
        sleep(jittered(pause)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// A connection, and the epoch of the data that it leads to.
async fn connect(
    client: &Client,
    config: &AsyncConnectionConfig,
) -> Result<(MultiplexedConnection, Epoch), RedisError> {
    let mut connection = client.get_multiplexed_async_connection_with_config(config).await?;
    let epoch = epoch_of(&mut connection).await?;
    Ok((connection, epoch))
}

/// Whether a connection proved itself. One that breaks as soon as it is made is no better than none.
#[derive(PartialEq, Eq)]
enum Lived {
    Long,
    NotLong,
}

/// Why the connection is of no use any more, too.
async fn until_useless(mut line: Line, reports: &mut watch::Receiver<Useless>) -> (Lived, AwayCause) {
    let mut lived = Lived::NotLong;
    loop {
        tokio::select! {
            report = reports.wait_for(|latest| latest.generation >= line.generation) => {
                // An error means that the link is gone, and this task with it.
                return (lived, report.map_or(AwayCause::Unreachable, |report| report.because));
            }
            () = sleep(PING_EVERY) => {}
        }
        let ping = cmd("PING");
        match timeout(RESPONSE_TIMEOUT, ping.query_async::<()>(&mut line.connection)).await {
            Ok(Ok(())) => lived = Lived::Long,
            // A server that refuses the command is there.
            Ok(Err(error)) if !error.is_io_error() && !error.is_unrecoverable_error() => lived = Lived::Long,
            Ok(Err(_)) | Err(_) => return (lived, AwayCause::Unreachable),
        }
    }
}

/// Between three quarters of `pause` and five, so that replicas do not come back all at once.
fn jittered(pause: Duration) -> Duration {
    let random = u32::from(RandomState::new().hash_one(()).to_le_bytes()[0]);
    pause * 3 / 4 + pause * random / 512
}

fn client(settings: &Settings) -> Result<Client, ConnectProblem> {
    let Settings { url, username, password, ca, time: _ } = settings;
    let known = ["redis://", "rediss://"].iter().any(|scheme| url.starts_with(scheme));
    // A fragment could ask for TLS without verification.
    if !known || url.contains('#') {
        return Err(ConnectProblem::Url);
    }
    let info = url.as_str().into_connection_info().map_err(|_| ConnectProblem::Url)?;
    let mut redis = info.redis_settings().clone().set_skip_set_lib_name();
    if let Some(username) = username {
        redis = redis.set_username(username);
    }
    if let Some(password) = password {
        redis = redis.set_password(password);
    }
    let info = info.set_redis_settings(redis);
    match ca {
        None => Client::open(info).map_err(|_| ConnectProblem::Url),
        Some(path) => trusting(path.clone(), info),
    }
}

fn trusting(path: PathBuf, info: ConnectionInfo) -> Result<Client, ConnectProblem> {
    if !matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
        return Err(ConnectProblem::NotTls);
    }
    let pem = match std::fs::read(&path) {
        Ok(pem) => pem,
        Err(error) => return Err(ConnectProblem::Unreadable { path, error }),
    };
    let mut authorities = RootCertStore::empty();
    let all_good =
        CertificateDer::pem_slice_iter(&pem).all(|found| found.is_ok_and(|found| authorities.add(found).is_ok()));
    if !all_good || authorities.is_empty() {
        return Err(ConnectProblem::NoAuthority { path });
    }
    Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert: Some(pem) })
        .map_err(|_| ConnectProblem::NoAuthority { path })
}
