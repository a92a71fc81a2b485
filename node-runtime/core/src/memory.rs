//! What a node remembers of an instance: the part of its state that can be asked of nobody else.
//!
//! The agent keeps it on disk (the ledger), so that a node boots its services with no API server in reach, counts restarts across its
//! own, and refuses an epoch that it has seen surpassed. It changes in two ways only: [`observe`] folds in what the runtimes have, [`Memory::record`]
//! what an action did. Both are idempotent.

use std::collections::BTreeMap;
use std::time::Duration;

use pullpiri_crds::model::Adapter;
use pullpiri_crds::{ModelInstance, ModelInstanceStatus};
use serde::{Deserialize, Serialize};

use crate::plan::Action;
use crate::restart::{self, Backoff};
use crate::runtime::{ContainerObserved, ContainerStateObserved, Exit, PodObserved, Timestamp};
use crate::snapshot::{DataObject, DataRef};

/// The exit code of a process whose end nobody saw.
pub const UNSEEN: i32 = 255;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Memory {
    /// The highest `spec.epoch` seen.
    pub epoch: i64,
    /// The newest generation that was accepted, without status and managed fields.
    pub accepted: Option<ModelInstance>,
    /// Where its pod is or was last.
    pub adapter: Option<Adapter>,
    /// ConfigMaps and Secrets as last known, so that a boot without an API server has them.
    pub data: BTreeMap<DataRef, DataObject>,
    pub containers: BTreeMap<String, ContainerMemory>,
    /// Operations that failed and are tried again, by container; the pod's own under the empty name.
    pub failures: BTreeMap<String, FailureMemory>,
    /// What was written into each projected volume, as a hash.
    pub projected: BTreeMap<String, String>,
    /// Its pod is being stopped on purpose, and goes whatever is wished meanwhile: how its containers end says nothing of them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stopping: bool,
    /// It was stopped because a real-time task missed more deadlines than it may.
    pub terminated: Option<Terminated>,
    /// As last computed.
    pub status: ModelInstanceStatus,
}

/// Why an instance is stopped until its spec changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Terminated {
    /// Of the spec that it ran under, without the epoch: another leader is no reason to run again.
    pub spec_hash: String,
    pub message: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerMemory {
    /// The newest run; `None` before the first and after a stop on purpose.
    pub run: Option<Run>,
    /// Starts beyond the first, but for those after a stop on purpose.
    pub restarts: u32,
    /// Restarts since the container last ran for long.
    pub streak: u32,
    /// How the last run that ended did.
    pub last_exit: Option<Exit>,
}

/// One start of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Run {
    pub attempt: u32,
    pub container_id: String,
    pub image_id: String,
    pub started_at: Timestamp,
    /// 0 once it ended.
    pub pid: u32,
    pub exit: Option<Exit>,
    /// Its pod isn't there any more: whatever is seen next is another run.
    pub gone: bool,
    /// It was ended to be started again, whatever its restart policy and its exit code say.
    pub ended_to_restart: bool,
}

/// What went wrong with an operation, by what can be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FailureKind {
    ImageMissing,
    RuntimeMissing,
    /// A volume's path isn't there or isn't what it should be.
    Volume,
    /// The pod couldn't be attached to its Network.
    Network,
    /// Somebody else has a port of the node that the pod is to publish.
    PortTaken,
    /// The runtime says that it will never work.
    Refused,
    Failed,
}

impl FailureKind {
    /// The longest wait before another try. Images and volumes appear while somebody works on the node and looking for them is cheap.
    const fn max_delay(self) -> Duration {
        Duration::from_secs(match self {
            Self::ImageMissing | Self::Volume | Self::Network | Self::PortTaken => 10,
            Self::RuntimeMissing => 30,
            Self::Failed => 60,
            Self::Refused => 300,
        })
    }
}

/// An operation's failure, as the executor reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    pub kind: FailureKind,
    pub message: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailureMemory {
    #[serde(flatten)]
    pub failure: Failure,
    /// In a row.
    pub count: u32,
    pub at: Timestamp,
    /// An Event told of it.
    pub announced: bool,
}

impl FailureMemory {
    /// When the operation is tried again.
    #[must_use]
    pub fn retry_at(&self, now: Timestamp) -> Timestamp {
        restart::due(self.at, restart::retry_delay(self.count, self.failure.kind.max_delay()), now)
    }
}

/// What [`observe`] found new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// `restart`: how many restarts the container has had with this one; `None` if it is a first start.
    Started {
        container: String,
        restart: Option<u32>,
    },
    Exited {
        container: String,
        exit: Exit,
    },
}

/// Folds a pod as its runtime has it into `memory`.
pub fn observe(memory: &mut Memory, pod: &PodObserved, backoff: &Backoff) -> Vec<Change> {
    let mut changes = Vec::new();
    memory.adapter = Some(pod.adapter);
    for observed in &pod.containers {
        let container = memory.containers.entry(observed.name.clone()).or_default();
        observe_container(container, observed, backoff, &mut changes);
    }
    changes
}

fn observe_container(
    container: &mut ContainerMemory,
    observed: &ContainerObserved,
    backoff: &Backoff,
    changes: &mut Vec<Change>,
) {
    let (pid, started_at, exit) = match &observed.state {
        ContainerStateObserved::Created | ContainerStateObserved::Waiting { .. } => return,
        ContainerStateObserved::Running { pid, started_at } => (*pid, *started_at, None),
        ContainerStateObserved::Exited(exit) => (0, exit.started_at, Some(exit)),
    };
    let same = container.run.as_ref().is_some_and(|run| {
        !run.gone
            && run.attempt == observed.attempt
            && run.container_id == observed.container_id
            && (run.exit.is_none() || exit.is_some())
    });
    if !same {
        let is_restart = container.run.is_some();
        if let Some(previous) = &container.run {
            let missed = observed.attempt.saturating_sub(previous.attempt).max(1);
            if previous.exit.is_none() {
                // Nobody saw how the run before it ended; its runtime may know.
                let exit = observed.before.clone().unwrap_or_else(|| unseen_exit(previous, started_at));
                if observed.before.is_some() {
                    changes.push(Change::Exited { container: observed.name.clone(), exit: exit.clone() });
                }
                container.last_exit = Some(exit);
            }
            container.restarts = container.restarts.saturating_add(missed);
            container.streak = container.streak.saturating_add(missed);
        }
        if observed.before.is_some() {
            container.last_exit.clone_from(&observed.before);
        }
        container.run = Some(Run {
            attempt: observed.attempt,
            container_id: observed.container_id.clone(),
            image_id: observed.image_id.clone(),
            started_at,
            pid,
            exit: None,
            gone: false,
            ended_to_restart: false,
        });
        changes.push(Change::Started {
            container: observed.name.clone(),
            restart: is_restart.then_some(container.restarts),
        });
    }
    let Some(run) = &mut container.run else { return };
    run.pid = pid;
    if let (Some(exit), None) = (exit, &run.exit) {
        run.exit = Some(exit.clone());
        container.last_exit = Some(exit.clone());
        if exit.finished_at.since(run.started_at) >= backoff.reset_after {
            container.streak = 0;
        }
        changes.push(Change::Exited { container: observed.name.clone(), exit: exit.clone() });
    }
}

fn unseen_exit(run: &Run, finished_at: Timestamp) -> Exit {
    Exit { code: UNSEEN, oom_killed: false, started_at: run.started_at, finished_at }
}

/// Folds in that no runtime has the pod, though nobody meant to stop it: the host was restarted, or somebody removed it.
pub fn observe_vanished(memory: &mut Memory, now: Timestamp, backoff: &Backoff) -> Vec<Change> {
    let mut changes = Vec::new();
    for (name, container) in &mut memory.containers {
        let Some(run) = &mut container.run else { continue };
        if run.gone {
            continue;
        }
        run.gone = true;
        run.pid = 0;
        if run.exit.is_none() {
            let exit = unseen_exit(run, now);
            run.exit = Some(exit.clone());
            if now.since(run.started_at) >= backoff.reset_after {
                container.streak = 0;
            }
            container.last_exit = Some(exit.clone());
            changes.push(Change::Exited { container: name.clone(), exit });
        }
    }
    changes
}

impl Memory {
    /// The pod was stopped on purpose and is gone: the next start is a first one.
    pub fn stopped(&mut self) {
        for container in self.containers.values_mut() {
            container.run = None;
            container.streak = 0;
        }
        self.failures.clear();
        self.stopping = false;
    }

    /// The same, but what ended for good stays ended: the node stops, not the instance.
    pub fn suspended(&mut self, ended_for_good: impl Fn(&Exit) -> bool) {
        for container in self.containers.values_mut() {
            let over = container.run.as_ref().and_then(|run| run.exit.as_ref()).is_some_and(&ended_for_good);
            if !over {
                container.run = None;
                container.streak = 0;
            }
        }
        self.failures.clear();
    }

    /// What came of an action. What it changed in the runtime is observed, not recorded.
    pub fn record(&mut self, action: &Action, outcome: Result<(), Failure>, now: Timestamp) {
        let key = match action {
            Action::StartContainer { container, .. } => container.name.clone(),
            Action::StopPod { .. }
            | Action::EndContainer { .. }
            | Action::RemovePod { .. }
            | Action::RemoveFiles { .. }
            | Action::Detach { .. }
            | Action::ProjectFiles { .. }
            | Action::RunPod { .. } => String::new(),
        };
        match outcome {
            Ok(()) => {
                if let Action::RunPod { steps, .. } | Action::ProjectFiles { steps, .. } = action {
                    for step in steps {
                        if let Some((volume, hash)) = step.projection() {
                            self.projected.insert(volume.to_owned(), hash);
                        }
                    }
                }
                if matches!(action, Action::RunPod { .. }) {
                    self.failures.clear();
                } else {
                    self.failures.remove(&key);
                }
            }
            Err(failure) => {
                let previous = self.failures.remove(&key);
                let same = previous.as_ref().is_some_and(|previous| previous.failure == failure);
                let announced = same && previous.as_ref().is_some_and(|previous| previous.announced);
                // Another kind of failure is progress: it starts over.
                let count = match &previous {
                    Some(previous) if previous.failure.kind == failure.kind => previous.count.saturating_add(1),
                    _ => 1,
                };
                self.failures.insert(key, FailureMemory { failure, count, at: now, announced });
            }
        }
    }

    /// Something outside changed (a runtime came back, an image may have been loaded): what failed for that is tried at once.
    pub fn retry(&mut self, kind: FailureKind) {
        for failure in self.failures.values_mut().filter(|f| f.failure.kind == kind) {
            failure.count = 0;
            failure.at = Timestamp(i64::MIN);
        }
    }
}
