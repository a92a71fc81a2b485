//! The cgroup tree: version 1, version 2, or both side by side.
//!
//! Our groups are `pullpiri/<pod>/<container>` in every hierarchy whose controllers we use, and nobody else's are touched. Supervisors sit
//! together in [`SUPERVISORS`], outside of the agent's own group, so that a service manager that stops the agent's unit doesn't stop the
//! pods; in hierarchies without controllers (systemd's named one, an empty version 2 beside version 1) their containers stay with them.
//!
//! A process joins a group itself, and under version 1 through the file `tasks`: that moves one thread, which is all it has, without the
//! kernel's lock on all thread groups. Taking that lock means waiting for an RCU grace period, several milliseconds for each hierarchy
//! (kernel/cgroup/cgroup.c, cgroup_procs_write_start).
//!
//! The root is a parameter and the layout is read off the files in it, so that each of the three is tested on a directory.

pub mod kubelet;
mod resources;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use pullpiri_node_core::runtime::Limits;

use crate::process::Pidfd;
use crate::{Result, SysError};

/// Where the tree is mounted on every distribution.
pub const DEFAULT_ROOT: &str = "/sys/fs/cgroup";
/// The group above all of ours.
pub const PARENT: &str = "pullpiri";
/// The group of all supervisors. No pod's id begins with an underscore.
pub const SUPERVISORS: &str = "pullpiri/_supervisors";
/// The version 1 controllers that a container is put under, of those there are.
const USED: [&str; 7] = ["cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids"];
/// How long a group's processes may take to vanish after SIGKILL: longer means one is stuck in the kernel.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Version 2 alone.
    Unified,
    /// Controllers on version 1, with version 2 beside them.
    Hybrid,
    /// Version 1 alone.
    Legacy,
}

/// The hierarchies of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroups {
    layout: Layout,
    /// Version 1: the mount of each controller. Version 2: empty.
    controllers: BTreeMap<String, PathBuf>,
    /// The version 2 mount.
    unified: Option<PathBuf>,
    /// systemd's named hierarchy.
    named: Option<PathBuf>,
}

impl Cgroups {
    /// Reads which hierarchies there are below `root`.
    pub fn probe(root: &Path) -> Result<Self> {
        let attempted = || format!("looking for cgroups in {}", root.display());
        if root.join("cgroup.controllers").exists() {
            return Ok(Self {
                layout: Layout::Unified,
                controllers: BTreeMap::new(),
                unified: Some(root.to_owned()),
                named: None,
            });
        }
        let mut found = Self { layout: Layout::Legacy, controllers: BTreeMap::new(), unified: None, named: None };
        for entry in std::fs::read_dir(root).map_err(|e| SysError::io(attempted(), e))? {
            let entry = entry.map_err(|e| SysError::io(attempted(), e))?;
            // `cpu` is often a link to `cpu,cpuacct`, which is found itself.
            let is_directory = entry.file_type().map_err(|e| SysError::io(attempted(), e))?.is_dir();
            let path = entry.path();
            if !is_directory || !path.join("cgroup.procs").exists() {
                continue;
            }
            let name = entry.file_name();
            match name.to_str() {
                Some("systemd") => found.named = Some(path),
                Some(_) if path.join("cgroup.controllers").exists() => {
                    found.layout = Layout::Hybrid;
                    found.unified = Some(path);
                }
                Some(name) => {
                    for controller in name.split(',') {
                        found.controllers.insert(controller.to_owned(), path.clone());
                    }
                }
                None => {}
            }
        }
        if found.controllers.is_empty() && found.unified.is_none() {
            return Err(SysError::io(
                attempted(),
                std::io::Error::other("no cgroup hierarchy is mounted there".to_owned()),
            ));
        }
        Ok(found)
    }

    #[must_use]
    pub const fn layout(&self) -> Layout {
        self.layout
    }

    /// Whether a controller can be used for our groups.
    #[must_use]
    pub fn has_controller(&self, name: &str) -> bool {
        if self.layout != Layout::Unified {
            return self.controllers.contains_key(name);
        }
        let Some(root) = &self.unified else { return false };
        std::fs::read_to_string(root.join("cgroup.controllers"))
            .is_ok_and(|list| list.split_ascii_whitespace().any(|c| c == name))
    }

    /// The directory of `group` for one controller, whether or not it exists.
    #[must_use]
    pub fn controller_path(&self, controller: &str, group: &str) -> Option<PathBuf> {
        let mount = match self.layout {
            Layout::Unified => self.unified.as_ref(),
            Layout::Hybrid | Layout::Legacy => self.controllers.get(controller),
        };
        mount.map(|m| m.join(group))
    }

    /// The mounts of all hierarchies, each once.
    fn mounts(&self) -> BTreeSet<&Path> {
        self.controllers.values().chain(&self.unified).chain(&self.named).map(PathBuf::as_path).collect()
    }

    /// Moves this process, from which supervisors are forked, out of the agent's groups as far as a service manager uses them to find
    /// processes.
    pub fn enter_supervisors(&self) -> Result<()> {
        for (mount, file) in
            self.unified.iter().map(|m| (m, "cgroup.procs")).chain(self.named.iter().map(|m| (m, "tasks")))
        {
            let group = mount.join(SUPERVISORS);
            make(&group)?;
            write(&group.join(file), "0")?;
        }
        Ok(())
    }

    /// Moves this process, which must have one thread, to the root of every version 1 hierarchy: out of the groups of a container that it was
    /// started in, whose end is the end of every process in one of them, whatever its controller.
    pub fn leave_container(&self) -> Result<()> {
        let mounts: BTreeSet<&PathBuf> = self.controllers.values().collect();
        for mount in mounts {
            write(&mount.join("tasks"), "0")?;
        }
        Ok(())
    }

    /// Moves this process out of the supervisors' group, and takes that and the one above all of ours away where nobody is in them any more.
    pub fn leave_nothing(&self) {
        // What can't be left or removed isn't ours alone.
        for (mount, file) in
            self.unified.iter().map(|m| (m, "cgroup.procs")).chain(self.named.iter().map(|m| (m, "tasks")))
        {
            let _ = write(&mount.join(file), "0");
        }
        for mount in self.mounts() {
            for group in [SUPERVISORS, PARENT] {
                let _ = std::fs::remove_dir(mount.join(group));
            }
        }
    }

    /// Makes a container's group with its limits, or gives the group that is there these limits. `devices` are rules of the version 1
    /// device controller (`c 1:3 rwm`) that allow; everything else is denied. Version 2 restricts no devices.
    pub fn prepare(&self, group: &str, limits: &Limits, devices: &[String]) -> Result<()> {
        if let (Layout::Unified, Some(root)) = (self.layout, &self.unified) {
            return resources::set_unified(root, group, limits);
        }
        for (controller, path) in self.used(group) {
            make(&path)?;
            resources::set(controller, &path, group, limits, devices)?;
        }
        Ok(())
    }

    /// Moves this process, which must have one thread, into a group that was prepared.
    pub fn join(&self, group: &str) -> Result<()> {
        if let (Layout::Unified, Some(root)) = (self.layout, &self.unified) {
            return write(&root.join(group).join("cgroup.procs"), "0");
        }
        let mut joined = BTreeSet::new();
        for (_, path) in self.used(group) {
            // cpu and cpuacct are often one hierarchy.
            if joined.insert(path.clone()) {
                write(&path.join("tasks"), "0")?;
            }
        }
        Ok(())
    }

    /// Has what this process and its children send told from what others send: by the group of version 2, where that isn't where limits are.
    /// Nothing else rests on it.
    pub fn join_for_network(&self, group: &str) -> Result<()> {
        let Some(root) = self.unified.as_ref().filter(|_| self.layout == Layout::Hybrid) else { return Ok(()) };
        let path = root.join(group);
        make(&path)?;
        write(&path.join("cgroup.procs"), "0")
    }

    /// The group's directory under each version 1 controller that we use.
    fn used<'a>(&'a self, group: &'a str) -> impl Iterator<Item = (&'static str, PathBuf)> + 'a {
        USED.iter().filter_map(move |c| self.controllers.get(*c).map(|m| (*c, m.join(group))))
    }

    /// Every process in the group and below it, in any hierarchy.
    pub fn processes(&self, group: &str) -> Result<BTreeSet<i32>> {
        let mut found = BTreeSet::new();
        for mount in self.mounts() {
            collect(&mount.join(group), &mut found)?;
        }
        Ok(found)
    }

    /// Kills every process in the group and below it and waits until they are gone, but for `except`.
    pub fn kill(&self, group: &str, except: Option<i32>) -> Result<()> {
        let deadline = Instant::now() + KILL_DEADLINE;
        // Processes may fork while they are being killed, and there may be more of them than descriptors, hence the rounds.
        loop {
            let mut doomed = self.processes(group)?;
            if let Some(pid) = except {
                doomed.remove(&pid);
            }
            let Some(first) = doomed.first().copied() else { return Ok(()) };
            if Instant::now() > deadline {
                return Err(still_there(group, first));
            }
            let opened = open_some(&doomed)?;
            // Between the list and that, a number may have become another process' of this machine.
            let still = self.processes(group)?;
            let meant = || opened.iter().filter(|(pid, _)| still.contains(pid));
            for (_, pidfd) in meant() {
                pidfd.send_signal(Signal::SIGKILL)?;
            }
            for (pid, pidfd) in meant() {
                if !pidfd.wait_ended(deadline.saturating_duration_since(Instant::now()))? {
                    return Err(still_there(group, *pid));
                }
            }
        }
    }

    /// Removes the group and those below it from every hierarchy. They must be empty of processes.
    pub fn remove(&self, group: &str) -> Result<()> {
        for mount in self.mounts() {
            remove_tree(&mount.join(group))?;
        }
        Ok(())
    }

    /// How many processes of the group the kernel has killed for want of memory; `None` where no memory controller counts that.
    #[must_use]
    pub fn oom_kills(&self, group: &str) -> Option<u64> {
        let file = match self.layout {
            Layout::Unified => "memory.events",
            Layout::Hybrid | Layout::Legacy => "memory.oom_control",
        };
        let text = std::fs::read_to_string(self.controller_path("memory", group)?.join(file)).ok()?;
        text.lines().find_map(|l| l.strip_prefix("oom_kill "))?.trim().parse().ok()
    }
}

/// Handles on processes, as many as there are descriptors for. Those that are gone by now are what was wanted.
fn open_some(processes: &BTreeSet<i32>) -> Result<Vec<(i32, Pidfd)>> {
    let mut opened = Vec::new();
    for pid in processes {
        match Pidfd::open(Pid::from_raw(*pid)) {
            Ok(pidfd) => opened.push((*pid, pidfd)),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            Err(error) if opened.is_empty() => return Err(error),
            Err(_) => break,
        }
    }
    Ok(opened)
}

fn still_there(group: &str, pid: i32) -> SysError {
    let message = format!("process {pid} is still there {} s after SIGKILL", KILL_DEADLINE.as_secs());
    SysError::io(format!("killing cgroup {group}"), std::io::Error::new(std::io::ErrorKind::TimedOut, message))
}

/// The group of a pod.
#[must_use]
pub fn pod_group(pod: &str) -> String {
    format!("{PARENT}/{pod}")
}

/// The group of a container.
#[must_use]
pub fn container_group(pod: &str, container: &str) -> String {
    format!("{PARENT}/{pod}/{container}")
}

fn make(group: &Path) -> Result<()> {
    std::fs::create_dir_all(group).map_err(|e| SysError::io(format!("making cgroup {}", group.display()), e))
}

/// Kernel files are neither made nor truncated.
pub(crate) fn write(file: &Path, value: &str) -> Result<()> {
    std::fs::OpenOptions::new()
        .write(true)
        .open(file)
        .and_then(|mut f| f.write_all(value.as_bytes()))
        .map_err(|e| SysError::io(format!("writing {value:?} to {}", file.display()), e))
}

pub(crate) fn collect(group: &Path, into: &mut BTreeSet<i32>) -> Result<()> {
    let attempted = || format!("listing the processes of cgroup {}", group.display());
    match std::fs::read_to_string(group.join("cgroup.procs")) {
        Ok(text) => into.extend(text.lines().filter_map(|l| l.trim().parse::<i32>().ok()).filter(|p| *p > 0)),
        // It may go away at any time (ENODEV once it is being removed); version 2 answers EOPNOTSUPP for threaded groups.
        Err(e) if is_gone(&e) || e.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        Err(e) => return Err(SysError::io(attempted(), e)),
    }
    for child in children(group).map_err(|e| SysError::io(attempted(), e))? {
        collect(&child, into)?;
    }
    Ok(())
}

fn remove_tree(group: &Path) -> Result<()> {
    let attempted = || format!("removing cgroup {}", group.display());
    for child in children(group).map_err(|e| SysError::io(attempted(), e))? {
        remove_tree(&child)?;
    }
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        match std::fs::remove_dir(group) {
            Ok(()) => return Ok(()),
            Err(e) if is_gone(&e) => return Ok(()),
            // A dead process leaves its groups a moment after its pidfd says so; no descriptor tells of that moment.
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(e) => return Err(SysError::io(attempted(), e)),
        }
    }
}

pub(crate) fn children(group: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(group) {
        Ok(entries) => entries,
        Err(e) if is_gone(&e) => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

pub(crate) fn is_gone(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

#[cfg(test)]
mod tests;
