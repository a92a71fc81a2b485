//! ValidatingAdmissionPolicy and its binding: defaults and rules of Kubernetes 1.37 (`pkg/apis/admissionregistration`). What they do to
//! writes is `admission::policy`'s.

use pullpiri_apply::error::{FieldError, FieldErrorKind, print};
use pullpiri_apply::metadata::name::{dns_1035_label, dns_subdomain, qualified_name};
use pullpiri_apply::schema::cel::expression::{self, Names, Wanted};
use pullpiri_apply::schema::cel::is_keyword;
use serde_json::{Value, json};

use super::{drop_nulls, set, text};
use crate::policies::types;
use crate::registry::Strategy;

const OPERATIONS: [&str; 5] = ["*", "CREATE", "UPDATE", "DELETE", "CONNECT"];
const ACTIONS: [&str; 3] = ["Deny", "Warn", "Audit"];
const REASONS: [&str; 3] = ["Forbidden", "Invalid", "RequestEntityTooLarge"];
const MOST_MATCH_CONDITIONS: u64 = 64;
const MOST_AUDIT_ANNOTATIONS: usize = 20;
const MOST_BYTES_OF_ANNOTATION: usize = 5 * 1024;

#[derive(Debug)]
pub struct PolicyStrategy;

impl Strategy for PolicyStrategy {
    fn normalize(&self, object: &mut Value) {
        drop_nulls(object);
        if object.get("spec").is_some_and(Value::is_object) {
            default_to(object, &["spec", "failurePolicy"], json!("Fail"));
            if let Some(resources) = object.pointer_mut("/spec/matchConstraints") {
                default_match(resources);
            }
        }
    }

    fn prepare_for_update(&self, object: &mut Value, _old: &Value) {
        drop_nulls(object);
    }

    fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        // What was accepted once stays accepted: the rules may have become stricter.
        if old.is_some_and(|old| old.get("spec") == object.get("spec")) {
            return Vec::new();
        }
        let mut errors = Vec::new();
        let spec = object.get("spec").unwrap_or(&Value::Null);
        errors.extend(one_of(spec, "spec", "failurePolicy", &["Fail", "Ignore"]));
        if let Some(kind) = spec.get("paramKind") {
            errors.extend(check_param_kind(kind));
        }
        match spec.get("matchConstraints") {
            None => errors.push(FieldError::required("spec.matchConstraints", "")),
            Some(resources) => {
                errors.extend(check_match(resources, "spec.matchConstraints"));
                if items(resources, "resourceRules").is_empty() {
                    errors.push(FieldError::required("spec.matchConstraints.resourceRules", ""));
                }
            }
        }
        errors.extend(check_conditions(spec));
        let (validations, annotations) = (items(spec, "validations"), items(spec, "auditAnnotations"));
        let variables = items(spec, "variables");
        let mut names = types::of_any_kind(spec);
        if !variables.is_empty() {
            names = names.with_variables();
        }
        for (index, variable) in variables.iter().enumerate() {
            errors.extend(check_variable(variable, &mut names, &format!("spec.variables[{index}]")));
        }
        if validations.is_empty() && annotations.is_empty() {
            let why = "validations or auditAnnotations must contain at least one item";
            errors.push(FieldError::required("spec.validations", why));
            errors.push(FieldError::required("spec.auditAnnotations", why));
        }
        for (index, validation) in validations.iter().enumerate() {
            errors.extend(check_validation(validation, &names, &format!("spec.validations[{index}]")));
        }
        errors.extend(check_annotations(annotations, text(object, &["metadata", "name"]), &names));
        errors
    }
}

#[derive(Debug)]
pub struct BindingStrategy;

impl Strategy for BindingStrategy {
    fn normalize(&self, object: &mut Value) {
        drop_nulls(object);
        if let Some(resources) = object.pointer_mut("/spec/matchResources") {
            default_match(resources);
        }
    }

    fn prepare_for_update(&self, object: &mut Value, _old: &Value) {
        drop_nulls(object);
    }

    fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        if old.is_some_and(|old| old.get("spec") == object.get("spec")) {
            return Vec::new();
        }
        let mut errors = Vec::new();
        let spec = object.get("spec").unwrap_or(&Value::Null);
        if text(spec, &["policyName"]).is_empty() {
            errors.push(FieldError::required("spec.policyName", ""));
        }
        if let Some(reference) = spec.get("paramRef") {
            errors.extend(check_param_ref(reference));
        }
        if let Some(resources) = spec.get("matchResources") {
            errors.extend(check_match(resources, "spec.matchResources"));
        }
        let actions = items(spec, "validationActions");
        if actions.is_empty() {
            errors.push(FieldError::required("spec.validationActions", "at least one validation action is required"));
        }
        for (index, action) in actions.iter().enumerate() {
            let at = format!("spec.validationActions[{index}]");
            if !ACTIONS.iter().any(|known| action == known) {
                errors.push(FieldError::not_supported(at, action.clone(), &ACTIONS));
            } else if actions[..index].contains(action) {
                errors.push(FieldError::duplicate(at, action.clone()));
            }
        }
        if ["Deny", "Warn"].iter().all(|action| actions.iter().any(|given| given == action)) {
            errors.push(FieldError::invalid(
                "spec.validationActions",
                Value::Array(actions.to_vec()),
                "must not contain both Deny and Warn (repeating the same validation failure information in the API response \
                 and headers serves no purpose)",
            ));
        }
        errors
    }
}

fn items<'a>(object: &'a Value, list: &str) -> &'a [Value] {
    object.get(list).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn default_to(object: &mut Value, path: &[&str], value: Value) {
    let present = path.iter().try_fold(&*object, |at, key| at.get(key));
    if present.is_none() {
        set(object, path, value);
    }
}

fn default_match(resources: &mut Value) {
    default_to(resources, &["matchPolicy"], json!("Equivalent"));
    default_to(resources, &["namespaceSelector"], json!({}));
    default_to(resources, &["objectSelector"], json!({}));
    for list in ["resourceRules", "excludeResourceRules"] {
        for rule in resources.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            default_to(rule, &["scope"], json!("*"));
        }
    }
}

/// The field, where it is given, is one of these.
fn one_of(object: &Value, path: &str, field: &str, known: &[&str]) -> Option<FieldError> {
    let given = object.get(field)?;
    let fits = known.iter().any(|known| given == known);
    (!fits).then(|| FieldError::not_supported(format!("{path}.{field}"), given.clone(), known))
}

fn check_param_kind(kind: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let given = text(kind, &["apiVersion"]);
    let at = "spec.paramKind.apiVersion";
    let (group, version) = given.split_once('/').unwrap_or(("", given));
    if given.is_empty() {
        errors.push(FieldError::required(at, ""));
    } else if version.contains('/') {
        errors.push(FieldError::invalid(at, given, format!("unexpected GroupVersion string: {given}")));
    } else {
        let complaints = if group.is_empty() { Vec::new() } else { dns_subdomain(group) };
        if !complaints.is_empty() {
            errors.push(FieldError::invalid(at, group, complaints.join(",")));
        }
        let complaints = if version.is_empty() { Vec::new() } else { dns_1035_label(version) };
        if version.is_empty() {
            errors.push(FieldError::invalid(at, given, "version must be specified"));
        } else if !complaints.is_empty() {
            errors.push(FieldError::invalid(at, version, complaints.join(",")));
        }
    }
    let (at, name) = ("spec.paramKind.kind", text(kind, &["kind"]));
    if name.is_empty() {
        errors.push(FieldError::required(at, ""));
    } else {
        let complaints = dns_1035_label(&name.to_lowercase());
        if !complaints.is_empty() {
            let why = format!("may have mixed case, but should otherwise match: {}", complaints.join(","));
            errors.push(FieldError::invalid(at, name, why));
        }
    }
    errors
}

fn check_param_ref(reference: &Value) -> Vec<FieldError> {
    let at = "spec.paramRef";
    let mut errors = Vec::new();
    let (name, selector) = (text(reference, &["name"]), reference.get("selector"));
    if name.is_empty() && selector.is_none() {
        errors.push(FieldError::required(at, "one of name or selector must be specified"));
    } else if !name.is_empty() && selector.is_some() {
        errors.push(FieldError::forbidden(format!("{at}.name"), "name and selector are mutually exclusive"));
    }
    match reference.get("parameterNotFoundAction") {
        None => errors.push(FieldError::required(format!("{at}.parameterNotFoundAction"), "")),
        Some(_) => errors.extend(one_of(reference, at, "parameterNotFoundAction", &["Deny", "Allow"])),
    }
    errors
}

fn check_match(resources: &Value, path: &str) -> Vec<FieldError> {
    let mut errors: Vec<FieldError> =
        one_of(resources, path, "matchPolicy", &["Equivalent", "Exact"]).into_iter().collect();
    for list in ["resourceRules", "excludeResourceRules"] {
        for (index, rule) in items(resources, list).iter().enumerate() {
            errors.extend(check_rule(rule, &format!("{path}.{list}[{index}]")));
        }
    }
    errors
}

fn check_rule(rule: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for list in ["operations", "apiGroups", "apiVersions", "resources"] {
        let given = items(rule, list);
        let at = format!("{path}.{list}");
        if given.is_empty() {
            errors.push(FieldError::required(&at, ""));
        }
        if given.len() > 1 && given.iter().any(|item| item == "*") {
            let why = "if '*' is present, must not specify other ";
            errors.push(FieldError::invalid(&at, Value::Array(given.to_vec()), format!("{why}{list}")));
        }
    }
    for (index, operation) in items(rule, "operations").iter().enumerate() {
        if !OPERATIONS.iter().any(|known| operation == known) {
            errors.push(FieldError::not_supported(
                format!("{path}.operations[{index}]"),
                operation.clone(),
                &OPERATIONS,
            ));
        }
    }
    errors.extend(one_of(rule, path, "scope", &["*", "Cluster", "Namespaced"]));
    errors
}

fn check_expression(source: &str, names: &Names<'_>, wanted: Wanted, at: String) -> Option<FieldError> {
    expression::compile(source, names, wanted).err().map(|why| FieldError::invalid(at, source, why))
}

/// They come before the variables.
fn check_conditions(spec: &Value) -> Vec<FieldError> {
    let conditions = items(spec, "matchConditions");
    let names = types::of_any_kind(spec);
    let mut errors = Vec::new();
    let count = u64::try_from(conditions.len()).unwrap_or(u64::MAX);
    if count > MOST_MATCH_CONDITIONS {
        errors.push(FieldError::too_many("spec.matchConditions", count, MOST_MATCH_CONDITIONS));
    }
    for (index, condition) in conditions.iter().enumerate() {
        let at = format!("spec.matchConditions[{index}]");
        match text(condition, &["expression"]).trim() {
            "" => errors.push(FieldError::required(format!("{at}.expression"), "")),
            source => errors.extend(check_expression(source, &names, Wanted::Bool, format!("{at}.expression"))),
        }
        let name = text(condition, &["name"]);
        if name.is_empty() {
            errors.push(FieldError::required(format!("{at}.name"), ""));
            continue;
        }
        errors.extend(qualified_name(name).into_iter().map(|why| FieldError::invalid(format!("{at}.name"), name, why)));
        if conditions[..index].iter().any(|other| text(other, &["name"]) == name) {
            errors.push(FieldError::duplicate(format!("{at}.name"), name));
        }
    }
    errors
}

fn check_variable(variable: &Value, names: &mut Names<'_>, at: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let name = text(variable, &["name"]);
    let mut letters = name.chars();
    let is_identifier = letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
        && !is_keyword(name);
    if name.trim().is_empty() {
        errors.push(FieldError::required(format!("{at}.name"), "name is not specified"));
    } else if !is_identifier {
        errors.push(FieldError::invalid(format!("{at}.name"), name, "must be a valid CEL identifier"));
    }
    let (source, at) = (text(variable, &["expression"]), format!("{at}.expression"));
    if source.trim().is_empty() {
        errors.push(FieldError::required(at, "expression is not specified"));
    } else if let Err(why) = names.define(name, source) {
        errors.push(FieldError::invalid(at, source, why));
    }
    errors
}

fn check_validation(validation: &Value, names: &Names<'_>, at: &str) -> Vec<FieldError> {
    const BREAKS: [char; 2] = ['\n', '\r'];
    let mut errors = Vec::new();
    let source = text(validation, &["expression"]);
    if source.trim().is_empty() {
        errors.push(FieldError::required(format!("{at}.expression"), "expression is not specified"));
    } else {
        errors.extend(check_expression(source, names, Wanted::Bool, format!("{at}.expression")));
    }
    let source = text(validation, &["messageExpression"]);
    if !source.trim().is_empty() {
        errors.extend(check_expression(source, names, Wanted::Text, format!("{at}.messageExpression")));
    } else if !source.is_empty() {
        let why = "must be non-empty if specified";
        errors.push(FieldError::invalid(format!("{at}.messageExpression"), source, why));
    }
    let message = text(validation, &["message"]);
    if !message.is_empty() && message.trim().is_empty() {
        errors.push(FieldError::invalid(format!("{at}.message"), message, "must be non-empty if specified"));
    } else if message.trim().contains(BREAKS) {
        errors.push(FieldError::invalid(format!("{at}.message"), message, "must not contain line breaks"));
    }
    errors.extend(one_of(validation, at, "reason", &REASONS));
    errors
}

fn check_annotations(annotations: &[Value], policy: &str, names: &Names<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if annotations.len() > MOST_AUDIT_ANNOTATIONS {
        let why = format!("{}: must not have more than {MOST_AUDIT_ANNOTATIONS} auditAnnotations", shown(annotations));
        errors.push(FieldError::new(FieldErrorKind::Invalid, "spec.auditAnnotations", None, why));
    }
    for (index, annotation) in annotations.iter().enumerate() {
        let at = format!("spec.auditAnnotations[{index}]");
        let key = text(annotation, &["key"]);
        if policy.is_empty() {
            errors.push(FieldError::invalid(format!("{at}.key"), key, "requires metadata.name be non-empty"));
        } else {
            let full = format!("{policy}/{key}");
            let complaints = qualified_name(&full).into_iter();
            errors.extend(complaints.map(|why| FieldError::invalid(format!("{at}.key"), full.as_str(), why)));
        }
        let (source, place) = (text(annotation, &["valueExpression"]), format!("{at}.valueExpression"));
        match source.trim() {
            "" => errors.push(FieldError::required(place, "valueExpression is not specified")),
            trimmed if trimmed.len() > MOST_BYTES_OF_ANNOTATION => {
                let why = format!("must not exceed {MOST_BYTES_OF_ANNOTATION} bytes in length");
                errors.push(FieldError::required(place, why));
            }
            trimmed => {
                let refused = expression::compile(trimmed, names, Wanted::TextOrNull).err();
                errors.extend(refused.map(|why| FieldError::invalid(place, source, why)));
            }
        }
        if annotations[..index].iter().any(|other| text(other, &["key"]) == key) {
            errors.push(FieldError::duplicate(format!("{at}.key"), key));
        }
    }
    errors
}

/// Annotations in an error, in the form of Kubernetes' internal type.
fn shown(annotations: &[Value]) -> String {
    let one = |annotation: &Value| {
        let field = |name: &str| print::json(&Value::from(text(annotation, &[name])));
        format!("{{\"Key\":{},\"ValueExpression\":{}}}", field("key"), field("valueExpression"))
    };
    format!("[{}]", annotations.iter().map(one).collect::<Vec<_>>().join(","))
}

/// The empty policy, for tests and documentation of what is needed.
#[cfg(test)]
pub(crate) fn minimal() -> Value {
    let rule = json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]});
    let mut policy = serde_json::Map::new();
    policy.insert("metadata".to_owned(), json!({"name": "p"}));
    policy.insert(
        "spec".to_owned(),
        json!({"matchConstraints": {"resourceRules": [rule]}, "validations": [{"expression": "true"}]}),
    );
    Value::Object(policy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(strategy: &dyn Strategy, mut object: Value) -> Vec<String> {
        strategy.normalize(&mut object);
        strategy.validate(&object, None).into_iter().map(|error| error.path).collect()
    }

    #[test]
    fn defaults_are_filled_in() {
        let mut policy = minimal();
        PolicyStrategy.normalize(&mut policy);
        assert_eq!(policy["spec"]["failurePolicy"], "Fail");
        let constraints = &policy["spec"]["matchConstraints"];
        assert_eq!(constraints["matchPolicy"], "Equivalent");
        assert_eq!(constraints["resourceRules"][0]["scope"], "*");
        assert_eq!(constraints["namespaceSelector"], json!({}));
    }

    #[test]
    fn policies_are_checked() {
        assert!(paths(&PolicyStrategy, minimal()).is_empty());
        let with = |path: &[&str], value: Value| {
            let mut policy = minimal();
            set(&mut policy, path, value);
            paths(&PolicyStrategy, policy)
        };
        assert_eq!(with(&["spec", "failurePolicy"], json!("Maybe")), ["spec.failurePolicy"]);
        assert_eq!(with(&["spec", "validations"], json!([])), ["spec.validations", "spec.auditAnnotations"]);
        assert_eq!(
            with(&["spec", "validations"], json!([{"expression": "object. =="}])),
            ["spec.validations[0].expression"]
        );
        assert_eq!(
            with(&["spec", "validations"], json!([{"expression": "nobody.x"}])),
            ["spec.validations[0].expression"]
        );
        assert!(with(&["spec", "validations"], json!([{"expression": "true\n"}])).is_empty());
        for (field, source) in [("expression", "1+1"), ("expression", "object.x"), ("expression", "params.x == 1")] {
            let path = format!("spec.validations[0].{field}");
            assert_eq!(with(&["spec", "validations"], json!([{field: source}])), [path], "{source}");
        }
        assert_eq!(
            with(&["spec", "validations"], json!([{"expression": "true", "messageExpression": "1"}])),
            ["spec.validations[0].messageExpression"]
        );
        assert_eq!(
            with(&["spec", "matchConditions"], json!([{"name": "a", "expression": "variables.x"}])),
            ["spec.matchConditions[0].expression"]
        );
        assert_eq!(
            with(&["spec", "auditAnnotations"], json!([{"key": "a b", "valueExpression": "1"}])),
            ["spec.auditAnnotations[0].key", "spec.auditAnnotations[0].valueExpression"]
        );
        assert_eq!(
            with(&["spec", "variables"], json!([{"name": "1a", "expression": "1"}])),
            ["spec.variables[0].name"]
        );
        assert_eq!(with(&["spec", "paramKind"], json!({"kind": "X"})), ["spec.paramKind.apiVersion"]);
        let rules = json!({"resourceRules": [{"apiGroups": ["*", "a"], "apiVersions": ["v1"], "operations": ["MAKE"], "resources": ["x"]}]});
        assert_eq!(
            with(&["spec", "matchConstraints"], rules),
            [
                "spec.matchConstraints.resourceRules[0].apiGroups",
                "spec.matchConstraints.resourceRules[0].operations[0]"
            ]
        );
    }

    #[test]
    fn bindings_are_checked() {
        let binding = |spec: Value| paths(&BindingStrategy, json!({"metadata": {"name": "b"}, "spec": spec}));
        assert!(binding(json!({"policyName": "p", "validationActions": ["Deny"]})).is_empty());
        assert_eq!(binding(json!({})), ["spec.policyName", "spec.validationActions"]);
        assert_eq!(
            binding(json!({"policyName": "p", "validationActions": ["Deny", "Warn"]})),
            ["spec.validationActions"]
        );
        assert_eq!(
            binding(json!({"policyName": "p", "validationActions": ["Deny", "Deny", "X"]})),
            ["spec.validationActions[1]", "spec.validationActions[2]"]
        );
        assert_eq!(
            binding(json!({"policyName": "p", "validationActions": ["Deny"], "paramRef": {}})),
            ["spec.paramRef", "spec.paramRef.parameterNotFoundAction"]
        );
    }
}
