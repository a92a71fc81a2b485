//! What the collector does to one object, always against the live objects: the graph only says whom to look at.
//! (After `pkg/controller/garbagecollector` of Kubernetes.)

use std::sync::Arc;

use serde_json::{Value, json};

use super::absent::{Absent, Coordinates};
use super::graph::{FOREGROUND, Metadata, ORPHAN, OwnerReference, Place, Uid, View};
use crate::builtin::{set, text};
use crate::clock::rfc3339;
use crate::objects::{DeleteOptions, Objects, Propagation, Subresource};
use crate::registry::{Resource, Resources};
use crate::status::Status;

/// What a piece of work found out.
#[derive(Debug, Default)]
pub struct Report {
    /// The object isn't there (any more).
    pub gone: bool,
    /// Owners that are there.
    pub found: Vec<(Uid, Place)>,
    /// The object or an owner is of a kind that nobody serves: look again when the registry changes.
    pub unresolved: bool,
}

/// How an owner stands.
enum Standing {
    Solid(Place),
    Dangling(News),
    /// Being deleted, after its dependents.
    Waiting(Place),
    Unresolved,
    /// A cluster-wide object can't have an owner in a namespace.
    Impossible,
}

/// How an object stands that the graph knows.
enum Live {
    There(Arc<Resource>, Value),
    Gone,
    /// Nobody here serves its kind (yet): another server that shares the store may know it already.
    Unserved,
}

/// Whether an owner's absence was known before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum News {
    Known,
    /// It was looked for and not found just now.
    First,
}

pub(super) struct Worker<'a> {
    pub(super) objects: &'a Objects,
    pub(super) registry: Arc<Resources>,
    pub(super) absent: &'a Absent,
}

fn metadata(object: &Value) -> Metadata {
    object.get("metadata").and_then(Metadata::deserialize_from).unwrap_or_default()
}

impl Metadata {
    fn deserialize_from(value: &Value) -> Option<Self> {
        serde::Deserialize::deserialize(value).ok()
    }
}

fn namespace(place: &Place) -> Option<&str> {
    (!place.namespace.is_empty()).then_some(&*place.namespace)
}

/// NotFound is an answer, not a failure.
fn found<T>(result: Result<T, Status>) -> Result<Option<T>, Status> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(status) if status.reason() == "NotFound" => Ok(None),
        Err(status) => Err(status),
    }
}

impl Worker<'_> {
    fn resource(&self, place: &Place) -> Option<&Arc<Resource>> {
        self.registry.stored(&place.group, &place.plural)
    }

    /// The live object, if it is there and the one that is meant.
    async fn live(&self, place: &Place, uid: Uid) -> Result<Live, Status> {
        let Some(resource) = self.resource(place).cloned() else { return Ok(Live::Unserved) };
        let object = found(self.objects.get(&resource, namespace(place), &place.name).await)?;
        let same = |object: &Value| Uid::of(text(object, &["metadata", "uid"])) == uid;
        Ok(object.filter(same).map_or(Live::Gone, |object| Live::There(resource, object)))
    }

    /// Deletes an object whose owners are all gone, or moves on an object that waits for its dependents.
    pub(super) async fn check(&self, uid: Uid, view: &View) -> Result<Report, Status> {
        let mut report = Report::default();
        // What is being deleted goes by itself, and what still waits for dependents is looked at again when one of them goes.
        if view.deleting && (!view.foreground || view.blocked) {
            return Ok(report);
        }
        let (resource, object) = match self.live(&view.at, uid).await? {
            Live::There(resource, object) => (resource, object),
            Live::Gone => return Ok(Report { gone: true, ..report }),
            Live::Unserved => return Ok(Report { unresolved: true, ..report }),
        };
        let meta = metadata(&object);
        if meta.deletion_timestamp.is_some() {
            if meta.has_finalizer(FOREGROUND) && view.foreground {
                self.remove_finalizer(&resource, &view.at, uid, FOREGROUND).await?;
            }
            return Ok(report);
        }
        let (mut solid, mut dangling, mut waiting) = (false, Vec::new(), Vec::new());
        for owner in meta.owners() {
            let owner_uid = Uid::of(&owner.uid);
            match self.standing(&view.at, owner).await? {
                Standing::Solid(at) => {
                    report.found.push((owner_uid, at));
                    solid = true;
                }
                Standing::Waiting(at) => {
                    report.found.push((owner_uid, at));
                    waiting.push(owner.uid.clone());
                }
                Standing::Dangling(news) => {
                    if news == News::First {
                        self.warn_if_elsewhere(&resource, &view.at, &object, owner).await;
                    }
                    dangling.push(owner.uid.clone());
                }
                Standing::Unresolved => {
                    report.unresolved = true;
                    return Ok(report);
                }
                Standing::Impossible => {
                    self.warn(&resource, &view.at, &object, owner).await;
                    return Ok(report);
                }
            }
        }
        if solid {
            dangling.append(&mut waiting);
            if !dangling.is_empty() {
                self.drop_owners(&resource, &view.at, uid, &dangling).await?;
            }
        } else if !waiting.is_empty() && view.has_dependents {
            if view.dependent_in_foreground {
                // A cycle would wait for itself.
                self.unblock_owners(&resource, &view.at, uid).await?;
            }
            report.gone = self.delete(&resource, &view.at, &object, Propagation::Foreground).await?;
        } else if !waiting.is_empty() || !dangling.is_empty() {
            let propagation = if meta.has_finalizer(ORPHAN) {
                Propagation::Orphan
            } else if meta.has_finalizer(FOREGROUND) {
                Propagation::Foreground
            } else {
                Propagation::Background
            };
            report.gone = self.delete(&resource, &view.at, &object, propagation).await?;
        }
        Ok(report)
    }

    async fn standing(&self, dependent: &Place, owner: &OwnerReference) -> Result<Standing, Status> {
        let uid = Uid::of(&owner.uid);
        let (group, version) = owner.api_version.rsplit_once('/').unwrap_or(("", &owner.api_version));
        let Some(resource) = self.kind(group, version, &owner.kind) else { return Ok(Standing::Unresolved) };
        if resource.is_namespaced() && dependent.namespace.is_empty() {
            return Ok(Standing::Impossible);
        }
        let namespace_of_owner = if resource.is_namespaced() { Arc::clone(&dependent.namespace) } else { "".into() };
        let coordinates = Coordinates {
            namespace: namespace_of_owner.to_string(),
            api_version: owner.api_version.clone(),
            kind: owner.kind.clone(),
            name: owner.name.clone(),
            uid,
        };
        if self.absent.is_gone(uid) || self.absent.is_unfound(&coordinates) {
            return Ok(Standing::Dangling(News::Known));
        }
        let (group, plural) =
            resource.strategy.view_of().unwrap_or((resource.group.as_str(), resource.plural.as_str()));
        let at = Place {
            group: group.into(),
            plural: plural.into(),
            namespace: namespace_of_owner,
            name: owner.name.as_str().into(),
        };
        let object = found(self.objects.get(resource, namespace(&at), &at.name).await)?;
        let Some(meta) = object.as_ref().map(metadata).filter(|meta| meta.uid == owner.uid) else {
            let news = if self.absent.not_found(coordinates) { News::First } else { News::Known };
            return Ok(Standing::Dangling(news));
        };
        Ok(if meta.deletion_timestamp.is_some() && meta.has_finalizer(FOREGROUND) {
            Standing::Waiting(at)
        } else {
            Standing::Solid(at)
        })
    }

    /// The resource of a kind, in any of its versions: references outlive versions.
    fn kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.registry
            .by_kind(group, version, kind)
            .or_else(|| self.registry.iter().find(|resource| resource.group == group && resource.kind == kind))
    }

    /// Whether the object turned out to be gone already.
    async fn delete(
        &self,
        resource: &Arc<Resource>,
        at: &Place,
        object: &Value,
        propagation: Propagation,
    ) -> Result<bool, Status> {
        // As it was read, owners included: a change in between means looking again.
        let options = DeleteOptions {
            uid: Some(text(object, &["metadata", "uid"]).to_owned()),
            resource_version: Some(text(object, &["metadata", "resourceVersion"]).to_owned()),
            propagation: Some(propagation),
            ..DeleteOptions::default()
        };
        let deleted = found(self.objects.delete(resource, namespace(at), &at.name, options).await)?;
        tracing::debug!(
            group = &*at.group,
            plural = &*at.plural,
            namespace = &*at.namespace,
            name = &*at.name,
            "collected"
        );
        Ok(deleted.is_none())
    }

    async fn modify(
        &self,
        resource: &Arc<Resource>,
        at: &Place,
        uid: Uid,
        edit: impl Fn(&mut Value) -> bool + Send + Sync,
    ) -> Result<(), Status> {
        let guarded = |object: &mut Value| Uid::of(text(object, &["metadata", "uid"])) == uid && edit(object);
        found(self.objects.modify(resource, Subresource::None, namespace(at), &at.name, &guarded).await).map(|_| ())
    }

    async fn remove_finalizer(
        &self,
        resource: &Arc<Resource>,
        at: &Place,
        uid: Uid,
        finalizer: &str,
    ) -> Result<(), Status> {
        self.modify(resource, at, uid, |object| retain(object, "finalizers", |entry| entry != finalizer)).await
    }

    async fn drop_owners(
        &self,
        resource: &Arc<Resource>,
        at: &Place,
        uid: Uid,
        owners: &[String],
    ) -> Result<(), Status> {
        self.modify(resource, at, uid, |object| {
            retain(object, "ownerReferences", |entry| !owners.iter().any(|owner| owner == text(entry, &["uid"])))
        })
        .await
    }

    async fn unblock_owners(&self, resource: &Arc<Resource>, at: &Place, uid: Uid) -> Result<(), Status> {
        self.modify(resource, at, uid, |object| {
            let owners = object.pointer_mut("/metadata/ownerReferences").and_then(Value::as_array_mut);
            let mut changed = false;
            for owner in owners.into_iter().flatten() {
                if owner.get("blockOwnerDeletion") == Some(&Value::Bool(true)) {
                    set(owner, &["blockOwnerDeletion"], json!(false));
                    changed = true;
                }
            }
            changed
        })
        .await
    }

    /// Takes an object out of its dependents' owners, then lets it go.
    pub(super) async fn orphan(&self, uid: Uid, view: &View, dependents: &[(Uid, Place)]) -> Result<Report, Status> {
        let (resource, object) = match self.live(&view.at, uid).await? {
            Live::There(resource, object) => (resource, object),
            Live::Gone => return Ok(Report { gone: true, ..Report::default() }),
            Live::Unserved => return Ok(Report { unresolved: true, ..Report::default() }),
        };
        let meta = metadata(&object);
        if meta.deletion_timestamp.is_some() && meta.has_finalizer(ORPHAN) {
            let owner = [meta.uid.clone()];
            for (dependent, at) in dependents {
                if let Some(resource) = self.resource(at).cloned() {
                    self.drop_owners(&resource, at, *dependent, &owner).await?;
                }
            }
            self.remove_finalizer(&resource, &view.at, uid, ORPHAN).await?;
        }
        Ok(Report::default())
    }

    /// Says so when the absent owner's UID lives in another namespace than its dependent: a mistake that costs the dependent. One that is
    /// found while another is searched for costs it without a word.
    async fn warn_if_elsewhere(&self, resource: &Arc<Resource>, at: &Place, object: &Value, owner: &OwnerReference) {
        let (group, version) = owner.api_version.rsplit_once('/').unwrap_or(("", &owner.api_version));
        let Some(kind) = self.kind(group, version, &owner.kind).filter(|kind| kind.is_namespaced()) else { return };
        let Some(_search) = self.absent.search() else { return };
        let Ok((all, _)) = self.objects.list(kind, None).await else { return };
        let elsewhere = all.iter().any(|candidate| {
            text(candidate, &["metadata", "uid"]) == owner.uid
                && text(candidate, &["metadata", "namespace"]) != &*at.namespace
        });
        if elsewhere {
            self.warn(resource, at, object, owner).await;
        }
    }

    /// An Event on the dependent. Its failure is only logged: it must not hold up the collection.
    async fn warn(&self, resource: &Arc<Resource>, at: &Place, object: &Value, owner: &OwnerReference) {
        let Some(events) = self.registry.get("", "v1", "events") else { return };
        let home = if at.namespace.is_empty() { "default" } else { &*at.namespace };
        let at_time = self.objects.now();
        let now = rfc3339(at_time);
        let involved_uid = text(object, &["metadata", "uid"]);
        let message = format!(
            "ownerRef [{}/{}, namespace: {}, name: {}, uid: {}] does not exist in namespace \"{}\"",
            owner.api_version, owner.kind, at.namespace, owner.name, owner.uid, at.namespace
        );
        let event = json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": format!("{}.{:x}", at.name, at_time.as_nanosecond()), "namespace": home},
            "involvedObject": {
                "apiVersion": resource.api_version(), "kind": resource.kind, "name": &*at.name,
                "namespace": &*at.namespace, "uid": involved_uid,
            },
            "type": "Warning",
            "reason": "OwnerRefInvalidNamespace",
            "message": message,
            "source": {"component": "garbage-collector-controller"},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
            "reportingComponent": "garbage-collector-controller",
            "reportingInstance": "",
        });
        if let Err(status) = self.objects.create(events, Some(home), event).await {
            tracing::debug!(%status, "an event can't be recorded");
        }
    }
}

/// Keeps those entries of a metadata list; returns whether any went. An empty list goes altogether.
fn retain(object: &mut Value, list: &str, keep: impl Fn(&Value) -> bool) -> bool {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return false };
    let Some(entries) = metadata.get_mut(list).and_then(Value::as_array_mut) else { return false };
    let before = entries.len();
    entries.retain(|entry| keep(entry));
    let changed = entries.len() != before;
    if entries.is_empty() {
        metadata.remove(list);
    }
    changed
}

#[cfg(test)]
mod tests {
    use pullpiri_store::memory::MemoryStore;

    use super::*;
    use crate::{ApiServer, Config};

    #[tokio::test]
    async fn one_owner_is_searched_for_at_a_time() {
        let server = ApiServer::open(Config::new(Arc::new(MemoryStore::new()))).await.unwrap();
        // Only our worker collects.
        server.stop();
        let (objects, absent) = (server.objects(), Absent::default());
        let registry = server.registry().snapshot();
        let maps = registry.stored("", "configmaps").unwrap();
        let events = registry.stored("", "events").unwrap();
        let worker = Worker { objects: &objects, registry: Arc::clone(&registry), absent: &absent };
        for (name, searched) in [("a", false), ("b", true)] {
            let owner = json!({"metadata": {"name": name}});
            let owner = objects.create(maps, Some("kube-system"), owner).await.unwrap();
            let reference =
                json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": owner["metadata"]["uid"]});
            let dependent = json!({"metadata": {"name": format!("of-{name}"), "ownerReferences": [reference]}});
            let dependent = objects.create(maps, Some("default"), dependent).await.unwrap();
            let at = Place {
                group: "".into(),
                plural: "configmaps".into(),
                namespace: "default".into(),
                name: format!("of-{name}").as_str().into(),
            };
            let others = absent.search().filter(|_| !searched);
            worker.check(Uid::of(text(&dependent, &["metadata", "uid"])), &view(at)).await.unwrap();
            drop(others);
            let (told, _) = objects.list(events, Some("default")).await.unwrap();
            assert_eq!(
                told.iter().filter(|event| event["reason"] == "OwnerRefInvalidNamespace").count(),
                usize::from(searched)
            );
            assert!(objects.get(maps, Some("default"), &format!("of-{name}")).await.is_err());
        }
    }

    fn view(at: Place) -> View {
        View {
            at,
            deleting: false,
            foreground: false,
            has_dependents: false,
            dependent_in_foreground: false,
            blocked: false,
        }
    }

    #[tokio::test]
    async fn what_nobody_serves_is_not_gone() {
        let server = ApiServer::open(Config::new(Arc::new(MemoryStore::new()))).await.unwrap();
        let (objects, absent) = (server.objects(), Absent::default());
        let worker = Worker { objects: &objects, registry: server.registry().snapshot(), absent: &absent };
        let at = |group: &str, plural: &str| Place {
            group: group.into(),
            plural: plural.into(),
            namespace: "default".into(),
            name: "x".into(),
        };
        let uid = Uid::of("x");
        let report = worker.check(uid, &view(at("example.com", "widgets"))).await.unwrap();
        assert!(report.unresolved && !report.gone);
        let report = worker.orphan(uid, &view(at("example.com", "widgets")), &[]).await.unwrap();
        assert!(report.unresolved && !report.gone);
        let report = worker.check(uid, &view(at("", "configmaps"))).await.unwrap();
        assert!(report.gone && !report.unresolved);
    }
}
