//! Beside peers: the same question of two limits, asked of Tollgate, of envoyproxy/ratelimit, of throttlecrab-server and of a
//! service that decides nothing, as fast as they answer and at a part of that.

mod draw;
mod field;
mod table;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tollgate::server::SystemClock;

use self::field::{Contender, Field, Load};
use self::table::Table;
use crate::cores::Cores;
use crate::costs::Costs;
use crate::process::Programs;
use crate::traffic::{Keys, Traffic};
use crate::{Pace, say, table::machine};

const USUAL: Pace = Pace { slices: 5, slice: Duration::from_secs(2) };
const QUICK: Pace = Pace { slices: 3, slice: Duration::from_secs(1) };

/// Which keys are asked for.
const TRAFFICS: [Traffic; 2] = [Traffic::OneKey, Traffic::Even];

/// Connections, and questions in flight on each, where the next one is asked as soon as an answer comes.
const SHAPES: [Shape; 3] = [Shape(1, 1), SATURATED, Shape(1, 100)];

/// How many connections a gateway has, and what each server answers at least when it is asked by so many.
const SATURATED: Shape = Shape(10, 5);

/// In percent of that, what is asked for evenly to find what each server can do then: more than any can.
const BEYOND: u32 = 150;

/// Parts of what it can do, in percent, at which it is asked whatever became of the questions before.
const PERCENTS: [u32; 2] = [50, 80];

/// Connections, and questions in flight on each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape(usize, usize);

/// What is measured, and for how long.
#[derive(Debug, Args)]
pub(crate) struct Measure {
    /// Short rows: 3 s instead of 10 s for each of those that are compared.
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    programs: Programs,
    /// envoyproxy/ratelimit; without it, it is left out.
    #[arg(long, value_name = "FILE")]
    ratelimit: Option<PathBuf>,
    /// throttlecrab-server; without it, it is left out.
    #[arg(long, value_name = "FILE")]
    throttlecrab: Option<PathBuf>,
    /// Where the picture is written, as SVG.
    #[arg(long, value_name = "FILE")]
    picture: PathBuf,
}

/// All contenders in one row.
type Row = Vec<(Contender, Costs)>;

/// Measures everything, and draws it.
pub(crate) async fn take(measure: &Measure, cores: Cores) -> Result<Table, String> {
    let pace = if measure.quick { QUICK } else { USUAL };
    let folder = tempfile::tempdir().map_err(|error| format!("cannot make a temporary folder: {error}"))?;
    let field = Field::start(measure, folder.path(), cores, SystemClock::start()).await?;
    let mut table = Table::new(machine(&cores, pace, &measure.programs.redis)?, cores);
    for traffic in TRAFFICS {
        let keys = Keys::new(traffic);
        let mut closed = Vec::new();
        for shape in SHAPES {
            say(&format!("{}, {} × {} …", traffic.name(), shape.0, shape.1));
            let row = row(&field, &keys, pace, |_| Load::Closed { connections: shape.0, calls: shape.1 }).await?;
            if shape == SATURATED {
                closed = rates(&row)?;
            }
            table.add_closed(traffic, shape, row);
        }
        say(&format!("{}, more than it can do …", traffic.name()));
        let most = rates(&row(&field, &keys, pace, at(BEYOND, &closed)).await?)?;
        for percent in PERCENTS {
            say(&format!("{}, at {percent} % …", traffic.name()));
            table.add_open(traffic, percent, row(&field, &keys, pace, at(percent, &most)).await?);
        }
    }
    let picture = draw::picture(&table).ok_or("a figure is missing")?;
    fs::write(&measure.picture, picture).map_err(|error| format!("{}: {error}", measure.picture.display()))?;
    Ok(table)
}

/// What each of them decided in a second.
fn rates(row: &Row) -> Result<Vec<f64>, String> {
    let rates = row.iter().map(|(_, costs)| costs.median(|cost| Some(cost.rate())));
    rates.collect::<Option<_>>().ok_or_else(|| "nothing was measured".to_owned())
}

/// An open loop at so many percent of these rates.
fn at(percent: u32, rates: &[f64]) -> impl Fn(usize) -> Load {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate, rounded down")]
    let rate = move |index: usize| (rates.get(index).copied().unwrap_or(0.0) * f64::from(percent) / 100.0) as u32;
    move |index| Load::Open { connections: SATURATED.0, rate: rate(index) }
}

/// So many slices of each contender, in turns, each under the load that `load` says for its place in the field.
async fn row(field: &Field, keys: &Keys, pace: Pace, load: impl Fn(usize) -> Load) -> Result<Row, String> {
    let mut row: Row = field.contenders().map(|contender| (contender, Costs::default())).collect();
    for _ in 0..pace.slices {
        for (index, (contender, costs)) in row.iter_mut().enumerate() {
            let slice = field.slice(index, keys, load(index), pace.slice).await;
            costs.add(slice.map_err(|problem| format!("{}: {problem}", contender.name()))?);
        }
    }
    Ok(row)
}
