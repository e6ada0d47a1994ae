//! The whole warm decision: a remembered token, two limits, the memory store.

use std::sync::Arc;

use divan::{Bencher, black_box};
use futures_util::FutureExt as _;
use prost::Message as _;
use tokio_util::sync::CancellationToken;
use tollgate::api::native::Decisions;
use tollgate::domain::decision::Reason;
use tollgate::proto as pb;
use tollgate::telemetry::Facade;
use tollgate::tokens::VERDICTS_MAX_DEFAULT;

use crate::house::{self, House};
use crate::orders;
use crate::signer::Signer;

/// From the question to the decision.
#[divan::bench]
fn warm(bencher: Bencher<'_, '_>) {
    decide(bencher, &House::new(Signer::new("ES256"), VERDICTS_MAX_DEFAULT));
}

/// The same with so many revocations in memory, of every kind, so that each kind is looked for.
#[divan::bench(args = [0, 1_000_000])]
fn warm_beside_revocations(bencher: Bencher<'_, '_>, revocations: u64) {
    decide(bencher, &House::with_revocations(Signer::new("ES256"), VERDICTS_MAX_DEFAULT, revocations));
}

/// The same, but paid from leases. Once in a second they end, and the store is asked for the next ones.
#[divan::bench]
fn warm_leased(bencher: Bencher<'_, '_>) {
    decide(bencher, &House::with_leases(Signer::new("ES256"), VERDICTS_MAX_DEFAULT));
}

fn decide(bencher: Bencher<'_, '_>, house: &House) {
    let token = house.token("alice");
    let question = house::question(&token);
    let decide = || house::at_hand(house.decider.decide(black_box(&question), Facade::Unary)).unwrap();
    assert_eq!(decide().reason, Reason::Allowed);
    bencher.bench(decide);
}

/// From the message's bytes to the answer's, through the service: what remains is transport.
#[divan::bench]
fn warm_native(bencher: Bencher<'_, '_>) {
    let (decisions, question) = native();
    let question = question.encode_to_vec();
    let decide = || decisions.decide(black_box(&question)).now_or_never().unwrap().unwrap();
    let answer = decide().message().unwrap();
    assert!(answer.allowed && answer.quotas.len() == 2, "{answer:?}");
    bencher.bench_local(decide);
}

/// The same for 64 questions in a message.
#[divan::bench]
fn warm_native_batch_of_64(bencher: Bencher<'_, '_>) {
    let (decisions, question) = native();
    let batch = pb::DecideBatchRequest { questions: vec![question; 64] }.encode_to_vec();
    let decide = || decisions.decide_batch(black_box(&batch)).now_or_never().unwrap().unwrap();
    assert_eq!(decide().message().unwrap().outcomes.len(), 64);
    bencher.bench_local(decide);
}

/// What prost does for any service with these messages: it decodes the question and encodes the answer.
#[divan::bench]
fn messages_alone(bencher: Bencher<'_, '_>) {
    let (decisions, question) = native();
    let asked = question.encode_to_vec();
    let answer = decisions.decide(&asked).now_or_never().unwrap().unwrap().message().unwrap();
    let mut room = Vec::with_capacity(answer.encoded_len());
    bencher.bench_local(|| {
        room.clear();
        let question = pb::DecideRequest::decode(black_box(asked.as_slice())).unwrap();
        black_box(&answer).encode(&mut room).unwrap();
        question
    });
}

/// What the no-op of the load test does: it copies an answer.
#[divan::bench]
fn answer_copied(bencher: Bencher<'_, '_>) {
    let (decisions, question) = native();
    let answer = decisions.decide(&question.encode_to_vec()).now_or_never().unwrap().unwrap().message().unwrap();
    bencher.bench(|| black_box(&answer).clone());
}

fn native() -> (Decisions, pb::DecideRequest) {
    let house = House::new(Signer::new("ES256"), VERDICTS_MAX_DEFAULT);
    let question = orders::question(house.token("alice"));
    (Decisions::new(Arc::clone(&house.decider), "bench", CancellationToken::new()), question)
}
