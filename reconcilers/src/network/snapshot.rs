//! What the Network reconciler looks at.

use std::collections::BTreeSet;
use std::sync::Arc;

use pullpiri_crds::{ModelInstance, Network, NetworkSlice, NodeRuntime, Package};
use pullpiri_net::{Inputs, ObjectName};

/// Everything, in any order.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub networks: Vec<Arc<Network>>,
    pub instances: Vec<Arc<ModelInstance>>,
    pub nodes: Vec<Arc<NodeRuntime>>,
    pub packages: Vec<Arc<Package>>,
    /// The Models that exist.
    pub models: BTreeSet<ObjectName>,
    /// Every NetworkSlice, whoever wrote it.
    pub slices: Vec<Arc<NetworkSlice>>,
}

impl Snapshot {
    /// What is compiled: a Network on its way out is gone.
    pub(super) fn inputs(&self) -> Inputs<'_> {
        Inputs {
            networks: self.networks.iter().map(|n| &**n).filter(|n| n.metadata.deletion_timestamp.is_none()).collect(),
            instances: self.instances.iter().map(|i| &**i).collect(),
            nodes: self.nodes.iter().map(|n| &**n).collect(),
            packages: self.packages.iter().map(|p| &**p).collect(),
            models: self.models.clone(),
        }
    }
}
