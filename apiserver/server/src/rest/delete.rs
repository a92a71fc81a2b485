//! Delete and deletecollection: at once, or marked and left to whoever holds a finalizer.

use std::sync::Arc;

use pullpiri_store::{Change, Expect, KeyValue, Revision, Write as StoreWrite, WriteError};
use serde_json::Value;

use super::create::PutError;
use super::object::{Object, take_revision};
use super::options::ListOptions;
use super::selection::Selection;
use super::{Rest, Write, key, metadata, store_errors};
use crate::admission::Operation;
use crate::clock::rfc3339;
use crate::objects::{DeleteOptions, Propagation};
use crate::registry::{Origin, Resource};
use crate::status::{GroupResource, Status};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// How often a deletion may be overtaken by other writes.
const ATTEMPTS: u32 = 64;

/// What a deletion left.
#[derive(Debug)]
pub(crate) enum Deleted {
    /// The object is gone; as it was last.
    Gone(Object),
    /// The object is marked, finalizers hold it.
    Pending(Object),
}

impl Rest {
    pub(crate) async fn delete(
        &self,
        write: &Write<'_>,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, Status> {
        let resource = write.resource;
        let key = key::of(resource, write.namespace, name);
        for _ in 0..ATTEMPTS {
            let (found, _) = self.store(resource).get(&key).await.map_err(|error| store_errors::read(&error))?;
            let found = found.ok_or_else(|| Status::not_found(resource.group_resource(), name))?;
            match self.delete_version(write, name, &key, &found, options).await {
                Ok(deleted) => return Ok(deleted),
                Err(PutError::Mismatch(_)) => {}
                Err(PutError::Status(status)) => return Err(status),
            }
        }
        Err(Status::modified(resource.group_resource(), name))
    }

    async fn delete_version(
        &self,
        write: &Write<'_>,
        name: &str,
        key: &Arc<str>,
        found: &KeyValue,
        options: &DeleteOptions,
    ) -> Result<Deleted, PutError> {
        let resource = write.resource;
        let object = self.show_kv(resource, found)?;
        let revision = object.revision;
        let old = object.value()?;
        check_preconditions(resource, name, old, revision, options)?;
        self.admission.admit(&write.admission(Operation::Delete, name), None, Some(old)).await?;
        let finalizers = finalizers(resource, old, options);
        let held = resource.strategy.holds(old);
        if finalizers.is_empty() && !held {
            let expect = Expect::At(found.modified);
            if write.options.dry_run {
                return Ok(Deleted::Gone(object));
            }
            let removal = StoreWrite { key: Arc::clone(key), expect, change: Change::Delete };
            let removed = self.store(resource).write(removal).await.map_err(|error| match error {
                // Gone already: that is what was asked for.
                WriteError::Mismatch { current: None, .. } => {
                    PutError::Status(Status::not_found(resource.group_resource(), name))
                }
                other => PutError::from(other),
            })?;
            self.wrote(resource, removed.modified.0);
            return Ok(Deleted::Gone(object));
        }
        let mut new = old.clone();
        self.mark(resource, &mut new, finalizers, held)?;
        if new == *old {
            return Ok(Deleted::Pending(object));
        }
        take_revision(&mut new);
        Ok(Deleted::Pending(self.put(write, key, Expect::At(Revision(revision)), new).await?))
    }

    /// Makes an object one that is being deleted.
    fn mark(&self, resource: &Resource, object: &mut Value, finalizers: Vec<String>, held: bool) -> Result<(), Status> {
        let begins = !metadata::is_deleting(object);
        let metadata = metadata::of(object)?;
        if finalizers.is_empty() {
            metadata.remove("finalizers");
        } else {
            metadata.insert("finalizers".to_owned(), finalizers.into());
        }
        if begins {
            metadata.insert("deletionTimestamp".to_owned(), rfc3339(self.now()).into());
            let generation = metadata.get("generation").and_then(Value::as_i64).unwrap_or(0);
            if generation > 0 {
                metadata.insert("generation".to_owned(), generation.saturating_add(1).into());
            }
        }
        if !held {
            metadata.insert("deletionGracePeriodSeconds".to_owned(), 0.into());
        }
        if begins {
            resource.strategy.deletion_begins(object);
        }
        Ok(())
    }

    /// Deletes everything that matches; returns what matched.
    pub(crate) async fn delete_collection(
        &self,
        write: &Write<'_>,
        selection: &Selection,
        list: &ListOptions,
        options: &DeleteOptions,
    ) -> Result<(Vec<Object>, u64), Status> {
        let (resource, namespace) = (write.resource, write.namespace);
        let mut listing = self.list(resource, namespace, selection, list).await?;
        let mut matched = Vec::new();
        loop {
            for object in std::mem::take(&mut listing.items) {
                let (name, home) = {
                    let value = object.value()?;
                    (metadata::text(value, "name").to_owned(), metadata::text(value, "namespace").to_owned())
                };
                // A collection across namespaces is deleted object by object, each in its own.
                let each = Write {
                    resource,
                    namespace: (!home.is_empty()).then_some(home.as_str()),
                    subresource: write.subresource,
                    user: write.user,
                    options: write.options.clone(),
                    warnings: write.warnings,
                };
                match self.delete(&each, &name, options).await {
                    Ok(_) => {}
                    Err(status) if status.code() == http::StatusCode::NOT_FOUND => {}
                    Err(status) => return Err(status),
                }
                matched.push(object);
            }
            match listing.rest.take() {
                None => return Ok((matched, listing.revision)),
                Some(cursor) => {
                    let (items, rest) = self.next_page(resource, namespace, selection, cursor).await?;
                    listing.items = items;
                    listing.rest = rest;
                }
            }
        }
    }
}

fn check_preconditions(
    resource: &Resource,
    name: &str,
    object: &Value,
    revision: u64,
    options: &DeleteOptions,
) -> Result<(), Status> {
    let of = GroupResource { group: &resource.group, plural: &resource.kind };
    let uid = metadata::text(object, "uid");
    if let Some(wanted) = options.uid.as_deref().filter(|wanted| *wanted != uid) {
        let why = format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). The object might have been deleted \
             and then recreated"
        );
        return Err(Status::conflict(of, name, &why));
    }
    let version = revision.to_string();
    if let Some(wanted) = options.resource_version.as_deref().filter(|wanted| *wanted != version) {
        let why = format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({version}). The \
             object might have been modified"
        );
        return Err(Status::conflict(of, name, &why));
    }
    Ok(())
}

/// The finalizers that a deletion leaves: the object's own, and the garbage collector's as the options ask for it.
fn finalizers(resource: &Resource, object: &Value, options: &DeleteOptions) -> Vec<String> {
    let present = metadata::finalizers(object);
    if resource.origin == Origin::Virtual {
        return present.into_iter().map(str::to_owned).collect();
    }
    let last = present.iter().find(|name| matches!(**name, ORPHAN | FOREGROUND));
    let propagation = options.propagation.unwrap_or(match last {
        Some(&ORPHAN) => Propagation::Orphan,
        Some(_) => Propagation::Foreground,
        None if resource.strategy.deletes_in_background() => Propagation::Background,
        None => Propagation::Orphan,
    });
    let own = present.iter().filter(|name| !matches!(**name, ORPHAN | FOREGROUND));
    let mut wanted: Vec<String> = own.map(|name| (*name).to_owned()).collect();
    match propagation {
        Propagation::Orphan => wanted.push(ORPHAN.to_owned()),
        Propagation::Foreground => wanted.push(FOREGROUND.to_owned()),
        Propagation::Background => {}
    }
    // The same ones in another order are no change.
    if wanted.len() == present.len() && present.iter().all(|name| wanted.iter().any(|other| other == name)) {
        return present.into_iter().map(str::to_owned).collect();
    }
    wanted
}
