//! Signals as an aggregated API of a real kube-apiserver: two replicas, one of which leads.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use k8s_openapi::api::core::v1::Secret;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::config::AuthInfo;
use kube::{Api, Client, Config, ResourceExt};
use pullpiri_crds::{Claim, Scenario, Signal};
use pullpiri_e2e::process::{free_address, run};
use pullpiri_e2e::wait_for;
use serde_json::json;

use crate::processes::{Process, until_holder};
use crate::support::{LIMIT, Place, Plane};

const API_SERVICE: &str = "v1alpha1.signals.pullpiri.io";

async fn apply(client: &Client, path: &str, object: serde_json::Value) {
    let request = http::Request::patch(format!("{path}?fieldManager=test&force=true"))
        .header("content-type", "application/apply-patch+yaml")
        .body(object.to_string().into_bytes())
        .unwrap();
    client.request::<serde_json::Value>(request).await.unwrap();
}

/// The API server sends what is asked of signals to this port.
async fn point_at(place: &Place, port: u16) {
    let namespace = &place.namespace;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "signals"},
        "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"name": "https", "port": port}]},
    });
    apply(&place.admin, &format!("/api/v1/namespaces/{namespace}/services/signals"), service).await;
    let api_service = json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": API_SERVICE},
        "spec": {
            "group": "signals.pullpiri.io", "version": "v1alpha1", "groupPriorityMinimum": 1000, "versionPriority": 15,
            "service": {"name": "signals", "namespace": namespace, "port": port},
        },
    });
    apply(&place.admin, &format!("/apis/apiregistration.k8s.io/v1/apiservices/{API_SERVICE}"), api_service).await;
}

fn signal(value: &str) -> Signal {
    Signal::new("Gear", [("gear".to_owned(), value.to_owned())].into())
}

async fn put(client: &Client, value: &str) -> Result<Signal, kube::Error> {
    let signals: Api<Signal> = Api::all(client.clone());
    signals.replace("Gear", &PostParams::default(), &signal(value)).await
}

async fn until_put(client: &Client, value: &str) {
    wait_for("a sample is taken", LIMIT, || async { put(client, value).await.map_err(|error| error.to_string()) })
        .await
        .unwrap();
}

/// Whether the signal has the value, by that client.
async fn read(client: &Client, value: &str) -> Result<(), String> {
    let signals: Api<Signal> = Api::all(client.clone());
    let list = signals.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
    let fields: Vec<BTreeMap<String, String>> = list.items.into_iter().map(|signal| signal.fields).collect();
    if fields.iter().any(|fields| fields["gear"] == value) { Ok(()) } else { Err(format!("{fields:?}")) }
}

async fn until_read(client: &Client, value: &str) {
    wait_for(&format!("the gear is {value}"), LIMIT, || read(client, value)).await.unwrap();
}

/// Tells by `writer` until `reader` sees it: what a leader takes while it goes, goes with it.
async fn until_told(writer: &Client, reader: &Client, value: &str) {
    wait_for(&format!("the gear is told to be {value}"), LIMIT, || async {
        put(writer, value).await.map_err(|error| error.to_string())?;
        read(reader, value).await
    })
    .await
    .unwrap();
}

/// A client as somebody else, through the API server.
async fn alice(kubeconfig: &Path) -> Client {
    let mut file = kube::config::Kubeconfig::read_from(kubeconfig).unwrap();
    for user in &mut file.auth_infos {
        user.auth_info.get_or_insert_with(AuthInfo::default).impersonate = Some("alice".to_owned());
    }
    let mut config = Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default()).await.unwrap();
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

/// A client of a replica itself, past the API server, with the admin's certificate.
async fn direct(kubeconfig: &Path, place: &Place, address: SocketAddr) -> Client {
    let secret = place.api::<Secret>().get("pullpiri-signals-tls").await.unwrap();
    let ca = secret.data.unwrap().remove("ca.crt").unwrap().0;
    let file = kube::config::Kubeconfig::read_from(kubeconfig).unwrap();
    let mut config = Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default()).await.unwrap();
    let ders = rustls::pki_types::CertificateDer::pem_slice_iter(&ca).map(|der| der.unwrap().to_vec()).collect();
    config.root_cert = Some(ders);
    config.cluster_url = format!("https://{address}").parse().unwrap();
    config.tls_server_name = Some(format!("signals.{}.svc", place.namespace));
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

use rustls::pki_types::pem::PemObject as _;

pub async fn signals(plane: &Plane) {
    let place = plane.place("aggregated").await;
    let kubeconfig = plane.kubeconfig().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (free_address().unwrap(), free_address().unwrap());
    let flags = |address: SocketAddr| {
        let listen = format!("--signals-listen={address}");
        vec![
            listen,
            "--leader-elect-lease-duration=3s".to_owned(),
            "--leader-elect-renew-deadline=2s".to_owned(),
            "--leader-elect-retry-period=300ms".to_owned(),
        ]
    };
    point_at(&place, first.port()).await;
    let a = Process::at(&place, &kubeconfig, folder.path(), "a", &flags(first)).await;
    until_holder(&place, "a_").await;
    let b = Process::at(&place, &kubeconfig, folder.path(), "b", &flags(second)).await;
    until_told(&place.admin, &place.admin, "D").await;
    // By the command line, and as people do.
    let text = run(&["signal", "set", "Gear#gear=N", "--kubeconfig", kubeconfig.to_str().unwrap()]).unwrap();
    assert!(text.contains("Gear#gear=N"), "{text}");
    table(&kubeconfig);
    permissions(&place, &kubeconfig).await;
    // Whoever has a certificate of the cluster's CA may come directly.
    let own = direct(&kubeconfig, &place, first).await;
    until_read(&own, "N").await;
    assert_eq!(code(put(&stranger(&own, &place, first).await, "X").await), 401, "no certificate");
    // A follower sends on, in whose name it came.
    b.until_ready().await;
    let follower = direct(&kubeconfig, &place, second).await;
    until_told(&follower, &own, "R").await;
    point_at(&place, second.port()).await;
    until_told(&place.admin, &own, "N").await;
    scenario(&place).await;
    // With the leader its signals go; the next one has its own.
    a.signal(nix::sys::signal::Signal::SIGTERM);
    until_holder(&place, "b_").await;
    until_told(&place.admin, &place.admin, "D").await;
    let signals: Api<Signal> = Api::all(place.admin.clone());
    assert_eq!(signals.list(&ListParams::default()).await.unwrap().items.len(), 1);
    drop((a, b));
}

fn code<T>(result: Result<T, kube::Error>) -> u16 {
    match result {
        Err(kube::Error::Api(status)) => status.code,
        Err(error) => panic!("{error}"),
        Ok(_) => 200,
    }
}

async fn stranger(_own: &Client, place: &Place, address: SocketAddr) -> Client {
    let mut config = Config::new(format!("https://{address}").parse().unwrap());
    let secret = place.api::<Secret>().get("pullpiri-signals-tls").await.unwrap();
    let ca = secret.data.unwrap().remove("ca.crt").unwrap().0;
    let ders = rustls::pki_types::CertificateDer::pem_slice_iter(&ca).map(|der| der.unwrap().to_vec()).collect();
    config.root_cert = Some(ders);
    config.tls_server_name = Some(format!("signals.{}.svc", place.namespace));
    config.default_retry = false;
    // Says that it is root; nobody believes it.
    let root = (http::HeaderName::from_static("x-remote-user"), http::HeaderValue::from_static("admin"));
    let masters = (http::HeaderName::from_static("x-remote-group"), http::HeaderValue::from_static("system:masters"));
    config.headers = vec![root, masters];
    Client::try_from(config).unwrap()
}

/// `kubectl get signals`, if there is a kubectl.
fn table(kubeconfig: &Path) {
    let Ok(output) = Command::new("kubectl").args(["get", "signals", "--kubeconfig"]).arg(kubeconfig).output() else {
        println!("skipped: no kubectl");
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("NAME") && text.contains("Gear") && text.contains("FIELDS"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The cluster's own roles decide.
async fn permissions(place: &Place, kubeconfig: &Path) {
    let alice = alice(kubeconfig).await;
    assert_eq!(code(put(&alice, "P").await), 403);
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "gears"},
        "rules": [{"apiGroups": ["signals.pullpiri.io"], "resources": ["signals"], "resourceNames": ["Gear"], "verbs": ["update"]}],
    });
    apply(&place.admin, &format!("{rbac}/clusterroles/gears"), role).await;
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "gears"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "gears"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "alice"}],
    });
    apply(&place.admin, &format!("{rbac}/clusterrolebindings/gears"), binding).await;
    until_put(&alice, "N").await;
    let signals: Api<Signal> = Api::all(alice);
    assert_eq!(code(signals.list(&ListParams::default()).await), 403, "not that");
}

/// A sample starts what a scenario says.
async fn scenario(place: &Place) {
    place.package("bms", &["m"], "OnClaim").await;
    let object = json!({
        "apiVersion": "pullpiri.io/v1alpha1", "kind": "Scenario", "metadata": {"name": "park"},
        "spec": {
            "condition": {"express": "eq", "value": "P", "operands": {"type": "DDS", "name": "gear", "value": "Gear"}},
            "action": "launch", "target": "bms",
        },
    });
    let params = PatchParams::apply("test").force();
    place.api::<Scenario>().patch("park", &params, &Patch::Apply(object)).await.unwrap();
    // Only a condition that becomes true counts.
    wait_for("the scenario is followed", LIMIT, || async {
        let scenario = place.api::<Scenario>().get("park").await.map_err(|error| error.to_string())?;
        if scenario.status.is_some() { Ok(()) } else { Err("no status".to_owned()) }
    })
    .await
    .unwrap();
    until_put(&place.admin, "P").await;
    wait_for("the package is claimed", LIMIT, || async {
        let claims = place.api::<Claim>().list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let names: Vec<String> = claims.items.iter().map(ResourceExt::name_any).collect();
        if names == ["park"] { Ok(()) } else { Err(format!("{names:?}")) }
    })
    .await
    .unwrap();
    place.until_run(1, true).await;
}
