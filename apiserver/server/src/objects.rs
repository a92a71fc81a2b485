//! The server's own access to objects: what its controllers (garbage collection, namespace deletion, CRD life cycle) read
//! and write through. The same verbs as over HTTP, as user `system:apiserver`, without encoding.
//!
//! Objects are JSON with `metadata.resourceVersion` set. Methods answer with the [`Status`] that a client would get.

use std::fmt;
use std::sync::{Arc, OnceLock};

use futures::stream::BoxStream;
use pullpiri_store::{Event, Revision};
use serde_json::Value;

use crate::registry::{Registry, Resource};
use crate::status::Status;

/// Which part of an object a write is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subresource {
    None,
    Status,
    Scale,
    Finalize,
    /// Of a ServiceAccount.
    Token,
}

/// `propagationPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Orphan,
    Background,
    Foreground,
}

/// What a deletion asks for.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub propagation: Option<Propagation>,
    /// `orphanDependents: false` was given, which turns the answer for an object that is held by finalizers into 202.
    pub accepted_when_pending: bool,
    pub grace_period_seconds: Option<i64>,
    pub dry_run: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    Added,
    Modified,
    Deleted,
}

/// One write to the main store, of any resource.
#[derive(Clone, Debug)]
pub struct Change {
    pub kind: ChangeKind,
    pub group: Arc<str>,
    pub plural: Arc<str>,
    pub namespace: Option<Arc<str>>,
    pub name: Arc<str>,
    pub revision: Revision,
    pub(crate) event: Arc<Event>,
    pub(crate) parsed: Arc<OnceLock<Value>>,
}

impl Change {
    /// Whether the stored JSON contains this text: a quick test before [`Self::object`] parses it.
    #[must_use]
    pub fn mentions(&self, text: &str) -> bool {
        let stored = self.event.current.as_ref().or(self.event.previous.as_ref());
        let needle = text.as_bytes();
        stored.is_some_and(|kv| kv.value.windows(needle.len().max(1)).any(|window| window == needle))
    }
}

/// What a stream of changes yields.
#[derive(Clone, Debug)]
pub enum ChangeItem {
    Change(Change),
    /// The stream can't go on without a gap (compacted or too slow): list again and watch from there.
    Resync,
}

/// An edit of an object: returns whether it changed anything.
pub type Edit<'a> = &'a (dyn Fn(&mut Value) -> bool + Send + Sync);

/// The verbs. Implemented by the server; tests of the controllers use it over a memory store.
#[derive(Clone)]
pub struct Objects {
    pub(crate) backend: Arc<dyn Backend>,
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Objects").finish_non_exhaustive()
    }
}

/// The rest layer as the controllers see it.
pub trait Backend: Send + Sync + 'static {
    fn registry(&self) -> &Arc<Registry>;
    fn now(&self) -> jiff::Timestamp;
    fn get<'a>(
        &'a self,
        resource: &'a Arc<Resource>,
        namespace: Option<&'a str>,
        name: &'a str,
    ) -> futures::future::BoxFuture<'a, Result<Value, Status>>;
    fn list<'a>(
        &'a self,
        resource: &'a Arc<Resource>,
        namespace: Option<&'a str>,
    ) -> futures::future::BoxFuture<'a, Result<(Vec<Value>, Revision), Status>>;
    fn create<'a>(
        &'a self,
        resource: &'a Arc<Resource>,
        namespace: Option<&'a str>,
        object: Value,
    ) -> futures::future::BoxFuture<'a, Result<Value, Status>>;
    fn modify<'a>(
        &'a self,
        resource: &'a Arc<Resource>,
        subresource: Subresource,
        namespace: Option<&'a str>,
        name: &'a str,
        edit: Edit<'a>,
    ) -> futures::future::BoxFuture<'a, Result<Value, Status>>;
    fn delete<'a>(
        &'a self,
        resource: &'a Arc<Resource>,
        namespace: Option<&'a str>,
        name: &'a str,
        options: DeleteOptions,
    ) -> futures::future::BoxFuture<'a, Result<(), Status>>;
    fn changes(
        &self,
        from: Option<Revision>,
    ) -> futures::future::BoxFuture<'_, Result<(BoxStream<'static, ChangeItem>, Revision), Status>>;
}

impl Objects {
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        self.backend.registry()
    }

    /// The injected clock.
    #[must_use]
    pub fn now(&self) -> jiff::Timestamp {
        self.backend.now()
    }

    /// # Errors
    /// NotFound, or what the store answers.
    pub async fn get(&self, resource: &Arc<Resource>, namespace: Option<&str>, name: &str) -> Result<Value, Status> {
        self.backend.get(resource, namespace, name).await
    }

    /// All objects of a resource (in one namespace, or everywhere) and the revision they are of.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn list(
        &self,
        resource: &Arc<Resource>,
        namespace: Option<&str>,
    ) -> Result<(Vec<Value>, Revision), Status> {
        self.backend.list(resource, namespace).await
    }

    /// # Errors
    /// As the create verb: AlreadyExists, Invalid, Forbidden …
    pub async fn create(
        &self,
        resource: &Arc<Resource>,
        namespace: Option<&str>,
        object: Value,
    ) -> Result<Value, Status> {
        self.backend.create(resource, namespace, object).await
    }

    /// Reads, edits and writes an object, again when someone else was faster. Nothing is written when `edit` returns false.
    /// [`Subresource::None`] may also edit `metadata.finalizers` and `metadata.ownerReferences`; when that leaves a deleted object
    /// without finalizers, the object goes.
    ///
    /// # Errors
    /// As the update verb.
    pub async fn modify(
        &self,
        resource: &Arc<Resource>,
        subresource: Subresource,
        namespace: Option<&str>,
        name: &str,
        edit: Edit<'_>,
    ) -> Result<Value, Status> {
        self.backend.modify(resource, subresource, namespace, name, edit).await
    }

    /// # Errors
    /// As the delete verb: NotFound, Conflict (preconditions) …
    pub async fn delete(
        &self,
        resource: &Arc<Resource>,
        namespace: Option<&str>,
        name: &str,
        options: DeleteOptions,
    ) -> Result<(), Status> {
        self.backend.delete(resource, namespace, name, options).await
    }

    /// Every write to the main store after `from` (`None`: from now on), of all resources, in order. Virtual resources are not in it.
    /// Also returns the revision that the stream starts after.
    ///
    /// # Errors
    /// Expired when `from` was compacted.
    pub async fn changes(&self, from: Option<Revision>) -> Result<(BoxStream<'static, ChangeItem>, Revision), Status> {
        self.backend.changes(from).await
    }
}
