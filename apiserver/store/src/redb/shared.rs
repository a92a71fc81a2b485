//! What the readers, the watches and the writer thread of one store share.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use redb::Database;

use super::Message;
use super::error::{Fault, guarded};
use super::storage::Storage;
use super::tables::Snapshot;
use crate::hub::{Backlog, Chunk, Hub};
use crate::metrics::Metrics;
use crate::{ReadError, Revision, Room, WatchError};

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) storage: Arc<dyn Storage>,
    slot: Mutex<Slot>,
    pub(super) hub: Arc<Hub>,
    revision: AtomicU64,
    oldest: AtomicU64,
    pub(super) metrics: Mutex<Metrics>,
    trouble: Mutex<Trouble>,
    pub(super) queue: Sender<Message>,
    /// Writes in the queue.
    pub(super) waiting: AtomicUsize,
}

/// What keeps writes from being durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Trouble {
    #[default]
    None,
    /// The disk is full: what the last write that was refused would have needed.
    Full(Option<Room>),
    /// The last batch failed, or the file can't be opened again.
    Failed(String),
    /// Something in the file is wrong. It stays so until someone sees to it.
    Damaged(String),
    Closed,
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) database: DatabaseState,
    /// Of the newest commit, if someone has read since.
    snapshot: Option<Arc<Snapshot>>,
}

#[derive(Debug)]
pub(super) enum DatabaseState {
    Open(Database),
    /// It couldn't be opened again after an IO error; the writer keeps trying.
    Broken(String),
    Closed,
}

/// Why there is nothing to read.
#[derive(Debug)]
pub(super) enum Unreadable {
    Fault(Fault),
    Closed,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How often a read starts over because the database was reopened under it.
const ATTEMPTS: usize = 3;

impl Shared {
    pub(super) fn new(
        storage: Arc<dyn Storage>,
        database: Database,
        snapshot: Snapshot,
        hub: Arc<Hub>,
        queue: Sender<Message>,
    ) -> Self {
        Self {
            storage,
            revision: AtomicU64::new(snapshot.revision),
            oldest: AtomicU64::new(snapshot.oldest),
            slot: Mutex::new(Slot { database: DatabaseState::Open(database), snapshot: Some(Arc::new(snapshot)) }),
            hub,
            metrics: Mutex::default(),
            trouble: Mutex::default(),
            queue,
            waiting: AtomicUsize::new(0),
        }
    }

    /// For the writer: while this is held, no reader begins.
    pub(super) fn slot(&self) -> MutexGuard<'_, Slot> {
        lock(&self.slot)
    }

    /// Makes readers see the newest commit. The snapshot in hand pins pages, so it also goes before a commit.
    pub(super) fn forget_snapshot(&self) {
        // Dropped after the lock is released.
        let _old = lock(&self.slot).snapshot.take();
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    pub(super) fn oldest(&self) -> u64 {
        self.oldest.load(Ordering::Acquire)
    }

    pub(super) fn advance(&self, revision: u64) {
        self.revision.fetch_max(revision, Ordering::AcqRel);
    }

    pub(super) fn forgot(&self, oldest: u64) {
        self.oldest.fetch_max(oldest, Ordering::AcqRel);
        self.hub.compacted(oldest);
    }

    /// In one sentence.
    pub(super) fn trouble(&self) -> Option<String> {
        let file = self.storage.path().display();
        match &*lock(&self.trouble) {
            Trouble::None => None,
            Trouble::Full(None) => Some(format!("no space left for {file}")),
            Trouble::Full(Some(room)) => Some(format!("no space left for {file}: {room}")),
            Trouble::Failed(message) | Trouble::Damaged(message) => Some(format!("{file}: {message}")),
            Trouble::Closed => Some("the store is closed".to_owned()),
        }
    }

    pub(super) fn set_trouble(&self, trouble: Trouble) {
        let mut now = lock(&self.trouble);
        // Writes may go well beside the damage.
        if *now == trouble || (matches!(*now, Trouble::Damaged(_)) && trouble != Trouble::Closed) {
            return;
        }
        let known = matches!((&*now, &trouble), (Trouble::Full(_), Trouble::Full(_)));
        *now = trouble;
        if known {
            return;
        }
        let closed = matches!(*now, Trouble::Closed);
        drop(now);
        match self.trouble() {
            // On purpose.
            Some(trouble) if closed => tracing::debug!(trouble, "the store takes no writes"),
            Some(trouble) => tracing::warn!(trouble, "the store takes no writes"),
            None => tracing::info!(file = %self.storage.path().display(), "the store takes writes again"),
        }
    }

    /// The newest commit as one consistent state. Waits while the database is being reopened.
    pub(super) fn snapshot(&self) -> Result<Arc<Snapshot>, Unreadable> {
        self.snapshot_in(lock(&self.slot))
    }

    fn snapshot_in(&self, mut slot: MutexGuard<'_, Slot>) -> Result<Arc<Snapshot>, Unreadable> {
        if let Some(snapshot) = &slot.snapshot {
            return Ok(Arc::clone(snapshot));
        }
        // Taken under the lock: the writer clears the slot under it after each commit, so what is put there is never stale.
        let snapshot = match &slot.database {
            DatabaseState::Open(database) => guarded(|| Snapshot::take(database)).map_err(Unreadable::Fault)?,
            DatabaseState::Broken(message) => return Err(Unreadable::Fault(Fault::Io(message.clone()))),
            DatabaseState::Closed => return Err(Unreadable::Closed),
        };
        // A reader may see a commit before the writer has said so; the store never goes back behind what was read.
        self.advance(snapshot.revision);
        let snapshot = Arc::new(snapshot);
        slot.snapshot = Some(Arc::clone(&snapshot));
        Ok(snapshot)
    }

    /// Reads little, from the newest commit: here if that needs no waiting, else (the writer has the database, or it has to be reopened) on a thread
    /// for blocking work.
    pub(super) async fn read_little<T: Send + 'static>(
        self: &Arc<Self>,
        mut read: impl FnMut(&Snapshot) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Unreadable> {
        if let Some(found) = self.read_at_once(&mut read) {
            return Ok(found);
        }
        let shared = Arc::clone(self);
        blocking(move || shared.read(read)).await
    }

    /// `None`: it takes waiting, or has to be tried again.
    fn read_at_once<T>(&self, read: impl FnOnce(&Snapshot) -> Result<T, Fault>) -> Option<T> {
        let slot = match self.slot.try_lock() {
            Ok(slot) => slot,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let snapshot = self.snapshot_in(slot).ok()?;
        guarded(|| read(&snapshot)).ok()
    }

    /// Reads from the newest commit. Blocks while the database is being reopened.
    pub(super) fn read<T>(&self, mut read: impl FnMut(&Snapshot) -> Result<T, Fault>) -> Result<T, Unreadable> {
        for _ in 1..ATTEMPTS {
            let snapshot = self.snapshot();
            let result = match snapshot {
                Ok(snapshot) => guarded(|| read(&snapshot)).map_err(Unreadable::Fault),
                Err(unreadable) => Err(unreadable),
            };
            match result {
                Err(Unreadable::Fault(Fault::Stale(_))) => {
                    self.forget_snapshot();
                    // redb refuses everything after one failed read. The writer reopens it, and holds the slot meanwhile.
                    let (done, wait) = std::sync::mpsc::channel();
                    if self.queue.send(Message::Reopen(done)).is_ok() {
                        // An error means that the writer has gone: the next attempt says so.
                        let _ = wait.recv();
                    }
                }
                Err(Unreadable::Fault(fault)) => {
                    if let Fault::Corrupt(_) = fault {
                        tracing::error!(file = %self.storage.path().display(), error = fault.message(), "reading failed");
                        self.set_trouble(Trouble::Damaged(fault.message()));
                    }
                    return Err(Unreadable::Fault(fault));
                }
                result => return result,
            }
        }
        let snapshot = self.snapshot()?;
        guarded(|| read(&snapshot)).map_err(Unreadable::Fault)
    }
}

/// Waiting for a reopened database may take a while, and so does reading much.
pub(super) async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, Unreadable> + Send + 'static,
) -> Result<T, Unreadable> {
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| {
        // Only when the runtime is shutting down; panics don't get here.
        Err(Unreadable::Fault(Fault::Io(error.to_string())))
    })
}

impl Unreadable {
    pub(super) fn reading(self, what: impl FnOnce() -> String) -> ReadError {
        match self {
            Self::Closed => ReadError::Closed,
            Self::Fault(fault) => ReadError::Io { what: what(), message: fault.message() },
        }
    }
}

/// Whether `at` can be read from a snapshot.
pub(super) fn readable(snapshot: &Snapshot, at: u64) -> Result<(), ReadError> {
    let requested = Revision(at);
    if at < snapshot.oldest {
        return Err(ReadError::Compacted { requested, oldest: Revision(snapshot.oldest) });
    }
    if at > snapshot.revision {
        return Err(ReadError::Future { requested, current: Revision(snapshot.revision) });
    }
    Ok(())
}

impl Backlog for Shared {
    fn events(self: Arc<Self>, prefix: Arc<str>, after: u64) -> BoxFuture<'static, Result<Chunk, WatchError>> {
        async move {
            let what = Arc::clone(&prefix);
            let read = blocking(move || {
                self.read(|snapshot| {
                    if after < snapshot.oldest {
                        return Ok(Err(snapshot.oldest));
                    }
                    snapshot.events(&prefix, after).map(Ok)
                })
            });
            match read.await {
                Ok(Ok(chunk)) => Ok(chunk),
                Ok(Err(oldest)) => Err(WatchError::Compacted { requested: Revision(after), oldest: Revision(oldest) }),
                Err(Unreadable::Closed) => Err(WatchError::Closed),
                Err(Unreadable::Fault(fault)) => {
                    Err(WatchError::Io { what: format!("events of {what} after {after}"), message: fault.message() })
                }
            }
        }
        .boxed()
    }
}
