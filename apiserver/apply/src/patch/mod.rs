//! JSON, merge and strategic merge patches.
//!
//! Each takes the current object and gives the patched one; what is patched is a copy, so a patch that fails half-way changes
//! nothing. Server-side apply is not here but in [`crate::managed`]: it needs the field owners.
//!
//! Behaviour is kube-apiserver's (Kubernetes 1.37), deviations from the RFCs included, because clients have come to rely on them.

mod json;
mod merge;
mod strategic;
mod strategic_list;

use serde_json::Value;
use thiserror::Error;

use crate::schema::Schema;

/// The kind of a patch, by its media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 6902, `application/json-patch+json`.
    Json,
    /// RFC 7386, `application/merge-patch+json`.
    Merge,
    /// `application/strategic-merge-patch+json`, for built-in kinds.
    Strategic,
}

/// Why a patch can't be applied. Prints the message of the Status.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PatchError {
    /// 400 BadRequest: the patch itself is wrong.
    #[error("{0}")]
    Malformed(String),
    /// 422 Invalid: the patch doesn't fit the object. Clients are told no more than that; the detail is for logs.
    #[error("the server rejected our request due to an error in our request")]
    Unprocessable { detail: String },
    /// 413 RequestEntityTooLarge.
    #[error("{0}")]
    TooLarge(String),
    /// 500, as kube-apiserver answers it: list items or directives of the wrong type.
    #[error("{message}")]
    Internal {
        /// `.spec.ports`; empty for the root.
        path: String,
        message: String,
    },
}

/// Applies a patch to an object. A strategic merge patch needs the schema of a built-in kind.
///
/// # Errors
///
/// The patch isn't JSON of the right shape, or doesn't fit the object.
pub fn apply(kind: PatchKind, patch: &[u8], current: &Value, schema: Option<&Schema>) -> Result<Value, PatchError> {
    let patch: Value =
        serde_json::from_slice(patch).map_err(|_| PatchError::Malformed("invalid JSON patch".to_owned()))?;
    match kind {
        PatchKind::Json => json::apply(&patch, current),
        PatchKind::Merge => merge::apply(patch, current),
        PatchKind::Strategic => match schema {
            Some(schema) => strategic::apply(patch, current, schema),
            None => Err(PatchError::Malformed("strategic merge patch format is not supported".to_owned())),
        },
    }
}

/// A patch of the wrong type, in the words of Go's decoder.
fn wrong_type(given: &Value, expected: &str) -> PatchError {
    PatchError::Malformed(format!("error decoding patch: {}", cannot_unmarshal(given, expected)))
}

fn cannot_unmarshal(given: &Value, expected: &str) -> String {
    let given = match given {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    format!("json: cannot unmarshal {given} into Go {expected}")
}
