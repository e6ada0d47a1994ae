//! Tokens: remembered, and cold beside the signature check alone.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use divan::{Bencher, black_box};
use tollgate::decide::ports::{Answer, Clock as _, Inspected, Shown, TokenInspector as _};
use tollgate::tokens::VERDICTS_MAX_DEFAULT;

use crate::house::{House, Signer};

/// Different tokens, in turns: with room for one verdict, each of them is cold.
const COLD: usize = 256;

#[divan::bench]
fn remembered(bencher: Bencher<'_, '_>) {
    let house = House::new(Signer::es256(), VERDICTS_MAX_DEFAULT);
    let token = house.token("alice");
    let now = house.clock.now();
    assert!(!inspect(&house, &token).remembered);
    assert!(inspect(&house, &token).remembered);
    bencher.bench(|| house.tokens.inspect(Shown::Token(black_box(&token)), now));
}

#[divan::bench]
fn cold_es256(bencher: Bencher<'_, '_>) {
    cold(bencher, Signer::es256());
}

#[divan::bench]
fn cold_rs256(bencher: Bencher<'_, '_>) {
    cold(bencher, Signer::rs256());
}

#[divan::bench]
fn cold_eddsa(bencher: Bencher<'_, '_>) {
    cold(bencher, Signer::eddsa());
}

#[divan::bench]
fn signature_es256(bencher: Bencher<'_, '_>) {
    signature(bencher, Signer::es256());
}

#[divan::bench]
fn signature_rs256(bencher: Bencher<'_, '_>) {
    signature(bencher, Signer::rs256());
}

#[divan::bench]
fn signature_eddsa(bencher: Bencher<'_, '_>) {
    signature(bencher, Signer::eddsa());
}

fn cold(bencher: Bencher<'_, '_>, signer: Signer) {
    let house = House::new(signer, 1);
    let tokens: Vec<String> = (0..COLD).map(|number| house.token(&format!("subject-{number}"))).collect();
    let now = house.clock.now();
    let mut next = (0..COLD).cycle();
    for token in &tokens {
        assert!(inspect(&house, token).verdict.is_ok());
    }
    bencher.bench_local(|| house.tokens.inspect(Shown::Token(&tokens[next.next().unwrap()]), now));
}

/// What a cold token costs at least: the check of the very same signatures, which are decoded beforehand.
fn signature(bencher: Bencher<'_, '_>, signer: Signer) {
    let house = House::new(signer, 1);
    let key = house.public();
    let texts = (0..COLD).map(|number| {
        let token = house.token(&format!("subject-{number}"));
        let (text, signature) = token.rsplit_once('.').unwrap();
        (text.to_owned(), URL_SAFE_NO_PAD.decode(signature).unwrap())
    });
    let parts: Vec<(String, Vec<u8>)> = texts.collect();
    let mut next = (0..COLD).cycle();
    bencher.bench_local(|| {
        let (text, signature) = &parts[next.next().unwrap()];
        key.verify_sig(black_box(text.as_bytes()), black_box(signature)).unwrap();
    });
}

fn inspect(house: &House, token: &str) -> Inspected {
    match house.tokens.inspect(Shown::Token(token), house.clock.now()) {
        Answer::Now(inspected) => inspected,
        Answer::Later(_) => unreachable!("the keys are in hand"),
    }
}
