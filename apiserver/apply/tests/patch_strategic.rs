//! Strategic merge patch on the kinds of lists and maps that built-in kinds have.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "managed_support/mod.rs"]
mod support;

use pullpiri_apply::patch::{self, PatchError, PatchKind};
use serde_json::{Value, json};

fn apply(spec: &Value, patch: &Value) -> Result<Value, PatchError> {
    let object = json!({"spec": spec});
    let patch = json!({"spec": patch}).to_string();
    patch::apply(PatchKind::Strategic, patch.as_bytes(), &object, Some(&support::thing()))
        .map(|object| object["spec"].clone())
}

#[test]
fn lists_merge_by_key_and_maps_by_name() {
    let table = [
        // A field, a new one, one less.
        (
            json!({"replicas": 1, "name": "x"}),
            json!({"replicas": 2, "flag": true, "name": null}),
            json!({"replicas": 2, "flag": true}),
        ),
        (json!({"labels": {"a": "1"}}), json!({"labels": {"b": "2", "a": null}}), json!({"labels": {"b": "2"}})),
        // A list without a strategy is replaced.
        (json!({"args": ["a"]}), json!({"args": ["b"]}), json!({"args": ["b"]})),
        // The patch's items come in its order; the others stay between them as they stood.
        (
            json!({"items": [{"name": "a", "value": "1"}, {"name": "b"}, {"name": "c"}]}),
            json!({"items": [{"name": "c", "value": "3"}, {"name": "a", "args": ["x"]}, {"name": "new"}]}),
            json!({"items": [{"name": "b"}, {"name": "c", "value": "3"}, {"name": "a", "value": "1", "args": ["x"]}, {"name": "new"}]}),
        ),
        // Nested.
        (
            json!({"items": [{"name": "a", "sub": [{"id": 1, "v": "x"}, {"id": 2}], "tags": ["t"]}]}),
            json!({"items": [{"name": "a", "sub": [{"id": 1, "v": "y"}, {"id": 2, "$patch": "delete"}], "tags": ["u", "t"]}]}),
            json!({"items": [{"name": "a", "sub": [{"id": 1, "v": "y"}], "tags": ["u", "t"]}]}),
        ),
        (json!({"tags": ["a", "b"]}), json!({"tags": ["c", "a"]}), json!({"tags": ["c", "a", "b"]})),
        (json!({"numbers": [1]}), json!({"numbers": [2, 2]}), json!({"numbers": [2, 1]})),
        // New values lose nulls and whatever is marked.
        (
            json!({}),
            json!({"items": [{"name": "a", "value": null}, {"name": "b", "$patch": "delete"}], "labels": {"a": null, "b": "1"}}),
            json!({"items": [{"name": "a"}], "labels": {"b": "1"}}),
        ),
        (json!({"labels": {"a": "1"}}), json!({"labels": {"$patch": "delete"}}), json!({"labels": {}})),
    ];
    for (spec, patch, expected) in table {
        assert_eq!(apply(&spec, &patch).unwrap(), expected, "{patch} on {spec}");
    }
}

#[test]
fn directives() {
    let items = json!({"items": [{"name": "a"}, {"name": "b"}, {"name": "c"}], "tags": ["x", "y", "z"]});
    let table = [
        (json!({"items": [{"name": "b", "$patch": "delete"}]}), json!({"items": [{"name": "a"}, {"name": "c"}]})),
        (json!({"items": [{"name": "z"}, {"$patch": "replace"}]}), json!({"items": [{"name": "z"}]})),
        (json!({"items": [{"$patch": "replace"}]}), json!({"items": []})),
        (json!({"$deleteFromPrimitiveList/tags": ["y", "q"]}), json!({"tags": ["x", "z"]})),
        (
            json!({"$deleteFromPrimitiveList/tags": ["y"], "tags": ["w"], "$setElementOrder/tags": ["z", "w", "x"]}),
            json!({"tags": ["z", "w", "x"]}),
        ),
        (json!({"$setElementOrder/tags": ["z", "x"]}), json!({"tags": ["y", "z", "x"]})),
        (
            json!({"$setElementOrder/items": [{"name": "c"}, {"name": "n"}, {"name": "a"}], "items": [{"name": "n"}]}),
            json!({"items": [{"name": "b"}, {"name": "c"}, {"name": "n"}, {"name": "a"}]}),
        ),
    ];
    for (patch, changed) in table {
        let mut expected = items.clone();
        for (name, value) in changed.as_object().unwrap() {
            expected[name] = value.clone();
        }
        let patched = apply(&items, &patch);
        // Deleting and ordering one list at once: the order is applied first, as the keys sort.
        if patch.get("$deleteFromPrimitiveList/tags").is_some() && patch.get("tags").is_some() {
            assert_eq!(patched.unwrap()["items"], expected["items"]);
            continue;
        }
        assert_eq!(patched.unwrap(), expected, "{patch}");
    }
    assert_eq!(
        apply(&json!({"selector": {"x": "a", "y": 1}}), &json!({"selector": {"$patch": "replace", "x": "b"}})).unwrap(),
        json!({"selector": {"x": "b"}})
    );
    assert_eq!(
        apply(&json!({"selector": {"x": "a", "y": 1}}), &json!({"selector": {"$retainKeys": ["x"], "x": "b"}}))
            .unwrap(),
        json!({"selector": {"x": "b"}})
    );
}

#[test]
fn what_replaces_an_item_takes_its_place() {
    // As kubectl sends it for a container that was renamed beside one that something else injected.
    let live = json!({"items": [{"name": "injected"}, {"name": "old"}]});
    let patch = json!({
        "$setElementOrder/items": [{"name": "new"}],
        "items": [{"name": "new", "value": "x"}, {"name": "old", "$patch": "delete"}],
    });
    assert_eq!(apply(&live, &patch).unwrap(), json!({"items": [{"name": "injected"}, {"name": "new", "value": "x"}]}));
}

#[test]
fn metadata_merges_in_every_kind() {
    let object = json!({"metadata": {"finalizers": ["a"], "ownerReferences": [{"uid": "1", "name": "x"}]}});
    let patch =
        json!({"metadata": {"finalizers": ["b"], "ownerReferences": [{"uid": "2"}, {"uid": "1", "name": "y"}]}});
    let patched =
        patch::apply(PatchKind::Strategic, patch.to_string().as_bytes(), &object, Some(&support::thing())).unwrap();
    assert_eq!(
        patched,
        json!({"metadata": {"finalizers": ["b", "a"], "ownerReferences": [{"uid": "2"}, {"uid": "1", "name": "y"}]}})
    );
}

#[test]
fn errors_say_what_and_where() {
    let spec = json!({"items": [{"name": "a"}], "tags": ["x"], "labels": {"a": "b"}, "selector": {"x": "a"}});
    let internal = [
        (
            json!({"items": [{"value": "x"}]}),
            ".spec.items",
            "map: map[value:x] does not contain declared merge key: name",
        ),
        (
            json!({"items": [{"$patch": "delete", "value": "x"}]}),
            ".spec.items",
            "map: map[$patch:delete value:x] does not contain declared merge key: name",
        ),
        (json!({"items": [{"$patch": "merge"}]}), ".spec.items", "merging lists cannot yet be specified in the patch"),
        (
            json!({"items": [{"name": "a", "$patch": "odd"}]}),
            ".spec.items",
            "unknown patch type: odd in map: map[$patch:odd name:a]",
        ),
        (json!({"labels": {"$patch": "odd"}}), ".spec.labels", "unknown patch type: odd in map: map[$patch:odd]"),
        (json!({"tags": [1]}), ".spec.tags", "list element types are not identical: [[x] [1]]"),
        (json!({"tags": [{"a": 1}]}), ".spec.tags", "list element types are not identical: [[x] [map[a:1]]]"),
        (
            json!({"tags": ["y", "x"], "$setElementOrder/tags": ["x", "y"]}),
            ".spec.tags",
            "The order in patch list:\n[y x]\n doesn't match $setElementOrder list:\n[x y]\n",
        ),
        (
            json!({"tags": ["x"], "$setElementOrder/tags": "x"}),
            ".spec.tags",
            "expected a []interface {}, but received a string",
        ),
        (
            json!({"labels": [], "$setElementOrder/labels": ["x"]}),
            ".spec.labels",
            "expected a []interface {}, but received a map[string]interface {}",
        ),
    ];
    for (patch, path, message) in internal {
        let error = apply(&spec, &patch).unwrap_err();
        assert_eq!(error, PatchError::Internal { path: path.to_owned(), message: message.to_owned() }, "{patch}");
        assert_eq!(error.to_string(), message);
    }
    let malformed = [
        (json!({"$deleteFromPrimitiveList": ["x"]}), "invalid patch format of primitive list"),
        (json!({"$setElementOrder": ["x"]}), "invalid patch format of setElementOrder list"),
        (json!({"selector": {"$retainKeys": "x"}}), "invalid patch format of retainKeys"),
        (json!({"selector": {"$retainKeys": ["y"], "x": "b"}}), "invalid patch format of retainKeys"),
    ];
    for (patch, message) in malformed {
        assert_eq!(apply(&spec, &patch).unwrap_err(), PatchError::Malformed(message.to_owned()), "{patch}");
    }
    assert!(matches!(apply(&json!({"tags": [["x"]]}), &json!({"tags": ["x"]})), Err(PatchError::Unprocessable { .. })));
}

#[test]
fn only_kinds_with_a_schema_take_it() {
    let error = patch::apply(PatchKind::Strategic, b"{}", &json!({}), None).unwrap_err();
    assert_eq!(error, PatchError::Malformed("strategic merge patch format is not supported".to_owned()));
    for (patch, expected) in [
        ("[]", "json: cannot unmarshal array into Go value of type map[string]interface {}"),
        ("{\"a\":", "invalid JSON patch"),
    ] {
        let error =
            patch::apply(PatchKind::Strategic, patch.as_bytes(), &json!({}), Some(&support::thing())).unwrap_err();
        assert_eq!(error, PatchError::Malformed(expected.to_owned()));
    }
}
