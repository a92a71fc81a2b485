//! Schemas of the built-in kinds, made at run time from k8s-openapi's types.
//!
//! Two forms. [`definitions`]: named definitions that refer to each other, as `/openapi` publishes them. [`structural`]: one tree
//! without references, for defaulting, pruning, server-side apply and strategic merge patches. The extensions that the Go types
//! carry as markers (list types, merge keys) are not in k8s-openapi, so `facts` says them.
//!
//! Nothing here is kept: a caller that needs a form again builds it again (about a millisecond) or keeps it.
//!
//! Source of the facts: `api/openapi-spec/swagger.json` of Kubernetes 1.37.

mod facts;
mod root;

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

pub use self::root::Root;

use self::facts::{ANY, ATOMIC, FREE, LISTS, OPTIONAL};

const PREFIX: &str = "#/definitions/";

/// Named definitions, with references of the form `#/definitions/NAME` (siblings allowed, as Swagger 2.0 documents have them).
#[derive(Debug)]
pub struct Definitions {
    pub by_name: Map<String, Value>,
    /// The definition of each root asked for, in order.
    pub roots: Vec<&'static str>,
}

/// The definitions of these kinds and all that they refer to, and those that every group's paths refer to (DeleteOptions, Status …).
#[must_use]
pub fn definitions(roots: &[Root]) -> Definitions {
    let mut generator = SchemaSettings::draft07().into_generator();
    generator.subschema_for::<meta::DeleteOptions>();
    generator.subschema_for::<meta::Status>();
    generator.subschema_for::<meta::ListMeta>();
    generator.subschema_for::<meta::ObjectMeta>();
    generator.subschema_for::<meta::Patch>();
    generator.subschema_for::<meta::APIResourceList>();
    definitions_with(generator, roots, true)
}

fn definitions_with(mut generator: SchemaGenerator, roots: &[Root], shared: bool) -> Definitions {
    let names: Vec<&'static str> = roots.iter().map(|root| root.add(&mut generator)).collect();
    let mut by_name: Map<String, Value> = generator.take_definitions(false);
    for (name, definition) in &mut by_name {
        complete(name, definition);
    }
    for (root, name) in roots.iter().zip(&names) {
        let (group, kind) = root.group_and_kind();
        set_kind(&mut by_name, name, group, kind);
        if let Some(definition) = by_name.get_mut(*name).and_then(Value::as_object_mut)
            && let Some(required) = definition.get_mut("required").and_then(Value::as_array_mut)
        {
            // k8s-openapi's types always have metadata; on the wire it may be absent.
            required.retain(|field| field != "metadata" || *root == Root::CoreEvent);
            if required.is_empty() {
                definition.remove("required");
            }
        }
    }
    if shared {
        set_kind(&mut by_name, "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions", "", "DeleteOptions");
        set_kind(&mut by_name, "io.k8s.apimachinery.pkg.apis.meta.v1.Status", "", "Status");
        set_kind(&mut by_name, "io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList", "", "APIResourceList");
    }
    Definitions { by_name, roots: names }
}

fn set_kind(by_name: &mut Map<String, Value>, name: &str, group: &str, kind: &str) {
    if let Some(definition) = by_name.get_mut(name).and_then(Value::as_object_mut) {
        definition.insert(
            "x-kubernetes-group-version-kind".to_owned(),
            json!([{"group": group, "kind": kind, "version": "v1"}]),
        );
    }
}

/// Adds what k8s-openapi's schema of a definition lacks, and takes out what the Go types don't publish.
fn complete(name: &str, definition: &mut Value) {
    let Some(map) = definition.as_object_mut() else { return };
    if ANY.contains(&name) {
        map.retain(|key, _| key == "description");
        return;
    }
    if OPTIONAL.contains(&name) {
        map.remove("required");
    }
    if ATOMIC.contains(&name) {
        map.insert("x-kubernetes-map-type".to_owned(), json!("atomic"));
    }
    let Some(properties) = map.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for list in LISTS.iter().filter(|list| list.definition == name) {
        let Some(property) = properties.get_mut(list.property).and_then(Value::as_object_mut) else { continue };
        property.insert("x-kubernetes-list-type".to_owned(), json!(list.kind));
        if let Some(key) = list.map_key {
            property.insert("x-kubernetes-list-map-keys".to_owned(), json!([key]));
        }
        if list.merges {
            property.insert("x-kubernetes-patch-strategy".to_owned(), json!("merge"));
            if let Some(key) = list.map_key {
                property.insert("x-kubernetes-patch-merge-key".to_owned(), json!(key));
            }
        }
    }
}

/// The kind's schema as one tree. Every typed field is nullable and none is required, because that is how Go decodes a built-in
/// kind (null and absent are the zero value); what a kind insists on is its strategy's to say.
#[must_use]
pub fn structural(root: Root) -> Arc<Value> {
    let definitions = definitions_with(SchemaSettings::draft07().into_generator(), &[root], false);
    let Some(name) = definitions.roots.first() else { return Arc::new(Value::Null) };
    let mut tree = inline(&definitions.by_name, name, &mut BTreeSet::new());
    if let Some(map) = tree.as_object_mut() {
        map.remove("nullable");
        if let Some(metadata) = map.get_mut("properties").and_then(|properties| properties.get_mut("metadata"))
            && let Some(metadata) = metadata.as_object_mut()
        {
            metadata.remove("nullable");
        }
    }
    Arc::new(tree)
}

fn inline(definitions: &Map<String, Value>, name: &str, above: &mut BTreeSet<String>) -> Value {
    if ANY.contains(&name) {
        return json!({"x-kubernetes-preserve-unknown-fields": true, "nullable": true});
    }
    if FREE.contains(&name) || !above.insert(name.to_owned()) {
        return json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "nullable": true});
    }
    let mut tree = definitions.get(name).cloned().unwrap_or(Value::Null);
    resolve(definitions, &mut tree, above);
    above.remove(name);
    tree
}

/// Replaces references below a schema node, and drops what only documents.
fn resolve(definitions: &Map<String, Value>, node: &mut Value, above: &mut BTreeSet<String>) {
    if let Some(target) = node.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix(PREFIX)) {
        *node = inline(definitions, target, above);
        return;
    }
    let Some(map) = node.as_object_mut() else { return };
    map.remove("description");
    map.remove("required");
    map.remove("x-kubernetes-group-version-kind");
    map.insert("nullable".to_owned(), Value::Bool(true));
    if let Some(properties) = map.get_mut("properties").and_then(Value::as_object_mut) {
        for (_, property) in properties {
            resolve(definitions, property, above);
        }
    }
    for key in ["items", "additionalProperties"] {
        if let Some(child) = map.get_mut(key) {
            resolve(definitions, child, above);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references(node: &Value, out: &mut BTreeSet<String>) {
        match node {
            Value::Object(map) => {
                if let Some(Value::String(target)) = map.get("$ref") {
                    out.insert(target.strip_prefix(PREFIX).unwrap().to_owned());
                }
                map.values().for_each(|child| references(child, out));
            }
            Value::Array(items) => items.iter().for_each(|child| references(child, out)),
            _ => {}
        }
    }

    #[test]
    fn definitions_are_closed_and_every_fact_has_its_place() {
        let all = [
            Root::Namespace,
            Root::ConfigMap,
            Root::Secret,
            Root::ServiceAccount,
            Root::CoreEvent,
            Root::Event,
            Root::Lease,
            Root::PodTemplate,
            Root::ResourceQuota,
            Root::ValidatingAdmissionPolicy,
            Root::ValidatingAdmissionPolicyBinding,
            Root::CustomResourceDefinition,
            Root::ClusterRole,
            Root::Role,
            Root::ClusterRoleBinding,
            Root::RoleBinding,
            Root::SubjectAccessReview,
            Root::LocalSubjectAccessReview,
            Root::SelfSubjectAccessReview,
            Root::SelfSubjectRulesReview,
            Root::SelfSubjectReview,
            Root::TokenReview,
            Root::TokenRequest,
        ];
        let definitions = definitions(&all);
        let mut targets = BTreeSet::new();
        for definition in definitions.by_name.values() {
            references(definition, &mut targets);
        }
        for target in &targets {
            assert!(definitions.by_name.contains_key(target), "{target} is referred to but not defined");
        }
        for list in LISTS {
            let property = &definitions.by_name[list.definition]["properties"][list.property];
            assert_eq!(property["type"], "array", "{} {}", list.definition, list.property);
        }
        for name in ATOMIC.iter().chain(ANY) {
            assert!(definitions.by_name.contains_key(*name), "{name}");
        }
        assert_eq!(definitions.roots.len(), all.len());
    }

    #[test]
    fn structural_trees_have_no_references_and_keep_merge_keys() {
        for root in [Root::Namespace, Root::CustomResourceDefinition, Root::CoreEvent] {
            let tree = structural(root);
            let mut targets = BTreeSet::new();
            references(&tree, &mut targets);
            assert!(targets.is_empty(), "{root:?}: {targets:?}");
            let owners = &tree["properties"]["metadata"]["properties"]["ownerReferences"];
            assert_eq!(owners["x-kubernetes-list-map-keys"], json!(["uid"]));
            assert_eq!(owners["x-kubernetes-patch-merge-key"], "uid");
            assert_eq!(owners["items"]["x-kubernetes-map-type"], "atomic");
            assert_eq!(tree["type"], "object");
            assert!(tree.get("nullable").is_none());
        }
        let crd = structural(Root::CustomResourceDefinition);
        let version = &crd["properties"]["spec"]["properties"]["versions"]["items"]["properties"];
        assert_eq!(
            version["schema"]["properties"]["openAPIV3Schema"],
            json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "nullable": true})
        );
    }
}
