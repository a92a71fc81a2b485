//! The server's own access to objects, behind [`Objects`]: the same verbs, as user `system:apiserver`.

use std::fmt;
use std::sync::{Arc, OnceLock};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt as _};
use jiff::Timestamp;
use pullpiri_store::{Event, ReadError, Revision, Store, WatchItem};
use serde_json::Value;

use super::object::Object;
use super::options::{ListOptions, WriteOptions};
use super::selection::Selection;
use super::update::Change as Update;
use super::{Rest, Warnings, Write, key, model, store_errors};
use crate::auth::UserInfo;
use crate::objects::{Backend, Change, ChangeItem, ChangeKind, DeleteOptions, Edit, Objects, Subresource};
use crate::registry::{Registry, Resource};
use crate::status::Status;

/// The field manager of the server's own writes.
const FIELD_MANAGER: &str = "pullpiri-apiserver";

struct Internal {
    rest: Arc<Rest>,
    user: UserInfo,
}

impl fmt::Debug for Internal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Internal").finish_non_exhaustive()
    }
}

/// A handle for the server's controllers.
pub(crate) fn objects(rest: &Arc<Rest>) -> Objects {
    Objects { backend: Arc::new(Internal { rest: Arc::clone(rest), user: UserInfo::apiserver() }) }
}

impl Internal {
    fn write<'a>(
        &'a self,
        resource: &'a Arc<Resource>,
        namespace: Option<&'a str>,
        subresource: Subresource,
        warnings: &'a Warnings,
    ) -> Write<'a> {
        let options = WriteOptions { field_manager: FIELD_MANAGER.to_owned(), ..WriteOptions::default() };
        Write { resource, namespace, subresource, user: &self.user, options, warnings }
    }
}

impl Backend for Internal {
    fn registry(&self) -> &Arc<Registry> {
        &self.rest.registry
    }

    fn now(&self) -> Timestamp {
        self.rest.now()
    }

    fn get<'a>(
        &'a self,
        resource: &'a Arc<Resource>,
        namespace: Option<&'a str>,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Value, Status>> {
        async move { self.rest.get(resource, namespace, name, "").await?.into_value() }.boxed()
    }

    fn list<'a>(
        &'a self,
        resource: &'a Arc<Resource>,
        namespace: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(Vec<Value>, Revision), Status>> {
        async move {
            let everything = Selection::everything();
            let options = ListOptions::default();
            let mut listing = self.rest.list(resource, namespace, &everything, &options).await?;
            let mut values = Vec::with_capacity(listing.items.len());
            loop {
                for object in std::mem::take(&mut listing.items) {
                    values.push(object.into_value()?);
                }
                let Some(cursor) = listing.rest.take() else { return Ok((values, Revision(listing.revision))) };
                (listing.items, listing.rest) = self.rest.next_page(resource, namespace, &everything, cursor).await?;
            }
        }
        .boxed()
    }

    fn create<'a>(
        &'a self,
        resource: &'a Arc<Resource>,
        namespace: Option<&'a str>,
        mut object: Value,
    ) -> BoxFuture<'a, Result<Value, Status>> {
        async move {
            let warnings = Warnings::default();
            let write = self.write(resource, namespace, Subresource::None, &warnings);
            super::create::check_type(resource, &mut object)?;
            super::metadata::ensure_namespace(super::metadata::of(&mut object)?, namespace)?;
            model::coerce(resource, &mut object).map_err(|unfit| unfit.of_body(resource))?;
            resource.strategy.normalize(&mut object);
            self.rest.create(&write, object).await?.into_value()
        }
        .boxed()
    }

    fn modify<'a>(
        &'a self,
        resource: &'a Arc<Resource>,
        subresource: Subresource,
        namespace: Option<&'a str>,
        name: &'a str,
        edit: Edit<'a>,
    ) -> BoxFuture<'a, Result<Value, Status>> {
        async move {
            let warnings = Warnings::default();
            let write = self.write(resource, namespace, subresource, &warnings);
            self.rest.update(&write, name, &Update::Edit(edit)).await?.object.into_value()
        }
        .boxed()
    }

    fn delete<'a>(
        &'a self,
        resource: &'a Arc<Resource>,
        namespace: Option<&'a str>,
        name: &'a str,
        options: DeleteOptions,
    ) -> BoxFuture<'a, Result<(), Status>> {
        async move {
            let warnings = Warnings::default();
            let write = self.write(resource, namespace, Subresource::None, &warnings);
            self.rest.delete(&write, name, &options).await.map(drop)
        }
        .boxed()
    }

    fn changes(
        &self,
        from: Option<Revision>,
    ) -> BoxFuture<'_, Result<(BoxStream<'static, ChangeItem>, Revision), Status>> {
        async move {
            let store: &Arc<dyn Store> = &self.rest.durable;
            let from = from.unwrap_or_else(|| store.revision());
            let events = store.watch("", from).await.map_err(|error| match error {
                ReadError::Compacted { requested, oldest } => {
                    Status::expired(format!("too old resource version: {requested} ({oldest})"))
                }
                other => store_errors::read(&other),
            })?;
            let changes = events.filter_map(|item| async move {
                match item {
                    Ok(WatchItem::Event(event)) => change(&event).map(ChangeItem::Change),
                    Ok(WatchItem::Progress(_)) => None,
                    Err(error) => {
                        tracing::debug!(%error, "the stream of changes has a gap");
                        Some(ChangeItem::Resync)
                    }
                }
            });
            Ok((changes.boxed(), from))
        }
        .boxed()
    }
}

/// An event as a change. The object is parsed when somebody looks at it.
fn change(event: &Arc<Event>) -> Option<Change> {
    let parts = key::parse(&event.key)?;
    let kind = match (&event.current, &event.previous) {
        (Some(_), None) => ChangeKind::Added,
        (Some(_), Some(_)) => ChangeKind::Modified,
        (None, _) => ChangeKind::Deleted,
    };
    Some(Change {
        kind,
        group: parts.group.into(),
        plural: parts.plural.into(),
        namespace: parts.namespace.map(Into::into),
        name: parts.name.into(),
        revision: event.revision,
        event: Arc::clone(event),
        parsed: Arc::new(OnceLock::new()),
    })
}

impl Change {
    /// The object after the change; for a deletion, as it was last. Parsed at the first call.
    ///
    /// # Errors
    /// What is stored isn't JSON.
    pub fn object(&self) -> Result<&Value, Status> {
        if let Some(value) = self.parsed.get() {
            return Ok(value);
        }
        let version = self.event.current.as_ref().or(self.event.previous.as_ref());
        let version = version.ok_or_else(|| Status::internal("an event without an object"))?;
        let value = Object::at(version, self.revision.0).into_value()?;
        Ok(self.parsed.get_or_init(|| value))
    }
}
