//! What the derives can't say about a CRD: the published order of things and the schema of unions.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use schemars::{Schema, SchemaGenerator, json_schema};

/// Label on every CRD, so that an operator can tell ours from others.
const PART_OF: (&str, &str) = ("app.kubernetes.io/part-of", "pullpiri");

pub(crate) fn finish(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    crd.metadata.labels.get_or_insert_default().insert(PART_OF.0.to_owned(), PART_OF.1.to_owned());
    if let Some(condition) = condition_of(&mut crd) {
        order_numbers(condition);
    }
    crd
}

/// Only the Scenario has one.
fn condition_of(crd: &mut CustomResourceDefinition) -> Option<&mut JSONSchemaProps> {
    if crd.spec.names.kind != "Scenario" {
        return None;
    }
    let schema = crd.spec.versions.first_mut()?.schema.as_mut()?.open_api_v3_schema.as_mut()?;
    schema.properties.as_mut()?.get_mut("spec")?.properties.as_mut()?.get_mut("condition")
}

/// The numbers of a condition, as pullpiri-condition reads them.
const NUMBER: &str = r"^[+-]?[0-9]+(\.[0-9]+)?$";

/// Only numbers have an order: a term that asks whether a signal is greater than a text is refused, because no sample could ever decide it. Not said in
/// [`one_or_all_terms`], since the derive merges the branches of a union into one schema.
fn order_numbers(condition: &mut JSONSchemaProps) {
    let property = |name: &str, schema| JSONSchemaProps {
        properties: Some(BTreeMap::from([(name.to_owned(), schema)])),
        ..JSONSchemaProps::default()
    };
    let equality = ["eq", "ne"].map(|express| JSON(express.into())).to_vec();
    let either = vec![
        property("express", JSONSchemaProps { enum_: Some(equality), ..JSONSchemaProps::default() }),
        property("value", JSONSchemaProps { pattern: Some(NUMBER.to_owned()), ..JSONSchemaProps::default() }),
    ];
    if let Some(JSONSchemaPropsOrArray::Schema(term)) = &mut condition.items {
        term.any_of = Some(either.clone());
    }
    condition.any_of = Some(either);
}

/// A scenario's condition: one term, or a list that must hold in all its items.
///
/// A structural schema has no union of an object and a list, but a node without a type may carry both `properties`
/// (checked when the value is an object) and `items` (checked when it is a list), given `x-kubernetes-preserve-unknown-fields`
/// (apiextensions-apiserver, schema/validation.go). Scalars are refused by bounds that nothing meets.
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
        // No string and no number meets these; who writes one is told what is expected.
        "pattern": "^an object with express, value and operands, or a list of them$a",
        "minimum": 1,
        "maximum": 0,
    })
}
