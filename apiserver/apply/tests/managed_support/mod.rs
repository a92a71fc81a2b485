//! What the tests of field ownership share: schemas read from JSON, so that a test shows its schema as a CRD would, and writes.

#![allow(dead_code, reason = "each test uses its part")]

use pullpiri_apply::managed::{
    Applied, ApplyError, FieldSet, Force, ManagedFieldsEntry, Manager, Operation, Write, apply, entries, update,
};
use pullpiri_apply::schema::{Additional, ListType, MapType, PatchStrategy, Schema, Type, Validation};
use serde_json::Value;

/// A schema with one of everything.
pub(crate) const THING: &str = include_str!("thing.schema.json");

pub(crate) fn thing() -> Schema {
    schema(&serde_json::from_str(THING).unwrap())
}

pub(crate) fn schema(json: &Value) -> Schema {
    let text = |name: &str| json.get(name).and_then(Value::as_str);
    let flag = |name: &str| json.get(name) == Some(&Value::Bool(true));
    let kind = text("type").map(|kind| match kind {
        "object" => Type::Object,
        "array" => Type::Array,
        "string" => Type::String,
        "integer" => Type::Integer,
        "number" => Type::Number,
        "boolean" => Type::Boolean,
        other => panic!("unknown type {other}"),
    });
    let keys = || {
        let keys = json["x-kubernetes-list-map-keys"].as_array().unwrap();
        keys.iter().map(|key| key.as_str().unwrap().to_owned()).collect()
    };
    Schema {
        kind,
        properties: json
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(name, property)| (name.clone(), schema(property)))
            .collect(),
        additional: json.get("additionalProperties").map(|additional| match additional {
            Value::Bool(allowed) => Additional::Allowed(*allowed),
            other => Additional::Of(Box::new(schema(other))),
        }),
        items: json.get("items").map(|items| Box::new(schema(items))),
        nullable: flag("nullable"),
        int_or_string: flag("x-kubernetes-int-or-string"),
        preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
        embedded_resource: flag("x-kubernetes-embedded-resource"),
        list_type: match text("x-kubernetes-list-type") {
            Some("map") => ListType::Map(keys()),
            Some("set") => ListType::Set,
            _ => ListType::Atomic,
        },
        map_type: if text("x-kubernetes-map-type") == Some("atomic") { MapType::Atomic } else { MapType::Granular },
        patch_strategy: match text("x-kubernetes-patch-strategy") {
            Some("merge") => PatchStrategy::Merge(text("x-kubernetes-patch-merge-key").map(str::to_owned)),
            _ => PatchStrategy::Replace,
        },
        default: json.get("default").cloned(),
        validation: text("format")
            .map(|format| Box::new(Validation { format: Some(format.to_owned()), ..Validation::default() })),
        ..Schema::default()
    }
}

/// Somebody who writes Things.
pub(crate) struct Writer {
    pub(crate) schema: Schema,
    pub(crate) manager: Manager,
    pub(crate) reset: FieldSet,
    pub(crate) time: String,
}

impl Writer {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            schema: thing(),
            manager: Manager {
                name: name.to_owned(),
                operation: Operation::Update,
                api_version: "example.io/v1".to_owned(),
                subresource: String::new(),
            },
            reset: FieldSet::new(),
            time: "2026-01-02T03:04:05Z".to_owned(),
        }
    }

    pub(crate) fn at(mut self, second: u8) -> Self {
        self.time = format!("2026-01-02T03:04:{second:02}Z");
        self
    }

    /// Through the status subresource of a kind that has one.
    pub(crate) fn status(mut self) -> Self {
        self.manager.subresource = "status".to_owned();
        self.reset = FieldSet::of_fields(&[&["metadata"], &["spec"]]);
        self
    }

    /// Through the main resource of a kind that has a status subresource.
    pub(crate) fn main(mut self) -> Self {
        self.reset = FieldSet::of_fields(&[&["status"]]);
        self
    }

    fn write(&self) -> Write<'_> {
        Write { schema: &self.schema, kind: "Thing", manager: &self.manager, time: &self.time, reset: &self.reset }
    }

    pub(crate) fn try_apply(&self, live: Option<&Value>, config: &Value, force: Force) -> Result<Applied, ApplyError> {
        apply(live, config, force, &self.write())
    }

    /// Applies, gives the object a uid as storage does, and fails the test on an error.
    pub(crate) fn apply(&self, live: Option<&Value>, config: &Value) -> Value {
        stored(self.try_apply(live, config, Force::No).unwrap().object)
    }

    pub(crate) fn force(&self, live: Option<&Value>, config: &Value) -> Value {
        stored(self.try_apply(live, config, Force::Yes).unwrap().object)
    }

    pub(crate) fn update(&self, live: Option<&Value>, mut new: Value) -> Value {
        update(live, &mut new, &self.write()).unwrap();
        stored(new)
    }

    pub(crate) fn conflict(&self, live: &Value, config: &Value) -> String {
        self.try_apply(Some(live), config, Force::No).unwrap_err().to_string()
    }
}

pub(crate) fn stored(mut object: Value) -> Value {
    object["metadata"]["uid"] = Value::from("u1");
    object
}

/// A Thing with this spec.
pub(crate) fn spec(spec: Value) -> Value {
    serde_json::json!({"apiVersion": "example.io/v1", "kind": "Thing", "metadata": {"name": "thing"}, "spec": spec})
}

/// The entry of one manager.
pub(crate) fn entry(object: &Value, manager: &str) -> Option<ManagedFieldsEntry> {
    entries(object).unwrap().into_iter().find(|entry| entry.manager == manager)
}

/// What one manager owns, as canonical text; empty for nothing.
pub(crate) fn owned(object: &Value, manager: &str) -> String {
    entry(object, manager).map(|entry| serde_json::to_string(&entry.fields_v1.unwrap()).unwrap()).unwrap_or_default()
}
