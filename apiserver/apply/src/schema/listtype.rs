//! `x-kubernetes-list-type` set and map: no element, or no key, twice.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::{Additional, ListType, Schema};
use crate::error::{FieldError, Path, print};

/// Every first repetition, at its place: `spec.ports[2]: Duplicate value: {"port":80}`.
#[must_use]
pub fn validate(value: &Value, schema: &Schema) -> Vec<FieldError> {
    let mut errors = Vec::new();
    walk(value, schema, &Path::Root, &mut errors);
    errors
}

fn walk(value: &Value, schema: &Schema, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    match value {
        Value::Array(items) => {
            match &schema.list_type {
                ListType::Atomic => {}
                ListType::Set => {
                    for i in repeated(items) {
                        errors.push(FieldError::duplicate(path.index(i), items.get(i).cloned().unwrap_or_default()));
                    }
                }
                ListType::Map(keys) => check_map(items, keys, path, errors),
            }
            if let Some(below) = schema.items.as_deref() {
                for (i, item) in items.iter().enumerate() {
                    walk(item, below, &path.index(i), errors);
                }
            }
        }
        Value::Object(map) => {
            if let Some(Additional::Of(of)) = &schema.additional {
                for (key, child) in map {
                    walk(child, of, &path.key(key), errors);
                }
            }
            for (key, property) in &schema.properties {
                if let Some(child) = map.get(key) {
                    walk(child, property, &path.child(key), errors);
                }
            }
        }
        _ => {}
    }
}

/// Where a value stands for the second time.
fn repeated(items: &[Value]) -> Vec<usize> {
    if items.len() < 2 {
        return Vec::new();
    }
    let mut seen: HashMap<String, u32> = HashMap::with_capacity(items.len());
    let mut places = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let times = seen.entry(identity(item)).or_insert(0);
        *times += 1;
        if *times == 2 {
            places.push(i);
        }
    }
    places
}

/// A text that two values share when they are the same. 1 and 1.0 aren't.
fn identity(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        other => print::json(other),
    }
}

fn check_map(items: &[Value], keys: &[String], path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if let Some((i, item)) = items.iter().enumerate().find(|(_, item)| !item.is_object() && !item.is_null()) {
        let detail = "must be an object for an array of list-type map";
        return errors.push(FieldError::invalid(path.index(i), item.clone(), detail));
    }
    let identities: Vec<Value> = items
        .iter()
        .map(|item| {
            let given = |key: &String| item.get(key).map(|value| (key.clone(), value.clone()));
            Value::Object(keys.iter().filter_map(given).collect::<Map<String, Value>>())
        })
        .collect();
    for i in repeated(&identities) {
        errors.push(FieldError::duplicate(path.index(i), identities.get(i).cloned().unwrap_or_default()));
    }
}
