//! The watches, all in one place: one stream per kind, into its cache.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::runtime::watcher::{self, Event, watcher};
use pullpiri_crds::names::NODE_LEASE_NAMESPACE;
use pullpiri_crds::{
    Claim, Model, ModelInstance, Network, NetworkSlice, NodeRuntime, Package, Policy, Scenario, Schedule, Volume,
};
use pullpiri_reconcilers::lease::Timing;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cache::Key;
use crate::error::said;
use crate::execute::Kind;
use crate::lead;
use crate::world::{Observed, World};

/// The first delay after a failed watch: an API server that is just starting up shouldn't be waited for longer than it takes.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LAST_DELAY: Duration = Duration::from_secs(15);
const LAST_DELAY_OF_A_CUT: Duration = Duration::from_secs(1);
/// A watch that began again and hasn't failed for so long works.
const WELL_AFTER: Duration = Duration::from_secs(3);

/// Runs every watch until `shutdown`.
pub(crate) async fn run(world: &Arc<World>, shutdown: &CancellationToken) {
    let client = || world.client.clone();
    tokio::join!(
        watch::<Scenario>(world, Api::all(client()), shutdown),
        watch::<Package>(world, Api::all(client()), shutdown),
        watch::<Model>(world, Api::all(client()), shutdown),
        watch::<Volume>(world, Api::all(client()), shutdown),
        watch::<Network>(world, Api::all(client()), shutdown),
        watch::<NetworkSlice>(world, Api::all(client()), shutdown),
        watch::<Schedule>(world, Api::all(client()), shutdown),
        watch::<Policy>(world, Api::all(client()), shutdown),
        watch::<Claim>(world, Api::all(client()), shutdown),
        watch::<ModelInstance>(world, Api::all(client()), shutdown),
        watch::<NodeRuntime>(world, Api::all(client()), shutdown),
        watch::<Lease>(world, Api::namespaced(client(), NODE_LEASE_NAMESPACE), shutdown),
    );
}

async fn watch<K: Observed + Kind>(world: &Arc<World>, api: Api<K>, shutdown: &CancellationToken) {
    let kind = K::kind(&());
    let mut retry = Retry::new(kind.as_ref());
    let what = format!("watch {kind}");
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default()));
    // A watch of a kind that nobody changes says nothing when it is well: well is what hasn't failed for a while.
    let mut well_at = None;
    loop {
        let event = tokio::select! {
            () = shutdown.cancelled() => return,
            event = events.next() => event,
            () = tokio::time::sleep_until(well_at.unwrap_or_else(Instant::now)), if well_at.is_some() => {
                well_at = None;
                retry.is_well();
                world.health.works(&what);
                continue;
            }
        };
        match event {
            None => return,
            Some(Ok(event)) => {
                if retry.received(&event) {
                    world.health.works(&what);
                }
                take_in(world, event);
            }
            Some(Err(error)) => {
                world.metrics.watch_errors.inc();
                if let Some(why) = needs_a_person(kind.as_ref(), &error) {
                    world.health.fails(&what, why);
                }
                let delay = retry.failed(&error);
                well_at = Some(Instant::now() + delay + WELL_AFTER);
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(delay) => {}
                }
            }
        }
    }
}

fn take_in<K: Observed + Kind>(world: &World, event: Event<K>) {
    match event {
        Event::Init => K::cache(world).list_begins(),
        Event::InitApply(object) => world.observe_listed(object),
        Event::Apply(object) => world.observe(object),
        Event::InitDone => {
            for change in K::cache(world).list_ends() {
                K::changed(world, &change);
            }
        }
        Event::Delete(object) => world.observe_gone::<K>(&Key::of(&object), object.meta().uid.as_deref()),
    }
}

/// Delays between attempts, and one line in the log per outage.
#[derive(Debug)]
pub(crate) struct Retry {
    what: String,
    failures: u32,
    /// Whether the log tells of an outage.
    told: bool,
    random: RandomState,
}

impl Retry {
    pub fn new(what: &str) -> Self {
        Self { what: what.to_owned(), failures: 0, told: false, random: RandomState::new() }
    }

    /// An event came. That a list begins proves nothing yet: it is said before the server is asked. Returns whether it ends a series of failures.
    pub fn received<K>(&mut self, event: &Event<K>) -> bool {
        if matches!(event, Event::Init) {
            return false;
        }
        let failed = self.failures > 0;
        self.is_well();
        failed
    }

    /// The watch works.
    pub fn is_well(&mut self) {
        if self.told {
            tracing::info!(what = self.what, "watching again");
        }
        self.failures = 0;
        self.told = false;
    }

    pub fn failed(&mut self, error: &watcher::Error) -> Duration {
        // A watch that was closed or fell behind starts again at once: that is how watches are.
        let usual = match error {
            watcher::Error::WatchFailed(_) => self.failures == 0,
            watcher::Error::WatchError(status) => status.code == 410,
            _ => false,
        };
        if !self.told && !usual {
            self.told = true;
            tracing::warn!(what = self.what, error = describe(error), "watching failed; trying again until it works");
        } else {
            tracing::debug!(what = self.what, error = describe(error), "watching failed");
        }
        // One that had begun was cut: the server is there.
        let last = if matches!(error, watcher::Error::WatchFailed(_)) { LAST_DELAY_OF_A_CUT } else { LAST_DELAY };
        let delay = FIRST_DELAY.saturating_mul(1_u32.checked_shl(self.failures.min(16)).unwrap_or(u32::MAX)).min(last);
        self.failures = self.failures.saturating_add(1);
        let delay = delay.max(asked_to_wait(error).unwrap_or_default());
        Timing::jittered(delay, self.random.hash_one((&self.what, self.failures)))
    }
}

/// What won't pass by itself: a permission that is missing, a kind that isn't served.
fn needs_a_person(kind: &str, error: &watcher::Error) -> Option<String> {
    let status = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => status,
        _ => return None,
    };
    match status.code {
        401 | 403 => Some(format!("{}; grant list and watch to the controllers", status.message)),
        404 => Some(format!(
            "the API server doesn't serve {kind}; install the CustomResourceDefinitions (helm upgrade, or pullpiri crds | kubectl apply --server-side -f -)"
        )),
        _ => None,
    }
}

fn asked_to_wait(error: &watcher::Error) -> Option<Duration> {
    match error {
        watcher::Error::InitialListFailed(cause)
        | watcher::Error::WatchStartFailed(cause)
        | watcher::Error::WatchFailed(cause) => lead::asked_to_wait(cause),
        watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => None,
    }
}

/// What a person needs to know: what was attempted, and what the server said.
fn describe(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(cause) => format!("listing: {}", said(cause)),
        watcher::Error::WatchStartFailed(cause) => format!("starting the watch: {}", said(cause)),
        watcher::Error::WatchFailed(cause) => format!("reading the watch: {}", said(cause)),
        watcher::Error::WatchError(status) => format!("watching: {}", status.message),
        watcher::Error::NoResourceVersion => error.to_string(),
    }
}
