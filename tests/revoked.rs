//! What was taken back stays so: several server processes, one log, and all that can go wrong between them.

mod behind;
mod kept;
mod lost;
mod spread;
mod topologies;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tollgate::decide::ports::Clock as _;
use tollgate::proto as pb;
use tollgate::proto::decision_service_client::DecisionServiceClient;
use tollgate::proto::revoke_target::Kind;
use tollgate::proto::token_service_client::TokenServiceClient;
use tollgate::server::SystemClock;
use tonic::Status;
use tonic::transport::Channel;

use crate::program::{logged, served};
use crate::support::calls::as_operator;
use crate::support::server::{SOON, question};
use crate::support::signer::Signer;
use crate::support::{Process, poll};

const ISSUER: &str = "https://auth.example.com";

/// How many of the log's entries in Redis are ours: one stands there always.
const ENTRIES: &str = "tollgate:{revocations}";

const CHANGES: &str = "tollgate:{revocations}:changes";

/// Whose tokens are asked about, and taken back.
struct Issuer(Signer);

impl Issuer {
    fn new() -> Self {
        Self(Signer::ec("a"))
    }

    /// A configuration that permits everything to its tokens: `store` is that section, `revocation` what is in that one.
    fn yaml(&self, store: &str, revocation: &str) -> String {
        format!(
            "{store}\nrevocation: {{ {revocation} }}\n\
             issuers: [{{ issuer: '{ISSUER}', audiences: [demo], operators: true, jwks: {{ keys: [{}] }} }}]\n\
             rules: [{{ match: {{ path: /** }} }}]",
            self.0.jwk()
        )
    }

    fn token(&self, claims: &Value) -> String {
        let now = SystemClock::start().now().wall.as_secs();
        let mut all = json!({ "iss": ISSUER, "sub": "bob", "aud": "demo", "iat": now, "exp": now + 3_600 });
        for (name, value) in claims.as_object().expect("claims are an object") {
            all[name] = value.clone();
        }
        self.0.token(&all)
    }

    /// A token of that session.
    fn of(&self, session: &str) -> String {
        self.token(&json!({ "sid": session }))
    }

    /// One that may take back, and ask.
    fn operator(&self) -> String {
        self.token(&json!({ "sub": "root", "scope": "tollgate:revoke tollgate:introspect" }))
    }
}

/// A server process.
struct Replica {
    process: Process,
    _folder: TempDir,
    admin: String,
    channel: Channel,
    operator: String,
    /// What `/readyz` said when it was ready for the first time.
    said_ready: Value,
}

impl Replica {
    /// Starts one, and waits until it is ready.
    async fn start(issuer: &Issuer, yaml: &str) -> Self {
        let (process, folder, url) = served(yaml).await;
        let admin = format!("http://{}", logged(&process, "admin").await);
        let channel = Channel::from_shared(url).expect("it is a URL").connect().await.expect("it serves");
        let operator = issuer.operator();
        let mut replica = Self { process, _folder: folder, admin, channel, operator, said_ready: Value::Null };
        replica.said_ready = poll(SOON, "the server is ready", async || {
            let (status, told) = replica.ready().await;
            (status == 200).then_some(told)
        })
        .await;
        replica
    }

    /// `allowed`, or why not.
    async fn verdict(&self, token: &str) -> String {
        verdict(&self.channel, token).await
    }

    /// The verdicts on so many tokens, asked together.
    async fn verdicts(&self, tokens: &[String]) -> Vec<String> {
        let mut decisions = DecisionServiceClient::new(self.channel.clone());
        let mut verdicts = Vec::new();
        for some in tokens.chunks(1_000) {
            let questions = some.iter().map(|token| question("GET", "/", Some(token))).collect();
            let answer = decisions.decide_batch(pb::DecideBatchRequest { questions }).await.expect("it is well formed");
            verdicts.extend(answer.into_inner().outcomes.into_iter().map(told));
        }
        verdicts
    }

    /// Asks until the verdict is `wanted`.
    async fn comes_to(&self, wanted: &str, token: &str) {
        poll(SOON, wanted, async || (self.verdict(token).await == wanted).then_some(())).await;
    }

    /// Takes sessions back.
    async fn revoke(&self, sessions: &[&str]) -> Result<Vec<pb::Revocation>, Status> {
        let session = |name: &&str| pb::RevokeTarget {
            kind: Some(Kind::Session(pb::IssuedName { issuer: ISSUER.to_owned(), name: (*name).to_owned() })),
        };
        let request = pb::RevokeRequest { targets: sessions.iter().map(session).collect(), ..Default::default() };
        let answer = self.tokens().revoke(as_operator(request, &self.operator)).await?;
        let written = |result: pb::RevokeResult| result.revocation.expect("it was written");
        Ok(answer.into_inner().results.into_iter().map(written).collect())
    }

    /// Takes one session back, for as long as it takes until somebody says that it is.
    async fn revoke_in_the_end(&self, session: &str) {
        poll(SOON, "a revocation", async || self.revoke(&[session]).await.ok()).await;
    }

    async fn undo(&self, id: String) {
        let request = pb::UnrevokeRequest { id, reason: String::new() };
        self.tokens().unrevoke(as_operator(request, &self.operator)).await.expect("it is there");
    }

    fn tokens(&self) -> TokenServiceClient<Channel> {
        TokenServiceClient::new(self.channel.clone())
    }

    /// The status and what is said at `/readyz`.
    async fn ready(&self) -> (u16, Value) {
        let (status, text) = self.page("/readyz").await;
        (status, serde_json::from_str(&text).expect("it is JSON"))
    }

    /// Waits until it says that it is behind, or no longer.
    async fn is_behind(&self, wanted: bool) -> Value {
        poll(SOON, &format!("behind: {wanted}"), async || {
            let (status, told) = self.ready().await;
            assert_eq!(status, 200, "to be behind makes no replica unready");
            (told["revocations"]["behind"] == wanted).then_some(told)
        })
        .await
    }

    /// The value of a series; 0 where there is none.
    async fn metric(&self, series: &str) -> f64 {
        let (_, text) = self.page("/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().expect("it is a number"))
    }

    /// Waits until a series is at least that.
    async fn counts(&self, series: &str, least: f64) {
        poll(SOON, series, async || (self.metric(series).await >= least - 0.5).then_some(())).await;
    }

    async fn page(&self, path: &str) -> (u16, String) {
        let client = reqwest::Client::builder().no_proxy().timeout(SOON).build().expect("nothing can be amiss");
        let answer = client.get(format!("{}{path}", self.admin)).send().await.expect("it answers");
        (answer.status().as_u16(), answer.text().await.expect("it answers in text"))
    }

    /// Asks again and again, from now on.
    fn watch(&self, token: &str) -> Watch {
        let (channel, token, over) = (self.channel.clone(), token.to_owned(), CancellationToken::new());
        let until = over.clone();
        let seen = tokio::spawn(async move {
            let mut seen = BTreeMap::new();
            while !until.is_cancelled() {
                *seen.entry(verdict(&channel, &token).await).or_default() += 1;
                sleep(Duration::from_millis(1)).await;
            }
            seen
        });
        Watch { seen, over }
    }
}

/// Who asks about a token all the time, so that no moment goes unseen.
struct Watch {
    seen: JoinHandle<BTreeMap<String, u32>>,
    over: CancellationToken,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.cancel();
    }
}

impl Watch {
    /// That the token was refused as revoked at every moment.
    async fn saw_it_revoked(mut self) {
        self.over.cancel();
        let seen = (&mut self.seen).await.expect("it does not panic");
        assert_eq!(seen.keys().collect::<Vec<_>>(), ["revoked"], "{seen:?}");
        assert!(seen["revoked"] > 10, "{seen:?}");
    }
}

async fn verdict(channel: &Channel, token: &str) -> String {
    let mut decisions = DecisionServiceClient::new(channel.clone());
    let answer = decisions.decide(question("GET", "/", Some(token))).await;
    answer.unwrap_or_else(|status| panic!("{status:?}")).into_inner().detail
}

fn told(outcome: pb::DecideOutcome) -> String {
    match outcome.kind.expect("there is an outcome") {
        pb::decide_outcome::Kind::Decision(answer) => answer.detail,
        pb::decide_outcome::Kind::Error(error) => panic!("{error:?}"),
    }
}

/// That section of the configuration, with a deadline that a busy machine meets.
fn in_redis(url: &str) -> String {
    format!("store: {{ redis: {{ urls: ['{url}'], deadline: 500ms }} }}")
}
