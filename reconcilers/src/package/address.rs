//! Addresses: which bridged Network a model joins, and what address its instance gets there.
//!
//! A model joins at most one: the Network that its package gives it if that one is bridged, else the first by name that attaches models with
//! its labels. With the node's network it joins none. An instance keeps its addresses as long as it lives; a new one gets the lowest that are free.
//!
//! The first of a Network on a node brings the guarantees of the Network's classes to the node's link. They must fit beside those that are there, or it
//! isn't placed; what is there already stays, whatever becomes of the link (`pullpiri_net::review`).
//!
//! Nothing new joins a Network that its own status calls unusable, or that names a Model or Network that doesn't exist: some rule or class of it
//! has no effect, and whose it was meant to be can't be known (`pullpiri_net::unknown`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use pullpiri_crds::Network;
use pullpiri_crds::condition::{kind, reason};
use pullpiri_crds::instance::{InstanceNetwork, ModelInstance};
use pullpiri_crds::model::{Adapter, Model};
use pullpiri_crds::names::same_node;
use pullpiri_crds::network::{NetworkMode, NetworkSpec};
use pullpiri_crds::package::PackageModel;
use pullpiri_net::declared;
use pullpiri_net::ipam::{Pool, attaches, mode};
use pullpiri_net::unknown::unknown;

use super::snapshot::Snapshot;
use crate::conditions::{self, Verdict};
use crate::placement::Link;

/// Why a Network can't be used, as its own status says.
const UNUSABLE: [&str; 3] = [reason::SUBNET_OVERLAPS, reason::GUARANTEE_EXCEEDS_LINK, reason::NETWORK_INVALID];

/// Reason and message.
pub(super) type Objection = (&'static str, String);

/// Addresses in use, while instances of one package are given theirs one after the other.
#[derive(Debug)]
pub(super) struct Addresses<'a> {
    snapshot: &'a Snapshot,
    used: BTreeMap<String, BTreeSet<IpAddr>>,
    /// By node.
    links: BTreeMap<&'a str, Link>,
    /// Networks that had none left.
    pub exhausted: BTreeSet<String>,
    /// A node's link is taken from.
    pub takes_link: bool,
    /// A node's link had too little left.
    pub is_crowded: bool,
}

impl<'a> Addresses<'a> {
    pub fn new(snapshot: &'a Snapshot) -> Self {
        let namespace = snapshot.package.metadata.namespace.as_deref();
        let mut used: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
        let neighbours = snapshot.neighbours.iter().filter(|i| i.metadata.namespace.as_deref() == namespace);
        let mut links: BTreeMap<&str, Link> =
            snapshot.nodes.iter().filter_map(|node| Some((node.name.as_str(), node.link.clone()?))).collect();
        for instance in neighbours.chain(&snapshot.instances) {
            let Some(network) = &instance.spec.network else { continue };
            used.entry(network.name.clone()).or_default().extend(parsed(network));
            // The status of its Network may not tell of it yet.
            let there = links.iter_mut().find(|(node, _)| same_node(node, &instance.spec.node_name));
            if let (Some((_, link)), Some(known)) = (there, snapshot.networks.get(&network.name)) {
                link.promised.entry(declared::name_of(known)).or_insert_with(|| guaranteed(known));
            }
        }
        Self { snapshot, used, links, exhausted: BTreeSet::new(), takes_link: false, is_crowded: false }
    }

    /// Takes what a Network's classes are guaranteed from a node's link, if it isn't there yet.
    fn share(&mut self, network: &Network, node: &str) -> Result<(), String> {
        let own = guaranteed(network);
        let mut links = self.links.iter_mut().filter(|_| own > 0);
        let Some((_, link)) = links.find(|(other, _)| same_node(other, node)) else { return Ok(()) };
        let name = declared::name_of(network);
        if link.promised.contains_key(&name) {
            return Ok(());
        }
        let others = link.promised.values().fold(0_u64, |sum, bps| sum.saturating_add(*bps));
        let rate = link.rate_bps;
        if own.saturating_add(others) > rate {
            self.is_crowded = true;
            return Err(format!(
                "its guarantees of {own} bit/s and {others} bit/s of other Networks exceed the link of node {node}, which has {rate} bit/s"
            ));
        }
        link.promised.insert(name, own);
        self.takes_link = true;
        Ok(())
    }

    /// What an instance of a model on a node joins. What `current` has stays, as long as it is an address of the Network that the model belongs to.
    pub fn join(
        &mut self,
        entry: &PackageModel,
        model: Option<&Model>,
        node: &str,
        current: Option<&ModelInstance>,
    ) -> Result<Option<InstanceNetwork>, Objection> {
        let objection = |reason, name: &str, said: &dyn std::fmt::Display| {
            (reason, format!("model {}: network {name}: {said}", entry.name))
        };
        let exceeds = |name: &str, said: String| objection(reason::GUARANTEE_EXCEEDS_LINK, name, &said);
        let Some((name, network)) = membership(self.snapshot, entry, model) else {
            let Some((name, network)) = host_membership(self.snapshot, entry, model).filter(|_| current.is_none())
            else {
                return Ok(None);
            };
            if let Some((reason, said)) = closed(self.snapshot, network) {
                return Err(objection(reason, name, &said));
            }
            return self.share(network, node).map(|()| None).map_err(|said| exceeds(name, said));
        };
        let objection = |reason, said: &dyn std::fmt::Display| objection(reason, name, said);
        let subnet = network.spec.subnet.clone().unwrap_or_default();
        let pool = Pool::new(&subnet).map_err(|error| objection(reason::NETWORK_INVALID, &error))?;
        let gateways: Vec<String> = pool.gateways().iter().map(ToString::to_string).collect();
        if let Some(had) = current.and_then(|i| i.spec.network.as_ref())
            && had.name == name
            && had.gateways == gateways
            && parsed(had).filter(|address| pool.assignable(*address)).count() == pool.prefixes().len()
        {
            return Ok(Some(had.clone()));
        }
        if let Some((reason, said)) = closed(self.snapshot, network) {
            return Err(objection(reason, &said));
        }
        self.share(network, node).map_err(|said| exceeds(name, said))?;
        let used = self.used.entry(name.to_owned()).or_default();
        match pool.allocate(used) {
            Ok(addresses) => {
                used.extend(&addresses);
                let addresses = addresses.iter().map(ToString::to_string).collect();
                Ok(Some(InstanceNetwork { name: name.to_owned(), addresses, gateways }))
            }
            Err(exhausted) => {
                self.exhausted.insert(name.to_owned());
                Err(objection(reason::POOL_EXHAUSTED, &exhausted))
            }
        }
    }
}

fn parsed(network: &InstanceNetwork) -> impl Iterator<Item = IpAddr> {
    network.addresses.iter().filter_map(|address| address.parse().ok())
}

/// The bridged Network that a model belongs to.
fn membership<'a>(
    snapshot: &'a Snapshot,
    entry: &PackageModel,
    model: Option<&Model>,
) -> Option<(&'a str, &'a Network)> {
    let model = model?;
    if model.spec.host_network == Some(true) {
        return None;
    }
    let bridged = |spec: &NetworkSpec| mode(spec) == NetworkMode::Bridge;
    let given = entry.resources.as_ref().and_then(|resources| resources.network.as_ref());
    if let Some((name, network)) = given.and_then(|name| snapshot.networks.get_key_value(name))
        && bridged(&network.spec)
    {
        return Some((name, network));
    }
    let labels = model.metadata.labels.clone().unwrap_or_default();
    snapshot
        .networks
        .iter()
        .find(|(_, network)| bridged(&network.spec) && attaches(&network.spec, &labels))
        .map(|(name, network)| (name.as_str(), &**network))
}

/// The Network of mode Host whose classes take what a model sends that has the node's network or its cluster's.
fn host_membership<'a>(
    snapshot: &'a Snapshot,
    entry: &PackageModel,
    model: Option<&Model>,
) -> Option<(&'a str, &'a Network)> {
    let model = model?;
    if model.spec.host_network != Some(true) && model.spec.runtime != Some(Adapter::Kubernetes) {
        return None;
    }
    let labels = model.metadata.labels.clone().unwrap_or_default();
    let given = entry.resources.as_ref().and_then(|resources| resources.network.as_ref());
    let is_its = |name: &String, network: &Network| {
        mode(&network.spec) == NetworkMode::Host
            && given.map_or_else(|| attaches(&network.spec, &labels), |given| given == name)
    };
    let found = snapshot.networks.iter().find(|(name, network)| is_its(name, network));
    found.map(|(name, network)| (name.as_str(), &**network))
}

/// Why a model can't join the Network that it belongs to, wherever it is.
pub(super) fn objection(snapshot: &Snapshot, entry: &PackageModel, model: Option<&Model>) -> Option<Objection> {
    let (name, network) = membership(snapshot, entry, model).or_else(|| host_membership(snapshot, entry, model))?;
    let (reason, said) = closed(snapshot, network)?;
    Some((reason, format!("model {}: network {name}: {said}", entry.name)))
}

/// Why nothing new may join a Network.
fn closed(snapshot: &Snapshot, network: &Network) -> Option<Objection> {
    unusable(network).or_else(|| {
        let said = unresolved(snapshot, network);
        (!said.is_empty()).then(|| (reason::SELECTOR_UNKNOWN, said.join("; ")))
    })
}

/// What a Network names and what isn't there.
fn unresolved(snapshot: &Snapshot, network: &Network) -> Vec<String> {
    // What it is else is for its status to say.
    let Ok(declared) = declared::read(network) else { return Vec::new() };
    let present = || snapshot.instances.iter().chain(&snapshot.neighbours);
    let namespace = &network.metadata.namespace;
    let has_model = |name: &str| {
        let is_of =
            |instance: &Arc<ModelInstance>| instance.spec.model == name && instance.metadata.namespace == *namespace;
        snapshot.named.contains(name) || snapshot.models.contains_key(name) || present().any(is_of)
    };
    let valid_mode = |name: &str| {
        let other = snapshot.networks.get(name)?;
        let is_valid = unusable(other).is_none_or(|(reason, _)| reason == reason::GUARANTEE_EXCEEDS_LINK);
        is_valid.then(|| mode(&other.spec))
    };
    unknown(&declared, &has_model, &valid_mode).into_iter().map(|unknown| unknown.message).collect()
}

/// What the classes of a Network are guaranteed together, in bits per second; nothing if its status says that they aren't applied.
#[must_use]
pub fn guaranteed(network: &Network) -> u64 {
    if network.spec.qos.is_none() || unusable(network).is_some() {
        return 0;
    }
    let classes = declared::read(network).map(|declared| declared.classes).unwrap_or_default();
    classes.iter().fold(0, |sum, class| sum.saturating_add(class.guarantee_bps))
}

/// What is promised of the link of each node that a Network is on, as its status says.
#[must_use]
pub fn promised(network: &Network) -> (u64, BTreeSet<String>) {
    let bps = guaranteed(network);
    let nodes = network.status.iter().flat_map(|status| &status.nodes).filter(|_| bps > 0);
    (bps, nodes.map(|node| node.name.clone()).collect())
}

/// Why nothing new may join a Network: its status says so, of the spec that it has now.
#[must_use]
pub fn unusable(network: &Network) -> Option<(&'static str, String)> {
    let status = network.status.as_ref()?;
    let ready = conditions::find(&status.conditions, kind::READY)?;
    let seen = ready.observed_generation.or(status.observed_generation);
    if ready.status != Verdict::False.as_str() || seen != network.metadata.generation {
        return None;
    }
    let reason = UNUSABLE.into_iter().find(|reason| *reason == ready.reason)?;
    Some((reason, ready.message.clone()))
}
