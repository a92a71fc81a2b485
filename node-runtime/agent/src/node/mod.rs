//! The one task that owns the node's snapshot and decides.
//!
//! Messages change the snapshot and mark instances as dirty; once no message waits, each dirty instance that nobody is working on is decided
//! on and its plan carried out. While actions on an instance are under way it isn't decided on, and events about its pod wait, since what
//! the actions bring back comes first.

mod hear;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use pullpiri_crds::model::Adapter;
use pullpiri_crds::{ModelInstance, ModelInstanceStatus};
use pullpiri_node_adapters::{Runtime, RuntimeEvent};
use pullpiri_node_core::memory::Memory;
use pullpiri_node_core::network::NodeState;
use pullpiri_node_core::plan::{FinalizerChange, LedgerChange};
use pullpiri_node_core::resolve::data_refs;
use pullpiri_node_core::runtime::{PodId, Timestamp};
use pullpiri_node_core::snapshot::{AdapterState, DataRef, DataState, Instance, Node as NodeFacts};
use pullpiri_node_core::{Action, Plan, Snapshot, decide_one, decide_unknown};
use pullpiri_node_host::files;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::act::{Acted, Effect, Executor, surely};
use crate::instances::Told;
use crate::metrics::Metrics;
use crate::network::Network;
use crate::pods::{Listed, fold, fold_container};
use crate::realtime::{self, Realtime};
use crate::references::References;
use crate::register::{Facts, Identity};
use crate::report::{Reporter, Wish};
use crate::suspend::Left;
use crate::tell::Teller;
use crate::tenure::{self, Begin, Holder};
use crate::{AgentError, Config, heartbeat, host, instances, ledger, pods, register};

/// Messages that may wait before those who send them wait too.
const MESSAGES: usize = 1024;
/// How long the API server may take to tell what is wanted, before the ledger's services are started without it.
const FIRST_CONTACT: Duration = Duration::from_millis(300);
/// How long a status waits for the action that will change it. Starting takes some ten milliseconds: one write instead of two.
const HOLD: Duration = Duration::from_millis(100);
/// Before a pod that nobody knows and that couldn't be removed is tried again.
const SWEEP: Duration = Duration::from_secs(5);

/// What the node task is told.
#[derive(Debug)]
pub(crate) enum Message {
    Instance(Told),
    Data(DataRef, DataState),
    Listed(Adapter, Listed),
    Runtime(Adapter, RuntimeEvent),
    Acted(PodId, Acted),
    /// As a write of ours left it.
    Written(Box<ModelInstance>),
    Realtime(realtime::News),
    /// What this node can do for Networks is known.
    Network(NodeState),
}

pub(crate) struct Node {
    pub(crate) snapshot: Snapshot,
    pub(crate) executor: Executor,
    pub(crate) ledger: ledger::Writer,
    pub(crate) reporter: Reporter,
    pub(crate) metrics: Metrics,
    runtimes: Vec<Arc<dyn Runtime>>,
    messages: mpsc::Sender<Message>,
    teller: Teller,
    references: References,
    realtime: Realtime,
    facts: watch::Sender<Facts>,
    /// Adapters that haven't answered yet, one way or the other: nothing is decided before.
    unlisted: BTreeSet<Adapter>,
    /// Adapters that are being asked because of an event about a pod that isn't known.
    asking: BTreeSet<Adapter>,
    dirty: BTreeSet<PodId>,
    /// Instances that are being worked on, with the events that came meanwhile.
    busy: BTreeMap<PodId, Vec<(Adapter, RuntimeEvent)>>,
    /// Instances to decide on again at a time.
    timers: BTreeMap<PodId, Timestamp>,
    /// What is to be written unless an action changes it before.
    held: BTreeMap<PodId, (Timestamp, Wish)>,
    /// What the list under way has told so far.
    listing: Option<BTreeSet<PodId>>,
    /// Pods that nobody knows are to be looked for.
    sweep: bool,
    sweep_at: Option<Timestamp>,
    /// The ledger's services wait for the API server until then.
    contact_by: Timestamp,
}

pub(crate) fn now() -> Timestamp {
    jiff::Timestamp::now().into()
}

pub(crate) async fn run(
    config: Config,
    client: Client,
    runtimes: Vec<Arc<dyn Runtime>>,
    metrics: Metrics,
    ledger: ledger::Ledger,
    shutdown: CancellationToken,
) -> Result<(), AgentError> {
    let name = config.node_name()?;
    let memories = ledger.load()?;
    let volumes = config.data_dir.join("volumes");
    // Containers get what is in them by mounts of their own.
    for directory in [&volumes, &config.data_dir.join("logs")] {
        files::private_directory(directory)
            .map_err(|source| AgentError::Directory { path: directory.clone(), source })?;
    }
    let holder = Holder::of(&config.data_dir, &name);
    let first_contact = (!memories.is_empty()).then_some(FIRST_CONTACT);
    let mut contact_by = now().plus(FIRST_CONTACT);
    match tenure::await_turn(&client, &name, &holder, config.heartbeat, first_contact, &shutdown).await {
        Begin::AtOnce => {}
        Begin::Later => contact_by = now().plus(FIRST_CONTACT),
        Begin::Never => return Ok(()),
    }
    info!(node = name, known = memories.len(), "node runtime starts");

    let stop = CancellationToken::new();
    let _stop_tasks = stop.clone().drop_guard();
    let (sender, mut messages) = mpsc::channel(MESSAGES);
    let (facts, facts_receiver) =
        watch::channel(Facts { metrics_address: config.metrics_address.clone(), ..Facts::default() });
    let (ledger_failure, mut ledger_failures) = watch::channel(None);
    for runtime in &runtimes {
        tokio::spawn(pods::listen(Arc::clone(runtime), sender.clone(), stop.clone()));
    }
    tokio::spawn(instances::watch(client.clone(), name.clone(), sender.clone(), metrics.clone(), stop.clone()));
    let (owner, owners) = watch::channel(None);
    tokio::spawn(heartbeat::beat(
        client.clone(),
        (name.clone(), holder),
        config.heartbeat,
        owners,
        metrics.clone(),
        stop.clone(),
    ));

    let teller = Teller::start(client.clone(), name.clone(), metrics.clone());
    let network = Network::start(
        &config,
        &name,
        client.clone(),
        sender.clone(),
        facts.clone(),
        (&metrics.network, teller.clone()),
        stop.clone(),
    );
    let mut node = Node {
        snapshot: first_snapshot(&config, &name, &volumes, memories, &runtimes),
        executor: Executor::new(runtimes.clone(), volumes, network.clone(), metrics.clone()),
        ledger: ledger::Writer::start(ledger, metrics.clone(), ledger_failure),
        reporter: Reporter::start(client.clone(), sender.clone(), metrics.clone()),
        teller,
        references: References::new(client.clone(), sender.clone()),
        realtime: Realtime::start(
            &config.data_dir,
            sender.clone(),
            facts.clone(),
            metrics.realtime.clone(),
            stop.clone(),
        ),
        metrics,
        unlisted: runtimes.iter().map(|runtime| runtime.adapter()).collect(),
        runtimes,
        messages: sender,
        facts,
        asking: BTreeSet::new(),
        dirty: BTreeSet::new(),
        busy: BTreeMap::new(),
        timers: BTreeMap::new(),
        held: BTreeMap::new(),
        listing: None,
        sweep: false,
        sweep_at: None,
        contact_by,
    };
    let mut identity = Some((Identity { name, published: config.name.clone(), labels: config.labels.clone() }, owner));
    loop {
        let wake = node.next_wake();
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(message) = messages.recv() => {
                node.take(message);
                while let Ok(message) = messages.try_recv() {
                    node.take(message);
                }
            }
            Ok(()) = ledger_failures.changed() => {
                let failure = ledger_failures.borrow_and_update().clone();
                node.facts.send_modify(|facts| facts.ledger_failure = failure);
            }
            () = tokio::time::sleep(wake.unwrap_or_default()), if wake.is_some() => {}
        }
        node.wake();
        if node.unlisted.is_empty() {
            if let Some((identity, owner)) = identity.take() {
                node.choose_default(config.default_adapter);
                let (facts, network) = (facts_receiver.clone(), network.clone());
                tokio::spawn(register::keep(client.clone(), identity, facts, network, owner, stop.clone()));
            }
            node.decide();
            if let Some(known) = pods::of_kubelet(&node.snapshot) {
                network.pods(known);
            }
        }
    }
    node.shut_down(&mut messages, config.stop_workloads).await
}

fn first_snapshot(
    config: &Config,
    name: &str,
    volumes: &Path,
    memories: BTreeMap<PodId, Memory>,
    runtimes: &[Arc<dyn Runtime>],
) -> Snapshot {
    let unasked = || AdapterState::Unavailable { message: "it hasn't answered yet".to_owned() };
    let first = runtimes.first().map_or(Adapter::Oci, |runtime| runtime.adapter());
    let instances = memories.into_iter().map(|(id, memory)| (id, Instance { object: None, memory, realtime: None }));
    Snapshot {
        now: now(),
        node: NodeFacts {
            name: name.to_owned(),
            default_adapter: config.default_adapter.unwrap_or(first),
            adapters: runtimes.iter().map(|runtime| (runtime.adapter(), unasked())).collect(),
            volumes: volumes.to_owned(),
            backoff: config.backoff.clone(),
        },
        instances: instances.collect(),
        pods: BTreeMap::new(),
        data: BTreeMap::new(),
        directories: host::directories(volumes).into_iter().map(PodId).collect(),
        starting: BTreeSet::new(),
        network: Network::known(&config.data_dir),
        synced: false,
    }
}

/// Whether a container that had a process has none now, or another.
fn lost_a_process(before: Option<&ModelInstanceStatus>, after: &ModelInstanceStatus) -> bool {
    let process = |status: &ModelInstanceStatus, name: &str| {
        status.containers.iter().find(|container| container.name == name).and_then(|container| container.pid)
    };
    before.is_some_and(|before| {
        before
            .containers
            .iter()
            .any(|container| container.pid.is_some() && container.pid != process(after, &container.name))
    })
}

impl Node {
    /// The first adapter that works, in the order given, if none was named.
    fn choose_default(&mut self, named: Option<Adapter>) {
        let mut working =
            self.runtimes.iter().map(|runtime| runtime.adapter()).filter(|a| self.snapshot.node.is_ready(*a));
        if let Some(adapter) = named.or_else(|| working.next()) {
            self.snapshot.node.default_adapter = adapter;
        }
        let default = self.snapshot.node.default_adapter;
        self.facts.send_modify(|facts| facts.default_runtime = Some(default));
        self.dirty.extend(self.snapshot.instances.keys().cloned());
    }

    fn acted(&mut self, id: PodId, acted: Acted) {
        let waiting = self.busy.remove(&id).unwrap_or_default();
        if self.snapshot.starting.remove(&id) {
            // A successor may have waited for what has come to nothing.
            self.dirty.extend(self.snapshot.instances.keys().cloned());
        }
        self.held.remove(&id);
        for effect in acted.effects {
            self.apply(&id, effect);
        }
        let at = now();
        let mut failed = false;
        for (action, outcome) in acted.outcomes {
            if let Err(failure) = &outcome {
                failed = true;
                debug!(%id, %action, error = failure.message, "an action failed");
            }
            if let Some(instance) = self.snapshot.instances.get_mut(&id) {
                instance.memory.record(&action, outcome, at);
            }
        }
        for (adapter, event) in waiting {
            // About a pod that is gone by now.
            let _ = fold(&mut self.snapshot.pods, adapter, event);
        }
        if self.snapshot.instances.contains_key(&id) {
            self.dirty.insert(id);
        } else if failed {
            self.sweep_at = Some(at.plus(SWEEP));
        } else {
            self.sweep = true;
        }
    }

    fn apply(&mut self, id: &PodId, effect: Effect) {
        match effect {
            Effect::Pod(adapter, Some(pod)) => {
                self.snapshot.pods.insert((id.clone(), adapter), pod);
            }
            Effect::Pod(adapter, None) => {
                self.snapshot.pods.remove(&(id.clone(), adapter));
                // A successor may have waited for it.
                self.dirty.extend(self.snapshot.instances.keys().cloned());
            }
            Effect::Container(adapter, container) => {
                if let Some(pod) = self.snapshot.pods.get_mut(&(id.clone(), adapter)) {
                    fold_container(pod, container);
                }
            }
            Effect::Directory(true) => {
                self.snapshot.directories.insert(id.clone());
            }
            Effect::Directory(false) => {
                self.snapshot.directories.remove(id);
            }
            Effect::Attached(true) => {
                self.snapshot.network.attached.insert(id.clone());
            }
            Effect::Attached(false) => {
                self.snapshot.network.attached.remove(id);
            }
        }
    }

    fn next_wake(&self) -> Option<Duration> {
        let waiting = !self.snapshot.synced && self.unlisted.is_empty() && !self.dirty.is_empty();
        let waiting = waiting.then_some(self.contact_by);
        let timers = self.timers.values().chain(self.held.values().map(|(at, _)| at));
        let at = timers.copied().chain(self.sweep_at).chain(waiting).min()?;
        Some(at.since(now()))
    }

    /// What is due.
    fn wake(&mut self) {
        let at = now();
        let due: Vec<PodId> = self.timers.iter().filter(|(_, due)| **due <= at).map(|(id, _)| id.clone()).collect();
        for id in due {
            self.timers.remove(&id);
            self.dirty.insert(id);
        }
        let held: Vec<PodId> = self.held.iter().filter(|(_, (due, _))| *due <= at).map(|(id, _)| id.clone()).collect();
        for id in held {
            if let Some((_, wish)) = self.held.remove(&id) {
                self.reporter.write(&id, wish);
            }
        }
        if self.sweep_at.is_some_and(|due| due <= at) {
            self.sweep_at = None;
            self.sweep = true;
        }
    }

    fn decide(&mut self) {
        if self.dirty.is_empty() && !self.sweep {
            return;
        }
        self.snapshot.now = now();
        let may_do_without = self.snapshot.synced || self.snapshot.now >= self.contact_by;
        for id in std::mem::take(&mut self.dirty) {
            // Marked again when its actions are done.
            if self.busy.contains_key(&id) {
                continue;
            }
            let Some(instance) = self.snapshot.instances.get(&id) else { continue };
            if instance.object.is_none() && !may_do_without {
                self.dirty.insert(id);
                continue;
            }
            let began = std::time::Instant::now();
            let plan = decide_one(&self.snapshot, &id);
            self.metrics.pass.observe(began.elapsed().as_secs_f64());
            self.carry_out(&id, plan);
            self.want_of_threads(&id);
        }
        if self.snapshot.synced {
            let instances = &self.snapshot.instances;
            self.realtime.retain(|id| instances.contains_key(id));
        }
        if std::mem::take(&mut self.sweep) {
            for action in decide_unknown(&self.snapshot).actions {
                let id = action.pod().clone();
                if !self.busy.contains_key(&id) {
                    info!(%action, "nobody knows it");
                    self.start(&id, vec![action]);
                }
            }
        }
        self.metrics.phases(self.snapshot.instances.values().map(|instance| instance.memory.status.phase));
    }

    fn want_of_threads(&mut self, id: &PodId) {
        let wanted = realtime::wanted(&self.snapshot, id);
        if wanted.is_none()
            && let Some(instance) = self.snapshot.instances.get_mut(id)
        {
            instance.realtime = None;
        }
        let Some(instance) = self.snapshot.instances.get(id) else { return self.realtime.want(id, wanted, &[]) };
        let told = instance.object.as_ref().and_then(|object| object.status.as_ref());
        self.realtime.want(id, wanted, &realtime::known(&instance.memory.status, told));
    }

    fn carry_out(&mut self, id: &PodId, mut plan: Plan) {
        if !plan.actions.is_empty() {
            let span = tracing::debug_span!("pass", %id);
            let _entered = span.enter();
            for action in &plan.actions {
                info!("{action}");
            }
            // First of all: nothing below is worth waiting for.
            self.start(id, std::mem::take(&mut plan.actions));
        }
        match plan.requeue_at {
            Some(at) => self.timers.insert(id.clone(), at),
            None => self.timers.remove(id),
        };
        let Some(instance) = self.snapshot.instances.get_mut(id) else { return };
        let about = instance.object.clone().or_else(|| instance.memory.accepted.clone().map(Arc::new));
        let mut forgotten = None;
        match plan.ledger.remove(id) {
            Some(LedgerChange::Write(memory)) => {
                count_exits(&self.metrics, &instance.memory, &memory);
                instance.memory.clone_from(&memory);
                self.ledger.write(id, memory);
            }
            Some(LedgerChange::Forget) => {
                instance.memory = Memory::default();
                forgotten = Some(self.ledger.forget(id));
            }
            None => {}
        }
        let refs = instance.memory.accepted.as_ref().map(data_refs).unwrap_or_default();
        let is_left = instance.object.is_none() && instance.memory == Memory::default();
        if is_left {
            self.snapshot.instances.remove(id);
        }
        for data in self.references.need(id, refs) {
            self.snapshot.data.remove(&data);
        }
        if let Some(about) = &about {
            for event in &plan.events {
                self.teller.tell(about, event);
            }
        }
        let (Some(change), Some(about)) = (plan.objects.remove(id), about) else { return };
        let is_released = change.finalizer == Some(FinalizerChange::Remove);
        // That a process is gone is told at once; whether another takes its place is a second message.
        let tells_of_a_death =
            change.status.as_deref().is_some_and(|status| lost_a_process(about.status.as_ref(), status));
        let wish = Wish::new(&about, change);
        match forgotten {
            Some(forgotten) if is_released => {
                let (reporter, id) = (self.reporter.clone(), id.clone());
                tokio::spawn(async move {
                    if forgotten.await.is_ok() {
                        reporter.write(&id, wish);
                    }
                });
            }
            _ if self.busy.contains_key(id) && !tells_of_a_death => {
                let at = self.held.get(id).map_or(self.snapshot.now.plus(HOLD), |(at, _)| *at);
                self.held.insert(id.clone(), (at, wish));
            }
            _ => self.reporter.write(id, wish),
        }
    }

    /// Sets to work on an instance.
    fn start(&mut self, id: &PodId, actions: Vec<Action>) {
        self.busy.insert(id.clone(), Vec::new());
        if actions.iter().any(|action| matches!(action, Action::RunPod { .. })) {
            self.snapshot.starting.insert(id.clone());
        }
        let (executor, messages, id) = (self.executor.clone(), self.messages.clone(), id.clone());
        tokio::spawn(async move {
            let work = actions.clone();
            let acted = surely(&actions, async move { executor.act(work).await }).await;
            let _ = messages.send(Message::Acted(id, acted)).await;
        });
    }

    /// Waits for what is under way and, if wished, stops the workloads; then for what is to be written.
    async fn shut_down(
        mut self,
        messages: &mut mpsc::Receiver<Message>,
        stop_workloads: bool,
    ) -> Result<(), AgentError> {
        // A start takes milliseconds; a stop may take its grace period, which this process doesn't: the runtime goes on with it.
        let patience = tokio::time::Instant::now() + Duration::from_secs(if stop_workloads { 60 } else { 2 });
        while !self.busy.is_empty() {
            match tokio::time::timeout_at(patience, messages.recv()).await {
                Ok(Some(message)) => self.take(message),
                Ok(None) | Err(_) => break,
            }
        }
        let mut left = Left::default();
        if stop_workloads {
            left = self.stop_workloads().await;
        }
        self.ledger.flush().await;
        // The API server may be gone before this node is.
        let _ = tokio::time::timeout(Duration::from_secs(2), self.reporter.idle()).await;
        info!("node runtime ends");
        left.or_error()
    }

    async fn stop_workloads(&mut self) -> Left {
        let mut stops = tokio::task::JoinSet::new();
        for stop in crate::suspend::stops(&self.snapshot) {
            stops.spawn(crate::suspend::carry_out(self.executor.clone(), stop));
        }
        info!(pods = stops.len(), "stopping the workloads");
        let mut left = Left::default();
        while let Some(stopped) = stops.join_next().await {
            let Ok((stop, acted)) = stopped else { continue };
            left.note(&stop, &acted);
            let id = stop.id;
            self.busy.remove(&id);
            for effect in acted.effects {
                // The exit codes come before the removal; both are to be remembered.
                if let (Effect::Pod(_, Some(pod)), Some(instance)) = (&effect, self.snapshot.instances.get_mut(&id)) {
                    crate::suspend::remember_exits(&mut instance.memory, pod, &self.snapshot.node.backoff);
                }
                self.apply(&id, effect);
            }
        }
        self.executor.close_network().await;
        self.snapshot.now = now();
        let ids: Vec<PodId> = self.snapshot.instances.keys().cloned().collect();
        for id in ids {
            let Some(instance) = self.snapshot.instances.get_mut(&id) else { continue };
            if !left.ids.contains(&id) {
                crate::suspend::suspend(&mut instance.memory);
            }
            self.ledger.write(&id, Box::new(instance.memory.clone()));
            let mut plan = decide_one(&self.snapshot, &id);
            // Only what is to be told: nothing is started any more.
            plan.actions.clear();
            self.carry_out(&id, plan);
            self.want_of_threads(&id);
        }
        let _ = tokio::time::timeout(Duration::from_secs(2), self.realtime.settled()).await;
        left
    }
}

fn count_exits(metrics: &Metrics, before: &Memory, after: &Memory) {
    for (name, container) in &after.containers {
        let known = before.containers.get(name).and_then(|container| container.last_exit.as_ref());
        if let Some(exit) = container.last_exit.as_ref().filter(|exit| known != Some(*exit)) {
            metrics.exited(exit.code, exit.oom_killed);
        }
    }
}
