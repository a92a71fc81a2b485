//! The kinds that are watched: where each is kept, and who has to look when one changes.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Resource;
use pullpiri_crds::names::{NODE_LEASE_NAMESPACE, node_lease, rfc1123};
use pullpiri_crds::{
    Claim, Model, ModelInstance, Network, NetworkSlice, NodeRuntime, Package, Policy, Scenario, Schedule, Volume,
};
use pullpiri_reconcilers::package::{promised, unusable};

use super::{World, all_of, lock, term};
use crate::cache::{Cache, Change, Key};

/// A kind that is watched.
pub(crate) trait Observed: Resource + Sized {
    fn cache(world: &World) -> &Cache<Self>;
    /// Lets it have what others of its kind hold already.
    fn share(_: &World, _: &mut Self) {}
    /// Who has to look.
    fn changed(world: &World, change: &Change<Self>);
}

impl Observed for Scenario {
    fn cache(world: &World) -> &Cache<Self> {
        &world.scenarios
    }

    fn changed(world: &World, change: &Change<Self>) {
        for scenario in change.both() {
            let key = Key::of(&**scenario);
            match &change.after {
                Some(after) => world.follow(&key, after),
                None => world.hub.forget(&key),
            }
            world.scenario_queue.add(key);
        }
    }
}

impl Observed for Package {
    fn cache(world: &World) -> &Cache<Self> {
        &world.packages
    }

    fn changed(world: &World, change: &Change<Self>) {
        world.wake_networks(change, |package| package.spec.models.clone());
        for package in change.both().take(1) {
            let key = Key::of(&**package);
            world.wake_scenarios_of(Some(&key.namespace), &key.name);
            if change.after.is_none() {
                world.forget_package(&key);
            }
            if is_seen(package) { world.wake_package(key) } else { world.package_queue.add(key) }
        }
        // Another one may have to write what was proven of their Schedule.
        let named = |package: &Option<Arc<Self>>| package.as_ref().and_then(|p| p.spec.schedule.clone());
        if named(&change.before) != named(&change.after) {
            for package in change.both() {
                let namespace = package.metadata.namespace.as_deref();
                if let Some(schedule) = &package.spec.schedule {
                    world.wake_packages(&term("schedule", namespace, schedule));
                }
            }
        }
    }
}

/// Whether somebody has looked at it as it is declared now.
fn is_seen(package: &Package) -> bool {
    package.status.as_ref().and_then(|status| status.observed_generation) == package.metadata.generation
}

impl Observed for Model {
    fn cache(world: &World) -> &Cache<Self> {
        &world.models
    }

    fn changed(world: &World, change: &Change<Self>) {
        world.wake_networks(change, |_| ());
        let came_or_went = change.before.is_none() != change.after.is_none();
        for model in change.both().take(1) {
            let key = Key::of(&**model);
            world.wake_packages(&term("model", Some(&key.namespace), &key.name));
            // Nothing is placed into a Network that names what isn't there.
            if came_or_went && world.synced() && world.is_named(&key) {
                world.wake_packages(&all_of("packages", Some(&key.namespace)));
            }
        }
    }
}

impl Observed for Volume {
    fn cache(world: &World) -> &Cache<Self> {
        &world.volumes
    }

    fn changed(world: &World, change: &Change<Self>) {
        for volume in change.both().take(1) {
            let key = Key::of(&**volume);
            world.wake_packages(&term("volume", Some(&key.namespace), &key.name));
        }
    }
}

impl Observed for Network {
    fn cache(world: &World) -> &Cache<Self> {
        &world.networks
    }

    fn changed(world: &World, change: &Change<Self>) {
        world.wake_networks(change, |network| {
            (network.metadata.uid.clone(), network.spec.clone(), network.status.clone())
        });
        // Any model may join it by its labels. How many have is nobody's business here.
        let matters = |network: &Option<Arc<Self>>| network.as_ref().map(|n| (n.spec.clone(), unusable(n)));
        if matters(&change.before) != matters(&change.after) {
            for network in change.both().take(1) {
                world.wake_packages(&all_of("packages", network.metadata.namespace.as_deref()));
            }
        }
        // Whoever was refused for its guarantees may fit beside what is left of them.
        let takes = |network: &Option<Arc<Self>>| network.as_deref().map(promised).filter(|(bps, _)| *bps > 0);
        if takes(&change.before) != takes(&change.after) {
            for key in world.packages.keys() {
                world.wake_package(key);
            }
        }
    }
}

impl Observed for NetworkSlice {
    fn cache(world: &World) -> &Cache<Self> {
        &world.slices
    }

    fn changed(world: &World, change: &Change<Self>) {
        world.wake_networks(change, |slice| {
            (slice.metadata.uid.clone(), slice.metadata.labels.clone(), slice.spec.clone())
        });
    }
}

impl Observed for Schedule {
    fn cache(world: &World) -> &Cache<Self> {
        &world.schedules
    }

    fn changed(world: &World, change: &Change<Self>) {
        for schedule in change.both().take(1) {
            let key = Key::of(&**schedule);
            world.wake_packages(&term("schedule", Some(&key.namespace), &key.name));
        }
    }
}

impl Observed for Policy {
    fn cache(world: &World) -> &Cache<Self> {
        &world.policies
    }

    fn changed(world: &World, change: &Change<Self>) {
        for policy in change.both().take(1) {
            let key = Key::of(&**policy);
            world.wake_packages(&term("policy", Some(&key.namespace), &key.name));
        }
    }
}

impl Observed for Claim {
    fn cache(world: &World) -> &Cache<Self> {
        &world.claims
    }

    fn changed(world: &World, change: &Change<Self>) {
        for claim in change.both() {
            let key = Key::of(&**claim);
            world.wake_package(Key::new(key.namespace.clone(), claim.spec.package.clone()));
            // The scenario of this name, and those that this claim may override or has overridden.
            world.wake_scenarios_of(Some(&key.namespace), &claim.spec.package);
            world.scenario_queue.add(key);
        }
    }
}

impl Observed for ModelInstance {
    fn cache(world: &World) -> &Cache<Self> {
        &world.instances
    }

    fn share(world: &World, instance: &mut Self) {
        world.templates.share(instance);
    }

    fn changed(world: &World, change: &Change<Self>) {
        world.wake_networks(change, |instance| (instance.metadata.uid.clone(), instance.spec.network.clone()));
        for instance in change.both().take(1) {
            let namespace = instance.metadata.namespace.clone().unwrap_or_default();
            world.wake_package(Key::new(namespace, instance.spec.package.clone()));
        }
        for key in world.sharing.concerned(change) {
            world.wake_package(key);
        }
        // Nobody else lets go of what leaves a node that isn't there any more.
        if let Some(instance) = &change.after
            && instance.metadata.deletion_timestamp.is_some()
            && let Some(node) = rfc1123(&instance.spec.node_name)
            && world.nodes.get(&Key::new("", node.clone())).is_none()
        {
            world.node_queue.add(Key::new("", node));
        }
    }
}

impl Observed for NodeRuntime {
    fn cache(world: &World) -> &Cache<Self> {
        &world.nodes
    }

    fn changed(world: &World, change: &Change<Self>) {
        world
            .wake_networks(change, |node| (node.metadata.uid.clone(), node.status.as_ref().map(|s| s.network.clone())));
        for node in change.both().take(1) {
            let key = Key::of(&**node);
            if change.after.is_none() {
                lock(&world.heartbeats).remove(&key.name);
            } else if change.before.is_none() {
                // Its Lease may have been there first.
                if let Some(lease) = world.leases.get(&Key::new(NODE_LEASE_NAMESPACE, node_lease(&key.name))) {
                    world.heard(&lease, Timestamp::now());
                }
            }
            world.refresh_node(&key.name, Timestamp::now());
        }
    }
}

impl Observed for Lease {
    fn cache(world: &World) -> &Cache<Self> {
        &world.leases
    }

    fn changed(world: &World, change: &Change<Self>) {
        // A Lease that is deleted runs out like one that isn't renewed.
        if let Some(lease) = &change.after {
            world.heard(lease, Timestamp::now());
        }
    }
}
