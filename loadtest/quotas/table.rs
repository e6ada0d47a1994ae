//! The table of what quotas cost, and what it says of the budgets; in Markdown.

use std::fmt;

use super::Contender;
use super::costs::Costs;
use crate::table::thousands;
use crate::traffic::Traffic;

/// What is printed in the end.
pub(crate) struct Table {
    taken_on: String,
    lines: Vec<String>,
    /// The worst of what each budget is about.
    worst: [f64; BUDGETS.len()],
}

/// What a decision may cost.
struct Budget {
    what: &'static str,
    most: f64,
    /// Whether it is about such a row.
    applies: fn(Contender, Traffic) -> bool,
    /// The figure: costs, and those of the fixed-window script in the same row.
    figure: fn(&Costs, &Costs) -> Option<f64>,
}

const BUDGETS: [Budget; 4] = [
    Budget {
        what: "Redis commands per decision, hot keys",
        most: 0.01,
        applies: |contender, traffic| contender == Contender::Tollgate && traffic.is_hot(),
        figure: |costs, _| costs.median(|cost| Some(cost.commands)),
    },
    Budget {
        what: "Redis CPU per decision, hot keys, µs",
        most: 0.1,
        applies: |contender, traffic| contender == Contender::Tollgate && traffic.is_hot(),
        figure: |costs, _| costs.median(|cost| Some(cost.redis)),
    },
    Budget {
        // A beat each second comes on top.
        what: "Redis commands per decision, cold keys, whatever the number of limits",
        most: 1.01,
        applies: |contender, traffic| contender == Contender::Tollgate && traffic == Traffic::Cold,
        figure: |costs, _| costs.median(|cost| Some(cost.commands)),
    },
    Budget {
        what: "Redis CPU of an acquire ÷ fixed-window script",
        most: 3.0,
        applies: |contender, _| contender.is_script(),
        figure: |costs, floor| costs.ratio(floor, |cost| Some(cost.redis)),
    },
];

impl Table {
    /// Without rows, but with the machine.
    pub(crate) const fn new(taken_on: String) -> Self {
        Self { taken_on, lines: Vec::new(), worst: [0.0; BUDGETS.len()] }
    }

    /// Adds a line for each contender, the fixed-window script first.
    pub(crate) fn add(&mut self, traffic: Traffic, limits: usize, rows: Vec<(Contender, Costs)>) -> Result<(), String> {
        let floor = rows.first().map(|(_, floor)| floor.clone()).ok_or("there is no floor")?;
        for (contender, costs) in rows {
            self.lines.push(line(traffic, limits, contender, &costs, &floor).ok_or("a figure is missing")?);
            for (budget, worst) in BUDGETS.iter().zip(&mut self.worst) {
                if (budget.applies)(contender, traffic) {
                    *worst = worst.max((budget.figure)(&costs, &floor).ok_or("a figure is missing")?);
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.taken_on)?;
        writeln!(
            f,
            "| keys | limits | what | decisions/s | server CPU, µs/decision | Redis commands/decision | \
             Redis CPU, µs/decision | Redis CPU ÷ fixed-window script |"
        )?;
        writeln!(f, "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |")?;
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        writeln!(f, "\n| budget | at most | found, at worst | kept |\n| --- | ---: | ---: | --- |")?;
        BUDGETS.iter().zip(self.worst).try_for_each(|(Budget { what, most, .. }, worst)| {
            let kept = if worst <= *most { "yes" } else { "**no**" };
            writeln!(f, "| {what} | {most} | {} | {kept} |", digits(worst))
        })
    }
}

fn line(traffic: Traffic, limits: usize, contender: Contender, costs: &Costs, floor: &Costs) -> Option<String> {
    Some(format!(
        "| {} | {limits} | {} | {} | {} | {} | {} | {} |",
        traffic.name(),
        contender.name(),
        thousands(costs.median(|cost| Some(cost.rate))?),
        costs.median(|cost| cost.server).map_or_else(|| "–".to_owned(), digits),
        digits(costs.median(|cost| Some(cost.commands))?),
        digits(costs.median(|cost| Some(cost.redis))?),
        digits(costs.ratio(floor, |cost| Some(cost.redis))?),
    ))
}

/// Three digits that count, or a few more.
fn digits(number: f64) -> String {
    match number {
        small if small < 0.1 => format!("{small:.4}"),
        number if number < 10.0 => format!("{number:.2}"),
        number => format!("{number:.1}"),
    }
}
