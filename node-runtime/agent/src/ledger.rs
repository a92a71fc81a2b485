//! The ledger: what the node remembers of each instance, one file each, so that it boots its services with no API server in reach.
//!
//! `<data_dir>/ledger/<uid>.json`, readable by root alone (it holds the data of Secrets that instances use, which a boot without an API server
//! needs). A file is written beside its place, synced, renamed over it, and the directory synced: after a power cut there is the old
//! content or the new. A file that can't be read is moved aside and told of once; the others go on.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pullpiri_node_core::memory::Memory;
use pullpiri_node_core::runtime::PodId;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, warn};

use crate::metrics::Metrics;

/// The layout of a file. Another number is another layout.
const FORMAT: u32 = 1;
/// Between tries to write what could not be written.
const RETRY: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("making the ledger's directory {path}: {source}")]
    Directory { path: PathBuf, source: std::io::Error },
    #[error("reading the ledger's directory {path}: {source}")]
    List { path: PathBuf, source: std::io::Error },
}

#[derive(Serialize, Deserialize)]
struct Entry {
    format: u32,
    memory: Memory,
}

#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    directory: PathBuf,
}

impl Ledger {
    pub fn open(data_dir: &Path) -> Result<Self, LedgerError> {
        let directory = data_dir.join("ledger");
        let made = fs::create_dir_all(&directory)
            .and_then(|()| fs::set_permissions(&directory, Permissions::from_mode(0o700)))
            .and_then(|()| sync_directory(data_dir));
        made.map_err(|source| LedgerError::Directory { path: directory.clone(), source })?;
        Ok(Self { directory })
    }

    /// Every entry that can be read.
    pub fn load(&self) -> Result<BTreeMap<PodId, Memory>, LedgerError> {
        let list_error = |source| LedgerError::List { path: self.directory.clone(), source };
        let mut memories = BTreeMap::new();
        for file in fs::read_dir(&self.directory).map_err(list_error)? {
            let path = file.map_err(list_error)?.path();
            let Some(id) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".json")) else {
                // What a crash left half written.
                if path.extension().is_some_and(|extension| extension == "new") {
                    let _ = fs::remove_file(&path);
                }
                continue;
            };
            match read(&path) {
                Ok(memory) => {
                    memories.insert(PodId(id.to_owned()), memory);
                }
                Err(reason) => {
                    let aside = path.with_extension("json.corrupt");
                    let moved = fs::rename(&path, &aside);
                    error!(file = %path.display(), reason, moved_to = %aside.display(), moved = moved.is_ok(), "a ledger file can't be read; its service waits for the API server");
                }
            }
        }
        Ok(memories)
    }

    fn path(&self, id: &PodId) -> PathBuf {
        self.directory.join(format!("{id}.json"))
    }

    fn write(&self, id: &PodId, memory: &Memory) -> std::io::Result<()> {
        let entry = Entry { format: FORMAT, memory: memory.clone() };
        let json = serde_json::to_vec(&entry)?;
        let beside = self.directory.join(format!("{id}.new"));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(&json)?;
        file.sync_all()?;
        fs::rename(&beside, self.path(id))?;
        sync_directory(&self.directory)
    }

    fn remove(&self, id: &PodId) -> std::io::Result<()> {
        match fs::remove_file(self.path(id)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => sync_directory(&self.directory),
        }
    }
}

fn sync_directory(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

fn read(path: &Path) -> Result<Memory, String> {
    let json = fs::read(path).map_err(|error| error.to_string())?;
    let entry: Entry = serde_json::from_slice(&json).map_err(|error| error.to_string())?;
    if entry.format != FORMAT {
        return Err(format!("format {} is unknown; expected {FORMAT}", entry.format));
    }
    Ok(entry.memory)
}

/// What shall be on disk for one instance.
#[derive(Debug)]
enum Change {
    Write(Box<Memory>),
    Forget(oneshot::Sender<()>),
    /// Answer once all before is on disk or has failed.
    Flush(oneshot::Sender<()>),
}

/// The way to the disk. Changes to one instance that wait are superseded by later ones, so the queue holds no more than there are
/// instances.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    changes: mpsc::UnboundedSender<(PodId, Change)>,
}

impl Writer {
    /// `failure` tells why the disk can't be written, while that is so.
    pub fn start(ledger: Ledger, metrics: Metrics, failure: watch::Sender<Option<String>>) -> Self {
        let (changes, receiver) = mpsc::unbounded_channel();
        tokio::spawn(drain(ledger, receiver, metrics, failure));
        Self { changes }
    }

    pub fn write(&self, id: &PodId, memory: Box<Memory>) {
        let _ = self.changes.send((id.clone(), Change::Write(memory)));
    }

    /// Resolves when the instance is forgotten on disk.
    pub fn forget(&self, id: &PodId) -> oneshot::Receiver<()> {
        let (done, forgotten) = oneshot::channel();
        let _ = self.changes.send((id.clone(), Change::Forget(done)));
        forgotten
    }

    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.changes.send((PodId(String::new()), Change::Flush(done))).is_ok() {
            let _ = flushed.await;
        }
    }
}

async fn drain(
    ledger: Ledger,
    mut changes: mpsc::UnboundedReceiver<(PodId, Change)>,
    metrics: Metrics,
    failure: watch::Sender<Option<String>>,
) {
    let mut pending: BTreeMap<PodId, Option<Box<Memory>>> = BTreeMap::new();
    let mut waiting: Vec<oneshot::Sender<()>> = Vec::new();
    let mut flushing: Vec<oneshot::Sender<()>> = Vec::new();
    loop {
        let next = if pending.is_empty() {
            changes.recv().await
        } else {
            // Something failed: try again later, or when there is more to write.
            tokio::select! {
                next = changes.recv() => next,
                () = tokio::time::sleep(RETRY) => Some((PodId(String::new()), Change::Flush(oneshot::channel().0))),
            }
        };
        let Some(first) = next else { return };
        let mut batch = vec![first];
        while let Ok(more) = changes.try_recv() {
            batch.push(more);
        }
        for (id, change) in batch {
            match change {
                Change::Write(memory) => {
                    pending.insert(id, Some(memory));
                }
                Change::Forget(done) => {
                    pending.insert(id, None);
                    waiting.push(done);
                }
                Change::Flush(done) => flushing.push(done),
            }
        }
        let disk = ledger.clone();
        let work = std::mem::take(&mut pending);
        let outcome = tokio::task::spawn_blocking(move || {
            let mut failed = BTreeMap::new();
            let mut reason = None;
            for (id, memory) in work {
                let result = surely(|| match &memory {
                    Some(memory) => disk.write(&id, memory),
                    None => disk.remove(&id),
                });
                if let Err(error) = result {
                    reason = Some(format!("writing the ledger of {id} in {}: {error}", disk.directory.display()));
                    failed.insert(id, memory);
                }
            }
            (failed, reason)
        })
        .await;
        // Only where the process ends.
        let Ok((failed, reason)) = outcome else { return };
        pending = failed;
        if let Some(reason) = &reason {
            metrics.ledger_failures.inc();
            if failure.borrow().is_none() {
                warn!(
                    reason,
                    "the ledger can't be written; services run, but a boot without the API server would start older ones"
                );
            }
        }
        failure.send_if_modified(|known| {
            let changed = known.is_some() != reason.is_some();
            *known = reason;
            changed
        });
        for done in flushing.drain(..) {
            let _ = done.send(());
        }
        // A finalizer isn't released before the ledger forgot: a boot in between would start what was deleted.
        if !pending.values().any(Option::is_none) {
            for done in waiting.drain(..) {
                let _ = done.send(());
            }
        }
    }
}

/// What comes of `work`; a panic is an error as another, so that one entry doesn't keep the others from the disk.
fn surely(work: impl FnOnce() -> std::io::Result<()>) -> std::io::Result<()> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(std::io::Error::other("writing it panicked")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> PodId {
        PodId(text.to_owned())
    }

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path()).unwrap();
        let memory = Memory { epoch: 7, ..Memory::default() };
        ledger.write(&id("a"), &memory).unwrap();
        ledger.write(&id("b"), &Memory::default()).unwrap();
        ledger.remove(&id("b")).unwrap();
        ledger.remove(&id("b")).unwrap();
        assert_eq!(ledger.load().unwrap(), BTreeMap::from([(id("a"), memory)]));
        let mode = fs::metadata(ledger.path(&id("a"))).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_corrupt_file_is_moved_aside_and_the_others_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path()).unwrap();
        ledger.write(&id("good"), &Memory::default()).unwrap();
        fs::write(ledger.path(&id("cut")), b"{\"format\":1,\"mem").unwrap();
        fs::write(ledger.path(&id("newer")), b"{\"format\":2,\"memory\":{}}").unwrap();
        fs::write(dir.path().join("ledger/half.new"), b"{").unwrap();
        assert_eq!(ledger.load().unwrap().into_keys().collect::<Vec<_>>(), [id("good")]);
        let mut left: Vec<String> = fs::read_dir(dir.path().join("ledger"))
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["cut.json.corrupt", "good.json", "newer.json.corrupt"]);
    }

    #[test]
    fn a_panic_is_an_error() {
        assert!(surely(|| Ok(())).is_ok());
        assert!(surely(|| panic!("a bug")).unwrap_err().to_string().contains("panicked"));
    }

    #[tokio::test]
    async fn changes_reach_the_disk_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path()).unwrap();
        let (failure, _) = watch::channel(None);
        let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
        let writer = Writer::start(ledger.clone(), metrics, failure);
        for epoch in 0..50 {
            writer.write(&id("a"), Box::new(Memory { epoch, ..Memory::default() }));
        }
        writer.write(&id("b"), Box::default());
        writer.forget(&id("b")).await.unwrap();
        writer.flush().await;
        let loaded = ledger.load().unwrap();
        assert_eq!(loaded.len(), 1);
        assert_eq!(loaded[&id("a")].epoch, 49);
    }
}
