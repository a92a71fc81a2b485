//! Watch: the store's events as a client asked for them.
//!
//! A watch is first a list (when it begins with the present state), then the store's events after it. An object that a write moves
//! into or out of the selection is added or deleted, whatever happened to it in the store. Bookmarks tell how far the watch is.
//!
//! Events are turned into objects once and shared by all watches that are interested ([`EventCache`]).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::stream::{BoxStream, StreamExt as _};
use pullpiri_store::{Event, ReadError, Revision, WatchError, WatchItem, WatchStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::object::Object;
use super::options::ListOptions;
use super::read::{Cursor, parse_revision_or_fail};
use super::selection::Selection;
use super::{Rest, store_errors};
use crate::registry::{Origin, Resource, Resources};
use crate::status::Status;

/// How often an idle watch hears how far it is.
const BOOKMARK_PERIOD: Duration = Duration::from_secs(60);
/// A bookmark before the end spares the client a relist.
const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);
/// What is left to say when a resource goes away is said in this time.
const FAREWELL: Duration = Duration::from_secs(1);
/// Without `timeoutSeconds` a watch lasts between this and twice this, so that clients don't all come back at once.
const MIN_TIMEOUT: Duration = Duration::from_secs(1800);
/// Recent events that watches share. Watches lag each other by a few events at most.
const SHARED_EVENTS: usize = 32;
/// Larger events aren't kept for others, which bounds what sharing costs.
const SHARED_BYTES: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Added,
    Modified,
    Deleted,
}

/// What a watch tells its client.
#[derive(Debug)]
pub(crate) enum Notice {
    Event {
        kind: Kind,
        object: Arc<Object>,
    },
    Bookmark {
        revision: u64,
        initial_events_end: bool,
    },
    /// The watch ends with this.
    Error(Status),
}

/// Both sides of an event, as one resource shows them.
#[derive(Clone, Debug)]
struct Seen {
    current: Option<Arc<Object>>,
    previous: Option<Arc<Object>>,
}

/// Recent events, for sharing.
#[derive(Debug, Default)]
pub(crate) struct EventCache(Mutex<VecDeque<Shared>>);

/// An event that was turned into objects.
#[derive(Debug)]
struct Shared {
    revision: u64,
    /// Somebody else's transaction in etcd may change several objects at one revision.
    key: Arc<str>,
    resource: Arc<Resource>,
    seen: Seen,
}

impl EventCache {
    fn get(&self, rest: &Rest, resource: &Arc<Resource>, event: &Event) -> Result<Seen, Status> {
        let revision = event.revision.0;
        {
            let recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let same = |shared: &&Shared| {
                shared.revision == revision && Arc::ptr_eq(&shared.resource, resource) && shared.key == event.key
            };
            if let Some(shared) = recent.iter().rev().find(same) {
                return Ok(shared.seen.clone());
            }
        }
        let current = match &event.current {
            Some(kv) => Some(Arc::new(rest.show_kv(resource, kv)?)),
            None => None,
        };
        // An object that leaves is shown as it was, at the revision of the event.
        let previous = match &event.previous {
            Some(kv) => Some(Arc::new(rest.show(resource, Object::at(kv, revision))?)),
            None => None,
        };
        let seen = Seen { current, previous };
        let size = |object: &Option<Arc<Object>>| object.as_ref().map_or(0, |object| object.len());
        if size(&seen.current) + size(&seen.previous) > SHARED_BYTES {
            return Ok(seen);
        }
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() >= SHARED_EVENTS {
            recent.pop_front();
        }
        let (key, resource) = (Arc::clone(&event.key), Arc::clone(resource));
        recent.push_back(Shared { revision, key, resource, seen: seen.clone() });
        Ok(seen)
    }
}

/// Where a watch is.
enum Phase {
    /// Sending the present state.
    Initial {
        items: std::vec::IntoIter<Object>,
        rest: Option<Cursor>,
        revision: u64,
    },
    /// The present state is sent.
    InitialEnd {
        revision: u64,
    },
    Live(WatchStream),
    Ended,
}

struct Pump {
    rest: Arc<Rest>,
    resource: Arc<Resource>,
    namespace: Option<String>,
    selection: Selection,
    bookmarks: bool,
    phase: Phase,
    /// Everything up to here was delivered.
    progress: u64,
    /// The client knows that it has everything up to here.
    told: u64,
    ends: Instant,
    next_bookmark: Instant,
    shutdown: watch::Receiver<bool>,
    registry: watch::Receiver<Arc<Resources>>,
}

impl Rest {
    /// Starts a watch. `shutdown` becoming true ends it.
    pub(crate) async fn watch(
        self: &Arc<Self>,
        resource: &Arc<Resource>,
        namespace: Option<&str>,
        selection: Selection,
        options: &ListOptions,
        shutdown: watch::Receiver<bool>,
    ) -> Result<BoxStream<'static, Notice>, Status> {
        let store = self.store(resource);
        let from = parse_revision_or_fail(&options.resource_version)?;
        let present = store.catch_up(Revision(from)).await;
        if from > present.0 && resource.origin == Origin::Virtual {
            // The revision is of an earlier process: the client must list again.
            return Ok(futures::stream::iter([Notice::Error(too_old(Revision(from), present))]).boxed());
        }
        if from > present.0 {
            return Err(store_errors::too_large(from, present.0));
        }
        let phase = if options.send_initial_events == Some(true) {
            let list = ListOptions { resource_version: options.resource_version.clone(), ..ListOptions::default() };
            let listing = self.list(resource, namespace, &selection, &list).await?;
            Phase::Initial { items: listing.items.into_iter(), rest: listing.rest, revision: listing.revision }
        } else {
            let from = if from == 0 { store.revision() } else { Revision(from) };
            match store.watch(&selection.prefix(resource, namespace), from).await {
                Ok(events) => Phase::Live(events),
                Err(ReadError::Compacted { oldest, .. }) => {
                    let status = too_old(from, oldest);
                    return Ok(futures::stream::iter([Notice::Error(status)]).boxed());
                }
                Err(error) => return Err(store_errors::read(&error)),
            }
        };
        let timeout = options.timeout_seconds.map_or_else(default_timeout, Duration::from_secs);
        let now = Instant::now();
        let mut pump = Pump {
            rest: Arc::clone(self),
            resource: Arc::clone(resource),
            namespace: namespace.map(str::to_owned),
            selection,
            bookmarks: options.bookmarks,
            phase,
            progress: from,
            told: from,
            ends: now.checked_add(timeout).unwrap_or(now + MIN_TIMEOUT),
            next_bookmark: now,
            shutdown,
            registry: self.registry.subscribe(),
        };
        pump.schedule_bookmark();
        Ok(futures::stream::unfold(pump, |mut pump| async move { pump.next().await.map(|notice| (notice, pump)) })
            .boxed())
    }
}

fn too_old(from: Revision, oldest: Revision) -> Status {
    Status::expired(format!("too old resource version: {from} ({oldest})"))
}

fn default_timeout() -> Duration {
    let random = uuid::Uuid::new_v4();
    MIN_TIMEOUT + MIN_TIMEOUT * u32::from(random.as_bytes()[0]) / 256
}

/// What woke a live watch.
enum Woken {
    Item(Option<Result<WatchItem, WatchError>>),
    Bookmark,
    Registry(bool),
    End,
}

impl Pump {
    fn schedule_bookmark(&mut self) {
        let now = Instant::now();
        let before_end = self.ends.checked_sub(BOOKMARK_BEFORE_END).filter(|at| *at > now);
        self.next_bookmark = before_end.map_or(now + BOOKMARK_PERIOD, |at| at.min(now + BOOKMARK_PERIOD));
    }

    async fn next(&mut self) -> Option<Notice> {
        loop {
            match &mut self.phase {
                Phase::Ended => return None,
                Phase::Initial { items, rest, revision } => {
                    if *self.shutdown.borrow() {
                        return None;
                    }
                    if let Some(object) = items.next() {
                        return Some(Notice::Event { kind: Kind::Added, object: Arc::new(object) });
                    }
                    let revision = *revision;
                    match rest.take() {
                        None => self.phase = Phase::InitialEnd { revision },
                        Some(cursor) => {
                            let namespace = self.namespace.as_deref();
                            let page = self.rest.next_page(&self.resource, namespace, &self.selection, cursor).await;
                            match page {
                                Ok((more, rest)) => {
                                    self.phase = Phase::Initial { items: more.into_iter(), rest, revision };
                                }
                                Err(status) => return self.fail(status),
                            }
                        }
                    }
                }
                Phase::InitialEnd { revision } => {
                    let revision = *revision;
                    let prefix = self.selection.prefix(&self.resource, self.namespace.as_deref());
                    match self.rest.store(&self.resource).watch(&prefix, Revision(revision)).await {
                        Ok(events) => self.phase = Phase::Live(events),
                        Err(ReadError::Compacted { oldest, .. }) => {
                            return self.fail(too_old(Revision(revision), oldest));
                        }
                        Err(error) => return self.fail(store_errors::read(&error)),
                    }
                    self.progress = revision;
                    self.told = revision;
                    if self.bookmarks {
                        return Some(Notice::Bookmark { revision, initial_events_end: true });
                    }
                }
                Phase::Live(_) => {
                    if let Some(notice) = self.live().await {
                        return Some(notice);
                    }
                }
            }
        }
    }

    fn fail(&mut self, status: Status) -> Option<Notice> {
        self.phase = Phase::Ended;
        Some(Notice::Error(status))
    }

    /// Waits for one thing to happen; `None` when it isn't for the client.
    async fn live(&mut self) -> Option<Notice> {
        let Phase::Live(events) = &mut self.phase else { return None };
        let shutdown = &mut self.shutdown;
        let registry = &mut self.registry;
        // Events last: there may always be another, and then nothing else would be noticed. None is lost, since the client goes on where it was.
        let woken = tokio::select! {
            biased;
            _ = shutdown.wait_for(|stop| *stop) => Woken::End,
            () = sleep_until(self.ends) => Woken::End,
            changed = registry.changed() => Woken::Registry(changed.is_ok()),
            () = sleep_until(self.next_bookmark), if self.bookmarks => Woken::Bookmark,
            item = events.next() => Woken::Item(item),
        };
        match woken {
            Woken::Item(Some(Ok(WatchItem::Event(event)))) => self.event(&event),
            Woken::Item(Some(Ok(WatchItem::Progress(revision)))) => {
                self.progress = self.progress.max(revision.0);
                None
            }
            Woken::Item(Some(Err(error))) => {
                let status = match error {
                    WatchError::Compacted { requested, oldest } => too_old(requested, oldest),
                    WatchError::Lagged { .. } => {
                        Status::expired(format!("too old resource version: the watcher is too slow ({error})"))
                    }
                    WatchError::Io { .. } => Status::internal(error),
                    WatchError::Closed => {
                        self.phase = Phase::Ended;
                        return None;
                    }
                };
                self.fail(status)
            }
            Woken::Item(None) | Woken::End => {
                self.phase = Phase::Ended;
                None
            }
            Woken::Bookmark => {
                self.schedule_bookmark();
                self.bookmark()
            }
            Woken::Registry(alive) => {
                self.follow_registry(alive);
                None
            }
        }
    }

    fn bookmark(&mut self) -> Option<Notice> {
        if self.progress <= self.told {
            return None;
        }
        self.told = self.progress;
        Some(Notice::Bookmark { revision: self.progress, initial_events_end: false })
    }

    /// A changed CRD shows later events in its new form; a deleted one ends the watch, after what is still to be told.
    fn follow_registry(&mut self, alive: bool) {
        let resource = &self.resource;
        let now = self.registry.borrow_and_update().get(&resource.group, &resource.version, &resource.plural).cloned();
        match now {
            Some(present) => self.resource = present,
            None if alive || self.resource.origin != Origin::BuiltIn => {
                self.ends = self.ends.min(Instant::now() + FAREWELL);
            }
            None => self.phase = Phase::Ended,
        }
    }

    fn event(&mut self, event: &Event) -> Option<Notice> {
        self.progress = event.revision.0;
        if !self.selection.may_match_key(self.namespace.as_deref(), &event.key) {
            return None;
        }
        match self.classify(event) {
            Ok(None) => None,
            Ok(Some((kind, object))) => {
                self.told = event.revision.0;
                Some(Notice::Event { kind, object })
            }
            Err(status) => self.fail(status),
        }
    }

    fn classify(&self, event: &Event) -> Result<Option<(Kind, Arc<Object>)>, Status> {
        let seen = self.rest.events.get(&self.rest, &self.resource, event)?;
        let matching = |object: Option<Arc<Object>>| -> Result<Option<Arc<Object>>, Status> {
            match object {
                Some(object) if self.selection.matches(&self.resource, &object)? => Ok(Some(object)),
                _ => Ok(None),
            }
        };
        Ok(match (matching(seen.current)?, matching(seen.previous)?) {
            (Some(current), Some(_)) => Some((Kind::Modified, current)),
            (Some(current), None) => Some((Kind::Added, current)),
            (None, Some(previous)) => Some((Kind::Deleted, previous)),
            (None, None) => None,
        })
    }
}
