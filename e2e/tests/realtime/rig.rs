//! An API server, the `oci` adapter, and an agent that can be killed.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use prometheus_client::registry::Registry;
use pullpiri_agent::{Agent, Config};
use pullpiri_crds::NodeRuntime;
use pullpiri_e2e::wait_for;
use pullpiri_node_adapters::Runtime;
use pullpiri_node_adapters::images::build;
use pullpiri_node_adapters::oci::{OciOptions, OciRuntime, Zygote};
use pullpiri_node_core::realtime::{Given, Policy};
use pullpiri_node_host::cgroup::{Cgroups, DEFAULT_ROOT, PARENT};
use pullpiri_node_host::sched::{self, RtGroups};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::agent_support::{Cluster, LIMIT, condition};

const IMAGE: &str = "localhost/realtime-task:1";

struct Running {
    task: JoinHandle<()>,
    stop: CancellationToken,
    registry: Registry,
}

pub struct Rig {
    pub cluster: Cluster,
    runtime: Arc<OciRuntime>,
    dir: tempfile::TempDir,
    agent: Mutex<Option<Running>>,
    /// What the kernel can give, as the node says.
    pub node: Value,
}

fn archive(dir: &Path) -> Result<std::path::PathBuf, String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/realtime/task.c");
    let program = dir.join("task");
    let gcc = Command::new("gcc").args(["-static", "-pthread", "-O1", "-o"]).arg(&program).arg(&source).output();
    let gcc = gcc.map_err(|error| format!("gcc can't be run: {error}"))?;
    if !gcc.status.success() {
        return Err(format!("gcc can't link statically: {}", String::from_utf8_lossy(&gcc.stderr)));
    }
    let archive = dir.join("task.tar");
    let files = [(program, "/task".into(), 0o755)];
    build::archive(&archive, IMAGE, &files, &["/task".to_owned()], &[]).map_err(|error| error.to_string())?;
    Ok(archive)
}

/// The budget of the group above all pods, and what the pods have of it, those of others included.
pub fn budgets_above() -> Option<(u64, u64)> {
    let cgroups = Cgroups::probe(Path::new(DEFAULT_ROOT)).ok()?;
    let groups = RtGroups::find(&cgroups)?;
    let above = groups.runtime_us(PARENT).ok().flatten()?;
    let pods = std::fs::read_dir(cgroups.controller_path("cpu", PARENT)?).ok()?.flatten();
    let names = pods.filter_map(|pod| pod.file_name().into_string().ok());
    Some((above, names.filter_map(|pod| groups.runtime_us(&format!("{PARENT}/{pod}")).ok().flatten()).sum()))
}

impl Rig {
    /// An error is the reason to skip all of it.
    pub async fn new(zygote: Result<Zygote, String>) -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let data = dir.path().join("data");
        std::fs::create_dir_all(&data).map_err(|error| error.to_string())?;
        let runtime = OciRuntime::open(&data, zygote?, OciOptions::default()).await.map_err(|e| e.to_string())?;
        runtime.probe().await.map_err(|error| error.to_string())?;
        runtime.load_image(&archive(dir.path())?).await.map_err(|error| error.to_string())?;
        let rig = Self {
            cluster: Cluster::start().await,
            runtime: Arc::new(runtime),
            dir,
            agent: Mutex::new(None),
            node: Value::Null,
        };
        rig.start().await;
        let node = rig.until_node().await;
        match node["status"]["realtime"]["policies"].as_array() {
            Some(policies) if policies.contains(&json!("FIFO")) => Ok(Self { node, ..rig }),
            _ => {
                let reason = node["status"]["conditions"].to_string();
                rig.stop().await;
                Err(format!("no real time here: {reason}"))
            }
        }
    }

    async fn until_node(&self) -> Value {
        let nodes: Api<NodeRuntime> = Api::all(self.cluster.admin.clone());
        wait_for("the node says what it can do in real time", LIMIT, || async {
            let node = nodes.get_opt("zone").await.map_err(|error| error.to_string())?;
            let node = serde_json::to_value(node).unwrap();
            if condition(&node, "RealTime").is_empty() { Err(node.to_string()) } else { Ok(node) }
        })
        .await
        .unwrap()
    }

    pub async fn start(&self) {
        let mut registry = Registry::default();
        let runtimes: Vec<Arc<dyn Runtime>> = vec![Arc::clone(&self.runtime) as Arc<dyn Runtime>];
        let config = Config::new("zone", self.dir.path().join("data"));
        let agent = Agent::new(config, self.cluster.client(), runtimes, &mut registry).unwrap();
        let stop = CancellationToken::new();
        let token = stop.clone();
        let task = tokio::spawn(async move { agent.run(token).await.unwrap() });
        *self.agent.lock().await = Some(Running { task, stop, registry });
    }

    /// As SIGKILL does, as far as that can be had in a process.
    pub async fn kill(&self) {
        if let Some(running) = self.agent.lock().await.take() {
            running.task.abort();
            let _ = running.task.await;
        }
    }

    pub async fn stop(&self) {
        if let Some(running) = self.agent.lock().await.take() {
            running.stop.cancel();
            let _ = running.task.await;
        }
        for pod in self.runtime.list().await.unwrap_or_default() {
            let _ = self.runtime.stop_pod(&pod.id, Duration::ZERO).await;
            let _ = self.runtime.remove_pod(&pod.id).await;
        }
    }

    /// The node's metrics, as text.
    pub async fn metrics(&self) -> String {
        let mut text = String::new();
        if let Some(running) = self.agent.lock().await.as_ref() {
            prometheus_client::encoding::text::encode(&mut text, &running.registry).unwrap();
        }
        text
    }

    pub fn cpus(&self) -> Vec<i64> {
        let list: pullpiri_node_core::realtime::Cpus =
            self.node["status"]["realtime"]["cpus"].as_str().unwrap().parse().unwrap();
        list.0.into_iter().map(i64::from).collect()
    }

    pub fn has(&self, capability: &str) -> bool {
        self.node["status"]["realtime"][capability] == true
    }

    /// An instance whose container `x` runs the task program.
    pub async fn create(&self, name: &str, args: &[&str], tasks: Value) {
        let object = json!({
            "apiVersion": "pullpiri.io/v1alpha1",
            "kind": "ModelInstance",
            "metadata": { "name": name, "namespace": "default" },
            "spec": {
                "package": "pkg",
                "model": name,
                "nodeName": "zone",
                "realtime": tasks,
                "template": { "spec": {
                    "hostNetwork": true,
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{ "name": "x", "image": IMAGE, "args": args }],
                }},
            },
        });
        let object = serde_json::from_value(object).unwrap();
        self.cluster.instances().create(&PostParams::default(), &object).await.unwrap();
    }

    pub async fn declare(&self, name: &str, tasks: Value) {
        let patch = Patch::Merge(json!({ "spec": { "realtime": tasks } }));
        self.cluster.instances().patch(name, &PatchParams::default(), &patch).await.unwrap();
    }

    /// Deletes the instance and waits until it and every budget that it had are gone.
    pub async fn delete(&self, name: &str) {
        let _ = self.cluster.instances().delete(name, &DeleteParams::default()).await;
        self.cluster.until_gone(name).await;
        wait_for("budgets are as they were found", LIMIT, || async {
            match budgets_above() {
                Some((above, pods)) if above != pods => Err(format!("{above}, of which pods have {pods}")),
                _ => Ok(()),
            }
        })
        .await
        .unwrap();
        let state = self.dir.path().join("data/realtime.json");
        wait_for("nothing is held", LIMIT, || async {
            std::fs::read_to_string(&state).map_or(Ok(()), |text| if text.contains(name) { Err(text) } else { Ok(()) })
        })
        .await
        .unwrap();
    }

    pub async fn until_applied(&self, name: &str) -> Value {
        self.cluster.until(name, |object| condition(object, "RealTime") == "True").await
    }

    pub async fn until_event(&self, name: &str, reason: &str) {
        wait_for(&format!("an Event {reason} of {name}"), LIMIT, || async {
            let reasons = self.cluster.events(name).await;
            if reasons.iter().any(|other| other == reason) { Ok(()) } else { Err(format!("{reasons:?}")) }
        })
        .await
        .unwrap();
    }

    /// The container's first process.
    pub fn pid(object: &Value) -> i32 {
        i32::try_from(object["status"]["containers"][0]["pid"].as_i64().unwrap()).unwrap()
    }

    pub fn signal(object: &Value, signal: Signal) {
        kill(Pid::from_raw(Self::pid(object)), signal).unwrap();
    }

    /// The thread of that name, as the kernel has it.
    pub fn thread(object: &Value, name: &str) -> sched::Thread {
        let threads = sched::threads_of(Self::pid(object)).unwrap();
        threads.iter().find(|thread| thread.name == name).unwrap_or_else(|| panic!("{name} in {threads:?}")).clone()
    }

    /// How a thread runs that nobody declared: pods inherit the nice value of who runs the tests.
    pub fn undeclared() -> Policy {
        let own = i32::try_from(std::process::id()).unwrap();
        sched::settings(own).unwrap().policy
    }

    /// Waits until the kernel has the thread so.
    pub async fn until_given(tid: i32, policy: Policy, cpus: &str) {
        wait_for(&format!("thread {tid} is {policy} on {cpus}"), LIMIT, || async {
            let now = Given {
                settings: sched::settings(tid).map_err(|error| error.to_string())?,
                cpus: sched::affinity(tid).map_err(|error| error.to_string())?,
            };
            if now.settings.policy == policy && now.cpus.to_string() == cpus { Ok(()) } else { Err(now.to_string()) }
        })
        .await
        .unwrap();
    }

    /// The budget of the instance's container in microseconds, if groups have budgets here.
    pub fn budget(object: &Value) -> Option<u64> {
        let cgroups = Cgroups::probe(Path::new(DEFAULT_ROOT)).ok()?;
        let group = sched::group_of(Self::pid(object), "cpu", cgroups.layout())?;
        RtGroups::find(&cgroups)?.runtime_us(&group).unwrap()
    }
}

/// A fixed-priority task of container `x`: 1 ms every 20 ms.
pub fn task(name: &str, thread: Option<&str>, priority: i64, cpu: i64) -> Value {
    let mut task = json!({
        "name": name,
        "container": "x",
        "policy": "FIFO",
        "priority": priority,
        "cpu": cpu,
        "wcetNs": 1_000_000,
        "periodNs": 20_000_000,
        "deadlineNs": 20_000_000,
        "responseTimeNs": 1_000_000,
    });
    if let Some(thread) = thread {
        task["thread"] = json!(thread);
    }
    task
}
