//! The kernel side: looking at threads, giving them what tasks declare, giving back what they had. Blocking.

use std::collections::{BTreeMap, BTreeSet};

use pullpiri_node_core::realtime::{Cpus, Given, Settings, Thread, ThreadId};
use pullpiri_node_host::cgroup::{Cgroups, Layout};
use pullpiri_node_host::sched::{self, MemoryLock, RtGroups};
use pullpiri_node_host::{Result, SysError};

#[derive(Debug)]
pub(crate) struct Kernel {
    cgroups: Option<Cgroups>,
    budgets: Option<RtGroups>,
    /// Those that there are.
    cpus: Cpus,
}

fn observed(container: &str, first: i32, thread: sched::Thread) -> Thread {
    Thread {
        container: container.to_owned(),
        id: ThreadId { pid: thread.pid, tid: thread.tid, started: thread.started },
        is_first: thread.tid == first,
        name: thread.name,
        now: Given { settings: thread.settings, cpus: thread.cpus },
    }
}

impl Kernel {
    pub fn new(cgroups: Option<Cgroups>, cpus: Cpus) -> Self {
        Self { budgets: cgroups.as_ref().and_then(RtGroups::find), cgroups, cpus }
    }

    /// One thread, if it is still there.
    pub fn thread(&self, container: &str, first: i32, id: ThreadId) -> Option<Thread> {
        let thread = sched::thread(id.pid, id.tid).ok().flatten().filter(|thread| thread.started == id.started)?;
        Some(observed(container, first, thread))
    }

    /// Every process of the container whose first process is `first`.
    pub fn processes(&self, first: i32) -> Result<BTreeSet<i32>> {
        self.cgroups.as_ref().map_or_else(|| Ok([first].into()), |cgroups| sched::processes_of(cgroups, first))
    }

    /// Every thread of the container whose first process is `first`.
    pub fn threads(&self, container: &str, first: i32) -> Result<Vec<Thread>> {
        let mut found = Vec::new();
        for pid in self.processes(first)? {
            found.extend(sched::threads_of(pid)?.into_iter().map(|thread| observed(container, first, thread)));
        }
        Ok(found)
    }

    /// Gives a thread what it is to have, and reads it back. The CPU comes first, so that it is urgent nowhere but there.
    pub fn give(&self, id: ThreadId, now: &Given, given: &Given) -> Result<()> {
        if now.settings.policy.is_deadline() && now.cpus != given.cpus {
            // The kernel lets no such thread leave the CPUs that it was admitted to.
            sched::set_settings(id.tid, &Settings::DEFAULT)?;
        }
        if now.cpus != given.cpus {
            let cpus = if given.cpus.is_empty() { &self.cpus } else { &given.cpus };
            sched::set_affinity(id.tid, cpus)?;
        }
        sched::set_settings(id.tid, &given.settings)?;
        let read = Given { settings: sched::settings(id.tid)?, cpus: sched::affinity(id.tid)? };
        if read.settings == given.settings && (given.cpus.is_empty() || read.cpus == given.cpus) {
            return Ok(());
        }
        Err(SysError {
            attempted: format!("giving thread {} {given}", id.tid),
            source: std::io::Error::other(format!("the kernel made it {read}")),
        })
    }

    /// Gives a thread back what it had; one that is gone needs nothing.
    pub fn restore(&self, id: ThreadId, before: &Given) -> Result<()> {
        let Some(now) = self.thread("", 0, id) else { return Ok(()) };
        match self.give(id, &now.now, before) {
            Err(_) if self.thread("", 0, id).is_none() => Ok(()),
            // CPUs may have gone since, or its cpuset may have changed.
            Err(error) if sched::settings(id.tid).is_ok_and(|now| now == before.settings) => {
                tracing::debug!(%error, tid = id.tid, "a thread's CPUs aren't what they were");
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// The group whose real-time budget a process' threads draw on; `None` where none is needed.
    pub fn budget_group(&self, pid: i32) -> Option<String> {
        self.budgets.as_ref()?;
        let layout = self.cgroups.as_ref().map_or(Layout::Legacy, Cgroups::layout);
        sched::group_of(pid, "cpu", layout).filter(|group| !group.is_empty())
    }

    /// In microseconds.
    pub fn budget_period_us(&self, group: &str) -> u64 {
        let period = self.budgets.as_ref().and_then(|budgets| budgets.period_us(group).ok().flatten());
        period.unwrap_or(1_000_000)
    }

    /// Changes groups' budgets from what they were given to what is wanted; those that become smaller first.
    pub fn set_budgets(&self, held: &BTreeMap<String, u64>, wanted: &BTreeMap<String, u64>) -> Result<()> {
        let Some(budgets) = &self.budgets else { return Ok(()) };
        let of = |map: &BTreeMap<String, u64>, group: &str| map.get(group).copied().unwrap_or(0);
        let mut groups: Vec<&String> = held.keys().chain(wanted.keys()).collect();
        groups.sort_by_key(|group| (of(wanted, group) > of(held, group), *group));
        groups.dedup();
        let mut outcome = Ok(());
        for group in groups {
            let set = budgets.set(group, of(held, group), of(wanted, group));
            if outcome.is_ok() {
                outcome = set;
            }
        }
        outcome
    }

    /// Lets a process lock all of its memory, as far as this process may allow it; what it was allowed before, if that changed.
    pub fn unlock_memory(&self, pid: i32) -> Option<(u64, u64)> {
        let before = sched::memory_lock(pid).ok()?;
        let most = MemoryLock { soft: before.hard, hard: before.hard };
        if before == MemoryLock::UNLIMITED {
            return None;
        }
        let raised = sched::set_memory_lock(pid, MemoryLock::UNLIMITED).is_ok()
            || (before != most && sched::set_memory_lock(pid, most).is_ok());
        raised.then_some((before.soft, before.hard))
    }

    pub fn restore_memory(&self, pid: i32, (soft, hard): (u64, u64)) {
        // It is gone, or its limit stays above: neither harms.
        let _ = sched::set_memory_lock(pid, MemoryLock { soft, hard });
    }
}
