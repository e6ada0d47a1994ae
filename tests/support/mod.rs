//! What the tests share: processes that end with the test, waiting with a deadline, and the peers themselves.

pub(crate) mod authority;
pub(crate) mod calls;
pub(crate) mod envoy;
pub(crate) mod liar;
pub(crate) mod oidc;
pub(crate) mod paths;
pub(crate) mod proxy;
pub(crate) mod redis;
pub(crate) mod server;
pub(crate) mod signer;

use std::collections::VecDeque;
use std::fmt;
use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::time::{Instant, sleep, timeout};

/// How often [`poll`] looks.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// How many lines of standard error are kept for the message of a test that fails.
const COMPLAINTS_MAX: usize = 5_000;

/// The repository's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Looks again and again until `check` finds something, and fails with `what` when that takes longer than `within`.
pub(crate) async fn poll<T>(within: Duration, what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {within:?}");
        sleep(POLL_INTERVAL).await;
    }
}

/// A program that `scripts/test` installs with Go, or that of the machine.
pub(crate) fn tool(name: &str) -> PathBuf {
    let own = root().join("target/tools/bin").join(name);
    if own.is_file() { own } else { PathBuf::from(name) }
}

/// Signals that tests send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Please end.
    Terminate,
    /// Please end, as ctrl-C says it.
    Interrupt,
    /// Please read your configuration again.
    Hangup,
    /// Stand still: connections stay open and nothing is answered.
    Stop,
    /// Go on after `Stop`.
    Continue,
}

impl Signal {
    const fn name(self) -> &'static str {
        match self {
            Self::Terminate => "TERM",
            Self::Interrupt => "INT",
            Self::Hangup => "HUP",
            Self::Stop => "STOP",
            Self::Continue => "CONT",
        }
    }
}

/// A process that a test started. It is killed, by its id, when this is dropped; a test that is killed itself closes
/// the process's standard input, which those who read it take as the sign to end.
pub(crate) struct Process {
    name: String,
    child: Child,
    lines: UnboundedReceiver<String>,
    complaints: Arc<Mutex<VecDeque<String>>>,
}

impl Process {
    /// Starts `command`. Its standard input stays open and empty; its output is read here, so that it never blocks.
    ///
    /// Fails the test with `remedy` when there is no such program.
    pub(crate) fn start(mut command: Command, remedy: &str) -> Self {
        let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = started.unwrap_or_else(|error| panic!("{name} cannot be started: {error}; {remedy}"));
        let (sender, lines) = mpsc::unbounded_channel();
        read(child.stdout.take().expect("it is piped"), move |line| {
            // Nobody listens any more once the test is over.
            let _ = sender.send(line);
        });
        let complaints = Arc::<Mutex<VecDeque<String>>>::default();
        let kept = Arc::clone(&complaints);
        read(child.stderr.take().expect("it is piped"), move |line| {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() == COMPLAINTS_MAX {
                kept.pop_front();
            }
            kept.push_back(line);
        });
        Self { name, child, lines, complaints }
    }

    /// The next line of standard output. Fails the test when it does not come within `within`.
    pub(crate) async fn line(&mut self, within: Duration) -> String {
        let Ok(said) = timeout(within, self.lines.recv()).await else {
            panic!("{self} said nothing within {within:?}")
        };
        said.unwrap_or_else(|| panic!("{self} ended before it said anything more"))
    }

    /// The last lines of standard error.
    pub(crate) fn complaints(&self) -> String {
        let complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        complaints.iter().fold(String::new(), |text, line| text + line + "\n")
    }

    /// The process's id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let sent = Command::new("kill").arg(format!("-{}", signal.name())).arg(self.id().to_string()).status();
        assert!(sent.is_ok_and(|status| status.success()), "{self} cannot be sent {signal:?}");
    }

    /// Waits for its end. Fails the test when that does not come within `within`.
    pub(crate) async fn ended(&mut self, within: Duration) -> ExitStatus {
        let what = format!("the end of {self}");
        poll(within, &what, async || self.child.try_wait().expect("a child can be waited for")).await
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.child.id())?;
        self.complaints().lines().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; either way nothing is left to wait for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Hands on each line that `stream` gives, until it ends.
fn read(stream: impl Read + Send + 'static, mut each: impl FnMut(String) + Send + 'static) {
    thread::spawn(move || BufReader::new(stream).lines().map_while(Result::ok).for_each(&mut each));
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn shell(script: &str) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::start(command, "a test needs a shell")
    }

    /// Whether a process has that id: signal 0 tells, and does nothing.
    fn lives(id: u32) -> bool {
        let asked = Command::new("kill").args(["-0", &id.to_string()]).stderr(Stdio::null()).status();
        asked.expect("kill is part of every system").success()
    }

    #[tokio::test]
    async fn a_process_is_gone_once_it_is_dropped() {
        let mut process = shell("trap '' TERM; echo ready; while read -r line; do :; done");
        assert_eq!(process.line(SOON).await, "ready");
        let id = process.id();
        process.signal(Signal::Terminate);
        assert!(lives(id));
        drop(process);
        assert!(!lives(id));
    }

    /// What the next test starts, and kills.
    #[test]
    #[ignore = "it waits to be killed"]
    fn a_test_with_a_redis_that_goes_on_for_ever() {
        let server = redis::RedisServer::start().unwrap();
        println!("\nport {}", server.port());
        std::io::stdin().lines().for_each(drop);
    }

    #[tokio::test]
    async fn a_redis_ends_when_its_test_is_killed() {
        let Some(_redis) = redis::RedisServer::start() else { return };
        let mut command = Command::new(std::env::current_exe().unwrap());
        let name = "support::tests::a_test_with_a_redis_that_goes_on_for_ever";
        command.args(["--ignored", "--exact", name, "--nocapture"]);
        let mut process = Process::start(command, "this program is a test");
        let port: u16 = loop {
            if let Some(port) = process.line(SOON).await.strip_prefix("port ") {
                break port.parse().unwrap();
            }
        };
        let answers = async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok();
        assert!(answers().await);
        drop(process);
        poll(SOON, "the end of its Redis", async || (!answers().await).then_some(())).await;
    }

    #[tokio::test]
    async fn a_process_that_stands_still_says_nothing_until_it_goes_on() {
        let mut process = shell("echo ready; read -r line; echo over");
        assert_eq!(process.line(SOON).await, "ready");
        process.signal(Signal::Stop);
        drop(process.child.stdin.take());
        assert!(timeout(Duration::from_millis(100), process.lines.recv()).await.is_err());
        process.signal(Signal::Continue);
        assert_eq!(process.line(SOON).await, "over");
        assert!(process.ended(SOON).await.success());
    }

    #[tokio::test]
    #[should_panic(expected = "oh no")]
    async fn a_process_that_ends_too_early_shows_its_complaints() {
        let mut process = shell("echo 'oh no' >&2; exec >&-; read -r line");
        poll(SOON, "the complaint", async || process.complaints.lock().ok()?.front().cloned()).await;
        process.line(SOON).await;
    }

    #[tokio::test]
    #[should_panic(expected = "a blue moon: not within 20ms")]
    async fn polling_ends_at_the_deadline() {
        poll(Duration::from_millis(20), "a blue moon", async || None::<()>).await;
    }

    #[test]
    fn a_tool_that_the_project_did_not_install_is_the_machines() {
        assert_eq!(tool("no-such-tool"), Path::new("no-such-tool"));
    }

    #[test]
    #[should_panic(expected = "run ./scripts/test")]
    fn a_program_that_is_missing_is_named_with_the_remedy() {
        Process::start(Command::new("no-such-program"), "run ./scripts/test");
    }
}
