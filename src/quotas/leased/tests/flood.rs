//! Floods of counters, and counters without a place.

use super::*;

#[tokio::test]
async fn a_flood_of_counters_keeps_the_bounds_and_takes_nothing_from_a_hot_one() {
    // Ten counters in use in each shard, and forty that are remembered.
    let world = world_for(640);
    let hot = limit("hot", 1_000_000, WhenAway::Deny);
    world.heat(&hot).await;
    let mut asked = 0;
    for wave in 0..20 {
        for name in 0..1_000 {
            let cold = limit(&format!("{wave}-{name}"), 2, WhenAway::Deny);
            assert_eq!(world.pay(&[(&cold, 1)]).await.reason, Reason::Allowed);
            asked += u32::from(world.pay(&[(&hot, 1)]).await.asked);
        }
        let (known, live) = world.desk.table.size();
        assert!(live <= 640 && known <= 640 * 5, "{live} of {known} are in use");
        world.pass(Micros::from_millis(200));
        world.desk.tend().await;
        for _ in 0..64 {
            world.desk.table.sweep(world.desk.turn.fetch_add(1, Ordering::Relaxed), world.clock.steady());
        }
    }
    assert!(asked < 100, "{asked} of 20,000 calls for the hot counter asked the store");
}

#[tokio::test]
async fn a_counter_that_gets_hot_after_a_flood_is_leased() {
    let world = world_for(640);
    for name in 0..5_000 {
        world.pay(&[(&limit(&name.to_string(), 2, WhenAway::Deny), 1)]).await;
    }
    // What fell idle makes room, though it is remembered as far as there is room for that.
    world.pass(Micros::from_secs(3));
    world.heat(&limit("hot", 1_000, WhenAway::Deny)).await;
}

#[tokio::test]
async fn a_window_that_is_too_short_for_leases_is_paid_at_the_store_each_time() {
    let world = world();
    let algorithm = Algorithm::SlidingWindow { units: 1_000, window: Micros::from_millis(999) };
    let short = Arc::new(Limit { algorithm, ..(*limit("a", 1, WhenAway::Deny)).clone() });
    for _ in 0..20 {
        assert!(world.pay(&[(&short, 1)]).await.asked);
    }
    assert_eq!(world.left(&short), 980);
}

#[tokio::test]
async fn of_a_counter_that_nobody_asked_beside_a_refusal_all_is_left_that_was_not_admitted_here() {
    let world = world();
    let (small, large) = (limit("small", 1, WhenAway::Deny), limit("large", 10, WhenAway::Deny));
    world.pay(&[(&small, 1), (&large, 2)]).await;
    assert_eq!(world.pay(&[(&small, 1)]).await.reason, Reason::QuotaExceeded);
    let refused = world.pay(&[(&small, 1), (&large, 1), (&limit("other", 7, WhenAway::Deny), 1)]).await;
    let left: Vec<u64> = refused.states.iter().map(|state| state.remaining).collect();
    assert_eq!((refused.asked, left), (false, vec![0, 8, 7]));
}

#[tokio::test]
async fn a_lease_that_is_in_use_is_looked_after_when_it_may_end_and_not_each_time() {
    let world = world();
    world.heat(&limit("a", 1_000, WhenAway::Deny)).await;
    let looked = || {
        let mut looked = 0;
        let look = |holding: &mut Holding| {
            looked += 1;
            holding.tend(world.clock.steady())
        };
        world.desk.table.end_leases(world.clock.steady(), look, |_, _, _| {});
        looked
    };
    assert_eq!(looked(), 0);
    world.pass(Micros::from_millis(400));
    world.pay(&[(&limit("a", 1_000, WhenAway::Deny), 1)]).await;
    assert_eq!(looked(), 0);
    world.pass(Micros::from_millis(100));
    assert_eq!((looked(), looked()), (1, 0));
    // Its end is near.
    world.pass(Micros::from_millis(400));
    assert_eq!((looked(), looked()), (1, 0));
    assert_eq!(world.in_hand(&limit("a", 1_000, WhenAway::Deny)), 0);
}
