//! Real-time admission and addresses over the API server in process, with nodes played by the test.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on should stop")]

mod controllers_support;

use std::collections::BTreeSet;
use std::path::Path;

use controllers_support::{Bed, LIMIT, model};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use kube::discovery::ApiResource;
use kube::{Api, ResourceExt};
use pullpiri_crds::{Model, ModelInstance, Network, NodeRuntime, Package, Scenario, Schedule};
use pullpiri_e2e::wait_for;
use serde_json::{Value, json};

fn schedule(name: &str, tasks: &Value) -> Value {
    json!({"apiVersion": "pullpiri.io/v1alpha1", "kind": "Schedule", "metadata": {"name": name}, "spec": {"tasks": tasks}})
}

fn package(name: &str, models: &Value, schedule: Option<&str>) -> Value {
    let mut spec = json!({"models": models, "desiredState": "Running"});
    if let Some(schedule) = schedule {
        spec["schedule"] = json!(schedule);
    }
    json!({"apiVersion": "pullpiri.io/v1alpha1", "kind": "Package", "metadata": {"name": name}, "spec": spec})
}

fn control(wcet: &str) -> Value {
    json!([{"name": "control", "wcet": wcet, "period": "10ms", "cpus": "1", "target": {"model": "brake"}}])
}

/// The status that the Schedule has once its proof is of this generation.
async fn until_proof(bed: &Bed, name: &str, generation: i64, status: &str) -> pullpiri_crds::ScheduleStatus {
    wait_for(&format!("schedule {name} is {status} in generation {generation}"), LIMIT, || async {
        let found = bed.api::<Schedule>().get(name).await.unwrap().status.unwrap_or_default();
        let proven = found.conditions.iter().any(|c| c.type_ == "Schedulable" && c.status == status);
        if proven && found.observed_generation == Some(generation) { Ok(found) } else { Err(format!("{found:?}")) }
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_is_proven_changed_in_place_broken_and_repaired() {
    let bed = Bed::start().await;
    bed.node("ecu", 3600).await;
    bed.apply::<Model>(model("brake", "localhost/brake:1.0")).await;
    bed.apply::<Package>(package("drive", &json!([{"name": "brake", "node": "ECU"}]), Some("loop"))).await;
    bed.until_condition("drive", "Schedulable", "False", "ScheduleNotFound").await;
    bed.apply::<Schedule>(schedule("loop", &control("2ms"))).await;
    let said = bed.until_condition("drive", "Schedulable", "False", "NoRealTime").await;
    assert!(said.contains("node ecu"), "{said}");
    assert!(bed.instances().await.is_empty());

    // The node says what it can do, and that is enough.
    bed.real_time("ecu", "0-1", 950_000).await;
    let placed = bed.until_instances("the instance", |i| i.len() == 1).await.remove(0);
    let task = &placed.spec.realtime[0];
    assert_eq!(
        (task.name.as_str(), task.cpu, task.wcet_ns, task.response_time_ns),
        ("control", 1, 2_000_000, 2_000_000)
    );
    assert_eq!((task.container.as_deref(), task.schedule.as_deref()), (Some("brake"), Some("loop")));
    let proof = until_proof(&bed, "loop", 1, "True").await;
    assert_eq!((proof.package.as_deref(), proof.tasks.len()), (Some("drive"), 1));
    assert_eq!(
        (proof.tasks[0].cpu, proof.tasks[0].slack_ns, proof.tasks[0].schedulable),
        (Some(1), Some(8_000_000), true)
    );
    bed.report(&placed, "Running").await;
    bed.until_package("drive", "Running").await;

    // Edited, it changes the same instance.
    bed.apply::<Schedule>(schedule("loop", &control("3ms"))).await;
    let changed =
        |i: &[ModelInstance]| i.len() == 1 && i[0].spec.realtime.first().is_some_and(|t| t.wcet_ns == 3_000_000);
    let changed = bed.until_instances("new settings", changed).await.remove(0);
    assert_eq!(changed.metadata.uid, placed.metadata.uid);
    assert_eq!(changed.spec.template, placed.spec.template);
    until_proof(&bed, "loop", 2, "True").await;

    // Broken, it leaves what runs, and says what is wrong.
    let broken = json!([
        {"name": "control", "wcet": "5ms", "period": "10ms", "deadline": "8ms", "cpus": "1", "target": {"model": "brake"}},
        {"name": "sample", "wcet": "2ms", "period": "5ms", "cpus": "1", "target": {"model": "brake", "thread": "sample"}},
    ]);
    bed.apply::<Schedule>(schedule("loop", &broken)).await;
    let said = bed.until_condition("drive", "Schedulable", "False", "NotSchedulable").await;
    assert!(
        said.contains("task control misses its deadline of 8ms by 1ms") && said.contains("keeps its settings"),
        "{said}"
    );
    let proof = until_proof(&bed, "loop", 3, "False").await;
    assert_eq!(proof.tasks[0].slack_ns, Some(-1_000_000));
    bed.until_quiet().await;
    let kept = bed.instances().await.remove(0);
    assert_eq!((&kept.spec.realtime, kept.metadata.generation), (&changed.spec.realtime, changed.metadata.generation));

    // Without its tasks the instance loses them, in place.
    bed.apply::<Schedule>(schedule("loop", &control("1ms"))).await;
    bed.until_condition("drive", "Schedulable", "True", "Proven").await;
    bed.apply::<Package>(package("drive", &json!([{"name": "brake", "node": "ECU"}]), None)).await;
    let bare = bed.until_instances("no tasks", |i| i.len() == 1 && i[0].spec.realtime.is_empty()).await.remove(0);
    assert_eq!(bare.metadata.uid, placed.metadata.uid);
    wait_for("no Schedulable condition", LIMIT, || async {
        let status = bed.api::<Package>().get("drive").await.unwrap().status.unwrap();
        match status.conditions.iter().find(|c| c.type_ == "Schedulable") {
            None => Ok(()),
            Some(left) => Err(format!("{left:?}")),
        }
    })
    .await
    .unwrap();
    bed.stop().await;
}

/// What `pullpiri convert` makes of a published manifest, as its golden file has it.
fn converted(name: &str) -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cli/src/convert/snapshots");
    let golden = std::fs::read_to_string(folder.join(format!("pullpiri__convert__tests__{name}.snap"))).unwrap();
    let resources = golden.split("### findings").next().unwrap();
    // The first part is insta's.
    resources.split("\n---\n").skip(1).map(|text| serde_saphyr::from_str(text).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_published_schedule_is_accepted_and_its_package_refused_for_what_the_node_lacks() {
    let bed = Bed::start().await;
    bed.node("hpc", 3600).await;
    bed.real_time("hpc", "0-3", 950_000).await;
    for object in converted("2026-schedule-test_yaml") {
        match object["kind"].as_str().unwrap() {
            "Schedule" => drop(bed.apply::<Schedule>(object).await),
            "Scenario" => drop(bed.apply::<Scenario>(object).await),
            "Package" => drop(bed.apply::<Package>(object).await),
            "Model" => drop(bed.apply::<Model>(object).await),
            other => panic!("{other}"),
        }
    }
    let said = bed.until_condition("timpani-test", "Schedulable", "False", "CpuMissing").await;
    assert!(said.contains("node perf-node (with CPUs 28-31) doesn't exist"), "{said}");
    bed.node("perf-node", 3600).await;
    bed.real_time("perf-node", "0-3", 950_000).await;
    let lacks = "tasks p1_0, p1_1, p1_2 and 15 more: node perf-node lacks CPU 28-31; for real-time tasks it has 0-3";
    wait_for("what the node lacks", LIMIT, || async {
        let said = bed.until_condition("timpani-test", "Schedulable", "False", "CpuMissing").await;
        if said == lacks { Ok(()) } else { Err(said) }
    })
    .await
    .unwrap();
    bed.until_condition("timpani-test", "Placed", "False", "CpuMissing").await;
    wait_for("the Schedule says the same", LIMIT, || async {
        let proof = until_proof(&bed, "perf-18proc-tc1", 1, "False").await;
        if proof.tasks.len() == 18 && proof.conditions[0].message == lacks { Ok(()) } else { Err(format!("{proof:?}")) }
    })
    .await
    .unwrap();
    bed.until_quiet().await;
    assert!(bed.instances().await.is_empty());
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packages_that_want_the_same_time_never_both_get_it() {
    let bed = Bed::start().await;
    bed.node("ecu", 3600).await;
    bed.real_time("ecu", "0", 950_000).await;
    // Six at once, each of 40 %: two fit.
    for at in 0..6 {
        let name = format!("m{at}");
        let mut object = model(&name, "localhost/x:1.0");
        object["spec"]["realtime"] = json!({"wcet": "4ms", "period": "10ms"});
        bed.apply::<Model>(object).await;
    }
    let packages: Vec<_> = (0..6)
        .map(|at| {
            bed.apply::<Package>(package(&format!("p{at}"), &json!([{"name": format!("m{at}"), "node": "ecu"}]), None))
        })
        .collect();
    futures::future::join_all(packages).await;
    let instances = bed.until_instances("two instances", |i| i.len() == 2).await;
    bed.until_quiet().await;
    assert_eq!(bed.instances().await.len(), 2);
    for instance in &instances {
        bed.report(instance, "Running").await;
    }
    // One of them is stopped: when its node has stopped it, another takes its time.
    let mut stopped =
        package(&instances[0].spec.package, &json!([{"name": instances[0].spec.model, "node": "ecu"}]), None);
    stopped["spec"]["desiredState"] = json!("Stopped");
    bed.apply::<Package>(stopped).await;
    let stopping = |i: &ModelInstance| i.metadata.uid == instances[0].metadata.uid && !i.spec.run;
    let told = bed.until_instances("it is to stop", |i| i.iter().any(stopping)).await;
    bed.until_quiet().await;
    assert_eq!(bed.instances().await.len(), 2, "it holds its time until it has stopped");
    bed.report(told.iter().find(|i| stopping(i)).unwrap(), "Pending").await;
    bed.until_instances("another runs", |i| i.len() == 3 && i.iter().filter(|i| i.spec.run).count() == 2).await;
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_are_given_once_and_taken_again_when_they_are_free() {
    let bed = Bed::start().await;
    bed.node("ecu", 3600).await;
    let network = json!({
        "apiVersion": "pullpiri.io/v1alpha1", "kind": "Network", "metadata": {"name": "net"},
        "spec": {"subnet": {"v4": "10.20.0.0/28"}, "attach": {"matchLabels": {"net": "yes"}}},
    });
    bed.apply::<Network>(network).await;
    let mut object = model("m", "localhost/x:1.0");
    object["spec"]["hostNetwork"] = json!(false);
    object["metadata"]["labels"] = json!({"net": "yes"});
    bed.apply::<Model>(object).await;
    // Sixteen packages at once, thirteen addresses.
    let packages: Vec<_> = (0..16)
        .map(|at| bed.apply::<Package>(package(&format!("p{at}"), &json!([{"name": "m", "node": "ecu"}]), None)))
        .collect();
    futures::future::join_all(packages).await;
    bed.until_instances("thirteen instances", |i| i.len() == 13).await;
    bed.until_quiet().await;
    let instances = bed.instances().await;
    let given: Vec<_> = instances.iter().flat_map(|i| i.spec.network.as_ref().unwrap().addresses.clone()).collect();
    assert_eq!((given.len(), given.iter().collect::<BTreeSet<_>>().len()), (13, 13), "{given:?}");
    let with: BTreeSet<_> = instances.iter().map(|i| i.spec.package.clone()).collect();
    let without = (0..16).map(|at| format!("p{at}")).find(|name| !with.contains(name)).unwrap();
    let said = bed.until_condition(&without, "Placed", "False", "PoolExhausted").await;
    assert!(said.contains("13 addresses"), "{said}");

    // A node keeps an instance until nothing of it is left; as long, its address is nobody else's.
    let api = bed.api::<ModelInstance>();
    let finalizers = |list: &[&str]| Patch::Merge(json!({"metadata": {"finalizers": list}}));
    let leaving = &instances[0];
    api.patch(&leaving.name_any(), &PatchParams::default(), &finalizers(&["pullpiri.io/node"])).await.unwrap();
    bed.api::<Package>().delete(&leaving.spec.package, &DeleteParams::default()).await.unwrap();
    bed.until_instances("it is leaving", |i| i.iter().any(|i| i.metadata.deletion_timestamp.is_some())).await;
    bed.until_quiet().await;
    assert_eq!(bed.instances().await.len(), 13);
    api.patch(&leaving.name_any(), &PatchParams::default(), &finalizers(&[])).await.unwrap();
    let freed = &leaving.spec.network.as_ref().unwrap().addresses;
    let next = bed
        .until_instances("another has its address", |i| {
            i.iter().any(|i| {
                i.metadata.deletion_timestamp.is_none()
                    && i.metadata.uid != leaving.metadata.uid
                    && i.spec.network.as_ref().is_some_and(|n| &n.addresses == freed)
            })
        })
        .await;
    assert_eq!(next.len(), 13);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_package_waits_for_the_models_that_its_network_names() {
    let bed = Bed::start().await;
    bed.node("ecu", 3600).await;
    let selectors = json!([{"model": "brake"}, {"model": "video"}]);
    let network = json!({
        "apiVersion": "pullpiri.io/v1alpha1", "kind": "Network", "metadata": {"name": "chassis"},
        "spec": {
            "subnet": {"v4": "10.20.0.0/24"},
            "qos": {"classes": [{"name": "control", "priority": 0, "selectors": selectors}]},
        },
    });
    bed.apply::<Network>(network).await;
    let own = |name: &str| {
        let mut model = model(name, "localhost/x:1.0");
        model["spec"]["hostNetwork"] = json!(false);
        model
    };
    bed.apply::<Model>(own("brake")).await;
    let models = json!([{"name": "brake", "node": "ECU", "resources": {"network": "chassis"}}]);
    bed.apply::<Package>(package("drive", &models, None)).await;
    let said = bed.until_condition("drive", "Placed", "False", "SelectorUnknown").await;
    let field = "network chassis: spec.qos.classes[0].selectors[1].model: \"video\": no Model has this name";
    assert!(said.contains(field), "{said}");
    bed.until_quiet().await;
    assert!(bed.instances().await.is_empty());
    // Nothing but the Model's coming says that it may be placed now.
    bed.apply::<Model>(own("video")).await;
    bed.until_instances("the instance", |i| i.len() == 1).await;
    bed.until_condition("drive", "Placed", "True", "AllPlaced").await;
    // It runs on without that Model, whatever becomes of the Network's selectors.
    let api = bed.api::<Model>();
    api.delete("video", &DeleteParams::default()).await.unwrap();
    bed.until_quiet().await;
    assert_eq!(bed.instances().await.len(), 1);
    bed.until_condition("drive", "Placed", "True", "AllPlaced").await;
    bed.stop().await;
}

/// A Network that is guaranteed 60 Mbit/s, and a Package whose one model is in it.
async fn apply_side(bed: &Bed, namespace: &str, name: &str, subnet: Option<String>) {
    let selectors = json!([{"protocol": "UDP"}]);
    let mut spec =
        json!({"qos": {"classes": [{"name": "c", "priority": 0, "guarantee": "60M", "selectors": selectors}]}});
    match &subnet {
        Some(subnet) => spec["subnet"] = json!({"v4": subnet}),
        None => spec["mode"] = json!("Host"),
    }
    let network =
        json!({"apiVersion": "pullpiri.io/v1alpha1", "kind": "Network", "metadata": {"name": name}, "spec": spec});
    let mut model = model(name, "localhost/x:1.0");
    model["spec"]["hostNetwork"] = json!(subnet.is_none());
    let models = json!([{"name": name, "node": "ECU", "resources": {"network": name}}]);
    let params = PatchParams::apply("test").force();
    let api = |kind: &str| {
        let resource = match kind {
            "Network" => ApiResource::erase::<Network>(&()),
            "Model" => ApiResource::erase::<Model>(&()),
            _ => ApiResource::erase::<Package>(&()),
        };
        Api::<DynamicObject>::namespaced_with(bed.client.clone(), namespace, &resource)
    };
    for object in [network, model, package(name, &models, None)] {
        api(object["kind"].as_str().unwrap()).patch(name, &params, &Patch::Apply(object)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packages_that_come_at_once_never_both_take_a_link() {
    let bed = Bed::start().await;
    bed.node("ecu", 3600).await;
    let status = json!({
        "apiVersion": "pullpiri.io/v1alpha1", "kind": "NodeRuntime", "metadata": {"name": "ecu"},
        "status": {"network": {"backend": "tcx+htb", "uplink": "eth0", "linkBps": 100_000_000, "addresses": ["192.0.2.1"]}},
    });
    let nodes: Api<NodeRuntime> = Api::all(bed.client.clone());
    nodes.patch_status("ecu", &PatchParams::apply("agent").force(), &Patch::Apply(status)).await.unwrap();
    let elsewhere = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "elsewhere"}});
    let namespaces: Api<Namespace> = Api::all(bed.client.clone());
    namespaces.create(&PostParams::default(), &serde_json::from_value(elsewhere).unwrap()).await.unwrap();
    let all: Api<ModelInstance> = Api::all(bed.client.clone());
    for round in 0..8 {
        let subnet = |side: u8| (round % 2 == 0).then(|| format!("10.{round}.{side}.0/24"));
        // Where each has an address, and in their node's own network.
        let [a, b] = [("default", format!("a{round}")), ("elsewhere", format!("b{round}"))];
        tokio::join!(apply_side(&bed, a.0, &a.1, subnet(1)), apply_side(&bed, b.0, &b.1, subnet(2)));
        let placed = |namespace: &'static str, name: String| {
            let api: Api<Package> = Api::namespaced(bed.client.clone(), namespace);
            async move {
                let status = api.get(&name).await.unwrap().status.unwrap_or_default();
                let condition = status.conditions.into_iter().find(|c| c.type_ == "Placed");
                condition.map(|c| (c.status, c.reason, c.message)).unwrap_or_default()
            }
        };
        let both = || async {
            let both = [placed(a.0, a.1.clone()).await, placed(b.0, b.1.clone()).await];
            let is =
                |wanted: &str| both.iter().filter(|(status, reason, _)| format!("{status} {reason}") == wanted).count();
            if is("True AllPlaced") == 1 && is("False GuaranteeExceedsLink") == 1 {
                Ok(both)
            } else {
                Err(format!("{both:?}"))
            }
        };
        wait_for("one of both is placed", LIMIT, both).await.unwrap();
        bed.until_quiet().await;
        let [first, second] = both().await.unwrap();
        let refused = if first.0 == "False" { first.2 } else { second.2 };
        assert!(
            refused.contains("60000000 bit/s and 60000000 bit/s of other Networks exceed the link of node ecu"),
            "{refused}"
        );
        let instances = all.list(&ListParams::default()).await.unwrap().items;
        assert_eq!(instances.len(), 1, "round {round}");
        // The one that was placed goes, and the other has its place.
        let kept = &instances[0];
        let (namespace, name) = (kept.namespace().unwrap(), kept.spec.package.clone());
        let gone: Api<Package> = Api::namespaced(bed.client.clone(), &namespace);
        gone.delete(&name, &DeleteParams::default()).await.unwrap();
        wait_for("the other one is placed", LIMIT, || async {
            let now = all.list(&ListParams::default()).await.unwrap().items;
            let names: Vec<String> = now.iter().map(|i| i.spec.package.clone()).collect();
            if names.len() == 1 && names[0] != name { Ok(()) } else { Err(format!("{names:?}")) }
        })
        .await
        .unwrap();
        for (namespace, name) in [(a.0, &a.1), (b.0, &b.1)] {
            let packages: Api<Package> = Api::namespaced(bed.client.clone(), namespace);
            let _ = packages.delete(name, &DeleteParams::default()).await;
        }
        wait_for("nothing is left", LIMIT, || async {
            let left = all.list(&ListParams::default()).await.unwrap().items.len();
            if left == 0 { Ok(()) } else { Err(left.to_string()) }
        })
        .await
        .unwrap();
        for (namespace, name) in [(a.0, &a.1), (b.0, &b.1)] {
            let networks: Api<Network> = Api::namespaced(bed.client.clone(), namespace);
            networks.delete(name, &DeleteParams::default()).await.unwrap();
        }
    }
    bed.stop().await;
}
