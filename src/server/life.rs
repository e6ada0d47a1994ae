//! From the first moment to the last: signals and changed files.

use std::future::pending;
use std::io;
use std::path::PathBuf;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Server;
use super::watch::Watch;
use crate::config::{self, Config, Problem, Problems};

/// Answers environment references in configurations.
pub type Environment<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// A configuration file that is watched.
pub struct Source<'a> {
    file: PathBuf,
    environment: &'a Environment<'a>,
    watch: Watch,
    /// The files of the configuration that was refused last: it may be mended in one of them.
    refused: Vec<PathBuf>,
}

impl<'a> Source<'a> {
    /// Watches `file` from now on, so that what changes while the server starts is noticed.
    pub fn new(file: PathBuf, environment: &'a Environment<'a>) -> Self {
        Self { watch: Watch::new([file.clone()]), file, environment, refused: Vec::new() }
    }

    /// Reads it. Answers the configuration and the warnings.
    ///
    /// # Errors
    /// Every problem that there is.
    pub fn load(&self) -> Result<(Config, Vec<Problem>), Problems> {
        config::load(&self.file, self.environment)
    }

    /// Watches what the configuration in force was read from, too, and one that was refused.
    fn follow(&mut self, server: &Server) {
        let referred = server.parts.config.load();
        self.watch.follow(referred.files.iter().chain(&self.refused).chain([&self.file]).cloned());
    }
}

/// The signals that end the process or have its configuration read again.
pub struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Listens from now on: one that comes before would end the process as it stands.
    ///
    /// # Errors
    /// The process cannot listen to signals.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

/// Runs `server` until SIGTERM or SIGINT, and reads `source` again when it or a file that it refers to changes, or on
/// SIGHUP. Whether all calls in flight finished; a second SIGTERM or SIGINT does not wait for them.
pub async fn run(server: Server, mut source: Option<Source<'_>>, signals: Signals) -> bool {
    let Signals { mut hangup, mut terminate, mut interrupt } = signals;
    if let Some(source) = &mut source {
        source.follow(&server);
    }
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = server.parts.stopped.cancelled() => {
                tracing::error!("stopping: the gRPC port is not served any more");
                return false;
            }
            _ = hangup.recv() => {
                // It is read now, whether the change was noticed yet or not.
                if let Some(source) = &mut source {
                    source.watch.look();
                }
            }
            () = changed(&mut source) => {}
        }
        match &mut source {
            None => tracing::info!("nothing to reload: the server was started without a configuration file"),
            Some(source) => {
                reload(&server, source);
                source.follow(&server);
            }
        }
    }
    tracing::info!("stopping: calls in flight may finish");
    let drained = tokio::select! {
        drained = server.stop() => drained,
        _ = terminate.recv() => false,
        _ = interrupt.recv() => false,
    };
    tracing::info!(drained, "stopped");
    drained
}

async fn changed(source: &mut Option<Source<'_>>) {
    match source {
        Some(source) => source.watch.changed().await,
        None => pending().await,
    }
}

/// All or nothing: whatever is wrong leaves everything as it was.
fn reload(server: &Server, source: &mut Source<'_>) {
    source.refused.clear();
    let outcome = match source.load() {
        Ok((config, warnings)) => {
            warn(&warnings);
            let files = config.files.clone();
            server.reload(config).inspect_err(|_| source.refused = files)
        }
        Err(problems) => {
            source.refused = problems.files;
            Err(problems.listed.iter().map(Problem::to_string).collect())
        }
    };
    server.parts.count_reload(outcome.is_ok());
    match outcome {
        Ok(()) => tracing::info!(
            file = %source.file.display(),
            policy_version = server.parts.decider.policy().version,
            "the configuration was read again"
        ),
        Err(problems) => {
            for problem in problems {
                tracing::error!(%problem, "the changed configuration is not used");
            }
        }
    }
}

/// Logs what can be used but hardly does what was meant.
pub fn warn(warnings: &[Problem]) {
    for warning in warnings {
        tracing::warn!(%warning, "in the configuration");
    }
}
