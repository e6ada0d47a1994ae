//! Where the server's time goes: perf records it while the server is under load.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tollgate::server::SystemClock;

use crate::cores::{Cores, command_on};
use crate::process::Process;
use crate::question::Questions;
use crate::row::Own;
use crate::subject::Subject;
use crate::{load, say};

/// How long is recorded.
const RECORDED: Duration = Duration::from_secs(10);

/// How long it is asked beforehand: afterwards the token is remembered, and leases are large.
const WARM_UP: Duration = Duration::from_secs(1);

/// How much longer it is asked than is recorded, since perf takes its time to begin.
const BESIDE: Duration = Duration::from_secs(2);

/// How long perf may take for writing what it recorded.
const WRITTEN_MAX: Duration = Duration::from_mins(1);

/// Samples of a second. No divisor of anything that happens at regular times.
const FREQUENCY: &str = "997";

/// A stack is found by its tables, so that no build of its own is needed. Futures within futures have large frames.
const CALL_GRAPH: &str = "dwarf,32768";

/// What is recorded, and how it is asked.
#[derive(Debug, Args)]
pub(crate) struct Record {
    /// How it is asked.
    #[arg(value_enum)]
    asked: Asked,
    /// The server, with symbols.
    #[arg(long, value_name = "FILE")]
    binary: PathBuf,
    /// perf.
    #[arg(long, value_name = "FILE", default_value = "perf")]
    perf: PathBuf,
    /// Where perf writes what it recorded.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
}

/// As the rows of the load test ask.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Asked {
    /// One question a call, 100 calls in flight.
    Unary,
    /// One stream, 100 questions in flight.
    Stream,
    /// Batches of 64, two in flight.
    Batch,
}

impl Asked {
    const fn own(self) -> Own {
        match self {
            Self::Unary => Own::Unary { calls: 100 },
            Self::Stream => Own::Stream { pending: 100 },
            Self::Batch => Own::Batch { questions: 64, calls: 2 },
        }
    }
}

/// Records a server with the memory store. Says how fast it was meanwhile.
pub(crate) async fn take(record: &Record, cores: Cores) -> Result<String, String> {
    let clock = SystemClock::start();
    let folder = tempfile::tempdir().map_err(|error| format!("cannot make a temporary folder: {error}"))?;
    let questions = Questions::new(clock)?;
    let config = (folder.path().join("tollgate.yaml"), questions.config(None));
    let server = Subject::start("memory".to_owned(), &record.binary, &config, cores, None).await?;
    let own = record.asked.own();
    load::ask(own, server.grpc, &questions, clock, WARM_UP).await?;
    let mut command = command_on(cores.load, &record.perf);
    command.args(["record", "--event", "cpu-clock", "--freq", FREQUENCY, "--call-graph", CALL_GRAPH, "--output"]);
    command.arg(&record.data).args(["--pid", &server.id().to_string()]);
    command.args(["--", "sleep", &RECORDED.as_secs().to_string()]);
    let mut perf = Process::start("perf", command)?;
    say(&format!("recording for {RECORDED:?} …"));
    let tally = load::ask(own, server.grpc, &questions, clock, RECORDED + BESIDE).await?;
    perf.ended(WRITTEN_MAX).await?;
    let rate = u128::from(tally.decisions) * 1_000 / tally.took.as_millis().max(1);
    Ok(format!("{rate} decisions/s while it was recorded\n"))
}
