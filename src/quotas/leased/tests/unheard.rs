//! Calls that the store charged and nobody heard of: what they hold comes back.

use super::*;

fn slots(units: u64) -> Arc<Limit> {
    let algorithm = Algorithm::Concurrency(Slots { units, hold: Micros::from_secs(3_600) });
    Arc::new(Limit { name: "slots".to_owned(), algorithm, ..(*limit("a", 1, WhenAway::Deny)).clone() })
}

impl World {
    /// Asks for these, and goes away when the store has charged them.
    async fn go_away(&self, of: &[(&Arc<Limit>, u64)], reserves: bool) {
        let closed = self.core.exit.acquire_many(1_000).await.unwrap();
        let payment = async { if reserves { self.reserve(of).await } else { self.pay(of).await } };
        assert!(Box::pin(payment).as_mut().now_or_never().is_none());
        drop(closed);
    }

    async fn pay_too_late(&self, of: &[(&Arc<Limit>, u64)], reserves: bool) {
        self.core.late.store(true, Ordering::Relaxed);
        let payment = if reserves { self.reserve(of).await } else { self.pay(of).await };
        assert_eq!((payment.reason, payment.held), (Reason::StoreAway, None));
        self.core.late.store(false, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn slots_of_a_call_that_went_away_or_was_answered_too_late_are_released() {
    let (world, slots) = (world(), slots(2));
    world.go_away(&[(&slots, 1)], false).await;
    world.pay_too_late(&[(&slots, 1)], false).await;
    assert_eq!(world.left(&slots), 0);
    world.desk.tend().await;
    assert_eq!(world.left(&slots), 2);
}

#[tokio::test]
async fn a_reservation_that_nobody_heard_of_is_given_back() {
    let (world, limit) = (world(), limit("a", 10, WhenAway::Deny));
    world.go_away(&[(&limit, 6)], true).await;
    world.pay_too_late(&[(&limit, 4)], true).await;
    assert_eq!(world.left(&limit), 0);
    world.desk.tend().await;
    assert_eq!(world.left(&limit), 10);
}

#[tokio::test]
async fn a_lease_that_nobody_heard_of_is_given_back() {
    let (world, limit) = (world(), limit("a", 1_000, WhenAway::Deny));
    world.heat(&limit).await;
    let (total, in_hand) = (world.left(&limit) + world.in_hand(&limit), world.in_hand(&limit));
    world.go_away(&[(&limit, in_hand + 1)], false).await;
    assert!(world.left(&limit) + in_hand < total - in_hand - 1);
    world.desk.tend().await;
    assert_eq!((world.left(&limit) + in_hand, world.in_hand(&limit)), (total, in_hand));
}

#[tokio::test]
async fn what_is_held_is_given_back_as_soon_as_the_store_can_be_told() {
    let (world, slots) = (world(), slots(2));
    world.pay_too_late(&[(&slots, 2)], false).await;
    world.core.away.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        world.desk.tend().await;
    }
    world.core.away.store(false, Ordering::Relaxed);
    assert_eq!(world.left(&slots), 0);
    world.desk.tend().await;
    assert_eq!(world.left(&slots), 2);
    let calls = world.calls();
    world.desk.tend().await;
    assert_eq!(world.calls(), calls, "once");
}
