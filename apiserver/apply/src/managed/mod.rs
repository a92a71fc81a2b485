//! Field ownership and server-side apply.
//!
//! Every write records in `metadata.managedFields` which fields its manager set. That is what lets several clients share an object:
//! an apply changes and removes only what is its own, and says so when it would change what is another's.
//!
//! * [`update`] records a create, update or patch; [`apply`] merges an applied configuration and records it.
//! * [`FieldSet`] is a set of fields, read and written in the `fieldsV1` format.
//! * [`metadata_schema`] is the schema of `metadata`, used for every kind whatever its own schema says.
//!
//! All of it is pure: time comes in as text, the stored object and the schema as references. Semantics are those of
//! structured-merge-diff v6 and of Kubernetes 1.37, messages included. Entries of other versions of a kind are read with the same
//! schema.

mod apply;
mod compare;
mod conflict;
mod entry;
mod extract;
mod fields_v1;
mod last_applied;
mod merge;
mod metadata;
mod path;
mod reconcile;
mod remove;
mod set;
pub(crate) mod text;
pub(crate) mod types;
mod update;
mod validate;
mod value;

use serde_json::Value;

use crate::schema::Schema;

pub use apply::{Applied, ApplyError, apply};
pub use compare::Comparison;
pub use conflict::{Conflict, ConflictCause, Conflicts};
pub use entry::{EntryError, ManagedFieldsEntry, Manager, Operation, entries};
pub use metadata::metadata_schema;
pub use path::{ElementError, Path, PathElement};
pub use set::FieldSet;
pub use update::{Force, UpdateError, keep_times_if_unchanged, update};

/// One write to an object: by whom, when, and to what kind of object.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// The schema of the whole object; what it says of `apiVersion`, `kind` and `metadata` doesn't matter.
    pub schema: &'a Schema,
    pub kind: &'a str,
    /// Name, version and subresource; the operation follows from the function that is called.
    pub manager: &'a Manager,
    /// RFC 3339.
    pub time: &'a str,
    /// Fields that this endpoint doesn't write and so doesn't own, with all below them: `status` for an object with a status
    /// subresource; `metadata` and `spec` for that subresource.
    pub reset: &'a FieldSet,
}

/// The fields that an object names, as an apply of it would own them.
#[must_use]
pub fn field_set(object: &Value, schema: &Schema) -> FieldSet {
    extract::extract(types::TypeRef::root(schema), object)
}

/// What changed from one object to another.
#[must_use]
pub fn comparison(old: &Value, new: &Value, schema: &Schema) -> Comparison {
    compare::compare(types::TypeRef::root(schema), old, new)
}
