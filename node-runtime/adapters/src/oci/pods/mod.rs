//! The pods of this node: run, adopted, watched and removed.

mod adopt;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pullpiri_crds::model::Adapter;
use pullpiri_node_core::runtime::{
    ContainerObserved, ContainerSpec, NetworkMode, PodId, PodObserved, PodSpec, RuntimeInfo,
};
use pullpiri_node_host::cgroup::{Cgroups, pod_group};
use pullpiri_node_host::process::Pidfd;
use pullpiri_node_host::socket::SeqPacket;
use pullpiri_node_host::{clock, files, limits, mount};
use tokio::sync::broadcast;

use super::capabilities;
use super::link::{Link, LinkError, Reader};
use super::prepare::{Node, Prepared, check_pod, failed, published, refused};
use super::store::{self, LOCK_FILE, StoredPod};
use super::supervisor::PORT_TAKEN;
use super::wire::{Birth, What};
use super::zygote::Zygote;
use super::{ADAPTER, OciOptions, REMEDY};
use crate::images::{ImageError, ImageStore};
use crate::logs::Logs;
use crate::{RuntimeError, RuntimeEvent};

/// Events that a slow listener may lag behind before it is told to list again.
const EVENT_BACKLOG: usize = 1024;
/// How long a supervisor that is being born may take to listen.
const BIRTH_DEADLINE: Duration = Duration::from_secs(5);
/// A supervisor gives a creation up after 30 s, and may have to end one that is under way before.
const CREATION: Duration = Duration::from_secs(60);
/// How long a supervisor that was told to end, or was killed, may take to.
const END_DEADLINE: Duration = Duration::from_secs(10);

/// All pods of one data directory. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Pods {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    node: Node,
    pods_dir: PathBuf,
    cgroups: Cgroups,
    boot_id: String,
    zygote: Zygote,
    known: Mutex<BTreeMap<PodId, Arc<Pod>>>,
    events: broadcast::Sender<RuntimeEvent>,
}

/// A pod that has a directory.
#[derive(Debug)]
struct Pod {
    stored: StoredPod,
    dir: PathBuf,
    state: Mutex<PodState>,
    /// Held by whoever cleans up after the supervisor: its end may be seen and asked for at once.
    burial: Mutex<()>,
    /// Held by whoever connects to the supervisor.
    reaching: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct PodState {
    /// The latest.
    link: Option<Arc<Link>>,
    reader: Option<Reader>,
    /// The supervisor's end was seen and cleaned up after.
    dead: bool,
    /// The supervisor's end is wanted and is no news.
    removing: bool,
    /// The supervisor lives and can't be reached; somebody tries it again and again.
    sought: bool,
}

impl Pod {
    fn new(stored: StoredPod, dir: PathBuf) -> Self {
        Self { stored, dir, state: Mutex::default(), burial: Mutex::default(), reaching: tokio::sync::Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, PodState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection, if the supervisor lives.
    fn link(&self) -> Option<Arc<Link>> {
        self.state().link.clone().filter(|l| l.is_open())
    }

    fn pidfd(&self) -> Option<Arc<Pidfd>> {
        self.state().link.as_ref().and_then(|l| l.pidfd())
    }

    fn observe(&self) -> io::Result<PodObserved> {
        let alive = !self.state().dead;
        self.stored.observe(&self.dir, alive)
    }
}

impl Pods {
    pub(super) async fn open(data_dir: &Path, zygote: Zygote, options: OciOptions) -> Result<Self, RuntimeError> {
        let unavailable = |message: String| RuntimeError::Unavailable { adapter: ADAPTER, message };
        let making = |path: &Path, e: io::Error| unavailable(format!("making {}: {e}", path.display()));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(|e| making(data_dir, e))?;
        let data_dir = data_dir.canonicalize().map_err(|e| making(data_dir, e))?;
        // Overlays are mounted below it, and these separate what is in their options.
        if data_dir.as_os_str().as_encoded_bytes().iter().any(|b| matches!(b, b':' | b',' | b'\\')) {
            let shown = data_dir.display();
            return Err(unavailable(format!("data directory {shown} has a colon, comma or backslash in its path")));
        }
        let (pods_dir, logs) = (data_dir.join("pods"), Logs::new(data_dir.join("logs"), options.log_retention));
        for dir in [pods_dir.as_path(), logs.dir()] {
            files::private_directory(dir).map_err(|e| making(dir, e))?;
        }
        let images = ImageStore::open(data_dir.join("images")).map_err(|e| unavailable(e.to_string()))?;
        let cgroups = Cgroups::probe(&options.cgroup_root).map_err(|e| unavailable(e.to_string()))?;
        let boot_id = clock::boot_id().map_err(|e| unavailable(e.to_string()))?;
        let node = Node { images, options, layout: cgroups.layout(), logs };
        let (events, _) = broadcast::channel(EVENT_BACKLOG);
        let known = Mutex::new(BTreeMap::new());
        let this = Self { inner: Arc::new(Inner { node, pods_dir, cgroups, boot_id, zygote, known, events }) };
        this.adopt_all().await.map_err(|e| unavailable(format!("taking over pods: {e}")))?;
        // Of pods that went while nobody looked.
        if let Err(error) = this.images().forget_uses(|pod| this.inner.pods_dir.join(pod).exists()) {
            tracing::warn!(%error, "uses of images by pods that are gone can't be forgotten");
        }
        this.prune_logs();
        Ok(this)
    }

    pub(super) fn images(&self) -> &ImageStore {
        &self.inner.node.images
    }

    pub(super) fn log_dir(&self, pod: &PodId) -> PathBuf {
        self.inner.node.logs.of(pod)
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.inner.events.subscribe()
    }

    pub(super) fn process_ids(&self) -> (i32, Vec<i32>) {
        let pods: Vec<Arc<Pod>> = self.known().values().cloned().collect();
        let pid = |pod: &Arc<Pod>| pod.pidfd().and_then(|p| p.pid().ok().flatten());
        (self.inner.zygote.pid(), pods.iter().filter_map(pid).collect())
    }

    pub(super) fn probe(&self) -> Result<RuntimeInfo, RuntimeError> {
        let unavailable = |message: String| RuntimeError::Unavailable { adapter: ADAPTER, message };
        if !nix::unistd::geteuid().is_root() {
            return Err(unavailable("it needs root".to_owned()));
        }
        let held = limits::effective_capabilities().map_err(|e| unavailable(e.to_string()))?;
        let missing = capabilities::missing(held);
        if !missing.is_empty() {
            return Err(unavailable(format!("it needs {}, which this process doesn't have", missing.join(", "))));
        }
        match mount::kernel_has("overlay") {
            Ok(true) => {}
            Ok(false) => return Err(unavailable("the kernel has no overlay file system".to_owned())),
            Err(e) => return Err(unavailable(e.to_string())),
        }
        for controller in ["cpu", "memory", "pids"] {
            if !self.inner.cgroups.has_controller(controller) {
                return Err(unavailable(format!("the kernel offers no {controller} cgroup controller")));
            }
        }
        Ok(RuntimeInfo { adapter: Adapter::Oci, version: env!("CARGO_PKG_VERSION").to_owned() })
    }

    pub(super) async fn list(&self) -> Result<Vec<PodObserved>, RuntimeError> {
        let pods: Vec<Arc<Pod>> = self.known().values().cloned().collect();
        blocking(move || {
            let observe = |p: &Arc<Pod>| {
                p.observe().map_err(|e| failed(&p.stored.id, "reading the pod's records", e.to_string()))
            };
            pods.iter().map(observe).collect()
        })
        .await
    }

    pub(super) async fn image(&self, reference: &str) -> Result<Option<String>, RuntimeError> {
        let (this, reference) = (self.clone(), reference.to_owned());
        blocking(move || {
            let found = this.images().resolve(&reference).map_err(|e| image_error(&e))?;
            Ok(found.map(|i| i.id.to_string()))
        })
        .await
    }

    pub(super) async fn load_image(&self, archive: &Path) -> Result<Vec<String>, RuntimeError> {
        let (this, archive) = (self.clone(), archive.to_owned());
        blocking(move || {
            let loaded = this.images().load(&archive).map_err(|e| RuntimeError::Archive { message: e.to_string() })?;
            Ok(loaded
                .into_iter()
                .flat_map(|i| if i.references.is_empty() { vec![i.id.to_string()] } else { i.references })
                .collect())
        })
        .await
    }

    /// Deletes old logs of removed pods, off the way of what comes next.
    fn prune_logs(&self) {
        let inner = Arc::clone(&self.inner);
        drop(tokio::task::spawn_blocking(move || {
            if let Err(error) = inner.node.logs.prune(|pod| inner.pods_dir.join(pod).exists()) {
                tracing::warn!(%error, "old logs can't be deleted");
            }
        }));
    }

    pub(super) async fn run(&self, pod: &PodSpec) -> Result<PodObserved, RuntimeError> {
        check_pod(pod)?;
        if let Some(there) = self.get(&pod.id) {
            match self.supervisor(&there, "running the pod").await? {
                Some(link) => return self.complete(&there, &link, pod).await,
                // Its sandbox is dead; a new one takes its place.
                None => self.remove(&pod.id).await?,
            }
        }
        let attempted = "starting the pod";
        let (this, spec) = (self.clone(), pod.clone());
        let (born, prepared) = blocking(move || this.bear(&spec)).await?;
        let id = pod.id.clone();
        let link = match Link::open(born.connection) {
            Ok(opened) => self.attend(&born.pod, opened),
            Err(e) => {
                self.discard(&born.pod).await?;
                return Err(failed(&id, attempted, e.to_string()));
            }
        };
        let outcome = async {
            let mut observed = Vec::new();
            for container in prepared {
                let start = container.write().map_err(|e| failed(&id, attempted, e.to_string()))?;
                observed.extend(
                    self.ask(&born.pod, &link, What::Start(Box::new(start)), CREATION)
                        .await
                        .map_err(|e| link_error(&id, attempted, &born.pod.dir, e))?,
                );
            }
            Ok(observed)
        }
        .await;
        match outcome {
            Ok(containers) => {
                let mut seen =
                    born.pod.stored.observe(&born.pod.dir, true).map_err(|e| failed(&id, attempted, e.to_string()))?;
                if seen.containers.len() < containers.len() {
                    seen.containers = containers;
                }
                Ok(seen)
            }
            Err(error) => {
                if let Err(e) = self.remove(&id).await {
                    tracing::error!(pod = %id, error = %e, "a pod that didn't start can't be removed");
                }
                Err(error)
            }
        }
    }

    /// Starts those containers of a living pod that were never started.
    async fn complete(&self, there: &Arc<Pod>, link: &Arc<Link>, pod: &PodSpec) -> Result<PodObserved, RuntimeError> {
        let attempted = "completing the pod";
        let observe = || there.observe().map_err(|e| failed(&pod.id, attempted, e.to_string()));
        let seen = observe()?;
        for container in &pod.containers {
            if !seen.containers.iter().any(|c| c.name == container.name) {
                self.start_with(there, link, container, 0).await?;
            }
        }
        observe()
    }

    pub(super) async fn start_container(
        &self,
        id: &PodId,
        container: &ContainerSpec,
        attempt: u32,
    ) -> Result<ContainerObserved, RuntimeError> {
        let pod = self.get(id).ok_or_else(|| RuntimeError::NoPod { pod: id.clone() })?;
        let link = self.supervisor(&pod, "starting a container").await?.ok_or_else(|| {
            failed(id, "starting a container", "the pod's supervisor is gone; run the pod anew".to_owned())
        })?;
        if !pod.stored.containers.contains(&container.name) {
            return Err(refused(id, "starting a container", format!("the pod has no container {}", container.name)));
        }
        self.start_with(&pod, &link, container, attempt).await
    }

    async fn start_with(
        &self,
        pod: &Arc<Pod>,
        link: &Arc<Link>,
        container: &ContainerSpec,
        attempt: u32,
    ) -> Result<ContainerObserved, RuntimeError> {
        let attempted = "starting a container";
        let id = pod.stored.id.clone();
        let (this, at, spec) = (self.clone(), Arc::clone(pod), container.clone());
        let start = blocking(move || {
            let id = &at.stored.id;
            // Asked for again: preparing it would remove what it runs on.
            if let Ok(Some(record)) = store::read_record(&at.dir, &spec.name)
                && record.container.attempt >= attempt
            {
                return Ok(Err(record.container));
            }
            let prepared = this.inner.node.prepare(id, &at.dir, &at.stored.hostname, &spec, attempt)?;
            this.pin(id, &[&prepared])?;
            prepared.write().map(Ok).map_err(|e| failed(id, attempted, e.to_string()))
        })
        .await?;
        let start = match start {
            Ok(start) => start,
            Err(there) if there.attempt == attempt => return Ok(there),
            Err(there) => {
                let message = format!("{} is at attempt {} already", container.name, there.attempt);
                return Err(refused(&id, attempted, message));
            }
        };
        let observed = self
            .ask(pod, link, What::Start(Box::new(start)), CREATION)
            .await
            .map_err(|e| link_error(&id, attempted, &pod.dir, e))?
            .ok_or_else(|| failed(&id, attempted, "the supervisor gave no container".to_owned()))?;
        if attempt > 0 {
            let (at, name) = (Arc::clone(pod), container.name.clone());
            // Off the way: it has started, and what is left over goes with the pod at the latest.
            drop(tokio::task::spawn_blocking(move || store::remove_older_attempts(&at.dir, &name, attempt)));
        }
        Ok(observed)
    }

    pub(super) async fn stop(&self, id: &PodId, grace: Duration) -> Result<(), RuntimeError> {
        let Some(pod) = self.get(id) else { return Ok(()) };
        let Some(link) = self.supervisor(&pod, "stopping the pod").await? else { return Ok(()) };
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        match self.ask(&pod, &link, What::Stop { grace_ms }, grace).await {
            // With the supervisor gone its containers are killed; nothing runs.
            Ok(_) | Err(LinkError::Closed) => Ok(()),
            Err(LinkError::Late(_)) => {
                self.bury(pod).await;
                Ok(())
            }
            Err(e) => Err(failed(id, "stopping the pod", e.to_string())),
        }
    }

    pub(super) async fn remove(&self, id: &PodId) -> Result<(), RuntimeError> {
        let Some(pod) = self.get(id) else { return Ok(()) };
        pod.state().removing = true;
        let link = self.supervisor(&pod, "removing the pod").await.inspect_err(|_| pod.state().removing = false)?;
        if let Some(link) = link {
            match self.ask(&pod, &link, What::Remove, Duration::ZERO).await {
                Ok(_) | Err(LinkError::Closed | LinkError::Late(_)) => {}
                Err(e) => return Err(failed(id, "removing the pod", e.to_string())),
            }
        }
        self.discard(&pod).await?;
        self.known().remove(id);
        self.inner.node.logs.release(id);
        self.prune_logs();
        Ok(())
    }

    /// Asks a supervisor for what may take `allowance`. One that doesn't answer is killed: its containers are killed for it, and its
    /// pod is found without a sandbox.
    async fn ask(
        &self,
        pod: &Pod,
        link: &Link,
        what: What,
        allowance: Duration,
    ) -> Result<Option<ContainerObserved>, LinkError> {
        let answer = link.ask(what, allowance.saturating_add(self.inner.node.options.answer_deadline)).await;
        if let Err(late @ LinkError::Late(_)) = &answer {
            match link.kill() {
                Ok(()) => tracing::warn!(pod = %pod.stored.id, "{late}; it is killed"),
                Err(error) => tracing::error!(pod = %pod.stored.id, %error, "{late}, and can't be killed"),
            }
        }
        answer
    }

    /// Removes everything of a pod whose supervisor has ended or never was.
    async fn discard(&self, pod: &Arc<Pod>) -> Result<(), RuntimeError> {
        let (this, pod) = (self.clone(), Arc::clone(pod));
        blocking(move || {
            let _alone = pod.burial.lock().unwrap_or_else(PoisonError::into_inner);
            this.inner
                .clear(&pod.dir, &pod.stored.id)
                .map_err(|e| failed(&pod.stored.id, "removing the pod", e.to_string()))
        })
        .await
    }

    /// Makes a pod's directory and has its supervisor forked.
    fn bear(&self, spec: &PodSpec) -> Result<(Born, Vec<Prepared>), RuntimeError> {
        let attempted = "making the pod";
        let id = &spec.id;
        let dir = self.inner.pods_dir.join(&id.0);
        let prepare = |c: &ContainerSpec| self.inner.node.prepare(id, &dir, &spec.hostname, c, 0);
        let prepared: Vec<Prepared> = spec.containers.iter().map(prepare).collect::<Result<_, _>>()?;
        if dir.exists() {
            // What couldn't be taken over or removed when the agent started.
            self.inner.clear(&dir, id).map_err(|e| failed(id, attempted, e.to_string()))?;
        }
        self.inner.check_alone(id).map_err(|e| failed(id, attempted, e.to_string()))?;
        self.pin(id, &prepared.iter().collect::<Vec<_>>())?;
        let stored = StoredPod::of(spec, &self.inner.boot_id);
        self.inner.node.logs.claim(id);
        let make = || -> io::Result<SeqPacket> {
            self.inner.node.make_pod_dir(spec, &dir)?;
            // Before it is known to be a pod: whoever finds the pod must be able to tell whether a supervisor is on its way.
            let lock = files::lock_to_hand_on(&dir.join(LOCK_FILE))
                .map_err(|e| e.source)?
                .ok_or_else(|| io::Error::other("the pod has a supervisor that isn't known here"))?;
            stored.write(&dir)?;
            let (ours, theirs) = SeqPacket::pair().map_err(|e| e.source)?;
            let birth = Birth {
                pod: id.0.clone(),
                dir: dir.clone(),
                own_network: spec.network == NetworkMode::Own,
                network: match &spec.network {
                    NetworkMode::Namespace(path) => Some(path.clone()),
                    NetworkMode::Host | NetworkMode::Own => None,
                },
                cgroup_root: self.inner.node.options.cgroup_root.clone(),
                ports: published(spec),
            };
            self.inner.zygote.bear(&birth, &theirs.into_fd(), &lock).map_err(io::Error::other)?;
            Ok(ours)
        };
        match make() {
            Ok(connection) => {
                let pod = Arc::new(Pod::new(stored, dir));
                Ok((Born { pod, connection }, prepared))
            }
            Err(e) => {
                if let Err(e) = self.inner.clear(&dir, id) {
                    tracing::error!(pod = %id, error = %e, "what was made of a pod can't be removed");
                }
                self.inner.node.logs.release(id);
                Err(failed(id, attempted, e.to_string()))
            }
        }
    }

    fn pin(&self, id: &PodId, containers: &[&Prepared]) -> Result<(), RuntimeError> {
        let images: Vec<_> = containers.iter().map(|c| &c.image).collect();
        self.images().pin(&id.0, &images).map_err(|e| match e {
            ImageError::Missing(image) => RuntimeError::ImageMissing { image, remedy: REMEDY },
            e => failed(id, "noting the image's use", e.to_string()),
        })
    }

    fn get(&self, id: &PodId) -> Option<Arc<Pod>> {
        self.known().get(id).cloned()
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<PodId, Arc<Pod>>> {
        self.inner.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Waits until a pod has no supervisor: its end was seen or asked for, and takes a moment.
    fn await_end(dir: &Path) -> io::Result<()> {
        let deadline = Instant::now() + END_DEADLINE;
        let lock = dir.join(LOCK_FILE);
        while lock.exists() && files::try_lock(&lock).map_err(|e| e.source)?.is_none() {
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("the supervisor of {} doesn't end", dir.display())));
            }
            // A lock held elsewhere can be waited for, but not for a limited time.
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }

    /// Kills the containers of a pod whose supervisor is dead and records their ends.
    fn bury(&self, pod: &Pod) -> io::Result<Vec<ContainerObserved>> {
        let _alone = pod.burial.lock().unwrap_or_else(PoisonError::into_inner);
        Self::await_end(&pod.dir)?;
        self.cgroups.kill(&pod_group(&pod.stored.id.0), None).map_err(io::Error::other)?;
        store::record_unseen_ends(&pod.dir, &pod.stored)
    }

    /// Removes a pod's cgroups and directory.
    fn clear(&self, dir: &Path, id: &PodId) -> io::Result<()> {
        Self::await_end(dir)?;
        let group = pod_group(&id.0);
        self.cgroups.kill(&group, None).map_err(io::Error::other)?;
        self.cgroups.remove(&group).map_err(io::Error::other)?;
        remove_dir(dir)?;
        self.node.images.unpin(&id.0).map_err(io::Error::other)
    }
}

/// A pod whose supervisor was asked for.
struct Born {
    pod: Arc<Pod>,
    connection: SeqPacket,
}

/// What a supervisor writes last may come while its directory is being removed: it is looked at again a few times.
const REMOVALS: usize = 16;

fn remove_dir(dir: &Path) -> io::Result<()> {
    let mut outcome = fs::remove_dir_all(dir);
    for _ in 1..REMOVALS {
        match &outcome {
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => outcome = fs::remove_dir_all(dir),
            _ => break,
        }
    }
    match outcome {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(io::Error::new(e.kind(), format!("removing {}: {e}", dir.display())))
        }
        _ => Ok(()),
    }
}

fn link_error(pod: &PodId, attempted: &'static str, dir: &Path, error: LinkError) -> RuntimeError {
    match error {
        LinkError::Refused(message) => refused(pod, attempted, message),
        LinkError::Failed(message) => failed(pod, attempted, message),
        late @ LinkError::Late(_) => failed(pod, attempted, late.to_string()),
        LinkError::Closed => {
            // It may have said why.
            let why = fs::read_to_string(dir.join("supervisor.log")).unwrap_or_default();
            match why.trim() {
                taken if taken.starts_with(PORT_TAKEN) => {
                    RuntimeError::PortTaken { pod: pod.clone(), message: taken.to_owned() }
                }
                why => failed(pod, attempted, format!("the pod's supervisor died: {why}")),
            }
        }
    }
}

fn image_error(error: &ImageError) -> RuntimeError {
    RuntimeError::Unavailable { adapter: ADAPTER, message: error.to_string() }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RuntimeError> + Send + 'static,
) -> Result<T, RuntimeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(RuntimeError::Unavailable { adapter: ADAPTER, message: format!("a blocking task failed: {e}") }),
    }
}
