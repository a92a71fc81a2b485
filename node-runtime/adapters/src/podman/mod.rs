//! The podman adapter: libpod's REST API (v4) on podman's unix socket, without its command line.
//!
//! Pods are found again by labels. A restart is a new container with the next attempt's number in its name; the one before is removed once
//! the new one runs. Logs are podman's `k8s-file`, in the node's data directory, appended to by each attempt. A file that has reached its limit
//! is begun anew by podman's monitor, which keeps nothing of what was in it.

mod events;
mod http;
mod observe;
mod spec;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::http::StatusCode;
use futures::future::{BoxFuture, join_all};
use futures::stream::BoxStream;
use pullpiri_crds::model::Adapter;
use pullpiri_node_core::runtime::{
    ContainerObserved, ContainerSpec, ContainerStateObserved, MountSource, NetworkMode, PodId, PodObserved, PodSpec,
    RuntimeInfo,
};
use pullpiri_node_host::files;
use serde::Deserialize;
use serde_json::json;

use self::http::{Client, HttpError, encode, filters};
use self::observe::{Inspected, Listed};
use self::spec::{Place, container_name, label, pod_labels, pod_name};
use crate::logs::Logs;
use crate::{LogRetention, Runtime, RuntimeError, RuntimeEvent};

/// Where podman's system service listens.
pub const DEFAULT_SOCKET: &str = "/run/podman/podman.sock";

const ADAPTER: &str = "podman";
/// For an image that is missing. podman has a store of its own, which `pullpiri image load` doesn't fill.
const REMEDY: &str =
    "runtime podman has its own images: load it with `podman load --input FILE.tar`, or `podman pull` it";

/// podman, reached through its socket.
#[derive(Clone, Debug)]
pub struct PodmanRuntime {
    client: Client,
    logs: Arc<Logs>,
    /// Logs of pods that were removed before this start have been looked at.
    pruned: Arc<AtomicBool>,
    owner: String,
    log_max_bytes: u64,
}

/// What may be chosen.
#[derive(Clone, Debug)]
pub struct PodmanOptions {
    /// A container's log is begun anew once it has grown to this; 0: never. There is one file, so it may be as large as those of the oci
    /// adapter are together.
    pub log_max_bytes: u64,
    /// Of removed pods.
    pub log_retention: LogRetention,
    /// podman answers within seconds, beyond the grace of a stop. Two minutes, as a kubelet waits for its runtime: what has hung for so long is told
    /// as a failure and tried again.
    pub answer_deadline: Duration,
}

impl Default for PodmanOptions {
    fn default() -> Self {
        Self {
            log_max_bytes: 50 << 20,
            log_retention: LogRetention::default(),
            answer_deadline: Duration::from_secs(120),
        }
    }
}

/// `images/{name}/json`, as far as it is needed.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Image {
    id: String,
    #[serde(default)]
    user: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Created {
    id: String,
}

impl PodmanRuntime {
    /// Needs no podman to be there: as long as there is none, each operation says so. Pods of other data directories are left alone.
    #[must_use]
    pub fn new(socket: &Path, data_dir: &Path) -> Self {
        Self::with_options(socket, data_dir, &PodmanOptions::default())
    }

    /// As [`Self::new`].
    #[must_use]
    pub fn with_options(socket: &Path, data_dir: &Path, options: &PodmanOptions) -> Self {
        let logs = Logs::new(data_dir.join("podman").join("logs"), options.log_retention);
        Self {
            client: Client::new(socket, options.answer_deadline),
            logs: Arc::new(logs),
            pruned: Arc::default(),
            owner: data_dir.display().to_string(),
            log_max_bytes: options.log_max_bytes,
        }
    }

    /// Where a container's log is, in the format of Kubernetes' CRI.
    #[must_use]
    pub fn log_path(&self, pod: &PodId, container: &str) -> PathBuf {
        self.logs.of(pod).join(format!("{container}.log"))
    }

    /// Deletes old logs of pods other than these, off the way of what comes next.
    fn prune_logs(&self, there: &[Listed]) {
        let logs = Arc::clone(&self.logs);
        let there: BTreeSet<String> =
            there.iter().filter_map(|entry| entry.label(label::POD)).map(str::to_owned).collect();
        drop(tokio::task::spawn_blocking(move || {
            if let Err(error) = logs.prune(|pod| there.contains(pod)) {
                tracing::warn!(%error, "old logs can't be deleted");
            }
        }));
    }

    /// The containers of ours, or of one pod.
    async fn containers(&self, pod: Option<&PodId>) -> Result<Vec<Listed>, HttpError> {
        let mut labels = vec![format!("{}={}", label::OWNER, self.owner)];
        labels.extend(pod.map(|id| format!("{}={id}", label::POD)));
        self.client.get(&format!("/containers/json?all=true&{}", filters(&json!({ "label": labels })))).await
    }

    async fn inspect(&self, id: &str) -> Result<Inspected, HttpError> {
        self.client.get(&format!("/containers/{}/json", encode(id))).await
    }

    /// The pods that these containers make up. One that vanishes meanwhile isn't there.
    async fn observed(&self, listed: &[Listed]) -> Result<Vec<PodObserved>, HttpError> {
        let inspections = listed.iter().filter(|entry| !entry.is_infra).map(|entry| self.inspect(&entry.id));
        let mut inspected = BTreeMap::new();
        for inspection in join_all(inspections).await {
            match inspection {
                Ok(container) => {
                    inspected.insert(container.id.clone(), container);
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(observe::pods(listed, &inspected))
    }

    async fn image_of(&self, reference: &str) -> Result<Option<Image>, HttpError> {
        match self.client.get(&format!("/images/{}/json", encode(reference))).await {
            Ok(image) => Ok(Some(image)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn run(&self, pod: &PodSpec) -> Result<PodObserved, RuntimeError> {
        let error = |attempted| move |error| runtime_error(&pod.id, attempted, error);
        let left = self.containers(Some(&pod.id)).await.map_err(error("looking for the pod"))?;
        if !left.is_empty() {
            let observed = self.observed(&left).await.map_err(error("looking at the pod"))?;
            if let Some(whole) = observed.into_iter().find(|observed| is_whole(observed, pod)) {
                return Ok(whole);
            }
            self.remove(&pod.id).await?;
        }
        let labels = pod_labels(pod, &self.owner);
        if pod.network == NetworkMode::Own {
            let body = spec::pod(pod, &labels);
            let created = self.client.create::<Created>("/pods/create", &body).await;
            if created.as_ref().is_err_and(|error| error.status() == Some(StatusCode::CONFLICT)) {
                // An agent that died before it could make the first container left an empty pod.
                self.remove(&pod.id).await?;
                self.client.create::<Created>("/pods/create", &body).await.map_err(error("making the pod"))?;
            } else {
                created.map_err(error("making the pod"))?;
            }
            // Its network and IPC are there before the containers are.
            let path = format!("/pods/{}/start", encode(&pod_name(&pod.id)));
            self.client.post(&path, None).await.map_err(error("starting the pod"))?;
        }
        let mut containers = Vec::new();
        for container in &pod.containers {
            containers.push(self.start(&pod.id, container, &labels, 0).await?);
        }
        Ok(PodObserved {
            id: pod.id.clone(),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            hash: pod.hash.clone(),
            adapter: Adapter::Podman,
            sandbox_alive: true,
            containers,
        })
    }

    /// Makes a container and starts it.
    async fn start(
        &self,
        id: &PodId,
        container: &ContainerSpec,
        labels: &BTreeMap<String, String>,
        attempt: u32,
    ) -> Result<ContainerObserved, RuntimeError> {
        let error = |attempted| move |error| runtime_error(id, attempted, error);
        let image = self.image_of(&container.image).await.map_err(error("looking for the image"))?;
        let Some(image) = image else {
            return Err(RuntimeError::ImageMissing { image: container.image.clone(), remedy: REMEDY });
        };
        self.logs.claim(id);
        let log = self.log_path(id, &container.name);
        if let Some(directory) = log.parent() {
            let made = tokio::fs::create_dir_all(directory).await;
            made.map_err(|error| failed(id, "making the log directory", error.to_string()))?;
        }
        let place =
            Place { id, labels, attempt, log: &log, log_max_bytes: self.log_max_bytes, image_user: &image.user };
        let container = &settled(id, container).await?;
        let body = spec::container(container, &place);
        let created = self.client.create::<Created>("/containers/create", &body).await;
        let created = match created {
            Err(taken) if is_name_taken(&taken) => {
                // Half made by an agent that died.
                self.remove_container(&container_name(id, &container.name, attempt))
                    .await
                    .map_err(error("removing a container"))?;
                self.client.create::<Created>("/containers/create", &body).await
            }
            created => created,
        };
        let created = created.map_err(error("making a container"))?;
        let started = self.client.post(&format!("/containers/{}/start", created.id), None).await;
        if let Err(refused) = started {
            let _ = self.remove_container(&created.id).await;
            return Err(runtime_error(id, "starting a container", refused));
        }
        let inspected = self.inspect(&created.id).await.map_err(error("looking at a container"))?;
        observe::container(&inspected)
            .map(|(_, container)| container)
            .ok_or_else(|| failed(id, "looking at a container", "its labels are gone".to_owned()))
    }

    async fn restart(
        &self,
        id: &PodId,
        container: &ContainerSpec,
        attempt: u32,
    ) -> Result<ContainerObserved, RuntimeError> {
        let error = |attempted| move |error| runtime_error(id, attempted, error);
        let listed = self.containers(Some(id)).await.map_err(error("looking for the pod"))?;
        let Some(any) = listed.first() else { return Err(RuntimeError::NoPod { pod: id.clone() }) };
        if listed.iter().any(|entry| entry.is_infra && !entry.runs()) {
            return Err(failed(id, "starting a container", "the pod's infra container doesn't run".to_owned()));
        }
        let siblings: Vec<&Listed> =
            listed.iter().filter(|entry| entry.label(label::CONTAINER) == Some(&container.name)).collect();
        if let Some(running) = siblings.iter().find(|entry| entry.attempt() >= attempt && entry.runs()) {
            let inspected = self.inspect(&running.id).await.map_err(error("looking at a container"))?;
            if let Some((_, container)) = observe::container(&inspected) {
                return Ok(container);
            }
        }
        let mut labels = any.labels.clone().unwrap_or_default();
        labels.remove(label::CONTAINER);
        labels.remove(label::ATTEMPT);
        let started = self.start(id, container, &labels, attempt).await?;
        for old in siblings.iter().filter(|entry| entry.attempt() < attempt) {
            self.remove_container(&old.id).await.map_err(error("removing the attempt before"))?;
        }
        Ok(started)
    }

    async fn remove_container(&self, id: &str) -> Result<(), HttpError> {
        self.client.delete(&format!("/containers/{}?force=true&v=true&timeout=0", encode(id))).await
    }

    async fn remove(&self, id: &PodId) -> Result<(), RuntimeError> {
        let error = |attempted| move |error| runtime_error(id, attempted, error);
        // An infra container is removed with its pod and not otherwise.
        let listed = self.containers(Some(id)).await.map_err(error("looking for the pod"))?;
        let removals = listed.iter().filter(|entry| !entry.is_infra).map(|entry| self.remove_container(&entry.id));
        for removal in join_all(removals).await {
            removal.map_err(error("removing a container"))?;
        }
        let pod = format!("/pods/{}?force=true&timeout=0", encode(&pod_name(id)));
        self.client.delete(&pod).await.map_err(error("removing the pod"))?;
        self.logs.release(id);
        // Those who made pods since hold claims. What can't be asked now is looked at after the next removal.
        if let Ok(there) = self.containers(None).await {
            self.prune_logs(&there);
        }
        Ok(())
    }

    async fn stop(&self, id: &PodId, grace: Duration) -> Result<(), RuntimeError> {
        let error = |attempted| move |error| runtime_error(id, attempted, error);
        let listed = self.containers(Some(id)).await.map_err(error("looking for the pod"))?;
        let running: Vec<&Listed> = listed.iter().filter(|entry| !entry.is_infra && entry.runs()).collect();
        // podman counts in seconds, and none is at once.
        let seconds = grace.as_secs() + u64::from(grace.subsec_nanos() > 0);
        let stops = running.iter().map(|entry| async {
            let path = format!("/containers/{}/stop?timeout={seconds}", entry.id);
            match self.client.post_and_wait(&path, Duration::from_secs(seconds)).await {
                Err(error) if !error.is_not_found() => Err(error),
                _ => Ok(()),
            }
        });
        for stop in join_all(stops).await {
            stop.map_err(error("stopping a container"))?;
        }
        Ok(())
    }
}

/// The container with its volumes' sub-paths as they lead now. podman is told paths only, so they are looked at as shortly before as can be:
/// what a container that shares the volume swaps between this and podman's own look isn't seen (the `oci` adapter hands on what it
/// opened).
async fn settled(id: &PodId, container: &ContainerSpec) -> Result<ContainerSpec, RuntimeError> {
    let mut container = container.clone();
    let settled = tokio::task::spawn_blocking(move || {
        for mount in &mut container.mounts {
            if let MountSource::Below { base, sub_path } = &mount.source {
                let opened = files::open_below(base, sub_path)
                    .map_err(|error| format!("{}: {error} (subPath)", mount.target.display()))?;
                mount.source = MountSource::Bind(files::path_of(opened.as_fd()).map_err(|error| error.to_string())?);
            }
        }
        Ok(container)
    });
    let settled = settled.await.unwrap_or_else(|error| Err(error.to_string()));
    settled.map_err(|message| RuntimeError::Refused { pod: id.clone(), attempted: "resolving its mounts", message })
}

/// Whether every container of `pod` is there and was started, from the same template.
fn is_whole(observed: &PodObserved, pod: &PodSpec) -> bool {
    observed.hash == pod.hash
        && observed.sandbox_alive
        && pod.containers.iter().all(|container| {
            let found = observed.containers.iter().find(|observed| observed.name == container.name);
            found.is_some_and(|found| matches!(found.state, ContainerStateObserved::Running { .. }))
        })
}

/// podman 4 answers 500 where 409 is meant.
fn is_name_taken(error: &HttpError) -> bool {
    error.status() == Some(StatusCode::CONFLICT) || error.to_string().contains("is already in use")
}

fn failed(pod: &PodId, attempted: &'static str, message: String) -> RuntimeError {
    RuntimeError::Failed { pod: pod.clone(), attempted, message }
}

/// What podman says when no other try would help. It answers 500 to nearly everything.
const HOPELESS: [&str; 6] = [
    "executable file not found",
    "no such file or directory",
    "not found",
    "does not exist on container",
    "permission denied",
    "capabilit",
];

/// What podman and its helpers say of a port of the node that somebody else has.
const PORT_TAKEN: [&str; 2] = ["address already in use", "port is already allocated"];

fn runtime_error(pod: &PodId, attempted: &'static str, error: HttpError) -> RuntimeError {
    let message = error.to_string();
    match error {
        HttpError::NoSocket { .. } | HttpError::Connect { .. } => {
            RuntimeError::Unavailable { adapter: ADAPTER, message }
        }
        HttpError::Refused { status, .. } => {
            let lower = message.to_lowercase();
            let starts = matches!(attempted, "making a container" | "starting a container" | "making the pod");
            if PORT_TAKEN.iter().any(|words| lower.contains(words)) {
                return RuntimeError::PortTaken { pod: pod.clone(), message };
            }
            let hopeless = starts && HOPELESS.iter().any(|words| lower.contains(words));
            if status == StatusCode::BAD_REQUEST || hopeless {
                RuntimeError::Refused { pod: pod.clone(), attempted, message }
            } else {
                failed(pod, attempted, message)
            }
        }
        HttpError::Broken { .. } | HttpError::Late { .. } => failed(pod, attempted, message),
    }
}

fn unavailable(error: &HttpError) -> RuntimeError {
    RuntimeError::Unavailable { adapter: ADAPTER, message: error.to_string() }
}

impl Runtime for PodmanRuntime {
    fn adapter(&self) -> Adapter {
        Adapter::Podman
    }

    fn probe(&self) -> BoxFuture<'_, Result<RuntimeInfo, RuntimeError>> {
        Box::pin(async {
            let version = self.client.version().await.map_err(|error| unavailable(&error))?;
            Ok(RuntimeInfo { adapter: Adapter::Podman, version })
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<PodObserved>, RuntimeError>> {
        Box::pin(async {
            let listed = self.containers(None).await.map_err(|error| unavailable(&error))?;
            if !self.pruned.swap(true, Ordering::Relaxed) {
                self.prune_logs(&listed);
            }
            self.observed(&listed).await.map_err(|error| unavailable(&error))
        })
    }

    fn image<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<String>, RuntimeError>> {
        Box::pin(async move {
            let image = self.image_of(reference).await.map_err(|error| unavailable(&error))?;
            Ok(image.map(|image| format!("sha256:{}", image.id.trim_start_matches("sha256:"))))
        })
    }

    fn load_image<'a>(&'a self, archive: &'a Path) -> BoxFuture<'a, Result<Vec<String>, RuntimeError>> {
        Box::pin(async move {
            #[derive(Deserialize)]
            #[serde(rename_all = "PascalCase")]
            struct Loaded {
                names: Vec<String>,
            }
            let wrong = |error: &dyn std::fmt::Display| RuntimeError::Archive {
                message: format!("loading image archive {}: {error}", archive.display()),
            };
            let file = tokio::fs::File::open(archive).await.map_err(|error| wrong(&error))?;
            let loaded: Result<Loaded, HttpError> = self.client.upload("/images/load", file).await;
            loaded.map(|loaded| loaded.names).map_err(|error| match error {
                HttpError::NoSocket { .. } | HttpError::Connect { .. } => unavailable(&error),
                error => wrong(&error),
            })
        })
    }

    fn run_pod<'a>(&'a self, pod: &'a PodSpec) -> BoxFuture<'a, Result<PodObserved, RuntimeError>> {
        Box::pin(async move {
            let outcome = self.run(pod).await;
            if let Err(error) = &outcome
                && !matches!(error, RuntimeError::Unavailable { .. })
            {
                let _ = self.remove(&pod.id).await;
            }
            outcome
        })
    }

    fn start_container<'a>(
        &'a self,
        pod: &'a PodId,
        container: &'a ContainerSpec,
        attempt: u32,
    ) -> BoxFuture<'a, Result<ContainerObserved, RuntimeError>> {
        Box::pin(self.restart(pod, container, attempt))
    }

    fn stop_pod<'a>(&'a self, pod: &'a PodId, grace: Duration) -> BoxFuture<'a, Result<(), RuntimeError>> {
        Box::pin(self.stop(pod, grace))
    }

    fn remove_pod<'a>(&'a self, pod: &'a PodId) -> BoxFuture<'a, Result<(), RuntimeError>> {
        Box::pin(self.remove(pod))
    }

    fn events(&self) -> BoxStream<'static, RuntimeEvent> {
        events::listen(self.client.clone(), self.owner.clone())
    }
}
