//! Wrong manifests over the API server in process: each is refused with the field, what was given and what is expected.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on should stop")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use kube::api::{Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use kube::discovery::ApiResource;
use kube::{Api, Client};
use pullpiri_apiserver::auth::UserInfo;
use pullpiri_apiserver::{ApiServer, Config};
use pullpiri_crds::{Model, Network, NodeRuntime, Package, Scenario, Schedule, Signal};
use pullpiri_store::memory::MemoryStore;
use serde_json::{Value, json};

async fn server() -> (ApiServer, Client) {
    let mut config = Config::new(Arc::new(MemoryStore::default()));
    config.virtual_resources = vec![serde_json::to_value(pullpiri_crds::signal::definition().unwrap()).unwrap()];
    let server = ApiServer::open(config).await.unwrap();
    let crds = pullpiri_crds::all().into_iter().map(|crd| serde_json::to_value(crd).unwrap()).collect();
    server.install(crds).await.unwrap();
    let client = server.client(UserInfo::new("test", ["system:masters".to_owned()]));
    (server, client)
}

/// What the API server says to it.
async fn apply(client: &Client, resource: &ApiResource, spec: &Value) -> Result<(), String> {
    let api: Api<DynamicObject> = match resource.kind.as_str() {
        "NodeRuntime" => Api::all_with(client.clone(), resource),
        _ => Api::default_namespaced_with(client.clone(), resource),
    };
    let object =
        json!({"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": "x"}, "spec": spec});
    let params = PatchParams { dry_run: true, ..PatchParams::apply("test") };
    match api.patch("x", &params, &Patch::Apply(object)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => Err(status.message),
        Err(other) => panic!("{other}"),
    }
}

fn model(container: &Value) -> Value {
    let mut merged = json!({"name": "c", "image": "localhost/a:1"});
    merged.as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
    json!({"containers": [merged]})
}

fn scenario(topic: &str) -> Value {
    json!({"condition": {"express": "eq", "value": "1", "operands": {"name": "f", "value": topic}}, "action": "launch", "target": "x"})
}

/// An API server refuses rules that may cost too much, by its own estimate.
#[test]
fn kubernetes_would_create_the_definitions() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let bin = std::env::var_os("PULLPIRI_KUBE_BIN").map_or_else(|| root.join("target/kube/bin"), PathBuf::from);
    let check = bin.join("crdcheck");
    if !check.is_file() {
        let go = Command::new("go").arg("version").output().is_ok_and(|output| output.status.success());
        let built = if go { "not built (hack/kube/build.sh crdcheck)" } else { "no Go toolchain" };
        println!("skipped: {built}");
        return;
    }
    let files = std::fs::read_dir(root.join("crds/yaml")).unwrap().map(|entry| entry.unwrap().path());
    let output = Command::new(check).args(files).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[tokio::test]
async fn wrong_manifests_are_refused_by_field() {
    let (_server, client) = server().await;
    let models = ApiResource::erase::<Model>(&());
    let refused = [
        (json!({"resources": {"limits": {"memory": -1}}}), vec!["spec.containers[0].resources.limits", "-1"]),
        (json!({"resources": {"limits": {"cpu": "-1"}}}), vec!["spec.containers[0].resources.limits", "-1"]),
        (
            json!({"resources": {"limits": {"cpu": 1}, "requests": {"cpu": "1500m"}}}),
            vec!["spec.containers[0].resources.requests", "must not exceed", "cpu 1500m of 1"],
        ),
        (
            json!({"env": [{"name": "A", "value": "x", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}),
            vec!["spec.containers[0].env[0]", "A has both"],
        ),
        (json!({"env": [{"name": "A", "valueFrom": {}}]}), vec!["env[0].valueFrom", "got none"]),
        (
            json!({"resources": {"limits": {"foo": 3, "cpu": 1, "bar": 1}}}),
            vec!["spec.containers[0].resources.limits:", "cpu, memory and pids", "\"foo\"", "\"bar\""],
        ),
        (
            json!({"resources": {"requests": {"pids": 3}}}),
            vec!["spec.containers[0].resources.requests:", "cpu and memory", "\"pids\""],
        ),
        (
            json!({"resources": {"limits": {"memory": 1}}}),
            vec!["spec.containers[0].resources.limits[memory]:", "at least 1Mi", "got 1"],
        ),
        (
            json!({"resources": {"limits": {"memory": "1023Ki"}}}),
            vec!["spec.containers[0].resources.limits[memory]:", "at least 1Mi", "got 1023Ki"],
        ),
        (
            json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "Bad_", "key": "k"}}}]}),
            vec!["env[0].valueFrom.secretKeyRef.name:", "\"Bad_\"", "should match"],
        ),
        (
            json!({"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "a/b"}}}]}),
            vec!["env[0].valueFrom.configMapKeyRef.key:", "\"a/b\"", "should match"],
        ),
        (json!({"volumeMounts": [{"name": "Bad_", "mountPath": "/a"}]}), vec!["volumeMounts[0].name:", "\"Bad_\""]),
        (json!({"image": "A:::b"}), vec!["spec.containers[0].image", "A:::b"]),
        (json!({"volumeMounts": [{"name": "v", "mountPath": "/"}]}), vec!["mountPath", "\"/\""]),
        (json!({"volumeMounts": [{"name": "v", "mountPath": "/a/../../etc"}]}), vec!["mountPath", "/a/../../etc"]),
        (json!({"volumeMounts": [{"name": "v", "mountPath": "/a", "subPath": "../x"}]}), vec!["subPath", "../x"]),
    ];
    for (container, expected) in refused {
        let said = apply(&client, &models, &model(&container)).await.unwrap_err();
        assert!(expected.iter().all(|part| said.contains(part)), "{container}: {said}");
    }
    for container in [
        json!({"resources": {"limits": {"cpu": "1500m", "memory": 67108864}, "requests": {"cpu": 1}}}),
        json!({"resources": {"limits": {"cpu": "1n", "memory": "1Mi", "pids": 1}, "requests": {"cpu": 0, "memory": 0}}}),
        json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "a.b-c", "key": ".A_b-c"}}}]}),
        json!({"image": "ghcr.io/mco-piccolo/timpani_test:latest"}),
        json!({"image": "127.0.0.1:5000/a/b__c-d.e"}),
        json!({"volumeMounts": [{"name": "v", "mountPath": "/a/..b/.c", "subPath": "d/e..f"}]}),
    ] {
        assert_eq!(apply(&client, &models, &model(&container)).await, Ok(()), "{container}");
    }

    // As in Kubernetes, 0 is no limit.
    let unlimited = json!({"resources": {"limits": {"cpu": 0, "memory": "0", "pids": 0}}});
    assert_eq!(apply(&client, &models, &model(&unlimited)).await, Ok(()));

    let volume = |volume: Value| json!({"containers": [{"name": "c", "image": "a"}], "volumes": [volume]});
    let several = volume(json!({"name": "v", "emptyDir": {}, "hostPath": {"path": "/a"}}));
    let upwards = volume(json!({"name": "v", "configMap": {"name": "c", "items": [{"key": "k", "path": "../x"}]}}));
    let config_map = volume(json!({"name": "v", "configMap": {"name": "Bad_"}}));
    let secret = volume(json!({"name": "v", "secret": {"secretName": "a..b"}}));
    let key = volume(json!({"name": "v", "secret": {"secretName": "s", "items": [{"key": "..", "path": "x"}]}}));
    for (spec, expected) in [
        (several, ["spec.volumes[0]", "v has: hostPath emptyDir"]),
        (upwards, ["spec.volumes[0].configMap.items[0].path", "got ../x"]),
        (config_map, ["spec.volumes[0].configMap.name: Invalid value: \"Bad_\"", "should match"]),
        (secret, ["spec.volumes[0].secret.secretName: Invalid value: \"a..b\"", "should match"]),
        (key, ["spec.volumes[0].secret.items[0].key: Invalid value: \"..\"", "should match"]),
    ] {
        let said = apply(&client, &models, &spec).await.unwrap_err();
        assert!(expected.iter().all(|part| said.contains(part)), "{spec}: {said}");
    }

    let packages = ApiResource::erase::<Package>(&());
    let both = json!({"models": [{"name": "m", "node": "zone", "nodeSelector": {"a": "b"}}]});
    let said = apply(&client, &packages, &both).await.unwrap_err();
    assert!(said.contains("spec.models[0]") && said.contains("model m has node zone"), "{said}");
    let said = apply(&client, &packages, &json!({"models": [{"name": "m", "node": "x y"}]})).await.unwrap_err();
    assert!(said.contains("spec.models[0].node") && said.contains("x y"), "{said}");

    let scenarios = ApiResource::erase::<Scenario>(&());
    let said = apply(&client, &scenarios, &scenario("A b")).await.unwrap_err();
    assert!(said.contains("operands.value") && said.contains("A b"), "{said}");
    assert_eq!(apply(&client, &scenarios, &scenario("vehicle/speed")).await, Ok(()));
    let said =
        apply(&client, &scenarios, &json!({"condition": "foo", "action": "launch", "target": "x"})).await.unwrap_err();
    assert!(said.contains("spec.condition") && said.contains("express, value and operands"), "{said}");
}

#[tokio::test]
async fn a_link_has_a_rate() {
    let (_server, client) = server().await;
    let nodes = ApiResource::erase::<NodeRuntime>(&());
    for rate in [json!(0), json!("0"), json!("500m"), json!("0.5")] {
        let said = apply(&client, &nodes, &json!({"uplink": {"rate": rate}})).await.unwrap_err();
        let given = rate.as_str().map_or_else(|| rate.to_string(), str::to_owned);
        assert!(said.contains("spec.uplink.rate") && said.contains(&format!("got {given}")), "{rate}: {said}");
    }
    for rate in [json!(1), json!("100M"), json!("1.5")] {
        assert_eq!(apply(&client, &nodes, &json!({"uplink": {"rate": rate}})).await, Ok(()), "{rate}");
    }
}

/// What the analysis refuses of a Schedule, whatever the nodes are; what it reads is never refused.
#[tokio::test]
async fn schedules_that_cannot_be_read_are_refused_and_others_are_not() {
    let (_server, client) = server().await;
    let schedules = ApiResource::erase::<Schedule>(&());
    let models = ApiResource::erase::<Model>(&());
    let one = |fields: Value| {
        let mut task = json!({"name": "t", "wcet": "1ms", "period": "10ms"});
        task.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        task
    };
    let long = "9999999999999h";
    let mixed = json!([one(json!({"priority": 5})), {"name": "u", "wcet": "1ms", "period": "10ms"}]);
    let with = |field: &str, value: &str| json!({"tasks": [one(json!({field: value}))]});
    let edf = |policy: &str| json!({"algorithm": "EarliestDeadlineFirst", "tasks": [one(json!({"policy": policy}))]});
    let explicit = "priorityAssignment Explicit";
    let refused = [
        (with("cpus", "3-1"), vec!["spec.tasks[0].cpus", "smaller to the larger", "got 3-1"]),
        (with("cpus", "0,1-2,40-5"), vec!["spec.tasks[0].cpus", "got 0,1-2,40-5"]),
        (with("cpus", "0-4096"), vec!["spec.tasks[0].cpus", "below 4096", "got 0-4096"]),
        (with("cpus", "99999999999999999999"), vec!["spec.tasks[0].cpus", "below 4096"]),
        (with("period", long), vec!["spec.tasks[0].period", "at most 9223372036854775807ns", long]),
        (with("wcet", "200000000m"), vec!["spec.tasks[0].wcet", "got 200000000m"]),
        (with("deadline", "1h10000000000s"), vec!["spec.tasks[0].deadline", "at most"]),
        (with("jitter", "10000000000000ms"), vec!["spec.tasks[0].jitter", "at most"]),
        (with("offset", "10000000000000000us"), vec!["spec.tasks[0].offset", "at most"]),
        (with("blocking", "9300000000000000000ns"), vec!["spec.tasks[0].blocking", "at most"]),
        (with("policy", "DEADLINE"), vec!["spec.tasks:", "FIFO or RR under algorithm FixedPriority"]),
        (edf("FIFO"), vec!["spec.tasks:", "DEADLINE under algorithm EarliestDeadlineFirst"]),
        (edf("RR"), vec!["spec.tasks:", "DEADLINE under algorithm EarliestDeadlineFirst"]),
        (json!({"tasks": mixed}), vec!["spec.tasks:", explicit]),
        (json!({"priorityAssignment": "Explicit", "tasks": [one(json!({}))]}), vec!["spec.tasks:", explicit]),
    ];
    for (spec, expected) in refused {
        let said = apply(&client, &schedules, &spec).await.unwrap_err();
        assert!(expected.iter().all(|part| said.contains(part)), "{spec}: {said}");
        let read = serde_json::from_value(spec.clone()).map(|spec| pullpiri_rt::from_schedule(&spec).is_err());
        assert!(read.unwrap(), "the analysis reads {spec}");
    }
    for spec in [
        with("cpus", "1-3,5"),
        with("cpus", "3,1-1,0007-4095,2"),
        with("cpus", "5,3-4,1"),
        with("period", "2562047h47m16.854775807s"),
        with("period", "9223372036854775807ns"),
        with("period", "153722867m0.00000000s"),
        with("period", "1.500000000000h"),
        with("deadline", "000000000000001h"),
        with("policy", "RR"),
        edf("DEADLINE"),
        json!({"algorithm": "EarliestDeadlineFirst", "tasks": mixed}),
        json!({"algorithm": "EarliestDeadlineFirst", "priorityAssignment": "Explicit", "tasks": mixed}),
        json!({"priorityAssignment": "Optimal", "tasks": mixed}),
        json!({"priorityAssignment": "Explicit", "tasks": [one(json!({"priority": 5}))]}),
    ] {
        let read = serde_json::from_value(spec.clone()).map(|spec| pullpiri_rt::from_schedule(&spec));
        assert!(read.unwrap().is_ok(), "{spec}");
        assert_eq!(apply(&client, &schedules, &spec).await, Ok(()), "{spec}");
    }
    // As many as a Schedule may have, with all that is looked at: a rule may not cost more than it may.
    let full = json!({"cpus": "0-1,3,7-9", "deadline": "10ms", "jitter": "1us", "offset": "1ms", "blocking": "1us", "policy": "RR", "priority": 5});
    let mut many: Vec<Value> = vec![one(full); 1024];
    for (at, task) in many.iter_mut().enumerate() {
        task["name"] = json!(format!("t{at}"));
    }
    assert_eq!(apply(&client, &schedules, &json!({"tasks": many})).await, Ok(()));
    let own = |field: &str, value: &str| {
        let mut realtime = one(json!({field: value}));
        realtime.as_object_mut().unwrap().remove("name");
        json!({"containers": [{"name": "c", "image": "a"}], "realtime": realtime})
    };
    for (field, value) in [("cpus", "3-1"), ("cpus", "4096"), ("period", long), ("blocking", long)] {
        let said = apply(&client, &models, &own(field, value)).await.unwrap_err();
        assert!(said.contains(&format!("spec.realtime.{field}:")) && said.contains(value), "{said}");
    }
    for (field, value) in [("cpus", "1-3"), ("policy", "DEADLINE"), ("policy", "RR"), ("jitter", "1us")] {
        assert_eq!(apply(&client, &models, &own(field, value)).await, Ok(()), "{field} {value}");
    }
}

#[tokio::test]
async fn a_condition_is_told_what_it_should_be() {
    let (_server, client) = server().await;
    let scenarios = ApiResource::erase::<Scenario>(&());
    let wished = |condition: &Value| json!({"condition": condition, "action": "launch", "target": "x"});
    for scalar in [json!(7), json!(-7), json!(0.5), json!(true), json!(false), json!("lt"), json!("")] {
        let said = apply(&client, &scenarios, &wished(&scalar)).await.unwrap_err();
        let expected = "an object with express, value and operands, or a list of them";
        assert!(said.contains("spec.condition:") && said.contains(expected), "{scalar}: {said}");
        assert!(said.contains(&scalar.to_string()) && !said.contains("less than"), "{scalar}: {said}");
    }
    let text = json!("an object with express, value and operands, or a list of them");
    assert!(apply(&client, &scenarios, &wished(&text)).await.is_err());

    let term = |express: &str, value: &str| json!({"express": express, "value": value, "operands": {"name": "f", "value": "T"}});
    for express in ["lt", "le", "gt", "ge"] {
        let one = term(express, "abc");
        let list = json!([term("eq", "abc"), one]);
        for (condition, path) in [(one, "spec.condition.value"), (list, "spec.condition[1].value")] {
            let said = apply(&client, &scenarios, &wished(&condition)).await.unwrap_err();
            let blamed = format!("{path}: Invalid value: \"abc\"");
            assert!(said.contains(&blamed) && said.contains("a number is expected for lt, le, gt and ge"), "{said}");
            assert!(!said.contains(".express") && !said.contains("Unsupported value"), "{said}");
        }
        assert_eq!(apply(&client, &scenarios, &wished(&term(express, "-1.5"))).await, Ok(()), "{express}");
    }
    let said = apply(&client, &scenarios, &wished(&term("foo", "abc"))).await.unwrap_err();
    assert!(said.contains("spec.condition.express: Unsupported value: \"foo\"") && !said.contains("anyOf"), "{said}");
    for accepted in [json!(null), term("eq", "abc"), term("ne", "1"), json!([term("eq", "abc"), term("ge", "3")])] {
        assert_eq!(apply(&client, &scenarios, &wished(&accepted)).await, Ok(()), "{accepted}");
    }
}

#[tokio::test]
async fn labels_to_select_by_are_labels() {
    let (_server, client) = server().await;
    let packages = ApiResource::erase::<Package>(&());
    let networks = ApiResource::erase::<Network>(&());
    let package = |labels: &Value| json!({"models": [{"name": "m", "nodeSelector": labels}]});
    let attach = |labels: &Value| json!({"attach": {"matchLabels": labels}});
    let from = |labels: &Value| json!({"allow": [{"from": {"matchLabels": labels}}]});
    let to = |labels: &Value| json!({"allow": [{"from": {}, "to": {"matchLabels": labels}}]});
    let port = |labels: &Value| json!({"ports": [{"hostPort": 80, "to": {"matchLabels": labels}}]});
    let qos = |labels: &Value| json!({"qos": {"classes": [{"name": "c", "priority": 0, "selectors": [{"matchLabels": labels}]}]}});
    type Spec<'a> = &'a dyn Fn(&Value) -> Value;
    let places: [(&ApiResource, Spec<'_>, &str); 6] = [
        (&packages, &package, "spec.models[0].nodeSelector"),
        (&networks, &attach, "spec.attach.matchLabels"),
        (&networks, &from, "spec.allow[0].from.matchLabels"),
        (&networks, &to, "spec.allow[0].to.matchLabels"),
        (&networks, &port, "spec.ports[0].to.matchLabels"),
        (&networks, &qos, "spec.qos.classes[0].selectors[0].matchLabels"),
    ];
    let long = "a".repeat(64);
    let far = format!("{}a/b", "a.".repeat(127));
    for (resource, spec, path) in places {
        for key in ["bad key!!", "-a", "a-", "/a", "a/", "a/b/c", "A.b/c", "", long.as_str(), far.as_str()] {
            let said = apply(&client, resource, &spec(&json!({key: "x"}))).await.unwrap_err();
            assert!(said.contains(&format!("{path}:")) && said.contains("example.com/zone"), "{key}: {said}");
            assert!(said.contains(&format!("got [\"{key}\"]")), "{key}: {said}");
        }
        for value in ["bad value", "-a", "a-", "a/b", long.as_str()] {
            let said = apply(&client, resource, &spec(&json!({"zone": value}))).await.unwrap_err();
            assert!(said.contains(&format!("{path}.zone: ")), "{value}: {said}");
            assert!(said.contains(value) || said.contains("may not be more than 63 bytes"), "{value}: {said}");
        }
        let good = json!({"zone": "a-B_1.c", "example.com/zone": "", "A_b.c": "1", "x/y": "z"});
        assert_eq!(apply(&client, resource, &spec(&good)).await, Ok(()), "{path}");
    }
}

#[tokio::test]
async fn what_is_supported_lists_no_null() {
    let (_server, client) = server().await;
    let [models, packages, networks] =
        [ApiResource::erase::<Model>(&()), ApiResource::erase::<Package>(&()), ApiResource::erase::<Network>(&())];
    let with = |mut spec: Value, field: &str, value: &Value| {
        *spec.pointer_mut(field).unwrap() = value.clone();
        spec
    };
    let containers = json!([{"name": "c", "image": "a"}]);
    let port = json!({"containers": [{"name": "c", "image": "a", "ports": [{"containerPort": 1, "protocol": null}]}]});
    for (resource, spec, field, path) in [
        (&models, json!({"containers": containers, "restartPolicy": null}), "/restartPolicy", "spec.restartPolicy"),
        (&models, json!({"containers": containers, "runtime": null}), "/runtime", "spec.runtime"),
        (&models, port, "/containers/0/ports/0/protocol", "spec.containers[0].ports[0].protocol"),
        (&packages, json!({"models": [{"name": "m"}], "desiredState": null}), "/desiredState", "spec.desiredState"),
        (&networks, json!({"mode": null}), "/mode", "spec.mode"),
    ] {
        let said = apply(&client, resource, &with(spec.clone(), field, &json!("x"))).await.unwrap_err();
        assert!(said.contains(&format!("{path}: Unsupported value: \"x\": supported values:")), "{said}");
        assert!(!said.contains("\"null\""), "{said}");
        // A null stands for an absent field.
        let api: Api<DynamicObject> = Api::default_namespaced_with(client.clone(), resource);
        let object =
            json!({"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": "x"}, "spec": spec});
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let created = api.create(&PostParams { dry_run: true, ..PostParams::default() }, &object).await.unwrap();
        assert_eq!(created.data["spec"].pointer(field), None, "{path}");
    }
}

#[tokio::test]
async fn a_signals_name_is_its_topics() {
    let (_server, client) = server().await;
    let api: Api<Signal> = Api::all(client);
    for topic in ["Speed", "vehicle/speed", ".hidden", "a~b%c"] {
        let signal = Signal::new(topic, [("value".to_owned(), "1".to_owned())].into());
        let name = signal.metadata.name.clone().unwrap();
        let put = api.replace(&name, &PostParams::default(), &signal).await;
        assert!(put.is_ok(), "{topic}: {put:?}");
    }
    let mut other = Signal::new("Speed", [("value".to_owned(), "1".to_owned())].into());
    other.topic = "Other".to_owned();
    let error = api.replace("Speed", &PostParams::default(), &other).await.unwrap_err().to_string();
    assert!(error.contains("topic") && error.contains("Other") && error.contains("Speed"), "{error}");
}
