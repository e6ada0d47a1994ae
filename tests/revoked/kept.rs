//! One replica by itself, which keeps what was taken back in a file; and for how long anything needs to be kept.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tollgate::decide::ports::Clock as _;

use super::{ISSUER, Issuer, Replica};
use crate::program::serve;
use crate::support::calls::as_operator;
use crate::support::server::{SOON, TestClock, Tollgate};
use tollgate::proto as pb;
use tollgate::proto::revoke_target::Kind;

fn kept_in(file: &Path) -> String {
    format!("file: '{}'", file.display())
}

#[tokio::test]
async fn what_was_answered_survives_a_kill_right_after() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let issuer = Issuer::new();
    let yaml = issuer.yaml("", &kept_in(&folder.path().join("revoked")));
    let mut sessions = vec!["undone".to_owned()];
    let mut replica = Replica::start(&issuer, &yaml).await;
    let undone = replica.revoke(&["undone"]).await.expect("an operator may").remove(0);
    replica.undo(undone.id).await;
    for round in 0..3 {
        let session = format!("s{round}");
        replica.revoke(&[&session]).await.expect("an operator may");
        drop(replica);
        sessions.push(session);
        replica = Replica::start(&issuer, &yaml).await;
        let tokens: Vec<String> = sessions.iter().map(|session| issuer.of(session)).collect();
        let verdicts = replica.verdicts(&tokens).await;
        assert_eq!(verdicts[0], "allowed");
        assert!(verdicts[1..].iter().all(|verdict| verdict == "revoked"), "{verdicts:?}");
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_named_with_the_remedy() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let issuer = Issuer::new();
    let taken = folder.path().join("taken");
    let _holder = Replica::start(&issuer, &issuer.yaml("", &kept_in(&taken))).await;
    for (file, remedy) in [
        (taken, "is in use by another process; each replica needs a file of its own"),
        (folder.path().join("no/such/folder/revoked"), "the folder must exist, and be writable"),
        (folder.path().to_owned(), "the folder must exist, and be writable"),
    ] {
        let config = folder.path().join("tollgate.yaml");
        let listen = "listen: { grpc: 127.0.0.1:0, http: 127.0.0.1:0, admin: 127.0.0.1:0 }";
        let yaml = format!("{listen}\n{}", issuer.yaml("", &kept_in(&file)));
        fs::write(&config, yaml).expect("the folder can be written to");
        let mut refused = serve(&["--config", config.to_str().expect("the path is UTF-8")]);
        let status = refused.ended(SOON).await;
        let said = refused.complaints();
        let named = format!("revocation.file: {}: ", file.display());
        assert!(said.contains(&named) && said.contains(remedy), "{said}");
        assert_eq!(status.code(), Some(2));
    }
}

/// Whoever names the wrong file loses nothing of it.
#[tokio::test]
async fn a_file_of_something_else_keeps_all_that_it_held_and_is_complained_of() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let issuer = Issuer::new();
    for (name, held) in [
        ("text", b"issuers: []\n{\"version\":2}\nrules: []\n".as_slice()),
        ("bytes", b"\x30\x82\x04\xa5\x02\x01\x00\x0a\xff\xfe"),
        ("end", b"{\"an object\": \"of someone else\"}"),
    ] {
        let file = folder.path().join(name);
        fs::write(&file, held).expect("the folder can be written to");
        let yaml = issuer.yaml("", &kept_in(&file));
        let replica = Replica::start(&issuer, &yaml).await;
        assert!(replica.process.complaints().contains("make no sense to this version"), "{name}");
        replica.revoke(&["a"]).await.expect("an operator may");
        drop(replica);
        assert!(fs::read(&file).expect("it is there").starts_with(held), "{name}");
        let replica = Replica::start(&issuer, &yaml).await;
        assert_eq!(replica.verdict(&issuer.of("a")).await, "revoked", "{name}");
        assert!(replica.metric("tollgate_revocations_unreadable_total").await > 0.5, "{name}");
    }
}

/// An entry ends when no token that it could hit is left; one that lives longer than its issuer's may is never good.
#[tokio::test]
async fn no_token_outlives_the_entry_that_refuses_it() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let issuer = Issuer::new();
    let own = issuer.yaml("", &kept_in(&folder.path().join("revoked")));
    let yaml = own.replace("operators: true", "operators: true, leeway: 5s, max_token_lifetime: 60s");
    let clock = TestClock::new();
    let mut tollgate = Tollgate::start_with(&yaml, clock.clone()).await;
    let begin = clock.now().wall.as_secs();
    let token = |lifetime: u64| issuer.token(&json!({ "sid": "s", "iat": begin, "exp": begin + lifetime }));
    let [usual, long, over_long] = [60, 61, 3_600].map(token);
    let verdict = async |tollgate: &Tollgate, token: &str| tollgate.verdict("GET", "/", Some(token)).await;
    assert_eq!(verdict(&tollgate, &usual).await, "allow");
    let session = Kind::Session(pb::IssuedName { issuer: ISSUER.to_owned(), name: "s".to_owned() });
    let request = pb::RevokeRequest { targets: vec![pb::RevokeTarget { kind: Some(session) }], ..Default::default() };
    let operator = issuer.token(&json!({ "scope": "tollgate:revoke", "exp": begin + 60 }));
    let answer = tollgate.tokens().await.revoke(as_operator(request, &operator)).await.expect("an operator may");
    let entry = answer.into_inner().results.remove(0).revocation.expect("it was written");
    let until = u64::try_from(entry.until.expect("it ends").seconds).expect("it is later than the epoch");
    assert!(until > begin + 60 + 2 * 5, "{until} {begin}");
    for elapsed in 0..=65 {
        let wanted = if elapsed < 65 { "deny revoked" } else { "deny expired" };
        assert_eq!(verdict(&tollgate, &usual).await, wanted, "{elapsed}");
        for token in [&long, &over_long] {
            assert_eq!(verdict(&tollgate, token).await, "deny lifetime_too_long", "{elapsed}");
        }
        clock.advance(Duration::from_secs(1));
    }
    // Once the entry has ended, and one that starts anew does not even know of it.
    let elapsed = clock.now().wall.as_secs() - begin;
    clock.advance(Duration::from_secs(until - begin - elapsed + 1));
    assert!(tollgate.server.stop().await);
    tollgate = Tollgate::start_with(&yaml, clock.clone()).await;
    let (_, told) = tollgate.page("/readyz").await;
    assert!(told.contains("\"entries\":0"), "{told}");
    assert_eq!(verdict(&tollgate, &usual).await, "deny expired");
    assert_eq!(verdict(&tollgate, &over_long).await, "deny lifetime_too_long");
}
