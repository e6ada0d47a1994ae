//! What is paid, counted and told of limits by descriptors, by a till that remembers what it was asked.

use std::collections::BTreeSet;

use smallvec::{SmallVec, smallvec};

use super::*;
use crate::decide::ports::{Away, AwayCause, Charge, Hit, Hits, Refunds, Settlements};
use crate::domain::ratelimit::{
    Descriptor as Described, DescriptorLimit, Domain, Entry, Level, RateLimitMode, RateLimits, Shown, Unit,
};

/// Grants everything but what it was told not to.
#[derive(Default)]
struct Till {
    over: Mutex<BTreeSet<&'static str>>,
    away: AtomicBool,
    asked: Mutex<Vec<String>>,
}

impl Till {
    /// The value that selects the counter is all that is interesting of it.
    fn note(&self, what: &str, counters: impl Iterator<Item = (CounterKey, u64)>) {
        let one = |(key, units): (CounterKey, u64)| {
            let key = String::from_utf8_lossy(key.as_bytes()).into_owned();
            format!("{units} of {}", key.rsplit(':').next().unwrap())
        };
        let counters: Vec<String> = counters.map(one).collect();
        self.asked.lock().unwrap().push(format!("{what} {}", counters.join(", ")));
    }

    fn state(&self, limit: &Arc<Limit>, key: &CounterKey) -> QuotaState {
        let key = String::from_utf8_lossy(key.as_bytes()).into_owned();
        let over = self.over.lock().unwrap().iter().any(|over| key.ends_with(over));
        let (verdict, remaining) = match (self.away.load(Ordering::Relaxed), over) {
            (true, _) => (QuotaVerdict::Away, 0),
            (false, true) => (QuotaVerdict::Short { retry_after: Micros::from_secs(9) }, 0),
            (false, false) => (QuotaVerdict::Granted, 7),
        };
        QuotaState { limit: Arc::clone(limit), verdict, remaining, reset_after: Micros(1_500_000) }
    }

    fn paid(&self, charges: &Charges) -> Answer<'_, Payment> {
        let states: QuotaStates = charges.iter().map(|charge| self.state(&charge.limit, &charge.key)).collect();
        Answer::Now(Payment { reason: Reason::Allowed, states, asked: false, away: false, held: None })
    }
}

fn counters(charges: &Charges) -> impl Iterator<Item = (CounterKey, u64)> {
    charges.iter().map(|Charge { key, units, .. }| (key.clone(), *units))
}

impl Quotas for Till {
    fn pay(&self, charges: Charges, _: Moment) -> Answer<'_, Payment> {
        self.note("pay", counters(&charges));
        self.paid(&charges)
    }

    fn peek(&self, charges: Charges, _: Moment) -> Answer<'_, Payment> {
        self.note("peek", counters(&charges));
        self.paid(&charges)
    }

    fn reserve(&self, _: Charges, _: Micros, _: Moment) -> Answer<'_, Payment> {
        unreachable!("descriptors reserve nothing")
    }

    fn hit(&self, hits: Hits, _: Moment) -> Answer<'_, QuotaStates> {
        self.note("hit", hits.iter().map(|Hit { key, hits, .. }| (key.clone(), *hits)));
        Answer::Now(hits.iter().map(|hit| self.state(&hit.limit, &hit.key)).collect())
    }

    fn settle(&self, _: Settlements, _: Moment) -> Answer<'_, Result<(), Away>> {
        unreachable!("descriptors reserve nothing")
    }

    fn refund(&self, charges: Charges, _: Moment) -> Answer<'_, Result<Refunds, Away>> {
        self.note("refund", counters(&charges));
        let away = self.away.load(Ordering::Relaxed);
        let refunds = charges.iter().map(|charge| charge.units).collect();
        Answer::Now(if away { Err(Away { because: AwayCause::Unreachable }) } else { Ok(refunds) })
    }

    fn reset(&self, _: Arc<Limit>, _: CounterKey) -> Answer<'_, Result<(), Away>> {
        unreachable!("descriptors reset nothing")
    }
}

fn descriptor(name: &str, limits: &[Algorithm], change: impl FnOnce(&mut DescriptorLimit)) -> Described {
    let limits: Box<[Arc<Limit>]> =
        limits.iter().map(|algorithm| Arc::new(crate::domain::ratelimit::limit(*algorithm, WhenAway::Deny))).collect();
    let mut limit = DescriptorLimit {
        name: Some(name.into()),
        replaces: Box::default(),
        shown: limits.first().and_then(|limit| Shown::of(limit)),
        limits,
        shadow: false,
        quota_mode: false,
        detailed_metric: false,
        metric: name.into(),
    };
    change(&mut limit);
    Described { name: name.into(), limit: Some(Arc::new(limit)), ..Described::default() }
}

fn domain(mode: RateLimitMode) -> Domain {
    let minutely = mode.algorithm(100, Unit::Minute.length());
    let plain = |name: &str| descriptor(name, &[minutely], |_| {});
    let mut descriptors = Level::default();
    for one in [
        plain("a"),
        plain("b"),
        descriptor("shadow", &[minutely], |limit| limit.shadow = true),
        descriptor("quota", &[minutely], |limit| limit.quota_mode = true),
        descriptor("free", &[], |_| {}),
        descriptor("instead", &[minutely], |limit| limit.replaces = Box::new(["a".into(), "free".into()])),
        descriptor("two", &[minutely, RateLimitMode::Strict.algorithm(1_000, Micros::from_secs(90))], |_| {}),
    ] {
        assert!(descriptors.add(one));
    }
    Domain { name: "edge".into(), mode, descriptors, when_away: WhenAway::Deny }
}

struct Counter {
    till: Arc<Till>,
    decider: Decider,
    telemetry: Arc<Telemetry>,
}

impl Counter {
    fn new(mode: RateLimitMode, shadow: bool) -> Self {
        let (till, world, telemetry) =
            (Arc::new(Till::default()), Arc::new(World::default()), Arc::new(Telemetry::default()));
        let decider = Decider::new(
            Arc::clone(&world) as _,
            Arc::clone(&world) as _,
            world,
            Arc::new(ports::NoLog),
            Arc::clone(&till) as _,
            Arc::clone(&telemetry),
        );
        let domains = [("edge".into(), domain(mode))].into();
        decider.adopt(Policy {
            rate_limits: RateLimits { domains, shadow, ..RateLimits::default() },
            ..Policy::default()
        });
        Self { till, decider, telemetry }
    }

    /// Each descriptor has one entry, whose value is its key in upper case.
    fn ask(&self, asked: &[(&str, HitsAsked)]) -> RateLimited {
        let values: Vec<String> = asked.iter().map(|(key, _)| key.to_uppercase()).collect();
        let descriptors: SmallVec<[Descriptor<'_>; 4]> = asked
            .iter()
            .zip(&values)
            .map(|(&(key, hits), value)| Descriptor { entries: smallvec![Entry { key, value }], limit: None, hits })
            .collect();
        let question = RateLimitQuestion { domain: "edge", descriptors };
        self.decider.limit_rate(&question).get().now_or_never().unwrap()
    }

    /// What the till was asked since the last time.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.till.asked.lock().unwrap())
    }

    fn hits(&self, limit: &str, outcome: &str) -> bool {
        let series = format!(r#"tollgate_ratelimit_hits_total{{domain="edge",limit="{limit}",outcome="{outcome}"}}"#);
        self.telemetry.render().contains(&series)
    }
}

fn count(key: &str, hits: u64) -> (&str, HitsAsked) {
    (key, HitsAsked::Count(hits))
}

fn over(limited: &RateLimited) -> Vec<bool> {
    limited.statuses.iter().map(|status| status.over).collect()
}

#[test]
fn a_strict_domain_pays_all_at_once() {
    let counter = Counter::new(RateLimitMode::Strict, false);
    let limited = counter.ask(&[count("a", 2), count("two", 1), count("nothing", 1)]);
    assert_eq!((limited.reason, over(&limited)), (Reason::Allowed, vec![false; 3]));
    assert_eq!(counter.asked(), ["pay 2 of A, 1 of TWO, 1 of TWO"]);
    assert_eq!(limited.statuses[0].remaining, 7);
    assert_eq!(limited.statuses[0].reset_after, Some(Micros(1_500_000)));
    assert!(limited.statuses[2].limit.is_none());
    assert!(counter.hits("a", "within"));

    counter.till.over.lock().unwrap().insert("A");
    let limited = counter.ask(&[count("a", 1), count("b", 1)]);
    assert_eq!((limited.reason, over(&limited)), (Reason::QuotaExceeded, vec![true, false]));
    assert_eq!(limited.statuses[0].reset_after, Some(Micros::from_secs(9)), "when it fits");
    assert_eq!(counter.asked(), ["pay 1 of A, 1 of B"]);
    assert!(counter.hits("a", "over") && counter.hits("b", "spared") && !counter.hits("b", "within"));
}

#[test]
fn limits_that_refuse_nothing_are_paid_once_the_others_are() {
    let counter = Counter::new(RateLimitMode::Strict, false);
    counter.till.over.lock().unwrap().insert("SHADOW");
    let asked = [count("shadow", 1), count("a", 1), count("quota", 1)];
    let limited = counter.ask(&asked);
    assert_eq!((limited.reason, over(&limited)), (Reason::Allowed, vec![false; 3]));
    assert_eq!(counter.asked(), ["pay 1 of A", "pay 1 of SHADOW", "pay 1 of QUOTA"]);
    assert!(counter.hits("shadow", "shadow"));
    counter.till.over.lock().unwrap().insert("A");
    assert_eq!(counter.ask(&asked).reason, Reason::QuotaExceeded);
    assert_eq!(counter.asked(), ["pay 1 of A", "peek 1 of SHADOW", "peek 1 of QUOTA"], "nothing was used");
}

#[test]
fn what_is_over_its_quota_is_told_and_refused_nowhere() {
    for mode in [RateLimitMode::Strict, RateLimitMode::Compatible] {
        let counter = Counter::new(mode, false);
        assert_eq!(counter.ask(&[count("a", 1)]).over_quota(), None);
        assert_eq!(counter.ask(&[count("a", 1), count("quota", 1)]).over_quota(), Some(vec![]));
        counter.till.over.lock().unwrap().insert("QUOTA");
        let limited = counter.ask(&[count("a", 1), count("quota", 1)]);
        assert_eq!((limited.reason, over(&limited)), (Reason::Allowed, vec![false; 2]));
        assert_eq!(limited.over_quota(), Some(vec![1]));
    }
}

#[test]
fn where_nothing_is_refused_the_statuses_tell_what_would_be() {
    let counter = Counter::new(RateLimitMode::Strict, true);
    counter.till.over.lock().unwrap().insert("A");
    let limited = counter.ask(&[count("a", 1), count("b", 1)]);
    assert_eq!((limited.reason, over(&limited)), (Reason::Allowed, vec![true, false]));
    assert_eq!(counter.asked(), ["pay 1 of A", "pay 1 of B"]);
    assert!(counter.hits("a", "shadow") && counter.hits("b", "within"));
}

#[test]
fn no_hits_look_whether_there_is_room_and_nothing_is_paid_where_there_is_none() {
    let counter = Counter::new(RateLimitMode::Strict, false);
    assert_eq!(counter.ask(&[count("a", 0), count("b", 3)]).reason, Reason::Allowed);
    assert_eq!(counter.asked(), ["peek 1 of A", "pay 3 of B"]);
    counter.till.over.lock().unwrap().insert("A");
    let limited = counter.ask(&[count("a", 0), count("b", 3)]);
    assert_eq!((limited.reason, over(&limited)), (Reason::QuotaExceeded, vec![true, false]));
    assert_eq!(counter.asked(), ["peek 1 of A", "peek 3 of B"]);
}

#[test]
fn a_compatible_domain_counts_each_limit_by_itself() {
    let counter = Counter::new(RateLimitMode::Compatible, false);
    counter.till.over.lock().unwrap().insert("A");
    let limited = counter.ask(&[count("a", 5), count("b", 0), count("shadow", 1)]);
    assert_eq!((limited.reason, over(&limited)), (Reason::QuotaExceeded, vec![true, false, false]));
    assert_eq!(counter.asked(), ["hit 5 of A, 0 of B, 1 of SHADOW"]);
    assert!(counter.hits("a", "over") && counter.hits("shadow", "within"));
    // What counts otherwise is paid by itself.
    assert_eq!(counter.ask(&[count("two", 2), count("b", 1)]).reason, Reason::Allowed);
    assert_eq!(counter.asked(), ["hit 2 of TWO, 1 of B", "pay 2 of TWO"]);
    assert_eq!(counter.ask(&[count("two", 0)]).reason, Reason::Allowed);
    assert_eq!(counter.asked(), ["hit 0 of TWO", "peek 1 of TWO"]);
}

#[test]
fn what_is_taken_back_is_never_refused() {
    for (mode, last) in [(RateLimitMode::Strict, "peek 1 of A"), (RateLimitMode::Compatible, "hit 0 of A")] {
        let counter = Counter::new(mode, false);
        counter.till.over.lock().unwrap().insert("A");
        let limited = counter.ask(&[("a", HitsAsked::TakeBack(4))]);
        assert_eq!((limited.reason, over(&limited)), (Reason::Allowed, vec![false]));
        assert_eq!(counter.asked(), ["refund 4 of A", last]);
        assert!(counter.hits("a", "taken_back"));
        // Nor does it hold up what is asked beside it.
        assert_eq!(counter.ask(&[("a", HitsAsked::TakeBack(4)), count("b", 1)]).reason, Reason::Allowed);
        assert!(!counter.asked().concat().contains("peek 1 of B"), "it is paid");
        assert_eq!(counter.ask(&[("a", HitsAsked::TakeBack(0))]).reason, Reason::Allowed);
        assert_eq!(counter.asked(), [last]);
        counter.till.away.store(true, Ordering::Relaxed);
        let limited = counter.ask(&[("a", HitsAsked::TakeBack(4))]);
        assert_eq!((limited.reason, limited.statuses[0].reset_after), (Reason::StoreAway, None));
    }
}

#[test]
fn a_limit_may_replace_others_but_not_what_is_unlimited() {
    let counter = Counter::new(RateLimitMode::Strict, false);
    counter.till.over.lock().unwrap().insert("A");
    let limited = counter.ask(&[count("a", 1), count("instead", 1), count("free", 1)]);
    assert_eq!(limited.reason, Reason::Allowed);
    assert_eq!(counter.asked(), ["pay 1 of INSTEAD"]);
    let left: Vec<u64> = limited.statuses.iter().map(|status| status.remaining).collect();
    assert_eq!(left, [0, 7, u64::MAX]);
    assert!(limited.statuses[0].limit.is_none() && limited.statuses[2].limit.is_none());
}

#[test]
fn a_limit_that_a_request_brings_along_counts_instead() {
    let counter = Counter::new(RateLimitMode::Strict, false);
    let shown = Shown { requests_per_unit: 3, unit: Unit::Hour };
    let descriptors = smallvec![Descriptor {
        entries: smallvec![Entry { key: "shadow", value: "X" }],
        limit: Some(shown),
        hits: HitsAsked::Count(1),
    }];
    counter.till.over.lock().unwrap().insert("X");
    let question = RateLimitQuestion { domain: "edge", descriptors };
    let limited = counter.decider.limit_rate(&question).get().now_or_never().unwrap();
    assert_eq!(limited.reason, Reason::QuotaExceeded);
    assert_eq!(limited.statuses[0].shown(), Some(shown));
}

#[test]
fn nothing_is_limited_in_a_domain_that_there_is_none_of() {
    let counter = Counter::new(RateLimitMode::Strict, false);
    let descriptors = smallvec![Descriptor {
        entries: smallvec![Entry { key: "a", value: "" }],
        limit: Some(Shown { requests_per_unit: 0, unit: Unit::Hour }),
        hits: HitsAsked::Count(1),
    }];
    let question = RateLimitQuestion { domain: "edges", descriptors };
    let limited = counter.decider.limit_rate(&question).get().now_or_never().unwrap();
    assert_eq!((limited.reason, over(&limited)), (Reason::Allowed, vec![false]));
    let text = counter.telemetry.render();
    assert!(text.contains("tollgate_ratelimit_unknown_domain_total 1"), "{text}");
    assert!(
        text.contains(r#"tollgate_decisions_total{facade="ratelimit",outcome="allow",reason="allowed",rule="none"} 1"#)
    );
}

#[test]
fn headers_tell_of_what_is_over_or_else_closest_to_it() {
    let counter = Counter::new(RateLimitMode::Strict, false);
    let name = |limited: &RateLimited| limited.closest().unwrap().limit.as_ref().unwrap().name.clone().unwrap();
    assert_eq!(&*name(&counter.ask(&[count("free", 1), count("b", 1), count("a", 1)])), "b");
    counter.till.over.lock().unwrap().insert("A");
    assert_eq!(&*name(&counter.ask(&[count("b", 1), count("a", 1)])), "a");
    assert!(counter.ask(&[count("free", 1)]).closest().is_none());
}
