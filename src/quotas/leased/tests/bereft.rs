//! Two to four replicas whose store loses its data again and again, while calls of theirs are lost, late and repeated:
//! together they admit no more than the limit, because none goes on before all have told.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;

const UNITS: u64 = 40;
const TICK: Micros = Micros::from_millis(50);
const SECOND: Micros = Micros::from_secs(1);

/// No replica is silent for longer, nor the store away: then whoever waits hears of everybody in time.
const CUT_MILLIS_MAX: u64 = 2_000;
/// For so long at most one is heard of that cannot tell: for longer than any that is silent is waited for.
const BEATS_MILLIS_MAX: u64 = 20_000;
const AWAY_MILLIS_MAX: u64 = 1_500;

#[derive(Clone, Debug)]
enum Step {
    /// Time passes, and the replicas beat.
    Wait {
        ticks: u64,
    },
    Pay {
        who: usize,
        calls: u64,
    },
    /// Calls of one replica do not come to a good end.
    Cut {
        who: usize,
        fate: Fate,
        millis: u64,
    },
    /// The store is restarted, empty.
    Lose {
        millis: u64,
    },
    /// A beat from before arrives once more.
    Repeat {
        who: usize,
        which: usize,
    },
    /// Another replica starts, where there is none that has still to tell.
    Join,
}

/// What becomes of a replica's calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fate {
    #[default]
    Arrives,
    Lost,
    AnswerLost,
    /// It is heard of, and cannot tell.
    OnlyBeats,
}

/// One replica's way to the store, which trusts data as that of Redis does.
struct Wire {
    core: Arc<Core>,
    fate: Mutex<Fate>,
    trusted: Mutex<Option<Epoch>>,
    beats: Mutex<Vec<Pulse>>,
}

impl Wire {
    fn fate(&self) -> Fate {
        *self.fate.lock().unwrap()
    }

    async fn passes<T>(&self, call: impl Future<Output = Result<T, Away>>) -> Result<T, Away> {
        match self.fate() {
            Fate::Arrives => call.await,
            Fate::Lost | Fate::OnlyBeats => Err(Away { because: AwayCause::Unreachable }),
            Fate::AnswerLost => call.await.and(Err(Away { because: AwayCause::Deadline })),
        }
    }
}

impl QuotaStore for Wire {
    fn acquire(&self, requests: Requests, mode: Mode, now: Moment) -> Answer<'_, Grants> {
        Answer::later(async move {
            let (count, trusted) = (requests.len(), *self.trusted.lock().unwrap());
            if trusted.is_some_and(|trusted| trusted != self.core.epoch()) {
                return all_away(count, Away { because: AwayCause::Lost });
            }
            let grants = self.passes(async { Ok(self.core.acquire(requests, mode, now).get().await) }).await;
            grants.unwrap_or_else(|away| all_away(count, away))
        })
    }

    fn hit(&self, hits: Hits, now: Moment) -> Answer<'_, Grants> {
        Answer::later(async move {
            let (count, trusted) = (hits.len(), *self.trusted.lock().unwrap());
            if trusted.is_some_and(|trusted| trusted != self.core.epoch()) {
                return all_away(count, Away { because: AwayCause::Lost });
            }
            let grants = self.passes(async { Ok(self.core.hit(hits, now).get().await) }).await;
            grants.unwrap_or_else(|away| all_away(count, away))
        })
    }

    fn settle(&self, settlements: Settlements, now: Moment) -> Answer<'_, Result<(), Away>> {
        Answer::later(self.passes(self.core.settle(settlements, now).get()))
    }

    fn refund(&self, charges: Charges, now: Moment) -> Answer<'_, Result<Refunds, Away>> {
        self.core.refund(charges, now)
    }

    fn reset(&self, limit: Arc<Limit>, key: CounterKey) -> Answer<'_, Result<(), Away>> {
        self.core.reset(limit, key)
    }

    fn assert(&self, charges: Charges, now: Moment) -> Answer<'_, Result<(), Away>> {
        Answer::later(self.passes(self.core.assert(charges, now).get()))
    }

    fn beat(&self, pulse: Pulse, now: Moment) -> Answer<'_, Result<Beat, Away>> {
        Answer::later(async move {
            if pulse.epoch.is_some() {
                *self.trusted.lock().unwrap() = pulse.epoch;
                self.beats.lock().unwrap().push(pulse);
            }
            let call = self.core.beat(pulse, now).get();
            let beat = if self.fate() == Fate::OnlyBeats { call.await? } else { self.passes(call).await? };
            self.trusted.lock().unwrap().get_or_insert(beat.epoch);
            Ok(beat)
        })
    }
}

struct Replica {
    wire: Arc<Wire>,
    desk: LeaseDesk,
    beats_at: Micros,
    /// When its calls arrive again.
    cut_until: Micros,
}

struct Story {
    core: Arc<Core>,
    clock: Arc<Hands>,
    limit: Arc<Limit>,
    replicas: Vec<Replica>,
    away_until: Micros,
    admitted: u64,
}

impl Story {
    fn new(replicas: usize) -> Self {
        let algorithm = Algorithm::SlidingWindow { units: UNITS, window: Micros::from_secs(86_400) };
        let limit = Arc::new(Limit { algorithm, ..(*limit("a", UNITS, WhenAway::Deny)).clone() });
        let (core, clock) = (Core::new(), Arc::new(Hands(AtomicU64::new(1_000_000_000))));
        let (nobody, away_until) = (Vec::new(), Micros::ZERO);
        let mut story = Self { core, clock, limit, replicas: nobody, away_until, admitted: 0 };
        for _ in 0..replicas {
            story.join();
        }
        story
    }

    fn join(&mut self) {
        let (fate, trusted, beats) = (Mutex::default(), Mutex::default(), Mutex::default());
        let wire = Arc::new(Wire { core: Arc::clone(&self.core), fate, trusted, beats });
        let (store, hands) = (Arc::clone(&wire) as _, Arc::clone(&self.clock) as _);
        let desk = LeaseDesk::with_room_for(6_400, store, Core::new(), DEADLINE, hands, &Telemetry::default());
        self.replicas.push(Replica { wire, desk, beats_at: Micros::ZERO, cut_until: Micros::ZERO });
        // Until all have heard of it.
        self.wait(40);
    }

    fn wait(&mut self, ticks: u64) {
        for _ in 0..ticks {
            let now = Micros(self.clock.0.fetch_add(TICK.0, Ordering::Relaxed)) + TICK;
            self.core.away.store(now < self.away_until, Ordering::Relaxed);
            for replica in &mut self.replicas {
                if now >= replica.cut_until {
                    *replica.wire.fate.lock().unwrap() = Fate::Arrives;
                }
                replica.desk.tend().now_or_never().unwrap();
                if now >= replica.beats_at {
                    // What becomes of it is the matter of the test.
                    let _ = replica.desk.beat().now_or_never().unwrap();
                    let pause = if replica.desk.standing.is_telling() { TICK } else { SECOND };
                    replica.beats_at = now + pause;
                }
            }
        }
    }

    fn play(&mut self, step: &Step) {
        let now = self.clock.steady();
        let count = self.replicas.len();
        match *step {
            Step::Wait { ticks } => self.wait(ticks),
            Step::Pay { who, calls } => {
                for _ in 0..calls {
                    let charge = charges(&[(&self.limit, 1)]);
                    let paid = self.replicas[who % count].desk.pay(charge, self.clock.now()).get();
                    self.admitted += u64::from(paid.now_or_never().unwrap().reason.allows());
                }
            }
            Step::Cut { who, fate, millis } => {
                let replica = &mut self.replicas[who % count];
                // It is heard of in between.
                if now >= replica.cut_until + SECOND + SECOND {
                    *replica.wire.fate.lock().unwrap() = fate;
                    replica.cut_until = now + Micros::from_millis(millis);
                }
            }
            Step::Lose { millis } => {
                self.core.lose();
                self.away_until = now + Micros::from_millis(millis);
                self.core.away.store(millis > 0, Ordering::Relaxed);
            }
            Step::Repeat { who, which } => {
                let beats = self.replicas[who % count].wire.beats.lock().unwrap().clone();
                if !beats.is_empty() && now >= self.away_until {
                    self.core.beat(beats[which % beats.len()], self.clock.now()).get().now_or_never().unwrap().unwrap();
                }
            }
            Step::Join => {
                let epoch = Some(self.core.epoch());
                let settled = |replica: &Replica| replica.desk.standing.epoch() == epoch && now >= replica.cut_until;
                if count < 4 && now >= self.away_until && self.replicas.iter().all(settled) {
                    self.join();
                }
            }
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = || 0..4_usize;
    let step = prop_oneof![
        4 => prop_oneof![1..4_u64, 1..60_u64, 1..260_u64].prop_map(|ticks| Step::Wait { ticks }),
        5 => (who(), prop_oneof![1..4_u64, 1..30_u64]).prop_map(|(who, calls)| Step::Pay { who, calls }),
        3 => (who(), prop_oneof![Just(Fate::Lost), Just(Fate::AnswerLost)], 1..CUT_MILLIS_MAX)
            .prop_map(|(who, fate, millis)| Step::Cut { who, fate, millis }),
        1 => (who(), 1..BEATS_MILLIS_MAX)
            .prop_map(|(who, millis)| Step::Cut { who, fate: Fate::OnlyBeats, millis }),
        2 => prop_oneof![Just(0), 1..AWAY_MILLIS_MAX].prop_map(|millis| Step::Lose { millis }),
        1 => (who(), 0..1_000_usize).prop_map(|(who, which)| Step::Repeat { who, which }),
        1 => Just(Step::Join),
    ];
    prop::collection::vec(step, 1..60)
}

#[test]
fn whatever_is_lost_late_or_repeated_nobody_gives_away_what_another_admitted() {
    let config = ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() };
    let check = |(replicas, steps): (usize, Vec<Step>)| {
        let mut story = Story::new(replicas);
        for step in &steps {
            story.play(step);
            prop_assert!(story.admitted <= UNITS, "{} of {UNITS} after {step:?}", story.admitted);
        }
        // It is not strict by never going on.
        story.wait(800);
        let waits = story.replicas.iter().filter(|replica| replica.desk.standing.is_telling()).count();
        prop_assert_eq!(waits, 0);
        Ok(())
    };
    TestRunner::new(config).run(&(2..5_usize, steps()), check).unwrap();
}
