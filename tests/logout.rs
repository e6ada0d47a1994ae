//! What identity providers tell, over HTTP: real logouts of a real provider, and what is no such thing.

use serde_json::{Value, json};
use tollgate::decide::ports::Clock as _;

use crate::support::liar::{Liar, Says};
use crate::support::oidc::{Browser, Oidc, Signature};
use crate::support::poll;
use crate::support::server::{SOON, TestClock, Tollgate};
use crate::support::signer::Signer;

const ORDERS: &str = "https://orders.example";
const LOGOUT: &str = "http://schemas.openid.net/event/backchannel-logout";
const FORM: &str = "application/x-www-form-urlencoded";
const EVENT: &str = "application/secevent+jwt";

/// A server, and who posts to it.
struct Service {
    tollgate: Tollgate,
    client: reqwest::Client,
}

impl Service {
    async fn start(issuers: &Value) -> Self {
        let yaml = format!("issuers: {issuers}\nrules: [{{ match: {{ path: /me }} }}]");
        let tollgate = Tollgate::start_with(&yaml, TestClock::running()).await;
        let client = reqwest::Client::builder().no_proxy().timeout(SOON).build().unwrap();
        Self { tollgate, client }
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
        format!("http://{}{path}", self.tollgate.server.http)
    }

    async fn verdict(&self, token: &str) -> String {
        self.tollgate.verdict("GET", "/me", Some(token)).await
    }

    async fn post(&self, path: &str, media_type: &str, body: String) -> (u16, Value) {
        let request = self.client.post(self.url(path)).header("content-type", media_type).body(body);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.headers()["cache-control"], "no-store");
        let status = answer.status().as_u16();
        assert_eq!(answer.headers().contains_key("retry-after"), status == 503);
        (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default())
    }

    /// How many logouts and events have taken something back.
    async fn taken_back(&self) -> String {
        let counted = async |kind: &str| {
            let series = format!("tollgate_provider_events_total{{kind=\"{kind}\",outcome=\"taken_back\"}}");
            self.tollgate.metric(&series).await
        };
        (counted("logout").await + counted("event").await).to_string()
    }

    fn now(&self) -> u64 {
        self.tollgate.clock.now().wall.as_secs()
    }
}

#[tokio::test]
async fn a_session_that_ends_at_the_provider_ends_its_tokens_and_no_others() {
    let Some(provider) = Oidc::start().await else { return };
    let service = Service::of(&provider, true).await;
    let (mut here, mut there) = (Browser::new(&provider), Browser::new(&provider));
    let token = here.log_in("ann", ORDERS, Signature::Es256).await;
    let other = there.log_in("ann", ORDERS, Signature::EdDsa).await;
    assert_eq!([service.verdict(&token).await, service.verdict(&other).await], ["allow", "allow"]);
    here.log_out().await;
    assert_eq!(service.verdict(&token).await, "deny revoked", "as soon as the provider has told it");
    assert_eq!(service.verdict(&other).await, "allow", "another session of the same user");
    assert_eq!(service.taken_back().await, "1");
    let again = here.log_in("ann", ORDERS, Signature::Rs256).await;
    assert_eq!(service.verdict(&again).await, "allow", "a new session, in the same second or not");
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
    assert_eq!([service.verdict(&token).await, service.verdict(&other).await], ["deny revoked", "deny revoked"]);
    assert_eq!(service.verdict(&bob).await, "allow");
    // In the second of the logout nobody can tell before from after.
    poll(SOON, "a login afterwards counts", async || {
        let again = Browser::new(&provider).log_in("ann", ORDERS, Signature::Es256).await;
        (service.verdict(&again).await == "allow").then_some(())
    })
    .await;
}

#[tokio::test]
async fn events_that_are_not_pushed_are_fetched_and_acknowledged() {
    let (liar, signer) = (Liar::start().await, Signer::ec("k"));
    let issuer = json!({
        "issuer": "https://i.example", "audiences": ["orders"], "jwks": {"keys": [signer.jwk()]},
        "events": {"audiences": ["shop"], "poll": liar.url("/poll")},
    });
    liar.says("/poll", Says::Text(json!({"sets": {}}).to_string()));
    let service = Service::start(&json!([issuer])).await;
    let token = signed(&signer, "at+jwt", &access(&service));
    assert_eq!(service.verdict(&token).await, "allow");
    let told = signed(&signer, "secevent+jwt", &event(&service, "1"));
    liar.says("/poll", Says::Text(json!({"sets": {"1": told}}).to_string()));
    poll(SOON, "the event", async || (service.verdict(&token).await == "deny revoked").then_some(())).await;
    poll(SOON, "the acknowledgement", async || liar.heard("/poll").contains(r#""ack":["1"]"#).then_some(())).await;
    assert_eq!(service.taken_back().await, "1");
}

/// A service with an issuer whose key the test has, and one whose keys nobody can have.
async fn own() -> (Service, Signer) {
    let signer = Signer::ec("k");
    let issuer = json!({
        "issuer": "https://i.example", "audiences": ["orders"], "jwks": {"keys": [signer.jwk()]},
        "events": {"audiences": ["shop"]},
    });
    let away = json!({
        "issuer": "https://away.example", "audiences": ["orders"], "jwks": {"url": "http://127.0.0.1:9/keys"},
        "events": {"audiences": ["shop"]},
    });
    (Service::start(&json!([issuer, away])).await, signer)
}

/// The same, of the issuer whose keys nobody can have.
fn of_one_away(mut claims: Value) -> Value {
    claims["iss"] = json!("https://away.example");
    claims
}

fn signed(signer: &Signer, typ: &str, claims: &Value) -> String {
    signer.compact(&json!({"alg": "ES256", "kid": "k", "typ": typ}).to_string(), &claims.to_string())
}

fn form(token: &str) -> String {
    format!("logout_token={token}")
}

fn logout(service: &Service, id: &str) -> Value {
    let now = service.now();
    json!({"iss": "https://i.example", "aud": "shop", "iat": now, "jti": id, "sid": "s", "events": {LOGOUT: {}}})
}

fn event(service: &Service, id: &str) -> Value {
    let now = service.now();
    let uri = "https://schemas.openid.net/secevent/risc/event-type/account-disabled";
    let subject = json!({"format": "iss_sub", "iss": "https://i.example", "sub": "ann"});
    json!({"iss": "https://i.example", "aud": "shop", "iat": now, "jti": id, "sub_id": subject, "events": {uri: {}}})
}

fn access(service: &Service) -> Value {
    let now = service.now();
    json!({
        "iss": "https://i.example", "aud": ["orders", "shop"], "sub": "ann", "sid": "s", "jti": "a", "iat": now,
        "exp": now + 300,
    })
}

#[tokio::test]
async fn a_logout_token_is_answered_as_the_specification_says_and_a_replay_does_nothing() {
    let (service, signer) = own().await;
    let token = signed(&signer, "at+jwt", &access(&service));
    assert_eq!(service.verdict(&token).await, "allow");
    let told = form(&signed(&signer, "logout+jwt", &logout(&service, "1")));
    let away = signed(&signer, "logout+jwt", &of_one_away(logout(&service, "1")));
    let (status, body) = service.post("/backchannel-logout", FORM, form(&away)).await;
    assert_eq!((status, body["error"].as_str()), (503, Some("temporarily_unavailable")));
    for _ in 0..2 {
        assert_eq!(service.post("/backchannel-logout", FORM, told.clone()).await, (200, Value::Null));
        assert_eq!(service.verdict(&token).await, "deny revoked");
    }
    assert_eq!(service.taken_back().await, "1");
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
    assert_eq!(service.taken_back().await, "1");
}

#[tokio::test]
async fn a_pushed_event_is_answered_as_the_specification_says_and_a_replay_does_nothing() {
    let (service, signer) = own().await;
    let token = signed(&signer, "at+jwt", &access(&service));
    assert_eq!(service.verdict(&token).await, "allow");
    let told = signed(&signer, "secevent+jwt", &event(&service, "1"));
    let away = signed(&signer, "secevent+jwt", &of_one_away(event(&service, "1")));
    assert_eq!(service.post("/events", EVENT, away).await.0, 503);
    for _ in 0..2 {
        assert_eq!(service.post("/events", EVENT, told.clone()).await, (202, Value::Null));
        assert_eq!(service.verdict(&token).await, "deny revoked");
    }
    assert_eq!(service.taken_back().await, "1");
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
    assert_eq!(service.taken_back().await, "1");
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
    assert_eq!(service.taken_back().await, "0");
    let token = signed(&signer, "at+jwt", &access(&service));
    assert_eq!(service.verdict(&token).await, "allow");
}
