//! The scale subresource: an `autoscaling/v1` Scale as a view of an object's replica fields.

use pullpiri_apply::error::FieldError;
use serde_json::{Map, Value, json};

use super::metadata;
use crate::registry::{Resource, Scale};
use crate::status::Status;

fn paths(resource: &Resource) -> Result<&Scale, Status> {
    resource.scale.as_ref().ok_or_else(|| Status::not_found(resource.group_resource(), "scale"))
}

fn steps(path: &str) -> impl Iterator<Item = &str> {
    path.split('.').filter(|step| !step.is_empty())
}

fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    steps(path).try_fold(object, |value, step| value.get(step))
}

/// The Scale of an object.
///
/// # Errors
/// 404 when the resource has none, 500 when the object says nothing of replicas.
pub(crate) fn view(resource: &Resource, object: &Value) -> Result<Value, Status> {
    let path = &paths(resource)?.spec_replicas_path;
    if at(object, path).and_then(Value::as_i64).is_none() {
        return Err(Status::internal(format_args!("the spec replicas field \"{path}\" does not exist")));
    }
    present(resource, object)
}

/// The Scale of an object that is about to be scaled; no replicas are 0.
///
/// # Errors
/// 404 when the resource has none.
pub(crate) fn present(resource: &Resource, object: &Value) -> Result<Value, Status> {
    let scale = paths(resource)?;
    let mut seen = Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.get("metadata").and_then(|metadata| metadata.get(field)) {
            seen.insert(field.to_owned(), value.clone());
        }
    }
    let replicas = |path: &str| at(object, path).and_then(Value::as_i64);
    let wanted = replicas(&scale.spec_replicas_path).unwrap_or(0);
    let mut status = json!({"replicas": replicas(&scale.status_replicas_path).unwrap_or(0)});
    let selector = scale.label_selector_path.as_deref().and_then(|path| at(object, path)).and_then(Value::as_str);
    if let (Some(selector), Some(fields)) = (selector, status.as_object_mut()) {
        fields.insert("selector".to_owned(), selector.into());
    }
    Ok(json!({
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": seen,
        "spec": {"replicas": wanted},
        "status": status,
    }))
}

/// The object with the replicas (and the uid and resourceVersion) of a Scale.
///
/// # Errors
/// 400 for something that isn't a Scale, 422 for a count that can't be.
pub(crate) fn replace(resource: &Resource, object: &Value, wanted: Value) -> Result<Value, Status> {
    let scale = paths(resource)?;
    let kind = wanted.get("kind").and_then(Value::as_str).unwrap_or("Scale");
    if kind != "Scale" {
        return Err(Status::bad_request(format!(
            "{kind} cannot be handled as a Scale: expected kind Scale of autoscaling/v1"
        )));
    }
    let replicas = match wanted.pointer("/spec/replicas") {
        None => 0,
        Some(value) => value.as_i64().ok_or_else(|| {
            Status::bad_request(format!("Scale cannot be handled: spec.replicas must be an integer, got {value}"))
        })?,
    };
    if replicas < 0 {
        let errors = [negative(&scale.spec_replicas_path, replicas)];
        return Err(Status::invalid(&resource.group, &resource.kind, metadata::text(object, "name"), &errors));
    }
    let mut new = object.clone();
    let fields = metadata::of(&mut new)?;
    for field in ["uid", "resourceVersion"] {
        match wanted.get("metadata").and_then(|metadata| metadata.get(field)) {
            Some(value) => fields.insert(field.to_owned(), value.clone()),
            None => fields.remove(field),
        };
    }
    let path: Vec<&str> = steps(&scale.spec_replicas_path).collect();
    set(&mut new, &path, replicas);
    Ok(new)
}

fn set(object: &mut Value, path: &[&str], replicas: i64) {
    let Some((step, rest)) = path.split_first() else {
        *object = replicas.into();
        return;
    };
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    if let Some(fields) = object.as_object_mut() {
        set(fields.entry(*step).or_insert(Value::Null), rest, replicas);
    }
}

fn negative(path: &str, replicas: i64) -> FieldError {
    FieldError::invalid(path, replicas, "should be a non-negative integer")
}

/// What may be wrong with the fields that a scale looks at.
pub(crate) fn check(resource: &Resource, object: &Value) -> Vec<FieldError> {
    let Some(scale) = &resource.scale else { return Vec::new() };
    [&scale.spec_replicas_path, &scale.status_replicas_path]
        .into_iter()
        .filter_map(|path| Some((path, at(object, path)?.as_i64()?)))
        .filter(|(_, replicas)| *replicas < 0)
        .map(|(path, replicas)| negative(path, replicas))
        .collect()
}
