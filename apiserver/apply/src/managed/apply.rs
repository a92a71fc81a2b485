//! Server-side apply.
//!
//! The configuration is merged into the live object; what the same manager applied before, doesn't any more and nobody else owns
//! is removed; the manager then owns what the configuration names. A field that another manager owns with another value is a
//! conflict, unless forced. Equal values are owned together.

use serde_json::{Map, Value};
use thiserror::Error;

use super::{
    Write,
    compare::compare,
    conflict::Conflicts,
    entry::{self, EntryError, Managers, Operation, Owned, Time},
    extract::extract,
    last_applied,
    merge::merge,
    metadata::unowned,
    remove::prune,
    set::FieldSet,
    types::TypeRef,
    update::{self, Force, UpdateError, described, group_version_kind, take_over},
    validate::{Duplicates, validate},
    value,
};

/// The manager whose client-side applies are taken over and kept up to date.
const KUBECTL: &str = "kubectl";

/// What an apply made of the live object.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// The whole object, `metadata.managedFields` included; not defaulted yet.
    pub object: Value,
    /// Whether it differs from the live one in anything; if not, nothing is to be written.
    pub changed: bool,
}

/// Why an apply was refused.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// 400: the request is wrong in itself.
    #[error("{0}")]
    BadRequest(String),
    /// 409, with causes.
    #[error("{0}")]
    Conflict(Conflicts),
    /// 500, as kube-apiserver answers it: an object doesn't fit the schema.
    #[error("{0}")]
    Schema(String),
    /// 500: the live object has managed fields that can't be read.
    #[error("failed to decode managed fields: {0}")]
    ManagedFields(#[source] EntryError),
}

impl From<UpdateError> for ApplyError {
    fn from(error: UpdateError) -> Self {
        Self::Schema(format!("failed to create manager for existing fields: {error}"))
    }
}

/// Applies a configuration to an object, or creates it (`live` is `None`, or the kind's empty object without a uid).
///
/// # Errors
///
/// The configuration is of another kind or version, has `metadata.managedFields`, doesn't fit the schema, has the same list item
/// twice, or conflicts with other managers.
pub fn apply(live: Option<&Value>, config: &Value, force: Force, write: &Write<'_>) -> Result<Applied, ApplyError> {
    let nothing = Value::Object(Map::new());
    let live = live.unwrap_or(&nothing);
    check_kind(config, write)?;
    let mut merged = match apply_once(live, config, force, write) {
        Err(ApplyError::Conflict(conflicts)) if write.manager.name == KUBECTL => {
            match last_applied::owned_by_client_side_apply(live, write) {
                Some(allowed) => match conflicts.without(&allowed) {
                    Some(conflicts) => return Err(ApplyError::Conflict(conflicts)),
                    None => apply_once(live, config, Force::Yes, write)?,
                },
                None => return Err(ApplyError::Conflict(conflicts)),
            }
        }
        other => other?,
    };
    let refreshed = write.manager.name == KUBECTL && last_applied::refresh(&mut merged.object, config);
    let before = entry::raw(live).filter(|raw| !raw.is_null());
    // Where nobody owns more or less than before, the entries needn't be written anew.
    let after = if merged.same_owners { before.cloned() } else { merged.managers.encode() };
    let changed = !merged.same || refreshed || before != after.as_ref();
    entry::store_raw(&mut merged.object, after);
    Ok(Applied { object: Value::Object(merged.object), changed })
}

/// The configuration must be of the kind and version that the request went to.
fn check_kind(config: &Value, write: &Write<'_>) -> Result<(), ApplyError> {
    let text = |name: &str| config.get(name).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    if api_version != write.manager.api_version || kind != write.kind {
        return Err(ApplyError::BadRequest(format!("invalid object type: {}", group_version_kind(api_version, kind))));
    }
    Ok(())
}

/// The merged object, without managed fields, and its managers.
struct Merged {
    object: Map<String, Value>,
    managers: Managers,
    /// The object is the live one, apart from its managed fields.
    same: bool,
    /// The managers own what they owned, since when they did.
    same_owners: bool,
}

fn apply_once(live: &Value, config: &Value, force: Force, write: &Write<'_>) -> Result<Merged, ApplyError> {
    let ty = TypeRef::root(write.schema);
    let mut managers = Managers::of(live).map_err(ApplyError::ManagedFields)?;
    if managers.0.is_empty() {
        update::record_before_first_apply(live, &mut managers, write)?;
    }
    if entry::raw(config).is_some_and(|raw| !raw.is_null()) {
        return Err(ApplyError::BadRequest("metadata.managedFields must be nil".to_owned()));
    }
    let typed = |what: &str, object: &Value, duplicates| {
        validate(ty, object, duplicates).map_err(|reason| {
            ApplyError::Schema(format!("failed to create typed {what} object ({}): {reason}", described(object, write)))
        })
    };
    typed("patch", config, Duplicates::Refused)?;
    typed("live", live, Duplicates::Allowed)?;
    let time = Time::parse(write.time).map_err(ApplyError::ManagedFields)?;

    let mut reconciled = false;
    for owned in managers.0.values_mut() {
        reconciled |= owned.set.reconcile(ty);
    }
    let merged =
        merge(ty, live, config).map_err(|error| ApplyError::Schema(format!("failed to merge config: {error}")))?;
    let mut set = extract(ty, config);
    set.subtract_recursively(write.reset);
    let manager = write.manager.identity(Operation::Apply);
    let last = managers.0.remove(&manager);
    let last_time = last.as_ref().and_then(|last| last.time.clone());
    let api_version = write.manager.api_version.clone();
    managers.0.insert(manager.clone(), Owned { set, api_version, time: last_time });

    // With all that it applied before applied again, there is nothing to remove. (structured-merge-diff goes through the motions
    // and then, where the configuration has an empty map and the object an empty list in it, removes the map.)
    let merged = match &last {
        Some(last) if !managers.0.get(&manager).is_some_and(|owned| last.set.is_subset(&owned.set)) => {
            let owned = managers.0.values().fold(FieldSet::new(), |all, owned| all.union(owned.set.clone()));
            prune(ty, merged, &last.set, &owned)
        }
        _ => merged,
    };
    let same = value::equal_objects(live, &merged);
    if !same {
        let mut changes = compare(ty, live, &merged);
        changes.exclude(write.reset);
        take_over(&mut managers, Some(&manager), &changes, force).map_err(ApplyError::Conflict)?;
    }
    let mut same_owners = false;
    if let Some(mut owned) = managers.0.remove(&manager) {
        owned.set.subtract(unowned());
        same_owners = same && !reconciled && last.as_ref() == Some(&owned);
        if !owned.set.is_empty() {
            if !same {
                owned.time = Some(time);
            }
            managers.0.insert(manager, owned);
        }
    }
    managers.0.retain(|_, owned| !owned.set.is_empty());
    match merged {
        Value::Object(object) => Ok(Merged { object, managers, same, same_owners }),
        _ => Err(ApplyError::BadRequest("the applied configuration is not a JSON object".to_owned())),
    }
}
