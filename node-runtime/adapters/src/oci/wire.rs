//! What agent, zygote and supervisors say to each other: one JSON document per SEQPACKET message.
//!
//! The supervisor's requests and answers are read across agent restarts and upgrades, so fields are only ever added, with defaults.

use std::path::PathBuf;

use pullpiri_node_core::runtime::{ContainerObserved, Limits};
use serde::{Deserialize, Serialize};

/// Agent to zygote, with two descriptors: the supervisor's first connection, and the lock that says the pod has a supervisor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Birth {
    pub pod: String,
    /// The pod's directory.
    pub dir: PathBuf,
    /// Make a network namespace for the pod.
    pub own_network: bool,
    /// Join this network namespace.
    #[serde(default)]
    pub network: Option<PathBuf>,
    pub cgroup_root: PathBuf,
    /// Of a network of its own.
    #[serde(default)]
    pub ports: Vec<PublishedPort>,
}

/// A TCP port of the node that leads to one of the pod's own network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PublishedPort {
    pub host: u16,
    pub container: u16,
}

/// Agent to supervisor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Comes back in the answer.
    pub id: u64,
    pub what: What,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum What {
    /// Starts a container; answered by `Started` or `Failed`.
    Start(Box<Start>),
    /// Stop signals now, SIGKILL after `grace_ms`; answered by `Done` when nothing runs.
    Stop { grace_ms: u64 },
    /// SIGKILL now; answered by `Done` when nothing runs, and then the supervisor ends.
    Remove,
}

/// One attempt of one container.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Start {
    pub container: String,
    pub attempt: u32,
    pub container_id: String,
    pub image_id: String,
    /// The attempt's directory, with `config.json` in it.
    pub dir: PathBuf,
    /// The working directory of the overlay mount.
    pub layers_dir: PathBuf,
    /// Below it, topmost first.
    pub lower: Vec<String>,
    pub stop_signal: i32,
    pub limits: Limits,
    /// What the device controller allows.
    pub devices: Vec<String>,
    /// Mount sources that are opened when the container is made, and what `config.json` calls them.
    #[serde(default)]
    pub sub_paths: Vec<SubPath>,
    pub log: LogTarget,
}

/// A part of a volume, which other containers may write to at any time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SubPath {
    /// The volume.
    pub base: PathBuf,
    /// Must not lead out of it.
    pub path: PathBuf,
    /// In the attempt's directory: where it is bound to, in the creating process' mount namespace.
    pub at: PathBuf,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogTarget {
    pub path: PathBuf,
    /// A file that would grow beyond this is rotated; 0: never.
    pub max_bytes: u64,
    /// How many files are kept, the current one among them.
    pub max_files: u32,
}

/// Supervisor to agent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// First on every connection, with a pidfd of the supervisor.
    Hello {
        containers: Vec<ContainerObserved>,
    },
    Started {
        id: u64,
        container: ContainerObserved,
    },
    Done {
        id: u64,
    },
    Failed {
        id: u64,
        refused: bool,
        message: String,
    },
    /// A container started or ended, as it is now. Already on disk.
    Changed {
        container: ContainerObserved,
    },
}

/// A container's record on disk, `c/<container>/record.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub container: ContainerObserved,
    /// When the process started, in clock ticks since boot; guards against a reused process id.
    #[serde(default)]
    pub start_ticks: u64,
}

pub const RECORD_FILE: &str = "record.json";
pub const CONTAINERS_DIR: &str = "c";
pub const SOCKET_NAME: &str = "ctl.sock";
