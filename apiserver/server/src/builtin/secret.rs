//! Secret: `stringData` is write-only and becomes base64 in `data`; well-known types insist on their keys; `type` never changes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pullpiri_apply::error::{FieldError, FieldErrorKind};
use serde_json::{Map, Value, json};

use super::config_map::{MAX_BYTES, bag, check_key, decoded_length, immutable, too_long};
use super::{drop_nulls, set, text};
use crate::registry::Strategy;

const OPAQUE: &str = "Opaque";

#[derive(Debug)]
pub struct SecretStrategy;

/// Moves `stringData` into `data`.
fn encode(object: &mut Value) {
    let Some(map) = object.as_object_mut() else { return };
    let Some(Value::Object(plain)) = map.remove("stringData") else { return };
    if plain.is_empty() {
        return;
    }
    let data = map.entry("data").or_insert_with(|| Value::Object(Map::new()));
    if !data.is_object() {
        *data = Value::Object(Map::new());
    }
    if let Some(data) = data.as_object_mut() {
        for (key, value) in plain {
            data.insert(key, Value::String(STANDARD.encode(value.as_str().unwrap_or_default())));
        }
    }
}

/// A value decodes to a JSON object.
fn is_json_object(value: &Value) -> Result<(), String> {
    let bytes = STANDARD.decode(value.as_str().unwrap_or_default()).map_err(|error| error.to_string())?;
    serde_json::from_slice::<Map<String, Value>>(&bytes).map(|_| ()).map_err(|error| error.to_string())
}

fn required(path: &str) -> FieldError {
    FieldError::new(FieldErrorKind::Required, path, None, "")
}

fn check_type(object: &Value, data: &Map<String, Value>) -> Vec<FieldError> {
    let missing = |keys: &[&str]| -> Vec<FieldError> {
        keys.iter().filter(|key| !data.contains_key(**key)).map(|key| required(&format!("data[{key}]"))).collect()
    };
    let docker = |key: &str| match data.get(key) {
        None => vec![required(&format!("data[{key}]"))],
        Some(value) => is_json_object(value).err().map_or_else(Vec::new, |why| {
            vec![FieldError::new(
                FieldErrorKind::Invalid,
                format!("data[{key}]"),
                Some(json!("<secret contents redacted>")),
                why,
            )]
        }),
    };
    match text(object, &["type"]) {
        "kubernetes.io/service-account-token" => {
            let account = "kubernetes.io/service-account.name";
            if text(object, &["metadata", "annotations", account]).is_empty() {
                vec![required(&format!("metadata.annotations[{account}]"))]
            } else {
                Vec::new()
            }
        }
        "kubernetes.io/dockercfg" => docker(".dockercfg"),
        "kubernetes.io/dockerconfigjson" => docker(".dockerconfigjson"),
        "kubernetes.io/basic-auth" => {
            let missing = missing(&["username", "password"]);
            if missing.len() == 2 { missing } else { Vec::new() }
        }
        "kubernetes.io/ssh-auth" => {
            let key = data.get("ssh-privatekey").and_then(Value::as_str).unwrap_or_default();
            if key.is_empty() { vec![required("data[ssh-privatekey]")] } else { Vec::new() }
        }
        "kubernetes.io/tls" => missing(&["tls.crt", "tls.key"]),
        _ => Vec::new(),
    }
}

impl Strategy for SecretStrategy {
    fn normalize(&self, object: &mut Value) {
        drop_nulls(object);
        encode(object);
        // A default, which whoever writes the object owns.
        if text(object, &["type"]).is_empty() {
            set(object, &["type"], json!(OPAQUE));
        }
    }

    fn prepare_for_create(&self, object: &mut Value) {
        drop_nulls(object);
        encode(object);
        if text(object, &["type"]).is_empty() {
            set(object, &["type"], json!(OPAQUE));
        }
    }

    fn prepare_for_update(&self, object: &mut Value, old: &Value) {
        drop_nulls(object);
        encode(object);
        // Absent is the type that it has: the server has filled in the default, not the client.
        let kind = text(old, &["type"]);
        if !kind.is_empty() && matches!(text(object, &["type"]), "" | OPAQUE) {
            set(object, &["type"], json!(kind));
        }
    }

    fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if let Some(old) = old {
            let (new_type, old_type) = (text(object, &["type"]), text(old, &["type"]));
            if new_type != old_type {
                errors.push(FieldError::new(
                    FieldErrorKind::Invalid,
                    "type",
                    Some(json!(new_type)),
                    "field is immutable",
                ));
            }
            errors.extend(immutable(object, old, &["data"]));
        }
        let empty = Map::new();
        let data = bag(object, "data").unwrap_or(&empty);
        errors.extend(data.keys().flat_map(|key| check_key("data", key)));
        if data.values().map(decoded_length).sum::<usize>() > MAX_BYTES {
            errors.push(too_long("data"));
        }
        errors.extend(check_type(object, data));
        errors
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["type"]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_becomes_data_and_wins() {
        let mut object = json!({"data": {"a": "b2xk", "b": "Yg=="}, "stringData": {"a": "new", "c": ""}});
        SecretStrategy.prepare_for_create(&mut object);
        assert_eq!(object, json!({"data": {"a": "bmV3", "b": "Yg==", "c": ""}, "type": "Opaque"}));
    }

    #[test]
    fn the_type_stays() {
        let old = json!({"type": "example.com/x"});
        let mut new = json!({"data": {}});
        SecretStrategy.prepare_for_update(&mut new, &old);
        assert_eq!(new["type"], "example.com/x");
        assert!(SecretStrategy.validate(&new, Some(&old)).is_empty());
        let errors = SecretStrategy.validate(&json!({"type": "Opaque"}), Some(&old));
        assert_eq!(errors[0].to_string(), "type: Invalid value: \"Opaque\": field is immutable");
    }

    #[test]
    fn well_known_types_insist_on_their_keys() {
        let cases: [(&str, Value, &[&str]); 8] = [
            ("kubernetes.io/tls", json!({"tls.crt": ""}), &["data[tls.key]"]),
            ("kubernetes.io/tls", json!({"tls.crt": "", "tls.key": ""}), &[]),
            ("kubernetes.io/basic-auth", json!({"password": "eA=="}), &[]),
            ("kubernetes.io/basic-auth", json!({}), &["data[username]", "data[password]"]),
            ("kubernetes.io/ssh-auth", json!({"ssh-privatekey": ""}), &["data[ssh-privatekey]"]),
            ("kubernetes.io/dockerconfigjson", json!({".dockerconfigjson": "e30="}), &[]),
            ("kubernetes.io/dockerconfigjson", json!({".dockerconfigjson": "eA=="}), &["data[.dockerconfigjson]"]),
            (
                "kubernetes.io/service-account-token",
                json!({}),
                &["metadata.annotations[kubernetes.io/service-account.name]"],
            ),
        ];
        for (kind, data, expected) in cases {
            let errors = SecretStrategy.validate(&json!({"type": kind, "data": data}), None);
            let paths: Vec<&str> = errors.iter().map(|error| error.path.as_str()).collect();
            assert_eq!(paths, expected, "{kind} {data}");
        }
    }
}
