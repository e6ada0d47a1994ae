//! Every metric name, and the log setup.
//!
//! Metrics live in a recorder of the server's own, not in a global one, so that several servers fit into one process.
//! The number of series is bounded: every label but `rule`, `issuer` and `node` comes from a closed list, and only
//! the first [`RULE_LABELS_MAX`] rules, [`ISSUER_LABELS_MAX`] issuers and [`NODE_LABELS_MAX`] nodes get a label of their own.
//! Limits by descriptors are bounded likewise, and so are the names that callers make up for them: see [`RateLimitMeter`].

mod durations;
mod ratelimit;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::sync::{Mutex, OnceLock, PoisonError};

use metrics::{Counter, Gauge, Key, KeyName, Label, Level, Metadata, Recorder as _, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::TryInitError;

use self::durations::Durations;
pub use self::ratelimit::{DETAILED_LABELS_MAX, HitOutcome, LIMIT_LABELS_MAX, RateLimitMeter};
use crate::domain::decision::{Class, Decision, Reason};
use crate::domain::policy::Policy;
use crate::domain::time::Micros;

/// How many rules, over all reloads, have a label of their own; the others share `other`.
pub const RULE_LABELS_MAX: usize = 256;

/// How many issuers, over all reloads, have gauges; those of the others are not exposed.
pub const ISSUER_LABELS_MAX: usize = 256;

/// How many nodes of the store have had gauges; those of later ones are not exposed.
pub const NODE_LABELS_MAX: usize = 256;

/// Names of metrics, one constant each.
pub mod names {
    /// Decisions, by façade, outcome, reason and rule.
    pub const DECISIONS: &str = "tollgate_decisions_total";
    /// How long decisions took, by façade; from the reading of the clock to the decision.
    pub const DECISION_SECONDS: &str = "tollgate_decision_duration_seconds";
    /// Hits of limits by descriptors, by domain, limit and outcome.
    pub const RATE_LIMIT_HITS: &str = "tollgate_ratelimit_hits_total";
    /// Questions about the limits of a domain that there is none of.
    pub const RATE_LIMIT_NO_DOMAIN: &str = "tollgate_ratelimit_unknown_domain_total";
    /// Questions that were not well formed, by façade.
    pub const MALFORMED: &str = "tollgate_questions_malformed_total";
    /// Questions whose asker went away before the decision, by façade.
    pub const ABANDONED: &str = "tollgate_questions_abandoned_total";
    /// Calls that were turned away because too many were in flight.
    pub const OVERLOAD: &str = "tollgate_overload_total";
    /// Calls in flight.
    pub const IN_FLIGHT: &str = "tollgate_calls_in_flight";
    /// Calls of the quota store.
    pub const STORE_CALLS: &str = "tollgate_store_calls_total";
    /// Calls of the quota store that failed, by cause.
    pub const STORE_FAILURES: &str = "tollgate_store_failures_total";
    /// Whether a node of the quota store answers: 1 or 0; NaN once it keeps no counters any more.
    pub const STORE_UP: &str = "tollgate_store_up";
    /// Steps of the clock by which the quota store counts, by direction.
    pub const STORE_CLOCK_STEPS: &str = "tollgate_store_clock_steps_total";
    /// Counters in the memory store.
    pub const MEMORY_COUNTERS: &str = "tollgate_memory_counters";
    /// Used `DPoP` proofs in memory.
    pub const MEMORY_PROOFS: &str = "tollgate_memory_proofs";
    /// `DPoP` proofs that were refused, by cause.
    pub const PROOFS_REFUSED: &str = "tollgate_dpop_proofs_refused_total";
    /// Units of leases: leased, spent, returned, stranded.
    pub const LEASE_UNITS: &str = "tollgate_lease_units_total";
    /// Replicas that were last seen at the quota store, this one included.
    pub const REPLICAS: &str = "tollgate_replicas";
    /// Units that were admitted without the store: as a local share while it was away.
    pub const LOCAL_UNITS: &str = "tollgate_local_units_total";
    /// Units that the store was told of afterwards: local shares, and all of a window when it had lost its data.
    pub const TOLD_UNITS: &str = "tollgate_told_units_total";
    /// Payments: from leases in hand, at the store, refused from memory, or overdue.
    pub const PAYMENTS: &str = "tollgate_payments_total";
    /// Look-ups of remembered verdicts, by outcome.
    pub const VERDICT_LOOKUPS: &str = "tollgate_verdict_lookups_total";
    /// Verdicts that were forgotten to make room.
    pub const VERDICT_EVICTIONS: &str = "tollgate_verdict_evictions_total";
    /// Verdicts that are remembered.
    pub const VERDICTS: &str = "tollgate_verdicts_remembered";
    /// API keys in hand.
    pub const API_KEYS: &str = "tollgate_api_keys";
    /// Readings of API keys that replicas share, by outcome.
    pub const API_KEY_READS: &str = "tollgate_api_key_reads_total";
    /// Keys in hand, by issuer.
    pub const ISSUER_KEYS: &str = "tollgate_issuer_keys";
    /// Whether the issuer's last key refresh succeeded: 1 or 0.
    pub const ISSUER_UP: &str = "tollgate_issuer_up";
    /// Questions to issuers about their tokens, by outcome.
    pub const INTROSPECTIONS: &str = "tollgate_introspections_total";
    /// Whether the issuer can be asked about its tokens: 1 or 0.
    pub const INTROSPECTION_UP: &str = "tollgate_introspection_up";
    /// Tokens that were looked at for those who asked about them, by outcome.
    pub const INTROSPECTION_ANSWERS: &str = "tollgate_introspection_answers_total";
    /// What identity providers told, by what it was and outcome.
    pub const EVENTS: &str = "tollgate_provider_events_total";
    /// Whether the issuer's security events can be fetched: 1 or 0.
    pub const EVENT_POLL_UP: &str = "tollgate_event_poll_up";
    /// Entries of revocations that were asked for, written or not, by way and outcome.
    pub const REVOCATION_REQUESTS: &str = "tollgate_revocation_requests_total";
    /// Status lists that were fetched, by outcome.
    pub const STATUS_LISTS: &str = "tollgate_status_list_fetches_total";
    /// Entries that are in memory, by kind.
    pub const REVOCATIONS: &str = "tollgate_revocations";
    /// How long ago everything was known that was taken back, in seconds.
    pub const REVOCATION_LAG: &str = "tollgate_revocation_lag_seconds";
    /// Changes that the log told.
    pub const REVOCATION_CHANGES: &str = "tollgate_revocation_changes_total";
    /// Times that the log was loaded whole.
    pub const REVOCATION_LOADS: &str = "tollgate_revocation_loads_total";
    /// Entries and changes that made no sense.
    pub const REVOCATIONS_UNREADABLE: &str = "tollgate_revocations_unreadable_total";
    /// Tokens that a replica had to judge while it was behind, by outcome.
    pub const REVOCATIONS_BEHIND: &str = "tollgate_revocation_answers_behind_total";
    /// Configurations that were read, by outcome.
    pub const RELOADS: &str = "tollgate_config_reloads_total";
    /// TLS handshakes that came to nothing, by cause.
    pub const TLS_FAILURES: &str = "tollgate_tls_handshake_failures_total";
    /// When the server's certificate expires, in seconds since the Unix epoch; NaN without one.
    pub const TLS_NOT_AFTER: &str = "tollgate_tls_certificate_not_after_seconds";
    /// The version that runs; always 1.
    pub const BUILD: &str = "tollgate_build_info";
}

/// How a question came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Facade {
    /// `DecisionService/Decide`
    Unary,
    /// `DecisionService/DecideBatch`
    Batch,
    /// `DecisionService/DecideStream`
    Stream,
    /// `/v1/decide`
    Http,
    /// `/forward-auth`
    ForwardAuth,
    /// `envoy.service.auth.v3.Authorization/Check`
    ExtAuthz,
    /// `envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit`
    RateLimit,
}

impl Facade {
    /// Every façade, in the order of their discriminants.
    const ALL: [Self; 7] =
        [Self::Unary, Self::Batch, Self::Stream, Self::Http, Self::ForwardAuth, Self::ExtAuthz, Self::RateLimit];

    const fn name(self) -> &'static str {
        match self {
            Self::Unary => "decide",
            Self::Batch => "decide_batch",
            Self::Stream => "decide_stream",
            Self::Http => "http",
            Self::ForwardAuth => "forward_auth",
            Self::ExtAuthz => "ext_authz",
            Self::RateLimit => "ratelimit",
        }
    }
}

/// Where everything is counted.
pub struct Telemetry {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    facades: [FacadeMetrics; Facade::ALL.len()],
    rules_seen: Seen,
    issuers_seen: Seen,
    nodes_seen: Seen,
    limits_seen: Seen,
    detailed_seen: Seen,
}

/// Names that have labels.
type Seen = Mutex<BTreeSet<String>>;

struct FacadeMetrics {
    took: Durations,
    malformed: Counter,
    abandoned: Counter,
}

const METADATA: Metadata<'static> = Metadata::new("tollgate", Level::INFO, None);

impl Default for Telemetry {
    /// An empty registry.
    fn default() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        for (name, text) in [
            (names::DECISIONS, "Decisions, by facade, outcome, reason and rule."),
            (names::RATE_LIMIT_HITS, "Hits of limits by descriptors, by domain, limit and outcome."),
            (names::RATE_LIMIT_NO_DOMAIN, "Questions about limits of a domain that there is none of."),
            (names::MALFORMED, "Questions that were not well formed."),
            (names::ABANDONED, "Questions whose asker went away before the decision."),
            (names::OVERLOAD, "Calls that were turned away because too many were in flight."),
            (names::STORE_CALLS, "Calls of the quota store."),
            (names::STORE_FAILURES, "Calls of the quota store that failed, by cause."),
            (names::STORE_CLOCK_STEPS, "Steps of the quota store's clock, by direction."),
            (names::LEASE_UNITS, "Units of leases: leased, spent, returned, stranded."),
            (names::LOCAL_UNITS, "Units that were admitted by a replica alone while the store was away."),
            (names::TOLD_UNITS, "Units admitted earlier that the store was told of afterwards."),
            (names::PAYMENTS, "Payments: from leases, at the store, or refused from memory, or overdue."),
            (names::VERDICT_LOOKUPS, "Look-ups of remembered verdicts, by outcome."),
            (names::VERDICT_EVICTIONS, "Verdicts that were forgotten to make room."),
            (names::TLS_FAILURES, "TLS handshakes that came to nothing, by cause."),
            (names::INTROSPECTIONS, "Questions to issuers about their tokens, by outcome."),
            (names::API_KEY_READS, "Readings of API keys that replicas share, by outcome."),
            (names::INTROSPECTION_ANSWERS, "Tokens that were looked at for those who asked, by outcome."),
            (names::EVENTS, "What identity providers told, by what it was and outcome."),
            (names::REVOCATION_REQUESTS, "Revocations that were asked for, by way and outcome."),
            (names::STATUS_LISTS, "Status lists that were fetched, by outcome."),
            (names::REVOCATION_CHANGES, "Changes that the log of revocations told."),
            (names::REVOCATION_LOADS, "Times that the log of revocations was loaded whole."),
            (names::REVOCATIONS_UNREADABLE, "Revocations that made no sense and were passed over."),
            (names::REVOCATIONS_BEHIND, "Tokens judged while revocations were behind, by outcome."),
            (names::RELOADS, "Configurations that were read, by outcome."),
        ] {
            recorder.describe_counter(KeyName::from_const_str(name), Some(Unit::Count), text.into());
        }
        for (name, text) in [
            (names::IN_FLIGHT, "Calls in flight."),
            (names::STORE_UP, "Whether the quota store answers, by node; NaN once it keeps no counters any more."),
            (names::REPLICAS, "Replicas that were last seen at the quota store, this one included."),
            (names::MEMORY_COUNTERS, "Counters in the memory store."),
            (names::MEMORY_PROOFS, "Used DPoP proofs that are remembered in memory."),
            (names::VERDICTS, "Verdicts that are remembered."),
            (names::API_KEYS, "API keys in hand: all that are listed, or those in use that replicas share."),
            (names::ISSUER_KEYS, "Keys in hand, by issuer; NaN once it is no longer configured."),
            (names::ISSUER_UP, "Whether the issuer's last key refresh succeeded; NaN once it is no longer configured."),
            (names::REVOCATIONS, "Revocations in memory, by kind."),
            (names::REVOCATION_LAG, "How long ago all revocations were known, in seconds."),
            (names::TLS_NOT_AFTER, "When the server's certificate expires, since the Unix epoch; NaN without one."),
            (
                names::INTROSPECTION_UP,
                "Whether the issuer can be asked about its tokens; NaN once it is not to be asked.",
            ),
            (names::EVENT_POLL_UP, "Whether the issuer's security events can be fetched; NaN once they are not to be."),
            (names::BUILD, "The version that runs."),
        ] {
            recorder.describe_gauge(KeyName::from_const_str(name), None, text.into());
        }
        let facades = Facade::ALL.map(|facade| {
            let labels = || vec![Label::from_static_parts("facade", facade.name())];
            FacadeMetrics {
                took: Durations::default(),
                malformed: recorder.register_counter(&Key::from_parts(names::MALFORMED, labels()), &METADATA),
                abandoned: recorder.register_counter(&Key::from_parts(names::ABANDONED, labels()), &METADATA),
            }
        });
        let handle = recorder.handle();
        let telemetry = Self {
            recorder,
            handle,
            facades,
            rules_seen: Seen::default(),
            issuers_seen: Seen::default(),
            nodes_seen: Seen::default(),
            limits_seen: Seen::default(),
            detailed_seen: Seen::default(),
        };
        telemetry.gauge(names::BUILD, &[("version", env!("CARGO_PKG_VERSION"))]).set(1.0);
        telemetry
    }
}

impl Telemetry {
    /// The counter of that name and those labels.
    pub fn counter(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Counter {
        self.recorder.register_counter(&key(name, labels), &METADATA)
    }

    /// The gauge of that name and those labels.
    pub fn gauge(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Gauge {
        self.recorder.register_gauge(&key(name, labels), &METADATA)
    }

    /// The gauge of that name for an issuer.
    pub fn issuer_gauge(&self, name: &'static str, issuer: &str) -> Gauge {
        let mut seen = self.issuers_seen.lock().unwrap_or_else(PoisonError::into_inner);
        if has_label(&mut seen, issuer, ISSUER_LABELS_MAX) {
            return self.gauge(name, &[("issuer", issuer)]);
        }
        Gauge::noop()
    }

    /// The gauge of that name for a node of the store.
    pub fn node_gauge(&self, name: &'static str, node: &str) -> Gauge {
        let mut seen = self.nodes_seen.lock().unwrap_or_else(PoisonError::into_inner);
        if has_label(&mut seen, node, NODE_LABELS_MAX) {
            return self.gauge(name, &[("node", node)]);
        }
        Gauge::noop()
    }

    /// Everything counted so far, in Prometheus's text format.
    pub fn render(&self) -> String {
        let mut text = self.handle.render();
        let name = names::DECISION_SECONDS;
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "# HELP {name} Time that decisions took.\n# TYPE {name} histogram");
        for (facade, FacadeMetrics { took, .. }) in Facade::ALL.iter().zip(&self.facades) {
            took.render(&mut text, name, "facade", facade.name());
        }
        text
    }

    /// A meter for the decisions made under `policy`.
    pub fn meter(&self, policy: &Policy) -> DecisionMeter {
        let mut seen = self.rules_seen.lock().unwrap_or_else(PoisonError::into_inner);
        let label = |name: &String| {
            if has_label(&mut seen, name, RULE_LABELS_MAX) { name.clone() } else { "other".to_owned() }
        };
        let mut rules = vec!["none".to_owned()];
        rules.extend(policy.rules.iter().map(|rule| &rule.name).map(label));
        let places = rules.len() * Reason::ALL.len() * Facade::ALL.len();
        DecisionMeter {
            rules,
            counters: std::iter::repeat_with(OnceLock::new).take(places).collect(),
            rate_limits: RateLimitMeter::new(self, &policy.rate_limits),
        }
    }

    /// Begins a call; whoever drops it without a conclusion has abandoned it.
    pub const fn call(&self, facade: Facade, started: Micros) -> Call<'_> {
        Call { telemetry: self, facade, started, ended: false }
    }
}

/// Counts what leases are good for. Leased units end up spent or returned; or stranded, when the store was not told in time.
pub struct LeaseMetrics {
    leased: Counter,
    spent: Counter,
    returned: Counter,
    stranded: Counter,
    local: Counter,
    told: Counter,
    replicas: Gauge,
    /// Questions that leases in hand paid whole.
    pub paid_from_leases: Counter,
    /// Questions that the store was asked for.
    pub paid_at_store: Counter,
    /// Questions that were refused without asking.
    pub refused_from_memory: Counter,
    /// Questions that waited in vain for their turn to ask.
    pub overdue: Counter,
}

impl LeaseMetrics {
    /// Counters in `telemetry`.
    pub fn new(telemetry: &Telemetry) -> Self {
        let units = |what| telemetry.counter(names::LEASE_UNITS, &[("what", what)]);
        let payments = |by| telemetry.counter(names::PAYMENTS, &[("by", by)]);
        Self {
            leased: units("leased"),
            spent: units("spent"),
            returned: units("returned"),
            stranded: units("stranded"),
            local: telemetry.counter(names::LOCAL_UNITS, &[]),
            told: telemetry.counter(names::TOLD_UNITS, &[]),
            replicas: telemetry.gauge(names::REPLICAS, &[]),
            paid_from_leases: payments("leases"),
            paid_at_store: payments("store"),
            refused_from_memory: payments("refusals"),
            overdue: payments("overdue"),
        }
    }

    /// The store granted so many units in a lease.
    pub fn leased(&self, units: u64) {
        self.leased.increment(units);
    }

    /// A lease ended, of which so many units were spent.
    pub fn spent(&self, units: u64) {
        self.spent.increment(units);
    }

    /// So many units went back.
    pub fn returned(&self, units: u64) {
        self.returned.increment(units);
    }

    /// So many units were admitted by this replica alone.
    pub fn admitted_locally(&self, units: u64) {
        self.local.increment(units);
    }

    /// The store was told of so many units that were admitted earlier.
    pub fn told(&self, units: u64) {
        self.told.increment(units);
    }

    /// So many replicas are there.
    pub fn replicas(&self, replicas: u32) {
        self.replicas.set(replicas);
    }

    /// The store was not told that so many units are free; they count until their lease expires.
    pub fn stranded(&self, units: u64) {
        self.stranded.increment(units);
    }
}

/// Whether `name` is one of the first so many.
fn has_label(seen: &mut BTreeSet<String>, name: &str, labels_max: usize) -> bool {
    seen.contains(name) || (seen.len() < labels_max && seen.insert(name.to_owned()))
}

fn key(name: &'static str, labels: &[(&'static str, &str)]) -> Key {
    Key::from_parts(name, labels.iter().map(|(name, value)| Label::new(*name, (*value).to_owned())).collect::<Vec<_>>())
}

/// Counts the decisions made under one policy. Counters are looked up by index: no label is built on the warm path.
pub struct DecisionMeter {
    /// Labels, of no rule first.
    rules: Vec<String>,
    /// By façade, rule and reason; registered when first used.
    counters: Box<[OnceLock<Counter>]>,
    rate_limits: RateLimitMeter,
}

impl DecisionMeter {
    /// What counts the hits of limits by descriptors.
    pub const fn of_rate_limits(&self) -> &RateLimitMeter {
        &self.rate_limits
    }

    /// Counts an answer about limits by descriptors, which no rule led to.
    pub fn conclude_rate_limit(&self, call: Call<'_>, reason: Reason, ended: Micros) {
        self.count(call, 0, reason, ended);
    }

    /// Counts a decision that was made at `ended`, and logs it for those who ask for `tollgate::decisions=debug`.
    pub fn conclude(&self, call: Call<'_>, decision: &Decision, ended: Micros) {
        let facade = call.facade;
        self.count(call, decision.rule.map_or(0, |index| index + 1), decision.reason, ended);
        let identity = decision.identity.as_deref();
        tracing::debug!(
            target: "tollgate::decisions",
            facade = facade.name(),
            allowed = decision.reason.allows(),
            reason = decision.reason.name(),
            rule = decision.rule_name(),
            issuer = identity.map(|identity| &*identity.issuer),
            subject = identity.and_then(|identity| identity.subject.as_deref()),
            client = identity.and_then(|identity| identity.client.as_deref()),
            policy_version = decision.policy.version,
            "decided"
        );
    }

    fn count(&self, mut call: Call<'_>, rule: usize, reason: Reason, ended: Micros) {
        call.ended = true;
        let place = (call.facade as usize * self.rules.len() + rule) * Reason::ALL.len() + reason as usize;
        let Some(counter) = self.counters.get(place) else { return };
        counter
            .get_or_init(|| {
                let class = reason.class();
                call.telemetry.counter(
                    names::DECISIONS,
                    &[
                        ("facade", call.facade.name()),
                        ("outcome", if class == Class::Allow { "allow" } else { "deny" }),
                        ("reason", reason.name()),
                        ("rule", self.rules.get(rule).map_or("none", String::as_str)),
                    ],
                )
            })
            .increment(1);
        call.telemetry.facades[call.facade as usize].took.record(ended.since(call.started));
    }
}

/// A question that is being answered. Unless it is concluded it counts as abandoned.
pub struct Call<'a> {
    telemetry: &'a Telemetry,
    facade: Facade,
    started: Micros,
    ended: bool,
}

impl Call<'_> {
    /// The question was not well formed.
    pub fn malformed(mut self) {
        self.ended = true;
        self.telemetry.facades[self.facade as usize].malformed.increment(1);
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.telemetry.facades[self.facade as usize].abandoned.increment(1);
        }
    }
}

/// How logs look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// JSON, one object a line; a terminal gets text.
    #[default]
    Auto,
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// What watches files tells of each change of a folder: a log beside the configuration would be fed by its own lines.
const UNHEARD: &str = "notify=off";

/// Starts logging to standard error. `filter` is a tracing filter such as `info` or `tollgate=debug`.
pub fn log(format: LogFormat, filter: &str) -> Result<(), LogError> {
    use tracing_subscriber::fmt;
    use tracing_subscriber::util::SubscriberInitExt as _;

    let filter = format!("{filter},{UNHEARD}");
    let filter = EnvFilter::try_new(filter).map_err(|error| LogError::Filter { error: error.to_string() })?;
    let terminal = std::io::stderr().is_terminal();
    let json = match format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let builder = fmt::Subscriber::builder().with_env_filter(filter).with_ansi(terminal).with_writer(std::io::stderr);
    if json {
        builder.json().flatten_event(true).finish().try_init()?;
    } else {
        builder.finish().try_init()?;
    }
    Ok(())
}

/// Why logging could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is not one.
    #[error("--log: {error}; a filter is a level (info) or a list such as `info,tollgate=debug`")]
    Filter {
        /// What is wrong with it.
        error: String,
    },
    /// Someone started it already.
    #[error("logging was started twice")]
    Twice(#[from] TryInitError),
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::decision::QuotaStates;
    use crate::domain::path::Leniency;
    use crate::domain::policy::{Demand, Match, Rule};

    fn policy(rules: impl IntoIterator<Item = String>) -> Policy {
        let rules = rules.into_iter().map(|name| Rule {
            name,
            matches: Match::default(),
            leniency: Leniency::default(),
            guard: None,
            early: None,
            demand: Demand::Anyone,
            limits: Vec::new(),
        });
        Policy { version: 1, rules: rules.collect(), ..Policy::default() }
    }

    fn decision(rule: Option<usize>) -> Decision {
        Decision {
            reason: Reason::Allowed,
            policy: Arc::default(),
            rule,
            identity: None,
            quotas: QuotaStates::new(),
            required_scopes: Vec::new(),
            held: None,
            dpop_nonce: None,
            explanation: None,
        }
    }

    #[test]
    fn reloads_cannot_make_series_without_end() {
        let telemetry = Telemetry::default();
        for reload in 0..10 {
            let meter = telemetry.meter(&policy((0..100).map(|index| format!("rule-{reload}-{index}"))));
            for rule in 0..100 {
                meter.conclude(telemetry.call(Facade::Unary, Micros(0)), &decision(Some(rule)), Micros(1));
            }
        }
        let text = telemetry.render();
        let series = text.lines().filter(|line| line.starts_with(names::DECISIONS)).count();
        assert_eq!(series, RULE_LABELS_MAX + 1);
        assert!(text.contains(r#"rule="other"} 744"#), "{text}");
    }

    #[test]
    fn nodes_cannot_make_series_without_end() {
        let telemetry = Telemetry::default();
        for node in 0..1_000 {
            telemetry.node_gauge(names::STORE_UP, &node.to_string()).set(1.0);
        }
        let text = telemetry.render();
        assert_eq!(text.lines().filter(|line| line.contains("node=")).count(), NODE_LABELS_MAX);
    }

    #[test]
    fn issuers_cannot_make_series_without_end() {
        let telemetry = Telemetry::default();
        for issuer in 0..1_000 {
            telemetry.issuer_gauge(names::ISSUER_UP, &issuer.to_string()).set(1.0);
            telemetry.issuer_gauge(names::ISSUER_KEYS, &issuer.to_string()).set(1.0);
        }
        let text = telemetry.render();
        assert_eq!(text.lines().filter(|line| line.contains("issuer=")).count(), 2 * ISSUER_LABELS_MAX);
    }

    #[test]
    fn a_call_that_is_dropped_is_counted_as_abandoned() {
        let telemetry = Telemetry::default();
        drop(telemetry.call(Facade::Stream, Micros(0)));
        telemetry.call(Facade::Stream, Micros(0)).malformed();
        let meter = telemetry.meter(&policy([]));
        meter.conclude(telemetry.call(Facade::Stream, Micros(0)), &decision(None), Micros(7));
        let text = telemetry.render();
        assert!(text.contains(r#"tollgate_questions_abandoned_total{facade="decide_stream"} 1"#), "{text}");
        assert!(text.contains(r#"tollgate_questions_malformed_total{facade="decide_stream"} 1"#), "{text}");
        assert!(
            text.contains(
                r#"tollgate_decisions_total{facade="decide_stream",outcome="allow",reason="allowed",rule="none"} 1"#
            ),
            "{text}"
        );
    }

    #[test]
    fn reasons_and_facades_are_listed_in_the_order_of_their_discriminants() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
        for (index, facade) in Facade::ALL.into_iter().enumerate() {
            assert_eq!(facade as usize, index);
        }
    }
}
