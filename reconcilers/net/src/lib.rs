//! Networks as decisions: addresses, rules and shares of links, compiled to what one node needs.
//!
//! Rates are bits per second of layer-2 bytes.

pub mod ipam;
pub mod prefix;

use thiserror::Error;

/// What is wrong with a field of a Network.
#[derive(Error, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[error("{field}: {message}")]
pub struct FieldError {
    /// The path from the object: `spec.subnet.v4`.
    pub field: String,
    /// What was given and what was expected.
    pub message: String,
}

impl FieldError {
    #[must_use]
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}
