//! How long the `oci` adapter takes: from the call of run_pod to the container's first instruction, from a kill to its notice and to the
//! restarted program's first instruction; and how much memory zygote and supervisors hold. Needs root.
//!
//! `cargo run --release -p pullpiri-node-adapters --example oci_latency [runs]`

#[path = "../tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use pullpiri_node_adapters::oci::{self, OciOptions, OciRuntime};
use pullpiri_node_adapters::{Runtime, RuntimeEvent};
use pullpiri_node_core::runtime::{ContainerStateObserved, NetworkMode};
use pullpiri_node_host::process::pss_bytes;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    oci::supervisor_main();
    let zygote = oci::zygote::fork()?;
    tokio::runtime::Runtime::new()?.block_on(measure(zygote))
}

fn monotonic_ns() -> i64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    time.map_or(0, |t| t.tv_sec() * 1_000_000_000 + t.tv_nsec())
}

/// The last time that a workload logged.
async fn logged_time(path: &Path, nth: usize) -> Result<i64, Failure> {
    for _ in 0..2_000 {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if let Some(line) = text.lines().filter(|l| l.contains(" F time ")).nth(nth) {
            return Ok(line.rsplit(' ').next().unwrap_or_default().parse()?);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Err("the workload logged no time".into())
}

fn report(what: &str, mut values: Vec<i64>) {
    values.sort_unstable();
    let at = |q: usize| values.get(values.len() * q / 100).copied().unwrap_or(0) / 1_000;
    println!("{what:<44} median {:>7} us   p90 {:>7} us   min {:>7} us", at(50), at(90), at(0));
}

async fn measure(zygote: oci::Zygote) -> Result<(), Failure> {
    let runs: usize = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(30);
    let dir = tempfile::tempdir()?;
    let archive = support::workload_archive(dir.path())?;
    let runtime = OciRuntime::open(&dir.path().join("data"), zygote, OciOptions::default()).await?;
    runtime.load_image(&archive).await?;
    let mut events = runtime.events();

    for (name, network) in [("host network", NetworkMode::Host), ("own network", NetworkMode::Own)] {
        let (mut first, mut returned, mut removed) = (Vec::new(), Vec::new(), Vec::new());
        for run in 0..runs {
            let pod = support::pod(
                &format!("latency-{}-{network:?}-{run}", std::process::id()),
                network.clone(),
                vec![support::container("c", &["time", "forever"])],
            );
            let start = monotonic_ns();
            runtime.run_pod(&pod).await?;
            returned.push(monotonic_ns() - start);
            first.push(logged_time(&runtime.log_path(&pod.id, "c"), 0).await? - start);
            let start = monotonic_ns();
            runtime.remove_pod(&pod.id).await?;
            removed.push(monotonic_ns() - start);
        }
        report(&format!("run_pod -> first instruction, {name}"), first);
        report(&format!("run_pod returns, {name}"), returned);
        report(&format!("remove_pod, {name}"), removed);
    }

    let pod = support::pod(
        &format!("latency-{}-restart", std::process::id()),
        NetworkMode::Host,
        vec![support::container("c", &["time", "forever"])],
    );
    let mut pid = match runtime.run_pod(&pod).await?.containers.first().map(|c| c.state.clone()) {
        Some(ContainerStateObserved::Running { pid, .. }) => pid,
        other => return Err(format!("not running: {other:?}").into()),
    };
    logged_time(&runtime.log_path(&pod.id, "c"), 0).await?;
    let container = pod.containers.first().ok_or("no container")?;
    let (mut noticed, mut restarted) = (Vec::new(), Vec::new());
    for attempt in 1..=u32::try_from(runs)? {
        let start = monotonic_ns();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(pid)?), nix::sys::signal::Signal::SIGKILL)?;
        loop {
            if let Some(RuntimeEvent::Container { container, .. }) = events.next().await
                && matches!(container.state, ContainerStateObserved::Exited(_))
                && container.attempt + 1 == attempt
                && container.container_id.contains("restart")
            {
                break;
            }
        }
        noticed.push(monotonic_ns() - start);
        let again = runtime.start_container(&pod.id, container, attempt).await?;
        restarted.push(logged_time(&runtime.log_path(&pod.id, "c"), usize::try_from(attempt)?).await? - start);
        if let ContainerStateObserved::Running { pid: next, .. } = again.state {
            pid = next;
        }
    }
    report("killed -> noticed", noticed);
    report("killed -> restarted, first instruction", restarted);

    let (zygote, supervisors) = runtime.process_ids();
    println!("zygote PSS {} KiB", pss_bytes(zygote)? / 1024);
    for pid in supervisors {
        println!("supervisor PSS {} KiB", pss_bytes(pid)? / 1024);
    }
    runtime.remove_pod(&pod.id).await?;
    Ok(())
}
