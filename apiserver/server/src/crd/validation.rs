//! What a CustomResourceDefinition must be, schemas included.

use std::collections::BTreeSet;

use pullpiri_apply::error::{FieldError, FieldErrorKind};
use serde_json::{Value, json};

use crate::builtin::text;

/// As many selectable fields as a version may have.
const MOST_SELECTABLE: usize = 8;

fn error(
    kind: FieldErrorKind,
    path: impl Into<String>,
    value: Option<&Value>,
    detail: impl Into<String>,
) -> FieldError {
    FieldError::new(kind, path, value.cloned(), detail)
}

fn required(path: impl Into<String>) -> FieldError {
    error(FieldErrorKind::Required, path, None, "")
}

fn invalid(path: impl Into<String>, value: &Value, detail: impl Into<String>) -> FieldError {
    error(FieldErrorKind::Invalid, path, Some(value), detail)
}

/// Every rule on the object as it is (a create, or the new state of an update).
pub(super) fn check(crd: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (group, plural) = (text(crd, &["spec", "group"]), text(crd, &["spec", "names", "plural"]));
    let name = text(crd, &["metadata", "name"]);
    if name != format!("{plural}.{group}") {
        errors.push(invalid("metadata.name", &json!(name), "must be spec.names.plural+\".\"+spec.group"));
    }
    check_group(crd, group, &mut errors);
    match text(crd, &["spec", "scope"]) {
        "Cluster" | "Namespaced" => {}
        "" => errors.push(required("spec.scope")),
        other => errors.push(error(
            FieldErrorKind::NotSupported,
            "spec.scope",
            Some(&json!(other)),
            "supported values: \"Cluster\", \"Namespaced\"",
        )),
    }
    if crd.pointer("/spec/preserveUnknownFields") == Some(&Value::Bool(true)) {
        errors.push(invalid(
            "spec.preserveUnknownFields",
            &json!(true),
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
        ));
    }
    check_versions(crd, &mut errors);
    check_names(crd, &mut errors);
    match text(crd, &["spec", "conversion", "strategy"]) {
        "None" | "" => {
            if crd.pointer("/spec/conversion/webhook").is_some() {
                errors.push(error(
                    FieldErrorKind::Forbidden,
                    "spec.conversion.webhook",
                    None,
                    "should not be set when strategy is not set to Webhook",
                ));
            }
        }
        other => errors.push(error(
            FieldErrorKind::NotSupported,
            "spec.conversion.strategy",
            Some(&json!(other)),
            "supported values: \"None\"",
        )),
    }
    errors
}

fn check_group(crd: &Value, group: &str, errors: &mut Vec<FieldError>) {
    if group.is_empty() {
        errors.push(required("spec.group"));
    } else if !is_subdomain(group) {
        errors.push(invalid("spec.group", &json!(group), SUBDOMAIN));
    } else if !group.contains('.') {
        errors.push(invalid("spec.group", &json!(group), "should be a domain with at least one dot"));
    }
    let protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|owner| group.strip_suffix(owner).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')));
    let approval = "api-approved.kubernetes.io";
    if protected && text(crd, &["metadata", "annotations", approval]).is_empty() {
        errors.push(error(
            FieldErrorKind::Required,
            format!("metadata.annotations[{approval}]"),
            None,
            format!(
                "protected groups must have approval annotation \"{approval}\", see \
                 https://github.com/kubernetes/enhancements/pull/1111"
            ),
        ));
    }
}

fn check_versions(crd: &Value, errors: &mut Vec<FieldError>) {
    let none = Vec::new();
    let versions = crd.pointer("/spec/versions").and_then(Value::as_array).unwrap_or(&none);
    let mut names = BTreeSet::new();
    let mut unique = true;
    let mut stored = 0;
    for (index, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{index}]");
        let name = text(version, &["name"]);
        if !is_label(name) || !name.starts_with(|c: char| c.is_ascii_lowercase()) {
            errors.push(invalid(format!("{path}.name"), &json!(name), LABEL_1035));
        }
        unique &= names.insert(name);
        stored += usize::from(version.get("storage").and_then(Value::as_bool) == Some(true));
        check_version(version, &path, errors);
    }
    if !unique {
        errors.push(invalid("spec.versions", &json!(names), "must contain unique version names"));
    }
    if stored != 1 {
        errors.push(invalid("spec.versions", &json!(names), "must have exactly one version marked as storage version"));
    }
    let served = versions.iter().any(|version| version.get("served").and_then(Value::as_bool) == Some(true));
    if !served && !versions.is_empty() {
        tracing::debug!(crd = text(crd, &["metadata", "name"]), "no version is served");
    }
}

fn check_version(version: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let deprecated = version.get("deprecated").and_then(Value::as_bool) == Some(true);
    if let Some(warning) = version.get("deprecationWarning").and_then(Value::as_str) {
        let path = format!("{path}.deprecationWarning");
        if !deprecated {
            errors.push(invalid(&path, &json!(warning), "can only be set for deprecated versions"));
        }
        if warning.len() > 256 {
            errors.push(invalid(&path, &json!(warning), "must be <= 256 characters long"));
        }
        if warning.is_empty() {
            errors.push(invalid(&path, &json!(warning), "must not be an empty string"));
        }
    }
    let schema_path = format!("{path}.schema.openAPIV3Schema");
    match version.pointer("/schema/openAPIV3Schema") {
        None => errors.push(error(FieldErrorKind::Required, schema_path, None, "schemas are required")),
        Some(schema) => errors.extend(schema_errors(schema, &schema_path)),
    }
    let columns = version.get("additionalPrinterColumns").and_then(Value::as_array);
    for (index, column) in columns.into_iter().flatten().enumerate() {
        check_column(column, &format!("{path}.additionalPrinterColumns[{index}]"), errors);
    }
    let fields = version.get("selectableFields").and_then(Value::as_array);
    for (index, field) in fields.into_iter().flatten().enumerate() {
        let json_path = text(field, &["jsonPath"]);
        if !json_path.starts_with('.') {
            let path = format!("{path}.selectableFields[{index}].jsonPath");
            errors.push(if json_path.is_empty() {
                required(path)
            } else {
                invalid(path, &json!(json_path), "must be a simple json path starting with .")
            });
        }
    }
    if fields.is_some_and(|fields| fields.len() > MOST_SELECTABLE) {
        errors.push(error(
            FieldErrorKind::TooMany,
            format!("{path}.selectableFields"),
            None,
            format!("must have at most {MOST_SELECTABLE} items"),
        ));
    }
}

fn check_column(column: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if text(column, &["name"]).is_empty() {
        errors.push(required(format!("{path}.name")));
    }
    match text(column, &["type"]) {
        "" => errors.push(error(
            FieldErrorKind::Required,
            format!("{path}.type"),
            None,
            "must be one of boolean,date,integer,number,string",
        )),
        "boolean" | "date" | "integer" | "number" | "string" => {}
        other => errors.push(invalid(
            format!("{path}.type"),
            &json!(other),
            "must be one of boolean,date,integer,number,string",
        )),
    }
    match text(column, &["jsonPath"]) {
        "" => errors.push(required(format!("{path}.jsonPath"))),
        json_path => {
            if let Err(why) = crate::table::check_path(json_path) {
                errors.push(invalid(format!("{path}.jsonPath"), &json!(json_path), why));
            }
        }
    }
}

fn check_names(crd: &Value, errors: &mut Vec<FieldError>) {
    let name = |key: &str| text(crd, &["spec", "names", key]);
    let mut label = |key: &str, lower: &str, must: bool| {
        let (path, value) = (format!("spec.names.{key}"), name(key));
        if value.is_empty() {
            if must {
                errors.push(required(path));
            }
        } else if !is_label(lower) || !lower.starts_with(|c: char| c.is_ascii_lowercase()) {
            let detail = match key {
                "kind" | "listKind" => format!("may have mixed case, but should otherwise match: {LABEL_1035}"),
                _ => LABEL_1035.to_owned(),
            };
            errors.push(invalid(path, &json!(value), detail));
        }
    };
    label("plural", name("plural"), true);
    label("singular", name("singular"), false);
    label("kind", &name("kind").to_lowercase(), true);
    label("listKind", &name("listKind").to_lowercase(), false);
    if !name("kind").is_empty() && name("kind") == name("listKind") {
        errors.push(invalid("spec.names.listKind", &json!(name("listKind")), "kind and listKind may not be the same"));
    }
    for key in ["shortNames", "categories"] {
        let list = crd.pointer(&format!("/spec/names/{key}")).and_then(Value::as_array);
        for (index, value) in list.into_iter().flatten().enumerate() {
            let short = value.as_str().unwrap_or_default();
            if !is_label(short) || !short.starts_with(|c: char| c.is_ascii_lowercase()) {
                errors.push(invalid(format!("spec.names.{key}[{index}]"), value, LABEL_1035));
            }
        }
    }
}

/// What is wrong with one schema.
fn schema_errors(schema: &Value, path: &str) -> Vec<FieldError> {
    if text(schema, &["type"]) == "object" {
        Vec::new()
    } else {
        vec![invalid(format!("{path}.type"), &json!(text(schema, &["type"])), "must be object at the root")]
    }
}

const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
                          character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
                          validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
                         start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
                         '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

fn is_label(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.iter().all(|&c| inner(c) || c == b'-')
        && bytes.first().is_some_and(|&c| inner(c))
        && bytes.last().is_some_and(|&c| inner(c))
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crd() -> Value {
        json!({
            "metadata": {"name": "widgets.example.com"},
            "spec": {
                "group": "example.com", "scope": "Namespaced",
                "names": {"plural": "widgets", "kind": "Widget", "singular": "widget", "listKind": "WidgetList"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}],
                "conversion": {"strategy": "None"},
            },
        })
    }

    #[test]
    fn each_rule_names_its_field() {
        assert!(check(&crd()).is_empty());
        let cases = [
            ("/metadata/name", json!("x"), "metadata.name"),
            ("/spec/scope", json!(""), "spec.scope"),
            ("/spec/scope", json!("Galaxy"), "spec.scope"),
            ("/spec/preserveUnknownFields", json!(true), "spec.preserveUnknownFields"),
            ("/spec/names/kind", json!(""), "spec.names.kind"),
            ("/spec/names/kind", json!("My Widget"), "spec.names.kind"),
            ("/spec/names/listKind", json!("Widget"), "spec.names.listKind"),
            ("/spec/names/shortNames", json!(["OK?"]), "spec.names.shortNames[0]"),
            ("/spec/versions/0/name", json!("V1"), "spec.versions[0].name"),
            ("/spec/versions/0/storage", json!(false), "spec.versions"),
            ("/spec/versions/0/schema", json!({}), "spec.versions[0].schema.openAPIV3Schema"),
            (
                "/spec/versions/0/schema/openAPIV3Schema/type",
                json!("string"),
                "spec.versions[0].schema.openAPIV3Schema.type",
            ),
            ("/spec/versions/0/deprecationWarning", json!("x"), "spec.versions[0].deprecationWarning"),
            (
                "/spec/versions/0/additionalPrinterColumns",
                json!([{"name": "A", "type": "odd", "jsonPath": ".a"}]),
                "spec.versions[0].additionalPrinterColumns[0].type",
            ),
            (
                "/spec/versions/0/additionalPrinterColumns",
                json!([{"name": "A", "type": "string", "jsonPath": ".a["}]),
                "spec.versions[0].additionalPrinterColumns[0].jsonPath",
            ),
            (
                "/spec/versions/0/selectableFields",
                json!([{"jsonPath": "a"}]),
                "spec.versions[0].selectableFields[0].jsonPath",
            ),
            ("/spec/conversion/strategy", json!("Webhook"), "spec.conversion.strategy"),
        ];
        for (pointer, value, path) in cases {
            let mut object = crd();
            let keys: Vec<&str> = pointer.split('/').skip(1).collect();
            if let Some(slot) = object.pointer_mut(pointer) {
                *slot = value.clone();
            } else {
                let (last, parents) = keys.split_last().unwrap();
                let parent = object.pointer_mut(&format!("/{}", parents.join("/"))).unwrap();
                parent[*last] = value.clone();
            }
            let errors = check(&object);
            assert_eq!(errors.len(), 1, "{pointer} {value}: {errors:?}");
            assert_eq!(errors[0].path, path, "{}", errors[0]);
        }
    }

    #[test]
    fn kubernetes_groups_need_approval() {
        let mut object = crd();
        object["spec"]["group"] = json!("apps.k8s.io");
        object["metadata"]["name"] = json!("widgets.apps.k8s.io");
        assert_eq!(check(&object)[0].path, "metadata.annotations[api-approved.kubernetes.io]");
        object["metadata"]["annotations"] = json!({"api-approved.kubernetes.io": "unapproved, testing"});
        assert!(check(&object).is_empty());
    }
}
