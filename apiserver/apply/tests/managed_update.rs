//! What updates and patches do to managed fields, rule by rule.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "managed_support/mod.rs"]
mod support;

use pullpiri_apply::managed::{Force, Write, entries, keep_times_if_unchanged, update};
use serde_json::{Value, json};
use support::{Writer, entry, owned, spec, stored};

fn with(object: &Value, change: impl FnOnce(&mut Value)) -> Value {
    let mut object = object.clone();
    change(&mut object);
    object
}

#[test]
fn a_creation_owns_all_but_the_systems_fields() {
    let object = json!({
        "apiVersion": "example.io/v1", "kind": "Thing",
        "metadata": {"name": "thing", "namespace": "ns", "uid": "u", "resourceVersion": "1", "generation": 1, "selfLink": "/x",
            "creationTimestamp": "2026-01-01T00:00:00Z", "generateName": "thing-", "annotations": {"k": "v"}},
        "spec": {"tags": ["a"], "ports": [{"port": 80}]},
    });
    let live = Writer::new("creator").update(None, object);
    assert_eq!(
        owned(&live, "creator"),
        concat!(
            r#"{"f:metadata":{"f:annotations":{".":{},"f:k":{}},"f:generateName":{}},"f:spec":{".":{},"#,
            r#""f:ports":{".":{},"k:{\"port\":80,\"protocol\":\"TCP\"}":{".":{},"f:port":{}}},"f:tags":{".":{},"v:\"a\"":{}}}}"#
        )
    );
    assert_eq!(entry(&live, "creator").unwrap().operation, "Update");
}

#[test]
fn changed_fields_move_to_who_changed_them() {
    let live = Writer::new("one").update(None, spec(json!({"replicas": 1, "name": "x", "tags": ["a", "b"]})));
    let live = Writer::new("two").at(9).update(
        Some(&live),
        with(&live, |new| {
            new["spec"]["replicas"] = json!(2);
            new["spec"]["tags"] = json!(["a", "c"]);
        }),
    );
    assert_eq!(owned(&live, "one"), r#"{"f:spec":{".":{},"f:name":{},"f:tags":{".":{},"v:\"a\"":{}}}}"#);
    assert_eq!(owned(&live, "two"), r#"{"f:spec":{"f:replicas":{},"f:tags":{"v:\"c\"":{}}}}"#);
}

#[test]
fn what_is_gone_is_nobodys_and_who_has_nothing_vanishes() {
    let live = Writer::new("one").update(None, spec(json!({"replicas": 1})));
    let live = Writer::new("two").update(Some(&live), with(&live, |new| new["spec"]["name"] = json!("x")));
    let live = Writer::new("three").update(Some(&live), with(&live, |new| new["spec"] = json!({"replicas": 1})));
    assert_eq!(owned(&live, "two"), "");
    assert_eq!(entries(&live).unwrap().len(), 1, "a mere removal owns nothing");
}

#[test]
fn time_moves_with_changes_only() {
    let live = Writer::new("one").update(None, spec(json!({"replicas": 1})));
    let same = Writer::new("one").at(20).update(Some(&live), live.clone());
    assert_eq!(same, live);
    let live = Writer::new("one").at(30).update(Some(&live), with(&live, |new| new["spec"]["replicas"] = json!(2)));
    assert_eq!(entry(&live, "one").unwrap().time.unwrap(), "2026-01-02T03:04:30Z");
}

#[test]
fn an_equal_number_is_no_change() {
    let live = Writer::new("one").update(None, spec(json!({"ratio": 1})));
    let live = Writer::new("two").update(Some(&live), with(&live, |new| new["spec"]["ratio"] = json!(1.0)));
    assert_eq!(owned(&live, "two"), "");
}

#[test]
fn more_than_ten_updaters_become_ancient() {
    let mut live = Writer::new("u00").at(0).update(None, spec(json!({})));
    for n in 1..=12_u8 {
        live = Writer::new(&format!("u{n:02}"))
            .at(n)
            .update(Some(&live), with(&live, |new| new["spec"]["labels"][format!("l{n:02}")] = json!("x")));
    }
    // A thirteenth of another kind of manager doesn't count.
    live = Writer::new("applier").apply(Some(&live), &spec(json!({"name": "x"})));
    let updaters: Vec<String> = entries(&live)
        .unwrap()
        .into_iter()
        .filter(|entry| entry.operation == "Update")
        .map(|entry| entry.manager)
        .collect();
    assert_eq!(
        updaters,
        ["ancient-changes", "u04", "u05", "u06", "u07", "u08", "u09", "u10", "u11", "u12"].map(str::to_owned)
    );
    assert_eq!(
        owned(&live, "ancient-changes"),
        r#"{"f:spec":{".":{},"f:labels":{".":{},"f:l01":{},"f:l02":{},"f:l03":{}}}}"#
    );
    assert_eq!(entry(&live, "ancient-changes").unwrap().time.unwrap(), "2026-01-02T03:04:03Z");
}

#[test]
fn an_empty_list_gives_up_all_ownership() {
    let live = Writer::new("one").update(None, spec(json!({"replicas": 1})));
    for reset in [json!([]), json!([{}])] {
        let new = with(&live, |new| {
            new["metadata"]["managedFields"] = reset;
            new["spec"]["replicas"] = json!(2);
        });
        let new = Writer::new("two").update(Some(&live), new);
        assert_eq!(new["metadata"].get("managedFields"), None);
        // And nobody is tracked until somebody applies.
        let new = Writer::new("two").update(Some(&new), with(&new, |new| new["spec"]["replicas"] = json!(3)));
        assert_eq!(new["metadata"].get("managedFields"), None);
    }
}

#[test]
fn managed_fields_that_make_no_sense_leave_the_live_ones() {
    let live = Writer::new("one").update(None, spec(json!({"replicas": 1})));
    let nonsense = [
        json!(null),
        json!("x"),
        json!([1]),
        json!([{"manager": 1}]),
        json!([{"manager": "x"}]),
        json!([{"manager": "x", "operation": "Update"}]),
        json!([{"manager": "x", "operation": "Update", "apiVersion": "v1"}]),
        json!([{"manager": "x", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV2"}]),
        json!([{"manager": "x", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "time": "soon"}]),
        json!([{"manager": "x", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"f": {}}}]),
        json!([{"manager": "x", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"k:x": {}}}]),
    ];
    for given in nonsense {
        let new = with(&live, |new| new["metadata"]["managedFields"] = given.clone());
        assert_eq!(Writer::new("two").update(Some(&live), new), live, "{given}");
    }
    // Left out, they stay as well.
    let new = with(&live, |new| {
        new["metadata"].as_object_mut().unwrap().remove("managedFields");
    });
    assert_eq!(Writer::new("two").update(Some(&live), new), live);
}

#[test]
fn managed_fields_may_be_written_but_not_through_a_subresource() {
    let live = Writer::new("one").update(None, spec(json!({"replicas": 1})));
    let new = with(&live, |new| {
        new["metadata"]["managedFields"] = json!([{
            "manager": "x", "operation": "Apply", "apiVersion": "example.io/v1", "time": "2026-01-01T00:00:00.5+01:00",
            "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:replicas": {}}, "z:later": {}},
        }]);
    });
    let written = Writer::new("two").update(Some(&live), new.clone());
    assert_eq!(owned(&written, "x"), r#"{"f:spec":{"f:replicas":{}}}"#);
    assert_eq!(entry(&written, "x").unwrap().time.unwrap(), "2025-12-31T23:00:00Z");
    assert_eq!(owned(&written, "one"), "");
    let kept = Writer::new("two").status().update(Some(&live), new);
    assert_eq!(owned(&kept, "one"), owned(&live, "one"));
    assert_eq!(owned(&kept, "x"), "");
}

#[test]
fn an_object_that_does_not_fit_keeps_its_owners() {
    let live = Writer::new("one").update(None, spec(json!({"replicas": 1})));
    let writer = Writer::new("two");
    let mut new = with(&live, |new| new["spec"]["bogus"] = json!(1));
    let write = Write {
        schema: &writer.schema,
        kind: "Thing",
        manager: &writer.manager,
        time: &writer.time,
        reset: &writer.reset,
    };
    let error = update(Some(&live), &mut new, &write).unwrap_err();
    assert_eq!(
        error.to_string(),
        "failed to convert new object (/thing; example.io/v1, Kind=Thing) to smd typed: .spec.bogus: field not declared in schema"
    );
    assert_eq!(new["metadata"]["managedFields"], live["metadata"]["managedFields"]);
    assert_eq!(new["spec"]["bogus"], json!(1), "the write itself goes on");
    // A time that is none is an error, not an entry.
    let write = Write { time: "noon", ..write };
    let mut new = with(&live, |new| new["spec"]["replicas"] = json!(2));
    let error = update(Some(&live), &mut new, &write).unwrap_err();
    assert_eq!(error.to_string(), "updating managed fields: time \"noon\" in managed fields is not an RFC 3339 time");
}

#[test]
fn status_is_owned_through_its_subresource_alone() {
    let live = Writer::new("user").main().update(None, spec(json!({"replicas": 1})));
    let new = with(&live, |new| {
        new["status"] = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        new["spec"]["replicas"] = json!(5);
        new["metadata"]["labels"] = json!({"a": "b"});
    });
    let live = Writer::new("ctl").status().update(Some(&live), new);
    assert_eq!(
        owned(&live, "ctl"),
        r#"{"f:status":{".":{},"f:conditions":{".":{},"k:{\"type\":\"Ready\"}":{".":{},"f:status":{},"f:type":{}}}}}"#
    );
    // What the subresource doesn't write isn't taken from others either.
    assert_eq!(owned(&live, "user"), r#"{"f:spec":{".":{},"f:replicas":{}}}"#);
}

#[test]
fn entries_of_other_versions_share_the_schema() {
    let live = Writer::new("one").update(None, spec(json!({"replicas": 1, "name": "x"})));
    let live = with(&live, |live| live["metadata"]["managedFields"][0]["apiVersion"] = json!("example.io/v1alpha1"));
    let live = Writer::new("one").update(Some(&live), with(&live, |new| new["spec"]["replicas"] = json!(2)));
    let versions: Vec<(String, String)> = entries(&live)
        .unwrap()
        .into_iter()
        .map(|entry| (entry.api_version, serde_json::to_string(&entry.fields_v1.unwrap()).unwrap()))
        .collect();
    assert_eq!(
        versions,
        [
            ("example.io/v1".to_owned(), r#"{"f:spec":{"f:replicas":{}}}"#.to_owned()),
            ("example.io/v1alpha1".to_owned(), r#"{"f:spec":{".":{},"f:name":{}}}"#.to_owned()),
        ]
    );
}

#[test]
fn parts_of_what_became_atomic_are_owned_as_a_whole() {
    let mut live = stored(spec(json!({"selector": {"x": "a"}, "args": ["a"], "replicas": 1})));
    live["metadata"]["managedFields"] = json!([{
        "manager": "old", "operation": "Apply", "apiVersion": "example.io/v1", "fieldsType": "FieldsV1",
        "fieldsV1": {"f:spec": {"f:selector": {"f:x": {}}, "f:args": {".": {}, "v:\"a\"": {}}, "f:replicas": {}}},
    }]);
    let live = Writer::new("ctl").update(Some(&live), with(&live, |new| new["spec"]["name"] = json!("x")));
    assert_eq!(owned(&live, "old"), r#"{"f:spec":{"f:args":{},"f:replicas":{},"f:selector":{}}}"#);
}

#[test]
fn times_alone_are_no_change() {
    let old = Writer::new("one").update(None, spec(json!({"replicas": 1})));
    let later = with(&old, |new| new["metadata"]["managedFields"][0]["time"] = json!("2026-01-02T03:04:59Z"));
    let mut new = later.clone();
    keep_times_if_unchanged(&old, &mut new);
    assert_eq!(new, old);
    let changed = with(&later, |new| new["spec"]["replicas"] = json!(2));
    let mut new = changed.clone();
    keep_times_if_unchanged(&old, &mut new);
    assert_eq!(new, changed, "a real change keeps its time");
    let fewer = with(&later, |new| new["metadata"]["managedFields"][0]["fieldsV1"] = json!({}));
    let mut new = fewer.clone();
    keep_times_if_unchanged(&old, &mut new);
    assert_eq!(new, fewer, "and so does a change of owners");
}

#[test]
fn an_apply_of_what_is_there_already_has_no_time() {
    let live = Writer::new("one").update(None, spec(json!({"replicas": 1})));
    let applied = Writer::new("two").try_apply(Some(&live), &spec(json!({"replicas": 1})), Force::No).unwrap();
    assert!(applied.changed);
    assert_eq!(entry(&applied.object, "two").unwrap().time, None);
}
