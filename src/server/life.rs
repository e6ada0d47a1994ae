//! From the first moment to the last: signals and changed files.

use std::future::pending;
use std::io;
use std::path::{Path, PathBuf};

use tokio::signal::unix::{SignalKind, signal};

use super::Server;
use super::watch::Watch;
use crate::config::{self, Problem};

/// Answers environment references in configurations.
pub type Environment<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Runs `server` until SIGTERM or SIGINT, and reads `file` again when it or a file that it refers to changes, or on
/// SIGHUP. Whether all calls in flight finished.
///
/// # Errors
/// The process cannot listen to signals.
pub async fn run(server: Server, file: Option<&Path>, environment: &Environment<'_>) -> io::Result<bool> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut watch = file.map(|file| Watch::new(files(&server, file)));
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {}
            () = changed(&mut watch) => {}
        }
        match file {
            None => tracing::info!("nothing to reload: the server was started without a configuration file"),
            Some(file) => {
                reload(&server, file, environment);
                if let Some(watch) = &mut watch {
                    watch.follow(files(&server, file));
                }
            }
        }
    }
    tracing::info!("stopping: calls in flight may finish");
    let drained = server.stop().await;
    tracing::info!(drained, "stopped");
    Ok(drained)
}

async fn changed(watch: &mut Option<Watch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => pending().await,
    }
}

/// What the configuration in force was read from.
fn files(server: &Server, file: &Path) -> Vec<PathBuf> {
    let mut files = server.parts.config.load().files.clone();
    files.push(file.to_owned());
    files
}

/// All or nothing: whatever is wrong leaves everything as it was.
fn reload(server: &Server, file: &Path, environment: &Environment<'_>) {
    let outcome = match config::load(file, environment) {
        Ok((config, warnings)) => {
            warn(&warnings);
            server.reload(config)
        }
        Err(problems) => Err(problems.listed.iter().map(Problem::to_string).collect()),
    };
    server.parts.count_reload(outcome.is_ok());
    match outcome {
        Ok(()) => tracing::info!(
            file = %file.display(),
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
