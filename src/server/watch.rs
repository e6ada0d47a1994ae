//! Notices that files have changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// Editors and Kubernetes change a file in several steps; it is read when none came for this long.
const SETTLED: Duration = Duration::from_millis(100);

/// Without the system's notifications (network file systems, exhausted watches), files are compared this often.
const COMPARE_INTERVAL: Duration = Duration::from_secs(10);

/// Watches some files by their contents: a change of time or a rename that leaves the bytes alone is none.
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
            let held = before.remove(&file).unwrap_or_else(|| fs::read(&file).ok());
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
            while let Ok(Some(())) = timeout(SETTLED, self.notices.recv()).await {}
            let contents = self.contents.keys().map(|file| (file.clone(), fs::read(file).ok())).collect();
            if contents != self.contents {
                self.contents = contents;
                return;
            }
        }
    }
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
        .filter_map(|file| file.parent())
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
}
