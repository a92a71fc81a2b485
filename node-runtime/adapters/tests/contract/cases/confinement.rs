//! Limits, mounts, users and capabilities.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pullpiri_node_adapters::RuntimeError;
use pullpiri_node_core::runtime::{Limits, Mount, MountSource, NetworkMode, Security};

use crate::support::container;
use crate::{Context, exit_of, pid_of};

/// A cgroup file of a process: for version 1 by controller, for version 2 by its other name.
fn cgroup_value(pid: u32, controller: &str, v1: &str, v2: &str) -> String {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let root = Path::new("/sys/fs/cgroup");
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next(), fields.next().unwrap(), fields.next().unwrap());
        let path = path.trim_start_matches('/');
        if controllers.split(',').any(|k| k == controller) {
            return std::fs::read_to_string(root.join(controllers).join(path).join(v1)).unwrap().trim().to_owned();
        }
        if controllers.is_empty() && root.join("cgroup.controllers").exists() {
            return std::fs::read_to_string(root.join(path).join(v2)).unwrap().trim().to_owned();
        }
    }
    panic!("process {pid} is in no {controller} group: {groups}");
}

pub async fn limits_are_set_in_cgroups(c: &Context) {
    let mut one = container("c", &["forever"]);
    one.limits = Limits {
        cpu_millis: Some(250),
        cpu_request_millis: Some(100),
        memory_bytes: Some(64 << 20),
        pids: Some(33),
        ..Limits::default()
    };
    let pod = c.pod("a", NetworkMode::Host, vec![one]);
    c.start(&pod).await;
    c.logged(&pod.id, "c", "stdout forever").await;
    let pid = pid_of(&c.observed(&pod.id).await.unwrap(), "c").unwrap();
    assert_eq!(cgroup_value(pid, "memory", "memory.limit_in_bytes", "memory.max"), (64 << 20).to_string());
    // A kubelet limits processes for all Pods alike.
    if c.backend.name() != "kubernetes" {
        assert_eq!(cgroup_value(pid, "pids", "pids.max", "pids.max"), "33");
    }
    let quota = cgroup_value(pid, "cpu", "cpu.cfs_quota_us", "cpu.max");
    assert!(quota == "25000" || quota == "25000 100000", "{quota}");
    if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        assert_eq!(cgroup_value(pid, "cpu", "cpu.shares", ""), "102");
    }
}

pub async fn the_process_limit_holds(c: &Context) {
    let mut one = container("c", &["fork", "40", "exit", "0"]);
    one.limits.pids = Some(10);
    let pod = c.pod("a", NetworkMode::Host, vec![one]);
    c.runtime.run_pod(&pod).await.unwrap();
    let log = c.output(&pod.id, "c").await;
    let made: u32 = log[0].strip_prefix("stdout forked ").unwrap().parse().unwrap();
    assert!(made > 0 && made < 10, "{log:?}");
}

pub async fn the_memory_limit_kills(c: &Context) {
    let mut one = container("c", &["say", "start", "allocate", "200", "exit", "0"]);
    one.limits.memory_bytes = Some(32 << 20);
    let pod = c.pod("a", NetworkMode::Host, vec![one.clone()]);
    c.runtime.run_pod(&pod).await.unwrap();
    let exit = c.exit(&pod.id, "c").await;
    assert_eq!(exit.code, 137, "{:?}", c.backend.log(&pod.id, "c").await);
    if c.backend.reports_oom() {
        assert!(exit.oom_killed);
    }
    if !c.backend.restarts() {
        return;
    }
    // The kernel's count outlives the attempt; a later kill isn't for want of memory.
    one.args = vec!["forever".to_owned()];
    c.runtime.start_container(&pod.id, &one, 1).await.unwrap();
    c.runtime.stop_pod(&pod.id, Duration::ZERO).await.unwrap();
    let exit = c.exit(&pod.id, "c").await;
    assert_eq!((exit.code, exit.oom_killed), (137, false));
}

pub fn bind(source: PathBuf, target: &str, read_only: bool) -> Mount {
    Mount { source: MountSource::Bind(source), target: target.into(), read_only }
}

pub async fn mounts_of_every_kind(c: &Context) {
    let dir = c.dir.path();
    std::fs::create_dir(dir.join("rw")).unwrap();
    std::fs::create_dir(dir.join("ro")).unwrap();
    std::fs::write(dir.join("ro/file"), "from a read-only directory\n").unwrap();
    std::fs::write(dir.join("single"), "a single file\n").unwrap();
    let mut one = container(
        "c",
        &[
            "write",
            "/data/rw/out",
            "written",
            "cat",
            "/ro/file",
            "write",
            "/ro/file",
            "x",
            "cat",
            "/etc/config/single",
            "size",
            "/tmp/mem",
            "write",
            "/tmp/mem/f",
            "x",
            "write",
            "/tmp/sealed/f",
            "x",
        ],
    );
    one.mounts = vec![
        // The inner mount comes first in the specification.
        bind(dir.join("rw"), "/data/rw", false),
        Mount { source: MountSource::Tmpfs { size_bytes: None }, target: "/data".into(), read_only: false },
        bind(dir.join("ro"), "/ro", true),
        bind(dir.join("single"), "/etc/config/single", true),
        Mount { source: MountSource::Tmpfs { size_bytes: Some(1 << 20) }, target: "/tmp/mem".into(), read_only: false },
        Mount { source: MountSource::Tmpfs { size_bytes: None }, target: "/tmp/sealed".into(), read_only: true },
    ];
    let pod = c.pod("a", NetworkMode::Own, vec![one]);
    c.runtime.run_pod(&pod).await.unwrap();
    let log = c.output(&pod.id, "c").await;
    for line in [
        "write /data/rw/out: ok",
        "from a read-only directory",
        "write /ro/file: Read-only file system",
        "a single file",
        "size /tmp/mem: 1048576",
        "write /tmp/mem/f: ok",
        "write /tmp/sealed/f: Read-only file system",
    ] {
        assert!(log.contains(&format!("stdout {line}")), "{line:?} in {log:?}");
    }
    assert_eq!(std::fs::read_to_string(dir.join("rw/out")).unwrap(), "written");
}

pub async fn a_missing_mount_source_is_refused(c: &Context) {
    let mut one = container("c", &["forever"]);
    let missing = c.dir.path().join("not there");
    one.mounts = vec![bind(missing.clone(), "/data", false)];
    let pod = c.pod("a", NetworkMode::Host, vec![one]);
    let error = c.runtime.run_pod(&pod).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains(missing.to_str().unwrap()), "{error}");
    assert!(c.observed(&pod.id).await.is_none());
    assert_eq!(c.backend.leftovers(&pod.id), Vec::<String>::new());
}

pub async fn a_sub_path_never_leads_out_of_its_volume(c: &Context) {
    let (volume, outside) = (c.dir.path().join("volume"), c.dir.path().join("outside"));
    for dir in [volume.join("x"), volume.join("y"), outside.clone()] {
        std::fs::create_dir_all(dir).unwrap();
    }
    for (file, text) in [(volume.join("x/mark"), "x"), (volume.join("y/mark"), "y"), (outside.join("mark"), "outside")]
    {
        std::fs::write(file, text).unwrap();
    }
    let mut reader = container("reader", &["cat", "/data/mark", "exit", "0"]);
    let source = MountSource::Below { base: volume.clone(), sub_path: "x".into() };
    reader.mounts = vec![Mount { source, target: "/data".into(), read_only: false }];
    let pod = c.pod("a", NetworkMode::Own, vec![container("other", &["forever"]), reader.clone()]);
    c.runtime.run_pod(&pod).await.unwrap();
    assert_eq!(c.output(&pod.id, "reader").await, ["stdout x"]);
    let other = pid_of(&c.observed(&pod.id).await.unwrap(), "other").unwrap();
    // As a container that shares the volume could.
    let swap = |target: &Path| {
        let _ = std::fs::rename(volume.join("x"), volume.join("was"));
        let _ = std::fs::remove_file(volume.join("x"));
        std::os::unix::fs::symlink(target, volume.join("x")).unwrap();
    };
    for (attempt, target) in (1..).zip([Path::new("/"), Path::new("../outside"), outside.as_path()]) {
        swap(target);
        let error = c.runtime.start_container(&pod.id, &reader, attempt).await.unwrap_err();
        assert!(matches!(error, RuntimeError::Refused { .. }), "{error:?}");
        assert!(error.to_string().contains("x leads out of"), "{error}");
    }
    // One that stays inside is followed.
    swap(Path::new("y"));
    c.runtime.start_container(&pod.id, &reader, 9).await.unwrap();
    c.until(&pod.id, "the second exit", |p| {
        p.containers.iter().any(|one| one.name == "reader" && one.attempt == 9) && exit_of(p, "reader").is_some()
    })
    .await;
    assert_eq!(c.backend.log(&pod.id, "reader").await, ["stdout x", "stdout y"]);
    assert_eq!(pid_of(&c.observed(&pod.id).await.unwrap(), "other"), Some(other), "its neighbour goes on");
}

/// The bits of a capability set from `/proc/self/status`.
fn capability_set(log: &[String], set: &str) -> u64 {
    let line = log.iter().find_map(|l| l.strip_prefix(&format!("stdout {set}:"))).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

pub async fn users_and_capabilities(c: &Context) {
    const SYS_NICE: u64 = 1 << 23;
    const KILL: u64 = 1 << 5;
    let status = ["id", "cat", "/proc/self/status"];
    let mut plain = container("plain", &status);
    plain.security = Security { drop_capabilities: vec!["KILL".to_owned()], ..Security::default() };
    let mut user = container("user", &status);
    user.security = Security {
        user: Some(1000),
        group: Some(2000),
        drop_capabilities: vec!["ALL".to_owned()],
        add_capabilities: vec!["SYS_NICE".to_owned()],
        ..Security::default()
    };
    let pod = c.pod("a", NetworkMode::Host, vec![plain, user]);
    c.runtime.run_pod(&pod).await.unwrap();
    let log = c.output(&pod.id, "plain").await;
    assert!(log[0].starts_with("stdout uid=0 gid=0 pid=1"), "{log:?}");
    let bounds = capability_set(&log, "CapBnd");
    assert_eq!(bounds & (KILL | SYS_NICE), 0, "{bounds:x}");
    assert_ne!(bounds, 0);
    let log = c.output(&pod.id, "user").await;
    assert!(log[0].starts_with("stdout uid=1000 gid=2000 pid=1"), "{log:?}");
    assert_eq!(capability_set(&log, "CapBnd"), SYS_NICE);
    assert_eq!(capability_set(&log, "CapEff"), SYS_NICE, "an added capability is there for any user");
}

pub async fn a_bad_capability_is_refused(c: &Context) {
    let mut one = container("c", &["forever"]);
    one.security.add_capabilities = vec!["MAKE_COFFEE".to_owned()];
    let pod = c.pod("a", NetworkMode::Host, vec![one]);
    let error = c.runtime.run_pod(&pod).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains("MAKE_COFFEE"), "{error}");
    assert!(c.observed(&pod.id).await.is_none());
}

pub async fn a_read_only_root_is(c: &Context) {
    let mut one = container("c", &["write", "/file", "x"]);
    one.security.read_only_root = true;
    let writable = container("d", &["write", "/file", "x"]);
    let pod = c.pod("a", NetworkMode::Host, vec![one, writable]);
    c.runtime.run_pod(&pod).await.unwrap();
    assert_eq!(c.output(&pod.id, "c").await, ["stdout write /file: Read-only file system"]);
    assert_eq!(c.output(&pod.id, "d").await, ["stdout write /file: ok"]);
}

pub async fn privileged_sees_the_devices(c: &Context) {
    let mut one =
        container("c", &["cat", "/proc/self/status", "stat", "/dev/kmsg", "write", "/proc/sys/kernel/domainname", "x"]);
    one.security.privileged = true;
    let plain = container("d", &["stat", "/dev/kmsg", "stat", "/dev/null"]);
    let pod = c.pod("a", NetworkMode::Own, vec![one, plain]);
    c.runtime.run_pod(&pod).await.unwrap();
    let log = c.output(&pod.id, "c").await;
    assert_ne!(capability_set(&log, "CapEff") & (1 << 21), 0, "SYS_ADMIN");
    if Path::new("/dev/kmsg").exists() {
        assert!(log.iter().any(|l| l.starts_with("stdout stat /dev/kmsg: mode=")), "{log:?}");
    }
    assert!(log.contains(&"stdout write /proc/sys/kernel/domainname: ok".to_owned()), "{log:?}");
    let log = c.output(&pod.id, "d").await;
    assert_eq!(log[0], "stdout stat /dev/kmsg: No such file or directory");
    assert!(log[1].starts_with("stdout stat /dev/null: mode=20666"), "{log:?}");
}
