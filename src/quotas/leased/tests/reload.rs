//! A limit that is changed while leases are out: never over the larger, and the new one holds within a window.

use super::*;
use crate::domain::exact_log::Log;
use crate::domain::lease::leased_frame;

fn sliding(units: u64, secs: u64) -> Arc<Limit> {
    let algorithm = Algorithm::SlidingWindow { units, window: Micros::from_secs(secs) };
    Arc::new(Limit { algorithm, ..(*limit("a", 1, WhenAway::Deny)).clone() })
}

fn fixed(units: u64, secs: u64) -> Arc<Limit> {
    let algorithm = Algorithm::FixedWindow(Grid { units, length: Micros::from_secs(secs) });
    Arc::new(Limit { algorithm, ..(*limit("a", 1, WhenAway::Deny)).clone() })
}

impl World {
    /// Asks for more than there is, by `limit`, for so long.
    async fn press(&self, limit: &Arc<Limit>, time: Micros, log: &mut Log) {
        let end = self.clock.steady() + time;
        while self.clock.steady() < end {
            for _ in 0..8 {
                if self.pay(&[(limit, 1)]).await.reason.allows() {
                    log.spend(self.clock.steady(), 1);
                }
            }
            self.desk.tend().await;
            self.pass(Micros::from_millis(250));
        }
    }
}

#[tokio::test]
async fn whatever_is_changed_no_window_holds_more_than_the_larger_limit_and_a_window_later_the_new_one_holds() {
    let old = sliding(40, 32);
    for new in [sliding(80, 32), sliding(10, 32), sliding(40, 8), sliding(60, 64), fixed(40, 32), fixed(20, 16)] {
        let world = world();
        let (mut log, mut after) = (Log::default(), Log::default());
        world.press(&old, Micros::from_secs(4), &mut log).await;
        world.press(&new, new.window() + new.window(), &mut log).await;
        let shorter = old.window().min(new.window());
        let larger = match new.algorithm {
            Algorithm::SlidingWindow { .. } => old.units().max(new.units()),
            // Another algorithm begins anew, and admits twice its units around an edge.
            _ => old.units() + 2 * new.units(),
        };
        assert!(log.most_in_any(shorter) <= larger, "{new:?}: {} of {larger}", log.most_in_any(shorter));
        world.press(&new, new.window() + new.window(), &mut after).await;
        let most = after.most_in_any(new.window());
        let promised = if leased_frame(&new).is_some() { new.units() } else { 2 * new.units() };
        assert!(most <= promised && most * 10 >= new.units() * 8, "{new:?}: {most}");
    }
}

#[tokio::test]
async fn a_lease_of_the_old_definition_is_not_spent_by_the_new_one_and_goes_back() {
    let world = world();
    let (old, new) = (sliding(1_000, 32), sliding(2_000, 32));
    world.heat(&old).await;
    assert!(world.pay(&[(&new, 1)]).await.asked);
    world.desk.close().await;
    assert_eq!(world.left(&new), 1_993);
}

#[tokio::test]
async fn what_was_admitted_by_the_old_definition_is_told_to_a_store_that_lost_its_data() {
    let world = world();
    world.desk.beat().await.unwrap();
    let (old, new) = (sliding(40, 32), sliding(30, 8));
    for _ in 0..12 {
        assert_eq!(world.pay(&[(&old, 1)]).await.reason, Reason::Allowed);
    }
    assert_eq!(world.pay(&[(&new, 1)]).await.reason, Reason::Allowed);
    world.core.lose();
    world.desk.beat().await.unwrap();
    assert_eq!(world.left(&new), 17);
}
