//! The node runtime's IO shell: observes the API server and the container runtimes, decides with `node-runtime/core`, acts.
//!
//! One task owns the node's [`Snapshot`](pullpiri_node_core::Snapshot) and is the only one that decides ([`mod@node`]). Everything else
//! brings it messages or carries out what it decided:
//!
//! * [`instances`] and [`references`] watch the API server; [`pods`] listens to the runtimes
//! * [`act`] does what a plan says, one task per instance at a time; [`host`] prepares volumes
//! * [`report`] writes statuses and finalizers, [`mod@tell`] Events, [`mod@ledger`] the disk, each behind a bounded queue that holds the latest only
//! * [`register`] keeps the NodeRuntime, [`heartbeat`] its Lease; [`tenure`] has all of it wait while another installation has the node's name
//!
//! Nothing is polled: an idle node wakes up for its heartbeat only. Starting a pod waits for no write, neither to the API server nor
//! to the disk; a crash in between is found out by listing the runtimes' pods.

mod act;
mod claim;
mod config;
mod heartbeat;
mod host;
mod instances;
mod ledger;
mod metrics;
mod network;
mod node;
mod pods;
mod realtime;
mod references;
mod register;
mod report;
mod retry;
mod suspend;
mod tell;
mod tenure;
mod watching;

use std::sync::Arc;

use kube::Client;
use prometheus_client::registry::Registry;
use pullpiri_node_adapters::Runtime;
use tokio_util::sync::CancellationToken;

pub use claim::{Claim, ClaimError};
pub use config::{Config, Heartbeat, node_name};
pub use ledger::LedgerError;
pub use metrics::Metrics;
pub use network::{Changes, NetworkConfig, Outcome, Pending, Plumbing, Pods};

/// The field manager of everything that a node writes.
pub const FIELD_MANAGER: &str = "pullpiri-node";

/// Why a node can't run at all, or didn't end as it should. What may pass (an API server that is away, a runtime that is down) is retried instead.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("node name {given:?}: expected letters (A-Z, a-z), digits, '-', '_' and '.', as in hpc or zone-1")]
    Name { given: String },
    #[error("data directory {path}: expected an absolute path")]
    DataDirectory { path: String },
    #[error("no runtime adapter was given")]
    NoRuntime,
    #[error("runtime {wanted} was asked for, but only {given} can be used")]
    DefaultRuntime { wanted: &'static str, given: String },
    #[error("making directory {path} private: {source}")]
    Directory { path: std::path::PathBuf, source: std::io::Error },
    #[error("stopping the workloads: {left} of {of} pods couldn't be stopped and may still run: {names}")]
    WorkloadsLeft { left: usize, of: usize, names: String },
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// The node runtime of one ECU.
pub struct Agent {
    config: Config,
    client: Client,
    runtimes: Vec<Arc<dyn Runtime>>,
    metrics: Metrics,
    ledger: ledger::Ledger,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").field("config", &self.config).field("runtimes", &self.runtimes).finish_non_exhaustive()
    }
}

impl Agent {
    /// `registry` gets the node's metrics, named `pullpiri_node_…`.
    ///
    /// # Errors
    /// [`AgentError`] if the configuration can't work, or the data directory can't hold a ledger.
    pub fn new(
        config: Config,
        client: Client,
        runtimes: Vec<Arc<dyn Runtime>>,
        registry: &mut Registry,
    ) -> Result<Self, AgentError> {
        config.check(&runtimes)?;
        let ledger = ledger::Ledger::open(&config.data_dir)?;
        Ok(Self { config, client, runtimes, metrics: Metrics::register(registry), ledger })
    }

    /// Tells whether the API server is heard.
    pub fn connected(&self) -> impl Fn() -> bool + Send + Sync + use<> {
        let connected = self.metrics.connected.clone();
        move || connected.get() == 1
    }

    /// Runs until `shutdown`. Workloads are left running, unless the configuration says otherwise.
    ///
    /// # Errors
    /// [`AgentError`] if the ledger can't be read, or workloads that were to be stopped weren't.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), AgentError> {
        node::run(self.config, self.client, self.runtimes, self.metrics, self.ledger, shutdown).await
    }
}
