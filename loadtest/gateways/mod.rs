//! What the questions of Envoys cost: those of the filter `ratelimit` beside envoyproxy/ratelimit, those of `ext_authz` beside a
//! service that decides nothing; and how long files of limits take to be read.

mod check;
mod files;
mod limits;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tollgate::server::SystemClock;

pub(crate) use self::table::Table;
use crate::cores::Cores;
use crate::traffic::Keys;
use crate::{Pace, say, table::machine};

/// Longer slices than elsewhere: CPU time is counted in hundredths of a second, and calls come at a rate that leaves a part of
/// the time unused.
const USUAL: Pace = Pace { slices: 5, slice: Duration::from_secs(4) };
const QUICK: Pace = Pace { slices: 3, slice: Duration::from_secs(2) };

/// What is measured, and for how long.
#[derive(Debug, Args)]
pub(crate) struct Measure {
    /// Short rows: 6 s instead of 20 s for each of those that are compared.
    #[arg(long)]
    quick: bool,
    /// The server. Given several times, each is asked by `ext_authz`, in the same run: to compare builds.
    #[arg(long, value_name = "FILE", required = true)]
    binary: Vec<PathBuf>,
    /// Redis.
    #[arg(long, value_name = "FILE", default_value = "redis-server")]
    redis: PathBuf,
    /// envoyproxy/ratelimit; without it, it is left out.
    #[arg(long, value_name = "FILE")]
    ratelimit: Option<PathBuf>,
}

/// Measures everything.
pub(crate) async fn take(measure: &Measure, cores: Cores) -> Result<Table, String> {
    let pace = if measure.quick { QUICK } else { USUAL };
    let clock = SystemClock::start();
    let binary = measure.binary.first().ok_or("there is no server to measure")?;
    let folder = tempfile::tempdir().map_err(|error| format!("cannot make a temporary folder: {error}"))?;
    let mut table = Table::new(machine(&cores, pace, &measure.redis)?);
    {
        // Servers that are asked nothing would use the cores, too.
        let field = check::Field::start(measure, folder.path(), cores, clock).await?;
        say("ext_authz …");
        table.add_checks(field.bytes(), &field.row(pace.slices, pace.slice).await?)?;
    }
    {
        let field = limits::Field::start(measure, binary, folder.path(), cores, clock).await?;
        for traffic in limits::TRAFFICS {
            // Over both loads, so that a cold key is cold.
            let keys = Keys::new(traffic);
            for load in limits::LOADS {
                say(&format!("ratelimit, {}, {} …", traffic.name(), load.name()));
                table.add_limits((traffic, load), &field.row((load, &keys), pace.slices, pace.slice).await?)?;
            }
        }
    }
    say("files …");
    for size in [files::FEW, files::MANY] {
        let time = files::check(binary, folder.path(), size, pace.slices, cores, clock)?;
        table.add_files(size, time);
    }
    Ok(table)
}
