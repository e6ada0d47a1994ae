//! Proofs that the caller holds the keys that its token is bound to: a client certificate (RFC 8705) or a `DPoP` proof
//! (RFC 9449).
//!
//! Asked on every decision, after the verdict. What is cheap is looked at first, then the proof's signature, and the log of
//! used proofs last: so nobody but the key's holder can use up a proof's id.

mod dpop;
mod nonce;
#[cfg(test)]
mod tests;
mod url;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use metrics::Counter;

use self::dpop::{CLOCKS_APART, Flaw, WINDOW};
use self::nonce::Nonces;
use crate::decide::ports::{Answer, ProofLog, Proved};
use crate::domain::decision::Reason;
use crate::domain::identity::{Identity, Thumbprint};
use crate::domain::question::{Credential, Question};
use crate::domain::time::{Micros, Moment};
use crate::telemetry::{Telemetry, names};

/// Checks proofs of possession.
pub(super) struct Prover {
    log: Arc<dyn ProofLog>,
    /// None: proofs need no nonce.
    nonces: ArcSwapOption<Nonces>,
    /// When a proof was accepted, by the latest that the wall clock showed then; none: none was.
    latest: Mutex<Option<Moment>>,
    refused: [Counter; Flaw::ALL.len()],
}

impl Prover {
    /// Used proofs are remembered in `log`.
    pub(super) fn new(log: Arc<dyn ProofLog>, telemetry: &Telemetry) -> Self {
        let refused = Flaw::ALL.map(|flaw| telemetry.counter(names::PROOFS_REFUSED, &[("cause", flaw.name())]));
        Self { log, nonces: ArcSwapOption::empty(), latest: Mutex::default(), refused }
    }

    /// Demands nonces from now on that are made with `secret`; none: no nonces.
    pub(super) fn demand_nonces(&self, secret: Option<&str>) {
        self.nonces.store(secret.map(|secret| Arc::new(Nonces::new(secret.as_bytes()))));
    }

    /// Whether the caller holds every key that `identity` is bound to, and whether the token came with the scheme that
    /// goes with its binding: a bound token is no bearer token (RFC 9449 §7.2), and a bearer token proves nothing by coming
    /// with a proof.
    pub(super) fn prove<'a>(
        &'a self,
        identity: &Identity,
        question: &'a Question<'a>,
        now: Moment,
    ) -> Answer<'a, Proved> {
        let held = question.proofs.certificate.as_ref().map(|certificate| &certificate.thumbprint);
        let binding = identity.binding();
        if let Err(reason) = binding.check_certificate(held) {
            return Answer::Now(Err(reason).into());
        }
        match (&binding.key, question.credential) {
            (None, Credential::Dpop(_)) => Answer::Now(Err(Reason::BindingRequired).into()),
            (None, _) => Answer::Now(Ok(()).into()),
            (Some(key), Credential::Dpop(token)) => self.prove_key(key, token, question, now),
            (Some(_), _) => Answer::Now(Err(Reason::BindingRequired).into()),
        }
    }

    fn prove_key<'a>(
        &'a self,
        key: &Thumbprint,
        token: &str,
        question: &'a Question<'a>,
        now: Moment,
    ) -> Answer<'a, Proved> {
        let nonces = self.nonces.load();
        let next = |stale| nonces.as_ref().filter(|_| stale).map(|nonces| nonces.current(now.wall));
        let checked = dpop::check(key, token, question, nonces.as_deref(), now.wall);
        match checked.and_then(|checked| self.check_not_forgotten(checked.issued_at, now).map(|()| checked)) {
            Err(flaw) => Answer::Now(Proved { outcome: Err(self.count(flaw)), next_nonce: next(flaw == Flaw::Nonce) }),
            Ok(checked) => {
                let next_nonce = next(checked.nonce_ends);
                self.log.first_use(checked.used, question.mode, now).then(move |first| {
                    let outcome = match first {
                        Ok(true) => {
                            self.note_accepted(now);
                            Ok(())
                        }
                        Ok(false) => Err(self.count(Flaw::Replayed)),
                        Err(_) => Err(self.count(Flaw::LogAway)),
                    };
                    Answer::Now(Proved { outcome, next_nonce })
                })
            }
        }
    }

    /// Refuses what may have been accepted and forgotten since, where the wall clock was set back: it looks new again, and
    /// the log goes by a clock that is never set. Whatever was accepted is as old by now as a clock that was not set would say.
    fn check_not_forgotten(&self, issued_at: Micros, now: Moment) -> Result<(), Flaw> {
        let Some(latest) = *self.latest() else { return Ok(()) };
        let unset = latest.wall + now.steady.since(latest.steady);
        let is_forgotten = issued_at + WINDOW + CLOCKS_APART <= unset;
        // None was that is from later than this.
        let may_be_known = issued_at <= latest.wall + WINDOW;
        if is_forgotten && may_be_known { Err(Flaw::Stale) } else { Ok(()) }
    }

    fn note_accepted(&self, now: Moment) {
        let mut latest = self.latest();
        if latest.is_none_or(|latest| latest.wall < now.wall) {
            *latest = Some(now);
        }
    }

    fn latest(&self) -> MutexGuard<'_, Option<Moment>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, flaw: Flaw) -> Reason {
        self.refused[flaw as usize].increment(1);
        flaw.reason()
    }
}
