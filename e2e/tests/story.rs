//! The main job, as a user does it: a published manifest, two nodes, kubectl, a signal, restarts of everything.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pullpiri_e2e::endpoint::Connection;
use pullpiri_e2e::process::{self, Pullpiri, free_address};
use pullpiri_e2e::{E2eError, wait_for};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
const INSTANCES: &str = "/apis/pullpiri.io/v1alpha1/namespaces/default/modelinstances";

/// A second node: `pullpiri node`.
struct Joined(Child);

impl Joined {
    fn start(kubeconfig: &Path, name: &str, data_dir: &Path) -> Self {
        let child = Command::new(process::binary().unwrap())
            .args(["node", "--runtime", "oci", "--stop-workloads", "--name", name, "--kubeconfig"])
            .arg(kubeconfig)
            .arg("--data-dir")
            .arg(data_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(data_dir.with_extension("log")).unwrap())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

fn images(folder: &Path, data_dirs: &[&Path]) {
    let demo = process::demo_service().unwrap().display().to_string();
    for name in ["blis", "frism", "mavd", "rdv"] {
        let archive = folder.join(format!("{name}.tar")).display().to_string();
        let (reference, file) = (format!("localhost/{name}:1.0"), format!("{demo}:/demo-service"));
        process::run(&[
            "image",
            "build",
            "--reference",
            &reference,
            "--file",
            &file,
            "--output",
            &archive,
            "--",
            "/demo-service",
            name,
        ])
        .unwrap();
        for data_dir in data_dirs {
            process::run(&["image", "load", &archive, "--data-dir", &data_dir.display().to_string()]).unwrap();
        }
    }
}

fn kubectl(kubeconfig: &Path, arguments: &[&str]) -> String {
    let output = Command::new("kubectl").arg("--kubeconfig").arg(kubeconfig).args(arguments).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "kubectl {arguments:?}: {text}");
    text
}

/// The instances' pids by model, once all of them run.
async fn pids(connection: &mut Connection, count: usize) -> Result<Vec<(String, String, i64)>, E2eError> {
    let deadline = std::time::Instant::now() + LIMIT;
    loop {
        let list = connection.get(INSTANCES).await?.json();
        let mut running: Vec<(String, String, i64)> = Vec::new();
        for item in list["items"].as_array().into_iter().flatten() {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            if item["status"]["phase"] == "Running"
                && let Some(pid) = item["status"]["containers"][0]["pid"].as_i64()
            {
                running.push((text(&item["spec"]["model"]), text(&item["spec"]["nodeName"]), pid));
            }
        }
        if running.len() == count {
            running.sort();
            return Ok(running);
        }
        if std::time::Instant::now() >= deadline {
            return Err(E2eError::failed(
                "waiting for the instances",
                serde_json::to_string_pretty(&list).unwrap_or_default(),
            ));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn alive(pid: i64) -> bool {
    PathBuf::from(format!("/proc/{pid}/stat")).exists()
        && std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "demo-service")
}

fn kubectl_missing() -> bool {
    let missing = Command::new("kubectl").args(["version", "--client"]).output().is_err();
    if missing {
        println!("skipped: no kubectl");
    }
    missing
}

#[tokio::test]
async fn a_published_scenario_runs_on_two_nodes_and_survives_restarts() {
    if kubectl_missing() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (zone, hpc) = (folder.path().join("zone"), folder.path().join("hpc"));
    images(folder.path(), &[&zone, &hpc]);
    let address = free_address().unwrap();
    let arguments = ["--node", "ZONE", "--runtime", "oci"];
    let mut server = Pullpiri::start("up", &zone, address, &arguments).unwrap();
    let endpoint = server.ready().await.unwrap();
    let joining = folder.path().join("hpc.yaml");
    let url = format!("https://{address}");
    let data_dir = zone.display().to_string();
    let issued = process::run(&[
        "kubeconfig",
        "--data-dir",
        &data_dir,
        "--user",
        "system:node:HPC",
        "--group",
        "system:nodes",
        "--server",
        &url,
    ]);
    std::fs::write(&joining, issued.unwrap()).unwrap();
    let second = Joined::start(&joining, "HPC", &hpc);

    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/bms/bms-eco.published.yaml");
    let converted = process::run(&["convert", &manifest.display().to_string()]).unwrap();
    let file = folder.path().join("bms.yaml");
    std::fs::write(&file, converted).unwrap();
    let admin = server.kubeconfig();
    kubectl(&admin, &["apply", "-f", &file.display().to_string()]);
    kubectl(&admin, &["wait", "scenario/bms-eco", "--for=jsonpath={.status.state}=Waiting", "--timeout=30s"]);
    assert!(kubectl(&admin, &["get", "modelinstances"]).contains("No resources"), "nothing runs before the signal");

    // The signal's field is the one that the scenario reads.
    process::run(&[
        "signal",
        "set",
        "PowertrainTransmissionCurrentGear=N",
        "--kubeconfig",
        &admin.display().to_string(),
    ])
    .unwrap();
    process::run(&[
        "signal",
        "set",
        "PowertrainTransmissionCurrentGear=P",
        "--kubeconfig",
        &admin.display().to_string(),
    ])
    .unwrap();
    kubectl(&admin, &["wait", "scenario/bms-eco", "--for=jsonpath={.status.state}=Completed", "--timeout=60s"]);
    assert!(kubectl(&admin, &["get", "signals"]).contains("PowertrainTransmissionCurrentGear"));
    let mut connection = endpoint.connect().await.unwrap();
    let first = pids(&mut connection, 4).await.unwrap();
    let placed: Vec<(&str, &str)> = first.iter().map(|(model, node, _)| (model.as_str(), node.as_str())).collect();
    assert_eq!(
        placed,
        [
            ("bms-algorithm-eco-blis", "zone"),
            ("bms-algorithm-eco-frism", "zone"),
            ("bms-algorithm-eco-mavd", "hpc"),
            ("bms-algorithm-eco-rdv", "zone"),
        ]
    );
    assert!(first.iter().all(|(_, _, pid)| alive(*pid)));
    assert!(kubectl(&admin, &["describe", "package", "bms-algorithm-eco"]).contains("Events:"));

    // Killed hard and started again: the same processes, and the scenario doesn't fire again.
    server.kill9();
    assert!(first.iter().all(|(_, _, pid)| alive(*pid)), "containers outlive the agent");
    let mut server = Pullpiri::start("up", &zone, address, &arguments).unwrap();
    let endpoint = server.ready().await.unwrap();
    let mut connection = endpoint.connect().await.unwrap();
    assert_eq!(pids(&mut connection, 4).await.unwrap(), first, "adopted, none restarted");

    // SIGTERM leaves workloads running, too.
    assert_eq!(server.stop(), Some(0));
    assert!(first.iter().all(|(_, _, pid)| alive(*pid)));
    let mut server = Pullpiri::start("up", &zone, address, &arguments).unwrap();
    let endpoint = server.ready().await.unwrap();
    let mut connection = endpoint.connect().await.unwrap();
    assert_eq!(pids(&mut connection, 4).await.unwrap(), first);

    // Everything goes with its Package.
    kubectl(&admin, &["delete", "scenarios,packages,models,volumes,networks", "--all", "--timeout=60s"]);
    wait_for("the containers to end", LIMIT, || async {
        let left: Vec<_> = first.iter().filter(|(_, _, pid)| alive(*pid)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await
    .unwrap();
    drop(second);
    assert_eq!(server.stop(), Some(0), "{}", server.log());
    nothing_mounted_below(folder.path());
}

fn nothing_mounted_below(folder: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let left: Vec<&str> = mounts.lines().filter(|line| line.contains(&folder.display().to_string())).collect();
    assert!(left.is_empty(), "{left:#?}");
}

#[tokio::test]
async fn services_start_from_the_ledger_without_a_control_plane() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("node");
    images(folder.path(), &[&data_dir]);
    let address = free_address().unwrap();
    let server_dir = folder.path().join("server");
    let mut server = Pullpiri::start("up", &server_dir, address, &["--node", "other"]).unwrap();
    let endpoint = server.ready().await.unwrap();
    let second = Joined::start(&server.kubeconfig(), "edge", &data_dir);
    let mut connection = endpoint.connect().await.unwrap();
    let object = json!({
        "apiVersion": "pullpiri.io/v1alpha1", "kind": "ModelInstance", "metadata": {"name": "blis", "namespace": "default"},
        "spec": {"package": "p", "model": "blis", "nodeName": "edge", "run": true, "epoch": 1, "template": {"spec": {
            "hostNetwork": true, "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "blis", "image": "localhost/blis:1.0"}]}}},
    });
    let created =
        connection.request(http::Method::POST, INSTANCES, "application/json", object.to_string().into()).await.unwrap();
    assert!(created.status.is_success(), "{}", String::from_utf8_lossy(&created.body));
    let (_, _, first) = pids(&mut connection, 1).await.unwrap().remove(0);
    // The node stops with its workloads, and the control plane goes for good.
    drop(second);
    wait_for("the container to end", LIMIT, || async { if alive(first) { Err(first.to_string()) } else { Ok(()) } })
        .await
        .unwrap();
    let kubeconfig = folder.path().join("kept.yaml");
    std::fs::copy(server.kubeconfig(), &kubeconfig).unwrap();
    server.stop();
    let second = Joined::start(&kubeconfig, "edge", &data_dir);
    let started = wait_for("the service to start from the ledger", LIMIT, || async {
        let processes = std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse::<i64>().ok());
        let mine = processes.filter(|pid| {
            let environment = std::fs::read(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            alive(*pid)
                && String::from_utf8_lossy(&environment).contains(created.json()["metadata"]["uid"].as_str().unwrap())
        });
        mine.collect::<Vec<_>>()
            .first()
            .copied()
            .ok_or_else(|| std::fs::read_to_string(data_dir.with_extension("log")).unwrap())
    })
    .await
    .unwrap();
    drop(second);
    wait_for("the container to end", LIMIT, || async {
        if alive(started) { Err(started.to_string()) } else { Ok(()) }
    })
    .await
    .unwrap();
}
