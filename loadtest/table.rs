//! The table, in Markdown.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::Pace;
use crate::cores::Cores;
use crate::figures::{Figures, Slice};
use crate::row::Row;
use crate::subject::Subject;

/// What is printed in the end.
pub(crate) struct Table {
    taken_on: String,
    lines: Vec<String>,
}

impl Table {
    /// Without rows, but with the machine.
    pub(crate) fn new(cores: &Cores, pace: Pace, redis: &Path) -> Result<Self, String> {
        let taken_on = format!("{} ghz of `scripts/test`.", machine(cores, pace, redis)?);
        Ok(Self { taken_on, lines: Vec::new() })
    }

    /// Adds a row with a line for each server, the floors first.
    pub(crate) fn add(&mut self, row: &Row, subjects: &[Subject], figures: &[Figures]) -> Result<(), String> {
        let [floor, own, ..] = figures else { return Err("there is no floor".to_owned()) };
        for (subject, figures) in subjects.iter().zip(figures) {
            self.lines.push(line(row, subject, figures, [floor, own]).ok_or("a figure is missing")?);
        }
        Ok(())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.taken_on)?;
        writeln!(
            f,
            "| calls | server | decisions/s | p50 of a call | p99 of a call | server CPU, µs/decision | \
             Redis CPU, µs/decision | server CPU ÷ no-op | ÷ no-op, own transport |"
        )?;
        writeln!(f, "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")?;
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// The machine, how it was divided, and how long the slices were.
pub(crate) fn machine(cores: &Cores, pace: Pace, redis: &Path) -> Result<String, String> {
    let Pace { slices, slice } = pace;
    Ok(format!("{} Each server and row: {slices} slices of {slice:?}, in turns; medians.", host(cores, redis)?))
}

/// The machine, and how it was divided.
pub(crate) fn host(cores: &Cores, redis: &Path) -> Result<String, String> {
    let apart = match (cores.server, cores.redis == cores.load) {
        (None, _) => "everything on the same core",
        (Some(_), true) => "the server on one, the load and Redis on another",
        (Some(_), false) => "the server, the load and Redis on one each",
    };
    Ok(format!(
        "Taken on {cpu}, {count} cores ({apart}), Linux {kernel}, {redis}.",
        cpu = cpu()?,
        count = cores.count,
        kernel = read("/proc/sys/kernel/osrelease")?.trim(),
        redis = redis_version(redis)?,
    ))
}

fn line(row: &Row, subject: &Subject, figures: &Figures, [floor, own]: [&Figures; 2]) -> Option<String> {
    let time = |seconds: f64| micros(Duration::from_secs_f64(seconds));
    let server = |slice: &Slice| Some(slice.server);
    Some(format!(
        "| {} | {} | {} | {} | {} | {:.2} | {} | {:.2} | {:.2} |",
        row.name,
        subject.name,
        thousands(figures.median(|slice| Some(slice.rate))?),
        time(figures.median(|slice| Some(slice.p50))?),
        time(figures.median(|slice| Some(slice.p99))?),
        figures.median(server)?,
        figures.median(|slice| slice.redis).map_or_else(|| "–".to_owned(), |redis| format!("{redis:.2}")),
        figures.ratio(floor, server)?,
        figures.ratio(own, server)?,
    ))
}

/// Three digits, in a unit that fits.
pub(crate) fn micros(time: Duration) -> String {
    match time.as_micros() {
        micros @ 0..1_000 => format!("{micros} µs"),
        micros @ 1_000..10_000 => format!("{}.{:02} ms", micros / 1_000, micros % 1_000 / 10),
        micros => format!("{}.{} ms", micros / 1_000, micros % 1_000 / 100),
    }
}

/// With a comma between thousands.
pub(crate) fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn read(file: &str) -> Result<String, String> {
    fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))
}

fn cpu() -> Result<String, String> {
    let text = read("/proc/cpuinfo")?;
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    Ok(model.map_or("an unnamed CPU", |(_, name)| name).trim().to_owned())
}

/// `Redis 7.0.15`, from `Redis server v=7.0.15 sha=…`.
fn redis_version(program: &Path) -> Result<String, String> {
    let said = Command::new(program).arg("--version").output();
    let said = said.map_err(|error| format!("{} cannot be run: {error}", program.display()))?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let version = said.split_ascii_whitespace().find_map(|word| word.strip_prefix("v="));
    Ok(format!("Redis {}", version.unwrap_or("of an unknown version")))
}
