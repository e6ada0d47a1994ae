//! How it grows: what a decision costs the whole server, and what it takes up, with more and more tokens, counters,
//! revocations, rules and replicas; and what a fleet needs, reckoned from what was measured.

mod counters;
mod fleet;
mod load;
mod parts;
mod picture;
mod replicas;
mod revocations;
mod rules;
mod table;
mod tokens;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tollgate::server::SystemClock;

use self::load::{Costs, Waits};
pub(crate) use self::table::Table;
use crate::cores::Cores;
use crate::process::Programs;
use crate::{Pace, no_row, say, table::machine};

const USUAL: Pace = Pace { slices: 3, slice: Duration::from_millis(1_500) };
const QUICK: Pace = Pace { slices: 3, slice: Duration::from_millis(500) };

/// What is measured, and for how long.
#[derive(Debug, Args)]
pub(crate) struct Measure {
    /// Fewer and smaller sizes, and short slices.
    #[arg(long)]
    quick: bool,
    /// Only rows whose name contains this.
    #[arg(long, value_name = "TEXT", default_value = "")]
    row: String,
    #[command(flatten)]
    programs: Programs,
    /// The folder that the pictures are written to.
    #[arg(long, value_name = "FOLDER")]
    pictures: PathBuf,
}

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Growing {
    Tokens,
    Counters,
    RedisCounters,
    Revocations,
    Rules,
    Replicas,
}

impl Growing {
    const ALL: [Self; 6] =
        [Self::Tokens, Self::Counters, Self::RedisCounters, Self::Revocations, Self::Rules, Self::Replicas];

    /// Its name in the table.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Counters => "counters in memory",
            Self::RedisCounters => "counters in Redis",
            Self::Revocations => "revocations",
            Self::Rules => "rules",
            Self::Replicas => "replicas",
        }
    }

    /// The name of its picture.
    pub(crate) const fn file(self) -> &'static str {
        match self {
            Self::Tokens => "tokens.svg",
            Self::Counters => "counters-memory.svg",
            Self::RedisCounters => "counters-redis.svg",
            Self::Revocations => "revocations.svg",
            Self::Rules => "rules.svg",
            Self::Replicas => "replicas.svg",
        }
    }

    /// What its picture is headed by.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Tokens => "Tokens in use at one replica, each asked about as often as any",
            Self::Counters => "Counters of the memory store, each asked for as often as any",
            Self::RedisCounters => "Counters in Redis, each asked for as often as any",
            Self::Revocations => "Revocations, none of which hits the token that is asked about",
            Self::Rules => "Rules, each asked about as often as any",
            Self::Replicas => "Replicas on one core, 100,000 counters by Zipf's law in one Redis",
        }
    }
}

/// What was found at one size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    /// How many there are.
    pub size: u64,
    /// What a decision costs.
    pub cost: load::Cost,
    /// Server CPU as a multiple of a server with the fewest, in turns.
    pub ratio: Option<f64>,
    /// Memory of all servers, in bytes.
    pub memory: f64,
    /// Memory of Redis, in bytes.
    pub redis_memory: Option<f64>,
    /// What a lone call waited while so many came to be, in µs: at the 99th percentile, and at most.
    pub waits: Option<(u32, u32)>,
    /// How long a server took to be ready.
    pub ready: Option<Duration>,
}

impl Point {
    fn new(size: u64, Costs { cost, ratio }: Costs, memory: f64) -> Self {
        Self { size, cost, ratio, memory, redis_memory: None, waits: None, ready: None }
    }

    fn grown(self, mut waits: Waits) -> Self {
        let mut quantile = |part| crate::figures::quantile(&mut waits.0, part);
        Self { waits: quantile(0.99).zip(quantile(1.0)), ..self }
    }
}

/// What all rows need.
struct Field<'a> {
    binary: &'a Path,
    redis: &'a Path,
    folder: &'a Path,
    cores: Cores,
    clock: SystemClock,
    quick: bool,
    pace: Pace,
}

impl Field<'_> {
    /// Starts a server, called `name` in messages and files.
    async fn server(&self, name: &str, config: String) -> Result<crate::subject::Subject, String> {
        let file = self.folder.join(format!("{}.yaml", name.replace(' ', "-")));
        crate::subject::Subject::start(name.to_owned(), self.binary, &(file, config), self.cores, None).await
    }

    fn redis(&self) -> Result<crate::redis::Redis, String> {
        crate::redis::Redis::start(self.redis, self.folder, self.cores)
    }

    /// One that is a cluster's only node: a fleet that needs several has a cluster.
    async fn cluster(&self) -> Result<crate::redis::Redis, String> {
        crate::redis::Redis::start_cluster(self.redis, self.folder, self.cores).await
    }

    /// The sizes of a row: with `--quick` only the first few.
    fn sizes<'s>(&self, all: &'s [u64], quick: usize) -> &'s [u64] {
        if self.quick { &all[..quick.min(all.len())] } else { all }
    }
}

/// Measures every row that is wanted, and draws it.
pub(crate) async fn take(measure: &Measure, cores: Cores) -> Result<Table, String> {
    let pace = if measure.quick { QUICK } else { USUAL };
    let folder = tempfile::tempdir().map_err(|error| format!("cannot make a temporary folder: {error}"))?;
    let field = Field {
        binary: &measure.programs.binary,
        redis: &measure.programs.redis,
        folder: folder.path(),
        cores,
        clock: SystemClock::start(),
        quick: measure.quick,
        pace,
    };
    let rows: Vec<&str> = Growing::ALL.iter().map(|growing| growing.name()).chain([parts::NAME]).collect();
    if !rows.iter().any(|row| row.contains(&measure.row)) {
        return Err(no_row(&measure.row, &rows));
    }
    let mut table = Table::new(machine(&cores, pace, &measure.programs.redis)?);
    fs::create_dir_all(&measure.pictures).map_err(|error| format!("{}: {error}", measure.pictures.display()))?;
    // A run takes long: what is done is told, whatever becomes of the rest.
    let failed = |row: &str, problem: String, table: &Table| format!("{row}: {problem}; done until then:\n{table}");
    for growing in Growing::ALL.into_iter().filter(|growing| growing.name().contains(&measure.row)) {
        let points = match growing {
            Growing::Tokens => tokens::take(&field).await,
            Growing::Counters => counters::in_memory(&field).await,
            Growing::RedisCounters => counters::in_redis(&field).await,
            Growing::Revocations => revocations::take(&field).await,
            Growing::Rules => rules::take(&field).await,
            Growing::Replicas => replicas::take(&field).await,
        };
        let points = points.map_err(|problem| failed(growing.name(), problem, &table))?;
        let file = measure.pictures.join(growing.file());
        fs::write(&file, picture::of(growing, &points)).map_err(|error| format!("{}: {error}", file.display()))?;
        say(&format!("{} is drawn", file.display()));
        table.add(growing, &points);
    }
    if parts::NAME.contains(&measure.row) {
        let costs = parts::take(&field).await.map_err(|problem| failed(parts::NAME, problem, &table))?;
        table.add_parts(costs);
    }
    Ok(table)
}

/// Says how far it is.
fn say_at(growing: Growing, size: u64) {
    say(&format!("{}: {size} …", growing.name()));
}
