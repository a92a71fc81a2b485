//! The garbage collector: an object goes when its last owner is gone.
//!
//! The stream of all writes keeps a graph of UIDs ([`graph`]); what follows from a change is queued ([`queue`]) and done at once
//! against the live objects ([`work`]). Deletions come in three ways, told apart by finalizers on the owner: background (none: the
//! owner goes, then its dependents), foreground (`foregroundDeletion`: dependents that block go first) and orphan (`orphan`:
//! dependents lose the reference). Nothing polls; a gap in the stream means reading everything again.
//!
//! Memory: about 100 bytes for each object that has or is an owner, nothing for others.

mod absent;
mod graph;
mod queue;
mod work;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::{BoxStream, FuturesUnordered};
use futures::{FutureExt, StreamExt};
use serde::Deserialize;

use crate::objects::{Change, ChangeItem, ChangeKind, Objects};
use crate::registry::{Origin, Resource};
use crate::status::Status;
use absent::Absent;
use graph::{Graph, Metadata, Place, Uid, Work};
pub(crate) use queue::Queue;
use work::{Report, Worker};

/// Pieces of work in hand at a time: deletions share fsyncs.
const AT_ONCE: usize = 64;
/// How long to wait when the store can't be read.
const RETRY: Duration = Duration::from_secs(1);

/// Collects for as long as it is polled.
pub async fn run(objects: Objects) {
    loop {
        let mut collector = Collector::new(objects.clone());
        if let Err(status) = collector.follow(&Absent::default()).await {
            tracing::warn!(%status, "the garbage collector can't read, trying again");
            tokio::time::sleep(RETRY).await;
        }
    }
}

struct Collector {
    objects: Objects,
    graph: Graph,
    queue: Queue<Work>,
    /// Checks that wait for the registry to know a kind.
    unresolved: BTreeSet<Work>,
}

/// The part of a stored object that matters here.
#[derive(Deserialize)]
struct Stored {
    #[serde(default)]
    metadata: Metadata,
}

impl Collector {
    fn new(objects: Objects) -> Self {
        Self { objects, graph: Graph::default(), queue: Queue::default(), unresolved: BTreeSet::new() }
    }

    /// Reads everything, then follows the changes until there is a gap.
    async fn follow(&mut self, absent: &Absent) -> Result<(), Status> {
        let mut registry = self.objects.registry().subscribe();
        let mut changes = self.read_all().await?;
        let mut running = FuturesUnordered::new();
        loop {
            while self.queue.running() < AT_ONCE {
                let Some(work) = self.queue.take(Instant::now()) else { break };
                let (Work::Check(uid) | Work::Orphan(uid)) = work;
                let Some(view) = self.graph.view(uid) else {
                    self.queue.done(work);
                    continue;
                };
                let objects = self.objects.clone();
                let registry = self.objects.registry().snapshot();
                let dependents = if matches!(work, Work::Orphan(_)) { self.graph.dependents(uid) } else { Vec::new() };
                running.push(async move {
                    let worker = Worker { objects: &objects, registry, absent };
                    let result = match work {
                        Work::Check(uid) => worker.check(uid, &view).await,
                        Work::Orphan(uid) => worker.orphan(uid, &view, &dependents).await,
                    };
                    (work, result)
                });
            }
            let due = self.queue.due();
            tokio::select! {
                item = changes.next() => match item {
                    Some(ChangeItem::Change(change)) => {
                        self.apply(&change, absent);
                        // What came together is taken together.
                        while let Some(Some(item)) = changes.next().now_or_never() {
                            match item {
                                ChangeItem::Change(change) => self.apply(&change, absent),
                                ChangeItem::Resync => return Ok(()),
                            }
                        }
                    }
                    Some(ChangeItem::Resync) => return Ok(()),
                    None => return Err(Status::service_unavailable("the store is closed")),
                },
                Some((work, result)) = running.next() => self.finish(work, result, absent),
                changed = registry.changed() => {
                    if changed.is_ok() {
                        std::mem::take(&mut self.unresolved).into_iter().for_each(|work| self.queue.add(work));
                    }
                }
                () = due => {}
            }
        }
    }

    /// Builds the graph from all stored objects; returns the changes after that.
    async fn read_all(&mut self) -> Result<BoxStream<'static, ChangeItem>, Status> {
        let snapshot = self.objects.registry().snapshot();
        let stored: Vec<&Arc<Resource>> = snapshot
            .iter()
            .filter(|resource| resource.storage && resource.origin != Origin::Virtual)
            .filter(|resource| resource.strategy.view_of().is_none() && resource.strategy.review().is_none())
            .collect();
        // The stream starts first: what is seen twice does no harm, what is missed would.
        let (changes, _) = self.objects.changes(None).await?;
        let mut work = Vec::new();
        let mut places: HashMap<Uid, Place> = HashMap::new();
        for resource in stored {
            let (group, plural): (Arc<str>, Arc<str>) =
                (resource.group.as_str().into(), resource.plural.as_str().into());
            let (objects, _) = self.objects.list(resource, None).await?;
            for object in objects {
                let Some(metadata) = object.get("metadata") else { continue };
                let at = |field: &str| metadata.get(field).and_then(serde_json::Value::as_str).unwrap_or_default();
                let place = Place {
                    group: Arc::clone(&group),
                    plural: Arc::clone(&plural),
                    namespace: at("namespace").into(),
                    name: at("name").into(),
                };
                let Ok(metadata) = Metadata::deserialize(metadata) else { continue };
                places.insert(Uid::of(&metadata.uid), place.clone());
                self.graph.observe(place, &metadata, &mut work);
            }
        }
        for (uid, place) in places {
            self.graph.found(uid, place);
        }
        // Most owners turned up after their dependents were read; only what is still open is checked.
        work.retain(|work| matches!(work, Work::Orphan(_)));
        work.extend(self.graph.open());
        work.into_iter().for_each(|work| self.queue.add(work));
        tracing::debug!(nodes = self.graph.len(), "the garbage collector knows all objects");
        Ok(changes)
    }

    fn apply(&mut self, change: &Change, absent: &Absent) {
        let mut work = Vec::new();
        let stored = |kv: &pullpiri_store::KeyValue| serde_json::from_slice::<Stored>(&kv.value).ok();
        match (change.kind, &change.event.current, &change.event.previous) {
            (ChangeKind::Deleted, _, Some(previous)) => {
                if let Some(stored) = stored(previous) {
                    let uid = Uid::of(&stored.metadata.uid);
                    absent.went(uid);
                    self.graph.remove(uid, &mut work);
                }
            }
            (_, Some(current), previous) => {
                // Most writes are of objects without ties; a look at the text spares parsing them.
                let tied = |kv: &pullpiri_store::KeyValue| {
                    contains(&kv.value, b"\"ownerReferences\"") || contains(&kv.value, b"\"deletionTimestamp\"")
                };
                if (tied(current) || previous.as_ref().is_some_and(tied))
                    && let Some(stored) = stored(current)
                {
                    self.graph.observe(place(change), &stored.metadata, &mut work);
                }
            }
            _ => {}
        }
        work.into_iter().for_each(|work| self.queue.add(work));
    }

    fn finish(&mut self, work: Work, result: Result<Report, Status>, absent: &Absent) {
        let (Work::Check(uid) | Work::Orphan(uid)) = work;
        let report = match result {
            Ok(report) => report,
            Err(status) => {
                tracing::debug!(%status, ?work, "collecting failed, trying again");
                self.queue.failed(work, Instant::now());
                return;
            }
        };
        self.queue.done(work);
        let mut more = Vec::new();
        // One that went since it was read isn't there: who names it later is to be checked.
        for (owner, at) in report.found.into_iter().filter(|(owner, _)| !absent.is_gone(*owner)) {
            self.graph.found(owner, at);
        }
        if report.gone {
            self.graph.remove(uid, &mut more);
        }
        if report.unresolved {
            self.unresolved.insert(work);
        }
        more.into_iter().for_each(|work| self.queue.add(work));
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    let Some(first) = needle.first() else { return true };
    let mut rest = haystack;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        rest = rest.get(at..).unwrap_or_default();
        if rest.starts_with(needle) {
            return true;
        }
        rest = rest.get(1..).unwrap_or_default();
    }
    false
}

fn place(change: &Change) -> Place {
    Place {
        group: Arc::clone(&change.group),
        plural: Arc::clone(&change.plural),
        namespace: change.namespace.clone().unwrap_or_else(|| "".into()),
        name: Arc::clone(&change.name),
    }
}

#[cfg(test)]
mod tests {
    use graph::OwnerReference;
    use pullpiri_store::memory::MemoryStore;

    use super::*;
    use crate::{ApiServer, Config};

    #[tokio::test]
    async fn an_owner_that_went_while_it_was_read_is_not_there() {
        let server = ApiServer::open(Config::new(Arc::new(MemoryStore::new()))).await.unwrap();
        let (owner, dependent) = (Uid::of("o"), Uid::of("d"));
        let at = |name: &str| Place {
            group: "".into(),
            plural: "configmaps".into(),
            namespace: "default".into(),
            name: name.into(),
        };
        let reference = OwnerReference { uid: "o".to_owned(), ..OwnerReference::default() };
        let metadata = Metadata { uid: "d".to_owned(), owner_references: Some(vec![reference]), ..Metadata::default() };
        for went in [false, true] {
            let absent = Absent::default();
            let mut collector = Collector::new(server.objects());
            collector.graph.observe(at("d"), &metadata, &mut Vec::new());
            if went {
                absent.went(owner);
            }
            let report = Report { found: vec![(owner, at("o"))], ..Report::default() };
            collector.finish(Work::Check(dependent), Ok(report), &absent);
            assert_eq!(collector.graph.open().is_empty(), !went);
        }
    }
}
