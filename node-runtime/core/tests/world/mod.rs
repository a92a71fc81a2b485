//! A node without a kernel: an API server, runtimes, a disk and an agent that does what plans say and may be killed in between.

// Tests, but clippy knows tests by their attribute, which these functions don't have.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(dead_code, reason = "each test crate uses its own part")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use pullpiri_crds::instance::Template;
use pullpiri_crds::model::{Adapter, Container, ModelSpec, RestartPolicy};
use pullpiri_crds::{ModelInstance, ModelInstanceSpec, ModelInstanceStatus};
use pullpiri_node_core::decide::FINALIZER;
use pullpiri_node_core::memory::{Failure, FailureKind, Memory};
use pullpiri_node_core::network::NodeState;
use pullpiri_node_core::plan::{FinalizerChange, HostStep, LedgerChange};
use pullpiri_node_core::restart::Backoff;
use pullpiri_node_core::runtime::{ContainerObserved, ContainerStateObserved, Exit, PodId, PodObserved, Timestamp};
use pullpiri_node_core::snapshot::{AdapterState, Instance, Node};
use pullpiri_node_core::{Action, Plan, Snapshot, decide};

/// What isn't ready is nowhere said to be as declared.
fn agrees_with_itself(status: &ModelInstanceStatus) {
    let of = |kind: &str| status.conditions.iter().find(|condition| condition.type_ == kind).unwrap();
    let says_well = |kind: &&str| of(kind).status == "False" && of(kind).reason == "AsDeclared";
    let is_ready = of("Ready").status == "True";
    assert!(is_ready || !["Progressing", "Degraded"].iter().any(says_well), "{:#?}", status.conditions);
}

pub const START: Timestamp = Timestamp(1_700_000_000_123_456_789);

pub struct World {
    pub now: Timestamp,
    pub api: BTreeMap<PodId, ModelInstance>,
    pub disk: BTreeMap<PodId, Memory>,
    pub pods: BTreeMap<(PodId, Adapter), PodObserved>,
    pub directories: BTreeSet<PodId>,
    /// So many operations fail from now on.
    pub failing: u32,
    pub failure: Failure,
    pub agent: Snapshot,
    next_pid: u32,
}

pub fn id(name: &str) -> PodId {
    PodId(format!("uid-{name}"))
}

pub fn instance(name: &str, spec: ModelSpec) -> ModelInstance {
    ModelInstance {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("default".to_owned()),
            uid: Some(id(name).0),
            generation: Some(1),
            ..Default::default()
        },
        spec: ModelInstanceSpec {
            package: "pkg".to_owned(),
            model: name.to_owned(),
            node_name: "zone".to_owned(),
            template: Arc::new(Template { spec, ..Default::default() }),
            run: true,
            epoch: 1,
            realtime: Vec::new(),
            network: None,
        },
        status: None,
    }
}

pub fn model(containers: &[&str], policy: RestartPolicy) -> ModelSpec {
    let container = |name: &&str| Container {
        name: (*name).to_owned(),
        image: format!("localhost/{name}:1.0"),
        ..Default::default()
    };
    ModelSpec {
        containers: containers.iter().map(container).collect(),
        restart_policy: Some(policy),
        ..Default::default()
    }
}

pub fn node() -> Node {
    Node {
        name: "zone".to_owned(),
        default_adapter: Adapter::Oci,
        adapters: BTreeMap::from([(Adapter::Oci, AdapterState::Ready), (Adapter::Podman, AdapterState::Ready)]),
        volumes: PathBuf::from("/data/volumes"),
        backoff: Backoff::default(),
    }
}

impl World {
    pub fn new() -> Self {
        let agent = Snapshot {
            now: START,
            node: node(),
            instances: BTreeMap::new(),
            pods: BTreeMap::new(),
            data: BTreeMap::new(),
            directories: BTreeSet::new(),
            starting: BTreeSet::new(),
            network: NodeState { namespaces: Some(PathBuf::from("/data/netns")), ..NodeState::default() },
            synced: true,
        };
        Self {
            now: START,
            api: BTreeMap::new(),
            disk: BTreeMap::new(),
            pods: BTreeMap::new(),
            directories: BTreeSet::new(),
            failing: 0,
            failure: Failure { kind: FailureKind::Failed, message: "the disk is full".to_owned() },
            agent,
            next_pid: 100,
        }
    }

    pub fn advance(&mut self, span: Duration) {
        self.now = self.now.plus(span);
    }

    pub fn create(&mut self, instance: ModelInstance) {
        let id = PodId(instance.metadata.uid.clone().unwrap());
        self.api.insert(id, instance);
    }

    pub fn update(&mut self, name: &str, change: impl FnOnce(&mut ModelInstanceSpec)) {
        if let Some(object) = self.api.get_mut(&id(name)) {
            change(&mut object.spec);
            object.metadata.generation = object.metadata.generation.map(|generation| generation + 1);
        }
    }

    pub fn delete(&mut self, name: &str) {
        let id = id(name);
        let Some(object) = self.api.get_mut(&id) else { return };
        if object.metadata.finalizers.iter().flatten().next().is_none() {
            self.api.remove(&id);
        } else if object.metadata.deletion_timestamp.is_none() {
            object.metadata.deletion_timestamp = Some(self.now.time());
        }
    }

    /// The process of a container ends.
    pub fn exit(&mut self, name: &str, container: &str, code: i32) {
        let now = self.now;
        for pod in self.pods.values_mut().filter(|pod| pod.id == id(name)) {
            for observed in pod.containers.iter_mut().filter(|observed| observed.name == container) {
                end(observed, code, now);
            }
        }
    }

    pub fn kill_sandbox(&mut self, name: &str) {
        for pod in self.pods.values_mut().filter(|pod| pod.id == id(name)) {
            pod.sandbox_alive = false;
        }
    }

    /// The agent's process dies and another starts; it hasn't heard the API server yet.
    pub fn restart_agent(&mut self) {
        self.agent.instances = self
            .disk
            .iter()
            .map(|(id, memory)| (id.clone(), Instance { object: None, memory: memory.clone(), realtime: None }))
            .collect();
        self.agent.synced = false;
        self.agent.pods.clear();
    }

    /// The agent hears what there is: runtimes, disk and, if `api`, the API server.
    pub fn observe(&mut self, api: bool) {
        self.agent.now = self.now;
        self.agent.pods = self.pods.clone();
        self.agent.directories = self.directories.clone();
        if api {
            for (id, object) in &self.api {
                self.agent.instances.entry(id.clone()).or_default().object = Some(Arc::new(object.clone()));
            }
            for (id, instance) in &mut self.agent.instances {
                if !self.api.contains_key(id) {
                    instance.object = None;
                }
            }
            self.agent.synced = true;
        }
        self.agent.instances.retain(|_, instance| instance.object.is_some() || instance.memory != Memory::default());
    }

    pub fn plan(&mut self, api: bool) -> Plan {
        self.observe(api);
        decide(&self.agent)
    }

    /// Does what the plan says. With `crash_after`, the agent dies after so many actions, with nothing else written.
    pub fn apply(&mut self, plan: Plan, crash_after: Option<usize>) {
        for (id, change) in &plan.ledger {
            let entry = self.agent.instances.entry(id.clone()).or_default();
            entry.memory = match change {
                LedgerChange::Write(memory) => (**memory).clone(),
                LedgerChange::Forget => Memory::default(),
            };
        }
        let mut failed = BTreeSet::new();
        for (index, action) in plan.actions.iter().enumerate() {
            if crash_after == Some(index) {
                return self.restart_agent();
            }
            if failed.contains(action.pod()) {
                continue;
            }
            let outcome = self.act(action);
            if outcome.is_err() {
                failed.insert(action.pod().clone());
            }
            if let Some(instance) = self.agent.instances.get_mut(action.pod()) {
                instance.memory.record(action, outcome, self.now);
            }
        }
        if crash_after.is_some() {
            return self.restart_agent();
        }
        for (id, change) in plan.ledger {
            match change {
                LedgerChange::Write(_) => {}
                LedgerChange::Forget => {
                    self.disk.remove(&id);
                }
            }
        }
        for (id, instance) in &self.agent.instances {
            if instance.memory != Memory::default() {
                self.disk.insert(id.clone(), instance.memory.clone());
            }
        }
        for (id, change) in plan.objects {
            let Some(object) = self.api.get_mut(&id) else { continue };
            if let Some(status) = change.status {
                agrees_with_itself(&status);
                // As it comes back from a server.
                let json = serde_json::to_string(&status).unwrap();
                object.status = Some(serde_json::from_str::<ModelInstanceStatus>(&json).unwrap());
            }
            let finalizers = object.metadata.finalizers.get_or_insert_default();
            match change.finalizer {
                Some(FinalizerChange::Add) => finalizers.push(FINALIZER.to_owned()),
                Some(FinalizerChange::Remove) => finalizers.retain(|finalizer| finalizer != FINALIZER),
                None => {}
            }
            if object.metadata.deletion_timestamp.is_some() && finalizers.is_empty() {
                self.api.remove(&id);
            }
        }
    }

    fn act(&mut self, action: &Action) -> Result<(), Failure> {
        if self.failing > 0 {
            self.failing -= 1;
            return Err(self.failure.clone());
        }
        let now = self.now;
        match action {
            Action::StopPod { pod, adapter, .. } => {
                for container in self.pods.get_mut(&(pod.clone(), *adapter)).into_iter().flat_map(|p| &mut p.containers)
                {
                    end(container, 143, now);
                }
            }
            Action::RemovePod { pod, adapter, .. } => {
                self.pods.remove(&(pod.clone(), *adapter));
            }
            Action::RemoveFiles { pod } => {
                self.directories.remove(pod);
            }
            Action::Detach { pod } => {
                assert!(!self.pods.keys().any(|(other, _)| other == pod), "{pod} loses its network while it is there");
                self.agent.network.attached.remove(pod);
            }
            Action::ProjectFiles { .. } => {}
            Action::RunPod { adapter, spec, steps } => {
                if steps.iter().any(|step| matches!(step, HostStep::Attach { .. })) {
                    self.agent.network.attached.insert(spec.id.clone());
                }
                let key = (spec.id.clone(), *adapter);
                assert!(!self.pods.keys().any(|(pod, _)| *pod == spec.id), "{} runs already", spec.id);
                self.directories.insert(spec.id.clone());
                let containers = spec.containers.iter().map(|c| self.start(&c.name, 0)).collect();
                let pod = PodObserved {
                    id: spec.id.clone(),
                    namespace: spec.namespace.clone(),
                    name: spec.name.clone(),
                    hash: spec.hash.clone(),
                    adapter: *adapter,
                    sandbox_alive: true,
                    containers,
                };
                self.pods.insert(key, pod);
            }
            Action::EndContainer { pod, adapter, container, .. } => {
                let now = self.now;
                let pod = self.pods.get_mut(&(pod.clone(), *adapter)).expect("a container is ended in a pod");
                pod.containers.iter_mut().filter(|c| c.name == *container).for_each(|c| end(c, 143, now));
            }
            Action::StartContainer { pod, adapter, container, attempt } => {
                let started = self.start(&container.name, *attempt);
                let pod = self.pods.get_mut(&(pod.clone(), *adapter)).expect("a container is started in a pod");
                assert!(pod.sandbox_alive, "a container is started in a sandbox");
                let is_running = |c: &ContainerObserved| matches!(c.state, ContainerStateObserved::Running { .. });
                assert!(!pod.containers.iter().any(|c| c.name == container.name && is_running(c)), "started twice");
                pod.containers.retain(|c| c.name != container.name);
                pod.containers.push(started);
            }
        }
        Ok(())
    }

    fn start(&mut self, name: &str, attempt: u32) -> ContainerObserved {
        self.next_pid += 1;
        ContainerObserved {
            name: name.to_owned(),
            attempt,
            state: ContainerStateObserved::Running { pid: self.next_pid, started_at: self.now },
            container_id: format!("{name}-{attempt}"),
            image_id: "sha256:00".to_owned(),
            before: None,
        }
    }

    /// Decides and applies until nothing is left to do; the plans, as text.
    pub fn settle(&mut self, api: bool) -> String {
        let mut transcript = String::new();
        for _ in 0..60 {
            let mut plan = self.plan(api);
            if !api {
                // Nobody is there to be told.
                plan.objects.clear();
            }
            if plan.is_empty() {
                transcript.push_str(&plan.to_string());
                return transcript;
            }
            transcript.push_str(&plan.to_string());
            transcript.push_str("--\n");
            self.apply(plan, None);
        }
        panic!("never settles:\n{transcript}");
    }

    pub fn running(&self, name: &str) -> BTreeMap<String, u32> {
        let pods = self.pods.values().filter(|pod| pod.id == id(name));
        pods.flat_map(|pod| &pod.containers)
            .filter_map(|container| match container.state {
                ContainerStateObserved::Running { pid, .. } => Some((container.name.clone(), pid)),
                _ => None,
            })
            .collect()
    }

    pub fn status(&self, name: &str) -> ModelInstanceStatus {
        self.api[&id(name)].status.clone().unwrap_or_default()
    }
}

fn end(container: &mut ContainerObserved, code: i32, now: Timestamp) {
    if let ContainerStateObserved::Running { started_at, .. } = container.state {
        container.state =
            ContainerStateObserved::Exited(Exit { code, oom_killed: code == 137, started_at, finished_at: now });
    }
}
