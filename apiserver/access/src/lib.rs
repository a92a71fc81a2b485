//! Who may do what: the decisions behind authorisation, without the server around them.
//!
//! A request's [`Attributes`] meet two authorities. [`rbac::Index`] holds the roles and bindings of `rbac.authorization.k8s.io`, by
//! subject, so that a decision is a look-up of the bindings that name the user or one of its groups, and a scan of their rules.
//! [`node::Nodes`] knows which objects are bound to which node, and lets a node read and write those and no others. Rules are additive in
//! both: nothing forbids, something has to allow.
//!
//! Behaviour and texts are kube-apiserver's (1.37): `plugin/pkg/auth/authorizer/{rbac,node}`, `pkg/registry/rbac`. What is decided quicker than
//! there: a ClusterRole with an aggregation rule counts with what it gathers at once, not when a controller has written it.
//!
//! Pure: no clock, no IO, no executor. Objects are JSON, as they are stored.

mod aggregation;
pub mod attributes;
pub mod defaults;
pub mod node;
pub mod rbac;
pub mod reconcile;
pub mod rule;
mod writes;

pub use attributes::{Attributes, ResourceAttributes, UserInfo};
pub use rule::Rule;

/// The API group of roles and bindings.
pub const GROUP: &str = "rbac.authorization.k8s.io";

use serde_json::Value;

/// The text at a path of fields, empty when it isn't there.
fn text<'a>(object: &'a Value, path: &[&str]) -> &'a str {
    path.iter().try_fold(object, |at, key| at.get(key)).and_then(Value::as_str).unwrap_or_default()
}

/// The texts of a list field; anything else counts as none.
fn texts(object: &Value, field: &str) -> Vec<String> {
    let list = object.get(field).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Texts as Go prints a slice with `%q`.
fn quoted(texts: &[String]) -> String {
    let quoted: Vec<String> = texts.iter().map(|text| format!("{text:?}")).collect();
    format!("[{}]", quoted.join(" "))
}
