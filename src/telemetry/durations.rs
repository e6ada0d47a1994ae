//! How long decisions took: a histogram that is counted at once.
//!
//! The exporter's own keeps each sample, with a reading of the clock of its own, until somebody folds them together. That
//! is for histograms whose bounds it learns later; here they are known.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::domain::time::Micros;

/// Upper bounds of the buckets: from a decision in memory to the store's deadline and beyond. Times are whole microseconds.
const BOUNDS: [(Micros, &str); 14] = [
    (Micros(1), "0.000001"),
    (Micros(2), "0.0000025"),
    (Micros(5), "0.000005"),
    (Micros(10), "0.00001"),
    (Micros(25), "0.000025"),
    (Micros(50), "0.00005"),
    (Micros(100), "0.0001"),
    (Micros(250), "0.00025"),
    (Micros(500), "0.0005"),
    (Micros::from_millis(1), "0.001"),
    (Micros(2_500), "0.0025"),
    (Micros::from_millis(10), "0.01"),
    (Micros::from_millis(50), "0.05"),
    (Micros::from_secs(1), "1"),
];

/// Durations by bucket.
#[derive(Debug, Default)]
pub(super) struct Durations {
    /// By bound; the last are beyond all of them.
    counts: [AtomicU64; BOUNDS.len() + 1],
    /// All of them together, in microseconds.
    sum: AtomicU64,
}

impl Durations {
    /// Counts one.
    pub(super) fn record(&self, took: Micros) {
        let bucket = BOUNDS.iter().take_while(|(bound, _)| took > *bound).count();
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(took.0, Ordering::Relaxed);
    }

    /// Writes the series of the histogram `name` with one label, in Prometheus's text format.
    pub(super) fn render(&self, text: &mut String, name: &str, label: &str, value: &str) {
        let sum = self.sum.load(Ordering::Relaxed);
        let bounds = BOUNDS.iter().map(|(_, bound)| *bound).chain(["+Inf"]);
        let mut count = 0;
        // Writing to a `String` cannot fail.
        for (bound, bucket) in bounds.zip(&self.counts) {
            count += bucket.load(Ordering::Relaxed);
            let _ = writeln!(text, "{name}_bucket{{{label}=\"{value}\",le=\"{bound}\"}} {count}");
        }
        let (seconds, micros) = (sum / 1_000_000, sum % 1_000_000);
        let _ = writeln!(text, "{name}_sum{{{label}=\"{value}\"}} {seconds}.{micros:06}");
        let _ = writeln!(text, "{name}_count{{{label}=\"{value}\"}} {count}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_first_bucket_that_holds_it_and_in_all_wider_ones() {
        let durations = Durations::default();
        for took in [0, 1, 2, 3, 10_000, 10_001, 1_000_000, 2_345_678] {
            durations.record(Micros(took));
        }
        let mut text = String::new();
        durations.render(&mut text, "n", "facade", "f");
        let counts: Vec<&str> = text.lines().filter_map(|line| line.rsplit(' ').next()).collect();
        let cumulative = ["2", "3", "4", "4", "4", "4", "4", "4", "4", "4", "4", "5", "6", "7", "8"];
        assert_eq!(counts, [&cumulative[..], &["3.365685", "8"]].concat());
        assert!(text.contains("n_bucket{facade=\"f\",le=\"0.0000025\"} 3\n"), "{text}");
        assert!(text.contains("n_bucket{facade=\"f\",le=\"+Inf\"} 8\n"), "{text}");
        assert!(text.contains("n_sum{facade=\"f\"} 3.365685\nn_count{facade=\"f\"} 8\n"), "{text}");
    }

    #[test]
    fn bounds_are_what_their_text_says_as_far_as_whole_microseconds_tell() {
        for (bound, text) in BOUNDS {
            let seconds: f64 = text.parse().unwrap_or_default();
            #[expect(clippy::cast_precision_loss, reason = "at most a million")]
            let of = |micros: u64| micros as f64 / 1e6;
            assert!(of(bound.0) <= seconds && seconds < of(bound.0 + 1), "{text}");
        }
    }
}
