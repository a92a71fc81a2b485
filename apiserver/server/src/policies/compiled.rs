//! Policies and bindings, parsed once.

use pullpiri_apply::schema::cel::expression::{self, Expression, Names, Wanted};
use serde_json::Value;

use super::matching::Match;
use crate::builtin::text;

/// What an expression that can't be evaluated does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnFailure {
    Refuse,
    Ignore,
}

/// An expression, or why it can't be compiled: what a server of another version accepted.
type Compiled = Result<Expression, String>;

#[derive(Debug)]
pub(super) struct Validation {
    pub(super) source: String,
    pub(super) expression: Compiled,
    pub(super) message: String,
    pub(super) message_expression: Option<Expression>,
    pub(super) reason: String,
}

#[derive(Debug)]
pub(super) struct Policy {
    pub(super) name: String,
    pub(super) on_failure: OnFailure,
    pub(super) constraints: Match,
    /// (name, expression)
    pub(super) conditions: Vec<(String, Compiled)>,
    pub(super) variables: Vec<(String, Compiled)>,
    pub(super) validations: Vec<Validation>,
    /// (group, version, kind)
    pub(super) param_kind: Option<(String, String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Deny,
    Warn,
    Audit,
}

/// Where a binding's parameters are.
#[derive(Debug)]
pub(super) struct ParamRef {
    pub(super) name: String,
    pub(super) namespace: String,
    /// The label selector, as it is written.
    pub(super) selector: Value,
    pub(super) deny_without: bool,
}

#[derive(Debug)]
pub(super) struct Binding {
    pub(super) name: String,
    pub(super) policy: String,
    pub(super) actions: Vec<Action>,
    pub(super) resources: Option<Match>,
    pub(super) params: Option<ParamRef>,
}

/// What an expression may name. There is no `authorizer` here, so that one that asks for it is refused.
const NAMES: [&str; 6] = ["object", "oldObject", "request", "params", "namespaceObject", "variables"];

/// Types were checked when the policy was written.
fn compile(holder: &Value, field: &str) -> Compiled {
    expression::compile(text(holder, &[field]), &Names::untyped(&NAMES), Wanted::Anything)
}

fn list<'a>(spec: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    spec.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn named(spec: &Value, name: &str) -> Vec<(String, Compiled)> {
    list(spec, name).map(|entry| (text(entry, &["name"]).to_owned(), compile(entry, "expression"))).collect()
}

impl Policy {
    pub(super) fn parse(object: &Value) -> Self {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let validations = list(spec, "validations").map(|validation| Validation {
            source: text(validation, &["expression"]).to_owned(),
            expression: compile(validation, "expression"),
            message: text(validation, &["message"]).trim().to_owned(),
            message_expression: compile(validation, "messageExpression")
                .ok()
                .filter(|_| !text(validation, &["messageExpression"]).is_empty()),
            reason: text(validation, &["reason"]).to_owned(),
        });
        let param_kind = spec.get("paramKind").map(|kind| {
            let api_version = text(kind, &["apiVersion"]);
            let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
            (group.to_owned(), version.to_owned(), text(kind, &["kind"]).to_owned())
        });
        Self {
            name: text(object, &["metadata", "name"]).to_owned(),
            on_failure: if text(spec, &["failurePolicy"]) == "Ignore" { OnFailure::Ignore } else { OnFailure::Refuse },
            constraints: Match::parse(spec.get("matchConstraints").unwrap_or(&Value::Null)),
            conditions: named(spec, "matchConditions"),
            variables: named(spec, "variables"),
            validations: validations.collect(),
            param_kind,
        }
    }
}

impl Binding {
    pub(super) fn parse(object: &Value) -> Self {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let actions = list(spec, "validationActions").filter_map(|action| match action.as_str()? {
            "Deny" => Some(Action::Deny),
            "Warn" => Some(Action::Warn),
            "Audit" => Some(Action::Audit),
            _ => None,
        });
        Self {
            name: text(object, &["metadata", "name"]).to_owned(),
            policy: text(spec, &["policyName"]).to_owned(),
            actions: actions.collect(),
            resources: spec.get("matchResources").map(Match::parse),
            params: spec.get("paramRef").map(|reference| ParamRef {
                name: text(reference, &["name"]).to_owned(),
                namespace: text(reference, &["namespace"]).to_owned(),
                selector: reference.get("selector").cloned().unwrap_or(Value::Null),
                deny_without: text(reference, &["parameterNotFoundAction"]) != "Allow",
            }),
        }
    }
}
