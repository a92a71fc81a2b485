//! ModelInstance: one Model of one Package bound to one node. Written by the Package controller, executed by that node's runtime.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::model::{Adapter, ModelSpec};
use crate::scenario::Transition;
use crate::schedule::{OnMiss, SchedulingPolicy};

/// One Model of one Package bound to one node.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "pullpiri.io",
    version = "v1alpha1",
    kind = "ModelInstance",
    plural = "modelinstances",
    shortname = "mi",
    category = "pullpiri",
    namespaced,
    status = "ModelInstanceStatus",
    derive = "PartialEq",
    doc = "One Model of one Package bound to one node.",
    selectable = ".spec.nodeName",
    printcolumn(name = "Package", type_ = "string", json_path = ".spec.package", priority = 1),
    printcolumn(name = "Model", type_ = "string", json_path = ".spec.model"),
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.nodeName"),
    printcolumn(
        name = "Run",
        type_ = "boolean",
        json_path = ".spec.run",
        description = "Whether its containers should run"
    ),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Restarts", type_ = "integer", json_path = ".status.restarts"),
    printcolumn(name = "PID", type_ = "integer", json_path = ".status.containers[0].pid", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(validation = Rule::new("self.template == oldSelf.template && self.nodeName == oldSelf.nodeName && self.__package__ == oldSelf.__package__ && self.model == oldSelf.model").message("template, nodeName, package and model are immutable"))]
#[x_kube(validation = Rule::new("self.epoch >= oldSelf.epoch").message("epoch never falls"))]
#[serde(rename_all = "camelCase")]
pub struct ModelInstanceSpec {
    /// The Package's name, in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub package: String,
    /// The Model's name, in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub model: String,
    /// The NodeRuntime's name.
    #[schemars(length(min = 1, max = 253))]
    pub node_name: String,
    /// The resolved Model: self-contained but for the data of ConfigMaps and Secrets.
    pub template: Arc<Template>,
    /// Whether the containers should run.
    #[serde(default = "default_true")]
    pub run: bool,
    /// Follows the controllers' Lease transitions; a node refuses an epoch below one that it has seen.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub epoch: i64,
    /// Its real-time tasks, as they were proven. May change in place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub realtime: Vec<InstanceTask>,
    /// The bridged Network that it joins; absent with the node's network, or with none. May change in place for a pod that isn't running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<InstanceNetwork>,
}

/// A real-time task that was proven and placed. Times are whole nanoseconds.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct InstanceTask {
    /// The task's name, unique in the instance.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The container whose thread it is; absent: any container of the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub container: Option<String>,
    /// The thread's name; absent: the first thread of the container's first process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 15))]
    pub thread: Option<String>,
    /// The scheduling policy that its thread gets.
    pub policy: SchedulingPolicy,
    /// Under FIFO and RR.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 99))]
    pub priority: Option<i32>,
    /// The one CPU that it is pinned to.
    #[schemars(range(min = 0, max = 4095))]
    pub cpu: i32,
    /// Worst-case execution time of one job, in nanoseconds.
    #[schemars(range(min = 1))]
    pub wcet_ns: i64,
    /// The least time between two arrivals, in nanoseconds.
    #[schemars(range(min = 1))]
    pub period_ns: i64,
    /// By when a job must have ended, in nanoseconds from its arrival.
    #[schemars(range(min = 1))]
    pub deadline_ns: i64,
    /// How late a job may be released after it arrived, in nanoseconds. Default 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub jitter_ns: i64,
    /// The first arrival, in nanoseconds after the start of the schedule. Default 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub offset_ns: i64,
    /// How long less urgent work may hold it up, in nanoseconds. Default 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub blocking_ns: i64,
    /// The proven worst-case response time, from the arrival.
    #[schemars(range(min = 1))]
    pub response_time_ns: i64,
    #[serde(default)]
    pub on_miss: OnMiss,
    /// How many deadlines it may miss before `onMiss`. Default 0.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub miss_budget: i32,
    /// The Schedule that it comes from; absent: the Model's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub schedule: Option<String>,
}

fn is_zero(ns: &i64) -> bool {
    *ns == 0
}

/// The bridged Network that an instance joins.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct InstanceNetwork {
    /// The Network's name, in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// One IPv4 and at most one IPv6 address, or one IPv6 address; without a prefix length.
    #[schemars(length(min = 1, max = 2), inner(length(max = 45)))]
    pub addresses: Vec<String>,
    /// The network's gateway for each of `addresses`, in the same order.
    #[schemars(length(min = 1, max = 2), inner(length(max = 45)))]
    pub gateways: Vec<String>,
}

fn default_true() -> bool {
    true
}

/// A resolved Model.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Template {
    /// The Model's labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub labels: BTreeMap<String, String>,
    /// The Model's annotations, without those of kubectl.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,
    pub spec: ModelSpec,
}

/// Where an instance stands, as its node says.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ModelInstanceStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where its containers stand, taken together. Default Pending.
    #[serde(default)]
    pub phase: Phase,
    /// The adapter that runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Adapter>,
    /// Restarts of all containers together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub restarts: Option<i64>,
    /// When its containers were started first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<MicroTime>,
    /// Where each of its containers stands.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub containers: Vec<ContainerStatus>,
    /// The latest transitions of `phase`, newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub history: Vec<Transition>,
    /// What was measured of its real-time tasks. Written at most once a second, and when a deadline was missed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub realtime: Vec<TaskStatus>,
    /// What holds and what does not, one condition per type; see docs/conditions.md.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// What was measured of a real-time task since its container started.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TaskStatus {
    /// The task's name, as in `spec.realtime`.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Threads that hold its settings now.
    #[serde(default)]
    pub threads: i32,
    /// Jobs that ended.
    #[serde(default)]
    pub jobs: i64,
    /// Jobs that hadn't ended at their deadline.
    #[serde(default)]
    pub misses: i64,
    /// Jobs that executed longer than the declared worst case.
    #[serde(default)]
    pub overruns: i64,
    /// The longest from arrival to end, at most: what was measured from the release, and the declared release jitter.
    #[serde(default)]
    pub worst_response_ns: i64,
    /// The longest on a CPU.
    #[serde(default)]
    pub worst_execution_ns: i64,
    /// How often somebody else's change of its settings was undone.
    #[serde(default)]
    pub repairs: i64,
}

/// Where an instance's containers stand, taken together.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not every container has been started, or it is stopped on purpose.
    #[default]
    Pending,
    /// Every container was started and at least one runs or will be restarted.
    Running,
    /// Every container ended with exit code 0 and none will be restarted.
    Succeeded,
    /// Every container ended, one of them badly, and none will be restarted.
    Failed,
    /// The node doesn't answer.
    Unknown,
}

impl Phase {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Unknown => "Unknown",
        }
    }
}

/// Where a container stands.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStatus {
    /// The container's name, as in the template.
    #[schemars(length(max = 63))]
    pub name: String,
    /// Waiting (the default), Running or Terminated.
    #[serde(default)]
    pub state: ContainerState,
    /// How often it was started again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub restarts: Option<i64>,
    /// In the node's PID namespace; only while running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i64>,
    /// The name that the runtime knows it by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub container_id: Option<String>,
    /// The digest of the image's configuration, `sha256:…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub image_id: Option<String>,
    /// When its latest run started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<MicroTime>,
    /// When the latest run that ended did so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<MicroTime>,
    /// 128 + signal if a signal ended it. Of the last run that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// CamelCase: Completed, Error, OOMKilled, CrashLoopBackOff, ImageMissing, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub reason: Option<String>,
    /// The reason in words, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
}

/// Where a container stands.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ContainerState {
    /// Not started, or waiting for its restart.
    #[default]
    Waiting,
    Running,
    Terminated,
}
