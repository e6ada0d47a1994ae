//! envoyproxy/ratelimit, as a yardstick: its process, its configuration, and the messages that it is asked with.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use prost::Message;
use tollgate::decide::ports::Clock as _;
use tollgate::server::SystemClock;
use tonic::transport::Channel;

use crate::cores::{Cores, command_on};
use crate::load::{self, message::Answer};
use crate::process::{Process, START_MAX};
use crate::redis::free_port;

/// How often it is tried while it starts.
const TRY_INTERVAL: Duration = Duration::from_millis(50);

/// The most that its configuration can say, a minute.
const UNITS: u32 = u32::MAX;

/// Limits in its configuration: as many as are asked for at most.
const LIMITS: usize = 4;

/// A running envoyproxy/ratelimit.
pub(crate) struct Ratelimit {
    /// Its process.
    pub process: Process,
    /// To its gRPC port.
    pub channel: Channel,
}

impl Ratelimit {
    /// Starts it with that Redis, and everything else as it comes but the sink for statistics, of which there is none.
    pub(crate) async fn start(program: &Path, folder: &Path, redis: u16, cores: Cores) -> Result<Self, String> {
        let files = folder.join("ratelimit").join("config");
        let config = files.join("config.yaml");
        fs::create_dir_all(&files)
            .and_then(|()| fs::write(&config, configuration()))
            .map_err(|error| format!("{}: {error}", config.display()))?;
        let (grpc, http, debug) = (free_port()?, free_port()?, free_port()?);
        let mut command = command_on(cores.server, program);
        command.envs([("HOST", "127.0.0.1"), ("GRPC_HOST", "127.0.0.1"), ("DEBUG_HOST", "127.0.0.1")]);
        command.env("GRPC_PORT", grpc.to_string()).env("PORT", http.to_string()).env("DEBUG_PORT", debug.to_string());
        command.envs([("REDIS_SOCKET_TYPE", "tcp"), ("USE_STATSD", "false"), ("RUNTIME_WATCH_ROOT", "false")]);
        command.env("REDIS_URL", format!("127.0.0.1:{redis}"));
        command.env("RUNTIME_ROOT", folder).env("RUNTIME_SUBDIRECTORY", "ratelimit");
        let process = Process::start("envoyproxy/ratelimit", command)?;
        let channel = connected((Ipv4Addr::LOCALHOST, grpc).into()).await?;
        Ok(Self { process, channel })
    }
}

/// Connects as soon as it listens.
async fn connected(address: SocketAddr) -> Result<Channel, String> {
    let clock = SystemClock::start();
    let deadline = clock.steady() + START_MAX.into();
    loop {
        match load::connect(address).await {
            Ok(channel) => return Ok(channel),
            Err(_) if clock.steady() < deadline => tokio::time::sleep(TRY_INTERVAL).await,
            Err(problem) => return Err(format!("envoyproxy/ratelimit did not listen within {START_MAX:?}: {problem}")),
        }
    }
}

/// Each value of `limit-n` has a counter of its own.
fn configuration() -> String {
    let limit =
        |number| format!("  - key: limit-{number}\n    rate_limit: {{ unit: minute, requests_per_unit: {UNITS} }}\n");
    let limits: Vec<String> = (0..LIMITS).map(limit).collect();
    format!("domain: load\ndescriptors:\n{}", limits.concat())
}

/// The question: one descriptor for each limit.
pub(crate) fn request(limits: usize, key: u64) -> RateLimitRequest {
    let descriptor = |number| {
        let entry = Entry { key: format!("limit-{number}"), value: key.to_string() };
        Descriptor { entries: vec![entry] }
    };
    RateLimitRequest { domain: "load".to_owned(), descriptors: (0..limits).map(descriptor).collect() }
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
