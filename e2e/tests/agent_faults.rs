//! The node agent against the real API server: the life of instances, and everything failing that can.

// Tests, but clippy knows tests by their attribute, which these functions don't have.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod agent_support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use agent_support::{Cluster, Fake, LIMIT, Node, condition, one_container, reason};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use pullpiri_agent::{Config, Heartbeat};
use pullpiri_crds::NodeRuntime;
use pullpiri_e2e::wait_for;
use serde_json::{Value, json};

#[tokio::test]
async fn an_instance_runs_restarts_and_goes() {
    let (cluster, runtime, dir) = (Cluster::start().await, Fake::new(), tempfile::tempdir().unwrap());
    let node = Node::start(&cluster, &runtime, dir.path());
    cluster.create("blis", one_container()).await;
    let running = cluster.until_running("blis").await;
    assert_eq!(running["metadata"]["finalizers"], json!(["pullpiri.io/node"]));
    assert_eq!(running["status"]["containers"][0]["pid"], 1001);
    assert_eq!(running["status"]["runtime"], "oci");
    assert_eq!(running["status"]["observedGeneration"], 1);

    runtime.exit("blis", "x", 3);
    let restarted = cluster.until("blis", |o| o["status"]["restarts"] == 1 && condition(o, "Ready") == "True").await;
    assert_eq!(restarted["status"]["containers"][0]["exitCode"], 3);
    // The second in a row waits.
    runtime.exit("blis", "x", 3);
    let waiting = cluster.until("blis", |o| reason(o, "Ready") == "CrashLoopBackOff").await;
    assert_eq!(waiting["status"]["containers"][0]["state"], "Waiting");
    assert_eq!(runtime.runs("blis"), 1);

    let patch = Patch::Merge(json!({ "spec": { "run": false } }));
    cluster.instances().patch("blis", &PatchParams::default(), &patch).await.unwrap();
    cluster.until("blis", |o| reason(o, "Ready") == "Stopped" && o["status"]["phase"] == "Pending").await;
    assert!(runtime.pods().is_empty());
    let patch = Patch::Merge(json!({ "spec": { "run": true } }));
    cluster.instances().patch("blis", &PatchParams::default(), &patch).await.unwrap();
    cluster.until_running("blis").await;

    cluster.instances().delete("blis", &DeleteParams::default()).await.unwrap();
    cluster.until_gone("blis").await;
    assert!(runtime.pods().is_empty());
    let ledger = wait_for("the ledger forgets", LIMIT, || async {
        let files = std::fs::read_dir(dir.path().join("ledger")).unwrap().count();
        if files == 0 { Ok(()) } else { Err(format!("{files} files")) }
    });
    ledger.await.unwrap();
    let reasons = wait_for("the Events are told", LIMIT, || async {
        let reasons = cluster.events("blis").await;
        if reasons.iter().filter(|reason| *reason == "Killing").count() == 1 {
            Ok(reasons)
        } else {
            Err(format!("{reasons:?}"))
        }
    });
    let reasons = reasons.await.unwrap();
    for expected in ["Started", "Running", "Exited", "Restarted", "BackOff", "Killing"] {
        assert!(reasons.iter().any(|reason| reason == expected), "{expected} in {reasons:?}");
    }
    node.stop().await;
}

#[tokio::test]
async fn a_node_registers_and_beats() {
    let (cluster, runtime, dir) = (Cluster::start().await, Fake::new(), tempfile::tempdir().unwrap());
    let mut config = Config::new("ZONE", dir.path());
    config.heartbeat.renew = Duration::from_millis(20);
    let node = Node::start_with(&cluster, &runtime, config);
    let nodes: Api<NodeRuntime> = Api::all(cluster.admin.clone());
    let registered = || async {
        let known = nodes.get_opt("zone").await.map_err(|error| error.to_string())?;
        let known = serde_json::to_value(known).unwrap();
        if condition(&known, "Ready") == "True" { Ok(known) } else { Err(known.to_string()) }
    };
    let known: Value = wait_for("the node registers", LIMIT, registered).await.unwrap();
    assert_eq!(known["metadata"]["annotations"]["pullpiri.io/published-node"], "ZONE");
    assert_eq!(known["metadata"]["labels"]["kubernetes.io/hostname"], "zone");
    assert_eq!(known["status"]["defaultRuntime"], "oci");
    assert_eq!(known["status"]["runtimes"], json!([{ "name": "oci", "available": true, "version": "fake" }]));

    let leases: Api<Lease> = Api::namespaced(cluster.admin.clone(), "kube-node-lease");
    let renewed = || async {
        let lease = leases.get_opt("pullpiri-zone").await.map_err(|error| error.to_string())?;
        let spec = lease.and_then(|lease| lease.spec).ok_or("no lease")?;
        if spec.renew_time > spec.acquire_time { Ok(spec) } else { Err(format!("{spec:?}")) }
    };
    let lease = wait_for("the heartbeat is renewed", LIMIT, renewed).await.unwrap();
    assert!(lease.holder_identity.is_some_and(|holder| holder.starts_with("zone_")));
    assert_eq!(lease.lease_duration_seconds, Some(40));

    // Somebody deletes it: it comes back.
    let uid = known["metadata"]["uid"].clone();
    nodes.delete("zone", &DeleteParams::default()).await.unwrap();
    let again: Value = wait_for("the node registers again", LIMIT, registered).await.unwrap();
    assert_ne!(again["metadata"]["uid"], uid);
    node.stop().await;
}

/// Two data directories with one name: the first goes on untouched, the second begins when that one's Lease has run out.
#[tokio::test]
async fn a_second_node_of_a_name_waits_for_the_first() {
    let cluster = Cluster::start().await;
    let (first, second) = (Fake::new(), Fake::new());
    let (dir, other_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = |dir: &tempfile::TempDir| {
        let mut config = Config::new("ZONE", dir.path());
        config.heartbeat = Heartbeat { renew: Duration::from_millis(50), hold: Duration::from_secs(3) };
        config
    };
    let leases: Api<Lease> = Api::namespaced(cluster.admin.clone(), "kube-node-lease");
    let held = || async {
        let lease = leases.get_opt("pullpiri-zone").await.map_err(|error| error.to_string())?;
        lease.and_then(|lease| lease.spec).ok_or_else(|| "no lease".to_owned())
    };
    let node = Node::start_with(&cluster, &first, config(&dir));
    cluster.create("blis", one_container()).await;
    let running = cluster.until_running("blis").await;
    let holder = wait_for("the first beats", LIMIT, held).await.unwrap().holder_identity;

    let newcomer = Node::start_with(&cluster, &second, config(&other_dir));
    for _ in 0..2 {
        let before = held().await.unwrap().renew_time;
        let renewed = || async {
            let now = held().await?;
            let since = |time: Option<MicroTime>| time.map(|time| time.0.as_millisecond()).unwrap_or_default();
            let span = since(now.renew_time.clone()) - since(before.clone());
            if span >= 1_000 { Ok(now) } else { Err(format!("renewed for {span} ms")) }
        };
        assert_eq!(wait_for("the first goes on", LIMIT, renewed).await.unwrap().holder_identity, holder);
    }
    // Killed and started again, it goes on at once: its Lease is its own.
    node.kill().await;
    let node = Node::start_with(&cluster, &first, config(&dir));
    cluster.create("more", one_container()).await;
    cluster.until_running("more").await;
    assert_eq!((first.runs("blis"), first.runs("more")), (1, 1));
    assert!(second.pods().is_empty());
    let now = cluster.until_running("blis").await;
    assert_eq!(now["status"]["containers"], running["status"]["containers"]);
    assert_eq!(now["status"]["conditions"], running["status"]["conditions"], "nobody else has written it");

    node.kill().await;
    let taken = || async { if second.runs("blis") == 1 { Ok(()) } else { Err("not yet".to_owned()) } };
    wait_for("the second takes over", LIMIT, taken).await.unwrap();
    let spec = wait_for("it beats", LIMIT, held).await.unwrap();
    assert_ne!(spec.holder_identity, holder);
    newcomer.stop().await;
}

#[tokio::test]
async fn a_killed_agent_finds_everything_again() {
    let (cluster, runtime, dir) = (Cluster::start().await, Fake::new(), tempfile::tempdir().unwrap());
    let node = Node::start(&cluster, &runtime, dir.path());
    for name in ["stays", "always", "leaves"] {
        cluster.create(name, one_container()).await;
    }
    let mut job = one_container();
    job["restartPolicy"] = json!("Never");
    cluster.create("job", job).await;
    for name in ["stays", "always", "leaves", "job"] {
        cluster.until_running(name).await;
    }
    let pid = cluster.until_running("stays").await["status"]["containers"][0]["pid"].clone();
    node.kill().await;

    runtime.exit("job", "x", 9);
    runtime.exit("always", "x", 2);
    runtime.leave_behind("stray");
    cluster.instances().delete("leaves", &DeleteParams::default()).await.unwrap();
    let node = Node::start(&cluster, &runtime, dir.path());
    cluster.until_gone("leaves").await;
    let job = cluster.until("job", |o| o["status"]["phase"] == "Failed").await;
    assert_eq!(job["status"]["containers"][0]["exitCode"], 9);
    let always = cluster.until("always", |o| o["status"]["restarts"] == 1 && condition(o, "Ready") == "True").await;
    assert_eq!(always["status"]["containers"][0]["exitCode"], 2);
    let swept = || async {
        let names: Vec<String> = runtime.pods().into_iter().map(|pod| pod.name).collect();
        if names.iter().any(|name| name == "stray" || name == "leaves") { Err(format!("{names:?}")) } else { Ok(()) }
    };
    wait_for("nothing is leaked", LIMIT, swept).await.unwrap();
    assert_eq!(cluster.until_running("stays").await["status"]["containers"][0]["pid"], pid);
    for name in ["stays", "always", "job"] {
        assert_eq!(runtime.runs(name), 1, "{name} is adopted");
    }
    assert_eq!(runtime.stops("stays"), 0);
    node.stop().await;
    assert_eq!(runtime.pods().len(), 3, "workloads outlive their node's agent");
}

#[tokio::test]
async fn a_node_boots_its_services_with_no_api_server_in_reach() {
    let (cluster, runtime, dir) = (Cluster::start().await, Fake::new(), tempfile::tempdir().unwrap());
    let maps: Api<ConfigMap> = Api::namespaced(cluster.admin.clone(), "default");
    let map = json!({ "metadata": { "name": "conf" }, "data": { "gear": "P" } });
    maps.create(&PostParams::default(), &serde_json::from_value(map).unwrap()).await.unwrap();
    let mut with_data = one_container();
    with_data["containers"][0]["env"] =
        json!([{ "name": "GEAR", "valueFrom": { "configMapKeyRef": { "name": "conf", "key": "gear" } } }]);
    let node = Node::start(&cluster, &runtime, dir.path());
    cluster.create("blis", with_data).await;
    cluster.create("gone", one_container()).await;
    cluster.until_running("blis").await;
    cluster.until_running("gone").await;
    node.stop().await;

    // The vehicle is switched off and on, out of reach; one instance is deleted meanwhile.
    cluster.cut.store(true, Ordering::SeqCst);
    let rebooted = Fake::new();
    cluster.instances().delete("gone", &DeleteParams::default()).await.unwrap();
    let node = Node::start(&cluster, &rebooted, dir.path());
    let started = || async {
        if rebooted.runs("blis") == 1 && rebooted.runs("gone") == 1 {
            Ok(())
        } else {
            Err(format!("{:?}", rebooted.pods()))
        }
    };
    wait_for("the ledger's services start", LIMIT, started).await.unwrap();
    assert_eq!(rebooted.spec("blis").unwrap().containers[0].env, [("GEAR".to_owned(), "P".to_owned())]);
    rebooted.exit("blis", "x", 1);
    let first = cluster.until("blis", |o| o["status"]["restarts"] == 0).await;
    assert_eq!(first["status"]["phase"], "Running", "nobody could tell yet");

    // In contact again: the API server is the truth, and hears what happened.
    cluster.cut.store(false, Ordering::SeqCst);
    cluster.until_gone("gone").await;
    let told = cluster.until("blis", |o| o["status"]["restarts"].as_i64() >= Some(1)).await;
    assert_eq!(told["status"]["containers"][0]["exitCode"], 1);
    // Unless contact took longer than the wait did.
    if told["status"]["restarts"] == 1 {
        assert_eq!(reason(&told, "Ready"), "CrashLoopBackOff");
    }
    assert_eq!(rebooted.stops("gone"), 1);
    node.stop().await;
}

#[tokio::test]
async fn a_missing_image_is_told_and_found_when_it_comes() {
    let (cluster, runtime, dir) = (Cluster::start().await, Fake::new(), tempfile::tempdir().unwrap());
    runtime.set_missing("localhost/x:1", true);
    let node = Node::start(&cluster, &runtime, dir.path());
    cluster.create("blis", one_container()).await;
    let missing = cluster.until("blis", |o| reason(o, "Ready") == "ImageMissing").await;
    assert_eq!(missing["status"]["containers"][0]["reason"], "ImageMissing");
    runtime.set_missing("localhost/x:1", false);
    runtime.resync();
    cluster.until_running("blis").await;
    node.stop().await;
}

#[tokio::test]
async fn what_is_still_starting_goes_before_its_successor_comes() {
    let (cluster, runtime, dir) = (Cluster::start().await, Fake::new(), tempfile::tempdir().unwrap());
    let node = Node::start(&cluster, &runtime, dir.path());
    let closed = runtime.gate.write().await;
    cluster.create_of("blis", "old", one_container()).await;
    wait_for("the start of the old one", LIMIT, || async {
        if runtime.begun.load(Ordering::SeqCst) == 1 { Ok(()) } else { Err("not begun".to_owned()) }
    })
    .await
    .unwrap();
    cluster.instances().delete("old", &DeleteParams::default()).await.unwrap();
    cluster.create_of("blis", "new", one_container()).await;
    let waits = cluster.until("new", |o| reason(o, "Ready") == "Updating").await;
    assert!(waits["status"]["conditions"].to_string().contains("waiting for the pod of old"), "{waits}");
    assert_eq!(runtime.begun.load(Ordering::SeqCst), 1);
    drop(closed);
    cluster.until_running("new").await;
    cluster.until_gone("old").await;
    assert_eq!((runtime.runs("old"), runtime.stops("old"), runtime.runs("new")), (1, 1, 1));
    assert_eq!(runtime.pods().len(), 1);
    node.stop().await;
}

#[tokio::test]
async fn data_reaches_a_running_pod() {
    let (cluster, runtime, dir) = (Cluster::start().await, Fake::new(), tempfile::tempdir().unwrap());
    let node = Node::start(&cluster, &runtime, dir.path());
    let mut spec = one_container();
    spec["volumes"] = json!([{ "name": "conf", "configMap": { "name": "conf" } }]);
    spec["containers"][0]["volumeMounts"] = json!([{ "name": "conf", "mountPath": "/etc/conf" }]);
    cluster.create("blis", spec).await;
    let missing = cluster.until("blis", |o| reason(o, "Ready") == "VolumeMissing").await;
    let message = missing["status"]["conditions"][1]["message"].as_str().unwrap();
    assert_eq!(message, "spec.template.spec.volumes[0]: ConfigMap default/conf doesn't exist");

    let maps: Api<ConfigMap> = Api::namespaced(cluster.admin.clone(), "default");
    let map = json!({ "metadata": { "name": "conf" }, "data": { "mode": "eco" } });
    maps.create(&PostParams::default(), &serde_json::from_value(map).unwrap()).await.unwrap();
    let uid = cluster.until_running("blis").await["metadata"]["uid"].as_str().unwrap().to_owned();
    let volume = dir.path().join("volumes").join(uid).join("conf");
    assert_eq!(std::fs::read_to_string(volume.join("mode")).unwrap(), "eco");
    let patch = Patch::Merge(json!({ "data": { "mode": "sport" } }));
    maps.patch("conf", &PatchParams::default(), &patch).await.unwrap();
    let rewritten = || async {
        match std::fs::read_to_string(volume.join("mode")).unwrap().as_str() {
            "sport" => Ok(()),
            other => Err(other.to_owned()),
        }
    };
    wait_for("the file follows", LIMIT, rewritten).await.unwrap();
    assert_eq!(runtime.runs("blis"), 1, "nothing is restarted for that");
    cluster.instances().delete("blis", &DeleteParams::default()).await.unwrap();
    cluster.until_gone("blis").await;
    assert!(!volume.exists());
    node.stop().await;
}

#[tokio::test]
async fn many_instances_converge_though_operations_and_requests_fail() {
    let (cluster, runtime, dir) = (Cluster::start().await, Fake::new(), tempfile::tempdir().unwrap());
    let node = Node::start(&cluster, &runtime, dir.path());
    runtime.failing.store(15, Ordering::SeqCst);
    let names: Vec<String> = (0..40).map(|number| format!("many-{number}")).collect();
    for (index, name) in names.iter().enumerate() {
        cluster.create(name, one_container()).await;
        cluster.cut.store(index % 4 == 3, Ordering::SeqCst);
    }
    cluster.cut.store(false, Ordering::SeqCst);
    for name in &names {
        cluster.until_running(name).await;
        assert_eq!(runtime.runs(name), 1);
    }
    for name in &names {
        cluster.instances().delete(name, &DeleteParams::default()).await.unwrap();
    }
    runtime.failing.store(2, Ordering::SeqCst);
    for name in &names {
        cluster.until_gone(name).await;
    }
    assert!(runtime.pods().is_empty());
    node.stop().await;
}

#[tokio::test]
async fn workloads_stop_with_the_node_if_that_is_wished() {
    let (cluster, runtime, dir) = (Cluster::start().await, Fake::new(), tempfile::tempdir().unwrap());
    let mut config = Config::new("ZONE", dir.path());
    config.stop_workloads = true;
    let node = Node::start_with(&cluster, &runtime, config.clone());
    cluster.create("blis", one_container()).await;
    let mut job = one_container();
    job["restartPolicy"] = json!("Never");
    cluster.create("job", job).await;
    cluster.until_running("blis").await;
    cluster.until_running("job").await;
    runtime.exit("job", "x", 0);
    cluster.until("job", |o| o["status"]["phase"] == "Succeeded").await;
    node.stop().await;
    assert!(runtime.pods().is_empty());
    let stopped = cluster.until("blis", |o| o["status"]["phase"] == "Pending").await;
    assert_eq!(condition(&stopped, "Ready"), "False");

    let node = Node::start_with(&cluster, &runtime, config);
    let again = cluster.until_running("blis").await;
    assert_eq!(again["status"]["restarts"], 0, "a start with its node is no restart");
    let job = cluster.until("job", |o| o["status"]["phase"] == "Succeeded").await;
    assert_eq!(job["status"]["containers"][0]["exitCode"], 0);
    assert_eq!(runtime.runs("job"), 1, "what is done is done");
    node.stop().await;
}

#[tokio::test]
async fn a_node_whose_workloads_cannot_be_stopped_says_so() {
    let (cluster, runtime, dir) = (Cluster::start().await, Fake::new(), tempfile::tempdir().unwrap());
    let mut config = Config::new("ZONE", dir.path());
    config.stop_workloads = true;
    let node = Node::start_with(&cluster, &runtime, config.clone());
    cluster.create("blis", one_container()).await;
    cluster.until_running("blis").await;
    let left = "stopping the workloads: 1 of 1 pods couldn't be stopped and may still run: default/blis";
    // The runtime's service goes away, unseen.
    runtime.away.store(true, Ordering::SeqCst);
    assert_eq!(node.stopped().await.unwrap_err().to_string(), left);
    // It is away since before the node's start.
    let node = Node::start_with(&cluster, &runtime, config.clone());
    let nodes: Api<NodeRuntime> = Api::all(cluster.admin.clone());
    let seen = || async {
        let node = nodes.get("zone").await.map_err(|error| error.to_string())?;
        let is_away = node.status.is_some_and(|status| status.runtimes.iter().all(|runtime| !runtime.available));
        is_away.then_some(()).ok_or_else(|| "the runtime is available".to_owned())
    };
    wait_for("the node knows", LIMIT, seen).await.unwrap();
    assert_eq!(node.stopped().await.unwrap_err().to_string(), left);
    assert_eq!(runtime.pods().len(), 1);
    // It is back, and what ran on is stopped.
    runtime.away.store(false, Ordering::SeqCst);
    let node = Node::start_with(&cluster, &runtime, config);
    cluster.until("blis", |o| condition(o, "Ready") == "True").await;
    node.stop().await;
    assert!(runtime.pods().is_empty());
    assert_eq!(runtime.runs("blis"), 1);
}

#[tokio::test]
async fn metrics_are_what_they_say() {
    let (cluster, runtime, dir) = (Cluster::start().await, Fake::new(), tempfile::tempdir().unwrap());
    let node = Node::start(&cluster, &runtime, dir.path());
    cluster.create("blis", one_container()).await;
    cluster.until_running("blis").await;
    runtime.exit("blis", "x", 143);
    cluster.until("blis", |o| o["status"]["restarts"] == 1).await;
    let lines = [
        "pullpiri_node_instances{phase=\"Running\"} 1",
        "pullpiri_node_pod_starts_total 1",
        "pullpiri_node_container_restarts_total 1",
        "pullpiri_node_container_exits_total{class=\"Signal\"} 1",
        "pullpiri_node_pod_start_seconds_count 1",
        "pullpiri_node_api_connected 1",
    ];
    wait_for("the metrics say so", LIMIT, || async {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &node.registry).unwrap();
        lines.iter().find(|line| !text.contains(**line)).map_or(Ok(()), |line| Err(format!("{line} in\n{text}")))
    })
    .await
    .unwrap();
    node.stop().await;
}

#[tokio::test]
async fn a_stop_that_fails_is_tried_again() {
    let (cluster, runtime, dir) = (Cluster::start().await, Fake::new(), tempfile::tempdir().unwrap());
    let node = Node::start(&cluster, &runtime, dir.path());
    cluster.create("blis", one_container()).await;
    cluster.until_running("blis").await;
    // Until it was seen, however long that takes.
    runtime.failing.store(u32::MAX, Ordering::SeqCst);
    cluster.instances().delete("blis", &DeleteParams::default()).await.unwrap();
    cluster.until("blis", |o| reason(o, "Degraded") == "RuntimeError").await;
    assert!(!runtime.pods().is_empty());
    runtime.failing.store(0, Ordering::SeqCst);
    cluster.until_gone("blis").await;
    assert!(runtime.pods().is_empty());
    node.stop().await;
}
