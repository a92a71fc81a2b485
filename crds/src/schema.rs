//! What the derives can't say about a CRD: the published order of things and the schema of unions.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool, ValidationRule,
};
use schemars::{Schema, SchemaGenerator, json_schema};

/// Label on every CRD, so that an operator can tell ours from others.
const PART_OF: (&str, &str) = ("app.kubernetes.io/part-of", "pullpiri");

pub(crate) fn finish(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    crd.metadata.labels.get_or_insert_default().insert(PART_OF.0.to_owned(), PART_OF.1.to_owned());
    for version in &mut crd.spec.versions {
        if let Some(root) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            finish_properties(root);
        }
    }
    if let Some(condition) = condition_of(&mut crd) {
        expect_terms(condition);
    }
    crd
}

/// What every property below this node needs, whichever type it comes from.
fn finish_properties(schema: &mut JSONSchemaProps) {
    for (name, property) in schema.properties.iter_mut().flatten() {
        leave_out_null(property);
        if LABEL_MAPS.contains(&name.as_str()) {
            check_labels(property);
        }
        finish_properties(property);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(item)) = &mut schema.items {
        finish_properties(item);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(value)) = &mut schema.additional_properties {
        finish_properties(value);
    }
}

/// An optional enumeration lists no null among what it supports, nor is it nullable, which would accept a null only if it were listed. An API
/// server drops the null of a property that isn't nullable and has no default when an object is created or updated (apiextensions-apiserver,
/// schema/defaulting/prune.go); kube-apiserver's server-side apply refuses it, naming the field.
fn leave_out_null(property: &mut JSONSchemaProps) {
    if let Some(values) = &mut property.enum_ {
        values.retain(|value| !value.0.is_null());
        property.nullable = None;
    }
}

/// The properties in which people write labels to select by.
const LABEL_MAPS: [&str; 2] = ["nodeSelector", "matchLabels"];
/// Label values, and the name in a label's key, are at most this long.
const MAX_LABEL: i64 = 63;
/// What a label's value may be (apimachinery, validation.IsValidLabelValue); at most [`MAX_LABEL`] characters.
const LABEL_VALUE: &str = r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$";
/// What a label's key may be (validation.IsQualifiedName): an optional DNS subdomain with `/`, and a name.
const LABEL_KEY: &str = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]$";

/// What is expected of a key, in words.
const EXPECTED_KEY: &str = "expected at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends, after an optional DNS \
                            subdomain and '/', as in zone or example.com/zone";

/// No object could carry a label that breaks these rules. A schema can't say what keys are like; the rule costs little, since the maps are bounded.
/// Keys aren't: a kube-apiserver accepts an expression that tells of them only by `format`, and tells the plain message of one that is too long.
fn check_labels(map: &mut JSONSchemaProps) {
    if let Some(JSONSchemaPropsOrBool::Schema(value)) = &mut map.additional_properties {
        value.max_length = Some(MAX_LABEL);
        value.pattern = Some(LABEL_VALUE.to_owned());
    }
    let is_key = format!("key.matches('{LABEL_KEY}') && key.split('/')[0].size() <= 253");
    map.x_kubernetes_validations.get_or_insert_default().push(ValidationRule {
        rule: format!("self.all(key, {is_key})"),
        message: Some(format!("a key is no label key: {EXPECTED_KEY}")),
        message_expression: Some(format!(
            "\"a key is no label key: {EXPECTED_KEY}; got %s\".format([self.filter(key, !({is_key}))])"
        )),
        ..ValidationRule::default()
    });
}

/// Only the Scenario has one.
fn condition_of(crd: &mut CustomResourceDefinition) -> Option<&mut JSONSchemaProps> {
    if crd.spec.names.kind != "Scenario" {
        return None;
    }
    let schema = crd.spec.versions.first_mut()?.schema.as_mut()?.open_api_v3_schema.as_mut()?;
    schema.properties.as_mut()?.get_mut("spec")?.properties.as_mut()?.get_mut("condition")
}

/// The numbers of a condition, as pullpiri-condition reads them; the second alternative meets nothing and says in a message what is expected.
const NUMBER: &str = r"^[+-]?[0-9]+(\.[0-9]+)?$|^a number is expected for lt, le, gt and ge$a";
/// What a condition is.
const TERMS: &str = "an object with express, value and operands, or a list of them";

/// What a condition's branches say, of which one must hold. Not said in [`one_or_all_terms`], since the derive merges the branches of a union
/// into one schema.
///
/// Only numbers have an order: a term that asks whether a signal is greater than a text is refused, because no sample could ever decide it.
/// Scalars are no terms. Where no branch holds, an API server tells what is wrong with the one that fits best, and of several the first
/// (kube-openapi, validation/validate/schema_props.go). So the order is that of what should be told.
fn expect_terms(condition: &mut JSONSchemaProps) {
    let texts = |texts: &[&str]| Some(texts.iter().map(|text| JSON((*text).into())).collect());
    let property = |name: &str, schema| JSONSchemaProps {
        properties: Some(BTreeMap::from([(name.to_owned(), schema)])),
        ..JSONSchemaProps::default()
    };
    let not = |enum_| Some(Box::new(JSONSchemaProps { enum_, ..JSONSchemaProps::default() }));
    let order = not(texts(&["lt", "le", "gt", "ge"]));
    let numbers_or_equality = vec![
        property("value", JSONSchemaProps { pattern: Some(NUMBER.to_owned()), ..JSONSchemaProps::default() }),
        property("express", JSONSchemaProps { not: order, ..JSONSchemaProps::default() }),
    ];
    if let Some(JSONSchemaPropsOrArray::Schema(term)) = &mut condition.items {
        term.any_of = Some(numbers_or_equality.clone());
    }
    // The first branch holds for one text only, which the pattern beside it refuses.
    let told = JSONSchemaProps { enum_: texts(&[TERMS]), ..JSONSchemaProps::default() };
    let no_scalars = numbers_or_equality.into_iter().map(|branch| JSONSchemaProps {
        minimum: Some(1.0),
        maximum: Some(0.0),
        not: not(Some(vec![JSON(true.into()), JSON(false.into())])),
        ..branch
    });
    condition.any_of = Some(std::iter::once(told).chain(no_scalars).collect());
}

/// A scenario's condition: one term, or a list that must hold in all its items.
///
/// A structural schema has no union of an object and a list, but a node without a type may carry both `properties`
/// (checked when the value is an object) and `items` (checked when it is a list), given `x-kubernetes-preserve-unknown-fields`
/// (apiextensions-apiserver, schema/validation.go). Scalars are refused by a pattern that nothing meets and by [`expect_terms`].
pub(crate) fn one_or_all_terms(generator: &mut SchemaGenerator) -> Schema {
    let term = crate::scenario::Term::json_schema_inline(generator);
    let properties = term.get("properties").cloned().unwrap_or_default();
    let required = term.get("required").cloned().unwrap_or_default();
    json_schema!({
        "description": "When the action is taken: one comparison, or a list of comparisons that must all hold. Absent or null: at once.",
        "nullable": true,
        "x-kubernetes-preserve-unknown-fields": true,
        "properties": properties,
        "required": required,
        "items": term,
        "minItems": 1,
        "maxItems": 32,
        // No string meets it; who writes one is told what is expected.
        "pattern": format!("^{TERMS}$a"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(schema: &JSONSchemaProps, path: &str, lacking: &mut Vec<String>) {
        for (name, property) in schema.properties.iter().flatten() {
            let path = format!("{path}.{name}");
            if property.description.as_deref().is_none_or(|text| text.trim().is_empty()) {
                lacking.push(path.clone());
            }
            if property.enum_.iter().flatten().any(|value| value.0.is_null() || property.nullable == Some(true)) {
                lacking.push(format!("{path}: null"));
            }
            walk(property, &path, lacking);
        }
        if let Some(JSONSchemaPropsOrArray::Schema(item)) = &schema.items {
            walk(item, &format!("{path}[]"), lacking);
        }
        if let Some(JSONSchemaPropsOrBool::Schema(value)) = &schema.additional_properties {
            walk(value, &format!("{path}{{}}"), lacking);
        }
    }

    #[test]
    fn every_field_is_described_and_no_enumeration_lists_null() {
        let mut lacking = Vec::new();
        for crd in crate::all().into_iter().chain(crate::signal::definition()) {
            for version in &crd.spec.versions {
                let root = version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref()).unwrap();
                assert!(root.properties.iter().flatten().count() > 0, "{} has no fields", crd.spec.names.kind);
                walk(root, &crd.spec.names.kind, &mut lacking);
            }
        }
        assert!(lacking.is_empty(), "{lacking:#?}");
    }
}
