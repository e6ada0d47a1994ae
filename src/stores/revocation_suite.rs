//! One suite of behaviours for every log of what was taken back. Redis is a real one, started for each test; time is
//! passed in.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use super::redis::RedisStore;
use super::redis_server::{RedisCluster, RedisServer};
use super::revocations::{Bounds, MemoryRevocations};
use super::suite::{START, at, reached, redis};
use crate::decide::ports::{
    Away, AwayCause, Change, Cursor, Listed, ListedRevocation, News, Place, RevocationLog, Snapshot,
};
use crate::domain::revocation::{
    Cutoff, Entry, Keep, LAST_MOMENT, Mark, MarkId, REVOCATIONS_MAX, Revocation, Target, TargetKind, Which, Wish,
};
use crate::domain::time::Micros;

const HOUR: Micros = Micros::from_secs(3_600);
const FULL: Away = Away { because: AwayCause::Full };

/// Small enough to be reached.
pub(super) const FEW: Bounds = Bounds { entries_max: 50, changes_max: 200 };

macro_rules! suite {
    ($($behaviour:ident),* $(,)?) => {
        mod in_memory {
            $(#[tokio::test]
            async fn $behaviour() {
                let log = super::MemoryRevocations::new();
                super::$behaviour(&log, &log).await;
            })*
        }

        mod in_a_file {
            $(#[tokio::test]
            async fn $behaviour() {
                let folder = tempfile::tempdir().unwrap();
                let log = super::MemoryRevocations::open(&folder.path().join("revocations")).unwrap();
                super::$behaviour(&log, &log).await;
            })*
        }

        mod in_redis {
            $(#[tokio::test]
            async fn $behaviour() {
                let Some(server) = super::RedisServer::start() else { return };
                super::$behaviour(&super::redis(&server), &super::redis(&server)).await;
            })*
        }

        /// One after the other, because it takes a while to make a cluster.
        #[tokio::test]
        async fn all_behaviours_in_a_cluster() {
            let Some(cluster) = RedisCluster::masters_with(&[]) else { return };
            let (log, other) = (reached(cluster.urls()), reached(cluster.urls()));
            $(
                println!("{}", stringify!($behaviour));
                cluster.flush();
                $behaviour(&log, &other).await;
            )*
        }
    };
}

suite![
    what_is_written_is_answered_found_listed_and_told,
    entries_of_one_target_are_joined_and_who_asked_last_is_kept,
    the_log_writes_by_its_own_clock,
    what_is_over_is_neither_written_nor_found,
    what_is_undone_is_gone_and_told,
    what_is_restored_is_joined_and_says_nothing_new_to_people,
    a_full_load_of_wishes_is_written_and_told_in_order,
    names_and_reasons_are_any_text_or_bytes,
    the_largest_moments_stay_what_they_are,
    nothing_is_missed_between_a_snapshot_and_its_news,
    a_place_of_another_log_is_gone,
    a_place_beyond_the_last_change_is_gone,
    what_changes_nothing_is_no_news,
    nothing_at_all_is_written_at_once,
];

pub(super) fn wish(target: Target, which: Which, keep: Keep) -> Wish {
    Wish { target, which, ahead: Micros::ZERO, keep, reason: "stolen".into(), by: "ann".into() }
}

fn session(name: &str) -> Target {
    Target::session("https://auth.example", name)
}

fn always(target: Target) -> Wish {
    wish(target, Which::All, Keep::Always)
}

pub(super) fn mark(target: &Target) -> Mark {
    Mark::of(target.borrowed())
}

pub(super) async fn add(log: &dyn RevocationLog, wishes: Vec<Wish>, now: Micros) -> Vec<Revocation> {
    log.add(wishes, at(now)).get().await.unwrap()
}

async fn found(log: &dyn RevocationLog, target: &Target, now: Micros) -> Option<Cutoff> {
    log.find(vec![mark(target)], at(now)).get().await.unwrap().remove(0)
}

/// Every entry, and the place from which the news of it begin.
pub(super) async fn loaded(log: &dyn RevocationLog, now: Micros) -> (BTreeMap<MarkId, Entry>, Place, u64) {
    let (mut entries, mut place, mut from, mut foreign) = (BTreeMap::new(), None, Some(Cursor::default()), 0);
    while let Some(cursor) = from {
        let Snapshot { place: here, entries: some, next, unreadable } =
            log.snapshot(cursor, at(now)).get().await.unwrap();
        entries.extend(some.into_iter().map(|entry| (entry.mark.id, entry)));
        place.get_or_insert(here);
        foreign += unreadable;
        from = next;
    }
    (entries, place.unwrap(), foreign)
}

pub(super) async fn listed(log: &dyn RevocationLog, now: Micros) -> BTreeMap<MarkId, ListedRevocation> {
    let (mut entries, mut from) = (BTreeMap::new(), Some(Cursor::default()));
    while let Some(cursor) = from {
        let Listed { entries: some, next } = log.list(cursor, at(now)).get().await.unwrap();
        entries.extend(some.into_iter().map(|listed| (listed.entry.mark.id, listed)));
        from = next;
    }
    entries
}

/// All changes after a place, and the place after them; nothing where they are gone.
pub(super) async fn news(
    log: &dyn RevocationLog,
    after: Place,
    now: Micros,
) -> Result<(Vec<Change>, Place, u64), Place> {
    let (mut all, mut from, mut foreign) = (Vec::new(), after, 0);
    for _ in 0..10_000 {
        match log.news(from, at(now)).get().await.unwrap() {
            News::Gone(place) => return Err(place),
            News::Changes { changes, place, more, unreadable } => {
                assert!(changes.len() <= 1_000 && place.log == after.log, "{place:?}");
                assert!(place.number > from.number || !more, "it goes on: {place:?}");
                all.extend(changes);
                foreign += unreadable;
                if !more {
                    return Ok((all, place, foreign));
                }
                from = place;
            }
        }
    }
    panic!("there is always more");
}

pub(super) fn applied(entries: &mut BTreeMap<MarkId, Entry>, changes: &[Change]) {
    for change in changes {
        match change {
            Change::Revoked(entry) => entries.insert(entry.mark.id, *entry),
            Change::Undone(mark) => entries.remove(&mark.id),
        };
    }
}

async fn what_is_written_is_answered_found_listed_and_told(log: &dyn RevocationLog, other: &dyn RevocationLog) {
    let (nothing, place, _) = loaded(other, START).await;
    assert!(nothing.is_empty());
    assert_eq!(news(other, place, START).await, Ok((Vec::new(), place, 0)));
    let until = START + HOUR;
    let wishes = vec![
        always(session("s")),
        wish(Target::subject("i", "ann"), Which::IssuedByNow, Keep::Until(until)),
        wish(Target::issuer("i"), Which::IssuedBy(START - HOUR), Keep::Until(until)),
    ];
    let written = add(log, wishes.clone(), START).await;
    let expected: Vec<Revocation> = wishes.into_iter().map(|wish| wish.written_at(START)).collect();
    assert_eq!(written, expected);
    for log in [log, other] {
        for Revocation { target, cutoff, .. } in &expected {
            assert_eq!(found(log, target, START).await, Some(*cutoff));
        }
        assert_eq!(found(log, &session("t"), START).await, None);
        let entries: BTreeMap<_, _> =
            expected.iter().map(|written| (written.entry().mark.id, written.entry())).collect();
        let (all, here, foreign) = loaded(log, START).await;
        assert_eq!((&all, foreign), (&entries, 0));
        let all = listed(log, START).await;
        assert_eq!(all.len(), 3);
        for written in &expected {
            let listed = ListedRevocation { entry: written.entry(), written: Some(written.clone()) };
            assert_eq!(all[&listed.entry.mark.id], listed);
        }
        let changes = expected.iter().map(|written| Change::Revoked(written.entry())).collect();
        assert_eq!(news(log, place, START).await, Ok((changes, here, 0)));
        assert!(here.log == place.log && here.number > place.number);
    }
    let several = log.find(expected.iter().map(|written| written.entry().mark).rev().collect(), at(START)).get().await;
    assert_eq!(several.unwrap(), expected.iter().rev().map(|written| Some(written.cutoff)).collect::<Vec<_>>());
}

async fn entries_of_one_target_are_joined_and_who_asked_last_is_kept(
    log: &dyn RevocationLog,
    other: &dyn RevocationLog,
) {
    let (target, secs) = (Target::client("i", "shop"), |secs| START + Micros::from_secs(secs));
    let first = wish(target.clone(), Which::IssuedBy(START), Keep::Until(secs(500)));
    add(log, vec![first], secs(10)).await;
    let second = Wish {
        reason: "again".into(),
        by: "bob".into(),
        ..wish(target.clone(), Which::IssuedBy(START - HOUR), Keep::Until(secs(900)))
    };
    let written = add(other, vec![second], secs(20)).await.remove(0);
    let joined = Cutoff { before: Some(START), until: Some(secs(900)) };
    assert_eq!((written.cutoff, written.at, &*written.by), (joined, secs(20), "bob"));
    assert_eq!(found(log, &target, secs(20)).await, Some(joined));
    let all = listed(log, secs(20)).await;
    assert_eq!(all[&mark(&target).id].written.as_ref(), Some(&written));
    // What is stronger than any moment stays. Twice in one call is as good as in two.
    let twice = vec![always(target.clone()), wish(target.clone(), Which::IssuedByNow, Keep::Until(secs(950)))];
    let written = add(log, twice, secs(30)).await;
    assert_eq!(written.iter().map(|written| written.cutoff).collect::<Vec<_>>(), [Cutoff::ALWAYS; 2]);
    assert_eq!(found(other, &target, secs(10_000)).await, Some(Cutoff::ALWAYS));
    // Of the two the first changes nothing.
    let target = session("twice");
    let until = |end| wish(target.clone(), Which::All, Keep::Until(secs(end)));
    add(log, vec![until(500)], secs(30)).await;
    add(log, vec![until(400), until(600)], secs(30)).await;
    assert_eq!(found(other, &target, secs(550)).await, Some(Cutoff { before: None, until: Some(secs(600)) }));
    assert_eq!(loaded(log, secs(30)).await.0.len(), 2);
    assert_eq!(listed(log, secs(30)).await.len(), 2);
}

async fn the_log_writes_by_its_own_clock(log: &dyn RevocationLog, _: &dyn RevocationLog) {
    let ahead = START + HOUR;
    for (number, (which, keep, before, until)) in [
        (Which::IssuedByNow, Keep::Always, Some(START), None),
        (Which::IssuedByNow, Keep::For(HOUR), Some(START), Some(ahead)),
        (Which::IssuedBy(ahead), Keep::For(HOUR), Some(START), Some(ahead)),
        (Which::IssuedBy(START - Micros(5)), Keep::For(HOUR), Some(START - Micros(5)), Some(ahead - Micros(5))),
        (Which::All, Keep::For(HOUR), None, Some(ahead)),
        (Which::All, Keep::Until(ahead + Micros(1)), None, Some(ahead + Micros(1))),
    ]
    .into_iter()
    .enumerate()
    {
        let target = Target::subject("i", &number.to_string());
        let written = add(log, vec![wish(target.clone(), which, keep)], START).await.remove(0);
        assert_eq!((written.cutoff, written.at), (Cutoff { before, until }, START), "{which:?} {keep:?}");
        assert_eq!(found(log, &target, START).await, Some(written.cutoff), "{which:?} {keep:?}");
    }
    // By how much the issuer's clock may be ahead is added to moments, and to nothing else.
    let second = Micros::from_secs(1);
    for (number, (which, before, until)) in [
        (Which::IssuedByNow, Some(START + second), ahead + second),
        (Which::IssuedBy(START - second), Some(START), ahead),
        (Which::All, None, ahead),
    ]
    .into_iter()
    .enumerate()
    {
        let target = Target::client("i", &number.to_string());
        let wish = Wish { ahead: second, ..wish(target, which, Keep::For(HOUR)) };
        let written = add(log, vec![wish], START).await.remove(0);
        assert_eq!(written.cutoff, Cutoff { before, until: Some(until) }, "{which:?}");
    }
}

async fn what_is_over_is_neither_written_nor_found(log: &dyn RevocationLog, other: &dyn RevocationLog) {
    let (_, place, _) = loaded(log, START).await;
    let until = |name: &str, until| wish(session(name), Which::All, Keep::Until(until));
    let written =
        add(log, vec![until("a", START), until("b", START + Micros(1)), until("c", START - HOUR)], START).await;
    assert_eq!(written.iter().map(|written| &written.target).collect::<Vec<_>>(), [&session("b")]);
    assert_eq!(news(log, place, START).await.unwrap().0, [Change::Revoked(written[0].entry())]);
    let over = START + Micros(1);
    assert!(found(other, &session("b"), START).await.is_some());
    assert_eq!(found(other, &session("b"), over).await, None);
    assert!(loaded(other, over).await.0.is_empty() && listed(other, over).await.is_empty());
    assert_eq!(log.undo(mark(&session("b")).id, at(over)).get().await, Ok(None));
    // It is not joined with what is over.
    let later = wish(session("b"), Which::IssuedBy(START), Keep::Until(over + HOUR));
    let written = add(log, vec![later], over).await.remove(0);
    assert_eq!(written.cutoff, Cutoff { before: Some(START), until: Some(over + HOUR) });
    // Nobody need be asked for what is over to be forgotten: what is written later does it.
    for round in 0..20 {
        let now = START + HOUR + HOUR + Micros::from_secs(round);
        let wishes = (0..50).map(|number| until(&format!("{round} {number}"), now + Micros(1)));
        assert_eq!(add(log, wishes.collect(), now).await.len(), 50);
    }
}

async fn what_is_undone_is_gone_and_told(log: &dyn RevocationLog, other: &dyn RevocationLog) {
    let (target, id) = (session("s"), mark(&session("s")).id);
    let written = add(log, vec![always(target.clone()), always(session("t"))], START).await;
    let (mut entries, place, _) = loaded(other, START).await;
    let was = ListedRevocation { entry: written[0].entry(), written: Some(written[0].clone()) };
    assert_eq!(other.undo(id, at(START)).get().await, Ok(Some(was)));
    for log in [log, other] {
        assert_eq!(log.undo(id, at(START)).get().await, Ok(None));
        assert_eq!(found(log, &target, START).await, None);
    }
    let (changes, here, _) = news(log, place, START).await.unwrap();
    assert_eq!(changes, [Change::Undone(mark(&target))]);
    applied(&mut entries, &changes);
    assert_eq!((entries, here), (loaded(log, START).await.0, loaded(log, START).await.1));
    // It is as if it had never been.
    let again = wish(target.clone(), Which::IssuedByNow, Keep::For(HOUR));
    let written = add(log, vec![again], START).await.remove(0);
    assert_eq!(written.cutoff, Cutoff { before: Some(START), until: Some(START + HOUR) });
    assert_eq!(news(other, here, START).await.unwrap().0, [Change::Revoked(written.entry())]);
}

async fn what_is_restored_is_joined_and_says_nothing_new_to_people(log: &dyn RevocationLog, other: &dyn RevocationLog) {
    let secs = |secs| Some(START + Micros::from_secs(secs));
    let entry = |name: &str, before, until| Entry { mark: mark(&session(name)), cutoff: Cutoff { before, until } };
    let known = wish(session("known"), Which::IssuedByNow, Keep::Until(START + HOUR));
    let written = add(log, vec![known], START).await.remove(0);
    let (_, place, _) = loaded(log, START).await;
    let entries = vec![
        entry("known", secs(5), secs(100)),
        entry("lost", None, None),
        // By the clock of another log: it was written there, so it counts here.
        entry("ahead", secs(50), secs(60)),
        entry("over", None, secs(0)),
    ];
    assert_eq!(log.restore(entries.clone(), at(START)).get().await, Ok(()));
    let joined = Cutoff { before: secs(5), until: Some(START + HOUR) };
    let expected = [("known", joined), ("lost", entries[1].cutoff), ("ahead", entries[2].cutoff)];
    let (all, here, _) = loaded(other, START).await;
    assert_eq!(all.len(), 3);
    for (name, cutoff) in expected {
        assert_eq!(all[&mark(&session(name)).id], Entry { mark: mark(&session(name)), cutoff });
    }
    let all = listed(other, START).await;
    assert_eq!(all[&mark(&session("known")).id].written, Some(Revocation { cutoff: joined, ..written }));
    assert_eq!(all[&mark(&session("lost")).id].written, None);
    assert_eq!(news(other, place, START).await.unwrap().0.len(), 3);
    for log in [log, other] {
        assert_eq!(log.restore(entries.clone(), at(START)).get().await, Ok(()));
        assert_eq!(news(log, here, START).await, Ok((Vec::new(), here, 0)), "it was there already");
    }
    let was = log.undo(mark(&session("lost")).id, at(START)).get().await.unwrap().unwrap();
    assert_eq!(was, ListedRevocation { entry: entries[1], written: None });
}

async fn a_full_load_of_wishes_is_written_and_told_in_order(log: &dyn RevocationLog, other: &dyn RevocationLog) {
    let (_, place, _) = loaded(log, START).await;
    let wishes: Vec<Wish> = (0..REVOCATIONS_MAX).map(|number| always(session(&format!("{number}")))).collect();
    let written = add(log, wishes.clone(), START).await;
    let targets = wishes.iter().map(|wish| &wish.target);
    assert!(written.iter().map(|written| &written.target).eq(targets));
    let changes = written.iter().map(|written| Change::Revoked(written.entry())).collect::<Vec<_>>();
    assert_eq!(news(other, place, START).await.unwrap().0, changes);
    assert_eq!(loaded(other, START).await.0.len(), REVOCATIONS_MAX);
    let all = listed(other, START).await;
    assert!(all.len() == REVOCATIONS_MAX && all.values().all(|listed| listed.written.is_some()));
}

async fn names_and_reasons_are_any_text_or_bytes(log: &dyn RevocationLog, _: &dyn RevocationLog) {
    let hash: Vec<u8> = (0..=255).collect();
    let huge = "x".repeat(20_000);
    let targets = [
        Target::token("", ""),
        Target::token("i\0ssuer}{", "\r\n\"\\}"),
        Target::unnamed_token("i", &[0xff; 32]),
        Target::new(TargetKind::Session, "ü", &hash),
        Target::token("i", &huge),
    ];
    let reason = "“why” \u{0}\n\\\"{}";
    let wishes = targets.iter().map(|target| Wish { reason: reason.into(), ..always(target.clone()) });
    let written = add(log, wishes.collect(), START).await;
    assert!(written.iter().all(|written| &*written.reason == reason));
    let all = listed(log, START).await;
    for (number, target) in targets.iter().enumerate() {
        let listed = all[&mark(target).id].written.as_ref();
        // Of what is very long only the mark is kept.
        assert_eq!(listed, Some(&written[number]).filter(|_| number < 4));
        assert!(found(log, target, START).await.is_some());
    }
}

async fn the_largest_moments_stay_what_they_are(log: &dyn RevocationLog, other: &dyn RevocationLog) {
    let huge = Micros(u64::MAX);
    let wishes = vec![
        wish(session("until"), Which::IssuedBy(huge), Keep::Until(huge)),
        wish(session("for"), Which::IssuedBy(Micros::ZERO), Keep::For(huge)),
        wish(session("odd"), Which::IssuedBy(Micros(1)), Keep::Until(LAST_MOMENT - Micros(2))),
    ];
    let written = add(log, wishes, START).await;
    let cutoffs = [(START, LAST_MOMENT), (Micros::ZERO, LAST_MOMENT), (Micros(1), LAST_MOMENT - Micros(2))]
        .map(|(before, until)| Cutoff { before: Some(before), until: Some(until) });
    assert_eq!(written.iter().map(|written| written.cutoff).collect::<Vec<_>>(), cutoffs);
    let entry = Entry { mark: mark(&session("r")), cutoff: Cutoff { before: Some(huge), until: Some(huge) } };
    assert_eq!(log.restore(vec![entry], at(START)).get().await, Ok(()));
    let clamped = Cutoff { before: Some(LAST_MOMENT), until: Some(LAST_MOMENT) };
    assert_eq!(found(other, &session("r"), START).await, Some(clamped));
}

/// Entries come and go between the pages, and while the news are read.
async fn nothing_is_missed_between_a_snapshot_and_its_news(log: &dyn RevocationLog, other: &dyn RevocationLog) {
    let names = |from: usize, to: usize| (from..to).map(|number| always(session(&number.to_string()))).collect();
    for round in 0..4 {
        add(log, names(900 * round, 900 * (round + 1)), START).await;
    }
    let (mut entries, mut from, mut place, mut pages) = (BTreeMap::new(), Some(Cursor::default()), None, 0);
    while let Some(cursor) = from {
        let snapshot = other.snapshot(cursor, at(START)).get().await.unwrap();
        entries.extend(snapshot.entries.iter().map(|entry| (entry.mark.id, *entry)));
        place.get_or_insert(snapshot.place);
        from = snapshot.next;
        let begin = 10_000 + 100 * pages;
        add(log, names(begin, begin + 100), START).await;
        for number in (0..50).map(|number| 700 * pages + number) {
            let was = log.undo(mark(&session(&number.to_string())).id, at(START)).get().await.unwrap();
            assert!(was.is_some(), "{number}");
        }
        // Some come back with another cutoff.
        let back = (0..25).map(|number| 700 * pages + number);
        let back = back.map(|number| wish(session(&number.to_string()), Which::IssuedByNow, Keep::For(HOUR)));
        add(log, back.collect(), START).await;
        pages += 1;
    }
    assert!(pages >= 4, "{pages}");
    let (changes, here, _) = news(other, place.unwrap(), START).await.unwrap();
    applied(&mut entries, &changes);
    let (all, end, _) = loaded(log, START).await;
    assert!(entries == all, "{} and {}", entries.len(), all.len());
    assert_eq!(here, end);
}

async fn a_place_of_another_log_is_gone(log: &dyn RevocationLog, other: &dyn RevocationLog) {
    add(log, vec![always(session("s"))], START).await;
    let (_, place, _) = loaded(log, START).await;
    for elsewhere in [
        Place::default(),
        Place { log: place.log ^ 1, ..place },
        Place { log: place.log ^ 1, number: 0 },
        Place { log: place.log ^ 1, number: u64::MAX },
    ] {
        assert_eq!(news(other, elsewhere, START).await, Err(place), "{elsewhere:?}");
    }
}

/// As a replica has it that was told of changes which a failover lost.
async fn a_place_beyond_the_last_change_is_gone(log: &dyn RevocationLog, other: &dyn RevocationLog) {
    add(log, vec![always(session("s"))], START).await;
    for beyond in [1, 2, 1 << 20, 1 << 40] {
        let (_, place, _) = loaded(log, START).await;
        let told = Place { number: place.number + beyond, ..place };
        assert!(news(other, told, START).await.is_err(), "{told:?} of {place:?}");
        // Another name of the log, if there is one now, is the same for all.
        let (entries, here, _) = loaded(other, START).await;
        assert_eq!((entries.len(), news(log, here, START).await), (1, Ok((Vec::new(), here, 0))));
    }
}

async fn what_changes_nothing_is_no_news(log: &dyn RevocationLog, other: &dyn RevocationLog) {
    let until = |until| wish(session("s"), Which::All, Keep::Until(until));
    add(log, vec![until(START + HOUR)], START).await;
    let (_, place, _) = loaded(log, START).await;
    let again = Wish { by: "bob".into(), ..until(START + HOUR) };
    for wish in [again.clone(), until(START + Micros(1)), again] {
        let written = add(other, vec![wish], START).await.remove(0);
        assert_eq!(written.cutoff.until, Some(START + HOUR));
    }
    assert_eq!(news(other, place, START).await, Ok((Vec::new(), place, 0)));
    let written = listed(log, START).await.remove(&mark(&session("s")).id).unwrap().written.unwrap();
    assert_eq!(&*written.by, "bob", "people are told all the same");
}

async fn nothing_at_all_is_written_at_once(log: &dyn RevocationLog, _: &dyn RevocationLog) {
    assert_eq!(add(log, Vec::new(), START).await, []);
    assert_eq!(log.find(Vec::new(), at(START)).get().await, Ok(Vec::new()));
    assert_eq!(log.restore(Vec::new(), at(START)).get().await, Ok(()));
    assert_eq!(log.undo(MarkId([0; 16]), at(START)).get().await, Ok(None));
    assert_eq!(log.undo(MarkId([255; 16]), at(START)).get().await, Ok(None));
}

/// A log with few places, and the same as another replica sees it.
async fn a_full_log_says_so_and_changes_nothing(log: &dyn RevocationLog) {
    let many = |from: usize, to: usize, keep| {
        (from..to).map(|number| wish(session(&number.to_string()), Which::All, keep)).collect::<Vec<_>>()
    };
    let until = Keep::Until(START + HOUR);
    add(log, many(0, 48, until), START).await;
    let (entries, place, _) = loaded(log, START).await;
    for _ in 0..2 {
        assert_eq!(log.add(many(48, 51, until), at(START)).get().await, Err(FULL), "two would fit");
        let restored = Entry { mark: mark(&session("x")), cutoff: Cutoff::ALWAYS };
        let others = ["y", "z"].map(|name| Entry { mark: mark(&session(name)), ..restored });
        assert_eq!(log.restore([&[restored][..], &others].concat(), at(START)).get().await, Err(FULL));
    }
    assert_eq!(loaded(log, START).await, (entries, place, 0));
    add(log, many(48, 50, until), START).await;
    // What is there already has a place, and so has what comes after something was undone or is over.
    add(log, many(0, 50, Keep::Until(START + HOUR + HOUR)), START).await;
    assert_eq!(log.add(many(50, 51, until), at(START)).get().await, Err(FULL));
    log.undo(mark(&session("7")).id, at(START)).get().await.unwrap();
    add(log, many(50, 51, until), START).await;
    assert_eq!(log.add(many(51, 52, until), at(START)).get().await, Err(FULL));
    add(log, many(100, 140, Keep::Always), START + HOUR + HOUR).await;
    assert_eq!(loaded(log, START + HOUR + HOUR).await.0.len(), 40);
}

async fn whoever_is_too_far_behind_is_told(log: &dyn RevocationLog) {
    add(log, vec![always(session("first"))], START).await;
    let (_, place, _) = loaded(log, START).await;
    let (mut recent, mut number) = (place, 0);
    for _ in 0..600 {
        number += 1;
        let until = Keep::Until(START + Micros(number));
        add(log, vec![wish(session("again"), Which::All, until)], START).await;
        if number == 550 {
            recent = loaded(log, START).await.1;
        }
    }
    let (_, here, _) = loaded(log, START).await;
    assert_eq!(news(log, place, START).await, Err(here), "the same log: nothing was lost");
    let (changes, end, _) = news(log, recent, START).await.unwrap();
    assert_eq!((changes.len(), end), (50, here));
}

#[tokio::test]
async fn a_log_in_memory_is_bounded() {
    a_full_log_says_so_and_changes_nothing(&MemoryRevocations::bounded(FEW)).await;
    whoever_is_too_far_behind_is_told(&MemoryRevocations::bounded(FEW)).await;
}

#[tokio::test]
async fn a_log_in_redis_is_bounded() {
    let Some(server) = RedisServer::start() else { return };
    let log = redis(&server).with_revocation_bounds(FEW);
    a_full_log_says_so_and_changes_nothing(&log).await;
    assert_eq!(server.command(&["FLUSHALL"]), "OK");
    whoever_is_too_far_behind_is_told(&log).await;
    let changes: usize = server.command(&["XLEN", "tollgate:{revocations}:changes"]).parse().unwrap();
    assert!((200..400).contains(&changes), "{changes}");
}

/// What is over leaves nothing behind.
#[tokio::test]
async fn what_is_over_is_forgotten_in_redis() {
    let Some(server) = RedisServer::start() else { return };
    let log = redis(&server);
    for round in 0..40 {
        let now = START + Micros(100 * round);
        let wishes = (0..50)
            .map(|number| wish(session(&format!("{round} {number}")), Which::All, Keep::Until(now + Micros(50))));
        add(&log, wishes.collect(), now).await;
    }
    let count = |words: &[&str]| server.command(words).parse::<usize>().unwrap();
    for words in [
        ["ZCARD", "tollgate:{revocations}"],
        ["ZCARD", "tollgate:{revocations}:ends"],
        ["HLEN", "tollgate:{revocations}:details"],
    ] {
        assert_eq!(count(&words), 51, "{words:?}");
    }
}

/// Two replicas write at the same time, and a third follows throughout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_write_at_once_are_followed_without_a_gap() {
    let Some(server) = RedisServer::start() else { return };
    let (one, two, follower) = (redis(&server), redis(&server), redis(&server));
    let (mut entries, mut place, _) = loaded(&follower, START).await;
    let writer = |log: RedisStore, who: &'static str| {
        tokio::spawn(async move {
            for number in 0..200 {
                let name = |number: u32| session(&format!("{who} {number}"));
                let several = (0..3).map(|part| always(name(3 * number + part)));
                add(&log, several.chain([always(session("both"))]).collect(), START).await;
                if number % 3 == 0 {
                    log.undo(mark(&name(number)).id, at(START)).get().await.unwrap();
                }
            }
        })
    };
    let writers = [writer(one, "one"), writer(two, "two")];
    let mut last = false;
    loop {
        let (changes, here, _) = news(&follower, place, START).await.unwrap();
        applied(&mut entries, &changes);
        place = here;
        if last {
            break;
        }
        last = writers.iter().all(tokio::task::JoinHandle::is_finished);
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(loaded(&follower, START).await.0, entries);
    assert!(entries.len() > 1_000 && entries.contains_key(&mark(&session("both")).id));
}
