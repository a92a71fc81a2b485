//! The selectors of a question about access: of fields and of labels, as text or as requirements. An operator that nobody knows yet is let
//! through, as a newer client's. Rules of Kubernetes 1.37 (`pkg/apis/authorization/validation`).

use pullpiri_apply::error::FieldError;
use pullpiri_apply::metadata::name::{label_value, qualified_name};
use serde_json::Value;

use crate::builtin::text;

/// What is wrong with the selectors of `spec.resourceAttributes`.
pub(super) fn check(attributes: &Value) -> Vec<FieldError> {
    let at = "spec.resourceAttributes";
    let mut errors = Vec::new();
    for (field, of_labels) in [("fieldSelector", false), ("labelSelector", true)] {
        let Some(selector) = attributes.get(field).filter(|selector| !selector.is_null()) else { continue };
        let at = format!("{at}.{field}");
        let raw = text(selector, &["rawSelector"]);
        let requirements = list(selector, "requirements");
        if !raw.is_empty() && !requirements.is_empty() {
            let why = "may not specified at the same time as requirements";
            errors.push(FieldError::invalid(format!("{at}.rawSelector"), raw, why));
        }
        if raw.is_empty() && requirements.is_empty() {
            let why = format!("when {at} is specified, requirements or rawSelector is required");
            errors.push(FieldError::required(format!("{at}.requirements"), why));
        }
        for (index, requirement) in requirements.iter().enumerate() {
            let at = format!("{at}.requirements[{index}]");
            if !of_labels && text(requirement, &["key"]).is_empty() {
                errors.push(FieldError::required(format!("{at}.key"), "must be specified"));
            }
            errors.extend(check_operator(requirement, &at));
            if of_labels {
                errors.extend(check_label(requirement, &at));
            }
        }
    }
    errors
}

fn list<'v>(value: &'v Value, field: &str) -> &'v [Value] {
    value.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn check_operator(requirement: &Value, at: &str) -> Option<FieldError> {
    let at = format!("{at}.values");
    let none = list(requirement, "values").is_empty();
    match text(requirement, &["operator"]) {
        "In" | "NotIn" if none => {
            Some(FieldError::required(at, "must be specified when `operator` is 'In' or 'NotIn'"))
        }
        "Exists" | "DoesNotExist" if !none => {
            Some(FieldError::forbidden(at, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"))
        }
        _ => None,
    }
}

fn check_label(requirement: &Value, at: &str) -> Vec<FieldError> {
    let key = text(requirement, &["key"]);
    let mut errors: Vec<FieldError> =
        qualified_name(key).into_iter().map(|why| FieldError::invalid(format!("{at}.key"), key, why)).collect();
    for (index, value) in list(requirement, "values").iter().enumerate() {
        let value = value.as_str().unwrap_or_default();
        let complaints = label_value(value).into_iter();
        errors.extend(complaints.map(|why| FieldError::invalid(format!("{at}.values[{index}]"), value, why)));
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn selectors_are_checked() {
        let requirement = |key: &str, operator: &str, values: &[&str]| json!({"requirements": [{"key": key, "operator": operator, "values": values}]});
        let values = "must be specified when `operator` is 'In' or 'NotIn'";
        let no_values = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
        let neither = |field: &str| {
            format!(
                "requirements: Required value: when spec.resourceAttributes.{field} is specified, requirements or rawSelector is required"
            )
        };
        let both = json!({"rawSelector": "a=b", "requirements": [{"key": "a", "operator": "Exists"}]});
        for (field, selector, refusal) in [
            ("fieldSelector", json!({"rawSelector": "a=b"}), String::new()),
            ("fieldSelector", json!({"rawSelector": "a in"}), String::new()),
            ("fieldSelector", requirement("a", "In", &["b", "c"]), String::new()),
            ("fieldSelector", requirement("a", "Unheard", &["b"]), String::new()),
            ("fieldSelector", json!({}), neither("fieldSelector")),
            (
                "fieldSelector",
                requirement("", "In", &["b"]),
                "requirements[0].key: Required value: must be specified".to_owned(),
            ),
            ("fieldSelector", requirement("a", "In", &[]), format!("requirements[0].values: Required value: {values}")),
            (
                "fieldSelector",
                requirement("a", "Exists", &["b"]),
                format!("requirements[0].values: Forbidden: {no_values}"),
            ),
            (
                "fieldSelector",
                both,
                "rawSelector: Invalid value: \"a=b\": may not specified at the same time as requirements".to_owned(),
            ),
            ("labelSelector", requirement("a", "In", &["b"]), String::new()),
            ("labelSelector", json!({"requirements": []}), neither("labelSelector")),
            (
                "labelSelector",
                requirement("a", "NotIn", &[]),
                format!("requirements[0].values: Required value: {values}"),
            ),
        ] {
            let errors = super::check(&json!({field: selector}));
            let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
            let wanted =
                if refusal.is_empty() { vec![] } else { vec![format!("spec.resourceAttributes.{field}.{refusal}")] };
            assert_eq!(said, wanted, "{selector}");
        }
        let bad = super::check(&json!({"labelSelector": requirement("a b", "In", &["b c"])}));
        let paths: Vec<&str> = bad.iter().map(|error| error.path.as_str()).collect();
        let at = "spec.resourceAttributes.labelSelector.requirements[0]";
        assert_eq!(paths, [format!("{at}.key"), format!("{at}.values[0]")]);
    }
}
