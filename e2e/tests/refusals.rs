//! Wrong manifests over the API server in process: each is refused with the field, what was given and what is expected.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on should stop")]

use std::sync::Arc;

use kube::api::{Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use kube::discovery::ApiResource;
use kube::{Api, Client};
use pullpiri_apiserver::auth::UserInfo;
use pullpiri_apiserver::{ApiServer, Config};
use pullpiri_crds::{Model, Package, Scenario, Signal};
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
    let api: Api<DynamicObject> = Api::default_namespaced_with(client.clone(), resource);
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

#[tokio::test]
async fn wrong_manifests_are_refused_by_field() {
    let (_server, client) = server().await;
    let models = ApiResource::erase::<Model>(&());
    let refused = [
        (json!({"resources": {"limits": {"memory": -1}}}), vec!["spec.containers[0].resources.limits", "-1"]),
        (json!({"resources": {"limits": {"cpu": "-1"}}}), vec!["spec.containers[0].resources.limits", "-1"]),
        (
            json!({"resources": {"limits": {"cpu": 1}, "requests": {"cpu": "1500m"}}}),
            vec!["spec.containers[0].resources.requests", "must not exceed"],
        ),
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
        json!({"image": "ghcr.io/mco-piccolo/timpani_test:latest"}),
        json!({"image": "127.0.0.1:5000/a/b__c-d.e"}),
        json!({"volumeMounts": [{"name": "v", "mountPath": "/a/..b/.c", "subPath": "d/e..f"}]}),
    ] {
        assert_eq!(apply(&client, &models, &model(&container)).await, Ok(()), "{container}");
    }

    let packages = ApiResource::erase::<Package>(&());
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
