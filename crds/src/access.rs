//! Who needs which of these resources: the controllers' role, what a node may do, and the parts of the roles for people (`view`, `edit`, `admin`).
//! Each is exactly what its user asks for; a test takes every verb away in turn and sees something break.

use serde_json::{Value, json};

use crate::GROUP;
use crate::names::{
    CONTROLLERS_LEASE, CONTROLLERS_LEASE_NAMESPACE, NODE_FINALIZER, NODE_GROUP, NODE_LEASE_NAMESPACE, NODE_USER_PREFIX,
    PUBLISHED_NODE,
};

/// The user that the controllers authenticate as.
pub const CONTROLLERS_USER: &str = "system:pullpiri:controllers";
const RBAC: &str = "rbac.authorization.k8s.io";
const SIGNALS: &str = "signals.pullpiri.io";

const WATCH: [&str; 2] = ["list", "watch"];
const READ: [&str; 3] = ["get", "list", "watch"];
const WRITE: [&str; 5] = ["create", "delete", "deletecollection", "patch", "update"];
/// What people declare.
const DECLARED: [&str; 8] =
    ["claims", "models", "networks", "packages", "policies", "scenarios", "schedules", "volumes"];

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": [group], "resources": resources, "verbs": verbs})
}

fn role(kind: &str, name: &str, rules: &[Value]) -> Value {
    json!({"apiVersion": format!("{RBAC}/v1"), "kind": kind, "metadata": {"name": name}, "rules": rules})
}

fn binding(kind: &str, role: &str) -> Value {
    json!({
        "apiVersion": format!("{RBAC}/v1"), "kind": format!("{kind}Binding"),
        "metadata": {"name": CONTROLLERS_USER},
        "roleRef": {"apiGroup": RBAC, "kind": kind, "name": role},
        "subjects": [{"apiGroup": RBAC, "kind": "User", "name": CONTROLLERS_USER}],
    })
}

/// What the controllers do in every namespace.
#[must_use]
pub fn controllers_rules() -> Vec<Value> {
    vec![
        rule(
            GROUP,
            &[
                "claims",
                "modelinstances",
                "models",
                "networks",
                "networkslices",
                "noderuntimes",
                "packages",
                "policies",
                "scenarios",
                "schedules",
                "volumes",
            ],
            &WATCH,
        ),
        rule(GROUP, &["claims", "modelinstances", "networkslices"], &["create", "delete", "patch"]),
        rule(
            GROUP,
            &[
                "modelinstances/status",
                "networks/status",
                "noderuntimes/status",
                "packages/status",
                "scenarios/status",
                "schedules/status",
            ],
            &["patch"],
        ),
        rule(SIGNALS, &["signals"], &WATCH),
        rule("events.k8s.io", &["events"], &["create", "patch"]),
    ]
}

/// What the controllers do in the namespace of the nodes' heartbeats.
#[must_use]
pub fn controllers_lease_rules() -> Vec<Value> {
    vec![rule("coordination.k8s.io", &["leases"], &WATCH)]
}

/// What several controllers do to find out which of them acts, in the namespace of their Lease.
#[must_use]
pub fn controllers_election_rules() -> Vec<Value> {
    let mut own = rule("coordination.k8s.io", &["leases"], &["get", "list", "watch", "update", "patch"]);
    own["resourceNames"] = json!([CONTROLLERS_LEASE]);
    // What is made has no name yet when it is asked for.
    vec![rule("coordination.k8s.io", &["leases"], &["create"]), own]
}

/// Roles and bindings: the controllers', and those that `view`, `edit` and `admin` gather.
#[must_use]
pub fn roles() -> Vec<Value> {
    let mut leases = role("Role", CONTROLLERS_USER, &controllers_lease_rules());
    let mut lease_binding = binding("Role", CONTROLLERS_USER);
    for object in [&mut leases, &mut lease_binding] {
        object["metadata"]["namespace"] = json!(NODE_LEASE_NAMESPACE);
    }
    let mut election = role("Role", CONTROLLERS_USER, &controllers_election_rules());
    let mut election_binding = binding("Role", CONTROLLERS_USER);
    for object in [&mut election, &mut election_binding] {
        object["metadata"]["namespace"] = json!(CONTROLLERS_LEASE_NAMESPACE);
    }
    let gathered = |by: &str, rules: &[Value]| {
        let mut role = role("ClusterRole", &format!("system:pullpiri:aggregate-to-{by}"), rules);
        role["metadata"]["labels"] = json!({format!("{RBAC}/aggregate-to-{by}"): "true"});
        role
    };
    let all = ["modelinstances"].into_iter().chain(DECLARED);
    let shown: Vec<String> = all.flat_map(|plural| [plural.to_owned(), format!("{plural}/status")]).collect();
    let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
    vec![
        role("ClusterRole", CONTROLLERS_USER, &controllers_rules()),
        binding("ClusterRole", CONTROLLERS_USER),
        leases,
        lease_binding,
        election,
        election_binding,
        gathered("view", &[rule(GROUP, &shown, &READ), rule(SIGNALS, &["signals"], &READ)]),
        gathered("edit", &[rule(GROUP, &DECLARED, &WRITE), rule(SIGNALS, &["signals"], &WRITE)]),
    ]
}

/// What a node may do, in the form of the API server's node policy.
#[must_use]
pub fn nodes() -> Value {
    const VOLUMES: &str = "spec.template.spec.volumes[]";
    const ENVIRONMENT: &str = "spec.template.spec.containers[].env[].valueFrom";
    json!({
        "userPrefix": NODE_USER_PREFIX,
        "group": NODE_GROUP,
        "own": [
            {
                "apiGroup": GROUP, "resource": "noderuntimes", "name": "{node}",
                "verbs": ["list", "watch", "create", "patch"], "statusVerbs": ["patch"],
                "writes": ["metadata.labels", format!("metadata.annotations[{PUBLISHED_NODE}]")],
                // By those of others people say which Models run where; what a machine knows of itself is its to say.
                "reservedLabels": {
                    "domains": ["kubernetes.io", "k8s.io", GROUP],
                    "but": [
                        "kubernetes.io/hostname", "kubernetes.io/os", "kubernetes.io/arch", "node.kubernetes.io/",
                        "topology.kubernetes.io/zone", "topology.kubernetes.io/region",
                    ],
                },
            },
            {
                "apiGroup": "coordination.k8s.io", "resource": "leases", "namespace": NODE_LEASE_NAMESPACE,
                "name": crate::names::node_lease("{node}"), "verbs": ["get", "create", "update"],
                "writes": ["spec", "metadata.ownerReferences"],
            },
        ],
        "bound": [
            {
                "apiGroup": GROUP, "resource": "modelinstances", "field": "spec.nodeName",
                "verbs": ["get", "list", "watch", "patch"], "statusVerbs": ["patch"],
                "writes": [format!("metadata.finalizers[{NODE_FINALIZER}]")],
                "references": [
                    {
                        "apiGroup": "", "resource": "configmaps",
                        "paths": [format!("{VOLUMES}.configMap.name"), format!("{ENVIRONMENT}.configMapKeyRef.name")],
                    },
                    {
                        "apiGroup": "", "resource": "secrets",
                        "paths": [format!("{VOLUMES}.secret.secretName"), format!("{ENVIRONMENT}.secretKeyRef.name")],
                    },
                ],
            },
            {"apiGroup": GROUP, "resource": "networkslices", "field": "spec.nodeName", "verbs": ["list", "watch"]},
        ],
        "rules": [rule("", &["events"], &["create"])],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_name_resources_that_exist() {
        let known: Vec<(String, String, bool)> = crate::all()
            .into_iter()
            .map(|crd| {
                let status = crd.spec.versions[0].subresources.as_ref().is_some_and(|s| s.status.is_some());
                (crd.spec.group, crd.spec.names.plural, status)
            })
            .collect();
        let exists = |group: &str, resource: &str| {
            let (plural, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            let found = known.iter().find(|(g, p, _)| g == group && p == plural);
            found.is_some_and(|(_, _, status)| subresource.is_empty() || *status)
        };
        for rule in controllers_rules() {
            let group = rule["apiGroups"][0].as_str().unwrap();
            for resource in rule["resources"].as_array().unwrap() {
                let resource = resource.as_str().unwrap();
                assert!(group != GROUP || exists(group, resource), "{resource}");
            }
        }
        for entry in nodes()["bound"].as_array().unwrap() {
            assert!(exists(GROUP, entry["resource"].as_str().unwrap()), "{entry}");
        }
    }
}
