//! Namespaces: the four that every cluster has, what every namespace holds, and their deletion.
//!
//! A live namespace has the ServiceAccount `default` and the ConfigMap `kube-root-ca.crt`; both come back when they are deleted. One
//! that is being deleted is emptied ([`content`]) and, when nothing is left, loses the finalizer `kubernetes` through `/finalize`. One
//! task does both; it acts on changes and sleeps otherwise.

mod conditions;
mod content;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::try_join_all;
use futures::stream::FuturesUnordered;
use serde_json::{Value, json};

use crate::builtin::{set, text};
use crate::gc::Queue;
use crate::objects::{Change, ChangeItem, ChangeKind, Objects, Subresource};
use crate::registry::Resource;
use crate::status::Status;
use content::Outcome;

/// The namespaces that exist from the start.
pub const DEFAULTS: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

const ROOT_CA: &str = "kube-root-ca.crt";
const SERVICE_ACCOUNT: &str = "default";
/// Namespaces in hand at a time.
const AT_ONCE: usize = 16;
/// How long to wait when the store can't be read.
const RETRY: Duration = Duration::from_secs(1);

fn core(objects: &Objects, plural: &str) -> Result<Arc<Resource>, Status> {
    let resource = objects.registry().snapshot().get("", "v1", plural).cloned();
    resource.ok_or_else(|| Status::internal(format!("{plural} is not registered")))
}

/// Creates those of [`DEFAULTS`] that aren't there.
///
/// # Errors
/// What the store answers.
pub async fn ensure_defaults(objects: &Objects) -> Result<(), Status> {
    let namespaces = core(objects, "namespaces")?;
    let namespaces = &namespaces;
    try_join_all(DEFAULTS.map(|name| async move {
        match objects.get(namespaces, None, name).await {
            Err(status) if status.reason() == "NotFound" => {
                let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
                create(objects, namespaces, None, namespace).await
            }
            other => other.map(drop),
        }
    }))
    .await
    .map(drop)
}

/// Somebody else's creation is as good as ours.
async fn create(
    objects: &Objects,
    resource: &Arc<Resource>,
    namespace: Option<&str>,
    object: Value,
) -> Result<(), Status> {
    match objects.create(resource, namespace, object).await {
        Err(status) if status.reason() == "AlreadyExists" => Ok(()),
        other => other.map(drop),
    }
}

/// Looks after all namespaces for as long as it is polled. `root_ca` is the certificate, in PEM, that clients verify the server by.
pub async fn run(objects: Objects, root_ca: Option<Arc<str>>) {
    loop {
        let mut controller = Controller {
            objects: objects.clone(),
            root_ca: root_ca.clone(),
            queue: Queue::default(),
            terminating: HashSet::new(),
        };
        if let Err(status) = controller.follow().await {
            tracing::warn!(%status, "namespaces can't be read, trying again");
            tokio::time::sleep(RETRY).await;
        }
    }
}

struct Controller {
    objects: Objects,
    root_ca: Option<Arc<str>>,
    queue: Queue<Arc<str>>,
    /// Whose content is being waited for.
    terminating: HashSet<Arc<str>>,
}

impl Controller {
    /// Looks at every namespace, then follows the changes until there is a gap.
    async fn follow(&mut self) -> Result<(), Status> {
        let namespaces = core(&self.objects, "namespaces")?;
        let (present, revision) = self.objects.list(&namespaces, None).await?;
        let (mut changes, _) = self.objects.changes(Some(revision)).await?;
        for namespace in &present {
            self.queue.add(text(namespace, &["metadata", "name"]).into());
        }
        drop(present);
        let mut running = FuturesUnordered::new();
        loop {
            while self.queue.running() < AT_ONCE {
                let Some(name) = self.queue.take(Instant::now()) else { break };
                let (objects, root_ca) = (self.objects.clone(), self.root_ca.clone());
                running.push(async move {
                    let outcome = reconcile(&objects, root_ca.as_deref(), &name).await;
                    (name, outcome)
                });
            }
            let due = self.queue.due();
            tokio::select! {
                item = changes.next() => match item {
                    Some(ChangeItem::Change(change)) => self.apply(&change),
                    Some(ChangeItem::Resync) => return Ok(()),
                    None => return Err(Status::service_unavailable("the store is closed")),
                },
                Some((name, outcome)) = running.next() => self.finish(name, outcome),
                () = due => {}
            }
        }
    }

    fn apply(&mut self, change: &Change) {
        match (&*change.group, &*change.plural, &change.namespace) {
            ("", "namespaces", None) => {
                if change.kind == ChangeKind::Deleted {
                    self.terminating.remove(&change.name);
                } else {
                    if change.mentions("\"deletionTimestamp\"") {
                        self.terminating.insert(Arc::clone(&change.name));
                    }
                    self.queue.add(Arc::clone(&change.name));
                }
            }
            (_, _, Some(namespace)) if self.terminating.contains(namespace) => {
                // Something went, or slipped in while the deletion began.
                if matches!(change.kind, ChangeKind::Deleted | ChangeKind::Added) {
                    self.queue.add(Arc::clone(namespace));
                }
            }
            ("", "serviceaccounts", Some(namespace))
                if change.kind == ChangeKind::Deleted && *change.name == *SERVICE_ACCOUNT =>
            {
                self.queue.add(Arc::clone(namespace));
            }
            ("", "configmaps", Some(namespace)) if change.kind != ChangeKind::Added && *change.name == *ROOT_CA => {
                self.queue.add(Arc::clone(namespace));
            }
            _ => {}
        }
    }

    fn finish(&mut self, name: Arc<str>, outcome: Result<Outcome, Status>) {
        match outcome {
            Ok(Outcome::Done) => self.queue.done(name),
            Ok(Outcome::Waiting) => {
                self.terminating.insert(Arc::clone(&name));
                self.queue.done(name);
            }
            Ok(Outcome::Again) => self.queue.failed(name, Instant::now()),
            Err(status) => {
                tracing::debug!(namespace = &*name, %status, "a namespace can't be looked after, trying again");
                self.queue.failed(name, Instant::now());
            }
        }
    }
}

async fn reconcile(objects: &Objects, root_ca: Option<&str>, name: &str) -> Result<Outcome, Status> {
    let namespaces = core(objects, "namespaces")?;
    let namespace = match objects.get(&namespaces, None, name).await {
        Err(status) if status.reason() == "NotFound" => return Ok(Outcome::Done),
        other => other?,
    };
    if namespace.pointer("/metadata/deletionTimestamp").is_some() {
        return content::empty(objects, &namespaces, &namespace).await;
    }
    match furnish(objects, root_ca, name).await {
        // Its deletion began meanwhile, which brings us back here.
        Err(status) if matches!(status.reason(), "Forbidden" | "NotFound") => Ok(Outcome::Done),
        other => other.map(|()| Outcome::Done),
    }
}

/// Puts into a namespace what every namespace has.
async fn furnish(objects: &Objects, root_ca: Option<&str>, namespace: &str) -> Result<(), Status> {
    let accounts = core(objects, "serviceaccounts")?;
    match objects.get(&accounts, Some(namespace), SERVICE_ACCOUNT).await {
        Err(status) if status.reason() == "NotFound" => {
            let account = json!({
                "apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": {"name": SERVICE_ACCOUNT, "namespace": namespace},
            });
            create(objects, &accounts, Some(namespace), account).await?;
        }
        other => drop(other?),
    }
    let Some(root_ca) = root_ca else { return Ok(()) };
    let maps = core(objects, "configmaps")?;
    let wanted = json!({"ca.crt": root_ca});
    match objects.get(&maps, Some(namespace), ROOT_CA).await {
        Err(status) if status.reason() == "NotFound" => {
            let map = json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": ROOT_CA, "namespace": namespace, "annotations": {
                    "kubernetes.io/description": "The certificate authority that this API server's certificate can be verified by.",
                }},
                "data": wanted,
            });
            create(objects, &maps, Some(namespace), map).await
        }
        Ok(map) if map.get("data") == Some(&wanted) => Ok(()),
        Ok(_) => {
            let edit = |map: &mut Value| {
                let changed = map.get("data") != Some(&wanted);
                set(map, &["data"], wanted.clone());
                changed
            };
            objects.modify(&maps, Subresource::None, Some(namespace), ROOT_CA, &edit).await.map(drop)
        }
        Err(status) => Err(status),
    }
}
