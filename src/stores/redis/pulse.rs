//! Who is there, and whether Redis still has the data that was charged to.
//!
//! An epoch names the data: a random text under a key of its own, which is gone when the data is. A cluster's data is on
//! several nodes, so there are several such places, evenly over the slots; each moves with its slot. They are looked at
//! over each new connection before anything is charged over it, and with each pulse. Units are charged only while every
//! place has the epoch that knows what was admitted.

use std::collections::BTreeMap;
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
use super::steps::Said;
use super::{Inner, nothing, packed, state_key, tag};
use crate::decide::ports::{Away, AwayCause, Beat, Charge, Charges, Epoch, Peer, Pulse, Request, Word};
use crate::domain::limit::{Algorithm, CounterKey};
use crate::domain::time::{Micros, Moment};
use crate::domain::window::{LeaseId, Terms};

/// How many places a cluster has: the loss of a node that has so large a part of the slots is missed. One server has
/// the first place only.
pub(super) const PLACES: usize = 32;

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
    /// Counts the looks at places, beats among them, in the order in which they set out.
    looks: AtomicU64,
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
    /// Which look each of the places was last seen by.
    looks: [u64; PLACES],
    name: Option<Epoch>,
    /// The name of those that are trusted.
    trusted: Option<Epoch>,
}

impl Trust {
    pub(super) fn new() -> Self {
        let place = |index| Place { name: name_of(index), seen: AtomicU64::default(), trusted: AtomicU64::default() };
        Self { places: std::array::from_fn(place), found: Mutex::default(), looks: AtomicU64::new(0) }
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
        for (index, place) in self.places.iter().enumerate().filter(|(_, place)| place.trusted() != 0) {
            let look = self.set_out();
            match cmd("GET").arg(place.epoch_key()).query_async::<Option<Vec<u8>>>(connection).await {
                Ok(epoch) => self.see(&mut self.found(), index, epoch.as_deref().and_then(read), look),
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

    /// A look is about to set out.
    fn set_out(&self) -> u64 {
        self.looks.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Takes over what a look found, unless one that set out later was back before it: that may have come to other data.
    fn see(&self, found: &mut Found, index: usize, epoch: Option<Epoch>, look: u64) {
        if look > found.looks[index] {
            found.looks[index] = look;
            self.places[index].seen.store(epoch.map_or(0, |epoch| epoch.0.get()), Ordering::Release);
        }
    }

    /// Takes over what a beat found at some of the places, and answers with the name of it all. A place that was out of reach
    /// until now has lost nothing; and whoever has admitted nothing trusts all that it finds.
    fn find(&self, beats: &[(usize, Beat)], begins: bool, look: u64) -> Option<Epoch> {
        let mut found = self.found();
        for &(index, Beat { epoch, there: _ }) in beats {
            let place = &self.places[index];
            let known = std::mem::replace(&mut found.epochs[index], epoch.0.get());
            self.see(&mut found, index, Some(epoch), look);
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
}

impl Inner {
    pub(super) async fn beat_later(&self, pulse: Pulse, now: Moment) -> Result<Beat, Away> {
        let (named, look) = (self.trust.named(pulse.epoch), self.trust.set_out());
        let places = if self.nodes.are_one() { 1 } else { PLACES };
        let calls: Vec<Call> = (0..places).map(|place| self.beat_call(place, pulse, named.as_ref(), now)).collect();
        let ask = async |call| {
            let (sent, answer) = (self.steps.now(), self.nodes.run(&self.beat, call).await);
            (answer, sent, self.steps.now())
        };
        let answers = join_all(calls.iter().map(ask)).await;
        let (mut beats, mut said): (Vec<(usize, Beat)>, Vec<Said>) = (Vec::new(), Vec::new());
        let mut away = Away { because: AwayCause::Unreachable };
        for (place, (answer, sent, received)) in answers.into_iter().enumerate() {
            match answer {
                Ok(Outcome::Done(bytes)) => {
                    let (beat, told) = beat(&bytes).ok_or(Away { because: AwayCause::Garbled })?;
                    beats.push((place, beat));
                    said.push(Said { place, told, sent, received });
                }
                // It has just turned out to be a cluster.
                Ok(Outcome::Spread) => {}
                Err(because) => away = because,
            }
        }
        self.steps.hear(&said, |place| self.nodes.name_of(&self.trust.places[place].epoch_key()));
        // A node that is away has nothing to say; the others' word counts.
        let epoch = self.trust.find(&beats, pulse.epoch.is_none(), look).filter(|_| !beats.is_empty()).ok_or(away)?;
        Ok(Beat { epoch, there: all_there(&beats) })
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
        let call = |charges: &[Charge], _| {
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

/// Whom the places heard of. Told is told at each of them: where one lost its data, the others know nothing of it.
fn all_there(beats: &[(usize, Beat)]) -> Vec<Peer> {
    let mut there: BTreeMap<u64, (usize, bool)> = BTreeMap::new();
    for peer in beats.iter().flat_map(|(_, beat)| &beat.there) {
        let (told, owes) = there.entry(peer.replica).or_default();
        match peer.word {
            Word::Told => *told += 1,
            Word::Owes => *owes = true,
            Word::Unheard => {}
        }
    }
    let word = |(told, owes)| match () {
        () if owes => Word::Owes,
        () if told == beats.len() => Word::Told,
        () => Word::Unheard,
    };
    there.into_iter().map(|(replica, heard)| Peer { replica, word: word(heard) }).collect()
}

/// An epoch, the server's time and some replicas; nothing where they make no sense.
fn beat(answer: &[u8]) -> Option<(Beat, Micros)> {
    let (epoch, rest) = answer.split_at_checked(EPOCH_DIGITS)?;
    let (time, there) = rest.split_first_chunk::<8>()?;
    let (there, rest) = there.as_chunks::<9>();
    let peer = |&[a, b, c, d, e, f, g, h, word]: &[u8; 9]| {
        let replica = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        match word {
            b't' => Some(Peer { replica, word: Word::Told }),
            b'o' => Some(Peer { replica, word: Word::Owes }),
            _ => None,
        }
    };
    let there: Vec<Peer> = there.iter().map(peer).collect::<Option<_>>()?;
    let sound = rest.is_empty() && !there.is_empty();
    sound.then_some((Beat { epoch: read(epoch)?, there }, Micros(u64::from_le_bytes(*time))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn peer(replica: u64, word: Word) -> Peer {
        Peer { replica, word }
    }

    #[test]
    fn a_beat_that_makes_no_sense_is_not_taken_for_one() {
        let good = b"00000000000000ff";
        let answer = |epoch: &[u8], there: &[&[u8]]| [epoch, b"\x07\0\0\0\0\0\0\0", &there.concat()].concat();
        let (first, second): (&[u8], &[u8]) = (b"\x01\0\0\0\0\0\0\0t", b"\x02\0\0\0\0\0\0\0o");
        let there = vec![peer(1, Word::Told), peer(2, Word::Owes)];
        let heard = NonZeroU64::new(255).map(|epoch| (Beat { epoch: Epoch(epoch), there }, Micros(7)));
        assert_eq!(beat(&answer(good, &[first, second])), heard);
        let garbled: &[u8] = b"\x01\0\0\0\0\0\0\0x";
        for there in [&[][..], &[&first[1..]], &[first, &second[..4]], &[first, garbled]] {
            assert_eq!(beat(&answer(good, there)), None);
        }
        for epoch in [&NOWHERE[..], &good[1..], b"000000000000000g", b"\xff\xfe000000000000ff"] {
            assert_eq!(beat(&answer(epoch, &[first])), None);
        }
        assert_eq!(beat(&good[..9]), None);
    }

    #[test]
    fn told_is_who_told_all_places_and_who_owes_one_place_owes() {
        let epoch = Epoch(NonZeroU64::MIN);
        let heard = |index, words: &[(u64, Word)]| {
            (index, Beat { epoch, there: words.iter().map(|&(replica, word)| peer(replica, word)).collect() })
        };
        let beats = [
            heard(0, &[(1, Word::Told), (2, Word::Told), (3, Word::Owes)]),
            heard(7, &[(1, Word::Told), (3, Word::Told), (4, Word::Told)]),
        ];
        let words = [Word::Told, Word::Unheard, Word::Owes, Word::Unheard];
        let all: Vec<Peer> = (1..).zip(words).map(|(replica, word)| peer(replica, word)).collect();
        assert_eq!(all_there(&beats), all);
    }

    #[test]
    fn an_answer_that_was_overtaken_says_nothing_of_the_data_that_is_there_now() {
        let trust = Trust::new();
        let [old, new] = [1, 2].map(|number| Epoch(NonZeroU64::new(number).unwrap_or(NonZeroU64::MIN)));
        let beat = |epoch| [(0, Beat { epoch, there: vec![peer(1, Word::Told)] })];
        assert_eq!(trust.find(&beat(old), true, trust.set_out()), Some(old));
        assert!(trust.check().is_ok());
        let beats = trust.set_out();
        // Meanwhile a connection is made anew, to a server that has lost it all.
        let look = trust.set_out();
        trust.see(&mut trust.found(), 0, Some(new), look);
        assert!(trust.check().is_err());
        trust.find(&beat(old), false, beats);
        assert!(trust.check().is_err());
        trust.find(&beat(new), false, trust.set_out());
        assert!(trust.check().is_err(), "nobody has told");
        assert!(trust.named(Some(new)).is_some() && trust.check().is_ok());
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
