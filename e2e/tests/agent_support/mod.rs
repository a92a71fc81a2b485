//! A node agent against the embedded API server, with a runtime that does in memory what it is told and fails on demand, and a client
//! that can be cut off.

// Tests, but clippy knows tests by their attribute, which these functions don't have.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(dead_code, reason = "each test crate uses its own part")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use kube::api::{Api, PostParams};
use prometheus_client::registry::Registry;
use pullpiri_agent::{Agent, AgentError, Config};
use pullpiri_apiserver::ApiServer;
use pullpiri_apiserver::access::NodeAccess;
use pullpiri_apiserver::auth::UserInfo;
use pullpiri_crds::ModelInstance;
use pullpiri_crds::model::Adapter;
use pullpiri_e2e::wait_for;
use pullpiri_node_adapters::{Runtime, RuntimeError, RuntimeEvent};
use pullpiri_node_core::runtime::{
    ContainerObserved, ContainerSpec, ContainerStateObserved, Exit, PodId, PodObserved, PodSpec, RuntimeInfo, Timestamp,
};
use pullpiri_store::memory::MemoryStore;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const LIMIT: Duration = Duration::from_secs(30);

fn now() -> Timestamp {
    Timestamp(
        i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos()).unwrap(),
    )
}

#[derive(Debug, Default)]
struct State {
    pods: BTreeMap<PodId, PodObserved>,
    specs: BTreeMap<PodId, PodSpec>,
    /// Of each pod's name, how often it was run.
    runs: BTreeMap<String, u32>,
    stops: BTreeMap<String, u32>,
    missing_images: BTreeSet<String>,
    next_pid: u32,
}

/// A container runtime in memory.
#[derive(Debug)]
pub struct Fake {
    state: Mutex<State>,
    /// So many operations fail from now on.
    pub failing: AtomicU32,
    /// Its service doesn't answer.
    pub away: AtomicBool,
    /// Held for writing, no pod comes to run.
    pub gate: tokio::sync::RwLock<()>,
    /// Pods that somebody began to run.
    pub begun: AtomicU32,
    events: broadcast::Sender<RuntimeEvent>,
}

impl Fake {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State { next_pid: 1000, ..State::default() }),
            failing: AtomicU32::new(0),
            away: AtomicBool::new(false),
            gate: tokio::sync::RwLock::default(),
            begun: AtomicU32::new(0),
            events: broadcast::channel(1024).0,
        })
    }

    pub fn runs(&self, name: &str) -> u32 {
        self.state.lock().unwrap().runs.get(name).copied().unwrap_or(0)
    }

    pub fn stops(&self, name: &str) -> u32 {
        self.state.lock().unwrap().stops.get(name).copied().unwrap_or(0)
    }

    pub fn pods(&self) -> Vec<PodObserved> {
        self.state.lock().unwrap().pods.values().cloned().collect()
    }

    pub fn spec(&self, name: &str) -> Option<PodSpec> {
        self.state.lock().unwrap().specs.values().find(|spec| spec.name == name).cloned()
    }

    pub fn set_missing(&self, image: &str, missing: bool) {
        let images = &mut self.state.lock().unwrap().missing_images;
        if missing {
            images.insert(image.to_owned())
        } else {
            images.remove(image)
        };
    }

    pub fn resync(&self) {
        let _ = self.events.send(RuntimeEvent::Resync);
    }

    /// The process of a container ends.
    pub fn exit(&self, pod: &str, container: &str, code: i32) {
        let mut state = self.state.lock().unwrap();
        let pod = state.pods.values_mut().find(|observed| observed.name == pod).expect("the pod is there");
        let id = pod.id.clone();
        let observed = pod.containers.iter_mut().find(|observed| observed.name == container).unwrap();
        end(observed, code);
        let _ = self.events.send(RuntimeEvent::Container { pod: id, container: observed.clone() });
    }

    /// A pod that some earlier life of the node left behind.
    pub fn leave_behind(&self, name: &str) {
        let mut state = self.state.lock().unwrap();
        let container = start(&mut state, "x", 0);
        let id = PodId(format!("stray-{name}"));
        let pod = PodObserved {
            id: id.clone(),
            namespace: "default".to_owned(),
            name: name.to_owned(),
            hash: "old".to_owned(),
            adapter: Adapter::Oci,
            sandbox_alive: true,
            containers: vec![container],
        };
        state.pods.insert(id, pod);
    }

    fn answer(&self) -> Result<(), RuntimeError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(RuntimeError::Unavailable { adapter: "oci", message: "no service".to_owned() });
        }
        Ok(())
    }

    fn fail(&self, pod: &PodId) -> Result<(), RuntimeError> {
        self.answer()?;
        let failing = self.failing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        match failing {
            Ok(_) => {
                Err(RuntimeError::Failed { pod: pod.clone(), attempted: "testing", message: "told to fail".to_owned() })
            }
            Err(_) => Ok(()),
        }
    }
}

fn start(state: &mut State, name: &str, attempt: u32) -> ContainerObserved {
    state.next_pid += 1;
    ContainerObserved {
        name: name.to_owned(),
        attempt,
        state: ContainerStateObserved::Running { pid: state.next_pid, started_at: now() },
        container_id: format!("{name}-{}", state.next_pid),
        image_id: "sha256:00".to_owned(),
        before: None,
    }
}

fn end(container: &mut ContainerObserved, code: i32) {
    if let ContainerStateObserved::Running { started_at, .. } = container.state {
        let exit = Exit { code, oom_killed: false, started_at, finished_at: now() };
        container.state = ContainerStateObserved::Exited(exit);
    }
}

impl Runtime for Fake {
    fn adapter(&self) -> Adapter {
        Adapter::Oci
    }

    fn probe(&self) -> BoxFuture<'_, Result<RuntimeInfo, RuntimeError>> {
        async { self.answer().map(|()| RuntimeInfo { adapter: Adapter::Oci, version: "fake".to_owned() }) }.boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<PodObserved>, RuntimeError>> {
        async { self.answer().map(|()| self.pods()) }.boxed()
    }

    fn image<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<String>, RuntimeError>> {
        async move {
            let missing = self.state.lock().unwrap().missing_images.contains(reference);
            Ok((!missing).then(|| "sha256:00".to_owned()))
        }
        .boxed()
    }

    fn load_image<'a>(&'a self, _: &'a Path) -> BoxFuture<'a, Result<Vec<String>, RuntimeError>> {
        async { Ok(Vec::new()) }.boxed()
    }

    fn run_pod<'a>(&'a self, pod: &'a PodSpec) -> BoxFuture<'a, Result<PodObserved, RuntimeError>> {
        async move {
            self.begun.fetch_add(1, Ordering::SeqCst);
            drop(self.gate.read().await);
            self.fail(&pod.id)?;
            let mut state = self.state.lock().unwrap();
            if let Some(container) = pod.containers.iter().find(|c| state.missing_images.contains(&c.image)) {
                return Err(RuntimeError::ImageMissing { image: container.image.clone(), remedy: "load it" });
            }
            assert!(!state.pods.contains_key(&pod.id), "{} runs already", pod.name);
            *state.runs.entry(pod.name.clone()).or_default() += 1;
            let containers = pod.containers.iter().map(|c| start(&mut state, &c.name, 0)).collect();
            let observed = PodObserved {
                id: pod.id.clone(),
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                hash: pod.hash.clone(),
                adapter: Adapter::Oci,
                sandbox_alive: true,
                containers,
            };
            state.pods.insert(pod.id.clone(), observed.clone());
            state.specs.insert(pod.id.clone(), pod.clone());
            Ok(observed)
        }
        .boxed()
    }

    fn start_container<'a>(
        &'a self,
        pod: &'a PodId,
        container: &'a ContainerSpec,
        attempt: u32,
    ) -> BoxFuture<'a, Result<ContainerObserved, RuntimeError>> {
        async move {
            self.fail(pod)?;
            let mut state = self.state.lock().unwrap();
            let started = start(&mut state, &container.name, attempt);
            let observed = state.pods.get_mut(pod).ok_or_else(|| RuntimeError::NoPod { pod: pod.clone() })?;
            observed.containers.retain(|other| other.name != container.name);
            observed.containers.push(started.clone());
            let _ = self.events.send(RuntimeEvent::Container { pod: pod.clone(), container: started.clone() });
            Ok(started)
        }
        .boxed()
    }

    fn stop_pod<'a>(&'a self, pod: &'a PodId, _: Duration) -> BoxFuture<'a, Result<(), RuntimeError>> {
        async move {
            self.fail(pod)?;
            let mut state = self.state.lock().unwrap();
            let Some(observed) = state.pods.get_mut(pod) else { return Err(RuntimeError::NoPod { pod: pod.clone() }) };
            let name = observed.name.clone();
            for container in &mut observed.containers {
                end(container, 143);
                let _ = self.events.send(RuntimeEvent::Container { pod: pod.clone(), container: container.clone() });
            }
            *state.stops.entry(name).or_default() += 1;
            Ok(())
        }
        .boxed()
    }

    fn remove_pod<'a>(&'a self, pod: &'a PodId) -> BoxFuture<'a, Result<(), RuntimeError>> {
        async move {
            self.fail(pod)?;
            let mut state = self.state.lock().unwrap();
            state.pods.remove(pod);
            state.specs.remove(pod);
            Ok(())
        }
        .boxed()
    }

    fn events(&self) -> BoxStream<'static, RuntimeEvent> {
        stream::unfold(self.events.subscribe(), |mut receiver| async move {
            match receiver.recv().await {
                Ok(event) => Some((event, receiver)),
                Err(broadcast::error::RecvError::Lagged(_)) => Some((RuntimeEvent::Resync, receiver)),
                Err(broadcast::error::RecvError::Closed) => None,
            }
        })
        .boxed()
    }
}

/// The API server, and a way to it that can be cut.
pub struct Cluster {
    pub server: ApiServer,
    pub admin: kube::Client,
    pub cut: Arc<AtomicBool>,
}

impl Cluster {
    pub async fn start() -> Self {
        let mut config = pullpiri_apiserver::Config::new(Arc::new(MemoryStore::new()));
        let policy = pullpiri_crds::access::nodes();
        config.nodes = Some(NodeAccess::parse(&policy, pullpiri_crds::names::rfc1123).unwrap());
        let server = ApiServer::open(config).await.unwrap();
        let crds = pullpiri_crds::all().into_iter().map(|crd| serde_json::to_value(crd).unwrap()).collect();
        server.install(crds).await.unwrap();
        let admin = server.client(UserInfo::new("admin", ["system:masters".to_owned()]));
        Self { server, admin, cut: Arc::new(AtomicBool::new(false)) }
    }

    /// The node's client. While the way is cut every request fails, and so does every watch.
    pub fn client(&self) -> kube::Client {
        let inner = self.server.client(UserInfo::new("system:node:zone", ["system:nodes".to_owned()]));
        let cut = Arc::clone(&self.cut);
        let service = tower_service(move |request: http::Request<kube::client::Body>| {
            let (inner, cut) = (inner.clone(), Arc::clone(&cut));
            async move {
                if cut.load(Ordering::SeqCst) {
                    return Err(std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into());
                }
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(inner.send(request).await?)
            }
        });
        kube::Client::new(service, "default")
    }

    pub fn instances(&self) -> Api<ModelInstance> {
        Api::namespaced(self.admin.clone(), "default")
    }

    pub async fn create(&self, name: &str, spec: Value) {
        self.create_of(name, name, spec).await;
    }

    pub async fn create_of(&self, model: &str, name: &str, spec: Value) {
        let object = json!({
            "apiVersion": "pullpiri.io/v1alpha1",
            "kind": "ModelInstance",
            "metadata": { "name": name, "namespace": "default" },
            "spec": {
                "package": "pkg",
                "model": model,
                "nodeName": "zone",
                "template": { "spec": spec },
            },
        });
        self.instances().create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    }

    /// The instance's status as JSON, once it is as wished.
    pub async fn until(&self, name: &str, wish: impl Fn(&Value) -> bool) -> Value {
        wait_for(&format!("{name} is as wished"), LIMIT, || async {
            let object = self.instances().get_opt(name).await.map_err(|error| error.to_string())?;
            let object = serde_json::to_value(object).unwrap();
            // What CI prints of a failure is cut: the status first.
            if wish(&object) { Ok(object) } else { Err(format!("{} of {object}", object["status"])) }
        })
        .await
        .unwrap()
    }

    pub async fn until_running(&self, name: &str) -> Value {
        self.until(name, |object| object["status"]["phase"] == "Running" && condition(object, "Ready") == "True").await
    }

    pub async fn until_gone(&self, name: &str) {
        self.until(name, Value::is_null).await;
    }

    /// The instance's Events by reason, oldest first.
    pub async fn events(&self, name: &str) -> Vec<String> {
        let api: Api<k8s_openapi::api::core::v1::Event> = Api::namespaced(self.admin.clone(), "default");
        let mut events = api.list(&kube::api::ListParams::default()).await.unwrap().items;
        events.retain(|event| event.involved_object.name.as_deref() == Some(name));
        events.sort_by(|a, b| a.event_time.cmp(&b.event_time));
        events.into_iter().filter_map(|event| event.reason).collect()
    }
}

fn tower_service<F, R>(
    call: F,
) -> impl tower::Service<
    http::Request<kube::client::Body>,
    Response = http::Response<kube::client::Body>,
    Error = Box<dyn std::error::Error + Send + Sync>,
    Future: Send,
> + Clone
+ Send
+ 'static
where
    F: FnMut(http::Request<kube::client::Body>) -> R + Clone + Send + 'static,
    R: Future<Output = Result<http::Response<kube::client::Body>, Box<dyn std::error::Error + Send + Sync>>>
        + Send
        + 'static,
{
    tower::service_fn(call)
}

pub fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    let conditions = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().find(|condition| condition["type"] == kind).and_then(|c| c["status"].as_str()).unwrap_or_default()
}

pub fn reason<'a>(object: &'a Value, kind: &str) -> &'a str {
    let conditions = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().find(|condition| condition["type"] == kind).and_then(|c| c["reason"].as_str()).unwrap_or_default()
}

pub fn one_container() -> Value {
    json!({ "containers": [{ "name": "x", "image": "localhost/x:1" }], "hostNetwork": true })
}

/// A running agent.
pub struct Node {
    task: Option<JoinHandle<Result<(), AgentError>>>,
    stop: CancellationToken,
    pub registry: Registry,
}

impl Node {
    pub fn start(cluster: &Cluster, runtime: &Arc<Fake>, data_dir: &Path) -> Self {
        Self::start_with(cluster, runtime, Config::new("ZONE", data_dir))
    }

    pub fn start_with(cluster: &Cluster, runtime: &Arc<Fake>, config: Config) -> Self {
        let mut registry = Registry::default();
        let runtimes: Vec<Arc<dyn Runtime>> = vec![Arc::clone(runtime) as Arc<dyn Runtime>];
        let agent = Agent::new(config, cluster.client(), runtimes, &mut registry).unwrap();
        let stop = CancellationToken::new();
        let token = stop.clone();
        let task = tokio::spawn(agent.run(token));
        Self { task: Some(task), stop, registry }
    }

    /// As SIGTERM does.
    pub async fn stop(self) {
        self.stopped().await.unwrap();
    }

    /// As SIGTERM does; how the node ends.
    pub async fn stopped(mut self) -> Result<(), AgentError> {
        self.stop.cancel();
        self.task.take().unwrap().await.unwrap()
    }

    /// As SIGKILL does, as far as that can be had in a process: nothing more is decided, whatever was under way is dropped.
    pub async fn kill(mut self) {
        let task = self.task.take().unwrap();
        task.abort();
        let _ = task.await;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}
