//! The controllers against the API server in process: what signals, claims and nodes make of packages, with nodes played by the test.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on should stop")]

mod controllers_support;

use std::time::Instant;

use controllers_support::{Bed, LIMIT, NS, model};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use pullpiri_crds::{Claim, Model, ModelInstance, NodeRuntime, Package, Scenario, Signal};
use pullpiri_e2e::wait_for;
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_tell_since_when_they_are_wished() {
    let bed = Bed::start().await;
    let since = k8s_openapi::jiff::Timestamp::now() - k8s_openapi::jiff::SignedDuration::from_hours(50);
    for (name, spec) in [
        ("mine", json!({"package": "p", "action": "launch"})),
        ("old", json!({"package": "p", "action": "launch", "since": since.to_string()})),
    ] {
        let claim =
            json!({"apiVersion": "pullpiri.io/v1alpha1", "kind": "Claim", "metadata": {"name": name}, "spec": spec});
        bed.apply::<Claim>(claim).await;
    }
    bed.apply::<Scenario>(json!({
        "apiVersion": "pullpiri.io/v1alpha1", "kind": "Scenario", "metadata": {"name": "now"},
        "spec": {"action": "launch", "target": "p"},
    }))
    .await;
    wait_for("a claim of the scenario", LIMIT, || async {
        bed.api::<Claim>().get("now").await.map(|_| ()).map_err(|error| error.to_string())
    })
    .await
    .unwrap();
    let request = http::Request::get("/apis/pullpiri.io/v1alpha1/namespaces/default/claims")
        .header("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
        .body(Vec::new())
        .unwrap();
    let table: serde_json::Value = bed.client.request(request).await.unwrap();
    let at =
        table["columnDefinitions"].as_array().unwrap().iter().position(|column| column["name"] == "Since").unwrap();
    let cells =
        |row: usize| [&table["rows"][row]["cells"][0], &table["rows"][row]["cells"][at]].map(|c| c.as_str().unwrap());
    assert_eq!(cells(1)[0], "now");
    assert_eq!(cells(2), ["old", "2d2h"]);
    assert!(cells(0)[0] == "mine" && [cells(0)[1], cells(1)[1]].iter().all(|age| age.ends_with('s')), "{table}");
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_starts_a_package_on_two_nodes_and_another_stops_it() {
    let bed = Bed::start().await;
    bed.scenario("eco", "P", "update").await;
    bed.bms().await;
    bed.until_scenario("eco", "Waiting").await;
    let idle = bed.until_package("bms", "Idle").await;
    let placed = idle.status.unwrap().conditions.into_iter().find(|c| c.type_ == "Placed").unwrap();
    assert_eq!((placed.status.as_str(), placed.reason.as_str()), ("False", "NodeNotFound"));
    bed.node("zone", 40).await;
    bed.node("hpc", 40).await;

    bed.signal("Gear", "gear", "D").await;
    bed.signal("Gear", "gear", "P").await;
    let instances = bed.until_instances("two instances", |i| i.len() == 2).await;
    let mut nodes: Vec<_> = instances.iter().map(|i| (i.spec.model.as_str(), i.spec.node_name.as_str())).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, [("blis", "zone"), ("mavd", "hpc")]);
    let package = bed.until_package("bms", "Updating").await;
    for instance in &instances {
        assert!(instance.spec.run && instance.spec.epoch == 1);
        let owners = instance.metadata.owner_references.as_ref().unwrap();
        assert_eq!(
            (owners.len(), Some(&owners[0].uid), owners[0].controller),
            (1, package.metadata.uid.as_ref(), Some(true))
        );
    }
    let claim = bed.api::<Claim>().get("eco").await.unwrap();
    assert_eq!(claim.spec.because[0].value.as_deref(), Some("P"));
    bed.until_scenario("eco", "Satisfied").await;

    for instance in &instances {
        bed.report(instance, "Running").await;
    }
    let running = bed.until_package("bms", "Running").await.status.unwrap();
    assert_eq!((running.ready.as_deref(), running.claim.as_deref()), (Some("2/2"), Some("eco")));
    let completed = bed.until_scenario("eco", "Completed").await;
    let path: Vec<_> = completed.status.unwrap().history.into_iter().map(|t| t.to).collect();
    assert_eq!(path, ["Waiting", "Satisfied", "Completed"]);

    // Another scenario stops it: the instances stay, and don't run.
    bed.scenario("off", "R", "terminate").await;
    bed.signal("Gear", "gear", "R").await;
    let stopped = bed.until_instances("both are to stop", |i| i.len() == 2 && i.iter().all(|i| !i.spec.run)).await;
    for instance in &stopped {
        bed.report(instance, "Pending").await;
    }
    bed.until_package("bms", "Paused").await;
    bed.until_scenario("off", "Completed").await;
    bed.until_scenario("eco", "Waiting").await;

    // Both claims vanish with their scenarios, and then nothing asks for the package.
    for name in ["eco", "off"] {
        bed.api::<Scenario>().delete(name, &DeleteParams::default()).await.unwrap();
    }
    wait_for("no claims", LIMIT, || async {
        let claims = bed.api::<Claim>().list(&ListParams::default()).await.unwrap().items;
        if claims.is_empty() { Ok(()) } else { Err(format!("{} claims", claims.len())) }
    })
    .await
    .unwrap();
    wait_for("no claim decides", LIMIT, || async {
        let status = bed.api::<Package>().get("bms").await.unwrap().status.unwrap();
        if status.claim.is_none() { Ok(()) } else { Err(format!("{:?}", status.claim)) }
    })
    .await
    .unwrap();

    // Every transition left an Event.
    let events: Api<Event> = Api::namespaced(bed.client.clone(), NS);
    wait_for("events", LIMIT, || async {
        let all = events.list(&ListParams::default()).await.unwrap().items;
        let mut notes: Vec<_> = all.iter().filter_map(|e| e.note.clone()).collect();
        notes.sort();
        let wanted = ["Waiting → Satisfied: update bms", "Satisfied → Completed: package bms is as wished"];
        if wanted.iter().all(|w| notes.iter().any(|n| n == w)) { Ok(()) } else { Err(format!("{notes:?}")) }
    })
    .await
    .unwrap();
    let metrics = bed.metrics();
    assert!(metrics.contains("pullpiri_controllers_claims_written_total 2"), "{metrics}");
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_writes_nothing_and_refires_nothing() {
    let mut bed = Bed::start().await;
    bed.node("zone", 40).await;
    bed.node("hpc", 40).await;
    bed.bms().await;
    bed.scenario("eco", "P", "launch").await;
    bed.signal("Gear", "gear", "P").await;
    for instance in bed.until_instances("two instances", |i| i.len() == 2).await {
        bed.report(&instance, "Running").await;
    }
    bed.until_scenario("eco", "Completed").await;
    bed.until_quiet().await;
    let versions = |bed: &Bed| {
        let (scenarios, packages, claims, instances, nodes) = (
            bed.api::<Scenario>(),
            bed.api::<Package>(),
            bed.api::<Claim>(),
            bed.api::<ModelInstance>(),
            Api::<NodeRuntime>::all(bed.client.clone()),
        );
        async move {
            let all = ListParams::default();
            let mut versions: Vec<String> = Vec::new();
            versions.extend(scenarios.list(&all).await.unwrap().iter().filter_map(ResourceExt::resource_version));
            versions.extend(packages.list(&all).await.unwrap().iter().filter_map(ResourceExt::resource_version));
            versions.extend(claims.list(&all).await.unwrap().iter().filter_map(ResourceExt::resource_version));
            versions.extend(instances.list(&all).await.unwrap().iter().filter_map(ResourceExt::resource_version));
            versions.extend(nodes.list(&all).await.unwrap().iter().filter_map(ResourceExt::resource_version));
            versions
        }
    };
    let before = versions(&bed).await;
    bed.stop_controllers().await;
    bed.start_controllers(1);
    bed.until_quiet().await;
    // The signal is gone for a while, as after a restart of everything, and comes back the same.
    Api::<Signal>::all(bed.client.clone()).delete("Gear", &DeleteParams::default()).await.unwrap();
    bed.signal("Gear", "gear", "P").await;
    wait_for("the sample of the list and the new one", LIMIT, || {
        let metrics = bed.metrics();
        async move { if metrics.contains("signal_samples_total 2") { Ok(()) } else { Err(metrics) } }
    })
    .await
    .unwrap();
    bed.until_quiet().await;
    assert_eq!(versions(&bed).await, before, "{}", bed.metrics());
    assert!(!bed.metrics().contains(r#"result="changed""#), "{}", bed.metrics());
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edited_model_replaces_its_instance_once_the_node_let_go_of_the_old_one() {
    let bed = Bed::start().await;
    bed.node("zone", 40).await;
    bed.apply::<Model>(model("blis", "localhost/blis:1.0")).await;
    bed.apply::<Package>(json!({
        "apiVersion": "pullpiri.io/v1alpha1", "kind": "Package", "metadata": {"name": "p"},
        "spec": {"models": [{"name": "blis", "node": "zone"}], "desiredState": "Running"},
    }))
    .await;
    let old = bed.until_instances("an instance", |i| i.len() == 1).await.remove(0);
    bed.report(&old, "Running").await;
    // As a node does, it keeps the object until its containers are gone.
    let api = bed.api::<ModelInstance>();
    let finalizers = |list: &[&str]| Patch::Merge(json!({"metadata": {"finalizers": list}}));
    api.patch(&old.name_any(), &PatchParams::default(), &finalizers(&["pullpiri.io/node"])).await.unwrap();
    bed.until_package("p", "Running").await;

    bed.apply::<Model>(model("blis", "localhost/blis:2.0")).await;
    bed.until_instances("the old one is leaving", |i| i.len() == 1 && i[0].metadata.deletion_timestamp.is_some()).await;
    bed.until_quiet().await;
    assert_eq!(bed.instances().await.len(), 1, "nothing is added while the old one is there");
    api.patch(&old.name_any(), &PatchParams::default(), &finalizers(&[])).await.unwrap();
    let new = bed
        .until_instances("the new one", |i| i.len() == 1 && i[0].metadata.deletion_timestamp.is_none())
        .await
        .remove(0);
    assert_eq!(new.spec.template.spec.containers[0].image, "localhost/blis:2.0");
    assert_ne!(new.name_any(), old.name_any());

    // A package that goes takes its instances along; a node that is removed lets go of them.
    api.patch(&new.name_any(), &PatchParams::default(), &finalizers(&["pullpiri.io/node"])).await.unwrap();
    bed.api::<Package>().delete("p", &DeleteParams::default()).await.unwrap();
    bed.until_instances("it is leaving", |i| i.len() == 1 && i[0].metadata.deletion_timestamp.is_some()).await;
    Api::<NodeRuntime>::all(bed.client.clone()).delete("zone", &DeleteParams::default()).await.unwrap();
    bed.until_instances("it is gone", <[ModelInstance]>::is_empty).await;
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_falls_silent_is_unknown_until_it_answers() {
    let bed = Bed::start().await;
    bed.node("zone", 1).await;
    bed.apply::<Model>(model("blis", "localhost/blis:1.0")).await;
    bed.apply::<Package>(json!({
        "apiVersion": "pullpiri.io/v1alpha1", "kind": "Package", "metadata": {"name": "p"},
        "spec": {"models": [{"name": "blis"}], "desiredState": "Running"},
    }))
    .await;
    bed.heartbeat("zone", 1).await;
    let instance = bed.until_instances("an instance", |i| i.len() == 1).await.remove(0);
    bed.report(&instance, "Running").await;
    bed.until_package("p", "Error").await;
    wait_for("what is said of the node and its instance", LIMIT, || async {
        let node = Api::<NodeRuntime>::all(bed.client.clone()).get("zone").await.unwrap();
        let ready = node.status.and_then(|s| s.conditions.into_iter().find(|c| c.type_ == "Ready")).map(|c| c.status);
        let phase = bed.instances().await[0].status.as_ref().map(|s| s.phase.as_str());
        if ready.as_deref() == Some("Unknown") && phase == Some("Unknown") {
            Ok(())
        } else {
            Err(format!("{ready:?} {phase:?}"))
        }
    })
    .await
    .unwrap();
    bed.heartbeat("zone", 3600).await;
    bed.report(&instance, "Running").await;
    bed.until_package("p", "Running").await;
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kinds_that_come_late_and_signals_that_never_come_are_waited_for() {
    let mut bed = Bed::bare(false).await;
    bed.start_controllers(1);
    wait_for("a failed watch", LIMIT, || {
        let metrics = bed.metrics();
        async move { if metrics.contains("watch_errors_total 0") { Err(metrics) } else { Ok(()) } }
    })
    .await
    .unwrap();
    bed.install().await;
    bed.node("zone", 3600).await;
    bed.node("hpc", 3600).await;
    bed.bms().await;
    bed.apply::<Scenario>(json!({
        "apiVersion": "pullpiri.io/v1alpha1", "kind": "Scenario", "metadata": {"name": "now"},
        "spec": {"condition": null, "action": "launch", "target": "bms"},
    }))
    .await;
    for instance in bed.until_instances("two instances", |i| i.len() == 2).await {
        bed.report(&instance, "Succeeded").await;
    }
    bed.until_package("bms", "Exited").await;
    bed.until_scenario("now", "Completed").await;
    bed.stop().await;
}

/// Prints how long a signal takes to reach the instances; the bar is held by the benchmark, on a machine that does nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_a_signal_to_the_instance() {
    let bed = Bed::start().await;
    bed.node("zone", 3600).await;
    bed.node("hpc", 3600).await;
    bed.bms().await;
    bed.scenario("on", "P", "launch").await;
    bed.scenario("off", "D", "terminate").await;
    bed.until_scenario("on", "Waiting").await;
    bed.until_scenario("off", "Waiting").await;
    let mut taken = Vec::new();
    for round in 0..12 {
        let (gear, run) = if round % 2 == 0 { ("P", true) } else { ("D", false) };
        let start = Instant::now();
        bed.signal("Gear", "gear", gear).await;
        let instances = bed.until_instances(gear, |i| i.len() == 2 && i.iter().all(|i| i.spec.run == run)).await;
        taken.push(start.elapsed());
        for instance in &instances {
            bed.report(instance, if run { "Running" } else { "Pending" }).await;
        }
        bed.until_package("bms", if run { "Running" } else { "Paused" }).await;
    }
    taken.sort_unstable();
    println!("signal to both instances: median {:?}, all {taken:?}", taken[taken.len() / 2]);
    let edges = bed.metrics();
    assert!(edges.contains("pullpiri_controllers_scenario_edges_total 12"), "{edges}");
    bed.stop().await;
}
