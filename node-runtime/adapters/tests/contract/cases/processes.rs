//! What runs, how it ends, and who notices.

use std::time::Duration;

use futures::StreamExt;
use pullpiri_node_adapters::RuntimeEvent;
use pullpiri_node_core::runtime::{ContainerStateObserved, NetworkMode, PodSpec};

use crate::oci::is_alive;
use crate::support::{IMAGE, container};
use crate::{Context, DEADLINE, exit_of, pid_of};

pub async fn runs_logs_and_reports_the_exit(c: &Context) {
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
    // Of images that are the kubelet's the adapter knows nothing.
    if let Some(image) = c.runtime.image(IMAGE).await.unwrap() {
        assert_eq!(seen.containers[0].image_id, image);
    }
}

pub async fn environment_arguments_directory_and_host_name(c: &Context) {
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

pub async fn signals_and_descriptors_are_clean(c: &Context) {
    let pod = c.run("a", &["signals", "descriptors"]).await;
    let log = c.output(&pod.id, "c").await;
    assert_eq!(log, ["stdout signals: SIGCHLD open, SIGPIPE default", "stdout fd 0", "stdout fd 1", "stdout fd 2"]);
}

pub async fn restarts_in_the_same_sandbox(c: &Context) {
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

pub async fn a_death_is_noticed_by_event(c: &Context) {
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

pub async fn stops_with_the_stop_signal(c: &Context) {
    let pod = c.run("a", &["trap", "42"]).await;
    c.logged(&pod.id, "c", "stdout trapping").await;
    tokio::time::timeout(DEADLINE, c.runtime.stop_pod(&pod.id, Duration::from_secs(600))).await.unwrap().unwrap();
    let seen = c.observed(&pod.id).await.unwrap();
    assert_eq!(exit_of(&seen, "c").unwrap().code, 42);
    // A kubelet's logs go with the Pod, and a stopped Pod is gone.
    if c.backend.name() != "kubernetes" {
        assert!(c.backend.log(&pod.id, "c").await.contains(&"stdout caught 15".to_owned()));
    }
}

pub async fn stops_by_force_after_the_grace(c: &Context) {
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

/// Neither sooner nor later: podman's own default is 10 s.
pub async fn the_grace_is_as_long_as_it_was_given(c: &Context) {
    let short = c.run("short", &["linger", "5"]).await;
    let long = c.run("long", &["linger", "12"]).await;
    let stop = async |pod: &PodSpec, grace| {
        c.logged(&pod.id, "c", "stdout lingering").await;
        tokio::time::timeout(DEADLINE, c.runtime.stop_pod(&pod.id, Duration::from_secs(grace))).await.unwrap().unwrap();
        exit_of(&c.observed(&pod.id).await.unwrap(), "c").unwrap().code
    };
    assert_eq!(tokio::join!(stop(&short, 1), stop(&long, 60)), (137, 0));
}
