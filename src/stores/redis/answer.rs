//! What the scripts answer of counters: doubles, and a byte for each outcome.

use smallvec::SmallVec;

use super::Answers;
use super::leases::Told;
use crate::decide::ports::Refunds;
use crate::domain::question::Mode;
use crate::domain::time::Micros;
use crate::domain::window::{Grant, Outcome};

/// Takes a number off the front of an answer; nothing where there is none, or one that is no count.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole number below 2^53")]
fn pull(answer: &mut &[u8]) -> Option<u64> {
    let (number, rest) = answer.split_first_chunk()?;
    *answer = rest;
    let number = f64::from_le_bytes(*number);
    ((0.0..EXACT_END).contains(&number) && number.fract() == 0.0).then_some(number as u64)
}

/// 2^53: whole numbers below it are exact as doubles.
const EXACT_END: f64 = 9_007_199_254_740_992.0;

/// One number for each counter; nothing where they make no sense.
pub(super) fn refunds(mut answer: &[u8], counters: usize) -> Option<Refunds> {
    let refunds = (0..counters).map(|_| pull(&mut answer)).collect::<Option<_>>()?;
    answer.is_empty().then_some(refunds)
}

/// What is said of each counter; nothing where it makes no sense. It tells of before the charge and of after it, because
/// the script does not know at the first counter what the last one says. With each lease that was charged, what is told
/// of it.
pub(super) fn grants(mut answer: &[u8], counters: usize, mode: Mode) -> Option<Answers<(Grant, Option<Told>)>> {
    let said: SmallVec<[Said; 4]> = (0..counters).map(|_| Said::pull(&mut answer)).collect::<Option<_>>()?;
    let is_granted = |said: &Said| matches!(said.outcome, Outcome::Granted { .. });
    let charged = mode == Mode::Consume && said.iter().all(is_granted);
    answer.is_empty().then_some(())?;
    said.into_iter().map(|said| said.grant(charged).map(Ok)).collect()
}

/// What the script says of one counter.
struct Said {
    outcome: Outcome,
    /// Units, before the charge.
    left: u64,
    /// Until some units return, before the charge.
    returns: Micros,
    /// The same after it.
    returns_then: Micros,
    /// Of a lease.
    told: Option<Told>,
}

impl Said {
    /// Takes it off the front of the answer.
    fn pull(answer: &mut &[u8]) -> Option<Self> {
        let (kind, rest) = answer.split_first()?;
        *answer = rest;
        let value = pull(answer)?;
        let (left, returns, returns_then) = (pull(answer)?, Micros(pull(answer)?), Micros(pull(answer)?));
        let (outcome, told) = match kind {
            0 => (Outcome::Granted { units: value }, None),
            1 => (Outcome::Short { retry_after: Micros(value) }, None),
            2 => (Outcome::Never, None),
            3 => {
                let told = Told { units: value, expires: pull(answer)?, epoch: pull(answer)? };
                (Outcome::Granted { units: value }, Some(told))
            }
            _ => return None,
        };
        Some(Self { outcome, left, returns, returns_then, told })
    }

    fn grant(self, charged: bool) -> Option<(Grant, Option<Told>)> {
        let Self { outcome, left, returns, returns_then, told } = self;
        let (remaining, reset_after, told) = match outcome {
            Outcome::Granted { units: units @ 1.. } if charged => (left.checked_sub(units)?, returns_then, told),
            Outcome::Granted { .. } | Outcome::Short { .. } | Outcome::Never => (left, returns, None),
        };
        Some((Grant { outcome, remaining, reset_after }, told))
    }
}

#[cfg(test)]
mod tests {
    use super::super::push;
    use super::*;

    /// As the script packs what it says of each counter.
    fn answer(counters: &[(u8, &[u64])]) -> Vec<u8> {
        let mut answer = Vec::new();
        for (outcome, numbers) in counters {
            answer.push(*outcome);
            push(&mut answer, numbers);
        }
        answer
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_not_taken_for_one() {
        let short = Grant { outcome: Outcome::Short { retry_after: Micros(7) }, remaining: 0, reset_after: Micros(3) };
        let read = |outcome, numbers: &[u64], counters| grants(&answer(&[(outcome, numbers)]), counters, Mode::Consume);
        assert_eq!(read(1, &[7, 0, 3, 0], 1).as_deref(), Some(&[Ok((short, None))][..]));
        assert_eq!(read(4, &[7, 0, 3, 0], 1), None);
        assert_eq!(read(0, &[2, 1, 3, 4], 1), None);
        assert_eq!(read(0, &[1, 2, 3, 4], 2), None);
        assert_eq!(read(0, &[1, 2, 3], 1), None);
        assert_eq!(read(0, &[1, 2, 3, 4, 8, 9], 1), None);
        assert_eq!(read(3, &[1, 2, 3, 4], 1), None);
        assert_eq!(read(0, &[1, 2, 3, 1 << 53], 1), None);
        assert_eq!(grants(&answer(&[(0, &[1, 2, 3, 4])])[1..], 1, Mode::Consume), None);
        for number in [-1.0, 0.5, f64::NAN, f64::INFINITY] {
            let odd = [&answer(&[(0, &[1, 2, 3])])[..], &number.to_le_bytes()].concat();
            assert_eq!(grants(&odd, 1, Mode::Consume), None, "{number}");
        }
    }

    #[test]
    fn what_is_left_is_told_as_of_after_the_charges_only_if_all_granted() {
        let told = |said: &[(u8, &[u64])], mode| {
            let grants = grants(&answer(said), said.len(), mode).into_iter().flatten().flatten();
            grants.map(|(grant, told)| (grant.remaining, grant.reset_after.0, told)).collect::<Vec<_>>()
        };
        let granted: (u8, &[u64]) = (0, &[2, 9, 5, 4]);
        let lease: (u8, &[u64]) = (3, &[2, 9, 5, 4, 8, 6]);
        assert_eq!(told(&[granted], Mode::Consume), [(7, 4, None)]);
        assert_eq!(told(&[lease], Mode::Consume), [(7, 4, Some(Told { units: 2, expires: 8, epoch: 6 }))]);
        assert_eq!(told(&[lease], Mode::Peek), [(9, 5, None)]);
        let refused: (u8, &[u64]) = (1, &[7, 0, 3, 0]);
        assert_eq!(told(&[lease, refused], Mode::Consume), [(9, 5, None), (0, 3, None)]);
    }
}
