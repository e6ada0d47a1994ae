//! `when_away: local`: while the store is away, each replica admits its share.

use super::*;

const WINDOW: Micros = Micros::from_secs(32);

impl World {
    fn leave(&self) {
        self.core.away.store(true, Ordering::Relaxed);
    }

    fn come_back(&self) {
        self.core.away.store(false, Ordering::Relaxed);
    }

    async fn admitted_of(&self, charges: &[(&Arc<Limit>, u64)], calls: usize) -> usize {
        let mut admitted = 0;
        for _ in 0..calls {
            admitted += usize::from(self.pay(charges).await.reason.allows());
        }
        admitted
    }
}

#[tokio::test]
async fn a_replica_that_is_cut_off_admits_its_share_and_no_more_in_a_window() {
    let one = world();
    let (other, limit) = (one.other(), limit("a", 40, WhenAway::Local));
    for replica in [&other, &one, &other] {
        replica.desk.beat().await.unwrap();
    }
    one.leave();
    for replica in [&one, &other] {
        assert_eq!(replica.admitted_of(&[(&limit, 1)], 30).await, 20);
    }
    let refused = one.pay(&[(&limit, 1)]).await;
    assert_eq!((refused.reason, refused.states[0].remaining), (Reason::QuotaExceeded, 0));
    assert!(matches!(refused.states[0].verdict, QuotaVerdict::Short { .. }));
    one.pass(WINDOW + Micros::from_secs(1));
    assert_eq!(one.admitted_of(&[(&limit, 1)], 30).await, 20);
}

#[tokio::test]
async fn a_replica_that_never_reached_its_store_takes_itself_for_the_only_one() {
    let one = world();
    let alone = World::before(Arc::clone(&one.core), Arc::clone(&one.clock), 6_400);
    alone.leave();
    assert_eq!(alone.admitted_of(&[(&limit("a", 40, WhenAway::Local), 1)], 60).await, 40);
}

#[tokio::test]
async fn leases_in_hand_are_spent_before_the_share() {
    let world = world();
    let limit = limit("a", 1_000, WhenAway::Local);
    world.desk.beat().await.unwrap();
    world.heat(&limit).await;
    let in_hand = world.in_hand(&limit);
    world.leave();
    let calls = usize::try_from(in_hand).unwrap();
    assert_eq!(world.admitted_of(&[(&limit, 1)], calls).await, calls);
    assert_eq!((world.in_hand(&limit), world.desk.local_left(&limit).await), (0, 1_000));
    let paid = world.pay(&[(&limit, 1)]).await;
    assert_eq!((paid.reason, paid.states[0].remaining), (Reason::Allowed, 999));
}

impl LeaseDesk {
    async fn local_left(&self, limit: &Arc<Limit>) -> u64 {
        let look = Request { limit: Arc::clone(limit), key: CounterKey::new(&limit.name), terms: at_once(0) };
        self.local.acquire([look].into_iter().collect(), Mode::Peek, self.clock.now()).get().await[0].unwrap().remaining
    }
}

#[tokio::test]
async fn several_limits_are_charged_all_or_none_whoever_pays_for_them() {
    let world = world();
    let (hot, small) = (limit("hot", 1_000, WhenAway::Deny), limit("small", 2, WhenAway::Local));
    let (large, strict) = (limit("large", 10, WhenAway::Local), limit("strict", 9, WhenAway::Deny));
    world.desk.beat().await.unwrap();
    world.heat(&hot).await;
    let in_hand = world.in_hand(&hot);
    world.leave();
    assert_eq!(world.admitted_of(&[(&hot, 1), (&small, 1), (&large, 1)], 5).await, 2);
    assert_eq!((world.in_hand(&hot), world.desk.local_left(&large).await), (in_hand - 2, 8));
    let denied = world.pay(&[(&hot, 1), (&large, 1), (&strict, 1)]).await;
    assert_eq!((denied.reason, denied.states[1].remaining), (Reason::StoreAway, 8));
    assert_eq!((world.in_hand(&hot), world.desk.local_left(&large).await), (in_hand - 2, 8));
}

#[tokio::test]
async fn a_limit_with_fewer_units_than_replicas_has_no_share_to_give() {
    let one = world();
    let (other, limit) = (one.other(), limit("a", 1, WhenAway::Local));
    for replica in [&other, &one] {
        replica.desk.beat().await.unwrap();
    }
    one.leave();
    let denied = one.pay(&[(&limit, 1)]).await;
    assert_eq!((denied.reason, denied.states[0].verdict), (Reason::StoreAway, QuotaVerdict::Away));
}

#[tokio::test]
async fn what_costs_more_than_the_share_is_not_refused_for_good() {
    let one = world();
    let (other, limit) = (one.other(), limit("a", 40, WhenAway::Local));
    for replica in [&other, &one] {
        replica.desk.beat().await.unwrap();
    }
    one.leave();
    let denied = one.pay(&[(&limit, 21)]).await;
    assert_eq!((denied.reason, denied.states[0].verdict), (Reason::StoreAway, QuotaVerdict::Away));
    let charge = Charge { limit: Arc::clone(&limit), key: CounterKey::new("a"), units: 21 };
    let peeked = one.desk.peek([charge].into_iter().collect(), one.clock.now()).get().await;
    assert_eq!((peeked.reason, peeked.states[0].verdict), (Reason::StoreAway, QuotaVerdict::Away));
    assert_eq!((one.desk.local_left(&limit).await, one.pay(&[(&limit, 20)]).await.reason), (40, Reason::Allowed));
}

#[tokio::test]
async fn the_store_is_told_of_the_share_when_it_is_back() {
    let world = world();
    let limit = limit("a", 40, WhenAway::Local);
    world.desk.beat().await.unwrap();
    world.admitted_of(&[(&limit, 1)], 5).await;
    world.desk.close().await;
    world.leave();
    assert_eq!(world.admitted_of(&[(&limit, 1)], 10).await, 10);
    assert!(world.desk.beat().await.is_err());
    world.come_back();
    world.desk.beat().await.unwrap();
    assert_eq!(world.left(&limit), 25);
    world.desk.beat().await.unwrap();
    assert_eq!(world.left(&limit), 25, "once");
    // A store that lost its data besides is told all of it, once.
    world.leave();
    world.admitted_of(&[(&limit, 1)], 3).await;
    world.core.lose();
    world.come_back();
    world.desk.beat().await.unwrap();
    assert_eq!(world.left(&limit), 22);
}

#[tokio::test]
async fn a_share_is_paid_beside_counters_whose_node_is_there() {
    let world = world();
    let (near, far) = (limit("near", 1_000, WhenAway::Deny), limit("far", 3, WhenAway::Local));
    *world.core.lost.lock().unwrap() = Some(Arc::clone(&far));
    assert_eq!(world.admitted_of(&[(&near, 1), (&far, 1)], 9).await, 3);
    let refused = world.pay(&[(&near, 1), (&far, 1)]).await;
    assert_eq!(refused.reason, Reason::QuotaExceeded);
    assert!(matches!(refused.states[1].verdict, QuotaVerdict::Short { .. }));
}

#[tokio::test]
async fn a_peek_tells_what_the_share_would_pay() {
    let world = world();
    let limit = limit("a", 40, WhenAway::Local);
    world.leave();
    world.admitted_of(&[(&limit, 1)], 5).await;
    let charge = Charge { limit: Arc::clone(&limit), key: CounterKey::new("a"), units: 1 };
    let peeked = world.desk.peek([charge].into_iter().collect(), world.clock.now()).get().await;
    assert_eq!((peeked.reason, peeked.states[0].remaining), (Reason::Allowed, 35));
}

#[tokio::test]
async fn the_store_is_told_of_the_share_by_the_whole_limit() {
    let one = world();
    let algorithm = Algorithm::FixedWindow(Grid { units: 40, length: WINDOW });
    let fixed = Arc::new(Limit { algorithm, ..(*limit("a", 1, WhenAway::Local)).clone() });
    let other = one.other();
    for replica in [&other, &one] {
        replica.desk.beat().await.unwrap();
    }
    assert_eq!(other.admitted_of(&[(&fixed, 1)], 25).await, 25);
    one.leave();
    // More than the share is charged already, but not more than the limit.
    assert_eq!(one.admitted_of(&[(&fixed, 10)], 1).await, 1);
    one.come_back();
    one.desk.beat().await.unwrap();
    assert_eq!(one.left(&fixed), 5);
}

#[tokio::test]
async fn a_store_that_comes_back_for_a_moment_leaves_the_shares_as_they_are() {
    let one = world();
    let (other, limit) = (one.other(), limit("a", 40, WhenAway::Local));
    for replica in [&one, &other, &one] {
        replica.desk.beat().await.unwrap();
    }
    // It stood still for so long that it forgot who was there.
    one.core.pulses.lock().unwrap().clear();
    one.desk.beat().await.unwrap();
    one.leave();
    let admitted = one.admitted_of(&[(&limit, 1)], 60).await;
    assert_eq!(admitted + other.admitted_of(&[(&limit, 1)], 60).await, 40);
}

#[tokio::test]
async fn a_replica_that_is_not_there_any_more_leaves_its_part_to_the_others_after_a_while() {
    let one = world();
    let (other, limit) = (one.other(), limit("a", 40, WhenAway::Local));
    for replica in [&one, &other, &one] {
        replica.desk.beat().await.unwrap();
    }
    one.core.pulses.lock().unwrap().clear();
    for _ in 0..8 {
        one.desk.beat().await.unwrap();
    }
    one.leave();
    assert_eq!(one.admitted_of(&[(&limit, 1)], 60).await, 40);
}
