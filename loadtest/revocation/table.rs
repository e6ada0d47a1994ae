//! The table of how soon revocations were in force, in Markdown.

use std::fmt;

use tollgate::domain::time::Micros;

use super::watch::Sight;
use crate::figures::quantile;
use crate::table::{micros, thousands};

/// The bound that replicas are configured with: who has not heard for so long asks, or denies.
const MAX_LAG: Micros = Micros::from_secs(2);

/// At the 99th percentile, revocations are in force everywhere within this.
const BUDGET: Micros = Micros::from_secs(1);

/// What is printed in the end.
pub(crate) struct Table {
    taken_on: String,
    told: Seen,
    others: Seen,
}

/// What was seen at some replicas.
#[derive(Default)]
struct Seen {
    first_refusals: Vec<u32>,
    last_acceptances: Vec<u32>,
    accepted_late: usize,
    accepted_again: usize,
    calls: usize,
}

impl Table {
    /// Without rows, but with the machine.
    pub(super) fn new(taken_on: String) -> Self {
        Self { taken_on, told: Seen::default(), others: Seen::default() }
    }

    /// Adds what was seen of one token at each replica; true: it was told itself.
    pub(super) fn add(&mut self, sights: Vec<(Sight, bool)>) {
        for (sight, told) in sights {
            if told { self.told.add(sight) } else { self.others.add(sight) }
        }
    }
}

impl Seen {
    fn add(&mut self, sight: Sight) {
        let Sight { first_refusal, last_acceptance, accepted_again, calls } = sight;
        let micros = |time: Micros| u32::try_from(time.0).unwrap_or(u32::MAX);
        self.first_refusals.push(micros(first_refusal));
        self.last_acceptances.push(micros(last_acceptance));
        self.accepted_late += usize::from(last_acceptance > MAX_LAG);
        self.accepted_again += accepted_again;
        self.calls += calls;
    }

    fn line(&self, whose: &str) -> String {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let calls = thousands(self.calls as f64);
        let [first, last] = [&self.first_refusals, &self.last_acceptances].map(|times| {
            [0.5, 0.99, 1.0].map(|part| match quantile(&mut times.clone(), part) {
                None => "–".to_owned(),
                Some(0) => "0".to_owned(),
                Some(time) => micros(std::time::Duration::from_micros(time.into())),
            })
        });
        format!(
            "| {whose} | {} | {calls} | {} | {} | {} | {} |",
            self.first_refusals.len(),
            first.join(" | "),
            last.join(" | "),
            self.accepted_late,
            self.accepted_again
        )
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { taken_on, told, others } = self;
        writeln!(f, "{taken_on}\n")?;
        writeln!(
            f,
            "| replica | revocations | decisions on them | first refusal, p50 | p99 | most | last acceptance, p50 | p99 | \
             most | accepted beyond `max_lag` | accepted after a refusal |"
        )?;
        writeln!(f, "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")?;
        writeln!(f, "{}", told.line("that answered `Revoke`"))?;
        writeln!(f, "{}", others.line("another"))?;
        let worst = [&told.last_acceptances, &others.last_acceptances, &told.first_refusals, &others.first_refusals];
        let worst = worst.into_iter().filter_map(|times| quantile(&mut times.clone(), 0.99)).max().unwrap_or(u32::MAX);
        let late = told.accepted_late + others.accepted_late + told.accepted_again + others.accepted_again;
        let kept = |kept: bool| if kept { "yes" } else { "**no**" };
        writeln!(f, "\n| budget | at most | found, at worst | kept |\n| --- | ---: | ---: | --- |")?;
        let found = std::time::Duration::from_micros(worst.into());
        let in_time = u64::from(worst) < BUDGET.0;
        writeln!(f, "| time until a revocation is in force, p99 | 1 s | {} | {} |", micros(found), kept(in_time))?;
        writeln!(f, "| calls accepted beyond `max_lag`, or after a refusal | 0 | {late} | {} |", kept(late == 0))
    }
}
