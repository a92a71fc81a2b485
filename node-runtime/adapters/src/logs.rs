//! What is kept of the logs of pods that are gone.
//!
//! People look for a log after its pod was replaced, so removal leaves it; a node that replaces pods for years must not fill its disk
//! with them. The newest [`LogRetention::pods`] removed pods keep their logs as long as all of these together fit into
//! [`LogRetention::bytes`]; beyond that the oldest files go first, rotated ones before the one that was written last. Nothing of a
//! living pod is touched: whoever makes a pod claims its logs before there are any, and holds the claim until the pod is removed.
//!
//! When a pod was removed is its directory's modification time, so that the next agent knows it too.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use pullpiri_node_core::runtime::PodId;

/// A directory that is being removed. No pod has such a name.
const DOOMED: &str = ".removed-";

/// How much of the logs of removed pods an adapter keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRetention {
    /// Removed pods whose logs are kept. Sixteen are a vehicle's services replaced once, or one service that was tried a dozen times.
    pub pods: usize,
    /// Bytes of all of them together. 64 MiB hold the full log of one container with its rotated files (50 MiB), and are what the smallest
    /// flash of an ECU can spare.
    pub bytes: u64,
}

impl Default for LogRetention {
    fn default() -> Self {
        Self { pods: 16, bytes: 64 << 20 }
    }
}

/// The logs of a removed pod.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Removed {
    pod: String,
    at: SystemTime,
    /// Name and size in bytes.
    files: Vec<(String, u64)>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Expired {
    Pod(String),
    /// `at`: when the pod was removed.
    Files {
        pod: String,
        files: Vec<String>,
        at: SystemTime,
    },
}

/// What is to be deleted so that `keep` holds.
fn expired(mut removed: Vec<Removed>, keep: LogRetention) -> Vec<Expired> {
    removed.sort_by_key(|logs| (Reverse(logs.at), logs.pod.clone()));
    let mut expired = Vec::new();
    let mut left = keep.bytes;
    // Once one file doesn't fit, nothing older stays: a log with a hole in it misleads.
    let mut full = false;
    for (index, mut logs) in removed.into_iter().enumerate() {
        if index >= keep.pods || (full && !logs.files.is_empty()) {
            expired.push(Expired::Pod(logs.pod));
            continue;
        }
        logs.files.sort_by_key(|(name, _)| (age(name), name.clone()));
        let mut files = Vec::new();
        for (file, bytes) in logs.files {
            full |= bytes > left;
            if full {
                files.push(file);
            } else {
                left -= bytes;
            }
        }
        if !files.is_empty() {
            expired.push(Expired::Files { pod: logs.pod, files, at: logs.at });
        }
    }
    expired
}

/// 0 for `c.log`, 1 for `c.log.1` …
fn age(file: &str) -> u32 {
    file.rsplit_once('.').and_then(|(_, suffix)| suffix.parse().ok()).unwrap_or(0)
}

/// The directory of an adapter's logs, `<dir>/<pod>/<container>.log`.
#[derive(Debug)]
pub(crate) struct Logs {
    dir: PathBuf,
    keep: LogRetention,
    /// Pods that are there or are being made.
    claimed: Mutex<BTreeSet<String>>,
}

impl Logs {
    pub(crate) fn new(dir: PathBuf, keep: LogRetention) -> Self {
        Self { dir, keep, claimed: Mutex::default() }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn of(&self, pod: &PodId) -> PathBuf {
        self.dir.join(&pod.0)
    }

    fn claimed(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pod is there, or will be.
    pub(crate) fn claim(&self, pod: &PodId) {
        self.claimed().insert(pod.0.clone());
    }

    /// The pod is gone.
    pub(crate) fn release(&self, pod: &PodId) {
        // It may have logged nothing; then it is as old as its directory.
        let _ = fs::File::open(self.of(pod)).and_then(|dir| dir.set_modified(SystemTime::now()));
        self.claimed().remove(&pod.0);
    }

    /// Deletes what isn't kept any more. `lives` says which pods the runtime has. Blocking.
    pub(crate) fn prune(&self, lives: impl Fn(&str) -> bool) -> io::Result<()> {
        {
            // While it is held nobody begins to log: what is found gone here stays gone until it was renamed.
            let claimed = self.claimed();
            let removed = self.removed(|pod| claimed.contains(pod) || lives(pod))?;
            for expired in expired(removed, self.keep) {
                match expired {
                    Expired::Pod(pod) => fs::rename(self.dir.join(&pod), self.dir.join(format!("{DOOMED}{pod}")))?,
                    Expired::Files { pod, files, at } => {
                        let dir = self.dir.join(pod);
                        for file in files {
                            fs::remove_file(dir.join(file))?;
                        }
                        // Which the removal has just changed.
                        fs::File::open(dir)?.set_modified(at)?;
                    }
                }
            }
        }
        for entry in entries(&self.dir)? {
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(DOOMED)) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    fn removed(&self, lives: impl Fn(&str) -> bool) -> io::Result<Vec<Removed>> {
        let mut removed = Vec::new();
        for entry in entries(&self.dir)? {
            let name = entry.file_name();
            let Some(pod) = name.to_str().filter(|name| !name.starts_with(DOOMED) && !lives(name)) else { continue };
            let metadata = entry.metadata()?;
            if !metadata.is_dir() {
                continue;
            }
            let mut files = Vec::new();
            for file in entries(&entry.path())? {
                if let Ok(name) = file.file_name().into_string() {
                    files.push((name, file.metadata()?.len()));
                }
            }
            removed.push(Removed { pod: pod.to_owned(), at: metadata.modified()?, files });
        }
        Ok(removed)
    }
}

fn entries(dir: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn removed(pod: &str, at: u64, files: &[(&str, u64)]) -> Removed {
        Removed {
            pod: pod.to_owned(),
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(at),
            files: files.iter().map(|(name, bytes)| ((*name).to_owned(), *bytes)).collect(),
        }
    }

    fn files(of: &Removed, files: &[&str]) -> Expired {
        Expired::Files { pod: of.pod.clone(), files: files.iter().map(|f| (*f).to_owned()).collect(), at: of.at }
    }

    #[test]
    fn the_newest_pods_keep_their_logs() {
        let all: Vec<Removed> = (0..35).map(|i| removed(&format!("p{i:02}"), i, &[("c.log", 1)])).collect();
        let gone = expired(all.clone(), LogRetention::default());
        let expected: Vec<Expired> = (0..19).rev().map(|i| Expired::Pod(format!("p{i:02}"))).collect();
        assert_eq!(gone, expected);
        assert_eq!(expired(all[20..].to_vec(), LogRetention::default()), []);
    }

    #[test]
    fn the_oldest_files_go_when_there_are_too_many_bytes() {
        let keep = LogRetention { pods: 16, bytes: 25 };
        let newest = removed("new", 9, &[("c.log.2", 10), ("c.log", 5), ("c.log.1", 10)]);
        assert_eq!(expired(vec![newest.clone()], keep), []);
        let older = removed("old", 1, &[("c.log", 1)]);
        assert_eq!(expired(vec![older.clone(), newest], keep), [files(&older, &["c.log"])]);
        // The one that was written last stays, whatever is beside it; nothing older than a hole stays.
        let large = removed("large", 9, &[("c.log", 20), ("c.log.1", 10), ("c.log.10", 1), ("c.log.2", 1)]);
        assert_eq!(expired(vec![large.clone()], keep), [files(&large, &["c.log.1", "c.log.2", "c.log.10"])]);
        let next = removed("next", 5, &[("c.log", 1)]);
        assert_eq!(expired(vec![next, large], keep).last(), Some(&Expired::Pod("next".to_owned())));
    }

    #[test]
    fn living_pods_are_not_touched_and_leftovers_go() {
        let dir = tempfile::tempdir().unwrap();
        for pod in ["claimed", "known", "removed", ".removed-half"] {
            fs::create_dir(dir.path().join(pod)).unwrap();
            fs::write(dir.path().join(pod).join("c.log"), "x").unwrap();
        }
        let logs = Logs::new(dir.path().to_owned(), LogRetention { pods: 0, bytes: 0 });
        logs.claim(&PodId("claimed".to_owned()));
        logs.prune(|pod| pod == "known").unwrap();
        let left = || {
            let mut names: Vec<_> = entries(dir.path()).unwrap().iter().map(fs::DirEntry::file_name).collect();
            names.sort();
            names
        };
        assert_eq!(left(), ["claimed", "known"]);
        logs.release(&PodId("claimed".to_owned()));
        logs.prune(|pod| pod == "known").unwrap();
        assert_eq!(left(), ["known"]);
        // What loses a file is no younger for it.
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        fs::File::open(dir.path().join("known")).unwrap().set_modified(at).unwrap();
        Logs::new(dir.path().to_owned(), LogRetention { pods: 1, bytes: 0 }).prune(|_| false).unwrap();
        assert_eq!(fs::metadata(dir.path().join("known")).unwrap().modified().unwrap(), at);
        assert!(!dir.path().join("known/c.log").exists());
        Logs::new(dir.path().join("absent"), LogRetention::default()).prune(|_| false).unwrap();
    }
}
