//! The configuration: one YAML file, read strictly, all problems at once.
//!
//! `yaml` makes a tree with positions of the text, `reader` has the words in which the sections read it, and each
//! section makes checked values of its part. Nothing unchecked leaves this module.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::domain::api_key::{self, ApiKey};
use crate::domain::certificate::DNS_ISSUER;
use crate::domain::gateway::Gateways;
use crate::domain::issuer::Issuer;
use crate::domain::limit::{Limit, WhenAway};
use crate::domain::name::NamePattern;
use crate::domain::policy::{Demand, Operators, Paths, Policy, Rule};
use crate::domain::ratelimit::RateLimits;
use crate::domain::revocation::{Lifetimes, Trust};
use crate::domain::time::Micros;

pub use crate::domain::secret::Secret;
pub use problem::{Position, Problem, Problems, Severity};
use reader::{Item, Reader};
pub use tls::{Clients, Tls};

pub mod api_keys;
pub mod cases;
mod certificates;
mod claims;
mod clients;
mod connection;
mod gateways;
mod guards;
mod identity_headers;
mod introspection;
mod issuers;
mod limits;
mod order;
mod problem;
mod ratelimit;
mod reader;
mod rules;
mod server;
#[cfg(test)]
mod tests;
mod tls;
mod values;
mod yaml;

/// Everything that a server is told, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Where it listens.
    pub listen: Listen,
    /// How connections to it are secured; none: they are not.
    pub tls: Option<Tls>,
    /// Where quotas are kept.
    pub store: Store,
    /// Whose tokens are accepted; each issuer once.
    pub issuers: Vec<Issuer>,
    /// Callers with such names may be identified by their certificate alone.
    pub certificates: Vec<NamePattern>,
    /// What `DPoP` proofs need.
    pub dpop: Dpop,
    /// Which API keys are accepted.
    pub api_keys: ApiKeys,
    /// How what was taken back is kept and known.
    pub revocation: Revocation,
    /// Rules and limits; its version is left at 0.
    pub policy: Policy,
    /// How much is accepted at a time.
    pub bounds: Bounds,
    /// The files that the configuration refers to, and the folders in which it looks for some: it is to be read again when
    /// one of them changes. Sorted.
    pub files: Vec<PathBuf>,
}

/// Where the server listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// gRPC; 127.0.0.1:50051 by default.
    pub grpc: SocketAddr,
    /// HTTP; 127.0.0.1:8080 by default.
    pub http: SocketAddr,
    /// Metrics and probes; 127.0.0.1:9464 by default.
    pub admin: SocketAddr,
}

/// Where quotas are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Store {
    /// In this process: the embedded default.
    #[default]
    Memory,
    /// In Redis.
    Redis(Redis),
}

/// Which API keys are accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiKeys {
    /// Where they are.
    pub kept: KeptKeys,
    /// Whether administrative scopes in them count.
    pub operators: bool,
}

/// Where API keys are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum KeptKeys {
    /// Nowhere: none is accepted.
    #[default]
    Nowhere,
    /// In a file, which had these; each id once.
    Listed(Vec<ApiKey>),
    /// In Redis, which is the store then.
    Redis,
}

/// How what was taken back is kept and known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocation {
    /// How much a replica trusts what it knows.
    pub trust: Trust,
    /// Where it is kept across restarts, where the store is this process; none: nowhere.
    pub file: Option<PathBuf>,
}

/// How Redis is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redis {
    /// Which servers there are.
    pub reach: Reach,
    /// Overrides the user of a single server's URL.
    pub username: Option<String>,
    /// Overrides the password of a single server's URL.
    pub password: Option<Secret>,
    /// The certificate authorities (PEM) that `rediss://` trusts; none: the system's.
    pub ca: Option<PathBuf>,
    /// How long one call may take; 12 ms by default, below Envoy's 20 ms for an external check.
    pub deadline: Micros,
}

/// Which servers there are. All URLs begin with `redis://`, or all with `rediss://` (TLS).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// One server, in whose URL database, user and password may be; or nodes of one cluster. Never empty.
    Servers(Vec<Secret>),
    /// The master that Sentinels name.
    Sentinel(Sentinel),
}

/// Who knows which server is the master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentinel {
    /// Where the Sentinels are. Never empty.
    pub urls: Vec<Secret>,
    /// The name by which they know the master.
    pub service: String,
    /// The user of the Sentinels themselves.
    pub username: Option<String>,
    /// The password of the Sentinels themselves.
    pub password: Option<Secret>,
}

/// How much is accepted at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// gRPC calls and HTTP requests in flight; more are turned away at once. 10,000 by default.
    pub calls_in_flight: usize,
    /// How long calls in flight may go on after a stop was asked for; 10 s by default.
    pub drain: Micros,
    /// Tokens whose verdicts are remembered, at most; 100,000 by default.
    pub remembered_tokens: usize,
}

/// What `DPoP` proofs need (RFC 9449).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dpop {
    /// What nonces are made with, which proofs need then; none: proofs need no nonce.
    pub nonce_secret: Option<Secret>,
}

/// The JSON Schema (draft 2020-12) of the configuration, for editors.
pub const SCHEMA: &str = include_str!("schema.json");

/// Reads a configuration file. Its environment references are answered by `environment`; relative paths in it start at
/// its folder. Answers the configuration and the warnings.
///
/// # Errors
/// Every problem that there is, warnings included.
pub fn load(path: &Path, environment: &dyn Fn(&str) -> Option<String>) -> Result<(Config, Vec<Problem>), Problems> {
    let name = path.display().to_string();
    let bytes = reader::read_file(path, yaml::TEXT_BYTES_MAX as u64);
    let text = bytes.map_err(|message| yaml::Flaw { at: None, message }).and_then(yaml::text);
    match text {
        Ok(text) => read(&text, path, environment),
        Err(flaw) => Err(Problems::of(Problem {
            severity: Severity::Error,
            file: name,
            position: flaw.at,
            key: String::new(),
            message: flaw.message,
        })),
    }
}

/// Reads a configuration from its text. `name` stands for the file in problems; relative paths start at its folder.
///
/// # Errors
/// Every problem that there is, warnings included.
pub fn parse(
    text: &str,
    name: &str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<(Config, Vec<Problem>), Problems> {
    read(text, Path::new(name), environment)
}

fn read(
    text: &str,
    path: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<(Config, Vec<Problem>), Problems> {
    let mut reader = Reader::new(path, environment);
    let config = match yaml::read(text) {
        Ok(node) => config(&mut reader, &Item::root(&node)),
        Err(flaw) => {
            reader.flaw(flaw);
            None
        }
    };
    let (config, warnings, files) = reader.end(config)?;
    Ok((Config { files, ..config }, warnings))
}

fn config(reader: &mut Reader<'_>, root: &Item<'_>) -> Option<Config> {
    let mut fields = reader.fields(root, "configuration")?;
    let listen = fields.or(reader, "listen", (Listen::default(), None), server::listen);
    let store = fields.or(reader, "store", Store::Memory, server::store);
    let issuers = fields.or(reader, "issuers", Vec::new(), issuers::issuers);
    let dpop = fields.or(reader, "dpop", Dpop::default(), server::dpop);
    let limits = fields.or(reader, "limits", limits::Limits::new(), limits::limits).unwrap_or_default();
    let in_redis = !matches!(store, Some(Store::Memory));
    let api_keys = fields
        .or(reader, "api_keys", ApiKeys::default(), |reader, item| api_keys::api_keys(reader, item, &limits, in_redis));
    let is_left_to_defaults = in_redis && !fields.has("revocation");
    let revocation = fields
        .or(reader, "revocation", Revocation::default(), |reader, item| server::revocation(reader, item, in_redis));
    let certificates = fields.or(reader, "certificates", Vec::new(), certificates::certificates);
    let asks = listen.as_ref().is_none_or(|(_, tls)| tls.as_ref().is_some_and(|tls| tls.clients != Clients::Anyone));
    let operators = fields
        .or(reader, "operators", Operators::default(), |reader, item| certificates::operators(reader, item, asks));
    let of_certificates: Vec<String> = certificates.iter().flatten().map(certificates::issuer).collect();
    let names = issuers.iter().flatten().map(|issuer| issuer.issuer.as_str());
    let names: Vec<&str> = names.chain(of_certificates.iter().map(String::as_str)).chain([api_key::ISSUER]).collect();
    let known = rules::Known { limits: &limits, issuers: &names };
    let rules = fields.or(reader, "rules", Vec::new(), |reader, item| rules::rules(reader, item, &known));
    let paths = fields.or(reader, "path", Paths::default(), guards::paths);
    let clients = fields.or(reader, "clients", Vec::new(), clients::clients);
    let identity_headers = fields.or(reader, "identity_headers", Vec::new(), identity_headers::identity_headers);
    let gateways = fields.or(reader, "gateways", Gateways::default(), gateways::gateways);
    let rate_limits = fields.or(reader, "envoy_ratelimit", RateLimits::default(), ratelimit::ratelimit);
    let bounds = fields.or(reader, "bounds", Bounds::default(), server::bounds);
    fields.finish(reader);
    // By name, as a map of names is.
    let limits = limits.into_values().flatten().collect();
    let (issuers, certificates, api_keys, rules) = (issuers?, certificates?, api_keys?, rules?);
    for (taken, whose) in [(api_key::ISSUER, "API keys"), (DNS_ISSUER, "certificates")] {
        if issuers.iter().any(|issuer| issuer.issuer == taken) {
            let problem = format!("has an issuer named `{taken}`, as the holders of {whose} have; name it otherwise");
            reader.error(root, problem);
        }
    }
    let nobody = issuers.is_empty() && certificates.is_empty() && api_keys.kept == KeptKeys::Nowhere;
    let rate_limits = rate_limits?;
    if rules.is_empty() && rate_limits.domains.is_empty() && !reader.failed() {
        reader.warning(root, "has no rule, so every call is denied; add `rules`");
    }
    if nobody && !reader.failed() && rules.iter().any(|rule| rule.demand != Demand::Anyone) {
        reader.warning(root, "has no issuer, so every call that needs a caller is denied; add `issuers` or `api_keys`");
    }
    if is_left_to_defaults && !reader.failed() && rules.iter().any(is_lenient) {
        reader.warning(
            root,
            "has rules for callers whose limits let calls go on without Redis (`when_away`), but callers' tokens are denied \
             then, since nobody knows which were revoked; say `revocation: { when_behind: allow }` if they are to pass, \
             or `ask` if not",
        );
    }
    let policy = Policy {
        version: 0,
        rules: rules.into(),
        paths: paths?,
        limits,
        operators: operators?,
        clients: clients?,
        identity_headers: identity_headers?,
        gateways: gateways?,
        rate_limits,
        lifetimes: issuers.iter().map(lifetimes).collect(),
    };
    let (listen, tls) = listen?;
    let (store, dpop, bounds, files) = (store?, dpop?, bounds?, Vec::new());
    let revocation = revocation?;
    Some(Config { listen, tls, store, issuers, certificates, dpop, api_keys, revocation, policy, bounds, files })
}

/// Whether its callers might go on while the store is away, as far as its limits say.
fn is_lenient(rule: &Rule) -> bool {
    let goes_on = |limit: &Arc<Limit>| limit.when_away != WhenAway::Deny;
    rule.demand != Demand::Anyone && !rule.limits.is_empty() && rule.every_limit().all(goes_on)
}

fn lifetimes(issuer: &Issuer) -> (Box<str>, Lifetimes) {
    (issuer.issuer.as_str().into(), issuer.lifetimes())
}

impl Config {
    /// What differs in `new` and takes effect only with a restart. A reload that needs one is to be refused whole.
    pub fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        [
            ("listen", self.listen != new.listen),
            ("store", self.store != new.store),
            ("revocation.file", self.revocation.file != new.revocation.file),
            ("bounds", self.bounds != new.bounds),
        ]
        .into_iter()
        .filter_map(|(section, differs)| differs.then_some(section))
        .collect()
    }
}

impl Redis {
    /// Below Envoy's 20 ms for an external check.
    pub const DEADLINE: Micros = Micros::from_millis(12);
}

/// This machine only.
impl Default for Listen {
    fn default() -> Self {
        let at = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        Self { grpc: at(50051), http: at(8080), admin: at(9464) }
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self { calls_in_flight: 10_000, drain: Micros::from_secs(10), remembered_tokens: 100_000 }
    }
}
