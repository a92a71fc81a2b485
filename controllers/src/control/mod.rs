//! The loops that take objects off their queues. What they do with one is in the module of its kind.

pub(crate) mod network;
mod node;
mod package;
mod scenario;

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::cache::Key;
use crate::lead::RaiseError;
use crate::metrics::{Name, Outcome};
use crate::queue::Queue;
use crate::world::World;
use crate::{Class, Error};

/// Objects of one kind that are reconciled at the same time: enough to keep the store's group commit busy.
const CONCURRENCY: usize = 16;
/// How often to look whether every cache is filled. Only at the start.
const SYNC_POLL: Duration = Duration::from_millis(2);
/// Between attempts to raise the epoch.
const RAISE_PAUSE: Duration = Duration::from_millis(500);
/// What is under way at the end has so long to finish, so that whoever comes next finds whole work.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a reconciliation came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Unchanged,
    Changed,
}

/// Runs every controller until `shutdown`.
pub(crate) async fn run(world: &Arc<World>, shutdown: &CancellationToken) {
    // Once, at the start; a wake-up per cache would be more machinery than this is worth.
    world.health.pending(Some("listing what there is"));
    while !world.synced() {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(SYNC_POLL) => {}
        }
    }
    if !settle_epoch(world, shutdown).await {
        return;
    }
    world.follow_scenarios();
    world.health.pending(None);
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

/// Makes sure that nobody acted under our epoch, or a higher one, before us. False: told to stop, or not leading any more.
async fn settle_epoch(world: &World, shutdown: &CancellationToken) -> bool {
    let Some(newest) = world.newest_epoch() else { return true };
    let Some(reign) = &world.reign else {
        // Nobody else is at work, so the newest is our own from before.
        world.raise_epoch(newest);
        return true;
    };
    while newest >= world.epoch() {
        let to = newest.saturating_add(1);
        match reign.raise(to).await {
            Ok(()) => {
                tracing::warn!(
                    from = world.epoch(),
                    to,
                    "the lease was made anew; its transitions go on from what instances carry"
                );
                world.raise_epoch(to);
            }
            Err(RaiseError::NotOurs) => return false,
            Err(error @ RaiseError::Failed { .. }) => {
                tracing::warn!(%error, "trying again until it works");
                tokio::select! {
                    () = shutdown.cancelled() => return false,
                    () = tokio::time::sleep(RAISE_PAUSE) => {}
                }
            }
        }
    }
    true
}

async fn work<F>(world: &World, name: Name, queue: &Queue, shutdown: &CancellationToken, reconcile: impl Fn(Key) -> F)
where
    F: Future<Output = Result<Done, Error>>,
{
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(()) = under_way.next(), if !under_way.is_empty() => {}
            key = queue.next(), if under_way.len() < CONCURRENCY => {
                let span = tracing::debug_span!("reconcile", controller = name.as_str(), object = %key);
                let work = reconcile(key.clone());
                under_way.push(async move {
                    let start = Instant::now();
                    // One object that we can't cope with mustn't keep all the others waiting.
                    let result = match AssertUnwindSafe(work).catch_unwind().await {
                        Ok(result) => result,
                        Err(panic) => Err(panicked(&key, &*panic)),
                    };
                    let seconds = start.elapsed().as_secs_f64();
                    world.metrics.reconciled(name, outcome(&result), seconds);
                    tell(world, name, &key, &result);
                    settle(name, queue, &key, result);
                }.instrument(span));
            }
        }
    }
    // What isn't finished by then is left: the next one finds out.
    let _unfinished = tokio::time::timeout(LAST_WORDS, async { while under_way.next().await.is_some() {} }).await;
}

fn outcome(result: &Result<Done, Error>) -> Outcome {
    match result {
        Ok(Done::Unchanged) => Outcome::unchanged,
        Ok(Done::Changed) => Outcome::changed,
        Err(_) => Outcome::failed,
    }
}

fn panicked(key: &Key, panic: &(dyn Any + Send)) -> Error {
    let said =
        panic.downcast_ref::<&str>().map(ToString::to_string).or_else(|| panic.downcast_ref::<String>().cloned());
    Error::Panicked { name: key.to_string(), said: said.unwrap_or_default() }
}

fn tell(world: &World, name: Name, key: &Key, result: &Result<Done, Error>) {
    match result {
        Ok(_) => world.allowed(name, key.clone()),
        Err(error) if error.class() == Class::Gone => world.allowed(name, key.clone()),
        Err(error) => {
            if let Some(said) = error.forbidden() {
                world.forbidden(name, key.clone(), said);
            }
        }
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
    let (failures, delay) = queue.failed(key, error.asked_to_wait());
    let controller = name.as_str();
    // An error once; a conflict is no error, it is somebody else's work.
    if failures == 1 && !matches!(error.class(), Class::Conflict | Class::Deposed) {
        tracing::warn!(controller, object = %key, error = error.chain(), "reconciling failed; trying again until it works");
    } else {
        tracing::debug!(controller, object = %key, error = error.chain(), failures, ?delay, "reconciling failed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::tests::world;

    #[tokio::test(start_paused = true)]
    async fn an_object_that_panics_is_tried_again_and_the_others_go_on() {
        let world = world();
        let (bad, good) = (Key::new("ns", "bad"), Key::new("ns", "good"));
        world.package_queue.add(bad.clone());
        world.package_queue.add(good.clone());
        let shutdown = CancellationToken::new();
        let tries = std::sync::Mutex::new(Vec::new());
        let reconcile = |key: Key| {
            let (bad, shutdown, tries) = (&bad, &shutdown, &tries);
            async move {
                let mut tries = tries.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                tries.push(key.name.clone());
                if tries.len() > 3 {
                    shutdown.cancel();
                }
                assert_ne!(&key, bad, "as tests do");
                Ok(Done::Unchanged)
            }
        };
        work(&world, Name::package, &world.package_queue, &shutdown, reconcile).await;
        assert_eq!(
            tries.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner),
            ["bad", "good", "bad", "bad"]
        );
    }
}
