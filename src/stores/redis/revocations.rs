//! The log of what was taken back, in Redis: four keys under one hash tag, and one script call for each question.
//!
//! The entries stand in the order of their ids, which is the same wherever they come to: a listing goes on at another
//! server after a failover, or when their slot has moved. Each change has a number, and beside it a random part: a replica
//! that was told of a change which a failover lost is noticed, and the log takes another name then.

use std::hash::{BuildHasher as _, RandomState};

use super::RedisStore;
use super::script::Call;
use crate::decide::ports::{
    Answer, Away, AwayCause, Change, Cursor, Listed, ListedRevocation, News, Place, RevocationLog, Snapshot,
};
use crate::domain::revocation::{Cutoff, Entry, Keep, LAST_MOMENT, Mark, MarkId, Revocation, TargetKind, Which, Wish};
use crate::domain::time::{Micros, Moment};
use crate::stores::revocations::{Details, LISTED_AT_A_TIME, READ_AT_A_TIME, after_prefix, prefix};

/// All in one slot: what is written at a time is written whole.
const KEYS: [&str; 4] = [
    "tollgate:{revocations}",
    "tollgate:{revocations}:ends",
    "tollgate:{revocations}:details",
    "tollgate:{revocations}:changes",
];

/// The version of entries that this program writes, and knows.
const VERSION: u8 = 1;

/// The length of an entry.
const ENTRY_BYTES: usize = 42;

/// How many bits of a place's number are the random part of its change.
const RANDOM_BITS: u32 = 20;

impl RevocationLog for RedisStore {
    fn add(&self, wishes: Vec<Wish>, now: Moment) -> Answer<'_, Result<Vec<Revocation>, Away>> {
        if wishes.is_empty() {
            return Answer::Now(Ok(Vec::new()));
        }
        Answer::later(async move {
            let known = |wish: &Wish| Details::of(wish).map_or_else(|| b"-".to_vec(), |known| known.json());
            let args = wishes.iter().flat_map(|wish| [packed(wish), known(wish)]).collect();
            let read = |told: &Told<'_>| {
                if told.is_full {
                    return Some(Err(Away { because: AwayCause::Full }));
                }
                let entries: Vec<Option<Entry>> = told.rest.iter().map(|text| optional(text)).collect::<Option<_>>()?;
                (entries.len() == wishes.len()).then_some(Ok((entries, told.now)))
            };
            let (entries, at) = self.revocations(b"add", args, now, read).await??;
            let written = |(wish, entry): (Wish, Option<Entry>)| {
                let Wish { target, which: _, ahead: _, keep: _, reason, by } = wish;
                Some(Revocation { target, cutoff: entry?.cutoff, reason, by, at })
            };
            Ok(wishes.into_iter().zip(entries).filter_map(written).collect())
        })
    }

    fn undo(&self, id: MarkId, now: Moment) -> Answer<'_, Result<Option<ListedRevocation>, Away>> {
        let read = |told: &Told<'_>| match told.rest.as_slice() {
            [] => Some(None),
            [entry, known] => Some(Some(listed(read_entry(entry)?, known))),
            _ => None,
        };
        Answer::later(self.revocations(b"undo", vec![id.0.into()], now, read))
    }

    fn find(&self, marks: Vec<Mark>, now: Moment) -> Answer<'_, Result<Vec<Option<Cutoff>>, Away>> {
        if marks.is_empty() {
            return Answer::Now(Ok(Vec::new()));
        }
        Answer::later(async move {
            let read = |told: &Told<'_>| {
                let found = told.rest.iter().map(|text| Some(optional(text)?.map(|entry| entry.cutoff)));
                found.collect::<Option<Vec<_>>>().filter(|found| found.len() == marks.len())
            };
            self.revocations(b"find", marks.iter().map(|mark| mark.id.0.into()).collect(), now, read).await
        })
    }

    fn list(&self, from: Cursor, now: Moment) -> Answer<'_, Result<Listed, Away>> {
        let read = |told: &Told<'_>| {
            let half = told.rest.len() / 2;
            let (members, known) = told.rest.split_at_checked(half).filter(|_| told.rest.len() == 2 * half)?;
            let (here, next) = page(members, LISTED_AT_A_TIME);
            let entries = members.iter().zip(known).take(here).filter_map(|(member, known)| {
                let entry = read_entry(member).filter(|entry| !entry.cutoff.is_over(told.now))?;
                Some(listed(entry, known))
            });
            Some(Listed { entries: entries.collect(), next })
        };
        Answer::later(self.revocations(b"list", page_args(from, LISTED_AT_A_TIME), now, read))
    }

    fn news(&self, after: Place, now: Moment) -> Answer<'_, Result<News, Away>> {
        let args = vec![log_name(after.log), change_id(after.number)];
        let read = |told: &Told<'_>| {
            if told.is_gone {
                return Some(News::Gone(told.place));
            }
            let (changes, unreadable, number) = read_changes(&told.rest)?;
            let place = Place { number: number.unwrap_or(told.place.number), ..told.place };
            Some(News::Changes { changes, place, more: place != told.place, unreadable })
        };
        Answer::later(self.revocations(b"news", args, now, read))
    }

    fn snapshot(&self, from: Cursor, now: Moment) -> Answer<'_, Result<Snapshot, Away>> {
        let read = |told: &Told<'_>| {
            let (here, next) = page(&told.rest, READ_AT_A_TIME);
            let read: Vec<Option<Entry>> = told.rest.iter().take(here).map(|member| read_entry(member)).collect();
            let unreadable = read.iter().filter(|entry| entry.is_none()).count() as u64;
            let entries = read.into_iter().flatten().filter(|entry| !entry.cutoff.is_over(told.now)).collect();
            Some(Snapshot { place: told.place, entries, next, unreadable })
        };
        Answer::later(self.revocations(b"snapshot", page_args(from, READ_AT_A_TIME), now, read))
    }

    fn restore(&self, entries: Vec<Entry>, now: Moment) -> Answer<'_, Result<(), Away>> {
        if entries.is_empty() {
            return Answer::Now(Ok(()));
        }
        Answer::later(async move {
            let args = entries.iter().flat_map(|entry| [packed_entry(entry), Vec::new()]).collect();
            let full = Away { because: AwayCause::Full };
            self.revocations(b"add", args, now, |told| Some(if told.is_full { Err(full) } else { Ok(()) })).await?
        })
    }
}

impl RedisStore {
    async fn revocations<T>(
        &self,
        task: &[u8],
        args: Vec<Vec<u8>>,
        now: Moment,
        read: impl Fn(&Told<'_>) -> Option<T>,
    ) -> Result<T, Away> {
        let (random, bounds) = (RandomState::new(), self.0.revocation_bounds);
        let first = [
            self.0.time_argument(now),
            log_name(random.hash_one("log")),
            (random.hash_one("change") >> (u64::BITS - RANDOM_BITS)).to_string().into_bytes(),
            bounds.changes_max.to_string().into_bytes(),
            bounds.entries_max.to_string().into_bytes(),
            task.into(),
        ];
        let args = [&first[..], &args].concat();
        let call = |_: &[()]| Call { keys: KEYS.map(Into::into).into(), args: args.clone(), ..Call::default() };
        let read = |answer: &[u8], _| Some([Ok(read(&Told::read(answer)?)?)].into_iter().collect());
        let (answers, _) = self.0.ask(&self.0.revocation, &[()], call, read).await;
        answers.into_iter().next().unwrap_or(Err(Away { because: AwayCause::Garbled }))
    }
}

/// What the script answered.
struct Told<'a> {
    is_full: bool,
    is_gone: bool,
    place: Place,
    now: Micros,
    rest: Vec<&'a [u8]>,
}

impl<'a> Told<'a> {
    fn read(mut answer: &'a [u8]) -> Option<Self> {
        let mut texts = Vec::new();
        while let Some((length, rest)) = answer.split_first_chunk::<4>() {
            let (text, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
            texts.push(text);
            answer = rest;
        }
        let ([status, log, last, now], rest) = texts.split_first_chunk::<4>().filter(|_| answer.is_empty())?;
        let (is_full, is_gone) = match *status {
            b"ok" => (false, false),
            b"full" => (true, false),
            b"gone" => (false, true),
            _ => return None,
        };
        let log = u64::from_str_radix(text(log)?, 16).ok()?;
        let place = Place { log, number: number(last)? };
        Some(Self { is_full, is_gone, place, now: Micros(text(now)?.parse().ok()?), rest: rest.into() })
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn log_name(log: u64) -> Vec<u8> {
    format!("{log:016x}").into_bytes()
}

/// The id of the change that a place is after.
fn change_id(number: u64) -> Vec<u8> {
    format!("{}-{}", number >> RANDOM_BITS, number & ((1 << RANDOM_BITS) - 1)).into_bytes()
}

/// The number of the place after a change.
fn number(change: &[u8]) -> Option<u64> {
    let (number, random) = text(change)?.split_once('-')?;
    let (number, random): (u64, u64) = (number.parse().ok()?, random.parse().ok()?);
    (number >> (u64::BITS - RANDOM_BITS) == 0 && random >> RANDOM_BITS == 0).then_some(number << RANDOM_BITS | random)
}

/// A wish, as the script reads it. Its moments come of the log's own clock.
fn packed(wish: &Wish) -> Vec<u8> {
    let (which, before) = match wish.which {
        Which::All => (b'x', None),
        Which::IssuedByNow => (b'b', Some(LAST_MOMENT)),
        Which::IssuedBy(moment) => (b'b', Some(moment)),
    };
    let (keep, time) = match wish.keep {
        Keep::Always => (b'u', None),
        Keep::Until(moment) => (b'u', Some(moment)),
        Keep::For(time) => (b'f', Some(time)),
    };
    packed_with(Mark::of(wish.target.borrowed()), (which, before), (keep, time), wish.ahead)
}

fn packed_entry(Entry { mark, cutoff }: &Entry) -> Vec<u8> {
    packed_with(*mark, (b'x', cutoff.before), (b'u', cutoff.until), Micros::ZERO)
}

fn packed_with(mark: Mark, which: (u8, Option<Micros>), keep: (u8, Option<Micros>), ahead: Micros) -> Vec<u8> {
    let Mark { kind, id, tag } = mark;
    let mut packed = id.0.to_vec();
    packed.push(kind.letter());
    packed.extend(tag.to_le_bytes());
    for (letter, time) in [which, keep] {
        packed.push(letter);
        packed.extend(double(time).to_le_bytes());
    }
    packed.extend(double(Some(ahead)).to_le_bytes());
    packed
}

#[expect(clippy::cast_precision_loss, reason = "doubles are exact up to the last moment")]
fn double(time: Option<Micros>) -> f64 {
    time.map_or(f64::INFINITY, |time| time.min(LAST_MOMENT).0 as f64)
}

/// None: it is no moment.
#[expect(clippy::option_option, reason = "none of a moment is something else than no moment")]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is whole, and none of these is lost")]
fn moment(bytes: [u8; 8]) -> Option<Option<Micros>> {
    let double = f64::from_le_bytes(bytes);
    if double == f64::INFINITY {
        return Some(None);
    }
    let whole = double.fract() == 0.0 && (0.0..=self::double(Some(LAST_MOMENT))).contains(&double);
    whole.then_some(Some(Micros(double as u64)))
}

/// None: it is not ours, or a newer version's.
fn read_entry(bytes: &[u8]) -> Option<Entry> {
    let bytes: &[u8; ENTRY_BYTES] = bytes.try_into().ok()?;
    let (id, rest) = bytes.split_first_chunk::<16>()?;
    let (&[version, kind], rest) = rest.split_first_chunk::<2>()?;
    let (tag, rest) = rest.split_first_chunk::<8>()?;
    let (before, until) = rest.split_first_chunk::<8>()?;
    let kind = TargetKind::from_letter(kind).filter(|_| version == VERSION)?;
    let mark = Mark { kind, id: MarkId(*id), tag: u64::from_le_bytes(*tag) };
    Some(Entry { mark, cutoff: Cutoff { before: moment(*before)?, until: moment(until.try_into().ok()?)? } })
}

/// An entry, or nothing where the text is empty. None: it makes no sense.
#[expect(clippy::option_option, reason = "that there is none is an answer")]
fn optional(text: &[u8]) -> Option<Option<Entry>> {
    if text.is_empty() { Some(None) } else { read_entry(text).map(Some) }
}

fn listed(entry: Entry, known: &[u8]) -> ListedRevocation {
    ListedRevocation { entry, written: Details::read(known).and_then(|known| known.of_entry(&entry)) }
}

/// The changes, how many of them make no sense, and the number of the last; none where there are none.
fn read_changes(texts: &[&[u8]]) -> Option<(Vec<Change>, u64, Option<u64>)> {
    let (threes, rest) = texts.as_chunks::<3>();
    let (mut changes, mut unreadable, mut last) = (Vec::new(), 0, None);
    for [id, sign, entries] in threes {
        last = Some(number(id)?);
        let (entries, odd) = entries.as_chunks::<ENTRY_BYTES>();
        let made: Option<fn(Entry) -> Change> = match *sign {
            b"+" => Some(Change::Revoked),
            b"-" => Some(|entry| Change::Undone(entry.mark)),
            _ => None,
        };
        let Some(made) = made.filter(|_| odd.is_empty() && !entries.is_empty()) else {
            unreadable += 1;
            continue;
        };
        for entry in entries {
            match read_entry(entry) {
                Some(entry) => changes.push(made(entry)),
                None => unreadable += 1,
            }
        }
    }
    rest.is_empty().then_some((changes, unreadable, last))
}

/// Where a page begins, and how many entries are read for it: one more than it holds, to see where the next one does.
fn page_args(from: Cursor, at_a_time: usize) -> Vec<Vec<u8>> {
    // Behind the empty one, which is always there.
    let begin = if from.0 == 0 { b"(".to_vec() } else { [&b"["[..], &from.0.to_be_bytes()].concat() };
    vec![begin, (at_a_time + 1).to_string().into_bytes()]
}

/// How many of what was read belong to the page, and where the next one begins. Those whose ids begin alike stay together.
fn page(members: &[&[u8]], at_a_time: usize) -> (usize, Option<Cursor>) {
    let Some(beyond) = members.get(at_a_time) else { return (members.len(), None) };
    let next = prefix(beyond);
    match members.iter().position(|member| prefix(member) == next) {
        // Nobody can make so many ids alike: these are not ours.
        Some(0) | None => (members.len(), after_prefix(next)),
        Some(here) => (here, Some(Cursor(next))),
    }
}
