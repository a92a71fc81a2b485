//! Hands each event to every watch that wants it, without a watch ever holding up a write.
//!
//! The hub keeps the newest events in a ring (bounded by count and bytes) and, per watch, a bounded queue of pointers to
//! the events of its prefix. A write costs a look-up per *length* of watched prefixes, not one per watch. A watch moves through
//! two phases: behind (it starts in the past, or its queue overflowed) it reads the store's log in chunks until the ring reaches
//! back to its cursor; live it drains its queue. The step from one to the other happens under the lock that a publication takes,
//! and both sides go by revision, so there is neither gap nor duplicate at the seam.
//!
//! Invariants: the ring holds every event in `(floor, head]`; the queue of a live watch holds every matching event after its
//! cursor; events reach the hub in order of revision, after they are durable, those of one revision together (etcd has several
//! where somebody else's transaction changed several keys).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use tokio::sync::Notify;

use crate::{Event, Revision, WatchError, WatchItem, WatchStream};

/// How much the hub buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffers {
    /// Newest events kept for all watches together.
    pub ring_events: usize,
    /// What the keys and values of these events may take, in bytes.
    pub ring_bytes: usize,
    /// Events that wait for one watch before it has to go back to the log.
    pub queue_events: usize,
    /// The least time between two [`WatchItem::Progress`] of one watch.
    pub progress_interval: Duration,
}

impl Default for Buffers {
    fn default() -> Self {
        Self { ring_events: 4096, ring_bytes: 4 << 20, queue_events: 512, progress_interval: Duration::from_secs(1) }
    }
}

/// Where a watch reads what the ring no longer has.
pub(crate) trait Backlog: fmt::Debug + Send + Sync + 'static {
    /// Some of the events of keys with `prefix` after revision `after`, in order.
    fn events(self: Arc<Self>, prefix: Arc<str>, after: u64) -> BoxFuture<'static, Result<Chunk, WatchError>>;
}

/// A part of the backlog.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) events: Vec<Arc<Event>>,
    /// There are no other matching events up to and including this revision.
    pub(crate) through: u64,
}

#[derive(Debug)]
pub(crate) struct Hub {
    buffers: Buffers,
    inner: Mutex<Inner>,
    /// Set when the store advanced: the progress task sleeps on it.
    advanced: Arc<Notify>,
}

#[derive(Debug)]
struct Inner {
    ring: VecDeque<Arc<Event>>,
    ring_bytes: usize,
    floor: u64,
    head: u64,
    oldest: u64,
    closed: bool,
    next_id: u64,
    watchers: BTreeMap<u64, Arc<Watcher>>,
    by_prefix: HashMap<Arc<str>, BTreeMap<u64, Arc<Watcher>>>,
    /// How many distinct prefixes there are of each length.
    lengths: BTreeMap<usize, usize>,
    lagged: u64,
    progress_task: Option<tokio::task::JoinHandle<()>>,
}

#[derive(Debug)]
struct Watcher {
    prefix: Arc<str>,
    queue: Mutex<Queue>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<Arc<Event>>,
    /// Every matching event up to here was queued (or read from the log).
    through: u64,
    /// The revision of the event that was queued last; others of the same revision may follow it.
    queued: u64,
    progress: Option<u64>,
    /// The queue was full: what came after `through` isn't in it.
    overflowed: bool,
    closed: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn weight(event: &Event) -> usize {
    let value = |kv: &Option<crate::KeyValue>| kv.as_ref().map_or(0, |kv| kv.value.len());
    // The structs themselves and two reference counts.
    event.key.len() + value(&event.current) + value(&event.previous) + 256
}

impl Hub {
    pub(crate) fn new(buffers: Buffers, head: u64, oldest: u64) -> Arc<Self> {
        Arc::new(Self {
            buffers,
            inner: Mutex::new(Inner {
                ring: VecDeque::new(),
                ring_bytes: 0,
                floor: head,
                head,
                oldest,
                closed: false,
                next_id: 0,
                watchers: BTreeMap::new(),
                by_prefix: HashMap::new(),
                lengths: BTreeMap::new(),
                lagged: 0,
                progress_task: None,
            }),
            advanced: Arc::new(Notify::new()),
        })
    }

    /// Makes durable events known, in order.
    pub(crate) fn publish(&self, events: &[Arc<Event>]) {
        let mut inner = lock(&self.inner);
        for event in events {
            inner.head = event.revision.0;
            inner.ring_bytes += weight(event);
            inner.ring.push_back(Arc::clone(event));
            let full = self.deliver(&inner, event);
            inner.lagged += full;
        }
        while inner.ring.len() > self.buffers.ring_events
            || (inner.ring_bytes > self.buffers.ring_bytes && inner.ring.len() > 1)
        {
            let Some(event) = inner.ring.pop_front() else { break };
            inner.ring_bytes = inner.ring_bytes.saturating_sub(weight(&event));
            inner.floor = event.revision.0;
            // No revision is there in part.
            while let Some(event) = inner.ring.pop_front_if(|next| next.revision == event.revision) {
                inner.ring_bytes = inner.ring_bytes.saturating_sub(weight(&event));
            }
        }
        if !inner.watchers.is_empty() {
            self.advanced.notify_one();
        }
    }

    /// Queues an event for the watches of its key; how many of them had no room any more.
    fn deliver(&self, inner: &Inner, event: &Arc<Event>) -> u64 {
        let mut overflows = 0;
        for length in inner.lengths.keys() {
            // A prefix that ends inside a character of this key can't be a prefix of it.
            let Some(prefix) = event.key.get(..*length) else { continue };
            for watcher in inner.by_prefix.get(prefix).into_iter().flat_map(BTreeMap::values) {
                let mut queue = lock(&watcher.queue);
                let continues = event.revision.0 == queue.queued;
                if queue.overflowed || (event.revision.0 <= queue.through && !continues) {
                    continue;
                }
                if queue.events.len() >= self.buffers.queue_events && !continues {
                    queue.overflowed = true;
                    overflows += 1;
                } else {
                    queue.events.push_back(Arc::clone(event));
                    queue.through = event.revision.0;
                    queue.queued = event.revision.0;
                    queue.progress = None;
                }
                drop(queue);
                watcher.wake.notify_one();
            }
        }
        overflows
    }

    /// History up to and including `oldest` is gone.
    pub(crate) fn compacted(&self, oldest: u64) {
        lock(&self.inner).oldest = oldest;
    }

    /// There are no other events up to `head`.
    pub(crate) fn advance(&self, head: u64) {
        let mut inner = lock(&self.inner);
        if head > inner.head {
            inner.head = head;
            if !inner.watchers.is_empty() {
                self.advanced.notify_one();
            }
        }
    }

    /// Events between the present head and `head` never come: who needs them reads the log.
    pub(crate) fn skip(&self, head: u64) {
        let mut inner = lock(&self.inner);
        inner.ring.clear();
        inner.ring_bytes = 0;
        inner.head = inner.head.max(head);
        inner.floor = inner.head;
        for watcher in inner.watchers.values() {
            let mut queue = lock(&watcher.queue);
            if queue.through < inner.head {
                queue.overflowed = true;
                drop(queue);
                watcher.wake.notify_one();
            }
        }
    }

    /// Events after this revision are in the ring.
    pub(crate) fn floor(&self) -> u64 {
        lock(&self.inner).floor
    }

    /// Ends every watch.
    pub(crate) fn close(&self) {
        let mut inner = lock(&self.inner);
        inner.closed = true;
        for watcher in inner.watchers.values() {
            lock(&watcher.queue).closed = true;
            watcher.wake.notify_one();
        }
    }

    /// (open watches, how often one fell behind)
    pub(crate) fn counts(&self) -> (u64, u64) {
        let inner = lock(&self.inner);
        (u64::try_from(inner.watchers.len()).unwrap_or(u64::MAX), inner.lagged)
    }

    /// Tells the watches that have had everything so.
    fn announce_progress(&self) {
        let inner = lock(&self.inner);
        for watcher in inner.watchers.values() {
            let mut queue = lock(&watcher.queue);
            if queue.events.is_empty() && !queue.overflowed && queue.through < inner.head {
                queue.through = inner.head;
                queue.progress = Some(inner.head);
                drop(queue);
                watcher.wake.notify_one();
            }
        }
    }

    /// Opens a watch. The caller has checked that `from` is readable.
    pub(crate) fn watch(self: &Arc<Self>, backlog: Arc<dyn Backlog>, prefix: &str, from: u64) -> WatchStream {
        let watcher = Arc::new(Watcher {
            prefix: Arc::from(prefix),
            // Nothing is queued before the watch went live.
            queue: Mutex::new(Queue { overflowed: true, through: from, ..Queue::default() }),
            wake: Notify::new(),
        });
        let mut inner = lock(&self.inner);
        let id = inner.next_id;
        inner.next_id += 1;
        inner.register(id, &watcher);
        if inner.progress_task.as_ref().is_none_or(tokio::task::JoinHandle::is_finished)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let task = progress(Arc::downgrade(self), Arc::clone(&self.advanced), self.buffers.progress_interval);
            inner.progress_task = Some(runtime.spawn(task));
        }
        drop(inner);
        let mut subscription = Subscription {
            hub: Arc::clone(self),
            backlog,
            watcher,
            id,
            pending: VecDeque::new(),
            cursor: from,
            phase: Phase::Behind,
            announce: false,
        };
        // Take what is in the ring now: it needn't be there any more when the stream is first polled.
        subscription.try_attach();
        futures::stream::unfold(subscription, |mut subscription| async move {
            let item = subscription.next().await?;
            Some((item, subscription))
        })
        .boxed()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        if let Some(task) = lock(&self.inner).progress_task.take() {
            task.abort();
        }
    }
}

/// Announces progress soon after the store advanced, at most once per interval.
async fn progress(hub: Weak<Hub>, advanced: Arc<Notify>, interval: Duration) {
    loop {
        advanced.notified().await;
        match hub.upgrade() {
            Some(hub) => hub.announce_progress(),
            None => return,
        }
        tokio::time::sleep(interval).await;
    }
}

impl Inner {
    fn register(&mut self, id: u64, watcher: &Arc<Watcher>) {
        self.watchers.insert(id, Arc::clone(watcher));
        let same = self.by_prefix.entry(Arc::clone(&watcher.prefix)).or_default();
        if same.is_empty() {
            *self.lengths.entry(watcher.prefix.len()).or_default() += 1;
        }
        same.insert(id, Arc::clone(watcher));
        if self.closed {
            lock(&watcher.queue).closed = true;
        }
    }

    fn unregister(&mut self, id: u64) {
        let Some(watcher) = self.watchers.remove(&id) else { return };
        let Some(same) = self.by_prefix.get_mut(&watcher.prefix) else { return };
        same.remove(&id);
        if same.is_empty() {
            self.by_prefix.remove(&watcher.prefix);
            if let Some(count) = self.lengths.get_mut(&watcher.prefix.len()) {
                *count -= 1;
                if *count == 0 {
                    self.lengths.remove(&watcher.prefix.len());
                }
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    Behind,
    Live,
    Ended,
}

#[derive(Debug)]
struct Subscription {
    hub: Arc<Hub>,
    backlog: Arc<dyn Backlog>,
    watcher: Arc<Watcher>,
    id: u64,
    /// Taken from the ring, the queue or the log, not yet yielded.
    pending: VecDeque<Arc<Event>>,
    /// With the pending ones, every matching event up to here was yielded.
    cursor: u64,
    phase: Phase,
    /// Say so after the pending ones.
    announce: bool,
}

enum Step {
    Again,
    Wait,
    Yield(WatchItem),
    End(WatchError),
}

impl Subscription {
    async fn next(&mut self) -> Option<Result<WatchItem, WatchError>> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some(Ok(WatchItem::Event(event)));
            }
            if std::mem::take(&mut self.announce) {
                return Some(Ok(WatchItem::Progress(Revision(self.cursor))));
            }
            let step = match self.phase {
                Phase::Ended => return None,
                Phase::Live => self.drain(),
                Phase::Behind => match self.try_attach() {
                    Step::Wait => self.read_backlog().await,
                    step => step,
                },
            };
            match step {
                Step::Again => {}
                Step::Wait => self.watcher.wake.notified().await,
                Step::Yield(item) => return Some(Ok(item)),
                Step::End(error) => {
                    self.phase = Phase::Ended;
                    return Some(Err(error));
                }
            }
        }
    }

    /// Goes live if the ring reaches back to the cursor; [`Step::Wait`] when it doesn't.
    fn try_attach(&mut self) -> Step {
        let inner = lock(&self.hub.inner);
        if inner.closed {
            return Step::End(WatchError::Closed);
        }
        if self.cursor < inner.oldest {
            return Step::End(WatchError::Lagged { last: Revision(self.cursor) });
        }
        if self.cursor < inner.floor {
            return Step::Wait;
        }
        let seen = inner.ring.partition_point(|event| event.revision.0 <= self.cursor);
        self.pending
            .extend(inner.ring.iter().skip(seen).filter(|event| event.key.starts_with(&*self.watcher.prefix)).cloned());
        // A reader may know a revision that the hub is only about to hear of.
        self.cursor = self.cursor.max(inner.head);
        let mut queue = lock(&self.watcher.queue);
        *queue = Queue { through: self.cursor, ..Queue::default() };
        drop(queue);
        self.phase = Phase::Live;
        self.announce = true;
        Step::Again
    }

    async fn read_backlog(&mut self) -> Step {
        match Arc::clone(&self.backlog).events(Arc::clone(&self.watcher.prefix), self.cursor).await {
            Ok(chunk) => {
                self.pending.extend(chunk.events);
                self.cursor = chunk.through;
                Step::Again
            }
            // It was readable when the watch began.
            Err(WatchError::Compacted { .. }) => Step::End(WatchError::Lagged { last: Revision(self.cursor) }),
            Err(error) => Step::End(error),
        }
    }

    fn drain(&mut self) -> Step {
        let mut queue = lock(&self.watcher.queue);
        if !queue.events.is_empty() {
            std::mem::swap(&mut self.pending, &mut queue.events);
            self.cursor = queue.through;
            return Step::Again;
        }
        if let Some(revision) = queue.progress.take() {
            self.cursor = revision;
            return Step::Yield(WatchItem::Progress(Revision(revision)));
        }
        if queue.closed {
            return Step::End(WatchError::Closed);
        }
        if queue.overflowed {
            self.phase = Phase::Behind;
            return Step::Again;
        }
        Step::Wait
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        lock(&self.hub.inner).unregister(self.id);
    }
}
