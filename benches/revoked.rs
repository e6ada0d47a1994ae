//! What is revoked, in memory: what it takes up, and what looking costs. `cargo bench revo`.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use divan::{Bencher, black_box};
use futures_util::future;
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tollgate::decide::ports::{
    Answer, Away, Clock, Cursor, Listed, ListedRevocation, News, Place, RevocationLog, RevocationView as _, Snapshot,
    Standing,
};
use tollgate::domain::identity::Identity;
use tollgate::domain::revocation::{
    Cutoff, Entry, Keep, Mark, MarkId, Revocation, Target, TargetKind, Trust, WhenBehind, Which, Wish,
};
use tollgate::domain::time::{Micros, Moment};
use tollgate::revocation::{Follower, Revocations};
use tollgate::server::SystemClock;
use tollgate::telemetry::Telemetry;

use crate::house::{at_hand, moment};
use crate::tokens::resident;

/// Entries of one page of the log.
const PAGE: u64 = 1_000;

/// Entries that are in memory at a time, where memory is measured.
const MANY: u64 = 5_000_000;

/// Bytes that one may take up.
const ENTRY_BYTES_MAX: u64 = 64;

/// How often all of them are loaded anew, where waiting is measured.
const LOADS: usize = 8;

/// For how long an own write may wait meanwhile.
const WAIT_MAX: Micros = Micros::from_millis(50);

const ISSUER: &str = "https://issuer.example";

/// A log that has so many entries under an issuer, of every kind in turns. Of what is written besides it says nothing.
struct Settled {
    issuer: &'static str,
    entries: u64,
    /// How many times more it says that what was asked for is gone.
    gone: AtomicU64,
    /// It has said that there is no news.
    silent: Notify,
}

const PLACE: Place = Place { log: 1, number: 1 };

impl Settled {
    fn new(issuer: &'static str, entries: u64) -> Self {
        Self { issuer, entries, gone: AtomicU64::new(0), silent: Notify::new() }
    }

    fn entry(&self, number: u64) -> Entry {
        let kinds = TargetKind::ALL;
        let kind = kinds[usize::try_from(number).unwrap() % kinds.len()];
        let target = Target::new(kind, self.issuer, format!("4f9c2f6e-8a5b-4c1d-9e3f-{number:012}").as_bytes());
        Entry { mark: Mark::of(target.borrowed()), cutoff: Cutoff::ALWAYS }
    }
}

impl RevocationLog for Settled {
    fn add(&self, wishes: Vec<Wish>, now: Moment) -> Answer<'_, Result<Vec<Revocation>, Away>> {
        Answer::Now(Ok(wishes.into_iter().map(|wish| wish.written_at(now.wall)).collect()))
    }

    fn undo(&self, _: MarkId, _: Moment) -> Answer<'_, Result<Option<ListedRevocation>, Away>> {
        unreachable!("nothing is undone")
    }

    fn find(&self, _: Vec<Mark>, _: Moment) -> Answer<'_, Result<Vec<Option<Cutoff>>, Away>> {
        unreachable!("nobody is behind")
    }

    fn list(&self, _: Cursor, _: Moment) -> Answer<'_, Result<Listed, Away>> {
        unreachable!("nobody lists")
    }

    fn news(&self, place: Place, _: Moment) -> Answer<'_, Result<News, Away>> {
        if self.gone.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |times| times.checked_sub(1)).is_ok() {
            return Answer::Now(Ok(News::Gone(PLACE)));
        }
        self.silent.notify_one();
        Answer::Now(Ok(News::Changes { changes: Vec::new(), place, more: false, unreadable: 0 }))
    }

    fn snapshot(&self, Cursor(from): Cursor, _: Moment) -> Answer<'_, Result<Snapshot, Away>> {
        let end = self.entries.min(from + PAGE);
        let entries = (from..end).map(|number| self.entry(number)).collect();
        let next = (end < self.entries).then_some(Cursor(end));
        Answer::Now(Ok(Snapshot { place: PLACE, entries, next, unreadable: 0 }))
    }

    fn restore(&self, _: Vec<Entry>, _: Moment) -> Answer<'_, Result<(), Away>> {
        Answer::Now(Ok(()))
    }
}

/// So many revocations, loaded, by which whoever never asks again is never behind.
pub(crate) fn revocations(
    runtime: &Runtime,
    issuer: &'static str,
    entries: u64,
    clock: &Arc<dyn Clock>,
    telemetry: &Telemetry,
) -> Arc<Revocations> {
    following(runtime, Arc::new(Settled::new(issuer, entries)), clock, telemetry).0
}

/// The same of a log, and who goes on to follow it.
fn following(
    runtime: &Runtime,
    log: Arc<Settled>,
    clock: &Arc<dyn Clock>,
    telemetry: &Telemetry,
) -> (Arc<Revocations>, Pin<Box<dyn Future<Output = ()>>>) {
    let trust = Trust { max_lag: Micros::from_secs(1_000_000), when_behind: WhenBehind::Ask };
    let entries = log.entries;
    let revocations = Arc::new(Revocations::new(log, trust, telemetry));
    let mut follower = Box::pin(Follower::new(Arc::clone(&revocations), Arc::clone(clock)).run());
    runtime.block_on(future::select(&mut follower, pin!(revocations.settled())));
    assert_eq!(revocations.health(moment().steady).entries, entries);
    (revocations, follower)
}

/// Whether a token is revoked that has all that can be.
#[divan::bench(args = [0, 1_000, 1_000_000])]
fn revoked(bencher: Bencher<'_, '_>, entries: u64) {
    let (revocations, identity) = beside(entries);
    let now = moment();
    let stands = || at_hand(revocations.standing(black_box(&identity), now));
    assert_eq!(stands(), Standing::Good);
    bencher.bench(stands);
}

/// So many revocations of all kinds, and a token that has all that can be revoked, but is not.
pub(crate) fn beside(entries: u64) -> (Arc<Revocations>, Arc<Identity>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (clock, telemetry) = (Arc::new(SystemClock::start()) as _, Telemetry::default());
    let revocations = revocations(&runtime, ISSUER, entries, &clock, &telemetry);
    let name = |what: &str| Some(format!("{what}-8a5b-4c1d-9e3f-000000000000").into());
    let identity = Arc::new(Identity {
        subject: name("subject"),
        client: name("client"),
        session: name("session"),
        token_id: name("token"),
        signed_by: Some(Arc::new([7; 32])),
        ..Identity::vouched_by(ISSUER)
    });
    (revocations, identity)
}

/// What five million take up: prints what each adds to the process's memory. The budget is held here.
/// `cargo bench revocations_at_rest -- --ignored`
#[divan::bench(sample_count = 1, ignore)]
fn revocations_at_rest(bencher: Bencher<'_, '_>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (clock, telemetry) = (Arc::new(SystemClock::start()) as _, Telemetry::default());
    let before = resident();
    let mut loaded = None;
    // Once, however often the bench is run.
    bencher.bench_local(|| {
        loaded.get_or_insert_with(|| revocations(&runtime, ISSUER, MANY, &clock, &telemetry));
    });
    let each = (resident() - before) as u64 * 100 / MANY;
    eprintln!("{MANY} revocations: {}.{:02} bytes each", each / 100, each % 100);
    assert!(each <= ENTRY_BYTES_MAX * 100);
}

/// How long what is written through this replica waits while all is loaded anew: prints the longest of each time. The budget
/// is held here, for the least of them, since each is also that of whatever else the machine does.
/// `cargo bench own_writes -- --ignored`
#[divan::bench(sample_count = 1, ignore)]
fn own_writes_beside_a_load(bencher: Bencher<'_, '_>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (clock, telemetry) = (SystemClock::start(), Telemetry::default());
    let log = Arc::new(Settled::new(ISSUER, MANY));
    let (revocations, mut follower) = following(&runtime, Arc::clone(&log), &(Arc::new(clock) as _), &telemetry);
    runtime.block_on(future::select(&mut follower, pin!(log.silent.notified())));
    let mut waits = Vec::new();
    // So often, however often the bench is run.
    bencher.bench_local(|| {
        if waits.len() < LOADS {
            log.gone.store(1, Ordering::SeqCst);
            let over = AtomicBool::new(false);
            let longest = thread::scope(|scope| {
                let writer = scope.spawn(|| longest_wait(&revocations, clock, &over));
                runtime.block_on(future::select(&mut follower, pin!(log.silent.notified())));
                over.store(true, Ordering::SeqCst);
                writer.join().unwrap()
            });
            eprintln!("an own write waited {:?} at most", Duration::from(longest));
            waits.push(longest);
        }
    });
    assert!(waits.iter().min().is_some_and(|least| *least <= WAIT_MAX));
}

fn longest_wait(revocations: &Revocations, clock: SystemClock, over: &AtomicBool) -> Micros {
    let wish = || Wish {
        target: Target::session(ISSUER, "own"),
        which: Which::All,
        ahead: Micros::ZERO,
        keep: Keep::Always,
        reason: "".into(),
        by: "".into(),
    };
    let mut longest = Micros::ZERO;
    while !over.load(Ordering::SeqCst) {
        let began = clock.now();
        at_hand(revocations.add(vec![wish()], began)).unwrap();
        longest = longest.max(clock.now().steady.since(began.steady));
        thread::sleep(Duration::from_millis(1));
    }
    longest
}
