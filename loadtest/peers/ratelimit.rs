//! envoyproxy/ratelimit, as a yardstick: its process, its configuration, and the messages that it is asked with.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use prost::Message;
use tollgate::proto::envoy::service::ratelimit::v3 as pb;
use tollgate::proto::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use tonic::transport::Channel;

use super::connected;
use crate::cores::{Cores, command_on};
use crate::load::{self, message::Answer};
use crate::process::Process;
use crate::redis::{Redis, free_port};

/// The most that its configuration can say, a minute.
const UNITS: u32 = u32::MAX;

/// Limits in its configuration: as many as are asked for at most.
const LIMITS: usize = 4;

/// The folder of its files, within the one that it is told of.
const SUBDIRECTORY: &str = "ratelimit";

/// Its files of limits.
pub(crate) struct Files {
    /// What it is told.
    root: PathBuf,
    /// Where they are.
    pub config: PathBuf,
}

/// A running envoyproxy/ratelimit.
pub(crate) struct Ratelimit {
    /// Its process.
    pub process: Process,
    /// Where it serves gRPC.
    pub grpc: SocketAddr,
    /// To that port.
    pub channel: Channel,
}

impl Ratelimit {
    /// Starts it with these files and that Redis, and everything else as it comes but the sink for statistics, of which
    /// there is none.
    pub(crate) async fn start(program: &Path, files: &Files, redis: u16, cores: Cores) -> Result<Self, String> {
        let (grpc, http, debug) = (free_port()?, free_port()?, free_port()?);
        let mut command = command_on(cores.server, program);
        command.envs([("HOST", "127.0.0.1"), ("GRPC_HOST", "127.0.0.1"), ("DEBUG_HOST", "127.0.0.1")]);
        command.env("GRPC_PORT", grpc.to_string()).env("PORT", http.to_string()).env("DEBUG_PORT", debug.to_string());
        command.envs([("REDIS_SOCKET_TYPE", "tcp"), ("USE_STATSD", "false"), ("RUNTIME_WATCH_ROOT", "false")]);
        command.env("REDIS_URL", format!("127.0.0.1:{redis}"));
        command.env("RUNTIME_ROOT", &files.root).env("RUNTIME_SUBDIRECTORY", SUBDIRECTORY);
        let process = Process::start("envoyproxy/ratelimit", command)?;
        let grpc = (Ipv4Addr::LOCALHOST, grpc).into();
        Ok(Self { process, grpc, channel: connected("envoyproxy/ratelimit", grpc).await? })
    }
}

/// Writes a file for each of these domains, all with the same limits.
pub(crate) fn write_files(folder: &Path, domains: &[&str]) -> Result<Files, String> {
    let config = folder.join(SUBDIRECTORY).join("config");
    fs::create_dir_all(&config).map_err(|error| format!("{}: {error}", config.display()))?;
    for domain in domains {
        let file = config.join(format!("{domain}.yaml"));
        fs::write(&file, configuration(domain)).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(Files { root: folder.to_owned(), config })
}

/// Each value of `limit-n` has a counter of its own.
fn configuration(domain: &str) -> String {
    let limit =
        |number| format!("  - key: limit-{number}\n    rate_limit: {{ unit: minute, requests_per_unit: {UNITS} }}\n");
    let limits: Vec<String> = (0..LIMITS).map(limit).collect();
    format!("domain: {domain}\ndescriptors:\n{}", limits.concat())
}

/// The configuration of a Tollgate that reads the very same files, with `more` said of them; with the memory store where there is
/// no Redis.
pub(crate) fn configuration_of_tollgate(files: &Files, redis: Option<&Redis>, more: &str) -> String {
    // A busy machine is not what is measured: the deadline is too long to be met by it.
    let store = redis.map_or_else(String::new, |redis| {
        format!("store: {{ redis: {{ urls: [\"{}\"], deadline: 2s }} }}\n", redis.url())
    });
    format!(
        r#"listen: {{ grpc: "127.0.0.1:0", http: "127.0.0.1:0", admin: "127.0.0.1:0" }}
{store}envoy_ratelimit: {{ files: ["{every}"]{more} }}
"#,
        every = files.config.join("*.yaml").display(),
    )
}

/// What the server says of a question with so many limits, as it is asked all the time; the floor repeats it.
pub(crate) async fn answer(server: SocketAddr, domain: &str, limits: usize) -> Result<pb::RateLimitResponse, String> {
    let question = request(domain, limits, 0).encode_to_vec();
    let question = pb::RateLimitRequest::decode(question.as_slice());
    let question = question.map_err(|error| format!("the question: {error}"))?;
    let mut client = RateLimitServiceClient::new(load::connect(server).await?);
    let answer = client.should_rate_limit(question).await.map_err(|status| load::refused(&status))?.into_inner();
    let limited = answer.statuses.iter().filter(|status| status.current_limit.is_some()).count();
    if limited == limits { Ok(answer) } else { Err(format!("not every descriptor has a limit: {answer:?}")) }
}

/// The question: one descriptor for each limit.
pub(crate) fn request(domain: &str, limits: usize, key: u64) -> RateLimitRequest {
    let descriptor = |number| {
        let entry = Entry { key: format!("limit-{number}"), value: key.to_string() };
        Descriptor { entries: vec![entry] }
    };
    RateLimitRequest { domain: domain.to_owned(), descriptors: (0..limits).map(descriptor).collect() }
}

/// `envoy.service.ratelimit.v3.RateLimitRequest`, as far as it is used.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RateLimitRequest {
    #[prost(string, tag = "1")]
    domain: String,
    #[prost(message, repeated, tag = "2")]
    descriptors: Vec<Descriptor>,
}

#[derive(Clone, PartialEq, Message)]
struct Descriptor {
    #[prost(message, repeated, tag = "1")]
    entries: Vec<Entry>,
}

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// `envoy.service.ratelimit.v3.RateLimitResponse`, as far as it is read.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Limited {
    /// 1 is OK.
    #[prost(int32, tag = "1")]
    overall_code: i32,
}

impl Answer for Limited {
    const PATH: &'static str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";

    fn allows(&self) -> Option<u64> {
        (self.overall_code == 1).then_some(1)
    }
}
