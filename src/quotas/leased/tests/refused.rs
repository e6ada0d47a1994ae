//! What is refused of limits that are not leased: it is remembered until the cost fits, for a second at most.

use super::*;
use crate::domain::bucket::Flow;

fn counting(name: &str, algorithm: Algorithm) -> Arc<Limit> {
    Arc::new(Limit {
        name: name.to_owned(),
        algorithm,
        by: Vec::new(),
        when_away: WhenAway::Deny,
        charge: Occasion::AfterAuth,
    })
}

/// Two an hour, by the clock.
fn fixed() -> Arc<Limit> {
    counting("fixed", Algorithm::FixedWindow(Grid { units: 2, length: Micros::from_secs(3_600) }))
}

/// So many at once, and two more a second.
fn bucket(burst: u64) -> Arc<Limit> {
    counting("bucket", Algorithm::TokenBucket(Flow::new(2, Micros::from_secs(1), burst).unwrap()))
}

/// What becomes of one unit, and whether the store was asked.
async fn one(world: &World, limit: &Arc<Limit>) -> (QuotaVerdict, bool) {
    let payment = world.pay(&[(limit, 1)]).await;
    (payment.states[0].verdict, payment.asked)
}

const fn short(after: Micros) -> QuotaVerdict {
    QuotaVerdict::Short { retry_after: after }
}

#[tokio::test]
async fn a_bucket_is_not_asked_before_it_has_gained_enough_and_then_it_is() {
    let (world, bucket, half) = (world(), bucket(3), Micros::from_millis(500));
    world.pay(&[(&bucket, 3)]).await;
    assert_eq!(one(&world, &bucket).await, (short(half), true));
    world.pass(half - Micros(1));
    assert_eq!(one(&world, &bucket).await, (short(Micros(1)), false));
    world.pass(Micros(1));
    assert_eq!(one(&world, &bucket).await, (QuotaVerdict::Granted, true));
}

#[tokio::test]
async fn less_than_what_was_refused_may_fit() {
    let (world, bucket) = (world(), bucket(10));
    world.pay(&[(&bucket, 8)]).await;
    assert!(world.pay(&[(&bucket, 4)]).await.asked);
    assert!(!world.pay(&[(&bucket, 5)]).await.asked);
    assert_eq!(one(&world, &bucket).await, (QuotaVerdict::Granted, true));
}

#[tokio::test]
async fn a_window_that_is_used_up_is_asked_once_a_second_however_many_call() {
    let (world, fixed) = (world(), fixed());
    world.pay(&[(&fixed, 2)]).await;
    let before = world.calls();
    for _ in 0..10 {
        let wait = 3_600_000_000 - world.clock.steady().0 % 3_600_000_000;
        // All at once, and the store takes its time.
        let door = world.core.exit.acquire_many(1_000).await.unwrap();
        let mut crowd = Box::pin(join_all((0..20).map(|_| one(&world, &fixed))));
        assert!((&mut crowd).now_or_never().is_none());
        drop(door);
        assert!(crowd.await.iter().all(|(verdict, _)| *verdict == short(Micros(wait))));
        world.pass(Micros::from_millis(999));
        assert_eq!(one(&world, &fixed).await, (short(Micros(wait - 999_000)), false));
        world.pass(Micros::from_millis(1));
    }
    // In the first crowd nobody knew yet that it was used up.
    assert_eq!(world.calls() - before, 20 + 9);
}

#[tokio::test]
async fn calls_for_a_counter_with_room_do_not_wait_for_each_other() {
    let (world, bucket) = (world(), bucket(20));
    let _door = world.core.exit.acquire_many(1_000).await.unwrap();
    let before = world.calls();
    let mut crowd = Box::pin(join_all((0..20).map(|_| one(&world, &bucket))));
    assert!((&mut crowd).now_or_never().is_none());
    assert_eq!(world.calls() - before, 20);
}

#[tokio::test]
async fn what_was_refused_before_units_came_back_is_forgotten() {
    for limit in [fixed(), bucket(2)] {
        let world = world();
        let lease = world.reserve(&[(&limit, 2)]).await.held.unwrap();
        assert!(one(&world, &limit).await.1 && !one(&world, &limit).await.1);
        world.settle(&limit, lease, 1).await.unwrap();
        assert_eq!(one(&world, &limit).await, (QuotaVerdict::Granted, true), "settled");
        assert!(one(&world, &limit).await.1 && !one(&world, &limit).await.1);
        world.refund(&limit, 1).await.unwrap();
        assert_eq!(one(&world, &limit).await, (QuotaVerdict::Granted, true), "refunded");
        // One answer is on its way while the counter is reset.
        let door = world.core.exit.acquire_many(1_000).await.unwrap();
        let mut refused = Box::pin(one(&world, &limit));
        assert!((&mut refused).now_or_never().is_none());
        world.desk.reset(Arc::clone(&limit), CounterKey::new(&limit.name)).get().await.unwrap();
        drop(door);
        assert!(matches!(refused.await.0, QuotaVerdict::Short { .. }));
        assert_eq!(one(&world, &limit).await, (QuotaVerdict::Granted, true), "reset");
    }
}

#[tokio::test]
async fn what_was_refused_by_another_definition_is_forgotten() {
    let world = world();
    world.pay(&[(&bucket(1), 1)]).await;
    assert!(one(&world, &bucket(1)).await.1 && !one(&world, &bucket(1)).await.1);
    assert!(one(&world, &bucket(2)).await.1, "more fits into this one");
}

#[tokio::test]
async fn slots_are_asked_for_each_time_since_others_release_them() {
    let (world, slots) = (world(), Algorithm::Concurrency(Slots { units: 1, hold: Micros::from_secs(60) }));
    let (other, slots) = (world.other(), counting("slots", slots));
    let held = world.pay(&[(&slots, 1)]).await.held.unwrap();
    assert!(one(&world, &slots).await.1 && one(&world, &slots).await.1);
    other.settle(&slots, held, 1).await.unwrap();
    assert_eq!(one(&world, &slots).await, (QuotaVerdict::Granted, true));
}

/// Limits of failures are looked at before each credential is checked: by whoever floods with bad ones, too.
#[tokio::test]
async fn what_is_used_up_is_looked_up_once_however_many_look() {
    let sliding = counting("sliding", Algorithm::SlidingWindow { units: 2, window: Micros::from_secs(32) });
    for limit in [fixed(), bucket(2), sliding] {
        let (world, name) = (world(), limit.name.clone());
        let other = world.other();
        world.pay(&[(&limit, 2)]).await;
        let look = async |world: &World| {
            let payment = world.desk.peek(charges(&[(&limit, 1)]), world.clock.now()).get().await;
            (payment.reason, payment.asked)
        };
        for replica in [&world, &other] {
            assert_eq!(look(replica).await, (Reason::QuotaExceeded, true), "{name}");
            for _ in 0..10 {
                assert_eq!(look(replica).await, (Reason::QuotaExceeded, false), "{name}");
            }
            assert!(!one(replica, &limit).await.1, "{name}: it is as good for who wants to pay");
        }
        world.pass(Micros::from_secs(1));
        assert!(look(&world).await.1, "{name}: is it still so?");
    }
}
