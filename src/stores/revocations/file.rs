//! The file of a single replica's log: a line of JSON for each call that wrote something, so that a call is there whole or
//! not at all. What is in it for nothing is left out now and then, by writing another file in its place.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufRead as _, BufReader, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{Details, Step};
use crate::decide::ports::ListedRevocation;
use crate::domain::revocation::{Cutoff, Entry, Mark, MarkId, TargetKind};
use crate::domain::time::Micros;

/// The version of lines that this program writes, and knows.
const VERSION: u64 = 1;

/// How many records may be in the file for nothing, beside as many as there are entries.
const DEAD_MAX: usize = 1_000;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenProblem {
    /// Another process has it open.
    #[error("{path}: is in use by another process; each replica needs a file of its own", path = .path.display())]
    Taken {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be made, read or written.
    #[error("{path}: {error}; the folder must exist, and be writable", path = .path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

/// The file, open for writing at its end.
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    /// How long it is, with all that was written whole.
    bytes: u64,
    /// Entries and removals in it.
    records: usize,
    /// Whether there may be something behind those bytes that could not be taken away.
    is_broken: bool,
    /// Locked as long as this is there.
    lock: File,
}

impl Drop for LogFile {
    /// By itself a lock ends when the last copy of its file is closed, and a child of this process that is just being
    /// started has one for a moment.
    fn drop(&mut self) {
        // It ends with the process at the latest.
        let _ = self.lock.unlock();
    }
}

/// Reads all entries, some at a time.
pub(super) type ReadAll<'a> = &'a dyn Fn(&mut dyn FnMut(&[ListedRevocation]) -> io::Result<()>) -> io::Result<()>;

impl LogFile {
    /// Has what is in the file done, in its order, and answers how many lines make no sense here: they stay as they are.
    pub(super) fn open(path: &Path, apply: &mut dyn FnMut(Step)) -> Result<(Self, u64), OpenProblem> {
        let unusable = |error| OpenProblem::Unusable { path: path.to_owned(), error };
        // Beside the file, which is replaced now and then.
        let lock = options().create(true).append(true).open(beside(path, ".lock")).map_err(unusable)?;
        lock.try_lock().map_err(|problem| match problem {
            TryLockError::WouldBlock => OpenProblem::Taken { path: path.to_owned() },
            TryLockError::Error(error) => unusable(error),
        })?;
        let file = options().create(true).read(true).append(true).open(path).map_err(unusable)?;
        let mut log = Self { path: path.to_owned(), file, bytes: 0, records: 0, is_broken: false, lock };
        let unreadable = log.read(apply).map_err(unusable)?;
        sync_folder(path).map_err(unusable)?;
        Ok((log, unreadable))
    }

    fn read(&mut self, apply: &mut dyn FnMut(Step)) -> io::Result<u64> {
        let (mut unreadable, mut line) = (0, Vec::new());
        let mut reader = BufReader::new(&self.file);
        while reader.read_until(b'\n', &mut line)? > 0 {
            let is_whole = line.last() == Some(&b'\n');
            let steps = read_line(&line);
            if !is_whole && steps.is_none() && is_begun(&line) {
                warn!(path = %self.path.display(), "the last line was not written whole, and is dropped");
                self.file.set_len(self.bytes)?;
                break;
            }
            match steps {
                Some(steps) => {
                    self.records += steps.len();
                    steps.into_iter().for_each(&mut *apply);
                }
                None => unreadable += 1,
            }
            self.bytes += line.len() as u64;
            if !is_whole {
                (&self.file).write_all(b"\n")?;
                self.bytes += 1;
            }
            line.clear();
        }
        self.file.sync_all()?;
        if unreadable > 0 {
            warn!(
                path = %self.path.display(), lines = unreadable,
                "lines of revocations make no sense to this version: they are passed over, and stay in the file"
            );
        }
        Ok(unreadable)
    }

    /// Writes a line, which is on disk then. Where that fails the file is as it was. `entries` is how many there are.
    pub(super) fn append(&mut self, steps: &[Step], entries: usize, all: ReadAll<'_>) -> io::Result<()> {
        if self.is_broken {
            self.rewrite(all)?;
        } else if self.records > 2 * entries + DEAD_MAX
            && let Err(error) = self.rewrite(all)
        {
            warn!(path = %self.path.display(), %error, "the file of revocations could not be made shorter");
        }
        let line = line_of(steps)?;
        let written = self.file.write_all(&line).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            self.is_broken = self.file.set_len(self.bytes).and_then(|()| self.file.sync_data()).is_err();
            return Err(error);
        }
        self.bytes += line.len() as u64;
        self.records += steps.len();
        Ok(())
    }

    /// Writes what counts, and what makes no sense here, to another file, and puts it in this one's place.
    fn rewrite(&mut self, all: ReadAll<'_>) -> io::Result<()> {
        let path = beside(&self.path, ".new");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let file = options().create_new(true).append(true).open(&path)?;
        let (mut writer, mut records) = (BufWriter::new(&file), 0);
        let (mut old, mut line) = (BufReader::new(File::open(&self.path)?), Vec::new());
        while old.read_until(b'\n', &mut line)? > 0 {
            if line.last() == Some(&b'\n') && read_line(&line).is_none() {
                writer.write_all(&line)?;
            }
            line.clear();
        }
        all(&mut |entries| {
            let steps: Vec<Step> = entries.iter().cloned().map(Step::Put).collect();
            records += steps.len();
            if steps.is_empty() { Ok(()) } else { writer.write_all(&line_of(&steps)?) }
        })?;
        writer.flush()?;
        drop(writer);
        file.sync_all()?;
        fs::rename(&path, &self.path)?;
        sync_folder(&self.path)?;
        self.bytes = file.metadata()?.len();
        (self.file, self.records, self.is_broken) = (file, records, false);
        Ok(())
    }
}

/// Whether a line that ends too early may be one of ours; what else stands in a file that was named by mistake stays.
fn is_begun(line: &[u8]) -> bool {
    const START: &[u8] = b"{\"version\":";
    // A system that stopped may have left the length of what was not written yet.
    line.starts_with(START) || START.starts_with(line) || line.iter().all(|byte| *byte == 0)
}

/// For nobody else to read: it says who was taken back, and why.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// So that a file of a new name is found there after a crash.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// What a call did.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    version: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    revoked: Vec<Record>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    undone: Vec<String>,
}

/// An entry. Its moments are in microseconds since the Unix epoch; none: it hits all, or is needed until it is undone.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    id: String,
    kind: String,
    tag: u64,
    before: Option<u64>,
    until: Option<u64>,
    /// None: only the mark is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
}

fn line_of(steps: &[Step]) -> io::Result<Vec<u8>> {
    let mut line = Line { version: VERSION, revoked: Vec::new(), undone: Vec::new() };
    for step in steps {
        match step {
            Step::Put(ListedRevocation { entry: Entry { mark, cutoff }, written }) => line.revoked.push(Record {
                id: mark.id.hex(),
                kind: mark.kind.name().to_owned(),
                tag: mark.tag,
                before: cutoff.before.map(|before| before.0),
                until: cutoff.until.map(|until| until.0),
                details: written.as_ref().map(Details::of_written),
            }),
            Step::Remove(id) => line.undone.push(id.hex()),
        }
    }
    let mut json = serde_json::to_vec(&line)?;
    json.push(b'\n');
    Ok(json)
}

/// None: it makes no sense here.
fn read_line(line: &[u8]) -> Option<Vec<Step>> {
    let Line { version, revoked, undone } = serde_json::from_slice(line).ok()?;
    if version != VERSION {
        return None;
    }
    let put = |record: Record| {
        let Record { id, kind, tag, before, until, details } = record;
        let mark = Mark { kind: TargetKind::from_name(&kind)?, id: MarkId::from_hex(&id)?, tag };
        let entry = Entry { mark, cutoff: Cutoff { before: before.map(Micros), until: until.map(Micros) } };
        Some(Step::Put(ListedRevocation { entry, written: details.and_then(|details| details.of_entry(&entry)) }))
    };
    let puts = revoked.into_iter().map(put);
    puts.chain(undone.iter().map(|id| Some(Step::Remove(MarkId::from_hex(id)?)))).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::os::unix::fs::PermissionsExt as _;

    use super::super::{Bounds, MemoryRevocations};
    use super::*;
    use crate::decide::ports::{Away, AwayCause, Cursor, Listed, News, RevocationLog as _};
    use crate::domain::revocation::{Keep, Target, Which, Wish};
    use crate::domain::time::Moment;

    const NOW: Moment = Moment { wall: Micros::from_secs(1_000), steady: Micros::ZERO };

    fn wish(name: &str, keep: Keep) -> Wish {
        let target = Target::session("i", name);
        Wish { target, which: Which::IssuedByNow, ahead: Micros::ZERO, keep, reason: "why\n".into(), by: "ann".into() }
    }

    async fn add(log: &MemoryRevocations, name: &str, keep: Keep) {
        assert_eq!(log.add(vec![wish(name, keep)], NOW).get().await.unwrap().len(), 1, "{name}");
    }

    fn id(name: &str) -> MarkId {
        Mark::of(Target::session("i", name).borrowed()).id
    }

    async fn listed(log: &MemoryRevocations) -> Vec<ListedRevocation> {
        let Listed { entries, next } = log.list(Cursor::default(), NOW).get().await.unwrap();
        assert_eq!(next, None);
        entries
    }

    async fn unreadable(log: &MemoryRevocations) -> u64 {
        log.snapshot(Cursor::default(), NOW).get().await.unwrap().unreadable
    }

    fn file() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("revocations");
        (folder, path)
    }

    #[tokio::test]
    async fn a_restart_forgets_nothing_and_is_another_log() {
        let (_folder, path) = file();
        let log = MemoryRevocations::open(&path).unwrap();
        add(&log, "a", Keep::Always).await;
        add(&log, "b", Keep::For(Micros::from_secs(5))).await;
        add(&log, "c", Keep::Always).await;
        assert!(log.undo(id("c"), NOW).get().await.unwrap().is_some());
        let lost = Entry { mark: Mark::of(Target::issuer("lost").borrowed()), cutoff: Cutoff::ALWAYS };
        assert_eq!(log.restore(vec![lost], NOW).get().await, Ok(()));
        let (before, place) = (listed(&log).await, log.snapshot(Cursor::default(), NOW).get().await.unwrap().place);
        assert_eq!(before.len(), 3);
        // Nothing is said at the end: each answer was on disk.
        drop(log);
        let log = MemoryRevocations::open(&path).unwrap();
        assert_eq!(listed(&log).await, before);
        assert!(matches!(log.news(place, NOW).get().await, Ok(News::Gone(here)) if here.log != place.log));
        assert_eq!(unreadable(&log).await, 0);
        for path in [path.clone(), beside(&path, ".lock")] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[tokio::test]
    async fn two_processes_do_not_share_a_file() {
        let (folder, path) = file();
        let log = MemoryRevocations::open(&path).unwrap();
        let problem = MemoryRevocations::open(&path).err().unwrap();
        assert!(matches!(problem, OpenProblem::Taken { .. }), "{problem}");
        assert!(problem.to_string().contains("revocations"), "{problem}");
        drop(log);
        assert!(MemoryRevocations::open(&path).is_ok());
        let nowhere = MemoryRevocations::open(&folder.path().join("no/such")).err().unwrap();
        assert!(matches!(nowhere, OpenProblem::Unusable { .. }), "{nowhere}");
    }

    #[tokio::test]
    async fn a_line_that_was_not_written_whole_is_dropped_wherever_it_ends() {
        let (_folder, path) = file();
        let log = MemoryRevocations::open(&path).unwrap();
        add(&log, "a", Keep::Always).await;
        let length = fs::metadata(&path).unwrap().len();
        assert_eq!(log.add(["b", "c"].map(|name| wish(name, Keep::Always)).into(), NOW).get().await.unwrap().len(), 2);
        drop(log);
        let whole = fs::read(&path).unwrap();
        for end in usize::try_from(length).unwrap()..=whole.len() {
            fs::write(&path, &whole[..end]).unwrap();
            let log = MemoryRevocations::open(&path).unwrap();
            // All that is missing at the last but one is the line's end: then it says all that it is to say.
            let all = if end + 1 >= whole.len() { 3 } else { 1 };
            assert_eq!((listed(&log).await.len(), unreadable(&log).await), (all, 0), "{end}");
            add(&log, "d", Keep::Always).await;
            drop(log);
            assert_eq!(listed(&MemoryRevocations::open(&path).unwrap()).await.len(), all + 1, "{end}");
        }
        // As a system that stopped may leave it: longer, and nothing in it.
        fs::write(&path, [&whole[..], &[0; 100]].concat()).unwrap();
        let log = MemoryRevocations::open(&path).unwrap();
        assert_eq!((listed(&log).await.len(), unreadable(&log).await), (3, 0));
        assert_eq!(fs::read(&path).unwrap(), whole);
    }

    /// Whoever names a wrong file loses nothing of it.
    #[tokio::test]
    async fn what_never_was_ours_stays_though_its_last_line_has_no_end() {
        let (_folder, path) = file();
        for held in [b"\x30\x82\x04\x0a\xff\xfe".as_slice(), b"{\"an object\":1}", b"a: b\nc: d"] {
            fs::write(&path, held).unwrap();
            let log = MemoryRevocations::open(&path).unwrap();
            assert!(unreadable(&log).await > 0);
            add(&log, "a", Keep::Always).await;
            drop(log);
            assert!(fs::read(&path).unwrap().starts_with(held));
            assert_eq!(listed(&MemoryRevocations::open(&path).unwrap()).await.len(), 1);
        }
    }

    #[tokio::test]
    async fn lines_that_make_no_sense_are_counted_and_stay() {
        let (_folder, path) = file();
        let log = MemoryRevocations::open(&path).unwrap();
        add(&log, "a", Keep::Always).await;
        drop(log);
        let known = fs::read_to_string(&path).unwrap();
        let foreign = [
            "not JSON".to_owned(),
            String::new(),
            known.trim().replace("\"version\":1", "\"version\":2"),
            known.trim().replace("\"version\":1", "\"version\":1,\"more\":1"),
            known.trim().replace("session", "planet"),
            known.trim().replace("\"id\":\"", "\"id\":\"0"),
            r#"{"version":1,"undone":["x"]}"#.to_owned(),
        ];
        let lines = foreign.join("\n");
        fs::write(&path, [lines.as_bytes(), b"\n", known.as_bytes(), b"\xff\xfe\n"].concat()).unwrap();
        let log = MemoryRevocations::open(&path).unwrap();
        assert_eq!((listed(&log).await.len(), unreadable(&log).await), (1, 8));
        for number in 0..DEAD_MAX + 10 {
            add(&log, "b", Keep::Until(NOW.wall + Micros(1 + number as u64))).await;
        }
        drop(log);
        let after = fs::read(&path).unwrap();
        assert!(after.split(|&byte| byte == b'\n').count() < 20, "it was written anew");
        let log = MemoryRevocations::open(&path).unwrap();
        assert_eq!((listed(&log).await.len(), unreadable(&log).await), (2, 8));
        assert!(after.windows(8).any(|window| window == b"not JSON"));
    }

    #[tokio::test]
    async fn a_file_with_much_that_counts_for_nothing_is_made_shorter() {
        let (_folder, path) = file();
        let log = MemoryRevocations::open(&path).unwrap();
        let (mut most, mut now) = (0, NOW);
        for round in 0..30 {
            let keep = Keep::Until(now.wall + Micros(1));
            let wishes = (0..200).map(|number| wish(&format!("{round} {number}"), keep)).collect();
            log.add(wishes, now).get().await.unwrap();
            most = most.max(fs::metadata(&path).unwrap().len());
            now.wall = now.wall + Micros(1);
        }
        let one = most / 6_000;
        assert!(most < 2_200 * 300, "{most} bytes at most, {one} for each that there ever was");
        drop(log);
        // What is over is forgotten by whoever writes next.
        let log = MemoryRevocations::open(&path).unwrap();
        for number in 0..100 {
            log.add(vec![wish(&format!("last {number}"), Keep::Always)], now).get().await.unwrap();
        }
        let Listed { entries, next } = log.list(Cursor::default(), now).get().await.unwrap();
        assert_eq!((entries.len(), next), (100, None));
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_refused_and_nothing_of_it_is_there() {
        let (_folder, path) = file();
        let log = MemoryRevocations::open(&path).unwrap();
        add(&log, "a", Keep::Always).await;
        let before = fs::read(&path).unwrap();
        // As a disk does that fails: neither writing nor taking back what was written works.
        super::super::lock(&log.0.writer).as_mut().unwrap().file = File::open(&path).unwrap();
        let refused = log.add(vec![wish("b", Keep::Always)], NOW).get().await;
        assert_eq!(refused, Err(Away { because: AwayCause::ReadOnly }));
        assert_eq!(log.undo(id("a"), NOW).get().await.map(|was| was.is_some()), Ok(true), "it is well again");
        assert_eq!(listed(&log).await, []);
        assert!(fs::read(&path).unwrap() != before);
        drop(log);
        assert_eq!(listed(&MemoryRevocations::open(&path).unwrap()).await, []);
    }

    #[tokio::test]
    async fn more_than_there_is_room_for_is_not_in_the_file_either() {
        let (_folder, path) = file();
        let few = Bounds { entries_max: 2, changes_max: 5 };
        let log = MemoryRevocations::open_with(&path, few).unwrap();
        add(&log, "a", Keep::Always).await;
        let before = fs::read(&path).unwrap();
        let two = ["b", "c"].map(|name| wish(name, Keep::Always));
        assert_eq!(log.add(two.into(), NOW).get().await, Err(Away { because: AwayCause::Full }));
        assert_eq!(fs::read(&path).unwrap(), before);
    }
}
