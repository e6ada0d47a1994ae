//! The tables, in Markdown.

use std::fmt;
use std::time::Duration;

use super::fleet::{Demand, FLEETS, Fleet, Needs};
use super::parts::{Part, Parts};
use super::{Growing, Point};
use crate::table::{micros, thousands};

/// What is printed in the end.
pub(crate) struct Table {
    taken_on: String,
    lines: Vec<String>,
    replicas: Vec<String>,
    parts: Option<Parts>,
}

impl Table {
    /// Without rows, but with the machine.
    pub(super) fn new(taken_on: String) -> Self {
        Self { taken_on, lines: Vec::new(), replicas: Vec::new(), parts: None }
    }

    /// Adds a line for each size.
    pub(super) fn add(&mut self, growing: Growing, points: &[Point]) {
        self.lines.extend(points.iter().map(|point| line(growing, point)));
        if growing == Growing::Replicas {
            self.replicas = points.iter().filter_map(beside_the_model).collect();
        }
    }

    /// Adds what commands cost.
    pub(super) fn add_parts(&mut self, parts: Parts) {
        self.parts = Some(parts);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.taken_on)?;
        if !self.lines.is_empty() {
            writeln!(
                f,
                "\n| what grows | to | server CPU, µs/decision | ÷ that with the fewest | memory of the servers | \
                 Redis CPU, µs/decision | Redis commands/decision | Redis memory | wait of a lone call meanwhile, p99 | \
                 most | start to ready | not allowed |"
            )?;
            writeln!(f, "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")?;
            self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        }
        if !self.replicas.is_empty() {
            writeln!(f, "\n| replicas | decisions/s | Redis commands/decision | by the formulas |")?;
            writeln!(f, "| ---: | ---: | ---: | ---: |")?;
            self.replicas.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        }
        self.parts.as_ref().map_or(Ok(()), |parts| write_parts(f, parts))
    }
}

fn line(growing: Growing, point: &Point) -> String {
    let Point { size, cost, ratio, memory, redis_memory, waits, ready } = point;
    let or_none = |figure: Option<String>| figure.unwrap_or_else(|| "–".to_owned());
    let wait = |micros_waited: u32| micros(Duration::from_micros(micros_waited.into()));
    format!(
        "| {} | {} | {:.2} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
        growing.name(),
        count(*size),
        cost.server,
        or_none(ratio.map(|ratio| format!("{ratio:.2}"))),
        bytes(*memory),
        or_none(cost.redis.map(|redis| format!("{redis:.2}"))),
        or_none(cost.commands.map(|commands| format!("{commands:.3}"))),
        or_none(redis_memory.map(bytes)),
        or_none(waits.map(|(p99, _)| wait(p99))),
        or_none(waits.map(|(_, most)| wait(most))),
        or_none(ready.map(micros)),
        if cost.refused == 0.0 { "0".to_owned() } else { format!("{:.1} %", cost.refused * 100.0) },
    )
}

/// What the formulas say of the replicas that were measured: acquisitions and settlements, each by itself, as on a cluster.
fn beside_the_model(point: &Point) -> Option<String> {
    let fleet = Fleet { replicas: point.size, decisions: point.cost.rate, keys: 100_000, per_key: point.size };
    let Demand { asks, settles } = fleet.demand();
    let said = (asks + settles) / fleet.decisions;
    Some(format!("| {} | {} | {:.3} | {said:.3} |", point.size, thousands(point.cost.rate), point.cost.commands?))
}

fn write_parts(f: &mut fmt::Formatter<'_>, parts: &Parts) -> fmt::Result {
    writeln!(f, "\n| command | Redis CPU, µs | bytes to Redis | bytes from it |\n| --- | ---: | ---: | ---: |")?;
    let mut rows = vec![
        ("acquire one unit of a new counter, by itself".to_owned(), parts.acquire_new),
        ("the same of one that is there".to_owned(), parts.acquire),
        ("acquire one unit of a new counter, together with others".to_owned(), parts.acquire_new_together),
        ("the same of two new counters".to_owned(), parts.acquire_two_new),
        ("beside it: `INCRBY` and `EXPIRE` of two new keys".to_owned(), parts.windows),
        ("beside it: a script that sends these four".to_owned(), parts.scripted_windows),
        ("beside it: a script that does nothing".to_owned(), parts.empty_script),
        ("settle a lease".to_owned(), parts.settle),
        ("what was revoked: nothing".to_owned(), parts.poll),
        ("1,000 entries of what was revoked".to_owned(), parts.page),
        ("`PING`".to_owned(), parts.ping),
    ];
    rows.extend(
        parts.beats.iter().map(|(fleet, part)| (format!("a replica is there, one of {}", count(*fleet)), *part)),
    );
    for (name, Part { cpu, received, sent }) in rows {
        writeln!(f, "| {name} | {cpu:.2} | {} | {} |", thousands(received), thousands(sent))?;
    }
    writeln!(f, "\nA counter that was charged once takes up {} bytes in Redis.", thousands(parts.counter))?;
    for (name, fleet) in FLEETS {
        if let Some(needs) = fleet.needs(parts) {
            write_fleet(f, name, &fleet, &needs, parts)?;
        }
    }
    Ok(())
}

fn write_fleet(f: &mut fmt::Formatter<'_>, name: &str, fleet: &Fleet, needs: &Needs, parts: &Parts) -> fmt::Result {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let memory = fleet.keys as f64 * parts.counter;
    writeln!(
        f,
        "\n{name}; {} decisions a second over {} keys; {} in Redis:\n",
        thousands(fleet.decisions),
        count(fleet.keys),
        bytes(memory)
    )?;
    writeln!(f, "| what | a second | cores of Redis | to Redis | from it |\n| --- | ---: | ---: | ---: | ---: |")?;
    let (mut all, mut cores, mut to, mut from) = (0.0, 0.0, 0.0, 0.0);
    for &(what, calls, Part { cpu, received, sent }) in &needs.calls {
        (all, cores, to, from) = (all + calls, cores + calls * cpu / 1e6, to + calls * received, from + calls * sent);
        let each = [calls * received, calls * sent].map(bytes);
        writeln!(f, "| {what} | {} | {:.2} | {}/s | {}/s |", thousands(calls), calls * cpu / 1e6, each[0], each[1])?;
    }
    writeln!(
        f,
        "| **all, at {:.0} nodes** | {} | {cores:.2} | {}/s | {}/s |",
        needs.nodes,
        thousands(all),
        bytes(to),
        bytes(from)
    )
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn count(number: u64) -> String {
    thousands(number as f64)
}

/// Three digits, or two, in a unit that fits.
pub(super) fn bytes(number: f64) -> String {
    match number {
        ..1e4 => format!("{} B", thousands(number)),
        ..1e6 => format!("{:.0} kB", number / 1e3),
        ..1e7 => format!("{:.1} MB", number / 1e6),
        ..1e9 => format!("{:.0} MB", number / 1e6),
        _ => format!("{:.2} GB", number / 1e9),
    }
}
