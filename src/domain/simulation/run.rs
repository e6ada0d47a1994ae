//! One run: a random fleet, its store or stores, and the mail between them.

use super::super::exact_log::Log;
use super::super::lease::{Ended, LEASE_MAX, end_of_lease, lease_time};
use super::super::time::Micros;
use super::super::window::{Counter, Frame, Grant, LeaseId, Outcome, Terms};
use super::chance::Chance;
use super::replica::{Asked, Question, Replica, Tried};
use super::{START, World};

/// The most that a clock may go wrong, in parts per million.
pub(super) const DRIFT_PPM: u64 = 1_000;

/// How often the limits are defined in a run: at its start, and by reloads.
const VERSIONS: usize = 6;

/// The limit that no reload has changed.
pub(super) const FRAME: Frame = Frame { units: 40, width: Micros::from_millis(625), parts: 32 };
pub(super) const WINDOW: Micros = Micros(FRAME.width.0 * FRAME.parts);

enum Message {
    /// A question asks one of its counters, or all where one node has them.
    Ask { question: usize, only: Option<usize> },
    /// All have answered.
    Answered { question: usize },
    /// A lease has ended.
    Settle { counter: usize, ended: Ended },
    /// Units were charged in vain: another node refused.
    Refund { counter: usize, units: u64 },
}

/// What a run may do besides what every run does.
#[derive(Clone, Copy)]
pub(super) struct Trouble {
    pub(super) world: World,
    /// Limits are defined anew, by one replica after the other.
    pub(super) reloads: bool,
    /// The clock of the store is set: back, or also forward.
    pub(super) store_clock: StoreClock,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum StoreClock {
    SetBack,
    SetAnyway,
}

/// What the exact log says of one counter after a run.
pub(super) struct Judged {
    /// The most units that a window held, and how many it may hold.
    pub(super) most: u64,
    pub(super) may: u64,
    /// The same from the moment on at which the last definition alone counts.
    pub(super) most_at_last: u64,
    pub(super) may_at_last: u64,
}

impl Judged {
    pub(super) const fn is_too_much(&self) -> bool {
        self.most > self.may || self.most_at_last > self.may_at_last
    }
}

pub(super) struct Run {
    trouble: Trouble,
    chance: Chance,
    now: Micros,
    /// How the limits are defined: by version, then by counter.
    versions: [Vec<Frame>; VERSIONS],
    /// The version that replicas come to.
    target: usize,
    /// When another one may have been spent by for the last time.
    converged: Micros,
    counters: Vec<Counter>,
    logs: Vec<Log>,
    /// Whether each counter is on a node of its own.
    apart: bool,
    /// How far the clock of the store is behind, and how far it was set forward in all.
    behind: Micros,
    forward: Micros,
    replicas: Vec<Replica>,
    questions: Vec<Option<Question>>,
    /// What is on its way, and when it arrives.
    mail: Vec<(Micros, Message)>,
    serial: u64,
    /// Whether calls come in numbers, and who acted last.
    stormy: bool,
    /// Whether all mail arrives at once: little is withheld then, and little is enough to break the promise.
    smooth: bool,
    latest: usize,
    /// What a call costs at most, of each counter.
    cost_max: u64,
}

impl Run {
    pub(super) fn new(trouble: Trouble, seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let counters = 1 + chance.index(3);
        // A window that is cut finer withholds less, so that less is enough to break the promise.
        let (width, parts) =
            [(FRAME.width, FRAME.parts), (Micros(FRAME.width.0 / 4), FRAME.parts * 4)][chance.index(2)];
        let first = (0..counters as u64).map(|n| Frame { units: FRAME.units - 9 * n, width, parts });
        let first: Vec<Frame> = first.collect();
        let mut versions: [Vec<Frame>; VERSIONS] = std::array::from_fn(|_| first.clone());
        if trouble.reloads {
            for frame in versions.iter_mut().flatten() {
                frame.units = [20, 40, 60][chance.index(3)];
                frame.width = Micros(width.0 * [2, 4, 4, 6][chance.index(4)] / 4 + chance.below(2));
            }
        }
        let replicas = (0..=chance.below(5)).map(|_| {
            let pace = 1_000_000 - DRIFT_PPM + chance.below(2 * DRIFT_PPM + 1);
            Replica::new(&versions[0], pace)
        });
        let replicas = replicas.collect();
        let smooth = chance.one_in(2);
        let (apart, cost_max) = (chance.one_in(2), [2, 2, 10][chance.index(3)]);
        Self {
            trouble,
            chance,
            now: START,
            target: 0,
            converged: START,
            counters: versions[0].iter().map(|&frame| Counter::new(frame, Micros::ZERO)).collect(),
            logs: vec![Log::default(); counters],
            versions,
            apart,
            behind: Micros::from_secs(500),
            forward: Micros::ZERO,
            replicas,
            questions: Vec::new(),
            mail: Vec::new(),
            serial: 0,
            stormy: true,
            smooth,
            latest: 0,
            cost_max,
        }
    }

    /// Plays so many events and judges each counter.
    pub(super) fn judged(mut self, events: usize) -> Vec<Judged> {
        for _ in 0..events {
            let (replica, pause) = self.next();
            self.now = self.now + Micros(pause);
            self.deliver();
            if self.replicas[replica].paused_until <= self.now {
                self.act(replica);
            }
        }
        (0..self.counters.len()).map(|counter| self.judge(counter)).collect()
    }

    fn judge(&self, counter: usize) -> Judged {
        let frames = || self.versions[..=self.target].iter().map(|frames| frames[counter]);
        // Units come back as much too early as the clock of the store was set forward.
        let window = |frame: Frame| Micros(frame.width.0 * frame.parts) - self.forward;
        let shortest = frames().map(window).min().unwrap_or_default();
        let last = self.versions[self.target][counter];
        Judged {
            most: self.logs[counter].most_in_any(shortest),
            may: frames().map(|frame| frame.units).max().unwrap_or_default(),
            most_at_last: self.logs[counter].since(self.converged).most_in_any(window(last)),
            may_at_last: last.units,
        }
    }

    fn store_clock(&self) -> Micros {
        self.now - self.behind
    }

    /// Who acts next, and after how long: mostly soon, and now and then at the worst moment.
    fn next(&mut self) -> (usize, u64) {
        if self.chance.one_in(25) {
            self.stormy = !self.stormy;
        }
        let other = self.chance.index(self.replicas.len());
        match self.chance.below(40) {
            0 => (other, self.chance.below(WINDOW.0 + 2_000_000)),
            1..5 => (other, self.until_boundary()),
            5..9 => {
                // Nearly until a lease that the same replica has just taken ends.
                self.stormy = true;
                (self.latest, lease_time(self.versions[self.target][0]).0 * (70 + self.chance.below(31)) / 100)
            }
            _ => (other, self.chance.below(30_000)),
        }
    }

    /// Up to just around the next moment at which a sub-window, or a lease begun at that moment, comes to its edge: where
    /// arithmetic goes wrong if it does.
    fn until_boundary(&mut self) -> u64 {
        let frame = self.versions[self.target][0];
        let ahead = if self.chance.one_in(2) { lease_time(frame).0 } else { 0 };
        let rest = frame.width.0 - (self.store_clock().0 + ahead) % frame.width.0;
        (rest + self.chance.below(2_500)).saturating_sub(self.chance.below(1_200))
    }

    fn act(&mut self, index: usize) {
        self.latest = index;
        let (now, target) = (self.now, self.target);
        match self.chance.below(40) {
            0 => self.replicas[index].crash(&self.versions[target], target, now),
            1 => {
                let length = Micros(self.chance.below(2_500_000));
                self.replicas[index].pause(self.trouble.world, length, now);
            }
            2 => {
                let by = Micros(self.chance.below(3_000_000));
                self.replicas[index].leap(by);
            }
            3 => self.set_store_clock(),
            4 | 5 => self.reload(index),
            6..12 => {
                let replica = &mut self.replicas[index];
                let ended = replica.tend(replica.clock(now));
                ended.into_iter().for_each(|(counter, ended)| self.settle(counter, ended));
            }
            _ => {
                let calls = if self.stormy { 12 } else { 2 };
                for _ in 0..=self.chance.below(calls) {
                    self.call(index);
                }
            }
        }
    }

    fn set_store_clock(&mut self) {
        let by = Micros(self.chance.below(4_000_000));
        match self.trouble.store_clock {
            StoreClock::SetBack | StoreClock::SetAnyway if self.chance.one_in(2) => self.behind = self.behind + by,
            StoreClock::SetAnyway if self.forward < Micros::from_secs(6) => {
                self.behind = self.behind - by;
                self.forward = self.forward + by;
            }
            StoreClock::SetBack | StoreClock::SetAnyway => {}
        }
    }

    /// This replica comes to the newest definition; now and then there is a newer one.
    fn reload(&mut self, index: usize) {
        if self.trouble.reloads && self.target + 1 < VERSIONS && self.chance.one_in(5) {
            self.target += 1;
            self.converged = self.now + LEASE_MAX;
        }
        self.replicas[index].version = self.target;
    }

    /// A call that costs units of some of the counters, all or none.
    fn call(&mut self, index: usize) {
        let counters = self.counters.len();
        let one = self.chance.index(counters);
        let mut costs = Vec::with_capacity(counters);
        for counter in 0..counters {
            if counter == one || self.chance.one_in(2) {
                costs.push((counter, 1 + self.chance.below(self.cost_max)));
            }
        }
        let replica = &mut self.replicas[index];
        let ended = replica.follow(&self.versions[replica.version]);
        let question = Question {
            replica: index,
            life: replica.life,
            version: replica.version,
            sent: self.now,
            sent_local: replica.clock(self.now),
            taken: [].into_iter().collect(),
            asked: [].into_iter().collect(),
        };
        let (serial, world) = (&mut self.serial, self.trouble.world);
        let name = || {
            *serial += 1;
            let serial = if world == World::NamesRepeat { *serial % 4 } else { *serial };
            LeaseId { replica: index as u64, serial }
        };
        let tried = replica.try_to_pay(question, &costs, name);
        ended.into_iter().for_each(|(counter, ended)| self.settle(counter, ended));
        match tried {
            Tried::Paid(question) => self.admit(&question),
            Tried::Ask(question) => self.ask(question),
            Tried::Nothing => {}
        }
    }

    fn ask(&mut self, question: Question) {
        let (id, parts) = (self.questions.len(), question.asked.len());
        self.questions.push(Some(question));
        if self.apart {
            (0..parts).for_each(|part| self.send(Message::Ask { question: id, only: Some(part) }));
        } else {
            self.send(Message::Ask { question: id, only: None });
        }
    }

    /// The call goes on: what it cost was spent when it was taken, or when the store charged it.
    fn admit(&mut self, question: &Question) {
        for &(counter, units, _) in &question.taken {
            self.logs[counter].spend(question.sent, units);
        }
        for Asked { counter, terms, answer } in &question.asked {
            let at = answer.map_or(question.sent, |(_, at)| at);
            self.logs[*counter].spend(at, terms.at_least);
        }
    }

    /// Messages arrive at once, after a while, or long after.
    fn send(&mut self, message: Message) {
        let delay = match self.chance.below(10) {
            _ if self.smooth => 0,
            0..6 => 0,
            6..9 => self.chance.below(12_000),
            _ => self.chance.below(2_000_000),
        };
        self.mail.push((self.now + Micros(delay), message));
    }

    /// Settlements also arrive never, or twice.
    fn settle(&mut self, counter: usize, ended: Ended) {
        let times = if self.smooth { 1 } else { self.chance.below(3) };
        for _ in 0..times {
            self.send(Message::Settle { counter, ended });
        }
    }

    fn deliver(&mut self) {
        while let Some(place) = self.mail.iter().position(|(arrives, _)| *arrives <= self.now) {
            let (_, message) = self.mail.swap_remove(place);
            match message {
                Message::Settle { counter, ended } => {
                    let now = self.store_clock();
                    self.counters[counter].settle(ended.lease, ended.used, now);
                }
                Message::Refund { counter, units } => {
                    let now = self.store_clock();
                    self.counters[counter].refund(units, now);
                }
                Message::Ask { question, only } => self.serve(question, only),
                Message::Answered { question } => self.hear(question),
            }
        }
    }

    /// A node answers: for all of the question's counters, all or none, or for the one that it has.
    fn serve(&mut self, id: usize, only: Option<usize>) {
        let Some(mut question) = self.questions[id].take() else { return };
        if question.version != self.target {
            self.converged = self.now + LEASE_MAX;
        }
        let now = self.store_clock();
        let mut parts: Vec<&mut Asked> = match only {
            Some(part) => question.asked.get_mut(part).into_iter().collect(),
            None => question.asked.iter_mut().collect(),
        };
        let charged_at_grant = self.trouble.world == World::ChargedAtGrant;
        let terms = |terms: Terms| if charged_at_grant { Terms { hold: Micros::ZERO, ..terms } } else { terms };
        let frames = &self.versions[question.version];
        let all = parts.iter().all(|asked| {
            let looked = self.counters[asked.counter].look(frames[asked.counter], terms(asked.terms), now);
            is_granted(looked)
        });
        for asked in &mut parts {
            let (counter, frame, terms) =
                (&mut self.counters[asked.counter], frames[asked.counter], terms(asked.terms));
            let grant = if all { counter.acquire(frame, terms, now) } else { counter.look(frame, terms, now) };
            asked.answer = Some((grant, self.now));
        }
        let done = question.asked.iter().all(|asked| asked.answer.is_some());
        self.questions[id] = Some(question);
        if done {
            self.send(Message::Answered { question: id });
        }
    }

    /// The replica hears the answers, unless it has crashed since; a paused one hears them later. Some are lost.
    fn hear(&mut self, id: usize) {
        let Some(question) = self.questions[id].take() else { return };
        let granted = |asked: &Asked| asked.answer.is_some_and(|(grant, _)| is_granted(grant));
        let all = question.asked.iter().all(granted);
        // An answer that is lost is as good as none.
        let heard = all && !self.chance.one_in(20);
        let index = question.replica;
        let paused_until = self.replicas[index].paused_until;
        if paused_until > self.now {
            self.questions[id] = Some(question);
            self.mail.push((paused_until, Message::Answered { question: id }));
            return;
        }
        if !all && self.apart {
            self.take_back(question.asked.iter().filter(|asked| granted(asked)));
        }
        if self.replicas[index].life != question.life {
            return;
        }
        let now = self.replicas[index].clock(self.now);
        for asked in &question.asked {
            self.learn(index, asked, question.sent_local, now, heard);
        }
        if heard {
            self.admit(&question);
        } else {
            self.replicas[index].give_back(&question);
        }
    }

    /// Each node is asked to take back what it charged, in the background: once, since a refund counts each time.
    fn take_back<'a>(&mut self, asked: impl Iterator<Item = &'a Asked>) {
        for &Asked { counter, terms, .. } in asked {
            if terms.hold > Micros::ZERO {
                self.settle(counter, Ended { lease: terms.lease, used: 0, left: 0 });
            } else if !self.chance.one_in(3) {
                self.send(Message::Refund { counter, units: terms.at_least });
            }
        }
    }

    fn learn(&mut self, index: usize, asked: &Asked, sent: Micros, now: Micros, heard: bool) {
        let Asked { counter, terms, answer } = asked;
        let holding = &mut self.replicas[index].holdings[*counter];
        match answer.map(|(grant, _)| (grant.outcome, grant)) {
            Some((Outcome::Granted { units }, grant)) if heard => {
                let ended = holding.granted(*terms, units, grant, end_of_lease(sent, terms.hold), now);
                if let Some(ended) = ended {
                    self.settle(*counter, ended);
                }
            }
            Some((Outcome::Short { retry_after }, grant)) => {
                holding.refused(terms.lease, terms.at_least, retry_after, grant, now);
            }
            // It was charged in vain, or the answer was lost.
            _ => holding.failed(terms.lease),
        }
    }
}

const fn is_granted(grant: Grant) -> bool {
    matches!(grant.outcome, Outcome::Granted { .. })
}
