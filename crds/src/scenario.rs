//! Scenario: when (a condition over vehicle signals) which action is taken on which Package.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime};
use kube::{CustomResource, KubeSchema};
use schemars::{Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

/// When a condition over vehicle signals becomes true, a wish (a Claim) for an action on a Package is made.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "pullpiri.io",
    version = "v1alpha1",
    kind = "Scenario",
    plural = "scenarios",
    shortname = "scn",
    category = "pullpiri",
    namespaced,
    status = "ScenarioStatus",
    derive = "PartialEq",
    doc = "A vehicle scenario: when a condition over signals becomes true, an action is taken on a Package.",
    printcolumn(name = "Action", type_ = "string", json_path = ".spec.action", description = "What is done"),
    printcolumn(
        name = "Target",
        type_ = "string",
        json_path = ".spec.target",
        description = "The Package it is done to"
    ),
    printcolumn(
        name = "State",
        type_ = "string",
        json_path = ".status.state",
        description = "Where the scenario stands"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct ScenarioSpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::one_or_all_terms")]
    pub condition: Option<ScenarioCondition>,
    /// What is wished for the target once the condition holds.
    pub action: Action,
    /// The name of the Package, in the same namespace.
    #[schemars(length(min = 1, max = 253), regex(pattern = crate::names::SUBDOMAIN))]
    pub target: String,
    /// Among several claims on one Package the highest priority wins, then the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub priority: Option<i32>,
}

/// One term, or a list that must hold in all its items.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(untagged)]
pub enum ScenarioCondition {
    One(Term),
    All(Vec<Term>),
}

impl ScenarioCondition {
    /// The terms that must all hold.
    #[must_use]
    pub fn terms(&self) -> &[Term] {
        match self {
            Self::One(term) => std::slice::from_ref(term),
            Self::All(terms) => terms,
        }
    }
}

/// One comparison: the signal's field on the left, `value` on the right.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Term {
    /// How the signal's field compares to `value`.
    pub express: Express,
    /// What the field is compared with. Compared as numbers if both sides are numbers, as booleans if both are booleans, else as text (eq and ne only).
    #[schemars(length(max = 1024))]
    pub value: String,
    /// Which field of which signal is compared.
    pub operands: Operands,
}

impl Term {
    pub(crate) fn json_schema_inline(generator: &mut SchemaGenerator) -> Schema {
        <Self as schemars::JsonSchema>::json_schema(generator)
    }
}

/// How two values compare; lt, le, gt and ge compare numbers only.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Express {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// A field of a signal.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Operands {
    /// The kind of source the signal comes from (DDS, VSS, MQTT, …). Not compared: a signal is named by its topic.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub source_type: Option<String>,
    /// The field of the signal.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The signal's topic.
    #[schemars(length(min = 1, max = 253), regex(pattern = crate::names::TOPIC))]
    pub value: String,
}

/// What is done to a Package.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Run the Package.
    Launch,
    /// Run the Package at its newest revision.
    Update,
    /// Stop the Package.
    Terminate,
}

impl Action {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Launch => "launch",
            Self::Update => "update",
            Self::Terminate => "terminate",
        }
    }
}

/// Where a scenario stands.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ScenarioStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default)]
    pub state: ScenarioState,
    /// The last known truth of the condition: True or False; Unknown only while it was never known. An edge is a True that finds no True on
    /// record; a signal without a value doesn't change the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truth: Option<Truth>,
    /// Since when `truth` is on record, or, if later, when the last edge was acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truth_since: Option<MicroTime>,
    /// The Claim this scenario wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub claim: Option<String>,
    /// The values that the truth on record comes from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub values: Vec<ObservedValue>,
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

/// Where a scenario stands.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ScenarioState {
    /// Not evaluated yet.
    #[default]
    Idle,
    /// The condition doesn't hold.
    Waiting,
    /// The condition holds.
    Satisfied,
    /// Policy allows the action.
    Allowed,
    /// Policy denies the action.
    Denied,
    /// The Package is as the action wishes.
    Completed,
}

#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Truth {
    True,
    False,
    Unknown,
}

/// A field's value as an evaluation saw it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ObservedValue {
    /// The signal's topic.
    #[schemars(length(max = 253))]
    pub topic: String,
    /// The field of the signal.
    #[schemars(length(max = 253))]
    pub field: String,
    /// Absent: the signal had no value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub value: Option<String>,
}

/// One transition of a state machine.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Transition {
    /// The state before.
    #[schemars(length(max = 63))]
    pub from: String,
    /// The state after.
    #[schemars(length(max = 63))]
    pub to: String,
    pub at: MicroTime,
    /// CamelCase.
    #[schemars(length(max = 63))]
    pub reason: String,
}
