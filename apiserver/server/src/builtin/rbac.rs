//! Roles and bindings. Their rules are those of `pkg/apis/rbac/validation` of Kubernetes 1.37.

use pullpiri_access::GROUP;
use pullpiri_apply::error::FieldError;
use pullpiri_apply::metadata::NameFormat;
use pullpiri_apply::metadata::name;
use serde_json::{Value, json};

use super::{drop_nulls, text};
use crate::registry::Strategy;

/// Roles of a namespace or of the cluster.
#[derive(Debug)]
pub struct RoleStrategy {
    pub namespaced: bool,
}

/// Bindings in a namespace or in the whole cluster.
#[derive(Debug)]
pub struct BindingStrategy {
    pub namespaced: bool,
}

fn list<'a>(object: &'a Value, field: &str) -> &'a [Value] {
    object.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

impl Strategy for RoleStrategy {
    fn name_format(&self) -> NameFormat {
        NameFormat::PathSegment
    }

    fn prepare_for_create(&self, object: &mut Value) {
        drop_nulls(object);
    }

    fn prepare_for_update(&self, object: &mut Value, _old: &Value) {
        drop_nulls(object);
    }

    fn validate(&self, object: &Value, _old: Option<&Value>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for (position, rule) in list(object, "rules").iter().enumerate() {
            check_rule(rule, self.namespaced, &format!("rules[{position}]"), &mut errors);
        }
        if !self.namespaced
            && let Some(aggregation) = object.get("aggregationRule").filter(|rule| !rule.is_null())
        {
            check_aggregation(aggregation, &mut errors);
        }
        errors
    }
}

fn check_rule(rule: &Value, namespaced: bool, path: &str, errors: &mut Vec<FieldError>) {
    if list(rule, "verbs").is_empty() {
        errors.push(FieldError::required(format!("{path}.verbs"), "verbs must contain at least one value"));
    }
    let urls = list(rule, "nonResourceURLs");
    if !urls.is_empty() {
        let mut refuse =
            |detail: &str| errors.push(FieldError::invalid(format!("{path}.nonResourceURLs"), urls.to_vec(), detail));
        if namespaced {
            refuse("namespaced rules cannot apply to non-resource URLs");
        }
        if ["apiGroups", "resources", "resourceNames"].iter().any(|field| !list(rule, field).is_empty()) {
            refuse("rules cannot apply to both regular resources and non-resource URLs");
        }
        return;
    }
    if list(rule, "apiGroups").is_empty() {
        let detail = "resource rules must supply at least one api group";
        errors.push(FieldError::required(format!("{path}.apiGroups"), detail));
    }
    if list(rule, "resources").is_empty() {
        let detail = "resource rules must supply at least one resource";
        errors.push(FieldError::required(format!("{path}.resources"), detail));
    }
}

fn check_aggregation(aggregation: &Value, errors: &mut Vec<FieldError>) {
    const PATH: &str = "aggregationRule.clusterRoleSelectors";
    let selectors = list(aggregation, "clusterRoleSelectors");
    if selectors.is_empty() {
        let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        errors.push(FieldError::required(PATH, detail));
    }
    for (position, selector) in selectors.iter().enumerate() {
        check_selector(selector, &format!("{PATH}[{position}]"), errors);
    }
}

/// As `ValidateLabelSelector` of apimachinery.
fn check_selector(selector: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let labels = selector.get("matchLabels").and_then(Value::as_object);
    for (key, value) in labels.into_iter().flatten() {
        let path = format!("{path}.matchLabels");
        errors.extend(name::qualified_name(key).into_iter().map(|why| FieldError::invalid(&path, key.as_str(), why)));
        let value = value.as_str().unwrap_or_default();
        errors.extend(name::label_value(value).into_iter().map(|why| FieldError::invalid(&path, value, why)));
    }
    for (position, expression) in list(selector, "matchExpressions").iter().enumerate() {
        let path = format!("{path}.matchExpressions[{position}]");
        let values = list(expression, "values");
        match text(expression, &["operator"]) {
            "In" | "NotIn" if values.is_empty() => {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(FieldError::required(format!("{path}.values"), detail));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(format!("{path}.values"), detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                errors.push(FieldError::invalid(format!("{path}.operator"), other, "not a valid selector operator"));
            }
        }
        let key = text(expression, &["key"]);
        errors.extend(
            name::qualified_name(key).into_iter().map(|why| FieldError::invalid(format!("{path}.key"), key, why)),
        );
        for (at, value) in values.iter().filter_map(Value::as_str).enumerate() {
            let path = format!("{path}.values[{at}]");
            errors.extend(name::label_value(value).into_iter().map(|why| FieldError::invalid(&path, value, why)));
        }
    }
}

impl Strategy for BindingStrategy {
    fn name_format(&self) -> NameFormat {
        NameFormat::PathSegment
    }

    /// Groups of users and roles may be left out.
    fn normalize(&self, object: &mut Value) {
        let fill = |part: &mut Value, wanted: bool| {
            let is_absent = text(part, &["apiGroup"]).is_empty();
            if let Some(fields) = part.as_object_mut().filter(|_| wanted && is_absent) {
                fields.insert("apiGroup".to_owned(), json!(GROUP));
            }
        };
        if let Some(role) = object.get_mut("roleRef") {
            fill(role, true);
        }
        for subject in object.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
            let of_users = matches!(text(subject, &["kind"]), "User" | "Group");
            fill(subject, of_users);
        }
    }

    fn prepare_for_create(&self, object: &mut Value) {
        drop_nulls(object);
    }

    fn prepare_for_update(&self, object: &mut Value, _old: &Value) {
        drop_nulls(object);
    }

    fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let role = |field: &str| text(object, &["roleRef", field]);
        if role("apiGroup") != GROUP {
            errors.push(FieldError::not_supported("roleRef.apiGroup", role("apiGroup"), &[GROUP]));
        }
        let kinds: &[&str] = if self.namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
        if !kinds.contains(&role("kind")) {
            errors.push(FieldError::not_supported("roleRef.kind", role("kind"), kinds));
        }
        let given = role("name");
        if given.is_empty() {
            errors.push(FieldError::required("roleRef.name", ""));
        } else {
            let complaints = NameFormat::PathSegment.check(given);
            errors.extend(complaints.into_iter().map(|why| FieldError::invalid("roleRef.name", given, why)));
        }
        for (position, subject) in list(object, "subjects").iter().enumerate() {
            check_subject(subject, self.namespaced, &format!("subjects[{position}]"), &mut errors);
        }
        if let Some(old) = old
            && old.get("roleRef") != object.get("roleRef")
        {
            let given = object.get("roleRef").cloned().unwrap_or_default();
            errors.push(FieldError::invalid("roleRef", given, "field is immutable"));
        }
        errors
    }
}

fn check_subject(subject: &Value, namespaced: bool, path: &str, errors: &mut Vec<FieldError>) {
    let [kind, name, namespace, group] = ["kind", "name", "namespace", "apiGroup"].map(|field| text(subject, &[field]));
    if name.is_empty() {
        errors.push(FieldError::required(format!("{path}.name"), ""));
    }
    match kind {
        "ServiceAccount" => {
            if !name.is_empty() {
                let complaints = NameFormat::Subdomain.check(name);
                errors.extend(complaints.into_iter().map(|why| FieldError::invalid(format!("{path}.name"), name, why)));
            }
            if !group.is_empty() {
                errors.push(FieldError::not_supported(format!("{path}.apiGroup"), group, &[""]));
            }
            if !namespaced && namespace.is_empty() {
                errors.push(FieldError::required(format!("{path}.namespace"), ""));
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                errors.push(FieldError::not_supported(format!("{path}.apiGroup"), group, &[GROUP]));
            }
        }
        other => {
            let kinds = ["ServiceAccount", "User", "Group"];
            errors.push(FieldError::not_supported(format!("{path}.kind"), other, &kinds));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(strategy: &dyn Strategy, object: &Value, old: Option<&Value>) -> Vec<String> {
        strategy.validate(object, old).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rules_of_roles() {
        let none: [&str; 0] = [];
        let cluster = RoleStrategy { namespaced: false };
        let local = RoleStrategy { namespaced: true };
        let rule = |rule: Value| json!({"rules": [rule]});
        let good = rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}));
        assert_eq!(problems(&cluster, &good, None), none);
        assert_eq!(
            problems(&cluster, &rule(json!({})), None),
            [
                "rules[0].verbs: Required value: verbs must contain at least one value",
                "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
                "rules[0].resources: Required value: resource rules must supply at least one resource",
            ]
        );
        let paths = rule(json!({"verbs": ["get"], "nonResourceURLs": ["/a"]}));
        assert_eq!(problems(&cluster, &paths, None), none);
        assert_eq!(
            problems(&local, &paths, None),
            ["rules[0].nonResourceURLs: Invalid value: [\"/a\"]: namespaced rules cannot apply to non-resource URLs"]
        );
        assert_eq!(
            problems(&cluster, &json!({"aggregationRule": {}}), None),
            [
                "aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if aggregationRule is \
                 non-nil"
            ]
        );
    }

    #[test]
    fn bindings() {
        let strategy = BindingStrategy { namespaced: false };
        let mut binding = json!({
            "roleRef": {"kind": "ClusterRole", "name": "view"},
            "subjects": [{"kind": "User", "name": "eve"}, {"kind": "ServiceAccount", "name": "x"}, {"kind": "Robot", "name": ""}],
        });
        strategy.normalize(&mut binding);
        assert_eq!(binding["roleRef"]["apiGroup"], GROUP);
        assert_eq!(binding["subjects"][0]["apiGroup"], GROUP);
        assert_eq!(
            problems(&strategy, &binding, None),
            [
                "subjects[1].namespace: Required value",
                "subjects[2].name: Required value",
                "subjects[2].kind: Unsupported value: \"Robot\": supported values: \"ServiceAccount\", \"User\", \"Group\"",
            ]
        );
        let old = json!({"roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": "edit"}});
        let new = json!({"roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": "view"}});
        assert!(problems(&strategy, &new, Some(&old))[0].ends_with("field is immutable"), "{new}");
        let role = json!({"roleRef": {"apiGroup": "x", "kind": "Role", "name": "a/b"}});
        assert_eq!(
            problems(&strategy, &role, None),
            [
                "roleRef.apiGroup: Unsupported value: \"x\": supported values: \"rbac.authorization.k8s.io\"",
                "roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"",
                "roleRef.name: Invalid value: \"a/b\": may not contain '/'",
            ]
        );
    }
}
