//! The log of what was taken back, in this process: what a single replica needs. With a path it is kept in a file across
//! restarts; what is answered then is on disk.
//!
//! Here is also what both logs have in common: bounds, pages, and what people are told of an entry.

mod file;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use tracing::error;

use self::file::LogFile;
pub use self::file::OpenProblem;
use crate::decide::ports::{
    Answer, Away, AwayCause, Change, Cursor, Listed, ListedRevocation, News, Place, RevocationLog, Snapshot,
};
use crate::domain::revocation::{Cutoff, Entry, LAST_MOMENT, Mark, MarkId, Revocation, Target, Wish};
use crate::domain::time::{Micros, Moment};

/// How many entries a log holds.
pub const ENTRIES_MAX: usize = 5_000_000;

/// How many changes a log keeps, for replicas that follow: one that is farther behind loads all entries.
pub const CHANGES_MAX: usize = 100_000;

/// How many entries an answer to `snapshot` holds, or changes one to `news`, about.
pub(super) const READ_AT_A_TIME: usize = 1_000;

/// How many entries an answer to `list` holds.
pub(super) const LISTED_AT_A_TIME: usize = 100;

/// How many bytes the names, the reason and who asked may have in all. Of an entry with more only the mark is kept.
const DETAILS_BYTES_MAX: usize = 8_192;

/// How many entries that are over a call forgets beside as many as it writes, so that forgetting outruns writing.
const FORGOTTEN_PER_CALL: usize = 16;

const FULL: Away = Away { because: AwayCause::Full };
const NO_WRITES: Away = Away { because: AwayCause::ReadOnly };

/// How much a log holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) entries_max: usize,
    pub(super) changes_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { entries_max: ENTRIES_MAX, changes_max: CHANGES_MAX }
    }
}

/// The log of a single replica, by the wall clock of whoever asks.
pub struct MemoryRevocations(Arc<Shared>);

struct Shared {
    log: u64,
    bounds: Bounds,
    /// Whether writing waits for a disk.
    has_file: bool,
    /// Held by whoever writes: what is in memory changes only after the file has.
    writer: Mutex<Option<LogFile>>,
    kept: Mutex<Kept>,
}

/// What is known. Locked for as long as it takes to read a page at most.
#[derive(Default)]
struct Kept {
    entries: BTreeMap<MarkId, ListedRevocation>,
    ends: BTreeSet<(Micros, MarkId)>,
    /// The latest ones.
    changes: VecDeque<Change>,
    /// How many changes there were.
    number: u64,
    /// Lines of the file that make no sense here.
    unreadable: u64,
}

/// What is to be done to what is kept.
enum Step {
    Put(ListedRevocation),
    Remove(MarkId),
}

impl Default for MemoryRevocations {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryRevocations {
    /// An empty log, that ends with the process.
    pub fn new() -> Self {
        Self::with(Bounds::default(), None, Kept::default())
    }

    /// The log that is kept in the file at `path`, which is made where there is none. Nobody else may have it open.
    ///
    /// Reads all of it, and is to be called before anything is served.
    pub fn open(path: &Path) -> Result<Self, OpenProblem> {
        Self::open_with(path, Bounds::default())
    }

    pub(super) fn open_with(path: &Path, bounds: Bounds) -> Result<Self, OpenProblem> {
        let mut kept = Kept::default();
        let (file, unreadable) = LogFile::open(path, &mut |step| {
            kept.apply(step);
        })?;
        // These changes are older than whoever follows.
        let (entries, ends) = (kept.entries, kept.ends);
        Ok(Self::with(bounds, Some(file), Kept { entries, ends, unreadable, ..Kept::default() }))
    }

    #[cfg(test)]
    pub(super) fn bounded(bounds: Bounds) -> Self {
        Self::with(bounds, None, Kept::default())
    }

    fn with(bounds: Bounds, file: Option<LogFile>, kept: Kept) -> Self {
        let log = RandomState::new().hash_one("log").max(1);
        let has_file = file.is_some();
        Self(Arc::new(Shared { log, bounds, has_file, writer: Mutex::new(file), kept: Mutex::new(kept) }))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        lock(&self.0.kept)
    }

    fn place(&self, number: u64) -> Place {
        Place { log: self.0.log, number }
    }

    /// Has something written: at once, or where it is written to a file by a thread that may wait for it.
    fn write<T: Send + 'static>(
        &self,
        forgets: usize,
        now: Moment,
        plan: impl FnOnce(&Kept, Bounds) -> Result<(Vec<Step>, T), Away> + Send + 'static,
    ) -> Answer<'_, Result<T, Away>> {
        if !self.0.has_file {
            return Answer::Now(self.0.write(forgets, now.wall, plan));
        }
        let shared = Arc::clone(&self.0);
        Answer::later(async move {
            let written = tokio::task::spawn_blocking(move || shared.write(forgets, now.wall, plan)).await;
            written.unwrap_or(Err(NO_WRITES))
        })
    }
}

impl Shared {
    fn write<T>(
        &self,
        forgets: usize,
        now: Micros,
        plan: impl FnOnce(&Kept, Bounds) -> Result<(Vec<Step>, T), Away>,
    ) -> Result<T, Away> {
        let mut writer = lock(&self.writer);
        let ((steps, answer), entries) = {
            let mut kept = lock(&self.kept);
            kept.forget(forgets + FORGOTTEN_PER_CALL, now);
            (plan(&kept, self.bounds)?, kept.entries.len())
        };
        if let Some(file) = writer.as_mut().filter(|_| !steps.is_empty()) {
            file.append(&steps, entries, &|write| self.read_all(write)).map_err(|problem| {
                error!(%problem, "a revocation could not be written to its file, and is refused");
                NO_WRITES
            })?;
        }
        let mut kept = lock(&self.kept);
        for step in steps {
            if let Some(change) = kept.apply(step) {
                kept.changes.push_back(change);
                kept.number += 1;
            }
        }
        let beyond = kept.changes.len().saturating_sub(self.bounds.changes_max);
        kept.changes.drain(..beyond);
        Ok(answer)
    }

    /// All entries, some at a time, while nobody else writes.
    fn read_all(&self, write: &mut dyn FnMut(&[ListedRevocation]) -> std::io::Result<()>) -> std::io::Result<()> {
        let mut next = Some(Cursor::default());
        while let Some(from) = next {
            let (page, after) = lock(&self.kept).page(from, READ_AT_A_TIME);
            write(&page)?;
            next = after;
        }
        Ok(())
    }
}

impl Kept {
    /// The entry of that id, unless it is over.
    fn standing(&self, id: MarkId, now: Micros) -> Option<&ListedRevocation> {
        self.entries.get(&id).filter(|listed| !listed.entry.cutoff.is_over(now))
    }

    /// What of it is news to replicas: not what only people are told.
    fn apply(&mut self, step: Step) -> Option<Change> {
        let (id, put) = match &step {
            Step::Put(listed) => (listed.entry.mark.id, Some(listed.entry)),
            Step::Remove(id) => (*id, None),
        };
        let before = match step {
            Step::Put(listed) => self.entries.insert(id, listed),
            Step::Remove(_) => self.entries.remove(&id),
        };
        let before = before.map(|listed| listed.entry);
        if let Some(until) = before.and_then(|entry| entry.cutoff.until) {
            self.ends.remove(&(until, id));
        }
        if let Some(until) = put.and_then(|entry| entry.cutoff.until) {
            self.ends.insert((until, id));
        }
        match put {
            Some(entry) => (before != put).then_some(Change::Revoked(entry)),
            None => before.map(|entry| Change::Undone(entry.mark)),
        }
    }

    fn forget(&mut self, at_most: usize, now: Micros) {
        for _ in 0..at_most {
            let Some(&(until, id)) = self.ends.first().filter(|(until, _)| *until <= now) else { return };
            self.ends.remove(&(until, id));
            self.entries.remove(&id);
        }
    }

    /// What writing leads to, all or none.
    fn put(&self, puts: Vec<ListedRevocation>, bounds: Bounds, now: Micros) -> Result<(Vec<Step>, Vec<Entry>), Away> {
        // Those of this call, so that a target that is named twice is joined with itself.
        let mut mine: BTreeMap<MarkId, Cutoff> = BTreeMap::new();
        let (mut steps, mut entries, mut fresh) = (Vec::new(), Vec::new(), 0);
        for mut put in puts.into_iter().filter(|put| !put.entry.cutoff.is_over(now)) {
            let id = put.entry.mark.id;
            let old = self.standing(id, now);
            let joined = mine.get(&id).copied().or(old.map(|old| old.entry.cutoff));
            if let Some(joined) = joined {
                put.entry.cutoff = put.entry.cutoff.joined(joined);
            }
            fresh += usize::from(!self.entries.contains_key(&id) && !mine.contains_key(&id));
            // One that is restored says nothing new to people.
            put.written = put.written.or_else(|| old.and_then(|old| old.written.clone()));
            if let Some(written) = &mut put.written {
                written.cutoff = put.entry.cutoff;
            }
            mine.insert(id, put.entry.cutoff);
            entries.push(put.entry);
            steps.push(Step::Put(put));
        }
        if fresh > 0 && self.entries.len() + fresh > bounds.entries_max {
            return Err(FULL);
        }
        Ok((steps, entries))
    }

    /// At least so many entries from a cursor on, if there are, and where the next ones are. Those whose ids begin alike
    /// stay together.
    fn page(&self, from: Cursor, at_a_time: usize) -> (Vec<ListedRevocation>, Option<Cursor>) {
        let mut first = [0; 16];
        first[..8].copy_from_slice(&from.0.to_be_bytes());
        let mut page: Vec<ListedRevocation> = Vec::new();
        for (id, listed) in self.entries.range(MarkId(first)..) {
            let begins = prefix(&id.0);
            if page.len() >= at_a_time && page.last().is_some_and(|last| prefix(&last.entry.mark.id.0) != begins) {
                return (page, Some(Cursor(begins)));
            }
            page.push(listed.clone());
        }
        (page, None)
    }
}

impl RevocationLog for MemoryRevocations {
    fn add(&self, wishes: Vec<Wish>, now: Moment) -> Answer<'_, Result<Vec<Revocation>, Away>> {
        self.write(wishes.len(), now, move |kept, bounds| {
            let mut written: Vec<Revocation> = wishes.into_iter().map(|wish| wish.written_at(now.wall)).collect();
            written.retain(|written| !written.cutoff.is_over(now.wall));
            let put = |written: &Revocation| ListedRevocation {
                entry: written.entry(),
                written: is_bounded(&written.target, &written.reason, &written.by).then(|| written.clone()),
            };
            let (steps, entries) = kept.put(written.iter().map(put).collect(), bounds, now.wall)?;
            for (written, entry) in written.iter_mut().zip(entries) {
                written.cutoff = entry.cutoff;
            }
            Ok((steps, written))
        })
    }

    fn undo(&self, id: MarkId, now: Moment) -> Answer<'_, Result<Option<ListedRevocation>, Away>> {
        self.write(1, now, move |kept, _| {
            let was = kept.standing(id, now.wall).cloned();
            Ok((was.iter().map(|was| Step::Remove(was.entry.mark.id)).collect(), was))
        })
    }

    fn find(&self, marks: Vec<Mark>, now: Moment) -> Answer<'_, Result<Vec<Option<Cutoff>>, Away>> {
        let kept = self.kept();
        let find = |mark: &Mark| kept.standing(mark.id, now.wall).map(|listed| listed.entry.cutoff);
        Answer::Now(Ok(marks.iter().map(find).collect()))
    }

    fn list(&self, from: Cursor, now: Moment) -> Answer<'_, Result<Listed, Away>> {
        let (mut entries, next) = self.kept().page(from, LISTED_AT_A_TIME);
        entries.retain(|listed| !listed.entry.cutoff.is_over(now.wall));
        Answer::Now(Ok(Listed { entries, next }))
    }

    fn news(&self, after: Place, _: Moment) -> Answer<'_, Result<News, Away>> {
        let kept = self.kept();
        let here = self.place(kept.number);
        let news = kept.number.checked_sub(after.number).and_then(|new| usize::try_from(new).ok());
        let Some(new) = news.filter(|&new| after.log == self.0.log && new <= kept.changes.len()) else {
            return Answer::Now(Ok(News::Gone(here)));
        };
        let first = kept.changes.len() - new;
        let changes: Vec<Change> = kept.changes.range(first..).take(READ_AT_A_TIME).copied().collect();
        let place = self.place(after.number + changes.len() as u64);
        Answer::Now(Ok(News::Changes { changes, place, more: place != here, unreadable: 0 }))
    }

    fn snapshot(&self, from: Cursor, now: Moment) -> Answer<'_, Result<Snapshot, Away>> {
        let kept = self.kept();
        let (page, next) = kept.page(from, READ_AT_A_TIME);
        let entries = page.iter().map(|listed| listed.entry).filter(|entry| !entry.cutoff.is_over(now.wall)).collect();
        // Once in a listing.
        let unreadable = if from == Cursor::default() { kept.unreadable } else { 0 };
        Answer::Now(Ok(Snapshot { place: self.place(kept.number), entries, next, unreadable }))
    }

    fn restore(&self, entries: Vec<Entry>, now: Moment) -> Answer<'_, Result<(), Away>> {
        self.write(entries.len(), now, move |kept, bounds| {
            let put = |Entry { mark, cutoff: Cutoff { before, until } }: &Entry| {
                let clamped = |moment: Option<Micros>| moment.map(|moment| moment.min(LAST_MOMENT));
                let cutoff = Cutoff { before: clamped(*before), until: clamped(*until) };
                ListedRevocation { entry: Entry { mark: *mark, cutoff }, written: None }
            };
            let (mut steps, _) = kept.put(entries.iter().map(put).collect(), bounds, now.wall)?;
            steps.retain(|step| match step {
                Step::Put(put) => {
                    kept.entries.get(&put.entry.mark.id).is_none_or(|old| old.entry.cutoff != put.entry.cutoff)
                }
                Step::Remove(_) => true,
            });
            Ok((steps, ()))
        })
    }
}

/// What ids that begin alike have in common: where a listing goes on, whatever has changed meanwhile.
pub(super) fn prefix(id: &[u8]) -> u64 {
    let mut first = [0; 8];
    for (to, from) in first.iter_mut().zip(id) {
        *to = *from;
    }
    u64::from_be_bytes(first)
}

/// Behind all that begin so.
pub(super) fn after_prefix(prefix: u64) -> Option<Cursor> {
    prefix.checked_add(1).map(Cursor)
}

/// What people are told of an entry, as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Details {
    issuer: Box<str>,
    /// In base64url: it may be any bytes.
    name: Box<str>,
    reason: Box<str>,
    by: Box<str>,
    /// When it was written, in microseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at: Option<u64>,
}

impl Details {
    /// Those of a wish, without a moment; none where they are too long.
    pub(super) fn of(wish: &Wish) -> Option<Self> {
        let Wish { target, which: _, ahead: _, keep: _, reason, by } = wish;
        is_bounded(target, reason, by).then(|| Self::new(target, reason, by, None))
    }

    fn new(target: &Target, reason: &str, by: &str, at: Option<Micros>) -> Self {
        let target = target.borrowed();
        let name = URL_SAFE_NO_PAD.encode(target.name).into();
        Self { issuer: target.issuer.into(), name, reason: reason.into(), by: by.into(), at: at.map(|at| at.0) }
    }

    fn of_written(written: &Revocation) -> Self {
        let Revocation { target, cutoff: _, reason, by, at } = written;
        Self::new(target, reason, by, Some(*at))
    }

    pub(super) fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(super) fn read(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }

    /// What was written of an entry. None: it is of another one.
    pub(super) fn of_entry(self, entry: &Entry) -> Option<Revocation> {
        let Self { issuer, name, reason, by, at } = self;
        let name = URL_SAFE_NO_PAD.decode(&*name).ok()?;
        let target = Target::new(entry.mark.kind, &issuer, &name);
        (Mark::of(target.borrowed()) == entry.mark).then_some(Revocation {
            target,
            cutoff: entry.cutoff,
            reason,
            by,
            at: Micros(at?),
        })
    }
}

fn is_bounded(target: &Target, reason: &str, by: &str) -> bool {
    let target = target.borrowed();
    [target.issuer.len(), target.name.len(), reason.len(), by.len()].iter().sum::<usize>() <= DETAILS_BYTES_MAX
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
