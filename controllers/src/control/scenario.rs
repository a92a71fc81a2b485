//! Scenarios: the claim first, then the status.

use jiff::Timestamp;
use kube::Api;
use pullpiri_crds::Claim;
use pullpiri_reconcilers::field_manager;
use pullpiri_reconcilers::scenario::{Action, EdgeFate, Snapshot, decide};

use super::Done;
use crate::Error;
use crate::cache::Key;
use crate::execute::{self, Deleted};
use crate::world::{World, term};

pub(super) async fn reconcile(world: &World, key: Key) -> Result<Done, Error> {
    let Some(snapshot) = observe(world, &key) else {
        return Ok(Done::Unchanged);
    };
    let plan = decide(&snapshot, Timestamp::now());
    let done = if plan.is_empty() { Done::Unchanged } else { Done::Changed };
    for action in plan.actions {
        match action {
            Action::ApplyClaim(claim) => {
                let claim =
                    execute::apply(&world.client, &*claim, field_manager::SCENARIO).await.inspect_err(|error| {
                        if error.class() == crate::Class::Permanent {
                            world.events.refused(field_manager::SCENARIO, &*snapshot.scenario, error);
                        }
                    })?;
                world.metrics.claims_written.inc();
                tracing::info!(scenario = %key, package = claim.spec.package, action = claim.spec.action.as_str(), "claimed");
                world.observe(claim);
            }
            Action::DeleteClaim { namespace, name, uid } => {
                let claim = Key::new(namespace, name);
                let api: Api<Claim> = Api::namespaced(world.client.clone(), &claim.namespace);
                match execute::delete(&api, &claim, &uid).await? {
                    Deleted::Gone => world.observe_gone::<Claim>(&claim, Some(&uid)),
                    Deleted::Leaving(object) => world.observe(*object),
                }
            }
        }
    }
    if let EdgeFate::Consumed(number) = plan.edge {
        world.hub.consumed(&key, snapshot.scenario.metadata.uid.as_deref(), number);
    }
    if let Some(status) = plan.status {
        let written =
            execute::apply_status(&world.client, &*snapshot.scenario, &*status, field_manager::SCENARIO).await?;
        world.observe(written);
    }
    world.events.publish(field_manager::SCENARIO, &*snapshot.scenario, plan.notices);
    Ok(done)
}

fn observe(world: &World, key: &Key) -> Option<Snapshot> {
    // The condition first: a sample that comes in between wakes us again, an edge that was consumed doesn't.
    let observed = world.hub.observed(key);
    let scenario = world.scenarios.get(key)?;
    let target = Key::new(key.namespace.clone(), scenario.spec.target.clone());
    Some(Snapshot {
        claim: world.claims.get(key),
        package: world.packages.get(&target),
        claims: world.claims.under(&term("package", Some(&target.namespace), &target.name)),
        observed,
        scenario,
    })
}
