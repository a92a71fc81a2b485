//! NetworkSlice: the compiled rules, addresses and classes that one node needs. Written by the Network controller, executed by that node.
//!
//! A node needs no view of other nodes' objects. One slice holds at most [`MAX_ENTRIES`] entries in all its lists; what doesn't fit is in overflow
//! slices of the same node and generation (as EndpointSlices do, KEP-752). A node takes a generation when it has all `count` slices of it.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::network::Verdict;

/// Entries in all lists of one slice together.
pub const MAX_ENTRIES: usize = 1000;
/// Names that one node's kernel counts by: of rules, classes, published ports, and networks that allow what stays inside.
pub const MAX_NAMES: usize = 16_383;
/// Prefixes that one node's kernel tells apart: subnets, and those of rules that are more than one address.
pub const MAX_PREFIXES: usize = 4096;

/// What one node needs to know of Networks. Numbers are compiled: identities, network ids and rule ids mean something within one
/// generation of one node only.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[kube(
    group = "pullpiri.io",
    version = "v1alpha1",
    kind = "NetworkSlice",
    plural = "networkslices",
    shortname = "ns-slice",
    category = "pullpiri",
    derive = "PartialEq",
    doc = "The compiled rules, addresses and classes that one node needs.",
    selectable = ".spec.nodeName",
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.nodeName"),
    printcolumn(name = "Generation", type_ = "integer", json_path = ".spec.generation"),
    printcolumn(name = "Part", type_ = "integer", json_path = ".spec.index", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct NetworkSliceSpec {
    /// The NodeRuntime's name.
    #[schemars(length(min = 1, max = 253))]
    pub node_name: String,
    /// Rises with every change of any part; equal in all slices of a node.
    #[schemars(range(min = 1))]
    pub generation: i64,
    /// This slice's place among `count`.
    #[schemars(range(min = 0, max = 255))]
    pub index: i32,
    /// How many slices the generation has, 1 to 256.
    #[schemars(range(min = 1, max = 256))]
    pub count: i32,
    /// The networks of which this node has models.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub networks: Vec<SliceNetwork>,
    /// The instances that models of this node may talk to, its own included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub endpoints: Vec<SliceEndpoint>,
    /// New connections that are allowed beside those inside of a network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub rules: Vec<SliceRule>,
    /// The classes of the uplink.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub classes: Vec<SliceClass>,
    /// What belongs to which class.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub selectors: Vec<SliceSelector>,
    /// Ports of this node that lead to instances here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub ports: Vec<SlicePort>,
}

/// A network of which this node has models.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SliceNetwork {
    /// From 1.
    #[schemars(range(min = 1, max = 65535))]
    pub id: i32,
    /// `<namespace>/<name>`.
    #[schemars(length(max = 507))]
    pub name: String,
    /// Host: no bridge and no addresses; only its classes matter.
    pub mode: crate::network::NetworkMode,
    /// Its IPv4 network, as `10.20.0.0/24`; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 18))]
    pub v4: Option<String>,
    /// Its IPv6 network, as `fd00:20::/64`; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 43))]
    pub v6: Option<String>,
    /// The gateway's addresses, in the order v4, v6.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2), inner(length(max = 45)))]
    pub gateways: Vec<String>,
    /// What is allowed between its models without a rule.
    pub internal: Verdict,
    /// Whether its models may open connections to addresses outside of all networks.
    #[serde(default)]
    pub egress: bool,
    /// Whether what leaves the node then gets the node's address.
    pub masquerade: bool,
}

/// An instance that this node's models may talk to or hear of, its own included.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SliceEndpoint {
    /// `<namespace>/<ModelInstance>`.
    #[schemars(length(max = 507))]
    pub instance: String,
    /// The ModelInstance's UID.
    #[schemars(length(max = 64))]
    pub uid: String,
    /// The Model's name.
    #[schemars(length(max = 253))]
    pub model: String,
    /// The id of its network.
    #[schemars(range(min = 1, max = 65535))]
    pub network: i32,
    /// Instances that no rule and no selector can tell apart share one. From 1; 0 is whatever is outside of all networks.
    #[schemars(range(min = 1))]
    pub identity: i32,
    /// Empty with the node's network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2), inner(length(max = 45)))]
    pub addresses: Vec<String>,
    /// The node where it runs.
    #[schemars(length(max = 253))]
    pub node: String,
    /// That node's addresses, by which its pods are reached; empty for this node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(max = 45)))]
    pub via: Vec<String>,
}

/// New connections that are allowed beside those inside of a network. What no rule allows is denied.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SliceRule {
    /// From 1; counters are kept under it. Rules that were compiled from one rule of a Network share one.
    #[schemars(range(min = 1))]
    pub id: i32,
    /// `<namespace>/<network>/<rule>`.
    #[schemars(length(max = 640))]
    pub name: String,
    /// An identity, or 0: addresses of `cidr`.
    #[schemars(range(min = 0))]
    pub from: i32,
    /// Addresses outside of all networks, if `from` is 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 43))]
    pub cidr: Option<String>,
    /// The identity that connections go to.
    #[schemars(range(min = 1))]
    pub to: i32,
    /// An IP protocol number (1 stands for ICMPv6 too), or 0: all.
    #[schemars(range(min = 0, max = 255))]
    pub protocol: i32,
    /// Destination ports, both ends included; 0 and 65535: all.
    #[schemars(range(min = 0, max = 65535))]
    pub first_port: i32,
    /// The last of the destination ports, itself included.
    #[schemars(range(min = 0, max = 65535))]
    pub last_port: i32,
}

/// A class of the uplink.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SliceClass {
    /// From 1; also the class' minor number and the order in which classes are tried.
    #[schemars(range(min = 1, max = 4095))]
    pub id: i32,
    /// `<namespace>/<network>/<class>`.
    #[schemars(length(max = 640))]
    pub name: String,
    /// Who is served first when the link is full: 0 before 7.
    #[schemars(range(min = 0, max = 7))]
    pub priority: i32,
    /// Bits per second; 0: none.
    #[schemars(range(min = 0))]
    pub guarantee_bps: i64,
    /// Bits per second; absent: the link's rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub ceiling_bps: Option<i64>,
    /// The code point that its packets get (RFC 2474); absent: they keep theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 63))]
    pub dscp: Option<i32>,
}

/// What belongs to a class. Lower class ids are tried first.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SliceSelector {
    /// The class' id.
    #[schemars(range(min = 1, max = 4095))]
    pub class: i32,
    /// The sender's identity, or 0: any of the class' network.
    #[schemars(range(min = 0))]
    pub identity: i32,
    /// The network of the sender.
    #[schemars(range(min = 1, max = 65535))]
    pub network: i32,
    /// An IP protocol number (1 stands for ICMPv6 too), or 0: all.
    #[schemars(range(min = 0, max = 255))]
    pub protocol: i32,
    /// Source or destination port, or 0: all.
    #[schemars(range(min = 0, max = 65535))]
    pub port: i32,
    /// The code point that the sender set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 63))]
    pub dscp: Option<i32>,
}

/// A port of this node that leads to an instance here.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SlicePort {
    /// The port of the node, 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub host_port: i32,
    /// 6 or 17.
    #[schemars(range(min = 0, max = 255))]
    pub protocol: i32,
    /// The instance's address.
    #[schemars(length(max = 45))]
    pub address: String,
    /// The instance's port, 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub target_port: i32,
}

/// Why slices aren't one whole policy.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
pub enum Incomplete {
    #[error("there are no slices")]
    None,
    #[error("slices of nodes {0} and {1} were given together")]
    Nodes(String, String),
    #[error("slices of generations {0} and {1} are there: a change is under way")]
    Generations(i64, i64),
    #[error("slice {index} of {count} of generation {generation} is missing")]
    Missing { index: i32, count: i32, generation: i64 },
    #[error("slice {index} of generation {generation} is there twice, or not one of {count}")]
    Surplus { index: i32, count: i32, generation: i64 },
}

/// The slices of one generation of one node, in the order of their parts.
///
/// # Errors
/// [`Incomplete`] if they aren't that, or some are missing.
pub fn whole<'a>(
    slices: impl IntoIterator<Item = &'a NetworkSliceSpec>,
) -> Result<Vec<&'a NetworkSliceSpec>, Incomplete> {
    let mut slices: Vec<&NetworkSliceSpec> = slices.into_iter().collect();
    slices.sort_by_key(|slice| slice.index);
    let first = slices.first().ok_or(Incomplete::None)?;
    let (node, generation, count) = (&first.node_name, first.generation, first.count);
    for slice in &slices {
        if slice.node_name != *node {
            return Err(Incomplete::Nodes(node.clone(), slice.node_name.clone()));
        }
        if slice.generation != generation {
            return Err(Incomplete::Generations(generation, slice.generation));
        }
    }
    let mut expected = 0..count;
    for slice in &slices {
        match expected.next() {
            Some(index) if index < slice.index => return Err(Incomplete::Missing { index, count, generation }),
            Some(index) if index == slice.index && slice.count == count => {}
            _ => return Err(Incomplete::Surplus { index: slice.index, count, generation }),
        }
    }
    match expected.next() {
        Some(index) => Err(Incomplete::Missing { index, count, generation }),
        None => Ok(slices),
    }
}

/// The newest generation of which every part is there, in the order of its parts.
#[must_use]
pub fn newest<'a>(slices: impl IntoIterator<Item = &'a NetworkSliceSpec>) -> Option<Vec<&'a NetworkSliceSpec>> {
    let mut generations: std::collections::BTreeMap<i64, Vec<&NetworkSliceSpec>> = std::collections::BTreeMap::new();
    for slice in slices {
        generations.entry(slice.generation).or_default().push(slice);
    }
    generations.into_values().rev().find_map(|slices| whole(slices).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(generation: i64, index: i32, count: i32) -> NetworkSliceSpec {
        NetworkSliceSpec { node_name: "a".into(), generation, index, count, ..NetworkSliceSpec::default() }
    }

    #[test]
    fn a_generation_is_taken_whole() {
        assert_eq!(whole([]), Err(Incomplete::None));
        let [first, second] = [slice(7, 0, 2), slice(7, 1, 2)];
        assert_eq!(whole([&second, &first]), Ok(vec![&first, &second]));
        assert_eq!(whole([&first]), Err(Incomplete::Missing { index: 1, count: 2, generation: 7 }));
        assert_eq!(whole([&second]), Err(Incomplete::Missing { index: 0, count: 2, generation: 7 }));
        assert!(matches!(whole([&first, &first]), Err(Incomplete::Surplus { index: 0, .. })));
        assert!(matches!(whole([&first, &second, &slice(7, 2, 2)]), Err(Incomplete::Surplus { index: 2, .. })));
        assert!(matches!(whole([&first, &slice(7, 1, 3)]), Err(Incomplete::Surplus { index: 1, .. })));
        assert_eq!(whole([&first, &slice(8, 1, 2)]), Err(Incomplete::Generations(7, 8)));
        let other = NetworkSliceSpec { node_name: "b".into(), ..slice(7, 1, 2) };
        assert_eq!(whole([&first, &other]), Err(Incomplete::Nodes("a".into(), "b".into())));
        // A newer one that isn't all there yet leaves the one before.
        assert_eq!(newest([&second, &first, &slice(8, 0, 2)]), Some(vec![&first, &second]));
        assert_eq!(newest([&slice(8, 0, 2)]), None);
    }
}
