//! Which counters are asked for.

use std::sync::atomic::{AtomicU64, Ordering};

/// Different counters in even traffic.
pub(crate) const EVEN_KEYS: u64 = 10_000;

/// Different counters in mixed traffic.
const MIXED_KEYS: f64 = 100_000.0;

/// Which keys come, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// Always the same one.
    OneKey,
    /// Ten, in turns.
    TenKeys,
    /// Ten thousand, each as often as any other.
    Even,
    /// Many, the k-th most frequent one about 1/k times as often as the first (Zipf's law).
    Mixed,
    /// Each once.
    Cold,
}

impl Traffic {
    /// Its name in the table.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::OneKey => "hot: one key",
            Self::TenKeys => "hot: 10 keys",
            Self::Even => "10,000 keys",
            Self::Mixed => "mixed: Zipf over 100,000 keys",
            Self::Cold => "cold: each key once",
        }
    }

    /// Whether the same counters are asked for again and again.
    pub(crate) const fn is_hot(self) -> bool {
        matches!(self, Self::OneKey | Self::TenKeys)
    }
}

/// Draws keys, the same ones in each run.
pub(crate) struct Keys {
    traffic: Traffic,
    /// Over the whole run, so that a cold key is cold.
    next: AtomicU64,
}

impl Keys {
    pub(crate) const fn new(traffic: Traffic) -> Self {
        Self { traffic, next: AtomicU64::new(0) }
    }

    /// Which of them come.
    pub(crate) const fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// The key of the next question.
    pub(crate) fn draw(&self) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        match self.traffic {
            Traffic::OneKey => 0,
            Traffic::TenKeys => number % 10,
            Traffic::Even => mixed(number) % EVEN_KEYS,
            Traffic::Mixed => rank(mixed(number)),
            Traffic::Cold => number,
        }
    }
}

/// A rank below [`MIXED_KEYS`], its logarithm even: the k-th comes about 1/k times as often as the first.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a rank is small, and a draw needs no more digits than a double has"
)]
fn rank(random: u64) -> u64 {
    let even = (random >> 11) as f64 / (1_u64 << 53) as f64;
    MIXED_KEYS.powf(even) as u64
}

/// Spreads a count over all 64 bits (the finalizer of `SplitMix64`).
pub(crate) const fn mixed(number: u64) -> u64 {
    let z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
