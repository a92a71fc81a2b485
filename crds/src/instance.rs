//! ModelInstance: one Model of one Package bound to one node. Written by the Package controller, executed by that node's runtime.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::model::{Adapter, ModelSpec};
use crate::scenario::Transition;

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
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Restarts", type_ = "integer", json_path = ".status.restarts"),
    printcolumn(name = "PID", type_ = "integer", json_path = ".status.containers[0].pid", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(validation = Rule::new("self.template == oldSelf.template && self.nodeName == oldSelf.nodeName && self.__package__ == oldSelf.__package__ && self.model == oldSelf.model").message("template, nodeName, package and model are immutable"))]
#[x_kube(validation = Rule::new("self.epoch >= oldSelf.epoch").message("epoch never falls"))]
#[serde(rename_all = "camelCase")]
pub struct ModelInstanceSpec {
    #[schemars(length(min = 1, max = 253))]
    pub package: String,
    #[schemars(length(min = 1, max = 253))]
    pub model: String,
    /// The NodeRuntime's name.
    #[schemars(length(min = 1, max = 253))]
    pub node_name: String,
    /// The resolved Model: self-contained but for the data of ConfigMaps and Secrets.
    pub template: Template,
    /// Whether the containers should run.
    #[serde(default = "default_true")]
    pub run: bool,
    /// Follows the controllers' Lease transitions; a node refuses an epoch below one that it has seen.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub epoch: i64,
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

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ModelInstanceStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default)]
    pub phase: Phase,
    /// The adapter that runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Adapter>,
    /// Restarts of all containers together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub restarts: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<MicroTime>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub containers: Vec<ContainerStatus>,
    /// The latest transitions of `phase`, newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub history: Vec<Transition>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

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

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStatus {
    #[schemars(length(max = 63))]
    pub name: String,
    #[serde(default)]
    pub state: ContainerState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub restarts: Option<i64>,
    /// In the node's PID namespace; only while running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub container_id: Option<String>,
    /// The digest of the image's configuration, `sha256:…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub image_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<MicroTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<MicroTime>,
    /// 128 + signal if a signal ended it. Of the last run that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// CamelCase: Completed, Error, OOMKilled, CrashLoopBackOff, ImageMissing, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
}

#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ContainerState {
    /// Not started, or waiting for its restart.
    #[default]
    Waiting,
    Running,
    Terminated,
}
