//! CPUs set apart for SCHED_DEADLINE, whichever version the cgroups have: `cpuset` for version 1, `partition` for version 2.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use pullpiri_node_core::realtime::Cpus;

use super::cpuset::{Cpusets, REST};
use super::partition::Partitions;
use crate::cgroup::{Cgroups, Layout, PARENT};
use crate::{Result, SysError};

/// What the group of a CPU set apart is called, before its number.
pub(super) const APART: &str = "_apart-";
/// A change takes milliseconds: who holds the lock for longer has been stopped.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// The hierarchy in which CPUs are set apart.
#[derive(Clone, Debug)]
pub struct ApartCpus(Version);

#[derive(Clone, Debug)]
enum Version {
    One(Cpusets),
    Two(Partitions),
}

impl ApartCpus {
    /// # Errors
    /// Why no CPU can be set apart here.
    pub fn find(cgroups: &Cgroups) -> std::result::Result<Self, String> {
        Ok(Self(match cgroups.layout() {
            Layout::Unified => Version::Two(Partitions::find(cgroups)?),
            Layout::Hybrid | Layout::Legacy => Version::One(Cpusets::find(cgroups)?),
        }))
    }

    /// Whether a cpuset group is one of a CPU set apart.
    #[must_use]
    pub fn is_apart(group: &str) -> bool {
        let below = group.strip_prefix(PARENT).is_some_and(|rest| rest.starts_with('/'));
        below && group.rsplit('/').next().is_some_and(|name| name.starts_with(APART))
    }

    /// Whether a cpuset group is the one of this CPU, or one of them: version 2 has one in each container.
    #[must_use]
    pub fn is_of(group: &str, cpu: u32) -> bool {
        Self::is_apart(group) && group.rsplit_once(APART).is_some_and(|(_, number)| number.parse() == Ok(cpu))
    }

    /// Whether a cpuset group is the one of the CPUs that aren't set apart.
    #[must_use]
    pub fn is_rest(group: &str) -> bool {
        group == REST
    }

    /// The CPUs that are set apart, by whomever.
    ///
    /// # Errors
    /// If the hierarchy can't be read.
    pub fn set_apart(&self) -> Result<Cpus> {
        match &self.0 {
            Version::One(cpusets) => cpusets.set_apart(),
            Version::Two(partitions) => partitions.set_apart(),
        }
    }

    /// Sets a CPU apart, unless it is, moves a thread there, and others away. Its affinity is that CPU then.
    ///
    /// # Errors
    /// If it is the last CPU, or somebody else has it.
    pub fn enter(&self, cpu: u32, tid: i32) -> Result<()> {
        match &self.0 {
            Version::One(cpusets) => cpusets.enter(cpu, tid),
            Version::Two(partitions) => partitions.enter(cpu, tid),
        }
    }

    /// Moves a thread home, to its container's group: from a CPU set apart with what it has made meanwhile in its process.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn leave(&self, tid: i32) -> Result<()> {
        match &self.0 {
            Version::One(cpusets) => cpusets.leave(tid),
            Version::Two(partitions) => partitions.leave(tid),
        }
    }

    /// Gives back CPUs without threads, and moves what came since to where it is balanced. Without CPUs set apart, nothing is looked at twice. The CPUs
    /// that are set apart then.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn settle(&self) -> Result<Cpus> {
        match &self.0 {
            Version::One(cpusets) => cpusets.settle(),
            Version::Two(partitions) => partitions.settle(),
        }
    }
}

/// Until it is dropped, nobody else changes partitions of this hierarchy.
pub(super) fn lock(mount: &Path) -> Result<Flock<File>> {
    let failed = |error| SysError::io(format!("locking {}", mount.display()), error);
    let mut file = File::open(mount).map_err(failed)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((same, Errno::EWOULDBLOCK)) if Instant::now() < deadline => file = same,
            Err((_, errno)) => return Err(failed(errno.into())),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_told_apart() {
        assert!(ApartCpus::is_of("pullpiri/_apart-1", 1) && ApartCpus::is_of("pullpiri/p/c/_apart-12", 12));
        assert!(!ApartCpus::is_of("pullpiri/_apart-1", 2) && !ApartCpus::is_of("pullpiri/_apart-12", 1));
        for other in ["", "pullpiri", "pullpiri/_rest", "pullpiri/p/c", "other/_apart-1", "pullpirix/_apart-1"] {
            assert!(!ApartCpus::is_apart(other), "{other}");
        }
        assert!(ApartCpus::is_rest("pullpiri/_rest") && !ApartCpus::is_rest("pullpiri/_rest/x"));
    }
}
