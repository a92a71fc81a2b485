//! JSON merge patch: maps merge, null deletes, everything else replaces.
//!
//! One deviation from RFC 7386, kube-apiserver's: where a value is new or replaces one that is no map, nulls are also taken out of
//! maps inside its lists.

use serde_json::{Map, Value};

use super::{PatchError, wrong_type};

pub(super) fn apply(patch: Value, current: &Value) -> Result<Value, PatchError> {
    match patch {
        Value::Object(patch) => {
            let mut out = current.as_object().cloned().unwrap_or_default();
            merge_maps(&mut out, patch);
            Ok(Value::Object(out))
        }
        Value::Null => Err(PatchError::Malformed("Invalid JSON Patch".to_owned())),
        other => Err(wrong_type(&other, "value of type map[string]interface {}")),
    }
}

fn merge_maps(target: &mut Map<String, Value>, patch: Map<String, Value>) {
    for (name, value) in patch {
        if value.is_null() {
            target.remove(&name);
            continue;
        }
        match (target.get_mut(&name), value) {
            (Some(Value::Object(target)), Value::Object(patch)) => merge_maps(target, patch),
            (Some(target @ Value::Object(_)), value) => *target = value,
            (_, mut value) => {
                drop_nulls(&mut value);
                target.insert(name, value);
            }
        }
    }
}

/// Takes out of a new value what is null in its maps, at any depth.
pub(super) fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}
