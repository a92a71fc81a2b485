//! Addresses: which bridged Network a model joins, and what address its instance gets there.
//!
//! A model joins at most one: the Network that its package gives it if that one is bridged, else the first by name that attaches models with
//! its labels. With the node's network it joins none. An instance keeps its addresses as long as it lives; a new one gets the lowest that are free.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use pullpiri_crds::Network;
use pullpiri_crds::condition::{kind, reason};
use pullpiri_crds::instance::{InstanceNetwork, ModelInstance};
use pullpiri_crds::model::Model;
use pullpiri_crds::network::{NetworkMode, NetworkSpec};
use pullpiri_crds::package::PackageModel;
use pullpiri_net::ipam::{Pool, attaches, mode};

use super::snapshot::Snapshot;
use crate::conditions::{self, Verdict};

/// Why a Network can't be used, as its own status says.
const UNUSABLE: [&str; 3] = [reason::SUBNET_OVERLAPS, reason::GUARANTEE_EXCEEDS_LINK, reason::NETWORK_INVALID];

/// Reason and message.
pub(super) type Objection = (&'static str, String);

/// Addresses in use, while instances of one package are given theirs one after the other.
#[derive(Debug)]
pub(super) struct Addresses<'a> {
    snapshot: &'a Snapshot,
    used: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Networks that had none left.
    pub exhausted: BTreeSet<String>,
}

impl<'a> Addresses<'a> {
    pub fn new(snapshot: &'a Snapshot) -> Self {
        let namespace = snapshot.package.metadata.namespace.as_deref();
        let mut used: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
        let neighbours = snapshot.neighbours.iter().filter(|i| i.metadata.namespace.as_deref() == namespace);
        for network in neighbours.chain(&snapshot.instances).filter_map(|i| i.spec.network.as_ref()) {
            used.entry(network.name.clone()).or_default().extend(parsed(network));
        }
        Self { snapshot, used, exhausted: BTreeSet::new() }
    }

    /// What an instance of a model joins. What `current` has stays, as long as it is an address of the Network that the model belongs to.
    pub fn join(
        &mut self,
        entry: &PackageModel,
        model: Option<&Model>,
        current: Option<&ModelInstance>,
    ) -> Result<Option<InstanceNetwork>, Objection> {
        let Some((name, network)) = membership(self.snapshot, entry, model) else {
            return Ok(None);
        };
        let objection =
            |reason, said: &dyn std::fmt::Display| (reason, format!("model {}: network {name}: {said}", entry.name));
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
        if let Some((reason, said)) = unusable(network) {
            return Err(objection(reason, &said));
        }
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
