//! Real time: how soon a change of a task's declaration is what the kernel has, how soon somebody else's is undone, and how late a
//! managed container's thread wakes beside CPU hogs, against an unmanaged one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use pullpiri_e2e::endpoint::Connection;
use pullpiri_e2e::process::{self, Pullpiri, free_address};
use pullpiri_e2e::{E2eError, wait_for, workload};
use pullpiri_node_core::realtime::{Given, Policy};
use pullpiri_node_host::cgroup::{Cgroups, DEFAULT_ROOT};
use pullpiri_node_host::sched::{self, RtGroups};
use serde_json::{Value, json};

use crate::Bench;
use crate::table::{median, to_f64};

const INSTANCES: &str = "/apis/pullpiri.io/v1alpha1/namespaces/default/modelinstances";
const LIMIT: Duration = Duration::from_secs(30);
const IMAGE: &str = "localhost/wake:1";
/// Changes of one declaration, and repairs of one drift.
const CHANGES: usize = 100;
const DRIFTS: usize = 20;
/// Of each kind, alternated; a second to settle, then so many wake-ups a millisecond apart.
const RUNS: usize = 5;
const WAKES: usize = 4000;
const HOGS: usize = 4;

pub(crate) async fn measure(bench: &mut Bench) -> Result<(), E2eError> {
    let data_dir = bench.path("realtime");
    let Some(archive) = archive(bench.folder.path())? else { return Ok(()) };
    workload::load(&archive, &data_dir)?;
    let arguments = ["--node", "bench", "--runtime", "oci", "--stop-workloads"];
    let mut server = Pullpiri::start("up", &data_dir, free_address()?, &arguments)?;
    let endpoint = server.ready().await?;
    let mut rig = Rig { connection: endpoint.connect().await?, data_dir };
    if let Some(cpus) = rig.cpus().await? {
        knobs(bench, &mut rig, &cpus).await?;
        wakes(bench, &mut rig, &cpus).await?;
    }
    server.stop();
    Ok(())
}

/// The image of the program beside this file; `None` without a compiler.
fn archive(folder: &Path) -> Result<Option<PathBuf>, E2eError> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin/bench/wake.c");
    let program = folder.join("wake");
    let compiled = Command::new("gcc").args(["-static", "-O1", "-o"]).arg(&program).arg(&source).status();
    if !compiled.is_ok_and(|status| status.success()) {
        eprintln!("skipped: gcc can't link {} statically", source.display());
        return Ok(None);
    }
    let archive = folder.join("wake.tar");
    let (file, output) = (format!("{}:/wake", program.display()), archive.display().to_string());
    let arguments = ["image", "build", "--reference", IMAGE, "--file", &file, "--output", &output, "--", "/wake"];
    process::run(&arguments)?;
    Ok(Some(archive))
}

struct Rig {
    connection: Connection,
    data_dir: PathBuf,
}

impl Rig {
    async fn request(&mut self, method: Method, path: &str, kind: &str, body: &Value) -> Result<Value, E2eError> {
        let answer = self.connection.request(method.clone(), path, kind, Bytes::from(body.to_string())).await?;
        if answer.status.is_success() {
            return Ok(answer.json());
        }
        Err(E2eError::failed(format!("{method} {path}"), String::from_utf8_lossy(&answer.body)))
    }

    /// The node's real-time CPUs, once it says; `None`, with the reason told, if it has no real time.
    async fn cpus(&mut self) -> Result<Option<Vec<u32>>, E2eError> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let node = self.connection.get("/apis/pullpiri.io/v1alpha1/noderuntimes/bench").await?.json();
            let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
            if let Some(realtime) = conditions.iter().find(|condition| condition["type"] == "RealTime") {
                let cpus = node["status"]["realtime"]["cpus"].as_str().and_then(|list| list.parse().ok());
                let cpus = cpus.map(|cpus: pullpiri_node_core::realtime::Cpus| cpus.0.into_iter().collect());
                if cpus.is_none() {
                    eprintln!("skipped: {}", realtime["message"]);
                }
                return Ok(cpus);
            }
            if Instant::now() >= deadline {
                return Err(E2eError::failed("waiting for the node", node));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn create(&mut self, name: &str, args: &[&str], tasks: Value) -> Result<Value, E2eError> {
        let mut object = workload::instance(name, "bench", "oci", args);
        object["spec"]["template"]["spec"]["containers"][0]["image"] = json!(IMAGE);
        object["spec"]["realtime"] = tasks;
        self.request(Method::POST, INSTANCES, "application/json", &object).await
    }

    /// The pid of the instance's container, once it runs and, if it has tasks, has their settings.
    async fn pid(&mut self, name: &str) -> Result<i32, E2eError> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let object = self.connection.get(&format!("{INSTANCES}/{name}")).await?.json();
            let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let given = conditions.iter().all(|c| c["type"] != "RealTime" || c["status"] == "True");
            let pid = object["status"]["containers"][0]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
            if let Some(pid) = pid.filter(|_| given) {
                return Ok(pid);
            }
            if Instant::now() >= deadline {
                return Err(E2eError::failed("waiting for an instance", object));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn remove(&mut self, name: &str) -> Result<(), E2eError> {
        let path = format!("{INSTANCES}/{name}");
        self.request(Method::DELETE, &path, "application/json", &json!({})).await?;
        let deadline = Instant::now() + LIMIT;
        while self.connection.get(&path).await?.status.is_success() {
            if Instant::now() >= deadline {
                return Err(E2eError::failed("removing an instance", name));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }
}

/// The first thread of the container, `wcet` of every 10 ms.
fn task(priority: u32, cpu: u32, wcet_ns: u64) -> Value {
    json!([{
        "name": "wake", "container": "demo", "policy": "FIFO", "priority": priority, "cpu": cpu,
        "wcetNs": wcet_ns, "periodNs": 10_000_000, "deadlineNs": 10_000_000, "responseTimeNs": wcet_ns,
    }])
}

/// Whether the kernel has all of it: policy, priority, CPU, and the group's budget where there are budgets. One that becomes smaller is lowered later.
fn is_given(pid: i32, priority: u32, cpu: u32, budget_us: u64, budgets: Option<&(RtGroups, String)>) -> bool {
    let settings = sched::settings(pid).is_ok_and(|now| now.policy == Policy::Fifo { priority });
    let cpus = sched::affinity(pid).is_ok_and(|now| now.to_string() == cpu.to_string());
    let budget = budgets.is_none_or(|(groups, group)| groups.runtime_us(group).is_ok_and(|now| now >= Some(budget_us)));
    settings && cpus && budget
}

async fn until(what: &str, given: impl Fn() -> bool) -> Result<(), E2eError> {
    let deadline = Instant::now() + LIMIT;
    while !given() {
        if Instant::now() >= deadline {
            return Err(E2eError::failed(what, "not within 30 s"));
        }
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    Ok(())
}

async fn knobs(bench: &mut Bench, rig: &mut Rig, cpus: &[u32]) -> Result<(), E2eError> {
    let cpu = |change: usize| cpus.get(change % cpus.len().max(1)).copied().unwrap_or(0);
    rig.create("knobs", &["0", "10000", "1000000000"], task(50, cpu(0), 1_000_000)).await?;
    let pid = rig.pid("knobs").await?;
    let cgroups = Cgroups::probe(Path::new(DEFAULT_ROOT)).ok();
    let budgets = cgroups.as_ref().and_then(|cgroups| {
        let groups = RtGroups::find(cgroups)?;
        Some((groups, sched::group_of(pid, "cpu", cgroups.layout())?))
    });
    let (mut answered, mut changed) = (Vec::new(), Vec::new());
    for change in 1..=CHANGES {
        let priority = if change % 2 == 0 { 50 } else { 60 };
        let wcet_ns = if change % 2 == 0 { 1_000_000 } else { 2_000_000 };
        // A hundred jobs of it in every second.
        let budget_us = wcet_ns / 10;
        let patch = json!({"spec": {"realtime": task(priority, cpu(change), wcet_ns)}});
        let began = Instant::now();
        let path = format!("{INSTANCES}/knobs");
        rig.request(Method::PATCH, &path, "application/merge-patch+json", &patch).await?;
        answered.push(began.elapsed().as_secs_f64() * 1e3);
        until("a change to be given", || is_given(pid, priority, cpu(change), budget_us, budgets.as_ref())).await?;
        changed.push(began.elapsed().as_secs_f64() * 1e3);
    }
    let mut repaired = Vec::new();
    let last = Given { settings: sched::settings(pid).map_err(failed)?, cpus: sched::affinity(pid).map_err(failed)? };
    for _ in 0..DRIFTS {
        let began = Instant::now();
        sched::set_settings(pid, &pullpiri_node_core::realtime::Settings::DEFAULT).map_err(failed)?;
        until("a drift to be repaired", || sched::settings(pid).is_ok_and(|now| now == last.settings)).await?;
        repaired.push(began.elapsed().as_secs_f64() * 1e3);
    }
    rig.remove("knobs").await?;
    bench.table.report("realtime: spec change → answered by the API server, median", median(&answered), "ms");
    bench.table.report("realtime: spec change → every knob as the kernel has it, median", median(&changed), "ms");
    let name = "realtime: spec change → every knob as the kernel has it, p99";
    bench.table.at_most(name, quantile(&changed, 99), "ms", 30.0);
    bench.table.report("realtime: drift → repaired, median", median(&repaired), "ms");
    bench.table.at_most("realtime: drift → repaired, longest", quantile(&repaired, 100), "ms", 1000.0);
    Ok(())
}

fn failed(error: impl std::fmt::Display) -> E2eError {
    E2eError::failed("reading a thread", error)
}

/// The least sample that so many percent don't exceed.
fn quantile(samples: &[f64], percent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

async fn wakes(bench: &mut Bench, rig: &mut Rig, cpus: &[u32]) -> Result<(), E2eError> {
    for hog in 0..HOGS {
        let name = format!("hog-{hog}");
        rig.create(&name, &["hog"], json!([])).await?;
        rig.pid(&name).await?;
    }
    let (mut managed, mut unmanaged) = (Vec::new(), Vec::new());
    let count = WAKES.to_string();
    for run in 0..RUNS {
        for is_managed in [true, false] {
            let name = format!("wake-{}-{run}", if is_managed { "managed" } else { "unmanaged" });
            let cpu = cpus.last().copied().unwrap_or(0);
            // A wake-up takes microseconds; the budget is for what mlockall and sorting take.
            let tasks = if is_managed { task(80, cpu, 5_000_000) } else { json!([]) };
            let created = rig.create(&name, &["1000", "1000", &count], tasks).await?;
            let uid = created["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
            let late = wait_for("a measurement of wake-ups", LIMIT, || async {
                let log = workload::log_of(&rig.data_dir, &uid);
                let value = log.split("p999_ns=").nth(1).and_then(|rest| rest.split_whitespace().next()?.parse().ok());
                value.ok_or(log)
            })
            .await?;
            let microseconds = to_f64(late) / 1e3;
            if is_managed {
                managed.push(microseconds)
            } else {
                unmanaged.push(microseconds)
            }
            rig.remove(&name).await?;
        }
    }
    for hog in 0..HOGS {
        rig.remove(&format!("hog-{hog}")).await?;
    }
    let (with, without) = (median(&managed), median(&unmanaged));
    bench.table.report("realtime: wake latency p99.9 beside 4 hogs, managed", with, "us");
    bench.table.report("realtime: wake latency p99.9 beside 4 hogs, unmanaged", without, "us");
    bench.table.at_most("realtime: wake latency p99.9, ratio of managed to unmanaged", with / without, "", 0.1);
    Ok(())
}
