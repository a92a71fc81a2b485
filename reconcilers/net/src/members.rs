//! Which instance is in which network.
//!
//! A bridged network is joined by what its ModelInstance says: it was given the addresses. The node's network (mode Host) has no addresses to
//! give; an instance that uses it, or that is a Pod on its cluster's network, belongs to the network that its Package names for its Model, else to the
//! first that attaches its labels.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use pullpiri_crds::model::{Adapter, Protocol};
use pullpiri_crds::names::{rfc1123, same_node};
use pullpiri_crds::network::NetworkMode;
use pullpiri_crds::{ModelInstance, Network, NodeRuntime, Package};

use crate::compile::Inputs;
use crate::declared::{Declared, TCP, UDP, name_of};
use crate::{ObjectName, ipam};

/// An instance that is in a network.
#[derive(Clone, Debug)]
pub(crate) struct Member<'a> {
    pub instance: ObjectName,
    pub uid: &'a str,
    pub model: &'a str,
    pub labels: &'a BTreeMap<String, String>,
    pub network: ObjectName,
    /// None under Host.
    pub addresses: Vec<IpAddr>,
    /// In lower-case RFC 1123 form.
    pub node: String,
    /// What its containers publish: `hostPort`, protocol number and `containerPort`.
    pub ports: Vec<(u16, u8, u16)>,
    /// The runtime that runs it, if that is one of whose workloads the datapath knows nothing.
    pub elsewhere: Option<Adapter>,
}

/// Why an instance's address isn't taken into account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stray {
    pub network: ObjectName,
    pub message: String,
}

/// Every instance that names a network, or belongs to one by its package or labels, whether or not that network is valid. Ordered by name.
pub(crate) fn members<'a>(inputs: &Inputs<'a>) -> Vec<Member<'a>> {
    let hosts = HostNetworks::new(inputs);
    let mut members: Vec<Member<'a>> = inputs
        .instances
        .iter()
        .filter_map(|instance| {
            let namespace = instance.metadata.namespace.as_deref().unwrap_or_default();
            let (network, addresses) = match &instance.spec.network {
                Some(joined) => (
                    ObjectName::new(namespace, &joined.name),
                    joined.addresses.iter().filter_map(|address| address.parse().ok()).collect(),
                ),
                None => (hosts.of(namespace, instance)?, Vec::new()),
            };
            Some(Member {
                instance: instance_name(instance),
                uid: instance.metadata.uid.as_deref().unwrap_or_default(),
                model: &instance.spec.model,
                labels: &instance.spec.template.labels,
                network,
                addresses,
                node: node_name(&instance.spec.node_name),
                ports: container_ports(instance),
                elsewhere: instance
                    .status
                    .as_ref()
                    .and_then(|status| status.runtime)
                    .filter(|runtime| !matches!(runtime, Adapter::Oci | Adapter::Kubernetes)),
            })
        })
        .collect();
    members.sort_by(|a, b| (&a.instance, a.uid).cmp(&(&b.instance, b.uid)));
    members
}

/// The nodes that each Network has instances on, in lower-case RFC 1123 form. `packages`: at least those of the instances.
#[must_use]
pub fn nodes_of<'a>(
    networks: impl Iterator<Item = &'a Network>,
    instances: impl Iterator<Item = &'a ModelInstance>,
    packages: impl Iterator<Item = &'a Package>,
) -> BTreeMap<ObjectName, BTreeSet<String>> {
    let inputs = Inputs {
        networks: networks.collect(),
        instances: instances.collect(),
        packages: packages.collect(),
        ..Inputs::default()
    };
    let mut nodes: BTreeMap<ObjectName, BTreeSet<String>> = BTreeMap::new();
    for member in members(&inputs) {
        nodes.entry(member.network).or_default().insert(member.node);
    }
    nodes
}

/// Whether an instance has its node's network, or its cluster's, so that it may be in a Network of mode Host.
#[must_use]
pub fn has_nodes_network(instance: &ModelInstance) -> bool {
    instance.spec.template.spec.host_network == Some(true) || is_pod(instance)
}

fn container_ports(instance: &ModelInstance) -> Vec<(u16, u8, u16)> {
    let ports = instance.spec.template.spec.containers.iter().flat_map(|container| &container.ports);
    let published = ports.filter_map(|port| {
        let protocol = if port.protocol == Some(Protocol::Udp) { UDP } else { TCP };
        Some((u16::try_from(port.host_port?).ok()?, protocol, u16::try_from(port.container_port).ok()?))
    });
    published.collect()
}

/// Leaves those out that no packet can be told to be theirs: without an address in the subnet, or with one that an older instance has.
pub(crate) fn addressed<'a>(
    members: Vec<Member<'a>>,
    valid: &BTreeMap<ObjectName, Declared>,
    inputs: &Inputs<'_>,
) -> (Vec<Member<'a>>, Vec<Stray>) {
    let born: BTreeMap<ObjectName, _> =
        inputs.instances.iter().map(|i| (instance_name(i), &i.metadata.creation_timestamp)).collect();
    let mut by_age: Vec<&Member<'a>> = members.iter().collect();
    by_age.sort_by_key(|m| (born.get(&m.instance), &m.instance));
    let mut taken: BTreeMap<IpAddr, &ObjectName> = BTreeMap::new();
    let mut left_out: BTreeSet<ObjectName> = BTreeSet::new();
    let mut strays = Vec::new();
    for member in by_age {
        let Some(network) = valid.get(&member.network) else {
            left_out.insert(member.instance.clone());
            continue;
        };
        let Some(pool) = &network.pool else { continue };
        let name = &member.instance.name;
        let foreign = member.addresses.iter().find(|a| !pool.assignable(**a)).map(|address| {
            format!("instance {name} has {address}, which the subnet doesn't give to models; it is attached to nothing")
        });
        let problem = foreign
            .or_else(|| member.addresses.is_empty().then(|| format!("instance {name} has no address")))
            .or_else(|| {
                let (address, owner) = member.addresses.iter().find_map(|a| taken.get(a).map(|owner| (a, owner)))?;
                Some(format!("instance {name} has {address}, which {} has too; it is attached to nothing", owner.name))
            });
        match problem {
            Some(message) => {
                left_out.insert(member.instance.clone());
                strays.push(Stray { network: member.network.clone(), message });
            }
            None => taken.extend(member.addresses.iter().map(|address| (*address, &member.instance))),
        }
    }
    strays.sort_by(|a, b| (&a.network, &a.message).cmp(&(&b.network, &b.message)));
    (members.into_iter().filter(|m| !left_out.contains(&m.instance)).collect(), strays)
}

/// The networks of mode Host, in the order of their names.
struct HostNetworks<'a> {
    networks: Vec<&'a Network>,
    /// By package and model.
    named: BTreeMap<(ObjectName, &'a str), &'a str>,
}

impl<'a> HostNetworks<'a> {
    fn new(inputs: &Inputs<'a>) -> Self {
        let mut networks: Vec<&Network> =
            inputs.networks.iter().copied().filter(|n| ipam::mode(&n.spec) == NetworkMode::Host).collect();
        networks.sort_by_key(|network| name_of(network));
        let mut named = BTreeMap::new();
        for package in &inputs.packages {
            let meta = &package.metadata;
            let name =
                ObjectName::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
            for entry in &package.spec.models {
                if let Some(network) = entry.resources.as_ref().and_then(|r| r.network.as_deref()) {
                    named.entry((name.clone(), entry.name.as_str())).or_insert(network);
                }
            }
        }
        Self { networks, named }
    }

    fn of(&self, namespace: &str, instance: &ModelInstance) -> Option<ObjectName> {
        let spec = &instance.spec;
        if !has_nodes_network(instance) {
            return None;
        }
        let mut here =
            self.networks.iter().filter(|n| n.metadata.namespace.as_deref().unwrap_or_default() == namespace);
        let package = ObjectName::new(namespace, &spec.package);
        let network = match self.named.get(&(package, spec.model.as_str())) {
            Some(named) => here.find(|n| n.metadata.name.as_deref() == Some(*named)),
            None => here.find(|n| ipam::attaches(&n.spec, &spec.template.labels)),
        };
        network.map(|network| name_of(network))
    }
}

/// Whether the cluster gives it its network. Its Model says so, or the node whose default runtime it has.
fn is_pod(instance: &ModelInstance) -> bool {
    let told = instance.status.as_ref().and_then(|status| status.runtime);
    instance.spec.template.spec.runtime.or(told) == Some(Adapter::Kubernetes)
}

/// The namespace and name of an instance.
pub(crate) fn instance_name(instance: &ModelInstance) -> ObjectName {
    let meta = &instance.metadata;
    ObjectName::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// A node's name as it is compared.
pub(crate) fn node_name(given: &str) -> String {
    rfc1123(given).unwrap_or_else(|| given.to_owned())
}

/// The NodeRuntime of a node.
pub(crate) fn runtime<'a>(inputs: &Inputs<'a>, node: &str) -> Option<&'a NodeRuntime> {
    inputs.nodes.iter().copied().find(|n| n.metadata.name.as_deref().is_some_and(|name| same_node(name, node)))
}
