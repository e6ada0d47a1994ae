//! A real Redis for tests: a child process on a free port of the loopback, killed by its process id on drop, and when the
//! test's own process is killed.
//!
//! Included by the library's own tests and by the end-to-end tests, so it depends on nothing but the standard library.
#![allow(dead_code, reason = "each crate that includes this uses a part of it")]
#![allow(clippy::panic, clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

#[path = "redis/topology.rs"]
mod topology;

pub(crate) use self::topology::{RedisCluster, Sentinels};

/// Set to 1 where there is no Redis: the tests that need it then say that they were skipped.
const SKIP: &str = "TOLLGATE_TEST_SKIP_REDIS";

/// The program to run in place of `redis-server`, such as `valkey-server`.
const PROGRAM: &str = "TOLLGATE_TEST_REDIS_SERVER";

/// How often, every 10 ms, a starting or stopping server is looked at before the test fails.
const LOOKS_MAX: usize = 1_000;

/// A port may be taken by someone else between its choice and its use.
const STARTS_MAX: usize = 5;

/// A running (or stopped) Redis server.
pub(crate) struct RedisServer {
    child: Option<Watched>,
    port: u16,
    kind: Kind,
    folder: PathBuf,
}

/// A server's process, and one that ends it when nobody is there any more to do so.
pub(crate) struct Watched {
    server: Child,
    watch: Child,
}

impl Watched {
    /// The watch reads what it is never told: its standard input ends when this process does, in whatever way.
    pub(crate) fn new(server: Child) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", "read -r _; kill -KILL \"$1\"", "sh", &server.id().to_string()]);
        let watch = shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { server, watch }
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.server.try_wait().is_ok_and(|ended| ended.is_some())
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // The watch first: once the server is waited for, its id may be another's. It works on a paused server, too, and
        // there is nobody left to tell of an error.
        for process in [&mut self.watch, &mut self.server] {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// What a process is told.
#[derive(Clone, Debug)]
enum Kind {
    /// Options of a server that keeps data.
    Server(Vec<String>),
    /// Lines of a Sentinel's configuration.
    Sentinel(String),
}

impl Kind {
    /// A node of a cluster takes the port that is 10,000 above it, too.
    fn free_port(&self) -> u16 {
        let is_node =
            matches!(self, Self::Server(options) if options.iter().any(|option| option == "--cluster-enabled"));
        let fits = |port: &u16| {
            !is_node
                || port.checked_add(10_000).is_some_and(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
        };
        (0..LOOKS_MAX).map(|_| free_port()).find(fits).unwrap()
    }

    fn password(&self) -> Option<&str> {
        let Self::Server(options) = self else { return None };
        let at = options.iter().position(|option| option == "--requirepass")?;
        options.get(at + 1).map(String::as_str)
    }
}

impl RedisServer {
    /// An empty server that persists nothing. `None` where the tests are told to go without, by the environment.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// The same, with more options, such as `["--maxmemory", "2mb"]`.
    pub(crate) fn start_with(options: &[&str]) -> Option<Self> {
        if std::env::var_os(SKIP).is_some_and(|value| value == "1") {
            eprintln!("skipped: it needs Redis, and {SKIP}=1");
            return None;
        }
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        Some(Self::start_as(&Kind::Server(options)))
    }

    fn start_as(kind: &Kind) -> Self {
        for _ in 0..STARTS_MAX {
            let port = kind.free_port();
            let folder = std::env::temp_dir().join(format!("tollgate-redis-{}-{port}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            let mut server = Self { child: None, port, kind: kind.clone(), folder };
            if server.try_spawn() {
                return server;
            }
        }
        panic!("redis-server did not start: {kind:?}");
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// How clients without a password reach it.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Kills it, as a crash does.
    pub(crate) fn kill(&mut self) {
        self.child = None;
    }

    /// Starts it again, empty, on the same port.
    pub(crate) fn restart(&mut self) {
        self.kill();
        for _ in 0..STARTS_MAX {
            if self.try_spawn() {
                return;
            }
        }
        panic!("redis-server did not start again on port {}", self.port);
    }

    /// Stops its process (SIGSTOP): connections stay, answers do not come.
    pub(crate) fn pause(&self) {
        self.signal("STOP");
    }

    /// Lets it go on (SIGCONT).
    pub(crate) fn resume(&self) {
        self.signal("CONT");
    }

    /// Sends one command and gives its answer as text; an error begins with `-`, and an array has a line for each part.
    pub(crate) fn command(&self, words: &[&str]) -> String {
        self.try_command(words).unwrap()
    }

    /// Whether it says that it has this role. Sentinels who give it another one end its connections, this one too.
    pub(crate) fn has_role(&self, role: &str) -> bool {
        self.try_command(&["ROLE"]).is_ok_and(|answer| answer.starts_with(role))
    }

    fn try_command(&self, words: &[&str]) -> io::Result<String> {
        let mut stream = BufReader::new(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?);
        stream.get_ref().set_read_timeout(Some(Duration::from_secs(5)))?;
        if let Some(password) = self.kind.password() {
            exchange(&mut stream, &["AUTH", password])?;
        }
        exchange(&mut stream, words)
    }

    fn try_spawn(&mut self) -> bool {
        let mut command = Command::new(std::env::var_os(PROGRAM).unwrap_or_else(|| "redis-server".into()));
        match &self.kind {
            Kind::Server(options) => {
                command.args(["--bind", "127.0.0.1", "--port", &self.port.to_string()]);
                command.args(["--save", "", "--appendonly", "no", "--daemonize", "no"]);
                command.arg("--dir").arg(&self.folder).args(options);
            }
            Kind::Sentinel(lines) => {
                let file = self.folder.join("sentinel.conf");
                std::fs::write(&file, format!("bind 127.0.0.1\nport {}\n{lines}\n", self.port)).unwrap();
                command.arg(&file).arg("--sentinel").current_dir(&self.folder);
            }
        }
        match command.stdin(Stdio::null()).stdout(Stdio::null()).spawn() {
            Ok(child) => self.child = Some(Watched::new(child)),
            Err(error) => panic!(
                "redis-server cannot be started ({error}): install it (apt-get install redis-server), \
                 or set {SKIP}=1 to go without the tests that need it"
            ),
        }
        self.is_ready()
    }

    /// Waits until it answers; false when it ended instead.
    fn is_ready(&mut self) -> bool {
        for _ in 0..LOOKS_MAX {
            if self.child.as_mut().is_none_or(Watched::has_ended) {
                self.child = None;
                return false;
            }
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
            let pong = stream.and_then(|stream| exchange(&mut BufReader::new(stream), &["PING"]));
            if pong.is_ok_and(|pong| pong == "PONG" || pong.starts_with("-NOAUTH")) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("redis-server on port {} does not answer", self.port);
    }

    fn signal(&self, name: &str) {
        let id = self.child.as_ref().map(|child| child.server.id()).unwrap();
        assert!(Command::new("kill").args([&format!("-{name}"), &id.to_string()]).status().unwrap().success());
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.child = None;
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn exchange(stream: &mut BufReader<TcpStream>, words: &[&str]) -> std::io::Result<String> {
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        let _ = write!(request, "${}\r\n{word}\r\n", word.len());
    }
    stream.get_mut().write_all(request.as_bytes())?;
    reply(stream)
}

fn reply(stream: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let line = line.trim_end();
    match line.split_at_checked(1) {
        Some(("+" | ":", text)) => Ok(text.to_owned()),
        Some(("$", "-1")) => Ok(String::new()),
        Some(("$", length)) => {
            let mut bytes = vec![0; length.parse::<usize>().unwrap_or(0) + 2];
            stream.read_exact(&mut bytes)?;
            bytes.truncate(bytes.len() - 2);
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        Some(("*", length)) => {
            let parts: Vec<String> =
                (0..length.parse::<usize>().unwrap_or(0)).map(|_| reply(stream)).collect::<Result<_, _>>()?;
            Ok(parts.join("\n"))
        }
        _ => Ok(line.to_owned()),
    }
}
