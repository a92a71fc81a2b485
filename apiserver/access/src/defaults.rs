//! The roles and bindings that every cluster has, as kube-apiserver's bootstrap policy has them (1.37), as far as this server serves what they are
//! about: the superuser, the three roles for people (`admin`, `edit`, `view`, which gather further ones by label), and what anybody may
//! ask about the server and about oneself.

use serde_json::{Value, json};

use crate::GROUP;
use crate::attributes::{AUTHENTICATED, MASTERS, SERVICE_ACCOUNTS, UNAUTHENTICATED};
use crate::reconcile::AUTOUPDATE;

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];
const READ_WRITE: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

fn rule(verbs: &[&str], groups: &[&str], resources: &[&str]) -> Value {
    json!({"apiGroups": groups, "resources": resources, "verbs": verbs})
}

fn paths(paths: &[&str]) -> Value {
    json!({"nonResourceURLs": paths, "verbs": ["get"]})
}

fn metadata(name: &str, gathered_by: Option<&str>) -> Value {
    let mut labels = json!({"kubernetes.io/bootstrapping": "rbac-defaults"});
    if let (Some(role), Some(labels)) = (gathered_by, labels.as_object_mut()) {
        labels.insert(format!("{GROUP}/aggregate-to-{role}"), "true".into());
    }
    json!({"name": name, "labels": labels, "annotations": {AUTOUPDATE: "true"}})
}

fn role(name: &str, gathered_by: Option<&str>, rules: &[Value]) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRole",
        "metadata": metadata(name, gathered_by),
        "rules": rules,
    })
}

/// A role that gathers those labelled for it.
fn gathering(name: &str, gathered_by: Option<&str>) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRole",
        "metadata": metadata(name, gathered_by),
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {format!("{GROUP}/aggregate-to-{name}"): "true"}}]},
    })
}

fn binding(role: &str, groups: &[&str]) -> Value {
    let subjects: Vec<Value> =
        groups.iter().map(|group| json!({"apiGroup": GROUP, "kind": "Group", "name": group})).collect();
    json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRoleBinding",
        "metadata": metadata(role, None),
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role},
        "subjects": subjects,
    })
}

fn for_people() -> Vec<Value> {
    vec![
        role("cluster-admin", None, &[rule(&["*"], &["*"], &["*"]), json!({"nonResourceURLs": ["*"], "verbs": ["*"]})]),
        gathering("admin", None),
        gathering("edit", Some("admin")),
        gathering("view", Some("edit")),
        role(
            "system:aggregate-to-admin",
            Some("admin"),
            &[
                rule(&["create"], &["authorization.k8s.io"], &["localsubjectaccessreviews"]),
                rule(READ_WRITE, &[GROUP], &["rolebindings", "roles"]),
            ],
        ),
        role(
            "system:aggregate-to-edit",
            Some("edit"),
            &[
                rule(READ, &[""], &["secrets"]),
                rule(&["impersonate"], &[""], &["serviceaccounts"]),
                rule(WRITE, &[""], &["configmaps", "secrets", "serviceaccounts"]),
                rule(&["create"], &[""], &["serviceaccounts/token"]),
                rule(WRITE, &["", "events.k8s.io"], &["events"]),
                rule(READ_WRITE, &["coordination.k8s.io"], &["leases"]),
            ],
        ),
        role(
            "system:aggregate-to-view",
            Some("view"),
            &[
                rule(READ, &[""], &["configmaps", "serviceaccounts"]),
                rule(READ, &[""], &["namespaces/status", "resourcequotas", "resourcequotas/status"]),
                rule(READ, &[""], &["namespaces"]),
                rule(READ, &["", "events.k8s.io"], &["events"]),
            ],
        ),
    ]
}

fn for_everybody() -> Vec<Value> {
    vec![
        role(
            "system:basic-user",
            None,
            &[
                rule(&["create"], &["authorization.k8s.io"], &["selfsubjectaccessreviews", "selfsubjectrulesreviews"]),
                rule(&["create"], &["authentication.k8s.io"], &["selfsubjectreviews"]),
            ],
        ),
        role(
            "system:discovery",
            None,
            &[paths(&[
                "/api",
                "/api/*",
                "/apis",
                "/apis/*",
                "/healthz",
                "/livez",
                "/openapi",
                "/openapi/*",
                "/readyz",
                "/version",
                "/version/",
            ])],
        ),
        role("system:public-info-viewer", None, &[paths(&["/healthz", "/livez", "/readyz", "/version", "/version/"])]),
    ]
}

fn for_programs() -> Vec<Value> {
    vec![
        role(
            "system:monitoring",
            None,
            &[paths(&["/healthz", "/healthz/*", "/livez", "/livez/*", "/metrics", "/readyz", "/readyz/*"])],
        ),
        role(
            "system:auth-delegator",
            None,
            &[
                rule(&["create"], &["authentication.k8s.io"], &["tokenreviews"]),
                rule(&["create"], &["authorization.k8s.io"], &["subjectaccessreviews"]),
            ],
        ),
        role(
            "system:service-account-issuer-discovery",
            None,
            &[paths(&[
                "/.well-known/openid-configuration",
                "/.well-known/openid-configuration/",
                "/openid/v1/jwks",
                "/openid/v1/jwks/",
            ])],
        ),
    ]
}

/// Every default role, then every default binding.
#[must_use]
pub fn objects() -> Vec<Value> {
    let mut all = for_people();
    all.extend(for_everybody());
    all.extend(for_programs());
    all.extend([
        binding("cluster-admin", &[MASTERS]),
        binding("system:basic-user", &[AUTHENTICATED]),
        binding("system:discovery", &[AUTHENTICATED]),
        binding("system:monitoring", &["system:monitoring"]),
        binding("system:public-info-viewer", &[AUTHENTICATED, UNAUTHENTICATED]),
        binding("system:service-account-issuer-discovery", &[SERVICE_ACCOUNTS]),
    ]);
    all
}
