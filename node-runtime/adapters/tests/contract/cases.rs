//! What every adapter promises.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use pullpiri_node_adapters::{LogRetention, RuntimeError, RuntimeEvent};
use pullpiri_node_core::runtime::{
    ContainerStateObserved, Limits, Mount, MountSource, NetworkMode, PodId, Port, Security,
};

use super::oci::{Oci, foreign_files, is_alive, start_agent};
use super::support::{IMAGE, container};
use super::{Backend, Case, Context, DEADLINE, Narrow, exit_of, pid_of};

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        pub const ALL: &[Case] = &[$((stringify!($name), |c| -> BoxFuture<'_, ()> { Box::pin($name(c)) })),*];
    };
}

cases![
    runs_logs_and_reports_the_exit,
    environment_arguments_directory_and_host_name,
    signals_and_descriptors_are_clean,
    restarts_in_the_same_sandbox,
    a_death_is_noticed_by_event,
    stops_with_the_stop_signal,
    stops_by_force_after_the_grace,
    limits_are_set_in_cgroups,
    the_process_limit_holds,
    the_memory_limit_kills,
    mounts_of_every_kind,
    a_missing_mount_source_is_refused,
    containers_share_a_network_of_their_own,
    a_port_is_published_from_a_network_of_its_own,
    a_pod_joins_a_network_namespace_that_is_there,
    the_host_network_is_the_nodes,
    users_and_capabilities,
    a_bad_capability_is_refused,
    a_read_only_root_is,
    privileged_sees_the_devices,
    every_operation_may_be_repeated,
    a_missing_image_is_named,
    a_missing_program_is_refused_and_nothing_stays,
    a_missing_working_directory_is_refused,
    too_little_memory_is_refused,
    a_failing_second_container_takes_the_first_with_it,
    a_damaged_archive_is_refused,
    many_pods_at_once,
    a_reopened_adapter_finds_its_pods,
    a_killed_sandbox_takes_its_containers_with_it,
    an_agent_that_was_killed_loses_nothing,
    removal_leaves_nothing,
    logs_of_removed_pods_are_kept_for_a_while,
    a_flood_of_output_leaves_a_bounded_log,
    a_frozen_sandbox_holds_nothing_up,
];

async fn runs_logs_and_reports_the_exit(c: &Context) {
    let pod = c.run("a", &["say", "one", "complain", "two", "part", "no newline", "exit", "3"]).await;
    let exit = c.exit(&pod.id, "c").await;
    assert_eq!(exit.code, 3);
    assert!(!exit.oom_killed);
    assert!(exit.started_at.0 > 0 && exit.finished_at >= exit.started_at);
    let log = c.backend.log(&pod.id, "c").await;
    for line in ["stdout one", "stderr two", "stdout no newline"] {
        assert!(log.contains(&line.to_owned()), "{line:?} in {log:?}");
    }
    let seen = c.observed(&pod.id).await.unwrap();
    assert_eq!((seen.namespace.as_str(), seen.name.as_str(), seen.hash.as_str()), ("default", pod.name.as_str(), "h1"));
    assert!(seen.sandbox_alive);
    assert_eq!(seen.containers.len(), 1);
    assert_eq!(Some(seen.containers[0].image_id.clone()), c.runtime.image(IMAGE).await.unwrap());
}

async fn environment_arguments_directory_and_host_name(c: &Context) {
    let mut one = container("c", &["env", "args", "pwd", "host", "last argument"]);
    one.args = ["env", "pwd", "host", "say", "two words", "args"].map(str::to_owned).to_vec();
    one.env = [("FROM_SPEC", "a=b"), ("FROM_IMAGE", "no"), ("FROM_IMAGE", "overridden"), ("EMPTY", "")]
        .map(|(n, v)| (n.to_owned(), v.to_owned()))
        .to_vec();
    one.working_dir = Some("/proc/self".to_owned());
    let pod = c.pod("a", NetworkMode::Own, vec![one]);
    c.runtime.run_pod(&pod).await.unwrap();
    let log = c.output(&pod.id, "c").await;
    for line in ["FROM_SPEC=a=b", "FROM_IMAGE=overridden", "EMPTY=", "two words", "vehicle", "/bin/workload"] {
        assert!(log.contains(&format!("stdout {line}")), "{line:?} in {log:?}");
    }
    assert!(log.iter().any(|l| l.starts_with("stdout /proc/")), "{log:?}");
    assert_eq!(log.iter().filter(|l| l.contains("FROM_IMAGE")).count(), 1);

    // The command replaces the image's entrypoint; a name is looked up in PATH.
    let mut two = container("c", &["exit", "0"]);
    two.command = ["workload", "say", "by name"].map(str::to_owned).to_vec();
    let pod = c.pod("b", NetworkMode::Host, vec![two]);
    c.runtime.run_pod(&pod).await.unwrap();
    assert!(c.output(&pod.id, "c").await.contains(&"stdout by name".to_owned()));
}

async fn signals_and_descriptors_are_clean(c: &Context) {
    let pod = c.run("a", &["signals", "descriptors"]).await;
    let log = c.output(&pod.id, "c").await;
    assert_eq!(log, ["stdout signals: SIGCHLD open, SIGPIPE default", "stdout fd 0", "stdout fd 1", "stdout fd 2"]);
}

async fn restarts_in_the_same_sandbox(c: &Context) {
    let pod = c.run("a", &["say", "once", "exit", "1"]).await;
    assert_eq!(c.exit(&pod.id, "c").await.code, 1);
    let first = c.container(&pod.id, "c").await.unwrap();
    assert_eq!(first.attempt, 0);
    let mut again = pod.containers[0].clone();
    again.args = ["say", "twice", "forever"].map(str::to_owned).to_vec();
    let second = c.runtime.start_container(&pod.id, &again, 1).await.unwrap();
    assert_eq!(second.attempt, 1);
    assert_ne!(second.container_id, first.container_id);
    let ContainerStateObserved::Running { pid, .. } = second.state else { panic!("{second:?}") };
    assert!(is_alive(pid));
    c.logged(&pod.id, "c", "stdout twice").await;
    assert!(c.backend.log(&pod.id, "c").await.contains(&"stdout once".to_owned()), "the log goes on");
    // The same attempt again is the same container.
    assert_eq!(c.runtime.start_container(&pod.id, &again, 1).await.unwrap(), second);
    assert_eq!(c.container(&pod.id, "c").await.unwrap(), second);
}

async fn a_death_is_noticed_by_event(c: &Context) {
    let mut events = c.runtime.events();
    let pod = c.run("a", &["forever"]).await;
    c.logged(&pod.id, "c", "stdout forever").await;
    let pid = pid_of(&c.observed(&pod.id).await.unwrap(), "c").unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap()), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    let death = async {
        loop {
            if let RuntimeEvent::Container { pod: of, container } = events.next().await.unwrap()
                && of == pod.id
                && let ContainerStateObserved::Exited(exit) = container.state
            {
                return exit;
            }
        }
    };
    let exit = tokio::time::timeout(DEADLINE, death).await.unwrap();
    assert_eq!(exit.code, 137);
    assert!(!exit.oom_killed);
}

async fn stops_with_the_stop_signal(c: &Context) {
    let pod = c.run("a", &["trap", "42"]).await;
    c.logged(&pod.id, "c", "stdout trapping").await;
    tokio::time::timeout(DEADLINE, c.runtime.stop_pod(&pod.id, Duration::from_secs(600))).await.unwrap().unwrap();
    let seen = c.observed(&pod.id).await.unwrap();
    assert_eq!(exit_of(&seen, "c").unwrap().code, 42);
    assert!(c.backend.log(&pod.id, "c").await.contains(&"stdout caught 15".to_owned()));
}

async fn stops_by_force_after_the_grace(c: &Context) {
    // A first process without a handler doesn't get SIGTERM at all.
    let pod = c.pod("a", NetworkMode::Host, vec![container("c", &["forever"]), container("d", &["trap", "5"])]);
    c.runtime.run_pod(&pod).await.unwrap();
    c.logged(&pod.id, "c", "stdout forever").await;
    c.logged(&pod.id, "d", "stdout trapping").await;
    tokio::time::timeout(DEADLINE, c.runtime.stop_pod(&pod.id, Duration::from_millis(300))).await.unwrap().unwrap();
    let seen = c.observed(&pod.id).await.unwrap();
    assert_eq!(exit_of(&seen, "c").unwrap().code, 137);
    assert_eq!(exit_of(&seen, "d").unwrap().code, 5);
}

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

async fn limits_are_set_in_cgroups(c: &Context) {
    let mut one = container("c", &["forever"]);
    one.limits =
        Limits { cpu_millis: Some(250), cpu_request_millis: Some(100), memory_bytes: Some(64 << 20), pids: Some(33) };
    let pod = c.pod("a", NetworkMode::Host, vec![one]);
    c.runtime.run_pod(&pod).await.unwrap();
    c.logged(&pod.id, "c", "stdout forever").await;
    let pid = pid_of(&c.observed(&pod.id).await.unwrap(), "c").unwrap();
    assert_eq!(cgroup_value(pid, "memory", "memory.limit_in_bytes", "memory.max"), (64 << 20).to_string());
    assert_eq!(cgroup_value(pid, "pids", "pids.max", "pids.max"), "33");
    let quota = cgroup_value(pid, "cpu", "cpu.cfs_quota_us", "cpu.max");
    assert!(quota == "25000" || quota == "25000 100000", "{quota}");
    if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        assert_eq!(cgroup_value(pid, "cpu", "cpu.shares", ""), "102");
    }
}

async fn the_process_limit_holds(c: &Context) {
    let mut one = container("c", &["fork", "40", "exit", "0"]);
    one.limits.pids = Some(10);
    let pod = c.pod("a", NetworkMode::Host, vec![one]);
    c.runtime.run_pod(&pod).await.unwrap();
    let log = c.output(&pod.id, "c").await;
    let made: u32 = log[0].strip_prefix("stdout forked ").unwrap().parse().unwrap();
    assert!(made > 0 && made < 10, "{log:?}");
}

async fn the_memory_limit_kills(c: &Context) {
    let mut one = container("c", &["say", "start", "allocate", "200", "exit", "0"]);
    one.limits.memory_bytes = Some(32 << 20);
    let pod = c.pod("a", NetworkMode::Host, vec![one.clone()]);
    c.runtime.run_pod(&pod).await.unwrap();
    let exit = c.exit(&pod.id, "c").await;
    assert_eq!(exit.code, 137, "{:?}", c.backend.log(&pod.id, "c").await);
    if c.backend.reports_oom() {
        assert!(exit.oom_killed);
    }
    // The kernel's count outlives the attempt; a later kill isn't for want of memory.
    one.args = vec!["forever".to_owned()];
    c.runtime.start_container(&pod.id, &one, 1).await.unwrap();
    c.runtime.stop_pod(&pod.id, Duration::ZERO).await.unwrap();
    let exit = c.exit(&pod.id, "c").await;
    assert_eq!((exit.code, exit.oom_killed), (137, false));
}

fn bind(source: PathBuf, target: &str, read_only: bool) -> Mount {
    Mount { source: MountSource::Bind(source), target: target.into(), read_only }
}

async fn mounts_of_every_kind(c: &Context) {
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

async fn a_missing_mount_source_is_refused(c: &Context) {
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

async fn containers_share_a_network_of_their_own(c: &Context) {
    let port = "7321";
    let pod = c.pod(
        "a",
        NetworkMode::Own,
        vec![container("server", &["serve", port, "forever"]), container("client", &["dial", port])],
    );
    c.runtime.run_pod(&pod).await.unwrap();
    assert_eq!(c.output(&pod.id, "client").await, ["stdout dialled hello"]);
    let pid = pid_of(&c.observed(&pod.id).await.unwrap(), "server").unwrap();
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_ne!(namespace(&pid.to_string()), namespace("self"));
    // A restarted container is in it too.
    let again = c.runtime.start_container(&pod.id, &container("client", &["forever"]), 1).await.unwrap();
    let ContainerStateObserved::Running { pid: client, .. } = again.state else { panic!("{again:?}") };
    assert_eq!(namespace(&pid.to_string()), namespace(&client.to_string()));
}

async fn a_port_is_published_from_a_network_of_its_own(c: &Context) {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut server = container("c", &["serve", "7322", "say", "over"]);
    server.ports = vec![Port { container_port: 7322, host_port: Some(port), protocol: "tcp".to_owned() }];
    let pod = c.pod("a", NetworkMode::Own, vec![server]);
    c.runtime.run_pod(&pod).await.unwrap();
    c.logged(&pod.id, "c", "stdout serving").await;
    let text = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut stream, &mut text).unwrap();
        text
    });
    assert_eq!(text.await.unwrap(), "hello");
    c.exit(&pod.id, "c").await;
    // Who comes when nobody listens is turned away, and the next pod may have the port.
    let mut refused = pod.clone();
    refused.id = c.id("b");
    let error = c.runtime.run_pod(&refused).await.unwrap_err();
    assert!(error.to_string().contains(&port.to_string()), "{error}");
    assert!(c.observed(&refused.id).await.is_none());
    c.runtime.remove_pod(&pod.id).await.unwrap();
    assert_eq!(c.backend.leftovers(&pod.id), Vec::<String>::new());
    c.runtime.run_pod(&refused).await.unwrap();
}

async fn a_pod_joins_a_network_namespace_that_is_there(c: &Context) {
    let path = c.dir.path().join("netns");
    pullpiri_node_host::net::namespace::create(&path).unwrap();
    let inode = |path: &std::path::Path| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap());
    let expected = inode(&path);
    let mut first = container("c", &["forever"]);
    // Whoever made the namespace publishes its ports.
    first.ports = vec![Port { container_port: 80, host_port: None, protocol: "udp".to_owned() }];
    let pod = c.pod("a", NetworkMode::Namespace(path.clone()), vec![first, container("d", &["exit", "3"])]);
    let observed = c.runtime.run_pod(&pod).await.unwrap();
    let at = |pid: u32| inode(std::path::Path::new(&format!("/proc/{pid}/ns/net")));
    assert_eq!(at(pid_of(&observed, "c").unwrap()), expected);
    c.exit(&pod.id, "d").await;
    let again = c.runtime.start_container(&pod.id, &container("d", &["forever"]), 1).await.unwrap();
    let ContainerStateObserved::Running { pid, .. } = again.state else { panic!("{again:?}") };
    assert_eq!(at(pid), expected);
    c.runtime.remove_pod(&pod.id).await.unwrap();
    assert_eq!(c.backend.leftovers(&pod.id), Vec::<String>::new());
    assert_eq!(inode(&path), expected, "it isn't the runtime's to remove");
    pullpiri_node_host::net::namespace::remove(&path).unwrap();
}

async fn the_host_network_is_the_nodes(c: &Context) {
    let pod = c.run("a", &["forever"]).await;
    let pid = pid_of(&c.observed(&pod.id).await.unwrap(), "c").unwrap();
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_eq!(namespace(&pid.to_string()), namespace("self"));
}

/// The bits of a capability set from `/proc/self/status`.
fn capability_set(log: &[String], set: &str) -> u64 {
    let line = log.iter().find_map(|l| l.strip_prefix(&format!("stdout {set}:"))).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

async fn users_and_capabilities(c: &Context) {
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

async fn a_bad_capability_is_refused(c: &Context) {
    let mut one = container("c", &["forever"]);
    one.security.add_capabilities = vec!["MAKE_COFFEE".to_owned()];
    let pod = c.pod("a", NetworkMode::Host, vec![one]);
    let error = c.runtime.run_pod(&pod).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains("MAKE_COFFEE"), "{error}");
    assert!(c.observed(&pod.id).await.is_none());
}

async fn a_read_only_root_is(c: &Context) {
    let mut one = container("c", &["write", "/file", "x"]);
    one.security.read_only_root = true;
    let writable = container("d", &["write", "/file", "x"]);
    let pod = c.pod("a", NetworkMode::Host, vec![one, writable]);
    c.runtime.run_pod(&pod).await.unwrap();
    assert_eq!(c.output(&pod.id, "c").await, ["stdout write /file: Read-only file system"]);
    assert_eq!(c.output(&pod.id, "d").await, ["stdout write /file: ok"]);
}

async fn privileged_sees_the_devices(c: &Context) {
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

async fn every_operation_may_be_repeated(c: &Context) {
    let pod = c.run("a", &["forever"]).await;
    let seen = c.observed(&pod.id).await.unwrap();
    assert_eq!(c.runtime.run_pod(&pod).await.unwrap().containers, seen.containers);
    for _ in 0..2 {
        c.runtime.stop_pod(&pod.id, Duration::ZERO).await.unwrap();
    }
    for _ in 0..2 {
        c.runtime.remove_pod(&pod.id).await.unwrap();
    }
    assert!(c.observed(&pod.id).await.is_none());
    c.runtime.stop_pod(&pod.id, Duration::ZERO).await.unwrap();
    let error = c.runtime.start_container(&pod.id, &pod.containers[0], 1).await.unwrap_err();
    assert!(matches!(error, RuntimeError::NoPod { .. }), "{error:?}");
    // The id may be used again.
    c.runtime.run_pod(&pod).await.unwrap();
}

async fn a_missing_image_is_named(c: &Context) {
    let mut one = container("c", &["forever"]);
    one.image = "localhost/no-such-image:9".to_owned();
    let pod = c.pod("a", NetworkMode::Host, vec![container("b", &["forever"]), one]);
    let error = c.runtime.run_pod(&pod).await.unwrap_err();
    assert!(
        matches!(&error, RuntimeError::ImageMissing { image, .. } if image == "localhost/no-such-image:9"),
        "{error:?}"
    );
    // What to do about it depends on whose store it is.
    let remedy = if c.backend.name() == "oci" { "`pullpiri image load" } else { "`podman load" };
    assert!(error.to_string().contains(remedy), "{error}");
    assert!(c.observed(&pod.id).await.is_none());
    assert_eq!(c.runtime.image("localhost/no-such-image:9").await.unwrap(), None);
    assert!(c.runtime.image(IMAGE).await.unwrap().unwrap().starts_with("sha256:"));
}

async fn a_missing_program_is_refused_and_nothing_stays(c: &Context) {
    let mut one = container("c", &[]);
    one.command = vec!["/bin/not-there".to_owned()];
    let pod = c.pod("a", NetworkMode::Host, vec![one.clone()]);
    let error = c.runtime.run_pod(&pod).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains("not-there"), "{error}");
    assert!(c.observed(&pod.id).await.is_none());
    assert_eq!(c.backend.leftovers(&pod.id), Vec::<String>::new());
    // At a restart it is refused too, and the sandbox stays as it was.
    let pod = c.run("b", &["exit", "0"]).await;
    c.exit(&pod.id, "c").await;
    let error = c.runtime.start_container(&pod.id, &one, 1).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Refused { .. }), "{error:?}");
    let again = c.runtime.start_container(&pod.id, &container("c", &["exit", "4"]), 2).await.unwrap();
    assert_eq!(again.attempt, 2);
    c.until(&pod.id, "the second exit", |p| exit_of(p, "c").is_some_and(|e| e.code == 4)).await;
}

async fn a_missing_working_directory_is_refused(c: &Context) {
    let mut one = container("c", &["pwd"]);
    one.working_dir = Some("/not/there".to_owned());
    let pod = c.pod("a", NetworkMode::Host, vec![one.clone()]);
    let error = c.runtime.run_pod(&pod).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains("/not/there"), "{error}");
    assert!(c.observed(&pod.id).await.is_none());
    // One that a volume brings is there.
    let source = c.dir.path().join("volume");
    std::fs::create_dir_all(source.join("there")).unwrap();
    one.mounts = vec![bind(source, "/not", false)];
    let pod = c.pod("b", NetworkMode::Host, vec![one]);
    c.runtime.run_pod(&pod).await.unwrap();
    assert_eq!(c.output(&pod.id, "c").await, ["stdout /not/there"]);
}

async fn too_little_memory_is_refused(c: &Context) {
    if c.backend.name() != "oci" {
        println!("skipped: what podman says of it is podman's; the node refuses such limits before");
        return;
    }
    let mut one = container("c", &["forever"]);
    one.limits.memory_bytes = Some(1);
    let pod = c.pod("a", NetworkMode::Host, vec![one]);
    let error = c.runtime.run_pod(&pod).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains("memory limit of 1 B"), "{error}");
    assert_eq!(c.backend.leftovers(&pod.id), Vec::<String>::new());
}

async fn a_failing_second_container_takes_the_first_with_it(c: &Context) {
    let mut bad = container("bad", &[]);
    bad.command = vec!["/bin/not-there".to_owned()];
    let pod = c.pod("a", NetworkMode::Own, vec![container("good", &["forever"]), bad]);
    c.runtime.run_pod(&pod).await.unwrap_err();
    assert!(c.observed(&pod.id).await.is_none());
    assert_eq!(c.backend.leftovers(&pod.id), Vec::<String>::new());
}

async fn a_damaged_archive_is_refused(c: &Context) {
    let junk = c.dir.path().join("junk.tar");
    std::fs::write(&junk, vec![7; 4096]).unwrap();
    for path in [junk, c.dir.path().join("absent.tar")] {
        let error = c.runtime.load_image(&path).await.unwrap_err();
        assert!(matches!(error, RuntimeError::Archive { .. }), "{error:?}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}

async fn many_pods_at_once(c: &Context) {
    let pods: Vec<_> = (0..8)
        .map(|i| {
            let network = if i % 2 == 0 { NetworkMode::Host } else { NetworkMode::Own };
            c.pod(&i.to_string(), network, vec![container("c", &["say", "hi", "exit", &i.to_string()])])
        })
        .collect();
    let started = futures::future::join_all(pods.iter().map(|p| c.runtime.run_pod(p))).await;
    for outcome in started {
        outcome.unwrap();
    }
    for (i, pod) in pods.iter().enumerate() {
        assert_eq!(usize::try_from(c.exit(&pod.id, "c").await.code).unwrap(), i);
    }
    let removed = futures::future::join_all(pods.iter().map(|p| c.runtime.remove_pod(&p.id))).await;
    for outcome in removed {
        outcome.unwrap();
    }
    for pod in &pods {
        assert_eq!(c.backend.leftovers(&pod.id), Vec::<String>::new());
    }
}

async fn a_reopened_adapter_finds_its_pods(c: &Context) {
    let pod = c.pod("a", NetworkMode::Own, vec![container("c", &["trap", "9"]), container("d", &["exit", "6"])]);
    c.runtime.run_pod(&pod).await.unwrap();
    c.logged(&pod.id, "c", "stdout trapping").await;
    c.exit(&pod.id, "d").await;
    let before = c.observed(&pod.id).await.unwrap();

    let second = Context {
        backend: c.backend.clone(),
        runtime: c.backend.open().await,
        case: c.case,
        dir: tempfile::tempdir().unwrap(),
    };
    assert_eq!(second.observed(&pod.id).await.unwrap(), before);
    // It hears what happens and is obeyed.
    let mut events = second.runtime.events();
    tokio::time::timeout(DEADLINE, second.runtime.stop_pod(&pod.id, Duration::from_secs(600))).await.unwrap().unwrap();
    let heard = async {
        loop {
            if let RuntimeEvent::Container { pod: of, container } = events.next().await.unwrap()
                && of == pod.id
                && matches!(&container.state, ContainerStateObserved::Exited(e) if e.code == 9)
            {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, heard).await.unwrap();
    let again = second.runtime.start_container(&pod.id, &container("d", &["exit", "8"]), 1).await.unwrap();
    assert_eq!(again.attempt, 1);
    second.until(&pod.id, "the restarted container's exit", |p| exit_of(p, "d").is_some_and(|e| e.code == 8)).await;
    second.runtime.remove_pod(&pod.id).await.unwrap();
    assert_eq!(c.backend.leftovers(&pod.id), Vec::<String>::new());
}

async fn a_killed_sandbox_takes_its_containers_with_it(c: &Context) {
    let pod = c.pod("a", NetworkMode::Own, vec![container("c", &["forever"]), container("d", &["exit", "6"])]);
    let mut events = c.runtime.events();
    c.runtime.run_pod(&pod).await.unwrap();
    c.exit(&pod.id, "d").await;
    let pid = pid_of(&c.observed(&pod.id).await.unwrap(), "c").unwrap();
    if !c.backend.kill_sandbox(&c.runtime, &pod.id).await {
        println!("skipped: this adapter's pods have no sandbox of their own");
        return;
    }
    let heard = async { while events.next().await.unwrap() != (RuntimeEvent::Sandbox { pod: pod.id.clone() }) {} };
    tokio::time::timeout(DEADLINE, heard).await.unwrap();
    let seen = c.observed(&pod.id).await.unwrap();
    assert!(!seen.sandbox_alive);
    assert_eq!(exit_of(&seen, "c").unwrap().code, 255, "nobody saw it end");
    assert_eq!(exit_of(&seen, "d").unwrap().code, 6, "what was seen stays");
    assert!(!is_alive(pid));
    // The pod can be run anew, and removed.
    c.runtime.run_pod(&pod).await.unwrap();
    c.exit(&pod.id, "d").await;
    c.runtime.remove_pod(&pod.id).await.unwrap();
    assert_eq!(c.backend.leftovers(&pod.id), Vec::<String>::new());
}

async fn an_agent_that_was_killed_loses_nothing(c: &Context) {
    if c.backend.name() != "oci" {
        println!("skipped: an agent of its own is made for oci only");
        return;
    }
    let data = c.dir.path().join("data");
    let archive = super::support::workload_archive(c.dir.path()).unwrap();
    pullpiri_node_adapters::images::ImageStore::open(data.join("images")).unwrap().load(&archive).unwrap();
    let id: PodId = c.id("agent");
    let mut agent = start_agent(&data, &id, "go");
    assert_eq!(foreign_files(&id), Vec::<String>::new());
    agent.kill().unwrap();
    agent.wait().unwrap();
    // While no agent is there, the container goes on, logs and exits.
    std::fs::write(data.join("shared/go"), "").unwrap();
    let record = data.join("pods").join(&id.0).join("c/c/record.json");
    let ended = async {
        while !std::fs::read_to_string(&record).unwrap().contains("exited") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, ended).await.unwrap();

    let backend = Oci::new(pullpiri_node_adapters::oci::zygote::execute(), &data, &archive).await.unwrap();
    let runtime = backend.open().await;
    let seen = runtime.list().await.unwrap().into_iter().find(|p| p.id == id).unwrap();
    assert!(seen.sandbox_alive);
    assert_eq!(exit_of(&seen, "c").unwrap().code, 7);
    assert!(is_alive(pid_of(&seen, "other").unwrap()), "what ran goes on running");
    assert_eq!(seen.containers.iter().find(|c| c.name == "other").unwrap().attempt, 0);
    assert_eq!(backend.log(&id, "c").await, ["stdout before", "stdout after"]);

    // An agent and its supervisor may also die together: the next agent cleans up.
    assert!(backend.kill_sandbox(&runtime, &id).await);
    drop(runtime);
    let runtime = backend.open().await;
    let seen = runtime.list().await.unwrap().into_iter().find(|p| p.id == id).unwrap();
    assert!(!seen.sandbox_alive);
    assert_eq!(exit_of(&seen, "c").unwrap().code, 7);
    assert_eq!(exit_of(&seen, "other").unwrap().code, 255);
    runtime.remove_pod(&id).await.unwrap();
    assert_eq!(backend.leftovers(&id), Vec::<String>::new());
}

async fn removal_leaves_nothing(c: &Context) {
    let mut one = container("c", &["forever"]);
    one.limits.memory_bytes = Some(64 << 20);
    let pod = c.pod("a", NetworkMode::Own, vec![one, container("d", &["write", "/big", "x", "exit", "1"])]);
    c.runtime.run_pod(&pod).await.unwrap();
    c.exit(&pod.id, "d").await;
    c.runtime.start_container(&pod.id, &container("d", &["forever"]), 1).await.unwrap();
    let seen = c.observed(&pod.id).await.unwrap();
    let pids = [pid_of(&seen, "c").unwrap(), pid_of(&seen, "d").unwrap()];
    assert_ne!(c.backend.leftovers(&pod.id), Vec::<String>::new(), "the check sees what is there");
    c.runtime.remove_pod(&pod.id).await.unwrap();
    assert!(pids.iter().all(|p| !is_alive(*p)));
    assert!(c.observed(&pod.id).await.is_none());
    assert_eq!(c.backend.leftovers(&pod.id), Vec::<String>::new());
}

/// Bytes of all files in a pod's log directory.
fn logged_bytes(c: &Context, pod: &PodId) -> u64 {
    let entries = std::fs::read_dir(c.backend.log_dir(pod)).unwrap();
    entries.map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

/// Waits until those pods' logs, and no others of these, are there: old ones are deleted in the background.
async fn logs_left(c: &Context, pods: &[PodId], expected: &[&PodId]) {
    let left = || -> Vec<&PodId> { pods.iter().filter(|pod| c.backend.log_dir(pod).exists()).collect() };
    let wait = async {
        while left() != expected {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(DEADLINE, wait).await.is_ok(), "{:?} isn't {expected:?}", left());
}

async fn logs_of_removed_pods_are_kept_for_a_while(c: &Context) {
    let keep = |pods| Narrow { retention: LogRetention { pods, bytes: 1 << 20 }, ..Narrow::default() };
    let narrow = Context {
        backend: c.backend.clone(),
        runtime: c.backend.open_narrow(keep(2)).await,
        case: c.case,
        dir: tempfile::tempdir().unwrap(),
    };
    let lives = narrow.run("lives", &["say", "alive", "forever"]).await;
    narrow.logged(&lives.id, "c", "stdout alive").await;
    let mut pods = vec![lives.id.clone()];
    for name in ["one", "two", "three"] {
        let pod = narrow.run(name, &["say", name, "exit", "0"]).await;
        narrow.exit(&pod.id, "c").await;
        narrow.runtime.remove_pod(&pod.id).await.unwrap();
        pods.push(pod.id);
    }
    logs_left(c, &pods, &[&pods[0], &pods[2], &pods[3]]).await;
    // What another agent left is known by the next, which also finds the living one.
    let second = Context {
        backend: c.backend.clone(),
        runtime: c.backend.open_narrow(keep(1)).await,
        case: c.case,
        dir: tempfile::tempdir().unwrap(),
    };
    assert!(second.observed(&lives.id).await.is_some());
    logs_left(c, &pods, &[&pods[0], &pods[3]]).await;
    assert_eq!(c.backend.log(&pods[0], "c").await[0], "stdout alive");
    assert_eq!(c.backend.log(&pods[3], "c").await, ["stdout three"]);
    // One agent at a time: the one before would mourn what this one removes.
    drop(narrow);
    // Run again, it is no removed pod any more.
    let again = second.run("three", &["say", "again", "forever"]).await;
    second.logged(&again.id, "c", "stdout again").await;
    second.runtime.remove_pod(&lives.id).await.unwrap();
    let other = second.run("other", &["say", "other", "exit", "0"]).await;
    second.exit(&other.id, "c").await;
    second.runtime.remove_pod(&other.id).await.unwrap();
    pods.push(other.id);
    logs_left(c, &pods, &[&pods[3], &pods[4]]).await;
    second.runtime.remove_pod(&again.id).await.unwrap();
}

async fn a_flood_of_output_leaves_a_bounded_log(c: &Context) {
    const LIMIT: u64 = 64 << 10;
    let narrow = Context {
        backend: c.backend.clone(),
        runtime: c.backend.open_narrow(Narrow { log_max_bytes: LIMIT, ..Narrow::default() }).await,
        case: c.case,
        dir: tempfile::tempdir().unwrap(),
    };
    // 2 MB in all, twice, since a restart appends.
    let pod = narrow.run("a", &["flood", "20000", "say", "the end", "exit", "0"]).await;
    narrow.exit(&pod.id, "c").await;
    let again = narrow.runtime.start_container(&pod.id, &pod.containers[0], 1).await.unwrap();
    assert_eq!(again.attempt, 1);
    narrow.until(&pod.id, "the second exit", |p| p.containers[0].attempt == 1 && exit_of(p, "c").is_some()).await;
    narrow.logged(&pod.id, "c", "stdout the end").await;
    let bytes = logged_bytes(c, &pod.id);
    // Three files at most, and a podman monitor looks after a buffer of 8 KiB has been written.
    assert!(bytes <= 3 * LIMIT + (16 << 10), "{bytes} B");
    assert!(bytes > 0);
    narrow.runtime.remove_pod(&pod.id).await.unwrap();
}

async fn a_frozen_sandbox_holds_nothing_up(c: &Context) {
    let narrow = Narrow { answer_deadline: Duration::from_millis(200), ..Narrow::default() };
    let hasty = Context {
        backend: c.backend.clone(),
        runtime: c.backend.open_narrow(narrow).await,
        case: c.case,
        dir: tempfile::tempdir().unwrap(),
    };
    let mut pids = Vec::new();
    for suffix in ["stopped", "removed", "adopted"] {
        let pod = hasty.run(suffix, &["say", "up", "forever"]).await;
        hasty.logged(&pod.id, "c", "stdout up").await;
        if !c.backend.freeze_sandbox(&pod.id) {
            println!("skipped: this adapter's pods have no sandbox of their own");
            hasty.runtime.remove_pod(&pod.id).await.unwrap();
            return;
        }
        pids.push((pod.id.clone(), pid_of(&hasty.observed(&pod.id).await.unwrap(), "c").unwrap()));
    }
    let [stopped, removed, adopted] = pids.as_slice() else { panic!("three pods") };
    let in_time = async {
        hasty.runtime.stop_pod(&stopped.0, Duration::ZERO).await.unwrap();
        assert!(!is_alive(stopped.1), "nothing runs once it is stopped");
        let seen = hasty.observed(&stopped.0).await.unwrap();
        assert_eq!(exit_of(&seen, "c").unwrap().code, 255, "nobody saw it end");
        hasty.runtime.remove_pod(&stopped.0).await.unwrap();
        hasty.runtime.remove_pod(&removed.0).await.unwrap();
        // An agent that comes later has never been greeted.
        drop(hasty);
        let next = c.backend.open_narrow(narrow).await;
        next.remove_pod(&adopted.0).await.unwrap();
    };
    tokio::time::timeout(DEADLINE, in_time).await.unwrap();
    for (pod, pid) in &pids {
        assert!(!is_alive(*pid));
        assert_eq!(c.backend.leftovers(pod), Vec::<String>::new());
    }
}
