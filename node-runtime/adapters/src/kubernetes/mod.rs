//! The kubernetes adapter: a pod is a `v1` Pod that is bound to this node and run by its kubelet.
//!
//! The kubelet pulls images, restarts containers as the restart policy says, and keeps the logs (`kubectl logs`; `/var/log/pods` on the node). This
//! adapter creates the Pod, waits until the kubelet has taken it up, tells from one watch how its containers are and which processes they have, and
//! deletes it. A Pod is ours if its label names an instance and that ModelInstance is its controller; no other is touched.
//!
//! It needs the API server for everything; Pods that run go on without it.

mod observe;
mod pod;
mod read;
mod watch;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions, Request};
use kube::{Api, Client};
use pullpiri_crds::model::Adapter;
use pullpiri_crds::names::LABEL_INSTANCE_UID;
use pullpiri_node_core::runtime::{ContainerObserved, ContainerSpec, PodId, PodObserved, PodSpec, RuntimeInfo};
use tokio::sync::broadcast::error::RecvError;

use self::read::Pod;
use self::watch::{Known, Shared};
use crate::{Runtime, RuntimeError, RuntimeEvent};

const ADAPTER: &str = "kubernetes";
const OWNER_API: &str = "pullpiri.io/v1alpha1";
const OWNER_KIND: &str = "ModelInstance";
/// How long an API server may take to answer whether it serves Pods: other adapters' pods wait for it at the start.
const PROBE: Duration = Duration::from_secs(2);
/// How long a kubelet may take to take up a Pod. A busy one takes seconds.
const TAKE_UP: Duration = Duration::from_secs(30);
/// How much longer than the grace period it may take until a Pod is gone.
const SLACK: Duration = Duration::from_secs(30);
/// Between questions whether a Pod that was gone by the watch really is.
const LOOK: Duration = Duration::from_millis(100);

/// Pods on this node's kubelet, through the API server.
#[derive(Clone, Debug)]
pub struct KubernetesRuntime {
    client: Access,
    node: Arc<str>,
    shared: Arc<Shared>,
}

/// A client has no text form.
#[derive(Clone)]
struct Access(Client);

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

fn of_node(node: &str) -> String {
    format!("spec.nodeName={node}")
}

impl KubernetesRuntime {
    /// `node`: the Kubernetes Node whose kubelet runs on this machine. Asks nothing yet.
    #[must_use]
    pub fn new(client: Client, node: &str) -> Self {
        Self { client: Access(client), node: node.into(), shared: Arc::new(Shared::new()) }
    }

    fn all(&self) -> Api<Pod> {
        Api::all(self.client.0.clone())
    }

    fn within(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.0.clone(), namespace)
    }

    async fn ask(&self, labels: &str, limit: Option<u32>) -> Result<Vec<Pod>, kube::Error> {
        let mut params = ListParams::default().fields(&of_node(&self.node)).labels(labels);
        params.limit = limit;
        Ok(self.all().list(&params).await?.items)
    }

    /// The Pods of an instance, as the API server has them now.
    async fn find(&self, id: &PodId) -> Result<Vec<Pod>, RuntimeError> {
        let asked = self.ask(&format!("{LABEL_INSTANCE_UID}={id}"), None).await;
        let mut pods = asked.map_err(|error| wrong(id, "looking for the Pod", &error))?;
        pods.retain(|pod| observe::instance(pod).as_ref() == Some(id));
        Ok(pods)
    }

    async fn observed(&self, pod: &Pod) -> Option<PodObserved> {
        let pids = self.shared.pids_of(&[Arc::new(pod.clone())]).await;
        observe::pod(pod, &pids)
    }

    async fn run(&self, spec: &PodSpec) -> Result<PodObserved, RuntimeError> {
        let id = &spec.id;
        self.shared.known.send_modify(|known| {
            known.stopped.remove(id);
            known.stopping.remove(id);
        });
        let fits = |pod: &Pod| {
            observe::hash(pod) == spec.hash && !observe::is_terminating(pod) && observe::rejection(pod).is_none()
        };
        let mut made = None;
        for pod in self.find(id).await? {
            if made.is_none() && fits(&pod) { made = Some(pod) } else { self.delete(id, &pod, None).await? }
        }
        let made = match made {
            Some(pod) => pod,
            None => self.create(spec).await?,
        };
        let taken = self.taken_up(id, observe::uid(&made)).await;
        match taken {
            Ok(pod) => self.observed(&pod).await.ok_or_else(|| RuntimeError::NoPod { pod: id.clone() }),
            Err(error) => {
                if let Err(left) = self.delete(id, &made, Some(0)).await {
                    tracing::debug!(%id, error = %left, "a Pod that came to nothing can't be deleted");
                }
                Err(error)
            }
        }
    }

    async fn create(&self, spec: &PodSpec) -> Result<Pod, RuntimeError> {
        let id = &spec.id;
        let attempted = "creating the Pod";
        let refused = |message| RuntimeError::Refused { pod: id.clone(), attempted, message };
        let body = serde_json::to_vec(&pod::pod(spec, &self.node)).map_err(|error| refused(error.to_string()))?;
        let api = self.within(&spec.namespace);
        let request = Request::new(api.resource_url())
            .create(&PostParams::default(), body)
            .map_err(|error| refused(error.to_string()))?;
        match self.client.0.request::<Pod>(request).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let there = api.get_opt(&spec.name).await.map_err(|error| wrong(id, attempted, &error))?;
                match there {
                    Some(pod) if observe::instance(&pod).as_ref() != Some(id) => {
                        let message = format!(
                            "there is a Pod {}/{} that isn't this instance's; delete or rename it",
                            spec.namespace, spec.name
                        );
                        Err(refused(message))
                    }
                    Some(pod) => Ok(pod),
                    None => Err(failed(id, attempted, status.message)),
                }
            }
            created => created.map_err(|error| wrong(id, attempted, &error)),
        }
    }

    /// Waits until the kubelet has taken the Pod up.
    async fn taken_up(&self, id: &PodId, uid: &str) -> Result<Arc<Pod>, RuntimeError> {
        let attempted = "waiting for the kubelet";
        let mut known = self.shared.known.subscribe();
        let is_decided = |known: &Known| {
            let pod = known.pods.get(id).filter(|pod| observe::uid(pod) == uid);
            pod.filter(|pod| observe::is_acknowledged(pod) || observe::rejection(pod).is_some()).cloned()
        };
        let wait = known.wait_for(|known| is_decided(known).is_some());
        let pod = match tokio::time::timeout(TAKE_UP, wait).await {
            Ok(Ok(known)) => is_decided(&known),
            Ok(Err(_)) | Err(_) => None,
        };
        let Some(pod) = pod else {
            let message = format!(
                "no kubelet took the Pod up within {} s; does one run here, as Kubernetes node {}?",
                TAKE_UP.as_secs(),
                self.node
            );
            return Err(failed(id, attempted, message));
        };
        match observe::rejection(&pod) {
            Some(why) => Err(failed(id, attempted, format!("it refuses the Pod: {why}"))),
            None => Ok(pod),
        }
    }

    /// Deletes a Pod and waits until it is gone. `None`: with its own grace period, or at once if nobody waits for it.
    async fn delete(&self, id: &PodId, pod: &Pod, grace: Option<u32>) -> Result<(), RuntimeError> {
        let attempted = "deleting the Pod";
        let api = self.within(pod.metadata.namespace.as_deref().unwrap_or_default());
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let uid = observe::uid(pod);
        // What no kubelet has seen holds nothing, and no kubelet would confirm its end.
        let grace = if observe::is_acknowledged(pod) { grace } else { Some(0) };
        let mut params =
            DeleteParams::default().preconditions(Preconditions { uid: Some(uid.to_owned()), resource_version: None });
        if let Some(seconds) = grace {
            params = params.grace_period(seconds);
        }
        match api.delete(name, &params).await {
            Ok(_) => {}
            // 409: another one has its name by now.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return Ok(()),
            Err(error) => return Err(wrong(id, attempted, &error)),
        }
        let own = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
        let seconds = grace.map_or_else(|| u64::try_from(own).unwrap_or(0), u64::from);
        let patience = Duration::from_secs(seconds).saturating_add(SLACK);
        match tokio::time::timeout(patience, self.until_gone(id, uid, &api, name)).await {
            Ok(gone) => gone,
            Err(_) => {
                let message =
                    format!("it isn't gone after {} s: its kubelet doesn't say that it ended", patience.as_secs());
                Err(failed(id, attempted, message))
            }
        }
    }

    async fn until_gone(&self, id: &PodId, uid: &str, api: &Api<Pod>, name: &str) -> Result<(), RuntimeError> {
        let mut known = self.shared.known.subscribe();
        loop {
            let is_there = |known: &Known| known.pods.get(id).is_some_and(|pod| observe::uid(pod) == uid);
            if known.wait_for(|known| !is_there(known)).await.is_err() {
                return Ok(());
            }
            // The watch may not have heard of it yet.
            let there = api.get_opt(name).await.map_err(|error| wrong(id, "looking for the Pod", &error))?;
            if there.is_none_or(|pod| observe::uid(&pod) != uid) {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn stop(&self, id: &PodId, grace: Duration) -> Result<(), RuntimeError> {
        let pods = self.find(id).await?;
        if pods.is_empty() {
            return Ok(());
        }
        // Kubernetes counts in seconds, and none is without waiting for the kubelet.
        let seconds = grace.as_secs().saturating_add(u64::from(grace.subsec_nanos() > 0)).max(1);
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        self.shared.known.send_modify(|known| {
            known.stopping.insert(id.clone());
        });
        for pod in pods {
            self.delete(id, &pod, Some(seconds)).await?;
        }
        // Its last state is told by the watch, a moment after.
        let mut known = self.shared.known.subscribe();
        let told = known.wait_for(|known| !known.stopping.contains(id));
        drop(tokio::time::timeout(SLACK, told).await);
        Ok(())
    }

    async fn remove(&self, id: &PodId) -> Result<(), RuntimeError> {
        for pod in self.find(id).await? {
            // One that somebody deleted has the time that it was given.
            let grace = if observe::is_terminating(&pod) { None } else { Some(1) };
            self.delete(id, &pod, grace).await?;
        }
        self.shared.known.send_modify(|known| {
            known.stopping.remove(id);
            known.stopped.remove(id);
        });
        Ok(())
    }

    async fn listed(&self) -> Result<Vec<PodObserved>, RuntimeError> {
        let known: Option<Vec<Arc<Pod>>> = {
            let known = self.shared.known.borrow();
            known.synced.then(|| known.pods.values().cloned().collect())
        };
        let pods = match known {
            Some(pods) => pods,
            None => {
                let asked = self.ask(LABEL_INSTANCE_UID, None).await.map_err(|error| away(&error))?;
                asked.into_iter().map(Arc::new).collect()
            }
        };
        let pids = self.shared.pids_of(&pods).await;
        let mut observed: Vec<PodObserved> = pods.iter().filter_map(|pod| observe::pod(pod, &pids)).collect();
        let known = self.shared.known.borrow();
        let stopped = known.stopped.values().filter(|pod| !known.pods.contains_key(&pod.id));
        observed.extend(stopped.cloned());
        Ok(observed)
    }

    async fn has_no_pods(&self) -> bool {
        let served = self.client.0.list_core_api_resources("v1").await;
        served.is_ok_and(|list| list.resources.iter().all(|resource| resource.name != "pods"))
    }

    async fn look(&self) -> Result<RuntimeInfo, RuntimeError> {
        let asked = async {
            if let Err(error) = self.ask(LABEL_INSTANCE_UID, Some(1)).await {
                // Where there are no Pods, nobody was ever given the right to list them either.
                return Err(if self.has_no_pods().await { no_pods() } else { away(&error) });
            }
            self.client.0.apiserver_version().await.map_err(|error| away(&error))
        };
        let version = tokio::time::timeout(PROBE, asked).await.map_err(|_| RuntimeError::Unavailable {
            adapter: ADAPTER,
            message: format!("no answer from the API server within {} s", PROBE.as_secs()),
        })??;
        self.shared.start(self.client.0.clone(), &self.node);
        Ok(RuntimeInfo { adapter: Adapter::Kubernetes, version: format!("Kubernetes {}", version.git_version) })
    }
}

fn failed(pod: &PodId, attempted: &'static str, message: String) -> RuntimeError {
    RuntimeError::Failed { pod: pod.clone(), attempted, message }
}

fn wrong(pod: &PodId, attempted: &'static str, error: &kube::Error) -> RuntimeError {
    match error {
        // It says why: an admission policy, a quota, a field. What passes by itself comes with other codes.
        kube::Error::Api(status) if matches!(status.code, 400 | 403 | 422) => {
            RuntimeError::Refused { pod: pod.clone(), attempted, message: status.message.clone() }
        }
        kube::Error::Api(status) => failed(pod, attempted, status.message.clone()),
        _ => RuntimeError::Unavailable { adapter: ADAPTER, message: error.to_string() },
    }
}

fn no_pods() -> RuntimeError {
    let message = "this API server has no Pods, and so there is no kubelet; use runtime oci".to_owned();
    RuntimeError::Unavailable { adapter: ADAPTER, message }
}

fn away(error: &kube::Error) -> RuntimeError {
    let message = match error {
        kube::Error::Api(status) if status.code == 403 => {
            format!("{}; the chart grants it with node.kubernetesRuntime.enabled", status.message)
        }
        error => error.to_string(),
    };
    RuntimeError::Unavailable { adapter: ADAPTER, message }
}

impl Runtime for KubernetesRuntime {
    fn adapter(&self) -> Adapter {
        Adapter::Kubernetes
    }

    fn probe(&self) -> BoxFuture<'_, Result<RuntimeInfo, RuntimeError>> {
        Box::pin(self.look())
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<PodObserved>, RuntimeError>> {
        Box::pin(self.listed())
    }

    /// The kubelet knows, and pulls what isn't there.
    fn image<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<String>, RuntimeError>> {
        Box::pin(async { Ok(None) })
    }

    fn load_image<'a>(&'a self, archive: &'a Path) -> BoxFuture<'a, Result<Vec<String>, RuntimeError>> {
        let message = format!(
            "loading image archive {}: images of runtime kubernetes are the kubelet's; use a registry, or `ctr --namespace k8s.io images import`",
            archive.display()
        );
        Box::pin(async { Err(RuntimeError::Archive { message }) })
    }

    fn run_pod<'a>(&'a self, pod: &'a PodSpec) -> BoxFuture<'a, Result<PodObserved, RuntimeError>> {
        Box::pin(self.run(pod))
    }

    fn start_container<'a>(
        &'a self,
        pod: &'a PodId,
        container: &'a ContainerSpec,
        _: u32,
    ) -> BoxFuture<'a, Result<ContainerObserved, RuntimeError>> {
        let message = format!("container {} is restarted by the kubelet", container.name);
        Box::pin(async { Err(RuntimeError::Refused { pod: pod.clone(), attempted: "starting a container", message }) })
    }

    fn stop_pod<'a>(&'a self, pod: &'a PodId, grace: Duration) -> BoxFuture<'a, Result<(), RuntimeError>> {
        Box::pin(self.stop(pod, grace))
    }

    fn remove_pod<'a>(&'a self, pod: &'a PodId) -> BoxFuture<'a, Result<(), RuntimeError>> {
        Box::pin(self.remove(pod))
    }

    fn events(&self) -> BoxStream<'static, RuntimeEvent> {
        let receiver = self.shared.events.subscribe();
        stream::unfold(receiver, |mut receiver| async move {
            let event = match receiver.recv().await {
                Ok(event) => event,
                Err(RecvError::Lagged(_)) => RuntimeEvent::Resync,
                Err(RecvError::Closed) => return None,
            };
            Some((event, receiver))
        })
        .boxed()
    }
}
