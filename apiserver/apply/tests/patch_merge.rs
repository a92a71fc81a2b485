//! JSON merge patch: RFC 7386 with the API server's treatment of nulls in lists, and its errors.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use pullpiri_apply::patch::{self, PatchError, PatchKind};
use serde_json::{Value, json};

fn apply(patch: &Value, object: &Value) -> Result<Value, PatchError> {
    patch::apply(PatchKind::Merge, patch.to_string().as_bytes(), object, None)
}

#[test]
fn examples_of_the_rfc() {
    // Those whose target and patch are objects: an API object is never anything else.
    let table = [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
        (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
        (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
        (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
        (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        (
            json!({"title": "Goodbye!", "author": {"givenName": "John", "familyName": "Doe"}, "tags": ["example", "sample"], "content": "This will be unchanged"}),
            json!({"title": "Hello!", "phoneNumber": "+01-123-456-7890", "author": {"familyName": null}, "tags": ["example"]}),
            json!({"title": "Hello!", "author": {"givenName": "John"}, "tags": ["example"], "content": "This will be unchanged", "phoneNumber": "+01-123-456-7890"}),
        ),
    ];
    for (object, patch, expected) in table {
        assert_eq!(apply(&patch, &object).unwrap(), expected, "{patch} on {object}");
    }
}

#[test]
fn nulls_in_lists() {
    let table = [
        // A new list loses the nulls in its maps, but not its own.
        (json!({}), json!({"a": [null, {"b": null, "c": 1}]}), json!({"a": [null, {"c": 1}]})),
        (json!({"a": [1]}), json!({"a": [{"b": null}]}), json!({"a": [{}]})),
        // One that replaces a map keeps them.
        (json!({"a": {"x": 1}}), json!({"a": [{"b": null}]}), json!({"a": [{"b": null}]})),
    ];
    for (object, patch, expected) in table {
        assert_eq!(apply(&patch, &object).unwrap(), expected, "{patch} on {object}");
    }
}

#[test]
fn a_patch_that_is_no_object_is_malformed() {
    let table = [
        ("{", "invalid JSON patch"),
        ("null", "Invalid JSON Patch"),
        ("[]", "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"),
        ("\"x\"", "error decoding patch: json: cannot unmarshal string into Go value of type map[string]interface {}"),
        ("true", "error decoding patch: json: cannot unmarshal bool into Go value of type map[string]interface {}"),
    ];
    for (patch, expected) in table {
        let error = patch::apply(PatchKind::Merge, patch.as_bytes(), &json!({}), None).unwrap_err();
        assert_eq!(error, PatchError::Malformed(expected.to_owned()), "{patch}");
    }
}
