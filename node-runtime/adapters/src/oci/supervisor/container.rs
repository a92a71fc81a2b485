//! One container as its supervisor knows it.

use std::path::{Path, PathBuf};

use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use pullpiri_node_core::runtime::{ContainerObserved, ContainerStateObserved, Exit, Timestamp};
use pullpiri_node_host::files::{self, Durability};
use pullpiri_node_host::process::{self, Pidfd};
use pullpiri_node_host::{SysError, clock, signals};

use super::log::{Log, Stream};
use crate::oci::wire::{CONTAINERS_DIR, RECORD_FILE, Record};

/// A container that was started at least once.
pub(super) struct Container {
    pub observed: ContainerObserved,
    /// `None` once it has exited.
    pub live: Option<Live>,
}

/// What there is only while the container runs.
pub(super) struct Live {
    pub pid: Pid,
    pub pidfd: Pidfd,
    pub started_at: Timestamp,
    pub stop_signal: i32,
    pub log: Log,
    pub streams: Vec<Stream>,
    /// What the kernel had killed in this group for want of memory before this attempt.
    pub oom_kills_before: u64,
}

impl Container {
    /// Whether this is the container's running first process.
    pub(super) fn is(&self, pid: Pid) -> bool {
        self.live.as_ref().is_some_and(|l| l.pid == pid)
    }

    /// Records that the process ended; its log is complete before its exit is on record.
    pub(super) fn ended(&mut self, dir: &Path, status: WaitStatus, oom_kills: u64) -> Result<(), SysError> {
        let Some(mut live) = self.live.take() else { return Ok(()) };
        for stream in live.streams.drain(..) {
            stream.drain(&mut live.log);
        }
        let code = match status {
            WaitStatus::Exited(_, code) => code,
            WaitStatus::Signaled(_, signal, _) => 128 + signals::number(signal),
            _ => 255,
        };
        let exit = Exit {
            code,
            // A child of the container's may also have been the victim; only the first process' death is the container's.
            oom_killed: code == 137 && oom_kills > live.oom_kills_before,
            started_at: live.started_at,
            finished_at: clock::now(),
        };
        self.observed.state = ContainerStateObserved::Exited(exit);
        write_record(dir, &self.observed, 0, Durability::PowerCut)
    }

    pub(super) fn started(&self, dir: &Path, pid: Pid) -> Result<(), SysError> {
        // A process that has already ended has no start time, and needs none.
        let ticks = process::start_ticks(pid.as_raw()).unwrap_or(0);
        write_record(dir, &self.observed, ticks, Durability::ProcessDeath)
    }
}

/// Writes a container's record into the pod's directory.
pub(in crate::oci) fn write_record(
    pod_dir: &Path,
    container: &ContainerObserved,
    start_ticks: u64,
    durability: Durability,
) -> Result<(), SysError> {
    let record = Record { container: container.clone(), start_ticks };
    let bytes = serde_json::to_vec(&record).unwrap_or_default();
    files::replace(&record_path(pod_dir, &container.name), &bytes, durability)
}

pub(in crate::oci) fn record_path(pod_dir: &Path, container: &str) -> PathBuf {
    pod_dir.join(CONTAINERS_DIR).join(container).join(RECORD_FILE)
}
