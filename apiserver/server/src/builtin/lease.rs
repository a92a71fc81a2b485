//! Lease: durations and transition counts are sane, and a preferred holder needs a strategy.

use pullpiri_apply::error::{FieldError, FieldErrorKind};
use serde_json::{Value, json};

use super::{drop_nulls, text};
use crate::registry::Strategy;

#[derive(Debug)]
pub struct LeaseStrategy;

impl Strategy for LeaseStrategy {
    fn micro_times(&self) -> &'static [&'static str] {
        &["/spec/acquireTime", "/spec/renewTime"]
    }

    fn prepare_for_create(&self, object: &mut Value) {
        drop_nulls(object);
    }

    fn prepare_for_update(&self, object: &mut Value, _old: &Value) {
        drop_nulls(object);
    }

    fn validate(&self, object: &Value, _old: Option<&Value>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let number = |field: &str| object.pointer(&format!("/spec/{field}")).and_then(Value::as_i64);
        if let Some(seconds) = number("leaseDurationSeconds")
            && seconds <= 0
        {
            errors.push(FieldError::new(
                FieldErrorKind::Invalid,
                "spec.leaseDurationSeconds",
                Some(json!(seconds)),
                "must be greater than 0",
            ));
        }
        if let Some(transitions) = number("leaseTransitions")
            && transitions < 0
        {
            errors.push(FieldError::new(
                FieldErrorKind::Invalid,
                "spec.leaseTransitions",
                Some(json!(transitions)),
                "must be greater than or equal to 0",
            ));
        }
        let strategy = text(object, &["spec", "strategy"]);
        if !text(object, &["spec", "preferredHolder"]).is_empty() && strategy.is_empty() {
            errors.push(FieldError::new(
                FieldErrorKind::Forbidden,
                "spec.preferredHolder",
                None,
                "may only be specified if `strategy` is defined",
            ));
        }
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        let ok = json!({"spec": {"leaseDurationSeconds": 15, "leaseTransitions": 0}});
        assert!(LeaseStrategy.validate(&ok, None).is_empty());
        let bad = json!({"spec": {"leaseDurationSeconds": 0, "leaseTransitions": -1, "preferredHolder": "a"}});
        let texts: Vec<String> = LeaseStrategy.validate(&bad, None).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
                "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
                "spec.preferredHolder: Forbidden: may only be specified if `strategy` is defined",
            ]
        );
    }
}
