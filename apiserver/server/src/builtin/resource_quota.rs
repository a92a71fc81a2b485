//! ResourceQuota: how many objects of which kind a namespace may hold. Rules are `ValidateResourceQuota`'s of Kubernetes 1.37.
//!
//! Amounts of what only Pods use (cpu, memory, …) are accepted, and nothing is ever counted against them: there are no Pods here.

use pullpiri_apply::error::{FieldError, FieldErrorKind};
use pullpiri_apply::metadata::name::qualified_name;
use pullpiri_quantity::Amount;
use serde_json::{Map, Value, json};

use super::{drop_nulls, set};
use crate::registry::Strategy;

/// `resource.ErrFormatWrong`.
const NO_QUANTITY: &str = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
/// Names without a `/` that a quota may limit.
const STANDARD: [&str; 17] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
];
const STANDARD_SERVICES: [&str; 2] = ["services.nodeports", "services.loadbalancers"];
/// What is counted, not measured.
const WHOLE: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];
const SCOPES: [&str; 7] = [
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];

#[derive(Debug)]
pub struct ResourceQuotaStrategy;

impl Strategy for ResourceQuotaStrategy {
    fn normalize(&self, object: &mut Value) {
        drop_nulls(object);
        stringify(object);
    }

    fn prepare_for_create(&self, object: &mut Value) {
        drop_nulls(object);
        set(object, &["status"], json!({}));
    }

    fn prepare_for_update(&self, object: &mut Value, _old: &Value) {
        drop_nulls(object);
    }

    fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for (path, names) in
            [("spec.hard", "/spec/hard"), ("status.hard", "/status/hard"), ("status.used", "/status/used")]
        {
            let amounts = object.pointer(names).and_then(Value::as_object);
            for (name, amount) in amounts.into_iter().flatten() {
                errors.extend(check_amount(path, name, amount));
            }
        }
        errors.extend(check_scopes(object));
        if let Some(old) = old
            && scopes(old) != scopes(object)
        {
            errors.push(FieldError::invalid("spec.scopes", json!(scopes(object)), "field is immutable"));
        }
        errors
    }

    fn returns_deleted(&self) -> bool {
        true
    }
}

/// Clients may write a whole amount as a number.
fn stringify(object: &mut Value) {
    for names in ["/spec/hard", "/status/hard", "/status/used"] {
        if let Some(amounts) = object.pointer_mut(names).and_then(Value::as_object_mut) {
            for amount in amounts.values_mut().filter(|amount| amount.is_number()) {
                *amount = Value::String(amount.to_string());
            }
        }
    }
}

fn scopes(object: &Value) -> Vec<&str> {
    let scopes = object.pointer("/spec/scopes").and_then(Value::as_array);
    scopes.into_iter().flatten().filter_map(Value::as_str).collect()
}

fn check_amount(path: &str, name: &str, amount: &Value) -> Vec<FieldError> {
    let mut errors: Vec<FieldError> = Vec::new();
    let at = format!("{path}[{name}]");
    for complaint in qualified_name(name) {
        errors.push(FieldError::invalid(&at, name, complaint));
    }
    let standard = STANDARD.contains(&name) || STANDARD_SERVICES.contains(&name) || name.starts_with("hugepages-");
    if !name.contains('/') && !standard && !name.starts_with("requests.hugepages-") && errors.is_empty() {
        errors.push(FieldError::invalid(&at, name, "must be a standard resource for quota"));
    }
    let text = amount.as_str().unwrap_or_default();
    match Amount::capped(text) {
        Err(_) => errors.push(FieldError::invalid(&at, text, NO_QUANTITY)),
        Ok(quantity) if quantity.is_negative() => {
            errors.push(FieldError::invalid(&at, text, "must be greater than or equal to 0"));
        }
        Ok(quantity) if (WHOLE.contains(&name) || name.starts_with("count/")) && !quantity.is_whole() => {
            errors.push(FieldError::invalid(&at, text, "must be an integer"));
        }
        Ok(_) => {}
    }
    errors
}

fn check_scopes(object: &Value) -> Vec<FieldError> {
    let scopes = scopes(object);
    let mut errors = Vec::new();
    if scopes.iter().any(|scope| !SCOPES.contains(scope)) {
        errors.push(FieldError::invalid("spec.scopes", json!(scopes), "unsupported scope"));
    }
    for pair in [["Terminating", "NotTerminating"], ["BestEffort", "NotBestEffort"]] {
        if pair.iter().all(|scope| scopes.contains(scope)) {
            errors.push(FieldError::invalid("spec.scopes", json!(scopes), "conflicting scopes"));
        }
    }
    let pods_only = ["cpu", "memory", "pods"];
    let hard = object.pointer("/spec/hard").and_then(Value::as_object);
    for name in hard.into_iter().flat_map(Map::keys) {
        if scopes.contains(&"BestEffort") && name != "pods" && !name.starts_with("count/pods")
            || (!scopes.is_empty() && !name.contains('.') && !name.contains('/') && !pods_only.contains(&name.as_str()))
        {
            errors.push(FieldError::new(
                FieldErrorKind::Invalid,
                "spec.scopes",
                Some(json!(scopes)),
                format!("unsupported scope applied to resource {name}"),
            ));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(hard: &Value) -> Vec<String> {
        let quota = json!({"metadata": {"name": "a"}, "spec": {"hard": hard}});
        ResourceQuotaStrategy.validate(&quota, None).into_iter().map(|error| error.path).collect()
    }

    #[test]
    fn names_and_amounts_are_checked() {
        let good = json!({"configmaps": "3", "cpu": "500m", "count/widgets.example.com": "1", "requests.cpu": "1"});
        assert!(paths(&good).is_empty(), "{:?}", paths(&good));
        for (name, amount) in [
            ("widgets", "1"),
            ("secrets", "-1"),
            ("secrets", "1.5"),
            ("count/a.b", "500m"),
            ("a b/c", "1"),
            ("cpu", "x"),
        ] {
            assert_eq!(paths(&json!({name: amount})), [format!("spec.hard[{name}]")], "{name} {amount}");
        }
    }

    #[test]
    fn numbers_become_texts() {
        let mut quota = json!({"spec": {"hard": {"secrets": 3}}});
        ResourceQuotaStrategy.normalize(&mut quota);
        assert_eq!(quota, json!({"spec": {"hard": {"secrets": "3"}}}));
    }

    #[test]
    fn scopes_are_known_and_stay() {
        let quota = |scopes: Value| json!({"spec": {"hard": {"pods": "1"}, "scopes": scopes}});
        let check = |new: Value, old: Option<&Value>| ResourceQuotaStrategy.validate(&quota(new), old).len();
        assert_eq!(check(json!(["BestEffort"]), None), 0);
        assert_eq!(check(json!(["Nonsense"]), None), 1);
        assert_eq!(check(json!(["BestEffort", "NotBestEffort"]), None), 1);
        assert_eq!(check(json!(["Terminating"]), Some(&quota(json!([])))), 1);
    }
}
