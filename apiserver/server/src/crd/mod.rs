//! CustomResourceDefinitions become resources, and go with all their instances when they are deleted.
//!
//! One task watches CRD objects. For each it decides which names it gets ([`naming`]), puts its versions into the registry and then
//! says so in its status: whoever sees `Established` can use the resource. A deleted CRD stops taking writes, loses its instances
//! ([`cleanup`]) and then itself; its registry entries go with the object, which ends their watches.
//!
//! Schemas aren't touched here: an entry carries the text, and compiles it when first used.

mod cleanup;
pub(crate) mod conditions;
mod naming;
mod resources;
pub mod strategy;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::builtin::{set, text};
use crate::objects::{ChangeItem, ChangeKind, Objects, Subresource};
use crate::registry::{Origin, Resource};
use crate::status::Status;
use conditions::{Condition, is_true, set_condition};
use naming::{Names, Taken, Verdict, accept};
use resources::names_at;
pub use resources::resources_of;

const GROUP: &str = "apiextensions.k8s.io";
const PLURAL: &str = "customresourcedefinitions";

/// How long to wait before trying again what the store refused (a full disk, mostly).
const RETRY: Duration = Duration::from_secs(1);

/// The resource of CRDs themselves.
fn definitions(objects: &Objects) -> Result<Arc<Resource>, Status> {
    objects
        .registry()
        .snapshot()
        .get(GROUP, "v1", PLURAL)
        .cloned()
        .ok_or_else(|| Status::internal(format!("{PLURAL}.{GROUP} is not registered")))
}

/// Registers every stored CRD that is established, so that the server answers for all of them from its first request on.
///
/// # Errors
/// What the store answers.
pub async fn load(objects: &Objects) -> Result<(), Status> {
    let (crds, _) = objects.list(&definitions(objects)?, None).await?;
    let mut entries = Vec::new();
    for crd in crds.iter().filter(|crd| is_true(crd, "Established")) {
        match resources_of(crd, origin(crd)) {
            Ok(resources) => entries.extend(resources),
            Err(why) => tracing::error!(crd = name(crd), why, "a stored CRD can't be served"),
        }
    }
    objects.registry().extend(entries);
    Ok(())
}

/// Keeps the registry in step with the stored CRDs. Ends only when dropped.
pub async fn run(objects: Objects) {
    let mut controller = Controller {
        objects: objects.clone(),
        known: BTreeMap::new(),
        cleaning: BTreeSet::new(),
        cleanups: JoinSet::new(),
    };
    loop {
        if let Err(status) = controller.follow().await {
            tracing::warn!(%status, "CRDs can't be read, trying again");
            tokio::time::sleep(RETRY).await;
        }
    }
}

fn name(crd: &Value) -> &str {
    text(crd, &["metadata", "name"])
}

fn uid(crd: &Value) -> &str {
    text(crd, &["metadata", "uid"])
}

fn origin(crd: &Value) -> Origin {
    Origin::Crd(uid(crd).to_owned())
}

/// What is remembered of a CRD.
#[derive(Debug)]
struct Known {
    uid: String,
    group: String,
    accepted: Names,
    /// Of what its registry entries were made from.
    fingerprint: u64,
}

struct Controller {
    objects: Objects,
    /// By name.
    known: BTreeMap<String, Known>,
    /// The UIDs of CRDs whose instances are being deleted.
    cleaning: BTreeSet<String>,
    cleanups: JoinSet<String>,
}

impl Controller {
    /// Lists, then follows the changes until the stream has a gap or something can't be read.
    async fn follow(&mut self) -> Result<(), Status> {
        let definitions = definitions(&self.objects)?;
        let (crds, revision) = self.objects.list(&definitions, None).await?;
        let present: BTreeSet<String> = crds.iter().map(|crd| name(crd).to_owned()).collect();
        let gone: Vec<String> = self.known.keys().filter(|name| !present.contains(*name)).cloned().collect();
        for name in gone {
            self.forget(&name);
        }
        let mut again = BTreeSet::new();
        for crd in &crds {
            self.consider(&definitions, crd, &mut again).await;
        }
        let (mut changes, _) = self.objects.changes(Some(revision)).await?;
        loop {
            if !again.is_empty() {
                let names = std::mem::take(&mut again);
                for name in names {
                    match self.objects.get(&definitions, None, &name).await {
                        Ok(crd) => self.consider(&definitions, &crd, &mut again).await,
                        Err(status) if status.reason() == "NotFound" => {}
                        Err(status) => return Err(status),
                    }
                }
            }
            let wait = if again.is_empty() { Duration::MAX } else { RETRY };
            tokio::select! {
                item = changes.next() => match item {
                    Some(ChangeItem::Change(change)) if *change.group == *GROUP && *change.plural == *PLURAL => {
                        if change.kind == ChangeKind::Deleted {
                            let group = self.forget(&change.name);
                            again.extend(self.in_conflict(&group));
                        } else {
                            self.consider(&definitions, change.object()?, &mut again).await;
                        }
                    }
                    Some(ChangeItem::Change(_)) => {}
                    Some(ChangeItem::Resync) => return Ok(()),
                    None => return Err(Status::service_unavailable("the store is closed")),
                },
                Some(done) = self.cleanups.join_next() => {
                    if let Ok(uid) = done {
                        self.cleaning.remove(&uid);
                    }
                }
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Takes a CRD's entries and names away; returns its group.
    fn forget(&mut self, name: &str) -> String {
        let Some(known) = self.known.remove(name) else { return String::new() };
        self.objects.registry().replace(&Origin::Crd(known.uid), Vec::new());
        known.group
    }

    /// The CRDs of a group; one of them may want a name that has become free.
    fn in_conflict(&self, group: &str) -> Vec<String> {
        self.known.iter().filter(|(_, known)| known.group == group).map(|(name, _)| name.clone()).collect()
    }

    /// Brings registry and status in line with a CRD. What can't be written now goes into `again`.
    async fn consider(&mut self, definitions: &Arc<Resource>, crd: &Value, again: &mut BTreeSet<String>) {
        let name = name(crd).to_owned();
        if self.known.get(&name).is_some_and(|known| known.uid != uid(crd)) {
            self.forget(&name);
        }
        let group = text(crd, &["spec", "group"]).to_owned();
        let requested = match names_at(crd, "/spec/names") {
            Ok(names) => names,
            Err(why) => {
                tracing::error!(crd = name, why, "a stored CRD can't be served");
                return;
            }
        };
        let before = names_at(crd, "/status/acceptedNames").unwrap_or_default();
        let (accepted, verdict) = accept(&requested, &before, &self.taken(&group, &name));
        let names_changed = self.known.get(&name).is_some_and(|known| known.accepted != accepted);
        let established = is_true(crd, "Established") || verdict.accepted;
        self.register(crd, &name, group, accepted.clone(), established);
        if names_changed {
            let group = text(crd, &["spec", "group"]);
            again.extend(self.in_conflict(group).into_iter().filter(|other| *other != name));
        }
        if let Err(status) = self.write_status(definitions, crd, &accepted, &verdict).await {
            if status.reason() != "NotFound" {
                tracing::warn!(crd = name, %status, "the status of a CRD can't be written, trying again");
                again.insert(name.clone());
            }
            return;
        }
        self.clean_up(definitions, crd);
    }

    /// Puts a CRD into the registry unless it is there as it is.
    fn register(&mut self, crd: &Value, name: &str, group: String, accepted: Names, established: bool) {
        let mut served = crd.clone();
        set(&mut served, &["status", "acceptedNames"], serde_json::to_value(&accepted).unwrap_or(Value::Null));
        let fingerprint = fingerprint(&served);
        let loaded = || {
            let snapshot = self.objects.registry().snapshot();
            let since = text(crd, &["metadata", "resourceVersion"]).parse().unwrap_or(0);
            snapshot.iter().any(|resource| resource.origin == origin(crd) && resource.since == since)
        };
        let unchanged = match self.known.get(name) {
            Some(known) => known.fingerprint == fingerprint,
            // The first look at a CRD that `load` registered.
            None => loaded(),
        };
        if established && !unchanged {
            match resources_of(&served, origin(crd)) {
                Ok(resources) => self.objects.registry().replace(&origin(crd), resources),
                Err(why) => tracing::error!(crd = name, why, "a stored CRD can't be served"),
            }
        }
        let known =
            Known { uid: uid(crd).to_owned(), group, accepted, fingerprint: if established { fingerprint } else { 0 } };
        self.known.insert(name.to_owned(), known);
    }

    /// The names in use in a group by everybody but this CRD.
    fn taken(&self, group: &str, name: &str) -> Taken {
        let mut taken = Taken::default();
        for (_, known) in self.known.iter().filter(|(other, known)| *other != name && known.group == group) {
            taken.add(&known.accepted);
        }
        for resource in self.objects.registry().snapshot().iter() {
            if resource.group == group && !matches!(resource.origin, Origin::Crd(_)) {
                taken.add(&Names {
                    plural: resource.plural.clone(),
                    singular: resource.singular.clone(),
                    short_names: resource.short_names.clone(),
                    kind: resource.kind.clone(),
                    list_kind: resource.list_kind.clone(),
                    categories: Vec::new(),
                });
            }
        }
        taken
    }

    async fn write_status(
        &self,
        definitions: &Arc<Resource>,
        crd: &Value,
        accepted: &Names,
        verdict: &Verdict,
    ) -> Result<(), Status> {
        let now = self.objects.now();
        let edit = |object: &mut Value| {
            if uid(object) != uid(crd) || object.pointer("/spec/names") != crd.pointer("/spec/names") {
                // Another write came between; its own change brings us back here.
                return false;
            }
            let before = object.get("status").cloned();
            set(object, &["status", "acceptedNames"], json!(accepted));
            pullpiri_apply::schema::crd::record_stored_version(object);
            set_condition(
                object,
                Condition {
                    kind: "NamesAccepted",
                    status: verdict.accepted,
                    reason: verdict.reason,
                    message: &verdict.message,
                },
                now,
            );
            if verdict.accepted {
                if !is_true(object, "Established") {
                    let (reason, message) = ("InitialNamesAccepted", "the initial names have been accepted");
                    set_condition(object, Condition { kind: "Established", status: true, reason, message }, now);
                }
            } else if conditions::status_of(object, "Established").is_none() {
                let (reason, message) = ("NotAccepted", "not all names are accepted");
                set_condition(object, Condition { kind: "Established", status: false, reason, message }, now);
            }
            object.get("status") != before.as_ref()
        };
        // Nothing to write is the usual case, and then there is nothing to read either.
        if !edit(&mut crd.clone()) {
            return Ok(());
        }
        self.objects.modify(definitions, Subresource::Status, None, name(crd), &edit).await.map(|_| ())
    }

    /// Starts deleting the instances of a deleted CRD, once.
    fn clean_up(&mut self, definitions: &Arc<Resource>, crd: &Value) {
        let finalizers = crd.pointer("/metadata/finalizers").and_then(Value::as_array);
        let held = finalizers.is_some_and(|all| all.iter().any(|finalizer| finalizer == strategy::CLEANUP_FINALIZER));
        let deleted = crd.pointer("/metadata/deletionTimestamp").is_some();
        if deleted && held && self.cleaning.insert(uid(crd).to_owned()) {
            let cleanup = cleanup::Cleanup {
                objects: self.objects.clone(),
                definitions: Arc::clone(definitions),
                name: name(crd).to_owned(),
                uid: uid(crd).to_owned(),
            };
            self.cleanups.spawn(cleanup.run());
        }
    }
}

/// Of everything that registry entries are made from.
fn fingerprint(crd: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    crd.get("spec").map(Value::to_string).hash(&mut hasher);
    crd.pointer("/status/acceptedNames").map(Value::to_string).hash(&mut hasher);
    crd.pointer("/metadata/deletionTimestamp").is_some().hash(&mut hasher);
    hasher.finish()
}

/// The CRD that golden files are made from.
#[cfg(test)]
pub(crate) fn sample() -> Value {
    serde_json::from_str(include_str!("sample.json")).expect("the sample is JSON")
}
