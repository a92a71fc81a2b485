//! The watch of this node's NetworkSlices.

use std::collections::BTreeMap;

use kube::core::error_boundary::DeserializeGuard;
use kube::runtime::watcher;
use kube::{Api, Client};
use pullpiri_crds::{NetworkSlice, NetworkSliceSpec};
use pullpiri_node_core::network::{Generation, assemble};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::watching::Watch;

/// What is known of this node's slices.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Known {
    NotYet,
    /// The newest whole generation; `None` if there are no slices.
    All(Option<Generation>),
}

/// Watches until `stop`. A generation that isn't whole yet is waited for; meanwhile the one before stays.
pub(super) async fn watch(client: Client, node: String, generations: watch::Sender<Known>, stop: CancellationToken) {
    let api: Api<DeserializeGuard<NetworkSlice>> = Api::all(client);
    let mut events = Watch::of(api, &format!("spec.nodeName={node}"));
    let mut slices: BTreeMap<String, NetworkSliceSpec> = BTreeMap::new();
    let mut listing: BTreeMap<String, NetworkSliceSpec> = BTreeMap::new();
    let mut synced = false;
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return,
            event = events.next() => event,
        };
        match event {
            None => return,
            Some(Err(error)) => {
                debug!(%error, "NetworkSlices can't be watched; those on disk stay in force");
                continue;
            }
            Some(Ok(watcher::Event::Init)) => listing = BTreeMap::new(),
            Some(Ok(watcher::Event::InitApply(object))) => insert(&mut listing, object),
            Some(Ok(watcher::Event::InitDone)) => {
                slices = std::mem::take(&mut listing);
                synced = true;
            }
            Some(Ok(watcher::Event::Apply(object))) => insert(&mut slices, object),
            Some(Ok(watcher::Event::Delete(object))) => {
                slices.remove(&name(&object));
            }
        }
        if !synced {
            continue;
        }
        let whole = assemble(slices.values());
        if whole.is_some() || slices.is_empty() {
            generations.send_if_modified(|known| {
                let now = Known::All(whole);
                let changed = *known != now;
                *known = now;
                changed
            });
        }
    }
}

fn name(object: &DeserializeGuard<NetworkSlice>) -> String {
    let metadata = match &object.0 {
        Ok(object) => &object.metadata,
        Err(invalid) => &invalid.metadata,
    };
    metadata.name.clone().unwrap_or_default()
}

fn insert(slices: &mut BTreeMap<String, NetworkSliceSpec>, object: DeserializeGuard<NetworkSlice>) {
    let name = name(&object);
    match object.0 {
        Ok(object) => {
            slices.insert(name, object.spec);
        }
        // Its generation isn't whole without it, so what is in force stays.
        Err(invalid) => {
            warn!(name, error = invalid.error, "a NetworkSlice can't be read by this version");
            slices.remove(&name);
        }
    }
}
