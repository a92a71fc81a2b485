//! Schedule: a real-time task set.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// A Go-style duration of whole nanoseconds: `250us`, `10ms`, `1.5s`.
const DURATION: &str = r"^([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h))+$";

/// A real-time task set. Not placed by this release: a Package that names one says so in its condition Placed.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "pullpiri.io",
    version = "v1alpha1",
    kind = "Schedule",
    plural = "schedules",
    shortname = "sched",
    category = "pullpiri",
    namespaced,
    status = "ScheduleStatus",
    derive = "PartialEq",
    doc = "A real-time task set: period, worst-case execution time and deadline of each task.",
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleSpec {
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub tasks: Vec<Task>,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Task {
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Worst-case execution time.
    #[schemars(length(max = 32), regex(pattern = DURATION))]
    pub wcet: String,
    #[schemars(length(max = 32), regex(pattern = DURATION))]
    pub period: String,
    /// Relative to the release. Default: the period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = DURATION))]
    pub deadline: Option<String>,
    /// The first release after the start of the schedule. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = DURATION))]
    pub offset: Option<String>,
    /// 1–99, larger is more urgent, as in Linux.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 99))]
    pub priority: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<SchedulingPolicy>,
    /// A Linux CPU list: `0` or `1-3,5`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), regex(pattern = r"^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$"))]
    pub cpus: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub node: Option<String>,
    /// How many deadlines may be missed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub miss_budget: Option<i32>,
}

#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchedulingPolicy {
    #[serde(rename = "FIFO")]
    Fifo,
    #[serde(rename = "RR")]
    RoundRobin,
    #[serde(rename = "DEADLINE")]
    Deadline,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleStatus {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
