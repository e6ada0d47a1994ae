//! Everything that decides, put together as the server does, from a configuration.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::ParsedPublicKey;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::FutureExt as _;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tollgate::config::{self, Config};
use tollgate::decide::Decider;
use tollgate::decide::ports::{Answer, Clock, Quotas};
use tollgate::domain::policy::Policy;
use tollgate::domain::question::{Credential, Question};
use tollgate::domain::time::{Micros, Moment};
use tollgate::quotas::{LeaseDesk, QuotaDesk};
use tollgate::server::SystemClock;
use tollgate::stores::memory::{COUNTERS_MAX, MemoryStore};
use tollgate::stores::proofs::{MemoryProofs, PROOFS_MAX};
use tollgate::telemetry::Telemetry;
use tollgate::tokens::Tokens;

use crate::orders::POLICY;
use crate::revoked::revocations;
use crate::signer::Signer;

/// Calls between two looks at the clock, so that its own cost and grain do not show.
pub(crate) const SAMPLE_SIZE: u32 = 64;

/// The moment at which a clock stands still.
pub(crate) const NOW: Moment = Moment { wall: Micros::from_secs(1_800_000_000), steady: Micros::from_secs(1_000) };

const ISSUER: &str = "https://issuer.example";

/// All parts, with two limits that never refuse.
pub(crate) struct House {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) decider: Arc<Decider>,
    signer: Signer,
    runtime: Runtime,
}

impl House {
    /// With an issuer that signs like `signer` and room for so many verdicts; quotas are paid at the memory store.
    pub(crate) fn new(signer: Signer, verdicts_max: usize) -> Self {
        Self::with_revocations(signer, verdicts_max, 0)
    }

    /// The same, and so many revocations of all kinds, none of which hits a token.
    pub(crate) fn with_revocations(signer: Signer, verdicts_max: usize, revocations: u64) -> Self {
        let clock = Arc::new(SystemClock::start());
        Self::with_desk(clock, signer, verdicts_max, revocations, at_the_store)
    }

    /// The same, but quotas are paid from leases of the memory store.
    pub(crate) fn with_leases(signer: Signer, verdicts_max: usize) -> Self {
        Self::with_desk(Arc::new(SystemClock::start()), signer, verdicts_max, 0, from_leases)
    }

    /// With all of that, and a desk where quotas are paid.
    pub(crate) fn with_desk(
        clock: Arc<dyn Clock>,
        signer: Signer,
        verdicts_max: usize,
        revoked: u64,
        desk: impl FnOnce(Arc<MemoryStore>, Arc<dyn Clock>, &Telemetry) -> Arc<dyn Quotas>,
    ) -> Self {
        // Tokens start tasks that keep keys fresh; those of this issuer stay as they are.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let within = runtime.enter();
        let telemetry = Arc::new(Telemetry::default());
        let Config { issuers, policy, .. } = config(&signer, None);
        let proofs = Arc::new(MemoryProofs::new(PROOFS_MAX, &telemetry));
        let tokens =
            Tokens::new(Arc::clone(&clock), Arc::clone(&telemetry), verdicts_max, Arc::clone(&proofs) as _).unwrap();
        tokens.adopt(issuers).unwrap();
        let store = Arc::new(MemoryStore::new(COUNTERS_MAX, &telemetry));
        let revocations = revocations(&runtime, ISSUER, revoked, &clock, &telemetry);
        let decider = Arc::new(Decider::new(
            Arc::clone(&clock),
            Arc::clone(&tokens) as _,
            Arc::clone(&revocations) as _,
            revocations,
            desk(store, Arc::clone(&clock), &telemetry),
            telemetry,
        ));
        decider.adopt(Policy { version: 1, ..policy });
        drop(within);
        Self { clock, tokens, decider, signer, runtime }
    }

    /// Accepts the tokens of an issuer that is asked at `url`, too.
    pub(crate) fn ask(&self, url: &str) {
        let _within = self.runtime.enter();
        self.tokens.adopt(config(&self.signer, Some(url)).issuers).unwrap();
    }

    /// A token for that subject.
    pub(crate) fn token(&self, subject: &str) -> String {
        self.sign(&self.claims(subject))
    }

    /// A token of about so many bytes, at least as many as [`token`](Self::token) has.
    pub(crate) fn token_of(&self, subject: &str, bytes: usize) -> String {
        let mut claims = self.claims(subject);
        // Four characters stand for three bytes.
        let missing = bytes.saturating_sub(self.sign(&claims).len()) * 3 / 4;
        claims["note"] = "x".repeat(missing.saturating_sub(r#","note":"""#.len())).into();
        self.sign(&claims)
    }

    /// A token with these claims.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        self.signer.token(json!({ "typ": "at+jwt", "kid": "k" }), claims)
    }

    /// Claims of a token for that subject.
    pub(crate) fn claims(&self, subject: &str) -> Value {
        let now = self.clock.now().wall.as_secs();
        // As long as a usual one: a hash stands for the issuer's random id.
        let id = URL_SAFE_NO_PAD.encode(digest(&SHA256, subject.as_bytes()));
        json!({
            "iss": ISSUER, "aud": "orders", "sub": subject, "client_id": "shop", "scope": "orders:read orders:write",
            "jti": id, "iat": now, "exp": now + 3600,
        })
    }

    /// An answer, waiting for it where that is needed.
    pub(crate) fn wait<T>(&self, answer: Answer<'_, T>) -> T {
        self.runtime.block_on(answer.get())
    }

    /// The key as the verifying side holds it.
    pub(crate) fn public(&self) -> ParsedPublicKey {
        self.signer.public()
    }
}

/// A clock that stands still, at [`NOW`].
pub(crate) struct Standing;

impl Clock for Standing {
    fn now(&self) -> Moment {
        NOW
    }
}

/// Pays at the memory store.
pub(crate) fn at_the_store(store: Arc<MemoryStore>, _: Arc<dyn Clock>, _: &Telemetry) -> Arc<dyn Quotas> {
    Arc::new(QuotaDesk::new(store))
}

/// Pays from leases of the memory store.
pub(crate) fn from_leases(store: Arc<MemoryStore>, clock: Arc<dyn Clock>, telemetry: &Telemetry) -> Arc<dyn Quotas> {
    Arc::new(introduced(LeaseDesk::new(Arc::clone(&store) as _, store, Micros::from_secs(1), clock, telemetry)))
}

/// A desk that its store has heard of: before that it pays nothing.
pub(crate) fn introduced(desk: LeaseDesk) -> LeaseDesk {
    desk.beat().now_or_never().unwrap().unwrap();
    desk
}

/// Both clocks at once, for parts that keep no time.
pub(crate) fn moment() -> Moment {
    SystemClock::start().now()
}

/// An answer for which nobody outside has to be waited for.
pub(crate) fn at_hand<T>(answer: Answer<'_, T>) -> T {
    answer.get().now_or_never().unwrap()
}

/// A question by `token`, under the rule that has the limits.
pub(crate) fn question(token: &str) -> Question<'_> {
    use tollgate::domain::path::{Host, Method, Target};
    let method = Method::parse("GET").unwrap();
    let host = Host::parse("shop.example.com").unwrap();
    let target = Target::parse("/orders/1", method, Some(&host)).unwrap();
    Question {
        credential: Credential::Bearer(token),
        host: Some(host),
        source: Some("192.0.2.7".parse().unwrap()),
        ..Question::of(method, target)
    }
}

/// Issuers that tokens come from: the one whose keys are in hand, and perhaps one that is asked.
fn config(signer: &Signer, asked: Option<&str>) -> Config {
    let asked = asked.map(|url| {
        let introspection = format!("{{ url: '{url}', client_id: bench, client_secret: a-secret }}");
        format!("  - {{ issuer: https://asked.example, audiences: [orders], introspection: {introspection} }}\n")
    });
    let issuer = format!("issuer: {ISSUER}, audiences: [orders], jwks: {{ keys: [{}] }}", signer.jwk());
    let text = format!("issuers:\n  - {{ {issuer} }}\n{}{POLICY}", asked.unwrap_or_default());
    config::parse(&text, "bench.yaml", &|_| None).unwrap().0
}
