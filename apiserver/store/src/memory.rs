//! The store in memory: for tests, and for resources that are never stored (signals).
//!
//! Every version of every key since compaction is kept in order of revision, beside a log of the events. It is the
//! simplest thing that fulfils the contract, so that the store on disk can be held against it; nothing survives the process.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, future};

use crate::clock::{Clock, SystemClock};
use crate::hub::{Backlog, Buffers, Chunk, Hub};
use crate::metrics::Metrics;
use crate::retention::{Ages, Retention};
use crate::{
    Change, Event, Expect, KeyValue, Page, Range, ReadError, Revision, Store, WatchError, WatchStream, Write,
    WriteError,
};

/// How a [`MemoryStore`] behaves.
#[derive(Clone, Debug)]
pub struct Options {
    pub retention: Retention,
    pub buffers: Buffers,
    pub clock: Arc<dyn Clock>,
}

impl Default for Options {
    fn default() -> Self {
        Self { retention: Retention::default(), buffers: Buffers::default(), clock: Arc::new(SystemClock::new()) }
    }
}

/// A [`Store`] without a disk. Compaction by age happens when something is written.
#[derive(Debug)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    hub: Arc<Hub>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
struct State {
    revision: u64,
    oldest: u64,
    /// Each key's versions, oldest first, never empty.
    keys: BTreeMap<Arc<str>, VecDeque<Version>>,
    /// Every event in `(oldest, revision]`.
    log: VecDeque<Arc<Event>>,
    ages: Ages,
    metrics: Metrics,
}

#[derive(Debug)]
struct Version {
    modified: u64,
    /// `None`: the key was deleted.
    live: Option<KeyValue>,
}

/// Events per step of a watch through the log.
const CHUNK: usize = 512;

impl MemoryStore {
    #[must_use]
    pub fn new() -> Self {
        Self::with(Options::default())
    }

    #[must_use]
    pub fn with(options: Options) -> Self {
        let state = State {
            revision: 0,
            oldest: 0,
            keys: BTreeMap::new(),
            log: VecDeque::new(),
            ages: Ages::new(options.retention),
            metrics: Metrics::default(),
        };
        let hub = Hub::new(options.buffers, 0, 0);
        Self { shared: Arc::new(Shared { state: Mutex::new(state), hub, clock: options.clock }) }
    }

    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let state = self.shared.lock();
        let (watchers, lagged) = self.shared.hub.counts();
        Metrics { revision: state.revision, oldest: state.oldest, watchers, lagged, ..state.metrics }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        self.shared.hub.close();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bytes_of(live: &Option<KeyValue>) -> u64 {
    live.as_ref().map_or(0, |kv| u64::try_from(kv.value.len()).unwrap_or(u64::MAX))
}

impl State {
    fn readable(&self, at: Revision) -> Result<(), ReadError> {
        if at.0 < self.oldest {
            return Err(ReadError::Compacted { requested: at, oldest: Revision(self.oldest) });
        }
        if at.0 > self.revision {
            return Err(ReadError::Future { requested: at, current: Revision(self.revision) });
        }
        Ok(())
    }

    fn newest(&self, key: &str) -> Option<&KeyValue> {
        self.keys.get(key)?.back()?.live.as_ref()
    }

    fn apply(&mut self, write: Write) -> Result<Arc<Event>, WriteError> {
        let previous = self.newest(&write.key).cloned();
        let holds = match (write.expect, &previous) {
            (Expect::Any, _) | (Expect::Absent, None) => true,
            (Expect::At(revision), Some(found)) => found.modified == revision,
            (Expect::Absent, Some(_)) | (Expect::At(_), None) => false,
        };
        if !holds || (write.change == Change::Delete && previous.is_none()) {
            self.metrics.refused += 1;
            return Err(WriteError::Mismatch { key: write.key, expected: write.expect, current: previous });
        }
        self.revision += 1;
        let revision = Revision(self.revision);
        let current = match write.change {
            Change::Put(value) => Some(KeyValue {
                key: Arc::clone(&write.key),
                value,
                created: previous.as_ref().map_or(revision, |found| found.created),
                modified: revision,
            }),
            Change::Delete => None,
        };
        self.metrics.writes += 1;
        self.metrics.size_bytes += bytes_of(&current);
        let version = Version { modified: revision.0, live: current.clone() };
        self.keys.entry(Arc::clone(&write.key)).or_default().push_back(version);
        let event = Arc::new(Event { revision, key: write.key, current, previous });
        self.log.push_back(Arc::clone(&event));
        Ok(event)
    }

    fn compact(&mut self, to: u64) {
        while let Some(event) = self.log.front()
            && event.revision.0 <= to
        {
            let revision = event.revision.0;
            if let Some(versions) = self.keys.get_mut(&event.key) {
                // What the event replaced, and the event itself if it left nothing.
                while let Some(first) = versions.front()
                    && (first.modified < revision || (first.modified == revision && first.live.is_none()))
                {
                    self.metrics.size_bytes = self.metrics.size_bytes.saturating_sub(bytes_of(&first.live));
                    versions.pop_front();
                }
                if versions.is_empty() {
                    self.keys.remove(&event.key);
                }
            }
            self.log.pop_front();
        }
        self.oldest = self.oldest.max(to);
    }

    fn list(&self, range: &Range) -> Result<Page, ReadError> {
        let at = range.at.unwrap_or(Revision(self.revision));
        self.readable(at)?;
        let start = match &range.after {
            Some(after) if after.as_ref() >= range.prefix.as_str() => Bound::Excluded(after.as_ref()),
            _ => Bound::Included(range.prefix.as_str()),
        };
        let mut found = self
            .keys
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(&range.prefix))
            .filter_map(|(_, versions)| versions.iter().rev().find(|version| version.modified <= at.0)?.live.as_ref());
        let items: Vec<KeyValue> = found.by_ref().take(range.limit.unwrap_or(usize::MAX)).cloned().collect();
        let remaining = range.limit.map(|_| u64::try_from(found.count()).unwrap_or(u64::MAX));
        Ok(Page { items, revision: at, more: remaining.is_some_and(|count| count > 0), remaining })
    }
}

impl Backlog for Shared {
    fn events(self: Arc<Self>, prefix: Arc<str>, after: u64) -> BoxFuture<'static, Result<Chunk, WatchError>> {
        let state = self.lock();
        if after < state.oldest {
            let (requested, oldest) = (Revision(after), Revision(state.oldest));
            return future::ready(Err(WatchError::Compacted { requested, oldest })).boxed();
        }
        let skip = usize::try_from(after - state.oldest).unwrap_or(usize::MAX);
        let mut through = after;
        let mut events = Vec::new();
        for event in state.log.iter().skip(skip).take(CHUNK) {
            through = event.revision.0;
            if event.key.starts_with(&*prefix) {
                events.push(Arc::clone(event));
            }
        }
        future::ready(Ok(Chunk { events, through })).boxed()
    }
}

impl Store for MemoryStore {
    fn write(&self, write: Write) -> BoxFuture<'_, Result<KeyValue, WriteError>> {
        async move {
            let mut state = self.shared.lock();
            let event = state.apply(write)?;
            let now = self.shared.clock.now();
            let head = state.revision;
            state.ages.note(now, head);
            // Published under the lock, so in order.
            self.shared.hub.publish(std::slice::from_ref(&event));
            let horizon = state.ages.horizon(now, head);
            if horizon > state.oldest {
                state.compact(horizon);
                self.shared.hub.compacted(horizon);
            }
            Ok(written(&event))
        }
        .boxed()
    }

    fn get(&self, key: &str) -> BoxFuture<'_, Result<(Option<KeyValue>, Revision), ReadError>> {
        let state = self.shared.lock();
        future::ready(Ok((state.newest(key).cloned(), Revision(state.revision)))).boxed()
    }

    fn list(&self, range: Range) -> BoxFuture<'_, Result<Page, ReadError>> {
        async move { self.shared.lock().list(&range) }.boxed()
    }

    fn watch(&self, prefix: &str, from: Revision) -> BoxFuture<'_, Result<WatchStream, ReadError>> {
        let readable = self.shared.lock().readable(from);
        let backlog: Arc<dyn Backlog> = Arc::clone(&self.shared) as _;
        future::ready(readable.map(|()| self.shared.hub.watch(backlog, prefix, from.0))).boxed()
    }

    fn revision(&self) -> Revision {
        Revision(self.shared.lock().revision)
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), ReadError>> {
        let mut state = self.shared.lock();
        if revision.0 > state.revision {
            let current = Revision(state.revision);
            return future::ready(Err(ReadError::Future { requested: revision, current })).boxed();
        }
        if revision.0 > state.oldest {
            state.compact(revision.0);
            self.shared.hub.compacted(revision.0);
        }
        future::ready(Ok(())).boxed()
    }

    fn oldest(&self) -> Revision {
        Revision(self.shared.lock().oldest)
    }

    fn health(&self) -> BoxFuture<'_, Result<(), String>> {
        future::ready(Ok(())).boxed()
    }
}

/// What a write answers: the new version, or the deleted one at the revision of its deletion.
pub(crate) fn written(event: &Event) -> KeyValue {
    let gone = || KeyValue {
        key: Arc::clone(&event.key),
        value: Bytes::new(),
        created: event.revision,
        modified: event.revision,
    };
    match (&event.current, &event.previous) {
        (Some(current), _) => current.clone(),
        (None, Some(previous)) => KeyValue { modified: event.revision, ..previous.clone() },
        (None, None) => gone(),
    }
}
