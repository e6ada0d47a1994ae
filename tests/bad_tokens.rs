//! Floods of bad tokens, beside callers whose tokens are remembered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tollgate::decide::ports::Clock as _;
use tollgate::proto as pb;
use tollgate::proto::decide_outcome::Kind;
use tollgate::proto::decision_service_client::DecisionServiceClient;
use tonic::transport::Channel;

use crate::support::server::{TestClock, Tollgate, question};

const ISSUER: &str = "https://issuer.example";

/// Callers whose tokens are remembered.
const CALLERS: usize = 100;

/// Bad tokens in a call.
const BATCH: u64 = 100;

/// What each of the kinds of bad tokens is refused for, in turns.
const REFUSED: [&str; 4] = ["bad_signature", "unknown_key", "unknown_issuer", "malformed_token"];

struct Mint {
    pair: EcdsaKeyPair,
    now: u64,
}

impl Mint {
    fn new(clock: &TestClock) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self { pair, now: clock.now().wall.as_secs() }
    }

    fn policy(&self) -> String {
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        let jwk = json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "k", "x": b64(x), "y": b64(y)});
        format!(
            "issuers: [{{ issuer: {ISSUER}, audiences: [orders], jwks: {{ keys: [{jwk}] }} }}]\n\
             rules: [{{ match: {{ path: /** }} }}]\n"
        )
    }

    fn input(&self, issuer: &str, kid: &str, id: &str) -> String {
        let claims = json!({
            "iss": issuer, "aud": "orders", "sub": id, "jti": id, "iat": self.now, "exp": self.now + 3600,
        });
        format!("{}.{}", b64(json!({"alg": "ES256", "kid": kid}).to_string()), b64(claims.to_string()))
    }

    fn token(&self, id: &str) -> String {
        let input = self.input(ISSUER, "k", id);
        let signature = self.pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        format!("{input}.{}", b64(signature))
    }

    /// One that nobody signed; it has the signature of another one. No number gives the same one twice.
    fn forged(&self, number: u64, signature: &str) -> String {
        let id = format!("forged-{number}");
        match kind_of(number) {
            0 => format!("{}.{signature}", self.input(ISSUER, "k", &id)),
            1 => format!("{}.{signature}", self.input(ISSUER, &id, &id)),
            2 => format!("{}.{signature}", self.input(&format!("https://{id}.example"), "k", &id)),
            _ => format!("{}.{signature}", b64(&id)),
        }
    }
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A server, callers whose tokens it remembers, and a signature for tokens that are forged.
struct Scene {
    tollgate: Tollgate,
    mint: Mint,
    callers: Vec<String>,
    signature: String,
}

impl Scene {
    async fn set(clock: Arc<TestClock>) -> Self {
        let mint = Mint::new(&clock);
        let tollgate = Tollgate::start_with(&mint.policy(), clock).await;
        let callers: Vec<String> = (0..CALLERS).map(|number| mint.token(&format!("caller-{number}"))).collect();
        let signature = callers[0].rsplit_once('.').unwrap().1.to_owned();
        let scene = Self { tollgate, mint, callers, signature };
        let mut client = scene.tollgate.decisions().await;
        for caller in &scene.callers {
            assert_eq!(ask(&mut client, caller).await, pb::Provenance::Asked);
        }
        scene
    }

    /// Asks with these bad tokens, no two alike, in one call. All are refused, each for what is wrong with it.
    async fn flood(&self, client: &mut DecisionServiceClient<Channel>, numbers: impl Iterator<Item = u64> + Clone) {
        let questions = numbers.clone().map(|number| {
            let token = self.mint.forged(number, &self.signature);
            question("GET", "/orders/1", Some(&token))
        });
        let batch = pb::DecideBatchRequest { questions: questions.collect() };
        let outcomes = client.decide_batch(batch).await.unwrap().into_inner().outcomes;
        for (number, outcome) in numbers.zip(outcomes) {
            let Some(Kind::Decision(answer)) = outcome.kind else { panic!("{number}: {outcome:?}") };
            assert_eq!((answer.allowed, answer.detail.as_str()), (false, REFUSED[kind_of(number)]), "{number}");
        }
    }
}

fn kind_of(number: u64) -> usize {
    usize::try_from(number % 4).unwrap()
}

/// Where the verdict on a good token came from.
async fn ask(client: &mut DecisionServiceClient<Channel>, token: &str) -> pb::Provenance {
    let asked = pb::DecideRequest { explain: true, ..question("GET", "/orders/1", Some(token)) };
    let answer = client.decide(asked).await.unwrap().into_inner();
    assert!(answer.allowed, "{answer:?}");
    answer.explanation.unwrap().token()
}

#[tokio::test]
async fn a_flood_of_bad_tokens_pushes_out_no_remembered_one_and_leaves_nothing_behind() {
    const FLOOD: u64 = 8_000;
    let scene = Scene::set(TestClock::new()).await;
    let mut client = scene.tollgate.decisions().await;
    for from in (0..FLOOD).step_by(usize::try_from(BATCH).unwrap()) {
        scene.flood(&mut client, from..from + BATCH).await;
    }
    for caller in &scene.callers {
        assert_eq!(ask(&mut client, caller).await, pb::Provenance::Memory);
    }
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let (callers, misses) = (CALLERS as f64, (FLOOD + CALLERS as u64) as f64);
    let series = [
        ("tollgate_verdicts_remembered", callers),
        ("tollgate_verdict_evictions_total", 0.0),
        (r#"tollgate_verdict_lookups_total{outcome="hit"}"#, callers),
        (r#"tollgate_verdict_lookups_total{outcome="miss"}"#, misses),
    ];
    for (name, wanted) in series {
        assert_eq!(scene.tollgate.metric(name).await.to_bits(), wanted.to_bits(), "{name}");
    }
}

/// Times of calls, in order of length.
struct Times(Vec<Duration>);

impl Times {
    fn at(&self, per_mille: usize) -> Duration {
        self.0[(self.0.len() * per_mille / 1000).min(self.0.len() - 1)]
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [half, most, nearly_all] = [500, 990, 999].map(|per_mille| self.at(per_mille));
        write!(f, "{} calls, p50 {half:?}, p99 {most:?}, p99.9 {nearly_all:?}", self.0.len())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Without,
    Beside,
    Over,
}

/// How callers with remembered tokens fare in turns without and beside a flood of one kind of bad tokens, whose gateway asks
/// about each by itself, so many at a time. Says how many bad tokens there were; the first has the number `from`.
async fn beside(scene: &Arc<Scene>, kind: usize, from: u64) -> u64 {
    const TURNS: u64 = 12;
    const LENGTH: Duration = Duration::from_secs(1);
    const AT_A_TIME: usize = 32;
    let (turn, _) = watch::channel(Turn::Without);
    let sent = Arc::new(AtomicU64::new(0));
    let mut flooders = JoinSet::new();
    for _ in 0..AT_A_TIME {
        let (scene, mut turn, sent) = (Arc::clone(scene), turn.subscribe(), Arc::clone(&sent));
        let mut client = scene.tollgate.decisions().await;
        flooders.spawn(async move {
            while *turn.wait_for(|turn| *turn != Turn::Without).await.unwrap() == Turn::Beside {
                let number = from + 4 * sent.fetch_add(1, Ordering::Relaxed) + kind as u64;
                scene.flood(&mut client, std::iter::once(number)).await;
            }
        });
    }
    let mut client = scene.tollgate.decisions().await;
    let mut callers = scene.callers.iter().cycle();
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..TURNS {
        for (this, times) in [Turn::Without, Turn::Beside].into_iter().zip(&mut times) {
            turn.send_replace(this);
            let end = Instant::now() + LENGTH;
            while Instant::now() < end {
                let began = Instant::now();
                assert_eq!(ask(&mut client, callers.next().unwrap()).await, pb::Provenance::Memory);
                times.push(began.elapsed());
            }
        }
    }
    turn.send_replace(Turn::Over);
    while let Some(flooder) = flooders.join_next().await {
        flooder.unwrap();
    }
    let [quiet, flooded] = times.map(|mut times| {
        times.sort_unstable();
        Times(times)
    });
    let sent = sent.load(Ordering::Relaxed);
    println!("{}: {} a second\n  without: {quiet}\n  beside:  {flooded}", REFUSED[kind], sent / TURNS);
    sent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a million bad tokens take a minute or two; it prints what they do to the others' times"]
async fn a_million_bad_tokens_push_out_no_remembered_one() {
    const FLOOD: u64 = 1_000_000;
    // Signatures are checked in turn where they come faster than that takes.
    let scene = Arc::new(Scene::set(TestClock::running()).await);
    // The dearest first: a whole signature check. The cheapest are known by their issuer.
    let mut sent = beside(&scene, 0, 0).await;
    sent += beside(&scene, 2, FLOOD * 4).await;
    let mut rest = JoinSet::new();
    for part in 0..2 {
        let scene = Arc::clone(&scene);
        let from = FLOOD * (8 + part);
        rest.spawn(async move {
            let mut client = scene.tollgate.decisions().await;
            for number in (from..from + FLOOD.saturating_sub(sent) / 2).step_by(usize::try_from(BATCH).unwrap()) {
                scene.flood(&mut client, number..number + BATCH).await;
            }
        });
    }
    while let Some(part) = rest.join_next().await {
        part.unwrap();
    }
    let mut client = scene.tollgate.decisions().await;
    for caller in &scene.callers {
        assert_eq!(ask(&mut client, caller).await, pb::Provenance::Memory);
    }
    assert_eq!(scene.tollgate.metric("tollgate_verdict_evictions_total").await.to_bits(), 0);
}
