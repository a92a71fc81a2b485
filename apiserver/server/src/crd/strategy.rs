//! CustomResourceDefinition as a stored kind: defaults, what may be written, and the finalizer that lets its instances go first.
//!
//! The rules themselves, schemas included, are `pullpiri_apply::schema::crd`'s.

use jiff::Timestamp;
use pullpiri_apply::error::FieldError;
use pullpiri_apply::metadata::{self, NameFormat, Scope};
use pullpiri_apply::schema::crd as rules;
use serde_json::{Number, Value, json};

use super::conditions::{Condition, set_condition};
use crate::builtin::{set, text};
use crate::registry::Strategy;

/// Holds a deleted CRD until its instances are gone.
pub const CLEANUP_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

#[derive(Debug)]
pub struct CrdStrategy;

/// As Go prints what it has read: nulls are absent fields and a float is as short as it can be, except where a schema carries JSON values of its own.
fn retype(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, child| !child.is_null() || matches!(key.as_str(), "default" | "example"));
            for (key, child) in map {
                match (key.as_str(), child) {
                    ("default" | "example" | "enum", _) => {}
                    ("minimum" | "maximum" | "multipleOf", Value::Number(number)) => *number = shortest(number),
                    (_, child) => retype(child),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(retype),
        _ => {}
    }
}

/// `0` for `0.0`. What can't be said as an integer stays.
fn shortest(number: &Number) -> Number {
    let text =
        number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < 1e21).map(|float| float.to_string());
    text.and_then(|text| text.parse::<i64>().ok()).map_or_else(|| number.clone(), Number::from)
}

fn default_spec(object: &mut Value) {
    rules::default(object);
    // `preserveUnknownFields: false` is the only value v1 takes, and isn't shown.
    if object.pointer("/spec/preserveUnknownFields") == Some(&Value::Bool(false))
        && let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut)
    {
        spec.remove("preserveUnknownFields");
    }
}

impl Strategy for CrdStrategy {
    /// Defaults are owned by whoever writes the object.
    fn normalize(&self, object: &mut Value) {
        retype(object);
        default_spec(object);
    }

    fn prepare_for_create(&self, object: &mut Value) {
        retype(object);
        set(
            object,
            &["status"],
            json!({"acceptedNames": {"kind": "", "plural": ""}, "conditions": [], "storedVersions": []}),
        );
        default_spec(object);
    }

    fn prepare_for_update(&self, object: &mut Value, _old: &Value) {
        retype(object);
        default_spec(object);
        rules::record_stored_version(object);
    }

    fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        if old.is_some_and(|old| old.get("spec") == object.get("spec")) {
            // Compiling every rule again because a status or a finalizer changed would be dear.
            return Vec::new();
        }
        // Metadata was checked for all kinds alike; only the rule about the name is of this one.
        let (mut errors, known) = match old {
            None => (
                rules::validate_create(object),
                metadata::validate_create(object, Scope::Cluster, NameFormat::Subdomain),
            ),
            Some(old) => (rules::validate_update(object, old), metadata::validate_update(object, old)),
        };
        errors.retain(|error| !known.contains(error));
        if text(object, &["spec", "conversion", "strategy"]) == "Webhook" {
            errors.push(FieldError::not_supported("spec.conversion.strategy", "Webhook", &["None"]));
        }
        errors
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        let mut warnings: Vec<String> = object
            .pointer("/spec/versions")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|version| version.pointer("/schema/openAPIV3Schema"))
            .flat_map(rules::unrecognised_formats)
            .collect();
        warnings.sort_unstable();
        warnings.dedup();
        warnings
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
    fn bounds_are_the_same_however_they_are_written() {
        let bound = |minimum: Value| {
            let mut object = crd();
            object["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["minimum"] = minimum;
            CrdStrategy.prepare_for_create(&mut object);
            object["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["minimum"].to_string()
        };
        assert_eq!([json!(0), json!(0.0), json!(-3.0)].map(bound), ["0", "0", "-3"]);
        assert_eq!(bound(json!(0.5)), "0.5");
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
