//! `tollgate serve`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use tollgate::config::Config;
use tollgate::decide::ports::Clock as _;
use tollgate::server::dev::{self, DevIssuer};
use tollgate::server::{Server, SystemClock, life};
use tollgate::telemetry::{self, LogFormat};

use super::{Done, block_on, environment, print};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The configuration file.
    #[arg(long, env = "TOLLGATE_CONFIG", value_name = "FILE", required_unless_present = "dev")]
    config: Option<PathBuf>,
    /// First run: memory store, an issuer of its own with a fresh key, a sample policy, and a token to try it with.
    /// Listens on loopback only.
    #[arg(long, conflicts_with = "config")]
    dev: bool,
    /// Where --dev serves gRPC.
    #[arg(long, requires = "dev", value_name = "ADDRESS")]
    grpc: Option<SocketAddr>,
    /// Where --dev serves HTTP.
    #[arg(long, requires = "dev", value_name = "ADDRESS")]
    http: Option<SocketAddr>,
    /// Where --dev serves metrics and probes.
    #[arg(long, requires = "dev", value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    /// What is logged, to standard error: a level, or a list such as `info,tollgate=debug`.
    #[arg(long, env = "TOLLGATE_LOG", value_name = "FILTER", default_value = "info")]
    log: String,
    /// How logs look: `auto` is text on a terminal, else one JSON object a line.
    #[arg(long, env = "TOLLGATE_LOG_FORMAT", value_enum, default_value_t)]
    log_format: LogFormat,
    /// This replica's name in explanations; default: the host's name.
    #[arg(long, env = "TOLLGATE_REPLICA")]
    replica: Option<String>,
}

pub(super) fn run(arguments: Arguments) -> Done {
    telemetry::log(arguments.log_format, &arguments.log).map_err(|error| error.to_string())?;
    let replica = arguments.replica.unwrap_or_else(|| gethostname::gethostname().to_string_lossy().into_owned());
    let clock = SystemClock::start();
    block_on(&mut tokio::runtime::Builder::new_multi_thread(), async {
        let signals = life::Signals::listen().map_err(|error| format!("cannot listen to signals: {error}"))?;
        let drained = if let Some(file) = arguments.config {
            let source = life::Source::new(file, &environment);
            let (config, warnings) = source.load().map_err(|problems| problems.to_string())?;
            life::warn(&warnings);
            let server = start(config, clock, &replica).await?;
            life::run(server, Some(source), signals).await
        } else {
            let issuer = DevIssuer::new().map_err(|_| "the system has no randomness for a key".to_owned())?;
            let mut config = dev::config(&issuer).map_err(|problems| problems.to_string())?;
            config.listen.grpc = arguments.grpc.unwrap_or(config.listen.grpc);
            config.listen.http = arguments.http.unwrap_or(config.listen.http);
            config.listen.admin = arguments.admin.unwrap_or(config.listen.admin);
            only_here(&config)?;
            let server = start(config, clock, &replica).await?;
            let token = issuer
                .token("alice", "orders:read", clock.now().wall)
                .map_err(|error| format!("cannot make a token: {error}"))?;
            server.ready().await;
            print::line(dev::welcome(&server, &token));
            life::run(server, None, signals).await
        };
        Ok(if drained { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

/// Whoever reaches a server that was started with --dev could use its sample policy as an open door.
fn only_here(config: &Config) -> Result<(), String> {
    for (option, address) in
        [("--grpc", config.listen.grpc), ("--http", config.listen.http), ("--admin", config.listen.admin)]
    {
        if !address.ip().is_loopback() {
            return Err(format!("{option}: --dev listens on loopback only, such as 127.0.0.1:0; found {address}"));
        }
    }
    Ok(())
}

async fn start(config: Config, clock: SystemClock, replica: &str) -> Result<Server, String> {
    let server = Server::start(config, Arc::new(clock), replica).await.map_err(|problem| problem.to_string())?;
    tracing::info!(grpc = %server.grpc, http = %server.http, admin = %server.admin, version = env!("CARGO_PKG_VERSION"), "listening");
    Ok(server)
}
