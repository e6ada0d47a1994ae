//! What the set promises by itself, and what becomes of tokens while the log is away.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt as _;
use proptest::prelude::*;

use super::follow::{Follower, Revocations};
use super::set::{ENDED_FOR, RevocationSet};
use super::table::{Filling, Kept, Marks};
use crate::decide::ports::{
    Answer, Away, AwayCause, Change, Clock, Cursor, Listed, ListedRevocation, News, Place, RevocationLog,
    RevocationView as _, Snapshot, Standing,
};
use crate::domain::identity::{Identity, IdentityKind};
use crate::domain::revocation::{
    Cutoff, Entry, Keep, Mark, MarkId, REVOCATIONS_MAX, Revocation, Target, TargetKind, Trust, WhenBehind, Which, Wish,
};
use crate::domain::time::{Micros, Moment};
use crate::telemetry::{Telemetry, names};

/// A log of one page, which can be away.
#[derive(Default)]
struct Paper(Mutex<Written>);

#[derive(Default)]
struct Written {
    is_away: bool,
    entries: BTreeMap<MarkId, Entry>,
    loads: u64,
}

const PLACE: Place = Place { log: 7, number: 0 };

impl Paper {
    fn there<T>(&self, act: impl FnOnce(&mut Written) -> T) -> Result<T, Away> {
        let mut written = self.0.lock().unwrap();
        if written.is_away { Err(Away { because: AwayCause::Unreachable }) } else { Ok(act(&mut written)) }
    }

    fn goes_away(&self, is_away: bool) {
        self.0.lock().unwrap().is_away = is_away;
    }

    fn has(&self, target: &Target) {
        let mark = Mark::of(target.borrowed());
        self.0.lock().unwrap().entries.insert(mark.id, Entry { mark, cutoff: Cutoff::ALWAYS });
    }
}

impl RevocationLog for Paper {
    fn add(&self, wishes: Vec<Wish>, now: Moment) -> Answer<'_, Result<Vec<Revocation>, Away>> {
        Answer::Now(self.there(|written| {
            let added: Vec<_> = wishes.into_iter().map(|wish| wish.written_at(now.wall)).collect();
            let entries = added.iter().map(|revocation| (revocation.entry().mark.id, revocation.entry()));
            written.entries.extend(entries);
            added
        }))
    }

    fn undo(&self, id: MarkId, _: Moment) -> Answer<'_, Result<Option<ListedRevocation>, Away>> {
        let entry = |written: &mut Written| written.entries.remove(&id);
        Answer::Now(self.there(|written| entry(written).map(|entry| ListedRevocation { entry, written: None })))
    }

    fn find(&self, marks: Vec<Mark>, _: Moment) -> Answer<'_, Result<Vec<Option<Cutoff>>, Away>> {
        let find = |written: &mut Written| {
            marks.iter().map(|mark| written.entries.get(&mark.id).map(|entry| entry.cutoff)).collect()
        };
        Answer::Now(self.there(find))
    }

    fn list(&self, _: Cursor, _: Moment) -> Answer<'_, Result<Listed, Away>> {
        Answer::Now(self.there(|_| Listed::default()))
    }

    fn news(&self, place: Place, _: Moment) -> Answer<'_, Result<News, Away>> {
        Answer::Now(self.there(|_| News::Changes { changes: Vec::new(), place, more: false, unreadable: 2 }))
    }

    fn snapshot(&self, _: Cursor, _: Moment) -> Answer<'_, Result<Snapshot, Away>> {
        Answer::Now(self.there(|written| {
            written.loads += 1;
            let entries = written.entries.values().copied().collect();
            Snapshot { place: PLACE, entries, next: None, unreadable: 1 }
        }))
    }

    fn restore(&self, _: Vec<Entry>, _: Moment) -> Answer<'_, Result<(), Away>> {
        Answer::Now(self.there(|_| ()))
    }
}

struct Hands(Mutex<Moment>);

impl Clock for Hands {
    fn now(&self) -> Moment {
        *self.0.lock().unwrap()
    }
}

struct Replica {
    clock: Arc<Hands>,
    log: Arc<Paper>,
    revocations: Arc<Revocations>,
    follower: Follower,
    telemetry: Telemetry,
}

const START: Moment = Moment { wall: Micros::from_secs(1_000_000), steady: Micros::from_secs(100) };

impl Replica {
    fn new(when_behind: WhenBehind) -> Self {
        let (clock, log) = (Arc::new(Hands(Mutex::new(START))), Arc::new(Paper::default()));
        let telemetry = Telemetry::default();
        let trust = Trust { when_behind, ..Trust::default() };
        let revocations = Arc::new(Revocations::new(Arc::clone(&log) as _, trust, &telemetry));
        let follower = Follower::new(Arc::clone(&revocations), Arc::clone(&clock) as _);
        Self { clock, log, revocations, follower, telemetry }
    }

    fn pass(&self, time: Micros) {
        let mut now = self.clock.0.lock().unwrap();
        *now = Moment { wall: now.wall + time, steady: now.steady + time };
    }

    /// Loads, or hears what is new.
    fn step(&mut self) -> Micros {
        self.follower.step().now_or_never().unwrap()
    }

    fn standing(&self, identity: &Arc<Identity>) -> Standing {
        self.revocations.standing(identity, self.clock.now()).get().now_or_never().unwrap()
    }

    fn revoke(&self, target: Target) {
        let reason = Box::default();
        let (ahead, by) = (Micros::ZERO, Box::default());
        let wish = Wish { target, which: Which::All, ahead, keep: Keep::Always, reason, by };
        self.revocations.add(vec![wish], self.clock.now()).get().now_or_never().unwrap().unwrap();
    }
}

fn session(name: &str) -> Arc<Identity> {
    Arc::new(Identity { session: Some(name.into()), ..Identity::vouched_by("i") })
}

#[test]
fn what_is_revoked_stays_so_and_of_others_the_configuration_says_what_becomes_when_behind() {
    for (when_behind, others) in [
        (WhenBehind::Ask, Standing::Unknown),
        (WhenBehind::Deny, Standing::Unknown),
        (WhenBehind::Allow, Standing::Good),
    ] {
        let mut replica = Replica::new(when_behind);
        replica.log.has(&Target::session("i", "out"));
        replica.step();
        assert_eq!(replica.step(), Micros::from_millis(400), "everything is known");
        let (revoked, other) = (session("out"), session("other"));
        assert_eq!((replica.standing(&revoked), replica.standing(&other)), (Standing::Revoked, Standing::Good));
        replica.log.goes_away(true);
        replica.pass(Micros::from_secs(2));
        replica.step();
        assert_eq!(replica.standing(&other), Standing::Good, "two seconds are near enough");
        replica.pass(Micros(1));
        assert_eq!((replica.standing(&revoked), replica.standing(&other)), (Standing::Revoked, others));
        assert!(replica.revocations.health(replica.clock.now().steady).is_behind);
        replica.log.goes_away(false);
        replica.step();
        assert_eq!((replica.standing(&revoked), replica.standing(&other)), (Standing::Revoked, Standing::Good));
    }
}

#[test]
fn before_it_is_loaded_the_log_is_asked_about_each_token() {
    let mut replica = Replica::new(WhenBehind::Ask);
    replica.log.has(&Target::session("i", "out"));
    assert_eq!(replica.standing(&session("out")), Standing::Revoked);
    assert_eq!(replica.standing(&session("other")), Standing::Good);
    replica.log.goes_away(true);
    assert_eq!(replica.standing(&session("other")), Standing::Unknown);
    assert!(replica.revocations.settled().now_or_never().is_none());
    replica.step();
    assert!(replica.revocations.settled().now_or_never().is_some(), "it is not waited for for ever");
    let health = replica.revocations.health(replica.clock.now().steady);
    assert_eq!((health.lag, health.problem), (None, Some(Away { because: AwayCause::Unreachable })));
    let text = replica.telemetry.render();
    for (outcome, count) in [("asked", 2), ("away", 1)] {
        let line = format!("{}{{outcome=\"{outcome}\"}} {count}", names::REVOCATIONS_BEHIND);
        assert!(text.contains(&line), "{text}");
    }
}

#[test]
fn what_is_written_here_is_in_force_at_once() {
    let mut replica = Replica::new(WhenBehind::Deny);
    replica.revoke(Target::session("i", "early"));
    assert_eq!(replica.standing(&session("early")), Standing::Revoked, "even before anything was loaded");
    replica.step();
    replica.step();
    replica.revoke(Target::session("i", "late"));
    assert_eq!(replica.standing(&session("early")), Standing::Revoked);
    assert_eq!(replica.standing(&session("late")), Standing::Revoked);
    assert_eq!(replica.standing(&session("other")), Standing::Good);
}

#[test]
fn a_log_that_lost_something_is_told_and_left_alone_in_between() {
    let mut replica = Replica::new(WhenBehind::Deny);
    for number in 0..=REVOCATIONS_MAX {
        replica.revoke(Target::session("i", &number.to_string()));
    }
    replica.log.0.lock().unwrap().entries.clear();
    replica.step();
    // Those of one table go at a time.
    let pauses: Vec<_> = std::iter::repeat_with(|| replica.step()).take_while(|pause| pause.0 < 400_000).collect();
    assert!(!pauses.is_empty() && pauses.iter().all(|pause| *pause == Micros::from_millis(10)), "{pauses:?}");
}

#[test]
fn a_decision_that_waited_long_for_its_verdict_does_not_go_by_what_was_recent_when_it_began() {
    let mut replica = Replica::new(WhenBehind::Deny);
    replica.step();
    replica.step();
    let began = replica.clock.now();
    replica.log.goes_away(true);
    replica.pass(Micros::from_secs(5));
    replica.step();
    let standing = replica.revocations.standing(&session("other"), began).get().now_or_never().unwrap();
    assert_eq!(standing, Standing::Unknown);
}

#[test]
fn with_the_shortest_max_lag_one_answer_may_fail_and_a_replica_is_not_behind() {
    let mut replica = Replica::new(WhenBehind::Deny);
    replica.revocations.adopt(Trust { max_lag: Micros::from_secs(1), when_behind: WhenBehind::Deny });
    replica.step();
    // Each pause is longer by up to a fifth.
    let mut goes_on = |is_away| {
        let pause = replica.step();
        replica.log.goes_away(is_away);
        replica.pass(Micros(pause.0 * 6 / 5));
        replica.standing(&session("other"))
    };
    assert_eq!(goes_on(true), Standing::Good);
    assert_eq!(goes_on(true), Standing::Good, "one failed");
    assert_eq!(goes_on(false), Standing::Unknown, "two");
    assert_eq!(goes_on(false), Standing::Good);
}

#[test]
fn another_bound_holds_from_the_reload_on() {
    let mut replica = Replica::new(WhenBehind::Deny);
    replica.step();
    replica.step();
    replica.pass(Micros::from_secs(3));
    assert_eq!(replica.standing(&session("other")), Standing::Unknown);
    replica.revocations.adopt(Trust { max_lag: Micros::from_secs(3), when_behind: WhenBehind::Deny });
    assert_eq!(replica.standing(&session("other")), Standing::Good);
    replica.revocations.adopt(Trust { max_lag: Micros::from_secs(1), when_behind: WhenBehind::Allow });
    assert_eq!(replica.standing(&session("other")), Standing::Good, "behind, and accepted");
}

#[test]
fn a_wall_clock_that_is_set_back_has_the_log_loaded_anew() {
    let mut replica = Replica::new(WhenBehind::Deny);
    replica.step();
    replica.step();
    replica.clock.0.lock().unwrap().wall = Micros::from_secs(1_000_000 + 86_400);
    replica.step();
    assert_eq!(replica.log.0.lock().unwrap().loads, 1);
    replica.clock.0.lock().unwrap().wall = START.wall;
    replica.step();
    assert_eq!(replica.log.0.lock().unwrap().loads, 2);
    replica.step();
    replica.step();
    assert_eq!(replica.log.0.lock().unwrap().loads, 2, "once");
}

#[test]
fn what_makes_no_sense_is_counted() {
    let mut replica = Replica::new(WhenBehind::Ask);
    replica.step();
    replica.step();
    replica.step();
    let line = format!("{} 5", names::REVOCATIONS_UNREADABLE);
    assert!(replica.telemetry.render().contains(&line), "{}", replica.telemetry.render());
}

#[test]
fn each_kind_is_found_by_those_whom_it_hits() {
    let token = Arc::new(Identity {
        token_id: Some("t".into()),
        session: Some("s".into()),
        subject: Some("p".into()),
        client: Some("c".into()),
        signed_by: Some([2; 32].into()),
        ..Identity::vouched_by("i")
    });
    let unnamed = Arc::new(Identity { token_hash: Some([1; 32].into()), ..Identity::vouched_by("j") });
    let key =
        Arc::new(Identity { kind: IdentityKind::ApiKey, token_id: Some("k".into()), ..Identity::vouched_by("keys") });
    for (target, hit) in [
        (Target::token("i", "t"), &token),
        (Target::unnamed_token("j", &[1; 32]), &unnamed),
        (Target::session("i", "s"), &token),
        (Target::subject("i", "p"), &token),
        (Target::client("i", "c"), &token),
        (Target::issuer("i"), &token),
        (Target::signing_key("i", &[2; 32]), &token),
        (Target::new(TargetKind::ApiKey, "", b"k"), &key),
        (Target::issuer("keys"), &key),
    ] {
        let set = RevocationSet::new();
        let mark = Mark::of(target.borrowed());
        set.apply(&[Change::Revoked(Entry { mark, cutoff: Cutoff::ALWAYS })]);
        for identity in [&token, &unnamed, &key] {
            assert_eq!(set.hits(identity), std::ptr::eq(identity, hit), "{target:?}");
        }
        assert_eq!(set.entries()[mark.kind.index()], 1);
        set.apply(&[Change::Undone(mark)]);
        assert!(!set.hits(hit));
        assert_eq!(set.entries(), [0; 8]);
    }
}

#[test]
fn what_ended_long_ago_is_dropped_and_nothing_sooner() {
    let set = RevocationSet::new();
    let end = Micros::from_secs(1_600);
    let mark = Mark::of(Target::session("i", "s").borrowed());
    set.apply(&[Change::Revoked(Entry { mark, cutoff: Cutoff { before: None, until: Some(end) } })]);
    let sweep = |now| (0..64).for_each(|_| set.sweep(now));
    sweep(end + ENDED_FOR - Micros(1));
    assert_eq!(set.entries()[mark.kind.index()], 1);
    sweep(end + ENDED_FOR);
    assert_eq!(set.entries(), [0; 8]);
}

#[derive(Clone, Copy, Debug)]
enum Deed {
    Put(u64, Option<u64>),
    Gone(u64),
}

fn deed() -> impl Strategy<Value = Deed> {
    let number = 0..300_u64;
    prop_oneof![
        3 => (number.clone(), proptest::option::of(0..5_u64)).prop_map(|(number, before)| Deed::Put(number, before)),
        1 => number.prop_map(Deed::Gone),
    ]
}

/// Of any kind; three marks share a tag, of which one is that of empty slots, and all but a few a table.
fn mark(number: u64) -> Mark {
    let kind = TargetKind::ALL[usize::try_from(number).unwrap() % 8];
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_le_bytes());
    let tag = if number.is_multiple_of(20) { (number / 3) << 57 } else { number / 3 };
    Mark { kind, id: MarkId(id), tag }
}

proptest! {
    #[test]
    fn the_table_is_exact(deeds in proptest::collection::vec(deed(), 0..600)) {
        let (marks, mut filling) = (Marks::new(), Filling::new());
        let mut model: BTreeMap<u64, Kept> = BTreeMap::new();
        for deed in deeds {
            let (number, kept) = match deed {
                Deed::Put(number, before) => {
                    let cutoff = Cutoff { before: before.map(Micros::from_secs), until: None };
                    (number, Kept::new(mark(number).kind, cutoff, true))
                }
                Deed::Gone(number) => (number, Kept::GONE),
            };
            marks.put(&mut filling, &mark(number), kept);
            if kept.is_gone() { model.remove(&number) } else { model.insert(number, kept) };
            prop_assert_eq!(marks.find(&mark(number)), kept);
        }
        for number in 0..300 {
            prop_assert_eq!(marks.find(&mark(number)), model.get(&number).copied().unwrap_or(Kept::GONE));
        }
        let mut counts = [0; 8];
        for number in model.keys() {
            counts[mark(*number).kind.index()] += 1;
        }
        prop_assert_eq!(filling.entries(), counts);
        let in_use = (0..8).filter(|kind| marks.in_use() >> kind & 1 == 1).count();
        prop_assert_eq!(in_use, counts.iter().filter(|count| **count > 0).count());
    }

    #[test]
    fn in_memory_an_entry_never_hits_less_or_ends_sooner(
        before in proptest::option::of(0..20_000_000_000_000_000_u64), until in proptest::option::of(any::<u64>()),
        kind in 0..8_usize, issued_at in 0..20_000_000_000_000_000_u64, is_confirmed: bool,
    ) {
        let cutoff = Cutoff { before: before.map(Micros), until: until.map(Micros) };
        let kept = Kept::new(TargetKind::ALL[kind], cutoff, is_confirmed);
        prop_assert_eq!(kept.is_confirmed(), is_confirmed);
        let held = kept.cutoff().unwrap();
        let issued_at = Some(Micros(issued_at));
        // What reaches beyond the year 2106 reaches for ever.
        let reaches = before.is_some_and(|before| before / 1_000_000 >= u64::from(u32::MAX) - 1);
        prop_assert_eq!(held.hits(issued_at), cutoff.hits(issued_at) || reaches);
        match (cutoff.until, held.until) {
            (_, None) => {}
            (None, Some(_)) => prop_assert!(false, "it never ends"),
            (Some(until), Some(held)) => prop_assert!(held >= until && held - until < Micros::from_secs(16)),
        }
        let told = Kept::new(TargetKind::ALL[kind], held, is_confirmed);
        prop_assert_eq!(told, kept, "it is told as it is held");
    }
}
