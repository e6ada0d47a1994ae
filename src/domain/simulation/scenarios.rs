//! Counterexamples that chance hardly ever hits, played by hand: each breaks one thing, and shows that the sound way does not.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use super::super::exact_log::{Log, at_once};
use super::super::lease::{Holding, Spend, end_of_lease, lease_time};
use super::super::time::Micros;
use super::super::window::{Counter, Frame, LeaseId, Outcome, Terms};
use super::START;
use super::run::{DRIFT_PPM, FRAME, WINDOW};

/// A counter, what one replica holds of it, and all that is spent.
struct Stage {
    counter: Counter,
    holding: Holding,
    log: Log,
    serial: u64,
}

impl Stage {
    fn new(frame: Frame) -> Self {
        let (counter, holding) = (Counter::new(frame, Micros::ZERO), Holding::new(frame, Micros::ZERO));
        Self { counter, holding, log: Log::default(), serial: 0 }
    }

    /// The replica asks for one unit, which is spent at once, and takes what it gets; its clock shows `local`.
    fn take(&mut self, frame: Frame, now: Micros, local: Micros, ends: impl Fn(Micros, Terms) -> Micros) {
        self.serial += 1;
        let lease = LeaseId { replica: 1, serial: self.serial };
        let terms = self.holding.ask(1, lease, local).expect("nothing is under way");
        let grant = self.counter.acquire(frame, terms, now);
        let Outcome::Granted { units } = grant.outcome else { unreachable!("there is room") };
        self.log.spend(now, 1);
        if let Some(ended) = self.holding.granted(terms, units, grant, ends(local, terms), local) {
            self.counter.settle(ended.lease, ended.used, now);
        }
    }

    /// It spends all that is in hand.
    fn spend_all(&mut self, now: Micros, local: Micros) {
        while matches!(self.holding.spend(1, local), Spend::Paid(_)) {
            self.log.spend(now, 1);
        }
    }

    /// Others take whatever the store has left.
    fn others_take_all(&mut self, frame: Frame, now: Micros) {
        while matches!(self.counter.acquire(frame, at_once(1), now).outcome, Outcome::Granted { .. }) {
            self.log.spend(now, 1);
        }
    }

    /// The same whenever something returns, from the sub-window after `from` on, for a window and a sub-window.
    fn others_take_what_returns(&mut self, frame: Frame, from: Micros) {
        let mut now = Micros(from.0.div_ceil(frame.width.0) * frame.width.0);
        while now < from + Micros(frame.width.0 * (frame.parts + 1)) {
            self.others_take_all(frame, now);
            now = now + frame.width;
        }
    }
}

/// Every alignment is tried.
#[test]
fn simulation_finds_that_drifting_clocks_need_their_allowance() {
    let most = |ends: fn(Micros, Micros) -> Micros| {
        (0..FRAME.width.0).step_by(250).map(|offset| most_of_slow_replica(Micros(offset), ends)).max()
    };
    assert!(most(end_of_lease).is_some_and(|most| most <= FRAME.units));
    assert!(most(|sent, hold| sent + hold).is_some_and(|most| most > FRAME.units));
}

/// A replica whose clock is 0.1 % slow spends a lease as late as it may; others take whatever returns as soon as it does.
fn most_of_slow_replica(offset: Micros, ends: fn(Micros, Micros) -> Micros) -> u64 {
    let start = START + offset;
    let local = |now: Micros| Micros(now.since(start).0 * (1_000_000 - DRIFT_PPM) / 1_000_000);
    let mut stage = Stage::new(FRAME);
    for _ in 0..5 {
        stage.take(FRAME, start, local(start), |sent, terms| ends(sent, terms.hold));
    }
    let around_end = (-2_000_i64..2_000).step_by(50).filter_map(|step| start.0.checked_add_signed(step));
    let around_end = around_end.map(|moment| Micros(moment) + lease_time(FRAME));
    let holds = |now: &Micros| stage.holding.in_hand(local(*now)) > 0;
    let last = around_end.filter(holds).last().expect("it is hot: units are in hand");
    stage.spend_all(last, local(last));
    stage.others_take_what_returns(FRAME, last);
    stage.log.most_in_any(WINDOW)
}

/// A reload makes the window ten times as long while a request is under way. What it is granted was charged by the old
/// one, and has to be spent as soon.
#[test]
fn simulation_finds_that_a_lease_must_not_be_lengthened_by_a_reload() {
    let old = Frame { width: Micros(FRAME.width.0 / 10), ..FRAME };
    let most = |ends: fn(Micros, Terms) -> Micros| {
        let mut stage = Stage::new(old);
        for _ in 0..4 {
            stage.take(old, START, START, |sent, terms| end_of_lease(sent, terms.hold));
        }
        let terms = stage.holding.ask(1, LeaseId { replica: 1, serial: 9 }, START).expect("nothing is under way");
        let grant = stage.counter.acquire(old, terms, START);
        let Outcome::Granted { units } = grant.outcome else { unreachable!("there is room") };
        stage.log.spend(START, 1);
        if let Some(ended) = stage.holding.follow(Some(FRAME)) {
            stage.counter.settle(ended.lease, ended.used, START);
        }
        assert_eq!(stage.holding.granted(terms, units, grant, ends(START, terms), START), None);
        stage.others_take_all(old, START);
        // As late as it may.
        let last =
            (0..2_000).map(|millis| START + Micros::from_millis(millis)).rfind(|&now| stage.holding.in_hand(now) > 0);
        let last = last.expect("it is hot: units are in hand");
        stage.spend_all(last, last);
        stage.others_take_what_returns(old, last);
        stage.log.most_in_any(Micros(old.width.0 * old.parts))
    };
    assert!(most(|sent, terms| end_of_lease(sent, terms.hold)) <= FRAME.units);
    assert!(most(|sent, _| end_of_lease(sent, lease_time(FRAME))) > FRAME.units);
}

/// A question took five units from a lease, and waited for another limit for so long that the lease ended. When that
/// limit refuses, the five are settled as used: the lease that is in hand by then has nothing to get back.
#[test]
fn simulation_finds_that_units_go_back_only_to_the_lease_that_they_came_from() {
    let most = |to_any: bool| {
        let mut stage = Stage::new(FRAME);
        let at = |millis| START + Micros::from_millis(millis);
        for _ in 0..5 {
            stage.take(FRAME, START, START, |sent, terms| end_of_lease(sent, terms.hold));
        }
        let Spend::Paid(first) = stage.holding.spend(5, START) else { unreachable!("it is hot: units are in hand") };
        let ended = stage.holding.end().expect("it is in hand");
        stage.counter.settle(ended.lease, ended.used, START);
        for _ in 0..5 {
            stage.take(FRAME, at(1_500), at(1_500), |sent, terms| end_of_lease(sent, terms.hold));
        }
        let Spend::Paid(second) = stage.holding.spend(5, at(2_000)) else { unreachable!("units are in hand") };
        stage.log.spend(at(2_000), 5);
        stage.holding.give_back(if to_any { second } else { first }, 5);
        stage.spend_all(at(2_000), at(2_000));
        stage.others_take_all(FRAME, at(2_000));
        stage.others_take_what_returns(FRAME, at(2_000));
        stage.log.most_in_any(WINDOW)
    };
    assert!(most(false) <= FRAME.units);
    assert!(most(true) > FRAME.units);
}
