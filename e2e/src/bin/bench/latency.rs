//! How long until a container's first instruction: after an apply, after a kill, after a signal.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pullpiri_e2e::endpoint::{Connection, Endpoint};
use pullpiri_e2e::podman::Podman;
use pullpiri_e2e::process::{Pullpiri, free_address};
use pullpiri_e2e::{E2eError, wait_for, workload};
use serde_json::{Value, json};

use crate::Bench;
use crate::table::median;

const RUNS: usize = 21;
const INSTANCES: &str = "/apis/pullpiri.io/v1alpha1/namespaces/default/modelinstances";
const LIMIT: Duration = Duration::from_secs(20);

pub(crate) async fn measure(bench: &mut Bench) -> Result<(), E2eError> {
    let data_dir = bench.path("latency");
    let archive = workload::archive(bench.folder.path())?;
    workload::load(&archive, &data_dir)?;
    let podman = if Podman::available() {
        let podman = Podman::start(&bench.path("podman"))?;
        podman.run(&["load", "--input", &archive.display().to_string()])?;
        Some(podman)
    } else {
        eprintln!("skipped: no podman and runc to compare with");
        None
    };
    let socket = podman.as_ref().map(|podman| podman.socket().display().to_string());
    let mut arguments = vec!["--node", "bench", "--runtime", "oci", "--stop-workloads"];
    if let Some(socket) = &socket {
        arguments.extend(["--podman-socket", socket]);
    }
    let mut server = Pullpiri::start("up", &data_dir, free_address()?, &arguments)?;
    let endpoint = server.ready().await?;
    let mut rig = Rig { connection: endpoint.connect().await?, endpoint, data_dir };
    rig.node_ready().await?;
    apply(bench, &mut rig, podman.is_some()).await?;
    killed(bench, &mut rig).await?;
    signal(bench, &mut rig).await?;
    server.stop();
    Ok(())
}

struct Rig {
    endpoint: Endpoint,
    connection: Connection,
    data_dir: std::path::PathBuf,
}

impl Rig {
    async fn request(&mut self, method: Method, path: &str, body: &Value) -> Result<Value, E2eError> {
        let body = Bytes::from(body.to_string());
        let answer = self.connection.request(method.clone(), path, "application/json", body).await?;
        if answer.status.is_success() {
            return Ok(answer.json());
        }
        Err(E2eError::failed(format!("{method} {path}"), String::from_utf8_lossy(&answer.body)))
    }

    async fn node_ready(&mut self) -> Result<(), E2eError> {
        let mut watcher = self.endpoint.connect().await?;
        let watcher = &mut watcher;
        let deadline = std::time::Instant::now() + LIMIT;
        loop {
            let node = watcher.get("/apis/pullpiri.io/v1alpha1/noderuntimes/bench").await?.json();
            let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
            if conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True") {
                return Ok(());
            }
            if std::time::Instant::now() >= deadline {
                return Err(E2eError::failed("waiting for the node", node));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits for the `count`th start of the instance; its time.
    async fn start_of(&self, uid: &str, count: usize) -> Result<i64, E2eError> {
        wait_for("a container's first line", LIMIT, || async {
            let log = workload::log_of(&self.data_dir, uid);
            workload::starts(&log).get(count).copied().ok_or_else(|| format!("{uid}: {log:?}"))
        })
        .await
    }

    async fn remove(&mut self, name: &str) -> Result<(), E2eError> {
        let path = format!("{INSTANCES}/{name}");
        self.request(Method::DELETE, &path, &json!({})).await?;
        let deadline = std::time::Instant::now() + LIMIT;
        while self.connection.get(&path).await?.status.is_success() {
            if std::time::Instant::now() >= deadline {
                return Err(E2eError::failed("removing an instance", name));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }
}

fn milliseconds(from_ns: i64, to_ns: i64) -> f64 {
    Duration::from_nanos(u64::try_from(to_ns.saturating_sub(from_ns)).unwrap_or(0)).as_secs_f64() * 1e3
}

fn uid(object: &Value) -> String {
    object["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
}

/// Alternates oci and podman, so that a noisy moment hits both.
async fn apply(bench: &mut Bench, rig: &mut Rig, with_podman: bool) -> Result<(), E2eError> {
    let (mut oci, mut podman) = (Vec::new(), Vec::new());
    for run in 0..RUNS {
        for runtime in ["oci", "podman"] {
            if runtime == "podman" && !with_podman {
                continue;
            }
            let name = format!("apply-{runtime}-{run}");
            let object = workload::instance(&name, "bench", runtime, &["bench"]);
            let before = workload::now_ns();
            let created = rig.request(Method::POST, INSTANCES, &object).await?;
            let took = milliseconds(before, rig.start_of(&uid(&created), 0).await?);
            if runtime == "oci" {
                oci.push(took)
            } else {
                podman.push(took)
            }
            rig.remove(&name).await?;
        }
    }
    bench.table.at_most("latency: apply of a ModelInstance → first instruction, oci", median(&oci), "ms", 40.0);
    if with_podman {
        bench.table.report("latency: the same through podman", median(&podman), "ms");
        bench.table.at_most("latency: ratio of oci to podman", median(&oci) / median(&podman), "", 0.35);
    }
    Ok(())
}

async fn killed(bench: &mut Bench, rig: &mut Rig) -> Result<(), E2eError> {
    let (mut noticed, mut restarted) = (Vec::new(), Vec::new());
    for run in 0..RUNS {
        let name = format!("killed-{run}");
        let created =
            rig.request(Method::POST, INSTANCES, &workload::instance(&name, "bench", "oci", &["bench"])).await?;
        let uid = uid(&created);
        rig.start_of(&uid, 0).await?;
        let path = format!("{INSTANCES}?watch=1&fieldSelector=metadata.name%3D{name}");
        let mut watch = rig.endpoint.connect().await?.watch(&path).await?;
        let pid = loop {
            let event = watch.next().await?;
            if let Some(pid) = event["object"]["status"]["containers"][0]["pid"].as_i64() {
                break i32::try_from(pid).map_err(|error| E2eError::failed("reading a pid", error))?;
            }
        };
        let before = workload::now_ns();
        kill(Pid::from_raw(pid), Signal::SIGKILL).map_err(|error| E2eError::failed("killing a container", error))?;
        let seen = loop {
            let event = watch.next().await?;
            let container = &event["object"]["status"]["containers"][0];
            if container["pid"].as_i64() != Some(i64::from(pid)) {
                break workload::now_ns();
            }
        };
        noticed.push(milliseconds(before, seen));
        restarted.push(milliseconds(before, rig.start_of(&uid, 1).await?));
        rig.remove(&name).await?;
    }
    bench.table.at_most(
        "latency: container killed → noticed, as a watch of its status sees it",
        median(&noticed),
        "ms",
        10.0,
    );
    bench.table.at_most("latency: container killed → restarted", median(&restarted), "ms", 60.0);
    Ok(())
}

/// Gear D stops the package, gear P launches it.
async fn signal(bench: &mut Bench, rig: &mut Rig) -> Result<(), E2eError> {
    let base = "/apis/pullpiri.io/v1alpha1/namespaces/default";
    let object = |kind: &str, name: &str, spec: Value| json!({"apiVersion": "pullpiri.io/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": "default"}, "spec": spec});
    let container = json!({"name": "demo", "image": workload::IMAGE, "args": ["bench"]});
    let model = json!({"hostNetwork": true, "terminationGracePeriodSeconds": 0, "containers": [container]});
    rig.request(Method::POST, &format!("{base}/models"), &object("Model", "gearbox", model)).await?;
    let package = json!({"models": [{"name": "gearbox", "node": "bench"}]});
    rig.request(Method::POST, &format!("{base}/packages"), &object("Package", "gearbox", package)).await?;
    for (name, value, action) in [("park", "P", "launch"), ("drive", "D", "terminate")] {
        let condition = json!({"express": "eq", "value": value, "operands": {"name": "gear", "value": "BenchGear"}});
        let spec = json!({"condition": condition, "action": action, "target": "gearbox"});
        rig.request(Method::POST, &format!("{base}/scenarios"), &object("Scenario", name, spec)).await?;
    }
    let mut took = Vec::new();
    let mut seen = 0;
    for _ in 0..RUNS {
        gear(rig, "D").await?;
        running(rig, false).await?;
        let before = workload::now_ns();
        gear(rig, "P").await?;
        running(rig, true).await?;
        let deadline = std::time::Instant::now() + LIMIT;
        let start = loop {
            let starts = all_starts(rig).await?;
            if starts.len() > seen {
                seen = starts.len();
                break starts.last().copied().unwrap_or_default();
            }
            if std::time::Instant::now() >= deadline {
                return Err(E2eError::failed("waiting for the package's container", seen));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        took.push(milliseconds(before, start));
    }
    bench.table.at_most("latency: signal PUT → container's first instruction", median(&took), "ms", 80.0);
    Ok(())
}

async fn gear(rig: &mut Rig, value: &str) -> Result<(), E2eError> {
    let sample = json!({
        "apiVersion": "signals.pullpiri.io/v1alpha1", "kind": "Signal", "metadata": {"name": "BenchGear"},
        "topic": "BenchGear", "fields": {"gear": value},
    });
    rig.request(Method::PUT, "/apis/signals.pullpiri.io/v1alpha1/signals/BenchGear", &sample).await.map(drop)
}

/// Waits until the package's instance has a process, or none.
async fn running(rig: &mut Rig, wanted: bool) -> Result<(), E2eError> {
    let deadline = std::time::Instant::now() + LIMIT;
    loop {
        let list = rig.connection.get(INSTANCES).await?.json();
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let runs = items
            .iter()
            .any(|item| item["spec"]["model"] == "gearbox" && item["status"]["containers"][0]["pid"].is_i64());
        if runs == wanted {
            return Ok(());
        }
        if std::time::Instant::now() >= deadline {
            return Err(E2eError::failed("waiting for the package", list));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The starts of the package's containers so far, in order.
async fn all_starts(rig: &mut Rig) -> Result<Vec<i64>, E2eError> {
    let list = rig.connection.get(INSTANCES).await?.json();
    let mut starts = Vec::new();
    for item in list["items"].as_array().into_iter().flatten().filter(|item| item["spec"]["model"] == "gearbox") {
        starts.append(&mut workload::starts(&workload::log_of(&rig.data_dir, &uid(item))));
    }
    starts.sort_unstable();
    Ok(starts)
}
