//! What `pullpiri up` costs when nothing happens: memory without workloads, CPU with twenty idle ones.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use pullpiri_e2e::process::{Pullpiri, free_address};
use pullpiri_e2e::{E2eError, workload};

use crate::Bench;
use crate::table::{median, to_f64};

const WORKLOADS: usize = 20;
const SETTLE: Duration = Duration::from_secs(10);
const SPAN: Duration = Duration::from_secs(30);

pub(crate) async fn measure(bench: &mut Bench) -> Result<(), E2eError> {
    let data_dir = bench.path("idle");
    let archive = workload::archive(bench.folder.path())?;
    workload::load(&archive, &data_dir)?;
    let arguments = ["--node", "bench", "--runtime", "oci", "--stop-workloads"];
    let mut server = Pullpiri::start("up", &data_dir, free_address()?, &arguments)?;
    let endpoint = server.ready().await?;
    tokio::time::sleep(SETTLE).await;
    let mut samples = Vec::new();
    for _ in 0..5 {
        samples.push(megabytes(tree(server.pid()).iter().map(|pid| pss_kib(*pid)).sum()));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    bench.table.at_most("idle: PSS of pullpiri up without workloads, all its processes", median(&samples), "MB", 40.0);
    let mut connection = endpoint.connect().await?;
    let path = "/apis/pullpiri.io/v1alpha1/namespaces/default/modelinstances";
    for count in 0..WORKLOADS {
        let object = workload::instance(&format!("idle-{count}"), "bench", "oci", &["idle"]);
        let body = Bytes::from(object.to_string());
        let answer = connection.request(Method::POST, path, "application/json", body).await?;
        if !answer.status.is_success() {
            return Err(E2eError::failed("creating an idle workload", String::from_utf8_lossy(&answer.body)));
        }
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let list = connection.get(path).await?.json();
        let running =
            list["items"].as_array().into_iter().flatten().filter(|item| item["status"]["phase"] == "Running").count();
        if running == WORKLOADS {
            break;
        }
        if Instant::now() >= deadline {
            return Err(E2eError::failed("starting the idle workloads", format!("{running} of {WORKLOADS} run")));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(SETTLE).await;
    let supervisors = supervisors();
    let pss: Vec<f64> = supervisors.iter().map(|pid| megabytes(pss_kib(*pid))).collect();
    bench.table.at_most("idle: PSS of a pod's supervisor", median(&pss), "MB", 1.0);
    let mut watched = tree(server.pid());
    watched.extend(supervisors);
    watched.sort_unstable();
    watched.dedup();
    let ticks = |pids: &[u32]| pids.iter().map(|pid| cpu_ticks(*pid)).sum::<u64>();
    let (before, began) = (ticks(&watched), Instant::now());
    tokio::time::sleep(SPAN).await;
    // Linux reports CPU time in hundredths of a second (USER_HZ).
    let used = to_f64(ticks(&watched).saturating_sub(before)) / 100.0;
    let share = 100.0 * used / began.elapsed().as_secs_f64();
    bench.table.at_most("idle: CPU with 20 idle workloads, supervisors included", share, "% of a core", 0.5);
    server.stop();
    Ok(())
}

/// The process and everything below it.
pub(crate) fn tree(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut at = 0;
    while let Some(pid) = found.get(at).copied() {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        found.extend(children.split_whitespace().filter_map(|text| text.parse::<u32>().ok()));
        at += 1;
    }
    found.retain(|pid| name(*pid) != "demo-service");
    found
}

/// Every pod supervisor on this machine, by its process name.
fn supervisors() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| name(*pid) == "pullpiri-pod")
        .collect()
}

fn name(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

fn megabytes(kib: u64) -> f64 {
    to_f64(kib) * 1024.0 / 1e6
}

pub(crate) fn pss_kib(pid: u32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    rollup.lines().find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// User and system time so far, in hundredths of a second (USER_HZ).
pub(crate) fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // After the name in parentheses: state is field 3, utime 14, stime 15 (proc_pid_stat(5)).
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    [11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<u64>().ok()).sum()
}
