//! The store in one file on disk, on redb: for one ECU without a cluster.
//!
//! One writer thread commits batches (`writer`); readers take a snapshot of the last commit and never wait for it; watches live
//! in the hub and fall back to the log in the file. The layout is described in `tables`. What is acknowledged is on the
//! disk; an open of a file that was not closed (power cut, kill) checks all of it and ends up at the last batch that was complete.

mod batch;
mod error;
mod record;
mod shared;
mod storage;
mod tables;
mod writer;

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::{Semaphore, oneshot};

pub use self::error::OpenError;
pub use self::storage::Storage;
pub use self::tables::Verified;

use self::error::{Fault, guarded};
use self::shared::{Shared, blocking, lock, readable};
use self::storage::{DataFile, open_database};
use self::tables::Snapshot;
use self::writer::{CompactionAnswer, Reopened, Request, Writer};
use crate::clock::{Clock, SystemClock};
use crate::hub::{Backlog, Buffers, Hub};
use crate::metrics::Metrics;
use crate::retention::Retention;
use crate::{KeyValue, Page, Range, ReadError, Revision, Room, Store, WatchStream, Write, WriteError};

/// How a [`RedbStore`] behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// What redb may keep of the file in memory, in bytes. The kernel's page cache is behind it.
    pub cache_bytes: usize,
    /// What may wait to be written, in bytes: beyond it, writers wait for room in the queue.
    pub queue_bytes: u32,
    /// A file up to this length is checked from end to end at each open, in bytes; a longer one only when it wasn't closed properly
    /// (its values are still checked as they are read).
    pub check_up_to: u64,
    pub retention: Retention,
    pub buffers: Buffers,
    pub clock: Arc<dyn Clock>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 4 << 20,
            queue_bytes: 16 << 20,
            check_up_to: 4 << 20,
            retention: Retention::default(),
            buffers: Buffers::default(),
            clock: Arc::new(SystemClock::new()),
        }
    }
}

/// What the writer thread is asked.
#[derive(Debug)]
enum Message {
    Write(Request),
    Compact(u64, CompactionAnswer),
    /// Compact what is old enough by now.
    Tick(CompactionAnswer),
    /// A reader found the database unusable. The sender is dropped when it is usable again, or isn't going to be.
    Reopen(Reopened),
    /// Someone wants to know whether the store is well again.
    Check(oneshot::Sender<()>),
    Close(oneshot::Sender<()>),
}

/// A durable [`Store`] in one file.
#[derive(Debug)]
pub struct RedbStore {
    shared: Arc<Shared>,
    queue: Sender<Message>,
    /// Room in the queue, in units of [`UNIT`].
    room: Arc<Semaphore>,
    room_units: u32,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the queue's room is counted in, in bytes.
const UNIT: usize = 1024;

/// Pages of so many items are read where they are asked for; longer ones on a thread for blocking work.
const INLINE_ITEMS: usize = 16;

impl RedbStore {
    /// Opens the data file, or makes it if it isn't there.
    ///
    /// # Errors
    /// [`OpenError`]; the file is left as it is.
    pub fn open(path: impl Into<PathBuf>, options: Options) -> Result<Self, OpenError> {
        let file = DataFile::new(path.into());
        file.create_if_absent().map_err(|fault| refused(fault, &file))?;
        Self::open_on(Arc::new(file), options)
    }

    /// Opens a store on something else than a file, or makes it if that is empty.
    ///
    /// # Errors
    /// [`OpenError`]; what is there is left as it is.
    pub fn open_on(storage: Arc<dyn Storage>, options: Options) -> Result<Self, OpenError> {
        let path = storage.path().to_owned();
        let opened = guarded(|| {
            let database = open_database(&*storage, options.cache_bytes, options.check_up_to)?;
            if tables::is_blank(&database)? {
                tables::initialize(&database)?;
            }
            let snapshot = Snapshot::take(&database)?;
            Ok((database, snapshot))
        });
        let (database, snapshot) = opened.map_err(|fault| refused(fault, &*storage))?;
        let (queue, messages) = channel();
        let hub = Hub::new(options.buffers, snapshot.revision, snapshot.oldest);
        let swept = snapshot.swept;
        let shared = Arc::new(Shared::new(storage, database, snapshot, hub, queue.clone()));
        let room_units = (options.queue_bytes / 1024).max(1);
        let writer = Writer::new(Arc::clone(&shared), messages, options, swept);
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(|source| OpenError::Thread { path, source })?;
        Ok(Self {
            shared,
            queue,
            room: Arc::new(Semaphore::new(usize::try_from(room_units).unwrap_or(Semaphore::MAX_PERMITS))),
            room_units,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Writes what is queued, ends the watches and closes the file. Later calls find the store closed.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.queue.send(Message::Close(done)).is_ok() {
            // An error means that it was closed already.
            let _ = closed.await;
        }
        self.room.close();
    }

    /// Lets go what is old enough by the clock now. The writer does so by itself; this is for tests that move the clock.
    ///
    /// # Errors
    /// As [`Store::compact`].
    pub async fn compact_aged(&self) -> Result<(), ReadError> {
        self.ask_to_compact(Message::Tick).await
    }

    async fn ask_to_compact(&self, message: impl FnOnce(CompactionAnswer) -> Message) -> Result<(), ReadError> {
        let (answer, answered) = oneshot::channel();
        self.queue.send(message(answer)).map_err(|_| ReadError::Closed)?;
        match answered.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(fault)) => Err(ReadError::Io { what: "history to compact".to_owned(), message: fault.message() }),
            Err(_) => Err(ReadError::Closed),
        }
    }

    /// Reads the whole file and checks that it is consistent.
    ///
    /// # Errors
    /// [`ReadError::Io`] says what is wrong.
    pub async fn verify(&self) -> Result<Verified, ReadError> {
        let shared = Arc::clone(&self.shared);
        let verified = blocking(move || shared.read(Snapshot::verify)).await;
        verified.map_err(|unreadable| unreadable.reading(|| "the whole store".to_owned()))
    }

    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let (watchers, lagged) = self.shared.hub.counts();
        // What it takes on the disk: the file grows ahead of its contents, by holes. The unit is POSIX's.
        let size_bytes = std::fs::metadata(self.shared.storage.path()).map_or(0, |metadata| metadata.blocks() * 512);
        Metrics {
            size_bytes,
            revision: self.shared.revision(),
            oldest: self.shared.oldest(),
            watchers,
            lagged,
            ..*lock(&self.shared.metrics)
        }
    }
}

/// What a new file takes.
const NEW_FILE_BYTES: u64 = 64 << 10;

fn refused(fault: Fault, storage: &dyn Storage) -> OpenError {
    let path = storage.path().to_owned();
    match fault {
        Fault::Locked => OpenError::Locked { path },
        Fault::Corrupt(detail) => OpenError::Corrupt { path, detail },
        Fault::Format(found) => OpenError::Format { path, found, expected: tables::FORMAT },
        Fault::NoSpace => {
            OpenError::NoSpace { path, room: Room { needed: NEW_FILE_BYTES, reserve: 0, free: storage.free().ok() } }
        }
        Fault::Io(message) | Fault::Stale(message) => OpenError::Io { path, source: std::io::Error::other(message) },
    }
}

impl Drop for RedbStore {
    fn drop(&mut self) {
        let (done, _) = oneshot::channel();
        // An error means that it was closed already.
        let _ = self.queue.send(Message::Close(done));
        let thread = lock(&self.thread).take();
        if let Some(Err(_)) = thread.map(JoinHandle::join) {
            tracing::error!(file = %self.shared.storage.path().display(), "the writer thread panicked");
        }
    }
}

impl Store for RedbStore {
    fn write(&self, write: Write) -> BoxFuture<'_, Result<KeyValue, WriteError>> {
        async move {
            let bytes = match &write.change {
                crate::Change::Put(value) => value.len(),
                crate::Change::Delete => 0,
            };
            // What is larger than the queue goes alone.
            let units = u32::try_from(bytes / UNIT + 1).unwrap_or(u32::MAX).min(self.room_units);
            let room = Arc::clone(&self.room).acquire_many_owned(units).await.map_err(|_| WriteError::Closed)?;
            let (answer, answered) = oneshot::channel();
            self.shared.waiting.fetch_add(1, Ordering::Relaxed);
            self.queue.send(Message::Write(Request { write, answer, _room: room })).map_err(|_| WriteError::Closed)?;
            answered.await.unwrap_or(Err(WriteError::Closed))
        }
        .boxed()
    }

    fn get(&self, key: &str) -> BoxFuture<'_, Result<(Option<KeyValue>, Revision), ReadError>> {
        let key: Arc<str> = key.into();
        async move {
            let wanted = Arc::clone(&key);
            let read = move |snapshot: &Snapshot| Ok((snapshot.get(&wanted)?, Revision(snapshot.revision)));
            let found = self.shared.read_little(read).await;
            found.map_err(|unreadable| unreadable.reading(|| key.to_string()))
        }
        .boxed()
    }

    fn list(&self, range: Range) -> BoxFuture<'_, Result<Page, ReadError>> {
        async move {
            let what = range.prefix.clone();
            let inline = range.limit.is_some_and(|limit| limit <= INLINE_ITEMS);
            let read = move |snapshot: &Snapshot| {
                let at = range.at.map_or(snapshot.revision, |at| at.0);
                if let Err(error) = readable(snapshot, at) {
                    return Ok(Err(error));
                }
                let (items, remaining) = snapshot.list(&range, at)?;
                let more = remaining.is_some_and(|remaining| remaining > 0);
                Ok(Ok(Page { items, revision: Revision(at), more, remaining }))
            };
            let page = if inline {
                self.shared.read_little(read).await
            } else {
                let shared = Arc::clone(&self.shared);
                blocking(move || shared.read(read)).await
            };
            page.map_err(|unreadable| unreadable.reading(|| format!("keys of {what}")))?
        }
        .boxed()
    }

    fn watch(&self, prefix: &str, from: Revision) -> BoxFuture<'_, Result<WatchStream, ReadError>> {
        let prefix = prefix.to_owned();
        async move {
            self.shared
                .read_little(move |snapshot| Ok(readable(snapshot, from.0)))
                .await
                .map_err(|unreadable| unreadable.reading(|| format!("events of {prefix}")))??;
            let backlog: Arc<dyn Backlog> = Arc::clone(&self.shared) as _;
            Ok(self.shared.hub.watch(backlog, &prefix, from.0))
        }
        .boxed()
    }

    fn revision(&self) -> Revision {
        Revision(self.shared.revision())
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), ReadError>> {
        async move {
            let current = self.revision();
            if revision > current {
                return Err(ReadError::Future { requested: revision, current });
            }
            self.ask_to_compact(|answer| Message::Compact(revision.0, answer)).await
        }
        .boxed()
    }

    fn oldest(&self) -> Revision {
        Revision(self.shared.oldest())
    }

    fn health(&self) -> BoxFuture<'_, Result<(), String>> {
        async move {
            if self.shared.trouble().is_some() {
                // It may be over: a write would find out, but nobody writes to a store that isn't ready.
                let (answer, checked) = oneshot::channel();
                if self.queue.send(Message::Check(answer)).is_ok() {
                    // An error means that it is being closed.
                    let _ = checked.await;
                }
            }
            self.shared.trouble().map_or(Ok(()), Err)
        }
        .boxed()
    }
}
