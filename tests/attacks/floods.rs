//! Floods of tokens that fail: what they cost the issuer whose keys they name, and everybody else.

use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::recipe::{NOW, Recipe};
use super::{World, outcome};
use crate::support::liar::Says;
use crate::support::server::{TestClock, Tollgate, question};

/// How many tokens come at once.
const FLOOD: usize = 200;

const KEYS: &str = "/keys/flooded";
const FLOODED: &str = "https://flooded.example";
const OTHER: &str = "https://b.example";

/// A service that trusts an issuer whose keys the web server publishes, and others.
async fn flooded() -> (World, Tollgate) {
    let mut world = World::new().await;
    world.liar.says(KEYS, Says::Text(json!({"keys": [world.signers.get("k").jwk()]}).to_string()));
    let jwks = json!({"url": world.liar.url(KEYS)});
    world.issuers.push(json!({"issuer": FLOODED, "audiences": ["orders"], "jwks": jwks}));
    let tollgate = Tollgate::start_with(&world.configuration(), TestClock::at(NOW)).await;
    assert_eq!(world.liar.visits(KEYS), 1);
    (world, tollgate)
}

fn token(world: &World, iss: &str, recipe: serde_json::Value) -> String {
    let recipe: Recipe = serde_json::from_value(recipe).expect("it is a recipe");
    recipe.token(iss, &world.signers)
}

/// Shows all of them at once, and says what came of each.
async fn pour(tollgate: &Tollgate, tokens: impl IntoIterator<Item = String>) -> JoinSet<String> {
    let client = tollgate.decisions().await;
    let mut flood = JoinSet::new();
    for token in tokens {
        let mut client = client.clone();
        flood.spawn(async move { outcome(&mut client, question("GET", "/me", Some(&token))).await });
    }
    flood
}

#[tokio::test]
async fn made_up_keys_cost_an_issuer_one_refresh_and_slow_no_other() {
    let (world, tollgate) = flooded().await;
    // From here on the issuer stalls: whoever waits for its keys waits for as long as that is allowed.
    world.liar.says(KEYS, Says::Silent);
    let start = Instant::now();
    let made_up =
        (0..FLOOD).map(|index| token(&world, FLOODED, json!({"header": {"kid": format!("made up {index}")}})));
    let flood = pour(&tollgate, made_up).await;
    let others =
        (0..FLOOD).map(|index| token(&world, OTHER, json!({"signer": "b", "claims": {"jti": index.to_string()}})));
    for answer in pour(&tollgate, others).await.join_all().await {
        assert_eq!(answer, "allow");
    }
    let others_took = start.elapsed();
    for answer in flood.join_all().await {
        assert_eq!(answer, "unknown_key");
    }
    assert!(others_took < start.elapsed(), "the others waited until the flood was over: {others_took:?}");
    assert_eq!(world.liar.visits(KEYS), 2, "one at the start, one because of the flood");
    let known = token(&world, FLOODED, json!({}));
    assert_eq!(tollgate.verdict("GET", "/me", Some(&known)).await, "allow", "its good tokens stay good");
}

#[tokio::test]
async fn bad_signatures_under_a_known_key_cost_its_issuer_nothing() {
    let (world, tollgate) = flooded().await;
    let forged = (0..FLOOD).map(|index| {
        token(&world, FLOODED, json!({"signer": "thief", "header": {"kid": "k"}, "claims": {"jti": index.to_string()}}))
    });
    for answer in pour(&tollgate, forged).await.join_all().await {
        assert_eq!(answer, "bad_signature");
    }
    assert_eq!(world.liar.visits(KEYS), 1);
}
