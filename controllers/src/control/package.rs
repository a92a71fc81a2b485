//! Packages: removals, then additions, then the status.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use kube::Resource;
use pullpiri_crds::{ModelInstance, Package};
use pullpiri_reconcilers::field_manager;
use pullpiri_reconcilers::package::{Action, Snapshot, decide};

use super::Done;
use crate::cache::{Cache, Key};
use crate::execute::{self, Deleted};
use crate::world::{World, term};
use crate::{Class, Error};

pub(super) async fn reconcile(world: &World, key: Key) -> Result<Done, Error> {
    let now = Timestamp::now();
    let Some(snapshot) = observe(world, &key, now) else {
        return Ok(Done::Unchanged);
    };
    let plan = decide(&snapshot, now);
    if let Some(theirs) = plan.superseded_by {
        return Err(Error::Superseded { name: key.to_string(), theirs, ours: world.epoch });
    }
    let done = if plan.is_empty() { Done::Unchanged } else { Done::Changed };
    let (removals, additions): (Vec<_>, Vec<_>) =
        plan.actions.into_iter().partition(|action| matches!(action, Action::DeleteInstance { .. }));
    let removed = carry_out(world, &key, removals).await;
    // A model that moves must not run in two places because the first couldn't be told.
    let added = if removed.is_ok() { carry_out(world, &key, additions).await } else { Ok(()) };
    if let Some(status) = plan.status {
        let written =
            execute::apply_status(&world.client, &*snapshot.package, &*status, field_manager::PACKAGE).await?;
        world.observe(written);
    }
    world.events.publish(field_manager::PACKAGE, &*snapshot.package, plan.notices);
    removed.and(added).inspect_err(|error| refuse(world, &snapshot.package, error))?;
    Ok(done)
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
            match execute::delete::<ModelInstance>(&world.client, &key, &uid).await? {
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

fn observe(world: &World, key: &Key, now: Timestamp) -> Option<Snapshot> {
    let package = world.packages.get(key)?;
    let namespace = key.namespace.as_str();
    let about = term("package", Some(namespace), &key.name);
    let models = package.spec.models.iter().map(|entry| &entry.name);
    let given = || package.spec.models.iter().filter_map(|entry| entry.resources.as_ref());
    Some(Snapshot {
        claims: world.claims.under(&about),
        models: named(&world.models, namespace, models),
        volumes: named(&world.volumes, namespace, given().filter_map(|r| r.volume.as_ref())),
        networks: named(&world.networks, namespace, given().filter_map(|r| r.network.as_ref())),
        nodes: world.node_views(now),
        instances: world.instances.under(&about),
        refused: world.refusals(key),
        epoch: world.epoch,
        package,
    })
}

fn named<'a, K: Resource>(
    cache: &Cache<K>,
    namespace: &str,
    names: impl Iterator<Item = &'a String>,
) -> BTreeMap<String, Arc<K>> {
    names.filter_map(|name| Some((name.clone(), cache.get(&Key::new(namespace, name.clone()))?))).collect()
}
