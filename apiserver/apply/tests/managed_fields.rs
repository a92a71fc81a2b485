//! Field sets: their wire form and their operations.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use proptest::prelude::*;
use pullpiri_apply::managed::{FieldSet, Path, PathElement};
use serde_json::{Value, json};

fn set(text: &str) -> FieldSet {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn print(set: &FieldSet) -> String {
    serde_json::to_string(set).unwrap()
}

#[test]
fn canonical_sets_stay_as_they_are() {
    let table = [
        "{}",
        r#"{"f:a":{}}"#,
        r#"{"f:a":{".":{},"f:b":{}},"f:c":{}}"#,
        // Fields, keys, values, indices; numbers by size, not by spelling.
        r#"{"f:aa":{},"f:ab":{},"k:{\"name\":\"first\"}":{},"k:{\"port\":80,\"protocol\":\"tcp\"}":{},"k:{\"port\":443,\"protocol\":\"tcp\"}":{},"k:{\"port\":443,\"protocol\":\"udp\"}":{},"v:2":{},"v:10":{},"v:\"aa\"":{},"v:true":{},"i:1":{},"i:10":{}}"#,
        r#"{"f:spec":{".":{},"k:{\"name\":\" app-💻\"}":{".":{},"f:name":{}}}}"#,
        r#"{"v:1.5":{},"v:\"a\\u003cb\"":{}}"#,
        r#"{"f:a:b.c/d":{},"f:with \"quotes\"":{}}"#,
    ];
    for text in table {
        assert_eq!(print(&set(text)), text);
    }
}

#[test]
fn other_spellings_become_canonical() {
    let table = [
        (r#"{"f:b":{},"f:a":{}}"#, r#"{"f:a":{},"f:b":{}}"#),
        (r#"{"k:{ \"protocol\":\"udp\",\"port\":443}":{}}"#, r#"{"k:{\"port\":443,\"protocol\":\"udp\"}":{}}"#),
        (r#"{"v: 3":{},"v:1.0":{}}"#, r#"{"v:1":{},"v:3":{}}"#),
        // Kinds of elements that only a later version knows.
        (r#"{"f:a":{},"r:b":{"f:c":{}}}"#, r#"{"f:a":{}}"#),
        (r#"{"f:a":{"r:b":{}}}"#, r#"{"f:a":{}}"#),
        (r#"{"f:a":null}"#, r#"{"f:a":{}}"#),
        (r#"{"f:a":{".":{"f:b":{}}}}"#, r#"{"f:a":{}}"#),
        ("null", "{}"),
        (r#"{"f:a":{"f:b":{}},"f:a":{}}"#, r#"{"f:a":{".":{},"f:b":{}}}"#),
    ];
    for (text, canonical) in table {
        assert_eq!(print(&set(text)), canonical, "{text}");
    }
}

#[test]
fn what_is_no_set_is_refused() {
    for text in [
        "[]",
        "42",
        r#""x""#,
        "true",
        r#"{"f:a":1}"#,
        r#"{"f:a":[]}"#,
        r#"{"":{}}"#,
        r#"{"x":{}}"#,
        r#"{"field:a":{}}"#,
        r#"{"v:":{}}"#,
        r#"{"v:{":{}}"#,
        r#"{"v:1 2":{}}"#,
        r#"{"k:[]":{}}"#,
        r#"{"k:{\"a\":1}x":{}}"#,
        r#"{"i:x":{}}"#,
        r#"{"i:1.5":{}}"#,
    ] {
        assert!(serde_json::from_str::<FieldSet>(text).is_err(), "{text} was accepted");
    }
}

#[test]
fn paths_print_as_in_conflicts() {
    let set = set(
        r#"{"f:spec":{"f:ports":{".":{},"k:{\"port\":80,\"protocol\":\"TCP\"}":{"f:name":{}}},"f:tags":{"v:\"a\"":{},"i:3":{}}},"f:kind":{}}"#,
    );
    let paths: Vec<String> = set.paths().iter().map(ToString::to_string).collect();
    assert_eq!(
        paths,
        [".kind", ".spec.ports", ".spec.ports[port=80,protocol=\"TCP\"].name", ".spec.tags[=\"a\"]", ".spec.tags[3]",]
    );
    assert_eq!(set.len(), 5);
}

#[test]
fn recursive_difference_takes_what_is_below() {
    let mut all = set(r#"{"f:a":{".":{},"f:b":{".":{},"f:c":{}}},"f:d":{}}"#);
    let mut plain = all.clone();
    let gone = set(r#"{"f:a":{"f:b":{}}}"#);
    plain.subtract(&gone);
    assert_eq!(print(&plain), r#"{"f:a":{".":{},"f:b":{"f:c":{}}},"f:d":{}}"#);
    all.subtract_recursively(&gone);
    assert_eq!(print(&all), r#"{"f:a":{},"f:d":{}}"#);
}

#[test]
fn values_and_text_agree() {
    let text = r#"{"f:a":{".":{},"k:{\"id\":1}":{".":{},"f:id":{}}}}"#;
    let value: Value = serde_json::from_str(text).unwrap();
    assert_eq!(set(text).to_value(), value);
    assert_eq!(serde_json::from_value::<FieldSet>(value).unwrap(), set(text));
}

fn element() -> impl Strategy<Value = PathElement> {
    let scalar = prop_oneof![
        any::<i16>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        "[ -~é<&]{0,4}".prop_map(Value::from),
        (-8_i16..8).prop_map(|n| json!(f64::from(n) / 4.0)),
    ];
    prop_oneof![
        4 => "[a-d\"\\\\.:é\n]{0,2}".prop_map(|name| PathElement::field(&name)),
        1 => scalar.clone().prop_map(PathElement::value),
        1 => proptest::collection::btree_map("[a-c]", scalar, 1..3)
            .prop_map(|fields| PathElement::key(fields.into_iter().collect())),
        1 => (0_i64..12).prop_map(PathElement::Index),
    ]
}

fn paths() -> impl Strategy<Value = BTreeSet<Path>> {
    proptest::collection::btree_set(proptest::collection::vec(element(), 1..4).prop_map(Path), 0..12)
}

fn of(paths: &BTreeSet<Path>) -> FieldSet {
    paths.iter().cloned().collect()
}

fn members(set: &FieldSet) -> BTreeSet<Path> {
    set.paths().into_iter().collect()
}

proptest! {
    #[test]
    fn printing_and_parsing_is_the_identity(paths in paths()) {
        let set = of(&paths);
        prop_assert_eq!(&members(&set), &paths);
        let text = print(&set);
        let again: FieldSet = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&again, &set);
        prop_assert_eq!(print(&again), text);
        let value: FieldSet = serde_json::from_value(set.to_value()).unwrap();
        prop_assert_eq!(value, set);
    }

    #[test]
    fn operations_are_those_of_sets(left in paths(), right in paths()) {
        let (a, b) = (of(&left), of(&right));
        prop_assert_eq!(members(&a.clone().union(b.clone())), left.union(&right).cloned().collect::<BTreeSet<_>>());
        prop_assert_eq!(members(&a.intersection(&b)), left.intersection(&right).cloned().collect::<BTreeSet<_>>());
        let mut difference = a.clone();
        difference.subtract(&b);
        prop_assert_eq!(members(&difference), left.difference(&right).cloned().collect::<BTreeSet<_>>());
        let below = |path: &Path| (1..=path.0.len()).any(|n| right.contains(&Path(path.0[..n].to_vec())));
        let mut recursive = a.clone();
        recursive.subtract_recursively(&b);
        prop_assert_eq!(members(&recursive), left.iter().filter(|path| !below(path)).cloned().collect::<BTreeSet<_>>());
        prop_assert_eq!(a.is_subset(&b), left.is_subset(&right));
        for path in left.iter().chain(&right) {
            prop_assert_eq!(a.has(&path.0), left.contains(path));
        }
        prop_assert_eq!(a == b, left == right);
    }
}
