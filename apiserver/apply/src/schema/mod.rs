//! Structural schemas: the one description of a resource that defaulting, pruning, validation, merging and field ownership share.
//!
//! Parsed once from a CRD's `openAPIV3Schema` (`apiextensions.k8s.io/v1` JSONSchemaProps as JSON) or from the schema of a
//! built-in kind, which carries the same extensions plus `x-kubernetes-patch-strategy` and `x-kubernetes-patch-merge-key`.

pub mod admit;
pub mod cel;
pub mod crd;
pub mod default;
pub mod embedded;
mod format;
pub mod listtype;
mod number;
mod parse;
pub mod path;
mod pattern;
pub mod prune;
mod ratchet;
pub mod strict;
pub mod structural;
pub mod validate;

use std::collections::BTreeMap;

use serde_json::Value;

pub use admit::{Admitted, CompiledSchema};
pub use pattern::Pattern;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

/// `x-kubernetes-list-type`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    #[default]
    Atomic,
    Set,
    /// With `x-kubernetes-list-map-keys`.
    Map(Vec<String>),
}

/// `x-kubernetes-map-type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MapType {
    #[default]
    Granular,
    Atomic,
}

/// `additionalProperties`.
#[derive(Clone, Debug)]
pub enum Additional {
    Allowed(bool),
    Of(Box<Schema>),
}

/// How a strategic merge patch treats a list of a built-in kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PatchStrategy {
    #[default]
    Replace,
    /// Merge by this key; `None` merges a list of scalars.
    Merge(Option<String>),
}

/// One node of a structural schema.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    pub kind: Option<Type>,
    pub properties: BTreeMap<String, Schema>,
    pub additional: Option<Additional>,
    pub items: Option<Box<Schema>>,
    pub nullable: bool,
    /// `x-kubernetes-int-or-string`.
    pub int_or_string: bool,
    /// `x-kubernetes-preserve-unknown-fields`.
    pub preserve_unknown: bool,
    /// `x-kubernetes-embedded-resource`.
    pub embedded_resource: bool,
    pub list_type: ListType,
    pub map_type: MapType,
    pub patch_strategy: PatchStrategy,
    pub default: Option<Value>,
    /// Everything that only validates (bounds, patterns, formats, enum, required, allOf/anyOf/oneOf/not). `None` when there is none.
    pub validation: Option<Box<Validation>>,
    /// `x-kubernetes-validations` of this node.
    pub rules: Vec<Rule>,
    /// `x-kubernetes-validations` stand here or below, so CEL has something to do.
    pub has_rules: bool,
}

/// One of `x-kubernetes-validations`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    pub rule: String,
    pub message: String,
    pub message_expression: String,
    pub reason: Option<String>,
    pub field_path: String,
    pub optional_old_self: Option<bool>,
}

/// The value validations of one node.
#[derive(Clone, Debug, Default)]
pub struct Validation {
    pub required: Vec<String>,
    pub enumeration: Vec<Value>,
    pub format: Option<String>,
    pub pattern: Option<Pattern>,
    pub minimum: Option<(serde_json::Number, Exclusive)>,
    pub maximum: Option<(serde_json::Number, Exclusive)>,
    pub multiple_of: Option<serde_json::Number>,
    pub min_length: Option<u64>,
    pub max_length: Option<u64>,
    pub min_items: Option<u64>,
    pub max_items: Option<u64>,
    pub unique_items: bool,
    pub min_properties: Option<u64>,
    pub max_properties: Option<u64>,
    pub all_of: Vec<Schema>,
    pub any_of: Vec<Schema>,
    pub one_of: Vec<Schema>,
    pub not: Option<Box<Schema>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exclusive {
    Yes,
    No,
}
