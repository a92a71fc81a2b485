//! What this kernel lets a container's threads have, by trying: each policy on a short-lived child in a group as containers have it.
//!
//! A child, not a thread: version 2 moves no single thread between groups. It is forked from a process that may have many threads, so it does nothing but
//! wait for its end.

use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use pullpiri_node_core::realtime::capabilities::{Capabilities, Groups, RealTimePolicy, share_ppm};
use pullpiri_node_core::realtime::{Policy, Settings};
use pullpiri_node_core::runtime::Limits;

use super::rt_group::RtGroups;
use super::{ApartCpus, affinity, online_cpus, set_settings, settings};
use crate::cgroup::{Cgroups, Layout, PARENT, write};
use crate::{Result, SysError};

/// Enough budget for a thread that never runs; microseconds of each period.
const BUDGET_US: u64 = 1_000;
/// Groups at the top whose budget is for containers of ours: this product's, and podman's.
const OURS: [&str; 2] = [PARENT, "libpod_parent"];
/// include/uapi/linux/capability.h
const CAP_SYS_NICE: u32 = 23;

/// Tries everything but the monitor, which isn't this module's to try. `proc` and `sys` are /proc and /sys.
///
/// Leaves nothing behind. Takes some milliseconds.
///
/// # Errors
/// If not even the CPUs can be read.
pub fn probe(
    cgroups: Option<&Cgroups>,
    proc: &Path,
    sys: &Path,
    exclusive_cpusets: std::result::Result<(), String>,
    monitor: std::result::Result<(), String>,
) -> Result<Capabilities> {
    // CPUs that are set apart are out of this process' reach just now, and its to give nevertheless.
    let apart = cgroups.and_then(|cgroups| ApartCpus::find(cgroups).ok()?.set_apart().ok()).unwrap_or_default();
    let allowed = affinity(0)?.or(&apart);
    let cpus = online_cpus(sys).map_or_else(|_| allowed.clone(), |online| online.and(&allowed));
    let budgets = cgroups.and_then(RtGroups::find);
    let groups = match &budgets {
        None => Groups::Unmetered,
        Some(budgets) => {
            let period_us = budgets.period_us("")?.unwrap_or(0);
            Groups::Metered { left_ppm: share_ppm(budgets.left_us(&OURS)?, period_us) }
        }
    };
    Ok(Capabilities {
        cpus,
        kernel: kernel(proc),
        policies: try_policies(cgroups, budgets.as_ref()),
        bandwidth_us: bandwidth_us(proc),
        fair_server_ppm: fair_server_ppm(sys),
        groups,
        exclusive_cpusets,
        exclusive_per_container: cgroups.is_some_and(|cgroups| cgroups.layout() == Layout::Unified),
        monitor,
    })
}

fn try_policies(
    cgroups: Option<&Cgroups>,
    budgets: Option<&RtGroups>,
) -> Vec<(RealTimePolicy, std::result::Result<(), String>)> {
    let policies = [
        (RealTimePolicy::Fifo, Policy::Fifo { priority: 1 }),
        (RealTimePolicy::RoundRobin, Policy::RoundRobin { priority: 1 }),
        (
            RealTimePolicy::Deadline,
            Policy::Deadline { runtime_ns: 1_000_000, deadline_ns: 100_000_000, period_ns: 100_000_000 },
        ),
    ];
    let child = Child::start(cgroups, budgets).map_err(|error| error.to_string());
    let attempt = |policy| {
        let child = child.as_ref().map_err(Clone::clone)?;
        let wanted = Settings { policy, reset_on_fork: true };
        let read = set_settings(child.pid, &wanted).and_then(|()| settings(child.pid));
        // So that one that holds bandwidth doesn't hold up the next.
        let back = set_settings(child.pid, &Settings::DEFAULT);
        match read.and_then(|read| back.map(|()| read)) {
            Ok(read) if read == wanted => Ok(()),
            Ok(read) => Err(format!("the kernel made it {read}")),
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => Err(why_not_permitted(cgroups, policy)),
            Err(error) => Err(error.source.to_string()),
        }
    };
    policies.map(|(name, policy)| (name, attempt(policy))).into()
}

fn why_not_permitted(cgroups: Option<&Cgroups>, policy: Policy) -> String {
    let capable = crate::limits::effective_capabilities().is_ok_and(|set| set & (1 << CAP_SYS_NICE) != 0);
    let unified = cgroups.is_some_and(|cgroups| cgroups.layout() == Layout::Unified);
    let why = match (capable, unified && policy.is_fixed_priority()) {
        (false, _) => "not permitted: this process lacks CAP_SYS_NICE",
        (true, true) => "not permitted: a kernel with RT_GROUP_SCHED allows it in no group of cgroup version 2",
        (true, false) => "not permitted",
    };
    why.to_owned()
}

/// A process that does nothing, in a group such as containers have. Dropping it ends it and removes its group.
struct Child<'a> {
    pid: i32,
    group: String,
    cgroups: Option<&'a Cgroups>,
    budgets: Option<&'a RtGroups>,
}

impl<'a> Child<'a> {
    fn start(cgroups: Option<&'a Cgroups>, budgets: Option<&'a RtGroups>) -> Result<Self> {
        // SAFETY: the child calls nothing but prctl and pause, which are safe after the fork of a process with many threads
        // (signal-safety(7); prctl is a bare system call), and never returns.
        #[allow(unsafe_code)]
        let pid = unsafe {
            let pid = libc::fork();
            if pid == 0 {
                // Should this process die, so does the child.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                loop {
                    libc::pause();
                }
            }
            pid
        };
        if pid < 0 {
            return Err(SysError::last("forking a process to try policies on"));
        }
        let child = Self { pid, group: format!("{PARENT}/_probe-{}", std::process::id()), cgroups, budgets };
        child.enter()?;
        Ok(child)
    }

    /// Moves the child into its group.
    fn enter(&self) -> Result<()> {
        let Some(path) = self.path() else { return Ok(()) };
        match self.cgroups {
            Some(cgroups) if cgroups.layout() == Layout::Unified => {
                cgroups.prepare(&self.group, &Limits::default(), &[])?;
            }
            _ => std::fs::create_dir_all(&path)
                .map_err(|error| SysError::io(format!("making cgroup {}", path.display()), error))?,
        }
        if let Some(budgets) = self.budgets {
            budgets.set(&self.group, 0, BUDGET_US)?;
        }
        write(&path.join("cgroup.procs"), &self.pid.to_string())
    }

    fn path(&self) -> Option<std::path::PathBuf> {
        let cgroups = self.cgroups.filter(|cgroups| cgroups.has_controller("cpu"))?;
        cgroups.controller_path("cpu", &self.group)
    }
}

impl Drop for Child<'_> {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.pid);
        // It is our child and not reaped yet, so that the id is its own.
        let _ = kill(pid, Signal::SIGKILL);
        let _ = waitpid(pid, None);
        if let Some(budgets) = self.budgets {
            let _ = budgets.set(&self.group, BUDGET_US, 0);
        }
        if let Some(cgroups) = self.cgroups {
            let _ = cgroups.remove(&self.group);
        }
    }
}

/// Major and minor number; 0.0 if they can't be read.
fn kernel(proc: &Path) -> (u32, u32) {
    let release = std::fs::read_to_string(proc.join("sys/kernel/osrelease")).unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// `sched_rt_runtime_us` and `sched_rt_period_us`; without them, nothing is limited.
fn bandwidth_us(proc: &Path) -> (i64, u64) {
    let read = |file: &str| std::fs::read_to_string(proc.join("sys/kernel").join(file)).unwrap_or_default();
    let runtime = read("sched_rt_runtime_us").trim().parse().unwrap_or(-1);
    (runtime, read("sched_rt_period_us").trim().parse().unwrap_or(1_000_000))
}

/// The fair server's share of a CPU, the largest, from debugfs; `None` if it isn't mounted.
fn fair_server_ppm(sys: &Path) -> Option<u32> {
    let servers = std::fs::read_dir(sys.join("kernel/debug/sched/fair_server")).ok()?;
    let share = |path: &Path| {
        let read = |file: &str| std::fs::read_to_string(path.join(file)).ok()?.trim().parse::<u64>().ok();
        Some(share_ppm(read("runtime")?, read("period")?))
    };
    servers.flatten().filter_map(|entry| share(&entry.path())).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::DEFAULT_ROOT;

    #[test]
    fn files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!((kernel(dir.path()), bandwidth_us(dir.path())), ((0, 0), (-1, 1_000_000)));
        assert_eq!(fair_server_ppm(dir.path()), None);
        std::fs::create_dir_all(dir.path().join("sys/kernel")).unwrap();
        for (file, text) in
            [("osrelease", "6.18.44-x\n"), ("sched_rt_runtime_us", "-1\n"), ("sched_rt_period_us", "500000\n")]
        {
            std::fs::write(dir.path().join("sys/kernel").join(file), text).unwrap();
        }
        assert_eq!((kernel(dir.path()), bandwidth_us(dir.path())), ((6, 18), (-1, 500_000)));
        for (cpu, runtime) in [("cpu0", "50000000"), ("cpu1", "100000000")] {
            let path = dir.path().join("kernel/debug/sched/fair_server").join(cpu);
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join("runtime"), runtime).unwrap();
            std::fs::write(path.join("period"), "1000000000").unwrap();
        }
        assert_eq!(fair_server_ppm(dir.path()), Some(100_000));
    }

    #[test]
    fn with_version_2_policies_are_tried_in_a_group_such_as_containers_have() {
        let dir = tempfile::tempdir().unwrap();
        let group = dir.path().join(format!("{PARENT}/_probe-{}", std::process::id()));
        std::fs::create_dir_all(&group).unwrap();
        for level in [dir.path(), &dir.path().join(PARENT)] {
            std::fs::write(level.join("cgroup.controllers"), "cpu cpuset").unwrap();
            std::fs::write(level.join("cgroup.subtree_control"), "").unwrap();
        }
        for (file, text) in [("cgroup.procs", ""), ("cpu.weight", "")] {
            std::fs::write(group.join(file), text).unwrap();
        }
        let cgroups = Cgroups::probe(dir.path()).unwrap();
        let child = Child::start(Some(&cgroups), None).unwrap();
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        assert_eq!(read(&group.join("cgroup.procs")), child.pid.to_string());
        assert_eq!(read(&group.join("cpu.weight")), "100");
        assert_eq!(read(&dir.path().join(PARENT).join("cgroup.subtree_control")), "+cpu +cpuset");
    }

    #[test]
    fn this_machine_is_probed_and_left_as_it_was() {
        let cgroups = Cgroups::probe(Path::new(DEFAULT_ROOT)).ok();
        let budget = || {
            let budgets = cgroups.as_ref().and_then(RtGroups::find)?;
            budgets.runtime_us(PARENT).unwrap().or(Some(0))
        };
        let before = budget();
        let found = probe(cgroups.as_ref(), Path::new("/proc"), Path::new("/sys"), Ok(()), Ok(())).unwrap();
        println!("{found:?}");
        assert!(!found.cpus.is_empty() && found.policies.len() == 3);
        assert!(found.kernel > (2, 0) && found.bandwidth_us.1 > 0);
        assert_eq!(budget(), before);
        if let Some(cgroups) = &cgroups {
            let group = format!("{PARENT}/_probe-{}", std::process::id());
            assert!(cgroups.controller_path("cpu", &group).is_none_or(|path| !path.exists()));
        }
    }
}
