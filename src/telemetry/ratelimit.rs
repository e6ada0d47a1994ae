//! Hits of limits by descriptors, counted by domain and limit.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use foldhash::fast::RandomState;
use metrics::Counter;

use super::{Telemetry, has_label, names};
use crate::domain::ratelimit::{Found, RateLimits};

/// How many limits, over all reloads, have a label of their own; the others share `other`, as do their domains.
pub const LIMIT_LABELS_MAX: usize = 512;

/// So many names more, at most, that tell values of requests apart; beyond, such a limit is counted under its place in the file.
pub const DETAILED_LABELS_MAX: usize = 512;

/// How many names of a domain are remembered with their counters, those that share one among them: some 6 MB when full. Others
/// are looked up each time.
const NAMES_MAX: usize = 16_384;

/// What became of hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HitOutcome {
    /// They were counted, and there was room.
    Within,
    /// There was no room.
    Over,
    /// There was no room, and the limit refuses nothing.
    Shadow,
    /// There was room; another limit refused the request, so that they were not counted.
    Spared,
    /// The store could not be asked, and the limit refuses then.
    Away,
    /// They were taken back.
    TakenBack,
}

impl HitOutcome {
    /// Every outcome, in the order of their discriminants.
    const ALL: [Self; 6] = [Self::Within, Self::Over, Self::Shadow, Self::Spared, Self::Away, Self::TakenBack];

    const fn name(self) -> &'static str {
        match self {
            Self::Within => "within",
            Self::Over => "over",
            Self::Shadow => "shadow",
            Self::Spared => "spared",
            Self::Away => "away",
            Self::TakenBack => "taken_back",
        }
    }
}

/// Counts hits under one policy: by a name that is in hand, without making a label on the warm path.
pub struct RateLimitMeter {
    domains: BTreeMap<Box<str>, Named>,
    of_no_domain: Counter,
}

/// Counters by the names of limits.
type Named = RwLock<HashMap<Box<str>, Arc<Limited>, RandomState>>;

/// The counters of a limit, or of those that share a label; each is registered when it is first used.
struct Limited {
    domain: Box<str>,
    limit: Box<str>,
    counters: [OnceLock<Counter>; HitOutcome::ALL.len()],
}

impl RateLimitMeter {
    pub(super) fn new(telemetry: &Telemetry, limits: &RateLimits) -> Self {
        let domains = limits.domains.keys().map(|name| (name.clone(), Named::default())).collect();
        Self { domains, of_no_domain: telemetry.counter(names::RATE_LIMIT_NO_DOMAIN, &[]) }
    }

    /// A request named a domain that there is none of.
    pub fn asked_of_no_domain(&self) {
        self.of_no_domain.increment(1);
    }

    /// Counts hits of a limit that was found in a domain.
    pub fn count(&self, telemetry: &Telemetry, domain: &str, found: &Found, outcome: HitOutcome, hits: u64) {
        let Some(named) = self.domains.get(domain) else { return };
        let name = found.metric.as_deref().unwrap_or(&found.limit.metric);
        if let Some(limited) = named.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            limited.count(telemetry, outcome, hits);
            return;
        }
        let limited = Arc::new(telemetry.limited(domain, found));
        limited.count(telemetry, outcome, hits);
        let mut named = named.write().unwrap_or_else(PoisonError::into_inner);
        if named.len() < NAMES_MAX {
            named.insert(name.into(), limited);
        }
    }
}

impl Limited {
    fn count(&self, telemetry: &Telemetry, outcome: HitOutcome, hits: u64) {
        let Some(counter) = self.counters.get(outcome as usize) else { return };
        counter
            .get_or_init(|| {
                telemetry.counter(
                    names::RATE_LIMIT_HITS,
                    &[("domain", &*self.domain), ("limit", &*self.limit), ("outcome", outcome.name())],
                )
            })
            .increment(hits);
    }
}

impl Telemetry {
    /// The counters of a limit, under the label that is left for it.
    fn limited(&self, domain: &str, found: &Found) -> Limited {
        let has = |seen: &super::Seen, name: &str, labels_max| {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            has_label(&mut seen, &format!("{domain}\0{name}"), labels_max)
        };
        let detailed = found.metric.as_deref().filter(|name| has(&self.detailed_seen, name, DETAILED_LABELS_MAX));
        let limit = detailed
            .or_else(|| Some(&*found.limit.metric).filter(|name| has(&self.limits_seen, name, LIMIT_LABELS_MAX)));
        let (domain, limit) = limit.map_or(("other", "other"), |limit| (domain, limit));
        Limited { domain: domain.into(), limit: limit.into(), counters: std::array::from_fn(|_| OnceLock::new()) }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use smallvec::SmallVec;

    use super::*;
    use crate::domain::ratelimit::{DescriptorLimit, Domain};

    fn found(place: &str, metric: Option<&str>) -> Found {
        let limit = DescriptorLimit {
            name: None,
            replaces: Box::default(),
            limits: Box::default(),
            shown: None,
            shadow: false,
            quota_mode: false,
            detailed_metric: metric.is_some(),
            metric: place.into(),
        };
        Found { limit: Arc::new(limit), counters: SmallVec::default(), metric: metric.map(Into::into) }
    }

    fn meter(telemetry: &Telemetry) -> RateLimitMeter {
        let domains = [("edge".into(), Domain { name: "edge".into(), ..Domain::default() })];
        RateLimitMeter::new(telemetry, &RateLimits { domains: domains.into(), ..RateLimits::default() })
    }

    fn series(telemetry: &Telemetry) -> Vec<String> {
        let text = telemetry.render();
        text.lines().filter(|line| line.starts_with(names::RATE_LIMIT_HITS)).map(str::to_owned).collect()
    }

    #[test]
    fn hits_are_counted_by_domain_limit_and_outcome() {
        let telemetry = Telemetry::default();
        let meter = meter(&telemetry);
        for _ in 0..2 {
            meter.count(&telemetry, "edge", &found("user", None), HitOutcome::Within, 3);
        }
        meter.count(&telemetry, "edge", &found("user", Some("user_alice")), HitOutcome::Over, 1);
        meter.count(&telemetry, "elsewhere", &found("user", None), HitOutcome::Over, 1);
        let mut series = series(&telemetry);
        series.sort();
        assert_eq!(
            series,
            [
                r#"tollgate_ratelimit_hits_total{domain="edge",limit="user",outcome="within"} 6"#,
                r#"tollgate_ratelimit_hits_total{domain="edge",limit="user_alice",outcome="over"} 1"#,
            ]
        );
    }

    #[test]
    fn neither_callers_nor_reloads_make_series_without_end() {
        let telemetry = Telemetry::default();
        for reload in 0..2 {
            let meter = meter(&telemetry);
            for name in 0..LIMIT_LABELS_MAX {
                let place = format!("place-{reload}-{name}");
                meter.count(&telemetry, "edge", &found(&place, None), HitOutcome::Within, 1);
            }
            for value in 0..NAMES_MAX + 10 {
                let metric = format!("value-{reload}-{value}");
                meter.count(&telemetry, "edge", &found("place-0-0", Some(&metric)), HitOutcome::Within, 1);
            }
            let known = meter.domains["edge"].read().unwrap().len();
            assert_eq!(known, NAMES_MAX);
        }
        let series = series(&telemetry);
        assert_eq!(series.len(), LIMIT_LABELS_MAX + DETAILED_LABELS_MAX + 1);
        assert!(series.contains(&format!(
            r#"{}{{domain="other",limit="other",outcome="within"}} {LIMIT_LABELS_MAX}"#,
            names::RATE_LIMIT_HITS
        )));
    }

    #[test]
    fn outcomes_are_listed_in_the_order_of_their_discriminants() {
        for (index, outcome) in HitOutcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index);
        }
    }
}
