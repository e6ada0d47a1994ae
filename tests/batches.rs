//! A batch is so many questions one after the other: what each is answered is what it would be answered alone, at its own place,
//! whatever happens in between.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, Weak};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::FutureExt as _;
use futures_util::future::{self, Either};
use proptest::prelude::*;
use prost::Message as _;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tollgate::api::native::Decisions;
use tollgate::config::{self, Config};
use tollgate::decide::ports::Clock;
use tollgate::decide::{Decider, Wanted, Way};
use tollgate::domain::policy::Policy;
use tollgate::domain::revocation::{Target, TargetKind, Trust, WhenBehind, Which};
use tollgate::domain::time::{Micros, Moment};
use tollgate::proto as pb;
use tollgate::proto::credential::Kind;
use tollgate::proto::decide_outcome::Kind as Outcome;
use tollgate::quotas::QuotaDesk;
use tollgate::revocation::{Follower, Revocations};
use tollgate::stores::memory::MemoryStore;
use tollgate::stores::proofs::MemoryProofs;
use tollgate::stores::revocations::MemoryRevocations;
use tollgate::telemetry::Telemetry;
use tollgate::tokens::Tokens;
use tonic_types::StatusExt as _;

use crate::support::authority::{Authority, Holder};
use crate::support::signer::Signer;

const ISSUER: &str = "https://issuer.example";

/// When all this happens, in seconds since the epoch.
const NOW: u64 = 1_800_000_000;

/// How much is remembered: more than there is.
const ROOM: usize = 1_000;

/// The id of the token that is taken back on the way.
const TAKEN_BACK: &str = "token-2";

/// Who signs, who signs after the reload, too, and what is shown.
struct Cast {
    signer: Signer,
    other: Signer,
    credentials: Vec<pb::Credential>,
}

static CAST: LazyLock<Cast> = LazyLock::new(|| {
    let (signer, other, client) = (Signer::ed("k"), Signer::ec("l"), Signer::ec("m"));
    let holder = Authority::new("clients").day(&["client.example"]);
    let token = |signer: &Signer, name: &str, more: Value| {
        let mut claims = json!({
            "iss": ISSUER, "aud": "orders", "sub": "ann", "client_id": "shop", "jti": name,
            "scope": "orders:read orders:write", "iat": NOW - 10, "exp": NOW + 300,
        });
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        signer.token(&claims)
    };
    let plain = token(&signer, "token-1", json!({}));
    let bound = token(&signer, "token-3", json!({"cnf": {"jkt": thumbprint(&client)}}));
    let certified = json!({"cnf": {"x5t#S256": b64(digest(&SHA256, &holder.der))}});
    let certified = token(&signer, "token-4", certified);
    let proof = |id: &str| proof(&client, &bound, id);
    let credentials = vec![
        pb::Credential::default(),
        bearer(""),
        bearer("no token"),
        bearer(&plain),
        // Each as long as the good one, and with its last characters.
        bearer(&altered(&plain, 20)),
        bearer(&altered(&plain, plain.len() / 2)),
        bearer(&altered(&plain, plain.len() - 30)),
        bearer(&token(&signer, TAKEN_BACK, json!({}))),
        bearer(&token(&signer, "token-5", json!({"sub": "bob"}))),
        bearer(&token(&signer, "token-6", json!({"scope": "orders:count"}))),
        bearer(&token(&signer, "token-7", json!({"exp": NOW + 20 - 60}))),
        bearer(&token(&signer, "token-8", json!({"exp": NOW - 100, "iat": NOW - 200}))),
        bearer(&token(&other, "token-9", json!({}))),
        bearer(&bound),
        with_proofs(&bound, &[]),
        with_proofs(&bound, &[proof("1")]),
        with_proofs(&bound, &[proof("2")]),
        with_proofs(&plain, &[proof("3")]),
        bearer(&certified),
        with_certificate(bearer(&certified), &holder),
        with_certificate(bearer(&plain), &holder),
    ];
    Cast { signer, other, credentials }
});

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn bearer(token: &str) -> pb::Credential {
    pb::Credential { kind: Some(Kind::BearerToken(token.to_owned())), ..pb::Credential::default() }
}

fn with_proofs(token: &str, proofs: &[String]) -> pb::Credential {
    let kind = Some(Kind::Authorization(format!("DPoP {token}")));
    pb::Credential { kind, dpop_proofs: proofs.to_vec(), ..pb::Credential::default() }
}

fn with_certificate(credential: pb::Credential, holder: &Holder) -> pb::Credential {
    let kind = Some(pb::client_certificate::Kind::Der(holder.der.clone()));
    pb::Credential { client_certificate: Some(pb::ClientCertificate { kind }), ..credential }
}

/// Another character at that place.
fn altered(token: &str, place: usize) -> String {
    let other = if token.as_bytes()[place] == b'A' { "B" } else { "A" };
    [&token[..place], other, &token[place + 1..]].concat()
}

fn public_key(signer: &Signer) -> Value {
    let Value::Object(mut jwk) = signer.jwk() else { unreachable!("a key is an object") };
    jwk.remove("kid");
    jwk.into()
}

/// RFC 7638.
fn thumbprint(signer: &Signer) -> String {
    let key = public_key(signer);
    let text = format!(r#"{{"crv":{},"kty":{},"x":{},"y":{}}}"#, key["crv"], key["kty"], key["x"], key["y"]);
    b64(digest(&SHA256, text.as_bytes()))
}

/// Of `client`, for a call of `/orders/1` with `token`.
fn proof(client: &Signer, token: &str, id: &str) -> String {
    let header = json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": public_key(client)});
    let ath = b64(digest(&SHA256, token.as_bytes()));
    let url = "https://shop.example.com/orders/1";
    let claims = json!({"jti": id, "htm": "GET", "htu": url, "iat": NOW, "ath": ath});
    client.compact(&header.to_string(), &claims.to_string())
}

/// Under which configuration; after the reload fewer keys are trusted, and rules demand more.
#[derive(Clone, Copy)]
enum Configured {
    Before,
    After,
}

fn config(configured: Configured) -> Config {
    let Cast { signer, other, .. } = &*CAST;
    let (keys, scopes) = match configured {
        Configured::Before => (format!("{}, {}", signer.jwk(), other.jwk()), "orders:read"),
        Configured::After => (other.jwk().to_string(), "orders:write"),
    };
    let yaml = format!(
        "issuers: [{{ issuer: {ISSUER}, audiences: [orders], jwks: {{ keys: [{keys}] }} }}]\n\
         limits:\n  \
           per-subject: {{ units: 9, window: 10s, by: [identity.subject] }}\n  \
           all: {{ units: 50, window: 1m }}\n\
         rules:\n  \
           - {{ name: public, match: {{ path: /public/** }}, permit: anyone }}\n  \
           - {{ name: orders, match: {{ path: /orders/** }}, require: {{ scopes: ['{scopes}'] }}, \
                limits: [per-subject, all] }}\n"
    );
    config::parse(&yaml, "batches.yaml", &|_| None).unwrap().0
}

/// What happens between two questions.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// So many seconds pass.
    Pass(u64),
    /// Somebody sets the clock back by so many.
    SetBack(u64),
    /// A token is taken back.
    TakeBack,
    /// The configuration is read again.
    Reload,
}

/// A clock by which `decide` goes, once a question: what is to happen before a question happens when it is read for it.
struct Script {
    wall: AtomicU64,
    steady: AtomicU64,
    read: AtomicUsize,
    /// By the number of the question that they come before.
    events: Mutex<VecDeque<(usize, Event)>>,
    /// Whether one is happening: it reads the clock, too.
    happening: AtomicBool,
    replica: OnceLock<(Weak<Decider>, Weak<Tokens>)>,
}

impl Script {
    fn new(mut events: Vec<(usize, Event)>) -> Self {
        events.sort_by_key(|(before, _)| *before);
        Self {
            wall: AtomicU64::new(Micros::from_secs(NOW).0),
            steady: AtomicU64::new(Micros::from_secs(1_000).0),
            read: AtomicUsize::new(0),
            events: Mutex::new(events.into()),
            happening: AtomicBool::new(false),
            replica: OnceLock::new(),
        }
    }

    fn happen(&self, event: Event) {
        let (decider, tokens) = self.replica.get().unwrap();
        let (decider, tokens) = (decider.upgrade().unwrap(), tokens.upgrade().unwrap());
        match event {
            Event::Pass(secs) => {
                self.wall.fetch_add(Micros::from_secs(secs).0, Ordering::SeqCst);
                self.steady.fetch_add(Micros::from_secs(secs).0, Ordering::SeqCst);
            }
            Event::SetBack(secs) => drop(self.wall.fetch_sub(Micros::from_secs(secs).0, Ordering::SeqCst)),
            Event::TakeBack => {
                let wanted = Wanted {
                    target: Target::new(TargetKind::Token, ISSUER, TAKEN_BACK.as_bytes()),
                    which: Which::All,
                    expires_at: None,
                    reason: "a test".into(),
                    by: "a test".into(),
                };
                assert!(decider.take_back(vec![wanted], Way::Grpc).get().now_or_never().unwrap().is_ok());
            }
            Event::Reload => {
                let Config { issuers, policy, .. } = config(Configured::After);
                decider.adopt_with(Policy { version: 2, ..policy }, || tokens.adopt(issuers).unwrap());
            }
        }
    }

    fn is(&self) -> Moment {
        let [wall, steady] = [&self.wall, &self.steady].map(|part| Micros(part.load(Ordering::SeqCst)));
        Moment { wall, steady }
    }
}

impl Clock for Script {
    fn now(&self) -> Moment {
        if !self.happening.swap(true, Ordering::SeqCst) {
            let question = self.read.fetch_add(1, Ordering::SeqCst);
            while let Some((_, event)) = self.events.lock().unwrap().pop_front_if(|(before, _)| *before <= question) {
                self.happen(event);
            }
            self.happening.store(false, Ordering::SeqCst);
        }
        self.is()
    }

    fn steady(&self) -> Micros {
        self.is().steady
    }
}

/// The same time, for all who do not decide.
struct Beside(Arc<Script>);

impl Clock for Beside {
    fn now(&self) -> Moment {
        self.0.is()
    }
}

/// One that decides, and to which all of `events` happen.
struct Replica {
    decisions: Decisions,
    telemetry: Arc<Telemetry>,
    _tokens: Arc<Tokens>,
    _decider: Arc<Decider>,
}

impl Replica {
    async fn start(events: Vec<(usize, Event)>) -> Self {
        let (script, telemetry) = (Arc::new(Script::new(events)), Arc::new(Telemetry::default()));
        let clock: Arc<dyn Clock> = Arc::new(Beside(Arc::clone(&script)));
        let proofs = Arc::new(MemoryProofs::new(ROOM, &telemetry));
        let tokens = Tokens::new(Arc::clone(&clock), Arc::clone(&telemetry), ROOM, proofs).unwrap();
        let Config { issuers, policy, .. } = config(Configured::Before);
        tokens.adopt(issuers).unwrap();
        let trust = Trust { max_lag: Micros::from_secs(100_000), when_behind: WhenBehind::Ask };
        let revocations = Arc::new(Revocations::new(Arc::new(MemoryRevocations::new()), trust, &telemetry));
        let follower = pin!(Follower::new(Arc::clone(&revocations), clock).run());
        let settled = pin!(revocations.settled());
        assert!(matches!(future::select(follower, settled).await, Either::Right(_)));
        let decider = Arc::new(Decider::new(
            Arc::clone(&script) as _,
            Arc::clone(&tokens) as _,
            Arc::clone(&revocations) as _,
            Arc::clone(&revocations) as _,
            Arc::new(QuotaDesk::new(Arc::new(MemoryStore::new(ROOM, &telemetry)))),
            Arc::clone(&telemetry),
        ));
        decider.adopt(Policy { version: 1, ..policy });
        assert!(script.replica.set((Arc::downgrade(&decider), Arc::downgrade(&tokens))).is_ok());
        let decisions = Decisions::new(Arc::clone(&decider), "replica", CancellationToken::new());
        Self { decisions, telemetry, _tokens: tokens, _decider: decider }
    }

    async fn ask_together(&self, questions: &[pb::DecideRequest]) -> Vec<Answered> {
        let batch = pb::DecideBatchRequest { questions: questions.to_vec() }.encode_to_vec();
        let answer = self.decisions.decide_batch(&batch).await.unwrap().message().unwrap();
        let answered = |outcome: pb::DecideOutcome| match outcome.kind.unwrap() {
            Outcome::Decision(decision) => Ok(decision),
            Outcome::Error(error) => {
                Err(error.violations.into_iter().map(|wrong| (wrong.field, wrong.description)).collect())
            }
        };
        answer.outcomes.into_iter().map(answered).collect()
    }

    async fn ask_alone(&self, question: &pb::DecideRequest) -> Answered {
        let answer = self.decisions.decide(&question.encode_to_vec()).await;
        answer.map(|answer| answer.message().unwrap()).map_err(|status| {
            let details = status.get_error_details();
            let wrong = details.bad_request().unwrap().field_violations.iter();
            wrong.map(|wrong| (wrong.field.clone(), wrong.description.clone())).collect()
        })
    }

    /// What was counted; not by which method.
    fn counted(&self) -> Vec<String> {
        let text = self.telemetry.render().replace("\"decide_batch\"", "\"decide\"");
        let counts = ["tollgate_decisions_total", "tollgate_verdict", "tollgate_dpop_proofs_refused"];
        let lines = text.lines().filter(|line| counts.iter().any(|name| line.starts_with(name)));
        let mut lines: Vec<String> = lines.map(str::to_owned).collect();
        lines.sort();
        lines
    }
}

/// A decision, or the fields that are wrong, each with what is wrong with it.
type Answered = Result<pb::DecideResponse, Vec<(String, String)>>;

prop_compose! {
    /// Mostly with the credential that many show.
    fn question()(
        credential in prop_oneof![Just(3), 0..CAST.credentials.len()],
        path in prop_oneof![4 => Just("/orders/1"), 1 => Just("/public/1"), 1 => Just("/elsewhere"), 1 => Just("/a//b")],
        mode in prop_oneof![4 => Just(pb::QuotaMode::Consume), 1 => Just(pb::QuotaMode::Peek)],
        units in prop::option::of(0..3_u64),
        explain: bool,
    ) -> pb::DecideRequest {
        pb::DecideRequest {
            credential: Some(CAST.credentials[credential].clone()),
            request: Some(pb::RequestAttributes {
                method: "GET".to_owned(),
                path: path.to_owned(),
                host: "shop.example.com".to_owned(),
                ..pb::RequestAttributes::default()
            }),
            units,
            mode: mode.into(),
            explain,
            ..pb::DecideRequest::default()
        }
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => prop_oneof![Just(1), Just(15), Just(300)].prop_map(Event::Pass),
        1 => Just(30).prop_map(Event::SetBack),
        2 => Just(Event::TakeBack),
        1 => Just(Event::Reload),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_batch_is_answered_as_its_questions_are_one_by_one(
        batches in prop::collection::vec(prop::collection::vec(question(), 1..24), 1..4),
        events in prop::collection::vec((0..48_usize, event()), 0..4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (together, alone) = runtime.block_on(async {
            let (one, other) = (Replica::start(events.clone()).await, Replica::start(events).await);
            let (mut together, mut alone) = (Vec::new(), Vec::new());
            for batch in &batches {
                together.extend(one.ask_together(batch).await);
                for question in batch {
                    alone.push(other.ask_alone(question).await);
                }
            }
            ((together, one.counted()), (alone, other.counted()))
        });
        prop_assert_eq!(together, alone);
    }
}

/// Else the property above would hold of answers that are all alike.
#[tokio::test]
async fn what_happens_within_a_batch_shows_from_the_next_question_on() {
    let question = |credential: usize| pb::DecideRequest {
        credential: Some(CAST.credentials[credential].clone()),
        request: Some(pb::RequestAttributes {
            method: "GET".to_owned(),
            path: "/orders/1".to_owned(),
            host: "shop.example.com".to_owned(),
            ..pb::RequestAttributes::default()
        }),
        ..pb::DecideRequest::default()
    };
    let events = vec![(5, Event::TakeBack), (9, Event::Pass(30)), (14, Event::Reload)];
    let shown = [3, 3, 6, 7, 7, 7, 3, 10, 10, 10, 15, 15, 19, 12, 12, 3];
    let replica = Replica::start(events).await;
    let answers = replica.ask_together(&shown.map(question)).await;
    let details: Vec<String> = answers.into_iter().map(|answer| answer.unwrap().detail).collect();
    let expected = "allowed allowed bad_signature allowed allowed \
        revoked allowed allowed allowed \
        expired allowed invalid_dpop_proof allowed allowed \
        allowed unknown_key";
    assert_eq!(details.join(" "), expected);
}
