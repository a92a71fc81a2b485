//! Counting what quotas limit. Acts on changes in namespaces that have quotas, and sleeps otherwise.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::{FutureExt as _, StreamExt as _};
use pullpiri_store::Store;
use serde_json::{Map, Value, json};

use super::{Quotas, count, resource_of};
use crate::builtin::{set, text};
use crate::gc::Queue;
use crate::objects::{Change, ChangeItem, ChangeKind, Objects, Subresource};
use crate::registry::Resource;
use crate::rest::store_errors;
use crate::status::Status;

/// How long to wait when the store can't be read.
const RETRY: Duration = Duration::from_secs(1);

/// What became of a namespace's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    /// Something was charged meanwhile.
    Again,
}

/// Keeps the status of all quotas for as long as it is polled.
pub(crate) async fn run(objects: Objects, store: Arc<dyn Store>, quotas: Arc<Quotas>) {
    let controller = Controller { objects, store, quotas };
    loop {
        if let Err(status) = controller.follow().await {
            tracing::warn!(%status, "quotas can't be read, trying again");
            tokio::time::sleep(RETRY).await;
        }
    }
}

struct Controller {
    objects: Objects,
    store: Arc<dyn Store>,
    quotas: Arc<Quotas>,
}

impl Controller {
    fn resource(&self) -> Result<Arc<Resource>, Status> {
        let resource = self.objects.registry().snapshot().get("", "v1", "resourcequotas").cloned();
        resource.ok_or_else(|| Status::internal("resourcequotas is not registered"))
    }

    /// Looks at every quota, then follows the changes until there is a gap.
    async fn follow(&self) -> Result<(), Status> {
        let mut queue: Queue<Arc<str>> = Queue::default();
        let (present, revision) = self.objects.list(&self.resource()?, None).await?;
        let (mut changes, _) = self.objects.changes(Some(revision)).await?;
        for quota in &present {
            let namespace = text(quota, &["metadata", "namespace"]);
            self.quotas.learn(namespace, text(quota, &["metadata", "name"]));
            queue.add(namespace.into());
        }
        self.quotas.complete();
        drop(present);
        let mut kinds = self.objects.registry().subscribe();
        loop {
            while let Some(namespace) = queue.take(Instant::now()) {
                match self.reconcile(&namespace).await {
                    Ok(Outcome::Done) => queue.done(namespace),
                    Ok(Outcome::Again) => queue.failed(namespace, Instant::now()),
                    Err(status) => {
                        tracing::debug!(namespace = &*namespace, %status, "a namespace can't be counted, trying again");
                        queue.failed(namespace, Instant::now());
                    }
                }
            }
            let due = queue.due();
            tokio::select! {
                item = changes.next() => match item {
                    Some(ChangeItem::Change(change)) => {
                        self.apply(&mut queue, &change);
                        // What came together is counted once.
                        while let Some(Some(item)) = changes.next().now_or_never() {
                            match item {
                                ChangeItem::Change(change) => self.apply(&mut queue, &change),
                                ChangeItem::Resync => return Ok(()),
                            }
                        }
                    }
                    Some(ChangeItem::Resync) => return Ok(()),
                    None => return Err(Status::service_unavailable("the store is closed")),
                },
                () = self.quotas.woken.notified() => {
                    self.quotas.take_dirty().into_iter().for_each(|namespace| queue.add(namespace));
                }
                // A kind that a quota names may be served now.
                Ok(()) = kinds.changed() => self.quotas.namespaces().into_iter().for_each(|namespace| queue.add(namespace)),
                () = due => {}
            }
        }
    }

    fn apply(&self, queue: &mut Queue<Arc<str>>, change: &Change) {
        let Some(namespace) = &change.namespace else { return };
        if change.group.is_empty() && &*change.plural == "resourcequotas" {
            if change.kind == ChangeKind::Deleted {
                self.quotas.forget(namespace, &change.name);
            } else {
                self.quotas.learn(namespace, &change.name);
            }
            queue.add(Arc::clone(namespace));
        } else if change.kind != ChangeKind::Modified && self.quotas.has_any(namespace) {
            queue.add(Arc::clone(namespace));
        }
    }

    async fn reconcile(&self, namespace: &str) -> Result<Outcome, Status> {
        if !self.quotas.has_any(namespace) {
            return Ok(Outcome::Done);
        }
        let Some(epoch) = self.quotas.settled(namespace) else { return Ok(Outcome::Again) };
        let resource = self.resource()?;
        let (present, _) = self.objects.list(&resource, Some(namespace)).await?;
        for quota in present {
            let wanted = self.status(namespace, &quota).await?;
            if quota.get("status") == Some(&wanted) {
                continue;
            }
            let stale = AtomicBool::new(false);
            let edit = |quota: &mut Value| {
                if self.quotas.settled(namespace) != Some(epoch) {
                    stale.store(true, Ordering::Relaxed);
                    return false;
                }
                let changed = quota.get("status") != Some(&wanted);
                set(quota, &["status"], wanted.clone());
                changed
            };
            let name = text(&quota, &["metadata", "name"]);
            match self.objects.modify(&resource, Subresource::Status, Some(namespace), name, &edit).await {
                Err(status) if status.reason() == "NotFound" => {}
                other => drop(other?),
            }
            if stale.load(Ordering::Relaxed) {
                return Ok(Outcome::Again);
            }
        }
        Ok(Outcome::Done)
    }

    /// What a quota's status should be: its limits, and how much of each is used. What nothing here could use counts as 0; a kind that
    /// isn't served is left out.
    async fn status(&self, namespace: &str, quota: &Value) -> Result<Value, Status> {
        let resources = self.objects.registry().snapshot();
        let hard = quota.pointer("/spec/hard").and_then(Value::as_object);
        let Some(hard) = hard else { return Ok(json!({})) };
        let mut used = Map::new();
        for name in hard.keys() {
            let amount = match resource_of(&resources, name) {
                Some(of) => count(&*self.store, of, namespace).await.map_err(|error| store_errors::read(&error))?,
                None if name.starts_with("count/") => continue,
                None => 0,
            };
            used.insert(name.clone(), amount.to_string().into());
        }
        Ok(json!({"hard": hard, "used": used}))
    }
}
