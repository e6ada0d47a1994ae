//! One server that keeps counters: the link to it, and the gate before it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ::redis::{ErrorKind, RedisError, ServerErrorKind, Value, cmd};

use super::access::Address;
use super::cause_of;
use super::gate::Gate;
use super::link::Link;
use super::pulse::Trust;
use super::script::{Call, Code, Manner, refused_all};
use super::way::Way;
use crate::decide::ports::{Away, AwayCause};

pub(super) struct Node {
    /// Where it was when it was named; of a master that Sentinels know, where one of those is.
    pub(super) address: Address,
    pub(super) gate: Gate,
    link: Link,
    trust: Arc<Trust>,
    /// Whether it was asked by its address, for a slot that is not known to be its own.
    visited: AtomicBool,
}

/// What a node says to a call. Each of them means that it is well.
pub(super) enum Reply {
    /// The script's answer.
    Done(Value),
    /// The slot is at that node.
    Moved(Address),
    /// The slot is on its way to that node, and these keys are no more here.
    Ask(Address),
    /// The slot is on its way, and some of the keys are here and some there.
    TryAgain,
    /// The keys fall on several slots, which only a cluster has.
    ManySlots,
}

impl Node {
    /// The node behind `way`; begins to connect to it.
    pub(super) fn new(address: Address, gate: Gate, way: Way, trust: &Arc<Trust>) -> Self {
        let (link, trust) = (Link::open(gate.node().to_owned(), way, Arc::clone(trust)), Arc::clone(trust));
        Self { address, gate, link, trust, visited: AtomicBool::new(false) }
    }

    /// Runs a script.
    pub(super) async fn run(&self, code: &Code, call: &Call, manner: Manner) -> Result<Reply, Away> {
        let mut line = self.link.line().await?;
        if !code.tells {
            self.trust.check()?;
        }
        let outcome = call.run(code, manner, &mut line.driven.connection).await;
        let outcome = outcome.and_then(|answer| refused_all(&answer).map_or(Ok(answer), Err));
        outcome.map(Reply::Done).or_else(|error| self.elsewhere(&error).ok_or(error)).map_err(|error| {
            let because = cause_of(&error);
            // A server that takes no writes may have been demoted in a failover, and the name may lead to another by now.
            if error.is_unrecoverable_error() || because == AwayCause::ReadOnly {
                self.link.report_useless(&line, because);
            }
            Away { because }
        })
    }

    /// What it says of the cluster's slots.
    pub(super) async fn cluster_slots(&self) -> Result<Value, RedisError> {
        let mut line =
            self.link.line().await.map_err(|_| RedisError::from((ErrorKind::Io, "there is no connection")))?;
        cmd("CLUSTER").arg("SLOTS").query_async(&mut line.driven.connection).await
    }

    pub(super) fn visit(&self) {
        self.visited.store(true, Ordering::Relaxed);
    }

    /// Whether it was visited since this was asked last.
    pub(super) fn was_visited(&self) -> bool {
        self.visited.swap(false, Ordering::Relaxed)
    }

    fn elsewhere(&self, error: &RedisError) -> Option<Reply> {
        let ErrorKind::Server(kind) = error.kind() else { return None };
        let address = || error.redirect_node().and_then(|(text, _)| Address::told(text, &self.address));
        match kind {
            ServerErrorKind::Moved => address().map(Reply::Moved),
            ServerErrorKind::Ask => address().map(Reply::Ask),
            ServerErrorKind::TryAgain => Some(Reply::TryAgain),
            ServerErrorKind::CrossSlot => Some(Reply::ManySlots),
            _ => None,
        }
    }
}
