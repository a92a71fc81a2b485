//! The podman adapter against a real podman.

// Tests, but clippy knows tests by their attribute, which these functions don't have.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/service.rs"]
mod service;
#[path = "support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use pullpiri_node_adapters::podman::PodmanRuntime;
use pullpiri_node_adapters::{Runtime, RuntimeError, RuntimeEvent};
use pullpiri_node_core::runtime::{
    ContainerSpec, ContainerStateObserved, Exit, Limits, Mount, MountSource, NetworkMode, PodId, PodObserved, Security,
};
use service::PodmanService;
use support::{IMAGE, container, pod};

const LIMIT: Duration = Duration::from_secs(60);

struct Rig {
    // Dropped first: its containers are in the directory.
    service: PodmanService,
    runtime: PodmanRuntime,
    dir: tempfile::TempDir,
}

async fn rig() -> Option<Rig> {
    let dir = tempfile::tempdir().unwrap();
    let archive = match support::workload_archive(dir.path()) {
        Ok(archive) => archive,
        Err(reason) => return skip(&reason),
    };
    let service = match PodmanService::start(dir.path()) {
        Ok(service) => service,
        Err(reason) => return skip(&reason),
    };
    let runtime = PodmanRuntime::new(&service.socket(), &dir.path().join("data"));
    assert_eq!(runtime.load_image(&archive).await.unwrap(), [IMAGE]);
    Some(Rig { service, runtime, dir })
}

fn skip(reason: &str) -> Option<Rig> {
    println!("skipped: {reason}");
    None
}

async fn read_until(path: &Path, text: &str) -> String {
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        let log = std::fs::read_to_string(path).unwrap_or_default();
        if log.contains(text) {
            return log;
        }
        assert!(tokio::time::Instant::now() < deadline, "{} never says {text:?}:\n{log}", path.display());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn wait_for_exit(events: &mut BoxStream<'static, RuntimeEvent>, name: &str, attempt: u32) -> Exit {
    let exit = async {
        while let Some(event) = events.next().await {
            if let RuntimeEvent::Container { container, .. } = event
                && container.name == name
                && container.attempt == attempt
                && let ContainerStateObserved::Exited(exit) = container.state
            {
                return exit;
            }
        }
        panic!("the events end");
    };
    tokio::time::timeout(LIMIT, exit).await.expect("the container ends")
}

fn only(mut pods: Vec<PodObserved>) -> PodObserved {
    assert_eq!(pods.len(), 1, "{pods:?}");
    pods.remove(0)
}

fn pid(pod: &PodObserved, name: &str) -> Option<u32> {
    pod.containers.iter().find(|container| container.name == name).and_then(|container| match container.state {
        ContainerStateObserved::Running { pid, .. } => Some(pid),
        _ => None,
    })
}

#[tokio::test]
async fn a_pod_lives_restarts_and_goes() {
    let Some(mut rig) = rig().await else { return };
    let runtime = rig.runtime.clone();
    assert!(!runtime.probe().await.unwrap().version.is_empty());
    assert_eq!(runtime.list().await.unwrap(), []);
    assert!(runtime.image(IMAGE).await.unwrap().unwrap().starts_with("sha256:"));
    assert_eq!(runtime.image("localhost/none:1").await.unwrap(), None);

    let mut events = runtime.events();
    assert_eq!(tokio::time::timeout(LIMIT, events.next()).await.unwrap(), Some(RuntimeEvent::Resync));
    let spec = pod(
        "11",
        NetworkMode::Own,
        vec![container("keeps", &["trap", "7"]), container("ends", &["say", "one", "exit", "3"])],
    );
    let begun = runtime.run_pod(&spec).await.unwrap();
    assert!(begun.sandbox_alive && begun.containers.len() == 2, "{begun:?}");
    let exit = wait_for_exit(&mut events, "ends", 0).await;
    assert_eq!((exit.code, exit.oom_killed), (3, false));
    assert!(exit.finished_at >= exit.started_at);

    // Again is nothing: one ended, so the pod isn't whole; but a pod that is whole stays.
    let again = runtime.start_container(&spec.id, &spec.containers[1], 1).await.unwrap();
    assert_eq!(again.attempt, 1);
    wait_for_exit(&mut events, "ends", 1).await;
    let log = read_until(&runtime.log_path(&spec.id, "ends"), "one").await;
    let log = if log.matches("one").count() == 2 {
        log
    } else {
        read_until(&runtime.log_path(&spec.id, "ends"), "one\n").await
    };
    assert_eq!(log.matches(" stdout F one").count(), 2, "appended to:\n{log}");

    // Another adapter on the same data finds it; one of another node doesn't.
    read_until(&runtime.log_path(&spec.id, "keeps"), "trapping").await;
    let adopted = only(PodmanRuntime::new(&rig.service.socket(), &rig.dir.path().join("data")).list().await.unwrap());
    assert_eq!((adopted.id.0.as_str(), adopted.hash.as_str(), adopted.sandbox_alive), ("11", "h1", true));
    assert_eq!(pid(&adopted, "keeps"), pid(&begun, "keeps"));
    assert_eq!(adopted.containers.iter().map(|c| c.attempt).collect::<Vec<_>>(), [1, 0], "by name: ends, keeps");
    let stranger = PodmanRuntime::new(&rig.service.socket(), &rig.dir.path().join("other"));
    assert_eq!(stranger.list().await.unwrap(), []);

    // The service is restarted: containers go on, and the listener is told to look again.
    rig.service.restart().unwrap();
    let resync = async { while events.next().await != Some(RuntimeEvent::Resync) {} };
    tokio::time::timeout(LIMIT, resync).await.expect("told to look again");
    assert_eq!(pid(&only(runtime.list().await.unwrap()), "keeps"), pid(&begun, "keeps"));

    runtime.stop_pod(&spec.id, Duration::from_secs(30)).await.unwrap();
    let stopped = only(runtime.list().await.unwrap());
    let keeps = stopped.containers.iter().find(|container| container.name == "keeps").unwrap();
    assert!(matches!(&keeps.state, ContainerStateObserved::Exited(exit) if exit.code == 7), "{keeps:?}");
    runtime.stop_pod(&spec.id, Duration::ZERO).await.unwrap();

    runtime.remove_pod(&spec.id).await.unwrap();
    runtime.remove_pod(&spec.id).await.unwrap();
    assert_eq!(runtime.list().await.unwrap(), []);
    assert!(matches!(runtime.start_container(&spec.id, &spec.containers[0], 2).await, Err(RuntimeError::NoPod { .. })));
    assert!(runtime.log_path(&spec.id, "keeps").exists(), "logs stay");
}

#[tokio::test]
async fn a_container_gets_what_its_spec_says() {
    let Some(rig) = rig().await else { return };
    let shared: PathBuf = rig.dir.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("file"), "from the host\n").unwrap();
    let spec = pod(
        "22",
        NetworkMode::Host,
        vec![ContainerSpec {
            env: vec![("A".into(), "1".into()), ("A".into(), "2".into())],
            mounts: vec![
                Mount { source: MountSource::Bind(shared), target: "/shared".into(), read_only: true },
                Mount {
                    source: MountSource::Tmpfs { size_bytes: Some(1 << 20) },
                    target: "/ram".into(),
                    read_only: false,
                },
            ],
            limits: Limits {
                cpu_millis: Some(500),
                cpu_request_millis: Some(100),
                memory_bytes: Some(64 << 20),
                pids: Some(16),
                ..Limits::default()
            },
            security: Security { user: Some(1000), group: Some(1001), read_only_root: true, ..Security::default() },
            ..container(
                "x",
                &[
                    "env",
                    "id",
                    "host",
                    "cat",
                    "/shared/file",
                    "write",
                    "/shared/file",
                    "no",
                    "size",
                    "/ram",
                    "write",
                    "/x",
                    "no",
                    "say",
                    "done",
                    "forever",
                ],
            )
        }],
    );
    rig.runtime.run_pod(&spec).await.unwrap();
    let log = read_until(&rig.runtime.log_path(&spec.id, "x"), "forever").await;
    for expected in [
        " A=2\n",
        " FROM_IMAGE=yes\n",
        " uid=1000 gid=1001 ",
        " vehicle\n",
        " from the host\n",
        " write /shared/file: Read-only file system\n",
        " size /ram: 1048576\n",
        " write /x: Read-only file system\n",
    ] {
        assert!(log.contains(expected), "{expected:?} in\n{log}");
    }
    // What is whole is left as it is.
    let before = only(rig.runtime.list().await.unwrap());
    rig.runtime.run_pod(&spec).await.unwrap();
    assert_eq!(only(rig.runtime.list().await.unwrap()), before);
    // A signal's code; podman kills at once without a grace period.
    rig.runtime.stop_pod(&spec.id, Duration::ZERO).await.unwrap();
    let stopped = only(rig.runtime.list().await.unwrap());
    assert!(
        matches!(&stopped.containers[0].state, ContainerStateObserved::Exited(exit) if exit.code == 137),
        "{stopped:?}"
    );
}

#[tokio::test]
async fn containers_of_a_pod_share_its_network() {
    let Some(rig) = rig().await else { return };
    let spec = pod(
        "33",
        NetworkMode::Own,
        vec![container("server", &["serve", "7000", "forever"]), container("client", &["dial", "7000", "forever"])],
    );
    rig.runtime.run_pod(&spec).await.unwrap();
    let namespace = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    let pod = only(rig.runtime.list().await.unwrap());
    let (server, client) = (pid(&pod, "server").unwrap(), pid(&pod, "client").unwrap());
    assert_eq!(namespace(server), namespace(client));
    assert_ne!(namespace(server), namespace(std::process::id()));

    // The infra container dies: the sandbox is gone, and told so.
    let mut events = rig.runtime.events();
    assert_eq!(tokio::time::timeout(LIMIT, events.next()).await.unwrap(), Some(RuntimeEvent::Resync));
    let infra = rig.dir.path().join("runroot");
    assert!(infra.exists());
    kill_infra(&rig, &spec.id);
    let lost = async { while !matches!(events.next().await, Some(RuntimeEvent::Sandbox { .. })) {} };
    tokio::time::timeout(LIMIT, lost).await.expect("told of the sandbox");
    assert!(!only(rig.runtime.list().await.unwrap()).sandbox_alive);
    rig.runtime.remove_pod(&spec.id).await.unwrap();
    assert_eq!(rig.runtime.list().await.unwrap(), []);
    assert!(events.next().now_or_never().is_none_or(|event| event.is_some()), "the listener goes on");
}

/// Ends the pod's infra container as a crash would: by its pid, which podman's API tells.
fn kill_infra(rig: &Rig, id: &PodId) {
    let output = std::process::Command::new("curl")
        .args(["-s", "--unix-socket"])
        .arg(rig.service.socket())
        .arg(format!("http://podman/v4.0.0/libpod/pods/pullpiri-{id}/json"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let after = text.split("\"InfraContainerID\":\"").nth(1).unwrap();
    let infra = &after[..after.find('"').unwrap()];
    let killed = std::process::Command::new("curl")
        .args(["-s", "-X", "POST", "--unix-socket"])
        .arg(rig.service.socket())
        .arg(format!("http://podman/v4.0.0/libpod/containers/{infra}/kill?signal=KILL"))
        .status()
        .unwrap();
    assert!(killed.success());
}

#[tokio::test]
async fn what_cannot_run_leaves_nothing() {
    let Some(rig) = rig().await else { return };
    let missing = pod(
        "44",
        NetworkMode::Own,
        vec![container("a", &["forever"]), ContainerSpec { image: "localhost/none:1".into(), ..container("b", &[]) }],
    );
    let error = rig.runtime.run_pod(&missing).await.unwrap_err();
    assert!(matches!(&error, RuntimeError::ImageMissing { image, .. } if image == "localhost/none:1"), "{error}");
    assert!(error.to_string().contains("`podman load"), "{error}");
    assert_eq!(rig.runtime.list().await.unwrap(), []);

    let no_program =
        pod("55", NetworkMode::Host, vec![ContainerSpec { command: vec!["/none".into()], ..container("a", &[]) }]);
    let error = rig.runtime.run_pod(&no_program).await.unwrap_err();
    assert!(matches!(&error, RuntimeError::Refused { .. }), "{error}");
    let mut no_capability = pod("66", NetworkMode::Host, vec![container("a", &["forever"])]);
    no_capability.containers[0].security.add_capabilities = vec!["FLY".into()];
    let error = rig.runtime.run_pod(&no_capability).await.unwrap_err();
    assert!(matches!(&error, RuntimeError::Refused { .. }), "{error}");
    assert_eq!(rig.runtime.list().await.unwrap(), []);

    let nonsense = rig.dir.path().join("nonsense.tar");
    std::fs::write(&nonsense, "nonsense").unwrap();
    let error = rig.runtime.load_image(&nonsense).await.unwrap_err();
    assert!(error.to_string().contains("nonsense.tar"), "{error}");

    let nowhere = PodmanRuntime::new(Path::new("/nonexistent/podman.sock"), rig.dir.path());
    for error in [nowhere.probe().await.unwrap_err(), nowhere.list().await.unwrap_err()] {
        assert!(matches!(&error, RuntimeError::Unavailable { .. }), "{error}");
    }
}
