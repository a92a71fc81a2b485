//! From a snapshot to a plan.
//!
//! Each instance is decided on by itself, so that the agent may work on several at once; the one thing that ties them is that an
//! instance waits for the pod of its predecessor (another instance of the same model, to be stopped) to be gone: removal before addition.
//!
//! Invariants, held by the property tests:
//! * deciding on the result of a plan gives, after as many plans as there are steps, an empty plan;
//! * nothing is started for an instance that isn't wanted, nor twice for one that is;
//! * a pod that runs as declared is never touched;
//! * nothing is removed because of what isn't known (an API server not yet heard, a runtime that doesn't answer).

mod realtime;
mod removal;

use std::sync::Arc;
use std::time::Duration;

use pullpiri_crds::ModelInstance;
use pullpiri_crds::condition::reason;
use pullpiri_crds::model::{Adapter, RestartPolicy};

use crate::memory::{self, Change, ContainerMemory, FailureKind, Memory};
use crate::plan::{Action, Event, FinalizerChange, HostStep, LedgerChange, ObjectChange, Plan, StopReason};
use crate::resolve::{self, Context, ProblemKind, Resolved};
use crate::restart;
use crate::runtime::{ContainerStateObserved, PodId, PodObserved, Timestamp};
use crate::snapshot::{AdapterState, DataState, Instance, Snapshot};
use crate::status::{self, Blocked, Facts};

use self::removal::removal;

/// Keeps a ModelInstance until its pod was stopped and removed. A node that is gone for good can't remove it: the controllers, or a
/// person, may, once they know that the node won't come back.
pub const FINALIZER: &str = pullpiri_crds::names::NODE_FINALIZER;

/// As in Kubernetes.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);
/// For a pod that nobody knows: it can't be asked how long it needs.
const UNKNOWN_GRACE: Duration = Duration::from_secs(10);

/// What shall become of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Desired {
    Run,
    /// Its pod shall be gone; the instance and its volumes stay.
    Stop,
    /// All of it shall be gone.
    Gone,
}

/// Decides on everything: instances, and pods and directories that nobody knows.
#[must_use]
pub fn decide(snapshot: &Snapshot) -> Plan {
    let mut plan = Plan::default();
    for id in snapshot.instances.keys() {
        plan.append(decide_one(snapshot, id));
    }
    plan.append(decide_unknown(snapshot));
    let (removals, additions): (Vec<Action>, Vec<Action>) = plan.actions.into_iter().partition(Action::removes);
    plan.actions = removals.into_iter().chain(additions).collect();
    plan
}

/// Decides on what belongs to no instance.
#[must_use]
pub fn decide_unknown(snapshot: &Snapshot) -> Plan {
    let mut plan = Plan::default();
    if !snapshot.synced {
        return plan;
    }
    let is_known = |id: &PodId| snapshot.instances.get(id).is_some_and(|instance| accept(instance).0.is_some());
    for pod in snapshot.pods.values().filter(|pod| !is_known(&pod.id)) {
        plan.actions.push(removal(pod, UNKNOWN_GRACE, StopReason::Unknown));
    }
    let has_pod = |id: &PodId| snapshot.pods.keys().any(|(pod, _)| pod == id);
    for id in snapshot.network.attached.iter().filter(|id| !is_known(id) && !has_pod(id)) {
        plan.actions.push(Action::Detach { pod: id.clone() });
    }
    for id in snapshot.directories.iter().filter(|id| !is_known(id) && !has_pod(id)) {
        plan.actions.push(Action::RemoveFiles { pod: id.clone() });
    }
    plan
}

/// Decides on one instance.
#[must_use]
pub fn decide_one(snapshot: &Snapshot, id: &PodId) -> Plan {
    match snapshot.instances.get(id) {
        Some(instance) => Pass::new(snapshot, id, instance).run(),
        None => Plan::default(),
    }
}

/// What shall become of the instance, and from which generation of it that follows.
fn desired(snapshot: &Snapshot, instance: &Instance, accepted: Option<&ModelInstance>) -> Desired {
    let deleting = |object: &ModelInstance| object.metadata.deletion_timestamp.is_some();
    match (&instance.object, accepted) {
        (None, _) if snapshot.synced => Desired::Gone,
        (Some(object), _) if deleting(object) => Desired::Gone,
        (_, None) => Desired::Gone,
        (_, Some(accepted)) if deleting(accepted) => Desired::Gone,
        (_, Some(accepted)) if realtime::is_terminated(&instance.memory, accepted) => Desired::Stop,
        (_, Some(accepted)) if accepted.spec.run => Desired::Run,
        (_, Some(_)) => Desired::Stop,
    }
}

/// The generation to act upon: the API server's, unless it is older than what was accepted or of a surpassed epoch.
fn accept(instance: &Instance) -> (Option<Arc<ModelInstance>>, bool) {
    let remembered = instance.memory.accepted.as_ref();
    let Some(object) = &instance.object else { return (remembered.map(|accepted| Arc::new(accepted.clone())), false) };
    let Some(remembered) = remembered else { return (Some(Arc::clone(object)), false) };
    if object.spec.epoch < instance.memory.epoch {
        return (Some(Arc::new(remembered.clone())), true);
    }
    if object.metadata.generation < remembered.metadata.generation {
        return (Some(Arc::new(remembered.clone())), false);
    }
    (Some(Arc::clone(object)), false)
}

/// Without what others write and what isn't needed to run it.
fn trimmed(object: &ModelInstance) -> ModelInstance {
    let metadata = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
        name: object.metadata.name.clone(),
        namespace: object.metadata.namespace.clone(),
        uid: object.metadata.uid.clone(),
        generation: object.metadata.generation,
        deletion_timestamp: object.metadata.deletion_timestamp.clone(),
        ..Default::default()
    };
    ModelInstance { metadata, spec: object.spec.clone(), status: None }
}

/// Whether a container ended and its policy doesn't want it back.
pub(crate) fn is_finished(container: &ContainerMemory, policy: RestartPolicy) -> bool {
    let run = container.run.as_ref().filter(|run| !run.ended_to_restart);
    let exit = run.and_then(|run| run.exit.as_ref());
    exit.is_some_and(|exit| !restart::wanted(policy, exit))
}

struct Pass<'a> {
    snapshot: &'a Snapshot,
    id: &'a PodId,
    instance: &'a Instance,
    memory: Memory,
    plan: Plan,
    changes: Vec<Change>,
    blocked: Option<Blocked>,
    degraded: Vec<String>,
}

impl<'a> Pass<'a> {
    fn new(snapshot: &'a Snapshot, id: &'a PodId, instance: &'a Instance) -> Self {
        Self {
            snapshot,
            id,
            instance,
            memory: instance.memory.clone(),
            plan: Plan::default(),
            changes: Vec::new(),
            blocked: None,
            degraded: Vec::new(),
        }
    }

    fn now(&self) -> Timestamp {
        self.snapshot.now
    }

    fn pods(&self) -> impl Iterator<Item = &'a PodObserved> + use<'a> {
        let id = self.id;
        self.snapshot.pods.values().filter(move |pod| pod.id == *id)
    }

    fn run(mut self) -> Plan {
        let (accepted, stale) = accept(self.instance);
        let mut desired = desired(self.snapshot, self.instance, accepted.as_deref());
        let Some(accepted) = accepted else { return self.leave() };
        if desired != Desired::Gone {
            desired = self.decide_termination(desired, &accepted);
        }
        let uncertain = self.uncertain();
        if desired == Desired::Gone && self.pods().next().is_none() && uncertain.is_none() {
            return self.leave();
        }
        if !stale && desired != Desired::Gone {
            self.memory.epoch = self.memory.epoch.max(accepted.spec.epoch);
        }
        self.remember(&accepted);
        self.observe(desired, uncertain.is_some());
        match desired {
            Desired::Run => match uncertain {
                Some(blocked) => self.blocked = Some(blocked),
                None => self.decide_run(&accepted),
            },
            Desired::Stop => self.decide_removal(&accepted, self.why_stopped(), uncertain),
            Desired::Gone => self.decide_removal(&accepted, StopReason::Deleted, uncertain),
        }
        self.finish(desired, stale, &accepted)
    }

    fn remember(&mut self, accepted: &ModelInstance) {
        let mut newest = trimmed(accepted);
        // Deletion is never taken back, whatever epoch says so.
        if let Some(object) = &self.instance.object {
            newest.metadata.deletion_timestamp.clone_from(&object.metadata.deletion_timestamp);
            if self.memory.status == Default::default() {
                self.memory.status = object.status.clone().unwrap_or_default();
            }
        }
        let refs = resolve::data_refs(&newest);
        self.memory.data.retain(|data, _| refs.contains(data));
        for data in refs {
            match self.snapshot.data.get(&data) {
                Some(DataState::Present(object)) => {
                    self.memory.data.insert(data, object.clone());
                }
                Some(DataState::Absent) => {
                    self.memory.data.remove(&data);
                }
                Some(DataState::Refused { .. }) | None => {}
            }
        }
        self.memory.accepted = Some(newest);
    }

    /// Whether the instance's pod may be where nobody can look.
    fn uncertain(&self) -> Option<Blocked> {
        let adapter = self.memory.adapter.filter(|adapter| !self.snapshot.node.is_ready(*adapter))?;
        let may_be_there =
            self.memory.containers.values().any(|container| container.run.as_ref().is_some_and(|run| !run.gone));
        may_be_there.then(|| self.runtime_missing(adapter))
    }

    fn runtime_missing(&self, adapter: Adapter) -> Blocked {
        let message = match self.snapshot.node.adapters.get(&adapter) {
            Some(AdapterState::Unavailable { message }) => message.clone(),
            None if adapter == Adapter::Kubernetes => {
                "this node runs no Pods; it does beside a kubelet, with `pullpiri node --kubernetes-node NAME` (chart: node.kubernetesRuntime.enabled)"
                    .to_owned()
            }
            Some(AdapterState::Ready) | None => "this node has no such adapter".to_owned(),
        };
        Blocked {
            reason: reason::RUNTIME_MISSING,
            message: format!("runtime {}: {message}", adapter.as_str()),
            refused: false,
        }
    }

    fn observe(&mut self, desired: Desired, uncertain: bool) {
        let backoff = &self.snapshot.node.backoff;
        // With pods on two adapters, the one to be kept is observed last.
        let mut pods: Vec<&PodObserved> = self.pods().collect();
        let keep = self.memory.adapter;
        pods.sort_by_key(|pod| Some(pod.adapter) == keep);
        if let Some(pod) = pods.last() {
            self.changes = memory::observe(&mut self.memory, pod, backoff);
        } else if !uncertain {
            self.changes = memory::observe_vanished(&mut self.memory, self.snapshot.now, backoff);
            if desired != Desired::Run || self.memory.stopping {
                self.memory.stopped();
            }
        }
    }

    /// When a failed operation may be tried again, if that isn't now.
    fn wait_after_failure(&self, key: &str) -> Option<Timestamp> {
        let at = self.memory.failures.get(key)?.retry_at(self.now());
        (at > self.now()).then_some(at)
    }

    fn decide_run(&mut self, accepted: &ModelInstance) {
        let spec = &accepted.spec.template.spec;
        let observed = self.pods().find(|pod| Some(pod.adapter) == self.memory.adapter).or_else(|| self.pods().next());
        let adapter =
            spec.runtime.or_else(|| observed.map(|pod| pod.adapter)).unwrap_or(self.snapshot.node.default_adapter);
        if self.memory.stopping
            && let Some(pod) = observed
        {
            let is_outdated = pod.hash != resolve::template_hash(&accepted.spec.template);
            let why = if is_outdated { StopReason::Outdated } else { StopReason::NotWanted };
            return self.remove(pod, grace(accepted), why);
        }
        let mut duplicates: Vec<&PodObserved> = self.pods().filter(|pod| pod.adapter != adapter).collect();
        if let Some(pod) = duplicates.pop() {
            return self.remove(pod, grace(accepted), StopReason::Duplicate);
        }
        if !self.snapshot.node.is_ready(adapter) {
            self.blocked = Some(self.runtime_missing(adapter));
            return;
        }
        let context = Context {
            node: &self.snapshot.node,
            id: self.id,
            namespace: accepted.metadata.namespace.as_deref().unwrap_or_default(),
            memory: &self.memory,
            data: &self.snapshot.data,
            network: &self.snapshot.network,
        };
        let resolved = resolve::resolve(&context, accepted, adapter);
        if let Some(pod) = observed
            && pod.hash != resolve::template_hash(&accepted.spec.template)
        {
            return self.remove(pod, grace(accepted), StopReason::Outdated);
        }
        let resolved = match resolved {
            Ok(resolved) => resolved,
            Err(problems) => {
                let kind = problems.first().map_or(ProblemKind::Invalid, |problem| problem.kind);
                let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
                let refused = matches!(kind, ProblemKind::Invalid | ProblemKind::CannotHonour);
                self.blocked = Some(Blocked { reason: kind.reason(), message: lines.join("; "), refused });
                return;
            }
        };
        self.degraded.clone_from(&resolved.degraded);
        let policy = spec.restart_policy.unwrap_or_default();
        match observed {
            None => self.decide_start(resolved, adapter, policy, accepted),
            Some(pod) if !pod.sandbox_alive || is_half_made(pod) => {
                // What had ended for good stays; anything else needs a sandbox.
                if resolved.pod.containers.iter().any(|container| !self.is_finished(&container.name, policy)) {
                    self.remove(pod, grace(accepted), StopReason::Broken);
                }
            }
            Some(pod) => {
                self.decide_projection(&resolved);
                if self.decide_ends(pod, accepted) {
                    return;
                }
                if !pod.adapter.restarts_containers() {
                    self.decide_restarts(pod, resolved, policy);
                } else if self.is_stuck(pod, policy) {
                    self.remove(pod, grace(accepted), StopReason::Broken);
                }
            }
        }
    }

    fn is_finished(&self, container: &str, policy: RestartPolicy) -> bool {
        self.memory.containers.get(container).is_some_and(|container| is_finished(container, policy))
    }

    /// Whether a container is to be started again that its runtime, going by the restart policy alone, leaves as it is.
    fn is_stuck(&self, pod: &PodObserved, policy: RestartPolicy) -> bool {
        pod.containers.iter().any(|container| match &container.state {
            ContainerStateObserved::Exited(exit) => {
                !restart::wanted(policy, exit) && !self.is_finished(&container.name, policy)
            }
            _ => false,
        })
    }

    /// When a container may be started, as far as its own past goes.
    fn due(&self, container: &str) -> Timestamp {
        let now = self.now();
        let Some(container) = self.memory.containers.get(container) else { return now };
        match container.run.as_ref().and_then(|run| run.exit.as_ref()) {
            None => now,
            Some(exit) => restart::due(exit.finished_at, self.snapshot.node.backoff.delay(container.streak), now),
        }
    }

    fn decide_start(
        &mut self,
        mut resolved: Resolved,
        adapter: Adapter,
        policy: RestartPolicy,
        accepted: &ModelInstance,
    ) {
        resolved.pod.containers.retain(|container| !self.is_finished(&container.name, policy));
        if resolved.pod.containers.is_empty() {
            return;
        }
        if let Some(predecessor) = self.predecessor(accepted) {
            let message = format!("waiting for the pod of {predecessor} to be gone");
            self.blocked = Some(Blocked { reason: reason::UPDATING, message, refused: false });
            return;
        }
        let due = resolved.pod.containers.iter().map(|container| self.due(&container.name)).max();
        let due = due.into_iter().chain(self.wait_after_failure("")).max().unwrap_or(self.now());
        if due > self.now() {
            self.plan.requeue(due);
            return;
        }
        // Known before it is there: should the agent die in between, the adapter that may have it is known.
        self.memory.adapter = Some(adapter);
        let spec = Box::new(resolved.pod);
        self.plan.actions.push(Action::RunPod { adapter, spec, steps: resolved.steps });
    }

    /// Another instance of this model whose pod is to go first.
    fn predecessor(&self, accepted: &ModelInstance) -> Option<String> {
        let is_same_model = |other: &ModelInstance| {
            other.metadata.namespace == accepted.metadata.namespace
                && other.spec.package == accepted.spec.package
                && other.spec.model == accepted.spec.model
        };
        self.snapshot.instances.iter().filter(|(id, _)| *id != self.id).find_map(|(id, instance)| {
            let (other, _) = accept(instance);
            let other = other.filter(|other| is_same_model(other))?;
            let is_leaving = desired(self.snapshot, instance, Some(&other)) != Desired::Run;
            let has_pod = self.snapshot.starting.contains(id) || self.snapshot.pods.keys().any(|(pod, _)| pod == id);
            (is_leaving && has_pod).then(|| other.metadata.name.clone().unwrap_or_default())
        })
    }

    fn decide_projection(&mut self, resolved: &Resolved) {
        let is_outdated = |step: &&HostStep| {
            step.projection().is_some_and(|(volume, hash)| self.memory.projected.get(volume) != Some(&hash))
        };
        let steps: Vec<HostStep> = resolved.steps.iter().filter(is_outdated).cloned().collect();
        if steps.is_empty() {
            return;
        }
        match self.wait_after_failure("") {
            Some(at) => self.plan.requeue(at),
            None => self.plan.actions.push(Action::ProjectFiles { pod: self.id.clone(), steps }),
        }
    }

    fn decide_restarts(&mut self, pod: &PodObserved, resolved: Resolved, policy: RestartPolicy) {
        for container in resolved.pod.containers {
            if self.is_finished(&container.name, policy) {
                continue;
            }
            let observed = pod.containers.iter().find(|observed| observed.name == container.name);
            let attempt = match observed.map(|observed| (&observed.state, observed.attempt)) {
                Some((ContainerStateObserved::Running { .. }, _)) => continue,
                Some((_, attempt)) => attempt.saturating_add(1),
                None => 0,
            };
            let due = self.due(&container.name);
            let due = self.wait_after_failure(&container.name).map_or(due, |at| at.max(due));
            if due > self.now() {
                self.plan.requeue(due);
                continue;
            }
            let container = Box::new(container);
            let action = Action::StartContainer { pod: self.id.clone(), adapter: pod.adapter, container, attempt };
            self.plan.actions.push(action);
        }
    }

    fn event(&mut self, reason: &'static str, warning: bool, note: String) {
        self.plan.events.push(Event { pod: self.id.clone(), reason, warning, note });
    }

    fn finish(mut self, desired: Desired, stale: bool, accepted: &ModelInstance) -> Plan {
        let backoff = &self.snapshot.node.backoff;
        let policy = accepted.spec.template.spec.restart_policy.unwrap_or_default();
        for change in std::mem::take(&mut self.changes) {
            self.announce(change, desired, policy);
        }
        let failures: Vec<(FailureKind, String)> = self
            .memory
            .failures
            .values_mut()
            .filter(|failure| !failure.announced)
            .map(|failure| {
                failure.announced = true;
                (failure.failure.kind, failure.failure.message.clone())
            })
            .collect();
        for (kind, message) in failures {
            self.event(status::failure_reason(kind), true, message);
        }
        let facts = Facts {
            now: self.snapshot.now,
            accepted,
            object: self.instance.object.as_deref(),
            desired,
            stale,
            pod: self.pods().next(),
            blocked: self.blocked.as_ref(),
            degraded: &self.degraded,
            backoff,
            realtime: self.instance.realtime.as_ref(),
            attached: self.snapshot.network.attached.contains(self.id),
            no_network: self.snapshot.network.missing.as_deref(),
        };
        let status = status::compute(&facts, &self.memory);
        for (reason, warning, note) in status::transitions(&self.memory.status, &status) {
            self.event(reason, warning, note);
        }
        self.memory.status = status;
        if let Some(object) = &self.instance.object {
            let mut change = ObjectChange::default();
            if !status::is_reported(object.status.as_ref(), &self.memory.status) {
                change.status = Some(Box::new(self.memory.status.clone()));
            }
            if object.metadata.deletion_timestamp.is_none() && !has_finalizer(object) {
                change.finalizer = Some(FinalizerChange::Add);
            }
            if change != ObjectChange::default() {
                self.plan.objects.insert(self.id.clone(), change);
            }
        }
        if self.memory != self.instance.memory {
            self.plan.ledger.insert(self.id.clone(), LedgerChange::Write(Box::new(self.memory)));
        }
        self.plan
    }

    fn announce(&mut self, change: Change, desired: Desired, policy: RestartPolicy) {
        match change {
            Change::Started { container, restart: None } => {
                self.event("Started", false, format!("started container {container}"));
            }
            Change::Started { container, restart: Some(restarts) } => {
                self.event("Restarted", false, format!("restarted container {container}, restart {restarts}"));
            }
            Change::Exited { container, exit } => {
                let oom = if exit.oom_killed { ", out of memory" } else { "" };
                let unseen = if exit.code == memory::UNSEEN { " (nobody saw it end)" } else { "" };
                let by_itself = desired == Desired::Run && !self.instance.memory.stopping;
                let bad = exit.code != 0 && by_itself;
                self.event("Exited", bad, format!("container {container} ended with {}{oom}{unseen}", exit.code));
                let streak = self.memory.containers.get(&container).map_or(0, |container| container.streak);
                let delay = self.snapshot.node.backoff.delay(streak);
                if by_itself && restart::wanted(policy, &exit) && !delay.is_zero() {
                    let by_runtime = self.memory.adapter.is_some_and(Adapter::restarts_containers);
                    let when =
                        if by_runtime { "by the kubelet".to_owned() } else { format!("after {} s", delay.as_secs()) };
                    let note = format!("container {container} is restarted {when}");
                    self.event("BackOff", true, note);
                }
            }
        }
    }
}

fn has_finalizer(object: &ModelInstance) -> bool {
    object.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

/// The agent or the runtime died while it made the pod.
fn is_half_made(pod: &PodObserved) -> bool {
    pod.containers.is_empty()
        || pod.containers.iter().any(|container| container.state == ContainerStateObserved::Created)
}

/// Between SIGTERM and SIGKILL.
#[must_use]
pub fn grace(instance: &ModelInstance) -> Duration {
    let seconds = instance.spec.template.spec.termination_grace_period_seconds;
    seconds.map_or(DEFAULT_GRACE, |seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}
