//! Which process runs where: the server has a core of its own, so that its figures are its own too.

use std::fs;
use std::process::{Command, id};

/// The cores that this program may use, divided.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cores {
    /// How many there are.
    pub count: usize,
    /// The server's. None: there is one core for all.
    pub server: Option<usize>,
    /// That of this program and ghz.
    pub load: Option<usize>,
    /// Redis's: a third one, else that of the load.
    pub redis: Option<usize>,
}

impl Cores {
    /// Divides the cores that this process may run on.
    pub(crate) fn divide() -> Result<Self, String> {
        let status = fs::read_to_string("/proc/self/status").map_err(|error| format!("/proc/self/status: {error}"))?;
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let cores = list.and_then(|list| listed(list.trim()));
        let cores = cores.ok_or("/proc/self/status does not list the cores that are allowed")?;
        Ok(match *cores {
            [] | [_] => Self { count: cores.len(), server: None, load: None, redis: None },
            [server, load, ref rest @ ..] => {
                let redis = rest.first().copied().unwrap_or(load);
                Self { count: cores.len(), server: Some(server), load: Some(load), redis: Some(redis) }
            }
        })
    }

    /// Moves this process, all of its threads, to the core of the load.
    pub(crate) fn take_own(self) -> Result<(), String> {
        let Some(core) = self.load else { return Ok(()) };
        let moved = Command::new("taskset")
            .args(["--all-tasks", "--cpu-list", "--pid", &core.to_string(), &id().to_string()])
            .output()
            .map_err(|error| format!("taskset (of util-linux) cannot be run: {error}"))?;
        if moved.status.success() {
            return Ok(());
        }
        Err(format!("taskset: {}", String::from_utf8_lossy(&moved.stderr).trim()))
    }
}

/// A command that runs `program` on `core`, under the process id that it is started with.
pub(crate) fn command_on(core: Option<usize>, program: &std::path::Path) -> Command {
    match core {
        None => Command::new(program),
        Some(core) => {
            let mut command = Command::new("taskset");
            command.args(["--cpu-list", &core.to_string()]).arg(program);
            command
        }
    }
}

/// Reads `0-1,4`.
fn listed(list: &str) -> Option<Vec<usize>> {
    let mut cores = Vec::new();
    for part in list.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        cores.extend(from.parse::<usize>().ok()?..=to.parse().ok()?);
    }
    Some(cores)
}
