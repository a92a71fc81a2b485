//! Networks as decisions: addresses, rules and shares of links, compiled to what one node needs.
//!
//! ```text
//! Network ─ declared ─ review (alone, among others) ─┐
//! ModelInstance ─ members ───────────────────────────┴─ compile ─ Compiled, per node ─ slices ─ NetworkSlice
//!                                                                     └─ evaluate: what the kernel must do with a packet
//! ```
//!
//! Rates are bits per second of layer-2 bytes. Nothing here depends on the order in which objects are given.

pub mod compile;
pub mod declared;
pub mod evaluate;
pub mod ipam;
mod members;
mod numbering;
mod review;
pub mod slices;
pub mod unknown;

use std::fmt;

use thiserror::Error;

pub use compile::{Compiled, Inputs, Outcome, compile};
pub use evaluate::{Evaluation, Packet, Verdict, evaluate};
pub use members::{has_nodes_network, nodes_of};
pub use review::{Problem, Review};

/// An object of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    pub namespace: String,
    pub name: String,
}

impl ObjectName {
    #[must_use]
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

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
