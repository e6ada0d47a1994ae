//! Every log of what was taken back held to a plain list of entries, by random calls.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use super::redis_server::RedisServer;
use super::revocation_suite::{add, applied, listed, loaded, mark, news, wish};
use super::revocations::MemoryRevocations;
use super::suite::{START, at, redis};
use crate::decide::ports::{ListedRevocation, RevocationLog};
use crate::domain::revocation::{Cutoff, Entry, Keep, Mark, MarkId, Revocation, Target, TargetKind, Which, Wish};
use crate::domain::time::Micros;

/// A plain list of entries: what each log must answer.
#[derive(Default)]
struct Model(BTreeMap<MarkId, ListedRevocation>);

impl Model {
    fn standing(&mut self, now: Micros) -> &mut BTreeMap<MarkId, ListedRevocation> {
        self.0.retain(|_, listed| listed.entry.cutoff.until.is_none_or(|until| until > now));
        &mut self.0
    }

    fn put(&mut self, entry: Entry, written: Option<Revocation>, now: Micros) -> Option<Cutoff> {
        if entry.cutoff.until.is_some_and(|until| until <= now) {
            return None;
        }
        let old = self.standing(now).get(&entry.mark.id).cloned();
        let cutoff = match &old {
            Some(old) => {
                let later = |one: Option<Micros>, other: Option<Micros>| Some(one?.max(other?));
                let (one, other) = (entry.cutoff, old.entry.cutoff);
                Cutoff { before: later(one.before, other.before), until: later(one.until, other.until) }
            }
            None => entry.cutoff,
        };
        let written = written.or(old.and_then(|old| old.written)).map(|written| Revocation { cutoff, ..written });
        self.0.insert(entry.mark.id, ListedRevocation { entry: Entry { cutoff, ..entry }, written });
        Some(cutoff)
    }
}

#[derive(Clone, Debug)]
enum Call {
    Add(Vec<(u8, Which, Keep)>),
    Undo(u8),
    Restore(Vec<(u8, Cutoff)>),
    Wait(u64),
}

/// With moments around that one.
fn calls(around: Micros) -> impl Strategy<Value = Call> {
    let near = move || (0_u64..200).prop_map(move |time| around + Micros(time) - Micros(60));
    let which = prop_oneof![Just(Which::All), Just(Which::IssuedByNow), near().prop_map(Which::IssuedBy)];
    let keep = prop_oneof![
        1 => Just(Keep::Always),
        4 => near().prop_map(Keep::Until),
        4 => (0_u64..60).prop_map(|time| Keep::For(Micros(time))),
    ];
    let cutoff = (proptest::option::of(near()), proptest::option::weighted(0.9, near()));
    let cutoff = cutoff.prop_map(|(before, until)| Cutoff { before, until });
    prop_oneof![
        5 => proptest::collection::vec((0_u8..24, which, keep), 1..5).prop_map(Call::Add),
        3 => (0_u8..24).prop_map(Call::Undo),
        2 => proptest::collection::vec((0_u8..24, cutoff), 1..5).prop_map(Call::Restore),
        3 => (0_u64..4).prop_map(Call::Wait),
    ]
}

fn one_of(number: u8) -> Target {
    let name = number.to_string();
    Target::new(TargetKind::ALL[usize::from(number) % TargetKind::ALL.len()], "i", name.as_bytes())
}

/// Plays calls, and a replica follows.
async fn played(log: &dyn RevocationLog, other: &dyn RevocationLog, rounds: usize) {
    let mut runner = TestRunner::default();
    let (mut model, mut now) = (Model::default(), START);
    let (mut follower, mut place, _) = loaded(other, now).await;
    for round in 0..rounds {
        let call = calls(now).new_tree(&mut runner).unwrap().current();
        match call.clone() {
            Call::Wait(time) => now = now + Micros(time),
            Call::Undo(number) => {
                let id = mark(&one_of(number)).id;
                let was = model.standing(now).remove(&id);
                assert_eq!(log.undo(id, at(now)).get().await, Ok(was), "{call:?}");
            }
            Call::Restore(entries) => {
                let entries: Vec<Entry> =
                    entries.into_iter().map(|(number, cutoff)| Entry { mark: mark(&one_of(number)), cutoff }).collect();
                assert_eq!(log.restore(entries.clone(), at(now)).get().await, Ok(()));
                for entry in entries {
                    model.put(entry, None, now);
                }
            }
            Call::Add(wishes) => {
                let wishes: Vec<Wish> = wishes
                    .into_iter()
                    .map(|(number, which, keep)| Wish {
                        by: round.to_string().into(),
                        ahead: Micros(u64::from(number) % 3 * 1_500_000),
                        ..wish(one_of(number), which, keep)
                    })
                    .collect();
                let expected: Vec<Revocation> = wishes
                    .iter()
                    .filter_map(|wish| {
                        let written = wish.clone().written_at(now);
                        let cutoff = model.put(written.entry(), Some(written.clone()), now)?;
                        Some(Revocation { cutoff, ..written })
                    })
                    .collect();
                assert_eq!(add(log, wishes, now).await, expected, "{call:?}");
            }
        }
        let all = model.standing(now).clone();
        let marks: Vec<Mark> = (0..24).map(|number| mark(&one_of(number))).collect();
        let cutoffs = marks.iter().map(|mark| all.get(&mark.id).map(|listed| listed.entry.cutoff)).collect::<Vec<_>>();
        assert_eq!(other.find(marks, at(now)).get().await, Ok(cutoffs), "{call:?}");
        if round % 5 == 0 {
            let entries: BTreeMap<MarkId, Entry> = all.iter().map(|(id, listed)| (*id, listed.entry)).collect();
            let (changes, here, _) = news(other, place, now).await.unwrap();
            applied(&mut follower, &changes);
            place = here;
            follower.retain(|_, entry| !entry.cutoff.is_over(now));
            assert_eq!(follower, entries, "{call:?}");
            assert_eq!(loaded(log, now).await, (entries, here, 0));
            assert_eq!(listed(log, now).await, all);
        }
    }
}

#[tokio::test]
async fn random_calls_lead_in_memory_to_what_a_plain_list_says() {
    let log = MemoryRevocations::new();
    played(&log, &log, 5_000).await;
}

#[tokio::test]
async fn random_calls_lead_in_redis_to_what_a_plain_list_says() {
    let Some(server) = RedisServer::start() else { return };
    played(&redis(&server), &redis(&server), 3_000).await;
}
