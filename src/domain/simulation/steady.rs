//! Utilisation: what a fleet under steady excess admits, of what an exact log would.

use super::super::exact_log::ExactLog;
use super::super::lease::{Ended, Holding, Spend, end_of_lease, lease_time};
use super::super::time::Micros;
use super::super::window::{Counter, Frame, LeaseId, Outcome};
use super::START;
use super::chance::Chance;

/// How settlements come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settling {
    /// Before the lease ends: within the eighth of its time that is left when it is settled.
    InTime,
    /// After up to a lease time, which is mostly too late.
    Late,
    Never,
}

/// What was admitted, what an exact log would have, and what leases held that nobody spent or took back.
#[derive(Debug, Default)]
struct Share {
    got: u64,
    exact: u64,
    stranded: u64,
}

struct Fleet {
    frame: Frame,
    counter: Counter,
    holdings: Vec<Holding>,
    settling: Settling,
    due: Vec<(Micros, Ended)>,
    chance: Chance,
    stranded: u64,
}

impl Fleet {
    /// One unit is asked of a random replica at `demand` times the limit's rate, for so many windows.
    fn share(frame: Frame, settling: Settling, demand: u64, windows: u64, seed: u64) -> Share {
        let mut chance = Chance::new(seed);
        let replicas = 1 + chance.below(6);
        let holdings = (0..replicas).map(|_| Holding::new(frame, START)).collect();
        let counter = Counter::new(frame, Micros::ZERO);
        let mut fleet = Self { frame, counter, holdings, settling, due: Vec::new(), chance, stranded: 0 };
        let length = Micros(frame.width.0 * frame.parts);
        let mut exact = ExactLog::new(frame.units, length);
        let mut share = Share::default();
        for serial in 0..frame.units * demand * windows {
            let now = START + Micros(serial * length.0 / frame.units / demand);
            fleet.upkeep(now);
            share.exact += u64::from(exact.admits(1, now));
            share.got += u64::from(fleet.pays(serial, now));
        }
        Share { stranded: fleet.stranded, ..share }
    }

    fn upkeep(&mut self, now: Micros) {
        for index in 0..self.holdings.len() {
            if let Some(ended) = self.holdings[index].tend(now) {
                self.owe(ended, now);
            }
        }
        while let Some(place) = self.due.iter().position(|(arrives, _)| *arrives <= now) {
            let (_, ended) = self.due.swap_remove(place);
            let before = self.counter.clone();
            self.counter.settle(ended.lease, ended.used, now);
            if self.counter == before {
                self.stranded += ended.left;
            }
        }
    }

    fn owe(&mut self, ended: Ended, now: Micros) {
        let delay = match self.settling {
            Settling::InTime => self.chance.below(lease_time(self.frame).0 / 8),
            Settling::Late => self.chance.below(lease_time(self.frame).0 + 1),
            Settling::Never => {
                self.stranded += ended.left;
                return;
            }
        };
        self.due.push((now + Micros(delay), ended));
    }

    /// One unit, with a store that answers at once.
    fn pays(&mut self, serial: u64, now: Micros) -> bool {
        let index = self.chance.index(self.holdings.len());
        let holding = &mut self.holdings[index];
        match holding.spend(1, now) {
            Spend::Paid(_) => return true,
            Spend::Short { .. } => return false,
            Spend::Ask => {}
        }
        let Some(terms) = holding.ask(1, LeaseId { replica: 1, serial }, now) else { return false };
        let grant = self.counter.acquire(self.frame, terms, now);
        match grant.outcome {
            Outcome::Granted { units } => {
                let ends = end_of_lease(now, terms.hold);
                if let Some(ended) = holding.granted(terms, units, grant, ends, now) {
                    self.owe(ended, now);
                }
                true
            }
            Outcome::Short { retry_after } => {
                holding.refused(terms.lease, 1, retry_after, grant, now);
                false
            }
            Outcome::Never => false,
        }
    }
}

/// Runs `check` on fleets with several limits and demands, twice to ten times what the limit admits.
fn for_fleets(settling: Settling, check: impl Fn(Frame, &Share) -> bool) {
    for (window, units, demand, seed) in
        [(2, 40, 2, 1), (20, 400, 2, 2), (20, 40, 10, 3), (20, 500, 3, 4), (60, 400, 2, 5)]
    {
        let frame = Frame::new(units, Micros::from_secs(window));
        let share = Fleet::share(frame, settling, demand, 12, seed);
        assert!(
            check(frame, &share),
            "{settling:?}: {units} in {window} s, {demand} times as many wanted, seed {seed}: {share:?}"
        );
    }
}

#[test]
fn simulation_steady_excess_gets_nearly_what_an_exact_log_admits() {
    for_fleets(Settling::InTime, |_, share| share.got * 32 >= share.exact * 30);
}

/// A lease that is settled too late or never is charged to its end, spent or not. So each unit comes back a lease time
/// later than it might, and those that were not spent are lost for that long: the rest is as good as ever.
#[test]
fn simulation_late_settlements_cost_a_lease_time_and_what_was_not_spent() {
    for settling in [Settling::Late, Settling::Never] {
        for_fleets(settling, |frame, Share { got, exact, stranded }| {
            let window = frame.width.0 * frame.parts;
            let longest = window + frame.width.0 + lease_time(frame).0;
            (got + stranded) * longest >= exact * window && got * 100 >= exact * 85
        });
    }
}
