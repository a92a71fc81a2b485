//! What runs beside CPUs set apart: moved to where it is balanced, and home again.
//!
//! Nobody balances the root cpuset while CPUs are set apart, so a thread that was on such a CPU would stay there, behind a SCHED_DEADLINE thread that may
//! take nine tenths of it. As `cset shield` does, everything that may run on the other CPUs as well is moved to `_rest`, which holds these: threads of
//! the root, of containers, and of the kernel. What stays where it is:
//! * threads that can't run on a CPU set apart, or on no other: who pinned them knows why,
//! * SCHED_DEADLINE threads, whose bandwidth the kernel has admitted where they are,
//! * those that the kernel moves for nobody (its own per-CPU threads),
//! * before Linux 6.2, which forgets a thread's own affinity when its cpuset changes, threads that have one.
//!
//! Nothing is written down: a thread's home is the group that it has in the other hierarchies, where that is one of ours, and the root otherwise.

use pullpiri_node_core::realtime::Cpus;

use super::cpuset::{Cpusets, OURS, REST};
use super::{affinity, group_of, set_affinity, settings};
use crate::cgroup::{Layout, write};
use crate::{Result, SysError};

/// Threads fork while they are moved, hence the rounds.
const ROUNDS: u32 = 8;
/// The hierarchies that tell where a thread belongs; a container is in all of them that there are.
const HOMES: [&str; 4] = ["cpu", "memory", "pids", "freezer"];

impl Cpusets {
    /// Moves what may run elsewhere away from these CPUs.
    pub(super) fn clear(&self, apart: &Cpus) -> Result<()> {
        let rest = self.cpus("")?.without(apart);
        for _ in 0..ROUNDS {
            let mut moved = false;
            for group in self.ours()?.iter().map(String::as_str).chain([""]) {
                for tid in self.tasks(group)? {
                    moved |= self.shift(tid, group, apart, &rest);
                }
            }
            if !moved {
                break;
            }
        }
        Ok(())
    }

    /// Whether a thread was moved.
    fn shift(&self, tid: i32, group: &str, apart: &Cpus, rest: &Cpus) -> bool {
        // One that is gone needs nothing.
        let Ok(before) = affinity(tid) else { return false };
        if before.and(apart).is_empty() || before.and(rest).is_empty() {
            return false;
        }
        if settings(tid).is_ok_and(|now| now.policy.is_deadline()) || self.assign(tid, REST).is_err() {
            return false;
        }
        let kept = affinity(tid).is_ok_and(|now| now == before.and(rest));
        if !kept && self.assign(tid, group).is_ok() {
            let _ = set_affinity(tid, &before);
        }
        kept
    }

    /// Moves everything in `_rest` to where it belongs.
    pub(super) fn send_home(&self) -> Result<()> {
        let mut refused = None;
        for _ in 0..ROUNDS {
            let tasks = self.tasks(REST)?;
            if tasks.is_empty() {
                return Ok(());
            }
            for tid in tasks {
                // Its home may have gone meanwhile.
                let sent = self.assign(tid, &self.home(tid)).or_else(|_| self.assign(tid, ""));
                refused = sent.err().filter(|error| error.raw_os_error() != Some(libc::ESRCH)).or(refused);
            }
        }
        match (self.tasks(REST)?.is_empty(), refused) {
            (false, Some(error)) => Err(error),
            (false, None) => Err(SysError::io("sending threads home", std::io::Error::other("they fork all the time"))),
            (true, _) => Ok(()),
        }
    }

    /// The cpuset group that a thread belongs to; empty for the root.
    pub(super) fn home(&self, tid: i32) -> String {
        let is_ours = |group: &String| OURS.iter().any(|top| group.split('/').next() == Some(*top));
        let groups = HOMES.iter().filter_map(|controller| group_of(tid, controller, Layout::Legacy));
        groups.filter(is_ours).find(|group| self.mount.join(group).join("tasks").exists()).unwrap_or_default()
    }

    fn assign(&self, tid: i32, group: &str) -> Result<()> {
        write(&self.mount.join(group).join("tasks"), &tid.to_string())
    }
}
