//! Calls that wait for others' requests, before a store that is slow: time is tokio's, and passes by itself.

use tokio::task::yield_now;
use tokio::time::Instant;

use super::*;

/// Pays as so many calls at once; what becomes of each, and how long it took.
async fn crowd(world: &World, limit: &Arc<Limit>, calls: usize) -> Vec<(Reason, Micros)> {
    let begin = Instant::now();
    let call = async || (world.pay(&[(limit, 3)]).await.reason, Micros::from(begin.elapsed()));
    join_all((0..calls).map(|_| call())).await
}

#[tokio::test(start_paused = true)]
async fn no_call_takes_longer_than_the_deadline_for_others_requests_and_again_for_its_own() {
    let world = world();
    let limit = limit("a", 100, WhenAway::Deny);
    for share in [2, 3, 5, 7, 9] {
        let calls = world.calls();
        *world.core.slowness.lock().unwrap() = Duration::from(DEADLINE) * share / 10;
        let ended = crowd(&world, &limit, 30).await;
        let longest = ended.iter().map(|(_, took)| *took).max().unwrap();
        assert!(longest <= DEADLINE + DEADLINE, "{longest}");
        // Whoever asks, asks for all; what the rest would ask by themselves is spared a store that is slow.
        let asked = u32::try_from(world.calls() - calls).unwrap();
        assert!(asked <= 10 / share + 1, "{asked} requests where each takes {share} tenths of the deadline");
        let admitted = ended.iter().filter(|(reason, _)| reason.allows()).count();
        assert!((1..=33).contains(&admitted), "{admitted}");
        let late = ended.iter().filter(|(reason, _)| *reason == Reason::StoreAway);
        assert!(late.clone().all(|(_, took)| *took >= DEADLINE), "nobody is turned away before");
        world.desk.reset(Arc::clone(&limit), CounterKey::new("a")).get().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_in_vain_gets_what_its_limit_says_and_nobody_is_kept_from_what_is_in_hand() {
    let world = world();
    *world.core.slowness.lock().unwrap() = Duration::from(DEADLINE) * 9 / 10;
    for (when_away, reason) in [(WhenAway::Allow, Reason::Allowed), (WhenAway::Deny, Reason::StoreAway)] {
        let limit = limit(&format!("{when_away:?}"), 100, when_away);
        let ended = crowd(&world, &limit, 30).await;
        assert_eq!(ended.iter().filter(|(_, took)| *took == DEADLINE).count(), 28, "{ended:?}");
        assert!(ended.iter().filter(|(_, took)| *took == DEADLINE).all(|(given, _)| *given == reason), "{ended:?}");
        assert_eq!(world.pay(&[(&limit, 3)]).await.reason, Reason::Allowed, "the second request brought a lease");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_owed_goes_to_the_store_with_the_next_request() {
    let world = world();
    world.heat(&limit("hot", 1_000, WhenAway::Deny)).await;
    let test = async {
        // Time does not pass while this is ready all the time, so of the upkeep there is one turn at the start and no more.
        for _ in 0..4 {
            yield_now().await;
        }
        let end = |limit: &Arc<Limit>, key: &CounterKey, ended| world.desk.owe(limit, key, ended);
        world.desk.table.end_leases(Micros(u64::MAX), Holding::end, end);
        let before = world.calls();
        for _ in 0..4 {
            yield_now().await;
        }
        assert_eq!((world.calls() - before, world.desk.due().len()), (0, 1));
        assert!(world.pay(&[(&limit("cold", 9, WhenAway::Deny), 1)]).await.asked);
        for _ in 0..4 {
            yield_now().await;
        }
        assert_eq!((world.calls() - before, world.desk.due().len()), (2, 0));
    };
    tokio::select! {
        () = world.desk.upkeep() => {}
        () = test => {}
    }
}
