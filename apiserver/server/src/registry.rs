//! The registry of resources: what exists, under which names, and how its objects look.
//!
//! An entry is immutable once registered; a changed CRD replaces its entry. Readers take an `Arc` of the whole registry, so
//! a request sees one state of it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use pullpiri_apply::error::{FieldError, aggregate};
use pullpiri_apply::metadata::NameFormat;
use pullpiri_apply::schema::{CompiledSchema, Schema};
use serde_json::Value;
use tokio::sync::watch;

use crate::reviews::Review;
use crate::status::{GroupResource, Status};

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

/// The schema of a resource: published form on demand, structural form and CEL programs compiled once, at first use.
pub struct SchemaCell {
    /// Yields the published OpenAPI v3 schema. Called rarely (compilation, `/openapi`), so that it isn't kept in memory parsed.
    published: Box<dyn Fn() -> Arc<Value> + Send + Sync>,
    compiled: OnceLock<Result<CompiledSchema, String>>,
}

impl fmt::Debug for SchemaCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SchemaCell").field("compiled", &self.compiled.get().is_some()).finish_non_exhaustive()
    }
}

impl SchemaCell {
    #[must_use]
    pub fn new(published: impl Fn() -> Arc<Value> + Send + Sync + 'static) -> Self {
        Self { published: Box::new(published), compiled: OnceLock::new() }
    }

    /// The schema as published (`openAPIV3Schema`), for `/openapi`. Not cached here.
    #[must_use]
    pub fn published(&self) -> Arc<Value> {
        (self.published)()
    }

    /// What the schema does to objects; parsed at the first call, its CEL rules compiled at the first object that they look at.
    ///
    /// # Errors
    /// 500 when the schema can't be parsed; a CRD with such a schema isn't accepted in the first place.
    pub(crate) fn compiled(&self, of: &Resource) -> Result<&CompiledSchema, Status> {
        let compiled = self.compiled.get_or_init(|| {
            Schema::parse(&self.published()).map(CompiledSchema::new).map_err(|errors| aggregate(&errors))
        });
        compiled
            .as_ref()
            .map_err(|why| Status::internal(format_args!("the schema of {} is broken: {why}", of.group_resource())))
    }
}

/// What a kind does beyond the generic rules. Every hook has the generic behaviour as its default.
pub trait Strategy: fmt::Debug + Send + Sync {
    /// After decoding and defaulting, before fields get their owners (Secret: `stringData` becomes `data`; Namespace: its label).
    fn normalize(&self, _object: &mut Value) {}

    /// Before an object is created, after decoding and defaulting (Secret: `stringData` becomes `data`; Namespace: `spec.finalizers`).
    fn prepare_for_create(&self, _object: &mut Value) {}

    /// Where times with six digits of a second stand.
    fn micro_times(&self) -> &'static [&'static str] {
        &[]
    }

    /// Before an object is replaced (by update, patch or apply) through the main resource.
    fn prepare_for_update(&self, _object: &mut Value, _old: &Value) {}

    /// Rules beyond metadata and schema. `old` is set on updates.
    fn validate(&self, _object: &Value, _old: Option<&Value>) -> Vec<FieldError> {
        Vec::new()
    }

    /// What the generic rules ask of names.
    fn name_format(&self) -> NameFormat {
        NameFormat::Subdomain
    }

    /// `Warning` headers for an accepted object.
    fn warnings(&self, _object: &Value) -> Vec<String> {
        Vec::new()
    }

    /// Whether something other than `metadata.finalizers` holds a deleted object (Namespace: `spec.finalizers`).
    fn holds(&self, _object: &Value) -> bool {
        false
    }

    /// A deletion begins and finalizers hold the object (Namespace: `status.phase: Terminating`).
    fn deletion_begins(&self, _object: &mut Value) {}

    /// The object's `/finalize` subresource (Namespace): takes over `spec.finalizers` from `object` and nothing else.
    fn has_finalize(&self) -> bool {
        false
    }

    /// Field selector values beyond metadata.name and metadata.namespace, by label (`involvedObject.name`). `None`: not selectable.
    fn selectable_fields(&self) -> &'static [&'static str] {
        &[]
    }

    /// The value behind one of [`Self::selectable_fields`], empty when there is none.
    fn selectable_value<'a>(&self, object: &'a Value, label: &str) -> &'a str {
        label.split('.').try_fold(object, |at, key| at.get(key)).and_then(Value::as_str).unwrap_or_default()
    }

    /// Set when this kind is another view of a kind that is stored (Event of events.k8s.io: of core Event): the group and plural
    /// under whose keys its objects are kept. Both directions of the conversion include `apiVersion`.
    fn view_of(&self) -> Option<(&'static str, &'static str)> {
        None
    }

    /// Turns an object as this kind shows it into its stored form. Called only when [`Self::view_of`] is set.
    fn to_stored(&self, _object: &mut Value) {}

    /// Turns a stored object into the form that this kind shows.
    fn to_shown(&self, _object: &mut Value) {}

    /// Set for a kind that is a question: its objects are answered, not stored.
    fn review(&self) -> Option<Review> {
        None
    }

    /// The object's `/token` subresource (ServiceAccount).
    fn has_token(&self) -> bool {
        false
    }

    /// Whether a deletion answers with the object that is gone rather than with a Status.
    fn returns_deleted(&self) -> bool {
        false
    }

    /// Whether a plain delete without options orphans or deletes in the background; the latter for all but old kinds.
    fn deletes_in_background(&self) -> bool {
        true
    }
}

/// The strategy of virtual resources: their names come from elsewhere (a signal's topic), so anything that fits in a path will do.
#[derive(Debug, Clone, Copy)]
pub struct Virtual;

impl Strategy for Virtual {
    fn name_format(&self) -> NameFormat {
        NameFormat::PathSegment
    }
}

/// The strategy of custom resources: nothing beyond the generic rules.
#[derive(Debug)]
pub struct Custom;

impl Strategy for Custom {}

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
    /// Its CRD is being deleted: objects can be read and deleted, no longer created or changed.
    pub terminating: bool,
    /// `/status` exists: writes to the main resource ignore `.status` and the other way round.
    pub has_status: bool,
    pub scale: Option<Scale>,
    pub columns: Vec<Column>,
    /// JSON paths (`.spec.nodeName`) that field selectors may name, beside metadata.name and metadata.namespace.
    pub selectable_fields: Vec<String>,
    /// Parsed and compiled at first use.
    pub schema: SchemaCell,
    /// Whether `metadata.generation` counts changes of everything but metadata and status (custom resources do).
    pub counts_generation: bool,
    pub upsert_on_update: UpsertOnUpdate,
    /// Objects stored at or before this revision were written under an older schema (or another version): they are pruned and
    /// defaulted again when read. The CRD's own revision; 0 for kinds whose schema never changes (built-in, virtual).
    pub since: u64,
    /// Set by `spec.versions[].deprecated`; sent as a `Warning` header.
    pub deprecation_warning: Option<String>,
    /// Whether this version is the one that is stored. Every object of a group and plural is kept once, in this version's form.
    pub storage: bool,
    /// What only this kind does (built-in kinds); custom resources have [`Custom`].
    pub strategy: &'static dyn Strategy,
}

impl Resource {
    /// `v1` or `pullpiri.io/v1alpha1`.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `scenarios.pullpiri.io`, as messages name it.
    #[must_use]
    pub fn group_resource(&self) -> GroupResource<'_> {
        GroupResource { group: &self.group, plural: &self.plural }
    }

    #[must_use]
    pub fn is_namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }
}

/// Every resource at one moment. Immutable.
#[derive(Debug, Default)]
pub struct Resources {
    /// Grows with every change of the registry: the key of caches made from a snapshot (discovery, OpenAPI).
    pub generation: u64,
    /// By (group, plural, version).
    by_name: BTreeMap<(String, String, String), Arc<Resource>>,
}

impl Resources {
    /// In order of group, plural and version.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.by_name.values()
    }

    #[must_use]
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.by_name.get(&(group.to_owned(), plural.to_owned(), version.to_owned()))
    }

    /// The version of a resource that is stored.
    #[must_use]
    pub fn stored(&self, group: &str, plural: &str) -> Option<&Arc<Resource>> {
        let from = (group.to_owned(), plural.to_owned(), String::new());
        self.by_name
            .range(from..)
            .take_while(|((g, p, _), _)| g == group && p == plural)
            .map(|(_, resource)| resource)
            .find(|resource| resource.storage)
    }

    /// By kind, as owner references name their owners.
    #[must_use]
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.by_name.values().find(|r| r.group == group && r.version == version && r.kind == kind)
    }

    #[must_use]
    pub fn has_group_version(&self, group: &str, version: &str) -> bool {
        self.by_name.values().any(|r| r.group == group && r.version == version)
    }
}

/// The registry: a snapshot that is replaced whole.
#[derive(Debug)]
pub struct Registry {
    current: watch::Sender<Arc<Resources>>,
}

impl Default for Registry {
    fn default() -> Self {
        Self { current: watch::Sender::new(Arc::default()) }
    }
}

impl Registry {
    #[must_use]
    pub fn new(resources: impl IntoIterator<Item = Resource>) -> Self {
        let registry = Self::default();
        registry.change(|by_name| {
            for resource in resources {
                insert(by_name, Arc::new(resource));
            }
        });
        registry
    }

    #[must_use]
    pub fn snapshot(&self) -> Arc<Resources> {
        Arc::clone(&self.current.borrow())
    }

    /// Sees every later snapshot (or the latest of several).
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Resources>> {
        self.current.subscribe()
    }

    /// Puts these entries in the place of every entry of `origin`; an empty list removes them.
    pub fn replace(&self, origin: &Origin, resources: Vec<Resource>) {
        self.change(|by_name| {
            by_name.retain(|_, resource| resource.origin != *origin);
            for resource in resources {
                insert(by_name, Arc::new(resource));
            }
        });
    }

    /// Adds entries beside those that are there (start-up).
    pub fn extend(&self, resources: Vec<Resource>) {
        self.change(|by_name| {
            for resource in resources {
                insert(by_name, Arc::new(resource));
            }
        });
    }

    fn change(&self, edit: impl FnOnce(&mut BTreeMap<(String, String, String), Arc<Resource>>)) {
        self.current.send_modify(|current| {
            let mut by_name = current.by_name.clone();
            edit(&mut by_name);
            *current = Arc::new(Resources { generation: current.generation + 1, by_name });
        });
    }
}

fn insert(by_name: &mut BTreeMap<(String, String, String), Arc<Resource>>, resource: Arc<Resource>) {
    by_name.insert((resource.group.clone(), resource.plural.clone(), resource.version.clone()), resource);
}
