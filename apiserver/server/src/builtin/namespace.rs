//! Namespace: exists until the `kubernetes` entry of `spec.finalizers` is taken away, which the namespace controller does once the
//! namespace is empty. The label `kubernetes.io/metadata.name` always says its name.

use pullpiri_apply::error::{FieldError, FieldErrorKind};
use pullpiri_apply::metadata::NameFormat;
use serde_json::{Value, json};

use super::{drop_nulls, set, text};
use crate::registry::Strategy;

/// The finalizer of every namespace.
pub const FINALIZER: &str = "kubernetes";
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

#[derive(Debug)]
pub struct NamespaceStrategy;

fn finalizers(object: &Value) -> Vec<Value> {
    object.pointer("/spec/finalizers").and_then(Value::as_array).cloned().unwrap_or_default()
}

fn label(object: &mut Value) {
    let name = text(object, &["metadata", "name"]).to_owned();
    if !name.is_empty() {
        set(object, &["metadata", "labels", NAME_LABEL], Value::String(name));
    }
}

impl Strategy for NamespaceStrategy {
    fn normalize(&self, object: &mut Value) {
        label(object);
    }

    fn prepare_for_create(&self, object: &mut Value) {
        drop_nulls(object);
        let mut finalizers = finalizers(object);
        if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            finalizers.push(json!(FINALIZER));
        }
        set(object, &["spec", "finalizers"], Value::Array(finalizers));
        set(object, &["status"], json!({"phase": "Active"}));
        label(object);
    }

    fn prepare_for_update(&self, object: &mut Value, old: &Value) {
        drop_nulls(object);
        match old.pointer("/spec/finalizers") {
            Some(finalizers) => set(object, &["spec", "finalizers"], finalizers.clone()),
            None => {
                if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
                    spec.remove("finalizers");
                }
            }
        }
        label(object);
    }

    /// [`Self::validate`] asks for more.
    fn name_format(&self) -> NameFormat {
        NameFormat::PathSegment
    }

    fn validate(&self, object: &Value, _old: Option<&Value>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let name = text(object, &["metadata", "name"]);
        if !name.is_empty() && !is_label(name) {
            errors.push(FieldError::new(
                FieldErrorKind::Invalid,
                "metadata.name",
                Some(json!(name)),
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end \
                 with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
                 '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            ));
        }
        let (deleting, phase) =
            (object.pointer("/metadata/deletionTimestamp").is_some(), text(object, &["status", "phase"]));
        let wanted = if deleting { "Terminating" } else { "Active" };
        if !phase.is_empty() && phase != wanted {
            let state = if deleting { "not empty" } else { "empty" };
            let why = format!("may only be '{wanted}' if `deletionTimestamp` is {state}");
            errors.push(FieldError::new(FieldErrorKind::Invalid, "status.Phase", Some(json!(phase)), why));
        }
        for finalizer in &finalizers(object) {
            let Some(finalizer) = finalizer.as_str() else { continue };
            let standard = matches!(finalizer, "kubernetes" | "orphan" | "foregroundDeletion");
            if !standard && !finalizer.contains('/') {
                errors.push(FieldError::new(
                    FieldErrorKind::Invalid,
                    "spec.finalizers",
                    Some(json!(finalizer)),
                    "name is neither a standard finalizer name nor is it fully qualified",
                ));
            }
        }
        errors
    }

    fn holds(&self, object: &Value) -> bool {
        !finalizers(object).is_empty()
    }

    fn deletion_begins(&self, object: &mut Value) {
        set(object, &["status", "phase"], json!("Terminating"));
    }

    fn has_finalize(&self) -> bool {
        true
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["status.phase"]
    }
}

/// RFC 1123 label: at most 63 of `[a-z0-9-]`, no hyphen at either end.
fn is_label(name: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = name.as_bytes();
    bytes.len() <= 63
        && bytes.iter().all(|&c| inner(c) || c == b'-')
        && bytes.first().is_some_and(|&c| inner(c))
        && bytes.last().is_some_and(|&c| inner(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_namespace_is_active_labelled_and_held() {
        let mut object = json!({"metadata": {"name": "a", "creationTimestamp": null}, "spec": {}, "status": {}});
        NamespaceStrategy.prepare_for_create(&mut object);
        assert_eq!(
            object,
            json!({
                "metadata": {"name": "a", "labels": {"kubernetes.io/metadata.name": "a"}},
                "spec": {"finalizers": ["kubernetes"]},
                "status": {"phase": "Active"},
            })
        );
        assert!(NamespaceStrategy.holds(&object));
        NamespaceStrategy.deletion_begins(&mut object);
        assert_eq!(object["status"]["phase"], "Terminating");
    }

    #[test]
    fn an_update_keeps_finalizers_and_label() {
        let old = json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}});
        let mut new = json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "spec": {"finalizers": []}});
        NamespaceStrategy.prepare_for_update(&mut new, &old);
        assert_eq!(new["spec"]["finalizers"], json!(["kubernetes"]));
        assert_eq!(new["metadata"]["labels"], json!({"x": "y", "kubernetes.io/metadata.name": "a"}));
    }

    #[test]
    fn names_and_finalizers_are_checked() {
        let long = "a".repeat(64);
        for (name, ok) in [("a", true), ("a-1", true), ("-a", false), ("a.b", false), ("A", false), (&long, false)] {
            let errors = NamespaceStrategy.validate(&json!({"metadata": {"name": name}}), None);
            assert_eq!(errors.is_empty(), ok, "{name}");
        }
        let errors = NamespaceStrategy
            .validate(&json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes", "a.b/c", "x"]}}), None);
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].path, "spec.finalizers");
    }
}
