//! The Pods of this node, as one watch tells them, and what that means for pods. Nothing is polled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use pullpiri_node_core::runtime::{ContainerStateObserved, PodId, PodObserved, Timestamp};
use pullpiri_node_host::cgroup::{Cgroups, DEFAULT_ROOT, kubelet};
use tokio::sync::{broadcast, watch};
use tracing::debug;

use super::observe;
use super::read::Pod;
use crate::RuntimeEvent;

/// Events that may wait for a listener; one that is further behind lists again.
const QUEUE: usize = 1024;
/// A container is said to run a moment after it does, so its process is there. How often and how long apart it is looked for.
const LOOKS: u32 = 10;
const LOOK: Duration = Duration::from_millis(20);

/// What the watch has told.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub pods: BTreeMap<PodId, Arc<Pod>>,
    /// Pods that were stopped on purpose and are gone, until they are removed: Kubernetes forgets exit codes with the Pod.
    pub stopped: BTreeMap<PodId, PodObserved>,
    /// Pods that are being stopped.
    pub stopping: BTreeSet<PodId>,
    /// Whether `pods` are all there are.
    pub synced: bool,
}

/// What the adapter's clones share.
#[derive(Debug)]
pub(super) struct Shared {
    pub known: watch::Sender<Known>,
    pub events: broadcast::Sender<RuntimeEvent>,
    /// First processes by container id.
    pids: Mutex<BTreeMap<String, u32>>,
    started: std::sync::atomic::AtomicBool,
}

impl Shared {
    pub fn new() -> Self {
        Self {
            known: watch::Sender::default(),
            events: broadcast::Sender::new(QUEUE),
            pids: Mutex::default(),
            started: false.into(),
        }
    }

    /// Starts the watch, once. It ends with the last clone of the adapter.
    pub fn start(self: &Arc<Self>, client: Client, node: &str) {
        if self.started.swap(true, std::sync::atomic::Ordering::SeqCst) {
            return;
        }
        let config =
            watcher::Config::default().fields(&super::of_node(node)).labels(pullpiri_crds::names::LABEL_INSTANCE_UID);
        let stream = watcher(Api::<Pod>::all(client), config).default_backoff();
        let shared = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut stream = std::pin::pin!(stream);
            let mut listed = BTreeMap::new();
            while let Some(event) = stream.next().await {
                let Some(shared) = shared.upgrade() else { return };
                match event {
                    Ok(event) => shared.take(event, &mut listed).await,
                    // Pods go on without an API server, and so does what is known of them.
                    Err(error) => debug!(%error, "the watch of Pods is tried again"),
                }
            }
        });
    }

    async fn take(&self, event: watcher::Event<Pod>, listed: &mut BTreeMap<PodId, Arc<Pod>>) {
        match event {
            watcher::Event::Init => listed.clear(),
            watcher::Event::InitApply(pod) => {
                if let Some(id) = observe::instance(&pod) {
                    listed.insert(id, slim(pod));
                }
            }
            watcher::Event::InitDone => {
                let pods = std::mem::take(listed);
                self.known.send_modify(|known| {
                    let gone: Vec<Arc<Pod>> = known
                        .pods
                        .iter()
                        .filter(|(id, _)| !pods.contains_key(id))
                        .map(|(_, pod)| pod.clone())
                        .collect();
                    known.pods = pods;
                    known.synced = true;
                    gone.iter().for_each(|pod| keep_stopped(known, pod));
                });
                self.tell(RuntimeEvent::Resync);
            }
            watcher::Event::Apply(pod) => self.changed(slim(pod)).await,
            watcher::Event::Delete(pod) => self.deleted(&pod),
        }
    }

    async fn changed(&self, pod: Arc<Pod>) {
        let Some(id) = observe::instance(&pod) else { return };
        // Looked for before anybody is told, so that nobody hears of a process without its id.
        let pids = self.pids_of(std::slice::from_ref(&pod)).await;
        let mut earlier = None;
        self.known.send_modify(|known| earlier = known.pods.insert(id.clone(), Arc::clone(&pod)));
        let earlier = earlier.filter(|earlier| observe::uid(earlier) == observe::uid(&pod));
        let Some(now) = observe::pod(&pod, &pids) else { return };
        let then = earlier.as_ref().and_then(|earlier| observe::pod(earlier, &pids));
        for container in now.containers {
            let known = then.as_ref().and_then(|then| then.containers.iter().find(|c| c.name == container.name));
            if known == Some(&container) {
                continue;
            }
            if let Some(before) = observe::before(&pod, &container.name)
                && known.is_some_and(|known| known.attempt <= before.attempt && *known != before)
            {
                self.tell(RuntimeEvent::Container { pod: id.clone(), container: before });
            }
            self.tell(RuntimeEvent::Container { pod: id.clone(), container });
        }
        if !now.sandbox_alive && then.is_none_or(|then| then.sandbox_alive) {
            self.tell(RuntimeEvent::Sandbox { pod: id });
        }
    }

    fn deleted(&self, pod: &Pod) {
        let Some(id) = observe::instance(pod) else { return };
        let mut on_purpose = false;
        self.known.send_modify(|known| {
            on_purpose = known.stopping.contains(&id);
            if known.pods.get(&id).is_some_and(|known| observe::uid(known) == observe::uid(pod)) {
                known.pods.remove(&id);
            }
            keep_stopped(known, pod);
        });
        if !on_purpose {
            self.tell(RuntimeEvent::Sandbox { pod: id });
        }
    }

    fn tell(&self, event: RuntimeEvent) {
        // Nobody listens yet.
        let _ = self.events.send(event);
    }

    /// The first process of each container of these Pods that is said to run.
    pub async fn pids_of(&self, pods: &[Arc<Pod>]) -> BTreeMap<String, u32> {
        let mut wanted: Vec<(String, String)> = Vec::new();
        for pod in pods {
            let none = BTreeMap::new();
            for container in observe::containers(pod, &none) {
                if matches!(container.state, ContainerStateObserved::Running { .. }) {
                    let id = observe::bare_id(&container.container_id).to_owned();
                    wanted.push((observe::uid(pod).to_owned(), id));
                }
            }
        }
        let lock = || self.pids.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found: BTreeMap<String, u32> = {
            let known = lock();
            wanted.iter().filter_map(|(_, id)| Some((id.clone(), *known.get(id)?))).collect()
        };
        for look in 0..LOOKS {
            wanted.retain(|(_, id)| !found.contains_key(id));
            if wanted.is_empty() {
                break;
            }
            if look > 0 {
                tokio::time::sleep(LOOK).await;
            }
            let missing = wanted.clone();
            found.extend(tokio::task::spawn_blocking(move || find(&missing)).await.unwrap_or_default());
        }
        let mut known = lock();
        known.extend(found.iter().map(|(id, pid)| (id.clone(), *pid)));
        let living: BTreeSet<String> = self
            .known
            .borrow()
            .pods
            .values()
            .chain(pods)
            .flat_map(|pod| observe::statuses(pod))
            .filter_map(|status| Some(observe::bare_id(status.container_id.as_deref()?).to_owned()))
            .collect();
        known.retain(|id, _| living.contains(id));
        found
    }
}

/// Without what is long and not needed.
fn slim(mut pod: Pod) -> Arc<Pod> {
    pod.metadata.managed_fields = None;
    Arc::new(pod)
}

fn keep_stopped(known: &mut Known, pod: &Pod) {
    let Some(observed) = observe::pod(pod, &BTreeMap::new()) else { return };
    if known.stopping.remove(&observed.id) {
        let now = Timestamp::from(jiff::Timestamp::now());
        known.stopped.insert(observed.id.clone(), observe::gone(observed, now));
    }
}

/// `(Pod's uid, container's id)` to the id's first process. One whose group isn't there has ended, or is on a machine whose groups can't be seen.
fn find(wanted: &[(String, String)]) -> BTreeMap<String, u32> {
    let Ok(cgroups) = Cgroups::probe(std::path::Path::new(DEFAULT_ROOT)) else { return BTreeMap::new() };
    let first = |(uid, id): &(String, String)| {
        let pod = kubelet::pod_directory(&cgroups, uid)?;
        let pid = kubelet::first_process(&kubelet::container_directory(&pod, id)?).ok()??;
        Some((id.clone(), u32::try_from(pid).ok()?))
    };
    wanted.iter().filter_map(first).collect()
}
