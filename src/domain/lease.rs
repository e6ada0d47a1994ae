//! What one replica holds of one counter: the lease in hand, a refusal to remember, and how much is asked for. Of limits that
//! are not leased refusals are all that is remembered.
//!
//! Units in hand were charged by the store to the last moment at which they can be spent, so they may be spent in any
//! pattern until then, whatever other replicas do. The end is counted from the sending of the request, which is before
//! the store's count begins, on the replica's steady clock, less an allowance for a clock that goes slower than the
//! store's: see [`end_of_lease`].
//!
//! Functions of their arguments: `now` is always the replica's steady clock.

use super::limit::{Algorithm, Limit};
use super::time::Micros;
use super::window::{Frame, Grant, LeaseId, Terms};

/// The longest that a lease lasts. What a lost replica held counts until a window after that: less is admitted, never
/// more.
pub const LEASE_MAX: Micros = Micros::from_secs(1);

/// The shortest that a lease lasts. One that is shorter could not be looked after in time, and what is not spent of it would
/// be stranded: windows below a second have no leases.
pub const LEASE_MIN: Micros = Micros::from_millis(50);

/// How long before its end a lease ends at the latest, to be settled in time: it is looked after each 20 ms.
const ENDS_AHEAD: Micros = Micros::from_millis(25);

/// A lease lasts at most this part of its window.
const LEASES_PER_WINDOW: u64 = 20;

/// How much slower than the store's a replica's steady clock may go: one part in so many, …
const DRIFT_PARTS: u64 = 1_000;

/// … and this much besides, for the clocks' grain.
const DRIFT_FIXED: Micros = Micros::from_millis(1);

/// A counter that was paid from so many times within a lease time or two is hot: more is taken than is needed.
const HOT_HITS: u32 = 4;

/// A lease is at most so many times what was spent lately: a burst is no rate yet.
const GROWTH: u64 = 4;

/// The longest that a refusal is believed: meanwhile another replica may have returned units, or an operator all.
const REFUSAL_MAX: Micros = Micros::from_secs(1);

/// The frame of a limit that is leased: only the sliding window charges units to the moment of their spending at the
/// latest. A fixed window would charge them to the next one, a bucket would have gained more by then, and slots that are
/// held in advance are not free.
pub fn leased_frame(limit: &Limit) -> Option<Frame> {
    match limit.algorithm {
        Algorithm::SlidingWindow { units, window } => {
            Some(Frame::new(units, window)).filter(|frame| lease_time(*frame) >= LEASE_MIN)
        }
        Algorithm::TokenBucket(_) | Algorithm::FixedWindow(_) | Algorithm::Concurrency(_) => None,
    }
}

/// How long a lease of a counter lasts: from the store's moment of charging.
pub fn lease_time(frame: Frame) -> Micros {
    Micros(frame.width.0.saturating_mul(frame.parts) / LEASES_PER_WINDOW).min(LEASE_MAX)
}

/// When a replica stops to spend a lease that it asked for at `sent`: before the store's own end of it, as long as the
/// replica's clock is at most 0.1 % and 1 ms slower.
pub fn end_of_lease(sent: Micros, hold: Micros) -> Micros {
    sent + hold.since(Micros(hold.0.div_ceil(DRIFT_PARTS)) + DRIFT_FIXED)
}

/// What a replica holds of one counter, and knows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// None: nothing is leased.
    frame: Option<Frame>,
    hand: Option<Hand>,
    refusal: Option<Refusal>,
    /// Units left in the store when it last granted some, and when some more return.
    told: Option<(u64, Micros)>,
    demand: Demand,
    /// The request that is under way.
    asking: Option<LeaseId>,
    /// Units that calls wait for until that request is answered.
    waiting: u64,
    /// When anything was last asked of it.
    touched: Micros,
}

/// The lease in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hand {
    id: LeaseId,
    left: u64,
    spent: u64,
    /// From then on it is not spent.
    ends: Micros,
    /// When it was last spent from.
    used: Micros,
}

/// The store refused so many units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Refusal {
    units: u64,
    /// When they fit, as far as the store knew.
    fits: Micros,
    /// Until when it is believed.
    until: Micros,
    remaining: u64,
    returns: Micros,
}

/// Units that were spent in this lease time and in the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Demand {
    since: Micros,
    units: [u64; 2],
    hits: [u32; 2],
}

/// What is known of a counter without asking its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Units left, those in hand included; as far as is known.
    pub remaining: u64,
    /// Time until some of what is used returns, as the store last said; zero where that has passed.
    pub reset_after: Micros,
}

/// What becomes of a cost without asking the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spend {
    /// It was paid from this lease.
    Paid(LeaseId),
    /// The store refused as much, and cannot have changed its mind.
    Short {
        /// Time until it fits, as far as is known.
        retry_after: Micros,
    },
    /// The store has to be asked.
    Ask,
}

/// A lease that is not spent any more, to be settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Which.
    pub lease: LeaseId,
    /// Units that were spent.
    pub used: u64,
    /// Units that go back.
    pub left: u64,
}

impl Holding {
    /// Nothing is held and nothing known of a counter of that limit. None where nothing is worth to be remembered: slots
    /// are free again whenever somebody releases them.
    pub fn of(limit: &Limit, now: Micros) -> Option<Self> {
        match limit.algorithm {
            Algorithm::SlidingWindow { .. } | Algorithm::TokenBucket(_) | Algorithm::FixedWindow(_) => {
                Some(Self::with(leased_frame(limit), now))
            }
            Algorithm::Concurrency(_) => None,
        }
    }

    /// The same of a sliding window that is leased.
    pub fn new(frame: Frame, now: Micros) -> Self {
        Self::with(Some(frame), now)
    }

    fn with(frame: Option<Frame>, now: Micros) -> Self {
        Self {
            frame,
            hand: None,
            refusal: None,
            told: None,
            demand: Demand { since: now, ..Demand::default() },
            asking: None,
            waiting: 0,
            touched: now,
        }
    }

    /// Goes over to another definition of the limit: the lease ends, since it was measured by the old one, and what the
    /// store said is forgotten.
    pub fn follow(&mut self, frame: Option<Frame>) -> Option<Ended> {
        if frame.is_some() && self.frame == frame {
            return None;
        }
        self.frame = frame;
        self.forget_answers();
        self.end()
    }

    /// Pays `units`, at least 1, from the lease in hand, or says what is known.
    pub fn spend(&mut self, units: u64, now: Micros) -> Spend {
        self.touched = self.touched.max(now);
        if let Some(hand) = self.hand.as_mut().filter(|hand| now < hand.ends && hand.left >= units) {
            hand.left -= units;
            hand.spent += units;
            hand.used = now;
            let lease = hand.id;
            self.count(units, now);
            return Spend::Paid(lease);
        }
        self.known(units, now)
    }

    /// What [`Holding::spend`] would say, for a counter that cannot pay by itself.
    fn known(&self, units: u64, now: Micros) -> Spend {
        match self.refusal {
            Some(refusal) if units >= refusal.units && now < refusal.until => {
                Spend::Short { retry_after: refusal.fits.since(now) }
            }
            _ => Spend::Ask,
        }
    }

    /// What [`Holding::spend`] would say; nothing is spent.
    pub fn look(&self, units: u64, now: Micros) -> Spend {
        match self.hand {
            Some(hand) if now < hand.ends && hand.left >= units => Spend::Paid(hand.id),
            _ => self.known(units, now),
        }
    }

    /// What is left, as far as is known; nothing where nothing is.
    pub fn level(&self, now: Micros) -> Option<Level> {
        if let Some(refusal) = self.refusal.filter(|refusal| now < refusal.until) {
            let Refusal { remaining, returns, .. } = refusal;
            return Some(Level { remaining: remaining + self.in_hand(now), reset_after: returns.since(now) });
        }
        let (remaining, returns) = self.told?;
        Some(Level { remaining: remaining + self.in_hand(now), reset_after: returns.since(now) })
    }

    /// Units that can be spent without asking.
    pub fn in_hand(&self, now: Micros) -> u64 {
        self.hand.filter(|hand| now < hand.ends).map_or(0, |hand| hand.left)
    }

    /// Takes back what was paid from a lease, because another limit refused. A lease that has ended keeps it.
    pub fn give_back(&mut self, lease: LeaseId, units: u64) {
        if let Some(hand) = self.hand.as_mut().filter(|hand| hand.id == lease) {
            let units = units.min(hand.spent);
            hand.left += units;
            hand.spent -= units;
        }
    }

    /// Begins to ask the store for `units`, under the name `lease`: the terms to ask for. Nothing where a request is
    /// under way already: the call waits for its end, and the next request asks for the units of all that wait. Where
    /// nothing is leased there is nothing to wait for, but after a refusal: then one asks whether it still holds.
    ///
    /// Every request that begins is concluded by [`Holding::granted`], [`Holding::refused`] or [`Holding::failed`].
    pub fn ask(&mut self, units: u64, lease: LeaseId, now: Micros) -> Option<Terms> {
        self.touched = self.touched.max(now);
        let exactly = Terms { at_least: units, at_most: units, hold: Micros::ZERO, lease };
        if self.asking.is_some() {
            if self.frame.is_none() && self.refusal.is_none() {
                return Some(exactly);
            }
            self.waiting = self.waiting.saturating_add(units);
            return None;
        }
        self.asking = Some(lease);
        let waiting = std::mem::take(&mut self.waiting);
        let Some(frame) = self.frame else { return Some(exactly) };
        let hold = lease_time(frame);
        let at_most = self.demand.expected(units, hold, now).max(units.saturating_add(waiting));
        let at_most = at_most.min(frame.units).max(units);
        // A lease that would end before it could be spent would only be charged longer.
        if at_most == units || end_of_lease(Micros::ZERO, hold) == Micros::ZERO {
            return Some(exactly);
        }
        Some(Terms { at_most, hold, ..exactly })
    }

    /// The store granted what [`Holding::ask`] wanted: the cost is paid, the rest is in hand until `ends`. The lease that
    /// was in hand, or this one if it is of no use any more, is to be settled.
    pub fn granted(&mut self, terms: Terms, units: u64, grant: Grant, ends: Micros, now: Micros) -> Option<Ended> {
        let current = self.conclude(terms.lease);
        self.refusal = None;
        self.count(terms.at_least, now);
        if current && self.frame.is_some() {
            self.told = Some((grant.remaining, now + grant.reset_after));
        }
        if terms.hold == Micros::ZERO {
            return None;
        }
        let left = units.saturating_sub(terms.at_least);
        let hand = Hand { id: terms.lease, left, spent: terms.at_least, ends, used: now };
        // One that was forgotten meanwhile may be charged to nothing.
        if !current || left == 0 || ends <= now {
            return current.then(|| hand.ended());
        }
        self.hand.replace(hand).map(Hand::ended)
    }

    /// The store refused `units`. Costs like that are refused from memory until they fit, or might.
    pub fn refused(&mut self, lease: LeaseId, units: u64, retry_after: Micros, grant: Grant, now: Micros) {
        if self.conclude(lease) {
            self.heard_refusal(units, retry_after, grant, now);
        }
    }

    /// The store said, to somebody who only looked, that it would refuse `units`.
    pub fn heard_refusal(&mut self, units: u64, retry_after: Micros, grant: Grant, now: Micros) {
        // A longer wait than a sub-window would miss what other replicas return of their leases.
        let believed = self.frame.map_or(retry_after, |frame| retry_after.min(frame.width)).min(REFUSAL_MAX);
        let smaller = self.refusal.is_none_or(|old| units <= old.units || old.until <= now);
        if smaller {
            let (fits, until) = (now + retry_after, now + believed);
            let (remaining, returns) = (grant.remaining, now + grant.reset_after);
            self.refusal = Some(Refusal { units, fits, until, remaining, returns });
        }
    }

    /// The request was not answered, or said nothing of this counter.
    pub fn failed(&mut self, lease: LeaseId) {
        self.conclude(lease);
    }

    /// Whether a request is under way.
    pub const fn is_asking(&self) -> bool {
        self.asking.is_some()
    }

    /// Ends the lease when it is about to end, spent up or idle: early enough for the settlement to come in time.
    pub fn tend(&mut self, now: Micros) -> Option<Ended> {
        let is_spent_up = self.hand?.left == 0;
        if is_spent_up || self.due().is_some_and(|due| now >= due) { self.end() } else { None }
    }

    /// When [`Holding::tend`] ends the lease unless it is spent from until then; nothing where none is in hand.
    pub fn due(&self) -> Option<Micros> {
        let (hand, hold) = (self.hand?, lease_time(self.frame?));
        let ending = hand.ends.since(Micros(hold.0 / 8).max(ENDS_AHEAD));
        let idle = hand.used + Micros(hold.0 / 2);
        Some(ending.min(idle))
    }

    /// Ends the lease.
    pub fn end(&mut self) -> Option<Ended> {
        self.hand.take().map(Hand::ended)
    }

    /// The counter was reset: neither the lease nor a request that is under way has anything behind it.
    pub fn forget(&mut self) {
        self.hand = None;
        self.forget_answers();
        self.asking = None;
    }

    /// Units came back to the store: a refusal is not believed any more.
    pub const fn hope(&mut self) {
        self.refusal = None;
    }

    /// Whether nothing would be lost with it.
    pub fn is_idle(&self, now: Micros) -> bool {
        let half = self.frame.map_or(REFUSAL_MAX, lease_time);
        let kept = half + half;
        self.hand.is_none()
            && self.asking.is_none()
            && self.refusal.is_none_or(|refusal| refusal.until <= now)
            && now.since(self.touched) >= kept
    }

    fn forget_answers(&mut self) {
        self.refusal = None;
        self.told = None;
    }

    /// Whether the request was still under way, as far as this holding knows.
    fn conclude(&mut self, lease: LeaseId) -> bool {
        let current = self.asking == Some(lease);
        if current {
            self.asking = None;
        }
        current
    }

    fn count(&mut self, units: u64, now: Micros) {
        if let Some(frame) = self.frame {
            self.demand.count(units, lease_time(frame), now);
        }
    }
}

impl Hand {
    const fn ended(self) -> Ended {
        Ended { lease: self.id, used: self.spent, left: self.left }
    }
}

impl Demand {
    fn count(&mut self, units: u64, period: Micros, now: Micros) {
        *self = self.at(period, now);
        self.units[0] = self.units[0].saturating_add(units);
        self.hits[0] = self.hits[0].saturating_add(1);
    }

    /// The same, with what is too long ago forgotten.
    fn at(self, period: Micros, now: Micros) -> Self {
        let passed = now.since(self.since);
        if passed < period {
            return self;
        }
        if passed < period + period {
            let ([units, _], [hits, _]) = (self.units, self.hits);
            return Self { since: self.since + period, units: [0, units], hits: [0, hits] };
        }
        Self { since: now, ..Self::default() }
    }

    /// Units that will be wanted within `period`, `units` now among them, if it goes on like that.
    fn expected(&self, units: u64, period: Micros, now: Micros) -> u64 {
        let recent = self.at(period, now);
        let [current, before] = recent.hits;
        if current.saturating_add(before) < HOT_HITS {
            return units;
        }
        let seen = u128::from(recent.units[0].saturating_add(recent.units[1]));
        let full = if before > 0 { period } else { Micros::ZERO };
        let elapsed = u128::from((now.since(recent.since) + full).0.max(1));
        let expected = (seen * u128::from(period.0) / elapsed).min(seen * u128::from(GROWTH));
        u64::try_from(expected).unwrap_or(u64::MAX).max(units)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::window::Outcome;
    use super::*;

    const FRAME: Frame = Frame { units: 1_000, width: Micros::from_secs(1), parts: 32 };

    fn grant(outcome: Outcome) -> Grant {
        Grant { outcome, remaining: 0, reset_after: Micros::from_secs(9) }
    }

    #[test]
    fn a_refusal_is_believed_for_a_sub_window_and_says_when_the_cost_fits() {
        let mut holding = Holding::new(FRAME, Micros::ZERO);
        let lease = LeaseId { replica: 1, serial: 1 };
        let terms = holding.ask(5, lease, Micros::ZERO);
        assert_eq!(terms, Some(Terms { at_least: 5, at_most: 5, hold: Micros::ZERO, lease }));
        let wait = Micros::from_secs(9);
        holding.refused(lease, 5, wait, grant(Outcome::Short { retry_after: wait }), Micros::ZERO);
        let later = Micros::from_millis(999);
        assert_eq!(holding.spend(5, later), Spend::Short { retry_after: wait - later });
        assert_eq!(holding.spend(4, later), Spend::Ask, "less may fit");
        assert_eq!(holding.spend(5, Micros::from_secs(1)), Spend::Ask);
    }

    proptest! {
        /// Whatever is spent, given back and asked for: a lease ends with exactly what it was granted.
        #[test]
        fn no_unit_of_a_lease_is_spent_twice_or_lost(
            steps in prop::collection::vec((1..9_u64, 0..200_000_u64, any::<bool>()), 1..200),
        ) {
            let mut holding = Holding::new(FRAME, Micros::ZERO);
            let (mut now, mut granted) = (Micros::ZERO, std::collections::HashMap::new());
            for (serial, (units, wait, back)) in (0..).zip(steps) {
                now = now + Micros(wait);
                let ended = match holding.spend(units, now) {
                    Spend::Paid(lease) => {
                        if back {
                            holding.give_back(lease, units);
                        }
                        None
                    }
                    _ => holding.ask(units, LeaseId { replica: 1, serial }, now).and_then(|terms| {
                        granted.insert(terms.lease, terms.at_most);
                        let grant = grant(Outcome::Granted { units: terms.at_most });
                        holding.granted(terms, terms.at_most, grant, end_of_lease(now, terms.hold), now)
                    }),
                };
                for ended in ended.into_iter().chain(holding.tend(now)) {
                    prop_assert_eq!(granted.remove(&ended.lease), Some(ended.used + ended.left));
                }
            }
        }
    }
}
