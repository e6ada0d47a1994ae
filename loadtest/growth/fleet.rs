//! A fleet on paper: what it asks of Redis, by the formulas of docs/scale.md, and what that costs by what was measured.

use super::parts::{Part, Parts};

/// How often a replica asks what was revoked, says that it is there, and tries an idle connection, in seconds.
const POLL: f64 = 0.4;
const BEAT: f64 = 1.0;
const PING: f64 = 1.0;

/// Places on a cluster at which a replica says that it is there.
const PLACES: f64 = 32.0;

/// How long a lease lasts, where the window is 20 s or more; in seconds.
const LEASE: f64 = 1.0;

/// A counter is hot that was paid from so many times in this lease time and the one before: on average, in one and a half.
const HOT_HITS: u32 = 4;
const LOOKED_AT: f64 = 1.5;

/// The part of a core that a node of Redis is to use at most: the rest is for peaks, and for a node that fails.
const BUSY: f64 = 0.6;

/// A fleet, and how its traffic falls on keys and replicas.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fleet {
    /// Replicas.
    pub replicas: u64,
    /// Decisions a second, of all.
    pub decisions: f64,
    /// Keys, the k-th asked for 1/k times as often as the first.
    pub keys: u64,
    /// Replicas that one key's questions fall on.
    pub per_key: u64,
}

/// What a fleet asks of Redis in a second.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Demand {
    /// Calls that take units: exactly a cost, or a lease.
    pub asks: f64,
    /// Leases that are settled.
    pub settles: f64,
}

/// Those that are reckoned: all keys at all replicas; each key at one; and a tenth of the replicas.
pub(crate) const FLEETS: [(&str, Fleet); 3] = [
    ("1,000 replicas, any key at any", Fleet { replicas: 1_000, decisions: 1e6, keys: 10_000_000, per_key: 1_000 }),
    ("1,000 replicas, a key at one", Fleet { replicas: 1_000, decisions: 1e6, keys: 10_000_000, per_key: 1 }),
    ("100 replicas, any key at any", Fleet { replicas: 100, decisions: 1e6, keys: 10_000_000, per_key: 100 }),
];

impl Fleet {
    /// What is asked for, with one limit on each question.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    pub(crate) fn demand(&self) -> Demand {
        let harmonic: f64 = (1..=self.keys).map(|rank| 1.0 / rank as f64).sum();
        let mut demand = Demand::default();
        for rank in 1..=self.keys {
            let rate = self.decisions / harmonic / rank as f64;
            let here = rate / self.per_key as f64;
            let hot = at_least(HOT_HITS, here * LOOKED_AT * LEASE);
            // A lease pays for the question that asks, and for those that come until it ends.
            let leases = rate * hot / (1.0 + here * LEASE);
            demand.asks += rate * (1.0 - hot) + leases;
            demand.settles += leases;
        }
        demand
    }

    /// Each kind of call: how many a second, and what one costs.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    fn calls(&self, parts: &Parts, nodes: f64) -> Option<[(&'static str, f64, Part); 5]> {
        let Demand { asks, settles } = self.demand();
        let (_, beat) = parts.beats.iter().find(|(fleet, _)| *fleet == self.replicas)?;
        let replicas = self.replicas as f64;
        Some([
            ("acquisitions", asks, parts.acquire),
            ("settlements, one in a call", settles, parts.settle),
            ("what was revoked", replicas / POLL, parts.poll),
            ("that it is there, at 32 places", replicas / BEAT * PLACES, *beat),
            ("`PING`, to each node", replicas / PING * nodes, parts.ping),
        ])
    }

    /// So many nodes that each is busy for [`BUSY`] at most, where all is even; each kind of call, and all of them.
    pub(crate) fn needs(&self, parts: &Parts) -> Option<Needs> {
        let cores = |nodes: f64| {
            Some(self.calls(parts, nodes)?.iter().map(|(_, calls, part)| calls * part.cpu / 1e6).sum::<f64>())
        };
        let mut nodes = 1.0;
        // Each node more is tried by each replica, too.
        while cores(nodes)? > nodes * BUSY && nodes < 1_000.0 {
            nodes += 1.0;
        }
        Some(Needs { nodes, calls: self.calls(parts, nodes)?.into() })
    }
}

/// What a fleet needs.
pub(crate) struct Needs {
    /// Nodes of Redis that are masters.
    pub nodes: f64,
    /// Each kind of call: how many a second, and what one costs.
    pub calls: Vec<(&'static str, f64, Part)>,
}

/// The chance of so many events at least where `mean` are expected (Poisson).
fn at_least(events: u32, mean: f64) -> f64 {
    let (mut none_of_these, mut term) = (1.0, (-mean).exp());
    for event in 0..events {
        none_of_these -= term;
        term *= mean / f64::from(event + 1);
    }
    none_of_these.clamp(0.0, 1.0)
}
