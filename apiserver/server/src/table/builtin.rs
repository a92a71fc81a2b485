//! Columns of the built-in kinds, as `pkg/printers/internalversion` of Kubernetes 1.37 has them.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::age::since;
use super::{AGE, NAME};
use crate::builtin::text;
use crate::registry::{Origin, Resource};

struct Definition(&'static str, &'static str, &'static str, u8);

fn definitions(columns: &[Definition]) -> Value {
    let columns = columns.iter().map(|Definition(name, kind, description, priority)| {
        let format = if *name == "Name" { "name" } else { "" };
        json!({"name": name, "type": kind, "format": format, "description": description, "priority": priority})
    });
    Value::Array(columns.collect())
}

pub(super) fn columns(resource: &Resource) -> Option<Value> {
    if resource.origin != Origin::BuiltIn {
        return None;
    }
    let name = || Definition("Name", "string", NAME, 0);
    let aged = || Definition("Age", "string", AGE, 0);
    Some(match resource.kind.as_str() {
        "Namespace" => definitions(&[name(), Definition("Status", "string", "The status of the namespace", 0), aged()]),
        "ConfigMap" => definitions(&[name(), Definition("Data", "string", "How many keys it holds.", 0), aged()]),
        "Secret" => definitions(&[
            name(),
            Definition("Type", "string", "Says which keys the data has and who reads them.", 0),
            Definition("Data", "string", "How many keys it holds.", 0),
            aged(),
        ]),
        "ServiceAccount" => definitions(&[name(), aged()]),
        "ResourceQuota" => definitions(&[
            name(),
            Definition("Request", "string", "What may be requested, and how much of it is.", 0),
            Definition("Limit", "string", "What may be the limits, and how much of it is.", 0),
            aged(),
        ]),
        "Lease" => definitions(&[name(), Definition("Holder", "string", "Who holds the lease.", 0), aged()]),
        "Event" => definitions(&[
            Definition("Last Seen", "string", "When it was last recorded.", 0),
            Definition("Type", "string", "Normal or Warning.", 0),
            Definition("Reason", "string", "Why it happened, as one word.", 0),
            Definition("Object", "string", "What it is about.", 0),
            Definition("Subobject", "string", "The part of the object that it is about.", 1),
            Definition("Source", "string", "Who reports it.", 1),
            Definition("Message", "string", "What happened, for people.", 0),
            Definition("First Seen", "string", "When it was first recorded.", 1),
            Definition("Count", "string", "How many times it happened.", 1),
            Definition("Name", "string", NAME, 1),
        ]),
        "RoleBinding" | "ClusterRoleBinding" => definitions(&[
            name(),
            Definition("Role", "string", "The role that it gives.", 0),
            aged(),
            Definition("Users", "string", "To which users.", 1),
            Definition("Groups", "string", "To which groups.", 1),
            Definition("ServiceAccounts", "string", "To which service accounts.", 1),
        ]),
        "CustomResourceDefinition" => definitions(&[
            name(),
            Definition("Scope", "string", "Cluster/Namespaced", 0),
            Definition("Versions", "string", "Served versions", 0),
            Definition("Created At", "date", AGE, 0),
            Definition("Group", "string", "API group", 1),
            Definition("Kind", "string", "CustomResource kind", 1),
            Definition("ShortNames", "string", "Short names", 1),
            Definition("Established", "boolean", "Established status", 1),
        ]),
        _ => definitions(&[name(), Definition("Created At", "date", AGE, 0)]),
    })
}

fn count(object: &Value, bags: &[&str]) -> usize {
    bags.iter().map(|bag| object.get(*bag).and_then(Value::as_object).map_or(0, serde_json::Map::len)).sum()
}

/// The subjects of a binding of one kind, a service account with its namespace.
fn subjects(binding: &Value, kind: &str) -> String {
    let all = binding.get("subjects").and_then(Value::as_array);
    let of_kind = all.into_iter().flatten().filter(|subject| text(subject, &["kind"]) == kind);
    let names: Vec<String> = of_kind
        .map(|subject| match (kind, text(subject, &["namespace"])) {
            ("ServiceAccount", namespace) => format!("{namespace}/{}", text(subject, &["name"])),
            _ => text(subject, &["name"]).to_owned(),
        })
        .collect();
    names.join(", ")
}

/// `None` for a kind without columns of its own.
pub(super) fn cells(resource: &Resource, object: &Value, now: Timestamp) -> Option<Vec<Value>> {
    let name = json!(text(object, &["metadata", "name"]));
    let created = text(object, &["metadata", "creationTimestamp"]);
    let age = json!(since(Some(created), now));
    Some(match resource.kind.as_str() {
        "Namespace" => vec![name, json!(text(object, &["status", "phase"])), age],
        "ConfigMap" => vec![name, json!(count(object, &["data", "binaryData"])), age],
        "Secret" => vec![name, json!(text(object, &["type"])), json!(count(object, &["data"])), age],
        "ServiceAccount" => vec![name, age],
        "ResourceQuota" => {
            let [requests, limits] = quota(object);
            vec![name, json!(requests), json!(limits), age]
        }
        "Lease" => vec![name, json!(text(object, &["spec", "holderIdentity"])), age],
        "Event" if resource.strategy.view_of().is_some() => {
            let mut core = object.clone();
            resource.strategy.to_stored(&mut core);
            event(&core, now)
        }
        "Event" => event(object, now),
        "RoleBinding" | "ClusterRoleBinding" => {
            let role = format!("{}/{}", text(object, &["roleRef", "kind"]), text(object, &["roleRef", "name"]));
            let [users, groups, accounts] = ["User", "Group", "ServiceAccount"].map(|kind| subjects(object, kind));
            vec![name, json!(role), age, json!(users), json!(groups), json!(accounts)]
        }
        "CustomResourceDefinition" => definition(object, name, json!(created)),
        _ => vec![name, json!(created)],
    })
}

fn definition(object: &Value, name: Value, created: Value) -> Vec<Value> {
    let list = |path: &str| object.pointer(path).and_then(Value::as_array).into_iter().flatten();
    let versions: Vec<String> = list("/spec/versions")
        .filter(|version| version["served"] == true)
        .map(|version| {
            let stored = if version["storage"] == true { "(storage)" } else { "" };
            format!("{}{stored}", text(version, &["name"]))
        })
        .collect();
    let short: Vec<&str> = list("/status/acceptedNames/shortNames").filter_map(Value::as_str).collect();
    let established =
        list("/status/conditions").any(|condition| condition["type"] == "Established" && condition["status"] == "True");
    let spec = |path: &[&str]| json!(text(&object["spec"], path));
    vec![
        name,
        spec(&["scope"]),
        json!(versions.join(",")),
        created,
        spec(&["group"]),
        spec(&["names", "kind"]),
        json!(short.join(",")),
        json!(established),
    ]
}

/// `NAME: USED/HARD` of what isn't, and what is, a limit of Pods.
fn quota(object: &Value) -> [String; 2] {
    let hard = object.pointer("/spec/hard").and_then(Value::as_object);
    let (limits, requests): (Vec<_>, Vec<_>) =
        hard.into_iter().flatten().partition(|(name, _)| name.starts_with("limits"));
    [requests, limits].map(|of| {
        let mut entries: Vec<String> = of
            .into_iter()
            .map(|(name, hard)| {
                let used = text(object, &["status", "used", name]);
                let used = if used.is_empty() { "0" } else { used };
                format!("{name}: {used}/{}", hard.as_str().unwrap_or_default())
            })
            .collect();
        entries.sort();
        entries.join(", ")
    })
}

fn event(event: &Value, now: Timestamp) -> Vec<Value> {
    let at = |path: &[&str]| {
        let time = text(event, path);
        (!time.is_empty()).then(|| since(Some(time), now))
    };
    let either = |a: &[&str], b: &[&str]| {
        let first = text(event, a);
        if first.is_empty() { text(event, b) } else { first }
    };
    let first = at(&["firstTimestamp"]).unwrap_or_else(|| since(Some(text(event, &["eventTime"])), now));
    let mut last = at(&["lastTimestamp"]).unwrap_or_else(|| first.clone());
    let mut count = event.get("count").and_then(Value::as_i64).filter(|&count| count != 0).unwrap_or(1);
    if let Some(series) = event.get("series") {
        last = since(Some(text(series, &["lastObservedTime"])), now);
        count = series.get("count").and_then(Value::as_i64).unwrap_or_default();
    }
    let kind = text(event, &["involvedObject", "kind"]).to_lowercase();
    let name = text(event, &["involvedObject", "name"]);
    let object = if name.is_empty() { kind } else { format!("{kind}/{name}") };
    let component = either(&["source", "component"], &["reportingComponent"]);
    let instance = either(&["source", "host"], &["reportingInstance"]);
    let source = if instance.is_empty() { component.to_owned() } else { format!("{component}, {instance}") };
    vec![
        json!(last),
        json!(text(event, &["type"])),
        json!(text(event, &["reason"])),
        json!(object),
        json!(text(event, &["involvedObject", "fieldPath"])),
        json!(source),
        json!(text(event, &["message"]).trim()),
        json!(first),
        json!(count),
        json!(text(event, &["metadata", "name"])),
    ]
}
