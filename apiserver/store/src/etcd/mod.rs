//! The store in an etcd cluster: for a control plane of several API servers.
//!
//! Reads and writes go straight to etcd and are linearizable, so that every server sees what any server acknowledged. Watches
//! don't: one watch of all our keys ([`feed`]) fills the hub that all clients of this server are served from. What the hub no longer has
//! is read from etcd's history.
//!
//! Invariants beside the store's own: events reach the hub in order and once, whatever members come and go ([`feed`]); a write
//! whose answer got lost is acknowledged only if a read proves that it took place ([`write`]).
//! Revisions are etcd's less one. They are dense only as long as nobody else writes to that etcd.

mod cluster;
mod error;
mod feed;
mod keys;
mod read;
mod tls;
mod write;

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::clock::{Clock, SystemClock};
use crate::hub::{Backlog, Buffers, Hub};
use crate::metrics::Metrics;
use crate::retention::{Ages, Retention};
use crate::{KeyValue, Page, Range, ReadError, Revision, Store, WatchStream, Write, WriteError};
use cluster::Cluster;
use error::Failure;
pub use error::OpenError;
use keys::{Keys, ours, theirs};
use read::History;
pub use tls::{ClientFiles, Tls};

/// Where everything of ours is, unless told otherwise.
pub const DEFAULT_PREFIX: &str = "/pullpiri";

/// How long etcd may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For one answer of one member, and for a sign of life of the watch. An election takes about 1 s.
    pub attempt: Duration,
    /// For a request with all its attempts; the last one may begin just before the end.
    pub request: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { attempt: Duration::from_secs(3), request: Duration::from_secs(10) }
    }
}

/// How an [`EtcdStore`] is reached and behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// `http://HOST:PORT` or `https://HOST:PORT` of some or all members.
    pub servers: Vec<String>,
    pub tls: Option<Tls>,
    /// Two control planes on one etcd have different ones.
    pub prefix: String,
    /// Compaction is of all that is in that etcd.
    pub retention: Retention,
    pub buffers: Buffers,
    pub timeouts: Timeouts,
    pub clock: Arc<dyn Clock>,
}

impl Options {
    #[must_use]
    pub fn new(servers: Vec<String>) -> Self {
        Self {
            servers,
            tls: None,
            prefix: DEFAULT_PREFIX.to_owned(),
            retention: Retention::default(),
            buffers: Buffers::default(),
            timeouts: Timeouts::default(),
            clock: Arc::new(SystemClock::new()),
        }
    }
}

/// A [`Store`] in an etcd cluster.
#[derive(Debug)]
pub struct EtcdStore {
    shared: Arc<Shared>,
    /// The feed and the compaction; dropping the set ends them.
    _tasks: JoinSet<()>,
}

struct Shared {
    cluster: Cluster,
    keys: Keys,
    hub: Arc<Hub>,
    /// The newest revision that anybody told us of.
    known: AtomicU64,
    /// The newest write of ours that was acknowledged: the feed will have it.
    acknowledged: AtomicU64,
    /// The oldest readable revision, as far as we were told: somebody else may compact, too.
    oldest: AtomicU64,
    line: watch::Sender<Line>,
    /// The line's head, once the hub has had it.
    fed: watch::Sender<Revision>,
    /// What keeps the feed from going on.
    trouble: Mutex<Option<String>>,
    /// Unlike any other process'.
    process: String,
    next_write: AtomicU64,
    metrics: Mutex<Metrics>,
}

/// How far the feed is, in our revisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line {
    /// Every event up to here reached the hub, or is none of the hub's ring.
    head: Revision,
    /// The last one of them that is an object's event.
    last_event: Revision,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("cluster", &self.cluster).field("keys", &self.keys).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EtcdStore {
    /// Opens the store once a member answers. Needs a tokio runtime.
    ///
    /// # Errors
    /// A server's address that is none, a file that can't be read, no member that answers within [`Timeouts::request`].
    pub async fn open(options: Options) -> Result<Self, OpenError> {
        let cluster = Cluster::new(&options).await?;
        let process = format!("{:016x}", RandomState::new().build_hasher().finish());
        let start = Line { head: Revision(0), last_event: Revision(0) };
        let mut shared = Shared {
            cluster,
            keys: Keys::new(&options.prefix),
            hub: Hub::new(options.buffers, 0, 0),
            known: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            oldest: AtomicU64::new(0),
            line: watch::Sender::new(start),
            fed: watch::Sender::new(Revision(0)),
            trouble: Mutex::new(None),
            process,
            next_write: AtomicU64::new(0),
            metrics: Mutex::new(Metrics::default()),
        };
        let unreachable = |failure: Failure, shared: &Shared| OpenError::Unreachable {
            servers: shared.cluster.servers(),
            reason: failure.to_string(),
        };
        let (line, history) = shared.look().await.map_err(|failure| unreachable(failure, &shared))?;
        let mut oldest = shared.find_oldest().await.map_err(|failure| unreachable(failure, &shared))?;
        if history == History::Lost {
            oldest = oldest.max(line.head);
            shared.compacted(oldest);
        }
        shared.hub = Hub::new(options.buffers, line.head.0, oldest.0);
        shared.line.send_replace(line);
        shared.fed.send_replace(line.head);
        let shared = Arc::new(shared);
        let mut tasks = JoinSet::new();
        tasks.spawn(feed::run(Arc::clone(&shared)));
        if options.retention != Retention::FOREVER {
            tasks.spawn(retain(Arc::clone(&shared), options.retention, options.clock));
        }
        tracing::info!(servers = %shared.cluster.servers(), prefix = %options.prefix, revision = line.head.0, "objects are kept in etcd");
        Ok(Self { shared, _tasks: tasks })
    }

    /// What all API servers of this cluster have in common under a name.
    ///
    /// # Errors
    /// etcd doesn't answer.
    pub async fn shared(&self, name: &str) -> Result<Option<Vec<u8>>, ReadError> {
        self.shared.shared_value(name).await
    }

    /// Puts `value` there unless something is there already, and returns what is there then.
    ///
    /// # Errors
    /// etcd doesn't answer, or refuses.
    pub async fn share(&self, name: &str, value: Vec<u8>) -> Result<Vec<u8>, ReadError> {
        self.shared.share_value(name, value).await
    }

    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let (watchers, lagged) = self.shared.hub.counts();
        let (revision, oldest) = (self.revision().0, self.oldest().0);
        Metrics { revision, oldest, watchers, lagged, ..*lock(&self.shared.metrics) }
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        self.shared.hub.close();
    }
}

impl Shared {
    /// Somebody told us that the store is at etcd's `revision`.
    fn heard(&self, revision: i64) -> Revision {
        let revision = ours(revision);
        self.known.fetch_max(revision.0, Ordering::AcqRel);
        revision
    }

    fn revision(&self) -> Revision {
        Revision(self.known.load(Ordering::Acquire))
    }

    fn oldest(&self) -> Revision {
        Revision(self.oldest.load(Ordering::Acquire))
    }

    /// History before `oldest` is gone.
    fn compacted(&self, oldest: Revision) {
        let before = self.oldest.fetch_max(oldest.0, Ordering::AcqRel);
        self.hub.compacted(before.max(oldest.0));
    }

    /// Waits until the feed has had everything up to `revision`, or for a bounded time.
    async fn fed(&self, revision: Revision) {
        let mut fed = self.fed.subscribe();
        let fed = fed.wait_for(|head| *head >= revision);
        // Neither the timeout nor the end of the feed is the caller's trouble.
        let _ = tokio::time::timeout(self.cluster.timeouts().attempt, fed).await;
    }

    async fn compact(&self, revision: Revision) -> Result<(), ReadError> {
        if revision <= self.oldest() {
            return Ok(());
        }
        let head = self.look().await.map_err(|failure| self.unreadable("the revision", &failure))?.0.head;
        if revision > head {
            return Err(ReadError::Future { requested: revision, current: head });
        }
        // A compaction takes the previous values of what is compacted: the feed should have had them.
        self.fed(revision).await;
        let at = theirs(revision);
        match self.cluster.read(|mut client| async move { client.compact(at, None).await }).await {
            Ok(_) => self.compacted(revision),
            // Another API server was there first.
            Err(Failure::Compacted) => {
                let _ = self.find_oldest().await;
                self.compacted(revision);
            }
            Err(failure) => return Err(self.unreadable("history to compact it", &failure)),
        }
        Ok(())
    }

    async fn health(&self) -> Result<(), String> {
        let status = self.cluster.read(|mut client| async move { client.status().await });
        let (look, status) = futures::future::join(self.look(), status).await;
        let failed = |failure: Failure| format!("etcd at {}: {failure}", self.cluster.servers());
        look.map_err(failed)?;
        let alarms = status.map_err(failed)?.errors().join(", ");
        if !alarms.is_empty() {
            return Err(format!("etcd raises an alarm: {alarms}"));
        }
        lock(&self.trouble).clone().map_or(Ok(()), |trouble| Err(format!("etcd can't be watched: {trouble}")))
    }
}

/// Compacts what retention allows. Several API servers may do so: history is as short as the least patient one wants.
async fn retain(shared: Arc<Shared>, retention: Retention, clock: Arc<dyn Clock>) {
    let mut ages = Ages::new(retention);
    let period = retention.age.map_or(Duration::from_secs(1), |age| age / 16);
    let mut ticks = tokio::time::interval(period.clamp(Duration::from_millis(20), Duration::from_secs(10)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (now, head) = (clock.now(), shared.revision().0);
        ages.note(now, head);
        let horizon = Revision(ages.horizon(now, head));
        if horizon > shared.oldest()
            && let Err(error) = shared.compact(horizon).await
        {
            tracing::warn!(%error, to = horizon.0, "etcd's history isn't compacted");
        }
    }
}

impl Store for EtcdStore {
    fn write(&self, write: Write) -> BoxFuture<'_, Result<KeyValue, WriteError>> {
        self.shared.write(write).boxed()
    }

    fn get(&self, key: &str) -> BoxFuture<'_, Result<(Option<KeyValue>, Revision), ReadError>> {
        let key = key.to_owned();
        async move { self.shared.get(&key).await.map_err(|failure| self.shared.unreadable(&key, &failure)) }.boxed()
    }

    fn list(&self, range: Range) -> BoxFuture<'_, Result<Page, ReadError>> {
        self.shared.list(range).boxed()
    }

    fn watch(&self, prefix: &str, from: Revision) -> BoxFuture<'_, Result<WatchStream, ReadError>> {
        let prefix = prefix.to_owned();
        async move {
            self.shared.readable(from).await?;
            // Who has just written begins where that is, not behind it.
            self.shared.fed(Revision(self.shared.acknowledged.load(Ordering::Acquire))).await;
            let backlog: Arc<dyn Backlog> = Arc::clone(&self.shared) as _;
            Ok(self.shared.hub.watch(backlog, &prefix, from.0))
        }
        .boxed()
    }

    fn revision(&self) -> Revision {
        self.shared.revision()
    }

    fn catch_up(&self, revision: Revision) -> BoxFuture<'_, Revision> {
        async move {
            if revision > self.shared.revision() {
                // Whoever can't be asked has nothing newer.
                let _ = self.shared.look().await;
            }
            self.shared.revision()
        }
        .boxed()
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), ReadError>> {
        self.shared.compact(revision).boxed()
    }

    fn oldest(&self) -> Revision {
        self.shared.oldest()
    }

    fn health(&self) -> BoxFuture<'_, Result<(), String>> {
        self.shared.health().boxed()
    }
}
