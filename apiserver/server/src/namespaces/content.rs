//! Empties a namespace that is being deleted, and lets it go once nothing is left in it.

use std::sync::Arc;

use futures::{StreamExt, stream};
use serde_json::{Value, json};

use super::conditions::Remains;
use crate::builtin::namespace::FINALIZER;
use crate::builtin::{set, text};
use crate::objects::{DeleteOptions, Objects, Propagation, Subresource};
use crate::registry::{Origin, Resource};
use crate::status::Status;

/// Deletions in flight at a time: they share fsyncs.
const AT_ONCE: usize = 64;

/// How a pass ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    /// Something is held by finalizers; its end will be seen.
    Waiting,
    /// Something is left whose end won't be seen, or failed.
    Again,
}

fn not_found_is_fine(result: Result<(), Status>) -> Result<(), Status> {
    result.or_else(|status| if status.reason() == "NotFound" { Ok(()) } else { Err(status) })
}

/// One pass over everything in the namespace.
pub(super) async fn empty(objects: &Objects, namespaces: &Arc<Resource>, namespace: &Value) -> Result<Outcome, Status> {
    let name = text(namespace, &["metadata", "name"]);
    let uid = text(namespace, &["metadata", "uid"]);
    let finalizers: Vec<&str> = namespace
        .pointer("/spec/finalizers")
        .and_then(Value::as_array)
        .map(|all| all.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    if !finalizers.contains(&FINALIZER) {
        // Others hold it, or nobody.
        return Ok(Outcome::Done);
    }
    let snapshot = objects.registry().snapshot();
    let mut remains = Remains::default();
    let mut unseen = false;
    let is_kept = |r: &&Arc<Resource>| r.storage && r.strategy.view_of().is_none() && r.strategy.review().is_none();
    for resource in snapshot.iter().filter(|r| r.is_namespaced()).filter(is_kept) {
        match empty_of(objects, resource, name).await {
            Ok(left) if left.is_empty() => {}
            Ok(left) => {
                unseen |= resource.origin == Origin::Virtual;
                remains.objects.insert(format!("{}.{}", resource.plural, resource.group), left.len());
                for finalizer in
                    left.iter().filter_map(|object| object.pointer("/metadata/finalizers")?.as_array()).flatten()
                {
                    let finalizer = finalizer.as_str().unwrap_or_default().to_owned();
                    *remains.finalizers.entry(finalizer).or_default() += 1;
                }
            }
            Err(status) => remains.failures.push(status.to_string()),
        }
    }
    let now = objects.now();
    let said = namespace.pointer("/status/conditions").is_some();
    if !remains.is_empty() || said || finalizers.len() > 1 {
        let edit = |object: &mut Value| {
            if text(object, &["metadata", "uid"]) != uid {
                return false;
            }
            let phase = text(object, &["status", "phase"]) != "Terminating";
            if phase {
                set(object, &["status", "phase"], json!("Terminating"));
            }
            remains.write(object, now) || phase
        };
        not_found_is_fine(objects.modify(namespaces, Subresource::Status, None, name, &edit).await.map(drop))?;
    }
    if !remains.failures.is_empty() {
        return Ok(Outcome::Again);
    }
    if !remains.is_empty() {
        return Ok(if unseen { Outcome::Again } else { Outcome::Waiting });
    }
    let release = |object: &mut Value| {
        let Some(finalizers) = object.pointer_mut("/spec/finalizers").and_then(Value::as_array_mut) else {
            return false;
        };
        let before = finalizers.len();
        finalizers.retain(|finalizer| finalizer != FINALIZER);
        let changed = finalizers.len() != before;
        changed && text(object, &["metadata", "uid"]) == uid
    };
    not_found_is_fine(objects.modify(namespaces, Subresource::Finalize, None, name, &release).await.map(drop))?;
    Ok(Outcome::Done)
}

/// Deletes every object of one resource in the namespace; returns those that are still there.
async fn empty_of(objects: &Objects, resource: &Arc<Resource>, namespace: &str) -> Result<Vec<Value>, Status> {
    let (present, _) = objects.list(resource, Some(namespace)).await?;
    if present.is_empty() {
        return Ok(present);
    }
    let names: Vec<String> = present
        .iter()
        .filter(|object| object.pointer("/metadata/deletionTimestamp").is_none())
        .map(|object| text(object, &["metadata", "name"]).to_owned())
        .collect();
    drop(present);
    let results: Vec<Result<(), Status>> = stream::iter(names)
        .map(|name| async move {
            // The collector would otherwise orphan what it is told to.
            let options = DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::default() };
            not_found_is_fine(objects.delete(resource, Some(namespace), &name, options).await)
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    results.into_iter().collect::<Result<(), Status>>()?;
    objects.list(resource, Some(namespace)).await.map(|(left, _)| left)
}
