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
