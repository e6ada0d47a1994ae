//! Revocations in a real Redis that loses data, fails over, moves slots or holds what is not ours.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::redis::{Reach, RedisStore, Settings};
use super::redis_faults::{Guarded, clock, connect, cpu_micros, gates, rights, rights_of_revocations, settings};
use super::redis_server::{RedisCluster, RedisServer, Sentinels};
use super::revocation_suite::{FEW, listed, loaded, news};
use super::suite::{START, at, reached, redis};
use crate::decide::ports::{Away, AwayCause, Change, Clock as _, Cursor, News, Place, RevocationLog};
use crate::domain::revocation::{Cutoff, Entry, Keep, Mark, MarkId, REVOCATIONS_MAX, Revocation, Target, Which, Wish};
use crate::domain::time::Micros;

const ENTRIES: &str = "tollgate:{revocations}";
const CHANGES: &str = "tollgate:{revocations}:changes";

fn session(name: &str) -> Target {
    Target::session("https://auth.example", name)
}

fn wishes(names: impl IntoIterator<Item = String>) -> Vec<Wish> {
    let wish = |name: String| Wish {
        target: session(&name),
        which: Which::All,
        ahead: Micros::ZERO,
        keep: Keep::Always,
        reason: "stolen".into(),
        by: "ann".into(),
    };
    names.into_iter().map(wish).collect()
}

async fn add(log: &RedisStore, name: &str) -> Revocation {
    log.add(wishes([name.to_owned()]), at(START)).get().await.unwrap().remove(0)
}

/// As many as it takes calls.
async fn add_all(log: &RedisStore, numbers: Range<usize>) {
    let wishes = wishes(numbers.map(|number| number.to_string()));
    for wishes in wishes.chunks(REVOCATIONS_MAX) {
        log.add(wishes.to_vec(), at(START)).get().await.unwrap();
    }
}

fn names(entries: &BTreeMap<MarkId, Entry>, of: &[&str]) -> Vec<bool> {
    of.iter().map(|name| entries.contains_key(&Mark::of(session(name).borrowed()).id)).collect()
}

#[tokio::test]
async fn data_that_is_lost_makes_another_log_which_is_told_what_there_was() {
    let Some(mut server) = RedisServer::start() else { return };
    // A server that was away for a moment is left alone for a while.
    let log = Guarded::new(&settings(&server));
    log.serves().await;
    let log = &log.store;
    for name in ["a", "b"] {
        add(log, name).await;
    }
    let entries = loaded(log, START).await.0;
    for lost in ["flushed", "restarted", "the entries deleted", "the changes deleted"] {
        let place = loaded(log, START).await.1;
        match lost {
            "flushed" => drop(server.command(&["FLUSHALL"])),
            "restarted" => server.restart(),
            "the entries deleted" => drop(server.command(&["DEL", ENTRIES])),
            _ => drop(server.command(&["DEL", CHANGES])),
        }
        let end = clock();
        let here = loop {
            match log.news(place, at(START)).get().await {
                Ok(News::Gone(here)) => break here,
                Ok(other) => unreachable!("{lost}: {other:?}"),
                Err(away) => assert!(end.now().steady < Micros::from_secs(15), "{lost}: {away}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        assert_ne!(here.log, place.log, "{lost}");
        let (left, again, _) = loaded(log, START).await;
        assert_eq!(again, here, "{lost}: it has one name");
        assert_eq!(left.is_empty(), lost != "the changes deleted", "{lost}");
        let restored: Vec<Entry> = entries.values().copied().collect();
        assert_eq!(log.restore(restored, at(START)).get().await, Ok(()));
        assert_eq!(loaded(log, START).await.0, entries, "{lost}");
        // As the others do who were at another place.
        assert_eq!(news(log, place, START).await.unwrap_err().log, here.log, "{lost}");
    }
}

/// As when a master dies before its replica has heard of the last change, and others write at once.
#[tokio::test]
async fn a_change_that_a_failover_lost_is_noticed_whatever_came_in_its_place() {
    let (Some(old), Some(new)) = (RedisServer::start(), RedisServer::start()) else { return };
    let (before, after) = (redis(&old), redis(&new));
    add(&before, "first").await;
    let end = clock();
    assert_eq!(new.command(&["REPLICAOF", "127.0.0.1", &old.port().to_string()]), "OK");
    while new.command(&["EXISTS", ENTRIES]) == "0" {
        assert!(end.now().steady < Micros::from_secs(15));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(new.command(&["REPLICAOF", "NO", "ONE"]), "OK");
    let (_, at_first, _) = loaded(&before, START).await;
    add(&before, "lost").await;
    let (_, place, _) = loaded(&before, START).await;
    add(&after, "in its place").await;
    add(&after, "and another").await;
    // Whoever had not heard of it has missed nothing.
    assert_eq!(news(&after, at_first, START).await.unwrap().0.len(), 2);
    let here = news(&after, place, START).await.unwrap_err();
    assert_ne!(here.log, place.log);
    let (entries, again, _) = loaded(&after, START).await;
    assert_eq!(again, here);
    assert_eq!(names(&entries, &["first", "lost", "in its place"]), [true, false, true]);
    // The others are told to look what they have that it lacks, too.
    assert_eq!(news(&after, at_first, START).await, Err(here));
    // And one that is ahead of all that there is.
    let ahead = Place { number: here.number + (7 << 20), ..here };
    assert_ne!(news(&after, ahead, START).await.unwrap_err().log, here.log);
}

#[tokio::test]
async fn what_is_not_ours_is_passed_over_and_counted() {
    let Some(server) = RedisServer::start() else { return };
    let log = redis(&server);
    let entry = add(&log, "ours").await.entry();
    // By hand: text, one that is too short, and ours of another version, kind and moment.
    let zeros = "0".repeat(24);
    let of = |version: &str, kind: &str, rest: &str| format!("{}{version}{kind}{rest}", "i".repeat(16));
    let planted =
        ["hunter2", "x", &of("\u{2}", "s", &zeros), &of("\u{1}", "?", &zeros), &of("\u{1}", "s", &"\u{7f}".repeat(24))];
    for member in planted {
        assert_eq!(server.command(&["ZADD", ENTRIES, "0", member]), "1");
    }
    let (entries, _, foreign) = loaded(&log, START).await;
    assert_eq!((entries, foreign), ([(entry.mark.id, entry)].into(), 5));
    assert_eq!(listed(&log, START).await.len(), 1);
    for (fields, foreign) in [
        (["x", "y"], 1),
        (["+", "short"], 1),
        (["-", ""], 1),
        (["+", planted[2]], 1),
        (["+", &format!("{}{}", planted[2], planted[3])], 2),
    ] {
        let (_, place, _) = loaded(&log, START).await;
        server.command(&[&["XADD", CHANGES, "*"][..], &fields].concat());
        let (changes, here, unreadable) = news(&log, place, START).await.unwrap();
        assert_eq!((changes, unreadable), (Vec::new(), foreign), "{fields:?}");
        // What is written then comes behind it, and is told.
        let written = add(&log, &format!("after {here:?}")).await.entry();
        assert_eq!(news(&log, here, START).await.unwrap().0, [Change::Revoked(written)]);
        server.command(&["XTRIM", CHANGES, "MAXLEN", "0"]);
        assert_ne!(news(&log, here, START).await.unwrap_err().log, place.log, "nobody knows what was there");
        server.command(&["FLUSHALL"]);
        add(&log, "ours").await;
        let place = loaded(&log, START).await.1;
        assert_eq!(news(&log, place, START).await, Ok((Vec::new(), place, 0)));
        break_off(&server, &log, place).await;
    }
    for key in [ENTRIES, CHANGES, "tollgate:{revocations}:ends", "tollgate:{revocations}:details"] {
        server.command(&["FLUSHALL"]);
        server.command(&["SET", key, "x"]);
        // After some failures it would be left alone.
        let log = redis(&server);
        let answer = log.add(wishes(["a".to_owned()]), at(START)).get().await;
        assert_eq!(answer, Err(Away { because: AwayCause::Garbled }), "{key}");
    }
}

/// Changes of someone else with numbers beyond ours, or taken out by hand: the log is begun anew, and goes on.
async fn break_off(server: &RedisServer, log: &RedisStore, place: Place) {
    for id in ["9000000000000000-1", "18446744073709551614-7", "5000-18446744073709551615"] {
        server.command(&["XADD", CHANGES, id, "x", "y"]);
        let here = news(log, place, START).await.unwrap_err();
        assert_ne!(here.log, place.log, "{id}");
        let written = add(log, id).await.entry();
        assert_eq!(news(log, here, START).await.unwrap().0, [Change::Revoked(written)], "{id}");
    }
    for name in ["a", "b"] {
        add(log, name).await;
    }
    // One whose second half is too large, with one of ours behind it.
    let (_, here, _) = loaded(log, START).await;
    server.command(&["XADD", CHANGES, &format!("{}-9999999", (here.number >> 20) + 1), "x", "y"]);
    server.command(&["XADD", CHANGES, &format!("{}-1", (here.number >> 20) + 2), "x", "y"]);
    assert_ne!(news(log, here, START).await.unwrap_err().log, here.log);
    for name in ["a", "b"] {
        log.undo(Mark::of(session(name).borrowed()).id, at(START)).get().await.unwrap();
    }
    let last = server.command(&["XREVRANGE", CHANGES, "+", "-", "COUNT", "2"]);
    let ids: Vec<&str> = last.lines().filter(|line| line.contains('-') && line.len() > 2).collect();
    server.command(&[&["XDEL", CHANGES][..], &ids].concat());
    let (_, here, _) = loaded(log, START).await;
    let written = log.add(wishes(["x".to_owned(), "y".to_owned()]), at(START)).get().await.unwrap();
    assert_eq!(written.len(), 2);
    assert_ne!(news(log, here, START).await.unwrap_err().log, here.log);
    let entries = loaded(log, START).await.0;
    assert_eq!(names(&entries, &["x", "y", "ours"]), [true; 3]);
}

/// A page that is full of ids that begin alike does not hold up what comes behind.
#[tokio::test]
async fn a_listing_goes_on_behind_many_that_begin_alike() {
    let Some(server) = RedisServer::start() else { return };
    let log = redis(&server);
    log.add(wishes((0..300).map(|number| number.to_string())), at(START)).get().await.unwrap();
    for begin in ["", "mmmmmmmm", "zzzzzzzz"] {
        for some in (0..1_100).collect::<Vec<_>>().chunks(100) {
            let members: Vec<String> = some.iter().map(|number| format!("{begin}{number:04}")).collect();
            let command = members.iter().flat_map(|member| ["0", member]);
            server.command(&["ZADD", ENTRIES].into_iter().chain(command).collect::<Vec<_>>());
        }
    }
    let (entries, _, foreign) = loaded(&log, START).await;
    assert_eq!(entries.len(), 300);
    assert!(foreign > 1_100, "{foreign}");
    assert_eq!(listed(&log, START).await.len(), 300);
}

#[tokio::test]
async fn by_itself_the_log_goes_by_the_servers_time() {
    let Some(server) = RedisServer::start() else { return };
    let log = connect(&settings(&server));
    let second = Micros::from_secs(1);
    let wish = Wish { which: Which::IssuedByNow, keep: Keep::For(second), ..wishes(["s".to_owned()]).remove(0) };
    let now = Micros::from_secs(server.command(&["TIME"]).lines().next().unwrap().parse().unwrap());
    // The asker's time stands still elsewhere.
    let written = log.add(vec![wish], at(START)).get().await.unwrap().remove(0);
    assert!((now..now + Micros::from_secs(60)).contains(&written.at), "{written:?}");
    let expected = Cutoff { before: Some(written.at), until: Some(written.at + second) };
    assert_eq!(written.cutoff, expected);
    let end = clock();
    while log.find(vec![written.entry().mark], at(START)).get().await.unwrap() != [None] {
        assert!(end.now().steady < Micros::from_secs(15), "it never ends");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn the_rights_that_are_documented_suffice() {
    let Some(server) = RedisServer::start() else { return };
    let command =
        [vec!["ACL", "SETUSER", "tollgate", "reset", "on", ">pw"], rights("each server"), rights_of_revocations()];
    assert_eq!(server.command(&command.concat()), "OK");
    let log =
        connect(&Settings { username: Some("tollgate".into()), password: Some("pw".into()), ..settings(&server) });
    // So little is kept that changes are trimmed, and what is over is forgotten.
    let log = log.with_revocation_bounds(FEW);
    let short = Wish { keep: Keep::For(Micros(1)), ..wishes(["short".to_owned()]).remove(0) };
    for _ in 0..3 {
        log.add(vec![short.clone()], at(START)).get().await.unwrap();
    }
    let entry = add(&log, "s").await.entry();
    assert_eq!(log.find(vec![entry.mark], at(START)).get().await, Ok(vec![Some(entry.cutoff)]));
    let (entries, place, _) = loaded(&log, START).await;
    assert_eq!(log.restore(entries.into_values().collect(), at(START)).get().await, Ok(()));
    assert_eq!(listed(&log, START).await.len(), 1);
    assert!(log.undo(entry.mark.id, at(START)).get().await.unwrap().is_some());
    assert_eq!(news(&log, place, START).await.unwrap().0, [Change::Undone(entry.mark)]);
    let none = wishes(["none".to_owned()]).remove(0);
    let wordy = Wish { reason: "x".repeat(20_000).into(), ..none };
    assert_eq!(log.add(vec![wordy], at(START)).get().await.unwrap().len(), 1);
    assert_ne!(
        news(&log, Place { number: place.number + (9 << 20), ..place }, START).await.unwrap_err().log,
        place.log
    );
}

#[tokio::test]
async fn a_server_that_hangs_or_is_gone_costs_no_more_than_the_deadline() {
    let Some(mut server) = RedisServer::start() else { return };
    let guarded = Guarded::new(&settings(&server));
    guarded.serves().await;
    let log = &guarded.store;
    let place = loaded(log, START).await.1;
    let all_away = async |cause: AwayCause| {
        let away = Away { because: cause };
        let before = guarded.clock.now().steady;
        // Three failures in a row, and it is left alone.
        assert_eq!(log.news(place, at(START)).get().await, Err(away));
        assert_eq!(log.add(wishes(["a".to_owned()]), at(START)).get().await, Err(away));
        assert_eq!(log.snapshot(Cursor::default(), at(START)).get().await, Err(away));
        let resting = Away { because: AwayCause::Resting };
        assert_eq!(log.undo(MarkId([0; 16]), at(START)).get().await, Err(resting));
        assert_eq!(log.list(Cursor::default(), at(START)).get().await, Err(resting));
        assert!(guarded.clock.now().steady - before < Micros::from_secs(2));
    };
    server.pause();
    all_away(AwayCause::Deadline).await;
    server.resume();
    guarded.serves().await;
    assert!(log.news(place, at(START)).get().await.is_ok());
    server.kill();
    guarded.is_away(AwayCause::Unreachable).await;
    server.restart();
    guarded.serves().await;
    assert_ne!(news(log, place, START).await.unwrap_err().log, place.log);
}

#[tokio::test]
async fn a_server_without_memory_or_that_takes_no_writes_writes_nothing() {
    let Some(server) = RedisServer::start_with(&["--maxmemory-policy", "noeviction"]) else { return };
    let log = redis(&server);
    add(&log, "a").await;
    let (entries, place, _) = loaded(&log, START).await;
    let refused = async |because| {
        let wishes = wishes(["b".to_owned(), "c".to_owned()]);
        assert_eq!(log.add(wishes, at(START)).get().await, Err(Away { because }));
    };
    assert_eq!(server.command(&["CONFIG", "SET", "maxmemory", "1"]), "OK");
    refused(AwayCause::Full).await;
    assert_eq!(loaded(&log, START).await, (entries.clone(), place, 0), "it is still read");
    assert_eq!(server.command(&["CONFIG", "SET", "maxmemory", "0"]), "OK");
    assert_eq!(server.command(&["REPLICAOF", "127.0.0.1", "1"]), "OK");
    refused(AwayCause::ReadOnly).await;
    // The connection is made anew then, since its name may have led to another server: another one looks.
    let log = redis(&server);
    assert_eq!(server.command(&["REPLICAOF", "NO", "ONE"]), "OK");
    assert_eq!(loaded(&log, START).await, (entries, place, 0));
    assert_eq!(news(&log, place, START).await, Ok((Vec::new(), place, 0)));
}

/// Entries come while their slot goes to and fro. A listing that is under way goes on elsewhere, and nothing is missed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_moves_loses_nothing() {
    let Some(cluster) = RedisCluster::masters_with(&[]) else { return };
    let (log, follower) = (reached(cluster.urls()), reached(cluster.urls()));
    add_all(&log, 0..2_000).await;
    let moving = Arc::new(AtomicBool::new(true));
    let until = Arc::clone(&moving);
    let writer = tokio::spawn(async move {
        let mut number = 2_000;
        while until.load(Ordering::Relaxed) {
            add(&log, &number.to_string()).await;
            number += 1;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        (log, number)
    });
    let first = follower.snapshot(Cursor::default(), at(START)).get().await.unwrap();
    let mut entries: BTreeMap<_, _> = first.entries.into_iter().map(|entry| (entry.mark.id, entry)).collect();
    let mover = tokio::task::spawn_blocking(move || {
        let (slot, home) = (cluster.slot(ENTRIES), cluster.place_at_first(ENTRIES));
        for round in 0..4 {
            let (from, to) = ((home + round) % 3, (home + round + 1) % 3);
            cluster.begin_move(&slot, from, to);
            std::thread::sleep(Duration::from_millis(50));
            cluster.end_move(&slot, from, to);
        }
        cluster
    });
    let cluster = mover.await.unwrap();
    let mut from = first.next;
    while let Some(cursor) = from {
        let page = follower.snapshot(cursor, at(START)).get().await.unwrap();
        assert_eq!(page.place.log, first.place.log);
        entries.extend(page.entries.into_iter().map(|entry| (entry.mark.id, entry)));
        from = page.next;
    }
    moving.store(false, Ordering::Relaxed);
    let (log, number) = writer.await.unwrap();
    assert!(number > 2_010, "{number}");
    for change in news(&follower, first.place, START).await.unwrap().0 {
        let Change::Revoked(entry) = change else { unreachable!("nothing was undone") };
        entries.insert(entry.mark.id, entry);
    }
    assert_eq!((entries.len(), &entries), (number, &loaded(&log, START).await.0));
    drop(cluster);
}

/// A listing that began at the master goes on at its successor.
#[tokio::test]
async fn a_master_that_dies_is_replaced_and_what_its_replica_had_is_there() {
    let Some(mut all) = Sentinels::start() else { return };
    let reach =
        Reach::Sentinels { urls: all.urls(), service: Sentinels::service().to_owned(), username: None, password: None };
    let log = RedisStore::connect(&Settings { reach, ..Settings::default() }, gates(&clock(), Micros::from_secs(10)));
    let log = log.unwrap();
    add_all(&log, 0..1_500).await;
    let first = log.snapshot(Cursor::default(), at(START)).get().await.unwrap();
    let end = clock();
    let all_there = || {
        assert!(end.now().steady < Micros::from_secs(30), "not in time");
        std::thread::sleep(Duration::from_millis(20));
    };
    while all.servers[1].command(&["ZCARD", ENTRIES]) != "1501" {
        all_there();
    }
    all.servers[0].kill();
    let mut entries: BTreeMap<_, _> = first.entries.into_iter().map(|entry| (entry.mark.id, entry)).collect();
    let mut from = first.next;
    assert!(from.is_some());
    while let Some(cursor) = from {
        match log.snapshot(cursor, at(START)).get().await {
            Ok(page) => {
                assert_eq!(page.place, first.place, "it is the same data");
                entries.extend(page.entries.into_iter().map(|entry| (entry.mark.id, entry)));
                from = page.next;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
        assert!(end.now().steady < Micros::from_secs(60), "nobody took over");
    }
    assert_eq!(entries.len(), 1_500);
    assert_eq!(news(&log, first.place, START).await, Ok((Vec::new(), first.place, 0)));
    assert_eq!(add(&log, "0").await.target, session("0"));
}

/// What it costs Redis, for docs/revocation.md. It is a measurement, so it is run by hand on a quiet machine:
/// `cargo test --lib cost_of_revocations -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "a measurement"]
#[expect(clippy::print_stdout, clippy::cast_precision_loss, reason = "the measurement's result")]
async fn cost_of_revocations() {
    const CALLS: usize = 1_000_000 / REVOCATIONS_MAX;
    let Some(server) = RedisServer::start() else { return };
    let log = redis(&server);
    let far = Micros::from_secs(86_400);
    let wish = |name: String| Wish { keep: Keep::For(far), ..wishes([name]).remove(0) };
    let place = loaded(&log, START).await.1;
    let memory = || {
        let info = server.command(&["INFO", "memory"]);
        let bytes = info.split("used_memory:").nth(1).unwrap().lines().next().unwrap().trim().parse::<f64>();
        bytes.unwrap()
    };
    let empty = memory();
    let (mut least, mut most) = (f64::MAX, 0.0_f64);
    let before = cpu_micros(&server);
    for call in 0..CALLS {
        let name = |number| format!("0123456789abcdef {call} {number}");
        let wishes: Vec<Wish> = (0..REVOCATIONS_MAX).map(|number| wish(name(number))).collect();
        let before = cpu_micros(&server).1;
        log.add(wishes, at(START)).get().await.unwrap();
        let took = cpu_micros(&server).1 - before;
        (least, most) = (least.min(took), most.max(took));
    }
    let per_call = (cpu_micros(&server).1 - before.1) / CALLS as f64;
    println!("add {REVOCATIONS_MAX}: {per_call:.0} µs of the server, between {least:.0} and {most:.0}");
    println!("an entry: {:.0} bytes", (memory() - empty) / (REVOCATIONS_MAX * CALLS) as f64);
    for (what, calls) in [("idle news", 10_000), ("add 1", 10_000), ("find 5", 10_000)] {
        let place = log.snapshot(Cursor::default(), at(START)).get().await.unwrap().place;
        let marks: Vec<Mark> = (0..5).map(|name| Mark::of(session(&name.to_string()).borrowed())).collect();
        let (mut script, mut cpu) = (f64::MAX, f64::MAX);
        for round in 0..3 {
            let before = cpu_micros(&server);
            for call in 0..calls {
                match what {
                    "idle news" => drop(log.news(place, at(START)).get().await.unwrap()),
                    "find 5" => drop(log.find(marks.clone(), at(START)).get().await.unwrap()),
                    _ => drop(log.add(vec![wish(format!("one {round} {call}"))], at(START)).get().await.unwrap()),
                }
            }
            let now = cpu_micros(&server);
            script = script.min((now.0 - before.0) / f64::from(calls));
            cpu = cpu.min((now.1 - before.1) / f64::from(calls));
        }
        println!("{what}: {script:.1} µs in the script, {cpu:.1} µs of the server");
    }
    assert!(news(&log, place, START).await.is_err(), "it was trimmed");
    let (before, begin) = (cpu_micros(&server), clock());
    let (entries, _, _) = loaded(&log, START).await;
    let now = cpu_micros(&server);
    println!(
        "snapshot of {}: {:.0} ms in the script, {:.0} ms of the server, {} in all",
        entries.len(),
        (now.0 - before.0) / 1_000.0,
        (now.1 - before.1) / 1_000.0,
        begin.now().steady
    );
}
