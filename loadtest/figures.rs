//! What was measured, slice by slice, and what is made of it.

use std::time::Duration;

use tollgate::domain::time::Micros;

/// What whoever asks has seen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tally {
    /// Answers that came. Whoever reads them has made sure that they allow; ghz does not, so the server's count must.
    pub decisions: u64,
    /// How long asking went on.
    pub took: Duration,
    /// The time of a call that half of the calls do not exceed.
    pub p50: Duration,
    /// The same for 99 of 100.
    pub p99: Duration,
    /// The same for 999 of 1,000. None: whoever asked does not tell.
    pub p999: Option<Duration>,
}

/// What the processes have used and counted so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Account {
    /// The server's CPU time.
    pub server: Micros,
    /// Redis's, where the server uses it.
    pub redis: Option<Micros>,
    /// The server's own count of decisions: allows, and others. None: it does not count.
    pub counted: Option<(u64, u64)>,
}

/// One server under load for a while.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slice {
    /// Decisions a second.
    pub rate: f64,
    /// Seconds.
    pub p50: f64,
    /// Seconds.
    pub p99: f64,
    /// Server CPU, µs per decision.
    pub server: f64,
    /// Redis CPU, µs per decision.
    pub redis: Option<f64>,
}

impl Account {
    /// What was used since `before` while `tally` was seen. An error where the server counted anything but so many
    /// allows.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    pub(crate) fn since(&self, before: &Self, tally: Tally) -> Result<Slice, String> {
        let Tally { decisions, took, p50, p99, p999: _ } = tally;
        if decisions == 0 {
            return Err("no decision came".to_owned());
        }
        if let (Some((allowed, other)), Some((allowed_before, other_before))) = (self.counted, before.counted) {
            let (allowed, other) = (allowed - allowed_before, other - other_before);
            if (allowed, other) != (decisions, 0) {
                return Err(format!(
                    "{decisions} answers came; the server counted {allowed} allows and {other} other decisions"
                ));
            }
        }
        let per_decision = |micros: Micros| micros.0 as f64 / decisions as f64;
        Ok(Slice {
            rate: decisions as f64 / took.as_secs_f64(),
            p50: p50.as_secs_f64(),
            p99: p99.as_secs_f64(),
            server: per_decision(self.server - before.server),
            redis: self.redis.zip(before.redis).map(|(after, before)| per_decision(after - before)),
        })
    }
}

/// What was found of one of those that are compared, slice by slice.
#[derive(Clone, Debug)]
pub(crate) struct Slices<T>(Vec<T>);

impl<T> Default for Slices<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Slices<T> {
    /// Adds a slice.
    pub(crate) fn add(&mut self, slice: T) {
        self.0.push(slice);
    }

    /// The median over the slices of what `figure` takes from each. None where it is missing in one.
    pub(crate) fn median(&self, figure: impl Fn(&T) -> Option<f64>) -> Option<f64> {
        median(self.0.iter().map(figure).collect::<Option<_>>()?)
    }

    /// The median of how many times as much that is as of `other`, slice by slice: both were disturbed by the same things.
    /// None where either is missing.
    pub(crate) fn ratio(&self, other: &Self, figure: impl Fn(&T) -> Option<f64>) -> Option<f64> {
        let ratio = |(own, other)| Some(figure(own)? / figure(other)?);
        median(self.0.iter().zip(&other.0).map(ratio).collect::<Option<_>>()?)
    }
}

/// All slices of one server in one row.
pub(crate) type Figures = Slices<Slice>;

/// The middle of some values, or of the middle two.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2)?;
    let lower = values.get((values.len() - 1) / 2)?;
    Some(f64::midpoint(*lower, *upper))
}

/// The duration that `part` (of 1) of `all` do not exceed, in their own unit.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an index of a vector that is in memory"
)]
pub(crate) fn quantile(all: &mut [u32], part: f64) -> Option<u32> {
    let index = ((all.len() as f64 * part).ceil() as usize).saturating_sub(1).min(all.len().checked_sub(1)?);
    Some(*all.select_nth_unstable(index).1)
}
