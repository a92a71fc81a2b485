//! The kernel side: looking at threads, giving them what tasks declare, giving back what they had. Blocking.

use std::collections::BTreeSet;

use pullpiri_node_core::realtime::{Cpus, Given, Settings, Thread, ThreadId};
use pullpiri_node_host::SysError;
use pullpiri_node_host::cgroup::{Cgroups, Layout};
use pullpiri_node_host::sched::{self, ApartCpus, MemoryLock, RtGroups};
use tracing::debug;

type Result<T, E = SysError> = std::result::Result<T, E>;

#[derive(Debug)]
pub(crate) struct Kernel {
    cgroups: Option<Cgroups>,
    budgets: Option<RtGroups>,
    /// `Err`: why no CPU can be set apart for SCHED_DEADLINE.
    apart: Result<ApartCpus, String>,
    /// Those that there are.
    cpus: Cpus,
    /// Those that were set apart when threads were last looked at.
    set_apart: Cpus,
}

/// What came of giving a thread something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Given,
    /// It is where it is to be, but for its sleep: it went to sleep on this CPU, and is to be given the rest once it has woken.
    Asleep(u32),
}

fn refused(id: ThreadId, given: &Given, why: String) -> SysError {
    SysError { attempted: format!("giving thread {} {given}", id.tid), source: std::io::Error::other(why) }
}

impl Kernel {
    pub fn new(cgroups: Option<Cgroups>, cpus: Cpus) -> Self {
        let apart = cgroups.as_ref().map_or_else(|| Err("no cgroups are mounted".to_owned()), ApartCpus::find);
        let budgets = cgroups.as_ref().and_then(RtGroups::find);
        let mut this = Self { budgets, apart, cgroups, cpus, set_apart: Cpus::default() };
        this.look_around();
        this
    }

    /// Reads what threads are to be seen against. Where no CPU could be set apart, one may be now: what spoke against it may have gone. Not with version
    /// 2, where finding out takes a CPU from everything else for a moment.
    pub fn look_around(&mut self) {
        if let (Some(cgroups), Err(_)) = (&self.cgroups, &self.apart)
            && cgroups.layout() != Layout::Unified
        {
            self.apart = ApartCpus::find(cgroups);
        }
        self.set_apart = self.apart.as_ref().ok().and_then(|apart| apart.set_apart().ok()).unwrap_or_default();
    }

    fn observed(&self, container: &str, first: i32, thread: sched::Thread) -> Thread {
        let mut cpus = thread.cpus;
        // What was moved out of the way of CPUs set apart may use them again when they aren't any more.
        let is_moved = || sched::group_of(thread.tid, "cpuset", self.layout()).is_some_and(|g| ApartCpus::is_rest(&g));
        if !self.set_apart.is_empty() && is_moved() {
            cpus = cpus.or(&self.set_apart);
        }
        Thread {
            container: container.to_owned(),
            id: ThreadId { pid: thread.pid, tid: thread.tid, started: thread.started },
            is_first: thread.tid == first,
            name: thread.name,
            now: Given { settings: thread.settings, cpus },
        }
    }

    fn layout(&self) -> Layout {
        self.cgroups.as_ref().map_or(Layout::Legacy, Cgroups::layout)
    }

    /// One thread, if it is still there.
    pub fn thread(&self, container: &str, first: i32, id: ThreadId) -> Option<Thread> {
        let thread = sched::thread(id.pid, id.tid).ok().flatten().filter(|thread| thread.started == id.started)?;
        Some(self.observed(container, first, thread))
    }

    /// Every process of the container whose first process is `first`.
    pub fn processes(&self, first: i32) -> Result<BTreeSet<i32>> {
        self.cgroups.as_ref().map_or_else(|| Ok([first].into()), |cgroups| sched::processes_of(cgroups, first))
    }

    /// Every thread of the container whose first process is `first`.
    pub fn threads(&self, container: &str, first: i32) -> Result<Vec<Thread>> {
        let mut found = Vec::new();
        for pid in self.processes(first)? {
            found.extend(sched::threads_of(pid)?.into_iter().map(|thread| self.observed(container, first, thread)));
        }
        Ok(found)
    }

    /// Gives a thread what it is to have, and reads it back. The CPU comes first, so that it is urgent nowhere but there.
    pub fn give(&self, id: ThreadId, now: &Given, given: &Given) -> Result<Outcome> {
        let mut outcome = self.place(id, now, given).and_then(|()| Self::set(id, given));
        let is_refused = |outcome: &Result<()>| {
            outcome.as_ref().is_err_and(|error| error.source.kind() == std::io::ErrorKind::PermissionDenied)
        };
        if given.settings.policy.is_deadline() && is_refused(&outcome) {
            if let Some(cpu) = self.asleep(id, given) {
                return Ok(Outcome::Asleep(cpu));
            }
            // It may have woken in between.
            outcome = Self::set(id, given);
        }
        if outcome.is_err() && self.place(id, given, now).is_ok() {
            // All of it or nothing. The first error is the one to tell.
            let _ = sched::set_settings(id.tid, &now.settings);
        }
        outcome.map(|()| Outcome::Given)
    }

    fn set(id: ThreadId, given: &Given) -> Result<()> {
        sched::set_settings(id.tid, &given.settings)?;
        let read = Given { settings: sched::settings(id.tid)?, cpus: sched::affinity(id.tid)? };
        if read.settings == given.settings && (given.cpus.is_empty() || read.cpus == given.cpus) {
            return Ok(());
        }
        Err(refused(id, given, format!("the kernel made it {read}")))
    }

    /// The CPU on which a thread went to sleep that is on one set apart by now. The kernel looks at the former's domain until it wakes, and so refuses
    /// SCHED_DEADLINE.
    fn asleep(&self, id: ThreadId, given: &Given) -> Option<u32> {
        let group = sched::group_of(id.tid, "cpuset", self.layout())?;
        let cpu = sched::last_cpu(id.pid, id.tid)?;
        (ApartCpus::is_apart(&group) && !given.cpus.is_empty() && !given.cpus.contains(cpu)).then_some(cpu)
    }

    /// Puts a thread on its CPUs: SCHED_DEADLINE on one that is set apart, anything else by its affinity.
    fn place(&self, id: ThreadId, now: &Given, given: &Given) -> Result<()> {
        let cpus = if given.cpus.is_empty() { &self.cpus } else { &given.cpus };
        let group = sched::group_of(id.tid, "cpuset", self.layout()).unwrap_or_default();
        let is_away = ApartCpus::is_apart(&group) || ApartCpus::is_rest(&group);
        let wants_apart = given.settings.policy.is_deadline() && *cpus != self.cpus;
        let is_there = match cpus.0.first() {
            Some(cpu) if wants_apart => ApartCpus::is_of(&group, *cpu),
            _ => !is_away && now.cpus == *cpus,
        };
        if is_there {
            return Ok(());
        }
        if sched::settings(id.tid)?.policy.is_deadline() {
            // The kernel lets no such thread leave the CPUs that it was admitted to.
            sched::set_settings(id.tid, &Settings::DEFAULT)?;
        }
        let Some(cpu) = cpus.0.first().filter(|_| wants_apart) else {
            if let (true, Ok(apart)) = (is_away, &self.apart) {
                apart.leave(id.tid)?;
            }
            return sched::set_affinity(id.tid, cpus);
        };
        let apart = self.apart.as_ref().map_err(|why| refused(id, given, format!("it can't be pinned: {why}")))?;
        apart.enter(*cpu, id.tid)
    }

    /// Gives back CPUs that were set apart for threads that are gone, and moves threads that came since out of the way of the others. Whether all of it
    /// worked.
    pub fn settle(&self) -> bool {
        let Ok(apart) = &self.apart else { return true };
        apart.settle().inspect_err(|error| debug!(%error, "CPUs that were set apart; tried again")).is_ok()
    }

    /// Gives a thread back what it had; one that is gone needs nothing.
    pub fn restore(&self, id: ThreadId, before: &Given) -> Result<()> {
        let Some(now) = self.thread("", 0, id) else { return Ok(()) };
        match self.give(id, &now.now, before) {
            Err(_) if self.thread("", 0, id).is_none() => Ok(()),
            // CPUs may have gone since, or its cpuset may have changed.
            Err(error) if sched::settings(id.tid).is_ok_and(|now| now == before.settings) => {
                debug!(%error, tid = id.tid, "a thread's CPUs aren't what they were");
                Ok(())
            }
            Ok(Outcome::Asleep(cpu)) => Err(refused(id, before, format!("it sleeps since it was on CPU {cpu}"))),
            outcome => outcome.map(|_| ()),
        }
    }

    /// The group whose real-time budget a process' threads draw on; `None` where none is needed.
    pub fn budget_group(&self, pid: i32) -> Option<String> {
        self.budgets.as_ref()?;
        sched::group_of(pid, "cpu", self.layout()).filter(|group| !group.is_empty())
    }

    /// In microseconds.
    pub fn budget_period_us(&self, group: &str) -> u64 {
        let period = self.budgets.as_ref().and_then(|budgets| budgets.period_us(group).ok().flatten());
        period.unwrap_or(1_000_000)
    }

    /// What a group has, in microseconds of each period; `None`: it is gone, or groups have no budgets here.
    pub fn budget_us(&self, group: &str) -> Option<u64> {
        self.budgets.as_ref()?.runtime_us(group).ok().flatten()
    }

    /// Changes a group's budget from what it was given to what is wanted, and those above it.
    pub fn set_budget(&self, group: &str, has_us: u64, wanted_us: u64) -> Result<()> {
        self.budgets.as_ref().map_or(Ok(()), |budgets| budgets.set(group, has_us, wanted_us))
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

    /// What somebody else has limited a process to that was let lock all of its memory, if it was let again as far as this process may.
    pub fn unlock_memory_again(&self, pid: i32) -> Option<u64> {
        let now = sched::memory_lock(pid).ok().filter(|now| *now != MemoryLock::UNLIMITED)?;
        let most = MemoryLock { soft: now.hard, hard: now.hard };
        let again = sched::set_memory_lock(pid, MemoryLock::UNLIMITED).is_ok()
            || (now != most && sched::set_memory_lock(pid, most).is_ok());
        again.then_some(now.soft)
    }

    pub fn restore_memory(&self, pid: i32, (soft, hard): (u64, u64)) {
        // It is gone, or its limit stays above: neither harms.
        let _ = sched::set_memory_lock(pid, MemoryLock { soft, hard });
    }
}
