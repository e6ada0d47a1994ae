//! The tables of what the same question costs Tollgate and its peers; in Markdown.

use std::fmt;
use std::time::Duration;

use super::field::{Contender, LIMITS};
use super::{Row, SATURATED, Shape};
use crate::cores::Cores;
use crate::costs::{Cost, Costs};
use crate::table::{micros, thousands};
use crate::traffic::Traffic;

/// What is printed in the end, and drawn.
pub(crate) struct Table {
    taken_on: String,
    cores: Cores,
    /// Closed loops.
    pub(super) closed: Vec<(Traffic, Shape, Row)>,
    /// Open loops, with how many percent of what each can do.
    pub(super) open: Vec<(Traffic, u32, Row)>,
}

impl Table {
    /// Without rows, but with the machine.
    pub(super) const fn new(taken_on: String, cores: Cores) -> Self {
        Self { taken_on, cores, closed: Vec::new(), open: Vec::new() }
    }

    /// What it costs when the next question is asked as soon as an answer comes.
    pub(super) fn add_closed(&mut self, traffic: Traffic, shape: Shape, row: Row) {
        self.closed.push((traffic, shape, row));
    }

    /// How long answers take when questions come evenly, at so many percent of what each can do.
    pub(super) fn add_open(&mut self, traffic: Traffic, percent: u32, row: Row) {
        self.open.push((traffic, percent, row));
    }

    /// How much of a core's time the server was at work, and how much whoever asked, with Redis where it is on the same core.
    fn busy(&self, costs: &Costs) -> Option<[f64; 2]> {
        let redis = |cost: &Cost| if self.cores.redis == self.cores.load { cost.redis.unwrap_or(0.0) } else { 0.0 };
        let part = |figure: &dyn Fn(&Cost) -> f64| costs.median(|cost| Some(figure(cost) * cost.rate() / 10_000.0));
        Some([part(&|cost| cost.server)?, part(&|cost| cost.load + redis(cost))?])
    }

    fn closed_line(&self, traffic: Traffic, shape: Shape, row: &Row, index: usize) -> Option<String> {
        let (contender, costs) = row.get(index)?;
        let beside = |other, figure: fn(&Cost) -> Option<f64>| {
            let other = row.iter().find(|(contender, _)| *contender == other);
            other.and_then(|(_, other)| costs.ratio(other, figure))
        };
        let [server, load] = self.busy(costs)?;
        Some(format!(
            "| {} | {} × {} | {} | {} | {server:.0} % | {load:.0} % | {:.2} | {} | {} | {} | {} | {} |",
            traffic.name(),
            shape.0,
            shape.1,
            contender.name(),
            thousands(costs.median(|cost| Some(cost.rate()))?),
            costs.median(server_cpu)?,
            or_dash(costs.median(|cost| cost.commands), 4),
            or_dash(costs.median(redis_cpu), 3),
            or_dash(beside(Contender::Floor, server_cpu), 2),
            or_dash(beside(Contender::Ratelimit, server_cpu), 3),
            or_dash(beside(Contender::Ratelimit, redis_cpu), 3),
        ))
    }

    fn open_line(&self, traffic: Traffic, percent: u32, (contender, costs): &(Contender, Costs)) -> Option<String> {
        let time = |figure: fn(&Cost) -> Option<Duration>| {
            let median = costs.median(|cost| figure(cost).map(|time| time.as_secs_f64()))?;
            Some(micros(Duration::from_secs_f64(median)))
        };
        let [server, load] = self.busy(costs)?;
        Some(format!(
            "| {} | {percent} % | {} | {} | {server:.0} % | {load:.0} % | {} | {} | {} | {:.2} |",
            traffic.name(),
            contender.name(),
            thousands(costs.median(|cost| Some(cost.rate()))?),
            time(|cost| Some(cost.tally.p50))?,
            time(|cost| Some(cost.tally.p99))?,
            time(|cost| cost.tally.p999)?,
            costs.median(server_cpu)?,
        ))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.taken_on)?;
        writeln!(f, "Closed loop, {LIMITS} limits a decision; connections × questions in flight on each.\n")?;
        writeln!(
            f,
            "| keys | shape | server | decisions/s | server's core busy | load's core busy | server CPU, µs/decision | \
             Redis commands/decision | Redis CPU, µs/decision | server CPU ÷ no-op | server CPU ÷ ratelimit | \
             Redis CPU ÷ ratelimit |"
        )?;
        writeln!(f, "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")?;
        for (traffic, shape, row) in &self.closed {
            for index in 0..row.len() {
                writeln!(f, "{}", self.closed_line(*traffic, *shape, row, index).ok_or(fmt::Error)?)?;
            }
        }
        let Shape(connections, _) = SATURATED;
        writeln!(
            f,
            "\nOpen loop on {connections} connections, at a part of what the same server decided when more was asked of it than it can do.\n"
        )?;
        writeln!(
            f,
            "| keys | load | server | decisions/s | server's core busy | load's core busy | p50 | p99 | p99.9 | \
             server CPU, µs/decision |"
        )?;
        writeln!(f, "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")?;
        for (traffic, percent, row) in &self.open {
            for one in row {
                writeln!(f, "{}", self.open_line(*traffic, *percent, one).ok_or(fmt::Error)?)?;
            }
        }
        Ok(())
    }
}

/// Server CPU, µs per decision.
#[expect(clippy::unnecessary_wraps, reason = "one figure among others that may be missing")]
pub(super) const fn server_cpu(cost: &Cost) -> Option<f64> {
    Some(cost.server)
}

/// Redis CPU, µs per decision.
pub(super) const fn redis_cpu(cost: &Cost) -> Option<f64> {
    cost.redis
}

fn or_dash(figure: Option<f64>, digits: usize) -> String {
    figure.map_or_else(|| "–".to_owned(), |figure| format!("{figure:.digits$}"))
}
