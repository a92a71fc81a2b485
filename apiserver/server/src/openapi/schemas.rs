//! Component schemas: what a group version's objects look like, in Swagger 2.0 form (`#/definitions/…`); OpenAPI 3.0 documents
//! are made from that by [`to_v3`].
//!
//! Built-in kinds come as a web of definitions; a CRD's schema is one tree, to which apiVersion, kind and metadata are added, as
//! kube-apiserver publishes it (`apiextensions-apiserver/pkg/controller/openapi`).

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::builtin::schema::{Root, definitions};
use crate::registry::{Origin, Resource};

pub(super) const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const API_VERSION: &str = "APIVersion defines the group and version that say how to read this object. More info: \
                           https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "What this object is, in CamelCase; it can't change. More info: \
                    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const METADATA: &str = "Standard object's metadata. More info: \
                        https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
const LIST_METADATA: &str = "Standard list metadata. More info: \
                             https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";

/// Which OpenAPI a schema is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    V2,
    V3,
}

/// The definition of a resource's objects: `com.example.v1.Widget`, `io.k8s.api.core.v1.ConfigMap`.
pub(super) fn definition_name(resource: &Resource) -> String {
    let kind = &resource.kind;
    if resource.origin == Origin::BuiltIn {
        return match resource.group.as_str() {
            "" => format!("io.k8s.api.core.v1.{kind}"),
            "apiextensions.k8s.io" => format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.{kind}"),
            pullpiri_access::GROUP => format!("io.k8s.api.rbac.v1.{kind}"),
            group => format!("io.k8s.api.{}.v1.{kind}", group.trim_end_matches(".k8s.io")),
        };
    }
    let mut parts: Vec<&str> = resource.group.split('.').rev().collect();
    parts.push(&resource.version);
    parts.push(kind);
    parts.join(".")
}

/// The definition of lists of a resource's objects.
pub(super) fn list_definition_name(resource: &Resource) -> String {
    let name = definition_name(resource);
    let stem = name.strip_suffix(resource.kind.as_str()).unwrap_or_default();
    format!("{stem}{}", resource.list_kind)
}

/// All definitions that these resources and their paths need.
pub(super) fn all(resources: &[&Arc<Resource>], form: Form) -> Map<String, Value> {
    let builtin = |resource: &&&Arc<Resource>| resource.origin == Origin::BuiltIn;
    let mut roots: Vec<Root> = resources.iter().filter(builtin).filter_map(|r| Root::of(&r.group, &r.kind)).collect();
    if resources.iter().any(|resource| resource.scale.is_some()) {
        roots.push(Root::Scale);
    }
    if resources.iter().any(|resource| resource.strategy.has_token()) {
        roots.push(Root::TokenRequest);
    }
    let mut out = definitions(&roots).by_name;
    for resource in resources {
        if resource.origin != Origin::BuiltIn {
            out.insert(definition_name(resource), custom(resource, form));
        }
        if resource.strategy.review().is_none() {
            out.insert(list_definition_name(resource), list(resource));
        }
    }
    out
}

fn kind_extension(resource: &Resource, kind: &str) -> Value {
    json!([{"group": resource.group, "version": resource.version, "kind": kind}])
}

fn list(resource: &Resource) -> Value {
    let item = definition_name(resource);
    json!({
        "description": format!("{} is a list of {}", resource.list_kind, resource.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"description": API_VERSION, "type": "string"},
            "items": {
                "description": format!("The {}.", resource.plural),
                "type": "array",
                "items": {"$ref": format!("#/definitions/{item}")},
            },
            "kind": {"description": KIND, "type": "string"},
            "metadata": {"description": LIST_METADATA, "$ref": format!("#/definitions/{META}.ListMeta")},
        },
        "x-kubernetes-group-version-kind": kind_extension(resource, &resource.list_kind),
    })
}

/// A custom resource's definition.
fn custom(resource: &Resource, form: Form) -> Value {
    let mut schema = Value::clone(&resource.schema.published());
    let open = form == Form::V2 && flag(&schema, "x-kubernetes-preserve-unknown-fields");
    if open || !schema.is_object() {
        // With any property listed, kubectl would refuse all others.
        schema = json!({"type": "object"});
    } else {
        if form == Form::V2 {
            restrict(&mut schema);
        }
        embed(&mut schema, form);
        if let Some(map) = schema.as_object_mut() {
            let properties = map.entry("properties").or_insert_with(|| Value::Object(Map::new()));
            if let Some(properties) = properties.as_object_mut() {
                properties.insert("apiVersion".to_owned(), json!({"description": API_VERSION, "type": "string"}));
                properties.insert("kind".to_owned(), json!({"description": KIND, "type": "string"}));
                properties.insert("metadata".to_owned(), metadata());
            }
        }
    }
    if let Some(map) = schema.as_object_mut() {
        map.insert("x-kubernetes-group-version-kind".to_owned(), kind_extension(resource, &resource.kind));
        if form == Form::V3 && !resource.selectable_fields.is_empty() {
            let fields =
                resource.selectable_fields.iter().map(|path| json!({"fieldPath": path.trim_start_matches('.')}));
            map.insert("x-kubernetes-selectable-fields".to_owned(), fields.collect());
        }
    }
    schema
}

fn metadata() -> Value {
    json!({"description": METADATA, "$ref": format!("#/definitions/{META}.ObjectMeta")})
}

fn flag(schema: &Value, key: &str) -> bool {
    schema.get(key).and_then(Value::as_bool).unwrap_or(false)
}

/// Calls `visit` for each direct subschema that describes a part of the value.
fn each_child(schema: &mut Value, mut visit: impl FnMut(&mut Value)) {
    let Some(map) = schema.as_object_mut() else { return };
    if let Some(properties) = map.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(&mut visit);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(child) = map.get_mut(key).filter(|child| child.is_object()) {
            visit(child);
        }
    }
}

/// Takes out what Swagger 2.0 doesn't know and what kubectl's validation of it can't cope with: combinations, nullable, and
/// properties of nodes that take unknown fields. (`pkg/controller/openapi/v2/conversion.go`)
fn restrict(schema: &mut Value) {
    let nullable: Vec<String> = schema
        .get("properties")
        .and_then(Value::as_object)
        .map(|all| all.iter().filter(|(_, child)| flag(child, "nullable")).map(|(name, _)| name.clone()).collect())
        .unwrap_or_default();
    let nullable_values = schema.get("additionalProperties").is_some_and(|child| flag(child, "nullable"));
    let open = flag(schema, "x-kubernetes-preserve-unknown-fields");
    let Some(map) = schema.as_object_mut() else { return };
    for key in ["allOf", "anyOf", "oneOf", "not"] {
        map.remove(key);
    }
    let was_nullable = map.remove("nullable") == Some(Value::Bool(true));
    if was_nullable || open {
        map.remove("items");
        map.remove("properties");
    }
    let kind = map.get("type").and_then(Value::as_str).unwrap_or_default();
    if was_nullable || (kind == "array" && !map.contains_key("items")) || (kind == "object" && open) {
        map.remove("type");
    }
    if nullable_values {
        map.remove("required");
    } else if let Some(required) = map.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|field| !field.as_str().is_some_and(|field| nullable.iter().any(|name| name == field)));
        if required.is_empty() {
            map.remove("required");
        }
    }
    each_child(schema, restrict);
}

/// An embedded object has apiVersion, kind and metadata of its own.
fn embed(schema: &mut Value, form: Form) {
    each_child(schema, |child| embed(child, form));
    let open = flag(schema, "x-kubernetes-preserve-unknown-fields");
    if !flag(schema, "x-kubernetes-embedded-resource") || (form == Form::V2 && open) {
        return;
    }
    let Some(map) = schema.as_object_mut() else { return };
    let properties = map.entry("properties").or_insert_with(|| Value::Object(Map::new()));
    if let Some(properties) = properties.as_object_mut() {
        properties.insert("apiVersion".to_owned(), json!({"description": API_VERSION, "type": "string"}));
        properties.insert("kind".to_owned(), json!({"description": KIND, "type": "string"}));
        properties.insert("metadata".to_owned(), metadata());
    }
    let required = map.entry("required").or_insert_with(|| json!([]));
    if let Some(required) = required.as_array_mut() {
        for field in ["kind", "apiVersion"] {
            if !required.iter().any(|known| known == field) {
                required.push(json!(field));
            }
        }
    }
}

/// Rewrites references: `#/components/schemas/…`, wrapped in `allOf` where they have siblings (OpenAPI 3.0 ignores those otherwise).
pub(super) fn to_v3(node: &mut Value) {
    match node {
        Value::Object(map) => {
            // A reference's target is text; a property that is called `$ref` is an object.
            if let Some(Value::String(target)) = map.get("$ref")
                && let Some(name) = target.strip_prefix("#/definitions/")
            {
                let reference = json!({"$ref": format!("#/components/schemas/{name}")});
                map.remove("$ref");
                if map.is_empty() {
                    *node = reference;
                } else {
                    map.insert("allOf".to_owned(), json!([reference]));
                }
                return;
            }
            map.values_mut().for_each(to_v3);
        }
        Value::Array(items) => items.iter_mut().for_each(to_v3),
        _ => {}
    }
}
