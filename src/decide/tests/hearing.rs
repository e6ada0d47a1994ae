//! What is told is done once, and noted only when it was done.

use std::sync::atomic::AtomicUsize;

use super::logged::logged;
use super::*;
use crate::decide::ports::{
    Aim, Away, AwayCause, Cursor, EventReader, EventSink as _, Heard, Listed, ListedRevocation, News, NoLog, Place,
    ProofUse, Snapshot, Told, Unheard,
};
use crate::domain::event::{EventFlaw, EventKind};
use crate::domain::revocation::{Cutoff, Entry, Lifetimes, Mark, MarkId, Revocation, Target, Which, Wish};

const NOWHERE: Away = Away { because: AwayCause::Unreachable };
const RECEIPT: ProofUse = ProofUse { key: [0; 32], name: [1; 32], keep: Micros::from_secs(1) };

/// Reads what it is told to have read, and keeps what is written.
#[derive(Default)]
struct Desk {
    said: Mutex<Option<Result<Heard, Unheard>>>,
    notes: AtomicUsize,
    written: Mutex<Vec<Revocation>>,
    log_away: AtomicBool,
    notes_away: AtomicBool,
}

impl EventReader for Desk {
    fn read<'a>(&'a self, _: Told<'a>, _: Moment) -> Answer<'a, Result<Heard, Unheard>> {
        let mut said = self.said.lock().unwrap().clone().unwrap();
        if let Ok(heard) = &mut said {
            heard.again |= self.notes.load(Ordering::Relaxed) > 0;
        }
        Answer::Now(said)
    }

    fn note(&self, receipt: ProofUse, _: Moment) -> Answer<'_, Result<(), Away>> {
        assert_eq!(receipt, RECEIPT);
        assert!(!self.written.lock().unwrap().is_empty(), "noted before it was done");
        if self.notes_away.load(Ordering::Relaxed) {
            return Answer::Now(Err(NOWHERE));
        }
        self.notes.fetch_add(1, Ordering::Relaxed);
        Answer::Now(Ok(()))
    }
}

impl RevocationLog for Desk {
    fn add(&self, wishes: Vec<Wish>, now: Moment) -> Answer<'_, Result<Vec<Revocation>, Away>> {
        if self.log_away.load(Ordering::Relaxed) {
            return Answer::Now(Err(NOWHERE));
        }
        let new: Vec<_> = wishes.into_iter().map(|wish| wish.written_at(now.wall)).collect();
        self.written.lock().unwrap().extend(new.clone());
        Answer::Now(Ok(new))
    }

    fn undo(&self, id: MarkId, now: Moment) -> Answer<'_, Result<Option<ListedRevocation>, Away>> {
        NoLog.undo(id, now).now()
    }

    fn find(&self, marks: Vec<Mark>, now: Moment) -> Answer<'_, Result<Vec<Option<Cutoff>>, Away>> {
        NoLog.find(marks, now).now()
    }

    fn list(&self, from: Cursor, now: Moment) -> Answer<'_, Result<Listed, Away>> {
        NoLog.list(from, now).now()
    }

    fn news(&self, after: Place, now: Moment) -> Answer<'_, Result<News, Away>> {
        NoLog.news(after, now).now()
    }

    fn snapshot(&self, from: Cursor, now: Moment) -> Answer<'_, Result<Snapshot, Away>> {
        NoLog.snapshot(from, now).now()
    }

    fn restore(&self, entries: Vec<Entry>, now: Moment) -> Answer<'_, Result<(), Away>> {
        NoLog.restore(entries, now).now()
    }
}

/// An answer that is there, of any lifetime.
trait There<T> {
    fn now<'b>(self) -> Answer<'b, T>;
}

impl<T> There<T> for Answer<'_, T> {
    fn now<'b>(self) -> Answer<'b, T> {
        match self {
            Answer::Now(answer) => Answer::Now(answer),
            Answer::Later(_) => unreachable!(),
        }
    }
}

struct Fixture {
    desk: Arc<Desk>,
    hearing: Hearing,
    telemetry: Arc<Telemetry>,
}

fn fixture() -> Fixture {
    let (desk, world, telemetry) = (Arc::<Desk>::default(), Arc::<World>::default(), Arc::new(Telemetry::default()));
    let decider = Arc::new(Decider::new(
        Arc::clone(&world) as _,
        Arc::clone(&world) as _,
        Arc::clone(&world) as _,
        Arc::clone(&desk) as _,
        world,
        Arc::clone(&telemetry),
    ));
    let lifetimes =
        Lifetimes { longest: Micros::from_secs(3_600), leeway: Micros::from_secs(60), clock_ahead: Micros::ZERO };
    decider.adopt(Policy { lifetimes: [("i".into(), lifetimes)].into(), ..Policy::default() });
    let hearing = Hearing::new(decider, Arc::clone(&desk) as _, &telemetry);
    Fixture { desk, hearing, telemetry }
}

impl Fixture {
    fn says(&self, said: Result<Heard, Unheard>) {
        *self.desk.said.lock().unwrap() = Some(said);
    }

    fn hear(&self) -> Result<(), Unheard> {
        self.hearing.hear(Told::Event("x")).get().now_or_never().unwrap()
    }

    fn count(&self, outcome: &str) -> bool {
        let series = format!("tollgate_provider_events_total{{kind=\"event\",outcome=\"{outcome}\"}} 1");
        self.telemetry.render().contains(&series)
    }

    fn written(&self) -> usize {
        self.desk.written.lock().unwrap().len()
    }
}

fn heard(issuer: &str) -> Heard {
    let target = Target::subject(issuer, "ann");
    let aim = Aim { kind: EventKind::AccountDisabled, target, which: Which::IssuedByNow };
    Heard { issuer: issuer.into(), aims: vec![aim], missed: 0, again: false, receipt: RECEIPT }
}

#[test]
fn what_strangers_tell_or_tell_again_fills_no_log() {
    let said = [
        Err(Unheard::Away(NOWHERE)),
        Err(EventFlaw::Type.into()),
        Ok(Heard { missed: 1, aims: Vec::new(), ..heard("i") }),
    ];
    for said in said {
        let fixture = fixture();
        fixture.says(said.clone());
        let logged = logged(|| {
            for _ in 0..300 {
                assert_eq!(fixture.hear(), said.clone().map(|_| ()));
            }
        });
        let warnings = logged
            .iter()
            .filter(|logged| logged.level == tracing::Level::WARN && logged.target == "tollgate::decide::hearing");
        assert_eq!(warnings.count(), 100, "{said:?}");
    }
}

#[test]
fn what_is_told_is_written_with_who_told_it_and_a_second_time_it_is_not() {
    let fixture = fixture();
    fixture.says(Ok(heard("i")));
    assert_eq!(fixture.hear(), Ok(()));
    {
        let written = fixture.desk.written.lock().unwrap();
        let [written] = written.as_slice() else { unreachable!() };
        assert_eq!((&*written.reason, &*written.by), ("account-disabled", "i"));
        assert_eq!(written.cutoff.before, Some(Micros(1)));
    }
    assert!(fixture.count("taken_back"));
    assert_eq!(fixture.hear(), Ok(()), "the first answer may not have arrived");
    assert_eq!(fixture.written(), 1);
    assert!(fixture.count("again"));
}

#[test]
fn what_could_not_be_written_is_not_noted_and_may_be_told_again() {
    let fixture = fixture();
    fixture.says(Ok(heard("i")));
    fixture.desk.log_away.store(true, Ordering::Relaxed);
    assert_eq!(fixture.hear(), Err(Unheard::Away(NOWHERE)));
    fixture.desk.log_away.store(false, Ordering::Relaxed);
    fixture.desk.notes_away.store(true, Ordering::Relaxed);
    assert_eq!(fixture.hear(), Err(Unheard::Away(NOWHERE)), "else it would be done at each replay");
    fixture.desk.notes_away.store(false, Ordering::Relaxed);
    assert_eq!(fixture.hear(), Ok(()));
    assert_eq!(fixture.written(), 2);
    assert!(fixture.count("taken_back"));
}

#[test]
fn what_takes_nothing_back_is_neither_written_nor_noted() {
    let fixture = fixture();
    let nothing = Heard { aims: Vec::new(), ..heard("i") };
    fixture.says(Ok(nothing.clone()));
    assert_eq!(fixture.hear(), Ok(()));
    assert!(fixture.count("ignored"));
    fixture.says(Ok(Heard { missed: 2, ..nothing }));
    assert_eq!(fixture.hear(), Ok(()));
    assert!(fixture.count("missed") && fixture.count("ignored"));
    for flaw in [EventFlaw::Key, EventFlaw::Audience] {
        fixture.says(Err(flaw.into()));
        assert_eq!(fixture.hear(), Err(Unheard::Refused(flaw)));
    }
    fixture.says(Ok(heard("gone")));
    assert_eq!(fixture.hear(), Err(Unheard::Refused(EventFlaw::Issuer)), "no longer configured");
    assert_eq!((fixture.written(), fixture.desk.notes.load(Ordering::Relaxed)), (0, 0));
}
