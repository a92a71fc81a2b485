//! Claim: one wish on a Package, by a Scenario or a person.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::scenario::{Action, ObservedValue};

/// One wish on a Package. The highest priority wins, then the latest `since`.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "pullpiri.io",
    version = "v1alpha1",
    kind = "Claim",
    plural = "claims",
    shortname = "clm",
    category = "pullpiri",
    namespaced,
    status = "ClaimStatus",
    derive = "PartialEq",
    doc = "One wish on a Package, by a Scenario or a person.",
    printcolumn(name = "Package", type_ = "string", json_path = ".spec.package"),
    printcolumn(name = "Action", type_ = "string", json_path = ".spec.action"),
    printcolumn(name = "Priority", type_ = "integer", json_path = ".spec.priority"),
    // Without `spec.since` it is wished since its creation. Of a union's parts the first that finds something is printed.
    printcolumn(name = "Since", type_ = "date", json_path = ".*['since','creationTimestamp']"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", priority = 1)
)]
#[serde(rename_all = "camelCase")]
pub struct ClaimSpec {
    /// The Package it is about, in the same namespace.
    #[schemars(length(min = 1, max = 253), regex(pattern = crate::names::SUBDOMAIN))]
    pub package: String,
    /// What is wished for the Package.
    pub action: Action,
    /// Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub priority: Option<i32>,
    /// Since when it is wished. Default: the claim's creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<MicroTime>,
    /// The Scenario that wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub scenario: Option<String>,
    /// The generation of that Scenario which it follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scenario_generation: Option<i64>,
    /// The signal values that led to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub because: Vec<ObservedValue>,
}

/// What is known of a claim.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ClaimStatus {
    /// What holds and what does not, one condition per type; see docs/conditions.md.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
