//! Whose signature is checked next. A check takes 12 to 130 µs of the thread that all other calls on that thread wait for, and
//! anybody can have as many made as there are tokens to send. So that a flood of new ones does not hold up the calls of those
//! whose tokens are remembered:
//!
//! - Half of the processors check at a time at most; the others do everything else.
//! - A check that comes by itself is made at once. One that comes right behind another waits, in order, and everything else that
//!   is ready on its thread has its turn between two of them: a call does not wait for as many checks as came before it.
//! - So many wait at a time; more are refused at once, as busy.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::domain::time::Micros;

/// Tokens that wait for a check at a time. With one processor to check on they are done in 13 to 130 ms.
const WAITING_MAX: usize = 1_000;

/// A check that begins sooner than this after another is right behind it: longer than one takes.
const BREATH: Micros = Micros(250);

/// Turns of checking signatures, of all issuers.
pub(super) struct Turns {
    places: Semaphore,
    waiting: AtomicUsize,
    /// When the last one was taken at once, in steady µs.
    taken_at: AtomicU64,
}

/// It has to be waited for.
pub(super) struct NotNow;

/// The turn to check signatures; it ends when this is dropped.
pub(super) struct Turn<'t>(SemaphorePermit<'t>);

struct Waiting<'t>(&'t AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Turns {
    /// For a machine with so many processors.
    pub(super) fn among(processors: usize) -> Self {
        Self {
            places: Semaphore::new((processors / 2).max(1)),
            waiting: AtomicUsize::new(0),
            taken_at: AtomicU64::new(0),
        }
    }

    /// A turn at `now`, by the steady clock, for a check that keeps nobody waiting.
    pub(super) fn take(&self, now: Micros) -> Result<Turn<'_>, NotNow> {
        let last = self.taken_at.load(Ordering::Relaxed);
        // Those of one moment are of different threads.
        if now.0 > last && now.0 - last < BREATH.0 {
            return Err(NotNow);
        }
        let permit = self.places.try_acquire().map_err(|_| NotNow)?;
        self.taken_at.store(now.0, Ordering::Relaxed);
        Ok(Turn(permit))
    }

    /// A turn, waiting for it; none where too many wait.
    pub(super) async fn wait(&self) -> Option<Turn<'_>> {
        let waiting = Waiting(&self.waiting);
        if waiting.0.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            return None;
        }
        self.places.acquire().await.ok().map(Turn)
    }
}

impl Turn<'_> {
    /// Ends it once everything else that is ready has had its turn.
    pub(super) async fn end(self) {
        tokio::task::yield_now().await;
        drop(self.0);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::sync::{Arc, Mutex};

    use futures_util::FutureExt as _;
    use tokio::task::{JoinSet, yield_now};

    use super::*;
    use crate::decide::ports::{Answer, Clock as _, Shown, TokenInspector as _};
    use crate::domain::decision::Reason;
    use crate::tokens::mint::{Bench, NOW, Signer, claims, claims_with, issuer_of};

    #[test]
    fn a_check_by_itself_is_made_at_once_and_one_right_behind_it_is_not() {
        let turns = Turns::among(1);
        let at = |micros| turns.take(Micros(1_000_000 + micros)).is_ok();
        assert!(at(0));
        assert!(!at(1));
        assert!(!at(BREATH.0 - 1));
        assert!(at(BREATH.0));
        assert!(at(BREATH.0), "on another thread");
    }

    #[test]
    fn half_of_the_processors_check_at_a_time() {
        for (processors, at_a_time) in [(1, 1), (2, 1), (3, 1), (4, 2), (64, 32)] {
            let turns = Turns::among(processors);
            let now = Micros::from_secs(1);
            let taken: Vec<_> = (0..64).map_while(|_| turns.take(now).ok()).collect();
            assert_eq!(taken.len(), at_a_time, "of {processors}");
            assert!(turns.wait().now_or_never().is_none());
            drop(taken);
            assert!(turns.take(now).is_ok() && turns.wait().now_or_never().flatten().is_some());
        }
    }

    #[tokio::test]
    async fn so_many_wait_and_no_more() {
        let turns = Turns::among(1);
        let taken = turns.take(Micros::from_secs(1)).ok();
        assert!(taken.is_some());
        let mut waiting: Vec<_> = (0..WAITING_MAX).map(|_| Box::pin(turns.wait())).collect();
        assert!(waiting.iter_mut().all(|waiting| waiting.now_or_never().is_none()));
        assert!(matches!(turns.wait().now_or_never(), Some(None)));
        waiting.pop();
        assert!(turns.wait().now_or_never().is_none(), "who goes away makes room");
        drop(taken);
        for one in waiting {
            assert!(one.await.is_some());
        }
    }

    #[tokio::test]
    async fn everything_else_that_is_ready_has_its_turn_between_two_checks() {
        let turns = Arc::new(Turns::among(2));
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        for _ in 0..20 {
            let (turns, log) = (Arc::clone(&turns), Arc::clone(&log));
            tasks.spawn(async move {
                let turn = turns.wait().await.unwrap();
                log.lock().unwrap().push("check");
                turn.end().await;
            });
        }
        let calls = Arc::clone(&log);
        tasks.spawn(async move {
            for _ in 0..60 {
                calls.lock().unwrap().push("call");
                yield_now().await;
            }
        });
        tasks.join_all().await;
        let log = log.lock().unwrap();
        assert_eq!(log.iter().filter(|what| **what == "check").count(), 20);
        assert!(!log.windows(2).any(|pair| pair == ["check", "check"]), "{log:?}");
    }

    #[tokio::test]
    async fn of_tokens_that_come_together_signatures_wait_and_nothing_else_does() {
        let (signer, stranger) = (Signer::ec("k"), Signer::ec("k"));
        let bench = Bench::new(vec![issuer_of([&signer])]);
        let good = |id: &str| signer.token(&claims_with("jti", id));
        let (known, forged) = (good("1"), stranger.token(&claims()));
        assert_eq!(bench.reason(&known), Reason::Allowed);
        bench.clock.pass(Micros(40));
        for (token, reason) in [(good("2"), Reason::Allowed), (forged, Reason::BadSignature)] {
            let answer = bench.tokens.inspect(Shown::Token(&token), bench.clock.now());
            assert!(matches!(answer, Answer::Later(_)), "{reason:?}");
            assert_eq!(bench.reason_later(&token).await, reason);
        }
        assert_eq!(bench.reason(&known), Reason::Allowed, "it is remembered");
        let elsewhere = claims_with("iss", "https://other.example");
        assert_eq!(bench.reason(&stranger.token(&elsewhere)), Reason::UnknownIssuer);
        assert_eq!(bench.reason(&Signer::ec("other").token(&claims())), Reason::UnknownKey);
        assert_eq!(bench.reason("a.b.c"), Reason::MalformedToken);
        let ended = claims_with("exp", NOW - 60);
        assert_eq!(bench.reason(&signer.token(&ended)), Reason::Expired);
        assert_eq!(bench.reason(&stranger.token(&ended)), Reason::Expired, "nobody was asked who signed it");
    }

    #[tokio::test]
    async fn while_too_many_wait_a_new_token_is_refused_as_busy_and_a_remembered_one_is_not() {
        let signer = Signer::ec("k");
        let bench = Bench::new(vec![issuer_of([&signer])]);
        let (known, new) = (signer.token(&claims()), signer.token(&claims_with("jti", "new")));
        assert_eq!(bench.reason(&known), Reason::Allowed);
        bench.clock.pass(Micros(40));
        let turns = &bench.tokens.turns;
        let all = turns.places.acquire_many(u32::try_from(turns.places.available_permits()).unwrap()).await.unwrap();
        let mut waiting: Vec<_> = (0..WAITING_MAX).map(|_| Box::pin(turns.wait())).collect();
        assert!(waiting.iter_mut().all(|waiting| waiting.now_or_never().is_none()));
        assert_eq!(bench.reason_later(&new).await, Reason::Busy);
        assert_eq!(bench.reason(&known), Reason::Allowed);
        drop((all, waiting));
        assert_eq!(bench.reason_later(&new).await, Reason::Allowed);
    }
}
