//! One replica: what it holds of each counter, by its own clock, and the questions that it has asked.

use smallvec::SmallVec;

use super::super::lease::{Ended, Holding, Spend};
use super::super::time::Micros;
use super::super::window::{Frame, Grant, LeaseId, Terms};
use super::{START, World};

/// A replica and its clock.
pub(super) struct Replica {
    pub(super) holdings: Vec<Holding>,
    /// Goes up with every crash: answers to the dead are not heard.
    pub(super) life: u32,
    /// Which definition of the limits it knows.
    pub(super) version: usize,
    pub(super) paused_until: Micros,
    /// How fast its clock goes, in parts per million.
    pace: u64,
    /// How far its clock has leapt forward.
    leapt: Micros,
    /// For how long it has stood still.
    stood: Micros,
}

/// One call's question, all or none: what was taken from leases in hand, and what the store is asked.
pub(super) struct Question {
    pub(super) replica: usize,
    pub(super) life: u32,
    pub(super) version: usize,
    /// The moment of its sending, and by the replica's clock.
    pub(super) sent: Micros,
    pub(super) sent_local: Micros,
    pub(super) taken: SmallVec<[(usize, u64, LeaseId); 4]>,
    pub(super) asked: SmallVec<[Asked; 4]>,
}

/// What a question asks of one counter.
pub(super) struct Asked {
    pub(super) counter: usize,
    pub(super) terms: Terms,
    /// What was answered, and the store's moment of answering.
    pub(super) answer: Option<(Grant, Micros)>,
}

/// What becomes of a question before any store hears of it.
pub(super) enum Tried {
    /// Leases in hand pay for it.
    Paid(Question),
    /// The store has to be asked.
    Ask(Question),
    /// It is refused from memory, or waits for another's request, and holds nothing meanwhile.
    Nothing,
}

impl Replica {
    pub(super) fn new(frames: &[Frame], pace: u64) -> Self {
        let holdings = frames.iter().map(|&frame| Holding::new(frame, Micros::ZERO)).collect();
        let (leapt, stood) = (Micros::ZERO, Micros::ZERO);
        Self { holdings, life: 0, version: 0, paused_until: START, pace, leapt, stood }
    }

    pub(super) fn clock(&self, now: Micros) -> Micros {
        Micros(7_000_000 + (now - START - self.stood).0 * self.pace / 1_000_000) + self.leapt
    }

    /// It starts again with nothing in hand; nobody hears of what it held.
    pub(super) fn crash(&mut self, frames: &[Frame], version: usize, now: Micros) {
        let now = self.clock(now);
        self.life += 1;
        self.version = version;
        self.holdings = frames.iter().map(|&frame| Holding::new(frame, now)).collect();
    }

    /// It does nothing and hears nothing for a while.
    pub(super) fn pause(&mut self, world: World, length: Micros, now: Micros) {
        self.paused_until = now + length;
        if world == World::ClocksStop {
            self.stood = self.stood + length;
        }
    }

    pub(super) fn leap(&mut self, by: Micros) {
        self.leapt = self.leapt + by;
    }

    /// Pays the costs from leases in hand, or prepares to ask: as the desk does it. `name` draws the names of leases.
    pub(super) fn try_to_pay(
        &mut self,
        question: Question,
        costs: &[(usize, u64)],
        mut name: impl FnMut() -> LeaseId,
    ) -> Tried {
        let mut question = question;
        let now = question.sent_local;
        let mut uncovered = SmallVec::<[(usize, u64); 4]>::new();
        let mut refused = false;
        for &(counter, units) in costs {
            match self.holdings[counter].spend(units, now) {
                Spend::Paid(lease) => question.taken.push((counter, units, lease)),
                Spend::Short { .. } => refused = true,
                Spend::Ask => uncovered.push((counter, units)),
            }
        }
        if !refused && uncovered.is_empty() {
            return Tried::Paid(question);
        }
        for (counter, units) in uncovered {
            let terms = if refused { None } else { self.holdings[counter].ask(units, name(), now) };
            let Some(terms) = terms else {
                question.asked.iter().for_each(|asked| self.holdings[asked.counter].failed(asked.terms.lease));
                self.give_back(&question);
                return Tried::Nothing;
            };
            question.asked.push(Asked { counter, terms, answer: None });
        }
        Tried::Ask(question)
    }

    /// Another limit refused: what was taken goes back to the leases that it was taken from.
    pub(super) fn give_back(&mut self, question: &Question) {
        for &(counter, units, lease) in &question.taken {
            self.holdings[counter].give_back(lease, units);
        }
    }

    /// The leases that end because the limits are defined anew.
    pub(super) fn follow(&mut self, frames: &[Frame]) -> SmallVec<[(usize, Ended); 4]> {
        let ended = self.holdings.iter_mut().zip(frames).map(|(holding, &frame)| holding.follow(Some(frame)));
        ended.enumerate().filter_map(|(counter, ended)| Some((counter, ended?))).collect()
    }

    /// The leases that end because their time comes, or nobody needs them.
    pub(super) fn tend(&mut self, now: Micros) -> SmallVec<[(usize, Ended); 4]> {
        let ended = self.holdings.iter_mut().map(|holding| holding.tend(now));
        ended.enumerate().filter_map(|(counter, ended)| Some((counter, ended?))).collect()
    }
}
