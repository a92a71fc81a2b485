//! What is to be done: named operations, as data. A plan prints as stable text, which is what golden tests hold.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pullpiri_crds::ModelInstanceStatus;
use pullpiri_crds::model::{Adapter, HostPathType};

use crate::memory::Memory;
use crate::network::Attachment;
use crate::runtime::{ContainerSpec, PodId, PodSpec, Timestamp};
use crate::snapshot::Content;

/// The result of a decision. Empty (but for `requeue_at`) when all is as it should be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In order; one that fails ends those that follow for the same pod. Removals come before additions.
    pub actions: Vec<Action>,
    /// What the ledger and the snapshot shall hold from now on.
    pub ledger: BTreeMap<PodId, LedgerChange>,
    /// What the API server shall be told.
    pub objects: BTreeMap<PodId, ObjectChange>,
    pub events: Vec<Event>,
    /// Decide again then, if nothing happens before.
    pub requeue_at: Option<Timestamp>,
}

impl Plan {
    /// Nothing is to be done now.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty() && self.ledger.is_empty() && self.objects.is_empty() && self.events.is_empty()
    }

    pub(crate) fn requeue(&mut self, at: Timestamp) {
        self.requeue_at = Some(self.requeue_at.map_or(at, |earlier| earlier.min(at)));
    }

    pub(crate) fn append(&mut self, mut other: Self) {
        self.actions.append(&mut other.actions);
        self.ledger.append(&mut other.ledger);
        self.objects.append(&mut other.objects);
        self.events.append(&mut other.events);
        if let Some(at) = other.requeue_at {
            self.requeue(at);
        }
    }
}

/// One operation on a runtime or on the instance's directory. Each is idempotent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// SIGTERM, then SIGKILL after `grace`. Its exit codes are read before it is removed.
    StopPod {
        pod: PodId,
        adapter: Adapter,
        grace: Duration,
        why: StopReason,
    },
    RemovePod {
        pod: PodId,
        adapter: Adapter,
        why: StopReason,
    },
    /// The instance's volumes.
    RemoveFiles {
        pod: PodId,
    },
    /// Its network namespace and interfaces.
    Detach {
        pod: PodId,
    },
    /// Writes what ConfigMaps and Secrets hold now into volumes of a running pod.
    ProjectFiles {
        pod: PodId,
        steps: Vec<HostStep>,
    },
    /// Does `steps`, then creates the sandbox and starts its containers.
    RunPod {
        adapter: Adapter,
        spec: Box<PodSpec>,
        steps: Vec<HostStep>,
    },
    /// SIGTERM to a container's first process, SIGKILL after `grace`, so that it is started again as one that ended by itself is.
    EndContainer {
        pod: PodId,
        adapter: Adapter,
        container: String,
        pid: u32,
        grace: Duration,
    },
    /// Starts one container of an existing sandbox again.
    StartContainer {
        pod: PodId,
        adapter: Adapter,
        container: Box<ContainerSpec>,
        attempt: u32,
    },
}

impl Action {
    #[must_use]
    pub fn pod(&self) -> &PodId {
        match self {
            Self::StopPod { pod, .. }
            | Self::RemovePod { pod, .. }
            | Self::RemoveFiles { pod }
            | Self::Detach { pod }
            | Self::ProjectFiles { pod, .. }
            | Self::EndContainer { pod, .. }
            | Self::StartContainer { pod, .. } => pod,
            Self::RunPod { spec, .. } => &spec.id,
        }
    }

    /// Whether it takes something away. Those come first.
    #[must_use]
    pub fn removes(&self) -> bool {
        match self {
            Self::StopPod { .. }
            | Self::RemovePod { .. }
            | Self::RemoveFiles { .. }
            | Self::Detach { .. }
            | Self::EndContainer { .. } => true,
            Self::ProjectFiles { .. } | Self::RunPod { .. } | Self::StartContainer { .. } => false,
        }
    }
}

/// Why a pod is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// `spec.run` is false.
    NotWanted,
    /// Its ModelInstance was deleted.
    Deleted,
    /// Nobody knows it.
    Unknown,
    /// It was made from another template.
    Outdated,
    /// Its sandbox died, or it was left half made.
    Broken,
    /// The instance's pod is on another adapter.
    Duplicate,
    /// A real-time task of it missed more deadlines than it may.
    DeadlinesMissed,
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotWanted => "run is false",
            Self::Deleted => "deleted",
            Self::Unknown => "unknown to this node",
            Self::Outdated => "made from another template",
            Self::Broken => "sandbox lost",
            Self::Duplicate => "also on another adapter",
            Self::DeadlinesMissed => "a real-time task missed more deadlines than it may",
        })
    }
}

/// Something on the host that must be so before a pod starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostStep {
    /// `path` is, or becomes, what `kind` says. Without a kind anything will do, and a directory is made if nothing is there.
    HostPath { volume: String, path: PathBuf, kind: Option<HostPathType> },
    /// A directory of the instance's own, for every user.
    Directory { volume: String, path: PathBuf },
    /// `base/sub_path` exists, as a directory if nothing is there, and stays below `base` whatever links there are.
    SubPath { volume: String, base: PathBuf, sub_path: PathBuf },
    /// The pod has its network namespace, with its place in a bridged Network.
    Attach { pod: PodId, attachment: Box<Attachment> },
    /// `directory` holds exactly `files`, replaced all at once.
    Files { volume: String, directory: PathBuf, files: BTreeMap<String, File>, hash: String, medium: Medium },
}

/// Where a projected volume's files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    Disk,
    /// A tmpfs: what is secret isn't found on a disk that was taken out.
    Memory,
}

/// One file of a projected volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub content: Content,
    /// Permission bits.
    pub mode: u32,
}

impl HostStep {
    /// The volume and the hash of its content, if the step writes one.
    #[must_use]
    pub fn projection(&self) -> Option<(&str, String)> {
        match self {
            Self::Files { volume, hash, .. } => Some((volume, hash.clone())),
            Self::HostPath { .. } | Self::Directory { .. } | Self::SubPath { .. } | Self::Attach { .. } => None,
        }
    }
}

/// What becomes of the node's memory of an instance.
#[derive(Clone, Debug, PartialEq)]
pub enum LedgerChange {
    Write(Box<Memory>),
    Forget,
}

/// What becomes of the ModelInstance in the API server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObjectChange {
    pub status: Option<Box<ModelInstanceStatus>>,
    pub finalizer: Option<FinalizerChange>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinalizerChange {
    Add,
    Remove,
}

/// Something to tell people, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub pod: PodId,
    /// CamelCase.
    pub reason: &'static str,
    pub warning: bool,
    pub note: String,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for action in &self.actions {
            writeln!(f, "{action}")?;
        }
        for (pod, change) in &self.ledger {
            match change {
                LedgerChange::Write(_) => writeln!(f, "ledger  {pod} write")?,
                LedgerChange::Forget => writeln!(f, "ledger  {pod} forget")?,
            }
        }
        for (pod, change) in &self.objects {
            match change.finalizer {
                Some(FinalizerChange::Add) => writeln!(f, "object  {pod} finalizer added")?,
                Some(FinalizerChange::Remove) => writeln!(f, "object  {pod} finalizer removed")?,
                None => {}
            }
            if let Some(status) = &change.status {
                write_status(f, pod, status)?;
            }
        }
        for Event { pod, reason, warning, note } in &self.events {
            writeln!(f, "event   {pod} {} {reason}: {note}", if *warning { "Warning" } else { "Normal" })?;
        }
        if let Some(Timestamp(at)) = self.requeue_at {
            writeln!(f, "requeue at {}.{:09}", at.div_euclid(1_000_000_000), at.rem_euclid(1_000_000_000))?;
        }
        Ok(())
    }
}

fn write_status(f: &mut fmt::Formatter<'_>, pod: &PodId, status: &ModelInstanceStatus) -> fmt::Result {
    writeln!(f, "status  {pod} {} restarts {}", status.phase.as_str(), status.restarts.unwrap_or(0))?;
    for container in &status.containers {
        write!(f, "        {} {:?}", container.name, container.state)?;
        if let Some(pid) = container.pid {
            write!(f, " pid {pid}")?;
        }
        if let Some(code) = container.exit_code {
            write!(f, " exit {code}")?;
        }
        if let Some(reason) = &container.reason {
            write!(f, " {reason}")?;
        }
        if let Some(message) = &container.message {
            write!(f, ": {message}")?;
        }
        writeln!(f)?;
    }
    for condition in &status.conditions {
        writeln!(f, "        {}={} {}: {}", condition.type_, condition.status, condition.reason, condition.message)?;
    }
    Ok(())
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StopPod { pod, adapter, grace, why } => {
                write!(f, "stop    {pod} {} grace {} s: {why}", adapter.as_str(), grace.as_secs())
            }
            Self::RemovePod { pod, adapter, why } => write!(f, "remove  {pod} {}: {why}", adapter.as_str()),
            Self::RemoveFiles { pod } => write!(f, "remove  {pod} files"),
            Self::Detach { pod } => write!(f, "detach  {pod}"),
            Self::ProjectFiles { pod, steps } => {
                write!(f, "project {pod}")?;
                write_steps(f, steps)
            }
            Self::RunPod { adapter, spec, steps } => {
                write!(f, "run     {} {} {}/{}", spec.id, adapter.as_str(), spec.namespace, spec.name)?;
                for container in &spec.containers {
                    write!(f, " [{} {}]", container.name, container.image)?;
                }
                write_steps(f, steps)
            }
            Self::EndContainer { pod, adapter, container, pid, grace } => {
                write!(f, "end     {pod} {} {container} pid {pid} grace {} s", adapter.as_str(), grace.as_secs())
            }
            Self::StartContainer { pod, adapter, container, attempt } => {
                write!(f, "start   {pod} {} {} attempt {attempt}", adapter.as_str(), container.name)
            }
        }
    }
}

fn write_steps(f: &mut fmt::Formatter<'_>, steps: &[HostStep]) -> fmt::Result {
    for step in steps {
        write!(f, "\n        {step}")?;
    }
    Ok(())
}

impl fmt::Display for HostStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |path: &Path| path.display().to_string();
        match self {
            Self::HostPath { volume, path, kind: Some(kind) } => write!(f, "volume {volume}: {kind:?} {}", show(path)),
            Self::HostPath { volume, path, kind: None } => write!(f, "volume {volume}: {}", show(path)),
            Self::Directory { volume, path } => write!(f, "volume {volume}: directory {}", show(path)),
            Self::SubPath { volume, base, sub_path } => {
                write!(f, "volume {volume}: {} below {}", show(sub_path), show(base))
            }
            Self::Attach { attachment, .. } => {
                write!(f, "network {}:", attachment.network)?;
                for (address, gateway) in attachment.addresses.iter().zip(&attachment.gateways) {
                    write!(f, " {address} via {gateway}")?;
                }
                for port in &attachment.ports {
                    write!(f, " {}/{}→{}", port.protocol, port.host_port, port.port)?;
                }
                Ok(())
            }
            Self::Files { volume, directory, files, hash, medium } => {
                let held = if *medium == Medium::Memory { "holds in memory" } else { "holds" };
                write!(f, "volume {volume}: {} {held} {hash}", show(directory))?;
                for (path, file) in files {
                    write!(f, " {path} ({:?}, {:o})", file.content, file.mode)?;
                }
                Ok(())
            }
        }
    }
}
