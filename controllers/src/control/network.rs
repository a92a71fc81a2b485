//! Networks: all of them at once, since numbers, overlaps and shares of links are between them. Slices, then the statuses.
//!
//! A burst of changes (a package with many models is placed) should end in few generations, and a single change should be told at once. So
//! the first pass that writes slices isn't delayed; one that follows closely waits for a gap, which doubles as long as the burst lasts.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams};
use pullpiri_crds::NetworkSlice;
use pullpiri_reconcilers::field_manager;
use pullpiri_reconcilers::network::{Action, ObjectName, Snapshot, decide};
use tokio::time::Instant;

use super::Done;
use crate::cache::Key;
use crate::execute::{self, Deleted};
use crate::world::World;
use crate::{Class, Error};

/// After a single change: less than it takes a node to hear of it.
const FIRST_GAP: Duration = Duration::from_millis(5);
/// In a long burst: a person doesn't notice it, and a node takes six policies a second easily.
const LAST_GAP: Duration = Duration::from_millis(160);

/// The one thing that is worked on.
pub(crate) fn key() -> Key {
    Key::new("", "networks")
}

/// When slices may be written next.
#[derive(Debug)]
pub(crate) struct Pace {
    written: Option<Instant>,
    gap: Duration,
    /// Something waits for then.
    waiting: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { written: None, gap: FIRST_GAP, waiting: None }
    }
}

impl Pace {
    /// Until when something waits, if it isn't time yet.
    fn waiting(&self, now: Instant) -> Option<Instant> {
        self.waiting.filter(|at| *at > now)
    }

    /// Asks to write now. Answers until when to wait instead, if the last time was too short ago.
    fn ask(&mut self, now: Instant) -> Option<Instant> {
        let due = self.written.map(|at| at + self.gap).filter(|at| *at > now);
        self.waiting = due;
        if due.is_none() {
            // Another within as long again is the same burst.
            let burst = self.written.is_some_and(|at| now < at + self.gap * 2);
            self.gap = if burst { (self.gap * 2).min(LAST_GAP) } else { FIRST_GAP };
            self.written = Some(now);
        }
        due
    }
}

pub(super) async fn reconcile(world: &World, key: Key) -> Result<Done, Error> {
    let now = Instant::now();
    if let Some(at) = world.network_pace(|pace| pace.waiting(now)) {
        world.network_queue.add_at(key, at);
        return Ok(Done::Unchanged);
    }
    let plan = decide(&observe(world), Timestamp::now());
    if !plan.actions.is_empty()
        && let Some(at) = world.network_pace(|pace| pace.ask(now))
    {
        world.network_queue.add_at(key, at);
        return Ok(Done::Unchanged);
    }
    let done = if plan.is_empty() { Done::Unchanged } else { Done::Changed };
    let (applied, deleted): (Vec<_>, Vec<_>) =
        plan.actions.into_iter().partition(|action| matches!(action, Action::ApplySlice(_)));
    let mut result = carry_out(world, applied).await;
    if result.is_ok() {
        result = carry_out(world, deleted).await;
    }
    for write in plan.statuses {
        if let Some(status) = write.status {
            let written = execute::apply_status(&world.client, &*write.network, &*status, field_manager::NETWORK).await;
            match written {
                Ok(network) => world.observe(network),
                // A Network that is gone meanwhile doesn't hold up the others.
                Err(error) if error.class() == Class::Gone => continue,
                Err(error) => result = result.and(Err(error)),
            }
        }
        world.events.publish(field_manager::NETWORK, &*write.network, write.notices);
    }
    result.map(|()| done)
}

fn observe(world: &World) -> Snapshot {
    Snapshot {
        networks: world.networks.all(),
        instances: world.instances.all(),
        nodes: world.nodes.all(),
        packages: world.packages.all(),
        models: world.models.keys().into_iter().map(|key| ObjectName::new(key.namespace, key.name)).collect(),
        slices: world.slices.all(),
    }
}

/// Carries out independent actions side by side. Each is tried; the first error counts.
async fn carry_out(world: &World, actions: Vec<Action>) -> Result<(), Error> {
    let mut under_way: FuturesUnordered<_> = actions.into_iter().map(|action| execute_one(world, action)).collect();
    let mut first = Ok(());
    while let Some(result) = under_way.next().await {
        first = first.and(result);
    }
    first
}

async fn execute_one(world: &World, action: Action) -> Result<(), Error> {
    let api: Api<NetworkSlice> = Api::all(world.client.clone());
    match action {
        Action::ApplySlice(slice) => {
            let key = Key::of(&*slice);
            let params = PatchParams::apply(field_manager::NETWORK).force();
            let written =
                api.patch(&key.name, &params, &Patch::Apply(&*slice))
                    .await
                    .map_err(execute::failed::<NetworkSlice>("apply", &key))?;
            let spec = &written.spec;
            tracing::info!(slice = %key, generation = spec.generation, part = spec.index, of = spec.count, "applied");
            world.observe(written);
        }
        Action::DeleteSlice { name, uid } => {
            let key = Key::new("", name);
            match execute::delete(&api, &key, &uid).await? {
                Deleted::Gone => world.observe_gone::<NetworkSlice>(&key, Some(&uid)),
                Deleted::Leaving(slice) => world.observe(*slice),
            }
            tracing::info!(slice = %key, "removed");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often is written, and when last, if something changes every millisecond for so long.
    fn burst(length_ms: u64) -> (u32, Duration) {
        let start = Instant::now();
        let mut pace = Pace::default();
        let mut writes = 0;
        let mut last = Duration::ZERO;
        let mut pending = false;
        for ms in 0..length_ms + 1000 {
            let now = start + Duration::from_millis(ms);
            pending |= ms <= length_ms;
            if pending && pace.waiting(now).is_none() && pace.ask(now).is_none() {
                (writes, last, pending) = (writes + 1, Duration::from_millis(ms), false);
            }
        }
        assert!(!pending, "the last change is always written");
        (writes, last)
    }

    #[test]
    fn a_single_change_is_written_at_once_and_a_burst_in_few_steps() {
        assert_eq!(burst(0), (1, Duration::ZERO));
        let (writes, last) = burst(100);
        assert!(writes <= 7 && last <= Duration::from_millis(100) + LAST_GAP, "{writes} {last:?}");
        let (writes, last) = burst(2000);
        assert!(writes <= 20 && last <= Duration::from_millis(2000) + LAST_GAP, "{writes} {last:?}");
    }

    #[test]
    fn after_a_quiet_spell_the_first_is_at_once_again() {
        let start = Instant::now();
        let mut pace = Pace::default();
        for ms in 0..400 {
            let _wait = pace.ask(start + Duration::from_millis(ms));
        }
        let later = start + Duration::from_secs(2);
        assert_eq!(pace.ask(later), None);
        assert_eq!(pace.ask(later + Duration::from_millis(1)), Some(later + FIRST_GAP));
    }
}
