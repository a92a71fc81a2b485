//! What the tests of field ownership share: a kind with one of everything, and writers of it.

#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use pullpiri_apply::managed::{
    Applied, ApplyError, FieldSet, Force, ManagedFieldsEntry, Manager, Operation, Write, apply, entries, update,
};
use pullpiri_apply::schema::Schema;
use serde_json::Value;

/// A schema with one of everything.
pub(crate) const THING: &str = include_str!("thing.schema.json");

pub(crate) fn thing() -> Schema {
    Schema::parse(&serde_json::from_str(THING).unwrap()).unwrap()
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
