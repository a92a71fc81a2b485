//! Stores to test, and how to wait for what they do.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use pullpiri_store::etcd::{self, EtcdStore};
use pullpiri_store::memory::{self, MemoryStore};
use pullpiri_store::redb::{self, RedbStore};
use pullpiri_store::retention::Retention;
use pullpiri_store::{
    Buffers, Change, Event, Expect, KeyValue, Range, Revision, Store, WatchError, WatchItem, WatchStream, Write,
    WriteError,
};
use tempfile::TempDir;

use crate::etcd_cluster::{self, Cluster};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Memory,
    Redb,
    RedbTiny,
    Etcd,
    EtcdTiny,
}

impl Kind {
    pub fn is_etcd(self) -> bool {
        matches!(self, Self::Etcd | Self::EtcdTiny)
    }

    /// False, said why, where this machine has no etcd.
    pub fn is_here(self) -> bool {
        !self.is_etcd() || !etcd_cluster::missing()
    }
}

/// Long enough for the slowest machine; nothing waits this long unless it is broken.
const DEADLINE: Duration = Duration::from_secs(60);

pub struct Fixture {
    kind: Kind,
    folder: TempDir,
    pub store: Arc<dyn Store>,
    redb: Option<Arc<RedbStore>>,
    etcd: Option<Cluster>,
}

async fn open(kind: Kind, folder: &TempDir, etcd: Option<&Cluster>) -> (Arc<dyn Store>, Option<Arc<RedbStore>>) {
    let progress_interval = Duration::from_millis(5);
    let buffers = match kind {
        Kind::Memory | Kind::Redb | Kind::Etcd => Buffers { progress_interval, ..Buffers::default() },
        Kind::RedbTiny | Kind::EtcdTiny => {
            Buffers { ring_events: 3, ring_bytes: 600, queue_events: 2, progress_interval }
        }
    };
    let retention = Retention::FOREVER;
    match kind {
        Kind::Memory => {
            let options = memory::Options { retention, buffers, ..memory::Options::default() };
            (Arc::new(MemoryStore::with(options)), None)
        }
        Kind::Redb | Kind::RedbTiny => {
            let options = redb::Options { retention, buffers, ..redb::Options::default() };
            let store = Arc::new(RedbStore::open(folder.path().join("store.redb"), options).unwrap());
            (Arc::clone(&store) as _, Some(store))
        }
        Kind::Etcd | Kind::EtcdTiny => {
            let servers = etcd.map(Cluster::servers).unwrap_or_default();
            let options = etcd::Options { retention, buffers, ..etcd::Options::new(servers) };
            (Arc::new(EtcdStore::open(options).await.unwrap()), None)
        }
    }
}

impl Fixture {
    pub async fn new(kind: Kind) -> Self {
        // In memory where there is such a place: what is tested here needs a file system, not a disk.
        let folder = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
        let etcd = kind.is_etcd().then(Cluster::single);
        let (store, redb) = open(kind, &folder, etcd.as_ref()).await;
        Self { kind, folder, store, redb, etcd }
    }

    /// Closes and opens a durable store.
    pub async fn restart(&mut self) {
        if self.kind == Kind::Memory {
            return;
        }
        self.store = Arc::new(MemoryStore::new());
        self.redb = None;
        (self.store, self.redb) = open(self.kind, &self.folder, self.etcd.as_ref()).await;
    }

    /// Checks what lies on the disk, where there is one.
    pub async fn verify(&self) {
        if let Some(redb) = &self.redb {
            redb.verify().await.unwrap();
        }
    }
}

pub fn run<F: Future<Output = ()>>(kind: Kind, check: impl FnOnce(Arc<dyn Store>) -> F) {
    if !kind.is_here() {
        return;
    }
    block_on(async {
        let fixture = Fixture::new(kind).await;
        check(Arc::clone(&fixture.store)).await;
    });
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(DEADLINE, future).await.expect("the check hangs") })
}

pub fn put(key: &str, expect: Expect, value: impl Into<Bytes>) -> Write {
    Write { key: key.into(), expect, change: Change::Put(value.into()) }
}

pub fn delete(key: &str, expect: Expect) -> Write {
    Write { key: key.into(), expect, change: Change::Delete }
}

pub async fn set(store: &dyn Store, key: &str, value: &str) -> KeyValue {
    store.write(put(key, Expect::Any, value.to_owned())).await.unwrap()
}

/// Several writes at once take place in the order in which they were begun; with etcd, in any.
pub fn is_ordered(store: &dyn Store) -> bool {
    !format!("{store:?}").starts_with("EtcdStore")
}

/// Writes many at once, in order.
pub async fn set_all(store: &dyn Store, keys: impl Iterator<Item = String>) {
    if !is_ordered(store) {
        for key in keys {
            set(store, &key, "x").await;
        }
        return;
    }
    let keys: Vec<String> = keys.collect();
    // Few enough to be queued in one go by the runtime.
    for some in keys.chunks(50) {
        let writes = some.iter().map(|key| store.write(put(key, Expect::Any, "x")));
        for written in futures::future::join_all(writes).await {
            written.unwrap();
        }
    }
}

pub async fn remove(store: &dyn Store, key: &str) -> KeyValue {
    store.write(delete(key, Expect::Any)).await.unwrap()
}

/// What a refused write found.
pub async fn refused(store: &dyn Store, write: Write) -> Option<KeyValue> {
    match store.write(write).await {
        Err(WriteError::Mismatch { current, .. }) => current,
        other => panic!("not refused: {other:?}"),
    }
}

pub async fn names(store: &dyn Store, prefix: &str, at: Option<u64>) -> Vec<String> {
    let range = Range { prefix: prefix.to_owned(), at: at.map(Revision), ..Range::default() };
    let page = store.list(range).await.unwrap();
    page.items.iter().map(|kv| format!("{}={}", kv.key, String::from_utf8_lossy(&kv.value))).collect()
}

pub async fn item(watch: &mut WatchStream) -> Result<WatchItem, WatchError> {
    tokio::time::timeout(DEADLINE, watch.next()).await.expect("the watch says nothing").expect("the watch ended")
}

/// The next event, whatever progress comes before it.
pub async fn event(watch: &mut WatchStream) -> Arc<Event> {
    loop {
        if let WatchItem::Event(event) = item(watch).await.unwrap() {
            return event;
        }
    }
}

pub async fn events(watch: &mut WatchStream, count: usize) -> Vec<Arc<Event>> {
    let mut events = Vec::new();
    while events.len() < count {
        events.push(event(watch).await);
    }
    events
}

/// Waits for progress up to `revision`; an event before that is a failure.
pub async fn progress(watch: &mut WatchStream, revision: u64) {
    loop {
        match item(watch).await.unwrap() {
            WatchItem::Progress(Revision(reached)) if reached >= revision => return,
            WatchItem::Progress(_) => {}
            WatchItem::Event(event) => panic!("unexpected {event:?}"),
        }
    }
}
