//! Placement: which nodes run a model.
//!
//! * By name: that node, compared in lower-case RFC 1123 form.
//! * By selector: every node whose labels match.
//! * Neither: one node, the one with the fewest instances, the first by name among equals.
//!
//! Placement is sticky: where an instance is bound, it stays as long as the node exists and is asked for. A node that isn't ready or not
//! schedulable gets no *new* instance. Moving a model away from a node that died is a policy's business, not a side effect of a missed
//! heartbeat: after a power cut every node is silent for a while.

use std::collections::{BTreeMap, BTreeSet};

use pullpiri_crds::condition::reason;
use pullpiri_crds::names::same_node;
use pullpiri_crds::node::NodeRealtime;
use pullpiri_crds::package::PackageModel;
pub use pullpiri_net::ObjectName;

/// Whether a node's runtime answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    /// It answers and says that it isn't ready, or it wasn't heard of since we started: it gets nothing new, and what it last said holds.
    NotReady,
    /// It fell silent: what it last said may be wrong by now.
    Silent,
}

/// Whether a node takes new instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedulability {
    Open,
    Closed,
}

/// A node's link, which Networks share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Bits per second.
    pub rate_bps: u64,
    /// The guarantees of each Network that is on the node.
    pub promised: BTreeMap<ObjectName, u64>,
}

/// A node as placement sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// The NodeRuntime's name.
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub readiness: Readiness,
    pub schedulability: Schedulability,
    /// Instances bound to it, of all packages.
    pub load: usize,
    /// What its kernel admits of real-time work; `None`: nothing.
    pub realtime: Option<NodeRealtime>,
    /// `None`: nobody knows what it carries.
    pub link: Option<Link>,
}

impl NodeView {
    const fn usable(&self) -> bool {
        matches!((self.readiness, self.schedulability), (Readiness::Ready, Schedulability::Open))
    }
}

/// Why a model has no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("model {model}: node {node} doesn't exist")]
    NoSuchNode { model: String, node: String },
    #[error("model {model}: node {node} isn't ready")]
    NotReady { model: String, node: String },
    #[error("model {model}: node {node} takes no new models (spec.unschedulable)")]
    Unschedulable { model: String, node: String },
    #[error("model {model}: no node has the labels {selector}")]
    NoneMatches { model: String, selector: String },
    #[error("model {model}: none of {nodes} nodes is ready and schedulable")]
    NoneFree { model: String, nodes: usize },
    #[error("model {model}: there is no node")]
    NoNodes { model: String },
}

impl Refusal {
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoSuchNode { .. } => reason::NODE_NOT_FOUND,
            Self::NotReady { .. } | Self::NoneFree { .. } => reason::NODE_NOT_READY,
            Self::Unschedulable { .. } => reason::NODE_UNSCHEDULABLE,
            Self::NoneMatches { .. } | Self::NoNodes { .. } => reason::NO_NODE_MATCHES,
        }
    }

    /// The node that is in the way, if it is a single one that exists.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        match self {
            Self::NotReady { node, .. } | Self::Unschedulable { node, .. } => Some(node),
            Self::NoSuchNode { .. } | Self::NoneMatches { .. } | Self::NoneFree { .. } | Self::NoNodes { .. } => None,
        }
    }
}

/// Where a model goes: one entry per node it should run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// An instance is there already and stays.
    Bound(String),
    /// A new instance may be bound here.
    Free(String),
    Refused(Refusal),
}

impl Place {
    /// The node that is meant, whether it can be had now or not.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        match self {
            Self::Bound(node) | Self::Free(node) => Some(node),
            Self::Refused(refusal) => refusal.node(),
        }
    }
}

/// How many instances each node has, while models of one package are placed one after the other.
pub type Loads = BTreeMap<String, usize>;

/// The loads at the start.
#[must_use]
pub fn loads(nodes: &[NodeView]) -> Loads {
    nodes.iter().map(|node| (node.name.clone(), node.load)).collect()
}

/// Where `entry` goes, given the nodes where its instances are bound. Counts what it places in `loads`. Never empty.
#[must_use]
pub fn place(entry: &PackageModel, nodes: &[NodeView], bound: &BTreeSet<String>, loads: &mut Loads) -> Vec<Place> {
    let model = &entry.name;
    let places = if let Some(wanted) = &entry.node {
        match nodes.iter().find(|node| same_node(&node.name, wanted)) {
            Some(node) => vec![at(model, node, bound)],
            None => vec![Place::Refused(Refusal::NoSuchNode { model: model.clone(), node: wanted.clone() })],
        }
    } else if let Some(selector) = &entry.node_selector {
        let mut matching: Vec<&NodeView> = nodes
            .iter()
            .filter(|node| selector.iter().all(|(key, value)| node.labels.get(key) == Some(value)))
            .collect();
        matching.sort_by(|a, b| a.name.cmp(&b.name));
        if matching.is_empty() {
            let selector = selector.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",");
            vec![Place::Refused(Refusal::NoneMatches { model: model.clone(), selector })]
        } else {
            matching.into_iter().map(|node| at(model, node, bound)).collect()
        }
    } else {
        vec![anywhere(model, nodes, bound, loads)]
    };
    for place in &places {
        if let Place::Free(node) = place {
            *loads.entry(node.clone()).or_default() += 1;
        }
    }
    places
}

fn at(model: &str, node: &NodeView, bound: &BTreeSet<String>) -> Place {
    let (model, name) = (model.to_owned(), node.name.clone());
    if bound.contains(&node.name) {
        Place::Bound(name)
    } else if node.schedulability == Schedulability::Closed {
        Place::Refused(Refusal::Unschedulable { model, node: name })
    } else if node.readiness != Readiness::Ready {
        Place::Refused(Refusal::NotReady { model, node: name })
    } else {
        Place::Free(name)
    }
}

fn anywhere(model: &str, nodes: &[NodeView], bound: &BTreeSet<String>, loads: &Loads) -> Place {
    // Of several (it was placed by a selector before) one that answers stays.
    let stays = nodes
        .iter()
        .filter(|node| bound.contains(&node.name))
        .min_by_key(|node| (node.readiness != Readiness::Ready, node.name.clone()));
    if let Some(node) = stays {
        return Place::Bound(node.name.clone());
    }
    match candidates(nodes, loads).into_iter().next() {
        Some(node) => Place::Free(node),
        None if nodes.is_empty() => Place::Refused(Refusal::NoNodes { model: model.to_owned() }),
        None => Place::Refused(Refusal::NoneFree { model: model.to_owned(), nodes: nodes.len() }),
    }
}

/// The nodes that a model without a node of its own may be bound to, in the order in which they are tried.
#[must_use]
pub fn candidates(nodes: &[NodeView], loads: &Loads) -> Vec<String> {
    let mut usable: Vec<&NodeView> = nodes.iter().filter(|node| node.usable()).collect();
    usable.sort_by_key(|node| (loads.get(&node.name).copied().unwrap_or(node.load), node.name.clone()));
    usable.into_iter().map(|node| node.name.clone()).collect()
}
