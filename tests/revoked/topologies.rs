//! The log where Redis is several servers: its slot moves, its master dies, and what was taken back stays so.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tollgate::proto as pb;
use tollgate::proto::revoke_target::Kind;
use tollgate::proto::token_service_client::TokenServiceClient;

use super::{ENTRIES, ISSUER, Issuer, Replica};
use crate::support::calls::as_operator;
use crate::support::poll;
use crate::support::redis::{RedisCluster, Sentinels};
use crate::support::server::SOON;

/// Whoever takes back one session after the other, and notes which were answered, and when.
struct Writer {
    answered: Arc<Mutex<Vec<(String, Instant)>>>,
    task: JoinHandle<()>,
    over: CancellationToken,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Writer {
    fn begin(replica: &Replica) -> Self {
        let mut tokens = TokenServiceClient::new(replica.channel.clone());
        let (answered, over) = (Arc::<Mutex<Vec<(String, Instant)>>>::default(), CancellationToken::new());
        let (noted, until, operator) = (Arc::clone(&answered), over.clone(), replica.operator.clone());
        let task = tokio::spawn(async move {
            for number in 0.. {
                if until.is_cancelled() {
                    break;
                }
                let name = format!("s{number}");
                let session = Kind::Session(pb::IssuedName { issuer: ISSUER.to_owned(), name: name.clone() });
                let targets = vec![pb::RevokeTarget { kind: Some(session) }];
                let request = pb::RevokeRequest { targets, ..Default::default() };
                if tokens.revoke(as_operator(request, &operator)).await.is_ok() {
                    noted.lock().unwrap_or_else(PoisonError::into_inner).push((name, Instant::now()));
                }
                sleep(Duration::from_millis(5)).await;
            }
        });
        Self { answered, task, over }
    }

    fn answered(&self) -> Vec<(String, Instant)> {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until more were answered.
    async fn goes_on(&self, what: &str) {
        let before = self.answered().len();
        poll(SOON, what, async || (self.answered().len() >= before + 10).then_some(())).await;
    }

    /// How many were answered so far, once `other` refuses them all.
    async fn is_known(&self, other: &Replica, issuer: &Issuer) -> usize {
        let tokens: Vec<String> = self.answered().iter().map(|(name, _)| issuer.of(name)).collect();
        poll(SOON, "another replica knows", async || {
            other.verdicts(&tokens).await.iter().all(|verdict| verdict == "revoked").then_some(())
        })
        .await;
        tokens.len()
    }

    async fn end(mut self) -> Vec<(String, Instant)> {
        self.over.cancel();
        (&mut self.task).await.expect("it does not panic");
        self.answered()
    }
}

/// What happened when to what a writer was answered.
struct Story {
    answered: Vec<(String, Instant)>,
    /// So many of them another replica knew before the master died.
    known: usize,
    died: Instant,
}

impl Story {
    /// Everything that was answered is in force on a replica, but for what may be lost: Redis answers before its replicas
    /// have a change, and if it dies then, and no Tollgate has been told of the change, it is gone.
    #[expect(clippy::print_stderr, reason = "how much was lost is to be seen")]
    async fn is_in_force(&self, replica: &Replica, issuer: &Issuer) {
        let (known, rest) = self.answered.split_at(self.known);
        let (in_doubt, after): (Vec<_>, Vec<_>) = rest.iter().partition(|(_, at)| *at <= self.died);
        let tokens = |names: &[&(String, Instant)]| names.iter().map(|(name, _)| issuer.of(name)).collect::<Vec<_>>();
        let sure = tokens(&known.iter().chain(after.iter().copied()).collect::<Vec<_>>());
        assert!(known.len() >= 20 && after.len() >= 10, "{} {}", known.len(), after.len());
        poll(SOON, "all that was answered is in force", async || {
            replica.verdicts(&sure).await.iter().all(|verdict| verdict == "revoked").then_some(())
        })
        .await;
        let lost = replica.verdicts(&tokens(&in_doubt)).await.iter().filter(|verdict| *verdict != "revoked").count();
        eprintln!("{} known, {} just before the master died: {lost} of these lost", sure.len(), in_doubt.len());
    }
}

fn list(urls: &[String]) -> String {
    urls.iter().map(|url| format!("'{url}'")).collect::<Vec<_>>().join(", ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_cluster_whose_slot_moves_and_whose_master_dies_nothing_that_is_known_is_lost() {
    let Some(mut cluster) = RedisCluster::start() else { return };
    let issuer = Issuer::new();
    let store = format!("store: {{ redis: {{ urls: [{}], deadline: 500ms }} }}", list(&cluster.urls()));
    let yaml = issuer.yaml(&store, "");
    let [one, other] = [Replica::start(&issuer, &yaml).await, Replica::start(&issuer, &yaml).await];
    let known = issuer.of("known");
    one.revoke_in_the_end("known").await;
    other.comes_to("revoked", &known).await;
    let watches = [one.watch(&known), other.watch(&known)];
    let writer = Writer::begin(&one);
    let (slot, from) = (cluster.slot(ENTRIES), cluster.place_at_first(ENTRIES));
    let to = (from + 1) % 3;
    writer.goes_on("before anything moves").await;
    cluster.begin_move(&slot, from, to);
    writer.goes_on("while the slot moves").await;
    cluster.end_move(&slot, from, to);
    writer.goes_on("at the slot's new master").await;
    let known_to_both = writer.is_known(&other, &issuer).await;
    cluster.nodes[to].kill();
    let died = Instant::now();
    writer.goes_on("at the successor").await;
    let story = Story { answered: writer.end().await, known: known_to_both, died };
    let late = Replica::start(&issuer, &yaml).await;
    for replica in [&one, &other, &late] {
        story.is_in_force(replica, &issuer).await;
        assert_eq!(replica.verdict(&known).await, "revoked");
        replica.is_behind(false).await;
    }
    for watch in watches {
        watch.saw_it_revoked().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_sentinels_a_master_that_dies_is_replaced_and_nothing_that_is_known_is_lost() {
    let Some(mut all) = Sentinels::start() else { return };
    let issuer = Issuer::new();
    let sentinel = format!("{{ urls: [{}], service: {} }}", list(&all.urls()), Sentinels::service());
    let store = format!("store: {{ redis: {{ sentinel: {sentinel}, deadline: 500ms }} }}");
    let yaml = issuer.yaml(&store, "");
    let [one, other] = [Replica::start(&issuer, &yaml).await, Replica::start(&issuer, &yaml).await];
    let known = issuer.of("known");
    one.revoke_in_the_end("known").await;
    other.comes_to("revoked", &known).await;
    let watches = [one.watch(&known), other.watch(&known)];
    let writer = Writer::begin(&one);
    for _ in 0..2 {
        writer.goes_on("at the master").await;
    }
    let known_to_both = writer.is_known(&other, &issuer).await;
    all.servers[0].kill();
    let died = Instant::now();
    writer.goes_on("at the successor").await;
    // The old one comes back empty, and follows.
    all.servers[0].restart();
    poll(SOON, "the old master follows", async || all.servers[0].has_role("slave").then_some(())).await;
    writer.goes_on("afterwards").await;
    let story = Story { answered: writer.end().await, known: known_to_both, died };
    let late = Replica::start(&issuer, &yaml).await;
    for replica in [&one, &other, &late] {
        story.is_in_force(replica, &issuer).await;
        assert_eq!(replica.verdict(&known).await, "revoked");
        replica.is_behind(false).await;
    }
    for watch in watches {
        watch.saw_it_revoked().await;
    }
}
