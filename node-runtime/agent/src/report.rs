//! Statuses and finalizers, written to the API server.
//!
//! For each instance only the latest wish waits, one write at a time is under way, and what can't be written now is tried again with
//! backoff. So an API server that is away costs a bounded queue, and one that comes back gets each instance's newest state once.

use std::collections::BTreeMap;

use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use pullpiri_crds::{ModelInstance, ModelInstanceStatus};
use pullpiri_node_core::decide::FINALIZER;
use pullpiri_node_core::plan::{FinalizerChange, ObjectChange};
use pullpiri_node_core::runtime::PodId;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::FIELD_MANAGER;
use crate::metrics::{Metrics, WriteResult};
use crate::node::Message;
use crate::retry::{Retry, Verdict, judge};

/// Writes under way at once.
const CONCURRENT: usize = 16;

/// What shall be written, and the object as it was when that was decided.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wish {
    pub change: ObjectChange,
    pub namespace: String,
    pub name: String,
    pub resource_version: String,
    pub finalizers: Vec<String>,
}

impl Wish {
    pub fn new(object: &ModelInstance, change: ObjectChange) -> Self {
        let metadata = &object.metadata;
        Self {
            change,
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            resource_version: metadata.resource_version.clone().unwrap_or_default(),
            finalizers: metadata.finalizers.clone().unwrap_or_default(),
        }
    }
}

/// Revisions are numbers that grow (Kubernetes promises it since 1.35).
pub(crate) fn is_older(version: &str, than: &str) -> bool {
    match (version.parse::<u64>(), than.parse::<u64>()) {
        (Ok(version), Ok(than)) => version < than,
        _ => false,
    }
}

#[derive(Debug)]
enum Request {
    Write(PodId, Box<Wish>),
    Idle(oneshot::Sender<()>),
}

#[derive(Clone, Debug)]
pub(crate) struct Reporter {
    requests: mpsc::UnboundedSender<Request>,
}

impl Reporter {
    pub fn start(client: Client, messages: mpsc::Sender<Message>, metrics: Metrics) -> Self {
        let (requests, receiver) = mpsc::unbounded_channel();
        let queue = Queue { client, messages, metrics, entries: BTreeMap::new(), idle: Vec::new() };
        tokio::spawn(queue.run(receiver));
        Self { requests }
    }

    pub fn write(&self, id: &PodId, wish: Wish) {
        let _ = self.requests.send(Request::Write(id.clone(), Box::new(wish)));
    }

    /// Resolves when nothing waits or is under way.
    pub async fn idle(&self) {
        let (done, idle) = oneshot::channel();
        if self.requests.send(Request::Idle(done)).is_ok() {
            let _ = idle.await;
        }
    }
}

#[derive(Default)]
struct Entry {
    waiting: Option<Box<Wish>>,
    under_way: Option<Box<Wish>>,
    /// The last that was written, and the version that came of it.
    written: Option<(ModelInstanceStatus, String)>,
    retry: Retry,
    not_before: Option<Instant>,
    complained: bool,
}

struct Queue {
    client: Client,
    messages: mpsc::Sender<Message>,
    metrics: Metrics,
    entries: BTreeMap<PodId, Entry>,
    idle: Vec<oneshot::Sender<()>>,
}

type Written = (PodId, Result<Option<Box<ModelInstance>>, kube::Error>);

impl Queue {
    async fn run(mut self, mut requests: mpsc::UnboundedReceiver<Request>) {
        let mut writes: JoinSet<Written> = JoinSet::new();
        loop {
            self.begin(&mut writes);
            if writes.is_empty() && self.entries.values().all(|entry| entry.waiting.is_none()) {
                for done in self.idle.drain(..) {
                    let _ = done.send(());
                }
            }
            let due = self
                .entries
                .values()
                .filter(|e| e.waiting.is_some() && e.under_way.is_none())
                .filter_map(|e| e.not_before)
                .min();
            tokio::select! {
                request = requests.recv() => match request {
                    None => return,
                    Some(Request::Write(id, wish)) => self.accept(id, wish),
                    Some(Request::Idle(done)) => self.idle.push(done),
                },
                Some(written) = writes.join_next(), if !writes.is_empty() => {
                    if let Ok((id, outcome)) = written {
                        self.finish(id, outcome).await;
                    }
                }
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() && writes.len() < CONCURRENT => {}
            }
        }
    }

    fn accept(&mut self, id: PodId, wish: Box<Wish>) {
        let entry = self.entries.entry(id).or_default();
        // A change of finalizers is on one version of the object; on a newer one it is another wish.
        let is_under_way = entry.under_way.as_ref().is_some_and(|under_way| {
            under_way.change == wish.change
                && (wish.change.finalizer.is_none() || under_way.resource_version == wish.resource_version)
        });
        // Decided on an object that is older than our last write of the same.
        let is_written = wish.change.finalizer.is_none()
            && entry.written.as_ref().is_some_and(|(status, version)| {
                wish.change.status.as_deref() == Some(status) && is_older(&wish.resource_version, version)
            });
        entry.waiting = (!is_under_way && !is_written).then_some(wish);
    }

    fn begin(&mut self, writes: &mut JoinSet<Written>) {
        let now = Instant::now();
        for (id, entry) in &mut self.entries {
            if writes.len() >= CONCURRENT {
                return;
            }
            if entry.under_way.is_some() || entry.not_before.is_some_and(|at| at > now) {
                continue;
            }
            let Some(wish) = entry.waiting.take() else { continue };
            entry.under_way = Some(wish.clone());
            let (id, client) = (id.clone(), self.client.clone());
            writes.spawn(async move {
                let outcome = write(client, &id, &wish).await;
                (id, outcome)
            });
        }
    }

    async fn finish(&mut self, id: PodId, outcome: Result<Option<Box<ModelInstance>>, kube::Error>) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let Some(wish) = entry.under_way.take() else { return };
        match outcome {
            Ok(object) => {
                self.metrics.wrote(WriteResult::Written);
                entry.retry.succeeded();
                entry.not_before = None;
                entry.complained = false;
                let removed = wish.change.finalizer == Some(FinalizerChange::Remove);
                if let (Some(status), Some(object)) = (wish.change.status, &object) {
                    let version = object.metadata.resource_version.clone().unwrap_or_default();
                    entry.written = Some((*status, version));
                }
                if removed && entry.waiting.is_none() {
                    self.entries.remove(&id);
                }
                if let Some(object) = object {
                    let _ = self.messages.send(Message::Written(object)).await;
                }
            }
            Err(error) => match judge(&error) {
                Verdict::Gone => {
                    self.metrics.wrote(WriteResult::Gone);
                    self.entries.remove(&id);
                }
                // Decided on again, on the object as it is now.
                Verdict::Conflict => {
                    self.metrics.wrote(WriteResult::Conflict);
                    debug!(%id, %error, "the object changed meanwhile");
                    let (client, messages) = (self.client.clone(), self.messages.clone());
                    tokio::spawn(async move {
                        let api: Api<ModelInstance> = Api::namespaced(client, &wish.namespace);
                        // If this fails too, the watch brings it.
                        if let Ok(Some(object)) = api.get_opt(&wish.name).await {
                            let _ = messages.send(Message::Written(Box::new(object))).await;
                        }
                    });
                }
                verdict @ (Verdict::Transient | Verdict::Refused) => {
                    let refused = verdict == Verdict::Refused;
                    self.metrics.wrote(if refused { WriteResult::Refused } else { WriteResult::Retried });
                    if refused && !entry.complained {
                        entry.complained = true;
                        warn!(namespace = wish.namespace, name = wish.name, %error, "the API server refuses the status");
                    } else {
                        debug!(namespace = wish.namespace, name = wish.name, %error, "writing the status failed; tried again");
                    }
                    entry.not_before = Some(Instant::now() + entry.retry.delay());
                    entry.waiting.get_or_insert(wish);
                }
            },
        }
    }
}

/// The object as it is afterwards.
async fn write(client: Client, id: &PodId, wish: &Wish) -> Result<Option<Box<ModelInstance>>, kube::Error> {
    let api: Api<ModelInstance> = Api::namespaced(client, &wish.namespace);
    let mut object = None;
    if let Some(change) = wish.change.finalizer {
        let mut finalizers = wish.finalizers.clone();
        finalizers.retain(|finalizer| finalizer != FINALIZER);
        if change == FinalizerChange::Add {
            finalizers.push(FINALIZER.to_owned());
        }
        // A merge patch replaces the list: only on the very version that it was read from.
        let metadata = json!({ "uid": id.0, "resourceVersion": wish.resource_version, "finalizers": finalizers });
        let patch = Patch::Merge(json!({ "metadata": metadata }));
        object = Some(Box::new(
            api.patch(
                &wish.name,
                &PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..Default::default() },
                &patch,
            )
            .await?,
        ));
    }
    if let Some(status) = &wish.change.status {
        let patch = Patch::Apply(json!({
            "apiVersion": "pullpiri.io/v1alpha1",
            "kind": "ModelInstance",
            // Of another object by that name it would be a conflict.
            "metadata": { "name": wish.name, "uid": id.0 },
            "status": status,
        }));
        let params = PatchParams::apply(FIELD_MANAGER).force();
        object = Some(Box::new(api.patch_status(&wish.name, &params, &patch).await?));
    }
    Ok(object)
}
