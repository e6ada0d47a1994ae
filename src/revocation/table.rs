//! Marks in memory: exact, small, and found without a lock.
//!
//! There are 64 tables, chosen by a tag's first bits, each with open addressing. One writes, any number read. A slot is
//! filled once: what is kept first, then the tag (`Release`), so that whoever sees the tag (`Acquire`) sees what belongs to
//! it. After that only what is kept changes, in one word. A table that is full is copied into a larger one, which takes its
//! place in one store; who still reads the old one has begun before that.

use std::sync::Arc;

use super::sync::{AtomicU64, Loaded, Ordering, Swap};
use crate::domain::revocation::{Cutoff, Mark, MarkId, TargetKind};
use crate::domain::time::Micros;

/// The first bits of a tag choose the table.
const SHARD_BITS: u32 = 6;

/// How many tables there are: the time and the room that one copy takes are a 64th of the whole.
pub(super) const SHARDS: usize = 1 << SHARD_BITS;

/// Slots of the smallest table that has any.
const SLOTS_MIN: usize = 8;

/// Says that a slot is empty; a tag that is this by itself is kept as the next one.
const EMPTY: u64 = 0;

/// Moments of ends are kept in such steps, rounded up.
const UNTIL_STEP: Micros = Micros::from_secs(16);

/// As for ends that never come, or later than can be kept.
const UNTIL_NEVER: u64 = (1 << 28) - 1;

/// As for entries that hit all, or what was issued later than can be kept.
const BEFORE_ALL: u64 = (1 << 32) - 1;

/// What is kept of an entry beside its mark, in one word: a second after the last that it hits (32 bits), its end (28), its
/// kind (3), whether the log is known to have it (1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept(u64);

impl Kept {
    /// There is no such entry any more. It hits nothing.
    pub(super) const GONE: Self = Self(0);

    /// Never hits less or ends sooner than `cutoff`.
    pub(super) fn new(kind: TargetKind, cutoff: Cutoff, is_confirmed: bool) -> Self {
        let before = cutoff.before.map_or(BEFORE_ALL, |before| (before.as_secs() + 1).min(BEFORE_ALL));
        let until = cutoff.until.map_or(UNTIL_NEVER, |until| until.0.div_ceil(UNTIL_STEP.0).min(UNTIL_NEVER));
        Self(before << 32 | until << 4 | (kind.index() as u64) << 1 | u64::from(is_confirmed))
    }

    /// Which tokens are hit; none are where it is gone.
    pub(super) fn cutoff(self) -> Option<Cutoff> {
        let (before, until) = (self.0 >> 32, self.0 >> 4 & UNTIL_NEVER);
        let until = (until != UNTIL_NEVER).then_some(Micros(until.saturating_mul(UNTIL_STEP.0)));
        match before {
            0 => None,
            BEFORE_ALL => Some(Cutoff { before: None, until }),
            secs => Some(Cutoff { before: Some(Micros::from_secs(secs - 1)), until }),
        }
    }

    pub(super) const fn is_gone(self) -> bool {
        self.0 == Self::GONE.0
    }

    /// Whether the log is known to have it.
    pub(super) const fn is_confirmed(self) -> bool {
        self.0 & 1 == 1
    }

    /// The same, known to be in the log or not.
    pub(super) const fn confirmed(self, is_confirmed: bool) -> Self {
        Self(if self.is_gone() { self.0 } else { self.0 & !1 | is_confirmed as u64 })
    }

    const fn kind(self) -> TargetKind {
        TargetKind::ALL[(self.0 >> 1 & 7) as usize]
    }
}

/// Marks, and what is kept under them.
pub(super) struct Marks {
    tables: Swap<Tables>,
    /// A bit for each kind that there may be an entry of.
    in_use: AtomicU64,
}

type Tables = [Arc<Table>; SHARDS];

/// What the one who writes knows besides. Whoever has it is that one.
#[derive(Debug)]
pub(super) struct Filling {
    /// By table: slots that have a tag.
    taken: [usize; SHARDS],
    /// Entries, by kind.
    entries: [u64; TargetKind::ALL.len()],
}

impl Filling {
    /// Of marks that are new.
    pub(super) const fn new() -> Self {
        Self { taken: [0; SHARDS], entries: [0; TargetKind::ALL.len()] }
    }

    /// How many entries there are of each kind.
    pub(super) const fn entries(&self) -> [u64; TargetKind::ALL.len()] {
        self.entries
    }
}

impl Marks {
    /// No entries, and no room: that comes with them.
    pub(super) fn new() -> Self {
        let empty = Arc::new(Table::new(0));
        Self { tables: Swap::from_pointee([(); SHARDS].map(|()| Arc::clone(&empty))), in_use: AtomicU64::new(0) }
    }

    /// A bit for each kind that there may be an entry of, by its index.
    pub(super) fn in_use(&self) -> u64 {
        self.in_use.load(Ordering::Acquire)
    }

    /// Looks at the entries as they are from now on.
    pub(super) fn look(&self) -> Look {
        Look(self.tables.load())
    }

    /// What is kept under `mark`.
    pub(super) fn find(&self, mark: &Mark) -> Kept {
        self.look().find(mark.tag, || Some(mark.id))
    }

    /// Keeps this under `mark` from now on. Once it returns everyone who looks finds it.
    pub(super) fn put(&self, filling: &mut Filling, mark: &Mark, kept: Kept) {
        let (tag, id) = (filled(mark.tag), halves(mark.id));
        let shard = shard(tag);
        let tables = self.tables.load();
        if let Some(slot) = tables[shard].slots_of(tag).find(|slot| slot.id() == id) {
            self.change(filling, slot, kept);
            return;
        }
        if kept.is_gone() {
            return;
        }
        filling.entries[kept.kind().index()] += 1;
        self.in_use.fetch_or(1 << kept.kind().index(), Ordering::AcqRel);
        filling.taken[shard] += 1;
        if filling.taken[shard] * 5 <= tables[shard].tags.len() * 4 {
            tables[shard].fill(tag, id, kept);
            return;
        }
        let live = tables[shard].live();
        // Half as many again until it is copied the next time.
        let larger = Table::new(((live.count() + 1) * 15 / 8).max(SLOTS_MIN));
        filling.taken[shard] = 1;
        for (tag, slot) in tables[shard].live() {
            larger.fill(tag, slot.id(), slot.kept());
            filling.taken[shard] += 1;
        }
        larger.fill(tag, id, kept);
        let mut grown = Tables::clone(&tables);
        grown[shard] = Arc::new(larger);
        self.tables.store(Arc::new(grown));
    }

    /// Keeps for each entry of a table what `revise` says.
    pub(super) fn revise(&self, filling: &mut Filling, shard: usize, mut revise: impl FnMut(Mark, Kept) -> Kept) {
        let tables = self.tables.load();
        for (tag, slot) in tables[shard].live() {
            let [high, low] = slot.id();
            let id = MarkId((u128::from(high) << 64 | u128::from(low)).to_be_bytes());
            let kept = slot.kept();
            let revised = revise(Mark { kind: kept.kind(), id, tag }, kept);
            if revised != kept {
                self.change(filling, slot, revised);
            }
        }
    }

    fn change(&self, filling: &mut Filling, slot: &Slot, kept: Kept) {
        let old = slot.kept();
        if !kept.is_gone() {
            filling.entries[kept.kind().index()] += 1;
            self.in_use.fetch_or(1 << kept.kind().index(), Ordering::AcqRel);
        }
        slot.kept.store(kept.0, Ordering::Release);
        if !old.is_gone() {
            let entries = &mut filling.entries[old.kind().index()];
            *entries -= 1;
            if *entries == 0 {
                self.in_use.fetch_and(!(1 << old.kind().index()), Ordering::AcqRel);
            }
        }
    }
}

/// The entries, as one sees them who looks at a time for several.
pub(super) struct Look(Loaded<Tables>);

impl Look {
    /// What is kept under a tag and an id; the id is asked for only where the tag is there.
    pub(super) fn find(&self, tag: u64, id: impl FnOnce() -> Option<MarkId>) -> Kept {
        let tag = filled(tag);
        let mut slots = self.0[shard(tag)].slots_of(tag).peekable();
        if slots.peek().is_none() {
            return Kept::GONE;
        }
        let Some(id) = id().map(halves) else { return Kept::GONE };
        slots.find(|slot| slot.id() == id).map_or(Kept::GONE, Slot::kept)
    }
}

/// Tags lie together, apart from what belongs to them: who looks for one that is not there reads hardly more than a line
/// of the cache.
struct Table {
    tags: Box<[AtomicU64]>,
    slots: Box<[Slot]>,
}

struct Slot {
    id: [AtomicU64; 2],
    kept: AtomicU64,
}

impl Table {
    fn new(slots: usize) -> Self {
        let word = || AtomicU64::new(0);
        Self {
            tags: (0..slots).map(|_| word()).collect(),
            slots: (0..slots).map(|_| Slot { id: [word(), word()], kept: word() }).collect(),
        }
    }

    /// The slots from the one on that a tag belongs into, around the end; an empty one ends each search.
    fn from(&self, tag: u64) -> impl Iterator<Item = (&AtomicU64, &Slot)> {
        let place = (u128::from(tag << SHARD_BITS) * self.tags.len() as u128) >> 64;
        let place = usize::try_from(place).unwrap_or(0);
        let (tags, slots) = (self.tags.split_at(place), self.slots.split_at(place));
        tags.1.iter().zip(slots.1).chain(tags.0.iter().zip(slots.0))
    }

    /// Those with that tag.
    fn slots_of(&self, tag: u64) -> impl Iterator<Item = &Slot> {
        self.from(tag)
            .map(|(kept, slot)| (kept.load(Ordering::Acquire), slot))
            .take_while(|(kept, _)| *kept != EMPTY)
            .filter(move |(kept, _)| *kept == tag)
            .map(|(_, slot)| slot)
    }

    /// Those with an entry, each with its tag.
    fn live(&self) -> impl Iterator<Item = (u64, &Slot)> {
        let tags = self.tags.iter().map(|tag| tag.load(Ordering::Acquire));
        tags.zip(&self.slots).filter(|(tag, slot)| *tag != EMPTY && !slot.kept().is_gone())
    }

    /// Fills an empty slot. There is one: whoever writes sees to that.
    fn fill(&self, tag: u64, id: [u64; 2], kept: Kept) {
        if let Some((place, slot)) = self.from(tag).find(|(place, _)| place.load(Ordering::Acquire) == EMPTY) {
            slot.id[0].store(id[0], Ordering::Relaxed);
            slot.id[1].store(id[1], Ordering::Relaxed);
            slot.kept.store(kept.0, Ordering::Relaxed);
            // The last: who sees it sees the rest.
            place.store(tag, Ordering::Release);
        }
    }
}

impl Slot {
    fn id(&self) -> [u64; 2] {
        [self.id[0].load(Ordering::Relaxed), self.id[1].load(Ordering::Relaxed)]
    }

    fn kept(&self) -> Kept {
        Kept(self.kept.load(Ordering::Acquire))
    }
}

const fn filled(tag: u64) -> u64 {
    if tag == EMPTY { EMPTY + 1 } else { tag }
}

const fn shard(tag: u64) -> usize {
    (tag >> (u64::BITS - SHARD_BITS)) as usize
}

fn halves(MarkId(id): MarkId) -> [u64; 2] {
    let id = u128::from_be_bytes(id);
    #[expect(clippy::cast_possible_truncation, reason = "the halves of 128 bits")]
    [(id >> 64) as u64, id as u64]
}
