//! Runtime `kubernetes` against a real kubelet: a ModelInstance is a Pod of its node, made with the rights that the chart gives a node, all of them used; its
//! processes get their real-time settings, and what it sends its class; it is restarted by the kubelet, adopted by the next node runtime, and removed
//! without a trace.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod pods_support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Stdio};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pods_support::cluster::{LIMIT, USER, create, grants, prepare, strangers_are_refused};
use pods_support::{Audit, METRICS, metric, recorded, rights, send_from};
use pullpiri_crds::instance::{ContainerState, ContainerStatus};
use pullpiri_crds::names::{NODE_LEASE_NAMESPACE, node_lease};
use pullpiri_crds::{ModelInstance, NetworkSlice, NodeRuntime};
use pullpiri_e2e::real::{NODE, RealKube};
use pullpiri_e2e::{process, wait_for, workload};
use serde_json::{Value, json};

const CLASS: &str = "default/host/all";
/// A namespace that is there, and isn't among the chart's `rbac.dataNamespaces`.
const ELSEWHERE: &str = "kube-public";

/// A node runtime beside the kubelet; dropping it kills it.
struct Runtime(Child);

impl Runtime {
    fn start(kube: &RealKube, kubeconfig: &Path, folder: &Path) -> Self {
        let log = std::fs::File::options().create(true).append(true).open(folder.join("node.log")).unwrap();
        let child = kube
            .command()
            .arg("run")
            .arg(process::binary().unwrap())
            .args(["node", "--runtime=oci", "--name", NODE, "--kubernetes-node", NODE])
            .args(["--uplink=eth0", "--link-rate=100M", "--metrics-listen", METRICS, "--kubeconfig"])
            .arg(kubeconfig)
            .arg("--data-dir")
            .arg(folder.join("data"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Runtime {
    /// Waits until it is gone: the next one finds the data directory free.
    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.kill();
    }
}

fn instance(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "pullpiri.io/v1alpha1", "kind": "ModelInstance", "metadata": {"name": name, "namespace": "default"},
        "spec": {"package": "p", "model": name, "nodeName": NODE, "run": true, "epoch": 1, "template": {"spec": spec}},
    })
}

/// A task of its first thread.
fn realtime(mut instance: Value, policy: &str, priority: Option<i32>) -> Value {
    let mut task = json!({"name": "control", "policy": policy, "cpu": 0, "wcetNs": 1_000_000, "periodNs": 100_000_000,
        "deadlineNs": 100_000_000, "responseTimeNs": 1_000_000});
    if let Some(priority) = priority {
        task["priority"] = json!(priority);
    }
    instance["spec"]["realtime"] = json!([task]);
    instance
}

struct Cluster {
    instances: Api<ModelInstance>,
    pods: Api<Pod>,
}

impl Cluster {
    /// Waits until the instance's first container is as wanted.
    async fn until<T>(
        &self,
        what: &str,
        name: &str,
        wanted: impl Fn(&ModelInstance, &ContainerStatus) -> Option<T>,
    ) -> T {
        let seen = wait_for(what, LIMIT, async || {
            let object = self.instances.get(name).await.map_err(|error| error.to_string())?;
            let container = object.status.as_ref().and_then(|status| status.containers.first());
            container.and_then(|container| wanted(&object, container)).ok_or_else(|| format!("{:?}", object.status))
        });
        seen.await.unwrap()
    }

    async fn running(&self, name: &str, restarts: i64) -> i32 {
        let running = |_: &ModelInstance, container: &ContainerStatus| {
            let runs = container.state == ContainerState::Running && container.restarts == Some(restarts);
            container.pid.filter(|_| runs).and_then(|pid| i32::try_from(pid).ok())
        };
        self.until("it runs", name, running).await
    }

    async fn gone(&self, name: &str) {
        wait_for("the Pod is gone", LIMIT, async || match self.pods.get_opt(name).await {
            Ok(None) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await
        .unwrap();
    }
}

fn condition(object: &ModelInstance, kind: &str) -> Option<(String, String, String)> {
    let conditions = &object.status.as_ref()?.conditions;
    let found = conditions.iter().find(|condition| condition.type_ == kind)?;
    Some((found.status.clone(), found.reason.clone(), found.message.clone()))
}

fn is_alive(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_runs_as_a_pod_of_its_node() {
    if let Some(reason) = RealKube::missing_node() {
        println!("skipped: {reason}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let archive = match workload::archive(dir.path()) {
        Ok(archive) => archive,
        Err(error) => return println!("skipped: {error}"),
    };
    let audit = Audit::new(dir.path());
    let kube = RealKube::start_node_with(&audit.flags()).unwrap();
    assert!(kube.command().arg("import").arg(&archive).status().unwrap().success());
    let client = kube.client().await.unwrap();
    let kubeconfig = prepare(&kube, &client, dir.path()).await;
    let cluster =
        Cluster { instances: Api::default_namespaced(client.clone()), pods: Api::default_namespaced(client.clone()) };
    // Somebody's Pod with our label isn't ours.
    let stranger = json!({"metadata": {"name": "stranger", "labels": {"pullpiri.io/instance-uid": "not-one"}},
        "spec": {"nodeName": NODE, "tolerations": [{"operator": "Exists"}], "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": workload::IMAGE, "args": ["stranger"], "imagePullPolicy": "Never"}]}});
    cluster.pods.create(&PostParams::default(), &serde_json::from_value(stranger).unwrap()).await.unwrap();

    let mut runtime = Runtime::start(&kube, &kubeconfig, dir.path());
    runs_and_is_restarted(&cluster, &client).await;
    // Its heartbeat goes with its NodeRuntime.
    let leases: Api<Lease> = Api::namespaced(client.clone(), NODE_LEASE_NAMESPACE);
    let lease = leases.get(&node_lease(NODE)).await.unwrap();
    let owners = lease.metadata.owner_references.unwrap_or_default();
    assert_eq!(owners.iter().map(|owner| owner.kind.as_str()).collect::<Vec<_>>(), ["NodeRuntime"]);
    let start = || Runtime::start(&kube, &kubeconfig, dir.path());
    is_adopted(&cluster, &mut runtime, start).await;
    beats_without_an_owner(&leases, &mut runtime, start).await;
    ends_unwatched_and_is_told(&cluster, &mut runtime, start).await;
    ends_and_is_told(&cluster, &client).await;
    what_cannot_be_is_said(&cluster, &client).await;
    sends_in_its_class(&kube, &cluster, &client).await;

    for object in cluster.instances.list(&ListParams::default()).await.unwrap() {
        cluster.instances.delete(object.metadata.name.as_deref().unwrap(), &DeleteParams::default()).await.unwrap();
    }
    wait_for("all instances are gone", LIMIT, async || {
        let left = cluster.instances.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        if left.items.is_empty() { Ok(()) } else { Err(format!("{} left", left.items.len())) }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", std::fs::read_to_string(dir.path().join("node.log")).unwrap()));
    let left: Vec<String> = cluster
        .pods
        .list(&ListParams::default())
        .await
        .unwrap()
        .into_iter()
        .filter_map(|pod| pod.metadata.name)
        .collect();
    assert_eq!(left, ["stranger"]);
    every_right_was_used(&audit);
    // Last of all, as the policy would refuse this test's node runtime, too, whose token isn't of a node.
    strangers_are_refused(&client).await;
}

async fn runs_and_is_restarted(cluster: &Cluster, client: &Client) {
    let of = |kind: &str| json!({kind: {"name": "conf", "key": "k", "optional": true}});
    let env = json!([{"name": "A", "value": "1"}, {"name": "B", "valueFrom": of("configMapKeyRef")}, {"name": "C", "valueFrom": of("secretKeyRef")}]);
    let container = json!({"name": "demo", "image": workload::IMAGE, "args": ["pod", "--env"], "env": env,
        "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}}});
    let spec = json!({"runtime": "kubernetes", "terminationGracePeriodSeconds": 3, "containers": [container]});
    create(client, realtime(instance("pod", spec), "FIFO", Some(20))).await;
    let pid = cluster.running("pod", 0).await;
    let pod = cluster.pods.get("pod").await.unwrap();
    let uid = pod.metadata.uid.clone().unwrap();
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(groups.contains(&format!("pod{uid}")), "{groups}");
    let spec = pod.spec.unwrap();
    assert_eq!((spec.node_name.as_deref(), spec.automount_service_account_token), (Some(NODE), Some(false)));
    let owner = &pod.metadata.owner_references.unwrap()[0];
    assert_eq!((owner.kind.as_str(), owner.controller), ("ModelInstance", Some(true)));
    has_its_settings(cluster, pid).await;
    // The kubelet restarts it, and its settings follow.
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let again = cluster.running("pod", 1).await;
    assert_ne!(again, pid);
    let code = cluster.until("the exit is told", "pod", |_, container| container.exit_code).await;
    assert_eq!(code, 137);
    assert_eq!(cluster.pods.get("pod").await.unwrap().metadata.uid, Some(uid), "in the same Pod");
    has_its_settings(cluster, again).await;
}

/// Real-time settings, or a condition that says why not.
async fn has_its_settings(cluster: &Cluster, pid: i32) {
    let decided = cluster.until("its thread is looked at", "pod", |object, _| {
        condition(object, "RealTime").filter(|(_, reason, _)| reason != "Starting" && reason != "NotRunning")
    });
    let (status, reason, message) = decided.await;
    if status != "True" {
        println!("without real-time settings here: {reason}: {message}");
        return;
    }
    wait_for("the thread has its policy", LIMIT, async || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|error| error.to_string())?;
        // Fields 40 and 41: rt_priority and policy (proc_pid_stat(5)); 1 is SCHED_FIFO.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        if (fields[37], fields[38]) == ("20", "1") { Ok(()) } else { Err(format!("{} {}", fields[37], fields[38])) }
    })
    .await
    .unwrap();
}

async fn is_adopted(cluster: &Cluster, runtime: &mut Runtime, start: impl FnOnce() -> Runtime) {
    let pid = cluster.running("pod", 1).await;
    let uid = cluster.pods.get("pod").await.unwrap().metadata.uid;
    let before = cluster.instances.get("pod").await.unwrap().metadata.generation;
    // As the kubelet ends a pod's container: without a word.
    runtime.kill();
    *runtime = start();
    // A generation that only the new one can have observed.
    let patch = Patch::Merge(json!({"spec": {"epoch": 2}}));
    cluster.instances.patch("pod", &PatchParams::default(), &patch).await.unwrap();
    cluster
        .until("the next one acts", "pod", |object, _| {
            (object.status.as_ref()?.observed_generation > before).then_some(())
        })
        .await;
    assert_eq!(cluster.running("pod", 1).await, pid);
    assert_eq!(cluster.pods.get("pod").await.unwrap().metadata.uid, uid);
    assert!(is_alive(pid));
}

/// A heartbeat that the node may not make its own is renewed as it is.
async fn beats_without_an_owner(leases: &Api<Lease>, runtime: &mut Runtime, start: impl FnOnce() -> Runtime) {
    runtime.kill();
    let orphaned = Patch::Merge(json!({"metadata": {"ownerReferences": null}}));
    let before = leases.patch(&node_lease(NODE), &PatchParams::default(), &orphaned).await.unwrap();
    let renewed = |lease: &Lease| lease.spec.as_ref().and_then(|spec| spec.renew_time.clone());
    *runtime = start();
    wait_for("the heartbeat goes on", LIMIT, async || {
        let lease = leases.get(&node_lease(NODE)).await.map_err(|error| error.to_string())?;
        if renewed(&lease) > renewed(&before) { Ok(lease) } else { Err(format!("{:?}", renewed(&lease))) }
    })
    .await
    .map(|lease| assert_eq!(lease.metadata.owner_references, None))
    .unwrap();
}

/// No node runtime is there when a container ends and its kubelet starts it again: the next one tells how it ended, from the Pod's status.
async fn ends_unwatched_and_is_told(cluster: &Cluster, runtime: &mut Runtime, start: impl FnOnce() -> Runtime) {
    let pid = cluster.running("pod", 1).await;
    runtime.kill();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    wait_for("its kubelet starts it again", LIMIT, async || {
        let status = cluster.pods.get("pod").await.map_err(|error| error.to_string())?.status.unwrap_or_default();
        let container = status.container_statuses.unwrap_or_default().into_iter().next().ok_or("no container")?;
        let runs = container.state.is_some_and(|state| state.running.is_some());
        if runs && container.restart_count == 2 { Ok(()) } else { Err(format!("{} restarts", container.restart_count)) }
    })
    .await
    .unwrap();
    *runtime = start();
    cluster.running("pod", 2).await;
    assert_eq!(cluster.until("the exit is told", "pod", |_, container| container.exit_code).await, 137);
}

async fn ends_and_is_told(cluster: &Cluster, client: &Client) {
    // It is stopped with its grace, and its exit code outlives the Pod.
    let pid = cluster.running("pod", 2).await;
    let patch = Patch::Merge(json!({"spec": {"run": false}}));
    cluster.instances.patch("pod", &PatchParams::default(), &patch).await.unwrap();
    cluster.gone("pod").await;
    assert!(!is_alive(pid));
    let ended = |_: &ModelInstance, container: &ContainerStatus| {
        (container.state == ContainerState::Terminated).then_some(container.exit_code).flatten()
    };
    assert_eq!(cluster.until("it has ended", "pod", ended).await, 0);
    // One that ends for good stays, with its exit code, in a Pod that its kubelet doesn't restart.
    let container = json!({"name": "demo", "image": workload::IMAGE, "args": ["once", "--exit", "7"]});
    let spec =
        json!({"runtime": "kubernetes", "restartPolicy": "Never", "hostNetwork": true, "containers": [container]});
    create(client, instance("once", spec)).await;
    assert_eq!(cluster.until("it has ended", "once", ended).await, 7);
    // Somebody deletes a Pod: it comes back.
    let patch = Patch::Merge(json!({"spec": {"run": true}}));
    cluster.instances.patch("pod", &PatchParams::default(), &patch).await.unwrap();
    let first = cluster.until("it runs", "pod", |_, c| c.pid.filter(|_| c.state == ContainerState::Running)).await;
    cluster.pods.delete("pod", &DeleteParams::default()).await.unwrap();
    cluster
        .until("it runs again", "pod", |_, c| c.pid.filter(|pid| c.state == ContainerState::Running && *pid != first))
        .await;
}

async fn what_cannot_be_is_said(cluster: &Cluster, client: &Client) {
    let container = json!({"name": "demo", "image": "localhost/not-there:1", "imagePullPolicy": "Never"});
    let spec = json!({"runtime": "kubernetes", "containers": [container]});
    create(client, instance("no-image", spec)).await;
    let said = cluster
        .until("the image is missed", "no-image", |object, _| {
            condition(object, "Ready").filter(|(_, reason, _)| reason == "ImageMissing")
        })
        .await;
    assert!(said.2.contains("ErrImageNeverPull"), "{said:?}");
    let container = json!({"name": "demo", "image": workload::IMAGE});
    let spec = json!({"runtime": "kubernetes", "containers": [container]});
    let mut networked = instance("networked", spec);
    networked["spec"]["network"] = json!({"name": "backbone", "addresses": ["10.20.0.5"], "gateways": ["10.20.0.1"]});
    create(client, networked).await;
    let said = cluster
        .until("the Network is refused", "networked", |object, _| {
            condition(object, "Accepted").filter(|(status, ..)| status == "False")
        })
        .await;
    assert_eq!(said.1, "CannotHonour");
    assert!(said.2.contains("can't join Network backbone"), "{said:?}");
    // The chart lets nodes read what workloads refer to in the namespaces that were named.
    if grants().is_some() {
        let container = json!({"name": "demo", "image": workload::IMAGE});
        let spec = json!({"containers": [container], "volumes": [{"name": "v", "configMap": {"name": "of-others"}}]});
        let mut elsewhere = instance("elsewhere", spec);
        elsewhere["metadata"]["namespace"] = json!(ELSEWHERE);
        create(client, elsewhere).await;
        let instances: Api<ModelInstance> = Api::namespaced(client.clone(), ELSEWHERE);
        wait_for("it is said what may not be read", LIMIT, async || {
            let object = instances.get("elsewhere").await.map_err(|error| error.to_string())?;
            match condition(&object, "Ready") {
                Some((_, reason, message)) if reason == "VolumeMissing" => Ok(message),
                other => Err(format!("{other:?}")),
            }
        })
        .await
        .map(|message| {
            let said = "ConfigMap kube-public/of-others can't be read: configmaps \"of-others\" is forbidden: ";
            assert!(message.contains(said) && message.ends_with("(chart: rbac.dataNamespaces)"), "{message}");
        })
        .unwrap();
        instances.delete("elsewhere", &DeleteParams::default()).await.unwrap();
    }
    // A Pod's cpuset is the kubelet's, and holds every CPU.
    let container = json!({"name": "demo", "image": workload::IMAGE, "args": ["deadline"]});
    let spec = json!({"runtime": "kubernetes", "terminationGracePeriodSeconds": 0, "containers": [container]});
    create(client, realtime(instance("deadline", spec), "DEADLINE", None)).await;
    let said = cluster.until("its thread is looked at", "deadline", |object, _| {
        condition(object, "RealTime").filter(|(_, reason, _)| reason != "Starting" && reason != "NotRunning")
    });
    let (status, reason, message) = said.await;
    assert_eq!(status, "False", "{reason}: {message}");
    if Path::new("/sys/fs/cgroup/cpuset").exists() {
        let named = ["can't be pinned", "cpuset", "which is somebody else's"];
        assert!(named.iter().all(|part| message.contains(part)), "{reason}: {message}");
    } else {
        println!("DEADLINE in a Pod, with cgroup version 2: {reason}: {message}");
    }
}

/// A Network of mode Host gives a Pod on the cluster's network its class, by its interface, for as long as both are there.
async fn sends_in_its_class(kube: &RealKube, cluster: &Cluster, client: &Client) {
    let container = json!({"name": "demo", "image": workload::IMAGE, "args": ["guest"]});
    let spec = json!({"runtime": "kubernetes", "terminationGracePeriodSeconds": 0, "containers": [container]});
    create(client, instance("guest", spec.clone())).await;
    let mut on_host = spec;
    on_host["hostNetwork"] = json!(true);
    create(client, instance("guest-on-host", on_host)).await;
    let pid = cluster.running("guest", 0).await;
    cluster.running("guest-on-host", 0).await;
    let mut endpoints = Vec::new();
    for (identity, name) in (1..).zip(["guest", "guest-on-host"]) {
        let uid = cluster.instances.get(name).await.unwrap().metadata.uid.unwrap();
        endpoints.push(json!({"instance": format!("default/{name}"), "uid": uid, "model": name, "network": 1, "identity": identity, "node": NODE}));
    }
    create(client, json!({
        "apiVersion": "pullpiri.io/v1alpha1", "kind": "NetworkSlice", "metadata": {"name": "kube-node-1"},
        "spec": {
            "nodeName": NODE, "generation": 1, "index": 0, "count": 1, "endpoints": endpoints,
            "networks": [{"id": 1, "name": "default/host", "mode": "Host", "internal": "Allow", "masquerade": false}],
            "classes": [{"id": 1, "name": CLASS, "priority": 0, "guaranteeBps": 1_000_000}],
            "selectors": [{"class": 1, "identity": 1, "network": 1, "protocol": 17, "port": 7009}],
        },
    })).await;
    let links = || {
        let output =
            kube.command().args(["run", "sh", "-c", "ls /sys/fs/bpf/pullpiri/kube-node-*/links"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(str::to_owned).collect::<Vec<String>>()
    };
    let guests = || links().into_iter().filter(|link| link.ends_with("~guest_egress")).count();
    let sent = wait_for("what it sends is in its class", LIMIT, async || {
        send_from(pid, "10.217.9.1:7009").map_err(|error| error.to_string())?;
        let count = metric("class_packets_total", CLASS)?;
        if count > 0 { Ok(count) } else { Err(format!("none is; {:?}", links())) }
    });
    let before = sent.await.unwrap();
    assert_eq!(guests(), 1);
    // Of another port, it isn't.
    send_from(pid, "10.217.9.1:7010").unwrap();
    let after = metric("class_packets_total", CLASS).unwrap();
    assert!(after - before <= 10, "{before}, then {after}");
    // A Pod in the node's own network is known by a cgroup of version 2 only; a kubelet with version 1 has none for it.
    let nodes: Api<NodeRuntime> = Api::all(client.clone());
    wait_for("the other one has its class, or it is said why not", LIMIT, async || {
        if links().iter().any(|link| link.ends_with("~host_egress")) {
            return Ok(());
        }
        let status = nodes.get(NODE).await.map_err(|error| error.to_string())?.status.unwrap_or_default();
        let found = status.conditions.iter().find(|condition| condition.type_ == "Network").cloned();
        match found {
            Some(said) if said.reason == "NoQos" && said.message.contains("default/guest-on-host") => {
                println!("{}", said.message);
                Ok(())
            }
            other => Err(format!("{other:?}, {:?}", links())),
        }
    })
    .await
    .unwrap();
    cluster.instances.delete("guest", &DeleteParams::default()).await.unwrap();
    cluster.gone("guest").await;
    wait_for("nothing of it is attached", LIMIT, async || match guests() {
        0 => Ok(()),
        _ => Err(format!("{:?}", links())),
    })
    .await
    .unwrap();
    let slices: Api<NetworkSlice> = Api::all(client.clone());
    slices.delete("kube-node-1", &DeleteParams::default()).await.unwrap();
    wait_for("everything of Networks is gone", LIMIT, async || match links().len() {
        0 => Ok(()),
        _ => Err(format!("{:?}", links())),
    })
    .await
    .unwrap();
}

/// Every right that the chart gives a node was used by this test, and none was missed.
fn every_right_was_used(audit: &Audit) {
    let Some(objects) = grants() else { return };
    let (used, refused) = audit.of(USER);
    // What this test had it ask for in vain.
    let in_vain = ["list /configmaps", "update coordination.k8s.io/leases"].map(str::to_owned);
    assert_eq!(refused, BTreeSet::from(in_vain), "a node was refused something else, too");
    let given = objects.iter().filter(|object| matches!(object["kind"].as_str(), Some("ClusterRole" | "Role")));
    let given: BTreeSet<String> = given.flat_map(|role| rights(&role["rules"])).collect();
    let unused: Vec<&String> = given.difference(&used).collect();
    assert!(unused.is_empty(), "nothing needs these: {unused:?}");
    // What the chart's permissions are tested with (rbac.rs).
    let unasked: Vec<String> = recorded().difference(&used).cloned().collect();
    assert!(unasked.is_empty(), "nobody asked for these: {unasked:?}");
}
