//! What a write that isn't an apply does to `metadata.managedFields`.
//!
//! The fields that the write added or changed move to its manager, fields that are gone are dropped from every manager, managers
//! without fields vanish. Nothing here changes anything else of an object.
//! Source: apimachinery `managedfields`, structured-merge-diff v6 `merge`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use thiserror::Error;

use super::{
    Write,
    compare::{Comparison, compare},
    conflict::Conflicts,
    entry::{self, EntryError, ManagedFieldsEntry, Manager, Managers, Operation, Owned, Time},
    metadata::unowned,
    set::FieldSet,
    types::TypeRef,
    validate::{Duplicates, Mismatches, validate},
};

/// More updaters than this are merged, the oldest first, into [`ANCIENT`].
const MAX_UPDATE_MANAGERS: usize = 10;
const ANCIENT: &str = "ancient-changes";
/// Owns what was there before an object without owners was first applied to.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Why ownership couldn't be updated. The write itself may go on: the object keeps the managed fields that it had.
#[derive(Debug, Error)]
pub enum UpdateError {
    #[error("updating managed fields: the object is not a JSON object")]
    NotAnObject,
    #[error("updating managed fields: {0}")]
    Time(#[source] EntryError),
    #[error("failed to convert {which} object ({name}) to smd typed: {reason}")]
    Schema { which: &'static str, name: String, reason: String },
}

/// Records an update, a patch that isn't an apply, or a creation (`live` is `None`, or the kind's empty object without a uid) in
/// `new.metadata.managedFields`.
///
/// An explicitly empty list (`[]` or `[{}]`) in `new` gives up all ownership. Entries that can't be read, and entries that come
/// through a subresource, are ignored in favour of the live object's.
///
/// # Errors
///
/// An object doesn't fit the schema; `new` then has the managed fields of `live`.
pub fn update(live: Option<&Value>, new: &mut Value, write: &Write<'_>) -> Result<(), UpdateError> {
    let requested = if write.manager.subresource.is_empty() { entry::entries(new) } else { Ok(Vec::new()) };
    let reset = write.manager.subresource.is_empty() && is_reset(entry::raw(new), requested.as_deref().ok());
    let Value::Object(fields) = &mut *new else { return Err(UpdateError::NotAnObject) };
    entry::store_raw(fields, None);

    let mut managers = if reset {
        Managers::default()
    } else {
        let requested = requested.and_then(Managers::decode).unwrap_or_default();
        if requested.0.is_empty() {
            live.and_then(|live| Managers::of(live).ok()).unwrap_or_default()
        } else {
            requested
        }
    };
    let exists = live.and_then(|live| live.get("metadata")?.get("uid")?.as_str()).is_some_and(|uid| !uid.is_empty());
    if managers.0.is_empty() && exists {
        // Nobody tracked this object so far: it stays that way until it is applied.
        return Ok(());
    }
    let recorded = record(live, new, &mut managers, &write.manager.name, write);
    let Value::Object(fields) = new else { return Err(UpdateError::NotAnObject) };
    match recorded {
        Ok(()) => {
            cap(&mut managers);
            managers.store(fields);
            Ok(())
        }
        Err(error) => {
            entry::store_raw(fields, live.and_then(entry::raw).filter(|raw| !raw.is_null()).cloned());
            Err(error)
        }
    }
}

fn is_reset(raw: Option<&Value>, entries: Option<&[ManagedFieldsEntry]>) -> bool {
    match (raw, entries) {
        (Some(Value::Array(_)), Some([])) => true,
        (_, Some([one])) => *one == ManagedFieldsEntry::default(),
        _ => false,
    }
}

/// Gives the manager `name` what changed from `live` to `new`.
pub(crate) fn record(
    live: Option<&Value>,
    new: &Value,
    managers: &mut Managers,
    name: &str,
    write: &Write<'_>,
) -> Result<(), UpdateError> {
    let ty = TypeRef::root(write.schema);
    let nothing = Value::Object(Map::new());
    let live = live.unwrap_or(&nothing);
    let check = |which, object: &Value| {
        validate(ty, object, Duplicates::Allowed).map_err(|reason: Mismatches| UpdateError::Schema {
            which,
            name: described(object, write),
            reason: reason.to_string(),
        })
    };
    check("new", new)?;
    check("live", live)?;
    let time = Time::parse(write.time).map_err(UpdateError::Time)?;

    for owned in managers.0.values_mut() {
        owned.set.reconcile(ty);
    }
    let mut changes = compare(ty, live, new);
    changes.exclude(write.reset);
    // Forced, so there are no conflicts to report.
    let _ = take_over(managers, None, &changes, Force::Yes);
    let mut set = changes.modified.union(changes.added);
    set.subtract_recursively(write.reset);
    set.subtract(unowned());
    if !set.is_empty() {
        let manager = Manager { name: name.to_owned(), ..write.manager.clone() }.identity(Operation::Update);
        let before = managers.0.remove(&manager).map(|owned| owned.set).unwrap_or_default();
        let owned = Owned { set: set.union(before), api_version: write.manager.api_version.clone(), time: Some(time) };
        managers.0.insert(manager, owned);
    }
    Ok(())
}

/// Makes what exists in a live object without owners the property of [`BEFORE_FIRST_APPLY`].
pub(crate) fn record_before_first_apply(
    live: &Value,
    managers: &mut Managers,
    write: &Write<'_>,
) -> Result<(), UpdateError> {
    record(None, live, managers, BEFORE_FIRST_APPLY, write)?;
    cap(managers);
    Ok(())
}

/// Whether fields are taken from other managers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// They are, and the others lose them.
    Yes,
    /// Conflicts are reported.
    No,
}

/// Takes what changed from all managers but one, and what is gone from all of them.
pub(crate) fn take_over(
    managers: &mut Managers,
    applier: Option<&Manager>,
    changes: &Comparison,
    force: Force,
) -> Result<(), Conflicts> {
    let conflicts: BTreeMap<Manager, FieldSet> = managers
        .0
        .iter()
        .filter(|(manager, _)| applier != Some(*manager))
        .map(|(manager, owned)| {
            let taken = owned.set.intersection(&changes.modified).union(owned.set.intersection(&changes.added));
            (manager.clone(), taken)
        })
        .filter(|(_, taken)| !taken.is_empty())
        .collect();
    if force == Force::No && !conflicts.is_empty() {
        return Err(Conflicts::of(conflicts));
    }
    for (manager, owned) in &mut managers.0 {
        if applier == Some(manager) {
            continue;
        }
        if let Some(taken) = conflicts.get(manager) {
            owned.set.subtract(taken);
        }
        owned.set.subtract(&changes.removed);
    }
    managers.0.retain(|_, owned| !owned.set.is_empty());
    Ok(())
}

/// Merges the oldest updaters of each version until no more than [`MAX_UPDATE_MANAGERS`] are left.
fn cap(managers: &mut Managers) {
    let mut updaters: Vec<Manager> =
        managers.0.keys().filter(|manager| manager.operation == Operation::Update).cloned().collect();
    let mut count = updaters.len();
    if count <= MAX_UPDATE_MANAGERS {
        return;
    }
    updaters.sort_by_cached_key(|manager| (managers.0.get(manager).map_or(0, Owned::seconds), manager.sort_key()));
    let mut first_of_version: BTreeMap<String, Manager> = BTreeMap::new();
    for manager in updaters {
        if count <= MAX_UPDATE_MANAGERS {
            return;
        }
        let version = manager.api_version.clone();
        let Some(first) = first_of_version.get(&version) else {
            first_of_version.insert(version, manager);
            continue;
        };
        let bucket = Manager {
            name: ANCIENT.to_owned(),
            operation: Operation::Update,
            api_version: version,
            subresource: String::new(),
        };
        if !managers.0.contains_key(&bucket)
            && let Some(owned) = managers.0.remove(first)
        {
            managers.0.insert(bucket.clone(), owned);
        }
        if bucket == manager {
            // The bucket itself is among the oldest: nothing to merge it with.
            continue;
        }
        if let Some(merged) = managers.0.remove(&manager) {
            count -= 1;
            if let Some(owned) = managers.0.get_mut(&bucket) {
                owned.set = std::mem::take(&mut owned.set).union(merged.set);
                owned.time = merged.time;
            } else {
                managers.0.insert(bucket, merged);
            }
        }
    }
}

/// `namespace/name; group/version, Kind=kind`.
pub(crate) fn described(object: &Value, write: &Write<'_>) -> String {
    let metadata = |name: &str| object.get("metadata").and_then(|m| m.get(name)?.as_str()).unwrap_or_default();
    let api_version = object.get("apiVersion").and_then(Value::as_str).unwrap_or(&write.manager.api_version);
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or(write.kind);
    format!("{}/{}; {}", metadata("namespace"), metadata("name"), group_version_kind(api_version, kind))
}

/// `apps/v1, Kind=Deployment`; the core group is empty: `/v1, Kind=Pod`.
pub(crate) fn group_version_kind(api_version: &str, kind: &str) -> String {
    if api_version.contains('/') {
        format!("{api_version}, Kind={kind}")
    } else {
        format!("/{api_version}, Kind={kind}")
    }
}

/// Where two states of an object differ in nothing but the times of managed fields, puts the old times back, so that writing it
/// changes nothing. To be called last, after defaulting and admission.
pub fn keep_times_if_unchanged(old: &Value, new: &mut Value) {
    let (Some(Value::Array(before)), Some(Value::Array(after))) = (entry::raw(old), entry::raw(new)) else { return };
    if before.is_empty() || before.len() != after.len() || before == after {
        return;
    }
    let same_but_time = |(left, right): (&Value, &Value)| match (left, right) {
        (Value::Object(left), Value::Object(right)) => super::value::equal_maps(left, right, Some("time")),
        _ => false,
    };
    if before.iter().zip(after).all(same_but_time) && super::value::equal_objects(old, new) {
        let before = Value::Array(before.clone());
        if let Value::Object(new) = new {
            entry::store_raw(new, Some(before));
        }
    }
}
