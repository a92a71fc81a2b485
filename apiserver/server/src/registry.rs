//! The registry of resources: what exists, under which names, and how its objects look.
//!
//! An entry is immutable once registered; a changed CRD replaces its entry. Readers take an `Arc` of the whole registry, so
//! a request sees one state of it.

use std::sync::Arc;

use pullpiri_apply::schema::Schema;
use serde_json::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Namespaced,
    Cluster,
}

/// Where an entry comes from, which decides who may change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    BuiltIn,
    /// The UID of its CustomResourceDefinition.
    Crd(String),
    /// Registered by the embedding program; kept in memory, gone with the process.
    Virtual,
}

/// What an update may do to an object that isn't there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpsertOnUpdate {
    Create,
    Refuse,
}

/// A printer column (`additionalPrinterColumns`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    /// integer, number, string, boolean or date.
    pub kind: String,
    pub format: String,
    pub description: String,
    /// 0 is shown in the standard view, more only by `-o wide`.
    pub priority: i32,
    /// `.spec.nodeName`
    pub json_path: String,
}

/// `subresources.scale` of a CRD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scale {
    pub spec_replicas_path: String,
    pub status_replicas_path: String,
    pub label_selector_path: Option<String>,
}

/// One version of one resource.
#[derive(Debug)]
pub struct Resource {
    /// Empty for the core group.
    pub group: String,
    pub version: String,
    pub kind: String,
    pub list_kind: String,
    pub plural: String,
    pub singular: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub scope: Scope,
    pub origin: Origin,
    /// `/status` exists: writes to the main resource ignore `.status` and the other way round.
    pub has_status: bool,
    pub scale: Option<Scale>,
    pub columns: Vec<Column>,
    /// JSON paths (`.spec.nodeName`) that field selectors may name, beside metadata.name and metadata.namespace.
    pub selectable_fields: Vec<String>,
    pub schema: Arc<Schema>,
    /// The same schema as published (OpenAPI v3 form, without `x-kubernetes-validations`' compiled part), for `/openapi`.
    pub published_schema: Arc<Value>,
    /// Whether `metadata.generation` counts changes of everything but metadata and status (custom resources do).
    pub counts_generation: bool,
    pub upsert_on_update: UpsertOnUpdate,
    /// Set by `spec.versions[].deprecated`; sent as a `Warning` header.
    pub deprecation_warning: Option<String>,
}

impl Resource {
    /// `v1` or `pullpiri.io/v1alpha1`.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
}
