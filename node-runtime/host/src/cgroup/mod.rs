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
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn the_three_layouts_are_told_apart() {
        let unified = tree(&[("cgroup.controllers", "cpu memory pids\n"), ("cgroup.procs", "")]);
        let found = Cgroups::probe(unified.path()).unwrap();
        assert_eq!(found.layout(), Layout::Unified);
        assert!(found.has_controller("memory") && !found.has_controller("rdma"));
        assert_eq!(found.controller_path("memory", "pullpiri/p"), Some(unified.path().join("pullpiri/p")));

        let hybrid = tree(&[
            ("cpu,cpuacct/cgroup.procs", ""),
            ("memory/cgroup.procs", ""),
            ("systemd/cgroup.procs", ""),
            ("unified/cgroup.procs", ""),
            ("unified/cgroup.controllers", "hugetlb"),
            ("not-a-hierarchy/file", ""),
        ]);
        std::os::unix::fs::symlink("cpu,cpuacct", hybrid.path().join("cpu")).unwrap();
        let found = Cgroups::probe(hybrid.path()).unwrap();
        assert_eq!(found.layout(), Layout::Hybrid);
        assert!(found.has_controller("cpu") && found.has_controller("cpuacct") && found.has_controller("memory"));
        assert!(!found.has_controller("systemd") && !found.has_controller("not-a-hierarchy"));
        assert_eq!(found.controller_path("cpuacct", "g"), Some(hybrid.path().join("cpu,cpuacct/g")));
        assert_eq!(found.mounts().len(), 4);

        let legacy = tree(&[("cpu/cgroup.procs", ""), ("pids/cgroup.procs", "")]);
        for controller in ["cpu", "pids"] {
            std::fs::write(legacy.path().join(controller).join("tasks"), "").unwrap();
        }
        let found = Cgroups::probe(legacy.path()).unwrap();
        assert_eq!(found.layout(), Layout::Legacy);
        // Out of a container: in every hierarchy, whether or not its controller is one that we use.
        found.leave_container().unwrap();
        for controller in ["cpu", "pids"] {
            assert_eq!(std::fs::read_to_string(legacy.path().join(controller).join("tasks")).unwrap(), "0");
        }

        let none = tree(&[("readme", "")]);
        assert!(Cgroups::probe(none.path()).unwrap_err().to_string().contains("no cgroup hierarchy"));
        assert!(Cgroups::probe(Path::new("/no/such/root")).is_err());
    }

    #[test]
    fn processes_are_those_of_all_hierarchies_and_child_groups() {
        let dir = tree(&[
            ("cpu/cgroup.procs", "1\n"),
            ("cpu/pullpiri/p/cgroup.procs", ""),
            ("cpu/pullpiri/p/c/cgroup.procs", "11\n12\n"),
            ("pids/cgroup.procs", "1\n"),
            ("pids/pullpiri/p/c/cgroup.procs", "12\n13\n0\n"),
            ("pids/pullpiri/other/cgroup.procs", "99\n"),
        ]);
        let found = Cgroups::probe(dir.path()).unwrap();
        assert_eq!(found.processes("pullpiri/p").unwrap(), BTreeSet::from([11, 12, 13]));
        assert_eq!(found.processes("pullpiri/absent").unwrap(), BTreeSet::new());
    }

    #[test]
    fn oom_kills_are_read_from_either_version() {
        let v1 = tree(&[
            ("memory/cgroup.procs", ""),
            ("memory/g/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"),
        ]);
        assert_eq!(Cgroups::probe(v1.path()).unwrap().oom_kills("g"), Some(3));
        let v2 = tree(&[
            ("cgroup.controllers", "memory"),
            ("g/memory.events", "low 0\nhigh 0\nmax 9\noom 4\noom_kill 2\noom_group_kill 0\n"),
        ]);
        let v2_found = Cgroups::probe(v2.path()).unwrap();
        assert_eq!(v2_found.oom_kills("g"), Some(2));
        assert_eq!(v2_found.oom_kills("absent"), None);
    }

    fn read(dir: &Path, file: &str) -> String {
        std::fs::read_to_string(dir.join(file)).unwrap_or_default()
    }

    const LIMITS: Limits = Limits {
        cpu_millis: Some(1_500),
        cpu_request_millis: Some(500),
        memory_bytes: Some(1 << 30),
        memory_request_bytes: None,
        pids: Some(100),
    };

    #[test]
    fn supervisors_leave_the_groups_that_track_the_agent() {
        let v2 = tree(&[("cgroup.controllers", "memory"), ("pullpiri/_supervisors/cgroup.procs", "")]);
        Cgroups::probe(v2.path()).unwrap().enter_supervisors().unwrap();
        assert_eq!(read(v2.path(), "pullpiri/_supervisors/cgroup.procs"), "0");
        let hybrid = tree(&[
            ("cpu/cgroup.procs", ""),
            ("systemd/cgroup.procs", ""),
            ("systemd/pullpiri/_supervisors/tasks", ""),
            ("unified/cgroup.procs", ""),
            ("unified/cgroup.controllers", ""),
            ("unified/pullpiri/_supervisors/cgroup.procs", ""),
        ]);
        Cgroups::probe(hybrid.path()).unwrap().enter_supervisors().unwrap();
        assert_eq!(read(hybrid.path(), "systemd/pullpiri/_supervisors/tasks"), "0");
        assert_eq!(read(hybrid.path(), "unified/pullpiri/_supervisors/cgroup.procs"), "0");
        assert!(!hybrid.path().join("cpu/pullpiri").exists());
    }

    #[test]
    fn limits_are_written_as_version_1_has_them() {
        let g = "pullpiri/p/c";
        let file = |path: &str| format!("{path}/{g}");
        let names = [
            ("cpu,cpuacct", "cpu.shares"),
            ("cpu,cpuacct", "cpu.cfs_quota_us"),
            ("cpu,cpuacct", "cpu.cfs_period_us"),
            ("cpu,cpuacct", "tasks"),
            ("memory", "memory.limit_in_bytes"),
            ("memory", "memory.memsw.limit_in_bytes"),
            ("memory", "tasks"),
            ("pids", "pids.max"),
            ("pids", "tasks"),
            ("devices", "devices.deny"),
            ("devices", "devices.allow"),
            ("devices", "tasks"),
        ];
        let mut files: Vec<(String, &str)> = names.iter().map(|(c, f)| (format!("{}/{f}", file(c)), "")).collect();
        for hierarchy in ["cpu,cpuacct", "memory", "pids", "devices", "cpuset", "blkio"] {
            files.push((format!("{hierarchy}/cgroup.procs"), ""));
        }
        for (level, value) in [("", "0-3"), ("pullpiri/", "0-3"), ("pullpiri/p/", ""), ("pullpiri/p/c/", "")] {
            files.push((format!("cpuset/{level}cpuset.cpus"), value));
            files.push((format!("cpuset/{level}cpuset.mems"), if value.is_empty() { "" } else { "0" }));
        }
        files.push((format!("{}/tasks", file("cpuset")), ""));
        let files: Vec<(&str, &str)> = files.iter().map(|(p, v)| (p.as_str(), *v)).collect();
        let dir = tree(&files);
        let cgroups = Cgroups::probe(dir.path()).unwrap();
        cgroups.prepare(g, &LIMITS, &["c 1:3 rwm".to_owned()]).unwrap();
        for (hierarchy, name, value) in [
            ("cpu,cpuacct", "cpu.shares", "512"),
            ("cpu,cpuacct", "cpu.cfs_quota_us", "150000"),
            ("cpu,cpuacct", "cpu.cfs_period_us", "100000"),
            ("memory", "memory.limit_in_bytes", "1073741824"),
            ("memory", "memory.memsw.limit_in_bytes", "1073741824"),
            ("pids", "pids.max", "100"),
            ("devices", "devices.deny", "a"),
            ("devices", "devices.allow", "c 1:3 rwm"),
            ("cpuset", "cpuset.cpus", "0-3"),
            ("cpuset", "cpuset.mems", "0"),
        ] {
            assert_eq!(read(dir.path(), &format!("{}/{name}", file(hierarchy))), value, "{name}");
        }
        assert_eq!(read(dir.path(), "cpuset/pullpiri/p/cpuset.cpus"), "0-3");
        cgroups.join(g).unwrap();
        for hierarchy in ["cpu,cpuacct", "memory", "pids", "devices", "cpuset"] {
            assert_eq!(read(dir.path(), &format!("{}/tasks", file(hierarchy))), "0", "{hierarchy}");
        }
        assert!(!dir.path().join("blkio/pullpiri").exists());
        // A missing controller is an error where a limit needs it.
        let error = cgroups.prepare("pullpiri/p/other", &LIMITS, &[]).unwrap_err();
        assert!(error.to_string().contains("cpu.shares"), "{error}");
    }

    #[test]
    fn limits_are_written_as_version_2_has_them() {
        let mut files = vec![("pullpiri/p/c/cgroup.procs".to_owned(), "")];
        for level in ["", "pullpiri/", "pullpiri/p/"] {
            files.push((format!("{level}cgroup.controllers"), "cpuset cpu memory pids hugetlb rdma"));
            files.push((format!("{level}cgroup.subtree_control"), ""));
        }
        for name in ["cpu.max", "cpu.weight", "memory.max", "memory.swap.max", "pids.max"] {
            files.push((format!("pullpiri/p/c/{name}"), ""));
        }
        let files: Vec<(&str, &str)> = files.iter().map(|(p, v)| (p.as_str(), *v)).collect();
        let dir = tree(&files);
        let cgroups = Cgroups::probe(dir.path()).unwrap();
        cgroups.prepare("pullpiri/p/c", &LIMITS, &[]).unwrap();
        for level in ["", "pullpiri/", "pullpiri/p/"] {
            assert_eq!(read(dir.path(), &format!("{level}cgroup.subtree_control")), "+cpuset +cpu +memory +pids");
        }
        for (name, value) in [
            ("cpu.max", "150000 100000"),
            ("cpu.weight", "20"),
            ("memory.max", "1073741824"),
            ("memory.swap.max", "0"),
            ("pids.max", "100"),
        ] {
            assert_eq!(read(dir.path(), &format!("pullpiri/p/c/{name}")), value, "{name}");
        }
        cgroups.join("pullpiri/p/c").unwrap();
        assert_eq!(read(dir.path(), "pullpiri/p/c/cgroup.procs"), "0");
    }

    #[test]
    fn a_group_of_version_two_is_joined_for_the_network_beside_controllers_of_version_one() {
        let hybrid = tree(&[
            ("cpu/cgroup.procs", ""),
            ("unified/cgroup.procs", ""),
            ("unified/cgroup.controllers", ""),
            ("unified/pullpiri/p/c/cgroup.procs", ""),
        ]);
        Cgroups::probe(hybrid.path()).unwrap().join_for_network("pullpiri/p/c").unwrap();
        assert_eq!(read(hybrid.path(), "unified/pullpiri/p/c/cgroup.procs"), "0");
        let v2 = tree(&[("cgroup.controllers", "memory"), ("cgroup.procs", "")]);
        Cgroups::probe(v2.path()).unwrap().join_for_network("pullpiri/p/c").unwrap();
        assert!(!v2.path().join("pullpiri").exists(), "it is joined with its limits");
    }

    #[test]
    fn a_real_group_is_killed_and_removed() {
        let cgroups = match Cgroups::probe(Path::new(DEFAULT_ROOT)) {
            Ok(cgroups) => cgroups,
            Err(e) => {
                println!("skipped: {e}");
                return;
            }
        };
        let group = pod_group(&format!("host-test-{}", std::process::id()));
        let Some(path) = cgroups.controller_path("pids", &group) else {
            println!("skipped: no pids controller");
            return;
        };
        if let Err(e) = std::fs::create_dir_all(&path) {
            println!("skipped: cgroups can't be made here: {e}");
            return;
        }
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        std::fs::write(path.join("cgroup.procs"), child.id().to_string()).unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert_eq!(cgroups.processes(&group).unwrap(), BTreeSet::from([pid]));
        cgroups.kill(&group, Some(pid)).unwrap();
        assert!(child.try_wait().unwrap().is_none(), "the excepted process lives");
        cgroups.kill(&group, None).unwrap();
        assert!(child.wait().unwrap().code().is_none());
        cgroups.remove(&group).unwrap();
        assert!(!path.exists());
        cgroups.remove(&group).unwrap();
    }
}
