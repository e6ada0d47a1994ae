//! What identity providers tell, over HTTP: real logouts of a real provider, and what is no such thing.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tollgate::decide::ports::{
    Answer, Away, AwayCause, Clock as _, Cursor, Listed, ListedRevocation, News, Place, RevocationLog, RevocationView,
    Snapshot, Standing,
};
use tollgate::decide::{Decider, Hearing};
use tollgate::domain::identity::Identity;
use tollgate::domain::path::{Method, Target};
use tollgate::domain::question::{Credential, Mode, Proofs, Question};
use tollgate::domain::revocation::{Cutoff, Entry, Mark, MarkId, Revocation, Wish, target_of};
use tollgate::domain::time::Moment;
use tollgate::quotas::QuotaDesk;
use tollgate::stores::memory::MemoryStore;
use tollgate::stores::proofs::MemoryProofs;
use tollgate::telemetry::{Facade, Telemetry};
use tollgate::tokens::Tokens;

use crate::support::oidc::{Browser, Oidc, Signature};
use crate::support::poll;
use crate::support::server::{SOON, TestClock, configuration};
use crate::support::signer::Signer;

const ORDERS: &str = "https://orders.example";
const LOGOUT: &str = "http://schemas.openid.net/event/backchannel-logout";
const FORM: &str = "application/x-www-form-urlencoded";
const EVENT: &str = "application/secevent+jwt";

/// Keeps what is taken back as it was written, and finds it by looking at all of it.
#[derive(Default)]
struct Notebook {
    written: Mutex<Vec<Revocation>>,
    away: AtomicBool,
}

const NOWHERE: Away = Away { because: AwayCause::Unreachable };

impl RevocationView for Notebook {
    fn standing<'a>(&'a self, identity: &Arc<Identity>, _: Moment) -> Answer<'a, Standing> {
        let hits = |entry: &Revocation| {
            let target = entry.target.borrowed();
            target_of(identity, target.kind) == Some(target) && entry.cutoff.hits(identity.issued_at)
        };
        let is_hit = self.written.lock().unwrap().iter().any(hits);
        Answer::Now(if is_hit { Standing::Revoked } else { Standing::Good })
    }
}

impl RevocationLog for Notebook {
    fn add(&self, wishes: Vec<Wish>, now: Moment) -> Answer<'_, Result<Vec<Revocation>, Away>> {
        if self.away.load(Ordering::Relaxed) {
            return Answer::Now(Err(NOWHERE));
        }
        let new: Vec<_> = wishes.into_iter().map(|wish| wish.written_at(now.wall)).collect();
        self.written.lock().unwrap().extend(new.clone());
        Answer::Now(Ok(new))
    }

    fn undo(&self, _: MarkId, _: Moment) -> Answer<'_, Result<Option<ListedRevocation>, Away>> {
        Answer::Now(Err(NOWHERE))
    }

    fn find(&self, _: Vec<Mark>, _: Moment) -> Answer<'_, Result<Vec<Option<Cutoff>>, Away>> {
        Answer::Now(Err(NOWHERE))
    }

    fn list(&self, _: Cursor, _: Moment) -> Answer<'_, Result<Listed, Away>> {
        Answer::Now(Err(NOWHERE))
    }

    fn news(&self, _: Place, _: Moment) -> Answer<'_, Result<News, Away>> {
        Answer::Now(Err(NOWHERE))
    }

    fn snapshot(&self, _: Cursor, _: Moment) -> Answer<'_, Result<Snapshot, Away>> {
        Answer::Now(Err(NOWHERE))
    }

    fn restore(&self, _: Vec<Entry>, _: Moment) -> Answer<'_, Result<(), Away>> {
        Answer::Now(Err(NOWHERE))
    }
}

/// Everything but the store of revocations, as a server has it.
struct Service {
    decider: Arc<Decider>,
    notebook: Arc<Notebook>,
    clock: Arc<TestClock>,
    http: SocketAddr,
    client: reqwest::Client,
    task: JoinHandle<()>,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Service {
    async fn start(issuers: &Value) -> Self {
        let yaml = format!("issuers: {issuers}\nrules: [{{ match: {{ path: /me }} }}]");
        let config = configuration(&yaml);
        let telemetry = Arc::new(Telemetry::new().unwrap());
        let (clock, notebook) = (TestClock::running(), Arc::<Notebook>::default());
        let proofs = Arc::new(MemoryProofs::new(1_000, &telemetry));
        let tokens = Tokens::new(Arc::clone(&clock) as _, Arc::clone(&telemetry), 1_000, proofs);
        tokens.adopt(config.issuers).unwrap();
        tokens.first_fetch().await;
        let decider = Arc::new(Decider::new(
            Arc::clone(&clock) as _,
            Arc::clone(&tokens) as _,
            Arc::clone(&notebook) as _,
            Arc::clone(&notebook) as _,
            Arc::new(QuotaDesk::new(Arc::new(MemoryStore::new(1_000, &telemetry)))),
            Arc::clone(&telemetry),
        ));
        decider.adopt(config.policy);
        let hearing = Hearing::new(Arc::clone(&decider), tokens, &telemetry);
        let router = tollgate::api::http::router(Arc::clone(&decider), Arc::new(hearing));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let http = listener.local_addr().unwrap();
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let client = reqwest::Client::builder().no_proxy().timeout(SOON).build().unwrap();
        Self { decider, notebook, clock, http, client, task }
    }

    /// One that believes the provider, and to which it tells logouts.
    async fn of(provider: &Oidc, with_session: bool) -> Self {
        let events = json!({"audiences": ["shop"]});
        let issuer = json!({"issuer": provider.issuer(), "audiences": [ORDERS], "events": events});
        let service = Self::start(&json!([issuer])).await;
        provider.tell_logouts(&service.url("/backchannel-logout"), with_session).await;
        service
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    async fn verdict(&self, token: &str) -> &'static str {
        let method = Method::parse("GET").unwrap();
        let question = Question {
            credential: Credential::Bearer(token),
            proofs: Proofs::default(),
            method,
            target: Target::parse("/me", method, None).unwrap(),
            host: None,
            source: None,
            resource: Vec::new(),
            extra: Vec::new(),
            units: 1,
            mode: Mode::Consume,
            explain: false,
        };
        self.decider.decide(&question, Facade::Unary).get().await.unwrap().reason.name()
    }

    async fn post(&self, path: &str, media_type: &str, body: String) -> (u16, Value) {
        let request = self.client.post(self.url(path)).header("content-type", media_type).body(body);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.headers()["cache-control"], "no-store");
        let status = answer.status().as_u16();
        let retry_after = answer.headers().get("retry-after").is_some();
        assert_eq!(retry_after, status == 503);
        (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default())
    }

    fn taken_back(&self) -> usize {
        self.notebook.written.lock().unwrap().len()
    }
}

#[tokio::test]
async fn a_session_that_ends_at_the_provider_ends_its_tokens_and_no_others() {
    let Some(provider) = Oidc::start().await else { return };
    let service = Service::of(&provider, true).await;
    let (mut here, mut there) = (Browser::new(&provider), Browser::new(&provider));
    let token = here.log_in("ann", ORDERS, Signature::Es256).await;
    let other = there.log_in("ann", ORDERS, Signature::EdDsa).await;
    assert_eq!((service.verdict(&token).await, service.verdict(&other).await), ("allowed", "allowed"));
    here.log_out().await;
    assert_eq!(service.verdict(&token).await, "revoked", "as soon as the provider has told it");
    assert_eq!(service.verdict(&other).await, "allowed", "another session of the same user");
    assert_eq!(service.taken_back(), 1);
    let again = here.log_in("ann", ORDERS, Signature::Rs256).await;
    assert_eq!(service.verdict(&again).await, "allowed", "a new session, in the same second or not");
}

#[tokio::test]
async fn a_logout_without_a_session_ends_all_that_the_user_has() {
    let Some(provider) = Oidc::start().await else { return };
    let service = Service::of(&provider, false).await;
    let (mut here, mut there) = (Browser::new(&provider), Browser::new(&provider));
    let (token, other) =
        (here.log_in("ann", ORDERS, Signature::Es256).await, there.log_in("ann", ORDERS, Signature::Es256).await);
    let bob = Browser::new(&provider).log_in("bob", ORDERS, Signature::Es256).await;
    here.log_out().await;
    assert_eq!((service.verdict(&token).await, service.verdict(&other).await), ("revoked", "revoked"));
    assert_eq!(service.verdict(&bob).await, "allowed");
    // In the second of the logout nobody can tell before from after.
    poll(SOON, "a login afterwards counts", async || {
        let again = Browser::new(&provider).log_in("ann", ORDERS, Signature::Es256).await;
        (service.verdict(&again).await == "allowed").then_some(())
    })
    .await;
}

/// A service with one issuer, whose key the test has.
async fn own() -> (Service, Signer) {
    let signer = Signer::ec("k");
    let issuer = json!({
        "issuer": "https://i.example", "audiences": ["orders"], "jwks": {"keys": [signer.jwk()]},
        "events": {"audiences": ["shop"]},
    });
    (Service::start(&json!([issuer])).await, signer)
}

fn signed(signer: &Signer, typ: &str, claims: &Value) -> String {
    signer.compact(&json!({"alg": "ES256", "kid": "k", "typ": typ}).to_string(), &claims.to_string())
}

fn form(token: &str) -> String {
    format!("logout_token={token}")
}

fn logout(service: &Service, id: &str) -> Value {
    let now = service.clock.now().wall.as_secs();
    json!({"iss": "https://i.example", "aud": "shop", "iat": now, "jti": id, "sid": "s", "events": {LOGOUT: {}}})
}

fn event(service: &Service, id: &str) -> Value {
    let now = service.clock.now().wall.as_secs();
    let uri = "https://schemas.openid.net/secevent/risc/event-type/account-disabled";
    let subject = json!({"format": "iss_sub", "iss": "https://i.example", "sub": "ann"});
    json!({"iss": "https://i.example", "aud": "shop", "iat": now, "jti": id, "sub_id": subject, "events": {uri: {}}})
}

fn access(service: &Service) -> Value {
    let now = service.clock.now().wall.as_secs();
    json!({
        "iss": "https://i.example", "aud": ["orders", "shop"], "sub": "ann", "sid": "s", "jti": "a", "iat": now,
        "exp": now + 300,
    })
}

#[tokio::test]
async fn a_logout_token_is_answered_as_the_specification_says_and_a_replay_does_nothing() {
    let (service, signer) = own().await;
    let token = signed(&signer, "at+jwt", &access(&service));
    assert_eq!(service.verdict(&token).await, "allowed");
    let told = form(&signed(&signer, "logout+jwt", &logout(&service, "1")));
    service.notebook.away.store(true, Ordering::Relaxed);
    let (status, body) = service.post("/backchannel-logout", FORM, told.clone()).await;
    assert_eq!((status, body["error"].as_str()), (503, Some("temporarily_unavailable")));
    service.notebook.away.store(false, Ordering::Relaxed);
    for _ in 0..2 {
        assert_eq!(service.post("/backchannel-logout", FORM, told.clone()).await, (200, Value::Null));
        assert_eq!(service.verdict(&token).await, "revoked");
    }
    assert_eq!(service.taken_back(), 1);
    for (media_type, body, status) in [
        (FORM, String::new(), 400),
        (FORM, "logout_token=".to_owned(), 400),
        (FORM, format!("{told}&{told}"), 400),
        (FORM, "logout_token=a.b.c".to_owned(), 400),
        (FORM, format!("logout_token={}", "a".repeat(64 * 1024)), 413),
        ("application/json", told.clone(), 415),
    ] {
        let (answered, body) = service.post("/backchannel-logout", media_type, body).await;
        assert_eq!((answered, body["error"].as_str()), (status, Some("invalid_request")), "{body}");
    }
    let mut others = logout(&service, "2");
    others["aud"] = json!("another client");
    let (status, body) = service.post("/backchannel-logout", FORM, form(&signed(&signer, "JWT", &others))).await;
    assert_eq!((status, body["error"].as_str()), (400, Some("invalid_request")));
    assert!(body["error_description"].as_str().is_some_and(|text| text.contains("events.audiences")), "{body}");
    assert_eq!(service.taken_back(), 1);
}

#[tokio::test]
async fn a_pushed_event_is_answered_as_the_specification_says_and_a_replay_does_nothing() {
    let (service, signer) = own().await;
    let token = signed(&signer, "at+jwt", &access(&service));
    assert_eq!(service.verdict(&token).await, "allowed");
    let told = signed(&signer, "secevent+jwt", &event(&service, "1"));
    service.notebook.away.store(true, Ordering::Relaxed);
    assert_eq!(service.post("/events", EVENT, told.clone()).await.0, 503);
    service.notebook.away.store(false, Ordering::Relaxed);
    for _ in 0..2 {
        assert_eq!(service.post("/events", EVENT, told.clone()).await, (202, Value::Null));
        assert_eq!(service.verdict(&token).await, "revoked");
    }
    assert_eq!(service.taken_back(), 1);
    let changed = |name: &str, value: Value| {
        let mut claims = event(&service, "2");
        claims[name] = value;
        signed(&signer, "secevent+jwt", &claims)
    };
    let thief = signed(&Signer::ec("k"), "secevent+jwt", &event(&service, "2"));
    for (media_type, body, status, err) in [
        (EVENT, String::new(), 400, "invalid_request"),
        (EVENT, changed("iss", json!("https://else.example")), 400, "invalid_issuer"),
        (EVENT, changed("aud", json!("else")), 400, "invalid_audience"),
        (EVENT, changed("events", json!("x")), 400, "invalid_request"),
        (EVENT, thief, 400, "invalid_key"),
        (EVENT, "a".repeat(64 * 1024 + 1), 413, "invalid_request"),
        (FORM, told.clone(), 415, "invalid_request"),
    ] {
        let (answered, body) = service.post("/events", media_type, body).await;
        assert_eq!((answered, body["err"].as_str()), (status, Some(err)), "{body}");
        assert!(body["description"].is_string());
    }
    assert_eq!(service.taken_back(), 1);
}

#[tokio::test]
async fn an_access_token_sent_to_where_logouts_and_events_come_in_takes_nothing_back() {
    let (service, signer) = own().await;
    for typ in ["at+jwt", "JWT", "logout+jwt", "secevent+jwt"] {
        let token = signed(&signer, typ, &access(&service));
        let (status, body) = service.post("/backchannel-logout", FORM, form(&token)).await;
        assert_eq!((status, body["error"].as_str()), (400, Some("invalid_request")), "{typ}");
        let (status, body) = service.post("/events", EVENT, token).await;
        assert_eq!((status, body["err"].as_str()), (400, Some("invalid_request")), "{typ}");
    }
    assert_eq!(service.taken_back(), 0);
    let token = signed(&signer, "at+jwt", &access(&service));
    assert_eq!(service.verdict(&token).await, "allowed");
}
