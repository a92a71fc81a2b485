//! NodeRuntime: one ECU, as its node runtime describes it.

use std::collections::BTreeMap;

use crate::quantity::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::model::Adapter;

/// One ECU. Created by its node runtime; the heartbeat is a Lease.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "pullpiri.io",
    version = "v1alpha1",
    kind = "NodeRuntime",
    plural = "noderuntimes",
    shortname = "nr",
    category = "pullpiri",
    status = "NodeRuntimeStatus",
    derive = "PartialEq",
    doc = "One ECU, as its node runtime describes it.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Runtime", type_ = "string", json_path = ".status.defaultRuntime"),
    printcolumn(name = "CPU", type_ = "string", json_path = ".status.capacity.cpu"),
    printcolumn(name = "Memory", type_ = "string", json_path = ".status.capacity.memory"),
    printcolumn(name = "Kernel", type_ = "string", json_path = ".status.kernel", priority = 1),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct NodeRuntimeSpec {
    /// No new models are placed here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unschedulable: Option<bool>,
    /// The link to other nodes, where it can't be read or should be shared otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<UplinkSpec>,
}

/// A node's link to other nodes, as its operator declares it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(validation = Rule::new("!has(self.rate) || quantity(string(self.rate)).compareTo(quantity('1')) >= 0").message(Message::Expression("'must be at least 1 bit per second, as in 100M or 1G; got ' + string(self.rate)".into())).field_path(".rate"))]
#[serde(rename_all = "camelCase")]
pub struct UplinkSpec {
    /// The interface. Default: that of the route to the API server, or the default route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 15))]
    pub interface: Option<String>,
    /// Bits per second, at least 1. Default: what the interface says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Quantity>,
}

/// What a node is and can do, as it says itself.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NodeRuntimeStatus {
    /// `cpu` in cores and `memory` in bytes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub capacity: BTreeMap<String, Quantity>,
    /// Its runtime adapters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub runtimes: Vec<RuntimeStatus>,
    /// The adapter of Models that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_runtime: Option<Adapter>,
    /// `uname -r`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub kernel: Option<String>,
    /// `uname -m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub architecture: Option<String>,
    /// Of the node runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub version: Option<String>,
    /// `v1`, `v2` or `hybrid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub cgroups: Option<String>,
    /// Where its Prometheus metrics are: `host:port`, path `/metrics`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub metrics_address: Option<String>,
    /// What it can do in real time; absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub realtime: Option<NodeRealtime>,
    /// What it can do for Networks; absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NodeNetwork>,
    /// What holds and what does not, one condition per type; see docs/conditions.md.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// What a node's kernel admits of real-time work. Shares are parts per million of one CPU.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeRealtime {
    /// The CPUs that real-time tasks may be pinned to, as a Linux CPU list.
    #[schemars(length(min = 1, max = 256), regex(pattern = crate::schedule::CPU_LIST))]
    pub cpus: String,
    /// The policies that a container's threads can be given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3))]
    pub policies: Vec<crate::schedule::SchedulingPolicy>,
    /// FIFO and RR together may take this much of a CPU (`sched_rt_runtime_us` of `sched_rt_period_us`, less what the fair server is owed)…
    #[schemars(range(min = 0, max = 1000000))]
    pub fixed_priority_ppm: i32,
    /// …in any window of this length.
    #[schemars(range(min = 1))]
    pub fixed_priority_window_ns: i64,
    /// With RT_GROUP_SCHED: what the groups of all containers may take together, whichever CPUs they run on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000000))]
    pub group_ppm: Option<i32>,
    /// SCHED_DEADLINE's admission limit for each CPU, the fair server's share already taken off.
    #[schemars(range(min = 0, max = 1000000))]
    pub deadline_ppm: i32,
    /// Whether a CPU can be set apart for SCHED_DEADLINE (an exclusive cpuset); without, its tasks can't be pinned.
    pub exclusive_cpusets: bool,
    /// The tasks on a CPU that is set apart must be of one container (cgroup version 2).
    #[serde(default)]
    pub exclusive_per_container: bool,
    /// Whether deadlines are watched by the kernel (BPF).
    pub monitor: bool,
}

/// What a node does for Networks.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeNetwork {
    /// What was chosen by probing: `tcx+htb`, `tcx` (no QoS) or `none`.
    #[schemars(length(max = 63))]
    pub backend: String,
    /// The link to other nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 15))]
    pub uplink: Option<String>,
    /// Its rate in bits per second, declared or read; absent if nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub link_bps: Option<i64>,
    /// Its addresses on the uplink, by which other nodes reach its pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(max = 45)))]
    pub addresses: Vec<String>,
    /// The generation of the NetworkSlices that the kernel holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
}

/// One runtime adapter of a node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeStatus {
    /// Which adapter it is.
    pub name: Adapter,
    /// Whether it can run containers now.
    pub available: bool,
    /// The version of what it drives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub version: Option<String>,
    /// Why it isn't available.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
}
