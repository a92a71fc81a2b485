//! apiVersion, kind and metadata of resources inside resources (`x-kubernetes-embedded-resource`), which schemas don't describe.

use serde_json::Value;

use super::{Additional, Schema};
use crate::error::{FieldError, Path};
use crate::metadata::decode::decode;
use crate::metadata::name::{self, NameFormat};
use crate::metadata::validate::{Scope, validate_meta};

/// Normalises the metadata of every embedded resource. Returns the unknown fields that were dropped.
///
/// # Errors
/// The first apiVersion, kind or metadata of a wrong type.
pub fn coerce(object: &mut Value, schema: &Schema) -> Result<Vec<String>, FieldError> {
    let mut dropped = Vec::new();
    coerce_node(object, schema, &Path::Root, &mut dropped)?;
    dropped.sort_unstable();
    Ok(dropped)
}

fn coerce_node(
    value: &mut Value,
    schema: &Schema,
    path: &Path<'_>,
    dropped: &mut Vec<String>,
) -> Result<(), FieldError> {
    match value {
        Value::Object(map) => {
            if schema.embedded_resource {
                for key in ["apiVersion", "kind"] {
                    if let Some(given) = map.get(key).filter(|v| !v.is_string()) {
                        return Err(FieldError::invalid(path.child(key), given.clone(), "must be a string"));
                    }
                }
                if let Some(metadata) = map.get_mut("metadata") {
                    let place = path.child("metadata");
                    match decode(metadata) {
                        Ok(unknown) => dropped.extend(unknown.into_iter().map(|below| format!("{place}.{below}"))),
                        Err(error) => return Err(FieldError::invalid(place, metadata.clone(), error)),
                    }
                }
            }
            for (key, child) in map.iter_mut() {
                if let Some(property) = schema.properties.get(key) {
                    coerce_node(child, property, &path.child(key), dropped)?;
                } else if let Some(Additional::Of(of)) = &schema.additional {
                    coerce_node(child, of, &path.key(key), dropped)?;
                }
            }
        }
        Value::Array(items) => {
            if let Some(below) = schema.items.as_deref() {
                for (i, item) in items.iter_mut().enumerate() {
                    coerce_node(item, below, &path.index(i), dropped)?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// The errors of every embedded resource: apiVersion and kind must be there, metadata must be sound.
#[must_use]
pub fn validate(object: &Value, schema: &Schema) -> Vec<FieldError> {
    let mut errors = Vec::new();
    validate_node(object, schema, &Path::Root, &mut errors);
    errors
}

fn validate_node(value: &Value, schema: &Schema, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    match value {
        Value::Object(map) => {
            if schema.embedded_resource {
                validate_resource(map, path, errors);
            }
            for (key, child) in map {
                if let Some(property) = schema.properties.get(key) {
                    validate_node(child, property, &path.child(key), errors);
                } else if let Some(Additional::Of(of)) = &schema.additional {
                    validate_node(child, of, &path.key(key), errors);
                }
            }
        }
        Value::Array(items) => {
            if let Some(below) = schema.items.as_deref() {
                for (i, item) in items.iter().enumerate() {
                    validate_node(item, below, &path.index(i), errors);
                }
            }
        }
        _ => {}
    }
}

fn validate_resource(map: &serde_json::Map<String, Value>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    for key in ["apiVersion", "kind"] {
        let place = path.child(key);
        match map.get(key) {
            None => errors.push(FieldError::required(place, "")),
            Some(Value::String(text)) if text.is_empty() => {
                errors.push(FieldError::invalid(place, "", "must not be empty"));
            }
            Some(Value::String(text)) if key == "kind" => {
                let complaints = name::dns_1035_label(&text.to_lowercase());
                if !complaints.is_empty() {
                    let complaints = complaints.join(",");
                    let detail = format!("may have mixed case, but should otherwise match: {complaints}");
                    errors.push(FieldError::invalid(place, text.as_str(), detail));
                }
            }
            Some(Value::String(text)) => {
                if text != "/" && text.matches('/').count() > 1 {
                    let detail = format!("unexpected GroupVersion string: {text}");
                    errors.push(FieldError::invalid(place, text.as_str(), detail));
                }
            }
            Some(other) => errors.push(FieldError::invalid(place, other.clone(), "must be a string")),
        }
    }
    let Some(metadata) = map.get("metadata") else { return };
    let place = path.child("metadata");
    let mut decoded = metadata.clone();
    if let Err(error) = decode(&mut decoded) {
        errors.push(FieldError::invalid(place, metadata.clone(), error));
        return;
    }
    let Some(meta) = decoded.as_object_mut() else { return };
    // A name isn't asked for, so an empty one isn't an error.
    meta.entry("name").or_insert_with(|| Value::from("fakename"));
    let scope = match meta.get("namespace") {
        Some(_) => Scope::Namespaced,
        None => Scope::Cluster,
    };
    errors.extend(validate_meta(meta, scope, NameFormat::PathSegment, &place));
}
