//! The server as a whole: TLS and who gets in, installing, virtual resources, restart, panics and time limits.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use kube::api::{Api as Objects, ListParams};
use pullpiri_apiserver::admission::{Admission, Attributes};
use pullpiri_apiserver::auth::UserInfo;
use pullpiri_apiserver::authz::{self, Authorizer, Decision};
use pullpiri_apiserver::status::Status;
use pullpiri_apiserver::tls::{Identity, Pki, kubeconfig, names_for};
use pullpiri_apiserver::{ApiServer, Config};
use pullpiri_store::Store as _;
use pullpiri_store::memory::MemoryStore;
use serde_json::{Value, json};
use support::{CONFIG_MAPS, WIDGETS, api, api_with, config_map, widget, widgets};

fn now() -> jiff::Timestamp {
    "2026-11-24T00:00:00Z".parse().unwrap()
}

async fn client(url: &str, pki: &Pki, identity: Option<&Identity>) -> kube::Client {
    let empty = Identity { certificate: String::new(), key: String::new() };
    let text = kubeconfig(url, pki.ca_certificate(), identity.unwrap_or(&empty));
    let mut config = kube::config::Kubeconfig::from_yaml(&text).unwrap();
    if identity.is_none() {
        config.auth_infos[0].auth_info = Some(kube::config::AuthInfo::default());
    }
    let config =
        kube::Config::from_custom_kubeconfig(config, &kube::config::KubeConfigOptions::default()).await.unwrap();
    kube::Client::try_from(config).unwrap()
}

#[tokio::test]
async fn only_our_certificates_get_in() {
    let dir = tempfile::tempdir().unwrap();
    let other_dir = tempfile::tempdir().unwrap();
    let server = ApiServer::open(Config::new(Arc::new(MemoryStore::new()))).await.unwrap();
    let listener = ApiServer::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let url = format!("https://{address}");
    let pki = Pki::open(dir.path(), now()).unwrap();
    let tls = pki.server_config(&names_for(&[address], Some("ecu"))).unwrap();
    let serving = tokio::spawn({
        let server = server.clone();
        async move { server.serve(vec![listener], tls).await }
    });

    let admin = pki.issue_client("admin", &["system:masters".to_owned()]).unwrap();
    let known = client(&url, &pki, Some(&admin)).await;
    let maps: Objects<k8s_openapi::api::core::v1::ConfigMap> = Objects::default_namespaced(known);
    assert!(maps.list(&ListParams::default()).await.unwrap().items.len() <= 1);

    let nobody = client(&url, &pki, None).await;
    assert_eq!(nobody.apiserver_version().await.unwrap().minor, "37");
    let maps: Objects<k8s_openapi::api::core::v1::ConfigMap> = Objects::default_namespaced(nobody);
    let kube::Error::Api(status) = maps.list(&ListParams::default()).await.unwrap_err() else { panic!("not a status") };
    assert_eq!((status.code, status.message.as_str()), (401, "Unauthorized"));

    let stranger = Pki::open(other_dir.path(), now()).unwrap().issue_client("admin", &[]).unwrap();
    let stranger = client(&url, &pki, Some(&stranger)).await;
    assert!(stranger.apiserver_version().await.is_err(), "a foreign CA's certificate fails the handshake");

    server.stop();
    tokio::time::timeout(support::PATIENCE, serving).await.expect("the server stops").unwrap().unwrap();
}

/// A connection over HTTP/1.1, with no certificate of its own.
struct Raw(tokio_rustls::client::TlsStream<tokio::net::TcpStream>);

impl Raw {
    async fn connect(address: std::net::SocketAddr, pki: &Pki) -> Self {
        use rustls_pki_types::pem::PemObject as _;
        let mut roots = rustls::RootCertStore::empty();
        let ca = rustls_pki_types::CertificateDer::from_pem_slice(pki.ca_certificate().as_bytes()).unwrap();
        roots.add(ca).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let name = rustls_pki_types::ServerName::from(address.ip());
        Self(tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap())
    }

    /// The status code; `None`: it was closed.
    async fn get(&mut self, path: &str, token: Option<&str>) -> Option<String> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        self.0.write_all(format!("GET {path} HTTP/1.1\r\nHost: s\r\n{token}\r\n").as_bytes()).await.ok()?;
        let mut answer = vec![0; 65536];
        let read = tokio::time::timeout(support::PATIENCE, self.0.read(&mut answer)).await.expect("an answer");
        let length = read.ok().filter(|length| *length > 0)?;
        String::from_utf8_lossy(answer.get(..length)?).split(' ').nth(1).map(str::to_owned)
    }

    async fn ended(&mut self) {
        use tokio::io::AsyncReadExt as _;
        let mut rest = Vec::new();
        // Closed with or without a farewell.
        let _ = tokio::time::timeout(support::PATIENCE, self.0.read_to_end(&mut rest)).await.expect("it ends");
    }
}

#[tokio::test]
async fn who_stays_unknown_makes_room_and_a_token_is_enough_to_stay() {
    let dir = tempfile::tempdir().unwrap();
    let api = api_with(|config| {
        config.limits.max_unauthenticated_connections = 2;
        config.limits.unauthenticated_timeout = Duration::from_secs(1);
    })
    .await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "s"}});
    api.post("/api/v1/namespaces/default/serviceaccounts", &account).await.expect(201);
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let issued = api.post("/api/v1/namespaces/default/serviceaccounts/s/token", &request).await.expect(201);
    let token = issued["status"]["token"].as_str().unwrap();

    let listener = ApiServer::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let pki = Pki::open(dir.path(), now()).unwrap();
    let tls = pki.server_config(&names_for(&[address], None)).unwrap();
    let server = api.server.clone();
    let serving = tokio::spawn(async move { server.serve(vec![listener], tls).await });

    let mut known = Raw::connect(address, &pki).await;
    assert_eq!(known.get(CONFIG_MAPS, Some(token)).await.unwrap(), "200");
    let mut liar = Raw::connect(address, &pki).await;
    assert_eq!(liar.get(CONFIG_MAPS, Some("nonsense")).await.unwrap(), "401");
    let mut quiet = Raw::connect(address, &pki).await;
    let mut third = Raw::connect(address, &pki).await;
    // The oldest makes room, the others run out of time.
    for stranger in [&mut liar, &mut quiet, &mut third] {
        stranger.ended().await;
    }
    assert_eq!(known.get(CONFIG_MAPS, Some(token)).await.unwrap(), "200");
    let metrics = api.server.metrics().unwrap();
    assert!(metrics.contains("pullpiri_apiserver_unauthenticated_connections_ended_total 3"), "{metrics}");
    assert!(metrics.contains("pullpiri_apiserver_unauthenticated_connections 0"), "{metrics}");

    drop(known);
    api.server.stop();
    tokio::time::timeout(support::PATIENCE, serving).await.expect("the server stops").unwrap().unwrap();
}

#[tokio::test]
async fn a_port_in_use_is_a_clear_error() {
    let taken = ApiServer::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = taken.local_addr().unwrap();
    let error = ApiServer::bind(address).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("listening on {address}: ")), "{error}");
}

#[tokio::test]
async fn installing_twice_writes_once() {
    let store = Arc::new(MemoryStore::new());
    let shared = Arc::clone(&store);
    let api = api_with(move |config| config.store = shared).await.with_widgets().await;
    api.post(WIDGETS, &widget("w", &json!({"size": 1}))).await.expect(201);
    let crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.test.pullpiri.io";
    let version = api.get(crd).await.expect(200)["metadata"]["resourceVersion"].clone();
    api.server.install(vec![widgets()]).await.unwrap();
    assert_eq!(api.get(crd).await.expect(200)["metadata"]["resourceVersion"], version);

    // A new server over the same store serves everything at once, custom resources included.
    api.server.stop();
    let shared = Arc::clone(&store);
    let again = api_with(move |config| config.store = shared).await;
    assert_eq!(again.get(&format!("{WIDGETS}/w")).await.expect(200)["spec"]["size"], 1);
    again.server.install(vec![widgets()]).await.unwrap();

    let mut changed = widgets();
    changed["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["label"] =
        json!({"type": "string", "default": "none"});
    let mut served = again.server.registry().subscribe();
    served.borrow_and_update();
    again.server.install(vec![changed]).await.unwrap();
    tokio::time::timeout(support::PATIENCE, served.changed()).await.expect("the new schema is served").unwrap();
    // Defaults reach objects that were stored before they existed.
    assert_eq!(again.get(&format!("{WIDGETS}/w")).await.expect(200)["spec"]["label"], "none");
    assert_eq!(again.get(WIDGETS).await.expect(200)["items"][0]["spec"]["label"], "none");

    let nonsense = json!({"apiVersion": "v1", "kind": "Nothing", "metadata": {"name": "x"}});
    let error = again.server.install(vec![nonsense]).await.unwrap_err().to_string();
    assert_eq!(error, "installing Nothing x: the server has no kind Nothing in v1");
}

#[tokio::test]
async fn virtual_resources_live_in_memory() {
    let mut definition = widgets();
    definition["metadata"]["name"] = json!("signals.test.pullpiri.io");
    definition["spec"]["names"] = json!({"plural": "signals", "kind": "Signal"});
    let store = Arc::new(MemoryStore::new());
    let shared = Arc::clone(&store);
    let api = api_with(move |config| {
        config.store = shared;
        config.virtual_resources = vec![definition];
    })
    .await;
    let before = store.revision();
    let path = "/apis/test.pullpiri.io/v1/namespaces/default/signals";
    let sample = json!({"apiVersion": "test.pullpiri.io/v1", "kind": "Signal", "metadata": {"name": "gear"}, "spec": {"size": 1}});
    let made = api.put(&format!("{path}/gear"), &sample).await.expect(201);
    let mut watch = api
        .watch(&format!("{path}?watch=1&resourceVersion={}", made["metadata"]["resourceVersion"].as_str().unwrap()))
        .await;
    let mut next = sample.clone();
    next["spec"]["size"] = json!(2);
    // No resourceVersion: a sample replaces what was there.
    assert_eq!(api.put(&format!("{path}/gear"), &next).await.expect(200)["spec"]["size"], 2);
    assert_eq!(watch.line().await, "MODIFIED gear");
    assert_eq!(api.get(path).await.expect(200)["items"].as_array().unwrap().len(), 1);
    assert!(api.get("/apis/test.pullpiri.io/v1").await.text().contains("signals"));
    api.delete(&format!("{path}/gear")).await.expect(200);
    assert_eq!(watch.line().await, "DELETED gear");
    let keys = store.list(pullpiri_store::Range { prefix: "test.".to_owned(), ..Default::default() }).await.unwrap();
    assert!(keys.items.is_empty() && store.revision() >= before, "nothing of it is stored");
}

#[derive(Debug)]
struct Trouble;

impl Admission for Trouble {
    fn admit<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        _object: Option<&'a mut Value>,
        _old: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        async move {
            match attributes.name {
                "panics" => panic!("as it was told"),
                "hangs" => std::future::pending().await,
                "refused" => Err(Status::forbidden(attributes.resource.group_resource(), "refused", "no")),
                _ => Ok(()),
            }
        }
        .boxed()
    }
}

#[tokio::test]
async fn a_panic_is_a_500_and_a_stuck_request_a_504() {
    let api = api_with(|config| config.admission = vec![Arc::new(Trouble)]).await;
    let (code, _, message) = api.post(CONFIG_MAPS, &config_map("panics", &json!({}))).await.failure();
    assert_eq!(
        (code, message.as_str()),
        (500, "This request caused apiserver to panic. Look in the logs for details.")
    );
    let (code, reason, message) =
        api.post(&format!("{CONFIG_MAPS}?timeout=10ms"), &config_map("hangs", &json!({}))).await.failure();
    assert_eq!((code, reason.as_str()), (504, "Timeout"));
    assert_eq!(message, "Timeout: request did not complete within the allotted timeout");
    let refused = api.post(CONFIG_MAPS, &config_map("refused", &json!({}))).await.failure();
    assert_eq!(refused, (403, "Forbidden".to_owned(), "configmaps \"refused\" is forbidden: no".to_owned()));
    assert_eq!(
        api.get(&format!("{CONFIG_MAPS}?timeout=soon")).await.failure().2,
        "invalid timeout specified in the request URL"
    );
    api.post(CONFIG_MAPS, &config_map("fine", &json!({}))).await.expect(201);
}

#[derive(Debug)]
struct ReadOnly;

impl Authorizer for ReadOnly {
    fn authorize(&self, attributes: &authz::Attributes<'_>) -> Decision {
        match attributes.verb {
            "get" | "list" | "watch" => Decision::Allow,
            _ => Decision::Deny("read only".to_owned()),
        }
    }
}

#[tokio::test]
async fn an_authorizer_decides() {
    let api = api_with(|config| config.authorizer = Some(Arc::new(ReadOnly))).await;
    api.get(CONFIG_MAPS).await.expect(200);
    let (code, _, message) = api.post(CONFIG_MAPS, &config_map("a", &json!({}))).await.failure();
    assert_eq!(code, 403);
    assert_eq!(
        message,
        "configmaps is forbidden: User \"tester\" cannot create resource \"configmaps\" in API group \"\" in the namespace \"default\": read only"
    );
}

#[tokio::test]
async fn concurrent_patches_all_arrive() {
    let api = api().await;
    api.post(CONFIG_MAPS, &config_map("shared", &json!({}))).await.expect(201);
    let patches = (0..20).map(|index| {
        let api = api.clone();
        async move {
            let patch = json!({"data": {format!("k{index}"): "v"}});
            api.patch("merge-patch", &format!("{CONFIG_MAPS}/shared"), &patch).await.expect(200)
        }
    });
    futures::future::join_all(patches).await;
    let shared = api.get(&format!("{CONFIG_MAPS}/shared")).await.expect(200);
    assert_eq!(shared["data"].as_object().unwrap().len(), 20);
}

#[tokio::test]
async fn an_in_process_client_has_its_user() {
    let api = api().await;
    let user = UserInfo::new("scenario-controller", ["system:masters".to_owned()]);
    let client = api.server.client(user);
    let maps: Objects<k8s_openapi::api::core::v1::ConfigMap> = Objects::default_namespaced(client);
    maps.list(&ListParams::default()).await.unwrap();
    // Dropping every handle ends the server's own tasks and the watches.
    let mut watch = api.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion=1")).await;
    api.server.stop();
    assert!(
        tokio::time::timeout(Duration::from_secs(20), async { while watch.next().await.is_some() {} }).await.is_ok()
    );
}

/// Their rules may cost what they must, and not more: a bound that is missing in a schema shows here before a cluster refuses it.
#[test]
fn our_own_definitions_are_accepted() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../crds/yaml");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let mut definition: Value = serde_saphyr::from_str(&text).unwrap();
        pullpiri_apply::schema::crd::default(&mut definition);
        let errors = pullpiri_apply::schema::crd::validate_create(&definition);
        assert_eq!(errors, [], "{}", path.display());
        seen += 1;
    }
    assert!(seen > 10, "{seen} definitions");
}
