//! Counters by name, in memory and in a real Redis: giving back, forgetting, keys of any kind, numbers of any size, and
//! limits that change while they are in use.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tollgate::decide::ports::Clock as _;
use tollgate::domain::limit::UNITS_MAX;
use tollgate::proto as pb;
use tollgate::server::dev::DevIssuer;
use tonic::Code;

use crate::support::calls::{as_operator, charge, fields, left};
use crate::support::poll;
use crate::support::redis::RedisServer;
use crate::support::server::{SOON, TestClock, Tollgate, configuration, in_redis, question};

const LIMITS: &str = r"
limits:
  tokens: { units: 100, window: 10h, by: [source.address] }
  spikes: { algorithm: token_bucket, rate: 1/d, burst: 50, by: [source.address] }
  yearly: { algorithm: fixed_window, units: 100, window: 365d, by: [source.address] }
  busy: { algorithm: concurrency, units: 3, hold: 10m, by: [source.address] }
  per-tenant: { units: 10, window: 10h, by: [resource.tenant] }
rules:
  - match: { path: /hot }
    permit: anyone
    limits: [tokens]
  - match: { path: /tenant }
    permit: anyone
    limits: [per-tenant]
";

const ALL: [&str; 4] = ["tokens", "spikes", "yearly", "busy"];

const ADDRESS: [(&str, &str); 1] = [("source.address", "192.0.2.7")];

struct Bench {
    one: Tollgate,
    issuer: DevIssuer,
    yaml: String,
}

impl Bench {
    /// One replica, whose counters are where `store` says.
    async fn start(store: &str) -> Self {
        let issuer = DevIssuer::new().expect("the system has randomness");
        let key = issuer.public_key();
        let yaml = format!(
            "{store}\nissuers: [{{ issuer: 'https://dev.tollgate.invalid', audiences: [demo], operators: true, \
             jwks: {{ keys: [{key}] }} }}]\n{LIMITS}"
        );
        Self { one: Tollgate::start(&yaml).await, issuer, yaml }
    }

    fn operator(&self, scope: &str) -> String {
        self.issuer.token("ann", scope, self.one.clock.now().wall).expect("the system has randomness")
    }

    async fn peek(&self) -> Vec<u64> {
        let charges = ALL.map(|limit| charge(limit, &ADDRESS, Some(0))).to_vec();
        let answer = self.one.quotas().await.peek(pb::PeekRequest { charges }).await.expect("well formed").into_inner();
        left(&answer.quotas)
    }

    async fn consume(&self, charges: Vec<pb::QuotaCharge>) -> pb::ConsumeResponse {
        self.one.quotas().await.consume(pb::ConsumeRequest { charges }).await.expect("well formed").into_inner()
    }
}

async fn gives_back_what_was_charged_and_no_more(bench: &Bench) {
    let some =
        |units: [u64; 4]| ALL.iter().zip(units).map(|(limit, units)| charge(limit, &ADDRESS, Some(units))).collect();
    assert!(bench.consume(some([30, 10, 5, 1])).await.allowed);
    let mut quotas = bench.one.quotas().await;
    let asked = pb::RefundRequest { charges: some([10, 3, 50, 1]) };
    let refused = quotas.refund(asked.clone()).await.expect_err("anyone could lift limits");
    assert_eq!(refused.code(), Code::Unauthenticated);
    let refused = quotas.refund(as_operator(asked.clone(), &bench.operator("other"))).await;
    assert_eq!(refused.expect_err("it lacks the scope").code(), Code::PermissionDenied);
    assert_eq!(bench.peek().await, [70, 40, 95, 2]);

    let operator = bench.operator("tollgate:quota");
    let given = quotas.refund(as_operator(asked, &operator)).await.expect("an operator may").into_inner();
    assert_eq!(given.refunded, [10, 3, 5, 0], "slots are given back by settling");
    assert_eq!(bench.peek().await, [80, 43, 100, 2]);
    let asked = pb::RefundRequest { charges: some([UNITS_MAX; 4]) };
    let given = quotas.refund(as_operator(asked, &operator)).await.expect("an operator may").into_inner();
    assert_eq!(given.refunded, [20, 7, 0, 0]);
    assert_eq!(bench.peek().await, [100, 50, 100, 2]);

    for (charges, wrong) in [
        (vec![], "charges"),
        (vec![charge("nothing", &ADDRESS, None)], "charges[0].counter.limit"),
        (vec![charge("tokens", &[], None)], "charges[0].counter.key"),
        (vec![charge("tokens", &ADDRESS, Some(0))], "charges[0].units"),
        (vec![charge("tokens", &ADDRESS, Some(u64::MAX))], "charges[0].units"),
    ] {
        let status = quotas.refund(as_operator(pb::RefundRequest { charges }, &operator)).await;
        let status = status.expect_err("it is not well formed");
        assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec![wrong.to_owned()]));
    }
}

#[tokio::test]
async fn a_refund_gives_back_what_was_charged_and_no_more_in_memory() {
    gives_back_what_was_charged_and_no_more(&Bench::start("").await).await;
}

#[tokio::test]
async fn a_refund_gives_back_what_was_charged_and_no_more_in_redis() {
    let Some(redis) = RedisServer::start() else { return };
    gives_back_what_was_charged_and_no_more(&Bench::start(&in_redis(&redis)).await).await;
}

#[tokio::test]
async fn whoever_would_refund_while_redis_is_away_is_told() {
    let Some(mut redis) = RedisServer::start() else { return };
    let bench = Bench::start(&in_redis(&redis)).await;
    redis.kill();
    let asked = pb::RefundRequest { charges: vec![charge("tokens", &ADDRESS, None)] };
    let status = bench.one.quotas().await.refund(as_operator(asked, &bench.operator("tollgate:quota"))).await;
    assert_eq!(status.expect_err("nobody can be asked").code(), Code::Unavailable);
}

#[tokio::test]
async fn every_replica_notices_a_reset_within_a_second() {
    let Some(redis) = RedisServer::start() else { return };
    let bench = Bench::start(&in_redis(&redis)).await;
    let other = Tollgate::start(&bench.yaml).await;
    let (hot, costly) =
        (question("GET", "/hot", None), pb::DecideRequest { units: Some(70), ..question("GET", "/hot", None) });
    // The other replica has a lease in hand, and remembers that so much does not fit.
    poll(SOON, "a lease at the other replica", async || {
        assert!(other.decide(hot.clone()).await.allowed);
        (other.metric(r#"tollgate_payments_total{by="leases"}"#).await > 0.0).then_some(())
    })
    .await;
    assert!(bench.consume(vec![charge("tokens", &ADDRESS, Some(60))]).await.allowed);
    assert!(!other.decide(costly.clone()).await.allowed);
    let from_memory = r#"tollgate_payments_total{by="refusals"}"#;
    let before = other.metric(from_memory).await;
    assert!(!other.decide(costly.clone()).await.allowed);
    assert!(other.metric(from_memory).await > before, "it is remembered");

    let reset = pb::ResetRequest { counter: charge("tokens", &ADDRESS, None).counter };
    let reset = as_operator(reset, &bench.operator("tollgate:quota"));
    bench.one.quotas().await.reset(reset).await.expect("an operator may");
    assert_eq!(bench.peek().await[0], 100, "here it is known at once");

    other.clock.advance(Duration::from_secs(1));
    let answer = other.decide(costly).await;
    assert_eq!((answer.allowed, left(&answer.quotas)), (true, vec![30]), "and of the lease nothing is left");
    assert_eq!(bench.peek().await[0], 30);
}

async fn numbers_of_any_size_have_an_answer(bench: &Bench) {
    let mut quotas = bench.one.quotas().await;
    for limit in ALL {
        let answer = quotas.peek(pb::PeekRequest { charges: vec![charge(limit, &ADDRESS, Some(0))] }).await;
        assert!(answer.expect("0 reads").into_inner().allowed);
        for units in [0, UNITS_MAX + 1, u64::MAX] {
            let status =
                quotas.consume(pb::ConsumeRequest { charges: vec![charge(limit, &ADDRESS, Some(units))] }).await;
            let status = status.expect_err("it is out of range");
            assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec!["charges[0].units".to_owned()]));
            assert_eq!(status.message().contains("peeking"), units == 0, "{}", status.message());
        }
        for units in [101, UNITS_MAX] {
            let refused = bench.consume(vec![charge(limit, &ADDRESS, Some(units))]).await;
            assert_eq!((refused.allowed, refused.retry_after), (false, None));
            assert_eq!(refused.quotas[0].outcome(), pb::QuotaOutcome::Never);
        }
    }
    let look = pb::DecideRequest { units: Some(0), mode: pb::QuotaMode::Peek.into(), ..question("GET", "/hot", None) };
    assert!(bench.one.decide(look.clone()).await.allowed);
    let status = bench.one.decisions().await.decide(pb::DecideRequest { mode: 0, ..look }).await;
    assert_eq!(fields(&status.expect_err("it would cost nothing")), ["units"]);
    assert_eq!(bench.peek().await, [100, 50, 100, 3], "nothing of this was charged");
    // Who reads a full counter is told that nothing is left, and not that it must wait.
    assert!(bench.consume(vec![charge("tokens", &ADDRESS, Some(100))]).await.allowed);
    let answer = quotas.peek(pb::PeekRequest { charges: vec![charge("tokens", &ADDRESS, Some(0))] }).await;
    let answer = answer.expect("0 reads").into_inner();
    assert_eq!((answer.allowed, left(&answer.quotas), answer.retry_after), (true, vec![0], None));
}

#[tokio::test]
async fn numbers_of_any_size_have_an_answer_in_memory() {
    numbers_of_any_size_have_an_answer(&Bench::start("").await).await;
}

#[tokio::test]
async fn numbers_of_any_size_have_an_answer_in_redis() {
    let Some(redis) = RedisServer::start() else { return };
    numbers_of_any_size_have_an_answer(&Bench::start(&in_redis(&redis)).await).await;
}

async fn keys_of_any_kind_have_a_counter_each(bench: &Bench) {
    let mib = "x".repeat(1 << 20);
    let (longer, other) = (format!("{mib}x"), format!("{}y", &mib[1..]));
    let tenants = [
        "a", "A", "a ", " a", "1:a", "}", "{}", "}{", "a}b", "\0", "\n", "\r\n", "*", "?", "\\", "'", "\"", "ß", "🦀",
        "\u{202e}", &mib, &longer, &other,
    ];
    for left_after in [9, 8] {
        for tenant in tenants {
            let answer = bench.consume(vec![charge("per-tenant", &[("resource.tenant", tenant)], None)]).await;
            let shown: String = tenant.chars().take(10).collect();
            assert_eq!((answer.allowed, left(&answer.quotas)), (true, vec![left_after]), "{shown:?}");
        }
    }
    // A decision takes attributes of up to 4 KiB: they come with every request.
    for (length, served) in [(4 << 10, true), ((4 << 10) + 1, false), (1 << 20, false)] {
        let resource = [("tenant".to_owned(), "x".repeat(length))].into();
        let asked = pb::DecideRequest { resource, ..question("GET", "/tenant", None) };
        let answer = bench.one.decisions().await.decide(asked).await.map(|answer| answer.into_inner().allowed);
        let answer = answer.map_err(|status| (status.code(), fields(&status)));
        let wrong = Err((Code::InvalidArgument, vec!["resource[\"tenant\"]".to_owned()]));
        assert_eq!(answer, if served { Ok(true) } else { wrong });
    }
    let huge = "x".repeat(5 << 20);
    let charges = vec![charge("per-tenant", &[("resource.tenant", &huge)], None)];
    let status = bench.one.quotas().await.consume(pb::ConsumeRequest { charges }).await.expect_err("it is too large");
    assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec!["message".to_owned()]));
}

#[tokio::test]
async fn keys_of_any_kind_have_a_counter_each_in_memory() {
    keys_of_any_kind_have_a_counter_each(&Bench::start("").await).await;
}

#[tokio::test]
async fn keys_of_any_kind_have_a_counter_each_in_redis() {
    let Some(redis) = RedisServer::start() else { return };
    keys_of_any_kind_have_a_counter_each(&Bench::start(&in_redis(&redis)).await).await;
}

fn hot(store: &str, units: usize, window: Duration) -> String {
    format!(
        "{store}\nlimits: {{ hot: {{ units: {units}, window: {}ms }} }}\n\
         rules: [{{ match: {{ path: /hot }}, permit: anyone, limits: [hot] }}]",
        window.as_millis()
    )
}

/// A call that was admitted: when it was sent, and when its answer was there.
type Admitted = (Duration, Duration);

/// The most calls that were sent and answered within one interval of that length, which begins at `since` or later.
fn most_within(window: Duration, since: Duration, admitted: &[Admitted]) -> usize {
    let begins = admitted.iter().map(|(sent, _)| *sent).filter(|sent| *sent >= since);
    let within = |begin: Duration| {
        admitted.iter().filter(|(sent, answered)| *sent >= begin && *answered < begin + window).count()
    };
    begins.map(within).max().unwrap_or(0)
}

#[tokio::test]
async fn around_a_changed_limit_no_window_holds_more_than_the_larger_and_soon_none_more_than_the_new_one() {
    let seconds = Duration::from_secs;
    // Each is in force for 25 seconds.
    let limits =
        [(10, seconds(10)), (4, seconds(10)), (20, seconds(10)), (20, seconds(2)), (20, seconds(20)), (3, seconds(1))];
    let tollgate = Tollgate::start(&hot("", limits[0].0, limits[0].1)).await;
    let mut decisions = tollgate.decisions().await;
    let (mut now, mut admitted, mut changes) = (Duration::ZERO, Vec::new(), Vec::new());
    for (units, window) in limits {
        tollgate.server.reload(configuration(&hot("", units, window))).expect("it can be taken over");
        changes.push((now, units, window));
        for _ in 0..100 {
            for _ in 0..3 {
                let answer = decisions.decide(question("GET", "/hot", None)).await.expect("an answer").into_inner();
                admitted.extend(answer.allowed.then_some((now, now)));
            }
            now += Duration::from_millis(250);
            tollgate.clock.advance(Duration::from_millis(250));
        }
    }
    for (index, &(changed, units, window)) in changes.iter().enumerate() {
        let until = changes.get(index + 1).map_or(now, |(next, ..)| *next);
        let of_this: Vec<_> = admitted.iter().copied().filter(|(sent, _)| *sent < until).collect();
        let most = most_within(window, changed, &of_this);
        assert_eq!(most, units, "from the change on it is the new limit that holds, and it is reached");
        if let Some(&(_, old_units, old_window)) = index.checked_sub(1).and_then(|before| changes.get(before)) {
            let larger = units.max(old_units);
            assert!(most_within(window.min(old_window), changed.saturating_sub(old_window), &of_this) <= larger);
        }
    }
}

#[tokio::test]
async fn a_limit_that_is_lowered_ends_the_leases_that_are_out() {
    const LEASED: &str = r#"tollgate_payments_total{by="leases"}"#;
    let Some(redis) = RedisServer::start() else { return };
    let yaml = |units| hot(&in_redis(&redis), units, Duration::from_mins(10));
    // Their clocks stand still, so no lease ends by itself.
    let replicas = [Tollgate::start(&yaml(1_000)).await, Tollgate::start(&yaml(1_000)).await];
    let mut admitted = 0;
    for replica in &replicas {
        poll(SOON, "a lease", async || {
            assert_eq!(replica.verdict("GET", "/hot", None).await, "allow");
            admitted += 1;
            (replica.metric(LEASED).await > 0.0).then_some(())
        })
        .await;
    }
    for replica in &replicas {
        replica.server.reload(configuration(&yaml(5))).expect("it can be taken over");
    }
    for replica in &replicas {
        assert_eq!(replica.verdict("GET", "/hot", None).await, "deny quota_exceeded");
    }
    for replica in &replicas {
        replica.server.reload(configuration(&yaml(500))).expect("it can be taken over");
    }
    // What was leased and not used is back, and what was used counts.
    let peek = pb::DecideRequest { mode: pb::QuotaMode::Peek.into(), units: Some(0), ..question("GET", "/hot", None) };
    for replica in &replicas {
        poll(SOON, "the units that came back", async || {
            (left(&replica.decide(peek.clone()).await.quotas) == [500 - admitted]).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_limit_may_change_while_leases_are_out() {
    let Some(redis) = RedisServer::start() else { return };
    let store = in_redis(&redis);
    let second = Duration::from_secs(1);
    let limits = [(1_000, second), (100, second), (200, second / 2)];
    let yaml = |(units, window)| hot(&store, units, window);
    let mut replicas = Vec::new();
    for _ in 0..2 {
        replicas.push(Arc::new(Tollgate::start_with(&yaml(limits[0]), TestClock::running()).await));
    }
    let (begin, over) = (Instant::now(), Arc::new(AtomicBool::new(false)));
    let caller = |replica: &Arc<Tollgate>| tokio::spawn(call(Arc::clone(replica), begin, Arc::clone(&over)));
    let callers: Vec<_> = replicas.iter().cycle().take(8).map(caller).collect();
    // When each began to hold somewhere, and when everywhere.
    let mut changed = vec![(Duration::ZERO, Duration::ZERO)];
    for limit in &limits[1..] {
        // A window and a little: units come back just then, and are leased.
        sleep_until(Instant::now() + second * 6 / 5).await;
        let from = begin.elapsed();
        for replica in &replicas {
            replica.server.reload(configuration(&yaml(*limit))).expect("it can be taken over");
        }
        changed.push((from, begin.elapsed()));
    }
    sleep_until(Instant::now() + second * 2).await;
    over.store(true, Ordering::Relaxed);
    let mut admitted = Vec::new();
    for caller in callers {
        admitted.extend(caller.await.expect("it ends well"));
    }
    for (index, (&(_, since), &(units, window))) in changed.iter().zip(&limits).enumerate() {
        let until = changed.get(index + 1).map_or(Duration::MAX, |(next, _)| *next);
        let of_this: Vec<_> = admitted.iter().copied().filter(|(_, answered)| *answered < until).collect();
        let most = most_within(window, since, &of_this);
        assert!(most <= units, "{most} in a window after {since:?}, where {units} may be");
        assert!(most > 0, "something holds it up after {since:?}");
        let (old_units, old_window) = limits[index.saturating_sub(1)];
        let around = most_within(window.min(old_window), since.saturating_sub(old_window), &of_this);
        assert!(around <= units.max(old_units), "{around} in a window around {since:?}");
    }
}

/// Calls as fast as answers come.
async fn call(replica: Arc<Tollgate>, begin: Instant, over: Arc<AtomicBool>) -> Vec<Admitted> {
    let (mut decisions, mut admitted) = (replica.decisions().await, Vec::new());
    while !over.load(Ordering::Relaxed) {
        let sent = begin.elapsed();
        let answer = decisions.decide(question("GET", "/hot", None)).await.expect("an answer").into_inner();
        admitted.extend(answer.allowed.then(|| (sent, begin.elapsed())));
    }
    admitted
}
