//! When an issuer's keys are fetched, and how long those in hand serve. Pure: time and chance are arguments.

use crate::domain::time::Micros;

/// What answers say about how long they are fresh is held between these bounds.
const LIFE_MIN: Micros = Micros::from_secs(60);
const LIFE_MAX: Micros = Micros::from_secs(600);

/// For answers that do not say.
const LIFE_DEFAULT: Micros = Micros::from_secs(300);

/// Time after a first failure; it doubles with each further one.
const BACK_OFF_MIN: Micros = Micros::from_secs(1);
const BACK_OFF_MAX: Micros = Micros::from_secs(60);

/// How often a file is looked at.
const FILE_LIFE: Micros = Micros::from_secs(5);

/// How many refreshes in a row must fail until the keys in hand count as stale.
const MISSED_UNTIL_STALE: u32 = 2;

/// How many times in a row an issuer must say that it has no keys until it is believed.
const EMPTY_UNTIL_BELIEVED: u32 = 2;

/// How long a fetched key set is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    /// As long as the answer's `max-age` says, or the default.
    MaxAge(Option<Micros>),
    /// It came from a file.
    File,
}

/// What happened to an issuer's keys so far, and what comes next. All moments are steady ones.
#[derive(Clone, Debug, Default)]
pub(super) struct Schedule {
    refreshed_at: Option<Micros>,
    /// How long what was fetched last is fresh.
    life: Micros,
    failures: u32,
    empties: u32,
    next_at: Micros,
}

impl Schedule {
    /// Nothing has been fetched, and fetching is due at once.
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Keys were fetched. The next fetch is due at four fifths of their life, give or take a tenth, so that replicas
    /// that started together drift apart. `chance` is between −1 and 1.
    pub(super) fn succeed(&mut self, now: Micros, freshness: Freshness, chance: f64) {
        let life = match freshness {
            Freshness::MaxAge(age) => age.unwrap_or(LIFE_DEFAULT).clamp(LIFE_MIN, LIFE_MAX),
            Freshness::File => FILE_LIFE,
        };
        let next_at = now + scaled(life, 0.8 * (1.0 + chance / 10.0));
        *self = Self { refreshed_at: Some(now), life, next_at, ..Self::new() };
    }

    /// Fetching failed; what is in hand stays.
    pub(super) fn fail(&mut self, now: Micros, chance: f64) {
        let doublings = self.failures.min(6);
        let wait = Micros(BACK_OFF_MIN.0 << doublings).min(BACK_OFF_MAX);
        self.failures = self.failures.saturating_add(1);
        self.empties = 0;
        self.next_at = now + scaled(wait, 1.0 + chance / 10.0);
    }

    /// The issuer answered that it has no keys. Whether to believe that: only when it says so again, no sooner than
    /// the shortest life later, for it may well have said so by mistake.
    pub(super) fn is_empty_believed(&mut self, now: Micros, has_keys: bool, chance: f64) -> bool {
        let empties = self.empties + 1;
        if has_keys && empties >= EMPTY_UNTIL_BELIEVED {
            self.succeed(now, Freshness::MaxAge(Some(LIFE_MIN)), chance);
            return true;
        }
        self.fail(now, chance);
        if has_keys {
            self.empties = empties;
            self.next_at = now + LIFE_MIN;
        }
        false
    }

    /// When the next fetch is due.
    pub(super) const fn next_at(&self) -> Micros {
        self.next_at
    }

    /// When keys were last fetched.
    pub(super) const fn refreshed_at(&self) -> Option<Micros> {
        self.refreshed_at
    }

    /// When the keys in hand end, unless others come; none where there are none. They are stale once their own life is
    /// over: counted from when they were fetched, a short `stale_for` would end them before they are due for renewal.
    pub(super) fn keys_end_at(&self, stale_for: Micros) -> Option<Micros> {
        self.refreshed_at.map(|at| at + self.life + stale_for)
    }

    /// Whether the last fetch failed.
    pub(super) const fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// Whether so many refreshes were missed that people should know.
    pub(super) const fn is_stale(&self) -> bool {
        self.failures >= MISSED_UNTIL_STALE && self.refreshed_at.is_some()
    }

    /// The keys in hand have ended.
    pub(super) const fn end(&mut self) {
        self.refreshed_at = None;
    }
}

fn scaled(time: Micros, factor: f64) -> Micros {
    #[expect(clippy::cast_precision_loss, reason = "minutes, in µs, are far below 2^53")]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the factor is between 0 and 2")]
    Micros((time.0 as f64 * factor) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Micros = Micros::from_secs(1_000);

    fn next_after(act: impl FnOnce(&mut Schedule)) -> u64 {
        let mut schedule = Schedule::new();
        act(&mut schedule);
        schedule.next_at().since(NOW).as_secs()
    }

    #[test]
    fn keys_are_renewed_at_four_fifths_of_their_life_between_one_and_ten_minutes() {
        for (max_age, secs) in [(None, 240), (Some(0), 48), (Some(100), 80), (Some(86_400), 480)] {
            let max_age = max_age.map(Micros::from_secs);
            assert_eq!(next_after(|it| it.succeed(NOW, Freshness::MaxAge(max_age), 0.0)), secs, "{max_age:?}");
        }
        assert_eq!(next_after(|it| it.succeed(NOW, Freshness::MaxAge(None), -1.0)), 216);
        assert_eq!(next_after(|it| it.succeed(NOW, Freshness::MaxAge(None), 1.0)), 264);
        assert_eq!(next_after(|it| it.succeed(NOW, Freshness::File, 0.0)), 4);
    }

    #[test]
    fn failures_are_retried_after_a_time_that_doubles_up_to_a_minute() {
        let mut schedule = Schedule::new();
        for secs in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
            schedule.fail(NOW, 0.0);
            assert_eq!(schedule.next_at().since(NOW).as_secs(), secs);
        }
        schedule.succeed(NOW, Freshness::MaxAge(None), 0.0);
        schedule.fail(NOW, 0.0);
        assert_eq!(schedule.next_at().since(NOW).as_secs(), 1, "a success starts over");
    }

    #[test]
    fn keys_are_stale_after_two_missed_refreshes_and_end_when_their_time_is_up() {
        let mut schedule = Schedule::new();
        schedule.fail(NOW, 0.0);
        schedule.fail(NOW, 0.0);
        assert!(!schedule.is_stale(), "there is nothing to be stale");
        assert_eq!(schedule.keys_end_at(Micros::from_secs(60)), None);
        schedule.succeed(NOW, Freshness::MaxAge(None), 0.0);
        schedule.fail(NOW, 0.0);
        assert!(schedule.is_failing() && !schedule.is_stale());
        schedule.fail(NOW, 0.0);
        assert!(schedule.is_stale());
        assert_eq!(schedule.keys_end_at(Micros::from_secs(60)), Some(NOW + Micros::from_secs(300 + 60)));
        schedule.end();
        assert_eq!(schedule.keys_end_at(Micros::from_secs(60)), None);
    }

    #[test]
    fn keys_never_end_before_a_refresh_has_failed() {
        let ages = [None, Some(0), Some(100), Some(86_400)].map(|age| Freshness::MaxAge(age.map(Micros::from_secs)));
        for freshness in ages.into_iter().chain([Freshness::File]) {
            let mut schedule = Schedule::new();
            schedule.succeed(NOW, freshness, 1.0);
            let end = schedule.keys_end_at(Micros::ZERO).unwrap_or_default();
            schedule.fail(schedule.next_at(), 1.0);
            assert!(schedule.next_at() < end || freshness == Freshness::File, "{freshness:?}: time for a second try");
            assert!(schedule.next_at() <= end + Micros::from_secs(1), "{freshness:?}");
        }
    }

    #[test]
    fn an_issuer_without_keys_is_believed_when_it_says_so_twice_in_a_row() {
        let mut schedule = Schedule::new();
        schedule.succeed(NOW, Freshness::MaxAge(None), 0.0);
        assert!(!schedule.is_empty_believed(NOW, true, 0.0));
        assert_eq!(schedule.next_at(), NOW + LIFE_MIN);
        schedule.fail(NOW, 0.0);
        assert!(!schedule.is_empty_believed(NOW, true, 0.0), "not in a row");
        assert!(schedule.is_empty_believed(NOW, true, 0.0));
        assert!(!schedule.is_failing());
        let mut fresh = Schedule::new();
        for _ in 0..3 {
            assert!(!fresh.is_empty_believed(NOW, false, 0.0), "with nothing in hand there is nothing to give up");
        }
    }
}
