//! Server-side apply, rule by rule.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "managed_support/mod.rs"]
mod support;

use pullpiri_apply::managed::{ApplyError, ConflictCause, Force, Operation, entries};
use serde_json::{Value, json};
use support::{Writer, entry, owned, spec, stored};

#[test]
fn a_first_apply_creates_and_owns_what_it_names() {
    let config = json!({
        "apiVersion": "example.io/v1", "kind": "Thing",
        "metadata": {"name": "thing", "namespace": "ns", "labels": {"app": "x"}, "finalizers": ["a/b"],
            "ownerReferences": [{"apiVersion": "v1", "kind": "K", "name": "o", "uid": "u-1"}]},
        "spec": {"replicas": 1, "args": ["x"], "selector": {"x": "a"}, "byName": {"k": {"a": "1"}}, "free": {}},
    });
    let applied = Writer::new("ctl").try_apply(None, &config, Force::No).unwrap();
    assert!(applied.changed);
    let entry = entry(&applied.object, "ctl").unwrap();
    assert_eq!(
        serde_json::to_string(&entry).unwrap(),
        concat!(
            r#"{"manager":"ctl","operation":"Apply","apiVersion":"example.io/v1","time":"2026-01-02T03:04:05Z","#,
            r#""fieldsType":"FieldsV1","fieldsV1":{"#,
            r#""f:metadata":{"f:finalizers":{"v:\"a/b\"":{}},"f:labels":{"f:app":{}},"#,
            r#""f:ownerReferences":{"k:{\"uid\":\"u-1\"}":{}}},"#,
            r#""f:spec":{"f:args":{},"f:byName":{"f:k":{".":{},"f:a":{}}},"f:free":{},"f:replicas":{},"f:selector":{}}}}"#
        )
    );
    let mut expected = config;
    expected["metadata"]["managedFields"] = applied.object["metadata"]["managedFields"].clone();
    assert_eq!(applied.object, expected);
}

#[test]
fn applying_the_same_again_changes_nothing_and_moves_no_time() {
    let config = spec(json!({"replicas": 1, "tags": ["b", "a"], "ports": [{"port": 80}]}));
    let live = Writer::new("ctl").apply(None, &config);
    let again = Writer::new("ctl").at(30).try_apply(Some(&live), &config, Force::No).unwrap();
    assert!(!again.changed);
    assert_eq!(again.object, live);
}

#[test]
fn a_change_moves_the_time_of_its_manager_alone() {
    let live = Writer::new("one").apply(None, &spec(json!({"replicas": 1})));
    let live = Writer::new("two").at(10).apply(Some(&live), &spec(json!({"name": "x"})));
    let live = Writer::new("one").at(20).apply(Some(&live), &spec(json!({"replicas": 2})));
    assert_eq!(entry(&live, "one").unwrap().time.unwrap(), "2026-01-02T03:04:20Z");
    assert_eq!(entry(&live, "two").unwrap().time.unwrap(), "2026-01-02T03:04:10Z");
    // Sorted by time, the changed one comes last.
    let order: Vec<String> = entries(&live).unwrap().into_iter().map(|entry| entry.manager).collect();
    assert_eq!(order, ["two", "one"]);
}

#[test]
fn equal_values_are_owned_together() {
    let live = Writer::new("one").apply(None, &spec(json!({"replicas": 1})));
    let second = Writer::new("two").try_apply(Some(&live), &spec(json!({"replicas": 1})), Force::No).unwrap();
    assert!(second.changed, "the owner is new");
    assert_eq!(owned(&second.object, "one"), r#"{"f:spec":{"f:replicas":{}}}"#);
    assert_eq!(owned(&second.object, "two"), r#"{"f:spec":{"f:replicas":{}}}"#);
    // Whoever lets go of it first doesn't remove it; the last one does.
    let live = Writer::new("one").apply(Some(&stored(second.object)), &spec(json!({"name": "x"})));
    assert_eq!(live["spec"], json!({"replicas": 1, "name": "x"}));
    let live = Writer::new("two").apply(Some(&live), &spec(json!({"flag": true})));
    assert_eq!(live["spec"], json!({"flag": true, "name": "x"}));
}

#[test]
fn one_conflict_is_one_line() {
    let live = Writer::new("kubectl-client-side-apply").update(None, spec(json!({"replicas": 1})));
    let error = Writer::new("ctl").try_apply(Some(&live), &spec(json!({"replicas": 2})), Force::No).unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"Apply failed with 1 conflict: conflict with "kubectl-client-side-apply" using example.io/v1: .spec.replicas"#
    );
    let ApplyError::Conflict(conflicts) = error else { panic!("{error}") };
    assert_eq!(
        conflicts.causes(),
        [ConflictCause {
            message: r#"conflict with "kubectl-client-side-apply" using example.io/v1"#.to_owned(),
            field: ".spec.replicas".to_owned(),
        }]
    );
    assert_eq!(ConflictCause::REASON, "FieldManagerConflict");
}

#[test]
fn many_conflicts_are_listed_by_manager() {
    let live = Writer::new("zed").apply(
        None,
        &spec(
            json!({"name": "z", "ports": [{"port": 80, "name": "http"}], "tags": ["t"], "byName": {"k": {"a": "1"}}}),
        ),
    );
    let live = Writer::new("ann").status().update(Some(&live), {
        let mut new = live.clone();
        new["status"] = json!({"phase": "x"});
        new
    });
    let mut config = spec(json!({"name": "y", "ports": [{"port": 80, "name": "web"}], "byName": {"k": {"a": "2"}}}));
    config["status"] = json!({"phase": "y"});
    assert_eq!(
        Writer::new("ctl").conflict(&live, &config),
        concat!(
            "Apply failed with 4 conflicts: conflicts with \"ann\" with subresource \"status\" using example.io/v1:\n",
            "- .status.phase\n",
            "conflicts with \"zed\":\n",
            "- .spec.name\n",
            "- .spec.byName.k.a\n",
            "- .spec.ports[port=80,protocol=\"TCP\"].name"
        )
    );
}

#[test]
fn force_takes_the_fields() {
    let live = Writer::new("one").apply(None, &spec(json!({"replicas": 1, "name": "x"})));
    let live = Writer::new("two").force(Some(&live), &spec(json!({"replicas": 2})));
    assert_eq!(live["spec"], json!({"replicas": 2, "name": "x"}));
    assert_eq!(owned(&live, "one"), r#"{"f:spec":{"f:name":{}}}"#);
    assert_eq!(owned(&live, "two"), r#"{"f:spec":{"f:replicas":{}}}"#);
    // A manager that loses everything is gone.
    let live = Writer::new("three").force(Some(&live), &spec(json!({"replicas": 3, "name": "y"})));
    assert_eq!(entries(&live).unwrap().len(), 1);
}

#[test]
fn what_is_not_applied_any_more_goes_unless_owned_by_others() {
    // (applied first, applied by another, applied next, what is left)
    let table = [
        (json!({"replicas": 1, "name": "x"}), json!({}), json!({"name": "x"}), json!({"name": "x"})),
        (
            json!({"labels": {"a": "1", "b": "2"}}),
            json!({}),
            json!({"labels": {"a": "1"}}),
            json!({"labels": {"a": "1"}}),
        ),
        (
            json!({"labels": {"a": "1"}}),
            json!({"labels": {"b": "2"}}),
            json!({"name": "x"}),
            json!({"labels": {"b": "2"}, "name": "x"}),
        ),
        (json!({"tags": ["a", "b"]}), json!({"tags": ["c"]}), json!({"tags": ["b"]}), json!({"tags": ["b", "c"]})),
        (
            json!({"ports": [{"port": 80, "name": "a"}, {"port": 443}]}),
            json!({"ports": [{"port": 80, "opts": {"k": "v"}}]}),
            json!({"ports": [{"port": 443}]}),
            json!({"ports": [{"port": 80, "opts": {"k": "v"}}, {"port": 443}]}),
        ),
        (
            json!({"selector": {"x": "a", "y": 1}}),
            json!({}),
            json!({"selector": {"x": "b"}}),
            json!({"selector": {"x": "b"}}),
        ),
        (json!({"args": ["a", "b"]}), json!({}), json!({"args": ["b"]}), json!({"args": ["b"]})),
        (
            json!({"free": {"a": {"b": 1, "c": [1]}, "d": 1}}),
            json!({"free": {"e": 2}}),
            json!({"free": {"a": {"b": 1}}}),
            json!({"free": {"a": {"b": 1}, "e": 2}}),
        ),
        (
            json!({"items": [{"name": "x", "sub": [{"id": 1, "v": "a"}, {"id": 2}]}]}),
            json!({}),
            json!({"items": [{"name": "x", "sub": [{"id": 2}]}]}),
            json!({"items": [{"name": "x", "sub": [{"id": 2}]}]}),
        ),
    ];
    for (first, other, next, left) in table {
        let live = Writer::new("one").apply(None, &spec(first));
        let live = Writer::new("two").apply(Some(&live), &spec(other));
        let live = Writer::new("one").apply(Some(&live), &spec(next.clone()));
        assert_eq!(live["spec"], left, "after applying {next}");
    }
}

#[test]
fn lists_keep_the_live_order_and_follow_the_configuration_where_it_says_more() {
    let table = [
        (json!(["a", "b", "c"]), json!(["c", "a"]), json!(["b", "c", "a"])),
        (json!(["a", "b"]), json!(["b", "x", "a"]), json!(["b", "x", "a"])),
        (json!(["a", "b", "c"]), json!(["a", "x", "c"]), json!(["a", "b", "x", "c"])),
        (json!([]), json!(["b", "a"]), json!(["b", "a"])),
        (json!(["x", "a"]), json!([]), json!(["x", "a"])),
    ];
    for (live, config, expected) in table {
        let object = Writer::new("other").update(None, spec(json!({"tags": live})));
        let object = Writer::new("ctl").apply(Some(&object), &spec(json!({"tags": config})));
        assert_eq!(object["spec"]["tags"], expected, "{live} with {config}");
    }
}

#[test]
fn absent_keys_of_list_items_take_their_defaults() {
    let live = Writer::new("one").apply(None, &spec(json!({"ports": [{"port": 80, "protocol": "TCP", "name": "a"}]})));
    let live = Writer::new("one").apply(Some(&live), &spec(json!({"ports": [{"port": 80, "name": "b"}]})));
    // The key went from the configuration, so it went from the object too; the item is still the same.
    assert_eq!(live["spec"]["ports"], json!([{"port": 80, "name": "b"}]));
    assert_eq!(
        owned(&live, "one"),
        r#"{"f:spec":{"f:ports":{"k:{\"port\":80,\"protocol\":\"TCP\"}":{".":{},"f:name":{},"f:port":{}}}}}"#
    );
}

#[test]
fn what_does_not_fit_the_schema_is_refused_with_its_path() {
    let table = [
        (json!({"bogus": 1}), ".spec.bogus: field not declared in schema"),
        (json!({"replicas": "many"}), ".spec.replicas: expected numeric (int or float), got string"),
        (json!({"flag": "yes"}), ".spec.flag: expected boolean, got &{yes}"),
        (json!({"name": 3}), ".spec.name: expected string, got &value.valueUnstructured{Value:3}"),
        (json!({"labels": ["x", 1]}), ".spec.labels: expected map, got &{[x 1]}"),
        (json!({"args": {"b": 1, "a": null}}), ".spec.args: expected list, got &{map[a:<nil> b:1]}"),
        (json!({"args": ["x", 1]}), ".spec.args[1]: expected string, got &value.valueUnstructured{Value:1}"),
        (json!({"tags": ["x", "x"]}), r#".spec.tags: duplicate entries for key [="x"]"#),
        (
            json!({"ports": [{"port": 80}, {"port": 80, "protocol": "TCP"}]}),
            r#".spec.ports: duplicate entries for key [port=80,protocol="TCP"]"#,
        ),
        (
            json!({"items": [{"name": "a"}, {"value": "x"}]}),
            r#".spec.items: element 1: associative list with keys has an element that omits all key fields ["name"] (and doesn't have default values for any key fields)"#,
        ),
        (json!({"items": [null]}), ".spec.items: element 0: associative list with keys may not have a null element"),
        (
            json!({"items": [{"name": "a", "sub": [{"id": 1, "w": 1}]}]}),
            r#".spec.items[name="a"].sub[id=1].w: field not declared in schema"#,
        ),
        (json!({"tags": [["x"]]}), ".spec.tags: element 0: not supported: associative list with lists as elements"),
    ];
    for (bad, expected) in table {
        let error = Writer::new("ctl").try_apply(None, &spec(bad), Force::No).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("failed to create typed patch object (/thing; example.io/v1, Kind=Thing): {expected}")
        );
        assert!(matches!(error, ApplyError::Schema(_)));
    }
    let error = Writer::new("ctl").try_apply(None, &spec(json!({"flag": 1, "name": 2})), Force::No).unwrap_err();
    assert!(error.to_string().ends_with(
        "errors:\n  .spec.flag: expected boolean, got &{1}\n  .spec.name: expected string, got &value.valueUnstructured{Value:2}"
    ));
}

#[test]
fn requests_for_another_kind_or_with_owners_are_bad() {
    let mut other = spec(json!({}));
    other["kind"] = json!("Other");
    let error = Writer::new("ctl").try_apply(None, &other, Force::No).unwrap_err();
    assert_eq!(error.to_string(), "invalid object type: example.io/v1, Kind=Other");
    assert!(matches!(error, ApplyError::BadRequest(_)));
    other = spec(json!({}));
    other["apiVersion"] = json!("v1");
    let error = Writer::new("ctl").try_apply(None, &other, Force::No).unwrap_err();
    assert_eq!(error.to_string(), "invalid object type: /v1, Kind=Thing");
    other = spec(json!({}));
    other["metadata"]["managedFields"] = json!([]);
    let error = Writer::new("ctl").try_apply(None, &other, Force::No).unwrap_err();
    assert_eq!(error.to_string(), "metadata.managedFields must be nil");
    other["metadata"]["managedFields"] = json!(null);
    assert!(Writer::new("ctl").try_apply(None, &other, Force::No).is_ok());
}

#[test]
fn live_managed_fields_that_cannot_be_read_are_an_error() {
    let mut live = stored(spec(json!({})));
    live["metadata"]["managedFields"] = json!([{"manager": "x", "operation": "Write", "apiVersion": "v1"}]);
    assert_eq!(
        Writer::new("ctl").conflict(&live, &spec(json!({}))),
        "failed to decode managed fields: operation must be `Apply` or `Update`"
    );
}

#[test]
fn an_object_without_owners_belongs_to_before_first_apply() {
    let live = stored(spec(json!({"replicas": 1, "labels": {"a": "1"}})));
    assert_eq!(
        Writer::new("ctl").conflict(&live, &spec(json!({"replicas": 2}))),
        r#"Apply failed with 1 conflict: conflict with "before-first-apply" using example.io/v1: .spec.replicas"#
    );
    let live = Writer::new("ctl").apply(Some(&live), &spec(json!({"name": "x"})));
    assert_eq!(entry(&live, "before-first-apply").unwrap().operation, Operation::Update.as_str());
    assert_eq!(
        owned(&live, "before-first-apply"),
        r#"{"f:spec":{".":{},"f:labels":{".":{},"f:a":{}},"f:replicas":{}}}"#
    );
}

#[test]
fn one_name_applies_apart_through_each_subresource() {
    let live = Writer::new("ctl").main().apply(None, &spec(json!({"replicas": 1})));
    let status = |phase: &str| {
        let mut object = spec(json!({"replicas": 7}));
        object["status"] = json!({"phase": phase});
        object
    };
    let live = Writer::new("ctl").status().force(Some(&live), &status("x"));
    let sets: Vec<(String, String)> = entries(&live)
        .unwrap()
        .into_iter()
        .map(|entry| (entry.subresource, serde_json::to_string(&entry.fields_v1.unwrap()).unwrap()))
        .collect();
    assert_eq!(
        sets,
        [
            (String::new(), r#"{"f:spec":{"f:replicas":{}}}"#.to_owned()),
            ("status".to_owned(), r#"{"f:status":{"f:phase":{}}}"#.to_owned())
        ]
    );
}

#[test]
fn writes_to_the_main_resource_never_own_status() {
    let mut object = spec(json!({"replicas": 1}));
    object["status"] = json!({"phase": "x"});
    let live = Writer::new("ctl").main().apply(None, &object);
    assert_eq!(owned(&live, "ctl"), r#"{"f:spec":{"f:replicas":{}}}"#);
    let live = Writer::new("other").main().update(None, object);
    assert_eq!(owned(&live, "other"), r#"{"f:spec":{".":{},"f:replicas":{}}}"#);
}

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// An object as client-side apply leaves it.
fn client_side(fields: Value) -> Value {
    let mut object = spec(fields);
    object["metadata"]["annotations"] = json!({ANNOTATION: format!("{object}\n")});
    Writer::new("kubectl-client-side-apply").update(None, object)
}

#[test]
fn kubectl_takes_over_from_its_client_side_self() {
    let live = client_side(json!({"replicas": 1, "name": "x"}));
    // Another manager asks first.
    assert!(Writer::new("ctl").conflict(&live, &spec(json!({"replicas": 2}))).contains("kubectl-client-side-apply"));
    let config = spec(json!({"replicas": 2}));
    let live = Writer::new("kubectl").apply(Some(&live), &config);
    assert_eq!(live["spec"]["replicas"], json!(2));
    // The annotation follows, so that client-side apply still works.
    let annotation = live["metadata"]["annotations"][ANNOTATION].as_str().unwrap();
    assert_eq!(
        annotation,
        "{\"apiVersion\":\"example.io/v1\",\"kind\":\"Thing\",\"metadata\":{\"name\":\"thing\"},\"spec\":{\"replicas\":2}}\n"
    );
}

#[test]
fn what_client_side_apply_did_not_set_still_conflicts() {
    let live = client_side(json!({"replicas": 1, "name": "x"}));
    let mut new = live.clone();
    new["spec"]["name"] = json!("edited");
    let live = Writer::new("kubectl-edit").update(Some(&live), new);
    assert_eq!(
        Writer::new("kubectl").conflict(&live, &spec(json!({"replicas": 2, "name": "y"}))),
        r#"Apply failed with 1 conflict: conflict with "kubectl-edit" using example.io/v1: .spec.name"#
    );
}

#[test]
fn an_annotation_without_room_is_dropped() {
    let live = client_side(json!({"name": "x"}));
    let long = "x".repeat(256 * 1024);
    let live = Writer::new("kubectl").apply(Some(&live), &spec(json!({"name": long})));
    assert_eq!(live["metadata"]["annotations"], json!({}));
}

#[test]
fn an_embedded_resource_has_metadata_of_its_own() {
    let template = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "x", "labels": {"a": "1"}, "finalizers": ["f"], "managedFields": [{"manager": "m"}]},
        "spec": {"x": "y"},
    });
    let live = Writer::new("ctl").apply(None, &spec(json!({"template": template})));
    assert_eq!(
        owned(&live, "ctl"),
        concat!(
            r#"{"f:spec":{"f:template":{"f:apiVersion":{},"f:kind":{},"f:metadata":{"f:finalizers":{"v:\"f\"":{}},"#,
            r#""f:labels":{"f:a":{}},"f:managedFields":{},"f:name":{}},"f:spec":{"f:x":{}}}}}"#
        )
    );
    assert_eq!(live["spec"]["template"], template, "only the object's own managed fields are bookkeeping");
    let odd = spec(json!({"template": {"metadata": {"odd": 1}}}));
    assert!(
        Writer::new("ctl")
            .try_apply(None, &odd, Force::No)
            .unwrap_err()
            .to_string()
            .ends_with(".spec.template.metadata.odd: field not declared in schema")
    );
}

#[test]
fn a_null_is_a_value() {
    let live = Writer::new("ctl").apply(None, &spec(json!({"text": null, "replicas": 1})));
    assert_eq!(live["spec"], json!({"text": null, "replicas": 1}));
    assert_eq!(owned(&live, "ctl"), r#"{"f:spec":{"f:replicas":{},"f:text":{}}}"#);
}
