//! For tests: replicas and their log in a world where calls are late, overtake each other and are lost, changes are
//! trimmed, data is lost, and replicas are restarted. Everything follows from a seed; the log's own history is the judge.
//!
//! A replica *holds* an entry once it has said that it knows everything up to when it was written, or has answered who
//! wrote it. From then on it must refuse, whatever happens to it and to the log, unless somebody undoes the entry.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::oneshot;

use super::follow::{Follower, Revocations};
use crate::decide::ports::{
    Answer, Away, AwayCause, Change, Clock, Cursor, Listed, ListedRevocation, News, Place, RevocationLog,
    RevocationView, Snapshot, Standing,
};
use crate::domain::identity::Identity;
use crate::domain::revocation::{
    Cutoff, Entry, Keep, Mark, MarkId, Revocation, Target, Trust, WhenBehind, Which, Wish,
};
use crate::domain::simulation::chance::Chance;
use crate::domain::time::{Micros, Moment};
use crate::telemetry::Telemetry;

const SEEDS: u64 = 200;
const EVENTS: usize = 600;
const REPLICAS: usize = 3;
const TARGETS: usize = 6;
/// Entries of a page, and changes of an answer.
const PAGE: usize = 2;
const START: Micros = Micros::from_secs(1_000);
const TRUST: Trust = Trust { max_lag: Micros::from_secs(2), when_behind: WhenBehind::Ask };

/// Whatever happens next is delivered in this order or another; an answer that is dropped never comes.
type Deliver = Box<dyn FnOnce() + Send>;
type Arrive = Box<dyn FnOnce(&mut Log) -> Deliver + Send>;

#[derive(Default)]
struct Wires {
    on_their_way: Vec<(usize, Arrive)>,
    answered: Vec<(usize, Deliver)>,
}

/// The log, and what became of it.
struct Log {
    id: u64,
    number: u64,
    entries: BTreeMap<MarkId, Entry>,
    changes: VecDeque<(u64, Change)>,
    now: Micros,
    written: Vec<Written>,
    /// So many of them were written before data was lost.
    lost: usize,
}

/// Something that was written once.
struct Written {
    entry: Entry,
    /// The number of the wish, as text; empty: it was told to a log that had lost it.
    wish: Box<str>,
    at: Micros,
    is_undone: bool,
}

impl Log {
    fn change(&mut self, change: Change) {
        self.number += 1;
        self.changes.push_back((self.number, change));
    }

    fn write(&mut self, entry: Entry, wish: Box<str>) {
        let Entry { mark, cutoff } = entry;
        let cutoff = self.entries.get(&mark.id).map_or(cutoff, |there| there.cutoff.joined(cutoff));
        self.entries.insert(mark.id, Entry { mark, cutoff });
        self.written.push(Written { entry, wish, at: self.now, is_undone: false });
        self.change(Change::Revoked(Entry { mark, cutoff }));
    }

    fn place(&self) -> Place {
        Place { log: self.id, number: self.number }
    }
}

/// A replica's way to the log.
struct Line {
    replica: usize,
    wires: Arc<Mutex<Wires>>,
}

impl Line {
    fn call<T: Send + 'static>(&self, act: impl FnOnce(&mut Log) -> T + Send + 'static) -> Answer<'_, Result<T, Away>> {
        Answer::later(async move {
            let (say, hear) = oneshot::channel();
            let arrive: Arrive = Box::new(move |log| {
                let answer = act(log);
                Box::new(move || drop(say.send(answer)))
            });
            lock(&self.wires).on_their_way.push((self.replica, arrive));
            hear.await.map_err(|_| Away { because: AwayCause::Deadline })
        })
    }
}

impl RevocationLog for Line {
    fn add(&self, wishes: Vec<Wish>, _: Moment) -> Answer<'_, Result<Vec<Revocation>, Away>> {
        self.call(|log| {
            let written: Vec<_> = wishes.into_iter().map(|wish| wish.written_at(log.now)).collect();
            for revocation in &written {
                log.write(revocation.entry(), revocation.reason.clone());
            }
            written
        })
    }

    fn undo(&self, id: MarkId, _: Moment) -> Answer<'_, Result<Option<ListedRevocation>, Away>> {
        self.call(move |log| {
            let entry = log.entries.remove(&id)?;
            log.change(Change::Undone(entry.mark));
            let undone = log.written.iter_mut().filter(|written| written.entry.mark.id == id);
            undone.for_each(|written| written.is_undone = true);
            Some(ListedRevocation { entry, written: None })
        })
    }

    fn find(&self, marks: Vec<Mark>, _: Moment) -> Answer<'_, Result<Vec<Option<Cutoff>>, Away>> {
        self.call(move |log| marks.iter().map(|mark| log.entries.get(&mark.id).map(|entry| entry.cutoff)).collect())
    }

    fn list(&self, _: Cursor, _: Moment) -> Answer<'_, Result<Listed, Away>> {
        unreachable!("nobody lists")
    }

    fn news(&self, after: Place, _: Moment) -> Answer<'_, Result<News, Away>> {
        self.call(move |log| {
            let first = log.changes.front().map_or(log.number + 1, |(number, _)| *number);
            if after.log != log.id || after.number > log.number || after.number + 1 < first {
                return News::Gone(log.place());
            }
            let new = log.changes.iter().filter(|(number, _)| *number > after.number);
            let new: Vec<_> = new.take(PAGE).copied().collect();
            let place = Place { number: new.last().map_or(after.number, |(number, _)| *number), ..after };
            let changes = new.into_iter().map(|(_, change)| change).collect();
            News::Changes { changes, place, more: place.number < log.number, unreadable: 0 }
        })
    }

    fn snapshot(&self, Cursor(from): Cursor, _: Moment) -> Answer<'_, Result<Snapshot, Away>> {
        self.call(move |log| {
            // By the first bits of their ids, so that an entry that was there all the time comes for certain.
            let part = |entry: &&Entry| u64::from(entry.mark.id.0[0]) / 64 == from;
            let entries = log.entries.values().filter(part).copied().collect();
            let next = (from < 3).then(|| Cursor(from + 1));
            Snapshot { place: log.place(), entries, next, unreadable: 0 }
        })
    }

    fn restore(&self, entries: Vec<Entry>, _: Moment) -> Answer<'_, Result<(), Away>> {
        self.call(move |log| entries.into_iter().for_each(|entry| log.write(entry, Box::default())))
    }
}

/// The clock of all of them; how far they are apart does not matter, since each measures by its own.
struct Time(Mutex<Micros>);

impl Clock for Time {
    fn now(&self) -> Moment {
        let now = *lock(&self.0);
        Moment { wall: now, steady: now }
    }
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a run came to.
#[derive(Debug, Default)]
struct Verdict {
    refused: usize,
    accepted: usize,
    asked: usize,
    losses: usize,
    restored: usize,
    problems: Vec<String>,
}

struct Replica {
    revocations: Arc<Revocations>,
    /// What it holds, by its place in what was written.
    held: BTreeSet<usize>,
    tasks: Vec<Task>,
    ended: Arc<Mutex<Vec<Ended>>>,
}

/// What came of something that had to be waited for.
enum Ended {
    /// The wishes with these numbers were answered as written.
    Wrote(Vec<Box<str>>),
    /// The log was asked about a token that these hit, when it was asked.
    Asked { hitting: Vec<usize>, losses: usize, standing: Standing },
}

struct World {
    luck: Chance,
    time: Arc<Time>,
    telemetry: Telemetry,
    log: Log,
    wires: Arc<Mutex<Wires>>,
    replicas: Vec<Replica>,
    wishes: u64,
    verdict: Verdict,
}

/// The first three are sessions, of which everything is revoked, the others subjects.
fn target(number: usize) -> Target {
    let name = number.to_string();
    if number < 3 { Target::session("i", &name) } else { Target::subject("i", &name) }
}

fn identity(number: usize, issued_at: Micros) -> Arc<Identity> {
    let name = Some(number.to_string().into());
    let (session, subject) = if number < 3 { (name, None) } else { (None, name) };
    Arc::new(Identity { session, subject, issued_at: Some(issued_at), ..Identity::vouched_by("i") })
}

/// The moment passes by the clock of the world, which polls.
async fn pause(time: Arc<Time>, pause: Micros) {
    let end = time.steady() + pause;
    poll_fn(|_| if time.steady() < end { Poll::Pending } else { Poll::Ready(()) }).await;
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    fn new(seed: u64) -> Self {
        let (entries, changes, written) = (BTreeMap::new(), VecDeque::new(), Vec::new());
        let mut world = Self {
            luck: Chance::new(seed),
            time: Arc::new(Time(Mutex::new(START))),
            telemetry: Telemetry::default(),
            log: Log { id: 1, number: 0, entries, changes, now: START, written, lost: 0 },
            wires: Arc::default(),
            replicas: Vec::new(),
            wishes: 0,
            verdict: Verdict::default(),
        };
        world.replicas = (0..REPLICAS).map(|number| world.started(number)).collect();
        world
    }

    fn run(mut self) -> Verdict {
        for _ in 0..EVENTS {
            self.event();
            self.go_on();
        }
        self.settle();
        self.verdict.restored = self.log.written.iter().filter(|written| written.wish.is_empty()).count();
        self.verdict
    }

    fn started(&self, replica: usize) -> Replica {
        let line = Line { replica, wires: Arc::clone(&self.wires) };
        let revocations = Arc::new(Revocations::new(Arc::new(line), TRUST, &self.telemetry));
        let mut follower = Follower::new(Arc::clone(&revocations), Arc::clone(&self.time) as _);
        let time = Arc::clone(&self.time);
        let following: Task = Box::pin(async move {
            loop {
                let wait = follower.step().await;
                pause(Arc::clone(&time), wait).await;
            }
        });
        Replica { revocations, held: BTreeSet::new(), tasks: vec![following], ended: Arc::default() }
    }

    fn event(&mut self) {
        let replica = self.luck.index(REPLICAS);
        let (moment, while_away) = (self.luck.below(300), self.luck.below(4));
        match self.luck.below(100) {
            0..32 => _ = self.arrive() | self.arrive(),
            32..64 => _ = self.deliver() | self.deliver(),
            64..70 => self.revoke(replica),
            70..73 => self.undo(replica),
            73..92 => self.decide(replica),
            92 => self.lose_a_message(),
            93 => drop(self.log.changes.pop_front()),
            94 if self.luck.one_in(4) => self.log.changes.clear(),
            95 if self.luck.one_in(4) => self.lose_the_data(),
            96 if self.luck.one_in(2) => self.restart(replica),
            97 if self.luck.one_in(8) => (0..REPLICAS).for_each(|replica| self.restart(replica)),
            98 if self.luck.one_in(4) => self.pass(Micros::from_secs(while_away)),
            _ => self.pass(Micros::from_millis(moment)),
        }
    }

    fn pass(&mut self, time: Micros) {
        let mut now = lock(&self.time.0);
        *now = *now + time;
        self.log.now = *now;
    }

    /// Any call arrives, and its answer sets out.
    fn arrive(&mut self) -> bool {
        let mut wires = lock(&self.wires);
        if wires.on_their_way.is_empty() {
            return false;
        }
        let index = self.luck.index(wires.on_their_way.len());
        let (replica, arrive) = wires.on_their_way.swap_remove(index);
        let deliver = arrive(&mut self.log);
        wires.answered.push((replica, deliver));
        true
    }

    fn deliver(&mut self) -> bool {
        let mut wires = lock(&self.wires);
        if wires.answered.is_empty() {
            return false;
        }
        let index = self.luck.index(wires.answered.len());
        wires.answered.swap_remove(index).1();
        true
    }

    fn lose_a_message(&mut self) {
        let mut wires = lock(&self.wires);
        let Wires { on_their_way, answered } = &mut *wires;
        if self.luck.one_in(2) && !on_their_way.is_empty() {
            drop(on_their_way.swap_remove(self.luck.index(on_their_way.len())));
        } else if !answered.is_empty() {
            drop(answered.swap_remove(self.luck.index(answered.len())));
        }
    }

    fn lose_the_data(&mut self) {
        let Log { id, number, entries, changes, written, lost, .. } = &mut self.log;
        (*id, *number, *lost) = (*id + 1, 0, written.len());
        entries.clear();
        changes.clear();
        self.verdict.losses += 1;
    }

    fn restart(&mut self, replica: usize) {
        let mut wires = lock(&self.wires);
        wires.on_their_way.retain(|(whose, _)| *whose != replica);
        wires.answered.retain(|(whose, _)| *whose != replica);
        drop(wires);
        self.replicas[replica] = self.started(replica);
    }

    fn revoke(&mut self, replica: usize) {
        let number = self.luck.index(TARGETS);
        let now = self.time.now();
        let earlier = now.wall - Micros::from_secs(self.luck.below(3));
        let which = if number < 3 { Which::All } else { Which::IssuedBy(earlier) };
        self.wishes += 1;
        let reason = self.wishes.to_string().into();
        let wish =
            Wish { target: target(number), which, ahead: Micros::ZERO, keep: Keep::Always, reason, by: Box::default() };
        let Replica { revocations, ended, tasks, .. } = &mut self.replicas[replica];
        let (revocations, ended) = (Arc::clone(revocations), Arc::clone(ended));
        tasks.push(Box::pin(async move {
            if let Ok(written) = revocations.add(vec![wish], now).get().await {
                lock(&ended).push(Ended::Wrote(written.into_iter().map(|written| written.reason).collect()));
            }
        }));
    }

    fn undo(&mut self, replica: usize) {
        let id = MarkId::of(target(self.luck.index(TARGETS)).borrowed());
        let now = self.time.now();
        let Replica { revocations, tasks, .. } = &mut self.replicas[replica];
        let revocations = Arc::clone(revocations);
        tasks.push(Box::pin(async move { drop(revocations.undo(id, now).get().await) }));
    }

    fn decide(&mut self, replica: usize) {
        let number = self.luck.index(TARGETS);
        let now = self.time.now();
        let issued_at = now.wall - Micros::from_secs(self.luck.below(6));
        let identity = identity(number, issued_at);
        let hitting = self.hitting(number, issued_at);
        let Replica { revocations, held, ended, tasks } = &mut self.replicas[replica];
        let holds = hitting.iter().any(|place| held.contains(place));
        match revocations.standing(&identity, now) {
            Answer::Now(Standing::Revoked) => self.verdict.refused += 1,
            Answer::Now(standing @ (Standing::Good | Standing::Unknown)) if holds => {
                self.verdict
                    .problems
                    .push(format!("{standing:?}: target {number} at replica {replica}, {}", now.steady));
            }
            Answer::Now(Standing::Good | Standing::Unknown) => self.verdict.accepted += 1,
            Answer::Later(_) if holds => {
                self.verdict.problems.push(format!("asked: target {number} at replica {replica}, {}", now.steady));
            }
            Answer::Later(_) => {
                self.verdict.asked += 1;
                let hitting = hitting.into_iter().filter(|place| *place >= self.log.lost).collect();
                let losses = self.verdict.losses;
                let (revocations, ended) = (Arc::clone(revocations), Arc::clone(ended));
                tasks.push(Box::pin(async move {
                    let standing = revocations.standing(&identity, now).get().await;
                    lock(&ended).push(Ended::Asked { hitting, losses, standing });
                }));
            }
        }
    }

    /// What was written, and not undone, that hits a token.
    fn hitting(&self, number: usize, issued_at: Micros) -> Vec<usize> {
        let id = MarkId::of(target(number).borrowed());
        let hits = |written: &Written| {
            let Written { entry: Entry { mark, cutoff }, is_undone, .. } = written;
            !is_undone && mark.id == id && cutoff.hits(Some(issued_at))
        };
        let written = self.log.written.iter().enumerate();
        written.filter(|(_, written)| hits(written)).map(|(place, _)| place).collect()
    }

    /// Whatever can go on does; then it is looked at what came of it.
    fn go_on(&mut self) {
        let now = self.time.steady();
        for replica in &mut self.replicas {
            replica.tasks.retain_mut(|task| task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            for ended in lock(&replica.ended).drain(..) {
                match ended {
                    Ended::Wrote(wishes) => {
                        let written = self.log.written.iter().enumerate();
                        let is_of = |written: &Written| wishes.contains(&written.wish);
                        replica.held.extend(written.filter(|(_, written)| is_of(written)).map(|(place, _)| place));
                    }
                    Ended::Asked { hitting, losses, standing } => {
                        let is_there = |place: &usize| !self.log.written[*place].is_undone;
                        if standing == Standing::Good && losses == self.verdict.losses && hitting.iter().any(is_there) {
                            self.verdict.problems.push(format!("asked, and accepted: {hitting:?}, {now}"));
                        }
                    }
                }
            }
            if let Some(lag) = replica.revocations.health(now).lag {
                let known_to = now - lag;
                let written = self.log.written.iter().enumerate().skip(self.log.lost);
                let is_known = |written: &Written| written.at < known_to;
                replica.held.extend(written.filter(|(_, written)| is_known(written)).map(|(place, _)| place));
            }
        }
    }

    /// Nothing more goes wrong. In the end all know what the log has, and it has whatever anybody holds.
    fn settle(&mut self) {
        for _ in 0..400 {
            while self.arrive() | self.deliver() {
                self.go_on();
            }
            self.pass(Micros::from_millis(250));
            self.go_on();
        }
        let now = self.time.now();
        for (number, replica) in self.replicas.iter().enumerate() {
            let Replica { revocations, held, .. } = replica;
            assert!(!revocations.health(now.steady).is_behind, "replica {number}");
            for target_number in 0..TARGETS {
                let last_hit = self.log.written.iter().filter_map(|written| written.entry.cutoff.before);
                for issued_at in last_hit.flat_map(|moment| [moment, moment + Micros::from_secs(1)]).chain([now.wall]) {
                    let id = MarkId::of(target(target_number).borrowed());
                    let in_log = self.log.entries.get(&id).is_some_and(|entry| entry.cutoff.hits(Some(issued_at)));
                    let is_held = self.hitting(target_number, issued_at).iter().any(|place| held.contains(place));
                    let standing = revocations.standing(&identity(target_number, issued_at), now);
                    let is_revoked = matches!(standing, Answer::Now(Standing::Revoked));
                    if in_log != is_revoked || (is_held && !is_revoked) {
                        let problem = format!(
                            "in the end: target {target_number} of {issued_at} at replica {number}: in the log {in_log}, \
                             held {is_held}, revoked {is_revoked}"
                        );
                        self.verdict.problems.push(problem);
                        break;
                    }
                }
            }
        }
    }
}

#[test]
#[expect(clippy::print_stderr, reason = "a failure is found again by its seed, and the number of runs is to be seen")]
fn simulation_200_runs_what_a_replica_holds_it_refuses_whatever_happens() {
    let mut sum = Verdict::default();
    for seed in 0..SEEDS {
        let Verdict { refused, accepted, asked, losses, restored, problems } = World::new(seed).run();
        assert_eq!(problems, [""; 0], "by the seed {seed}");
        sum.refused += refused;
        sum.accepted += accepted;
        sum.asked += asked;
        sum.losses += losses;
        sum.restored += restored;
    }
    eprintln!("{SEEDS} simulated runs of {EVENTS} events, by the seeds from 0 on: {sum:?}");
    // Each happened often enough to mean something.
    for count in [sum.refused, sum.accepted, sum.asked, sum.losses, sum.restored] {
        assert!(count > 100, "{sum:?}");
    }
}
