//! API keys in a real Redis: what is kept comes back, what makes no sense is nobody's, and what has ended is dropped.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::redis::{Reach, RedisStore, Settings};
use super::redis_faults::{connect, rights, rights_of_api_keys, rights_to_change_api_keys, settings};
use super::redis_server::{RedisCluster, RedisServer};
use crate::decide::ports::{ApiKeyRecords as _, Away, AwayCause, KeptKey, KeyEnding};
use crate::domain::api_key::{ApiKey, KeyId};
use crate::domain::date;
use crate::domain::time::Micros;

const DAY_MILLIS: i64 = 24 * 60 * 60 * 1_000;

fn id(text: &str) -> KeyId {
    KeyId::parse(text).unwrap()
}

fn plain(name: &str) -> ApiKey {
    ApiKey::plain(id(name), [7; 32], "billing")
}

fn full(name: &str) -> ApiKey {
    ApiKey {
        owner: "café \"x\" \n".into(),
        tenant: Some("acme".into()),
        scopes: ["orders:read".into(), "a".into()].into(),
        roles: ["a role".into()].into(),
        limits: ["per-key".into()].into(),
        created: date::parse("2026-11-24"),
        not_before: date::parse("2026-11-25"),
        expires: date::parse("2096-11-24T12:00:01Z"),
        ..plain(name)
    }
}

async fn find(store: &RedisStore, name: &str) -> Result<Option<ApiKey>, Away> {
    store.find(id(name)).get().await
}

async fn adds(store: &RedisStore, key: ApiKey) -> bool {
    store.add(key).get().await.unwrap()
}

async fn ends(store: &RedisStore, name: &str, ending: KeyEnding) -> bool {
    store.end(id(name), ending).get().await.unwrap()
}

#[tokio::test]
async fn what_is_kept_comes_back_and_an_id_that_is_taken_stays_as_it_is() {
    let Some(server) = RedisServer::start() else { return };
    let store = connect(&settings(&server));
    assert_eq!(find(&store, "aaaaaaaaaaaa").await, Ok(None));
    for key in [plain("aaaaaaaaaaaa"), full("bbbbbbbbbbbb")] {
        assert!(adds(&store, key.clone()).await);
        assert_eq!(store.find(key.id).get().await, Ok(Some(key)));
    }
    assert!(!adds(&store, full("aaaaaaaaaaaa")).await);
    assert_eq!(find(&store, "aaaaaaaaaaaa").await, Ok(Some(plain("aaaaaaaaaaaa"))));
    let listed = store.list().get().await.unwrap();
    let kept = |key: ApiKey| (key.id, Some(KeptKey { key, used: None }));
    assert_eq!(listed, [kept(plain("aaaaaaaaaaaa")), kept(full("bbbbbbbbbbbb"))]);
}

#[tokio::test]
async fn keys_are_revoked_and_end_and_their_records_are_dropped_a_month_later() {
    let Some(server) = RedisServer::start() else { return };
    let store = connect(&settings(&server));
    let life = |name: &str| server.command(&["PTTL", &format!("tollgate:api-key:{name}")]).parse::<i64>().unwrap();
    let month = 29 * DAY_MILLIS..=30 * DAY_MILLIS;
    for name in ["aaaaaaaaaaaa", "bbbbbbbbbbbb"] {
        assert!(adds(&store, plain(name)).await);
        assert_eq!(life(name), -1, "it never ends");
    }
    assert!(ends(&store, "aaaaaaaaaaaa", KeyEnding::Revoked).await);
    assert_eq!(find(&store, "aaaaaaaaaaaa").await, Ok(Some(ApiKey { revoked: true, ..plain("aaaaaaaaaaaa") })));
    assert!(month.contains(&life("aaaaaaaaaaaa")));

    let now = Micros::from_secs(server.command(&["TIME"]).lines().next().unwrap().parse().unwrap());
    let [soon, later] = [now + Micros::from_secs(60), now + Micros::from_secs(9 * 24 * 60 * 60)];
    for end in [later, soon, later] {
        assert!(ends(&store, "bbbbbbbbbbbb", KeyEnding::At(end)).await);
    }
    assert_eq!(find(&store, "bbbbbbbbbbbb").await, Ok(Some(ApiKey { expires: Some(soon), ..plain("bbbbbbbbbbbb") })));
    assert!((month.end() - DAY_MILLIS..=month.end() + 60_000).contains(&life("bbbbbbbbbbbb")));
    // A date changes nothing of one that is revoked.
    assert!(ends(&store, "aaaaaaaaaaaa", KeyEnding::At(later)).await);
    assert!(find(&store, "aaaaaaaaaaaa").await.unwrap().unwrap().revoked && month.contains(&life("aaaaaaaaaaaa")));

    for ending in [KeyEnding::Revoked, KeyEnding::At(soon)] {
        assert!(!ends(&store, "cccccccccccc", ending).await);
    }
    assert_eq!(find(&store, "cccccccccccc").await, Ok(None), "nothing came of it");
    // One that was added with an end has a life, too, and a list takes out what was dropped.
    assert!(adds(&store, ApiKey { expires: Some(later), ..plain("dddddddddddd") }).await);
    assert!(life("dddddddddddd") > 38 * DAY_MILLIS);
    server.command(&["DEL", "tollgate:api-key:dddddddddddd"]);
    assert_eq!(store.list().get().await.unwrap().len(), 2);
    assert_eq!(server.command(&["SCARD", "tollgate:api-keys"]), "2");
}

#[tokio::test]
async fn a_use_is_noted_and_brings_no_key_back() {
    let Some(server) = RedisServer::start() else { return };
    let store = connect(&settings(&server));
    assert!(adds(&store, plain("aaaaaaaaaaaa")).await);
    for name in ["aaaaaaaaaaaa", "bbbbbbbbbbbb"] {
        store.note_use(id(name)).get().await.unwrap();
    }
    let (_, kept) = store.list().get().await.unwrap().remove(0);
    assert!(kept.unwrap().used.unwrap() > Micros::from_secs(1_700_000_000));
    assert_eq!(find(&store, "aaaaaaaaaaaa").await, Ok(Some(plain("aaaaaaaaaaaa"))));
    assert_eq!(server.command(&["EXISTS", "tollgate:api-key:bbbbbbbbbbbb"]), "0");
}

#[tokio::test]
async fn a_record_that_makes_no_sense_is_nobodys() {
    let Some(server) = RedisServer::start() else { return };
    let store = connect(&settings(&server));
    for (field, value) in [
        ("sha256", "hunter2"),
        ("owner", ""),
        ("tenant", ""),
        ("scopes", "orders:read"),
        ("scopes", "[1]"),
        ("limits", r#"["1","2","3","4","5","6","7","8","9"]"#),
        ("expires", "tomorrow"),
        ("not_before", ""),
        ("revoked", "true"),
        ("used", "-1"),
        ("only_from", "10.0.0.0/8"),
    ] {
        server.command(&["FLUSHALL"]);
        assert!(adds(&store, plain("aaaaaaaaaaaa")).await);
        server.command(&["HSET", "tollgate:api-key:aaaaaaaaaaaa", field, value]);
        assert_eq!(find(&store, "aaaaaaaaaaaa").await, Ok(None), "{field}: {value}");
        assert_eq!(store.list().get().await.unwrap(), [(id("aaaaaaaaaaaa"), None)]);
    }
    for missing in ["sha256", "owner"] {
        server.command(&["FLUSHALL"]);
        assert!(adds(&store, plain("aaaaaaaaaaaa")).await);
        server.command(&["HDEL", "tollgate:api-key:aaaaaaaaaaaa", missing]);
        assert_eq!(find(&store, "aaaaaaaaaaaa").await, Ok(None), "{missing}");
    }
    server.command(&["FLUSHALL"]);
    server.command(&["SET", "tollgate:api-key:aaaaaaaaaaaa", "x"]);
    assert_eq!(find(&store, "aaaaaaaaaaaa").await, Err(Away { because: AwayCause::Garbled }));
}

#[tokio::test]
async fn the_rights_that_are_documented_suffice() {
    let Some(server) = RedisServer::start() else { return };
    let user = |more: Vec<&'static str>| {
        let user = vec!["ACL", "SETUSER", "tollgate", "reset", "on", ">pw"];
        let command = [user, rights("each server"), rights_of_api_keys(), more].concat();
        assert_eq!(server.command(&command), "OK");
    };
    let as_user = Settings { username: Some("tollgate".into()), password: Some("pw".into()), ..settings(&server) };
    user(rights_to_change_api_keys());
    let store = connect(&as_user);
    for key in [plain("aaaaaaaaaaaa"), full("bbbbbbbbbbbb")] {
        assert!(adds(&store, key).await);
    }
    assert!(ends(&store, "aaaaaaaaaaaa", KeyEnding::Revoked).await);
    assert!(ends(&store, "bbbbbbbbbbbb", KeyEnding::At(Micros::from_secs(3_000_000_000))).await);
    assert_eq!(store.list().get().await.unwrap().len(), 2);
    // A replica needs less.
    user(Vec::new());
    assert!(find(&store, "aaaaaaaaaaaa").await.unwrap().unwrap().revoked);
    store.note_use(id("aaaaaaaaaaaa")).get().await.unwrap();
    assert_eq!(store.end(id("aaaaaaaaaaaa"), KeyEnding::Revoked).get().await, Err(Away { because: AwayCause::Denied }));
}

#[tokio::test]
async fn a_cluster_keeps_keys_on_all_its_nodes() {
    let Some(cluster) = RedisCluster::masters_with(&[]) else { return };
    let reach = Reach::Servers(cluster.nodes.iter().map(RedisServer::url).collect());
    let store = connect(&Settings { reach, ..Settings::default() });
    let names: Vec<String> = (0..20).map(|number| format!("key000000{number:03}")).collect();
    for name in &names {
        assert!(adds(&store, full(name)).await);
    }
    let listed = store.list().get().await.unwrap();
    let listed: Vec<String> =
        listed.iter().map(|(id, kept)| kept.as_ref().map_or_else(String::new, |_| id.to_string())).collect();
    assert_eq!(listed, names);
    let places: std::collections::BTreeSet<usize> =
        names.iter().map(|name| cluster.place_at_first(&format!("tollgate:api-key:{name}"))).collect();
    assert_eq!(places.len(), 3, "they are spread");
}
