//! CPUs set apart for SCHED_DEADLINE, with the version 1 cpuset controller.
//!
//! The kernel takes a SCHED_DEADLINE thread that may run on some CPUs only if these are a root domain of their own (sched(7), "Deadline scheduling and
//! affinity"). Domains come from load balancing: where the root cpuset doesn't balance, each cpuset that does makes one, and those that overlap are
//! one (Documentation/admin-guide/cgroup-v1/cpusets.rst, section 1.7). So while a CPU is set apart
//! * `pullpiri/_apart-<cpu>` holds that CPU and its threads, and balances,
//! * `pullpiri/_rest` holds the other CPUs, and balances,
//! * the root and every other group that holds containers of ours doesn't. What may run on both kinds of CPU is moved from there to `_rest` (`shield`):
//!   nobody would balance it away from beside a SCHED_DEADLINE thread.
//!
//! With the last such thread all of it goes, what was moved goes home, and the root balances again. Groups that are somebody else's are never changed:
//! where one of them balances, or the root doesn't for another's sake, no CPU can be set apart.
//!
//! All that is needed to undo it is in the hierarchy itself, so whoever comes next undoes it, whatever became of who did it. Several node runtimes may
//! share a machine: each change is made under a lock on the hierarchy's root.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pullpiri_node_core::realtime::Cpus;

use super::apart::{APART, ApartCpus, PATIENCE, lock};
use super::{group_of, settings};
use crate::cgroup::{Cgroups, Layout, PARENT, children, is_gone, write};
use crate::{Result, SysError};

/// Groups at the top that hold containers of ours: this product's, and podman's.
pub(super) const OURS: [&str; 2] = [PARENT, "libpod_parent"];
pub(super) const REST: &str = "pullpiri/_rest";
const BALANCE: &str = "cpuset.sched_load_balance";
const CPUS: &str = "cpuset.cpus";
const MEMS: &str = "cpuset.mems";

/// The version 1 cpuset hierarchy.
#[derive(Clone, Debug)]
pub(super) struct Cpusets {
    pub(super) mount: PathBuf,
}

impl Cpusets {
    /// # Errors
    /// Why no CPU can be set apart here.
    pub fn find(cgroups: &Cgroups) -> std::result::Result<Self, String> {
        let mount = cgroups.controller_path("cpuset", "").ok_or("no cpuset controller is mounted")?;
        let this = Self { mount };
        let failed = |error: SysError| error.to_string();
        if this.cpus("").map_err(failed)?.0.len() < 2 {
            return Err("there is but one CPU".to_owned());
        }
        let writable = std::fs::OpenOptions::new().write(true).open(this.mount.join(BALANCE));
        writable.map_err(|error| format!("the root cpuset can't be changed: {error}"))?;
        // Not in the middle of what another node runtime does.
        let _lock = lock(&this.mount).map_err(failed)?;
        this.unclaimed().map_err(failed)?;
        Ok(this)
    }

    /// Fails if somebody else has partitions, or a group that would join them all into one.
    fn unclaimed(&self) -> Result<()> {
        let refuse = |why: String| Err(SysError::io("setting a CPU apart", std::io::Error::other(why)));
        if !self.balances("")? && self.apart()?.is_empty() {
            return refuse("the root cpuset doesn't balance: somebody else partitions the CPUs".to_owned());
        }
        for name in self.below("")? {
            if !OURS.contains(&name.as_str()) && self.balances(&name)? && !self.cpus(&name)?.is_empty() {
                return refuse(format!("cpuset {name}, which is somebody else's, balances across CPUs"));
            }
        }
        Ok(())
    }

    fn group(cpu: u32) -> String {
        format!("{PARENT}/{APART}{cpu}")
    }

    /// The CPUs that are set apart, by whomever.
    ///
    /// # Errors
    /// If the hierarchy can't be read.
    pub fn set_apart(&self) -> Result<Cpus> {
        Ok(self.apart()?.into_iter().collect())
    }

    /// Sets a CPU apart, unless it is, moves a thread there, and others away. Its affinity is that CPU then.
    ///
    /// # Errors
    /// If it is the last CPU, or somebody else partitions CPUs.
    pub fn enter(&self, cpu: u32, tid: i32) -> Result<()> {
        let _lock = lock(&self.mount)?;
        self.unclaimed()?;
        let group = Self::group(cpu);
        let mut apart = self.apart()?;
        if apart.insert(cpu) {
            let rest = self.cpus("")?.without(&apart.iter().copied().collect());
            if rest.is_empty() {
                let why = format!("CPU {cpu} is the last that isn't set apart");
                return Err(SysError::io("setting a CPU apart", std::io::Error::other(why)));
            }
            self.fill(&group, &Cpus::one(cpu))?;
        }
        self.partition(&apart)?;
        write(&self.mount.join(&group).join("tasks"), &tid.to_string())?;
        self.clear(&apart.into_iter().collect())
    }

    /// Moves a thread home, to the group that it has in every other hierarchy: from a CPU set apart with what it has made meanwhile in its process.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn leave(&self, tid: i32) -> Result<()> {
        let _lock = lock(&self.mount)?;
        let tasks = self.mount.join(self.home(tid)).join("tasks");
        let apart =
            group_of(tid, "cpuset", Layout::Legacy).filter(|group| ApartCpus::is_apart(group)).unwrap_or_default();
        write(&tasks, &tid.to_string())?;
        let left = if apart.is_empty() { Vec::new() } else { self.tasks(&apart)? };
        for other in left {
            let same_process = Path::new(&format!("/proc/{tid}/task/{other}")).exists();
            if same_process && settings(other).is_ok_and(|now| !now.policy.is_deadline()) {
                write(&tasks, &other.to_string())?;
            }
        }
        Ok(())
    }

    /// Gives back CPUs without threads, has groups that came since balance no more, and moves what came since to where it is balanced. Without CPUs set
    /// apart, nothing is looked at twice. The CPUs that are set apart then.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn settle(&self) -> Result<Cpus> {
        if !self.is_partitioned()? {
            return Ok(Cpus::default());
        }
        let _lock = lock(&self.mount)?;
        let made = self.apart()?;
        let used: BTreeSet<u32> = made.iter().copied().filter(|cpu| self.is_used(*cpu)).collect();
        if used.is_empty() {
            return self.unite(&made).map(|()| Cpus::default());
        }
        for cpu in made.difference(&used) {
            self.remove(&Self::group(*cpu))?;
        }
        self.partition(&used)?;
        let used = used.into_iter().collect();
        self.clear(&used)?;
        Ok(used)
    }

    fn is_partitioned(&self) -> Result<bool> {
        Ok(!self.apart()?.is_empty() || self.mount.join(REST).exists())
    }

    fn is_used(&self, cpu: u32) -> bool {
        let tasks = std::fs::read_to_string(self.mount.join(Self::group(cpu)).join("tasks"));
        tasks.is_ok_and(|tasks| !tasks.trim().is_empty())
    }

    fn partition(&self, apart: &BTreeSet<u32>) -> Result<()> {
        let rest = self.cpus("")?.without(&apart.iter().copied().collect());
        self.fill(REST, &rest)?;
        self.balance_ours(false)?;
        self.set_balance("", false)
    }

    /// As it was before.
    fn unite(&self, made: &BTreeSet<u32>) -> Result<()> {
        self.set_balance("", true)?;
        self.balance_ours(true)?;
        for cpu in made {
            self.remove(&Self::group(*cpu))?;
        }
        self.send_home()?;
        self.remove(REST)
    }

    /// Our groups, but for those that make domains.
    fn balance_ours(&self, on: bool) -> Result<()> {
        self.ours()?.iter().try_for_each(|group| self.set_balance(group, on))
    }

    /// Every group that holds containers of ours, but for those that make domains.
    pub(super) fn ours(&self) -> Result<Vec<String>> {
        let mut groups: Vec<String> = OURS.map(str::to_owned).into();
        let mut at = 0;
        while let Some(group) = groups.get(at) {
            let below = self.below(group)?;
            groups.extend(below.into_iter().filter(|name| !ApartCpus::is_apart(name) && !ApartCpus::is_rest(name)));
            at += 1;
        }
        Ok(groups)
    }

    /// The CPUs that have a group.
    fn apart(&self) -> Result<BTreeSet<u32>> {
        let groups = self.below(PARENT)?;
        let number = |group: &String| group.strip_prefix(PARENT)?.strip_prefix('/')?.strip_prefix(APART)?.parse().ok();
        Ok(groups.iter().filter_map(number).collect())
    }

    fn below(&self, group: &str) -> Result<Vec<String>> {
        let path = self.mount.join(group);
        let failed = |error| SysError::io(format!("listing the groups in {}", path.display()), error);
        let names = children(&path).map_err(failed)?;
        let name = |path: PathBuf| path.strip_prefix(&self.mount).ok()?.to_str().map(str::to_owned);
        Ok(names.into_iter().filter_map(name).collect())
    }

    /// Makes a group, and gives it CPUs and the root's memory.
    fn fill(&self, group: &str, cpus: &Cpus) -> Result<()> {
        let path = self.mount.join(group);
        std::fs::create_dir_all(&path).map_err(|e| SysError::io(format!("making cpuset {}", path.display()), e))?;
        let mems = read(&self.mount.join(MEMS))?.unwrap_or_default();
        // A parent that was made by this has neither; one of ours has what it inherited.
        if group != PARENT && self.cpus(PARENT)?.is_empty() {
            self.fill(PARENT, &self.cpus("")?)?;
        }
        if read(&path.join(MEMS))?.as_deref() != Some(&mems) {
            write(&path.join(MEMS), &mems)?;
        }
        if self.cpus(group)? != *cpus {
            write(&path.join(CPUS), &cpus.to_string())?;
        }
        Ok(())
    }

    fn remove(&self, group: &str) -> Result<()> {
        let path = self.mount.join(group);
        let deadline = Instant::now() + PATIENCE;
        loop {
            match std::fs::remove_dir(&path) {
                // A dead thread leaves its group a moment after it is said to have ended.
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) if !is_gone(&error) => {
                    return Err(SysError::io(format!("removing cpuset {}", path.display()), error));
                }
                _ => return Ok(()),
            }
        }
    }

    /// The threads of a group; none if it is gone.
    pub(super) fn tasks(&self, group: &str) -> Result<Vec<i32>> {
        let text = read(&self.mount.join(group).join("tasks"))?.unwrap_or_default();
        Ok(text.lines().filter_map(|line| line.trim().parse().ok()).collect())
    }

    pub(super) fn cpus(&self, group: &str) -> Result<Cpus> {
        let path = self.mount.join(group).join(CPUS);
        let text = read(&path)?.unwrap_or_default();
        let failed = |error| SysError::io(format!("reading {}", path.display()), std::io::Error::other(error));
        text.parse().map_err(failed)
    }

    fn balances(&self, group: &str) -> Result<bool> {
        Ok(read(&self.mount.join(group).join(BALANCE))?.as_deref() == Some("1"))
    }

    /// Every change has the kernel rebuild its domains: only what differs is written.
    fn set_balance(&self, group: &str, on: bool) -> Result<()> {
        let wanted = if on { "1" } else { "0" };
        let path = self.mount.join(group).join(BALANCE);
        match read(&path)? {
            Some(now) if now != wanted => write(&path, wanted),
            _ => Ok(()),
        }
    }
}

/// `None`: the file is gone.
pub(super) fn read(file: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(SysError::io(format!("reading {}", file.display()), error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hierarchy of files: what the kernel would make of a new group, the test makes.
    fn tree(groups: &[(&str, &str, &str)]) -> (tempfile::TempDir, Cgroups) {
        let dir = tempfile::tempdir().unwrap();
        for (group, cpus, balance) in groups {
            let path = dir.path().join("cpuset").join(group);
            std::fs::create_dir_all(&path).unwrap();
            for (file, text) in [("cgroup.procs", ""), ("tasks", ""), (CPUS, *cpus), (MEMS, "0"), (BALANCE, *balance)] {
                std::fs::write(path.join(file), text).unwrap();
            }
        }
        let cgroups = Cgroups::probe(dir.path()).unwrap();
        (dir, cgroups)
    }

    #[test]
    fn a_cpu_is_set_apart_and_given_back() {
        let (dir, cgroups) = tree(&[
            ("", "0-3", "1"),
            ("pullpiri", "0-3", "1"),
            ("pullpiri/p/c", "0-3", "1"),
            ("pullpiri/_apart-2", "", "1"),
            ("pullpiri/_rest", "", "1"),
        ]);
        let apart = Cpusets::find(&cgroups).unwrap();
        let file =
            |path: &str| std::fs::read_to_string(dir.path().join("cpuset").join(path.trim_start_matches('/'))).unwrap();
        let balances = || ["", "pullpiri", "pullpiri/p/c"].map(|group| file(&format!("{group}/{BALANCE}")));
        // No thread has this id.
        let tid = i32::MAX;
        apart.fill("pullpiri/_apart-2", &Cpus::one(2)).unwrap();
        apart.enter(2, tid).unwrap();
        assert_eq!(file("pullpiri/_apart-2/cpuset.cpus"), "2");
        assert_eq!(file("pullpiri/_rest/cpuset.cpus"), "0-1,3");
        assert_eq!(file("pullpiri/_apart-2/tasks"), tid.to_string());
        assert_eq!(balances(), ["0", "0", "0"]);
        assert_eq!(file("pullpiri/_apart-2/cpuset.sched_load_balance"), "1");
        // A container that came since is no bridge between the domains.
        std::fs::write(dir.path().join("cpuset/pullpiri/p/c").join(BALANCE), "1").unwrap();
        apart.settle().unwrap();
        assert_eq!(balances(), ["0", "0", "0"]);
        // Nobody knows where a thread belongs that isn't there.
        apart.leave(tid).unwrap();
        assert_eq!(file("tasks"), tid.to_string());
        std::fs::write(dir.path().join("cpuset/pullpiri/_apart-2/tasks"), "").unwrap();
        // Directories of files can't be removed as groups can; everything before that is done.
        apart.settle().unwrap_err();
        assert_eq!(balances(), ["1", "1", "1"]);
    }

    #[test]
    fn what_is_somebody_elses_is_left_alone() {
        let refused = |groups: &[(&str, &str, &str)]| Cpusets::find(&tree(groups).1).unwrap_err();
        assert!(refused(&[("", "0-1", "0")]).contains("somebody else partitions"));
        assert!(refused(&[("", "0-1", "1"), ("machine", "0-1", "1")]).contains("cpuset machine"));
        assert!(refused(&[("", "0", "1")]).contains("but one CPU"));
        // One without CPUs, or that doesn't balance, bridges nothing.
        Cpusets::find(&tree(&[("", "0-1", "1"), ("a", "", "1"), ("b", "0-1", "0")]).1).unwrap();
    }

    #[test]
    fn one_cpu_is_left_to_the_rest() {
        let (_dir, cgroups) = tree(&[("", "0-1", "1"), ("pullpiri", "0-1", "0"), ("pullpiri/_apart-0", "0", "1")]);
        let apart = Cpusets::find(&cgroups).unwrap();
        assert!(apart.enter(1, 77).unwrap_err().to_string().contains("the last"));
    }
}
