//! Notices that the clock by which counters go was set, or is another server's by now.
//!
//! What a server says is its time lies between the sending of the question and the coming of the answer, by this
//! process's steady clock. So nothing that is slow looks like a step, and what looks like one is one: of the server's
//! clock, or of this machine's, where that was paused from outside.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use metrics::Counter;
use tracing::warn;

use super::gate::Gates;
use crate::decide::ports::Clock;
use crate::domain::time::Micros;
use crate::telemetry::names;

/// Clocks that differ by less between two looks are taken for going evenly: what keeps clocks right moves them by small
/// steps.
const TOLERANCE: Micros = Micros::from_millis(100);

/// How much faster or slower than this process's a clock may go: one part of so many.
const DRIFT: u64 = 1_000;

/// Which way, and how far at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Back(Micros),
    Forward(Micros),
}

/// How far a server's clock is ahead of the steady one, in microseconds: between these two.
#[derive(Clone, Copy, Debug)]
struct Ahead {
    least: i128,
    most: i128,
    /// When that was so, at the latest.
    at: Micros,
}

impl Ahead {
    /// Of a clock that said `told` to a question between these two moments.
    fn of(told: Micros, sent: Micros, received: Micros) -> Self {
        let told = i128::from(told.0);
        Self { least: told - i128::from(received.0), most: told - i128::from(sent.0), at: received }
    }

    /// The step that lies between this and what was so earlier.
    fn since(self, earlier: Self) -> Option<Step> {
        let borne = i128::from(TOLERANCE.0 + self.at.since(earlier.at).0 / DRIFT);
        let by = |gap: i128| u64::try_from(gap).ok().map(Micros);
        let (back, forward) = (earlier.least - self.most, self.least - earlier.most);
        match () {
            () if back > borne => by(back).map(Step::Back),
            () if forward > borne => by(forward).map(Step::Forward),
            () => None,
        }
    }
}

/// The clocks at several places.
pub(super) struct Steps<const PLACES: usize> {
    clock: Arc<dyn Clock>,
    places: Mutex<[Option<Ahead>; PLACES]>,
    back: Counter,
    forward: Counter,
}

/// What a place was asked, and answered.
pub(super) struct Said {
    pub(super) place: usize,
    pub(super) told: Micros,
    pub(super) sent: Micros,
    pub(super) received: Micros,
}

impl<const PLACES: usize> Steps<PLACES> {
    pub(super) fn new(gates: &Gates) -> Self {
        let (clock, telemetry) = gates.clock_and_telemetry();
        let steps = |direction| telemetry.counter(names::STORE_CLOCK_STEPS, &[("direction", direction)]);
        Self { clock, places: Mutex::new([None; PLACES]), back: steps("back"), forward: steps("forward") }
    }

    /// The moment by this process's clock.
    pub(super) fn now(&self) -> Micros {
        self.clock.steady()
    }

    /// Takes note of what some places said, and logs which of the nodes that have them stepped, each once.
    pub(super) fn hear(&self, said: &[Said], node: impl Fn(usize) -> String) {
        let mut stepped: BTreeMap<String, Step> = BTreeMap::new();
        {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            for &Said { place, told, sent, received } in said {
                let now = Ahead::of(told, sent, received);
                let Some(known) = places.get_mut(place) else { continue };
                if let Some(step) = known.replace(now).and_then(|earlier| now.since(earlier)) {
                    stepped.insert(node(place), step);
                }
            }
        }
        for (node, step) in stepped {
            match step {
                Step::Back(by) => {
                    self.back.increment(1);
                    warn!(node, %by, "the clock of the quota store went back: its counters stand still for as long");
                }
                Step::Forward(by) => {
                    self.forward.increment(1);
                    warn!(node, %by, "the clock of the quota store leapt: each window was shorter by as much, once");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::super::gate::Bounds;
    use super::*;
    use crate::domain::time::Moment;
    use crate::telemetry::Telemetry;

    const SECOND: Micros = Micros::from_secs(1);

    struct Still;

    impl Clock for Still {
        fn now(&self) -> Moment {
            Moment { wall: Micros::ZERO, steady: Micros::ZERO }
        }
    }

    #[test]
    fn a_node_that_has_several_places_steps_once_and_a_place_that_was_never_heard_of_not_at_all() {
        let telemetry = Arc::new(Telemetry::default());
        let gates = Gates::new(Bounds::default(), Arc::new(Still), Arc::clone(&telemetry));
        let steps = Steps::<4>::new(&gates);
        let hear = |told: &[(usize, u64)]| {
            let said = |&(place, secs): &(usize, u64)| {
                let now = steps.now();
                Said { place, told: Micros::from_secs(secs), sent: now, received: now }
            };
            steps.hear(&told.iter().map(said).collect::<Vec<_>>(), |place| format!("node {}", place / 2));
            let text = telemetry.render();
            let counted = ["back", "forward"].map(|direction| {
                let series = format!("tollgate_store_clock_steps_total{{direction=\"{direction}\"}} ");
                text.lines().find_map(|line| line.strip_prefix(&series)?.parse::<u64>().ok()).unwrap()
            });
            (counted[0], counted[1])
        };
        assert_eq!(hear(&[(0, 100), (1, 100), (2, 100)]), (0, 0));
        assert_eq!(hear(&[(0, 90), (1, 90), (2, 105), (3, 700)]), (1, 1));
        // One that was silent meanwhile is compared with what it said last.
        assert_eq!(hear(&[(0, 90), (2, 105)]), (1, 1));
        assert_eq!(hear(&[(1, 95), (3, 700)]), (1, 2));
    }

    /// What is found of a clock that goes by `goes` (of what the steady one does, sent at 1 s, 2 s, …) and is asked so slowly.
    fn found(slow: Micros, goes: impl Fn(Micros) -> Micros) -> Vec<Option<Step>> {
        let asked = |second: u64| {
            let sent = Micros::from_secs(second);
            // The answer is made at once, or just before it comes.
            let made = if second.is_multiple_of(2) { sent } else { sent + slow };
            Ahead::of(goes(made), sent, sent + slow)
        };
        (1..10).map(|second| asked(second + 1).since(asked(second))).collect()
    }

    #[test]
    fn a_clock_that_goes_evenly_does_not_step_however_slow_its_answers_are() {
        for slow in [Micros::ZERO, Micros::from_millis(12), SECOND, Micros::from_secs(60)] {
            assert_eq!(found(slow, |now| now), [None; 9]);
            assert_eq!(found(slow, |now| now + Micros::from_secs(1_700_000_000)), [None; 9]);
            let drifts = |now: Micros| now + now + Micros(now.0 / DRIFT);
            assert_eq!(found(slow, |now| drifts(now) - now), [None; 9]);
        }
    }

    #[test]
    fn a_step_is_found_once_and_is_at_least_as_far_as_is_said() {
        let slow = Micros::from_millis(12);
        for by in [Micros::from_millis(150), SECOND, Micros::from_secs(100_000_000)] {
            let base = Micros::from_secs(1_700_000_000);
            let after = |now: Micros, step: Micros| if now > Micros::from_secs(5) { step } else { Micros::ZERO };
            let back = found(slow, |now| (base + now) - after(now, by));
            let forward = found(slow, |now| base + now + after(now, by));
            for (steps, is_back) in [(back, true), (forward, false)] {
                let steps: Vec<Step> = steps.into_iter().flatten().collect();
                let [step] = steps[..] else { unreachable!("{steps:?} by {by}") };
                let (found, direction) = match step {
                    Step::Back(found) => (found, true),
                    Step::Forward(found) => (found, false),
                };
                assert_eq!(direction, is_back);
                assert!(found <= by && by - found <= slow + slow, "{found} of {by}");
            }
        }
    }

    #[test]
    fn after_a_long_silence_drift_is_no_step() {
        let earlier = Ahead::of(SECOND, SECOND, SECOND);
        let day = Micros::from_secs(86_400);
        let later = |ahead: Micros| Ahead::of(SECOND + day + ahead, SECOND + day, SECOND + day).since(earlier);
        assert_eq!(later(Micros::from_secs(86)), None);
        assert_eq!(later(Micros::from_secs(87)), Some(Step::Forward(Micros::from_secs(87))));
    }
}
