//! An API server: objects by kind and name with UIDs, resource versions and generations; server-side apply of what the controllers write;
//! finalizers; garbage collection by owner; and the changes in the order in which they were made.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::Resource;
use pullpiri_crds::{Claim, Model, ModelInstance, Package, Scenario};

use crate::world::{NS, at};

/// Objects of one kind.
pub type Objects<K> = BTreeMap<String, Arc<K>>;

/// A change as a watch delivers it.
#[derive(Clone)]
pub struct Delivery<K> {
    pub name: String,
    pub uid: String,
    pub object: Option<Arc<K>>,
}

/// One kind: what is, and what happened.
pub struct Table<K> {
    pub objects: Objects<K>,
    pub changes: VecDeque<Delivery<K>>,
}

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), changes: VecDeque::new() }
    }
}

/// Counters that every write moves.
#[derive(Default)]
pub struct Counters {
    version: u64,
    uid: u64,
    pub second: i64,
}

#[derive(Default)]
pub struct Api {
    pub counters: Counters,
    pub scenarios: Table<Scenario>,
    pub packages: Table<Package>,
    pub models: Table<Model>,
    pub claims: Table<Claim>,
    pub instances: Table<ModelInstance>,
}

impl<K: Resource<DynamicType = ()> + Clone> Table<K> {
    /// Creates or updates; `merge` makes the next object from the one that is there. Returns what is stored.
    pub fn write(
        &mut self,
        counters: &mut Counters,
        name: &str,
        merge: impl FnOnce(Option<&K>) -> (K, bool),
    ) -> Arc<K> {
        let before = self.objects.get(name);
        let (mut object, spec_changed) = merge(before.map(|b| &**b));
        counters.version += 1;
        let meta = object.meta_mut();
        match before {
            Some(before) => {
                let old = before.meta();
                meta.uid.clone_from(&old.uid);
                meta.generation = old.generation.map(|g| g + i64::from(spec_changed));
                meta.creation_timestamp.clone_from(&old.creation_timestamp);
                meta.deletion_timestamp.clone_from(&old.deletion_timestamp);
            }
            None => {
                counters.uid += 1;
                meta.uid = Some(format!("u{}", counters.uid));
                meta.generation = Some(1);
                meta.creation_timestamp = Some(Time(at(counters.second)));
            }
        }
        meta.name = Some(name.to_owned());
        meta.namespace = Some(NS.to_owned());
        meta.resource_version = Some(counters.version.to_string());
        let object = Arc::new(object);
        self.objects.insert(name.to_owned(), object.clone());
        self.changes.push_back(Delivery {
            name: name.to_owned(),
            uid: object.meta().uid.clone().unwrap(),
            object: Some(object.clone()),
        });
        object
    }

    /// Deletes the object with this UID, or marks it if finalizers hold it. Returns what is left.
    pub fn delete(&mut self, counters: &mut Counters, name: &str, uid: Option<&str>) -> Option<Arc<K>> {
        let object = self.objects.get(name)?.clone();
        if uid.is_some() && object.meta().uid.as_deref() != uid {
            return Some(object);
        }
        if object.meta().finalizers.iter().flatten().next().is_some() {
            if object.meta().deletion_timestamp.is_some() {
                return Some(object);
            }
            let second = counters.second;
            let marked = self.write(counters, name, |before| {
                let mut next = before.unwrap().clone();
                next.meta_mut().deletion_timestamp = Some(Time(at(second)));
                (next, false)
            });
            // `write` keeps the timestamp of the object before; this is the one write that sets it.
            let mut next = (*marked).clone();
            next.meta_mut().deletion_timestamp = Some(Time(at(second)));
            let next = Arc::new(next);
            self.objects.insert(name.to_owned(), next.clone());
            self.changes.back_mut().unwrap().object = Some(next.clone());
            return Some(next);
        }
        self.remove(name);
        None
    }

    pub fn remove(&mut self, name: &str) {
        if let Some(object) = self.objects.remove(name) {
            let uid = object.meta().uid.clone().unwrap();
            self.changes.push_back(Delivery { name: name.to_owned(), uid, object: None });
        }
    }
}

/// What server-side apply makes of labels and owners: both sides' owners stay, told apart by UID.
pub fn merged_meta(before: Option<&ObjectMeta>, applied: &ObjectMeta) -> ObjectMeta {
    let mut owners: Vec<OwnerReference> = before.and_then(|b| b.owner_references.clone()).unwrap_or_default();
    for owner in applied.owner_references.iter().flatten() {
        owners.retain(|o| o.uid != owner.uid);
        owners.push(owner.clone());
    }
    ObjectMeta {
        labels: applied.labels.clone(),
        owner_references: Some(owners),
        finalizers: before.and_then(|b| b.finalizers.clone()),
        ..ObjectMeta::default()
    }
}

impl Api {
    /// What garbage collection would remove next: an object whose owner isn't there.
    pub fn orphan(&self) -> Option<(&'static str, String)> {
        let owners: Vec<&str> = self
            .scenarios
            .objects
            .values()
            .filter_map(|s| s.metadata.uid.as_deref())
            .chain(self.packages.objects.values().filter_map(|p| p.metadata.uid.as_deref()))
            .collect();
        let orphaned = |meta: &ObjectMeta| {
            meta.deletion_timestamp.is_none()
                && meta.owner_references.iter().flatten().all(|o| !owners.contains(&o.uid.as_str()))
        };
        let claim = self.claims.objects.iter().find(|(_, c)| orphaned(&c.metadata));
        let instance = self.instances.objects.iter().find(|(_, i)| orphaned(&i.metadata));
        claim.map(|(name, _)| ("claim", name.clone())).or(instance.map(|(name, _)| ("instance", name.clone())))
    }
}
