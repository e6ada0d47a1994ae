//! The tables of what gateways' questions cost, and what they say of the budgets; in Markdown.

use std::fmt;
use std::time::Duration;

use super::check::IN_FLIGHT;
use super::files;
use super::limits::{CONNECTIONS, Contender, Load, RATE};
use crate::costs::{Cost, Costs};
use crate::figures::Figures;
use crate::table::{micros, thousands};
use crate::traffic::Traffic;

/// What is printed in the end.
pub(crate) struct Table {
    taken_on: String,
    checks: Vec<String>,
    limits: Vec<String>,
    files: Vec<String>,
    /// The size of a question of `ext_authz`, in bytes.
    check_bytes: usize,
    /// Figures that budgets are about: what, at most, found.
    budgets: Vec<(String, f64, f64)>,
}

/// What is compared with envoyproxy/ratelimit: its name, what it is, and how many times as much it may be with hot and with cold
/// keys.
type Figure = (&'static str, fn(&Cost) -> Option<f64>, f64, f64);

const FIGURES: [Figure; 3] = [
    ("server CPU", |cost| Some(cost.server), 0.1, 1.0),
    ("Redis CPU", |cost| cost.redis, 0.1, 1.0),
    ("p99", |cost| Some(cost.tally.p99.as_secs_f64()), 0.5, 1.0),
];

/// What `ext_authz` may cost, as a multiple of its floor.
const CHECK_MOST: f64 = 1.3;

/// How long 10,000 descriptors may take, in seconds.
const FILES_MOST: f64 = 1.0;

impl Table {
    /// Without rows, but with the machine.
    pub(crate) const fn new(taken_on: String) -> Self {
        Self {
            taken_on,
            checks: Vec::new(),
            limits: Vec::new(),
            files: Vec::new(),
            check_bytes: 0,
            budgets: Vec::new(),
        }
    }

    /// What questions of so many bytes by `ext_authz` cost, the floors first.
    pub(crate) fn add_checks(&mut self, bytes: usize, rows: &[(&str, Figures)]) -> Result<(), String> {
        self.check_bytes = bytes;
        let [(_, floor), (_, own), ..] = rows else { return Err("there is no floor".to_owned()) };
        for (index, (name, figures)) in rows.iter().enumerate() {
            let ratio = figures.ratio(floor, |slice| Some(slice.server)).ok_or("a figure is missing")?;
            let beside_own = figures.ratio(own, |slice| Some(slice.server)).ok_or("a figure is missing")?;
            self.checks.push(check_line(name, figures, [ratio, beside_own]).ok_or("a figure is missing")?);
            if index > 1 {
                self.budgets.push((format!("ext_authz, {name}: server CPU ÷ no-op"), CHECK_MOST, ratio));
            }
        }
        Ok(())
    }

    /// What questions by `ratelimit` cost. Budgets are about the strict one, beside envoyproxy/ratelimit.
    pub(crate) fn add_limits(
        &mut self,
        (traffic, load): (Traffic, Load),
        rows: &[(Contender, Costs)],
    ) -> Result<(), String> {
        let envoy = rows.iter().find(|(contender, _)| *contender == Contender::Envoy).map(|(_, costs)| costs);
        for (contender, costs) in rows {
            self.limits.push(limit_line((traffic, load), *contender, costs, envoy).ok_or("a figure is missing")?);
            let Some(envoy) = envoy.filter(|_| *contender == Contender::Strict) else { continue };
            for (name, figure, hot, cold) in FIGURES {
                let most = if traffic.is_hot() { hot } else { cold };
                let found = costs.ratio(envoy, figure).ok_or("a figure is missing")?;
                let what = format!("{}, {}: {name} ÷ envoyproxy/ratelimit", traffic.name(), load.name());
                self.budgets.push((what, most, found));
            }
        }
        Ok(())
    }

    /// How many µs `config check` takes for so many files with so many descriptors each.
    pub(crate) fn add_files(&mut self, (files, descriptors): (usize, usize), time: f64) {
        let time = time / 1e6;
        let (all, text) = (files * descriptors, micros(Duration::from_secs_f64(time)));
        self.files.push(format!("| {} | {files} | {text} |", thousands_of(all)));
        if (files, descriptors) == files::MANY {
            self.budgets.push((format!("reading {} descriptors, s", thousands_of(all)), FILES_MOST, time));
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.taken_on)?;
        writeln!(
            f,
            "`RateLimitService`: questions of two descriptors, {} a second in turns on {CONNECTIONS} connections, or as \
             many as are answered with {IN_FLIGHT} in flight on one.\n",
            thousands(f64::from(RATE))
        )?;
        writeln!(
            f,
            "| keys | load | server | p50 of a call | p99 of a call | server CPU, µs/call | Redis commands/call | \
             Redis CPU, µs/call | server CPU ÷ ratelimit | Redis CPU ÷ ratelimit | p99 ÷ ratelimit |"
        )?;
        writeln!(f, "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")?;
        self.limits.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        writeln!(
            f,
            "\n`ext_authz`: {} bytes, {IN_FLIGHT} calls in flight on one connection.\n",
            thousands_of(self.check_bytes)
        )?;
        writeln!(
            f,
            "| server | decisions/s | p50 of a call | p99 of a call | server CPU, µs/decision | server CPU ÷ no-op | \
             ÷ no-op, own transport |"
        )?;
        writeln!(f, "| --- | ---: | ---: | ---: | ---: | ---: | ---: |")?;
        self.checks.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        writeln!(f, "\n| descriptors | in files | `tollgate config check` |\n| ---: | ---: | ---: |")?;
        self.files.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        writeln!(f, "\n| budget | at most | found | kept |\n| --- | ---: | ---: | --- |")?;
        self.budgets.iter().try_for_each(|(what, most, found)| {
            let kept = if found <= most { "yes" } else { "**no**" };
            writeln!(f, "| {what} | {most} | {found:.3} | {kept} |")
        })
    }
}

fn check_line(name: &str, figures: &Figures, [ratio, beside_own]: [f64; 2]) -> Option<String> {
    Some(format!(
        "| {name} | {} | {} | {} | {:.2} | {ratio:.2} | {beside_own:.2} |",
        thousands(figures.median(|slice| Some(slice.rate))?),
        time(figures.median(|slice| Some(slice.p50))?),
        time(figures.median(|slice| Some(slice.p99))?),
        figures.median(|slice| Some(slice.server))?,
    ))
}

fn limit_line(
    (traffic, load): (Traffic, Load),
    contender: Contender,
    costs: &Costs,
    envoy: Option<&Costs>,
) -> Option<String> {
    let of_redis =
        |figure: fn(&Cost) -> Option<f64>| costs.median(figure).map_or("–".to_owned(), |found| format!("{found:.3}"));
    let line = format!(
        "| {} | {} | {} | {} | {} | {:.1} | {} | {} |",
        traffic.name(),
        load.name(),
        contender.name(),
        time(costs.median(|cost| Some(cost.tally.p50.as_secs_f64()))?),
        time(costs.median(|cost| Some(cost.tally.p99.as_secs_f64()))?),
        costs.median(|cost| Some(cost.server))?,
        of_redis(|cost| cost.commands),
        of_redis(|cost| cost.redis),
    );
    let ratios = FIGURES.into_iter().map(|(_, figure, ..)| {
        let ratio = envoy.and_then(|envoy| costs.ratio(envoy, figure));
        ratio.map_or(" – |".to_owned(), |ratio| format!(" {ratio:.3} |"))
    });
    Some(line + &ratios.collect::<String>())
}

fn time(seconds: f64) -> String {
    micros(Duration::from_secs_f64(seconds))
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn thousands_of(number: usize) -> String {
    thousands(number as f64)
}
