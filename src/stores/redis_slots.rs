//! Slots as Redis keeps them, one string for a counter: many holders, and what each change costs. A real server; time is
//! passed in.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use super::algorithms::slots;
use super::comparison::Core;
use super::redis_server::RedisServer;
use super::suite::{START, all, at, granted, key, redis, request, short};
use crate::decide::ports::{QuotaStore, Settlement};
use crate::domain::exact_log::at_once;
use crate::domain::limit::Limit;
use crate::domain::question::Mode::{self, Consume, Peek};
use crate::domain::slots::SLOTS_MAX;
use crate::domain::time::Micros;
use crate::domain::window::{Grant, LeaseId, Terms};

const HOLD: Micros = Micros::from_secs(600);

const fn name(serial: u64) -> LeaseId {
    LeaseId { replica: u64::MAX - 1, serial }
}

async fn ask(store: &dyn QuotaStore, mode: Mode, limit: &Arc<Limit>, units: u64, serial: u64, now: Micros) -> Grant {
    let terms = Terms { lease: name(serial), ..at_once(units) };
    all(store, mode, &[request(limit, "alice", terms)], now).await[0]
}

async fn release(store: &dyn QuotaStore, limit: &Arc<Limit>, lease: LeaseId, now: Micros) {
    let settlement = Settlement { limit: Arc::clone(limit), key: key("alice"), lease, used: 0 };
    store.settle([settlement].into_iter().collect(), at(now)).get().await.unwrap();
}

async fn left(store: &dyn QuotaStore, limit: &Arc<Limit>, now: Micros) -> u64 {
    ask(store, Peek, limit, 0, 0, now).await.remaining
}

/// How often Redis ran such a command.
pub(super) fn calls(server: &RedisServer, command: &str) -> u64 {
    let said = server.command(&["INFO", "commandstats"]);
    let line = said.split(&format!("cmdstat_{command}:calls=")).nth(1);
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

/// Released from the front, from behind and at random, twice and late; left to expire; under holds that a reload changes;
/// while time goes on, leaps and steps back: hundreds of holders, so that states are read in parts and written anew.
#[tokio::test]
async fn hundreds_of_holders_are_kept_as_by_the_pure_core() {
    const STEPS: u64 = 8_000;
    let Some(server) = RedisServer::start() else { return };
    let (store, core) = (redis(&server), Core::default());
    let limits = [slots(900, HOLD), slots(700, Micros(HOLD.0 / 3)), slots(1_000, Micros(HOLD.0 * 2))];
    let (mut random, mut now, mut most) = (7_u64, START, 0);
    let mut draw = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    for serial in 1..=STEPS {
        // Now and then the limit is another one, for a while.
        let limit = &limits[[0, 0, 1, 0, 2][usize::try_from(serial / 400 % 5).unwrap()]];
        match draw(1_000) {
            0..4 => now = now + Micros(HOLD.0 / 2),
            4..10 => now = now - Micros(HOLD.0 / 50),
            10..300 => now = now + Micros(draw(HOLD.0 / 400)),
            300..550 => {
                let taken = match draw(4) {
                    0 => serial.saturating_sub(draw(20)),
                    1 => serial.saturating_sub(700 + draw(100)),
                    _ => draw(serial),
                };
                for store in [&core as &dyn QuotaStore, &store] {
                    release(store, limit, name(taken), now).await;
                }
            }
            550..650 => {
                let units = draw(1_000);
                let one = ask(&core, Peek, limit, units, serial, now).await;
                assert_eq!(one, ask(&store, Peek, limit, units, serial, now).await, "peek {serial}");
            }
            _ => {
                let units = if draw(50) == 0 { draw(300) } else { 1 + draw(2) };
                let one = ask(&core, Consume, limit, units, serial, now).await;
                assert_eq!(one, ask(&store, Consume, limit, units, serial, now).await, "ask {serial}");
                most = most.max(900_u64.saturating_sub(one.remaining));
            }
        }
    }
    assert!(most > 500, "{most} were held at most");
}

#[tokio::test]
async fn the_next_slot_to_come_back_is_that_of_a_holder_who_did_not_release() {
    let Some(server) = RedisServer::start() else { return };
    let (store, nine) = (redis(&server), slots(9, HOLD));
    let taken = |serial| START + Micros::from_millis(100 * serial);
    for serial in 1..=4 {
        ask(&store, Consume, &nine, 1, serial, taken(serial)).await;
    }
    for (serial, next) in [(2, 1), (3, 1), (1, 4)] {
        release(&store, &nine, name(serial), taken(4)).await;
        let seen = ask(&store, Peek, &nine, 0, 0, taken(4)).await;
        assert_eq!(seen.reset_after, HOLD + taken(next) - taken(4));
    }
}

/// Else a limit with many holders would be slow for all who share its Redis.
#[tokio::test]
async fn an_acquisition_beside_ten_thousand_holders_reads_the_end_and_appends() {
    let Some(server) = RedisServer::start() else { return };
    let store = redis(&server);
    let most = slots(SLOTS_MAX, HOLD);
    for serial in 1..=SLOTS_MAX {
        assert_eq!(ask(&store, Consume, &most, 1, serial, START).await.outcome, granted(1));
    }
    assert_eq!((calls(&server, "getrange"), calls(&server, "append")), (SLOTS_MAX, SLOTS_MAX - 1));
    assert_eq!((calls(&server, "get"), calls(&server, "set")), (0, 1));
    assert_eq!(ask(&store, Consume, &most, 1, 0, START).await.outcome, short(HOLD));
    assert_eq!(calls(&server, "getrange"), SLOTS_MAX + 1, "a refusal reads as little");
    // All have expired.
    let later = START + HOLD;
    assert_eq!(left(&store, &most, later).await, SLOTS_MAX);
}

#[tokio::test]
async fn what_was_released_takes_room_for_a_while_only() {
    let Some(server) = RedisServer::start() else { return };
    let store = redis(&server);
    let ten = slots(10, HOLD);
    for serial in 1..=2_000 {
        ask(&store, Consume, &ten, 1, serial, START).await;
        if serial > 5 {
            release(&store, &ten, name(serial - 5), START).await;
        }
    }
    assert_eq!(left(&store, &ten, START).await, 5);
    let length: u64 = server.command(&["STRLEN", "tollgate:{per-client 5:alice}:held"]).parse().unwrap();
    assert!(length < 7_000, "{length} bytes for 5 holders");
    assert!((1_995..2_100).contains(&calls(&server, "append").saturating_add(calls(&server, "set"))));
    assert!(calls(&server, "set") < 2_000 / 40, "each time all is written anew, much is let go");
}

/// The numbers of an entry are as long as a name.
#[tokio::test]
async fn a_name_that_looks_like_a_holders_numbers_releases_nothing() {
    let Some(server) = RedisServer::start() else { return };
    let store = redis(&server);
    let three = slots(3, HOLD);
    ask(&store, Consume, &three, 1, 1, START).await;
    ask(&store, Consume, &three, 1, 2, START).await;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let number = |number: u64| (number as f64).to_bits();
    let expires = number((START + HOLD).0);
    for (replica, serial) in [
        (expires, number(1)),
        (number(START.0), number(1)),
        (number(START.0), number(2)),
        (number(0), number(80)),
        (0, 0),
    ] {
        release(&store, &three, LeaseId { replica, serial }, START).await;
        assert_eq!(left(&store, &three, START).await, 1, "{replica:x} {serial:x}");
    }
    release(&store, &three, name(1), START).await;
    assert_eq!(left(&store, &three, START).await, 2);
}

/// An earlier version kept a sorted set, under another name.
#[tokio::test]
async fn what_an_earlier_version_left_is_in_nobodys_way() {
    let Some(server) = RedisServer::start() else { return };
    let store = redis(&server);
    let three = slots(3, HOLD);
    assert_eq!(server.command(&["ZADD", "tollgate:{per-client 5:alice}:slots", "1", "x"]), "1");
    assert_eq!(ask(&store, Consume, &three, 1, 1, START).await.remaining, 2);
    release(&store, &three, name(1), START).await;
    assert_eq!(left(&store, &three, START).await, 3);
    store.reset(three, key("alice")).get().await.unwrap();
}

/// What stands in the documentation. A measurement, so it is run by hand on a quiet machine:
/// `cargo test --lib slots_cost -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "a measurement"]
#[expect(clippy::print_stdout, clippy::cast_precision_loss, reason = "the measurement's result")]
async fn slots_cost_so_much_beside_other_holders() {
    const TURNS: u64 = 5;
    let Some(server) = RedisServer::start() else { return };
    let store = redis(&server);
    // As replicas name them: two of them, and serials like random numbers.
    let name = |serial: u64| {
        let mixed = (serial + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        LeaseId { replica: 0x1234_5678_9abc_def0 + serial % 2, serial: mixed ^ (mixed >> 31) }
    };
    let take = async |limit: &Arc<Limit>, serial, now| {
        let terms = Terms { lease: name(serial), ..at_once(1) };
        all(&store, Consume, &[request(limit, "alice", terms)], now).await[0]
    };
    let micros = || {
        let said = server.command(&["INFO", "commandstats"]);
        let calls = said.split("cmdstat_evalsha:").nth(1).unwrap_or_default();
        calls.split("usec=").nth(1).map_or(0, |rest| rest.split(',').next().unwrap().parse::<u64>().unwrap())
    };
    for holders in [1, 100, 1_000, SLOTS_MAX] {
        let (long, short) = (slots(SLOTS_MAX, HOLD), slots(SLOTS_MAX, Micros(HOLD.0 / 2)));
        let mut least = [f64::MAX; 3];
        for _ in 0..TURNS {
            for serial in 0..holders {
                take(&long, serial, START).await;
            }
            // Each is found, and stands anywhere; as many as leave the others where they are.
            let (sought, begin) = (holders.min(20), micros());
            for place in 0..sought {
                release(&store, &long, name((holders * (2 * place + 1) / (2 * sought)) % holders), START).await;
            }
            least[0] = least[0].min((micros() - begin) as f64 / sought as f64);
            let begin = micros();
            for serial in 0..sought {
                take(&long, SLOTS_MAX + serial, START).await;
            }
            least[1] = least[1].min((micros() - begin) as f64 / sought as f64);
            for serial in 0..sought {
                release(&store, &long, name(SLOTS_MAX + serial), START).await;
            }
            let begin = micros();
            for serial in 0..sought {
                take(&short, 2 * SLOTS_MAX + serial, START).await;
            }
            least[2] = least[2].min((micros() - begin) as f64 / sought as f64);
            store.reset(Arc::clone(&long), key("alice")).get().await.unwrap();
            server.command(&["DEL", "tollgate:{per-client 5:alice}:held"]);
        }
        let [release, acquire, reloaded] = least;
        println!(
            "beside {holders}: {release:.1} µs a release, {acquire:.1} µs an acquisition, {reloaded:.1} µs one under \
             a shorter hold"
        );
    }
}
