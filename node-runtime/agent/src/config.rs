//! What a node is told at its start.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pullpiri_crds::model::Adapter;
use pullpiri_crds::names::rfc1123;
use pullpiri_node_adapters::Runtime;
use pullpiri_node_core::restart::Backoff;

use crate::AgentError;
use crate::network::NetworkConfig;

#[derive(Clone, Debug)]
pub struct Config {
    /// In the operator's spelling; the NodeRuntime's name is its RFC 1123 form.
    pub name: String,
    /// Absolute. Ledger and volumes are kept here.
    pub data_dir: PathBuf,
    /// For models that name no runtime. `None`: the first adapter that works, in the order in which they were given.
    pub default_adapter: Option<Adapter>,
    /// Stop every workload on shutdown.
    pub stop_workloads: bool,
    /// Labels of the NodeRuntime beside those that every node has.
    pub labels: BTreeMap<String, String>,
    pub backoff: Backoff,
    pub heartbeat: Heartbeat,
    /// Where this process serves its metrics, if it does: `host:port`. Told to others as it is.
    pub metrics_address: Option<String>,
    pub network: NetworkConfig,
}

/// How often a node renews its Lease, and for how long that holds. Four renewals may fail before a node is given up.
#[derive(Clone, Copy, Debug)]
pub struct Heartbeat {
    pub renew: Duration,
    pub hold: Duration,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self { renew: Duration::from_secs(10), hold: Duration::from_secs(40) }
    }
}

impl Config {
    #[must_use]
    pub fn new(name: impl Into<String>, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            data_dir: data_dir.into(),
            default_adapter: None,
            stop_workloads: false,
            labels: BTreeMap::new(),
            backoff: Backoff::default(),
            heartbeat: Heartbeat::default(),
            metrics_address: None,
            network: NetworkConfig::default(),
        }
    }

    pub(crate) fn check(&self, runtimes: &[Arc<dyn Runtime>]) -> Result<(), AgentError> {
        self.node_name()?;
        if !self.data_dir.is_absolute() {
            return Err(AgentError::DataDirectory { path: self.data_dir.display().to_string() });
        }
        if runtimes.is_empty() {
            return Err(AgentError::NoRuntime);
        }
        if let Some(wanted) = self.default_adapter
            && !runtimes.iter().any(|runtime| runtime.adapter() == wanted)
        {
            let given: Vec<&str> = runtimes.iter().map(|runtime| runtime.adapter().as_str()).collect();
            return Err(AgentError::DefaultRuntime { wanted: wanted.as_str(), given: given.join(", ") });
        }
        Ok(())
    }

    /// The NodeRuntime's name.
    pub(crate) fn node_name(&self) -> Result<String, AgentError> {
        node_name(&self.name)
    }
}

/// The name that a node of this spelling is registered by: in lower case, `_` as `-`.
///
/// # Errors
/// [`AgentError::Name`] for other characters than ASCII letters, digits, `-`, `_` and `.`, or without a letter or digit: a name that had to be
/// guessed could be another node's.
pub fn node_name(given: &str) -> Result<String, AgentError> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name = rfc1123(given).filter(|_| given.chars().all(is_allowed));
    name.ok_or_else(|| AgentError::Name { given: given.to_owned() })
}
