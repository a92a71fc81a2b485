//! Fills in defaults. A null where null isn't allowed is dropped, or replaced by the default if there is one.
//!
//! A default appears only where the object around it exists; defaults inside a default apply too, since the filled-in value is
//! walked afterwards.

use serde_json::Value;

use super::{Additional, Schema};

/// Drops nulls of fields that are neither nullable nor have a default, then applies defaults.
pub fn default(object: &mut Value, schema: &Schema) {
    drop_nulls(object, Some(schema));
    fill(object, Some(schema));
}

fn refuses_null(schema: Option<&Schema>) -> bool {
    schema.is_some_and(|s| !s.nullable)
}

fn field_schema<'s>(schema: Option<&'s Schema>, key: &str) -> Option<&'s Schema> {
    let schema = schema?;
    schema.properties.get(key).or(match &schema.additional {
        Some(Additional::Of(of)) => Some(of),
        _ => None,
    })
}

fn drop_nulls(value: &mut Value, schema: Option<&Schema>) {
    match value {
        Value::Object(map) => map.retain(|key, child| {
            let below = field_schema(schema, key);
            if child.is_null() && refuses_null(below) && below.is_none_or(|s| s.default.is_none()) {
                return false;
            }
            drop_nulls(child, below);
            true
        }),
        Value::Array(items) => {
            let below = schema.and_then(|s| s.items.as_deref());
            for item in items {
                drop_nulls(item, below);
            }
        }
        _ => {}
    }
}

fn fill(value: &mut Value, schema: Option<&Schema>) {
    let Some(schema) = schema else { return };
    match value {
        Value::Object(map) => {
            for (name, property) in &schema.properties {
                let Some(default) = &property.default else { continue };
                match map.get_mut(name) {
                    None => {
                        map.insert(name.clone(), default.clone());
                    }
                    Some(given) if given.is_null() && !property.nullable => *given = default.clone(),
                    Some(_) => {}
                }
            }
            for (key, child) in map.iter_mut() {
                let below = field_schema(Some(schema), key);
                replace_null(child, below);
                fill(child, below);
            }
        }
        Value::Array(items) => {
            for item in items {
                replace_null(item, schema.items.as_deref());
                fill(item, schema.items.as_deref());
            }
        }
        _ => {}
    }
}

fn replace_null(value: &mut Value, schema: Option<&Schema>) {
    if value.is_null()
        && let Some(default) = schema.filter(|s| !s.nullable).and_then(|s| s.default.as_ref())
    {
        *value = default.clone();
    }
}
