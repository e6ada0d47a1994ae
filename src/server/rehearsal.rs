//! Decides as a server with the same configuration would, without one: nothing is listened on, nobody is asked, and time
//! passes when it is told to. For trying policies out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::{self, Either};
use prost::Message as _;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::dev::{DevIssuer, KEY_ID};
use super::{draw_api_key, key_ring};
use crate::api::codes::Codes;
use crate::api::native::Decisions;
use crate::config::{Config, KeptKeys};
use crate::decide::ports::Clock;
use crate::decide::{Decider, Wanted, Way};
use crate::domain::api_key::{ApiKey, KeyId};
use crate::domain::decision::Reason;
use crate::domain::issuer::{Algorithm, Issuer, KeySource};
use crate::domain::policy::Policy;
use crate::domain::revocation::{Target, TargetKind, Trust, WhenBehind, Which};
use crate::domain::status::StatusLists;
use crate::domain::time::{Micros, Moment};
use crate::proto as pb;
use crate::quotas::QuotaDesk;
use crate::revocation::{Follower, Revocations};
use crate::stores::memory::MemoryStore;
use crate::stores::proofs::MemoryProofs;
use crate::stores::revocations::MemoryRevocations;
use crate::telemetry::Telemetry;
use crate::tokens::Tokens;

/// How much is remembered: more than a rehearsal has.
const ROOM: usize = 10_000;

/// What is rehearsed: a configuration, and keys in place of those that its issuers and the holders of API keys have.
pub struct Stage {
    config: Config,
    signer: DevIssuer,
    stranger: DevIssuer,
    /// By the ids that the configuration has: other ones, so that a real key is nothing here.
    api_keys: BTreeMap<KeyId, (KeyId, String)>,
}

/// One rehearsal; counters, tokens and revocations are its own.
pub struct Rehearsal<'s> {
    stage: &'s Stage,
    clock: Arc<MovedClock>,
    decider: Arc<Decider>,
    decisions: Decisions,
    /// Token ids that were made up.
    made_up: u64,
}

/// What a question is answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Answered {
    /// A decision, and the HTTP status that a gateway answers by it.
    Decided(Box<pb::DecideResponse>, u16),
    /// Nothing was decided: these fields are wrong, each with what is wrong with it.
    Malformed(Vec<(String, String)>),
}

/// Claims of a token, and what is to be wrong with the rest of it.
#[derive(Clone, Debug, Default)]
pub struct TokenPlan<'a> {
    /// Those that are named; null takes away one that is put in otherwise.
    pub claims: Option<&'a Map<String, Value>>,
    /// How long it lives.
    pub lives: Micros,
    /// It was made so much earlier.
    pub earlier: Micros,
    /// It is good only so much later.
    pub later: Micros,
    /// Somebody else signs it.
    pub forged: bool,
    /// It names a key that nobody has.
    pub unknown_key: bool,
}

impl Stage {
    /// Sets `config` up: issuers have keys of this process, and whatever would be asked of others is left out.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn new(mut config: Config) -> Result<Self, String> {
        let drawn = |_| "the system has no randomness".to_owned();
        let (signer, stranger) = (DevIssuer::new().map_err(drawn)?, DevIssuer::new().map_err(drawn)?);
        let keys = json!({ "keys": [signer.public_key()] }).to_string();
        config.issuers = config.issuers.into_iter().map(|issuer| with_keys(issuer, &keys)).collect();
        let mut api_keys = BTreeMap::new();
        if let KeptKeys::Listed(listed) = &mut config.api_keys.kept {
            for key in listed {
                let shown = draw_api_key().map_err(drawn)?;
                api_keys.insert(key.id, (shown.id(), shown.reveal().to_owned()));
                *key = ApiKey { id: shown.id(), hash: shown.hash(), ..key.clone() };
            }
        }
        Ok(Self { config, signer, stranger, api_keys })
    }

    /// The issuer of that name; without one the only one.
    ///
    /// # Errors
    /// Says what to name instead.
    pub fn issuer(&self, name: Option<&str>) -> Result<&str, String> {
        match (name, self.config.issuers.as_slice()) {
            (Some(name), issuers) => {
                let known = issuers.iter().map(|issuer| issuer.issuer.as_str()).find(|known| *known == name);
                known.ok_or_else(|| format!("the configuration has no issuer `{name}`"))
            }
            (None, [issuer]) => Ok(&issuer.issuer),
            (None, []) => Err("the configuration has no issuer, so nobody makes tokens".to_owned()),
            (None, _) => Err("the configuration has several issuers: name one".to_owned()),
        }
    }

    /// Begins a rehearsal at this moment, since the Unix epoch. To be called within a Tokio runtime.
    ///
    /// # Errors
    /// What a server would refuse of the configuration.
    pub async fn begin(&self, at: Micros) -> Result<Rehearsal<'_>, String> {
        let telemetry = Arc::new(Telemetry::default());
        let clock = Arc::new(MovedClock::at(at));
        let proofs = Arc::new(MemoryProofs::new(ROOM, &telemetry));
        let tokens = Tokens::new(Arc::clone(&clock) as _, Arc::clone(&telemetry), ROOM, proofs)?;
        tokens.adopt(self.config.issuers.clone()).map_err(|problems| problems.join("\n"))?;
        tokens.adopt_api_keys(key_ring(&self.config, None));
        tokens.accept_certificates(self.config.certificates.clone());
        // Everything that is taken back is taken back here, so nothing is ever unheard of.
        let trust = Trust { max_lag: Micros(u64::MAX / 4), when_behind: WhenBehind::Ask };
        let revocations = Arc::new(Revocations::new(Arc::new(MemoryRevocations::new()), trust, &telemetry));
        let follower = std::pin::pin!(Follower::new(Arc::clone(&revocations), Arc::clone(&clock) as _).run());
        if let Either::Left(((), _)) = future::select(follower, std::pin::pin!(revocations.settled())).await {
            return Err("what was revoked could not be loaded".to_owned());
        }
        let decider = Arc::new(Decider::new(
            Arc::clone(&clock) as _,
            tokens,
            Arc::clone(&revocations) as _,
            revocations,
            Arc::new(QuotaDesk::new(Arc::new(MemoryStore::new(ROOM, &telemetry)))),
            telemetry,
        ));
        decider.adopt(Policy { version: 1, ..self.config.policy.clone() });
        let decisions = Decisions::new(Arc::clone(&decider), "rehearsal", CancellationToken::new());
        Ok(Rehearsal { stage: self, clock, decider, decisions, made_up: 0 })
    }
}

impl Rehearsal<'_> {
    /// So much time passes.
    pub fn pass(&self, time: Micros) {
        self.clock.pass(time);
    }

    /// A token of `plan`'s issuer, made now.
    ///
    /// # Errors
    /// Says what the plan lacks.
    pub fn token(&mut self, plan: &TokenPlan<'_>) -> Result<String, String> {
        let now = self.clock.now().wall;
        let made = Micros(now.since(plan.earlier).0) + plan.later;
        let named = |name: &str| plan.claims.and_then(|claims| claims.get(name));
        let mut claims = Map::new();
        let mut typ = None;
        if named("iss").is_none_or(Value::is_string) {
            // One that is not there is a case of its own.
            let known = self.stage.issuer(named("iss").and_then(Value::as_str));
            let issuer = match (known, named("iss")) {
                (Ok(known), _) => self.stage.config.issuers.iter().find(|issuer| issuer.issuer == known),
                (Err(_), Some(_)) => self.stage.config.issuers.first(),
                (Err(why), None) => return Err(format!("{why} as `iss`")),
            };
            if let Some(issuer) = issuer {
                claims.insert("iss".to_owned(), issuer.issuer.as_str().into());
                claims.extend(issuer.audiences.first().map(|audience| ("aud".to_owned(), audience.as_str().into())));
                typ = issuer.types.first().cloned();
            }
        }
        self.made_up += 1;
        claims.insert("jti".to_owned(), format!("made-up-{}", self.made_up).into());
        claims.insert("iat".to_owned(), made.as_secs().into());
        if plan.later > Micros::ZERO {
            claims.insert("nbf".to_owned(), made.as_secs().into());
        }
        claims.insert("exp".to_owned(), (made + plan.lives).as_secs().into());
        for (name, value) in plan.claims.into_iter().flatten() {
            match value {
                Value::Null => drop(claims.remove(name)),
                value => drop(claims.insert(name.clone(), value.clone())),
            }
        }
        let signer = if plan.forged { &self.stage.stranger } else { &self.stage.signer };
        let kid = if plan.unknown_key { "unknown" } else { KEY_ID };
        let token = signer.sign(typ.as_deref(), kid, &Value::Object(claims));
        token.map_err(|error| format!("the token could not be signed: {error}"))
    }

    /// What the holder of the configuration's API key `id` shows here.
    ///
    /// # Errors
    /// Says where keys must be.
    pub fn api_key(&self, id: KeyId) -> Result<&str, String> {
        self.stage.api_keys.get(&id).map(|(_, key)| key.as_str()).ok_or_else(|| {
            format!("the configuration's `api_keys.file` has no key `{id}`; keys that Redis keeps cannot be rehearsed")
        })
    }

    /// Takes something back.
    ///
    /// # Errors
    /// Says what is not there.
    pub async fn revoke(&self, kind: TargetKind, issuer: Option<&str>, name: &str) -> Result<(), String> {
        let target = match kind {
            TargetKind::ApiKey => {
                let known = KeyId::parse(name).and_then(|id| self.stage.api_keys.get(&id));
                Target::api_key(known.ok_or_else(|| format!("the configuration has no API key `{name}`"))?.0)
            }
            kind => Target::new(kind, self.stage.issuer(issuer)?, name.as_bytes()),
        };
        let wanted = Wanted {
            target,
            which: Which::All,
            expires_at: None,
            reason: "a rehearsal".into(),
            by: "a rehearsal".into(),
        };
        let written = self.decider.take_back(vec![wanted], Way::Grpc).get().await;
        written.map(drop).map_err(|problem| format!("could not be taken back: {problem:?}"))
    }

    /// May this call go on?
    ///
    /// # Errors
    /// The question could not even be answered as malformed; says why.
    pub async fn ask(&self, question: pb::DecideRequest) -> Result<Answered, String> {
        match self.decisions.decide(&question.encode_to_vec()).await {
            Ok(answer) => {
                let answer = answer.message().map_err(|error| format!("the answer cannot be read: {error}"))?;
                let reason = Reason::ALL.into_iter().find(|reason| reason.name() == answer.detail);
                let reason = reason.ok_or_else(|| format!("no such reason: {}", answer.detail))?;
                Ok(Answered::Decided(Box::new(answer), Codes::of(reason).http.as_u16()))
            }
            Err(status) if status.code() == Code::InvalidArgument => {
                let details = status.get_error_details();
                let violations = details.bad_request().map_or(&[][..], |request| &request.field_violations);
                let fields = violations.iter().map(|wrong| (wrong.field.clone(), wrong.description.clone()));
                Ok(Answered::Malformed(fields.collect()))
            }
            Err(status) => Err(status.to_string()),
        }
    }
}

/// The same issuer, whose keys these are and nobody else's. Which algorithm it signs by is not what is tried out.
fn with_keys(issuer: Issuer, keys: &str) -> Issuer {
    Issuer {
        algorithms: vec![Algorithm::ES256],
        keys: KeySource::Inline(keys.to_owned()),
        introspection: None,
        events: None,
        status_lists: StatusLists::default(),
        ..issuer
    }
}

/// A clock that goes when it is moved.
struct MovedClock {
    beginning: Micros,
    passed: AtomicU64,
}

impl MovedClock {
    /// The steady part begins beyond zero, as that of a machine that has run for a while.
    const STEADY: Micros = Micros::from_secs(1_000);

    const fn at(beginning: Micros) -> Self {
        Self { beginning, passed: AtomicU64::new(0) }
    }

    fn pass(&self, time: Micros) {
        self.passed.fetch_add(time.0, Ordering::Relaxed);
    }
}

impl Clock for MovedClock {
    fn now(&self) -> Moment {
        let passed = Micros(self.passed.load(Ordering::Relaxed));
        Moment { wall: self.beginning + passed, steady: Self::STEADY + passed }
    }
}
