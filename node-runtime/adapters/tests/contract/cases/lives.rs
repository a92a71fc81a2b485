//! Adapters, agents and sandboxes that end before their pods; what stays of removed pods.

use std::time::Duration;

use futures::StreamExt;
use pullpiri_node_adapters::{LogRetention, RuntimeError, RuntimeEvent};
use pullpiri_node_core::runtime::{ContainerStateObserved, NetworkMode, PodId};
use pullpiri_node_host::socket::{Received, SeqPacket};

use crate::oci::{Oci, foreign_files, is_alive, start_agent, supervisors};
use crate::support::container;
use crate::{Backend, Context, DEADLINE, Narrow, exit_of, pid_of};

pub async fn many_pods_at_once(c: &Context) {
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

pub async fn a_reopened_adapter_finds_its_pods(c: &Context) {
    let pod = c.pod("a", NetworkMode::Own, vec![container("c", &["trap", "9"]), container("d", &["exit", "6"])]);
    c.start(&pod).await;
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
    if c.backend.restarts() {
        let again = second.runtime.start_container(&pod.id, &container("d", &["exit", "8"]), 1).await.unwrap();
        assert_eq!(again.attempt, 1);
        second.until(&pod.id, "the restarted container's exit", |p| exit_of(p, "d").is_some_and(|e| e.code == 8)).await;
    }
    second.runtime.remove_pod(&pod.id).await.unwrap();
    assert_eq!(c.backend.leftovers(&pod.id), Vec::<String>::new());
}

pub async fn a_pod_that_cannot_be_cleared_keeps_no_other(c: &Context) {
    if c.backend.name() != "oci" {
        println!("skipped: only oci has directories of its own");
        return;
    }
    let data = c.dir.path().join("data");
    let archive = crate::support::workload_archive(c.dir.path()).unwrap();
    let backend = Oci::new(pullpiri_node_adapters::oci::zygote::execute(), &data, &archive).await.unwrap();
    let runtime = backend.open().await;
    runtime.load_image(&archive).await.unwrap();
    let spec = |suffix: &str| c.pod(suffix, NetworkMode::Own, vec![container("c", &["forever"])]);
    let (good, stuck) = (spec("good"), spec("stuck"));
    runtime.run_pod(&good).await.unwrap();
    drop(runtime);
    // Half made, and with something in it that isn't to be removed; and one whose description can't be read.
    let busy = data.join("pods").join(&stuck.id.0).join("busy");
    std::fs::create_dir_all(&busy).unwrap();
    std::fs::create_dir_all(data.join("pods").join(&c.id("unreadable").0).join("pod.json")).unwrap();
    pullpiri_node_host::mount::tmpfs(&busy, 0o700).unwrap();
    let second = Context {
        backend: c.backend.clone(),
        runtime: backend.open().await,
        case: c.case,
        dir: tempfile::tempdir().unwrap(),
    };
    let there = second.runtime.list().await.unwrap();
    let refused = second.runtime.run_pod(&stuck).await;
    pullpiri_node_host::mount::unmount(&busy).unwrap();
    assert_eq!(there.iter().map(|pod| &pod.id).collect::<Vec<_>>(), [&good.id]);
    assert!(pid_of(&there[0], "c").is_some());
    assert!(matches!(refused, Err(RuntimeError::Failed { .. })), "{refused:?}");
    // Once it can be cleared, it is.
    second.runtime.run_pod(&stuck).await.unwrap();
    for pod in [good, stuck] {
        second.runtime.remove_pod(&pod.id).await.unwrap();
        assert_eq!(backend.leftovers(&pod.id), Vec::<String>::new());
    }
}

pub async fn a_killed_sandbox_takes_its_containers_with_it(c: &Context) {
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

pub async fn an_agent_that_was_killed_loses_nothing(c: &Context) {
    if c.backend.name() != "oci" {
        println!("skipped: an agent of its own is made for oci only");
        return;
    }
    let data = c.dir.path().join("data");
    let archive = crate::support::workload_archive(c.dir.path()).unwrap();
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

pub async fn what_runs_from_another_data_directory_runs_once(c: &Context) {
    if c.backend.name() != "oci" {
        println!("skipped: the others' pods aren't kept in a data directory");
        return;
    }
    let data = c.dir.path().join("data");
    let archive = crate::support::workload_archive(c.dir.path()).unwrap();
    pullpiri_node_adapters::images::ImageStore::open(data.join("images")).unwrap().load(&archive).unwrap();
    let pod = c.pod("a", NetworkMode::Own, vec![container("c", &["forever"])]);
    let backend = Oci::new(pullpiri_node_adapters::oci::zygote::execute(), &data, &archive).await.unwrap();
    let first = backend.open().await;
    let pid = pid_of(&first.run_pod(&pod).await.unwrap(), "c").unwrap();
    drop(first);
    for _ in 0..2 {
        let error = c.runtime.run_pod(&pod).await.unwrap_err();
        assert!(matches!(error, RuntimeError::Failed { .. }), "it is tried again: {error:?}");
        for part in [pid.to_string().as_str(), "--data-dir"] {
            assert!(error.to_string().contains(part), "{part} in {error}");
        }
        // Nor does who refused it clean up after the other.
        c.runtime.remove_pod(&pod.id).await.unwrap();
        assert!(is_alive(pid));
        assert_eq!(c.observed(&pod.id).await, None);
    }
    // Once nothing runs any more, it is run.
    let first = backend.open().await;
    assert_eq!(pid_of(&first.list().await.unwrap()[0], "c"), Some(pid), "it is still the first one's");
    first.remove_pod(&pod.id).await.unwrap();
    c.runtime.run_pod(&pod).await.unwrap();
    c.runtime.remove_pod(&pod.id).await.unwrap();
    assert_eq!(c.backend.leftovers(&pod.id), Vec::<String>::new());
}

pub async fn removal_leaves_nothing(c: &Context) {
    let mut one = container("c", &["forever"]);
    one.limits.memory_bytes = Some(64 << 20);
    let pod = c.pod("a", NetworkMode::Own, vec![one, container("d", &["write", "/big", "x", "exit", "1"])]);
    c.start(&pod).await;
    c.exit(&pod.id, "d").await;
    if c.backend.restarts() {
        c.runtime.start_container(&pod.id, &container("d", &["forever"]), 1).await.unwrap();
    }
    let seen = c.observed(&pod.id).await.unwrap();
    let pids: Vec<u32> = ["c", "d"].iter().filter_map(|name| pid_of(&seen, name)).collect();
    assert_eq!(pids.len(), if c.backend.restarts() { 2 } else { 1 });
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

pub async fn logs_of_removed_pods_are_kept_for_a_while(c: &Context) {
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

pub async fn a_flood_of_output_leaves_a_bounded_log(c: &Context) {
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

pub async fn a_frozen_sandbox_holds_nothing_up(c: &Context) {
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

/// The numbers of a process' descriptors.
fn descriptors(pid: i32) -> Vec<usize> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
}

/// How many descriptors a process may have, or `false` where that can't be said.
fn limit_descriptors(pid: i32, limit: usize) -> bool {
    let arguments = [format!("--pid={pid}"), format!("--nofile={limit}:")];
    std::process::Command::new("prlimit").args(arguments).status().is_ok_and(|status| status.success())
}

/// What a process has computed, in clock ticks.
fn ticks(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    fields.split_ascii_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum()
}

pub async fn a_sandbox_without_descriptors_goes_on(c: &Context) {
    let pod = c.pod("a", NetworkMode::Host, vec![container("c", &["trap", "9"]), container("d", &["exit", "6"])]);
    c.runtime.run_pod(&pod).await.unwrap();
    c.logged(&pod.id, "c", "stdout trapping").await;
    c.exit(&pod.id, "d").await;
    let Some(draft) = c.backend.record_draft(&pod.id, "c") else {
        println!("skipped: this adapter's pods have no sandbox of their own");
        return;
    };
    let dir = draft.ancestors().nth(3).unwrap().to_owned();
    let [supervisor] = supervisors(&pod.id)[..] else { panic!("one supervisor") };
    // Connections, until there is no gap in its numbers: then a limit leaves none for another.
    let greeted = |client: &SeqPacket| matches!(client.receive(), Ok(Received::Message(_)));
    let mut clients = Vec::new();
    while *descriptors(supervisor).iter().max().unwrap() >= descriptors(supervisor).len() {
        clients.push(SeqPacket::connect(&dir, "ctl.sock").unwrap());
        assert!(clients.last().is_some_and(greeted));
    }
    if !limit_descriptors(supervisor, descriptors(supervisor).len()) {
        println!("skipped: no prlimit");
        return;
    }
    let waiting = SeqPacket::connect(&dir, "ctl.sock").unwrap();
    // The agent is served meanwhile, by the connection that it has.
    let again = container("d", &["exit", "7"]);
    let refused = c.runtime.start_container(&pod.id, &again, 1).await.unwrap_err();
    assert!(matches!(refused, RuntimeError::Failed { .. }), "{refused}");
    let (begin, before) = (std::time::Instant::now(), ticks(supervisor));
    while begin.elapsed() < Duration::from_millis(500) {
        assert!(ticks(supervisor) < before + 10, "it turns in circles");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(is_alive(pid_of(&c.observed(&pod.id).await.unwrap(), "c").unwrap()));
    assert_eq!(supervisors(&pod.id), [supervisor]);
    // Who waits is heard once there are descriptors again.
    assert!(limit_descriptors(supervisor, 64));
    let heard = tokio::task::spawn_blocking(move || greeted(&waiting));
    assert!(tokio::time::timeout(DEADLINE, heard).await.unwrap().unwrap());
    c.runtime.start_container(&pod.id, &again, 1).await.unwrap();
    tokio::time::timeout(DEADLINE, c.runtime.stop_pod(&pod.id, Duration::from_secs(600))).await.unwrap().unwrap();
    assert_eq!(exit_of(&c.observed(&pod.id).await.unwrap(), "c").unwrap().code, 9);
    c.runtime.remove_pod(&pod.id).await.unwrap();
}
