//! The servers that keep counters, and the way of a call to the one that keeps its keys.
//!
//! One server, or whichever the Sentinels call the master, has all. Of a cluster, a task of its own learns which node has
//! which slots, and looks again when something is away, when a call was sent elsewhere, and now and then. A call whose
//! slot is moving follows it, within its deadline.

use std::collections::BTreeMap;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::{Value, from_redis_value};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{Sleep, sleep};

use super::access::{Access, Address, ConnectProblem, Reach, Settings};
use super::gate::Gates;
use super::node::{Node, Reply};
use super::pulse::Trust;
use super::script::{Call, Code, Manner};
use super::slots::{Slots, Told, slot_of};
use super::survey::Surveyor;
use super::way::{Sentinels, Way};
use crate::decide::ports::{Away, AwayCause};

/// The most nodes that are held at a time. Redis recommends at most 1,000 to a cluster.
const NODES_MAX: usize = 1_024;

/// How long a call pauses before it is tried again, where a slot is on its way.
const PAUSE: Duration = Duration::from_millis(2);

/// Who keeps the counters.
#[derive(Clone)]
pub(super) enum Map {
    /// The first look at the cluster is under way.
    Looking,
    /// Nobody could say.
    Unknown(AwayCause),
    /// All are at one server.
    One(Arc<Node>),
    /// They are spread over a cluster.
    Cluster(Arc<Slots>),
}

pub(super) struct Nodes {
    roster: Arc<Roster>,
    map: watch::Sender<Map>,
    /// A look at the cluster is wanted.
    wanted: Arc<Notify>,
    surveyor: Option<AbortHandle>,
}

/// What came of a call.
pub(super) enum Outcome<T = Vec<u8>> {
    /// The script's answer.
    Done(T),
    /// Its counters are not all at one server: they are to be asked each alone.
    Spread,
}

/// A node's name, and whether it answers.
pub type NodeHealth = (String, Result<(), Away>);

impl Nodes {
    pub(super) fn open(settings: &Settings, gates: Gates, trust: &Arc<Trust>) -> Result<Self, ConnectProblem> {
        let Settings { reach, username, password, ca, time: _, proofs_of_a_key_max: _ } = settings;
        let (username, password, ca) = (username.as_deref(), password.as_deref(), ca.as_deref());
        let wanted = Arc::new(Notify::new());
        match reach {
            Reach::Servers(urls) => {
                let (access, seeds) = Access::to(urls, username, password, ca)?;
                let roster = Arc::new(Roster { access, gates, trust: Arc::clone(trust), nodes: Mutex::default() });
                let map = match seeds.as_slice() {
                    [server] => Map::One(roster.node(server)?),
                    _ => Map::Looking,
                };
                let map = watch::Sender::new(map);
                let surveyor = Surveyor::new(seeds, Arc::clone(&roster), map.clone(), Arc::clone(&wanted));
                let surveyor = Some(tokio::spawn(surveyor.keep()).abort_handle());
                Ok(Self { roster, map, wanted, surveyor })
            }
            Reach::Sentinels { urls, service, username: asker, password: proof } => {
                let (sentinels, addresses) = Access::to(urls, asker.as_deref(), proof.as_deref(), ca)?;
                let (master, _) = Access::to(urls, username, password, ca)?;
                let first = addresses.first().cloned().ok_or(ConnectProblem::Url)?;
                let gate = gates.before(service);
                let roster = Arc::new(Roster {
                    access: master.clone(),
                    gates,
                    trust: Arc::clone(trust),
                    nodes: Mutex::default(),
                });
                let (access, service) = (sentinels, service.clone());
                let way = Way::Master(Box::new(Sentinels { addresses, access, master, service, warned: false }));
                let map = watch::Sender::new(Map::One(Arc::new(Node::new(first, gate, way, trust))));
                Ok(Self { roster, map, wanted, surveyor: None })
            }
        }
    }

    /// Whether, as far as is known, one server has all the counters.
    pub(super) fn are_one(&self) -> bool {
        matches!(*self.map.borrow(), Map::One(_))
    }

    /// Each node's name and state. Where no node is known, the one entry says why.
    pub(super) fn health(&self) -> Vec<NodeHealth> {
        match &*self.map.borrow() {
            Map::Looking => Vec::new(),
            Map::Unknown(because) => vec![("cluster".to_owned(), Err(Away { because: *because }))],
            Map::One(node) => vec![(node.gate.node().to_owned(), node.gate.health())],
            Map::Cluster(slots) => {
                slots.nodes().iter().map(|node| (node.gate.node().to_owned(), node.gate.health())).collect()
            }
        }
    }

    /// The name of the node that has the key, as far as is known.
    pub(super) fn name_of(&self, key: &[u8]) -> String {
        let owner = self.map.borrow().owner(slot_of(key)).and_then(Result::ok);
        owner.map_or_else(|| "unknown".to_owned(), |node| node.gate.node().to_owned())
    }

    /// Runs a script that answers with a string where the call's keys are, within the deadline.
    pub(super) async fn run(&self, code: &Code, call: &Call) -> Result<Outcome, Away> {
        match self.send(code, call).await? {
            Outcome::Done(answer) => {
                from_redis_value(answer).map(Outcome::Done).map_err(|_| Away { because: AwayCause::Garbled })
            }
            Outcome::Spread => Ok(Outcome::Spread),
        }
    }

    /// The same of a script, whatever it answers.
    pub(super) async fn send(&self, code: &Code, call: &Call) -> Result<Outcome<Value>, Away> {
        let mut end = pin!(sleep(self.roster.gates.deadline().into()));
        let slot = call.keys.first().map_or(0, |key| slot_of(key));
        let mut node = self.owner(slot, end.as_mut()).await?;
        let mut manner = Manner { whole: true, asking: false };
        let mut turns = 0;
        loop {
            let answer = node.gate.pass(node.run(code, call, manner), end.as_mut()).await;
            let reply = answer.inspect_err(|away| self.look_after(*away))?;
            manner.asking = false;
            match reply {
                Reply::Done(answer) => return Ok(Outcome::Done(answer)),
                // Of what was on its way when the server turned out to be a cluster's, each is to be asked alone, too.
                Reply::ManySlots => return self.begin_to_look().map(|()| Outcome::Spread),
                Reply::Moved(_) if self.are_one() => return self.begin_to_look().map(|()| Outcome::Spread),
                Reply::Moved(address) => {
                    self.wanted.notify_one();
                    node = self.roster.visit(&address)?;
                }
                Reply::Ask(address) => {
                    node = self.roster.visit(&address)?;
                    manner.asking = true;
                }
                // A lease's key is new, so it is never where the counter is until the slot has arrived. Whoever has the
                // slot says again where the counter is: to be asked by mistake, the other would begin a second one.
                Reply::TryAgain => {
                    manner.whole = false;
                    node = self.owner(slot, end.as_mut()).await?;
                }
            }
            turns += 1;
            // Two nodes may send a call to and fro until both know of the move.
            if turns > 2 {
                self.until(end.as_mut(), sleep(PAUSE)).await?;
            }
        }
    }

    /// The node that has the slot, as soon as it is known.
    async fn owner(&self, slot: u16, end: Pin<&mut Sleep>) -> Result<Arc<Node>, Away> {
        let owner = self.map.borrow().owner(slot);
        if let Some(owner) = owner {
            return owner.inspect_err(|away| self.roster.gates.count_lost(*away));
        }
        let mut map = self.map.subscribe();
        let known = self.until(end, map.wait_for(|map| !matches!(map, Map::Looking))).await?;
        let owner = known.ok().and_then(|map| map.owner(slot));
        owner.unwrap_or(Err(Away { because: AwayCause::Unreachable }))
    }

    /// That a question was not answered, and why; it is counted, as no gate has counted it.
    pub(super) fn lost(&self, because: AwayCause) -> Away {
        let away = Away { because };
        self.roster.gates.count_lost(away);
        away
    }

    /// Waits until `end` at most.
    async fn until<T>(&self, end: Pin<&mut Sleep>, future: impl Future<Output = T>) -> Result<T, Away> {
        tokio::select! {
            biased;
            answer = future => Ok(answer),
            () = end => {
                let away = Away { because: AwayCause::Deadline };
                self.roster.gates.count_lost(away);
                Err(away)
            }
        }
    }

    /// A node that failed may have been replaced by another.
    fn look_after(&self, away: Away) {
        if !matches!(away.because, AwayCause::Full | AwayCause::Crowded | AwayCause::Resting) {
            self.wanted.notify_one();
        }
    }

    /// What was taken for a server of its own is a node of a cluster.
    fn begin_to_look(&self) -> Result<(), Away> {
        if self.surveyor.is_none() {
            // Sentinels look after no cluster.
            return Err(Away { because: AwayCause::Mistaken });
        }
        self.map.send_if_modified(|map| {
            let news = matches!(map, Map::One(_));
            if news {
                *map = Map::Looking;
            }
            news
        });
        self.wanted.notify_one();
        Ok(())
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        if let Some(surveyor) = &self.surveyor {
            surveyor.abort();
        }
    }
}

impl Map {
    /// Nothing while that is being found out.
    fn owner(&self, slot: u16) -> Option<Result<Arc<Node>, Away>> {
        match self {
            Self::Looking => None,
            Self::Unknown(because) => Some(Err(Away { because: *because })),
            Self::One(node) => Some(Ok(Arc::clone(node))),
            // A slot that nobody has: the cluster is down as far as it goes.
            Self::Cluster(slots) => {
                Some(slots.owner(slot).map(Arc::clone).ok_or(Away { because: AwayCause::Unreachable }))
            }
        }
    }
}

/// Every node that is held, by its address.
pub(super) struct Roster {
    pub(super) access: Access,
    gates: Gates,
    trust: Arc<Trust>,
    nodes: Mutex<BTreeMap<Address, Arc<Node>>>,
}

impl Roster {
    /// The node at `address`, known or new.
    fn node(&self, address: &Address) -> Result<Arc<Node>, ConnectProblem> {
        let mut nodes = self.nodes();
        if let Some(node) = nodes.get(address) {
            return Ok(Arc::clone(node));
        }
        let way = Way::Straight(Box::new(self.access.client(address)?));
        let gate = self.gates.before(&address.to_string());
        let node = Arc::new(Node::new(address.clone(), gate, way, &self.trust));
        nodes.insert(address.clone(), Arc::clone(&node));
        Ok(node)
    }

    /// A node that another one named.
    fn visit(&self, address: &Address) -> Result<Arc<Node>, Away> {
        if self.nodes().len() >= NODES_MAX && !self.nodes().contains_key(address) {
            return Err(Away { because: AwayCause::Crowded });
        }
        let node = self.node(address).map_err(|_| Away { because: AwayCause::Garbled })?;
        node.visit();
        Ok(node)
    }

    /// Takes over what a node said of the cluster. Nodes that it does not name, and nobody was sent to lately, are let go.
    pub(super) fn adopt(&self, told: &Told) -> Result<Slots, Away> {
        let mut ranges = Vec::new();
        for (range, address) in &told.ranges {
            let node = self.visit(address)?;
            node.was_visited();
            ranges.push((*range, node));
        }
        self.nodes().retain(|_, node| {
            let stays = node.was_visited() || ranges.iter().any(|(_, named)| Arc::ptr_eq(named, node));
            if !stays {
                node.gate.retire();
            }
            stays
        });
        Ok(Slots::new(ranges))
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<Address, Arc<Node>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
