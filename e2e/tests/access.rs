//! Who may do what: kubectl's `auth` commands against the product, and the controllers with each verb of their role taken away in turn.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod controllers_support;

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use controllers_support::Bed;
use futures::{StreamExt, stream};
use http_body_util::BodyExt;
use k8s_openapi::api::rbac::v1::{ClusterRole, Role};
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use prometheus_client::registry::Registry;
use pullpiri_apiserver::auth::UserInfo;
use pullpiri_controllers::{Config, Controllers, Metrics};
use pullpiri_crds::access::{CONTROLLERS_USER, controllers_lease_rules, controllers_rules};
use pullpiri_crds::names::NODE_LEASE_NAMESPACE;
use pullpiri_crds::{Claim, ModelInstance, Network, NodeRuntime, Package, Scenario, Schedule};
use pullpiri_e2e::process::{self, Pullpiri, free_address};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// How long the controllers may take to want something.
const PATIENCE: Duration = Duration::from_secs(40);
/// Servers with controllers at a time.
const AT_ONCE: usize = 6;

struct Kubectl<'a> {
    kubeconfig: &'a Path,
}

impl Kubectl<'_> {
    fn run(&self, arguments: &[&str]) -> (bool, String) {
        let output = Command::new("kubectl").arg("--kubeconfig").arg(self.kubeconfig).args(arguments).output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.success(), text)
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        let (fine, text) = self.run(arguments);
        assert!(fine, "kubectl {arguments:?}: {text}");
        text
    }

    #[track_caller]
    fn fails(&self, arguments: &[&str]) -> String {
        let (fine, text) = self.run(arguments);
        assert!(!fine, "kubectl {arguments:?} succeeded: {text}");
        text
    }
}

fn kubectl_missing() -> bool {
    let missing = Command::new("kubectl").args(["version", "--client"]).output().is_err();
    if missing {
        println!("skipped: no kubectl");
    }
    missing
}

fn kubeconfig(data_dir: &Path, user: &str, group: Option<&str>, url: &str, path: &Path) {
    let data_dir = data_dir.display().to_string();
    let mut arguments = vec!["kubeconfig", "--data-dir", &data_dir, "--user", user, "--server", url];
    if let Some(group) = group {
        arguments.extend(["--group", group]);
    }
    std::fs::write(path, process::run(&arguments).unwrap()).unwrap();
}

#[tokio::test]
async fn kubectl_asks_grants_and_makes_tokens() {
    if kubectl_missing() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let address = free_address().unwrap();
    let mut server = Pullpiri::start("apiserver", &data_dir, address, &[]).unwrap();
    server.ready().await.unwrap();
    let url = format!("https://{address}");
    let (admin_file, eve_file) = (server.kubeconfig(), folder.path().join("eve.yaml"));
    kubeconfig(&data_dir, "eve", Some("crew"), &url, &eve_file);
    let (admin, eve) = (Kubectl { kubeconfig: &admin_file }, Kubectl { kubeconfig: &eve_file });

    assert_eq!(admin.ok(&["auth", "can-i", "*", "*"]).lines().last(), Some("yes"));
    assert!(eve.fails(&["auth", "can-i", "list", "configmaps"]).contains("no"));
    let refusal = eve.fails(&["get", "configmaps"]);
    assert!(
        refusal.contains("configmaps is forbidden: User \"eve\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"default\""),
        "{refusal}"
    );
    admin.ok(&["create", "rolebinding", "eve-views", "--clusterrole=view", "--user=eve"]);
    assert!(eve.ok(&["auth", "can-i", "list", "configmaps"]).contains("yes"));
    eve.ok(&["get", "configmaps"]);
    let list = eve.ok(&["auth", "can-i", "--list"]);
    for part in ["selfsubjectaccessreviews.authorization.k8s.io", "configmaps", "[/openapi/*]", "[get list watch]"] {
        assert!(list.contains(part), "{part} in {list}");
    }
    let who = eve.ok(&["auth", "whoami"]);
    for part in ["eve", "crew", "system:authenticated"] {
        assert!(who.contains(part), "{part} in {who}");
    }
    assert!(admin.ok(&["auth", "whoami", "--as=bob", "--as-group=g", "--as-uid=7"]).contains("bob"));
    assert!(eve.fails(&["get", "configmaps", "--as=admin"]).contains("cannot impersonate"));
    assert!(admin.fails(&["auth", "can-i", "list", "secrets", "--as=eve"]).contains("no"));

    // Roles in a file, made and made right.
    let roles = folder.path().join("roles.yaml");
    std::fs::write(
        &roles,
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: reader, namespace: default}\n\
         rules:\n- {apiGroups: [''], resources: [secrets], verbs: [get, list]}\n---\n\
         apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: readers, namespace: default}\n\
         roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}\n\
         subjects:\n- {apiGroup: rbac.authorization.k8s.io, kind: User, name: eve}\n",
    )
    .unwrap();
    let file = roles.display().to_string();
    assert!(admin.ok(&["auth", "reconcile", "-f", &file]).contains("reconciled"));
    eve.ok(&["get", "secrets"]);
    admin.ok(&["patch", "role", "reader", "--type=merge", "-p", "{\"rules\":[]}"]);
    assert!(eve.fails(&["get", "secrets"]).contains("forbidden"));
    admin.ok(&["auth", "reconcile", "-f", &file]);
    eve.ok(&["get", "secrets"]);
    let described = admin.ok(&["get", "rolebindings", "-o", "wide"]);
    assert!(described.contains("Role/reader") && described.contains("ClusterRole/view"), "{described}");
    admin.ok(&["create", "clusterrole", "things", "--verb=get", "--resource=configmaps"]);
    admin.ok(&["create", "clusterrolebinding", "things", "--clusterrole=things", "--serviceaccount=default:robot"]);
    assert!(admin.ok(&["describe", "clusterrole", "view"]).contains("configmaps"));
    let escalation = eve.fails(&["create", "role", "all", "--verb=*", "--resource=secrets"]);
    assert!(escalation.contains("cannot create resource \"roles\""), "{escalation}");

    // A token is its account.
    admin.ok(&["create", "serviceaccount", "robot"]);
    let token = admin.ok(&["create", "token", "robot", "--duration=15m"]);
    let token = token.trim();
    let robot_file = folder.path().join("robot.yaml");
    let ca = admin.ok(&["config", "view", "--raw", "-o", "jsonpath={.clusters[0].cluster.certificate-authority-data}"]);
    std::fs::write(
        &robot_file,
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: c\n  cluster: {{server: '{url}', certificate-authority-data: {ca}}}\n\
             users:\n- name: u\n  user: {{token: {token}}}\ncontexts:\n- name: c\n  context: {{cluster: c, user: u}}\n"
        ),
    )
    .unwrap();
    let robot = Kubectl { kubeconfig: &robot_file };
    assert!(robot.ok(&["auth", "whoami"]).contains("system:serviceaccount:default:robot"));
    robot.ok(&["get", "configmap", "kube-root-ca.crt"]);
    assert!(robot.fails(&["get", "configmaps"]).contains("forbidden"));
    // The key survives the server, and so do its tokens.
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(data_dir.join("pki/sa.key")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    drop(server);
    let mut server = Pullpiri::start("apiserver", &data_dir, address, &[]).unwrap();
    server.ready().await.unwrap();
    robot.ok(&["get", "configmap", "kube-root-ca.crt"]);
    admin.ok(&["delete", "serviceaccount", "robot"]);
    assert!(robot.fails(&["get", "configmap", "kube-root-ca.crt"]).contains("Unauthorized"));

    // A node has its own and nothing else, and the controllers are nobody's master.
    let node_file = folder.path().join("node.yaml");
    kubeconfig(&data_dir, "system:node:HPC", Some("system:nodes"), &url, &node_file);
    let node = Kubectl { kubeconfig: &node_file };
    assert!(node.fails(&["get", "secrets", "-A"]).contains("can only read namespaced object of this type"));
    assert!(
        node.fails(&["auth", "can-i", "update", "leases/pullpiri-zone", "-n", NODE_LEASE_NAMESPACE]).contains("no")
    );
    assert!(node.ok(&["auth", "can-i", "update", "leases/pullpiri-hpc", "-n", NODE_LEASE_NAMESPACE]).contains("yes"));
    let controllers_file = folder.path().join("controllers.yaml");
    kubeconfig(&data_dir, CONTROLLERS_USER, None, &url, &controllers_file);
    let controllers = Kubectl { kubeconfig: &controllers_file };
    assert!(controllers.fails(&["get", "secrets"]).contains("forbidden"));
}

/// One verb on one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Grant {
    group: String,
    resource: String,
    verb: String,
}

fn texts(rule: &Value, field: &str) -> Vec<String> {
    rule[field].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn grants(rules: &[Value]) -> Vec<Grant> {
    let mut all = Vec::new();
    for rule in rules {
        for group in texts(rule, "apiGroups") {
            for resource in texts(rule, "resources") {
                all.extend(texts(rule, "verbs").into_iter().map(|verb| Grant {
                    group: group.clone(),
                    resource: resource.clone(),
                    verb,
                }));
            }
        }
    }
    all
}

/// The rules without one grant.
fn without(rules: &[Value], taken: &Grant) -> Vec<Value> {
    let rest = grants(rules).into_iter().filter(|grant| grant != taken);
    rest.map(|grant| json!({"apiGroups": [grant.group], "resources": [grant.resource], "verbs": [grant.verb]}))
        .collect()
}

/// A client that tells of its refusals.
fn listening(inner: kube::Client, refusals: &Arc<Mutex<Vec<String>>>) -> kube::Client {
    let refusals = Arc::clone(refusals);
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let (inner, refusals) = (inner.clone(), Arc::clone(&refusals));
        async move {
            let response = inner.send(request).await?;
            if response.status() != http::StatusCode::FORBIDDEN {
                return Ok::<_, Box<dyn std::error::Error + Send + Sync>>(response);
            }
            let (head, body) = response.into_parts();
            let bytes = body.collect().await?.to_bytes();
            refusals.lock().unwrap().push(String::from_utf8_lossy(&bytes).replace("\\\"", "\""));
            Ok(http::Response::from_parts(head, kube::client::Body::from(bytes.to_vec())))
        }
    });
    kube::Client::new(service, "default")
}

/// A vehicle's whole life in small steps: whatever the controllers ever ask for, they ask for here.
struct Life<'a> {
    bed: &'a Bed,
    step: u32,
}

impl Life<'_> {
    async fn object<K: kube::Resource<DynamicType = ()>>(&self, object: Value) {
        let resource = ApiResource::erase::<K>(&());
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let client = self.bed.client.clone();
        let api: Api<DynamicObject> = if resource.kind == "NodeRuntime" {
            Api::all_with(client, &resource)
        } else {
            Api::namespaced_with(client, "default", &resource)
        };
        api.patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(object)).await.unwrap();
    }

    async fn begin(&self) {
        self.bed.node("zone", 60).await;
        self.bed.node("hpc", 60).await;
        self.bed.real_time("hpc", "0-1", 900_000).await;
        self.bed.bms().await;
        self.bed.scenario("eco", "P", "update").await;
        // A namesake left a claim behind that garbage collection can't judge: its scenario's kind isn't served.
        let owner = json!({"apiVersion": "elsewhere.example/v1", "kind": "Scenario", "name": "old", "uid": "gone", "controller": true});
        self.object::<Claim>(json!({
            "apiVersion": "pullpiri.io/v1alpha1", "kind": "Claim", "metadata": {"name": "old", "ownerReferences": [owner]},
            "spec": {"package": "bms", "action": "terminate"},
        }))
        .await;
        self.object::<Scenario>(json!({
            "apiVersion": "pullpiri.io/v1alpha1", "kind": "Scenario", "metadata": {"name": "old"},
            "spec": {"action": "update", "target": "bms"},
        }))
        .await;
        let tasks = json!([{"name": "control", "wcet": "1ms", "period": "10ms", "target": {"model": "blis"}}]);
        self.object::<Schedule>(json!({
            "apiVersion": "pullpiri.io/v1alpha1", "kind": "Schedule", "metadata": {"name": "s"}, "spec": {"tasks": tasks},
        }))
        .await;
        self.object::<Package>(json!({
            "apiVersion": "pullpiri.io/v1alpha1", "kind": "Package", "metadata": {"name": "timed"},
            "spec": {"models": [{"name": "blis", "node": "HPC"}], "desiredState": "Running", "schedule": "s"},
        }))
        .await;
        self.object::<Network>(json!({
            "apiVersion": "pullpiri.io/v1alpha1", "kind": "Network", "metadata": {"name": "net"},
            "spec": {"mode": "Bridge", "subnet": {"v4": "10.20.0.0/24"}},
        }))
        .await;
        let nodes: Api<NodeRuntime> = Api::all(self.bed.client.clone());
        let status = json!({
            "apiVersion": "pullpiri.io/v1alpha1", "kind": "NodeRuntime", "metadata": {"name": "zone"},
            "status": {"network": {"backend": "tcx+htb", "uplink": "eth0", "linkBps": 100_000_000, "addresses": ["192.0.2.1"]}},
        });
        nodes.patch_status("zone", &PatchParams::apply("network").force(), &Patch::Apply(status)).await.unwrap();
        let instance = json!({
            "apiVersion": "pullpiri.io/v1alpha1", "kind": "ModelInstance", "metadata": {"name": "on-the-net"},
            "spec": {
                "package": "p", "model": "m", "nodeName": "zone", "run": true,
                "template": {"spec": {"containers": [{"name": "c", "image": "localhost/c:1"}]}},
                "network": {"name": "net", "addresses": ["10.20.0.9"], "gateways": ["10.20.0.1"]},
            },
        });
        let on_lost = {
            let mut other = instance.clone();
            other["metadata"]["name"] = json!("on-a-lost-node");
            other["spec"]["nodeName"] = json!("lost");
            other["spec"].as_object_mut().unwrap().remove("network");
            other
        };
        for object in [instance, on_lost] {
            let object: ModelInstance = serde_json::from_value(object).unwrap();
            self.bed.api::<ModelInstance>().create(&PostParams::default(), &object).await.unwrap();
        }
        // Falls silent at once, with an instance on it.
        self.bed.node("lost", 1).await;
    }

    async fn go_on(&mut self) {
        let bed = self.bed;
        self.step += 1;
        bed.signal("Gear", "gear", if self.step % 10 < 5 { "D" } else { "P" }).await;
        for instance in bed.instances().await {
            if instance.status.is_none() {
                bed.report(&instance, "Running").await;
            }
        }
        match self.step {
            // The policy of the network changes, and a model leaves its package.
            30 => {
                self.object::<Network>(json!({
                    "apiVersion": "pullpiri.io/v1alpha1", "kind": "Network", "metadata": {"name": "net"},
                    "spec": {"mode": "Bridge", "subnet": {"v4": "10.20.0.0/24"}, "internal": "Deny"},
                }))
                .await;
                self.object::<Package>(json!({
                    "apiVersion": "pullpiri.io/v1alpha1", "kind": "Package", "metadata": {"name": "timed"},
                    "spec": {"models": [{"name": "mavd", "node": "HPC"}], "desiredState": "Running", "schedule": null},
                }))
                .await;
            }
            // Everything goes.
            60 => {
                let all = DeleteParams::default();
                bed.api::<Scenario>().delete("eco", &all).await.map(drop).unwrap_or_default();
                bed.api::<ModelInstance>().delete("on-the-net", &all).await.map(drop).unwrap_or_default();
                bed.api::<Network>().delete("net", &all).await.map(drop).unwrap_or_default();
                let nodes: Api<NodeRuntime> = Api::all(bed.client.clone());
                nodes.delete("zone", &all).await.map(drop).unwrap_or_default();
            }
            _ => {}
        }
    }
}

/// Runs the controllers without one grant until they are refused for lack of it.
async fn is_missed(taken: Grant) -> Result<(), String> {
    let bed = Bed::bare(true).await;
    bed.install().await;
    let rules = |rules: Vec<Value>| json!({"rules": without(&rules, &taken)});
    let params = PatchParams::default();
    let roles: Api<ClusterRole> = Api::all(bed.client.clone());
    roles.patch(CONTROLLERS_USER, &params, &Patch::Merge(rules(controllers_rules()))).await.unwrap();
    let roles: Api<Role> = Api::namespaced(bed.client.clone(), NODE_LEASE_NAMESPACE);
    roles.patch(CONTROLLERS_USER, &params, &Patch::Merge(rules(controllers_lease_rules()))).await.unwrap();

    let refusals = Arc::new(Mutex::new(Vec::new()));
    let client = listening(bed.server.client(UserInfo::new(CONTROLLERS_USER, [])), &refusals);
    let shutdown = CancellationToken::new();
    let config = Config::new("test", Metrics::register(&mut Registry::default()));
    let controllers = tokio::spawn(Controllers::run(client, config, shutdown.clone()));
    let wanted = format!("cannot {} resource \"{}\" in API group \"{}\"", taken.verb, taken.resource, taken.group);
    let deadline = Instant::now() + PATIENCE;
    let mut life = Life { bed: &bed, step: 0 };
    life.begin().await;
    let mut outcome = Err(format!("{taken:?} isn't missed"));
    while Instant::now() < deadline {
        let seen = refusals.lock().unwrap().clone();
        if let Some(other) = seen.iter().find(|refusal| !refusal.contains(&wanted)) {
            outcome = Err(format!("without {taken:?} something else is refused: {other}"));
            break;
        }
        if !seen.is_empty() {
            outcome = Ok(());
            break;
        }
        life.go_on().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    shutdown.cancel();
    controllers.await.unwrap();
    bed.server.stop();
    outcome
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_controllers_miss_every_verb_that_is_taken_from_them() {
    let all: Vec<Grant> = grants(&controllers_rules()).into_iter().chain(grants(&controllers_lease_rules())).collect();
    assert!(all.len() > 30, "{all:?}");
    // What the chart's permissions are tested with (rbac.rs), and only this test sees.
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rbac/requests.txt")).unwrap();
    for line in text.lines().filter_map(|line| line.strip_prefix("access controllers ")) {
        let words: Vec<&str> = line.split(' ').collect();
        let is_it = |grant: &Grant| {
            (grant.verb.as_str(), grant.group.as_str(), grant.resource.as_str()) == (words[0], words[1], words[2])
        };
        assert!(all.iter().any(is_it), "{line}");
    }
    let outcomes: Vec<Result<(), String>> = stream::iter(all).map(is_missed).buffer_unordered(AT_ONCE).collect().await;
    let failures: Vec<String> = outcomes.into_iter().filter_map(Result::err).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
