//! The rules of metadata at creation and update. Errors are below `metadata`.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::name::{self, NameFormat};
use crate::error::{FieldError, FieldErrorKind, Path, print};

/// All annotations together, keys and values.
const MAX_ANNOTATIONS_BYTES: u64 = 256 * 1024;
const MAX_MANAGER_BYTES: u64 = 128;
const MAX_SUBRESOURCE_BYTES: u64 = 256;

const IMMUTABLE: &str = "field is immutable";

/// Whether objects of a kind live in namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Namespaced,
    Cluster,
}

static EMPTY: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);

/// The metadata of an object, empty if it has none.
fn metadata(object: &Value) -> &Map<String, Value> {
    object.get("metadata").and_then(Value::as_object).unwrap_or(&EMPTY)
}

fn text<'a>(meta: &'a Map<String, Value>, key: &str) -> &'a str {
    meta.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(meta: &'a Map<String, Value>, key: &str) -> &'a [Value] {
    meta.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn finalizers(meta: &Map<String, Value>) -> Vec<&str> {
    list(meta, "finalizers").iter().map(|f| f.as_str().unwrap_or_default()).collect()
}

/// The errors of a new object's metadata, with its name already generated.
#[must_use]
pub fn validate_create(object: &Value, scope: Scope, names: NameFormat) -> Vec<FieldError> {
    validate_meta(metadata(object), scope, names, &Path::At("metadata"))
}

/// The errors of metadata that stands at `path`, as of a new object.
#[must_use]
pub fn validate_meta(meta: &Map<String, Value>, scope: Scope, names: NameFormat, path: &Path<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let prefix = text(meta, "generateName");
    if !prefix.is_empty() {
        add(&mut errors, &path.child("generateName"), prefix, names.check_prefix(prefix));
    }
    let given = text(meta, "name");
    if given.is_empty() {
        errors.push(FieldError::required(path.child("name"), "name or generateName is required"));
    } else {
        add(&mut errors, &path.child("name"), given, names.check(given));
    }
    let namespace = text(meta, "namespace");
    match scope {
        Scope::Namespaced if namespace.is_empty() => errors.push(FieldError::required(path.child("namespace"), "")),
        Scope::Namespaced => add(&mut errors, &path.child("namespace"), namespace, name::dns_label(namespace)),
        Scope::Cluster if namespace.is_empty() => {}
        Scope::Cluster => errors.push(FieldError::forbidden(path.child("namespace"), "not allowed on this type")),
    }
    check_generation(meta, path, &mut errors);
    check_bags(meta, path, &mut errors);
    check_owners(meta, path, &mut errors);
    check_finalizers(meta, path, &mut errors);
    check_managed_fields(meta, path, &mut errors);
    errors
}

/// The errors of an update's metadata.
#[must_use]
pub fn validate_update(object: &Value, old: &Value) -> Vec<FieldError> {
    let (new, old) = (metadata(object), metadata(old));
    let path = &Path::At("metadata");
    let mut errors = Vec::new();
    if old.get("deletionTimestamp").is_some_and(|t| !t.is_null()) {
        check_no_new_finalizers(new, old, path, &mut errors);
    }
    if text(new, "resourceVersion").is_empty() {
        let detail = "must be specified for an update";
        errors.push(FieldError::invalid(path.child("resourceVersion"), "", detail));
    }
    check_generation(new, path, &mut errors);
    if generation(new) < generation(old) {
        errors.push(FieldError::invalid(path.child("generation"), generation(new), "must not be decremented"));
    }
    for key in ["name", "namespace", "uid"] {
        if text(new, key) != text(old, key) {
            errors.push(FieldError::invalid(path.child(key), text(new, key), IMMUTABLE));
        }
    }
    for key in ["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let (given, before) = (new.get(key).unwrap_or(&Value::Null), old.get(key).unwrap_or(&Value::Null));
        if given != before {
            // A time is printed as JSON, since it is a struct in Kubernetes.
            errors.push(FieldError::invalid(path.child(key), given.clone(), IMMUTABLE));
        }
    }
    check_bags(new, path, &mut errors);
    check_owners(new, path, &mut errors);
    check_managed_fields(new, path, &mut errors);
    errors
}

/// Warnings about finalizers that an object gains: they should be `domain/name`.
#[must_use]
pub fn finalizer_warnings(object: &Value, old: Option<&Value>) -> Vec<String> {
    let before: BTreeSet<&str> = old.map(|old| finalizers(metadata(old)).into_iter().collect()).unwrap_or_default();
    let added: BTreeSet<&str> = finalizers(metadata(object)).into_iter().filter(|f| !before.contains(f)).collect();
    let mut warnings = Vec::new();
    for finalizer in added {
        let quoted = print::quote(finalizer);
        for complaint in name::qualified_name(finalizer) {
            warnings.push(format!("metadata.finalizers: {quoted}: {complaint}"));
        }
        if !finalizer.contains('/') && !matches!(finalizer, "orphan" | "foregroundDeletion" | "kubernetes") {
            let path = if finalizer.contains('.') { " including a path (/)" } else { "" };
            warnings.push(format!(
                "metadata.finalizers: {quoted}: prefer a domain-qualified finalizer name{path} to avoid accidental conflicts with \
                 other finalizer writers"
            ));
        }
    }
    warnings
}

fn add(errors: &mut Vec<FieldError>, path: &Path<'_>, value: &str, complaints: Vec<String>) {
    errors.extend(complaints.into_iter().map(|complaint| FieldError::invalid(path, value, complaint)));
}

fn generation(meta: &Map<String, Value>) -> i64 {
    meta.get("generation").and_then(Value::as_i64).unwrap_or(0)
}

fn check_generation(meta: &Map<String, Value>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let generation = generation(meta);
    if generation < 0 {
        let detail = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(path.child("generation"), generation, detail));
    }
}

/// Labels and annotations.
fn check_bags(meta: &Map<String, Value>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if let Some(labels) = meta.get("labels") {
        errors.extend(validate_labels(labels, &path.child("labels")));
    }
    let annotations = meta.get("annotations").and_then(Value::as_object).unwrap_or(&EMPTY);
    let path = &path.child("annotations");
    let mut size: u64 = 0;
    for (key, value) in annotations {
        // Case doesn't matter in the keys of annotations.
        add(errors, path, key, name::qualified_name(&key.to_lowercase()));
        let length = key.len().saturating_add(value.as_str().unwrap_or_default().len());
        size = size.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
    }
    if size > MAX_ANNOTATIONS_BYTES {
        errors.push(FieldError::too_long(path, MAX_ANNOTATIONS_BYTES));
    }
}

/// The errors of a map of labels.
#[must_use]
pub fn validate_labels(labels: &Value, path: &Path<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, value) in labels.as_object().unwrap_or(&EMPTY) {
        add(&mut errors, path, key, name::qualified_name(key));
        let value = value.as_str().unwrap_or_default();
        add(&mut errors, path, value, name::label_value(value));
    }
    errors
}

fn check_owners(meta: &Map<String, Value>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let path = &path.child("ownerReferences");
    let owners = list(meta, "ownerReferences");
    let mut controller: Option<String> = None;
    for (i, owner) in owners.iter().enumerate() {
        let place = &path.index(i);
        let field = |key: &str| owner.get(key).and_then(Value::as_str).unwrap_or_default();
        let (api_version, kind, name) = (field("apiVersion"), field("kind"), field("name"));
        let mut required = |key: &str| errors.push(FieldError::required(place.child(key), "must not be empty"));
        if api_version.is_empty() {
            required("apiVersion");
        } else if !is_group_version(api_version) {
            let detail = "must be <group>/<version> or <version>";
            errors.push(FieldError::invalid(place.child("apiVersion"), api_version, detail));
        }
        for key in ["kind", "name", "uid"] {
            if field(key).is_empty() {
                errors.push(FieldError::required(place.child(key), "must not be empty"));
            }
        }
        if api_version == "v1" && kind == "Event" {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(FieldError::invalid(place, owner.clone(), detail));
        }
        if owner.get("controller").and_then(Value::as_bool) == Some(true) {
            let this = format!("{kind}/{name}");
            match &controller {
                Some(first) => {
                    let detail = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                    );
                    errors.push(FieldError::invalid(path, Value::from(owners), detail));
                }
                None => controller = Some(this),
            }
        }
    }
}

/// `v1` or `apps/v1`.
fn is_group_version(text: &str) -> bool {
    match text.split_once('/') {
        None => !text.is_empty(),
        Some((_, version)) => !version.is_empty() && !version.contains('/'),
    }
}

fn check_finalizers(meta: &Map<String, Value>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let path = &path.child("finalizers");
    let given = finalizers(meta);
    for finalizer in &given {
        add(errors, path, finalizer, name::qualified_name(finalizer));
    }
    if given.contains(&"orphan") && given.contains(&"foregroundDeletion") {
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid(path, Value::from(given), detail));
    }
}

fn check_no_new_finalizers(
    new: &Map<String, Value>,
    old: &Map<String, Value>,
    path: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    let before = finalizers(old);
    let added: BTreeSet<&str> = finalizers(new).into_iter().filter(|f| !before.contains(f)).collect();
    if !added.is_empty() {
        // Go's %#v of a list of strings.
        let added: Vec<String> = added.into_iter().map(print::quote).collect();
        let detail = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            added.join(", ")
        );
        errors.push(FieldError::new(FieldErrorKind::Forbidden, path.child("finalizers").to_string(), None, detail));
    }
}

fn check_managed_fields(meta: &Map<String, Value>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let path = &path.child("managedFields");
    for (i, entry) in list(meta, "managedFields").iter().enumerate() {
        let place = &path.index(i);
        let field = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
        match field("operation") {
            "" => errors.push(FieldError::required(place.child("operation"), "must not be empty")),
            "Apply" | "Update" => {}
            other => {
                errors.push(FieldError::not_supported(place.child("operation"), other, &["Apply", "Update"]));
            }
        }
        let kind = field("fieldsType");
        if !kind.is_empty() && kind != "FieldsV1" {
            errors.push(FieldError::invalid(place.child("fieldsType"), kind, "must be `FieldsV1`"));
        }
        errors.extend(validate_manager(field("manager"), &place.child("manager")));
        if u64::try_from(field("subresource").len()).unwrap_or(u64::MAX) > MAX_SUBRESOURCE_BYTES {
            errors.push(FieldError::too_long(place.child("subresource"), MAX_SUBRESOURCE_BYTES));
        }
    }
}

/// The errors of a `fieldManager`.
#[must_use]
pub fn validate_manager(manager: &str, path: &Path<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if u64::try_from(manager.len()).unwrap_or(u64::MAX) > MAX_MANAGER_BYTES {
        errors.push(FieldError::too_long(path, MAX_MANAGER_BYTES));
    }
    for (i, c) in manager.char_indices().filter(|(_, c)| !print::printable(*c)) {
        let detail = format!("invalid character U+{:04X} (at position {i})", u32::from(c));
        errors.push(FieldError::invalid(path, manager, detail));
    }
    errors
}
