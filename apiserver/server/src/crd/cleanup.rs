//! Deletes the instances of a deleted CRD, waits until their finalizers let them go, and lets the CRD go.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream;
use serde_json::{Value, json};

use super::conditions::{Condition, set_condition};
use super::strategy::CLEANUP_FINALIZER;
use super::{RETRY, uid};
use crate::builtin::{set, text};
use crate::objects::{ChangeItem, ChangeKind, DeleteOptions, Objects, Propagation, Subresource};
use crate::registry::{Origin, Resource};
use crate::status::Status;

/// Deletions in flight at a time: they share fsyncs.
const AT_ONCE: usize = 64;

/// The cleaning up after one CRD.
pub(super) struct Cleanup {
    pub(super) objects: Objects,
    pub(super) definitions: Arc<Resource>,
    pub(super) name: String,
    pub(super) uid: String,
}

impl Cleanup {
    /// Tries until the CRD is free or gone; returns its UID.
    pub(super) async fn run(self) -> String {
        while let Err(status) = self.attempt().await {
            if matches!(status.reason(), "NotFound" | "Conflict") {
                break;
            }
            tracing::warn!(crd = self.name, %status, "instances of a deleted CRD can't be deleted, trying again");
            let message = format!("could not issue all deletes: {status}");
            let failed =
                Condition { kind: "Terminating", status: true, reason: "InstanceDeletionFailed", message: &message };
            if let Err(status) = self.say(failed).await {
                tracing::debug!(crd = self.name, %status, "nor can its status be written");
            }
            tokio::time::sleep(RETRY).await;
        }
        self.uid
    }

    async fn attempt(&self) -> Result<(), Status> {
        let origin = Origin::Crd(self.uid.clone());
        let snapshot = self.objects.registry().snapshot();
        let resource = snapshot.iter().find(|resource| resource.origin == origin && resource.storage).cloned();
        let (reason, message) = match resource {
            Some(resource) => {
                self.say(Condition {
                    kind: "Terminating",
                    status: true,
                    reason: "InstanceDeletionInProgress",
                    message: "CustomResource deletion is in progress",
                })
                .await?;
                self.delete_instances(&resource).await?;
                ("InstanceDeletionCompleted", "removed all instances")
            }
            None => ("NeverEstablished", "resource was never established"),
        };
        self.say(Condition { kind: "Terminating", status: false, reason, message }).await?;
        let remove = |crd: &mut Value| {
            if uid(crd) != self.uid {
                return false;
            }
            let mut finalizers =
                crd.pointer("/metadata/finalizers").and_then(Value::as_array).cloned().unwrap_or_default();
            let before = finalizers.len();
            finalizers.retain(|finalizer| finalizer != CLEANUP_FINALIZER);
            let changed = finalizers.len() != before;
            set(crd, &["metadata", "finalizers"], json!(finalizers));
            changed
        };
        self.objects.modify(&self.definitions, Subresource::None, None, &self.name, &remove).await.map(|_| ())
    }

    async fn say(&self, condition: Condition<'_>) -> Result<(), Status> {
        let now = self.objects.now();
        let edit = |crd: &mut Value| uid(crd) == self.uid && set_condition(crd, condition, now);
        self.objects.modify(&self.definitions, Subresource::Status, None, &self.name, &edit).await.map(|_| ())
    }

    async fn delete_instances(&self, resource: &Arc<Resource>) -> Result<(), Status> {
        loop {
            let (instances, revision) = self.objects.list(resource, None).await?;
            if instances.is_empty() {
                return Ok(());
            }
            let (mut changes, _) = self.objects.changes(Some(revision)).await?;
            let pending: Vec<(String, String)> = instances
                .iter()
                .filter(|instance| instance.pointer("/metadata/deletionTimestamp").is_none())
                .map(|instance| {
                    let at = |field| text(instance, &["metadata", field]).to_owned();
                    (at("namespace"), at("name"))
                })
                .collect();
            let results: Vec<Result<(), Status>> = stream::iter(pending)
                .map(|(namespace, name)| async move {
                    let options =
                        DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::default() };
                    let namespace = (!namespace.is_empty()).then_some(namespace.as_str());
                    let deleted = self.objects.delete(resource, namespace, &name, options).await;
                    deleted.or_else(|status| if status.reason() == "NotFound" { Ok(()) } else { Err(status) })
                })
                .buffer_unordered(AT_ONCE)
                .collect()
                .await;
            results.into_iter().collect::<Result<(), Status>>()?;
            // Finalizers may hold some for as long as they like.
            let mut remaining = instances.len();
            while remaining > 0 {
                match changes.next().await {
                    Some(ChangeItem::Change(change)) => {
                        if change.kind == ChangeKind::Deleted
                            && *change.group == *resource.group
                            && *change.plural == *resource.plural
                        {
                            remaining -= 1;
                        }
                    }
                    Some(ChangeItem::Resync) => break,
                    None => return Err(Status::service_unavailable("the store is closed")),
                }
            }
        }
    }
}
