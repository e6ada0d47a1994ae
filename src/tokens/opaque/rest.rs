//! When an issuer that fails is left alone, and for how long.

use crate::domain::time::Micros;

/// Failures in a row before it is left alone: one may be chance.
const FAILURES_MAX: u32 = 3;

/// The first rest. Each failure after it doubles the next.
const REST_MIN: Micros = Micros::from_secs(1);

const REST_MAX: Micros = Micros::from_secs(30);

/// The longest rest that an issuer can ask for.
const ASKED_MAX: Micros = Micros::from_secs(60);

/// What a failure says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setback {
    /// It failed; the next call may fare better.
    Chance,
    /// Nothing will be better soon. It may have said when.
    Plain(Option<Micros>),
}

/// How an issuer has fared.
#[derive(Debug, Default)]
pub(super) struct Rest {
    failures: u32,
    /// When it may be asked again, by the steady clock; none: it is not left alone.
    until: Option<Micros>,
    /// Whether one call finds out, after a rest, how it is.
    probing: bool,
}

impl Rest {
    /// Whether it may be asked now. After a rest, by one call at a time until that has ended.
    pub(super) fn may_ask(&mut self, now: Micros) -> bool {
        match self.until {
            None => true,
            Some(until) if now < until || self.probing => false,
            Some(_) => {
                self.probing = true;
                true
            }
        }
    }

    /// It gave an answer.
    pub(super) fn succeed(&mut self) {
        *self = Self::default();
    }

    /// A call has ended in nothing that says how it is.
    pub(super) fn learn_nothing(&mut self) {
        self.probing = false;
    }

    /// It failed. What fails during a rest was under way when that began, and says no more than what led to it: only
    /// how long the issuer wants to be left alone.
    pub(super) fn fail(&mut self, setback: Setback, now: Micros) {
        if self.until.is_some_and(|until| now < until) {
            if let Setback::Plain(Some(asked)) = setback {
                self.until = self.until.max(Some(now + asked.min(ASKED_MAX)));
            }
            return;
        }
        self.failures = self.failures.saturating_add(1);
        self.probing = false;
        let asked = match setback {
            Setback::Chance if self.failures < FAILURES_MAX => return,
            Setback::Chance => None,
            Setback::Plain(asked) => asked,
        };
        let doublings = self.failures.saturating_sub(FAILURES_MAX).min(5);
        let own = Micros(REST_MIN.0 << doublings).min(REST_MAX);
        let rest = asked.map_or(own, |asked| asked.min(ASKED_MAX).max(own));
        self.until = Some(now + rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(secs: u64) -> Micros {
        Micros::from_secs(secs)
    }

    #[test]
    fn a_failure_or_two_are_chance_and_the_third_leads_to_a_rest() {
        let mut rest = Rest::default();
        for _ in 0..2 {
            rest.fail(Setback::Chance, at(0));
            assert!(rest.may_ask(at(0)));
        }
        rest.fail(Setback::Chance, at(0));
        assert!(!rest.may_ask(Micros(999_999)));
        assert!(rest.may_ask(at(1)));
    }

    #[test]
    fn after_a_rest_one_call_at_a_time_finds_out() {
        let mut rest = Rest::default();
        rest.fail(Setback::Plain(None), at(0));
        assert!(rest.may_ask(at(1)) && !rest.may_ask(at(1)));
        rest.learn_nothing();
        assert!(rest.may_ask(at(1)));
        rest.succeed();
        assert!(rest.may_ask(at(1)) && rest.may_ask(at(1)));
    }

    #[test]
    fn calls_that_were_under_way_when_a_rest_began_do_not_make_it_longer() {
        let mut rest = Rest::default();
        for _ in 0..64 {
            rest.fail(Setback::Chance, at(0));
        }
        assert!(rest.may_ask(at(1)), "one outage of a moment is one rest of a second");
        rest.fail(Setback::Chance, at(1));
        rest.fail(Setback::Plain(Some(at(10))), at(2));
        assert!(!rest.may_ask(Micros(at(12).0 - 1)), "but what the issuer asks for counts");
        assert!(rest.may_ask(at(12)));
    }

    #[test]
    fn rests_double_up_to_half_a_minute_and_what_the_issuer_asks_for_counts_up_to_a_minute() {
        let mut rest = Rest::default();
        let mut rests = Vec::new();
        let mut now = 0;
        for _ in 0..12 {
            rest.fail(Setback::Plain(None), at(now));
            let asked = (1..100).find(|&secs| rest.may_ask(at(now + secs)));
            now += asked.unwrap_or_default();
            rests.push(asked);
        }
        let expected = [1, 1, 1, 2, 4, 8, 16, 30, 30, 30, 30, 30].map(Some);
        assert_eq!(rests, expected);
        for (asked, secs) in [(7, 7), (0, 1), (3600, 60)] {
            let mut rest = Rest::default();
            rest.fail(Setback::Plain(Some(at(asked))), at(0));
            assert!(!rest.may_ask(Micros(at(secs).0 - 1)) && rest.may_ask(at(secs)), "{asked}");
        }
    }
}
