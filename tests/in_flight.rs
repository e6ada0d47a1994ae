//! Taking back what is just being looked at: the verdict comes when its token is revoked already, and is remembered.

use std::time::Duration;

use serde_json::{Value, json};
use tollgate::decide::ports::Clock as _;
use tollgate::proto as pb;
use tollgate::proto::revoke_target::Kind;
use tollgate::server::dev::DevIssuer;
use tonic::Request;

use crate::support::liar::{Liar, Says};
use crate::support::poll;
use crate::support::server::{SOON, TestClock, Tollgate};
use crate::support::signer::Signer;

const DEV: &str = "https://dev.tollgate.invalid";

/// What names the token; all is revoked of each.
fn targets() -> [Kind; 4] {
    let named = |name: &str| pb::IssuedName { issuer: "own".to_owned(), name: name.to_owned() };
    [Kind::Jti(named("t")), Kind::Session(named("s")), Kind::Subject(named("ann")), Kind::Issuer("own".to_owned())]
}

fn claims(clock: &TestClock) -> Value {
    let now = clock.now().wall.as_secs();
    json!({ "iss": "own", "aud": "demo", "sub": "ann", "sid": "s", "jti": "t", "iat": now, "exp": now + 3_600 })
}

/// A server that trusts an issuer which is asked at a place of the liar's, by `how`; and somebody who may revoke.
async fn trusting(how: &str) -> (Tollgate, String) {
    let dev = DevIssuer::new().expect("the system has randomness");
    let yaml = format!(
        "issuers:
  - {{ issuer: '{DEV}', audiences: [demo], operators: true, jwks: {{ keys: [{}] }} }}
  - {{ issuer: own, audiences: [demo], {how} }}
rules: [{{ match: {{ path: /** }} }}]
",
        dev.public_key()
    );
    let tollgate = Tollgate::start(&yaml).await;
    let token = dev.token("root", "tollgate:revoke", tollgate.clock.now().wall).expect("the system has randomness");
    (tollgate, format!("Bearer {token}"))
}

/// While the liar holds its answer about `token` back it is revoked; then the answer comes.
async fn revoked_meanwhile(tollgate: &Tollgate, operator: &str, token: &str, target: Kind, issuer: Held<'_>) {
    let Held { liar, place, answer } = issuer;
    liar.says(place, Says::Held);
    let visits = liar.visits(place);
    let revoke = async {
        poll(SOON, "the issuer is asked", async || (liar.visits(place) > visits).then_some(())).await;
        let targets = vec![pb::RevokeTarget { kind: Some(target) }];
        let mut request = Request::new(pb::RevokeRequest { targets, ..pb::RevokeRequest::default() });
        request.metadata_mut().insert("authorization", operator.parse().expect("it can be a header"));
        tollgate.tokens().await.revoke(request).await.expect("an operator may");
        liar.says(place, Says::Text(answer));
    };
    let (verdict, ()) = tokio::join!(tollgate.verdict("GET", "/", Some(token)), revoke);
    assert_eq!(verdict, "deny revoked");
    assert_eq!(tollgate.verdict("GET", "/", Some(token)).await, "deny revoked", "remembered");
    tollgate.clock.advance(Duration::from_mins(1));
    assert_eq!(tollgate.verdict("GET", "/", Some(token)).await, "deny revoked", "and later");
}

/// What the liar says in the end.
struct Held<'a> {
    liar: &'a Liar,
    place: &'static str,
    answer: String,
}

#[tokio::test]
async fn a_token_whose_issuer_is_just_being_asked_is_refused_and_stays_so() {
    for target in targets() {
        let liar = Liar::start().await;
        let place = "/introspect";
        let url = liar.url(place);
        let how = format!("introspection: {{ url: '{url}', client_id: tollgate, client_secret: a-secret }}");
        let (tollgate, operator) = trusting(&how).await;
        let mut answer = claims(&tollgate.clock);
        answer["active"] = true.into();
        let issuer = Held { liar: &liar, place, answer: answer.to_string() };
        revoked_meanwhile(&tollgate, &operator, "opaque", target, issuer).await;
    }
}

#[tokio::test]
async fn a_token_whose_key_is_just_being_fetched_is_refused_and_stays_so() {
    for target in targets() {
        let (liar, place) = (Liar::start().await, "/keys");
        let keys = |signers: &[&Signer]| {
            let keys: Vec<Value> = signers.iter().map(|signer| signer.jwk()).collect();
            json!({ "keys": keys }).to_string()
        };
        let (old, new) = (Signer::ec("old"), Signer::ec("new"));
        liar.says(place, Says::Text(keys(&[&old])));
        let (tollgate, operator) =
            trusting(&format!("jwks: {{ url: '{}' }}, refresh_cooldown: 1s", liar.url(place))).await;
        tollgate.clock.advance(Duration::from_secs(31));
        let token = new.token(&claims(&tollgate.clock));
        let issuer = Held { liar: &liar, place, answer: keys(&[&old, &new]) };
        revoked_meanwhile(&tollgate, &operator, &token, target, issuer).await;
    }
}
