//! Decisions over whole sets of roles and bindings.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use proptest::prelude::*;
use pullpiri_access::attributes::{Attributes, ResourceAttributes, UserInfo};
use pullpiri_access::rbac::{Index, Kind, RoleRef, Verdict, full_authority};
use pullpiri_access::reconcile::{Step, reconcile};
use pullpiri_access::{Rule, defaults};
use serde_json::{Value, json};

fn index(objects: &[Value]) -> Index {
    let mut index = Index::default();
    for object in objects {
        put(&mut index, object);
    }
    index
}

fn put(index: &mut Index, object: &Value) {
    let plural = format!("{}s", object["kind"].as_str().unwrap().to_lowercase());
    let metadata = &object["metadata"];
    let (namespace, name) = (metadata["namespace"].as_str().unwrap_or_default(), metadata["name"].as_str().unwrap());
    index.apply(Kind::of_plural(&plural).unwrap(), namespace, name, Some(object));
}

fn role(kind: &str, namespace: &str, name: &str, rules: Value) -> Value {
    json!({"kind": kind, "metadata": {"namespace": namespace, "name": name}, "rules": rules})
}

fn binding(namespace: &str, name: &str, role: (&str, &str), subject: Value) -> Value {
    let kind = if namespace.is_empty() { "ClusterRoleBinding" } else { "RoleBinding" };
    json!({
        "kind": kind, "metadata": {"namespace": namespace, "name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role.0, "name": role.1},
        "subjects": [subject],
    })
}

fn user(name: &str, groups: &[&str]) -> UserInfo {
    UserInfo::new(name, groups.iter().map(|group| (*group).to_owned()))
}

fn can(index: &Index, user: &UserInfo, verb: &str, plural: &str, namespace: Option<&str>) -> bool {
    let resource = ResourceAttributes { plural, namespace, ..ResourceAttributes::default() };
    let attributes = Attributes { user, verb, path: "", resource: Some(resource) };
    index.evaluate(&attributes) == Verdict::Allowed
}

fn reading() -> Value {
    json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}])
}

#[test]
fn who_is_meant_and_where() {
    let subject = |kind: &str, name: &str| json!({"kind": kind, "name": name});
    let account = |namespace: &str| json!({"kind": "ServiceAccount", "name": "robot", "namespace": namespace});
    let robot = user("system:serviceaccount:a:robot", &["system:serviceaccounts:a"]);
    let eve = user("eve", &["crew"]);
    // namespace of the binding, subject | user | allowed in a, in b, at the cluster scope
    let cases = [
        ("", subject("User", "eve"), &eve, [true, true, true]),
        ("", subject("Group", "crew"), &eve, [true, true, true]),
        ("", subject("Group", "system:authenticated"), &eve, [true, true, true]),
        ("", subject("User", "crew"), &eve, [false, false, false]),
        ("", subject("Group", "eve"), &eve, [false, false, false]),
        ("a", subject("User", "eve"), &eve, [true, false, false]),
        ("b", subject("Group", "crew"), &eve, [false, true, false]),
        ("", account("a"), &robot, [true, true, true]),
        ("", account("b"), &robot, [false, false, false]),
        // A subject without a namespace is of the binding's.
        ("a", account(""), &robot, [true, false, false]),
        ("b", account(""), &robot, [false, false, false]),
        ("b", account("a"), &robot, [false, true, false]),
        ("", account(""), &robot, [false, false, false]),
    ];
    for (namespace, subject, who, expected) in cases {
        let objects = [
            role("ClusterRole", "", "reader", reading()),
            binding(namespace, "b", ("ClusterRole", "reader"), subject.clone()),
        ];
        let index = index(&objects);
        let allowed = [Some("a"), Some("b"), None].map(|place| can(&index, who, "get", "pods", place));
        assert_eq!(allowed, expected, "{namespace:?} {subject} {}", who.name);
    }
}

#[test]
fn a_role_is_of_its_namespace() {
    let eve = user("eve", &[]);
    let subject = json!({"kind": "User", "name": "eve"});
    let objects = [role("Role", "a", "reader", reading()), binding("b", "x", ("Role", "reader"), subject.clone())];
    let mut index = index(&objects);
    assert!(!can(&index, &eve, "get", "pods", Some("a")));
    let resource = ResourceAttributes { plural: "pods", namespace: Some("b"), ..ResourceAttributes::default() };
    let attributes = Attributes { user: &eve, verb: "get", path: "", resource: Some(resource) };
    let missing = "RBAC: role.rbac.authorization.k8s.io \"reader\" not found";
    assert_eq!(index.evaluate(&attributes), Verdict::NoOpinion(missing.to_owned()));
    put(&mut index, &role("Role", "b", "reader", reading()));
    assert_eq!(
        index.explain(&attributes).unwrap(),
        "RBAC: allowed by RoleBinding \"x/b\" of Role \"reader\" to User \"eve\""
    );
    index.apply(Kind::RoleBinding, "b", "x", None);
    assert_eq!(index.explain(&attributes), Err(String::new()));
}

#[test]
fn a_binding_that_changes_gives_nothing_it_gave_before() {
    let mut index = index(&[role("ClusterRole", "", "reader", reading())]);
    let (eve, bob) = (user("eve", &[]), user("bob", &[]));
    for (name, expected) in [("eve", (true, false)), ("bob", (false, true))] {
        put(&mut index, &binding("", "x", ("ClusterRole", "reader"), json!({"kind": "User", "name": name})));
        let can = |who| can(&index, who, "get", "pods", None);
        assert_eq!((can(&eve), can(&bob)), expected);
    }
    index.apply(Kind::ClusterRole, "", "reader", None);
    assert!(!can(&index, &bob, "get", "pods", None));
}

#[test]
fn roles_gather_others_at_once() {
    let mut index = index(&defaults::objects());
    let people = [("ann", "admin"), ("eve", "edit"), ("vic", "view")];
    for (name, role) in people {
        put(&mut index, &binding("a", name, ("ClusterRole", role), json!({"kind": "User", "name": name})));
    }
    let [ann, eve, vic] = people.map(|(name, _)| user(name, &[]));
    let can_all = |index: &Index, verb: &str, plural: &str| {
        [&ann, &eve, &vic].map(|who| can(index, who, verb, plural, Some("a")))
    };
    assert_eq!(can_all(&index, "get", "configmaps"), [true, true, true]);
    assert_eq!(can_all(&index, "patch", "configmaps"), [true, true, false]);
    assert_eq!(can_all(&index, "get", "secrets"), [true, true, false]);
    assert_eq!(can_all(&index, "get", "widgets"), [false, false, false]);
    let mut widgets =
        role("ClusterRole", "", "widgets", json!([{"apiGroups": [""], "resources": ["widgets"], "verbs": ["get"]}]));
    widgets["metadata"]["labels"] = json!({"rbac.authorization.k8s.io/aggregate-to-view": "true"});
    put(&mut index, &widgets);
    assert_eq!(can_all(&index, "get", "widgets"), [true, true, true], "through view and edit");
    let stale: Vec<String> = index.stale_aggregates().into_iter().map(|(name, _)| name).collect();
    assert_eq!(stale, ["admin", "edit", "view"], "nothing is written yet");
    index.apply(Kind::ClusterRole, "", "widgets", None);
    assert_eq!(can_all(&index, "get", "widgets"), [false, false, false]);
}

#[test]
fn selectors_with_expressions() {
    let labelled = |name: &str, labels: Value| {
        let mut role =
            role("ClusterRole", "", name, json!([{"apiGroups": [""], "resources": [name], "verbs": ["get"]}]));
        role["metadata"]["labels"] = labels;
        role
    };
    let cases = [
        (json!({"matchLabels": {"a": "1"}}), vec!["one", "both"]),
        (json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}), vec!["one", "both"]),
        (json!({"matchExpressions": [{"key": "b", "operator": "Exists"}]}), vec!["both"]),
        (
            json!({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "DoesNotExist"}]}),
            vec!["one"],
        ),
        (json!({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}), vec!["none"]),
    ];
    for (selector, expected) in cases {
        let index = index(&[
            labelled("one", json!({"a": "1"})),
            labelled("both", json!({"a": "1", "b": "x"})),
            labelled("none", json!({})),
            json!({"kind": "ClusterRole", "metadata": {"name": "all"}, "aggregationRule": {"clusterRoleSelectors": [selector]}}),
        ]);
        let all = RoleRef { kind: "ClusterRole".to_owned(), name: "all".to_owned(), ..RoleRef::default() };
        let mut gathered: Vec<&str> =
            index.rules_of(&all, "").unwrap().iter().map(|rule| rule.resources[0].as_str()).collect();
        gathered.sort_unstable();
        let mut expected = expected;
        expected.sort_unstable();
        assert_eq!(gathered, expected, "{selector}");
    }
}

#[test]
fn roles_that_gather_each_other_come_to_an_end() {
    let gathers = |name: &str, label: &str, own: &str| {
        json!({
            "kind": "ClusterRole", "metadata": {"name": name, "labels": {own: "true"}},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]},
        })
    };
    let mut leaf = role("ClusterRole", "", "leaf", reading());
    leaf["metadata"]["labels"] = json!({"y": "true"});
    let index = index(&[gathers("one", "y", "x"), gathers("two", "x", "y"), leaf]);
    for name in ["one", "two"] {
        let role = RoleRef { kind: "ClusterRole".to_owned(), name: name.to_owned(), ..RoleRef::default() };
        assert_eq!(index.rules_of(&role, "").unwrap().len(), 1, "{name}");
    }
}

#[test]
fn nobody_grants_what_it_does_not_hold() {
    let mut index = index(&defaults::objects());
    let eve = user("eve", &["crew"]);
    put(&mut index, &binding("a", "eve", ("ClusterRole", "view"), json!({"kind": "User", "name": "eve"})));
    let wanted =
        [Rule::parse(&json!({"apiGroups": [""], "resources": ["secrets", "configmaps"], "verbs": ["get", "delete"]}))];
    assert_eq!(
        index.confirm_no_escalation(&eve, "a", &wanted).unwrap_err(),
        "user \"eve\" (groups=[\"crew\" \"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n\
         {APIGroups:[\"\"], Resources:[\"configmaps\"], Verbs:[\"delete\"]}\n\
         {APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"delete\"]}"
    );
    let held = [Rule::parse(&json!({"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}))];
    assert_eq!(index.confirm_no_escalation(&eve, "a", &held), Ok(()));
    assert!(index.confirm_no_escalation(&eve, "", &held).is_err(), "held in one namespace only");
    let root = user("root", &["system:masters"]);
    assert_eq!(index.confirm_no_escalation(&root, "", &full_authority()), Ok(()));
}

#[test]
fn defaults_are_kept_but_not_against_a_persons_will() {
    let wished = defaults::objects();
    for object in &wished {
        assert_eq!(reconcile(object, object), Step::Nothing, "{object}");
    }
    let discovery =
        wished.iter().find(|o| o["metadata"]["name"] == "system:discovery" && o["kind"] == "ClusterRole").unwrap();
    let mut cut = discovery.clone();
    cut["rules"] = json!([{"nonResourceURLs": ["/mine"], "verbs": ["get"]}]);
    cut["metadata"]["labels"] = json!({"own": "1"});
    let Step::Update(next) = reconcile(&cut, discovery) else { panic!("nothing to do") };
    assert_eq!(next["metadata"]["labels"], json!({"own": "1", "kubernetes.io/bootstrapping": "rbac-defaults"}));
    assert_eq!(next["rules"][0]["nonResourceURLs"], json!(["/mine"]), "what was added stays");
    assert_eq!(reconcile(&next, discovery), Step::Nothing);
    cut["metadata"]["annotations"] = json!({"rbac.authorization.kubernetes.io/autoupdate": "false"});
    assert_eq!(reconcile(&cut, discovery), Step::Nothing);

    let bound = wished
        .iter()
        .find(|o| o["metadata"]["name"] == "system:public-info-viewer" && o["kind"] == "ClusterRoleBinding")
        .unwrap();
    let mut closed = bound.clone();
    closed["subjects"] = json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "eve"}]);
    let Step::Update(next) = reconcile(&closed, bound) else { panic!("nothing to do") };
    assert_eq!(next["subjects"].as_array().unwrap().len(), 3);
    closed["roleRef"]["name"] = json!("cluster-admin");
    assert_eq!(reconcile(&closed, bound), Step::Replace);
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let some =
        |of: &'static [&'static str]| prop::collection::vec(prop::sample::select(of).prop_map(str::to_owned), 1..3);
    let rule = (
        some(&["get", "list", "delete", "*"]),
        some(&["", "apps", "*"]),
        some(&["pods", "pods/log", "*/log", "*"]),
        prop::collection::vec(prop::sample::select(&["a", "b"][..]).prop_map(str::to_owned), 0..2),
    );
    let rule = rule.prop_map(|(verbs, api_groups, resources, resource_names)| Rule {
        verbs,
        api_groups,
        resources,
        resource_names,
        ..Rule::default()
    });
    prop::collection::vec(rule, 0..4)
}

proptest! {
    /// What covers allows: no request gets through the granted rules that doesn't get through the held ones.
    #[test]
    fn covering_rules_allow_whatever_the_covered_allow(held in rules(), wanted in rules()) {
        let user = UserInfo::default();
        prop_assume!(pullpiri_access::rule::missing(&held, &wanted).is_empty());
        for verb in ["get", "list", "delete", "patch"] {
            for group in ["", "apps", "batch"] {
                for (plural, subresource) in [("pods", ""), ("pods", "log"), ("sets", "log"), ("sets", "")] {
                    for name in [None, Some("a"), Some("b"), Some("c")] {
                        let resource = ResourceAttributes { group, plural, subresource, name, ..ResourceAttributes::default() };
                        let attributes = Attributes { user: &user, verb, path: "", resource: Some(resource) };
                        let allows = |rules: &[Rule]| rules.iter().any(|rule| rule.allows(&attributes));
                        prop_assert!(!allows(&wanted) || allows(&held), "{:?}", attributes);
                    }
                }
            }
        }
    }
}
