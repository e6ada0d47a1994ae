//! Lists over real sockets: honest ones, and those of issuers that are away, slow or lie.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests, which wait for sockets in real time"
)]

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use miniz_oxide::deflate::compress_to_vec_zlib;
use serde_json::{Value, json};

use crate::decide::ports::{Answer, Clock as _, Standing, TokenInspector as _};
use crate::domain::decision::Reason::*;
use crate::domain::issuer::Issuer;
use crate::domain::status::StatusLists;
use crate::domain::time::Micros;
use crate::tokens::mint::{Bench, NOW, Signer, claims, issuer_of};
use crate::tokens::upkeep::liar::{Liar, Says};

const PLACE: &str = "/lists/1";

struct Fixture {
    liar: Liar,
    bench: Bench,
    signer: Signer,
}

/// An issuer whose lists are on its own server.
async fn fixture() -> Fixture {
    fixture_with(StatusLists::default(), None).await
}

async fn fixture_with(status_lists: StatusLists, issuer: Option<&str>) -> Fixture {
    let (liar, signer) = (Liar::start().await, Signer::ec("k"));
    let issuer = issuer.map_or_else(|| liar.url("/realm"), str::to_owned);
    let bench = Bench::new(vec![Issuer { issuer, status_lists, ..issuer_of([&signer]) }]);
    Fixture { liar, bench, signer }
}

/// The claims of a list at `uri` with these statuses, of a bit each, that is fresh for 100 s.
fn list_claims(uri: &str, bytes: &[u8]) -> Value {
    let lst = URL_SAFE_NO_PAD.encode(compress_to_vec_zlib(bytes, 9));
    json!({"sub": uri, "iat": NOW, "exp": NOW + 3_600, "ttl": 100, "status_list": {"bits": 1, "lst": lst}})
}

fn signed(signer: &Signer, typ: &str, claims: &Value) -> Says {
    let header = json!({"alg": "ES256", "kid": signer.kid, "typ": typ});
    Says::Text(signer.compact(&header.to_string(), &claims.to_string()))
}

impl Fixture {
    fn uri(&self) -> String {
        self.liar.url(PLACE)
    }

    fn publishes(&self, claims: &Value) {
        self.liar.says(PLACE, signed(&self.signer, "statuslist+jwt", claims));
    }

    fn token(&self, status: &Value) -> String {
        let mut claims = claims();
        claims["iss"] = json!(*self.bench.tokens.health()[0].issuer);
        claims["status"] = status.clone();
        claims["exp"] = json!(NOW + 7_200);
        self.signer.token(&claims)
    }

    fn answer(&self, uri: &str, index: u64) -> Answer<'_, Standing> {
        let token = self.token(&json!({"status_list": {"idx": index, "uri": uri}}));
        let identity = self.bench.at_once(&token).0.unwrap();
        self.bench.tokens.status(&identity, self.bench.clock.now())
    }

    async fn standing(&self, index: u64) -> Standing {
        self.answer(&self.uri(), index).get().await
    }

    fn at_once(&self, index: u64) -> Standing {
        let Answer::Now(standing) = self.answer(&self.uri(), index) else { panic!("would wait") };
        standing
    }

    /// Asks until it is so, for a few seconds at most.
    async fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let start = Instant::now();
        while !is_so() {
            assert!(start.elapsed() < Duration::from_secs(8), "{what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn a_token_is_good_only_while_0_stands_where_it_points() {
    let fixture = fixture().await;
    fixture.publishes(&list_claims(&fixture.uri(), &[0b0000_0010]));
    let waiting = (0..50).map(|index| fixture.answer(&fixture.uri(), index % 2).get());
    let standings = futures_util::future::join_all(waiting).await;
    for pair in standings.chunks(2) {
        assert_eq!(pair, [Standing::Good, Standing::Revoked]);
    }
    assert_eq!(fixture.liar.visits(PLACE), 1, "one fetch for all");
    assert_eq!((fixture.at_once(7), fixture.at_once(1)), (Standing::Good, Standing::Revoked));
    assert_eq!(
        (fixture.at_once(8), fixture.at_once(u64::MAX)),
        (Standing::Revoked, Standing::Revoked),
        "beyond its end"
    );
    assert!(fixture.bench.telemetry.render().contains("tollgate_status_list_fetches_total{outcome=\"done\"} 1"));
}

#[tokio::test]
async fn statuses_of_several_bits_are_told_apart() {
    let fixture = fixture().await;
    // The example of two bits in §4.1 of the draft.
    let mut claims = list_claims(&fixture.uri(), &[]);
    claims["status_list"] = json!({"bits": 2, "lst": "eNo76fITAAPfAgc"});
    fixture.publishes(&claims);
    for (index, status) in [1, 2, 0, 3, 0, 1, 0, 1, 1, 2, 3, 3].into_iter().enumerate() {
        let expected = if status == 0 { Standing::Good } else { Standing::Revoked };
        assert_eq!(fixture.standing(index as u64).await, expected, "{index}");
    }
}

#[tokio::test]
async fn a_list_with_anything_wrong_is_none() {
    let good = |uri: &str| list_claims(uri, &[0]);
    let zlib = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(compress_to_vec_zlib(bytes, 1));
    let bomb = zlib(&vec![0; super::LIST_BYTES_MAX + 1]);
    for (name, values) in [
        ("sub", vec![json!(null), json!("https://else.example/1"), json!(5)]),
        ("iat", vec![json!(null), json!(NOW + 61), json!("x")]),
        ("exp", vec![json!(NOW - 60), json!("x")]),
        ("ttl", vec![json!("100"), json!(-1), json!(1.5)]),
        ("status_list", vec![json!(null), json!("x"), json!({}), json!({"bits": 1}), json!({"lst": zlib(&[0])})]),
        ("status_list", [0, 3, 16].map(|bits| json!({"bits": bits, "lst": zlib(&[0])})).to_vec()),
        ("status_list", vec![json!({"bits": "1", "lst": zlib(&[0])}), json!({"bits": 1, "lst": [0]})]),
        ("status_list", vec![json!({"bits": 1, "lst": "AAAA"}), json!({"bits": 1, "lst": "!"})]),
        ("status_list", vec![json!({"bits": 1, "lst": &zlib(&[7; 99])[..20]}), json!({"bits": 1, "lst": bomb})]),
    ] {
        for value in values {
            let fixture = fixture().await;
            let mut claims = good(&fixture.uri());
            match value.clone() {
                Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
                value => claims[name] = value,
            }
            fixture.publishes(&claims);
            let shown: String = value.to_string().chars().take(100).collect();
            assert_eq!(fixture.standing(0).await, Standing::Unknown, "{name} {shown}");
        }
    }
    let fixture = fixture().await;
    let good = good(&fixture.uri());
    let stranger = Signer::ec("k");
    for says in [
        signed(&fixture.signer, "at+jwt", &good),
        signed(&fixture.signer, "JWT", &good),
        signed(&stranger, "statuslist+jwt", &good),
        Says::Text("a.b.c".to_owned()),
        Says::Text(String::new()),
        Says::Status(404),
        Says::Redirect(fixture.liar.url("/else")),
        Says::Endless,
        Says::Large(super::BODY_BYTES_MAX + 1),
    ] {
        fixture.liar.says(PLACE, says.clone());
        assert_eq!(fixture.standing(0).await, Standing::Unknown, "{says:?}");
        fixture.bench.clock.pass(super::REST);
    }
    assert_eq!(fixture.liar.visits("/else"), 0);
    fixture.publishes(&good);
    assert_eq!(fixture.standing(0).await, Standing::Good, "what was wrong is not remembered for long");
}

#[tokio::test]
async fn few_lists_are_fetched_at_a_time_and_the_others_are_not_waited_for_without_end() {
    let fixture = fixture().await;
    let places: Vec<String> = (0..2 * super::FETCHES_MAX).map(|number| format!("/lists/slow-{number}")).collect();
    for place in &places {
        fixture.liar.says(place, Says::Held);
    }
    let asked = places.iter().map(|place| fixture.answer(&fixture.liar.url(place), 0).get());
    let standings = futures_util::future::join_all(asked).await;
    assert!(standings.iter().all(|standing| *standing == Standing::Unknown));
    let visits: usize = places.iter().map(|place| fixture.liar.visits(place)).sum();
    assert_eq!(visits, super::FETCHES_MAX);
    // Those that nobody waits for are given up; then it is the next one's turn.
    fixture.publishes(&list_claims(&fixture.uri(), &[0]));
    fixture.bench.clock.pass(super::REST);
    let start = Instant::now();
    while fixture.standing(0).await != Standing::Good {
        assert!(start.elapsed() < Duration::from_secs(10), "nobody gets a turn");
        fixture.bench.clock.pass(super::REST);
    }
}

#[tokio::test]
async fn a_list_of_the_largest_kind_is_read() {
    let fixture = fixture().await;
    fixture.publishes(&list_claims(&fixture.uri(), &vec![0; super::LIST_BYTES_MAX]));
    assert_eq!(fixture.standing(8 * super::LIST_BYTES_MAX as u64 - 1).await, Standing::Good);
}

#[tokio::test]
async fn a_list_is_renewed_in_the_background_and_serves_for_a_while_when_it_cannot_be() {
    let fixture = fixture().await;
    fixture.publishes(&list_claims(&fixture.uri(), &[0]));
    assert_eq!(fixture.standing(0).await, Standing::Good);
    fixture.publishes(&list_claims(&fixture.uri(), &[1]));
    fixture.bench.clock.pass(Micros::from_secs(99));
    assert_eq!((fixture.at_once(0), fixture.liar.visits(PLACE)), (Standing::Good, 1), "still fresh");
    fixture.bench.clock.pass(Micros::from_secs(1));
    assert_eq!(fixture.at_once(0), Standing::Good, "nobody waits");
    fixture.until("the new list is in force", || fixture.at_once(0) == Standing::Revoked).await;
    assert_eq!(fixture.liar.visits(PLACE), 2);

    fixture.liar.says(PLACE, Says::Status(503));
    fixture.bench.clock.pass(Micros::from_secs(100) + super::STALE_FOR.since(Micros(1)));
    assert_eq!(fixture.at_once(0), Standing::Revoked);
    fixture.until("it was tried", || fixture.liar.visits(PLACE) == 3).await;
    fixture.bench.clock.pass(super::REST);
    assert_eq!(fixture.standing(0).await, Standing::Unknown, "too old");
    fixture.publishes(&list_claims(&fixture.uri(), &[0]));
    fixture.bench.clock.pass(super::REST);
    assert_eq!(fixture.standing(0).await, Standing::Good, "it is back");
}

#[tokio::test]
async fn no_list_serves_beyond_its_end() {
    let fixture = fixture().await;
    let mut claims = list_claims(&fixture.uri(), &[0]);
    claims["exp"] = json!(NOW + 40);
    fixture.publishes(&claims);
    assert_eq!(fixture.standing(0).await, Standing::Good);
    fixture.liar.says(PLACE, Says::Status(503));
    fixture.bench.clock.pass(Micros::from_secs(99));
    assert_eq!(fixture.at_once(0), Standing::Good, "40 s and the leeway");
    fixture.bench.clock.pass(Micros::from_secs(1));
    assert_eq!(fixture.standing(0).await, Standing::Unknown);
}

#[tokio::test]
async fn nobody_is_sent_to_a_list_where_none_may_be() {
    let elsewhere = Some("https://issuer.example");
    let fixture = fixture_with(StatusLists::default(), elsewhere).await;
    fixture.publishes(&list_claims(&fixture.uri(), &[0]));
    for uri in [&*fixture.uri(), "https://169.254.169.254/", "http://issuer.example/1", "file:///etc/passwd", "x"] {
        let Answer::Now(standing) = fixture.answer(uri, 0) else { panic!("{uri}: would wait") };
        assert_eq!(standing, Standing::Unknown, "{uri}");
    }
    assert_eq!(fixture.liar.visits(PLACE), 0);
    let origin = fixture.liar.url("");
    let named = |status_lists| Issuer {
        issuer: "https://issuer.example".to_owned(),
        status_lists,
        ..issuer_of([&fixture.signer])
    };
    fixture.bench.tokens.adopt(vec![named(StatusLists { check: true, origins: vec![origin] })]).unwrap();
    assert_eq!(fixture.standing(0).await, Standing::Good);
    fixture.bench.tokens.adopt(vec![named(StatusLists { check: false, origins: Vec::new() })]).unwrap();
    assert_eq!(fixture.at_once(9), Standing::Good, "nobody is to look");
}

#[tokio::test]
async fn what_names_a_list_must_do_so_properly() {
    let fixture = fixture().await;
    let uri = fixture.uri();
    for bad in [
        json!({"status_list": 5}),
        json!({"status_list": null}),
        json!({"status_list": {}}),
        json!({"status_list": {"idx": 0}}),
        json!({"status_list": {"uri": uri}}),
        json!({"status_list": {"idx": -1, "uri": uri}}),
        json!({"status_list": {"idx": 0.5, "uri": uri}}),
        json!({"status_list": {"idx": "0", "uri": uri}}),
        json!({"status_list": {"idx": 0, "uri": 5}}),
        json!({"status_list": {"idx": 0, "uri": ""}}),
        json!({"status_list": {"idx": 0, "uri": "x".repeat(1025)}}),
    ] {
        assert_eq!(fixture.bench.reason(&fixture.token(&bad)), MalformedToken, "{bad}");
    }
    for other in [json!("active"), json!({}), json!({"other": 5}), json!(5)] {
        let identity = fixture.bench.at_once(&fixture.token(&other)).0.unwrap();
        assert_eq!(identity.status, None, "{other}");
    }
}
