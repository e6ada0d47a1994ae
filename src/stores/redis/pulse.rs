//! Who is there, and whether Redis still has the data that was charged to.
//!
//! An epoch names the data: a random text under a key of its own, which is gone when the data is. A cluster's data is on
//! several nodes, so there are several such places, evenly over the slots; each moves with its slot. They are looked at
//! over each new connection before anything is charged over it, and with each pulse. Units are charged only while every
//! place has the epoch that knows what was admitted.

use std::hash::{BuildHasher as _, RandomState};
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ::redis::aio::MultiplexedConnection;
use ::redis::{ErrorKind, RedisError, ServerErrorKind, cmd};
use futures_util::future::join_all;

use super::nodes::Outcome;
use super::script::Call;
use super::slots::{SLOTS, slot_of};
use super::{Inner, nothing, packed, state_key, tag};
use crate::decide::ports::{Away, AwayCause, Beat, Charge, Charges, Epoch, Pulse, Request};
use crate::domain::limit::{Algorithm, CounterKey};
use crate::domain::time::{Micros, Moment};
use crate::domain::window::{LeaseId, Terms};

/// How many places a cluster has: the loss of a node that has so large a part of the slots is missed. One server has
/// the first place only.
const PLACES: usize = 32;

/// How many names are tried for each place: a thirty-second of them falls on it.
const NAMES_MAX: u32 = 4_096;

/// A replica that has not been heard of for so long is not there any more: some pulses may get lost.
const SEEN_FOR: Micros = Micros::from_secs(5);

/// The most replicas that are counted. Beyond, those that were heard of longest ago are left out.
const REPLICAS_MAX: usize = 1_000;

/// An epoch as Redis has it: 16 hexadecimal digits.
const EPOCH_DIGITS: usize = 16;

/// An epoch that no data has.
const NOWHERE: [u8; EPOCH_DIGITS] = [b'0'; EPOCH_DIGITS];

/// The epochs of all places; zero where none is known.
type Epochs = [u64; PLACES];

/// Which data knows what was admitted.
pub(super) struct Trust {
    places: [Place; PLACES],
    found: Mutex<Found>,
}

struct Place {
    name: CounterKey,
    /// The epoch that is there, as far as is known.
    seen: AtomicU64,
    /// The epoch that knows what was admitted; zero while nobody has said.
    trusted: AtomicU64,
}

/// What the latest beat found. One name stands for the epochs of all places.
#[derive(Default)]
struct Found {
    epochs: Epochs,
    name: Option<Epoch>,
    /// The name of those that are trusted.
    trusted: Option<Epoch>,
}

impl Trust {
    pub(super) fn new() -> Self {
        let place = |index| Place { name: name_of(index), seen: AtomicU64::default(), trusted: AtomicU64::default() };
        Self { places: std::array::from_fn(place), found: Mutex::default() }
    }

    /// Whether units may be charged.
    pub(super) fn check(&self) -> Result<(), Away> {
        let lost = |place: &Place| {
            let trusted = place.trusted();
            trusted != 0 && trusted != place.seen.load(Ordering::Acquire)
        };
        if self.places.iter().any(lost) { Err(Away { because: AwayCause::Lost }) } else { Ok(()) }
    }

    /// Looks which epochs are behind a new connection, of those that are trusted.
    pub(super) async fn look(&self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        for place in self.places.iter().filter(|place| place.trusted() != 0) {
            match cmd("GET").arg(place.epoch_key()).query_async::<Option<Vec<u8>>>(connection).await {
                Ok(epoch) => place.see(epoch.as_deref().and_then(read)),
                Err(error) if is_elsewhere(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// For each place the epoch that a pulse names there; nothing where it names data that is not known.
    fn named(&self, epoch: Option<Epoch>) -> Option<Epochs> {
        let Some(epoch) = epoch else { return Some([0; PLACES]) };
        let mut found = self.found();
        if found.name == Some(epoch) {
            self.trust(&mut found);
        }
        (found.trusted == Some(epoch)).then(|| self.places.each_ref().map(Place::trusted))
    }

    /// Takes over what was found at some of the places, and answers with the name of it all. A place that was out of reach
    /// until now has lost nothing; and whoever has admitted nothing trusts all that it finds.
    fn find(&self, beats: &[(usize, Beat)], begins: bool) -> Option<Epoch> {
        let mut found = self.found();
        for &(index, Beat { epoch, .. }) in beats {
            let place = &self.places[index];
            let known = std::mem::replace(&mut found.epochs[index], epoch.0.get());
            place.see(Some(epoch));
            if known == 0 {
                place.trusted.store(epoch.0.get(), Ordering::Release);
            }
            if found.name.is_none() || (known != 0 && known != epoch.0.get()) {
                found.name = Some(epoch);
            }
        }
        if begins || found.trusted.is_none() {
            self.trust(&mut found);
        }
        found.name
    }

    fn trust(&self, found: &mut Found) {
        for (place, &epoch) in self.places.iter().zip(&found.epochs) {
            place.trusted.store(epoch, Ordering::Release);
        }
        found.trusted = found.name;
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    fn epoch_key(&self) -> Vec<u8> {
        [tag(&self.name), b":epoch".into()].concat()
    }

    fn replicas_key(&self) -> Vec<u8> {
        [tag(&self.name), b":replicas".into()].concat()
    }

    fn trusted(&self) -> u64 {
        self.trusted.load(Ordering::Acquire)
    }

    fn see(&self, epoch: Option<Epoch>) {
        self.seen.store(epoch.map_or(0, |epoch| epoch.0.get()), Ordering::Release);
    }
}

impl Inner {
    pub(super) async fn beat_later(&self, pulse: Pulse, now: Moment) -> Result<Beat, Away> {
        let named = self.trust.named(pulse.epoch);
        let places = if self.nodes.are_one() { 1 } else { PLACES };
        let calls: Vec<Call> = (0..places).map(|place| self.beat_call(place, pulse, named.as_ref(), now)).collect();
        let answers = join_all(calls.iter().map(|call| self.nodes.run(&self.beat, call))).await;
        let mut beats: Vec<(usize, Beat)> = Vec::new();
        let mut away = Away { because: AwayCause::Unreachable };
        for (place, answer) in answers.into_iter().enumerate() {
            match answer {
                Ok(Outcome::Done(bytes)) => {
                    beats.push((place, beat(&bytes).ok_or(Away { because: AwayCause::Garbled })?));
                }
                // It has just turned out to be a cluster.
                Ok(Outcome::Spread) => {}
                Err(because) => away = because,
            }
        }
        let epoch = self.trust.find(&beats, pulse.epoch.is_none());
        // A node that is away has nothing to say; the others' word counts.
        let replicas = beats.iter().map(|(_, beat)| beat.replicas).max().ok_or(away)?;
        let told = beats.iter().map(|(_, beat)| beat.told).min().ok_or(away)?;
        // Where nothing was lost, nobody had anything to tell.
        let fresh = beats.iter().map(|(_, beat)| beat.fresh).min().ok_or(away)?;
        Ok(Beat { epoch: epoch.ok_or(away)?, replicas, told, fresh })
    }

    fn beat_call(&self, place: usize, pulse: Pulse, named: Option<&Epochs>, now: Moment) -> Call {
        let named = match named.map(|epochs| epochs[place]) {
            None => NOWHERE.into(),
            // Nothing was admitted there.
            Some(0) => Vec::new(),
            Some(epoch) => digits(epoch),
        };
        let place = &self.trust.places[place];
        Call {
            keys: vec![place.replicas_key(), place.epoch_key()],
            args: vec![
                self.time_argument(now),
                pulse.replica.to_le_bytes().into(),
                named,
                digits(RandomState::new().hash_one("epoch").max(1)),
                SEEN_FOR.0.to_string().into_bytes(),
                REPLICAS_MAX.to_string().into_bytes(),
            ],
            ..Call::default()
        }
    }

    pub(super) async fn assert_later(&self, charges: Charges, now: Moment) -> Result<(), Away> {
        // Slots are held by name: their number alone says nothing.
        let told = charges.into_iter().filter(|charge| !matches!(charge.limit.algorithm, Algorithm::Concurrency(_)));
        let told: Charges = told.collect();
        if told.is_empty() {
            return Ok(());
        }
        let call = |charges: &[Charge]| {
            let mut call = Call::default();
            call.args.push(self.time_argument(now));
            for Charge { limit, key, units } in charges.iter().cloned() {
                call.keys.push(state_key(&key, limit.algorithm));
                let lease = LeaseId { replica: 0, serial: 0 };
                let terms = Terms { at_least: units, at_most: units, hold: Micros::ZERO, lease };
                call.args.push(packed(&Request { limit, key, terms }));
            }
            call
        };
        let (answers, _) = self.ask(&self.assert, &told, call, |_, count| Some(nothing(count))).await;
        answers.into_iter().collect()
    }
}

/// The name of a place in the given part of the slots. No configured limit has a name with a space, so no counter is called
/// like that.
fn name_of(place: usize) -> CounterKey {
    let name = |number: u32| {
        let mut name = CounterKey::new(" beat");
        name.push_display(number);
        name
    };
    let falls_there = |name: &CounterKey| usize::from(slot_of(&tag(name))) * PLACES / usize::from(SLOTS) == place;
    (0..NAMES_MAX).map(name).find(falls_there).unwrap_or_else(|| name(0))
}

/// Whether a node of a cluster has not got the key's slot.
fn is_elsewhere(error: &RedisError) -> bool {
    let elsewhere = [ServerErrorKind::Moved, ServerErrorKind::Ask, ServerErrorKind::TryAgain];
    elsewhere.into_iter().any(|kind| error.kind() == ErrorKind::Server(kind))
}

fn digits(epoch: u64) -> Vec<u8> {
    format!("{epoch:016x}").into_bytes()
}

fn read(text: &[u8]) -> Option<Epoch> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() == EPOCH_DIGITS)?;
    u64::from_str_radix(text, 16).ok().and_then(NonZeroU64::new).map(Epoch)
}

/// Three numbers and an epoch; nothing where they make no sense.
fn beat(answer: &[u8]) -> Option<Beat> {
    let (numbers, epoch) = answer.split_at_checked(24)?;
    let (numbers, _) = numbers.as_chunks::<8>();
    let &[replicas, told, fresh] = numbers else { return None };
    let [replicas, told, fresh] = [replicas, told, fresh].map(|number| u32::try_from(u64::from_le_bytes(number)).ok());
    let (replicas, told, fresh) = (replicas?, told?, fresh?);
    let sound = replicas > 0 && told <= replicas && fresh <= told;
    sound.then_some(Beat { epoch: read(epoch)?, replicas, told, fresh })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beat_that_makes_no_sense_is_not_taken_for_one() {
        let counted = |numbers: [u64; 3], epoch: &[u8]| [numbers.map(u64::to_le_bytes).as_flattened(), epoch].concat();
        let answer = |replicas, told, epoch: &[u8]| counted([replicas, told, 1], epoch);
        let good = b"00000000000000ff";
        let heard = NonZeroU64::new(255).map(|epoch| Beat { epoch: Epoch(epoch), replicas: 3, told: 2, fresh: 1 });
        assert_eq!(beat(&answer(3, 2, good)), heard);
        for nonsense in [
            counted([2, 1, 2], good),
            answer(0, 0, good),
            answer(1, 2, good),
            answer(1 << 40, 2, good),
            answer(3, 2, &good[1..]),
        ] {
            assert_eq!(beat(&nonsense), None);
        }
        for epoch in [&NOWHERE[..], b"000000000000000g", b"\xff\xfe000000000000ff"] {
            assert_eq!(beat(&answer(3, 2, epoch)), None);
        }
        assert_eq!(beat(&answer(3, 2, good)[..9]), None);
    }

    #[test]
    fn the_places_are_spread_evenly_over_the_slots() {
        let trust = Trust::new();
        for (index, place) in trust.places.iter().enumerate() {
            assert_eq!(usize::from(slot_of(&place.epoch_key())) / (usize::from(SLOTS) / PLACES), index);
            assert_eq!(slot_of(&place.epoch_key()), slot_of(&place.replicas_key()));
        }
    }
}
