//! What is taken back through one replica is in force on the others.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tollgate::proto as pb;
use tollgate::proto::decision_service_client::DecisionServiceClient;

use super::{Issuer, Replica, in_redis, told};
use crate::support::calls::as_operator;
use crate::support::poll;
use crate::support::redis::RedisServer;
use crate::support::server::{SOON, question};

/// How long it may take on another replica, by the middle of several: a busy machine may be late now and then.
const IN_FORCE: Duration = Duration::from_secs(1);

#[tokio::test]
async fn what_one_replica_takes_back_the_others_refuse_within_a_second_whoever_asks_and_however() {
    let Some(redis) = RedisServer::start() else { return };
    let issuer = Issuer::new();
    // Where it passed when in doubt, one that hears of nothing would be seen.
    let yaml = issuer.yaml(&in_redis(&redis.url()), "max_lag: 1h, when_behind: allow");
    let [one, other, third] = [
        Replica::start(&issuer, &yaml).await,
        Replica::start(&issuer, &yaml).await,
        Replica::start(&issuer, &yaml).await,
    ];
    let mut took = Vec::new();
    for number in 0..9 {
        let (session, token) = (format!("s{number}"), issuer.of(&format!("s{number}")));
        for replica in [&one, &other, &third] {
            assert_eq!(replica.verdict(&token).await, "allowed", "and remembered");
        }
        let (sender, questions) = mpsc::channel(1);
        let mut decisions = DecisionServiceClient::new(other.channel.clone());
        let stream = decisions.decide_stream(ReceiverStream::new(questions)).await.expect("it begins");
        let mut stream = stream.into_inner();
        let mut streamed = async || {
            let asked = pb::DecideStreamRequest { id: 1, question: Some(question("GET", "/", Some(&token))) };
            sender.send(asked).await.expect("it is read");
            let answer = stream.next().await.expect("the stream goes on").expect("it is an answer");
            told(answer.outcome.expect("there is one"))
        };
        assert_eq!(streamed().await, "allowed");
        let begin = Instant::now();
        one.revoke(&[&session]).await.expect("an operator may");
        assert_eq!(one.verdict(&token).await, "revoked", "before anybody was told so");
        poll(SOON, "revoked on a connection that was there before", async || {
            (streamed().await == "revoked").then_some(())
        })
        .await;
        third.comes_to("revoked", &token).await;
        took.push(begin.elapsed());
        for replica in [&other, &third] {
            assert_eq!(replica.verdicts(&[token.clone(), issuer.of("other")]).await, ["revoked", "allowed"]);
            let request = pb::IntrospectRequest { token: token.clone(), token_type_hint: String::new() };
            let known = replica.tokens().introspect(as_operator(request, &replica.operator)).await;
            let known = known.expect("an operator may").into_inner();
            assert_eq!(known, pb::IntrospectResponse::default(), "not active, and nothing else");
        }
        assert_eq!(streamed().await, "revoked");
    }
    took.sort_unstable();
    assert!(took[took.len() / 2] < IN_FORCE, "{took:?}");
}

/// Until it has loaded everything nobody is to ask it.
#[tokio::test]
async fn a_replica_that_is_started_late_is_ready_once_it_knows_ten_thousand_entries() {
    const ENTRIES: usize = 10_000;
    let Some(redis) = RedisServer::start() else { return };
    let issuer = Issuer::new();
    let store = format!("store: {{ redis: {{ urls: ['{}'], deadline: 5s }} }}", redis.url());
    let yaml = issuer.yaml(&store, "when_behind: allow");
    let one = Replica::start(&issuer, &yaml).await;
    let names: Vec<String> = (0..ENTRIES).map(|number| format!("s{number}")).collect();
    for some in names.chunks(200) {
        one.revoke(&some.iter().map(String::as_str).collect::<Vec<_>>()).await.expect("an operator may");
    }
    let late = Replica::start(&issuer, &yaml).await;
    let told = &late.said_ready;
    assert_eq!((&told["revocations"]["entries"], &told["revocations"]["behind"]), (&ENTRIES.into(), &false.into()));
    let tokens: Vec<String> = names.iter().step_by(97).map(|name| issuer.of(name)).collect();
    assert!(late.verdicts(&tokens).await.iter().all(|verdict| verdict == "revoked"));
    assert_eq!(late.verdict(&issuer.of("other")).await, "allowed");
}
