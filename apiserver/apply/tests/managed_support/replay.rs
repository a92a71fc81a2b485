//! Runs recorded scenarios: steps of applies, updates and patches on one object, with the outcome of each.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use pullpiri_apply::{
    managed::{ApplyError, FieldSet, Force, Manager, Operation, Write, apply, entries, update},
    patch::{self, PatchError, PatchKind},
    schema::Schema,
};
use serde_json::{Map, Value, json};

const TIME: &str = "2026-01-02T03:04:05Z";

pub(crate) fn replay(schema: &Schema, scenario: &Value) -> Vec<Value> {
    let mut live = json!({"apiVersion": "example.io/v1", "kind": "Thing"});
    let steps = scenario["steps"].as_array().unwrap();
    steps.iter().map(|step| run(schema, scenario, step, &mut live)).collect()
}

fn text<'a>(step: &'a Value, name: &str) -> &'a str {
    step.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn run(schema: &Schema, scenario: &Value, step: &Value, live: &mut Value) -> Value {
    let manager = Manager {
        name: text(step, "manager").to_owned(),
        operation: Operation::Update,
        api_version: "example.io/v1".to_owned(),
        subresource: text(step, "subresource").to_owned(),
    };
    let reset = match (scenario["reset"] == true, manager.subresource.is_empty()) {
        (false, _) => FieldSet::new(),
        (true, true) => FieldSet::of_fields(&[&["status"]]),
        (true, false) => FieldSet::of_fields(&[&["metadata"], &["spec"]]),
    };
    let write = Write { schema, kind: "Thing", manager: &manager, time: TIME, reset: &reset };
    let patched = |kind| {
        let patch = step["patch"].to_string();
        match patch::apply(kind, patch.as_bytes(), &step["current"], Some(schema)) {
            Ok(object) => json!({"object": object}),
            Err(PatchError::Unprocessable { detail }) => json!({"error": "unprocessable", "detail": detail}),
            Err(PatchError::Malformed(_)) if kind == PatchKind::Json => json!({"error": "malformed"}),
            Err(error) => json!({"error": error.to_string()}),
        }
    };
    match text(step, "op") {
        "apply" => {
            let force = if step["force"] == true { Force::Yes } else { Force::No };
            match apply(Some(live), &step["object"], force, &write) {
                Ok(applied) => {
                    *live = applied.object;
                    finish(live, Some(applied.changed))
                }
                Err(error) => {
                    let mut out = json!({"error": error.to_string()});
                    match &error {
                        ApplyError::Conflict(conflicts) => {
                            let mut causes: Vec<String> = conflicts
                                .causes()
                                .iter()
                                .map(|cause| format!("{} {}", cause.field, cause.message))
                                .collect();
                            causes.sort();
                            out["code"] = json!(409);
                            out["causes"] = json!(causes);
                        }
                        ApplyError::BadRequest(_) => out["code"] = json!(400),
                        ApplyError::Schema(_) | ApplyError::ManagedFields(_) => {}
                    }
                    out
                }
            }
        }
        "update" => {
            let patch = step["patch"].to_string();
            let mut new = patch::apply(PatchKind::Merge, patch.as_bytes(), live, None).unwrap();
            let outcome = update(Some(live), &mut new, &write);
            *live = new;
            let mut out = finish(live, None);
            if let Err(error) = outcome {
                out["error"] = json!(error.to_string());
            }
            out
        }
        "strategic" => patched(PatchKind::Strategic),
        "json" => patched(PatchKind::Json),
        "merge" => patched(PatchKind::Merge),
        other => panic!("unknown step {other}"),
    }
}

fn finish(live: &mut Value, changed: Option<bool>) -> Value {
    if let Some(object) = live.as_object_mut() {
        let metadata = object.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.insert("uid".to_owned(), json!("u1"));
        }
    }
    let entries: Vec<Value> = entries(live)
        .unwrap()
        .into_iter()
        .map(|entry| {
            json!({
                "manager": entry.manager,
                "operation": entry.operation,
                "apiVersion": entry.api_version,
                "subresource": entry.subresource,
                "timed": entry.time.is_some(),
                "set": serde_json::to_string(&entry.fields_v1.unwrap()).unwrap(),
            })
        })
        .collect();
    let mut object = live.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    let mut out = json!({"object": object, "entries": entries});
    if let Some(changed) = changed {
        out["changed"] = json!(changed);
    }
    out
}
