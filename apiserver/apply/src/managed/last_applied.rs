//! Moving from client-side to server-side apply, for `kubectl` alone.
//!
//! Client-side apply keeps its last configuration in an annotation. Fields that the annotation names with the value that they have
//! are kubectl's own, so its first server-side apply takes them without a conflict; afterwards the annotation is kept equal to
//! what is applied, so that going back works too.

use serde_json::{Map, Value};

use super::{
    Write,
    compare::compare,
    extract::extract,
    set::FieldSet,
    text,
    types::TypeRef,
    validate::{Duplicates, validate},
};

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Bytes of all annotations of an object, keys and values.
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// The fields that the annotation names and that still have its values; `None` without a usable annotation.
pub(crate) fn owned_by_client_side_apply(live: &Value, write: &Write<'_>) -> Option<FieldSet> {
    let annotation = annotation(live.get("metadata")?.as_object()?)?;
    let ty = TypeRef::root(write.schema);
    validate(ty, live, Duplicates::Refused).ok()?;
    let last: Value = serde_json::from_str(annotation).ok()?;
    if last.get("apiVersion")?.as_str()? != write.manager.api_version {
        return None;
    }
    validate(ty, &last, Duplicates::Refused).ok()?;
    let mut set = extract(ty, &last);
    let changes = compare(ty, &last, live);
    set.subtract(&changes.modified);
    set.subtract(&changes.added);
    set.subtract(&changes.removed);
    Some(set)
}

/// Sets the annotation, where there is one, to the configuration; it goes when there is no room for it. True if it changed.
pub(crate) fn refresh(object: &mut Map<String, Value>, config: &Value) -> bool {
    let Some(Value::Object(metadata)) = object.get_mut("metadata") else { return false };
    if annotation(metadata).is_none() {
        return false;
    }
    let Some(Value::Object(annotations)) = metadata.get_mut("annotations") else { return false };
    let mut config = config.clone();
    if let Some(Value::Object(own)) = config.get_mut("metadata").and_then(|metadata| metadata.get_mut("annotations")) {
        own.remove(ANNOTATION);
    }
    let mut content = String::new();
    text::write_json(&mut content, &config);
    content.push('\n');
    let before = annotations.insert(ANNOTATION.to_owned(), Value::String(content));
    let size: usize = annotations.iter().map(|(name, value)| name.len() + value.as_str().map_or(0, str::len)).sum();
    if size > MAX_ANNOTATIONS {
        annotations.remove(ANNOTATION);
    }
    before.as_ref() != annotations.get(ANNOTATION)
}

fn annotation(metadata: &Map<String, Value>) -> Option<&str> {
    metadata.get("annotations")?.get(ANNOTATION)?.as_str().filter(|content| !content.is_empty())
}
