//! The OCI runtime inside our binary.
//!
//! Three kinds of processes: the *agent*, which has threads and an async runtime; one *zygote* ([`zygote`]), which has neither and is
//! forked from; and a *supervisor* per pod, which outlives both. Agent and supervisor share a directory and a socket; every fact is on
//! disk before it is told, so a restarted agent finds what it missed. Nothing is polled.
//!
//! Containers run in `pullpiri/<pod>/<container>` of every cgroup hierarchy. If a supervisor is killed, its containers are killed
//! through their cgroup, and their exit is recorded as 255: nobody saw it.
//!
//! Everything is below the data directory: `images/`, `pods/<id>/`, `logs/<id>/<container>.log`.

mod capabilities;
mod link;
mod pods;
mod prepare;
mod spec;
mod store;
mod supervisor;
mod user;
mod wire;
pub mod zygote;

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use pullpiri_crds::model::Adapter;
use pullpiri_node_core::runtime::{ContainerObserved, ContainerSpec, PodId, PodObserved, PodSpec, RuntimeInfo};
use pullpiri_node_host::cgroup;
use tokio::sync::broadcast::error::RecvError;

use crate::images::ImageStore;
use crate::{LogRetention, Runtime, RuntimeError, RuntimeEvent};

pub use zygote::{Zygote, ZygoteError};

const ADAPTER: &str = "oci";
/// For an image that is missing.
const REMEDY: &str = "load it with `pullpiri image load FILE.tar --data-dir DIR`, DIR being this node's";

/// Becomes the zygote, and doesn't return, if this program was executed to be one (which [`zygote::execute`] does). Call it first thing
/// in `main`.
pub fn supervisor_main() {
    zygote::run_if_asked();
}

/// What may be chosen.
#[derive(Clone, Debug)]
pub struct OciOptions {
    /// Where cgroups are mounted.
    pub cgroup_root: PathBuf,
    /// A container's log file is rotated before it grows beyond this; 0: never.
    pub log_max_bytes: u64,
    /// Log files kept per container.
    pub log_max_files: u32,
    /// Of removed pods.
    pub log_retention: LogRetention,
    /// A supervisor answers within milliseconds, beyond what a grace period or a creation takes. One that doesn't for so long (it was
    /// stopped, or hangs in the kernel) is killed with its containers.
    pub answer_deadline: Duration,
}

impl Default for OciOptions {
    fn default() -> Self {
        Self {
            cgroup_root: PathBuf::from(cgroup::DEFAULT_ROOT),
            log_max_bytes: 10 << 20,
            log_max_files: 5,
            log_retention: LogRetention::default(),
            answer_deadline: Duration::from_secs(10),
        }
    }
}

/// The adapter.
#[derive(Debug)]
pub struct OciRuntime {
    pods: pods::Pods,
}

impl OciRuntime {
    /// Opens the runtime on a data directory and takes over the pods in it: living supervisors are connected to, the containers of dead
    /// ones are killed and recorded, and what is left from before a reboot is removed.
    pub async fn open(data_dir: &Path, zygote: Zygote, options: OciOptions) -> Result<Self, RuntimeError> {
        Ok(Self { pods: pods::Pods::open(data_dir, zygote, options).await? })
    }

    /// The node's images.
    #[must_use]
    pub fn images(&self) -> &ImageStore {
        self.pods.images()
    }

    /// The log of a container; rotated files are beside it as `….1`, `….2`.
    #[must_use]
    pub fn log_path(&self, pod: &PodId, container: &str) -> PathBuf {
        self.pods.log_dir(pod).join(format!("{container}.log"))
    }

    /// The zygote's process id and those of the supervisors, for measurements.
    #[must_use]
    pub fn process_ids(&self) -> (i32, Vec<i32>) {
        self.pods.process_ids()
    }
}

impl Runtime for OciRuntime {
    fn adapter(&self) -> Adapter {
        Adapter::Oci
    }

    fn probe(&self) -> BoxFuture<'_, Result<RuntimeInfo, RuntimeError>> {
        Box::pin(async { self.pods.probe() })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<PodObserved>, RuntimeError>> {
        Box::pin(self.pods.list())
    }

    fn image<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<String>, RuntimeError>> {
        Box::pin(self.pods.image(reference))
    }

    fn load_image<'a>(&'a self, archive: &'a Path) -> BoxFuture<'a, Result<Vec<String>, RuntimeError>> {
        Box::pin(self.pods.load_image(archive))
    }

    fn run_pod<'a>(&'a self, pod: &'a PodSpec) -> BoxFuture<'a, Result<PodObserved, RuntimeError>> {
        Box::pin(self.pods.run(pod))
    }

    fn start_container<'a>(
        &'a self,
        pod: &'a PodId,
        container: &'a ContainerSpec,
        attempt: u32,
    ) -> BoxFuture<'a, Result<ContainerObserved, RuntimeError>> {
        Box::pin(self.pods.start_container(pod, container, attempt))
    }

    fn stop_pod<'a>(&'a self, pod: &'a PodId, grace: Duration) -> BoxFuture<'a, Result<(), RuntimeError>> {
        Box::pin(self.pods.stop(pod, grace))
    }

    fn remove_pod<'a>(&'a self, pod: &'a PodId) -> BoxFuture<'a, Result<(), RuntimeError>> {
        Box::pin(self.pods.remove(pod))
    }

    fn events(&self) -> BoxStream<'static, RuntimeEvent> {
        let receiver = self.pods.subscribe();
        stream::unfold(receiver, |mut receiver| async move {
            match receiver.recv().await {
                Ok(event) => Some((event, receiver)),
                Err(RecvError::Lagged(_)) => Some((RuntimeEvent::Resync, receiver)),
                Err(RecvError::Closed) => None,
            }
        })
        .boxed()
    }
}
