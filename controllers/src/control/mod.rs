//! The loops that take objects off their queues. What they do with one is in the module of its kind.

pub(crate) mod network;
mod node;
mod package;
mod scenario;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::cache::Key;
use crate::metrics::{Name, Outcome};
use crate::queue::Queue;
use crate::world::World;
use crate::{Class, Error};

/// Objects of one kind that are reconciled at the same time: enough to keep the store's group commit busy.
const CONCURRENCY: usize = 16;
/// How often to look whether every cache is filled. Only at the start.
const SYNC_POLL: Duration = Duration::from_millis(2);

/// What a reconciliation came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Unchanged,
    Changed,
}

/// Runs every controller until `shutdown`.
pub(crate) async fn run(world: &Arc<World>, shutdown: &CancellationToken) {
    // Once, at the start; a wake-up per cache would be more machinery than this is worth.
    while !world.synced() {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(SYNC_POLL) => {}
        }
    }
    world.follow_scenarios();
    tracing::info!(
        scenarios = world.scenarios.keys().len(),
        packages = world.packages.keys().len(),
        nodes = world.nodes.keys().len(),
        "controllers are at work"
    );
    tokio::join!(
        work(world, Name::scenario, &world.scenario_queue, shutdown, |key| scenario::reconcile(world, key)),
        work(world, Name::package, &world.package_queue, shutdown, |key| package::reconcile(world, key)),
        work(world, Name::node, &world.node_queue, shutdown, |key| node::reconcile(world, key)),
        work(world, Name::network, &world.network_queue, shutdown, |key| network::reconcile(world, key)),
    );
}

async fn work<F>(world: &World, name: Name, queue: &Queue, shutdown: &CancellationToken, reconcile: impl Fn(Key) -> F)
where
    F: Future<Output = Result<Done, Error>>,
{
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            Some(()) = under_way.next(), if !under_way.is_empty() => {}
            key = queue.next(), if under_way.len() < CONCURRENCY => {
                let span = tracing::debug_span!("reconcile", controller = name.as_str(), object = %key);
                let work = reconcile(key.clone());
                under_way.push(async move {
                    let start = Instant::now();
                    let result = work.await;
                    let seconds = start.elapsed().as_secs_f64();
                    world.metrics.reconciled(name, outcome(&result), seconds);
                    settle(name, queue, &key, result);
                }.instrument(span));
            }
        }
    }
}

fn outcome(result: &Result<Done, Error>) -> Outcome {
    match result {
        Ok(Done::Unchanged) => Outcome::unchanged,
        Ok(Done::Changed) => Outcome::changed,
        Err(_) => Outcome::failed,
    }
}

fn settle(name: Name, queue: &Queue, key: &Key, result: Result<Done, Error>) {
    let Err(error) = result else {
        return queue.done(key);
    };
    if error.class() == Class::Gone {
        // The watch will tell; there is nothing to repeat.
        return queue.done(key);
    }
    let (failures, delay) = queue.failed(key);
    let controller = name.as_str();
    // An error once; a conflict is no error, it is somebody else's work.
    if failures == 1 && error.class() != Class::Conflict {
        tracing::warn!(controller, object = %key, error = error.chain(), "reconciling failed; trying again until it works");
    } else {
        tracing::debug!(controller, object = %key, error = error.chain(), failures, ?delay, "reconciling failed");
    }
}
