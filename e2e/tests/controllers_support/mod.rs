//! A control plane for tests: the API server in process, the controllers, and nodes that the test plays.
#![allow(dead_code, reason = "each test binary uses its part of it")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use prometheus_client::registry::Registry;
use pullpiri_apiserver::auth::UserInfo;
use pullpiri_apiserver::{ApiServer, Config as ServerConfig};
use pullpiri_controllers::{Config, Controllers, Metrics};
use pullpiri_crds::{Model, ModelInstance, NodeRuntime, Package, Scenario, Signal};
use pullpiri_e2e::wait_for;
use pullpiri_store::memory::MemoryStore;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const LIMIT: Duration = Duration::from_secs(30);
pub const NS: &str = "default";

/// An API server, and controllers that can be stopped and started.
pub struct Bed {
    pub server: ApiServer,
    pub client: Client,
    controllers: Option<(CancellationToken, JoinHandle<()>)>,
    registry: Registry,
}

impl Bed {
    pub async fn start() -> Self {
        let mut bed = Self::bare(true).await;
        bed.install().await;
        bed.start_controllers(1);
        bed
    }

    /// An API server that knows none of our kinds yet, and signals only if it should.
    pub async fn bare(signals: bool) -> Self {
        let mut config = ServerConfig::new(Arc::new(MemoryStore::default()));
        if signals {
            config.virtual_resources =
                vec![serde_json::to_value(pullpiri_crds::signal::definition().unwrap()).unwrap()];
        }
        config.roles = pullpiri_crds::access::roles();
        let server = ApiServer::open(config).await.unwrap();
        let client = server.client(UserInfo::new("test", ["system:masters".to_owned()]));
        Self { server, client, controllers: None, registry: Registry::default() }
    }

    pub async fn install(&self) {
        let crds = pullpiri_crds::all().into_iter().map(|crd| serde_json::to_value(crd).unwrap()).collect();
        self.server.install(crds).await.unwrap();
    }

    pub fn start_controllers(&mut self, epoch: i64) {
        let shutdown = CancellationToken::new();
        self.registry = Registry::default();
        let config = Config { epoch, ..Config::new("test", Metrics::register(&mut self.registry)) };
        let client = self.server.client(UserInfo::new(pullpiri_crds::access::CONTROLLERS_USER, []));
        let task = tokio::spawn(Controllers::run(client, config, shutdown.clone()));
        self.controllers = Some((shutdown, task));
    }

    pub async fn stop_controllers(&mut self) {
        if let Some((shutdown, task)) = self.controllers.take() {
            shutdown.cancel();
            task.await.unwrap();
        }
    }

    pub fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), NS)
    }

    pub async fn apply<K>(&self, object: Value) -> K
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        self.api::<K>().patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(object)).await.unwrap()
    }

    pub async fn signal(&self, topic: &str, field: &str, value: &str) {
        let signal = Signal::new(topic, [(field.to_owned(), value.to_owned())].into());
        let api: Api<Signal> = Api::all(self.client.clone());
        api.replace(&signal.name_any(), &PostParams::default(), &signal).await.unwrap();
    }

    /// A node that answers.
    pub async fn node(&self, name: &str, lease_seconds: i32) {
        let nodes: Api<NodeRuntime> = Api::all(self.client.clone());
        let apply = PatchParams::apply("agent").force();
        let object = json!({"apiVersion": "pullpiri.io/v1alpha1", "kind": "NodeRuntime", "metadata": {"name": name}, "spec": {}});
        nodes.patch(name, &apply, &Patch::Apply(object)).await.unwrap();
        self.heartbeat(name, lease_seconds).await;
    }

    pub async fn heartbeat(&self, name: &str, lease_seconds: i32) {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), "kube-node-lease");
        let lease = format!("pullpiri-{name}");
        let object = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": lease},
            "spec": {
                "holderIdentity": name,
                "leaseDurationSeconds": lease_seconds,
                "renewTime": k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(k8s_openapi::jiff::Timestamp::now()),
            },
        });
        leases.patch(&lease, &PatchParams::apply("agent").force(), &Patch::Apply(object)).await.unwrap();
    }

    /// What a node can do in real time: FIFO on these CPUs, with this share of each.
    pub async fn real_time(&self, name: &str, cpus: &str, fixed_priority_ppm: i32) {
        let status = json!({
            "apiVersion": "pullpiri.io/v1alpha1", "kind": "NodeRuntime", "metadata": {"name": name},
            "status": {"realtime": {
                "cpus": cpus, "policies": ["FIFO", "RR"], "fixedPriorityPpm": fixed_priority_ppm, "fixedPriorityWindowNs": 1_000_000_000,
                "deadlinePpm": 0, "exclusiveCpusets": false, "monitor": false,
            }},
        });
        let nodes: Api<NodeRuntime> = Api::all(self.client.clone());
        nodes.patch_status(name, &PatchParams::apply("agent").force(), &Patch::Apply(status)).await.unwrap();
    }

    /// The package's condition of a type, once it is as wanted.
    pub async fn until_condition(&self, package: &str, kind: &str, status: &str, reason: &str) -> String {
        wait_for(&format!("{kind} of package {package} is {status} because of {reason}"), LIMIT, || async {
            let object = self.api::<Package>().get(package).await.unwrap();
            let conditions = object.status.map(|s| s.conditions).unwrap_or_default();
            match conditions.iter().find(|c| c.type_ == kind) {
                Some(c) if c.status == status && c.reason == reason => Ok(c.message.clone()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
        .unwrap()
    }

    /// What a node reports of an instance.
    pub async fn report(&self, instance: &ModelInstance, phase: &str) {
        let status = json!({
            "apiVersion": "pullpiri.io/v1alpha1", "kind": "ModelInstance", "metadata": {"name": instance.name_any()},
            "status": {"phase": phase, "observedGeneration": instance.metadata.generation},
        });
        let params = PatchParams::apply("agent").force();
        self.api::<ModelInstance>().patch_status(&instance.name_any(), &params, &Patch::Apply(status)).await.unwrap();
    }

    pub async fn instances(&self) -> Vec<ModelInstance> {
        self.api::<ModelInstance>().list(&ListParams::default()).await.unwrap().items
    }

    pub async fn until_instances(&self, what: &str, accept: impl Fn(&[ModelInstance]) -> bool) -> Vec<ModelInstance> {
        wait_for(what, LIMIT, || async {
            let instances = self.instances().await;
            if accept(&instances) {
                Ok(instances)
            } else {
                let seen: Vec<_> = instances.iter().map(|i| (i.name_any(), i.spec.run)).collect();
                Err(format!("{seen:?}"))
            }
        })
        .await
        .unwrap()
    }

    pub async fn until_package(&self, name: &str, state: &str) -> Package {
        wait_for(&format!("package {name} is {state}"), LIMIT, || async {
            let package = self.api::<Package>().get(name).await.unwrap();
            let seen = package.status.as_ref().map(|s| format!("{:?}", s.state)).unwrap_or_default();
            if seen == state { Ok(package) } else { Err(format!("{:?}", package.status)) }
        })
        .await
        .unwrap()
    }

    pub async fn until_scenario(&self, name: &str, state: &str) -> Scenario {
        wait_for(&format!("scenario {name} is {state}"), LIMIT, || async {
            let scenario = self.api::<Scenario>().get(name).await.unwrap();
            let seen = scenario.status.as_ref().map(|s| format!("{:?}", s.state)).unwrap_or_default();
            if seen == state { Ok(scenario) } else { Err(format!("{:?}", scenario.status)) }
        })
        .await
        .unwrap()
    }

    /// Waits until the controllers have looked at everything and have nothing to do.
    pub async fn until_quiet(&self) {
        let mut last = (String::new(), Instant::now());
        wait_for("the controllers are quiet", LIMIT, || {
            let now = self.metrics();
            let busy = now.lines().filter(|l| l.contains("queue_depth{")).any(|l| !l.ends_with(" 0"));
            if now != last.0 || busy || !now.contains("reconcile_total") {
                last = (now.clone(), Instant::now());
            }
            let quiet = last.1.elapsed() > Duration::from_millis(200);
            async move { if quiet { Ok(()) } else { Err(now) } }
        })
        .await
        .unwrap();
    }

    pub async fn bms(&self) {
        for (name, image) in [("blis", "localhost/blis:1.0"), ("mavd", "localhost/mavd:1.0")] {
            self.apply::<Model>(model(name, image)).await;
        }
        self.apply::<Package>(json!({
            "apiVersion": "pullpiri.io/v1alpha1", "kind": "Package", "metadata": {"name": "bms"},
            "spec": {"pattern": [{"type": "plain"}], "models": [{"name": "blis", "node": "ZONE"}, {"name": "mavd", "node": "HPC"}]},
        }))
        .await;
    }

    pub async fn scenario(&self, name: &str, gear: &str, action: &str) {
        self.apply::<Scenario>(json!({
            "apiVersion": "pullpiri.io/v1alpha1", "kind": "Scenario", "metadata": {"name": name},
            "spec": {
                "condition": {"express": "eq", "value": gear, "operands": {"type": "DDS", "name": "gear", "value": "Gear"}},
                "action": action, "target": "bms",
            },
        }))
        .await;
    }

    pub async fn stop(mut self) {
        self.stop_controllers().await;
        self.server.stop();
    }
}

pub fn model(name: &str, image: &str) -> Value {
    json!({
        "apiVersion": "pullpiri.io/v1alpha1", "kind": "Model", "metadata": {"name": name},
        "spec": {"hostNetwork": true, "containers": [{"name": name, "image": image}]},
    })
}
