//! The roles and bindings that a server wants to be there, put right at its start, and the roles that gather others, kept written.

use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use pullpiri_access::Rule;
use pullpiri_access::rbac::Kind;
use pullpiri_access::reconcile::{Step, reconcile};
use serde_json::Value;

use super::Access;
use crate::builtin::text;
use crate::objects::{DeleteOptions, Objects, Subresource};
use crate::registry::Resource;
use crate::status::Status;

const RETRY: Duration = Duration::from_secs(1);

fn resource(objects: &Objects, plural: &str) -> Result<Arc<Resource>, Status> {
    let resource = objects.registry().snapshot().get(pullpiri_access::GROUP, "v1", plural).cloned();
    resource.ok_or_else(|| Status::internal(format!("{plural} is not registered")))
}

/// Creates or completes roles and bindings.
///
/// # Errors
/// What the store answers, or an object that is refused.
pub(crate) async fn ensure(objects: &Objects, wished: Vec<Value>) -> Result<(), Status> {
    try_join_all(wished.into_iter().map(|wished| ensure_one(objects, wished))).await.map(drop)
}

async fn ensure_one(objects: &Objects, wished: Value) -> Result<(), Status> {
    let kind = text(&wished, &["kind"]);
    let plural = format!("{}s", kind.to_lowercase());
    if Kind::of_plural(&plural).is_none() {
        return Err(Status::internal(format!("{kind} is no kind of {}", pullpiri_access::GROUP)));
    }
    let resource = resource(objects, &plural)?;
    let name = text(&wished, &["metadata", "name"]);
    let namespace = Some(text(&wished, &["metadata", "namespace"])).filter(|_| resource.is_namespaced());
    let present = match objects.get(&resource, namespace, name).await {
        Ok(present) => present,
        Err(status) if status.reason() == "NotFound" => {
            return created(objects.create(&resource, namespace, wished.clone()).await);
        }
        Err(status) => return Err(status),
    };
    match reconcile(&present, &wished) {
        Step::Nothing => Ok(()),
        Step::Update(_) => {
            // On what is there when it is written.
            let edit = |object: &mut Value| match reconcile(object, &wished) {
                Step::Update(next) => {
                    *object = next;
                    true
                }
                Step::Nothing | Step::Replace => false,
            };
            objects.modify(&resource, Subresource::None, namespace, name, &edit).await.map(drop)
        }
        Step::Replace => {
            match objects.delete(&resource, namespace, name, DeleteOptions::default()).await {
                Err(status) if status.reason() != "NotFound" => return Err(status),
                _ => {}
            }
            created(objects.create(&resource, namespace, wished.clone()).await)
        }
    }
}

/// Another server on the same store may have been faster.
fn created(result: Result<Value, Status>) -> Result<(), Status> {
    match result {
        Err(status) if status.reason() == "AlreadyExists" => Ok(()),
        other => other.map(drop),
    }
}

/// Writes what aggregating roles gather into their rules, whenever that changed. Decisions don't wait for it; people who look do.
pub(crate) async fn write_aggregates(access: Arc<Access>, objects: Objects) {
    let Some(mut changes) = access.changes() else { return };
    loop {
        // Before the first change, too: what was written meanwhile is taken in already.
        let stale = access.index().stale_aggregates();
        for (name, rules) in stale {
            if let Err(status) = write_aggregate(&objects, &name, &rules).await {
                tracing::debug!(%status, role = name, "an aggregated role isn't written yet");
                changes.mark_changed();
                tokio::time::sleep(RETRY).await;
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

async fn write_aggregate(objects: &Objects, name: &str, rules: &[Rule]) -> Result<(), Status> {
    let roles = resource(objects, "clusterroles")?;
    let edit = |role: &mut Value| {
        let aggregates = role.get("aggregationRule").is_some_and(|rule| !rule.is_null());
        if !aggregates || Rule::of_role(role) == rules {
            return false;
        }
        let Some(fields) = role.as_object_mut() else { return false };
        fields.insert("rules".to_owned(), rules.iter().map(Rule::to_value).collect());
        true
    };
    match objects.modify(&roles, Subresource::None, None, name, &edit).await {
        Err(status) if status.reason() != "NotFound" => Err(status),
        _ => Ok(()),
    }
}
