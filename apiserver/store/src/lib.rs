//! A revisioned, durable key-value store: the one thing the API server keeps its objects in.
//!
//! The model is etcd's: every successful write gets the next *revision* of the whole store, each key remembers the
//! revision that created it and the one that last modified it, old versions stay readable until they are compacted,
//! and a watch can start at any revision that is still there. Implementations: [`memory`] (tests and virtual resources),
//! [`redb`] (one file on disk) and [`etcd`] (a cluster that several API servers share).
//!
//! Invariants that hold for every implementation (the shared suite in `tests/` checks them):
//! * a write that was acknowledged survives `kill -9` and a power cut (durable stores);
//! * revisions are dense and strictly increasing, one per write; a refused write uses none (in an etcd that others write to as well,
//!   they aren't dense);
//! * a reader sees a prefix of the history: all writes up to its revision and none after;
//! * a watch from revision `r` yields every event with a revision above `r`, once and in order, or ends with
//!   [`WatchError::Compacted`] or [`WatchError::Lagged`]; it is never silently incomplete.
//!
//! Keys are UTF-8 strings compared bytewise; values are opaque bytes.

pub mod clock;
pub mod etcd;
mod hub;
pub mod memory;
pub mod metrics;
#[cfg(feature = "powercut")]
pub mod powercut;
pub mod redb;
pub mod retention;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

pub use hub::Buffers;

/// A revision of the whole store. 0 is the empty store, the first write makes revision 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One version of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    pub key: Arc<str>,
    pub value: Bytes,
    /// The revision at which the key came into being (again, if it was deleted before).
    pub created: Revision,
    /// The revision of this version.
    pub modified: Revision,
}

/// What must hold for a write to take place, checked atomically with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The key doesn't exist.
    Absent,
    /// The key exists and was last modified at this revision.
    At(Revision),
    /// Anything goes.
    Any,
}

/// What a write does to its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Put(Bytes),
    /// Deleting an absent key with [`Expect::Any`] is a refused write ([`WriteError::Mismatch`]), not a revision.
    Delete,
}

/// One conditional write of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    pub key: Arc<str>,
    pub expect: Expect,
    pub change: Change,
}

/// What changed at a revision. `previous` is the version that was replaced or deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub revision: Revision,
    pub key: Arc<str>,
    /// `None`: the key was deleted.
    pub current: Option<KeyValue>,
    pub previous: Option<KeyValue>,
}

/// What a watch yields.
#[derive(Clone, Debug)]
pub enum WatchItem {
    Event(Arc<Event>),
    /// Every event with a revision up to and including this one was delivered (for bookmarks). Sent right after the
    /// backlog from disk, and then whenever the store advanced without an event for this watch (rate-limited).
    Progress(Revision),
}

/// A page of a listing, all of it as of one revision.
#[derive(Clone, Debug)]
pub struct Page {
    /// In key order.
    pub items: Vec<KeyValue>,
    /// The revision that the whole listing is of.
    pub revision: Revision,
    /// Set when there is more: pass `items.last().key` as [`Range::after`] and `revision` as [`Range::at`].
    pub more: bool,
    /// How many keys of the range come after this page, counted only when [`Range::limit`] was given.
    pub remaining: Option<u64>,
}

/// Which keys to list, and as of when.
#[derive(Clone, Debug, Default)]
pub struct Range {
    /// All keys that start with this.
    pub prefix: String,
    /// Only keys strictly after this one.
    pub after: Option<Arc<str>>,
    /// `None`: as of now.
    pub at: Option<Revision>,
    /// `None`: no limit.
    pub limit: Option<usize>,
}

/// The room that a write would need on the disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// With what the store sets aside.
    pub needed: u64,
    /// What of that stays free, so that deletions and compaction still work.
    pub reserve: u64,
    /// `None`: it seems to be more than there is, as with a quota.
    pub free: Option<u64>,
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.free {
            Some(free) => write!(f, "{} KiB are free, ", free / 1024)?,
            None => f.write_str("less is free than seems to be, ")?,
        }
        write!(f, "{} KiB are needed", self.needed.div_ceil(1024))?;
        match self.reserve {
            0 => Ok(()),
            reserve => write!(f, ", of which {} KiB stay free for deletions", reserve / 1024),
        }
    }
}

/// Why a write didn't take place. Nothing was changed, except possibly with [`WriteError::Io`] and [`WriteError::Unknown`].
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The expectation doesn't hold; `current` is what is there.
    #[error("precondition failed for {key}: expected {expected:?}, found {}", current.as_ref().map_or("nothing".to_owned(), |kv| format!("revision {}", kv.modified)))]
    Mismatch { key: Arc<str>, expected: Expect, current: Option<KeyValue> },
    /// The disk is full. The store stays readable, and writable again once there is room.
    #[error("no space left for {key} in {store}{}", room.map_or(String::new(), |room| format!(": {room}")))]
    NoSpace { key: Arc<str>, store: String, room: Option<Room> },
    #[error("writing {key}: {message}")]
    Io { key: Arc<str>, message: String },
    /// The answer was lost on its way, and whether the write took place can't be told (etcd only).
    #[error("writing {key}: it isn't known whether that took place, read it again ({message})")]
    Unknown { key: Arc<str>, message: String },
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("revision {requested} was compacted; the oldest readable revision is {oldest}")]
    Compacted { requested: Revision, oldest: Revision },
    #[error("revision {requested} is in the future; the store is at {current}")]
    Future { requested: Revision, current: Revision },
    #[error("reading {what}: {message}")]
    Io { what: String, message: String },
    #[error("the store is closed")]
    Closed,
}

/// How a watch ends before its consumer does.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("revision {requested} was compacted; the oldest readable revision is {oldest}")]
    Compacted { requested: Revision, oldest: Revision },
    /// The consumer was slower than the store for longer than the buffer holds. It may watch again from `last`.
    #[error("the watcher fell behind at revision {last}")]
    Lagged { last: Revision },
    #[error("reading {what}: {message}")]
    Io { what: String, message: String },
    #[error("the store is closed")]
    Closed,
}

pub type WatchStream = BoxStream<'static, Result<WatchItem, WatchError>>;

/// The store. Cheap to share: held as `Arc<dyn Store>`.
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Applies one write. Resolves once it is durable; the new version (or, for a deletion, the deleted version with
    /// `modified` set to the revision of the deletion) is returned. Concurrent writes share one fsync.
    fn write(&self, write: Write) -> BoxFuture<'_, Result<KeyValue, WriteError>>;

    /// The key's newest version and the store's revision it was read at.
    fn get(&self, key: &str) -> BoxFuture<'_, Result<(Option<KeyValue>, Revision), ReadError>>;

    /// The keys of a range as of one revision.
    fn list(&self, range: Range) -> BoxFuture<'_, Result<Page, ReadError>>;

    /// Every change of a key with this prefix after revision `from`, in order.
    fn watch(&self, prefix: &str, from: Revision) -> BoxFuture<'_, Result<WatchStream, ReadError>>;

    /// The revision of the last durable write.
    fn revision(&self) -> Revision;

    /// [`Self::revision`], looked up anew if it is below `revision`: others may write to the same store.
    fn catch_up(&self, _revision: Revision) -> BoxFuture<'_, Revision> {
        let revision = self.revision();
        Box::pin(async move { revision })
    }

    /// Forgets versions that no reader at or after `revision` can see. Reads and watches before it fail from now on.
    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), ReadError>>;

    /// The oldest revision that can be read.
    fn oldest(&self) -> Revision;

    /// `Ok` if a write would be durable now; an error says in one sentence what is wrong. For `/readyz`.
    fn health(&self) -> BoxFuture<'_, Result<(), String>>;
}
