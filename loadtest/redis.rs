//! A Redis of the load test's own, and its account of what it did.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::time::Duration;

use redis::RedisError;
use redis::aio::MultiplexedConnection;
use tokio::time::{sleep, timeout};
use tollgate::domain::time::Micros;

use crate::cores::{Cores, command_on};
use crate::process::Process;

/// A port may be taken by someone else between its choice and its use.
const STARTS_MAX: usize = 5;

/// Redis, empty and without files.
pub(crate) struct Redis {
    /// Its process.
    pub process: Process,
    /// Where it listens, on loopback.
    pub port: u16,
}

/// How many slots a cluster has.
const SLOTS: u16 = 16_384;

/// How long a node may take to find that it has all of them.
const CLUSTER_MAX: Duration = Duration::from_secs(30);

impl Redis {
    /// Starts it on a port that was free a moment ago.
    pub(crate) fn start(program: &Path, folder: &Path, cores: Cores) -> Result<Self, String> {
        Self::start_with(program, folder, cores, false)
    }

    /// The same as a cluster's only node. A cluster is asked for each counter by itself.
    pub(crate) async fn start_cluster(program: &Path, folder: &Path, cores: Cores) -> Result<Self, String> {
        let redis = Self::start_with(program, folder, cores, true)?;
        let mut connection = redis.connect().await?;
        let problem = |error: RedisError| format!("Redis does not become a cluster: {error}");
        let mut slots = redis::cmd("CLUSTER");
        slots.arg("ADDSLOTS");
        (0..SLOTS).for_each(|slot| {
            slots.arg(slot);
        });
        slots.query_async::<()>(&mut connection).await.map_err(problem)?;
        let has_all = async {
            loop {
                let told: String = redis::cmd("CLUSTER").arg("INFO").query_async(&mut connection).await?;
                if told.contains("cluster_state:ok") {
                    return Ok(());
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(CLUSTER_MAX, has_all).await.map_err(|_| "Redis does not become a cluster in time")?.map_err(problem)?;
        Ok(redis)
    }

    fn start_with(program: &Path, folder: &Path, cores: Cores, of_a_cluster: bool) -> Result<Self, String> {
        let mut problem = String::new();
        for _ in 0..STARTS_MAX {
            let port = free_port()?;
            let mut command = command_on(cores.redis, program);
            command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
            command.args(["--save", "", "--appendonly", "no", "--dir"]).arg(folder);
            if of_a_cluster {
                command.args(["--cluster-enabled", "yes", "--cluster-config-file", &format!("nodes-{port}.conf")]);
            }
            let mut process = Process::start("Redis (Debian's package redis-server)", command)?;
            let serves = |line: &str| line.contains("Ready to accept connections").then_some(());
            match process.wait_for("that it serves", serves) {
                Ok(()) => return Ok(Self { process, port }),
                Err(why) => problem = why,
            }
        }
        Err(problem)
    }

    /// How clients reach it.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// A connection that any number of calls may share.
    pub(crate) async fn connect(&self) -> Result<MultiplexedConnection, String> {
        let client = redis::Client::open(self.url()).map_err(|error| error.to_string())?;
        client.get_multiplexed_async_connection().await.map_err(|error| format!("Redis cannot be reached: {error}"))
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> Result<u16, String> {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    Ok(free.map_err(|error| format!("there is no free port: {error}"))?.port())
}

/// Whether Tollgate sends such a command, rather than one of its scripts runs it.
pub(crate) fn sent_by_tollgate(command: &str) -> bool {
    matches!(command, "eval" | "evalsha" | "ping")
}

/// What Redis has done so far, by its own account.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    /// Its CPU time, in user space and in the kernel.
    pub cpu: Micros,
    /// How often each command was run, by clients and by scripts.
    pub calls: BTreeMap<String, u64>,
    /// Bytes that clients have sent.
    pub received: u64,
    /// Bytes that were sent to clients.
    pub sent: u64,
    /// Bytes that its data takes up, with all that belongs to it (`used_memory`).
    pub memory: u64,
}

impl Done {
    /// Asks for it. The asking is not in it.
    pub(crate) async fn so_far(connection: &mut MultiplexedConnection) -> Result<Self, String> {
        let mut asked = redis::pipe();
        for section in ["commandstats", "cpu", "stats", "memory"] {
            asked.cmd("INFO").arg(section);
        }
        let said: [String; 4] =
            asked.query_async(connection).await.map_err(|error| format!("Redis gives no account: {error}"))?;
        Self::read(&said).ok_or_else(|| "Redis's account is not understood".to_owned())
    }

    fn read([commands, cpu, stats, memory]: &[String; 4]) -> Option<Self> {
        let seconds = |name: &str| cpu.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        let number = |text: &str, name| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        let micros = (seconds("used_cpu_user:")? + seconds("used_cpu_sys:")?) * 1e6;
        let mut calls = BTreeMap::new();
        for line in commands.lines().filter_map(|line| line.strip_prefix("cmdstat_")) {
            let (name, figures) = line.split_once(":calls=")?;
            if name != "info" {
                calls.insert(name.to_owned(), figures.split(',').next()?.parse().ok()?);
            }
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some minutes in microseconds")]
        let cpu = Micros(micros as u64);
        let (received, sent) = (number(stats, "total_net_input_bytes:")?, number(stats, "total_net_output_bytes:")?);
        Some(Self { cpu, calls, received, sent, memory: number(memory, "used_memory:")? })
    }

    /// How often the commands for which `counts` holds were run since `before`.
    pub(crate) fn calls_since(&self, before: &Self, counts: impl Fn(&str) -> bool) -> u64 {
        let counted = self.calls.iter().filter(|(name, _)| counts(name));
        counted.map(|(name, calls)| calls - before.calls.get(name).copied().unwrap_or(0)).sum()
    }
}
