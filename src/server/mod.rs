//! The composition root: builds everything from a configuration, serves it, swaps what a reload changes, and drains.

mod admin;
mod api_keys;
mod clock;
mod connections;
pub mod dev;
mod grpc;
mod http;
mod incoming;
mod layers;
pub mod life;
pub mod rehearsal;
mod tls;
mod watch;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::http::{Request, Response};
use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

pub use self::api_keys::{api_key_records, draw_api_key};
pub use self::clock::SystemClock;
use self::grpc::Services;
use self::incoming::Incoming;
use self::layers::Admission;
use self::tls::Tls;
use crate::api;
pub use crate::api::codec::MESSAGE_BYTES_MAX;
use crate::api::envoy_authz::ExtAuthz;
use crate::api::envoy_rls::RateLimitApi;
use crate::api::native::{Decisions, QuotaApi, TokenApi};
use crate::config::{self, Config, KeptKeys, Secret, Store};
use crate::decide::ports::{Clock, ProofLog, Quotas, RevocationLog};
use crate::decide::{Decider, Hearing};
use crate::domain::api_key;
use crate::domain::policy::Policy;
use crate::proto::DESCRIPTORS;
use crate::proto::quota_service_server::QuotaServiceServer;
use crate::proto::token_service_server::TokenServiceServer;
use crate::quotas::{LeaseDesk, QuotaDesk};
use crate::revocation::{Follower, Revocations};
use crate::stores::memory::{self, MemoryStore};
use crate::stores::proofs::{self, MemoryProofs};
use crate::stores::redis::{self, RedisStore};
use crate::stores::revocations::MemoryRevocations;
use crate::telemetry::{Telemetry, names};
use crate::tokens::{self, Kept, KeyRing, Tokens};

/// How often a store that is being connected to is asked at the start.
const CONNECT_INTERVAL: Duration = Duration::from_millis(20);

/// How often a stop looks whether calls are in flight.
const DRAIN_INTERVAL: Duration = Duration::from_millis(10);

/// How long connections may take to close once the last call has ended: its answer is still to be sent, but a peer that
/// is gone or never spoke does not hold up a stop.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Every service that has a status of its own.
const SERVICES: [&str; 6] = [
    "",
    "tollgate.v1.DecisionService",
    "tollgate.v1.QuotaService",
    "tollgate.v1.TokenService",
    "envoy.service.auth.v3.Authorization",
    "envoy.service.ratelimit.v3.RateLimitService",
];

/// A server that runs.
pub struct Server {
    /// Where gRPC is served.
    pub grpc: SocketAddr,
    /// Where HTTP is served.
    pub http: SocketAddr,
    /// Where metrics and probes are served.
    pub admin: SocketAddr,
    parts: Arc<Parts>,
    tasks: JoinSet<()>,
}

/// What is shared between the ports.
struct Parts {
    config: ArcSwap<Config>,
    telemetry: Arc<Telemetry>,
    decider: Arc<Decider>,
    tokens: Arc<Tokens>,
    hearing: Arc<Hearing>,
    revocations: Arc<Revocations>,
    /// Of the gRPC port.
    tls: Arc<Tls>,
    http_tls: Arc<Tls>,
    /// None: the memory store, which is never away.
    shared: Option<Shared>,
    admission: Admission,
    health: HealthReporter,
    policy_version: AtomicU64,
    ready: CancellationToken,
    /// Cancelled when a stop was asked for: streams end, no more connections are accepted.
    stopping: CancellationToken,
    /// Cancelled when the last connection of the gRPC port has closed.
    stopped: CancellationToken,
    /// The same of the HTTP port.
    http_stopped: CancellationToken,
}

/// A store that several replicas share, and what this one holds of it.
struct Shared {
    store: Arc<RedisStore>,
    desk: Arc<LeaseDesk>,
}

/// Why a server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartProblem {
    /// A port cannot be listened on.
    #[error("listen.{key}: cannot listen on {address}: {error}")]
    Listen {
        /// Which.
        key: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// Something in the configuration turned out not to work.
    #[error("{0}")]
    Configuration(String),
}

impl Server {
    /// Starts to serve what `config` says. `replica` names this process in explanations. Port 0 stands for any free one.
    ///
    /// # Errors
    /// A port is taken, or a key file cannot be used. A Redis or an issuer that is away is no error: it is waited for.
    pub async fn start(config: Config, clock: Arc<dyn Clock>, replica: &str) -> Result<Self, StartProblem> {
        let grpc = listen("grpc", config.listen.grpc).await?;
        let http = listen("http", config.listen.http).await?;
        let admin = listen("admin", config.listen.admin).await?;
        let (health, health_service) = tonic_health::server::health_reporter();
        let parts = Arc::new(Parts::build(config, &clock, health)?);
        parts.say(ServingStatus::NotServing).await;

        let mut server = Self {
            grpc: local("grpc", &grpc)?,
            http: local("http", &http)?,
            admin: local("admin", &admin)?,
            parts: Arc::clone(&parts),
            tasks: JoinSet::new(),
        };
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .map_err(|error| StartProblem::Configuration(format!("reflection: {error}")))?;
        let services = parts.services(replica, Routes::new(health_service).add_service(reflection).prepare());
        let admission = parts.admission.clone();
        let grpc_port = grpc::serve(
            Incoming::new(grpc, Arc::clone(&parts.tls)).stream(),
            move |peer, request| services.call(&admission, peer, request),
            parts.stopping.clone(),
        );
        // However it ends.
        let stopped = parts.stopped.clone().drop_guard();
        server.tasks.spawn(async move {
            let _stopped = stopped;
            grpc_port.await;
        });
        let pages = api::http::router(Arc::clone(&parts.decider), Arc::clone(&parts.hearing) as _, replica)
            .map_err(StartProblem::Configuration)?;
        let http_port = http::serve(
            Incoming::new(http, Arc::clone(&parts.http_tls)).stream(),
            pages,
            parts.admission.clone(),
            parts.stopping.clone(),
        );
        let stopped = parts.http_stopped.clone().drop_guard();
        server.tasks.spawn(async move {
            let _stopped = stopped;
            http_port.await;
        });
        server.tasks.spawn(admin::serve(admin, Arc::clone(&parts)));
        server.tasks.spawn(Follower::new(Arc::clone(&parts.revocations), clock).run());
        let (tokens, hearing) = (Arc::clone(&parts.tokens), Arc::clone(&parts.hearing));
        server.tasks.spawn(async move { tokens.poll_events(&*hearing).await });
        if let Some(Shared { desk, .. }) = &parts.shared {
            let (pulse, upkeep) = (Arc::clone(desk), Arc::clone(desk));
            server.tasks.spawn(async move { pulse.pulse().await });
            server.tasks.spawn(async move { upkeep.upkeep().await });
        }
        server.tasks.spawn(become_ready(parts));
        Ok(server)
    }

    /// Goes over to `config`, all or nothing. A request whose caller is known by then is decided by the rules that it began
    /// with, every other by the new configuration; none by issuers, keys or certificates of one and rules of the other.
    /// `DPoP` nonces and the trust in revocations are asked last, and what is in force then counts.
    ///
    /// # Errors
    /// Sentences that say what cannot be taken over. Everything stays as it was then.
    pub fn reload(&self, config: Config) -> Result<(), Vec<String>> {
        let parts = &self.parts;
        let fixed = parts.config.load().needs_restart(&config);
        if !fixed.is_empty() {
            return Err(fixed.iter().map(|key| format!("{key}: can only be changed by a restart")).collect());
        }
        let secured = parts.secured(&config).map_err(|problem| vec![problem])?;
        let issuers = parts.tokens.prepare(config.issuers.clone())?;
        parts.adopt(&config, issuers, secured);
        parts.config.store(Arc::new(config));
        Ok(())
    }

    /// Completes when every issuer's keys were asked for once, whatever came of it.
    pub async fn ready(&self) {
        self.parts.ready.cancelled().await;
    }

    /// Stops: says so to health checks, ends streams, lets calls in flight finish within the configured time. Whether
    /// all of them did.
    pub async fn stop(mut self) -> bool {
        let parts = &self.parts;
        // First, so that whoever has just become ready cannot say so after this.
        parts.stopping.cancel();
        parts.say(ServingStatus::NotServing).await;
        let drain = Duration::from(parts.config.load().bounds.drain);
        let drained = timeout(drain, parts.calls_ended()).await.is_ok();
        if drained {
            // Who watches them has been told, and would stay for ever.
            for service in SERVICES {
                parts.health.clone().clear_service_status(service).await;
            }
            let closed = async {
                parts.stopped.cancelled().await;
                parts.http_stopped.cancelled().await;
            };
            let _ = timeout(CLOSE_TIMEOUT, closed).await;
        } else {
            tracing::warn!(
                calls = parts.admission.in_flight(),
                "calls were cut off: they took longer than bounds.drain"
            );
        }
        if let Some(Shared { desk, .. }) = &parts.shared {
            // Whoever is cut off here has only stranded what it held.
            let _ = timeout(CLOSE_TIMEOUT, desk.close()).await;
        }
        self.tasks.shutdown().await;
        drained
    }
}

/// What a server would refuse of `config` although it is well written: keys that cannot be used.
///
/// Else what can be used but hardly does what was meant: a certificate that has expired.
///
/// # Errors
/// A sentence for each issuer.
pub fn check(config: &Config) -> Result<Vec<String>, Vec<String>> {
    let telemetry = Telemetry::default();
    let proofs = Arc::new(MemoryProofs::new(1, &telemetry));
    let tokens =
        Tokens::new(Arc::new(SystemClock::start()), Arc::new(telemetry), 1, proofs).map_err(|problem| vec![problem])?;
    drop(tokens.prepare(config.issuers.clone())?);
    let now = SystemClock::start().now().wall;
    Ok(config.tls.iter().filter_map(|tls| tls::doubt(tls, now)).collect())
}

/// What the store of the configuration keeps.
struct Keepers {
    quotas: Arc<dyn Quotas>,
    proofs: Arc<dyn ProofLog>,
    log: Arc<dyn RevocationLog>,
    shared: Option<Shared>,
}

impl Keepers {
    fn of(config: &Config, clock: &Arc<dyn Clock>, telemetry: &Arc<Telemetry>) -> Result<Self, StartProblem> {
        Ok(match &config.store {
            Store::Memory => {
                let store = MemoryStore::new(memory::COUNTERS_MAX, telemetry);
                Self {
                    quotas: Arc::new(QuotaDesk::new(Arc::new(store))),
                    proofs: Arc::new(MemoryProofs::new(proofs::PROOFS_MAX, telemetry)),
                    log: Arc::new(revocation_log(config.revocation.file.as_deref())?),
                    shared: None,
                }
            }
            Store::Redis(settings) => {
                let store = Arc::new(redis_store(settings, clock, telemetry)?);
                let local = Arc::new(MemoryStore::new(memory::COUNTERS_MAX, telemetry));
                let desk =
                    LeaseDesk::new(Arc::clone(&store) as _, local, settings.deadline, Arc::clone(clock), telemetry);
                let desk = Arc::new(desk);
                Self {
                    quotas: Arc::clone(&desk) as _,
                    proofs: Arc::clone(&store) as _,
                    log: Arc::clone(&store) as _,
                    shared: Some(Shared { store, desk }),
                }
            }
        })
    }
}

impl Parts {
    fn build(config: Config, clock: &Arc<dyn Clock>, health: HealthReporter) -> Result<Self, StartProblem> {
        let telemetry = Telemetry::default();
        let telemetry = Arc::new(telemetry);
        let Keepers { quotas, proofs, log, shared } = Keepers::of(&config, clock, &telemetry)?;
        let tokens = Tokens::new(Arc::clone(clock), Arc::clone(&telemetry), config.bounds.remembered_tokens, proofs);
        let tokens = tokens.map_err(StartProblem::Configuration)?;
        let issuers = tokens.prepare(config.issuers.clone());
        let issuers = issuers.map_err(|problems| StartProblem::Configuration(problems.join("\n")))?;
        let revocations = Arc::new(Revocations::new(log, config.revocation.trust, &telemetry));
        let decider = Arc::new(Decider::new(
            Arc::clone(clock),
            Arc::clone(&tokens) as _,
            Arc::clone(&revocations) as _,
            Arc::clone(&revocations) as _,
            quotas,
            Arc::clone(&telemetry),
        ));
        let hearing = Hearing::new(Arc::clone(&decider), Arc::clone(&tokens) as _, &telemetry);
        let admission = Admission::new(config.bounds.calls_in_flight, telemetry.counter(names::OVERLOAD, &[]));
        let tls = Tls::new(tls::GRPC, clock, &telemetry);
        let http_tls = Tls::new(tls::HTTP, clock, &telemetry);
        let config = Arc::new(config);
        let parts = Self {
            config: ArcSwap::new(Arc::clone(&config)),
            telemetry,
            decider,
            tokens,
            hearing: Arc::new(hearing),
            revocations,
            tls,
            http_tls,
            shared,
            admission,
            health,
            policy_version: AtomicU64::new(0),
            ready: CancellationToken::new(),
            stopping: CancellationToken::new(),
            stopped: CancellationToken::new(),
            http_stopped: CancellationToken::new(),
        };
        let secured = parts.secured(&config).map_err(StartProblem::Configuration)?;
        parts.adopt(&config, issuers, secured);
        Ok(parts)
    }

    /// What secures both ports, to be adopted.
    fn secured(&self, config: &Config) -> Result<[tls::Prepared; 2], String> {
        let tls = config.tls.as_ref();
        Ok([self.tls.prepare(tls)?, self.http_tls.prepare(tls)?])
    }

    /// What nothing can go wrong with any more.
    fn adopt(&self, config: &Config, issuers: tokens::Prepared, [tls, http_tls]: [tls::Prepared; 2]) {
        self.tls.commit(tls);
        self.http_tls.commit(http_tls);
        if let Some(doubt) = config.tls.as_ref().and_then(|tls| tls::doubt(tls, self.decider.now().wall)) {
            tracing::warn!(%doubt, "in the configuration");
        }
        let policy = config.policy.clone();
        let version = self.policy_version.fetch_add(1, Ordering::Relaxed) + 1;
        let keys = key_ring(config, self.shared.as_ref().map(|shared| &shared.store));
        self.decider.adopt_with(Policy { version, ..policy }, || {
            self.tokens.commit(issuers);
            self.tokens.adopt_api_keys(keys);
            self.tokens.accept_certificates(config.certificates.clone());
            self.tokens.demand_nonces(config.dpop.nonce_secret.as_ref().map(Secret::reveal));
            self.revocations.adopt(config.revocation.trust);
        });
    }

    fn count_reload(&self, done: bool) {
        self.telemetry.counter(names::RELOADS, &[("outcome", if done { "done" } else { "refused" })]).increment(1);
    }

    /// All that is served by gRPC; `rest` is what is not of Tollgate's own.
    fn services(&self, replica: &str, rest: Routes) -> Arc<Services> {
        let decider = || Arc::clone(&self.decider);
        Arc::new(Services {
            decisions: Decisions::new(decider(), replica, self.stopping.clone()),
            quotas: QuotaServiceServer::new(QuotaApi::new(decider())).max_decoding_message_size(MESSAGE_BYTES_MAX),
            tokens: TokenServiceServer::new(TokenApi::new(decider())).max_decoding_message_size(MESSAGE_BYTES_MAX),
            authorization: ExtAuthz::new(decider()),
            rate_limits: RateLimitApi::new(decider()),
            rest,
        })
    }

    async fn calls_ended(&self) {
        let mut ticks = interval(DRAIN_INTERVAL);
        while self.admission.in_flight() > 0 {
            ticks.tick().await;
        }
    }

    /// Tells health checks, service by service.
    async fn say(&self, status: ServingStatus) {
        for service in SERVICES {
            self.health.set_service_status(service, status).await;
        }
    }
}

/// The API keys that `config` accepts; those that replicas share are in `store`.
fn key_ring(config: &Config, store: Option<&Arc<RedisStore>>) -> KeyRing {
    let kept = match (&config.api_keys.kept, store) {
        (KeptKeys::Listed(keys), _) => Kept::Listed(keys.clone()),
        (KeptKeys::Redis, Some(store)) => Kept::Shared(Arc::clone(store) as _),
        (KeptKeys::Nowhere, _) | (KeptKeys::Redis, None) => Kept::Nowhere,
    };
    let suited = config.policy.limits.iter().filter(|limit| api_key::unsuited(limit).is_none());
    let limits = suited.map(|limit| limit.name.clone()).collect();
    KeyRing { kept, operators: config.api_keys.operators, limits }
}

/// Where a process by itself keeps what was taken back.
fn revocation_log(file: Option<&Path>) -> Result<MemoryRevocations, StartProblem> {
    file.map_or_else(|| Ok(MemoryRevocations::new()), MemoryRevocations::open)
        .map_err(|problem| StartProblem::Configuration(format!("revocation.file: {problem}")))
}

fn redis_store(
    settings: &config::Redis,
    clock: &Arc<dyn Clock>,
    telemetry: &Arc<Telemetry>,
) -> Result<RedisStore, StartProblem> {
    let config::Redis { reach, username, password, ca, deadline } = settings;
    let revealed = |secrets: &[Secret]| secrets.iter().map(|secret| secret.reveal().to_owned()).collect();
    let reach = match reach {
        config::Reach::Servers(urls) => redis::Reach::Servers(revealed(urls)),
        config::Reach::Sentinel(config::Sentinel { urls, service, username, password }) => redis::Reach::Sentinels {
            urls: revealed(urls),
            service: service.clone(),
            username: username.clone(),
            password: password.as_ref().map(|password| password.reveal().to_owned()),
        },
    };
    let settings = redis::Settings {
        reach,
        username: username.clone(),
        password: password.as_ref().map(|password| password.reveal().to_owned()),
        ca: ca.clone(),
        ..redis::Settings::default()
    };
    let bounds = redis::Bounds { deadline: *deadline, ..redis::Bounds::default() };
    let gates = redis::Gates::new(bounds, Arc::clone(clock), Arc::clone(telemetry));
    RedisStore::connect(&settings, gates)
        .map_err(|problem| StartProblem::Configuration(format!("store.redis: {problem}")))
}

/// Serves what `answer` answers as the gRPC port does, without TLS, for ever. For the load test, whose floor stands on it.
pub async fn serve_grpc<F>(
    listener: TcpListener,
    answer: impl Fn(Request<hyper::body::Incoming>) -> F + Clone + Send + Sync + 'static,
) where
    F: Future<Output = Result<Response<tonic::body::Body>, Infallible>> + Send + 'static,
{
    let answer = move |_: &_, request| answer(request);
    grpc::serve(incoming::plain(listener), answer, CancellationToken::new()).await;
}

async fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, StartProblem> {
    TcpListener::bind(address).await.map_err(|error| StartProblem::Listen { key, address, error })
}

fn local(key: &'static str, listener: &TcpListener) -> Result<SocketAddr, StartProblem> {
    let address = SocketAddr::from(([0; 4], 0));
    listener.local_addr().map_err(|error| StartProblem::Listen { key, address, error })
}

/// Ready is whoever has asked for every issuer's keys once, and has reached its store, loaded what was revoked, or given that up for the moment:
/// waiting for one that is away would turn its outage into ours.
async fn become_ready(parts: Arc<Parts>) {
    parts.tokens.first_fetch().await;
    if let Some(Shared { store, desk }) = &parts.shared {
        while desk.beat().await.is_err() && store.health().iter().all(|(_, health)| health.is_ok()) {
            sleep(CONNECT_INTERVAL).await;
        }
    }
    parts.revocations.settled().await;
    parts.say(ServingStatus::Serving).await;
    parts.ready.cancel();
    if parts.stopping.is_cancelled() {
        parts.say(ServingStatus::NotServing).await;
    }
}
