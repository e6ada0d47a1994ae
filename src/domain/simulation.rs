//! For tests: replicas that hold leases, and one store, in a world where messages are late, lost and repeated, replicas
//! crash and pause, and their clocks drift. Everything follows from a seed; the exact log is the judge.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use super::exact_log::{ExactLog, Log, at_once};
use super::lease::{Ended, Holding, Spend, end_of_lease, lease_time};
use super::time::Micros;
use super::window::{Counter, Frame, Grant, LeaseId, Outcome, Terms};

const FRAME: Frame = Frame { units: 40, width: Micros::from_millis(625), parts: 32 };
const WINDOW: Micros = Micros::from_secs(20);
const START: Micros = Micros::from_secs(1_000);
const REPLICAS: usize = 3;
/// The most that a clock may go wrong, in parts per million.
const DRIFT_PPM: u64 = 1_000;

/// What is broken on purpose.
#[derive(Clone, Copy, PartialEq, Eq)]
enum World {
    Sound,
    /// The store charges a lease to the moment of the grant.
    ChargedAtGrant,
}

/// A small generator (SplitMix64): the same everywhere and for ever.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn one_in(&mut self, cases: u64) -> bool {
        self.below(cases) == 0
    }
}

enum Message {
    Acquire { replica: usize, life: u32, terms: Terms, sent: Micros, units: u64 },
    Granted { replica: usize, life: u32, terms: Terms, sent: Micros, units: u64, grant: Grant },
    Settle { ended: Ended },
}

struct Replica {
    holding: Holding,
    /// Goes up with every crash: answers to the dead are not heard.
    life: u32,
    /// How fast its clock goes, in parts per million.
    speed: u64,
    paused_until: Micros,
}

impl Replica {
    fn clock(&self, now: Micros) -> Micros {
        Micros(7_000_000 + now.since(START).0 * self.speed / 1_000_000)
    }
}

struct Run {
    world: World,
    chance: Chance,
    now: Micros,
    counter: Counter,
    replicas: Vec<Replica>,
    /// What is on its way, and when it arrives.
    mail: Vec<(Micros, Message)>,
    log: Log,
    serial: u64,
}

impl Run {
    fn new(world: World, seed: u64) -> Self {
        let mut chance = Chance(seed);
        let replicas = (0..REPLICAS).map(|_| {
            let pace = 1_000_000 - DRIFT_PPM + chance.below(2 * DRIFT_PPM + 1);
            Replica { holding: Holding::new(FRAME, Micros::ZERO), life: 0, speed: pace, paused_until: START }
        });
        let replicas = replicas.collect();
        let (counter, mail, log) = (Counter::new(FRAME, Micros::ZERO), Vec::new(), Log::default());
        Self { world, chance, now: START, counter, replicas, mail, log, serial: 0 }
    }

    /// Plays so many events and answers the most units that any window holds.
    fn most(mut self, events: usize) -> u64 {
        for _ in 0..events {
            let pause = match self.chance.below(40) {
                0 => self.chance.below(WINDOW.0 / 2),
                1..5 => self.until_boundary(),
                _ => self.chance.below(30_000),
            };
            self.now = self.now + Micros(pause);
            self.deliver();
            let replica = usize::try_from(self.chance.below(REPLICAS as u64)).unwrap_or(0);
            if self.replicas[replica].paused_until <= self.now {
                self.act(replica);
            }
        }
        self.log.most_in_any(WINDOW)
    }

    /// Up to just around the next moment at which a sub-window, or a lease begun at that moment, comes to its edge: where
    /// arithmetic goes wrong if it does.
    fn until_boundary(&mut self) -> u64 {
        let ahead = if self.chance.one_in(2) { lease_time(FRAME).0 } else { 0 };
        let rest = FRAME.width.0 - (self.now.0 + ahead) % FRAME.width.0;
        (rest + self.chance.below(2_500)).saturating_sub(self.chance.below(1_200))
    }

    fn act(&mut self, index: usize) {
        match self.chance.below(30) {
            0 => {
                let replica = &mut self.replicas[index];
                replica.life += 1;
                replica.holding = Holding::new(FRAME, replica.clock(self.now));
            }
            1 => self.replicas[index].paused_until = self.now + Micros(self.chance.below(WINDOW.0 / 8)),
            2..6 => {
                let replica = &mut self.replicas[index];
                let now = replica.clock(self.now);
                if let Some(ended) = replica.holding.tend(now) {
                    self.settle(ended);
                }
            }
            _ => {
                for _ in 0..=self.chance.below(12) {
                    let units = 1 + self.chance.below(2);
                    self.pay(index, units);
                }
            }
        }
    }

    fn pay(&mut self, index: usize, units: u64) {
        let replica = &mut self.replicas[index];
        let now = replica.clock(self.now);
        match replica.holding.spend(units, now) {
            Spend::Paid(_) => self.log.spend(self.now, units),
            Spend::Short { .. } => {}
            Spend::Ask => {
                self.serial += 1;
                let lease = LeaseId { replica: index as u64, serial: self.serial };
                let Some(terms) = replica.holding.ask(units, lease, now) else { return };
                let life = replica.life;
                self.send(Message::Acquire { replica: index, life, terms, sent: now, units });
            }
        }
    }

    /// Messages arrive at once, after a while, or long after; settlements also never, or twice.
    fn send(&mut self, message: Message) {
        let delay = match self.chance.below(10) {
            0..6 => 0,
            6..9 => self.chance.below(12_000),
            _ => self.chance.below(2_000_000),
        };
        self.mail.push((self.now + Micros(delay), message));
    }

    fn settle(&mut self, ended: Ended) {
        for _ in 0..self.chance.below(3) {
            self.send(Message::Settle { ended });
        }
    }

    fn deliver(&mut self) {
        while let Some(place) = self.mail.iter().position(|(arrives, _)| *arrives <= self.now) {
            let (_, message) = self.mail.swap_remove(place);
            match message {
                Message::Settle { ended } => self.counter.settle(ended.lease, ended.used, self.now),
                Message::Acquire { replica, life, terms, sent, units } => {
                    let hold = if self.world == World::ChargedAtGrant { Micros::ZERO } else { terms.hold };
                    let grant = self.counter.acquire(FRAME, Terms { hold, ..terms }, self.now);
                    if matches!(grant.outcome, Outcome::Granted { .. }) {
                        // The question is paid at this moment, between its sending and its answer.
                        self.log.spend(self.now, units);
                    }
                    if self.chance.one_in(20) {
                        self.lost(replica, life, terms.lease);
                    } else {
                        self.send(Message::Granted { replica, life, terms, sent, units, grant });
                    }
                }
                Message::Granted { replica, life, terms, sent, units, grant } => {
                    self.hear(replica, life, terms, sent, units, grant);
                }
            }
        }
    }

    fn lost(&mut self, index: usize, life: u32, lease: LeaseId) {
        let replica = &mut self.replicas[index];
        if replica.life == life {
            replica.holding.failed(lease);
        }
    }

    fn hear(&mut self, index: usize, life: u32, terms: Terms, sent: Micros, units: u64, grant: Grant) {
        let replica = &mut self.replicas[index];
        if replica.life != life {
            return;
        }
        let now = replica.clock(self.now);
        match grant.outcome {
            Outcome::Granted { units: granted } => {
                let ends = end_of_lease(sent, terms.hold);
                if let Some(ended) = replica.holding.granted(terms, granted, grant, ends, now) {
                    self.settle(ended);
                }
            }
            Outcome::Short { retry_after } => replica.holding.refused(terms.lease, units, retry_after, grant, now),
            Outcome::Never => replica.holding.failed(terms.lease),
        }
    }
}

const EVENTS: usize = 600;

/// The first seed from which a window holds too much.
fn counterexample(world: World, seeds: std::ops::Range<u64>) -> Option<u64> {
    seeds.into_iter().find(|&seed| Run::new(world, seed).most(EVENTS) > FRAME.units)
}

#[test]
#[expect(clippy::print_stderr, reason = "a failure is found again by its seed, and the number of runs is to be seen")]
fn simulation_no_window_holds_more_than_the_limit_whatever_happens() {
    let found = counterexample(World::Sound, 0..3_000);
    eprintln!("3000 simulated runs of {EVENTS} events, seeds 0 to 2999");
    assert_eq!(found, None, "the seed of a run that admitted too much");
}

#[test]
fn simulation_finds_that_leases_charged_at_their_grant_admit_too_much() {
    assert!(counterexample(World::ChargedAtGrant, 0..3_000).is_some());
}

/// Chance hardly ever hits the millisecond in which a slow clock matters, so every alignment is tried.
#[test]
fn simulation_finds_that_drifting_clocks_need_their_allowance() {
    let most = |ends: fn(Micros, Micros) -> Micros| {
        (0..FRAME.width.0).step_by(100).map(|offset| most_of_slow_replica(Micros(offset), ends)).max()
    };
    assert!(most(end_of_lease).is_some_and(|most| most <= FRAME.units));
    assert!(most(|sent, hold| sent + hold).is_some_and(|most| most > FRAME.units));
}

/// A replica whose clock is 0.1 % slow spends a lease as late as it may; others take whatever returns as soon as it does.
fn most_of_slow_replica(offset: Micros, ends: fn(Micros, Micros) -> Micros) -> u64 {
    let start = START + offset;
    let local = |now: Micros| Micros(now.since(start).0 * (1_000_000 - DRIFT_PPM) / 1_000_000);
    let (mut counter, mut log) = (Counter::new(FRAME, Micros::ZERO), Log::default());
    let mut holding = Holding::new(FRAME, Micros::ZERO);
    for serial in 0..5 {
        let terms = holding.ask(1, LeaseId { replica: 1, serial }, local(start)).expect("nothing is under way");
        let grant = counter.acquire(FRAME, terms, start);
        let Outcome::Granted { units } = grant.outcome else { unreachable!("the counter is nearly empty") };
        log.spend(start, 1);
        holding.granted(terms, units, grant, ends(local(start), terms.hold), local(start));
    }
    let around_end = (-2_000_i64..2_000).step_by(50).filter_map(|step| start.0.checked_add_signed(step));
    let around_end = around_end.map(|moment| Micros(moment) + lease_time(FRAME));
    let last = around_end.filter(|&now| holding.in_hand(local(now)) > 0).last().expect("it is hot: units are in hand");
    while matches!(holding.spend(1, local(last)), Spend::Paid(_)) {
        log.spend(last, 1);
    }
    let mut now = Micros(last.0.div_ceil(FRAME.width.0) * FRAME.width.0);
    while now < last + WINDOW + FRAME.width {
        while matches!(counter.acquire(FRAME, at_once(1), now).outcome, Outcome::Granted { .. }) {
            log.spend(now, 1);
        }
        now = now + FRAME.width;
    }
    log.most_in_any(WINDOW)
}

/// Under steady excess at two replicas whose settlements arrive: at least 1 − 2/B of what an exact log admits.
#[test]
fn simulation_steady_excess_gets_nearly_what_an_exact_log_admits() {
    for units in [40, 400, 4_000] {
        let frame = Frame { units, ..FRAME };
        let mut counter = Counter::new(frame, Micros::ZERO);
        let mut exact = ExactLog::new(units, WINDOW);
        let mut holdings = [Holding::new(frame, START), Holding::new(frame, START)];
        let (mut got, mut admitted) = (0_u64, 0_u64);
        let step = WINDOW.0 / units / 3;
        for (serial, now) in (0..).zip((START.0..START.0 + 30 * WINDOW.0).step_by(usize::try_from(step).unwrap_or(1))) {
            let (now, index) = (Micros(now), usize::from(serial % 2 == 1));
            for holding in &mut holdings {
                if let Some(ended) = holding.tend(now) {
                    counter.settle(ended.lease, ended.used, now);
                }
            }
            admitted += u64::from(exact.admits(1, now));
            got += u64::from(paid(&mut holdings[index], &mut counter, frame, serial, now));
        }
        assert!(got * 32 >= admitted * 30, "{units}: {got} of {admitted}");
    }
}

/// One unit, with a store that answers at once.
fn paid(holding: &mut Holding, counter: &mut Counter, frame: Frame, serial: u64, now: Micros) -> bool {
    match holding.spend(1, now) {
        Spend::Paid(_) => return true,
        Spend::Short { .. } => return false,
        Spend::Ask => {}
    }
    let Some(terms) = holding.ask(1, LeaseId { replica: 1, serial }, now) else { return false };
    let grant = counter.acquire(frame, terms, now);
    match grant.outcome {
        Outcome::Granted { units } => {
            let ends = end_of_lease(now, terms.hold);
            if let Some(ended) = holding.granted(terms, units, grant, ends, now) {
                counter.settle(ended.lease, ended.used, now);
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
