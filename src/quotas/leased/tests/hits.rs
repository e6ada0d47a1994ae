//! Hits of fixed windows: counted at the store whether they fit or not, and while it is away as the limit says.

use super::*;

const GRID: Grid = Grid { units: 40, length: Micros::from_secs(60) };

fn fixed(when_away: WhenAway) -> Arc<Limit> {
    let algorithm = Algorithm::FixedWindow(GRID);
    Arc::new(Limit { name: "a".to_owned(), algorithm, by: Vec::new(), when_away, charge: Occasion::AfterAuth })
}

impl World {
    async fn hit(&self, limit: &Arc<Limit>, hits: u64) -> (QuotaVerdict, u64) {
        let hit = Hit { limit: Arc::clone(limit), grid: GRID, key: CounterKey::new(&limit.name), hits };
        let states = self.desk.hit([hit].into_iter().collect(), self.clock.now()).get().await;
        assert_eq!(states.len(), 1);
        (states[0].verdict, states[0].remaining)
    }
}

#[tokio::test]
async fn what_does_not_fit_counts_as_well() {
    let (world, limit) = (world(), fixed(WhenAway::Deny));
    assert_eq!(world.hit(&limit, 39).await, (QuotaVerdict::Granted, 1));
    assert!(matches!(world.hit(&limit, 2).await, (QuotaVerdict::Short { .. }, 0)));
    assert!(matches!(world.hit(&limit, 1).await, (QuotaVerdict::Short { .. }, 0)));
    // It is over by two, and so much has to come back before anything fits.
    assert_eq!(world.refund(&limit, 2).await.unwrap()[..], [2]);
    assert_eq!(world.hit(&limit, 0).await, (QuotaVerdict::Granted, 0));
    assert!(world.desk.hit(Hits::new(), world.clock.now()).get().await.is_empty());
}

#[tokio::test]
async fn a_store_that_lost_its_data_is_told_of_what_fitted() {
    let (world, limit) = (world(), fixed(WhenAway::Deny));
    world.hit(&limit, 30).await;
    world.hit(&limit, 20).await;
    world.core.lose();
    world.desk.beat().await.unwrap();
    assert_eq!(world.left(&limit), 10);
    assert_eq!(world.hit(&limit, 10).await, (QuotaVerdict::Granted, 0));
}

#[tokio::test]
async fn while_the_store_is_away_the_limit_says_what_becomes_of_them() {
    let one = world();
    let (deny, allow, local) = (fixed(WhenAway::Deny), fixed(WhenAway::Allow), fixed(WhenAway::Local));
    one.core.away.store(true, Ordering::Relaxed);
    for limit in [&deny, &allow] {
        assert_eq!(one.hit(limit, 1).await, (QuotaVerdict::Away, 0));
    }
    assert_eq!(one.hit(&local, 40).await, (QuotaVerdict::Granted, 0));
    assert!(matches!(one.hit(&local, 1).await, (QuotaVerdict::Short { .. }, 0)));
    one.core.away.store(false, Ordering::Relaxed);
    one.desk.beat().await.unwrap();
    assert!(matches!(one.hit(&local, 1).await, (QuotaVerdict::Short { .. }, 0)), "the store was told of the share");
}
