//! Nodes: what to say about one that fell silent, and when to look again.

use std::time::Duration;

use jiff::Timestamp;
use kube::Api;
use pullpiri_crds::{ModelInstance, NodeRuntime};
use pullpiri_reconcilers::field_manager;
use pullpiri_reconcilers::node::{Action, Snapshot, abandoned, decide};
use serde_json::json;
use tokio::time::Instant;

use super::Done;
use crate::cache::Key;
use crate::execute;
use crate::world::{World, on_node};
use crate::{Class, Error};

/// Past a lease's end, so that the clock has certainly passed it when we look.
const MARGIN: Duration = Duration::from_millis(1);

pub(super) async fn reconcile(world: &World, key: Key) -> Result<Done, Error> {
    let now = Timestamp::now();
    let instances = world.instances.under(&on_node(&key.name));
    let (plan, node) = match world.nodes.get(&key) {
        Some(node) => {
            let pulse = world.pulse(&node, now);
            (decide(&Snapshot { node: node.clone(), pulse, instances }, now), Some(node))
        }
        None => (abandoned(&instances), None),
    };
    // Placement may see the node differently now that time has passed.
    world.refresh_node(&key.name, now);
    if let Some(at) = plan.look_again_at {
        let wait = at.duration_since(now).unsigned_abs() + MARGIN;
        world.node_queue.add_at(key, Instant::now() + wait);
    }
    let done = if plan.is_empty() { Done::Unchanged } else { Done::Changed };
    for action in plan.actions {
        match execute_one(world, action).await {
            // An instance that is gone meanwhile doesn't hold up the others.
            Err(error) if error.class() == Class::Gone => {}
            result => result?,
        }
    }
    if let Some(node) = node {
        world.events.publish(field_manager::NODE, &*node, plan.notices);
    }
    Ok(done)
}

async fn execute_one(world: &World, action: Action) -> Result<(), Error> {
    let client = || world.client.clone();
    match action {
        Action::NodeCondition { node, uid, condition } => {
            let api: Api<NodeRuntime> = Api::all(client());
            let key = Key::new("", node);
            tracing::info!(node = %key, ready = condition.status, reason = condition.reason, "node");
            let status = json!({ "conditions": [condition] });
            world.observe(execute::apply_partial_status(&api, &key, &uid, status, field_manager::NODE).await?);
        }
        Action::InstanceUnknown { namespace, name, uid, condition } => {
            let api: Api<ModelInstance> = Api::namespaced(client(), &namespace);
            let key = Key::new(namespace, name);
            let status = json!({ "phase": "Unknown", "conditions": [condition] });
            world.observe(execute::apply_partial_status(&api, &key, &uid, status, field_manager::NODE).await?);
        }
        Action::ReleaseInstance { namespace, name, uid, resource_version, finalizers } => {
            let key = Key::new(namespace, name);
            tracing::info!(instance = %key, "released: its node was removed");
            let released: ModelInstance =
                execute::set_finalizers(&world.client, &key, &uid, &resource_version, &finalizers).await?;
            if released.metadata.finalizers.as_ref().is_none_or(Vec::is_empty) {
                world.observe_gone::<ModelInstance>(&key, Some(&uid));
            } else {
                world.observe(released);
            }
        }
    }
    Ok(())
}
