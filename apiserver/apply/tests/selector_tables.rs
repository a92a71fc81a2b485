//! What selectors select.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use pullpiri_apply::selector::{FieldSelector, LabelSelector};
use serde_json::json;

#[test]
fn label_selectors_match() {
    let labels = json!({"a": "b", "n": "5", "e": "x", "empty": ""});
    let labels = labels.as_object();
    for (selector, expected) in [
        ("", true),
        ("a", true),
        ("!a", false),
        ("!zz", true),
        ("a=b", true),
        ("a==b", true),
        ("a!=b", false),
        ("zz!=b", true),
        ("e in (x,y)", true),
        ("e notin (x,y)", false),
        ("zz notin (x)", true),
        ("zz in (x)", false),
        ("n>4", true),
        ("n>5", false),
        ("n<6", true),
        ("a>1", false),
        ("empty=", true),
        ("a=b,n>4,!zz,e in (x)", true),
        ("a=b,n>5", false),
    ] {
        assert_eq!(LabelSelector::parse(selector).unwrap().matches(labels), expected, "{selector}");
    }
    assert!(!LabelSelector::nothing().matches(labels));
    assert!(
        LabelSelector::parse("a=b").unwrap().matches(labels) && !LabelSelector::parse("a=b").unwrap().matches(None)
    );
}

#[test]
fn label_selector_objects() {
    let object = json!({
        "matchLabels": {"b": "1", "a": "2"},
        "matchExpressions": [{"key": "c", "operator": "In", "values": ["y", "x"]}, {"key": "d", "operator": "DoesNotExist"}],
    });
    assert_eq!(LabelSelector::from_object(&object).unwrap().to_string(), "a=2,b=1,c in (x,y),!d");
    assert!(LabelSelector::from_object(&json!({})).unwrap().is_everything());
    assert!(!LabelSelector::from_object(&json!(null)).unwrap().matches(None));
    for (object, error) in [
        (
            json!({"matchExpressions": [{"key": "a", "operator": "Near"}]}),
            r#""Near" is not a valid label selector operator"#,
        ),
        (
            json!({"matchExpressions": [{"key": "a", "operator": "In"}]}),
            "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty",
        ),
    ] {
        assert_eq!(LabelSelector::from_object(&object).unwrap_err().to_string(), error);
    }
}

#[test]
fn field_selectors_match_and_are_checked() {
    let selector = FieldSelector::parse(r"metadata.name=a\,b,spec.nodeName!=").unwrap();
    let fields = |name: &str| match name {
        "metadata.name" => Some("a,b"),
        "spec.nodeName" => Some("n"),
        _ => None,
    };
    assert!(selector.matches(fields));
    assert!(!selector.matches(|_| None::<&str>));
    assert_eq!(selector.required_value("metadata.name"), Some("a,b"));
    assert_eq!(selector.required_value("spec.nodeName"), None);
    assert_eq!(
        selector.check(|field| field == "metadata.name").unwrap_err().to_string(),
        "field label not supported: spec.nodeName"
    );
    assert!(selector.check(|_| true).is_ok());
}
