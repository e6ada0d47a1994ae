//! Has questions that come at the same time asked in one script call, where one server has all counters.
//!
//! To call a script, and to learn the time in it, costs Redis as much as a counter; so does to read a command. One that
//! comes while others are under way therefore waits until everything that is ready has had its turn, and is asked with those that
//! came meanwhile. It never waits for an answer of others, and one that comes alone waits for nothing. Each is answered
//! as if it had been asked alone (`together.lua`).

use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::redis::{RedisError, Value, from_redis_value};
use futures_util::future::join_all;
use tokio::sync::oneshot;

use super::cause_of;
use super::nodes::{Nodes, Outcome};
use super::script::{Call, Code};
use super::turns::after_others;
use crate::decide::ports::{Away, AwayCause};

/// The most keys of questions that are asked together: while a script runs, Redis does nothing else.
const KEYS_MAX: usize = 32;

/// Questions of one script on their way.
pub(super) struct Together {
    nodes: Arc<Nodes>,
    code: Code,
    /// How many may be under way.
    most: usize,
    under_way: AtomicUsize,
    waiting: Mutex<Vec<Waiting>>,
}

/// One that waits for its turn.
struct Waiting {
    call: Call,
    tell: oneshot::Sender<Result<Outcome, Away>>,
}

/// One that is under way, until this is dropped.
struct UnderWay<'a>(&'a AtomicUsize);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Together {
    /// None is under way, and never more than `most` will be.
    pub(super) const fn new(nodes: Arc<Nodes>, code: Code, most: usize) -> Self {
        Self { nodes, code, most, under_way: AtomicUsize::new(0), waiting: Mutex::new(Vec::new()) }
    }

    /// The script: of its arguments the first is the time, and each other a question.
    pub(super) const fn code(&self) -> &Code {
        &self.code
    }

    /// Asks one question.
    pub(super) async fn ask(self: &Arc<Self>, call: Call) -> Result<Outcome, Away> {
        let others = self.under_way.fetch_add(1, Ordering::Relaxed);
        let _under_way = UnderWay(&self.under_way);
        if others >= self.most {
            return Err(self.nodes.lost(AwayCause::Crowded));
        }
        if others == 0 || call.keys.len() >= KEYS_MAX {
            return self.nodes.run(&self.code, &call).await;
        }
        let (tell, answer) = oneshot::channel();
        let is_first = {
            let mut waiting = self.waiting();
            waiting.push(Waiting { call, tell });
            waiting.len() == 1
        };
        if is_first {
            // Whoever was first may be gone before the others are answered.
            let together = Arc::clone(self);
            tokio::spawn(async move {
                after_others().await;
                let calls = parted(mem::take(&mut *together.waiting()));
                join_all(calls.into_iter().map(|waiting| together.send(waiting))).await;
            });
        }
        // It ends without an answer with the runtime only.
        answer.await.unwrap_or(Err(Away { because: AwayCause::Unreachable }))
    }

    /// Asks in one call.
    async fn send(&self, waiting: Vec<Waiting>) {
        let (calls, tells): (Vec<Call>, Vec<_>) =
            waiting.into_iter().filter(|one| !one.tell.is_closed()).map(|one| (one.call, one.tell)).unzip();
        let Some(call) = joined(calls) else { return };
        let answers = match self.nodes.send(&self.code, &call).await {
            Ok(Outcome::Done(answer)) => self.answers(answer, tells.len()),
            Ok(Outcome::Spread) => tells.iter().map(|_| Ok(Outcome::Spread)).collect(),
            Err(away) => tells.iter().map(|_| Err(away)).collect(),
        };
        for (tell, answer) in tells.into_iter().zip(answers) {
            // Whoever asked may be gone.
            let _ = tell.send(answer);
        }
    }

    /// What is answered to each of so many.
    fn answers(&self, answer: Value, count: usize) -> Vec<Result<Outcome, Away>> {
        let said: Result<Vec<Result<Vec<u8>, RedisError>>, _> = match answer {
            Value::Array(_) => from_redis_value(answer),
            one => from_redis_value(one).map(|one| vec![one]),
        };
        match said {
            Ok(said) if said.len() == count => said
                .into_iter()
                .map(|one| one.map(Outcome::Done).map_err(|error| self.nodes.lost(cause_of(&error))))
                .collect(),
            _ => (0..count).map(|_| Err(Away { because: AwayCause::Garbled })).collect(),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// In the same order, in parts that may each be asked in one call: of the same moment, and not too many.
fn parted(waiting: Vec<Waiting>) -> Vec<Vec<Waiting>> {
    let mut parts: Vec<Vec<Waiting>> = Vec::new();
    let mut keys = 0;
    for one in waiting {
        keys += one.call.keys.len();
        match parts.last_mut() {
            Some(part)
                if keys <= KEYS_MAX
                    && part.last().is_some_and(|last| last.call.args.first() == one.call.args.first()) =>
            {
                part.push(one);
            }
            _ => {
                keys = one.call.keys.len();
                parts.push(vec![one]);
            }
        }
    }
    parts
}

/// One call for all of them; none for nothing.
fn joined(calls: Vec<Call>) -> Option<Call> {
    let mut calls = calls.into_iter();
    let mut joined = calls.next()?;
    for Call { keys, spare: _, args } in calls {
        joined.keys.extend(keys);
        joined.args.extend(args.into_iter().skip(1));
        // What it could do without is not at the end any more.
        joined.spare = 0;
    }
    Some(joined)
}
