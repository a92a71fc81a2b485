//! Runtime adapters: one trait, [`Runtime`], and an implementation for each container runtime a node may have.
//!
//! * [`oci`](crate::Runtime): the OCI runtime inside our binary. A single-threaded supervisor per pod, forked from a zygote, holds
//!   the containers' stdio, reaps them, records their exit on disk and outlives the agent.
//! * `podman`: the REST API on podman's socket.
//! * `kubernetes`: Pods of this node's kubelet, through the API server.
//!
//! One contract suite (`tests/contract.rs`) runs against each of them. Adapters are told what to do; what should be done is decided in
//! `node-runtime/core`.

pub mod images;
pub mod kubernetes;
mod logs;
pub mod oci;
pub mod podman;

pub use logs::LogRetention;

use std::path::Path;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use pullpiri_crds::model::Adapter;
use pullpiri_node_core::runtime::{ContainerObserved, ContainerSpec, PodId, PodObserved, PodSpec, RuntimeInfo};

/// Something happened to a pod. Level-triggered: the receiver lists or reads `container` and needs no other history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// A container started or ended; as it is now.
    Container { pod: PodId, container: ContainerObserved },
    /// The pod's sandbox died or vanished.
    Sandbox { pod: PodId },
    /// Events may have been missed (the connection to the runtime was lost): list again.
    Resync,
}

/// What an adapter was doing when it failed, and whether trying again may help.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("image {image} is not on this node; {remedy}")]
    ImageMissing {
        image: String,
        /// What brings it there, for this adapter.
        remedy: &'static str,
    },
    #[error("{adapter} is not available: {message}")]
    Unavailable { adapter: &'static str, message: String },
    /// It can't be read, or is none.
    #[error("{message}")]
    Archive { message: String },
    #[error("no pod {pod}")]
    NoPod { pod: PodId },
    /// The specification can't be run here, whatever is tried: a bad capability name, an unreadable image, a missing binary.
    #[error("pod {pod}: {attempted}: {message}")]
    Refused { pod: PodId, attempted: &'static str, message: String },
    /// Somebody else has a port of the node that the pod is to publish.
    #[error("pod {pod}: {message}")]
    PortTaken { pod: PodId, message: String },
    /// Something failed that may work later.
    #[error("pod {pod}: {attempted}: {message}")]
    Failed { pod: PodId, attempted: &'static str, message: String },
}

/// A container runtime on this node. Every operation is idempotent: creating what is there, stopping what is stopped and removing what is gone
/// succeed. Operations on different pods run concurrently; the caller serialises those on one pod.
pub trait Runtime: std::fmt::Debug + Send + Sync + 'static {
    fn adapter(&self) -> Adapter;

    /// Whether it works here, and its version.
    fn probe(&self) -> BoxFuture<'_, Result<RuntimeInfo, RuntimeError>>;

    /// Every pod of ours, found by label or on disk, whoever started it and whether or not it still runs.
    fn list(&self) -> BoxFuture<'_, Result<Vec<PodObserved>, RuntimeError>>;

    /// The image's configuration digest, or `None` if it isn't on this node.
    fn image<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<String>, RuntimeError>>;

    /// Loads an OCI or docker archive; returns the references it named.
    fn load_image<'a>(&'a self, archive: &'a Path) -> BoxFuture<'a, Result<Vec<String>, RuntimeError>>;

    /// Creates the sandbox and starts every container of the pod, in order. On an error nothing of the pod is left running.
    fn run_pod<'a>(&'a self, pod: &'a PodSpec) -> BoxFuture<'a, Result<PodObserved, RuntimeError>>;

    /// Starts one container of an existing sandbox again, as attempt number `attempt`. Its log is appended to.
    fn start_container<'a>(
        &'a self,
        pod: &'a PodId,
        container: &'a ContainerSpec,
        attempt: u32,
    ) -> BoxFuture<'a, Result<ContainerObserved, RuntimeError>>;

    /// SIGTERM to every container (the image's stop signal if it names one), SIGKILL after `grace`; resolves when none runs. The pod
    /// stays listed with its exit codes.
    fn stop_pod<'a>(&'a self, pod: &'a PodId, grace: Duration) -> BoxFuture<'a, Result<(), RuntimeError>>;

    /// Removes a pod with everything that was made for it, killing what still runs. Its logs stay for a while: see [`LogRetention`].
    fn remove_pod<'a>(&'a self, pod: &'a PodId) -> BoxFuture<'a, Result<(), RuntimeError>>;

    /// What happens from now on. Several may listen.
    fn events(&self) -> BoxStream<'static, RuntimeEvent>;
}
