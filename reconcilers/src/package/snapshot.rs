//! What the Package reconciler looks at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pullpiri_crds::{Claim, Model, ModelInstance, Network, Package, Policy, Schedule, Volume};

use crate::placement::NodeView;

/// One package and what surrounds it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub package: Arc<Package>,
    /// Every Claim on it.
    pub claims: Vec<Arc<Claim>>,
    /// What it names and what exists, by name.
    pub models: BTreeMap<String, Arc<Model>>,
    pub volumes: BTreeMap<String, Arc<Volume>>,
    pub schedule: Option<Arc<Schedule>>,
    pub policy: Option<Arc<Policy>>,
    /// The other packages of the namespace that name the same Schedule.
    pub sharers: Vec<String>,
    /// Every Network of the namespace, by name.
    pub networks: BTreeMap<String, Arc<Network>>,
    /// Those Models of the namespace that exist and that its Networks name.
    pub named: BTreeSet<String>,
    /// Every node.
    pub nodes: Vec<NodeView>,
    /// Every instance whose `spec.package` is its name, whoever owns it.
    pub instances: Vec<Arc<ModelInstance>>,
    /// Instances of other packages that have real-time tasks, or an address of a Network of the namespace.
    pub neighbours: Vec<Arc<ModelInstance>>,
    /// What the API server said of instances that it refused when they were last applied, by name.
    pub refused: BTreeMap<String, String>,
    /// The epoch of the leader who decides.
    pub epoch: i64,
}
