//! The load test: what a decision costs a server, beside a service that decides nothing (the floor), in one run.
//!
//! Run by `loadtest/run`, which builds what is measured; README.md beside it says what the figures mean.

#[path = "../benches/checked.rs"]
mod checked;
mod compare;
mod cores;
mod costs;
mod figures;
mod flame;
mod floor;
mod gateways;
mod ghz;
mod growth;
mod load;
mod metrics;
#[path = "../benches/orders.rs"]
mod orders;
mod peers;
mod process;
mod question;
mod quotas;
mod redis;
mod revocation;
mod row;
mod subject;
#[path = "../docs/picture/svg.rs"]
mod svg;
mod table;
mod traffic;

use std::fmt;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::coop::unconstrained;
use tollgate::server::SystemClock;

use self::cores::Cores;
use self::figures::Figures;
use self::ghz::Ghz;
use self::question::Questions;
use self::row::{ROWS, Row};
use self::subject::{Subject, Subjects};
use self::table::Table;

/// The one that the server has.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures what decisions cost a server, and prints a table in Markdown.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the servers, put load on them, print the table.
    Measure(Measure),
    /// Start Redis, the server and its yardsticks, and print what quotas cost Redis.
    Quotas(quotas::Measure),
    /// Start Redis and three servers, revoke tokens while they are used, and print how soon that is in force.
    Revocation(revocation::Measure),
    /// Start Redis, the server and its yardsticks, and print what the questions of Envoys cost.
    Gateways(gateways::Measure),
    /// Start servers with more and more of everything, print what decisions cost them, and draw it.
    Growth(growth::Measure),
    /// Start the server and its peers, and print and draw what the same question costs each.
    Compare(compare::Measure),
    /// Start the server, put load on it, and have perf record where its time goes.
    Flame(flame::Record),
    /// Serve a service that decides nothing: the floor. Prints where it listens.
    Floor {
        /// Which service.
        service: floor::Service,
        /// What it stands on.
        transport: floor::Transport,
        /// The answer that every question gets: an encoded message of the service.
        answer: PathBuf,
    },
}

/// What is measured, and for how long.
#[derive(Debug, Args)]
struct Measure {
    /// Short rows: 2 s instead of 10 s for each server.
    #[arg(long)]
    quick: bool,
    /// Only rows whose name contains this.
    #[arg(long, value_name = "TEXT", default_value = "")]
    row: String,
    /// The server. Given several times, each is measured with the memory store, in the same run: to compare builds.
    #[arg(long, value_name = "FILE", required = true)]
    binary: Vec<PathBuf>,
    /// ghz, which drives the unary rows.
    #[arg(long, value_name = "FILE", default_value = "ghz")]
    ghz: PathBuf,
    /// Redis.
    #[arg(long, value_name = "FILE", default_value = "redis-server")]
    redis: PathBuf,
}

/// How long each server is under load in one row, and in how many slices. The servers take turns, slice by slice, so
/// that a disturbance of the machine hits all of them.
#[derive(Clone, Copy, Debug)]
struct Pace {
    slices: usize,
    slice: Duration,
}

impl Pace {
    const USUAL: Self = Self { slices: 5, slice: Duration::from_secs(2) };
    const QUICK: Self = Self { slices: 3, slice: Duration::from_millis(667) };
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Measure(measure) => print_from(|cores| async move { take(&measure, cores).await }),
        Command::Quotas(measure) => print_from(|cores| async move { quotas::take(&measure, cores).await }),
        Command::Revocation(measure) => print_from(|cores| async move { revocation::take(&measure, cores).await }),
        Command::Gateways(measure) => print_from(|cores| async move { gateways::take(&measure, cores).await }),
        Command::Floor { service, transport, answer } => floor::run(service, transport, &answer),
        Command::Growth(measure) => print_from(|cores| async move { growth::take(&measure, cores).await }),
        Command::Compare(measure) => print_from(|cores| async move { compare::take(&measure, cores).await }),
        Command::Flame(record) => print_from(|cores| async move { flame::take(&record, cores).await }),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            say(&format!("loadtest: {problem}"));
            ExitCode::FAILURE
        }
    }
}

/// Writes a line to standard error: the table alone goes to standard output.
fn say(text: &str) {
    // Nobody is left to be told.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Measures on the core of the load, and prints the table.
fn print_from<T: fmt::Display, F: Future<Output = Result<T, String>>>(
    measure: impl FnOnce(Cores) -> F,
) -> Result<(), String> {
    let cores = Cores::divide()?;
    cores.take_own()?;
    // One thread: it is to leave its core to ghz, and to ask cheaply itself.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the runtime: {error}"))?;
    runtime.block_on(async {
        let mut terminate =
            signal(SignalKind::terminate()).map_err(|error| format!("cannot await signals: {error}"))?;
        let mut interrupt =
            signal(SignalKind::interrupt()).map_err(|error| format!("cannot await signals: {error}"))?;
        tokio::select! {
            // Whatever was started ends as it is dropped.
            _ = terminate.recv() => Err("stopped by a signal".to_owned()),
            _ = interrupt.recv() => Err("stopped by a signal".to_owned()),
            // All that asks is one task. What it does in one go is not bounded by Tokio, which would wake what had to stop in
            // reverse order: some calls would be looked at only when others pause, and seem slow.
            table = unconstrained(measure(cores)) => {
                write!(io::stdout().lock(), "{}", table?).map_err(|error| format!("cannot print the table: {error}"))
            }
        }
    })
}

/// What is said where no row is wanted: a table without rows would look like a measurement.
fn no_row(wanted: &str, rows: &[&str]) -> String {
    format!("no row's name contains {wanted:?}; the rows are: {}", rows.join(", "))
}

async fn take(measure: &Measure, cores: Cores) -> Result<Table, String> {
    let pace = if measure.quick { Pace::QUICK } else { Pace::USUAL };
    let clock = SystemClock::start();
    let folder = tempfile::tempdir().map_err(|error| format!("cannot make a temporary folder: {error}"))?;
    let questions = Questions::new(clock)?;
    let ghz = Ghz::new(&measure.ghz, folder.path(), &questions)?;
    let rows: Vec<&Row> = ROWS.iter().filter(|row| row.name.contains(&measure.row)).collect();
    if rows.is_empty() {
        return Err(no_row(&measure.row, &ROWS.map(|row| row.name)));
    }
    let subjects = Subjects::start(&measure.binary, &measure.redis, folder.path(), &questions, cores).await?;
    let mut table = Table::new(&cores, pace, &measure.redis)?;
    for row in rows {
        say(&format!("{} …", row.name));
        let mut figures = vec![Figures::default(); subjects.list.len()];
        for _ in 0..pace.slices {
            for (subject, figures) in subjects.list.iter().zip(&mut figures) {
                let of = |problem| format!("{}, {}: {problem}", row.name, subject.name);
                figures.add(slice(row, subject, &ghz, &questions, clock, pace.slice).await.map_err(of)?);
            }
        }
        table.add(row, &subjects.list, &figures)?;
    }
    Ok(table)
}

/// Puts one server under load for a while.
async fn slice(
    row: &Row,
    subject: &Subject,
    ghz: &Ghz,
    questions: &Questions,
    clock: SystemClock,
    length: Duration,
) -> Result<figures::Slice, String> {
    let before = subject.account().await?;
    let tally = match row.asker {
        row::Asker::Ghz { connections, calls } => {
            ghz.ask(subject.grpc, connections, calls, length, subject.load_core).await?
        }
        row::Asker::Own(own) => load::ask(own, subject.grpc, questions, clock, length).await?,
    };
    let after = subject.account().await?;
    after.since(&before, tally)
}
