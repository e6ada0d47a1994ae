//! Processes that end with the load test.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use clap::Args;
use tollgate::decide::ports::Clock as _;
use tollgate::domain::time::Micros;
use tollgate::server::SystemClock;

/// How long a server may take until it serves.
pub(crate) const START_MAX: Duration = Duration::from_mins(1);

/// How often a process that is to end by itself is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// How many of the last lines are shown when a process fails.
const LINES_SHOWN_MAX: usize = 10;

/// What is started.
#[derive(Debug, Args)]
pub(crate) struct Programs {
    /// The server.
    #[arg(long, value_name = "FILE")]
    pub binary: PathBuf,
    /// Redis.
    #[arg(long, value_name = "FILE", default_value = "redis-server")]
    pub redis: PathBuf,
}

/// A process, killed by its id when dropped.
pub(crate) struct Process {
    name: String,
    child: Child,
    /// What it writes, line by line, to either output.
    lines: Receiver<String>,
    last: VecDeque<String>,
    /// The CPU time of each thread when it was last looked at, in nanoseconds.
    threads: Mutex<BTreeMap<OsString, u64>>,
    clock: SystemClock,
}

impl Process {
    /// Starts `command`, called `name` in messages.
    pub(crate) fn start(name: &str, mut command: Command) -> Result<Self, String> {
        let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = started.map_err(|error| format!("{name} cannot be started: {error}"))?;
        let (sender, lines) = mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            read(stdout, sender.clone());
        }
        if let Some(stderr) = child.stderr.take() {
            read(stderr, sender);
        }
        let (last, threads) = (VecDeque::new(), Mutex::default());
        Ok(Self { name: name.to_owned(), child, lines, last, threads, clock: SystemClock::start() })
    }

    /// Waits for the line in which `found` finds something.
    pub(crate) fn wait_for<T>(&mut self, what: &str, found: impl Fn(&str) -> Option<T>) -> Result<T, String> {
        let deadline = self.clock.steady() + START_MAX.into();
        loop {
            match self.lines.recv_timeout(deadline.since(self.clock.steady()).into()) {
                Ok(line) => {
                    if let Some(found) = found(&line) {
                        return Ok(found);
                    }
                    self.keep(line);
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(self.failed(&format!("did not say within {START_MAX:?} {what}")));
                }
                Err(RecvTimeoutError::Disconnected) => return Err(self.failed(&format!("ended before it said {what}"))),
            }
        }
    }

    /// Waits until it ends by itself.
    pub(crate) async fn ended(&mut self, within: Duration) -> Result<(), String> {
        let deadline = self.clock.steady() + within.into();
        while self.clock.steady() < deadline {
            match self.child.try_wait() {
                Ok(None) => tokio::time::sleep(LOOK_INTERVAL).await,
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(self.failed(&ended_by(status))),
                Err(error) => return Err(format!("{} cannot be waited for: {error}", self.name)),
            }
        }
        Err(self.failed(&format!("did not end within {within:?}")))
    }

    /// Its id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The CPU time that it has used so far, in user space and in the kernel, to the microsecond. The time of the whole process
    /// (`/proc/<pid>/stat`) is told in hundredths of a second; that of each thread is not. What a thread did between the last
    /// look and its end is missing: servers keep theirs.
    pub(crate) fn cpu(&self) -> Result<Micros, String> {
        let folder = format!("/proc/{}/task", self.child.id());
        let gone = |error: &dyn std::fmt::Display| format!("{} is gone: {folder}: {error}", self.name);
        // A panic while it was held ends the program.
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in fs::read_dir(&folder).map_err(|error| gone(&error))? {
            let thread = thread.map_err(|error| gone(&error))?;
            // One that ended just now.
            let Ok(text) = fs::read_to_string(thread.path().join("schedstat")) else { continue };
            let nanos = text.split_ascii_whitespace().next().and_then(|nanos| nanos.parse().ok());
            let nanos: u64 = nanos.ok_or_else(|| format!("schedstat in {folder} is not understood: {text}"))?;
            threads.insert(thread.file_name(), nanos);
        }
        if threads.is_empty() {
            return Err(format!("{folder} has no schedstat: this kernel does not keep it"));
        }
        Ok(Micros(threads.values().sum::<u64>() / 1_000))
    }

    /// The memory that it takes up at the moment, in bytes (`VmRSS` of proc(5)).
    pub(crate) fn resident(&self) -> Result<f64, String> {
        let file = format!("/proc/{}/status", self.child.id());
        let text = fs::read_to_string(&file).map_err(|error| format!("{} is gone: {file}: {error}", self.name))?;
        let kib = text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
        kib.map(|kib: f64| kib * 1024.0).ok_or_else(|| format!("{file} is not understood"))
    }

    fn keep(&mut self, line: String) {
        if self.last.len() == LINES_SHOWN_MAX {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    /// What is told when it did something else than it should.
    fn failed(&mut self, what: &str) -> String {
        while let Ok(line) = self.lines.try_recv() {
            self.keep(line);
        }
        let said: Vec<String> = self.last.iter().map(|line| format!("\n  {line}")).collect();
        format!("{} {what}{}", self.name, said.concat())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; either way nothing is left to wait for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ended_by(status: ExitStatus) -> String {
    format!("failed ({status})")
}

/// Hands on each line, so that the process never blocks on a full pipe.
fn read(stream: impl Read + Send + 'static, lines: Sender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            // Nobody listens any more; reading goes on.
            let _ = lines.send(line);
        }
    });
}
