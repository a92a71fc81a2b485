//! Event, in its two views. What is stored is the core form; `events.k8s.io` renames fields and insists on more.
//!
//! | core/v1 | events.k8s.io/v1 |
//! |---|---|
//! | involvedObject | regarding |
//! | message | note |
//! | source | deprecatedSource |
//! | firstTimestamp, lastTimestamp, count | deprecatedFirstTimestamp, deprecatedLastTimestamp, deprecatedCount |
//! | reportingComponent | reportingController |

use pullpiri_apply::error::{FieldError, FieldErrorKind};
use pullpiri_apply::metadata::name::qualified_name;
use serde_json::{Map, Value, json};

use super::{drop_nulls, text};
use crate::registry::Strategy;

/// (core, events.k8s.io)
const NAMES: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// Limits of the events.k8s.io rules, in bytes.
const REASON_AND_ACTION: usize = 128;
const NOTE: usize = 1024;
const INSTANCE: usize = 128;

fn rename(object: &mut Value, api_version: &str, to_core: bool) {
    let Some(map) = object.as_object_mut() else { return };
    for (core, new) in NAMES {
        let (from, to) = if to_core { (new, core) } else { (core, new) };
        if let Some(value) = map.remove(*from) {
            map.insert((*to).to_owned(), value);
        }
    }
    map.insert("apiVersion".to_owned(), json!(api_version));
    map.insert("kind".to_owned(), json!("Event"));
    // Field owners named the fields as they wrote them; both names of one field must be one field.
    let entries = map.get_mut("metadata").and_then(|m| m.get_mut("managedFields")).and_then(Value::as_array_mut);
    for entry in entries.into_iter().flatten() {
        if let Some(fields) = entry.get_mut("fieldsV1").and_then(Value::as_object_mut) {
            rename_fields(fields, to_core);
        }
        if let Some(version) = entry.get_mut("apiVersion") {
            *version = json!(api_version);
        }
    }
}

fn rename_fields(fields: &mut Map<String, Value>, to_core: bool) {
    for (core, new) in NAMES {
        let (from, to) = if to_core { (new, core) } else { (core, new) };
        if let Some(value) = fields.remove(&format!("f:{from}")) {
            fields.insert(format!("f:{to}"), value);
        }
    }
}

fn invalid(path: &str, detail: impl Into<String>) -> FieldError {
    FieldError::new(FieldErrorKind::Invalid, path, Some(json!("")), detail)
}

fn required(path: &str) -> FieldError {
    FieldError::new(FieldErrorKind::Required, path, None, "")
}

/// The rules that hold for both views, on the core form.
fn check(event: &Value, controller_field: &str) -> Vec<FieldError> {
    let namespace = text(event, &["metadata", "namespace"]);
    let involved = text(event, &["involvedObject", "namespace"]);
    let mismatch = || {
        FieldError::new(
            FieldErrorKind::Invalid,
            "involvedObject.namespace",
            Some(json!(involved)),
            "does not match event.namespace",
        )
    };
    let mut errors = Vec::new();
    if text(event, &["eventTime"]).is_empty() {
        let matches = if involved.is_empty() { matches!(namespace, "" | "default") } else { involved == namespace };
        if !matches {
            errors.push(mismatch());
        }
        return errors;
    }
    if involved.is_empty() && !matches!(namespace, "default" | "kube-system") {
        errors.push(mismatch());
    }
    let controller = text(event, &["reportingComponent"]);
    if controller.is_empty() {
        errors.push(required(controller_field));
    } else {
        let complaints = qualified_name(controller).into_iter();
        errors.extend(complaints.map(|why| FieldError::invalid(controller_field, controller, why)));
    }
    for (field, most) in [
        ("reportingInstance", INSTANCE),
        ("action", REASON_AND_ACTION),
        ("reason", REASON_AND_ACTION),
        ("message", NOTE),
    ] {
        let value = text(event, &[field]);
        if value.is_empty() && field != "message" {
            errors.push(required(field));
        }
        if value.len() > most {
            errors.push(invalid(field, format!("can have at most {most} characters")));
        }
    }
    errors
}

fn check_series(event: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if let Some(series) = event.get("series") {
        if series.get("count").and_then(Value::as_i64).unwrap_or_default() < 2 {
            errors.push(invalid("series.count", "should be at least 2"));
        }
        if text(series, &["lastObservedTime"]).is_empty() {
            errors.push(required("series.lastObservedTime"));
        }
    }
    errors
}

fn is_set(event: &Value, field: &str) -> bool {
    match event.get(field) {
        None | Some(Value::Null) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Object(map)) => map.values().any(|value| value.as_str().is_some_and(|text| !text.is_empty())),
        Some(Value::Number(number)) => number.as_i64() != Some(0),
        Some(_) => true,
    }
}

const MICRO_TIMES: [&str; 2] = ["/eventTime", "/series/lastObservedTime"];

#[derive(Debug)]
pub struct CoreEventStrategy;

impl Strategy for CoreEventStrategy {
    fn micro_times(&self) -> &'static [&'static str] {
        &MICRO_TIMES
    }

    fn normalize(&self, object: &mut Value) {
        drop_nulls(object);
    }

    fn prepare_for_create(&self, object: &mut Value) {
        drop_nulls(object);
    }

    fn prepare_for_update(&self, object: &mut Value, _old: &Value) {
        drop_nulls(object);
    }

    fn validate(&self, object: &Value, _old: Option<&Value>) -> Vec<FieldError> {
        check(object, "reportingComponent")
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ]
    }

    fn selectable_value<'a>(&self, object: &'a Value, label: &str) -> &'a str {
        if label == "source" {
            let component = text(object, &["source", "component"]);
            if component.is_empty() { text(object, &["reportingComponent"]) } else { component }
        } else {
            let path: Vec<&str> = label.split('.').collect();
            text(object, &path)
        }
    }
}

/// The events.k8s.io view.
#[derive(Debug)]
pub struct EventStrategy;

impl Strategy for EventStrategy {
    fn micro_times(&self) -> &'static [&'static str] {
        &MICRO_TIMES
    }

    fn normalize(&self, object: &mut Value) {
        drop_nulls(object);
    }

    fn prepare_for_create(&self, object: &mut Value) {
        drop_nulls(object);
    }

    fn prepare_for_update(&self, object: &mut Value, _old: &Value) {
        drop_nulls(object);
    }

    fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut event = object.clone();
        self.to_stored(&mut event);
        let mut errors = check(&event, "reportingController");
        let Some(old) = old else {
            errors.extend(check_series(&event));
            if text(&event, &["eventTime"]).is_empty() {
                errors.push(required("eventTime"));
            }
            let kind = text(&event, &["type"]);
            if !matches!(kind, "Normal" | "Warning") {
                errors.push(invalid("type", format!("has invalid value: {kind}")));
            }
            for field in ["firstTimestamp", "lastTimestamp", "count", "source"] {
                if is_set(&event, field) {
                    errors.push(invalid(field, "needs to be unset"));
                }
            }
            return errors;
        };
        let mut before = old.clone();
        self.to_stored(&mut before);
        if event.get("series") != before.get("series") {
            errors.extend(check_series(&event));
        }
        for (field, shown) in [
            ("involvedObject", "involvedObject"),
            ("reason", "reason"),
            ("message", "message"),
            ("source", "source"),
            ("firstTimestamp", "firstTimestamp"),
            ("lastTimestamp", "lastTimestamp"),
            ("count", "count"),
            ("type", "type"),
            ("eventTime", "eventTime"),
            ("action", "action"),
            ("related", "related"),
            ("reportingComponent", "reportingController"),
            ("reportingInstance", "reportingInstance"),
        ] {
            let empty = |value: Option<&Value>| {
                value.is_none_or(|value| *value == json!({}) || *value == json!("") || *value == json!(0))
            };
            let (new, old) = (event.get(field), before.get(field));
            if new != old && !(empty(new) && empty(old)) {
                errors.push(FieldError::new(
                    FieldErrorKind::Invalid,
                    shown,
                    Some(new.cloned().unwrap_or(Value::Null)),
                    "field is immutable",
                ));
            }
        }
        errors
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &[
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reason",
            "reportingController",
            "type",
        ]
    }

    fn view_of(&self) -> Option<(&'static str, &'static str)> {
        Some(("", "events"))
    }

    fn to_stored(&self, object: &mut Value) {
        rename(object, "v1", true);
    }

    fn to_shown(&self, object: &mut Value) {
        rename(object, "events.k8s.io/v1", false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn core() -> Value {
        json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": "e", "namespace": "a", "managedFields": [
                {"apiVersion": "v1", "fieldsV1": {"f:message": {}, "f:involvedObject": {"f:name": {}}, "f:reason": {}}}
            ]},
            "involvedObject": {"kind": "Package", "namespace": "a", "name": "p"},
            "message": "m", "reason": "Started", "type": "Normal", "count": 3,
            "source": {"component": "c"},
            "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:05Z",
            "reportingComponent": "", "reportingInstance": "",
        })
    }

    #[test]
    fn views_convert_both_ways() {
        let mut event = core();
        EventStrategy.to_shown(&mut event);
        assert_eq!(event["apiVersion"], "events.k8s.io/v1");
        assert_eq!(event["regarding"]["name"], "p");
        assert_eq!(event["note"], "m");
        assert_eq!(event["deprecatedCount"], 3);
        assert_eq!(event["deprecatedSource"], json!({"component": "c"}));
        assert!(event.get("message").is_none());
        assert!(event["metadata"]["managedFields"][0]["fieldsV1"].get("f:note").is_some());
        EventStrategy.to_stored(&mut event);
        assert_eq!(event, core());
    }

    #[test]
    fn the_old_view_checks_the_namespace_alone() {
        assert!(CoreEventStrategy.validate(&core(), None).is_empty());
        let mut other = core();
        other["involvedObject"]["namespace"] = json!("b");
        let errors = CoreEventStrategy.validate(&other, None);
        assert_eq!(
            errors[0].to_string(),
            "involvedObject.namespace: Invalid value: \"b\": does not match event.namespace"
        );
    }

    #[test]
    fn the_new_view_is_strict() {
        let good = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e", "namespace": "a"},
            "eventTime": "2026-01-01T00:00:00.000000Z", "regarding": {"namespace": "a"}, "reason": "R", "action": "A",
            "type": "Normal", "reportingController": "pullpiri.io/x", "reportingInstance": "x-1",
        });
        assert!(EventStrategy.validate(&good, None).is_empty());
        assert!(EventStrategy.validate(&good, Some(&good)).is_empty());
        let mut bad = good.clone();
        bad["type"] = json!("Odd");
        bad["deprecatedCount"] = json!(1);
        bad["action"] = json!("");
        bad["series"] = json!({"count": 1});
        let paths: Vec<String> = EventStrategy.validate(&bad, None).into_iter().map(|error| error.path).collect();
        assert_eq!(paths, ["action", "series.count", "series.lastObservedTime", "type", "count"]);
        let mut changed = good.clone();
        changed["note"] = json!("other");
        let errors = EventStrategy.validate(&changed, Some(&good));
        assert_eq!(errors[0].to_string(), "message: Invalid value: \"other\": field is immutable");
    }

    #[test]
    fn selectable_source_falls_back_to_the_controller() {
        let mut event = core();
        assert_eq!(CoreEventStrategy.selectable_value(&event, "source"), "c");
        event["source"] = json!({});
        event["reportingComponent"] = json!("r");
        assert_eq!(CoreEventStrategy.selectable_value(&event, "source"), "r");
        assert_eq!(CoreEventStrategy.selectable_value(&event, "involvedObject.name"), "p");
    }
}
