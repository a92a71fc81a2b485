//! CustomResourceDefinition as a stored kind: defaults, what may be written, and the finalizer that lets its instances go first.
//!
//! The schemas inside are checked by the same code that will later serve them. Rules and texts are those of
//! `apiextensions-apiserver/pkg/apis/apiextensions/validation`.

use jiff::Timestamp;
use pullpiri_apply::error::{FieldError, FieldErrorKind};
use serde_json::{Map, Value, json};

use super::conditions::{Condition, is_true, set_condition};
use super::validation;
use crate::builtin::{set, text};
use crate::registry::Strategy;

/// Holds a deleted CRD until its instances are gone.
pub const CLEANUP_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

#[derive(Debug)]
pub struct CrdStrategy;

/// Nulls are absent fields, except where a schema carries JSON values of its own.
fn drop_typed_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, child| !child.is_null() || matches!(key.as_str(), "default" | "example"));
            for (key, child) in map {
                if !matches!(key.as_str(), "default" | "example" | "enum") {
                    drop_typed_nulls(child);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(drop_typed_nulls),
        _ => {}
    }
}

fn default_spec(object: &mut Value) {
    let kind = text(object, &["spec", "names", "kind"]).to_owned();
    if kind.is_empty() {
        return;
    }
    if text(object, &["spec", "names", "singular"]).is_empty() {
        set(object, &["spec", "names", "singular"], json!(kind.to_lowercase()));
    }
    if text(object, &["spec", "names", "listKind"]).is_empty() {
        set(object, &["spec", "names", "listKind"], json!(format!("{kind}List")));
    }
    if object.pointer("/spec/conversion").is_none() {
        set(object, &["spec", "conversion"], json!({"strategy": "None"}));
    }
    // `preserveUnknownFields: false` is the only value v1 takes, and isn't shown.
    if object.pointer("/spec/preserveUnknownFields") == Some(&Value::Bool(false))
        && let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut)
    {
        spec.remove("preserveUnknownFields");
    }
}

/// The version that `spec` says to store in.
#[must_use]
pub fn storage_version(object: &Value) -> Option<&str> {
    let versions = object.pointer("/spec/versions")?.as_array()?;
    let stored = versions.iter().find(|version| version.get("storage").and_then(Value::as_bool) == Some(true))?;
    stored.get("name")?.as_str()
}

/// Notes the storage version in `status.storedVersions`; returns whether it wasn't there.
pub fn note_storage_version(object: &mut Value) -> bool {
    let Some(version) = storage_version(object).map(str::to_owned) else { return false };
    let mut stored = object.pointer("/status/storedVersions").and_then(Value::as_array).cloned().unwrap_or_default();
    if stored.iter().any(|known| *known == json!(version)) {
        return false;
    }
    stored.push(json!(version));
    set(object, &["status", "storedVersions"], Value::Array(stored));
    true
}

impl Strategy for CrdStrategy {
    fn prepare_for_create(&self, object: &mut Value) {
        drop_typed_nulls(object);
        default_spec(object);
        set(
            object,
            &["status"],
            json!({"acceptedNames": {"kind": "", "plural": ""}, "conditions": [], "storedVersions": []}),
        );
        note_storage_version(object);
    }

    fn prepare_for_update(&self, object: &mut Value, _old: &Value) {
        drop_typed_nulls(object);
        default_spec(object);
        note_storage_version(object);
    }

    fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut errors = validation::check(object);
        if let Some(old) = old {
            errors.extend(immutable(object, old));
            errors.extend(stored_versions(object));
        }
        errors
    }

    fn holds(&self, object: &Value) -> bool {
        // The first delete always finds it held, so that it is marked and its instances can go; then the finalizer holds it.
        object.pointer("/metadata/deletionTimestamp").is_none()
    }

    fn deletion_begins(&self, object: &mut Value) {
        let mut finalizers =
            object.pointer("/metadata/finalizers").and_then(Value::as_array).cloned().unwrap_or_default();
        if !finalizers.iter().any(|finalizer| finalizer == CLEANUP_FINALIZER) {
            finalizers.push(json!(CLEANUP_FINALIZER));
            set(object, &["metadata", "finalizers"], Value::Array(finalizers));
        }
        // The deletion's own time is the only clock here.
        let time = text(object, &["metadata", "deletionTimestamp"]).parse().unwrap_or(Timestamp::UNIX_EPOCH);
        set_condition(
            object,
            Condition {
                kind: "Terminating",
                status: true,
                reason: "InstanceDeletionPending",
                message: "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
            },
            time,
        );
    }
}

fn invalid(path: &str, value: &Value, detail: impl Into<String>) -> FieldError {
    FieldError::new(FieldErrorKind::Invalid, path, Some(value.clone()), detail)
}

/// Group and plural never change (the name says them); scope and kind not once the CRD is established.
fn immutable(object: &Value, old: &Value) -> Vec<FieldError> {
    let always: [(&str, &str); 2] = [("/spec/group", "spec.group"), ("/spec/names/plural", "spec.names.plural")];
    let once_established: [(&str, &str); 2] = [("/spec/scope", "spec.scope"), ("/spec/names/kind", "spec.names.kind")];
    let established = if is_true(old, "Established") { once_established.as_slice() } else { &[] };
    always
        .iter()
        .chain(established)
        .filter_map(|(pointer, path)| {
            let (new, old) =
                (object.pointer(pointer).unwrap_or(&Value::Null), old.pointer(pointer).unwrap_or(&Value::Null));
            (new != old).then(|| invalid(path, new, "field is immutable"))
        })
        .collect()
}

/// A version that objects may still be stored in can't go.
fn stored_versions(object: &Value) -> Vec<FieldError> {
    let empty = Vec::new();
    let stored = object.pointer("/status/storedVersions").and_then(Value::as_array).unwrap_or(&empty);
    let versions = object.pointer("/spec/versions").and_then(Value::as_array).unwrap_or(&empty);
    let named: Map<String, Value> =
        versions.iter().map(|version| (text(version, &["name"]).to_owned(), Value::Null)).collect();
    stored
        .iter()
        .enumerate()
        .filter(|(_, version)| version.as_str().is_some_and(|version| !named.contains_key(version)))
        .map(|(index, version)| {
            let name = version.as_str().unwrap_or_default();
            invalid(
                &format!("status.storedVersions[{index}]"),
                version,
                format!(
                    "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a \
                     storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
                ),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crd() -> Value {
        json!({
            "metadata": {"name": "widgets.example.com", "creationTimestamp": null},
            "spec": {
                "group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema":
                    {"type": "object", "properties": {"spec": {"type": "object", "default": null}}}}}],
            },
            "status": {"conditions": null, "storedVersions": null},
        })
    }

    #[test]
    fn a_new_crd_gets_its_defaults() {
        let mut object = crd();
        CrdStrategy.prepare_for_create(&mut object);
        assert_eq!(
            object["spec"]["names"],
            json!({"plural": "widgets", "kind": "Widget", "singular": "widget", "listKind": "WidgetList"})
        );
        assert_eq!(object["spec"]["conversion"], json!({"strategy": "None"}));
        assert_eq!(
            object["status"],
            json!({"acceptedNames": {"kind": "", "plural": ""}, "conditions": [], "storedVersions": ["v1"]})
        );
        assert!(object["metadata"].get("creationTimestamp").is_none());
        let schema = &object["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        assert!(schema["properties"]["spec"].as_object().unwrap().contains_key("default"));
    }

    #[test]
    fn a_deletion_adds_the_finalizer_and_says_so() {
        let mut object = crd();
        assert!(CrdStrategy.holds(&object));
        set(&mut object, &["metadata", "deletionTimestamp"], json!("2026-01-02T03:04:05Z"));
        CrdStrategy.deletion_begins(&mut object);
        assert_eq!(object["metadata"]["finalizers"], json!([CLEANUP_FINALIZER]));
        assert_eq!(object["status"]["conditions"][0]["lastTransitionTime"], "2026-01-02T03:04:05Z");
        assert!(!CrdStrategy.holds(&object));
    }

    #[test]
    fn what_is_established_stays() {
        let mut old = crd();
        CrdStrategy.prepare_for_create(&mut old);
        let mut new = old.clone();
        new["spec"]["scope"] = json!("Cluster");
        assert!(CrdStrategy.validate(&new, Some(&old)).is_empty());
        old["status"]["conditions"] = json!([{"type": "Established", "status": "True"}]);
        let errors = CrdStrategy.validate(&new, Some(&old));
        assert_eq!(errors[0].to_string(), "spec.scope: Invalid value: \"Cluster\": field is immutable");
    }

    #[test]
    fn a_stored_version_cannot_go() {
        let mut old = crd();
        CrdStrategy.prepare_for_create(&mut old);
        let mut new = old.clone();
        new["spec"]["versions"][0]["name"] = json!("v2");
        CrdStrategy.prepare_for_update(&mut new, &old);
        assert_eq!(new["status"]["storedVersions"], json!(["v1", "v2"]));
        let errors = CrdStrategy.validate(&new, Some(&old));
        assert_eq!(errors[0].path, "status.storedVersions[0]");
    }
}
