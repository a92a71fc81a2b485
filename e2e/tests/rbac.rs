//! The chart's permissions on the embedded API server and on a real kube-apiserver. All that runs asked for (rbac/requests.txt) is allowed; with any verb of
//! any rule taken away, or any binding, some of it is refused; and what nobody asked for is refused anyway.
//!
//! For each thing that is taken away there is a service account that has the rest, so that nothing is changed and waited for a hundred times.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::{DynamicObject, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use kube::{Api, Client};
use pullpiri_apiserver::auth::UserInfo;
use pullpiri_apiserver::{ApiServer, Config};
use pullpiri_e2e::real::RealKube;
use pullpiri_e2e::wait_for;
use pullpiri_store::memory::MemoryStore;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(40);
/// Questions at a time.
const AT_ONCE: usize = 16;
const NS: &str = "pullpiri-system";
const RELEASE: &str = "pullpiri-";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

// ---- what is asked for ----

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Request {
    account: String,
    verb: String,
    group: String,
    /// With its subresource.
    resource: String,
    namespace: String,
    name: String,
}

fn request(line: &str) -> Request {
    let mut words = line.split(' ').map(|word| if word == "-" { String::new() } else { word.to_owned() });
    let mut next = || words.next().unwrap_or_else(|| panic!("six words: {line}"));
    let (account, verb, group) = (next(), next(), next());
    Request { account, verb, group, resource: next(), namespace: next(), name: next() }
}

fn recorded() -> Vec<Request> {
    let text = std::fs::read_to_string(root().join("e2e/tests/rbac/requests.txt")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| request(line.split_once(' ').unwrap().1)).collect()
}

/// What no part of Pullpiri has any business with.
const NOBODYS: [&str; 16] = [
    "controllers get - secrets pullpiri-system other",
    "controllers list - secrets pullpiri-system -",
    "controllers create - secrets pullpiri-system -",
    "controllers update coordination.k8s.io leases pullpiri-system other",
    "controllers update coordination.k8s.io leases kube-node-lease pullpiri-kube-node",
    "controllers patch apiregistration.k8s.io apiservices - v1.apps",
    "controllers patch pullpiri.io packages default -",
    "controllers delete pullpiri.io scenarios default -",
    "controllers create - pods default -",
    "node list - secrets kube-system -",
    "node create pullpiri.io modelinstances default -",
    "node delete pullpiri.io modelinstances default -",
    "node update coordination.k8s.io leases kube-system -",
    "node patch - pods default -",
    "purge delete pullpiri.io modelinstances default -",
    "test delete signals.pullpiri.io signals - -",
];

// ---- what the chart gives ----

/// Its roles and bindings, or why they can't be had.
fn chart() -> Result<Vec<Value>, String> {
    let helm = root().join("target/kube/bin/helm");
    if !helm.is_file() {
        return Err(format!("no {} (hack/kube/build.sh helm builds it where there is Go)", helm.display()));
    }
    let output = Command::new(helm)
        .args(["template", "pullpiri", "--namespace", NS, "--kube-version=1.37.0"])
        .args(["--set", "node.kubernetesRuntime.enabled=true,crds.keep=false"])
        .arg(root().join("charts/pullpiri"))
        .env("KUBECONFIG", "/dev/null")
        .output()
        .map_err(|error| error.to_string())?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let objects = text.split("\n---").filter(|part| part.contains("rbac.authorization.k8s.io"));
    let objects = objects.filter_map(|part| serde_saphyr::from_str::<Value>(part).ok());
    Ok(objects.filter(|object| kind(object).contains("Role")).collect())
}

fn kind(object: &Value) -> &str {
    object["kind"].as_str().unwrap_or_default()
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}

fn account(binding: &Value) -> &str {
    binding["subjects"][0]["name"].as_str().unwrap().strip_prefix(RELEASE).unwrap()
}

fn is_binding(object: &Value) -> bool {
    kind(object).ends_with("Binding")
}

fn binds(binding: &Value, role: &Value) -> bool {
    let reference = &binding["roleRef"];
    let same_place = kind(role) == "ClusterRole" || binding["metadata"]["namespace"] == role["metadata"]["namespace"];
    reference["kind"] == role["kind"] && reference["name"] == role["metadata"]["name"] && same_place
}

fn subject(account: &str) -> Value {
    json!({"kind": "ServiceAccount", "name": format!("{RELEASE}{account}"), "namespace": NS})
}

/// One verb on one resource, in one rule.
#[derive(Clone, Debug)]
struct Grant {
    group: String,
    resource: String,
    verb: String,
    names: Value,
}

impl Grant {
    fn rule(&self) -> Value {
        json!({"apiGroups": [self.group], "resources": [self.resource], "verbs": [self.verb], "resourceNames": self.names})
    }

    fn is_for(&self, request: &Request) -> bool {
        (&self.group, &self.resource, &self.verb) == (&request.group, &request.resource, &request.verb)
    }
}

fn grants(role: &Value) -> Vec<Grant> {
    let texts = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let mut all = Vec::new();
    for rule in role["rules"].as_array().unwrap() {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                all.extend(texts(&rule["verbs"]).into_iter().map(|verb| Grant {
                    group: group.clone(),
                    resource: resource.clone(),
                    verb,
                    names: rule["resourceNames"].clone(),
                }));
            }
        }
    }
    all
}

/// A service account that has what another one has, but for one thing.
struct Lesser {
    account: String,
    /// Whose rest it has.
    of: String,
    /// `None`: a whole binding.
    lacks: Option<Grant>,
    what: String,
}

/// The chart's objects and what the lesser accounts need beside them.
fn lesser(chart: Vec<Value>) -> (Vec<Value>, Vec<Lesser>) {
    let (mut bindings, mut roles): (Vec<Value>, Vec<Value>) = chart.into_iter().partition(is_binding);
    let mut all = Vec::new();
    let mut more = Vec::new();
    let originals = bindings.clone();
    let mut add = |bindings: &mut Vec<Value>, of: &str, but: &Value, lacks: Option<Grant>, what: String| {
        let name = format!("{of}-{}", all.len());
        for binding in bindings.iter_mut().filter(|binding| account(binding) == of) {
            if binding["metadata"] != but["metadata"] || kind(binding) != kind(but) {
                binding["subjects"].as_array_mut().unwrap().push(subject(&name));
            }
        }
        all.push(Lesser { account: name.clone(), of: of.to_owned(), lacks, what });
        name
    };
    for binding in &originals {
        add(&mut bindings, account(binding), binding, None, format!("{} {}", kind(binding), name(binding)));
    }
    for role in &roles {
        let Some(binding) = originals.iter().find(|binding| binds(binding, role)) else { continue };
        let all_grants = grants(role);
        for (index, grant) in all_grants.iter().enumerate() {
            let what = format!("{} {}: {} {}/{}", kind(role), name(role), grant.verb, grant.group, grant.resource);
            let lesser = add(&mut bindings, account(binding), binding, Some(grant.clone()), what);
            let rest = all_grants.iter().enumerate().filter(|(other, _)| *other != index);
            let (mut role, mut binding) = (role.clone(), binding.clone());
            role["rules"] = rest.map(|(_, grant)| grant.rule()).collect();
            role["metadata"]["name"] = json!(format!("{}-{lesser}", name(&role)));
            binding["metadata"]["name"] = json!(format!("{}-{lesser}", name(&binding)));
            binding["roleRef"]["name"] = role["metadata"]["name"].clone();
            binding["subjects"] = json!([subject(&lesser)]);
            more.extend([role, binding]);
        }
    }
    let (more_bindings, more_roles): (Vec<Value>, Vec<Value>) = more.into_iter().partition(is_binding);
    roles.extend(more_roles);
    // The chart's own last: what they allow is in force after the others.
    let bindings = more_bindings.into_iter().chain(bindings);
    (roles.into_iter().chain(bindings).collect(), all)
}

// ---- asking a server ----

async fn create(client: &Client, object: &Value) {
    let (api_version, kind) = (object["apiVersion"].as_str().unwrap(), kind(object));
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let object: DynamicObject = serde_json::from_value(object.clone()).unwrap();
    let api: Api<DynamicObject> = match &object.metadata.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let created =
        wait_for("an object is taken", LIMIT, async || match api.create(&PostParams::default(), &object).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(error.to_string()),
        });
    created.await.unwrap();
}

async fn may(client: &Client, account: &str, request: &Request) -> bool {
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let (resource, subresource) = request.resource.split_once('/').unwrap_or((&request.resource, ""));
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(format!("system:serviceaccount:{NS}:{RELEASE}{account}")),
            groups: Some(vec![
                "system:serviceaccounts".into(),
                format!("system:serviceaccounts:{NS}"),
                "system:authenticated".into(),
            ]),
            resource_attributes: Some(ResourceAttributes {
                verb: some(&request.verb),
                group: some(&request.group),
                version: Some("*".into()),
                resource: some(resource),
                subresource: some(subresource),
                namespace: some(&request.namespace),
                name: some(&request.name),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let api: Api<SubjectAccessReview> = Api::all(client.clone());
    api.create(&PostParams::default(), &review).await.unwrap().status.unwrap().allowed
}

/// Which of these are refused.
async fn refused<'a>(client: &Client, account: &str, requests: &[&'a Request]) -> Vec<&'a Request> {
    let mut refused = Vec::new();
    for request in requests {
        if !may(client, account, request).await {
            refused.push(*request);
        }
    }
    refused
}

/// Whether the account that has less is refused something for it, and nothing else.
async fn misses(client: &Client, lesser: &Lesser, recorded: &[Request]) -> Result<(), String> {
    let all: Vec<&Request> = recorded.iter().filter(|request| request.account == lesser.of).collect();
    let is_meant = |request: &Request| lesser.lacks.as_ref().is_none_or(|grant| grant.is_for(request));
    // Roles are in force a moment after they are made.
    let seen = wait_for(&lesser.what, LIMIT, async || {
        let refused = refused(client, &lesser.account, &all).await;
        match refused.iter().find(|request| !is_meant(request)) {
            Some(other) => Err(format!("something else is refused, too: {other:?}")),
            None => Ok(refused.len()),
        }
    });
    match seen.await {
        Ok(0) => Err(format!("nobody misses it: {}", lesser.what)),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

async fn nothing_more_and_nothing_less(server: &str, client: Client) {
    let chart = match chart() {
        Ok(chart) => chart,
        Err(reason) => return println!("skipped: {reason}"),
    };
    for namespace in [NS, "default", "kube-system", "kube-node-lease"] {
        create(&client, &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})).await;
    }
    // Every Kubernetes has this one; the embedded API server, which needs no aggregated API, hasn't.
    create(&client, &json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": "extension-apiserver-authentication-reader", "namespace": "kube-system"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["extension-apiserver-authentication"], "verbs": ["get", "list", "watch"]}],
    })).await;
    let (objects, lessers) = lesser(chart);
    assert!(lessers.len() > 100, "{}", lessers.len());
    for object in &objects {
        create(&client, object).await;
    }
    let recorded = recorded();
    for account in ["controllers", "node", "purge", "test"] {
        let asked: Vec<&Request> = recorded.iter().filter(|request| request.account == account).collect();
        assert!(!asked.is_empty());
        wait_for("all that was ever asked for is allowed", LIMIT, async || {
            let refused = refused(&client, account, &asked).await;
            if refused.is_empty() { Ok(()) } else { Err(format!("{refused:?}")) }
        })
        .await
        .unwrap_or_else(|error| panic!("{server}: {error}"));
    }
    for line in NOBODYS {
        let request = request(line);
        assert!(!may(&client, &request.account, &request).await, "{server}: {line} is allowed");
    }
    let outcomes: Vec<Result<(), String>> = stream::iter(&lessers)
        .map(|lesser| misses(&client, lesser, &recorded))
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let failures: Vec<String> = outcomes.into_iter().filter_map(Result::err).collect();
    assert!(failures.is_empty(), "{server}:\n{}", failures.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_server_refuses_what_was_taken_from_the_charts_roles() {
    let server = ApiServer::open(Config::new(Arc::new(MemoryStore::default()))).await.unwrap();
    let client = server.client(UserInfo::new("test", ["system:masters".to_owned()]));
    nothing_more_and_nothing_less("embedded", client).await;
    server.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_server_refuses_what_was_taken_from_the_charts_roles() {
    if let Some(reason) = RealKube::missing() {
        return println!("skipped: {reason}");
    }
    let kube = RealKube::start_with("--enable-admission-plugins=OwnerReferencesPermissionEnforcement").unwrap();
    let client = kube.client().await.unwrap();
    nothing_more_and_nothing_less("kube-apiserver", client.clone()).await;
    if chart().is_ok() {
        owners_are_asked_for(&client).await;
    }
}

/// Where owners that block a deletion have to be asked for, the controllers may name theirs, and miss it if they mayn't.
async fn owners_are_asked_for(client: &Client) {
    for crd in pullpiri_crds::all() {
        create(client, &serde_json::to_value(crd).unwrap()).await;
    }
    let (_, lessers) = lesser(chart().unwrap());
    for (owner, plural, object) in [
        ("Scenario", "claims", json!({"kind": "Claim", "spec": {"package": "p", "action": "launch"}})),
        (
            "Package",
            "modelinstances",
            json!({"kind": "ModelInstance", "spec": {"package": "p", "model": "m", "nodeName": "n", "run": true,
            "epoch": 1, "template": {"spec": {"containers": [{"name": "c", "image": "localhost/c:1"}]}}}}),
        ),
    ] {
        let mut object = object;
        object["apiVersion"] = json!("pullpiri.io/v1alpha1");
        object["metadata"] = json!({"name": "x", "namespace": "default", "ownerReferences": [{
            "apiVersion": "pullpiri.io/v1alpha1", "kind": owner, "name": "o", "uid": "u", "controller": true, "blockOwnerDeletion": true}]});
        let attempt = async |account: &str| {
            let request =
                http::Request::post(format!("/apis/pullpiri.io/v1alpha1/namespaces/default/{plural}?dryRun=All"))
                    .header("content-type", "application/json")
                    .header("Impersonate-User", format!("system:serviceaccount:{NS}:{RELEASE}{account}"))
                    .body(serde_json::to_vec(&object).unwrap())
                    .unwrap();
            client.request::<Value>(request).await.map(drop).map_err(|error| error.to_string())
        };
        // The kinds of owners are known a moment after they are served.
        wait_for("the controllers may", LIMIT, async || attempt("controllers").await).await.unwrap();
        let resource = format!("{}s/finalizers", owner.to_lowercase());
        let lesser =
            lessers.iter().find(|lesser| lesser.lacks.as_ref().is_some_and(|grant| grant.resource == resource));
        let error = attempt(&lesser.unwrap().account).await.unwrap_err();
        assert!(error.contains("cannot set blockOwnerDeletion"), "{error}");
    }
}
