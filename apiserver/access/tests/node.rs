//! What a node may read and write.

#![allow(clippy::unwrap_used, reason = "tests")]

use pullpiri_access::attributes::{Attributes, ResourceAttributes, UserInfo};
use pullpiri_access::node::{Nodes, Policy};
use pullpiri_access::rbac::Verdict;
use serde_json::{Value, json};

fn nodes() -> Nodes {
    let policy = json!({
        "userPrefix": "system:node:", "group": "system:nodes",
        "own": [
            {"apiGroup": "x.io", "resource": "machines", "name": "{node}", "verbs": ["get", "list", "watch", "create", "patch"], "statusVerbs": ["patch"],
             "writes": ["metadata.labels"], "reservedLabels": {"domains": ["kubernetes.io"], "but": ["kubernetes.io/os"]}},
            {"apiGroup": "coordination.k8s.io", "resource": "leases", "namespace": "kube-node-lease", "name": "x-{node}",
             "verbs": ["get", "create", "update"], "writes": ["spec", "metadata.ownerReferences"]},
        ],
        "bound": [{
            "apiGroup": "x.io", "resource": "things", "field": "spec.nodeName", "verbs": ["get", "list", "watch", "patch"],
            "statusVerbs": ["patch"], "writes": ["metadata.finalizers[a]"],
            "references": [
                {"apiGroup": "", "resource": "configmaps", "paths": ["spec.volumes[].configMap.name", "spec.env[].from[].map"]},
                {"apiGroup": "", "resource": "secrets", "paths": ["spec.volumes[].secret.secretName"]},
            ],
        }],
        "rules": [{"apiGroups": [""], "resources": ["events"], "verbs": ["create"]}],
    });
    let mut nodes = Nodes::new(Policy::parse(&policy).unwrap(), |name| {
        let name = name.to_lowercase();
        (!name.is_empty()).then_some(name)
    });
    nodes.apply("x.io", "things", "demo", "one", Some(&thing("hpc", "one-data")));
    nodes.apply("x.io", "things", "demo", "two", Some(&thing("zone", "two-data")));
    nodes
}

fn thing(node: &str, map: &str) -> Value {
    json!({
        "metadata": {"namespace": "demo", "finalizers": ["a"], "labels": {"l": "1"}},
        "spec": {
            "nodeName": node,
            "volumes": [{"configMap": {"name": map}}, {"secret": {"secretName": format!("{map}-key")}}, {"emptyDir": {}}],
            "env": [{"from": [{"map": "shared"}]}, {}],
        },
    })
}

fn node(name: &str) -> UserInfo {
    UserInfo::new(format!("system:node:{name}"), ["system:nodes".to_owned()])
}

fn ask(nodes: &Nodes, user: &UserInfo, request: &str) -> Verdict {
    // VERB GROUP/PLURAL[/SUB] [NAMESPACE/]NAME [FIELD=VALUE]
    let parts: Vec<&str> = request.split(' ').collect();
    let what: Vec<&str> = parts[1].split('/').collect();
    let place = parts.get(2).copied().unwrap_or_default();
    let (namespace, name) = place.split_once('/').unwrap_or(("", place));
    let fields = parts.get(3).and_then(|pair| pair.split_once('='));
    let some = |text: &'static str| (!text.is_empty()).then_some(text);
    let leak = |text: &str| -> &'static str { Box::leak(text.to_owned().into_boxed_str()) };
    let resource = ResourceAttributes {
        group: leak(what[0]),
        version: "v1",
        plural: leak(what[1]),
        subresource: leak(what.get(2).copied().unwrap_or_default()),
        namespace: some(leak(namespace)),
        name: some(leak(name)),
        fields: fields.map(|(field, value)| (field.to_owned(), value.to_owned())).into_iter().collect(),
    };
    nodes.evaluate(&Attributes { user, verb: leak(parts[0]), path: "", resource: Some(resource) })
}

#[test]
fn a_node_has_what_is_its_own() {
    let nodes = nodes();
    let hpc = node("HPC");
    let unrelated = "no relationship found between node 'hpc' and this object";
    let cases = [
        ("get x.io/machines hpc", ""),
        ("watch x.io/machines hpc", ""),
        ("create x.io/machines", ""),
        ("patch x.io/machines/status hpc", ""),
        ("get x.io/machines zone", "node 'hpc' can only access machines named \"hpc\""),
        ("patch x.io/machines/status zone", "node 'hpc' can only access machines named \"hpc\""),
        ("list x.io/machines", "node 'hpc' can only access machines named \"hpc\""),
        ("delete x.io/machines hpc", "can only get/list/watch/create/patch resources of this type"),
        ("update coordination.k8s.io/leases kube-node-lease/x-hpc", ""),
        (
            "update coordination.k8s.io/leases kube-node-lease/x-zone",
            "node 'hpc' can only access leases named \"x-hpc\"",
        ),
        ("update coordination.k8s.io/leases demo/x-hpc", "can only access leases in the \"kube-node-lease\" namespace"),
        ("list coordination.k8s.io/leases kube-node-lease/", "can only get/create/update resources of this type"),
        ("list x.io/things  spec.nodeName=hpc", ""),
        ("watch x.io/things demo/ spec.nodeName=hpc", ""),
        ("list x.io/things  spec.nodeName=zone", "can only list/watch things with spec.nodeName field selector"),
        ("list x.io/things  metadata.namespace=demo", "can only list/watch things with spec.nodeName field selector"),
        ("list x.io/things", "can only list/watch things with spec.nodeName field selector"),
        ("get x.io/things demo/one", ""),
        ("watch x.io/things demo/one", ""),
        ("get x.io/things demo/two", unrelated),
        ("get x.io/things demo/none", unrelated),
        ("create x.io/things demo/", "can only get/list/watch/patch resources of this type"),
        ("patch x.io/things/status demo/one", ""),
        ("update x.io/things/status demo/one", "can only patch the status of this type"),
        ("get x.io/things/scale demo/one", "cannot access subresource"),
        ("get /configmaps demo/one-data", ""),
        ("watch /configmaps demo/one-data", ""),
        ("get /configmaps demo/shared", ""),
        ("get /secrets demo/one-data-key", ""),
        ("get /secrets demo/one-data", unrelated),
        ("get /secrets demo/two-data-key", unrelated),
        ("get /secrets other/one-data-key", unrelated),
        ("list /secrets demo/", "No Object name found"),
        ("list /secrets", "can only read namespaced object of this type"),
        ("patch /configmaps demo/one-data", "can only read resources of this type"),
        ("create /events demo/", ""),
    ];
    for (request, why) in cases {
        let expected = if why.is_empty() { Verdict::Allowed } else { Verdict::NoOpinion(why.to_owned()) };
        assert_eq!(ask(&nodes, &hpc, request), expected, "{request}");
    }
    let none = Verdict::NoOpinion(String::new());
    for request in ["list /namespaces", "delete /events demo/e", "get x.io/others demo/one"] {
        assert_eq!(ask(&nodes, &hpc, request), none, "{request}");
    }
    let impostor = UserInfo::new("system:node:hpc", ["crew".to_owned()]);
    assert_eq!(ask(&nodes, &impostor, "get x.io/machines hpc"), none, "not in the group");
    let nameless = Verdict::NoOpinion("unknown node for user \"system:node:\"".to_owned());
    assert_eq!(ask(&nodes, &node(""), "get x.io/machines hpc"), nameless);
}

#[test]
fn relations_end_with_the_object_that_made_them() {
    let mut nodes = nodes();
    let (hpc, zone) = (node("hpc"), node("zone"));
    let shared = "get /configmaps demo/shared";
    let allowed = |nodes: &Nodes, who: &UserInfo, request: &str| ask(nodes, who, request) == Verdict::Allowed;
    assert!(allowed(&nodes, &hpc, shared) && allowed(&nodes, &zone, shared));
    nodes.apply("x.io", "things", "demo", "three", Some(&thing("hpc", "three-data")));
    nodes.apply("x.io", "things", "demo", "one", None);
    assert!(allowed(&nodes, &hpc, shared), "the third still says so");
    assert!(!allowed(&nodes, &hpc, "get /configmaps demo/one-data"));
    nodes.apply("x.io", "things", "demo", "three", Some(&thing("zone", "three-data")));
    assert!(!allowed(&nodes, &hpc, shared));
    assert!(allowed(&nodes, &zone, "get /configmaps demo/three-data"));
    for name in ["two", "three"] {
        nodes.apply("x.io", "things", "demo", name, None);
    }
    assert!(!allowed(&nodes, &zone, shared));
}

#[test]
fn writes_are_looked_at_when_the_object_is_there() {
    let nodes = nodes();
    let hpc = node("hpc");
    let things =
        ResourceAttributes { group: "x.io", plural: "things", name: Some("one"), ..ResourceAttributes::default() };
    let status = ResourceAttributes { subresource: "status", ..things.clone() };
    let mine = thing("hpc", "d");
    let mut released = mine.clone();
    released["metadata"]["finalizers"] = json!([]);
    let mut relabelled = mine.clone();
    relabelled["metadata"]["labels"] = json!({});
    let mut edited = mine.clone();
    edited["spec"]["volumes"] = json!([]);
    let mut told = mine.clone();
    told["status"] = json!({"phase": "Running"});
    let theirs = thing("zone", "d");
    let not_self = "node \"hpc\" can only write the things with spec.nodeName set to itself";
    let finalizers = "node \"hpc\" can only change metadata.finalizers[a] of things, and their status";
    let mut owned = mine.clone();
    owned["metadata"]["ownerReferences"] = json!([{"uid": "u"}]);
    let mut held = mine.clone();
    held["metadata"]["finalizers"] = json!(["a", "b"]);
    let cases = [
        (&things, &released, &mine, ""),
        (&things, &relabelled, &mine, finalizers),
        (&things, &edited, &mine, finalizers),
        (&things, &owned, &mine, finalizers),
        (&things, &held, &mine, finalizers),
        (&things, &released, &held, finalizers),
        (&status, &owned, &mine, "node \"hpc\" can only change the status of things there"),
        (&things, &theirs, &theirs, not_self),
        (&things, &theirs, &mine, not_self),
        (&status, &told, &mine, ""),
        (
            &status,
            &theirs,
            &theirs,
            "node \"hpc\" can only write the status of things with spec.nodeName set to itself",
        ),
    ];
    for (resource, new, old, why) in cases {
        let expected = if why.is_empty() { Ok(()) } else { Err(why.to_owned()) };
        assert_eq!(nodes.check_write(&hpc, resource, Some(new), Some(old)), expected, "{new}");
        let admin = UserInfo::new("admin", []);
        assert_eq!(nodes.check_write(&admin, resource, Some(new), Some(old)), Ok(()));
    }
    let lease = |name| ResourceAttributes {
        group: "coordination.k8s.io",
        plural: "leases",
        name: Some(name),
        ..ResourceAttributes::default()
    };
    let beat = json!({"metadata": {"name": "x-hpc", "ownerReferences": [{}]}, "spec": {"renewTime": "now"}});
    assert_eq!(nodes.check_write(&hpc, &lease("x-hpc"), Some(&beat), None), Ok(()));
    let machine =
        ResourceAttributes { group: "x.io", plural: "machines", name: Some("hpc"), ..ResourceAttributes::default() };
    let labelled = |key: &str| json!({"metadata": {"name": "hpc", "labels": {key: "1"}}, "spec": {}});
    for (key, old, why) in [
        ("lane", None, ""),
        ("kubernetes.io/os", None, ""),
        (
            "kubernetes.io/role",
            None,
            "node \"hpc\" can't set the label \"kubernetes.io/role\" of machines, which is for others to set",
        ),
        (
            "lane",
            Some(labelled("kubernetes.io/role")),
            "node \"hpc\" can't set the label \"kubernetes.io/role\" of machines, which is for others to set",
        ),
    ] {
        let refused = nodes.check_write(&hpc, &machine, Some(&labelled(key)), old.as_ref()).err().unwrap_or_default();
        assert_eq!(refused, why, "{key}");
    }
    assert_eq!(
        nodes.check_write(&hpc, &lease("x-zone"), Some(&json!({})), None).unwrap_err(),
        "node \"hpc\" can only write leases named \"x-hpc\", not \"x-zone\""
    );
}

#[test]
fn a_policy_says_what_it_lacks() {
    let error = |policy: Value| Policy::parse(&policy).unwrap_err().to_string();
    assert_eq!(error(json!({"group": "g"})), "userPrefix of a node policy: expected a text");
    let bound = json!({"userPrefix": "p", "group": "g", "bound": [{"resource": "things"}]});
    assert_eq!(error(bound), "field of a node policy: expected a text");
}
