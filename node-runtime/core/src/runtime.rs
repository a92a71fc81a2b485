//! What the node runtime and its adapters tell each other: pods to run, and pods that were found.
//!
//! A *pod* is the set of containers of one ModelInstance; its id is the ModelInstance's UID. Everything here is resolved: volumes are
//! host paths or tmpfs, environment variables are values, quantities are integers.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use pullpiri_crds::model::{Adapter, ImagePullPolicy, RestartPolicy};
use serde::{Deserialize, Serialize};

/// Nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

/// A pod's id: the UID of its ModelInstance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PodId(pub String);

impl fmt::Display for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A pod to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    pub id: PodId,
    /// Of the ModelInstance.
    pub namespace: String,
    pub name: String,
    /// The hash of the template it was made from; a pod whose hash differs from its instance's is replaced.
    pub hash: String,
    pub hostname: String,
    pub network: NetworkMode,
    pub containers: Vec<ContainerSpec>,
    /// Kept by the runtime where it can (podman labels), for people and for adoption.
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub lifecycle: Lifecycle,
}

/// What a runtime is told that restarts containers by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lifecycle {
    pub restart: RestartPolicy,
    /// Between SIGTERM and SIGKILL, whoever ends the pod.
    pub grace_seconds: u32,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self { restart: RestartPolicy::default(), grace_seconds: 30 }
    }
}

/// Where the value of an environment variable is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeySource {
    /// A Secret, else a ConfigMap.
    pub secret: bool,
    /// Of the object, in the pod's namespace.
    pub name: String,
    pub key: String,
    pub optional: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NetworkMode {
    /// The node's network namespace.
    Host,
    /// A network namespace of the pod's own, shared by its containers, with loopback up.
    Own,
    /// A network namespace that is there, by the file that it is bound to. Who made it publishes its ports.
    Namespace(PathBuf),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerSpec {
    pub name: String,
    pub image: String,
    /// Empty: the image's entrypoint.
    pub command: Vec<String>,
    /// Empty: the image's command, unless `command` is given.
    pub args: Vec<String>,
    /// In order; later ones win. Merged over the image's.
    pub env: Vec<(String, String)>,
    /// Variables of `env` whose values the runtime reads itself, by name: no secret is written where Pods can be read. For such a runtime
    /// `$(NAME)` stays as it is in all texts.
    #[serde(default)]
    pub env_sources: BTreeMap<String, KeySource>,
    /// For a runtime that pulls images.
    #[serde(default)]
    pub image_pull: Option<ImagePullPolicy>,
    pub working_dir: Option<String>,
    pub mounts: Vec<Mount>,
    pub ports: Vec<Port>,
    pub limits: Limits,
    pub security: Security,
}

/// Published by the runtime if the pod has its own network and `host_port` is set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    pub container_port: u16,
    pub host_port: Option<u16>,
    /// `tcp` or `udp`.
    pub protocol: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    pub source: MountSource,
    /// Absolute, in the container.
    pub target: PathBuf,
    pub read_only: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MountSource {
    /// A file or directory of the host, bind-mounted.
    Bind(PathBuf),
    /// What a volume's `subPath` leads to at each start. Containers that share the volume may have laid links: one that leads out of
    /// `base` is refused.
    Below { base: PathBuf, sub_path: PathBuf },
    /// A tmpfs of the container's own.
    Tmpfs { size_bytes: Option<u64> },
}

/// Resource limits. `None`: unlimited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Thousandths of a CPU.
    pub cpu_millis: Option<u64>,
    /// Weight against others when CPUs are short, from the CPU request in thousandths.
    pub cpu_request_millis: Option<u64>,
    pub memory_bytes: Option<u64>,
    /// What a scheduler sets aside, where there is one.
    #[serde(default)]
    pub memory_request_bytes: Option<u64>,
    pub pids: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Security {
    pub privileged: bool,
    /// `SYS_NICE`, without `CAP_`; `ALL` stands for all.
    pub add_capabilities: Vec<String>,
    pub drop_capabilities: Vec<String>,
    pub user: Option<u32>,
    pub group: Option<u32>,
    pub read_only_root: bool,
}

/// A pod as a runtime has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodObserved {
    pub id: PodId,
    pub namespace: String,
    pub name: String,
    pub hash: String,
    pub adapter: Adapter,
    /// The sandbox (the supervisor, the infra container) is alive, so that containers can be started in it.
    pub sandbox_alive: bool,
    pub containers: Vec<ContainerObserved>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerObserved {
    pub name: String,
    /// 0 for the first start; each restart counts one.
    pub attempt: u32,
    pub state: ContainerStateObserved,
    /// The runtime's id of this attempt.
    pub container_id: String,
    /// The digest of the image's configuration, `sha256:…`.
    pub image_id: String,
    /// How the attempt before this one ended, where the runtime restarts by itself and still knows: who wasn't there learns it from this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Exit>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ContainerStateObserved {
    Created,
    /// Its runtime, which starts it by itself, hasn't yet: a word, and what is said of it.
    Waiting {
        reason: String,
        message: String,
    },
    Running {
        pid: u32,
        started_at: Timestamp,
    },
    Exited(Exit),
}

/// How a container's process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exit {
    /// 128 + signal if a signal ended it; 255 if nobody saw it end.
    pub code: i32,
    pub oom_killed: bool,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
}

/// What a runtime is and can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeInfo {
    pub adapter: Adapter,
    pub version: String,
}
