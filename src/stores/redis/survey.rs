//! Learns which node of a cluster has which slots, and goes on learning.

use std::sync::Arc;
use std::time::Duration;

use ::redis::{RedisError, Value, cmd};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::access::Address;
use super::cause_of;
use super::link::jittered;
use super::nodes::{Map, Roster};
use super::slots::{Slots, Told};
use super::way::connect;
use crate::decide::ports::{Away, AwayCause};

/// How long one node may take to say what it knows, connecting included.
const ASK_TIMEOUT: Duration = Duration::from_millis(500);

/// How often the cluster is looked at: while all is well, and while some of it is away.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const LOOK_EVERY_WHEN_AWAY: Duration = Duration::from_millis(250);

/// The least time between two looks, whoever wants them.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) struct Surveyor {
    /// What the configuration names.
    seeds: Vec<Address>,
    /// Who stood by when the cluster was last seen.
    replicas: Vec<Address>,
    roster: Arc<Roster>,
    map: watch::Sender<Map>,
    wanted: Arc<Notify>,
    /// Why the last look came to nothing.
    problem: Option<Unheard>,
}

/// Why a look came to nothing, and who was asked last.
#[derive(Clone, PartialEq, Eq)]
struct Unheard {
    because: AwayCause,
    from: Address,
}

impl Surveyor {
    pub(super) const fn new(
        seeds: Vec<Address>,
        roster: Arc<Roster>,
        map: watch::Sender<Map>,
        wanted: Arc<Notify>,
    ) -> Self {
        Self { seeds, replicas: Vec::new(), roster, map, wanted, problem: None }
    }

    /// Keeps the map, for ever. Of one server there is none to keep, until a call finds out that it has company.
    pub(super) async fn keep(mut self) {
        loop {
            if matches!(*self.map.borrow(), Map::One(_)) {
                self.wanted.notified().await;
                continue;
            }
            self.look().await;
            let pause = if self.is_well() { LOOK_EVERY } else { LOOK_EVERY_WHEN_AWAY };
            sleep(PAUSE).await;
            let _ = timeout(jittered(pause), self.wanted.notified()).await;
        }
    }

    async fn look(&mut self) {
        match self.survey().await {
            Ok(slots) => {
                if self.problem.take().is_some() {
                    info!("the Redis Cluster can be found again");
                }
                self.map.send_replace(Map::Cluster(Arc::new(slots)));
            }
            Err(unheard) => {
                let because = unheard.because;
                if self.problem.as_ref() != Some(&unheard) {
                    unheard.log();
                    self.problem = Some(unheard);
                }
                // What was known last is better than nothing.
                self.map.send_if_modified(|map| {
                    let nothing_known = !matches!(map, Map::Cluster(_));
                    if nothing_known {
                        *map = Map::Unknown(because);
                    }
                    nothing_known
                });
            }
        }
    }

    fn is_well(&self) -> bool {
        match &*self.map.borrow() {
            Map::Cluster(slots) => {
                slots.are_complete() && slots.nodes().iter().all(|(node, _)| node.gate.health().is_ok())
            }
            Map::Looking | Map::Unknown(_) | Map::One(_) => false,
        }
    }

    /// What the first one says that can be asked: nodes that are well, then the others, those that stand by, and those
    /// that the configuration names.
    async fn survey(&mut self) -> Result<Slots, Unheard> {
        let known = match &*self.map.borrow() {
            Map::Cluster(slots) => Some(Arc::clone(slots)),
            Map::Looking | Map::Unknown(_) | Map::One(_) => None,
        };
        let mut nodes: Vec<_> = known.iter().flat_map(|slots| slots.nodes()).map(|(node, _)| node).collect();
        nodes.sort_by_key(|node| node.gate.health().is_err());
        let mut unheard = None;
        for node in nodes {
            match heard(&node.address, timeout(ASK_TIMEOUT, node.cluster_slots()).await) {
                Ok(told) => return self.adopt(told, &node.address),
                Err(because) => unheard = Some(Unheard { because, from: node.address.clone() }),
            }
        }
        let others: Vec<Address> = self.replicas.iter().chain(&self.seeds).cloned().collect();
        for from in others {
            match heard(&from, timeout(ASK_TIMEOUT, self.ask(&from)).await) {
                Ok(told) => return self.adopt(told, &from),
                Err(because) => unheard = Some(Unheard { because, from }),
            }
        }
        // There is at least one seed.
        let nobody = || Unheard { because: AwayCause::Unreachable, from: Address { host: String::new(), port: 0 } };
        Err(unheard.unwrap_or_else(nobody))
    }

    fn adopt(&mut self, told: Told, from: &Address) -> Result<Slots, Unheard> {
        let slots = self.roster.adopt(&told);
        self.replicas = told.replicas;
        slots.map_err(|Away { because }| Unheard { because, from: from.clone() })
    }

    async fn ask(&self, address: &Address) -> Result<Value, RedisError> {
        let invalid = || RedisError::from((::redis::ErrorKind::InvalidClientConfig, "an address of no use"));
        let client = self.roster.access.client(address).map_err(|_| invalid())?;
        let mut connection = connect(&client).await?;
        cmd("CLUSTER").arg("SLOTS").query_async(&mut connection).await
    }
}

impl Unheard {
    fn log(&self) {
        let Self { because, from } = self;
        if *because == AwayCause::Mistaken {
            warn!(
                "store.redis.urls: {from} is a server of its own, not a node of a cluster; name one server only, or \
                 nodes of one cluster"
            );
        } else {
            warn!(cause = %because, asked_last = %from, "no node says how the Redis Cluster is made up");
        }
    }
}

/// What `teller` told, if it did.
fn heard(
    teller: &Address,
    answer: Result<Result<Value, RedisError>, tokio::time::error::Elapsed>,
) -> Result<Told, AwayCause> {
    match answer {
        Ok(Ok(answer)) => Told::read(&answer, teller).ok_or(AwayCause::Unreachable),
        Ok(Err(error)) if error.detail().is_some_and(|detail| detail.contains("cluster support disabled")) => {
            Err(AwayCause::Mistaken)
        }
        Ok(Err(error)) => Err(cause_of(&error)),
        Err(_) => Err(AwayCause::Deadline),
    }
}
