//! Package: a vehicle service, made of Models, and where they run.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::instance::Phase;
use crate::scenario::Transition;

/// A vehicle service: its Models and where they run.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "pullpiri.io",
    version = "v1alpha1",
    kind = "Package",
    plural = "packages",
    shortname = "pkg",
    category = "pullpiri",
    namespaced,
    status = "PackageStatus",
    derive = "PartialEq",
    doc = "A vehicle service: its Models, where they run, and when.",
    printcolumn(
        name = "Desired",
        type_ = "string",
        json_path = ".status.desired",
        description = "Whether it should run"
    ),
    printcolumn(
        name = "State",
        type_ = "string",
        json_path = ".status.state",
        description = "Where the package stands"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.ready", description = "Running models of all"),
    printcolumn(
        name = "Claim",
        type_ = "string",
        json_path = ".status.claim",
        description = "The Claim that decides",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct PackageSpec {
    /// The Models of this package.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub models: Vec<PackageModel>,
    /// How the models work together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub pattern: Vec<Pattern>,
    /// The Policy that decides where this package may run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = crate::names::SUBDOMAIN))]
    pub policy: Option<String>,
    /// The Schedule that proves its real-time tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = crate::names::SUBDOMAIN))]
    pub schedule: Option<String>,
    /// Whether it runs: as its claims say (the default), always, or never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_state: Option<DesiredState>,
}

/// One Model of a package.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(validation = Rule::new("!(has(self.node) && has(self.nodeSelector))").message(Message::Expression("'node and nodeSelector exclude each other; model ' + self.name + ' has node ' + self.node + ' and a nodeSelector'".into())))]
#[serde(rename_all = "camelCase")]
pub struct PackageModel {
    /// The Model's name, in the same namespace.
    #[schemars(length(min = 1, max = 253), regex(pattern = crate::names::SUBDOMAIN))]
    pub name: String,
    /// The node it runs on, compared in lower-case RFC 1123 form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = crate::names::NODE_SPELLING))]
    pub node: Option<String>,
    /// Labels of a NodeRuntime; every matching node runs the model. Absent with no node: any one node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 32))]
    pub node_selector: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ModelResources>,
}

/// What a model gets from its package.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ModelResources {
    /// A Volume: its containers may mount it by this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = crate::names::SUBDOMAIN))]
    pub volume: Option<String>,
    /// A Network that it joins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = crate::names::SUBDOMAIN))]
    pub network: Option<String>,
}

/// How models work together.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Pattern {
    /// The only one there is: plain, the models run beside each other.
    #[serde(rename = "type")]
    pub kind: PatternKind,
}

/// How models work together.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum PatternKind {
    /// Models run beside each other.
    Plain,
}

/// Whether a package runs.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DesiredState {
    /// As its claims say; without a claim it doesn't run.
    #[default]
    OnClaim,
    Running,
    Stopped,
}

/// Where a package stands.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PackageStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default)]
    pub state: PackageState,
    /// What the claims and the spec add up to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<DesiredRun>,
    /// The Claim that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub claim: Option<String>,
    /// Running instances of all, as `3/4`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub ready: Option<String>,
    /// Where each of its models stands, on each of its nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub models: Vec<ModelStatus>,
    /// The latest transitions of `state`, newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub history: Vec<Transition>,
    /// What holds and what does not, one condition per type; see docs/conditions.md.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Whether a package should run now.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum DesiredRun {
    Running,
    Stopped,
}

/// Where a package stands.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum PackageState {
    /// Nothing runs and nothing should.
    #[default]
    Idle,
    /// It is being brought to its desired state.
    Updating,
    /// Every model runs.
    Running,
    /// Some models run.
    Degraded,
    /// Stopped on purpose; its instances are kept.
    Paused,
    /// Every model ended by itself with exit code 0.
    Exited,
    /// No model runs, though they should, or the package can't be placed.
    Error,
}

/// Where one model stands on one node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ModelStatus {
    /// The Model's name.
    #[schemars(length(max = 253))]
    pub name: String,
    /// The NodeRuntime's name; absent while unplaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub node: Option<String>,
    /// The ModelInstance's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub instance: Option<String>,
    /// The instance's phase; absent while there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Why it isn't placed or doesn't run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
}
