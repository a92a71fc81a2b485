//! Names and metadata: what is refused, and how it is said.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use pullpiri_apply::metadata::{NameFormat, Scope, decode::decode, name, validate};
use serde_json::{Value, json};

fn create(metadata: Value, scope: Scope) -> Vec<String> {
    let errors = validate::validate_create(&json!({"metadata": metadata}), scope, NameFormat::Subdomain);
    errors.iter().map(ToString::to_string).collect()
}

fn update(new: Value, old: Value) -> Vec<String> {
    let errors = validate::validate_update(&json!({"metadata": new}), &json!({"metadata": old}));
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn names_by_format() {
    const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
                             start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
                             '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
    const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
                         end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
                         '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
    let long = "a".repeat(254);
    for (format, given, expected) in [
        (NameFormat::Subdomain, "a.b-c", vec![]),
        (NameFormat::Subdomain, "A", vec![SUBDOMAIN]),
        (NameFormat::Subdomain, "", vec![SUBDOMAIN]),
        (NameFormat::Subdomain, &long, vec!["must be no more than 253 characters"]),
        (NameFormat::Label, "a.b", vec!["must not contain dots"]),
        (NameFormat::Label, "-a", vec![LABEL]),
        (NameFormat::PathSegment, "system:node", vec![]),
        (NameFormat::PathSegment, "..", vec!["may not be '..'"]),
        (NameFormat::PathSegment, "a/b%", vec!["may not contain '/'", "may not contain '%'"]),
        (NameFormat::Dns1035Label, "a1", vec![]),
    ] {
        assert_eq!(format.check(given), expected, "{given}");
    }
    assert!(!NameFormat::Dns1035Label.check("1a").is_empty());
    // A prefix may end in a dash, since something follows.
    assert!(NameFormat::Subdomain.check_prefix("web-").is_empty());
    assert!(NameFormat::Subdomain.check_prefix("Web-").len() == 1);
    assert_eq!(name::config_key(".."), ["must not be '..'"]);
    assert_eq!(name::config_key("..a"), ["must not start with '..'"]);
    assert!(name::config_key("a b")[0].starts_with("a valid config key must consist of"));
}

#[test]
fn new_objects() {
    assert!(create(json!({"name": "a", "namespace": "ns"}), Scope::Namespaced).is_empty());
    assert_eq!(create(json!({}), Scope::Cluster), ["metadata.name: Required value: name or generateName is required"]);
    assert_eq!(create(json!({"name": "a"}), Scope::Namespaced), ["metadata.namespace: Required value"]);
    assert_eq!(
        create(json!({"name": "a", "namespace": "b"}), Scope::Cluster),
        ["metadata.namespace: Forbidden: not allowed on this type"]
    );
    let big = "x".repeat(256 * 1024);
    assert_eq!(
        create(json!({"name": "a", "annotations": {"A.b/c": big}}), Scope::Cluster),
        ["metadata.annotations: Too long: may not be more than 262144 bytes"]
    );
    assert_eq!(create(json!({"name": "a", "labels": {"a/b/c": "v", "ok": "-"}}), Scope::Cluster).len(), 2);
    let owner = |name: &str, controller: bool| json!({"apiVersion": "v1", "kind": "K", "name": name, "uid": "u", "controller": controller});
    let two = create(json!({"name": "a", "ownerReferences": [owner("x", true), owner("y", true)]}), Scope::Cluster);
    assert!(
        two[0].ends_with(
            "Only one reference can have Controller set to true. Found \"true\" in references for K/x and K/y"
        ),
        "{two:?}"
    );
    let event = json!({"apiVersion": "v1", "kind": "Event", "name": "e", "uid": "u"});
    let refused = create(json!({"name": "a", "ownerReferences": [event]}), Scope::Cluster);
    assert!(refused[0].ends_with("/v1, Kind=Event is disallowed from being an owner"), "{refused:?}");
    assert_eq!(
        create(json!({"name": "a", "finalizers": ["orphan", "foregroundDeletion"]}), Scope::Cluster),
        [
            r#"metadata.finalizers: Invalid value: ["orphan","foregroundDeletion"]: finalizer orphan and foregroundDeletion cannot be both set"#
        ]
    );
}

#[test]
fn updates() {
    let old = json!({"name": "a", "uid": "u1", "resourceVersion": "1", "generation": 3, "creationTimestamp": "2024-01-01T00:00:00Z"});
    let with = |key: &str, value: Value| {
        let mut new = old.clone();
        new[key] = value;
        update(new, old.clone())
    };
    assert!(update(old.clone(), old.clone()).is_empty());
    assert_eq!(with("uid", json!("u2")), [r#"metadata.uid: Invalid value: "u2": field is immutable"#]);
    assert_eq!(with("name", json!("b")), [r#"metadata.name: Invalid value: "b": field is immutable"#]);
    assert_eq!(
        with("resourceVersion", json!("")),
        [r#"metadata.resourceVersion: Invalid value: "": must be specified for an update"#]
    );
    assert_eq!(with("generation", json!(2)), ["metadata.generation: Invalid value: 2: must not be decremented"]);
    assert_eq!(
        with("deletionTimestamp", json!("2024-01-01T00:00:00Z")),
        [r#"metadata.deletionTimestamp: Invalid value: "2024-01-01T00:00:00Z": field is immutable"#]
    );
    let deleting = json!({"name": "a", "resourceVersion": "1", "deletionTimestamp": "2024-01-01T00:00:00Z", "finalizers": ["x/a"]});
    let mut new = deleting.clone();
    new["finalizers"] = json!(["x/a", "x/c", "x/b"]);
    assert_eq!(
        update(new, deleting.clone()),
        [
            r#"metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{"x/b", "x/c"}"#
        ]
    );
    let mut fewer = deleting.clone();
    fewer["finalizers"] = json!([]);
    assert!(update(fewer, deleting).is_empty());
}

#[test]
fn finalizers_without_a_domain_are_warned_about() {
    let object = json!({"metadata": {"finalizers": ["orphan", "mine", "a.b", "a.b/c"]}});
    let warnings = validate::finalizer_warnings(&object, None);
    assert_eq!(warnings.len(), 2);
    assert!(
        warnings[0]
            .starts_with(r#"metadata.finalizers: "a.b": prefer a domain-qualified finalizer name including a path"#)
    );
    assert!(
        warnings[1].starts_with(r#"metadata.finalizers: "mine": prefer a domain-qualified finalizer name to avoid"#)
    );
    assert!(validate::finalizer_warnings(&object, Some(&object)).is_empty());
}

#[test]
fn decoding_normalises() {
    let mut metadata = json!({
        "name": "a", "labels": {}, "generation": 0, "creationTimestamp": null, "unknown": 1,
        "deletionTimestamp": "2024-01-01T01:00:00.5+01:00", "ownerReferences": [{"name": "o", "extra": 1, "controller": null}],
    });
    assert_eq!(decode(&mut metadata).unwrap(), ["ownerReferences[0].extra", "unknown"]);
    assert_eq!(
        metadata,
        json!({
            "name": "a", "deletionTimestamp": "2024-01-01T00:00:00Z",
            "ownerReferences": [{"apiVersion": "", "kind": "", "name": "o", "uid": ""}],
        })
    );
    let again = metadata.clone();
    assert!(decode(&mut metadata).unwrap().is_empty());
    assert_eq!(metadata, again);
}
