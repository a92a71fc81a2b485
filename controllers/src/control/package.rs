//! Packages: removals, then additions, then the status.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use kube::{Api, Resource};
use pullpiri_crds::{ModelInstance, Network, Package};
use pullpiri_reconcilers::field_manager;
use pullpiri_reconcilers::package::{Action, Plan, Snapshot, decide, models_named};

use super::Done;
use crate::cache::{Cache, Key};
use crate::execute::{self, Deleted};
use crate::world::{TIMED, World, all_of, term};
use crate::{Class, Error};

pub(super) async fn reconcile(world: &World, key: Key) -> Result<Done, Error> {
    let now = Timestamp::now();
    let Some((mut snapshot, mut plan)) = look(world, &key, now).await else {
        return Ok(Done::Unchanged);
    };
    // What others could take at the same time is decided again, and carried out, in turn.
    let turn = if plan.takes_shared() { Some(world.sharing.turn().await) } else { None };
    if turn.is_some() {
        match look(world, &key, now).await {
            Some(again) => (snapshot, plan) = again,
            None => return Ok(Done::Unchanged),
        }
    }
    if let Some(theirs) = plan.superseded_by {
        return Err(Error::Superseded { name: key.to_string(), theirs, ours: world.epoch() });
    }
    let done = if plan.is_empty() { Done::Unchanged } else { Done::Changed };
    let (removals, additions): (Vec<_>, Vec<_>) =
        plan.actions.into_iter().partition(|action| matches!(action, Action::DeleteInstance { .. }));
    keep_refusals(world, &key, &additions);
    let removed = carry_out(world, &key, removals).await;
    // A model that moves must not run in two places because the first couldn't be told.
    let added = if removed.is_ok() { carry_out(world, &key, additions).await } else { Ok(()) };
    if added.is_ok() {
        world.sharing.answered(&key);
    }
    drop(turn);
    if let Some(status) = plan.status {
        let written =
            execute::apply_status(&world.client, &*snapshot.package, &*status, field_manager::PACKAGE).await?;
        world.observe(written);
    }
    if let Some((schedule, status)) = snapshot.schedule.as_ref().zip(plan.schedule) {
        let written = execute::apply_status(&world.client, &**schedule, &*status, field_manager::PACKAGE).await?;
        world.observe(written);
    }
    world.events.publish(field_manager::PACKAGE, &*snapshot.package, plan.notices);
    removed.and(added).inspect_err(|error| refuse(world, &snapshot.package, error))?;
    Ok(done)
}

fn keep_refusals(world: &World, package: &Key, additions: &[Action]) {
    let applies = |action: &Action, name: &str| match action {
        Action::ApplyInstance { instance, .. } => instance.metadata.name.as_deref() == Some(name),
        Action::DeleteInstance { .. } => false,
    };
    world.keep_refusals(package, |name| additions.iter().any(|action| applies(action, name)));
}

/// A proof of real-time tasks may compute for a second or two; then that is done where it keeps nobody else waiting.
async fn look(world: &World, key: &Key, now: Timestamp) -> Option<(Snapshot, Plan)> {
    let Some((snapshot, has_tasks)) = observe(world, key, now) else {
        // A write of ours that was under way when it went may have entered it again.
        world.forget_package(key);
        return None;
    };
    let decided = move || {
        let plan = decide(&snapshot, now);
        (snapshot, plan)
    };
    let (snapshot, plan) = if has_tasks {
        match tokio::task::spawn_blocking(decided).await {
            Ok(decided) => decided,
            // As if it had happened here.
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down.
                Err(_) => return None,
            },
        }
    } else {
        decided()
    };
    world.sharing.decided(key, &plan.starved, plan.is_crowded);
    Some((snapshot, plan))
}

/// Carries out independent actions side by side, so that they share the store's commits. Each is tried; the first error counts.
async fn carry_out(world: &World, package: &Key, actions: Vec<Action>) -> Result<(), Error> {
    let mut under_way: FuturesUnordered<_> =
        actions.into_iter().map(|action| execute(world, package, action)).collect();
    let mut first = Ok(());
    while let Some(result) = under_way.next().await {
        first = first.and(result);
    }
    first
}

async fn execute(world: &World, package: &Key, action: Action) -> Result<(), Error> {
    match action {
        Action::DeleteInstance { namespace, name, uid, why } => {
            let key = Key::new(namespace, name);
            let api: Api<ModelInstance> = Api::namespaced(world.client.clone(), &key.namespace);
            match execute::delete(&api, &key, &uid).await? {
                Deleted::Gone => world.observe_gone::<ModelInstance>(&key, Some(&uid)),
                Deleted::Leaving(object) => world.observe(*object),
            }
            tracing::info!(instance = %key, why, "removed");
        }
        Action::ApplyInstance { instance, why } => {
            let key = Key::of(&*instance);
            let applied = execute::apply(&world.client, &*instance, field_manager::PACKAGE).await;
            let said = match &applied {
                Err(error) if error.class() == Class::Permanent => Some(error.chain()),
                Ok(_) | Err(_) => None,
            };
            world.refused(package, key.name, said);
            if applied.as_ref().is_err_and(|error| error.class() == Class::Transient) {
                world.sharing.unanswered(package, *instance);
            }
            let written = applied?;
            tracing::info!(instance = %Key::of(&written), node = written.spec.node_name, run = written.spec.run, why, "applied");
            world.observe(written);
        }
    }
    Ok(())
}

fn refuse(world: &World, package: &Package, error: &Error) {
    if error.class() == Class::Permanent {
        world.events.refused(field_manager::PACKAGE, package, error);
    }
}

/// Also: whether it has real-time tasks.
fn observe(world: &World, key: &Key, now: Timestamp) -> Option<(Snapshot, bool)> {
    let package = world.packages.get(key)?;
    let namespace = key.namespace.as_str();
    let about = term("package", Some(namespace), &key.name);
    let models = named(&world.models, namespace, package.spec.models.iter().map(|entry| &entry.name));
    let volumes = package.spec.models.iter().filter_map(|entry| entry.resources.as_ref()?.volume.as_ref());
    let has_tasks = package.spec.schedule.is_some() || models.values().any(|model| model.spec.realtime.is_some());
    world.sharing.looks(key, has_tasks);
    let schedule = package.spec.schedule.as_ref();
    let networks: BTreeMap<String, Arc<Network>> = world
        .networks
        .under(&all_of("networks", Some(namespace)))
        .into_iter()
        .filter_map(|network| Some((network.metadata.name.clone()?, network)))
        .collect();
    let snapshot = Snapshot {
        claims: world.claims.under(&about),
        volumes: named(&world.volumes, namespace, volumes),
        policy: package.spec.policy.as_ref().and_then(|name| world.policies.get(&Key::new(namespace, name.clone()))),
        schedule: schedule.and_then(|name| world.schedules.get(&Key::new(namespace, name.clone()))),
        sharers: schedule.map(|name| sharers(world, key, name)).unwrap_or_default(),
        neighbours: neighbours(world, key, has_tasks, &networks),
        nodes: world.node_views(now),
        instances: world.instances.under(&about),
        refused: world.refusals(key),
        epoch: world.epoch(),
        named: named_by(world, namespace, &networks),
        models,
        networks,
        package,
    };
    Some((snapshot, has_tasks))
}

/// The Models that exist of those that Networks name.
fn named_by(world: &World, namespace: &str, networks: &BTreeMap<String, Arc<Network>>) -> BTreeSet<String> {
    let names = networks.values().flat_map(|network| models_named(&network.spec));
    let there = names.filter(|name| world.models.get(&Key::new(namespace, *name)).is_some());
    there.map(ToOwned::to_owned).collect()
}

/// The other packages that name the same Schedule.
fn sharers(world: &World, key: &Key, schedule: &str) -> Vec<String> {
    let keys = world.packages.keys_under(&term("schedule", Some(&key.namespace), schedule));
    keys.into_iter().map(|other| other.name).filter(|name| *name != key.name).collect()
}

/// Instances of other packages that hold something which this one might want.
fn neighbours(
    world: &World,
    key: &Key,
    has_tasks: bool,
    networks: &BTreeMap<String, Arc<Network>>,
) -> Vec<Arc<ModelInstance>> {
    let timed = if has_tasks { world.instances.under(TIMED) } else { Vec::new() };
    let joined = networks.keys().flat_map(|name| world.instances.under(&term("joined", Some(&key.namespace), name)));
    let mut found: BTreeMap<Key, Arc<ModelInstance>> = BTreeMap::new();
    for instance in timed.into_iter().chain(joined) {
        let other = Key::of(&*instance);
        if other.namespace != key.namespace || instance.spec.package != key.name {
            found.insert(other, instance);
        }
    }
    found.into_values().chain(world.sharing.unknown_to(key)).collect()
}

fn named<'a, K: Resource>(
    cache: &Cache<K>,
    namespace: &str,
    names: impl Iterator<Item = &'a String>,
) -> BTreeMap<String, Arc<K>> {
    names.filter_map(|name| Some((name.clone(), cache.get(&Key::new(namespace, name.clone()))?))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::world::tests::world;

    #[tokio::test]
    async fn a_write_that_was_under_way_when_its_package_went_reserves_nothing() {
        let world = world();
        let (gone, other) = (Key::new("ns", "gone"), Key::new("ns", "other"));
        let instance = json!({
            "apiVersion": "pullpiri.io/v1alpha1", "kind": "ModelInstance", "metadata": {"name": "i", "namespace": "ns"},
            "spec": {
                "package": "gone", "model": "m", "nodeName": "n",
                "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}},
            },
        });
        world.sharing.unanswered(&gone, serde_json::from_value(instance).unwrap());
        assert_eq!(world.sharing.unknown_to(&other).len(), 1);
        // It was deleted, which woke us once more.
        assert_eq!(reconcile(&world, gone).await.unwrap(), Done::Unchanged);
        assert!(world.sharing.unknown_to(&other).is_empty());
    }
}
