//! Notices that files have changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// Editors and Kubernetes change a file in several steps; it is read when none came for this long.
const SETTLED: Duration = Duration::from_millis(100);

/// Something else in the same folder may be written without end; then it is read all the same.
const SETTLING_MAX: Duration = Duration::from_secs(2);

/// More than any file that a configuration reads may have.
const BYTES_MAX: u64 = 4 << 20;

/// Without the system's notifications (network file systems, exhausted watches), files are compared this often.
const COMPARE_INTERVAL: Duration = Duration::from_secs(10);

/// Watches some files by their contents: a change of time or a rename that leaves the bytes alone is none. What a folder
/// holds are the names in it.
pub(super) struct Watch {
    contents: Contents,
    // Its sender is the watcher's.
    notices: mpsc::Receiver<()>,
    // Dropping it ends the notices.
    watcher: Option<RecommendedWatcher>,
}

/// What each file held; none: it could not be read. Whoever loads it says why.
type Contents = BTreeMap<PathBuf, Option<Vec<u8>>>;

impl Watch {
    /// Watches these files; what they hold now is what they are compared with.
    pub(super) fn new(files: impl IntoIterator<Item = PathBuf>) -> Self {
        // One place is enough: any number of notices means "look again".
        let (sender, notices) = mpsc::channel(1);
        let watcher = watcher(sender).inspect_err(notified_of_nothing).ok();
        let mut watch = Self { contents: Contents::new(), notices, watcher };
        watch.follow(files);
        watch
    }

    /// Watches these files from now on. Those that it watched before are still compared with what they held then.
    pub(super) fn follow(&mut self, files: impl IntoIterator<Item = PathBuf>) {
        let mut before = std::mem::take(&mut self.contents);
        for file in files {
            let held = before.remove(&file).unwrap_or_else(|| read(&file));
            self.contents.insert(file, held);
        }
        let Some(watcher) = &mut self.watcher else { return };
        for folder in folders(&self.contents) {
            if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
                notified_of_nothing(&error);
            }
        }
    }

    /// Completes when a file's contents have changed.
    pub(super) async fn changed(&mut self) {
        loop {
            if let Ok(None) = timeout(COMPARE_INTERVAL, self.notices.recv()).await {
                // Nobody gives notice; comparing is what is left.
                sleep(COMPARE_INTERVAL).await;
            }
            let settled = async { while let Ok(Some(())) = timeout(SETTLED, self.notices.recv()).await {} };
            let _ = timeout(SETTLING_MAX, settled).await;
            if self.look() {
                return;
            }
        }
    }

    /// Compares with what the files hold now from here on. Whether that is something else.
    pub(super) fn look(&mut self) -> bool {
        let contents = self.contents.keys().map(|file| (file.clone(), read(file))).collect();
        let differ = contents != self.contents;
        self.contents = contents;
        differ
    }
}

/// What a file or folder holds. Pipes and the like are left alone: whoever waited for them would wait for ever.
fn read(file: &Path) -> Option<Vec<u8>> {
    let kind = fs::metadata(file).ok()?;
    if kind.is_dir() {
        return names(file);
    }
    if !kind.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    fs::File::open(file).ok()?.take(BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The names in a folder, in their order.
fn names(folder: &Path) -> Option<Vec<u8>> {
    let names = fs::read_dir(folder).ok()?.map(|entry| Some(entry.ok()?.file_name().into_encoded_bytes()));
    let mut names = names.collect::<Option<Vec<_>>>()?;
    names.sort_unstable();
    Some(names.join(&0))
}

fn watcher(sender: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading is no change, and comparing reads: it would wake itself for ever.
        if event.is_ok_and(|event| !event.kind.is_access()) {
            // Full: a notice is waiting already.
            let _ = sender.try_send(());
        }
    })
}

/// Folders are watched, not files: a file that is replaced (as editors and Kubernetes do) is another file.
fn folders(contents: &Contents) -> BTreeSet<&Path> {
    contents
        .keys()
        .filter_map(|file| if file.is_dir() { Some(file.as_path()) } else { file.parent() })
        .map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
        .collect()
}

fn notified_of_nothing(error: &notify::Error) {
    let seconds = COMPARE_INTERVAL.as_secs();
    tracing::warn!(%error, "no notice of changed files; they are compared every {seconds} s");
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::os::unix::fs::symlink;

    use super::*;

    #[tokio::test]
    async fn a_file_that_is_written_or_replaced_is_noticed_and_one_that_is_touched_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tollgate.yaml");
        fs::write(&file, "a").unwrap();
        let mut watch = Watch::new([file.clone()]);
        let deadline = Duration::from_secs(20);

        fs::write(&file, "b").unwrap();
        timeout(deadline, watch.changed()).await.unwrap();

        let other = folder.path().join("new");
        fs::write(&other, "c").unwrap();
        fs::rename(&other, &file).unwrap();
        timeout(deadline, watch.changed()).await.unwrap();

        fs::write(&file, "c").unwrap();
        timeout(Duration::from_millis(400), watch.changed()).await.unwrap_err();

        fs::remove_file(&file).unwrap();
        timeout(deadline, watch.changed()).await.unwrap();
    }

    /// As Kubernetes mounts a `ConfigMap`: the file is a link through a folder that is a link, and that one is replaced.
    #[tokio::test]
    async fn a_file_behind_links_that_are_replaced_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let publish = |version: &str, text: &str| {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("tollgate.yaml"), text).unwrap();
            symlink(version, at("..data_tmp")).unwrap();
            fs::rename(at("..data_tmp"), at("..data")).unwrap();
        };
        publish("..1", "a");
        symlink("..data/tollgate.yaml", at("tollgate.yaml")).unwrap();
        let mut watch = Watch::new([at("tollgate.yaml")]);
        for (version, text) in [("..2", "b"), ("..3", "c")] {
            publish(version, text);
            // Sooner than comparing alone would notice.
            timeout(COMPARE_INTERVAL / 2, watch.changed()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_file_that_comes_into_a_folder_or_leaves_it_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = Watch::new([folder.path().to_owned()]);
        let file = folder.path().join("new");
        fs::write(&file, "a").unwrap();
        timeout(COMPARE_INTERVAL / 2, watch.changed()).await.unwrap();
        fs::write(&file, "b").unwrap();
        timeout(Duration::from_millis(400), watch.changed()).await.unwrap_err();
        fs::remove_file(&file).unwrap();
        timeout(COMPARE_INTERVAL / 2, watch.changed()).await.unwrap();
    }

    #[tokio::test]
    async fn a_neighbour_that_is_written_without_end_hides_no_change() {
        let folder = tempfile::tempdir().unwrap();
        let (file, log) = (folder.path().join("tollgate.yaml"), folder.path().join("log"));
        fs::write(&file, "a").unwrap();
        let mut watch = Watch::new([file.clone()]);
        let busy = async {
            for turn in 0.. {
                fs::write(&log, format!("{turn}")).unwrap();
                sleep(SETTLED / 5).await;
            }
        };
        fs::write(&file, "b").unwrap();
        let noticed = timeout(COMPARE_INTERVAL / 2, watch.changed());
        tokio::select! {
            noticed = noticed => noticed.unwrap(),
            () = busy => {}
        }
    }

    /// A look that someone else asked for takes the place of the one that was under way.
    #[tokio::test]
    async fn a_change_that_is_taken_back_after_a_look_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tollgate.yaml");
        fs::write(&file, "a").unwrap();
        let mut watch = Watch::new([file.clone()]);
        fs::write(&file, "b").unwrap();
        timeout(SETTLED / 2, watch.changed()).await.unwrap_err();
        assert!(watch.look());
        fs::write(&file, "a").unwrap();
        timeout(COMPARE_INTERVAL / 2, watch.changed()).await.unwrap();
    }
}
