//! Keys and tokens for tests, really signed.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::Tokens;
pub(super) use super::signer::Signer;
use crate::decide::ports::{Answer, Away, AwayCause, Clock, ProofLog, ProofUse, Shown, TokenInspector as _, Verdict};
use crate::domain::connection::Connection;
use crate::domain::decision::Reason;
use crate::domain::issuer::{Algorithm, BindingDemand, ClaimPath, Issuer, KeySource};
use crate::domain::question::Mode;
use crate::domain::status::StatusLists;
use crate::domain::time::{Micros, Moment};
use crate::telemetry::Telemetry;

/// Who signs in these tests.
pub(super) const ISSUER: &str = "https://issuer.example/realms/a";

/// When these tests take place, in seconds since the epoch.
pub(super) const NOW: u64 = 1_800_000_000;

/// Claims of a token that is accepted for five minutes.
pub(super) fn claims() -> Value {
    json!({
        "iss": ISSUER, "aud": "orders", "sub": "ann", "client_id": "shop", "jti": "t-1",
        "iat": NOW - 10, "exp": NOW + 300, "scope": "orders:read orders:write",
    })
}

/// The same with one claim changed; null takes it away.
pub(super) fn claims_with(name: &str, value: impl Into<Value>) -> Value {
    let mut claims = claims();
    match value.into() {
        Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
        value => claims[name] = value,
    }
    claims
}

/// The text of a key set.
pub(super) fn set(keys: impl IntoIterator<Item = Value>) -> String {
    json!({"keys": keys.into_iter().collect::<Vec<_>>()}).to_string()
}

/// An issuer with the usual settings.
pub(super) fn issuer(keys: KeySource) -> Issuer {
    let path = |names: &[&str]| ClaimPath(names.iter().map(|&name| name.to_owned()).collect());
    Issuer {
        issuer: ISSUER.to_owned(),
        audiences: vec!["orders".to_owned()],
        operators: false,
        algorithms: Algorithm::ASYMMETRIC.to_vec(),
        types: vec!["at+jwt".to_owned(), "jwt".to_owned()],
        untyped: true,
        leeway: Micros::from_secs(60),
        clock_ahead: Micros::ZERO,
        max_token_lifetime: Micros::from_secs(86_400),
        binding: BindingDemand::Nothing,
        max_age: None,
        svid: false,
        required_claims: Vec::new(),
        scope_claims: vec![path(&["scope"]), path(&["scp"])],
        role_claims: vec![path(&["roles"]), path(&["realm_access", "roles"]), path(&["resource_access", "*", "roles"])],
        tenant: None,
        claims: Vec::new(),
        keys,
        stale_for: Micros::from_secs(86_400),
        introspection: None,
        events: None,
        status_lists: StatusLists::default(),
        connection: Connection::default(),
        refresh_cooldown: Micros::from_secs(30),
    }
}

/// An issuer with these keys.
pub(super) fn issuer_of<'s>(signers: impl IntoIterator<Item = &'s Signer>) -> Issuer {
    issuer(KeySource::Inline(set(signers.into_iter().map(Signer::jwk))))
}

/// A clock that a test moves.
#[derive(Default)]
pub(super) struct TestClock {
    wall: AtomicU64,
    steady: AtomicU64,
}

impl TestClock {
    pub(super) fn new() -> Arc<Self> {
        let clock = Self::default();
        clock.wall.store(Micros::from_secs(NOW).0, Ordering::SeqCst);
        clock.steady.store(Micros::from_secs(1_000).0, Ordering::SeqCst);
        Arc::new(clock)
    }

    /// Both clocks go on.
    pub(super) fn pass(&self, time: Micros) {
        self.wall.fetch_add(time.0, Ordering::SeqCst);
        self.steady.fetch_add(time.0, Ordering::SeqCst);
    }

    /// Somebody sets the wall clock.
    pub(super) fn set_wall(&self, secs: u64) {
        self.wall.store(Micros::from_secs(secs).0, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Moment {
        Moment { wall: Micros(self.wall.load(Ordering::SeqCst)), steady: Micros(self.steady.load(Ordering::SeqCst)) }
    }
}

/// A log of used proofs that a test can look into, and take away.
#[derive(Default)]
pub(super) struct TestLog {
    used: Mutex<Vec<ProofUse>>,
    away: AtomicBool,
}

impl TestLog {
    pub(super) fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    /// Forgets all, as a real one does in time.
    pub(super) fn forget(&self) {
        self.used.lock().unwrap().clear();
    }

    /// The proof that was remembered last.
    pub(super) fn latest(&self) -> ProofUse {
        *self.used.lock().unwrap().last().unwrap()
    }
}

impl ProofLog for TestLog {
    fn first_use(&self, proof: ProofUse, mode: Mode, _: Moment) -> Answer<'_, Result<bool, Away>> {
        if self.away.load(Ordering::SeqCst) {
            return Answer::Now(Err(Away { because: AwayCause::Unreachable }));
        }
        let mut used = self.used.lock().unwrap();
        let first = !used.iter().any(|known| known.name == proof.name);
        if first && mode == Mode::Consume {
            used.push(proof);
        }
        Answer::Now(Ok(first))
    }
}

/// Tokens' validation with a clock of its own.
pub(super) struct Bench {
    pub tokens: Arc<Tokens>,
    pub log: Arc<TestLog>,
    pub clock: Arc<TestClock>,
    pub telemetry: Arc<Telemetry>,
}

impl Bench {
    pub(super) fn new(issuers: Vec<Issuer>) -> Self {
        let (clock, telemetry) = (TestClock::new(), Arc::new(Telemetry::default()));
        let log = Arc::<TestLog>::default();
        let tokens = Tokens::new(Arc::clone(&clock) as _, Arc::clone(&telemetry), 1000, Arc::clone(&log) as _);
        let tokens = tokens.unwrap();
        tokens.adopt(issuers).unwrap();
        Self { tokens, log, clock, telemetry }
    }

    /// The verdict, which must be there without waiting, and whether it was remembered.
    pub(super) fn at_once(&self, token: &str) -> (Verdict, bool) {
        match self.tokens.inspect(Shown::Token(token), self.clock.now()) {
            Answer::Now(inspected) => (inspected.verdict, inspected.remembered),
            Answer::Later(_) => panic!("would wait"),
        }
    }

    /// The reason of a verdict that must be there without waiting; [`Reason::Allowed`] for a good one.
    pub(super) fn reason(&self, token: &str) -> Reason {
        self.at_once(token).0.map_or_else(|reason| reason, |_| Reason::Allowed)
    }

    /// The reason of a verdict, waiting where that is needed.
    pub(super) async fn reason_later(&self, token: &str) -> Reason {
        let inspected = self.tokens.inspect(Shown::Token(token), self.clock.now()).get().await;
        inspected.verdict.map_or_else(|reason| reason, |_| Reason::Allowed)
    }
}
