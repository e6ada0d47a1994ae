//! Who is there, and whether Redis still has the data that was charged to.
//!
//! An epoch names the data: a random text under a key of its own, which is gone when the data is. It is read over each
//! new connection before anything is charged over it, and with each pulse. Units are charged only over a connection
//! whose epoch is the one that the latest pulse named: whoever admitted something has told it what.

use std::hash::{BuildHasher as _, RandomState};
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};

use ::redis::aio::MultiplexedConnection;
use ::redis::{RedisError, cmd};

use super::link::Line;
use super::{Call, RedisStore, packed, state_key};
use crate::decide::ports::{Away, AwayCause, Beat, Charge, Charges, Epoch, Pulse, Request};
use crate::domain::limit::Algorithm;
use crate::domain::time::{Micros, Moment};
use crate::domain::window::{LeaseId, Terms};

/// No configured limit has a name with a space, so no counter's key begins like these. They share a hash tag.
const REPLICAS_KEY: &[u8] = b"tollgate:{ beat}:replicas";
const EPOCH_KEY: &[u8] = b"tollgate:{ beat}:epoch";

/// A replica that has not been heard of for so long is not there any more: some pulses may get lost.
const SEEN_FOR: Micros = Micros::from_secs(5);

/// The most replicas that are counted. Beyond, those that were heard of longest ago are left out.
const REPLICAS_MAX: usize = 1_000;

/// An epoch as Redis has it: 16 hexadecimal digits.
const EPOCH_DIGITS: usize = 16;

/// The epoch that knows what was admitted; zero while nobody has said.
#[derive(Default)]
pub(super) struct Trust(AtomicU64);

impl Trust {
    /// Whether units may be charged over `line`.
    pub(super) fn reaches(&self, line: &Line) -> Result<(), Away> {
        match self.0.load(Ordering::Acquire) {
            0 => Ok(()),
            trusted if trusted == line.epoch.load(Ordering::Acquire) => Ok(()),
            _ => Err(Away { because: AwayCause::Lost }),
        }
    }

    /// A replica that has admitted nothing yet trusts the first epoch that it hears of.
    fn begin(&self, epoch: Epoch) {
        let _ = self.0.compare_exchange(0, epoch.0.get(), Ordering::AcqRel, Ordering::Relaxed);
    }
}

impl RedisStore {
    pub(super) async fn beat_later(&self, pulse: Pulse, now: Moment) -> Result<Beat, Away> {
        if let Some(epoch) = pulse.epoch {
            self.trust.0.store(epoch.0.get(), Ordering::Release);
        }
        let call = Call {
            keys: vec![REPLICAS_KEY.into(), EPOCH_KEY.into()],
            args: vec![
                self.time_argument(now),
                pulse.replica.to_le_bytes().into(),
                pulse.epoch.map(digits).unwrap_or_default(),
                digits(fresh()),
                SEEN_FOR.0.to_string().into_bytes(),
                REPLICAS_MAX.to_string().into_bytes(),
            ],
        };
        let line = self.link.line().await?;
        let answer = self.run_over(line.clone(), &self.scripts.beat, &call).await?;
        let beat = beat(&answer).ok_or(Away { because: AwayCause::Garbled })?;
        line.epoch.store(beat.epoch.0.get(), Ordering::Release);
        if pulse.epoch.is_none() {
            self.trust.begin(beat.epoch);
        }
        Ok(beat)
    }

    pub(super) async fn assert_later(&self, charges: Charges, now: Moment) -> Result<(), Away> {
        let mut call = Call::default();
        call.args.push(self.time_argument(now));
        // Slots are held by name: their number alone says nothing.
        let told = charges.into_iter().filter(|charge| !matches!(charge.limit.algorithm, Algorithm::Concurrency(_)));
        for Charge { limit, key, units } in told {
            call.keys.push(state_key(&key, limit.algorithm));
            let lease = LeaseId { replica: 0, serial: 0 };
            let terms = Terms { at_least: units, at_most: units, hold: Micros::ZERO, lease };
            call.args.push(packed(&Request { limit, key, terms }));
        }
        let line = self.link.line().await?;
        self.run_over(line, &self.scripts.assert, &call).await.map(|_| ())
    }
}

/// The epoch of the data behind a new connection; a new one where there is none.
pub(super) async fn epoch_of(connection: &mut MultiplexedConnection) -> Result<Epoch, RedisError> {
    // Read first: a server that takes no writes may know it all the same.
    let mut known: Option<Vec<u8>> = cmd("GET").arg(EPOCH_KEY).query_async(connection).await?;
    if known.is_none() {
        let mut command = cmd("SET");
        command.arg(EPOCH_KEY).arg(digits(fresh())).arg("NX");
        let _: Option<String> = command.query_async(connection).await?;
        known = cmd("GET").arg(EPOCH_KEY).query_async(connection).await?;
    }
    known.as_deref().and_then(read).ok_or_else(|| (::redis::ErrorKind::UnexpectedReturnType, "no epoch").into())
}

fn fresh() -> Epoch {
    Epoch(NonZeroU64::new(RandomState::new().hash_one("epoch")).unwrap_or(NonZeroU64::MAX))
}

fn digits(Epoch(epoch): Epoch) -> Vec<u8> {
    format!("{epoch:016x}").into_bytes()
}

fn read(text: &[u8]) -> Option<Epoch> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() == EPOCH_DIGITS)?;
    u64::from_str_radix(text, 16).ok().and_then(NonZeroU64::new).map(Epoch)
}

/// Two numbers and an epoch; nothing where they make no sense.
fn beat(answer: &[u8]) -> Option<Beat> {
    let (replicas, rest) = answer.split_first_chunk()?;
    let (told, epoch) = rest.split_first_chunk()?;
    let [replicas, told] = [replicas, told].map(|number| u32::try_from(u64::from_le_bytes(*number)).ok());
    let (replicas, told) = (replicas?, told?);
    (replicas > 0 && told <= replicas).then_some(Beat { epoch: read(epoch)?, replicas, told })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beat_that_makes_no_sense_is_not_taken_for_one() {
        let answer =
            |replicas: u64, told: u64, epoch: &[u8]| [&replicas.to_le_bytes()[..], &told.to_le_bytes(), epoch].concat();
        let good = b"00000000000000ff";
        let heard = NonZeroU64::new(255).map(|epoch| Beat { epoch: Epoch(epoch), replicas: 3, told: 2 });
        assert_eq!(beat(&answer(3, 2, good)), heard);
        for nonsense in [answer(0, 0, good), answer(1, 2, good), answer(1 << 40, 2, good), answer(3, 2, &good[1..])] {
            assert_eq!(beat(&nonsense), None);
        }
        for epoch in [&b"0000000000000000"[..], b"000000000000000g", b"\xff\xfe000000000000ff"] {
            assert_eq!(beat(&answer(3, 2, epoch)), None);
        }
        assert_eq!(beat(&answer(3, 2, good)[..9]), None);
    }
}
