//! A control plane, embedded or real, and replicas of the controllers behind proxies of their own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use prometheus_client::registry::Registry;
use pullpiri_apiserver::auth::UserInfo;
use pullpiri_apiserver::{ApiServer, Config as ServerConfig};
use pullpiri_controllers::lead::{self, Election, Standing, guarded};
use pullpiri_controllers::{Config, Controllers, Metrics};
use pullpiri_crds::{Model, ModelInstance, NodeRuntime, Package};
use pullpiri_e2e::faults::{Proxy, Written};
use pullpiri_e2e::real::RealKube;
use pullpiri_e2e::wait_for;
use pullpiri_reconcilers::lease::Timing;
use pullpiri_store::memory::MemoryStore;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const LIMIT: Duration = Duration::from_secs(60);
pub const NODE: &str = "operator-node";
pub const LEASE: &str = "pullpiri-controllers";

enum Server {
    Embedded { server: ApiServer },
    Real { kube: RealKube },
}

/// An API server.
pub struct Plane {
    server: Server,
    /// As its admin, past all proxies.
    pub admin: Client,
}

impl Plane {
    pub async fn embedded() -> Self {
        let mut config = ServerConfig::new(Arc::new(MemoryStore::default()));
        config.roles = pullpiri_crds::access::roles();
        config.virtual_resources = vec![serde_json::to_value(pullpiri_crds::signal::definition().unwrap()).unwrap()];
        let server = ApiServer::open(config).await.unwrap();
        let crds = pullpiri_crds::all().into_iter().map(|crd| serde_json::to_value(crd).unwrap()).collect();
        server.install(crds).await.unwrap();
        let admin = server.client(UserInfo::new("admin", ["system:masters".to_owned()]));
        let plane = Self { server: Server::Embedded { server }, admin };
        plane.node().await;
        plane
    }

    /// `None`, and a line that says so, where there is none.
    pub async fn real() -> Option<Self> {
        if let Some(reason) = RealKube::missing() {
            println!("skipped: {reason}");
            return None;
        }
        let kube = RealKube::start().unwrap();
        let admin = kube.client().await.unwrap();
        let plane = Self { server: Server::Real { kube }, admin };
        plane.install().await;
        plane.node().await;
        Some(plane)
    }

    /// As the controllers' own user, of the embedded one: with its roles and no more.
    pub fn controllers(&self) -> Option<Client> {
        match &self.server {
            Server::Embedded { server } => {
                Some(server.client(UserInfo::new(pullpiri_crds::access::CONTROLLERS_USER, [])))
            }
            Server::Real { .. } => None,
        }
    }

    /// The admin's, of a real one.
    pub fn kubeconfig(&self) -> Option<PathBuf> {
        match &self.server {
            Server::Real { kube } => Some(kube.kubeconfig.clone()),
            Server::Embedded { .. } => None,
        }
    }

    async fn install(&self) {
        let crds: Api<CustomResourceDefinition> = Api::all(self.admin.clone());
        let all = pullpiri_crds::all();
        for crd in &all {
            crds.patch(&crd.name_any(), &PatchParams::apply("test").force(), &Patch::Apply(crd)).await.unwrap();
        }
        for crd in &all {
            let name = crd.name_any();
            wait_for(&format!("{name} is served"), LIMIT, || async {
                let crd = crds.get(&name).await.map_err(|error| error.to_string())?;
                let conditions = crd.status.and_then(|status| status.conditions).unwrap_or_default();
                let served = conditions.iter().any(|c| c.type_ == "Established" && c.status == "True");
                if served { Ok(()) } else { Err(format!("{conditions:?}")) }
            })
            .await
            .unwrap();
        }
        let leases = Namespace { metadata: meta("kube-node-lease"), ..Namespace::default() };
        let namespaces: Api<Namespace> = Api::all(self.admin.clone());
        // It may be there already.
        let _present = namespaces.create(&PostParams::default(), &leases).await;
    }

    /// A node that is heard of for the length of the tests.
    async fn node(&self) {
        let nodes: Api<NodeRuntime> = Api::all(self.admin.clone());
        let object = json!({"apiVersion": "pullpiri.io/v1alpha1", "kind": "NodeRuntime", "metadata": {"name": NODE}, "spec": {}});
        wait_for("the node is registered", LIMIT, || async {
            let written = nodes.patch(NODE, &PatchParams::apply("agent").force(), &Patch::Apply(&object)).await;
            written.map_err(|error| error.to_string())
        })
        .await
        .unwrap();
        let leases: Api<Lease> = Api::namespaced(self.admin.clone(), "kube-node-lease");
        let name = format!("pullpiri-{NODE}");
        let object = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
            "spec": {"holderIdentity": NODE, "leaseDurationSeconds": 3600, "renewTime": MicroTime(Timestamp::now())},
        });
        leases.patch(&name, &PatchParams::apply("agent").force(), &Patch::Apply(object)).await.unwrap();
    }

    pub async fn place(&self, name: &str) -> Place {
        let namespace = Namespace { metadata: meta(name), ..Namespace::default() };
        Api::<Namespace>::all(self.admin.clone()).create(&PostParams::default(), &namespace).await.unwrap();
        Place { admin: self.admin.clone(), namespace: name.to_owned() }
    }
}

fn meta(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}

pub fn timing(lease_ms: u64, deadline_ms: u64, retry_ms: u64) -> Timing {
    let ms = Duration::from_millis;
    Timing::new(ms(lease_ms), ms(deadline_ms), ms(retry_ms)).unwrap()
}

/// Quick enough for tests, slow enough for a loaded machine.
pub fn quick() -> Timing {
    timing(3_000, 2_000, 300)
}

/// A namespace with an election of its own.
#[derive(Clone)]
pub struct Place {
    pub admin: Client,
    pub namespace: String,
}

impl Place {
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.admin.clone(), &self.namespace)
    }

    /// A package that runs, with so many models.
    pub async fn package(&self, name: &str, models: &[&str], desired: &str) {
        let apply = PatchParams::apply("test").force();
        for model in models {
            let object = json!({
                "apiVersion": "pullpiri.io/v1alpha1", "kind": "Model", "metadata": {"name": model},
                "spec": {"hostNetwork": true, "containers": [{"name": "c", "image": "localhost/c:1"}]},
            });
            self.api::<Model>().patch(model, &apply, &Patch::Apply(object)).await.unwrap();
        }
        let entries: Vec<Value> = models.iter().map(|model| json!({"name": model, "node": NODE})).collect();
        let object = json!({
            "apiVersion": "pullpiri.io/v1alpha1", "kind": "Package", "metadata": {"name": name},
            "spec": {"pattern": [{"type": "plain"}], "models": entries, "desiredState": desired},
        });
        self.api::<Package>().patch(name, &apply, &Patch::Apply(object)).await.unwrap();
    }

    pub async fn instances(&self) -> Vec<ModelInstance> {
        self.api::<ModelInstance>().list(&ListParams::default()).await.unwrap().items
    }

    pub async fn until(&self, what: &str, accept: impl Fn(&[ModelInstance]) -> bool) -> Vec<ModelInstance> {
        wait_for(what, LIMIT, || async {
            let instances = self.instances().await;
            if accept(&instances) {
                return Ok(instances);
            }
            let seen: Vec<_> = instances.iter().map(|i| (i.name_any(), i.spec.run, i.spec.epoch)).collect();
            Err(format!("{seen:?}"))
        })
        .await
        .unwrap()
    }

    /// So many instances, all to run or all not.
    pub async fn until_run(&self, count: usize, run: bool) -> Vec<ModelInstance> {
        let what = format!("{count} instances with run {run} in {}", self.namespace);
        self.until(&what, |all| all.len() == count && all.iter().all(|i| i.spec.run == run)).await
    }

    /// Removes what was declared, and what came of it: a real API server has no garbage collector of its own.
    pub async fn clear(&self) {
        let (options, all) = (DeleteParams::background(), ListParams::default());
        self.api::<Package>().delete_collection(&options, &all).await.unwrap();
        wait_for("no instance is left", LIMIT, || async {
            self.api::<ModelInstance>().delete_collection(&options, &all).await.map_err(|error| error.to_string())?;
            let left = self.instances().await.len();
            if left == 0 { Ok(()) } else { Err(format!("{left}")) }
        })
        .await
        .unwrap();
    }

    pub async fn lease(&self) -> Option<Lease> {
        self.api::<Lease>().get_opt(LEASE).await.unwrap()
    }

    pub async fn transitions(&self) -> i32 {
        self.lease().await.and_then(|lease| lease.spec?.lease_transitions).unwrap_or(0)
    }

    pub async fn holder(&self) -> String {
        self.lease().await.and_then(|lease| lease.spec?.holder_identity).unwrap_or_default()
    }

    pub async fn remove_lease(&self) {
        self.api::<Lease>().delete(LEASE, &DeleteParams::default()).await.unwrap();
    }
}

/// A replica of the controllers in this process.
pub struct Replica {
    pub proxy: Proxy,
    pub standing: watch::Receiver<Standing>,
    registry: Registry,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Replica {
    pub async fn start(place: &Place, name: &str, timing: Timing) -> Self {
        let proxy = Proxy::start(place.admin.clone()).await.unwrap();
        let client = proxy.client().unwrap();
        let election = Election {
            namespace: place.namespace.clone(),
            name: LEASE.to_owned(),
            identity: name.to_owned(),
            timing,
            annotations: BTreeMap::new(),
        };
        let mut registry = Registry::default();
        let config = Config::new(name, Metrics::register(&mut registry));
        let stop = CancellationToken::new();
        let (sender, standing) = watch::channel(Standing::Unknown);
        let ended = stop.clone();
        let task = tokio::spawn(async move {
            lead::run(client.clone(), election, sender, ended, |reign, gate, over| {
                let config = Config { reign: Some(reign), ..config.clone() };
                Controllers::run(guarded(client.clone(), gate), config, over)
            })
            .await;
        });
        Self { proxy, standing, registry, stop, task }
    }

    pub async fn until_leading(&mut self) -> i64 {
        let leads = self.standing.wait_for(|standing| matches!(standing, Standing::Leading { .. }));
        match &*tokio::time::timeout(LIMIT, leads).await.expect("it leads in time").unwrap() {
            Standing::Leading { epoch } => *epoch,
            other => panic!("{other:?}"),
        }
    }

    pub fn leads(&self) -> bool {
        matches!(&*self.standing.borrow(), Standing::Leading { .. })
    }

    /// As SIGTERM does.
    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }

    /// What it wrote of our own, elections and Events excepted.
    pub fn works(&self) -> Vec<Written> {
        let all = self.proxy.written();
        all.into_iter().filter(|w| !w.is_election() && !w.path.contains("/events")).collect()
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }

    /// Waits until it has nothing to do.
    pub async fn until_quiet(&self) {
        let mut last = (String::new(), std::time::Instant::now());
        wait_for("the controllers are quiet", LIMIT, || {
            let now = self.metrics();
            let busy = now.lines().filter(|l| l.contains("queue_depth{")).any(|l| !l.ends_with(" 0"));
            if now != last.0 || busy || !now.contains("reconcile_total") {
                last = (now.clone(), std::time::Instant::now());
            }
            let quiet = last.1.elapsed() > Duration::from_millis(400);
            async move { if quiet { Ok(()) } else { Err(now) } }
        })
        .await
        .unwrap();
    }
}
