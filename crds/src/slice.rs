//! NetworkSlice: the compiled rules, addresses and classes that one node needs. Written by the Network controller, executed by that node.
//!
//! A node needs no view of other nodes' objects. One slice holds at most [`MAX_ENTRIES`] entries in all its lists; what doesn't fit is in overflow
//! slices of the same node and generation (as EndpointSlices do, KEP-752). A node takes a generation when it has all `count` slices of it.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::network::Verdict;

/// Entries in all lists of one slice together.
pub const MAX_ENTRIES: usize = 1000;

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
    #[schemars(range(min = 1, max = 256))]
    pub count: i32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub networks: Vec<SliceNetwork>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub endpoints: Vec<SliceEndpoint>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub rules: Vec<SliceRule>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub classes: Vec<SliceClass>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub selectors: Vec<SliceSelector>,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 18))]
    pub v4: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 43))]
    pub v6: Option<String>,
    /// The gateway's addresses, in the order v4, v6.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2), inner(length(max = 45)))]
    pub gateways: Vec<String>,
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
    #[schemars(range(min = 1))]
    pub to: i32,
    /// An IP protocol number (1 stands for ICMPv6 too), or 0: all.
    #[schemars(range(min = 0, max = 255))]
    pub protocol: i32,
    /// Destination ports, both ends included; 0 and 65535: all.
    #[schemars(range(min = 0, max = 65535))]
    pub first_port: i32,
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
    #[schemars(range(min = 0, max = 7))]
    pub priority: i32,
    /// Bits per second; 0: none.
    #[schemars(range(min = 0))]
    pub guarantee_bps: i64,
    /// Bits per second; absent: the link's rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub ceiling_bps: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 63))]
    pub dscp: Option<i32>,
}

/// What belongs to a class. Lower class ids are tried first.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SliceSelector {
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
    #[schemars(range(min = 1, max = 65535))]
    pub host_port: i32,
    /// 6 or 17.
    #[schemars(range(min = 0, max = 255))]
    pub protocol: i32,
    /// The instance's address.
    #[schemars(length(max = 45))]
    pub address: String,
    #[schemars(range(min = 1, max = 65535))]
    pub target_port: i32,
}
