//! CPUs set apart for SCHED_DEADLINE, with cgroup version 2: partition roots.
//!
//! A partition root is a root domain of its own (Documentation/admin-guide/cgroup-v2.rst, "cpuset.cpus.partition"), which is what the kernel wants of the
//! CPUs of a pinned SCHED_DEADLINE thread. Single threads move only within their container's group, so the partition is a threaded group right below
//! it, `pullpiri/<pod>/<container>/_apart-<cpu>`, and a remote one (Linux 6.7): no group above needs to be a partition, but each lists the CPU in
//! `cpuset.cpus.exclusive`. A CPU is in one partition, so the DEADLINE tasks of one CPU are those of one container here.
//!
//! The kernel itself takes the CPU from everything else, and gives it back with the partition: nothing needs to be moved, now or later.
//!
//! All that is needed to undo it is in the tree. Each change is made under a lock on the tree's root.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use pullpiri_node_core::realtime::Cpus;

use super::apart::{APART, ApartCpus, lock};
use super::cpuset::read;
use super::{group_of, settings};
use crate::cgroup::{Cgroups, Layout, PARENT, children, is_gone, write};
use crate::{Result, SysError};

const CPUS: &str = "cpuset.cpus";
const EFFECTIVE: &str = "cpuset.cpus.effective";
const EXCLUSIVE: &str = "cpuset.cpus.exclusive";
const PARTITION: &str = "cpuset.cpus.partition";
const CONTROLLED: &str = "cgroup.subtree_control";
const TYPE: &str = "cgroup.type";
const THREADS: &str = "cgroup.threads";

/// The version 2 hierarchy.
#[derive(Clone, Debug)]
pub(super) struct Partitions {
    mount: PathBuf,
}

fn refuse<T>(why: String) -> Result<T> {
    Err(SysError::io("setting a CPU apart", std::io::Error::other(why)))
}

impl Partitions {
    /// Tries it: with the last CPU, for a moment.
    ///
    /// # Errors
    /// Why no CPU can be set apart here.
    pub fn find(cgroups: &Cgroups) -> std::result::Result<Self, String> {
        if !cgroups.has_controller("cpuset") {
            return Err("cgroup version 2 has no cpuset controller here".to_owned());
        }
        let mount = cgroups.controller_path("cpuset", "").ok_or("no cgroups are mounted")?;
        let this = Self { mount };
        this.attempt().map_err(|error| error.source.to_string())?;
        Ok(this)
    }

    fn attempt(&self) -> Result<()> {
        let _lock = lock(&self.mount)?;
        if !self.apart()?.is_empty() {
            return Ok(());
        }
        let all = self.cpus("", EFFECTIVE)?;
        let Some(last) = all.0.last().copied().filter(|_| all.0.len() > 1) else {
            return refuse("there is but one CPU".to_owned());
        };
        let group = format!("{PARENT}/_try-{}", std::process::id());
        self.control("")?;
        self.make(PARENT)?;
        self.control(PARENT)?;
        self.make(&group)?;
        let made = self.open(&group, last);
        let removed = self.close(&group);
        made.and(removed)
    }

    /// # Errors
    /// If the tree can't be read.
    pub fn set_apart(&self) -> Result<Cpus> {
        Ok(self.apart()?.iter().filter_map(|group| number(group)).collect())
    }

    /// # Errors
    /// If it is the last CPU, the thread is in no group below ours, or the kernel makes it no partition.
    pub fn enter(&self, cpu: u32, tid: i32) -> Result<()> {
        let _lock = lock(&self.mount)?;
        let home = home(&group_of(tid, "cpuset", Layout::Unified).unwrap_or_default()).to_owned();
        if home.strip_prefix(PARENT).is_none_or(|rest| !rest.starts_with('/')) {
            return refuse(format!("thread {tid} is in cgroup /{home}, where this makes no partition"));
        }
        let group = format!("{home}/{APART}{cpu}");
        if !self.mount.join(&group).exists() {
            if self.cpus("", EFFECTIVE)?.without(&Cpus::one(cpu)).is_empty() {
                return refuse(format!("CPU {cpu} is the last that isn't set apart"));
            }
            if let Err(error) = self.make_apart(&home, &group, cpu) {
                // The first error is the one to tell.
                let _ = self.close(&group);
                return Err(error);
            }
        }
        self.assign(tid, &group)
    }

    /// Makes the group of a CPU below a container's.
    fn make_apart(&self, home: &str, group: &str, cpu: u32) -> Result<()> {
        self.control(home)?;
        self.make(group)?;
        self.set(group, TYPE, "threaded")?;
        self.open(group, cpu)
    }

    fn assign(&self, tid: i32, group: &str) -> Result<()> {
        self.set(group, THREADS, &tid.to_string())
    }

    /// # Errors
    /// If the kernel refuses.
    pub fn leave(&self, tid: i32) -> Result<()> {
        let _lock = lock(&self.mount)?;
        let group = group_of(tid, "cpuset", Layout::Unified).unwrap_or_default();
        if !ApartCpus::is_apart(&group) {
            return Ok(());
        }
        self.send_home(tid, &group)
    }

    /// A thread, and those of its process that aren't SCHED_DEADLINE.
    fn send_home(&self, tid: i32, group: &str) -> Result<()> {
        self.assign(tid, home(group))?;
        for other in self.threads(group)? {
            let same_process = Path::new(&format!("/proc/{tid}/task/{other}")).exists();
            if same_process && settings(other).is_ok_and(|now| !now.policy.is_deadline()) {
                self.assign(other, home(group))?;
            }
        }
        Ok(())
    }

    /// # Errors
    /// If the kernel refuses.
    pub fn settle(&self) -> Result<Cpus> {
        let none_left = read(&self.mount.join(PARENT).join(EXCLUSIVE))?.is_none_or(|cpus| cpus.is_empty());
        if none_left && self.apart()?.is_empty() {
            return Ok(Cpus::default());
        }
        let _lock = lock(&self.mount)?;
        for group in self.apart()? {
            if self.threads(&group)?.is_empty() {
                self.close(&group)?;
            }
        }
        self.shrink(PARENT)?;
        self.set_apart()
    }

    /// Makes a group the partition root of a CPU.
    fn open(&self, group: &str, cpu: u32) -> Result<()> {
        let ours: Vec<&str> = group.match_indices('/').map(|(at, _)| &group[..at]).collect();
        for above in ours {
            let exclusive = self.cpus(above, EXCLUSIVE)?;
            if !exclusive.contains(cpu) {
                self.set(above, EXCLUSIVE, &exclusive.or(&Cpus::one(cpu)).to_string())?;
            }
        }
        self.set(group, CPUS, &cpu.to_string())?;
        self.set(group, EXCLUSIVE, &cpu.to_string())?;
        self.set(group, PARTITION, "root")?;
        match read(&self.mount.join(group).join(PARTITION))? {
            Some(state) if state == "root" => Ok(()),
            Some(state) => refuse(format!("the kernel made CPU {cpu} no partition: {state}")),
            None => refuse(format!("cgroup {group} is gone")),
        }
    }

    /// Undoes [`Self::open`] and removes the group.
    fn close(&self, group: &str) -> Result<()> {
        let path = self.mount.join(group);
        if read(&path.join(PARTITION))?.is_some_and(|state| state != "member") {
            write(&path.join(PARTITION), "member")?;
        }
        match std::fs::remove_dir(&path) {
            Err(error) if !is_gone(&error) => {
                return Err(SysError::io(format!("removing cgroup {}", path.display()), error));
            }
            _ => {}
        }
        self.shrink(PARENT).map(|_| ())
    }

    /// Has this group and those below it list as exclusive only what partitions below need.
    fn shrink(&self, group: &str) -> Result<Cpus> {
        let mut needed = Cpus::default();
        for name in self.below(group)? {
            let below = match number(&name) {
                Some(cpu) => Cpus::one(cpu),
                None => self.shrink(&name)?,
            };
            needed = needed.or(&below);
        }
        if self.cpus(group, EXCLUSIVE)? != needed {
            // An empty line clears it.
            let text = if needed.is_empty() { "\n".to_owned() } else { needed.to_string() };
            self.set(group, EXCLUSIVE, &text)?;
        }
        Ok(needed)
    }

    /// Every group of a CPU set apart.
    fn apart(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let mut groups = vec![PARENT.to_owned()];
        while let Some(group) = groups.pop() {
            let (apart, others): (Vec<String>, Vec<String>) =
                self.below(&group)?.into_iter().partition(|name| ApartCpus::is_apart(name));
            found.extend(apart);
            groups.extend(others);
        }
        found.sort();
        Ok(found)
    }

    fn below(&self, group: &str) -> Result<Vec<String>> {
        let path = self.mount.join(group);
        let failed = |error| SysError::io(format!("listing the groups in {}", path.display()), error);
        let name = |path: PathBuf| path.strip_prefix(&self.mount).ok()?.to_str().map(str::to_owned);
        let names: BTreeSet<String> = children(&path).map_err(failed)?.into_iter().filter_map(name).collect();
        Ok(names.into_iter().collect())
    }

    fn threads(&self, group: &str) -> Result<Vec<i32>> {
        let text = read(&self.mount.join(group).join(THREADS))?.unwrap_or_default();
        Ok(text.lines().filter_map(|line| line.trim().parse().ok()).collect())
    }

    /// Has the groups below one hold CPUs: a controller that threaded groups have, too, so that its processes are no obstacle.
    fn control(&self, group: &str) -> Result<()> {
        let path = self.mount.join(group).join(CONTROLLED);
        let is_on = read(&path)?.is_some_and(|text| text.split_ascii_whitespace().any(|name| name == "cpuset"));
        if is_on { Ok(()) } else { write(&path, "+cpuset") }
    }

    fn make(&self, group: &str) -> Result<()> {
        let path = self.mount.join(group);
        std::fs::create_dir_all(&path).map_err(|e| SysError::io(format!("making cgroup {}", path.display()), e))
    }

    fn cpus(&self, group: &str, file: &str) -> Result<Cpus> {
        let path = self.mount.join(group).join(file);
        let failed = |error| SysError::io(format!("reading {}", path.display()), std::io::Error::other(error));
        read(&path)?.unwrap_or_default().parse().map_err(failed)
    }

    fn set(&self, group: &str, file: &str, text: &str) -> Result<()> {
        let path = self.mount.join(group).join(file);
        match write(&path, text) {
            Err(error) if file == EXCLUSIVE && is_gone(&error.source) => {
                refuse("the kernel has no cpuset.cpus.exclusive (Linux 6.7)".to_owned())
            }
            outcome => outcome,
        }
    }
}

/// The container's group of a thread, which may be on a CPU set apart.
fn home(group: &str) -> &str {
    match group.rsplit_once('/') {
        Some((home, _)) if ApartCpus::is_apart(group) => home,
        _ => group,
    }
}

fn number(group: &str) -> Option<u32> {
    group.rsplit('/').next()?.strip_prefix(APART)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hierarchy of files: what the kernel would make of a new group, the test makes.
    fn tree(groups: &[&str]) -> (tempfile::TempDir, Partitions) {
        let dir = tempfile::tempdir().unwrap();
        let files = [CPUS, EXCLUSIVE, THREADS, "cgroup.procs", CONTROLLED];
        for group in groups {
            let path = dir.path().join(group);
            std::fs::create_dir_all(&path).unwrap();
            files.iter().for_each(|file| std::fs::write(path.join(file), "").unwrap());
            std::fs::write(path.join(EFFECTIVE), "0-3\n").unwrap();
            // Files aren't truncated: a longer word in it would stay.
            std::fs::write(path.join(PARTITION), "").unwrap();
            std::fs::write(path.join(TYPE), "domain\n").unwrap();
        }
        std::fs::write(dir.path().join("cgroup.controllers"), "cpuset cpu memory").unwrap();
        let mount = dir.path().to_owned();
        (dir, Partitions { mount })
    }

    fn file(dir: &tempfile::TempDir, path: &str) -> String {
        std::fs::read_to_string(dir.path().join(path)).unwrap().trim().to_owned()
    }

    #[test]
    fn a_group_becomes_a_partition_root_and_is_undone() {
        let (dir, partitions) = tree(&["", "pullpiri", "pullpiri/p", "pullpiri/p/c", "pullpiri/p/c/_apart-2"]);
        partitions.open("pullpiri/p/c/_apart-2", 2).unwrap();
        for group in ["pullpiri", "pullpiri/p", "pullpiri/p/c", "pullpiri/p/c/_apart-2"] {
            assert_eq!(file(&dir, &format!("{group}/{EXCLUSIVE}")), "2");
        }
        assert_eq!(file(&dir, &format!("pullpiri/p/c/_apart-2/{CPUS}")), "2");
        assert_eq!(file(&dir, &format!("pullpiri/p/c/_apart-2/{PARTITION}")), "root");
        assert_eq!(file(&dir, EXCLUSIVE), "", "the root's own is nobody's to set");
        assert_eq!(partitions.set_apart().unwrap(), Cpus::one(2));
        // Somebody is there: it stays.
        std::fs::write(dir.path().join("pullpiri/p/c/_apart-2").join(THREADS), "77\n").unwrap();
        assert_eq!(partitions.settle().unwrap(), Cpus::one(2));
        // Directories of files can't be removed as groups can: the partition is given up all the same, before that is tried.
        std::fs::write(dir.path().join("pullpiri/p/c/_apart-2").join(THREADS), "").unwrap();
        partitions.settle().unwrap_err();
        assert_eq!(file(&dir, &format!("pullpiri/p/c/_apart-2/{PARTITION}")), "member");
        std::fs::remove_dir_all(dir.path().join("pullpiri/p/c/_apart-2")).unwrap();
        assert!(partitions.settle().unwrap().is_empty());
        for group in ["pullpiri", "pullpiri/p", "pullpiri/p/c"] {
            assert_eq!(file(&dir, &format!("{group}/{EXCLUSIVE}")), "");
        }
    }

    #[test]
    fn a_thread_goes_to_the_cpu_of_its_container_and_home_again() {
        let (home, group) = ("pullpiri/p/c", "pullpiri/p/c/_apart-1");
        let (dir, partitions) = tree(&["", "pullpiri", "pullpiri/p", home, group]);
        partitions.make_apart(home, group, 1).unwrap();
        assert_eq!(file(&dir, &format!("{home}/{CONTROLLED}")), "+cpuset", "threaded groups get no other");
        // Files aren't truncated: the longer word is over the one that the test put there.
        assert_eq!(file(&dir, &format!("{group}/{TYPE}")), "threaded");
        assert_eq!(file(&dir, &format!("{group}/{PARTITION}")), "root");
        let tid = i32::try_from(std::process::id()).unwrap();
        partitions.assign(tid, group).unwrap();
        assert_eq!(file(&dir, &format!("{group}/{THREADS}")), tid.to_string());
        partitions.send_home(tid, group).unwrap();
        assert_eq!(file(&dir, &format!("{home}/{THREADS}")), tid.to_string());
    }

    #[test]
    fn what_this_kernel_can_do_is_tried_in_a_group_that_goes_again() {
        let group = format!("pullpiri/_try-{}", std::process::id());
        let (dir, partitions) = tree(&["", "pullpiri", &group]);
        // Directories of files can't be removed as groups can; all else is as it would be.
        assert!(partitions.attempt().unwrap_err().to_string().contains("removing cgroup"));
        for above in [".", "pullpiri"] {
            assert_eq!(file(&dir, &format!("{above}/{CONTROLLED}")), "+cpuset");
        }
        assert_eq!(file(&dir, &format!("{group}/{CPUS}")), "3", "the last");
        assert_eq!(file(&dir, &format!("{group}/{PARTITION}")), "member", "given up");
    }

    #[test]
    fn what_the_kernel_makes_no_partition_is_said() {
        let (dir, partitions) = tree(&["", "pullpiri", "pullpiri/p"]);
        std::fs::remove_file(dir.path().join("pullpiri").join(EXCLUSIVE)).unwrap();
        assert!(partitions.open("pullpiri/p", 1).unwrap_err().to_string().contains("Linux 6.7"));
        let (dir, partitions) = tree(&["", "pullpiri"]);
        std::fs::write(dir.path().join(EFFECTIVE), "0").unwrap();
        assert!(partitions.attempt().unwrap_err().to_string().contains("but one CPU"));
        // This process is in no group below ours.
        assert!(partitions.enter(1, i32::MAX).unwrap_err().to_string().contains("makes no partition"));
        std::fs::write(dir.path().join("cgroup.controllers"), "memory").unwrap();
        let cgroups = Cgroups::probe(dir.path()).unwrap();
        assert!(Partitions::find(&cgroups).unwrap_err().contains("no cpuset controller"));
    }

    #[test]
    fn threads_belong_to_their_containers_group() {
        assert_eq!(home("pullpiri/p/c/_apart-3"), "pullpiri/p/c");
        assert_eq!(home("pullpiri/p/c"), "pullpiri/p/c");
        assert_eq!((number("pullpiri/p/c/_apart-3"), number("pullpiri/p/c")), (Some(3), None));
    }
}
