//! JSON patch: RFC 6902, the API server's deviations from it, and its errors.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use pullpiri_apply::patch::{self, PatchError, PatchKind};
use serde_json::{Value, json};

fn apply(patch: &Value, object: &Value) -> Result<Value, PatchError> {
    patch::apply(PatchKind::Json, patch.to_string().as_bytes(), object, None)
}

#[test]
fn operations() {
    let table = [
        // From the RFC's appendix.
        (
            json!({"foo": "bar"}),
            json!([{"op": "add", "path": "/baz", "value": "qux"}]),
            json!({"baz": "qux", "foo": "bar"}),
        ),
        (
            json!({"foo": ["bar", "baz"]}),
            json!([{"op": "add", "path": "/foo/1", "value": "qux"}]),
            json!({"foo": ["bar", "qux", "baz"]}),
        ),
        (json!({"baz": "qux", "foo": "bar"}), json!([{"op": "remove", "path": "/baz"}]), json!({"foo": "bar"})),
        (
            json!({"foo": ["bar", "qux", "baz"]}),
            json!([{"op": "remove", "path": "/foo/1"}]),
            json!({"foo": ["bar", "baz"]}),
        ),
        (
            json!({"baz": "qux", "foo": "bar"}),
            json!([{"op": "replace", "path": "/baz", "value": "boo"}]),
            json!({"baz": "boo", "foo": "bar"}),
        ),
        (
            json!({"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}}),
            json!([{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}]),
            json!({"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}}),
        ),
        (
            json!({"foo": ["all", "grass", "cows", "eat"]}),
            json!([{"op": "move", "from": "/foo/1", "path": "/foo/3"}]),
            json!({"foo": ["all", "cows", "eat", "grass"]}),
        ),
        (
            json!({"baz": "qux", "foo": ["a", 2, "c"]}),
            json!([{"op": "test", "path": "/baz", "value": "qux"}, {"op": "test", "path": "/foo/1", "value": 2}]),
            json!({"baz": "qux", "foo": ["a", 2, "c"]}),
        ),
        (
            json!({"foo": "bar"}),
            json!([{"op": "add", "path": "/child", "value": {"grandchild": {}}}]),
            json!({"foo": "bar", "child": {"grandchild": {}}}),
        ),
        (
            json!({"foo": "bar"}),
            json!([{"op": "add", "path": "/baz", "value": "qux", "xyz": 123}]),
            json!({"foo": "bar", "baz": "qux"}),
        ),
        (json!({"/": 9, "~1": 10}), json!([{"op": "test", "path": "/~01", "value": 10}]), json!({"/": 9, "~1": 10})),
        (json!({"a/b": 1}), json!([{"op": "replace", "path": "/a~1b", "value": 2}]), json!({"a/b": 2})),
        (
            json!({"foo": ["bar"]}),
            json!([{"op": "add", "path": "/foo/-", "value": ["abc", "def"]}]),
            json!({"foo": ["bar", ["abc", "def"]]}),
        ),
        (
            json!({"a": {"b": 1}}),
            json!([{"op": "copy", "from": "/a", "path": "/c"}]),
            json!({"a": {"b": 1}, "c": {"b": 1}}),
        ),
        (json!({}), json!([]), json!({})),
        (json!({"a": 1}), json!(null), json!({"a": 1})),
        // Deviations.
        (json!({}), json!([{"op": "replace", "path": "/new", "value": 1}]), json!({"new": 1})),
        (json!({"a": [1, 2, 3]}), json!([{"op": "remove", "path": "/a/-1"}]), json!({"a": [1, 2]})),
        (json!({"a": [1, 3]}), json!([{"op": "add", "path": "/a/-2", "value": 2}]), json!({"a": [1, 2, 3]})),
        (json!({}), json!([{"op": "test", "path": "/absent", "value": null}]), json!({})),
        (json!({}), json!([{"op": "test", "path": "/absent"}]), json!({})),
        (json!({}), json!([{"op": "copy", "from": "/absent", "path": "/a"}]), json!({"a": null})),
        (json!({}), json!([{"op": "add", "path": "/a"}]), json!({"a": null})),
        (json!({"a": 1}), json!([{"op": "replace", "path": "", "value": {"b": 1}}]), json!({"b": 1})),
        (json!({"a": 1}), json!([{"op": "test", "path": "", "value": {"a": 1}}]), json!({"a": 1})),
    ];
    for (object, patch, expected) in table {
        assert_eq!(apply(&patch, &object).unwrap(), expected, "{patch} on {object}");
    }
}

#[test]
fn a_patch_that_does_not_fit_is_unprocessable() {
    let object = json!({"a": {"b": 1}, "l": [1], "s": "x", "n": null});
    let table = [
        (
            json!({"op": "test", "path": "/a/b", "value": 2}),
            "operation 0 (test \"/a/b\"): the value is another than the one tested for",
        ),
        (json!({"op": "test", "path": "/a/b", "value": 1.0}), "the value is another than the one tested for"),
        (json!({"op": "test", "path": "/a/b"}), "the value is another"),
        (json!({"op": "remove", "path": "/a/c"}), "there is no key \"c\" to remove"),
        (json!({"op": "remove", "path": "/x/y"}), "there is no \"x\" on the way to \"/x/y\""),
        (json!({"op": "add", "path": "/l/2", "value": 1}), "index 2 is out of bounds of 2 items"),
        (json!({"op": "add", "path": "/l/x", "value": 1}), "\"x\" is not an index"),
        (json!({"op": "remove", "path": "/l/1"}), "index 1 is out of bounds of 1 items"),
        (json!({"op": "replace", "path": "/l/-2", "value": 1}), "index -2 is out of bounds of 1 items"),
        (json!({"op": "add", "path": "/s/x", "value": 1}), "is neither an object nor a list"),
        (json!({"op": "add", "path": "/n/x", "value": 1}), "is neither an object nor a list"),
        (json!({"op": "add", "path": "", "value": {}}), "names no field"),
        (json!({"op": "move", "from": "/a/c", "path": "/d"}), "there is no key \"c\" to remove"),
        (json!({"op": "move", "path": "/d"}), "has no from"),
        (json!({"op": "add", "value": 1}), "has no path"),
        (json!({"op": "replace", "path": "", "value": 1}), "can only be replaced by an object or a list"),
        (json!({"op": "merge", "path": "/a"}), "none of add, remove, replace, move, copy, test"),
        (json!({"path": "/a"}), "none of add, remove, replace, move, copy, test"),
        (json!(null), "none of add, remove, replace, move, copy, test"),
    ];
    for (operation, expected) in table {
        let error = apply(&json!([operation]), &object).unwrap_err();
        assert_eq!(error.to_string(), "the server rejected our request due to an error in our request");
        let PatchError::Unprocessable { detail } = error else { panic!("{operation}: {error:?}") };
        assert!(detail.contains(expected), "{operation}: {detail}");
    }
}

#[test]
fn a_patch_that_is_none_is_malformed() {
    let table = [
        ("", "invalid JSON patch"),
        ("[", "invalid JSON patch"),
        ("{}", "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"),
        ("\"x\"", "error decoding patch: json: cannot unmarshal string into Go value of type []handlers.jsonPatchOp"),
        ("[1]", "error decoding patch: json: cannot unmarshal number into Go value of type handlers.jsonPatchOp"),
        (
            r#"[{"op": 1}]"#,
            "error decoding patch: json: cannot unmarshal number into Go struct field jsonPatchOp.op of type string",
        ),
        (
            r#"[{"op": "add", "path": ["a"]}]"#,
            "error decoding patch: json: cannot unmarshal array into Go struct field jsonPatchOp.path of type string",
        ),
    ];
    for (patch, expected) in table {
        let error = patch::apply(PatchKind::Json, patch.as_bytes(), &json!({}), None).unwrap_err();
        assert_eq!(error, PatchError::Malformed(expected.to_owned()), "{patch}");
    }
}

#[test]
fn ten_thousand_operations_are_the_most() {
    let operations = |count: usize| Value::Array(vec![json!({"op": "add", "path": "/a", "value": 1}); count]);
    assert_eq!(apply(&operations(10_000), &json!({})).unwrap(), json!({"a": 1}));
    assert_eq!(
        apply(&operations(10_001), &json!({})).unwrap_err(),
        PatchError::TooLarge(
            "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001".to_owned()
        )
    );
}

#[test]
fn copies_are_bounded() {
    // Each doubles the document: unbounded, the fortieth would take a terabyte.
    let doubling = |count: usize| -> Value {
        (0..count).map(|n| json!({"op": "copy", "from": "/a", "path": format!("/a/{n}")})).collect()
    };
    assert!(apply(&doubling(16), &json!({"a": {}})).is_ok());
    let PatchError::Unprocessable { detail } = apply(&doubling(40), &json!({"a": {}})).unwrap_err() else {
        panic!("another error")
    };
    assert!(detail.contains("and 3145728 are the most"), "{detail}");
}

#[test]
fn depth_is_bounded() {
    // Three operations for every level.
    let sinking = |levels: usize| -> Value {
        (0..levels)
            .flat_map(|_| {
                [
                    json!({"op": "add", "path": "/b", "value": {}}),
                    json!({"op": "move", "from": "/a", "path": "/b/a"}),
                    json!({"op": "move", "from": "/b", "path": "/a"}),
                ]
            })
            .collect()
    };
    assert!(apply(&sinking(100), &json!({"a": {}})).is_ok());
    let PatchError::Unprocessable { detail } = apply(&sinking(3_000), &json!({"a": {}})).unwrap_err() else {
        panic!("another error")
    };
    assert!(detail.contains("lists and maps stand in each other more than 120 deep"), "{detail}");
    // Moving to and fro is not sinking.
    let moving: Value = (0..5_000)
        .flat_map(|_| {
            [json!({"op": "move", "from": "/a", "path": "/b"}), json!({"op": "move", "from": "/b", "path": "/a"})]
        })
        .collect();
    assert_eq!(apply(&moving, &json!({"a": {"x": [1]}})).unwrap(), json!({"a": {"x": [1]}}));
}

#[test]
fn a_failing_patch_changes_nothing() {
    let object = json!({"a": 1});
    let patch = json!([{"op": "remove", "path": "/a"}, {"op": "test", "path": "/b", "value": 1}]);
    assert!(apply(&patch, &object).is_err());
    assert_eq!(object, json!({"a": 1}));
}
