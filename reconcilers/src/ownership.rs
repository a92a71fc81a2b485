//! Whose an object is.
//!
//! An owner is known by its UID, not by its name: what an earlier owner of the same name left behind is garbage on its way out, and
//! what a person made is nobody's business but theirs.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;

/// Whose an object is, from the view of one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    Mine,
    /// Of an earlier owner of the same kind and name.
    Predecessor,
    /// Of nobody or of another kind or name.
    Foreign,
}

/// Whose `object` is, from the view of `owner`.
#[must_use]
pub fn of<K: Resource<DynamicType = ()>>(object: &ObjectMeta, owner: &K) -> Ownership {
    let Some(controller) =
        object.owner_references.as_deref().unwrap_or_default().iter().find(|r| r.controller == Some(true))
    else {
        return Ownership::Foreign;
    };
    if Some(&controller.uid) == owner.meta().uid.as_ref() {
        Ownership::Mine
    } else if controller.kind == K::kind(&()) && Some(&controller.name) == owner.meta().name.as_ref() {
        Ownership::Predecessor
    } else {
        Ownership::Foreign
    }
}

/// The reference that makes `owner` the one owner of an object.
#[must_use]
pub fn reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Whether the object on record carries the labels and the owner that it should.
#[must_use]
pub fn carries(on_record: &ObjectMeta, wanted: &ObjectMeta) -> bool {
    let labels = on_record.labels.as_ref();
    let owners = on_record.owner_references.as_deref().unwrap_or_default();
    wanted.labels.iter().flatten().all(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value))
        && wanted.owner_references.iter().flatten().all(|owner| owners.contains(owner))
}
