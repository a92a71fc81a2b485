//! What a node's interfaces, routes, queues and translations should be, and the steps from what is there to that. Pure.
//!
//! A pod of a bridged Network has a network namespace with a name, a veth pair into it and addresses with full prefixes (/32, /128), so
//! that everything it sends goes to its gateway: a bridge per network, which has the gateway's addresses. The node routes: to its own
//! pods over their bridges, to other nodes' pods over the uplink to the node's address (host-gateway routing). BPF programs on the node's
//! end of each veth decide what passes; they are there before the pod's end is configured and pass nothing while no rules are loaded.
//!
//! The uplink is shared by HTB: a class per class of a Network, one for the rest. See [`shape`] for rates, bursts and their reasons.
//!
//! Everything that is made is found again by what it is called or carries, without a record: interfaces by their alias, routes by
//! protocol and metric, the table of nftables by its name. So a node runtime that was killed anywhere goes on where things are.
//! What was there before and had to be changed (settings of the uplink) is recorded, and put back.

pub mod names;
pub mod plan;
pub mod shape;
mod show;
pub mod steps;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use pullpiri_crds::instance::InstanceNetwork;
use pullpiri_crds::slice::{NetworkSliceSpec, newest};
use serde::{Deserialize, Serialize};

use crate::resolve::fnv;
use crate::runtime::{ContainerSpec, PodId};

pub use plan::{Desired, Forwards, Input, V6Forwarding, desired};
pub use shape::{Gso, HtbClass, LinkRate, Tree};
pub use steps::{Observed, Step, steps};

/// How every bridge's name begins. Pods' interfaces begin with `pplp`.
pub const BRIDGE_PREFIX: &str = "pplb";
/// The protocol number of our routes (`ip route`: `proto 176`). Iproute2 names none above 192 but 186 to 192, and none here.
pub const ROUTE_PROTOCOL: u8 = 176;
/// The interface in a pod.
pub const POD_LINK: &str = "eth0";

/// A pod's place in a bridged Network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// `<namespace>/<name>`.
    pub network: String,
    pub addresses: Vec<IpAddr>,
    /// For each address, in the same order.
    pub gateways: Vec<IpAddr>,
    /// Ports of the node that lead to the pod.
    #[serde(default)]
    pub ports: Vec<HostPort>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostPort {
    /// 6 or 17.
    pub protocol: u8,
    pub host_port: u16,
    pub port: u16,
}

/// Translations that the node shall do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nat {
    pub forwards: Vec<Forward>,
    /// Networks whose packets get the node's address when they leave for elsewhere, as address and prefix length.
    pub masquerade: Vec<(IpAddr, u8)>,
    /// Where packets keep their address: every pod that is known, here or on other nodes.
    pub pods: Vec<IpAddr>,
    /// How the names of the bridges begin.
    pub bridges: String,
    /// What is forwarded though nobody but us has the node forward.
    pub closed: BTreeSet<Closed>,
}

impl Nat {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.translates() && self.closed.is_empty()
    }

    /// Whether addresses are translated.
    #[must_use]
    pub fn translates(&self) -> bool {
        !self.forwards.is_empty() || !self.masquerade.is_empty()
    }
}

/// That the node forwards to and from its bridges doesn't make it a router for others: what is dropped of a family.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Closed {
    pub v6: bool,
    /// What comes by this interface and leaves by none of our bridges. `None`: what neither comes nor leaves by one of them.
    pub from: Option<String>,
}

/// A port of the node that leads to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Forward {
    /// 6 or 17.
    pub protocol: u8,
    pub host_port: u16,
    pub address: IpAddr,
    pub port: u16,
}

/// What deciding on pods has to know of the node's network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeState {
    /// Where pods' namespaces are, if this node can attach pods; else why it can't.
    pub namespaces: Option<PathBuf>,
    /// Why pods can't be attached.
    pub missing: Option<String>,
    /// Pods that are attached, or were half.
    pub attached: BTreeSet<PodId>,
}

impl NodeState {
    /// Where a pod's network namespace is.
    #[must_use]
    pub fn namespace(&self, pod: &PodId) -> Option<PathBuf> {
        self.namespaces.as_ref().map(|directory| namespace_path(directory, pod))
    }
}

/// Where a pod's network namespace is.
#[must_use]
pub fn namespace_path(directory: &Path, pod: &PodId) -> PathBuf {
    directory.join(&pod.0)
}

/// Why an instance's network can't be joined: the field, from `spec.network`, and what is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("spec.network.{field}: {message}")]
pub struct AttachmentError {
    pub field: String,
    pub message: String,
}

/// The place that `network` of an instance in `namespace` gives its pod.
///
/// # Errors
/// [`AttachmentError`] if addresses aren't some, or gateways don't match them.
pub fn attachment(
    namespace: &str,
    network: &InstanceNetwork,
    containers: &[ContainerSpec],
) -> Result<Attachment, AttachmentError> {
    let parse = |field: &str, given: &[String]| -> Result<Vec<IpAddr>, AttachmentError> {
        let one = |(index, text): (usize, &String)| {
            text.parse().map_err(|_| AttachmentError {
                field: format!("{field}[{index}]"),
                message: format!("{text:?} is no address; expected one without a prefix length, as 10.20.0.5"),
            })
        };
        given.iter().enumerate().map(one).collect()
    };
    let addresses = parse("addresses", &network.addresses)?;
    let gateways = parse("gateways", &network.gateways)?;
    let matches = |(address, gateway): (&IpAddr, &IpAddr)| address.is_ipv4() == gateway.is_ipv4();
    if addresses.len() != gateways.len() || !addresses.iter().zip(&gateways).all(matches) {
        return Err(AttachmentError {
            field: "gateways".to_owned(),
            message: format!("{gateways:?} doesn't have one of the same family for each of {addresses:?}"),
        });
    }
    let published = containers.iter().flat_map(|container| &container.ports).filter_map(|port| {
        let protocol = if port.protocol == "udp" { 17 } else { 6 };
        Some(HostPort { protocol, host_port: port.host_port?, port: port.container_port })
    });
    let ports = published.collect();
    Ok(Attachment { network: format!("{namespace}/{}", network.name), addresses, gateways, ports })
}

/// The name of the node's end of a pod's veth pair: 14 bytes; 40 bits of the UID's hash.
#[must_use]
pub fn pod_link(pod: &PodId) -> String {
    format!("pplp{}", short(pod.0.as_bytes()))
}

/// What a node's things are called by: its name, and which of the installations on this machine it is. Those of before there were several have no
/// `installation`.
#[must_use]
pub fn key(node: &str, installation: &str) -> String {
    if installation.is_empty() { node.to_owned() } else { format!("{node}-{installation}") }
}

/// Which installation a data directory is, from its path: 8 hexadecimal digits.
#[must_use]
pub fn installation(data_dir: &Path) -> String {
    fnv(data_dir.as_os_str().as_encoded_bytes()).chars().take(8).collect()
}

/// The name of a network's bridge: 14 bytes. Two nodes on one machine have a bridge each.
#[must_use]
pub fn bridge(key: &str, network: &str) -> String {
    format!("{BRIDGE_PREFIX}{}", short(format!("{key}/{network}").as_bytes()))
}

/// The name of the node's table of nftables.
#[must_use]
pub fn table(key: &str) -> String {
    format!("pullpiri-{key}")
}

/// The metric of the node's routes: two nodes on one machine have their own. Above what networking services use (up to 1024), so
/// that nobody's route is overruled.
#[must_use]
pub fn metric(key: &str) -> u32 {
    let hash = fnv(key.as_bytes());
    4096 + u32::from_str_radix(hash.get(..4).unwrap_or_default(), 16).unwrap_or(0)
}

/// What the aliases of the node's interfaces begin with.
#[must_use]
pub fn alias_prefix(key: &str) -> String {
    format!("pullpiri/{}/", fnv(key.as_bytes()))
}

/// A hardware address from a name: locally administered, unicast. It stays when what has it is made anew, so nobody's neighbour table
/// is wrong.
#[must_use]
pub fn hardware_address(name: &str) -> [u8; 6] {
    let hash = fnv(name.as_bytes());
    let byte = |at: usize| u8::from_str_radix(hash.get(at..at + 2).unwrap_or_default(), 16).unwrap_or(0);
    [0x02, byte(0), byte(2), byte(4), byte(6), byte(8)]
}

fn short(bytes: &[u8]) -> String {
    fnv(bytes).chars().take(10).collect()
}

/// A generation of a node's NetworkSlices, whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    pub number: i64,
    /// In the order of their indices.
    pub parts: Vec<NetworkSliceSpec>,
}

/// The newest generation of which every part is there.
#[must_use]
pub fn assemble<'a>(slices: impl IntoIterator<Item = &'a NetworkSliceSpec>) -> Option<Generation> {
    let parts = newest(slices)?;
    Some(Generation { number: parts.first()?.generation, parts: parts.into_iter().cloned().collect() })
}

#[cfg(test)]
mod tests;
