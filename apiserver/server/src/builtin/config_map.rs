//! ConfigMap: keys are file names, a key stands in one of the two bags, and the whole is at most 1 MiB.

use pullpiri_apply::error::{FieldError, FieldErrorKind};
use pullpiri_apply::metadata::name::config_key;
use serde_json::{Map, Value, json};

use super::drop_nulls;
use crate::registry::Strategy;

/// The most bytes that the values of a ConfigMap or Secret may have together.
pub(super) const MAX_BYTES: usize = 1024 * 1024;

#[derive(Debug)]
pub struct ConfigMapStrategy;

impl Strategy for ConfigMapStrategy {
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
        let mut errors = old.map(|old| immutable(object, old, &["data", "binaryData"])).unwrap_or_default();
        let (data, binary) = (bag(object, "data"), bag(object, "binaryData"));
        let mut total = 0;
        for (key, value) in data.into_iter().flatten() {
            errors.extend(check_key("data", key));
            if binary.is_some_and(|binary| binary.contains_key(key)) {
                errors.push(FieldError::new(
                    FieldErrorKind::Invalid,
                    format!("data[{key}]"),
                    Some(json!(key)),
                    "duplicate of key present in binaryData",
                ));
            }
            total += value.as_str().map_or(0, str::len);
        }
        for (key, value) in binary.into_iter().flatten() {
            errors.extend(check_key("binaryData", key));
            total += decoded_length(value);
        }
        if total > MAX_BYTES {
            // As Go prints a path without a name.
            errors.push(too_long("[]"));
        }
        errors
    }
}

pub(super) fn bag<'a>(object: &'a Value, key: &str) -> Option<&'a Map<String, Value>> {
    object.get(key).and_then(Value::as_object)
}

pub(super) fn too_long(path: &str) -> FieldError {
    FieldError::new(FieldErrorKind::TooLong, path, None, format!("may not be more than {MAX_BYTES} bytes"))
}

/// How many bytes a base64 text stands for.
pub(super) fn decoded_length(value: &Value) -> usize {
    value.as_str().map_or(0, |text| text.trim_end_matches('=').len() * 3 / 4)
}

/// A key names a file.
pub(super) fn check_key(bag: &str, key: &str) -> Vec<FieldError> {
    let complaints = config_key(key).into_iter();
    complaints.map(|complaint| FieldError::invalid(format!("{bag}[{key}]"), key, complaint)).collect()
}

/// `immutable: true` stays, and holds these bags as they are.
pub(super) fn immutable(object: &Value, old: &Value, bags: &[&str]) -> Vec<FieldError> {
    let is_immutable = |object: &Value| object.get("immutable").and_then(Value::as_bool).unwrap_or(false);
    if !is_immutable(old) {
        return Vec::new();
    }
    let forbidden = |field: &str| {
        FieldError::new(FieldErrorKind::Forbidden, field, None, "field is immutable when `immutable` is set")
    };
    let mut errors = Vec::new();
    if !is_immutable(object) {
        errors.push(forbidden("immutable"));
    }
    let empty = Map::new();
    for name in bags {
        if bag(object, name).unwrap_or(&empty) != bag(old, name).unwrap_or(&empty) {
            errors.push(forbidden(name));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(object: &Value, old: Option<&Value>) -> Vec<String> {
        ConfigMapStrategy.validate(object, old).into_iter().map(|error| error.path).collect()
    }

    #[test]
    fn keys_are_file_names_and_stand_once() {
        let none: [&str; 0] = [];
        assert_eq!(paths(&json!({"data": {"a.b-C_1": "x"}, "binaryData": {"c": "eA=="}}), None), none);
        assert_eq!(
            paths(&json!({"data": {"a/b": "x", "..": "y", "..z": ""}}), None),
            ["data[..]", "data[..z]", "data[a/b]"]
        );
        assert_eq!(paths(&json!({"data": {"a": "x"}, "binaryData": {"a": "eA=="}}), None), ["data[a]"]);
    }

    #[test]
    fn size_is_limited() {
        let big = "x".repeat(MAX_BYTES);
        assert!(paths(&json!({"data": {"a": big}}), None).is_empty());
        assert_eq!(paths(&json!({"data": {"a": big, "b": "y"}}), None), ["[]"]);
    }

    #[test]
    fn immutable_holds() {
        let old = json!({"data": {"a": "1"}, "immutable": true});
        assert!(paths(&old, Some(&old)).is_empty());
        assert_eq!(paths(&json!({"data": {"a": "2"}}), Some(&old)), ["immutable", "data"]);
        assert_eq!(paths(&json!({"data": {"a": "2"}, "immutable": true}), Some(&old)), ["data"]);
    }
}
