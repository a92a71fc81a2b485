//! A cluster with our kinds and the rights that the chart gives a node, and objects in it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DynamicObject, PostParams};
use kube::config::Kubeconfig;
use kube::discovery::ApiResource;
use kube::{Api, Client};
use pullpiri_e2e::real::{NODE, RealKube};
use pullpiri_e2e::wait_for;
use serde_json::{Value, json};

pub const LIMIT: Duration = Duration::from_secs(40);
/// Who the node runtime of these tests is.
pub const USER: &str = "system:serviceaccount:pullpiri-system:pullpiri-node";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What the chart gives a node, if there is a helm to say so.
pub fn grants() -> Option<Vec<Value>> {
    let helm = root().join("target/kube/bin/helm");
    let output = Command::new(helm)
        .args(["template", "pullpiri", "--namespace", "pullpiri-system", "--kube-version=1.37.0"])
        .args(["--set", "node.kubernetesRuntime.enabled=true,rbac.nodeRestriction=on"])
        .args(["--show-only", "templates/rbac-node.yaml", "--show-only", "templates/node-restriction.yaml"])
        .arg(root().join("charts/pullpiri"))
        .env("KUBECONFIG", "/dev/null")
        .output()
        .ok()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    Some(
        text.split("\n---")
            .filter_map(|one| serde_saphyr::from_str::<Value>(one).ok())
            .filter(Value::is_object)
            .collect(),
    )
}

pub async fn create(client: &Client, object: Value) {
    let (api_version, kind) = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let kind = kube::core::GroupVersionKind::gvk(group, version, kind);
    let mut resource = ApiResource::from_gvk(&kind);
    if kind.kind.ends_with("Policy") {
        resource.plural = "validatingadmissionpolicies".to_owned();
    }
    let object: DynamicObject = serde_json::from_value(object).unwrap();
    let api: Api<DynamicObject> = match &object.metadata.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let created = wait_for("an object is taken", LIMIT, async || {
        api.create(&PostParams::default(), &object).await.map_err(|error| error.to_string())
    });
    created.await.unwrap();
}

/// Our kinds, and the node's rights. The path of the node's kubeconfig.
pub async fn prepare(kube: &RealKube, client: &Client, folder: &Path) -> PathBuf {
    for crd in pullpiri_crds::all() {
        create(client, serde_json::to_value(crd).unwrap()).await;
    }
    let mut config = Kubeconfig::read_from(&kube.kubeconfig).unwrap();
    match grants() {
        Some(objects) => {
            let namespaces: Api<Namespace> = Api::all(client.clone());
            wait_for("the namespace of heartbeats", LIMIT, async || {
                namespaces.get("kube-node-lease").await.map_err(|error| error.to_string())
            })
            .await
            .unwrap();
            for object in objects.into_iter().filter(|object| object["kind"].as_str().unwrap().contains("Role")) {
                create(client, object).await;
            }
            for user in &mut config.auth_infos {
                user.auth_info.as_mut().unwrap().impersonate = Some(USER.to_owned());
            }
        }
        None => println!("without helm, the node runtime has an admin's rights in this test"),
    }
    let path = folder.join("node.kubeconfig");
    std::fs::write(&path, serde_json::to_string(&config).unwrap()).unwrap();
    path
}

/// A node's token that was stolen makes no other Pods.
pub async fn strangers_are_refused(client: &Client) {
    let Some(objects) = grants() else { return };
    for object in objects.into_iter().filter(|object| object["kind"].as_str().unwrap().starts_with("Validating")) {
        create(client, object).await;
    }
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "thief", "namespace": "default", "ownerReferences": [
            {"apiVersion": "pullpiri.io/v1alpha1", "kind": "ModelInstance", "name": "pod", "uid": "u", "controller": true}]},
        "spec": {"nodeName": NODE, "automountServiceAccountToken": false, "containers": [{"name": "c", "image": "x"}]},
    });
    let attempt = async |change: &dyn Fn(&mut Value)| {
        let mut body = pod.clone();
        change(&mut body);
        let request = http::Request::post("/api/v1/namespaces/default/pods?dryRun=All")
            .header("content-type", "application/json")
            .header("Impersonate-User", USER)
            .header("Impersonate-Extra-authentication.kubernetes.io%2Fnode-name", NODE)
            .body(serde_json::to_vec(&body).unwrap())
            .unwrap();
        client.request::<Value>(request).await.map(drop).map_err(|error| error.to_string())
    };
    type Change<'a> = (&'a str, &'a dyn Fn(&mut Value));
    let changes: [Change<'_>; 4] = [
        ("Pods of its own only", &|pod| pod["spec"]["nodeName"] = json!("other")),
        ("Pods of ModelInstances only", &|pod| pod["metadata"]["ownerReferences"] = json!([])),
        ("no token", &|pod| pod["spec"]["automountServiceAccountToken"] = json!(true)),
        ("volumes of the node only", &|pod| {
            pod["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": "s"}}]);
        }),
    ];
    for (said, change) in changes {
        // Policies are in force a moment after they are made.
        wait_for(said, LIMIT, async || match attempt(change).await {
            Err(error) if error.contains(said) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await
        .unwrap();
    }
    attempt(&|_| {}).await.unwrap();
}
