//! Removes what a schema doesn't describe, and says what it removed: `spec.foo`, `spec.list[0].x`.
//!
//! The type's own fields (apiVersion, kind, metadata) of a resource stay whatever the schema says; [`super::embedded`] looks after
//! them.

use serde_json::Value;

use super::{Additional, Schema};

/// The fields that every resource has.
pub(super) const TYPE_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

pub(super) fn is_type_field(name: &str) -> bool {
    TYPE_FIELDS.contains(&name)
}

/// Prunes a whole resource. Returns the pruned paths, sorted.
pub fn prune(object: &mut Value, schema: &Schema) -> Vec<String> {
    let mut pruned = Vec::new();
    let mut path = String::new();
    walk(object, Some(schema), Resource::Yes, &mut path, &mut pruned);
    pruned.sort_unstable();
    pruned
}

/// Prunes a part of a resource, as a default is.
pub fn prune_part(value: &mut Value, schema: &Schema) -> Vec<String> {
    let mut pruned = Vec::new();
    let mut path = String::new();
    walk(value, Some(schema), Resource::of(schema), &mut path, &mut pruned);
    pruned.sort_unstable();
    pruned
}

/// Whether a node is a resource, so that its type's own fields stay.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Resource {
    Yes,
    No,
}

impl Resource {
    fn of(schema: &Schema) -> Self {
        if schema.embedded_resource { Self::Yes } else { Self::No }
    }
}

/// Steps into a key or an index for the time of `then`.
fn within(path: &mut String, step: impl FnOnce(&mut String), then: impl FnOnce(&mut String)) {
    let length = path.len();
    step(path);
    then(path);
    path.truncate(length);
}

fn push_key(path: &mut String, key: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(key);
}

fn push_index(path: &mut String, index: usize) {
    path.push('[');
    path.push_str(&index.to_string());
    path.push(']');
}

fn child_schema<'s>(schema: &'s Schema, key: &str) -> Child<'s> {
    if let Some(property) = schema.properties.get(key) {
        return Child::Described(Some(property));
    }
    match &schema.additional {
        Some(Additional::Of(of)) => Child::Described(Some(of)),
        // `additionalProperties: true` allows any key, but says nothing about what is below: that is pruned.
        Some(Additional::Allowed(_)) => Child::Described(None),
        None => Child::Unknown,
    }
}

enum Child<'s> {
    Described(Option<&'s Schema>),
    Unknown,
}

fn walk(value: &mut Value, schema: Option<&Schema>, resource: Resource, path: &mut String, pruned: &mut Vec<String>) {
    if let Some(schema) = schema.filter(|s| s.preserve_unknown) {
        return walk_preserved(value, schema, resource, path, pruned);
    }
    match value {
        Value::Object(map) => {
            let at_root = path.is_empty();
            map.retain(|key, child| {
                if resource == Resource::Yes && is_type_field(key) {
                    return true;
                }
                match schema.map_or(Child::Unknown, |s| child_schema(s, key)) {
                    Child::Described(below) => {
                        let kind = below.map_or(Resource::No, Resource::of);
                        within(path, |p| push_key(p, key), |p| walk(child, below, kind, p, pruned));
                        true
                    }
                    Child::Unknown => {
                        if schema.is_none() || !at_root || !is_type_field(key) {
                            within(path, |p| push_key(p, key), |p| pruned.push(p.clone()));
                        }
                        false
                    }
                }
            });
        }
        Value::Array(items) => {
            let below = schema.and_then(|s| s.items.as_deref());
            let kind = below.map_or(Resource::No, Resource::of);
            for (i, item) in items.iter_mut().enumerate() {
                within(path, |p| push_index(p, i), |p| walk(item, below, kind, p, pruned));
            }
        }
        _ => {}
    }
}

/// Below `x-kubernetes-preserve-unknown-fields` unknown keys stay, and described ones are pruned by their own schema.
fn walk_preserved(value: &mut Value, schema: &Schema, resource: Resource, path: &mut String, pruned: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, child) in map.iter_mut() {
                if resource == Resource::Yes && is_type_field(key) {
                    continue;
                }
                if let Child::Described(below) = child_schema(schema, key) {
                    let kind = below.map_or(Resource::No, Resource::of);
                    within(path, |p| push_key(p, key), |p| walk(child, below, kind, p, pruned));
                }
            }
        }
        Value::Array(items) => {
            if let Some(below) = schema.items.as_deref() {
                let kind = Resource::of(below);
                for (i, item) in items.iter_mut().enumerate() {
                    within(path, |p| push_index(p, i), |p| walk_preserved(item, below, kind, p, pruned));
                }
            }
        }
        _ => {}
    }
}
