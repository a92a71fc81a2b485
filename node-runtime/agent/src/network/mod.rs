//! The node's part in Networks: pods are attached to theirs, NetworkSlices are put in force, the uplink is shared.
//!
//! [`Plumbing`] does the work, blocking, behind a lock; [`Network`] is the way to it. A task watches this node's NetworkSlices and applies a
//! generation when all of it is there; what is in force is kept on disk. Nothing is polled: work is done when a pod comes or goes, when
//! slices or the NodeRuntime change, when the kernel tells that somebody changed something ([`Changes`]), and again after a failure.

mod adopt;
mod disk;
mod drift;
mod hosts;
mod kernel;
mod metrics;
mod plumbing;
mod slices;
mod uplink;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::Client;
use prometheus_client::registry::Registry;
use pullpiri_crds::condition::reason;
use pullpiri_crds::node::{NodeNetwork, UplinkSpec};
use pullpiri_node_core::memory::{Failure, FailureKind};
use pullpiri_node_core::network::{Attachment, Generation, NodeState};
use pullpiri_node_core::runtime::PodId;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::error;

pub use self::drift::Changes;
pub use self::hosts::Pods;
pub use self::plumbing::{Outcome, Pending, Plumbing};
use crate::config::Config;
use crate::node::Message;
use crate::register::Facts;
use crate::tell::Teller;

/// After a failure of what belongs to no pod, before it is tried again; and at first while the link to other nodes is waited for.
const RETRY: Duration = Duration::from_secs(5);
/// While the link is waited for, at last: a node that has none hardly wakes.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// What a node is told of its link to other nodes.
#[derive(Clone, Debug, Default)]
pub struct NetworkConfig {
    /// The interface to other nodes. `None`: that of the route to the API server, else of the default route.
    pub uplink: Option<String>,
    /// Bits per second. `None`: what the interface's driver says. The NodeRuntime's spec comes before both.
    pub link_rate_bps: Option<u64>,
    /// The API server's name or address, if it is elsewhere.
    pub api_server: Option<String>,
}

/// What of the node's network its NodeRuntime says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NetworkFacts {
    pub status: NodeNetwork,
    /// Whether Networks work as declared here; reason and message.
    pub condition: (bool, &'static str, String),
}

/// The way to the node's network.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    plumbing: Arc<Mutex<Plumbing>>,
    facts: watch::Sender<Facts>,
    pending: watch::Sender<Pending>,
    /// Whether there is something that others may change.
    keeps: watch::Sender<bool>,
    /// `None`: not known yet.
    pods: watch::Sender<Option<Pods>>,
}

/// What is kept until the agent runs: metrics are registered before.
#[derive(Clone, Debug, Default)]
pub(crate) struct Source(Arc<Mutex<Option<Arc<Mutex<Plumbing>>>>>);

impl Source {
    /// Registers what is read from the kernel at each scrape.
    pub fn register(node: &mut Registry) -> Self {
        let source = Self::default();
        node.register_collector(Box::new(metrics::Collector::new(source.clone())));
        source
    }

    fn get(&self) -> Option<Arc<Mutex<Plumbing>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn lock(plumbing: &Mutex<Plumbing>) -> MutexGuard<'_, Plumbing> {
    plumbing.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Network {
    /// Takes over what is there, in the background; the node task is told when that is done.
    pub fn start(
        config: &Config,
        node: &str,
        client: Client,
        messages: mpsc::Sender<Message>,
        facts: watch::Sender<Facts>,
        (source, teller): (&Source, Teller),
        stop: CancellationToken,
    ) -> Self {
        let plumbing = Arc::new(Mutex::new(Plumbing::new(node, &config.data_dir, config.network.clone())));
        *source.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&plumbing));
        let network = Self {
            plumbing,
            facts,
            pending: watch::Sender::new(Pending::Nothing),
            keeps: watch::Sender::default(),
            pods: watch::Sender::default(),
        };
        tokio::spawn(network.clone().hold(teller, stop.clone()));
        tokio::spawn(network.clone().run(client, node.to_owned(), messages, stop));
        network
    }

    /// Pods that an earlier process attached, before anything was looked at.
    pub fn known(data_dir: &Path) -> NodeState {
        let attached = disk::Disk::new(data_dir).attachments().into_keys().collect();
        NodeState { namespaces: None, missing: None, attached }
    }

    async fn run(self, client: Client, node: String, messages: mpsc::Sender<Message>, stop: CancellationToken) {
        let state = self.with(|plumbing| {
            plumbing.open();
            plumbing.state()
        });
        let mut pods = self.pods.subscribe();
        // They may have been told while that was done.
        pods.mark_changed();
        let mut pending = self.pending.subscribe();
        pending.mark_changed();
        let Some(state) = state.await else { return };
        if messages.send(Message::Network(state)).await.is_err() {
            return;
        }
        let (generations, mut receiver) = watch::channel(slices::Known::NotYet);
        tokio::spawn(slices::watch(client, node, generations, stop.clone()));
        let mut wait = RETRY;
        let mut due: Option<Instant> = None;
        loop {
            let now = Instant::now();
            tokio::select! {
                () = stop.cancelled() => return,
                changed = receiver.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let known = receiver.borrow_and_update().clone();
                    if let slices::Known::All(generation) = known {
                        self.take(generation).await;
                    }
                }
                changed = pods.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let known = pods.borrow_and_update().clone();
                    if let Some(known) = known {
                        self.with(move |plumbing| plumbing.know(known)).await;
                    }
                }
                changed = pending.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    wait = RETRY;
                    due = (*pending.borrow_and_update() != Pending::Nothing).then(|| Instant::now() + wait);
                }
                () = tokio::time::sleep_until(due.unwrap_or(now)), if due.is_some() => {
                    self.converge().await;
                    // What changed is seen above; what stayed is tried again, ever later if it is only waited for.
                    wait = longer(*pending.borrow(), wait);
                    due = Some(Instant::now() + wait);
                }
            }
        }
    }

    /// Puts right what others change, while there is something that they may; sleeps else.
    async fn hold(self, teller: Teller, stop: CancellationToken) {
        let mut keeps = self.keeps.subscribe();
        // It may have been told already.
        keeps.mark_changed();
        let mut told = drift::Told::default();
        let mut changes: Option<Changes> = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = keeps.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let is_needed = *keeps.borrow_and_update();
                    let table = self.read(|plumbing| plumbing.table()).await.flatten();
                    changes = is_needed.then(|| Changes::of(table.as_deref()));
                }
                () = next(&mut changes) => {
                    let look = |plumbing: &mut Plumbing| {
                        drop(plumbing.converge());
                        (plumbing.repairs(), plumbing.drift.last.clone())
                    };
                    let Some((repairs, last)) = self.with(look).await else { continue };
                    if let Some((count, last)) = told.news(repairs).zip(last) {
                        teller.tell_node(reason::DRIFT_REPAIRED, &put_right(count, &last));
                    }
                }
            }
        }
    }

    /// Looks in a thread that may block, and tells nothing: at first nobody has looked for the link yet, and what isn't known isn't to be told.
    async fn read<T: Send + 'static>(&self, look: impl FnOnce(&Plumbing) -> T + Send + 'static) -> Option<T> {
        let plumbing = Arc::clone(&self.plumbing);
        let done = tokio::task::spawn_blocking(move || look(&lock(&plumbing)));
        done.await.inspect_err(|error| error!(%error, "looking at the node's network")).ok()
    }

    /// Runs work in a thread that may block, then tells what came of it.
    async fn with<T: Send + 'static>(&self, work: impl FnOnce(&mut Plumbing) -> T + Send + 'static) -> Option<T> {
        let plumbing = Arc::clone(&self.plumbing);
        let facts = self.facts.clone();
        let (pending, keeps) = (self.pending.clone(), self.keeps.clone());
        let done = tokio::task::spawn_blocking(move || {
            let mut plumbing = lock(&plumbing);
            let outcome = work(&mut plumbing);
            let now = Some(describe(&plumbing));
            facts.send_if_modified(|facts| {
                let changed = facts.network != now;
                facts.network = now;
                changed
            });
            let left = plumbing.pending();
            pending.send_if_modified(|pending| std::mem::replace(pending, left) != left);
            let is_needed = plumbing.keeps();
            keeps.send_if_modified(|keeps| std::mem::replace(keeps, is_needed) != is_needed);
            outcome
        });
        done.await.inspect_err(|error| error!(%error, "working on the node's network")).ok()
    }

    pub async fn attach(&self, pod: PodId, attachment: Attachment) -> Result<(), Failure> {
        judge(self.with(move |plumbing| plumbing.attach(&pod, &attachment)).await)
    }

    pub async fn detach(&self, pod: PodId) -> Result<(), Failure> {
        judge(self.with(move |plumbing| plumbing.detach(&pod)).await)
    }

    /// Takes everything away that isn't a pod's.
    pub async fn close(&self) {
        self.with(Plumbing::close).await;
    }

    /// Which Pods the node's kubelet runs, with their processes.
    pub fn pods(&self, pods: Pods) {
        let pods = Some(pods);
        self.pods.send_if_modified(|known| {
            let is_news = *known != pods;
            *known = pods;
            is_news
        });
    }

    /// A pod in the node's own network came.
    pub fn poke(&self) {
        let network = self.clone();
        tokio::spawn(async move { network.converge().await });
    }

    /// A pod went: if it was in the node's own network, what was attached to its cgroup goes as well.
    pub fn gone(&self, pod: PodId) {
        let network = self.clone();
        let work = move |plumbing: &mut Plumbing| {
            if plumbing.has_host(&pod) {
                let _ = plumbing.converge();
            }
        };
        tokio::spawn(async move { network.with(work).await });
    }

    /// What the NodeRuntime says of the uplink.
    pub async fn declare(&self, spec: Option<UplinkSpec>) {
        let known = self.with(move |plumbing| {
            if plumbing.said.spec != spec {
                plumbing.said.spec = spec;
                let _ = plumbing.converge();
            }
        });
        known.await;
    }

    async fn take(&self, generation: Option<Generation>) {
        self.with(move |plumbing| plumbing.take(generation)).await;
    }

    async fn converge(&self) {
        self.with(|plumbing| drop(plumbing.converge())).await;
    }
}

async fn next(changes: &mut Option<Changes>) {
    match changes {
        Some(changes) => changes.next().await,
        None => std::future::pending().await,
    }
}

fn put_right(count: u64, last: &str) -> String {
    match count {
        1 => format!("somebody changed the node's network; it was put right: {last}"),
        count => format!("somebody changed the node's network; it was put right in {count} steps, the last: {last}"),
    }
}

/// How long to wait after another try that changed nothing.
fn longer(pending: Pending, before: Duration) -> Duration {
    match pending {
        Pending::Link => before.saturating_mul(2).min(RETRY_MAX),
        Pending::Nothing | Pending::Failure => RETRY,
    }
}

fn judge(outcome: Option<Result<(), String>>) -> Result<(), Failure> {
    let failure = |message: String| Failure { kind: FailureKind::Network, message };
    match outcome {
        Some(Ok(())) => Ok(()),
        Some(Err(message)) => Err(failure(format!("attaching the pod to its network: {message}"))),
        None => Err(failure("the work on the pod's network broke off".to_owned())),
    }
}

fn describe(plumbing: &Plumbing) -> NetworkFacts {
    let found = plumbing.uplink.as_ref().ok();
    let no_qos = match &plumbing.uplink {
        Ok(found) => found.no_qos.clone(),
        Err(reason) => Some(reason.clone()),
    };
    let backend = match (&plumbing.support.missing, &no_qos) {
        (Some(_), _) => "none",
        (None, Some(_)) => "tcx",
        (None, None) => "tcx+htb",
    };
    let rate = found.and_then(|found| found.uplink.rate).map(|rate| rate.bps());
    let condition = if let Some(missing) = &plumbing.support.missing {
        (false, reason::NO_NETWORKING, missing.clone())
    } else if let Some(failure) = &plumbing.failure {
        (false, reason::RUNTIME_ERROR, failure.clone())
    } else if let Some(family) = plumbing.missing_family() {
        let link = found.map(|found| found.uplink.name.as_str()).unwrap_or_default();
        let message = format!(
            "pods here and pods of other nodes don't reach each other over {family}: {link} has no such address"
        );
        (false, reason::FAMILY_MISSING, message)
    } else if let Some(no_qos) = no_qos {
        (false, reason::NO_QOS, format!("pods can join Networks, but the link isn't shared by classes: {no_qos}"))
    } else if let Some((instance, why)) = plumbing.hosts.unclassed.first_key_value() {
        let others = match plumbing.hosts.unclassed.len() {
            1 => String::new(),
            count => format!(" (and {} more)", count - 1),
        };
        (false, reason::NO_QOS, format!("no class takes what {instance}{others} sends: {why}"))
    } else {
        let shared = found.zip(rate).map(|(found, bps)| format!("; {} has {bps} bit/s", found.uplink.name));
        let open = plumbing.unclosed.as_ref().map(|why| format!("; others can route through this node: {why}"));
        let message = format!("pods can join Networks{}{}", shared.unwrap_or_default(), open.unwrap_or_default());
        match &plumbing.drift.last {
            Some(last) => (true, reason::DRIFT_REPAIRED, format!("{message}; {}", put_right(1, last))),
            None => (true, reason::AS_DECLARED, message),
        }
    };
    let status = NodeNetwork {
        backend: backend.to_owned(),
        uplink: found.map(|found| found.uplink.name.clone()),
        link_bps: rate.and_then(|bps| i64::try_from(bps).ok()),
        addresses: found.iter().flat_map(|found| &found.addresses).map(ToString::to_string).collect(),
        generation: plumbing.applied,
    };
    NetworkFacts { status, condition }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_stays_away_is_looked_for_ever_less_and_a_failure_is_not() {
        let waits = std::iter::successors(Some(RETRY), |before| Some(longer(Pending::Link, *before)));
        let seconds: Vec<u64> = waits.take(6).map(|wait| wait.as_secs()).collect();
        assert_eq!(seconds, [5, 10, 20, 40, 60, 60]);
        assert_eq!(longer(Pending::Failure, RETRY_MAX), RETRY);
    }
}
