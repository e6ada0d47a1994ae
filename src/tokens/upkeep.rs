//! Issuers over real sockets, as they are: rotating keys, going away, slow, huge, lying.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "tests, which wait for sockets in real time"
)]

#[path = "../../tests/support/liar.rs"]
pub(super) mod liar;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinSet;

use self::liar::{Liar, Says};
use super::fetch::Fetcher;
use super::mint::{Bench, Signer, claims, claims_with, issuer, issuer_of, set};
use super::{IssuerHealth, Tokens};
use crate::decide::ports::{Answer, Shown, TokenInspector as _};
use crate::domain::decision::Reason::*;
use crate::domain::issuer::{Issuer, KeySource};
use crate::domain::time::Micros;

/// An authorization server on loopback; it ends with the test.
struct Provider(Liar);

/// Where its keys are.
const KEYS: &str = "/keys";
/// Where the metadata of its issuer `/realm` is (OpenID Connect Discovery §4).
const METADATA: &str = "/realm/.well-known/openid-configuration";
/// The same (RFC 8414 §3.1).
const OAUTH_METADATA: &str = "/.well-known/oauth-authorization-server/realm";

impl Provider {
    async fn with(keys: Says) -> Self {
        let provider = Self(Liar::start().await);
        provider.says(keys);
        provider
    }

    fn says(&self, keys: Says) {
        self.0.says(KEYS, keys);
    }

    fn asked(&self) -> usize {
        self.0.visits(KEYS)
    }

    fn keys_url(&self) -> String {
        self.0.url(KEYS)
    }

    fn url(&self) -> KeySource {
        KeySource::Url(self.keys_url())
    }
}

fn keys<'s>(signers: impl IntoIterator<Item = &'s Signer>) -> Says {
    Says::Text(set(signers.into_iter().map(Signer::jwk)))
}

/// Validation with this one issuer, after its first attempt to get keys.
async fn bench(issuer: Issuer) -> Bench {
    let bench = Bench::new(vec![issuer]);
    bench.tokens.first_fetch().await;
    bench
}

fn health(bench: &Bench) -> IssuerHealth {
    let [health] = <[IssuerHealth; 1]>::try_from(bench.tokens.health()).unwrap();
    health
}

/// Waits until something is so, for a few seconds at most.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(8), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn keys_come_from_where_the_issuers_metadata_says() {
    let signer = Signer::ec("k");
    let provider = Provider::with(keys([&signer])).await;
    let name = provider.0.url("/realm");
    let metadata = |issuer: &str| Says::Text(json!({"issuer": issuer, "jwks_uri": provider.keys_url()}).to_string());
    let mut discovered = issuer(KeySource::Discovery);
    discovered.issuer = name.clone();
    let token = signer.token(&claims_with("iss", name.clone()));

    provider.0.says(METADATA, metadata(&name));
    assert_eq!(bench(discovered.clone()).await.reason(&token), Allowed);

    provider.0.says(METADATA, Says::Status(404));
    provider.0.says(OAUTH_METADATA, metadata(&name));
    assert_eq!(bench(discovered.clone()).await.reason(&token), Allowed, "RFC 8414's place");

    provider.0.says(METADATA, metadata(&format!("{name}/")));
    let lied = bench(discovered.clone()).await;
    assert_eq!(health(&lied).keys, 0);
    assert!(health(&lied).last_error.unwrap().contains("another issuer"));

    provider.0.says(METADATA, Says::Redirect(provider.keys_url()));
    let redirected = bench(discovered).await;
    assert!(health(&redirected).last_error.unwrap().contains("redirects are not followed"));
}

#[tokio::test]
async fn a_token_signed_with_a_new_key_is_accepted_after_one_refresh() {
    let (old, new) = (Signer::ec("old"), Signer::ec("new"));
    let provider = Provider::with(keys([&old])).await;
    let bench = bench(issuer(provider.url())).await;
    assert_eq!(bench.reason(&old.token(&claims())), Allowed);
    provider.says(keys([&old, &new]));
    assert_eq!(bench.reason_later(&new.token(&claims())).await, Allowed);
    assert_eq!(provider.asked(), 2);
    let (verdict, remembered) = bench.at_once(&old.token(&claims_with("jti", "another")));
    assert!(verdict.is_ok() && !remembered);
}

fn tagged(tag: &str, text: &str, headers: &str) -> Says {
    Says::Tagged { tag: tag.to_owned(), text: text.to_owned(), headers: headers.to_owned() }
}

/// Fetches the keys once more: the text, or why there is none, and the seconds that it may be kept for.
async fn fetched(fetcher: &Fetcher, provider: &Provider) -> Result<(String, Option<u64>), String> {
    match fetcher.fetch(&provider.keys_url().parse().unwrap()).await {
        Ok(document) => Ok((String::from_utf8(document.body).unwrap(), document.max_age.map(Micros::as_secs))),
        Err(error) => Err(error.sentence),
    }
}

#[tokio::test]
async fn a_document_that_is_still_the_same_is_not_sent_again() {
    for tag in ["\"1\"", "W/\"1\"", "\"\""] {
        let provider = Provider::with(tagged(tag, "first", "Cache-Control: max-age=90\r\n")).await;
        let fetcher = Fetcher::of(&issuer(provider.url())).unwrap();
        assert_eq!(fetched(&fetcher, &provider).await, Ok(("first".to_owned(), Some(90))));
        assert_eq!(provider.0.shown(KEYS), None);
        // What stands there is not sent: the tag alone counts.
        provider.says(tagged(tag, "unseen", "Cache-Control: max-age=70\r\n"));
        assert_eq!(fetched(&fetcher, &provider).await, Ok(("first".to_owned(), Some(70))), "{tag}");
        assert_eq!(provider.0.shown(KEYS).as_deref(), Some(tag));
        provider.says(tagged(tag, "unseen", ""));
        assert_eq!(fetched(&fetcher, &provider).await, Ok(("first".to_owned(), Some(70))), "as it said last");
        provider.says(Says::Status(500));
        assert!(fetched(&fetcher, &provider).await.is_err());
        provider.says(tagged("\"2\"", "second", ""));
        assert_eq!(fetched(&fetcher, &provider).await, Ok(("second".to_owned(), None)));
        assert_eq!(provider.0.shown(KEYS).as_deref(), Some(tag), "a failure is no reason to forget");
    }
}

#[tokio::test]
async fn a_confirmation_of_what_was_never_sent_is_none() {
    let provider = Provider::with(Says::Status(304)).await;
    let fetcher = Fetcher::of(&issuer(provider.url())).unwrap();
    let refused = async || fetched(&fetcher, &provider).await.unwrap_err().contains("304, and there is no document");
    assert!(refused().await, "never");
    provider.says(Says::Text("untagged".to_owned()));
    fetched(&fetcher, &provider).await.unwrap();
    provider.says(Says::Status(304));
    assert!(refused().await, "without a tag");
    for tag in ["1", "\"1", "1\"", "\"", "\"a\"b\"", "\"a b\"", "w/\"1\"", "*", &format!("\"{}\"", "x".repeat(255))] {
        provider.says(tagged(tag, "badly tagged", ""));
        fetched(&fetcher, &provider).await.unwrap();
        provider.says(Says::Status(304));
        assert!(refused().await, "{tag}");
        assert_eq!(provider.0.shown(KEYS), None, "{tag}");
    }
    provider.says(tagged("\"1\"", "well tagged", ""));
    fetched(&fetcher, &provider).await.unwrap();
    provider.0.says("/others", Says::Status(304));
    assert!(fetcher.fetch(&provider.0.url("/others").parse().unwrap()).await.is_err(), "of another place");
}

#[tokio::test]
async fn a_document_cannot_be_confirmed_for_ever() {
    let provider = Provider::with(tagged("\"1\"", "first", "")).await;
    let fetcher = Fetcher::of(&issuer(provider.url())).unwrap();
    let mut whole = 0;
    for round in 0..23 {
        assert_eq!(fetched(&fetcher, &provider).await, Ok(("first".to_owned(), None)), "{round}");
        whole += usize::from(provider.0.shown(KEYS).is_none());
    }
    assert_eq!(whole, 3, "once in eleven times");
    provider.says(Says::Status(304));
    let confirmed = async || fetched(&fetcher, &provider).await.is_ok();
    for _ in 0..10 {
        assert!(confirmed().await);
    }
    for _ in 0..3 {
        assert!(!confirmed().await, "nothing was asked that this could answer");
    }
}

#[tokio::test]
async fn keys_that_are_confirmed_are_as_fresh_as_if_they_had_been_sent_and_new_ones_are_taken() {
    let (old, new) = (Signer::ec("old"), Signer::ec("new"));
    let of = |signers: &[&Signer]| set(signers.iter().map(|signer| signer.jwk()));
    let provider = Provider::with(tagged("\"1\"", &of(&[&old]), "")).await;
    let bench = bench(issuer(provider.url())).await;
    let token = old.token(&claims());
    assert_eq!(bench.reason(&token), Allowed);
    bench.clock.pass(Micros::from_secs(290));
    assert_eq!(bench.reason_later(&Signer::ec("unknown").token(&claims())).await, UnknownKey);
    assert_eq!(provider.0.shown(KEYS).as_deref(), Some("\"1\""), "they are confirmed");
    assert_eq!((health(&bench).age, health(&bench).last_error), (Some(Micros::ZERO), None));
    assert!(bench.at_once(&token).1, "verdicts that they made stay");
    provider.says(tagged("\"2\"", &of(&[&old, &new]), ""));
    bench.clock.pass(Micros::from_secs(30));
    assert_eq!(bench.reason_later(&new.token(&claims())).await, Allowed);
    assert_eq!((health(&bench).keys, provider.0.shown(KEYS).as_deref()), (2, Some("\"1\"")));
}

#[tokio::test]
async fn a_verdict_outlives_a_refresh_that_keeps_its_key_and_dies_with_one_that_does_not() {
    let (old, new) = (Signer::ec("old"), Signer::ec("new"));
    let provider = Provider::with(keys([&old])).await;
    let bench = bench(issuer(provider.url())).await;
    let token = old.token(&claims());
    assert!(!bench.at_once(&token).1);
    assert!(bench.at_once(&token).1);
    provider.says(keys([&old, &new]));
    assert_eq!(bench.reason_later(&new.token(&claims())).await, Allowed);
    assert!(bench.at_once(&token).1, "the key is still there");
    provider.says(keys([&new]));
    bench.clock.pass(Micros::from_secs(31));
    assert_eq!(bench.reason_later(&Signer::ec("unknown").token(&claims())).await, UnknownKey);
    assert_eq!(bench.reason(&token), UnknownKey);
    assert_eq!(provider.asked(), 3);
}

#[tokio::test]
async fn unknown_keys_lead_to_one_refresh_in_a_cool_down_and_bad_signatures_to_none() {
    let signer = Signer::ec("k");
    let provider = Provider::with(keys([&signer])).await;
    let bench = bench(issuer(provider.url())).await;
    let forged = Signer::ec("k");
    for index in 0..50_u32 {
        assert_eq!(bench.reason(&forged.token(&claims_with("jti", index.to_string()))), BadSignature);
    }
    assert_eq!(provider.asked(), 1, "a known key is not asked for");
    let stranger = |index: usize| Signer::ed(&format!("unknown-{index}")).token(&claims());
    let waiting = (0..50).map(|index| {
        let (tokens, token, now) =
            (Arc::clone(&bench.tokens), stranger(index), crate::decide::ports::Clock::now(&*bench.clock));
        tokio::spawn(async move { tokens.inspect(Shown::Token(&token), now).get().await.verdict.unwrap_err() })
    });
    for answer in waiting.collect::<Vec<_>>() {
        assert_eq!(answer.await.unwrap(), UnknownKey);
    }
    assert_eq!(provider.asked(), 2);
    for index in 50..500 {
        assert_eq!(bench.reason(&stranger(index)), UnknownKey, "at once");
    }
    bench.clock.pass(Micros::from_secs(29));
    assert_eq!(bench.reason(&stranger(500)), UnknownKey);
    assert_eq!(provider.asked(), 2);
    bench.clock.pass(Micros::from_secs(1));
    provider.says(Says::Status(500));
    assert_eq!(bench.reason_later(&stranger(501)).await, UnknownKey);
    assert_eq!(provider.asked(), 3);
    assert_eq!(bench.reason(&stranger(502)), UnknownKey, "a failure counts too");
}

/// A key set of an issuer that names no keys.
fn nameless(signer: &Signer) -> Says {
    let mut jwk = signer.jwk();
    jwk.as_object_mut().unwrap().remove("kid");
    Says::Text(set([jwk]))
}

fn without_kid(signer: &Signer, id: &str) -> String {
    let header = json!({"alg": "ES256", "typ": "at+jwt"}).to_string();
    signer.compact(&header, &claims_with("jti", id).to_string())
}

#[tokio::test]
async fn an_issuer_that_names_no_keys_changes_them_and_its_new_tokens_are_accepted_after_one_refresh() {
    let (old, new) = (Signer::ec("old"), Signer::ec("new"));
    let provider = Provider::with(nameless(&old)).await;
    let bench = bench(issuer(provider.url())).await;
    assert_eq!(bench.reason(&without_kid(&old, "1")), Allowed);
    provider.says(nameless(&new));
    assert_eq!(bench.reason_later(&without_kid(&new, "2")).await, Allowed);
    assert_eq!(provider.asked(), 2);
    for id in 3..50 {
        assert_eq!(
            bench.reason(&without_kid(&old, &id.to_string())),
            BadSignature,
            "at once: the issuer is left alone"
        );
    }
    bench.clock.pass(Micros::from_secs(30));
    assert_eq!(bench.reason_later(&without_kid(&old, "50")).await, BadSignature);
    assert_eq!(provider.asked(), 3);
}

#[tokio::test]
async fn an_issuer_that_stalls_or_is_flooded_with_unknown_keys_slows_no_other() {
    let (near, far) = (Signer::ec("near"), Signer::ec("far"));
    let provider = Provider::with(keys([&far])).await;
    let mut stalling = issuer(provider.url());
    stalling.issuer = "https://far.example".to_owned();
    let bench = Bench::new(vec![issuer_of([&near]), stalling]);
    bench.tokens.first_fetch().await;
    provider.says(Says::Silent);
    let now = crate::decide::ports::Clock::now(&*bench.clock);
    let mut waiting = JoinSet::new();
    for index in 0..200 {
        let claims = claims_with("iss", "https://far.example");
        let (tokens, token) = (Arc::clone(&bench.tokens), Signer::ed(&format!("unknown-{index}")).token(&claims));
        waiting.spawn(async move { tokens.inspect(Shown::Token(&token), now).get().await.verdict.unwrap_err() });
    }
    until("the issuer is asked", || provider.asked() == 2).await;
    for index in 0..100 {
        // Without waiting at all: `reason` would panic.
        assert_eq!(bench.reason(&near.token(&claims_with("jti", index.to_string()))), Allowed);
        let mut claims = claims_with("iss", "https://far.example");
        claims["jti"] = json!(index.to_string());
        assert_eq!(bench.reason(&far.token(&claims)), Allowed, "nor the tokens of its own keys in hand");
    }
    assert!(waiting.join_all().await.iter().all(|reason| *reason == UnknownKey));
}

#[tokio::test]
async fn asking_for_a_key_does_nothing_until_somebody_waits() {
    let provider = Provider::with(keys([&Signer::ec("k")])).await;
    let bench = bench(issuer(provider.url())).await;
    let token = Signer::ec("unknown").token(&claims());
    for _ in 0..3 {
        let answer = bench.tokens.inspect(Shown::Token(&token), crate::decide::ports::Clock::now(&*bench.clock));
        assert!(matches!(answer, Answer::Later(_)));
    }
    assert_eq!(provider.asked(), 1);
}

#[tokio::test]
async fn a_key_that_came_before_the_wait_began_is_used() {
    let (old, new) = (Signer::ec("old"), Signer::ec("new"));
    let provider = Provider::with(keys([&old])).await;
    let bench = bench(issuer(provider.url())).await;
    provider.says(keys([&old, &new]));
    let (first, second) = (new.token(&claims_with("jti", "1")), new.token(&claims_with("jti", "2")));
    let waits = bench.tokens.inspect(Shown::Token(&first), crate::decide::ports::Clock::now(&*bench.clock));
    assert!(matches!(waits, Answer::Later(_)));
    assert_eq!(bench.reason_later(&second).await, Allowed);
    assert!(waits.get().await.verdict.is_ok());
}

#[tokio::test]
async fn made_up_keys_make_a_bounded_number_of_calls_wait() {
    let signer = Signer::ec("k");
    let provider = Provider::with(keys([&signer])).await;
    let bench = bench(issuer(provider.url())).await;
    provider.says(Says::Silent);
    let now = crate::decide::ports::Clock::now(&*bench.clock);
    let mut waiting = JoinSet::new();
    for index in 0..3000 {
        let (tokens, token) = (Arc::clone(&bench.tokens), Signer::ed(&format!("unknown-{index}")).token(&claims()));
        waiting.spawn(async move {
            let start = Instant::now();
            let refused = tokens.inspect(Shown::Token(&token), now).get().await.verdict.unwrap_err();
            (refused, start.elapsed() > Duration::from_millis(900))
        });
    }
    let answers = waiting.join_all().await;
    assert!(answers.iter().all(|(refused, _)| *refused == UnknownKey));
    assert_eq!(answers.iter().filter(|(_, waited)| *waited).count(), 1000);
    assert_eq!(bench.reason(&signer.token(&claims())), Allowed);
}

#[tokio::test]
async fn while_the_issuer_is_away_the_last_good_keys_serve_and_after_their_time_none() {
    let signer = Signer::ec("k");
    let provider = Provider::with(keys([&signer])).await;
    let mut settings = issuer(provider.url());
    settings.stale_for = Micros::from_secs(600);
    let bench = bench(settings).await;
    let token = |index: usize| signer.token(&claims_with("jti", format!("t-{index}")));
    let stranger = Signer::ec("unknown").token(&claims());
    assert_eq!(bench.reason(&token(0)), Allowed);
    assert!(!health(&bench).is_stale);
    provider.says(Says::Status(503));
    for round in 0..2 {
        bench.clock.pass(Micros::from_secs(40));
        assert_eq!(bench.reason_later(&stranger).await, UnknownKey);
        assert_eq!(bench.reason(&token(round + 1)), Allowed, "the last good keys");
    }
    let failing = health(&bench);
    assert!(failing.is_stale && failing.keys == 1, "{failing:?}");
    assert_eq!(failing.age, Some(Micros::from_secs(80)));
    assert!(failing.last_error.unwrap().contains("status 503"));
    assert!(bench.telemetry.render().contains(&format!("tollgate_issuer_up{{issuer=\"{}\"}} 0", super::mint::ISSUER)));
    // They were fresh for five minutes, and stale ones serve for ten.
    bench.clock.pass(Micros::from_secs(820));
    // A token that asks wakes the task, which finds that the keys' time is up.
    let _ = bench.reason_later(&stranger).await;
    until("the keys end", || health(&bench).keys == 0).await;
    bench.clock.pass(Micros::from_secs(40));
    assert_eq!(bench.reason_later(&token(9)).await, KeysAway);
    provider.says(keys([&signer]));
    bench.clock.pass(Micros::from_secs(40));
    let late = signer.token(&{
        let mut claims = claims();
        claims["exp"] = json!(super::mint::NOW + 3000);
        claims
    });
    assert_eq!(bench.reason_later(&late).await, Allowed, "it is back");
    assert_eq!(health(&bench).last_error, None);
    assert!(bench.telemetry.render().contains(&format!("tollgate_issuer_up{{issuer=\"{}\"}} 1", super::mint::ISSUER)));
}

#[tokio::test]
async fn keys_that_may_not_be_stale_serve_while_they_are_fresh() {
    let signer = Signer::ec("k");
    let provider = Provider::with(keys([&signer])).await;
    let mut settings = issuer(provider.url());
    settings.stale_for = Micros::ZERO;
    let bench = bench(settings).await;
    assert_eq!(bench.reason(&signer.token(&claims())), Allowed);
    // The task is woken, and refreshes rather than ends them.
    bench.clock.pass(Micros::from_secs(239));
    assert_eq!(bench.reason_later(&Signer::ec("unknown").token(&claims())).await, UnknownKey);
    assert_eq!(provider.asked(), 2);
    assert_eq!(bench.reason(&signer.token(&claims())), Allowed);
}

#[tokio::test]
async fn without_any_keys_tokens_are_refused_as_undecidable() {
    let provider = Provider::with(Says::Status(500)).await;
    let bench = bench(issuer(provider.url())).await;
    let token = Signer::ec("k").token(&claims());
    assert_eq!(bench.reason_later(&token).await, KeysAway);
    let (away, none) = (health(&bench), None);
    assert_eq!((away.keys, away.age, away.is_stale), (0, none, false));
    assert_eq!(bench.reason_later(&token).await, KeysAway);
    let over_tls = KeySource::Url(provider.keys_url().replace("http:", "https:"));
    let bench = self::bench(issuer(over_tls)).await;
    assert_eq!(bench.reason_later(&token).await, KeysAway);
    assert!(health(&bench).last_error.unwrap().contains("cannot be read"), "it speaks no TLS");
}

#[tokio::test]
async fn a_token_waits_for_a_second_at_most() {
    let provider = Provider::with(Says::Silent).await;
    let bench = Bench::new(vec![issuer(provider.url())]);
    let token = Signer::ec("k").token(&claims());
    until("it is asked", || provider.asked() == 1).await;
    let start = Instant::now();
    assert_eq!(bench.reason_later(&token).await, KeysAway);
    assert!((900..3000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
}

#[tokio::test]
async fn answers_that_are_no_key_set_leave_the_last_good_keys() {
    let signer = Signer::ec("k");
    let provider = Provider::with(keys([&signer])).await;
    let bench = bench(issuer(provider.url())).await;
    let trap = Provider::with(keys([&Signer::ec("evil")])).await;
    let text = |text: &str| Says::Text(text.to_owned());
    for (says, why) in [
        (text("{}"), "no list `keys`"),
        (text("{\"keys\":[]}"), "is empty"),
        (text("<html><body>maintenance</body></html>"), "no JSON object"),
        (text(""), "no JSON object"),
        (text("{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\"}]}"), "none of the 1 keys can be used: 1 symmetric"),
        (Says::Text(format!("{{\"keys\":[],\"a\":{}", "[".repeat(100_000))), "no JSON object"),
        (Says::Endless, "more than 512 KiB"),
        (Says::Status(404), "status 404"),
        (Says::Status(204), "status 204"),
        (Says::Redirect(trap.keys_url()), "status 302, and redirects are not followed"),
        (Says::Large(513 * 1024), "more than 512 KiB"),
    ] {
        let asked = provider.asked();
        provider.says(says.clone());
        bench.clock.pass(Micros::from_secs(31));
        let stranger = Signer::ec("evil").token(&claims());
        assert_eq!(bench.reason_later(&stranger).await, UnknownKey, "{says:?}");
        assert!(provider.asked() > asked);
        let health = health(&bench);
        assert!(health.last_error.as_ref().unwrap().contains(why), "{health:?}");
        assert_eq!(health.keys, 1);
    }
    assert_eq!(trap.asked(), 0, "redirects are not followed");
    let mut late = claims();
    late["exp"] = json!(super::mint::NOW + 3000);
    assert_eq!(bench.reason(&signer.token(&late)), Allowed);
}

#[tokio::test]
async fn an_answer_that_drips_is_given_up_after_five_seconds() {
    let provider = Provider::with(Says::Dripping).await;
    let start = Instant::now();
    let attempt = tokio::time::timeout(Duration::from_secs(9), bench(issuer(provider.url()))).await;
    let bench = attempt.expect("it is given up");
    assert!((4500..8000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    assert!(health(&bench).last_error.unwrap().contains("did not answer in time"));
}

#[tokio::test]
async fn an_issuer_that_says_twice_that_it_has_no_keys_is_believed() {
    let signer = Signer::ec("k");
    let provider = Provider::with(keys([&signer])).await;
    let bench = bench(issuer(provider.url())).await;
    let token = signer.token(&claims());
    assert_eq!(bench.reason(&token), Allowed);
    provider.says(Says::Text("{\"keys\":[]}".to_owned()));
    let stranger = Signer::ec("unknown").token(&claims());
    bench.clock.pass(Micros::from_secs(31));
    assert_eq!(bench.reason_later(&stranger).await, UnknownKey);
    assert!(bench.at_once(&token).1);
    bench.clock.pass(Micros::from_secs(31));
    assert_eq!(bench.reason_later(&stranger).await, UnknownKey);
    assert_eq!(bench.reason(&token), UnknownKey);
    assert_eq!(health(&bench).last_error, None);
}

#[tokio::test]
async fn a_key_file_is_read_at_once_and_again_when_it_changes() {
    let (old, new) = (Signer::ec("old"), Signer::ec("new"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    std::fs::write(&path, set([old.jwk()])).unwrap();
    let bench = Bench::new(vec![issuer(KeySource::File(path.clone()))]);
    assert_eq!(bench.reason(&old.token(&claims())), Allowed, "without waiting");
    std::fs::write(&path, set([new.jwk()])).unwrap();
    assert_eq!(bench.reason_later(&new.token(&claims())).await, Allowed);
    assert_eq!(bench.reason(&old.token(&claims())), UnknownKey);
    std::fs::write(&path, "{").unwrap();
    bench.clock.pass(Micros::from_secs(31));
    assert_eq!(bench.reason_later(&old.token(&claims())).await, UnknownKey);
    assert!(health(&bench).last_error.unwrap().contains("no JSON object"));
    assert_eq!(bench.reason(&new.token(&claims())), Allowed, "the last good keys");
    std::fs::remove_file(&path).unwrap();
    bench.clock.pass(Micros::from_secs(31));
    assert_eq!(bench.reason_later(&old.token(&claims())).await, UnknownKey);
    assert!(health(&bench).last_error.unwrap().contains("cannot be read"));
}

#[tokio::test]
async fn issuers_that_cannot_be_used_are_all_named_and_nothing_changes() {
    let signer = Signer::ec("k");
    let bench = Bench::new(vec![issuer_of([&signer])]);
    let named = |name: &str, keys: KeySource| Issuer { issuer: name.to_owned(), ..issuer(keys) };
    let problems = bench.tokens.adopt(vec![
        named("https://a.example", KeySource::File("/nowhere/keys.json".into())),
        named("https://b.example", KeySource::Inline("{}".to_owned())),
        named("https://c.example", KeySource::Inline("{\"keys\":[]}".to_owned())),
        named("https://d.example", KeySource::Url("http://d.example/keys".to_owned())),
        named("not an address", KeySource::Discovery),
        named("https://e.example", KeySource::Discovery),
        named("https://e.example", KeySource::Discovery),
    ]);
    let problems = problems.unwrap_err();
    assert_eq!(problems.len(), 6, "{problems:#?}");
    for (problem, name) in
        problems.iter().zip(["a.example", "b.example", "c.example", "d.example", "not an address", "e.example"])
    {
        assert!(problem.contains(name), "{problem}");
    }
    assert_eq!(bench.reason(&signer.token(&claims())), Allowed, "the old ones go on");
    assert_eq!(bench.tokens.health().len(), 1);
}

#[tokio::test]
async fn a_reload_keeps_keys_and_verdicts_of_issuers_that_stay() {
    let signer = Signer::ec("k");
    let provider = Provider::with(keys([&signer])).await;
    let bench = bench(issuer(provider.url())).await;
    let token = signer.token(&claims());
    assert_eq!(bench.reason(&token), Allowed);
    bench.tokens.adopt(vec![issuer(provider.url())]).unwrap();
    assert!(bench.at_once(&token).1, "nothing has changed");
    provider.says(Says::Status(500));
    let mut elsewhere = issuer(provider.url());
    elsewhere.audiences = vec!["invoices".to_owned()];
    bench.tokens.adopt(vec![elsewhere]).unwrap();
    assert_eq!(bench.reason(&token), WrongAudience, "a verdict under other settings is no verdict");
    bench.tokens.adopt(vec![issuer(provider.url())]).unwrap();
    assert!(!bench.at_once(&token).1, "nor is one from before them");
    assert!(bench.at_once(&token).1);
    assert_eq!(provider.asked(), 1, "the keys were kept");
    bench.tokens.adopt(Vec::new()).unwrap();
    assert_eq!(bench.reason(&token), UnknownIssuer);
    assert!(bench.tokens.health().is_empty());
}

/// Whoever sees that an issuer stays away raises `stale_for`: that must not end the keys in hand.
#[tokio::test]
async fn a_longer_time_for_stale_keys_keeps_the_keys_that_are_there() {
    let signer = Signer::ec("k");
    let provider = Provider::with(keys([&signer])).await;
    let mut settings = issuer(provider.url());
    settings.stale_for = Micros::from_secs(600);
    let bench = bench(settings.clone()).await;
    let token = signer.token(&claims_with("exp", super::mint::NOW + 3000));
    provider.says(Says::Status(503));
    settings.stale_for = Micros::from_secs(3600);
    settings.refresh_cooldown = Micros::from_secs(1);
    bench.tokens.adopt(vec![settings]).unwrap();
    assert_eq!(bench.reason(&token), Allowed);
    bench.clock.pass(Micros::from_secs(1000));
    let stranger = Signer::ec("unknown").token(&claims());
    assert_eq!(bench.reason_later(&stranger).await, UnknownKey);
    assert_eq!(bench.reason(&token), Allowed, "it is in force");
    bench.clock.pass(Micros::from_secs(1));
    assert_eq!(bench.reason_later(&stranger).await, UnknownKey);
    assert_eq!(provider.asked(), 3, "and so is the other");
}

#[tokio::test]
async fn an_issuer_that_is_not_in_force_is_not_missed() {
    let signer = Signer::ec("k");
    let bench = Bench::new(vec![issuer_of([&signer])]);
    let shown = || -> Vec<String> {
        let text = bench.telemetry.render();
        text.lines().filter(|line| line.starts_with("tollgate_issuer_")).map(str::to_owned).collect()
    };
    assert_eq!(shown().len(), 2);
    assert!(shown().iter().all(|line| line.ends_with(" 1")), "{:?}", shown());
    let refused = Issuer { issuer: "https://new.example".to_owned(), ..issuer(KeySource::Discovery) };
    drop(bench.tokens.prepare(vec![refused]).unwrap());
    assert_eq!(shown().len(), 2, "it never came into force");
    bench.tokens.adopt(Vec::new()).unwrap();
    assert!(shown().iter().all(|line| line.ends_with(" NaN")), "{:?}", shown());
}

#[tokio::test]
async fn an_issuer_that_is_removed_or_dropped_is_asked_no_more() {
    let provider = Provider::with(Says::Status(500)).await;
    let bench = bench(issuer(provider.url())).await;
    let watched = Arc::downgrade(&bench.tokens);
    // The back-off after a failure is a second of the bench's clock, which every pass makes due.
    bench.tokens.adopt(Vec::new()).unwrap();
    let asked = provider.asked();
    bench.clock.pass(Micros::from_secs(100));
    tokio::time::sleep(Duration::from_millis(1300)).await;
    assert_eq!(provider.asked(), asked, "removed");
    let series = format!("tollgate_issuer_up{{issuer=\"{}\"}} NaN", super::mint::ISSUER);
    assert!(bench.telemetry.render().contains(&series), "nobody could end an alert about it");
    bench.tokens.adopt(vec![issuer(provider.url())]).unwrap();
    bench.tokens.first_fetch().await;
    let asked = provider.asked();
    bench.clock.pass(Micros::from_secs(100));
    let Bench { tokens, .. } = bench;
    drop::<Arc<Tokens>>(tokens);
    assert!(watched.upgrade().is_none());
    tokio::time::sleep(Duration::from_millis(1300)).await;
    assert_eq!(provider.asked(), asked, "dropped");
}

#[tokio::test]
async fn keys_are_renewed_by_themselves() {
    let (old, new) = (Signer::ec("old"), Signer::ec("new"));
    let provider = Provider::with(Says::Status(500)).await;
    let bench = bench(issuer(provider.url())).await;
    provider.says(keys([&old, &new]));
    bench.clock.pass(Micros::from_secs(2));
    until("the failure is retried", || health(&bench).keys == 2).await;
    assert_eq!(provider.asked(), 2);
    assert_eq!(bench.reason(&new.token(&claims())), Allowed);
    let text = bench.telemetry.render();
    assert!(text.contains(&format!("tollgate_issuer_keys{{issuer=\"{}\"}} 2", super::mint::ISSUER)), "{text}");
}
