//! The load: calls from outside whose every sending and answering is written down, by one clock.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tollgate::proto as pb;
use tollgate::proto::quota_service_client::QuotaServiceClient;
use tonic::transport::{Channel, Endpoint};

use super::{LIMIT, Weather, weather};

/// Calls in flight to each server.
const TASKS: usize = 3;

/// The most that a burst asks for, lest a fast machine never end it.
const BURST_MAX: usize = 30;

/// A call that was admitted, on the clock of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) sent: Duration,
    pub(super) answered: Duration,
    pub(super) units: u64,
}

/// What the clients saw.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) admitted: Vec<Call>,
    /// Units of all calls that were answered, admitted or not, with the moment of the answer.
    pub(super) answered: Vec<(Duration, u64)>,
    /// Calls that ended in an error, as those to a server that was killed do.
    pub(super) failed: u64,
}

/// Where the run's luck comes from (`SplitMix64`).
#[derive(Clone, Copy)]
pub(super) struct Chance(pub(super) u64);

impl Chance {
    pub(super) fn between(&mut self, least: u64, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        least + (mixed ^ (mixed >> 31)) % (most - least + 1)
    }

    pub(super) fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.between(least, most))
    }
}

/// One of the callers of one server.
struct Caller {
    client: QuotaServiceClient<Channel>,
    start: Instant,
    seen: Arc<Mutex<Seen>>,
    chance: Chance,
}

/// Asks the server for `length` from `start` on; whatever the weather wants.
pub(super) async fn load(url: &str, start: Instant, length: Duration, seen: &Arc<Mutex<Seen>>, chance: &mut Chance) {
    let channel = Endpoint::from_shared(url.to_owned()).expect("it is a URL").connect_lazy();
    let callers = (0..TASKS).map(|number| {
        let (client, seen) = (QuotaServiceClient::new(channel.clone()), Arc::clone(seen));
        let mut caller = Caller { client, start, seen, chance: Chance(chance.between(0, u64::MAX - 1)) };
        tokio::spawn(async move {
            while caller.start.elapsed() < length {
                caller.go_on(number == 0).await;
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.expect("it does not panic");
    }
}

impl Caller {
    async fn go_on(&mut self, first: bool) {
        match weather(self.start.elapsed()) {
            Weather::Storm => {
                let units = self.chance.between(1, 40);
                if !self.call(units).await {
                    sleep(Duration::from_millis(2)).await;
                }
            }
            Weather::Rounds if first => self.round().await,
            Weather::Silence | Weather::Rounds => sleep(Duration::from_millis(5)).await,
        }
    }

    /// Makes the counter hot, keeps what is leased in use, and spends it when the lease is about to end.
    async fn round(&mut self) {
        let begun = Instant::now();
        for _ in 0..4 {
            self.call(20).await;
        }
        let late = self.chance.millis(50, 84);
        while begun.elapsed() < late {
            self.call(1).await;
            sleep(Duration::from_millis(8)).await;
        }
        for _ in 0..BURST_MAX {
            if !self.call(40).await {
                break;
            }
        }
    }

    /// Whether the call was admitted.
    async fn call(&mut self, units: u64) -> bool {
        let counter = Some(pb::Counter { limit: LIMIT.to_owned(), ..pb::Counter::default() });
        let charges = vec![pb::QuotaCharge { counter, units: Some(units) }];
        let sent = self.start.elapsed();
        let answer = self.client.consume(pb::ConsumeRequest { charges }).await;
        let answered = self.start.elapsed();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(answer) = answer else {
            seen.failed += 1;
            return false;
        };
        seen.answered.push((answered, units));
        let allowed = answer.into_inner().allowed;
        if allowed {
            seen.admitted.push(Call { sent, answered, units });
        }
        allowed
    }
}
