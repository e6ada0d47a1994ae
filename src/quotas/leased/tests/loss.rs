//! A store that loses its data is told what was admitted, and nobody charges anything before.

use super::*;

const WINDOW: Micros = Micros::from_secs(32);

impl World {
    async fn admitted(&self, limit: &Arc<Limit>, calls: usize) -> u64 {
        let mut admitted = 0;
        for _ in 0..calls {
            admitted += u64::from(self.pay(&[(limit, 1)]).await.reason.allows());
        }
        admitted
    }

    /// For so many seconds.
    async fn beats_for(&self, secs: usize) {
        for _ in 0..secs {
            self.pass(Micros::from_secs(1));
            self.desk.beat().await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_was_admitted_is_charged_again_and_what_was_in_hand_is_not_spent() {
    let world = world();
    let limit = limit("a", 1_000, WhenAway::Deny);
    world.desk.beat().await.unwrap();
    world.heat(&limit).await;
    world.core.lose();
    world.desk.beat().await.unwrap();
    assert_eq!((world.left(&limit), world.in_hand(&limit)), (994, 0));
    assert_eq!(world.pay(&[(&limit, 1)]).await.reason, Reason::Allowed);
    world.desk.close().await;
    assert_eq!(world.left(&limit), 993);
}

#[tokio::test]
async fn two_replicas_admit_no_more_than_the_limit_though_the_store_forgets_in_between() {
    let one = world();
    let (other, limit) = (one.other(), limit("a", 40, WhenAway::Deny));
    for replica in [&one, &other] {
        replica.desk.beat().await.unwrap();
    }
    one.desk.beat().await.unwrap();
    let mut admitted = one.admitted(&limit, 12).await + other.admitted(&limit, 12).await;
    assert_eq!(admitted, 24);
    one.core.lose();
    // The first to come back may not give away what the other has admitted.
    one.desk.beat().await.unwrap();
    assert_eq!(one.pay(&[(&limit, 1)]).await.reason, Reason::StoreAway);
    other.desk.beat().await.unwrap();
    one.desk.beat().await.unwrap();
    for replica in [&one, &other, &one] {
        admitted += replica.admitted(&limit, 40).await;
    }
    assert_eq!(admitted, 40);
}

#[tokio::test]
async fn a_replica_that_does_not_come_back_is_waited_for_a_few_seconds() {
    let one = world();
    let (other, limit) = (one.other(), limit("a", 40, WhenAway::Deny));
    for replica in [&other, &one] {
        replica.desk.beat().await.unwrap();
    }
    one.core.lose();
    one.desk.beat().await.unwrap();
    assert_eq!(one.pay(&[(&limit, 1)]).await.reason, Reason::StoreAway);
    one.beats_for(9).await;
    assert_eq!(one.pay(&[(&limit, 1)]).await.reason, Reason::StoreAway);
    one.beats_for(1).await;
    assert_eq!(one.pay(&[(&limit, 1)]).await.reason, Reason::Allowed);
}

#[tokio::test]
async fn an_answer_to_a_request_from_before_the_loss_is_worth_nothing() {
    let world = world();
    let limit = limit("a", 1_000, WhenAway::Deny);
    world.desk.beat().await.unwrap();
    world.heat(&limit).await;
    world.desk.close().await;
    let charges = [(&limit, 1)];
    let closed = world.core.door.acquire_many(1_000).await.unwrap();
    let mut call = Box::pin(world.pay(&charges));
    assert!(call.as_mut().now_or_never().is_none());
    drop(closed);
    // What was admitted is gathered while the call is on its way: it would not be among it.
    world.core.lose();
    world.desk.beat().await.unwrap();
    assert_eq!(call.await.reason, Reason::StoreAway);
    assert_eq!(world.desk.table.with(&CounterKey::new("a"), |entry| entry.admitted(world.clock.steady())), Some(6));
}

#[tokio::test]
async fn an_idle_counter_is_remembered_for_its_window_and_forgotten_after_it() {
    let world = world();
    let limit = limit("a", 40, WhenAway::Deny);
    world.desk.beat().await.unwrap();
    assert_eq!(world.admitted(&limit, 10).await, 10);
    let sweep = async || {
        for _ in 0..64 {
            world.desk.tend().await;
        }
    };
    world.pass(WINDOW - Micros::from_secs(1));
    sweep().await;
    sweep().await;
    assert_eq!(world.desk.table.size(), (1, 0));
    world.core.lose();
    world.desk.beat().await.unwrap();
    assert_eq!(world.left(&limit), 30);
    world.pass(WINDOW);
    sweep().await;
    assert_eq!(world.desk.table.size(), (0, 0));
}

#[tokio::test]
async fn a_store_that_goes_away_while_it_is_told_is_told_the_rest() {
    let world = world();
    let limits: Vec<_> = (0..300).map(|name| limit(&name.to_string(), 10, WhenAway::Deny)).collect();
    world.desk.beat().await.unwrap();
    for limit in &limits {
        assert_eq!(world.admitted(limit, 2).await, 2);
    }
    world.core.lose();
    world.core.door.forget_permits(998);
    let mut beat = Box::pin(world.desk.beat());
    // Some of it is told, and then nothing comes back.
    let _closed = beat.as_mut().now_or_never();
    world.core.away.store(true, Ordering::Relaxed);
    world.core.door.add_permits(998);
    drop(beat);
    assert!(world.desk.beat().await.is_err());
    world.core.away.store(false, Ordering::Relaxed);
    world.desk.beat().await.unwrap();
    for limit in &limits {
        assert_eq!(world.left(limit), 8, "{}", limit.name);
    }
}

#[tokio::test]
async fn fixed_windows_and_counters_paid_at_the_store_are_remembered_too() {
    let world = world();
    let algorithm = Algorithm::FixedWindow(Grid { units: 40, length: WINDOW });
    let fixed = Arc::new(Limit { algorithm, ..(*limit("a", 1, WhenAway::Deny)).clone() });
    world.desk.beat().await.unwrap();
    assert_eq!(world.admitted(&fixed, 10).await, 10);
    world.core.lose();
    world.desk.beat().await.unwrap();
    assert_eq!(world.left(&fixed), 30);
}

#[tokio::test]
async fn a_reset_is_not_undone_by_a_loss() {
    let world = world();
    let limit = limit("a", 40, WhenAway::Deny);
    world.desk.beat().await.unwrap();
    world.admitted(&limit, 10).await;
    world.desk.reset(Arc::clone(&limit), CounterKey::new("a")).get().await.unwrap();
    world.core.lose();
    world.desk.beat().await.unwrap();
    assert_eq!(world.left(&limit), 40);
}

#[tokio::test]
async fn a_replica_that_starts_while_another_is_waited_for_is_not_taken_for_it() {
    let one = world();
    let (other, limit) = (one.other(), limit("a", 40, WhenAway::Deny));
    for replica in [&one, &other, &one] {
        replica.desk.beat().await.unwrap();
    }
    let mut admitted = one.admitted(&limit, 12).await + other.admitted(&limit, 12).await;
    one.core.lose();
    one.desk.beat().await.unwrap();
    one.other().desk.beat().await.unwrap();
    one.desk.beat().await.unwrap();
    assert_eq!(one.pay(&[(&limit, 1)]).await.reason, Reason::StoreAway, "the other has not told yet");
    other.desk.beat().await.unwrap();
    one.desk.beat().await.unwrap();
    admitted += one.admitted(&limit, 40).await + other.admitted(&limit, 40).await;
    assert_eq!(admitted, 40);
}

#[tokio::test]
async fn a_replica_that_starts_waits_for_those_that_have_not_told_yet() {
    let one = world();
    let limit = limit("a", 40, WhenAway::Deny);
    one.desk.beat().await.unwrap();
    assert_eq!(one.admitted(&limit, 30).await, 30);
    one.core.lose();
    let stale = Pulse { replica: 7, epoch: Some(Epoch(NonZeroU64::MIN)) };
    one.core.pulses.lock().unwrap().push((stale, one.clock.steady()));
    let newcomer = one.other();
    newcomer.desk.beat().await.unwrap();
    assert_eq!(newcomer.pay(&[(&limit, 1)]).await.reason, Reason::StoreAway);
    // It is waited for as long as it is heard of, and then as any that is silent.
    newcomer.beats_for(4).await;
    assert_eq!(newcomer.pay(&[(&limit, 1)]).await.reason, Reason::StoreAway);
    newcomer.beats_for(1).await;
    assert_eq!(newcomer.pay(&[(&limit, 1)]).await.reason, Reason::Allowed);
}

#[tokio::test]
async fn a_loss_that_nobody_has_noticed_when_a_replica_stops_is_noticed_then() {
    let world = world();
    let limit = limit("a", 40, WhenAway::Deny);
    world.desk.beat().await.unwrap();
    assert_eq!(world.admitted(&limit, 30).await, 30);
    world.core.lose();
    world.desk.close().await;
    assert_eq!(world.left(&limit), 10);
}
